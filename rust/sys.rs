// SPDX-License-Identifier: GPL-2.0

//! The one place for `unsafe` and `bindings::`.
//!
//! Each module here is a safe wrapper of something that the kernel crate does not offer yet, written as if it were part of
//! that crate: no policy, no knowledge of the device, and nothing that `driver` could misuse to
//! break memory safety.

pub(crate) mod abi;

