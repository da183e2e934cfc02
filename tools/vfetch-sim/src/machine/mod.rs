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
mod faults;
mod frames;
mod host;
pub(crate) mod link;
pub(crate) mod result;
mod shadow;
mod strands;
mod thrashing;
mod transfers;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::Instant,
};

use config::{Costs, Duplex, Recency};
use link::{Class, Lane};
use result::{Counters, Outcome, Timeline};
use shadow::Shadow;
use thrashing::{Thrashing, Watched};

use crate::{
    policy::{Fault, Hint, Mask, Prefetcher, Residency},
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
        let first = (f.base / $crate::trace::BLOCK_PAGES) as usize;
        let blocks = first + (f.trace.pages.div_ceil($crate::trace::BLOCK_PAGES)) as usize;
        let view = $crate::policy::View {
            now_ns: $machine.now,
            side: $side,
            pages: f.trace.pages,
            capacity: $machine.capacity,
            taken: $machine.capacity - $machine.free,
            share: $machine.share,
            link_bytes: $machine.link_bytes,
            backlog_ns,
            device: &$crate::machine::Space {
                blocks: &$machine.blocks[first..blocks],
                watched: $machine.thrashing.blocks(first..blocks),
            },
        };
        f.prefetcher.$method(&view $(, $argument)*)
    }};
}
use ask;

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
