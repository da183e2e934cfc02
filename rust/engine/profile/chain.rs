// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The accesses of one thread or job to one space in their order, and who predicts them best.

use super::lane::{Lane, Lanes};
use super::markov::{Last, Markov};
use super::offset::Offsets;
use super::perceptron::{History, Perceptron};
use super::score::Score;
use super::{Access, Actor, Allowed, Answer, Distance, Predictor, Reach, Stream, MOST_AHEAD};

/// Chains that are followed at a time.
const CHAINS: usize = 8;

/// An access may leave out so many that were expected before it.
const GAP: usize = 4;

/// What is expected to come after some access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Outlook {
    page: u64,
    last: Last,
    history: History,
}

impl Outlook {
    /// The distance that `predictor` expects.
    fn next(
        &self,
        predictor: Predictor,
        markov: &Markov,
        model: &Perceptron,
    ) -> Option<(Distance, History)> {
        match predictor {
            Predictor::Stride => None,
            Predictor::Markov => markov.next(self.last).map(|next| (next, self.history)),
            Predictor::Learned => model.next(self.history),
        }
    }

    fn then(&self, by: Distance, history: History) -> Option<Self> {
        Some(Self {
            page: by.from(self.page)?,
            last: [by, self.last[0]],
            history,
        })
    }
}

/// Pages that were asked for and were not accessed yet, in their order.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Path {
    pages: [u64; MOST_AHEAD],
    first: usize,
    count: usize,
}

impl Path {
    const EMPTY: Self = Self {
        pages: [0; MOST_AHEAD],
        first: 0,
        count: 0,
    };

    fn push(&mut self, page: u64) {
        let at = self.first.wrapping_add(self.count) % MOST_AHEAD;
        if let Some(place) = self.pages.get_mut(at).filter(|_| self.count < MOST_AHEAD) {
            *place = page;
            self.count = self.count.saturating_add(1);
        }
    }

    /// `page` is accessed. Whether it is on the path, near its beginning; what is before it will not come any more.
    fn pass(&mut self, page: u64) -> bool {
        let at = (0..self.count.min(GAP))
            .find(|at| self.pages.get(self.first.wrapping_add(*at) % MOST_AHEAD) == Some(&page));
        let Some(at) = at else {
            self.count = 0;
            return false;
        };
        let passed = at.saturating_add(1);
        self.first = self.first.wrapping_add(passed) % MOST_AHEAD;
        self.count = self.count.saturating_sub(passed);
        true
    }
}

/// Accesses in their order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Chain {
    space: u32,
    by: Actor,
    accesses: u64,
    /// When it moved last, in accesses of the function; and in time.
    moved: u32,
    moved_ns: u64,
    interval_ns: u64,
    page: u64,
    last: Last,
    model: Perceptron,
    offsets: Offsets,
    /// What Markov table and perceptron expected, and how often they were right.
    expected: [Option<Distance>; 2],
    scores: [Score; 2],
    chosen: Option<Predictor>,
    path: Path,
    /// Behind the last page of the path.
    frontier: Option<Outlook>,
}

impl Chain {
    fn new(access: &Access, now: u32) -> Self {
        Self {
            space: access.space,
            by: access.by,
            accesses: 0,
            moved: now,
            moved_ns: access.now_ns,
            interval_ns: 0,
            page: access.page,
            last: [Distance::ZERO; 2],
            model: Perceptron::NEW,
            offsets: Offsets::NEW,
            expected: [None; 2],
            scores: [Score::NONE; 2],
            chosen: None,
            path: Path::EMPTY,
            frontier: None,
        }
    }

    /// The next access. `false` if it is the same page again.
    pub(super) fn learn(&mut self, access: &Access, markov: &mut Markov) -> bool {
        let before = self.accesses;
        self.accesses = before.saturating_add(1);
        let interval = access.now_ns.saturating_sub(self.moved_ns);
        self.moved_ns = access.now_ns;
        // An eighth of the newest.
        self.interval_ns = self
            .interval_ns
            .saturating_sub(self.interval_ns / 8)
            .saturating_add(interval / 8);
        if before == 0 {
            self.offsets.learn(access.space, access.page);
            return true;
        }
        if access.page == self.page {
            return false;
        }
        let came = Distance::between(self.page, access.page);
        self.page = access.page;
        self.offsets.learn(access.space, access.page);
        for (expected, score) in self.expected.iter().zip(&mut self.scores) {
            // Silence is not wrong, but it is not worth anything either.
            score.count(expected.is_some() && *expected == came);
        }
        let Some(by) = came else {
            // Too far to be told from any other.
            self.last = [Distance::ZERO; 2];
            self.expected = [None; 2];
            return true;
        };
        markov.learn(self.last, by);
        self.model.learn(by);
        self.last = [by, self.last[0]];
        let outlook = self.outlook();
        self.expected = [Predictor::Markov, Predictor::Learned].map(|predictor| {
            let next = outlook.next(predictor, markov, &self.model);
            next.map(|(by, _)| by)
        });
        true
    }

    const fn outlook(&self) -> Outlook {
        Outlook {
            page: self.page,
            last: self.last,
            history: self.model.history(),
        }
    }

    fn score(&self, predictor: Predictor, lane: &Lane) -> Score {
        match predictor {
            Predictor::Stride => lane.score,
            Predictor::Markov => self.scores[0],
            Predictor::Learned => self.scores[1],
        }
    }

    /// Whom to ask, of those that are allowed: who is right most often; another than before only if he is so much more often.
    pub(super) fn choose(&mut self, lane: &Lane, allowed: Allowed) -> Option<Predictor> {
        let speaks = |predictor: Predictor| {
            allowed.has(predictor)
                && match predictor {
                    Predictor::Stride => lane.good() || self.offsets.best().is_some(),
                    _ => self.score(predictor, lane).good(),
                }
        };
        let best = Predictor::ALL
            .into_iter()
            .filter(|predictor| speaks(*predictor))
            // Of those that are about equal the first, which is the cheapest.
            .fold(None, |best: Option<Predictor>, other| match best {
                Some(best) if !self.score(other, lane).beats(self.score(best, lane)) => Some(best),
                _ => Some(other),
            });
        let chosen = match (self.chosen.filter(|chosen| speaks(*chosen)), best) {
            (Some(chosen), Some(best))
                if !self.score(best, lane).beats(self.score(chosen, lane)) =>
            {
                Some(chosen)
            }
            (_, best) => best,
        };
        if chosen != self.chosen {
            self.path = Path::EMPTY;
        }
        self.chosen = chosen;
        chosen
    }

    /// What to bring, of what was not asked for before.
    pub(super) fn ask(
        &mut self,
        lane: &mut Lane,
        markov: &Markov,
        reach: Reach,
        answer: &mut Answer,
    ) {
        match answer.predictor {
            Predictor::Stride if lane.good() => lane.ask(reach, answer),
            Predictor::Stride => {
                if let Some(offset) = self.offsets.best() {
                    for steps in 1..=reach.degree.min(reach.distance) {
                        let by = i64::from(offset).saturating_mul(i64::from(steps));
                        if let Some(page) = self.page.checked_add_signed(by) {
                            answer.push(page);
                        }
                    }
                }
            }
            predictor => self.extend(predictor, markov, reach, answer),
        }
    }

    fn extend(&mut self, predictor: Predictor, markov: &Markov, reach: Reach, answer: &mut Answer) {
        if !self.path.pass(self.page) || self.path.count == 0 {
            self.frontier = Some(self.outlook());
        }
        let distance = usize::from(reach.distance);
        let missing = distance.saturating_sub(self.path.count);
        if missing < usize::from(reach.degree).min(distance) {
            return;
        }
        for _ in 0..missing {
            let next = self.frontier.and_then(|outlook| {
                let (by, history) = outlook.next(predictor, markov, &self.model)?;
                outlook.then(by, history)
            });
            let Some(next) = next else {
                break;
            };
            self.frontier = Some(next);
            self.path.push(next.page);
            answer.push(next.page);
        }
    }

    /// What is known of it.
    pub(super) fn stream(&self, lanes: &Lanes, markov: &Markov) -> Stream {
        let lane = lanes.near(self.space, self.page);
        let next = match self.chosen {
            None => None,
            Some(Predictor::Stride) => lane.and_then(|lane| lane.page(1)).or_else(|| {
                let offset = self.offsets.best()?;
                self.page.checked_add_signed(i64::from(offset))
            }),
            Some(predictor) => self
                .outlook()
                .next(predictor, markov, &self.model)
                .and_then(|(by, _)| by.from(self.page)),
        };
        let stride = lane.map_or(Score::NONE, |lane| lane.score);
        Stream {
            space: self.space,
            by: self.by,
            accesses: self.accesses,
            page: self.page,
            interval_ns: self.interval_ns,
            chosen: self.chosen,
            right: [stride, self.scores[0], self.scores[1]].map(Score::percent),
            next,
        }
    }
}

/// The chains that moved last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Chains {
    chains: [Option<Chain>; CHAINS],
}

impl Chains {
    pub(super) const NEW: Self = Self {
        chains: [const { None }; CHAINS],
    };

    /// The place of the chain of `access`: one more, in the place of the one that moved least lately, if there is none.
    pub(super) fn of(&mut self, access: &Access, now: u32) -> usize {
        let mut oldest = (0, 0);
        for (at, chain) in self.chains.iter_mut().enumerate() {
            let idle = match chain {
                Some(chain) if chain.space == access.space && chain.by == access.by => {
                    chain.moved = now;
                    return at;
                }
                Some(chain) => now.wrapping_sub(chain.moved),
                None => u32::MAX,
            };
            if idle > oldest.0 {
                oldest = (idle, at);
            }
        }
        let (_, at) = oldest;
        if let Some(place) = self.chains.get_mut(at) {
            *place = Some(Chain::new(access, now));
        }
        at
    }

    pub(super) fn get_mut(&mut self, at: usize) -> Option<&mut Chain> {
        self.chains.get_mut(at)?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Chain> {
        self.chains.iter().flatten()
    }

    pub(super) fn forget(&mut self, space: u32) {
        for chain in &mut self.chains {
            if chain.as_ref().is_some_and(|chain| chain.space == space) {
                *chain = None;
            }
        }
    }
}
