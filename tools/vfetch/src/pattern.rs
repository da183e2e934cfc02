// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Test data: every byte is a function of a seed and of its offset, so that any
//! part of a space can be checked alone, and data at a wrong offset, of another
//! space or of an earlier time is recognised.

use crate::exit::Mismatch;

/// The data of one seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pattern {
    seed: u64,
}

impl Pattern {
    pub(crate) fn new(seed: u64) -> Self {
        // Near seeds give unrelated data.
        Self { seed: mix(seed) }
    }

    /// Fills `buffer` with what belongs at `offset`.
    pub(crate) fn fill(self, buffer: &mut [u8], offset: u64) {
        self.for_words(offset, buffer.len(), |range, bytes| {
            if let Some(part) = buffer.get_mut(range) {
                part.copy_from_slice(bytes);
            }
        });
    }

    /// Checks that `buffer` is what belongs at `offset` of `place`.
    pub(crate) fn check(self, buffer: &[u8], offset: u64, place: &str) -> Result<(), Mismatch> {
        let mut wrong = None;
        self.for_words(offset, buffer.len(), |range, bytes| {
            let start = range.start;
            if let (None, Some(part)) = (&wrong, buffer.get(range)) {
                if part != bytes {
                    let at = part
                        .iter()
                        .zip(bytes)
                        .position(|(a, b)| a != b)
                        .unwrap_or(0);
                    wrong = Some(Mismatch {
                        place: place.to_owned(),
                        offset: offset + (start + at) as u64,
                        bytes: bytes.get(at).copied().zip(part.get(at).copied()),
                        block: buffer.len(),
                    });
                }
            }
        });
        wrong.map_or(Ok(()), Err)
    }

    /// Calls `f` for each part of `len` bytes at `offset` that is within one aligned
    /// word, with the part's range in the buffer and its bytes.
    fn for_words(self, offset: u64, len: usize, mut f: impl FnMut(std::ops::Range<usize>, &[u8])) {
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let word = mix(self.seed ^ (at / 8)).to_le_bytes();
            let within = usize::from(at.to_le_bytes()[0] % 8);
            let n = (8 - within).min(len - done);
            f(done..done + n, &word[within..within + n]);
            done += n;
        }
    }
}

/// Checks that `buffer` is all zeros: what was never written reads so.
pub(crate) fn check_zeros(buffer: &[u8], offset: u64, place: &str) -> Result<(), Mismatch> {
    match buffer.iter().position(|b| *b != 0) {
        None => Ok(()),
        Some(at) => Err(Mismatch {
            place: place.to_owned(),
            offset: offset + at as u64,
            bytes: buffer.get(at).map(|found| (0, *found)),
            block: buffer.len(),
        }),
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014), preceded by its increment.
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_is_the_same_as_in_the_whole() {
        let pattern = Pattern::new(7);
        let mut whole = [0; 64];
        pattern.fill(&mut whole, 1000);
        for start in 0..20 {
            let mut part = vec![0; 30];
            pattern.fill(&mut part, 1000 + start as u64);
            assert_eq!(part, whole[start..start + 30]);
        }
    }

    #[test]
    fn one_wrong_byte_is_found_where_it_is() {
        let pattern = Pattern::new(1);
        let mut data = vec![0; 4096];
        pattern.fill(&mut data, 5);
        assert_eq!(pattern.check(&data, 5, "here"), Ok(()));
        data[2049] ^= 0x10;
        let wrong = pattern.check(&data, 5, "here").unwrap_err();
        assert_eq!(wrong.offset, 2054);
        assert!(matches!(wrong.bytes, Some((expected, found)) if expected ^ found == 0x10));
    }

    #[test]
    fn data_of_another_offset_or_seed_is_wrong() {
        let mut data = vec![0; 4096];
        Pattern::new(1).fill(&mut data, 0);
        assert!(Pattern::new(1).check(&data, 4096, "").is_err());
        assert!(Pattern::new(2).check(&data, 0, "").is_err());
        assert!(Pattern::new(1).check(&[0; 16], 0, "").is_err());
    }

    #[test]
    fn a_byte_among_zeros_is_found() {
        assert_eq!(check_zeros(&[0; 100], 8, ""), Ok(()));
        assert_eq!(check_zeros(&[0, 0, 9], 8, "").unwrap_err().offset, 10);
    }
}
