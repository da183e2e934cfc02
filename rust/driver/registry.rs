// SPDX-License-Identifier: GPL-2.0

//! Which functions there are, and what their nodes are called.

use kernel::prelude::*;
use kernel::sync::{new_mutex, Arc, Mutex};

use super::function::Function;
use crate::sys::pci::Address;
use crate::sys::published::{Publication, Published};
use crate::sys::work::OwnQueue;

/// The registry of the loaded module.
static REGISTRY: Published<Registry> = Published::new();

/// The registry of the loaded module.
pub(crate) fn get() -> Option<Arc<Registry>> {
    REGISTRY.get()
}

/// What is known of an address.
struct Entry {
    address: Address,
    /// N of the node; kept for the address after the function is unbound.
    node: u32,
    /// The function while it is bound.
    function: Option<Arc<Function>>,
}

/// Functions by PCI address.
#[pin_data]
pub(crate) struct Registry {
    #[pin]
    entries: Mutex<KVec<Entry>>,
    /// For work that the module must not go before: it goes with the registry, which waits for it.
    work: Arc<OwnQueue>,
}

impl Registry {
    /// Makes an empty registry and lets [`get`] find it until the guard is dropped.
    pub(crate) fn publish() -> Result<Publication<Registry>> {
        let registry = Arc::pin_init(
            try_pin_init!(Self {
                entries <- new_mutex!(KVec::new(), "vfetch: registry"),
                work: Arc::new(OwnQueue::new(c"vfetch")?, GFP_KERNEL)?,
            }),
            GFP_KERNEL,
        )?;
        REGISTRY.publish(registry)
    }

    /// Where work is queued.
    pub(crate) fn work(&self) -> Arc<OwnQueue> {
        self.work.clone()
    }

    /// The node number for `address`: what it had before, or the lowest that no address has.
    pub(crate) fn number(&self, address: Address) -> Result<u32> {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.iter().find(|entry| entry.address == address) {
            return Ok(entry.node);
        }
        let is_free = |node: &u32| entries.iter().all(|entry| entry.node != *node);
        let node = (0..u32::MAX).find(is_free).ok_or(ENOSPC)?;
        entries.push(
            Entry {
                address,
                node,
                function: None,
            },
            GFP_KERNEL,
        )?;
        Ok(node)
    }

    /// The function of `address` is bound, or (`None`) not any more.
    pub(crate) fn set(&self, address: Address, function: Option<Arc<Function>>) {
        let before = {
            let mut entries = self.entries.lock();
            let entry = entries.iter_mut().find(|entry| entry.address == address);
            entry.map(|entry| core::mem::replace(&mut entry.function, function))
        };
        // Not under the lock: it may be the last reference.
        drop(before);
    }

    /// The node number of `address`, if its function is bound.
    pub(crate) fn node_of(&self, address: Address) -> Option<u32> {
        let entries = self.entries.lock();
        entries
            .iter()
            .find(|entry| entry.address == address && entry.function.is_some())
            .map(|entry| entry.node)
    }

    /// The bound functions of which `which` says so, in the order of their addresses.
    ///
    /// Those that are bound or unbound meanwhile may be among them. The lock is not held while the caller deals with
    /// one, and nothing is allocated: none is left out for lack of memory.
    fn functions<'a>(
        &'a self,
        which: impl Fn(&Function) -> bool + 'a,
    ) -> impl Iterator<Item = Arc<Function>> + 'a {
        let mut last: Option<Address> = None;
        core::iter::from_fn(move || {
            let entries = self.entries.lock();
            let next = entries
                .iter()
                .filter(|entry| last.is_none_or(|last| entry.address > last))
                .filter_map(|entry| entry.function.as_ref())
                .filter(|function| which(function))
                .min_by_key(|function| function.identity.address)?;
            last = Some(next.identity.address);
            Some(next.clone())
        })
    }

    /// The bound VFs of the PF at `address`.
    pub(crate) fn vfs_of(&self, address: Address) -> impl Iterator<Item = Arc<Function>> + '_ {
        self.functions(move |function| function.identity.physical == Some(address))
    }

    /// The bound PFs.
    pub(crate) fn pfs(&self) -> impl Iterator<Item = Arc<Function>> + '_ {
        self.functions(|function| function.identity.physical.is_none())
    }
}
