// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Results for people and for programs.

mod table;

pub(crate) use table::{cell_table, stats_text};

use std::io::{self, Write};

/// To stdout; a reader that is gone is an error and not a panic.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
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
