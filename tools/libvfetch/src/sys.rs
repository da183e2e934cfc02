// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The ioctls. With [`crate::map`] the only module with `unsafe`.
#![allow(unsafe_code)]

use std::os::fd::BorrowedFd;

use rustix::{
    io::Result,
    ioctl::{ioctl, Opcode, Setter, Updater},
};

use crate::uapi;

const GET_INFO: Opcode = uapi::LIBVFETCH_GET_INFO;
const GET_STATS: Opcode = uapi::LIBVFETCH_GET_STATS;
const SET_SIZE: Opcode = uapi::LIBVFETCH_SET_SIZE;
const DISCARD: Opcode = uapi::LIBVFETCH_DISCARD;
const SUBMIT: Opcode = uapi::LIBVFETCH_SUBMIT;
const WAIT: Opcode = uapi::LIBVFETCH_WAIT;
const CANCEL: Opcode = uapi::LIBVFETCH_CANCEL;
const GET_LIMITS: Opcode = uapi::LIBVFETCH_GET_LIMITS;
const SET_LIMITS: Opcode = uapi::LIBVFETCH_SET_LIMITS;
const GET_POLICY: Opcode = uapi::LIBVFETCH_GET_POLICY;
const SET_POLICY: Opcode = uapi::LIBVFETCH_SET_POLICY;
const POLICY_STATS: Opcode = uapi::LIBVFETCH_POLICY_STATS;
const RESIDENCY: Opcode = uapi::LIBVFETCH_RESIDENCY;
const ADVISE: Opcode = uapi::LIBVFETCH_ADVISE;
const TRACE_START: Opcode = uapi::LIBVFETCH_TRACE_START;
const TRACE_READ: Opcode = uapi::LIBVFETCH_TRACE_READ;
const TRACE_STOP: Opcode = uapi::LIBVFETCH_TRACE_STOP;

/// `VFETCH_IOC_GET_INFO`.
pub(crate) fn get_info(fd: BorrowedFd<'_>) -> Result<uapi::vfetch_info> {
    let mut info = uapi::vfetch_info::default();
    // SAFETY: The command carries the size of this very structure, which is plain
    // integers; the driver reads and writes that many bytes and keeps no pointer.
    // A file of another kind refuses the command.
    unsafe { ioctl(fd, Updater::<GET_INFO, _>::new(&mut info))? };
    Ok(info)
}

/// `VFETCH_IOC_GET_STATS`.
pub(crate) fn get_stats(fd: BorrowedFd<'_>) -> Result<uapi::vfetch_stats> {
    let mut stats = uapi::vfetch_stats::default();
    // SAFETY: As in `get_info`.
    unsafe { ioctl(fd, Updater::<GET_STATS, _>::new(&mut stats))? };
    Ok(stats)
}

/// `VFETCH_IOC_SET_SIZE`.
pub(crate) fn set_size(fd: BorrowedFd<'_>, bytes: u64, flags: u32) -> Result<()> {
    let size = uapi::vfetch_size {
        flags,
        bytes,
        ..Default::default()
    };
    // SAFETY: The command carries the size of this structure; the driver only reads it.
    unsafe { ioctl(fd, Setter::<SET_SIZE, _>::new(size)) }
}

/// `VFETCH_IOC_DISCARD`.
pub(crate) fn discard(fd: BorrowedFd<'_>, offset: u64, bytes: u64) -> Result<()> {
    let range = uapi::vfetch_range {
        offset,
        bytes,
        ..Default::default()
    };
    // SAFETY: As in `set_size`.
    unsafe { ioctl(fd, Setter::<DISCARD, _>::new(range)) }
}

/// `VFETCH_IOC_SUBMIT`. Returns the job's name.
pub(crate) fn submit(fd: BorrowedFd<'_>, submit: &mut uapi::vfetch_submit) -> Result<u64> {
    // SAFETY: As in `get_info`; an eventfd in it is a number that the driver looks up.
    unsafe { ioctl(fd, Updater::<SUBMIT, _>::new(submit))? };
    Ok(submit.id)
}

/// `VFETCH_IOC_WAIT`.
pub(crate) fn wait(fd: BorrowedFd<'_>, id: u64, timeout_ns: i64) -> Result<uapi::vfetch_wait> {
    let mut wait = uapi::vfetch_wait {
        id,
        timeout_ns,
        ..Default::default()
    };
    // SAFETY: As in `get_info`.
    unsafe { ioctl(fd, Updater::<WAIT, _>::new(&mut wait))? };
    Ok(wait)
}

/// `VFETCH_IOC_CANCEL`.
pub(crate) fn cancel(fd: BorrowedFd<'_>, id: u64) -> Result<()> {
    let cancel = uapi::vfetch_cancel {
        id,
        ..Default::default()
    };
    // SAFETY: As in `set_size`.
    unsafe { ioctl(fd, Setter::<CANCEL, _>::new(cancel)) }
}

/// `VFETCH_IOC_GET_LIMITS`.
pub(crate) fn get_limits(fd: BorrowedFd<'_>, scope: u32) -> Result<uapi::vfetch_limits> {
    let mut limits = uapi::vfetch_limits {
        scope,
        ..Default::default()
    };
    // SAFETY: As in `get_info`.
    unsafe { ioctl(fd, Updater::<GET_LIMITS, _>::new(&mut limits))? };
    Ok(limits)
}

/// `VFETCH_IOC_SET_LIMITS`.
pub(crate) fn set_limits(
    fd: BorrowedFd<'_>,
    mut limits: uapi::vfetch_limits,
) -> Result<uapi::vfetch_limits> {
    // SAFETY: As in `get_info`.
    unsafe { ioctl(fd, Updater::<SET_LIMITS, _>::new(&mut limits))? };
    Ok(limits)
}

/// `VFETCH_IOC_GET_POLICY`.
pub(crate) fn get_policy(fd: BorrowedFd<'_>) -> Result<uapi::vfetch_policy> {
    let mut policy = uapi::vfetch_policy::default();
    // SAFETY: As in `get_info`.
    unsafe { ioctl(fd, Updater::<GET_POLICY, _>::new(&mut policy))? };
    Ok(policy)
}

/// `VFETCH_IOC_SET_POLICY`.
pub(crate) fn set_policy(fd: BorrowedFd<'_>, policy: uapi::vfetch_policy) -> Result<()> {
    // SAFETY: As in `set_size`.
    unsafe { ioctl(fd, Setter::<SET_POLICY, _>::new(policy)) }
}

/// `VFETCH_IOC_POLICY_STATS`.
pub(crate) fn policy_stats(fd: BorrowedFd<'_>, policy: u32) -> Result<uapi::vfetch_policy_stats> {
    let mut stats = uapi::vfetch_policy_stats {
        policy,
        ..Default::default()
    };
    // SAFETY: As in `get_info`.
    unsafe { ioctl(fd, Updater::<POLICY_STATS, _>::new(&mut stats))? };
    Ok(stats)
}

/// `VFETCH_IOC_RESIDENCY`; `pages`: for one byte a page, or nothing.
pub(crate) fn residency(
    fd: BorrowedFd<'_>,
    offset: u64,
    bytes: u64,
    pages: Option<&mut [u8]>,
) -> Result<uapi::vfetch_residency> {
    let mut residency = uapi::vfetch_residency {
        offset,
        bytes,
        ..Default::default()
    };
    if let Some(pages) = pages {
        // The driver writes a byte for each page of the range, not for each of the slice.
        if (pages.len() as u64) < bytes / u64::from(uapi::VFETCH_PAGE_BYTES) {
            return Err(rustix::io::Errno::INVAL);
        }
        residency.pages = pages.as_mut_ptr() as u64;
    }
    // SAFETY: As in `get_info`; where `pages` is not 0 it is a slice that is borrowed for the call, and long enough.
    unsafe { ioctl(fd, Updater::<RESIDENCY, _>::new(&mut residency))? };
    Ok(residency)
}

/// `VFETCH_IOC_ADVISE`.
pub(crate) fn advise(fd: BorrowedFd<'_>, offset: u64, bytes: u64, advice: u32) -> Result<()> {
    let advise = uapi::vfetch_advise {
        advice,
        offset,
        bytes,
        ..Default::default()
    };
    // SAFETY: As in `set_size`.
    unsafe { ioctl(fd, Setter::<ADVISE, _>::new(advise)) }
}

/// `VFETCH_IOC_TRACE_START`.
pub(crate) fn trace_start(fd: BorrowedFd<'_>, start: uapi::vfetch_trace_start) -> Result<()> {
    // SAFETY: As in `set_size`.
    unsafe { ioctl(fd, Setter::<TRACE_START, _>::new(start)) }
}

/// `VFETCH_IOC_TRACE_READ`: how many of `records` were filled, and how many were lost.
pub(crate) fn trace_read(
    fd: BorrowedFd<'_>,
    records: &mut [uapi::vfetch_trace_record],
    timeout_ns: i64,
) -> Result<(usize, u64)> {
    let mut read = uapi::vfetch_trace_read {
        count: u32::try_from(records.len()).unwrap_or(u32::MAX),
        records: records.as_mut_ptr() as u64,
        timeout_ns,
        ..Default::default()
    };
    // SAFETY: As in `get_info`; `records` is borrowed for the call, has room for `count`, and any bytes are a record.
    unsafe { ioctl(fd, Updater::<TRACE_READ, _>::new(&mut read))? };
    Ok((read.count as usize, read.lost))
}

/// `VFETCH_IOC_TRACE_STOP`.
pub(crate) fn trace_stop(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: As in `set_size`.
    unsafe {
        ioctl(
            fd,
            Setter::<TRACE_STOP, _>::new(uapi::vfetch_trace_stop::default()),
        )
    }
}
