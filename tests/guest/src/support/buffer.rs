// SPDX-License-Identifier: GPL-2.0

//! Buffers that no vector can be: memory that is not there, not readable, not writable, huge or a file's.
#![allow(unsafe_code)]

use std::{
    ops::Range,
    os::fd::{AsFd, AsRawFd},
    ptr,
};

use anyhow::{ensure, Context, Result};
use rustix::{
    fs::MemfdFlags,
    io::Errno,
    mm::{MapFlags, MprotectFlags, ProtFlags},
};

/// A mapping. Its memory is reached through copies only, never by reference, so that it may change, and go,
/// at any time.
pub(crate) struct Mapping {
    address: *mut libc::c_void,
    bytes: usize,
}

// SAFETY: It owns an address range, and what is there is only copied.
unsafe impl Send for Mapping {}
// SAFETY: As above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Anonymous private memory.
    pub(crate) fn anonymous(bytes: usize) -> Result<Self> {
        Self::with(bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
    }

    /// Anonymous memory with other rights or flags.
    pub(crate) fn with(bytes: usize, rights: ProtFlags, flags: MapFlags) -> Result<Self> {
        // SAFETY: A new mapping where nothing is.
        let address = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), bytes, rights, flags)? };
        Ok(Self { address, bytes })
    }

    /// A file's beginning.
    pub(crate) fn of(
        file: impl AsFd,
        bytes: usize,
        rights: ProtFlags,
        flags: MapFlags,
    ) -> Result<Self> {
        // SAFETY: As in `with`.
        let address = unsafe { rustix::mm::mmap(ptr::null_mut(), bytes, rights, flags, file, 0)? };
        Ok(Self { address, bytes })
    }

    /// A part of a file.
    pub(crate) fn part_of(
        file: impl AsFd,
        offset: usize,
        bytes: usize,
        rights: ProtFlags,
    ) -> Result<Self> {
        // SAFETY: As in `with`.
        let address = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                bytes,
                rights,
                MapFlags::SHARED,
                file,
                offset as u64,
            )?
        };
        Ok(Self { address, bytes })
    }

    /// Moves it elsewhere.
    pub(crate) fn moved(self) -> Result<Self> {
        let (from, bytes) = (self.address, self.bytes);
        // SAFETY: A new place, where nothing is that anybody needs: it is reserved here, and replaced by what is moved.
        let address = unsafe {
            let to = rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                bytes,
                ProtFlags::empty(),
                MapFlags::PRIVATE,
            )?;
            std::mem::forget(self);
            let flags = rustix::mm::MremapFlags::MAYMOVE;
            rustix::mm::mremap_fixed(from, bytes, bytes, flags, to)?
        };
        ensure!(address != from, "it was not moved");
        Ok(Self { address, bytes })
    }

    /// Makes it larger, elsewhere if it must be; which it is then.
    pub(crate) fn grown(self, bytes: usize) -> Result<Self, Errno> {
        let flags = rustix::mm::MremapFlags::MAYMOVE;
        // SAFETY: The mapping is ours, and is not used any more: either it is dropped, or it is what comes of it.
        let address = unsafe { rustix::mm::mremap(self.address, self.bytes, bytes, flags) }?;
        std::mem::forget(self);
        Ok(Self { address, bytes })
    }

    /// What the kernel says of it: two letters each (`VmFlags` of `/proc/self/smaps`).
    pub(crate) fn flags(&self) -> Result<Vec<String>> {
        let maps = std::fs::read_to_string("/proc/self/smaps")?;
        let start = format!("{:x}-", self.address.addr());
        let own = maps.lines().skip_while(|line| !line.starts_with(&start));
        let mut flags = own.filter_map(|line| line.strip_prefix("VmFlags:"));
        let flags = flags.next().context("no such mapping")?;
        Ok(flags.split_whitespace().map(String::from).collect())
    }

    /// Takes a part of it out. What is left must not be used there.
    pub(crate) fn unmap(&self, part: Range<usize>) -> Result<()> {
        ensure!(part.end <= self.bytes);
        // SAFETY: The part is ours. Another mapping that comes to be there is none of this program's that matters: the tests make none before
        // this is dropped.
        unsafe { rustix::mm::munmap(self.at(part.start).cast(), part.len())? };
        Ok(())
    }

    /// Gives advice about a part.
    pub(crate) fn advise_part(&self, part: Range<usize>, advice: i32) -> Result<(), Errno> {
        assert!(part.end <= self.bytes);
        // SAFETY: The part is ours, and what is there is only copied, whatever it becomes.
        match unsafe { libc::madvise(self.at(part.start).cast(), part.len(), advice) } {
            0 => Ok(()),
            _ => Err(done(-1).err().unwrap_or(Errno::IO)),
        }
    }

    /// The word at `offset`, a multiple of 8.
    pub(crate) fn word(&self, offset: usize) -> u64 {
        assert!(offset % 8 == 0 && offset + 8 <= self.bytes);
        // SAFETY: Inside and aligned; it may change at any time, hence volatile.
        unsafe { self.at(offset).cast::<u64>().read_volatile() }
    }

    /// Sets the word at `offset`, a multiple of 8.
    pub(crate) fn set_word(&self, offset: usize, word: u64) {
        assert!(offset % 8 == 0 && offset + 8 <= self.bytes);
        // SAFETY: As in `word`.
        unsafe { self.at(offset).cast::<u64>().write_volatile(word) };
    }

    fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset <= self.bytes);
        self.address.cast::<u8>().wrapping_add(offset)
    }

    /// Takes rights away from a part, in whole pages, or gives them.
    pub(crate) fn protect(&self, part: Range<usize>, rights: MprotectFlags) -> Result<()> {
        ensure!(part.end <= self.bytes);
        // SAFETY: The part is ours, and copies are made only of what is accessible.
        unsafe { rustix::mm::mprotect(self.at(part.start).cast(), part.len(), rights)? };
        Ok(())
    }

    /// Asks for or against huge pages.
    pub(crate) fn advise(&self, advice: rustix::mm::Advice) -> Result<()> {
        // SAFETY: Advice about huge pages changes no contents.
        unsafe { rustix::mm::madvise(self.address, self.bytes, advice)? };
        Ok(())
    }

    /// Copies `bytes` to it. They must fit and be writable.
    pub(crate) fn fill(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.bytes);
        // SAFETY: It fits; nothing else can refer to the mapping.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.at(offset), bytes.len()) };
    }

    /// Copies a part out of it, which must be readable.
    pub(crate) fn copy(&self, part: Range<usize>) -> Vec<u8> {
        assert!(part.end <= self.bytes);
        let mut bytes = vec![0; part.len()];
        // SAFETY: As in `fill`.
        unsafe { ptr::copy_nonoverlapping(self.at(part.start), bytes.as_mut_ptr(), part.len()) };
        bytes
    }

    /// A part of it as a buffer for calls; may go beyond its end.
    pub(crate) fn area(&self, offset: usize, bytes: usize) -> Area {
        Area {
            address: self.at(offset),
            bytes,
        }
    }

    /// The whole.
    pub(crate) fn all(&self) -> Area {
        self.area(0, self.bytes)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: It is ours, and nothing refers to it.
        let _ = unsafe { rustix::mm::munmap(self.address, self.bytes) };
    }
}

/// A buffer that nothing in this program refers to: part of a [`Mapping`], or nowhere.
#[derive(Clone, Copy)]
pub(crate) struct Area {
    address: *mut u8,
    bytes: usize,
}

impl Area {
    /// Where no program can have memory.
    pub(crate) fn nowhere(address: usize, bytes: usize) -> Self {
        // The first page, and all but the lower half of the address space.
        assert!(!(4096..=1 << 47).contains(&address));
        Self {
            address: ptr::without_provenance_mut(address),
            bytes,
        }
    }

    /// A part of it.
    pub(crate) fn part(&self, offset: usize, bytes: usize) -> Self {
        assert!(offset + bytes <= self.bytes);
        Self {
            address: self.address.wrapping_add(offset),
            bytes,
        }
    }

    /// Its first byte.
    pub(crate) fn address(&self) -> *mut u8 {
        self.address
    }

    /// Its length.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// `pread` into it.
    pub(crate) fn pread(&self, file: impl AsFd, offset: u64) -> Result<usize, Errno> {
        let offset = offset.try_into().map_err(|_| Errno::OVERFLOW)?;
        // SAFETY: Whatever the kernel writes there, nothing refers to it.
        done(unsafe {
            libc::pread(
                file.as_fd().as_raw_fd(),
                self.address.cast(),
                self.bytes,
                offset,
            )
        })
    }

    /// `pwrite` from it.
    pub(crate) fn pwrite(&self, file: impl AsFd, offset: u64) -> Result<usize, Errno> {
        let offset = offset.try_into().map_err(|_| Errno::OVERFLOW)?;
        // SAFETY: The kernel only reads it.
        done(unsafe {
            libc::pwrite(
                file.as_fd().as_raw_fd(),
                self.address.cast(),
                self.bytes,
                offset,
            )
        })
    }

    /// `write` from it.
    pub(crate) fn write(&self, file: impl AsFd) -> Result<usize, Errno> {
        // SAFETY: As in `pwrite`.
        done(unsafe { libc::write(file.as_fd().as_raw_fd(), self.address.cast(), self.bytes) })
    }

    fn iovecs(areas: &[Self]) -> (Vec<libc::iovec>, i32) {
        let vector: Vec<_> = areas
            .iter()
            .map(|a| libc::iovec {
                iov_base: a.address.cast(),
                iov_len: a.bytes,
            })
            .collect();
        let count = vector.len().try_into().unwrap_or(i32::MAX);
        (vector, count)
    }

    /// `preadv` into several.
    pub(crate) fn preadv(areas: &[Self], file: impl AsFd, offset: u64) -> Result<usize, Errno> {
        let (vector, count) = Self::iovecs(areas);
        let offset = offset.try_into().map_err(|_| Errno::OVERFLOW)?;
        // SAFETY: As in `pread`.
        done(unsafe { libc::preadv(file.as_fd().as_raw_fd(), vector.as_ptr(), count, offset) })
    }

    /// `pwritev` from several.
    pub(crate) fn pwritev(areas: &[Self], file: impl AsFd, offset: u64) -> Result<usize, Errno> {
        let (vector, count) = Self::iovecs(areas);
        let offset = offset.try_into().map_err(|_| Errno::OVERFLOW)?;
        // SAFETY: As in `pwrite`.
        done(unsafe { libc::pwritev(file.as_fd().as_raw_fd(), vector.as_ptr(), count, offset) })
    }

    /// `vmsplice`: its pages, as they are, into a pipe.
    pub(crate) fn vmsplice(&self, pipe: impl AsFd) -> Result<usize, Errno> {
        let vector = libc::iovec {
            iov_base: self.address.cast(),
            iov_len: self.bytes,
        };
        // SAFETY: The kernel only reads it.
        done(unsafe { libc::vmsplice(pipe.as_fd().as_raw_fd(), &vector, 1, 0) })
    }
}

fn done(result: isize) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| {
        let error = std::io::Error::last_os_error();
        Errno::from_io_error(&error).unwrap_or(Errno::IO)
    })
}

/// A file in memory of so many bytes.
pub(crate) fn memory_file(bytes: u64) -> Result<std::fs::File> {
    let file = rustix::fs::memfd_create("vfetch-test", MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&file, bytes)?;
    Ok(file.into())
}
