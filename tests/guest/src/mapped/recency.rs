// SPDX-License-Identifier: GPL-2.0

//! Who goes when there is no room: what was used least recently, also where the use made no fault.
//!
//! Each test uses one block again and again while others pass by, each once. The first is always the one whose last
//! *fault* is the oldest; it shall stay all the same.

use anyhow::{ensure, Result};
use libvfetch::{Function, Scope, Space, BLOCK_BYTES};

use super::{device_stamps, mapped, on_pf_and_vf, stamped_bytes, Mapping, WORDS};
use crate::support::{limit, machine::PAGE};

/// Pages of a block.
const PAGES: usize = 512;
const _: () = assert!((PAGES * PAGE) as u64 == BLOCK_BYTES);

/// Blocks that pass by, in rounds of so many.
const OTHERS: usize = 7;
const ROUNDS: usize = 28;

/// Rounds in which the block may be found gone: it is not known to be in use before it is watched.
const MAY_MISS: usize = 6;

/// A space of the block and the others, mapped, with room for three blocks on one side.
fn space_for(function: &Function, host: u64, device: u64) -> Result<(Space, Mapping)> {
    let (space, mapping) = mapped(function, (1 + OTHERS) * PAGES)?;
    space.set_limits(Scope::Space, host * BLOCK_BYTES, device * BLOCK_BYTES)?;
    Ok((space, mapping))
}

/// The first page of the block that passes by in a round.
fn other(round: usize) -> usize {
    (1 + round % OTHERS) * PAGES
}

/// Counts the rounds in which the block is not where it was, and says that they are few.
fn stays(
    space: &Space,
    on_device: bool,
    mut pass: impl FnMut(usize) -> Result<()>,
    mut used: impl FnMut(usize, bool) -> Result<()>,
) -> Result<()> {
    used(0, false)?;
    let mut missing = 0;
    for round in 0..ROUNDS {
        pass(round)?;
        let is = space.residency(0..BLOCK_BYTES)?;
        let there = if on_device { is.device } else { is.host };
        let stayed = there == PAGES as u64;
        missing += usize::from(!stayed);
        used(round + 1, stayed)?;
    }
    let evictions = space.stats()?.evictions;
    ensure!(evictions >= ROUNDS as u64 / 2, "only {evictions} evictions");
    ensure!(
        missing <= MAY_MISS,
        "the block was gone in {missing} of {ROUNDS} rounds"
    );
    Ok(())
}

pub(crate) fn what_jobs_use_stays_on_the_device() -> Result<()> {
    on_pf_and_vf(|function| {
        let (space, _mapping) = space_for(function, 32, 3)?;
        stays(
            &space,
            true,
            |round| device_stamps(&space, other(round), PAGES, 1),
            |round, _| device_stamps(&space, 0, PAGES, round as u64 + 1),
        )
    })
}

pub(crate) fn what_is_read_stays_on_the_device() -> Result<()> {
    on_pf_and_vf(|function| {
        let (space, _mapping) = space_for(function, 32, 3)?;
        let mut page = vec![0; PAGE];
        stays(
            &space,
            true,
            |round| device_stamps(&space, other(round), PAGES, 1),
            |round, stayed| {
                if !stayed {
                    device_stamps(&space, 0, PAGES, 1)?;
                }
                Ok(space.read_exact_at(&mut page, (round % PAGES * PAGE) as u64)?)
            },
        )
    })
}

pub(crate) fn what_processes_use_stays_on_the_host() -> Result<()> {
    on_pf_and_vf(|function| {
        let (space, mapping) = space_for(function, 3, 32)?;
        let contents = stamped_bytes(0, PAGES, 1);
        stays(
            &space,
            false,
            |round| {
                mapping.fill(other(round) * PAGE, &contents);
                limit::until(30, "pages beyond the limit to go", || {
                    let limits = space.limits(Scope::Space)?;
                    Ok(limits.host_used_bytes <= limits.host_bytes)
                })
            },
            |round, stayed| {
                if !stayed {
                    mapping.fill(0, &contents);
                }
                for page in 0..PAGES {
                    mapping.set_word(page * PAGE + 8 * (page % WORDS), round as u64);
                }
                Ok(())
            },
        )
    })
}
