// SPDX-License-Identifier: GPL-2.0

//! vfetch: memory of PCIe functions, shared with the host.

mod driver;
mod engine;
mod sys;

use kernel::driver::Registration;
use kernel::prelude::*;

use driver::params::Parameters;
use driver::registry::Registry;
use sys::published::Publication;

/// The loaded module.
///
/// Fields are dropped in this order: VFs go first, while their PF's driver is there to answer.
#[pin_data]
struct Vfetch {
    _vfs: DisableVfs,
    #[pin]
    _driver: Registration<sys::pci::Adapter<driver::pci::Driver>>,
    _registry: Publication<Registry>,
}

/// Disables all VFs when dropped.
struct DisableVfs;

impl Drop for DisableVfs {
    fn drop(&mut self) {
        driver::pci::disable_all_vfs();
    }
}

impl kernel::InPlaceModule for Vfetch {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _registry: {
                Parameters::read()?;
                Registry::publish()?
            },
            _driver <- Registration::new(<LocalModule as kernel::ModuleMetadata>::NAME, module),
            _vfs: DisableVfs,
        })
    }
}

module! {
    type: Vfetch,
    name: "vfetch",
    authors: ["The vfetch developers"],
    description: "Memory of PCIe functions, shared with the host",
    license: "GPL v2",
    params: {
        timeout_ms: u32 {
            default: 2000,
            description: "Time after which a transfer's queue is reset, 10 to 30000 (default 2000)",
        },
        queue_entries: u32 {
            default: 64,
            description: "Slots of each queue, a power of two from 4 to 1024 (default 64)",
        },
        spin_us: u32 {
            default: 20,
            description: "Time to wait for a transfer without sleeping, where it is expected to be enough, 0 to 1000 (default 20)",
        },
        prefetch_enable: u32 {
            default: 1,
            description: "Whether pages come along with those that fault, 0 or 1 (default 1)",
        },
        prefetch_threshold: u32 {
            default: 51,
            description: "How much of a node of the prefetch tree must be resident, in percent, 1 to 100 (default 51)",
        },
        prefetch_min_faults: u32 {
            default: 1,
            description: "Faults of a block before anything comes along, 1 to 20 (default 1)",
        },
        thrashing_enable: u32 {
            default: 1,
            description: "Whether pages are kept from going to and fro between host and device, 0 or 1 (default 1)",
        },
        thrashing_threshold: u32 {
            default: 3,
            description: "Moves of a page, each within a lapse of the one before, until it is thrashing, 1 to 7 (default 3)",
        },
        thrashing_pin_threshold: u32 {
            default: 10,
            description: "Times that somebody waits for a thrashing page until it is pinned, 1 to 255 (default 10)",
        },
        thrashing_lapse_us: u32 {
            default: 500,
            description: "The longest time between two moves that belong together, and how long somebody waits, 1 to 10000000 (default 500)",
        },
        thrashing_pin_lapses: u32 {
            default: 300,
            description: "How long a page is pinned, in lapses, 0 (for ever) to 1000000 (default 300)",
        },
    },
}
