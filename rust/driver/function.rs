// SPDX-License-Identifier: GPL-2.0

//! A PCIe function that is bound to the driver: its queues, its memory, its state.

use kernel::device::Core;
use kernel::pci;
use kernel::prelude::*;
use kernel::sync::atomic::{Acquire, Atomic, Relaxed, Release};
use kernel::sync::Arc;
use kernel::time::delay::fsleep;
use kernel::time::{Delta, Msecs};

use super::memory::Memory;
use super::params::Parameters;
use super::queue::{Command, Failure, Queue, Slot, CHUNK_PAGES};
use super::recovery::Recovery;
use super::regs::{Description, Registers};
use super::stats::Stats;
use crate::sys::abi as hw;
use crate::sys::pci::{Address, BoundDevice, BoundGuard};

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

/// A function.
#[pin_data]
pub(crate) struct Function {
    pub(crate) identity: Identity,
    pub(crate) description: Description,
    pub(crate) stats: Arc<Stats>,
    /// Open files.
    pub(crate) spaces: Atomic<i32>,
    #[pin]
    pub(crate) memory: Memory,
    pub(crate) bound: Arc<BoundDevice>,
    pub(crate) registers: Arc<Registers>,
    /// Ordinary transfers.
    pub(crate) ordinary: Arc<Queue>,
    /// Transfers that shall not wait behind ordinary ones.
    pub(crate) priority: Arc<Queue>,
    parameters: Parameters,
    recovery: Arc<Recovery>,
    /// [`State::number`].
    state: Atomic<u32>,
    /// The device's count of resets when we last looked.
    device_generation: Atomic<u32>,
    /// It was shut down.
    down: Atomic<bool>,
}

impl Function {
    /// How long a queue reset, an interval between two looks, and getting hold of the device for a function
    /// reset may take.
    const RESET_MS: Msecs = 500;
    const LOOK_US: i64 = 100;
    const HOLD_MS: Msecs = 5000;

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
        // Frame numbers are 32 bits: `Description::read` has checked it.
        let frames = u32::try_from(description.mem_bytes / u64::from(hw::VFETCH_PAGE_BYTES))?;
        let device_generation = registers.read32(hw::VFETCH_REG_GENERATION)?;
        let this = Arc::pin_init(
            try_pin_init!(Self {
                identity,
                description,
                stats,
                spaces: Atomic::new(0),
                memory <- Memory::new(frames)?,
                bound: BoundDevice::new(device)?,
                registers,
                ordinary,
                priority,
                parameters,
                recovery,
                state: Atomic::new(State::Recovering.number()),
                device_generation: Atomic::new(device_generation),
                down: Atomic::new(false),
            }),
            GFP_KERNEL,
        )?;
        Ok(this)
    }

    fn queues(&self) -> [&Arc<Queue>; 2] {
        [&self.ordinary, &self.priority]
    }

    /// Resets queues that an earlier driver may have left enabled, starts ours, and scrubs the function's memory.
    pub(crate) fn start(self: &Arc<Self>) -> Result {
        self.recovery.open(self.clone());
        for queue in self.queues() {
            self.reset_queue(queue)?;
        }
        self.scrub_all()?;
        self.state.store(State::Ready.number(), Release);
        Ok(())
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

    // ---- Scrubbing ------------------------------------------------------------------------------

    /// Zeroes ranges of device memory, {first byte, bytes} in whole pages, and waits for it.
    ///
    /// EIO when the device failed to, ENODEV when it is gone: then some may be as they were.
    pub(crate) fn scrub(&self, ranges: impl Iterator<Item = (u64, u64)>) -> Result {
        /// Scrubs in flight together, so that their latencies overlap.
        const DEPTH: usize = 8;
        let most = u64::from(self.description.max_bytes & !(hw::VFETCH_PAGE_BYTES - 1));
        let mut flights: [Option<(Slot<'_>, u64)>; DEPTH] = [const { None }; DEPTH];
        let mut next = 0usize;
        let end = |flight: Option<(Slot<'_>, u64)>| -> Result {
            if let Some((slot, bytes)) = flight {
                slot.wait()?;
                self.stats.scrubbed_bytes.add(bytes);
            }
            Ok(())
        };
        for (first, bytes) in ranges {
            let outer = first.saturating_add(bytes);
            let mut at = first;
            while at < outer {
                let piece = (outer - at).min(most);
                if let Some(flight) = flights.get_mut(next % DEPTH) {
                    end(flight.take())?;
                }
                let command = Command::Scrub {
                    device_addr: at,
                    // CAST: at most `max_bytes`.
                    bytes: piece as u32,
                };
                let slot = loop {
                    let slot = match self.ordinary.reserve(true) {
                        Err(EAGAIN) => {
                            // Nobody waits for a slot while having one: see `Pipeline::slot`.
                            for flight in &mut flights {
                                end(flight.take())?;
                            }
                            self.ordinary.reserve_uninterrupted()?
                        }
                        taken => taken?,
                    };
                    match slot.submit(command, || true) {
                        Ok(()) => break slot,
                        Err(Failure::Recovering) => {}
                        Err(failure) => return Err(failure.into()),
                    }
                };
                if let Some(flight) = flights.get_mut(next % DEPTH) {
                    *flight = Some((slot, piece));
                }
                next = next.wrapping_add(1);
                at += piece;
            }
        }
        for flight in &mut flights {
            end(flight.take())?;
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
        let looks = i64::from(time) * 1000 / Self::LOOK_US;
        for _ in 0..looks {
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
        self.synchronise()?;
        queue.start()
    }

    /// Learns whether the device has scrubbed the function's memory behind our back.
    fn synchronise(&self) -> Result {
        let generation = self.registers.read32(hw::VFETCH_REG_GENERATION)?;
        if self
            .device_generation
            .xchg(generation, kernel::sync::atomic::Full)
            != generation
        {
            self.stats.function_resets.count();
            let lost = self.memory.scrubbed();
            self.stats.lost_pages.add(lost);
        }
        Ok(())
    }

    /// Brings the function back. Runs as work; see [`Recovery`].
    pub(crate) fn recover(&self) {
        let Ok(device) = self.enter() else {
            return;
        };
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
            return;
        }
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
        if self.state() != State::Ready {
            dev_err!(&*device, "the function is beyond recovery: {:?}\n", result);
            self.give_up(&device);
        }
    }

    /// The function cannot be used any more. Keeps the device from host memory, and ends what is in flight.
    fn give_up(&self, device: &pci::Device<kernel::device::Bound>) {
        self.set_state(State::Gone);
        for queue in self.queues() {
            queue.give_up();
        }
        crate::sys::pci::clear_master(device);
        for queue in self.queues() {
            queue.abort(Failure::Gone);
        }
    }

    /// The function is about to be reset by the PCI core.
    pub(crate) fn reset_prepare(&self) {
        self.set_state(State::Recovering);
        for queue in self.queues() {
            queue.stop();
        }
    }

    /// The function was reset. Brings it to work again, or gives it up.
    pub(crate) fn reset_done(&self, device: &pci::Device<kernel::device::Bound>) {
        let before = self.device_generation.load(Relaxed);
        let mut result = Ok(());
        if self.registers.read32(hw::VFETCH_REG_GENERATION) != Ok(before)
            && self.registers.present()
        {
            // It really was: nothing of it touches host memory any more.
            for queue in self.queues() {
                queue.abort(Failure::Aborted);
            }
        }
        for queue in self.queues() {
            // Done with earlier troubles.
            queue.take_sick();
            result = result.and_then(|()| self.reset_queue(queue));
        }
        match result {
            Ok(()) => self.set_state(State::Ready),
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
        if self.down.xchg(true, kernel::sync::atomic::Full) {
            return;
        }
        self.set_state(State::Gone);
        for queue in self.queues() {
            queue.give_up();
        }
        self.recovery.close();
        if self.registers.present() {
            let idle = || self.queues().iter().all(|queue| queue.is_idle());
            self.look(self.parameters.timeout_ms, idle);
            for queue in self.queues() {
                // Errors mean that it is not there any more: then its reset is not done below.
                let _ = queue.ask_reset();
            }
            let done = || self.queues().iter().all(|queue| queue.reset_done());
            if !self.look(Self::RESET_MS, done) && crate::sys::pci::reset_locked(device).is_err() {
                dev_err!(device, "the function cannot be reset\n");
            }
            crate::sys::pci::clear_master(device);
        }
        for queue in self.queues() {
            queue.abort(Failure::Gone);
        }
        self.bound.close();
        for queue in self.queues() {
            queue.free_rings();
        }
    }
}
