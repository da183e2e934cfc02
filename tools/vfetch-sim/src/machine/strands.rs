// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Strands and their touches.

use super::{
    ask,
    config::{Recency, LINES},
    Doing, Event, Machine, Place, DEMAND, DIRTY, PENDING, PREFETCHED, PUSHED, REMOTE, RETURN,
};
use crate::{
    policy::Fault,
    trace::{Side, BLOCK_PAGES},
};

impl Machine<'_> {
    /// Hands out the items that can begin.
    pub(super) fn dispatch(&mut self, function: usize) {
        loop {
            let f = &mut self.functions[function];
            let Some(item) = f.trace.items.get(f.item) else {
                if f.running == 0 {
                    f.counters.time_ns = self.now;
                }
                return;
            };
            if item.barrier && f.running > 0 {
                return;
            }
            let strand = match item.side {
                Side::Device => f.idle.pop(),
                Side::Host => std::mem::take(&mut f.host_idle).then_some(f.host),
            };
            let Some(strand) = strand else { return };
            let next = f
                .item
                .checked_sub(1)
                .map_or(0, |before| f.trace.items[before].end);
            f.item += 1;
            f.running += 1;
            let s = &mut self.strands[strand];
            s.doing = Doing::Running;
            s.next = next;
            s.end = item.end;
            self.at(self.now, Event::Strand(strand as u32));
        }
    }

    pub(super) fn strand(&mut self, strand: usize) {
        let s = &self.strands[strand];
        let function = s.function;
        if s.next >= s.end {
            let side = s.side;
            self.strands[strand].doing = Doing::Nothing;
            let f = &mut self.functions[function];
            f.running -= 1;
            match side {
                Side::Device => f.idle.push(strand),
                Side::Host => f.host_idle = true,
            }
            self.dispatch(function);
            return;
        }
        let touch = self.functions[function].trace.touches[s.next];
        let page = self.functions[function].base + touch.page;
        match s.side {
            Side::Device => self.device_touch(strand, page, touch.is_write()),
            Side::Host => self.host_touch(strand, page),
        }
    }

    /// The strand's touch is done: it goes on when it has computed.
    pub(super) fn touched(&mut self, strand: usize) {
        self.goes_on(strand, self.costs.compute_ns);
    }

    /// The strand's touch is of a page that is pinned on the other side.
    pub(super) fn touched_remotely(&mut self, strand: usize) {
        let s = &self.strands[strand];
        let f = &mut self.functions[s.function];
        let accesses = f.trace.touches[s.next].accesses();
        f.counters.remote += 1;
        f.counters.remote_lines += u64::from(accesses.min(LINES));
        self.goes_on(strand, self.costs.remote_ns(accesses));
    }

    /// The strand's touch is done in `time_ns`.
    fn goes_on(&mut self, strand: usize, time_ns: u64) {
        let s = &mut self.strands[strand];
        let f = &mut self.functions[s.function];
        let touch = f.trace.touches[s.next];
        f.counters.accesses += u64::from(touch.accesses());
        f.counters.touches += 1;
        s.next += 1;
        s.doing = Doing::Running;
        self.at(self.now + time_ns, Event::Strand(strand as u32));
    }

    /// Whether `page` is pinned at `place`, and the other side reaches it there.
    pub(super) fn is_remote(&mut self, page: u32, place: Place) -> bool {
        let p = &mut self.pages[page as usize];
        if p.flags & REMOTE == 0 || p.place != place {
            return false;
        }
        if !self.thrashing.is_pinned(page, self.now) {
            p.flags &= !REMOTE;
            return false;
        }
        true
    }

    fn device_touch(&mut self, strand: usize, page: u32, write: bool) {
        let function = self.strands[strand].function;
        if self.costs.recency == Recency::Access {
            self.blocks[(page / BLOCK_PAGES) as usize].last = self.now;
        }
        let without = self.shadow.touch(page);
        if self.pages[page as usize].place == Place::Device {
            self.use_page(function, page, write);
            self.touched(strand);
            return;
        }
        if self.is_remote(page, Place::Host) {
            self.touched_remotely(strand);
            return;
        }
        self.strands[strand].doing = Doing::Waiting(page);
        let base = self.functions[function].base;
        let p = &mut self.pages[page as usize];
        if p.flags & (PENDING | DEMAND | RETURN | REMOTE) != 0 {
            self.functions[function].counters.joined += 1;
            return;
        }
        p.flags |= PENDING;
        let arriving = matches!(p.place, Place::Frameless | Place::Queued | Place::Flight);
        if arriving && p.flags & PREFETCHED != 0 {
            p.flags &= !PREFETCHED;
            self.functions[function].counters.late += 1;
            ask!(self, function, Side::Device, late, page - base);
        }
        let p = &self.pages[page as usize];
        let f = &mut self.functions[function];
        if !arriving {
            f.counters.misses += 1;
            f.counters.polluted += u64::from(without && p.flags & PUSHED != 0);
        }
        f.buffer.push_back(Fault {
            page: page - base,
            write,
        });
        self.begin_batch(function);
    }

    /// A page on the device is touched.
    pub(super) fn use_page(&mut self, function: usize, page: u32, write: bool) {
        let p = &mut self.pages[page as usize];
        if write {
            p.flags |= DIRTY;
        }
        if p.flags & PREFETCHED == 0 {
            return;
        }
        p.flags &= !PREFETCHED;
        self.functions[function].counters.used += 1;
        let base = self.functions[function].base;
        let mut hint = std::mem::take(&mut self.hint);
        ask!(self, function, Side::Device, used, page - base, &mut hint);
        self.prefetch(function, &mut hint);
        self.hint = hint;
    }

    /// Strands of the device that wait for `page` reach it on the host.
    pub(super) fn reached(&mut self, function: usize, page: u32) {
        let waiting: Vec<usize> = self.strands_waiting(function, page).collect();
        for strand in waiting {
            self.touched_remotely(strand);
        }
    }

    /// The function's strands on the device that wait for `page`.
    pub(super) fn strands_waiting(
        &self,
        function: usize,
        page: u32,
    ) -> impl Iterator<Item = usize> + '_ {
        let each = self.costs.strands as usize + 1;
        (function * each..(function + 1) * each).filter(move |strand| {
            let s = &self.strands[*strand];
            s.doing == Doing::Waiting(page) && s.side == Side::Device
        })
    }
}
