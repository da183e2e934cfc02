// SPDX-License-Identifier: GPL-2.0

//! Memory of all kinds as a buffer.

use std::{fs, os::unix::fs::FileExt};

use anyhow::{ensure, Context, Result};
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::support::{
    buffer::{memory_file, Area, Mapping},
    errno::{gives, same},
    machine::{pf, space, vf, PAGE},
    model::{self, pattern},
};

const HUGE: usize = 2 << 20;

fn both() -> ProtFlags {
    ProtFlags::READ | ProtFlags::WRITE
}

/// Writes from `mapping` and reads back to it.
fn there_and_back(what: &str, mapping: &Mapping, bytes: usize) -> Result<()> {
    let space = space(&vf(1)?, bytes.next_multiple_of(PAGE) as u64)?;
    for (write, shift) in [(1, 0), (2, 1), (3, 4095)] {
        let moved = bytes - shift;
        let data = pattern(41, write, shift as u64, moved);
        mapping.fill(shift, &data);
        let area = mapping.area(shift, moved);
        gives(
            &format!("write from {what}"),
            area.pwrite(&space, shift as u64),
            moved,
        )?;
        let mut got = vec![0; moved];
        space.read_exact_at(&mut got, shift as u64)?;
        model::equal(&format!("written from {what}"), shift as u64, &got, &data)?;
        mapping.fill(0, &vec![0xee; bytes]);
        gives(
            &format!("read to {what}"),
            area.pread(&space, shift as u64),
            moved,
        )?;
        model::equal(
            &format!("read to {what}"),
            shift as u64,
            &mapping.copy(shift..bytes),
            &data,
        )?;
        ensure!(
            mapping.copy(0..shift).iter().all(|byte| *byte == 0xee),
            "{what}: it wrote before the buffer"
        );
    }
    Ok(())
}

pub(crate) fn huge_pages_are_buffers() -> Result<()> {
    let mapping = Mapping::anonymous(4 * HUGE)?;
    mapping.advise(Advice::LinuxHugepage)?;
    mapping.fill(0, &vec![1; 4 * HUGE]);
    let smaps = fs::read_to_string("/proc/self/smaps_rollup")?;
    let huge = smaps
        .lines()
        .find_map(|line| line.strip_prefix("AnonHugePages:"))
        .context("no AnonHugePages")?;
    ensure!(huge.trim() != "0 kB", "there are no huge pages");
    there_and_back("huge pages", &mapping, 3 * HUGE + 12_345)
}

pub(crate) fn reserved_huge_pages_are_buffers() -> Result<()> {
    let setting = "/proc/sys/vm/nr_hugepages";
    let before = fs::read_to_string(setting)?;
    fs::write(setting, "4")?;
    let run = || -> Result<()> {
        let mapping = Mapping::with(2 * HUGE, both(), MapFlags::PRIVATE | MapFlags::HUGETLB)?;
        there_and_back("reserved huge pages", &mapping, 2 * HUGE)
    };
    let result = run();
    fs::write(setting, before.trim())?;
    result
}

pub(crate) fn shared_memory_is_a_buffer() -> Result<()> {
    let bytes = (1 << 20) + 3 * PAGE;
    let file = memory_file(bytes as u64)?;
    let mapping = Mapping::of(&file, bytes, both(), MapFlags::SHARED)?;
    there_and_back("a file in memory", &mapping, bytes)?;
    // What came to the mapping is in the file.
    let mut got = vec![0; bytes - 4095];
    file.read_exact_at(&mut got, 4095)?;
    model::equal("the file", 4095, &got, &pattern(41, 3, 4095, got.len()))?;

    let path = "/tmp/vfetch-test-buffer";
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    fs::remove_file(path)?;
    file.set_len(bytes as u64)?;
    let mapping = Mapping::of(&file, bytes, both(), MapFlags::SHARED)?;
    there_and_back("a file of tmpfs", &mapping, bytes)?;
    let mapping = Mapping::with(bytes, both(), MapFlags::SHARED)?;
    there_and_back("shared anonymous memory", &mapping, bytes)
}

pub(crate) fn a_private_mapping_of_a_file_keeps_what_was_read_to_itself() -> Result<()> {
    let file = memory_file(4 * PAGE as u64)?;
    let own = pattern(42, 1, 0, 4 * PAGE);
    file.write_all_at(&own, 0)?;
    let mapping = Mapping::of(&file, 4 * PAGE, both(), MapFlags::PRIVATE)?;
    let space = space(&pf()?, 4 * PAGE as u64)?;
    // Pages of the file as they are.
    gives("write from it", mapping.all().pwrite(&space, 0), 4 * PAGE)?;
    let data = pattern(42, 2, 0, 4 * PAGE);
    space.write_all_at(&data, 0)?;
    gives(
        "read to it",
        mapping.area(PAGE, 2 * PAGE).pread(&space, PAGE as u64),
        2 * PAGE,
    )?;
    let wanted = [
        own.get(..PAGE),
        data.get(PAGE..3 * PAGE),
        own.get(3 * PAGE..),
    ];
    let wanted: Vec<u8> = wanted.into_iter().flatten().flatten().copied().collect();
    model::equal("the mapping", 0, &mapping.copy(0..4 * PAGE), &wanted)?;
    let mut got = vec![0; 4 * PAGE];
    file.read_exact_at(&mut got, 0)?;
    model::equal("the file", 0, &got, &own)
}

pub(crate) fn untouched_memory_writes_zeros() -> Result<()> {
    let space = space(&pf()?, 64 * PAGE as u64)?;
    space.write_all_at(&pattern(43, 1, 0, 64 * PAGE), 0)?;
    let mapping = Mapping::anonymous(64 * PAGE)?;
    gives("write from it", mapping.all().pwrite(&space, 0), 64 * PAGE)?;
    let mut got = vec![0xee; 64 * PAGE];
    space.read_exact_at(&mut got, 0)?;
    model::zeros("the space", 0, &got)?;
    // And it can be read to, without the rest of memory noticing.
    space.write_all_at(&pattern(43, 2, 0, 64 * PAGE), 0)?;
    let (a, b) = (
        Mapping::anonymous(64 * PAGE)?,
        Mapping::anonymous(64 * PAGE)?,
    );
    gives("read to it", a.all().pread(&space, 0), 64 * PAGE)?;
    model::equal(
        "it",
        0,
        &a.copy(0..64 * PAGE),
        &pattern(43, 2, 0, 64 * PAGE),
    )?;
    model::zeros("other untouched memory", 0, &b.copy(0..64 * PAGE))
}

pub(crate) fn one_page_may_be_in_a_vector_many_times() -> Result<()> {
    let space = space(&pf()?, 1024 * PAGE as u64)?;
    let mapping = Mapping::anonymous(PAGE)?;
    mapping.fill(0, &pattern(44, 1, 0, PAGE));
    // The most that a vector can have.
    let whole = vec![mapping.all(); 1024];
    gives("writev", Area::pwritev(&whole, &space, 0), 1024 * PAGE)?;
    let mut got = vec![0; 1024 * PAGE];
    space.read_exact_at(&mut got, 0)?;
    for (page, at) in got.chunks(PAGE).zip((0u64..).step_by(PAGE)) {
        model::equal(
            &format!("the copy at {at:#x}"),
            0,
            page,
            &pattern(44, 1, 0, PAGE),
        )?;
    }
    // As many single bytes, all the same one.
    let byte = vec![mapping.area(9, 1); 1024];
    gives("writev of bytes", Area::pwritev(&byte, &space, 3), 1024)?;
    let wanted = mapping.copy(9..10).repeat(1024);
    let mut got = vec![0; 1024];
    space.read_exact_at(&mut got, 3)?;
    model::equal("bytes", 3, &got, &wanted)?;
    // Read to one place many times: what comes last is one of them.
    space.write_all_at(&[7; 1024], 3)?;
    gives("readv of bytes", Area::preadv(&byte, &space, 3), 1024)?;
    same("the byte", mapping.copy(9..10), vec![7])
}

pub(crate) fn a_transfer_changes_nothing_beside_its_buffer() -> Result<()> {
    let space = space(&pf()?, 64 * PAGE as u64)?;
    space.write_all_at(&vec![0x5a; 32 * PAGE], 0)?;
    let mapping = Mapping::anonymous(40 * PAGE)?;
    // Written and unwritten pages, at both ends of a page, across one and across many.
    for at in [0, 3, 31 * PAGE as u64 - 5, 40 * PAGE as u64] {
        for (start, bytes) in [
            (1, 1),
            (4095, 1),
            (4095, 2),
            (10, 4086),
            (4000, 4096),
            (777, 35 * PAGE),
        ] {
            mapping.fill(0, &vec![0xee; 40 * PAGE]);
            let moved = mapping.area(start, bytes).pread(&space, at);
            let wanted = bytes.min(64 * PAGE - usize::try_from(at)?);
            gives("read", moved, wanted)?;
            let beside = [
                mapping.copy(0..start),
                mapping.copy(start + wanted..40 * PAGE),
            ]
            .concat();
            ensure!(
                beside.iter().all(|byte| *byte == 0xee),
                "{bytes} bytes at {start}: it changed its neighbours"
            );
            let inside = mapping.copy(start..start + wanted);
            ensure!(
                inside.iter().all(|byte| *byte != 0xee),
                "{bytes} bytes at {start}: it did not fill the buffer"
            );
        }
    }
    Ok(())
}
