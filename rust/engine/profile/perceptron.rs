// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A small learned model: one integer perceptron per distance, over the last few distances, that learns with each access.
//!
//! In the manner of Jiménez and Lin ("Dynamic branch prediction with perceptrons", HPCA 2001), with many classes in place of two. The distances
//! that come most often are the classes (Misra and Gries, "Finding repeated elements", 1982). Each of the last [`HISTORY`] distances
//! votes with a weight for each class; the class with the most votes is the guess, if there are more for it than for
//! none. After a wrong or a narrow guess weights go one step towards what was right and away from what was guessed. They stay within
//! ±[`MOST`], so that what was learned can be unlearned. Where contexts repeat but for some noise it knows what the
//! Markov table, which compares exactly, does not.

use super::Distance;

/// Distances that are told apart.
const CLASSES: usize = 16;

/// Distances that vote.
const HISTORY: usize = 4;

/// The largest weight.
const MOST: i8 = 31;

/// A lead of so many votes is enough, and no reason to learn.
const ENOUGH: i16 = 12;

/// A class by its number; [`Class::OTHER`] is any distance that has none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Class(u8);

impl Class {
    // CAST: 16.
    #[allow(clippy::cast_possible_truncation, reason = "16")]
    const OTHER: Self = Self(CLASSES as u8);

    const fn get(self) -> usize {
        self.0 as usize
    }
}

/// The classes of the last distances, the last one first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct History([Class; HISTORY]);

impl History {
    fn then(self, class: Class) -> Self {
        let mut all = self.0;
        all.rotate_right(1);
        if let Some(first) = all.first_mut() {
            *first = class;
        }
        Self(all)
    }
}

/// What the model votes for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Vote {
    class: Class,
    /// How far it leads before the next, or before none.
    lead: i16,
}

/// A distance that has a class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Word {
    distance: Distance,
    /// How often it came, less how often those came that have no class. 0: it can be replaced.
    count: u8,
}

type Weights = [i8; CLASSES];

/// The model: about 1.3 KiB of plain data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Perceptron {
    words: [Word; CLASSES],
    /// By place in the history and class there.
    weights: [[Weights; CLASSES + 1]; HISTORY],
    history: History,
}

impl Perceptron {
    /// Nothing is known.
    pub(super) const NEW: Self = Self {
        words: [Word {
            distance: Distance::ZERO,
            count: 0,
        }; CLASSES],
        weights: [[[0; CLASSES]; CLASSES + 1]; HISTORY],
        history: History([Class::OTHER; HISTORY]),
    };

    fn class(&self, distance: Distance) -> Class {
        let at = self
            .words
            .iter()
            .position(|word| word.count > 0 && word.distance == distance);
        at.and_then(|at| u8::try_from(at).ok())
            .map_or(Class::OTHER, Class)
    }

    /// The distances that came last.
    pub(super) const fn history(&self) -> History {
        self.history
    }

    fn vote(&self, history: History) -> Option<Vote> {
        let mut votes = [0i16; CLASSES];
        for (place, class) in self.weights.iter().zip(history.0) {
            if let Some(weights) = place.get(class.get()) {
                for (vote, weight) in votes.iter_mut().zip(weights) {
                    // At most 4 times 31.
                    *vote = vote.saturating_add(i16::from(*weight));
                }
            }
        }
        let (mut best, mut most, mut next) = (0, 0, 0);
        for (at, vote) in votes.into_iter().enumerate() {
            if vote > most {
                (best, next, most) = (at, most, vote);
            } else if vote > next {
                next = vote;
            }
        }
        let class = u8::try_from(best).ok().map(Class)?;
        (most > 0).then_some(Vote {
            class,
            lead: most.saturating_sub(next),
        })
    }

    /// What comes after `history`, and the history then.
    pub(super) fn next(&self, history: History) -> Option<(Distance, History)> {
        let Vote { class, .. } = self.vote(history)?;
        let word = self.words.get(class.get())?;
        (word.count > 0).then(|| (word.distance, history.then(class)))
    }

    fn teach(&mut self, class: Class, up: bool) {
        for (place, seen) in self.weights.iter_mut().zip(self.history.0) {
            let weight = place
                .get_mut(seen.get())
                .and_then(|weights| weights.get_mut(class.get()));
            if let Some(weight) = weight {
                *weight = if up {
                    weight.saturating_add(1).min(MOST)
                } else {
                    weight.saturating_sub(1).max(-MOST)
                };
            }
        }
    }

    /// `distance` came.
    pub(super) fn learn(&mut self, distance: Distance) {
        let came = self.count(distance);
        let vote = self.vote(self.history);
        let right = vote.is_some_and(|vote| vote.class == came);
        if let Some(vote) = vote.filter(|_| !right) {
            self.teach(vote.class, false);
        }
        if came != Class::OTHER && !(right && vote.is_some_and(|vote| vote.lead >= ENOUGH)) {
            self.teach(came, true);
        }
        self.history = self.history.then(came);
    }

    /// Counts `distance`, and says which class it has.
    fn count(&mut self, distance: Distance) -> Class {
        let class = self.class(distance);
        if let Some(word) = self.words.get_mut(class.get()) {
            word.count = word.count.saturating_add(1);
            return class;
        }
        let Some(at) = self.words.iter().position(|word| word.count == 0) else {
            for word in &mut self.words {
                word.count = word.count.saturating_sub(1);
            }
            return Class::OTHER;
        };
        if let Some(word) = self.words.get_mut(at) {
            *word = Word { distance, count: 1 };
        }
        // What was learned of the one before is of no use.
        for place in &mut self.weights {
            for weights in place.iter_mut() {
                if let Some(weight) = weights.get_mut(at) {
                    *weight = 0;
                }
            }
            if let Some(weights) = place.get_mut(at) {
                *weights = [0; CLASSES];
            }
        }
        u8::try_from(at).map_or(Class::OTHER, Class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distance(by: i32) -> Distance {
        Distance::new(i64::from(by)).expect("not far")
    }

    /// Of 100, guesses that were right after `warm` that were not counted.
    fn right(warm: u32, mut next: impl FnMut(u32) -> i32) -> u32 {
        let mut model = Perceptron::NEW;
        let mut right = 0;
        for turn in 0..warm + 100 {
            let by = distance(next(turn));
            let guess = model.next(model.history()).map(|(guess, _)| guess);
            right += u32::from(turn >= warm && guess == Some(by));
            model.learn(by);
        }
        right
    }

    #[test]
    fn it_learns_a_stride_and_a_pattern() {
        assert!(right(10, |_| 7) >= 99);
        let pattern = [1, 1, 5, -3];
        assert!(right(100, |turn| pattern[turn as usize % 4]) >= 98);
    }

    #[test]
    fn noise_hides_a_pattern_only_where_it_is() {
        // Every eleventh distance is another each time: the others of the pattern remain known.
        let pattern = [2, 9, 4];
        let right = right(600, |turn| {
            if turn % 11 == 10 {
                i32::try_from(1_000 + turn * 37 % 1_009).unwrap_or(0)
            } else {
                pattern[turn as usize % 3]
            }
        });
        assert!(right >= 75, "{right}");
    }

    #[test]
    fn it_is_silent_or_wrong_where_nothing_comes_again() {
        assert!(
            right(200, |turn| i32::try_from(turn * turn % 100_003)
                .unwrap_or(0))
                <= 2
        );
    }

    #[test]
    fn weights_stay_within_bounds() {
        let mut model = Perceptron::NEW;
        for turn in 0..5_000u32 {
            model.learn(distance(i32::try_from(turn * turn % 13).unwrap_or(0)));
            let all = model.weights.iter().flatten().flatten();
            assert!(all.copied().all(|weight| (-MOST..=MOST).contains(&weight)));
        }
    }
}
