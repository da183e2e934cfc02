// SPDX-License-Identifier: GPL-2.0

//! What the device does to a space.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure, Context, Result};
use libvfetch::{stamped, Error, Gather, Job, JobError, Order, Reduce, Stamp, StampCheck, Task};
use rand::Rng;
use rustix::io::Errno;

use super::{
    actor::{Actor, Went},
    memory::{Look, Memory, CHUNK, WORDS},
};

/// The newest generation that a word can be of.
pub(super) const NEWEST: u64 = 0xff_ffff;

/// The task in some way or other.
fn somehow(actor: &mut Actor, task: Task) -> Task {
    let order = match actor.random.random_range(0..3) {
        0 => Order::Interleaved,
        1 => Order::Blocked,
        _ => Order::Shuffled(actor.random.random()),
    };
    task.order(order)
        .strands(actor.random.random_range(1..=32))
        .element_ps(10)
}

/// Waits for a job, and cancels one whose completion does not come: nobody can tell one that is lost from one that takes long.
fn end_of(memory: &Memory, job: Job<'_>) -> libvfetch::Result<u64> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        match job.wait_for(Some(PATIENCE)) {
            Ok(Some(end)) => {
                let node = memory.space.node();
                return end.outcome.map_err(|why| Error::Job { node, why });
            }
            Ok(None) => break,
            Err(error) if error.errno() == Some(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    // It may have ended by now; or the device says EIO, and its queue is being reset, which ends it, too.
    let _ = job.cancel();
    job.wait()
}

/// Has the device do it. `None` if it has failed.
fn compute(actor: &Actor, memory: &Memory, task: &Task) -> Result<Option<u64>> {
    let value = loop {
        match memory.space.submit(task) {
            Ok(job) if actor.world.faulty => break end_of(memory, job),
            Ok(job) => break job.wait(),
            Err(error) if error.errno() == Some(Errno::INTR) => {}
            Err(error) => break Err(error),
        }
    };
    match value {
        Err(Error::Job {
            why: JobError::Failed | JobError::Cancelled,
            ..
        }) if actor.world.faulty => Ok(None),
        Err(Error::Job {
            why: JobError::NoMemory,
            ..
        }) if actor.world.starved => Ok(None),
        value => actor.get("a job", value),
    }
}

/// Has the device look at a chunk, so that it would have it.
pub(super) fn attract(actor: &mut Actor, memory: &Memory, chunk: usize) -> Result<Option<u64>> {
    let reduce = Reduce {
        input: (chunk * CHUNK) as u64,
        n: WORDS as u64,
    };
    let task = somehow(actor, reduce.into());
    compute(actor, memory, &task)
}

fn stamp_of(chunk: usize, generation: u64) -> Task {
    Stamp {
        output: (chunk * CHUNK) as u64,
        n: WORDS as u64,
        first: (chunk * WORDS) as u64,
        generation,
    }
    .into()
}

pub(super) fn stamp(actor: &mut Actor, memory: &Memory) -> Result<Went> {
    let chunk = actor.chunk();
    let writing = memory.write(chunk, "stamp");
    let task = somehow(actor, stamp_of(chunk, writing.generation));
    if compute(actor, memory, &task)?.is_some() {
        writing.complete();
        return Ok(Went::Well);
    }
    drop(writing);
    actor.refused(memory, chunk)
}

/// A stamp that is cancelled. It may have done any part of it.
pub(super) fn cancel(actor: &mut Actor, memory: &Memory) -> Result<Went> {
    let chunk = actor.chunk();
    let writing = memory.write(chunk, "cancelled stamp");
    let task = somehow(actor, stamp_of(chunk, writing.generation)).element_ps(1_000_000);
    let job = match memory.space.submit(&task) {
        Ok(job) => job,
        Err(error) if error.errno() == Some(Errno::INTR) => return Ok(Went::Well),
        Err(error) if actor.excuses(error.errno()) => return Ok(Went::Refused),
        Err(error) => return Err(error).context("a job"),
    };
    for _ in 0..actor.random.random_range(0..20) {
        thread::yield_now();
    }
    let cancelled = loop {
        match job.cancel() {
            Err(error) if error.errno() == Some(Errno::INTR) => {}
            other => break other,
        }
    };
    // EIO: its queue is being reset, which ends it too.
    actor.get("cancel", cancelled)?;
    match job.wait() {
        Ok(_) => {
            writing.complete();
            Ok(Went::Well)
        }
        Err(Error::Job {
            why: JobError::Cancelled,
            ..
        }) => Ok(Went::Well),
        Err(Error::Job {
            why: JobError::Failed,
            ..
        }) if actor.world.faulty => Ok(Went::Refused),
        Err(Error::Job {
            why: JobError::NoMemory,
            ..
        }) if actor.world.starved => Ok(Went::Refused),
        Err(error) => Err(error).context("a job that was cancelled"),
    }
}

/// Has the device look at a part of the space, all of which may be of these generations.
pub(super) fn check_part(
    actor: &mut Actor,
    memory: &Memory,
    look: &Look<'_>,
    first: usize,
    chunks: usize,
    generations: (u64, u64),
) -> Result<Went> {
    let task = StampCheck {
        input: (first * CHUNK) as u64,
        n: (chunks * WORDS) as u64,
        first: (first * WORDS) as u64,
        lowest: generations.0,
        highest: generations.1,
    };
    let task = somehow(actor, task.into());
    let Some(wrong) = compute(actor, memory, &task)? else {
        return Ok(Went::Refused);
    };
    // Zeros that came meanwhile are right, and not told apart.
    if wrong > 0 && !look.was_zeroed() {
        let mut now = vec![0; chunks * CHUNK];
        let again = memory.space.read_exact_at(&mut now, (first * CHUNK) as u64);
        let judged = again.map(|()| look.judge("the read after it", first * CHUNK, &now));
        bail!(
            "the device finds {wrong} wrong words in {chunks} chunks from {first} on, generations {generations:?}; by read: {judged:?}"
        );
    }
    Ok(Went::Well)
}

/// A chunk, while it is written or not.
pub(super) fn check(actor: &mut Actor, memory: &Memory) -> Result<Went> {
    let chunk = actor.chunk();
    let bytes = chunk * CHUNK..(chunk + 1) * CHUNK;
    let went = if actor.random.random_range(0..2) == 0 {
        let look = memory.look(&bytes);
        check_part(actor, memory, &look, chunk, 1, (look.lowest(), NEWEST))?
    } else {
        let (_still, generation) = memory.still(chunk);
        let look = memory.look(&bytes);
        let generations = generation.map_or((look.lowest(), NEWEST), |only| (only, only));
        match generations {
            // The device takes words of generation 0 for stamped ones as well as zeros.
            (0, 0) => sum(actor, memory, chunk, 0)?,
            _ => check_part(actor, memory, &look, chunk, 1, generations)?,
        }
    };
    match went {
        Went::Well => Ok(went),
        Went::Refused => actor.refused(memory, chunk),
    }
}

/// Up to a block.
pub(super) fn check_much(actor: &mut Actor, memory: &Memory) -> Result<Went> {
    let chunks = actor.random.random_range(16..=128);
    let first = actor.random.random_range(0..=memory.chunks() - chunks);
    let look = memory.look(&(first * CHUNK..(first + chunks) * CHUNK));
    check_part(actor, memory, &look, first, chunks, (look.lowest(), NEWEST))
}

/// The sum of a chunk that nobody writes.
fn sum(actor: &mut Actor, memory: &Memory, chunk: usize, generation: u64) -> Result<Went> {
    let words = (chunk * WORDS) as u64..((chunk + 1) * WORDS) as u64;
    let wanted = match generation {
        0 => 0,
        _ => words.fold(0, |sum: u64, word| {
            sum.wrapping_add(stamped(word, generation))
        }),
    };
    let reduce = Reduce {
        input: (chunk * CHUNK) as u64,
        n: WORDS as u64,
    };
    let task = somehow(actor, reduce.into());
    match compute(actor, memory, &task)? {
        Some(sum) => {
            ensure!(
                sum == wanted,
                "the sum of chunk {chunk} of generation {generation} is {sum:#x}, not {wanted:#x}"
            );
            Ok(Went::Well)
        }
        None => Ok(Went::Refused),
    }
}

pub(super) fn reduce(actor: &mut Actor, memory: &Memory) -> Result<Went> {
    let chunk = actor.chunk();
    let (_still, generation) = memory.still(chunk);
    match generation {
        Some(generation) => sum(actor, memory, chunk, generation),
        None => Ok(Went::Well),
    }
}

/// Gathers words of a chunk in another order.
pub(super) fn gather(actor: &mut Actor, memory: &Memory) -> Result<Went> {
    let chunk = actor.chunk();
    let (index, output) = (actor.scratch, actor.scratch + CHUNK);
    let words = u32::try_from(WORDS)?;
    let order: Vec<u32> = (0..WORDS)
        .map(|_| actor.random.random_range(0..words))
        .collect();
    let bytes: Vec<u8> = order.iter().flat_map(|at| at.to_le_bytes()).collect();
    let written = memory.space.write_all_at(&bytes, index as u64);
    // What is lost is overwritten, or refused the next time too.
    let (Some(()), Some(())) = (
        actor.get("write", written)?,
        actor.get(
            "write",
            memory.space.write_all_at(&[0; CHUNK], output as u64),
        )?,
    ) else {
        return Ok(Went::Refused);
    };
    let look = memory.look(&(chunk * CHUNK..(chunk + 1) * CHUNK));
    let gather = Gather {
        input: (chunk * CHUNK) as u64,
        index: index as u64,
        output: output as u64,
        n: WORDS as u64,
        m: WORDS as u64,
    };
    let task = somehow(actor, gather.into());
    if compute(actor, memory, &task)?.is_none() {
        return actor.refused(memory, chunk);
    }
    let mut got = vec![0xee; CHUNK];
    let read = memory.space.read_exact_at(&mut got, output as u64);
    if actor.get("read", read)?.is_none() {
        return Ok(Went::Refused);
    }
    for (at, bytes) in order.iter().zip(got.chunks_exact(8)) {
        let word = chunk * WORDS + *at as usize;
        look.judge_word("gather", word, u64::from_le_bytes(bytes.try_into()?))?;
    }
    Ok(Went::Well)
}
