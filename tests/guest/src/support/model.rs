// SPDX-License-Identifier: GPL-2.0

//! What a space must hold, and patterns that say where they come from.
//!
//! A pattern is made of aligned words of 8 bytes, each with a mark, its owner, the write that put it there and
//! its own place: bytes that turn up where they do not belong say whose they are.

use std::fmt::Write;

use anyhow::{bail, Result};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

const MARK: u64 = 0xf7e7;

/// The seed of all random numbers: VFETCH_TEST_SEED, or always the same.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("VFETCH_TEST_SEED").ok();
    given.and_then(|s| s.parse().ok()).unwrap_or(20_261_121)
}

/// Random numbers for one of several users.
pub(crate) fn random(user: u64) -> Pcg64Mcg {
    Pcg64Mcg::seed_from_u64(seed().wrapping_add(user.wrapping_mul(0x9e37_79b9)))
}

fn word(owner: u16, write: u16, offset: u64) -> [u8; 8] {
    let place = (offset / 8) & 0xffff;
    ((MARK << 48) | (u64::from(owner) << 32) | (u64::from(write) << 16) | place).to_le_bytes()
}

/// Fills `bytes`, which are at `offset` of a space of `owner`, by the pattern of its write number `write`.
pub(crate) fn stamp(owner: u16, write: u16, offset: u64, bytes: &mut [u8]) {
    let mut at = offset;
    for byte in bytes {
        let word = word(owner, write, at);
        // CAST: below 8.
        #[allow(clippy::cast_possible_truncation)]
        let within = (at % 8) as usize;
        *byte = word.get(within).copied().unwrap_or_default();
        at += 1;
    }
}

/// The pattern as a vector.
pub(crate) fn pattern(owner: u16, write: u16, offset: u64, bytes: usize) -> Vec<u8> {
    let mut pattern = vec![0; bytes];
    stamp(owner, write, offset, &mut pattern);
    pattern
}

/// Fails unless `got`, read at `offset`, is `wanted`; says where not, and whose bytes are there.
pub(crate) fn equal(what: &str, offset: u64, got: &[u8], wanted: &[u8]) -> Result<()> {
    if got == wanted {
        return Ok(());
    }
    if got.len() != wanted.len() {
        bail!("{what}: {} bytes instead of {}", got.len(), wanted.len());
    }
    let mut text = String::new();
    let differs = |i: usize| got.get(i) != wanted.get(i);
    let first = (0..got.len()).find(|i| differs(*i)).unwrap_or(0);
    let last = (0..got.len()).rev().find(|i| differs(*i)).unwrap_or(0);
    let count = (0..got.len()).filter(|i| differs(*i)).count();
    let _ = write!(
        text,
        "{what}: {count} of {} bytes from {offset:#x} differ, the first at {:#x}, the last at {:#x}",
        got.len(),
        offset + first as u64,
        offset + last as u64,
    );
    for (name, bytes) in [("is", got), ("should be", wanted)] {
        let _ = write!(text, "\n{name}: {}", describe(offset, first, bytes));
    }
    bail!(text)
}

/// What is around the byte at `at` of `bytes`, which begin at `offset`.
fn describe(offset: u64, at: usize, bytes: &[u8]) -> String {
    // The aligned word that it lies in.
    let start = at.saturating_sub(((offset + at as u64) % 8).try_into().unwrap_or(0));
    let Some(Ok(word)) = bytes.get(start..start + 8).map(TryInto::try_into) else {
        return format!("{:02x?}", bytes.get(start..).unwrap_or_default());
    };
    let word = u64::from_le_bytes(word);
    if word >> 48 == MARK {
        let (owner, write) = ((word >> 32) & 0xffff, (word >> 16) & 0xffff);
        format!(
            "write {write} of space {owner} at {:#x} modulo 512 KiB",
            (word & 0xffff) * 8
        )
    } else {
        format!("{word:#018x}")
    }
}

/// Fails unless all of `got`, read at `offset`, is zero.
pub(crate) fn zeros(what: &str, offset: u64, got: &[u8]) -> Result<()> {
    if got.iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    equal(what, offset, got, &vec![0; got.len()])
}

/// A space as it must be.
pub(crate) struct Model {
    owner: u16,
    writes: u16,
    bytes: Vec<u8>,
}

impl Model {
    /// Nothing but zeros.
    pub(crate) fn new(owner: u16, bytes: usize) -> Self {
        Self {
            owner,
            writes: 0,
            bytes: vec![0; bytes],
        }
    }

    /// Its size.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// What the next write puts there.
    pub(crate) fn next(&mut self, offset: usize, bytes: usize) -> Vec<u8> {
        self.writes = self.writes.wrapping_add(1);
        pattern(self.owner, self.writes, offset as u64, bytes)
    }

    /// `bytes` were written.
    pub(crate) fn wrote(&mut self, offset: usize, bytes: &[u8]) {
        if let Some(place) = self.bytes.get_mut(offset..offset + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    /// The pages of a range were discarded.
    pub(crate) fn discarded(&mut self, offset: usize, bytes: usize) {
        if let Some(place) = self.bytes.get_mut(offset..offset + bytes) {
            place.fill(0);
        }
    }

    /// The size was changed.
    pub(crate) fn resized(&mut self, bytes: usize) {
        self.bytes.resize(bytes, 0);
    }

    /// What is there.
    pub(crate) fn part(&self, offset: usize, bytes: usize) -> Vec<u8> {
        let part = self.bytes.get(offset..offset + bytes);
        part.unwrap_or_default().to_vec()
    }

    /// The sum of `words` words from `offset` on, modulo 2⁶⁴.
    pub(crate) fn sum(&self, offset: usize, words: usize) -> u64 {
        let bytes = self.bytes.get(offset..offset + 8 * words);
        let words = bytes.unwrap_or_default().chunks_exact(8);
        let words = words.filter_map(|word| Some(u64::from_le_bytes(word.try_into().ok()?)));
        words.fold(0, u64::wrapping_add)
    }

    /// Fails unless `got` is what is at `offset`.
    pub(crate) fn check(&self, what: &str, offset: usize, got: &[u8]) -> Result<()> {
        equal(
            what,
            offset as u64,
            got,
            self.bytes
                .get(offset..offset + got.len())
                .unwrap_or_default(),
        )
    }
}

/// A random range of at most `most` bytes, not empty, within `whole`: small ones, page-sized ones and large ones,
/// aligned and not.
pub(crate) fn range(random: &mut Pcg64Mcg, whole: usize, most: usize) -> (usize, usize) {
    let most = most.min(whole);
    let length = match random.random_range(0..8) {
        0 => random.random_range(1..=16.min(most)),
        1 | 2 => random.random_range(1..=5000.min(most)),
        3 => 4096 * random.random_range(1..=16),
        4 | 5 => random.random_range(1..=(most / 8).max(1)),
        _ => random.random_range(1..=most),
    }
    .min(most);
    let mut offset = random.random_range(0..=whole - length);
    match random.random_range(0..4) {
        0 => offset -= offset % 4096,
        1 => offset -= offset % 8,
        _ => {}
    }
    (offset, length)
}
