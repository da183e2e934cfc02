// SPDX-License-Identifier: GPL-2.0

//! Pages that host and device take from one another: who waits for a while, and what stays where it is, to be reached from the other side.
//!
//! The engine decides ([`Detector`]). Here it is told of moves, asked before pages are taken, and pins end that nobody's fault would end.

use kernel::prelude::*;
use kernel::sync::atomic::{Acquire, Atomic, Relaxed, Release};
use kernel::sync::{new_mutex, Arc, Mutex};
use kernel::time::delay::fsleep;
use kernel::time::{Delta, Msecs};
use kernel::workqueue::{impl_has_work, new_work, Work, WorkItem};

use super::block::{Block, Locked};
use super::space::Space;
use super::trace::{place, words};
use crate::engine::frames::Taken;
use crate::engine::mask::{PageIndex, PageMask};
use crate::engine::prefetch::Location;
use crate::engine::thrashing::{Answer, Detector, Pages, Params, Place};
use crate::sys::abi as hw;
use crate::sys::fault::{Ended, Fault};
use crate::sys::time::now_ns;
use crate::sys::wait::{new_wait_queue, Signals, WaitQueue};
use crate::sys::work::{cancel_sync, system_unbound};

/// The engine's clock.
fn now_us() -> u64 {
    now_ns() / 1000
}

/// Waits until `until_us`, or for as long as anybody is to be held up at once: then it is asked again.
pub(crate) fn nap(until_us: u64) {
    /// Longer naps are taken in pieces.
    const MOST_US: u64 = 10_000;
    let left = until_us.saturating_sub(now_us()).min(MOST_US);
    if left > 0 {
        // CAST: bounded above.
        fsleep(Delta::from_micros(left as i64));
    }
}

/// What is known of a block: nothing until a page of it has moved.
pub(crate) struct Thrashing(Option<KBox<Known>>);

struct Known {
    detector: Detector,
    /// Of its pages, once that is wanted.
    pages: Option<KBox<Pages>>,
    /// Pages that were pinned because they thrashed; some are not any more.
    pinned: PageMask,
    /// The [`Unpinner`] has the block.
    listed: bool,
}

/// What one side is to do about pages that it wants and the other has.
pub(crate) struct Verdict {
    /// They stay: they are to be reached where they are.
    pub(crate) stay: PageMask,
    /// They are not to be taken now.
    pub(crate) wait: PageMask,
    /// Then it is to be asked again.
    pub(crate) until_us: u64,
}

/// What the host is to do about a page that the device has.
pub(crate) enum ForHost {
    /// Take it.
    Take,
    /// Ask again then.
    Wait(u64),
    /// It is reached there; or could not be, and the fault ends so.
    Reached(Ended),
}

impl Thrashing {
    /// Of a block of which nothing is known.
    pub(crate) const NEW: Self = Self(None);

    /// Pages that are thrashing, pinned ones among them.
    pub(crate) fn thrashing(&self) -> PageMask {
        let known = self.0.as_ref();
        known.map_or(PageMask::EMPTY, |known| known.detector.thrashing())
    }

    /// Those that stay where they are for as long as [`Unpinner`] says.
    pub(crate) fn pinned(&self) -> PageMask {
        self.0
            .as_ref()
            .map_or(PageMask::EMPTY, |known| known.pinned)
    }

    /// `moved` begin to move to `processor`, because it wants them or to make room at the other side. Returns whether state for the pages is
    /// [wanted](Space::watch). ENOMEM: it is as if they did not.
    pub(crate) fn moved(
        &mut self,
        params: &Params,
        processor: Location,
        moved: &PageMask,
    ) -> Result<bool> {
        let known: &mut Known = match &mut self.0 {
            Some(known) => known,
            // Charged to nobody: a move may be what makes room in a cgroup that is full, and a charge there would kill somebody first.
            none @ None => none.insert(KBox::new(Known::NEW, GFP_KERNEL)?),
        };
        Ok(known
            .detector
            .event(params, &mut known.pages, processor, moved, now_us()))
    }

    /// `requester` wants `wanted` pages, which are at the other side and not on their way.
    fn ask(
        &mut self,
        params: &Params,
        requester: Location,
        wanted: &PageMask,
        place: impl Fn(PageIndex) -> Place,
    ) -> Verdict {
        let mut verdict = Verdict {
            stay: PageMask::EMPTY,
            wait: PageMask::EMPTY,
            until_us: u64::MAX,
        };
        let Some(known) = self.0.as_deref_mut() else {
            return verdict;
        };
        let now = now_us();
        known.detector.expire(params, &mut known.pages, now);
        for page in wanted.and(&known.detector.thrashing()).iter() {
            let place = place(page);
            match known
                .detector
                .ask(params, &mut known.pages, requester, page, place, now)
            {
                Answer::Pinned { at } if at != requester => verdict.stay.add(page),
                Answer::Go | Answer::Pinned { .. } => {}
                Answer::Wait { until_us } => {
                    verdict.wait.add(page);
                    verdict.until_us = verdict.until_us.min(until_us);
                }
            }
        }
        verdict
    }

    /// The user has moved `pages`, or has said something of them.
    pub(crate) fn clear(&mut self, pages: &PageMask) {
        if let Some(known) = self.0.as_deref_mut() {
            known.detector.clear(&mut known.pages, pages);
        }
    }

    /// Those that were pinned and need not be any more.
    fn due(&mut self, params: &Params) -> PageMask {
        let Some(known) = self.0.as_deref_mut() else {
            return PageMask::EMPTY;
        };
        known.detector.expire(params, &mut known.pages, now_us());
        let due = known.pinned.minus(known.detector.pinned());
        known.pinned = known.pinned.minus(&due);
        due
    }
}

impl Known {
    const NEW: Self = Self {
        detector: Detector::NEW,
        pages: None,
        pinned: PageMask::EMPTY,
        listed: false,
    };
}

/// State of the pages of a block: 8 KiB. ENOMEM.
#[inline(never)]
fn new_pages() -> Result<KBox<Pages>> {
    Ok(KBox::<Pages>::new_uninit(GFP_KERNEL_ACCOUNT)?.write(Pages::NEW))
}

impl Space {
    /// Watches the pages of `block`, of which `moved` have just moved to `processor` or were sent away from it. Without memory for
    /// that it is not watched.
    pub(crate) fn watch(&self, block: &Block, processor: Location, moved: &PageMask) {
        let Some(params) = &self.function.thrashing else {
            return;
        };
        let Ok(pages) = new_pages() else {
            self.function.stats.thrashing_missed.count();
            return;
        };
        let mut locked = block.lock();
        if let Some(known @ Known { pages: None, .. }) = locked.thrashing.0.as_deref_mut() {
            known.pages = Some(pages);
            // The same event again, as the detector wants it.
            let _ = locked.thrashing.moved(params, processor, moved);
        }
    }

    /// The device wants `host` pages of `block`: those that stay are within its reach from now on.
    pub(crate) fn ask_for_device(
        &self,
        block: &Arc<Block>,
        locked: &mut Locked<'_>,
        host: &PageMask,
    ) -> Option<Verdict> {
        let params = self.function.thrashing.as_ref()?;
        if !host.intersects(&locked.thrashing.thrashing()) {
            return None;
        }
        let advice = self.advice.of_block(block.index);
        let shows = self.function.window.pages() > 0 && !self.reserved.load(Relaxed);
        let mut verdict = locked
            .thrashing
            .ask(params, Location::Device, host, |page| Place {
                owner: Location::Host,
                preferred: advice.of(page).preferred,
                host_reaches_device: shows && advice.of(page).preferred == Some(Location::Device),
                device_reaches_host: true,
            });
        let stay = verdict.stay;
        for page in stay.iter() {
            // What cannot be reached moves, as others do.
            if locked.pin_to_host(page, block).is_err() {
                verdict.stay.take(page);
            }
        }
        self.function
            .stats
            .throttled
            .add(verdict.wait.count() as u64);
        self.function
            .stats
            .thrashing_pins
            .add(verdict.stay.count() as u64);
        self.look_after(block, locked, &verdict.stay);
        self.trace_verdict(block, Location::Device, &verdict);
        Some(verdict)
    }

    /// Pages of `block` are held back from `wanted_by`.
    fn trace_verdict(&self, block: &Block, wanted_by: Location, verdict: &Verdict) {
        let held = verdict.wait.or(&verdict.stay);
        if held.is_empty() {
            return;
        }
        self.function
            .trace
            .record(hw::VFETCH_TRACE_THRASHING, |record| {
                record.to = place(wanted_by);
                // CAST: at most 512.
                record.count = held.count() as u32;
                record.space = u64::from(self.id);
                record.first = block.first_page();
                record.pages = words(&held);
                record.more = words(&verdict.stay);
            });
    }

    /// `pages` of `block` were pinned, until their time is over.
    fn look_after(&self, block: &Arc<Block>, locked: &mut Locked<'_>, pages: &PageMask) {
        let for_ever =
            (self.function.thrashing.as_ref()).is_none_or(|params| params.pin_us().is_none());
        let Some(known) = &mut locked.thrashing.0 else {
            return;
        };
        known.pinned = known.pinned.or(pages);
        if !pages.is_empty() && !known.listed && !for_ever {
            known.listed = self.function.unpinner.add(block);
        }
    }

    /// The host wants `page` of `block`, which the device has. Unless it is to be taken it is mapped through the window, or is to be waited for.
    pub(crate) fn ask_for_host(
        &self,
        fault: &Fault<'_>,
        block: &Arc<Block>,
        locked: &mut Locked<'_>,
        page: PageIndex,
    ) -> ForHost {
        let answer = self.answer_host(fault, block, locked, page);
        if matches!(answer, ForHost::Take) {
            locked.unpin_window(&page.region().into(), block);
        }
        answer
    }

    fn answer_host(
        &self,
        fault: &Fault<'_>,
        block: &Arc<Block>,
        locked: &mut Locked<'_>,
        page: PageIndex,
    ) -> ForHost {
        let Some(params) = &self.function.thrashing else {
            return ForHost::Take;
        };
        if !locked.thrashing.thrashing().has(page) {
            return ForHost::Take;
        }
        // Only where it was said that it is wanted there: such pages cannot be given to the kernel.
        let advice = self.advice.of_block(block.index).of(page);
        let window = &self.function.window;
        let shown = (locked.leaf.frame(page.get()))
            .filter(|frame| *frame < window.pages())
            .filter(|_| advice.preferred == Some(Location::Device) && window.is_open());
        let reaches = locked.leaf.is_attached();
        let wanted = page.region().into();
        let verdict = locked
            .thrashing
            .ask(params, Location::Host, &wanted, |_| Place {
                owner: Location::Device,
                preferred: advice.preferred,
                host_reaches_device: shown.is_some(),
                device_reaches_host: reaches,
            });
        if !verdict.wait.is_empty() {
            self.function.stats.throttled.count();
            self.trace_verdict(block, Location::Host, &verdict);
            return ForHost::Wait(verdict.until_us);
        }
        let Some(frame) = shown.filter(|_| verdict.stay.has(page)) else {
            return ForHost::Take;
        };
        let generation = locked.generation();
        let mapped = window.map(fault, frame, || {
            // Before it is: whoever closes the window looks at it afterwards.
            self.windowed.store(true, Release);
            self.function.memory.generation() == generation
        });
        match mapped {
            None => ForHost::Take,
            Some(Ended::Done) => {
                self.trace_verdict(block, Location::Host, &verdict);
                locked.pin_to_window(page, block);
                self.function.stats.window_pins.count();
                self.look_after(block, locked, &wanted);
                ForHost::Reached(Ended::Done)
            }
            Some(ended) => ForHost::Reached(ended),
        }
    }

    /// A frame of the window for `page` of `block`, if there is one and the page may come to be mapped there.
    pub(crate) fn window_frame(&self, block: &Block, page: PageIndex) -> Option<Taken> {
        let window = self.function.window.pages();
        if window == 0 || self.reserved.load(Relaxed) {
            return None;
        }
        let advice = self.advice.said_of_block(block.index)?;
        if !advice.preferred(Location::Device).has(page)
            || !block.lock().thrashing.thrashing().has(page)
        {
            return None;
        }
        let taken = self.within_room(1, |_| self.function.memory.take_below(window));
        if taken.is_err() {
            self.function.stats.window_misses.count();
        }
        taken.ok()
    }

    /// Pages of `block` whose pins are over need not stay any more. Returns whether there are others.
    fn unpin_due(&self, block: &Block, params: &Params) -> bool {
        let advice = self.advice.of_block(block.index);
        let mut locked = block.lock();
        let due = locked.thrashing.due(params);
        let remembered = locked.unpin(&due.minus(&advice.stays_on_host()), block);
        let shown = locked.unpin_window(&due, block);
        let more = !locked.thrashing.pinned().is_empty() && !locked.is_dead();
        if let Some(known) = &mut locked.thrashing.0 {
            known.listed = more;
        }
        drop(locked);
        let over = remembered.or(&shown);
        self.function
            .stats
            .thrashing_unpins
            .add(over.count() as u64);
        if !over.is_empty() {
            self.function
                .trace
                .record(hw::VFETCH_TRACE_UNPINNED, |record| {
                    // CAST: at most 512.
                    record.count = over.count() as u32;
                    record.space = u64::from(self.id);
                    record.first = block.first_page();
                    record.pages = words(&over);
                });
        }
        self.invalidate(block, &remembered);
        self.unmap(block, &shown);
        more
    }
}

/// Ends pins of thrashing pages when their time is over: nobody faults on them.
#[pin_data]
pub(crate) struct Unpinner {
    /// Blocks with such pages. They have references to this, through their function: [`close`](Self::close) breaks the circle.
    #[pin]
    blocks: Mutex<KVec<Arc<Block>>>,
    closed: Atomic<bool>,
    #[pin]
    woken: WaitQueue,
    #[pin]
    work: Work<Unpinner>,
}

impl_has_work! {
    impl HasWork<Self> for Unpinner { self.work }
}

impl WorkItem for Unpinner {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        while this.look() {}
    }
}

impl Unpinner {
    /// One that has no blocks. ENOMEM.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                blocks <- new_mutex!(KVec::new(), "vfetch: blocks with pins"),
                closed: Atomic::new(false),
                woken <- new_wait_queue!("vfetch: blocks with pins"),
                work <- new_work!("vfetch: unpinning"),
            }),
            GFP_KERNEL,
        )
    }

    /// Looks after `block`. `false` if that cannot be: the next pin tries again.
    fn add(self: &Arc<Self>, block: &Arc<Block>) -> bool {
        let mut blocks = self.blocks.lock();
        if self.closed.load(Acquire) || blocks.push(block.clone(), GFP_NOWAIT).is_err() {
            return false;
        }
        // With the lock: what is queued afterwards `close` would not see. It may be queued already.
        let _ = system_unbound().enqueue(self.clone());
        true
    }

    /// Waits for as long as a pin takes, and lets go what is due. Returns whether there is more.
    fn look(&self) -> bool {
        let first = self.blocks.lock().first().cloned();
        let Some(function) = first.map(|block| block.space.function.clone()) else {
            return false;
        };
        let Some((params, time)) = function
            .thrashing
            .as_ref()
            .and_then(|params| Some((params, params.pin_us()?)))
        else {
            return false;
        };
        // CAST: at most a minute.
        let time = time.div_ceil(1000).clamp(1, 60_000) as Msecs;
        self.woken
            .wait(Signals::None, Some(time), || self.closed.load(Acquire));
        let count = self.blocks.lock().len();
        for at in (0..count).rev() {
            let block = self.blocks.lock().get(at).cloned();
            let Some(block) = block else {
                continue;
            };
            if self.closed.load(Acquire) {
                return false;
            }
            if !block.space.unpin_due(&block, params) {
                // Others only put blocks behind the last.
                let removed = self.blocks.lock().remove(at);
                drop(removed);
            }
        }
        true
    }

    /// Lets go of all blocks, and takes no more.
    pub(crate) fn close(self: &Arc<Self>) {
        let blocks = {
            let mut blocks = self.blocks.lock();
            self.closed.store(true, Release);
            core::mem::take(&mut *blocks)
        };
        self.woken.wake_all();
        cancel_sync(self);
        drop(blocks);
    }
}
