// SPDX-License-Identifier: GPL-2.0

//! What is written comes back.

use std::{
    io::{IoSlice, IoSliceMut},
    ops::Range,
    os::fd::AsFd,
    sync::{
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::channel,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{ensure, Context, Result};
use libvfetch::{Function, Space};
use rand::Rng;
use rand_pcg::Pcg64Mcg;

use crate::support::{
    limit,
    machine::{functions, leaves_nothing, pf, space, PAGE},
    model::{self, Model},
};

/// Cuts `bytes` into pieces as odd as vectors may be: empty ones, single bytes, across pages.
fn cut(random: &mut Pcg64Mcg, bytes: usize) -> Vec<usize> {
    let mut pieces = Vec::new();
    let mut left = bytes;
    while left > 0 && pieces.len() < 40 {
        let piece = match random.random_range(0..6) {
            0 => 0,
            1 => 1,
            2 => random.random_range(1..=64),
            3 => PAGE,
            _ => random.random_range(1..=left),
        }
        .min(left);
        pieces.push(piece);
        left -= piece;
    }
    pieces.push(left);
    pieces
}

/// A part of a space that one thread uses; its ends are in the middle of pages that the neighbours use as well.
struct Worker<'s> {
    space: &'s Space,
    part: Range<usize>,
    model: Model,
    random: Pcg64Mcg,
}

impl Worker<'_> {
    fn step(&mut self) -> Result<()> {
        let (offset, bytes) = model::range(&mut self.random, self.model.len(), 300_000);
        let at = (self.part.start + offset) as u64;
        match self.random.random_range(0..32) {
            0 => self.discard(offset, bytes),
            1..=9 => self.write(offset, bytes, at),
            10..=15 => self.writev(offset, bytes, at),
            16..=25 => self.read(offset, bytes, at),
            _ => self.readv(offset, bytes, at),
        }
    }

    fn write(&mut self, offset: usize, bytes: usize, at: u64) -> Result<()> {
        let data = self.model.next(self.part.start + offset, bytes);
        // A buffer at any alignment.
        let shift = self.random.random_range(0..64);
        let mut buffer = vec![0xee; shift + bytes];
        let unaligned = buffer.get_mut(shift..).unwrap_or_default();
        unaligned.copy_from_slice(&data);
        let done = self.space.write_at(unaligned, at)?;
        ensure!(done == bytes, "write at {at:#x}: {done} of {bytes} bytes");
        self.model.wrote(offset, &data);
        Ok(())
    }

    fn writev(&mut self, offset: usize, bytes: usize, at: u64) -> Result<()> {
        let data = self.model.next(self.part.start + offset, bytes);
        let mut rest = data.as_slice();
        let mut vector = Vec::new();
        for piece in cut(&mut self.random, bytes) {
            let (now, later) = rest.split_at(piece);
            vector.push(IoSlice::new(now));
            rest = later;
        }
        let done = rustix::io::pwritev(self.space.as_fd(), &vector, at)?;
        ensure!(done == bytes, "writev at {at:#x}: {done} of {bytes} bytes");
        self.model.wrote(offset, &data);
        Ok(())
    }

    fn read(&mut self, offset: usize, bytes: usize, at: u64) -> Result<()> {
        let shift = self.random.random_range(0..64);
        let mut buffer = vec![0xee; shift + bytes + 64];
        let place = buffer.get_mut(shift..shift + bytes).unwrap_or_default();
        let done = self.space.read_at(place, at)?;
        ensure!(done == bytes, "read at {at:#x}: {done} of {bytes} bytes");
        self.model.check("read", offset, place)?;
        let (before, rest) = buffer.split_at(shift);
        let beside = before.iter().chain(rest.iter().skip(bytes));
        ensure!(
            beside.clone().all(|byte| *byte == 0xee),
            "read at {at:#x} wrote beside its buffer"
        );
        Ok(())
    }

    fn readv(&mut self, offset: usize, bytes: usize, at: u64) -> Result<()> {
        let mut buffers: Vec<_> = cut(&mut self.random, bytes)
            .into_iter()
            .map(|n| vec![0xee; n])
            .collect();
        let mut vector: Vec<_> = buffers
            .iter_mut()
            .map(|buffer| IoSliceMut::new(buffer))
            .collect();
        let done = rustix::io::preadv(self.space.as_fd(), &mut vector, at)?;
        ensure!(done == bytes, "readv at {at:#x}: {done} of {bytes} bytes");
        self.model.check("readv", offset, &buffers.concat())
    }

    fn discard(&mut self, offset: usize, bytes: usize) -> Result<()> {
        // Whole pages of our part.
        let first = (self.part.start + offset).next_multiple_of(PAGE);
        let outer = (self.part.start + offset + bytes) / PAGE * PAGE;
        if first < outer {
            self.space.discard(first as u64..outer as u64)?;
            self.model.discarded(first - self.part.start, outer - first);
        }
        Ok(())
    }
}

/// One function: several spaces, each used by several threads.
fn use_function(function: &Function, end: Instant) -> Result<()> {
    const THREADS: usize = 3;
    // Across blocks, and no whole number of them.
    let sizes = [3 << 20, (2 << 20) + 5 * PAGE];
    let spaces = sizes
        .iter()
        .map(|bytes| space(function, *bytes as u64))
        .collect::<Result<Vec<_>>>()?;
    thread::scope(|scope| -> Result<()> {
        let mut threads = Vec::new();
        for ((s, space), bytes) in (0u16..).zip(&spaces).zip(sizes) {
            for t in 0..THREADS {
                let owner = u16::try_from(function.node)? * 100 + s * 10 + u16::try_from(t)?;
                let start = (bytes / THREADS * t) | if t == 0 { 0 } else { 0x123 };
                let outer = if t + 1 == THREADS {
                    bytes
                } else {
                    (bytes / THREADS * (t + 1)) | 0x123
                };
                let mut worker = Worker {
                    space,
                    part: start..outer,
                    model: Model::new(owner, outer - start),
                    random: model::random(u64::from(owner)),
                };
                threads.push(scope.spawn(move || -> Result<()> {
                    let mut steps = 0;
                    while Instant::now() < end || steps < 20 {
                        worker.step().with_context(|| {
                            format!(
                                "space {owner}, step {steps}, VFETCH_TEST_SEED={}",
                                model::seed()
                            )
                        })?;
                        steps += 1;
                    }
                    // All of it once more, in one go.
                    let mut all = vec![0xee; worker.model.len()];
                    worker
                        .space
                        .read_exact_at(&mut all, worker.part.start as u64)?;
                    worker.model.check("all of it", 0, &all)
                }));
            }
        }
        for thread in threads {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        }
        Ok(())
    })
    .with_context(|| format!("{}, {}", function.role, function.path.display()))
}

pub(crate) fn random_io_on_all_functions_at_once_matches_a_model() -> Result<()> {
    let functions = functions()?;
    ensure!(
        functions.len() >= 9,
        "{} functions: this wants the PF and 8 VFs",
        functions.len()
    );
    let end = Instant::now() + Duration::from_secs(8) * limit::factor();
    let before: Vec<_> = functions
        .iter()
        .map(crate::support::machine::given)
        .collect::<Result<_>>()?;
    thread::scope(|scope| {
        let threads: Vec<_> = functions
            .iter()
            .map(|function| scope.spawn(move || use_function(function, end)))
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a function's thread panicked"))?
        })
    })?;
    let after: Vec<_> = functions
        .iter()
        .map(crate::support::machine::given)
        .collect::<Result<_>>()?;
    ensure!(
        before == after,
        "not all came back: {before:?} before, {after:?} after"
    );
    Ok(())
}

pub(crate) fn words_of_eight_bytes_are_never_torn() -> Result<()> {
    let function = pf()?;
    let space = space(&function, 4 * PAGE as u64)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers: Vec<_> = [0x00u8, 0xff]
            .into_iter()
            .map(|byte| {
                let (space, stop) = (&space, &stop);
                scope.spawn(move || -> Result<()> {
                    let data = vec![byte; 2 * PAGE];
                    while !stop.load(Relaxed) {
                        space.write_all_at(&data, 8)?;
                    }
                    Ok(())
                })
            })
            .collect();
        let read = || -> Result<()> {
            let end = Instant::now() + Duration::from_secs(2);
            let mut data = vec![0; 2 * PAGE];
            while Instant::now() < end {
                space.read_exact_at(&mut data, 8)?;
                for word in data.chunks_exact(8) {
                    ensure!(
                        word.iter().all(|byte| Some(byte) == word.first()),
                        "a torn word: {word:02x?}"
                    );
                }
            }
            Ok(())
        };
        let result = read();
        stop.store(true, Relaxed);
        for writer in writers {
            writer
                .join()
                .map_err(|_| anyhow::anyhow!("a writer panicked"))??;
        }
        result
    })
}

pub(crate) fn a_read_that_starts_after_a_write_ended_sees_it() -> Result<()> {
    let function = pf()?;
    leaves_nothing(&function, || {
        let space = space(&function, 64 * PAGE as u64)?;
        // Written by one thread, read by another at once.
        let (send, receive) = channel::<(u64, Vec<u8>)>();
        let (answer, answered) = channel();
        thread::scope(|scope| {
            let space = &space;
            let reader = scope.spawn(move || -> Result<()> {
                for (offset, wanted) in receive {
                    let mut got = vec![0; wanted.len()];
                    space.read_exact_at(&mut got, offset)?;
                    model::equal("read elsewhere", offset, &got, &wanted)?;
                    answer.send(()).context("the writer has ended")?;
                }
                Ok(())
            });
            let mut random = model::random(7);
            let mut model = Model::new(7, 64 * PAGE);
            let mut write = || -> Result<()> {
                for _ in 0..300 {
                    let (offset, bytes) = model::range(&mut random, model.len(), 20_000);
                    let data = model.next(offset, bytes);
                    space.write_all_at(&data, offset as u64)?;
                    send.send((offset as u64, data))
                        .context("the reader has ended")?;
                    answered.recv().context("the reader has ended")?;
                }
                Ok(())
            };
            let written = write();
            drop(send);
            // The reader's error says more than that it has ended.
            reader
                .join()
                .map_err(|_| anyhow::anyhow!("the reader panicked"))??;
            written
        })
    })
}
