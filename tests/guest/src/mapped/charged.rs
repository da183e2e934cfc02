// SPDX-License-Identifier: GPL-2.0

//! Which memory cgroup host pages are charged to, and what happens when it is full.

use anyhow::{ensure, Context, Result};
use libvfetch::{stamped, Function, JobError, Scope, Space, Stamp};
use rustix::mm::ProtFlags;

use super::{
    device_finds, device_stamps, mapped, on_pf_and_vf, stamped_bytes, Mapping, MIB, MIB_PAGES,
    WORDS,
};
use crate::support::{
    cgroup::Cgroup,
    errno::{fails, same, Errno},
    limit,
    machine::{space, PAGE},
    model,
    process::fork,
};

pub(crate) fn host_pages_are_charged_to_who_opened_the_file() -> Result<()> {
    on_pf_and_vf(|function| {
        const PAGES: usize = 4 * MIB_PAGES;
        // Of the charge, what may be anything else's.
        const OTHERS: u64 = MIB;
        let cgroup = Cgroup::new("opener", 64 * MIB)?;
        let space = cgroup.within(|| space(function, 4 * MIB))?;
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        let mapping = Mapping::part_of(&space, 0, PAGES * PAGE, rights)?;
        let gone = |cgroup: &Cgroup| {
            limit::until(10, "pages not to be charged any more", || {
                Ok(cgroup.charged()? <= OTHERS)
            })
        };
        gone(&cgroup)?;
        // First contents, made by a process that is elsewhere.
        mapping.fill(0, &stamped_bytes(0, PAGES, 1));
        let charged = cgroup.charged()?;
        ensure!(charged >= 4 * MIB, "only {charged} bytes are charged");
        // What is in frames is nobody's memory.
        device_stamps(&space, 0, PAGES, 2)?;
        gone(&cgroup)?;
        // Pages that come back.
        let got = mapping.copy(0..PAGES * PAGE);
        model::equal("the pages", 0, &got, &stamped_bytes(0, PAGES, 2))?;
        let charged = cgroup.charged()?;
        ensure!(charged >= 4 * MIB, "only {charged} bytes are charged");
        drop((mapping, space));
        gone(&cgroup)
    })
}

/// What a process in a cgroup does that has less room than its contents need; it must not print.
fn use_more_than_the_cgroup_has(function: &Function, pages: usize) -> Result<()> {
    let (space, mapping) = mapped(function, pages)?;
    // Contents that come to be on the host.
    for page in 0..pages {
        mapping.set_word(page * PAGE, page as u64);
    }
    for page in 0..pages {
        same("a word", mapping.word(page * PAGE), page as u64)?;
    }
    // Contents that come to the host.
    device_stamps(&space, 0, pages, 1)?;
    for page in 0..pages {
        let wanted = stamped((page * WORDS) as u64, 1);
        same("a word", mapping.word(page * PAGE), wanted)?;
    }
    Ok(())
}

pub(crate) fn a_full_cgroup_has_pages_go_to_the_device_and_nobody_is_killed() -> Result<()> {
    on_pf_and_vf(|function| {
        let cgroup = Cgroup::new("full", 8 * MIB)?;
        let mut child = fork(|| {
            let entered = cgroup.enter().map_err(Into::into);
            let used =
                entered.and_then(|()| use_more_than_the_cgroup_has(function, 12 * MIB_PAGES));
            u8::from(used.is_err())
        })?;
        child.succeeds(50)?;
        same("processes killed", cgroup.killed()?, 0)
    })
}

pub(crate) fn without_any_memory_new_contents_are_refused_and_others_stay() -> Result<()> {
    on_pf_and_vf(|function| {
        // Nobody is in it who could be killed, and nothing can go to the device.
        let cgroup = Cgroup::new("nobody", 3 * MIB)?;
        let space: Space = cgroup.within(|| space(function, 16 * MIB))?;
        let host = space.limits(Scope::Space)?.host_bytes;
        space.set_limits(Scope::Space, host, MIB)?;
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        let mapping = Mapping::part_of(&space, 0, 16 << 20, rights)?;
        let data = |page: usize| stamped_bytes(page, 1, 1);
        let mut written = 0;
        let refused = loop {
            match space.write_at(&data(written), (written * PAGE) as u64) {
                Ok(bytes) => same("a write", bytes, PAGE)?,
                refused => break refused,
            }
            written += 1;
            ensure!(written < 8 * MIB_PAGES, "{written} pages were charged");
        };
        fails("a write without memory", refused, Errno::NOMEM)?;
        ensure!(written >= 2 * MIB_PAGES, "only {written} pages had room");
        let stamp = Stamp {
            output: 2000 * PAGE as u64,
            n: 100 * WORDS as u64,
            first: 0,
            generation: 1,
        };
        let end = space.submit(&stamp.into())?.wait_for(None)?;
        let outcome = end.context("no end")?.outcome;
        same("a job without memory", outcome, Err(JobError::NoMemory))?;
        // What is there can be used, on both sides.
        same("words", device_finds(&space, 0, written, 1)?, 0)?;
        let on_device = (0..written).find(|page| {
            let page = (page * PAGE) as u64;
            let places = space.residency(page..page + PAGE as u64);
            places.is_ok_and(|places| places.device == 1)
        });
        let page = on_device.context("no page is on the device")?;
        let wanted = stamped((page * WORDS) as u64, 1);
        same("a word", mapping.word(page * PAGE), wanted)?;
        let mut all = vec![0; written * PAGE];
        space.read_exact_at(&mut all, 0)?;
        model::equal("what had room", 0, &all, &stamped_bytes(0, written, 1))
    })
}
