// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a trace is like, before any machine runs it.

use serde::Serialize;

use super::{Side, Trace, BLOCK_PAGES, PAGE_BYTES};

/// Figures of a trace, in its nominal order (item after item).
#[derive(Debug, Serialize, PartialEq)]
pub(crate) struct Stats {
    pub(crate) name: String,
    /// Pages of the space.
    pub(crate) pages: u32,
    /// Distinct pages touched.
    pub(crate) working_set_pages: u32,
    pub(crate) working_set_bytes: u64,
    pub(crate) items: usize,
    pub(crate) barriers: usize,
    /// Items that run on the host.
    pub(crate) host_items: usize,
    pub(crate) touches: usize,
    pub(crate) accesses: u64,
    /// Touches that write, of all.
    pub(crate) write_share: f64,
    /// Touches of the page after that of the touch before, of all.
    pub(crate) next_page_share: f64,
    /// Blocks with a touched page.
    pub(crate) blocks: usize,
    /// Touched pages of such a block: at least this many in 90, 50 and 10 % of them.
    pub(crate) pages_per_block: [u32; 3],
    /// Distinct pages between two touches of a page: at most this many in 50 and 90 % of the repeated touches.
    pub(crate) reuse_pages: [u32; 2],
    /// Touches of a page that was touched before, of all.
    pub(crate) reuse_share: f64,
}

/// Counts of a sliding sum: a Fenwick tree.
struct Sums(Vec<u32>);

impl Sums {
    fn add(&mut self, index: usize, plus: bool) {
        let mut i = index + 1;
        while let Some(slot) = self.0.get_mut(i) {
            *slot = if plus {
                slot.wrapping_add(1)
            } else {
                slot.wrapping_sub(1)
            };
            i += i & i.wrapping_neg();
        }
    }

    /// Of all before `index`.
    fn before(&self, index: usize) -> u32 {
        let mut sum = 0_u32;
        let mut i = index;
        while i > 0 {
            sum = sum.wrapping_add(self.0.get(i).copied().unwrap_or(0));
            i -= i & i.wrapping_neg();
        }
        sum
    }
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

fn quantile(sorted: &[u32], q: f64) -> u32 {
    let at = (sorted.len().saturating_sub(1) as f64 * q).round() as usize;
    sorted.get(at).copied().unwrap_or(0)
}

/// The figures of `trace`.
pub(crate) fn of(trace: &Trace) -> Stats {
    const NEVER: u32 = u32::MAX;
    let mut last = vec![NEVER; trace.pages as usize];
    let mut per_block = vec![0_u32; (trace.pages as usize).div_ceil(BLOCK_PAGES as usize)];
    let mut sums = Sums(vec![0; trace.touches.len() + 1]);
    let mut reuse = Vec::new();
    let mut next = 0;
    let mut writes = 0;
    let mut previous = None;
    for (now, touch) in trace.touches.iter().enumerate() {
        writes += usize::from(touch.is_write());
        next += usize::from(previous.is_some_and(|p: u32| p + 1 == touch.page));
        previous = Some(touch.page);
        let Some(at) = last.get_mut(touch.page as usize) else {
            continue;
        };
        if *at == NEVER {
            if let Some(count) = per_block.get_mut((touch.page / BLOCK_PAGES) as usize) {
                *count += 1;
            }
        } else {
            let then = *at as usize;
            reuse.push(sums.before(now).wrapping_sub(sums.before(then + 1)));
            sums.add(then, false);
        }
        sums.add(now, true);
        *at = now as u32;
    }
    let working_set = per_block.iter().sum::<u32>();
    let mut blocks: Vec<u32> = per_block.into_iter().filter(|count| *count > 0).collect();
    blocks.sort_unstable();
    reuse.sort_unstable();
    Stats {
        name: trace.name.clone(),
        pages: trace.pages,
        working_set_pages: working_set,
        working_set_bytes: u64::from(working_set) * PAGE_BYTES,
        items: trace.items.len(),
        barriers: trace.items.iter().filter(|i| i.barrier).count(),
        host_items: trace.items.iter().filter(|i| i.side == Side::Host).count(),
        touches: trace.touches.len(),
        accesses: trace.accesses(),
        write_share: share(writes, trace.touches.len()),
        next_page_share: share(next, trace.touches.len()),
        blocks: blocks.len(),
        pages_per_block: [0.1, 0.5, 0.9].map(|q| quantile(&blocks, q)),
        reuse_pages: [0.5, 0.9].map(|q| quantile(&reuse, q)),
        reuse_share: share(reuse.len(), trace.touches.len()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::tests::{any_trace, trace_of},
        *,
    };

    #[test]
    fn a_known_trace_has_known_figures() {
        let t = trace_of(
            1024,
            &[
                (false, false, vec![(0, 1, false), (1, 9, true)]),
                (
                    true,
                    true,
                    vec![(600, 1, true), (0, 1, false), (0, 1, false)],
                ),
            ],
        );
        let s = of(&t);
        assert_eq!((s.working_set_pages, s.blocks, s.touches), (3, 2, 5));
        assert_eq!((s.accesses, s.barriers, s.host_items), (13, 1, 1));
        assert_eq!(s.pages_per_block, [1, 2, 2]);
        // Between the first two touches of page 0: pages 1 and 600; then none.
        assert_eq!(s.reuse_pages, [2, 2]);
        assert!((s.write_share - 0.4).abs() < 1e-9 && (s.next_page_share - 0.2).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn reuse_distances_are_those_of_counting(trace in any_trace()) {
            let mut naive = Vec::new();
            for (now, touch) in trace.touches.iter().enumerate() {
                if let Some(then) = trace.touches[..now].iter().rposition(|t| t.page == touch.page) {
                    let between: std::collections::BTreeSet<u32> =
                        trace.touches[then + 1..now].iter().map(|t| t.page).collect();
                    naive.push(between.len() as u32);
                }
            }
            naive.sort_unstable();
            let s = of(&trace);
            prop_assert_eq!(s.reuse_pages, [0.5, 0.9].map(|q| quantile(&naive, q)));
            prop_assert_eq!(s.working_set_pages, trace.working_set());
        }
    }
}
