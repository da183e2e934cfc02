// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How a job of `vfetch demo` comes by its data.

use std::{fmt, str::FromStr};

use anyhow::{bail, Result};
use libvfetch::{Advice, Scope, Side, Space, PAGE_BYTES};
use serde::{Serialize, Serializer};

use super::Workload;
use crate::policy::Choice;

/// How a job comes by its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// It is in host memory, and comes as the job faults and this policy decides.
    Policy(Choice),
    /// It is on the device already, as far as there is room.
    Resident,
    /// It is in a flat space: on the device, and nothing is managed.
    Flat,
}

impl Way {
    /// Gives `space`, which has no size, what `work` begins with, and as much of the function's memory as it may have.
    pub(super) fn prepare(self, space: &Space, work: &Workload, device_bytes: u64) -> Result<()> {
        let bytes = work.bytes();
        if self == Self::Flat {
            space.make_flat(bytes)?;
            space.write_all_at(&work.before, 0)?;
            return Ok(());
        }
        space.set_size(bytes)?;
        let host = space.limits(Scope::Space)?.host_bytes;
        space.set_limits(Scope::Space, host, device_bytes)?;
        if let Self::Policy(choice) = self {
            space.set_policy(choice.apply(space.policy()?))?;
        }
        // By the processor: pages that write() gives contents begin on the device.
        let memory = space.map()?;
        memory.write(0, &work.before);
        drop(memory);
        let start = space.residency(0..bytes)?;
        if start.host * PAGE_BYTES != bytes {
            bail!("vfetch{} does not keep {bytes} bytes in host memory to begin with: give it a larger host limit, or a smaller --size ({start:?})", space.node());
        }
        if self == Self::Resident {
            space.advise(0..bytes, Advice::WillNeed(Side::Device))?;
        }
        Ok(())
    }
}

impl FromStr for Way {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "resident" => Ok(Self::Resident),
            "flat" => Ok(Self::Flat),
            _ => (text.parse().map(Self::Policy))
                .map_err(|error| format!("{error}; or 'resident', 'flat'")),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(choice) => choice.fmt(f),
            Self::Resident => f.pad("resident"),
            Self::Flat => f.pad("flat"),
        }
    }
}

impl Serialize for Way {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_are_read_as_they_are_written() {
        for text in ["51", "auto", "resident", "flat"] {
            assert_eq!(
                text.parse().map(|way: Way| way.to_string()),
                Ok(text.into())
            );
        }
        let error = "flat-ish".parse::<Way>().unwrap_err();
        assert!(error.contains("'flat'"), "{error}");
    }
}
