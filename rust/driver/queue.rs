// SPDX-License-Identifier: GPL-2.0

//! A queue pair: slots, descriptors in, completions out.
//!
//! A *slot* is the right to have one descriptor in flight, with a scatter list of its own. Whoever
//! has one ([`Slot`]) submits a descriptor and waits for its end. The end is a completion, or the knowledge that the
//! device will not touch the descriptor's memory any more: until then the slot, and the memory that
//! its owner described, stay as they are.
//!
//! # Interrupts
//!
//! A small transfer ends sooner than a task can be put to sleep and woken. Who waits for one looks at
//! the completion ring itself for a while ([`Spin`]). The queue's interrupt is armed only while somebody sleeps: the
//! device sends one message and then none until it is armed again, at once if there is a
//! completion that it has not been told we saw.

use core::mem::offset_of;
use core::ops::Deref;

use kernel::device::{Bound, Device};
use kernel::prelude::*;
use kernel::sync::atomic::{Acquire, Atomic, Full, Relaxed, Release};
use kernel::sync::{new_spinlock_irq, Arc, SpinLockIrq};
use kernel::time::{Delta, Msecs};

use super::params::Parameters;
use super::recovery::Recovery;
use super::regs::{Description, Registers};
use super::stats::Stats;
use crate::sys::abi as hw;
use crate::sys::eventfd::EventFd;
use crate::sys::host_memory::{HostMemory, KeepsBound};
use crate::sys::irq::InterruptHandler;
use crate::sys::pci::BoundHold;
use crate::sys::ring::SharedArray;
use crate::sys::wait::{new_wait_queue, spin, Poll, Signals, WaitQueue, Waited};

/// Most pages of one transfer between user memory and the device, the partial ones at either end
/// included.
///
/// 128 KiB: with larger transfers preparing the first one, and letting the last one go, takes longer than
/// what is saved in between.
pub(crate) const CHUNK_PAGES: usize = 33;

/// Entries of a slot's scatter list: each page may need one.
const SLOT_SG: usize = CHUNK_PAGES;

/// Names one descriptor among all that a function has ever been given.
///
/// The slot is in the lower 16 bits, so that a completion finds it; the rest is a number that is never
/// used again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct TransactionId(u64);

impl TransactionId {
    fn new(number: u64, slot: u16) -> Self {
        Self(number << 16 | u64::from(slot))
    }

    fn slot(self) -> usize {
        // CAST: the lower 16 bits.
        usize::from(self.0 as u16)
    }
}

/// What a descriptor shall do.
pub(crate) enum Command<'data, D: KeepsBound> {
    /// Device memory to host memory.
    Read {
        device_addr: u64,
        host: HostMemory<'data, D>,
    },
    /// Host memory to device memory.
    Write {
        device_addr: u64,
        host: HostMemory<'data, D>,
    },
    /// Zeros into device memory.
    Scrub { device_addr: u64, bytes: u32 },
    /// The device forgets what it remembers of pages of an address space (`pages` 0: of all), and ends accesses under way.
    Invalidate { asid: u32, page: u64, pages: u64 },
    /// The job of this name ends.
    Cancel { transaction: u64 },
}

/// Why a descriptor could not be submitted, or did not do what it should.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Failure {
    /// The queue is being reset. Try again when that is over.
    Recovering,
    /// The function was reset since the caller looked up what it wants to transfer.
    Stale,
    /// The device refused or failed it; the status is one of `VFETCH_STATUS_*`.
    Status(u16),
    /// Its queue was reset while it was in flight.
    Aborted,
    /// The device is gone.
    Gone,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure {
            Failure::Gone => ENODEV,
            Failure::Recovering => EAGAIN,
            Failure::Stale | Failure::Status(_) | Failure::Aborted => EIO,
        }
    }
}

/// Where a slot is in its life.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SlotState {
    /// Nobody has it, or nothing is in flight.
    Idle,
    /// The device has its descriptor of so many bytes; `None`: a job.
    InFlight {
        id: TransactionId,
        bytes: Option<u32>,
        /// Its owner sleeps until it ends.
        sleeping: bool,
    },
    /// It ended.
    Done(End),
}

/// How a descriptor ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) outcome: Result<(), Failure>,
    /// Of a job.
    pub(crate) value: u64,
    /// By the device's clock.
    pub(crate) time_ns: u64,
}

impl End {
    /// Without a completion.
    const fn of(failure: Failure) -> Self {
        Self {
            outcome: Err(failure),
            value: 0,
            time_ns: 0,
        }
    }
}

/// Who is told that a job has ended, and how.
pub(crate) struct Notice {
    pub(crate) outcome: Arc<JobOutcome>,
    pub(crate) events: Arc<Events>,
    pub(crate) eventfd: Option<EventFd>,
}

/// How a job ended, once it has. It does not keep the slot that the job had.
#[pin_data]
pub(crate) struct JobOutcome {
    #[pin]
    end: SpinLockIrq<Option<End>>,
    over: Atomic<bool>,
    #[pin]
    ended: WaitQueue,
}

impl JobOutcome {
    /// Of a job that has not ended. ENOMEM.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                end <- new_spinlock_irq!(None, "vfetch: end of a job"),
                over: Atomic::new(false),
                ended <- new_wait_queue!("vfetch: a job"),
            }),
            GFP_KERNEL,
        )
    }

    /// It has ended.
    fn set(&self, end: End) {
        *self.end.lock() = Some(end);
        self.over.store(true, Release);
        self.ended.wake_all();
    }

    /// Whether it has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Acquire)
    }

    /// Waits until it has, for at most `time`.
    pub(crate) fn wait(&self, signals: Signals, time: Option<Msecs>) -> Waited {
        self.ended.wait(signals, time, || self.is_over())
    }

    /// How it ended.
    pub(crate) fn end(&self) -> Option<End> {
        *self.end.lock()
    }
}

/// What those who poll a space wait for, beside slots: that a job ends, or that there is something to read of its trace.
///
/// One queue for both: io_uring's requests fail with files that are polled by more than two.
#[pin_data]
pub(crate) struct Events {
    #[pin]
    pub(crate) happened: WaitQueue,
}

impl Events {
    /// Nothing has happened. ENOMEM.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                happened <- new_wait_queue!("vfetch: events"),
            }),
            GFP_KERNEL,
        )
    }
}

impl SlotState {
    /// Whether descriptor `id` is in flight here.
    fn is_of(&self, id: TransactionId) -> bool {
        matches!(self, SlotState::InFlight { id: mine, .. } if *mine == id)
    }
}

/// What can be seen of a slot without the queue's lock.
#[pin_data]
struct Waiter {
    /// Nothing is in flight.
    over: Atomic<bool>,
    #[pin]
    ended: WaitQueue,
}

/// Whether waiting for a completion without sleeping is worth the while.
///
/// It is for transfers that take less than the limit, as the link's latency and rate have it; and only as long as that
/// turns out right: a device that is slower than it says is soon waited for asleep, and tried again now and then.
struct Spin {
    limit: Delta,
    latency_ns: u32,
    bytes_per_us: u32,
    /// Waits to go without spinning.
    pause: Atomic<u32>,
    /// How often in a row it was in vain.
    vain: Atomic<u32>,
}

impl Spin {
    /// Failures in a row after which it pauses, and for how many waits.
    const PATIENCE: u32 = 4;
    const PAUSE: u32 = 64;

    /// How long to spin for a transfer of `bytes` behind `ahead` others like it, if at all.
    fn time(&self, bytes: u32, ahead: u32) -> Option<Delta> {
        let pause = self.pause.load(Relaxed);
        if pause > 0 {
            self.pause.store(pause - 1, Relaxed);
            return None;
        }
        let all = u64::from(bytes) * (u64::from(ahead) + 1);
        let moving = all * 1000 / u64::from(self.bytes_per_us.max(1));
        let expected = u64::from(self.latency_ns).saturating_add(moving);
        let expected = Delta::from_nanos(i64::try_from(expected).ok()?);
        (expected <= self.limit).then_some(self.limit)
    }

    /// Learns whether it was worth it.
    fn learn(&self, worth: bool) {
        if worth {
            self.vain.store(0, Relaxed);
            return;
        }
        let vain = self.vain.load(Relaxed).saturating_add(1);
        self.vain.store(vain, Relaxed);
        if vain >= Self::PATIENCE {
            self.pause.store(Self::PAUSE, Relaxed);
        }
    }
}

/// What may be submitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    /// Everything.
    Running,
    /// Nothing for now.
    Stopped,
    /// Nothing ever again.
    Gone,
}

/// The memory that the queue and the device share.
struct Rings {
    submissions: SharedArray<hw::vfetch_desc>,
    completions: SharedArray<hw::vfetch_completion>,
    /// [`SLOT_SG`] entries for each slot; of a queue for jobs one.
    lists: SharedArray<hw::vfetch_sg>,
    /// One for each slot of a queue for jobs; else one.
    jobs: SharedArray<hw::vfetch_job>,
}

/// What the queue's lock protects.
struct Inner {
    mode: Mode,
    /// `None` once the function is unbound.
    rings: Option<Rings>,
    states: KVec<SlotState>,
    /// Who is told of the end of a slot's job; of one that has ended, until the slot has another.
    notices: KVec<Option<Notice>>,
    /// Slots that nobody has.
    free: KVec<u16>,
    /// Who waits for a slot.
    waiting: u32,
    /// Free slots that belong to those who wait, in turn: one has been woken for each. At most `waiting`.
    granted: u32,
    /// Free-running, as the device counts.
    sq_tail: u16,
    cq_head: u16,
    /// The head that the device was told last.
    cq_told: u16,
    /// Owners of slots that sleep.
    sleepers: u32,
    /// The next transaction's number.
    number: u64,
}

/// One of a function's queue pairs.
#[pin_data]
pub(crate) struct Queue {
    index: u32,
    class: u32,
    order: u32,
    timeout_ms: Msecs,
    registers: Arc<Registers>,
    stats: Arc<Stats>,
    recovery: Arc<Recovery>,
    #[pin]
    inner: SpinLockIrq<Inner>,
    /// How many slots are in flight; what unbinding waits for.
    in_flight: Atomic<i32>,
    /// It did not answer in time, or stopped: the recovery shall reset it.
    sick: Atomic<bool>,
    waiters: KVec<Pin<KBox<Waiter>>>,
    spin: Spin,
    /// Waited on for a free slot and for another mode.
    #[pin]
    changed: WaitQueue,
    /// The same, by pollers. They may be exclusive: beside those who wait in turn they would take their wake-ups.
    #[pin]
    pollers: WaitQueue,
}

impl Queue {
    /// Makes queue pair `index` with its rings, stopped.
    ///
    /// The rings must be freed ([`free_rings`](Self::free_rings)) before the device is unbound.
    pub(crate) fn new(
        device: &Device<Bound>,
        (index, class): (u32, u32),
        description: &Description,
        parameters: Parameters,
        registers: Arc<Registers>,
        stats: Arc<Stats>,
        recovery: Arc<Recovery>,
    ) -> Result<Arc<Self>> {
        let order = parameters.queue_order.min(description.max_order);
        let slots = 1usize << order;
        let (lists, jobs) = match class {
            hw::VFETCH_CLASS_COMPUTE => (1, slots),
            _ => (slots * SLOT_SG, 1),
        };
        let rings = Rings {
            submissions: SharedArray::new(device, slots)?,
            completions: SharedArray::new(device, slots)?,
            lists: SharedArray::new(device, lists)?,
            jobs: SharedArray::new(device, jobs)?,
        };
        let mut notices = KVec::with_capacity(slots, GFP_KERNEL)?;
        let mut waiters = KVec::with_capacity(slots, GFP_KERNEL)?;
        let mut free = KVec::with_capacity(slots, GFP_KERNEL)?;
        for slot in (0..slots).rev() {
            let waiter = pin_init!(Waiter {
                over: Atomic::new(true),
                ended <- new_wait_queue!("vfetch: a transfer"),
            });
            waiters.push(KBox::pin_init(waiter, GFP_KERNEL)?, GFP_KERNEL)?;
            free.push(u16::try_from(slot)?, GFP_KERNEL)?;
            notices.push(None, GFP_KERNEL)?;
        }
        let inner = Inner {
            mode: Mode::Stopped,
            rings: Some(rings),
            states: KVec::from_elem(SlotState::Idle, slots, GFP_KERNEL)?,
            notices,
            free,
            waiting: 0,
            granted: 0,
            sq_tail: 0,
            cq_head: 0,
            cq_told: 0,
            sleepers: 0,
            number: 1,
        };
        let spin = Spin {
            limit: Delta::from_micros(i64::from(parameters.spin_us)),
            latency_ns: description.link_latency_ns,
            bytes_per_us: description.link_bytes_per_us,
            pause: Atomic::new(0),
            vain: Atomic::new(0),
        };
        Arc::pin_init(
            try_pin_init!(Self {
                index,
                class,
                order,
                timeout_ms: parameters.timeout_ms,
                registers,
                stats,
                recovery,
                inner <- new_spinlock_irq!(inner, "vfetch: queue"),
                in_flight: Atomic::new(0),
                sick: Atomic::new(false),
                waiters,
                spin,
                changed <- new_wait_queue!("vfetch: queue"),
                pollers <- new_wait_queue!("vfetch: pollers"),
            }),
            GFP_KERNEL,
        )
    }

    /// Its number among the queues of its function.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Slots of the queue.
    pub(crate) fn slots(&self) -> u32 {
        1 << self.order
    }

    /// Descriptors that are in flight.
    pub(crate) fn in_flight(&self) -> u32 {
        u32::try_from(self.in_flight.load(Relaxed)).unwrap_or(0)
    }

    /// The offset in BAR0 of this queue's register `register`.
    fn register(&self, register: u32) -> u32 {
        hw::VFETCH_QUEUE_BASE + self.index * hw::VFETCH_QUEUE_STRIDE + register
    }

    fn mask(&self) -> u16 {
        // CAST: the order is at most 12.
        (1u32 << self.order).wrapping_sub(1) as u16
    }

    // ---- Using it -------------------------------------------------------------------------------

    /// Waits until the queue is running and takes a free slot. First come, first served.
    ///
    /// EAGAIN when that would mean to wait and `nonblocking`; ERESTARTSYS when a signal came first;
    /// ENODEV when the device is gone.
    pub(crate) fn reserve(&self, nonblocking: bool) -> Result<Slot<&Self>> {
        let slot = self.reserve_with(nonblocking, Signals::Any)?;
        Ok(Slot { queue: self, slot })
    }

    /// The same for work that must be done whatever signals come.
    pub(crate) fn reserve_uninterrupted(&self) -> Result<Slot<&Self>> {
        let slot = self.reserve_with(false, Signals::None)?;
        Ok(Slot { queue: self, slot })
    }

    /// The same for a transfer that outlives who began it.
    pub(crate) fn reserve_owned(
        this: &Arc<Self>,
        nonblocking: bool,
        signals: Signals,
    ) -> Result<Slot<Arc<Self>>> {
        let slot = this.reserve_with(nonblocking, signals)?;
        let queue = this.clone();
        Ok(Slot { queue, slot })
    }

    fn reserve_with(&self, nonblocking: bool, signals: Signals) -> Result<u16> {
        if let Some(taken) = self.take(&mut self.inner.lock()) {
            return taken;
        }
        if nonblocking {
            return Err(EAGAIN);
        }
        self.stats.slot_waits.count();
        let mut taken = None;
        let mut waiting = false;
        self.changed.wait_in_turn(signals, |woken| {
            let inner = &mut *self.inner.lock();
            if woken && inner.granted > 0 && inner.mode == Mode::Running {
                inner.granted -= 1;
            }
            taken = self.take(inner);
            if taken.is_none() && !waiting {
                // From here on slots are granted to us.
                waiting = true;
                inner.waiting = inner.waiting.saturating_add(1);
            }
            taken.is_some()
        });
        let free = {
            let inner = &mut *self.inner.lock();
            if waiting {
                inner.waiting = inner.waiting.saturating_sub(1);
                inner.granted = inner.granted.min(inner.waiting);
            }
            !inner.free.is_empty()
        };
        // What was granted to us, if we did not take it, goes to the next, or to anybody. So does a wake-up that
        // came when we had a slot already: until now we were on the queue, even if we never waited.
        if free {
            self.wake_one();
        }
        taken.unwrap_or(Err(ERESTARTSYS))
    }

    /// A slot that is granted to nobody, or that there will be none, or `None`: wait.
    fn take(&self, inner: &mut Inner) -> Option<Result<u16>> {
        match inner.mode {
            Mode::Gone => return Some(Err(ENODEV)),
            Mode::Stopped => return None,
            Mode::Running => {}
        }
        // CAST: u32 to usize keeps the value.
        if inner.free.len() <= inner.granted as usize {
            return None;
        }
        inner.free.pop().map(Ok)
    }

    /// What poll says: whether a slot could be had at once.
    pub(crate) fn poll<'a>(&'a self, poll: &Poll<'a>) -> bool {
        poll.register(&self.pollers);
        let inner = self.inner.lock();
        // CAST: u32 to usize keeps the value.
        inner.mode == Mode::Running && inner.free.len() > inner.granted as usize
    }

    /// Has everybody who polls look again.
    pub(crate) fn wake(&self) {
        self.pollers.wake_all();
    }

    /// A slot is free: one taker; and the pollers.
    fn wake_one(&self) {
        self.changed.wake_one();
        self.pollers.wake_all();
    }

    /// The mode is another one.
    fn wake_all(&self) {
        self.changed.wake_all();
        self.pollers.wake_all();
    }

    /// Takes completions from the ring and ends their slots. Returns whether there was any.
    fn drain_locked(&self, inner: &mut Inner) -> bool {
        let mut any = false;
        // A device that posts for ever shall not keep us in the interrupt.
        for _ in 0..self.slots() {
            let Some(rings) = inner.rings.as_ref() else {
                break;
            };
            let index = usize::from(inner.cq_head & self.mask());
            // 1 in the first pass over the ring, 0 in the second, and so on.
            let phase = !(inner.cq_head >> self.order) & 1;
            let completion = rings.completions.read_if(
                index,
                offset_of!(hw::vfetch_completion, phase),
                // CAST: 1.
                |field| field & hw::VFETCH_PHASE as u16 == phase,
            );
            let Some(completion) = completion else {
                break;
            };
            inner.cq_head = inner.cq_head.wrapping_add(1);
            any = true;
            let id = TransactionId(completion.transaction);
            match inner.states.get(id.slot()) {
                Some(state) if state.is_of(id) => {
                    let SlotState::InFlight { bytes, .. } = *state else {
                        continue;
                    };
                    // CAST: 0.
                    let ok = completion.status == hw::VFETCH_STATUS_OK as u16;
                    let outcome = if ok && bytes.is_none_or(|bytes| completion.bytes == bytes) {
                        self.stats.transfers.count();
                        Ok(())
                    } else {
                        self.stats.transfer_errors.count();
                        Err(Failure::Status(completion.status))
                    };
                    let end = End {
                        outcome,
                        value: completion.value,
                        time_ns: completion.time_ns,
                    };
                    self.end(id.slot(), inner, end);
                }
                _ => self.stats.bad_completions.count(),
            }
        }
        any
    }

    /// Ends slot `slot`, if it is in flight, and wakes its owner.
    fn end(&self, slot: usize, inner: &mut Inner, end: End) {
        let Some(state) = inner.states.get_mut(slot) else {
            return;
        };
        let SlotState::InFlight { sleeping, .. } = *state else {
            return;
        };
        let is_job = matches!(*state, SlotState::InFlight { bytes: None, .. });
        *state = SlotState::Done(end);
        self.in_flight.fetch_sub(1, Release);
        if sleeping {
            inner.sleepers = inner.sleepers.saturating_sub(1);
        }
        if let Some(waiter) = self.waiters.get(slot) {
            waiter.over.store(true, Release);
            if sleeping && !is_job {
                waiter.ended.wake_all();
            }
        }
        if is_job {
            if let Some(Some(notice)) = inner.notices.get(slot) {
                notice.outcome.set(end);
                notice.events.happened.wake_all();
                if let Some(eventfd) = &notice.eventfd {
                    eventfd.signal();
                }
            }
            // Nobody has the slot: what is known of the job is in the notice. CAST: a slot's number.
            self.give_back(inner, slot as u16);
            self.changed.wake_one();
        }
    }

    /// A slot is free again. Whoever waits for one is to be woken afterwards.
    fn give_back(&self, inner: &mut Inner, slot: u16) {
        if let Some(state) = inner.states.get_mut(usize::from(slot)) {
            *state = SlotState::Idle;
        }
        // There is room: the vector was made for all slots.
        if inner.free.push_within_capacity(slot).is_err() {
            kernel::pr_warn_once!("a slot was given back twice\n");
        }
        if inner.granted < inner.waiting {
            inner.granted += 1;
        }
    }

    /// Tells the device how far we have read the completion ring, and whether to send an interrupt for what comes after.
    ///
    /// Nobody needs to know while nobody sleeps and the ring is far from full.
    fn tell_head(&self, inner: &mut Inner) {
        let unseen = inner.cq_head.wrapping_sub(inner.cq_told);
        if inner.sleepers == 0 && u32::from(unseen) < self.slots() / 2 {
            return;
        }
        inner.cq_told = inner.cq_head;
        let arm = if inner.sleepers > 0 {
            0
        } else {
            hw::VFETCH_CQ_DISARM
        };
        // An error means that the function was unbound meanwhile: nobody waits.
        let _ = self.registers.write32(
            self.register(hw::VFETCH_QREG_CQ_HEAD),
            u32::from(inner.cq_head) | arm,
        );
    }

    /// Looks at the completion ring on behalf of somebody who spins. Leaves it alone when somebody else is at it.
    fn peek(&self) {
        if let Some(mut inner) = self.inner.try_lock() {
            if self.drain_locked(&mut inner) {
                self.tell_head(&mut inner);
            }
        }
    }

    /// Writes a descriptor of `bytes` and rings the doorbell. The queue is running.
    fn put(
        &self,
        inner: &mut Inner,
        slot: u16,
        id: TransactionId,
        desc: hw::vfetch_desc,
        bytes: Option<u32>,
    ) {
        let (Some(rings), Some(state)) = (&inner.rings, inner.states.get_mut(usize::from(slot)))
        else {
            return;
        };
        inner.number = inner.number.wrapping_add(1);
        // Nobody sees to it that a job's interrupt is armed but its beginning.
        let sleeping = bytes.is_none();
        *state = SlotState::InFlight {
            id,
            bytes,
            sleeping,
        };
        if let Some(waiter) = self.waiters.get(usize::from(slot)) {
            waiter.over.store(false, Relaxed);
        }
        rings
            .submissions
            .write(usize::from(inner.sq_tail & self.mask()), desc);
        inner.sq_tail = inner.sq_tail.wrapping_add(1);
        self.in_flight.fetch_add(1, Relaxed);
        if sleeping {
            inner.sleepers = inner.sleepers.saturating_add(1);
            self.tell_head(inner);
        }
        // An error means that the function was unbound: then it will be aborted.
        let _ = self.registers.write32(
            self.register(hw::VFETCH_QREG_SQ_TAIL),
            u32::from(inner.sq_tail),
        );
    }

    /// Looks for completions without an interrupt: the message of one may be lost.
    pub(crate) fn look(&self) {
        let mut inner = self.inner.lock();
        self.drain_locked(&mut inner);
        self.tell_head(&mut inner);
    }

    /// Asks for a reset of the queue.
    pub(crate) fn call_for_help(&self) {
        self.sick.store(true, Release);
        self.recovery.request();
    }

    /// Whether a reset was asked for since the last call.
    pub(crate) fn take_sick(&self) -> bool {
        self.sick.xchg(false, Full)
    }

    // ---- Its life -------------------------------------------------------------------------------

    /// Programs the device's queue and lets submissions in. The queue is stopped, nothing is in
    /// flight, and the device's queue is disabled.
    ///
    /// EIO when the device does not take it.
    pub(crate) fn start(&self) -> Result {
        {
            let mut inner = self.inner.lock();
            if inner.mode != Mode::Stopped {
                return Err(ENODEV);
            }
            inner.sq_tail = 0;
            inner.cq_head = 0;
            inner.cq_told = 0;
            let rings = inner.rings.as_ref().ok_or(ENODEV)?;
            rings.completions.clear();
            let registers = &self.registers;
            registers.write64(
                self.register(hw::VFETCH_QREG_SQ_BASE),
                rings.submissions.address(0),
            )?;
            registers.write64(
                self.register(hw::VFETCH_QREG_CQ_BASE),
                rings.completions.address(0),
            )?;
            registers.write32(self.register(hw::VFETCH_QREG_ORDER), self.order)?;
            registers.write32(self.register(hw::VFETCH_QREG_VECTOR), self.index)?;
            registers.write32(self.register(hw::VFETCH_QREG_CLASS), self.class)?;
            registers.write32(
                self.register(hw::VFETCH_QREG_CONTROL),
                hw::VFETCH_QCTL_ENABLE,
            )?;
        }
        if self
            .registers
            .read32(self.register(hw::VFETCH_QREG_STATUS))?
            != hw::VFETCH_QSTAT_ENABLED
        {
            return Err(EIO);
        }
        let mut inner = self.inner.lock();
        if inner.mode == Mode::Stopped {
            inner.mode = Mode::Running;
        }
        drop(inner);
        self.wake_all();
        Ok(())
    }

    /// Lets no more submissions in for now. What is in flight stays so.
    pub(crate) fn stop(&self) {
        let mut inner = self.inner.lock();
        if inner.mode == Mode::Running {
            inner.mode = Mode::Stopped;
        }
        drop(inner);
        self.wake_all();
    }

    /// Lets no more submissions in, for good.
    pub(crate) fn give_up(&self) {
        self.inner.lock().mode = Mode::Gone;
        self.wake_all();
    }

    /// Whether the device has stopped the queue because of an error.
    pub(crate) fn has_error(&self) -> bool {
        let status = self.registers.read32(self.register(hw::VFETCH_QREG_STATUS));
        status.is_ok_and(|status| status & hw::VFETCH_QSTAT_ERROR_MASK != 0)
    }

    /// Asks the device to reset the queue.
    pub(crate) fn ask_reset(&self) -> Result {
        self.registers.write32(
            self.register(hw::VFETCH_QREG_CONTROL),
            hw::VFETCH_QCTL_RESET,
        )
    }

    /// Whether the device has acknowledged the reset: it touches no host memory for this queue.
    pub(crate) fn reset_done(&self) -> bool {
        let status = self.registers.read32(self.register(hw::VFETCH_QREG_STATUS));
        status.is_ok_and(|status| {
            status & (hw::VFETCH_QSTAT_ENABLED | hw::VFETCH_QSTAT_RESETTING) == 0
        })
    }

    /// Ends everything that is in flight. To be called only when the device cannot touch its memory any
    /// more: after an acknowledged reset, or when it is gone.
    pub(crate) fn abort(&self, failure: Failure) {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        // What was completed was completed.
        self.drain_locked(inner);
        for slot in 0..inner.states.len() {
            self.end(slot, inner, End::of(failure));
        }
    }

    /// Whether nothing is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.load(Acquire) == 0
    }

    /// Frees what the queue shares with the device. Nothing can be submitted afterwards.
    pub(crate) fn free_rings(&self) {
        let rings = {
            let mut inner = self.inner.lock();
            inner.mode = Mode::Gone;
            inner.rings.take()
        };
        // Not under the lock: freeing coherent memory wants interrupts enabled.
        drop(rings);
    }
}

impl InterruptHandler for Queue {
    fn handle(&self) -> bool {
        self.stats.interrupts.count();
        let mut inner = self.inner.lock();
        let any = self.drain_locked(&mut inner);
        self.tell_head(&mut inner);
        let waited_for = inner.sleepers > 0;
        drop(inner);
        // An interrupt without a completion: somebody who spins was faster, or the queue stopped. It says so only once, and a
        // completion may have come with it. (When nobody sleeps, who sleeps next finds out by the time-out.)
        (!any || waited_for) && self.has_error()
    }

    fn handle_threaded(&self) {
        self.call_for_help();
    }
}

/// A descriptor that the device has, and the memory that it describes.
///
/// Fields are dropped in this order: the slot waits for the device before the memory is let go.
pub(crate) struct Transfer<'data, Q: Deref<Target = Queue>, D: KeepsBound> {
    slot: Slot<Q>,
    host: Option<HostMemory<'data, D>>,
}

/// One that nobody need wait for before its own end.
pub(crate) type OwnedTransfer = Transfer<'static, Arc<Queue>, BoundHold>;

impl<'data, Q: Deref<Target = Queue>, D: KeepsBound> Transfer<'data, Q, D> {
    /// Waits until it has ended. The wait is bounded by the time-out and the recovery that follows it;
    /// signals do not end it, since the device may be using the memory.
    pub(crate) fn wait(&self) -> Result<(), Failure> {
        self.slot.wait()
    }

    /// Waits until it has ended, or `signals` or `limit` say that it is not to be waited for any more: it goes on then, and somebody else has to
    /// wait for it. `limit` is asked only when this is about to sleep.
    pub(crate) fn wait_with(
        &self,
        signals: Signals,
        limit: impl FnOnce() -> Option<Msecs>,
    ) -> Waited {
        self.slot.wait_with(signals, limit)
    }

    /// Bytes of host memory that it moves.
    pub(crate) fn bytes(&self) -> usize {
        self.host.as_ref().map_or(0, HostMemory::bytes)
    }

    /// Waits, and gives the memory back.
    pub(crate) fn finish(mut self) -> (Result<(), Failure>, Option<HostMemory<'data, D>>) {
        (self.slot.wait(), self.host.take())
    }
}

/// The right to have one descriptor in flight.
pub(crate) struct Slot<Q: Deref<Target = Queue>> {
    queue: Q,
    slot: u16,
}

impl<Q: Deref<Target = Queue>> Slot<Q> {
    /// Gives the device a descriptor. `current` says whether what it is based on still holds; it
    /// is asked when nothing can change that any more before the device has the descriptor.
    ///
    /// The command comes back when the device has not got it.
    pub(crate) fn submit<'data, D: KeepsBound>(
        self,
        command: Command<'data, D>,
        current: impl FnOnce() -> bool,
    ) -> Result<Transfer<'data, Q, D>, (Failure, Command<'data, D>)> {
        match self.ring(&command, current) {
            Ok(()) => Ok(Transfer {
                slot: self,
                host: match command {
                    Command::Read { host, .. } | Command::Write { host, .. } => Some(host),
                    Command::Scrub { .. } | Command::Invalidate { .. } | Command::Cancel { .. } => {
                        None
                    }
                },
            }),
            Err(failure) => Err((failure, command)),
        }
    }

    /// Writes the descriptor and rings the doorbell.
    fn ring<D: KeepsBound>(
        &self,
        command: &Command<'_, D>,
        current: impl FnOnce() -> bool,
    ) -> Result<(), Failure> {
        let queue = &*self.queue;
        let mut inner = queue.inner.lock();
        let inner = &mut *inner;
        match inner.mode {
            Mode::Running => {}
            Mode::Stopped => return Err(Failure::Recovering),
            Mode::Gone => return Err(Failure::Gone),
        }
        if !current() {
            return Err(Failure::Stale);
        }
        let rings = inner.rings.as_ref().ok_or(Failure::Gone)?;
        let id = TransactionId::new(inner.number, self.slot);
        let desc = self.descriptor(rings, command, id);
        queue.put(inner, self.slot, id, desc, Some(desc.bytes));
        Ok(())
    }

    /// The descriptor for `command`, with its scatter list written if it needs one.
    fn descriptor<D: KeepsBound>(
        &self,
        rings: &Rings,
        command: &Command<'_, D>,
        id: TransactionId,
    ) -> hw::vfetch_desc {
        let mut desc = hw::vfetch_desc {
            transaction: id.0,
            ..Default::default()
        };
        let (opcode, device_addr, host) = match command {
            Command::Read { device_addr, host } => (hw::VFETCH_OP_READ, *device_addr, Some(host)),
            Command::Write { device_addr, host } => (hw::VFETCH_OP_WRITE, *device_addr, Some(host)),
            Command::Scrub { device_addr, bytes } => {
                desc.bytes = *bytes;
                (hw::VFETCH_OP_FILL, *device_addr, None)
            }
            Command::Invalidate { asid, page, pages } => {
                desc.asid = *asid;
                desc.host_addr = *pages;
                // CAST: a flag.
                desc.flags = hw::VFETCH_DESC_RELAXED as u8;
                (hw::VFETCH_OP_INVALIDATE, *page, None)
            }
            Command::Cancel { transaction } => {
                // CAST: a flag.
                desc.flags = hw::VFETCH_DESC_RELAXED as u8;
                (hw::VFETCH_OP_CANCEL, *transaction, None)
            }
        };
        // CAST: opcodes and flags are 8 bits wide.
        desc.opcode = opcode as u8;
        desc.device_addr = device_addr;
        let Some(host) = host else {
            return desc;
        };
        // CAST: at most `Description::max_bytes`.
        desc.bytes = host.bytes() as u32;
        let first = usize::from(self.slot) * SLOT_SG;
        if host.count() > 1 {
            desc.flags = hw::VFETCH_DESC_SG as u8;
            desc.host_addr = rings.lists.address(first);
            // CAST: at most SLOT_SG.
            desc.sg_entries = host.count().min(SLOT_SG) as u16;
        }
        for (index, segment) in host.segments().take(SLOT_SG).enumerate() {
            if host.count() == 1 {
                desc.host_addr = segment.address;
            } else {
                rings.lists.write(
                    first + index,
                    hw::vfetch_sg {
                        addr: segment.address,
                        bytes: segment.bytes,
                        reserved: 0,
                    },
                );
            }
        }
        desc
    }

    /// Waits until what was submitted has ended. The wait is bounded by the time-out and the
    /// recovery that follows it; signals do not end it, since the device may be using the memory.
    fn wait(&self) -> Result<(), Failure> {
        self.wait_with(Signals::None, || None);
        let queue = &*self.queue;
        let inner = queue.inner.lock();
        match inner.states.get(usize::from(self.slot)) {
            Some(SlotState::Done(end)) => end.outcome,
            Some(SlotState::Idle) => Ok(()),
            _ => Err(Failure::Gone),
        }
    }

    /// The same, as far as `signals` allow, and for at most `limit`. Without one it never says that the time is over.
    fn wait_with(&self, signals: Signals, limit: impl FnOnce() -> Option<Msecs>) -> Waited {
        let queue = &*self.queue;
        let Some(waiter) = queue.waiters.get(usize::from(self.slot)) else {
            return Waited::Done;
        };
        let is_over = || waiter.over.load(Acquire);
        if !is_over() {
            self.spin(is_over);
        }
        if is_over() || !self.fall_asleep() {
            return Waited::Done;
        }
        let limit = limit().filter(|limit| *limit < queue.timeout_ms);
        let time = limit.unwrap_or(queue.timeout_ms);
        match waiter.ended.wait(signals, Some(time), is_over) {
            // Whether it is stuck is for others to find out.
            Waited::TimedOut if limit.is_some() => Waited::TimedOut,
            Waited::TimedOut if self.is_stuck() => {
                queue.stats.timeouts.count();
                queue.recovery.request();
                waiter.ended.wait(signals, None, is_over)
            }
            Waited::TimedOut => Waited::Done,
            waited => waited,
        }
    }

    /// Whether it has not ended although its time is over. The queue is to be reset then.
    fn is_stuck(&self) -> bool {
        let queue = &*self.queue;
        let mut inner = queue.inner.lock();
        // The completion may be there and its interrupt lost, which the others wait for too.
        queue.drain_locked(&mut inner);
        queue.tell_head(&mut inner);
        let state = inner.states.get(usize::from(self.slot));
        let stuck = matches!(state, Some(SlotState::InFlight { .. }));
        if stuck {
            // Under the lock: a reset that is under way ends this transfer first, and then forgets.
            queue.sick.store(true, Release);
        }
        stuck
    }

    /// Waits a while without sleeping if that promises to be enough. (A function of its own: the profiler tells by it what is polling.)
    #[inline(never)]
    fn spin(&self, is_over: impl Fn() -> bool) {
        let queue = &*self.queue;
        let bytes = match queue.inner.lock().states.get(usize::from(self.slot)) {
            Some(SlotState::InFlight { bytes, .. }) => bytes.unwrap_or(0),
            _ => return,
        };
        let ahead = queue.in_flight().saturating_sub(1);
        if let Some(time) = queue.spin.time(bytes, ahead) {
            let worth = spin(time, || {
                if !is_over() {
                    queue.peek();
                }
                is_over()
            });
            queue.spin.learn(worth);
        }
    }

    /// Sees to it that there will be an interrupt and a wake-up. `false` when it has ended already.
    fn fall_asleep(&self) -> bool {
        let mut inner = self.queue.inner.lock();
        let inner = &mut *inner;
        match inner.states.get_mut(usize::from(self.slot)) {
            Some(SlotState::InFlight { sleeping, .. }) => {
                if !*sleeping {
                    *sleeping = true;
                    inner.sleepers = inner.sleepers.saturating_add(1);
                }
                // Arms the interrupt; one that is armed already is armed again.
                self.queue.tell_head(inner);
                true
            }
            _ => false,
        }
    }
}

impl Queue {
    /// Gives the device a job for address space `asid`, and returns the name by which it knows it. What `begun` says is called with it before
    /// anything can be heard of the job.
    ///
    /// Waits for a slot, or not if `nonblocking`: the errors are those of [`reserve`](Self::reserve).
    pub(crate) fn submit_job(
        &self,
        asid: u16,
        job: &hw::vfetch_job,
        notice: Notice,
        nonblocking: bool,
        begun: impl FnOnce(u64),
    ) -> Result {
        loop {
            let slot = self.reserve_with(nonblocking, Signals::Any)?;
            let index = usize::from(slot);
            let mut inner = self.inner.lock();
            let inner_ref = &mut *inner;
            let rings = match inner_ref.mode {
                Mode::Running => inner_ref.rings.as_ref(),
                _ => None,
            };
            let Some(rings) = rings else {
                let gone = inner_ref.mode == Mode::Gone;
                self.give_back(inner_ref, slot);
                drop(inner);
                self.changed.wake_one();
                match (gone, nonblocking) {
                    (true, _) => return Err(ENODEV),
                    (false, true) => return Err(EAGAIN),
                    (false, false) => continue,
                }
            };
            let transaction = TransactionId::new(inner_ref.number, slot);
            rings.jobs.write(index, *job);
            let desc = hw::vfetch_desc {
                // CAST: opcodes are 8 bits wide.
                opcode: hw::VFETCH_OP_JOB as u8,
                transaction: transaction.0,
                host_addr: rings.jobs.address(index),
                // CAST: the structure's size.
                bytes: size_of::<hw::vfetch_job>() as u32,
                asid: u32::from(asid),
                ..Default::default()
            };
            let before = inner_ref
                .notices
                .get_mut(index)
                .and_then(|place| place.replace(notice));
            begun(transaction.0);
            self.put(inner_ref, slot, transaction, desc, None);
            drop(inner);
            // Not under the lock: it may be the last reference to an eventfd.
            drop(before);
            return Ok(());
        }
    }
}

impl<Q: Deref<Target = Queue>> Drop for Slot<Q> {
    fn drop(&mut self) {
        // Nothing is in flight when its owner has waited, as it must have.
        let queue = &*self.queue;
        let waiter = queue.waiters.get(usize::from(self.slot));
        if waiter.is_some_and(|waiter| !waiter.over.load(Acquire)) {
            let _ = self.wait();
        }
        let mut inner = queue.inner.lock();
        queue.give_back(&mut inner, self.slot);
        drop(inner);
        queue.wake_one();
    }
}
