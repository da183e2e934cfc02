// SPDX-License-Identifier: GPL-2.0

//! Child processes and signals.
#![allow(unsafe_code)]

use std::{
    os::unix::thread::JoinHandleExt,
    panic::{catch_unwind, AssertUnwindSafe},
    sync::Once,
    thread::JoinHandle,
};

use anyhow::{bail, Context, Result};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

use super::limit;

/// A child by `fork`. Killed when dropped.
pub(crate) struct Child {
    pid: Pid,
    waited: bool,
}

/// Forks a child that runs `run` and ends with its value.
///
/// It must not print: another thread of ours may have had stdout's lock.
pub(crate) fn fork(run: impl FnOnce() -> u8) -> Result<Child> {
    // SAFETY: glibc's own locks work in the child; of ours it takes none (see above). It leaves by `_exit`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: These only concern the child itself.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            let status = catch_unwind(AssertUnwindSafe(run)).unwrap_or(101);
            libc::_exit(i32::from(status));
        }
    }
    let pid = Pid::from_raw(pid)
        .filter(|pid| !pid.is_init())
        .context("fork failed")?;
    Ok(Child { pid, waited: false })
}

/// Which signal, if any, `touch` ends in: SIGBUS or SIGSEGV. A child of ours does it, and dies of it quietly, since the kernel
/// logs programs that do not expect such things.
pub(crate) fn signal_of(touch: impl FnOnce()) -> Result<Option<Signal>> {
    const QUIET: i32 = 64;
    extern "C" fn end(signal: libc::c_int) {
        // SAFETY: Of the functions that signal handlers may call.
        unsafe { libc::_exit(QUIET + signal) };
    }
    let mut child = fork(|| {
        for signal in [libc::SIGBUS, libc::SIGSEGV] {
            // SAFETY: The handler is complete, and calls nothing but the above.
            unsafe { libc::signal(signal, end as extern "C" fn(libc::c_int) as usize) };
        }
        touch();
        0
    })?;
    let status = child.wait(30)?;
    match status.exit_status() {
        Some(0) => Ok(None),
        Some(code) if code == QUIET + libc::SIGBUS => Ok(Some(Signal::BUS)),
        Some(code) if code == QUIET + libc::SIGSEGV => Ok(Some(Signal::SEGV)),
        _ => bail!("the child ended with {status:?}"),
    }
}

impl Child {
    /// Its number.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(rustix::process::kill_process(self.pid, signal)?)
    }

    /// Whether it has ended; it is still to be waited for.
    pub(crate) fn has_ended(&self) -> Result<bool> {
        let options = rustix::process::WaitIdOptions::EXITED
            | rustix::process::WaitIdOptions::NOHANG
            | rustix::process::WaitIdOptions::NOWAIT;
        let status = rustix::process::waitid(rustix::process::WaitId::Pid(self.pid), options)?;
        Ok(status.is_some())
    }

    /// How it ended, if it has. Not to be asked again then.
    pub(crate) fn ended(&mut self) -> Result<Option<WaitStatus>> {
        let status = rustix::process::waitpid(Some(self.pid), WaitOptions::NOHANG)?;
        self.waited |= status.is_some();
        Ok(status.map(|(_, status)| status))
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&mut self, seconds: u64) -> Result<WaitStatus> {
        let mut status = None;
        limit::until(seconds, "a child to end", || {
            status = self.ended()?;
            Ok(status.is_some())
        })?;
        status.context("no status")
    }

    /// Waits until it has ended with 0.
    pub(crate) fn succeeds(&mut self, seconds: u64) -> Result<()> {
        let status = self.wait(seconds)?;
        if status.exit_status() != Some(0) {
            bail!("the child ended with {status:?}");
        }
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.waited {
            let _ = self.signal(Signal::KILL);
            let _ = rustix::process::waitpid(Some(self.pid), WaitOptions::empty());
        }
    }
}

/// Lets `signal` do nothing but interrupt what it arrives in.
fn handle(signal: libc::c_int, flags: libc::c_int) {
    extern "C" fn nothing(_signal: libc::c_int) {}
    // SAFETY: The action is complete, and its handler touches nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
        action.sa_flags = flags;
        libc::sigaction(signal, &action, std::ptr::null_mut());
    }
}

/// Has SIGUSR1 interrupt what it arrives in, and do nothing else.
fn interruptible() {
    static ONCE: Once = Once::new();
    // No SA_RESTART.
    ONCE.call_once(|| handle(libc::SIGUSR1, 0));
}

/// The same for SIGUSR2, but what it interrupts starts again.
pub(crate) fn restartable() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| handle(libc::SIGUSR2, libc::SA_RESTART));
}

/// Sends `thread`, which has not been joined, a signal that interrupts what it waits in.
pub(crate) fn interrupt<T>(thread: &JoinHandle<T>) {
    interruptible();
    // SAFETY: The thread has not been joined, so that its handle is valid.
    unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGUSR1) };
}

/// Sends `thread` a signal after which calls start again.
pub(crate) fn restart<T>(thread: &JoinHandle<T>) {
    restartable();
    // SAFETY: As in `interrupt`.
    unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGUSR2) };
}

/// Names the calling thread for [`interrupt_scoped`].
pub(crate) fn this_thread() -> libc::pthread_t {
    // SAFETY: No requirements.
    unsafe { libc::pthread_self() }
}

/// As [`interrupt`], for a thread of a scope that has not been joined, and what it is called by itself.
pub(crate) fn interrupt_scoped<T>(
    _thread: &std::thread::ScopedJoinHandle<'_, T>,
    name: libc::pthread_t,
) {
    interruptible();
    // SAFETY: As in `interrupt`.
    unsafe { libc::pthread_kill(name, libc::SIGUSR1) };
}
