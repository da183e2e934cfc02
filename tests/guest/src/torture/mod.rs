// SPDX-License-Identifier: GPL-2.0

//! Torture: everything that uses a space does so at once, with room so small that blocks are evicted all the time, and every
//! word says whether it belongs there.
//!
//! | file | is |
//! |---|---|
//! | `memory` | a space in chunks, and which words may be in each: what was written last, or is being written |
//! | `actor` | a thread that uses a space at random |
//! | `host`, `jobs`, `others` | what it does: by loads, stores and calls; by the device; by the kernel and other processes |
//! | `bus` | SIGBUS as something that is counted |
//! | `chaos` | limits, policies, advice, signals, pins; failures of the device or of allocations, and resets |
//!
//! A run takes 20 seconds, or SECONDS from the environment. It says its seed, and takes another's from SEED: with the same
//! seed every thread does the same things in the same order, though threads meet otherwise. Ten minutes, without and with failures of the
//! device, on processors that really run at once, and with allocations that fail:
//!
//! ```text
//! make vm VFS=2 MODULES=brd TIMEOUT=1500 DEVICE=total_vfs=2,mem_size=36M CMD='SECONDS=600 vfetch-test torture'
//! make vm VFS=2 MODULES=brd TIMEOUT=1500 DEVICE=total_vfs=2,mem_size=36M,x-test=on MODARGS=timeout_ms=200 CMD='SECONDS=600 vfetch-test torture-faults'
//! make vm VFS=2 MODULES=brd TIMEOUT=1500 THREADS=multi DEVICE=total_vfs=2,mem_size=36M CMD='SECONDS=600 vfetch-test torture'
//! make vm KERNEL=debug VFS=2 MODULES=brd TIMEOUT=3000 DEVICE=total_vfs=2,mem_size=36M CMD='SECONDS=600 vfetch-test torture-memory'
//! ```

mod actor;
pub(crate) mod bus;
mod chaos;
mod host;
mod jobs;
mod memory;
mod others;

use std::{
    env,
    fs::File,
    io::Read,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
        Arc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{anyhow, ensure, Context, Result};
use libvfetch::{Scope, Space};
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;

use crate::{
    support::{
        limit,
        machine::{leaves_nothing, pf, vf},
    },
    tap::Group,
};

use actor::{Actor, DEEDS};
use chaos::Chaos;
use memory::Memory;

/// What a space holds is 8 of them.
const MIB: u64 = 1 << 20;
/// Chunks of a space.
const CHUNKS: usize = 512;
/// Threads that use each of the spaces.
const ACTORS: [usize; 3] = [3, 2, 2];

/// What all threads know.
struct World {
    seed: u64,
    /// Whether the device fails, and is reset.
    faulty: bool,
    /// Whether the module is refused memory.
    starved: bool,
    /// Whether pages are wanted on the device that both sides use, so that they are shown there.
    shows: bool,
    memories: Vec<Memory>,
    stop: AtomicBool,
    /// How often each of [`DEEDS`] was done, and was refused because of a failure.
    done: [AtomicU64; DEEDS.len()],
    refused: [AtomicU64; DEEDS.len()],
}

impl World {
    /// Whether anything may be refused.
    fn fails(&self) -> bool {
        self.faulty || self.starved
    }

    /// Random numbers for one of several users.
    fn random(&self, user: u64) -> Pcg64Mcg {
        Pcg64Mcg::seed_from_u64(self.seed.wrapping_add(user.wrapping_mul(0x9e37_79b9)))
    }
}

/// A number from the environment.
fn setting(name: &str) -> Result<Option<u64>> {
    match env::var(name) {
        Ok(text) => Ok(Some(
            text.parse().with_context(|| format!("{name}={text}"))?,
        )),
        Err(_) => Ok(None),
    }
}

/// How long a run takes.
fn seconds() -> Result<u64> {
    Ok(setting("SECONDS")?.unwrap_or(20))
}

/// What there is beside what user space does in any case.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// Failures of the device.
    Failures,
    /// Allocations that fail.
    Starvation,
    /// Pages that thrash and are shown on the device.
    Windows,
}

fn run(beside: Beside) -> Result<()> {
    let seed = match setting("SEED")? {
        Some(seed) => seed,
        None => u64::from(rand_seed()?),
    };
    println!("# torture: SEED={seed}");
    let functions = [vf(1)?, pf()?];
    leaves_nothing(&functions[0], || {
        leaves_nothing(&functions[1], || {
            let owners = [&functions[0], &functions[0], &functions[1]];
            let memories: Result<_> = owners
                .into_iter()
                .zip(ACTORS)
                .map(|(function, actors)| Memory::new(function, CHUNKS, actors))
                .collect();
            let world = Arc::new(World {
                seed,
                faulty: beside == Beside::Failures,
                starved: beside == Beside::Starvation,
                shows: beside == Beside::Windows,
                memories: memories?,
                stop: AtomicBool::new(false),
                done: [const { AtomicU64::new(0) }; DEEDS.len()],
                refused: [const { AtomicU64::new(0) }; DEEDS.len()],
            });
            let limits = Space::open(&functions[0])?.limits(Scope::Function)?;
            let result = torture(&world);
            // For the runs that follow.
            Space::open(&functions[0])?.set_limits(
                Scope::Function,
                limits.host_bytes,
                limits.device_bytes,
            )?;
            result
        })
    })
    .with_context(|| format!("SEED={seed}"))
}

/// A seed that nobody has had.
fn rand_seed() -> Result<u32> {
    let mut bytes = [0; 4];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

/// Lets all actors loose until time is over or one of them has failed.
fn torture(world: &Arc<World>) -> Result<()> {
    let mut threads: Vec<JoinHandle<Result<()>>> = Vec::new();
    for (home, count) in ACTORS.into_iter().enumerate() {
        for number in 0..count {
            let mut actor = Actor::new(world, home, number, threads.len())?;
            let name = format!("actor {}", threads.len());
            let world = world.clone();
            threads.push(thread::Builder::new().name(name).spawn(move || {
                let result = actor.run();
                if result.is_err() {
                    world.stop.store(true, SeqCst);
                }
                result
            })?);
        }
    }
    let end = Instant::now() + Duration::from_secs(seconds()?);
    // Slow machines do little in that time.
    let last = end + Duration::from_secs(100);
    let wanted = || {
        let now = Instant::now();
        now < end || now < last && lacks_pins(world).unwrap_or(false)
    };
    let mut chaos = Chaos::new(world)?;
    let mut result = Ok(());
    while result.is_ok() && wanted() && !world.stop.load(SeqCst) {
        result = chaos.disturb(&threads);
    }
    world.stop.store(true, SeqCst);
    let calm = chaos.end();
    limit::until(60, "all actors to end", || {
        Ok(threads.iter().all(JoinHandle::is_finished))
    })?;
    for (number, thread) in threads.into_iter().enumerate() {
        let ended = thread.join().map_err(|_| anyhow!("a panic"))?;
        ended.with_context(|| format!("actor {number}"))?;
    }
    result?;
    calm?;
    for memory in &world.memories {
        memory.check_all(world.faulty)?;
    }
    report(world)
}

/// Whether pages were not pinned to the host, to windows, or all found room there; and that is wanted. (With sanitizers all is too slow to
/// thrash.)
fn lacks_pins(world: &World) -> Result<bool> {
    let mut all = [0; 3];
    for memory in [&world.memories[0], &world.memories[2]] {
        let stats = memory.space.stats()?;
        all[0] += stats.thrashing_pins;
        all[1] += stats.window_pins;
        all[2] += stats.window_misses;
    }
    Ok(world.shows && limit::factor() == 1 && all.contains(&0))
}

/// Says what was done, and that it was enough to mean something.
fn report(world: &World) -> Result<()> {
    for ((deed, done), refused) in DEEDS.iter().zip(&world.done).zip(&world.refused) {
        let refused = match refused.load(SeqCst) {
            0 => String::new(),
            refused => format!(", {refused} refused"),
        };
        println!("# {:24} {:8}{refused}", deed.name, done.load(SeqCst));
    }
    let mut evictions = 0;
    for memory in [&world.memories[0], &world.memories[2]] {
        let stats = memory.space.stats()?;
        evictions += stats.evictions;
        println!(
            "# {}: {} host faults, {} device faults in {} batches, {} evictions, {} MiB to the host, {} MiB to the device, \
             {} timeouts, {} queue resets, {} function resets, {} lost pages, {} pins to the host, {} to windows, {} without room there",
            memory.name,
            stats.host_faults,
            stats.device_faults,
            stats.fault_batches,
            stats.evictions,
            stats.to_host_bytes / MIB,
            stats.to_device_bytes / MIB,
            stats.timeouts,
            stats.queue_resets,
            stats.function_resets,
            stats.lost_pages,
            stats.thrashing_pins,
            stats.window_pins,
            stats.window_misses,
        );
        ensure!(
            stats.host_faults > 0 && stats.device_faults > 0,
            "{} was not tortured",
            memory.name
        );
        ensure!(
            stats.lost_pages == 0 || stats.function_resets > 0,
            "pages were lost without a reset"
        );
    }
    ensure!(evictions > 0, "nothing was evicted");
    ensure!(
        !lacks_pins(world)?,
        "pages were not pinned to each side, or found room in every window"
    );
    Ok(())
}

fn everything_at_once_sees_only_what_was_written() -> Result<()> {
    run(Beside::Nothing)
}

fn failures_and_resets_give_errors_and_never_wrong_bytes() -> Result<()> {
    run(Beside::Failures)
}

fn without_kernel_memory_there_are_errors_and_never_wrong_bytes() -> Result<()> {
    run(Beside::Starvation)
}

fn pages_that_are_shown_on_the_device_are_what_was_written() -> Result<()> {
    run(Beside::Windows)
}

/// Runs for as long as it is asked to, and may take a while to end.
fn bounded(test: fn() -> Result<()>) -> Result<()> {
    limit::within(seconds()? + 150, test)
}

/// The groups of this part.
pub(crate) fn groups() -> Vec<Group> {
    vec![
        Group {
            name: "torture",
            about: "everything at once (VFs, module brd; SECONDS, SEED)",
            tests: &[(
                "torture::everything_at_once_sees_only_what_was_written",
                || bounded(everything_at_once_sees_only_what_was_written),
            )],
        },
        Group {
            name: "torture-faults",
            about: "the same with failures and resets (also x-test=on, timeout_ms=200)",
            tests: &[(
                "torture::failures_and_resets_give_errors_and_never_wrong_bytes",
                || bounded(failures_and_resets_give_errors_and_never_wrong_bytes),
            )],
        },
        Group {
            name: "torture-windows",
            about: "the same with pages that thrash and are shown on the device (also small windows, thrashing_threshold=1 or so)",
            tests: &[(
                "torture::pages_that_are_shown_on_the_device_are_what_was_written",
                || bounded(pages_that_are_shown_on_the_device_are_what_was_written),
            )],
        },
        Group {
            name: "torture-memory",
            about: "the same with allocations of the module that fail (VFs, module brd; the debug kernel)",
            tests: &[(
                "torture::without_kernel_memory_there_are_errors_and_never_wrong_bytes",
                || bounded(without_kernel_memory_there_are_errors_and_never_wrong_bytes),
            )],
        },
    ]
}
