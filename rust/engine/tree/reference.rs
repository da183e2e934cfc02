// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Steps 4 to 8 as they are described, one after the other, from each fault to the root.
//!
//! Tests compare the fast way with this one, and benchmarks show what is gained.

use super::super::mask::PageMask;
use super::super::page::{Region, GROUP_PAGES};
use super::{Input, Mode, Walk, ROOT_HEIGHT};

/// What [`super::decide`] answers.
#[must_use]
pub fn decide(input: &Input<'_>) -> PageMask {
    let max_region = input.bounds.max_region();
    let faulted = input.faulted.within(max_region);

    // Step 4.
    let present = input.resident.or(&faulted).within(max_region);
    let mut leaves = present.moved_down(max_region.first());

    // Step 5.
    let mut offset = 0;
    if input.walk == Walk::Managed {
        let big = big_region(input);
        if !big.is_empty() && big.first() > max_region.first() {
            offset = GROUP_PAGES - (big.first() - max_region.first());
        }
        leaves = leaves.moved_up(offset);
        let mut grow = |unit: Region| {
            if faulted.count_in(unit) > 0 && input.thrashing.count_in(unit) == 0 {
                leaves.insert(moved(unit, offset, max_region.first()));
            }
        };
        if big.is_empty() {
            grow(max_region);
        } else {
            grow(Region::clipped(max_region.first(), big.first()));
            for first in (big.first()..big.outer()).step_by(GROUP_PAGES) {
                grow(Region::clipped(first, first + GROUP_PAGES));
            }
            grow(Region::clipped(big.outer(), max_region.outer()));
        }
    }
    let count = max_region.len() + offset;

    // Steps 6 and 7.
    let mut hint = PageMask::EMPTY;
    for page in faulted.minus(input.thrashing).iter() {
        let mut selected = Region::EMPTY;
        let leaf = page.get() - max_region.first() + offset;
        for height in 0..=ROOT_HEIGHT {
            let first = leaf & !((1 << height) - 1);
            let node = Region::clipped(first, count.min(first + (1 << height)));
            let set = leaves.count_in(node);
            if set * 100 > node.len() * usize::from(input.threshold.percent()) {
                selected = node;
            }
        }
        if !selected.is_empty() {
            hint = hint.or(&translated(input, selected, offset).into());
        }
    }

    // Step 8.
    hint.minus(&faulted).minus(input.thrashing)
}

/// The pages of `region` as leaves: `up` up and `down` down.
fn moved(region: Region, up: usize, down: usize) -> Region {
    Region::clipped(region.first() + up - down, region.outer() + up - down)
}

/// The part of the max region that is whole 64 KiB of virtual addresses.
fn big_region(input: &Input<'_>) -> Region {
    let va = input.bounds.va_first_page();
    let max_region = input.bounds.max_region();
    let is_boundary = |page: &usize| (va + page) % GROUP_PAGES == 0;
    let mut boundaries = (max_region.first()..=max_region.outer()).filter(is_boundary);
    match (boundaries.next(), boundaries.next_back()) {
        (Some(first), Some(last)) => Region::clipped(first, last),
        _ => Region::EMPTY,
    }
}

/// The pages of the block that the leaves of `node` stand for.
fn translated(input: &Input<'_>, node: Region, offset: usize) -> Region {
    let max_region = input.bounds.max_region();
    match input.mode {
        Mode::Compat => {
            let first = node.first() + max_region.first();
            let first = if first < offset {
                offset
            } else {
                (first - offset).max(max_region.first())
            };
            let outer = node.outer() + max_region.first();
            let outer = if outer < offset {
                offset
            } else {
                (outer - offset).min(max_region.outer())
            };
            Region::clipped(first, outer)
        }
        Mode::Strict => {
            let back = |leaf: usize| (leaf + max_region.first()).saturating_sub(offset);
            Region::clipped(back(node.first()), back(node.outer())).intersection(max_region)
        }
    }
}
