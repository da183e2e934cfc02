// SPDX-License-Identifier: GPL-2.0

//! Functions, spaces, queues: kernel objects, locking, I/O. No `unsafe` code.
//!
//! # Who owns what
//!
//! The PCI core owns a [`pci::Bound`] for each bound function: its node, its interrupts, and a
//! reference to its [`function::Function`]. An open file ([`space::Space`]) has a reference to the
//! function too and outlives the binding; what it does to the device it does with a guard of
//! [`BoundDevice`](crate::sys::pci::BoundDevice), which unbinding waits for.
//!
//! # Lock order
//!
//! From the outside in; a lock may be taken while those above it are held, never the other way.
//!
//! 1. the PCI core's device lock (probe, unbind, `sriov_numvfs`, resets)
//! 2. `Registry::entries` — which functions there are; never held across a callback of the PCI core
//! 3. `Space::changing` — who changes a space's size, or discards. Held across transfers, and taken by nobody who serves a fault
//! 4. a process's `mmap_lock`, or the lock of one of its mappings (faults come with it)
//! 5. `Block` — the states of a block's pages
//!    (then `BarWindow::open`, while a page is mapped)
//! 6. `i_mmap_rwsem` and page-table locks (a fault maps pages; unmapping is done without 5)
//! 7. `Space::attachment`, `AddressSpaces::inner`, `Function::open`, `Space::jobs`, `Space::lost`, `Advisor::said`, `Flat::frames`, `Unpinner::blocks`, `Function::prefetcher`,
//!    `Move::pieces`, `Lru`, `Upkeep::pinned`, `Upkeep::function`, `Memory::frames` — short, nothing of ours is taken in them but 8
//!    (`attachment` before `Flat::frames` and `AddressSpaces::inner`)
//! 8. `Queue::inner` — a queue's rings and slots; taken in interrupts, nothing is taken in it but
//!    the wait queues' own locks
//! 9. `Trace::ring` — records that were not read; likewise
//!
//! None of 5 and 7 is held across a transfer, a copy from or to user space, or a pin. Where memory is allocated under one of them reclaim cannot come
//! back to it: the module's shrinker ([`relief`]) takes no lock, and leaves the rest to work.

#![forbid(unsafe_code)]

mod address_space;
mod advice;
mod block;
mod charge;
mod control;
mod device_fault;
mod evict;
mod file;
mod flat;
mod function;
mod hint;
mod host_fault;
mod io;
mod job;
mod lru;
mod memory;
mod migrate;
mod page_table;
pub(crate) mod params;
pub(crate) mod pci;
mod queue;
mod recovery;
pub(crate) mod registry;
mod regs;
mod relief;
mod space;
mod stats;
mod thrash;
mod trace;
mod transfer;
mod upkeep;
