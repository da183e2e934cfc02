// SPDX-License-Identifier: GPL-2.0

//! The functions of `shim.c`, as `shim.h` declares them.

#![allow(
    improper_ctypes,
    reason = "the structures of the C side are only pointed to"
)]

use kernel::bindings;
use kernel::ffi::{c_int, c_ulong};

/// Where a fault is, in pages of its file.
#[repr(C)]
#[derive(Default)]
pub(super) struct FaultPlace {
    pub(super) page: c_ulong,
    /// What the mapping covers.
    pub(super) first: c_ulong,
    pub(super) outer: c_ulong,
    pub(super) write: bool,
    /// It may be answered that it is to come again; and its lock be released before.
    pub(super) may_retry: bool,
    pub(super) may_unlock: bool,
    /// It was here before, and has waited.
    pub(super) again: bool,
}

/// How much a page of host memory is needed.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    /// It can be done without: nobody goes far for it.
    Spare,
    /// As any process needs memory: somebody may be killed for it.
    Want,
    /// There is no doing without: it is found, and charged beyond the cgroup's limit if it must be.
    Must,
}

extern "C" {
    /// An anonymous file with an `address_space` of its own, or an `ERR_PTR`.
    pub(super) fn vfetch_mapping_create() -> *mut bindings::file;
    /// Whether `kiocb`, which must be valid, says IOCB_NOWAIT.
    pub(super) fn vfetch_kiocb_nowait(kiocb: *const bindings::kiocb) -> bool;
    /// Whether the calling task is being killed.
    pub(super) fn vfetch_fatal_signal_pending() -> bool;
    /// The PF of a VF; `pdev` itself when it is not a VF. `pdev` must be valid.
    pub(super) fn vfetch_pci_physfn(pdev: *mut bindings::pci_dev) -> *mut bindings::pci_dev;
    /// Whether `pdev`, which must be valid, is a VF.
    pub(super) fn vfetch_pci_is_virtfn(pdev: *mut bindings::pci_dev) -> bool;
    /// The PCI domain of `pdev`, which must be valid.
    pub(super) fn vfetch_pci_domain_nr(pdev: *mut bindings::pci_dev) -> c_int;
    /// Whether pages extracted from `iter` are pinned and must be unpinned.
    pub(super) fn vfetch_iter_will_pin(iter: *const bindings::iov_iter) -> bool;
    /// The physical address of `page`, which must be valid.
    pub(super) fn vfetch_page_to_phys(page: *mut bindings::page) -> bindings::phys_addr_t;
    /// Whether anything waits on the initialised queue `head`, as of after a full barrier.
    pub(super) fn vfetch_wq_has_sleeper(head: *mut bindings::wait_queue_head) -> bool;
    /// Whether the scheduler wants this processor for another task.
    pub(super) fn vfetch_need_resched() -> bool;
    /// Lets `entry`, which must be valid, describe `bytes` of `page` from `offset`.
    pub(super) fn vfetch_sg_set_page(
        entry: *mut bindings::scatterlist,
        page: *mut bindings::page,
        bytes: u32,
        offset: u32,
    );
    /// Makes `entry`, which must be valid, the last of its list.
    pub(super) fn vfetch_sg_mark_end(entry: *mut bindings::scatterlist);
    /// Zeroes up to `bytes` of the buffer of `iter`, which must be valid, and moves it on. Returns how many.
    /// Pages that are not there are waited for unless `iter` says not to.
    pub(super) fn vfetch_iter_zero(iter: *mut bindings::iov_iter, bytes: usize) -> usize;
    /// A page for user space, charged to the memory cgroup that the caller charges to, or NULL. The caller may sleep.
    pub(super) fn vfetch_page_alloc(zeroed: bool, need: Need) -> *mut bindings::page;
    /// Maps memory from the allocator for a device, which must be bound. `false` if it cannot be.
    pub(super) fn vfetch_dma_map(
        dev: *mut bindings::device,
        memory: *mut core::ffi::c_void,
        bytes: usize,
        at: *mut bindings::dma_addr_t,
    ) -> bool;
    /// The same for `bytes` from `offset` of `page` on, to which, as to its neighbours that they are in, the caller has references.
    pub(super) fn vfetch_dma_map_page(
        dev: *mut bindings::device,
        page: *mut bindings::page,
        offset: usize,
        bytes: usize,
        direction: bindings::dma_data_direction,
        at: *mut bindings::dma_addr_t,
    ) -> bool;
    /// Unmaps what either of them has mapped in both directions.
    pub(super) fn vfetch_dma_unmap(
        dev: *mut bindings::device,
        at: bindings::dma_addr_t,
        bytes: usize,
    );
    /// Shows the device what was written to a part of what is mapped.
    pub(super) fn vfetch_dma_sync_for_device(
        dev: *mut bindings::device,
        at: bindings::dma_addr_t,
        bytes: usize,
    );
    /// Shows us what the device has written to a part of what is mapped.
    pub(super) fn vfetch_dma_sync_for_cpu(
        dev: *mut bindings::device,
        at: bindings::dma_addr_t,
        bytes: usize,
    );
    /// The context of an eventfd, with a reference for the caller, or an `ERR_PTR`.
    pub(super) fn vfetch_eventfd_get(fd: c_int) -> *mut bindings::eventfd_ctx;
    /// Signals `event`, to which the caller has a reference.
    pub(super) fn vfetch_eventfd_signal(event: *mut bindings::eventfd_ctx);
    /// Drops a reference.
    pub(super) fn vfetch_eventfd_put(event: *mut bindings::eventfd_ctx);
    /// Pages of memory that the machine has.
    pub(super) fn vfetch_total_pages() -> c_ulong;
    /// The caller's memory cgroup with a reference, or null.
    pub(super) fn vfetch_memcg_get() -> *mut bindings::mem_cgroup;
    /// Drops a reference to `memcg`, which may be null.
    pub(super) fn vfetch_memcg_put(memcg: *mut bindings::mem_cgroup);
    /// Has the calling thread charge to `memcg`, which may be null, until it is told otherwise. Returns what it charged to.
    pub(super) fn vfetch_memcg_enter(memcg: *mut bindings::mem_cgroup)
        -> *mut bindings::mem_cgroup;
    /// A queue for work, or null.
    pub(super) fn vfetch_workqueue_alloc(
        name: *const kernel::ffi::c_char,
    ) -> *mut bindings::workqueue_struct;
    /// Makes an empty array of `xa`, which must be valid for writes.
    pub(super) fn vfetch_xa_init(xa: *mut bindings::xarray);
    /// Stores `entry` at `index` of `xa`, which must be locked, unless something is there: that is returned then, or an
    /// error of the array. The lock is released meanwhile if memory is needed.
    pub(super) fn vfetch_xa_put(
        xa: *mut bindings::xarray,
        index: c_ulong,
        entry: *mut core::ffi::c_void,
    ) -> *mut core::ffi::c_void;
    /// How many of `count` pages, at least 1, are neighbours in physical memory.
    pub(super) fn vfetch_pages_contiguous(pages: *const *mut bindings::page, count: usize)
        -> usize;
    /// Takes another reference to `page`, of which the caller has one.
    pub(super) fn vfetch_page_get(page: *mut bindings::page);
    /// Drops a reference to `page`, which the caller has.
    pub(super) fn vfetch_page_put(page: *mut bindings::page);
    /// References to `page`, of which the caller has one.
    pub(super) fn vfetch_page_count(page: *mut bindings::page) -> c_int;
    /// The same without those of mappings, as far as that can be said of a page that is being mapped and unmapped.
    pub(super) fn vfetch_page_unmapped_count(page: *mut bindings::page) -> c_int;
    /// Whether `page`, to which the caller has a reference, was used through a mapping that is gone. Forgets it.
    pub(super) fn vfetch_page_test_clear_referenced(page: *mut bindings::page) -> bool;
    /// Copies from `page` to the buffer of `iter` and moves it on; both must be valid, and the range inside of the page.
    pub(super) fn vfetch_page_to_iter(
        page: *mut bindings::page,
        offset: usize,
        bytes: usize,
        iter: *mut bindings::iov_iter,
    ) -> usize;
    /// The same in the other direction.
    pub(super) fn vfetch_page_from_iter(
        page: *mut bindings::page,
        offset: usize,
        bytes: usize,
        iter: *mut bindings::iov_iter,
    ) -> usize;
    /// Whether `vma`, which must be valid, is shared with its file.
    pub(super) fn vfetch_vma_shared(vma: *const bindings::vm_area_struct) -> bool;
    /// Makes `vma`, which is being mapped, one of pages that we insert.
    pub(super) fn vfetch_vma_prepare(vma: *mut bindings::vm_area_struct);
    /// Says where the fault `vmf`, which must be under way, is.
    pub(super) fn vfetch_fault_describe(vmf: *const bindings::vm_fault, place: *mut FaultPlace);
    /// Maps `count` pages, of which the caller has references, from page `at` of the file on. The fault `vmf` must be under way and
    /// locked, and its mapping cover them. Returns how many, from the first on, were mapped before one that could not be.
    pub(super) fn vfetch_fault_insert(
        vmf: *const bindings::vm_fault,
        at: c_ulong,
        pages: *mut *mut bindings::page,
        count: c_ulong,
    ) -> c_ulong;
    /// Maps page frame `frame`, a device's, where `vmf` is, which must be under way and locked.
    pub(super) fn vfetch_fault_insert_frame(
        vmf: *const bindings::vm_fault,
        frame: u64,
    ) -> bindings::vm_fault_t;
    /// Releases the lock of `vmf`, which must be under way and may do without; its mapping must not be looked at any more. Returns
    /// a reference to its file.
    pub(super) fn vfetch_fault_unlock(vmf: *mut bindings::vm_fault) -> *mut bindings::file;
}
