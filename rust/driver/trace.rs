// SPDX-License-Identifier: GPL-2.0

//! The trace of a function: what its memory manager did and saw, for whoever reads it. `struct vfetch_trace_record` says what there is.
//!
//! While nobody traces, a record that is not made costs one load. A ring that is full loses the new record and counts it: its number is
//! left out, so that nothing is lost in silence.

use core::mem::size_of;

use kernel::alloc::KVVec;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::{new_spinlock, Arc, SpinLock};
use kernel::time::Msecs;
use kernel::transmute::AsBytes;

use super::migrate::Move;
use super::queue::Events;
use super::space::Space;
use crate::engine::mask::PageMask;
use crate::engine::prefetch::Location;
use crate::sys::abi::{self as hw, vfetch_trace_record as Record, vfetch_trace_start};
use crate::sys::ioctl::UserBytes;
use crate::sys::node::POLL_TRACE;
use crate::sys::time::now_ns;
use crate::sys::wait::{new_wait_queue, Signals, WaitQueue, Waited};

const _: () = assert!(size_of::<Record>() == 192);
const _: () = assert!(hw::VFETCH_TRACE_MASK_WORDS as usize * 64 == crate::engine::mask::PAGES);

/// Records that the ring may hold.
const LEAST: u32 = 64;
const MOST: u32 = 65536;
/// Records that are copied at a time.
const BATCH: usize = 64;

/// Of a function.
#[pin_data]
pub(crate) struct Trace {
    /// Bit n: records of kind n are wanted. 0 while nobody traces.
    kinds: Atomic<u32>,
    #[pin]
    ring: SpinLock<Ring>,
    /// Those who read, and wait for a record, or for its end. (Who polls waits for the space's events.)
    #[pin]
    arrived: WaitQueue,
}

/// Records that were not read.
struct Ring {
    /// The space whose file began the trace, and who polls that.
    owner: Option<(u32, Arc<Events>)>,
    records: KVVec<Record>,
    /// The oldest, and how many there are.
    first: usize,
    count: usize,
    /// Of the next record.
    number: u64,
    lost: u64,
}

/// As records have it.
pub(crate) fn words(pages: &PageMask) -> [u64; hw::VFETCH_TRACE_MASK_WORDS as usize] {
    *pages.words()
}

/// As records have it.
pub(crate) fn place(to: Location) -> u32 {
    match to {
        Location::Host => hw::VFETCH_TRACE_TO_HOST,
        Location::Device => hw::VFETCH_TRACE_TO_DEVICE,
    }
}

impl Ring {
    const EMPTY: Self = Self {
        owner: None,
        records: KVVec::new(),
        first: 0,
        count: 0,
        number: 0,
        lost: 0,
    };

    /// Whether space `owner` began the trace.
    fn is_of(&self, owner: u32) -> bool {
        self.owner.as_ref().is_some_and(|(id, _)| *id == owner)
    }

    /// Who polls is to look again.
    fn tell(&self) {
        if let Some((_, events)) = &self.owner {
            events.happened.wake_all_for(POLL_TRACE);
        }
    }

    fn push(&mut self, mut record: Record) {
        record.number = self.number;
        record.time_ns = now_ns();
        self.number = self.number.wrapping_add(1);
        let len = self.records.len();
        if self.count >= len {
            self.lost = self.lost.saturating_add(1);
            return;
        }
        let mut at = self.first + self.count;
        if at >= len {
            at -= len;
        }
        if let Some(place) = self.records.get_mut(at) {
            *place = record;
            self.count += 1;
        }
    }

    fn pop(&mut self) -> Option<Record> {
        if self.count == 0 {
            return None;
        }
        let record = self.records.get(self.first).copied();
        self.first += 1;
        if self.first >= self.records.len() {
            self.first = 0;
        }
        self.count -= 1;
        record
    }
}

impl Trace {
    /// That nobody reads.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            kinds: Atomic::new(0),
            ring <- new_spinlock!(Ring::EMPTY, "vfetch: trace"),
            arrived <- new_wait_queue!("vfetch: trace"),
        })
    }

    /// Makes a record of `kind`, if somebody wants it: `fill` says what is in it.
    #[inline]
    pub(crate) fn record(&self, kind: u32, fill: impl FnOnce(&mut Record)) {
        if self.kinds.load(Relaxed) & (1 << kind) == 0 {
            return;
        }
        let mut record = Record {
            kind,
            ..Default::default()
        };
        fill(&mut record);
        self.push(record);
    }

    #[cold]
    fn push(&self, record: Record) {
        {
            let mut ring = self.ring.lock();
            // It may have ended meanwhile, or be another.
            if self.kinds.load(Relaxed) & (1 << record.kind) == 0 {
                return;
            }
            ring.push(record);
            ring.tell();
        }
        self.arrived.wake_all();
    }

    /// Records what became of `pages` of a move.
    pub(crate) fn moved(&self, kind: u32, moving: &Move, pages: &PageMask, error: i32) {
        self.record(kind, |record| {
            record.to = place(moving.to);
            // CAST: at most 512.
            record.count = pages.count() as u32;
            record.space = u64::from(moving.block.space.id);
            record.move_ = moving.id.0;
            record.first = moving.block.first_page();
            record.error = error.unsigned_abs();
            record.pages = words(pages);
        });
    }

    /// Begins, for the file of `owner`. EINVAL, EBUSY, ENOMEM.
    pub(crate) fn start(&self, owner: &Space, asked: &vfetch_trace_start) -> Result {
        let all = (2 << hw::VFETCH_TRACE_KINDS) - 2;
        if asked.kinds == 0 || asked.kinds & !all != 0 || !(LEAST..=MOST).contains(&asked.records) {
            return Err(EINVAL);
        }
        // CAST: at most 65536.
        let records = KVVec::from_elem(Record::default(), asked.records as usize, GFP_KERNEL)?;
        let fresh = Ring {
            owner: Some((owner.id, owner.events.clone())),
            records,
            ..Ring::EMPTY
        };
        let before = {
            let mut ring = self.ring.lock();
            let others = ring.owner.is_some() && !ring.is_of(owner.id);
            if others || self.kinds.load(Relaxed) != 0 {
                Err(fresh)
            } else {
                let before = core::mem::replace(&mut *ring, fresh);
                self.kinds.store(asked.kinds, Relaxed);
                Ok(before)
            }
        };
        // Not under the lock: freeing so much may sleep.
        before.map(drop).map_err(|_| EBUSY)
    }

    /// Ends the trace that space `owner` began. EINVAL.
    pub(crate) fn stop(&self, owner: u32) -> Result {
        {
            let ring = self.ring.lock();
            if !ring.is_of(owner) {
                return Err(EINVAL);
            }
            self.kinds.store(0, Relaxed);
            ring.tell();
        }
        self.arrived.wake_all();
        Ok(())
    }

    /// Ends it, whoever began it: the function is going.
    pub(crate) fn end(&self) {
        {
            // With the lock: no record is made after this.
            let ring = self.ring.lock();
            self.kinds.store(0, Relaxed);
            ring.tell();
        }
        self.arrived.wake_all();
    }

    /// The file of space `owner` is closed.
    pub(crate) fn release(&self, owner: u32) {
        let gone = {
            let mut ring = self.ring.lock();
            if !ring.is_of(owner) {
                return;
            }
            self.kinds.store(0, Relaxed);
            core::mem::replace(&mut *ring, Ring::EMPTY)
        };
        // Not under the lock, as above.
        drop(gone);
    }

    /// Whether reading would not wait: there are records, or there will be no more.
    fn has_news(&self, ring: &Ring) -> bool {
        ring.count > 0 || self.kinds.load(Relaxed) == 0
    }

    /// Whether space `owner` began the trace, and reading it would not wait.
    pub(crate) fn is_readable(&self, owner: u32) -> bool {
        let ring = self.ring.lock();
        ring.is_of(owner) && self.has_news(&ring)
    }

    /// Takes up to `room` records of the trace that space `owner` began to `to`, and waits for the first for at most `time`. Returns how many, and how
    /// many were lost so far. EINVAL, EFAULT, ETIME, EINTR.
    pub(crate) fn read(
        &self,
        owner: u32,
        room: u32,
        to: &mut UserBytes,
        time: Option<Msecs>,
    ) -> Result<(u32, u64)> {
        if room == 0 {
            return Err(EINVAL);
        }
        let mut mine = true;
        let over = || {
            let ring = self.ring.lock();
            mine = ring.is_of(owner);
            !mine || self.has_news(&ring)
        };
        match self.arrived.wait(Signals::Any, time, over) {
            Waited::Done => {}
            Waited::TimedOut => return Err(ETIME),
            Waited::Signal => return Err(EINTR),
        }
        if !mine {
            return Err(EINVAL);
        }
        let mut batch = KVec::with_capacity(BATCH, GFP_KERNEL)?;
        let mut taken = 0;
        loop {
            batch.clear();
            let lost = {
                let mut ring = self.ring.lock();
                // CAST: at most 64.
                while batch.len() < BATCH && taken + (batch.len() as u32) < room {
                    let Some(record) = ring.pop() else {
                        break;
                    };
                    // There is room.
                    let _ = batch.push_within_capacity(record);
                }
                ring.lost
            };
            if batch.is_empty() {
                return Ok((taken, lost));
            }
            for record in &batch {
                if let Err(error) = to.write(AsBytes::as_bytes(record)) {
                    let mut ring = self.ring.lock();
                    ring.lost = ring.lost.saturating_add(batch.len() as u64);
                    return Err(error);
                }
            }
            // CAST: as above.
            taken += batch.len() as u32;
        }
    }
}
