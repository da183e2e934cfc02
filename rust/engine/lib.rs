// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The engine of vfetch as a crate of its own, for tests, benchmarks and the simulator. The kernel
//! module has the same files as `mod engine`.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod advice;
pub mod buffer;
pub mod feedback;
pub mod frames;
pub mod mask;
pub mod owner;
pub mod page;
pub mod params;
pub mod policy;
pub mod prefetch;
pub mod profile;
pub mod states;
pub mod thrashing;
pub mod tree;

#[cfg(test)]
mod testing;
