// SPDX-License-Identifier: GPL-2.0

//! The device's numbers, from `include/vfetch_hw.h`.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic
)]

include!(concat!(env!("OUT_DIR"), "/hw.rs"));
