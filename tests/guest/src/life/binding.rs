// SPDX-License-Identifier: GPL-2.0

//! Unbinding and binding through sysfs.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use libvfetch::{Interest, Readiness, Space, State};
use rustix::io::Errno;

use super::hw;
use super::inject::{Fault, Injector};
use super::load::Worker;
use super::machine::{
    bind, expect, expect_bytes, function, functions, have_vfs, ms, set_vfs, space, unbind,
    wait_until, MIB, PAGE, PATIENCE,
};
use super::vfs::expect_no_inheritance;
use crate::support::{absent::Absent, limit::factor};
use crate::tap::Test;

pub(crate) const TESTS: &[Test] = crate::bounded![100:
    files_of_an_unbound_vf_say_so_and_close,
    files_of_an_unbound_pf_say_so_and_its_vfs_go,
    former_contents_are_never_readable_after_a_rebind,
    unbinding_waits_for_a_transfer_in_flight,
    unbinding_a_stuck_or_wedged_function_ends,
    unbinding_during_a_recovery_ends,
    unbinding_does_not_wait_for_a_buffer_that_is_not_there,
    thirty_times_unbound_under_load,
];

/// Takes the function of `space` away, and expects that its file says so in every way.
pub(crate) fn expect_gone_after(space: &Space, f: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = (space.info()?, space.stats()?);
    // A poller that waits for something that does not come: an error or the end.
    let empty =
        Space::open(&libvfetch::Host::system().find(&libvfetch::FunctionRef::Node(space.node()))?)?;
    let ready: Readiness = thread::scope(|scope| {
        let poller = scope.spawn(|| empty.wait(Interest::Readable, Some(PATIENCE)));
        thread::sleep(ms(30));
        ensure!(!poller.is_finished(), "the poller did not wait");
        f()?;
        Ok(poller.join().expect("no panic")?)
    })?;
    ensure!(ready.gone, "the poller was not woken by POLLHUP: {ready:?}");
    let start = Instant::now();
    expect("read", space.read_at(&mut [0; 64], 0), Errno::NODEV)?;
    expect("write", space.write_at(&[0; 64], 0), Errno::NODEV)?;
    expect("SET_SIZE", space.set_size(2 * MIB), Errno::NODEV)?;
    expect("SET_SIZE 0", space.set_size(0), Errno::NODEV)?;
    expect("DISCARD", space.discard(0..PAGE), Errno::NODEV)?;
    let ready = space.wait(Interest::Readable, Some(Duration::ZERO))?;
    ensure!(ready.gone, "no POLLHUP: {ready:?}");
    let (info, stats) = (space.info()?, space.stats()?);
    ensure!(
        info.state() == State::Gone,
        "its state is {:?}",
        info.state()
    );
    ensure!(
        (info.node, info.address(), info.space_bytes)
            == (before.0.node, before.0.address(), before.0.space_bytes),
        "it is another function now: {info:?}"
    );
    ensure!(
        stats.written_bytes >= before.1.written_bytes,
        "its counters have been forgotten"
    );
    ensure!(
        stats.in_flight == 0,
        "{} transfers are in flight",
        stats.in_flight
    );
    ensure!(
        start.elapsed() < ms(5000) * factor(),
        "all that took {:?}",
        start.elapsed()
    );
    Ok(())
}

fn files_of_an_unbound_vf_say_so_and_close() -> Result<()> {
    have_vfs(2)?;
    let vf = function(1)?;
    let bystander = space(&function(2)?, MIB)?;
    bystander.write_all_at(&vec![6; MIB as usize], 0)?;
    let old = space(&vf, MIB)?;
    old.write_all_at(&[1; 100], 0)?;
    expect_gone_after(&old, || unbind(vf.address))?;
    ensure!(!vf.path.exists(), "its node is still there");
    bind(vf.address)?;
    let again = function(1)?;
    ensure!(again == vf, "it is {again:?} and was {vf:?}");
    let new = space(&again, MIB)?;
    new.write_all_at(&[2; 4096], 0)?;
    expect(
        "a read by the old file",
        old.read_at(&mut [0; 64], 0),
        Errno::NODEV,
    )?;
    ensure!(
        old.info()?.state() == State::Gone && new.info()?.state() == State::Ready,
        "old and new are mixed up"
    );
    drop(old);
    expect_bytes(&new, 0, PAGE, 2)?;
    expect_bytes(&bystander, 0, MIB, 6)
}

fn files_of_an_unbound_pf_say_so_and_its_vfs_go() -> Result<()> {
    have_vfs(2)?;
    let (pf, vf) = (function(0)?, function(1)?);
    let (of_pf, of_vf) = (space(&pf, MIB)?, space(&vf, MIB)?);
    for space in [&of_pf, &of_vf] {
        space.write_all_at(&[1; 100], 0)?;
    }
    expect_gone_after(&of_vf, || expect_gone_after(&of_pf, || unbind(pf.address)))?;
    ensure!(functions()?.is_empty(), "functions are left");
    bind(pf.address)?;
    ensure!(function(0)?.node == pf.node, "another node");
    set_vfs(2)?;
    ensure!(function(1)?.node == vf.node, "another node for the VF");
    let works = space(&function(1)?, MIB)?;
    works.write_all_at(&[3; 4096], 0)?;
    expect_bytes(&works, 0, PAGE, 3)
}

fn former_contents_are_never_readable_after_a_rebind() -> Result<()> {
    have_vfs(1)?;
    for number in [0, 1] {
        let address = function(number)?.address;
        expect_no_inheritance(number, || {
            unbind(address)?;
            bind(address)?;
            have_vfs(1)
        })?;
    }
    Ok(())
}

fn unbinding_waits_for_a_transfer_in_flight() -> Result<()> {
    have_vfs(1)?;
    let injector = Injector::new()?;
    let vf = function(1)?;
    let space = space(&vf, MIB)?;
    space.write_all_at(&[7; 4096], 0)?;
    injector.arm(1, Fault::read(hw::VFETCH_FAULT_DELAY).late_by_ms(100))?;
    let (result, buffer) = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut buffer = [0xee; 4096];
            (space.read_at(&mut buffer, 0), buffer)
        });
        let in_flight = || space.stats().is_ok_and(|now| now.in_flight == 1);
        wait_until("it is in flight", in_flight)?;
        unbind(vf.address)?;
        Ok::<_, anyhow::Error>(reader.join().expect("no panic"))
    })?;
    ensure!(
        result? as u64 == PAGE && buffer == [7; 4096],
        "it did not wait for the transfer"
    );
    bind(vf.address)
}

fn unbinding_a_stuck_or_wedged_function_ends() -> Result<()> {
    have_vfs(2)?;
    let injector = Injector::new()?;
    for number in [1, 0] {
        for kind in [hw::VFETCH_FAULT_STUCK, hw::VFETCH_FAULT_WEDGED] {
            have_vfs(2)?;
            let target = function(number)?;
            let space = space(&target, MIB)?;
            space.write_all_at(&[7; 4096], 0)?;
            injector.arm(number, Fault::read(kind))?;
            thread::scope(|scope| {
                let readers: Vec<_> = (0..8)
                    .map(|_| scope.spawn(|| space.read_at(&mut [0; 64], 0)))
                    .collect();
                wait_until("it is stuck", || injector.hits(number, kind) > 0)?;
                let start = Instant::now();
                unbind(target.address)
                    .with_context(|| format!("function {number}, kind {kind}"))?;
                ensure!(
                    start.elapsed() < ms(10_000) * factor(),
                    "unbinding took {:?}",
                    start.elapsed()
                );
                for reader in readers {
                    let error = reader
                        .join()
                        .expect("no panic")
                        .err()
                        .and_then(|error| error.errno());
                    ensure!(
                        matches!(error, Some(Errno::IO | Errno::NODEV)),
                        "a reader ended with {error:?}"
                    );
                }
                Ok(())
            })?;
            injector.clear(number)?;
            bind(target.address)?;
            let again = super::machine::space(&function(number)?, PAGE)?;
            again.write_all_at(&[1; 4096], 0)?;
            expect_bytes(&again, 0, PAGE, 1).context("after it was bound again")?;
        }
    }
    have_vfs(2)
}

fn unbinding_during_a_recovery_ends() -> Result<()> {
    have_vfs(1)?;
    let injector = Injector::new()?;
    let vf = function(1)?;
    for wait in [200, 230, 400, 690, 750] {
        let space = space(&function(1)?, MIB)?;
        space.write_all_at(&[7; 4096], 0)?;
        injector.arm(1, Fault::read(hw::VFETCH_FAULT_WEDGED))?;
        thread::scope(|scope| {
            let reader = scope.spawn(|| space.read_at(&mut [0; 64], 0));
            thread::sleep(ms(wait));
            unbind(vf.address)?;
            let error = reader
                .join()
                .expect("no panic")
                .err()
                .and_then(|error| error.errno());
            ensure!(
                matches!(error, Some(Errno::IO | Errno::NODEV)),
                "the reader ended with {error:?}"
            );
            Ok(())
        })
        .with_context(|| format!("unbound {wait} ms after the fault"))?;
        bind(vf.address)?;
    }
    Ok(())
}

/// The callers wait for their buffers for as long as their program likes.
fn unbinding_does_not_wait_for_a_buffer_that_is_not_there() -> Result<()> {
    const CALLERS: usize = 4;
    have_vfs(1)?;
    let vf = function(1)?;
    let space = space(&vf, MIB)?;
    space.write_all_at(&vec![5; MIB as usize], 0)?;
    let absent = Absent::new(CALLERS * PAGE as usize)?;
    thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|n| {
                let (absent, space) = (&absent, &space);
                scope.spawn(move || {
                    let area = absent.area(n * PAGE as usize, PAGE as usize);
                    if n % 2 == 0 {
                        area.pread(space, 0)
                    } else {
                        area.pwrite(space, 0)
                    }
                })
            })
            .collect();
        let start = Instant::now();
        let unbound = absent
            .wait_for_touches(CALLERS)
            .and_then(|()| unbind(vf.address));
        let took = start.elapsed();
        absent.bring()?;
        for caller in callers {
            let got = caller.join().expect("no panic");
            ensure!(
                unbound.is_err() || got == Err(Errno::NODEV),
                "a call by a function that was unbound gives {got:?}"
            );
        }
        unbound?;
        ensure!(took < ms(10_000) * factor(), "unbinding took {took:?}");
        Ok(())
    })?;
    bind(vf.address)
}

fn thirty_times_unbound_under_load() -> Result<()> {
    have_vfs(2)?;
    let (pf, vf) = (function(0)?, function(1)?);
    let steady = Worker::start(&pf, 1, 100)?;
    let other = Worker::start(&function(2)?, 2, 100)?;
    for round in 0..30 {
        let workers = [Worker::start(&vf, 3, 50)?, Worker::start(&vf, 4, 50)?];
        if round % 2 == 0 {
            workers[0].wait_for(3)?;
        }
        unbind(vf.address)?;
        for worker in workers {
            let outcome = worker.ended()?;
            ensure!(outcome.gone, "round {round}: a program did not notice");
        }
        bind(vf.address)?;
    }
    for worker in [steady, other] {
        let outcome = worker.finish()?;
        ensure!(
            outcome.failed == 0 && !outcome.gone,
            "another function had errors: {outcome:?}"
        );
    }
    Ok(())
}
