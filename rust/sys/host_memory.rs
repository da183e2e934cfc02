// SPDX-License-Identifier: GPL-2.0

//! A caller's buffer as a device sees it: pinned, and mapped for DMA.

use core::marker::PhantomData;

use kernel::bindings;
use kernel::device::{Bound, Device};
use kernel::dma::{DataDirection, DmaAddress};
use kernel::iov::{IovIterDest, IovIterSource};
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;

use super::device::as_raw;
use super::host_page::HostPage;
use super::shim;

/// Something that keeps a device bound.
pub(crate) trait KeepsBound {
    /// The device, which is bound for as long as `self` is there.
    fn device(&self) -> &Device<Bound>;
}

impl KeepsBound for &Device<Bound> {
    fn device(&self) -> &Device<Bound> {
        self
    }
}

/// A piece of a buffer that is contiguous for the device.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    /// Bus address of its first byte.
    pub(crate) address: DmaAddress,
    /// Its length, not 0.
    pub(crate) bytes: u32,
}

/// Zeroes up to `bytes` of a buffer and moves the iterator on. Returns how many were: fewer where the buffer ends or
/// stops being accessible.
pub(crate) fn zero(iter: &mut IovIterDest<'_>, bytes: usize) -> usize {
    // SAFETY: The iterator is valid.
    unsafe { shim::vfetch_iter_zero(iter.as_raw(), bytes) }
}

/// Makes the next pages of a buffer ready to be pinned, waiting for them: brings them in, and gives this
/// process copies of its own of those that it shares since a fork. The iterator stays where it is.
///
/// EFAULT when already the first of them is not accessible.
///
/// # Safety
///
/// `iter` is a valid iterator.
pub(super) unsafe fn bring_in(iter: *const bindings::iov_iter) -> Result {
    /// Pages at a time.
    const AHEAD: usize = 64;
    // SAFETY: By this function's contract. An iterator owns nothing, so that a copy of it may be moved on.
    let mut copy = unsafe { iter.read() };
    copy.nofault = false;
    let mut taken: KVec<*mut bindings::page> = KVec::with_capacity(AHEAD, GFP_KERNEL)?;
    let mut pages = taken.spare_capacity_mut().as_mut_ptr().cast();
    let mut offset = 0;
    // SAFETY: `copy` is valid; `pages` has room for `AHEAD` pointers, and since it is not null the
    // function does not allocate an array of its own.
    let bytes = unsafe {
        bindings::iov_iter_extract_pages(
            &mut copy,
            &mut pages,
            AHEAD * PAGE_SIZE,
            AHEAD as u32,
            0,
            &mut offset,
        )
    };
    let bytes = usize::try_from(bytes).map_err(|_| EFAULT)?;
    let count = offset.saturating_add(bytes).div_ceil(PAGE_SIZE);
    // SAFETY: The function has filled in that many pointers, within the capacity.
    unsafe { taken.inc_len(count) };
    // SAFETY: `copy` is valid.
    if unsafe { shim::vfetch_iter_will_pin(&copy) } {
        // SAFETY: We hold a pin on each.
        unsafe { bindings::unpin_user_pages(taken.as_mut_ptr(), taken.len()) };
    }
    if bytes == 0 {
        return Err(EFAULT);
    }
    Ok(())
}

/// How much of a buffer to take at a time.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes; no more than a `u32` can hold are taken.
    pub(crate) bytes: usize,
    /// Pages, of which there are at least as many as segments.
    pub(crate) pages: usize,
}

/// Part of a caller's buffer, pinned, or pages of our own; mapped for a device, until dropped.
///
/// The value must be dropped only when the device does not access the memory any more: that the
/// device could write to it is what mapping it means.
///
/// # Invariants
///
/// - `pages` are valid for as long as the value lives: pinned by it if `pinned` says so, else
///   part of the buffer, which lives for `'data`.
/// - the list consists of `pages` and of `own`.
/// - if `mapped` is not 0, `list` is mapped for `device` in `direction`, into that many segments.
pub(crate) struct HostMemory<'data, D: KeepsBound> {
    device: D,
    direction: DataDirection,
    pinned: bool,
    pages: KVec<*mut bindings::page>,
    own: KVec<HostPage>,
    /// Neighbouring pages are one entry.
    list: KVec<bindings::scatterlist>,
    mapped: usize,
    bytes: usize,
    _data: PhantomData<&'data ()>,
}

// SAFETY: Pages may be unpinned and unmapped by any thread that may sleep; a buffer of a caller's is not accessed.
unsafe impl<D: KeepsBound + Send> Send for HostMemory<'_, D> {}
// SAFETY: Nothing can be changed through a shared reference.
unsafe impl<D: KeepsBound + Sync> Sync for HostMemory<'_, D> {}

impl<D: KeepsBound> HostMemory<'static, D> {
    /// Maps pages of our own, of which the device shall read or write the whole, in their order. EINVAL when there are none, EIO when
    /// they cannot be mapped, ENOMEM: they are dropped then.
    pub(crate) fn from_pages(
        device: D,
        own: KVec<HostPage>,
        direction: DataDirection,
    ) -> Result<Self> {
        // INVARIANT: No pages, no segments.
        let mut this = Self {
            device,
            direction,
            pinned: false,
            pages: KVec::new(),
            list: KVec::with_capacity(own.len(), GFP_KERNEL)?,
            own,
            mapped: 0,
            bytes: 0,
            _data: PhantomData,
        };
        if this.own.is_empty() {
            return Err(EINVAL);
        }
        let mut end = None;
        for index in 0..this.own.len() {
            if let Some(page) = this.own.get(index).map(HostPage::as_ptr) {
                end = Some(this.append(page, 0, PAGE_SIZE, end)?);
                this.bytes += PAGE_SIZE;
            }
        }
        this.map()?;
        Ok(this)
    }

    /// Unmaps our own pages and gives them back.
    pub(crate) fn into_pages(mut self) -> KVec<HostPage> {
        self.unmap();
        core::mem::take(&mut self.own)
    }
}

impl<'data, D: KeepsBound> HostMemory<'data, D> {
    /// Takes the next bytes of a buffer that the device shall write, and moves the iterator on.
    ///
    /// It takes at least 1 byte and at most `limits`; fewer where the buffer ends or stops being
    /// accessible. EFAULT when already its first byte is not, EINVAL when there is none, ENOMEM,
    /// EIO when it cannot be mapped; the iterator may have moved then.
    pub(crate) fn from_dest(
        device: D,
        iter: &mut IovIterDest<'data>,
        limits: Limits,
    ) -> Result<Self> {
        // SAFETY: The iterator is valid, and its buffer is for `'data`.
        unsafe { Self::new(device, iter.as_raw(), DataDirection::FromDevice, limits) }
    }

    /// The same for a buffer that the device shall read.
    pub(crate) fn from_source(
        device: D,
        iter: &mut IovIterSource<'data>,
        limits: Limits,
    ) -> Result<Self> {
        // SAFETY: The iterator is valid, and its buffer is for `'data`.
        unsafe { Self::new(device, iter.as_raw(), DataDirection::ToDevice, limits) }
    }

    /// # Safety
    ///
    /// `iter` is a valid iterator over a buffer that is valid for `'data`, to be written if the
    /// direction is `FromDevice` and to be read if it is `ToDevice`.
    unsafe fn new(
        device: D,
        iter: *mut bindings::iov_iter,
        direction: DataDirection,
        limits: Limits,
    ) -> Result<Self> {
        let most_bytes = limits.bytes.min(u32::MAX as usize);
        // INVARIANT: No pages, no segments.
        let mut this = Self {
            device,
            direction,
            // SAFETY: `iter` is valid.
            pinned: unsafe { shim::vfetch_iter_will_pin(iter) },
            pages: KVec::with_capacity(limits.pages, GFP_KERNEL)?,
            own: KVec::new(),
            list: KVec::with_capacity(limits.pages, GFP_KERNEL)?,
            mapped: 0,
            bytes: 0,
            _data: PhantomData,
        };
        // Where the last entry of the list ends in physical memory.
        let mut end = None;
        while this.bytes < most_bytes {
            let first = this.pages.len();
            let room = this.pages.spare_capacity_mut();
            // There may be more room than was asked for.
            let most_pages = room.len().min(limits.pages.saturating_sub(first));
            if most_pages == 0 {
                break;
            }
            let mut pages = room.as_mut_ptr().cast::<*mut bindings::page>();
            let mut offset = 0;
            // SAFETY: `iter` is valid; `pages` has room for `most_pages` pointers, and since it is not
            // null the function does not allocate an array of its own.
            let taken = unsafe {
                bindings::iov_iter_extract_pages(
                    iter,
                    &mut pages,
                    most_bytes - this.bytes,
                    // CAST: far fewer than `u32::MAX`.
                    most_pages as u32,
                    0,
                    &mut offset,
                )
            };
            let taken = match usize::try_from(taken) {
                Ok(0) => break,
                Ok(taken) => taken,
                // What was taken before the bad part is good.
                Err(_) if this.bytes > 0 => break,
                // CAST: an errno fits.
                Err(_) => match Error::from_errno(taken as i32) {
                    // What is mapped there is a device's memory, and no page.
                    EEXIST => return Err(EFAULT),
                    error => return Err(error),
                },
            };
            let count = offset.saturating_add(taken).div_ceil(PAGE_SIZE);
            // SAFETY: The function has filled in that many pointers, within the capacity.
            // INVARIANT: They are pinned, or part of the buffer.
            unsafe { this.pages.inc_len(count) };
            this.bytes += taken;
            let mut left = taken;
            for index in first..this.pages.len() {
                let Some(page) = this.pages.get(index).copied() else {
                    break;
                };
                let bytes = left.min(PAGE_SIZE - offset);
                end = Some(this.append(page, offset, bytes, end)?);
                left -= bytes;
                offset = 0;
            }
        }
        if this.bytes == 0 {
            return Err(EINVAL);
        }
        this.map()?;
        Ok(this)
    }

    /// Adds `bytes` of `page` from `offset` to the list, which is not mapped yet and ends at `end` in physical
    /// memory. Neighbours become one entry. Returns where it ends now.
    fn append(
        &mut self,
        page: *mut bindings::page,
        offset: usize,
        bytes: usize,
        end: Option<u64>,
    ) -> Result<u64> {
        // SAFETY: The page is valid.
        let physical = unsafe { shim::vfetch_page_to_phys(page) } + offset as u64;
        // CAST: both are at most a page.
        let (offset, bytes) = (offset as u32, bytes as u32);
        match self.list.last_mut() {
            Some(last) if end == Some(physical) => last.length += bytes,
            _ => {
                let mut entry: bindings::scatterlist = pin_init::zeroed();
                // SAFETY: `entry` is a zeroed scatterlist entry, and the page is valid.
                unsafe { shim::vfetch_sg_set_page(&mut entry, page, bytes, offset) };
                // There is room, since there are no more entries than pages.
                self.list.push(entry, GFP_KERNEL)?;
            }
        }
        Ok(physical + u64::from(bytes))
    }

    /// Maps the list. EIO when it cannot be mapped.
    fn map(&mut self) -> Result {
        if let Some(last) = self.list.last_mut() {
            // SAFETY: `last` is an entry with a page.
            unsafe { shim::vfetch_sg_mark_end(last) };
        }
        // SAFETY: The device is bound. The list is complete, and its pages stay valid until `drop`
        // has unmapped it.
        let mapped = unsafe {
            bindings::dma_map_sg_attrs(
                as_raw(self.device.device()),
                self.list.as_mut_ptr(),
                // CAST: as many as fit into a list.
                self.list.len() as i32,
                self.direction.into(),
                0,
            )
        };
        // INVARIANT: So many entries are mapped.
        self.mapped = mapped as usize;
        if mapped == 0 {
            return Err(EIO);
        }
        Ok(())
    }

    /// The memory for the device, in the buffer's order. At least one segment, and no more than pages.
    pub(crate) fn segments(&self) -> impl Iterator<Item = Segment> + '_ {
        // The entries of the list hold the segments, of which there may be fewer.
        self.list.iter().take(self.mapped).map(|entry| Segment {
            address: entry.dma_address,
            bytes: entry.dma_length,
        })
    }

    /// Its number of segments.
    pub(crate) fn count(&self) -> usize {
        self.mapped
    }

    /// Bytes taken: the sum of the segments.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl<D: KeepsBound> HostMemory<'_, D> {
    fn unmap(&mut self) {
        if self.mapped > 0 {
            // SAFETY: By the invariants it is mapped like this; the number is that of its entries,
            // not of its segments.
            unsafe {
                bindings::dma_unmap_sg_attrs(
                    as_raw(self.device.device()),
                    self.list.as_mut_ptr(),
                    // CAST: as many as fit into a list.
                    self.list.len() as i32,
                    self.direction.into(),
                    0,
                )
            };
            // INVARIANT: It is not mapped any more.
            self.mapped = 0;
        }
    }
}

impl<D: KeepsBound> Drop for HostMemory<'_, D> {
    fn drop(&mut self) {
        self.unmap();
        if self.pinned {
            let written = self.direction == DataDirection::FromDevice;
            // SAFETY: By the invariants we hold a pin on each.
            unsafe {
                bindings::unpin_user_pages_dirty_lock(
                    self.pages.as_mut_ptr(),
                    self.pages.len(),
                    written,
                )
            };
        }
    }
}
