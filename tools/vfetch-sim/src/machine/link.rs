// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Who gets the link next.
//!
//! Pages wait in queues by class, and in each by function. A free link takes the first class that has something, and of
//! its functions the next one in turn. A page on the link is not interrupted.

use std::collections::VecDeque;

use serde::Serialize;

/// What a page travels for, in the order of precedence.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(crate) enum Class {
    /// Somebody waits for it.
    Demand,
    /// It makes room.
    Writeback,
    /// Somebody may want it.
    Prefetch,
    /// Somebody may want it later: it belongs to a block where nobody has faulted yet.
    Ahead,
}

impl Class {
    /// In the order of precedence.
    const ALL: [Self; 4] = [Self::Demand, Self::Writeback, Self::Prefetch, Self::Ahead];

    /// Its place among the classes that need frames.
    pub(crate) fn frames(self) -> usize {
        match self {
            Self::Demand => 0,
            Self::Writeback | Self::Prefetch => 1,
            Self::Ahead => 2,
        }
    }
}

const CLASSES: usize = Class::ALL.len();

/// The queues in front of a link, or of one of its directions.
#[derive(Debug)]
pub(crate) struct Lane {
    queues: [Vec<VecDeque<u32>>; CLASSES],
    turn: [usize; CLASSES],
    waiting: [usize; CLASSES],
    /// Whether a page is on it.
    pub(crate) busy: bool,
}

impl Lane {
    /// For so many functions.
    pub(crate) fn new(functions: usize) -> Self {
        Self {
            queues: [(); CLASSES].map(|()| vec![VecDeque::new(); functions]),
            turn: [0; CLASSES],
            waiting: [0; CLASSES],
            busy: false,
        }
    }

    /// Puts `page` of `function` behind the others of `class`.
    pub(crate) fn push(&mut self, class: Class, function: usize, page: u32) {
        let class = class as usize;
        if let Some(queue) = self.queues[class].get_mut(function) {
            queue.push_back(page);
            self.waiting[class] += 1;
        }
    }

    /// How many wait, stale ones included.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.iter().sum()
    }

    /// Takes the page that travels next, and its class.
    pub(crate) fn pop(&mut self) -> Option<(Class, u32)> {
        for class in Class::ALL {
            let c = class as usize;
            if self.waiting[c] == 0 {
                continue;
            }
            let functions = self.queues[c].len();
            for step in 0..functions {
                let function = (self.turn[c] + step) % functions;
                if let Some(page) = self.queues[c][function].pop_front() {
                    self.turn[c] = (function + 1) % functions;
                    self.waiting[c] -= 1;
                    return Some((class, page));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn demands_go_first_and_functions_take_turns() {
        let mut lane = Lane::new(2);
        lane.push(Class::Prefetch, 0, 1);
        lane.push(Class::Demand, 0, 2);
        lane.push(Class::Demand, 0, 3);
        lane.push(Class::Demand, 1, 4);
        lane.push(Class::Writeback, 1, 5);
        let order: Vec<u32> = std::iter::from_fn(|| lane.pop()).map(|(_, p)| p).collect();
        assert_eq!(order, [2, 4, 3, 5, 1]);
    }

    proptest! {
        #[test]
        fn a_lane_is_the_naive_one(steps in prop::collection::vec((0usize..5, 0usize..3), 0..200)) {
            let mut lane = Lane::new(3);
            // All pages in the order of arrival, and whose turn it was last, by class.
            let mut naive: Vec<(usize, usize, u32)> = Vec::new();
            let mut turn = [0; 4];
            for (page, (what, function)) in steps.into_iter().enumerate() {
                let page = page as u32;
                if what < 4 {
                    lane.push(Class::ALL[what], function, page);
                    naive.push((what, function, page));
                    continue;
                }
                let expected = naive.iter().map(|n| n.0).min().map(|class| {
                    let function = (0..3)
                        .map(|s| (turn[class] + s) % 3)
                        .find(|f| naive.iter().any(|n| n.0 == class && n.1 == *f))
                        .unwrap();
                    turn[class] = function + 1;
                    let at = naive.iter().position(|n| n.0 == class && n.1 == function).unwrap();
                    let (class, _, page) = naive.remove(at);
                    (Class::ALL[class], page)
                });
                prop_assert_eq!(lane.pop(), expected);
            }
        }
    }
}
