// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the link allows: the bound that measurements are compared with.

use libvfetch::Link;

use crate::units::float;

/// One device's link, and how many of the measured functions are on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) link: Link,
    pub(crate) functions: u32,
}

impl Device {
    /// Most bytes a nanosecond with `depth` requests of `block` bytes under way on each function.
    ///
    /// A request takes the link's latency and then its bytes at the link's
    /// rate; the latencies of requests overlap, their bytes do not.
    fn bytes_per_ns(&self, block: u64, depth: u32) -> f64 {
        let under_way = f64::from(self.functions) * f64::from(depth);
        let alone = float(block) / self.link.transfer_ns(block);
        let rate = f64::from(self.link.bytes_per_us) / 1000.0;
        rate.min(under_way * alone)
    }
}

/// Least nanoseconds from one request's end to the next one's, over all functions of all devices.
pub(crate) fn ns_per_request(devices: &[Device], block: u64, depth: u32) -> f64 {
    let together: f64 = devices.iter().map(|d| d.bytes_per_ns(block, depth)).sum();
    if together > 0.0 {
        float(block) / together
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Link = Link {
        latency_ns: 1000,
        bytes_per_us: 8000,
        weight: 1,
    };

    fn is(value: f64, expected: f64) -> bool {
        (value - expected).abs() < 1e-6
    }

    #[test]
    fn one_request_at_a_time_pays_the_latency() {
        let one = [Device {
            link: LINK,
            functions: 1,
        }];
        assert!(is(ns_per_request(&one, 4096, 1), 1512.0));
        assert!(is(ns_per_request(&one, 1 << 20, 1), 1000.0 + 131_072.0));
    }

    #[test]
    fn latencies_overlap_until_the_link_is_full() {
        let one = [Device {
            link: LINK,
            functions: 1,
        }];
        assert!(is(ns_per_request(&one, 4096, 2), 756.0));
        assert!(is(ns_per_request(&one, 4096, 16), 512.0));
    }

    #[test]
    fn functions_share_their_devices_link_and_devices_have_their_own() {
        let shared = [Device {
            link: LINK,
            functions: 8,
        }];
        assert!(is(ns_per_request(&shared, 4096, 1), 512.0));
        let two = [
            Device {
                link: LINK,
                functions: 8,
            },
            Device {
                link: LINK,
                functions: 8,
            },
        ];
        assert!(is(ns_per_request(&two, 4096, 1), 256.0));
    }
}
