// SPDX-License-Identifier: GPL-2.0

//! The decisions that are measured: random ones, the same in every run.
//!
//! A whole block; residency of no, an eighth, a quarter or half of the pages, at random; faults anywhere, so that at few faults
//! hardly any node is over the threshold, which is the most work there is; threshold 51, strict.

#![forbid(unsafe_code)]

use rand::seq::SliceRandom;
use rand::Rng;
use rand_pcg::rand_core::SeedableRng;
use rand_pcg::Pcg64Mcg;
use vfetch_engine::mask::PageMask;
use vfetch_engine::page::{PageIndex, Region, PAGES};
use vfetch_engine::tree::{self, Bounds, Input, Mode, Threshold, Walk};

/// Numbers of faults that are measured.
pub const FAULTS: [usize; 10] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];

/// One decision.
#[derive(Clone, Debug)]
pub struct Case {
    bounds: Bounds,
    resident: PageMask,
    faulted: PageMask,
    thrashing: PageMask,
}

impl Case {
    /// What it is about.
    #[must_use]
    pub fn input(&self, walk: Walk) -> Input<'_> {
        Input {
            mode: Mode::Strict,
            walk,
            threshold: Threshold::DEFAULT,
            bounds: self.bounds,
            resident: &self.resident,
            faulted: &self.faulted,
            thrashing: &self.thrashing,
        }
    }
}

/// `count` decisions with `faults` faults each, at most 512; `aligned`: of a whole block, else of one that starts 5 pages
/// after a 64 KiB boundary, with a page in 64 thrashing.
#[must_use]
pub fn cases(count: usize, faults: usize, aligned: bool) -> Vec<Case> {
    let mut random = Pcg64Mcg::seed_from_u64(0x7665_7463);
    let bounds = if aligned {
        Bounds::BLOCK
    } else {
        Bounds::new(5, PAGES - 5, Region::clipped(0, PAGES - 5)).unwrap_or(Bounds::BLOCK)
    };
    let pages = bounds.max_region().len();
    let some = |random: &mut Pcg64Mcg, share: f64| -> PageMask {
        let chosen = (0..pages).filter(|_| random.random_bool(share));
        chosen.filter_map(PageIndex::new).collect()
    };
    (0..count)
        .map(|at| {
            let mut order: Vec<usize> = (0..pages).collect();
            order.shuffle(&mut random);
            let share = [0.0, 0.125, 0.25, 0.5].get(at % 4).copied().unwrap_or(0.0);
            Case {
                bounds,
                resident: some(&mut random, share),
                faulted: order
                    .into_iter()
                    .take(faults)
                    .filter_map(PageIndex::new)
                    .collect(),
                thrashing: if aligned {
                    PageMask::EMPTY
                } else {
                    some(&mut random, 1.0 / 64.0)
                },
            }
        })
        .collect()
}

/// Who decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decider {
    /// In one pass.
    Fast,
    /// From each fault to the root.
    Reference,
}

/// One decision; under callgrind nothing else is counted.
#[inline(never)]
#[must_use]
pub fn measured_fast(input: &Input<'_>) -> PageMask {
    tree::decide(input)
}

/// One decision; under callgrind nothing else is counted.
#[inline(never)]
#[must_use]
pub fn measured_reference(input: &Input<'_>) -> PageMask {
    tree::reference::decide(input)
}

impl Decider {
    /// Its answer.
    #[must_use]
    pub fn decide(self, input: &Input<'_>) -> PageMask {
        match self {
            Self::Fast => measured_fast(input),
            Self::Reference => measured_reference(input),
        }
    }
}
