// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a program did to its memory, as the simulator sees it.
//!
//! A *trace* belongs to one function: its space's size, and *items* in the order in which they are handed out.
//! An item is what one strand does from beginning to end (a thread block, a tile of a loop); it has
//! *touches*: a page, how many accesses, and whether one of them writes. An item may be a *barrier*, which begins
//! only when all earlier ones have ended, and may run on the host instead of the device.
//!
//! Which strand gets which item, and when, is not in a trace: that follows from the run.

pub(crate) mod format;
pub(crate) mod stats;

/// Pages of a block, as the engine has them.
pub(crate) const BLOCK_PAGES: u32 = 512;

/// Bytes of a page.
pub(crate) const PAGE_BYTES: u64 = 4096;

/// The largest space: 1 TiB.
pub(crate) const MAX_PAGES: u32 = 1 << 28;

/// The most touches of a trace. In memory each takes 8 bytes.
pub(crate) const MAX_TOUCHES: u64 = 1 << 30;

/// The most accesses of one touch.
pub(crate) const MAX_ACCESSES: u32 = (1 << 31) - 1;

/// Who executes an item.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub(crate) enum Side {
    /// One of the device's strands.
    Device,
    /// A processor of the host.
    Host,
}

/// Accesses of one item to one page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Touch {
    /// The page's index in the space.
    pub(crate) page: u32,
    /// Bit 31: one of them writes; below: how many, at least 1.
    word: u32,
}

impl Touch {
    /// `accesses` (1 to [`MAX_ACCESSES`]) to `page`; `write` if one of them writes.
    pub(crate) fn new(page: u32, accesses: u32, write: bool) -> Self {
        Self {
            page,
            word: accesses.clamp(1, MAX_ACCESSES) | (u32::from(write) << 31),
        }
    }

    /// How many accesses it stands for.
    pub(crate) fn accesses(self) -> u32 {
        self.word & MAX_ACCESSES
    }

    /// Whether one of them writes.
    pub(crate) fn is_write(self) -> bool {
        self.word >> 31 != 0
    }

    /// Adds accesses; `false` if there is no room for them.
    fn add(&mut self, count: u32, write: bool) -> bool {
        if count > MAX_ACCESSES - self.accesses() {
            return false;
        }
        self.word = (self.word + count) | (u32::from(write) << 31);
        true
    }
}

/// What one strand does from beginning to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Item {
    /// The index after its last touch; its first is the end of the item before.
    pub(crate) end: usize,
    /// Begins only when all earlier items have ended.
    pub(crate) barrier: bool,
    /// Who executes it.
    pub(crate) side: Side,
}

/// What one function does.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Trace {
    /// What it is a trace of, e.g. the workload's specification.
    pub(crate) name: String,
    /// The space's size.
    pub(crate) pages: u32,
    /// The touches of all items.
    pub(crate) touches: Vec<Touch>,
    /// The items.
    pub(crate) items: Vec<Item>,
}

impl Trace {
    /// The touches of item `index`; none if there is no such item.
    pub(crate) fn touches_of(&self, index: usize) -> &[Touch] {
        let first = index
            .checked_sub(1)
            .and_then(|before| self.items.get(before))
            .map_or(0, |item| item.end);
        self.items
            .get(index)
            .and_then(|item| self.touches.get(first..item.end))
            .unwrap_or_default()
    }

    /// All accesses.
    pub(crate) fn accesses(&self) -> u64 {
        self.touches.iter().map(|t| u64::from(t.accesses())).sum()
    }

    /// Distinct pages touched: the working set.
    pub(crate) fn working_set(&self) -> u32 {
        let mut seen = vec![false; self.pages as usize];
        let mut count = 0;
        for touch in &self.touches {
            if let Some(seen) = seen.get_mut(touch.page as usize) {
                count += u32::from(!*seen);
                *seen = true;
            }
        }
        count
    }
}

/// Builds a trace from accesses as a program makes them.
///
/// An item's access to a page joins its latest touch of that page as long as fewer than `window` other touches of the
/// item have begun since (a strand keeps what it uses in its cache, and the translations in its TLB). The
/// number of accesses is kept. A window of 1 joins only accesses that follow each other.
#[derive(Debug)]
pub(crate) struct Builder {
    trace: Trace,
    /// Each page's latest touch.
    latest: Vec<u32>,
    window: usize,
    /// The first touch of this item.
    begin: usize,
    barrier: bool,
    side: Side,
    full: bool,
}

/// A trace that cannot be built.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BuildError {
    /// More touches than a trace may have.
    #[error("the workload touches pages more than {MAX_TOUCHES} times; choose a smaller size, fewer rounds, or a larger --window")]
    TooManyTouches,
    /// More pages than a space may have.
    #[error("the workload needs {0} pages, more than the {MAX_PAGES} of the largest space; choose a smaller size")]
    TooManyPages(u64),
}

impl Builder {
    /// The default window.
    pub(crate) const WINDOW: usize = 1024;

    /// An empty trace. `window` is at least 1.
    pub(crate) fn new(window: usize) -> Self {
        Self {
            trace: Trace::default(),
            latest: Vec::new(),
            window: window.max(1),
            begin: 0,
            barrier: false,
            side: Side::Device,
            full: false,
        }
    }

    /// Ends the item, if it has touches; the next access begins one on `side`.
    pub(crate) fn next_item(&mut self, side: Side) {
        let end = self.trace.touches.len();
        if end > self.begin {
            self.trace.items.push(Item {
                end,
                barrier: self.barrier,
                side: self.side,
            });
            self.barrier = false;
            self.begin = end;
        }
        self.side = side;
    }

    /// Ends the item; the next one waits until all before it have ended.
    pub(crate) fn barrier(&mut self) {
        self.next_item(self.side);
        self.barrier = !self.trace.items.is_empty();
    }

    /// `count` accesses (at least 1) to `page`.
    #[inline]
    pub(crate) fn access(&mut self, page: u32, count: u32, write: bool) {
        if let Some(at) = self.latest.get(page as usize) {
            let at = *at as usize;
            if at >= self.begin && at + self.window >= self.trace.touches.len() {
                if let Some(touch) = self.trace.touches.get_mut(at) {
                    if touch.page == page && touch.add(count, write) {
                        return;
                    }
                }
            }
        }
        self.new_touch(page, count, write);
    }

    #[cold]
    fn new_touch(&mut self, page: u32, count: u32, write: bool) {
        let at = self.trace.touches.len();
        if at as u64 >= MAX_TOUCHES || page >= MAX_PAGES {
            self.full = true;
            return;
        }
        self.trace.touches.push(Touch::new(page, count, write));
        if self.latest.len() <= page as usize {
            self.latest.resize(page as usize + 1, 0);
        }
        if let Some(latest) = self.latest.get_mut(page as usize) {
            *latest = at as u32;
        }
    }

    /// The trace of a space of `pages` pages; all accesses were below that.
    ///
    /// # Errors
    ///
    /// When space or trace is larger than may be.
    pub(crate) fn finish(mut self, name: String, pages: u64) -> Result<Trace, BuildError> {
        self.next_item(Side::Device);
        if pages > u64::from(MAX_PAGES) {
            return Err(BuildError::TooManyPages(pages));
        }
        if self.full {
            return Err(BuildError::TooManyTouches);
        }
        self.trace.name = name;
        self.trace.pages = pages as u32;
        Ok(self.trace)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Barrier, host, and touches: page, accesses, write.
    pub(crate) type PlainItem = (bool, bool, Vec<(u32, u32, bool)>);

    /// A trace of `pages` pages with these items.
    pub(crate) fn trace_of(pages: u32, items: &[PlainItem]) -> Trace {
        let mut trace = Trace {
            name: "test".into(),
            pages,
            ..Trace::default()
        };
        for (barrier, host, touches) in items {
            for (page, accesses, write) in touches {
                trace.touches.push(Touch::new(*page, *accesses, *write));
            }
            trace.items.push(Item {
                end: trace.touches.len(),
                barrier: *barrier,
                side: if *host { Side::Host } else { Side::Device },
            });
        }
        trace
    }

    pub(crate) fn any_trace() -> impl Strategy<Value = Trace> {
        (1u32..2000).prop_flat_map(|pages| {
            let touch = (0..pages, 1u32..100, any::<bool>());
            let item = (
                any::<bool>(),
                prop::bool::weighted(0.1),
                prop::collection::vec(touch, 0..30),
            );
            prop::collection::vec(item, 0..30).prop_map(move |items| trace_of(pages, &items))
        })
    }

    #[test]
    fn accesses_within_the_window_are_one_touch_and_all_are_counted() {
        let mut b = Builder::new(2);
        for page in [1, 1, 2, 1, 3, 4, 1] {
            b.access(page, 1, page == 2);
        }
        b.next_item(Side::Device);
        b.access(1, 5, true);
        let t = b.finish("x".into(), 5).unwrap();
        let seen: Vec<_> = t
            .touches
            .iter()
            .map(|t| (t.page, t.accesses(), t.is_write()))
            .collect();
        assert_eq!(
            seen,
            [
                (1, 3, false),
                (2, 1, true),
                (3, 1, false),
                (4, 1, false),
                (1, 1, false),
                (1, 5, true)
            ]
        );
        assert_eq!(t.items.len(), 2);
        assert_eq!(t.touches_of(1).len(), 1);
        assert_eq!(t.touches_of(2).len(), 0);
        assert_eq!(t.accesses(), 12);
        assert_eq!(t.working_set(), 4);
    }

    #[test]
    fn a_touch_that_is_full_is_followed_by_another() {
        let mut b = Builder::new(4);
        b.access(0, MAX_ACCESSES, false);
        b.access(0, 1, true);
        let t = b.finish("x".into(), 1).unwrap();
        assert_eq!(t.accesses(), u64::from(MAX_ACCESSES) + 1);
        assert!(!t.touches[0].is_write() && t.touches[1].is_write());
    }

    proptest! {
        #[test]
        fn no_window_changes_what_is_counted(
            window in 1usize..20,
            accesses in prop::collection::vec((0u32..40, any::<bool>(), prop::bool::weighted(0.05)), 1..300),
        ) {
            let mut b = Builder::new(window);
            let mut written = std::collections::BTreeSet::new();
            for (page, write, next) in &accesses {
                if *next { b.next_item(Side::Device); }
                b.access(*page, 1, *write);
                if *write { written.insert(*page); }
            }
            let t = b.finish("x".into(), 40).unwrap();
            prop_assert_eq!(t.accesses(), accesses.len() as u64);
            let pages: std::collections::BTreeSet<_> = accesses.iter().map(|a| a.0).collect();
            prop_assert_eq!(t.working_set() as usize, pages.len());
            let seen: std::collections::BTreeSet<_> =
                t.touches.iter().filter(|t| t.is_write()).map(|t| t.page).collect();
            prop_assert_eq!(seen, written);
            prop_assert_eq!(t.items.last().unwrap().end, t.touches.len());
        }
    }
}
