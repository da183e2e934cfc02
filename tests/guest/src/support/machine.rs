// SPDX-License-Identifier: GPL-2.0

//! The functions of this machine, spaces on them, and whether a test has left something behind.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
};

use anyhow::{ensure, Context, Result};
use libvfetch::{Function, Host, Role, Space, Stats, PAGE_BYTES};
use rustix::fs::OFlags;

use super::limit;

/// A page, as memory counts.
#[allow(clippy::cast_possible_truncation)]
pub(crate) const PAGE: usize = PAGE_BYTES as usize;

/// All bound functions, by node.
pub(crate) fn functions() -> Result<Vec<Function>> {
    let functions = Host::system().functions()?;
    ensure!(!functions.is_empty(), "no function is bound");
    Ok(functions)
}

/// The PF.
pub(crate) fn pf() -> Result<Function> {
    let mut functions = functions()?.into_iter();
    functions
        .find(|f| f.role == Role::Pf)
        .context("no PF is bound")
}

/// The nth VF, from 1.
pub(crate) fn vf(n: u32) -> Result<Function> {
    let mut functions = functions()?.into_iter();
    functions
        .find(|f| f.role == Role::Vf(n))
        .with_context(|| format!("VF {n} is not bound"))
}

/// A space of so many bytes.
pub(crate) fn space(function: &Function, bytes: u64) -> Result<Space> {
    let space = Space::open(function)?;
    space.set_size(bytes)?;
    Ok(space)
}

/// A space that has so many bytes of device memory to itself.
pub(crate) fn reserved(function: &Function, bytes: u64) -> Result<Space> {
    let space = Space::open(function)?;
    space.reserve(bytes)?;
    Ok(space)
}

/// The node, opened with further flags.
pub(crate) fn open_with(
    function: &Function,
    read: bool,
    write: bool,
    flags: OFlags,
) -> Result<File> {
    Ok(OpenOptions::new()
        .read(read)
        .write(write)
        .custom_flags(flags.bits().try_into()?)
        .open(&function.path)?)
}

/// What a function has given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) spaces: u32,
    pub(crate) in_flight: u64,
    pub(crate) device_pages: u64,
    pub(crate) free_bytes: u64,
}

/// What `function` has given out now, not counting the file that asks.
pub(crate) fn given(function: &Function) -> Result<Given> {
    let space = Space::open(function)?;
    let stats = space.stats()?;
    Ok(Given {
        spaces: stats.spaces - 1,
        in_flight: stats.in_flight,
        device_pages: stats.device_pages,
        free_bytes: space.info()?.free_bytes,
    })
}

/// Counters of a function.
pub(crate) fn stats(function: &Function) -> Result<Stats> {
    Ok(Space::open(function)?.stats()?)
}

/// Runs `test` and fails when `function` has not got back all that it gave out in it. What the kernel closes
/// on its own time (after a kill, or by io_uring) has a moment to come back.
pub(crate) fn leaves_nothing(function: &Function, test: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = given(function)?;
    test()?;
    let mut after = before;
    limit::until(5, "everything to be given back", || {
        after = given(function)?;
        Ok(after == before)
    })
    .with_context(|| format!("a leak: {before:?} before, {after:?} after"))
}
