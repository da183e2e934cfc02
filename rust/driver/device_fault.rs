// SPDX-License-Identifier: GPL-2.0

//! Faults of jobs: taken from the device's ring in batches, served block by block, and replayed.
//!
//! All transfers of a batch are in flight together. A strand goes on when the page it waits for has arrived; what the engine
//! wants to come along follows behind, and nobody waits for it here.

use core::mem::offset_of;

use kernel::prelude::*;
use kernel::sync::{new_mutex, new_spinlock_irq, Arc, Mutex, SpinLockIrq};
use kernel::time::delay::fsleep;
use kernel::time::Delta;

use super::address_space::Asid;
use super::block::Block;
use super::function::Function;
use super::migrate::{CarriedOut, Effort, Move};
use super::regs::Registers;
use super::space::{index_of, Space, PAGE};
use super::thrash::nap;
use super::trace::words;
use crate::engine::frames::FrameRun;
use crate::engine::mask::{PageMask, Region, PAGES};
use crate::engine::owner::Page;
use crate::engine::prefetch::{Location, Outcome};
use crate::sys::abi as hw;
use crate::sys::host_page::{HostPage, Need};
use crate::sys::leaf::Place;
use crate::sys::pci::BoundHold;
use crate::sys::ring::SharedArray;
use crate::sys::wait::Signals;

/// Most faults of a batch.
const BATCH: usize = 256;
/// log2 of the ring's entries.
const ORDER: u32 = 10;
/// The MSI-X vector of faults, behind those of the queues.
pub(crate) const VECTOR: u32 = 3;
/// Records that send a message at once, and the age at which fewer do: a batch of parallel strands comes within that.
const MIN: u32 = 32;
const WAIT_NS: u32 = 2000;

/// How long strands wait before they ask for pages again for which there was no memory.
const SHORT: Delta = Delta::from_millis(1);

const _: () = assert!(ORDER <= hw::VFETCH_FAULT_MAX_ORDER);
const _: () = assert!(VECTOR < hw::VFETCH_MSIX_VECTORS);

/// A fault, as far as it matters.
#[derive(Clone, Copy)]
struct Fault {
    asid: Asid,
    /// Of the space.
    page: u64,
    write: bool,
    /// The job's transaction.
    job: u64,
}

impl Fault {
    /// The address space, and the block in it.
    fn block(&self) -> (Asid, u64) {
        (self.asid, index_of(self.page).0)
    }
}

struct Ring {
    /// `None` once the function is unbound.
    records: Option<SharedArray<hw::vfetch_fault>>,
    /// Free-running, as the device counts.
    head: u16,
}

/// The ring in which the device tells of faults.
#[pin_data]
pub(crate) struct FaultRing {
    registers: Arc<Registers>,
    #[pin]
    ring: SpinLockIrq<Ring>,
    /// The batch that is being served: by one thread.
    #[pin]
    batch: Mutex<KVec<Fault>>,
    /// The function while it is bound. It has a reference to this: the circle is broken by [`close`](Self::close).
    #[pin]
    function: Mutex<Option<Arc<Function>>>,
}

impl FaultRing {
    /// One that is not enabled. ENOMEM.
    pub(crate) fn new(
        device: &kernel::device::Device<kernel::device::Bound>,
        registers: Arc<Registers>,
    ) -> Result<Arc<Self>> {
        let ring = Ring {
            records: Some(SharedArray::new(device, 1 << ORDER)?),
            head: 0,
        };
        let batch = KVec::with_capacity(BATCH, GFP_KERNEL)?;
        Arc::pin_init(
            pin_init!(Self {
                registers,
                ring <- new_spinlock_irq!(ring, "vfetch: fault ring"),
                batch <- new_mutex!(batch, "vfetch: batch of faults"),
                function <- new_mutex!(None, "vfetch: function of faults"),
            }),
            GFP_KERNEL,
        )
    }

    /// Names the function.
    pub(crate) fn open(&self, function: Arc<Function>) {
        *self.function.lock() = Some(function);
    }

    /// Serves no more faults. Those that are being served keep the function bound until they are done.
    pub(crate) fn close(&self) {
        let function = self.function.lock().take();
        drop(function);
    }

    /// Enables it, empty. The device's is disabled: it was reset, or never enabled.
    pub(crate) fn start(&self) -> Result {
        let mut ring = self.ring.lock();
        ring.head = 0;
        let records = ring.records.as_ref().ok_or(ENODEV)?;
        records.clear();
        let registers = &self.registers;
        registers.write64(hw::VFETCH_REG_FAULT_BASE, records.address(0))?;
        registers.write32(hw::VFETCH_REG_FAULT_ORDER, ORDER)?;
        registers.write32(hw::VFETCH_REG_FAULT_VECTOR, VECTOR)?;
        registers.write32(hw::VFETCH_REG_FAULT_MIN, MIN)?;
        registers.write32(hw::VFETCH_REG_FAULT_WAIT_NS, WAIT_NS)?;
        registers.write32(hw::VFETCH_REG_FAULT_CONTROL, hw::VFETCH_FCTL_ENABLE)?;
        let status = registers.read32(hw::VFETCH_REG_FAULT_STATUS)?;
        if status == hw::VFETCH_FSTAT_ENABLED {
            Ok(())
        } else {
            Err(EIO)
        }
    }

    /// Whether the device has stopped it.
    fn has_error(&self) -> bool {
        let status = self.registers.read32(hw::VFETCH_REG_FAULT_STATUS);
        status.is_ok_and(|status| status & hw::VFETCH_FSTAT_ERROR_MASK != 0)
    }

    /// Disables it.
    pub(crate) fn stop(&self) {
        // An error means that the function was unbound.
        let _ = self
            .registers
            .write32(hw::VFETCH_REG_FAULT_CONTROL, hw::VFETCH_FCTL_RESET);
    }

    /// Frees what it shares with the device, which does not use it any more.
    pub(crate) fn free(&self) {
        let records = self.ring.lock().records.take();
        // Not under the lock: freeing coherent memory wants interrupts enabled.
        drop(records);
    }

    /// Takes records into `batch`, as many as there are and as it has room for.
    fn take(&self, batch: &mut KVec<Fault>) {
        batch.clear();
        let mut ring = self.ring.lock();
        let ring = &mut *ring;
        let Some(records) = &ring.records else {
            return;
        };
        while batch.len() < BATCH {
            let index = usize::from(ring.head) & ((1 << ORDER) - 1);
            // 1 in the first pass over the ring, 0 in the second, and so on.
            let phase = !(ring.head >> ORDER) & 1;
            let record = records.read_if(index, offset_of!(hw::vfetch_fault, phase), |field| {
                field & 1 == phase
            });
            let Some(record) = record else {
                break;
            };
            ring.head = ring.head.wrapping_add(1);
            // The device is not trusted: what makes no sense is not served.
            let Some(asid) = Asid::from_raw(record.asid) else {
                continue;
            };
            let fault = Fault {
                asid,
                page: record.page,
                write: u32::from(record.access) == hw::VFETCH_ACCESS_WRITE,
                job: record.job,
            };
            // There is room.
            let _ = batch.push_within_capacity(fault);
        }
    }

    /// Tells the device how far the ring was read, and to send a message for what comes after if `arm`.
    fn tell_head(&self, arm: bool) {
        // With the lock: a ring that begins anew shall not get an old head.
        let ring = self.ring.lock();
        let head = u32::from(ring.head);
        let disarm = if arm { 0 } else { hw::VFETCH_FAULT_DISARM };
        // An error means that the function was unbound.
        let _ = self
            .registers
            .write32(hw::VFETCH_REG_FAULT_HEAD, head | disarm);
    }

    /// Serves all faults that there are. Runs in the interrupt's thread.
    pub(crate) fn serve(&self) {
        let mut batch = self.batch.lock();
        let Some(function) = self.function.lock().clone() else {
            return;
        };
        let mut any = false;
        loop {
            let Ok(_device) = function.enter() else {
                return;
            };
            self.take(&mut batch);
            if batch.is_empty() {
                if !any && self.has_error() {
                    function.restart_faults();
                    return;
                }
                // What comes between the look and this sends a message at once.
                self.tell_head(true);
                return;
            }
            any = true;
            self.tell_head(false);
            function.serve_batch(&mut batch);
        }
    }
}

/// What came of a batch so far.
#[derive(Default)]
struct Served {
    /// Something that arrives later, pages of it that strands wait for, and the version of the block as of which that is so.
    awaited: KVec<(Arc<Move>, PageMask, u32)>,
    /// What was begun last, and its pages that strands wait for. Nobody else sees to that: it is not kept while anything else is waited for,
    /// since its transfers have slots that others may want first.
    last: Option<(CarriedOut, PageMask)>,
    /// Something was done that strands can go on for.
    any: bool,
    /// When pages can be asked for that are not to be taken yet.
    until_us: Option<u64>,
    /// There was no memory to serve pages that have contents, and so do not fail for that.
    short: bool,
}

impl Served {
    /// Leaves what was begun last to the work that sees to moves, and waits for it later.
    fn leave_last(&mut self) {
        if let Some((moving, pages)) = self.last.take() {
            let left = (moving.clone(), pages, moving.block.version());
            if self.awaited.push(left, GFP_KERNEL).is_err() {
                // There is no memory to remember it: it is waited for now.
                moving.finish_pages(&pages);
                moving.block.space.settle_arrivals(&moving, &pages);
            }
        }
    }
}

/// Sorts by block. (That of the core library can panic.)
fn sort(batch: &mut [Fault]) {
    if batch.is_sorted_by_key(Fault::block) {
        return;
    }
    for gap in [57, 23, 10, 4, 1] {
        for end in gap..batch.len() {
            let mut at = end;
            while let (Some(one), Some(before)) = (batch.get(at), at.checked_sub(gap)) {
                if batch
                    .get(before)
                    .is_none_or(|other| other.block() <= one.block())
                {
                    break;
                }
                batch.swap(before, at);
                at = before;
            }
        }
    }
}

impl Function {
    /// The device has stopped the ring: begins anew. Strands that wait say again what for.
    fn restart_faults(&self) {
        self.faults.stop();
        if self.faults.start().is_ok() {
            // An error means that the function was unbound.
            let _ = self
                .registers
                .write32(hw::VFETCH_REG_FAULT_REPLAY, hw::VFETCH_AS_ALL);
        }
    }

    /// Serves a batch, and replays.
    fn serve_batch(&self, batch: &mut KVec<Fault>) {
        self.stats.device_faults.add(batch.len() as u64);
        self.stats.fault_batches.count();
        self.trace.record(hw::VFETCH_TRACE_BATCH, |record| {
            // CAST: at most 256.
            record.count = batch.len() as u32;
        });
        self.begin_batch();
        self.see_undecided();
        let oldest = batch.first().map(Fault::block);
        sort(batch);
        let mut served = Served::default();
        // What has waited longest is served first: where there is no room for all of them each comes to its turn.
        let groups = || batch.chunk_by(|one, next| one.block() == next.block());
        let first = groups().filter(|group| group.first().map(Fault::block) == oldest);
        let others = groups().filter(|group| group.first().map(Fault::block) != oldest);
        for group in Iterator::chain(first, others) {
            let Some((asid, index)) = group.first().map(Fault::block) else {
                continue;
            };
            served.leave_last();
            if let Some(space) = self.spaces.get(asid) {
                space.serve_block(index, group, &mut served);
            }
        }
        if let Some((moving, pages)) = served.last.take() {
            moving.finish_pages(&pages);
            moving.block.space.settle_arrivals(&moving, &pages);
        }
        for (moving, pages, version) in &served.awaited {
            for page in moving.finish_pages(pages).iter() {
                if moving.is_moving(page) {
                    // It is not on its way yet.
                    moving.block.wait(*version, Signals::None);
                }
            }
            moving.block.space.settle_arrivals(moving, pages);
        }
        if let (false, Some(until_us)) = (served.any, served.until_us) {
            // They would only ask again.
            nap(until_us);
        }
        if served.short {
            fsleep(SHORT);
        }
        let mut last = None;
        for fault in batch.iter() {
            if last.replace(fault.asid) != Some(fault.asid) {
                // An error means that the function was unbound.
                let _ = self
                    .registers
                    .write32(hw::VFETCH_REG_FAULT_REPLAY, u32::from(fault.asid.raw()));
            }
        }
        self.bring_while_idle();
    }
}

impl Space {
    /// Serves faults of one block: begins what takes time.
    fn serve_block(self: &Arc<Self>, index: u64, faults: &[Fault], served: &mut Served) {
        let (mut faulted, mut written) = (PageMask::EMPTY, PageMask::EMPTY);
        for fault in faults {
            if fault.page >= self.pages() {
                // The space has become smaller: the job has left it.
                self.fail_job(fault.job, ERANGE, fault.page.saturating_mul(PAGE));
                continue;
            }
            let page = index_of(fault.page).1;
            faulted.add(page);
            if fault.write {
                written.add(page);
            }
        }
        self.function
            .trace
            .record(hw::VFETCH_TRACE_DEVICE_FAULTS, |record| {
                // CAST: at most 512.
                record.count = faulted.count() as u32;
                record.space = u64::from(self.id);
                record.first = index * PAGES as u64;
                record.pages = words(&faulted);
                record.more = words(&written);
            });
        let result = self.serve_pages(index, &faulted, &written, served);
        let lost = match result {
            Ok(lost) => lost,
            Err(error) => {
                let kept = if error == ENOMEM {
                    self.contents_of(index)
                } else {
                    PageMask::EMPTY
                };
                for fault in faults {
                    if kept.has(index_of(fault.page).1) {
                        served.short = true;
                    } else {
                        self.fail_job(fault.job, error, fault.page.saturating_mul(PAGE));
                    }
                }
                return;
            }
        };
        for fault in faults {
            if lost.has(index_of(fault.page).1) {
                self.fail_job(fault.job, EIO, fault.page.saturating_mul(PAGE));
            }
        }
    }

    /// Pages of block `index` that have, or had, contents.
    fn contents_of(&self, index: u64) -> PageMask {
        match self.block(index) {
            Some(block) => {
                let none = block.lock().among(&PageMask::ALL, Page::None);
                PageMask::ALL.minus(&none)
            }
            None => PageMask::EMPTY,
        }
    }

    /// Serves `faulted` pages of block `index`. Returns those that are lost. ENOMEM: those that have contents are to be asked for again.
    fn serve_pages(
        self: &Arc<Self>,
        index: u64,
        faulted: &PageMask,
        written: &PageMask,
        served: &mut Served,
    ) -> Result<PageMask> {
        if faulted.is_empty() {
            return Ok(PageMask::EMPTY);
        }
        loop {
            let block = self.block_or_new(index)?;
            let mut locked = block.lock();
            if locked.is_dead() {
                continue;
            }
            self.attach_locked(&mut locked, &block)?;
            let is = |state: Page| locked.among(faulted, state);
            let lost = is(Page::Lost);
            let (absent, moving) = (is(Page::None), locked.busy().and(faulted));
            let advice = self.advice.of_block(index);
            let host = is(Page::Host { remote: false });
            let host = host.minus(&self.reach_advised(&block, &mut locked, &host, &advice));
            let (host, wait) = match self.ask_for_device(&block, &mut locked, &host) {
                None => (host, PageMask::EMPTY),
                Some(verdict) => {
                    let until_us = served.until_us.unwrap_or(u64::MAX);
                    served.until_us = Some(until_us.min(verdict.until_us));
                    (host.minus(&verdict.stay).minus(&verdict.wait), verdict.wait)
                }
            };
            served.any |= *faulted != wait;
            for state in [
                Page::Host { remote: true },
                Page::Device { window: false },
                Page::Device { window: true },
            ] {
                let here = locked.among(faulted, state);
                locked.grant(&here, state)?;
            }
            self.feedback(&mut locked, Location::Device, Outcome::Late, &moving);
            for page in moving.iter() {
                if let Some(one) = locked.move_of(page) {
                    served.awaited.push(
                        (one.clone(), page.region().into(), block.version()),
                        GFP_KERNEL,
                    )?;
                }
            }
            let remote = absent.and(advice.preferred(Location::Host));
            let absent = absent.minus(&remote);
            let missing = absent.or(&host);
            if missing.is_empty() && remote.is_empty() {
                return Ok(lost);
            }
            let bounds = self.bounds(&block, 0..self.pages());
            self.see_used(&block, &mut locked);
            let hint = self.decide(
                &block,
                &mut locked,
                &missing,
                written,
                Location::Device,
                bounds,
            );
            let zeros = locked.among(&hint.pages, Page::None).or(&absent);
            let wanted = host.or(&locked.movable(&hint.pages, Location::Device, false));
            let not = hint.pages.minus(&wanted).minus(&zeros);
            self.feedback(&mut locked, Location::Device, Outcome::Dropped, &not);
            let mut began = None;
            if !wanted.is_empty() && locked.has_room_for_move() {
                let hold = BoundHold::new(&self.function.bound).ok_or(ENODEV)?;
                let generation = locked.generation();
                match Move::new(&block, wanted, Location::Device, generation, hold) {
                    Ok(one) => began = locked.begin(&one, false),
                    // No memory for that: what is wanted is reached where it is.
                    Err(_) => {
                        for page in host.iter() {
                            locked.pin_to_host(page, &block)?;
                        }
                    }
                }
            } else if !wanted.is_empty() {
                // Some move must end first.
                self.feedback(&mut locked, Location::Device, Outcome::Dropped, &wanted);
                let version = block.version();
                drop(locked);
                block.wait(version, Signals::None);
                continue;
            }
            if began.is_none() {
                self.feedback(&mut locked, Location::Device, Outcome::Dropped, &wanted);
            }
            drop(locked);
            let short = self.zero_on_device(&block, &zeros, &absent).or(&remote);
            if !short.is_empty() {
                self.zero_remotely(&block, &short)?;
            }
            let effort = if hint.gentle {
                Effort::Gentle
            } else {
                Effort::Usual
            };
            if let Some(began) = began {
                served.last = Some((began.carry_out(&host, effort), host));
            }
            if let Some(ahead) = &hint.ahead {
                served.leave_last();
                self.bring_ahead(ahead, Location::Device);
            }
            return Ok(lost);
        }
    }

    /// Pages that have no contents and for which there is no frame get zeros in host memory, where the device reaches them. ENOSPC, ENOMEM.
    fn zero_remotely(&self, block: &Arc<Block>, pages: &PageMask) -> Result {
        let result = (|| {
            for page in pages.iter() {
                if !self.may_zero(block, &block.lock(), page) {
                    continue;
                }
                if !self.has_room(1) {
                    return Err(ENOSPC);
                }
                // Made without the lock: that may take long, and others want pages of the block.
                let zeros = self.page(HostPage::zeroed, Need::Want, Some(block))?;
                let mut locked = block.lock();
                if self.may_zero(block, &locked, page) {
                    locked.zero(page, Place::Host(zeros), block);
                    locked.pin_to_host(page, block)?;
                }
            }
            Ok(())
        })();
        self.used(block, Location::Host);
        result
    }

    /// Gives those of `pages` that have no contents frames of zeros. Returns the `needed` ones for which there are none.
    fn zero_on_device(&self, block: &Arc<Block>, pages: &PageMask, needed: &PageMask) -> PageMask {
        let limit = self.function.not_lately();
        let mut short = PageMask::EMPTY;
        for set in [*needed, pages.minus(needed)] {
            let mut left = set;
            while let Some(first) = left.first() {
                let (run, _) = left.leading_run(Region::clipped(first.get(), PAGES));
                let wanted = set == *needed;
                // What nobody has asked for takes nobody's room.
                let room = run.len() as u64 + if wanted { 0 } else { PAGES as u64 };
                if !self.has_room(room) {
                    break;
                }
                // CAST: at most 512.
                let Ok(frames) =
                    self.take_zeroed(run.len() as u32, wanted.then_some(&**block), limit)
                else {
                    break;
                };
                let mut locked = block.lock();
                for (page, frame) in run.pages().zip(frames.first..).take(frames.count as usize) {
                    left.take(page);
                    if !self.may_zero(block, &locked, page) {
                        let run = FrameRun {
                            first: frame,
                            count: 1,
                        };
                        self.give(run, true, locked.generation());
                    } else {
                        locked.zero(page, Place::Frame(frame), block);
                    }
                }
            }
            if !left.is_empty() {
                let mut locked = block.lock();
                self.feedback(&mut locked, Location::Device, Outcome::Dropped, &left);
            }
            short = short.or(&left.and(needed));
        }
        if short != *pages {
            self.used(block, Location::Device);
        }
        short
    }

    /// `pages` that strands wait for have arrived by `moving`, or could not: those the device reaches where they are.
    fn settle_arrivals(&self, moving: &Move, pages: &PageMask) {
        if moving.to != Location::Device {
            // They came to the host, as somebody there wanted: the strand asks again.
            return;
        }
        let mut locked = moving.block.lock();
        let stayed = locked.among(pages, Page::Host { remote: false });
        for page in stayed.iter() {
            // Where even that cannot be, the strand faults again.
            let _ = locked.pin_to_host(page, &moving.block);
        }
    }
}
