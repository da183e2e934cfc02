// SPDX-License-Identifier: GPL-2.0

//! Programs that use a function while something happens to it, and check every byte.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, ensure, Context, Result};
use libvfetch::{Function, Space};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use rustix::io::Errno;

use super::machine::{space, PAGE, PATIENCE};
use crate::support::limit::factor;

const WORDS: usize = PAGE as usize / 8;

/// Most pages of a request.
const REQUEST: usize = 48;

/// What a program did.
#[derive(Default, Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// Requests that worked.
    pub(crate) good: u64,
    /// Requests that failed with EIO.
    pub(crate) failed: u64,
    /// It found that the device is gone.
    pub(crate) gone: bool,
}

/// A thread that writes to a space of its own and reads it back, at random, until it is stopped or the device is
/// gone.
///
/// Each word says which program wrote it, where and when: a request that fails may leave old and new words in its pages, but never
/// anything else, in particular no zeros. A page that a read refuses with EIO is written again.
pub(crate) struct Worker {
    name: String,
    stop: Arc<AtomicBool>,
    progress: Arc<AtomicU64>,
    thread: JoinHandle<Result<Outcome>>,
}

impl Worker {
    /// Starts one with `pages` of memory, all of them written.
    pub(crate) fn start(function: &Function, seed: u64, pages: usize) -> Result<Self> {
        let name = format!(
            "program {seed} on {} (vfetch{})",
            function.role, function.node
        );
        let mut job = Job {
            space: space(function, pages as u64 * PAGE)?,
            random: Pcg64Mcg::seed_from_u64(seed),
            seed,
            version: 0,
            pages: vec![vec![0]; pages],
            outcome: Outcome::default(),
        };
        for first in (0..pages).step_by(REQUEST) {
            ensure!(
                !job.write(first, REQUEST.min(pages - first))?,
                "{name}: gone at once"
            );
        }
        ensure!(
            job.outcome.failed == 0,
            "{name}: cannot even write its memory once"
        );
        let stop = Arc::new(AtomicBool::new(false));
        let progress = Arc::new(AtomicU64::new(0));
        let (told, counted) = (stop.clone(), progress.clone());
        let thread = thread::spawn(move || job.run(&told, &counted));
        Ok(Self {
            name,
            stop,
            progress,
            thread,
        })
    }

    /// Waits until it has done so many more requests.
    pub(crate) fn wait_for(&self, requests: u64) -> Result<()> {
        let goal = self.progress.load(Ordering::Relaxed) + requests;
        let start = Instant::now();
        while self.progress.load(Ordering::Relaxed) < goal && !self.thread.is_finished() {
            ensure!(
                start.elapsed() < PATIENCE * factor(),
                "{}: no progress for {PATIENCE:?}",
                self.name
            );
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Stops it and says what it did; an error if it saw a wrong byte or does not end.
    pub(crate) fn finish(self) -> Result<Outcome> {
        self.stop.store(true, Ordering::Relaxed);
        self.ended()
    }

    /// Waits for it to end by itself, or to stop when it was told to.
    pub(crate) fn ended(self) -> Result<Outcome> {
        let start = Instant::now();
        while !self.thread.is_finished() {
            ensure!(
                start.elapsed() < PATIENCE * factor(),
                "{}: hangs",
                self.name
            );
            thread::sleep(Duration::from_millis(1));
        }
        let outcome = self
            .thread
            .join()
            .map_err(|_| anyhow!("{}: panicked", self.name))?;
        outcome.with_context(|| self.name.clone())
    }
}

struct Job {
    space: Space,
    random: Pcg64Mcg,
    seed: u64,
    version: u64,
    /// For each page, the versions whose words may be there.
    pages: Vec<Vec<u64>>,
    outcome: Outcome,
}

/// The word at a place of a page in a version; 0 in version 0.
fn word(seed: u64, page: usize, index: usize, version: u64) -> u64 {
    if version == 0 {
        return 0;
    }
    let place = (page * WORDS + index) as u64;
    ((seed << 56) | (version << 28) | place).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

impl Job {
    fn run(mut self, stop: &AtomicBool, progress: &AtomicU64) -> Result<Outcome> {
        while !stop.load(Ordering::Relaxed) {
            let first = self.random.random_range(0..self.pages.len());
            let most = REQUEST.min(self.pages.len() - first);
            let count = self.random.random_range(1..=most);
            let gone = if self.random.random_range(0..2) == 0 {
                self.write(first, count)?
            } else {
                self.read(first, count)?
            };
            if gone {
                self.outcome.gone = true;
                break;
            }
            progress.fetch_add(1, Ordering::Relaxed);
        }
        Ok(self.outcome)
    }

    /// Bytes moved; `None` when the device is gone.
    fn judge(&mut self, result: libvfetch::Result<usize>) -> Result<Option<usize>> {
        match result {
            Ok(moved) => {
                self.outcome.good += 1;
                Ok(Some(moved))
            }
            Err(error) => match error.errno() {
                Some(Errno::IO) => {
                    self.outcome.failed += 1;
                    Ok(Some(0))
                }
                Some(Errno::NODEV) => Ok(None),
                _ => bail!("an error that must not be: {error}"),
            },
        }
    }

    fn write(&mut self, first: usize, count: usize) -> Result<bool> {
        self.version += 1;
        let mut buffer = Vec::with_capacity(count * PAGE as usize);
        for page in first..first + count {
            for index in 0..WORDS {
                buffer.extend_from_slice(&word(self.seed, page, index, self.version).to_le_bytes());
            }
        }
        let written = self.space.write_at(&buffer, first as u64 * PAGE);
        let Some(moved) = self.judge(written)? else {
            return Ok(true);
        };
        for (versions, page) in self.pages[first..first + count].iter_mut().zip(1..) {
            if page * PAGE as usize <= moved {
                versions.clear();
            }
            versions.push(self.version);
        }
        Ok(false)
    }

    fn read(&mut self, first: usize, count: usize) -> Result<bool> {
        // What is not overwritten is seen to be wrong.
        let mut buffer = vec![0xee; count * PAGE as usize];
        let read = self.space.read_at(&mut buffer, first as u64 * PAGE);
        let Some(moved) = self.judge(read)? else {
            return Ok(true);
        };
        for (at, bytes) in buffer[..moved / 8 * 8].chunks_exact(8).enumerate() {
            let (page, index) = (first + at / WORDS, at % WORDS);
            let found = u64::from_le_bytes(bytes.try_into()?);
            let versions = &self.pages[page];
            if !versions
                .iter()
                .any(|version| word(self.seed, page, index, *version) == found)
            {
                bail!("page {page}, word {index} is {found:#x}, which was never written there: versions {versions:?}");
            }
        }
        // Nothing came: maybe its first page is lost.
        if moved == 0 {
            return self.write(first, 1);
        }
        Ok(false)
    }
}
