// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The policies by name.

use std::{fmt, fmt::Write as _, str::FromStr};

use vfetch_engine::{
    params::{Micros, PageNanos, Params},
    policy::Kind,
    tree::Threshold,
};

use super::{
    best_offset::BestOffset, engine::Engine, leap::Leap, readahead::Readahead, Nothing, Prefetcher,
};

/// A policy that can be simulated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Choice {
    /// The tree with this threshold, 0 to 100 %.
    Fixed(u8),
    /// One of the engine's.
    Engine(Kind),
    /// Linux readahead.
    Readahead,
    /// Leap.
    Leap,
    /// Best offset.
    BestOffset,
}

/// There is no such policy.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no policy '{0}'; there are: {names}, and any threshold from 0 to 100", names = names())]
pub(crate) struct Unknown(String);

fn names() -> String {
    Choice::all()
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// How long the adaptive policies sample: runs are short.
const SAMPLE_US: u32 = 1000;

impl Choice {
    /// No prefetching: what the others are compared with.
    pub(crate) const NONE: Self = Self::Engine(Kind::None);
    /// What drivers have: the tree at 51 %.
    pub(crate) const USUAL: Self = Self::Fixed(51);
    /// What learns which of them is best.
    pub(crate) const AUTO: Self = Self::Engine(Kind::Auto);

    /// Those of reports, in their order.
    pub(crate) fn all() -> Vec<Self> {
        let engine = |kind| Self::Engine(kind);
        vec![
            Self::NONE,
            Self::Fixed(1),
            Self::Fixed(25),
            Self::Fixed(51),
            Self::Fixed(75),
            engine(Kind::AlwaysMax),
            engine(Kind::Traffic),
            engine(Kind::Pressure),
            engine(Kind::Stride),
            engine(Kind::MultiLevel),
            engine(Kind::ThrashingAware),
            engine(Kind::Probabilistic),
            engine(Kind::Lru),
            engine(Kind::Frequency),
            Self::AUTO,
            Self::Readahead,
            Self::Leap,
            Self::BestOffset,
        ]
    }

    /// `chosen`, or all if that is nothing, with those that all are compared with.
    pub(crate) fn compared(chosen: &[Self]) -> Vec<Self> {
        if chosen.is_empty() {
            return Self::all();
        }
        let mut policies: Vec<Self> = Vec::new();
        for policy in [Self::NONE, Self::USUAL].iter().chain(chosen) {
            if !policies.contains(policy) {
                policies.push(*policy);
            }
        }
        policies
    }

    /// What it does, in a line.
    fn about(self) -> &'static str {
        match self {
            Self::Fixed(51) => "the tree: nodes more than 51 % full, as drivers have it",
            Self::Fixed(_) => "the tree: nodes more than that per cent full",
            Self::Engine(kind) => match kind {
                Kind::None => "no prefetching",
                Kind::AlwaysMax => "all of the block",
                Kind::Fixed => "the tree with the default threshold",
                Kind::Traffic => "the tree, its threshold by the link's traffic",
                Kind::Pressure => "the tree, its threshold by the use of memory",
                Kind::Stride => "along the last two strides, where they are equal",
                Kind::MultiLevel => "64, 16 or 4 pages, by how full these are",
                Kind::ThrashingAware => "the tree, but nothing where pages thrash",
                Kind::Probabilistic => "the tree, as often as it was right",
                Kind::Lru => "next to what was touched last in the block",
                Kind::Frequency => "as far ahead as the block faults often",
                Kind::Auto => "learns which of them is worth it: the default",
            },
            Self::Readahead => "peer: the window rules of Linux readahead",
            Self::Leap => "peer: Leap's majority trend (ATC 2020)",
            Self::BestOffset => "peer: a best-offset prefetcher (HPCA 2016)",
        }
    }

    /// Not of the engine: written from its paper or documentation, to compare with.
    pub(crate) fn is_peer(self) -> bool {
        matches!(self, Self::Readahead | Self::Leap | Self::BestOffset)
    }

    /// A fresh one for a function, on a link that carries a page in `page_ns`.
    pub(crate) fn prefetcher(self, seed: u32, page_ns: u64) -> Box<dyn Prefetcher> {
        let engine = |policy, threshold| -> Box<dyn Prefetcher> {
            let params = Params {
                policy,
                threshold,
                sample_period_us: Micros::clamped(SAMPLE_US),
                page_ns: PageNanos::clamped(u32::try_from(page_ns).unwrap_or(u32::MAX)),
                ..Params::DEFAULT
            };
            Box::new(Engine::new(params, seed))
        };
        match self {
            Self::Engine(Kind::None) => Box::new(Nothing),
            Self::Engine(kind) => engine(kind, Threshold::DEFAULT),
            Self::Fixed(percent) => engine(
                Kind::Fixed,
                Threshold::new(percent).unwrap_or(Threshold::NEVER),
            ),
            Self::Readahead => Box::new(Readahead::new()),
            Self::Leap => Box::new(Leap::new()),
            Self::BestOffset => Box::new(BestOffset::new()),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fixed(percent) => return write!(f, "{percent}"),
            Self::Engine(kind) => kind.name(),
            Self::Readahead => "readahead",
            Self::Leap => "leap",
            Self::BestOffset => "best-offset",
        })
    }
}

impl FromStr for Choice {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        if let Some(percent) = text.parse::<u8>().ok().filter(|percent| *percent <= 100) {
            return Ok(Self::Fixed(percent));
        }
        Self::all()
            .into_iter()
            .find(|choice| choice.to_string() == text)
            .ok_or_else(|| Unknown(text.to_owned()))
    }
}

/// All policies, for `vfetch-sim policies`.
pub(crate) fn list() -> String {
    let mut text = String::new();
    for choice in Choice::all() {
        let _ = writeln!(text, "{:<16} {}", choice.to_string(), choice.about());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_is_found_by_its_name() {
        for choice in Choice::all() {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert_eq!("100".parse(), Ok(Choice::Fixed(100)));
        for bad in ["101", "-1", "", "fast"] {
            assert!(bad.parse::<Choice>().is_err(), "{bad}");
        }
    }
}
