// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Which pages are thrashing between host and device, who waits, and what is pinned.
//!
//! An *event* is a page being moved to, revoked from or evicted from a processor; an eviction is told as the move to the
//! host that it is, so that what comes back at once arms its block. A page whose events follow each other within a
//! *lapse* is *thrashing* once there were enough of them. Of those who ask for a thrashing page one goes on and opens a *nap*;
//! the others wait until it ends. A page for which somebody had to wait too often is *pinned*: its owner keeps
//! it, and the others reach it remotely.
//!
//! | state | on | does |
//! |---|---|---|
//! | block unarmed | two events in a row from different processors within a lapse | the caller hands in state for the pages: armed |
//! | page calm or thrashing | event within a lapse of the page's last, or of the end of a nap that somebody waited in | count + 1; at the threshold: thrashing |
//! | page calm or thrashing | event after more than a lapse | count 1, throttles 0, calm |
//! | page thrashing, no nap open | r asks | r opens a nap and goes on; if r opened the last one and another waited in it, that one opens and r waits |
//! | page thrashing, nap open | the opener asks | goes on |
//! | page thrashing, nap open | another asks | waits until its end; throttles + 1, once per nap and processor |
//! | page thrashing | throttles reach the pin threshold | pinned: at the preferred location if the other reaches it there, else where it is |
//! | page pinned | pin time over | calm, count and throttles 0 |
//! | block armed | no event of a thrashing page for an epoch, nothing pinned, resets left | state dropped, unarmed, resets + 1 |
//!
//! The states are those of NVIDIA's driver (`uvm_perf_thrashing.c`), with two of its faults mended: evictions are
//! events, and what is not pinned any more does not keep a block from being reset. A page is not pinned where
//! nobody else could reach it. The time for which somebody is made to wait does not make a page calm: a nap is as long as a
//! lapse, and two that do nothing but wait for each other would never reach the pin threshold.
//!
//! State per page is 8 KiB a block; the caller makes it when it is [wanted](Detector::event), and it is dropped here.
//! Times have a resolution of 1 us.

use core::mem::size_of;
use core::ops::DerefMut;

use super::mask::PageMask;
use super::page::{PageIndex, PAGES};
use super::params::{Bounded, Micros};
use super::prefetch::Location;

/// What can be set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Params {
    /// Events until a page is thrashing, 1 to 7.
    pub threshold: Bounded<1, 7>,
    /// Throttles until it is pinned, 1 to 255.
    pub pin_threshold: Bounded<1, 255>,
    /// The longest time between two events that belong together.
    pub lapse_us: Micros,
    /// How long a nap is, in lapses.
    pub nap_lapses: Bounded<1, 1000>,
    /// After how many lapses without an event of a thrashing page a block is reset.
    pub epoch_lapses: Bounded<1, 1_000_000>,
    /// How long a page is pinned, in lapses; 0: for ever.
    pub pin_lapses: Bounded<0, 1_000_000>,
    /// How often a block is reset.
    pub max_resets: Bounded<0, 255>,
}

impl Params {
    /// Of the driver that this is modelled on.
    pub const DEFAULT: Self = Self {
        threshold: Bounded::clamped(3),
        pin_threshold: Bounded::clamped(10),
        lapse_us: Micros::clamped(500),
        nap_lapses: Bounded::clamped(1),
        epoch_lapses: Bounded::clamped(2000),
        pin_lapses: Bounded::clamped(300),
        max_resets: Bounded::clamped(4),
    };

    const fn lapse(&self) -> u64 {
        self.lapse_us.get() as u64
    }

    /// At most 10^13: no overflow.
    const fn lapses(&self, count: u32) -> u64 {
        self.lapse() * count as u64
    }

    const fn nap(&self) -> u64 {
        self.lapses(self.nap_lapses.get())
    }

    /// How long a page is pinned; `None`: for ever.
    #[must_use]
    pub const fn pin_us(&self) -> Option<u64> {
        match self.pin_lapses.get() {
            0 => None,
            lapses => Some(self.lapses(lapses)),
        }
    }
}

impl Default for Params {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A time in microseconds, in 6 bytes: enough for 8 years.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp([u16; 3]);

impl Stamp {
    const NEVER: Self = Self([0; 3]);

    /// The latest there is for a time after it.
    const fn at(us: u64) -> Self {
        let us = if us >> 48 == 0 { us } else { (1 << 48) - 1 };
        // CAST: the parts of it.
        #[allow(clippy::cast_possible_truncation, reason = "the parts of it")]
        Self([us as u16, (us >> 16) as u16, (us >> 32) as u16])
    }

    const fn us(self) -> u64 {
        let [low, middle, high] = self.0;
        low as u64 | ((middle as u64) << 16) | ((high as u64) << 32)
    }

    /// Microseconds from it to `now`; 0 where that is before it.
    const fn age(self, now_us: u64) -> u64 {
        now_us.saturating_sub(self.us())
    }
}

/// What is known of one page. All zeros: nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Page {
    /// Its last event, if there was one.
    last: Stamp,
    /// When the last nap began, or the pin.
    since: Stamp,
    /// Events within a lapse of each other, up to 7.
    events: u8,
    /// How often somebody waited.
    throttles: u8,
    /// Who opened the last nap.
    opener: Option<Location>,
    /// Whether the other one waited in it.
    waited: bool,
}

impl Page {
    const NEW: Self = Self {
        last: Stamp::NEVER,
        since: Stamp::NEVER,
        events: 0,
        throttles: 0,
        opener: None,
        waited: false,
    };

    /// Events are counted up to this.
    const EVENTS_MAX: u8 = 7;

    /// The last event, or when those who waited since could go on.
    fn busy_until(&self, nap_us: u64) -> Stamp {
        let nap_end_us = self.since.us().saturating_add(nap_us);
        if self.waited && nap_end_us > self.last.us() {
            Stamp::at(nap_end_us)
        } else {
            self.last
        }
    }

    /// Opens a nap of `nap_us`.
    fn open(&mut self, opener: Location, nap_us: u64, now_us: u64) {
        self.last = self.busy_until(nap_us);
        self.opener = Some(opener);
        self.waited = false;
        self.since = Stamp::at(now_us);
    }
}

/// What is known of the pages of an armed block: 8 KiB.
#[derive(Clone, Debug)]
pub struct Pages([Page; PAGES]);

const _: () = assert!(size_of::<Pages>() <= 8 << 10);

impl Pages {
    /// Nothing known.
    pub const NEW: Self = Self([Page::NEW; PAGES]);

    fn get(&mut self, page: PageIndex) -> Option<&mut Page> {
        self.0.get_mut(page.get())
    }
}

/// What one who asks for a page is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Take it.
    Go,
    /// Ask again then.
    Wait {
        /// When the nap ends, in microseconds.
        until_us: u64,
    },
    /// It stays there, or goes there first: whoever else wants it reaches it remotely.
    Pinned {
        /// Who has it.
        at: Location,
    },
}

/// Where a page is and could be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Who has it.
    pub owner: Location,
    /// Where the user wants it.
    pub preferred: Option<Location>,
    /// Whether the host can reach it in the function's memory.
    pub host_reaches_device: bool,
    /// Whether the function can reach it in host memory.
    pub device_reaches_host: bool,
}

impl Place {
    /// Whether the other one can reach it at `location`.
    const fn is_reached_at(&self, location: Location) -> bool {
        match location {
            Location::Host => self.device_reaches_host,
            Location::Device => self.host_reaches_device,
        }
    }

    /// Where it can be pinned.
    fn pin(&self) -> Option<Location> {
        [self.preferred, Some(self.owner)]
            .into_iter()
            .flatten()
            .find(|location| self.is_reached_at(*location))
    }
}

/// What is known of a block: this, and `Option<P>` of the pages' state, which the caller keeps beside it.
#[derive(Clone, Debug)]
pub struct Detector {
    /// Pages that are thrashing and not pinned.
    thrashing: PageMask,
    /// Pages that are pinned.
    pinned: PageMask,
    /// The last event, and whose it was.
    last: Option<(Location, u64)>,
    /// The last event of a thrashing page, or when the block was armed.
    last_thrashing_us: u64,
    /// When pins were last looked through.
    expired_us: u64,
    /// How often it was reset.
    resets: u8,
}

impl Detector {
    /// Of a block of which nothing is known.
    pub const NEW: Self = Self {
        thrashing: PageMask::EMPTY,
        pinned: PageMask::EMPTY,
        last: None,
        last_thrashing_us: 0,
        expired_us: u64::MAX,
        resets: 0,
    };

    /// Pages that are thrashing, pinned ones included: a prefetch leaves them out.
    #[must_use]
    pub fn thrashing(&self) -> PageMask {
        self.thrashing.or(&self.pinned)
    }

    /// Pages that are pinned. Some may be due to be let go.
    #[must_use]
    pub const fn pinned(&self) -> &PageMask {
        &self.pinned
    }

    /// How often the block was reset.
    #[must_use]
    pub const fn resets(&self) -> u8 {
        self.resets
    }

    /// `moved` were moved to, revoked from or evicted from `processor`.
    ///
    /// Whether state for the pages is wanted: `pages` is `None` and the block is to be armed. Put [`Pages::NEW`] into `pages`
    /// then, and tell the same event again.
    #[must_use]
    pub fn event<P: DerefMut<Target = Pages>>(
        &mut self,
        params: &Params,
        pages: &mut Option<P>,
        processor: Location,
        moved: &PageMask,
        now_us: u64,
    ) -> bool {
        self.expire(params, pages, now_us);
        let last = self.last.replace((processor, now_us));
        let Some(state) = pages else {
            // One that arms counts as thrashing, or the block would be reset at once.
            self.last_thrashing_us = now_us;
            return last.is_some_and(|(before, at_us)| {
                before != processor && now_us.saturating_sub(at_us) <= params.lapse()
            });
        };
        for index in moved.minus(&self.pinned).iter() {
            let Some(page) = state.get(index) else {
                continue;
            };
            let known = page.events != 0;
            if known && page.busy_until(params.nap()).age(now_us) <= params.lapse() {
                page.events = page.events.saturating_add(1).min(Page::EVENTS_MAX);
                if u32::from(page.events) >= params.threshold.get() {
                    self.thrashing.add(index);
                    self.last_thrashing_us = now_us;
                }
            } else {
                *page = Page {
                    events: 1,
                    ..Page::NEW
                };
                self.thrashing.take(index);
            }
            page.last = Stamp::at(now_us);
        }
        false
    }

    /// `requester` wants `page`.
    pub fn ask<P: DerefMut<Target = Pages>>(
        &mut self,
        params: &Params,
        pages: &mut Option<P>,
        requester: Location,
        page: PageIndex,
        place: Place,
        now_us: u64,
    ) -> Answer {
        self.expire(params, pages, now_us);
        let Some(state) = pages.as_mut().and_then(|pages| pages.get(page)) else {
            return Answer::Go;
        };
        if self.pinned.has(page) {
            return Answer::Pinned { at: place.owner };
        }
        if !self.thrashing.has(page) {
            return Answer::Go;
        }
        let is_open = state.opener.is_some() && state.since.age(now_us) < params.nap();
        if !is_open {
            if state.opener != Some(requester) || !state.waited {
                state.open(requester, params.nap(), now_us);
                return Answer::Go;
            }
            // The one that waited has its turn.
            state.open(requester.other(), params.nap(), now_us);
        }
        if state.opener == Some(requester) {
            return Answer::Go;
        }
        if !state.waited {
            state.waited = true;
            state.throttles = state.throttles.saturating_add(1);
        }
        if u32::from(state.throttles) >= params.pin_threshold.get() {
            if let Some(at) = place.pin() {
                self.thrashing.take(page);
                self.pinned.add(page);
                state.since = Stamp::at(now_us);
                return Answer::Pinned { at };
            }
        }
        Answer::Wait {
            until_us: state.since.us().saturating_add(params.nap()),
        }
    }

    /// Lets go what was pinned long enough, and drops the pages' state when nothing happened for an epoch.
    pub fn expire<P: DerefMut<Target = Pages>>(
        &mut self,
        params: &Params,
        pages: &mut Option<P>,
        now_us: u64,
    ) {
        // Who asks for many pages asks for all of them at one time.
        if core::mem::replace(&mut self.expired_us, now_us) == now_us {
            return;
        }
        let Some(state) = pages else { return };
        if let Some(time) = params.pin_us() {
            let pinned = self.pinned;
            for index in pinned.iter() {
                if let Some(page) = state.get(index) {
                    if page.since.age(now_us) >= time {
                        *page = Page::NEW;
                        self.pinned.take(index);
                    }
                }
            }
        }
        let epoch = params.lapses(params.epoch_lapses.get());
        if self.pinned.is_empty()
            && now_us.saturating_sub(self.last_thrashing_us) >= epoch
            && u32::from(self.resets) < params.max_resets.get()
        {
            *pages = None;
            self.thrashing = PageMask::EMPTY;
            self.last = None;
            self.resets = self.resets.saturating_add(1);
        }
    }

    /// The user moved `moved`, by advice or an explicit prefetch: nothing is known of them any more.
    pub fn clear<P: DerefMut<Target = Pages>>(&mut self, pages: &mut Option<P>, moved: &PageMask) {
        self.thrashing = self.thrashing.minus(moved);
        self.pinned = self.pinned.minus(moved);
        if let Some(state) = pages {
            for page in moved.iter() {
                if let Some(page) = state.get(page) {
                    *page = Page::NEW;
                }
            }
        }
    }

    /// Advice for the whole block changed, or it was unmapped: nothing is known of it any more, and it may be reset
    /// as often as at first.
    pub fn forget<P: DerefMut<Target = Pages>>(&mut self, pages: &mut Option<P>) {
        *pages = None;
        *self = Self::NEW;
    }
}

#[cfg(test)]
mod tests;
