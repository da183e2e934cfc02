// SPDX-License-Identifier: GPL-2.0

//! What a call must fail with.

// Values that are only compared read better in the calls than references to them.
#![allow(clippy::needless_pass_by_value)]

use std::{fmt::Debug, io};

use anyhow::{anyhow, bail, Result};
pub(crate) use rustix::io::Errno;

/// What may carry an errno.
pub(crate) trait Carries: Debug {
    /// The errno, if it has one.
    fn errno(&self) -> Option<Errno>;
}

impl Carries for Errno {
    fn errno(&self) -> Option<Errno> {
        Some(*self)
    }
}

impl Carries for io::Error {
    fn errno(&self) -> Option<Errno> {
        Errno::from_io_error(self)
    }
}

impl Carries for libvfetch::Error {
    fn errno(&self) -> Option<Errno> {
        libvfetch::Error::errno(self)
    }
}

/// Fails unless `result` is the error `wanted`.
pub(crate) fn fails<T: Debug, E: Carries>(
    what: &str,
    result: Result<T, E>,
    wanted: Errno,
) -> Result<()> {
    match result {
        Ok(value) => bail!("{what}: {value:?} instead of {wanted:?}"),
        Err(error) if error.errno() == Some(wanted) => Ok(()),
        Err(error) => bail!("{what}: {error:?} instead of {wanted:?}"),
    }
}

/// Fails unless `result` is the value `wanted`.
pub(crate) fn gives<T: Debug + PartialEq, E: Carries>(
    what: &str,
    result: Result<T, E>,
    wanted: T,
) -> Result<()> {
    match result {
        Ok(value) if value == wanted => Ok(()),
        other => bail!("{what}: {other:?} instead of {wanted:?}"),
    }
}

/// Fails unless both are the same.
pub(crate) fn same<T: Debug + PartialEq>(what: &str, got: T, wanted: T) -> Result<()> {
    if got == wanted {
        Ok(())
    } else {
        Err(anyhow!("{what}: {got:?} instead of {wanted:?}"))
    }
}
