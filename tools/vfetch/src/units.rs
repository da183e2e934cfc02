// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Numbers as people write and read them: sizes in binary units, rates in
//! decimal ones as links are sold, times with the unit that fits.

use std::time::Duration;

use humansize::{FormatSizeOptions, BINARY};
use parse_size::{ByteSuffix, Config};

/// Parses `4096`, `4k`, `64KiB`, `1m`, `2G`: all binary.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    Config::new()
        .with_binary()
        .with_byte_suffix(ByteSuffix::Allow)
        .parse_size(text)
        .map_err(|error| {
            format!("{error}; sizes look like 4096, 4k, 64KiB, 1m or 2G, in powers of 1024")
        })
}

/// As [`parse_bytes`], and not 0.
pub(crate) fn parse_bytes_not_0(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        0 => Err("0 bytes are too few".into()),
        bytes => Ok(bytes),
    }
}

/// Parses `2s`, `500ms`, `1m`, not 0.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("no time is too short".into()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; durations look like 500ms, 2s or 1m")),
    }
}

/// `64 MiB`, `1.5 KiB`.
pub(crate) fn bytes(n: u64) -> String {
    humansize::format_size(n, FormatSizeOptions::from(BINARY).decimal_places(1))
}

/// `512 ns`, `1.51 µs`, `23.4 ms`, `1.20 s`.
pub(crate) fn time(ns: f64) -> String {
    let (value, unit) = match ns.abs() {
        // Bounds at which the smaller unit would be printed as 1000.
        ..999.5 => return format!("{ns:.0} ns"),
        ..999_500.0 => (ns / 1e3, "µs"),
        ..999.5e6 => (ns / 1e6, "ms"),
        _ => (ns / 1e9, "s"),
    };
    format!("{} {unit}", three_digits(value))
}

/// Bytes in a number of nanoseconds as `7990 MB/s`.
pub(crate) fn rate(megabytes_per_s: f64) -> String {
    format!("{} MB/s", three_digits(megabytes_per_s))
}

/// Megabytes (10^6) a second.
pub(crate) fn megabytes_per_s(bytes: u64, ns: f64) -> f64 {
    if ns > 0.0 {
        float(bytes) * 1e3 / ns
    } else {
        0.0
    }
}

/// At least three digits that count, none of them needlessly.
pub(crate) fn three_digits(value: f64) -> String {
    match value.abs() {
        ..9.995 => format!("{value:.2}"),
        ..99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// `97 %`, `0.4 %`.
pub(crate) fn percent(share: f64) -> String {
    match share * 100.0 {
        percent if percent < 0.05 => "0 %".into(),
        percent if percent < 9.95 => format!("{percent:.1} %"),
        percent => format!("{percent:.0} %"),
    }
}

/// A large number in threes: `1 234 567`.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// For arithmetic on sizes and counts, which are far below 2^53.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn float(n: u64) -> f64 {
    n as f64
}

/// Nanoseconds of a duration.
pub(crate) fn nanoseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary_whichever_way_they_are_written() {
        for text in ["4k", "4K", "4KiB", "4 KiB", "4kb", "4096", "4096B"] {
            assert_eq!(parse_bytes(text), Ok(4096), "{text}");
        }
        assert_eq!(parse_bytes("1.5m"), Ok(1_572_864));
        assert!(parse_bytes("-1").is_err());
        assert!(parse_bytes("many").unwrap_err().contains("64KiB"));
        assert!(parse_bytes_not_0("0").is_err());
    }

    #[test]
    fn sizes_and_times_are_printed_with_the_unit_that_fits() {
        assert_eq!(bytes(64 << 20), "64 MiB");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(0), "0 B");
        assert_eq!(time(0.0), "0 ns");
        assert_eq!(time(999.7), "1.00 µs");
        assert_eq!(time(1512.0), "1.51 µs");
        assert_eq!(time(131_072.0), "131 µs");
        assert_eq!(time(2.5e9), "2.50 s");
        assert_eq!(time(-1512.0), "-1.51 µs");
        assert_eq!(rate(7990.4), "7990 MB/s");
        assert_eq!(grouped(1_234_567), "1 234 567");
        assert_eq!(grouped(999), "999");
        assert_eq!(
            [0.0, 0.004, 0.0994, 0.0996, 1.0].map(percent),
            ["0 %", "0.4 %", "9.9 %", "10 %", "100 %"]
        );
    }

    #[test]
    fn a_rate_is_bytes_a_microsecond() {
        assert!((megabytes_per_s(4096, 512.0) - 8000.0).abs() < 1e-9);
        assert!(megabytes_per_s(1, 0.0).abs() < 1e-9);
    }

    #[test]
    fn durations_need_a_unit_and_some_time() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert!(parse_duration("0s").is_err());
        assert!(parse_duration("5").is_err());
    }
}
