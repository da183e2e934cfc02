// SPDX-License-Identifier: GPL-2.0

//! With an IOMMU: the same works, and what is not mapped is not reached.
//!
//! The device has a spare queue (`queues=4`) that the driver does not know, and the kernel lets programs map the
//! registers of a bound device (`iomem=relaxed`).

use std::fs;
use std::thread;

use anyhow::{ensure, Context, Result};
use libvfetch::Space;

use super::hw;
use super::inject::{Fault, Injector};
use super::load::Worker;
use super::machine::{
    expect_bytes, function, functions, have_vfs, ms, reset, set_vfs, space, sysfs, wait_until, Log,
    MIB, PAGE,
};
use super::system::Registers;
use crate::tap::Test;

pub(crate) const TESTS: &[Test] = crate::bounded![100:
    there_is_an_iommu,
    data_of_pf_and_eight_vfs_in_parallel,
    vfs_up_and_down_and_reset_under_load,
    data_that_comes_after_its_completion_is_stopped,
    transfer_outside_of_what_is_mapped_fails,
];

fn there_is_an_iommu() -> Result<()> {
    let groups = fs::read_dir("/sys/kernel/iommu_groups")?.count();
    ensure!(groups > 0, "no IOMMU groups");
    for function in functions()? {
        ensure!(
            sysfs(function.address).join("iommu_group").exists(),
            "{} is not behind it",
            function.role
        );
    }
    Ok(())
}

fn data_of_pf_and_eight_vfs_in_parallel() -> Result<()> {
    have_vfs(8)?;
    let mut workers = Vec::new();
    for (function, seed) in functions()?.iter().zip(1..) {
        workers.push(Worker::start(function, seed, 100)?);
    }
    for worker in &workers {
        worker.wait_for(60)?;
    }
    for worker in workers {
        let outcome = worker.finish()?;
        ensure!(outcome.failed == 0 && !outcome.gone, "errors: {outcome:?}");
    }
    Ok(())
}

fn vfs_up_and_down_and_reset_under_load() -> Result<()> {
    have_vfs(0)?;
    let steady = Worker::start(&function(0)?, 1, 100)?;
    for round in 0..3 {
        set_vfs(2)?;
        let workers = [
            Worker::start(&function(1)?, 2, 50)?,
            Worker::start(&function(2)?, 3, 50)?,
        ];
        workers[0].wait_for(5)?;
        reset(function(1)?.address)?;
        workers[0].wait_for(5)?;
        set_vfs(0)?;
        for worker in workers {
            ensure!(
                worker.ended()?.gone,
                "round {round}: a program did not notice"
            );
        }
    }
    let outcome = steady.finish()?;
    ensure!(
        outcome.failed == 0 && !outcome.gone,
        "the PF had errors: {outcome:?}"
    );
    have_vfs(2)
}

fn filled(number: u32) -> Result<Space> {
    let space = space(&function(number)?, MIB)?;
    space.write_all_at(&vec![0x5a; MIB as usize], 0)?;
    Ok(space)
}

/// That the kernel has logged an access by VF 1 that the IOMMU refused.
fn expect_reported(log: &mut Log) -> Result<()> {
    let address = function(1)?.address.to_string();
    let name = address.trim_start_matches("0000:").to_string();
    let mut seen = Vec::new();
    wait_until("the kernel reports a DMA fault", || {
        seen.extend(
            log.lines()
                .into_iter()
                .map(|line| line.text)
                .filter(|text| text.contains("DMAR")),
        );
        seen.iter()
            .any(|text| text.contains(&name) && text.contains("fault addr"))
    })
    .with_context(|| format!("{seen:?}"))
}

fn data_that_comes_after_its_completion_is_stopped() -> Result<()> {
    have_vfs(2)?;
    let injector = Injector::new()?;
    let (space, bystander) = (filled(1)?, filled(2)?);
    let mut log = Log::from_now()?;
    injector.arm(1, Fault::read(hw::VFETCH_FAULT_LATE_DATA).late_by_ms(300))?;
    let mut buffer = vec![0xee; 4 * PAGE as usize];
    // The device says that it has read, and has not.
    space.read_at(&mut buffer, 0)?;
    ensure!(
        injector.hits(1, hw::VFETCH_FAULT_LATE_DATA) == 1,
        "it did not happen"
    );
    buffer.fill(0xee);
    thread::sleep(ms(500));
    ensure!(
        buffer.iter().all(|byte| *byte == 0xee),
        "the device wrote to memory that it was not lent any more"
    );
    expect_reported(&mut log)?;
    expect_bytes(&space, 0, MIB, 0x5a)?;
    expect_bytes(&bystander, 0, MIB, 0x5a)
}

/// A queue's register.
fn register(queue: u32, register: u32) -> u32 {
    hw::VFETCH_QUEUE_BASE + queue * hw::VFETCH_QUEUE_STRIDE + register
}

/// Gives the spare queue of a function descriptors that the driver has used up: their memory was the device's and is not
/// any more. Returns how many of them the device says it could not do.
fn replay(registers: &Registers, count: u32) -> Result<u64> {
    const ORDINARY: u32 = 0;
    const PRIORITY: u32 = 1;
    const SPARE: u32 = 3;
    let spare = |name| register(SPARE, name);
    let errors = registers.read64(hw::VFETCH_REG_ERRORS);
    registers.write64(
        spare(hw::VFETCH_QREG_SQ_BASE),
        registers.read64(register(ORDINARY, hw::VFETCH_QREG_SQ_BASE)),
    );
    // Completions go to where they hurt nobody: the ring of the queue for which there is nothing to do.
    registers.write64(
        spare(hw::VFETCH_QREG_CQ_BASE),
        registers.read64(register(PRIORITY, hw::VFETCH_QREG_SQ_BASE)),
    );
    registers.write32(
        spare(hw::VFETCH_QREG_ORDER),
        registers.read32(register(ORDINARY, hw::VFETCH_QREG_ORDER)),
    );
    registers.write32(spare(hw::VFETCH_QREG_VECTOR), hw::VFETCH_MSIX_VECTORS - 1);
    registers.write32(spare(hw::VFETCH_QREG_CLASS), hw::VFETCH_CLASS_ORDINARY);
    registers.write32(spare(hw::VFETCH_QREG_CONTROL), hw::VFETCH_QCTL_ENABLE);
    registers.write32(spare(hw::VFETCH_QREG_SQ_TAIL), count);
    let done = || registers.read32(spare(hw::VFETCH_QREG_CQ_TAIL)) == count;
    wait_until("the descriptors have ended", done).with_context(|| {
        format!(
            "status {:#x}",
            registers.read32(spare(hw::VFETCH_QREG_STATUS))
        )
    })?;
    let errors = registers.read64(hw::VFETCH_REG_ERRORS) - errors;
    let status = registers.read32(spare(hw::VFETCH_QREG_STATUS));
    ensure!(
        status == hw::VFETCH_QSTAT_ENABLED,
        "the queue's status is {status:#x}"
    );
    registers.write32(spare(hw::VFETCH_QREG_CONTROL), hw::VFETCH_QCTL_RESET);
    wait_until("the spare queue is reset", || {
        registers.read32(spare(hw::VFETCH_QREG_STATUS)) == 0
    })?;
    Ok(errors)
}

fn transfer_outside_of_what_is_mapped_fails() -> Result<()> {
    const COUNT: u32 = 8;
    have_vfs(2)?;
    let vf = function(1)?;
    let (space, bystander) = (filled(1)?, filled(2)?);
    let mut buffer = vec![0; PAGE as usize];
    let slots = space.info()?.queue_entries;
    // Now every descriptor of the ring says that our buffer is to be written.
    for n in 0..u64::from(slots) {
        space.read_exact_at(&mut buffer, n % 256 * PAGE)?;
    }
    let before = space.stats()?;
    let registers =
        Registers::map(&sysfs(vf.address).join(format!("resource{}", hw::VFETCH_BAR_REGS)))
            .context("the VM needs iomem=relaxed")?;
    ensure!(
        registers.read32(hw::VFETCH_REG_QUEUES) > 3,
        "the device needs queues=4"
    );
    let mut log = Log::from_now()?;
    buffer.fill(0xee);
    let failed = replay(&registers, COUNT)?;
    ensure!(
        failed == u64::from(COUNT),
        "{failed} of {COUNT} transfers to memory that is not mapped failed"
    );
    ensure!(
        buffer.iter().all(|byte| *byte == 0xee),
        "the device wrote to memory that is not mapped"
    );
    expect_reported(&mut log)?;
    // Reported, counted, and no harm done.
    let after = space.stats()?;
    let errors = after.device_errors - before.device_errors;
    ensure!(
        errors == u64::from(COUNT),
        "{errors} errors of the device are in GET_STATS"
    );
    ensure!(
        after.bad_completions == before.bad_completions,
        "the driver has seen the spare queue's completions"
    );
    expect_bytes(&space, 0, MIB, 0x5a)?;
    expect_bytes(&bystander, 0, MIB, 0x5a)
}
