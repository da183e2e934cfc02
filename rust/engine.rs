// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Every decision: no unsafe code, no I/O, no allocation, no dependence on the kernel.
//!
//! What it needs (memory, time, randomness) is handed to it. The same files make the host crate in
//! `engine/Cargo.toml`, where they are tested.

#![forbid(unsafe_code)]
#![allow(
    dead_code,
    unreachable_pub,
    reason = "as a crate of its own it is public, and has more than the module uses"
)]

pub mod advice;
pub mod frames;
pub mod mask;
pub mod owner;
pub mod page;
pub mod params;
pub mod policy;
pub mod prefetch;
pub mod states;
pub mod thrashing;
pub mod tree;
