// SPDX-License-Identifier: GPL-2.0

//! Where each page of a block is, and what of it a device may reach: the leaf of its page table.
//!
//! The device ignores entries that are not valid. They hold what the host must know: a frame's number, or a page of host memory.
//! So a block needs no second table.

use core::ptr::NonNull;

use kernel::bindings;
use kernel::prelude::*;

use super::host_page::{BorrowedPage, HostPage};
use crate::sys::abi as hw;

const ENTRIES: usize = hw::VFETCH_PT_ENTRIES as usize;

/// An entry that is not valid: its other bits are a page of host memory. Such pointers are multiples of more than this.
const HOST: u64 = 0x8;
/// The entry's address is a frame. The device ignores it in valid entries too.
const FRAME: u64 = 0x10;

const _: () = {
    assert!(FRAME & hw::VFETCH_PTE_IGNORED as u64 == FRAME);
    assert!(HOST & hw::VFETCH_PT_VALID as u64 == 0);
    assert!(core::mem::align_of::<bindings::page>() as u64 > HOST);
    assert!(core::mem::size_of::<Entries>() == 1 << hw::VFETCH_PAGE_SHIFT);
};

/// Where the contents of a page are.
pub(crate) enum Place {
    /// Nowhere.
    Nowhere,
    /// In a frame of device memory.
    Frame(u32),
    /// In host memory.
    Host(HostPage),
}

#[repr(C, align(4096))]
#[derive(Zeroable)]
struct Entries([u64; ENTRIES]);

/// The places of the pages of a block. Pages are numbered from 0; those that a block has not are nowhere.
///
/// # Invariants
///
/// An entry is 0; or has `FRAME`; or is not valid, has `HOST` and is otherwise a pointer to a page to which the leaf has a reference.
pub(crate) struct Leaf {
    entries: KBox<Entries>,
}

impl Leaf {
    /// All pages are nowhere. ENOMEM.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            // INVARIANT: All are 0.
            entries: KBox::init(pin_init::init_zeroed::<Entries>(), GFP_KERNEL_ACCOUNT)?,
        })
    }

    fn entry(&self, page: usize) -> u64 {
        self.entries.0.get(page).copied().unwrap_or(0)
    }

    /// Writes an entry as a whole: the device may be reading it.
    fn set(&mut self, page: usize, entry: u64) {
        if let Some(place) = self.entries.0.get_mut(page) {
            // SAFETY: It is a reference to an aligned word of ours.
            unsafe { core::ptr::from_mut(place).write_volatile(entry) };
        }
    }

    fn host_pointer(entry: u64) -> Option<NonNull<bindings::page>> {
        if entry & (HOST | hw::VFETCH_PT_VALID as u64) != HOST {
            return None;
        }
        // CAST: pointers have 64 bits.
        NonNull::new((entry & !HOST) as *mut bindings::page)
    }

    /// The frame that a page is in.
    pub(crate) fn frame(&self, page: usize) -> Option<u32> {
        let entry = self.entry(page);
        // CAST: a frame's number was put there.
        (entry & FRAME != 0)
            .then_some(((entry & hw::VFETCH_PTE_ADDRESS) >> hw::VFETCH_PAGE_SHIFT) as u32)
    }

    /// The page of host memory that a page is in.
    pub(crate) fn host(&self, page: usize) -> Option<BorrowedPage<'_>> {
        // SAFETY: By the invariants the leaf has a reference, and keeps it for as long as it is borrowed.
        Self::host_pointer(self.entry(page)).map(|page| unsafe { BorrowedPage::from_raw(page) })
    }

    /// Says where a page is from now on; what was there is dropped. The device may not reach it.
    pub(crate) fn put(&mut self, page: usize, place: Place) {
        if page >= ENTRIES {
            return;
        }
        drop(self.take(page));
        let entry = match place {
            Place::Nowhere => 0,
            Place::Frame(frame) => u64::from(frame) << hw::VFETCH_PAGE_SHIFT | FRAME,
            // INVARIANT: The reference is the leaf's.
            // CAST: pointers have 64 bits.
            Place::Host(page) => page.into_raw().as_ptr() as u64 | HOST,
        };
        self.set(page, entry);
    }

    /// Takes away where a page is: it is nowhere.
    pub(crate) fn take(&mut self, page: usize) -> Place {
        let entry = self.entry(page);
        let place = match Self::host_pointer(entry) {
            // SAFETY: By the invariants the reference is ours, and we forget it below.
            Some(page) => Place::Host(unsafe { HostPage::from_raw(page) }),
            None => self.frame(page).map_or(Place::Nowhere, Place::Frame),
        };
        self.set(page, 0);
        place
    }

    /// Lets the device reach the frame that a page is in, or nothing if it is in none.
    pub(crate) fn allow(&mut self, page: usize, write: bool) {
        if self.frame(page).is_some() {
            let rights = hw::VFETCH_PT_VALID | if write { hw::VFETCH_PTE_WRITE } else { 0 };
            let address = self.entry(page) & (hw::VFETCH_PTE_ADDRESS | FRAME);
            self.set(page, address | u64::from(rights));
        }
    }

    /// Keeps the device from the page. Returns whether it could reach it; it may remember that until its entries are
    /// invalidated.
    pub(crate) fn forbid(&mut self, page: usize) -> bool {
        let entry = self.entry(page);
        let valid = entry & u64::from(hw::VFETCH_PT_VALID) != 0;
        if valid {
            self.set(page, entry & (hw::VFETCH_PTE_ADDRESS | FRAME));
        }
        valid
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        for page in 0..ENTRIES {
            drop(self.take(page));
        }
    }
}
