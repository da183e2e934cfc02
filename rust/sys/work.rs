// SPDX-License-Identifier: GPL-2.0

//! What the kernel crate's work queues lack.

use core::ops::Deref;
use core::ptr::NonNull;

use kernel::bindings;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::workqueue::{HasDelayedWork, HasWork, Queue, Work, WorkItem};

use super::shim;

/// The system's queue for work that may run anywhere. The kernel crate has only its former name,
/// which the kernel complains about.
pub(crate) fn system_unbound() -> &'static Queue {
    // SAFETY: `system_dfl_wq` is valid from before modules are loaded, for ever.
    unsafe { Queue::from_raw(bindings::system_dfl_wq) }
}

/// A queue of our own. Dropping it waits until all work on it has run.
///
/// # Invariants
///
/// The pointer is to a work queue that nobody else destroys.
pub(crate) struct OwnQueue(NonNull<bindings::workqueue_struct>);

// SAFETY: Work queues may be used and destroyed by any thread.
unsafe impl Send for OwnQueue {}
// SAFETY: As above.
unsafe impl Sync for OwnQueue {}

impl OwnQueue {
    /// An empty queue. ENOMEM.
    pub(crate) fn new(name: &'static CStr) -> Result<Self> {
        // SAFETY: The name is a string.
        let queue = unsafe { shim::vfetch_workqueue_alloc(name.as_char_ptr()) };
        // INVARIANT: It is ours.
        NonNull::new(queue).map(Self).ok_or(ENOMEM)
    }
}

impl Deref for OwnQueue {
    type Target = Queue;

    fn deref(&self) -> &Queue {
        // SAFETY: By the invariants it is valid for as long as `self`.
        unsafe { Queue::from_raw(self.0.as_ptr()) }
    }
}

impl Drop for OwnQueue {
    fn drop(&mut self) {
        // SAFETY: By the invariants. Nobody adds work any more, since whoever does borrows `self`.
        unsafe { bindings::destroy_workqueue(self.0.as_ptr()) };
    }
}

/// Takes `item` off its queue, or waits until it has run. It can be queued again afterwards: the
/// caller sees to it that nobody does, if that matters.
pub(crate) fn cancel_sync<T, const ID: u64>(item: &Arc<T>)
where
    T: HasWork<T, ID> + WorkItem<ID, Pointer = Arc<T>>,
{
    // SAFETY: The pointer is valid, since `item` holds a reference.
    let work = unsafe { T::raw_get_work(Arc::as_ptr(item).cast_mut()) };
    // SAFETY: The pointer is valid; the work was initialised with the item.
    let raw = unsafe { Work::raw_get(work) };
    // SAFETY: `raw` is a valid, initialised work item. It does not run on behalf of our caller, who
    // could otherwise not have waited for it.
    if unsafe { bindings::cancel_work_sync(raw) } {
        // SAFETY: It was queued and will not run: the reference that `Arc<T>` gave to the queue is
        // ours again. `HasWork` says that `raw` is a field of the same `T`.
        drop(unsafe { Arc::from_raw(Arc::as_ptr(item)) });
    }
}

/// The same for work that may still have to wait for its time: then it does not run.
pub(crate) fn cancel_delayed_sync<T, const ID: u64>(item: &Arc<T>)
where
    T: HasDelayedWork<T, ID> + HasWork<T, ID> + WorkItem<ID, Pointer = Arc<T>>,
{
    // SAFETY: The pointer is valid, since `item` holds a reference.
    let work = unsafe { T::raw_get_work(Arc::as_ptr(item).cast_mut()) };
    // SAFETY: The pointer is valid; the work was initialised with the item.
    let raw = unsafe { Work::raw_get(work) };
    // SAFETY: By `HasDelayedWork` the work is that of a `delayed_work`.
    let raw = unsafe { kernel::container_of!(raw, bindings::delayed_work, work) };
    // SAFETY: `raw` is a valid, initialised item. It does not run on behalf of our caller.
    if unsafe { bindings::cancel_delayed_work_sync(raw) } {
        // SAFETY: As in `cancel_sync`.
        drop(unsafe { Arc::from_raw(Arc::as_ptr(item)) });
    }
}
