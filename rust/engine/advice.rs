// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the user has said of parts of a space: where pages are wanted, and what is not to be done with them.
//!
//! Kept as runs of pages with the same advice, so that it costs by how often it changes along the space, not by the pages that it is of;
//! pages of which nothing was said cost nothing. The memory is the caller's.

use core::ops::{DerefMut, Range};

use super::mask::PageMask;
use super::page::{PageIndex, Region, PAGES};
use super::prefetch::Location;

/// What was said of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Advice {
    /// Where it is wanted.
    pub preferred: Option<Location>,
    /// While the host has it the device shall reach it there, rather than take it.
    pub device_remote: bool,
    /// Nothing comes along with it, and it comes along with nothing.
    pub no_prefetch: bool,
}

impl Advice {
    /// Nothing.
    pub const NONE: Self = Self {
        preferred: None,
        device_remote: false,
        no_prefetch: false,
    };

    /// Whether the device reaches the page in host memory while it is there.
    #[must_use]
    pub fn stays_on_host(&self) -> bool {
        self.device_remote || self.preferred == Some(Location::Host)
    }

    /// Whether the page may be brought to `to` without having been asked for there.
    #[must_use]
    pub fn may_come_along(&self, to: Location) -> bool {
        let elsewhere = self.preferred == Some(to.other());
        let stays = to == Location::Device && self.stays_on_host();
        !self.no_prefetch && !elsewhere && !stays
    }
}

/// Pages with the same advice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    first: u64,
    outer: u64,
    advice: Advice,
}

impl Run {
    /// No pages.
    pub const EMPTY: Self = Self {
        first: 0,
        outer: 0,
        advice: Advice::NONE,
    };
}

/// There are more runs than the storage holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

/// The advice of a space, in storage `S`.
#[derive(Clone, Debug)]
pub struct Advised<S> {
    /// The first `count` are in order, apart or of different advice, not empty, and none is of [`Advice::NONE`].
    runs: S,
    count: usize,
}

impl<S: DerefMut<Target = [Run]>> Advised<S> {
    /// Nothing was said.
    pub const fn new(storage: S) -> Self {
        Self {
            runs: storage,
            count: 0,
        }
    }

    fn runs(&self) -> &[Run] {
        self.runs.get(..self.count).unwrap_or_default()
    }

    /// How many runs there are: what [`changed`](Self::changed) needs is at most this and two more, and one for each gap.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether nothing was said.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Storage that is enough for whatever [`changed`](Self::changed) leads to.
    #[must_use]
    pub const fn enough(&self) -> usize {
        self.count.saturating_mul(2).saturating_add(3)
    }

    /// Puts `run` behind the others.
    fn push(&mut self, run: Run) -> Result<(), Full> {
        if run.first >= run.outer || run.advice == Advice::NONE {
            return Ok(());
        }
        let last = self
            .count
            .checked_sub(1)
            .and_then(|last| self.runs.get_mut(last));
        if let Some(last) = last {
            if last.outer == run.first && last.advice == run.advice {
                last.outer = run.outer;
                return Ok(());
            }
        }
        *self.runs.get_mut(self.count).ok_or(Full)? = run;
        self.count += 1;
        Ok(())
    }

    /// The same in other storage, with the advice of `pages` changed.
    ///
    /// # Errors
    ///
    /// [`Full`] if there is not [`enough`](Self::enough) storage, and it mattered.
    pub fn changed<T: DerefMut<Target = [Run]>>(
        &self,
        pages: Range<u64>,
        change: impl Fn(Advice) -> Advice,
        storage: T,
    ) -> Result<Advised<T>, Full> {
        let mut to = Advised::new(storage);
        // Up to where `pages` are done.
        let mut at = pages.start;
        for run in self.runs() {
            let part = |first, outer| Run {
                first,
                outer,
                advice: run.advice,
            };
            to.push(part(run.first, run.outer.min(pages.start)))?;
            let (first, outer) = (run.first.max(pages.start), run.outer.min(pages.end));
            // A gap before it, and what is inside; or the last gap, before what is behind.
            to.push(Run {
                first: at,
                outer: run.first.min(pages.end),
                advice: change(Advice::NONE),
            })?;
            at = at.max(run.first.min(pages.end));
            to.push(Run {
                first,
                outer,
                advice: change(run.advice),
            })?;
            at = at.max(outer);
            to.push(part(run.first.max(pages.end), run.outer))?;
        }
        // What is left, if no run lies behind it.
        to.push(Run {
            first: at,
            outer: pages.end,
            advice: change(Advice::NONE),
        })?;
        Ok(to)
    }

    /// Nothing is said of pages from `outer` on any more.
    pub fn cut(&mut self, outer: u64) {
        while let Some(last) = self.count.checked_sub(1) {
            match self.runs.get_mut(last) {
                Some(run) if run.first < outer => {
                    run.outer = run.outer.min(outer);
                    return;
                }
                _ => self.count = last,
            }
        }
    }

    /// What was said of block `index`.
    #[must_use]
    pub fn of_block(&self, index: u64) -> BlockAdvice {
        let mut block = BlockAdvice::NONE;
        let base = index.saturating_mul(PAGES as u64);
        let end = base.saturating_add(PAGES as u64);
        let runs = self.runs();
        let from = runs.partition_point(|run| run.outer <= base);
        let runs = runs.get(from..).unwrap_or_default();
        for run in runs.iter().take_while(|run| run.first < end) {
            // CAST: at most 512.
            #[allow(clippy::cast_possible_truncation, reason = "at most 512")]
            let within = |page: u64| page.saturating_sub(base).min(PAGES as u64) as usize;
            block.say(
                Region::clipped(within(run.first), within(run.outer)),
                run.advice,
            );
        }
        block
    }
}

/// What was said of the pages of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockAdvice {
    host: PageMask,
    device: PageMask,
    device_remote: PageMask,
    no_prefetch: PageMask,
}

impl BlockAdvice {
    /// Nothing.
    pub const NONE: Self = Self {
        host: PageMask::EMPTY,
        device: PageMask::EMPTY,
        device_remote: PageMask::EMPTY,
        no_prefetch: PageMask::EMPTY,
    };

    fn say(&mut self, region: Region, advice: Advice) {
        match advice.preferred {
            Some(Location::Host) => self.host.insert(region),
            Some(Location::Device) => self.device.insert(region),
            None => 0,
        };
        if advice.device_remote {
            self.device_remote.insert(region);
        }
        if advice.no_prefetch {
            self.no_prefetch.insert(region);
        }
    }

    /// What was said of `page`.
    #[must_use]
    pub fn of(&self, page: PageIndex) -> Advice {
        Advice {
            preferred: if self.host.has(page) {
                Some(Location::Host)
            } else if self.device.has(page) {
                Some(Location::Device)
            } else {
                None
            },
            device_remote: self.device_remote.has(page),
            no_prefetch: self.no_prefetch.has(page),
        }
    }

    /// Pages that are wanted at `location`.
    #[must_use]
    pub const fn preferred(&self, location: Location) -> &PageMask {
        match location {
            Location::Host => &self.host,
            Location::Device => &self.device,
        }
    }

    /// Pages that the device reaches in host memory while they are there.
    #[must_use]
    pub fn stays_on_host(&self) -> PageMask {
        self.host.or(&self.device_remote)
    }

    /// Pages that shall not be brought to `to` without having been asked for there.
    #[must_use]
    pub fn not_along(&self, to: Location) -> PageMask {
        let elsewhere = self.preferred(to.other()).or(&self.no_prefetch);
        match to {
            Location::Host => elsewhere,
            Location::Device => elsewhere.or(&self.device_remote),
        }
    }

    /// The pages around `page` of which the same was said.
    #[must_use]
    pub fn around(&self, page: PageIndex) -> Region {
        if *self == Self::NONE {
            return Region::BLOCK;
        }
        let mut same = PageMask::ALL;
        for said in [
            &self.host,
            &self.device,
            &self.device_remote,
            &self.no_prefetch,
        ] {
            same = if said.has(page) {
                same.and(said)
            } else {
                same.minus(said)
            };
        }
        let (after, _) = same.leading_run(Region::clipped(page.get(), PAGES));
        // The last before it that is not the same.
        let first = PageMask::ALL
            .minus(&same)
            .last_before(page.get())
            .map_or(0, |page| page.get() + 1);
        Region::clipped(first, after.outer())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::testing::{cases, most};
    use super::*;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    const PAGES_HERE: usize = 3 * PAGES;

    fn advice() -> impl Strategy<Value = Advice> {
        let location = prop_oneof![
            Just(None),
            Just(Some(Location::Host)),
            Just(Some(Location::Device))
        ];
        (location, any::<bool>(), any::<bool>()).prop_map(
            |(preferred, device_remote, no_prefetch)| Advice {
                preferred,
                device_remote,
                no_prefetch,
            },
        )
    }

    /// A part of three blocks, and what changes there: everything, or one thing.
    fn step() -> impl Strategy<Value = (Range<u64>, Advice, bool)> {
        (0..PAGES_HERE as u64, 0..700u64, advice(), any::<bool>()).prop_map(
            |(first, len, advice, all)| (first..(first + len).min(PAGES_HERE as u64), advice, all),
        )
    }

    fn say(said: Advice, all: bool) -> impl Fn(Advice) -> Advice {
        move |before| {
            if all {
                said
            } else {
                Advice {
                    preferred: said.preferred,
                    ..before
                }
            }
        }
    }

    proptest! {
        #![proptest_config(cases(300))]

        #[test]
        fn runs_say_what_a_list_of_pages_does(
            steps in prop::collection::vec(step(), 0..most(30)),
            outer in 0..=PAGES_HERE as u64,
        ) {
            let mut advised = Advised::new(Vec::new());
            let mut pages = vec![Advice::NONE; PAGES_HERE];
            for (range, said, all) in steps {
                let change = say(said, all);
                for page in range.clone() {
                    let page = &mut pages[usize::try_from(page).unwrap()];
                    *page = change(*page);
                }
                let storage = vec![Run::EMPTY; advised.enough()];
                advised = advised.changed(range, change, storage).unwrap();
                for pair in advised.runs().windows(2) {
                    prop_assert!(pair[0].outer <= pair[1].first);
                    prop_assert!(pair[0].outer < pair[1].first || pair[0].advice != pair[1].advice);
                }
            }
            for cut in [false, true] {
                if cut {
                    advised.cut(outer);
                    pages[usize::try_from(outer).unwrap()..].fill(Advice::NONE);
                }
                for index in 0..4 {
                    let block = advised.of_block(index as u64);
                    for page in Region::BLOCK.pages() {
                        let at = index * PAGES + page.get();
                        let wanted = pages.get(at).copied().unwrap_or(Advice::NONE);
                        prop_assert_eq!(block.of(page), wanted);
                        prop_assert_eq!(block.stays_on_host().has(page), wanted.stays_on_host());
                        for to in [Location::Host, Location::Device] {
                            prop_assert_eq!(block.not_along(to).has(page), !wanted.may_come_along(to));
                        }
                    }
                }
            }
        }

        #[test]
        fn around_a_page_the_same_was_said(
            steps in prop::collection::vec(step(), 0..10),
            at in 0..PAGES,
        ) {
            let mut advised = Advised::new(Vec::new());
            for (range, said, all) in steps {
                let storage = vec![Run::EMPTY; advised.enough()];
                advised = advised.changed(range, say(said, all), storage).unwrap();
            }
            let block = advised.of_block(1);
            let page = PageIndex::new(at).unwrap();
            let region = block.around(page);
            prop_assert!(region.contains(page));
            for other in region.pages() {
                prop_assert_eq!(block.of(other), block.of(page));
            }
            for beside in [region.first().checked_sub(1), Some(region.outer())] {
                if let Some(beside) = beside.and_then(PageIndex::new) {
                    prop_assert_ne!(block.of(beside), block.of(page));
                }
            }
        }
    }

    #[test]
    fn storage_that_is_too_small_is_refused() {
        let said = Advice {
            no_prefetch: true,
            ..Advice::NONE
        };
        let none = Advised::new(Vec::new());
        assert_eq!(
            none.changed(0..5, |_| said, Vec::new()).map(|_| ()),
            Err(Full)
        );
        let one = none.changed(0..5, |_| said, vec![Run::EMPTY; 1]).unwrap();
        assert_eq!(one.len(), 1);
        // Grown, it is one run still.
        assert!(one.changed(5..9, |_| said, vec![Run::EMPTY; 1]).is_ok());
        assert_eq!(
            one.changed(6..9, |_| said, vec![Run::EMPTY; 1]).map(|_| ()),
            Err(Full)
        );
    }
}
