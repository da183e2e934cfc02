// SPDX-License-Identifier: GPL-2.0

//! When the machine runs short of memory pages go to the device, as far as it has frames that nobody uses.

use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::{Arc, ArcBorrow};
use kernel::workqueue::{impl_has_work, new_work, Work, WorkItem};

use super::evict::Room;
use super::function::Function;
use crate::engine::mask::PAGES;
use crate::engine::prefetch::Location;
use crate::sys::shrinker::{Shrink, Shrinker};
use crate::sys::work::{cancel_sync, system_unbound};

/// Sends blocks of a function's spaces to the device when it is asked to.
#[pin_data]
struct Sender {
    function: Arc<Function>,
    /// Pages that it has been asked for.
    wanted: Atomic<usize>,
    #[pin]
    work: Work<Sender>,
}

impl_has_work! {
    impl HasWork<Self> for Sender { self.work }
}

impl WorkItem for Sender {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.send(this.wanted.xchg(0usize, Relaxed) as u64);
    }
}

/// Pages that could come to the device without others going.
pub(crate) fn free(room: &Room) -> u64 {
    let side = Location::Device;
    room.limit(side).saturating_sub(room.used(side))
}

impl Sender {
    /// Sends the least recently used blocks, until `pages` have gone, or there is no room for a whole one.
    fn send(&self, pages: u64) {
        let function = &self.function;
        let mut left = pages;
        while left > 0 {
            let block = PAGES as u64;
            let Some(space) = function.oldest_space(Location::Host) else {
                return;
            };
            let frames = u64::from(function.memory.available());
            if free(&function.room).min(free(&space.room)).min(frames) < block {
                return;
            }
            let before = function.room.used(Location::Host);
            if space.evict(Location::Host, None, u64::MAX).is_err() {
                return;
            }
            let gone = before.saturating_sub(function.room.used(Location::Host));
            left = left.saturating_sub(gone.max(1));
        }
    }
}

impl Shrink for Sender {
    fn count(&self) -> usize {
        let room = &self.function.room;
        // CAST: both have 64 bits.
        room.used(Location::Host).min(free(room)) as usize
    }

    fn ask(this: ArcBorrow<'_, Self>, pages: usize) {
        this.wanted.store(pages, Relaxed);
        // It may be queued already. Nothing of ours is locked, and nobody is waited for.
        let _ = system_unbound().enqueue(Arc::from(this));
    }
}

/// A bound function gives host memory back, until this is dropped.
pub(crate) struct Relief {
    sender: Arc<Sender>,
    /// `None` only while it is being dropped.
    shrinker: Option<Shrinker<Sender>>,
}

impl Relief {
    /// Has `function` asked for memory from now on. ENOMEM.
    pub(crate) fn new(function: &Arc<Function>) -> Result<Self> {
        let sender = Arc::pin_init(
            pin_init!(Sender {
                function: function.clone(),
                wanted: Atomic::new(0),
                work <- new_work!("vfetch: relief"),
            }),
            GFP_KERNEL,
        )?;
        Ok(Self {
            shrinker: Some(Shrinker::new(sender.clone())?),
            sender,
        })
    }
}

impl Drop for Relief {
    fn drop(&mut self) {
        // Nobody asks any more, so that nothing is queued afterwards.
        drop(self.shrinker.take());
        cancel_sync(&self.sender);
    }
}
