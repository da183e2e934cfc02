// SPDX-License-Identifier: GPL-2.0

//! Being asked for memory when the machine runs short of it.

use core::ptr::NonNull;

use kernel::bindings;
use kernel::ffi::c_ulong;
use kernel::prelude::*;
use kernel::sync::{Arc, ArcBorrow};

/// What holds memory that it could do without.
///
/// Both functions are called from within anybody's allocation, whatever locks are held there, of the implementor's too: they take none that
/// may be held across an allocation, and do not sleep.
pub(crate) trait Shrink: Send + Sync + 'static {
    /// How many pages it could do without.
    fn count(&self) -> usize;

    /// Asks it to do without `pages` pages, later.
    fn ask(this: ArcBorrow<'_, Self>, pages: usize);
}

/// A registered `struct shrinker`. It frees nothing while it is asked: what it does later is up to `T`.
///
/// # Invariants
///
/// `raw` is registered, and its `private_data` is the pointer of `object`.
pub(crate) struct Shrinker<T: Shrink> {
    raw: NonNull<bindings::shrinker>,
    _object: Arc<T>,
}

// SAFETY: It may be freed by any thread; the rest is `Send`.
unsafe impl<T: Shrink> Send for Shrinker<T> {}
// SAFETY: Nothing can be done through a shared reference.
unsafe impl<T: Shrink> Sync for Shrinker<T> {}

impl<T: Shrink> Shrinker<T> {
    /// Has `object` asked from now on. ENOMEM.
    pub(crate) fn new(object: Arc<T>) -> Result<Self> {
        // SAFETY: A string that asks for no arguments.
        let raw = unsafe { bindings::shrinker_alloc(0, c"vfetch".as_char_ptr()) };
        let raw = NonNull::new(raw).ok_or(ENOMEM)?;
        // SAFETY: It is ours until it is registered, with everything set that is looked at.
        // INVARIANT: The pointer is that of `object`.
        unsafe {
            let shrinker = raw.as_ptr();
            (*shrinker).count_objects = Some(Self::count);
            (*shrinker).scan_objects = Some(Self::scan);
            (*shrinker).private_data = Arc::as_ptr(&object).cast_mut().cast();
            bindings::shrinker_register(shrinker);
        }
        Ok(Self {
            raw,
            _object: object,
        })
    }

    /// # Safety
    ///
    /// `raw` is the shrinker of a `Shrinker<T>` that is not dropped for `'a`.
    unsafe fn object<'a>(raw: *mut bindings::shrinker) -> ArcBorrow<'a, T> {
        // SAFETY: By this function's contract, and the invariants of `Shrinker`, which has a reference.
        unsafe { ArcBorrow::from_raw((*raw).private_data.cast::<T>()) }
    }

    /// # Safety
    ///
    /// Called as a `count_objects` operation, with the shrinker of a `Shrinker<T>`.
    unsafe extern "C" fn count(
        raw: *mut bindings::shrinker,
        _: *mut bindings::shrink_control,
    ) -> c_ulong {
        // SAFETY: By this function's contract; `shrinker_free()` waits for those who call this.
        unsafe { Self::object(raw) }.count()
    }

    /// # Safety
    ///
    /// Called as a `scan_objects` operation, with the shrinker of a `Shrinker<T>` and a valid `control`.
    unsafe extern "C" fn scan(
        raw: *mut bindings::shrinker,
        control: *mut bindings::shrink_control,
    ) -> c_ulong {
        /// `SHRINK_STOP`: nothing was freed, and asking again now would not help.
        const STOP: c_ulong = c_ulong::MAX;
        // SAFETY: As in `count`; the caller's structure is valid.
        unsafe { T::ask(Self::object(raw), (*control).nr_to_scan) };
        STOP
    }
}

impl<T: Shrink> Drop for Shrinker<T> {
    fn drop(&mut self) {
        // SAFETY: By the invariants; nobody else frees it. When this returns nobody calls it any more.
        unsafe { bindings::shrinker_free(self.raw.as_ptr()) };
    }
}
