// SPDX-License-Identifier: GPL-2.0

//! Pages that host and device take from one another.
//!
//! The module is loaded with lapses that are long for what happens within them on a slow machine.

use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, ensure, Result};
use libvfetch::{
    stamped, Advice, Place, Scope, Side, Space, TraceKind, BLOCK_BYTES, LIMIT_MIN_BYTES,
};

use rustix::process::Signal;

use super::{device_finds, device_stamps, mapped, stamped_bytes, Mapping, RIGHTS};
use crate::{
    life::machine::{bind, function, insmod, parameters, reset, rmmod, set_vfs, unbind},
    support::{
        errno::{same, Errno},
        machine::{leaves_nothing, PAGE},
        model,
        process::signal_of,
    },
};

/// Loads the module with `values`.
fn load(values: &str) -> Result<()> {
    rmmod().map_err(|errno| anyhow!("rmmod: {errno:?}"))?;
    insmod(values).map_err(|errno| anyhow!("insmod {values}: {errno:?}"))
}

/// Loads the module with `values`, runs `test` on a space of the PF's and on one of a VF's, and loads it as it was.
fn with(values: &str, test: impl Fn(&Space, &Mapping) -> Result<()>) -> Result<()> {
    load(&format!("prefetch_enable=0 {values}"))?;
    set_vfs(1)?;
    for number in [0, 1] {
        let function = function(number)?;
        leaves_nothing(&function, || {
            let (space, mapping) = mapped(&function, 20)?;
            test(&space, &mapping)
        })?;
    }
    set_vfs(0)?;
    load(&parameters()?)
}

/// Both sides write page 0 and read what the other wrote.
fn take_turns(space: &Space, mapping: &Mapping, generation: u64) -> Result<()> {
    device_stamps(space, 0, 1, 2 * generation)?;
    let got = mapping.copy(0..PAGE);
    model::equal(
        "the device's",
        0,
        &got,
        &stamped_bytes(0, 1, 2 * generation),
    )?;
    mapping.fill(0, &stamped_bytes(0, 1, 2 * generation + 1));
    same(
        "words of the host's that the device finds wrong",
        device_finds(space, 0, 1, 2 * generation + 1)?,
        0,
    )
}

fn place(space: &Space) -> Result<Place> {
    let places = space.places(0..PAGE as u64)?;
    places.first().copied().ok_or(anyhow!("no place"))
}

/// They take turns until the page is pinned. Returns how often.
fn until_pinned(space: &Space, mapping: &Mapping) -> Result<u64> {
    until(space, mapping, Place::Host { pinned: true })
}

/// They take turns until the page stays at `wanted`.
fn until(space: &Space, mapping: &Mapping, wanted: Place) -> Result<u64> {
    for round in 1..1000 {
        take_turns(space, mapping, round)?;
        if place(space)? == wanted {
            return Ok(round);
        }
    }
    bail!("it is not pinned");
}

/// The page is wanted on the device, and they take turns until it stays there.
fn until_shown(space: &Space, mapping: &Mapping) -> Result<u64> {
    space.advise(0..PAGE as u64, Advice::Prefer(Some(Side::Device)))?;
    until(space, mapping, SHOWN)
}

const SHOWN: Place = Place::Device { pinned: true };
const PINS: &str = "thrashing_threshold=2 thrashing_pin_threshold=1 thrashing_lapse_us=5000000 thrashing_pin_lapses=0";

pub(crate) fn a_page_that_both_want_stays_and_is_reached() -> Result<()> {
    with(PINS, |space, mapping| {
        let rounds = until_pinned(space, mapping)?;
        let before = space.stats()?;
        ensure!(before.thrashing_pins > 0 && before.thrashing_missed == 0);
        for round in rounds + 1..rounds + 20 {
            take_turns(space, mapping, round)?;
        }
        same("where it is", place(space)?, Place::Host { pinned: true })?;
        let after = space.stats()?;
        same("moved", after.to_device_bytes, before.to_device_bytes)?;
        same("moved back", after.to_host_bytes, before.to_host_bytes)?;
        // The user's word counts for more.
        space.advise(0..PAGE as u64, Advice::WillNeed(Side::Device))?;
        same(
            "where it is",
            place(space)?,
            Place::Device { pinned: false },
        )?;
        let last = 2 * (rounds + 19) + 1;
        same("words", device_finds(space, 0, 1, last)?, 0)?;
        // Forgotten, nothing is known of it.
        until_pinned(space, mapping)?;
        space.discard(0..PAGE as u64)?;
        same("words", device_finds(space, 0, 1, 7)?, PAGE as u64 / 8)
    })
}

/// Making room takes the pages away, and the device takes them back: that is thrashing though no process wants them, and the first that does
/// waits.
pub(crate) fn pages_that_are_sent_away_and_come_back_thrash() -> Result<()> {
    let values = "thrashing_threshold=3 thrashing_lapse_us=5000000 thrashing_pin_lapses=0";
    with(values, |space, mapping| {
        space.set_size(BLOCK_BYTES)?;
        let host = space.limits(Scope::Space)?.host_bytes;
        device_stamps(space, 0, 300, 1)?;
        let before = space.stats()?;
        for _ in 0..5 {
            // More than may stay: all of it goes, and comes back as it is asked for.
            space.set_limits(Scope::Space, host, LIMIT_MIN_BYTES)?;
            space.set_limits(Scope::Space, host, 2 * BLOCK_BYTES)?;
            same("words", device_finds(space, 0, 300, 1)?, 0)?;
        }
        let came_back = space.stats()?;
        let gone = came_back.evicted_pages - before.evicted_pages;
        same("pages that went", gone, 5 * 300)?;
        same("held back", came_back.throttled, before.throttled)?;
        same("a word", mapping.word(0), stamped(0, 1))?;
        ensure!(
            space.stats()?.throttled > came_back.throttled,
            "it was not noticed that they came and went: {came_back:?}"
        );
        Ok(())
    })
}

pub(crate) fn a_pin_ends_after_its_time() -> Result<()> {
    let values = "thrashing_threshold=2 thrashing_pin_threshold=1 thrashing_lapse_us=1000000 thrashing_pin_lapses=2";
    with(values, |space, mapping| {
        let trace = space.trace(&[TraceKind::Thrashing, TraceKind::Unpinned], 1024)?;
        until_pinned(space, mapping)?;
        let end = Instant::now() + Duration::from_secs(40);
        while place(space)? != (Place::Host { pinned: false }) {
            ensure!(Instant::now() < end, "it is still pinned");
            std::thread::sleep(Duration::from_millis(50));
        }
        ensure!(space.stats()?.thrashing_unpins > 0);
        let found = trace.read(1024, Some(Duration::ZERO))?.records;
        let of = |kind| found.iter().filter(move |r| r.kind() == kind);
        let pinned = of(TraceKind::Thrashing).find(|r| r.more().eq([0]));
        let to = pinned.and_then(libvfetch::TraceRecord::to);
        same("who wanted the page", to, Some(Side::Device))?;
        ensure!(
            of(TraceKind::Unpinned).any(|r| r.pages().eq([0])),
            "no record of the pin's end: {found:?}"
        );
        // The device asks anew, and takes it.
        mapping.fill(0, &stamped_bytes(0, 1, 4));
        same("words", device_finds(space, 0, 1, 4)?, 0)?;
        same(
            "where it is",
            place(space)?,
            Place::Device { pinned: false },
        )
    })
}

pub(crate) fn who_takes_turns_waits() -> Result<()> {
    let values = "thrashing_threshold=2 thrashing_pin_threshold=255 thrashing_lapse_us=300000";
    with(values, |space, mapping| {
        let before = space.stats()?.throttled;
        for round in 1..200 {
            take_turns(space, mapping, round)?;
            if space.stats()?.throttled > before + 4 {
                same("pins", space.stats()?.thrashing_pins, 0)?;
                return Ok(());
            }
        }
        bail!("nobody waited");
    })
}

pub(crate) fn without_it_pages_come_and_go() -> Result<()> {
    let values = "thrashing_enable=0 thrashing_threshold=1 thrashing_pin_threshold=1 thrashing_lapse_us=10000000";
    with(values, |space, mapping| {
        for round in 1..20 {
            take_turns(space, mapping, round)?;
            same(
                "where it is",
                place(space)?,
                Place::Device { pinned: false },
            )?;
        }
        let stats = space.stats()?;
        same("waits", (stats.throttled, stats.thrashing_pins), (0, 0))
    })
}

pub(crate) fn a_page_that_is_wanted_on_the_device_is_reached_there() -> Result<()> {
    with(PINS, |space, mapping| {
        let rounds = until_shown(space, mapping)?;
        let before = space.stats()?;
        ensure!(before.window_pins > 0 && before.window_misses == 0);
        for round in rounds + 1..rounds + 20 {
            take_turns(space, mapping, round)?;
        }
        same("where it is", place(space)?, SHOWN)?;
        let after = space.stats()?;
        same("moved", after.to_device_bytes, before.to_device_bytes)?;
        same("moved back", after.to_host_bytes, before.to_host_bytes)?;
        // Every way to it leads to the same bytes.
        let last = 2 * (rounds + 19) + 1;
        let other = Mapping::part_of(space, 0, PAGE, RIGHTS)?;
        model::equal("again", 0, &other.copy(0..PAGE), &stamped_bytes(0, 1, last))?;
        let mut got = vec![0; PAGE];
        space.read_exact_at(&mut got, 0)?;
        model::equal("by read()", 0, &got, &stamped_bytes(0, 1, last))?;
        space.write_all_at(&[9; 16], 64)?;
        same("by write()", mapping.word(72), u64::from_le_bytes([9; 8]))?;
        // Except through the kernel.
        let given = mapping.area(0, 8).pwrite(space, 10 * PAGE as u64);
        same("a write from it", given, Err(Errno::FAULT))?;
        // The user's word counts for more.
        space.advise(0..PAGE as u64, Advice::WillNeed(Side::Host))?;
        same("where it is", place(space)?, Place::Host { pinned: false })?;
        same("its contents", mapping.word(72), u64::from_le_bytes([9; 8]))?;
        until_shown(space, mapping)?;
        space.advise(0..PAGE as u64, Advice::Normal)?;
        same(
            "where it is",
            place(space)?,
            Place::Device { pinned: false },
        )?;
        until_shown(space, mapping)?;
        space.discard(0..PAGE as u64)?;
        model::zeros("discarded", 0, &mapping.copy(0..PAGE))
    })
}

pub(crate) fn a_pin_to_the_device_ends_after_its_time() -> Result<()> {
    let values = "thrashing_threshold=2 thrashing_pin_threshold=1 thrashing_lapse_us=1000000 thrashing_pin_lapses=2";
    with(values, |space, mapping| {
        until_shown(space, mapping)?;
        let end = Instant::now() + Duration::from_secs(40);
        while place(space)? == SHOWN {
            ensure!(Instant::now() < end, "it is still pinned");
            std::thread::sleep(Duration::from_millis(50));
        }
        device_stamps(space, 0, 1, 3)?;
        // It comes as any other does.
        let got = mapping.copy(0..PAGE);
        model::equal("the device's", 0, &got, &stamped_bytes(0, 1, 3))?;
        same("where it is", place(space)?, Place::Host { pinned: false })
    })
}

pub(crate) fn what_was_shown_is_not_when_it_is_lost() -> Result<()> {
    load(&format!("prefetch_enable=0 {PINS}"))?;
    set_vfs(1)?;
    for number in [0, 1] {
        let function = function(number)?;
        let touched = |mapping: &Mapping| {
            signal_of(|| {
                mapping.word(0);
            })
        };
        for ends in [reset, unbind] {
            let (space, mapping) = mapped(&function, 20)?;
            until_shown(&space, &mapping)?;
            ends(function.address)?;
            same("a load", touched(&mapping)?, Some(Signal::BUS))?;
            if space.info()?.state() != libvfetch::State::Gone {
                // Others' bytes are not seen there.
                let (other, _mapping) = mapped(&function, 20)?;
                other.write_all_at(&[7; 20 * PAGE], 0)?;
                same("a load", touched(&mapping)?, Some(Signal::BUS))?;
            }
        }
        bind(function.address)?;
        if number == 0 {
            // They went with it.
            set_vfs(1)?;
        }
    }
    set_vfs(0)?;
    load(&parameters()?)
}
