// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Decisions as sequences of batches, against a naive model; the policies against their formulas.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::super::page::{PageIndex, Region};
use super::super::params::{Aggressiveness, Micros, MinFaults, Neighbours, StrideDegree};
use super::super::policy::{Action, Answer, Plan};
use super::super::testing::{case, cases, mask, most, region, Case};
use super::super::tree::{self, Mode, Node, Threshold, Walk};
use super::*;
use proptest::prelude::*;
use std::boxed::Box;
use std::collections::BTreeSet;
use std::vec::Vec;

/// All that a batch refers to.
#[derive(Clone, Debug)]
struct Given {
    case: Case,
    written: PageMask,
    resident_anywhere: bool,
    mapped: PageMask,
    destination: Option<Location>,
    preferred: Option<Location>,
    now_ns: u64,
    random: u32,
    pressure: u8,
    share: u8,
    link_bytes: u64,
}

impl Given {
    fn batch(&self) -> Batch<'_> {
        Batch {
            function: FunctionId(0),
            block: BlockId { space: 0, index: 7 },
            bounds: self.case.bounds,
            faulted: &self.case.faulted,
            written: &self.written,
            resident: &self.case.resident,
            resident_anywhere: self.resident_anywhere,
            mapped: &self.mapped,
            thrashing: &self.case.thrashing,
            destination: self.destination,
            preferred: self.preferred,
            now_ns: self.now_ns,
            random: self.random,
            pressure: self.pressure,
            share: self.share,
            link_bytes: self.link_bytes,
            link_backlog_ns: 0,
        }
    }
}

fn location() -> impl Strategy<Value = Location> {
    prop_oneof![Just(Location::Host), Just(Location::Device)]
}

fn given() -> impl Strategy<Value = Given> {
    let where_to = (
        prop_oneof![1 => Just(None), 4 => location().prop_map(Some)],
        prop_oneof![2 => Just(None), 2 => location().prop_map(Some)],
        any::<bool>(),
    );
    let when = (any::<u32>(), any::<u32>(), 0u8..=100, any::<u32>());
    (case(), mask(), mask(), where_to, when).prop_map(
        |(
            case,
            written,
            mapped,
            (destination, preferred, resident_anywhere),
            (now, random, pressure, bytes),
        )| Given {
            case,
            written,
            resident_anywhere,
            mapped,
            destination,
            preferred,
            now_ns: u64::from(now),
            random,
            pressure,
            share: u8::try_from(random % 101).unwrap_or(0),
            link_bytes: u64::from(bytes),
        },
    )
}

fn kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(Kind::ALL.to_vec())
}

fn params() -> impl Strategy<Value = Params> {
    let tree = (
        prop_oneof![Just(Mode::Compat), Just(Mode::Strict)],
        prop_oneof![Just(Walk::Managed), Just(Walk::Ats)],
        super::super::testing::threshold(),
    );
    (
        prop::bool::weighted(0.9),
        kind(),
        tree,
        prop_oneof![3 => Just(1u32), 2 => 1u32..=20],
    )
        .prop_map(
            |(enabled, policy, (mode, walk, threshold), min_faults)| Params {
                enabled,
                policy,
                mode,
                walk,
                threshold,
                min_faults: MinFaults::new(min_faults).unwrap(),
                sample_period_us: Micros::clamped(1_000),
                ..Params::DEFAULT
            },
        )
}

/// What happens to a block.
#[derive(Clone, Debug)]
enum Step {
    Batch(Params, Box<Given>),
    Outcome(Location, Outcome, PageMask),
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        Just(Outcome::Used),
        Just(Outcome::Late),
        Just(Outcome::Evicted),
        Just(Outcome::Moved),
        Just(Outcome::Dropped)
    ];
    prop_oneof![
        3 => (params(), given()).prop_map(|(params, given)| Step::Batch(params, Box::new(given))),
        2 => (location(), outcome, mask()).prop_map(|(at, outcome, pages)| Step::Outcome(at, outcome, pages)),
    ]
}

const BOTH: [Location; 2] = [Location::Host, Location::Device];

type Pages = BTreeSet<usize>;

fn set(mask: &PageMask) -> Pages {
    mask.iter().map(PageIndex::get).collect()
}

/// Steps 0 to 3, 8 and 9 as they are described, and who had what become of which page.
#[derive(Default)]
struct Model {
    last: Option<Location>,
    count: usize,
    /// On the host, and on the device.
    outstanding: [Pages; 2],
    by: Option<Kind>,
    prefetched: u64,
    ended: [u64; 4],
    changed_hands: u64,
}

impl Model {
    /// The hint, given what the tree or the policy wants of the block.
    fn batch(&mut self, params: &Params, given: &Given, wanted: &Pages) -> Pages {
        let faulted = set(&given.case.faulted);
        for side in BOTH {
            if given.destination != Some(side.other()) {
                self.outcome(side, Outcome::Dropped, &given.case.faulted);
            }
        }
        // 0
        if !params.enabled || given.destination.is_none() {
            return Pages::new();
        }
        // 1
        if given.destination != self.last {
            self.count = 0;
            self.last = given.destination;
        }
        let whole = given.case.bounds.max_region().pages().map(PageIndex::get);
        let mut hint = if params.policy == Kind::None {
            Pages::new()
        } else if !given.resident_anywhere && given.preferred == given.destination {
            // 2
            whole.collect()
        } else if given.preferred.is_some() && given.preferred != given.destination {
            // 3
            Pages::new()
        } else {
            wanted.clone()
        };
        // 8
        hint.retain(|page| !faulted.contains(page) && !given.case.thrashing.contains(*page));
        if given.destination == Some(Location::Host) {
            hint.retain(|page| !given.mapped.contains(*page));
        }
        // 9
        self.count += faulted.len();
        if self.count < params.min_faults.get() as usize {
            hint.clear();
        }
        if !hint.is_empty() {
            if self.by != Some(params.policy) {
                self.changed_hands += self.all_outstanding();
                self.outstanding = <[Pages; 2]>::default();
                self.by = Some(params.policy);
            }
            let outstanding = &mut self.outstanding[given.destination.unwrap() as usize];
            for page in &hint {
                if !given.case.resident.contains(*page) {
                    self.prefetched += u64::from(outstanding.insert(*page));
                }
            }
        }
        hint
    }

    fn all_outstanding(&self) -> u64 {
        self.outstanding.iter().map(|side| side.len() as u64).sum()
    }

    fn outcome(&mut self, at: Location, outcome: Outcome, pages: &PageMask) {
        for page in set(pages) {
            // Who moved elsewhere went unused too.
            let ended = match outcome {
                Outcome::Moved => Outcome::Evicted,
                other => other,
            };
            self.ended[ended as usize] += u64::from(self.outstanding[at as usize].remove(&page));
        }
    }
}

proptest! {
    #![proptest_config(cases(600))]

    #[test]
    fn sequences_of_batches_are_decided_as_described(steps in prop::collection::vec(step(), 1..=most(20))) {
        let mut function = FunctionState::NEW;
        let mut block = BlockState::NEW;
        let mut model = Model::default();
        for step in &steps {
            match step {
                Step::Outcome(at, outcome, pages) => {
                    feedback(&mut function, &mut block, *at, *outcome, pages);
                    model.outcome(*at, *outcome, pages);
                }
                Step::Batch(params, given) => {
                    let hint = prefetch(params, &mut function, &mut block, &given.batch());
                    let whole: Pages = given.case.bounds.max_region().pages().map(PageIndex::get).collect();
                    let calm = !given.case.faulted.minus(&given.case.thrashing).is_empty();
                    let wanted = match params.policy {
                        Kind::None => Pages::new(),
                        Kind::AlwaysMax => if calm { whole } else { Pages::new() },
                        Kind::Fixed => {
                            let mut case = given.case.clone();
                            case.threshold = params.threshold;
                            set(&tree::reference::decide(&case.input(params.mode, params.walk)))
                        }
                        // What the others want is tested elsewhere; here, that nothing but that matters.
                        _ => {
                            prop_assert!(set(&hint.pages).is_subset(&whole));
                            set(&hint.pages)
                        }
                    };
                    prop_assert_eq!(set(&hint.pages), model.batch(params, given, &wanted), "{:?}", hint.reason);
                }
            }
            for at in BOTH {
                let outstanding = &model.outstanding[at as usize];
                prop_assert_eq!(&set(block.outstanding(at)), outstanding);
            }
            let sum = function.all_counters();
            prop_assert_eq!(sum.prefetched, model.prefetched);
            prop_assert_eq!(&[sum.used, sum.late, sum.evicted_unused], &model.ended[..3]);
            prop_assert_eq!(sum.dropped, model.ended[3] + model.changed_hands);
            prop_assert_eq!(sum.outstanding(), model.all_outstanding());
            prop_assert!(sum.hints <= sum.decisions + function.totals().first_touches);
        }
    }

    #[test]
    fn the_same_again_gives_the_same(steps in prop::collection::vec(step(), 1..=most(10))) {
        let run = || -> Vec<Hint> {
            let (mut function, mut block) = (FunctionState::NEW, BlockState::NEW);
            steps.iter().filter_map(|step| match step {
                Step::Outcome(at, outcome, pages) => {
                    feedback(&mut function, &mut block, *at, *outcome, pages);
                    None
                }
                Step::Batch(params, given) => Some(prefetch(params, &mut function, &mut block, &given.batch())),
            }).collect()
        };
        prop_assert_eq!(run(), run());
    }
}

/// A batch for which nothing but the policy matters.
fn plain(case: Case) -> Given {
    Given {
        case,
        written: PageMask::EMPTY,
        resident_anywhere: true,
        mapped: PageMask::EMPTY,
        destination: Some(Location::Device),
        preferred: None,
        now_ns: 1,
        random: 0,
        pressure: 0,
        share: 50,
        link_bytes: 0,
    }
}

fn with(policy: Kind, threshold: Threshold) -> Params {
    Params {
        policy,
        threshold,
        ..Params::DEFAULT
    }
}

fn once(params: &Params, given: &Given) -> Hint {
    prefetch(
        params,
        &mut FunctionState::NEW.clone(),
        &mut BlockState::NEW.clone(),
        &given.batch(),
    )
}

fn tree_of(params: &Params, case: &Case) -> Tree {
    let mut case = case.clone();
    case.threshold = params.threshold;
    Tree::new(&case.input(params.mode, params.walk))
}

/// The union of what `formula` says of each faulted page that is not thrashing, less step 8.
fn for_each_page(
    params: &Params,
    case: &Case,
    formula: impl Fn(&Tree, PageIndex) -> Option<Region>,
) -> PageMask {
    let tree = tree_of(params, case);
    let mut pages = PageMask::EMPTY;
    for page in case.faulted.minus(&case.thrashing).iter() {
        pages.insert(formula(&tree, page).unwrap_or(Region::EMPTY));
    }
    pages.minus(&case.faulted).minus(&case.thrashing)
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn multi_level_takes_the_largest_of_three_nodes(case in case()) {
        let params = with(Kind::MultiLevel, case.threshold);
        let expected = for_each_page(&params, &case, |tree, page| {
            [(6, 90), (4, 60), (2, 30)].into_iter().find_map(|(height, percent)| {
                let node = tree.node(page, height)?;
                node.over(Threshold::new(percent).unwrap()).then_some(node.region)
            })
        });
        prop_assert_eq!(once(&params, &plain(case)).pages, expected);
    }

    #[test]
    fn thrashing_aware_leaves_out_regions_with_thrashing_pages(case in case()) {
        let params = with(Kind::ThrashingAware, case.threshold);
        let expected = for_each_page(&params, &case, |tree, page| {
            let node = tree.largest_over(page, params.threshold)?;
            (case.thrashing.count_in(node.region) == 0).then_some(node.region)
        });
        prop_assert_eq!(once(&params, &plain(case)).pages, expected);
    }

    #[test]
    fn lru_takes_the_own_64_kib_and_touched_neighbours(case in case(), before in mask(), count in 1u32..=8) {
        let params = Params {
            neighbours: Neighbours::new(count).unwrap(),
            ..with(Kind::Lru, case.threshold)
        };
        let (mut function, mut block) = (FunctionState::NEW, BlockState::NEW);
        let va = case.bounds.va_first_page();
        let group = |page: usize| (page + va) / 16;
        let max: Pages = case.bounds.max_region().pages().map(PageIndex::get).collect();

        let mut first = plain(case.clone());
        first.case.faulted = before.within(case.bounds.max_region());
        prefetch(&params, &mut function, &mut block, &first.batch());
        let mut order: Vec<usize> = Vec::new();
        for page in set(&first.case.faulted).into_iter().chain(set(&case.faulted)) {
            order.retain(|seen| *seen != group(page));
            order.insert(0, group(page));
        }
        order.truncate(count as usize);
        let faulted: BTreeSet<usize> = set(&case.faulted.minus(&case.thrashing)).into_iter().map(group).collect();
        let wanted = |page: &usize| {
            let own = group(*page);
            let beside = faulted.contains(&(own + 1)) || own > 0 && faulted.contains(&(own - 1));
            faulted.contains(&own) || beside && order.contains(&own)
        };
        let hint = prefetch(&params, &mut function, &mut block, &plain(case.clone()).batch());
        let expected: Pages = max.into_iter().filter(wanted)
            .filter(|page| !case.faulted.contains(*page) && !case.thrashing.contains(*page)).collect();
        prop_assert_eq!(set(&hint.pages), expected);
    }

    #[test]
    fn stride_is_native_while_it_is_unsure(case in case(), degree in 1u32..=64) {
        let params = Params {
            stride_degree: StrideDegree::new(degree).unwrap(),
            ..with(Kind::Stride, case.threshold)
        };
        let faulted: Vec<usize> = set(&case.faulted).into_iter().collect();
        let hint = once(&params, &plain(case.clone())).pages;
        let expected = match faulted.as_slice() {
            [.., a, b, c] if b - a == c - b => {
                let stride = c - b;
                PageMask::from(Region::clipped(c + stride, c + stride * (degree as usize + 1)))
                    .within(case.bounds.max_region())
                    .minus(&case.faulted)
                    .minus(&case.thrashing)
            }
            _ => once(&with(Kind::Fixed, case.threshold), &plain(case)).pages,
        };
        prop_assert_eq!(hint, expected);
    }

    #[test]
    fn probabilistic_is_all_or_nothing(case in case(), random in any::<u32>(), aggressiveness in 0u32..=100) {
        let params = Params {
            aggressiveness: Aggressiveness::new(aggressiveness).unwrap(),
            ..with(Kind::Probabilistic, case.threshold)
        };
        let given = Given { random, ..plain(case.clone()) };
        // Nothing is known of the block: a hit rate of 1.
        let tried = u64::from(random & 0xffff) * 100 < u64::from(aggressiveness) << 16;
        let native = once(&with(Kind::Fixed, case.threshold), &given).pages;
        prop_assert_eq!(once(&params, &given).pages, if tried { native } else { PageMask::EMPTY });
    }

    #[test]
    fn frequency_brings_what_the_block_would_fault_on(case in case(), elapsed_us in 1u64..100_000, horizon in 1u32..100_000) {
        let params = Params {
            horizon_us: Micros::new(horizon).unwrap(),
            ..with(Kind::Frequency, case.threshold)
        };
        let (mut function, mut block) = (FunctionState::NEW, BlockState::NEW);
        let first = prefetch(&params, &mut function, &mut block, &plain(case.clone()).batch());
        prop_assert_eq!(first.pages, once(&with(Kind::Fixed, case.threshold), &plain(case.clone())).pages);
        let given = Given { now_ns: 1 + elapsed_us * 1_000, ..plain(case.clone()) };
        let hint = prefetch(&params, &mut function, &mut block, &given.batch());
        let per_second = case.faulted.count() as u64 * 1_000_000 / elapsed_us;
        let degree = usize::try_from(per_second * u64::from(horizon) / 1_000_000).unwrap().min(512);
        let mut expected = PageMask::EMPTY;
        for page in case.faulted.minus(&case.thrashing).iter() {
            expected.insert(Region::clipped(page.get(), page.get() + degree + 1));
        }
        let expected = expected.within(case.bounds.max_region()).minus(&case.faulted).minus(&case.thrashing);
        prop_assert_eq!(hint.pages, expected);
    }

    #[test]
    fn adaptive_policies_are_the_tree_with_another_threshold(case in case(), pressure in 0u8..=100, bytes in 0u64..600_000) {
        for kind in [Kind::Traffic, Kind::Pressure] {
            let params = Params {
                sample_period_us: Micros::clamped(1_000),
                ..with(kind, case.threshold)
            };
            let (mut function, mut block) = (FunctionState::NEW, BlockState::NEW);
            let first = prefetch(&params, &mut function, &mut block, &plain(case.clone()).batch());
            prop_assert_eq!(first.pages, once(&with(Kind::Fixed, case.threshold), &plain(case.clone())).pages);
            let given = Given { now_ns: 1_000_001, pressure, link_bytes: bytes, ..plain(case.clone()) };
            let hint = prefetch(&params, &mut function, &mut block, &given.batch());
            let percent = match kind {
                Kind::Traffic if bytes / 1_000 > 300 => 75,
                Kind::Traffic if bytes / 1_000 > 100 => 51,
                Kind::Traffic => 30,
                _ if pressure > 90 => 75,
                _ if pressure < 50 => 25,
                _ => 51,
            };
            let fixed = with(Kind::Fixed, Threshold::new(percent).unwrap());
            prop_assert_eq!(hint.pages, once(&fixed, &given).pages);
        }
    }
}

/// A policy from outside that does what it is told.
#[derive(Clone, Debug)]
struct Scripted {
    /// Of every second page from a start: what to answer, and which region to set before.
    pages: [(Action, Option<(usize, usize)>); 2],
    /// What to set at nodes of this many pages or fewer.
    loop_below: usize,
    nodes: Vec<(PageIndex, Node)>,
}

impl Policy for Scripted {
    fn before_compute(&mut self, _view: &View<'_>, page: PageIndex, answer: &mut Answer) -> Action {
        let (action, region) = self.pages[page.get() % 2];
        if let Some((first, outer)) = region {
            let _ = answer.set(first, outer);
        }
        action
    }

    fn on_tree_iter(
        &mut self,
        _view: &View<'_>,
        page: PageIndex,
        node: &Node,
        answer: &mut Answer,
    ) -> Action {
        self.nodes.push((page, *node));
        if node.node_pages <= self.loop_below {
            answer
                .set(node.region.first(), node.region.outer())
                .unwrap();
        }
        Action::Bypass
    }
}

fn action() -> impl Strategy<Value = Action> {
    (0u32..3).prop_map(|value| Action::from_raw(value).unwrap())
}

fn raw_region() -> impl Strategy<Value = Option<(usize, usize)>> {
    prop_oneof![
        2 => Just(None),
        4 => region().prop_map(|region| Some((region.first(), region.outer()))),
        2 => (0usize..600, 0usize..600).prop_map(Some),
    ]
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn a_policy_from_outside_is_asked_for_each_page(
        case in case(),
        pages in prop::array::uniform2((action(), raw_region())),
        loop_below in 0usize..600,
    ) {
        let params = with(Kind::Fixed, case.threshold);
        let mut policy = Scripted { pages, loop_below, nodes: Vec::new() };
        let (mut function, mut block) = (FunctionState::NEW, BlockState::NEW);
        let given = plain(case.clone());
        let hint = prefetch_with(&params, &mut function, &mut block, &given.batch(), &mut policy);

        let max = case.bounds.max_region();
        let tree = tree_of(&params, &case);
        let mut invalid = 0;
        let mut asked = Vec::new();
        let mut expected = PageMask::EMPTY;
        for page in case.faulted.minus(&case.thrashing).iter() {
            let native = tree.largest_over(page, params.threshold).map_or(Region::EMPTY, |node| node.region);
            let (action, set) = pages[page.get() % 2];
            let mut region = Some(Region::EMPTY);
            if let Some((first, outer)) = set {
                let pages: Vec<usize> = (first..outer).collect();
                let allowed = pages.iter().filter(|page| max.first() <= **page && **page < max.outer()).count();
                let bad = first > outer || outer > 512 || allowed == 0 && !pages.is_empty();
                region = (!bad).then(|| Region::clipped(first, outer).intersection(max));
            }
            let region = match action {
                Action::Default => native,
                Action::Bypass | Action::EnterLoop => {
                    if action == Action::EnterLoop {
                        for node in tree.path(page) {
                            asked.push((page, node));
                            if node.node_pages <= loop_below {
                                region = Some(node.region);
                            }
                        }
                    }
                    invalid += u64::from(region.is_none());
                    region.unwrap_or(native)
                }
            };
            expected.insert(region);
        }
        prop_assert_eq!(hint.pages, expected.minus(&case.faulted).minus(&case.thrashing));
        prop_assert_eq!(policy.nodes, asked);
        let counters = function.counters(Source::External);
        prop_assert_eq!((counters.decisions, counters.invalid), (1, invalid));
        prop_assert_eq!(function.counters(Source::Native(Kind::Fixed)), Counters::ZERO);
    }

    #[test]
    fn the_path_goes_from_the_page_to_the_root(case in case()) {
        for walk in [Walk::Managed, Walk::Ats] {
            let tree = Tree::new(&case.input(Mode::Strict, walk));
            for page in case.faulted.iter() {
                let path: Vec<Node> = tree.path(page).collect();
                prop_assert_eq!(path.first().map(|node| node.region), Some(page.region()));
                prop_assert_eq!(path.last().map(|node| node.region), Some(case.bounds.max_region()));
                for pair in path.windows(2) {
                    prop_assert!(pair[1].region.covers(pair[0].region));
                    prop_assert!(pair[0].node_pages <= pair[1].node_pages);
                    prop_assert!(pair[0].count <= pair[1].count);
                    prop_assert!(pair[0].node_pages.is_power_of_two() || pair[0].region.outer() == case.bounds.max_region().outer());
                }
            }
        }
    }
}

/// What a native policy wants, asked page by page.
struct EachPage<P>(P);

impl<P: Policy> Policy for EachPage<P> {
    fn before_compute(&mut self, view: &View<'_>, _page: PageIndex, answer: &mut Answer) -> Action {
        match self.0.plan(view) {
            Plan::Pages(pages) => {
                // A region at a time is all that a page can have: the policies here want one.
                let run = pages.runs().next().unwrap_or(Region::EMPTY);
                assert_eq!(pages, PageMask::from(run));
                answer.set(run.first(), run.outer()).unwrap();
                Action::Bypass
            }
            _ => Action::Default,
        }
    }
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn asked_page_by_page_simple_policies_want_the_same(case in case()) {
        let params = with(Kind::Fixed, case.threshold);
        let given = plain(case.clone());
        let ask = |policy: &mut dyn Policy| {
            prefetch_with(&params, &mut FunctionState::NEW.clone(), &mut BlockState::NEW.clone(), &given.batch(), policy).pages
        };
        prop_assert_eq!(ask(&mut EachPage(policy::simple::Fixed)), once(&params, &given).pages);
        let max = once(&with(Kind::AlwaysMax, case.threshold), &given).pages;
        prop_assert_eq!(ask(&mut EachPage(policy::simple::AlwaysMax)), max);
        prop_assert_eq!(ask(&mut EachPage(policy::simple::None)), PageMask::EMPTY);
    }
}

#[test]
fn names_are_unique_and_found() {
    for kind in Kind::ALL {
        assert_eq!(Kind::from_name(kind.name()), Some(kind));
    }
    assert_eq!(Kind::from_name("best"), None);
    let indices: BTreeSet<usize> = Kind::ALL
        .iter()
        .map(|kind| Source::Native(*kind).index())
        .collect();
    assert_eq!(indices.len(), Kind::ALL.len());
    assert_eq!(
        indices.last().map(|last| last + 1),
        Some(Source::External.index())
    );
    assert_eq!(Action::from_raw(3), None);
}

#[test]
fn a_hint_of_another_policy_drops_what_the_one_before_waits_for() {
    let (mut function, mut block) = (FunctionState::NEW, BlockState::NEW);
    let mut given = plain(Case {
        threshold: Threshold::DEFAULT,
        bounds: Bounds::BLOCK,
        resident: PageMask::EMPTY,
        faulted: PageIndex::FIRST.region().into(),
        thrashing: PageMask::EMPTY,
    });
    prefetch(
        &with(Kind::AlwaysMax, Threshold::DEFAULT),
        &mut function,
        &mut block,
        &given.batch(),
    );
    let max = function.counters(Source::Native(Kind::AlwaysMax));
    assert_eq!(
        (max.prefetched, max.dropped, max.outstanding()),
        (511, 0, 511)
    );
    given.case.faulted = PageIndex::new(100).unwrap().region().into();
    prefetch(
        &with(Kind::Fixed, Threshold::DEFAULT),
        &mut function,
        &mut block,
        &given.batch(),
    );
    let max = function.counters(Source::Native(Kind::AlwaysMax));
    assert_eq!(
        (max.prefetched, max.dropped, max.outstanding()),
        (511, 511, 0)
    );
    assert_eq!(
        function.counters(Source::Native(Kind::Fixed)).prefetched,
        15
    );
}

/// Always-max brings a block, or the rest of it, to `to`.
fn brings(function: &mut FunctionState, block: &mut BlockState, kind: Kind, to: Location) {
    let mut given = plain(Case {
        threshold: Threshold::ALWAYS,
        bounds: Bounds::BLOCK,
        resident: PageMask::EMPTY,
        faulted: PageIndex::FIRST.region().into(),
        thrashing: PageMask::EMPTY,
    });
    given.destination = Some(to);
    prefetch(
        &with(kind, Threshold::ALWAYS),
        function,
        block,
        &given.batch(),
    );
}

#[test]
fn what_pages_did_where_they_were_says_nothing_of_where_they_go() {
    let (mut function, mut block) = (FunctionState::NEW, BlockState::NEW);
    let ends = |function: &FunctionState| {
        let all = function.all_counters();
        (all.used, all.evicted_unused, all.outstanding())
    };
    // The device wants what came along to the host: what became of that is known when the host has it no more.
    brings(&mut function, &mut block, Kind::AlwaysMax, Location::Host);
    brings(&mut function, &mut block, Kind::AlwaysMax, Location::Device);
    assert_eq!(ends(&function), (0, 0, 2 * 511));
    let half = PageMask::from(Region::new(0, 256).unwrap());
    let mut tell = |at, outcome, pages: &PageMask| {
        feedback(&mut function, &mut block, at, outcome, pages);
        ends(&function)
    };
    tell(Location::Host, Outcome::Used, &half);
    let ended = tell(Location::Host, Outcome::Moved, &PageMask::ALL);
    assert_eq!(ended, (255, 256, 511));
    // The same on the device.
    tell(
        Location::Device,
        Outcome::Used,
        &PageMask::from(Region::new(0, 11).unwrap()),
    );
    let ended = tell(Location::Device, Outcome::Evicted, &PageMask::ALL);
    assert_eq!(ended, (255 + 10, 256 + 501, 0));
}

#[test]
fn what_the_host_does_teaches_nothing_of_the_devices_memory() {
    let (mut function, mut block) = (FunctionState::NEW, BlockState::NEW);
    brings(&mut function, &mut block, Kind::Auto, Location::Host);
    let before = function.auto.clone();
    for outcome in [Outcome::Used, Outcome::Moved, Outcome::Evicted] {
        feedback(
            &mut function,
            &mut block,
            Location::Host,
            outcome,
            &PageMask::ALL,
        );
        assert!(function.auto == before, "{outcome:?}");
    }
}

#[test]
fn blocks_are_looked_at_in_turns_until_all_of_them_is_known() {
    let mut function = FunctionState::NEW;
    let mut blocks = std::vec![BlockState::NEW; 6];
    let at = |index: usize| BlockId {
        space: 0,
        index: index as u64,
    };
    let mut bring = |function: &mut FunctionState, index: usize, kind| {
        let mut given = plain(Case {
            threshold: Threshold::ALWAYS,
            bounds: Bounds::BLOCK,
            resident: PageMask::EMPTY,
            faulted: PageIndex::FIRST.region().into(),
            thrashing: PageMask::EMPTY,
        });
        given.destination = Some(Location::Device);
        // Auto brings all where all has room.
        given.share = 100;
        let batch = Batch {
            block: at(index),
            ..given.batch()
        };
        prefetch(
            &with(kind, Threshold::ALWAYS),
            function,
            &mut blocks[index],
            &batch,
        );
        blocks[index].clone()
    };
    let turn = |function: &mut FunctionState| -> Vec<usize> {
        undecided(function)
            .into_iter()
            .flatten()
            .filter_map(|at| usize::try_from(at.index).ok())
            .collect()
    };
    // Nobody learns from it.
    assert!(bring(&mut function, 0, Kind::AlwaysMax)
        .undecided()
        .is_empty());
    assert_eq!(turn(&mut function), []);
    for index in 0..6 {
        assert_eq!(
            bring(&mut function, index, Kind::Auto).undecided().count(),
            511
        );
    }
    assert_eq!(turn(&mut function), [0, 1, 2, 3]);
    let used = |index| {
        if index == 1 {
            PageMask::ALL
        } else {
            PageMask::EMPTY
        }
    };
    for (index, block) in blocks.iter_mut().enumerate().take(4) {
        seen(&mut function, block, at(index), &used(index));
    }
    // Of block 1 all is known.
    assert_eq!(turn(&mut function), [4, 5, 0, 2]);
    assert_eq!(turn(&mut function), [3]);
    assert_eq!(turn(&mut function), []);
    let counters = function.counters(Source::Native(Kind::Auto));
    assert_eq!((counters.used, counters.outstanding()), (511, 5 * 511));
}
