// SPDX-License-Identifier: GPL-2.0

//! Buffers that are not, or not all, there.

use std::thread;

use anyhow::{ensure, Result};
use libvfetch::Space;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};

use crate::support::{
    absent::Absent,
    buffer::{memory_file, Area, Mapping},
    errno::{fails, gives, same, Errno},
    machine::{pf, space, PAGE},
    model::{self, pattern},
};

const PAGES: usize = 80;

/// A space whose first half is written and whose second half is not: data of one comes by DMA, zeros of the other
/// from the processor.
fn half_written() -> Result<Space> {
    let space = space(&pf()?, (PAGES * PAGE) as u64)?;
    space.write_all_at(&pattern(31, 1, 0, PAGES / 2 * PAGE), 0)?;
    Ok(space)
}

/// Where the second half begins.
const UNWRITTEN: u64 = (PAGES / 2 * PAGE) as u64;

/// The space still works and holds what it should.
fn intact(space: &Space) -> Result<()> {
    let mut got = vec![0xee; PAGES * PAGE];
    space.read_exact_at(&mut got, 0)?;
    let (written, rest) = got.split_at(PAGES / 2 * PAGE);
    model::equal(
        "the written half",
        0,
        written,
        &pattern(31, 1, 0, written.len()),
    )?;
    model::zeros("the other half", UNWRITTEN, rest)?;
    same("transfer errors", space.stats()?.transfer_errors, 0)
}

fn bad_both_ways(what: &str, space: &Space, area: Area) -> Result<()> {
    fails(
        &format!("read to {what}"),
        area.pread(space, 0),
        Errno::FAULT,
    )?;
    fails(
        &format!("read of zeros to {what}"),
        area.pread(space, UNWRITTEN),
        Errno::FAULT,
    )?;
    fails(
        &format!("write from {what}"),
        area.pwrite(space, 0),
        Errno::FAULT,
    )?;
    fails(
        &format!("first write from {what}"),
        area.pwrite(space, UNWRITTEN),
        Errno::FAULT,
    )
}

pub(crate) fn a_buffer_that_is_nowhere_is_efault() -> Result<()> {
    let space = half_written()?;
    for bytes in [1, 100, PAGE, 3 * PAGE + 1] {
        bad_both_ways("null", &space, Area::nowhere(0, bytes))?;
        bad_both_ways("the first page", &space, Area::nowhere(1234, bytes))?;
        bad_both_ways(
            "the kernel",
            &space,
            Area::nowhere(0xffff_8880_0000_0000, bytes),
        )?;
        bad_both_ways(
            "the end",
            &space,
            Area::nowhere(usize::MAX - 2 * PAGE, bytes),
        )?;
        bad_both_ways(
            "no canonical address",
            &space,
            Area::nowhere(0x8000_0000_0000_1000, bytes),
        )?;
    }
    let mapping = Mapping::anonymous(PAGE)?;
    let area = mapping.area(10, 100);
    drop(mapping);
    bad_both_ways("what was unmapped", &space, area)?;
    intact(&space)
}

pub(crate) fn memory_without_rights_is_efault() -> Result<()> {
    let space = half_written()?;
    let none = Mapping::with(3 * PAGE, ProtFlags::empty(), MapFlags::PRIVATE)?;
    bad_both_ways("PROT_NONE", &space, none.all())?;
    bad_both_ways("the middle of PROT_NONE", &space, none.area(5000, 10))?;
    intact(&space)
}

pub(crate) fn memory_that_may_only_be_read_is_no_place_to_read_to() -> Result<()> {
    let space = half_written()?;
    let mapping = Mapping::anonymous(2 * PAGE)?;
    let data = pattern(31, 1, 0, 2 * PAGE);
    mapping.fill(0, &data);
    mapping.protect(0..2 * PAGE, MprotectFlags::READ)?;
    fails("read to it", mapping.all().pread(&space, 0), Errno::FAULT)?;
    fails(
        "read of zeros to it",
        mapping.all().pread(&space, UNWRITTEN),
        Errno::FAULT,
    )?;
    model::equal("it", 0, &mapping.copy(0..2 * PAGE), &data)?;
    gives("write from it", mapping.all().pwrite(&space, 0), 2 * PAGE)?;
    // A file opened for reading, mapped shared: its page cache must not change.
    let file = memory_file(PAGE as u64)?;
    let shared = Mapping::of(&file, PAGE, ProtFlags::READ, MapFlags::SHARED)?;
    fails(
        "read to a read-only mapping of a file",
        shared.all().pread(&space, 0),
        Errno::FAULT,
    )?;
    model::zeros("the file", 0, &shared.copy(0..PAGE))?;
    intact(&space)
}

pub(crate) fn a_buffer_that_ends_midway_gives_a_short_count() -> Result<()> {
    let space = half_written()?;
    for (good, start) in [(1, 0), (1, 100), (3, 4095), (33, 0), (34, 17), (39, 1)] {
        let mapping = Mapping::anonymous((good + 1) * PAGE)?;
        mapping.fill(0, &vec![0xee; good * PAGE]);
        mapping.protect(good * PAGE..(good + 1) * PAGE, MprotectFlags::empty())?;
        let valid = good * PAGE - start;
        let area = mapping.area(start, valid + PAGE);
        let what = format!("{valid} good bytes");

        gives(&format!("read to {what}"), area.pread(&space, 5), valid)?;
        model::equal(
            "what came",
            5,
            &mapping.copy(start..good * PAGE),
            &pattern(31, 1, 5, valid),
        )?;
        let next = mapping.area(good * PAGE, 100);
        fails("the next read", next.pread(&space, 5), Errno::FAULT)?;

        gives(
            &format!("read of zeros to {what}"),
            area.pread(&space, UNWRITTEN),
            valid,
        )?;
        model::zeros("what came", UNWRITTEN, &mapping.copy(start..good * PAGE))?;

        // Behind the good bytes nothing may change.
        mapping.fill(start, &pattern(32, 1, 5, valid));
        gives(&format!("write from {what}"), area.pwrite(&space, 5), valid)?;
        let mut got = vec![0; PAGES / 2 * PAGE];
        space.read_exact_at(&mut got, 0)?;
        let mut wanted = pattern(31, 1, 0, got.len());
        wanted
            .get_mut(5..5 + valid)
            .unwrap_or_default()
            .copy_from_slice(&pattern(32, 1, 5, valid));
        model::equal("what was written", 0, &got, &wanted)?;
        fails("the next write", next.pwrite(&space, 5), Errno::FAULT)?;
        space.write_all_at(&pattern(31, 1, 0, got.len()), 0)?;

        gives(
            &format!("first write from {what}"),
            area.pwrite(&space, UNWRITTEN + 5),
            valid,
        )?;
        let mut got = vec![0; PAGES / 2 * PAGE];
        space.read_exact_at(&mut got, UNWRITTEN)?;
        let behind = got.split_off(5 + valid);
        model::equal(
            "what was written",
            5,
            got.get(5..).unwrap_or_default(),
            &pattern(32, 1, 5, valid),
        )?;
        model::zeros("behind it", 0, &behind)?;
        space.discard(UNWRITTEN..(PAGES * PAGE) as u64)?;
    }
    intact(&space)
}

pub(crate) fn what_comes_before_a_bad_part_of_a_vector_moves() -> Result<()> {
    let space = half_written()?;
    let mapping = Mapping::anonymous(4 * PAGE)?;
    let (good, bad) = (mapping.area(1000, 5000), Area::nowhere(64, 5000));
    for at in [7, UNWRITTEN + 7] {
        gives("readv", Area::preadv(&[good, bad, good], &space, at), 5000)?;
        fails(
            "readv",
            Area::preadv(&[bad, good], &space, at),
            Errno::FAULT,
        )?;
    }
    mapping.fill(1000, &pattern(31, 1, 7, 5000));
    gives("writev", Area::pwritev(&[good, bad, good], &space, 7), 5000)?;
    fails(
        "writev",
        Area::pwritev(&[bad, good], &space, 7),
        Errno::FAULT,
    )?;
    // A bad part that is empty is not bad.
    let empty = Area::nowhere(64, 0);
    gives(
        "readv",
        Area::preadv(&[empty, good, empty], &space, 7),
        5000,
    )?;
    intact(&space)
}

pub(crate) fn a_file_that_became_shorter_is_efault() -> Result<()> {
    let space = half_written()?;
    let file = memory_file(4 * PAGE as u64)?;
    let mapping = Mapping::of(
        &file,
        4 * PAGE,
        ProtFlags::READ | ProtFlags::WRITE,
        MapFlags::SHARED,
    )?;
    gives(
        "read to a file's pages",
        mapping.all().pread(&space, 0),
        4 * PAGE,
    )?;
    file.set_len(2 * PAGE as u64)?;
    gives("read to fewer", mapping.all().pread(&space, 0), 2 * PAGE)?;
    gives(
        "write from fewer",
        mapping.all().pwrite(&space, 0),
        2 * PAGE,
    )?;
    gives(
        "read of zeros to fewer",
        mapping.all().pread(&space, UNWRITTEN),
        2 * PAGE,
    )?;
    file.set_len(0)?;
    ensure!(file.metadata()?.len() == 0);
    bad_both_ways("an empty file", &space, mapping.all())?;
    intact(&space)
}

/// More callers than there are slots wait for pages of their buffers; nobody else waits for them.
pub(crate) fn a_buffer_that_is_not_there_holds_nobody_up() -> Result<()> {
    const CALLERS: usize = 6;
    let (stalled, other) = (half_written()?, half_written()?);
    let absent = Absent::new(CALLERS * PAGE)?;
    thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|n| {
                let (absent, stalled) = (&absent, &stalled);
                scope.spawn(move || {
                    let area = absent.area(n * PAGE, PAGE);
                    if n % 2 == 0 {
                        area.pread(stalled, 0)
                    } else {
                        // What is there already: it reads zeros from the buffer once it is brought.
                        area.pwrite(stalled, UNWRITTEN)
                    }
                })
            })
            .collect();
        let meanwhile = || -> Result<()> {
            absent.wait_for_touches(CALLERS)?;
            intact(&other)?;
            let mut byte = [0];
            stalled.read_exact_at(&mut byte, 0)?;
            other.write_all_at(&pattern(31, 1, 0, PAGE), 0)?;
            intact(&other)?;
            ensure!(
                callers.iter().all(|caller| !caller.is_finished()),
                "a caller did not wait for its buffer"
            );
            Ok(())
        };
        let result = meanwhile();
        absent.bring()?;
        for caller in callers {
            gives(
                "a call that had to wait",
                caller.join().expect("no panic"),
                PAGE,
            )?;
        }
        result
    })?;
    intact(&stalled)
}
