// SPDX-License-Identifier: GPL-2.0

//! What was never written reads as zeros, whoever had the memory before.

use anyhow::{ensure, Result};
use libvfetch::Space;
use rustix::process::Signal;

use crate::support::{
    limit,
    machine::{self, leaves_nothing, reserved, space, vf, PAGE},
    model::{self, pattern},
    process,
};

/// Fills `space` up to `bytes`.
fn fill(space: &Space, owner: u16, bytes: u64) -> Result<()> {
    const PIECE: usize = 1 << 20;
    let mut at = 0;
    while at < bytes {
        let piece = PIECE.min(usize::try_from(bytes - at)?);
        space.write_all_at(&pattern(owner, 1, at, piece), at)?;
        at += piece as u64;
    }
    Ok(())
}

/// Fails unless the pages hold nothing but zeros: as they are, and when a byte in each page has given it a frame
/// of device memory, which shows what that held.
fn is_clean(what: &str, space: &Space, from: u64, to: u64) -> Result<()> {
    const PIECE: usize = 1 << 20;
    let mut buffer = vec![0xee; PIECE];
    for round in 0..2 {
        let mut at = from;
        while at < to {
            let piece = PIECE.min(usize::try_from(to - at)?);
            if round == 1 {
                for page in (0..piece).step_by(PAGE) {
                    space.write_all_at(&[0], at + page as u64 + 77)?;
                }
            }
            let got = buffer.get_mut(..piece).unwrap_or_default();
            got.fill(0xee);
            space.read_exact_at(got, at)?;
            model::zeros(what, at, got)?;
            at += piece as u64;
        }
    }
    Ok(())
}

pub(crate) fn a_space_of_all_memory_holds_nothing_of_its_former_owners() -> Result<()> {
    let function = vf(1)?;
    leaves_nothing(&function, || {
        let free = Space::open(&function)?.info()?.free_bytes;
        ensure!(free >= 4 << 20, "{free} bytes are too few for this test");
        let first = reserved(&function, free)?;
        fill(&first, 11, free)?;
        drop(first);
        let second = reserved(&function, free)?;
        is_clean("a space after another", &second, 0, free)
    })
}

pub(crate) fn discarded_pages_hold_nothing_of_what_was_there() -> Result<()> {
    let function = vf(2)?;
    leaves_nothing(&function, || {
        let bytes = 5 << 20;
        let space = space(&function, bytes)?;
        fill(&space, 12, bytes)?;
        // Across blocks.
        let (from, to) = ((1 << 20) + 3 * PAGE as u64, (4 << 20) + PAGE as u64);
        space.discard(from..to)?;
        is_clean("discarded pages", &space, from, to)?;
        for (at, size) in [(0, from), (to, bytes - to)] {
            let mut got = vec![0; usize::try_from(size)?];
            space.read_exact_at(&mut got, at)?;
            model::equal("a neighbour", at, &got, &pattern(12, 1, at, got.len()))?;
        }
        Ok(())
    })
}

pub(crate) fn pages_cut_off_and_grown_again_hold_nothing_of_what_was_there() -> Result<()> {
    let function = vf(3)?;
    leaves_nothing(&function, || {
        let bytes = 5 << 20;
        let space = space(&function, bytes)?;
        for end in [4 << 20, (2 << 20) + 7 * PAGE as u64, PAGE as u64, 0] {
            fill(&space, 13, bytes)?;
            space.set_size(end)?;
            space.set_size(bytes)?;
            is_clean("pages grown again", &space, end, bytes)?;
            let mut got = vec![0; usize::try_from(end)?];
            space.read_exact_at(&mut got, 0)?;
            model::equal("what was kept", 0, &got, &pattern(13, 1, 0, got.len()))?;
        }
        Ok(())
    })
}

pub(crate) fn what_a_killed_process_wrote_is_not_seen_again() -> Result<()> {
    let function = vf(4)?;
    leaves_nothing(&function, || {
        let free = Space::open(&function)?.info()?.free_bytes;
        for _ in 0..3 {
            let mut child = process::fork(|| {
                let Ok(space) = reserved(&function, free) else {
                    return 1;
                };
                // Until it is killed.
                while fill(&space, 14, free).is_ok() {}
                2
            })?;
            limit::until(20, "the child to write", || {
                Ok(machine::given(&function)?.device_pages > 1000)
            })?;
            child.signal(Signal::KILL)?;
            let status = child.wait(20)?;
            ensure!(
                status.terminating_signal() == Some(Signal::KILL.as_raw()),
                "it ended with {status:?}"
            );
        }
        limit::until(5, "its memory", || {
            Ok(Space::open(&function)?.info()?.free_bytes == free)
        })?;
        let space = reserved(&function, free)?;
        is_clean("memory of killed processes", &space, 0, free)
    })
}
