// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a function is, and what it has done.

use serde::{ser::SerializeMap, Serialize, Serializer};

pub use crate::uapi::{vfetch_info as Info, vfetch_stats as Stats};
use crate::{uapi, PciAddress, Role};

/// Whether a function can be used now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum State {
    /// Ready for transfers.
    Ready,
    /// A queue or function reset is under way; transfers wait for it.
    Recovering,
    /// Removed, unbound or beyond recovery.
    Gone,
    /// A state that this library does not know.
    Unknown,
}

impl State {
    /// In a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Recovering => "recovering",
            Self::Gone => "gone",
            Self::Unknown => "unknown",
        }
    }
}

/// The link's model, as the device states it: a transfer takes the latency and
/// then its bytes at the link's rate, and transfers overlap in their latencies.
/// All functions of one device share its link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Link {
    /// Nanoseconds before the first byte of a transfer.
    pub latency_ns: u32,
    /// Bytes a microsecond, which is MB/s.
    pub bytes_per_us: u32,
    /// The function's weight when several want the link, 1 to 255.
    pub weight: u32,
}

impl Link {
    /// Nanoseconds that the link carries `bytes`, without latency.
    #[must_use]
    pub fn wire_ns(&self, bytes: u64) -> f64 {
        to_f64(bytes) * 1000.0 / f64::from(self.bytes_per_us.max(1))
    }

    /// Nanoseconds that a transfer of `bytes` takes when nothing else is on the link.
    ///
    /// ```
    /// let link = libvfetch::Link { latency_ns: 1000, bytes_per_us: 8000, weight: 1 };
    /// assert_eq!(link.transfer_ns(4096), 1512.0);
    /// ```
    #[must_use]
    pub fn transfer_ns(&self, bytes: u64) -> f64 {
        f64::from(self.latency_ns) + self.wire_ns(bytes)
    }
}

// Sizes are far below 2^53.
#[allow(clippy::cast_precision_loss)]
fn to_f64(n: u64) -> f64 {
    n as f64
}

impl Info {
    /// The PF, or which VF.
    #[must_use]
    pub fn role(&self) -> Role {
        match self.kind {
            uapi::VFETCH_KIND_PF => Role::Pf,
            _ => Role::Vf(self.function),
        }
    }

    /// Whether the function can be used now.
    #[must_use]
    pub fn state(&self) -> State {
        match self.state {
            uapi::VFETCH_STATE_READY => State::Ready,
            uapi::VFETCH_STATE_RECOVERING => State::Recovering,
            uapi::VFETCH_STATE_GONE => State::Gone,
            _ => State::Unknown,
        }
    }

    /// The function's PCI address.
    #[must_use]
    pub fn address(&self) -> PciAddress {
        let [_, devfn] = self.pci_devfn.to_be_bytes();
        let [_, bus] = self.pci_bus.to_be_bytes();
        PciAddress {
            domain: self.pci_domain,
            bus,
            device: devfn >> 3,
            function: devfn & 7,
        }
    }

    /// The node of its PF, when that is bound here; a PF's own for a PF.
    #[must_use]
    pub fn pf(&self) -> Option<u32> {
        (self.pf_node != uapi::VFETCH_NODE_NONE).then_some(self.pf_node)
    }

    /// The link's model.
    #[must_use]
    pub fn link(&self) -> Link {
        Link {
            latency_ns: self.link_latency_ns,
            bytes_per_us: self.link_bytes_per_us,
            weight: self.link_weight,
        }
    }
}

/// The fields with their names in the header, numbers with words as such.
impl Serialize for Info {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("abi_version", &self.abi_version)?;
        map.serialize_entry("node", &self.node)?;
        map.serialize_entry("address", &self.address())?;
        map.serialize_entry("kind", self.role().kind())?;
        map.serialize_entry("function", &self.function)?;
        map.serialize_entry("pf_node", &self.pf())?;
        map.serialize_entry("state", &self.state())?;
        map.serialize_entry("vendor", &self.vendor)?;
        map.serialize_entry("device", &self.device)?;
        map.serialize_entry("generation", &self.generation)?;
        map.serialize_entry("queues", &self.queues)?;
        map.serialize_entry("queue_entries", &self.queue_entries)?;
        map.serialize_entry("transfer_max_bytes", &self.transfer_max_bytes)?;
        map.serialize_entry("page_bytes", &self.page_bytes)?;
        map.serialize_entry("block_bytes", &self.block_bytes)?;
        map.serialize_entry("memory_bytes", &self.memory_bytes)?;
        map.serialize_entry("free_bytes", &self.free_bytes)?;
        map.serialize_entry("window_bytes", &self.window_bytes)?;
        map.serialize_entry("link_latency_ns", &self.link_latency_ns)?;
        map.serialize_entry("link_bytes_per_us", &self.link_bytes_per_us)?;
        map.serialize_entry("link_weight", &self.link_weight)?;
        map.serialize_entry("strands", &self.strands)?;
        map.serialize_entry("space_bytes", &self.space_bytes)?;
        map.serialize_entry("space_lost_pages", &self.space_lost_pages)?;
        map.end()
    }
}

/// One counter of a [`Stats`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    /// Its name in the header.
    pub name: &'static str,
    /// What it counts, in the header's words.
    pub meaning: &'static str,
    /// Its value. Names that end in `_bytes` and `_ns` say its unit.
    pub value: u64,
}

impl Counter {
    /// Whether it says how things are now, rather than what happened since the function was bound.
    #[must_use]
    pub fn is_gauge(&self) -> bool {
        matches!(
            self.name,
            "spaces" | "in_flight" | "device_pages" | "device_time_ns"
        )
    }
}

impl Stats {
    /// All counters, in the header's order.
    ///
    /// ```
    /// let stats = libvfetch::Stats::default();
    /// assert!(stats.counters().any(|c| c.name == "timeouts" && c.value == 0));
    /// ```
    pub fn counters(&self) -> impl Iterator<Item = Counter> + use<> {
        uapi::COUNTERS
            .into_iter()
            .zip(uapi::counter_values(self))
            .map(|((name, meaning), value)| Counter {
                name,
                meaning,
                value,
            })
    }
}

/// A map from counter to value.
impl Serialize for Stats {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.counters().map(|c| (c.name, c.value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_a_meaning_and_its_own_value() {
        let stats = Stats {
            spaces: 2,
            reads: 3,
            device_time_ns: 9,
            ..Default::default()
        };
        let counters: Vec<_> = stats.counters().collect();
        assert!(counters
            .iter()
            .all(|c| !c.meaning.is_empty() && !c.meaning.ends_with('/')));
        let value = |name| counters.iter().find(|c| c.name == name).map(|c| c.value);
        assert_eq!(value("spaces"), Some(2));
        assert_eq!(value("reads"), Some(3));
        assert_eq!(value("device_time_ns"), Some(9));
        assert_eq!(value("flags"), None);
        // As many as the structure has room for: two of 4 bytes, one of them flags.
        assert_eq!((counters.len() - 1) * 8 + 8, size_of::<Stats>());
    }

    #[test]
    fn an_address_is_taken_apart_by_the_pci_rules() {
        let info = Info {
            pci_domain: 1,
            pci_bus: 2,
            pci_devfn: (3 << 3) | 4,
            ..Default::default()
        };
        assert_eq!(info.address().to_string(), "0001:02:03.4");
    }

    #[test]
    fn a_vf_without_a_bound_pf_has_none() {
        let info = Info {
            kind: 1,
            function: 5,
            pf_node: uapi::VFETCH_NODE_NONE,
            ..Default::default()
        };
        assert_eq!(info.pf(), None);
        assert_eq!(info.role(), Role::Vf(5));
    }
}
