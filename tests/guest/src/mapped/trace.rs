// SPDX-License-Identifier: GPL-2.0

//! The trace of a function: what is in it, what is lost, and how it ends.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd, AsRawFd},
    sync::mpsc::channel,
    thread,
    time::{Duration, Instant},
};

use anyhow::{anyhow, ensure, Context, Result};
use io_uring::{opcode, types::Fd, IoUring};
use libvfetch::{PolicyKind, Records, Scope, Side, Space, Trace, TraceKind, TraceRecord};
use rustix::fs::OFlags;

use super::{device_finds, device_stamps, mapped, on_pf_and_vf, stamped_bytes, under, Mapping};
use crate::{
    io::uring::{finish, push},
    life::machine::{bind, unbind},
    support::{
        errno::{fails, same, Errno},
        limit,
        machine::{open_with, vf, PAGE},
        process::{interrupt_scoped, this_thread},
    },
};

/// Records that are kept: more than any test makes but the one that loses some.
const KEPT: u32 = 16384;

/// Ends `trace`, and takes all that it has.
fn rest(trace: &Trace<'_>) -> Result<Records> {
    trace.stop()?;
    let mut all = Records {
        records: Vec::new(),
        lost: 0,
        timed_out: false,
    };
    loop {
        let some = trace.read(100, Some(Duration::ZERO))?;
        ensure!(!some.timed_out, "reading what is left took a wait");
        all.lost = some.lost;
        if some.records.is_empty() {
            return Ok(all);
        }
        all.records.extend(some.records);
    }
}

/// Pages of records of `kind` that say that they go `to`.
fn pages(records: &[TraceRecord], kind: TraceKind, to: Option<Side>) -> BTreeSet<u64> {
    let of = records.iter().filter(|r| r.kind() == kind && r.to() == to);
    of.flat_map(TraceRecord::pages).collect()
}

/// Pages that the host owns, and what they hold.
fn host_fills(mapping: &Mapping, pages: usize) {
    mapping.fill(0, &stamped_bytes(0, pages, 1));
}

fn all(pages: u64) -> BTreeSet<u64> {
    (0..pages).collect()
}

pub(crate) fn every_fault_and_move_of_a_job_is_in_it() -> Result<()> {
    on_pf_and_vf(|function| {
        // Two blocks.
        let (space, mapping) = mapped(function, 600)?;
        host_fills(&mapping, 600);
        under(function, PolicyKind::None, || {
            let before = space.stats()?;
            let tracer = Space::open(function)?;
            let trace = tracer.trace(&TraceKind::ALL, KEPT)?;
            same("words", device_finds(&space, 0, 600, 1)?, 0)?;
            device_stamps(&space, 500, 100, 2)?;
            let Records { records, lost, .. } = rest(&trace)?;
            let after = space.stats()?;
            same("lost records", lost, 0)?;
            for (number, record) in (0..).zip(&records) {
                same("a number", record.number(), number)?;
            }
            ensure!(
                records.windows(2).all(|w| w[0].time_ns() <= w[1].time_ns()),
                "time goes back"
            );
            let of = |kind| records.iter().filter(move |r| r.kind() == kind);
            let counted: u64 = of(TraceKind::Batch).map(|r| u64::from(r.count())).sum();
            let batches = of(TraceKind::Batch).count() as u64;
            same(
                "faults and batches",
                (counted, batches),
                (
                    after.device_faults - before.device_faults,
                    after.fault_batches - before.fault_batches,
                ),
            )?;
            let faulted = pages(&records, TraceKind::DeviceFaults, None);
            same("pages that faulted", faulted, all(600))?;
            for kind in [TraceKind::Move, TraceKind::Arrived] {
                same(
                    "pages that moved",
                    pages(&records, kind, Some(Side::Device)),
                    all(600),
                )?;
            }
            let hinted: u32 = of(TraceKind::Hint).map(TraceRecord::count).sum();
            same("pages that came along", hinted, 0)?;
            ensure!(
                of(TraceKind::Hint).all(|r| r.policy() == Some(PolicyKind::None)),
                "somebody else decided"
            );
            let spaces: BTreeSet<u64> = of(TraceKind::DeviceFaults)
                .map(TraceRecord::space)
                .collect();
            same("spaces", spaces.len(), 1)
        })
    })
}

pub(crate) fn what_came_along_is_in_it() -> Result<()> {
    on_pf_and_vf(|function| {
        let (space, mapping) = mapped(function, 512)?;
        host_fills(&mapping, 512);
        under(function, PolicyKind::AlwaysMax, || {
            let trace = space.trace(&[TraceKind::Hint, TraceKind::DeviceFaults], KEPT)?;
            same("words", device_finds(&space, 0, 512, 1)?, 0)?;
            let Records { records, .. } = rest(&trace)?;
            let came = pages(&records, TraceKind::Hint, Some(Side::Device));
            let faulted = pages(&records, TraceKind::DeviceFaults, None);
            ensure!(came.len() > 400, "{} pages came along", came.len());
            same("pages", &came | &faulted, all(512))?;
            for record in records.iter().filter(|r| r.kind() == TraceKind::Hint) {
                let own: BTreeSet<u64> = record.more().collect();
                ensure!(record.pages().all(|p| !own.contains(&p)), "{record:?}");
            }
            let wanted = [TraceKind::Hint, TraceKind::DeviceFaults];
            ensure!(
                records.iter().all(|r| wanted.contains(&r.kind())),
                "there are records that nobody wanted"
            );
            Ok(())
        })
    })
}

pub(crate) fn faults_of_processes_are_in_it() -> Result<()> {
    on_pf_and_vf(|function| {
        let (space, mapping) = mapped(function, 16)?;
        device_stamps(&space, 0, 16, 3)?;
        under(function, PolicyKind::None, || {
            let trace = space.trace(&TraceKind::ALL, KEPT)?;
            let _ = mapping.word(5 * PAGE);
            mapping.set_word(9 * PAGE, 1);
            let Records { records, .. } = rest(&trace)?;
            let faults = records.iter().filter(|r| r.kind() == TraceKind::HostFault);
            let written: BTreeSet<u64> = faults.flat_map(TraceRecord::more).collect();
            same(
                "pages",
                pages(&records, TraceKind::HostFault, None),
                [5, 9].into(),
            )?;
            same("written pages", written, [9].into())?;
            let came = pages(&records, TraceKind::Arrived, Some(Side::Host));
            same("pages that came", came, [5, 9].into())
        })
    })
}

pub(crate) fn evictions_are_in_it() -> Result<()> {
    on_pf_and_vf(|function| {
        let (space, mapping) = mapped(function, 2048)?;
        host_fills(&mapping, 2048);
        space.set_limits(Scope::Space, 64 << 20, 3 << 20)?;
        let before = space.stats()?.evicted_pages;
        let trace = space.trace(&[TraceKind::Evicted, TraceKind::Move], KEPT)?;
        same("words", device_finds(&space, 0, 2048, 1)?, 0)?;
        // What is on its way is counted when it has arrived.
        space.set_limits(Scope::Space, 64 << 20, 1 << 20)?;
        let Records { records, lost, .. } = rest(&trace)?;
        same("lost records", lost, 0)?;
        let evicted = records.iter().filter(|r| r.kind() == TraceKind::Evicted);
        let counted: u64 = evicted.map(|r| u64::from(r.count())).sum();
        ensure!(counted > 0, "nothing was evicted");
        same(
            "evicted pages",
            counted,
            space.stats()?.evicted_pages - before,
        )?;
        let gone = pages(&records, TraceKind::Evicted, Some(Side::Host));
        let moved = pages(&records, TraceKind::Move, Some(Side::Host));
        ensure!(gone.is_subset(&moved), "pages went that did not move");
        Ok(())
    })
}

pub(crate) fn what_does_not_fit_is_counted_and_its_numbers_are_left_out() -> Result<()> {
    on_pf_and_vf(|function| {
        let (space, mapping) = mapped(function, 200)?;
        device_stamps(&space, 0, 200, 1)?;
        under(function, PolicyKind::None, || {
            let trace = space.trace(&[TraceKind::HostFault], 64)?;
            for page in 0..100 {
                let _ = mapping.word(page * PAGE);
            }
            let some = trace.read(30, Some(Duration::ZERO))?;
            same("the oldest", some.records.len(), 30)?;
            let lost = some.lost;
            ensure!(lost >= 36, "{lost} of 100 records or more were lost");
            for page in 100..120 {
                let _ = mapping.word(page * PAGE);
            }
            let left = rest(&trace)?;
            same("the rest", left.lost, lost)?;
            let numbers: Vec<u64> = left.records.iter().map(TraceRecord::number).collect();
            same("those that were kept", numbers.get(33), Some(&63))?;
            same(
                "the first after those that were lost",
                numbers.get(34),
                Some(&(64 + lost)),
            )?;
            // Nothing of before.
            drop(trace);
            let again = space.trace(&[TraceKind::HostFault], 64)?;
            let _ = mapping.word(150 * PAGE);
            let Records { records, lost, .. } = rest(&again)?;
            let found = records.first().context("no record")?;
            same("a new trace", (lost, found.number()), (0, 0))?;
            same("a new trace", found.pages().collect::<Vec<_>>(), vec![150])
        })
    })
}

pub(crate) fn one_file_traces_a_function_at_a_time() -> Result<()> {
    on_pf_and_vf(|function| {
        let (one, two) = (Space::open(function)?, Space::open(function)?);
        for records in [0, 63, 65537, u32::MAX] {
            fails(
                "an impossible size",
                one.trace(&[TraceKind::Move], records),
                Errno::INVAL,
            )?;
        }
        fails("nothing to trace", one.trace(&[], 64), Errno::INVAL)?;
        fails(
            "an unknown kind",
            one.trace(&[TraceKind::Unknown], 64),
            Errno::INVAL,
        )?;
        let trace = one.trace(&[TraceKind::Move], 64)?;
        fails(
            "a second file",
            two.trace(&[TraceKind::Move], 64),
            Errno::BUSY,
        )?;
        fails(
            "a second time",
            one.trace(&[TraceKind::Move], 64),
            Errno::BUSY,
        )?;
        fails("room for nothing", trace.read(0, None), Errno::INVAL)?;
        trace.stop()?;
        fails(
            "while there may be unread ones",
            two.trace(&[TraceKind::Move], 64),
            Errno::BUSY,
        )?;
        drop(trace);
        drop(one);
        let trace = two.trace(&[TraceKind::Move], 64)?;
        let write_only = open_with(function, false, true, OFlags::empty())?;
        let write_only = Space::from_file(write_only, "a file for writing only")?;
        fails(
            "without reading",
            write_only.trace(&[TraceKind::Move], 64),
            Errno::BADF,
        )?;
        drop(trace);
        Ok(())
    })
}

pub(crate) fn a_reader_waits_for_records_its_time_the_end_or_a_signal() -> Result<()> {
    on_pf_and_vf(|function| {
        let (space, mapping) = mapped(function, 4)?;
        let trace = space.trace(&[TraceKind::HostFault], 64)?;
        let start = Instant::now();
        let time = Duration::from_millis(50);
        ensure!(trace.read(1, Some(time))?.timed_out, "there is a record");
        ensure!(
            start.elapsed() >= time,
            "it took only {:?}",
            start.elapsed()
        );
        thread::scope(|scope| -> Result<()> {
            let waiter = scope.spawn(|| trace.read(9, None));
            let _ = mapping.word(0);
            let records = waiter.join().map_err(|_| anyhow!("a panic"))??;
            same("the record that came", records.records.len(), 1)?;

            let (send, receive) = channel();
            let trace = &trace;
            let waiter = scope.spawn(move || {
                let _ = send.send(this_thread());
                trace.read(9, None)
            });
            let name = receive.recv()?;
            // One that comes before it waits changes nothing.
            limit::until(20, "the signal to come while it waits", || {
                interrupt_scoped(&waiter, name);
                Ok(waiter.is_finished())
            })?;
            let result = waiter.join().map_err(|_| anyhow!("a panic"))?;
            fails("a signal", result, Errno::INTR)?;

            let waiter = scope.spawn(|| trace.read(9, None));
            trace.stop()?;
            let records = waiter.join().map_err(|_| anyhow!("a panic"))??;
            same(
                "after the end",
                (records.records.len(), records.timed_out),
                (0, false),
            )
        })
    })
}

pub(crate) fn who_polls_hears_of_records_and_of_the_end() -> Result<()> {
    on_pf_and_vf(|function| {
        let (space, mapping) = mapped(function, 4)?;
        let fd = Fd(space.as_fd().as_raw_fd());
        let trace = space.trace(&[TraceKind::HostFault], 64)?;
        let mut ring = IoUring::new(4)?;
        // Each waits from when it is submitted.
        let mut hears = |of: &str, happens: &dyn Fn() -> Result<()>| {
            let wanted = u32::try_from(libc::POLLRDBAND)?;
            push(&mut ring, [opcode::PollAdd::new(fd, wanted).build()])?;
            ring.submit()?;
            let early = ring.completion().next();
            ensure!(early.is_none(), "there is something to read before {of}");
            happens()?;
            same(of, finish(&mut ring, 1)?, vec![i32::from(libc::POLLRDBAND)])
        };
        hears("a record", &|| {
            mapping.word(0);
            Ok(())
        })?;
        same("records", trace.read(9, None)?.records.len(), 1)?;
        hears("the end", &|| Ok(trace.stop()?))
    })
}

pub(crate) fn unbinding_ends_it() -> Result<()> {
    let function = vf(1)?;
    let (space, mapping) = mapped(&function, 4)?;
    let trace = space.trace(&[TraceKind::HostFault], 64)?;
    let _ = mapping.word(0);
    thread::scope(|scope| -> Result<()> {
        same("records before", trace.read(9, None)?.records.len(), 1)?;
        let waiter = scope.spawn(|| trace.read(9, None));
        unbind(function.address)?;
        let records = waiter.join().map_err(|_| anyhow!("a panic"))??;
        same("records after", records.records.len(), 0)
    })?;
    drop(trace);
    fails(
        "a trace of what is gone",
        space.trace(&[TraceKind::Move], 64),
        Errno::NODEV,
    )?;
    drop(mapping);
    drop(space);
    bind(function.address)
}
