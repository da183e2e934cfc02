// SPDX-License-Identifier: GPL-2.0

//! What the engine decides, as it comes out at the far end.

use anyhow::Result;
use libvfetch::{Policy, PolicyKind};

use super::{mapped, on_pf_and_vf, stamped_bytes, WORDS};
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
