// SPDX-License-Identifier: GPL-2.0

//! SIGBUS as something that is counted: where a mapping has no page, this process gets one of its own in its place, and goes on.
#![allow(unsafe_code)]

use std::{cell::Cell, mem, ptr, sync::Once};

use crate::support::{buffer::Mapping, machine::PAGE};

thread_local! {
    /// The mapping that this thread watches: its first byte, and its length.
    static WATCHED: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
    /// Pages of it that were replaced.
    static HITS: Cell<u32> = const { Cell::new(0) };
}

extern "C" fn replace(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: The kernel gives a SIGBUS's handler its information.
    let address = unsafe { (*info).si_addr() } as usize;
    let (start, bytes) = WATCHED.get();
    if address.wrapping_sub(start) >= bytes {
        // Not ours: it happens again, and ends the process.
        // SAFETY: Of the functions that signal handlers may call.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    }
    HITS.set(HITS.get() + 1);
    // SAFETY: The page is part of the mapping that is watched, of which nothing but copies are made. It is a plain system call.
    let replaced = unsafe {
        libc::mmap(
            ptr::without_provenance_mut(address & !(PAGE - 1)),
            PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if replaced == libc::MAP_FAILED {
        // SAFETY: As above.
        unsafe { libc::_exit(99) };
    }
}

/// Runs `touch`, which loads from and stores to `mapping`. Returns what it does, and how many pages of the mapping raised SIGBUS: these are
/// not the space's any more.
pub(crate) fn watch<T>(mapping: &Mapping, touch: impl FnOnce() -> T) -> (T, u32) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: The action is complete; its handler makes system calls and touches what is the thread's own.
        unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            action.sa_sigaction = replace
                as extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void)
                as usize;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigaction(libc::SIGBUS, &action, ptr::null_mut());
        }
    });
    let all = mapping.all();
    HITS.set(0);
    WATCHED.set((all.address() as usize, all.bytes()));
    let result = touch();
    WATCHED.set((0, 0));
    (result, HITS.get())
}
