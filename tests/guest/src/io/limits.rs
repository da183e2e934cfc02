// SPDX-License-Identifier: GPL-2.0

//! Sizes and discarding.

use anyhow::{ensure, Result};
use libvfetch::Space;
use rand::Rng;

use crate::support::{
    errno::{fails, gives, same, Errno},
    machine::{leaves_nothing, pf, reserved, space, vf, PAGE},
    model::{self, pattern, Model},
    raw::{self, RESERVE},
};

fn bytes_of(space: &Space) -> Result<u64> {
    Ok(space.info()?.space_bytes)
}

pub(crate) fn sizes_are_whole_pages() -> Result<()> {
    let space = space(&pf()?, 4 * PAGE as u64)?;
    // The library would refuse these itself.
    for bytes in [1, 511, 4095, 4097, 4 * 4096 - 1, u64::MAX, (1 << 63) + 1] {
        for flags in [0, RESERVE] {
            let result = raw::set_size(&space, bytes, flags);
            fails("no whole page", result, Errno::INVAL)?;
        }
        same("the size", bytes_of(&space)?, 4 * PAGE as u64)?;
    }
    gives("the same size", raw::set_size(&space, 4 * 4096, 0), ())?;
    gives("nothing", raw::set_size(&space, 0, 0), ())?;
    gives("nothing again", raw::set_size(&space, 0, 0), ())?;
    same("the size", bytes_of(&space)?, 0)
}

pub(crate) fn a_space_may_be_larger_than_device_memory() -> Result<()> {
    let function = vf(5)?;
    leaves_nothing(&function, || {
        let space = space(&function, 1 << 40)?;
        let before = space.info()?;
        same("the size", before.space_bytes, 1 << 40)?;
        same("what is free", before.free_bytes, before.memory_bytes)?;
        let places = [0, 5 << 30, (1 << 39) + 4093, (1 << 40) - 9];
        for (n, at) in (1..).zip(places) {
            space.write_all_at(&pattern(75, n, at, 9), at)?;
        }
        for (n, at) in (1..).zip(places) {
            let mut got = [0; 9];
            space.read_exact_at(&mut got, at)?;
            model::equal("sparse data", at, &got, &pattern(75, n, at, 9))?;
        }
        // Two of them in one page, one across two.
        same("pages", space.stats()?.device_pages, 5)?;
        space.set_size(1 << 39)?;
        same("pages", space.stats()?.device_pages, 2)
    })
}

pub(crate) fn a_space_is_reserved_from_its_first_size_to_its_last() -> Result<()> {
    let function = vf(5)?;
    leaves_nothing(&function, || {
        for (own, other) in [(0, RESERVE), (RESERVE, 0)] {
            let space = Space::open(&function)?;
            for _ in 0..2 {
                gives("a size", raw::set_size(&space, 4 * 4096, own), ())?;
                for bytes in [4096, 4 * 4096, 8 * 4096] {
                    let result = raw::set_size(&space, bytes, other);
                    fails("the other way", result, Errno::INVAL)?;
                    same("the size", bytes_of(&space)?, 4 * 4096)?;
                }
                gives("more", raw::set_size(&space, 8 * 4096, own), ())?;
                gives("less", raw::set_size(&space, 4096, own), ())?;
                gives(
                    "nothing, the other way",
                    raw::set_size(&space, 0, other),
                    (),
                )?;
            }
            gives(
                "a size the other way",
                raw::set_size(&space, 4096, other),
                (),
            )?;
        }
        let space = Space::open(&function)?;
        for flag in (2..32).map(|bit| 1 << bit) {
            let result = raw::set_size(&space, 4096, flag);
            fails("an unknown flag", result, Errno::INVAL)?;
        }
        Ok(())
    })
}

pub(crate) fn sizes_beyond_reason_are_refused() -> Result<()> {
    let space = space(&pf()?, 4 * PAGE as u64)?;
    space.write_all_at(&[1; 8], 0)?;
    let before = space.info()?;
    for bytes in [
        (1 << 40) + 4096,
        1 << 44,
        (1 << 44) + 4096,
        1 << 62,
        1 << 63,
        u64::MAX - 4095,
    ] {
        for flags in [0, RESERVE] {
            fails(
                &format!("{bytes:#x} bytes"),
                raw::set_size(&space, bytes, flags),
                Errno::FBIG,
            )?;
        }
        let after = space.info()?;
        same("the size", after.space_bytes, before.space_bytes)?;
        same("what is free", after.free_bytes, before.free_bytes)?;
    }
    let mut got = [0; 8];
    space.read_exact_at(&mut got, 0)?;
    same("the contents", got, [1; 8])?;
    let space = reserved(&pf()?, 4 * PAGE as u64)?;
    let before = space.info()?;
    for bytes in [1 << 32, 1 << 40] {
        let result = raw::set_size(&space, bytes, RESERVE);
        fails("more than device memory", result, Errno::NOSPC)?;
        let after = space.info()?;
        same("the size", after.space_bytes, before.space_bytes)?;
        same("what is free", after.free_bytes, before.free_bytes)?;
    }
    Ok(())
}

pub(crate) fn a_space_takes_all_that_is_free_and_no_more() -> Result<()> {
    let function = vf(1)?;
    leaves_nothing(&function, || {
        let space = Space::open(&function)?;
        let free = space.info()?.free_bytes;
        ensure!(free % PAGE as u64 == 0 && free > 0, "{free} bytes are free");
        fails(
            "a page more than is free",
            raw::set_size(&space, free + PAGE as u64, RESERVE),
            Errno::NOSPC,
        )?;
        same("what is free", space.info()?.free_bytes, free)?;
        space.reserve(free)?;
        same("what is free", space.info()?.free_bytes, 0)?;
        fails(
            "a page more",
            raw::set_size(&space, free + PAGE as u64, RESERVE),
            Errno::NOSPC,
        )?;
        let other = Space::open(&function)?;
        fails(
            "a page for another",
            raw::set_size(&other, PAGE as u64, RESERVE),
            Errno::NOSPC,
        )?;
        space.reserve(free - PAGE as u64)?;
        same("what is free", space.info()?.free_bytes, PAGE as u64)?;
        gives(
            "a page for another",
            raw::set_size(&other, PAGE as u64, RESERVE),
            (),
        )?;
        fails(
            "it back",
            raw::set_size(&space, free, RESERVE),
            Errno::NOSPC,
        )?;
        drop(other);
        gives("it back", raw::set_size(&space, free, RESERVE), ())?;
        space.reserve(0)?;
        same("what is free", space.info()?.free_bytes, free)
    })
}

pub(crate) fn spaces_share_the_memory_of_their_function() -> Result<()> {
    let (function, other) = (vf(1)?, vf(2)?);
    leaves_nothing(&function, || {
        let free = Space::open(&function)?.info()?.free_bytes;
        let elsewhere = Space::open(&other)?.info()?.free_bytes;
        let sizes = [free / 3, free / 5, PAGE as u64, 0].map(|b| b / PAGE as u64 * PAGE as u64);
        let spaces = sizes
            .iter()
            .map(|bytes| reserved(&function, *bytes))
            .collect::<Result<Vec<_>>>()?;
        let taken: u64 = sizes.iter().sum();
        for space in &spaces {
            let info = space.info()?;
            same("what is free", info.free_bytes, free - taken)?;
            fails(
                "more than that",
                raw::set_size(space, info.space_bytes + free - taken + 4096, RESERVE),
                Errno::NOSPC,
            )?;
        }
        same(
            "what is free elsewhere",
            Space::open(&other)?.info()?.free_bytes,
            elsewhere,
        )
    })
}

pub(crate) fn growing_and_shrinking_keeps_what_stays() -> Result<()> {
    let function = vf(2)?;
    leaves_nothing(&function, || {
        let space = Space::open(&function)?;
        let mut model = Model::new(71, 0);
        let mut random = model::random(71);
        for _ in 0..60 {
            // Around the ends of blocks, and anywhere.
            let pages = match random.random_range(0..3) {
                0 => 512 * random.random_range(0..4) + random.random_range(0..3),
                _ => random.random_range(0..1800usize),
            };
            space.set_size((pages * PAGE) as u64)?;
            model.resized(pages * PAGE);
            for _ in 0..6.min(pages) {
                let (offset, bytes) = model::range(&mut random, model.len(), 200_000);
                let data = model.next(offset, bytes);
                space.write_all_at(&data, offset as u64)?;
                model.wrote(offset, &data);
            }
            let mut got = vec![0xee; model.len()];
            space.read_exact_at(&mut got, 0)?;
            model.check(&format!("at {pages} pages"), 0, &got)?;
        }
        Ok(())
    })
}

pub(crate) fn promised_room_is_kept() -> Result<()> {
    let function = vf(3)?;
    leaves_nothing(&function, || {
        // Two spaces that have all of it between them, filled page by page in turn from both ends.
        let free = Space::open(&function)?.info()?.free_bytes;
        let half = free / 2 / PAGE as u64 * PAGE as u64;
        let (a, b) = (
            reserved(&function, half)?,
            reserved(&function, free - half)?,
        );
        let pages = half / PAGE as u64;
        for page in (0..pages).step_by(7).chain((0..pages).rev().step_by(3)) {
            let at = page * PAGE as u64;
            a.write_all_at(&[1; 3], at + 5)?;
            b.write_all_at(&[2; 3], at + 4090)?;
        }
        let data = vec![3; 1 << 20];
        for (space, bytes) in [(&a, half), (&b, free - half)] {
            let mut at = 0;
            while at < bytes {
                let piece = data.len().min(usize::try_from(bytes - at)?);
                gives(
                    "a write within the size",
                    space.write_at(data.get(..piece).unwrap_or_default(), at),
                    piece,
                )?;
                at += piece as u64;
            }
        }
        same("pages", a.stats()?.device_pages * PAGE as u64, free)
    })
}

pub(crate) fn discard_refuses_what_is_no_part_of_the_space() -> Result<()> {
    let space = space(&pf()?, 8 * PAGE as u64)?;
    let data = pattern(72, 1, 0, 8 * PAGE);
    space.write_all_at(&data, 0)?;
    let end = 8 * 4096;
    for (offset, bytes) in [
        (1, 4096),
        (4095, 4096),
        (0, 1),
        (0, 4097),
        (2048, 2048),
        (end, 1),
    ] {
        fails(
            &format!("{bytes} bytes at {offset}"),
            raw::discard(&space, offset, bytes),
            Errno::INVAL,
        )?;
    }
    for (offset, bytes) in [
        (end, 4096),
        (0, end + 4096),
        (end - 4096, 8192),
        (1 << 40, 4096),
        (u64::MAX - 4095, 4096),
        (u64::MAX - 4095, 8192),
        (4096, u64::MAX - 4095),
        (1 << 63, 1 << 63),
    ] {
        fails(
            &format!("{bytes:#x} bytes at {offset:#x}"),
            raw::discard(&space, offset, bytes),
            Errno::RANGE,
        )?;
    }
    gives("nothing at the start", raw::discard(&space, 0, 0), ())?;
    gives("nothing at the end", raw::discard(&space, end, 0), ())?;
    fails(
        "nothing beyond the end",
        raw::discard(&space, end + 4096, 0),
        Errno::RANGE,
    )?;
    let mut got = vec![0; 8 * PAGE];
    space.read_exact_at(&mut got, 0)?;
    model::equal("after all that", 0, &got, &data)
}

pub(crate) fn discarding_gives_zeros_and_keeps_the_size() -> Result<()> {
    let function = vf(4)?;
    leaves_nothing(&function, || {
        let pages = 1600;
        let space = reserved(&function, (pages * PAGE) as u64)?;
        let free = space.info()?.free_bytes;
        let mut model = Model::new(73, pages * PAGE);
        let mut random = model::random(73);
        for _ in 0..40 {
            let (offset, bytes) = model::range(&mut random, model.len(), 2 << 20);
            let data = model.next(offset, bytes);
            space.write_all_at(&data, offset as u64)?;
            model.wrote(offset, &data);
            let first = random.random_range(0..pages);
            let outer = random.random_range(first..=pages);
            let (from, to) = (first * PAGE, outer * PAGE);
            space.discard(from as u64..to as u64)?;
            model.discarded(from, to - from);
            let mut got = vec![0xee; model.len()];
            space.read_exact_at(&mut got, 0)?;
            model.check("after a discard", 0, &got)?;
            same("what is free", space.info()?.free_bytes, free)?;
        }
        let before = space.stats()?;
        space.discard(0..(pages * PAGE) as u64)?;
        let after = space.stats()?;
        same("pages", after.device_pages, 0)?;
        same(
            "scrubbed",
            after.scrubbed_bytes - before.scrubbed_bytes,
            before.device_pages * PAGE as u64,
        )?;
        same("the size", bytes_of(&space)?, (pages * PAGE) as u64)
    })
}
