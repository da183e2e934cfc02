// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the commands need of a space, so that they can be tested without one.

use libvfetch::{Error, Info, Result, Space};

/// Memory that is read and written at offsets.
pub(crate) trait Memory: Send + Sync {
    /// What messages call it.
    fn name(&self) -> String;
    fn info(&self) -> Result<Info>;
    fn set_size(&self, bytes: u64) -> Result<()>;
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()>;
    fn write_all_at(&self, buffer: &[u8], offset: u64) -> Result<()>;
}

impl Memory for Space {
    fn name(&self) -> String {
        format!("vfetch{}", self.node())
    }

    fn info(&self) -> Result<Info> {
        Self::info(self)
    }

    // These commands are about device memory: all of it is taken before they begin. But a space that came with a size keeps what it is.
    fn set_size(&self, bytes: u64) -> Result<()> {
        match self.reserve(bytes) {
            Err(Error::OtherSize { .. }) => Self::set_size(self, bytes),
            result => result,
        }
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        Self::read_exact_at(self, buffer, offset)
    }

    fn write_all_at(&self, buffer: &[u8], offset: u64) -> Result<()> {
        Self::write_all_at(self, buffer, offset)
    }
}

/// Bytes that begin at a page, so that a transfer touches no more pages than it must; large ones at
/// a huge page (where the system hands these out), as a program for which speed counts has them:
/// pinning and mapping scattered pages takes the kernel longer than the link needs to move them.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    const PAGE: usize = 4096;
    const HUGE_PAGE: usize = 2 << 20;

    /// `len` zeros.
    pub(crate) fn new(len: usize) -> Self {
        let align = if len < 16 * Self::PAGE {
            Self::PAGE
        } else {
            Self::HUGE_PAGE
        };
        // Whole ones: a huge page is not made for part of one.
        let bytes = vec![0; len.next_multiple_of(align) + align];
        let start = bytes.as_ptr().align_offset(align).min(align);
        Self { bytes, start, len }
    }

    pub(crate) fn slice(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    pub(crate) fn slice_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A space in this process's memory, that can lie.
    #[derive(Debug, Default)]
    pub(crate) struct Ram {
        pub(crate) bytes: Mutex<Vec<u8>>,
        /// The most that it can hold.
        pub(crate) room: u64,
        /// Flips a bit of this byte in every read.
        pub(crate) flip: Option<u64>,
        /// Ignores writes from this offset on.
        pub(crate) deaf_from: Option<u64>,
    }

    impl Ram {
        pub(crate) fn new(room: u64) -> Self {
            Self {
                room,
                ..Self::default()
            }
        }
    }

    impl Memory for Ram {
        fn name(&self) -> String {
            "ram".into()
        }

        fn info(&self) -> Result<Info> {
            let mut info = Info::default();
            info.memory_bytes = self.room;
            info.space_bytes = self.bytes.lock().unwrap().len() as u64;
            info.free_bytes = self.room - info.space_bytes;
            info.link_latency_ns = 1000;
            info.link_bytes_per_us = 8000;
            Ok(info)
        }

        fn set_size(&self, bytes: u64) -> Result<()> {
            if bytes % 4096 != 0 {
                return Err(Error::Unaligned { value: bytes });
            }
            if bytes > self.room {
                return Err(Error::NoRoom {
                    node: 0,
                    wanted: bytes,
                    free: self.room,
                    memory: self.room,
                });
            }
            self.bytes
                .lock()
                .unwrap()
                .resize(usize::try_from(bytes).unwrap(), 0);
            Ok(())
        }

        fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
            let bytes = self.bytes.lock().unwrap();
            let start = usize::try_from(offset).unwrap();
            let Some(part) = bytes.get(start..start + buffer.len()) else {
                return Err(Error::BeyondEnd {
                    node: 0,
                    offset,
                    size: bytes.len() as u64,
                });
            };
            buffer.copy_from_slice(part);
            if let Some(at) = self.flip.and_then(|f| f.checked_sub(offset)) {
                if let Some(byte) = buffer.get_mut(usize::try_from(at).unwrap()) {
                    *byte ^= 1;
                }
            }
            Ok(())
        }

        fn write_all_at(&self, buffer: &[u8], offset: u64) -> Result<()> {
            let mut bytes = self.bytes.lock().unwrap();
            let size = bytes.len() as u64;
            let start = usize::try_from(offset).unwrap();
            let Some(part) = bytes.get_mut(start..start + buffer.len()) else {
                return Err(Error::BeyondEnd {
                    node: 0,
                    offset,
                    size,
                });
            };
            if self.deaf_from.is_none_or(|from| offset < from) {
                part.copy_from_slice(buffer);
            }
            Ok(())
        }
    }

    #[test]
    fn a_buffer_begins_at_a_page() {
        for len in [1, 4096, 5000] {
            let mut buffer = Buffer::new(len);
            assert_eq!(buffer.slice().len(), len);
            assert_eq!(buffer.slice_mut().as_ptr().align_offset(4096), 0);
        }
    }
}
