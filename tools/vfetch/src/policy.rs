// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Policies as users name them, and `vfetch policy`.

use std::{fmt, str::FromStr};

use anyhow::Result;
use libvfetch::{Host, Policy, PolicyKind, PolicyStats, Space};
use serde::{Serialize, Serializer};

use crate::{
    cli::{PolicyCommand, PolicySetArgs},
    output::{render, table, Output},
    target::open_all,
    units::{grouped, percent},
};

/// A policy, or a number: the fixed threshold of that many percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    Kind(PolicyKind),
    Threshold(u32),
}

impl Choice {
    /// `policy` with this choice; the other parameters stay.
    pub(crate) fn apply(self, mut policy: Policy) -> Policy {
        policy.enabled = true;
        match self {
            Self::Kind(kind) => policy.policy = kind,
            Self::Threshold(percent) => {
                policy.policy = PolicyKind::Fixed;
                policy.threshold = percent;
            }
        }
        policy
    }
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.parse() {
            Ok(percent @ 1..=100) => Ok(Self::Threshold(percent)),
            Ok(percent) => Err(format!(
                "a threshold of {percent} %: from 1 to 100 there are"
            )),
            Err(_) => match text.parse() {
                Ok(kind) => Ok(Self::Kind(kind)),
                Err(unknown) => Err(format!("{unknown}, or a threshold from 1 to 100")),
            },
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(kind) => kind.fmt(f),
            Self::Threshold(percent) => percent.fmt(f),
        }
    }
}

impl Serialize for Choice {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Puts a function's policy back when it is dropped.
pub(crate) struct Restore<'s> {
    space: &'s Space,
    policy: Policy,
}

impl<'s> Restore<'s> {
    pub(crate) fn of(space: &'s Space) -> libvfetch::Result<Self> {
        let policy = space.policy()?;
        Ok(Self { space, policy })
    }
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        // A function that is gone has no policy.
        let _ = self.space.set_policy(self.policy);
    }
}

/// A policy, for `vfetch policy list`.
#[derive(Debug, Serialize)]
struct Known {
    name: &'static str,
    meaning: &'static str,
}

fn list(out: Output) -> Result<()> {
    let all = PolicyKind::ALL.map(|kind| Known {
        name: kind.as_str(),
        meaning: kind.meaning(),
    });
    out.print(&all, |all| {
        let mut table = table(&["policy", "what comes along with a page that faults"]);
        for Known { name, meaning } in all {
            table.add_row([name, meaning]);
        }
        render(&table)
    })?;
    Ok(())
}

/// One policy's outcomes.
#[derive(Debug, Serialize)]
struct Outcome {
    policy: &'static str,
    #[serde(flatten)]
    stats: PolicyStats,
}

/// How a function prefetches, and what came of it.
#[derive(Debug, Serialize)]
struct Entry {
    node: u32,
    #[serde(flatten)]
    policy: Policy,
    /// Of policies that were asked for anything.
    outcomes: Vec<Outcome>,
}

impl Entry {
    fn of(space: &Space) -> libvfetch::Result<Self> {
        let mut outcomes = Vec::new();
        for kind in PolicyKind::ALL {
            let stats = space.policy_stats(Some(kind))?;
            if stats.decisions > 0 || stats.prefetched_pages > 0 {
                outcomes.push(Outcome {
                    policy: kind.as_str(),
                    stats,
                });
            }
        }
        Ok(Self {
            node: space.node(),
            policy: space.policy()?,
            outcomes,
        })
    }
}

fn yes(is: bool) -> &'static str {
    if is {
        "yes"
    } else {
        "no"
    }
}

fn show(entry: &Entry) -> String {
    let p = &entry.policy;
    let mut text = format!(
        "/dev/vfetch{}: {}{}\n",
        entry.node,
        p.policy,
        if p.enabled {
            ""
        } else {
            ", but prefetching is disabled"
        }
    );
    text += &format!(
        "  threshold {} %, min-faults {}, compat {}, ats {}, sample-period {} us,\n  \
         stride-degree {}, aggressiveness {} %, neighbours {}, horizon {} us\n",
        p.threshold,
        p.min_faults,
        yes(p.compat),
        yes(p.ats),
        p.sample_period_us,
        p.stride_degree,
        p.aggressiveness,
        p.neighbours,
        p.horizon_us
    );
    if entry.outcomes.is_empty() {
        return text + "  no page has come along yet\n";
    }
    let mut table = table(&[
        "  policy",
        ">decisions",
        ">hints",
        ">pages",
        ">used",
        ">late",
        ">unused",
        ">accuracy",
    ]);
    for Outcome { policy, stats } in &entry.outcomes {
        table.add_row([
            format!("  {policy}"),
            grouped(stats.decisions),
            grouped(stats.hints),
            grouped(stats.prefetched_pages),
            grouped(stats.used_pages),
            grouped(stats.late_pages),
            grouped(stats.unused_pages),
            stats.accuracy().map_or("-".into(), percent),
        ]);
    }
    text + &render(&table)
}

fn print(spaces: &[Space], out: Output) -> Result<()> {
    let entries = spaces
        .iter()
        .map(Entry::of)
        .collect::<Result<Vec<_>, _>>()?;
    out.print(&entries, |entries| {
        entries.iter().map(show).collect::<Vec<_>>().join("\n")
    })?;
    Ok(())
}

/// `policy` with what was given in its place.
fn changed(mut policy: Policy, args: &PolicySetArgs) -> Policy {
    if let Some(choice) = args.policy {
        policy = choice.apply(policy);
    }
    fn put<T: Copy>(to: &mut T, given: Option<T>) {
        if let Some(value) = given {
            *to = value;
        }
    }
    put(&mut policy.enabled, args.enabled);
    put(&mut policy.threshold, args.threshold);
    put(&mut policy.min_faults, args.min_faults);
    put(&mut policy.compat, args.compat);
    put(&mut policy.ats, args.ats);
    put(&mut policy.sample_period_us, args.sample_period_us);
    put(&mut policy.stride_degree, args.stride_degree);
    put(&mut policy.aggressiveness, args.aggressiveness);
    put(&mut policy.neighbours, args.neighbours);
    put(&mut policy.horizon_us, args.horizon_us);
    policy
}

pub(crate) fn run(host: &Host, command: &PolicyCommand, out: Output) -> Result<()> {
    match command {
        PolicyCommand::List => list(out),
        PolicyCommand::Show(args) => print(&open_all(host, &args.targets)?, out),
        PolicyCommand::Set(args) => {
            let spaces = args.functions.open(host)?;
            for space in &spaces {
                space.set_policy(changed(space.policy()?, args))?;
            }
            if out.is_json() {
                print(&spaces, out)?;
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_a_threshold_of_the_fixed_policy() {
        assert_eq!("51".parse(), Ok(Choice::Threshold(51)));
        assert_eq!("auto".parse(), Ok(Choice::Kind(PolicyKind::Auto)));
        for bad in ["0", "101", "none-such"] {
            assert!(bad.parse::<Choice>().unwrap_err().contains("100"), "{bad}");
        }
    }
}
