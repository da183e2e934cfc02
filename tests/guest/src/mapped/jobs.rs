// SPDX-License-Identifier: GPL-2.0

//! Jobs: what they compute, how they end, and who hears of it.

use std::{
    os::fd::AsFd,
    sync::mpsc::channel,
    thread,
    time::{Duration, Instant},
};

use anyhow::{anyhow, ensure, Context, Result};
use libvfetch::{
    stamped, Error, Function, Gather, Interest, Job, JobError, Order, Reduce, Space, Stamp,
    StampCheck, Task, Triad,
};
use rustix::{
    event::{eventfd, EventfdFlags},
    fs::OFlags,
    process::Signal,
};

use super::{device_finds, device_stamps, kernels, mapped, on_pf_and_vf, stamped_bytes, WORDS};
use crate::support::{
    errno::{fails, same, Errno},
    limit,
    machine::{functions, leaves_nothing, open_with, space, vf, PAGE},
    model,
    process::{fork, interrupt_scoped, this_thread},
    raw,
};

/// Whose the pages are when a job begins.
#[derive(Clone, Copy, Debug)]
enum Owner {
    Host,
    Device,
    Both,
}

/// A job that would take hours: it stamps `pages` pages, a word in a millisecond.
pub(super) fn slow(pages: usize, generation: u64) -> Task {
    let stamp = Stamp {
        output: 0,
        n: (pages * WORDS) as u64,
        first: 0,
        generation,
    };
    Task::from(stamp).strands(1).element_ps(1_000_000_000)
}

/// Why a job did not come to its end.
pub(super) fn failure(job: &Job<'_>) -> Result<JobError> {
    let end = job.wait_for(Some(Duration::from_secs(20) * limit::factor()))?;
    let end = end.context("it has not ended")?;
    end.outcome
        .err()
        .ok_or_else(|| anyhow!("it has come to its end"))
}

pub(crate) fn every_kind_computes_what_the_host_does() -> Result<()> {
    on_pf_and_vf(|function| {
        let mut random = model::random(251);
        for (number, case) in kernels::all(&mut random).into_iter().enumerate() {
            let pages = case.before.len() / PAGE;
            for order in [Order::Interleaved, Order::Blocked, Order::Shuffled(7)] {
                for owner in [Owner::Host, Owner::Device, Owner::Both] {
                    let what = format!("{} {number}, {order:?}, {owner:?}", case.name);
                    let (space, mapping) = mapped(function, pages)?;
                    match owner {
                        Owner::Host => mapping.fill(0, &case.before),
                        Owner::Device => space.write_all_at(&case.before, 0)?,
                        Owner::Both => {
                            space.write_all_at(&case.before, 0)?;
                            for page in (0..pages).step_by(3) {
                                mapping.word(page * PAGE);
                            }
                        }
                    }
                    let task = case.task.order(order).strands(37);
                    let value = space.submit(&task)?.wait().context(what.clone())?;
                    same(&what, value, case.value)?;
                    if number % 2 == 0 {
                        let got = mapping.copy(0..case.after.len());
                        model::equal(&what, 0, &got, &case.after)?;
                    } else {
                        let mut got = vec![0xee; case.after.len()];
                        space.read_exact_at(&mut got, 0)?;
                        model::equal(&what, 0, &got, &case.after)?;
                    }
                }
            }
        }
        Ok(())
    })
}

pub(crate) fn a_job_that_leaves_its_space_says_where() -> Result<()> {
    on_pf_and_vf(|function| {
        let (space, mapping) = mapped(function, 8)?;
        let end = 8 * PAGE as u64;
        for (input, n) in [
            (0, end / 8 + 1),
            (end - 8, 2),
            (end, 1),
            (end + 4096, 1),
            (1 << 50, 1),
            (8, u64::MAX),
        ] {
            let job = space.submit(&Reduce { input, n }.into())?;
            same(
                "the end",
                failure(&job)?,
                JobError::Range {
                    offset: input.max(end),
                },
            )?;
        }
        // The last word is no way out.
        let last = Reduce {
            input: end - 8,
            n: 1,
        };
        space.submit(&last.into())?.wait()?;
        // An index that leads out.
        mapping.set_word(0, 2 | (99 << 32));
        let gather = Gather {
            input: 4096,
            index: 0,
            output: 8192,
            n: 2,
            m: 50,
        };
        let job = space.submit(&gather.into())?;
        same(
            "an index beyond",
            failure(&job)?,
            JobError::Range {
                offset: 4096 + 8 * 99,
            },
        )?;
        device_stamps(&space, 0, 8, 1)?;
        same("a job after those", device_finds(&space, 0, 8, 1)?, 0)
    })
}

pub(crate) fn a_space_that_shrinks_ends_its_job() -> Result<()> {
    on_pf_and_vf(|function| {
        let (space, mapping) = mapped(function, 600)?;
        // It comes to the second page after half a second and to the third after a second.
        let job = space.submit(&slow(600, 3))?;
        limit::until(20, "the job to begin", || {
            Ok(mapping.word(0) == stamped(0, 3))
        })?;
        space.set_size(2 * PAGE as u64)?;
        let error = failure(&job)?;
        ensure!(
            matches!(error, JobError::Range { offset } if offset >= 2 * PAGE as u64),
            "{error:?}"
        );
        same(
            "its last word",
            mapping.word(2 * PAGE - 8),
            stamped(2 * WORDS as u64 - 1, 3),
        )?;
        space.set_size(600 * PAGE as u64)?;
        model::zeros("what was cut off", 0, &mapping.copy(2 * PAGE..600 * PAGE))
    })
}

pub(crate) fn bad_arguments_are_refused() -> Result<()> {
    on_pf_and_vf(|function| {
        let (space, _mapping) = mapped(function, 4)?;
        let reduce = Task::from(Reduce { input: 0, n: 8 });
        for (what, task) in [
            ("no kind", Task::of_kind(0, &[])),
            ("an unknown kind", Task::of_kind(13, &[])),
            ("no strand", reduce.strands(0)),
            ("far too many strands", reduce.strands(1 << 20)),
            ("too long for an element", reduce.element_ps(1_000_000_001)),
        ] {
            fails(what, space.submit(&task).map(|job| job.id()), Errno::INVAL)?;
        }
        // What only the device knows.
        for (what, task) in [
            ("an offset between words", Task::of_kind(10, &[4, 1])),
            (
                "a tile of nothing",
                Task::of_kind(3, &[0, 0, 0, 1, 1, 1, 0]),
            ),
            (
                "a tile too large",
                Task::of_kind(3, &[0, 0, 0, 1, 1, 1, 513]),
            ),
            (
                "a window larger than its image",
                Task::of_kind(4, &[0, 0, 0, 1, 1, 2, 2, 3]),
            ),
        ] {
            let job = space.submit(&task).context(what)?;
            same(what, failure(&job)?, JobError::Argument)?;
        }
        // An argument that the kind has not.
        let job = Task::of_kind(10, &[0, 1, 1]);
        let result = space.submit(&job).map(|job| failure(&job));
        ensure!(
            matches!(&result, Ok(Ok(JobError::Argument)))
                || matches!(&result, Err(error) if error.errno() == Some(Errno::INVAL)),
            "an argument that the kind has not: {result:?}"
        );
        let file = std::fs::File::open("/dev/null")?;
        let event = space.submit_with_event(&reduce, file.as_fd());
        fails("no eventfd", event.map(|job| job.id()), Errno::INVAL)?;
        same("a good one", space.submit(&reduce)?.wait()?, 0)
    })
}

pub(crate) fn jobs_that_were_not_waited_for_have_64_places() -> Result<()> {
    on_pf_and_vf(|function| {
        let (space, _mapping) = mapped(function, 4)?;
        let stamp = |generation: u64| -> Task {
            Stamp {
                output: 0,
                n: 8,
                first: 0,
                generation,
            }
            .into()
        };
        let mut jobs = Vec::new();
        for n in 0..64 {
            jobs.push(
                space
                    .submit(&stamp(n))
                    .with_context(|| format!("job {n}"))?,
            );
        }
        let full = || {
            let result = space.submit(&stamp(1)).map(|job| job.id());
            matches!(result, Err(Error::WouldBlock { .. }))
        };
        ensure!(full(), "there were more than 64 places");
        // Other spaces have their own.
        let other = space_of_one_page(function)?;
        other.submit(&stamp(1))?.wait()?;
        // That they have ended does not help, only being waited for does.
        space.wait(Interest::Ended, None)?;
        let last = jobs.pop().context("there is one")?;
        last.wait()?;
        jobs.push(space.submit(&stamp(1))?);
        ensure!(full(), "a place was free that was taken again");
        let ids: std::collections::BTreeSet<u64> = jobs.iter().map(Job::id).collect();
        same("different names", ids.len(), 64)?;
        ensure!(!ids.contains(&0), "a job is called 0");
        for job in jobs {
            job.wait()?;
        }
        space.submit(&stamp(1))?.wait()?;
        Ok(())
    })
}

fn space_of_one_page(function: &Function) -> Result<Space> {
    space(function, PAGE as u64)
}

pub(crate) fn an_eventfd_and_poll_tell_of_the_end() -> Result<()> {
    on_pf_and_vf(|function| {
        let (space, _mapping) = mapped(function, 4)?;
        let event = eventfd(0, EventfdFlags::NONBLOCK)?;
        let count = || {
            let mut bytes = [0; 8];
            match rustix::io::read(&event, &mut bytes) {
                Ok(_) => Ok(u64::from_ne_bytes(bytes)),
                Err(Errno::AGAIN) => Ok(0),
                Err(error) => Err(anyhow!("eventfd: {error:?}")),
            }
        };
        let ended = |wait: Duration| -> Result<bool> {
            let ready = space.wait(Interest::Ended, Some(wait))?;
            Ok(ready.ended)
        };
        let patience = Duration::from_secs(20) * limit::factor();
        ensure!(!ended(Duration::ZERO)?, "a job has ended that is none");
        let running = space.submit_with_event(&slow(4, 1), event.as_fd())?;
        ensure!(!ended(Duration::ZERO)?, "a job has ended that runs");
        same("the event of a job that runs", count()?, 0)?;
        let reduce = Task::from(Reduce { input: 0, n: 8 });
        let quick = space.submit_with_event(&reduce, event.as_fd())?;
        ensure!(ended(patience)?, "poll does not tell of the end");
        // Poll may hear of it a moment earlier.
        limit::until(20, "the event", || Ok(count()? == 1))?;
        quick.wait()?;
        ensure!(!ended(Duration::ZERO)?, "poll tells of what was waited for");
        running.cancel()?;
        ensure!(ended(patience)?, "poll does not tell of the cancelled job");
        limit::until(20, "the event of the cancelled job", || Ok(count()? == 1))?;
        same("its end", failure(&running)?, JobError::Cancelled)?;
        // Whoever waits is woken.
        thread::scope(|scope| {
            let job = space.submit(&slow(4, 1))?;
            let waiter = scope.spawn(|| ended(patience));
            job.cancel()?;
            ensure!(
                waiter.join().map_err(|_| anyhow!("a panic"))??,
                "whoever polled was not woken"
            );
            same("its end", failure(&job)?, JobError::Cancelled)
        })?;
        // The event may be closed before.
        let job =
            space.submit_with_event(&slow(4, 1), eventfd(0, EventfdFlags::empty())?.as_fd())?;
        job.cancel()?;
        same("its end", failure(&job)?, JobError::Cancelled)
    })
}

pub(crate) fn a_cancelled_job_has_done_its_beginning() -> Result<()> {
    on_pf_and_vf(|function| {
        let (space, mapping) = mapped(function, 64)?;
        let job = space.submit(&slow(64, 5))?;
        limit::until(20, "its first words", || Ok(mapping.word(8 * 100) != 0))?;
        job.cancel()?;
        let got = mapping.copy(0..64 * PAGE);
        // It has ended: nothing changes any more.
        thread::sleep(Duration::from_millis(20));
        model::equal("after cancelling", 0, &mapping.copy(0..64 * PAGE), &got)?;
        let done = got.chunks(8).take_while(|word| **word != [0; 8]).count();
        ensure!(done > 100, "only {done} words");
        model::equal(
            "its beginning",
            0,
            &got[..8 * done],
            &stamped_bytes(0, 64, 5)[..8 * done],
        )?;
        model::zeros("the rest", 0, &got[8 * done..])?;
        // Cancelled twice is cancelled.
        job.cancel()?;
        let end = job
            .wait_for(Some(Duration::ZERO))?
            .context("it has not ended")?;
        same("its end", end.outcome, Err(JobError::Cancelled))?;
        fails("cancelling what was waited for", job.cancel(), Errno::NOENT)?;
        fails("waiting twice", job.wait_for(None), Errno::NOENT)?;
        // One that has ended keeps its end.
        let job = space.submit(&Reduce { input: 0, n: 1 }.into())?;
        space.wait(Interest::Ended, None)?;
        job.cancel()?;
        same("its value", job.wait()?, stamped(0, 5))
    })
}

pub(crate) fn waiting_ends_after_its_time_or_a_signal() -> Result<()> {
    on_pf_and_vf(|function| {
        let (space, _mapping) = mapped(function, 64)?;
        let job = space.submit(&slow(64, 1))?;
        let start = Instant::now();
        same(
            "waiting for no time",
            job.wait_for(Some(Duration::ZERO))?,
            None,
        )?;
        let time = Duration::from_millis(50);
        same("waiting for a time", job.wait_for(Some(time))?, None)?;
        ensure!(
            start.elapsed() >= time,
            "it took only {:?}",
            start.elapsed()
        );
        thread::scope(|scope| {
            let (send, receive) = channel();
            let job = &job;
            let waiter = scope.spawn(move || {
                let _ = send.send(this_thread());
                job.wait_for(None)
            });
            let name = receive.recv()?;
            // One that comes before it waits changes nothing.
            limit::until(20, "the signal to come while it waits", || {
                interrupt_scoped(&waiter, name);
                Ok(waiter.is_finished())
            })?;
            let result = waiter.join().map_err(|_| anyhow!("a panic"))?;
            fails("waiting with a signal", result, Errno::INTR)
        })?;
        // Several who wait hear it all.
        thread::scope(|scope| {
            let waiters = [(); 3].map(|()| scope.spawn(|| job.wait_for(None)));
            thread::sleep(Duration::from_millis(20));
            job.cancel()?;
            let mut heard = 0;
            for waiter in waiters {
                match waiter.join().map_err(|_| anyhow!("a panic"))? {
                    Ok(end) => {
                        let outcome = end.map(|end| end.outcome);
                        same("the end", outcome, Some(Err(JobError::Cancelled)))?;
                        heard += 1;
                    }
                    // It came when the job was forgotten already.
                    Err(error) => same("late", error.errno(), Some(Errno::NOENT))?,
                }
            }
            ensure!(heard > 0, "nobody heard of the end");
            Ok(())
        })
    })
}

pub(crate) fn a_closed_file_ends_its_jobs() -> Result<()> {
    on_pf_and_vf(|function| {
        for _ in 0..5 {
            let (space, mapping) = mapped(function, 64)?;
            for generation in 0..4 {
                let _ = space.submit(&slow(64, generation))?.id();
            }
            mapping.set_word(PAGE, 1);
            drop((space, mapping));
        }
        // The device is free for others.
        let (space, _mapping) = mapped(function, 64)?;
        device_stamps(&space, 0, 64, 1)?;
        same("words", device_finds(&space, 0, 64, 1)?, 0)
    })
}

pub(crate) fn a_killed_process_ends_its_jobs() -> Result<()> {
    on_pf_and_vf(|function| {
        for _ in 0..3 {
            let flag = super::Mapping::with(PAGE, super::RIGHTS, rustix::mm::MapFlags::SHARED)?;
            let mut child = fork(|| {
                let Ok((space, mapping)) = mapped(function, 600) else {
                    return 1;
                };
                let (Ok(_one), Ok(_two)) =
                    (space.submit(&slow(600, 1)), space.submit(&slow(64, 2)))
                else {
                    return 2;
                };
                // Until it is killed: pages come and go.
                flag.set_word(0, 1);
                loop {
                    for page in 0..600 {
                        mapping.set_word(page * PAGE + 2048, 1);
                    }
                }
            })?;
            limit::until(20, "the child's jobs", || Ok(flag.word(0) == 1))?;
            child.signal(Signal::KILL)?;
            let status = child.wait(20)?;
            same(
                "its end",
                status.terminating_signal(),
                Some(Signal::KILL.as_raw()),
            )?;
        }
        Ok(())
    })
}

pub(crate) fn the_host_uses_the_space_of_a_running_job() -> Result<()> {
    on_pf_and_vf(|function| {
        let pages = 700;
        let (space, mapping) = mapped(function, pages)?;
        let mut random = model::random(252);
        for generation in 1..4 {
            let stamp = Stamp {
                output: 0,
                n: (pages * WORDS) as u64,
                first: 0,
                generation,
            };
            // Far longer than the host's faults take, also on a busy machine.
            let task = Task::from(stamp).strands(8).element_ps(2_000_000);
            let job = space.submit(&task)?;
            let mut early = 0;
            loop {
                for _ in 0..20 {
                    let word = rand::Rng::random_range(&mut random, 0..pages * WORDS);
                    let got = mapping.word(8 * word);
                    let old = if generation == 1 {
                        0
                    } else {
                        stamped(word as u64, generation - 1)
                    };
                    ensure!(
                        got == old || got == stamped(word as u64, generation),
                        "word {word} is {got:#x} in generation {generation}"
                    );
                    early += u64::from(got == old);
                }
                if let Some(end) = job.wait_for(Some(Duration::from_millis(2)))? {
                    same("the end", end.outcome, Ok(0))?;
                    break;
                }
            }
            ensure!(early > 0, "the host was never there before the job");
            let wanted = stamped_bytes(0, pages, generation);
            model::equal("at the end", 0, &mapping.copy(0..pages * PAGE), &wanted)?;
        }
        Ok(())
    })
}

pub(crate) fn jobs_of_many_spaces_and_functions_run_at_once() -> Result<()> {
    let functions = functions()?;
    let pages = 100;
    let mut spaces = Vec::new();
    for round in 0..4 {
        for function in &functions {
            spaces.push((round, mapped(function, pages)?));
        }
    }
    for generation in 1..4 {
        let mut jobs = Vec::new();
        for (round, (space, _)) in &spaces {
            let stamp = Stamp {
                output: 0,
                n: (pages * WORDS) as u64,
                first: 0,
                generation: generation * 10 + round,
            };
            jobs.push(space.submit(&Task::from(stamp).element_ps(20_000))?);
        }
        for job in jobs {
            job.wait()?;
        }
        for (round, (space, mapping)) in &spaces {
            let check = StampCheck {
                input: 0,
                n: (pages * WORDS) as u64,
                first: 0,
                lowest: generation * 10 + round,
                highest: generation * 10 + round,
            };
            same("wrong words", space.submit(&check.into())?.wait()?, 0)?;
            let wanted = stamped(17 * WORDS as u64, generation * 10 + round);
            same("a word", mapping.word(17 * PAGE), wanted)?;
        }
    }
    // What the host has touched may still bring its neighbours along.
    drop(spaces);
    // Dependent jobs of one space, side by side: each has its own part.
    let function = vf(1)?;
    leaves_nothing(&function, || {
        let (space, mapping) = mapped(&function, 64)?;
        for word in 0..1024 {
            mapping.set_word(8 * word, 1f64.to_bits());
        }
        let triads = (0..8u64).map(|n| Triad {
            a: (8 + 2 * n) * PAGE as u64,
            b: 0,
            c: PAGE as u64,
            n: 512,
            scale: 2.0 + f64::from(u32::try_from(n).unwrap_or(0)),
        });
        let jobs = triads
            .map(|triad| space.submit(&triad.into()))
            .collect::<Result<Vec<_>, _>>()?;
        for (n, job) in (0..8u32).zip(jobs) {
            job.wait()?;
            let value = f64::from_bits(mapping.word((8 + 2 * n as usize) * PAGE + 8));
            ensure!(
                (value - 3.0 - f64::from(n)).abs() < 1e-9,
                "triad {n}: {value}"
            );
        }
        Ok(())
    })
}

pub(crate) fn a_file_opened_for_reading_has_no_jobs() -> Result<()> {
    on_pf_and_vf(|function| {
        for (read, write) in [(true, false), (false, true)] {
            let file = open_with(function, read, write, OFlags::empty())?;
            let space = Space::from_file(file, "the node")?;
            // A job may read and write all of the space, and so must whoever submits it.
            let job = space.submit(&Reduce { input: 0, n: 0 }.into());
            fails("SUBMIT", job.map(|job| job.id()), Errno::BADF)?;
        }
        Ok(())
    })
}

pub(crate) fn a_job_whose_name_cannot_be_told_is_none() -> Result<()> {
    on_pf_and_vf(|function| {
        let (space, _mapping) = mapped(function, 1)?;
        // More than a space may have.
        for _ in 0..70 {
            fails("SUBMIT", raw::submit_nameless(&space), Errno::FAULT)?;
        }
        let check = Reduce { input: 0, n: 1 };
        space.submit(&check.into())?.wait()?;
        Ok(())
    })
}
