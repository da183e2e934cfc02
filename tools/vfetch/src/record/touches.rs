// SPDX-License-Identifier: GPL-2.0 OR MIT

//! From records of faults to what was touched: one address range, in which the spaces of the function lie one behind the other.

use std::collections::BTreeMap;

use anyhow::{bail, Result};
use libvfetch::{TraceKind, TraceRecord, BLOCK_BYTES, PAGE_BYTES};

use super::vft::{Touch, MAX_PAGES, MAX_TOUCHES};

/// Pages of a block.
const BLOCK_PAGES: u64 = BLOCK_BYTES / PAGE_BYTES;

/// A touch, in its own space.
#[derive(Debug, Clone, Copy)]
struct Seen {
    space: u64,
    touch: Touch,
}

/// What was touched so far.
#[derive(Debug, Default)]
pub(super) struct Touches {
    seen: Vec<Seen>,
    /// The page after the last one that was touched of each space.
    ends: BTreeMap<u64, u64>,
}

impl Touches {
    /// Takes a record; those that are no faults say nothing here.
    pub(super) fn add(&mut self, record: &TraceRecord) -> Result<()> {
        let host = match record.kind() {
            TraceKind::DeviceFaults => false,
            TraceKind::HostFault => true,
            _ => return Ok(()),
        };
        let mut written = record.more().peekable();
        for page in record.pages() {
            while written.next_if(|other| *other < page).is_some() {}
            let write = written.peek() == Some(&page);
            self.touch(record.space(), Touch { page, write, host })?;
        }
        Ok(())
    }

    fn touch(&mut self, space: u64, touch: Touch) -> Result<()> {
        if let Some(last) = self.seen.last_mut() {
            let again = last.touch.page == touch.page && last.touch.host == touch.host;
            if again && last.space == space {
                // The same access: the kernel tries faults again that had to wait.
                last.touch.write |= touch.write;
                return Ok(());
            }
        }
        if self.seen.len() >= MAX_TOUCHES {
            bail!("more than {MAX_TOUCHES} faults: record for a shorter time");
        }
        self.seen.push(Seen { space, touch });
        let end = self.ends.entry(space).or_default();
        *end = (*end).max(touch.page.saturating_add(1));
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// How many are by the device, and by the host.
    pub(super) fn count(&self) -> (usize, usize) {
        let host = self.seen.iter().filter(|seen| seen.touch.host).count();
        (self.seen.len() - host, host)
    }

    pub(super) fn spaces(&self) -> usize {
        self.ends.len()
    }

    /// How many pages there are with all spaces one behind the other, and the touches there.
    pub(super) fn laid_out(&self) -> Result<(u64, impl Iterator<Item = Touch> + '_)> {
        let mut starts = BTreeMap::new();
        let mut pages = 0_u64;
        for (space, end) in &self.ends {
            starts.insert(*space, pages);
            pages = pages.saturating_add(end.next_multiple_of(BLOCK_PAGES));
        }
        if pages > MAX_PAGES {
            bail!("spaces of {pages} pages were touched, more than the {MAX_PAGES} of a trace");
        }
        let touches = self.seen.iter().map(move |seen| Touch {
            page: starts.get(&seen.space).copied().unwrap_or(0) + seen.touch.page,
            ..seen.touch
        });
        Ok((pages, touches))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(page: u64, write: bool, host: bool) -> Touch {
        Touch { page, write, host }
    }

    #[test]
    fn spaces_lie_one_behind_the_other_from_block_to_block() {
        let mut touches = Touches::default();
        touches.touch(9, touch(0, false, false)).unwrap();
        touches.touch(4, touch(600, true, false)).unwrap();
        touches.touch(4, touch(1, false, true)).unwrap();
        let (pages, all) = touches.laid_out().unwrap();
        assert_eq!(pages, 1024 + 512);
        let all: Vec<_> = all.collect();
        assert_eq!(
            all,
            [
                touch(1024, false, false),
                touch(600, true, false),
                touch(1, false, true)
            ]
        );
        assert_eq!((touches.count(), touches.spaces()), ((2, 1), 2));
    }

    #[test]
    fn a_fault_that_is_tried_again_is_one_touch() {
        let mut touches = Touches::default();
        touches.touch(1, touch(5, false, true)).unwrap();
        touches.touch(1, touch(5, true, true)).unwrap();
        touches.touch(1, touch(5, false, false)).unwrap();
        touches.touch(2, touch(5, false, false)).unwrap();
        let (_, all) = touches.laid_out().unwrap();
        let writes: Vec<bool> = all.map(|t| t.write).collect();
        assert_eq!(writes, [true, false, false]);
    }

    #[test]
    fn what_is_too_large_for_a_trace_is_an_error() {
        let mut touches = Touches::default();
        touches.touch(1, touch(MAX_PAGES - 1, false, true)).unwrap();
        assert!(touches.laid_out().is_ok());
        touches.touch(2, touch(0, false, true)).unwrap();
        assert!(touches.laid_out().is_err());
    }
}
