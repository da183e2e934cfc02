// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Who gets a frame, and who has to go for it.

use super::{
    ask, class, config::Writeback, link::Class, set, Machine, Place, AHEAD, DEMAND, DIRTY, FRAMED,
    PREFETCHED, PUSHED, REMOTE,
};
use crate::trace::{Side, BLOCK_PAGES};

impl Machine<'_> {
    /// Hands out frames, and makes room: the block of page `keep` stays if another can go.
    pub(super) fn pump_frames(&mut self, keep: Option<u32>) {
        let keep = keep.map(|page| (page / BLOCK_PAGES) as usize);
        loop {
            for wanted in FRAMED {
                let queue = wanted.frames();
                while self.free > 0 {
                    let Some(page) = self.frameless[queue].pop_front() else {
                        break;
                    };
                    let p = &mut self.pages[page as usize];
                    if p.place != Place::Frameless || class(p.flags) != wanted {
                        continue;
                    }
                    p.place = Place::Queued;
                    self.free -= 1;
                    self.wanting[queue] -= 1;
                    self.peak = self.peak.max(self.capacity - self.free);
                    let function = self.owner[(page / BLOCK_PAGES) as usize];
                    self.lanes[0].push(wanted, function as usize, page);
                }
            }
            if self.wanting.iter().sum::<u32>() <= self.coming {
                break;
            }
            let demands = self.wanting[0] > self.coming;
            let Some(victim) = self.victim(keep, demands) else {
                self.drop_prefetches();
                break;
            };
            self.evict(victim, demands);
        }
        self.pump_link();
    }

    /// The least recently used block with pages on the device; `keep` only for demands, and if there is no other.
    fn victim(&self, keep: Option<usize>, demands: bool) -> Option<usize> {
        let mut best = None;
        for (index, block) in self.blocks.iter().enumerate() {
            if block.here == [0; 8] {
                continue;
            }
            let guarded = keep == Some(index);
            if guarded && !demands {
                continue;
            }
            let key = (guarded, block.last, index);
            if best.is_none_or(|best| key < best) {
                best = Some(key);
            }
        }
        best.map(|(_, _, index)| index)
    }

    fn evict(&mut self, block: usize, demands: bool) {
        let here = self.blocks[block].here;
        for (word, mut bits) in here.into_iter().enumerate() {
            while bits != 0 {
                let page = block as u32 * BLOCK_PAGES + word as u32 * 64 + bits.trailing_zeros();
                bits &= bits - 1;
                let p = &mut self.pages[page as usize];
                if demands {
                    p.flags &= !PUSHED;
                } else {
                    p.flags |= PUSHED;
                }
                self.leave(page, Class::Writeback);
            }
        }
        self.thrashing.moved(block, Side::Host, &here, self.now);
        let function = self.owner[block] as usize;
        self.functions[function].counters.evictions += 1;
        let first = self.functions[function].base / BLOCK_PAGES;
        ask!(
            self,
            function,
            Side::Device,
            evicted,
            block as u32 - first,
            &here
        );
    }

    /// A page of the device goes to the host. Its prefetcher is told by the caller.
    fn leave(&mut self, page: u32, class: Class) {
        let block = (page / BLOCK_PAGES) as usize;
        let function = self.owner[block] as usize;
        set(&mut self.blocks[block].here, page, false);
        let p = &mut self.pages[page as usize];
        let unused = p.flags & PREFETCHED != 0;
        let dirty = p.flags & DIRTY != 0;
        p.flags &= !(PREFETCHED | DIRTY | DEMAND | REMOTE);
        let travels = class != Class::Writeback || self.costs.writeback == Writeback::All || dirty;
        p.place = if travels { Place::Leaving } else { Place::Host };
        self.functions[function].counters.unused += u64::from(unused);
        if travels {
            self.coming += 1;
            let lane = self.lanes.len() - 1;
            self.lanes[lane].push(class, function, page);
        } else {
            self.free += 1;
        }
    }

    /// The host takes a page of the device's.
    pub(super) fn take(&mut self, page: u32, class: Class) {
        let mut moved = [0; 8];
        set(&mut moved, page, true);
        let block = (page / BLOCK_PAGES) as usize;
        self.thrashing.moved(block, Side::Host, &moved, self.now);
        self.leave(page, class);
        self.tell_page_moved(Side::Device, page);
    }

    /// `page` has left `side` for the other one.
    pub(super) fn tell_page_moved(&mut self, side: Side, page: u32) {
        let function = self.owner[(page / BLOCK_PAGES) as usize] as usize;
        let base = self.functions[function].base;
        ask!(self, function, side, moved, page - base);
    }

    /// Nothing can be evicted for them.
    fn drop_prefetches(&mut self) {
        for wanted in [Class::Ahead, Class::Prefetch] {
            let queue = wanted.frames();
            while self.wanting.iter().sum::<u32>() > self.coming {
                let Some(page) = self.frameless[queue].pop_back() else {
                    break;
                };
                let p = &mut self.pages[page as usize];
                if p.place != Place::Frameless || class(p.flags) != wanted {
                    continue;
                }
                p.place = Place::Host;
                // If not, it was demanded meanwhile; its batch will ask for it.
                let counted = p.flags & PREFETCHED != 0;
                p.flags &= !(PREFETCHED | AHEAD);
                self.wanting[queue] -= 1;
                let block = (page / BLOCK_PAGES) as usize;
                set(&mut self.blocks[block].coming, page, false);
                let function = self.owner[block] as usize;
                let f = &mut self.functions[function];
                f.counters.prefetched -= u64::from(counted);
                f.counters.dropped += 1;
                let base = f.base;
                ask!(self, function, Side::Device, dropped, page - base);
            }
        }
    }
}
