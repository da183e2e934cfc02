// SPDX-License-Identifier: GPL-2.0

//! Sequences of batches, outcomes and thrashing events of one block: the tree decides as its reference does, no hint
//! breaks a law, counters add up, nothing overflows.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vfetch_engine::mask::PageMask;
use vfetch_engine::page::{PageIndex, Region, PAGES};
use vfetch_engine::params::{
    Aggressiveness, Micros, MinFaults, Neighbours, PageNanos, Params, StrideDegree,
};
use vfetch_engine::policy::{Action, Answer, Kind, Policy, View};
use vfetch_engine::prefetch::{
    brought_ahead, feedback, prefetch, prefetch_with, Batch, BlockId, BlockState, FunctionId,
    FunctionState, Location, Outcome,
};
use vfetch_engine::thrashing::{self, Detector, Pages, Place};
use vfetch_engine::tree::{self, Bounds, Input, Mode, Node, Threshold, Walk};

/// Bytes to choose from; zeros when there are no more.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn number(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    fn below(&mut self, end: usize) -> usize {
        (usize::from(self.byte()) | usize::from(self.byte()) << 8) % end
    }

    fn mask(&mut self) -> PageMask {
        match self.byte() % 4 {
            0 => PageMask::EMPTY,
            1 => {
                let count = self.byte() % 8;
                (0..count)
                    .filter_map(|_| PageIndex::new(self.below(PAGES)))
                    .collect()
            }
            2 => {
                let mut mask = PageMask::EMPTY;
                for _ in 0..self.byte() % 4 {
                    let first = self.below(PAGES);
                    mask.insert(Region::clipped(first, first + self.below(PAGES)));
                }
                mask
            }
            _ => {
                let mut words = [0; PAGES / 64];
                for word in &mut words {
                    *word = u64::from(self.number()) | u64::from(self.number()) << 32;
                }
                PageMask::from_words(words)
            }
        }
    }

    fn location(&mut self) -> Location {
        if self.byte() % 2 == 0 {
            Location::Host
        } else {
            Location::Device
        }
    }

    fn params(&mut self) -> Params {
        Params {
            enabled: self.byte() % 16 != 0,
            policy: Kind::ALL[usize::from(self.byte()) % Kind::ALL.len()],
            mode: if self.byte() % 2 == 0 {
                Mode::Strict
            } else {
                Mode::Compat
            },
            walk: if self.byte() % 2 == 0 {
                Walk::Managed
            } else {
                Walk::Ats
            },
            threshold: Threshold::new(self.byte() % 101).unwrap(),
            min_faults: MinFaults::clamped(u32::from(self.byte() % 24)),
            sample_period_us: Micros::clamped(self.number()),
            stride_degree: StrideDegree::clamped(u32::from(self.byte())),
            aggressiveness: Aggressiveness::clamped(self.number() % 1001),
            neighbours: Neighbours::clamped(u32::from(self.byte())),
            horizon_us: Micros::clamped(self.number()),
            page_ns: PageNanos::clamped(self.number()),
        }
    }
}

/// A policy that answers anything.
struct Anything<'a, 'b>(&'a mut Bytes<'b>);

impl Policy for Anything<'_, '_> {
    fn before_compute(&mut self, _: &View<'_>, _: PageIndex, answer: &mut Answer) -> Action {
        if self.0.byte() % 2 == 0 {
            let _ = answer.set(self.0.below(600), self.0.below(600));
        }
        Action::from_raw(u32::from(self.0.byte() % 3)).unwrap()
    }

    fn on_tree_iter(
        &mut self,
        view: &View<'_>,
        page: PageIndex,
        node: &Node,
        answer: &mut Answer,
    ) -> Action {
        assert!(view.tree.max_region().covers(node.region) && node.region.contains(page));
        assert!(node.count <= node.node_pages && node.region.len() <= node.node_pages);
        if self.0.byte() % 4 == 0 {
            let _ = answer.set(self.0.below(600), self.0.below(600));
        }
        Action::Default
    }
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes(data);
    let mut function = FunctionState::NEW;
    let mut block = BlockState::NEW;
    let mut neighbour = BlockState::NEW;
    let mut detector = Detector::NEW;
    let mut pages: Option<Box<Pages>> = None;
    let mut now_ns = 0u64;
    while !bytes.0.is_empty() {
        now_ns = now_ns.saturating_add(u64::from(bytes.number()) << (bytes.byte() % 24));
        match bytes.byte() % 8 {
            0..=3 => {
                let params = bytes.params();
                let va = bytes.below(16);
                let size = bytes.below(PAGES - va) + 1;
                let first = bytes.below(size + 1);
                let max_region = Region::clipped(first, first + bytes.below(size - first + 1));
                let bounds = Bounds::new(va, size, max_region).unwrap();
                let (resident, mapped) = (bytes.mask(), bytes.mask());
                let faulted = bytes.mask().within(max_region);
                let thrashing = if bytes.byte() % 2 == 0 {
                    detector.thrashing()
                } else {
                    bytes.mask()
                };
                let input = Input {
                    mode: params.mode,
                    walk: params.walk,
                    threshold: params.threshold,
                    bounds,
                    resident: &resident,
                    faulted: &faulted,
                    thrashing: &thrashing,
                };
                assert_eq!(tree::decide(&input), tree::reference::decide(&input));
                let batch = Batch {
                    function: FunctionId(0),
                    block: BlockId {
                        space: 0,
                        index: u64::from(bytes.number()),
                    },
                    bounds,
                    faulted: &faulted,
                    written: &PageMask::EMPTY,
                    resident: &resident,
                    resident_anywhere: bytes.byte() % 4 != 0,
                    mapped: &mapped,
                    thrashing: &thrashing,
                    destination: (bytes.byte() % 8 != 0).then(|| bytes.location()),
                    preferred: (bytes.byte() % 4 == 0).then(|| bytes.location()),
                    now_ns,
                    random: bytes.number(),
                    pressure: bytes.byte() % 101,
                    share: bytes.byte() % 101,
                    link_bytes: u64::from(bytes.number()) << (bytes.byte() % 24),
                    link_backlog_ns: u64::from(bytes.number()),
                };
                let hint = if bytes.byte() % 4 == 0 {
                    prefetch_with(
                        &params,
                        &mut function,
                        &mut block,
                        &batch,
                        &mut Anything(&mut bytes),
                    )
                } else {
                    prefetch(&params, &mut function, &mut block, &batch)
                };
                assert!(hint.pages.minus(&max_region.into()).is_empty());
                assert!(!hint.pages.intersects(&faulted) && !hint.pages.intersects(&thrashing));
                if batch.destination == Some(Location::Host) {
                    assert!(!hint.pages.intersects(&mapped));
                }
                if let Some(ahead) = hint.ahead {
                    // A stream's last block may be a few behind the one that faulted.
                    assert!((1..=4).contains(&ahead.block.index.abs_diff(batch.block.index)));
                    brought_ahead(&mut function, &mut neighbour, &ahead, &ahead.pages);
                }
            }
            4 => {
                let outcome = [
                    Outcome::Used,
                    Outcome::Late,
                    Outcome::Evicted,
                    Outcome::Moved,
                    Outcome::Dropped,
                ][bytes.below(5)];
                let which = bytes.byte() % 2 == 0;
                let at = bytes.location();
                let mask = bytes.mask();
                feedback(
                    &mut function,
                    if which { &mut block } else { &mut neighbour },
                    at,
                    outcome,
                    &mask,
                );
            }
            5 | 6 => {
                let params = thrashing::Params::DEFAULT;
                let (who, moved) = (bytes.location(), bytes.mask());
                let now_us = now_ns / 1_000;
                if detector.event(&params, &mut pages, who, &moved, now_us) {
                    pages = Some(Box::new(Pages::NEW));
                    assert!(!detector.event(&params, &mut pages, who, &moved, now_us));
                }
            }
            _ => {
                let place = Place {
                    owner: bytes.location(),
                    preferred: (bytes.byte() % 2 == 0).then(|| bytes.location()),
                    host_reaches_device: bytes.byte() % 4 != 0,
                    device_reaches_host: bytes.byte() % 4 != 0,
                };
                let (who, page) = (
                    bytes.location(),
                    PageIndex::new(bytes.below(PAGES)).unwrap(),
                );
                let _ = detector.ask(
                    &thrashing::Params::DEFAULT,
                    &mut pages,
                    who,
                    page,
                    place,
                    now_ns / 1_000,
                );
            }
        }
        let counters = function.all_counters();
        let outstanding: usize = [&block, &neighbour]
            .iter()
            .flat_map(|block| [Location::Host, Location::Device].map(|at| block.outstanding(at)))
            .map(PageMask::count)
            .sum();
        assert_eq!(counters.outstanding(), outstanding as u64);
        assert!(
            counters.used + counters.late + counters.evicted_unused + counters.dropped
                <= counters.prefetched
        );
        assert!(pages.is_some() || detector.thrashing().is_empty());
    }
});
