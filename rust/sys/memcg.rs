// SPDX-License-Identifier: GPL-2.0

//! Whom memory is charged to.

use kernel::bindings;

use super::shim;

/// The memory cgroup of a process.
///
/// # Invariants
///
/// The pointer is null, or to a cgroup to which the value has a reference.
pub(crate) struct MemoryCgroup(*mut bindings::mem_cgroup);

// SAFETY: A reference to a cgroup may be used and dropped by any thread.
unsafe impl Send for MemoryCgroup {}
// SAFETY: As above.
unsafe impl Sync for MemoryCgroup {}

impl MemoryCgroup {
    /// That of the calling process.
    pub(crate) fn of_caller() -> Self {
        // SAFETY: No requirements.
        // INVARIANT: The reference is ours.
        Self(unsafe { shim::vfetch_memcg_get() })
    }

    /// Does `action`: what this thread allocates for user space meanwhile is charged to it.
    pub(crate) fn charged<R>(&self, action: impl FnOnce() -> R) -> R {
        // SAFETY: By the invariants, and `self` outlives the call.
        let before = unsafe { shim::vfetch_memcg_enter(self.0) };
        let result = action();
        // SAFETY: It is what this thread charged to before, which whoever said so keeps.
        unsafe { shim::vfetch_memcg_enter(before) };
        result
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        // SAFETY: By the invariants the reference is ours.
        unsafe { shim::vfetch_memcg_put(self.0) };
    }
}
