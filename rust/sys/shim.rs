// SPDX-License-Identifier: GPL-2.0

//! The functions of `shim.c`, as `shim.h` declares them.

#![allow(
    improper_ctypes,
    reason = "the structures of the C side are only pointed to"
)]

use kernel::bindings;
use kernel::ffi::c_int;

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
}
