// SPDX-License-Identifier: GPL-2.0

//! Queues that stop because of an error. The tests see to it that one does by writing to its registers, which takes
//! `iomem=relaxed`.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use libvfetch::{Function, Space, Stamp, Task};
use rustix::io::Errno;

use super::hw;
use super::inject::{Fault, Injector};
use super::machine::{expect, expect_bytes, function, ms, space, sysfs, MIB, PAGE};
use super::system::Registers;
use crate::{
    mapped::{mapped, stamped_bytes},
    support::{limit::factor, model},
    tap::Test,
};

pub(crate) const TESTS: &[Test] = crate::bounded![100:
    a_queue_that_stops_is_reset_before_the_timeout,
    a_stop_is_noticed_although_a_completion_comes_with_it,
    a_fault_ring_that_stops_begins_anew,
];

/// Well before the time-out of the first transfer.
const EARLY: Duration = ms(150);

/// A function with a space that holds `0x5a`, and its registers.
struct Bench {
    injector: Injector,
    space: Space,
    registers: Registers,
    vectors: Registers,
}

impl Bench {
    const NUMBER: u32 = 1;

    fn new() -> Result<Self> {
        let injector = Injector::new()?;
        let function = function(Self::NUMBER)?;
        let space = space(&function, MIB)?;
        space.write_all_at(&vec![0x5a; MIB as usize], 0)?;
        Ok(Self {
            injector,
            space,
            registers: map(&function, hw::VFETCH_BAR_REGS)?,
            vectors: map(&function, hw::VFETCH_BAR_MSIX)?,
        })
    }

    /// A register of the ordinary queue.
    fn register(register: u32) -> u32 {
        hw::VFETCH_QUEUE_BASE + register
    }

    /// Stops the ordinary queue, by a tail that cannot be.
    fn stop(&self) {
        self.registers
            .write32(Self::register(hw::VFETCH_QREG_SQ_TAIL), u32::MAX);
    }

    /// Completions that the device has posted, modulo 2^16.
    fn completions(&self) -> u32 {
        self.registers
            .read32(Self::register(hw::VFETCH_QREG_CQ_TAIL))
    }

    fn arm(&self, fault: Fault) -> Result<()> {
        self.injector.arm(Self::NUMBER, fault)
    }

    /// Holds back the ordinary queue's interrupt, or lets it come.
    fn mask(&self, masked: bool) {
        /// "Vector control" of the table's first entry.
        const CONTROL: u32 = 12;
        self.vectors.write32(CONTROL, u32::from(masked));
    }

    /// Reads a page, in a thread of its own.
    fn read(&self) -> libvfetch::Result<usize> {
        self.space.read_at(&mut [0; PAGE as usize], 0)
    }

    /// Waits until `count` reads are in flight, and who wants them sleeps. `false`: not by [`EARLY`] after `start`.
    fn asleep(&self, start: Instant, count: usize) -> Result<bool> {
        while start.elapsed() < EARLY {
            if self.space.stats()?.in_flight == count as u64 && sleepers() == count {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn map(function: &Function, bar: u32) -> Result<Registers> {
    Registers::map(&sysfs(function.address).join(format!("resource{bar}")))
        .context("the VM needs iomem=relaxed")
}

/// Threads of ours that sleep and cannot be interrupted, as those do that wait for a transfer.
fn sleepers() -> usize {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten();
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("stat")).ok())
        .filter(|stat| {
            stat.rsplit(')')
                .next()
                .is_some_and(|rest| rest.starts_with(" D"))
        })
        .count()
}

/// Stops a queue on which a read hangs, and before that one that `delayed` lets end after the stop. The driver
/// hears of both at once.
fn stop(delayed: bool) -> Result<()> {
    for _ in 0..20 {
        let bench = Bench::new()?;
        let before = bench.space.stats()?;
        let posted = bench.completions() + u32::from(delayed);
        let mut early = true;
        thread::scope(|scope| {
            let start = Instant::now();
            let mut first = None;
            if delayed {
                bench.arm(Fault::read(hw::VFETCH_FAULT_DELAY).late_by_ms(60))?;
                first = Some(scope.spawn(|| bench.read()));
                early = bench.asleep(start, 1)?;
            }
            bench.arm(Fault::read(hw::VFETCH_FAULT_STUCK))?;
            let stuck = scope.spawn(|| bench.read());
            early = early && bench.asleep(start, 1 + usize::from(delayed))?;
            if early {
                bench.mask(true);
                bench.stop();
                let ended = || (bench.completions() ^ posted) & hw::VFETCH_INDEX_MASK == 0;
                while early && !ended() {
                    early = start.elapsed() < EARLY;
                }
                bench.mask(false);
            }
            let result = stuck.join().expect("no panic");
            expect("a read in a queue that stopped", result, Errno::IO)?;
            if let Some(first) = first {
                let read = first.join().expect("no panic")?;
                ensure!(read as u64 == PAGE, "{read} bytes were read");
            }
            anyhow::Ok(())
        })?;
        expect_bytes(&bench.space, 0, MIB, 0x5a)?;
        let after = bench.space.stats()?;
        let found = (
            after.timeouts - before.timeouts,
            after.queue_resets - before.queue_resets,
        );
        // On a busy machine the time-out may come before all that is done.
        if early {
            ensure!(
                found == (0, 1),
                "time-outs and queue resets: {found:?} instead of (0, 1)"
            );
            return Ok(());
        }
    }
    bail!("always slower than the time-out")
}

fn a_queue_that_stops_is_reset_before_the_timeout() -> Result<()> {
    stop(false)
}

fn a_stop_is_noticed_although_a_completion_comes_with_it() -> Result<()> {
    stop(true)
}

/// Stops the ring of faults again and again while a job faults: by a head that cannot be.
fn a_fault_ring_that_stops_begins_anew() -> Result<()> {
    const PAGES: usize = 600;
    let function = function(1)?;
    let registers = map(&function, hw::VFETCH_BAR_REGS)?;
    let page = usize::try_from(PAGE)?;
    let mut stops = 0;
    for generation in 1..=3 {
        let (space, mapping) = mapped(&function, PAGES)?;
        let stamp = Stamp {
            output: 0,
            n: (PAGES * page / 8) as u64,
            first: 0,
            generation,
        };
        // Long enough not to be over before we look, however the host schedules the device.
        let job = space.submit(&Task::from(stamp).strands(8).element_ps(20_000_000))?;
        let end = Instant::now() + ms(60_000) * factor();
        while job
            .wait_for(Some(ms(1)))?
            .map(|end| end.outcome)
            .transpose()?
            .is_none()
        {
            ensure!(Instant::now() < end, "the job does not go on");
            let status = registers.read32(hw::VFETCH_REG_FAULT_STATUS);
            if status == hw::VFETCH_FSTAT_ENABLED {
                registers.write32(hw::VFETCH_REG_FAULT_HEAD, hw::VFETCH_INDEX_MASK + 1);
                let status = registers.read32(hw::VFETCH_REG_FAULT_STATUS);
                stops += u32::from(status & hw::VFETCH_FSTAT_ERROR_MASK != 0);
            }
        }
        let got = mapping.copy(0..PAGES * page);
        model::equal(
            "what was stamped",
            0,
            &got,
            &stamped_bytes(0, PAGES, generation),
        )?;
    }
    println!("# the ring has stopped {stops} times");
    ensure!(stops > 0, "it never stopped");
    Ok(())
}
