// SPDX-License-Identifier: GPL-2.0

//! A space in chunks, and which words may be in each.
//!
//! Every word of a chunk says its place and its generation. One writer at a time writes a chunk as a whole, with the next
//! generation; readers take no lock. A word is right if its generation is one that was complete when the reader began, or newer, up to
//! what has begun when it ends.

use std::{
    fmt::Write,
    ops::Range,
    sync::{
        atomic::{AtomicU64, Ordering::SeqCst},
        Mutex, MutexGuard, PoisonError,
    },
};

use anyhow::{bail, ensure, Result};
use libvfetch::{stamped, Advice, Error, Function, Space};
use rustix::io::Errno;

use crate::support::machine::{space, PAGE};

/// Bytes of a chunk, and words.
pub(super) const CHUNK: usize = 4 * PAGE;
pub(super) const WORDS: usize = CHUNK / 8;

/// Writers that a chunk remembers.
const HISTORY: usize = 6;

/// What may be in a chunk.
#[derive(Default)]
struct Chunk {
    /// Who has it may write. The last writers: what they did, and which generation that was.
    writer: Mutex<[(&'static str, u64); HISTORY]>,
    /// The newest generation that may be there, and the oldest.
    begun: AtomicU64,
    done: AtomicU64,
    /// How often it was discarded, or began to be (being new is the first time); and of these, those before what is there was
    /// written as a whole. Zeros are right where they differ.
    zeroed: AtomicU64,
    filled: AtomicU64,
}

/// What is known of a chunk when somebody begins to read it.
#[derive(Clone, Copy)]
struct Before {
    done: u64,
    filled: u64,
    zeroed: u64,
}

/// A space, and what must be in it.
pub(super) struct Memory {
    pub(super) space: Space,
    pub(super) name: String,
    chunks: Vec<Chunk>,
}

/// The right to write a chunk. Unless it is [complete](Self::complete), words of both generations stay there.
pub(super) struct Writing<'m> {
    chunk: &'m Chunk,
    _turn: MutexGuard<'m, [(&'static str, u64); HISTORY]>,
    pub(super) generation: u64,
}

impl Writing<'_> {
    /// All of it was written.
    pub(super) fn complete(self) {
        self.chunk
            .filled
            .store(self.chunk.zeroed.load(SeqCst), SeqCst);
        self.chunk.done.store(self.generation, SeqCst);
    }

    /// It reads as zeros.
    fn zeroed(self) {
        self.chunk.done.store(self.generation, SeqCst);
    }
}

/// A reader that has begun.
pub(super) struct Look<'m> {
    memory: &'m Memory,
    first: usize,
    before: Vec<Before>,
}

impl Memory {
    /// A space of `function`: `chunks`, and two more for each of `actors`, who have them to themselves.
    pub(super) fn new(function: &Function, chunks: usize, actors: usize) -> Result<Self> {
        let new = || Chunk {
            zeroed: AtomicU64::new(1),
            ..Chunk::default()
        };
        let this = Self {
            space: space(function, ((chunks + 2 * actors) * CHUNK) as u64)?,
            name: function.role.to_string(),
            chunks: std::iter::repeat_with(new).take(chunks).collect(),
        };
        // Most of it has contents from the start, so that there is too little room for them.
        for chunk in (0..chunks).filter(|chunk| chunk % 16 > 0) {
            let writing = this.write(chunk, "the first write");
            let data = Self::stamped(chunk, writing.generation);
            this.space.write_all_at(&data, (chunk * CHUNK) as u64)?;
            writing.complete();
        }
        Ok(this)
    }

    /// How many chunks there are.
    pub(super) fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// Bytes of all chunks.
    pub(super) fn bytes(&self) -> usize {
        self.chunks() * CHUNK
    }

    /// Where the two chunks of an actor are.
    pub(super) fn scratch(&self, actor: usize) -> usize {
        (self.chunks() + 2 * actor) * CHUNK
    }

    /// Waits for the right to write a chunk, `how`.
    pub(super) fn write(&self, chunk: usize, how: &'static str) -> Writing<'_> {
        let chunk = &self.chunks[chunk];
        let mut turn = chunk.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = chunk.begun.load(SeqCst) + 1;
        chunk.begun.store(generation, SeqCst);
        turn.rotate_right(1);
        turn[0] = (how, generation);
        Writing {
            chunk,
            _turn: turn,
            generation,
        }
    }

    /// Keeps writers away from a chunk. Returns the one generation that all of it is of, if it is: 0 if it is zeros.
    pub(super) fn still(&self, chunk: usize) -> (impl Drop + '_, Option<u64>) {
        let chunk = &self.chunks[chunk];
        let turn = chunk.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let (begun, done) = (chunk.begun.load(SeqCst), chunk.done.load(SeqCst));
        let zeros = chunk.zeroed.load(SeqCst) != chunk.filled.load(SeqCst);
        let generation = match (begun == done, zeros) {
            (true, true) => Some(0),
            (true, false) => Some(done),
            (false, _) => None,
        };
        (turn, generation)
    }

    /// Discards a chunk, by one call or the other.
    pub(super) fn discard(&self, chunk: usize, by_advice: bool) -> libvfetch::Result<()> {
        let writing = self.write(chunk, "discard");
        writing.chunk.zeroed.fetch_add(1, SeqCst);
        let bytes = (chunk * CHUNK) as u64..((chunk + 1) * CHUNK) as u64;
        if by_advice {
            self.space.advise(bytes, Advice::DoNotNeed)?;
        } else {
            self.space.discard(bytes)?;
        }
        writing.zeroed();
        Ok(())
    }

    /// What `chunk` holds in `generation`.
    pub(super) fn stamped(chunk: usize, generation: u64) -> Vec<u8> {
        let words = chunk * WORDS..(chunk + 1) * WORDS;
        words
            .flat_map(|word| stamped(word as u64, generation).to_le_bytes())
            .collect()
    }

    /// Somebody begins to read `bytes`.
    pub(super) fn look(&self, bytes: &Range<usize>) -> Look<'_> {
        let chunks = bytes.start / CHUNK..bytes.end.div_ceil(CHUNK);
        Look {
            memory: self,
            first: chunks.start,
            before: self.chunks[chunks]
                .iter()
                .map(|chunk| Before {
                    done: chunk.done.load(SeqCst),
                    filled: chunk.filled.load(SeqCst),
                    zeroed: chunk.zeroed.load(SeqCst),
                })
                .collect(),
        }
    }

    /// Checks everything, when nobody writes. Where the device has failed pages may be lost, and words of a write that
    /// failed be there.
    pub(super) fn check_all(&self, faulty: bool) -> Result<()> {
        let lost = self.space.info()?.space_lost_pages;
        ensure!(faulty || lost == 0, "{lost} pages are lost");
        let mut buffer = vec![0; CHUNK];
        let mut refused = 0;
        for number in 0..self.chunks() {
            let look = self.look(&(number * CHUNK..(number + 1) * CHUNK));
            for page in 0..CHUNK / PAGE {
                let offset = number * CHUNK + page * PAGE;
                let part = &mut buffer[page * PAGE..(page + 1) * PAGE];
                part.fill(0xee);
                match self.space.read_exact_at(part, offset as u64) {
                    Ok(()) => look.judge("the last read", offset, part)?,
                    Err(Error::Lost { .. }) => refused += 1,
                    Err(error) if error.errno() == Some(Errno::IO) => refused += 1,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        ensure!(
            refused <= lost,
            "{refused} pages cannot be read, and {lost} are lost"
        );
        Ok(())
    }
}

impl Look<'_> {
    /// The oldest generation that may be in all of it; 0 where zeros may be.
    pub(super) fn lowest(&self) -> u64 {
        let lowest = |before: &Before| {
            if before.zeroed == before.filled {
                before.done
            } else {
                0
            }
        };
        self.before.iter().map(lowest).min().unwrap_or(0)
    }

    /// Whether a part of it was discarded since.
    pub(super) fn was_zeroed(&self) -> bool {
        let mut chunks = self.before.iter().zip(&self.memory.chunks[self.first..]);
        chunks.any(|(before, chunk)| chunk.zeroed.load(SeqCst) != before.zeroed)
    }

    /// Fails unless all whole words of `got`, which was read `how` at `offset`, may be there.
    pub(super) fn judge(&self, how: &str, offset: usize, got: &[u8]) -> Result<()> {
        let skipped = (8 - offset % 8) % 8;
        let words = got.get(skipped..).unwrap_or_default().chunks_exact(8);
        for (word, bytes) in ((offset + skipped) / 8..).zip(words) {
            let value = u64::from_le_bytes(bytes.try_into()?);
            self.judge_word(how, word, value)?;
        }
        Ok(())
    }

    /// Fails unless `value` may be the word numbered `word`.
    pub(super) fn judge_word(&self, how: &str, word: usize, value: u64) -> Result<()> {
        let chunk = &self.memory.chunks[word / WORDS];
        let before = self.before[word / WORDS - self.first];
        let generation = value >> 40;
        let right = if value == 0 {
            chunk.zeroed.load(SeqCst) != before.filled
        } else {
            generation != 0
                && generation >= before.done
                && generation <= chunk.begun.load(SeqCst)
                && value == stamped(word as u64, generation)
        };
        if right {
            return Ok(());
        }
        self.wrong(how, word, value)
    }

    /// Says what is wrong, and what is known of it.
    #[cold]
    fn wrong(&self, how: &str, word: usize, value: u64) -> Result<()> {
        let (memory, number) = (self.memory, word / WORDS);
        let chunk = &memory.chunks[number];
        let before = self.before[number - self.first];
        let mut text = format!(
            "{how} of space {} finds {value:#x} (place {:#x}, generation {}) in word {word:#x}, page {} of chunk {number}; generations {} to {} may \
             be there, discarded {} times, {} before it was written",
            memory.name,
            value & 0xff_ffff_ffff,
            value >> 40,
            word * 8 / PAGE,
            before.done,
            chunk.begun.load(SeqCst),
            chunk.zeroed.load(SeqCst),
            before.filled,
        );
        let mut again = [0; 8];
        let result = memory.space.read_exact_at(&mut again, word as u64 * 8);
        let _ = write!(
            text,
            "\nread again: {:#x} {result:?}",
            u64::from_le_bytes(again)
        );
        let chunk_bytes = (number * CHUNK) as u64..((number + 1) * CHUNK) as u64;
        let _ = write!(text, "\nits pages: {:?}", memory.space.places(chunk_bytes));
        // Not if its writer waits for us.
        if let Ok(writers) = chunk.writer.try_lock() {
            let _ = write!(text, "\nlast writers: {:?}", *writers);
        }
        bail!(text)
    }
}
