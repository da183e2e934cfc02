// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `vfetch stats`.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use comfy_table::ContentArrangement;
use libvfetch::{Host, Space, State, Stats};
use serde::Serialize;

use crate::{
    cli::StatsArgs,
    output::{on_terminal, render, table, write_out, Output},
    target::{open_all, Target},
    units,
};

#[derive(Debug, Serialize)]
struct Entry {
    node: u32,
    #[serde(flatten)]
    stats: Stats,
}

/// All counters of one function, with what they mean.
fn show_one(entry: &Entry) -> String {
    let mut table = table(&["counter", ">value", "what it counts"]);
    table
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(80);
    for counter in entry.stats.counters() {
        let value = if counter.name.ends_with("_bytes") {
            units::bytes(counter.value)
        } else if counter.name.ends_with("_ns") {
            units::time(units::float(counter.value))
        } else {
            units::grouped(counter.value)
        };
        table.add_row([counter.name, &value, counter.meaning]);
    }
    format!("/dev/vfetch{}\n{}", entry.node, render(&table))
}

/// The main counters of several functions.
fn show_many(entries: &[Entry]) -> String {
    let mut table = table(&[
        "function", ">reads", ">read", ">writes", ">written", ">errors", ">resets", ">lost",
    ]);
    for Entry { node, stats } in entries {
        table.add_row([
            format!("vfetch{node}"),
            stats.reads.to_string(),
            units::bytes(stats.read_bytes),
            stats.writes.to_string(),
            units::bytes(stats.written_bytes),
            [stats.transfer_errors, stats.timeouts, stats.bad_completions]
                .into_iter()
                .fold(0, u64::saturating_add)
                .to_string(),
            stats
                .queue_resets
                .saturating_add(stats.function_resets)
                .to_string(),
            stats.lost_pages.to_string(),
        ]);
    }
    render(&table)
}

/// What happened in one interval.
#[derive(Debug, Clone, Serialize)]
struct Rates {
    node: u32,
    state: &'static str,
    read_megabytes_per_s: f64,
    written_megabytes_per_s: f64,
    reads_per_s: f64,
    writes_per_s: f64,
    /// Share of the time that the function used the link.
    link_share: f64,
    in_flight: u64,
    slot_waits: u64,
    errors: u64,
    resets: u64,
}

impl Rates {
    fn new(node: u32, state: State, before: &Stats, after: &Stats, elapsed: Duration) -> Self {
        let ns = units::nanoseconds(elapsed);
        // The device's counters begin anew at a reset.
        let change = |get: fn(&Stats) -> u64| get(after).saturating_sub(get(before));
        let per_s = |n: u64| units::float(n) * 1e9 / ns.max(1.0);
        let device_ns = change(|s| s.device_time_ns);
        Self {
            node,
            state: state.as_str(),
            read_megabytes_per_s: units::megabytes_per_s(change(|s| s.read_bytes), ns),
            written_megabytes_per_s: units::megabytes_per_s(change(|s| s.written_bytes), ns),
            reads_per_s: per_s(change(|s| s.reads)),
            writes_per_s: per_s(change(|s| s.writes)),
            link_share: if device_ns == 0 {
                0.0
            } else {
                units::float(change(|s| s.device_busy_ns)) / units::float(device_ns)
            },
            in_flight: after.in_flight,
            slot_waits: change(|s| s.slot_waits),
            errors: change(|s| s.transfer_errors)
                + change(|s| s.timeouts)
                + change(|s| s.bad_completions),
            resets: change(|s| s.queue_resets) + change(|s| s.function_resets),
        }
    }
}

fn show_rates(rates: &[Rates]) -> String {
    let mut table = table(&[
        "function",
        "state",
        ">rd MB/s",
        ">wr MB/s",
        ">reads/s",
        ">writes/s",
        ">link",
        ">now",
        ">errs",
        ">resets",
    ]);
    for r in rates {
        table.add_row([
            format!("vfetch{}", r.node),
            r.state.chars().take(7).collect(),
            units::three_digits(r.read_megabytes_per_s),
            units::three_digits(r.written_megabytes_per_s),
            format!("{:.0}", r.reads_per_s),
            format!("{:.0}", r.writes_per_s),
            units::percent(r.link_share),
            r.in_flight.to_string(),
            r.errors.to_string(),
            r.resets.to_string(),
        ]);
    }
    render(&table)
}

/// A function that is watched.
struct Watched {
    space: Space,
    last: Stats,
}

/// Adds functions that have appeared, when all are watched.
fn refresh(host: &Host, targets: &[Target], watched: &mut Vec<Watched>) -> libvfetch::Result<()> {
    if !targets.is_empty() {
        return Ok(());
    }
    for function in host.functions()? {
        if watched.iter().all(|w| w.space.node() != function.node) {
            // One that goes away meanwhile is not there.
            let opened = Space::open(&function).and_then(|space| Ok((space.stats()?, space)));
            if let Ok((last, space)) = opened {
                watched.push(Watched { space, last });
            }
        }
    }
    watched.sort_by_key(|w| w.space.node());
    Ok(())
}

/// What to print before a table so that it replaces the last one, of `shown` lines: what stood above
/// it on the terminal stays. One that is higher than the terminal begins at its top.
fn overwrite(shown: usize, terminal_rows: usize) -> String {
    match shown {
        0 => String::new(),
        n if n < terminal_rows => format!("\x1b[{n}A\x1b[J"),
        _ => "\x1b[H\x1b[J".into(),
    }
}

/// Lines of the terminal; as many as can be where it does not say.
fn terminal_rows() -> usize {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_row > 0 => size.ws_row.into(),
        _ => usize::MAX,
    }
}

fn watch(host: &Host, args: &StatsArgs, interval: Duration, out: Output) -> anyhow::Result<()> {
    let targets = &args.functions.targets;
    let mut watched = Vec::new();
    for space in open_all(host, targets)? {
        let last = space.stats()?;
        watched.push(Watched { space, last });
    }
    let mut last_time = Instant::now();
    let mut left = args.count;
    let mut shown = 0;
    while left != Some(0) {
        thread::sleep(interval);
        let elapsed = last_time.elapsed();
        last_time += elapsed;
        let mut rates = Vec::new();
        for w in &mut watched {
            let stats = w.space.stats()?;
            let state = w.space.info()?.state();
            rates.push(Rates::new(w.space.node(), state, &w.last, &stats, elapsed));
            w.last = stats;
        }
        if out.is_json() {
            Output::print_line(&rates)?;
        } else {
            let text = show_rates(&rates);
            let over = if on_terminal() {
                overwrite(shown, terminal_rows())
            } else {
                String::new()
            };
            write_out(&format!("{over}{text}"))?;
            shown = text.lines().count();
        }
        if targets.is_empty() {
            // Its place is free for the function that comes back.
            watched.retain(|w| w.space.info().is_ok_and(|i| i.state() != State::Gone));
        }
        refresh(host, targets, &mut watched)?;
        left = left.map(|n| n - 1);
    }
    Ok(())
}

pub(crate) fn run(host: &Host, args: &StatsArgs, out: Output) -> anyhow::Result<()> {
    if let Some(interval) = args.watch {
        return watch(host, args, interval, out);
    }
    let entries = open_all(host, &args.functions.targets)?
        .iter()
        .map(|space| {
            Ok(Entry {
                node: space.node(),
                stats: space.stats()?,
            })
        })
        .collect::<libvfetch::Result<Vec<_>>>()?;
    out.print(&entries, |entries| match entries.as_slice() {
        [one] => show_one(one),
        many => show_many(many),
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(f: impl FnOnce(&mut Stats)) -> Stats {
        let mut stats = Stats::default();
        f(&mut stats);
        stats
    }

    #[test]
    fn all_counters_of_one_function_fit_a_terminal() {
        let stats = stats(|s| {
            s.read_bytes = 123_456_789_012;
            s.device_busy_ns = 98_765_432_109;
            s.reads = 12_345_678_901;
        });
        let text = show_one(&Entry { node: 10, stats });
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        assert!(
            text.contains("115.0 GiB")
                && text.contains("98.8 s")
                && text.contains("12 345 678 901"),
            "{text}"
        );
    }

    #[test]
    fn the_counters_of_many_functions_fit_a_terminal() {
        let stats = stats(|s| {
            s.reads = 12_345_678;
            s.writes = 12_345_678;
            s.read_bytes = 123_456_789_012;
            s.written_bytes = 123_456_789_012;
        });
        let text = show_many(&[Entry { node: 10, stats }, Entry { node: 11, stats }]);
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
    }

    #[test]
    fn rates_are_of_the_interval() {
        let before = stats(|s| s.read_bytes = 1000);
        let after = stats(|s| {
            s.read_bytes = 1000 + 8_000_000;
            s.reads = 500;
            s.device_busy_ns = 1_000_000;
            s.device_time_ns = 2_000_000;
            s.timeouts = 1;
        });
        let rates = Rates::new(3, State::Ready, &before, &after, Duration::from_millis(2));
        assert!((rates.read_megabytes_per_s - 4000.0).abs() < 1e-6);
        assert!((rates.reads_per_s - 250_000.0).abs() < 1e-6);
        assert!((rates.link_share - 0.5).abs() < 1e-9);
        assert_eq!(rates.errors, 1);
        let text = show_rates(&[rates]);
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
    }

    #[test]
    fn a_table_replaces_the_last_one_and_nothing_else() {
        assert_eq!(overwrite(0, 24), "");
        assert_eq!(overwrite(10, 24), "\x1b[10A\x1b[J");
        assert_eq!(overwrite(24, 24), "\x1b[H\x1b[J");
    }

    #[test]
    fn a_reset_that_clears_the_devices_counters_gives_no_huge_rate() {
        let before = stats(|s| s.device_busy_ns = 900);
        let after = stats(|s| s.device_time_ns = 1000);
        let rates = Rates::new(0, State::Ready, &before, &after, Duration::from_secs(1));
        assert!(rates.link_share.abs() < 1e-9);
    }
}
