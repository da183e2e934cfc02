// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Blocks that are used one after the other, and which come next.

use super::super::super::prefetch::BlockId;

/// Streams that are followed at a time.
const STREAMS: usize = 8;

/// Steps that make a direction.
const STEPS: u8 = 2;

/// So many blocks before the last one still belong to the stream.
const BEHIND: u64 = 3;

/// So many blocks behind the last one that was used may have been asked for.
const REACH: u8 = 32;

/// Blocks that are used one after the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stream {
    last: BlockId,
    /// +1 or -1.
    backwards: bool,
    /// Steps in this direction.
    steps: u8,
    /// Blocks behind the last one that were asked for.
    reach: u8,
}

impl Stream {
    const fn new(block: BlockId) -> Self {
        Self {
            last: block,
            backwards: false,
            steps: 0,
            reach: 0,
        }
    }

    /// The stream when `block` is used, if it is one of its own.
    fn moved_to(self, block: BlockId) -> Option<Self> {
        if self.last.space != block.space {
            return None;
        }
        let by = self.last.index.abs_diff(block.index);
        let backwards = block.index < self.last.index;
        if by == 0 || (self.steps >= STEPS && backwards != self.backwards && by <= BEHIND) {
            // Several blocks of a stream are used at a time.
            return Some(self);
        }
        let turned = self.steps > 0 && backwards != self.backwards;
        let most = if turned { 1 } else { u64::from(self.reach) + 1 };
        if by > most {
            return None;
        }
        Some(Self {
            last: block,
            backwards,
            steps: if turned {
                1
            } else {
                self.steps.saturating_add(1)
            },
            reach: if turned {
                0
            } else {
                self.reach
                    .saturating_sub(u8::try_from(by).unwrap_or(u8::MAX))
            },
        })
    }

    /// The block `ahead` places behind the last one.
    fn block(self, ahead: u8) -> Option<BlockId> {
        if self.steps < STEPS {
            return None;
        }
        let index = if self.backwards {
            self.last.index.checked_sub(u64::from(ahead))?
        } else {
            self.last.index.checked_add(u64::from(ahead))?
        };
        Some(BlockId {
            space: self.last.space,
            index,
        })
    }
}

/// The streams that moved last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Streams {
    /// The one that moved last is the first.
    streams: [Option<Stream>; STREAMS],
}

impl Streams {
    /// None yet.
    pub(super) const NEW: Self = Self {
        streams: [None; STREAMS],
    };

    /// `block` is being used: moves the stream that it continues, or begins one.
    pub(super) fn follow(&mut self, block: BlockId) {
        let moved = |stream: &Option<Stream>| stream.and_then(|stream| stream.moved_to(block));
        let at = self
            .streams
            .iter()
            .position(|stream| moved(stream).is_some());
        let found = at.and_then(|at| self.streams.get(at).and_then(moved));
        // To the front; without one that it continues, the one that moved least lately goes.
        if let Some(before) = self.streams.get_mut(..=at.unwrap_or(STREAMS - 1)) {
            before.rotate_right(1);
        }
        if let Some(first) = self.streams.first_mut() {
            *first = Some(found.unwrap_or(Stream::new(block)));
        }
    }

    /// The block after the last one of the stream that moved last.
    pub(super) fn next(&self) -> Option<BlockId> {
        self.streams.first().copied().flatten()?.block(1)
    }

    /// The next block that nobody asked for, of the stream where that is nearest; it counts as asked for from now on.
    pub(super) fn farther(&mut self) -> Option<BlockId> {
        let stream = (self.streams.iter_mut().flatten())
            .filter(|stream| stream.reach < REACH && stream.block(stream.reach + 1).is_some())
            .min_by_key(|stream| stream.reach)?;
        stream.reach += 1;
        stream.block(stream.reach)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn block(index: u64) -> BlockId {
        BlockId { space: 0, index }
    }

    fn after(used: &[u64]) -> Streams {
        let mut streams = Streams::NEW;
        for index in used {
            streams.follow(block(*index));
        }
        streams
    }

    #[test]
    fn two_steps_make_a_direction() {
        assert_eq!(after(&[5, 6]).next(), None);
        assert_eq!(after(&[5, 6, 7]).next(), Some(block(8)));
        assert_eq!(after(&[7, 6, 5]).next(), Some(block(4)));
        assert_eq!(after(&[2, 1, 0]).next(), None);
        assert_eq!(after(&[u64::MAX - 2, u64::MAX - 1, u64::MAX]).next(), None);
    }

    #[test]
    fn blocks_of_a_stream_that_are_used_at_a_time_are_no_turn() {
        assert_eq!(after(&[5, 6, 7, 6, 7, 5, 8, 7]).next(), Some(block(9)));
        // That is one.
        assert_eq!(after(&[5, 6, 7, 8, 9, 5, 4, 3]).next(), Some(block(2)));
    }

    #[test]
    fn each_block_is_asked_for_once_and_the_nearest_first() {
        let mut streams = after(&[5, 6, 7, 105, 106, 107]);
        let mut asked: Vec<u64> = core::iter::from_fn(|| streams.farther())
            .map(|block| block.index)
            .collect();
        assert_eq!(&asked[..4], [108, 8, 109, 9]);
        assert_eq!(asked.len(), 2 * usize::from(REACH));
        asked.sort_unstable();
        asked.dedup();
        assert_eq!(asked.len(), 2 * usize::from(REACH));
        // What was asked for is used: the stream moves that far, and there is more to ask for.
        streams.follow(block(108));
        assert_eq!(streams.farther(), Some(block(107 + u64::from(REACH) + 1)));
    }
}
