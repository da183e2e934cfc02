// SPDX-License-Identifier: GPL-2.0

//! Access to a function's registers. Their numbers are in `include/vfetch_hw.h`.

use kernel::io::Io;
use kernel::pci::DevresBar;
use kernel::prelude::*;

use crate::sys::abi as hw;

/// BAR0 of a function, for as long as it is bound.
pub(crate) struct Registers {
    bar: DevresBar<{ hw::VFETCH_BAR_REGS_BYTES as usize }>,
}

impl Registers {
    /// Wraps the BAR.
    pub(crate) fn new(bar: DevresBar<{ hw::VFETCH_BAR_REGS_BYTES as usize }>) -> Self {
        Self { bar }
    }

    /// Reads a 32-bit register at `offset`. ENODEV when the function is not bound any more.
    ///
    /// A device that is not there reads as all ones.
    pub(crate) fn read32(&self, offset: u32) -> Result<u32> {
        self.bar
            .try_access_with(|bar| bar.try_read32(offset as usize))
            .ok_or(ENODEV)?
    }

    /// Reads a 64-bit register.
    pub(crate) fn read64(&self, offset: u32) -> Result<u64> {
        self.bar
            .try_access_with(|bar| bar.try_read64(offset as usize))
            .ok_or(ENODEV)?
    }

    /// Writes a 32-bit register.
    pub(crate) fn write32(&self, offset: u32, value: u32) -> Result {
        self.bar
            .try_access_with(|bar| bar.try_write32(value, offset as usize))
            .ok_or(ENODEV)?
    }

    /// Writes a 64-bit register.
    pub(crate) fn write64(&self, offset: u32, value: u64) -> Result {
        self.bar
            .try_access_with(|bar| bar.try_write64(value, offset as usize))
            .ok_or(ENODEV)?
    }

    /// Whether the device answers: it may have been pulled out.
    pub(crate) fn present(&self) -> bool {
        self.read32(hw::VFETCH_REG_ID) == Ok(hw::VFETCH_ID)
    }
}

/// What a function says of itself, checked at probe. It does not change while the function is
/// bound.
#[derive(Clone, Copy)]
pub(crate) struct Description {
    /// 0 for the PF, n for its nth VF.
    pub(crate) number: u32,
    /// Queue pairs that the function has; at least the two that are used.
    pub(crate) queues: u32,
    /// Largest ring, as a power of two.
    pub(crate) max_order: u32,
    /// Most entries of a scatter list.
    pub(crate) max_sg: u32,
    /// Most bytes of a transfer.
    pub(crate) max_bytes: u32,
    /// Bytes of the function's own memory.
    pub(crate) mem_bytes: u64,
    /// Bytes of its window.
    pub(crate) window_bytes: u64,
    /// Latency of the link.
    pub(crate) link_latency_ns: u32,
    /// Rate of the link, shared by all functions of the device.
    pub(crate) link_bytes_per_us: u32,
    /// This function's weight on the link.
    pub(crate) link_weight: u32,
    /// Rate of fills.
    pub(crate) mem_bytes_per_us: u32,
    /// It knows address spaces, and computes.
    pub(crate) has_spaces: bool,
    /// Most strands of a job.
    pub(crate) job_strands: u32,
}

impl Description {
    /// Reads and checks the description. ENODEV for a device that is not ours, or of another major
    /// version; EIO for one that contradicts itself.
    pub(crate) fn read(registers: &Registers) -> Result<Self> {
        if !registers.present()
            || registers.read32(hw::VFETCH_REG_VERSION)? >> 16 != hw::VFETCH_VERSION_MAJOR
        {
            return Err(ENODEV);
        }
        let queues = registers.read32(hw::VFETCH_REG_QUEUES)?;
        let caps = registers.read32(hw::VFETCH_REG_CAPS)?;
        let has_spaces = caps & hw::VFETCH_CAP_SPACES != 0 && queues > 2;
        let this = Self {
            has_spaces,
            job_strands: if has_spaces {
                registers.read32(hw::VFETCH_REG_JOB_STRANDS)?
            } else {
                0
            },
            number: registers.read32(hw::VFETCH_REG_FUNCTION)?,
            queues,
            max_order: registers.read32(hw::VFETCH_REG_MAX_ORDER)?,
            max_sg: registers.read32(hw::VFETCH_REG_MAX_SG)?,
            max_bytes: registers.read32(hw::VFETCH_REG_MAX_BYTES)?,
            mem_bytes: registers.read64(hw::VFETCH_REG_MEM_SIZE)?,
            window_bytes: registers.read64(hw::VFETCH_REG_WINDOW_SIZE)?,
            link_latency_ns: registers.read32(hw::VFETCH_REG_LINK_LATENCY_NS)?,
            link_bytes_per_us: registers.read32(hw::VFETCH_REG_LINK_BYTES_PER_US)?,
            link_weight: registers.read32(hw::VFETCH_REG_LINK_WEIGHT)?,
            mem_bytes_per_us: registers.read32(hw::VFETCH_REG_MEM_BYTES_PER_US)?,
        };
        let sane = this.number <= hw::VFETCH_MAX_VFS
            && (2..=hw::VFETCH_MAX_QUEUES).contains(&this.queues)
            && (hw::VFETCH_MIN_ORDER..=hw::VFETCH_MAX_ORDER).contains(&this.max_order)
            && this.max_sg >= 2
            && this.max_bytes >= hw::VFETCH_PAGE_BYTES
            // Frame numbers are 32 bits, and are rounded up to whole words of a map.
            && this.mem_bytes / u64::from(hw::VFETCH_PAGE_BYTES) < u64::from(u32::MAX - 64);
        if sane {
            Ok(this)
        } else {
            Err(EIO)
        }
    }
}
