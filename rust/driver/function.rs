// SPDX-License-Identifier: GPL-2.0

//! A PCIe function that is bound to the driver: its queues, its memory, its state.

use kernel::device::{Bound, Core, Device};
use kernel::pci;
use kernel::prelude::*;
use kernel::sync::atomic::{Acquire, Atomic, Relaxed};
use kernel::sync::{new_mutex, Arc, Completion, Mutex};
use kernel::time::delay::fsleep;
use kernel::time::{Delta, Instant, Monotonic, Msecs};

use super::address_space::{self, AddressSpaces, Asid};
use super::device_fault::FaultRing;
use super::evict::Room;
use super::memory::Memory;
use super::params::Parameters;
use super::queue::{Command, Failure, Queue, Transfer, CHUNK_PAGES};
use super::recovery::Recovery;
use super::registry;
use super::regs::{Description, Registers};
use super::space::Space;
use super::stats::Stats;
use super::thrash::Unpinner;
use super::trace::Trace;
use super::upkeep::Upkeep;
use crate::engine::owner::TransactionId;
use crate::engine::params::Params;
use crate::engine::prefetch::{FunctionState, Location};
use crate::engine::thrashing;
use crate::sys::abi as hw;
use crate::sys::pci::{Address, BoundDevice, BoundGuard};
use crate::sys::window::BarWindow;
use crate::sys::work::OwnQueue;

/// Who a function is. None of it changes while the module is loaded.
#[derive(Clone, Copy)]
pub(crate) struct Identity {
    /// Its PCI address.
    pub(crate) address: Address,
    /// The address of its PF, if it is a VF.
    pub(crate) physical: Option<Address>,
    /// N of its node `/dev/vfetchN`.
    pub(crate) node: u32,
    /// PCI vendor and device ids.
    pub(crate) vendor: u16,
    pub(crate) device: u16,
}

/// Whether a function can be used. Its numbers are those of `vfetch_info.state`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// It can.
    Ready,
    /// Not now.
    Recovering,
    /// Never again.
    Gone,
}

impl State {
    pub(crate) const fn number(self) -> u32 {
        match self {
            State::Ready => hw::VFETCH_STATE_READY,
            State::Recovering => hw::VFETCH_STATE_RECOVERING,
            State::Gone => hw::VFETCH_STATE_GONE,
        }
    }
}

/// What those who stop and start the queues agree on.
#[derive(Default)]
struct Life {
    /// Resets by the PCI core that have begun and not ended: its own, and one of its PF. Until the last of them has
    /// ended the device may not answer, and nobody else may judge or touch it.
    resets: u32,
    /// It was shut down.
    down: bool,
}

/// What a function's decisions depend on.
pub(crate) struct Prefetcher {
    pub(crate) params: Params,
    pub(crate) state: FunctionState,
}

/// A function.
#[pin_data]
pub(crate) struct Function {
    pub(crate) identity: Identity,
    pub(crate) description: Description,
    pub(crate) stats: Arc<Stats>,
    #[pin]
    pub(crate) trace: Trace,
    /// Spaces of open files.
    #[pin]
    pub(crate) open: Mutex<KVec<Arc<Space>>>,
    /// How many pages of all of them are where, and may be.
    pub(crate) room: Room,
    /// Counts uses of blocks.
    clock: Atomic<u64>,
    /// When the last batches of faults began, and how many there were.
    batches: [Atomic<u64>; Self::LATELY],
    batch: Atomic<u64>,
    /// Spaces that the device knows.
    #[pin]
    pub(crate) spaces: AddressSpaces,
    pub(crate) faults: Arc<FaultRing>,
    /// Where moves are ended that nobody waits for.
    pub(crate) work: Arc<OwnQueue>,
    /// Of moves.
    transactions: Atomic<u64>,
    /// What decides which pages come along.
    #[pin]
    pub(crate) prefetcher: Mutex<KBox<Prefetcher>>,
    /// How pages are kept from thrashing, if they are.
    pub(crate) thrashing: Option<thrashing::Params>,
    pub(crate) unpinner: Arc<Unpinner>,
    /// Its first frames, as processes reach them.
    #[pin]
    pub(crate) window: BarWindow,
    #[pin]
    pub(crate) memory: Memory,
    pub(crate) bound: Arc<BoundDevice>,
    pub(crate) registers: Arc<Registers>,
    /// Ordinary transfers.
    pub(crate) ordinary: Arc<Queue>,
    /// Transfers that shall not wait behind ordinary ones.
    pub(crate) priority: Arc<Queue>,
    /// Jobs, if the device computes.
    pub(crate) compute: Option<Arc<Queue>>,
    parameters: Parameters,
    recovery: Arc<Recovery>,
    pub(crate) upkeep: Arc<Upkeep>,
    /// [`State::number`].
    state: Atomic<u32>,
    /// The device's count of resets when we last looked.
    device_generation: Atomic<u32>,
    #[pin]
    life: Mutex<Life>,
    /// The device does not access host memory any more, for good.
    #[pin]
    silent: Completion,
    /// Nothing of any space is mapped for the device any more, and nothing will be.
    #[pin]
    pub(crate) detached: Completion,
}

/// A range of device memory that is being zeroed.
struct Scrub<'a> {
    transfer: Transfer<'static, &'a Queue, &'a Device<Bound>>,
    at: u64,
    bytes: u64,
}

impl Function {
    /// How long a queue reset, an interval between two looks, and getting hold of the device for a function
    /// reset may take.
    const RESET_MS: Msecs = 500;
    const LOOK_US: i64 = 100;
    const HOLD_MS: Msecs = 5000;
    /// Batches of faults that are served together, as far as eviction goes: as many as a step of a job may need pages.
    const LATELY: usize = 8;
    /// One of so many batches takes nothing away from the last ones.
    const STRICT: u64 = 64;

    /// Makes the function of `device`, which is being bound, with its queues stopped.
    pub(crate) fn new(
        device: &pci::Device<Core<'_>>,
        identity: Identity,
        description: Description,
        registers: Arc<Registers>,
        parameters: Parameters,
    ) -> Result<Arc<Self>> {
        let stats = Arc::new(Stats::new(), GFP_KERNEL)?;
        let recovery = Recovery::new()?;
        let queue = |index, class| {
            Queue::new(
                device.as_ref(),
                (index, class),
                &description,
                parameters,
                registers.clone(),
                stats.clone(),
                recovery.clone(),
            )
        };
        let ordinary = queue(0, hw::VFETCH_CLASS_ORDINARY)?;
        let priority = queue(1, hw::VFETCH_CLASS_PRIORITY)?;
        let compute = if description.has_spaces {
            Some(queue(2, hw::VFETCH_CLASS_COMPUTE)?)
        } else {
            None
        };
        // Frame numbers are 32 bits: `Description::read` has checked it.
        let frames = u32::try_from(description.mem_bytes / u64::from(hw::VFETCH_PAGE_BYTES))?;
        let window_bytes = description.window_bytes.min(description.mem_bytes);
        let device_generation = registers.read32(hw::VFETCH_REG_GENERATION)?;
        let this = Arc::pin_init(
            try_pin_init!(Self {
                identity,
                description,
                stats,
                trace <- Trace::new(),
                open <- new_mutex!(KVec::new(), "vfetch: open spaces"),
                room: Room::new(
                    crate::sys::memory::total_pages() / 2,
                    u64::from(frames),
                ),
                clock: Atomic::new(1),
                batches: [const { Atomic::new(0) }; Self::LATELY],
                batch: Atomic::new(0),
                spaces <- AddressSpaces::new(device.as_ref())?,
                faults: FaultRing::new(device.as_ref(), registers.clone())?,
                transactions: Atomic::new(1),
                prefetcher <- new_mutex!(
                    KBox::new(Prefetcher { params: parameters.prefetch, state: FunctionState::NEW }, GFP_KERNEL)?,
                    "vfetch: prefetcher"
                ),
                thrashing: parameters.thrashing,
                unpinner: Unpinner::new()?,
                window <- BarWindow::new(device, hw::VFETCH_BAR_WINDOW, window_bytes),
                memory <- Memory::new(
                    frames,
                    u32::try_from(window_bytes / u64::from(hw::VFETCH_PAGE_BYTES))?
                )?,
                bound: BoundDevice::new(device)?,
                registers,
                ordinary,
                priority,
                compute,
                work: registry::get().ok_or(ENODEV)?.work(),
                parameters,
                recovery,
                upkeep: Upkeep::new()?,
                state: Atomic::new(State::Recovering.number()),
                device_generation: Atomic::new(device_generation),
                life <- new_mutex!(Life::default(), "vfetch: life"),
                silent <- Completion::new(),
                detached <- Completion::new(),
            }),
            GFP_KERNEL,
        )?;
        Ok(this)
    }

    /// Its queues, in the order of their numbers.
    pub(crate) fn queues(&self) -> impl Iterator<Item = &Arc<Queue>> {
        let all = [
            Some(&self.ordinary),
            Some(&self.priority),
            self.compute.as_ref(),
        ];
        all.into_iter().flatten()
    }

    /// Tells the device where its spaces are, and enables its fault ring. It knows neither.
    fn start_spaces(&self) -> Result {
        if self.description.has_spaces {
            for space in self.spaces.all() {
                space.settle();
            }
            self.registers
                .write64(hw::VFETCH_REG_AS_TABLE, self.spaces.table()?)?;
            // CAST: the number fits.
            self.registers
                .write32(hw::VFETCH_REG_AS_COUNT, address_space::COUNT as u32)?;
            self.faults.stop();
            self.faults.start()?;
        }
        Ok(())
    }

    /// Resets queues that an earlier driver may have left enabled, starts ours, and scrubs the function's memory.
    pub(crate) fn start(self: &Arc<Self>) -> Result {
        self.recovery.open(self.clone());
        self.upkeep.open(self.clone());
        for queue in self.queues() {
            self.reset_queue(queue)?;
        }
        self.faults.open(self.clone());
        if self.description.has_spaces {
            // What the device remembers of an earlier binding, or of another driver: the numbers are used again. (A reset forgets it.)
            self.invalidate_raw(hw::VFETCH_AS_ALL, 0, 0);
        }
        self.start_spaces()?;
        self.scrub_all()?;
        self.set_state(State::Ready);
        self.open_window();
        Ok(())
    }

    /// How long the device may take.
    pub(crate) fn timeout_ms(&self) -> Msecs {
        self.parameters.timeout_ms
    }

    /// Its state.
    pub(crate) fn state(&self) -> State {
        match self.state.load(Acquire) {
            hw::VFETCH_STATE_READY => State::Ready,
            hw::VFETCH_STATE_RECOVERING => State::Recovering,
            _ => State::Gone,
        }
    }

    /// Sets the state, unless the function is gone: that is for ever.
    fn set_state(&self, to: State) {
        let mut now = self.state.load(Relaxed);
        while now != State::Gone.number() {
            match self
                .state
                .cmpxchg(now, to.number(), kernel::sync::atomic::Full)
            {
                Ok(_) => break,
                Err(other) => now = other,
            }
        }
        if to == State::Gone {
            self.trace.end();
        }
    }

    /// Keeps the function bound until the guard is dropped. ENODEV when it is gone.
    pub(crate) fn enter(&self) -> Result<BoundGuard<'_>> {
        if self.state() == State::Gone {
            return Err(ENODEV);
        }
        self.bound.enter().ok_or(ENODEV)
    }

    /// Most pages of a transfer: what the device allows, and what a slot's list can describe.
    pub(crate) fn transfer_pages(&self) -> usize {
        // CAST: u32 to usize keeps the value.
        CHUNK_PAGES.min(self.description.max_sg as usize)
    }

    /// Most bytes of a transfer, in whole pages: one page less, since a buffer that is not aligned has part of one
    /// at either end.
    pub(crate) fn transfer_bytes(&self) -> u32 {
        let page = hw::VFETCH_PAGE_BYTES;
        // CAST: at most CHUNK_PAGES. `Description::read` has checked that there are two.
        let pages = self.transfer_pages().saturating_sub(1) as u32;
        (self.description.max_bytes / page).min(pages) * page
    }

    /// A space was opened. ENOMEM.
    pub(crate) fn opened(&self, space: &Arc<Space>) -> Result {
        Ok(self.open.lock().push(space.clone(), GFP_KERNEL)?)
    }

    /// The space `id` was closed.
    pub(crate) fn closed(&self, id: u32) {
        let space = {
            let mut open = self.open.lock();
            let at = open.iter().position(|space| space.id == id);
            at.and_then(|at| open.remove(at).ok())
        };
        // Not under the lock: it may be the last reference.
        drop(space);
    }

    /// How much of what its spaces have contents for has room in its memory, in percent.
    pub(crate) fn share(&self) -> u8 {
        let contents = self.room.used(Location::Host) + self.room.used(Location::Device);
        let frames = self.room.device_limit.load(Relaxed);
        let percent = frames.saturating_mul(100) / contents.max(1);
        // CAST: at most 100.
        percent.min(100) as u8
    }

    /// A batch of faults begins.
    pub(crate) fn begin_batch(&self) {
        let number = self.batch.fetch_add(1u64, Relaxed);
        // CAST: the remainder is small.
        if let Some(place) = self.batches.get((number % Self::LATELY as u64) as usize) {
            place.store(self.tick(), Relaxed);
        }
    }

    /// Blocks that were used from then on shall stay, since jobs have asked for them lately; `u64::MAX`: all may go.
    ///
    /// Strands that need several pages at once, and ask for one at a time, could take them away from one another for ever. A batch that takes
    /// nothing from the last ones ends that: what finds no frame is reached remotely. It is one in many, since remote
    /// pages stay so for long.
    pub(crate) fn not_lately(&self) -> u64 {
        if self.batch.load(Relaxed) % Self::STRICT != 0 {
            return u64::MAX;
        }
        let times = self.batches.iter().map(|time| time.load(Relaxed));
        times.min().filter(|time| *time > 0).unwrap_or(u64::MAX)
    }

    /// The time, counted in uses of blocks.
    pub(crate) fn tick(&self) -> u64 {
        self.clock.fetch_add(1u64, Relaxed)
    }

    /// How long the link is busy with what this function has given it already.
    pub(crate) fn backlog_ns(&self) -> u64 {
        let flights = u64::from(self.ordinary.in_flight());
        // Mostly pieces of a move.
        let bytes = flights.saturating_mul(64 << 10);
        bytes.saturating_mul(1000) / u64::from(self.description.link_bytes_per_us.max(1))
    }

    /// Gives the device `command`, and waits until it is done. What a reset of the queue ends is tried again.
    fn order(&self, command: impl Fn() -> Command<'static, &'static Device<Bound>>) -> Result {
        const TRIES: u32 = 5;
        let mut outcome = Err(Failure::Aborted);
        for _ in 0..TRIES {
            let slot = self.priority.reserve_uninterrupted()?;
            outcome = match slot.submit(command(), || true) {
                Ok(transfer) => transfer.wait(),
                Err((failure, _)) => Err(failure),
            };
            if !matches!(outcome, Err(Failure::Aborted | Failure::Recovering)) {
                break;
            }
        }
        outcome.map_err(Error::from)
    }

    /// The device forgets what it remembers of `pages` pages of an address space (0: of all) from `page` on. When this returns all accesses
    /// under old entries have been made.
    ///
    /// A device that does not do it, whatever is tried, is given up: then it accesses nothing. One that is given up or unbound meanwhile cannot
    /// be asked any more, and its jobs go on for a while: this returns when it is kept from host memory.
    pub(crate) fn invalidate(&self, asid: Asid, page: u64, pages: u64) {
        self.invalidate_raw(asid.raw().into(), page, pages);
    }

    fn invalidate_raw(&self, asid: u32, page: u64, pages: u64) {
        const TRIES: u32 = 4;
        self.stats.invalidations.count();
        for _ in 0..TRIES {
            match self.order(|| Command::Invalidate { asid, page, pages }) {
                Ok(()) => return,
                // Whoever says so has begun what ends in [`silence`](Self::silence), which waits for nobody who may be here.
                Err(ENODEV) => return self.silent.wait_for_completion(),
                Err(_) => {}
            }
        }
        if let Some(device) = self.bound.enter() {
            dev_err!(&*device, "the device does not forget what it remembers\n");
            self.give_up(&device);
        }
    }

    /// Ends the job of this name. EIO when the device does not: then the queue of jobs is reset.
    pub(crate) fn cancel(&self, transaction: u64) -> Result {
        let result = self.order(|| Command::Cancel { transaction });
        if let (Err(_), Some(compute)) = (&result, &self.compute) {
            compute.call_for_help();
        }
        result
    }

    /// A name for a move that no other has.
    pub(crate) fn next_transaction(&self) -> TransactionId {
        TransactionId(self.transactions.fetch_add(1u64, Relaxed))
    }

    // ---- Scrubbing ------------------------------------------------------------------------------

    /// Zeroes ranges of device memory, {first byte, bytes} in whole pages, and waits for it.
    ///
    /// EIO when the device failed to, ENODEV when it is gone: then some may be as they were.
    pub(crate) fn scrub(&self, ranges: impl Iterator<Item = (u64, u64)>) -> Result {
        /// Scrubs in flight together, so that their latencies overlap.
        const DEPTH: usize = 8;
        // One waits for those before it: a queue full of them, from several callers, shall end well within the time-out.
        let in_time = u64::from(self.description.mem_bytes_per_us)
            .saturating_mul(u64::from(self.parameters.timeout_ms) * 1000)
            / (4 * u64::from(self.ordinary.slots()));
        let page = u64::from(hw::VFETCH_PAGE_BYTES);
        let most = u64::from(self.description.max_bytes).min(in_time).max(page) / page * page;
        let mut flights: [Option<Scrub<'_>>; DEPTH] = [const { None }; DEPTH];
        let mut next = 0usize;
        for (first, bytes) in ranges {
            let outer = first.saturating_add(bytes);
            let mut at = first;
            while at < outer {
                let piece = (outer - at).min(most);
                let busy = flights
                    .get_mut(next % DEPTH)
                    .is_some_and(|flight| flight.is_some());
                if busy {
                    // All of them: what has to be done again is done with no slot in hand.
                    self.end_scrubs(&mut flights)?;
                }
                let started = match self.start_scrub(at, piece, true) {
                    Err(EAGAIN) => {
                        // Nobody waits for a slot while having one: see `Pipeline::slot`.
                        self.end_scrubs(&mut flights)?;
                        self.start_scrub(at, piece, false)?
                    }
                    started => started?,
                };
                if let Some(flight) = flights.get_mut(next % DEPTH) {
                    *flight = Some(started);
                }
                next = next.wrapping_add(1);
                at += piece;
            }
        }
        self.end_scrubs(&mut flights)
    }

    /// Starts to zero `bytes` from `at`. EAGAIN, if `nonblocking`, when there is no slot.
    fn start_scrub(&self, at: u64, bytes: u64, nonblocking: bool) -> Result<Scrub<'_>> {
        let mut command: Command<'static, &Device<Bound>> = Command::Scrub {
            device_addr: at,
            // CAST: at most `max_bytes`.
            bytes: bytes as u32,
        };
        loop {
            let slot = if nonblocking {
                self.ordinary.reserve(true)?
            } else {
                self.ordinary.reserve_uninterrupted()?
            };
            match slot.submit(command, || true) {
                Ok(transfer) => {
                    return Ok(Scrub {
                        transfer,
                        at,
                        bytes,
                    })
                }
                Err((Failure::Recovering, again)) if !nonblocking => command = again,
                Err((failure, _)) => return Err(failure.into()),
            }
        }
    }

    /// Waits for `flights`. What a reset of the queue has ended, because of somebody else's descriptor perhaps, is done again.
    fn end_scrubs<'a, const N: usize>(&'a self, flights: &mut [Option<Scrub<'a>>; N]) -> Result {
        const TRIES: u32 = 3;
        let mut again = [(0u64, 0u64); N];
        for (flight, again) in flights.iter_mut().zip(&mut again) {
            if let Some(scrub) = flight.take() {
                match scrub.transfer.wait() {
                    Ok(()) => self.stats.scrubbed_bytes.add(scrub.bytes),
                    Err(Failure::Aborted) => *again = (scrub.at, scrub.bytes),
                    Err(failure) => return Err(failure.into()),
                }
            }
        }
        for (at, bytes) in again.into_iter().filter(|(_, bytes)| *bytes > 0) {
            let mut outcome = Err(Failure::Aborted);
            for _ in 0..TRIES {
                if outcome == Err(Failure::Aborted) {
                    outcome = self.start_scrub(at, bytes, false)?.transfer.wait();
                }
            }
            outcome?;
            self.stats.scrubbed_bytes.add(bytes);
        }
        Ok(())
    }

    /// Zeroes the whole memory: who had the function before us may have left something there.
    fn scrub_all(&self) -> Result {
        let page = u64::from(hw::VFETCH_PAGE_BYTES);
        let whole = (0, self.description.mem_bytes / page * page);
        self.scrub(core::iter::once(whole))
    }

    // ---- Recovery -------------------------------------------------------------------------------

    /// Looks every so often until `done`, for at most `time`.
    fn look(&self, time: Msecs, mut done: impl FnMut() -> bool) -> bool {
        let start = Instant::<Monotonic>::now();
        while start.elapsed() < Delta::from_millis(i64::from(time)) {
            if done() {
                return true;
            }
            fsleep(Delta::from_micros(Self::LOOK_US));
        }
        done()
    }

    /// Resets a queue of the device and starts it again. What was in flight fails; the device's
    /// memory stays. EIO when the device does not acknowledge it: then what was in flight is
    /// still in flight.
    fn reset_queue(&self, queue: &Queue) -> Result {
        queue.stop();
        queue.ask_reset()?;
        if !self.look(Self::RESET_MS, || queue.reset_done()) {
            return Err(EIO);
        }
        queue.abort(Failure::Aborted);
        // Done with earlier troubles: what timed out meanwhile has ended.
        queue.take_sick();
        self.synchronise()?;
        queue.start()
    }

    /// Learns whether the device has scrubbed the function's memory behind our back.
    fn synchronise(&self) -> Result {
        let generation = self.registers.read32(hw::VFETCH_REG_GENERATION)?;
        // In this order: what an absent device reads as is no generation.
        if !self.registers.present() {
            return Err(ENODEV);
        }
        if self
            .device_generation
            .xchg(generation, kernel::sync::atomic::Full)
            != generation
        {
            self.stats.function_resets.count();
            // It is, unless nobody has told us of the reset before.
            self.close_window();
            self.lose_memory();
        }
        Ok(())
    }

    /// Brings the function back. Runs as work; see [`Recovery`].
    pub(crate) fn recover(&self) {
        let Ok(device) = self.enter() else {
            return;
        };
        let life = self.life.lock();
        if life.resets > 0 || life.down {
            // Who resets it, or shuts it down, sees to the queues.
            return;
        }
        if !self.registers.present() {
            dev_err!(&*device, "the device does not answer any more\n");
            self.give_up(&device);
            return;
        }
        let mut helped = true;
        for queue in self.queues() {
            if queue.take_sick() {
                self.set_state(State::Recovering);
                self.stats.queue_resets.count();
                dev_warn!(
                    &*device,
                    "resetting queue {} with {} transfers in flight\n",
                    queue.index(),
                    queue.in_flight()
                );
                helped &= self.reset_queue(queue).is_ok();
            }
        }
        if helped {
            self.set_state(State::Ready);
            self.open_window();
            return;
        }
        // The callbacks of the reset take it.
        drop(life);
        dev_warn!(
            &*device,
            "the queue reset did not help, resetting the function\n"
        );
        let mut result = Err(EAGAIN);
        let device_ref = self.bound.device();
        for _ in 0..Self::HOLD_MS / 10 {
            // The callbacks below do the rest.
            result = crate::sys::pci::try_reset_function(device_ref);
            // The lock cannot be had while the function is being unbound: then it is not ours to save.
            if result != Err(EAGAIN) || self.state() == State::Gone {
                break;
            }
            fsleep(Delta::from_millis(10));
        }
        let life = self.life.lock();
        // A reset that is under way decides itself, and so does who unbinds it.
        if self.state() == State::Recovering && life.resets == 0 {
            dev_err!(&*device, "the function is beyond recovery: {:?}\n", result);
            self.give_up(&device);
        }
    }

    /// The function cannot be used any more. Keeps the device from host memory, and ends what is in flight.
    pub(crate) fn give_up(&self, device: &pci::Device<kernel::device::Bound>) {
        self.set_state(State::Gone);
        self.close_window();
        for queue in self.queues() {
            queue.give_up();
        }
        self.silence(device);
        self.lose_memory();
        for queue in self.queues() {
            queue.abort(Failure::Gone);
        }
    }

    /// Keeps the device from host memory. Those go on who want it to forget what it remembers of that.
    fn silence(&self, device: &pci::Device<kernel::device::Bound>) {
        crate::sys::pci::clear_master(device);
        self.silent.complete_all();
    }

    /// Nobody reaches the function's memory any more: what is there is lost.
    fn lose_memory(&self) {
        let lost = self.memory.scrubbed();
        self.stats.lost_pages.add(lost);
    }

    /// The function is about to be reset by the PCI core.
    ///
    /// Resets may overlap (a VF's own and its PF's): each is prepared and done once.
    pub(crate) fn reset_prepare(&self) {
        let mut life = self.life.lock();
        life.resets = life.resets.saturating_add(1);
        self.set_state(State::Recovering);
        self.close_window();
        for queue in self.queues() {
            queue.stop();
        }
    }

    /// Processes may reach the function's memory through the window.
    fn open_window(&self) {
        self.window.open();
        if self.state() == State::Gone {
            // Whoever said so may have closed it before.
            self.close_window();
        }
    }

    /// Nobody reaches the function's memory through the window any more, which is closed: before what is there is scrubbed, or is another's.
    fn close_window(&self) {
        self.window.close();
        // By their numbers: others come and go.
        let mut last = None;
        loop {
            let next = {
                let open = self.open.lock();
                let later = open.iter().filter(|space| Some(space.id) > last);
                later.min_by_key(|space| space.id).cloned()
            };
            let Some(space) = next else {
                break;
            };
            space.unmap_windows();
            last = Some(space.id);
        }
    }

    /// Whether the device has scrubbed the function's memory since we last looked: whether a reset really was one.
    pub(crate) fn was_scrubbed(&self) -> bool {
        let before = self.device_generation.load(Relaxed);
        let now = self.registers.read32(hw::VFETCH_REG_GENERATION);
        // In this order: what an absent device reads as is no generation.
        self.registers.present() && now != Ok(before)
    }

    /// The function was reset. Brings it to work again, or gives it up, as it does at once if `fit` is an error.
    pub(crate) fn reset_done(&self, device: &pci::Device<kernel::device::Bound>, fit: Result) {
        let mut life = self.life.lock();
        life.resets = life.resets.saturating_sub(1);
        if life.resets > 0 || life.down || self.state() == State::Gone {
            return;
        }
        if self.was_scrubbed() {
            // It really was reset: nothing of it touches host memory any more.
            for queue in self.queues() {
                queue.abort(Failure::Aborted);
            }
        }
        let mut result = fit;
        for queue in self.queues() {
            result = result.and_then(|()| self.reset_queue(queue));
        }
        match result.and_then(|()| self.start_spaces()) {
            Ok(()) => {
                self.set_state(State::Ready);
                self.open_window();
            }
            Err(error) => {
                dev_err!(device, "the function does not come back: {:?}\n", error);
                self.give_up(device);
            }
        }
    }

    // ---- The end --------------------------------------------------------------------------------

    /// Ends everything, before the function is unbound: when this returns, nobody uses the device.
    ///
    /// To be called with the device's lock held, as probe and unbind are. A second call does nothing.
    pub(crate) fn shut_down(&self, device: &pci::Device<kernel::device::Bound>) {
        self.set_state(State::Gone);
        self.close_window();
        for queue in self.queues() {
            queue.give_up();
        }
        // Not with the lock, which the recovery takes.
        self.recovery.close();
        self.faults.stop();
        self.faults.close();
        let mut life = self.life.lock();
        if core::mem::replace(&mut life.down, true) {
            return;
        }
        if self.registers.present() {
            let idle = || self.queues().all(|queue| queue.is_idle());
            self.look(self.parameters.timeout_ms, idle);
            for queue in self.queues() {
                // Errors mean that it is not there any more: then its reset is not done below.
                let _ = queue.ask_reset();
            }
            let done = || self.queues().all(|queue| queue.reset_done());
            if !self.look(Self::RESET_MS, done) && crate::sys::pci::reset_locked(device).is_err() {
                dev_err!(device, "the function cannot be reset\n");
            }
        }
        self.silence(device);
        self.lose_memory();
        for queue in self.queues() {
            queue.abort(Failure::Gone);
        }
        drop(life);
        // Nothing keeps them waiting any more.
        self.unpinner.close();
        self.upkeep.close();
        self.bound.close();
        for space in self.spaces.all() {
            space.detach(device);
        }
        self.detached.complete_all();
        self.spaces.free();
        self.faults.free();
        for queue in self.queues() {
            queue.free_rings();
        }
    }
}
