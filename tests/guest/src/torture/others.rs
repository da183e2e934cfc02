// SPDX-License-Identifier: GPL-2.0

//! What the kernel and other processes do to a space, by the mapping or by requests.
#![allow(unsafe_code)]

use std::{
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::FileExt,
    },
    thread,
};

use anyhow::{bail, ensure, Context, Result};
use io_uring::{opcode, squeue::Flags, types::Fd, IoUring};
use libvfetch::stamped;
use rand::Rng;
use rustix::{io::Errno, process::Signal};

use super::{
    actor::{Actor, Went},
    bus::watch,
    jobs,
    memory::{Memory, CHUNK, WORDS},
};
use crate::{
    mapped::RIGHTS,
    support::{
        buffer::{Area, Mapping},
        machine::PAGE,
        process::fork,
    },
};

/// Moves a chunk's bytes between `area` and a file, by one call after the other or by requests for a page each. The error is the first one.
fn move_chunk(
    actor: &mut Actor,
    file: BorrowedFd<'_>,
    write: bool,
    area: Area,
    offset: u64,
) -> Result<Result<(), Errno>> {
    if actor.random.random_range(0..2) == 0 {
        return Ok(by_calls(file, write, area, offset));
    }
    by_requests(actor, file, write, area, offset)
}

fn by_calls(file: BorrowedFd<'_>, write: bool, area: Area, offset: u64) -> Result<(), Errno> {
    let mut done = 0;
    while done < CHUNK {
        let part = area.part(done, CHUNK - done);
        let at = offset + done as u64;
        let moved = if write {
            part.pwrite(file, at)
        } else {
            part.pread(file, at)
        };
        match moved {
            // It is as long as is asked for.
            Ok(0) => return Err(Errno::IO),
            // Only whole pages go past all caches.
            Ok(bytes) => done += bytes / PAGE * PAGE,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn by_requests(
    actor: &mut Actor,
    file: BorrowedFd<'_>,
    write: bool,
    area: Area,
    offset: u64,
) -> Result<Result<(), Errno>> {
    const PAGES: usize = CHUNK / PAGE;
    let bytes = u32::try_from(PAGE)?;
    let fd = Fd(file.as_raw_fd());
    let mut left = [true; PAGES];
    let mut error = Ok(());
    // Those that a signal has cut short are asked for again.
    while error.is_ok() && left.contains(&true) {
        let flags = if actor.random.random_range(0..2) == 0 {
            Flags::ASYNC
        } else {
            Flags::empty()
        };
        let mut asked = 0;
        for page in (0..PAGES).filter(|page| left[*page]) {
            let at = area.part(page * PAGE, PAGE).address();
            let from = offset + (page * PAGE) as u64;
            let request = if write {
                opcode::Write::new(fd, at, bytes).offset(from).build()
            } else {
                opcode::Read::new(fd, at, bytes).offset(from).build()
            };
            let request = request.flags(flags).user_data(page as u64);
            // SAFETY: The area is part of a mapping that stays until the requests have ended, below; nothing refers to it.
            unsafe { actor.ring.submission().push(&request)? };
            asked += 1;
        }
        let mut ended = 0;
        while ended < asked {
            match actor.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                // Requests may be under way, and the mapping must not go before they end.
                Err(error) => panic!("io_uring_enter: {error}"),
            }
            for entry in actor.ring.completion() {
                ended += 1;
                match entry.result() {
                    moved if moved == i32::try_from(PAGE)? => {
                        left[usize::try_from(entry.user_data())?] = false;
                    }
                    moved if moved >= 0 => {}
                    errno if [libc::EINTR, libc::EAGAIN].contains(&-errno) => {}
                    errno => error = Err(Errno::from_raw_os_error(-errno)),
                }
            }
        }
    }
    Ok(error)
}

/// What became of a move of data: `None` if the device has failed.
fn judged(actor: &Actor, what: &str, moved: Result<(), Errno>) -> Result<Option<()>> {
    match moved {
        Ok(()) => Ok(Some(())),
        Err(errno) if actor.excuses(Some(errno)) => Ok(None),
        Err(errno) => Err(errno).context(what.to_string()),
    }
}

/// A file of [`Actor::outsides`], or the like.
fn outside(actor: &mut Actor) -> Result<std::os::fd::OwnedFd> {
    let which = actor.random.random_range(0..actor.outsides.len());
    Ok(actor.outsides[which].as_fd().try_clone_to_owned()?)
}

/// A chunk of the mapping is the buffer of a write.
pub(super) fn from_mapping(actor: &mut Actor, memory: &Memory) -> Result<Went> {
    let chunk = actor.chunk();
    let (file, place) = (outside(actor)?, actor.place);
    let look = memory.look(&(chunk * CHUNK..(chunk + 1) * CHUNK));
    let area = actor.area(chunk);
    let moved = move_chunk(actor, file.as_fd(), true, area, place)?;
    if judged(actor, "a write from the mapping", moved)?.is_none() {
        return actor.refused(memory, chunk);
    }
    let back = actor.buffer.area(0, CHUNK);
    let moved = move_chunk(actor, file.as_fd(), false, back, place)?;
    if judged(actor, "reading it back", moved)?.is_none() {
        return Ok(Went::Refused);
    }
    look.judge(
        "what was written from the mapping",
        chunk * CHUNK,
        &actor.buffer.copy(0..CHUNK),
    )?;
    Ok(Went::Well)
}

/// A chunk of the mapping is the buffer of a read.
pub(super) fn to_mapping(actor: &mut Actor, memory: &Memory) -> Result<Went> {
    let chunk = actor.chunk();
    let (file, place) = (outside(actor)?, actor.place);
    let writing = memory.write(chunk, "read to the mapping");
    actor
        .buffer
        .fill(0, &Memory::stamped(chunk, writing.generation));
    let data = actor.buffer.area(0, CHUNK);
    let moved = move_chunk(actor, file.as_fd(), true, data, place)?;
    if judged(actor, "writing it before", moved)?.is_none() {
        return Ok(Went::Refused);
    }
    let area = actor.area(chunk);
    let moved = move_chunk(actor, file.as_fd(), false, area, place)?;
    if judged(actor, "a read to the mapping", moved)?.is_none() {
        drop(writing);
        return actor.refused(memory, chunk);
    }
    writing.complete();
    Ok(Went::Well)
}

/// A chunk of the mapping is registered as a buffer, wanted by the device, and read to: its pages must not go.
pub(super) fn to_held(actor: &mut Actor, memory: &Memory) -> Result<Went> {
    let chunk = actor.chunk();
    let (file, place) = (outside(actor)?, actor.place);
    let writing = memory.write(chunk, "read to held pages");
    actor
        .buffer
        .fill(0, &Memory::stamped(chunk, writing.generation));
    let data = actor.buffer.area(0, CHUNK);
    let moved = move_chunk(actor, file.as_fd(), true, data, place)?;
    if judged(actor, "writing it before", moved)?.is_none() {
        return Ok(Went::Refused);
    }
    // Pages that are mapped so stay where they are for as long as the ring does.
    let window = Mapping::part_of(&memory.space, chunk * CHUNK, CHUNK, RIGHTS)?;
    let mut ring = IoUring::new(2)?;
    let area = window.all();
    let vector = libc::iovec {
        iov_base: area.address().cast(),
        iov_len: area.bytes(),
    };
    // SAFETY: The mapping stays longer than the ring; nothing refers to what is there.
    match unsafe { ring.submitter().register_buffers(&[vector]) } {
        Ok(()) => {}
        Err(_) if actor.world.fails() || actor.has_windows() => {
            drop(writing);
            return actor.refused(memory, chunk);
        }
        Err(error) if error.raw_os_error() == Some(libc::EINTR) => return Ok(Went::Well),
        Err(error) => return Err(error).context("register_buffers"),
    }
    jobs::attract(actor, memory, chunk)?;
    let request = opcode::ReadFixed::new(
        Fd(file.as_raw_fd()),
        area.address(),
        u32::try_from(CHUNK)?,
        0,
    );
    // SAFETY: As above.
    unsafe { ring.submission().push(&request.offset(place).build())? };
    let result = loop {
        match ring.submit_and_wait(1) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            Err(error) => panic!("io_uring_enter: {error}"),
        }
        if let Some(entry) = ring.completion().next() {
            break entry.result();
        }
    };
    if result != i32::try_from(CHUNK)? {
        // A signal may have cut it short.
        let errno = (result < 0).then(|| Errno::from_raw_os_error(-result));
        ensure!(
            result >= 0 || errno == Some(Errno::INTR) || actor.excuses(errno),
            "a read to held pages: {errno:?}"
        );
        return Ok(Went::Well);
    }
    writing.complete();
    let look = memory.look(&(chunk * CHUNK..(chunk + 1) * CHUNK));
    let generations = (look.lowest(), jobs::NEWEST);
    let went = jobs::check_part(actor, memory, &look, chunk, 1, generations);
    drop((ring, window));
    went
}

/// Requests of io_uring to the space itself.
pub(super) fn requests(actor: &mut Actor, memory: &Memory) -> Result<Went> {
    let chunk = actor.chunk();
    let place = (chunk * CHUNK) as u64;
    let area = actor.buffer.area(0, CHUNK);
    if actor.random.random_range(0..2) == 0 {
        actor.buffer.fill(0, &[0xee; CHUNK]);
        let look = memory.look(&(chunk * CHUNK..(chunk + 1) * CHUNK));
        let moved = by_requests(actor, memory.space.as_fd(), false, area, place)?;
        if judged(actor, "requests to read", moved)?.is_some() {
            look.judge(
                "requests to read",
                chunk * CHUNK,
                &actor.buffer.copy(0..CHUNK),
            )?;
            return Ok(Went::Well);
        }
    } else {
        let writing = memory.write(chunk, "requests to write");
        actor
            .buffer
            .fill(0, &Memory::stamped(chunk, writing.generation));
        let moved = by_requests(actor, memory.space.as_fd(), true, area, place)?;
        if judged(actor, "requests to write", moved)?.is_some() {
            writing.complete();
            return Ok(Went::Well);
        }
    }
    actor.refused(memory, chunk)
}

/// As a debugger would.
pub(super) fn proc_mem(actor: &mut Actor, memory: &Memory) -> Result<Went> {
    let chunk = actor.chunk();
    let place = actor.area(chunk).address() as u64;
    let errno = |error: &std::io::Error| Errno::from_io_error(error);
    if actor.random.random_range(0..2) == 0 {
        let mut got = vec![0xee; CHUNK];
        let look = memory.look(&(chunk * CHUNK..(chunk + 1) * CHUNK));
        match actor.proc_mem.read_exact_at(&mut got, place) {
            Ok(()) => {
                look.judge("/proc/self/mem", chunk * CHUNK, &got)?;
                return Ok(Went::Well);
            }
            Err(error)
                if actor.world.fails()
                    || actor.has_windows()
                    || errno(&error) == Some(Errno::INTR) => {}
            Err(error) => return Err(error).context("a read of /proc/self/mem"),
        }
    } else {
        let writing = memory.write(chunk, "/proc/self/mem");
        let data = Memory::stamped(chunk, writing.generation);
        match actor.proc_mem.write_all_at(&data, place) {
            Ok(()) => {
                writing.complete();
                return Ok(Went::Well);
            }
            Err(error)
                if actor.world.fails()
                    || actor.has_windows()
                    || errno(&error) == Some(Errno::INTR) => {}
            Err(error) => return Err(error).context("a write of /proc/self/mem"),
        }
    }
    if actor.world.faulty {
        return actor.refused(memory, chunk);
    }
    Ok(Went::Well)
}

/// How a child ends.
const RIGHT: u8 = 0;
const WRONG: u8 = 1;
const BUS: u8 = 2;

/// A child has the mapping too: it reads a chunk, or writes one, and maybe is killed while it does.
pub(super) fn child(actor: &mut Actor, memory: &Memory) -> Result<Went> {
    let chunk = actor.chunk();
    let words = chunk * WORDS..(chunk + 1) * WORDS;
    match actor.random.random_range(0..3) {
        0 => {
            let (still, generation) = memory.still(chunk);
            let Some(generation) = generation else {
                return Ok(Went::Well);
            };
            let window = &actor.window;
            let mut child = fork(|| {
                let right = |word: usize| {
                    let wanted = match generation {
                        0 => 0,
                        _ => stamped(word as u64, generation),
                    };
                    window.word(word * 8) == wanted
                };
                match watch(window, || words.clone().all(right)) {
                    (_, 1..) => BUS,
                    (true, 0) => RIGHT,
                    (false, 0) => WRONG,
                }
            })?;
            let status = child.wait(60)?.exit_status();
            if status == Some(WRONG.into()) {
                let look = memory.look(&(chunk * CHUNK..(chunk + 1) * CHUNK));
                let mut now = vec![0; CHUNK];
                let again = memory.space.read_exact_at(&mut now, (chunk * CHUNK) as u64);
                let judged = again.map(|()| look.judge("the read after it", chunk * CHUNK, &now));
                bail!("a child finds chunk {chunk} not to be of generation {generation}; by read: {judged:?}");
            }
            drop(still);
            ended(actor, memory, chunk, status)
        }
        kind => {
            let writing = memory.write(
                chunk,
                if kind == 1 {
                    "child"
                } else {
                    "child that is killed"
                },
            );
            let generation = writing.generation;
            let window = &actor.window;
            let mut child = fork(|| {
                let store = || {
                    for word in words.clone() {
                        window.set_word(word * 8, stamped(word as u64, generation));
                    }
                };
                match watch(window, store).1 {
                    0 => RIGHT,
                    _ => BUS,
                }
            })?;
            if kind == 2 {
                for _ in 0..actor.random.random_range(0..20) {
                    thread::yield_now();
                }
                child.signal(Signal::KILL)?;
                // It may have been quicker.
                child.wait(60)?;
                return Ok(Went::Well);
            }
            let status = child.wait(60)?.exit_status();
            if status == Some(RIGHT.into()) {
                writing.complete();
                return Ok(Went::Well);
            }
            drop(writing);
            ended(actor, memory, chunk, status)
        }
    }
}

/// What a child's end means.
fn ended(actor: &mut Actor, memory: &Memory, chunk: usize, status: Option<i32>) -> Result<Went> {
    match status {
        Some(0) => Ok(Went::Well),
        Some(status) if status == i32::from(BUS) && actor.world.faulty => {
            actor.refused(memory, chunk)
        }
        status => {
            ensure!(false, "a child ended with {status:?}");
            Ok(Went::Refused)
        }
    }
}
