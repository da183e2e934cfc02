// SPDX-License-Identifier: GPL-2.0

//! What is done to many pages of a leaf at a time: to neighbours, or to the pages of a *group* of 64, with one bit for each.

use core::ops::Range;

use kernel::prelude::*;

use super::{
    frame_of, in_frame, pointer_of, write, Leaf, FRAME, HOST, MAPPED, REMOTE_PAGES, VALID, WRITE,
};
use crate::sys::abi as hw;
use crate::sys::device::as_raw;
use crate::sys::host_page::{HostPage, HostPages};
use crate::sys::shim;

/// Pages of a group.
const GROUP: usize = u64::BITS as usize;

const _: () = assert!(GROUP == REMOTE_PAGES);

/// The pages of `group` that `pages` says, each with its bit, in ascending order.
fn each(group: usize, pages: u64) -> impl Iterator<Item = (usize, u64)> {
    let first = group.saturating_mul(GROUP);
    let mut left = pages;
    core::iter::from_fn(move || {
        let bit = left & left.wrapping_neg();
        left ^= bit;
        // CAST: below 64.
        (bit != 0).then(|| (first.saturating_add(bit.trailing_zeros() as usize), bit))
    })
}

/// The pages of `group` from the first to the last that `pages` says.
fn span(group: usize, pages: u64) -> Range<usize> {
    let first = group.saturating_mul(GROUP);
    // CAST: at most 64.
    let (before, behind) = (
        pages.trailing_zeros() as usize,
        pages.leading_zeros() as usize,
    );
    first.saturating_add(before)..first.saturating_add(GROUP - behind)
}

impl Leaf {
    // ---- Neighbours -------------------------------------------------------------------------------

    /// How many of `pages` are, from the first on, in frames that follow one another, and the first frame; or are in none.
    pub(crate) fn frame_run(&self, pages: Range<usize>) -> (usize, Option<u32>) {
        let frame = self.frame(pages.start);
        let entries = self.entries.0.get(pages).unwrap_or(&[]);
        let run = (0u32..).zip(entries).take_while(|(at, entry)| {
            frame_of(**entry) == frame.map(|frame| frame.saturating_add(*at))
        });
        (run.count(), frame)
    }

    /// Adds `pages` to `all`, which are all in host memory and stay where they are. EIO, ENOMEM.
    pub(crate) fn share(&self, pages: Range<usize>, all: &mut HostPages) -> Result {
        for page in pages {
            let page = self.host(page).ok_or(EIO)?;
            all.push(HostPage::clone(&page))?;
        }
        Ok(())
    }

    /// `pages` are in frames from `first` on from now on; pages of host memory that they were in are dropped. The device may not reach them.
    pub(crate) fn put_frames(&mut self, pages: Range<usize>, first: u32) {
        self.clear(pages.clone());
        let entries = self.entries.0.get_mut(pages.clone()).unwrap_or(&mut []);
        for (entry, frame) in entries.iter_mut().zip(first..) {
            write(entry, in_frame(frame));
        }
        self.show(pages);
    }

    /// `pages` are nowhere from now on; what was there is dropped. The device does not use it any more.
    pub(crate) fn clear(&mut self, pages: Range<usize>) {
        let mapped = self.has_remote();
        for page in pages.clone() {
            match self.entries.0.get_mut(page) {
                Some(entry) if mapped || *entry & VALID != 0 => drop(self.take(page)),
                Some(entry) => {
                    let pointer = pointer_of(*entry);
                    write(entry, 0);
                    // SAFETY: By the invariants the reference is ours, and we have forgotten it.
                    drop(pointer.map(|pointer| unsafe { HostPage::from_raw(pointer) }));
                }
                None => break,
            }
        }
        self.show(pages);
    }

    // ---- Groups -----------------------------------------------------------------------------------

    /// Those of `pages` of `group` that are in host memory, and are as `is` asks.
    pub(crate) fn filter_host(
        &self,
        group: usize,
        pages: u64,
        is: impl Fn(&HostPage) -> bool,
    ) -> u64 {
        let mut found = 0;
        for (page, bit) in each(group, pages) {
            if self.host(page).is_some_and(|page| is(&page)) {
                found |= bit;
            }
        }
        found
    }

    /// Lets the device reach those of `pages` of `group` that are in frames.
    pub(crate) fn allow(&mut self, group: usize, pages: u64, may_write: bool) {
        let rights = if may_write { VALID | WRITE } else { VALID };
        for (page, _) in each(group, pages) {
            if let Some(entry) = self.entries.0.get_mut(page) {
                if frame_of(*entry).is_some() {
                    let address = *entry & (hw::VFETCH_PTE_ADDRESS | FRAME);
                    write(entry, address | rights);
                }
            }
        }
        self.show(span(group, pages));
    }

    /// Keeps the device from `pages` of `group`. Returns those that it could reach; it may remember that until their entries are
    /// invalidated.
    pub(crate) fn forbid(&mut self, group: usize, pages: u64) -> u64 {
        let mut reached = 0;
        for (page, bit) in each(group, pages) {
            if self.entry(page) & VALID != 0 {
                self.forbid_one(page);
                reached |= bit;
            }
        }
        self.show(span(group, pages));
        if self.is_attached() {
            reached
        } else {
            0
        }
    }

    /// The same of one page, whose entry is valid, and without showing it.
    fn forbid_one(&mut self, page: usize) {
        let entry = self.entry(page);
        let new = match self.host_pointer(page) {
            // INVARIANT: The reference goes from `remote` to the entry, and the bus address the other way.
            Some(pointer) => {
                self.set_remote_word(page, entry & hw::VFETCH_PTE_ADDRESS | MAPPED);
                // CAST: pointers have 64 bits.
                pointer.as_ptr() as u64 | HOST
            }
            None => entry & (hw::VFETCH_PTE_ADDRESS | FRAME),
        };
        if let Some(place) = self.entries.0.get_mut(page) {
            write(place, new);
        }
    }

    /// Whether a device has ever reached any of the pages in host memory.
    pub(crate) fn has_remote(&self) -> bool {
        self.remote.is_some()
    }

    /// Those of `pages` of `group` that are in host memory and that the device may remember that it reached there, although it does not any more.
    pub(crate) fn remembered(&self, group: usize, pages: u64) -> u64 {
        let mut remembered = 0;
        for (page, bit) in each(group, pages) {
            if self.mapped_at(page).is_some() {
                remembered |= bit;
            }
        }
        remembered
    }

    /// Those of `pages` of `group` that the device has marked as used. The marks stay.
    pub(crate) fn accessed(&self, group: usize, pages: u64) -> u64 {
        const GROUP: usize = u64::BITS as usize;
        const WORD: usize = size_of::<u64>();
        /// Brings the lowest bit of each byte to the highest byte, in their order.
        const GATHER: u64 = 0x0102_0408_1020_4080;
        let (Some((device, address)), Some(marks)) = (&self.attached, &self.marks) else {
            return 0;
        };
        let first = group.saturating_mul(GROUP);
        let Some(marks) = marks.0.get(first..first.saturating_add(GROUP)) else {
            return 0;
        };
        let at = address.marks.saturating_add(first as u64);
        // SAFETY: By the invariants they are mapped like this.
        unsafe { shim::vfetch_dma_sync_for_cpu(as_raw(device), at, GROUP) };
        let mut accessed = 0;
        for (number, word) in marks.chunks_exact(WORD).enumerate() {
            // SAFETY: It is a word of ours, aligned since all marks together are and `first` is the place of one. The device may be
            // writing its bytes, of which any value is valid.
            let word = u64::from_le(unsafe { word.as_ptr().cast::<u64>().read_volatile() });
            let ones = word / u64::from(hw::VFETCH_MARK_ACCESSED) & (u64::MAX / 0xff);
            accessed |= (ones.wrapping_mul(GATHER) >> (u64::BITS - u8::BITS)) << (number * WORD);
        }
        accessed & pages
    }

    /// Those of `pages` of `group` that the device has used since it was last asked. It says so again only after their entries were
    /// invalidated.
    pub(crate) fn take_accessed(&mut self, group: usize, pages: u64) -> u64 {
        let (Some((device, address)), Some(marks)) = (&self.attached, &mut self.marks) else {
            return 0;
        };
        let span = span(group, pages);
        let at = address.marks.saturating_add(span.start as u64);
        let device = as_raw(device);
        // SAFETY: By the invariants they are mapped like this.
        unsafe { shim::vfetch_dma_sync_for_cpu(device, at, span.len()) };
        let mut accessed = 0;
        for (page, bit) in each(group, pages) {
            let Some(mark) = marks.0.get_mut(page).map(core::ptr::from_mut) else {
                break;
            };
            // SAFETY: As above. The device may be writing the byte, of which any value is valid.
            let value = unsafe { mark.read_volatile() };
            if value == 0 {
                continue;
            }
            let at = address.marks.saturating_add(page as u64);
            // SAFETY: Likewise.
            unsafe {
                mark.write_volatile(0);
                shim::vfetch_dma_sync_for_device(device, at, 1);
            }
            if u32::from(value) & hw::VFETCH_MARK_ACCESSED != 0 {
                accessed |= bit;
            }
        }
        accessed
    }
}
