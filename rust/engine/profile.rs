// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The activity profiler of a function: which pages it will touch next, across blocks and across time.
//!
//! The tree ([`super::tree`]) looks inside a block, at what is resident; this looks at what was accessed, in which order, by whom.
//! Each access is told to the [`Profiler`] once and belongs to
//! - a *lane*: the accesses near it, whoever makes them, so that interleaved streams do not hide each other's strides; and
//! - a *chain*: the accesses of its thread or job to its space, wherever they are, so that jumps are seen in their order.
//!
//! Three predictors compete: the stride of the lane, with a best-offset search for the chain beside it; a Markov table over distances;
//! and a perceptron. Each guesses the next access of each lane or chain all the time, whether or not anybody listens, and is measured by that. The best one
//! is asked for pages, if it is right more often than not; when none is, there is silence. What was asked for
//! is remembered, so that each further access asks only for what is missing ahead.
//!
//! All state is plain data of stated size ([`BYTES`]).

use core::mem::size_of;

mod chain;
mod lane;
mod markov;
mod offset;
mod perceptron;
mod score;
#[cfg(test)]
mod tests;

use chain::Chains;
use lane::Lanes;
use markov::Markov;

/// Pages that an answer can have.
pub const MOST_AHEAD: usize = FARTHEST as usize;

/// The same, as a distance.
pub const FARTHEST: u8 = 32;

/// The memory of a profiler is within this budget: 64 KiB for a function.
pub const BYTES: usize = 64 << 10;
const _: () = assert!(size_of::<Profiler>() <= BYTES);

/// What an access is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// A fault of a process.
    HostFault,
    /// A fault of a job.
    DeviceFault,
    /// `read()`.
    Read,
    /// `write()`.
    Write,
}

/// Who makes an access, as far as that is known: a thread, or a job.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Actor(pub u32);

/// An access to a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// The space, by the number that the driver gave it.
    pub space: u32,
    /// The page, counted from the beginning of the space.
    pub page: u64,
    /// Who.
    pub by: Actor,
    /// What.
    pub kind: Kind,
    /// When, from any beginning.
    pub now_ns: u64,
}

/// A predictor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Predictor {
    /// Strides, and the best offset.
    Stride,
    /// The Markov table.
    Markov,
    /// The perceptron.
    Learned,
}

impl Predictor {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Stride, Self::Markov, Self::Learned];

    /// Its number, below 3.
    #[must_use]
    pub const fn number(self) -> usize {
        match self {
            Self::Stride => 0,
            Self::Markov => 1,
            Self::Learned => 2,
        }
    }
}

/// Which predictors may be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowed([bool; 3]);

impl Allowed {
    /// All of them.
    pub const ALL: Self = Self([true; 3]);

    /// None.
    pub const NONE: Self = Self([false; 3]);

    /// These, and `predictor`.
    #[must_use]
    pub const fn and(self, predictor: Predictor) -> Self {
        let mut all = self.0;
        all[predictor.number()] = true;
        Self(all)
    }

    /// Whether `predictor` may.
    #[must_use]
    pub const fn has(self, predictor: Predictor) -> bool {
        self.0[predictor.number()]
    }
}

/// How much is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reach {
    /// Accesses ahead of the last one, at most [`MOST_AHEAD`]; 0: nothing.
    pub distance: u8,
    /// Pages that are asked for together, if there are so many; at least 1.
    pub degree: u8,
}

/// Pages that will be accessed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Who says so.
    pub predictor: Predictor,
    pages: [u64; MOST_AHEAD],
    count: usize,
}

impl Answer {
    const fn new(predictor: Predictor) -> Self {
        Self {
            predictor,
            pages: [0; MOST_AHEAD],
            count: 0,
        }
    }

    fn push(&mut self, page: u64) {
        if let Some(place) = self.pages.get_mut(self.count) {
            *place = page;
            self.count = self.count.saturating_add(1);
        }
    }

    /// Them, the one that is accessed first before the others. Pages beyond the end of the space may be among them.
    #[must_use]
    pub fn pages(&self) -> &[u64] {
        self.pages.get(..self.count).unwrap_or(&[])
    }
}

/// What is known of a chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stream {
    /// The space.
    pub space: u32,
    /// Whose accesses.
    pub by: Actor,
    /// How many.
    pub accesses: u64,
    /// The last one.
    pub page: u64,
    /// Between two of them, lately.
    pub interval_ns: u64,
    /// Who is asked; `None` while nobody is good.
    pub chosen: Option<Predictor>,
    /// How often each predictor was right lately, in percent.
    pub right: [u8; 3],
    /// What comes next, as the chosen one sees it.
    pub next: Option<u64>,
}

/// The profiler of a function.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Profiler {
    lanes: Lanes,
    chains: Chains,
    markov: Markov,
    /// Accesses so far.
    clock: u32,
}

impl Profiler {
    /// Nothing is known.
    pub const NEW: Self = Self {
        lanes: Lanes::NEW,
        chains: Chains::NEW,
        markov: Markov::NEW,
        clock: 0,
    };

    /// An access: learns from it, and says what to bring now that was not asked for before.
    ///
    /// `reach` is asked how much is wanted of the predictor that has an answer.
    pub fn observe(
        &mut self,
        access: &Access,
        allowed: Allowed,
        reach: impl FnOnce(Predictor) -> Reach,
    ) -> Option<Answer> {
        self.clock = self.clock.wrapping_add(1);
        let at = self.chains.of(access, self.clock);
        let chain = self.chains.get_mut(at)?;
        if !chain.learn(access, &mut self.markov) {
            return None;
        }
        let lane_at = self.lanes.follow(access.space, access.page, self.clock);
        let lane = self.lanes.get_mut(lane_at)?;
        let chosen = chain.choose(lane, allowed)?;
        let reach = reach(chosen);
        let reach = Reach {
            distance: reach.distance.min(FARTHEST),
            degree: reach.degree.max(1),
        };
        let mut answer = Answer::new(chosen);
        chain.ask(lane, &self.markov, reach, &mut answer);
        (answer.count > 0).then_some(answer)
    }

    /// The chains, in no order.
    pub fn streams(&self) -> impl Iterator<Item = Stream> + '_ {
        self.chains
            .iter()
            .map(|chain| chain.stream(&self.lanes, &self.markov))
    }

    /// A space was closed: nothing of it is known any more.
    pub fn forget(&mut self, space: u32) {
        self.chains.forget(space);
        self.lanes.forget(space);
    }
}

/// A distance between two accesses in pages, less than 2^31 either way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Distance(i32);

impl Distance {
    /// None.
    const ZERO: Self = Self(0);

    fn new(by: i64) -> Option<Self> {
        i32::try_from(by).ok().map(Self)
    }

    /// From page `from` to page `to`.
    fn between(from: u64, to: u64) -> Option<Self> {
        Self::new(Self::wide(from, to))
    }

    /// The same, however far.
    #[allow(clippy::cast_possible_wrap, reason = "the other way round is as near")]
    const fn wide(from: u64, to: u64) -> i64 {
        // CAST: two's complement: a page 2^63 or more ahead is one behind.
        to.wrapping_sub(from) as i64
    }

    /// The page that far from `page`.
    fn from(self, page: u64) -> Option<u64> {
        page.checked_add_signed(i64::from(self.0))
    }

    /// Its bits, 32 of them.
    #[allow(clippy::cast_sign_loss, reason = "only bits are wanted")]
    const fn bits(self) -> u64 {
        // CAST: only bits are wanted.
        self.0 as u32 as u64
    }
}
