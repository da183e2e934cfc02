// SPDX-License-Identifier: GPL-2.0

//! The `address_space` of an open file: where its pages are mapped.

use kernel::bindings;
use kernel::error::from_err_ptr;
use kernel::prelude::*;

use super::shim;

/// A file of its own for the sake of its `address_space`: all opens of a node share one inode, and so
/// would share its.
///
/// # Invariants
///
/// The pointer is to a file to which the value has a reference.
pub(crate) struct Mapping(*mut bindings::file);

// SAFETY: A reference to a file may be dropped by any thread that may sleep.
unsafe impl Send for Mapping {}
// SAFETY: Unmapping takes the locks that it needs.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// One in which nothing is mapped. ENOMEM, ENFILE.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: No requirements; it may sleep here.
        // INVARIANT: The reference is ours.
        Ok(Self(from_err_ptr(unsafe {
            shim::vfetch_mapping_create()
        })?))
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::address_space {
        // SAFETY: By the invariants.
        unsafe { (*self.0).f_mapping }
    }

    /// Takes `count` pages of the file, from `first` on, out of all mappings of it. When this returns no processor uses them that
    /// way any more.
    ///
    /// Sleeps, and takes the locks of the mapping (`i_mmap_rwsem`) and of page tables.
    pub(crate) fn unmap(&self, first: u64, count: u64) {
        // SAFETY: By the invariants.
        // CAST: numbers of pages.
        unsafe {
            bindings::unmap_mapping_pages(self.as_ptr(), first as usize, count as usize, false)
        };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: It is ours, by the invariants. Memory mappings hold references to the file that has its
        // `address_space`, so that there are none by now.
        unsafe { bindings::fput(self.0) };
    }
}
