// SPDX-License-Identifier: GPL-2.0

//! A mapping as the buffer of a disk that reads and writes the pages themselves: `/dev/ram0` with `O_DIRECT`.

use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt, thread};

use anyhow::{anyhow, Context, Result};
use libvfetch::stamped;
use rustix::fs::OFlags;

use super::{device_finds, device_stamps, mapped, on_pf_and_vf, stamped_bytes, WORDS};
use crate::support::{
    errno::{same, Errno},
    machine::PAGE,
    model,
};

/// A disk in memory, past all caches.
pub(crate) fn disk() -> Result<std::fs::File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::DIRECT.bits().try_into()?)
        .open("/dev/ram0")
        .context("/dev/ram0")
}

pub(crate) fn direct_io_moves_data_to_and_from_a_mapping() -> Result<()> {
    on_pf_and_vf(|function| {
        let pages = 560;
        let (space, mapping) = mapped(function, pages)?;
        let disk = disk()?;
        for generation in 1..5 {
            // Around the end of a block: the device's, the host's, nobody's.
            let (first, count) = (500, 30);
            device_stamps(&space, first, count, generation)?;
            mapping.set_word(510 * PAGE, mapping.word(510 * PAGE));
            let area = mapping.area(first * PAGE, count * PAGE);
            same("a direct write", area.pwrite(&disk, 8192), Ok(count * PAGE))?;
            space.discard((first * PAGE) as u64..((first + 20) * PAGE) as u64)?;
            device_stamps(&space, first + 25, 5, 99)?;
            same("a direct read", area.pread(&disk, 8192), Ok(count * PAGE))?;
            same(
                "words by the device",
                device_finds(&space, first, count, generation)?,
                0,
            )?;
            let got = mapping.copy(first * PAGE..(first + count) * PAGE);
            model::equal(
                "by the mapping",
                0,
                &got,
                &stamped_bytes(first, count, generation),
            )?;
            let mut got = vec![0; count * PAGE];
            space.read_exact_at(&mut got, (first * PAGE) as u64)?;
            model::equal("by read", 0, &got, &stamped_bytes(first, count, generation))?;
        }
        let beyond = mapping.area(pages * PAGE, PAGE).pread(&disk, 0);
        same("a direct read to nowhere", beyond, Err(Errno::FAULT))
    })
}

/// The device's accesses and the disk's go to the same pages, in different halves of them.
pub(crate) fn direct_io_and_jobs_share_pages() -> Result<()> {
    const PAGES: usize = 16;
    const ROUNDS: u64 = 60;
    on_pf_and_vf(|function| {
        let (space, mapping) = mapped(function, 2 * PAGES)?;
        let disk = disk()?;
        // What the disk gives: its first half of every page is read over and over.
        let data = stamped_bytes(0, PAGES, 7);
        mapping.fill(0, &data);
        same(
            "a direct write",
            mapping.area(0, PAGES * PAGE).pwrite(&disk, 0),
            Ok(PAGES * PAGE),
        )?;
        mapping.fill(0, &vec![0; PAGES * PAGE]);
        thread::scope(|scope| -> Result<()> {
            let reader = scope.spawn(|| -> Result<()> {
                for round in 0..ROUNDS {
                    for page in 0..PAGES {
                        let area = mapping.area(page * PAGE, 2048);
                        same(
                            "a direct read",
                            area.pread(&disk, (page * PAGE) as u64),
                            Ok(2048),
                        )?;
                        let word = mapping.word(page * PAGE + 8 * (usize::try_from(round)? % 256));
                        let wanted = stamped((page * WORDS) as u64 + round % 256, 7);
                        same("a word from the disk", word, wanted)?;
                    }
                }
                Ok(())
            });
            for generation in 1..=ROUNDS {
                for page in 0..PAGES {
                    let stamp = libvfetch::Stamp {
                        output: (page * PAGE + 2048) as u64,
                        n: 256,
                        first: (page * WORDS + 256) as u64,
                        generation,
                    };
                    space.submit(&stamp.into())?.wait()?;
                    let word = mapping.word(page * PAGE + 2048);
                    same(
                        "a stamped word",
                        word,
                        stamped((page * WORDS + 256) as u64, generation),
                    )?;
                }
            }
            reader.join().map_err(|_| anyhow!("a panic"))?
        })?;
        for page in 0..PAGES {
            let mut wanted = stamped_bytes(page, 1, 7);
            wanted[2048..].copy_from_slice(&stamped_bytes(page, 1, ROUNDS)[2048..]);
            model::equal(
                "a page",
                (page * PAGE) as u64,
                &mapping.copy(page * PAGE..(page + 1) * PAGE),
                &wanted,
            )?;
        }
        Ok(())
    })
}
