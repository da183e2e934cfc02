// SPDX-License-Identifier: GPL-2.0

//! Changes of a space while others use it.

// A list of jobs is made for the one call that runs it.
#![allow(clippy::needless_pass_by_value)]

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{anyhow, bail, ensure, Context, Result};
use libvfetch::Space;
use rand::Rng;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};

use crate::support::{
    buffer::{memory_file, Mapping},
    errno::{Carries, Errno},
    limit,
    machine::{leaves_nothing, space, stats, vf, PAGE},
    model::{self, pattern},
    raw::{self, RESERVE},
};

type Job<'a> = Box<dyn Fn(u64) -> Result<()> + Send + Sync + 'a>;

/// Runs every job over and over for so long, and then fails if one did. A job gets the number of its round.
fn together(seconds: f64, jobs: Vec<Job<'_>>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs_f64(seconds) * limit::factor();
    let failed = AtomicBool::new(false);
    thread::scope(|scope| {
        let threads: Vec<_> = jobs
            .iter()
            .map(|job| {
                let failed = &failed;
                scope.spawn(move || {
                    let mut round = 0;
                    while Instant::now() < end && !failed.load(Relaxed) {
                        if let Err(error) = job(round) {
                            failed.store(true, Relaxed);
                            return Err(error.context(format!("in round {round}")));
                        }
                        round += 1;
                    }
                    ensure!(
                        round > 0 || failed.load(Relaxed),
                        "a job never got its turn"
                    );
                    Ok(())
                })
            })
            .collect();
        let results: Vec<_> = threads
            .into_iter()
            .map(|t| t.join().map_err(|_| anyhow!("a job panicked"))?)
            .collect();
        results.into_iter().collect()
    })
}

/// Fails unless every byte is either zero or what `owner` writes there.
fn zeros_or_pattern(offset: u64, got: &[u8], owner: u16) -> Result<()> {
    let wanted = pattern(owner, 1, offset, got.len());
    let masked: Vec<u8> = got
        .iter()
        .zip(&wanted)
        .map(|(g, w)| if *g == 0 { 0 } else { *w })
        .collect();
    model::equal("neither zeros nor what was written", offset, got, &masked)
}

/// A job that reads and checks, and one that writes, at random places up to `bytes`.
fn readers_and_writers(space: &Space, bytes: usize, owner: u16) -> Vec<Job<'_>> {
    let mut jobs: Vec<Job<'_>> = Vec::new();
    for n in 0..2u64 {
        jobs.push(Box::new(move |round| {
            let mut random = model::random(round * 7 + n + u64::from(owner) * 1000);
            let (offset, length) = model::range(&mut random, bytes, 150_000);
            match space.write_at(&pattern(owner, 1, offset as u64, length), offset as u64) {
                Err(error) if error.errno() != Some(Errno::NOSPC) => Err(error.into()),
                _ => Ok(()),
            }
        }));
        jobs.push(Box::new(move |round| {
            let mut random = model::random(round * 11 + n + u64::from(owner) * 2000);
            let (offset, length) = model::range(&mut random, bytes, 150_000);
            let mut got = vec![0; length];
            let moved = space.read_at(&mut got, offset as u64)?;
            zeros_or_pattern(offset as u64, got.get(..moved).unwrap_or_default(), owner)
        }));
    }
    jobs
}

pub(crate) fn sizes_change_under_reads_and_writes() -> Result<()> {
    let function = vf(1)?;
    leaves_nothing(&function, || {
        let most = 1300;
        let shared = space(&function, 0)?;
        let mut jobs = readers_and_writers(&shared, most * PAGE, 91);
        jobs.push(Box::new(|round| {
            let pages = model::random(round).random_range(0..=most as u64);
            shared.set_size(pages * PAGE as u64)?;
            let info = shared.info()?;
            ensure!(
                info.space_bytes == pages * PAGE as u64,
                "the size is {}",
                info.space_bytes
            );
            // Now and then there is time for the others.
            if round % 4 == 0 {
                thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        }));
        jobs.push(Box::new(|_| shared.stats().map(|_| ()).map_err(Into::into)));
        together(3.0, jobs)?;
        // What is grown now was either kept or is zeros.
        shared.set_size((most * PAGE) as u64)?;
        let mut got = vec![0; most * PAGE];
        shared.read_exact_at(&mut got, 0)?;
        zeros_or_pattern(0, &got, 91)
    })
}

pub(crate) fn writes_end_although_their_space_becomes_smaller_for_good() -> Result<()> {
    let function = vf(1)?;
    leaves_nothing(&function, || {
        let bytes = 256 * PAGE as u64;
        let shared = space(&function, 0)?;
        let data = pattern(93, 1, 0, 256 * PAGE);
        for round in 0..300u64 {
            shared.set_size(bytes)?;
            thread::scope(|scope| -> Result<()> {
                let writer = scope.spawn(|| shared.write_at(&data, 0));
                // At any time of the write, and not grown again before it has ended.
                thread::sleep(Duration::from_micros(round * 7 % 900));
                shared.set_size(round % 3 * PAGE as u64)?;
                match writer.join().expect("no panic") {
                    Err(error) if error.errno() != Some(Errno::NOSPC) => Err(error.into()),
                    _ => Ok(()),
                }
            })?;
        }
        Ok(())
    })
}

pub(crate) fn pages_are_discarded_under_reads_and_writes() -> Result<()> {
    let function = vf(2)?;
    leaves_nothing(&function, || {
        let pages = 1300u64;
        let shared = space(&function, pages * PAGE as u64)?;
        let mut jobs = readers_and_writers(&shared, 1300 * PAGE, 92);
        jobs.push(Box::new(|round| {
            let mut random = model::random(round);
            let first = random.random_range(0..pages);
            let outer = random.random_range(first..=pages);
            shared.discard(first * PAGE as u64..outer * PAGE as u64)?;
            Ok(())
        }));
        together(3.0, jobs)?;
        shared.discard(0..pages * PAGE as u64)?;
        let mut got = vec![0xee; 1300 * PAGE];
        shared.read_exact_at(&mut got, 0)?;
        model::zeros("after the last discard", 0, &got)
    })
}

pub(crate) fn sizes_are_set_at_once_up_to_the_limit() -> Result<()> {
    let function = vf(3)?;
    leaves_nothing(&function, || {
        let free = Space::open(&function)?.info()?.free_bytes;
        let half = free / 2 / PAGE as u64 * PAGE as u64 + PAGE as u64;
        let spaces: Vec<_> = (0..4)
            .map(|_| Space::open(&function))
            .collect::<Result<_, _>>()?;
        let (granted, refused, held) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let jobs = spaces
            .iter()
            .map(|space| -> Job<'_> {
                Box::new(|_| {
                    // More than half: only one can have it at a time.
                    match raw::set_size(space, half, RESERVE) {
                        Ok(()) => {
                            ensure!(
                                held.fetch_add(1, Relaxed) == 0,
                                "two spaces have more than half each"
                            );
                            granted.fetch_add(1, Relaxed);
                            space.write_all_at(&[1], half - 1)?;
                            held.fetch_sub(1, Relaxed);
                            raw::set_size(space, 0, RESERVE)?;
                        }
                        Err(Errno::NOSPC) => {
                            refused.fetch_add(1, Relaxed);
                        }
                        Err(error) => bail!("SET_SIZE: {error:?}"),
                    }
                    Ok(())
                })
            })
            .collect();
        together(1.5, jobs)?;
        ensure!(granted.load(Relaxed) > 0, "nobody was given it");
        ensure!(
            refused.load(Relaxed) > 0,
            "nobody was refused it: the jobs did not meet"
        );
        Ok(())
    })
}

/// Short counts and EFAULT are what a bad buffer may give; what was read must be right.
fn tolerated(what: &str, result: Result<usize, Errno>) -> Result<usize> {
    match result {
        Ok(moved) => Ok(moved),
        Err(error) if error.errno() == Some(Errno::FAULT) => Ok(0),
        Err(error) => Err(error).context(what.to_owned()),
    }
}

pub(crate) fn buffers_lose_their_rights_under_transfers() -> Result<()> {
    let function = vf(4)?;
    leaves_nothing(&function, || {
        let bytes = 64 * PAGE;
        let shared = space(&function, bytes as u64)?;
        shared.write_all_at(&pattern(93, 1, 0, bytes), 0)?;
        let mapping = Mapping::anonymous(bytes)?;
        mapping.fill(0, &pattern(93, 1, 0, bytes));
        let (short, whole) = (AtomicU64::new(0), AtomicU64::new(0));
        let count = |moved: usize| {
            let which = if moved == bytes { &whole } else { &short };
            which.fetch_add(1, Relaxed);
        };
        let mut jobs: Vec<Job<'_>> = vec![Box::new(|round| {
            let page = model::random(round).random_range(0..64) * PAGE;
            mapping.protect(page..page + PAGE, MprotectFlags::empty())?;
            thread::sleep(Duration::from_micros(500));
            mapping.protect(
                page..page + PAGE,
                MprotectFlags::READ | MprotectFlags::WRITE,
            )?;
            thread::sleep(Duration::from_micros(500));
            Ok(())
        })];
        jobs.push(Box::new(|_| {
            count(tolerated("pread", mapping.all().pread(&shared, 0))?);
            Ok(())
        }));
        jobs.push(Box::new(|_| {
            count(tolerated("pwrite", mapping.all().pwrite(&shared, 0))?);
            Ok(())
        }));
        // A good buffer beside it.
        jobs.push(Box::new(|_| {
            let mut got = vec![0; bytes];
            shared.read_exact_at(&mut got, 0)?;
            model::equal("a good buffer", 0, &got, &pattern(93, 1, 0, bytes))
        }));
        together(2.0, jobs)?;
        ensure!(
            short.load(Relaxed) > 0 && whole.load(Relaxed) > 0,
            "the jobs did not meet: {short:?}, {whole:?}"
        );
        Ok(())
    })?;
    let after = stats(&function)?;
    ensure!(
        after.transfer_errors == 0,
        "{} transfers failed",
        after.transfer_errors
    );
    Ok(())
}

pub(crate) fn files_that_shrink_under_transfers_hold_up_nobody() -> Result<()> {
    let function = vf(5)?;
    leaves_nothing(&function, || {
        let bytes = 64 * PAGE;
        let shared = space(&function, bytes as u64)?;
        shared.write_all_at(&pattern(94, 1, 0, bytes), 0)?;
        let file = memory_file(bytes as u64)?;
        let mapping = Mapping::of(
            &file,
            bytes,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
        )?;
        let other = space(&function, bytes as u64)?;
        let slowest = AtomicU64::new(0);
        let jobs: Vec<Job<'_>> = vec![
            Box::new(|round| {
                let pages = model::random(round).random_range(0..64u64);
                file.set_len(pages * PAGE as u64)?;
                file.set_len(bytes as u64)?;
                Ok(())
            }),
            Box::new(|_| tolerated("pread", mapping.all().pread(&shared, 0)).map(|_| ())),
            Box::new(|_| {
                tolerated("pwrite", mapping.area(0, 20 * PAGE).pwrite(&other, 0)).map(|_| ())
            }),
            Box::new(|_| {
                let start = Instant::now();
                let mut got = vec![0; PAGE];
                shared.read_exact_at(&mut got, 5 * PAGE as u64)?;
                slowest.fetch_max(start.elapsed().as_millis().try_into()?, Relaxed);
                model::equal(
                    "a good buffer",
                    5 * PAGE as u64,
                    &got,
                    &pattern(94, 1, 5 * PAGE as u64, PAGE),
                )
            }),
        ];
        together(2.0, jobs)?;
        // A wedge would be a time-out of the driver's, 2 s.
        let slowest = slowest.load(Relaxed);
        ensure!(
            slowest < 1500 * u64::from(limit::factor()),
            "a read of a page took {slowest} ms"
        );
        Ok(())
    })?;
    let after = stats(&function)?;
    ensure!(
        after.transfer_errors == 0,
        "{} transfers failed",
        after.transfer_errors
    );
    Ok(())
}
