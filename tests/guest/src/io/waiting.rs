// SPDX-License-Identifier: GPL-2.0

//! Waiting beside others: pollers, signals. The machine is that of [`slow`](super::slow).

use std::{
    os::fd::{AsFd, AsRawFd},
    sync::{
        atomic::{AtomicBool, Ordering::Relaxed},
        Arc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{anyhow, ensure, Result};
use io_uring::{opcode, types::Fd, IoUring};
use libvfetch::Space;
use rustix::{
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    process::Signal,
};

use super::{slow::Crowd, uring};
use crate::support::{
    errno::same,
    limit,
    machine::{leaves_nothing, space, vf, PAGE},
    process::{self, Child},
};

/// Waits until all threads have ended. Those that hang are left behind.
fn join(what: &str, threads: Vec<JoinHandle<Result<()>>>) -> Result<()> {
    limit::until(30, what, || Ok(threads.iter().all(JoinHandle::is_finished)))?;
    threads
        .into_iter()
        .try_for_each(|t| t.join().map_err(|_| anyhow!("a thread panicked"))?)
}

/// A thread that ends when the space is ready, of which nobody else need be told.
fn exclusive_poller(by_epoll: bool, space: &Space) -> Result<JoinHandle<Result<()>>> {
    if by_epoll {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let flags = EventFlags::OUT | EventFlags::EXCLUSIVE;
        epoll::add(&epoll, space, EventData::new_u64(1), flags)?;
        return Ok(thread::spawn(move || {
            let mut events = Vec::with_capacity(1);
            epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None)?;
            same("events", events.len(), 1)
        }));
    }
    let mut ring = IoUring::new(2)?;
    let flags = u32::try_from(libc::EPOLLOUT | libc::EPOLLEXCLUSIVE)?;
    let request = opcode::PollAdd::new(Fd(space.as_fd().as_raw_fd()), flags).build();
    uring::push(&mut ring, [request])?;
    ring.submit()?;
    Ok(thread::spawn(move || {
        same("poll", uring::finish(&mut ring, 1)?, vec![libc::EPOLLOUT])
    }))
}

pub(crate) fn exclusive_pollers_take_nobodys_turn() -> Result<()> {
    let function = vf(1)?;
    leaves_nothing(&function, || {
        for by_epoll in [true, false] {
            // Without a size it is never ready: whatever its poller is woken for, it takes no slot.
            let empty = Space::open(&function)?;
            let poller = exclusive_poller(by_epoll, &empty)?;
            let writers = (0..12)
                .map(|_| {
                    let space = space(&function, PAGE as u64)?;
                    Ok(thread::spawn(move || {
                        for _ in 0..8 {
                            space.write_all_at(&[1; PAGE], 0)?;
                        }
                        Ok(())
                    }))
                })
                .collect::<Result<_>>()?;
            join("12 writers beside an exclusive poller", writers)?;
            ensure!(!poller.is_finished(), "a space without size was ready");
            empty.set_size(PAGE as u64)?;
            join("the poller", vec![poller])?;
        }
        Ok(())
    })
}

/// A child that does something again and again. It ends with 0, or with the errno of what failed.
fn child(times: usize, mut run: impl FnMut() -> Result<(), libvfetch::Error>) -> Result<Child> {
    // Before there is a child: its first signal may come at once.
    process::restartable();
    process::fork(|| {
        for _ in 0..times {
            if let Err(error) = run() {
                let errno = error.errno().map_or(255, rustix::io::Errno::raw_os_error);
                return u8::try_from(errno).unwrap_or(255);
            }
        }
        0
    })
}

/// Sends the signals in turn until the child has ended, and says that it ended well.
fn succeeds_under(signals: &[Signal], child: &mut Child) -> Result<()> {
    let (mut next, mut status) = (signals.iter().cycle(), None);
    limit::until(30, "a child that gets signals", || {
        if let Some(signal) = next.next() {
            child.signal(*signal)?;
        }
        // Time enough for a short wait, and too little for the whole.
        thread::sleep(Duration::from_millis(20));
        status = child.ended()?;
        Ok(status.is_some())
    })?;
    let found = status.and_then(rustix::process::WaitStatus::exit_status);
    ensure!(found == Some(0), "it ended with {status:?}, an errno");
    Ok(())
}

pub(crate) fn signals_that_restart_calls_end_no_wait() -> Result<()> {
    let function = vf(1)?;
    leaves_nothing(&function, || {
        let shared = Arc::new(space(&function, 64 * PAGE as u64)?);
        let pages = |n: u64| n * PAGE as u64..(n + 1) * PAGE as u64;
        for signals in [&[Signal::STOP, Signal::CONT][..], &[Signal::USR2]] {
            // For slots: five for four, 4 ms each.
            let crowd = Crowd::new(&function, 5, PAGE)?;
            let mut writer = child(40, || shared.write_all_at(&[7; PAGE], 0))?;
            succeeds_under(signals, &mut writer)?;
            crowd.leave()?;
            // To change the space, while a thread writes to it, 16 ms each time.
            let stop = Arc::new(AtomicBool::new(false));
            let busy = {
                let (shared, stop) = (shared.clone(), stop.clone());
                thread::spawn(move || {
                    while !stop.load(Relaxed) {
                        shared.write_all_at(&[1; 4 * PAGE], 0)?;
                    }
                    Ok(())
                })
            };
            let mut discarder = child(40, || shared.discard(pages(32)))?;
            let result = succeeds_under(signals, &mut discarder);
            stop.store(true, Relaxed);
            join("the thread", vec![busy])?;
            result?;
        }
        Ok(())
    })
}
