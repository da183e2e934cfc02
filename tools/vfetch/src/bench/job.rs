// SPDX-License-Identifier: GPL-2.0 OR MIT

//! One measurement: threads that read or write until a count or a time is over.
//!
//! While it runs nothing else does: no progress, no output, no helper thread,
//! so that under icount two runs take the same virtual time.

use std::{
    sync::{
        atomic::{AtomicBool, Ordering},
        Barrier,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{anyhow, Result};
use hdrhistogram::Histogram;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::{
    cli::{Op, Order},
    memory::{Buffer, Memory},
    pattern::Pattern,
};

/// When a thread is done.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limit {
    Time(Duration),
    Count(u64),
}

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    pub(crate) op: Op,
    pub(crate) order: Order,
    pub(crate) block: usize,
    /// Threads of each function.
    pub(crate) depth: u32,
    pub(crate) limit: Limit,
    /// Requests of each thread that do not count.
    pub(crate) warmup: u64,
    pub(crate) verify: bool,
    pub(crate) seed: u64,
}

/// What was measured, over all threads.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) requests: u64,
    /// From the first thread's start to the last one's end.
    pub(crate) elapsed: Duration,
    /// Nanoseconds of each request.
    pub(crate) latencies: Histogram<u32>,
}

/// Latencies are kept to three digits, up to a minute.
pub(crate) fn histogram() -> Result<Histogram<u32>> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).map_err(|error| anyhow!("{error}"))
}

pub(crate) fn record(histogram: &mut Histogram<u32>, latency: Duration) {
    histogram.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
}

/// A space that is measured, and what is in it.
pub(crate) struct Area<'a> {
    pub(crate) memory: &'a dyn Memory,
    pub(crate) bytes: u64,
}

impl Area<'_> {
    /// Writes the pattern everywhere.
    pub(crate) fn fill(&self, pattern: Pattern) -> Result<()> {
        const STEP: usize = 1 << 20;
        let mut buffer = Buffer::new(STEP);
        let mut at = 0;
        while at < self.bytes {
            let n = usize::try_from(self.bytes - at).map_or(STEP, |left| left.min(STEP));
            let data = &mut buffer.slice_mut()[..n];
            pattern.fill(data, at);
            self.memory.write_all_at(data, at)?;
            at += n as u64;
        }
        Ok(())
    }

    /// Blocks that were `written` hold `new`, the others `old`.
    fn check(
        &self,
        block: usize,
        written: &[AtomicBool],
        old: Pattern,
        new: Pattern,
    ) -> Result<()> {
        let mut buffer = Buffer::new(block);
        for (i, written) in written.iter().enumerate() {
            let at = i as u64 * block as u64;
            self.memory.read_exact_at(buffer.slice_mut(), at)?;
            let expected = if written.load(Ordering::Relaxed) {
                new
            } else {
                old
            };
            expected.check(buffer.slice(), at, &self.memory.name())?;
        }
        Ok(())
    }
}

/// Where a thread's requests go.
struct Offsets {
    order: Order,
    blocks: u64,
    block: u64,
    next: u64,
    step: u64,
    random: Pcg64Mcg,
}

impl Offsets {
    /// Sequential threads of one function take turns, so that together they go through the
    /// area once; random ones go their own ways, decided by the seed and by who they are.
    fn new(job: &Job, blocks: u64, function: usize, thread: u32) -> Self {
        let who = ((function as u64) << 32) | u64::from(thread);
        Self {
            order: job.order,
            blocks,
            block: job.block as u64,
            next: u64::from(thread) % blocks,
            step: u64::from(job.depth) % blocks,
            random: Pcg64Mcg::seed_from_u64(job.seed ^ who.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        }
    }

    fn next(&mut self) -> u64 {
        let index = match self.order {
            Order::Rand => self.random.random_range(0..self.blocks),
            Order::Seq => {
                let index = self.next;
                self.next = (self.next + self.step) % self.blocks;
                index
            }
        };
        index * self.block
    }
}

/// One thread's share of the result.
struct Part {
    start: Instant,
    end: Instant,
    latencies: Histogram<u32>,
}

/// Runs the job on all areas together. They hold the pattern of the job's seed before; `written`
/// has the pattern of the next seed where writes went.
pub(crate) fn measure(areas: &[Area<'_>], job: &Job) -> Result<Sample> {
    let old = Pattern::new(job.seed);
    let new = Pattern::new(job.seed.wrapping_add(1));
    let written: Vec<Vec<AtomicBool>> = areas
        .iter()
        .map(|area| {
            (0..area.bytes / job.block as u64)
                .map(|_| AtomicBool::new(false))
                .collect()
        })
        .collect();
    let barrier = Barrier::new(areas.len() * job.depth as usize);
    let parts: Vec<Result<Part>> = thread::scope(|scope| {
        let mut threads = Vec::new();
        for (function, (area, written)) in areas.iter().zip(&written).enumerate() {
            for thread in 0..job.depth {
                let barrier = &barrier;
                let mut worker = Worker {
                    area,
                    job,
                    offsets: Offsets::new(job, written.len() as u64, function, thread),
                    pattern: if job.op == Op::Read { old } else { new },
                    written,
                    buffer: Buffer::new(job.block),
                };
                threads.push(scope.spawn(move || worker.run(barrier)));
            }
        }
        threads
            .into_iter()
            .map(|t| {
                t.join()
                    .unwrap_or_else(|_| Err(anyhow!("a thread of the benchmark panicked")))
            })
            .collect()
    });
    let parts = parts.into_iter().collect::<Result<Vec<_>>>()?;
    if job.op == Op::Write && job.verify {
        for (area, written) in areas.iter().zip(&written) {
            area.check(job.block, written, old, new)?;
        }
    }
    let mut latencies = histogram()?;
    for part in &parts {
        latencies
            .add(&part.latencies)
            .map_err(|error| anyhow!("{error}"))?;
    }
    let start = parts.iter().map(|p| p.start).min();
    let end = parts.iter().map(|p| p.end).max();
    let elapsed = start
        .zip(end)
        .map_or(Duration::ZERO, |(start, end)| end - start);
    Ok(Sample {
        requests: latencies.len(),
        elapsed,
        latencies,
    })
}

/// A thread's means.
struct Worker<'a> {
    area: &'a Area<'a>,
    job: &'a Job,
    offsets: Offsets,
    /// What writes write, and what reads find.
    pattern: Pattern,
    written: &'a [AtomicBool],
    buffer: Buffer,
}

impl Worker<'_> {
    /// One request after the one that ended at `last`: when it began and ended. Checks are
    /// outside of that. Without them it begins where the last one ended: one reading of
    /// the clock each, since that may cost a system call.
    fn request(&mut self, last: Instant) -> Result<(Instant, Instant)> {
        let Job {
            op, block, verify, ..
        } = *self.job;
        let memory = self.area.memory;
        let offset = self.offsets.next();
        let mut began = last;
        if verify {
            if op == Op::Write {
                self.pattern.fill(self.buffer.slice_mut(), offset);
                let index = usize::try_from(offset / block as u64)?;
                if let Some(written) = self.written.get(index) {
                    written.store(true, Ordering::Relaxed);
                }
            }
            began = Instant::now();
        }
        match op {
            Op::Read => memory.read_exact_at(self.buffer.slice_mut(), offset)?,
            Op::Write => memory.write_all_at(self.buffer.slice(), offset)?,
        }
        let ended = Instant::now();
        if verify && op == Op::Read {
            self.pattern
                .check(self.buffer.slice(), offset, &memory.name())?;
        }
        Ok((began, ended))
    }

    fn run(&mut self, barrier: &Barrier) -> Result<Part> {
        // Touches the buffer, as `clear` does the histogram: page faults are not to be measured.
        self.pattern.fill(self.buffer.slice_mut(), 0);
        let mut latencies = histogram()?;
        latencies.clear();
        let warm = (0..self.job.warmup).try_for_each(|_| self.request(Instant::now()).map(drop));
        // Every thread comes here, or the others would wait for ever.
        barrier.wait();
        warm?;
        let start = Instant::now();
        let (mut last, mut done) = (start, 0);
        loop {
            let (began, ended) = self.request(last)?;
            record(&mut latencies, ended - began);
            last = ended;
            done += 1;
            let over = match self.job.limit {
                Limit::Count(count) => done >= count,
                Limit::Time(time) => last - start >= time,
            };
            if over {
                return Ok(Part {
                    start,
                    end: last,
                    latencies,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{exit::Mismatch, memory::tests::Ram};

    fn job(op: Op, order: Order) -> Job {
        Job {
            op,
            order,
            block: 4096,
            depth: 3,
            limit: Limit::Count(40),
            warmup: 2,
            verify: true,
            seed: 5,
        }
    }

    fn filled(ram: &Ram) -> Area<'_> {
        ram.set_size(ram.room).unwrap();
        let area = Area {
            memory: ram,
            bytes: ram.room,
        };
        area.fill(Pattern::new(5)).unwrap();
        area
    }

    #[test]
    fn every_request_is_counted_and_checked() {
        let (a, b) = (Ram::new(64 << 10), Ram::new(128 << 10));
        for (op, order) in [
            (Op::Read, Order::Seq),
            (Op::Read, Order::Rand),
            (Op::Write, Order::Rand),
        ] {
            let areas = [filled(&a), filled(&b)];
            let sample = measure(&areas, &job(op, order)).unwrap();
            assert_eq!(sample.requests, 2 * 3 * 40);
            assert!(sample.elapsed > Duration::ZERO);
        }
    }

    #[test]
    fn a_wrong_byte_and_a_lost_write_end_the_measurement() {
        let lying = Ram {
            flip: Some(8192),
            ..Ram::new(16 << 10)
        };
        let error = measure(&[filled(&lying)], &job(Op::Read, Order::Seq)).unwrap_err();
        assert_eq!(error.downcast_ref::<Mismatch>().unwrap().offset, 8192);

        let mut deaf = Ram::new(16 << 10);
        let _ = filled(&deaf);
        deaf.deaf_from = Some(12 << 10);
        let area = Area {
            memory: &deaf,
            bytes: deaf.room,
        };
        let error = measure(&[area], &job(Op::Write, Order::Seq)).unwrap_err();
        assert_eq!(error.downcast_ref::<Mismatch>().unwrap().offset, 12 << 10);
    }

    #[test]
    fn an_error_of_one_thread_does_not_leave_the_others_waiting() {
        let small = Ram::new(64 << 10);
        let area = filled(&small);
        small.set_size(4096).unwrap();
        assert!(measure(&[area], &job(Op::Read, Order::Seq)).is_err());
    }

    #[test]
    fn sequential_threads_together_visit_every_block_once() {
        let job = job(Op::Read, Order::Seq);
        let mut visited: Vec<u64> = (0..3)
            .flat_map(|thread| {
                let mut offsets = Offsets::new(&job, 12, 0, thread);
                (0..4).map(move |_| offsets.next() / 4096)
            })
            .collect();
        visited.sort_unstable();
        assert_eq!(visited, (0..12).collect::<Vec<_>>());
    }

    #[test]
    fn random_offsets_repeat_by_the_seed_and_differ_by_thread() {
        let job = job(Op::Read, Order::Rand);
        let take = |function, thread| {
            let mut offsets = Offsets::new(&job, 1000, function, thread);
            (0..20).map(|_| offsets.next()).collect::<Vec<_>>()
        };
        assert_eq!(take(0, 1), take(0, 1));
        assert_ne!(take(0, 1), take(0, 2));
        assert_ne!(take(0, 1), take(1, 1));
    }

    #[test]
    fn a_depth_beyond_the_blocks_stays_inside() {
        let mut deep = job(Op::Read, Order::Seq);
        deep.depth = 16;
        for thread in 0..16 {
            let mut offsets = Offsets::new(&deep, 3, 0, thread);
            assert!((0..10).all(|_| offsets.next() < 3 * 4096));
        }
    }
}
