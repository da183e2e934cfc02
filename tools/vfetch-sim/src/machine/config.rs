// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The cost model: what a run of the machine costs, written down before any policy was tuned.
//!
//! All times are virtual nanoseconds.
//!
//! | what | default | meaning |
//! |---|---|---|
//! | `strands` | 32 | items that a function's device executes at a time; a strand waits for its fault |
//! | `compute_ns` | 1 µs | what a touch takes its strand when the page is there |
//! | `batch_ns`, `fault_ns` | 30 µs, 1 µs | a batch of device faults keeps the function's handler that long, and so much more for each page in it; its transfers begin at the end of that |
//! | `batch_faults` | 256 | the most pages of a batch; a page is in it once |
//! | `host_fault_ns` | 10 µs | a host fault, before its transfer |
//! | `latency_ns` | 1 µs | from the end of a transfer on the link to the page being there; transfers overlap in it |
//! | `megabytes_per_s` | 8000 | of the link: a page occupies it 512 ns |
//! | `duplex` | half | the link carries one direction at a time, as the device's does (`qemu/SPEC.md`) |
//! | `writeback` | all | an evicted page travels back whether it was written or not: its frame is the only copy of it (protocol, rule 1) |
//! | `recency` | access | a block is as recent as its last touch (the device marks accesses) |
//! | `thrashing` | on | the engine's thrashing detector, fed as the module feeds it, makes those who ask for thrashing pages wait, and pins pages |
//!
//! A page that is pinned is reached where it is: each line of 64 bytes that is accessed (at most 64 of a touch) takes the link's latency, one
//! after the other. Remote accesses do not slow down transfers.

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::trace::PAGE_BYTES;

/// Whether both directions share the link.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Duplex {
    /// One direction at a time
    Half,
    /// Each direction has the full bandwidth
    Full,
}

/// Which evicted pages travel back to the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Writeback {
    /// Every one
    All,
    /// Those that were written
    Dirty,
}

/// What makes a block recent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Recency {
    /// Every touch of one of its pages
    Access,
    /// Only faults in it
    Fault,
}

/// Whether thrashing is controlled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Control {
    /// As the module does, whoever decides what is prefetched
    On,
    /// Not at all
    Off,
}

/// What things cost; see the module's documentation.
#[derive(Clone, Copy, PartialEq, Debug, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Cost model")]
pub(crate) struct Costs {
    /// Items that a function's device executes at a time
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) strands: u32,
    /// Time of a touch when the page is there, in ns
    #[arg(long, value_name = "NS", default_value_t = 1000, value_parser = ns())]
    pub(crate) compute_ns: u64,
    /// Time of a batch of device faults, in ns
    #[arg(long, value_name = "NS", default_value_t = 30_000, value_parser = ns())]
    pub(crate) batch_ns: u64,
    /// Time of each page of a batch, in ns
    #[arg(long, value_name = "NS", default_value_t = 1000, value_parser = ns())]
    pub(crate) fault_ns: u64,
    /// The most pages of a batch
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) batch_faults: u32,
    /// Time of a host fault, in ns
    #[arg(long, value_name = "NS", default_value_t = 10_000, value_parser = ns())]
    pub(crate) host_fault_ns: u64,
    /// Latency of the link, in ns
    #[arg(long, value_name = "NS", default_value_t = 1000, value_parser = ns())]
    pub(crate) latency_ns: u64,
    /// Bandwidth of the link, in MB/s of 10^6 bytes
    #[arg(long = "link", value_name = "MB/S", default_value_t = 8000, value_parser = clap::value_parser!(u64).range(1..=4_096_000))]
    pub(crate) megabytes_per_s: u64,
    /// Whether both directions share the link
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Duplex::Half)]
    pub(crate) duplex: Duplex,
    /// Which evicted pages travel back to the host
    #[arg(long, value_enum, value_name = "WHICH", default_value_t = Writeback::All)]
    pub(crate) writeback: Writeback,
    /// What makes a block recently used
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = Recency::Access)]
    pub(crate) recency: Recency,
    /// Whether thrashing is detected, throttled and pinned
    #[arg(long, value_enum, value_name = "WHETHER", default_value_t = Control::On)]
    pub(crate) thrashing: Control,
}

/// Times of up to a second: sums of them cannot overflow.
fn ns() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(0..=1_000_000_000)
}

impl Default for Costs {
    fn default() -> Self {
        Self {
            strands: 32,
            compute_ns: 1000,
            batch_ns: 30_000,
            fault_ns: 1000,
            batch_faults: 256,
            host_fault_ns: 10_000,
            latency_ns: 1000,
            megabytes_per_s: 8000,
            duplex: Duplex::Half,
            writeback: Writeback::All,
            recency: Recency::Access,
            thrashing: Control::On,
        }
    }
}

/// Lines of a page: what a remote access moves is one of them.
pub(crate) const LINES: u32 = 64;

impl Costs {
    /// How long a touch of so many accesses takes where the page is out of reach but for the link.
    pub(crate) fn remote_ns(&self, accesses: u32) -> u64 {
        self.compute_ns + self.latency_ns * u64::from(accesses.min(LINES))
    }

    /// How long a page occupies the link, in ns, rounded up.
    pub(crate) fn page_ns(&self) -> u64 {
        (PAGE_BYTES * 1000)
            .div_ceil(self.megabytes_per_s.max(1))
            .max(1)
    }
}

#[cfg(test)]
mod tests {
    use clap::{FromArgMatches, Parser};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        costs: Costs,
    }

    #[test]
    fn the_command_lines_defaults_are_the_models() {
        let line = Line::try_parse_from(["x"]).unwrap();
        assert_eq!(line.costs, Costs::default());
        let matches = <Line as clap::CommandFactory>::command()
            .try_get_matches_from(["x", "--link", "25000"])
            .unwrap();
        let line = Line::from_arg_matches(&matches).unwrap();
        assert_eq!(line.costs.page_ns(), 164);
        assert_eq!(Costs::default().page_ns(), 512);
    }

    #[test]
    fn what_is_left_out_of_a_file_is_the_default() {
        let costs: Costs = toml::from_str("megabytes_per_s = 25000").unwrap();
        assert_eq!(costs.strands, 32);
        assert!(toml::from_str::<Costs>("strand = 3").is_err());
    }
}
