// SPDX-License-Identifier: GPL-2.0

//! Function resets, asked for or needed: lost pages, and what ends their being lost.
//!
//! The module is loaded with `timeout_ms=200`.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use libvfetch::{Function, Interest, Options, Space, State};
use rustix::io::Errno;

use super::hw;
use super::inject::{Fault, Injector};
use super::load::Worker;
use super::machine::{
    expect, expect_bytes, function, functions, have_vfs, ms, reset, space, wait_until, MIB, PAGE,
};
use crate::support::limit::factor;
use crate::tap::Test;

pub(crate) const TESTS: &[Test] = crate::bounded![100:
    vf_reset_loses_its_pages_and_nobody_elses,
    lost_page_ends_being_lost_by_a_whole_write_discard_or_set_size,
    pages_never_written_are_not_lost,
    space_made_after_a_reset_is_unaffected,
    pf_reset_takes_the_vfs_with_it_and_all_work_again,
    pf_reset_ten_times_in_a_row,
    resets_under_load_never_show_a_wrong_byte,
    resets_that_meet_recoveries_leave_everything_working,
    wedged_vf_is_reset_and_its_pages_are_lost,
    wedged_pf_is_reset_and_its_vfs_work_again,
    during_a_recovery_nobody_waits_who_does_not_want_to,
    signal_ends_the_wait_for_a_recovery,
];

fn filled(function: &Function, byte: u8) -> Result<Space> {
    let space = space(function, MIB)?;
    space.write_all_at(&vec![byte; MIB as usize], 0)?;
    Ok(space)
}

/// Waits until the function of a space works again.
fn until_ready(space: &Space) -> Result<()> {
    wait_until("it is ready", || {
        space.info().is_ok_and(|info| info.state() == State::Ready)
    })
}

/// That all of a space that was full is lost, and that everything says so.
fn expect_lost(space: &Space, pages: u64) -> Result<()> {
    let info = space.info()?;
    ensure!(
        info.space_lost_pages == pages,
        "{} pages are lost instead of {pages}",
        info.space_lost_pages
    );
    ensure!(
        info.state() == State::Ready,
        "the function is {:?}",
        info.state()
    );
    for at in [0, pages / 2 * PAGE, (pages - 1) * PAGE + 4000] {
        expect(
            "a read of a lost page",
            space.read_at(&mut [0; 64], at),
            Errno::IO,
        )?;
    }
    let ready = space.wait(Interest::Readable, Some(Duration::ZERO))?;
    ensure!(
        ready.lost && !ready.gone,
        "poll does not say POLLERR: {ready:?}"
    );
    Ok(())
}

/// That a space works: writes and reads all of it.
fn expect_works(space: &Space, byte: u8) -> Result<()> {
    let bytes = space.info()?.space_bytes;
    space.write_all_at(&vec![byte; bytes as usize], 0)?;
    expect_bytes(space, 0, bytes, byte)?;
    let lost = space.info()?.space_lost_pages;
    ensure!(
        lost == 0,
        "{lost} pages are still lost after all was written"
    );
    let ready = space.wait(Interest::Writable, Some(Duration::ZERO))?;
    ensure!(ready.writable && !ready.lost, "poll: {ready:?}");
    Ok(())
}

fn vf_reset_loses_its_pages_and_nobody_elses() -> Result<()> {
    let (vf, other, pf) = (function(1)?, function(2)?, function(0)?);
    let spaces = (filled(&vf, 1)?, filled(&other, 2)?, filled(&pf, 3)?);
    let before = (spaces.0.info()?, spaces.0.stats()?);
    reset(vf.address)?;
    expect_lost(&spaces.0, MIB / PAGE)?;
    let (info, stats) = (spaces.0.info()?, spaces.0.stats()?);
    ensure!(
        info.generation == before.0.generation + 1,
        "generation {} after {}",
        info.generation,
        before.0.generation
    );
    ensure!(
        stats.function_resets == before.1.function_resets + 1,
        "the reset was not counted"
    );
    let lost = stats.lost_pages - before.1.lost_pages;
    ensure!(lost == MIB / PAGE, "{lost} lost pages were counted");
    ensure!(
        stats.device_pages == 0,
        "{} pages hold contents, it says",
        stats.device_pages
    );
    expect_bytes(&spaces.1, 0, MIB, 2)?;
    expect_bytes(&spaces.2, 0, MIB, 3)?;
    expect_works(&spaces.0, 4)
}

fn lost_page_ends_being_lost_by_a_whole_write_discard_or_set_size() -> Result<()> {
    let vf = function(1)?;
    let space = filled(&vf, 1)?;
    let lost = |wanted: u64| -> Result<()> {
        let now = space.info()?.space_lost_pages;
        ensure!(now == wanted, "{now} pages are lost instead of {wanted}");
        Ok(())
    };
    reset(vf.address)?;
    let all = MIB / PAGE;
    lost(all)?;
    // Not by a part of it, wherever that is.
    for (at, bytes) in [(0, 4095), (1, 4095), (100, 1), (4095, 2)] {
        expect(
            "a partial write",
            space.write_at(&vec![9; bytes], at),
            Errno::IO,
        )?;
    }
    lost(all)?;
    // By one write that covers it, and only those pages that it covers.
    let moved = space.write_at(&[9; 3 * 4096 - 10], PAGE)?;
    ensure!(
        moved == 8192,
        "{moved} bytes were written over two whole lost pages and a part of one"
    );
    lost(all - 2)?;
    expect_bytes(&space, PAGE, 2 * PAGE, 9)?;
    expect(
        "a read before it",
        space.read_at(&mut [0; 4096], 0),
        Errno::IO,
    )?;
    expect(
        "a read after it",
        space.read_at(&mut [0; 4096], 3 * PAGE),
        Errno::IO,
    )?;
    let moved = space.read_at(&mut [0; 4 * 4096], PAGE)?;
    ensure!(moved == 8192, "{moved} bytes were read up to the lost page");
    // By a discard.
    space.discard(4 * PAGE..6 * PAGE)?;
    lost(all - 4)?;
    expect_bytes(&space, 4 * PAGE, 2 * PAGE, 0)?;
    space.write_all_at(&[8; 10], 4 * PAGE)?;
    expect_bytes(&space, 4 * PAGE, 10, 8)?;
    // By being cut off.
    space.set_size(8 * PAGE)?;
    lost(4)?;
    space.set_size(MIB)?;
    lost(4)?;
    expect_bytes(&space, 8 * PAGE, MIB - 8 * PAGE, 0)?;
    expect_works(&space, 7)
}

fn pages_never_written_are_not_lost() -> Result<()> {
    let vf = function(1)?;
    let space = space(&vf, MIB)?;
    space.write_all_at(&[1; 10], 5 * PAGE)?;
    reset(vf.address)?;
    let lost = space.info()?.space_lost_pages;
    ensure!(lost == 1, "{lost} pages are lost; 1 was written");
    expect_bytes(&space, 0, 5 * PAGE, 0)?;
    expect_bytes(&space, 6 * PAGE, PAGE, 0)?;
    expect(
        "a read of the page that was",
        space.read_at(&mut [0; 1], 5 * PAGE + 100),
        Errno::IO,
    )
}

fn space_made_after_a_reset_is_unaffected() -> Result<()> {
    let vf = function(1)?;
    let old = filled(&vf, 1)?;
    let free = old.info()?.free_bytes;
    reset(vf.address)?;
    let new = space(&vf, MIB)?;
    expect_bytes(&new, 0, MIB, 0)?;
    expect_works(&new, 5)?;
    expect_lost(&old, MIB / PAGE)?;
    drop((old, new));
    let now = Space::open(&vf)?.info()?.free_bytes;
    ensure!(
        now == free + MIB,
        "{now} bytes are free after all was closed, {free} beside 1 MiB were before"
    );
    Ok(())
}

/// Fills a space on every function, lets `f` reset the PF, and expects all of them lost and working.
fn with_all_lost(f: impl FnOnce() -> Result<()>) -> Result<()> {
    let functions = functions()?;
    let spaces = functions
        .iter()
        .map(|function| filled(function, 1))
        .collect::<Result<Vec<_>>>()?;
    f()?;
    let after = super::machine::functions()?;
    ensure!(after == functions, "the functions have changed: {after:?}");
    for (space, function) in spaces.iter().zip(&functions) {
        until_ready(space)?;
        expect_lost(space, MIB / PAGE).with_context(|| function.role.to_string())?;
        expect_works(space, 2).with_context(|| function.role.to_string())?;
    }
    // Nobody's memory is anybody else's.
    for (space, n) in spaces.iter().zip(10..) {
        space.write_all_at(&vec![n; MIB as usize], 0)?;
    }
    for (space, n) in spaces.iter().zip(10..) {
        expect_bytes(space, 0, MIB, n)?;
    }
    Ok(())
}

fn pf_reset_takes_the_vfs_with_it_and_all_work_again() -> Result<()> {
    have_vfs(8)?;
    let pf = function(0)?;
    with_all_lost(|| reset(pf.address))?;
    have_vfs(2)
}

fn pf_reset_ten_times_in_a_row() -> Result<()> {
    let pf = function(0)?;
    with_all_lost(|| (0..10).try_for_each(|_| reset(pf.address)))
}

fn resets_under_load_never_show_a_wrong_byte() -> Result<()> {
    let all = functions()?;
    let mut workers = Vec::new();
    for (function, seed) in all.iter().cycle().zip(1..=6) {
        workers.push(Worker::start(function, seed, 200)?);
    }
    // VF, VF, PF with its VFs, several times.
    for round in 0..12 {
        reset(all[(round + 1) % 3].address).with_context(|| format!("round {round}"))?;
        for worker in &workers {
            worker.wait_for(5)?;
        }
    }
    let mut failed = 0;
    for worker in workers {
        let outcome = worker.finish()?;
        ensure!(!outcome.gone, "a function was given up");
        failed += outcome.failed;
    }
    ensure!(failed > 0, "no reset was felt");
    Ok(())
}

/// The time-out comes after 200 ms, and a queue reset that does not help takes 500 more: the reset comes before, in
/// and after the recovery, of the function itself, of its PF, or of a neighbour.
fn resets_that_meet_recoveries_leave_everything_working() -> Result<()> {
    let injector = Injector::new()?;
    let all = functions()?;
    let mut workers = Vec::new();
    for (function, seed) in all.iter().zip(1..) {
        workers.push(Worker::start(function, seed, 100)?);
    }
    let before = Space::open(&function(1)?)?.stats()?;
    for round in 0..16 {
        let kind = [hw::VFETCH_FAULT_WEDGED, hw::VFETCH_FAULT_STUCK][round % 2];
        injector.arm(1, Fault::new(kind))?;
        thread::sleep(ms(50 * round as u64) * factor());
        reset(all[round % 3].address).with_context(|| format!("round {round}"))?;
        // A rule that the reset forestalled.
        injector.clear(1)?;
        for (function, worker) in all.iter().zip(&workers) {
            let space = Space::open(function)?;
            wait_until("the function to be ready", || {
                space.info().is_ok_and(|info| info.state() == State::Ready)
            })
            .with_context(|| format!("round {round}, {}", function.role))?;
            worker.wait_for(5)?;
        }
    }
    let after = Space::open(&function(1)?)?.stats()?;
    ensure!(
        after.queue_resets > before.queue_resets,
        "no recovery was met"
    );
    for worker in workers {
        ensure!(!worker.finish()?.gone, "a function was given up");
    }
    Ok(())
}

fn wedged_vf_is_reset_and_its_pages_are_lost() -> Result<()> {
    let injector = Injector::new()?;
    let (vf, other) = (function(1)?, function(2)?);
    for (hits, fault) in (1..).zip([
        Fault::read(hw::VFETCH_FAULT_WEDGED),
        Fault::write(hw::VFETCH_FAULT_WEDGED),
    ]) {
        let (space, bystander) = (filled(&vf, 1)?, filled(&other, 2)?);
        let before = space.stats()?;
        injector.arm(1, fault)?;
        let start = Instant::now();
        // The one that the fault is for hangs, and ends with the function's reset.
        let write = space.write_at(&[9; 64], 0);
        let read = space.read_at(&mut [0; 64], PAGE);
        ensure!(write.is_err() || read.is_err(), "neither felt it");
        expect(
            "a read after it",
            space.read_at(&mut [0; 64], 2 * PAGE),
            Errno::IO,
        )?;
        ensure!(
            start.elapsed() < ms(10_000) * factor(),
            "the recovery took {:?}",
            start.elapsed()
        );
        ensure!(
            injector.hits(1, hw::VFETCH_FAULT_WEDGED) == hits,
            "it did not happen"
        );
        // The reads end as soon as the reset has lost the pages, which is before it is over.
        until_ready(&space)?;
        let after = space.stats()?;
        ensure!(
            after.function_resets == before.function_resets + 1,
            "{} function resets",
            after.function_resets
        );
        expect_lost(&space, MIB / PAGE)?;
        expect_works(&space, 3)?;
        expect_bytes(&bystander, 0, MIB, 2)?;
    }
    Ok(())
}

fn wedged_pf_is_reset_and_its_vfs_work_again() -> Result<()> {
    let injector = Injector::new()?;
    let pf = function(0)?;
    let victim = filled(&pf, 1)?;
    with_all_lost(|| {
        injector.arm(0, Fault::read(hw::VFETCH_FAULT_WEDGED))?;
        expect("the read", victim.read_at(&mut [0; 64], 0), Errno::IO)
    })
}

/// Wedges a VF, calls `f` while it recovers with a space of the VF that is not lost yet, and
/// waits for the recovery. That takes as long as a queue reset may.
fn while_recovering(f: impl FnOnce(&Space) -> Result<()>) -> Result<()> {
    let injector = Injector::new()?;
    let vf = function(1)?;
    let victim = filled(&vf, 1)?;
    let other = Options::new().nonblocking(true).open(&vf)?;
    other.set_size(MIB)?;
    other.write_all_at(&vec![2; MIB as usize], 0)?;
    injector.arm(1, Fault::read(hw::VFETCH_FAULT_WEDGED))?;
    thread::scope(|scope| {
        let reader = scope.spawn(|| victim.read_at(&mut [0; 64], 0));
        let recovering = || {
            other
                .info()
                .is_ok_and(|info| info.state() == State::Recovering)
        };
        wait_until("it recovers", recovering)?;
        f(&other)?;
        expect("the read", reader.join().expect("no panic"), Errno::IO)
    })?;
    until_ready(&other)?;
    expect_lost(&other, MIB / PAGE)?;
    expect_works(&other, 3)
}

fn during_a_recovery_nobody_waits_who_does_not_want_to() -> Result<()> {
    while_recovering(|other| {
        expect(
            "a read without waiting",
            other.read_at(&mut [0; 64], 0),
            Errno::AGAIN,
        )?;
        expect(
            "a write without waiting",
            other.write_at(&[0; 64], 0),
            Errno::AGAIN,
        )?;
        let ready = other.wait(Interest::Readable, Some(Duration::ZERO))?;
        ensure!(!ready.readable && !ready.gone, "poll: {ready:?}");
        // And poll says when it is over.
        let ready = other.wait(Interest::Readable, Some(ms(5000)))?;
        ensure!(
            ready.readable || ready.lost,
            "poll does not say that it is over: {ready:?}"
        );
        Ok(())
    })
}

fn signal_ends_the_wait_for_a_recovery() -> Result<()> {
    let vf = function(1)?;
    let waiting = filled(&vf, 4)?;
    while_recovering(|_| {
        let waits = waiting.stats()?.slot_waits;
        let counter = space(&vf, 0)?;
        let thread = thread::spawn(move || {
            let start = Instant::now();
            let result = waiting.read_at(&mut [0; 64], 0);
            (result, start.elapsed())
        });
        wait_until("it waits", || {
            counter.stats().is_ok_and(|now| now.slot_waits > waits)
        })?;
        super::system::interrupt(&thread);
        let (result, time) = thread.join().expect("no panic");
        expect("a read that a signal ended", result, Errno::INTR)?;
        ensure!(time < ms(5000), "the signal did not end it: {time:?}");
        Ok(())
    })
}
