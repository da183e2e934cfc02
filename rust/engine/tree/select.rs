// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Which nodes of a tree are over the threshold and hold a fault: all nodes of one height at once.
//!
//! The bits of a word are cut into *lanes*, one a node: at height h lanes of 2^h bits in the words of leaves, and above, where
//! a word of leaves has become a byte of one word, of 2^(h-3) bits. A lane holds its node's count, which is less than half of
//! what fits. Adding `half - need` to it makes its highest bit say whether the node is over the threshold. The lowest
//! bit of a lane says whether the node holds a fault, or is selected.
//!
//! No sum here leaves its lane, so none overflows; the arithmetic wraps, as the kernel would check it for nothing.

use super::super::mask::WORDS;
use super::super::page::PAGES;
use super::Threshold;

/// A word with 1 in each lane of so many bits.
const fn lanes(bits: u32) -> u64 {
    match bits {
        64 => 1,
        _ => u64::MAX / ((1 << bits) - 1),
    }
}

/// A word with 1 in each lane of `2^height` bits, height 1 to 6; without a division.
#[inline]
const fn lanes_of(height: u32) -> u64 {
    match height {
        1 => const { lanes(2) },
        2 => const { lanes(4) },
        3 => const { lanes(8) },
        4 => const { lanes(16) },
        5 => const { lanes(32) },
        _ => const { lanes(64) },
    }
}

/// The counts that nodes need.
struct Need {
    threshold: Threshold,
    /// The threshold's share of the root's leaves, rounded down.
    of_root: u64,
    /// Leaves of the tree.
    leaves: usize,
}

impl Need {
    const fn new(threshold: Threshold, leaves: usize) -> Self {
        Self {
            threshold,
            of_root: PAGES as u64 * threshold.percent() as u64 / 100,
            leaves,
        }
    }

    /// What is to be added to all lanes of nodes of height `height` in one word, where each of their leaves has
    /// `1 / leaves_per_bit` bits: `half - need` of a whole node. Rounding down twice is rounding down once.
    const fn add(&self, height: u32, bits: u32) -> u64 {
        let need = (self.of_root >> (super::ROOT_HEIGHT - height)) + 1;
        (1u64 << (bits - 1))
            .wrapping_sub(need)
            .wrapping_mul(lanes_of(bits.trailing_zeros()))
    }

    /// What is to be added for the node of height `height` that is cut at the last leaf, as it needs less; `None` if no node is
    /// cut there.
    const fn less(&self, height: u32) -> Option<u64> {
        let left = (self.leaves & ((1 << height) - 1)) as u64;
        if left == 0 {
            return None;
        }
        let whole = (self.of_root >> (super::ROOT_HEIGHT - height)) + 1;
        Some(whole.wrapping_sub(left.wrapping_mul(self.threshold.percent() as u64) / 100 + 1))
    }

    /// [`add`](Self::add) for nodes of heights 6 to 9, in lanes of `2^(height - 3)` bits.
    #[inline]
    fn upper(&self) -> [u64; 4] {
        let mut add = [
            self.add(6, 8),
            self.add(7, 16),
            self.add(8, 32),
            self.add(9, 64),
        ];
        // The root of fewer leaves is a cut node too.
        if self.leaves < PAGES {
            for (height, add) in (6..).zip(&mut add) {
                if let Some(less) = self.less(height) {
                    *add = add.wrapping_add(less << ((self.leaves >> height) << (height - 3)));
                }
            }
        }
        add
    }
}

/// A bit in each byte, one a word, for words that are selected as a whole.
#[inline]
fn select_words(set: &[u64; WORDS], faults: &[u64; WORDS], need: &Need) -> u64 {
    let mut count6 = 0;
    let mut fault6 = 0;
    // The last word ends in the highest byte.
    for (set, fault) in set.iter().zip(faults) {
        count6 = (count6 >> 8) | (u64::from(set.count_ones()) << 56);
        fault6 = (fault6 >> 8) | (u64::from(*fault != 0) << 56);
    }
    let count7 = (count6 & (lanes(16) * 0xff)).wrapping_add((count6 >> 8) & (lanes(16) * 0xff));
    let fault7 = (fault6 | (fault6 >> 8)) & lanes(16);
    let count8 = count7.wrapping_add(count7 >> 16) & (lanes(32) * 0xffff);
    let fault8 = (fault7 | (fault7 >> 16)) & lanes(32);
    let count9 = count8.wrapping_add(count8 >> 32) & 0xffff_ffff;
    let fault9 = (fault8 | (fault8 >> 32)) & 1;

    let [add6, add7, add8, add9] = need.upper();
    let over9 = (count9.wrapping_add(add9) >> 63) & fault9;
    let over8 = (count8.wrapping_add(add8) >> 31) & fault8;
    let over7 = (count7.wrapping_add(add7) >> 15) & fault7;
    let over6 = (count6.wrapping_add(add6) >> 7) & fault6;

    // A selected node selects its two halves.
    let over8 = over8 | over9 | (over9 << 32);
    let over7 = over7 | over8 | (over8 << 16);
    over6 | over7 | (over7 << 8)
}

/// What to add to lanes of nodes of heights 1 to 5.
#[derive(Clone, Copy)]
struct Lower([u64; 5]);

impl Lower {
    /// For words of which all leaves exist.
    const fn new(need: &Need) -> Self {
        Self([
            need.add(1, 2),
            need.add(2, 4),
            need.add(3, 8),
            need.add(4, 16),
            need.add(5, 32),
        ])
    }

    /// For the last word.
    fn cut(mut self, need: &Need) -> Self {
        for (height, add) in (1..).zip(&mut self.0) {
            if let Some(less) = need.less(height) {
                *add = add.wrapping_add(less << ((need.leaves % 64) >> height << height));
            }
        }
        self
    }

    /// The leaves of a word that are selected. `grown` are runs of 16 that are all set.
    #[inline]
    const fn select_leaves(&self, set: u64, fault: u64, grown: u64) -> u64 {
        if fault & !grown == 0 {
            self.select_grown(set, fault)
        } else {
            self.select(set, fault)
        }
    }

    /// The leaves of the nodes of a word that are selected.
    #[inline]
    const fn select(&self, set: u64, fault: u64) -> u64 {
        let Self([add1, add2, add3, add4, add5]) = *self;

        let count1 = set.wrapping_sub((set >> 1) & lanes(2));
        let fault1 = (fault | (fault >> 1)) & lanes(2);
        let count2 = (count1 & (lanes(4) * 3)).wrapping_add((count1 >> 2) & (lanes(4) * 3));
        let fault2 = (fault1 | (fault1 >> 2)) & lanes(4);
        let count3 = count2.wrapping_add(count2 >> 4) & (lanes(8) * 0xf);
        let fault3 = (fault2 | (fault2 >> 4)) & lanes(8);
        let count4 = count3.wrapping_add(count3 >> 8) & (lanes(16) * 0xff);
        let fault4 = (fault3 | (fault3 >> 8)) & lanes(16);
        let count5 = count4.wrapping_add(count4 >> 16) & (lanes(32) * 0xffff);
        let fault5 = (fault4 | (fault4 >> 16)) & lanes(32);

        let over5 = (count5.wrapping_add(add5) >> 31) & fault5;
        let over4 = ((count4.wrapping_add(add4) >> 15) & fault4) | over5 | (over5 << 16);
        let over3 = ((count3.wrapping_add(add3) >> 7) & fault3) | over4 | (over4 << 8);
        let over2 = ((count2.wrapping_add(add2) >> 3) & fault2) | over3 | (over3 << 4);
        let over1 = ((count1.wrapping_add(add1) >> 1) & fault1) | over2 | (over2 << 2);
        // A fault's own leaf is over any threshold below 100.
        over1 | (over1 << 1) | fault
    }

    /// The same of a word whose every fault is in a run of 16 leaves that are all set: those are over any threshold below 100, and
    /// what is in them too.
    #[inline]
    const fn select_grown(&self, set: u64, fault: u64) -> u64 {
        let Self([.., add5]) = *self;
        let count1 = set.wrapping_sub((set >> 1) & lanes(2));
        let count2 = (count1 & (lanes(4) * 3)).wrapping_add((count1 >> 2) & (lanes(4) * 3));
        let count3 = count2.wrapping_add(count2 >> 4) & (lanes(8) * 0xf);
        let count4 = count3.wrapping_add(count3 >> 8) & (lanes(16) * 0xff);
        let count5 = count4.wrapping_add(count4 >> 16) & (lanes(32) * 0xffff);

        let fault4 = whole_groups(fault) & lanes(16);
        let fault5 = (fault4 | (fault4 >> 16)) & lanes(32);
        let over5 = (count5.wrapping_add(add5) >> 31) & fault5;
        let over4 = fault4 | over5 | (over5 << 16);
        (over4 << 16).wrapping_sub(over4)
    }
}

/// The leaves of all nodes over `threshold`, below 100, that hold one of `faults`. `leaves` of the words exist; what is beyond
/// the last one is part of a cut node, as is padding. Faults in `grown` are in runs of 16 leaves that are all set.
#[inline]
pub(super) fn select(
    threshold: Threshold,
    leaves: usize,
    set: &[u64; WORDS],
    faults: &[u64; WORDS],
    grown: &[u64; WORDS],
) -> [u64; WORDS] {
    let need = Need::new(threshold, leaves);
    let whole_words = select_words(set, faults, &need);
    if whole_words == lanes(8) {
        return [u64::MAX; WORDS];
    }
    let lower = Lower::new(&need);
    let mut selected = [0; WORDS];
    let mut whole = whole_words;
    for (((set, fault), grown), selected) in set.iter().zip(faults).zip(grown).zip(&mut selected) {
        // All bits, or none.
        *selected = (whole & 1).wrapping_neg();
        if *fault != 0 && *selected == 0 {
            *selected = lower.select_leaves(*set, *fault, *grown);
        }
        whole >>= 8;
    }
    let last = leaves / 64;
    if let (Some(set), Some(fault), Some(grown), Some(selected)) = (
        set.get(last),
        faults.get(last),
        grown.get(last),
        selected.get_mut(last),
    ) {
        // Cut nodes need less.
        if *fault != 0 && (whole_words >> (last * 8)) & 1 == 0 {
            *selected = lower.cut(&need).select_leaves(*set, *fault, *grown);
        }
    }
    selected
}

/// The leaves of all nodes of height `height`, at most [`super::ROOT_HEIGHT`], that are over `threshold` and hold one of `faults`,
/// which are set. As in [`select`], what is beyond the last leaf is part of a cut node.
pub(super) fn select_level(
    height: u32,
    threshold: Threshold,
    leaves: usize,
    set: &[u64; WORDS],
    faults: &[u64; WORDS],
) -> [u64; WORDS] {
    if threshold == Threshold::NEVER {
        return [0; WORDS];
    }
    if height >= 6 {
        return select_wide(height, threshold, leaves, set, faults);
    }
    if height == 0 {
        return *faults;
    }
    let need = Need::new(threshold, leaves);
    let add = need.add(height, 1 << height);
    let last = leaves / 64;
    let mut selected = [0; WORDS];
    for (at, ((set, fault), selected)) in set.iter().zip(faults).zip(&mut selected).enumerate() {
        if *fault == 0 {
            continue;
        }
        let mut add = add;
        if at == last {
            if let Some(less) = need.less(height) {
                add = add.wrapping_add(less << ((leaves % 64) >> height << height));
            }
        }
        let mut count = *set;
        for half in 0..height {
            let low = lanes_of(half + 1).wrapping_mul((1 << (1 << half)) - 1);
            count = (count & low).wrapping_add((count >> (1 << half)) & low);
        }
        let over = count.wrapping_add(add) >> ((1 << height) - 1);
        *selected = whole_lanes(over & any_of_lanes(height, *fault), height);
    }
    selected
}

/// [`select_level`] for nodes of one or more words.
fn select_wide(
    height: u32,
    threshold: Threshold,
    leaves: usize,
    set: &[u64; WORDS],
    faults: &[u64; WORDS],
) -> [u64; WORDS] {
    let words = 1 << (height - 6);
    let mut selected = [0; WORDS];
    let nodes = (set.chunks(words).zip(faults.chunks(words))).zip(selected.chunks_mut(words));
    for (at, ((set, faults), selected)) in nodes.enumerate() {
        if faults.iter().all(|fault| *fault == 0) {
            continue;
        }
        let count = set.iter().map(|word| word.count_ones() as usize).sum();
        let left = leaves.saturating_sub(at * words * 64);
        if threshold.exceeded(count, left.min(words * 64)) {
            selected.fill(u64::MAX);
        }
    }
    selected
}

/// All leaves of the nodes of height `height`, at most [`super::ROOT_HEIGHT`], that have one of `leaves`.
pub(super) fn holding(height: u32, leaves: &[u64; WORDS]) -> [u64; WORDS] {
    let mut nodes = [0; WORDS];
    if height >= 6 {
        let words = 1 << (height - 6);
        for (leaves, nodes) in leaves.chunks(words).zip(nodes.chunks_mut(words)) {
            if leaves.iter().any(|word| *word != 0) {
                nodes.fill(u64::MAX);
            }
        }
    } else {
        for (word, node) in leaves.iter().zip(&mut nodes) {
            *node = whole_lanes(any_of_lanes(height, *word), height);
        }
    }
    nodes
}

/// The lowest bit of every lane of `2^height` bits, height 0 to 5, that has one set.
#[inline]
fn any_of_lanes(height: u32, word: u64) -> u64 {
    let mut any = word;
    for half in 0..height {
        any |= any >> (1 << half);
        any &= lanes_of(half + 1);
    }
    any
}

/// All bits of the lanes of `2^height` bits, height 0 to 5, whose lowest bit is set; no other bit is.
#[inline]
const fn whole_lanes(lowest: u64, height: u32) -> u64 {
    (lowest << ((1 << height) - 1) << 1).wrapping_sub(lowest)
}

/// All bits of every run of 16 that has one set.
#[inline]
pub(super) const fn whole_groups(word: u64) -> u64 {
    const LOW: u64 = !HIGH;
    const HIGH: u64 = 0x8000_8000_8000_8000;
    // The highest bit of each run that is not empty.
    let any = (((word & LOW).wrapping_add(LOW)) | word) & HIGH;
    any | any.wrapping_sub(any >> 15)
}
