// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Linux readahead: the window rules of `mm/readahead.c` (`page_cache_sync_ra`, `page_cache_async_ra`), for requests of one page.
//!
//! A window is `size` pages from `start`; its last `async_size` pages are what was read ahead of need, and
//! the first of these is marked: when that one is used, the next window is read. A window starts small and
//! doubles or quadruples up to the maximum, 32 pages (128 KiB) as Linux has it.
//!
//! Linux keeps this state by open file, so by reader. The machine does not say which strand faulted. Here are as many states as there are
//! strands by default, and a fault goes to the one that it continues, else to the least recently used: as if each strand
//! had opened the space for itself. That a marked page is used is learnt at once, and for free.

use super::{Fault, Hint, Prefetcher, View};

const MAX: u32 = 32;
const STREAMS: usize = 32;

#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    start: u32,
    size: u32,
    async_size: u32,
    /// The page that was asked for last, and one.
    previous: Option<u32>,
    last: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Readahead {
    streams: [Stream; STREAMS],
    clock: u64,
}

/// The first window's size, for a request of one page.
fn first_size() -> u32 {
    next_of(1, MAX / 32, MAX / 4)
}

fn next_of(size: u32, small: u32, middle: u32) -> u32 {
    if size <= small {
        size * 4
    } else if size <= middle {
        size * 2
    } else {
        MAX
    }
}

/// The next window's size.
fn next_size(size: u32) -> u32 {
    if size < MAX / 16 {
        size * 4
    } else if size <= MAX / 2 {
        size * 2
    } else {
        MAX
    }
}

impl Stream {
    /// Whether a missing page continues it: it follows the window, or begins its asynchronous part, or follows the last page.
    fn continues(&self, page: u32) -> bool {
        self.expects(page) || self.previous.is_some_and(|p| p == page || p + 1 == page)
    }

    fn expects(&self, page: u32) -> bool {
        self.size > 0
            && (page == self.start + self.size || page == self.start + self.size - self.async_size)
    }

    fn begin(&mut self, page: u32) {
        self.start = page;
        self.size = first_size();
        self.async_size = self.size - 1;
    }

    fn advance(&mut self) {
        self.start += self.size;
        self.size = next_size(self.size);
        self.async_size = self.size;
    }

    /// A page is missing. Whether a window is to be read.
    fn miss(&mut self, view: &View<'_>, page: u32) -> bool {
        let sequential = self.previous.is_some_and(|p| page == p || page == p + 1);
        self.previous = Some(page);
        if page == 0 || (sequential && !self.expects(page)) {
            self.begin(page);
        } else if self.expects(page) {
            self.advance();
        } else {
            // Pages right before it that are there tell of a stream that nobody remembers.
            let before = (1..=MAX.min(page))
                .take_while(|d| view.device.has(page - d))
                .count() as u32;
            if before <= 1 {
                return false;
            }
            // All the way to the start of the file: likely read from there.
            let size = if before >= page { before * 2 } else { before };
            self.start = page;
            self.size = (size + 1).min(MAX);
            self.async_size = 1;
        }
        // The window begins with this page and all of it is ahead: its mark would be hit at once, so the next one is joined to it.
        if page == self.start && self.size == self.async_size {
            let add = next_size(self.size);
            if self.size + add <= MAX {
                self.async_size = add;
                self.size += add;
            } else {
                self.size = MAX;
                self.async_size = MAX / 2;
            }
        }
        true
    }

    fn marked(&self, page: u32) -> bool {
        self.size > 0 && page == self.start + self.size - self.async_size
    }
}

impl Readahead {
    pub(crate) fn new() -> Self {
        Self {
            streams: [Stream::default(); STREAMS],
            clock: 0,
        }
    }
}

impl Prefetcher for Readahead {
    fn batch(&mut self, view: &View<'_>, faults: &[Fault], hint: &mut Hint) {
        for fault in faults {
            self.clock += 1;
            let clock = self.clock;
            let found = self
                .streams
                .iter_mut()
                .position(|s| s.continues(fault.page));
            let Some(stream) = (match found {
                Some(at) => self.streams.get_mut(at),
                None => self.streams.iter_mut().min_by_key(|s| s.last).map(|s| {
                    *s = Stream::default();
                    s
                }),
            }) else {
                continue;
            };
            stream.last = clock;
            if stream.miss(view, fault.page) {
                hint.pages
                    .extend(stream.start..(stream.start + stream.size).min(view.pages));
            }
        }
    }

    fn used(&mut self, view: &View<'_>, page: u32, hint: &mut Hint) {
        self.clock += 1;
        let clock = self.clock;
        for stream in &mut self.streams {
            if stream.previous.is_some_and(|p| p + 1 == page) {
                stream.previous = Some(page);
                stream.last = clock;
            }
            if stream.marked(page) {
                stream.last = clock;
                stream.previous = Some(page);
                stream.advance();
                hint.pages
                    .extend(stream.start..(stream.start + stream.size).min(view.pages));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::Known, *};

    #[test]
    fn windows_grow_as_in_linux() {
        // A reader of consecutive pages: 4, then 8, 16, 32, 32 pages, each when the mark of the one before is used.
        let device = Known::default();
        let view = device.view(10_000);
        let mut r = Readahead::new();
        let mut hint = Hint::default();
        r.batch(
            &view,
            &[Fault {
                page: 0,
                write: false,
            }],
            &mut hint,
        );
        assert_eq!(hint.pages, [0, 1, 2, 3]);
        let mut sizes = Vec::new();
        for page in 1..100 {
            hint.clear();
            r.used(&view, page, &mut hint);
            if let Some(first) = hint.pages.first() {
                sizes.push((page, *first, hint.pages.len()));
            }
        }
        assert_eq!(
            sizes,
            [
                (1, 4, 8),
                (4, 12, 16),
                (12, 28, 32),
                (28, 60, 32),
                (60, 92, 32),
                (92, 124, 32)
            ]
        );
    }

    #[test]
    fn random_faults_read_nothing_ahead() {
        let device = Known::default();
        let mut r = Readahead::new();
        let mut hint = Hint::default();
        for page in [700, 30, 9000, 411, 30_000] {
            r.batch(
                &device.view(100_000),
                &[Fault { page, write: false }],
                &mut hint,
            );
        }
        assert!(hint.pages.is_empty());
    }

    #[test]
    fn a_run_of_present_pages_makes_a_stream() {
        let device = Known((100..105).collect());
        let mut r = Readahead::new();
        let mut hint = Hint::default();
        r.batch(
            &device.view(10_000),
            &[Fault {
                page: 105,
                write: false,
            }],
            &mut hint,
        );
        assert_eq!(hint.pages, (105..111).collect::<Vec<_>>());
    }
}
