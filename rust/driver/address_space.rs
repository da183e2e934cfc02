// SPDX-License-Identifier: GPL-2.0

//! The spaces of a function that its device knows: each has an address space, whose number is in descriptors and faults.
//!
//! A space gets one with its first job. It keeps it until it is closed, or the function unbound. A number is used again only after
//! an invalidation of all of it.

use kernel::device::{Bound, Device};
use kernel::prelude::*;
use kernel::sync::{new_mutex, Arc, Mutex};

use super::space::Space;
use crate::sys::abi as hw;
use crate::sys::ring::SharedArray;

/// Address spaces that a function can have. Number 0 is nobody's.
pub(crate) const COUNT: usize = 1024;

const _: () = assert!(COUNT <= hw::VFETCH_MAX_AS as usize);

/// The number of an address space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Asid(u16);

impl Asid {
    /// As the device knows it.
    pub(crate) fn raw(self) -> u16 {
        self.0
    }

    /// The one that the device calls `raw`, if there can be one.
    pub(crate) fn from_raw(raw: u16) -> Option<Self> {
        (1..COUNT).contains(&usize::from(raw)).then_some(Self(raw))
    }
}

/// All address spaces of a function.
#[pin_data]
pub(crate) struct AddressSpaces {
    #[pin]
    inner: Mutex<Inner>,
}

struct Inner {
    /// What the device reads; `None` once the function is unbound.
    table: Option<SharedArray<hw::vfetch_as>>,
    spaces: KVec<Option<Arc<Space>>>,
    /// Where the search for a free number begins.
    next: usize,
}

impl AddressSpaces {
    /// None yet. ENOMEM.
    pub(crate) fn new(device: &Device<Bound>) -> Result<impl PinInit<Self>> {
        let table = SharedArray::new(device, COUNT)?;
        let mut spaces = KVec::with_capacity(COUNT, GFP_KERNEL)?;
        for _ in 0..COUNT {
            spaces.push(None, GFP_KERNEL)?;
        }
        let inner = Inner {
            table: Some(table),
            spaces,
            next: 1,
        };
        Ok(pin_init!(Self {
            inner <- new_mutex!(inner, "vfetch: address spaces"),
        }))
    }

    /// Where the device finds the table. ENODEV once there is none.
    pub(crate) fn table(&self) -> Result<u64> {
        let inner = self.inner.lock();
        Ok(inner.table.as_ref().ok_or(ENODEV)?.address(0))
    }

    /// Gives `space`, which `entry` describes, a number. ENOSPC when there is none left, ENODEV when the function is being unbound.
    pub(crate) fn add(&self, space: &Arc<Space>, entry: hw::vfetch_as) -> Result<Asid> {
        let inner = &mut *self.inner.lock();
        let free = |at: &usize| matches!(inner.spaces.get(*at), Some(None));
        let (next, ahead) = (inner.next.min(COUNT), inner.next..COUNT);
        let found = ahead.into_iter().find(free);
        let at = found.or_else(|| (1..next).find(free)).ok_or(ENOSPC)?;
        let asid = u16::try_from(at)
            .ok()
            .and_then(Asid::from_raw)
            .ok_or(ENOSPC)?;
        let array = inner.table.as_ref().ok_or(ENODEV)?;
        array.write(at, entry);
        if let Some(place) = inner.spaces.get_mut(at) {
            *place = Some(space.clone());
        }
        inner.next = at + 1;
        Ok(asid)
    }

    /// A space has changed: this describes it. Jobs that have begun know it as it was.
    pub(crate) fn changed(&self, asid: Asid, entry: hw::vfetch_as) {
        let inner = self.inner.lock();
        if let Some(array) = &inner.table {
            array.write(usize::from(asid.0), entry);
        }
    }

    /// The device shall not know `asid` any more. What it remembers is to be invalidated before the number is [released](Self::release).
    pub(crate) fn retire(&self, asid: Asid) {
        self.changed(asid, hw::vfetch_as::default());
    }

    /// The number can be used again.
    pub(crate) fn release(&self, asid: Asid) {
        let space = {
            let mut inner = self.inner.lock();
            let place = inner.spaces.get_mut(usize::from(asid.0));
            place.and_then(Option::take)
        };
        // Not under the lock: it may be the last reference.
        drop(space);
    }

    /// The space that has a number.
    pub(crate) fn get(&self, asid: Asid) -> Option<Arc<Space>> {
        self.inner.lock().spaces.get(usize::from(asid.0))?.clone()
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = Arc<Space>> + '_ {
        (1..COUNT).filter_map(|at| self.inner.lock().spaces.get(at)?.clone())
    }

    /// The function is being unbound and the device does not read the table any more.
    pub(crate) fn free(&self) {
        let table = self.inner.lock().table.take();
        drop(table);
    }
}
