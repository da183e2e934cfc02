// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Every decision: no unsafe code, no I/O, no allocation, no dependence on the kernel.
//!
//! What it needs (memory, time, randomness) is handed to it. The same files make the host crate in
//! `engine/Cargo.toml`, where they are tested.

#![forbid(unsafe_code)]

pub(crate) mod frames;
pub(crate) mod mask;
