// SPDX-License-Identifier: GPL-2.0

//! Where each page of a block is, and what of it a device may reach: the leaf of its page table.
//!
//! The device ignores entries that are not valid. They hold what the host must know: a frame's number, or a page of host memory.
//! So a block needs no second table.

use core::ops::Range;
use core::ptr::NonNull;

use kernel::bindings;
use kernel::device::Device;
use kernel::dma::{DataDirection, DmaAddress};
use kernel::prelude::*;
use kernel::sync::aref::ARef;

mod many;

use super::device::as_raw;
use super::host_memory::KeepsBound;
use super::host_page::{BorrowedPage, HostPage};
use super::shim;
use crate::sys::abi as hw;

const ENTRIES: usize = hw::VFETCH_PT_ENTRIES as usize;

/// The bits of entries.
const VALID: u64 = hw::VFETCH_PT_VALID as u64;
const WRITE: u64 = hw::VFETCH_PTE_WRITE as u64;
const REMOTE: u64 = hw::VFETCH_PTE_REMOTE as u64;
/// An entry that is not valid: its other bits are a page of host memory. Such pointers are multiples of more than this.
const HOST: u64 = 0x8;
/// The entry's address is a frame. The device ignores it in valid entries too.
const FRAME: u64 = 0x10;

const _: () = {
    assert!(FRAME & hw::VFETCH_PTE_IGNORED as u64 == FRAME);
    assert!(HOST & (VALID | WRITE | REMOTE) == 0);
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

/// What the device says of each page.
#[repr(C, align(512))]
#[derive(Zeroable)]
struct Marks([u8; ENTRIES]);

/// Of pages of host memory that the device reaches, or may remember that it does, what their entries do not say: while the entry is valid
/// and has the bus address, the page; afterwards, when it has the page again, the bus address with `MAPPED`.
#[derive(Zeroable)]
struct Remote([u64; REMOTE_PAGES]);

/// Those of all pages, where there are any.
struct Remotes([Option<KBox<Remote>>; ENTRIES / REMOTE_PAGES]);

/// Pages that such a part tells of: few of a block are reached remotely, and those are neighbours.
const REMOTE_PAGES: usize = 64;
/// In the bus address of a page: it is mapped.
const MAPPED: u64 = 1;

/// Where a device finds a leaf.
#[derive(Clone, Copy)]
pub(crate) struct LeafAddress {
    /// Of the entries.
    pub(crate) leaf: DmaAddress,
    /// Of the marks.
    pub(crate) marks: DmaAddress,
}

/// The places of the pages of a block. Pages are numbered from 0; those that a block has not are nowhere.
///
/// # Invariants
///
/// - An entry is 0; or has `FRAME`; or is not valid, has `HOST` and is otherwise a pointer to a page to which the leaf has a reference; or
///   is valid, has `REMOTE` and the bus address of its page, which is the one in `remote`, to which the leaf has a reference.
/// - If it is attached, entries and marks are mapped for that device, and so are the pages whose bus addresses entries or `remote` have. The
///   device is bound. Else there are no such pages.
pub(crate) struct Leaf {
    entries: KBox<Entries>,
    marks: Option<KBox<Marks>>,
    remote: Option<KBox<Remotes>>,
    attached: Option<(ARef<Device>, LeafAddress)>,
}

// SAFETY: References to pages may be used and dropped by any thread.
unsafe impl Send for Leaf {}
// SAFETY: As above; nothing is changed through a shared reference.
unsafe impl Sync for Leaf {}

/// The frame that a page with this entry is in.
fn frame_of(entry: u64) -> Option<u32> {
    // A pointer may have the bit too.
    let framed = entry & FRAME != 0 && entry & (HOST | VALID) != HOST;
    // CAST: a frame's number was put there.
    framed.then_some(((entry & hw::VFETCH_PTE_ADDRESS) >> hw::VFETCH_PAGE_SHIFT) as u32)
}

/// The page of host memory that the page with this entry is in, which the device may not reach.
fn pointer_of(entry: u64) -> Option<NonNull<bindings::page>> {
    if entry & (HOST | VALID) != HOST {
        return None;
    }
    // CAST: pointers have 64 bits.
    NonNull::new((entry & !HOST) as *mut bindings::page)
}

/// The entry of a page that is in a frame, which the device may not reach.
fn in_frame(frame: u32) -> u64 {
    u64::from(frame) << hw::VFETCH_PAGE_SHIFT | FRAME
}

/// Writes an entry as a whole: the device may be reading it.
fn write(place: &mut u64, entry: u64) {
    // SAFETY: It is a reference to an aligned word of ours.
    unsafe { core::ptr::from_mut(place).write_volatile(entry) };
}

impl Leaf {
    /// All pages are nowhere. ENOMEM.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            // INVARIANT: All are 0, and nothing is attached.
            entries: KBox::init(pin_init::init_zeroed::<Entries>(), GFP_KERNEL_ACCOUNT)?,
            marks: None,
            remote: None,
            attached: None,
        })
    }

    fn entry(&self, page: usize) -> u64 {
        self.entries.0.get(page).copied().unwrap_or(0)
    }

    /// Writes an entry as a whole: the device may be reading it.
    fn set(&mut self, page: usize, entry: u64) {
        if let Some(place) = self.entries.0.get_mut(page) {
            write(place, entry);
            self.show(page..page + 1);
        }
    }

    /// The device sees what was [written](write) of `pages`.
    fn show(&self, pages: Range<usize>) {
        let pages = pages.start.min(ENTRIES)..pages.end.min(ENTRIES);
        if let (Some((device, address)), false) = (&self.attached, pages.is_empty()) {
            let at = address.leaf.saturating_add(8 * pages.start as u64);
            // SAFETY: By the invariants it is mapped like this.
            unsafe { shim::vfetch_dma_sync_for_device(as_raw(device), at, 8 * pages.len()) };
        }
    }

    /// What `remote` has of a page.
    fn remote_word(&self, page: usize) -> u64 {
        let parts = self.remote.as_ref();
        let part = parts.and_then(|parts| parts.0.get(page / REMOTE_PAGES)?.as_ref());
        let word = part.and_then(|part| part.0.get(page % REMOTE_PAGES));
        word.copied().unwrap_or(0)
    }

    fn set_remote_word(&mut self, page: usize, word: u64) {
        let parts = self.remote.as_mut();
        let part = parts.and_then(|parts| parts.0.get_mut(page / REMOTE_PAGES)?.as_mut());
        if let Some(place) = part.and_then(|part| part.0.get_mut(page % REMOTE_PAGES)) {
            *place = word;
        }
    }

    /// Where a page of host memory is mapped for the device.
    fn mapped_at(&self, page: usize) -> Option<DmaAddress> {
        let entry = self.entry(page);
        if entry & (REMOTE | VALID) == REMOTE | VALID {
            return Some(entry & hw::VFETCH_PTE_ADDRESS);
        }
        let word = self.remote_word(page);
        (word & MAPPED != 0).then_some(word & !MAPPED)
    }

    fn host_pointer(&self, page: usize) -> Option<NonNull<bindings::page>> {
        let entry = self.entry(page);
        if entry & (REMOTE | VALID) == REMOTE | VALID {
            // CAST: pointers have 64 bits.
            return NonNull::new(self.remote_word(page) as *mut bindings::page);
        }
        pointer_of(entry)
    }

    /// The frame that a page is in.
    pub(crate) fn frame(&self, page: usize) -> Option<u32> {
        frame_of(self.entry(page))
    }

    /// The page of host memory that a page is in.
    pub(crate) fn host(&self, page: usize) -> Option<BorrowedPage<'_>> {
        let page = self.host_pointer(page)?;
        // SAFETY: By the invariants the leaf has a reference, and keeps it for as long as it is borrowed.
        Some(unsafe { BorrowedPage::from_raw(page) })
    }

    /// Says where a page is from now on; what was there is dropped. The device may not reach it.
    pub(crate) fn put(&mut self, page: usize, place: Place) {
        if page >= ENTRIES {
            return;
        }
        if self.entry(page) != 0 {
            drop(self.take(page));
        }
        let entry = match place {
            Place::Nowhere => 0,
            Place::Frame(frame) => in_frame(frame),
            // INVARIANT: The reference is the leaf's.
            // CAST: pointers have 64 bits.
            Place::Host(page) => page.into_raw().as_ptr() as u64 | HOST,
        };
        self.set(page, entry);
    }

    /// Takes away where a page is: it is nowhere. The device does not use it any more, and this is not [shown](Self::show) to it.
    fn take(&mut self, page: usize) -> Place {
        let place = match self.host_pointer(page) {
            // SAFETY: By the invariants the reference is ours, and we forget it below.
            Some(pointer) => Place::Host(unsafe { HostPage::from_raw(pointer) }),
            None => self.frame(page).map_or(Place::Nowhere, Place::Frame),
        };
        let mapped = self.mapped_at(page);
        if let Some(entry) = self.entries.0.get_mut(page) {
            write(entry, 0);
        }
        if let Some(at) = mapped {
            self.unmap_remote(page, at);
        }
        place
    }

    // ---- Devices --------------------------------------------------------------------------------

    /// Lets a device read the entries and write the marks. ENOMEM, EIO. It must be [detached](Self::detach) before the device is unbound.
    pub(crate) fn attach(&mut self, device: &impl KeepsBound) -> Result<LeafAddress> {
        if let Some((_, address)) = &self.attached {
            return Ok(*address);
        }
        if self.marks.is_none() {
            self.marks = Some(KBox::init(
                pin_init::init_zeroed::<Marks>(),
                GFP_KERNEL_ACCOUNT,
            )?);
        }
        let marks = self.marks.as_deref_mut().ok_or(ENOMEM)?;
        let raw = as_raw(device.device());
        let (mut leaf_at, mut marks_at) = (0, 0);
        // SAFETY: The device is bound; both are memory of ours, from the allocator, that stays until `detach` has unmapped it, or for ever.
        unsafe {
            let entries: *mut Entries = &mut *self.entries;
            if !shim::vfetch_dma_map(raw, entries.cast(), size_of::<Entries>(), &mut leaf_at) {
                return Err(EIO);
            }
            let marks: *mut Marks = marks;
            if !shim::vfetch_dma_map(raw, marks.cast(), size_of::<Marks>(), &mut marks_at) {
                shim::vfetch_dma_unmap(raw, leaf_at, size_of::<Entries>());
                return Err(EIO);
            }
        }
        let address = LeafAddress {
            leaf: leaf_at,
            marks: marks_at,
        };
        // INVARIANT: Both are mapped.
        self.attached = Some((device.device().into(), address));
        Ok(address)
    }

    /// Whether a device reads it.
    pub(crate) fn is_attached(&self) -> bool {
        self.attached.is_some()
    }

    /// The device, which does not use the leaf any more, need not reach it, nor pages of host memory.
    pub(crate) fn detach(&mut self, device: &impl KeepsBound) {
        let same = |(attached, _): &(ARef<Device>, LeafAddress)| {
            as_raw(attached) == as_raw(device.device())
        };
        if !self.attached.as_ref().is_some_and(same) {
            return;
        }
        for group in 0..ENTRIES / REMOTE_PAGES {
            self.forbid(group, u64::MAX);
        }
        for page in 0..ENTRIES {
            if let Some(at) = self.mapped_at(page) {
                self.unmap_remote(page, at);
            }
        }
        if let Some((_, address)) = self.attached.take() {
            let raw = as_raw(device.device());
            // SAFETY: By the invariants they are mapped like this, and the device is bound.
            unsafe {
                shim::vfetch_dma_unmap(raw, address.leaf, size_of::<Entries>());
                shim::vfetch_dma_unmap(raw, address.marks, size_of::<Marks>());
            }
        }
    }

    /// Lets the attached device reach a page that is in host memory, there. EINVAL if it is not, or nothing is attached; ENOMEM, EIO.
    pub(crate) fn allow_remote(&mut self, page: usize) -> Result {
        let pointer = self.host_pointer(page).ok_or(EINVAL)?;
        if self.entry(page) & VALID != 0 {
            return Ok(());
        }
        let known = self.mapped_at(page);
        let (device, _) = self.attached.as_ref().ok_or(EINVAL)?;
        let parts = match &mut self.remote {
            Some(parts) => parts,
            none @ None => {
                let parts = Remotes([const { None }; ENTRIES / REMOTE_PAGES]);
                none.insert(KBox::new(parts, GFP_KERNEL_ACCOUNT)?)
            }
        };
        let part = parts.0.get_mut(page / REMOTE_PAGES).ok_or(EINVAL)?;
        if part.is_none() {
            let new = KBox::init(pin_init::init_zeroed::<Remote>(), GFP_KERNEL_ACCOUNT)?;
            *part = Some(new);
        }
        let bus = match known {
            Some(bus) => bus,
            None => {
                let mut bus = 0;
                // SAFETY: By the invariants the device is bound, and the page ours until it was unmapped.
                if !unsafe {
                    shim::vfetch_dma_map_page(
                        as_raw(device),
                        pointer.as_ptr(),
                        0,
                        1 << hw::VFETCH_PAGE_SHIFT,
                        DataDirection::Bidirectional.into(),
                        &mut bus,
                    )
                } {
                    return Err(EIO);
                }
                bus
            }
        };
        // INVARIANT: The reference goes from the entry to `remote`, and the entry gets the address at which the page is mapped.
        // CAST: pointers have 64 bits.
        self.set_remote_word(page, pointer.as_ptr() as u64);
        self.set(page, bus & hw::VFETCH_PTE_ADDRESS | VALID | WRITE | REMOTE);
        Ok(())
    }

    /// Unmaps a page of host memory, mapped at `at`, that the device does not use any more. Its entry does not have the address.
    fn unmap_remote(&mut self, page: usize, at: DmaAddress) {
        if let Some((device, _)) = &self.attached {
            // SAFETY: By the invariants it is mapped like this, and the device is bound.
            unsafe { shim::vfetch_dma_unmap(as_raw(device), at, 1 << hw::VFETCH_PAGE_SHIFT) };
        }
        // INVARIANT: It is not any more.
        self.set_remote_word(page, 0);
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        for page in 0..ENTRIES {
            // Where it is attached all the same, what the device may reach is not given back.
            if self.attached.is_none() || self.entry(page) & VALID == 0 {
                drop(self.take(page));
            }
        }
        if self.attached.is_some() {
            kernel::pr_warn_once!("a page table's leaf was still attached\n");
            if let Some(marks) = self.marks.take() {
                core::mem::forget(marks);
            }
            if let Ok(new) = KBox::init(pin_init::init_zeroed::<Entries>(), GFP_KERNEL) {
                core::mem::forget(core::mem::replace(&mut self.entries, new));
            }
        }
    }
}
