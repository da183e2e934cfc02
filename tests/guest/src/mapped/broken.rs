// SPDX-License-Identifier: GPL-2.0

//! A device whose fault ring lies or falls silent, whose queues cannot be reset, and that is reset with all its functions.
//!
//! The module is loaded with `timeout_ms=200`.

use std::time::Duration;

use anyhow::{anyhow, ensure, Context, Result};
use libvfetch::{stamped, JobError, PolicyKind, Reduce, Space, Stamp, State, Task};
use rustix::process::Signal;

use super::{device_finds, device_stamps, mapped, stamped_bytes, Mapping, WORDS};
use crate::{
    life::{
        hw,
        inject::{Fault, Injector},
        machine::reset,
    },
    support::{
        errno::same,
        limit,
        machine::{leaves_nothing, pf, vf, PAGE},
        model,
        process::signal_of,
    },
};

/// How a load of a page's first word ends.
fn load(mapping: &Mapping, page: usize) -> Result<Option<Signal>> {
    signal_of(|| {
        mapping.word(page * PAGE);
    })
}

/// Stamps `pages` pages by as many strands as fault at once.
fn stamp_all(space: &Space, pages: usize, generation: u64) -> Result<libvfetch::End> {
    let stamp = Stamp {
        output: 0,
        n: (pages * WORDS) as u64,
        first: 0,
        generation,
    };
    space
        .submit(&Task::from(stamp).strands(32))?
        .wait_for(Some(Duration::from_secs(20) * limit::factor()))?
        .context("the job has not ended")
}

/// Waits until the function of `space` has recovered.
fn ready(space: &Space) -> Result<()> {
    limit::until(20, "the function to be ready", || {
        Ok(space.info()?.state() == State::Ready)
    })
}

pub(crate) fn records_that_come_twice_or_for_nobody_harm_nobody() -> Result<()> {
    let function = vf(1)?;
    leaves_nothing(&function, || {
        const PAGES: usize = 600;
        let injector = Injector::new()?;
        let (beside, _other) = mapped(&function, 16)?;
        device_stamps(&beside, 0, 16, 5)?;
        // A page of the job's own, one that nobody has used, one beyond the space, and one beyond any.
        let rules = [
            Fault::new(hw::VFETCH_FAULT_RECORD_TWICE),
            Fault::new(hw::VFETCH_FAULT_RECORD_SPURIOUS).arg(3),
            Fault::new(hw::VFETCH_FAULT_RECORD_SPURIOUS).arg(PAGES as u64 + 7),
            Fault::new(hw::VFETCH_FAULT_RECORD_SPURIOUS).arg(1 << 20),
            Fault::new(hw::VFETCH_FAULT_RECORD_SPURIOUS).arg(u64::MAX),
        ];
        for (rule, generation) in rules.into_iter().zip(1..) {
            let (space, mapping) = mapped(&function, PAGES + 10)?;
            mapping.fill(0, &stamped_bytes(0, 40, 99));
            injector.arm(1, rule.times(20))?;
            let end = stamp_all(&space, PAGES, generation)?;
            ensure!(
                injector.hits(1, hw::VFETCH_FAULT_RECORD_TWICE)
                    + injector.hits(1, hw::VFETCH_FAULT_RECORD_SPURIOUS)
                    > 0,
                "no record was added"
            );
            injector.clear(1)?;
            // A record says whose it is: a job that is said to have left its space ends.
            match end.outcome {
                Ok(_) => {}
                Err(JobError::Range { .. }) if generation > 3 => {
                    stamp_all(&space, PAGES, generation)?;
                }
                other => return Err(anyhow!("rule {generation}: the job ended with {other:?}")),
            }
            model::equal(
                "what was stamped",
                0,
                &mapping.copy(0..PAGES * PAGE),
                &stamped_bytes(0, PAGES, generation),
            )?;
            model::zeros(
                "beyond it",
                0,
                &mapping.copy(PAGES * PAGE..(PAGES + 10) * PAGE),
            )?;
            same("words beside it", device_finds(&beside, 0, 16, 5)?, 0)?;
        }
        Ok(())
    })
}

pub(crate) fn a_lost_message_of_faults_is_noticed() -> Result<()> {
    let function = vf(1)?;
    leaves_nothing(&function, || {
        let injector = Injector::new()?;
        for round in 1..4 {
            let (space, mapping) = mapped(&function, 64)?;
            injector.arm(1, Fault::new(hw::VFETCH_FAULT_RECORD_QUIET))?;
            let end = stamp_all(&space, 64, round)?;
            ensure!(
                injector.hits(1, hw::VFETCH_FAULT_RECORD_QUIET) == 1,
                "no message was lost"
            );
            injector.clear(1)?;
            same("the job", end.outcome, Ok(0))?;
            let got = mapping.copy(0..64 * PAGE);
            model::equal("stamped", 0, &got, &stamped_bytes(0, 64, round))?;
        }
        Ok(())
    })
}

pub(crate) fn a_queue_that_cannot_be_reset_loses_what_the_device_has_and_no_more() -> Result<()> {
    let function = vf(1)?;
    leaves_nothing(&function, || {
        let injector = Injector::new()?;
        for to_host in [true, false] {
            let (space, mapping) = mapped(&function, 96)?;
            let before = space.policy()?;
            let mut alone = before;
            alone.policy = PolicyKind::None;
            space.set_policy(alone)?;
            device_stamps(&space, 0, 64, 1)?;
            mapping.fill(64 * PAGE, &stamped_bytes(64, 32, 1));
            let resets = space.stats()?.function_resets;
            if to_host {
                injector.arm(1, Fault::read(hw::VFETCH_FAULT_WEDGED))?;
                same("a load of it", load(&mapping, 20)?, Some(Signal::BUS))?;
            } else {
                injector.arm(1, Fault::write(hw::VFETCH_FAULT_WEDGED))?;
                let sum = Reduce {
                    input: 70 * PAGE as u64,
                    n: WORDS as u64,
                };
                let end = space
                    .submit(&sum.into())?
                    .wait_for(Some(Duration::from_secs(20) * limit::factor()))?
                    .context("the job has not ended")?;
                let wanted = (70 * WORDS..71 * WORDS).fold(0, |sum: u64, word| {
                    sum.wrapping_add(stamped(word as u64, 1))
                });
                let ends = [Ok(wanted), Err(JobError::Failed), Err(JobError::Cancelled)];
                ensure!(ends.contains(&end.outcome), "the job ended with {end:?}");
            }
            ensure!(
                injector.hits(1, hw::VFETCH_FAULT_WEDGED) == 1,
                "no queue was wedged"
            );
            injector.clear(1)?;
            limit::until(20, "the function to be reset", || {
                Ok(space.stats()?.function_resets > resets)
            })?;
            ready(&space)?;
            // What only one page's move was to change: the device had 64 pages, the host the others.
            same("lost pages", space.info()?.space_lost_pages, 64)?;
            for page in [0, 20, 63] {
                same(
                    "a page of the device's",
                    load(&mapping, page)?,
                    Some(Signal::BUS),
                )?;
            }
            model::equal(
                "the host's",
                64,
                &mapping.copy(64 * PAGE..96 * PAGE),
                &stamped_bytes(64, 32, 1),
            )?;
            space.discard(0..64 * PAGE as u64)?;
            device_stamps(&space, 0, 96, 2)?;
            model::equal(
                "in use again",
                0,
                &mapping.copy(0..96 * PAGE),
                &stamped_bytes(0, 96, 2),
            )?;
            space.set_policy(before)?;
        }
        Ok(())
    })
}

pub(crate) fn a_reset_of_the_pf_takes_what_all_functions_have() -> Result<()> {
    let functions = [pf()?, vf(1)?, vf(2)?];
    leaves_nothing(&functions[0], || {
        let spaces = functions
            .iter()
            .map(|function| {
                let (space, mapping) = mapped(function, 40)?;
                // Nothing comes along.
                let before = space.policy()?;
                let mut alone = before;
                alone.policy = PolicyKind::None;
                space.set_policy(alone)?;
                device_stamps(&space, 0, 20, 1)?;
                mapping.fill(20 * PAGE, &stamped_bytes(20, 20, 1));
                space.set_policy(before)?;
                Ok((space, mapping))
            })
            .collect::<Result<Vec<_>>>()?;
        // Jobs run on all of them.
        let long = Task::from(Reduce {
            input: 20 * PAGE as u64,
            n: WORDS as u64,
        })
        .strands(1)
        .element_ps(1_000_000_000);
        let jobs = spaces
            .iter()
            .map(|(space, _)| Ok(space.submit(&long)?))
            .collect::<Result<Vec<_>>>()?;
        reset(functions[0].address)?;
        for job in jobs {
            let time = Duration::from_secs(20) * limit::factor();
            job.wait_for(Some(time))?.context("a job has not ended")?;
        }
        for (space, mapping) in &spaces {
            ready(space)?;
            let lost = space.info()?.space_lost_pages;
            // The job's page may have been the device's by then.
            ensure!(
                (20..=40).contains(&lost),
                "{lost} lost pages of node {}",
                space.node()
            );
            same(
                "a page of the device's",
                load(mapping, 3)?,
                Some(Signal::BUS),
            )?;
            for page in 20..40 {
                match load(mapping, page)? {
                    None => model::equal(
                        "a page of the host's",
                        (page * PAGE) as u64,
                        &mapping.copy(page * PAGE..(page + 1) * PAGE),
                        &stamped_bytes(page, 1, 1),
                    )?,
                    signal => same("a page", signal, Some(Signal::BUS))?,
                }
            }
            space.discard(0..40 * PAGE as u64)?;
            device_stamps(space, 0, 40, 2)?;
            let got = mapping.copy(0..40 * PAGE);
            model::equal("in use again", 0, &got, &stamped_bytes(0, 40, 2))?;
        }
        Ok(())
    })
}
