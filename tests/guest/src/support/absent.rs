// SPDX-License-Identifier: GPL-2.0

//! A buffer whose pages are not there until somebody brings them: `userfaultfd(2)`. Whoever touches one waits, in
//! the kernel too, for as long as this program likes.
#![allow(unsafe_code)]

use std::{
    os::fd::OwnedFd,
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{ensure, Context, Result};
use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    ioctl::{ioctl, opcode, Opcode, Updater},
    mm::{userfaultfd, UserfaultfdFlags},
};

use super::{
    buffer::{Area, Mapping},
    limit,
};

/// `struct uffdio_api`.
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct Register {
    start: u64,
    bytes: u64,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_zeropage`.
#[repr(C)]
struct Zeros {
    start: u64,
    bytes: u64,
    mode: u64,
    zeroed: i64,
}

const MAGIC: u8 = 0xaa;
const API: Opcode = opcode::read_write::<Api>(MAGIC, 0x3f);
const REGISTER: Opcode = opcode::read_write::<Register>(MAGIC, 0);
const ZEROS: Opcode = opcode::read_write::<Zeros>(MAGIC, 4);
/// `UFFDIO_REGISTER_MODE_MISSING`.
const MISSING: u64 = 1;
/// `struct uffd_msg`: 32 bytes, the event in the first, for a page fault the address from the 17th on.
const MESSAGE: usize = 32;
const PAGE_FAULT: u8 = 0x12;

/// The buffer. When it is dropped nobody waits any more.
pub(crate) struct Absent {
    handler: OwnedFd,
    memory: Mapping,
    bytes: usize,
    /// Addresses that somebody waits for.
    wanted: Mutex<Vec<u64>>,
}

impl Absent {
    /// Of `bytes`, whole pages.
    pub(crate) fn new(bytes: usize) -> Result<Self> {
        let memory = Mapping::anonymous(bytes)?;
        // SAFETY: Only the mapping above is registered, of which nothing but copies are made.
        let handler =
            unsafe { userfaultfd(UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK)? };
        let mut api = Api {
            api: u64::from(MAGIC),
            features: 0,
            ioctls: 0,
        };
        // SAFETY: The command is for this structure.
        unsafe { ioctl(&handler, Updater::<API, _>::new(&mut api)).context("UFFDIO_API")? };
        let mut register = Register {
            start: memory.all().address() as u64,
            bytes: bytes as u64,
            mode: MISSING,
            ioctls: 0,
        };
        // SAFETY: As above; the range is ours.
        unsafe {
            ioctl(&handler, Updater::<REGISTER, _>::new(&mut register))
                .context("UFFDIO_REGISTER")?;
        }
        Ok(Self {
            handler,
            memory,
            bytes,
            wanted: Mutex::new(Vec::new()),
        })
    }

    /// A part of it.
    pub(crate) fn area(&self, offset: usize, bytes: usize) -> Area {
        self.memory.area(offset, bytes)
    }

    /// Waits until somebody waits for `count` different pages.
    pub(crate) fn wait_for_touches(&self, count: usize) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(10) * limit::factor();
        let mut wanted = self.wanted.lock().expect("nobody panics with it");
        while wanted.len() < count {
            ensure!(
                Instant::now() < end,
                "{} pages were touched, not {count}",
                wanted.len()
            );
            let mut fds = [PollFd::new(&self.handler, PollFlags::IN)];
            let tick = Timespec {
                tv_sec: 0,
                tv_nsec: 100_000_000,
            };
            poll(&mut fds, Some(&tick))?;
            let mut message = [0; MESSAGE];
            match rustix::io::read(&self.handler, &mut message) {
                Ok(MESSAGE) if message[0] == PAGE_FAULT => {
                    let address = u64::from_le_bytes(message[16..24].try_into()?);
                    if !wanted.contains(&address) {
                        wanted.push(address);
                    }
                }
                Ok(_) | Err(rustix::io::Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Brings all of it: zeros.
    pub(crate) fn bring(&self) -> Result<()> {
        let mut zeros = Zeros {
            start: self.memory.all().address() as u64,
            bytes: self.bytes as u64,
            mode: 0,
            zeroed: 0,
        };
        // SAFETY: The command is for this structure, the range is ours, and zeros harm nobody.
        unsafe {
            ioctl(&self.handler, Updater::<ZEROS, _>::new(&mut zeros)).context("UFFDIO_ZEROPAGE")
        }
    }
}
