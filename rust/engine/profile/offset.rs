// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A search for the best offset: the one by which accesses follow one another, whatever comes between.
//!
//! After Michaud ("Best-offset hardware prefetching", HPCA 2016): an offset scores when the page that far before an access was accessed
//! lately. It answers for accesses whose order is not exact, of several threads or of parallel hardware, where no single
//! distance comes twice in a row.

/// Offsets that are tried: those of the paper, whose prime factors are 2, 3 and 5, up to 32; and back.
const OFFSETS: [i8; 36] = [
    1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6, 8, -8, 9, -9, 10, -10, 12, -12, 15, -15, 16, -16, 18,
    -18, 20, -20, 24, -24, 25, -25, 27, 30, 32, -32,
];

/// Offsets that an access tries.
const TRIED: usize = 4;

/// Times that each is tried before the best is known.
const ROUNDS: u8 = 16;

/// Accesses that are remembered, by their hash.
const RECENT: usize = 64;

/// The accesses of late, and the best offset between them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Offsets {
    recent: [u32; RECENT],
    scores: [u8; OFFSETS.len()],
    next: u8,
    round: u8,
    best: Option<i8>,
    /// How often the best one scored, of [`ROUNDS`].
    score: u8,
}

/// Where `page` is remembered, and as what.
const fn hash(space: u32, page: u64) -> (usize, u32) {
    let mixed = (page ^ (space as u64).rotate_left(40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // CAST: below the number of places; and 32 bits, never 0.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "below the number of places; and 32 bits"
    )]
    ((mixed >> 58) as usize % RECENT, (mixed >> 8) as u32 | 1)
}

impl Offsets {
    /// Nothing was accessed.
    pub(super) const NEW: Self = Self {
        recent: [0; RECENT],
        scores: [0; OFFSETS.len()],
        next: 0,
        round: 0,
        best: None,
        score: 0,
    };

    fn knows(&self, space: u32, page: u64) -> bool {
        let (at, tag) = hash(space, page);
        self.recent.get(at) == Some(&tag)
    }

    /// `page` is accessed, and was not the last one, too.
    pub(super) fn learn(&mut self, space: u32, page: u64) {
        for _ in 0..TRIED {
            let at = usize::from(self.next);
            let offset = OFFSETS.get(at).copied().map_or(0, i64::from);
            let follows = page
                .checked_add_signed(-offset)
                .is_some_and(|before| self.knows(space, before));
            if let Some(score) = self.scores.get_mut(at).filter(|_| follows) {
                *score = score.saturating_add(1);
            }
            self.next = self.next.saturating_add(1);
            if usize::from(self.next) == OFFSETS.len() {
                self.next = 0;
                self.round = self.round.saturating_add(1);
            }
        }
        if self.round >= ROUNDS {
            self.decide();
        }
        let (at, tag) = hash(space, page);
        if let Some(place) = self.recent.get_mut(at) {
            *place = tag;
        }
    }

    fn decide(&mut self) {
        // Of those that score equally the first, which is the shortest.
        let mut best = (0, None);
        for (score, offset) in self.scores.iter().zip(OFFSETS) {
            if *score > best.0 {
                best = (*score, Some(offset));
            }
        }
        (self.score, self.best) = best;
        self.scores = [0; OFFSETS.len()];
        self.round = 0;
    }

    /// The offset that accesses follow one another by, if most do: 3 of 4.
    pub(super) fn best(&self) -> Option<i8> {
        self.best.filter(|_| self.score >= ROUNDS / 4 * 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_finds_what_threads_that_share_a_stride_hide() {
        let mut offsets = Offsets::NEW;
        // Groups of four, in an order of their own each time: no distance comes twice in a row.
        let orders = [[2, 0, 3, 1], [1, 3, 0, 2], [3, 2, 0, 1]];
        for (group, order) in (0..100u64).zip(orders.iter().cycle()) {
            for page in order {
                offsets.learn(0, group * 4 + page);
            }
        }
        // Any within the last two groups is right.
        assert!(offsets
            .best()
            .is_some_and(|offset| (1..8).contains(&offset)));
    }

    #[test]
    fn it_finds_offsets_that_lead_back() {
        let mut offsets = Offsets::NEW;
        for page in 0..400 {
            offsets.learn(0, 10_000 - page * 3);
        }
        assert_eq!(offsets.best(), Some(-3));
    }

    #[test]
    fn it_says_nothing_of_random_accesses() {
        let mut offsets = Offsets::NEW;
        let mut random = 88_172_645_463_325_252u64;
        for _ in 0..2_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            offsets.learn(0, random % (1 << 30));
            assert_eq!(offsets.best(), None);
        }
    }
}
