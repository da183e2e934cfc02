// SPDX-License-Identifier: GPL-2.0

//! vfetch: memory of PCIe functions, shared with the host.

#[allow(dead_code, unused)]
mod sys;

use kernel::prelude::*;

struct Vfetch;

impl kernel::Module for Vfetch {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        pr_info!("hello {}\n", core::mem::size_of::<sys::abi::vfetch_desc>());
        Ok(Self)
    }
}

module! {
    type: Vfetch,
    name: "vfetch",
    authors: ["vfetch developers"],
    description: "Memory of PCIe functions, shared with the host",
    license: "GPL v2",
}
