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

    /// What the calling thread allocates for user space is charged to it until the guard is dropped.
    pub(crate) fn charge(&self) -> Charging<'_> {
        // SAFETY: By the invariants; the guard does not outlive `self`.
        let before = unsafe { shim::vfetch_memcg_enter(self.0) };
        Charging(before, self, NotSend::new())
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        // SAFETY: By the invariants the reference is ours.
        unsafe { shim::vfetch_memcg_put(self.0) };
    }
}

/// A marker of what stays with its thread.
struct NotSend(core::marker::PhantomData<*mut ()>);

impl NotSend {
    const fn new() -> Self {
        Self(core::marker::PhantomData)
    }
}

/// See [`MemoryCgroup::charge`].
pub(crate) struct Charging<'a>(
    *mut bindings::mem_cgroup,
    #[allow(dead_code, reason = "kept alive")] &'a MemoryCgroup,
    #[allow(dead_code, reason = "a marker")] NotSend,
);

impl Drop for Charging<'_> {
    fn drop(&mut self) {
        // SAFETY: It is what this thread charged to before, which whoever said so keeps.
        unsafe { shim::vfetch_memcg_enter(self.0) };
    }
}
