// SPDX-License-Identifier: GPL-2.0

//! The ioctls as they are, with values that the library would refuse itself.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd};

use libvfetch::Space;
use rustix::{
    io::Errno,
    ioctl::{ioctl, opcode, Opcode, Setter, Updater},
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

/// `struct vfetch_advise`.
#[repr(C)]
struct Advise {
    flags: u32,
    advice: u32,
    offset: u64,
    bytes: u64,
}

/// `struct vfetch_policy`, as far as the tests look at it.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) flags: u32,
    pub(crate) enabled: u32,
    pub(crate) policy: u32,
    pub(crate) threshold: u32,
    pub(crate) min_faults: u32,
    pub(crate) compat: u32,
    pub(crate) ats: u32,
    pub(crate) rest: [u32; 5],
}

/// `struct vfetch_submit`, with its job.
#[repr(C)]
struct Submit {
    flags: u32,
    eventfd: i32,
    id: u64,
    kind: u32,
    job_flags: u32,
    order: u32,
    strands: u32,
    element_ps: u32,
    reserved: u32,
    seed: u64,
    argument: [u64; 12],
}

const MAGIC: u8 = 0xa8;
const SET_SIZE: Opcode = opcode::write::<Size>(MAGIC, 2);
const DISCARD: Opcode = opcode::write::<Range>(MAGIC, 3);
const SUBMIT: Opcode = opcode::read_write::<Submit>(MAGIC, 4);
const GET_POLICY: Opcode = opcode::read_write::<Policy>(MAGIC, 9);
const SET_POLICY: Opcode = opcode::write::<Policy>(MAGIC, 0xa);
const ADVISE: Opcode = opcode::write::<Advise>(MAGIC, 13);

/// `VFETCH_POLICIES`.
pub(crate) const POLICIES: u32 = 12;

/// `VFETCH_SIZE_RESERVE`, `VFETCH_SIZE_FLAT`.
pub(crate) const RESERVE: u32 = 1;
pub(crate) const FLAT: u32 = 2;

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

/// `VFETCH_IOC_GET_POLICY`.
pub(crate) fn policy(space: &Space) -> Result<Policy, Errno> {
    let mut policy = Policy::default();
    // SAFETY: The command carries the structure's size; the driver writes that many bytes, which are plain integers.
    unsafe { ioctl(space, Updater::<GET_POLICY, _>::new(&mut policy))? };
    Ok(policy)
}

/// `VFETCH_IOC_SET_POLICY`.
pub(crate) fn set_policy(space: &Space, policy: Policy) -> Result<(), Errno> {
    // SAFETY: As in `set_size`.
    unsafe { ioctl(space, Setter::<SET_POLICY, _>::new(policy)) }
}

/// `VFETCH_IOC_ADVISE`.
pub(crate) fn advise(
    space: &Space,
    flags: u32,
    advice: u32,
    offset: u64,
    bytes: u64,
) -> Result<(), Errno> {
    let advise = Advise {
        flags,
        advice,
        offset,
        bytes,
    };
    // SAFETY: As in `set_size`.
    unsafe { ioctl(space, Setter::<ADVISE, _>::new(advise)) }
}

/// `VFETCH_IOC_SUBMIT` of a job that stamps a page for half a second, in memory where its name cannot be written.
pub(crate) fn submit_nameless(space: &Space) -> Result<(), Errno> {
    // What does not change is mapped for reading only.
    static JOB: Submit = Submit {
        flags: 0,
        eventfd: 0,
        id: 0,
        kind: 11,
        job_flags: 0,
        order: 0,
        strands: 1,
        element_ps: 1_000_000_000,
        reserved: 0,
        seed: 0,
        argument: [0, 512, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
    };
    let file = space.as_fd().as_raw_fd();
    // SAFETY: The command carries the structure's size. The driver reads it, and cannot write it.
    match unsafe { libc::ioctl(file, SUBMIT.into(), &raw const JOB) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}
