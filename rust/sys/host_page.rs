// SPDX-License-Identifier: GPL-2.0

//! Pages of host memory that are ours and that user space may map.

use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr::NonNull;

use kernel::bindings;
use kernel::iov::{IovIterDest, IovIterSource};
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;

use super::shim;

pub(crate) use super::shim::Need;

/// A page of host memory, charged to the memory cgroup that whoever allocated it [charged to](super::memcg::MemoryCgroup::charge).
///
/// # Invariants
///
/// The pointer is to a page to which the value has a reference.
#[repr(transparent)]
pub(crate) struct HostPage(NonNull<bindings::page>);

// SAFETY: A reference to a page may be dropped by any thread.
unsafe impl Send for HostPage {}
// SAFETY: What is done through a shared reference is atomic, or races no more than user space, which has the page mapped, does.
unsafe impl Sync for HostPage {}

impl HostPage {
    /// A page of zeros. ENOMEM.
    pub(crate) fn zeroed(need: Need) -> Result<Self> {
        Self::alloc(true, need)
    }

    /// A page with anything in it, of which all will be overwritten before anybody sees it. ENOMEM.
    pub(crate) fn to_be_filled(need: Need) -> Result<Self> {
        Self::alloc(false, need)
    }

    fn alloc(zeroed: bool, need: Need) -> Result<Self> {
        // SAFETY: Callers may sleep.
        let page = unsafe { shim::vfetch_page_alloc(zeroed, need) };
        // INVARIANT: The reference is ours.
        NonNull::new(page).map(Self).ok_or(ENOMEM)
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::page {
        self.0.as_ptr()
    }

    /// Gives the reference up to whoever gets the pointer.
    pub(super) fn into_raw(self) -> NonNull<bindings::page> {
        ManuallyDrop::new(self).0
    }

    /// # Safety
    ///
    /// The caller has a reference to `page` and gives it up.
    pub(super) unsafe fn from_raw(page: NonNull<bindings::page>) -> Self {
        // INVARIANT: By this function's contract.
        Self(page)
    }

    /// Whether anybody else has a reference: a mapping, or whoever pinned the page for I/O. Nobody can get a new one while it is
    /// not mapped.
    pub(crate) fn is_shared(&self) -> bool {
        // SAFETY: By the invariants.
        unsafe { shim::vfetch_page_count(self.as_ptr()) > 1 }
    }

    /// Whether anybody but mappings has another reference, most likely.
    pub(crate) fn is_held(&self) -> bool {
        // SAFETY: By the invariants.
        unsafe { shim::vfetch_page_unmapped_count(self.as_ptr()) > 1 }
    }

    /// Whether it was used through a mapping that is gone by now. Forgets it.
    pub(crate) fn take_used(&self) -> bool {
        // SAFETY: By the invariants.
        unsafe { shim::vfetch_page_test_clear_referenced(self.as_ptr()) }
    }

    /// Copies bytes from `offset` on to the caller's buffer, and moves it on. Returns how many: fewer where the buffer stops being
    /// accessible.
    pub(crate) fn copy_to(&self, offset: usize, bytes: usize, iter: &mut IovIterDest<'_>) -> usize {
        let offset = offset.min(PAGE_SIZE);
        let bytes = bytes.min(PAGE_SIZE - offset);
        // SAFETY: By the invariants; the range lies inside of the page.
        unsafe { shim::vfetch_page_to_iter(self.as_ptr(), offset, bytes, iter.as_raw()) }
    }

    /// Copies bytes from the caller's buffer to `offset`, likewise.
    pub(crate) fn copy_from(
        &self,
        offset: usize,
        bytes: usize,
        iter: &mut IovIterSource<'_>,
    ) -> usize {
        let offset = offset.min(PAGE_SIZE);
        let bytes = bytes.min(PAGE_SIZE - offset);
        // SAFETY: By the invariants; the range lies inside of the page.
        unsafe { shim::vfetch_page_from_iter(self.as_ptr(), offset, bytes, iter.as_raw()) }
    }
}

impl Clone for HostPage {
    /// Another reference to the same page.
    fn clone(&self) -> Self {
        // SAFETY: By the invariants.
        unsafe { shim::vfetch_page_get(self.as_ptr()) };
        // INVARIANT: The new reference.
        Self(self.0)
    }
}

impl Drop for HostPage {
    fn drop(&mut self) {
        // SAFETY: By the invariants the reference is ours.
        unsafe { shim::vfetch_page_put(self.as_ptr()) };
    }
}

/// As many pages of host memory as there is room for, in an order. Room for one takes no memory; of more those that are left are given back
/// together when this is dropped, which costs less than one by one.
pub(crate) enum HostPages {
    /// Room for one.
    One(Option<HostPage>),
    /// Room for more.
    Many(ManyPages),
}

/// Pages that are given back together.
pub(crate) struct ManyPages(KVec<HostPage>);

impl HostPages {
    /// None.
    pub(crate) const NONE: Self = Self::One(None);

    /// None yet, and room for `most`. ENOMEM.
    pub(crate) fn with_capacity(most: usize) -> Result<Self> {
        Ok(match most {
            0 | 1 => Self::NONE,
            most => Self::Many(ManyPages(KVec::with_capacity(most, GFP_KERNEL)?)),
        })
    }

    /// Adds a page. ENOMEM where there is no room for it: then it is dropped.
    pub(crate) fn push(&mut self, page: HostPage) -> Result {
        match self {
            Self::One(none @ None) => *none = Some(page),
            Self::One(Some(_)) => return Err(ENOMEM),
            Self::Many(ManyPages(all)) => all.push_within_capacity(page).map_err(|_| ENOMEM)?,
        }
        Ok(())
    }

    /// Takes all of them out.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = HostPage> + '_ {
        let (one, many) = match self {
            Self::One(one) => (one.take(), None),
            Self::Many(ManyPages(all)) => (None, Some(all.drain_all())),
        };
        Iterator::chain(one.into_iter(), many.into_iter().flatten())
    }

    /// How many are neighbours in physical memory, from the one with this number on.
    pub(super) fn contiguous_from(&self, first: usize) -> usize {
        match self.get(first..) {
            None | Some([]) => 0,
            // SAFETY: They are as many pages, each the pointer to it.
            Some(pages) => unsafe {
                shim::vfetch_pages_contiguous(pages.as_ptr().cast(), pages.len())
            },
        }
    }
}

impl Deref for HostPages {
    type Target = [HostPage];

    fn deref(&self) -> &[HostPage] {
        match self {
            Self::One(one) => one.as_slice(),
            Self::Many(ManyPages(all)) => all,
        }
    }
}

impl Drop for ManyPages {
    fn drop(&mut self) {
        if self.0.is_empty() {
            return;
        }
        let (first, count, capacity) = core::mem::take(&mut self.0).into_raw_parts();
        let all = bindings::release_pages_arg {
            pages: first.cast(),
        };
        // SAFETY: They are pointers to pages to which we have references, and nobody has them afterwards.
        // CAST: far fewer than `i32::MAX`.
        unsafe { bindings::release_pages(all, count as i32) };
        // SAFETY: They are the vector's parts, and what its elements were is gone.
        self.0 = unsafe { KVec::from_raw_parts(first, 0, capacity) };
    }
}

/// A page that somebody else has a reference to, for as long as `'a`.
pub(crate) struct BorrowedPage<'a>(
    ManuallyDrop<HostPage>,
    core::marker::PhantomData<&'a HostPage>,
);

impl BorrowedPage<'_> {
    /// # Safety
    ///
    /// Somebody has a reference to `page` for `'a`.
    pub(super) unsafe fn from_raw(page: NonNull<bindings::page>) -> Self {
        Self(ManuallyDrop::new(HostPage(page)), core::marker::PhantomData)
    }
}

impl Deref for BorrowedPage<'_> {
    type Target = HostPage;

    fn deref(&self) -> &HostPage {
        &self.0
    }
}
