// SPDX-License-Identifier: GPL-2.0

//! The space's end, positions, modes.

use std::{
    io::{IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write},
    os::{fd::AsFd, unix::fs::FileExt},
};

use anyhow::{ensure, Result};
use libvfetch::Space;
use rustix::{
    fs::OFlags,
    io::ReadWriteFlags,
    mm::{MapFlags, ProtFlags},
};

use crate::support::{
    buffer::{Area, Mapping},
    errno::{fails, gives, same, Errno},
    machine::{open_with, pf, space, PAGE},
    model::{self, pattern},
};

const END: u64 = 4 * PAGE as u64;

/// As far away as can be asked for with the buffers here: ends of transfers are no negative numbers.
const FAR: u64 = (1 << 63) - 1 - 3 * PAGE as u64;

/// A space of 4 pages with a pattern in it.
fn four_pages() -> Result<Space> {
    let space = space(&pf()?, END)?;
    space.write_all_at(&pattern(21, 1, 0, 4 * PAGE), 0)?;
    Ok(space)
}

pub(crate) fn reads_stop_at_the_end() -> Result<()> {
    let space = four_pages()?;
    let mut buffer = vec![0xee; 3 * PAGE];
    gives("at the end", space.read_at(&mut buffer, END), 0)?;
    gives("past the end", space.read_at(&mut buffer, END + 1), 0)?;
    gives("far past the end", space.read_at(&mut buffer, 1 << 50), 0)?;
    gives("as far as offsets go", space.read_at(&mut buffer, FAR), 0)?;
    ensure!(
        buffer.iter().all(|byte| *byte == 0xee),
        "reading nothing changed the buffer"
    );
    for before in [1, 7, 4095, 4096, 4097, 2 * PAGE + 1] {
        buffer.fill(0xee);
        let at = END - before as u64;
        gives("across the end", space.read_at(&mut buffer, at), before)?;
        let (got, rest) = buffer.split_at(before);
        model::equal("across the end", at, got, &pattern(21, 1, at, before))?;
        ensure!(
            rest.iter().all(|byte| *byte == 0xee),
            "a short read wrote beyond what it returned"
        );
    }
    // A vector that ends behind the space's end.
    let (mut a, mut b) = (vec![0; 3000], vec![0xee; 3000]);
    let mut vector = [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)];
    gives(
        "readv across the end",
        rustix::io::preadv(space.as_fd(), &mut vector, END - 4000),
        4000,
    )?;
    ensure!(
        b.iter().skip(1000).all(|byte| *byte == 0xee),
        "a short readv wrote beyond what it returned"
    );
    Ok(())
}

pub(crate) fn writes_stop_at_the_end() -> Result<()> {
    let space = four_pages()?;
    let data = pattern(22, 1, 0, 3 * PAGE);
    for at in [END, END + 1, 1 << 50, FAR] {
        fails("beyond the end", space.write_at(&data, at), Errno::NOSPC)?;
    }
    for before in [1, 7, 4095, 4096, 4097, 2 * PAGE + 1] {
        let at = END - before as u64;
        gives("across the end", space.write_at(&data, at), before)?;
        let mut got = vec![0; before];
        space.read_exact_at(&mut got, at)?;
        model::equal(
            "across the end",
            at,
            &got,
            data.get(..before).unwrap_or_default(),
        )?;
    }
    let vector = [IoSlice::new(&data), IoSlice::new(&data)];
    gives(
        "writev across the end",
        rustix::io::pwritev(space.as_fd(), &vector, END - 4000),
        4000,
    )?;
    same("the size", space.info()?.space_bytes, END)
}

pub(crate) fn a_space_without_size_has_only_an_end() -> Result<()> {
    let space = Space::open(&pf()?)?;
    gives("read", space.read_at(&mut [0; 8], 0), 0)?;
    fails("write", space.write_at(&[0; 8], 0), Errno::NOSPC)?;
    gives(
        "lseek",
        rustix::fs::seek(space.as_fd(), rustix::fs::SeekFrom::End(0)),
        0,
    )
}

pub(crate) fn nothing_moves_in_calls_without_bytes() -> Result<()> {
    let space = four_pages()?;
    let before = space.stats()?;
    for at in [0, 1, END - 1, END, END + 1] {
        gives("read of nothing", space.read_at(&mut [], at), 0)?;
        gives("write of nothing", space.write_at(&[], at), 0)?;
        gives(
            "read of nothing to nowhere",
            Area::nowhere(0, 0).pread(&space, at),
            0,
        )?;
        gives(
            "write of nothing from nowhere",
            Area::nowhere(0, 0).pwrite(&space, at),
            0,
        )?;
    }
    let mut vector = [IoSliceMut::new(&mut []), IoSliceMut::new(&mut [])];
    gives(
        "readv of nothings",
        rustix::io::preadv(space.as_fd(), &mut vector, 0),
        0,
    )?;
    gives(
        "readv of no vector",
        rustix::io::preadv(space.as_fd(), &mut [], 0),
        0,
    )?;
    gives(
        "writev of no vector",
        rustix::io::pwritev(space.as_fd(), &[], 0),
        0,
    )?;
    let after = space.stats()?;
    same("reads", after.reads, before.reads)?;
    same("writes", after.writes, before.writes)?;
    same("transfers", after.transfers, before.transfers)
}

pub(crate) fn positions_are_sought_within_the_space() -> Result<()> {
    let space = four_pages()?;
    let seek = |from| rustix::fs::seek(space.as_fd(), from);
    use rustix::fs::SeekFrom::{Current, End, Start};
    gives("the start", seek(Current(0)), 0)?;
    gives("from the start", seek(Start(13)), 13)?;
    gives("from here", seek(Current(4096)), 4109)?;
    gives("back from here", seek(Current(-9)), 4100)?;
    gives("from the end", seek(End(-1)), END - 1)?;
    gives("the end", seek(End(0)), END)?;
    for (what, from) in [
        ("past the end", Start(END + 1)),
        ("far past the end", Start(1 << 60)),
        ("past the end from it", End(1)),
        ("past the end from here", Current(1)),
        ("before the start from the end", End(-(4 * 4096 + 1))),
        ("before the start from here", Current(-(4 * 4096 + 1))),
    ] {
        fails(what, seek(from), Errno::INVAL)?;
        gives("a failed seek leaves the position", seek(Current(0)), END)?;
    }
    fails(
        "SEEK_DATA",
        seek(rustix::fs::SeekFrom::Data(0)),
        Errno::INVAL,
    )?;
    fails(
        "SEEK_HOLE",
        seek(rustix::fs::SeekFrom::Hole(0)),
        Errno::INVAL,
    )?;
    // The end is where the size says.
    space.set_size(2 * END)?;
    gives("the new end", seek(End(0)), 2 * END)?;
    space.set_size(PAGE as u64)?;
    gives("the end after shrinking", seek(End(0)), PAGE as u64)?;
    // Positions are not negative, in pread too.
    let low = rustix::io::pread(space.as_fd(), &mut [0u8; 8][..], u64::MAX);
    fails("a negative offset", low, Errno::INVAL)?;
    fails(
        "a negative offset",
        rustix::io::pwrite(space.as_fd(), &[0; 8], 1 << 63),
        Errno::INVAL,
    )
}

pub(crate) fn read_and_write_move_the_position() -> Result<()> {
    let mut space = four_pages()?;
    let data = pattern(23, 1, 0, 5000);
    same("the position", space.stream_position()?, 0)?;
    gives("write", space.write(&data), 5000)?;
    gives("write", space.write(&data), 5000)?;
    same("the position", space.stream_position()?, 10_000)?;
    // pread and pwrite leave it alone.
    space.write_all_at(&[1], 3)?;
    space.read_exact_at(&mut [0], 3)?;
    same("the position", space.stream_position()?, 10_000)?;
    // An error leaves it alone.
    space.seek(SeekFrom::End(0))?;
    fails("write at the end", space.write(&data), Errno::NOSPC)?;
    same("the position", space.stream_position()?, END)?;
    space.seek(SeekFrom::End(-100))?;
    gives("write across the end", space.write(&data), 100)?;
    same("the position", space.stream_position()?, END)?;
    gives("read at the end", space.read(&mut [0; 10]), 0)?;
    space.seek(SeekFrom::Start(5000))?;
    let mut got = vec![0; 5000];
    space.read_exact(&mut got)?;
    model::equal("the second write", 5000, &got, &data)?;
    same("the position", space.stream_position()?, 10_000)
}

pub(crate) fn the_mode_of_the_file_is_kept() -> Result<()> {
    let function = pf()?;
    let read_only = open_with(&function, true, false, OFlags::empty())?;
    fails(
        "write to a file opened for reading",
        read_only.write_at(&[1], 0),
        Errno::BADF,
    )?;
    gives("read of it", read_only.read_at(&mut [1], 0), 0)?;
    let write_only = Space::from_file(
        open_with(&function, false, true, OFlags::empty())?,
        "the node",
    )?;
    write_only.set_size(PAGE as u64)?;
    gives(
        "write to a file opened for writing",
        write_only.write_at(&[1; 8], 4090),
        6,
    )?;
    fails("read of it", write_only.read_at(&mut [1], 0), Errno::BADF)
}

pub(crate) fn nowait_is_refused() -> Result<()> {
    let space = four_pages()?;
    let mut buffer = [0; 8];
    let mut vector = [IoSliceMut::new(&mut buffer)];
    let read = rustix::io::preadv2(space.as_fd(), &mut vector, 0, ReadWriteFlags::NOWAIT);
    fails("preadv2 with RWF_NOWAIT", read, Errno::OPNOTSUPP)?;
    let write = rustix::io::pwritev2(
        space.as_fd(),
        &[IoSlice::new(&[0; 8])],
        0,
        ReadWriteFlags::NOWAIT,
    );
    fails("pwritev2 with RWF_NOWAIT", write, Errno::OPNOTSUPP)?;
    let read = rustix::io::preadv2(space.as_fd(), &mut vector, 8, ReadWriteFlags::empty());
    gives("preadv2 without flags", read, 8)?;
    model::equal("preadv2", 8, &buffer, &pattern(21, 1, 8, 8))
}

pub(crate) fn the_node_is_mapped_shared_and_not_privately() -> Result<()> {
    let space = four_pages()?;
    let rights = ProtFlags::READ | ProtFlags::WRITE;
    for rights in [ProtFlags::READ, rights] {
        let mapping = Mapping::of(&space, PAGE, rights, MapFlags::PRIVATE);
        let error = mapping
            .err()
            .and_then(|error| error.downcast::<Errno>().ok());
        same("a private mapping", error, Some(Errno::INVAL))?;
    }
    let mapping = Mapping::of(&space, 4 * PAGE, rights, MapFlags::SHARED)?;
    let data = pattern(21, 1, 0, 4 * PAGE);
    model::equal("a shared mapping", 0, &mapping.copy(0..4 * PAGE), &data)
}
