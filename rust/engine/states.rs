// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The states of the pages of a block ([`Page`]), as sets: pages in the same state take a step together.
//!
//! Which transaction a page on its way is part of is not kept here: such pages are [busy](States::busy), and whoever
//! moves them knows.

use super::mask::PageMask;
use super::owner::Page;
use super::page::PageIndex;
use super::prefetch::Location;

/// The states of all pages of a block; at first nobody has written to any of them.
///
/// Invariant: a page is in one of `host`, `device` and `lost` at most. Those in `pinned` are in `host` or `device`, and not busy.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct States {
    host: PageMask,
    device: PageMask,
    lost: PageMask,
    busy: PageMask,
    pinned: PageMask,
}

/// How many pages there are on each side.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Owned {
    /// That the host owns.
    pub host: usize,
    /// That the device owns.
    pub device: usize,
}

impl States {
    /// Of pages that nobody has written to.
    pub const NEW: Self = Self {
        host: PageMask::EMPTY,
        device: PageMask::EMPTY,
        lost: PageMask::EMPTY,
        busy: PageMask::EMPTY,
        pinned: PageMask::EMPTY,
    };

    /// Pages that the host owns, those on their way from it included.
    #[must_use]
    pub const fn host(&self) -> &PageMask {
        &self.host
    }

    /// Pages that the device owns, those on their way from it included.
    #[must_use]
    pub const fn device(&self) -> &PageMask {
        &self.device
    }

    /// Pages that are lost.
    #[must_use]
    pub const fn lost(&self) -> &PageMask {
        &self.lost
    }

    /// Pages that are on their way.
    #[must_use]
    pub const fn busy(&self) -> &PageMask {
        &self.busy
    }

    /// Whether no page has contents, or is about to.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let sets = [&self.host, &self.device, &self.lost, &self.busy];
        sets.iter().all(|set| set.is_empty())
    }

    /// The state of a page; `None` if it is on its way.
    #[must_use]
    pub fn of(&self, page: PageIndex) -> Option<Page> {
        if self.busy.has(page) {
            return None;
        }
        let pinned = self.pinned.has(page);
        Some(if self.host.has(page) {
            Page::Host { remote: pinned }
        } else if self.device.has(page) {
            Page::Device { window: pinned }
        } else if self.lost.has(page) {
            Page::Lost
        } else {
            Page::None
        })
    }

    /// Those of `pages` that are in `state`.
    #[must_use]
    pub fn among(&self, pages: &PageMask, state: Page) -> PageMask {
        let owned = |owner: &PageMask, pinned: bool| {
            let flip = if pinned { 0 } else { u64::MAX };
            pages.with_words(
                [owner, &self.busy, &self.pinned],
                |page, [owner, busy, pinned]| page & owner & !busy & (pinned ^ flip),
            )
        };
        match state {
            Page::None => pages.with_words(
                [&self.host, &self.device, &self.lost, &self.busy],
                |page, [host, device, lost, busy]| page & !(host | device | lost | busy),
            ),
            Page::Host { remote } => owned(&self.host, remote),
            Page::Device { window } => owned(&self.device, window),
            Page::Lost => owned(&self.lost, false),
            Page::Revoking(..) | Page::Moving(..) => pages.and(&self.busy),
            // There are no copies yet.
            Page::Copied | Page::Copying(_) => PageMask::EMPTY,
        }
    }

    /// Takes those pages out of `left` that are in the same state as the first of them, and returns them and the state. Pages
    /// on their way are passed over. `None` when there are no others.
    pub fn next_group(&self, left: &mut PageMask) -> Option<(Page, PageMask)> {
        loop {
            let state = self.of(left.first()?);
            let Some(state) = state else {
                *left = left.minus(&self.busy);
                continue;
            };
            let group = self.among(left, state);
            *left = left.minus(&group);
            return Some((state, group));
        }
    }

    /// `pages` are in `state` from now on. Returns how many of them each side has had until now.
    pub fn enter(&mut self, pages: &PageMask, state: Page) -> Owned {
        let mut before = Owned::default();
        let set = |on: bool| if on { u64::MAX } else { 0 };
        let owner = state.owner();
        let host = set(owner == Some(Location::Host));
        let device = set(owner == Some(Location::Device));
        let lost = set(state == Page::Lost);
        let (busy, pinned) = match state {
            Page::None | Page::Lost => (false, false),
            Page::Host { remote: pinned } | Page::Device { window: pinned } => (false, pinned),
            Page::Copied | Page::Copying(_) | Page::Revoking(..) | Page::Moving(..) => {
                (true, false)
            }
        };
        let (busy, pinned) = (set(busy), set(pinned));
        for (index, page) in pages.words().iter().enumerate() {
            if *page == 0 {
                continue;
            }
            // Puts the pages of the word into a set or out of it, and counts those that were in it.
            let put = |mask: &mut PageMask, on: u64, counted: &mut usize| {
                if let Some(word) = mask.words_mut().get_mut(index) {
                    let was = *word & page;
                    *word = *word & !page | page & on;
                    if was != 0 {
                        *counted += was.count_ones() as usize;
                    }
                }
            };
            put(&mut self.host, host, &mut before.host);
            put(&mut self.device, device, &mut before.device);
            for (mask, on) in [
                (&mut self.lost, lost),
                (&mut self.busy, busy),
                (&mut self.pinned, pinned),
            ] {
                if let Some(word) = mask.words_mut().get_mut(index) {
                    *word = *word & !page | page & on;
                }
            }
        }
        before
    }
}

#[cfg(test)]
mod tests {
    use super::super::owner::{Purpose, TransactionId};
    use super::super::testing::{cases, mask};
    use super::*;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    const ID: TransactionId = TransactionId(7);

    fn state() -> impl Strategy<Value = Page> {
        prop::sample::select(vec![
            Page::None,
            Page::Host { remote: false },
            Page::Host { remote: true },
            Page::Device { window: false },
            Page::Device { window: true },
            Page::Lost,
            Page::Revoking(Purpose::Move(Location::Host), ID),
            Page::Revoking(Purpose::Discard(Location::Device), ID),
            Page::Moving(Location::Device, ID),
        ])
    }

    /// As `States` knows it: not which transaction a page is part of, but whose it is.
    fn seen(page: Page) -> (Option<Location>, Option<Page>) {
        match page {
            Page::Revoking(..) | Page::Moving(..) => (page.owner(), None),
            page => (page.owner(), Some(page)),
        }
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn pages_are_in_the_state_that_they_entered_last(
            steps in prop::collection::vec((mask(), state()), 0..6), ask in mask(), of in state(),
        ) {
            let all: Vec<PageIndex> = PageMask::ALL.iter().collect();
            let mut states = States::NEW;
            let mut plain = vec![Page::None; all.len()];
            for (pages, state) in &steps {
                let owned = |owner| pages.iter().filter(|page| plain[page.get()].owner() == Some(owner)).count();
                let before = Owned { host: owned(Location::Host), device: owned(Location::Device) };
                prop_assert_eq!(states.enter(pages, *state), before);
                for page in pages.iter() {
                    plain[page.get()] = *state;
                }
            }
            for page in &all {
                let owner = if states.host().has(*page) {
                    Some(Location::Host)
                } else {
                    states.device().has(*page).then_some(Location::Device)
                };
                prop_assert_eq!((owner, states.of(*page)), seen(plain[page.get()]));
                prop_assert_eq!(states.busy().has(*page), states.of(*page).is_none());
                prop_assert_eq!(states.lost().has(*page), plain[page.get()] == Page::Lost);
            }
            prop_assert_eq!(states.is_empty(), plain.iter().all(|page| *page == Page::None));

            let alike = |page: &PageIndex| seen(plain[page.get()]).1 == seen(of).1;
            prop_assert_eq!(states.among(&ask, of), ask.iter().filter(alike).collect::<PageMask>());

            let mut left = ask;
            let mut found = PageMask::EMPTY;
            let mut met = Vec::new();
            while let Some((state, group)) = states.next_group(&mut left) {
                prop_assert!(!met.contains(&state));
                prop_assert!(group.iter().all(|page| states.of(page) == Some(state)));
                prop_assert!(!found.intersects(&group));
                found = found.or(&group);
                met.push(state);
            }
            prop_assert!(left.is_empty());
            prop_assert_eq!(found, ask.minus(states.busy()));
        }
    }
}
