// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The host's touches and faults.

use vfetch_engine::{prefetch::Location, thrashing::Answer};

use super::{ask, link::Class, Doing, Event, Machine, Place, HOST_PREFETCHED, HOST_WANTS, REMOTE};
use crate::{policy::Fault, trace::Side};

impl Machine<'_> {
    pub(super) fn host_use(&mut self, function: usize, page: u32) {
        let p = &mut self.pages[page as usize];
        if p.flags & HOST_PREFETCHED != 0 {
            p.flags &= !HOST_PREFETCHED;
            let f = &mut self.functions[function];
            f.counters.used += 1;
            let base = f.base;
            // Nothing is prefetched in return.
            let mut hint = std::mem::take(&mut self.hint);
            ask!(self, function, Side::Host, used, page - base, &mut hint);
            hint.clear();
            self.hint = hint;
        }
    }

    pub(super) fn host_touch(&mut self, strand: usize, page: u32) {
        let function = self.strands[strand].function;
        self.shadow.remove(page);
        if self.pages[page as usize].place == Place::Host {
            self.host_use(function, page);
            self.touched(strand);
            return;
        }
        if self.is_remote(page, Place::Device) {
            self.touched_remotely(strand);
            return;
        }
        let p = &mut self.pages[page as usize];
        if matches!(p.place, Place::Leaving | Place::Return) && p.flags & HOST_PREFETCHED != 0 {
            p.flags &= !HOST_PREFETCHED;
            let f = &mut self.functions[function];
            f.counters.late += 1;
            let base = f.base;
            ask!(self, function, Side::Host, late, page - base);
        }
        self.strands[strand].doing = Doing::Waiting(page);
        self.functions[function].host_handled = false;
        self.functions[function].counters.host_faults += 1;
        self.timeline.add(self.now, 1);
        self.at(
            self.now + self.costs.host_fault_ns,
            Event::HostHandled(function as u32),
        );
    }

    /// Whether the page that the host has faulted on may come to it now.
    fn may_go(&mut self, function: usize, page: u32) -> bool {
        if self.pages[page as usize].place != Place::Device {
            return true;
        }
        let host = self.functions[function].host;
        let counters = &mut self.functions[function].counters;
        match self.thrashing.ask(page, Side::Host, Side::Device, self.now) {
            Answer::Wait { until_us } => {
                counters.throttled += 1;
                // It faults again then.
                self.at(until_us * 1000, Event::Strand(host as u32));
                false
            }
            Answer::Pinned {
                at: Location::Device,
            } => {
                counters.pinned += 1;
                self.pages[page as usize].flags |= REMOTE;
                self.touched_remotely(host);
                false
            }
            Answer::Go | Answer::Pinned { .. } => true,
        }
    }

    pub(super) fn host_handled(&mut self, function: usize) {
        let host = self.functions[function].host;
        let Doing::Waiting(page) = self.strands[host].doing else {
            return;
        };
        if !self.may_go(function, page) {
            return;
        }
        self.functions[function].host_handled = true;
        let base = self.functions[function].base;
        let write = self.functions[function].trace.touches[self.strands[host].next].is_write();
        let fault = Fault {
            page: page - base,
            write,
        };
        let mut hint = std::mem::take(&mut self.hint);
        self.decide(function, Side::Host, &[fault], &mut hint);
        match self.pages[page as usize].place {
            Place::Device => self.take(page, Class::Demand),
            Place::Leaving | Place::Return => {}
            // It left meanwhile.
            Place::Host => {
                self.host_use(function, page);
                self.touched(host);
            }
            Place::Frameless | Place::Queued | Place::Flight => {
                self.pages[page as usize].flags |= HOST_WANTS;
            }
        }
        hint.ahead.clear();
        hint.gentle_ahead.clear();
        let gentle = std::mem::take(&mut hint.gentle);
        hint.pages.extend(gentle);
        for other in hint.pages.drain(..) {
            if other >= self.functions[function].trace.pages {
                self.functions[function].counters.invalid += 1;
                continue;
            }
            let other = base + other;
            if self.pages[other as usize].place == Place::Device {
                self.take(other, Class::Prefetch);
                self.pages[other as usize].flags |= HOST_PREFETCHED;
                self.functions[function].counters.prefetched += 1;
            }
        }
        self.hint = hint;
        self.pump_link();
    }
}
