// SPDX-License-Identifier: GPL-2.0

//! Arrays in coherent memory that a device reads and writes while we do.
//!
//! The device is not trusted: entries are read once, as a whole, into values of ours.

use kernel::device::{Bound, Device};
use kernel::dma::{Coherent, DmaAddress};
use kernel::prelude::*;
use kernel::sync::barrier::{dma_mb, Read};
use kernel::transmute::{AsBytes, FromBytes};

/// `len` entries of `T`, zeroed at first, shared with a device.
pub(crate) struct SharedArray<T: AsBytes + FromBytes + Copy> {
    memory: Coherent<[T]>,
    len: usize,
}

// SAFETY: The memory belongs to the value and is only reached through the volatile accesses below;
// `T` is plain data.
unsafe impl<T: AsBytes + FromBytes + Copy + Send> Send for SharedArray<T> {}
// SAFETY: As above. Concurrent accesses through `&self` race no more than with the device itself:
// they are volatile, and any bytes are a valid `T`.
unsafe impl<T: AsBytes + FromBytes + Copy + Send> Sync for SharedArray<T> {}

impl<T: AsBytes + FromBytes + Copy> SharedArray<T> {
    /// Allocates the array for `dev`. ENOMEM when that fails, EINVAL for no entries.
    ///
    /// It must be dropped before `dev` is unbound, and not with interrupts disabled.
    pub(crate) fn new(dev: &Device<Bound>, len: usize) -> Result<Self> {
        let memory = Coherent::<T>::zeroed_slice(dev, len, GFP_KERNEL)?;
        Ok(Self { memory, len })
    }

    /// Bus address of entry `index`, which must be less than the length (else the array's end).
    pub(crate) fn address(&self, index: usize) -> DmaAddress {
        let bytes = core::mem::size_of::<T>().saturating_mul(index.min(self.len));
        // CAST: usize to u64 keeps the value.
        self.memory.dma_address().saturating_add(bytes as u64)
    }

    /// A pointer to entry `index`, if there is one.
    fn entry(&self, index: usize) -> Option<*mut T> {
        // SAFETY: The pointer stays inside the allocation of `len` entries.
        (index < self.len).then(|| unsafe { self.memory.as_mut_ptr().cast::<T>().add(index) })
    }

    /// Writes entry `index`; nothing happens when there is none.
    ///
    /// A doorbell that is rung afterwards (a write to a register orders itself behind it) shows the
    /// device the whole entry.
    pub(crate) fn write(&self, index: usize, value: T) {
        if let Some(entry) = self.entry(index) {
            // SAFETY: `entry` points into our memory, is aligned, and any bytes are valid there.
            unsafe { entry.write_volatile(value) };
        }
    }

    /// Reads entry `index` if `ready` says so of the `u16` at `offset` bytes in it.
    ///
    /// The rest of the entry is read after that field: a device that writes the field last has
    /// then written all of it.
    pub(crate) fn read_if(
        &self,
        index: usize,
        offset: usize,
        ready: impl FnOnce(u16) -> bool,
    ) -> Option<T> {
        const { assert!(core::mem::align_of::<T>() % 2 == 0) };
        if offset % 2 != 0 || offset.checked_add(2)? > core::mem::size_of::<T>() {
            return None;
        }
        let entry = self.entry(index)?;
        // SAFETY: The field lies within the entry and is aligned, since `T` is aligned to at least
        // 2 (asserted above), and any bytes are a valid `u16`.
        let field = unsafe { entry.cast::<u8>().add(offset).cast::<u16>().read_volatile() };
        if !ready(field) {
            return None;
        }
        dma_mb(Read);
        // SAFETY: `entry` points into our memory, is aligned, and any bytes are valid there.
        Some(unsafe { entry.read_volatile() })
    }

    /// Zeroes every entry. The device must not be using the array.
    pub(crate) fn clear(&self) {
        for index in 0..self.len {
            if let Some(entry) = self.entry(index) {
                // SAFETY: `entry` points into our memory, and zeros are a valid `T`
                // (`T: FromBytes`).
                unsafe { entry.write_bytes(0, 1) };
            }
        }
    }
}
