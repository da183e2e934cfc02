// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a program knows of its pages and the driver does not.

use std::{ops::Range, os::fd::AsFd};

use rustix::io::Errno;

use crate::{sys, uapi, Error, Result, Space, PAGE_BYTES};

/// One of the two sides that pages can be on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Host memory.
    Host,
    /// The function's memory.
    Device,
}

/// What to say of a part of a space ([`Space::advise`]). It changes where pages are and what moves, never what they hold, but for
/// [`Advice::DoNotNeed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Advice {
    /// Nothing, any more.
    Normal,
    /// Where they are wanted. Pages that are wanted on the host and are there are used by the device where they are. Pages that are wanted on
    /// the device and that both sides use all the time may be mapped where they are: then they cannot be buffers of direct I/O,
    /// nor of [`Space::read_at`] and [`Space::write_at`] (`EFAULT`).
    Prefer(Option<Side>),
    /// Whether the device uses those that are on the host where they are, and does not take them.
    AccessedByDevice(bool),
    /// Whether other pages come along with them, and they with others.
    Prefetch(bool),
    /// Bring those that have contents there now, as many as there may be, from the first on.
    WillNeed(Side),
    /// They hold zeros from now on, lost ones too.
    DoNotNeed,
}

impl Advice {
    fn number(self) -> u32 {
        match self {
            Self::Normal => uapi::VFETCH_ADVICE_NORMAL,
            Self::Prefer(Some(Side::Host)) => uapi::VFETCH_ADVICE_PREFER_HOST,
            Self::Prefer(Some(Side::Device)) => uapi::VFETCH_ADVICE_PREFER_DEVICE,
            Self::Prefer(None) => uapi::VFETCH_ADVICE_PREFER_NONE,
            Self::AccessedByDevice(true) => uapi::VFETCH_ADVICE_ACCESSED_BY_DEVICE,
            Self::AccessedByDevice(false) => uapi::VFETCH_ADVICE_NOT_ACCESSED_BY_DEVICE,
            Self::Prefetch(false) => uapi::VFETCH_ADVICE_NO_PREFETCH,
            Self::Prefetch(true) => uapi::VFETCH_ADVICE_PREFETCH,
            Self::WillNeed(Side::Host) => uapi::VFETCH_ADVICE_WILL_NEED_HOST,
            Self::WillNeed(Side::Device) => uapi::VFETCH_ADVICE_WILL_NEED_DEVICE,
            Self::DoNotNeed => uapi::VFETCH_ADVICE_DO_NOT_NEED,
        }
    }
}

impl Space {
    /// Says something of the pages of `range`. What is said, but for [`Advice::WillNeed`] and [`Advice::DoNotNeed`], holds until something else
    /// is said of them.
    ///
    /// ```no_run
    /// use libvfetch::{Advice, Side};
    /// # fn main() -> libvfetch::Result<()> {
    /// # let function = libvfetch::Host::system().find(&"0".parse()?)?;
    /// # let space = libvfetch::Space::open(&function)?;
    /// # space.set_size(64 << 20)?;
    /// // A table that both sides change, and an input that the next job reads.
    /// space.advise(0..4096, Advice::Prefer(Some(Side::Host)))?;
    /// space.advise(4096..64 << 20, Advice::WillNeed(Side::Device))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Unaligned`]; [`Error::BeyondEnd`]; [`Error::Gone`]; [`Error::Os`] with `ENOSPC` when something different was said of more than 4096
    /// parts of the space, `EOPNOTSUPP` when it is flat ([`Space::make_flat`]), `EBADF` for [`Advice::DoNotNeed`] of a file that is not open for writing.
    pub fn advise(&self, range: Range<u64>, advice: Advice) -> Result<()> {
        for end in [range.start, range.end] {
            if end % PAGE_BYTES != 0 {
                return Err(Error::Unaligned { value: end });
            }
        }
        let bytes = range.end.saturating_sub(range.start);
        sys::advise(self.as_fd(), range.start, bytes, advice.number()).map_err(
            |errno| match errno {
                Errno::RANGE => self.beyond_end(range.end),
                _ => self.failed("take advice", errno),
            },
        )
    }
}
