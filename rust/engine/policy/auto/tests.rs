// SPDX-License-Identifier: GPL-2.0 OR MIT

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::super::super::params::Params;
use super::super::super::prefetch::{
    brought_ahead, feedback, idle, prefetch, BlockState, FunctionId, FunctionState, Hint,
};
use super::super::super::tree::Bounds;
use super::super::Kind;
use super::*;
use std::collections::BTreeMap;
use std::vec::Vec;

/// One function with unlimited memory, or with room for some blocks; a page is used as soon as it is touched.
struct Machine {
    params: Params,
    function: FunctionState,
    blocks: BTreeMap<u64, (BlockState, PageMask)>,
    /// Blocks by arrival.
    order: Vec<u64>,
    room: usize,
    faults: usize,
    brought: usize,
    backlog_ns: u64,
    share: u8,
}

impl Machine {
    fn new(policy: Kind, room: usize) -> Self {
        Self {
            params: Params {
                policy,
                ..Params::DEFAULT
            },
            function: FunctionState::NEW,
            blocks: BTreeMap::new(),
            order: Vec::new(),
            room,
            faults: 0,
            brought: 0,
            backlog_ns: 0,
            share: 50,
        }
    }

    fn arrive(&mut self, index: u64) {
        if self.order.contains(&index) {
            return;
        }
        self.order.push(index);
        if self.order.len() > self.room {
            let (state, resident) = self.blocks.get_mut(&self.order.remove(0)).unwrap();
            let device = Location::Device;
            feedback(
                &mut self.function,
                state,
                device,
                Outcome::Evicted,
                resident,
            );
            *resident = PageMask::EMPTY;
        }
    }

    fn touch(&mut self, index: u64, page: usize) -> Option<Hint> {
        let page = PageMask::from(PageIndex::new(page).unwrap().region());
        let (state, resident) = self
            .blocks
            .entry(index)
            .or_insert((BlockState::NEW, PageMask::EMPTY));
        if resident.intersects(&page) {
            feedback(
                &mut self.function,
                state,
                Location::Device,
                Outcome::Used,
                &page,
            );
            return None;
        }
        self.faults += 1;
        let hint = prefetch(
            &self.params,
            &mut self.function,
            state,
            &Batch {
                function: FunctionId(0),
                block: BlockId { space: 0, index },
                bounds: Bounds::BLOCK,
                faulted: &page,
                written: &PageMask::EMPTY,
                resident,
                resident_anywhere: true,
                mapped: &PageMask::EMPTY,
                thrashing: &PageMask::EMPTY,
                destination: Some(Location::Device),
                preferred: None,
                now_ns: 0,
                random: 0,
                pressure: if self.order.len() < self.room {
                    50
                } else {
                    100
                },
                share: self.share,
                link_bytes: 0,
                link_backlog_ns: self.backlog_ns,
            },
        );
        let now = resident.or(&page).or(&hint.pages);
        self.brought += now.count() - resident.count();
        *resident = now;
        self.arrive(index);
        if let Some(ahead) = hint.ahead {
            let (state, resident) = self
                .blocks
                .entry(ahead.block.index)
                .or_insert((BlockState::NEW, PageMask::EMPTY));
            let pages = ahead.pages.minus(resident);
            brought_ahead(&mut self.function, state, &ahead, &pages);
            self.brought += pages.count();
            *resident = resident.or(&pages);
            self.arrive(ahead.block.index);
        }
        Some(hint)
    }

    /// Faults and pages brought while `touches` are made.
    fn cost(&mut self, touches: impl Iterator<Item = (u64, usize)>) -> (usize, usize) {
        let before = (self.faults, self.brought);
        for (index, page) in touches {
            self.touch(index, page);
        }
        (self.faults - before.0, self.brought - before.1)
    }
}

fn dense(blocks: std::ops::Range<u64>) -> impl Iterator<Item = (u64, usize)> {
    blocks.flat_map(|block| (0..PAGES).map(move |page| (block, page)))
}

/// `count` pages of each block, all over it.
fn sparse(blocks: std::ops::Range<u64>, count: usize) -> impl Iterator<Item = (u64, usize)> {
    blocks.flat_map(move |block| {
        // All different, and no two of the first 64 nearer than 7 pages.
        (0..count).map(move |page| {
            (
                block * 7,
                (page * 373 + usize::try_from(block).unwrap() * 29) % PAGES,
            )
        })
    })
}

#[test]
fn what_is_used_densely_comes_as_whole_blocks() {
    let mut machine = Machine::new(Kind::Auto, usize::MAX);
    machine.cost(dense(0..10));
    let (faults, brought) = machine.cost(dense(10..40));
    assert!(faults <= 30, "{faults} faults");
    assert!(brought <= 31 * PAGES);
}

#[test]
fn what_is_used_sparsely_does_not() {
    for room in [usize::MAX, 20] {
        let mut machine = Machine::new(Kind::Auto, room);
        machine.cost(sparse(0..20, 8));
        let (faults, brought) = machine.cost(sparse(20..200, 8));
        assert_eq!(faults, 180 * 8);
        assert!(brought < faults * 2, "{brought} pages for {faults} faults");
    }
}

#[test]
fn a_change_is_followed_both_ways() {
    let mut machine = Machine::new(Kind::Auto, 50);
    machine.cost(dense(0..100));
    machine.cost(sparse(1_000..1_150, 8));
    let (faults, brought) = machine.cost(sparse(1_150..1_300, 8));
    assert!(brought < faults * 3, "{brought} pages for {faults} faults");
    machine.cost(dense(50_000..50_100));
    let (faults, _) = machine.cost(dense(50_100..50_200));
    assert!(faults <= 100, "{faults} faults of 100 blocks");
}

#[test]
fn the_next_block_comes_along_while_the_link_has_headroom() {
    let mut machine = Machine::new(Kind::Auto, usize::MAX);
    machine.cost(dense(0..10));
    let hint = machine.touch(10, 0).unwrap();
    let ahead = hint.ahead.unwrap();
    assert_eq!((ahead.block.index, ahead.pages.count()), (11, PAGES - 1));
    assert!(
        !ahead.pages.has(PageIndex::FIRST),
        "its fault asks for the next"
    );
    machine.cost(dense(10..11));
    machine.backlog_ns = 1_000_000;
    assert_eq!(machine.touch(11, 0).unwrap().ahead, None);
}

#[test]
fn backwards_is_a_direction_too() {
    let mut machine = Machine::new(Kind::Auto, usize::MAX);
    for block in (100..110).rev() {
        machine.cost((0..PAGES).rev().map(|page| (block, page)));
    }
    let ahead = machine.touch(99, 511).unwrap().ahead.unwrap();
    assert_eq!(ahead.block.index, 98);
    assert!(!ahead.pages.contains(511));
}

#[test]
fn a_block_that_comes_back_brings_what_was_used_of_it() {
    // More blocks than there is room for, the same pages of each, again and again.
    let mut machine = Machine::new(Kind::Auto, 20);
    for _ in 0..3 {
        machine.cost(sparse(0..40, 8));
    }
    let (faults, brought) = machine.cost(sparse(0..40, 8));
    // A fault of each block, and the other seven pages with it.
    assert_eq!(faults, 40);
    assert_eq!(brought, 40 * 8);
}

#[test]
fn what_comes_ahead_of_a_known_block_is_what_was_used_of_it() {
    let mask = |pages: &[usize]| -> PageMask {
        pages
            .iter()
            .filter_map(|page| PageIndex::new(*page))
            .collect()
    };
    let mut block = super::BlockState::NEW;
    let mut forwards = PageMask::ALL;
    forwards.take(PageIndex::FIRST);
    assert_eq!(block.of_ahead(&forwards), forwards);
    block.footprint = mask(&[3, 9, 400, 511]);
    assert_eq!(block.of_ahead(&forwards), mask(&[9, 400, 511]));
    let mut backwards = PageMask::ALL;
    backwards.take(PageIndex::new(511).unwrap());
    assert_eq!(block.of_ahead(&backwards), mask(&[3, 9, 400]));
}

#[test]
fn nothing_comes_along_where_all_that_goes_is_wanted_back_at_once() {
    // Random pages of 12 blocks, with room for 6.
    let mut machine = Machine::new(Kind::Auto, 6);
    let mut seed = 7_u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (
            (seed >> 40) % 12,
            usize::try_from(seed >> 50).unwrap() % PAGES,
        )
    };
    machine.cost((0..2000).map(|_| random()));
    let (faults, brought) = machine.cost((0..2000).map(|_| random()));
    assert!(brought < faults * 3, "{brought} pages for {faults} faults");
}

/// A run of 64 pages of each block, at another place in each.
fn runs(blocks: std::ops::Range<u64>) -> impl Iterator<Item = (u64, usize)> {
    blocks.flat_map(|block| {
        let first = usize::try_from(block * 97 % 448).unwrap();
        (first..first + 64).map(move |page| (block * 7, page))
    })
}

#[test]
fn where_runs_are_used_the_rest_of_a_run_comes_along() {
    let mut machine = Machine::new(Kind::Auto, 8);
    machine.cost(runs(0..100));
    let (faults, brought) = machine.cost(runs(100..150));
    assert!(faults <= 2 * 50, "{faults} faults of 50 runs");
    assert!(brought <= 2 * 64 * 50, "{brought} pages for {}", 64 * 50);
    // Where each page is one by itself nothing of that is left.
    machine.cost(sparse(200..300, 20));
    let (faults, brought) = machine.cost(sparse(300..350, 20));
    assert!(brought <= faults * 2, "{brought} pages for {faults} faults");
}

#[test]
fn a_busy_link_is_left_alone() {
    let mut machine = Machine::new(Kind::Auto, usize::MAX);
    machine.cost(dense(0..10));
    machine.backlog_ns = 512 * 512 * 5;
    assert!(machine.touch(11, 0).unwrap().pages.is_empty());
    machine.backlog_ns = 512 * 512 * 3;
    assert!(machine.touch(12, 0).unwrap().pages.count() > 500);
}

#[test]
fn a_fault_costs_its_share_of_a_batch() {
    let mut function = super::FunctionState::NEW;
    assert_eq!(function.fault_ns(), 4_000);
    function.mean_faults = 16;
    assert_eq!(function.fault_ns(), 31_000);
    function.mean_faults = 30 * 16;
    assert_eq!(function.fault_ns(), 2_000);
}

#[test]
fn several_streams_are_followed_at_a_time() {
    let mut machine = Machine::new(Kind::Auto, usize::MAX);
    for step in 0..10u64 {
        for array in 0..3 {
            machine.cost(dense(array * 1_000 + step..array * 1_000 + step + 1));
        }
    }
    for array in 0..3 {
        let ahead = machine.touch(array * 1_000 + 10, 0).unwrap().ahead;
        assert_eq!(
            ahead.map(|ahead| ahead.block.index),
            Some(array * 1_000 + 11)
        );
    }
}

#[test]
fn two_neighbourhoods_are_told_apart() {
    let mut machine = Machine::new(Kind::Auto, usize::MAX);
    for step in 0..63 {
        machine.cost(dense(step..step + 1));
        machine.cost((0..4).map(|page| (5_000 + step, page * 100)));
    }
    // Blocks beside known ones.
    let whole = machine.touch(63, 0).unwrap();
    assert!(whole.pages.count() > 500);
    let alone = machine.touch(5_063, 0).unwrap();
    assert_eq!(alone.pages.count(), 0);
}

#[test]
fn units_that_are_new_are_counted_once() {
    let pages = |pages: &[usize]| -> PageMask {
        pages
            .iter()
            .filter_map(|page| PageIndex::new(*page))
            .collect()
    };
    assert_eq!(new_groups(&pages(&[0, 15, 16, 511]), &PageMask::EMPTY), 3);
    assert_eq!(new_groups(&pages(&[0, 15, 16, 511]), &pages(&[1, 500])), 1);
    assert_eq!(new_groups(&PageMask::EMPTY, &PageMask::ALL), 0);
}

#[test]
fn an_idle_link_brings_the_next_blocks_one_after_the_other() {
    let mut machine = Machine::new(Kind::Auto, usize::MAX);
    machine.cost(dense(0..10));
    let params = machine.params;
    let mut next = |pressure| {
        idle(&params, &mut machine.function, pressure, 50).map(|ahead| ahead.block.index)
    };
    let first = next(50).unwrap();
    assert!(first >= 10, "{first}");
    assert_eq!(next(50), Some(first + 1));
    // Nothing is evicted for them.
    assert_eq!(next(FULL), None);
    assert_eq!(next(50), Some(first + 2));
    let rest = core::iter::from_fn(|| next(50)).count();
    assert!(rest < 64, "{rest}");

    let mut sparsely = Machine::new(Kind::Auto, usize::MAX);
    sparsely.cost((0..10).flat_map(|block| (0..8).map(move |page| (block, page * 60))));
    assert_eq!(idle(&params, &mut sparsely.function, 50, 50), None);
    // Where all has room it does no harm.
    assert!(idle(&params, &mut sparsely.function, 50, 100).is_some());
}

#[test]
fn where_all_has_room_blocks_come_as_a_whole() {
    let mut machine = Machine::new(Kind::Auto, usize::MAX);
    machine.cost(sparse(0..40, 8));
    assert_eq!(machine.touch(1_000, 100).unwrap().pages.count(), 0);
    machine.share = 100;
    assert_eq!(machine.touch(1_001, 100).unwrap().pages.count(), PAGES - 1);
}

#[test]
fn nothing_is_evicted_for_what_has_been_wasted() {
    let mut function = super::FunctionState::NEW;
    // Nothing is known: it may have been.
    assert!(function.is_gentle(50));
    for _ in 0..40 {
        function.judge(PAGES, 0);
    }
    assert!(!function.is_gentle(50));
    assert!(function.is_gentle(NEARLY_ALL));
    // What had no room counts too.
    let mut block = super::BlockState::NEW;
    for _ in 0..40 {
        let pages = PageMask::ALL;
        function.observe(&mut block, Outcome::Dropped, &pages, &pages);
        function.judge(PAGES, 0);
    }
    assert!(function.is_gentle(50));
    // The hint says so.
    let mut machine = Machine::new(Kind::Auto, 8);
    assert!(machine.touch(0, 0).unwrap().gentle);
    machine.cost(dense(1..60));
    assert!(!machine.touch(60, 0).unwrap().gentle);
}

#[test]
fn a_page_that_moves_to_the_host_says_nothing_of_memory() {
    let mut machine = Machine::new(Kind::Auto, usize::MAX);
    machine.cost(dense(0..4));
    let (state, resident) = machine.blocks.get_mut(&2).unwrap();
    let device = Location::Device;
    feedback(
        &mut machine.function,
        state,
        device,
        Outcome::Moved,
        resident,
    );
    *resident = PageMask::EMPTY;
    // It comes back as a whole: memory is not full, and nothing was wasted.
    assert!(machine.touch(2, 0).unwrap().pages.count() > 500);
}
