// SPDX-License-Identifier: GPL-2.0

//! Faults on demand: the PF's test registers (`x-test=on`).

use anyhow::{ensure, Result};

use super::hw;
use super::machine::{pf_address, sysfs};
use super::system::Registers;

/// Everything that can become of a descriptor once.
pub(crate) const FAILURES: [u32; 7] = [
    hw::VFETCH_FAULT_FAIL,
    hw::VFETCH_FAULT_DROP,
    hw::VFETCH_FAULT_DELAY,
    hw::VFETCH_FAULT_DUPLICATE,
    hw::VFETCH_FAULT_CORRUPT,
    hw::VFETCH_FAULT_STUCK,
    hw::VFETCH_FAULT_NO_INTERRUPT,
];

/// What shall go wrong; see `VFETCH_FAULT_*`.
#[derive(Clone, Copy)]
pub(crate) struct Fault {
    kind: u32,
    opcode: u32,
    skip: u32,
    count: u32,
    arg: u64,
}

impl Fault {
    /// The next descriptor of any opcode.
    pub(crate) fn new(kind: u32) -> Self {
        Self {
            kind,
            opcode: 0,
            skip: 0,
            count: 1,
            arg: 0,
        }
    }

    /// The next descriptor of an opcode.
    fn of(opcode: u32, kind: u32) -> Self {
        Self {
            opcode,
            ..Self::new(kind)
        }
    }

    /// The next read.
    pub(crate) fn read(kind: u32) -> Self {
        Self::of(hw::VFETCH_OP_READ, kind)
    }

    /// The next write.
    pub(crate) fn write(kind: u32) -> Self {
        Self::of(hw::VFETCH_OP_WRITE, kind)
    }

    /// The next job.
    pub(crate) fn job(kind: u32) -> Self {
        Self::of(hw::VFETCH_OP_JOB, kind)
    }

    /// The next scrub.
    pub(crate) fn scrub(kind: u32) -> Self {
        Self::of(hw::VFETCH_OP_FILL, kind)
    }

    /// The next invalidation of what the device remembers.
    pub(crate) fn invalidation(kind: u32) -> Self {
        Self::of(hw::VFETCH_OP_INVALIDATE, kind)
    }

    /// The next order to end a job.
    pub(crate) fn cancel(kind: u32) -> Self {
        Self::of(hw::VFETCH_OP_CANCEL, kind)
    }

    pub(crate) fn arg(self, arg: u64) -> Self {
        Self { arg, ..self }
    }

    /// Nanoseconds.
    pub(crate) fn late_by_ms(self, ms: u64) -> Self {
        self.arg(ms * 1_000_000)
    }

    pub(crate) fn after(self, skip: u32) -> Self {
        Self { skip, ..self }
    }

    pub(crate) fn times(self, count: u32) -> Self {
        Self { count, ..self }
    }

    /// All that match, until the rules are cleared.
    pub(crate) fn always(self) -> Self {
        self.times(hw::VFETCH_TEST_ANY)
    }
}

/// The test registers of the PF.
pub(crate) struct Injector(Registers);

impl Injector {
    /// Without rules for any function.
    pub(crate) fn new() -> Result<Self> {
        let resource = format!("resource{}", hw::VFETCH_BAR_TEST);
        let this = Self(Registers::map(&sysfs(pf_address()?).join(resource))?);
        ensure!(
            this.0.read32(hw::VFETCH_TEST_ID) == hw::VFETCH_ID,
            "BAR5 is not the test registers"
        );
        for function in 0..=hw::VFETCH_MAX_VFS {
            // Functions that the device does not have are refused.
            let _ = this.clear(function);
        }
        Ok(this)
    }

    fn command(&self, command: u32) -> Result<()> {
        self.0.write32(hw::VFETCH_TEST_COMMAND, command);
        let result = self.0.read32(hw::VFETCH_TEST_RESULT);
        ensure!(result == 0, "the device refuses the rule: errno {result}");
        Ok(())
    }

    /// Lets `fault` happen to `function` (0: the PF).
    pub(crate) fn arm(&self, function: u32, fault: Fault) -> Result<()> {
        self.0.write32(hw::VFETCH_TEST_FUNCTION, function);
        self.0.write32(hw::VFETCH_TEST_QUEUE, hw::VFETCH_TEST_ANY);
        self.0.write32(hw::VFETCH_TEST_OPCODE, fault.opcode);
        self.0.write32(hw::VFETCH_TEST_KIND, fault.kind);
        self.0.write32(hw::VFETCH_TEST_SKIP, fault.skip);
        self.0.write32(hw::VFETCH_TEST_COUNT, fault.count);
        self.0.write64(hw::VFETCH_TEST_ARG, fault.arg);
        self.command(hw::VFETCH_TEST_ARM)
    }

    /// Forgets the function's rules and hits, and releases what they held up.
    pub(crate) fn clear(&self, function: u32) -> Result<()> {
        self.0.write32(hw::VFETCH_TEST_FUNCTION, function);
        self.command(hw::VFETCH_TEST_CLEAR)
    }

    /// How often `kind` has happened to `function`.
    pub(crate) fn hits(&self, function: u32, kind: u32) -> u32 {
        self.0.write32(hw::VFETCH_TEST_FUNCTION, function);
        self.0.write32(hw::VFETCH_TEST_KIND, kind);
        self.0.read32(hw::VFETCH_TEST_HITS)
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        for function in 0..=hw::VFETCH_MAX_VFS {
            let _ = self.clear(function);
        }
    }
}
