// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What came after the same distances before: a Markov predictor over distances between pages.
//!
//! After Joseph and Grunwald ("Prefetching using Markov predictors", ISCA 1997), with distances in place of addresses, so that what was learned
//! in one place serves in another. The state is the last two distances; where those are unknown, the last one, which is
//! learned only then (as "prediction by partial matching" escapes to shorter contexts). The tables are bounded; what is
//! replaced is what was right least and was not looked at longest.

use super::Distance;

/// States of a set.
const WAYS: usize = 4;

/// Sets of states of two distances: 2,048 states; and of one.
const SETS: usize = 512;
const SHORT_SETS: usize = 64;

/// The most that a state can be sure.
const SURE: u8 = 3;

/// A state, and what came after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct State {
    /// Which of those of its set.
    tag: u16,
    /// How often `next` was right, less how often it was not: at most [`SURE`]. 0 in a state that was never used.
    sure: u8,
    /// Times that others of its set were begun since it was looked at, at most 255.
    age: u8,
    next: Distance,
}

impl State {
    const NONE: Self = Self {
        tag: 0,
        sure: 0,
        age: u8::MAX,
        next: Distance::ZERO,
    };

    const fn is(&self, tag: u16) -> bool {
        self.sure > 0 && self.tag == tag
    }
}

/// The last two distances, the last one first.
pub(super) type Last = [Distance; 2];

/// The states of one context length.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Table<const N: usize> {
    sets: [[State; WAYS]; N],
}

/// Tables of states: 27 KiB of plain data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Markov {
    long: Table<SETS>,
    short: Table<SHORT_SETS>,
}

/// A number that depends on all bits of the distances.
const fn hash(last: Distance, before: Distance) -> u64 {
    let (before, last) = (before.bits(), last.bits());
    let mixed = (last ^ (before << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ (mixed >> 32)
}

impl Markov {
    /// Nothing is known.
    pub(super) const NEW: Self = Self {
        long: Table::NEW,
        short: Table::NEW,
    };

    /// What comes after `last`, if that was seen.
    pub(super) fn next(&self, [last, before]: Last) -> Option<Distance> {
        self.long
            .next(hash(last, before))
            .or_else(|| self.short.next(hash(last, Distance::ZERO)))
    }

    /// `next` came after `last`.
    pub(super) fn learn(&mut self, [last, before]: Last, next: Distance) {
        if !self.long.saw(hash(last, before), next) {
            self.short.saw(hash(last, Distance::ZERO), next);
        }
    }
}

impl<const N: usize> Table<N> {
    const NEW: Self = Self {
        sets: [[State::NONE; WAYS]; N],
    };

    /// The set and tag of a state.
    const fn key(hash: u64) -> (usize, u16) {
        // CAST: below the number of sets; and 16 bits.
        #[allow(
            clippy::cast_possible_truncation,
            reason = "below the number of sets; and 16 bits"
        )]
        ((hash % N as u64) as usize, (hash >> 48) as u16)
    }

    fn next(&self, hash: u64) -> Option<Distance> {
        let (set, tag) = Self::key(hash);
        let states = self.sets.get(set)?;
        let state = states.iter().find(|state| state.is(tag))?;
        Some(state.next)
    }

    /// `next` came in this state. Returns whether the state was known.
    fn saw(&mut self, hash: u64, next: Distance) -> bool {
        let (set, tag) = Self::key(hash);
        let Some(states) = self.sets.get_mut(set) else {
            return false;
        };
        if let Some(state) = states.iter_mut().find(|state| state.is(tag)) {
            state.age = 0;
            if state.next == next {
                state.sure = state.sure.saturating_add(1).min(SURE);
            } else if state.sure > 1 {
                state.sure -= 1;
            } else {
                state.next = next;
            }
            return true;
        }
        let mut worst = None;
        for state in states.iter_mut() {
            state.age = state.age.saturating_add(1);
            // One that was often right outlives those that were right once.
            let worth = i16::from(state.sure) * 8;
            let key = i16::from(state.age).saturating_sub(worth);
            if worst.as_ref().is_none_or(|(most, _)| key > *most) {
                worst = Some((key, state));
            }
        }
        if let Some((_, state)) = worst {
            *state = State {
                tag,
                sure: 1,
                age: 0,
                next,
            };
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::boxed::Box;
    use std::vec::Vec;

    fn distance(by: i32) -> Distance {
        Distance::new(i64::from(by)).expect("not far")
    }

    /// Guesses that were right in the last round of `rounds` through `distances`.
    fn right(distances: &[i32], rounds: usize) -> usize {
        let mut markov = Box::new(Markov::NEW);
        let mut last = [Distance::ZERO; 2];
        let mut right = 0;
        for _ in 0..rounds {
            right = 0;
            for by in distances.iter().copied().map(distance) {
                right += usize::from(markov.next(last) == Some(by));
                markov.learn(last, by);
                last = [by, last[0]];
            }
        }
        right
    }

    #[test]
    fn a_pattern_is_known_when_it_comes_again() {
        assert_eq!(right(&[1, 1, 5, -3], 3), 4);
        // After 7 comes 1 or 2: what was before tells which.
        assert_eq!(right(&[3, 7, 1, 4, 7, 2], 4), 6);
    }

    #[test]
    fn a_long_chase_fits() {
        let mut random = 88_172_645_463_325_252u64;
        let chase: Vec<i32> = (0..1_200)
            .map(|_| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                i32::try_from(random % 4_096).unwrap_or(0) - 2_048
            })
            .collect();
        let right = right(&chase, 3);
        assert!(right * 10 > chase.len() * 9, "{right}");
    }

    #[test]
    fn what_comes_but_once_displaces_little() {
        let mut markov = Box::new(Markov::NEW);
        let pattern: Vec<Distance> = (1..40).map(distance).collect();
        let mut last = [Distance::ZERO; 2];
        let mut learn = |markov: &mut Markov, by| {
            markov.learn(last, by);
            last = [by, last[0]];
        };
        for _ in 0..8 {
            for by in &pattern {
                learn(&mut markov, *by);
            }
        }
        for by in 0..6_000 {
            learn(&mut markov, distance(100_000 + by * 7 % 9_001));
        }
        let known = pattern
            .windows(3)
            .filter(|window| markov.next([window[1], window[0]]) == Some(window[2]))
            .count();
        assert!(known > 30, "{known}");
    }
}
