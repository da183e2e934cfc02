// SPDX-License-Identifier: GPL-2.0

//! Functions: VFs up and down, resets, faults of the device, removal, reloading the module.
// Sizes in tests are far from any limit.
#![allow(clippy::cast_possible_truncation)]

mod binding;
mod fairness;
mod faults;
mod hotplug;
pub(crate) mod hw;
pub(crate) mod inject;
mod iommu;
mod load;
pub(crate) mod machine;
mod module;
mod resets;
mod stops;
mod system;
mod unplugged;
mod vfs;

use crate::tap::Group;

/// The groups of this part.
pub(crate) fn groups() -> Vec<Group> {
    let group = |name, about, tests| Group { name, about, tests };
    vec![
        group(
            "faults",
            "faults of the device (x-test=on, VFs, timeout_ms=200 queue_entries=16)",
            faults::TESTS,
        ),
        group(
            "resets",
            "function resets and lost pages (the same)",
            resets::TESTS,
        ),
        group(
            "stops",
            "queues that stop (the same, and iomem=relaxed)",
            stops::TESTS,
        ),
        group("vfs", "VFs up and down", vfs::TESTS),
        group(
            "binding",
            "unbind and bind (x-test=on, timeout_ms=200)",
            binding::TESTS,
        ),
        group("module", "insmod and rmmod", module::TESTS),
        group(
            "hotplug",
            "the device unplugged and plugged in (QMP, x-test=on, timeout_ms=200)",
            hotplug::TESTS,
        ),
        group(
            "unplugged",
            "the same under mappings and jobs",
            unplugged::TESTS,
        ),
        group(
            "fairness",
            "a VF beside one that hammers (icount, 2 VFs, link_bytes_per_us=1000)",
            fairness::TESTS,
        ),
        group(
            "iommu",
            "behind an IOMMU (x-test=on,queues=3, iomem=relaxed, VFs)",
            iommu::TESTS,
        ),
    ]
}
