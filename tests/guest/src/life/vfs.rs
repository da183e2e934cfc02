// SPDX-License-Identifier: GPL-2.0

//! VFs up and down.

use std::collections::BTreeMap;

use anyhow::{bail, ensure, Result};
use libvfetch::Space;
use rustix::io::Errno;

use super::load::Worker;
use super::machine::{
    expect, expect_refused, function, functions, have_vfs, pf_address, reserved, set_vfs, space,
    store, sysfs, MIB, PAGE,
};
use crate::tap::Test;

pub(crate) const TESTS: &[Test] = crate::bounded![100:
    node_numbers_stay_with_addresses,
    a_number_of_vfs_that_cannot_be_is_refused,
    each_vf_has_its_share_and_the_pf_the_rest,
    memory_of_a_vf_that_went_is_never_seen_again,
    file_of_a_vf_that_went_says_so,
    twenty_times_up_and_down_under_load,
];

fn node_numbers_stay_with_addresses() -> Result<()> {
    let mut nodes = BTreeMap::new();
    for count in [0, 8, 0, 1, 0, 3, 0, 8, 0] {
        have_vfs(count)?;
        for function in functions()? {
            let before = nodes.insert(function.address, function.node);
            if before.is_some_and(|node| node != function.node) {
                bail!(
                    "{} was vfetch{before:?} and is vfetch{}",
                    function.address,
                    function.node
                );
            }
        }
    }
    let mut numbers: Vec<_> = nodes.values().collect();
    numbers.sort();
    numbers.dedup();
    ensure!(numbers.len() == 9, "nodes of 9 functions: {nodes:?}");
    Ok(())
}

fn a_number_of_vfs_that_cannot_be_is_refused() -> Result<()> {
    let file = sysfs(pf_address()?).join("sriov_numvfs");
    have_vfs(2)?;
    expect_refused("9 of 8 VFs", store(&file, "9"), &[Errno::RANGE])?;
    expect_refused("3 VFs instead of 2", store(&file, "3"), &[Errno::BUSY])?;
    ensure!(
        functions()?.len() == 3,
        "the refused number changed something"
    );
    Ok(())
}

fn each_vf_has_its_share_and_the_pf_the_rest() -> Result<()> {
    have_vfs(8)?;
    let infos: Vec<_> = functions()?
        .iter()
        .map(|f| Ok(Space::open(f)?.info()?))
        .collect::<Result<_>>()?;
    let total: u64 = infos.iter().map(|info| info.memory_bytes).sum();
    ensure!(total == 256 * MIB, "{total} bytes in all");
    for vf in &infos[1..] {
        ensure!(
            vf.memory_bytes == infos[1].memory_bytes && vf.memory_bytes > 0,
            "VFs with different memory"
        );
        ensure!(
            vf.pf() == Some(infos[0].node),
            "VF {} has another PF",
            vf.function
        );
        // All of it can be had, and no more.
        let function = function(vf.function)?;
        let all = reserved(&function, vf.memory_bytes)?;
        expect(
            "one page more",
            Space::open(&function)?.reserve(PAGE),
            Errno::NOSPC,
        )?;
        all.write_all_at(&[1; 4096], vf.memory_bytes - PAGE)?;
    }
    Ok(())
}

/// Writes to all of a function's memory.
fn taint(space: &Space) -> Result<u64> {
    let bytes = space.info()?.memory_bytes;
    space.reserve(bytes)?;
    let secret = vec![0xc3; MIB as usize];
    for at in (0..bytes).step_by(MIB as usize) {
        space.write_all_at(&secret, at)?;
    }
    Ok(bytes)
}

/// That no page of a function shows what it held before.
pub(crate) fn expect_untainted(space: &Space) -> Result<()> {
    let bytes = space.info()?.memory_bytes;
    space.reserve(bytes)?;
    let mut buffer = vec![0; PAGE as usize];
    for at in (0..bytes).step_by(4 * PAGE as usize) {
        // A page gets its memory when it is written to.
        space.write_all_at(&[1], at)?;
        space.read_exact_at(&mut buffer, at)?;
        ensure!(
            buffer[0] == 1 && buffer[1..].iter().all(|byte| *byte == 0),
            "somebody else's bytes at {at}"
        );
    }
    Ok(())
}

/// Taints a function, has it taken away and given back by `f` with the file open, and looks.
pub(crate) fn expect_no_inheritance(number: u32, f: impl FnOnce() -> Result<()>) -> Result<()> {
    let old = Space::open(&function(number)?)?;
    taint(&old)?;
    f()?;
    let new = Space::open(&function(number)?)?;
    expect_untainted(&new)?;
    expect(
        "a read by the old file",
        old.read_at(&mut [0; 64], 0),
        Errno::NODEV,
    )
}

fn memory_of_a_vf_that_went_is_never_seen_again() -> Result<()> {
    have_vfs(2)?;
    expect_no_inheritance(1, || {
        set_vfs(0)?;
        set_vfs(2)
    })
}

fn file_of_a_vf_that_went_says_so() -> Result<()> {
    have_vfs(2)?;
    let space = space(&function(2)?, MIB)?;
    space.write_all_at(&[1; 100], 0)?;
    super::binding::expect_gone_after(&space, || set_vfs(0))
}

fn twenty_times_up_and_down_under_load() -> Result<()> {
    have_vfs(0)?;
    let pf = function(0)?;
    let steady = [Worker::start(&pf, 1, 100)?, Worker::start(&pf, 2, 100)?];
    let mut good = 0;
    // Linux sleeps for a second after switching VFs off.
    for round in 0..20u64 {
        let count = [1, 2, 1, 4, 2, 1, 8, 1, 2, 3][round as usize % 10];
        set_vfs(count)?;
        let all = functions()?;
        ensure!(
            all.len() == count as usize + 1,
            "round {round}: {} of {count} VFs are bound",
            all.len() - 1
        );
        let mut workers = Vec::new();
        for (vf, seed) in all[1..].iter().zip(round * 3..) {
            workers.push(Worker::start(vf, seed % 200, 16)?);
        }
        // Sometimes at once.
        if round % 3 != 0 {
            workers[0].wait_for(5)?;
        }
        set_vfs(0)?;
        for worker in workers {
            let outcome = worker.ended()?;
            ensure!(
                outcome.gone,
                "round {round}: a program of a VF that is gone did not notice"
            );
            good += outcome.good;
        }
    }
    ensure!(good > 0, "no VF ever did anything");
    for worker in steady {
        worker.wait_for(20)?;
        let outcome = worker.finish()?;
        ensure!(
            outcome.failed == 0 && !outcome.gone,
            "the PF's programs had errors: {outcome:?}"
        );
    }
    Ok(())
}
