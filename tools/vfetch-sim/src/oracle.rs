// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The oracle: what policies are measured against.
//!
//! It knows the future: it evicts the page whose next touch is farthest away (Belady's rule), prefetches every missing page in
//! time, and waits for nothing but the link and the strands. Its time is the longer one of
//!
//! - what its misses occupy the link, the first page's latency included, and
//! - the time of the strands when every page is always there.
//!
//! What evicted pages cost on the way back is left out, which makes the bound lower. It is one for policies that move pages and
//! touch them in the order of strands that never wait. Strands that wait may take turns that need fewer misses, and
//! who reaches pinned pages remotely moves none; no run of the matrices was faster.

use std::{cmp::Reverse, collections::BinaryHeap};

use serde::Serialize;

use crate::{
    machine::config::{Costs, Duplex},
    trace::{Side, Trace, BLOCK_PAGES, PAGE_BYTES},
};

/// Bit of a touch in an order of touches: the host does it.
const HOST: u32 = 1 << 31;

/// Touches in the order in which strands that never wait make them.
#[derive(Debug)]
pub(crate) struct Order {
    /// Pages, numbered through all functions as the machine does; with [`HOST`].
    touches: Vec<u32>,
    pages: usize,
    /// When the last touch ends.
    pub(crate) compute_ns: u64,
}

/// What the oracle needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Bound {
    /// Pages that Belady's rule has to bring to the device.
    pub(crate) misses: u64,
    /// Pages that the host takes back.
    pub(crate) moved: u64,
    pub(crate) compute_ns: u64,
    pub(crate) link_ns: u64,
}

impl Bound {
    /// The oracle's run time.
    pub(crate) fn time_ns(&self) -> u64 {
        self.compute_ns.max(self.link_ns)
    }

    /// Bytes that have to be moved.
    pub(crate) fn bytes(&self) -> u64 {
        (self.misses + self.moved) * PAGE_BYTES
    }
}

/// The order of the traces' touches when no page is ever missing.
pub(crate) fn order(traces: &[&Trace], costs: &Costs) -> Order {
    walk(traces, costs, None)
}

/// How long the strands take when pages come without faults, one after the other, in the order in which `order` touches them first,
/// and none has to leave. With memory for all: what is left of the oracle when its pages cannot all be there at once.
pub(crate) fn in_order_ns(traces: &[&Trace], costs: &Costs, order: &Order) -> u64 {
    let mut arrival = vec![u64::MAX; order.pages];
    let mut at = costs.latency_ns;
    for touch in &order.touches {
        let page = (touch & !HOST) as usize;
        if arrival[page] == u64::MAX {
            if touch & HOST == 0 {
                at += costs.page_ns();
            }
            arrival[page] = if touch & HOST == 0 { at } else { 0 };
        }
    }
    walk(traces, costs, Some(&arrival)).compute_ns
}

/// As [`order`], when pages can be touched from `arrival` on.
fn walk(traces: &[&Trace], costs: &Costs, arrival: Option<&[u64]>) -> Order {
    struct Tenant<'a> {
        trace: &'a Trace,
        base: u32,
        item: usize,
        running: usize,
        idle: Vec<usize>,
        host_idle: bool,
    }
    let strands = costs.strands as usize;
    let mut base = 0;
    let mut tenants: Vec<Tenant<'_>> = traces
        .iter()
        .map(|trace| {
            let tenant = Tenant {
                trace,
                base,
                item: 0,
                running: 0,
                idle: (0..strands).rev().collect(),
                host_idle: true,
            };
            base += trace.pages.div_ceil(BLOCK_PAGES) * BLOCK_PAGES;
            tenant
        })
        .collect();
    let mut touches = Vec::with_capacity(traces.iter().map(|t| t.touches.len()).sum());
    // (time, turn, tenant, strand, next touch, end); the host is strand `strands`.
    let mut events = BinaryHeap::new();
    let mut turn = 0_u64;
    let mut now = 0;
    let begin =
        |t: &mut Tenant<'_>, which: usize, now: u64, turn: &mut u64, events: &mut BinaryHeap<_>| {
            while let Some(item) = t.trace.items.get(t.item) {
                if item.barrier && t.running > 0 {
                    return;
                }
                let strand = match item.side {
                    Side::Device => t.idle.pop(),
                    Side::Host => std::mem::take(&mut t.host_idle).then_some(strands),
                };
                let Some(strand) = strand else { return };
                let next = t.item.checked_sub(1).map_or(0, |i| t.trace.items[i].end);
                t.item += 1;
                t.running += 1;
                *turn += 1;
                events.push(Reverse((now, *turn, which, strand, next, item.end)));
            }
        };
    for (which, tenant) in tenants.iter_mut().enumerate() {
        begin(tenant, which, 0, &mut turn, &mut events);
    }
    loop {
        let Some(mut top) = events.peek_mut() else {
            break;
        };
        let Reverse((time, _, which, strand, next, end)) = *top;
        now = time;
        let tenant = &mut tenants[which];
        if next < end {
            let host = if strand == strands { HOST } else { 0 };
            let page = tenant.base + tenant.trace.touches[next].page;
            turn += 1;
            if let Some(arrival) = arrival {
                let there = arrival[page as usize];
                if there > time {
                    *top = Reverse((there, turn, which, strand, next, end));
                    continue;
                }
            }
            touches.push(page | host);
            *top = Reverse((time + costs.compute_ns, turn, which, strand, next + 1, end));
            continue;
        }
        std::collections::binary_heap::PeekMut::pop(top);
        tenant.running -= 1;
        if strand == strands {
            tenant.host_idle = true;
        } else {
            tenant.idle.push(strand);
        }
        begin(tenant, which, now, &mut turn, &mut events);
    }
    Order {
        touches,
        pages: base as usize,
        compute_ns: now,
    }
}

/// A set of numbers below a bound, of which the largest is wanted.
struct Largest(Vec<Vec<u64>>);

impl Largest {
    fn new(bound: usize) -> Self {
        let mut levels = Vec::new();
        let mut size = bound.max(1);
        loop {
            size = size.div_ceil(64);
            levels.push(vec![0; size]);
            if size == 1 {
                return Self(levels);
            }
        }
    }

    fn insert(&mut self, mut number: usize) {
        for level in &mut self.0 {
            level[number / 64] |= 1 << (number % 64);
            number /= 64;
        }
    }

    fn remove(&mut self, mut number: usize) {
        for level in &mut self.0 {
            level[number / 64] &= !(1 << (number % 64));
            if level[number / 64] != 0 {
                return;
            }
            number /= 64;
        }
    }

    fn largest(&self) -> Option<usize> {
        let mut at = 0;
        for level in self.0.iter().rev() {
            let word = level[at];
            if word == 0 {
                return None;
            }
            at = at * 64 + 63 - word.leading_zeros() as usize;
        }
        Some(at)
    }
}

/// Misses and moves to the host of Belady's rule with `capacity` frames (at least 1).
fn belady(order: &Order, capacity: u32) -> (u64, u64) {
    const NEVER: u32 = u32::MAX;
    let touches = &order.touches;
    // When each touch's page is touched next.
    let mut soon = vec![NEVER; order.pages];
    let mut next = vec![NEVER; touches.len()];
    for (now, touch) in touches.iter().enumerate().rev() {
        let soon = &mut soon[(touch & !HOST) as usize];
        next[now] = *soon;
        *soon = now as u32;
    }
    let mut here = vec![false; order.pages];
    let mut frames = capacity.max(1);
    // Pages on the device: by their next touch, and those that the device does not need any more.
    let mut needed = Largest::new(touches.len());
    let mut done: Vec<u32> = Vec::new();
    let mut is_done = vec![false; order.pages];
    let (mut misses, mut moved) = (0, 0);
    for (now, touch) in touches.iter().enumerate() {
        let page = touch & !HOST;
        let at = page as usize;
        if touch & HOST != 0 {
            // It was put aside as done when the device last touched it.
            is_done[at] = false;
            if std::mem::replace(&mut here[at], false) {
                moved += 1;
                frames += 1;
            }
            continue;
        }
        if here[at] {
            needed.remove(now);
        } else {
            misses += 1;
            here[at] = true;
            if frames == 0 {
                let victim = loop {
                    match done.pop() {
                        // An entry is stale when the host has taken the page since.
                        Some(page) if is_done[page as usize] => break page,
                        Some(_) => {}
                        None => {
                            let when = needed.largest().unwrap_or(0);
                            needed.remove(when);
                            break touches[when] & !HOST;
                        }
                    }
                };
                here[victim as usize] = false;
                is_done[victim as usize] = false;
                frames += 1;
            }
            frames -= 1;
        }
        let then = next[now] as usize;
        // Where the host is next, it moves the page anyway.
        if touches.get(then).is_some_and(|then| then & HOST == 0) {
            needed.insert(then);
        } else {
            done.push(page);
            is_done[at] = true;
        }
    }
    (misses, moved)
}

/// The oracle's needs with `capacity` frames.
pub(crate) fn bound(order: &Order, costs: &Costs, capacity: u32) -> Bound {
    let (misses, moved) = belady(order, capacity);
    // How many the busier direction carries.
    let pages = match costs.duplex {
        Duplex::Half => misses + moved,
        Duplex::Full => misses.max(moved),
    };
    let link_ns = if pages == 0 {
        0
    } else {
        pages * costs.page_ns() + costs.latency_ns
    };
    Bound {
        misses,
        moved,
        compute_ns: order.compute_ns,
        link_ns,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::trace::tests::{any_trace, trace_of};

    fn plain_order(pages: &[u32]) -> Order {
        Order {
            touches: pages.to_vec(),
            pages: 8,
            compute_ns: 0,
        }
    }

    /// The fewest misses there are, by trying every victim.
    fn fewest(touches: &[u32], here: &BTreeSet<u32>, capacity: usize) -> u64 {
        let Some((page, rest)) = touches.split_first() else {
            return 0;
        };
        if here.contains(page) {
            return fewest(rest, here, capacity);
        }
        let mut with = here.clone();
        with.insert(*page);
        if with.len() <= capacity {
            return 1 + fewest(rest, &with, capacity);
        }
        here.iter()
            .map(|victim| {
                let mut with = with.clone();
                with.remove(victim);
                1 + fewest(rest, &with, capacity)
            })
            .min()
            .unwrap_or(1)
    }

    #[test]
    fn a_page_that_the_host_takes_is_missed_again() {
        let order = Order {
            touches: vec![0, 1, HOST, 0, 1 | HOST, 2],
            pages: 8,
            compute_ns: 0,
        };
        assert_eq!(belady(&order, 8), (4, 2));
        assert_eq!(belady(&order, 2), (4, 2));
    }

    #[test]
    fn directions_that_do_not_share_the_link_carry_pages_at_the_same_time() {
        let order = Order {
            touches: vec![0, HOST, 0, HOST, 0, 1],
            pages: 8,
            compute_ns: 0,
        };
        let link_ns = |duplex| {
            let costs = Costs {
                duplex,
                ..Costs::default()
            };
            bound(&order, &costs, 8).link_ns
        };
        assert_eq!(link_ns(Duplex::Half), 6 * 512 + 1000);
        assert_eq!(link_ns(Duplex::Full), 4 * 512 + 1000);
    }

    #[test]
    fn strands_that_never_wait_compute_at_the_same_time() {
        let item = |first: u32| (false, false, vec![(first, 1, false), (first + 1, 1, false)]);
        let mut items: Vec<_> = (0..4).map(|i| item(i * 2)).collect();
        items[3].0 = true;
        let trace = trace_of(8, &items);
        let costs = Costs {
            strands: 2,
            ..Costs::default()
        };
        let order = order(&[&trace], &costs);
        assert_eq!(order.touches, [0, 2, 1, 3, 4, 5, 6, 7]);
        assert_eq!(order.compute_ns, 6000);
        let bound = bound(&order, &costs, 8);
        assert_eq!(bound.link_ns, 8 * 512 + 1000);
        assert_eq!(bound.time_ns(), 6000);
    }

    proptest! {
        #[test]
        fn no_victims_give_fewer_misses(
            touches in prop::collection::vec(0u32..6, 0..14),
            capacity in 1u32..5,
        ) {
            let (misses, _) = belady(&plain_order(&touches), capacity);
            prop_assert_eq!(misses, fewest(&touches, &BTreeSet::new(), capacity as usize));
        }

        #[test]
        fn more_memory_never_means_more_misses(trace in any_trace()) {
            let order = order(&[&trace], &Costs::default());
            prop_assert_eq!(order.touches.len(), trace.touches.len());
            let misses: Vec<u64> = (1..50).map(|c| belady(&order, c * 8).0).collect();
            prop_assert!(misses.windows(2).all(|w| w[0] >= w[1]));
            let device: BTreeSet<u32> =
                order.touches.iter().filter(|t| **t & HOST == 0).copied().collect();
            prop_assert!(belady(&order, u32::MAX).0 >= device.len() as u64);
        }

        #[test]
        fn the_largest_is_that_of_a_set(steps in prop::collection::vec((any::<bool>(), 0usize..5000), 0..200)) {
            let mut set = BTreeSet::new();
            let mut largest = Largest::new(5000);
            for (add, number) in steps {
                if add {
                    set.insert(number);
                    largest.insert(number);
                } else if set.remove(&number) {
                    largest.remove(number);
                }
                prop_assert_eq!(largest.largest(), set.last().copied());
            }
        }
    }
}
