// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The bitmap-tree prefetcher: which pages of a block to bring along with those that faulted.
//!
//! Steps 4 to 8 of a decision: leaves, growth to 64 KiB, selection of nodes, translation, and what is left out. When
//! there is a decision at all is another matter. The behaviour is that of NVIDIA's open kernel
//! modules (`uvm_perf_prefetch.c`, 595 series), written afresh.
//!
//! **The tree.** Its leaves are the pages of the *max region*, where prefetching is allowed, in order; a leaf is set
//! where its page is resident at the destination or faulted. The node of height h over leaf i covers the leaves
//! `[i & !(2^h - 1), + 2^h)`, cut at the last leaf, and a cut node's size is what is left of it. Of a faulted page that
//! is not thrashing, the largest node on the way to the root with `count * 100 > size * threshold` is prefetched.
//!
//! **Growth** ([`Walk::Managed`]). Leaves are moved up by `offset` pages, so that leaf 0 is on a 64 KiB boundary
//! of virtual addresses; the padding leaves are never set, but count in their nodes' sizes. Then every 64 KiB
//! unit that holds a fault and no thrashing page is set as a whole. Where the max region has no whole 64 KiB
//! there is no padding, and it is one unit.
//!
//! **The fast way** ([`decide`]) asks of all nodes of one height at once whether they are over the threshold, in words
//! of 64 leaves: the union of the largest nodes is the union of all nodes that are over the threshold and hold a
//! fault, since a smaller one is part of a larger one. So its cost does not depend on the number of faults. [`mod@reference`]
//! walks from each fault to the root, as it is described above.

use super::mask::{PageMask, WORDS};
use super::page::{PageIndex, Region, GROUP_PAGES, PAGES};

pub mod reference;
mod select;

/// How a selected node is translated back to pages of the block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// As NVIDIA's driver does: blocks that do not start on 64 KiB lose pages at their head.
    Compat,
    /// Exactly.
    #[default]
    Strict,
}

/// How the leaves are prepared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Walk {
    /// Faults grow to 64 KiB first.
    #[default]
    Managed,
    /// Faults count as they are.
    Ats,
}

/// The occupancy, in percent of a node's size, that a node must exceed. 0 to 100: 0 selects every node with
/// a fault, 100 none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Threshold(u8);

impl Threshold {
    /// The usual one, 51 %.
    pub const DEFAULT: Self = Self(51);
    /// The lowest, 0 %: all of the tree.
    pub const ALWAYS: Self = Self(0);
    /// The highest, 100 %: nothing.
    pub const NEVER: Self = Self(100);

    /// `percent`; `None` above 100.
    #[must_use]
    pub const fn new(percent: u8) -> Option<Self> {
        if percent <= 100 {
            Some(Self(percent))
        } else {
            None
        }
    }

    /// `percent`, for constants: more than 100 is 100.
    pub(super) const fn constant(percent: u8) -> Self {
        Self(if percent < 100 { percent } else { 100 })
    }

    /// In percent.
    #[must_use]
    pub const fn percent(self) -> u8 {
        self.0
    }

    /// Whether `count` of `size` leaves are more than this.
    #[must_use]
    pub const fn exceeded(self, count: usize, size: usize) -> bool {
        count.saturating_mul(100) > size.saturating_mul(self.0 as usize)
    }
}

/// Where a block is, and where prefetching is allowed in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    va_first_page: u8,
    max_region: Region,
}

impl Bounds {
    /// A whole, aligned block.
    pub const BLOCK: Self = Self {
        va_first_page: 0,
        max_region: Region::BLOCK,
    };

    /// A block of `pages` pages that starts `va_first_page` pages, 0 to 15, after a 64 KiB boundary of virtual
    /// addresses, with prefetching allowed in `max_region`.
    ///
    /// `None` unless the block is inside a 2 MiB-aligned range (`pages <= 512 - va_first_page`) and the region
    /// inside the block.
    #[must_use]
    pub const fn new(va_first_page: usize, pages: usize, max_region: Region) -> Option<Self> {
        if va_first_page < GROUP_PAGES
            && pages <= PAGES - va_first_page
            && max_region.outer() <= pages
        {
            // CAST: below 16.
            #[allow(clippy::cast_possible_truncation, reason = "below 16")]
            Some(Self {
                va_first_page: va_first_page as u8,
                max_region,
            })
        } else {
            None
        }
    }

    /// Where prefetching is allowed.
    #[must_use]
    pub const fn max_region(self) -> Region {
        self.max_region
    }

    /// Pages from a 64 KiB boundary to the block's start, 0 to 15.
    #[must_use]
    pub const fn va_first_page(self) -> usize {
        self.va_first_page as usize
    }

    /// The same block with prefetching allowed in `max_region` as far as it already was.
    #[must_use]
    pub const fn cut(self, max_region: Region) -> Self {
        Self {
            va_first_page: self.va_first_page,
            max_region: self.max_region.intersection(max_region),
        }
    }

    /// The number of padding leaves, 0 to 15, that growth to 64 KiB puts before the max region; `None` if that has
    /// no whole 64 KiB.
    #[must_use]
    pub const fn padding(self) -> Option<usize> {
        let start = self.va_first_page() + self.max_region.first();
        let end = self.va_first_page() + self.max_region.outer();
        if start.next_multiple_of(GROUP_PAGES) < end / GROUP_PAGES * GROUP_PAGES {
            Some(start % GROUP_PAGES)
        } else {
            None
        }
    }
}

/// What a decision is about.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// How nodes are translated back.
    pub mode: Mode,
    /// How leaves are prepared.
    pub walk: Walk,
    /// Which nodes are selected.
    pub threshold: Threshold,
    /// Where prefetching is allowed.
    pub bounds: Bounds,
    /// Pages that are at the destination.
    pub resident: &'a PageMask,
    /// Pages of this batch. Those outside the max region are ignored.
    pub faulted: &'a PageMask,
    /// Pages that are thrashing: they are left out, and do not ask for others.
    pub thrashing: &'a PageMask,
}

/// The pages to bring along: inside the max region, neither faulted nor thrashing, possibly resident.
///
/// The cost is bounded, whatever the number of faults.
#[must_use]
pub fn decide(input: &Input<'_>) -> PageMask {
    if input.threshold == Threshold::NEVER {
        return PageMask::EMPTY;
    }
    let tree = Tree::new(input);
    let selected = select::select(
        input.threshold,
        tree.leaves,
        tree.set.words(),
        tree.faults.words(),
        tree.grown.words(),
    );
    let selected = PageMask::from_words(selected);
    let pages = if tree.is_moved() {
        tree.pages_for(input.mode, input.threshold, &selected)
    } else {
        // Leaves are pages, and no head can be lost.
        selected
    };
    let allowed = PageMask::from(tree.max_region);
    let mut hint = PageMask::EMPTY;
    let left_out = input.faulted.words().iter().zip(input.thrashing.words());
    let pages = pages.words().iter().zip(allowed.words());
    for (hint, ((pages, allowed), (faulted, thrashing))) in
        hint.words_mut().iter_mut().zip(pages.zip(left_out))
    {
        *hint = pages & allowed & !(faulted | thrashing);
    }
    hint
}

/// A node of the tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its pages, as far as they are in the max region.
    pub region: Region,
    /// Its size in the tree: what its occupancy is a part of. Padding counts.
    pub node_pages: usize,
    /// How many of its leaves are set.
    pub count: usize,
}

impl Node {
    /// Whether its occupancy is more than `percent`.
    #[must_use]
    pub const fn over(&self, threshold: Threshold) -> bool {
        threshold.exceeded(self.count, self.node_pages)
    }
}

/// The height of the root: its node has all leaves.
pub const ROOT_HEIGHT: u32 = PAGES.trailing_zeros();

/// The tree of one decision, after growth.
///
/// Invariant: leaf `i` of the tree is page `i + max_region.first() - offset`; no leaf below `offset` or from
/// `leaves` on is set or has a fault; `leaves <= 512`.
#[derive(Clone, Copy, Debug)]
pub struct Tree {
    max_region: Region,
    /// Padding leaves.
    offset: usize,
    /// Number of leaves, padding included.
    leaves: usize,
    /// Leaves of pages that are resident or faulted, or that growth set.
    set: PageMask,
    /// Leaves of faulted pages that are not thrashing.
    faults: PageMask,
    /// Units that growth set as a whole, as far as their leaves exist, and that have no padding.
    grown: PageMask,
}

impl Tree {
    /// The tree of `input`.
    #[must_use]
    pub fn new(input: &Input<'_>) -> Self {
        let max_region = input.bounds.max_region();
        let padding = match input.walk {
            Walk::Managed => input.bounds.padding(),
            Walk::Ats => None,
        };
        let offset = padding.unwrap_or(0);
        let grows = padding.is_some();
        let allowed = PageMask::from(max_region);
        let mut tree = Self {
            max_region,
            offset,
            leaves: max_region.len() + offset,
            set: PageMask::EMPTY,
            faults: PageMask::EMPTY,
            grown: PageMask::EMPTY,
        };
        // Leaves and pages are the same in most blocks, so growth is done on the way.
        let grows_here = grows && !tree.is_moved();
        let pages = (allowed.words().iter())
            .zip(input.resident.words())
            .zip(input.faulted.words().iter().zip(input.thrashing.words()));
        let leaves = (tree.set.words_mut().iter_mut()).zip(
            tree.faults
                .words_mut()
                .iter_mut()
                .zip(tree.grown.words_mut()),
        );
        for ((set, (fault, grown)), ((allowed, resident), (faulted, thrashing))) in
            leaves.zip(pages)
        {
            *fault = faulted & !thrashing & allowed;
            *set = (resident | faulted) & allowed;
            if grows_here && *fault != 0 {
                *grown = select::whole_groups(*fault) & !select::whole_groups(thrashing & allowed);
                *set |= *grown & allowed;
            }
        }
        if tree.is_moved() {
            tree.set = tree.leaves_for(&tree.set);
            tree.faults = tree.leaves_for(&tree.faults);
            if grows {
                tree.grow(&tree.leaves_for(&input.thrashing.and(&allowed)));
            }
        }
        if offset != 0 {
            // The first unit has padding: it is not all set.
            tree.grown.remove(Region::clipped(0, GROUP_PAGES));
        }
        if input.walk == Walk::Managed
            && !grows
            && !tree.faults.is_empty()
            && !input.thrashing.intersects(&allowed)
        {
            // No whole 64 KiB: one unit.
            tree.set = tree.valid().into();
        }
        tree
    }

    /// Whether leaves have other numbers than their pages.
    const fn is_moved(&self) -> bool {
        self.offset != self.max_region.first()
    }

    /// The leaves that stand for pages.
    fn valid(&self) -> Region {
        Region::clipped(self.offset, self.leaves)
    }

    /// Sets every 64 KiB that hold a fault and no thrashing page.
    fn grow(&mut self, thrashing: &PageMask) {
        let mut grown = [0; WORDS];
        let units = self.faults.words().iter().zip(thrashing.words());
        for (grown, (fault, thrash)) in grown.iter_mut().zip(units) {
            *grown = select::whole_groups(*fault) & !select::whole_groups(*thrash);
        }
        self.grown = PageMask::from_words(grown);
        self.set = self.set.or(&self.grown.within(self.valid()));
    }

    /// Pages of the max region as leaves.
    fn leaves_for(&self, pages: &PageMask) -> PageMask {
        let first = self.max_region.first();
        if self.offset >= first {
            pages.moved_up(self.offset - first)
        } else {
            pages.moved_down(first - self.offset)
        }
    }

    /// Steps 6 and 7: the pages of the largest nodes over `threshold` over each of `faulted`, pages that faulted and are
    /// not thrashing. These are among them, and so may be thrashing ones.
    #[must_use]
    pub fn native(&self, mode: Mode, threshold: Threshold, faulted: &PageMask) -> PageMask {
        if threshold == Threshold::NEVER {
            return PageMask::EMPTY;
        }
        let faults = self.leaves_for(&faulted.within(self.max_region));
        self.pages_for(mode, threshold, &self.select(threshold, &faults))
    }

    /// The leaves of all nodes that are over `threshold`, below 100, and hold one of `faults`. Padding and what is
    /// beyond the last leaf are part of them.
    fn select(&self, threshold: Threshold, faults: &PageMask) -> PageMask {
        PageMask::from_words(select::select(
            threshold,
            self.leaves,
            self.set.words(),
            faults.words(),
            self.grown.words(),
        ))
    }

    /// The pages of all nodes of height `height`, at most [`ROOT_HEIGHT`], that are over `threshold` and hold a fault of a page
    /// that is not thrashing.
    #[must_use]
    pub fn nodes_over(&self, height: u32, threshold: Threshold) -> PageMask {
        let nodes = self.leaves_over(height.min(ROOT_HEIGHT), threshold);
        self.pages_for(Mode::Strict, threshold, &nodes)
    }

    /// The pages of the largest nodes over `threshold` over each fault, of those that hold none of `pages`.
    #[must_use]
    pub fn largest_without(&self, threshold: Threshold, pages: &PageMask) -> PageMask {
        let without = self.leaves_for(&pages.within(self.max_region));
        let mut covered = PageMask::EMPTY;
        let mut selected = PageMask::EMPTY;
        for height in (0..=ROOT_HEIGHT).rev() {
            let largest = self.leaves_over(height, threshold).minus(&covered);
            selected = selected.or(&largest.minus(&PageMask::from_words(select::holding(
                height,
                without.words(),
            ))));
            covered = covered.or(&largest);
        }
        self.pages_for(Mode::Strict, threshold, &selected)
    }

    /// The leaves of all nodes of height `height`, at most [`ROOT_HEIGHT`], that are over `threshold` and hold a fault.
    fn leaves_over(&self, height: u32, threshold: Threshold) -> PageMask {
        PageMask::from_words(select::select_level(
            height,
            threshold,
            self.leaves,
            self.set.words(),
            self.faults.words(),
        ))
    }

    /// The pages of selected leaves.
    fn pages_for(&self, mode: Mode, threshold: Threshold, selected: &PageMask) -> PageMask {
        let first = self.max_region.first();
        let pages = if self.offset >= first {
            selected.moved_down(self.offset - first)
        } else {
            selected.moved_up(first - self.offset)
        };
        let pages = pages.within(self.max_region);
        match mode {
            Mode::Strict => pages,
            Mode::Compat => {
                let lost = self.lost_head(threshold, selected);
                pages.minus(&lost.into())
            }
        }
    }

    /// The pages at the head of the max region that the compatible translation loses.
    ///
    /// It makes `first = first + max.first` of a node `[first, outer)` to `offset` where that is below `offset`,
    /// although page `offset` of the block can be inside the node.
    fn lost_head(&self, threshold: Threshold, selected: &PageMask) -> Region {
        let head = self.max_region.first();
        // A node that holds a fault, so a leaf at or behind `offset`, and starts at or before this leaf.
        let Some(leaf) = self.offset.checked_sub(head + 1) else {
            return Region::EMPTY;
        };
        if !selected.contains(leaf) {
            return Region::EMPTY;
        }
        // It is the largest one over the threshold here: a larger one would hold the fault too.
        let node = (0..=ROOT_HEIGHT)
            .rev()
            .map(|height| self.leaves_of(leaf, height))
            .find(|node| threshold.exceeded(self.set.count_in(*node), node.len()))
            .unwrap_or(Region::EMPTY);
        let outer = (node.outer() + head).saturating_sub(self.offset);
        Region::clipped(head, outer.min(self.offset))
    }

    /// The leaves of the node of height `height`, at most [`ROOT_HEIGHT`], over `leaf`.
    fn leaves_of(&self, leaf: usize, height: u32) -> Region {
        let first = leaf >> height << height;
        Region::clipped(first, self.leaves.min(first + (1 << height)))
    }

    /// The node of height `height` (0: the page itself, from [`ROOT_HEIGHT`] on: all of the tree) over `page`;
    /// `None` if that is not in the max region.
    #[must_use]
    pub fn node(&self, page: PageIndex, height: u32) -> Option<Node> {
        if !self.max_region.contains(page) {
            return None;
        }
        // In the max region: no underflow, and the sum is below `leaves`.
        let leaf = page.get() - self.max_region.first() + self.offset;
        let leaves = self.leaves_of(leaf, height.min(ROOT_HEIGHT));
        let back = |leaf: usize| leaf.saturating_sub(self.offset) + self.max_region.first();
        Some(Node {
            region: Region::clipped(back(leaves.first()), back(leaves.outer())),
            node_pages: leaves.len(),
            count: self.set.count_in(leaves),
        })
    }

    /// The nodes over `page`, from itself to the root; none if it is not in the max region.
    pub fn path(&self, page: PageIndex) -> impl Iterator<Item = Node> + '_ {
        let root = self.leaves.next_power_of_two().trailing_zeros();
        (0..=root).filter_map(move |height| self.node(page, height))
    }

    /// The largest node over `page` that is over `threshold`, if there is one.
    #[must_use]
    pub fn largest_over(&self, page: PageIndex, threshold: Threshold) -> Option<Node> {
        (0..=ROOT_HEIGHT)
            .rev()
            .filter_map(|height| self.node(page, height))
            .find(|node| node.over(threshold))
    }

    /// Where prefetching is allowed.
    #[must_use]
    pub const fn max_region(&self) -> Region {
        self.max_region
    }
}

#[cfg(test)]
mod tests;
