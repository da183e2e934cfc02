// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Faults of the device, batches of them, and what is asked for in return.

use std::time::Instant;

use vfetch_engine::{prefetch::Location, thrashing::Answer};

use super::{
    ask, class, config::Recency, set, Event, Function, Machine, Place, AHEAD, DEMAND,
    HOST_PREFETCHED, PENDING, PREFETCHED, REMOTE, RETURN,
};
use crate::{
    policy::{Fault, Hint},
    trace::{Side, BLOCK_PAGES},
};

impl Machine<'_> {
    pub(super) fn begin_batch(&mut self, function: usize) {
        let f = &mut self.functions[function];
        if f.handling || f.buffer.is_empty() {
            return;
        }
        f.handling = true;
        let pages = f.buffer.len().min(self.costs.batch_faults as usize);
        f.batch.extend(f.buffer.drain(..pages));
        f.counters.faults += pages as u64;
        f.counters.batches += 1;
        self.timeline.add(self.now, pages as u64);
        let time = self.costs.batch_ns + self.costs.fault_ns * pages as u64;
        self.at(self.now + time, Event::Handled(function as u32));
    }

    pub(super) fn handled(&mut self, function: usize) {
        let mut batch = std::mem::take(&mut self.functions[function].batch);
        let base = self.functions[function].base;
        batch.retain(|fault| {
            let page = base + fault.page;
            if self.costs.recency == Recency::Fault {
                self.blocks[(page / BLOCK_PAGES) as usize].last = self.now;
            }
            self.may_come(function, page)
        });
        let mut hint = std::mem::take(&mut self.hint);
        self.decide(function, Side::Device, &batch, &mut hint);
        batch.sort_by_key(|fault| fault.page / BLOCK_PAGES);
        for block in batch.chunk_by(|a, b| a.page / BLOCK_PAGES == b.page / BLOCK_PAGES) {
            let mut moved = [0; 8];
            for fault in block {
                let page = base + fault.page;
                let p = &self.pages[page as usize];
                set(&mut moved, page, p.is_hosts());
                self.demand(page);
            }
            if let Some(fault) = block.first() {
                let block = (base + fault.page) / BLOCK_PAGES;
                self.thrashing
                    .moved(block as usize, Side::Device, &moved, self.now);
            }
            self.pump_frames(block.first().map(|fault| base + fault.page));
        }
        self.prefetch(function, &mut hint);
        self.hint = hint;
        let f = &mut self.functions[function];
        f.batch = batch;
        f.batch.clear();
        f.handling = false;
        self.begin_batch(function);
        if !self.lanes[0].busy {
            self.idle();
        }
    }

    /// Whether the faulted page may come to the device now.
    fn may_come(&mut self, function: usize, page: u32) -> bool {
        let p = &mut self.pages[page as usize];
        let answer = if p.is_hosts() {
            self.thrashing.ask(page, Side::Device, Side::Host, self.now)
        } else {
            Answer::Go
        };
        let counters = &mut self.functions[function].counters;
        match answer {
            Answer::Wait { until_us } => {
                // It stays pending: the fault is raised again.
                counters.throttled += 1;
                self.at(until_us * 1000, Event::Woken(page));
                false
            }
            Answer::Pinned { at: Location::Host } => {
                counters.pinned += 1;
                p.flags = (p.flags | REMOTE) & !PENDING;
                if p.place == Place::Host {
                    self.reached(function, page);
                }
                false
            }
            Answer::Go | Answer::Pinned { .. } => {
                p.flags &= !PENDING;
                true
            }
        }
    }

    /// The nap is over: the fault is raised again.
    pub(super) fn woken(&mut self, page: u32) {
        let function = self.owner[(page / BLOCK_PAGES) as usize] as usize;
        let write = self.strands_waiting(function, page).any(|strand| {
            let s = &self.strands[strand];
            self.functions[function].trace.touches[s.next].is_write()
        });
        let f = &mut self.functions[function];
        f.buffer.push_back(Fault {
            page: page - f.base,
            write,
        });
        self.begin_batch(function);
    }

    pub(super) fn decide(
        &mut self,
        function: usize,
        side: Side,
        faults: &[Fault],
        hint: &mut Hint,
    ) {
        let start = self.measure.then(Instant::now);
        ask!(self, function, side, batch, faults, hint);
        if let Some(start) = start {
            let ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.functions[function]
                .counters
                .decided(ns.saturating_sub(self.clock_ns));
        }
    }

    fn demand(&mut self, page: u32) {
        let p = &mut self.pages[page as usize];
        match p.place {
            // It arrived meanwhile.
            Place::Device => {}
            Place::Host => {
                p.flags |= DEMAND;
                self.request(page);
            }
            Place::Frameless | Place::Queued | Place::Flight => self.raise(page, DEMAND),
            Place::Leaving | Place::Return => p.flags |= RETURN,
        }
    }

    pub(super) fn prefetch(&mut self, function: usize, hint: &mut Hint) {
        let lists = [
            (&mut hint.pages, 0, false),
            (&mut hint.gentle, 0, true),
            (&mut hint.ahead, AHEAD, false),
            (&mut hint.gentle_ahead, AHEAD, true),
        ];
        for (pages, ahead, gentle) in lists {
            for block in pages.chunk_by(|a, b| a / BLOCK_PAGES == b / BLOCK_PAGES) {
                self.prefetch_block(function, block, ahead, gentle);
            }
            pages.clear();
        }
    }

    /// Pages of one block; `ahead` is [`AHEAD`] or nothing.
    fn prefetch_block(&mut self, function: usize, block: &[u32], ahead: u16, gentle: bool) {
        let Function { base, trace, .. } = self.functions[function];
        let mut requested = None;
        let mut moved = [0; 8];
        for page in block {
            if *page >= trace.pages {
                self.functions[function].counters.invalid += 1;
                continue;
            }
            let page = base + page;
            let pinned = self.is_remote(page, Place::Host);
            let p = &mut self.pages[page as usize];
            match p.place {
                Place::Host if pinned => {
                    ask!(self, function, Side::Device, dropped, page - base);
                }
                Place::Host
                    if p.flags & PENDING == 0
                        && gentle
                        && self.free + self.coming <= self.wanting.iter().sum::<u32>() =>
                {
                    ask!(self, function, Side::Device, dropped, page - base);
                }
                Place::Host if p.flags & PENDING == 0 => {
                    p.flags |= PREFETCHED | ahead;
                    self.functions[function].counters.prefetched += 1;
                    self.request(page);
                    requested = Some(page);
                    set(&mut moved, page, true);
                }
                Place::Leaving | Place::Return => {
                    ask!(self, function, Side::Device, dropped, page - base);
                }
                Place::Frameless | Place::Queued | Place::Flight => {
                    if ahead == 0 && p.flags & AHEAD != 0 {
                        self.raise(page, 0);
                    }
                }
                // There already, or about to be demanded.
                Place::Host | Place::Device => {}
            }
        }
        if let Some(page) = requested {
            let block = (page / BLOCK_PAGES) as usize;
            self.thrashing.moved(block, Side::Device, &moved, self.now);
            self.pump_frames(requested);
        }
    }

    /// A page of the host is wanted on the device, for what its flags say; frames are handed out later.
    pub(super) fn request(&mut self, page: u32) {
        let block = (page / BLOCK_PAGES) as usize;
        let function = self.owner[block] as usize;
        let p = &mut self.pages[page as usize];
        p.place = Place::Frameless;
        let unused = p.flags & HOST_PREFETCHED != 0;
        p.flags &= !(HOST_PREFETCHED | REMOTE);
        let queue = class(p.flags).frames();
        self.frameless[queue].push_back(page);
        self.wanting[queue] += 1;
        set(&mut self.blocks[block].coming, page, true);
        self.functions[function].counters.unused += u64::from(unused);
        self.tell_page_moved(Side::Host, page);
    }

    /// A page that is on its way goes with a higher class: its entries in the queues become stale.
    fn raise(&mut self, page: u32, demand: u16) {
        let p = &mut self.pages[page as usize];
        let before = class(p.flags);
        p.flags = (p.flags & !AHEAD) | demand;
        let after = class(p.flags);
        if before == after {
            return;
        }
        match p.place {
            Place::Frameless => {
                self.wanting[before.frames()] -= 1;
                self.wanting[after.frames()] += 1;
                self.frameless[after.frames()].push_back(page);
            }
            Place::Queued => {
                let function = self.owner[(page / BLOCK_PAGES) as usize];
                self.lanes[0].push(after, function as usize, page);
            }
            _ => {}
        }
    }
}
