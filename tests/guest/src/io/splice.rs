// SPDX-License-Identifier: GPL-2.0

//! Pipes and sendfile.

use std::{
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
    thread,
};

use anyhow::{anyhow, ensure, Result};
use rustix::pipe::{pipe, splice, tee, SpliceFlags};

use crate::support::{
    buffer::{memory_file, Mapping},
    errno::{fails, gives, same, Errno},
    machine::{pf, space, vf, PAGE},
    model::{self, pattern},
};

const BYTES: usize = (1 << 20) + 5000;

/// Splices `bytes` in as many calls as it takes.
fn splice_all(
    from: impl AsFd,
    mut from_at: Option<u64>,
    to: impl AsFd,
    mut to_at: Option<u64>,
    bytes: usize,
) -> Result<()> {
    let mut left = bytes;
    while left > 0 {
        let moved = splice(
            &from,
            from_at.as_mut(),
            &to,
            to_at.as_mut(),
            left,
            SpliceFlags::empty(),
        )?;
        ensure!(moved > 0, "splice stops with {left} of {bytes} bytes to go");
        left -= moved;
    }
    Ok(())
}

fn room() -> u64 {
    (BYTES as u64).next_multiple_of(PAGE as u64)
}

pub(crate) fn a_space_goes_through_a_pipe_to_another() -> Result<()> {
    let (from, to) = (
        space(&pf()?, room() + PAGE as u64)?,
        space(&vf(1)?, room() + PAGE as u64)?,
    );
    from.write_all_at(&pattern(51, 1, 3, BYTES), 3)?;
    let (out, into): (OwnedFd, OwnedFd) = pipe()?;
    thread::scope(|scope| {
        let source = &from;
        let writer = scope.spawn(move || splice_all(source, Some(3), into, None, BYTES));
        splice_all(&out, None, &to, Some(1001), BYTES)?;
        writer.join().map_err(|_| anyhow!("the writer panicked"))?
    })?;
    let mut got = vec![0; BYTES];
    to.read_exact_at(&mut got, 1001)?;
    model::equal("the other space", 3, &got, &pattern(51, 1, 3, BYTES))?;
    // A page that was never written comes as zeros, not as whatever the pipe's page held.
    from.discard(0..from.info()?.space_bytes)?;
    let (out, into): (OwnedFd, OwnedFd) = pipe()?;
    splice_all(&from, Some(100), &into, None, 5000)?;
    let mut got = vec![0xee; 5000];
    let mut at = 0;
    while at < got.len() {
        at += rustix::io::read(&out, got.get_mut(at..).unwrap_or_default())?;
    }
    model::zeros("unwritten pages in a pipe", 100, &got)
}

pub(crate) fn sendfile_fills_and_empties_a_space() -> Result<()> {
    let file = memory_file(BYTES as u64)?;
    let data = pattern(52, 1, 0, BYTES);
    file.write_all_at(&data, 0)?;
    let space = space(&pf()?, room())?;
    let mut at = 0;
    while at < BYTES as u64 {
        let moved = rustix::fs::sendfile(&space, &file, Some(&mut at), BYTES)?;
        ensure!(moved > 0, "sendfile stops at {at}");
    }
    let mut got = vec![0; BYTES];
    space.read_exact_at(&mut got, 0)?;
    model::equal("the space", 0, &got, &data)?;
    let copy = memory_file(0)?;
    let mut at = 0;
    while at < BYTES as u64 {
        let left = BYTES - usize::try_from(at)?;
        let moved = rustix::fs::sendfile(&copy, &space, Some(&mut at), left)?;
        ensure!(moved > 0, "sendfile stops at {at}");
    }
    let mut got = vec![0; BYTES];
    copy.read_exact_at(&mut got, 0)?;
    model::equal("the file", 0, &got, &data)
}

pub(crate) fn a_pipe_is_teed_to_two_spaces() -> Result<()> {
    let (a, b) = (
        space(&pf()?, 16 * PAGE as u64)?,
        space(&vf(1)?, 16 * PAGE as u64)?,
    );
    let data = pattern(53, 1, 0, 10 * PAGE);
    let (first_out, first_in): (OwnedFd, OwnedFd) = pipe()?;
    let (second_out, second_in): (OwnedFd, OwnedFd) = pipe()?;
    gives(
        "write to a pipe",
        rustix::io::write(&first_in, &data),
        data.len(),
    )?;
    gives(
        "tee",
        tee(&first_out, &second_in, data.len(), SpliceFlags::empty()),
        data.len(),
    )?;
    splice_all(&first_out, None, &a, Some(0), data.len())?;
    splice_all(&second_out, None, &b, Some(0), data.len())?;
    for space in [&a, &b] {
        let mut got = vec![0; data.len()];
        space.read_exact_at(&mut got, 0)?;
        model::equal("teed", 0, &got, &data)?;
    }
    Ok(())
}

pub(crate) fn pages_of_a_program_are_spliced() -> Result<()> {
    let space = space(&pf()?, 16 * PAGE as u64)?;
    let mapping = Mapping::anonymous(8 * PAGE)?;
    let data = pattern(54, 1, 0, 8 * PAGE);
    mapping.fill(0, &data);
    let (out, into): (OwnedFd, OwnedFd) = pipe()?;
    gives(
        "vmsplice",
        mapping.area(5, 7 * PAGE).vmsplice(&into),
        7 * PAGE,
    )?;
    splice_all(&out, None, &space, Some(9), 7 * PAGE)?;
    let mut got = vec![0; 7 * PAGE];
    space.read_exact_at(&mut got, 9)?;
    model::equal(
        "spliced pages",
        9,
        &got,
        data.get(5..5 + 7 * PAGE).unwrap_or_default(),
    )
}

pub(crate) fn splice_stops_at_the_end() -> Result<()> {
    let space = space(&pf()?, 2 * PAGE as u64)?;
    let end = 2 * PAGE as u64;
    let (out, into): (OwnedFd, OwnedFd) = pipe()?;
    let none = SpliceFlags::empty();
    gives(
        "splice at the end",
        splice(&space, Some(&mut { end }), &into, None, 100, none),
        0,
    )?;
    gives(
        "splice across the end",
        splice(&space, Some(&mut (end - 10)), &into, None, 100, none),
        10,
    )?;
    gives(
        "splice to the last bytes",
        splice(&out, None, &space, Some(&mut (end - 4)), 10, none),
        4,
    )?;
    fails(
        "splice to beyond the end",
        splice(&out, None, &space, Some(&mut { end }), 6, none),
        Errno::NOSPC,
    )?;
    // The position moves only by what moved.
    let mut at = end - 10;
    splice(&space, Some(&mut at), &into, None, 100, none)?;
    same("the position", at, end)?;
    let file = memory_file(PAGE as u64)?;
    gives(
        "sendfile at the end",
        rustix::fs::sendfile(&file, &space, Some(&mut { end }), 100),
        0,
    )
}
