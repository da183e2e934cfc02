// SPDX-License-Identifier: GPL-2.0

//! Both interfaces as bindgen sees them: the device's registers, descriptors and completions
//! (`include/vfetch_hw.h`), and the structures of user space (`include/uapi/linux/vfetch.h`).

#![allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    unreachable_pub,
    reason = "generated code"
)]

use kernel::transmute::{AsBytes, FromBytes};

include!(env!("VFETCH_ABI"));

/// Implements the kernel's traits for plain data.
macro_rules! plain_data {
    ($($name:ident),* $(,)?) => {$(
        // SAFETY: The structure consists of integers only, so any bytes are a valid value; the
        // derived `zerocopy::FromBytes` has checked it.
        unsafe impl FromBytes for $name {}
        // SAFETY: The structure has no padding and consists of integers only; the derived
        // `zerocopy::IntoBytes` has checked it.
        unsafe impl AsBytes for $name {}
    )*};
}

plain_data!(
    vfetch_advise,
    vfetch_as,
    vfetch_cancel,
    vfetch_completion,
    vfetch_desc,
    vfetch_fault,
    vfetch_info,
    vfetch_job,
    vfetch_limits,
    vfetch_policy,
    vfetch_policy_stats,
    vfetch_pt_block,
    vfetch_range,
    vfetch_residency,
    vfetch_sg,
    vfetch_size,
    vfetch_stats,
    vfetch_submit,
    vfetch_trace_read,
    vfetch_trace_record,
    vfetch_trace_start,
    vfetch_trace_stop,
    vfetch_wait,
);
