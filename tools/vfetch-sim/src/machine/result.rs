// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What came of a run.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::config::LINES;
use crate::trace::PAGE_BYTES;

/// What is counted for a function, or summed over several.
///
/// Every prefetched page ends as exactly one of used, late, unused or left over.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters {
    /// When its last item ended.
    pub(crate) time_ns: u64,
    pub(crate) touches: u64,
    pub(crate) accesses: u64,
    /// Pages in batches of device faults.
    pub(crate) faults: u64,
    pub(crate) batches: u64,
    pub(crate) host_faults: u64,
    /// Touches of pages that were in the fault buffer, or demanded already.
    pub(crate) joined: u64,
    /// Faults of pages that were not on their way.
    pub(crate) misses: u64,
    /// Those of pages that were evicted for prefetched ones, and that would have been there without prefetching.
    pub(crate) polluted: u64,
    /// Pages that a prefetcher asked for and that were not there.
    pub(crate) prefetched: u64,
    /// Of these: touched when they were there;
    pub(crate) used: u64,
    /// touched when they were on their way;
    pub(crate) late: u64,
    /// gone again without a touch;
    pub(crate) unused: u64,
    /// there at the end without a touch.
    pub(crate) left_over: u64,
    /// Asked for, but there was no room.
    pub(crate) dropped: u64,
    /// Pages that do not exist.
    pub(crate) invalid: u64,
    /// Pages that came to the device, and left it.
    pub(crate) pages_in: u64,
    pub(crate) pages_out: u64,
    /// Of those that came, how many not for the first time.
    pub(crate) again: u64,
    /// Blocks of it that were evicted.
    pub(crate) evictions: u64,
    /// Faults that had to wait since their page was thrashing.
    pub(crate) throttled: u64,
    /// Times that a page was pinned.
    pub(crate) pinned: u64,
    /// Touches of pages that were pinned elsewhere, and lines that they moved.
    pub(crate) remote: u64,
    pub(crate) remote_lines: u64,
    /// Times of decisions by the host's clock, in ns.
    decisions: Option<Box<Histogram<u64>>>,
}

impl Counters {
    /// A decision took so long.
    pub(crate) fn decided(&mut self, ns: u64) {
        if self.decisions.is_none() {
            self.decisions = Histogram::new_with_bounds(1, 1_000_000_000, 3)
                .ok()
                .map(Box::new);
        }
        if let Some(h) = &mut self.decisions {
            h.saturating_record(ns);
        }
    }

    /// The median and the 99th percentile of the decisions' times, if they were taken.
    pub(crate) fn decision_ns(&self) -> Option<[u64; 2]> {
        self.decisions
            .as_ref()
            .map(|h| [0.5, 0.99].map(|q| h.value_at_quantile(q)))
    }

    /// Adds another function's; the time is the later one.
    pub(crate) fn add(&mut self, other: &Self) {
        self.time_ns = self.time_ns.max(other.time_ns);
        for (mine, other) in [
            (&mut self.touches, other.touches),
            (&mut self.accesses, other.accesses),
            (&mut self.faults, other.faults),
            (&mut self.batches, other.batches),
            (&mut self.host_faults, other.host_faults),
            (&mut self.joined, other.joined),
            (&mut self.misses, other.misses),
            (&mut self.polluted, other.polluted),
            (&mut self.prefetched, other.prefetched),
            (&mut self.used, other.used),
            (&mut self.late, other.late),
            (&mut self.unused, other.unused),
            (&mut self.left_over, other.left_over),
            (&mut self.dropped, other.dropped),
            (&mut self.invalid, other.invalid),
            (&mut self.pages_in, other.pages_in),
            (&mut self.pages_out, other.pages_out),
            (&mut self.again, other.again),
            (&mut self.evictions, other.evictions),
            (&mut self.throttled, other.throttled),
            (&mut self.pinned, other.pinned),
            (&mut self.remote, other.remote),
            (&mut self.remote_lines, other.remote_lines),
        ] {
            *mine += other;
        }
        match (&mut self.decisions, &other.decisions) {
            (Some(mine), Some(other)) => {
                // Both have the same bounds.
                let _ = mine.add(other.as_ref());
            }
            (mine @ None, Some(other)) => *mine = Some(other.clone()),
            (_, None) => {}
        }
    }

    /// Device and host faults.
    pub(crate) fn all_faults(&self) -> u64 {
        self.faults + self.host_faults
    }

    /// Prefetched pages that were touched, of all.
    pub(crate) fn accuracy(&self) -> Option<f64> {
        share(self.used + self.late, self.prefetched)
    }

    /// Touched prefetched pages that were late.
    pub(crate) fn lateness(&self) -> Option<f64> {
        share(self.late, self.used + self.late)
    }

    /// Misses that prefetching caused, of all.
    pub(crate) fn pollution(&self) -> Option<f64> {
        share(self.polluted, self.misses)
    }

    /// What the link carried for it, both ways.
    pub(crate) fn bytes_moved(&self) -> u64 {
        (self.pages_in + self.pages_out) * PAGE_BYTES
            + self.remote_lines * (PAGE_BYTES / u64::from(LINES))
    }
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// By function.
    pub(crate) functions: Vec<Counters>,
    /// The most frames that were taken at a time.
    pub(crate) peak_pages: u32,
    pub(crate) timeline: Timeline,
}

impl Outcome {
    /// All functions together.
    pub(crate) fn total(&self) -> Counters {
        let mut total = Counters::default();
        for f in &self.functions {
            total.add(f);
        }
        total
    }
}

/// Faults over time, in at most [`Timeline::BUCKETS`] equal pieces of it.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub(crate) struct Timeline {
    /// How long a piece is: a power of two.
    pub(crate) bucket_ns: u64,
    pub(crate) faults: Vec<u64>,
}

impl Timeline {
    pub(crate) const BUCKETS: usize = 256;

    pub(crate) fn new() -> Self {
        Self {
            bucket_ns: 1024,
            faults: Vec::new(),
        }
    }

    /// `count` faults at `now_ns`.
    pub(crate) fn add(&mut self, now_ns: u64, count: u64) {
        while now_ns / self.bucket_ns >= Self::BUCKETS as u64 {
            self.bucket_ns *= 2;
            self.faults = self
                .faults
                .chunks(2)
                .map(|pair| pair.iter().sum())
                .collect();
        }
        let at = (now_ns / self.bucket_ns) as usize;
        if self.faults.len() <= at {
            self.faults.resize(at + 1, 0);
        }
        self.faults[at] += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_keeps_all_faults_in_their_places() {
        let mut t = Timeline::new();
        for ms in 0..1000 {
            t.add(ms * 1_000_000, ms % 3);
        }
        assert!(t.faults.len() <= Timeline::BUCKETS && t.faults.len() > 100);
        assert_eq!(
            t.faults.iter().sum::<u64>(),
            (0..1000).map(|m| m % 3).sum::<u64>()
        );
        assert_eq!(t.faults[0], {
            let inside = t.bucket_ns.div_ceil(1_000_000);
            (0..inside).map(|m| m % 3).sum::<u64>()
        });
    }
}
