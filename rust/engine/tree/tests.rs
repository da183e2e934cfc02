// SPDX-License-Identifier: GPL-2.0 OR MIT

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::super::testing::{bounds, case, cases, page, Case, WAYS};
use super::*;
use proptest::prelude::*;
use std::vec::Vec;

fn percent(percent: u8) -> Threshold {
    Threshold::new(percent).unwrap()
}

fn pages(pages: &[usize]) -> PageMask {
    pages
        .iter()
        .map(|page| PageIndex::new(*page).unwrap())
        .collect()
}

/// How many faults fill a block that is read page after page from its start.
fn sequential_faults(
    walk: Walk,
    threshold: Threshold,
    decide: impl Fn(&Input<'_>) -> PageMask,
) -> usize {
    let mut resident = PageMask::EMPTY;
    let mut faults = 0;
    while let Some(page) = PageMask::ALL.minus(&resident).first() {
        let faulted = PageMask::from(page.region());
        let hint = decide(&Input {
            mode: Mode::Strict,
            walk,
            threshold,
            bounds: Bounds::BLOCK,
            resident: &resident,
            faulted: &faulted,
            thrashing: &PageMask::EMPTY,
        });
        resident = resident.or(&hint).or(&faulted);
        faults += 1;
    }
    faults
}

#[test]
fn a_block_is_filled_by_the_known_numbers_of_faults() {
    let known = [
        (1, 1, 2),
        (25, 3, 5),
        (30, 4, 8),
        (51, 6, 17),
        (75, 20, 143),
        (99, 32, 503),
        (100, 512, 512),
    ];
    for (threshold, managed, ats) in known {
        for decide in [super::decide, reference::decide] {
            let faults = |walk| sequential_faults(walk, percent(threshold), decide);
            assert_eq!(
                (faults(Walk::Managed), faults(Walk::Ats)),
                (managed, ats),
                "threshold {threshold}"
            );
        }
    }
}

fn case_of(
    va: usize,
    pages_of_block: usize,
    max: Region,
    threshold: u8,
    faulted: &[usize],
) -> Case {
    Case {
        threshold: percent(threshold),
        bounds: Bounds::new(va, pages_of_block, max).unwrap(),
        resident: PageMask::EMPTY,
        faulted: pages(faulted),
        thrashing: PageMask::EMPTY,
    }
}

#[test]
fn compatible_translation_loses_the_head_of_unaligned_blocks() {
    // 5 pages after 64 KiB: growth pads with 5, so 11 of 16 leaves of the first node are set.
    let case = case_of(5, 507, Region::new(0, 507).unwrap(), 51, &[8]);
    let head = Region::clipped(0, 11);
    let strict = decide(&case.input(Mode::Strict, Walk::Managed));
    assert_eq!(strict, PageMask::from(head).minus(&case.faulted));
    let compat = decide(&case.input(Mode::Compat, Walk::Managed));
    assert_eq!(compat, strict.minus(&Region::clipped(0, 5).into()));
    // Without growth there is no padding.
    assert_eq!(
        decide(&case.input(Mode::Compat, Walk::Ats)),
        decide(&case.input(Mode::Strict, Walk::Ats))
    );
}

#[test]
fn compatible_translation_is_the_references_wherever_the_max_region_begins() {
    // The first node over the threshold may end before the padding does.
    for va in 0..16 {
        for head in (0..16).step_by(if cfg!(miri) { 15 } else { 1 }) {
            for threshold in [10, 25, 40] {
                for fault in (head..head + 16).step_by(3) {
                    let region = Region::new(head, 100).unwrap();
                    let case = case_of(va, 100, region, threshold, &[fault]);
                    let input = case.input(Mode::Compat, Walk::Managed);
                    let expected = reference::decide(&input);
                    assert_eq!(decide(&input), expected, "{va} {head} {threshold} {fault}");
                }
            }
        }
    }
}

#[test]
fn a_region_without_whole_64_kib_is_one_unit() {
    // 28 pages on both sides of a boundary.
    let case = case_of(3, 40, Region::new(0, 28).unwrap(), 51, &[0]);
    assert_eq!(case.bounds.padding(), None);
    for mode in [Mode::Compat, Mode::Strict] {
        let hint = decide(&case.input(mode, Walk::Managed));
        assert_eq!(hint, PageMask::from(Region::clipped(1, 28)));
    }
}

#[test]
fn a_thrashing_page_keeps_its_unit_from_growing() {
    let mut case = case_of(0, 512, Region::BLOCK, 51, &[0, 20]);
    case.thrashing = pages(&[30]);
    let hint = decide(&case.input(Mode::Strict, Walk::Managed));
    // [0, 16) grew; of [0, 32) 17 pages are set, which is over half and one more.
    assert_eq!(
        hint,
        PageMask::from(Region::clipped(0, 32)).minus(&pages(&[0, 20, 30]))
    );
    case.threshold = percent(60);
    let hint = decide(&case.input(Mode::Strict, Walk::Managed));
    assert_eq!(hint, PageMask::from(Region::clipped(1, 16)));
}

#[test]
fn a_first_unit_with_padding_is_not_full() {
    // 6 pages after 64 KiB, and so is the max region in the block: leaves are pages, and 6 of 16 are padding.
    let case = case_of(0, 32, Region::new(6, 32).unwrap(), 83, &[10]);
    for mode in [Mode::Compat, Mode::Strict] {
        let hint = decide(&case.input(mode, Walk::Managed));
        // [8, 16) is full, [0, 16) is not.
        assert_eq!(
            hint,
            PageMask::from(Region::clipped(8, 16)).minus(&case.faulted)
        );
    }
}

#[test]
fn a_cut_node_is_as_large_as_what_is_left_of_it() {
    // 3 of the last 5 pages of 21: the node [16, 32) is cut to 5.
    let case = case_of(0, 21, Region::new(0, 21).unwrap(), 59, &[16, 17, 18]);
    let hint = decide(&case.input(Mode::Strict, Walk::Ats));
    assert_eq!(hint, pages(&[19, 20]));
}

#[test]
fn bounds_are_inside_a_2_mib_range() {
    assert!(Bounds::new(0, 512, Region::BLOCK).is_some());
    assert!(Bounds::new(1, 512, Region::EMPTY).is_none());
    assert!(Bounds::new(16, 1, Region::EMPTY).is_none());
    assert!(Bounds::new(15, 497, Region::new(0, 497).unwrap()).is_some());
    assert!(Bounds::new(0, 10, Region::new(0, 11).unwrap()).is_none());
    assert_eq!(Threshold::new(101), None);
}

/// Every place and size of a max region in a block: where padding is, against the description of step 5.
#[test]
#[cfg_attr(miri, ignore = "many")]
fn padding_is_as_described_for_every_region() {
    for va in 0..GROUP_PAGES {
        let pages = PAGES - va;
        for first in 0..=pages {
            for outer in first..=pages {
                let bounds = Bounds::new(va, pages, Region::clipped(first, outer)).unwrap();
                let (first, outer) = (bounds.max_region().first(), bounds.max_region().outer());
                // Pages to the first boundary, and from the last one.
                let before = (GROUP_PAGES - (va + first) % GROUP_PAGES) % GROUP_PAGES;
                let after = (va + outer) % GROUP_PAGES;
                let has_big_group = outer - first >= before + GROUP_PAGES + after;
                let offset = if before > 0 { GROUP_PAGES - before } else { 0 };
                let padding = bounds.padding();
                assert_eq!(padding, has_big_group.then_some(offset), "{bounds:?}");
                // The tree fits, and groups of leaves are groups of virtual addresses.
                if let Some(padding) = padding {
                    assert!(bounds.max_region().len() + padding <= PAGES);
                    assert_eq!((va + first) % GROUP_PAGES, padding);
                }
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "many")]
fn runs_of_16_are_made_whole() {
    for low in 0..=0xffffu64 {
        let whole = u64::from(low != 0) * 0xffff;
        assert_eq!(select::whole_groups(low), whole);
        assert_eq!(
            select::whole_groups((low << 48) | 0x8000),
            (whole << 48) | 0xffff
        );
    }
}

/// Every small tree: all sizes to 12 pages, every place, all residencies and faults of one page or two, the
/// thresholds between which anything changes.
#[test]
#[cfg_attr(miri, ignore = "many")]
fn small_blocks_are_decided_as_described() {
    let thresholds = [0, 1, 24, 25, 33, 49, 50, 51, 66, 74, 75, 80, 99, 100];
    for va in [0, 1, 7, 13, 15] {
        for len in 1..=9usize {
            for first in [0, 1, 14] {
                let bounds = Bounds::new(va, first + len + 2, Region::clipped(first, first + len));
                for resident in 0..1u64 << len {
                    let fault = resident.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
                    for faulted in [1 << (fault % len as u64), fault & ((1 << len) - 1)] {
                        let shifted =
                            |bits: u64| PageMask::from_words([bits << first, 0, 0, 0, 0, 0, 0, 0]);
                        let case = Case {
                            threshold: percent(thresholds[fault as usize % thresholds.len()]),
                            bounds: bounds.unwrap(),
                            resident: shifted(resident),
                            faulted: shifted(faulted),
                            thrashing: shifted((fault >> 8) & (fault >> 16) & ((1 << len) - 1)),
                        };
                        for (mode, walk) in WAYS {
                            let input = case.input(mode, walk);
                            assert_eq!(decide(&input), reference::decide(&input), "{input:?}");
                        }
                    }
                }
            }
        }
    }
}

/// The tree that the reference would make, page by page.
fn node_by_hand(tree: &Tree, page: PageIndex, height: u32) -> (Vec<PageIndex>, usize, usize) {
    let leaf = page.get() + tree.offset - tree.max_region.first();
    let node: Vec<usize> = (0..tree.leaves)
        .filter(|other| other >> height == leaf >> height)
        .collect();
    let count = node.iter().filter(|leaf| tree.set.contains(**leaf)).count();
    let pages = node
        .iter()
        .filter_map(|leaf| (leaf + tree.max_region.first()).checked_sub(tree.offset))
        .filter_map(PageIndex::new)
        .filter(|page| tree.max_region.contains(*page))
        .collect();
    (pages, node.len(), count)
}

proptest! {
    #![proptest_config(cases(4000))]

    #[test]
    fn the_fast_way_and_the_reference_agree(case in case()) {
        for (mode, walk) in WAYS {
            let input = case.input(mode, walk);
            prop_assert_eq!(decide(&input), reference::decide(&input), "{:?} {:?}", mode, walk);
        }
    }
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn a_hint_is_inside_the_max_region_and_holds_no_fault_and_no_thrashing_page(case in case()) {
        for (mode, walk) in WAYS {
            let hint = decide(&case.input(mode, walk));
            prop_assert!(hint.minus(&case.bounds.max_region().into()).is_empty());
            prop_assert!(!hint.intersects(&case.faulted));
            prop_assert!(!hint.intersects(&case.thrashing));
        }
    }

    #[test]
    fn a_lower_threshold_brings_no_less(case in case(), other in 0u8..=100) {
        for walk in [Walk::Managed, Walk::Ats] {
            let mut lower = case.clone();
            lower.threshold = percent(other).min(case.threshold);
            let hint = decide(&case.input(Mode::Strict, walk));
            prop_assert!(hint.minus(&decide(&lower.input(Mode::Strict, walk))).is_empty());
        }
    }

    #[test]
    fn faults_outside_the_max_region_change_nothing(case in case(), outside in super::super::testing::mask()) {
        for (mode, walk) in WAYS {
            let mut more = case.clone();
            more.faulted = case.faulted.or(&outside.minus(&case.bounds.max_region().into()));
            prop_assert_eq!(decide(&more.input(mode, walk)), decide(&case.input(mode, walk)));
        }
    }

    #[test]
    fn a_page_without_calm_fault_asks_for_nothing(case in case()) {
        for (mode, walk) in WAYS {
            let mut calm = case.clone();
            calm.thrashing = calm.thrashing.or(&calm.faulted);
            prop_assert!(decide(&calm.input(mode, walk)).is_empty());
        }
    }

    #[test]
    fn strict_and_compatible_agree_without_padding(case in case()) {
        for walk in [Walk::Managed, Walk::Ats] {
            if walk == Walk::Ats || case.bounds.padding().is_none_or(|padding| padding == 0) {
                prop_assert_eq!(
                    decide(&case.input(Mode::Strict, walk)),
                    decide(&case.input(Mode::Compat, walk))
                );
            }
        }
    }

    #[test]
    fn nodes_are_what_the_tree_is_made_of(case in case(), page in page(), height in 0u32..12) {
        for (mode, walk) in WAYS {
            let tree = Tree::new(&case.input(mode, walk));
            let Some(node) = tree.node(page, height) else {
                prop_assert!(!case.bounds.max_region().contains(page));
                continue;
            };
            let (pages, size, count) = node_by_hand(&tree, page, height.min(ROOT_HEIGHT));
            prop_assert_eq!(node.region.pages().collect::<Vec<_>>(), pages);
            prop_assert_eq!((node.node_pages, node.count), (size, count));
            prop_assert!(node.region.contains(page));
        }
    }

    #[test]
    fn the_largest_nodes_over_the_threshold_are_the_hint(case in case()) {
        for walk in [Walk::Managed, Walk::Ats] {
            let input = case.input(Mode::Strict, walk);
            let tree = Tree::new(&input);
            let mut hint = PageMask::EMPTY;
            for page in case.faulted.minus(&case.thrashing).iter() {
                if let Some(node) = tree.largest_over(page, case.threshold) {
                    hint.insert(node.region);
                }
            }
            prop_assert_eq!(hint.minus(&case.faulted).minus(&case.thrashing), decide(&input));
        }
    }

    #[test]
    fn nodes_of_a_height_and_those_without_pages_are_found_one_by_one(
        case in case(), height in 0u32..12, left_out in super::super::testing::mask(),
    ) {
        for walk in [Walk::Managed, Walk::Ats] {
            let tree = Tree::new(&case.input(Mode::Strict, walk));
            let (mut over, mut without) = (PageMask::EMPTY, PageMask::EMPTY);
            for page in case.faulted.minus(&case.thrashing).iter() {
                if let Some(node) = tree.node(page, height).filter(|node| node.over(case.threshold)) {
                    over.insert(node.region);
                }
                if let Some(node) = tree.largest_over(page, case.threshold) {
                    if left_out.count_in(node.region) == 0 {
                        without.insert(node.region);
                    }
                }
            }
            prop_assert_eq!(tree.nodes_over(height, case.threshold), over);
            prop_assert_eq!(tree.largest_without(case.threshold, &left_out), without);
        }
    }

    #[test]
    fn leaves_always_fit(bounds in bounds()) {
        prop_assert!(bounds.max_region().len() + bounds.padding().unwrap_or(0) <= PAGES);
    }
}
