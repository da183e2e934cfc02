// SPDX-License-Identifier: GPL-2.0

//! What can be done with mappings.

use anyhow::{ensure, Result};
use libvfetch::{stamped, Space};
use rustix::{
    fs::OFlags,
    mm::{MapFlags, MprotectFlags, ProtFlags},
    process::Signal,
};

use super::{device_finds, device_stamps, mapped, on_pf_and_vf, stamped_bytes, RIGHTS, WORDS};
use crate::support::{
    buffer::Mapping,
    errno::{fails, same, Errno},
    machine::{open_with, space, PAGE},
    model::{self, pattern},
    process::{fork, signal_of},
};

/// The errno that a mapping is refused with.
fn refused(result: Result<Mapping>) -> Option<Errno> {
    result.err().and_then(|error| error.downcast().ok())
}

pub(crate) fn what_was_never_written_is_zeros() -> Result<()> {
    on_pf_and_vf(|function| {
        // Frames and host pages that held something.
        let (old, mapping) = mapped(function, 600)?;
        mapping.fill(0, &pattern(231, 1, 0, 300 * PAGE));
        device_stamps(&old, 300, 300, 1)?;
        device_finds(&old, 0, 100, 0)?;
        drop((old, mapping));
        let (space, mapping) = mapped(function, 600)?;
        model::zeros("by the mapping", 0, &mapping.copy(0..100 * PAGE))?;
        let mut got = vec![0xee; 100 * PAGE];
        space.read_exact_at(&mut got, 100 * PAGE as u64)?;
        model::zeros("by read", 100 * PAGE as u64, &got)?;
        let sum = libvfetch::Reduce {
            input: 200 * PAGE as u64,
            n: (400 * WORDS) as u64,
        };
        same("the sum by a job", space.submit(&sum.into())?.wait()?, 0)?;
        model::zeros("after the job", 0, &mapping.copy(0..600 * PAGE))
    })
}

pub(crate) fn a_mapping_keeps_the_space() -> Result<()> {
    on_pf_and_vf(|function| {
        let (space, mapping) = mapped(function, 20)?;
        device_stamps(&space, 0, 20, 3)?;
        drop(space);
        // Fetched without the file.
        let wanted = stamped_bytes(0, 20, 3);
        model::equal("after close", 0, &mapping.copy(0..20 * PAGE), &wanted)?;
        mapping.set_word(8, 5);
        same("a word", mapping.word(8), 5)
    })
}

pub(crate) fn a_forked_child_shares_the_pages() -> Result<()> {
    on_pf_and_vf(|function| {
        let (space, mapping) = mapped(function, 12)?;
        let data = pattern(232, 1, 0, 4 * PAGE);
        mapping.fill(0, &data);
        device_stamps(&space, 4, 4, 7)?;
        // The host's pages, the device's, and nobody's.
        let (to_child, to_parent) = (8 * PAGE, 8 * PAGE + 8);
        let wait_for = |offset: usize, value: u64| {
            while mapping.word(offset) != value {
                std::thread::yield_now();
            }
        };
        let mut child = fork(|| {
            let mut wanted = data.clone();
            wanted.extend(stamped_bytes(4, 4, 7));
            if mapping.copy(0..8 * PAGE) != wanted {
                return 1;
            }
            mapping.set_word(to_parent, 1);
            wait_for(to_child, 1);
            // What the parent has written since, by the device too.
            if mapping.word(3 * PAGE) != 77
                || mapping.copy(5 * PAGE..6 * PAGE) != stamped_bytes(5, 1, 8)
            {
                return 2;
            }
            if space.write_all_at(&[9; PAGE], PAGE as u64).is_err() {
                return 3;
            }
            if device_stamps(&space, 6, 1, 9).is_err() {
                return 4;
            }
            mapping.set_word(9 * PAGE, 99);
            0
        })?;
        while mapping.word(to_parent) != 1 {
            // A child that has failed does not answer: its status is told below.
            if child.has_ended()? {
                break;
            }
        }
        mapping.set_word(3 * PAGE, 77);
        device_stamps(&space, 5, 1, 8)?;
        mapping.set_word(to_child, 1);
        child.succeeds(30)?;
        model::equal(
            "the child's write",
            0,
            &mapping.copy(PAGE..2 * PAGE),
            &[9; PAGE],
        )?;
        let wanted = stamped_bytes(6, 1, 9);
        model::equal(
            "the child's job",
            0,
            &mapping.copy(6 * PAGE..7 * PAGE),
            &wanted,
        )?;
        same("the child's store", mapping.word(9 * PAGE), 99)
    })
}

pub(crate) fn a_mapping_does_not_grow_and_is_in_no_core_dump() -> Result<()> {
    on_pf_and_vf(|function| {
        let (_space, mapping) = mapped(function, 8)?;
        let flags = mapping.flags()?;
        for flag in ["sh", "de", "dd"] {
            ensure!(flags.iter().any(|one| one == flag), "{flag}: {flags:?}");
        }
        fails("growing", mapping.grown(16 * PAGE).map(drop), Errno::FAULT)
    })
}

pub(crate) fn a_moved_mapping_is_the_same_memory() -> Result<()> {
    on_pf_and_vf(|function| {
        let (space, mapping) = mapped(function, 700)?;
        mapping.fill(500 * PAGE, &stamped_bytes(500, 20, 1));
        let old = mapping.all().address();
        let mapping = mapping.moved()?;
        let wanted = stamped_bytes(500, 20, 1);
        model::equal("moved", 0, &mapping.copy(500 * PAGE..520 * PAGE), &wanted)?;
        // The device takes the pages from the new place, and only from there are they seen.
        device_stamps(&space, 505, 10, 2)?;
        for page in 505..515 {
            let word = stamped((page * WORDS) as u64, 2);
            same("a word", mapping.word(page * PAGE), word)?;
        }
        mapping.set_word(510 * PAGE, 5);
        same("words", device_finds(&space, 505, 10, 2)?, 1)?;
        let gone = signal_of(|| {
            // SAFETY: A child does it, and it is what it dies of.
            #[allow(unsafe_code)]
            unsafe {
                old.read_volatile();
            }
        })?;
        same("the old place", gone, Some(Signal::SEGV))
    })
}

pub(crate) fn what_is_left_of_a_mapping_works() -> Result<()> {
    on_pf_and_vf(|function| {
        let (space, mapping) = mapped(function, 40)?;
        let data = stamped_bytes(0, 40, 1);
        mapping.fill(0, &data);
        mapping.unmap(10 * PAGE..20 * PAGE)?;
        for page in [10, 19] {
            let signal = signal_of(|| mapping.set_word(page * PAGE, 1))?;
            same("a hole", signal, Some(Signal::SEGV))?;
        }
        for page in [9, 20] {
            mapping.set_word(page * PAGE, mapping.word(page * PAGE));
        }
        // The space has no hole.
        same("words", device_finds(&space, 0, 40, 1)?, 0)?;
        device_stamps(&space, 0, 40, 2)?;
        let again = Mapping::part_of(&space, 0, 40 * PAGE, RIGHTS)?;
        model::equal(
            "all of it",
            0,
            &again.copy(0..40 * PAGE),
            &stamped_bytes(0, 40, 2),
        )?;
        let (before, after) = (mapping.word(9 * PAGE + 8), mapping.word(20 * PAGE));
        same("before the hole", before, stamped(9 * WORDS as u64 + 1, 2))?;
        same("after the hole", after, stamped(20 * WORDS as u64, 2))
    })
}

pub(crate) fn rights_are_taken_and_given() -> Result<()> {
    on_pf_and_vf(|function| {
        let (space, mapping) = mapped(function, 8)?;
        mapping.fill(0, &stamped_bytes(0, 8, 1));
        let write = |page: usize| signal_of(|| mapping.set_word(page * PAGE, 5));
        let read = |page: usize| {
            signal_of(|| {
                mapping.word(page * PAGE);
            })
        };
        // A page that has been written is not writable after that, nor is one that comes from the device.
        mapping.protect(2 * PAGE..6 * PAGE, MprotectFlags::READ)?;
        device_stamps(&space, 4, 4, 2)?;
        for page in [2, 3, 4, 5] {
            same("a store", write(page)?, Some(Signal::SEGV))?;
            same("a load", read(page)?, None)?;
        }
        for page in [1, 6] {
            same("a store beside it", write(page)?, None)?;
        }
        let word = |page: usize| mapping.word(page * PAGE);
        same("a refused store", word(3), stamped(3 * WORDS as u64, 1))?;
        same("a refused store", word(5), stamped(5 * WORDS as u64, 2))?;
        same("a store beside it", (word(1), word(6)), (5, 5))?;
        // The device writes what the process may not.
        device_stamps(&space, 2, 2, 3)?;
        same("a stamped word", word(3), stamped(3 * WORDS as u64, 3))?;
        mapping.protect(0..8 * PAGE, MprotectFlags::empty())?;
        same("a load without rights", read(3)?, Some(Signal::SEGV))?;
        mapping.protect(0..8 * PAGE, MprotectFlags::READ | MprotectFlags::WRITE)?;
        for page in 0..8 {
            mapping.set_word(page * PAGE + 16, page as u64);
            same("a store", mapping.word(page * PAGE + 16), page as u64)?;
        }
        same("what was there", word(5), stamped(5 * WORDS as u64, 2))?;
        // Not all at once, and executable never matters.
        let part = Mapping::part_of(&space, 0, PAGE, ProtFlags::READ)?;
        part.protect(0..PAGE, MprotectFlags::READ | MprotectFlags::WRITE)?;
        part.set_word(0, 6);
        same("a store through the other", word(0), 6)
    })
}

pub(crate) fn advice_changes_no_contents() -> Result<()> {
    on_pf_and_vf(|function| {
        let pages = 40;
        let (space, mapping) = mapped(function, pages)?;
        for advice in [
            libc::MADV_DONTNEED,
            libc::MADV_NORMAL,
            libc::MADV_RANDOM,
            libc::MADV_SEQUENTIAL,
            libc::MADV_WILLNEED,
            libc::MADV_COLD,
            libc::MADV_PAGEOUT,
            libc::MADV_POPULATE_READ,
            libc::MADV_POPULATE_WRITE,
            libc::MADV_DONTFORK,
            libc::MADV_DOFORK,
            libc::MADV_FREE,
            libc::MADV_REMOVE,
            libc::MADV_HUGEPAGE,
            libc::MADV_NOHUGEPAGE,
            libc::MADV_MERGEABLE,
        ] {
            mapping.fill(0, &stamped_bytes(0, pages, 1));
            device_stamps(&space, 10, 20, 1)?;
            // Whether it is taken is the kernel's to say.
            let taken = mapping.advise_part(5 * PAGE..25 * PAGE, advice);
            let what = format!("after advice {advice} ({taken:?})");
            let got = mapping.copy(0..pages * PAGE);
            model::equal(&what, 0, &got, &stamped_bytes(0, pages, 1))?;
            same(&what, device_finds(&space, 0, pages, 1)?, 0)?;
            mapping.set_word(6 * PAGE, 1);
            same(&what, device_finds(&space, 0, pages, 1)?, 1)?;
        }
        // Populated pages are there: the touches cost no faults.
        device_stamps(&space, 0, pages, 2)?;
        mapping
            .advise_part(0..pages * PAGE, libc::MADV_POPULATE_READ)
            .map_err(|error| anyhow::anyhow!("MADV_POPULATE_READ: {error:?}"))?;
        let before = space.stats()?.host_faults;
        for page in 0..pages {
            mapping.word(page * PAGE);
        }
        same(
            "faults on populated pages",
            space.stats()?.host_faults,
            before,
        )
    })
}

pub(crate) fn a_file_opened_for_reading_is_not_written() -> Result<()> {
    on_pf_and_vf(|function| {
        let file = open_with(function, true, false, OFlags::empty())?;
        let space = Space::from_file(file, "the node")?;
        let writable = Mapping::part_of(&space, 0, PAGE, RIGHTS);
        same(
            "a mapping for writing",
            refused(writable),
            Some(Errno::ACCESS),
        )?;
        fails("write", space.write_at(&[1], 0), Errno::BADF)?;
        let mapping = Mapping::part_of(&space, 0, PAGE, ProtFlags::READ)?;
        let more = mapping.protect(0..PAGE, MprotectFlags::READ | MprotectFlags::WRITE);
        let error = more.err().and_then(|error| error.downcast().ok());
        same("mprotect for writing", error, Some(Errno::ACCESS))?;
        let write_only = open_with(function, false, true, OFlags::empty())?;
        let mapping = Mapping::part_of(&write_only, 0, PAGE, ProtFlags::READ);
        same(
            "a mapping of a file for writing",
            refused(mapping),
            Some(Errno::ACCESS),
        )?;
        let both = open_with(function, true, true, OFlags::empty())?;
        for (rights, private) in [(ProtFlags::READ, true), (RIGHTS, true), (RIGHTS, false)] {
            if private {
                let mapping = Mapping::of(&both, PAGE, rights, MapFlags::PRIVATE);
                same("a private mapping", refused(mapping), Some(Errno::INVAL))?;
            } else {
                Mapping::of(&both, PAGE, rights, MapFlags::SHARED)?;
            }
        }
        Ok(())
    })
}

pub(crate) fn beyond_the_end_is_sigbus() -> Result<()> {
    on_pf_and_vf(|function| {
        let space = space(function, 4 * PAGE as u64)?;
        let mapping = Mapping::part_of(&space, 0, 1000 * PAGE, RIGHTS)?;
        let load = |page: usize| {
            signal_of(|| {
                mapping.word(page * PAGE + PAGE - 8);
            })
        };
        let store = |page: usize| signal_of(|| mapping.set_word(page * PAGE, 1));
        same("a load of the last page", load(3)?, None)?;
        same("a store to the last page", store(3)?, None)?;
        for page in [4, 5, 511, 512, 999] {
            same("a load beyond", load(page)?, Some(Signal::BUS))?;
            same("a store beyond", store(page)?, Some(Signal::BUS))?;
        }
        // It is a buffer as far as it goes.
        let pipe = rustix::pipe::pipe()?;
        let data = mapping.copy(3 * PAGE..4 * PAGE);
        let area = mapping.area(3 * PAGE, 2 * PAGE);
        same("bytes of it in a pipe", area.write(&pipe.1)?, PAGE)?;
        let mut got = vec![0; PAGE];
        same(
            "bytes from the pipe",
            rustix::io::read(&pipe.0, &mut got)?,
            PAGE,
        )?;
        model::equal("through the pipe", 0, &got, &data)?;
        let beyond = mapping.area(5 * PAGE, PAGE).write(&pipe.1);
        same("bytes beyond in a pipe", beyond, Err(Errno::FAULT))?;
        space.set_size(600 * PAGE as u64)?;
        same("a load, the space grown", load(599)?, None)?;
        same("a store, the space grown", store(512)?, None)?;
        same("a load beyond the new end", load(600)?, Some(Signal::BUS))?;
        space.set_size(0)?;
        same("a load of nothing", load(0)?, Some(Signal::BUS))
    })
}

pub(crate) fn a_space_that_shrinks_and_grows_shows_zeros() -> Result<()> {
    on_pf_and_vf(|function| {
        let pages = 1100;
        let (space, mapping) = mapped(function, pages)?;
        let other = Mapping::part_of(&space, 400 * PAGE, 700 * PAGE, RIGHTS)?;
        for (round, end) in (1..).zip([1050, 1024, 600, 513, 512, 511, 1]) {
            mapping.fill(0, &stamped_bytes(0, pages, round));
            // Some of the cut is the device's.
            device_stamps(&space, end, (pages - end) / 2, round)?;
            device_stamps(&space, end - 1, 1, round)?;
            space.set_size((end * PAGE) as u64)?;
            for page in [end, pages - 1] {
                let load = signal_of(|| {
                    mapping.word(page * PAGE);
                })?;
                same("a page cut off", load, Some(Signal::BUS))?;
            }
            space.set_size((pages * PAGE) as u64)?;
            let kept = stamped_bytes(0, end, round);
            model::equal("what was kept", 0, &mapping.copy(0..end * PAGE), &kept)?;
            let grown = mapping.copy(end * PAGE..pages * PAGE);
            model::zeros("what was grown", (end * PAGE) as u64, &grown)?;
            if end > 400 {
                let word = other.word((end - 400) * PAGE);
                same("a word of the other mapping", word, 0)?;
            }
        }
        Ok(())
    })
}

pub(crate) fn discarded_pages_are_zeros_in_all_mappings() -> Result<()> {
    on_pf_and_vf(|function| {
        let pages = 560;
        let (space, mapping) = mapped(function, pages)?;
        let other = Mapping::part_of(&space, 500 * PAGE, 60 * PAGE, RIGHTS)?;
        for round in 1..6 {
            let mut wanted = stamped_bytes(0, pages, round);
            mapping.fill(0, &wanted);
            device_stamps(&space, 505, 8, round)?;
            // Mapped by both, or the device's.
            let (from, to) = (500 + 2 * usize::try_from(round)?, 540);
            same("a word", other.word(30 * PAGE), mapping.word(530 * PAGE))?;
            space.discard((from * PAGE) as u64..(to * PAGE) as u64)?;
            wanted[from * PAGE..to * PAGE].fill(0);
            let got = other.copy(0..60 * PAGE);
            model::equal("the other mapping", 0, &got, &wanted[500 * PAGE..])?;
            model::equal("the mapping", 0, &mapping.copy(0..pages * PAGE), &wanted)?;
            mapping.set_word(from * PAGE, round);
            same("a store after it", other.word((from - 500) * PAGE), round)?;
        }
        Ok(())
    })
}

pub(crate) fn the_largest_space_is_mapped_sparsely() -> Result<()> {
    on_pf_and_vf(|function| {
        let bytes = 1 << 40;
        let space = space(function, bytes as u64)?;
        let mapping = Mapping::part_of(&space, 0, bytes, RIGHTS)?;
        let places = [0, bytes / 3 / PAGE * PAGE, bytes / 2, bytes - PAGE];
        for (n, at) in (1..).zip(places) {
            mapping.set_word(at + 8, n);
        }
        for (n, at) in (1..).zip(places) {
            let sum = libvfetch::Reduce {
                input: at as u64,
                n: WORDS as u64,
            };
            same("the sum by a job", space.submit(&sum.into())?.wait()?, n)?;
            same("a word", mapping.word(at + 8), n)?;
            let mut got = [0; 8];
            space.read_exact_at(&mut got, at as u64 + 8)?;
            same("a word by read", u64::from_le_bytes(got), n)?;
        }
        let stats = space.stats()?;
        // What is around a fault may be brought along, but not blocks away.
        ensure!(
            stats.device_pages <= 4 * 512,
            "{} pages are the device's",
            stats.device_pages
        );
        Ok(())
    })
}
