// SPDX-License-Identifier: GPL-2.0

//! The whole device unplugged and plugged in, in an orderly way and by surprise.
//!
//! The VM is started with QMP=1; the device is `vf0` in the slot `rp0`.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::{bail, ensure, Context, Result};
use libvfetch::{Function, Space, State};
use rustix::io::Errno;

use super::binding::expect_gone_after;
use super::hw;
use super::inject::{Fault, Injector};
use super::load::Worker;
use super::machine::{
    expect, expect_bytes, function, functions, have_vfs, ms, pf_address, set_vfs, space, sysfs,
    wait_until, MIB, PAGE,
};
use crate::tap::Test;

pub(crate) const TESTS: &[Test] = crate::bounded![100:
    orderly_unplug_under_load_and_back,
    surprise_under_load_and_back_three_times,
    surprise_with_idle_files_open,
    surprise_during_a_recovery,
];

/// Has the host do something.
fn qmp(json: &str) -> Result<()> {
    let output = Command::new("qmp").arg(json).output()?;
    let reply = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "the host refuses {json}: {reply}");
    Ok(())
}

pub(super) fn orderly() -> Result<()> {
    qmp(r#"{"execute": "device_del", "arguments": {"id": "vf0"}}"#)
}

pub(super) fn surprise() -> Result<()> {
    qmp(
        r#"{"execute": "qom-set", "arguments": {"path": "/machine/peripheral/vf0", "property": "x-surprise", "value": true}}"#,
    )
}

/// Waits until the kernel has let the device go, and plugs another one in, with as many VFs.
pub(super) fn plug_in_again(vfs: u32, address: &std::path::Path) -> Result<()> {
    wait_until("the device is out of sysfs", || !address.exists())?;
    let nodes = || {
        fs::read_dir("/dev").map_or(0, |dev| {
            dev.flatten()
                .filter(|entry| entry.file_name().to_string_lossy().starts_with("vfetch"))
                .count()
        })
    };
    ensure!(nodes() == 0, "{} nodes are left", nodes());
    let start = Instant::now();
    // Linux keeps the slot off for a second. Until that is over the device is still in it, and no other fits.
    while let Err(error) = qmp(
        r#"{"execute": "device_add", "arguments": {"driver": "vfetch", "bus": "rp0", "id": "vf0", "x-test": true}}"#,
    ) {
        ensure!(start.elapsed() < ms(15_000), "{error}");
        thread::sleep(ms(100));
    }
    wait_until("the new device is bound", || function(0).is_ok())?;
    set_vfs(vfs)?;
    wait_until("its VFs are bound", || {
        functions().is_ok_and(|all| all.len() == vfs as usize + 1)
    })
}

fn works() -> Result<()> {
    for function in functions()? {
        let space = space(&function, MIB)?;
        space.write_all_at(&vec![3; MIB as usize], 0)?;
        expect_bytes(&space, 0, MIB, 3)?;
    }
    Ok(())
}

/// Lets programs work on PF and VFs while `unplug` does its work, and plugs in again.
fn cycle(unplug: impl FnOnce() -> Result<()>) -> Result<()> {
    have_vfs(2)?;
    let before = functions()?;
    let address = sysfs(pf_address()?);
    let mut workers = Vec::new();
    for (function, seed) in before.iter().chain(&before).zip(1..) {
        workers.push(Worker::start(function, seed, 100)?);
    }
    for worker in &workers {
        worker.wait_for(5)?;
    }
    unplug()?;
    for worker in workers {
        let outcome = worker.ended()?;
        ensure!(outcome.gone, "a program did not notice: {outcome:?}");
    }
    plug_in_again(2, &address)?;
    let after = functions()?;
    ensure!(after == before, "it is not as before: {after:?}");
    works()
}

fn orderly_unplug_under_load_and_back() -> Result<()> {
    cycle(orderly)
}

fn surprise_under_load_and_back_three_times() -> Result<()> {
    (0..3).try_for_each(|round| cycle(surprise).with_context(|| format!("round {round}")))
}

fn surprise_with_idle_files_open() -> Result<()> {
    have_vfs(2)?;
    let address = sysfs(pf_address()?);
    let open = |function: Function| -> Result<Space> {
        let space = space(&function, MIB)?;
        space.write_all_at(&[5; 4096], 0)?;
        Ok(space)
    };
    let spaces = functions()?
        .into_iter()
        .map(open)
        .collect::<Result<Vec<_>>>()?;
    expect_gone_after(&spaces[1], || {
        expect_gone_after(&spaces[0], || {
            surprise()?;
            wait_until("the device is out of sysfs", || !address.exists())
        })
    })?;
    plug_in_again(2, &address)?;
    works()?;
    for space in &spaces {
        ensure!(
            space.info()?.state() == State::Gone,
            "an old file came back to life"
        );
        expect(
            "a read by an old file",
            space.read_at(&mut [0; 4096], 0),
            Errno::NODEV,
        )?;
    }
    drop(spaces);
    works()
}

fn surprise_during_a_recovery() -> Result<()> {
    for (kind, wait) in [(hw::VFETCH_FAULT_STUCK, 50), (hw::VFETCH_FAULT_WEDGED, 400)] {
        have_vfs(2)?;
        let address = sysfs(pf_address()?);
        let injector = Injector::new()?;
        let space = space(&function(1)?, MIB)?;
        space.write_all_at(&[5; 4096], 0)?;
        injector.arm(1, Fault::read(kind))?;
        thread::scope(|scope| {
            let readers: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| space.read_at(&mut [0; 64], 0)))
                .collect();
            thread::sleep(ms(wait));
            surprise()?;
            let start = Instant::now();
            for reader in readers {
                let error = reader
                    .join()
                    .expect("no panic")
                    .err()
                    .and_then(|error| error.errno());
                if !matches!(error, Some(Errno::IO | Errno::NODEV)) {
                    bail!("a reader ended with {error:?}");
                }
            }
            ensure!(
                start.elapsed() < ms(15_000),
                "the readers took {:?}",
                start.elapsed()
            );
            Ok(())
        })?;
        // Its registers are gone with it.
        std::mem::forget(injector);
        plug_in_again(2, &address)?;
        expect(
            "a read by the old file",
            space.read_at(&mut [0; PAGE as usize], 0),
            Errno::NODEV,
        )?;
        works()?;
    }
    Ok(())
}
