// SPDX-License-Identifier: GPL-2.0

//! Waiting for pages that do not come for a long time.
//!
//! The module is loaded with `timeout_ms=20000`, and pages are held up until the test releases them: what ends before that has not
//! waited for them.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    thread::{self, ScopedJoinHandle},
};

use anyhow::{ensure, Context, Result};
use libvfetch::{Advice, PolicyKind, Side, Space};
use rustix::{mm::MprotectFlags, process::Signal};

use super::{mapped, stamped_bytes, under, Mapping};
use crate::{
    life::{
        hw,
        inject::{Fault, Injector},
        machine::wait_until,
    },
    support::{
        errno::same,
        limit,
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

/// That a child that does `what` to a space of which a page is held up can be killed before it comes; and `then`.
fn killed_while_it(
    what: impl FnOnce(&Space) -> libvfetch::Result<()>,
    then: impl FnOnce(&Space, &Mapping) -> Result<()>,
) -> Result<()> {
    leaves_nothing(&vf(1)?, || {
        let (space, mapping, injector) = held_up()?;
        let all = 0..20 * PAGE as u64;
        thread::scope(|scope| {
            let brought = scope.spawn(|| space.advise(all, Advice::WillNeed(Side::Host)));
            until_held_up(&injector)?;
            let mut child = fork(|| u8::from(what(&space).is_err()))?;
            wait_until("the child waits", || are_stuck(child.pid(), 0))?;
            child.signal(Signal::KILL)?;
            let status = child.wait(30)?;
            same(
                "the child's end",
                status.terminating_signal(),
                Some(Signal::KILL.as_raw()),
            )?;
            is_held_up(&space)?;
            injector.clear(1)?;
            Ok::<(), anyhow::Error>(brought.join().expect("no panic")?)
        })?;
        then(&space, &mapping)
    })
}

pub(crate) fn a_killed_process_does_not_wait_for_what_it_discards() -> Result<()> {
    killed_while_it(
        |space| space.discard(0..20 * PAGE as u64),
        |_, mapping| {
            let all = mapping.copy(0..20 * PAGE);
            model::equal("the pages", 0, &all, &stamped_bytes(0, 20, 1))
        },
    )
}

pub(crate) fn what_a_killed_process_cut_off_is_gone() -> Result<()> {
    killed_while_it(
        |space| space.set_size(4 * PAGE as u64),
        |space, mapping| {
            same("the size", space.info()?.space_bytes, 4 * PAGE as u64)?;
            space.set_size(20 * PAGE as u64)?;
            let mut wanted = stamped_bytes(0, 4, 1);
            wanted.resize(20 * PAGE, 0);
            model::equal("the pages", 0, &mapping.copy(0..20 * PAGE), &wanted)
        },
    )
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

/// Whether all threads of process `pid` but `idle` wait for what no signal but one that kills ends.
fn are_stuck(pid: rustix::process::Pid, idle: usize) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", pid.as_raw_pid())) else {
        return false;
    };
    let stats = tasks.flatten().map(|task| task.path().join("stat"));
    // "PID (comm) STATE …"
    let stuck = |stat: String| {
        (stat.rsplit(')').next()).is_some_and(|rest| rest.trim_start().starts_with('D'))
    };
    let others = stats.filter(|stat| !fs::read_to_string(stat).is_ok_and(stuck));
    others.count() == idle
}

pub(crate) fn a_debugger_holds_nobody_up_for_ever() -> Result<()> {
    // One page at a time.
    leaves_nothing(&vf(1)?, || {
        under(&vf(1)?, PolicyKind::None, || {
            let (space, mapping, injector) = held_up()?;
            let fresh = Mapping::anonymous(PAGE)?;
            let (change_now, change) = rustix::pipe::pipe()?;
            let (read_now, read) = rustix::pipe::pipe()?;
            let mut child = fork(|| {
                let hear = |pipe| rustix::io::read(pipe, &mut [0; 1]).expect("the pipe");
                thread::scope(|scope| {
                    scope.spawn(|| {
                        hear(&read_now);
                        let got = fresh.all().pread(&space, 5 * PAGE as u64);
                        assert_eq!(got, Ok(PAGE));
                    });
                    hear(&change_now);
                    mapping
                        .protect(10 * PAGE..11 * PAGE, MprotectFlags::READ)
                        .expect("a change of the mapping");
                });
                u8::from(fresh.copy(0..PAGE) != stamped_bytes(5, 1, 1))
            })?;
            let memory = File::open(format!("/proc/{}/mem", child.pid().as_raw_pid()))?;
            let half = PAGE / 2;
            let place = mapping.area(half, PAGE).address() as u64;
            // The first page comes late. Until then the child waits for the lock that the debugger has: one thread to change mappings, one, behind it, to
            // have a page to read into, and what it reads is in the same block. Then the debugger wants the second page.
            let debugger = thread::spawn(move || {
                let mut got = vec![0; PAGE];
                let count = memory.read_at(&mut got, place);
                count.map(|count| got[..count].to_vec())
            });
            // On a slow machine it may let go before.
            let until_stuck = |idle| {
                wait_until("the threads wait for the debugger", || {
                    are_stuck(child.pid(), idle) || debugger.is_finished()
                })
            };
            until_held_up(&injector)?;
            rustix::io::write(&change, &[0])?;
            until_stuck(1)?;
            rustix::io::write(&read, &[0])?;
            until_stuck(0)?;
            injector.clear(1)?;
            limit::until(40, "the debugger to let go", || Ok(debugger.is_finished()))?;
            match debugger.join().expect("no panic") {
                Ok(got) => {
                    let wanted = stamped_bytes(0, 2, 1);
                    let wanted = wanted.get(half..half + got.len()).context("too much")?;
                    model::equal("what it saw", half as u64, &got, wanted)?;
                }
                Err(error) => same("why it saw nothing", error.raw_os_error(), Some(libc::EIO))?,
            }
            child.succeeds(30)?;
            let all = mapping.copy(0..20 * PAGE);
            model::equal("the pages", 0, &all, &stamped_bytes(0, 20, 1))
        })
    })
}

pub(crate) fn what_is_asked_for_on_its_way_is_late() -> Result<()> {
    leaves_nothing(&vf(1)?, || {
        under(&vf(1)?, PolicyKind::AlwaysMax, || {
            let (space, mapping) = mapped(&vf(1)?, 20)?;
            space.write_all_at(&stamped_bytes(0, 20, 1), 0)?;
            // The page that is waited for comes first, by itself.
            let injector = Injector::new()?;
            let late = Fault::read(hw::VFETCH_FAULT_DELAY).late_by_ms(LONG_MS);
            injector.arm(1, late.after(1).always())?;
            let start = space.policy_stats(None)?;
            mapping.word(0);
            let late = || -> Result<u64> { Ok(space.policy_stats(None)?.since(&start).late_pages) };
            same("late pages", late()?, 0)?;
            thread::scope(|scope| {
                let loads = [7, 12].map(|page| {
                    let mapping = &mapping;
                    scope.spawn(move || mapping.word(page * PAGE))
                });
                wait_until("two pages are late", || matches!(late(), Ok(2)))?;
                injector.clear(1)?;
                for (page, load) in [7, 12].into_iter().zip(loads) {
                    let wanted = stamped_bytes(page, 1, 1);
                    let word = load.join().expect("no panic").to_le_bytes();
                    model::equal("the word", 0, &word, &wanted[..8])?;
                }
                Ok::<_, anyhow::Error>(())
            })?;
            for page in [3, 9, 19] {
                mapping.word(page * PAGE);
            }
            let end = 20 * PAGE as u64;
            space.advise(0..end, Advice::WillNeed(Side::Device))?;
            let stats = space.policy_stats(None)?.since(&start);
            same("pages that came along", stats.prefetched_pages, 19)?;
            let ends = (stats.used_pages, stats.late_pages, stats.unused_pages);
            same("used, late, unused", ends, (3, 2, 14))?;
            same("given up", stats.dropped_pages, 0)
        })
    })
}
