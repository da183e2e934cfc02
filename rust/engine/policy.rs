// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Who decides which pages come along.
//!
//! A [`Policy`] is asked within step 6 of a decision ([`super::prefetch`]): once per faulted page that is not thrashing, by
//! [`before_compute`](Policy::before_compute), and, if it wants to, at each node from the page to the root, by
//! [`on_tree_iter`](Policy::on_tree_iter). That costs something for every fault. The native policies, one a file here, are
//! asked once for all of a batch instead ([`Policy::plan`]).
//!
//! Regions are in pages of the block. One that is partly outside the max region is cut; an
//! invalid one means the native decision, and is counted.

use super::mask::PageMask;
use super::page::{PageIndex, Region};
use super::params::Params;
use super::prefetch::Batch;
use super::tree::{Node, Threshold, Tree};

pub mod adaptive;
pub mod auto;
pub mod frequency;
pub mod lru;
pub mod multi_level;
pub mod probabilistic;
pub mod simple;
pub mod stride;
pub mod thrashing_aware;

/// The native policies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Kind {
    /// No hint, also none of first touch.
    None,
    /// The whole max region.
    AlwaysMax,
    /// The tree with the threshold that is set.
    Fixed,
    /// The tree with a threshold by the link's traffic.
    Traffic,
    /// The tree with a threshold by the use of memory.
    Pressure,
    /// By the last two strides.
    Stride,
    /// The largest of three nodes over thresholds of their own.
    MultiLevel,
    /// The tree, but nothing where a page is thrashing.
    ThrashingAware,
    /// The tree, as often as the block's prefetches were used.
    Probabilistic,
    /// The block's recently touched neighbours.
    Lru,
    /// As far ahead as the block faults often.
    Frequency,
    /// Learns which of them is worth it.
    #[default]
    Auto,
}

impl Kind {
    /// All of them, in a fixed order.
    pub const ALL: [Self; 12] = [
        Self::None,
        Self::AlwaysMax,
        Self::Fixed,
        Self::Traffic,
        Self::Pressure,
        Self::Stride,
        Self::MultiLevel,
        Self::ThrashingAware,
        Self::Probabilistic,
        Self::Lru,
        Self::Frequency,
        Self::Auto,
    ];

    /// What users call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::AlwaysMax => "always-max",
            Self::Fixed => "fixed",
            Self::Traffic => "traffic",
            Self::Pressure => "pressure",
            Self::Stride => "stride",
            Self::MultiLevel => "multi-level",
            Self::ThrashingAware => "thrashing-aware",
            Self::Probabilistic => "probabilistic",
            Self::Lru => "lru",
            Self::Frequency => "frequency",
            Self::Auto => "auto",
        }
    }

    /// The one called `name`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// What a hook answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// The native decision for this page.
    Default,
    /// The region that was set; nothing if none was.
    Bypass,
    /// Ask at every node from the page to the root; the last region set counts.
    EnterLoop,
}

impl Action {
    /// The action that a policy outside the engine means by `value`: 0, 1 or 2.
    #[must_use]
    pub const fn from_raw(value: u32) -> Option<Self> {
        match value {
            0 => Some(Self::Default),
            1 => Some(Self::Bypass),
            2 => Some(Self::EnterLoop),
            _ => None,
        }
    }
}

/// What is wrong with a policy's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Invalid;

/// The region that a hook's pages are taken from, in pages of the block.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    max_region: Region,
    region: Result<Region, Invalid>,
}

impl Answer {
    /// None set yet.
    #[must_use]
    pub const fn new(max_region: Region) -> Self {
        Self {
            max_region,
            region: Ok(Region::EMPTY),
        }
    }

    /// The region that `first` and `outer` mean where `max_region` is allowed: cut to that, also to nothing.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if it is inverted, not of a block, or holds pages but none of the max region.
    pub fn check(first: usize, outer: usize, max_region: Region) -> Result<Region, Invalid> {
        let region = Region::new(first, outer).ok_or(Invalid)?;
        let cut = region.intersection(max_region);
        if cut.is_empty() && !region.is_empty() {
            return Err(Invalid);
        }
        Ok(cut)
    }

    /// Sets the pages from `first` to before `outer`. What was set before is forgotten, also if this is invalid.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check): the native decision holds then, unless another region is set.
    pub fn set(&mut self, first: usize, outer: usize) -> Result<(), Invalid> {
        self.region = Self::check(first, outer, self.max_region);
        self.region.map(|_| ())
    }

    /// What was set last.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if that was.
    pub const fn region(&self) -> Result<Region, Invalid> {
        self.region
    }
}

/// What a policy sees.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// What is set.
    pub params: &'a Params,
    /// Where, when, and what faulted.
    pub batch: &'a Batch<'a>,
    /// The tree after growth.
    pub tree: &'a Tree,
}

impl View<'_> {
    /// Faulted pages that are not thrashing.
    #[must_use]
    pub fn calm(&self) -> PageMask {
        self.batch
            .faulted
            .within(self.tree.max_region())
            .minus(self.batch.thrashing)
    }
}

/// What a policy wants for a whole batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plan {
    /// The native decision.
    Default,
    /// The native decision with another threshold.
    Threshold(Threshold),
    /// These pages. What is outside the max region is cut.
    Pages(PageMask),
    /// To be asked for each page.
    EachPage,
}

/// Decides which pages come along with those that faulted.
pub trait Policy {
    /// Asked once per batch.
    fn plan(&mut self, view: &View<'_>) -> Plan {
        let _ = view;
        Plan::EachPage
    }

    /// Asked for each faulted page that is not thrashing, in ascending order.
    fn before_compute(&mut self, view: &View<'_>, page: PageIndex, answer: &mut Answer) -> Action {
        let _ = (view, page, answer);
        Action::Default
    }

    /// Asked for each node from `page` to the root. What it returns is advice and does not end the loop.
    fn on_tree_iter(
        &mut self,
        view: &View<'_>,
        page: PageIndex,
        node: &Node,
        answer: &mut Answer,
    ) -> Action {
        let _ = (view, page, node, answer);
        Action::Default
    }
}

/// What a policy answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answered {
    /// The pages to bring along: faulted and thrashing ones are still among them.
    pub pages: PageMask,
    /// How many of its answers were invalid.
    pub invalid: u32,
}

/// Steps 6 and 7, by `policy`.
pub fn ask<P: Policy + ?Sized>(policy: &mut P, view: &View<'_>) -> Answered {
    let native = |threshold| view.tree.native(view.params.mode, threshold, &view.calm());
    let pages = match policy.plan(view) {
        Plan::Default => native(view.params.threshold),
        Plan::Threshold(threshold) => native(threshold),
        Plan::Pages(pages) => pages.within(view.tree.max_region()),
        Plan::EachPage => return ask_each(policy, view),
    };
    Answered { pages, invalid: 0 }
}

fn ask_each<P: Policy + ?Sized>(policy: &mut P, view: &View<'_>) -> Answered {
    let mut pages = PageMask::EMPTY;
    // Pages for which the native decision holds.
    let mut native = PageMask::EMPTY;
    let mut invalid: u32 = 0;
    for page in view.calm().iter() {
        let mut answer = Answer::new(view.tree.max_region());
        match policy.before_compute(view, page, &mut answer) {
            Action::Default => {
                native.add(page);
                continue;
            }
            Action::Bypass => {}
            Action::EnterLoop => {
                for node in view.tree.path(page) {
                    policy.on_tree_iter(view, page, &node, &mut answer);
                }
            }
        }
        match answer.region() {
            Ok(region) => {
                pages.insert(region);
            }
            Err(Invalid) => {
                invalid = invalid.saturating_add(1);
                native.add(page);
            }
        }
    }
    if !native.is_empty() {
        let threshold = view.params.threshold;
        pages = pages.or(&view.tree.native(view.params.mode, threshold, &native));
    }
    Answered { pages, invalid }
}
