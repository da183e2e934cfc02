// SPDX-License-Identifier: GPL-2.0

//! Loading and unloading the module.

use std::fs;

use anyhow::{anyhow, ensure, Context, Result};
use libvfetch::Space;
use rustix::io::Errno;

use super::machine::{
    expect_bytes, function, functions, have_vfs, insmod, meminfo, parameters, rmmod, set_vfs,
    space, Log, MIB, PAGE,
};
use crate::{support::raw, tap::Test};

pub(crate) const TESTS: &[Test] = crate::bounded![170:
    module_in_use_is_not_unloaded,
    module_with_idle_vfs_is_unloaded,
    parameters_out_of_range_are_refused_with_a_message,
    parameters_at_their_limits_work,
    parameters_say_how_functions_prefetch,
    two_hundred_times_loaded_and_unloaded,
];

fn unload() -> Result<()> {
    rmmod().map_err(|errno| anyhow!("rmmod: {errno:?}"))
}

/// As at boot.
fn load() -> Result<()> {
    insmod(&parameters()?).map_err(|errno| anyhow!("insmod: {errno:?}"))
}

fn works() -> Result<()> {
    for function in functions()? {
        let space = space(&function, MIB)?;
        space.write_all_at(&vec![3; MIB as usize], 0)?;
        expect_bytes(&space, 0, MIB, 3)?;
    }
    Ok(())
}

fn module_in_use_is_not_unloaded() -> Result<()> {
    have_vfs(1)?;
    for number in [0, 1] {
        let space = space(&function(number)?, MIB)?;
        space.write_all_at(&[4; 4096], 0)?;
        let refused = rmmod();
        // delete_module(2) calls it EWOULDBLOCK; rmmod(8) says "in use".
        ensure!(
            refused == Err(Errno::AGAIN),
            "rmmod with a file open: {refused:?}"
        );
        expect_bytes(&space, 0, PAGE, 4)?;
    }
    works()
}

fn module_with_idle_vfs_is_unloaded() -> Result<()> {
    have_vfs(3)?;
    let before = functions()?;
    unload()?;
    ensure!(!fs::exists("/sys/module/vfetch")?, "it is still there");
    let nodes = fs::read_dir("/dev")?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("vfetch"));
    ensure!(nodes.count() == 0, "nodes are left");
    load()?;
    ensure!(
        functions()?.len() == 1,
        "VFs are there although nobody asked for them"
    );
    set_vfs(3)?;
    ensure!(functions()? == before, "the functions are others");
    works()
}

fn parameters_out_of_range_are_refused_with_a_message() -> Result<()> {
    have_vfs(0)?;
    unload()?;
    let mut log = Log::from_now()?;
    let cases = [
        ("timeout_ms", "0"),
        ("timeout_ms", "9"),
        ("timeout_ms", "600001"),
        ("timeout_ms", "4294967295"),
        ("spin_us", "1001"),
        ("queue_entries", "0"),
        ("queue_entries", "2"),
        ("queue_entries", "3"),
        ("queue_entries", "48"),
        ("queue_entries", "2048"),
        ("prefetch_enable", "2"),
        ("prefetch_threshold", "0"),
        ("prefetch_threshold", "101"),
        // Cut to 8 bits it would be right.
        ("prefetch_threshold", "307"),
        ("prefetch_min_faults", "0"),
        ("prefetch_min_faults", "21"),
        ("thrashing_enable", "2"),
        ("thrashing_threshold", "0"),
        ("thrashing_threshold", "8"),
        ("thrashing_pin_threshold", "256"),
        ("thrashing_lapse_us", "10000001"),
        ("thrashing_pin_lapses", "1000001"),
    ];
    let mut wrong = Vec::new();
    for (name, value) in cases {
        let loaded = insmod(&format!("{name}={value}"));
        let told = log.has(&format!("{name}={value}"));
        if loaded != Err(Errno::INVAL) || !told {
            wrong.push(format!("{name}={value}: {loaded:?}, message: {told}"));
        }
        if loaded.is_ok() {
            unload()?;
        }
    }
    for value in [
        "timeout_ms=-1",
        "timeout_ms=soon",
        "timeout_ms=4294967296",
        "queue_entries=",
        "prefetch_enable=yes",
    ] {
        let loaded = insmod(value);
        if !matches!(loaded, Err(Errno::INVAL | Errno::RANGE)) {
            wrong.push(format!("{value}: {loaded:?}"));
        }
        if loaded.is_ok() {
            unload()?;
        }
    }
    load()?;
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    works()
}

fn parameters_at_their_limits_work() -> Result<()> {
    for (values, entries) in [
        ("timeout_ms=30000 queue_entries=4", 4),
        ("timeout_ms=30000 queue_entries=1024", 1024),
        ("queue_entries=16", 16),
    ] {
        unload()?;
        insmod(values).map_err(|errno| anyhow!("{values}: {errno:?}"))?;
        works().context(values)?;
        let info = Space::open(&function(0)?)?.info()?;
        ensure!(
            info.queue_entries == entries,
            "{values}: {} entries",
            info.queue_entries
        );
        let read = fs::read_to_string("/sys/module/vfetch/parameters/queue_entries");
        if let Ok(text) = read {
            ensure!(text.trim() == entries.to_string(), "sysfs says {text}");
        }
    }
    unload()?;
    load()
}

fn parameters_say_how_functions_prefetch() -> Result<()> {
    have_vfs(0)?;
    for (values, wanted) in [
        ("", (1, 51, 1)),
        (
            "prefetch_enable=0 prefetch_threshold=1 prefetch_min_faults=20",
            (0, 1, 20),
        ),
        (
            "prefetch_enable=1 prefetch_threshold=100 prefetch_min_faults=2",
            (1, 100, 2),
        ),
    ] {
        unload()?;
        insmod(values).map_err(|errno| anyhow!("{values}: {errno:?}"))?;
        // VFs that come later too.
        set_vfs(1)?;
        for function in functions()? {
            let policy = raw::policy(&Space::open(&function)?)?;
            let found = (policy.enabled, policy.threshold, policy.min_faults);
            ensure!(
                found == wanted,
                "{values:?} on {}: {found:?}",
                function.role
            );
        }
        set_vfs(0)?;
    }
    unload()?;
    load()
}

/// Memory that is in use and no program's or file's, in KiB.
fn kernel_kib() -> Result<i64> {
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    let others = [
        "MemFree",
        "AnonPages",
        "Cached",
        "Buffers",
        "SReclaimable",
        "PageTables",
    ];
    let others: i64 = others.into_iter().map(meminfo).sum::<Result<_>>()?;
    // Free pages in the lists of each processor count as used.
    let zones = fs::read_to_string("/proc/zoneinfo")?;
    let listed: i64 = zones
        .lines()
        .filter_map(|line| {
            line.trim()
                .strip_prefix("count:")?
                .trim()
                .parse::<i64>()
                .ok()
        })
        .sum();
    Ok(meminfo("MemTotal")? - others - listed * i64::try_from(PAGE / 1024)?)
}

fn two_hundred_times_loaded_and_unloaded() -> Result<()> {
    have_vfs(0)?;
    unload()?;
    let mut log = Log::from_now()?;
    let cycle = |round: u32| -> Result<()> {
        load()?;
        if round % 25 == 0 {
            set_vfs(2)?;
            works()?;
        }
        unload()
    };
    // Caches and pools of the kernel grow at first.
    (0..40).try_for_each(cycle)?;
    let before = kernel_kib()?;
    (0..160).try_for_each(cycle)?;
    let grown = kernel_kib()? - before;
    load()?;
    println!("# after 160 cycles the kernel uses {grown} KiB more");
    // It varies by some 100 KiB; a page each would be 640.
    ensure!(
        grown < 400,
        "the kernel uses {grown} KiB more after 160 cycles"
    );
    let complaints: Vec<_> = log
        .lines()
        .into_iter()
        .filter(|line| line.level <= 4 && line.text.contains("vfetch"))
        .collect();
    ensure!(
        complaints.is_empty(),
        "the kernel's log: {}",
        complaints[0].text
    );
    Ok(())
}
