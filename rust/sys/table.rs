// SPDX-License-Identifier: GPL-2.0

//! A sparse table of shared objects. The kernel crate's `XArray` cannot look for the next entry.

use core::marker::PhantomData;

use kernel::bindings;
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::types::Opaque;

use super::shim;

/// Objects by number.
///
/// # Invariants
///
/// Each entry is a pointer from `Arc::<T>::into_raw`, of which the table has the reference.
#[pin_data(PinnedDrop)]
pub(crate) struct Table<T: Send + Sync + 'static> {
    #[pin]
    xa: Opaque<bindings::xarray>,
    _objects: PhantomData<Arc<T>>,
}

// SAFETY: References to the objects may be used and dropped by any thread.
unsafe impl<T: Send + Sync> Send for Table<T> {}
// SAFETY: As above; the array has a lock of its own.
unsafe impl<T: Send + Sync> Sync for Table<T> {}

impl<T: Send + Sync> Table<T> {
    /// An empty table.
    pub(crate) fn new() -> impl PinInit<Self> {
        // INVARIANT: There are no entries.
        pin_init!(Self {
            // SAFETY: The slot is valid for writes, and the array stays where it is.
            xa <- Opaque::ffi_init(|xa| unsafe { shim::vfetch_xa_init(xa) }),
            _objects: PhantomData,
        })
    }

    /// # Safety
    ///
    /// `entry` is null or an entry of the table, which is locked since it was looked up.
    unsafe fn shared(entry: *mut core::ffi::c_void) -> Option<Arc<T>> {
        if entry.is_null() {
            return None;
        }
        // SAFETY: By the invariants the table has a reference, and keeps it while it is locked. The one that is made
        // here is forgotten.
        let object = core::mem::ManuallyDrop::new(unsafe { Arc::from_raw(entry.cast::<T>()) });
        Some((*object).clone())
    }

    fn locked<R>(&self, action: impl FnOnce(*mut bindings::xarray) -> R) -> R {
        // SAFETY: The array is initialised. Nobody takes its lock in an interrupt.
        unsafe { bindings::xa_lock(self.xa.get()) };
        let result = action(self.xa.get());
        // SAFETY: Locked above.
        unsafe { bindings::xa_unlock(self.xa.get()) };
        result
    }

    /// The object at `index`.
    pub(crate) fn get(&self, index: usize) -> Option<Arc<T>> {
        // SAFETY: The array is valid; what is found is an entry, and it is locked.
        self.locked(|xa| unsafe { Self::shared(bindings::xa_load(xa, index)) })
    }

    /// The first object from `index` to `last`, and where it is.
    pub(crate) fn next(&self, index: usize, last: usize) -> Option<(usize, Arc<T>)> {
        let mut at = index;
        // SAFETY: The array is valid; what is found is an entry, and it is locked.
        self.locked(|xa| unsafe {
            Self::shared(bindings::xa_find(xa, &mut at, last, bindings::XA_PRESENT))
        })
        .map(|object| (at, object))
    }

    /// Puts `object` at `index`, unless another is there, which is returned then. ENOMEM.
    pub(crate) fn get_or_insert(&self, index: usize, object: Arc<T>) -> Result<Arc<T>> {
        let raw = Arc::into_raw(object.clone());
        let found: Result<Option<Arc<T>>> = self.locked(|xa| {
            // SAFETY: The array is valid and locked (the lock is released to allocate). Pointers to objects are aligned to 4 at least.
            // INVARIANT: If it is stored, the reference `raw` is the table's.
            let entry = unsafe { shim::vfetch_xa_put(xa, index, raw.cast_mut().cast()) };
            // SAFETY: No requirements.
            to_result(unsafe { bindings::xa_err(entry) })?;
            // SAFETY: It is null or an entry, and it is locked.
            Ok(unsafe { Self::shared(entry) })
        });
        if !matches!(found, Ok(None)) {
            // SAFETY: It was not stored: the reference is ours.
            drop(unsafe { Arc::from_raw(raw) });
        }
        Ok(found?.unwrap_or(object))
    }

    /// Takes the object at `index` out.
    pub(crate) fn remove(&self, index: usize) -> Option<Arc<T>> {
        // SAFETY: The array is valid and locked.
        let entry = self.locked(|xa| unsafe { bindings::__xa_erase(xa, index) });
        // SAFETY: By the invariants; the reference was the table's, which has it no more.
        (!entry.is_null()).then(|| unsafe { Arc::from_raw(entry.cast::<T>()) })
    }
}

#[pinned_drop]
impl<T: Send + Sync> PinnedDrop for Table<T> {
    fn drop(self: Pin<&mut Self>) {
        let mut from = 0;
        while let Some((at, object)) = self.next(from, usize::MAX) {
            drop((self.remove(at), object));
            from = at;
        }
        // SAFETY: The array is valid, and nobody uses it any more.
        unsafe { bindings::xa_destroy(self.xa.get()) };
    }
}
