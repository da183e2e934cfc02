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
//! 3. `Space::gate` — not a lock but waited for like one: shared by transfers, exclusive for changes
//!    of the space's size or contents as a whole
//! 4. `Space::table` — a space's pages
//! 5. `Memory::frames` — a function's frames
//! 6. `Queue::inner` — a queue's rings and slots; taken in interrupts, nothing is taken in it but
//!    the wait queues' own locks
//!
//! None of 2, 4, 5 and 6 is held across a transfer, a copy from or to user space, or a pin.

#![forbid(unsafe_code)]

mod address_space;
mod block;
mod control;
mod device_fault;
mod evict;
mod file;
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
mod space;
mod stats;
mod transfer;
