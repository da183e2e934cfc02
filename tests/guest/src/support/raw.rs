// SPDX-License-Identifier: GPL-2.0

//! The ioctls as they are, with values that the library would refuse itself.
#![allow(unsafe_code)]

use libvfetch::Space;
use rustix::{
    io::Errno,
    ioctl::{ioctl, opcode, Opcode, Setter},
};

/// `struct vfetch_size`.
#[repr(C)]
struct Size {
    flags: u32,
    reserved: u32,
    bytes: u64,
}

/// `struct vfetch_range`.
#[repr(C)]
struct Range {
    flags: u32,
    reserved: u32,
    offset: u64,
    bytes: u64,
}

const MAGIC: u8 = 0xa8;
const SET_SIZE: Opcode = opcode::write::<Size>(MAGIC, 2);
const DISCARD: Opcode = opcode::write::<Range>(MAGIC, 3);

/// `VFETCH_SIZE_RESERVE`.
pub(crate) const RESERVE: u32 = 1;

/// `VFETCH_IOC_SET_SIZE`.
pub(crate) fn set_size(space: &Space, bytes: u64, flags: u32) -> Result<(), Errno> {
    let size = Size {
        flags,
        reserved: 0,
        bytes,
    };
    // SAFETY: The command carries the structure's size; the driver only reads it.
    unsafe { ioctl(space, Setter::<SET_SIZE, _>::new(size)) }
}

/// `VFETCH_IOC_DISCARD`.
pub(crate) fn discard(space: &Space, offset: u64, bytes: u64) -> Result<(), Errno> {
    let range = Range {
        flags: 0,
        reserved: 0,
        offset,
        bytes,
    };
    // SAFETY: As in `set_size`.
    unsafe { ioctl(space, Setter::<DISCARD, _>::new(range)) }
}
