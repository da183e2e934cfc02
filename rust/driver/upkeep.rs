// SPDX-License-Identifier: GPL-2.0

//! What has to be looked after from time to time, as long as there is something to look after.
//!
//! - Jobs wait for faults that the driver learns of by a message, and end by a completion, which comes with one, too. One that is lost would leave
//!   them, or those who wait for them, waiting for ever: while there are jobs the ring and the queue are looked at without one. Where a
//!   completion itself is lost nobody can tell that from a job that takes long; when it was cancelled, it is not to take longer than anything else.
//! - Pages that were pinned to the host, since somebody held them or there was no frame for them, do not fault any more. After one to two
//!   intervals they are unpinned: the next access of the device decides anew.

use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::{Arc, Mutex};
use kernel::time::{msecs_to_jiffies, Msecs};
use kernel::workqueue::{impl_has_delayed_work, new_delayed_work, DelayedWork, WorkItem};

use super::block::Block;
use super::function::Function;
use crate::sys::work::{cancel_delayed_sync, system_unbound};

/// Between two looks.
const INTERVAL_MS: Msecs = 100;

/// Looks after a function.
#[pin_data]
pub(crate) struct Upkeep {
    #[pin]
    work: DelayedWork<Upkeep>,
    /// The function while it is bound. It has a reference to this: the circle is broken by [`close`](Self::close).
    #[pin]
    function: Mutex<Option<Arc<Function>>>,
    /// Blocks with pinned pages. Each is there once.
    #[pin]
    pinned: Mutex<KVec<Arc<Block>>>,
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self> for Upkeep { self.work }
}

impl Upkeep {
    /// For a function that is still to come.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                work <- new_delayed_work!("vfetch: upkeep"),
                function <- new_mutex!(None, "vfetch: upkeep"),
                pinned <- new_mutex!(KVec::new(), "vfetch: blocks with pinned pages"),
            }),
            GFP_KERNEL,
        )
    }

    /// Names the function.
    pub(crate) fn open(&self, function: Arc<Function>) {
        *self.function.lock() = Some(function);
    }

    /// There is something to look after: it is, before long.
    pub(crate) fn soon(self: &Arc<Self>) {
        // The lock is held until it is queued: what is queued afterwards `close` would not see.
        let function = self.function.lock();
        if function.is_some() {
            // When it is queued already, the reference comes back, and is dropped.
            let _ = system_unbound().enqueue_delayed(self.clone(), msecs_to_jiffies(INTERVAL_MS));
        }
    }

    /// A block, which is locked, has pages that are pinned to the host. ENOMEM.
    pub(crate) fn look_after(self: &Arc<Self>, block: &Arc<Block>) -> Result {
        self.pinned.lock().push(block.clone(), GFP_KERNEL)?;
        self.soon();
        Ok(())
    }

    /// Looks after nothing any more: waits for what is under way, and forgets the function.
    pub(crate) fn close(self: &Arc<Self>) {
        let function = self.function.lock().take();
        cancel_delayed_sync(self);
        let blocks = core::mem::take(&mut *self.pinned.lock());
        // Not under the locks: they may be the last references.
        drop(blocks);
        drop(function);
    }

    /// Unpins what was pinned for long enough. Returns whether anything is pinned yet.
    fn unpin(&self) -> bool {
        let blocks = core::mem::take(&mut *self.pinned.lock());
        for block in blocks {
            let remembered = {
                let mut locked = block.lock();
                let stay = block.space.advice.of_block(block.index).stays_on_host();
                let (remembered, again) = locked.unpin_old(&stay, &block);
                if again && self.pinned.lock().push(block.clone(), GFP_KERNEL).is_err() {
                    locked.forget_upkeep();
                }
                remembered
            };
            // What the device remembers would spare it the fault.
            block.space.invalidate(&block, &remembered);
        }
        !self.pinned.lock().is_empty()
    }
}

impl WorkItem for Upkeep {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let Some(function) = this.function.lock().clone() else {
            return;
        };
        let pinned = this.unpin();
        let compute = function.compute.as_ref();
        let jobs = compute.filter(|queue| queue.in_flight() > 0);
        if let Some(queue) = jobs {
            function.faults.serve();
            queue.look();
            for at in 0.. {
                let space = function.open.lock().get(at).cloned();
                match space {
                    Some(space) => space.help_jobs(),
                    None => break,
                }
            }
        }
        if pinned || jobs.is_some() {
            this.soon();
        }
    }
}
