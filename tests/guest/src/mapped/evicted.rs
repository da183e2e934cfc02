// SPDX-License-Identifier: GPL-2.0

//! More contents than there is room for on one side, or on both; and where pages are.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{anyhow, ensure, Context, Result};
use libvfetch::{
    stamped, Function, JobError, Place, PolicyKind, Reduce, Scope, Space, Stamp, StampCheck, Task,
};
use rand::Rng;
use rustix::{fs::OFlags, process::Signal};

use super::{
    device_finds, device_stamps, mapped, on_pf_and_vf, stamped_bytes, under, Mapping, MIB,
    MIB_PAGES, WORDS,
};
use crate::support::{
    errno::{fails, same, Errno},
    limit,
    machine::{open_with, PAGE},
    model,
    process::signal_of,
};

/// A space of so many MiB, mapped, with limits in MiB.
fn limited(function: &Function, mib: usize, host: u64, device: u64) -> Result<(Space, Mapping)> {
    let (space, mapping) = mapped(function, mib * MIB_PAGES)?;
    space.set_limits(Scope::Space, host * MIB, device * MIB)?;
    let limits = space.limits(Scope::Space)?;
    // More than the function has means all of it.
    let device = (device * MIB).min(space.info()?.memory_bytes);
    same(
        "the limits",
        (limits.host_bytes, limits.device_bytes),
        (host * MIB, device),
    )?;
    Ok((space, mapping))
}

/// That the device's part of a space is never beyond its limit, but for two blocks of pages on their way, while `test` runs.
fn within_device_limit<T>(space: &Space, test: impl FnOnce() -> Result<T>) -> Result<T> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut most = 0;
            while !over.load(Ordering::Relaxed) {
                most = most.max(space.limits(Scope::Space)?.device_used_bytes);
                thread::sleep(Duration::from_micros(200));
            }
            Ok::<u64, libvfetch::Error>(most)
        });
        let result = test();
        over.store(true, Ordering::Relaxed);
        let most = watcher.join().expect("no panic")?;
        let limit = space.limits(Scope::Space)?.device_bytes + 2 * libvfetch::BLOCK_BYTES;
        ensure!(
            most <= limit,
            "{most} bytes were on the device, and {limit} may be"
        );
        result
    })
}

pub(crate) fn moves_at_a_time_keep_to_the_limit() -> Result<()> {
    on_pf_and_vf(|function| {
        const BLOCK: usize = 2 * MIB_PAGES;
        let blocks = 0..12;
        let (space, mapping) = limited(function, 24, 64, 1)?;
        under(function, PolicyKind::AlwaysMax, || {
            for generation in 1..4 {
                mapping.fill(0, &stamped_bytes(0, 12 * BLOCK, generation));
                // Each wants one page, with which all of its block comes along.
                let wants = |block: usize| StampCheck {
                    input: (block * BLOCK * PAGE) as u64,
                    n: WORDS as u64,
                    first: (block * BLOCK * WORDS) as u64,
                    lowest: generation,
                    highest: generation,
                };
                within_device_limit(&space, || {
                    let jobs: Vec<_> = blocks
                        .clone()
                        .map(|block| space.submit(&wants(block).into()))
                        .collect::<Result<_, _>>()?;
                    for job in jobs {
                        same("words", job.wait()?, 0)?;
                    }
                    Ok(())
                })?;
            }
            Ok(())
        })
    })
}

pub(crate) fn jobs_use_more_than_device_memory() -> Result<()> {
    on_pf_and_vf(|function| {
        let pages = 8 * MIB_PAGES;
        let (space, mapping) = limited(function, 8, 64, 3)?;
        let before = space.stats()?.evictions;
        within_device_limit(&space, || {
            for generation in 1..4 {
                device_stamps(&space, 0, pages, generation)?;
                same("words", device_finds(&space, 0, pages, generation)?, 0)?;
            }
            Ok(())
        })?;
        let wanted = stamped_bytes(0, pages, 3);
        model::equal("by the mapping", 0, &mapping.copy(0..pages * PAGE), &wanted)?;
        ensure!(space.stats()?.evictions > before, "nothing was evicted");
        Ok(())
    })
}

pub(crate) fn processes_use_more_than_the_host_may_hold() -> Result<()> {
    on_pf_and_vf(|function| {
        let pages = 8 * MIB_PAGES;
        let (space, mapping) = limited(function, 8, 3, 64)?;
        for generation in 1..3 {
            mapping.fill(0, &stamped_bytes(0, pages, generation));
            let wanted = stamped_bytes(0, pages, generation);
            model::equal("by the mapping", 0, &mapping.copy(0..pages * PAGE), &wanted)?;
            let mut got = vec![0; pages * PAGE];
            space.read_exact_at(&mut got, 0)?;
            model::equal("by read", 0, &got, &wanted)?;
            same("words", device_finds(&space, 0, pages, generation)?, 0)?;
        }
        mapping.fill(0, &stamped_bytes(0, pages, 9));
        // The limit is soft: what is beyond it goes soon after.
        crate::support::limit::until(10, "pages beyond the limit to go", || {
            let limits = space.limits(Scope::Space)?;
            Ok(limits.host_used_bytes <= limits.host_bytes)
        })?;
        ensure!(space.stats()?.evictions > 0, "nothing was evicted");
        Ok(())
    })
}

pub(crate) fn contents_that_fit_nowhere_are_refused_and_others_stay() -> Result<()> {
    on_pf_and_vf(|function| {
        let (space, mapping) = limited(function, 16, 1, 1)?;
        // By write, until there is no more room: at most what both sides hold.
        let mut written = 0;
        let data = |page: usize| stamped_bytes(page, 1, 1);
        while let Ok(bytes) = space.write_at(&data(written), (written * PAGE) as u64) {
            same("a write", bytes, PAGE)?;
            written += 1;
            ensure!(
                written <= 2 * MIB_PAGES,
                "{written} pages are more than there is room for"
            );
        }
        ensure!(written >= MIB_PAGES, "only {written} pages had room");
        let refused = space.write_at(&data(written), (written * PAGE) as u64);
        fails("a write without room", refused, Errno::NOSPC)?;
        let store = signal_of(|| mapping.set_word(3000 * PAGE, 1))?;
        same("a store without room", store, Some(Signal::BUS))?;
        let stamp = Stamp {
            output: 2000 * PAGE as u64,
            n: 100 * WORDS as u64,
            first: 0,
            generation: 1,
        };
        let end = space
            .submit(&stamp.into())?
            .wait_for(None)?
            .context("no end")?;
        same("a job without room", end.outcome, Err(JobError::NoRoom))?;
        // What is there can be used, on both sides.
        for round in 1..4 {
            let got = mapping.copy(0..written * PAGE);
            model::equal("what had room", 0, &got, &stamped_bytes(0, written, round))?;
            same("words", device_finds(&space, 0, written, round)?, 0)?;
            device_stamps(&space, 0, written, round + 1)?;
        }
        // Room that is made is used.
        space.discard(0..(written * PAGE) as u64)?;
        mapping.set_word(3000 * PAGE, 1);
        device_stamps(&space, 2000, 100, 7)?;
        same("words", device_finds(&space, 2000, 100, 7)?, 0)
    })
}

pub(crate) fn threads_and_jobs_under_pressure_see_only_what_was_written() -> Result<()> {
    on_pf_and_vf(|function| {
        let pages = 6 * MIB_PAGES;
        let (space, mapping) = limited(function, 6, 3, 5)?;
        // Each page belongs to one of three: a thread by the mapping, one by read and write, and jobs.
        thread::scope(|scope| -> Result<()> {
            let by_mapping = scope.spawn(|| -> Result<()> {
                let mut random = model::random(271);
                let mut last = vec![0; pages];
                for round in 1..1200 {
                    let page = random.random_range(0..pages / 3) * 3;
                    let word = mapping.word(page * PAGE + 8 * (page % WORDS));
                    same("a word by the mapping", word, last[page])?;
                    last[page] = round;
                    mapping.set_word(page * PAGE + 8 * (page % WORDS), round);
                }
                Ok(())
            });
            let by_calls = scope.spawn(|| -> Result<()> {
                let mut random = model::random(272);
                let mut last = vec![0; pages];
                for round in 1..600u64 {
                    let page = random.random_range(0..pages / 3) * 3 + 1;
                    let at = (page * PAGE + 8 * (page % WORDS)) as u64;
                    let mut got = [0; 8];
                    space.read_exact_at(&mut got, at)?;
                    same("a word by read", u64::from_le_bytes(got), last[page])?;
                    last[page] = round;
                    space.write_all_at(&round.to_le_bytes(), at)?;
                }
                Ok(())
            });
            let mut random = model::random(273);
            let mut last = vec![0; pages];
            for round in 1..150 {
                let page = random.random_range(0..pages / 3) * 3 + 2;
                let sum = Reduce {
                    input: (page * PAGE) as u64,
                    n: WORDS as u64,
                };
                let first = (page * WORDS) as u64;
                let wanted = match last[page] {
                    0 => 0,
                    generation => (first..first + WORDS as u64).fold(0, |sum: u64, word| {
                        sum.wrapping_add(stamped(word, generation))
                    }),
                };
                same("a sum", space.submit(&sum.into())?.wait()?, wanted)?;
                last[page] = round;
                let stamp = Stamp {
                    output: (page * PAGE) as u64,
                    n: WORDS as u64,
                    first,
                    generation: round,
                };
                space.submit(&Task::from(stamp).strands(1))?.wait()?;
            }
            by_mapping.join().map_err(|_| anyhow!("a panic"))??;
            by_calls.join().map_err(|_| anyhow!("a panic"))?
        })
    })
}

pub(crate) fn spaces_share_the_limits_of_their_function() -> Result<()> {
    on_pf_and_vf(|function| {
        let pages = 4 * MIB_PAGES;
        let spaces = [
            mapped(function, pages)?,
            mapped(function, pages)?,
            mapped(function, pages)?,
        ];
        let before = spaces[0].0.limits(Scope::Function)?;
        spaces[0].0.set_limits(Scope::Function, 64 * MIB, 5 * MIB)?;
        let result = (|| {
            for generation in 1..3 {
                for (space, _) in &spaces {
                    device_stamps(space, 0, pages, generation)?;
                    let limits = space.limits(Scope::Function)?;
                    same("the limit", limits.device_bytes, 5 * MIB)?;
                    ensure!(
                        limits.device_used_bytes <= 5 * MIB + libvfetch::BLOCK_BYTES,
                        "{limits:?}"
                    );
                }
                for (space, mapping) in &spaces {
                    same("words", device_finds(space, 0, pages, generation)?, 0)?;
                    let got = mapping.copy(0..pages * PAGE);
                    model::equal("a space", 0, &got, &stamped_bytes(0, pages, generation))?;
                }
            }
            Ok(())
        })();
        // For the tests that follow.
        spaces[0]
            .0
            .set_limits(Scope::Function, before.host_bytes, before.device_bytes)?;
        result
    })
}

pub(crate) fn pages_go_to_the_device_when_the_machine_needs_memory() -> Result<()> {
    on_pf_and_vf(|function| {
        let pages = 4 * MIB_PAGES;
        let (space, mapping) = mapped(function, pages)?;
        mapping.fill(0, &stamped_bytes(0, pages, 8));
        let all = 0..(pages * PAGE) as u64;
        // As far as there are frames that nobody uses.
        let limits = space.limits(Scope::Space)?;
        space.set_limits(Scope::Space, limits.host_bytes, MIB)?;
        for _ in 0..3 {
            fs::write("/proc/sys/vm/drop_caches", "2")?;
        }
        same(
            "on the host",
            space.residency(all.clone())?.host,
            pages as u64,
        )?;
        space.set_limits(Scope::Space, limits.host_bytes, limits.device_bytes)?;
        limit::until(30, "pages to go", || {
            fs::write("/proc/sys/vm/drop_caches", "2")?;
            Ok(space.residency(all.clone())?.device >= 2 * MIB_PAGES as u64)
        })?;
        let got = mapping.copy(0..pages * PAGE);
        model::equal("all", 0, &got, &stamped_bytes(0, pages, 8))
    })
}

pub(crate) fn limits_that_cannot_be_are_refused() -> Result<()> {
    on_pf_and_vf(|function| {
        let (space, _mapping) = mapped(function, 4)?;
        for scope in [Scope::Space, Scope::Function] {
            let before = space.limits(scope)?;
            ensure!(
                before.host_bytes >= MIB && before.device_bytes >= MIB,
                "{before:?}"
            );
            for (host, device) in [(0, MIB), (MIB, 0), (MIB - 4096, MIB), (MIB, MIB - 4096)] {
                fails(
                    "limits too small",
                    space.set_limits(scope, host, device),
                    Errno::INVAL,
                )?;
            }
            let after = space.limits(scope)?;
            same("the limits", after, before)?;
        }
        // Who may only read changes nothing for others.
        let file = open_with(function, true, false, OFlags::empty())?;
        let reader = Space::from_file(file, "the node")?;
        for scope in [Scope::Space, Scope::Function] {
            let limits = reader.limits(scope)?;
            let set = reader.set_limits(scope, limits.host_bytes, limits.device_bytes);
            fails(
                "limits of a file that is open for reading",
                set,
                Errno::BADF,
            )?;
        }
        fails(
            "a policy of a file that is open for reading",
            reader.set_policy(reader.policy()?),
            Errno::BADF,
        )
    })
}

pub(crate) fn residency_tells_where_pages_are() -> Result<()> {
    on_pf_and_vf(|function| {
        let pages = 600;
        let (space, mapping) = mapped(function, pages)?;
        let all = 0..(pages * PAGE) as u64;
        let nothing = space.residency(all.clone())?;
        same(
            "pages of a new space",
            (nothing.none, nothing.host + nothing.device),
            (600, 0),
        )?;
        space.write_all_at(&[1; 20 * PAGE], 500 * PAGE as u64)?;
        let places = space.places(all.clone())?;
        for (page, place) in places.iter().enumerate() {
            let wanted = if (500..520).contains(&page) {
                Place::Device { pinned: false }
            } else {
                Place::None
            };
            same(&format!("page {page}"), *place, wanted)?;
        }
        mapping.set_word(505 * PAGE, 1);
        mapping.set_word(100 * PAGE, 1);
        let places = space.places(all.clone())?;
        let host = Place::Host { pinned: false };
        same(
            "pages that were touched",
            (places[505], places[100]),
            (host, host),
        )?;
        device_stamps(&space, 500, 20, 1)?;
        let stamped = space.residency(500 * PAGE as u64..520 * PAGE as u64)?;
        same("stamped pages", stamped.device, 20)?;
        space.discard(500 * PAGE as u64..510 * PAGE as u64)?;
        same(
            "discarded pages",
            space.residency(500 * PAGE as u64..510 * PAGE as u64)?.none,
            10,
        )?;
        let counted = space.residency(all.clone())?;
        let sum = counted.none + counted.host + counted.device + counted.moving + counted.lost;
        same("all pages", sum, pages as u64)?;
        same(
            "nothing",
            space.residency(PAGE as u64..PAGE as u64)?,
            libvfetch::Residency::default(),
        )?;
        let beyond = space.residency(0..all.end + 4096);
        ensure!(
            matches!(beyond, Err(libvfetch::Error::BeyondEnd { .. })),
            "{beyond:?}"
        );
        Ok(())
    })
}
