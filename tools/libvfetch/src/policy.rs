// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Who decides which pages come along with those that fault, and what came of it.

use std::{fmt, os::fd::AsFd, str::FromStr};

use serde::{Serialize, Serializer};

pub use crate::uapi::vfetch_policy_stats as PolicyStats;
use crate::{
    sys,
    uapi::{self, vfetch_policy as RawPolicy},
    Result, Space,
};

/// Declares the policies with their numbers, names and what they do.
macro_rules! policies {
    ($($(#[$default:meta])? $name:ident = $number:ident, $word:literal, $meaning:literal;)*) => {
        /// Who decides. `ARCHITECTURE.md` says how each does.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
        #[non_exhaustive]
        pub enum PolicyKind {
            $(#[doc = $meaning] $(#[$default])? $name,)*
        }

        impl PolicyKind {
            /// All of them, in the header's order.
            pub const ALL: [Self; uapi::VFETCH_POLICIES as usize] = [$(Self::$name),*];

            pub(crate) fn number(self) -> u32 {
                match self {
                    $(Self::$name => uapi::$number,)*
                }
            }

            /// What users call it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }

            /// What it does, in a few words.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => $meaning,)*
                }
            }
        }
    };
}

policies! {
    None = VFETCH_POLICY_NONE, "none", "nothing comes along";
    AlwaysMax = VFETCH_POLICY_ALWAYS_MAX, "always-max", "the whole block comes along";
    Fixed = VFETCH_POLICY_FIXED, "fixed", "the tree, with a fixed threshold";
    Traffic = VFETCH_POLICY_TRAFFIC, "traffic", "the tree, with a threshold by the link's traffic";
    Pressure = VFETCH_POLICY_PRESSURE, "pressure", "the tree, with a threshold by the use of memory";
    Stride = VFETCH_POLICY_STRIDE, "stride", "what lies ahead by the last two strides";
    MultiLevel = VFETCH_POLICY_MULTI_LEVEL, "multi-level", "256, 64 or 16 KiB, where these are nearly full";
    ThrashingAware = VFETCH_POLICY_THRASHING_AWARE, "thrashing-aware", "the tree, but nothing where a page is thrashing";
    Probabilistic = VFETCH_POLICY_PROBABILISTIC, "probabilistic", "the tree, as often as the block's prefetches were used";
    Lru = VFETCH_POLICY_LRU, "lru", "the block's recently touched neighbours";
    Frequency = VFETCH_POLICY_FREQUENCY, "frequency", "as far ahead as the block faults often";
    #[default]
    Auto = VFETCH_POLICY_AUTO, "auto", "learns which of them is worth it";
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for PolicyKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A name that no policy has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no policy; there are: {list}", list = PolicyKind::ALL.map(PolicyKind::as_str).join(", "))]
pub struct UnknownPolicy(String);

impl FromStr for PolicyKind {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> std::result::Result<Self, UnknownPolicy> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| UnknownPolicy(text.to_owned()))
    }
}

/// How a function prefetches. [`Space::policy`] has the values that hold; ranges are those of `struct vfetch_policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// `false`: nothing comes along.
    pub enabled: bool,
    /// Who decides.
    pub policy: PolicyKind,
    /// Percent of a node of the tree that must be resident, 1 to 100.
    pub threshold: u32,
    /// Faults of a block before anything comes along, 1 to 20.
    pub min_faults: u32,
    /// Answers as NVIDIA's driver does, instead of exactly.
    pub compat: bool,
    /// Faults count as they are; otherwise they grow to 64 KiB first.
    pub ats: bool,
    /// Of the policies that adapt to traffic and to pressure, 1 to 10,000,000.
    pub sample_period_us: u32,
    /// Strides ahead, 1 to 64.
    pub stride_degree: u32,
    /// Of the probabilistic policy, in percent of the hit rate, 0 to 1000.
    pub aggressiveness: u32,
    /// Of the LRU-based policy: 64 KiB that it looks at, 1 to 8.
    pub neighbours: u32,
    /// Of the fault-frequency-based policy, 1 to 10,000,000.
    pub horizon_us: u32,
}

impl Policy {
    fn from_raw(raw: &RawPolicy) -> Option<Self> {
        Some(Self {
            enabled: raw.enabled != 0,
            policy: PolicyKind::ALL
                .into_iter()
                .find(|kind| kind.number() == raw.policy)?,
            threshold: raw.threshold,
            min_faults: raw.min_faults,
            compat: raw.compat != 0,
            ats: raw.ats != 0,
            sample_period_us: raw.sample_period_us,
            stride_degree: raw.stride_degree,
            aggressiveness: raw.aggressiveness,
            neighbours: raw.neighbours,
            horizon_us: raw.horizon_us,
        })
    }
}

impl From<Policy> for RawPolicy {
    fn from(policy: Policy) -> Self {
        Self {
            flags: 0,
            enabled: policy.enabled.into(),
            policy: policy.policy.number(),
            threshold: policy.threshold,
            min_faults: policy.min_faults,
            compat: policy.compat.into(),
            ats: policy.ats.into(),
            sample_period_us: policy.sample_period_us,
            stride_degree: policy.stride_degree,
            aggressiveness: policy.aggressiveness,
            neighbours: policy.neighbours,
            horizon_us: policy.horizon_us,
        }
    }
}

/// A map from counter to value.
impl Serialize for PolicyStats {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.counters())
    }
}

impl PolicyStats {
    /// All counters with their names in the header.
    #[must_use]
    pub fn counters(&self) -> [(&'static str, u64); 9] {
        [
            ("decisions", self.decisions),
            ("hints", self.hints),
            ("withheld", self.withheld),
            ("invalid", self.invalid),
            ("prefetched_pages", self.prefetched_pages),
            ("used_pages", self.used_pages),
            ("late_pages", self.late_pages),
            ("unused_pages", self.unused_pages),
            ("dropped_pages", self.dropped_pages),
        ]
    }

    /// Of the prefetched pages of which it is known, those that were used, in time or late. `None` while nothing is known.
    #[must_use]
    pub fn accuracy(&self) -> Option<f64> {
        let used = self.used_pages.saturating_add(self.late_pages);
        let known = used.saturating_add(self.unused_pages);
        // Counts are far below 2^53.
        #[allow(clippy::cast_precision_loss)]
        (known > 0).then(|| used as f64 / known as f64)
    }

    /// What was counted since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            flags: 0,
            policy: self.policy,
            decisions: self.decisions.saturating_sub(before.decisions),
            hints: self.hints.saturating_sub(before.hints),
            withheld: self.withheld.saturating_sub(before.withheld),
            invalid: self.invalid.saturating_sub(before.invalid),
            prefetched_pages: self
                .prefetched_pages
                .saturating_sub(before.prefetched_pages),
            used_pages: self.used_pages.saturating_sub(before.used_pages),
            late_pages: self.late_pages.saturating_sub(before.late_pages),
            unused_pages: self.unused_pages.saturating_sub(before.unused_pages),
            dropped_pages: self.dropped_pages.saturating_sub(before.dropped_pages),
        }
    }
}

impl Space {
    /// How the function prefetches, for all of its spaces.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`](crate::Error::Gone); [`Error::Os`](crate::Error::Os), with `EINVAL` when the driver has a policy that this library does not know.
    pub fn policy(&self) -> Result<Policy> {
        let raw =
            sys::get_policy(self.as_fd()).map_err(|errno| self.failed("tell its policy", errno))?;
        Policy::from_raw(&raw)
            .ok_or_else(|| self.failed("tell its policy by name", rustix::io::Errno::INVAL))
    }

    /// Has the function prefetch so from the next fault on, in all of its spaces.
    ///
    /// # Errors
    ///
    /// [`Error::Os`](crate::Error::Os) with `EINVAL` when a value is out of its range (nothing has changed then); [`Error::Gone`](crate::Error::Gone).
    pub fn set_policy(&self, policy: Policy) -> Result<()> {
        sys::set_policy(self.as_fd(), policy.into())
            .map_err(|errno| self.failed("take the policy", errno))
    }

    /// What came of the hints of a policy of the function since it was bound, or of all policies'.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`](crate::Error::Gone), [`Error::Os`](crate::Error::Os).
    pub fn policy_stats(&self, of: Option<PolicyKind>) -> Result<PolicyStats> {
        let number = of.map_or(uapi::VFETCH_POLICY_ALL, PolicyKind::number);
        sys::policy_stats(self.as_fd(), number)
            .map_err(|errno| self.failed("tell what came of its policy", errno))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_those_of_the_header() {
        for (number, kind) in (0..).zip(PolicyKind::ALL) {
            assert_eq!(kind.number(), number);
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        let error = "51".parse::<PolicyKind>().unwrap_err();
        assert!(error.to_string().contains("always-max, fixed"), "{error}");
    }

    #[test]
    fn a_policy_survives_the_way_through_the_header() {
        let raw = RawPolicy {
            enabled: 1,
            policy: uapi::VFETCH_POLICY_STRIDE,
            threshold: 2,
            min_faults: 3,
            ats: 1,
            sample_period_us: 4,
            stride_degree: 5,
            aggressiveness: 6,
            neighbours: 7,
            horizon_us: 8,
            ..Default::default()
        };
        let policy = Policy::from_raw(&raw).unwrap();
        assert_eq!(policy.policy, PolicyKind::Stride);
        assert_eq!(RawPolicy::from(policy), raw);
        let unknown = RawPolicy { policy: 99, ..raw };
        assert_eq!(Policy::from_raw(&unknown), None);
    }

    #[test]
    fn accuracy_is_of_what_is_known() {
        let stats = PolicyStats {
            prefetched_pages: 100,
            used_pages: 5,
            late_pages: 1,
            unused_pages: 2,
            ..Default::default()
        };
        assert_eq!(stats.accuracy(), Some(0.75));
        assert_eq!(stats.since(&stats).accuracy(), None);
    }
}
