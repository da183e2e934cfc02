// SPDX-License-Identifier: GPL-2.0

//! What the host does to a space: loads and stores, `read` and `write`, and changes of the mapping.

use anyhow::{Context, Result};
use libvfetch::stamped;
use rand::Rng;
use rustix::{io::Errno, mm::MprotectFlags};

use super::{
    actor::{Actor, Went, LARGEST},
    bus::watch,
    memory::{Memory, CHUNK, WORDS},
};
use crate::{
    mapped::RIGHTS,
    support::{buffer::Mapping, machine::PAGE},
};

/// Loads all words of a chunk. A page that raises SIGBUS is not looked at.
fn load_chunk(actor: &mut Actor, memory: &Memory, chunk: usize) -> Result<Went> {
    let look = memory.look(&(chunk * CHUNK..(chunk + 1) * CHUNK));
    let mut wrong = Ok(());
    let mut hits = 0;
    for page in chunk * CHUNK / PAGE..(chunk + 1) * CHUNK / PAGE {
        let mut words = [0; PAGE / 8];
        let ((), refused) = watch(&actor.window, || {
            for (at, word) in words.iter_mut().enumerate() {
                *word = actor.window.word(page * PAGE + at * 8);
            }
        });
        hits += refused;
        if refused > 0 {
            continue;
        }
        for (word, value) in (page * PAGE / 8..).zip(words) {
            wrong = wrong.and_then(|()| look.judge_word("a load", word, value));
        }
    }
    wrong?;
    actor.survive(memory, "a load", hits)
}

pub(super) fn load(actor: &mut Actor, memory: &Memory) -> Result<Went> {
    let chunk = actor.chunk();
    match load_chunk(actor, memory, chunk)? {
        Went::Well => Ok(Went::Well),
        Went::Refused => actor.refused(memory, chunk),
    }
}

/// A word of each of many pages, with gaps or without.
pub(super) fn touch(actor: &mut Actor, memory: &Memory) -> Result<Went> {
    let pages = memory.bytes() / PAGE;
    let count = actor.random.random_range(16..=256);
    let step = actor.random.random_range(1..=3);
    let first = actor.random.random_range(0..pages - count * step);
    let offset = actor.random.random_range(0..PAGE / 8) * 8;
    let mut total = 0;
    for page in (first..).step_by(step).take(count) {
        let at = page * PAGE + offset;
        let look = memory.look(&(at..at + 8));
        let (value, hits) = watch(&actor.window, || actor.window.word(at));
        if hits == 0 {
            look.judge_word("a touch", at / 8, value)?;
        }
        total += hits;
    }
    actor.survive(memory, "a touch", total)
}

/// Up to 256 KiB at any offset.
pub(super) fn read(actor: &mut Actor, memory: &Memory) -> Result<Went> {
    let bytes = match actor.random.random_range(0..4) {
        0 => actor.random.random_range(8..100),
        1 => PAGE * actor.random.random_range(1..=8),
        _ => actor.random.random_range(8..=LARGEST),
    };
    let mut offset = actor.random.random_range(0..=memory.bytes() - bytes);
    if actor.random.random_range(0..2) == 0 {
        offset -= offset % PAGE;
    }
    let look = memory.look(&(offset..offset + bytes));
    // What is not written to is seen.
    let mut buffer = vec![0xee; bytes];
    loop {
        match memory.space.read_at(&mut buffer, offset as u64) {
            Err(error) if error.errno() == Some(Errno::INTR) => {}
            result => {
                let Some(moved) = actor.get("read", result)? else {
                    return actor.refused(memory, offset / CHUNK);
                };
                look.judge("read", offset, &buffer[..moved])?;
                return Ok(Went::Well);
            }
        }
    }
}

pub(super) fn store(actor: &mut Actor, memory: &Memory) -> Result<Went> {
    let chunk = actor.chunk();
    let writing = memory.write(chunk, "store");
    let generation = writing.generation;
    let ((), hits) = watch(&actor.window, || {
        for word in chunk * WORDS..(chunk + 1) * WORDS {
            actor
                .window
                .set_word(word * 8, stamped(word as u64, generation));
        }
    });
    if hits == 0 {
        writing.complete();
    } else {
        drop(writing);
    }
    actor.survive(memory, "a store", hits)
}

/// Writes a chunk, in one call or in pieces.
pub(super) fn write_to(actor: &mut Actor, memory: &Memory, chunk: usize) -> Result<Went> {
    let writing = memory.write(chunk, "write");
    let data = Memory::stamped(chunk, writing.generation);
    let piece = match actor.random.random_range(0..3) {
        0 => actor.random.random_range(PAGE..=CHUNK),
        1 => PAGE,
        _ => CHUNK,
    };
    // Lost pages end being lost only when all of them is written at once.
    let piece = if actor.world.faulty {
        piece.next_multiple_of(PAGE)
    } else {
        piece
    };
    for (number, part) in data.chunks(piece).enumerate() {
        let offset = (chunk * CHUNK + number * piece) as u64;
        let written = memory.space.write_all_at(part, offset);
        if actor.get("write", written)?.is_none() {
            return Ok(Went::Refused);
        }
    }
    writing.complete();
    Ok(Went::Well)
}

pub(super) fn write(actor: &mut Actor, memory: &Memory) -> Result<Went> {
    let chunk = actor.chunk();
    match write_to(actor, memory, chunk)? {
        Went::Well => Ok(Went::Well),
        Went::Refused => actor.refused(memory, chunk),
    }
}

/// Discards a chunk.
pub(super) fn discard_chunk(actor: &mut Actor, memory: &Memory, chunk: usize) -> Result<Went> {
    let discarded = memory.discard(chunk, actor.random.random());
    let discarded = actor.get("discard", discarded)?;
    Ok(discarded.map_or(Went::Refused, |()| Went::Well))
}

pub(super) fn discard(actor: &mut Actor, memory: &Memory) -> Result<Went> {
    let chunk = actor.chunk();
    discard_chunk(actor, memory, chunk)
}

// ---- The mapping --------------------------------------------------------------------------------

pub(super) fn map_again(actor: &mut Actor, memory: &Memory) -> Result<Went> {
    actor.map(memory)?;
    load(actor, memory)
}

pub(super) fn move_mapping(actor: &mut Actor, memory: &Memory) -> Result<Went> {
    // What it was may be in several pieces, which cannot be moved at once.
    let new = Mapping::part_of(&memory.space, 0, memory.bytes(), RIGHTS)?;
    let chunk = actor.chunk();
    let look = memory.look(&(chunk * CHUNK..chunk * CHUNK + 8));
    let (value, hits) = watch(&new, || new.word(chunk * CHUNK));
    if hits > 0 {
        return actor.survive(memory, "a load", hits);
    }
    look.judge_word("a load of a new mapping", chunk * WORDS, value)?;
    actor.window = new.moved().context("mremap")?;
    load_chunk(actor, memory, chunk)
}

/// Loads from what cannot be written to, and stores when it can again.
pub(super) fn take_rights(actor: &mut Actor, memory: &Memory) -> Result<Went> {
    let chunk = actor.chunk();
    let part = chunk * CHUNK..(chunk + 1) * CHUNK;
    actor.window.protect(part.clone(), MprotectFlags::READ)?;
    let went = load_chunk(actor, memory, chunk)?;
    if went == Went::Refused {
        return Ok(went);
    }
    actor
        .window
        .protect(part, MprotectFlags::READ | MprotectFlags::WRITE)?;
    store(actor, memory)
}

/// Unmaps a part, uses the rest, and maps all of it again.
pub(super) fn unmap_part(actor: &mut Actor, memory: &Memory) -> Result<Went> {
    let new = Mapping::part_of(&memory.space, 0, memory.bytes(), RIGHTS)?;
    let chunk = actor.random.random_range(1..memory.chunks() - 1);
    new.unmap(chunk * CHUNK..(chunk + 1) * CHUNK)?;
    let at = (chunk + 1) * CHUNK;
    let look = memory.look(&(at..at + 8));
    let (value, hits) = watch(&new, || new.word(at));
    // The hole is another mapping's by now, maybe: only its parts may go.
    new.unmap(0..chunk * CHUNK)?;
    new.unmap(at..memory.bytes())?;
    std::mem::forget(new);
    if hits == 0 {
        look.judge_word("a load beside what is unmapped", at / 8, value)?;
    }
    actor.survive(memory, "a load", hits)
}
