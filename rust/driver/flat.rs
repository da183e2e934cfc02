// SPDX-License-Identifier: GPL-2.0

//! Flat spaces: their pages are in neighbouring frames from the beginning to the end, where the device finds them without a page table.
//!
//! What is known of a page is what is known of others, too ([`super::block`]): that it is the device's. It stays so because nobody asks for it
//! elsewhere: jobs do not fault, a process's fault is refused, nothing brings it along, and its block is not among those that are sent away
//! when room is needed. Whoever asks from before the space was flat finds the block *fixed*.

use kernel::prelude::*;
use kernel::sync::atomic::{Acquire, Atomic, Release};
use kernel::sync::{new_mutex, Arc, Mutex};

use super::space::{bytes_of, region_of, Space};
use crate::engine::frames::FrameRun;
use crate::engine::mask::PAGES;
use crate::sys::abi as hw;
use crate::sys::pci::BoundGuard;
use crate::sys::wait::Signals;

/// Whether a space is flat. Changed only by who changes the space's size.
#[pin_data]
pub(crate) struct Flat {
    is: Atomic<bool>,
    /// Its frames, and the generation of the function's memory in which it got them. In another they are somebody else's.
    #[pin]
    frames: Mutex<Option<(FrameRun, u32)>>,
}

impl Flat {
    /// It is not.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            is: Atomic::new(false),
            frames <- new_mutex!(None, "vfetch: flat space"),
        })
    }

    /// Whether it is flat.
    pub(crate) fn is(&self) -> bool {
        self.is.load(Acquire)
    }

    /// It has given its frames back.
    pub(crate) fn end(&self) {
        self.is.store(false, Release);
    }

    /// What the device is to know of the space: `paged`, unless it has frames. If those were lost there is no such space, and its jobs end with EIO.
    pub(crate) fn entry(&self, paged: hw::vfetch_as, generation: u32) -> hw::vfetch_as {
        match *self.frames.lock() {
            None => paged,
            Some((run, then)) if then == generation => hw::vfetch_as {
                root: bytes_of(run).0,
                pages: run.count.into(),
                flags: hw::VFETCH_AS_VALID | hw::VFETCH_AS_FLAT,
                ..Default::default()
            },
            Some(_) => hw::vfetch_as::default(),
        }
    }
}

impl Space {
    /// The space, which is empty, gets `count` pages of zeros in neighbouring frames. To be called by who changes its size, before it does.
    ///
    /// ENOSPC there are not so many in one piece; EIO the device does not clear them, or was reset meanwhile; ENOMEM, ENODEV.
    pub(crate) fn lay_flat(self: &Arc<Self>, count: u32, device: &BoundGuard<'_>) -> Result {
        let memory = &self.function.memory;
        let generation = memory.generation();
        let run = memory.take_whole(count)?;
        self.occupy_room(run.count);
        // Before there is a block that could be sent away.
        self.flat.is.store(true, Release);
        let mut placed = 0;
        let laid = (self.function.scrub(core::iter::once(bytes_of(run))))
            .and_then(|()| self.place(run, &mut placed))
            .and_then(|()| {
                if memory.generation() == generation {
                    Ok(())
                } else {
                    Err(EIO)
                }
            });
        if let Err(error) = laid {
            // Nothing ends it.
            let _ = self.forget(0..u64::from(placed), false, Some(device), Signals::None);
            self.flat.end();
            if placed < count {
                let rest = FrameRun {
                    first: run.first + placed,
                    count: count - placed,
                };
                self.give(rest, false, generation);
            }
            return Err(error);
        }
        *self.flat.frames.lock() = Some((run, generation));
        Ok(())
    }

    /// Pages from the first on get the frames of `run`, which hold zeros. `placed` is how many did.
    fn place(self: &Arc<Self>, run: FrameRun, placed: &mut u32) -> Result {
        while *placed < run.count {
            let index = u64::from(*placed) / PAGES as u64;
            let region = region_of(&(0..run.count.into()), index);
            let block = self.block_or_new(index)?;
            let mut locked = block.lock();
            if !locked.zero_all(region, run.first + *placed, &block) {
                return Err(EIO);
            }
            // CAST: at most 512.
            *placed += region.len() as u32;
        }
        Ok(())
    }

    /// No job uses the frames of a flat space any more, whose size is 0 by now: those that do have left the space.
    pub(crate) fn leave_frames(&self) {
        *self.flat.frames.lock() = None;
        let Some(asid) = self.tell_device() else {
            return;
        };
        // When that has ended the device sees the new size: jobs that begin from now on are of a space without pages.
        self.function.invalidate(asid, 0, 0);
        self.fail_jobs(ERANGE, 0);
        // Jobs of another size shall not find what those remembered.
        self.function.invalidate(asid, 0, 0);
    }
}
