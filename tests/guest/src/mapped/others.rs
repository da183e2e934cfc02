// SPDX-License-Identifier: GPL-2.0

//! Mappings that are used by the kernel, or by other processes, in place of the one that has them.
#![allow(unsafe_code)]

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::FileExt,
    },
};

use anyhow::{bail, ensure, Result};
use io_uring::{opcode, types::Fd, IoUring};
use libvfetch::stamped;
use rustix::mm::ProtFlags;

use super::{device_finds, device_stamps, mapped, on_pf_and_vf, stamped_bytes, RIGHTS, WORDS};
use crate::{
    io::uring::{finish, push, request},
    support::{
        buffer::{Area, Mapping},
        errno::{same, Errno},
        limit::until,
        machine::{pf, vf, PAGE},
        model::{self, pattern, Model},
        process::fork,
    },
};

/// The errno of the call that has just failed.
fn errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// `process_vm_readv` or `process_vm_writev` of one piece.
fn process_vm(pid: i32, write: bool, local: &mut [u8], remote: Area) -> Result<usize, Errno> {
    let here = libc::iovec {
        iov_base: local.as_mut_ptr().cast(),
        iov_len: local.len(),
    };
    let there = libc::iovec {
        iov_base: remote.address().cast(),
        iov_len: local.len(),
    };
    // SAFETY: `local` is ours for the call; nothing refers to what is at `remote`, an area of a mapping.
    let moved = unsafe {
        if write {
            libc::process_vm_writev(pid, &here, 1, &there, 1, 0)
        } else {
            libc::process_vm_readv(pid, &here, 1, &there, 1, 0)
        }
    };
    usize::try_from(moved).map_err(|_| errno())
}

pub(crate) fn proc_mem_and_process_vm_see_the_pages() -> Result<()> {
    on_pf_and_vf(|function| {
        let pages = 24;
        let (space, mapping) = mapped(function, pages)?;
        let pid = i32::try_from(std::process::id())?;
        let mut memory = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/proc/self/mem")?;
        let at = |offset: usize| mapping.area(offset, 0).address() as u64;
        for round in 0..3 {
            // The device's, the host's, and nobody's.
            device_stamps(&space, 0, 12, round)?;
            mapping.fill(8 * PAGE, &stamped_bytes(8, 8, round));
            let mut wanted = stamped_bytes(0, 16, round);
            wanted.resize(pages * PAGE, 0);
            let mut got = vec![0xee; pages * PAGE];
            memory.seek(SeekFrom::Start(at(0)))?;
            memory.read_exact(&mut got)?;
            model::equal("/proc/self/mem", 0, &got, &wanted)?;
            device_finds(&space, 0, 16, round)?;
            got.fill(0xee);
            same(
                "process_vm_readv",
                process_vm(pid, false, &mut got, mapping.all())?,
                pages * PAGE,
            )?;
            model::equal("process_vm_readv", 0, &got, &wanted)?;

            device_finds(&space, 0, 16, round)?;
            let mut data = stamped_bytes(3, 6, round + 50);
            memory.write_all_at(&data, at(3 * PAGE))?;
            same(
                "words by /proc/self/mem",
                device_finds(&space, 3, 6, round + 50)?,
                0,
            )?;
            data = stamped_bytes(2, 6, round + 60);
            let area = mapping.area(2 * PAGE, data.len());
            same(
                "process_vm_writev",
                process_vm(pid, true, &mut data, area)?,
                6 * PAGE,
            )?;
            same(
                "words by process_vm_writev",
                device_finds(&space, 2, 6, round + 60)?,
                0,
            )?;
            let mut got = vec![0; 6 * PAGE];
            space.read_exact_at(&mut got, 2 * PAGE as u64)?;
            model::equal("read after process_vm_writev", 0, &got, &data)?;
            space.discard(0..(pages * PAGE) as u64)?;
        }
        // A child's, which is another mapping of it.
        device_stamps(&space, 0, 4, 9)?;
        let mut child = fork(|| {
            while mapping.word(20 * PAGE) == 0 {
                std::thread::yield_now();
            }
            u8::from(mapping.word(PAGE) != 5)
        })?;
        let pid = child.pid().as_raw_nonzero().get();
        let mut got = vec![0; 4 * PAGE];
        same(
            "of a child",
            process_vm(pid, false, &mut got, mapping.all())?,
            4 * PAGE,
        )?;
        model::equal("of a child", 0, &got, &stamped_bytes(0, 4, 9))?;
        let mut five = 5u64.to_le_bytes();
        process_vm(pid, true, &mut five, mapping.area(PAGE, 8))?;
        mapping.set_word(20 * PAGE, 1);
        child.succeeds(30)?;
        same("a word written to the child", mapping.word(PAGE), 5)?;
        // Where it may only be read nobody else writes it either.
        let looker = Mapping::part_of(&space, 0, PAGE, ProtFlags::READ)?;
        let pid = i32::try_from(std::process::id())?;
        let refused = process_vm(pid, true, &mut five, looker.area(0, 8));
        same(
            "process_vm_writev without rights",
            refused,
            Err(Errno::FAULT),
        )
    })
}

pub(crate) fn a_debugger_sees_and_changes_the_pages() -> Result<()> {
    on_pf_and_vf(|function| {
        let (space, mapping) = mapped(function, 4)?;
        device_stamps(&space, 0, 4, 6)?;
        let mut child = fork(|| {
            // SAFETY: They concern this process only.
            unsafe {
                libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
                libc::raise(libc::SIGSTOP);
            }
            u8::from(mapping.word(PAGE + 8) != 0x1234)
        })?;
        let pid = child.pid().as_raw_nonzero().get();
        let mut status = 0;
        // SAFETY: The child is ours, and traced; the addresses are the child's, of whom it is the debugger's to ask.
        unsafe {
            ensure!(libc::waitpid(pid, &mut status, 0) == pid, "no child");
            ensure!(libc::WIFSTOPPED(status), "status {status:#x}");
            for page in 0..4 {
                let at = mapping.area(page * PAGE + 16, 8).address();
                *libc::__errno_location() = 0;
                let word = libc::ptrace(libc::PTRACE_PEEKDATA, pid, at, 0);
                ensure!(
                    word != -1 || *libc::__errno_location() == 0,
                    "PEEKDATA: {:?}",
                    errno()
                );
                let wanted = stamped((page * WORDS + 2) as u64, 6);
                same("a word", u64::from_ne_bytes(word.to_ne_bytes()), wanted)?;
            }
            device_finds(&space, 0, 4, 6)?;
            let at = mapping.area(PAGE + 8, 8).address();
            if libc::ptrace(libc::PTRACE_POKEDATA, pid, at, 0x1234) != 0 {
                bail!("POKEDATA: {:?}", errno());
            }
            libc::ptrace(libc::PTRACE_DETACH, pid, 0, 0);
        }
        child.succeeds(30)?;
        same("words changed", device_finds(&space, 0, 4, 6)?, 1)?;
        same("the word", mapping.word(PAGE + 8), 0x1234)
    })
}

pub(crate) fn a_mapping_is_a_buffer_of_its_own_space() -> Result<()> {
    on_pf_and_vf(|function| {
        let pages = 64;
        let (space, mapping) = mapped(function, pages)?;
        let mut model = Model::new(240, pages * PAGE);
        let data = model.next(0, pages * PAGE);
        mapping.fill(0, &data);
        model.wrote(0, &data);
        for (from, to, bytes) in [
            (0, 32 * PAGE, 8 * PAGE),
            (5, 40 * PAGE + 77, 9000),
            (20 * PAGE, PAGE, 3 * PAGE),
            (100, 100 + 7 * PAGE, 4096),
            // To where it is.
            (8 * PAGE, 8 * PAGE, 4 * PAGE),
            (17 * PAGE + 9, 17 * PAGE + 9, 100),
        ] {
            for (write, devices) in [
                (false, 0),
                (false, 1),
                (false, 2),
                (true, 0),
                (true, 1),
                (true, 2),
                (true, 3),
            ] {
                // Whose the two parts are.
                for (bit, at) in [(1, from), (2, to)] {
                    if devices & bit != 0 {
                        device_finds(&space, at / PAGE, bytes.div_ceil(PAGE) + 1, 0)?;
                    } else {
                        mapping.copy(at..at + bytes);
                    }
                }
                let what = format!(
                    "{bytes} bytes from {from} to {to}, write: {write}, the device's: {devices}"
                );
                let moved = if write {
                    mapping.area(from, bytes).pwrite(&space, to as u64)
                } else {
                    mapping.area(to, bytes).pread(&space, from as u64)
                };
                same(&what, moved, Ok(bytes))?;
                let copied = model.part(from, bytes);
                model.wrote(to, &copied);
                model.check(&what, 0, &mapping.copy(0..pages * PAGE))?;
            }
        }
        Ok(())
    })
}

pub(crate) fn a_mapping_is_a_buffer_of_other_spaces_and_files() -> Result<()> {
    on_pf_and_vf(|function| {
        let pages = 40;
        let bytes = pages * PAGE;
        let (space, mapping) = mapped(function, pages)?;
        for other in [pf()?, vf(1)?, vf(2)?] {
            let other = crate::support::machine::space(&other, bytes as u64)?;
            let data = pattern(241, 1, 0, bytes);
            other.write_all_at(&data, 0)?;
            // From there to a page of the device's, of the host's and nobody's, and back from another place.
            device_stamps(&space, 0, 10, 1)?;
            mapping.fill(10 * PAGE, &[1; 10 * PAGE]);
            let area = mapping.area(3, bytes - 8);
            same("pread to it", area.pread(&other, 5)?, bytes - 8)?;
            let got = mapping.copy(3..bytes - 5);
            model::equal("pread to it", 5, &got, &data[5..bytes - 3])?;
            device_stamps(&space, 0, 20, 2)?;
            same(
                "pwrite from it",
                mapping.area(0, 30 * PAGE).pwrite(&other, 7)?,
                30 * PAGE,
            )?;
            let mut got = vec![0; 30 * PAGE];
            other.read_exact_at(&mut got, 7)?;
            model::equal(
                "pwrite from it",
                7,
                &got[..20 * PAGE],
                &stamped_bytes(0, 20, 2),
            )?;
            let rest = 20 * PAGE + 2..30 * PAGE + 2;
            model::equal("pwrite from it", 0, &got[20 * PAGE..], &data[rest])?;
            space.discard(0..bytes as u64)?;
        }
        // A file in memory, by calls that copy.
        let path = "/tmp/vfetch-test-file";
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        std::fs::remove_file(path)?;
        device_stamps(&space, 0, pages, 4)?;
        same("pwrite to a file", mapping.all().pwrite(&file, 0)?, bytes)?;
        let mut got = vec![0; bytes];
        file.read_exact_at(&mut got, 0)?;
        model::equal("pwrite to a file", 0, &got, &stamped_bytes(0, pages, 4))?;
        file.write_all_at(&stamped_bytes(0, pages, 5), 0)?;
        device_finds(&space, 0, pages, 4)?;
        same("pread of a file", mapping.all().pread(&file, 0)?, bytes)?;
        same("words from a file", device_finds(&space, 0, pages, 5)?, 0)
    })
}

pub(crate) fn io_uring_moves_data_to_and_from_a_mapping() -> Result<()> {
    on_pf_and_vf(|function| {
        let pages = 64;
        let (space, mapping) = mapped(function, pages)?;
        let other = crate::support::machine::space(function, (pages * PAGE) as u64)?;
        let mut ring = IoUring::new(64)?;
        for round in 0..3 {
            device_stamps(&space, 0, pages, round)?;
            let slot = PAGE + PAGE / 2;
            let requests = |write: bool| {
                let (other, mapping) = (&other, &mapping);
                (0..40).map(move |n| {
                    request(
                        other,
                        write,
                        mapping.area(n * slot, slot),
                        (n * slot) as u64,
                    )
                })
            };
            push(&mut ring, requests(true))?;
            let wanted = vec![i32::try_from(slot)?; 40];
            same(
                "writes from the mapping",
                finish(&mut ring, 40)?,
                wanted.clone(),
            )?;
            let mut got = vec![0; 40 * slot];
            other.read_exact_at(&mut got, 0)?;
            let stamped = stamped_bytes(0, pages, round);
            model::equal("written from the mapping", 0, &got, &stamped[..40 * slot])?;
            device_stamps(&space, 0, pages, 99)?;
            push(&mut ring, requests(false))?;
            same("reads to the mapping", finish(&mut ring, 40)?, wanted)?;
            same("words", device_finds(&space, 0, 60, round)?, 0)?;
        }
        Ok(())
    })
}

pub(crate) fn registered_pages_stay_where_they_are_and_the_device_sees_them() -> Result<()> {
    on_pf_and_vf(|function| {
        let pages = 32;
        let (space, mapping) = mapped(function, pages)?;
        let other = crate::support::machine::space(function, (pages * PAGE) as u64)?;
        device_stamps(&space, 0, pages, 1)?;
        let ring = IoUring::new(8)?;
        let area = mapping.area(4 * PAGE, 16 * PAGE);
        let vector = libc::iovec {
            iov_base: area.address().cast(),
            iov_len: area.bytes(),
        };
        // SAFETY: The mapping stays longer than the ring.
        unsafe { ring.submitter().register_buffers(&[vector])? };
        let mut ring = ring;
        let fd = Fd(other.as_fd().as_raw_fd());
        let fixed = |write: bool| {
            let bytes = u32::try_from(area.bytes()).unwrap_or(0);
            if write {
                opcode::WriteFixed::new(fd, area.address(), bytes, 0).build()
            } else {
                opcode::ReadFixed::new(fd, area.address(), bytes, 0).build()
            }
        };
        let all = vec![16 * i32::try_from(PAGE)?];
        for generation in 2..8 {
            // The device writes pages that are pinned, and others beside them; the pins see it.
            device_stamps(&space, 0, pages, generation)?;
            push(&mut ring, [fixed(true)])?;
            same(
                "a write of pinned pages",
                finish(&mut ring, 1)?,
                all.clone(),
            )?;
            let mut got = vec![0; 16 * PAGE];
            other.read_exact_at(&mut got, 0)?;
            model::equal("pinned pages", 0, &got, &stamped_bytes(4, 16, generation))?;
            let host = mapping.copy(0..pages * PAGE);
            model::equal(
                "the mapping",
                0,
                &host,
                &stamped_bytes(0, pages, generation),
            )?;
            // What comes by the pins is seen by the device, and by everybody.
            other.write_all_at(&stamped_bytes(4, 16, 90 + generation), 0)?;
            push(&mut ring, [fixed(false)])?;
            same("a read to pinned pages", finish(&mut ring, 1)?, all.clone())?;
            same("words", device_finds(&space, 4, 16, 90 + generation)?, 0)?;
            let mut got = vec![0; 16 * PAGE];
            space.read_exact_at(&mut got, 4 * PAGE as u64)?;
            model::equal("by read", 0, &got, &stamped_bytes(4, 16, 90 + generation))?;
            let again = Mapping::part_of(&space, 4 * PAGE, 16 * PAGE, RIGHTS)?;
            let got = again.copy(0..16 * PAGE);
            model::equal(
                "by another mapping",
                0,
                &got,
                &stamped_bytes(4, 16, 90 + generation),
            )?;
        }
        // The pins may outlive the mapping.
        drop(mapping);
        device_stamps(&space, 0, pages, 20)?;
        push(&mut ring, [fixed(true)])?;
        same("a write of pinned pages", finish(&mut ring, 1)?, all)?;
        let mut got = vec![0; 16 * PAGE];
        other.read_exact_at(&mut got, 0)?;
        model::equal("unmapped pinned pages", 0, &got, &stamped_bytes(4, 16, 20))?;
        drop(ring);
        // And then the pages may go again, and do when the device asks for them.
        until(30, "the device has the pages", || {
            device_stamps(&space, 0, pages, 21)?;
            let found = space.residency(0..(pages * PAGE) as u64)?;
            Ok(found.device == pages as u64)
        })?;
        same("words", device_finds(&space, 0, pages, 21)?, 0)
    })
}
