// SPDX-License-Identifier: GPL-2.0

//! A BAR that holds memory, which processes map where it is.

use kernel::bindings;
use kernel::device::Bound;
use kernel::page::PAGE_SIZE;
use kernel::pci;
use kernel::prelude::*;
use kernel::sync::{new_mutex, Mutex};

use super::fault::{Ended, Fault};
use super::shim;

/// A BAR, page by page.
///
/// Pages are mapped only while it is open. Whoever closes it unmaps, after that, whatever was mapped.
///
/// # Invariants
///
/// Page frames `first..first + pages` are those of a BAR.
#[pin_data]
pub(crate) struct BarWindow {
    first: u64,
    pages: u32,
    /// Held while a page is mapped: when `close` has had it nothing more is.
    #[pin]
    open: Mutex<bool>,
}

impl BarWindow {
    /// The first `bytes` of a BAR of `device`, or what there is of them; closed.
    pub(crate) fn new(device: &pci::Device<Bound>, bar: u32, bytes: u64) -> impl PinInit<Self> {
        let page = PAGE_SIZE as u64;
        let start = device.resource_start(bar).unwrap_or(0);
        let length = device.resource_len(bar).unwrap_or(0).min(bytes);
        let usable = start != 0 && start % page == 0;
        let pages = if usable { length / page } else { 0 };
        // INVARIANT: They are within the BAR.
        pin_init!(Self {
            first: start / page,
            pages: u32::try_from(pages).unwrap_or(u32::MAX),
            open <- new_mutex!(false, "vfetch: window"),
        })
    }

    /// How many pages it shows.
    pub(crate) fn pages(&self) -> u32 {
        self.pages
    }

    /// Whether pages can be mapped now.
    pub(crate) fn is_open(&self) -> bool {
        *self.open.lock()
    }

    /// Pages can be mapped from now on.
    pub(crate) fn open(&self) {
        *self.open.lock() = true;
    }

    /// No more pages are mapped when this returns. Those that are stay so until they are unmapped.
    pub(crate) fn close(&self) {
        *self.open.lock() = false;
    }

    /// Maps page `page` where `fault` is, if `allowed` says so while it is certain to be open. `None` if not.
    pub(crate) fn map(
        &self,
        fault: &Fault<'_>,
        page: u32,
        allowed: impl FnOnce() -> bool,
    ) -> Option<Ended> {
        let open = self.open.lock();
        if !*open || page >= self.pages || !allowed() {
            return None;
        }
        let raw = fault.mappable()?;
        // SAFETY: The fault is under way, with its lock held. By the invariants the page frame is a BAR's.
        let result = unsafe { shim::vfetch_fault_insert_frame(raw, self.first + u64::from(page)) };
        drop(open);
        Some(match result {
            bindings::vm_fault_reason_VM_FAULT_NOPAGE => Ended::Done,
            bindings::vm_fault_reason_VM_FAULT_OOM => Ended::NoMemory,
            _ => Ended::Nothing,
        })
    }
}
