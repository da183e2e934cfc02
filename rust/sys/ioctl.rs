// SPDX-License-Identifier: GPL-2.0

//! Structures that come from and go to user space by ioctl, and may be shorter or longer there.

use kernel::ioctl::_IOC_SIZE;
use kernel::prelude::*;
use kernel::transmute::{AsBytes, FromBytes};
use kernel::uaccess::{UserPtr, UserSlice};
use kernel::uapi;

/// A caller's structure: where it is and how long the caller believes it to be.
pub(crate) struct Argument {
    address: usize,
    size: usize,
}

impl Argument {
    /// The argument of command `cmd`, whose size is part of it.
    pub(crate) fn new(cmd: u32, address: usize) -> Self {
        Self {
            address,
            size: _IOC_SIZE(cmd),
        }
    }

    /// `cmd` without the size of its argument: what commands are told apart by.
    pub(crate) const fn command(cmd: u32) -> u32 {
        cmd & !(uapi::_IOC_SIZEMASK << uapi::_IOC_SIZESHIFT)
    }

    fn slice(&self) -> UserSlice {
        UserSlice::new(UserPtr::from_addr(self.address), self.size)
    }

    /// Reads the structure. What the caller does not have is 0.
    ///
    /// `required`: bytes without which the command makes no sense (EINVAL). What the caller has and `T`
    /// does not must be 0 (E2BIG). EFAULT when it cannot be read.
    pub(crate) fn read<T: AsBytes + FromBytes + Default>(&self, required: usize) -> Result<T> {
        if self.size < required {
            return Err(EINVAL);
        }
        let mut value = T::default();
        let known = self.size.min(core::mem::size_of::<T>());
        let mut reader = self.slice().reader();
        {
            let bytes = value.as_bytes_mut();
            let bytes = bytes.get_mut(..known).ok_or(EINVAL)?;
            reader.read_slice(bytes)?;
        }
        while !reader.is_empty() {
            if reader.read::<u8>()? != 0 {
                return Err(E2BIG);
            }
        }
        Ok(value)
    }

    /// Writes the structure, as much as the caller has of it, and 0 behind it.
    pub(crate) fn write<T: AsBytes>(&self, value: &T) -> Result {
        let bytes = value.as_bytes();
        let known = self.size.min(bytes.len());
        let mut writer = self.slice().writer();
        writer.write_slice(bytes.get(..known).ok_or(EINVAL)?)?;
        while !writer.is_empty() {
            writer.write(&0u8)?;
        }
        Ok(())
    }
}

/// Memory of the calling process, to be written from the start on.
pub(crate) struct UserBytes {
    address: usize,
    bytes: usize,
}

impl UserBytes {
    /// `bytes` bytes at `address`.
    pub(crate) fn new(address: u64, bytes: usize) -> Result<Self> {
        let address = usize::try_from(address)?;
        Ok(Self { address, bytes })
    }

    /// Writes the next bytes. EFAULT.
    pub(crate) fn write(&mut self, data: &[u8]) -> Result {
        let rest = self.bytes.checked_sub(data.len()).ok_or(EFAULT)?;
        let slice = UserSlice::new(UserPtr::from_addr(self.address), data.len());
        slice.writer().write_slice(data)?;
        self.address = self.address.wrapping_add(data.len());
        self.bytes = rest;
        Ok(())
    }
}
