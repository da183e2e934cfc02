// SPDX-License-Identifier: GPL-2.0

//! One space, used in every way at once.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{ensure, Context, Result};
use libvfetch::{stamped, Advice, Function, Reduce, Side, Space, Stamp, StampCheck};
use rand::Rng;
use rustix::mm::ProtFlags;

use super::{device_finds, device_stamps, mapped, on_pf_and_vf, stamped_bytes, RIGHTS, WORDS};
use crate::support::{
    buffer::Mapping,
    errno::same,
    machine::{functions, space, PAGE},
    model::{self, Model},
};

/// A way to write.
#[derive(Clone, Copy, Debug)]
enum Writer {
    Mapping,
    Write,
    Job,
}

/// A way to read.
#[derive(Clone, Copy, Debug)]
enum Reader {
    Mapping,
    Read,
    Job,
}

pub(crate) fn what_is_written_one_way_is_seen_every_other_way() -> Result<()> {
    use Reader::{Job, Mapping, Read};
    // Across the end of a block.
    let (first, pages) = (500, 30);
    on_pf_and_vf(|function| {
        let (space, mapping) = mapped(function, 600)?;
        let mut generation = 0;
        for writer in [Writer::Mapping, Writer::Write, Writer::Job] {
            for readers in [
                [Mapping, Read, Job],
                [Read, Mapping, Job],
                [Job, Mapping, Read],
                [Job, Read, Mapping],
            ] {
                generation += 1;
                let bytes = stamped_bytes(first, pages, generation);
                match writer {
                    Writer::Mapping => mapping.fill(first * PAGE, &bytes),
                    Writer::Write => space.write_all_at(&bytes, (first * PAGE) as u64)?,
                    Writer::Job => device_stamps(&space, first, pages, generation)?,
                }
                for reader in readers {
                    let what = format!("{reader:?} of {readers:?} after {writer:?}");
                    let mut got = vec![0xee; bytes.len()];
                    match reader {
                        Mapping => got = mapping.copy(first * PAGE..(first + pages) * PAGE),
                        Read => space.read_exact_at(&mut got, (first * PAGE) as u64)?,
                        Job => {
                            let wrong = device_finds(&space, first, pages, generation)?;
                            same(&what, wrong, 0)?;
                            continue;
                        }
                    }
                    model::equal(&what, (first * PAGE) as u64, &got, &bytes)?;
                }
            }
        }
        // The device does not see everything as right.
        same(
            "words of another generation",
            device_finds(&space, first, pages, 99)?,
            (pages * WORDS) as u64,
        )?;
        // Nothing else was written.
        let zeros = vec![0; first * PAGE];
        model::equal("before it", 0, &mapping.copy(0..first * PAGE), &zeros)
    })
}

/// What is said of pages.
const ADVICE: [Advice; 11] = [
    Advice::Normal,
    Advice::Prefer(Some(Side::Host)),
    Advice::Prefer(Some(Side::Device)),
    Advice::Prefer(None),
    Advice::AccessedByDevice(true),
    Advice::AccessedByDevice(false),
    Advice::Prefetch(false),
    Advice::Prefetch(true),
    Advice::WillNeed(Side::Host),
    Advice::WillNeed(Side::Device),
    Advice::DoNotNeed,
];

/// Uses a space at random, and holds it to a model.
fn use_at_random(function: &Function, rounds: usize) -> Result<()> {
    let owner = u16::try_from(function.node)? + 200;
    let pages = 1200;
    let (space, mut mapping) = mapped(function, pages)?;
    let mut model = Model::new(owner, pages * PAGE);
    let mut random = model::random(owner.into());
    for round in 0..rounds {
        let (offset, bytes) = model::range(&mut random, model.len(), 300_000);
        let (word, words) = (
            offset / 8,
            bytes.div_ceil(8).min((model.len() - offset) / 8),
        );
        let what = format!("round {round}");
        match random.random_range(0..14) {
            0..=1 => {
                let data = model.next(offset, bytes);
                mapping.fill(offset, &data);
                model.wrote(offset, &data);
            }
            2..=3 => {
                let data = model.next(offset, bytes);
                space.write_all_at(&data, offset as u64)?;
                model.wrote(offset, &data);
            }
            4..=5 => model.check(&what, offset, &mapping.copy(offset..offset + bytes))?,
            6..=7 => {
                let mut got = vec![0xee; bytes];
                space.read_exact_at(&mut got, offset as u64)?;
                model.check(&what, offset, &got)?;
            }
            8 => {
                let stamp = Stamp {
                    output: 8 * word as u64,
                    n: words as u64,
                    first: word as u64,
                    generation: round as u64,
                };
                space.submit(&stamp.into())?.wait().context("STAMP")?;
                let data: Vec<u8> = (word..word + words)
                    .flat_map(|word| stamped(word as u64, round as u64).to_le_bytes())
                    .collect();
                model.wrote(8 * word, &data);
            }
            9 => {
                let reduce = Reduce {
                    input: 8 * word as u64,
                    n: words as u64,
                };
                let sum = space.submit(&reduce.into())?.wait().context("REDUCE")?;
                same(&what, sum, model.sum(8 * word, words))?;
            }
            10 => {
                let (from, to) = (offset / PAGE * PAGE, (offset + bytes) / PAGE * PAGE);
                if to > from {
                    space.discard(from as u64..to as u64)?;
                    model.discarded(from, to - from);
                }
            }
            11..=12 => {
                let pages = offset / PAGE * PAGE..(offset + bytes) / PAGE * PAGE;
                if !pages.is_empty() {
                    let advice = ADVICE[random.random_range(0..ADVICE.len())];
                    space.advise(pages.start as u64..pages.end as u64, advice)?;
                    if advice == Advice::DoNotNeed {
                        model.discarded(pages.start, pages.len());
                    }
                }
            }
            _ => mapping = Mapping::part_of(&space, 0, pages * PAGE, RIGHTS)?,
        }
    }
    model.check("at the end", 0, &mapping.copy(0..pages * PAGE))
}

pub(crate) fn random_use_of_all_functions_at_once_matches_a_model() -> Result<()> {
    let functions = functions()?;
    thread::scope(|scope| {
        let users: Vec<_> = functions
            .iter()
            .map(|function| scope.spawn(|| use_at_random(function, 150)))
            .collect();
        for (user, function) in users.into_iter().zip(&functions) {
            let result = user.join().map_err(|_| anyhow::anyhow!("a panic"))?;
            result.with_context(|| format!("on {}", function.role))?;
        }
        Ok(())
    })
}

pub(crate) fn reads_and_writes_go_over_pages_of_both_sides_at_any_offset() -> Result<()> {
    on_pf_and_vf(|function| {
        let (space, mapping) = mapped(function, 24)?;
        let mut model = Model::new(220, 24 * PAGE);
        let data = model.next(0, 20 * PAGE);
        space.write_all_at(&data, 0)?;
        model.wrote(0, &data);
        // Every third page is the host's, the last four nobody's; a page at a time is touched, and others may come with it.
        let scatter = || {
            for page in (0..20).step_by(3) {
                mapping.set_word(page * PAGE, mapping.word(page * PAGE));
            }
        };
        for offset in [0, 1, 7, 8, 4088, 4095, 4096, 4097, 8191] {
            for bytes in [1, 8, 4095, 4096, 4097, 12_289, 16 * PAGE - 1] {
                scatter();
                let mut got = vec![0xee; bytes];
                space.read_exact_at(&mut got, offset as u64)?;
                model.check("a read", offset, &got)?;
                let data = model.next(offset, bytes);
                space.write_all_at(&data, offset as u64)?;
                model.wrote(offset, &data);
                let from = offset.saturating_sub(100);
                model.check(
                    "after a write",
                    from,
                    &mapping.copy(from..offset + bytes + 100),
                )?;
                // To the device with them.
                device_finds(&space, 0, 20, 0)?;
            }
        }
        model.check("at the end", 0, &mapping.copy(0..24 * PAGE))
    })
}

pub(crate) fn threads_and_jobs_that_share_pages_lose_no_update() -> Result<()> {
    const PAGES: usize = 12;
    const THREADS: usize = 3;
    const ADDS: usize = 1500;
    on_pf_and_vf(|function| {
        let space = space(function, (PAGES * PAGE) as u64)?;
        let memory = space.map()?;
        // The first words of every page are the threads' counters, its second half is the jobs'.
        let half = PAGE / 2;
        let over = AtomicBool::new(false);
        thread::scope(|scope| -> Result<()> {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let memory = &memory;
                    scope.spawn(move || {
                        let mut random = model::random(thread as u64);
                        let mut added = [0; PAGES];
                        for _ in 0..ADDS {
                            let page = random.random_range(0..PAGES);
                            let word = memory.atomic(page * PAGE + 8 * (thread % 2));
                            word.fetch_add(1, Ordering::Relaxed);
                            added[page] += 1;
                        }
                        added
                    })
                })
                .collect();
            let (space, memory, over) = (&space, &memory, &over);
            let jobs = scope.spawn(move || -> Result<u64> {
                let mut generation = 0;
                while !over.load(Ordering::Relaxed) || generation < 3 {
                    generation += 1;
                    for page in 0..PAGES {
                        let (offset, n) = ((page * PAGE + half) as u64, WORDS as u64 / 2);
                        let stamp = Stamp {
                            output: offset,
                            n,
                            first: offset / 8,
                            generation,
                        };
                        space.submit(&stamp.into())?.wait()?;
                        // Between the job and the look the page may have come and gone.
                        let word = memory.u64(page * PAGE + half + 8 * (page % 256));
                        let wanted = stamped(offset / 8 + page as u64 % 256, generation);
                        same("a stamped word", word, wanted)?;
                    }
                }
                Ok(generation)
            });
            let mut sums = [0u64; PAGES];
            for thread in threads {
                let added = thread.join().map_err(|_| anyhow::anyhow!("a panic"))?;
                for (sum, added) in sums.iter_mut().zip(added) {
                    *sum += added;
                }
            }
            over.store(true, Ordering::Relaxed);
            let generation = jobs.join().map_err(|_| anyhow::anyhow!("a panic"))??;
            for (page, sum) in sums.into_iter().enumerate() {
                let counters = memory.u64(page * PAGE) + memory.u64(page * PAGE + 8);
                same(&format!("the counters of page {page}"), counters, sum)?;
                let check = StampCheck {
                    input: (page * PAGE + half) as u64,
                    n: WORDS as u64 / 2,
                    first: ((page * PAGE + half) / 8) as u64,
                    lowest: generation,
                    highest: generation,
                };
                same(
                    "words of another generation",
                    space.submit(&check.into())?.wait()?,
                    0,
                )?;
            }
            Ok(())
        })?;
        let stats = space.stats()?;
        ensure!(
            stats.host_faults > 0 && stats.device_faults > 0,
            "nothing has moved"
        );
        Ok(())
    })
}

/// Two pages of a block, and two in different blocks: what is stored in the first is there when what is stored in the second is.
pub(crate) fn stores_are_seen_in_their_order() -> Result<()> {
    const ROUNDS: u64 = 1500;
    on_pf_and_vf(|function| {
        for (data, flag) in [(0, 7 * PAGE), (3 * PAGE, 600 * PAGE)] {
            let space = space(function, 1024 * PAGE as u64)?;
            let (writer, reader) = (space.map()?, space.map()?);
            let over = AtomicBool::new(false);
            thread::scope(|scope| -> Result<()> {
                let pull = {
                    let (space, over) = (&space, &over);
                    // Takes the pages away, and changes nothing.
                    scope.spawn(move || -> Result<()> {
                        while !over.load(Ordering::Relaxed) {
                            for at in [data, flag] {
                                let reduce = Reduce {
                                    input: at as u64,
                                    n: 1,
                                };
                                space.submit(&reduce.into())?.wait()?;
                            }
                        }
                        Ok(())
                    })
                };
                scope.spawn(|| {
                    for round in 1..=ROUNDS {
                        writer.atomic(data).store(round, Ordering::Release);
                        writer.atomic(flag).store(round, Ordering::Release);
                    }
                });
                let mut seen = 0;
                let mut result = Ok(());
                while seen < ROUNDS && result.is_ok() {
                    seen = reader.atomic(flag).load(Ordering::Acquire);
                    let stored = reader.atomic(data).load(Ordering::Acquire);
                    if stored < seen {
                        result = Err(anyhow::anyhow!(
                            "{stored} is stored where {seen} was before"
                        ));
                    }
                }
                over.store(true, Ordering::Relaxed);
                pull.join().map_err(|_| anyhow::anyhow!("a panic"))??;
                result
            })?;
        }
        Ok(())
    })
}

/// A part of a space, mapped.
struct Part {
    first: usize,
    mapping: Mapping,
}

impl Part {
    fn of(space: &Space, first: usize, pages: usize, rights: ProtFlags) -> Result<Self> {
        let mapping = Mapping::part_of(space, first * PAGE, pages * PAGE, rights)?;
        Ok(Self { first, mapping })
    }

    fn word(&self, page: usize, word: usize) -> u64 {
        self.mapping.word((page - self.first) * PAGE + 8 * word)
    }

    fn set_word(&self, page: usize, word: usize, value: u64) {
        self.mapping
            .set_word((page - self.first) * PAGE + 8 * word, value);
    }
}

pub(crate) fn mappings_of_different_parts_are_the_same_memory() -> Result<()> {
    on_pf_and_vf(|function| {
        let space = space(function, 2000 * PAGE as u64)?;
        let parts = [
            Part::of(&space, 0, 2000, RIGHTS)?,
            Part::of(&space, 300, 700, RIGHTS)?,
            Part::of(&space, 511, 2, RIGHTS)?,
        ];
        let looker = Part::of(&space, 500, 100, ProtFlags::READ)?;
        let pages = [511, 512];
        let mut value = 0;
        for round in 0..4 {
            for page in pages {
                for writer in &parts {
                    value += 1;
                    writer.set_word(page, 9, value);
                    for reader in parts.iter().chain([&looker]) {
                        same("a word", reader.word(page, 9), value)?;
                    }
                }
            }
            // Away with them, from every mapping.
            device_stamps(&space, 510, 4, round)?;
            for page in pages {
                for reader in parts.iter().chain([&looker]) {
                    let wanted = stamped((page * WORDS + 9) as u64, round);
                    same("a stamped word", reader.word(page, 9), wanted)?;
                }
            }
        }
        Ok(())
    })
}
