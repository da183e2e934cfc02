// SPDX-License-Identifier: GPL-2.0

//! Which block of a space was used least recently.
//!
//! Blocks are sorted by when they were last used as of when they were put in; that one was used since is found out when its turn
//! comes, and it is put where it belongs. So a use costs no lock.

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
}

impl Age {
    /// Of a block that is not on the list.
    pub(crate) fn new() -> Self {
        Self {
            used: Atomic::new(0),
            sorted: Atomic::new(0),
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

    /// Takes the block out that was used least recently, if that was before `limit`.
    pub(crate) fn take(&self, limit: u64) -> Option<Arc<Block>> {
        /// Blocks that may be found used since.
        const PATIENCE: usize = 4096;
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
                age.sorted.store(0, Relaxed);
                return Some(item.into_arc());
            }
            age.sorted.store(used, Relaxed);
            let mut cursor = list.cursor_back();
            while let Some(before) = cursor.peek_prev() {
                if before.age().sorted.load(Relaxed) <= used {
                    break;
                }
                cursor.move_prev();
            }
            cursor.insert(item);
        }
        let item = list.pop_front()?;
        item.age().sorted.store(0, Relaxed);
        Some(item.into_arc())
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
