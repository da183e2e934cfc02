// SPDX-License-Identifier: GPL-2.0

//! Who decides what comes along: setting it, and what came of it.

use anyhow::{ensure, Context, Result};
use libvfetch::{Function, PolicyKind, Space};

use super::{device_finds, device_stamps, mapped, on_pf_and_vf, stamped_bytes};
use crate::support::{
    errno::{fails, same, Errno},
    machine::PAGE,
    model, raw,
};

/// Runs `test`, and leaves `function` with the policy that it has.
fn with_policy_restored(
    function: &Function,
    test: impl FnOnce(&Space) -> Result<()>,
) -> Result<()> {
    let space = Space::open(function)?;
    let before = space.policy()?;
    let result = test(&space);
    space.set_policy(before)?;
    result
}

pub(crate) fn policies_that_cannot_be_are_refused() -> Result<()> {
    on_pf_and_vf(|function| {
        with_policy_restored(function, |space| {
            let good = raw::policy(space)?;
            let bad = [
                raw::Policy { enabled: 2, ..good },
                raw::Policy {
                    policy: raw::POLICIES,
                    ..good
                },
                raw::Policy {
                    threshold: 0,
                    ..good
                },
                raw::Policy {
                    threshold: 101,
                    ..good
                },
                raw::Policy {
                    min_faults: 0,
                    ..good
                },
                raw::Policy {
                    min_faults: 21,
                    ..good
                },
                raw::Policy { compat: 2, ..good },
                raw::Policy { ats: 2, ..good },
            ];
            for policy in bad {
                let set = raw::set_policy(space, policy);
                fails(&format!("{policy:?}"), set, Errno::INVAL)?;
                same("the policy", raw::policy(space)?, good)?;
            }
            // The ends of the ranges are inside.
            for policy in [
                raw::Policy {
                    threshold: 1,
                    min_faults: 20,
                    ..good
                },
                raw::Policy {
                    threshold: 100,
                    min_faults: 1,
                    ..good
                },
            ] {
                raw::set_policy(space, policy)?;
                same("the policy", raw::policy(space)?, policy)?;
            }
            Ok(())
        })
    })
}

pub(crate) fn every_policy_moves_pages_right_and_is_counted() -> Result<()> {
    on_pf_and_vf(|function| {
        with_policy_restored(function, |space| {
            for kind in PolicyKind::ALL {
                let mut policy = space.policy()?;
                policy.enabled = true;
                policy.policy = kind;
                space.set_policy(policy)?;
                same("the policy", space.policy()?, policy)?;
                let before = space.policy_stats(Some(kind))?;
                let all = space.policy_stats(None)?;
                let pages = 200;
                let (used, mapping) = mapped(function, pages)?;
                for generation in 1..=2 {
                    device_stamps(&used, 0, pages, generation)?;
                    let wanted = stamped_bytes(0, pages, generation);
                    model::equal("by the mapping", 0, &mapping.copy(0..pages * PAGE), &wanted)
                        .with_context(|| format!("{kind:?}"))?;
                    same("words", device_finds(&used, 0, pages, generation)?, 0)?;
                }
                let after = space.policy_stats(Some(kind))?;
                ensure!(
                    after.decisions > before.decisions,
                    "{kind:?} was not asked: {after:?}"
                );
                let along = after.prefetched_pages - before.prefetched_pages;
                match kind {
                    PolicyKind::None => same("pages that came along", along, 0)?,
                    PolicyKind::AlwaysMax | PolicyKind::Fixed | PolicyKind::Auto => {
                        ensure!(along > 0, "{kind:?} brought nothing along: {after:?}");
                    }
                    _ => {}
                }
                let sum = space.policy_stats(None)?;
                ensure!(
                    sum.decisions - all.decisions == after.decisions - before.decisions,
                    "another policy than {kind:?} was asked"
                );
            }
            // Whoever it is, nothing comes along where nothing shall.
            let mut policy = space.policy()?;
            policy.policy = PolicyKind::AlwaysMax;
            policy.enabled = false;
            space.set_policy(policy)?;
            let before = space.policy_stats(None)?.prefetched_pages;
            let (used, mapping) = mapped(function, 64)?;
            device_stamps(&used, 0, 64, 3)?;
            let got = mapping.copy(0..64 * PAGE);
            model::equal("without", 0, &got, &stamped_bytes(0, 64, 3))?;
            let along = space.policy_stats(None)?.prefetched_pages - before;
            same("pages that came along without prefetching", along, 0)
        })
    })
}
