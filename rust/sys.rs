// SPDX-License-Identifier: GPL-2.0

//! The one place for `unsafe` and `bindings::`.
//!
//! Each module here is a safe wrapper of something that the kernel crate does not offer yet,
//! written as if it were part of that crate: no policy, no knowledge of the device's protocol, and
//! nothing that `driver` could use to break memory safety.

pub(crate) mod abi;
mod device;
pub(crate) mod eventfd;
pub(crate) mod fault;
pub(crate) mod host_memory;
pub(crate) mod host_page;
pub(crate) mod ioctl;
pub(crate) mod irq;
pub(crate) mod leaf;
pub(crate) mod mapping;
pub(crate) mod memcg;
pub(crate) mod memory;
pub(crate) mod node;
pub(crate) mod pci;
pub(crate) mod published;
pub(crate) mod ring;
mod shim;
pub(crate) mod shrinker;
pub(crate) mod table;
pub(crate) mod time;
pub(crate) mod wait;
pub(crate) mod window;
pub(crate) mod work;
