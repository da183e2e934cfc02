// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Where the pages of a space are, and how many may be where.

use std::{ops::Range, os::fd::AsFd};

use rustix::io::Errno;

use crate::{sys, uapi, Error, Result, Space, PAGE_BYTES};

/// What limits are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One space.
    Space,
    /// All spaces of the function together.
    Function,
}

impl Scope {
    fn number(self) -> u32 {
        match self {
            Self::Space => uapi::VFETCH_SCOPE_SPACE,
            Self::Function => uapi::VFETCH_SCOPE_FUNCTION,
        }
    }
}

/// How much memory may be used where. What does not fit on one side goes to the other, the least recently used block
/// first; contents that would fit nowhere are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Host memory, in bytes.
    pub host_bytes: u64,
    /// Device memory, in bytes.
    pub device_bytes: u64,
    /// Of host memory, what is in use now.
    pub host_used_bytes: u64,
    /// Of device memory, what is in use now.
    pub device_used_bytes: u64,
}

impl From<uapi::vfetch_limits> for Limits {
    fn from(limits: uapi::vfetch_limits) -> Self {
        Self {
            host_bytes: limits.host_bytes,
            device_bytes: limits.device_bytes,
            host_used_bytes: limits.host_used_bytes,
            device_used_bytes: limits.device_used_bytes,
        }
    }
}

/// Where a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Place {
    /// Nowhere: it has no contents, and reads as zeros.
    None,
    /// In host memory. `pinned`: it stays there, and the device reaches it there.
    Host {
        /// It stays there.
        pinned: bool,
    },
    /// In device memory, likewise.
    Device {
        /// It stays there.
        pinned: bool,
    },
    /// On its way.
    Moving,
    /// Nowhere any more: its contents were lost in a reset.
    Lost,
    /// Something that this library does not know.
    Unknown,
}

impl From<u8> for Place {
    fn from(number: u8) -> Self {
        let number = u32::from(number);
        let pinned = number & uapi::VFETCH_PAGE_PINNED != 0;
        match number & !uapi::VFETCH_PAGE_PINNED {
            uapi::VFETCH_PAGE_NONE if !pinned => Self::None,
            uapi::VFETCH_PAGE_HOST => Self::Host { pinned },
            uapi::VFETCH_PAGE_DEVICE => Self::Device { pinned },
            uapi::VFETCH_PAGE_MOVING if !pinned => Self::Moving,
            uapi::VFETCH_PAGE_LOST if !pinned => Self::Lost,
            _ => Self::Unknown,
        }
    }
}

/// How many pages of a part of a space are where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Residency {
    /// Without contents.
    pub none: u64,
    /// The host's.
    pub host: u64,
    /// The device's.
    pub device: u64,
    /// On their way.
    pub moving: u64,
    /// Lost.
    pub lost: u64,
}

impl From<uapi::vfetch_residency> for Residency {
    fn from(found: uapi::vfetch_residency) -> Self {
        Self {
            none: found.none,
            host: found.host,
            device: found.device,
            moving: found.moving,
            lost: found.lost,
        }
    }
}

impl Space {
    /// How much memory this space, or all of its function's, may use, and does.
    ///
    /// # Errors
    ///
    /// [`Error::Os`], [`Error::Gone`].
    pub fn limits(&self, scope: Scope) -> Result<Limits> {
        let limits = sys::get_limits(self.as_fd(), scope.number());
        Ok(limits
            .map_err(|errno| self.failed("tell its limits", errno))?
            .into())
    }

    /// Limits this space, or all of its function's. Blocks go to the other side until what is used fits, as far as that can be done.
    ///
    /// # Errors
    ///
    /// [`Error::Unaligned`]; [`Error::Os`] with `EINVAL` for less than a MiB; [`Error::Gone`].
    pub fn set_limits(&self, scope: Scope, host_bytes: u64, device_bytes: u64) -> Result<()> {
        for bytes in [host_bytes, device_bytes] {
            if bytes % PAGE_BYTES != 0 {
                return Err(Error::Unaligned { value: bytes });
            }
        }
        let limits = uapi::vfetch_limits {
            scope: scope.number(),
            host_bytes,
            device_bytes,
            ..Default::default()
        };
        sys::set_limits(self.as_fd(), limits)
            .map_err(|errno| self.failed("set its limits", errno))?;
        Ok(())
    }

    /// How many pages of `range` are where.
    ///
    /// # Errors
    ///
    /// [`Error::Unaligned`]; [`Error::BeyondEnd`]; [`Error::Gone`].
    pub fn residency(&self, range: Range<u64>) -> Result<Residency> {
        Ok(self.ask_residency(range, None)?.into())
    }

    /// Where each page of `range` is. That may have changed when this returns.
    ///
    /// # Errors
    ///
    /// As [`Space::residency`].
    pub fn places(&self, range: Range<u64>) -> Result<Vec<Place>> {
        let pages = range.end.saturating_sub(range.start) / PAGE_BYTES;
        let mut places = vec![0; usize::try_from(pages).unwrap_or(0)];
        self.ask_residency(range, Some(&mut places))?;
        Ok(places.into_iter().map(Place::from).collect())
    }

    fn ask_residency(
        &self,
        range: Range<u64>,
        pages: Option<&mut [u8]>,
    ) -> Result<uapi::vfetch_residency> {
        for end in [range.start, range.end] {
            if end % PAGE_BYTES != 0 {
                return Err(Error::Unaligned { value: end });
            }
        }
        let bytes = range.end.saturating_sub(range.start);
        sys::residency(self.as_fd(), range.start, bytes, pages).map_err(|errno| match errno {
            Errno::RANGE => self.beyond_end(range.end),
            _ => self.failed("tell where its pages are", errno),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_places() {
        assert_eq!(Place::from(0), Place::None);
        assert_eq!(Place::from(1), Place::Host { pinned: false });
        assert_eq!(Place::from(0x82), Place::Device { pinned: true });
        assert_eq!(Place::from(4), Place::Lost);
        assert_eq!(Place::from(0x84), Place::Unknown);
        assert_eq!(Place::from(9), Place::Unknown);
    }
}
