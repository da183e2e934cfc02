// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What would be on the device if nothing were prefetched: tells which misses prefetching has caused.

use crate::trace::BLOCK_PAGES;

/// Pages on the device under demand alone, with the same eviction (whole blocks, least recently used) and no time.
#[derive(Debug)]
pub(crate) struct Shadow {
    here: Vec<bool>,
    blocks: Vec<Block>,
    count: u32,
    capacity: u32,
    clock: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    count: u32,
    last: u64,
}

impl Shadow {
    /// Of so many pages, of which `capacity` (at least 1) fit.
    pub(crate) fn new(pages: usize, capacity: u32) -> Self {
        Self {
            here: vec![false; pages],
            blocks: vec![Block::default(); pages.div_ceil(BLOCK_PAGES as usize)],
            count: 0,
            capacity: capacity.max(1),
            clock: 0,
        }
    }

    /// The device touches `page`; whether it would have been there.
    pub(crate) fn touch(&mut self, page: u32) -> bool {
        self.clock += 1;
        let block = (page / BLOCK_PAGES) as usize;
        self.blocks[block].last = self.clock;
        if std::mem::replace(&mut self.here[page as usize], true) {
            return true;
        }
        self.blocks[block].count += 1;
        self.count += 1;
        if self.count > self.capacity {
            self.evict(block);
        }
        false
    }

    /// The page moves to the host.
    pub(crate) fn remove(&mut self, page: u32) {
        if std::mem::replace(&mut self.here[page as usize], false) {
            self.blocks[(page / BLOCK_PAGES) as usize].count -= 1;
            self.count -= 1;
        }
    }

    fn evict(&mut self, keep: usize) {
        let victim = self
            .blocks
            .iter()
            .enumerate()
            .filter(|(index, block)| block.count > 0 && *index != keep)
            .min_by_key(|(_, block)| block.last)
            .map_or(keep, |(index, _)| index);
        let first = victim * BLOCK_PAGES as usize;
        let end = (first + BLOCK_PAGES as usize).min(self.here.len());
        self.here[first..end].fill(false);
        self.count -= self.blocks[victim].count;
        self.blocks[victim].count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_leave_in_the_order_of_their_last_touch() {
        let mut s = Shadow::new(2048, 4);
        for page in [0, 512, 1, 513] {
            assert!(!s.touch(page));
        }
        assert!(s.touch(0));
        assert!(!s.touch(1024)); // block 1 goes
        assert!(s.touch(1));
        assert!(!s.touch(512));
        s.remove(1);
        assert!(!s.touch(1));
    }
}
