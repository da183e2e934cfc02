// SPDX-License-Identifier: GPL-2.0

//! Waiting for pages that do not come for a long time.
//!
//! The module is loaded with `timeout_ms=20000`, and pages are held up until the test releases them: what ends before that has not
//! waited for them.

use std::thread::{self, ScopedJoinHandle};

use anyhow::{ensure, Result};
use libvfetch::{Advice, Side, Space};
use rustix::{mm::MprotectFlags, process::Signal};

use super::{mapped, stamped_bytes, Mapping};
use crate::{
    life::{
        hw,
        inject::{Fault, Injector},
        machine::wait_until,
    },
    support::{
        errno::same,
        machine::{leaves_nothing, vf, PAGE},
        model,
        process::fork,
    },
};

/// Longer than the time-out of any test.
const LONG_MS: u64 = 1_000_000;

/// A mapped space of 20 pages, all of which the device has, and an injector that holds up the next one to be fetched.
fn held_up() -> Result<(Space, Mapping, Injector)> {
    let (space, mapping) = mapped(&vf(1)?, 20)?;
    space.write_all_at(&stamped_bytes(0, 20, 1), 0)?;
    let injector = Injector::new()?;
    let late = Fault::read(hw::VFETCH_FAULT_DELAY).late_by_ms(LONG_MS);
    injector.arm(1, late)?;
    Ok((space, mapping, injector))
}

/// Waits until a page is held up.
fn until_held_up(injector: &Injector) -> Result<()> {
    wait_until("a page is held up", || {
        injector.hits(1, hw::VFETCH_FAULT_DELAY) == 1
    })
}

/// That the page is still held up.
fn is_held_up(space: &Space) -> Result<()> {
    let flying = space.stats()?.in_flight;
    ensure!(flying > 0, "the page is not held up any more");
    Ok(())
}

pub(crate) fn a_killed_process_does_not_wait_for_its_page() -> Result<()> {
    leaves_nothing(&vf(1)?, || {
        let (space, mapping, injector) = held_up()?;
        let mut child = fork(|| {
            mapping.word(0);
            0
        })?;
        until_held_up(&injector)?;
        child.signal(Signal::KILL)?;
        let status = child.wait(30)?;
        same(
            "the child's end",
            status.terminating_signal(),
            Some(Signal::KILL.as_raw()),
        )?;
        is_held_up(&space)?;
        injector.clear(1)?;
        let all = mapping.copy(0..20 * PAGE);
        model::equal("the pages", 0, &all, &stamped_bytes(0, 20, 1))
    })
}

/// That a part of the mapping can be taken apart, for which nobody may be in a fault on it, while `load` of the first page is held up;
/// and what it loads in the end.
fn mapping_changes_while(
    load: ScopedJoinHandle<'_, u64>,
    space: &Space,
    mapping: &Mapping,
    injector: &Injector,
) -> Result<()> {
    mapping.protect(10 * PAGE..11 * PAGE, MprotectFlags::READ)?;
    mapping.unmap(19 * PAGE..20 * PAGE)?;
    is_held_up(space)?;
    ensure!(!load.is_finished(), "the page is there already");
    injector.clear(1)?;
    let wanted = stamped_bytes(0, 1, 1);
    let word = load.join().expect("no panic").to_le_bytes();
    model::equal("the word", 0, &word, &wanted[..8])
}

pub(crate) fn mappings_change_while_a_page_is_awaited_that_was_taken_meanwhile() -> Result<()> {
    leaves_nothing(&vf(1)?, || {
        let (space, mapping) = mapped(&vf(1)?, 20)?;
        mapping.fill(0, &stamped_bytes(0, 20, 1));
        let injector = Injector::new()?;
        // On its way to the device the page can be waited for without the lock; so it cannot once more, when it has to come back.
        let late = Fault::write(hw::VFETCH_FAULT_DELAY);
        injector.arm(1, late.late_by_ms(2000))?;
        let late = Fault::read(hw::VFETCH_FAULT_DELAY);
        injector.arm(1, late.late_by_ms(LONG_MS))?;
        thread::scope(|scope| {
            let brought =
                scope.spawn(|| space.advise(0..PAGE as u64, Advice::WillNeed(Side::Device)));
            until_held_up(&injector)?;
            let load = scope.spawn(|| mapping.word(0));
            wait_until("the page is held up on its way back", || {
                injector.hits(1, hw::VFETCH_FAULT_DELAY) == 2
            })?;
            mapping_changes_while(load, &space, &mapping, &injector)?;
            Ok(brought.join().expect("no panic")?)
        })
    })
}

pub(crate) fn mappings_change_while_a_page_is_awaited() -> Result<()> {
    leaves_nothing(&vf(1)?, || {
        let (space, mapping, injector) = held_up()?;
        thread::scope(|scope| {
            let load = scope.spawn(|| mapping.word(0));
            until_held_up(&injector)?;
            mapping_changes_while(load, &space, &mapping, &injector)
        })?;
        let others = mapping.copy(PAGE..19 * PAGE);
        model::equal("the other pages", 0, &others, &stamped_bytes(1, 18, 1))
    })
}
