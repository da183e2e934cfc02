// SPDX-License-Identifier: GPL-2.0

//! Event file descriptors of user space's, which we signal.

use kernel::bindings;
use kernel::error::from_err_ptr;
use kernel::prelude::*;

use super::shim;

/// An eventfd.
///
/// # Invariants
///
/// The pointer is to a context to which the value has a reference.
pub(crate) struct EventFd(*mut bindings::eventfd_ctx);

// SAFETY: A reference to a context may be used and dropped by any thread.
unsafe impl Send for EventFd {}
// SAFETY: As above.
unsafe impl Sync for EventFd {}

impl EventFd {
    /// The one behind a file descriptor of the calling process. EBADF, EINVAL when it is not one.
    pub(crate) fn from_fd(fd: i32) -> Result<Self> {
        // SAFETY: No requirements.
        // INVARIANT: The reference is ours.
        from_err_ptr(unsafe { shim::vfetch_eventfd_get(fd) }).map(Self)
    }

    /// Adds 1 to its counter. In any context.
    pub(crate) fn signal(&self) {
        // SAFETY: By the invariants.
        unsafe { shim::vfetch_eventfd_signal(self.0) };
    }
}

impl Drop for EventFd {
    fn drop(&mut self) {
        // SAFETY: By the invariants the reference is ours.
        unsafe { shim::vfetch_eventfd_put(self.0) };
    }
}
