// SPDX-License-Identifier: GPL-2.0

//! The C side of a `Device`.

use kernel::bindings;
use kernel::device::{Device, DeviceContext};
use kernel::types::Opaque;

/// The `struct device` of a device in any context, which is valid for as long as `device` is.
pub(super) fn as_raw<Ctx: DeviceContext>(device: &Device<Ctx>) -> *mut bindings::device {
    // `Device` is transparent over `Opaque<bindings::device>`; its own `as_raw` is private.
    core::ptr::from_ref(device)
        .cast::<Opaque<bindings::device>>()
        .cast_mut()
        .cast()
}
