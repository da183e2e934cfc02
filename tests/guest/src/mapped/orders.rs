// SPDX-License-Identifier: GPL-2.0

//! Orders to the device that fail or are lost: to forget what it remembers of the page table, to end a job.
//!
//! The module is loaded with `timeout_ms=200`.

use anyhow::{ensure, Result};
use libvfetch::{JobError, State};
use rustix::{io::Errno, process::Signal};

use super::{
    device_finds, device_stamps,
    lost::{long, touches},
    mapped, stamped_bytes,
};
use crate::{
    life::{
        hw,
        inject::{Fault, Injector, FAILURES},
        machine::{bind, expect, unbind},
    },
    support::{
        errno::same,
        machine::{leaves_nothing, vf, PAGE},
        model,
    },
};

/// Pages that the device has when it is to forget them.
const PAGES: usize = 64;

/// It comes later than anybody waits for it, or names another order.
fn failure(kind: u32, new: fn(u32) -> Fault) -> Fault {
    match kind {
        hw::VFETCH_FAULT_DELAY => new(kind).late_by_ms(300),
        hw::VFETCH_FAULT_CORRUPT => new(kind).arg(1 << 40),
        _ => new(kind),
    }
}

pub(crate) fn an_invalidation_that_fails_is_made_again() -> Result<()> {
    let function = vf(1)?;
    leaves_nothing(&function, || {
        let injector = Injector::new()?;
        for (kind, generation) in FAILURES.into_iter().zip(1..) {
            let (space, mapping) = mapped(&function, PAGES)?;
            device_stamps(&space, 0, PAGES, generation)?;
            injector.arm(1, failure(kind, Fault::invalidation))?;
            // The host takes all of it: what the device remembered would be what it reads afterwards.
            let got = mapping.copy(0..PAGES * PAGE);
            model::equal("loads", 0, &got, &stamped_bytes(0, PAGES, generation))?;
            same("invalidations that failed", injector.hits(1, kind), 1)?;
            mapping.fill(0, &stamped_bytes(0, PAGES, generation + 20));
            let wrong = device_finds(&space, 0, PAGES, generation + 20)?;
            ensure!(
                wrong == 0,
                "failure {kind}: the device sees {wrong} old words"
            );
            same("lost pages", space.info()?.space_lost_pages, 0)?;
            injector.clear(1)?;
        }
        Ok(())
    })
}

pub(crate) fn a_device_that_forgets_nothing_is_given_up() -> Result<()> {
    let function = vf(1)?;
    {
        let injector = Injector::new()?;
        let (space, mapping) = mapped(&function, 512 + PAGES)?;
        device_stamps(&space, 0, PAGES, 1)?;
        // Of another block: what comes along with a page is of its own.
        mapping.fill(512 * PAGE, &stamped_bytes(512, PAGES, 1));
        injector.arm(1, Fault::invalidation(hw::VFETCH_FAULT_FAIL).always())?;
        for page in [0, PAGES - 1] {
            let bus = [Some(Signal::BUS); 2];
            same(
                "a page of the device's",
                touches(&mapping, page * PAGE)?,
                bus,
            )?;
        }
        same("the state", space.info()?.state(), State::Gone)?;
        let got = mapping.copy(512 * PAGE..(512 + PAGES) * PAGE);
        let wanted = stamped_bytes(512, PAGES, 1);
        model::equal("the host's", 0, &got, &wanted)?;
        expect("read", space.read_at(&mut [0; 8], 0), Errno::NODEV)?;
    }
    unbind(function.address)?;
    bind(function.address)?;
    let again = vf(1)?;
    leaves_nothing(&again, || {
        let (space, _mapping) = mapped(&again, PAGES)?;
        device_stamps(&space, 0, PAGES, 4)?;
        same("words", device_finds(&space, 0, PAGES, 4)?, 0)
    })
}

pub(crate) fn a_job_is_cancelled_although_the_order_fails() -> Result<()> {
    let function = vf(1)?;
    leaves_nothing(&function, || {
        let injector = Injector::new()?;
        let (space, _mapping) = mapped(&function, 600)?;
        for (kind, generation) in FAILURES.into_iter().zip(1..) {
            let job = space.submit(&long(generation))?;
            injector.arm(1, failure(kind, Fault::cancel))?;
            match job.cancel() {
                Ok(()) => {}
                // Its queue is being reset, which ends it, too.
                Err(error) if error.errno() == Some(Errno::IO) => {}
                Err(error) => return Err(error.into()),
            }
            let outcome = job.wait_for(None)?.map(|end| end.outcome);
            ensure!(
                matches!(outcome, Some(Err(JobError::Cancelled | JobError::Failed))),
                "failure {kind}: the job ended with {outcome:?}"
            );
            same("orders that failed", injector.hits(1, kind), 1)?;
            injector.clear(1)?;
            device_stamps(&space, 0, PAGES, 50)?;
            same("words", device_finds(&space, 0, PAGES, 50)?, 0)?;
        }
        Ok(())
    })
}
