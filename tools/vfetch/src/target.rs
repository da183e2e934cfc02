// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a command works on: a function, or a space that the shell holds.

use std::{os::fd::RawFd, str::FromStr};

use libvfetch::{Error, Function, FunctionRef, Host, Space};

/// What the user named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Function(FunctionRef),
    /// A file that this process has inherited.
    Fd(RawFd),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(fd) = text.strip_prefix("fd:") {
            return match fd.parse() {
                Ok(fd) if fd >= 0 => Ok(Self::Fd(fd)),
                _ => Err(format!(
                    "'{fd}' is no file descriptor: fd:3 after 'exec 3<>/dev/vfetch0'"
                )),
            };
        }
        text.parse()
            .map(Self::Function)
            .map_err(|error: Error| format!("{error}, nor fd:N"))
    }
}

impl Target {
    /// Opens a new space, or takes the one that is there.
    pub(crate) fn open(self, host: &Host) -> libvfetch::Result<Space> {
        match self {
            Self::Function(function) => Space::open(&host.find(&function)?),
            Self::Fd(fd) => Space::inherited(fd),
        }
    }
}

/// All functions; an error when there is none.
pub(crate) fn all(host: &Host) -> libvfetch::Result<Vec<Function>> {
    let functions = host.functions()?;
    if functions.is_empty() {
        return Err(Error::NoFunctions);
    }
    Ok(functions)
}

/// Opens what was named, or each function when nothing was.
pub(crate) fn open_all(host: &Host, targets: &[Target]) -> libvfetch::Result<Vec<Space>> {
    if targets.is_empty() {
        all(host)?.iter().map(Space::open).collect()
    } else {
        targets.iter().map(|target| target.open(host)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_and_inherited_files_are_told_apart() {
        assert_eq!("fd:3".parse(), Ok(Target::Fd(3)));
        assert_eq!("3".parse(), Ok(Target::Function(FunctionRef::Node(3))));
        for bad in ["fd:", "fd:-1", "fd:x", "nvme0"] {
            assert!(bad.parse::<Target>().unwrap_err().contains("fd:"), "{bad}");
        }
    }
}
