// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The machine: strands that touch pages, faults, a handler for each function, the device's memory, the link.
//!
//! It is closed: what is on the device, what must go, what the link carries and when a strand goes on all follow from what the
//! prefetchers answered before. Time is virtual, and nothing depends on the host's time or on chance: the same
//! traces, costs and prefetchers give the same run.
//!
//! What happens at a touch of a page that is not on the device:
//!
//! 1. The strand waits. The page joins its function's fault buffer, unless it is there, or its demanded transfer is under way.
//! 2. The function's handler, when it is free, takes a batch from the buffer and is busy for the batch's time.
//! 3. At the end of that pages that are thrashing are put off, or pinned where they are; the prefetcher is asked about the rest. The batch's pages, block by block, and then the hint's get frames and go to the link's
//!    queues. A page that is on its way as a prefetch becomes a demand.
//! 4. Frames are made by evicting the least recently used block but the one that is served, all its pages at once; those that travel
//!    back free their frame when they have arrived. Demands get frames first. A prefetch for which nothing can be evicted is dropped.
//! 5. When the page arrives its strands go on.
//!
//! When the link has nothing to do, a prefetcher is asked what else may come; that evicts nothing.
//!
//! A host touch of a page that is not on the host takes the host's fault time, then moves it; the prefetcher may add
//! pages of the device to that.
//!
//! A page that is pinned stays, and whoever else touches it goes over the link for it ([`config`]).

pub(crate) mod config;
pub(crate) mod link;
pub(crate) mod result;
mod shadow;
mod thrashing;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::Instant,
};

use config::{Costs, Duplex, Recency, Writeback, LINES};
use link::{Class, Lane};
use result::{Counters, Outcome, Timeline};
use shadow::Shadow;
use thrashing::{Thrashing, Watched};

use vfetch_engine::{prefetch::Location, thrashing::Answer};

use crate::{
    policy::{Fault, Hint, Mask, Prefetcher, Residency, View},
    trace::{Side, Trace, BLOCK_PAGES},
};

/// Where a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// On the host.
    Host,
    /// On the host; waits for a frame.
    Frameless,
    /// On the host; has a frame and waits for the link.
    Queued,
    /// On the link, to the device.
    Flight,
    /// On the device.
    Device,
    /// Unmapped, waits for the link back; its frame is still taken.
    Leaving,
    /// On the link, to the host.
    Return,
}

/// The page is on its way or there because somebody waited for it.
const DEMAND: u16 = 1;
/// It was prefetched to the device, and was not touched since.
const PREFETCHED: u16 = 1 << 1;
/// It was written on the device.
const DIRTY: u16 = 1 << 2;
/// It is in the fault buffer, or in the batch that is being handled.
const PENDING: u16 = 1 << 3;
/// It was prefetched to the host, and was not touched since.
const HOST_PREFETCHED: u16 = 1 << 4;
/// When it has left it is wanted back.
const RETURN: u16 = 1 << 5;
/// When it has arrived the host wants it.
const HOST_WANTS: u16 = 1 << 6;
/// It has been on the device.
const SEEN: u16 = 1 << 7;
/// It is prefetched ahead of the block that faulted.
const AHEAD: u16 = 1 << 8;
/// It was evicted last to make room for prefetched pages.
const PUSHED: u16 = 1 << 9;
/// The other side reaches it where it is, as long as it is pinned.
const REMOTE: u16 = 1 << 10;

/// What a page on its way to the device travels for.
fn class(flags: u16) -> Class {
    if flags & DEMAND != 0 {
        Class::Demand
    } else if flags & AHEAD != 0 {
        Class::Ahead
    } else {
        Class::Prefetch
    }
}

/// Classes of pages that wait for a frame, in the order in which they get one.
const FRAMED: [Class; 3] = [Class::Demand, Class::Prefetch, Class::Ahead];

/// So often a function is asked for what it wants to bring while the link has nothing to do.
const IDLE_TRIES: usize = 8;

#[derive(Clone, Copy, Debug)]
struct Page {
    place: Place,
    flags: u16,
}

impl Page {
    /// Whether the host has it, or gets it.
    fn is_hosts(&self) -> bool {
        matches!(self.place, Place::Host | Place::Leaving | Place::Return)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    /// Pages on the device.
    here: Mask,
    /// Pages on their way there.
    coming: Mask,
    last: u64,
}

fn count(mask: &Mask) -> u32 {
    mask.iter().map(|word| word.count_ones()).sum()
}

fn set(mask: &mut Mask, page: u32, on: bool) {
    let bit = page % BLOCK_PAGES;
    let word = &mut mask[(bit / 64) as usize];
    let bit = 1 << (bit % 64);
    if on {
        *word |= bit;
    } else {
        *word &= !bit;
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Doing {
    Nothing,
    Running,
    /// Waits for a page.
    Waiting(u32),
}

#[derive(Debug)]
struct Strand {
    function: usize,
    side: Side,
    doing: Doing,
    /// Touches of its item that are left.
    next: usize,
    end: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Event {
    /// A strand goes on.
    Strand(u32),
    /// A function's batch has been handled.
    Handled(u32),
    /// A function's host fault has been handled.
    HostHandled(u32),
    /// A lane is free.
    Free(u32),
    /// A page has arrived on the device.
    Arrived(u32),
    /// A page has left it.
    Left(u32),
    /// The nap that a fault on this page waits for is over.
    Woken(u32),
}

struct Function<'a> {
    trace: &'a Trace,
    prefetcher: Box<dyn Prefetcher + 'a>,
    /// Where its space begins among the pages of all.
    base: u32,
    item: usize,
    running: usize,
    /// Strands that do nothing, and the host's if it does.
    idle: Vec<usize>,
    host: usize,
    host_idle: bool,
    /// Whether the host's fault is handled, and only its page is missing.
    host_handled: bool,
    buffer: VecDeque<Fault>,
    batch: Vec<Fault>,
    handling: bool,
    counters: Counters,
}

/// A tenant of the machine.
pub(crate) struct Tenant<'a> {
    pub(crate) trace: &'a Trace,
    pub(crate) prefetcher: Box<dyn Prefetcher + 'a>,
}

/// What a run needs beside tenants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) costs: Costs,
    /// Frames of the device, for all tenants together; at least 1.
    pub(crate) capacity: u32,
    /// Take the time of each decision on this machine's clock.
    pub(crate) measure: bool,
}

/// The machine stopped before its tenants were done: a mistake in it.
#[derive(Debug, thiserror::Error)]
#[error("the simulated machine has come to a stop at {now_ns} ns with work left: this is a bug of vfetch-sim, please report it with the command line")]
pub(crate) struct Stalled {
    now_ns: u64,
}

/// Runs the tenants to their end.
///
/// # Errors
///
/// [`Stalled`], which cannot happen.
pub(crate) fn run(setup: &Setup, tenants: Vec<Tenant<'_>>) -> Result<Outcome, Stalled> {
    let mut machine = Machine::new(setup, tenants);
    machine.run()?;
    Ok(machine.finish())
}

/// The least time between two readings of the clock.
fn clock_ns() -> u64 {
    (0..100)
        .map(|_| Instant::now().elapsed().as_nanos() as u64)
        .min()
        .unwrap_or(0)
}

struct Machine<'a> {
    costs: Costs,
    page_ns: u64,
    capacity: u32,
    /// How much of all pages fits, in percent.
    share: u8,
    free: u32,
    /// Frames that become free when their page has left.
    coming: u32,
    measure: bool,
    /// What taking the time takes itself.
    clock_ns: u64,
    pages: Vec<Page>,
    blocks: Vec<Block>,
    owner: Vec<u16>,
    functions: Vec<Function<'a>>,
    strands: Vec<Strand>,
    lanes: Vec<Lane>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    now: u64,
    /// Pages that wait for a frame, by [`FRAMED`]; may hold stale entries.
    frameless: [VecDeque<u32>; 3],
    /// How many do.
    wanting: [u32; 3],
    link_bytes: u64,
    peak: u32,
    shadow: Shadow,
    thrashing: Thrashing,
    timeline: Timeline,
    hint: Hint,
}

#[derive(Debug)]
struct Space<'a> {
    blocks: &'a [Block],
    watched: &'a [Watched],
}

impl Residency for Space<'_> {
    fn device(&self, block: u32) -> Mask {
        let mut mask = [0; 8];
        if let Some(block) = self.blocks.get(block as usize) {
            for (mask, (here, coming)) in mask.iter_mut().zip(block.here.iter().zip(&block.coming))
            {
                *mask = here | coming;
            }
        }
        mask
    }

    fn thrashing(&self, block: u32) -> Mask {
        self.watched
            .get(block as usize)
            .map_or([0; 8], Watched::pages)
    }
}

/// Calls a method of a function's prefetcher with the view of now.
macro_rules! ask {
    ($machine:ident, $function:expr, $side:expr, $method:ident $(, $argument:expr)*) => {{
        let backlog_ns = $machine.backlog_ns();
        let f = &mut $machine.functions[$function];
        let first = (f.base / BLOCK_PAGES) as usize;
        let blocks = first + (f.trace.pages.div_ceil(BLOCK_PAGES)) as usize;
        let view = View {
            now_ns: $machine.now,
            side: $side,
            pages: f.trace.pages,
            capacity: $machine.capacity,
            taken: $machine.capacity - $machine.free,
            share: $machine.share,
            link_bytes: $machine.link_bytes,
            backlog_ns,
            device: &Space {
                blocks: &$machine.blocks[first..blocks],
                watched: $machine.thrashing.blocks(first..blocks),
            },
        };
        f.prefetcher.$method(&view $(, $argument)*)
    }};
}

impl<'a> Machine<'a> {
    fn new(setup: &Setup, tenants: Vec<Tenant<'a>>) -> Self {
        let mut functions = Vec::new();
        let mut strands = Vec::new();
        let mut owner = Vec::new();
        let mut base = 0;
        for (index, tenant) in tenants.into_iter().enumerate() {
            let first = strands.len();
            let count = setup.costs.strands as usize;
            for number in 0..=count {
                strands.push(Strand {
                    function: index,
                    side: if number == count {
                        Side::Host
                    } else {
                        Side::Device
                    },
                    doing: Doing::Nothing,
                    next: 0,
                    end: 0,
                });
            }
            let blocks = tenant.trace.pages.div_ceil(BLOCK_PAGES);
            owner.resize(owner.len() + blocks as usize, index as u16);
            functions.push(Function {
                trace: tenant.trace,
                prefetcher: tenant.prefetcher,
                base,
                item: 0,
                running: 0,
                idle: (first..first + count).rev().collect(),
                host: first + count,
                host_idle: true,
                host_handled: false,
                buffer: VecDeque::new(),
                batch: Vec::new(),
                handling: false,
                counters: Counters::default(),
            });
            base += blocks * BLOCK_PAGES;
        }
        let lanes = match setup.costs.duplex {
            Duplex::Half => 1,
            Duplex::Full => 2,
        };
        let capacity = setup.capacity.max(1);
        Self {
            costs: setup.costs,
            page_ns: setup.costs.page_ns(),
            capacity,
            share: (u64::from(capacity) * 100
                / functions
                    .iter()
                    .map(|f| u64::from(f.trace.pages))
                    .sum::<u64>()
                    .max(1))
            .min(100) as u8,
            free: capacity,
            coming: 0,
            measure: setup.measure,
            clock_ns: if setup.measure { clock_ns() } else { 0 },
            pages: vec![
                Page {
                    place: Place::Host,
                    flags: 0
                };
                base as usize
            ],
            blocks: vec![Block::default(); (base / BLOCK_PAGES) as usize],
            owner,
            lanes: (0..lanes).map(|_| Lane::new(functions.len())).collect(),
            functions,
            strands,
            events: BinaryHeap::new(),
            sequence: 0,
            now: 0,
            frameless: Default::default(),
            wanting: [0; 3],
            link_bytes: 0,
            peak: 0,
            shadow: Shadow::new(base as usize, capacity),
            thrashing: Thrashing::new(setup.costs.thrashing, (base / BLOCK_PAGES) as usize),
            timeline: Timeline::new(),
            hint: Hint::default(),
        }
    }

    fn at(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((time, self.sequence, event)));
    }

    fn run(&mut self) -> Result<(), Stalled> {
        for function in 0..self.functions.len() {
            self.dispatch(function);
        }
        loop {
            let Some(mut top) = self.events.peek_mut() else {
                break;
            };
            let Reverse((time, _, event)) = *top;
            self.now = time;
            if let Event::Strand(strand) = event {
                // Most touches find their page: the heap is changed in place.
                let s = &mut self.strands[strand as usize];
                let f = &mut self.functions[s.function];
                if s.side == Side::Device && s.next < s.end {
                    let touch = f.trace.touches[s.next];
                    let index = f.base + touch.page;
                    let page = &mut self.pages[index as usize];
                    if page.place == Place::Device && page.flags & PREFETCHED == 0 {
                        if touch.is_write() {
                            page.flags |= DIRTY;
                        }
                        if self.costs.recency == Recency::Access {
                            self.blocks[(index / BLOCK_PAGES) as usize].last = time;
                        }
                        self.shadow.touch(index);
                        f.counters.accesses += u64::from(touch.accesses());
                        f.counters.touches += 1;
                        s.next += 1;
                        self.sequence += 1;
                        *top = Reverse((time + self.costs.compute_ns, self.sequence, event));
                        continue;
                    }
                }
            }
            std::collections::binary_heap::PeekMut::pop(top);
            self.event(event);
        }
        if self
            .functions
            .iter()
            .any(|f| f.running > 0 || f.item < f.trace.items.len())
        {
            return Err(Stalled { now_ns: self.now });
        }
        Ok(())
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Strand(strand) => self.strand(strand as usize),
            Event::Handled(function) => self.handled(function as usize),
            Event::HostHandled(function) => self.host_handled(function as usize),
            Event::Free(lane) => {
                self.lanes[lane as usize].busy = false;
                self.pump_link();
                if lane == 0 && !self.lanes[0].busy {
                    self.idle();
                }
            }
            Event::Arrived(page) => self.arrived(page),
            Event::Left(page) => self.left(page),
            Event::Woken(page) => self.woken(page),
        }
    }

    // Items and touches.

    /// Hands out the items that can begin.
    fn dispatch(&mut self, function: usize) {
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

    fn strand(&mut self, strand: usize) {
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
    fn touched(&mut self, strand: usize) {
        self.goes_on(strand, self.costs.compute_ns);
    }

    /// The strand's touch is of a page that is pinned on the other side.
    fn touched_remotely(&mut self, strand: usize) {
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
    fn is_remote(&mut self, page: u32, place: Place) -> bool {
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
    fn use_page(&mut self, function: usize, page: u32, write: bool) {
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

    // Device faults.

    fn begin_batch(&mut self, function: usize) {
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

    fn handled(&mut self, function: usize) {
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
    fn woken(&mut self, page: u32) {
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

    /// Strands of the device that wait for `page` reach it on the host.
    fn reached(&mut self, function: usize, page: u32) {
        let waiting: Vec<usize> = self.strands_waiting(function, page).collect();
        for strand in waiting {
            self.touched_remotely(strand);
        }
    }

    fn decide(&mut self, function: usize, side: Side, faults: &[Fault], hint: &mut Hint) {
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

    fn prefetch(&mut self, function: usize, hint: &mut Hint) {
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
    fn request(&mut self, page: u32) {
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
        if unused {
            self.functions[function].counters.unused += 1;
            self.tell_page_moved(Side::Host, page);
        }
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

    // Frames.

    /// Hands out frames, and makes room: the block of page `keep` stays if another can go.
    fn pump_frames(&mut self, keep: Option<u32>) {
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
    fn take(&mut self, page: u32, class: Class) {
        let mut moved = [0; 8];
        set(&mut moved, page, true);
        let block = (page / BLOCK_PAGES) as usize;
        self.thrashing.moved(block, Side::Host, &moved, self.now);
        self.leave(page, class);
        self.tell_page_moved(Side::Device, page);
    }

    /// `page` has left `side` for the other one.
    fn tell_page_moved(&mut self, side: Side, page: u32) {
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

    // The link.

    /// For how long the busier lane has pages.
    fn backlog_ns(&self) -> u64 {
        let frameless: u32 = self.wanting.iter().sum();
        let queued = self.lanes.iter().map(Lane::waiting).max().unwrap_or(0);
        (queued + frameless as usize) as u64 * self.page_ns
    }

    fn pump_link(&mut self) {
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
    fn idle(&mut self) {
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

    fn arrived(&mut self, page: u32) {
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

    /// The function's strands on the device that wait for `page`.
    fn strands_waiting(&self, function: usize, page: u32) -> impl Iterator<Item = usize> + '_ {
        let each = self.costs.strands as usize + 1;
        (function * each..(function + 1) * each).filter(move |strand| {
            let s = &self.strands[*strand];
            s.doing == Doing::Waiting(page) && s.side == Side::Device
        })
    }

    fn left(&mut self, page: u32) {
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

    // The host.

    fn host_use(&mut self, function: usize, page: u32) {
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

    fn host_touch(&mut self, strand: usize, page: u32) {
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

    fn host_handled(&mut self, function: usize) {
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

    // The end.

    fn finish(mut self) -> Outcome {
        for (index, page) in self.pages.iter().enumerate() {
            if page.flags & (PREFETCHED | HOST_PREFETCHED) != 0 {
                let function = self.owner[index / BLOCK_PAGES as usize] as usize;
                self.functions[function].counters.left_over += 1;
            }
        }
        debug_assert_eq!(
            self.blocks.iter().map(|b| count(&b.here)).sum::<u32>() + self.free + self.coming,
            self.capacity
                - self
                    .pages
                    .iter()
                    .filter(|p| matches!(p.place, Place::Queued | Place::Flight))
                    .count() as u32
        );
        Outcome {
            functions: self
                .functions
                .into_iter()
                .map(|f| {
                    let mut counters = f.counters;
                    counters.invalid += f.prefetcher.invalid();
                    counters
                })
                .collect(),
            peak_pages: self.peak,
            timeline: self.timeline,
        }
    }
}

#[cfg(test)]
mod tests;
