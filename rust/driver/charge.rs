// SPDX-License-Identifier: GPL-2.0

//! Host memory of a space: whom it is charged to, and what gives way when there is none.
//!
//! All of it is charged to the memory cgroup of whoever opened the file, whoever makes it necessary: another process that has the space mapped, a
//! debugger, or a thread of ours. Where that cgroup has no room pages of the space go to the device, as far as there are free frames, before anybody
//! is killed for it. (The reclaim of a cgroup does not ask us: that it asks a shrinker is not for modules to say.)

use super::block::Block;
use super::relief::free;
use super::space::Space;
use crate::engine::mask::PAGES;
use crate::engine::prefetch::Location;
use crate::sys::host_page::{HostPage, Need};
use kernel::prelude::*;
use kernel::sync::atomic::Relaxed;

impl Space {
    /// A page that `alloc` makes, if it is to be had at once. ENOMEM.
    pub(crate) fn spare_page(&self, alloc: fn(Need) -> Result<HostPage>) -> Result<HostPage> {
        self.memcg.charged(|| alloc(Need::Spare))
    }

    /// A page that `alloc` makes, for which, if it is not to be had at once, blocks other than `keep` go to the device. ENOMEM, unless there
    /// [must](Need::Must) be one. With `keep` no lock may be held, not that of a fault either: who sends pages away waits for those who use them.
    pub(crate) fn page(
        &self,
        alloc: fn(Need) -> Result<HostPage>,
        need: Need,
        keep: Option<&Block>,
    ) -> Result<HostPage> {
        /// Blocks that may go in vain: somebody else in the cgroup takes what they leave.
        const TRIES: usize = 8;
        if let Some(keep) = keep {
            for _ in 0..TRIES {
                if let Ok(page) = self.spare_page(alloc) {
                    return Ok(page);
                }
                if !self.make_way(keep) {
                    break;
                }
            }
        }
        self.memcg.charged(|| alloc(need))
    }

    /// Sends the least recently used block other than `keep` to the device, if there are unused frames for it. Returns whether anything went.
    fn make_way(&self, keep: &Block) -> bool {
        let frames = u64::from(self.function.memory.available());
        let room = free(&self.function.room).min(free(&self.room)).min(frames);
        // What is reserved has a frame for each page.
        if room < PAGES as u64 && !self.reserved.load(Relaxed) {
            return false;
        }
        self.evict(Location::Host, Some(keep), u64::MAX).is_ok()
    }
}
