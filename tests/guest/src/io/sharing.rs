// SPDX-License-Identifier: GPL-2.0

//! Whose space it is: dup, fork, open, close.

use std::{
    fs::OpenOptions,
    io::{Seek, SeekFrom, Write},
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use anyhow::{ensure, Result};
use libvfetch::Space;
use rustix::process::Signal;

use crate::support::{
    errno::{gives, same},
    limit,
    machine::{given, leaves_nothing, pf, space, stats, vf, PAGE},
    model::{self, pattern},
    process,
};

fn holds(what: &str, space: &Space, at: u64, wanted: &[u8]) -> Result<()> {
    let mut got = vec![0xee; wanted.len()];
    space.read_exact_at(&mut got, at)?;
    model::equal(what, at, &got, wanted)
}

pub(crate) fn a_duplicate_is_the_same_space() -> Result<()> {
    let function = pf()?;
    leaves_nothing(&function, || {
        let mut space = space(&function, 4 * PAGE as u64)?;
        let opens = stats(&function)?.spaces;
        let mut same_space =
            Space::from_file(space.as_fd().try_clone_to_owned()?.into(), "a duplicate")?;
        same("spaces", stats(&function)?.spaces, opens)?;
        let data = pattern(61, 1, 0, 5000);
        space.write_all_at(&data, 7)?;
        holds("the duplicate", &same_space, 7, &data)?;
        // Size and position are shared too.
        same_space.set_size(8 * PAGE as u64)?;
        same("the size", space.info()?.space_bytes, 8 * PAGE as u64)?;
        space.seek(SeekFrom::Start(100))?;
        same("the position", same_space.stream_position()?, 100)
    })
}

pub(crate) fn a_forked_child_shares_the_space_and_its_position() -> Result<()> {
    let function = vf(1)?;
    leaves_nothing(&function, || {
        let mut space = space(&function, 4 * PAGE as u64)?;
        let (ours, theirs) = (pattern(62, 1, 0, 3000), pattern(63, 1, 0, 3000));
        space.write_all_at(&ours, 0)?;
        space.seek(SeekFrom::Start(6000))?;
        let mut child = process::fork(|| {
            let check = || -> Result<()> {
                holds("ours in the child", &space, 0, &ours)?;
                (&space).write_all(&theirs)?;
                space.set_size(5 * PAGE as u64).map_err(Into::into)
            };
            u8::from(check().is_err())
        })?;
        child.succeeds(10)?;
        holds("the child's", &space, 6000, &theirs)?;
        same("the position", space.stream_position()?, 9000)?;
        same("the size", space.info()?.space_bytes, 5 * PAGE as u64)?;
        holds("ours", &space, 0, &ours)
    })
}

pub(crate) fn a_second_open_is_another_space() -> Result<()> {
    let function = pf()?;
    leaves_nothing(&function, || {
        let (a, b) = (space(&function, 4 * PAGE as u64)?, Space::open(&function)?);
        same("the other's size", b.info()?.space_bytes, 0)?;
        a.write_all_at(&pattern(64, 1, 0, PAGE), 0)?;
        b.set_size(4 * PAGE as u64)?;
        holds("the other", &b, 0, &vec![0; PAGE])?;
        b.write_all_at(&pattern(65, 1, 0, PAGE), 0)?;
        holds("the first", &a, 0, &pattern(64, 1, 0, PAGE))?;
        b.set_size(0)?;
        holds("the first", &a, 0, &pattern(64, 1, 0, PAGE))
    })
}

pub(crate) fn opening_by_proc_is_another_space() -> Result<()> {
    let function = pf()?;
    leaves_nothing(&function, || {
        let a = space(&function, 4 * PAGE as u64)?;
        a.write_all_at(&pattern(66, 1, 0, PAGE), 0)?;
        let path = format!("/proc/self/fd/{}", a.as_fd().as_raw_fd());
        let b = Space::from_file(
            OpenOptions::new().read(true).write(true).open(path)?,
            "by /proc",
        )?;
        same("its size", b.info()?.space_bytes, 0)?;
        gives("read", b.read_at(&mut [0; 8], 0), 0)
    })
}

pub(crate) fn a_space_lives_until_its_last_file_is_closed() -> Result<()> {
    let function = vf(2)?;
    let before = given(&function)?;
    let space = space(&function, 16 * PAGE as u64)?;
    let data = pattern(67, 1, 0, 16 * PAGE);
    space.write_all_at(&data, 0)?;
    let duplicate = Space::from_file(space.as_fd().try_clone_to_owned()?.into(), "a duplicate")?;
    drop(space);
    holds("after the first close", &duplicate, 0, &data)?;
    // A child that has it open keeps it, too.
    let mut child = process::fork(|| {
        std::thread::sleep(Duration::from_secs(60));
        0
    })?;
    drop(duplicate);
    same(
        "pages while a child has it open",
        given(&function)?.device_pages,
        before.device_pages + 16,
    )?;
    child.signal(Signal::KILL)?;
    child.wait(10)?;
    same("after the last close", given(&function)?, before)
}

pub(crate) fn killed_processes_leave_nothing() -> Result<()> {
    let function = vf(3)?;
    leaves_nothing(&function, || {
        let mut children = Vec::new();
        for n in 0..6u16 {
            children.push(process::fork(|| {
                let run = || -> Result<()> {
                    let space = space(&function, 2 << 20)?;
                    let data = pattern(68, n, 0, 2 << 20);
                    let mut got = vec![0; 2 << 20];
                    loop {
                        space.write_all_at(&data, 0)?;
                        space.read_exact_at(&mut got, 0)?;
                        space.discard(0..1 << 20)?;
                        space.set_size(1 << 20)?;
                        space.set_size(2 << 20)?;
                    }
                };
                u8::from(run().is_err())
            })?);
        }
        limit::until(
            20,
            "six busy children",
            || Ok(given(&function)?.spaces >= 6),
        )?;
        std::thread::sleep(Duration::from_millis(300));
        for mut child in children {
            child.signal(Signal::KILL)?;
            let status = child.wait(10)?;
            ensure!(
                status.terminating_signal() == Some(Signal::KILL.as_raw()),
                "it ended with {status:?}"
            );
        }
        Ok(())
    })?;
    let after = stats(&function)?;
    same("time-outs", after.timeouts, 0)?;
    same("transfer errors", after.transfer_errors, 0)
}
