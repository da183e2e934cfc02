// SPDX-License-Identifier: GPL-2.0

//! What becomes of mapped spaces, and of jobs, when their function is reset or unbound, or when transfers fail.
//!
//! The module is loaded with `timeout_ms=200`.

use std::{thread, time::Duration};

use anyhow::{anyhow, ensure, Context, Result};
use libvfetch::{stamped, Advice, Error, JobError, Reduce, Space, Stamp, Task};
use rand::Rng;
use rustix::process::Signal;

use super::{device_finds, device_stamps, mapped, stamped_bytes, Mapping, RIGHTS, WORDS};
use crate::{
    life::{
        hw,
        inject::{Fault, Injector},
        machine::{bind, expect, reset, unbind, wait_until},
    },
    support::{
        errno::{fails, same, Errno},
        limit,
        machine::{leaves_nothing, vf, PAGE},
        model,
        process::signal_of,
    },
};

/// A space of 20 pages, mapped: the first ten are the device's, the next five the host's, the rest nobody's.
fn on_both_sides(generation: u64) -> Result<(Space, Mapping)> {
    let (space, mapping) = mapped(&vf(1)?, 20)?;
    mapping.fill(10 * PAGE, &stamped_bytes(10, 5, generation));
    space.write_all_at(&stamped_bytes(0, 10, generation), 0)?;
    Ok((space, mapping))
}

/// How a load, and a store, of a word end.
pub(crate) fn touches(mapping: &Mapping, offset: usize) -> Result<[Option<Signal>; 2]> {
    let load = signal_of(|| {
        mapping.word(offset);
    })?;
    let store = signal_of(|| mapping.set_word(offset, mapping_word(offset)))?;
    Ok([load, store])
}

/// What a store in a test leaves as it is.
fn mapping_word(offset: usize) -> u64 {
    stamped(offset as u64 / 8, 1)
}

pub(crate) fn a_reset_takes_what_the_device_has_and_no_more() -> Result<()> {
    let function = vf(1)?;
    leaves_nothing(&function, || {
        let (space, mapping) = on_both_sides(1)?;
        reset(function.address)?;
        same("lost pages", space.info()?.space_lost_pages, 10)?;
        for page in [0, 9] {
            same(
                "a lost page",
                touches(&mapping, page * PAGE)?,
                [Some(Signal::BUS); 2],
            )?;
            fails(
                "read of it",
                space.read_at(&mut [0; 8], (page * PAGE) as u64),
                Errno::IO,
            )?;
            let buffer = mapping
                .area(page * PAGE, 8)
                .pwrite(&space, 19 * PAGE as u64);
            same("a write from it", buffer, Err(Errno::FAULT))?;
        }
        let reduce = Reduce {
            input: 0,
            n: 10 * WORDS as u64,
        };
        let error = space
            .submit(&reduce.into())?
            .wait()
            .err()
            .context("a job read a lost page")?;
        same("a job that reads it", error.errno(), Some(Errno::IO))?;
        model::equal(
            "the host's",
            0,
            &mapping.copy(10 * PAGE..15 * PAGE),
            &stamped_bytes(10, 5, 1),
        )?;
        for page in 10..20 {
            same(
                "a page of the host's",
                touches(&mapping, page * PAGE)?,
                [None; 2],
            )?;
        }
        same("words", device_finds(&space, 10, 5, 1)?, 0)?;
        // Overwritten as a whole, discarded, cut off: in use again.
        space.write_all_at(&[7; PAGE], 2 * PAGE as u64)?;
        model::equal(
            "overwritten",
            0,
            &mapping.copy(2 * PAGE..3 * PAGE),
            &[7; PAGE],
        )?;
        space.discard(4 * PAGE as u64..6 * PAGE as u64)?;
        model::zeros("discarded", 0, &mapping.copy(4 * PAGE..6 * PAGE))?;
        mapping.set_word(5 * PAGE, 3);
        same("lost pages", space.info()?.space_lost_pages, 7)?;
        for page in [1, 3, 6] {
            same(
                "a page that is still lost",
                touches(&mapping, page * PAGE)?,
                [Some(Signal::BUS); 2],
            )?;
        }
        space.advise(7 * PAGE as u64..9 * PAGE as u64, Advice::DoNotNeed)?;
        model::zeros("not needed", 0, &mapping.copy(7 * PAGE..9 * PAGE))?;
        same("lost pages", space.info()?.space_lost_pages, 5)?;
        space.set_size(0)?;
        space.set_size(20 * PAGE as u64)?;
        model::zeros("grown again", 0, &mapping.copy(0..20 * PAGE))?;
        device_stamps(&space, 0, 20, 9)?;
        model::equal(
            "in use again",
            0,
            &mapping.copy(0..20 * PAGE),
            &stamped_bytes(0, 20, 9),
        )
    })
}

/// Stamps all of 600 pages, in a few seconds.
pub(super) fn long(generation: u64) -> Task {
    let stamp = Stamp {
        output: 0,
        n: (600 * WORDS) as u64,
        first: 0,
        generation,
    };
    Task::from(stamp).strands(4).element_ps(50_000_000)
}

pub(crate) fn a_reset_ends_the_jobs_that_run() -> Result<()> {
    let function = vf(1)?;
    leaves_nothing(&function, || {
        let (space, mapping) = mapped(&function, 600)?;
        for round in 1..5 {
            let jobs = [space.submit(&long(round))?, space.submit(&long(round))?];
            // Pages are on both sides, and on their way.
            limit::until(20, "the jobs to write", || {
                Ok(mapping.word(0) == stamped(0, round))
            })?;
            mapping.fill(300 * PAGE, &stamped_bytes(300, 100, round));
            reset(function.address)?;
            for job in jobs {
                let end = job
                    .wait_for(Some(Duration::from_secs(10) * limit::factor()))?
                    .context("a job has not ended")?;
                let expected = [Err(JobError::Failed), Err(JobError::Cancelled)];
                ensure!(expected.contains(&end.outcome), "a job ended with {end:?}");
            }
            space.discard(0..600 * PAGE as u64)?;
            same("lost pages", space.info()?.space_lost_pages, 0)?;
            device_stamps(&space, 0, 600, 70 + round)?;
            let wanted = stamped_bytes(0, 600, 70 + round);
            model::equal("after it", 0, &mapping.copy(0..600 * PAGE), &wanted)?;
            space.discard(0..600 * PAGE as u64)?;
        }
        Ok(())
    })
}

pub(crate) fn random_use_survives_resets() -> Result<()> {
    let function = vf(1)?;
    leaves_nothing(&function, || {
        let pages = 96;
        let (space, mapping) = mapped(&function, pages)?;
        let mut random = model::random(262);
        for round in 1..=12u64 {
            thread::scope(|scope| -> Result<()> {
                let resets = scope.spawn(|| reset(function.address));
                for step in 0..12 {
                    let first = random.random_range(0..pages - 8);
                    // A word is of some generation, or zero; lost pages are overwritten.
                    let generation = 100 * round + step;
                    match random.random_range(0..3) {
                        0 => {
                            let result = device_stamps(&space, first, 8, generation);
                            let error = result
                                .err()
                                .and_then(|error| error.downcast::<Error>().ok());
                            let errno = error.and_then(|error| error.errno());
                            ensure!(matches!(errno, None | Some(Errno::IO)), "a job: {errno:?}");
                        }
                        1 => {
                            // Where its buffer is gone the write stops.
                            let bytes = stamped_bytes(first, 8, generation);
                            match space.write_at(&bytes, (first * PAGE) as u64) {
                                Ok(_) => {}
                                Err(error) => same("write", error.errno(), Some(Errno::IO))?,
                            }
                        }
                        _ => {
                            let mut got = vec![0; 8 * PAGE];
                            match space.read_at(&mut got, (first * PAGE) as u64) {
                                Ok(bytes) => {
                                    for (word, got) in
                                        (first * WORDS..).zip(got[..bytes].chunks_exact(8))
                                    {
                                        let got = u64::from_le_bytes(got.try_into()?);
                                        let place = stamped(word as u64, got >> 40);
                                        ensure!(
                                            got == 0 || got == place,
                                            "word {word} is {got:#x}"
                                        );
                                    }
                                }
                                Err(error) => same("read", error.errno(), Some(Errno::IO))?,
                            }
                        }
                    }
                }
                resets.join().map_err(|_| anyhow!("a panic"))?
            })?;
            // Every page is either lost, which all ways of access say, or right.
            for page in 0..pages {
                let offset = page * PAGE + 8 * 5;
                let read = space.read_at(&mut [0; 8], offset as u64);
                let load = signal_of(|| {
                    mapping.word(offset);
                })?;
                match (&read, load) {
                    (Ok(8), None) => {
                        let got = mapping.word(offset);
                        let place = stamped((offset / 8) as u64, got >> 40);
                        ensure!(got == 0 || got == place, "page {page} has {got:#x}");
                    }
                    (Err(error), Some(Signal::BUS)) if error.errno() == Some(Errno::IO) => {}
                    other => return Err(anyhow!("page {page}: {other:?}")),
                }
            }
        }
        space.discard(0..(pages * PAGE) as u64)?;
        model::zeros("at the end", 0, &mapping.copy(0..pages * PAGE))
    })
}

pub(crate) fn an_unbound_function_leaves_the_host_its_pages() -> Result<()> {
    let function = vf(1)?;
    let (space, mapping) = on_both_sides(1)?;
    let more = Mapping::part_of(&space, 0, 20 * PAGE, RIGHTS)?;
    unbind(function.address)?;
    same("lost pages", space.info()?.space_lost_pages, 10)?;
    for mapping in [&mapping, &more] {
        for page in [0, 9] {
            same(
                "a page of the device's",
                touches(mapping, page * PAGE)?,
                [Some(Signal::BUS); 2],
            )?;
        }
        let got = mapping.copy(10 * PAGE..15 * PAGE);
        model::equal("the host's", 0, &got, &stamped_bytes(10, 5, 1))?;
    }
    mapping.set_word(12 * PAGE, 5);
    same("a store", more.word(12 * PAGE), 5)?;
    expect(
        "read",
        space.read_at(&mut [0; 8], 12 * PAGE as u64),
        Errno::NODEV,
    )?;
    expect("SET_SIZE", space.set_size(PAGE as u64), Errno::NODEV)?;
    let submit = space
        .submit(&Reduce { input: 0, n: 1 }.into())
        .map(|job| job.id());
    fails("SUBMIT", submit, Errno::NODEV)?;
    bind(function.address)?;
    // It is not the function's any more.
    same("the store, bound again", mapping.word(12 * PAGE), 5)?;
    same(
        "a page of the device's",
        touches(&mapping, 0)?,
        [Some(Signal::BUS); 2],
    )?;
    let again = vf(1)?;
    leaves_nothing(&again, || {
        let (new, memory) = mapped(&again, 20)?;
        device_stamps(&new, 0, 20, 4)?;
        model::equal(
            "a new space",
            0,
            &memory.copy(0..20 * PAGE),
            &stamped_bytes(0, 20, 4),
        )
    })?;
    drop((space, more));
    same("the store, the file closed", mapping.word(12 * PAGE), 5)
}

/// Where pages were for one binding is not where they are for the next.
pub(crate) fn what_the_device_remembers_ends_with_its_binding() -> Result<()> {
    let function = vf(1)?;
    for generation in 1..4 {
        let (old, mapping) = mapped(&function, 64)?;
        device_stamps(&old, 0, 64, 50 + generation)?;
        unbind(function.address)?;
        bind(function.address)?;
        // Its first space has the number of the old one's, perhaps, and other frames.
        let (beside, _) = mapped(&function, 64)?;
        beside.write_all_at(&[0xc3; 64 * PAGE], 0)?;
        let (new, memory) = mapped(&function, 64)?;
        let sum = Reduce {
            input: 0,
            n: 64 * WORDS as u64,
        };
        same(
            "the sum of a new space",
            new.submit(&sum.into())?.wait()?,
            0,
        )?;
        device_stamps(&new, 0, 64, generation)?;
        let mut got = vec![0xee; 64 * PAGE];
        new.read_exact_at(&mut got, 0)?;
        model::equal("by read", 0, &got, &stamped_bytes(0, 64, generation))?;
        model::equal("by the mapping", 0, &memory.copy(0..64 * PAGE), &got)?;
        beside.read_exact_at(&mut got, 0)?;
        model::equal("the space beside it", 0, &got, &[0xc3; 64 * PAGE])?;
        drop((old, mapping));
    }
    Ok(())
}

pub(crate) fn unbinding_ends_jobs_and_waits() -> Result<()> {
    for _ in 0..3 {
        let function = vf(1)?;
        let (space, mapping) = mapped(&function, 600)?;
        let job = space.submit(&long(3))?;
        thread::scope(|scope| -> Result<()> {
            limit::until(20, "the job to write", || {
                Ok(mapping.word(0) == stamped(0, 3))
            })?;
            let waiter = scope.spawn(|| job.wait_for(None));
            unbind(function.address)?;
            let end = waiter.join().map_err(|_| anyhow!("a panic"))??;
            let outcome = end.map(|end| end.outcome);
            let expected = [JobError::Gone, JobError::Cancelled, JobError::Failed];
            ensure!(
                matches!(outcome, Some(Err(error)) if expected.contains(&error)),
                "the job ended with {outcome:?}"
            );
            Ok(())
        })?;
        drop(mapping);
        drop(space);
        bind(function.address)?;
    }
    Ok(())
}

/// The ways in which a transfer can fail.
const FAILURES: [u32; 4] = [
    hw::VFETCH_FAULT_FAIL,
    hw::VFETCH_FAULT_DROP,
    hw::VFETCH_FAULT_DELAY,
    hw::VFETCH_FAULT_STUCK,
];

fn fault(kind: u32, read: bool) -> Fault {
    let fault = if read {
        Fault::read(kind)
    } else {
        Fault::write(kind)
    };
    if kind == hw::VFETCH_FAULT_DELAY {
        fault.late_by_ms(60)
    } else {
        fault
    }
}

pub(crate) fn a_page_that_cannot_be_fetched_is_sigbus_and_stays() -> Result<()> {
    let function = vf(1)?;
    leaves_nothing(&function, || {
        let injector = Injector::new()?;
        for kind in FAILURES {
            let (space, mapping) = mapped(&function, 64)?;
            device_stamps(&space, 0, 64, kind.into())?;
            // A fault that had to wait comes again before it is given up.
            let fails = kind == hw::VFETCH_FAULT_FAIL;
            let once = fault(kind, true);
            injector.arm(1, if fails { once.always() } else { once })?;
            let load = signal_of(|| {
                mapping.word(20 * PAGE);
            })?;
            let hits = injector.hits(1, kind);
            ensure!(
                hits == 1 || fails && hits > 1,
                "failure {kind} happened {hits} times"
            );
            injector.clear(1)?;
            // After the reset of a queue the driver may try again.
            let expected: &[_] = match kind {
                hw::VFETCH_FAULT_DELAY => &[None],
                hw::VFETCH_FAULT_FAIL => &[Some(Signal::BUS)],
                _ => &[None, Some(Signal::BUS)],
            };
            ensure!(
                expected.contains(&load),
                "a load with failure {kind}: {load:?}"
            );
            // Nothing is lost by it.
            same("lost pages", space.info()?.space_lost_pages, 0)?;
            let got = mapping.copy(0..64 * PAGE);
            model::equal(
                &format!("after failure {kind}"),
                0,
                &got,
                &stamped_bytes(0, 64, kind.into()),
            )?;
            same("words", device_finds(&space, 0, 64, kind.into())?, 0)?;
            // As a buffer it is EFAULT.
            device_stamps(&space, 0, 64, 99)?;
            if kind == hw::VFETCH_FAULT_FAIL {
                injector.arm(1, fault(kind, true).always())?;
                let (read, write) = rustix::pipe::pipe()?;
                same(
                    "a write from it",
                    mapping.area(30 * PAGE, 8).write(&write),
                    Err(Errno::FAULT),
                )?;
                injector.clear(1)?;
                same("another", mapping.area(30 * PAGE, 8).write(&write), Ok(8))?;
                let mut word = [0; 8];
                rustix::io::read(&read, &mut word)?;
                same(
                    "what came",
                    u64::from_le_bytes(word),
                    stamped(30 * WORDS as u64, 99),
                )?;
            }
            injector.clear(1)?;
        }
        Ok(())
    })
}

pub(crate) fn a_page_that_cannot_be_sent_stays_with_the_host() -> Result<()> {
    let function = vf(1)?;
    leaves_nothing(&function, || {
        let injector = Injector::new()?;
        for kind in FAILURES {
            let (space, mapping) = mapped(&function, 64)?;
            mapping.fill(0, &stamped_bytes(0, 64, 1));
            injector.arm(1, fault(kind, false))?;
            let job = space.submit(
                &Reduce {
                    input: 20 * PAGE as u64,
                    n: WORDS as u64,
                }
                .into(),
            )?;
            let sum = (20 * WORDS..21 * WORDS).fold(0, |sum: u64, word| {
                sum.wrapping_add(stamped(word as u64, 1))
            });
            // The device reaches the page where it is. That its queue was reset ends a job, though, and only that.
            match job.wait() {
                Ok(value) => same("the sum", value, sum)?,
                Err(error) => {
                    let resets = [hw::VFETCH_FAULT_DROP, hw::VFETCH_FAULT_STUCK];
                    same(
                        &format!("a job with failure {kind}"),
                        error.errno(),
                        Some(Errno::IO),
                    )?;
                    ensure!(resets.contains(&kind), "failure {kind} ended a job");
                }
            }
            ensure!(injector.hits(1, kind) == 1, "failure {kind} did not happen");
            injector.clear(1)?;
            same("lost pages", space.info()?.space_lost_pages, 0)?;
            let got = mapping.copy(0..64 * PAGE);
            model::equal(
                &format!("after failure {kind}"),
                0,
                &got,
                &stamped_bytes(0, 64, 1),
            )?;
            device_stamps(&space, 0, 64, 2)?;
            let got = mapping.copy(0..64 * PAGE);
            model::equal(
                &format!("a job after failure {kind}"),
                0,
                &got,
                &stamped_bytes(0, 64, 2),
            )?;
        }
        Ok(())
    })
}

pub(crate) fn scrubs_that_fail_show_nobody_else_s_bytes() -> Result<()> {
    let function = vf(1)?;
    leaves_nothing(&function, || {
        let injector = Injector::new()?;
        let secret = mapped(&function, 600)?;
        secret.0.write_all_at(&[0xc3; 600 * PAGE], 0)?;
        injector.arm(1, Fault::scrub(hw::VFETCH_FAULT_FAIL).always())?;
        drop(secret);
        ensure!(
            injector.hits(1, hw::VFETCH_FAULT_FAIL) > 0,
            "nothing was scrubbed"
        );
        injector.clear(1)?;
        let info = Space::open(&function)?.info()?;
        let pages = usize::try_from(info.memory_bytes)? / PAGE;
        let (space, mapping) = mapped(&function, pages)?;
        // All frames of the device, as its jobs get them.
        for first in (0..pages).step_by(128) {
            let count = 128.min(pages - first);
            let sum = Reduce {
                input: (first * PAGE) as u64,
                n: (count * WORDS) as u64,
            };
            same("the sum", space.submit(&sum.into())?.wait()?, 0)?;
        }
        for page in (0..pages).step_by(5) {
            same("a word", mapping.word(page * PAGE + 1024), 0)?;
        }
        Ok(())
    })
}

/// Stamps all of a space of 20 pages, and has its completion go wrong.
fn goes_wrong<'s>(space: &'s Space, injector: &Injector, kind: u32) -> Result<libvfetch::Job<'s>> {
    injector.arm(1, Fault::job(kind))?;
    let stamp = Stamp {
        output: 0,
        n: (20 * WORDS) as u64,
        first: 0,
        generation: kind.into(),
    };
    let job = space.submit(&stamp.into())?;
    wait_until("it has gone wrong", || injector.hits(1, kind) > 0)?;
    Ok(job)
}

pub(crate) fn a_job_whose_completion_is_lost_ends_all_the_same() -> Result<()> {
    let function = vf(1)?;
    leaves_nothing(&function, || {
        let injector = Injector::new()?;
        let (space, mapping) = mapped(&function, 20)?;
        // Its message: somebody looks without one.
        goes_wrong(&space, &injector, hw::VFETCH_FAULT_NO_INTERRUPT)?.wait()?;
        injector.clear(1)?;
        for kind in [hw::VFETCH_FAULT_DROP, hw::VFETCH_FAULT_STUCK] {
            let before = space.stats()?.queue_resets;
            let job = goes_wrong(&space, &injector, kind)?;
            let end = job.wait_for(Some(Duration::from_millis(500)))?;
            ensure!(end.is_none(), "failure {kind}: it has ended: {end:?}");
            // Nobody could know, until it is to end. (Where its queue is stuck the device may say so.)
            let _ = job.cancel();
            let error = job.wait().err().context("it has not failed")?;
            ensure!(
                matches!(error.errno(), Some(Errno::IO | Errno::CANCELED)),
                "failure {kind}: {error}"
            );
            ensure!(
                space.stats()?.queue_resets > before,
                "failure {kind}: the queue was not reset"
            );
            injector.clear(1)?;
            device_stamps(&space, 0, 20, 50)?;
            let got = mapping.copy(0..20 * PAGE);
            model::equal("afterwards", 0, &got, &stamped_bytes(0, 20, 50))?;
        }
        // Who closes the file waits for it.
        let (other, memory) = mapped(&function, 20)?;
        drop(goes_wrong(&other, &injector, hw::VFETCH_FAULT_DROP)?);
        drop((memory, other));
        injector.clear(1)?;
        device_stamps(&space, 0, 20, 60)
    })
}
