// SPDX-License-Identifier: GPL-2.0

//! Which block of a space was used least recently.
//!
//! Blocks are sorted by when they were last used as of when they were put in; that one was used since is found out when its turn
//! comes, and it is put about where it belongs. So a use costs no lock.
//!
//! Not every use is told: processes and the device use what they have mapped without a fault. So the blocks that are next are looked
//! at ([`Lru::next_to_watch`]), some time before their turn: what was used in between has another turn. How that is seen is the
//! caller's business.

use kernel::list::{List, ListArc};
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::{new_mutex, Arc, Mutex};

use super::block::Block;

/// Of one of the lists that a block can be on.
pub(crate) struct Age {
    /// When it was last used.
    used: Atomic<u64>,
    /// The same, as of when it was put in; 0: it is not.
    sorted: Atomic<u64>,
    /// Since when it is watched, so that uses that are not told are seen; 0: it is not.
    watched: Atomic<u64>,
}

impl Age {
    /// Of a block that is not on the list.
    pub(crate) fn new() -> Self {
        Self {
            used: Atomic::new(0),
            sorted: Atomic::new(0),
            watched: Atomic::new(0),
        }
    }
}

/// Blocks with pages on one side, least recently used first. `ID` says which side: 0 device, 1 host.
#[pin_data]
pub(crate) struct Lru<const ID: u64>
where
    Block: Listed<ID>,
{
    #[pin]
    list: Mutex<List<Block, ID>>,
}

/// A block can be on the list of this side.
pub(crate) trait Listed<const ID: u64>:
    kernel::list::ListItem<ID> + kernel::list::TryNewListArc<ID>
{
    /// What is known of it there.
    fn age(&self) -> &Age;
}

impl<const ID: u64> Lru<ID>
where
    Block: Listed<ID>,
{
    /// No blocks.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            list <- new_mutex!(List::new(), "vfetch: least recently used"),
        })
    }

    /// `block` was used at `now`, which is never 0 and never goes back.
    pub(crate) fn used(&self, block: &Arc<Block>, now: u64) {
        let age = block.age();
        age.used.store(now, Relaxed);
        if age.sorted.load(Relaxed) == 0 {
            if let Ok(item) = ListArc::try_from_arc(block.clone()) {
                age.sorted.store(now, Relaxed);
                let mut list = self.list.lock();
                list.push_back(item);
                // Blocks that are gone do not pile up.
                for _ in 0..2 {
                    match list.pop_front() {
                        Some(first) if first.is_gone() => {
                            first.age().sorted.store(0, Relaxed);
                        }
                        Some(first) => {
                            list.push_front(first);
                            break;
                        }
                        None => break,
                    }
                }
            }
        }
    }

    /// A block whose turn is near and that is not watched yet; from `now` on it is.
    pub(crate) fn next_to_watch(&self, now: u64) -> Option<Arc<Block>> {
        /// Blocks that are near.
        const NEAR: usize = 8;
        let list = self.list.lock();
        let block = list
            .iter()
            .take(NEAR)
            .find(|block| block.age().watched.load(Relaxed) == 0)?;
        block.age().watched.store(now, Relaxed);
        Some(block.into())
    }

    /// Takes the block out that was used least recently, if that was before `limit`. Says whether it was watched.
    pub(crate) fn take(&self, limit: u64) -> Option<(Arc<Block>, bool)> {
        /// Blocks that may be found used since; each such use is paid for once.
        const PATIENCE: usize = 512;
        /// Places that a block is moved forward to where it belongs: beyond that it stays behind those that it belongs before.
        const STEPS: usize = 8;
        let mut list = self.list.lock();
        for _ in 0..PATIENCE {
            let item = list.pop_front()?;
            let age = item.age();
            let used = age.used.load(Relaxed);
            if age.sorted.load(Relaxed) >= limit {
                // So were all others.
                list.push_front(item);
                return None;
            }
            if used <= age.sorted.load(Relaxed) {
                return Some(taken(item));
            }
            if used > age.watched.load(Relaxed) {
                // That it was used since is known: its turn is far again.
                age.watched.store(0, Relaxed);
            }
            let mut cursor = list.cursor_back();
            let mut sorted = used;
            for step in 0..=STEPS {
                let Some(before) = cursor.peek_prev() else {
                    break;
                };
                let sorted_before = before.age().sorted.load(Relaxed);
                if sorted_before <= used {
                    break;
                }
                if step == STEPS {
                    sorted = sorted_before;
                    break;
                }
                cursor.move_prev();
            }
            age.sorted.store(sorted, Relaxed);
            cursor.insert(item);
        }
        list.pop_front().map(taken)
    }

    /// When the first of them was last used, as far as that is known.
    pub(crate) fn oldest(&self) -> Option<u64> {
        let list = self.list.lock();
        let first = list.iter().next()?;
        Some(first.age().sorted.load(Relaxed))
    }

    /// Takes all out.
    pub(crate) fn clear(&self) {
        while self.take(u64::MAX).is_some() {}
    }
}

/// A block that is on no list any more, and whether it was watched.
fn taken<const ID: u64>(item: ListArc<Block, ID>) -> (Arc<Block>, bool)
where
    Block: Listed<ID>,
{
    let age = item.age();
    age.sorted.store(0, Relaxed);
    let watched = age.watched.load(Relaxed) > 0;
    age.watched.store(0, Relaxed);
    (item.into_arc(), watched)
}
