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
use super::host_page::HostPages;
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

/// The pages of a piece of memory.
enum Pages {
    /// Pinned, by whoever has this.
    Pinned(KVec<*mut bindings::page>),
    /// Part of a buffer that needs no pins.
    Lent(KVec<*mut bindings::page>),
    /// Our own.
    Own(HostPages),
}

/// Where they are in physical memory.
enum Extents {
    /// They are neighbours, from `offset` of the first on: most of the time. Such memory needs no list.
    One {
        first: *mut bindings::page,
        offset: usize,
        bytes: usize,
    },
    /// Each entry consists of neighbours.
    List(KVec<bindings::scatterlist>),
}

/// How they are mapped.
#[derive(Clone, Copy)]
enum Mapped {
    Nowhere,
    /// One extent.
    One(DmaAddress),
    /// A list, into so many segments.
    List(usize),
}

/// Part of a caller's buffer, pinned, or pages of our own; mapped for a device, until dropped.
///
/// The value must be dropped only when the device does not access the memory any more: that the
/// device could write to it is what mapping it means.
///
/// # Invariants
///
/// - `pages` are valid for as long as the value lives: pinned by it, its own, or part of the buffer, which lives for `'data`.
/// - `extents` consist of `pages`.
/// - they are mapped for `device` in `direction` as `mapped` says, in its variant.
pub(crate) struct HostMemory<'data, D: KeepsBound> {
    device: D,
    direction: DataDirection,
    pages: Pages,
    extents: Extents,
    mapped: Mapped,
    bytes: usize,
    _data: PhantomData<&'data ()>,
}

// SAFETY: Pages may be unpinned and unmapped by any thread that may sleep; a buffer of a caller's is not accessed.
unsafe impl<D: KeepsBound + Send> Send for HostMemory<'_, D> {}
// SAFETY: Nothing can be changed through a shared reference.
unsafe impl<D: KeepsBound + Sync> Sync for HostMemory<'_, D> {}

impl Extents {
    /// No memory.
    const NONE: Self = Self::One {
        first: core::ptr::null_mut(),
        offset: 0,
        bytes: 0,
    };

    /// Adds `bytes` of `page` from `offset`; what there is ends at `end` in physical memory. Returns where it ends now. There are
    /// `most` pages at most.
    ///
    /// # Safety
    ///
    /// `page` is valid, and the bytes lie inside of it; so are and do those that were added before.
    #[inline]
    unsafe fn append(
        &mut self,
        page: *mut bindings::page,
        offset: usize,
        bytes: usize,
        end: Option<u64>,
        most: usize,
    ) -> Result<u64> {
        // SAFETY: By this function's contract.
        let physical = unsafe { shim::vfetch_page_to_phys(page) } + offset as u64;
        if end == Some(physical) {
            match self {
                Self::One { bytes: all, .. } => *all += bytes,
                Self::List(list) => {
                    if let Some(last) = list.last_mut() {
                        // CAST: at most a page.
                        last.length += bytes as u32;
                    }
                }
            }
        } else {
            self.begin(page, offset, bytes, most)?;
        }
        Ok(physical + bytes as u64)
    }

    /// Adds what is no neighbour of what there is.
    fn begin(
        &mut self,
        page: *mut bindings::page,
        offset: usize,
        bytes: usize,
        most: usize,
    ) -> Result {
        match self {
            Self::List(list) => list.push(entry(page, offset, bytes), GFP_KERNEL)?,
            Self::One { bytes: 0, .. } => {
                *self = Self::One {
                    first: page,
                    offset,
                    bytes,
                };
            }
            Self::One {
                first,
                offset: from,
                bytes: all,
            } => {
                let mut list = KVec::with_capacity(most, GFP_KERNEL)?;
                list.push(entry(*first, *from, *all), GFP_KERNEL)?;
                list.push(entry(page, offset, bytes), GFP_KERNEL)?;
                *self = Self::List(list);
            }
        }
        Ok(())
    }
}

/// An entry of a list. `page` is valid.
fn entry(page: *mut bindings::page, offset: usize, bytes: usize) -> bindings::scatterlist {
    let mut entry: bindings::scatterlist = pin_init::zeroed();
    // SAFETY: `entry` is a zeroed scatterlist entry; only the pointer to the page is looked at.
    // CAST: less than a page, and as much as fits into a buffer.
    unsafe { shim::vfetch_sg_set_page(&mut entry, page, bytes as u32, offset as u32) };
    entry
}

impl<D: KeepsBound> HostMemory<'static, D> {
    /// Maps pages of our own, of which the device shall read or write the whole, in their order. EINVAL when there are none, EIO when
    /// they cannot be mapped, ENOMEM: they are dropped then.
    pub(crate) fn from_pages(device: D, own: HostPages, direction: DataDirection) -> Result<Self> {
        if own.is_empty() {
            return Err(EINVAL);
        }
        let mut extents = Extents::NONE;
        let mut at = 0;
        while let Some(page) = own.get(at) {
            let count = own.contiguous_from(at);
            extents.begin(page.as_ptr(), 0, count * PAGE_SIZE, own.len())?;
            at += count;
        }
        let bytes = own.len() * PAGE_SIZE;
        // INVARIANT: Nothing is mapped.
        let mut this = Self {
            device,
            direction,
            pages: Pages::Own(own),
            extents,
            mapped: Mapped::Nowhere,
            bytes,
            _data: PhantomData,
        };
        this.map()?;
        Ok(this)
    }

    /// Unmaps our own pages and gives them back.
    pub(crate) fn into_pages(mut self) -> HostPages {
        self.unmap();
        match core::mem::replace(&mut self.pages, Pages::Own(HostPages::NONE)) {
            Pages::Own(pages) => pages,
            // INVARIANT: As it was.
            others => {
                self.pages = others;
                HostPages::NONE
            }
        }
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
        let pages = KVec::with_capacity(limits.pages, GFP_KERNEL)?;
        // INVARIANT: No pages, and nothing mapped.
        let mut this = Self {
            device,
            direction,
            // SAFETY: `iter` is valid.
            pages: if unsafe { shim::vfetch_iter_will_pin(iter) } {
                Pages::Pinned(pages)
            } else {
                Pages::Lent(pages)
            },
            extents: Extents::NONE,
            mapped: Mapped::Nowhere,
            bytes: 0,
            _data: PhantomData,
        };
        // Where what there is ends in physical memory.
        let mut end = None;
        while this.bytes < most_bytes {
            let (Pages::Pinned(all) | Pages::Lent(all)) = &mut this.pages else {
                break;
            };
            let first = all.len();
            let room = all.spare_capacity_mut();
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
            unsafe { all.inc_len(count) };
            this.bytes += taken;
            let mut left = taken;
            for page in all.iter().skip(first) {
                let bytes = left.min(PAGE_SIZE - offset);
                let extents = &mut this.extents;
                // SAFETY: The page is valid, and as many bytes of it are part of the buffer.
                end = Some(unsafe { extents.append(*page, offset, bytes, end, limits.pages) }?);
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

    /// Maps it. EIO when it cannot be mapped.
    fn map(&mut self) -> Result {
        let device = as_raw(self.device.device());
        let direction = self.direction.into();
        // INVARIANT: So it is mapped.
        self.mapped = match &mut self.extents {
            Extents::One {
                first,
                offset,
                bytes,
            } => {
                let mut at = 0;
                // SAFETY: The device is bound. The pages are neighbours, and stay valid until `drop` has unmapped them.
                if !unsafe {
                    shim::vfetch_dma_map_page(device, *first, *offset, *bytes, direction, &mut at)
                } {
                    return Err(EIO);
                }
                Mapped::One(at)
            }
            Extents::List(list) => {
                if let Some(last) = list.last_mut() {
                    // SAFETY: `last` is an entry with a page.
                    unsafe { shim::vfetch_sg_mark_end(last) };
                }
                // SAFETY: The device is bound. The list is complete, and its pages stay valid until `drop`
                // has unmapped it.
                let segments = unsafe {
                    bindings::dma_map_sg_attrs(
                        device,
                        list.as_mut_ptr(),
                        // CAST: as many as fit into a list.
                        list.len() as i32,
                        direction,
                        0,
                    )
                };
                if segments == 0 {
                    return Err(EIO);
                }
                Mapped::List(segments as usize)
            }
        };
        Ok(())
    }

    /// The memory for the device, in the buffer's order. At least one segment, and no more than pages.
    pub(crate) fn segments(&self) -> impl Iterator<Item = Segment> + '_ {
        let (one, list) = match (&self.extents, self.mapped) {
            (Extents::One { bytes, .. }, Mapped::One(address)) => {
                // CAST: as many as were taken, which fit.
                let bytes = *bytes as u32;
                (Some(Segment { address, bytes }), None)
            }
            (Extents::List(list), Mapped::List(segments)) => (None, list.get(..segments)),
            _ => (None, None),
        };
        // The entries of the list hold the segments, of which there may be fewer.
        let listed = list.unwrap_or(&[]).iter().map(|entry| Segment {
            address: entry.dma_address,
            bytes: entry.dma_length,
        });
        Iterator::chain(one.into_iter(), listed)
    }

    /// Its number of segments.
    pub(crate) fn count(&self) -> usize {
        match self.mapped {
            Mapped::Nowhere => 0,
            Mapped::One(_) => 1,
            Mapped::List(segments) => segments,
        }
    }

    /// Bytes taken: the sum of the segments.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl<D: KeepsBound> HostMemory<'_, D> {
    fn unmap(&mut self) {
        let device = as_raw(self.device.device());
        let direction = self.direction.into();
        // INVARIANT: It is not mapped any more.
        match (
            core::mem::replace(&mut self.mapped, Mapped::Nowhere),
            &mut self.extents,
        ) {
            (Mapped::One(at), Extents::One { bytes, .. }) => {
                // SAFETY: By the invariants it is mapped like this, and the device is bound.
                unsafe { bindings::dma_unmap_page_attrs(device, at, *bytes, direction, 0) };
            }
            (Mapped::List(_), Extents::List(list)) => {
                // SAFETY: By the invariants it is mapped like this; the number is that of its entries,
                // not of its segments.
                unsafe {
                    bindings::dma_unmap_sg_attrs(
                        device,
                        list.as_mut_ptr(),
                        // CAST: as many as fit into a list.
                        list.len() as i32,
                        direction,
                        0,
                    )
                };
            }
            _ => {}
        }
    }
}

impl<D: KeepsBound> Drop for HostMemory<'_, D> {
    fn drop(&mut self) {
        self.unmap();
        if let Pages::Pinned(pages) = &mut self.pages {
            let written = self.direction == DataDirection::FromDevice;
            // SAFETY: By the invariants we hold a pin on each.
            unsafe {
                bindings::unpin_user_pages_dirty_lock(pages.as_mut_ptr(), pages.len(), written)
            };
        }
    }
}
