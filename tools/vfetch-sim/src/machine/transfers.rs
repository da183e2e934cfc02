// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Pages on the link: what begins to travel, and what happens when it has arrived.

use super::{
    ask, class,
    config::Recency,
    link::{Class, Lane},
    set, Doing, Event, Machine, Place, AHEAD, DEMAND, HOST_WANTS, IDLE_TRIES, PREFETCHED, REMOTE,
    RETURN, SEEN,
};
use crate::trace::{Side, BLOCK_PAGES};

impl Machine<'_> {
    /// For how long the busier lane has pages.
    pub(super) fn backlog_ns(&self) -> u64 {
        let frameless: u32 = self.wanting.iter().sum();
        let queued = self.lanes.iter().map(Lane::waiting).max().unwrap_or(0);
        (queued + frameless as usize) as u64 * self.page_ns
    }

    pub(super) fn pump_link(&mut self) {
        for lane in 0..self.lanes.len() {
            while !self.lanes[lane].busy {
                let Some((queue, page)) = self.lanes[lane].pop() else {
                    break;
                };
                let p = &mut self.pages[page as usize];
                let arrives = self.now + self.page_ns + self.costs.latency_ns;
                match p.place {
                    Place::Queued => {
                        // The entry of a page that was raised since is stale. (When it is met later, when the page waits for
                        // the link again, it lets the page go a little earlier.)
                        if class(p.flags) != queue {
                            continue;
                        }
                        p.place = Place::Flight;
                        self.at(arrives, Event::Arrived(page));
                    }
                    Place::Leaving if lane + 1 == self.lanes.len() => {
                        p.place = Place::Return;
                        self.at(arrives, Event::Left(page));
                    }
                    _ => continue,
                }
                self.lanes[lane].busy = true;
                self.link_bytes += crate::trace::PAGE_BYTES;
                self.at(self.now + self.page_ns, Event::Free(lane as u32));
            }
        }
    }

    /// The link to the device has nothing to do: functions may bring what nobody needs yet.
    pub(super) fn idle(&mut self) {
        for function in 0..self.functions.len() {
            // Of what is there already nothing comes.
            for _ in 0..IDLE_TRIES {
                let mut hint = std::mem::take(&mut self.hint);
                let again = ask!(self, function, Side::Device, idle, &mut hint);
                self.prefetch(function, &mut hint);
                self.hint = hint;
                if !again || self.lanes[0].busy {
                    break;
                }
            }
        }
    }

    pub(super) fn arrived(&mut self, page: u32) {
        let block = (page / BLOCK_PAGES) as usize;
        let function = self.owner[block] as usize;
        set(&mut self.blocks[block].coming, page, false);
        set(&mut self.blocks[block].here, page, true);
        let p = &mut self.pages[page as usize];
        p.place = Place::Device;
        let prefetched = p.flags & PREFETCHED != 0;
        let again = p.flags & SEEN != 0;
        p.flags = (p.flags | SEEN) & !(DEMAND | AHEAD);
        let host_wants = p.flags & HOST_WANTS != 0;
        let f = &mut self.functions[function];
        f.counters.pages_in += 1;
        f.counters.again += u64::from(again);
        let base = f.base;
        ask!(
            self,
            function,
            Side::Device,
            arrived,
            page - base,
            prefetched
        );
        let waiting: Vec<usize> = self.strands_waiting(function, page).collect();
        for strand in waiting {
            let s = &self.strands[strand];
            let write = self.functions[function].trace.touches[s.next].is_write();
            if self.costs.recency == Recency::Access {
                self.blocks[block].last = self.now;
            }
            self.use_page(function, page, write);
            self.touched(strand);
        }
        if host_wants {
            self.pages[page as usize].flags &= !HOST_WANTS;
            self.take(page, Class::Demand);
            self.pump_link();
        }
        // What has arrived can be evicted for those that found nothing to evict.
        if self.wanting != [0; 3] {
            self.pump_frames(None);
        }
    }

    pub(super) fn left(&mut self, page: u32) {
        let function = self.owner[(page / BLOCK_PAGES) as usize] as usize;
        self.coming -= 1;
        self.free += 1;
        self.functions[function].counters.pages_out += 1;
        let p = &mut self.pages[page as usize];
        p.place = Place::Host;
        let wanted = p.flags & RETURN != 0;
        p.flags &= !RETURN;
        let host = self.functions[function].host;
        if self.functions[function].host_handled && self.strands[host].doing == Doing::Waiting(page)
        {
            self.host_use(function, page);
            self.touched(host);
        }
        if wanted {
            self.pages[page as usize].flags |= DEMAND;
            self.request(page);
        } else if self.pages[page as usize].flags & REMOTE != 0 {
            self.reached(function, page);
        }
        self.pump_frames(None);
    }
}
