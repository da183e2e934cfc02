// SPDX-License-Identifier: GPL-2.0

//! Waiting for slots. The machine has a link of 1 MB/s and queues of 4 slots: a transfer of a page takes 4 ms, one
//! of 128 KiB 131 ms.

use std::{
    sync::{
        atomic::{AtomicBool, Ordering::Relaxed},
        Arc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{anyhow, bail, ensure, Result};
use io_uring::IoUring;
use libvfetch::{Error, Function, Interest, Options, Space};
use rustix::process::Signal;

use super::uring;
use crate::support::{
    buffer::Mapping,
    errno::{same, Errno},
    limit,
    machine::{leaves_nothing, space, stats, vf, PAGE},
    model::{self, pattern},
    process,
};

const SLOTS: u64 = 4;

/// Keeps all slots of a function busy, with others waiting for them, until it is dropped.
pub(super) struct Crowd {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Crowd {
    /// Transfers of `bytes` take a thousandth of a millisecond a byte, each slot in turn.
    pub(super) fn new(function: &Function, threads: usize, bytes: usize) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut crowd = Self {
            stop: stop.clone(),
            threads: Vec::new(),
        };
        for _ in 0..threads {
            let (space, stop) = (space(function, 32 * PAGE as u64)?, stop.clone());
            crowd.threads.push(thread::spawn(move || {
                let data = vec![1; bytes];
                while !stop.load(Relaxed) {
                    space.write_all_at(&data, 0)?;
                }
                Ok(())
            }));
        }
        limit::until(10, "all slots to be busy", || {
            Ok(stats(function)?.in_flight == SLOTS)
        })?;
        Ok(crowd)
    }

    pub(super) fn leave(mut self) -> Result<()> {
        self.stop.store(true, Relaxed);
        let threads = std::mem::take(&mut self.threads);
        threads
            .into_iter()
            .try_for_each(|t| t.join().map_err(|_| anyhow!("the crowd panicked"))?)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Tries until `attempt` says that it saw what it wants. Between two transfers a slot is free for an instant, so
/// that an attempt may well fall into it, but not many.
pub(super) fn within_tries(
    what: &str,
    tries: usize,
    mut attempt: impl FnMut() -> Result<bool>,
) -> Result<()> {
    for _ in 0..tries {
        if attempt()? {
            return Ok(());
        }
    }
    bail!("{what}: not seen in {tries} tries")
}

pub(crate) fn the_machine_is_slow() -> Result<()> {
    let info = Space::open(&vf(1)?)?.info()?;
    same("slots", u64::from(info.queue_entries), SLOTS)?;
    same("link", info.link_bytes_per_us, 1)?;
    let space = space(&vf(1)?, 16 * PAGE as u64)?;
    let start = Instant::now();
    space.write_all_at(&[1; 16 * PAGE], 0)?;
    let took = start.elapsed().as_millis();
    ensure!(took >= 60, "64 KiB took {took} ms");
    Ok(())
}

pub(crate) fn a_nonblocking_file_gets_eagain_when_no_slot_is_free() -> Result<()> {
    let function = vf(1)?;
    leaves_nothing(&function, || {
        let space = Options::new().nonblocking(true).open(&function)?;
        space.set_size(32 * PAGE as u64)?;
        space.write_all_at(&pattern(111, 1, 0, PAGE), 0)?;
        let crowd = Crowd::new(&function, 10, 32 * PAGE)?;
        let mut buffer = vec![0; PAGE];
        for writing in [false, true] {
            within_tries("EAGAIN", 10, || {
                let start = Instant::now();
                let result = if writing {
                    space.write_at(&buffer, 8 * PAGE as u64)
                } else {
                    space.read_at(&mut buffer, 0)
                };
                match result {
                    Ok(moved) => same("a slot was free", moved, PAGE).map(|()| false),
                    Err(Error::WouldBlock { .. }) => {
                        let took = start.elapsed().as_millis();
                        ensure!(
                            took < 100 * u128::from(limit::factor()),
                            "EAGAIN took {took} ms"
                        );
                        Ok(true)
                    }
                    Err(error) => Err(error.into()),
                }
            })?;
        }
        // Zeros need no slot.
        let start = Instant::now();
        same("zeros", space.read_at(&mut buffer, 20 * PAGE as u64)?, PAGE)?;
        ensure!(
            start.elapsed() < Duration::from_millis(100) * limit::factor(),
            "zeros waited for a slot"
        );
        crowd.leave()?;
        same("afterwards", space.read_at(&mut buffer, 0)?, PAGE)?;
        model::equal("afterwards", 0, &buffer, &pattern(111, 1, 0, PAGE))
    })
}

pub(crate) fn poll_tells_when_a_slot_is_free() -> Result<()> {
    let function = vf(1)?;
    leaves_nothing(&function, || {
        let space = Options::new().nonblocking(true).open(&function)?;
        space.set_size(PAGE as u64)?;
        let ready = |interest| space.wait(interest, Some(Duration::ZERO));
        ensure!(
            ready(Interest::Writable)?.writable,
            "not writable with all slots free"
        );
        let crowd = Crowd::new(&function, 10, 32 * PAGE)?;
        within_tries(
            "no POLLOUT",
            10,
            || Ok(!ready(Interest::Writable)?.writable),
        )?;
        within_tries("no POLLIN either", 10, || {
            Ok(!ready(Interest::Readable)?.readable)
        })?;
        thread::scope(|scope| {
            let poller = scope.spawn(|| -> Result<()> {
                // EAGAIN and poll, as programs do.
                loop {
                    match space.write_at(&[5; 100], 0) {
                        Err(Error::WouldBlock { .. }) => {
                            let found =
                                space.wait(Interest::Writable, Some(Duration::from_secs(20)))?;
                            ensure!(found.writable, "poll ended with {found:?}");
                        }
                        other => return same("the write", other?, 100),
                    }
                }
            });
            thread::sleep(Duration::from_millis(300));
            crowd.leave()?;
            poller.join().map_err(|_| anyhow!("the poller panicked"))?
        })
    })
}

pub(crate) fn a_signal_ends_the_wait_for_a_slot() -> Result<()> {
    let function = vf(1)?;
    leaves_nothing(&function, || {
        let shared = Arc::new(space(&function, 512 * PAGE as u64)?);
        let crowd = Crowd::new(&function, 10, 8 * PAGE)?;
        // Nothing moved yet: EINTR. Something moved: a short count.
        for (bytes, after_ms, wanted) in [(PAGE, 40, "EINTR"), (256 * PAGE, 1000, "a short count")]
        {
            within_tries(wanted, 8, || {
                let writer = {
                    let shared = shared.clone();
                    thread::spawn(move || shared.write_at(&vec![7; bytes], 0))
                };
                thread::sleep(Duration::from_millis(after_ms));
                let end = Instant::now() + Duration::from_secs(20) * limit::factor();
                while !writer.is_finished() {
                    ensure!(Instant::now() < end, "signals do not end the wait");
                    process::interrupt(&writer);
                    thread::sleep(Duration::from_millis(10));
                }
                match writer.join().map_err(|_| anyhow!("the writer panicked"))? {
                    Ok(moved) => Ok(wanted != "EINTR" && moved < bytes),
                    Err(error) if error.errno() == Some(Errno::INTR) => Ok(wanted == "EINTR"),
                    Err(error) => Err(error.into()),
                }
            })?;
        }
        crowd.leave()
    })
}

pub(crate) fn slots_are_given_in_turn() -> Result<()> {
    let function = vf(1)?;
    leaves_nothing(&function, || {
        const THREADS: usize = 10;
        let space = space(&function, PAGE as u64)?;
        let crowd = Crowd::new(&function, THREADS, 8 * PAGE)?;
        for round in 0..8 {
            let before = stats(&function)?.writes;
            space.write_all_at(&[7; PAGE], 0)?;
            // Those before us in the queue and in slots, and who came between the looks.
            let others = stats(&function)?.writes - before - 1;
            let most = THREADS as u64 + SLOTS + 4;
            ensure!(
                others <= most,
                "round {round}: {others} writes went first, not at most {most}"
            );
        }
        crowd.leave()
    })
}

pub(crate) fn a_kill_ends_a_large_transfer() -> Result<()> {
    let function = vf(2)?;
    leaves_nothing(&function, || {
        for writing in [true, false] {
            let bytes = 12 << 20;
            let shared = space(&function, bytes as u64)?;
            if !writing {
                // Some of each piece, so that all of it must be read from the device.
                for at in (0..bytes as u64).step_by(PAGE) {
                    if at < 1 << 20 || at % (1 << 17) == 0 {
                        shared.write_all_at(&[1], at)?;
                    }
                }
            }
            let mut child = process::fork(|| {
                let mut data = vec![1; bytes];
                let moved = if writing {
                    shared.write_at(&data, 0)
                } else {
                    shared.read_at(&mut data, 0)
                };
                u8::from(moved.is_err())
            })?;
            limit::until(10, "the child to transfer", || {
                Ok(stats(&function)?.in_flight > 0)
            })?;
            thread::sleep(Duration::from_millis(200));
            child.signal(Signal::KILL)?;
            let start = Instant::now();
            let status = child.wait(30)?;
            ensure!(
                status.terminating_signal() == Some(Signal::KILL.as_raw()),
                "it ended with {status:?}"
            );
            // 4 transfers of 131 ms, where the whole would take many seconds.
            let took = start.elapsed().as_millis();
            ensure!(
                took < 1500 * u128::from(limit::factor()),
                "it took {took} ms to die"
            );
        }
        Ok(())
    })
}

pub(crate) fn many_threads_share_few_slots() -> Result<()> {
    let function = vf(1)?;
    let before = stats(&function)?;
    leaves_nothing(&function, || {
        let shared = space(&function, 64 * PAGE as u64)?;
        thread::scope(|scope| {
            let threads: Vec<_> = (0..24usize)
                .map(|n| {
                    let shared = &shared;
                    scope.spawn(move || -> Result<()> {
                        let owner = 120 + u16::try_from(n)?;
                        let at = n as u64 * 2 * PAGE as u64 + 100;
                        for write in 0..6 {
                            let data = pattern(owner, write, at, PAGE);
                            shared.write_all_at(&data, at)?;
                            let mut got = vec![0; PAGE];
                            shared.read_exact_at(&mut got, at)?;
                            model::equal("what was written", at, &got, &data)?;
                        }
                        Ok(())
                    })
                })
                .collect();
            threads
                .into_iter()
                .try_for_each(|t| t.join().map_err(|_| anyhow!("a thread panicked"))?)
        })
    })?;
    let after = stats(&function)?;
    ensure!(
        after.slot_waits > before.slot_waits,
        "nobody waited for a slot"
    );
    same("time-outs", after.timeouts, 0)
}

/// Requests that find no slot are tried again, by polling and by threads that wait. Nothing of that shows, unless
/// the file is such that nobody may wait (`eagain`): then some of them fail.
fn through_io_uring(space: &Space, eagain: bool) -> Result<()> {
    let function = vf(1)?;
    let bytes = 16 * PAGE;
    space.set_size(bytes as u64)?;
    let buffers = Mapping::anonymous(bytes)?;
    let mut ring = IoUring::new(16)?;
    let crowd = Crowd::new(&function, 6, 2 * PAGE)?;
    let requests = |writing| {
        let buffers = &buffers;
        (0..16).map(move |n| {
            uring::request(
                space,
                writing,
                buffers.area(n * PAGE, PAGE),
                (n * PAGE) as u64,
            )
        })
    };
    let data = pattern(112, 1, 0, bytes);
    buffers.fill(0, &data);
    uring::push(&mut ring, requests(true))?;
    let written = uring::finish(&mut ring, 16)?;
    buffers.fill(0, &vec![0xee; bytes]);
    uring::push(&mut ring, requests(false))?;
    let read = uring::finish(&mut ring, 16)?;
    crowd.leave()?;
    // All or nothing: never a part, and never 0, which would be the end of the space.
    let good = |result: &i32| *result == 4096 || eagain && *result == -libc::EAGAIN;
    ensure!(
        written.iter().chain(&read).all(good),
        "the results: {written:?} and {read:?}"
    );
    for (n, (written, read)) in written.iter().zip(&read).enumerate() {
        if (*written, *read) == (4096, 4096) {
            let page = n * PAGE..(n + 1) * PAGE;
            let wanted = data.get(page.clone()).unwrap_or_default();
            model::equal(
                "what it read",
                page.start as u64,
                &buffers.copy(page),
                wanted,
            )?;
        }
    }
    Ok(())
}

pub(crate) fn io_uring_gets_all_its_data_without_slots() -> Result<()> {
    let function = vf(1)?;
    leaves_nothing(&function, || {
        through_io_uring(&Space::open(&function)?, false)
    })
}

pub(crate) fn io_uring_gets_all_its_data_or_eagain_on_a_nonblocking_file() -> Result<()> {
    let function = vf(1)?;
    leaves_nothing(&function, || {
        through_io_uring(&Options::new().nonblocking(true).open(&function)?, true)
    })
}

pub(crate) fn io_uring_waits_for_slots_elsewhere() -> Result<()> {
    let function = vf(1)?;
    leaves_nothing(&function, || {
        let space = space(&function, 4 * PAGE as u64)?;
        space.write_all_at(&pattern(113, 1, 0, PAGE), 0)?;
        let buffer = Mapping::anonymous(PAGE)?;
        let mut ring = IoUring::new(4)?;
        let crowd = Crowd::new(&function, 10, 32 * PAGE)?;
        within_tries("a request given without waiting", 5, || {
            buffer.fill(0, &[0; PAGE]);
            uring::push(&mut ring, [uring::request(&space, false, buffer.all(), 0)])?;
            let start = Instant::now();
            ring.submit()?;
            let took = start.elapsed();
            same("its result", uring::finish(&mut ring, 1)?, vec![4096])?;
            model::equal(
                "what it read",
                0,
                &buffer.copy(0..PAGE),
                &pattern(113, 1, 0, PAGE),
            )?;
            Ok(took < Duration::from_millis(60) * limit::factor())
        })?;
        crowd.leave()
    })
}

pub(crate) fn a_full_queue_holds_up_no_other_function() -> Result<()> {
    let (busy, other) = (vf(1)?, vf(2)?);
    let space = space(&other, PAGE as u64)?;
    let crowd = Crowd::new(&busy, 10, 32 * PAGE)?;
    let mut slowest = Duration::ZERO;
    for write in 0..10 {
        let data = pattern(114, write, 0, PAGE);
        let start = Instant::now();
        space.write_all_at(&data, 0)?;
        let mut got = vec![0; PAGE];
        space.read_exact_at(&mut got, 0)?;
        slowest = slowest.max(start.elapsed());
        model::equal("what was written", 0, &got, &data)?;
    }
    crowd.leave()?;
    // Two transfers of 4 ms, each at half the link; behind the other's four they would take half a second.
    ensure!(
        slowest < Duration::from_millis(250) * limit::factor(),
        "writing and reading a page took {slowest:?}"
    );
    Ok(())
}
