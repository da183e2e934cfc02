// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `vfetch top`: what functions fault on, what their policies make of it, and how full link and memory are, live.

mod screen;

use std::time::{Duration, Instant};

use anyhow::Result;
use libvfetch::{Host, Limits, PolicyStats, Scope, Space, State, Stats};
use serde::Serialize;

use crate::{
    cli::TopArgs,
    output::{on_terminal, render, table, write_out, Output},
    target::{open_all, Target},
    units::{self, float},
};

/// Counters of a function at one time.
#[derive(Debug, Clone)]
struct Sample {
    at: Instant,
    stats: Stats,
    hints: PolicyStats,
}

impl Sample {
    fn of(space: &Space) -> libvfetch::Result<Self> {
        Ok(Self {
            stats: space.stats()?,
            hints: space.policy_stats(None)?,
            at: Instant::now(),
        })
    }
}

/// What a function did between two samples, and how it is now.
#[derive(Debug, Clone, Serialize)]
struct Line {
    node: u32,
    state: &'static str,
    policy: String,
    device_faults_per_s: f64,
    host_faults_per_s: f64,
    prefetched_pages_per_s: f64,
    /// Of the prefetched pages of which it became known.
    used_share: Option<f64>,
    late_pages_per_s: f64,
    evicted_pages_per_s: f64,
    /// Share of the time that the function used the link.
    link_share: f64,
    to_device_megabytes_per_s: f64,
    to_host_megabytes_per_s: f64,
    host_used_bytes: u64,
    host_bytes: u64,
    device_used_bytes: u64,
    device_bytes: u64,
}

impl Line {
    fn new(
        node: u32,
        state: State,
        policy: String,
        limits: &Limits,
        from: &Sample,
        to: &Sample,
    ) -> Self {
        let ns = units::nanoseconds(to.at.duration_since(from.at)).max(1.0);
        // The device's counters begin anew at a reset.
        let change = |get: fn(&Stats) -> u64| get(&to.stats).saturating_sub(get(&from.stats));
        let per_s = |n: u64| float(n) * 1e9 / ns;
        let hints = to.hints.since(&from.hints);
        let device_ns = change(|s| s.device_time_ns);
        Self {
            node,
            state: state.as_str(),
            policy,
            device_faults_per_s: per_s(change(|s| s.device_faults)),
            host_faults_per_s: per_s(change(|s| s.host_faults)),
            prefetched_pages_per_s: per_s(hints.prefetched_pages),
            used_share: hints.accuracy(),
            late_pages_per_s: per_s(hints.late_pages),
            evicted_pages_per_s: per_s(change(|s| s.evicted_pages)),
            link_share: if device_ns == 0 {
                0.0
            } else {
                float(change(|s| s.device_busy_ns)) / float(device_ns)
            },
            to_device_megabytes_per_s: units::megabytes_per_s(change(|s| s.to_device_bytes), ns),
            to_host_megabytes_per_s: units::megabytes_per_s(change(|s| s.to_host_bytes), ns),
            host_used_bytes: limits.host_used_bytes,
            host_bytes: limits.host_bytes,
            device_used_bytes: limits.device_used_bytes,
            device_bytes: limits.device_bytes,
        }
    }
}

/// Headings of the table; `>` stands before those of numbers.
const HEADINGS: [&str; 10] = [
    "function",
    "policy",
    ">dev flt",
    ">host flt",
    ">brought",
    ">used",
    ">evicted",
    ">link",
    ">MB/s",
    ">device mem",
];

/// `950`, `12.3k`, `4.5M`.
fn short(n: f64) -> String {
    match n {
        ..999.5 => format!("{n:.0}"),
        ..999_500.0 => format!("{}k", units::three_digits(n / 1e3)),
        _ => format!("{}M", units::three_digits(n / 1e6)),
    }
}

impl Line {
    /// What the table says, under [`HEADINGS`].
    fn cells(&self) -> [String; HEADINGS.len()] {
        let megabytes = self.to_device_megabytes_per_s + self.to_host_megabytes_per_s;
        let mebibytes = |bytes: u64| float(bytes) / 1_048_576.0;
        [
            format!("vfetch{}", self.node),
            if self.state == "ready" {
                self.policy.chars().take(9).collect()
            } else {
                self.state.into()
            },
            short(self.device_faults_per_s),
            short(self.host_faults_per_s),
            short(self.prefetched_pages_per_s),
            self.used_share.map_or("-".into(), units::percent),
            short(self.evicted_pages_per_s),
            units::percent(self.link_share),
            format!("{megabytes:.0}"),
            format!(
                "{:.0}/{:.0}M",
                mebibytes(self.device_used_bytes),
                mebibytes(self.device_bytes)
            ),
        ]
    }
}

fn plain(lines: &[Line]) -> String {
    let mut table = table(&HEADINGS);
    for column in table.column_iter_mut() {
        column.set_padding((0, 1));
    }
    for line in lines {
        table.add_row(line.cells());
    }
    render(&table)
}

/// A function that is watched.
struct Watched {
    space: Space,
    last: Sample,
}

/// All that are watched.
struct Functions<'a> {
    host: &'a Host,
    /// Those that were named; none: all, also those that come.
    targets: &'a [Target],
    watched: Vec<Watched>,
}

impl<'a> Functions<'a> {
    fn open(host: &'a Host, targets: &'a [Target]) -> Result<Self> {
        let mut watched = Vec::new();
        for space in open_all(host, targets)? {
            let last = Sample::of(&space)?;
            watched.push(Watched { space, last });
        }
        Ok(Self {
            host,
            targets,
            watched,
        })
    }

    /// What they did since the last time.
    fn lines(&mut self) -> Result<Vec<Line>> {
        let mut lines = Vec::new();
        for w in &mut self.watched {
            let now = Sample::of(&w.space)?;
            let (state, limits) = (w.space.info()?.state(), w.space.limits(Scope::Function)?);
            let policy = w.space.policy()?;
            let name = if policy.enabled {
                policy.policy.to_string()
            } else {
                "disabled".into()
            };
            lines.push(Line::new(
                w.space.node(),
                state,
                name,
                &limits,
                &w.last,
                &now,
            ));
            w.last = now;
        }
        if self.targets.is_empty() {
            // The place of one that is gone is free for the one that comes back.
            let there = |w: &Watched| w.space.info().is_ok_and(|i| i.state() != State::Gone);
            self.watched.retain(there);
            for function in self.host.functions()? {
                if self.watched.iter().all(|w| w.space.node() != function.node) {
                    // One that goes away meanwhile is not there.
                    let opened = Space::open(&function).and_then(|s| Ok((Sample::of(&s)?, s)));
                    if let Ok((last, space)) = opened {
                        self.watched.push(Watched { space, last });
                    }
                }
            }
            self.watched.sort_by_key(|w| w.space.node());
        }
        Ok(lines)
    }
}

/// Prints the table, or lines of JSON, `count` times.
fn print(functions: &mut Functions<'_>, interval: Duration, count: u64, out: Output) -> Result<()> {
    for _ in 0..count {
        std::thread::sleep(interval);
        let lines = functions.lines()?;
        if out.is_json() {
            Output::print_line(&lines)?;
        } else {
            write_out(&plain(&lines))?;
        }
    }
    Ok(())
}

pub(crate) fn run(host: &Host, args: &TopArgs, out: Output) -> Result<()> {
    let mut functions = Functions::open(host, &args.functions.targets)?;
    let live = on_terminal() && !args.once && args.count.is_none() && !out.is_json();
    if live {
        return screen::run(&mut functions, args.interval);
    }
    let forever = if out.is_json() { u64::MAX } else { 1 };
    let count = if args.once {
        1
    } else {
        args.count.unwrap_or(forever)
    };
    print(&mut functions, args.interval, count, out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: Instant, f: impl FnOnce(&mut Stats, &mut PolicyStats)) -> Sample {
        let (mut stats, mut hints) = (Stats::default(), PolicyStats::default());
        f(&mut stats, &mut hints);
        Sample { at, stats, hints }
    }

    pub(super) fn line(node: u32) -> Line {
        let start = Instant::now();
        let limits = Limits {
            host_bytes: 512 << 20,
            device_bytes: 1023 << 20,
            host_used_bytes: 1 << 20,
            device_used_bytes: 1000 << 20,
        };
        let before = sample(start, |_, _| {});
        let after = sample(start + Duration::from_millis(500), |stats, hints| {
            stats.device_faults = 61_728;
            stats.host_faults = 50;
            stats.to_device_bytes = 400_000_000;
            stats.to_host_bytes = 100_000_000;
            stats.device_time_ns = 500_000_000;
            stats.device_busy_ns = 375_000_000;
            hints.prefetched_pages = 1000;
            hints.used_pages = 80;
            hints.unused_pages = 20;
        });
        Line::new(
            node,
            State::Ready,
            "thrashing-aware".into(),
            &limits,
            &before,
            &after,
        )
    }

    #[test]
    fn rates_are_of_the_interval() {
        let cells = line(10).cells();
        assert_eq!(
            cells,
            [
                "vfetch10",
                "thrashing",
                "123k",
                "100",
                "2.00k",
                "80 %",
                "0",
                "75 %",
                "1000",
                "1000/1023M"
            ]
        );
    }

    #[test]
    fn the_table_fits_a_terminal() {
        let text = plain(&[line(10), line(9)]);
        assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
    }

    #[test]
    fn large_numbers_are_short() {
        let numbers = [0.0, 999.4, 999.6, 12_345.0, 999_600.0, 4.56e9];
        assert_eq!(
            numbers.map(short),
            ["0", "999", "1.00k", "12.3k", "1.00M", "4560M"]
        );
    }
}
