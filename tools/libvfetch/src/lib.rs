// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Memory of PCIe functions through the vfetch driver.
//!
//! The driver gives each bound function (a physical function, PF, or a virtual
//! one, VF) a node `/dev/vfetchN`. Opening a node makes a [`Space`]: memory of
//! its own, reached through the open file, through [`Mapping`]s, and by jobs of the
//! function, which all see the same bytes at the same offsets. Its pages are in
//! device memory or in the host's, and move to whoever touches them. A space
//! starts with 0 bytes, [`Space::set_size`] gives it more. What was never
//! written reads as zeros, what was written comes back, no other file ever sees
//! it, and closing it frees and scrubs the memory.
//!
//! | to | use |
//! |---|---|
//! | find functions, and change how many VFs there are | [`Host`], [`Function`] |
//! | move data | [`Space`] |
//! | use it as memory | [`Space::map`], [`Mapping`] |
//! | have the function compute on it | [`Space::submit`], [`Task`] |
//! | know where its pages are, and limit them | [`Space::residency`], [`Space::set_limits`] |
//! | say which pages come along, and learn what came of it | [`Space::set_policy`], [`Space::policy_stats`] |
//! | say what it is used for | [`Space::advise`], [`Advice`] |
//! | see every fault, decision and move | [`Space::trace`] |
//! | know what a function is and what it did | [`Info`], [`Stats`] |
//!
//! ```no_run
//! use libvfetch::{Host, Space};
//!
//! # fn main() -> libvfetch::Result<()> {
//! let host = Host::system();
//! let function = host.find(&"0000:01:00.0".parse()?)?;
//! let space = Space::open(&function)?;
//! space.set_size(1 << 20)?;
//! space.write_all_at(b"hello", 4093)?; // any offset, across pages
//! let mut back = [0; 5];
//! space.read_exact_at(&mut back, 4093)?;
//! assert_eq!(&back, b"hello");
//! # Ok(())
//! # }
//! ```
//!
//! Sizes and offsets are in bytes, times in nanoseconds unless a name says
//! otherwise. Errors are [`Error`]s: each carries its errno, where there is one,
//! and says what to do ([`Error::hint`]).
//!
//! Structures and numbers come from `include/uapi/linux/vfetch.h` at build time;
//! that header is also the manual of the node.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod advice;
mod error;
mod function;
mod info;
mod job;
mod map;
mod place;
mod policy;
mod space;
mod sys;
mod trace;

#[allow(
    missing_docs,
    non_camel_case_types,
    dead_code,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::uninlined_format_args
)]
mod uapi {
    include!(concat!(env!("OUT_DIR"), "/uapi.rs"));
}

pub use advice::{Advice, Side};
pub use error::{Error, Result};
pub use function::{Function, FunctionRef, Host, PciAddress, Role, VfCount};
pub use info::{Counter, Info, Link, State, Stats};
pub use job::{
    stamped, Bfs, Conv2d, End, Gather, Gemm, Job, JobError, Kernel, Order, Pagerank, Reduce,
    Scatter, Spmv, Stamp, StampCheck, Stencil, Task, Triad,
};
pub use map::{Access, Mapping};
pub use place::{Limits, Place, Residency, Scope};
pub use policy::{Policy, PolicyKind, PolicyStats, UnknownPolicy};
/// The number in an [`Error`]; `raw_os_error()` gives it as an integer.
pub use rustix::io::Errno;
pub use space::{Interest, Options, Readiness, Space};
pub use trace::{Records, Trace, TraceKind, TraceRecord};

/// Bytes of a page: spaces are sized, discarded and lost by the page.
pub const PAGE_BYTES: u64 = uapi::VFETCH_PAGE_BYTES as u64;

/// Bytes of a block, the unit of the driver's larger decisions.
pub const BLOCK_BYTES: u64 = uapi::VFETCH_BLOCK_BYTES as u64;

/// The least that host or device memory can be limited to ([`Space::set_limits`]).
pub const LIMIT_MIN_BYTES: u64 = uapi::VFETCH_LIMIT_MIN_BYTES as u64;

/// The version of the interface that this library speaks.
pub const ABI_VERSION: u32 = uapi::VFETCH_ABI_VERSION;
