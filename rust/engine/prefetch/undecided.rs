// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Which blocks to look at before it is too late.
//!
//! Whether a page that came along has been used is written where it costs nothing: the device marks it, and the mark is read when
//! the page goes again. That is late to learn from: until then it looks unused. So the marks of blocks to which something came lately
//! are read now and then while they are still there.

use super::BlockId;

/// Blocks that are remembered.
const BLOCKS: usize = 8;

/// Blocks to look at in a turn.
pub const LOOKS: usize = 4;

/// The last blocks to which something came along and of which more is to be known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Undecided {
    /// The one that is to be looked at next is in front; no block is there twice.
    blocks: [Option<BlockId>; BLOCKS],
}

impl Undecided {
    /// None yet.
    pub(super) const NEW: Self = Self {
        blocks: [None; BLOCKS],
    };

    /// Something comes along to `block`, or more is to be known of it: it is the last one. Where there are too many the first one goes.
    pub(super) fn add(&mut self, block: BlockId) {
        if self.blocks.contains(&Some(block)) {
            return;
        }
        let free = self.blocks.iter().position(Option::is_none);
        if free.is_none() {
            self.blocks.rotate_left(1);
        }
        if let Some(place) = self.blocks.get_mut(free.unwrap_or(BLOCKS - 1)) {
            *place = Some(block);
        }
    }

    /// Takes those out whose turn it is.
    pub(super) fn take(&mut self) -> [Option<BlockId>; LOOKS] {
        let mut turn = [None; LOOKS];
        for (turn, block) in turn.iter_mut().zip(&mut self.blocks) {
            *turn = block.take();
        }
        self.blocks.rotate_left(LOOKS);
        turn
    }
}
