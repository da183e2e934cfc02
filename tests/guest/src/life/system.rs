// SPDX-License-Identifier: GPL-2.0

//! What needs `unsafe`: registers of a device in our address space, signals.
#![allow(unsafe_code)]

use std::fs::OpenOptions;
use std::os::unix::thread::JoinHandleExt;
use std::path::Path;
use std::ptr::null_mut;
use std::thread::JoinHandle;

use anyhow::{ensure, Context, Result};
use rustix::mm::{mmap, munmap, MapFlags, ProtFlags};

/// A BAR of a PCI function, mapped through sysfs.
pub(crate) struct Registers {
    base: *mut u8,
    bytes: usize,
}

// SAFETY: The mapping is the value's own and goes with it; accesses are single loads and stores.
unsafe impl Send for Registers {}
// SAFETY: As above.
unsafe impl Sync for Registers {}

impl Registers {
    /// Maps all of the file `resource`, which a driver must not have claimed.
    pub(crate) fn map(resource: &Path) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(resource);
        let file = file.with_context(|| format!("cannot open {}", resource.display()))?;
        let bytes = usize::try_from(file.metadata()?.len())?;
        ensure!(bytes > 0, "{} is empty", resource.display());
        // SAFETY: A new mapping, wherever the kernel wants it.
        let base = unsafe {
            mmap(
                null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &file,
                0,
            )
        };
        let base = base.with_context(|| format!("cannot map {}", resource.display()))?;
        Ok(Self {
            base: base.cast(),
            bytes,
        })
    }

    fn at<T>(&self, register: u32) -> *mut T {
        let offset = register as usize;
        assert!(offset % size_of::<T>() == 0 && offset + size_of::<T>() <= self.bytes);
        self.base.wrapping_add(offset).cast()
    }

    pub(crate) fn read32(&self, register: u32) -> u32 {
        // SAFETY: Within the mapping and aligned, see `at`.
        unsafe { self.at::<u32>(register).read_volatile() }
    }

    pub(crate) fn read64(&self, register: u32) -> u64 {
        // SAFETY: As above.
        unsafe { self.at::<u64>(register).read_volatile() }
    }

    pub(crate) fn write32(&self, register: u32, value: u32) {
        // SAFETY: As above.
        unsafe { self.at::<u32>(register).write_volatile(value) }
    }

    pub(crate) fn write64(&self, register: u32, value: u64) {
        // SAFETY: As above.
        unsafe { self.at::<u64>(register).write_volatile(value) }
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        // SAFETY: Nothing else refers to the mapping.
        let _ = unsafe { munmap(self.base.cast(), self.bytes) };
    }
}

extern "C" fn do_nothing(_: libc::c_int) {}

/// Sends a thread a signal that has a handler and does not restart system calls.
pub(crate) fn interrupt<T>(thread: &JoinHandle<T>) {
    // SAFETY: The handler does nothing; the thread has not been joined.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = do_nothing as extern "C" fn(libc::c_int) as usize;
        libc::sigaction(libc::SIGUSR1, &raw const action, null_mut());
        libc::pthread_kill(thread.as_pthread_t(), libc::SIGUSR1);
    }
}

/// Gives the calling thread, and not those that it starts, real-time priority, so that what it measures is not the scheduler's.
pub(crate) fn become_urgent() -> Result<()> {
    let parameter = libc::sched_param { sched_priority: 10 };
    // SAFETY: The structure is valid; 0 is the calling thread.
    let done = unsafe {
        libc::sched_setscheduler(
            0,
            libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK,
            &raw const parameter,
        )
    };
    ensure!(
        done == 0,
        "no real-time priority: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}
