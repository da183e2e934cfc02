// SPDX-License-Identifier: GPL-2.0 OR MIT

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::super::testing::{cases, most};
use super::*;
use proptest::prelude::*;
use std::boxed::Box;
use std::collections::HashSet;
use std::vec::Vec;

const REACH: Reach = Reach {
    distance: 16,
    degree: 4,
};

/// What came of it.
#[derive(Default, Debug)]
struct Outcome {
    accesses: usize,
    /// Accesses to pages that had been asked for.
    covered: usize,
    asked: usize,
}

impl Outcome {
    fn coverage(&self) -> usize {
        self.covered * 100 / self.accesses.max(1)
    }

    fn accuracy(&self) -> usize {
        self.covered * 100 / self.asked.max(1)
    }
}

struct Run {
    profiler: Box<Profiler>,
    asked: HashSet<u64>,
    allowed: Allowed,
    last: Option<Predictor>,
}

impl Run {
    fn new(allowed: Allowed) -> Self {
        Self {
            profiler: Box::new(Profiler::NEW),
            asked: HashSet::new(),
            allowed,
            last: None,
        }
    }

    /// What comes of `accesses`, of (actor, page).
    fn feed(&mut self, accesses: impl IntoIterator<Item = (u32, u64)>) -> Outcome {
        let mut outcome = Outcome::default();
        for (now, (by, page)) in (0..).zip(accesses) {
            outcome.accesses += 1;
            // What was asked for is used once.
            outcome.covered += usize::from(self.asked.remove(&page));
            let access = Access {
                space: 0,
                page,
                by: Actor(by),
                kind: Kind::Read,
                now_ns: now * 1_000,
            };
            if let Some(answer) = self.profiler.observe(&access, self.allowed, |_| REACH) {
                assert!(self.allowed.has(answer.predictor));
                assert!(!answer.pages().is_empty());
                self.last = Some(answer.predictor);
                for page in answer.pages() {
                    outcome.asked += usize::from(self.asked.insert(*page));
                }
            }
        }
        outcome
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, outer: u64) -> u64 {
        (self.next() >> 11) % outer
    }
}

/// `count` pages of `outer` in an order of their own, each once.
fn shuffled(count: usize, outer: u64) -> Vec<u64> {
    let mut random = Random(88_172_645_463_325_252);
    let mut seen = HashSet::new();
    core::iter::repeat_with(|| random.below(outer))
        .filter(|page| seen.insert(*page))
        .take(count)
        .collect()
}

#[test]
fn it_fits_its_budget() {
    assert!(size_of::<Profiler>() <= BYTES);
}

#[test]
fn sequential_and_strided_accesses_are_asked_for_once_and_ahead() {
    for stride in [1i64, 3, 7, -1, -5, 300] {
        let pages = (0..1_000).map(|step| (0, u64::try_from(1_000_000 + step * stride).unwrap()));
        let outcome = Run::new(Allowed::ALL).feed(pages);
        assert!(outcome.coverage() >= 98, "{stride}: {outcome:?}");
        assert!(outcome.accuracy() >= 97, "{stride}: {outcome:?}");
    }
}

#[test]
fn interleaved_streams_of_one_thread_are_told_apart() {
    let pages = (0..400u64).flat_map(|step| {
        (0..5u64).map(move |stream| (0, stream * 1_000_000 + step * (stream + 1)))
    });
    let outcome = Run::new(Allowed::ALL).feed(pages);
    assert!(outcome.coverage() >= 95, "{outcome:?}");
    assert!(outcome.accuracy() >= 90, "{outcome:?}");
}

#[test]
fn threads_that_share_a_sequence_make_one_lane() {
    let mut random = Random(7);
    let pages: Vec<_> = (0..1_000u64)
        .map(|page| (u32::try_from(random.below(4)).unwrap(), page))
        .collect();
    let outcome = Run::new(Allowed::ALL).feed(pages);
    assert!(outcome.coverage() >= 95, "{outcome:?}");
}

#[test]
fn a_chase_is_known_in_its_second_round() {
    let chase = shuffled(1_000, 1 << 20);
    for by in [1, 2] {
        let mut run = Run::new(Allowed::ALL);
        let first = run.feed(chase.iter().map(|page| (by, *page)));
        assert!(first.asked <= 20, "{first:?}");
        run.feed(chase.iter().map(|page| (by, *page)));
        let third = run.feed(chase.iter().map(|page| (by, *page)));
        assert!(third.coverage() >= 90, "{third:?}");
        assert!(third.accuracy() >= 90, "{third:?}");
        assert_eq!(run.last, Some(Predictor::Markov));
    }
}

#[test]
fn random_accesses_are_left_alone() {
    let mut random = Random(99);
    for outer in [1 << 12, 1 << 18, 1 << 30] {
        let pages: Vec<_> = (0..20_000).map(|_| (0, random.below(outer))).collect();
        let outcome = Run::new(Allowed::ALL).feed(pages);
        assert!(
            outcome.asked * 50 <= outcome.accesses,
            "{outer}: {outcome:?}"
        );
    }
}

#[test]
fn a_pattern_with_noise_is_the_perceptrons() {
    let mut random = Random(5);
    let pattern = [2u64, 900, 4, 2_000, 7];
    let mut page = 0;
    let pages: Vec<_> = (0..6_000usize)
        .map(|turn| {
            page += if random.below(12) == 0 {
                random.below(100_000)
            } else {
                pattern[turn % pattern.len()]
            };
            (0, page)
        })
        .collect();
    let only = |predictor| Run::new(Allowed::NONE.and(predictor)).feed(pages.iter().copied());
    let (markov, learned) = (only(Predictor::Markov), only(Predictor::Learned));
    assert!(learned.coverage() > 40, "{learned:?}");
    let all = Run::new(Allowed::ALL).feed(pages.iter().copied());
    let best = learned.coverage().max(markov.coverage());
    assert!(
        all.coverage() + 10 >= best,
        "{all:?} {learned:?} {markov:?}"
    );
}

#[test]
fn nobody_is_asked_who_is_not_allowed() {
    let outcome = Run::new(Allowed::NONE).feed((0..1_000).map(|page| (0, page)));
    assert_eq!(outcome.asked, 0);
}

#[test]
fn a_closed_space_is_forgotten() {
    let mut run = Run::new(Allowed::ALL);
    run.feed((0..100).map(|page| (0, page)));
    run.profiler.forget(0);
    assert_eq!(run.profiler.streams().count(), 0);
    let outcome = run.feed((101..103).map(|page| (0, page)));
    assert_eq!(outcome.asked, 0);
}

#[test]
fn what_is_known_can_be_seen() {
    let mut run = Run::new(Allowed::ALL);
    run.feed((0..100).map(|step| (5, step * 3)));
    let streams: Vec<_> = run.profiler.streams().collect();
    let [stream] = streams.as_slice() else {
        panic!("{streams:?}");
    };
    assert_eq!(
        (stream.by, stream.page, stream.accesses),
        (Actor(5), 297, 100)
    );
    assert_eq!(
        (stream.chosen, stream.next),
        (Some(Predictor::Stride), Some(300))
    );
    assert!(stream.right[0] > 90);
    assert!(
        (800..=1_000).contains(&stream.interval_ns),
        "{}",
        stream.interval_ns
    );
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn any_access_does_no_harm_and_all_repeats(
        accesses in prop::collection::vec((0u32..3, prop_oneof![any::<u64>(), 0u64..64, Just(u64::MAX)], 0u32..3, any::<u64>()), 0..most(600)),
        distance in any::<u8>(),
        degree in any::<u8>(),
    ) {
        let reach = Reach { distance, degree };
        let run = || {
            let mut profiler = Box::new(Profiler::NEW);
            let mut answers = Vec::new();
            for (space, page, by, now_ns) in &accesses {
                let access = Access { space: *space, page: *page, by: Actor(*by), kind: Kind::Read, now_ns: *now_ns };
                let answer = profiler.observe(&access, Allowed::ALL, |_| reach);
                if let Some(answer) = answer {
                    assert!(!answer.pages().is_empty() && answer.pages().len() <= usize::from(distance));
                }
                answers.push(answer);
            }
            answers
        };
        prop_assert_eq!(run(), run());
    }
}
