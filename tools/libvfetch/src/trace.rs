// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a function's memory manager does and sees, record by record.

use std::{os::fd::AsFd, time::Duration};

use rustix::io::Errno;
use serde::{ser::SerializeMap, Serialize, Serializer};

use crate::{sys, uapi, PolicyKind, Result, Side, Space, PAGE_BYTES};

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TraceKind {
    /// Faults of jobs were taken from the device, so many at once.
    Batch,
    /// Jobs faulted on pages, on some of them to write ([`TraceRecord::more`]).
    DeviceFaults,
    /// A process faulted on a page, to write if it is in [`TraceRecord::more`].
    HostFault,
    /// The policy has pages come along with faults on others ([`TraceRecord::more`]).
    Hint,
    /// Pages begin to move.
    Move,
    /// Pages have moved.
    Arrived,
    /// Pages did not move.
    Stayed,
    /// Pages made room.
    Evicted,
    /// Pages thrash and are held back from the side that wants them ([`TraceRecord::to`]); some are pinned ([`TraceRecord::more`]).
    Thrashing,
    /// Pages that thrashed may move again.
    Unpinned,
    /// Something that this library does not know.
    Unknown,
}

impl TraceKind {
    /// All that this library knows.
    pub const ALL: [Self; uapi::VFETCH_TRACE_KINDS as usize] = [
        Self::Batch,
        Self::DeviceFaults,
        Self::HostFault,
        Self::Hint,
        Self::Move,
        Self::Arrived,
        Self::Stayed,
        Self::Evicted,
        Self::Thrashing,
        Self::Unpinned,
    ];

    fn from_number(number: u32) -> Self {
        match number {
            uapi::VFETCH_TRACE_BATCH => Self::Batch,
            uapi::VFETCH_TRACE_DEVICE_FAULTS => Self::DeviceFaults,
            uapi::VFETCH_TRACE_HOST_FAULT => Self::HostFault,
            uapi::VFETCH_TRACE_HINT => Self::Hint,
            uapi::VFETCH_TRACE_MOVE => Self::Move,
            uapi::VFETCH_TRACE_ARRIVED => Self::Arrived,
            uapi::VFETCH_TRACE_STAYED => Self::Stayed,
            uapi::VFETCH_TRACE_EVICTED => Self::Evicted,
            uapi::VFETCH_TRACE_THRASHING => Self::Thrashing,
            uapi::VFETCH_TRACE_UNPINNED => Self::Unpinned,
            _ => Self::Unknown,
        }
    }

    fn bit(self) -> u32 {
        let at = Self::ALL.iter().position(|kind| *kind == self);
        at.map_or(0, |at| 2 << at)
    }
}

/// A record of a trace. `struct vfetch_trace_record` says what its fields are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceRecord(pub(crate) uapi::vfetch_trace_record);

/// The pages of a mask.
fn pages_of(
    first: u64,
    mask: [u64; uapi::VFETCH_TRACE_MASK_WORDS as usize],
) -> impl Iterator<Item = u64> {
    let bits = (0..64 * mask.len()).filter(move |i| (mask[i / 64] >> (i % 64)) & 1 != 0);
    bits.map(move |i| first.saturating_add(i as u64))
}

impl TraceRecord {
    /// What it says.
    #[must_use]
    pub fn kind(&self) -> TraceKind {
        TraceKind::from_number(self.0.kind)
    }

    /// When, by `CLOCK_MONOTONIC`.
    #[must_use]
    pub fn time_ns(&self) -> u64 {
        self.0.time_ns
    }

    /// Its number in the trace; those that are left out were lost.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.0.number
    }

    /// Of a [`TraceKind::Batch`] how many faults; of others how many [`pages`](Self::pages).
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.count
    }

    /// Which space of the function.
    #[must_use]
    pub fn space(&self) -> u64 {
        self.0.space
    }

    /// Where pages go, where that is said.
    #[must_use]
    pub fn to(&self) -> Option<Side> {
        match self.kind() {
            TraceKind::Batch
            | TraceKind::DeviceFaults
            | TraceKind::HostFault
            | TraceKind::Unpinned
            | TraceKind::Unknown => None,
            _ if self.0.to == uapi::VFETCH_TRACE_TO_DEVICE => Some(Side::Device),
            _ => Some(Side::Host),
        }
    }

    /// Of a [`TraceKind::Hint`]: who decided.
    #[must_use]
    pub fn policy(&self) -> Option<PolicyKind> {
        let mut all = PolicyKind::ALL.into_iter();
        let found = all.find(|kind| kind.number() == self.0.policy);
        found.filter(|_| self.kind() == TraceKind::Hint)
    }

    /// Pages of the space, in ascending order, all of one block.
    pub fn pages(&self) -> impl Iterator<Item = u64> {
        pages_of(self.0.first, self.0.pages)
    }

    /// More pages, whose meaning the kind says.
    pub fn more(&self) -> impl Iterator<Item = u64> {
        pages_of(self.0.first, self.0.more)
    }

    /// Of a [`TraceKind::Stayed`]: why; 0 where somebody else holds the pages.
    #[must_use]
    pub fn error(&self) -> u32 {
        self.0.error
    }
}

/// Neighbouring pages as `[first byte, bytes]`.
fn ranges(pages: impl Iterator<Item = u64>) -> Vec<[u64; 2]> {
    let mut ranges: Vec<[u64; 2]> = Vec::new();
    for page in pages {
        let at = page.saturating_mul(PAGE_BYTES);
        match ranges.last_mut() {
            Some([start, bytes]) if start.saturating_add(*bytes) == at => *bytes += PAGE_BYTES,
            _ => ranges.push([at, PAGE_BYTES]),
        }
    }
    ranges
}

/// What its kind has, pages as ranges of bytes.
impl Serialize for TraceRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let kind = self.kind();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("number", &self.0.number)?;
        map.serialize_entry("time_ns", &self.0.time_ns)?;
        map.serialize_entry("kind", &kind)?;
        map.serialize_entry("count", &self.0.count)?;
        if kind != TraceKind::Batch {
            map.serialize_entry("space", &self.0.space)?;
            map.serialize_entry("pages", &ranges(self.pages()))?;
        }
        match kind {
            TraceKind::DeviceFaults | TraceKind::HostFault => {
                map.serialize_entry("written", &ranges(self.more()))?;
            }
            TraceKind::Hint => {
                map.serialize_entry("policy", &self.policy())?;
                map.serialize_entry("faulted", &ranges(self.more()))?;
            }
            TraceKind::Thrashing => map.serialize_entry("pinned", &ranges(self.more()))?,
            _ => {}
        }
        if let Some(to) = self.to() {
            map.serialize_entry("to", &to)?;
        }
        if self.0.move_ != 0 {
            map.serialize_entry("move", &self.0.move_)?;
        }
        if kind == TraceKind::Stayed {
            map.serialize_entry("error", &self.0.error)?;
        }
        map.end()
    }
}

/// Records that were taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Records {
    /// The oldest first; none after a time-out, and at the end.
    pub records: Vec<TraceRecord>,
    /// How many were lost since the trace began: the driver had no room for them.
    pub lost: u64,
    /// There may be more to come: the trace goes on, and there was no time-out.
    pub timed_out: bool,
}

/// A trace of a function, of all of its spaces. Dropping it ends it.
#[derive(Debug)]
pub struct Trace<'s> {
    space: &'s Space,
}

impl Space {
    /// Traces this space's function: records of `kinds`, of which the driver keeps up to `records` (64 to 65536) until they are read.
    ///
    /// # Errors
    ///
    /// [`Error::Os`](crate::Error::Os): `EBUSY` when another file traces the function, `EINVAL`, `ENOMEM`; [`Error::Gone`](crate::Error::Gone).
    pub fn trace(&self, kinds: &[TraceKind], records: u32) -> Result<Trace<'_>> {
        let start = uapi::vfetch_trace_start {
            kinds: kinds.iter().fold(0, |bits, kind| bits | kind.bit()),
            records,
            ..Default::default()
        };
        sys::trace_start(self.as_fd(), start).map_err(|errno| self.failed("be traced", errno))?;
        Ok(Trace { space: self })
    }
}

impl Trace<'_> {
    /// Takes up to `room` records, and waits for the first; at most for so long.
    ///
    /// # Errors
    ///
    /// [`Error::Os`](crate::Error::Os), with `EINTR` when a signal came first.
    pub fn read(&self, room: usize, timeout: Option<Duration>) -> Result<Records> {
        let timeout = timeout.map_or(-1, |t| i64::try_from(t.as_nanos()).unwrap_or(i64::MAX));
        let mut raw = vec![uapi::vfetch_trace_record::default(); room];
        match sys::trace_read(self.space.as_fd(), &mut raw, timeout) {
            Ok((count, lost)) => {
                raw.truncate(count);
                Ok(Records {
                    records: raw.into_iter().map(TraceRecord).collect(),
                    lost,
                    timed_out: false,
                })
            }
            Err(Errno::TIME) => Ok(Records {
                records: Vec::new(),
                lost: 0,
                timed_out: true,
            }),
            Err(errno) => Err(self.space.failed("give records of its trace", errno)),
        }
    }

    /// Ends it; what was recorded can still be read, and then there is nothing without waiting.
    ///
    /// # Errors
    ///
    /// [`Error::Os`](crate::Error::Os).
    pub fn stop(&self) -> Result<()> {
        sys::trace_stop(self.space.as_fd())
            .map_err(|errno| self.space.failed("end its trace", errno))
    }
}

impl Drop for Trace<'_> {
    fn drop(&mut self) {
        // It may have ended with the function.
        let _ = self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_those_of_the_header() {
        for (number, kind) in (1..).zip(TraceKind::ALL) {
            assert_eq!(TraceKind::from_number(number), kind);
            assert_eq!(kind.bit(), 1 << number);
        }
        assert_eq!(TraceKind::from_number(0), TraceKind::Unknown);
        assert_eq!(TraceKind::Unknown.bit(), 0);
    }

    #[test]
    fn a_record_says_what_its_kind_has() {
        let mut raw = uapi::vfetch_trace_record {
            kind: uapi::VFETCH_TRACE_HINT,
            to: uapi::VFETCH_TRACE_TO_DEVICE,
            policy: uapi::VFETCH_POLICY_STRIDE,
            count: 3,
            space: 7,
            first: 1024,
            ..Default::default()
        };
        raw.pages[0] = 0b110;
        raw.pages[7] = 1 << 63;
        raw.more[0] = 1;
        let record = TraceRecord(raw);
        assert_eq!(record.pages().collect::<Vec<_>>(), [1025, 1026, 1535]);
        let json = serde_json::to_value(record).unwrap();
        assert_eq!(json["pages"][0][0], 1025 * 4096);
        assert_eq!(json["pages"][0][1], 2 * 4096);
        assert_eq!(json["faulted"][0][0], 1024 * 4096);
        assert_eq!(json["policy"], "stride");
        assert_eq!(json["to"], "device");
        assert!(json.get("move").is_none() && json.get("written").is_none());
    }
}
