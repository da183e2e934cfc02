// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a command works on: a function, or a space that the shell or another process holds.

use std::{os::fd::RawFd, str::FromStr};

use libvfetch::{Error, Function, FunctionRef, Host, Space};

/// What the user named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Function(FunctionRef),
    /// A file that this process has inherited.
    Fd(RawFd),
    /// A file of another process, the only space that it has unless it is named.
    Process(i32, Option<RawFd>),
}

/// `PID` or `PID:FD`.
fn process(text: &str) -> Option<Target> {
    let (pid, fd) = match text.split_once(':') {
        Some((pid, fd)) => (pid, Some(fd.parse().ok().filter(|fd| *fd >= 0)?)),
        None => (text, None),
    };
    let pid = pid.parse().ok().filter(|pid| *pid > 0)?;
    Some(Target::Process(pid, fd))
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
        if let Some(text) = text.strip_prefix("pid:") {
            return process(text).ok_or_else(|| {
                format!("'{text}' is no process: pid:1234, or pid:1234:5 for its file 5")
            });
        }
        text.parse()
            .map(Self::Function)
            .map_err(|error: Error| format!("{error}, nor fd:N, nor pid:PID"))
    }
}

impl Target {
    /// Opens a new space, or takes the one that is there.
    pub(crate) fn open(self, host: &Host) -> libvfetch::Result<Space> {
        match self {
            Self::Function(function) => Space::open(&host.find(&function)?),
            Self::Fd(fd) => Space::inherited(fd),
            Self::Process(pid, Some(fd)) => Space::of_process(pid, fd),
            Self::Process(pid, None) => Space::only_of_process(pid),
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
        assert_eq!("pid:12".parse(), Ok(Target::Process(12, None)));
        assert_eq!("pid:12:3".parse(), Ok(Target::Process(12, Some(3))));
        for bad in ["pid:", "pid:0", "pid:1:", "pid:1:-1", "pid:x:3"] {
            assert!(
                bad.parse::<Target>().unwrap_err().contains("pid:1234"),
                "{bad}"
            );
        }
        for bad in ["fd:", "fd:-1", "fd:x", "nvme0"] {
            assert!(bad.parse::<Target>().unwrap_err().contains("fd:"), "{bad}");
        }
    }
}
