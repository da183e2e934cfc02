// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What can go wrong, and what to do about it.

use std::{fmt::Write as _, io, path::PathBuf};

use rustix::io::Errno;

use crate::{FunctionRef, JobError, PciAddress};

/// [`std::result::Result`] with this library's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation failed. `Display` says what happened, [`Error::hint`] what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `vfetch.ko` is not in the kernel.
    #[error("the vfetch module is not loaded")]
    ModuleNotLoaded,

    /// The module is loaded, but no PCI function is bound to it.
    #[error("no function is bound to the vfetch driver")]
    NoFunctions,

    /// No bound function has this node or address.
    #[error("no function {wanted}; bound: {}", list(bound))]
    NoSuchFunction {
        /// What was asked for.
        wanted: FunctionRef,
        /// The nodes that are there.
        bound: Vec<u32>,
    },

    /// The PCI function is there, with another driver or none.
    #[error("{address} {}", bound_to(driver.as_deref()))]
    NotBound {
        /// The PCI function.
        address: PciAddress,
        /// The driver it is bound to.
        driver: Option<String>,
    },

    /// Neither a node nor a PCI address.
    #[error("'{0}' is neither a node (0, vfetch0, /dev/vfetch0) nor a PCI address (0000:01:00.0)")]
    BadFunction(String),

    /// A process was named for its only space, and has none or several.
    #[error("process {pid} has {} open", spaces(fds))]
    Spaces {
        /// The process.
        pid: i32,
        /// The numbers of its files that are spaces.
        fds: Vec<i32>,
    },

    /// The caller may not open or write this file.
    #[error("no permission for {}", .0.display())]
    PermissionDenied(PathBuf),

    /// The file is not a vfetch node.
    #[error("{what} is not a vfetch node")]
    NotVfetch {
        /// The file.
        what: String,
    },

    /// The driver speaks another version of the interface.
    #[error(
        "the driver speaks version {driver} of the interface, this library version {}",
        crate::ABI_VERSION
    )]
    AbiVersion {
        /// The driver's version.
        driver: u32,
    },

    /// The device was removed, or the function unbound (`ENODEV`).
    #[error("vfetch{node}: the device is gone")]
    Gone {
        /// The node.
        node: u32,
    },

    /// The function has not that much memory free (`ENOSPC`).
    #[error("vfetch{node}: no room for a space of {}: {} of {} are free", size(*.wanted), size(*.free), size(*.memory))]
    NoRoom {
        /// The node.
        node: u32,
        /// The size asked for.
        wanted: u64,
        /// What this space could have, in bytes: what is free and what it has.
        free: u64,
        /// The function's memory in bytes.
        memory: u64,
    },

    /// More than a space can ever be (`EFBIG`).
    #[error("vfetch{node}: no space can be as large as {}", size(*.wanted))]
    TooLarge {
        /// The node.
        node: u32,
        /// The size asked for.
        wanted: u64,
    },

    /// A space got its size in another way, or is flat and has one already (`EINVAL`).
    #[error("vfetch{node}: the space has a size of another kind, or cannot change it")]
    OtherSize {
        /// The node.
        node: u32,
    },

    /// A size, offset or length that must be a multiple of [`crate::PAGE_BYTES`] is not (`EINVAL`).
    #[error("{value} is not a multiple of the page, {} bytes", crate::PAGE_BYTES)]
    Unaligned {
        /// The number.
        value: u64,
    },

    /// Beyond the end of the space (`ENOSPC` of write, `ERANGE` of discard).
    #[error("vfetch{node}: offset {offset} is beyond the space's end at {size}")]
    BeyondEnd {
        /// The node.
        node: u32,
        /// Where it stopped, in bytes.
        offset: u64,
        /// The space's size in bytes.
        size: u64,
    },

    /// The page lost its contents to a function reset (`EIO`).
    #[error("vfetch{node}: contents at offset {offset} were lost in a function reset ({pages} pages of this space)")]
    Lost {
        /// The node.
        node: u32,
        /// The offset of the access, in bytes.
        offset: u64,
        /// Lost pages in this space.
        pages: u64,
    },

    /// The device failed the transfer or did not answer in time (`EIO`).
    #[error("vfetch{node}: the transfer at offset {offset} failed")]
    TransferFailed {
        /// The node.
        node: u32,
        /// The offset of the access, in bytes.
        offset: u64,
    },

    /// A job did not come to its end.
    #[error("vfetch{node}: {why}")]
    Job {
        /// The node.
        node: u32,
        /// Why.
        why: JobError,
    },

    /// A non-blocking operation would have waited (`EAGAIN`).
    #[error("vfetch{node}: the operation would have to wait")]
    WouldBlock {
        /// The node.
        node: u32,
    },

    /// The function is no PF, or its device has no VFs.
    #[error("{address} has no virtual functions")]
    NotPf {
        /// The function.
        address: PciAddress,
    },

    /// The number of VFs can only go from 0 to n and from n to 0 (`EBUSY`).
    #[error("{address} has {enabled} VFs; their number cannot change to {wanted} directly")]
    VfsEnabled {
        /// The PF.
        address: PciAddress,
        /// VFs now.
        enabled: u32,
        /// VFs asked for.
        wanted: u32,
    },

    /// The device has not that many VFs (`ERANGE`).
    #[error("{address} can have {total} VFs, not {wanted}")]
    TooManyVfs {
        /// The PF.
        address: PciAddress,
        /// The most it can have.
        total: u32,
        /// VFs asked for.
        wanted: u32,
    },

    /// Another error of the system.
    #[error("{what}: {}", io::Error::from(*.errno))]
    Os {
        /// What was being done to what.
        what: String,
        /// The error's number.
        errno: Errno,
    },
}

impl Error {
    /// The error number that the system gave, or that stands for this error.
    ///
    /// ```
    /// # use libvfetch::Error;
    /// assert_eq!(Error::Gone { node: 0 }.errno().unwrap().raw_os_error(), 19); // ENODEV
    /// assert_eq!(Error::ModuleNotLoaded.errno(), None);
    /// ```
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        Some(match self {
            Self::ModuleNotLoaded
            | Self::NoFunctions
            | Self::BadFunction(_)
            | Self::Spaces { .. }
            | Self::AbiVersion { .. } => return None,
            Self::NoSuchFunction { .. } | Self::NotBound { .. } => Errno::NOENT,
            Self::PermissionDenied(_) => Errno::ACCESS,
            Self::NotVfetch { .. } => Errno::NOTTY,
            Self::Gone { .. } => Errno::NODEV,
            Self::NoRoom { .. } | Self::BeyondEnd { .. } => Errno::NOSPC,
            Self::TooLarge { .. } => Errno::FBIG,
            Self::Unaligned { .. } | Self::OtherSize { .. } | Self::NotPf { .. } => Errno::INVAL,
            Self::Lost { .. } | Self::TransferFailed { .. } => Errno::IO,
            Self::Job { why, .. } => match why {
                JobError::Argument => Errno::INVAL,
                JobError::Range { .. } => Errno::RANGE,
                JobError::Failed => Errno::IO,
                JobError::NoRoom => Errno::NOSPC,
                JobError::NoMemory => Errno::NOMEM,
                JobError::Cancelled => Errno::CANCELED,
                JobError::Gone => Errno::NODEV,
                JobError::Other(errno) => Errno::from_raw_os_error(*errno),
            },
            Self::WouldBlock { .. } => Errno::AGAIN,
            Self::VfsEnabled { .. } => Errno::BUSY,
            Self::TooManyVfs { .. } => Errno::RANGE,
            Self::Os { errno, .. } => *errno,
        })
    }

    /// What the user can do about it, as a sentence.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::ModuleNotLoaded => {
                "load it as root: 'insmod vfetch.ko', or 'modprobe vfetch' when it is installed; \
                 'dmesg' tells why a load failed"
                    .into()
            }
            Self::NoFunctions => {
                "'lspci -d 1b36:' shows whether the machine has the device; QEMU needs '-device vfetch'; \
                 'dmesg | grep vfetch' tells why a function was refused"
                    .into()
            }
            Self::NoSuchFunction { .. } => {
                "'vfetch list' shows what is there; VFs appear after \
                 'echo N > /sys/bus/pci/devices/PF/sriov_numvfs'"
                    .into()
            }
            Self::NotBound { address, driver } => {
                let mut hint = String::new();
                if driver.is_some() {
                    let _ = write!(hint, "release it: 'echo {address} > /sys/bus/pci/devices/{address}/driver/unbind'; then ");
                }
                let _ = write!(hint, "bind it: 'echo {address} > /sys/bus/pci/drivers/vfetch/bind'");
                hint
            }
            Self::PermissionDenied(path) => format!(
                "run as root, or let a group use it: 'chgrp GROUP {0}; chmod g+rw {0}' or a udev rule",
                path.display()
            ),
            Self::NotVfetch { .. } => "give a /dev/vfetchN, or an open file of one".into(),
            Self::AbiVersion { .. } => "use a module and a library of one release".into(),
            Self::Gone { .. } => "close the file; after the device is back, 'vfetch list' shows its node".into(),
            Self::NoRoom { .. } => {
                "ask for less, or close other files of this function; with VFs the memory is divided among the functions"
                    .into()
            }
            Self::TooLarge { .. } => "the largest space is 1 TiB".into(),
            Self::OtherSize { .. } => "set all sizes in the same way, or go by way of the size 0".into(),
            Self::Unaligned { value } => match value.checked_next_multiple_of(crate::PAGE_BYTES) {
                Some(next) => format!("use {} or {next}", next - crate::PAGE_BYTES),
                None => return None,
            },
            Self::BeyondEnd { .. } => "make the space larger, or access less".into(),
            Self::Lost { .. } => "overwrite whole pages, discard them, or use a new space".into(),
            Self::TransferFailed { .. } => {
                "try again; 'dmesg | grep vfetch' and 'vfetch stats' tell what the device reported".into()
            }
            Self::WouldBlock { .. } => "wait with poll, or open without O_NONBLOCK".into(),
            Self::NotPf { .. } => "name a PF: 'vfetch list' shows which functions are".into(),
            Self::VfsEnabled { address, .. } => {
                format!("remove them first: 'echo 0 > /sys/bus/pci/devices/{address}/sriov_numvfs'")
            }
            Self::TooManyVfs { total, .. } => format!("ask for at most {total}; QEMU: '-device vfetch,total_vfs=N'"),
            Self::Spaces { pid, fds } => match fds.first() {
                Some(fd) => format!("name one: pid:{pid}:{fd}"),
                None => format!("'ls -l /proc/{pid}/fd' shows its files"),
            },
            Self::Job { .. } | Self::BadFunction(_) | Self::Os { .. } => return None,
        })
    }

    pub(crate) fn os(what: impl Into<String>, error: &io::Error) -> Self {
        let errno = Errno::from_io_error(error).unwrap_or(Errno::IO);
        Self::Os {
            what: what.into(),
            errno,
        }
    }
}

/// The errno's kind, with this error as the source.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = error
            .errno()
            .map_or(io::ErrorKind::Other, |errno| Self::from(errno).kind());
        Self::new(kind, error)
    }
}

fn bound_to(driver: Option<&str>) -> String {
    match driver {
        Some(driver) => format!("is bound to the driver {driver}, not to vfetch"),
        None => "is not bound to a driver".into(),
    }
}

/// In the largest binary unit that is exact.
fn size(bytes: u64) -> String {
    let mut value = bytes;
    let mut units = ["bytes", "KiB", "MiB", "GiB", "TiB"].into_iter().peekable();
    while let Some(unit) = units.next() {
        if value == 0 || value % 1024 != 0 || units.peek().is_none() {
            return format!("{value} {unit}");
        }
        value /= 1024;
    }
    format!("{bytes} bytes")
}

fn list(nodes: &[u32]) -> String {
    if nodes.is_empty() {
        return "none".into();
    }
    let names: Vec<String> = nodes.iter().map(|n| format!("vfetch{n}")).collect();
    names.join(", ")
}

fn spaces(fds: &[i32]) -> String {
    if fds.is_empty() {
        return "no space".into();
    }
    let numbers: Vec<String> = fds.iter().map(ToString::to_string).collect();
    format!("several spaces, as files {}", numbers.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_becomes_an_io_error_of_its_kind_and_keeps_its_words() {
        let error = io::Error::from(Error::WouldBlock { node: 3 });
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(error.to_string().contains("vfetch3"));
    }

    #[test]
    fn no_such_function_names_those_that_are_there() {
        let error = Error::NoSuchFunction {
            wanted: FunctionRef::Node(7),
            bound: vec![0, 2],
        };
        assert_eq!(
            error.to_string(),
            "no function vfetch7; bound: vfetch0, vfetch2"
        );
    }

    #[test]
    fn sizes_are_told_in_the_unit_that_is_exact() {
        let sizes = [0, 5000, 4096, 100 << 30, 3 << 50];
        assert_eq!(
            sizes.map(size),
            ["0 bytes", "5000 bytes", "4 KiB", "100 GiB", "3072 TiB"]
        );
    }

    #[test]
    fn an_unaligned_size_is_answered_with_its_neighbours() {
        assert_eq!(
            Error::Unaligned { value: 5000 }.hint().unwrap(),
            "use 4096 or 8192"
        );
        assert_eq!(Error::Unaligned { value: u64::MAX }.hint(), None);
    }

    #[test]
    fn a_function_of_another_driver_is_released_before_it_is_bound() {
        let address = "0000:01:00.1".parse().unwrap();
        let hint = Error::NotBound {
            address,
            driver: Some("vfio-pci".into()),
        }
        .hint()
        .unwrap();
        assert!(hint.find("unbind").unwrap() < hint.find("vfetch/bind").unwrap());
        let hint = Error::NotBound {
            address,
            driver: None,
        }
        .hint()
        .unwrap();
        assert!(!hint.contains("unbind"));
    }
}
