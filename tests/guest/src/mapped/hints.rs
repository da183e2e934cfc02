// SPDX-License-Identifier: GPL-2.0

//! What the engine decides, as it comes out at the far end.

use anyhow::Result;
use libvfetch::{
    Advice, Function, Policy, PolicyKind, PolicyStats, Reduce, Scope, Side, Space, Task,
    LIMIT_MIN_BYTES,
};

use super::{mapped, on_pf_and_vf, stamped_bytes, under, Mapping, WORDS};
use crate::support::{errno::same, machine::PAGE, model};

const BLOCK: usize = 512;

/// Faults that it takes to read a block of the device's page by page, by the threshold: what is known of the tree.
const SEQUENTIAL: [(u32, u64); 7] = [
    (1, 1),
    (25, 3),
    (30, 4),
    (51, 6),
    (75, 20),
    (99, 32),
    (100, 512),
];

pub(crate) fn a_block_is_read_by_as_many_faults_as_the_tree_says() -> Result<()> {
    on_pf_and_vf(|function| {
        for (threshold, wanted) in SEQUENTIAL {
            let (space, mapping) = mapped(function, BLOCK)?;
            let before = space.policy()?;
            let fixed = Policy {
                enabled: true,
                policy: PolicyKind::Fixed,
                threshold,
                min_faults: 1,
                compat: false,
                ats: false,
                ..before
            };
            space.set_policy(fixed)?;
            space.write_all_at(&stamped_bytes(0, BLOCK, 1), 0)?;
            same(
                "pages",
                space.residency(0..(BLOCK * PAGE) as u64)?.device,
                512,
            )?;
            let start = space.policy_stats(None)?;
            for page in 0..BLOCK {
                mapping.word(page * PAGE);
            }
            let stats = space.policy_stats(None)?.since(&start);
            space.set_policy(before)?;
            same(&format!("faults at {threshold} %"), stats.decisions, wanted)?;
            same(
                &format!("pages that came along at {threshold} %"),
                stats.prefetched_pages,
                BLOCK as u64 - wanted,
            )?;
            model::equal(
                "the block",
                0,
                &mapping.copy(0..BLOCK * WORDS * 8),
                &stamped_bytes(0, BLOCK, 1),
            )?;
        }
        Ok(())
    })
}

/// Runs `test` on a space of a block, all of it the host's, while `function` prefetches as `kind` says.
fn on_a_block(
    function: &Function,
    kind: PolicyKind,
    test: impl FnOnce(&Space, &Mapping) -> Result<()>,
) -> Result<()> {
    under(function, kind, || {
        let (space, mapping) = mapped(function, BLOCK)?;
        for page in 0..BLOCK {
            mapping.set_word(page * PAGE, 1);
        }
        test(&space, &mapping)
    })
}

/// Has the device read pages, and nothing else.
fn device_reads(space: &Space, first: usize, pages: usize) -> Result<()> {
    let sum = Reduce {
        input: (first * PAGE) as u64,
        n: (pages * WORDS) as u64,
    };
    space.submit(&Task::from(sum).strands(1))?.wait()?;
    Ok(())
}

/// What became of the pages that came along: those that were used (or asked for on their way, as may be on a slow machine), sent back
/// unused, and given up.
fn ends(stats: &PolicyStats) -> [u64; 3] {
    [
        stats.used_pages + stats.late_pages,
        stats.unused_pages,
        stats.dropped_pages,
    ]
}

/// All pages of the first block.
const FIRST: std::ops::Range<u64> = 0..(BLOCK * PAGE) as u64;

pub(crate) fn what_comes_along_bit_by_bit_is_counted_once() -> Result<()> {
    on_pf_and_vf(|function| {
        on_a_block(function, PolicyKind::Fixed, |space, mapping| {
            let start = space.policy_stats(None)?;
            for page in 0..BLOCK {
                device_reads(space, page, 1)?;
            }
            space.advise(FIRST, Advice::WillNeed(Side::Host))?;
            let there = space.policy_stats(None)?;
            let stats = there.since(&start);
            same("decisions for the device", stats.decisions, 6)?;
            same("pages that came along", stats.prefetched_pages, 506)?;
            same("their ends", ends(&stats), [506, 0, 0])?;
            // And the other way round, what processes touch.
            space.advise(FIRST, Advice::WillNeed(Side::Device))?;
            let start = space.policy_stats(None)?;
            for page in 0..BLOCK {
                mapping.word(page * PAGE);
            }
            space.advise(FIRST, Advice::WillNeed(Side::Device))?;
            let stats = space.policy_stats(None)?.since(&start);
            same("decisions for the host", stats.decisions, 6)?;
            same("pages that came along", stats.prefetched_pages, 506)?;
            same("their ends", ends(&stats), [506, 0, 0])
        })
    })
}

pub(crate) fn what_goes_unused_is_told_from_what_was_used() -> Result<()> {
    /// Now and then the last piece of a block stays where it is, and is told as dropped. Why is not known yet; until it is, another try decides.
    const TRIES: usize = 5;
    on_pf_and_vf(|function| {
        let mut told = unused_is_told(function);
        for _ in 1..TRIES {
            if told.is_err() {
                told = unused_is_told(function);
            }
        }
        told
    })
}

fn unused_is_told(function: &Function) -> Result<()> {
    on_a_block(function, PolicyKind::AlwaysMax, |space, mapping| {
        // One fault brings all, ten pages more are used, and it goes because it is wanted elsewhere.
        let start = space.policy_stats(None)?;
        let moved = space.stats()?;
        for page in (0..=100).step_by(10) {
            device_reads(space, page, 1)?;
        }
        mapping.word(0);
        let stats = space.policy_stats(None)?.since(&start);
        same("decisions", stats.decisions, 2)?;
        same("pages that came along", stats.prefetched_pages, 2 * 511)?;
        same("their ends", ends(&stats), [10, 501, 0])?;
        // The same on the host's side, and it goes to make room there: those of the device's are all the host's by now.
        for page in (0..=50).step_by(10) {
            mapping.word(page * PAGE);
        }
        space.advise(FIRST, Advice::WillNeed(Side::Device))?;
        let stats = space.policy_stats(None)?.since(&start);
        same("their ends", ends(&stats), [15, 501 + 506, 0])?;
        let now = space.stats()?;
        let bytes = FIRST.end;
        same(
            "moved to the device",
            now.to_device_bytes - moved.to_device_bytes,
            2 * bytes,
        )?;
        same(
            "moved to the host",
            now.to_host_bytes - moved.to_host_bytes,
            bytes,
        )?;
        same("evicted", now.evicted_pages - moved.evicted_pages, 0)
    })?;
    on_a_block(function, PolicyKind::AlwaysMax, |space, _| {
        let start = space.policy_stats(None)?;
        let moved = space.stats()?;
        for page in (0..=100).step_by(10) {
            device_reads(space, page, 1)?;
        }
        // As many pages as there may be of it now.
        let host = space.limits(Scope::Space)?.host_bytes;
        space.set_limits(Scope::Space, host, LIMIT_MIN_BYTES)?;
        let stats = space.policy_stats(None)?.since(&start);
        same("pages that came along", stats.prefetched_pages, 511)?;
        same("their ends", ends(&stats), [10, 501, 0])?;
        let now = space.stats()?;
        same("evictions", now.evictions - moved.evictions, 1)?;
        same(
            "evicted",
            now.evicted_pages - moved.evicted_pages,
            BLOCK as u64,
        )?;
        same(
            "moved to the host",
            now.to_host_bytes - moved.to_host_bytes,
            FIRST.end,
        )
    })
}
