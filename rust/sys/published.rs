// SPDX-License-Identifier: GPL-2.0

//! A value that the module owns and that callbacks without any context find.

use core::marker::PhantomData;

use kernel::prelude::*;
use kernel::sync::atomic::{Acquire, Atomic, Full};
use kernel::sync::rcu;
use kernel::sync::Arc;

/// A place for a shared value, for a `static`.
pub(crate) struct Published<T: Send + Sync + 'static> {
    /// What `Arc::into_raw` gave, or null.
    value: Atomic<*mut T>,
    _value: PhantomData<Arc<T>>,
}

// SAFETY: References to the value are handed to any thread, which `T: Send + Sync` allows.
unsafe impl<T: Send + Sync + 'static> Sync for Published<T> {}

impl<T: Send + Sync + 'static> Published<T> {
    /// An empty place.
    pub(crate) const fn new() -> Self {
        Self {
            value: Atomic::new(core::ptr::null_mut()),
            _value: PhantomData,
        }
    }

    /// Puts `value` there until the guard is dropped. EBUSY if there is one already.
    pub(crate) fn publish(&'static self, value: Arc<T>) -> Result<Publication<T>> {
        let raw = Arc::into_raw(value).cast_mut();
        match self.value.cmpxchg(core::ptr::null_mut(), raw, Full) {
            Ok(_) => Ok(Publication(self)),
            Err(_) => {
                // SAFETY: `raw` is from `into_raw` above, and was not published.
                drop(unsafe { Arc::from_raw(raw.cast_const()) });
                Err(EBUSY)
            }
        }
    }

    /// The value, if there is one.
    pub(crate) fn get(&self) -> Option<Arc<T>> {
        let _guard = rcu::read_lock();
        let raw = self.value.load(Acquire);
        if raw.is_null() {
            return None;
        }
        // SAFETY: The pointer is from `into_raw`. The reference that it stands for is dropped only
        // a grace period after the pointer was taken away (`Publication::drop`), so that within this
        // critical section it is alive; it is not dropped here.
        let value = core::mem::ManuallyDrop::new(unsafe { Arc::from_raw(raw.cast_const()) });
        Some((*value).clone())
    }
}

/// Keeps a value published.
pub(crate) struct Publication<T: Send + Sync + 'static>(&'static Published<T>);

impl<T: Send + Sync + 'static> Drop for Publication<T> {
    fn drop(&mut self) {
        let raw = self.0.value.xchg(core::ptr::null_mut(), Full);
        rcu::synchronize_rcu();
        if !raw.is_null() {
            // SAFETY: The pointer is from `into_raw`, and nobody finds it any more.
            drop(unsafe { Arc::from_raw(raw.cast_const()) });
        }
    }
}
