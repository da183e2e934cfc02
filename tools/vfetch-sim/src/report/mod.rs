// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Results for people and for programs.

mod html;
mod svg;
mod table;
mod verdict;

pub(crate) use html::write as write_html;
pub(crate) use table::{cell_table, stats_text};
pub(crate) use verdict::Verdict;

use std::{
    fmt::Write as _,
    io::{self, Write},
};

/// To stdout; a reader that is gone is an error and not a panic.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// What a matrix says, in lines.
pub(crate) fn summary(v: &Verdict) -> String {
    let mut text = String::new();
    let cells = v.cells.len();
    let _ = writeln!(
        text,
        "{} of {cells} cells tell policies apart (worst fixed policy at least 1.3 times slower than the best).",
        v.discriminating
    );
    let _ = writeln!(
        text,
        "auto is within 5 % of the best fixed policy in {} of {cells} cells, and within 25 % of the oracle in {} of the {} \
         with memory for all.",
        v.auto_near, v.auto_near_oracle, v.roomy
    );
    let _ = writeln!(
        text,
        "Of these, pages that come without faults in the order of their first touches are within 25 % of the oracle in {}; \
         auto is within 25 % of them in {}.",
        v.in_order_near_oracle, v.auto_near_in_order
    );
    if let Some((other, ahead)) = &v.auto_ahead {
        let _ = writeln!(
            text,
            "Over all cells its time is {} {} that of {other}, the best other policy.",
            percent(Some(ahead.abs())),
            if *ahead >= 0.0 { "below" } else { "above" }
        );
    }
    for e in &v.expectations {
        let _ = writeln!(
            text,
            "{}: expected {}; best is {}: {} (expected takes {} times as long; it is the best in {} of {} cells).",
            e.workload,
            e.expected.join(" or "),
            e.best,
            if e.holds { "holds" } else { "does not hold" },
            three(e.ratio),
            e.cells,
            e.of
        );
    }
    text
}

/// The summary, the policies' standings and where auto falls short, for a terminal.
pub(crate) fn verdict_text(v: &Verdict) -> String {
    let mut t = table::table(&["policy", "x best fixed", "x oracle", "near best"]);
    for s in &v.standings {
        t.add_row([
            s.policy.clone(),
            three(s.to_best_fixed),
            three(s.to_oracle),
            s.near_best.to_string(),
        ]);
    }
    let mut text = format!("{}\n{}", summary(v), table::render(&t));
    let mut misses: Vec<_> = v.cells.iter().filter(|c| c.why.is_some()).collect();
    misses.sort_by(|a, b| {
        b.auto_gap
            .unwrap_or(0.0)
            .total_cmp(&a.auto_gap.unwrap_or(0.0))
    });
    if !misses.is_empty() {
        text.push_str("\nWhere auto is more than 5 % behind:\n\n");
        let mut t = table::table(&["workload", "memory", "MB/s", "gap", "best fixed", "why"]);
        for c in misses {
            t.add_row([
                c.workload.clone(),
                c.capacity.to_string(),
                c.link_megabytes_per_s.to_string(),
                percent(c.auto_gap),
                c.best_fixed.clone(),
                c.why.clone().unwrap_or_default(),
            ]);
        }
        text.push_str(&table::render(&t));
    }
    text
}

/// A time in three digits and a unit.
pub(crate) fn time(ns: u64) -> String {
    let ns = ns as f64;
    for (unit, size) in [("s", 1e9), ("ms", 1e6), ("µs", 1e3)] {
        if ns >= size {
            return format!("{} {unit}", three(ns / size));
        }
    }
    format!("{ns} ns")
}

/// Three digits.
pub(crate) fn three(value: f64) -> String {
    if value >= 99.95 {
        format!("{value:.0}")
    } else if value >= 9.995 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// A size in MiB.
pub(crate) fn mib(bytes: u64) -> String {
    three(bytes as f64 / f64::from(1 << 20))
}

/// A share in per cent; `-` where there is none.
pub(crate) fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".into(), |share| format!("{:.0} %", share * 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        assert_eq!(time(999), "999 ns");
        assert_eq!(time(31_512), "31.5 µs");
        assert_eq!(time(1_234_567_890), "1.23 s");
        assert_eq!((three(99.96), three(9.999)), ("100".into(), "10.0".into()));
        assert_eq!(
            (percent(None), percent(Some(-0.5))),
            ("-".into(), "-50 %".into())
        );
        assert_eq!(mib(3 << 19), "1.50");
    }
}
