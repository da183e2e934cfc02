// SPDX-License-Identifier: GPL-2.0

//! What is said of pages changes where they are, and never what they hold.

use std::{ops::Range, sync::Barrier, thread};

use anyhow::{anyhow, ensure, Result};
use libvfetch::{Advice, Place, Residency, Scope, Side, Space};

use rustix::fs::OFlags;

use super::{device_finds, device_stamps, mapped, on_pf_and_vf, stamped_bytes, MIB};
use crate::support::{
    errno::{fails, same, Errno},
    machine::{open_with, PAGE},
    model, raw,
};

const BLOCK: usize = 512;
const REMOTE: Place = Place::Host { pinned: true };
const HOST: Place = Place::Host { pinned: false };
const DEVICE: Place = Place::Device { pinned: false };

fn bytes(pages: Range<usize>) -> Range<u64> {
    (pages.start * PAGE) as u64..(pages.end * PAGE) as u64
}

/// All of `pages` are in `place`.
fn are(what: &str, space: &Space, pages: Range<usize>, place: Place) -> Result<()> {
    let places = space.places(bytes(pages.clone()))?;
    for (page, found) in pages.zip(places) {
        same(&format!("{what}: page {page}"), found, place)?;
    }
    Ok(())
}

pub(crate) fn pages_that_are_wanted_on_the_host_are_reached_there() -> Result<()> {
    on_pf_and_vf(|function| {
        let pages = BLOCK + 100;
        let (space, mapping) = mapped(function, pages)?;
        // Parts of two blocks.
        let wanted = BLOCK - 100..BLOCK + 50;
        for advice in [
            Advice::Prefer(Some(Side::Host)),
            Advice::AccessedByDevice(true),
        ] {
            space.advise(bytes(wanted.clone()), advice)?;
            mapping.fill(0, &stamped_bytes(0, pages, 1));
            same("words", device_finds(&space, 0, pages, 1)?, 0)?;
            are("told", &space, wanted.clone(), REMOTE)?;
            are("before", &space, 0..wanted.start, DEVICE)?;
            are("behind", &space, wanted.end..pages, DEVICE)?;
            // Both sides write them where they are.
            device_stamps(&space, 0, pages, 2)?;
            are("stamped", &space, wanted.clone(), REMOTE)?;
            let got = mapping.copy(0..pages * PAGE);
            model::equal("after a job", 0, &got, &stamped_bytes(0, pages, 2))?;
            mapping.fill(0, &stamped_bytes(0, pages, 3));
            same("words", device_finds(&space, 0, pages, 3)?, 0)?;
            // Until nothing is said any more.
            let not = match advice {
                Advice::Prefer(_) => Advice::Prefer(None),
                _ => Advice::AccessedByDevice(false),
            };
            space.advise(bytes(wanted.clone()), not)?;
            device_stamps(&space, 0, pages, 4)?;
            are("not told", &space, 0..pages, DEVICE)?;
            let got = mapping.copy(0..pages * PAGE);
            model::equal("at the end", 0, &got, &stamped_bytes(0, pages, 4))?;
            space.discard(bytes(0..pages))?;
        }
        Ok(())
    })
}

/// Of several who hand in a space's first job one makes all of its blocks known to the device. The others' jobs need not wait for it.
pub(crate) fn jobs_ask_for_blocks_that_the_device_is_yet_to_know() -> Result<()> {
    const BLOCKS: usize = 1024;
    on_pf_and_vf(|function| {
        for generation in 0..4 {
            let (space, mapping) = mapped(function, BLOCKS * BLOCK)?;
            space.advise(bytes(0..BLOCKS * BLOCK), Advice::Prefer(Some(Side::Host)))?;
            for block in 0..BLOCKS {
                mapping.set_word(block * BLOCK * PAGE, 1);
            }
            // Nobody has had that page, and the device reaches it where it is.
            let last = (BLOCKS - 1) * BLOCK + 1;
            let begin = Barrier::new(2);
            thread::scope(|scope| -> Result<()> {
                let stamp = || {
                    begin.wait();
                    device_stamps(&space, last, 1, generation)
                };
                let other = scope.spawn(stamp);
                stamp()?;
                other.join().map_err(|_| anyhow!("a panic"))?
            })?;
            are("stamped", &space, last..last + 1, REMOTE)?;
            let got = mapping.copy(last * PAGE..(last + 1) * PAGE);
            model::equal("by jobs", 0, &got, &stamped_bytes(last, 1, generation))?;
        }
        Ok(())
    })
}

pub(crate) fn first_contents_go_where_they_are_wanted() -> Result<()> {
    on_pf_and_vf(|function| {
        let (space, mapping) = mapped(function, 2 * BLOCK)?;
        space.advise(bytes(0..100), Advice::Prefer(Some(Side::Host)))?;
        // Reaching them there says nothing of where they begin.
        space.advise(bytes(100..200), Advice::AccessedByDevice(true))?;
        space.advise(bytes(BLOCK..2 * BLOCK), Advice::Prefer(Some(Side::Device)))?;
        device_stamps(&space, 0, 200, 1)?;
        are("by a job", &space, 0..100, REMOTE)?;
        are("by a job", &space, 100..200, DEVICE)?;
        device_stamps(&space, BLOCK + 7, 1, 1)?;
        let block = space.residency(bytes(BLOCK..2 * BLOCK))?;
        same(
            "of a block that is wanted there",
            block.device,
            BLOCK as u64,
        )?;
        space.advise(bytes(0..200), Advice::DoNotNeed)?;
        same("forgotten", space.residency(bytes(0..200))?.none, 200)?;
        space.write_all_at(&vec![7; 20 * PAGE], (90 * PAGE) as u64)?;
        are("by write()", &space, 90..100, HOST)?;
        are("by write()", &space, 100..110, DEVICE)?;
        model::equal(
            "what was written",
            0,
            &mapping.copy(90 * PAGE..110 * PAGE),
            &vec![7; 20 * PAGE],
        )
    })
}

pub(crate) fn nothing_comes_along_where_it_was_said() -> Result<()> {
    on_pf_and_vf(|function| {
        let (space, mapping) = mapped(function, BLOCK)?;
        let touch = |pages: Range<usize>| -> Result<Residency> {
            device_stamps(&space, 0, BLOCK, 1)?;
            for page in pages {
                mapping.word(page * PAGE);
            }
            Ok(space.residency(bytes(0..BLOCK))?)
        };
        space.advise(bytes(0..BLOCK), Advice::Prefetch(false))?;
        let found = touch(100..108)?;
        same(
            "of the host",
            (found.host, found.device),
            (8, BLOCK as u64 - 8),
        )?;
        // Half of it.
        space.advise(bytes(0..BLOCK / 2), Advice::Prefetch(true))?;
        let found = touch(0..16)?;
        ensure!(found.host + found.moving > 16, "nothing came: {found:?}");
        space.advise(bytes(0..BLOCK), Advice::WillNeed(Side::Device))?;
        touch(BLOCK / 2 - 16..BLOCK / 2)?;
        are("the other half", &space, BLOCK / 2..BLOCK, DEVICE)
    })
}

pub(crate) fn pages_that_will_be_needed_are_brought() -> Result<()> {
    on_pf_and_vf(|function| {
        let pages = 3 * BLOCK;
        let (space, mapping) = mapped(function, pages)?;
        mapping.fill(0, &stamped_bytes(0, pages, 5));
        // They go whatever else was said.
        space.advise(bytes(0..700), Advice::Prefer(Some(Side::Host)))?;
        same("words", device_finds(&space, 0, 700, 5)?, 0)?;
        let part = 10..pages - 10;
        for _ in 0..3 {
            space.advise(bytes(part.clone()), Advice::WillNeed(Side::Device))?;
            are("to the device", &space, part.clone(), DEVICE)?;
            same("words", device_finds(&space, 0, pages, 5)?, 0)?;
            space.advise(bytes(part.clone()), Advice::WillNeed(Side::Host))?;
            are("to the host", &space, part.clone(), HOST)?;
            let got = mapping.copy(0..pages * PAGE);
            model::equal("there", 0, &got, &stamped_bytes(0, pages, 5))?;
        }
        // What has no contents gets none.
        space.discard(bytes(0..pages))?;
        space.advise(bytes(0..pages), Advice::WillNeed(Side::Device))?;
        same(
            "nothing",
            space.residency(bytes(0..pages))?.none,
            pages as u64,
        )
    })
}

pub(crate) fn no_more_is_brought_than_there_may_be() -> Result<()> {
    on_pf_and_vf(|function| {
        let pages = 6 * BLOCK;
        let (space, mapping) = mapped(function, pages)?;
        mapping.fill(0, &stamped_bytes(0, pages, 6));
        let limits = space.limits(Scope::Space)?;
        space.set_limits(Scope::Space, limits.host_bytes, 2 * MIB)?;
        space.advise(bytes(0..pages), Advice::WillNeed(Side::Device))?;
        let found = space.residency(bytes(0..pages))?;
        same("on the device", found.device, BLOCK as u64)?;
        are("the first block", &space, 0..BLOCK, DEVICE)?;
        let got = mapping.copy(0..pages * PAGE);
        model::equal("all", 0, &got, &stamped_bytes(0, pages, 6))
    })
}

pub(crate) fn advice_that_cannot_be_is_refused() -> Result<()> {
    on_pf_and_vf(|function| {
        let pages = 9000;
        let (space, mapping) = mapped(function, pages)?;
        let all = bytes(0..pages);
        for (what, offset, length, advice, errno) in [
            ("unknown", 0, 4096, 11, Errno::INVAL),
            ("unknown", 0, 4096, u32::MAX, Errno::INVAL),
            ("an odd offset", 1, 4096, 0, Errno::INVAL),
            ("an odd length", 0, 4095, 0, Errno::INVAL),
            ("beyond the end", 0, all.end + 4096, 0, Errno::RANGE),
            ("beyond the end", all.end, 4096, 9, Errno::RANGE),
            ("an overflow", 4096, u64::MAX - 4095, 10, Errno::RANGE),
        ] {
            fails(what, raw::advise(&space, 0, advice, offset, length), errno)?;
        }
        fails("a flag", raw::advise(&space, 1, 0, 0, 4096), Errno::INVAL)?;
        for advice in 0..=10 {
            raw::advise(&space, 0, advice, all.end, 0)?;
        }
        // Every other page: as many as there may be.
        for part in 0..4096 {
            space.advise(bytes(2 * part..2 * part + 1), Advice::Prefetch(false))?;
        }
        let one = bytes(8500..8501);
        fails(
            "one part more",
            space.advise(one.clone(), Advice::Prefetch(false)),
            Errno::NOSPC,
        )?;
        // One that joins others does not need more, and the end of the space ends what was said beyond it.
        space.advise(bytes(1..2), Advice::Prefetch(false))?;
        space.advise(one, Advice::Prefetch(false))?;
        space.set_size(bytes(0..100).end)?;
        space.set_size(all.end)?;
        for part in 0..4000 {
            space.advise(
                bytes(200 + 2 * part..201 + 2 * part),
                Advice::AccessedByDevice(true),
            )?;
        }
        space.advise(all, Advice::Normal)?;
        mapping.set_word(0, 1);
        let file = open_with(function, true, false, OFlags::empty())?;
        let reader = Space::from_file(file, "the node")?;
        fails(
            "DO_NOT_NEED of a file that is open for reading",
            raw::advise(&reader, 0, 10, 0, 0),
            Errno::BADF,
        )?;
        Ok(raw::advise(&reader, 0, 0, 0, 0)?)
    })
}
