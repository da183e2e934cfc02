// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The machine against sums done by hand, a naive model, and laws that hold for every run.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{
    config::{Control, Writeback},
    *,
};
use crate::{
    oracle,
    policy::{Nothing, View},
    trace::tests::{any_trace, trace_of},
};

/// Brings all of the block.
struct Max;

impl Prefetcher for Max {
    fn batch(&mut self, view: &View<'_>, faults: &[Fault], hint: &mut Hint) {
        for fault in faults {
            let first = fault.page / BLOCK_PAGES * BLOCK_PAGES;
            hint.pages
                .extend(first..(first + BLOCK_PAGES).min(view.pages));
        }
    }
}

/// Brings pages at random, also such that do not exist.
struct Random(u32);

impl Prefetcher for Random {
    fn batch(&mut self, view: &View<'_>, faults: &[Fault], hint: &mut Hint) {
        for fault in faults {
            for _ in 0..8 {
                self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(fault.page + 1);
                let page = (self.0 >> 8) % (view.pages + 3);
                let list = if self.0 >> 31 == 0 {
                    &mut hint.pages
                } else {
                    &mut hint.ahead
                };
                list.push(page);
            }
        }
    }

    fn used(&mut self, _view: &View<'_>, page: u32, hint: &mut Hint) {
        hint.pages.push(page + 1);
    }
}

fn simulate(trace: &Trace, costs: Costs, capacity: u32, p: Box<dyn Prefetcher + '_>) -> Outcome {
    let setup = Setup {
        costs,
        capacity,
        measure: false,
    };
    run(
        &setup,
        vec![Tenant {
            trace,
            prefetcher: p,
        }],
    )
    .unwrap()
}

fn reads(pages: &[u32]) -> Vec<(u32, u32, bool)> {
    pages.iter().map(|p| (*p, 1, false)).collect()
}

#[test]
fn a_lone_fault_takes_batch_link_latency_and_compute() {
    let t = trace_of(1, &[(false, false, reads(&[0]))]);
    let o = simulate(&t, Costs::default(), 1, Box::new(Nothing));
    assert_eq!(o.total().time_ns, 30_000 + 1000 + 512 + 1000 + 1000);
    assert_eq!(
        (o.total().faults, o.total().batches, o.peak_pages),
        (1, 1, 1)
    );
}

#[test]
fn faults_of_a_busy_handler_share_the_next_batch() {
    // Three strands: the first fault is a batch alone, the two others are the next one.
    let items = [[0, 0], [1, 1], [2, 2]].map(|p| (false, false, reads(&p)));
    let t = trace_of(3, &items);
    let o = simulate(&t, Costs::default(), 3, Box::new(Nothing));
    let c = o.total();
    assert_eq!((c.faults, c.batches, c.touches), (3, 2, 6));
    // 31 + 32 us of handling, then both pages on the link, and two touches.
    assert_eq!(c.time_ns, 31_000 + 32_000 + 2 * 512 + 1000 + 2000);
}

#[test]
fn strands_that_want_the_same_page_raise_one_fault() {
    let items = [0, 0, 0].map(|p| (false, false, reads(&[p])));
    let t = trace_of(1, &items);
    let c = simulate(&t, Costs::default(), 1, Box::new(Nothing)).total();
    assert_eq!((c.faults, c.joined, c.misses), (1, 2, 1));
    assert_eq!(c.time_ns, 31_000 + 512 + 1000 + 1000);
}

#[test]
fn a_prefetched_page_is_used_late_or_unused_or_left_over() {
    // Page 0 brings 0 to 511; page 1 is touched 1 us after page 0 has come, and is there (512 ns each); page 511 is late.
    let t = trace_of(512, &[(false, false, reads(&[0, 1, 511]))]);
    let c = simulate(&t, Costs::default(), 512, Box::new(Max)).total();
    assert_eq!((c.prefetched, c.used, c.late), (511, 1, 1));
    assert_eq!((c.unused, c.left_over), (0, 509));
    assert_eq!((c.faults, c.misses), (2, 1));
    // The late page has become a demand and has overtaken the others.
    assert!(c.time_ns < 31_000 + 512 * 512);
}

#[test]
fn a_full_device_evicts_the_least_recently_used_block_and_writes_it_back() {
    // Blocks 0, 1, 0, 2: block 1 goes.
    let t = trace_of(1536, &[(false, false, reads(&[0, 512, 1, 1024, 2, 0]))]);
    let c = simulate(&t, Costs::default(), 3, Box::new(Nothing)).total();
    assert_eq!((c.pages_out, c.evictions), (2, 2));
    // Page 2 then needs a frame too: block 2 was touched after block 0, which is guarded as the faulting one.
    assert_eq!((c.faults, c.again), (5, 0));
    let dirty = Costs {
        writeback: Writeback::Dirty,
        ..Costs::default()
    };
    assert_eq!(
        simulate(&t, dirty, 3, Box::new(Nothing)).total().pages_out,
        0
    );
}

#[test]
fn the_host_takes_pages_back_and_faults_for_it() {
    let t = trace_of(
        512,
        &[
            (false, false, reads(&[0, 1, 2])),
            (true, true, reads(&[0, 7])),
            (true, false, reads(&[0])),
        ],
    );
    let c = simulate(&t, Costs::default(), 512, Box::new(Nothing)).total();
    assert_eq!(
        (c.faults, c.host_faults, c.pages_in, c.pages_out),
        (4, 1, 4, 1)
    );
    let device = 31_000 + 512 + 1000 + 1000;
    assert_eq!(c.time_ns, 4 * device + 10_000 + 512 + 1000 + 1000 + 1000);
}

#[test]
fn more_than_a_batch_of_faults_is_several_batches() {
    let items: Vec<_> = (0..100).map(|p| (false, false, reads(&[p]))).collect();
    let t = trace_of(100, &items);
    let costs = Costs {
        strands: 100,
        batch_faults: 30,
        ..Costs::default()
    };
    let c = simulate(&t, costs, 100, Box::new(Nothing)).total();
    assert_eq!((c.faults, c.batches), (100, 5)); // 1 alone, 30, 30, 30, 9
}

#[test]
fn two_tenants_share_link_and_memory() {
    let items: Vec<_> = (0..64)
        .map(|i| (false, false, reads(&[i * 8, i * 8 + 3])))
        .collect();
    let t = trace_of(512, &items);
    let tenants = |n: usize| {
        let setup = Setup {
            costs: Costs::default(),
            capacity: 4096,
            measure: false,
        };
        let tenants = (0..n).map(|_| Tenant {
            trace: &t,
            prefetcher: Box::new(Max) as Box<dyn Prefetcher>,
        });
        run(&setup, tenants.collect()).unwrap()
    };
    let (one, two) = (tenants(1), tenants(2));
    assert_eq!(two.functions.len(), 2);
    assert_eq!(two.functions[0].faults, two.functions[1].faults);
    assert!(two.total().time_ns > one.total().time_ns);
    assert_eq!(two.total().pages_in, 2 * one.total().pages_in);
}

/// A strand, no prefetching, whole blocks evicted in the order of their last touch: the misses.
fn naive_misses(trace: &Trace, capacity: usize) -> u64 {
    let mut here: BTreeSet<u32> = BTreeSet::new();
    let mut last = std::collections::BTreeMap::new();
    let mut misses = 0;
    for (now, touch) in trace.touches.iter().enumerate() {
        let block = touch.page / BLOCK_PAGES;
        last.insert(block, now);
        if here.contains(&touch.page) {
            continue;
        }
        misses += 1;
        if here.len() == capacity {
            let victim = here
                .iter()
                .map(|p| p / BLOCK_PAGES)
                .min_by_key(|b| (*b == block, last[b]))
                .unwrap();
            here.retain(|p| p / BLOCK_PAGES != victim);
        }
        here.insert(touch.page);
    }
    misses
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_single_strand_misses_as_the_naive_model_does(
        pages in prop::collection::vec(0u32..3000, 1..200),
        capacity in 1u32..64,
    ) {
        let t = trace_of(3000, &[(false, false, reads(&pages))]);
        let costs = Costs { strands: 1, ..Costs::default() };
        let c = simulate(&t, costs, capacity, Box::new(Nothing)).total();
        prop_assert_eq!(c.misses, naive_misses(&t, capacity as usize));
        prop_assert_eq!(c.misses, c.faults);
        prop_assert_eq!(c.polluted, 0);
        let arrive = costs.page_ns() + costs.latency_ns;
        let busy = c.misses * (31_000 + arrive) + pages.len() as u64 * 1000;
        // Beside that only the way back of what had to go first, and what was on the link already.
        let most = busy + c.evictions * arrive + c.misses * costs.page_ns();
        prop_assert!(c.time_ns >= busy && c.time_ns <= most);
    }

    #[test]
    fn every_run_ends_repeats_and_adds_up(
        trace in any_trace(),
        capacity in 1u32..3000,
        strands in 1u32..40,
        batch_faults in 1u32..40,
        full in any::<bool>(),
        dirty in any::<bool>(),
        kind in 0..3,
    ) {
        let costs = Costs {
            strands,
            batch_faults,
            duplex: if full { Duplex::Full } else { Duplex::Half },
            writeback: if dirty { Writeback::Dirty } else { Writeback::All },
            ..Costs::default()
        };
        let prefetcher = || -> Box<dyn Prefetcher> {
            match kind {
                0 => Box::new(Nothing),
                1 => Box::new(Max),
                _ => Box::new(Random(1)),
            }
        };
        let one = simulate(&trace, costs, capacity, prefetcher());
        let two = simulate(&trace, costs, capacity, prefetcher());
        prop_assert_eq!(format!("{one:?}"), format!("{two:?}"));
        let c = one.total();
        prop_assert_eq!(c.touches as usize, trace.touches.len());
        prop_assert_eq!(c.accesses, trace.accesses());
        prop_assert_eq!(c.prefetched, c.used + c.late + c.unused + c.left_over);
        prop_assert!(one.peak_pages <= capacity);
        prop_assert!(c.pages_in >= c.pages_out || dirty);
        prop_assert!(c.misses <= c.faults);
        let order = oracle::order(&[&trace], &costs);
        let bound = oracle::bound(&order, &costs, capacity);
        prop_assert!(c.time_ns >= order.compute_ns);
        // Order and misses differ from the oracle's; not where everything fits and nothing moves back.
        if capacity as usize >= trace.pages as usize && trace.items.iter().all(|i| i.side == Side::Device) {
            prop_assert!(c.time_ns >= bound.time_ns());
        }
    }
}

/// Notes what has gone.
struct Gone<'a>(&'a std::cell::RefCell<Vec<(u32, u32)>>);

impl Prefetcher for Gone<'_> {
    fn batch(&mut self, _view: &View<'_>, _faults: &[Fault], _hint: &mut Hint) {}

    fn evicted(&mut self, _view: &View<'_>, block: u32, pages: &Mask) {
        self.0.borrow_mut().push((block, count(pages)));
    }
}

#[test]
fn the_pages_of_an_evicted_block_are_told_together() {
    let t = trace_of(1536, &[(false, false, reads(&[0, 1, 2, 512, 1024, 513]))]);
    let gone = std::cell::RefCell::new(Vec::new());
    let setup = Setup {
        costs: Costs::default(),
        capacity: 4,
        measure: false,
    };
    let tenant = Tenant {
        trace: &t,
        prefetcher: Box::new(Gone(&gone)),
    };
    run(&setup, vec![tenant]).unwrap();
    assert_eq!(gone.into_inner(), [(0, 3)]);
}

/// Device and host write the same page in turn.
fn ping_pong(rounds: usize) -> Trace {
    let items: Vec<_> = (0..rounds * 2)
        .map(|item| (true, item % 2 == 1, vec![(0, 8, true)]))
        .collect();
    trace_of(512, &items)
}

#[test]
fn a_page_that_thrashes_is_throttled_and_then_pinned() {
    let t = ping_pong(500);
    let with = |thrashing| {
        let costs = Costs {
            thrashing,
            ..Costs::default()
        };
        simulate(&t, costs, 512, Box::new(Nothing)).total()
    };
    let (off, on) = (with(Control::Off), with(Control::On));
    assert_eq!((off.pages_in, off.pages_out), (500, 500));
    assert_eq!((off.throttled, off.pinned, off.remote), (0, 0, 0));
    // Somebody waits in each nap, until the tenth wait pins it.
    assert_eq!((on.throttled, on.pinned), (9, 1));
    assert_eq!(on.touches, off.touches);
    // From then on one side reaches it remotely, in 8 lines.
    assert!(on.remote > 480 && on.pages_in < 20, "{on:?}");
    assert_eq!(on.remote_lines, on.remote * 8);
    assert!(on.time_ns < off.time_ns, "{on:?} {off:?}");
}

#[test]
fn a_pin_ends_with_its_time() {
    // More than the 150 ms of a pin, less than two of them.
    let t = ping_pong(20_000);
    let c = simulate(&t, Costs::default(), 512, Box::new(Nothing)).total();
    assert_eq!(c.touches, 40_000);
    assert!((150_000_000..300_000_000).contains(&c.time_ns), "{c:?}");
    assert_eq!((c.pinned, c.throttled), (2, 18), "{c:?}");
}

/// Notes which pages are thrashing when the device has faulted.
struct Thrashed<'a>(&'a std::cell::RefCell<Vec<u32>>);

impl Prefetcher for Thrashed<'_> {
    fn batch(&mut self, view: &View<'_>, _faults: &[Fault], _hint: &mut Hint) {
        self.0.borrow_mut().push(count(&view.device.thrashing(0)));
    }
}

#[test]
fn evicted_pages_that_come_back_at_once_are_thrashing_for_whoever_prefetches() {
    // Two blocks in turn, with room for one: each goes when the other comes.
    let pages: Vec<u32> = (0..16).map(|turn| turn % 2 * 512).collect();
    let t = trace_of(1024, &[(false, false, reads(&pages))]);
    let seen = std::cell::RefCell::new(Vec::new());
    let c = simulate(&t, Costs::default(), 1, Box::new(Thrashed(&seen))).total();
    assert_eq!((c.faults, c.throttled, c.remote), (16, 0, 0));
    // Block 0 comes, goes (which arms it), comes, goes: with that its page has moved three times.
    let seen = seen.into_inner();
    assert_eq!(seen[..4], [0; 4]);
    assert!(
        seen[5..].iter().all(|thrashing| *thrashing == 1),
        "{seen:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn whoever_waits_for_a_thrashing_page_goes_on(
        items in prop::collection::vec(
            (any::<bool>(), any::<bool>(), prop::collection::vec((0u32..3, 1u32..100, any::<bool>()), 1..8)), 1..120),
        blocks in 0u32..3,
        capacity in 1u32..4,
        strands in 1u32..6,
        kind in 0..3,
    ) {
        // A few pages, of one block or of several, that all want.
        let items: Vec<_> = items
            .into_iter()
            .map(|(barrier, host, touches)| {
                let touches = touches.into_iter().map(|(p, n, w)| (p * (1 + 511 * blocks), n, w));
                (barrier, host, touches.collect())
            })
            .collect();
        let t = trace_of(4096, &items);
        let prefetcher = || -> Box<dyn Prefetcher> {
            match kind {
                0 => Box::new(Nothing),
                1 => Box::new(Max),
                _ => Box::new(Random(1)),
            }
        };
        let costs = Costs { strands, ..Costs::default() };
        let c = simulate(&t, costs, capacity, prefetcher()).total();
        prop_assert_eq!(c.touches as usize, t.touches.len());
        prop_assert_eq!(c.accesses, t.accesses());
        prop_assert_eq!(c.prefetched, c.used + c.late + c.unused + c.left_over);
        let off = Costs { thrashing: Control::Off, ..costs };
        let off = simulate(&t, off, capacity, prefetcher()).total();
        prop_assert_eq!((off.throttled, off.pinned, off.remote), (0, 0, 0));
    }
}
