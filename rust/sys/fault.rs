// SPDX-License-Identifier: GPL-2.0

//! Faults of processes that have a file mapped.

use core::cell::Cell;
use core::marker::PhantomData;
use core::ops::Range;

use super::host_page::{BorrowedPage, HostPage};
use super::shim;
use kernel::bindings;

/// How a fault ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    /// The page is mapped, or it is to be looked again whether it is.
    Done,
    /// There is nothing to be mapped: SIGBUS.
    Nothing,
    /// There is no memory.
    NoMemory,
    /// It comes again: its lock was [released](Fault::unlock), or whoever faults waits for nothing.
    Again,
}

impl Ended {
    fn raw(self) -> bindings::vm_fault_t {
        match self {
            Self::Done => bindings::vm_fault_reason_VM_FAULT_NOPAGE,
            Self::Nothing => bindings::vm_fault_reason_VM_FAULT_SIGBUS,
            Self::NoMemory => bindings::vm_fault_reason_VM_FAULT_OOM,
            // It has waited for a device, and counts as such; without that it would be the first time again.
            Self::Again => {
                bindings::vm_fault_reason_VM_FAULT_RETRY | bindings::vm_fault_reason_VM_FAULT_MAJOR
            }
        }
    }
}

/// A fault of a process that has the file mapped.
///
/// # Invariants
///
/// The pointer is to a fault that is under way. Unless `unlocked` is set its lock is held, so that its mapping stays.
pub(crate) struct Fault<'a> {
    raw: *mut bindings::vm_fault,
    place: shim::FaultPlace,
    unlocked: Cell<*mut bindings::file>,
    _under_way: PhantomData<&'a ()>,
}

impl Fault<'_> {
    /// Serves the fault `raw` by `serve`.
    ///
    /// # Safety
    ///
    /// Called by a `fault` operation, with the fault that it got.
    pub(super) unsafe fn serve(
        raw: *mut bindings::vm_fault,
        serve: impl FnOnce(&Fault<'_>) -> Ended,
    ) -> bindings::vm_fault_t {
        let mut place = shim::FaultPlace::default();
        // SAFETY: By this function's contract.
        unsafe { shim::vfetch_fault_describe(raw, &mut place) };
        // INVARIANT: By this function's contract.
        let fault = Fault {
            raw,
            place,
            unlocked: Cell::new(core::ptr::null_mut()),
            _under_way: PhantomData,
        };
        let mut ended = serve(&fault);
        let file = fault.unlocked.get();
        if !file.is_null() {
            // Whatever was found out: without the lock nothing else may be said.
            ended = Ended::Again;
            // SAFETY: The reference came from `vfetch_fault_unlock`. Whoever called us does not look at the file any more.
            unsafe { bindings::fput(file) };
        }
        ended.raw()
    }

    /// The page of the file that is wanted.
    pub(crate) fn page(&self) -> u64 {
        // CAST: usize to u64 keeps the value, here and below.
        self.place.page as u64
    }

    /// Whether it is to be written.
    pub(crate) fn is_write(&self) -> bool {
        self.place.write
    }

    /// Whether it comes [again](Ended::Again).
    pub(crate) fn is_again(&self) -> bool {
        self.place.again
    }

    /// Pages of the file that the mapping covers.
    pub(crate) fn covers(&self) -> Range<u64> {
        self.place.first as u64..self.place.outer as u64
    }

    /// Releases the lock that keeps the mapping as it is, so that waiting holds nobody up. `false` if that cannot be done here, or was done the last
    /// time, so that this one is to make do with it.
    /// The file stays. Nothing can be mapped afterwards: the fault comes again.
    pub(crate) fn unlock(&self) -> bool {
        if !self.is_unlocked() && self.place.may_unlock && !self.place.again {
            self.release();
        }
        self.is_unlocked()
    }

    /// Has the fault come again, however often it has, for the sake of those who wait for its lock. `false` if whoever faults never lets go of that.
    pub(crate) fn retreat(&self) -> bool {
        if !self.is_unlocked() && self.place.may_unlock {
            self.release();
        }
        self.place.may_retry
    }

    /// Whether whoever faults never lets go of the lock: the fault is to be served, or to fail.
    pub(crate) fn is_bound(&self) -> bool {
        !self.place.may_retry
    }

    /// To be called once, and if the lock may be released.
    fn release(&self) {
        // SAFETY: By the invariants the lock is held; the fault says that it may be released.
        let file = unsafe { shim::vfetch_fault_unlock(self.raw) };
        // INVARIANT: `unlocked` is set.
        self.unlocked.set(file);
    }

    /// The fault, if its lock is still held.
    pub(super) fn mappable(&self) -> Option<*mut bindings::vm_fault> {
        self.unlocked.get().is_null().then_some(self.raw)
    }

    /// Whether the lock was [released](Self::unlock): the fault is to come again.
    pub(crate) fn is_unlocked(&self) -> bool {
        !self.unlocked.get().is_null()
    }

    /// Maps `page` where the fault is, writable at once if it is a write.
    pub(crate) fn map(&self, page: &HostPage) -> Ended {
        if self.is_unlocked() {
            return Ended::Again;
        }
        // SAFETY: By the invariants; the page is valid, and the mapping takes a reference of its own.
        let result =
            unsafe { bindings::vmf_insert_page_mkwrite(self.raw, page.as_ptr(), self.place.write) };
        match result {
            bindings::vm_fault_reason_VM_FAULT_NOPAGE => Ended::Done,
            bindings::vm_fault_reason_VM_FAULT_OOM => Ended::NoMemory,
            _ => Ended::Nothing,
        }
    }

    /// Maps pages beside it too, from page `first` of the file on, as far as that can be done; those that are mapped already stay.
    /// Pages that the mapping does not cover are left out.
    pub(crate) fn map_beside<'p>(&self, first: u64, pages: impl Iterator<Item = BorrowedPage<'p>>) {
        /// Pages at a time.
        const CHUNK: usize = 32;
        if self.is_unlocked() {
            return;
        }
        let covers = self.covers();
        // Each with its place, and then nothing, which ends what is left.
        let mut pages = pages.zip(first..).filter(|(_, at)| covers.contains(at));
        loop {
            let mut chunk = [core::ptr::null_mut(); CHUNK];
            let mut filled = 0;
            let mut start = 0;
            for (place, (page, at)) in chunk.iter_mut().zip(&mut pages) {
                if filled == 0 {
                    start = at;
                }
                *place = page.as_ptr();
                filled += 1;
            }
            if filled == 0 {
                break;
            }
            // SAFETY: The pages are valid, since whoever lends them (`'p`) has not got them back. They are neighbours, and covered.
            unsafe { self.insert(start, chunk.get_mut(..filled).unwrap_or(&mut [])) };
        }
    }

    /// # Safety
    ///
    /// `pages` are pages that somebody has references to, and the mapping covers as many from page `at` of the file on.
    unsafe fn insert(&self, mut at: u64, mut pages: &mut [*mut bindings::page]) {
        while !pages.is_empty() {
            // SAFETY: By the invariants and this function's contract.
            let done = unsafe {
                // CAST: the mapping covers it: it is a number of a page.
                shim::vfetch_fault_insert(self.raw, at as usize, pages.as_mut_ptr(), pages.len())
            };
            // The one behind them is mapped already, most likely.
            let skip = done.saturating_add(1).min(pages.len());
            at = at.saturating_add(skip as u64);
            pages = pages.get_mut(skip..).unwrap_or(&mut []);
        }
    }
}
