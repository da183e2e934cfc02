// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A space as memory. With [`crate::sys`] the only module with `unsafe`.
#![allow(unsafe_code)]

use std::{
    ops::Range,
    os::fd::BorrowedFd,
    ptr::{self, NonNull},
    sync::atomic::AtomicU64,
};

use rustix::{
    io::{Errno, Result},
    mm::{mmap, munmap, MapFlags, ProtFlags},
};

/// What a mapping may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Loads.
    Read,
    /// Loads and stores.
    ReadWrite,
}

/// A space, or a part of it, as memory of this process.
///
/// Loads and stores see what [`Space::read_at`](crate::Space::read_at), [`write_at`](crate::Space::write_at) and jobs see, at the same
/// offsets; the first one to a page that is in device memory waits until it has come. The mapping keeps the space's memory, but not its
/// file: it lives on when the [`Space`](crate::Space) is dropped, and is inherited by forked children.
///
/// Others may change the memory at any time, so it is not to be had as a slice: words are loaded and stored whole, or
/// used as atomics; longer parts are copied. [`Mapping::as_ptr`] is there for whoever knows better.
///
/// **SIGBUS** comes, as in any mapped file, on the use of what lies beyond the space's end, and also on the use of pages whose contents were
/// lost with the device (a function reset, unplugging) or cannot be fetched.
#[derive(Debug)]
pub struct Mapping {
    address: NonNull<u8>,
    bytes: usize,
    access: Access,
}

// SAFETY: It owns a range of addresses. What is there is accessed as memory is that others change.
unsafe impl Send for Mapping {}
// SAFETY: As above.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub(crate) fn of(fd: BorrowedFd<'_>, part: Range<u64>, access: Access) -> Result<Self> {
        let bytes = part.end.saturating_sub(part.start);
        let bytes = usize::try_from(bytes).map_err(|_| Errno::OVERFLOW)?;
        let rights = match access {
            Access::Read => ProtFlags::READ,
            Access::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
        };
        // SAFETY: A new mapping, wherever the kernel wants it.
        let address = unsafe {
            mmap(
                ptr::null_mut(),
                bytes,
                rights,
                MapFlags::SHARED,
                fd,
                part.start,
            )?
        };
        let address = NonNull::new(address.cast()).ok_or(Errno::NOMEM)?;
        Ok(Self {
            address,
            bytes,
            access,
        })
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// `false`: there are no mappings of nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Its first byte. Valid as long as this value; what is there may change at any time.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.address.as_ptr()
    }

    /// Where `T` is, or a panic.
    fn at<T>(&self, offset: usize) -> *mut T {
        let fits = offset.checked_add(size_of::<T>());
        assert!(
            offset % align_of::<T>() == 0 && fits.is_some_and(|end| end <= self.bytes),
            "offset {offset} of a mapping of {} bytes",
            self.bytes
        );
        self.as_ptr().wrapping_add(offset).cast()
    }

    fn writable(&self) {
        assert!(
            self.access == Access::ReadWrite,
            "a mapping for reading is written"
        );
    }

    /// Loads the 8 bytes at `offset`, a multiple of 8, at once.
    ///
    /// # Panics
    ///
    /// When they are not all inside, or not aligned. So do the others.
    #[must_use]
    pub fn u64(&self, offset: usize) -> u64 {
        // SAFETY: Inside the mapping and aligned, see `at`; all bits are a number.
        unsafe { self.at::<u64>(offset).read_volatile() }
    }

    /// Stores the 8 bytes at `offset`, a multiple of 8, at once.
    ///
    /// # Panics
    ///
    /// As [`Mapping::u64`]; when the mapping is for reading.
    pub fn set_u64(&self, offset: usize, value: u64) {
        self.writable();
        // SAFETY: As in `u64`.
        unsafe { self.at::<u64>(offset).write_volatile(value) }
    }

    /// As [`Mapping::u64`], 4 bytes.
    ///
    /// # Panics
    ///
    /// As [`Mapping::u64`].
    #[must_use]
    pub fn u32(&self, offset: usize) -> u32 {
        // SAFETY: As in `u64`.
        unsafe { self.at::<u32>(offset).read_volatile() }
    }

    /// As [`Mapping::set_u64`], 4 bytes.
    ///
    /// # Panics
    ///
    /// As [`Mapping::set_u64`].
    pub fn set_u32(&self, offset: usize, value: u32) {
        self.writable();
        // SAFETY: As in `u64`.
        unsafe { self.at::<u32>(offset).write_volatile(value) }
    }

    /// As [`Mapping::u64`], a double.
    ///
    /// # Panics
    ///
    /// As [`Mapping::u64`].
    #[must_use]
    pub fn f64(&self, offset: usize) -> f64 {
        f64::from_bits(self.u64(offset))
    }

    /// As [`Mapping::set_u64`], a double.
    ///
    /// # Panics
    ///
    /// As [`Mapping::set_u64`].
    pub fn set_f64(&self, offset: usize, value: f64) {
        self.set_u64(offset, value.to_bits());
    }

    /// The 8 bytes at `offset`, a multiple of 8, for atomic operations between threads and processes that have the space mapped. The device's
    /// jobs know no atomic operations; they and the host never have a page at once.
    ///
    /// # Panics
    ///
    /// As [`Mapping::set_u64`].
    #[must_use]
    pub fn atomic(&self, offset: usize) -> &AtomicU64 {
        self.writable();
        // SAFETY: As in `u64`; it is there as long as the mapping.
        unsafe { AtomicU64::from_ptr(self.at(offset)) }
    }

    /// Copies what is at `offset` to `to`. Aligned words of 8 bytes come whole.
    ///
    /// # Panics
    ///
    /// When it is not all inside.
    pub fn read(&self, offset: usize, to: &mut [u8]) {
        let end = offset.checked_add(to.len());
        assert!(end.is_some_and(|end| end <= self.bytes), "not all inside");
        let mut at = offset;
        let mut left = to;
        while !left.is_empty() {
            let bytes = if at % 8 == 0 && left.len() >= 8 { 8 } else { 1 };
            let (piece, rest) = std::mem::take(&mut left).split_at_mut(bytes);
            if bytes == 8 {
                piece.copy_from_slice(&self.u64(at).to_ne_bytes());
            } else {
                // SAFETY: As in `u64`.
                piece.fill(unsafe { self.at::<u8>(at).read_volatile() });
            }
            (left, at) = (rest, at + bytes);
        }
    }

    /// Copies `from` to `offset`. Aligned words of 8 bytes go whole.
    ///
    /// # Panics
    ///
    /// When it does not all fit; when the mapping is for reading.
    pub fn write(&self, offset: usize, from: &[u8]) {
        let end = offset.checked_add(from.len());
        assert!(end.is_some_and(|end| end <= self.bytes), "not all inside");
        self.writable();
        let mut at = offset;
        let mut left = from;
        while let Some(first) = left.first() {
            if let (0, Some((word, rest))) = (at % 8, left.split_first_chunk()) {
                self.set_u64(at, u64::from_ne_bytes(*word));
                (left, at) = (rest, at + 8);
            } else {
                // SAFETY: As in `u64`.
                unsafe { self.at::<u8>(at).write_volatile(*first) };
                (left, at) = (left.get(1..).unwrap_or_default(), at + 1);
            }
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: It is ours, and nothing refers to it: `atomic` borrows the value.
        let _ = unsafe { munmap(self.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use std::{os::fd::AsFd, sync::atomic::Ordering};

    use super::*;

    fn mapping(bytes: u64, access: Access) -> Mapping {
        let file = tempfile::tempfile().unwrap();
        file.set_len(bytes).unwrap();
        Mapping::of(file.as_fd(), 0..bytes, access).unwrap()
    }

    #[test]
    fn words_and_bytes_are_the_same_memory() {
        let m = mapping(8192, Access::ReadWrite);
        m.write(4093, b"0123456789abcdefghi");
        assert_eq!(m.u64(4096), u64::from_ne_bytes(*b"3456789a"));
        m.set_u32(4100, u32::from_ne_bytes(*b"WXYZ"));
        m.set_f64(16, 0.5);
        assert_eq!(
            m.atomic(16).fetch_add(1, Ordering::Relaxed),
            0.5f64.to_bits()
        );
        let mut got = [0; 19];
        m.read(4093, &mut got);
        assert_eq!(&got, b"0123456WXYZbcdefghi");
        assert_eq!(m.u64(16), 0.5f64.to_bits() + 1);
        assert_eq!(m.f64(24).to_bits(), 0);
    }

    #[test]
    fn what_is_not_inside_is_refused() {
        let m = mapping(4096, Access::ReadWrite);
        for (offset, bytes) in [(4096, 1), (4090, 7), (usize::MAX, 2)] {
            let result = std::panic::catch_unwind(|| m.read(offset, &mut vec![0; bytes]));
            assert!(result.is_err());
            let result = std::panic::catch_unwind(|| m.write(offset, &vec![0; bytes]));
            assert!(result.is_err());
        }
        for offset in [4096, 4092, 4, usize::MAX - 7] {
            assert!(std::panic::catch_unwind(|| m.u64(offset)).is_err());
        }
        m.read(4096, &mut []);
    }

    #[test]
    fn a_mapping_for_reading_is_not_written() {
        let m = mapping(4096, Access::Read);
        assert_eq!(m.u64(0), 0);
        assert!(std::panic::catch_unwind(|| m.set_u64(0, 1)).is_err());
        assert!(std::panic::catch_unwind(|| m.atomic(0).load(Ordering::Relaxed)).is_err());
        assert!(std::panic::catch_unwind(|| m.write(0, &[1])).is_err());
    }
}
