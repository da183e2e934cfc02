// SPDX-License-Identifier: GPL-2.0

//! Flat spaces: in one piece of device memory, where the device finds them without a page table.

use anyhow::{ensure, Context, Result};
use libvfetch::{stamped, Advice, Function, JobError, Reduce, Scope, Side, Space};
use rustix::process::Signal;

use super::{
    device_finds, device_stamps,
    jobs::{failure, slow},
    kernels, mapped, on_pf_and_vf, stamped_bytes, Mapping, RIGHTS, WORDS,
};
use crate::{
    life::machine::{bind, reset, unbind},
    support::{
        errno::{fails, same, Errno},
        limit,
        machine::{leaves_nothing, vf, PAGE},
        model,
        process::signal_of,
        raw::{self, FLAT, RESERVE},
    },
};

/// A flat space of `pages`.
fn flat(function: &Function, pages: usize) -> Result<Space> {
    let space = Space::open(function)?;
    space.make_flat((pages * PAGE) as u64)?;
    Ok(space)
}

/// The sum of the words of a space of `pages`, as a job finds it.
fn sum(space: &Space, pages: usize) -> Result<u64> {
    let reduce = Reduce {
        input: 0,
        n: (pages * WORDS) as u64,
    };
    Ok(space.submit(&reduce.into())?.wait()?)
}

/// What a space of `pages` holds.
fn contents(space: &Space, pages: usize) -> Result<Vec<u8>> {
    let mut got = vec![0xee; pages * PAGE];
    space.read_exact_at(&mut got, 0)?;
    Ok(got)
}

pub(crate) fn jobs_reads_and_writes_use_a_flat_space_as_any_other() -> Result<()> {
    on_pf_and_vf(|function| {
        let mut random = model::random(281);
        for (number, case) in kernels::all(&mut random).into_iter().enumerate() {
            let what = format!("{} {number}", case.name);
            let pages = case.before.len() / PAGE;
            let space = flat(function, pages)?;
            model::zeros(&what, 0, &contents(&space, pages)?)?;
            space.write_all_at(&case.before, 0)?;
            let before = space.stats()?;
            let value = space
                .submit(&case.task.strands(37))?
                .wait()
                .context(what.clone())?;
            same(&what, value, case.value)?;
            model::equal(&what, 0, &contents(&space, pages)?, &case.after)?;
            let after = space.stats()?;
            same("faults", after.device_faults, before.device_faults)?;
            let places = space.residency(0..(pages * PAGE) as u64)?;
            same("pages on the device", places.device, pages as u64)?;
        }
        // Pieces of it, at odd offsets and across blocks.
        let pages = 1200;
        let space = flat(function, pages)?;
        device_stamps(&space, 0, pages, 3)?;
        let mut wanted = stamped_bytes(0, pages, 3);
        for (at, bytes) in [(5, 3), (511 * PAGE + 7, 2 * PAGE), (pages * PAGE - 9, 9)] {
            let data = vec![0x5a; bytes];
            space.write_all_at(&data, at as u64)?;
            wanted[at..at + bytes].copy_from_slice(&data);
        }
        model::equal("all of it", 0, &contents(&space, pages)?, &wanted)?;
        let job = space.submit(
            &Reduce {
                input: ((pages - 1) * PAGE) as u64,
                n: WORDS as u64 + 1,
            }
            .into(),
        )?;
        let end = JobError::Range {
            offset: (pages * PAGE) as u64,
        };
        same("a job that leaves it", failure(&job)?, end)
    })
}

pub(crate) fn a_flat_space_is_in_one_piece_or_not_at_all() -> Result<()> {
    on_pf_and_vf(|function| {
        let empty = Space::open(function)?;
        let free = || -> Result<u64> { Ok(empty.info()?.free_bytes) };
        let all = free()?;
        let piece = all / 16 / PAGE as u64 * PAGE as u64;
        fails(
            "more than all",
            empty.make_flat(all + PAGE as u64),
            Errno::NOSPC,
        )?;
        let mut pieces = Vec::new();
        loop {
            let space = Space::open(function)?;
            match space.make_flat(piece) {
                Ok(()) => pieces.push(space),
                Err(error) => {
                    same("no room", error.errno(), Some(Errno::NOSPC))?;
                    break;
                }
            }
            same("free", free()?, all - piece * pieces.len() as u64)?;
            ensure!(pieces.len() <= 16, "more than there is");
        }
        ensure!(pieces.len() >= 15, "only {} pieces", pieces.len());
        for (number, space) in pieces.iter().enumerate() {
            space.write_all_at(&[1 + u8::try_from(number)?; PAGE], piece - PAGE as u64)?;
        }
        // Every other one goes. What is left of them are holes, though large ones together.
        let mut number = 0;
        pieces.retain(|_| {
            number += 1;
            number % 2 == 0
        });
        ensure!(free()? >= 5 * piece, "too little came back");
        fails(
            "what is free but not in one piece",
            empty.make_flat(5 * piece),
            Errno::NOSPC,
        )?;
        same("the size after that", empty.info()?.space_bytes, 0)?;
        empty.make_flat(piece)?;
        model::zeros("a hole", 0, &{
            let mut got = vec![0xee; PAGE];
            empty.read_exact_at(&mut got, piece - PAGE as u64)?;
            got
        })?;
        for (number, space) in pieces.iter().enumerate() {
            let mut got = vec![0; PAGE];
            space.read_exact_at(&mut got, piece - PAGE as u64)?;
            model::equal("a piece", 0, &got, &[2 + 2 * u8::try_from(number)?; PAGE])?;
        }
        Ok(())
    })
}

pub(crate) fn what_cannot_be_done_to_a_flat_space_is_refused() -> Result<()> {
    on_pf_and_vf(|function| {
        let (space, mapping) = mapped(function, 8)?;
        let bytes = 8 * PAGE as u64;
        mapping.set_word(0, 77);
        same(
            "flat, with a size",
            raw::set_size(&space, bytes, FLAT),
            Err(Errno::INVAL),
        )?;
        same("its word", mapping.word(0), 77)?;
        space.set_size(0)?;
        same(
            "both flags",
            raw::set_size(&space, bytes, FLAT | RESERVE),
            Err(Errno::INVAL),
        )?;
        same(
            "half a page",
            raw::set_size(&space, 100, FLAT),
            Err(Errno::INVAL),
        )?;
        same(
            "too large",
            raw::set_size(&space, (1 << 40) + 4096, FLAT),
            Err(Errno::FBIG),
        )?;
        space.make_flat(bytes)?;
        space.write_all_at(&[9; PAGE], 0)?;
        // Mapped before it was flat, and after.
        let later = Mapping::part_of(&space, 0, 8 * PAGE, RIGHTS)?;
        for mapping in [&mapping, &later] {
            for page in [0, 7] {
                let load = signal_of(|| {
                    mapping.word(page * PAGE);
                })?;
                let store = signal_of(|| mapping.set_word(page * PAGE, 1))?;
                same("touching it", [load, store], [Some(Signal::BUS); 2])?;
            }
        }
        for size in [bytes + PAGE as u64, bytes - PAGE as u64] {
            for flags in [0, RESERVE, FLAT] {
                same(
                    "another size",
                    raw::set_size(&space, size, flags),
                    Err(Errno::INVAL),
                )?;
            }
        }
        same(
            "another way",
            raw::set_size(&space, bytes, 0),
            Err(Errno::INVAL),
        )?;
        same("the same again", raw::set_size(&space, bytes, FLAT), Ok(()))?;
        fails("discard", space.discard(0..bytes), Errno::OPNOTSUPP)?;
        for advice in [
            Advice::Prefer(Some(Side::Host)),
            Advice::WillNeed(Side::Host),
            Advice::DoNotNeed,
        ] {
            fails("advice", space.advise(0..bytes, advice), Errno::OPNOTSUPP)?;
        }
        let mut wanted = vec![0; 8 * PAGE];
        wanted[..PAGE].fill(9);
        model::equal("all of it", 0, &contents(&space, 8)?, &wanted)?;
        // And when it is not flat any more all of that works.
        space.set_size(0)?;
        space.set_size(bytes)?;
        model::zeros("as memory", 0, &later.copy(0..8 * PAGE))?;
        mapping.set_word(0, 5);
        same("a word of both", later.word(0), 5)?;
        space.discard(0..bytes)?;
        same("a discarded word", later.word(0), 0)
    })
}

pub(crate) fn nothing_of_a_flat_space_is_sent_away() -> Result<()> {
    on_pf_and_vf(|function| {
        let room = Space::open(function)?.info()?.free_bytes;
        let most = usize::try_from(room)? / PAGE;
        // All but 4 MiB, through which 12 MiB of another space have to go.
        let flat = flat(function, most - 1024)?;
        device_stamps(&flat, 0, most - 1024, 6)?;
        same("free", flat.info()?.free_bytes, 1024 * PAGE as u64)?;
        let used = flat.limits(Scope::Function)?.device_used_bytes;
        same("in use", used, ((most - 1024) * PAGE) as u64)?;
        let (other, mapping) = mapped(function, 3072)?;
        for generation in 1..3 {
            device_stamps(&other, 0, 3072, generation)?;
            same("words", device_finds(&other, 0, 3072, generation)?, 0)?;
        }
        model::equal("mapped", 0, &mapping.copy(0..PAGE), &stamped_bytes(0, 1, 2))?;
        ensure!(other.stats()?.evictions > 0, "nothing was sent away");
        let places = flat.residency(0..((most - 1024) * PAGE) as u64)?;
        same("pages on the device", places.device, (most - 1024) as u64)?;
        same("words", device_finds(&flat, 0, most - 1024, 6)?, 0)
    })
}

pub(crate) fn a_flat_space_that_ends_ends_its_jobs_and_is_anything_afterwards() -> Result<()> {
    on_pf_and_vf(|function| {
        let space = Space::open(function)?;
        let bytes = 600 * PAGE as u64;
        for round in 0..3 {
            space.make_flat(bytes)?;
            device_stamps(&space, 0, 600, 9)?;
            let job = space.submit(&slow(600, 3))?;
            let waiting = space.submit(&slow(600, 4))?;
            limit::until(20, "the job to begin", || {
                let mut word = [0; 8];
                space.read_exact_at(&mut word, 0)?;
                Ok([stamped(0, 3), stamped(0, 4)].contains(&u64::from_le_bytes(word)))
            })?;
            space.set_size(0)?;
            for job in [job, waiting] {
                same("its end", failure(&job)?, JobError::Range { offset: 0 })?;
            }
            let job = space.submit(&slow(600, 3))?;
            same(
                "one that comes late",
                failure(&job)?,
                JobError::Range { offset: 0 },
            )?;
            // Somebody else has its frames, and it must not find them.
            let heir = flat(function, 600)?;
            heir.write_all_at(&vec![0xc3; 600 * PAGE], 0)?;
            match round {
                0 => space.set_size(bytes)?,
                1 => space.reserve(bytes)?,
                _ => space.make_flat(bytes)?,
            }
            same("the sum of zeros", sum(&space, 600)?, 0)?;
            device_stamps(&space, 0, 600, 5)?;
            same("words", device_finds(&space, 0, 600, 5)?, 0)?;
            model::equal(
                "by read",
                0,
                &contents(&space, 600)?,
                &stamped_bytes(0, 600, 5),
            )?;
            model::equal(
                "the heir",
                0,
                &contents(&heir, 600)?,
                &vec![0xc3; 600 * PAGE],
            )?;
            space.set_size(0)?;
        }
        Ok(())
    })
}

pub(crate) fn a_reset_takes_all_of_a_flat_space() -> Result<()> {
    let function = vf(1)?;
    leaves_nothing(&function, || {
        let space = flat(&function, 600)?;
        device_stamps(&space, 0, 600, 1)?;
        let job = space.submit(&slow(600, 3))?;
        reset(function.address)?;
        same("the end of its job", failure(&job)?, JobError::Failed)?;
        same("lost pages", space.info()?.space_lost_pages, 600)?;
        // Others have its frames.
        let heir = flat(&function, 600)?;
        device_stamps(&heir, 0, 600, 2)?;
        fails("read", space.read_at(&mut [0; 8], 0), Errno::IO)?;
        fails("write", space.write_at(&[7; 2 * PAGE], 0), Errno::IO)?;
        let job = space.submit(&slow(600, 4))?;
        same("a job afterwards", failure(&job)?, JobError::Failed)?;
        same("words of others", device_finds(&heir, 0, 600, 2)?, 0)?;
        space.set_size(0)?;
        same("lost pages", space.info()?.space_lost_pages, 0)?;
        space.make_flat(64 * PAGE as u64)?;
        same("the sum", sum(&space, 64)?, 0)?;
        device_stamps(&space, 0, 64, 4)?;
        model::equal(
            "in use",
            0,
            &contents(&space, 64)?,
            &stamped_bytes(0, 64, 4),
        )
    })
}

pub(crate) fn a_flat_space_outlives_the_binding_empty() -> Result<()> {
    let function = vf(1)?;
    let space = flat(&function, 600)?;
    device_stamps(&space, 0, 600, 1)?;
    let job = space.submit(&slow(600, 3))?;
    unbind(function.address)?;
    same("the end of its job", failure(&job)?, JobError::Gone)?;
    fails("read", space.read_at(&mut [0; 8], 0), Errno::NODEV)?;
    fails("its end", space.set_size(0), Errno::NODEV)?;
    bind(function.address)?;
    drop(job);
    drop(space);
    leaves_nothing(&function, || {
        let space = flat(&function, 600)?;
        same("the sum", sum(&space, 600)?, 0)
    })
}
