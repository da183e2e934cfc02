// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The tags of a function's prefetch buffer: of which pages it has clean copies, which are on their way, and which goes when
//! there is no room.
//!
//! Each function has tags of its own; how many of them may be in use is an [`account`] among all functions. So one function
//! neither finds nor displaces what another has: there is nothing that both look at. A tag says all the same whose
//! it is, and a look-up compares that, too.
//!
//! The tags are a table of sets of [`WAYS`]; a page's set is a hash of it, so that a look-up touches one set. Who goes is
//! chosen by *re-reference interval prediction* (Jaleel et al., "High performance cache replacement using re-reference
//! interval prediction", ISCA 2010): each tag has a rank, from 0, to be used soon, to 3.
//!
//! The caller has the memory of the copies: one page for each [`Slot`]. It makes transfers; each has an id of its own, which is
//! compared when it is over. Memory that a transfer still goes to is never given to another: its tag stays
//! until the transfer is over, or the device was reset ([`Buffer::drained`]).

use core::ops::DerefMut;

use super::owner::TransactionId;
use super::page::PageIndex;
use super::prefetch::{BlockId, FunctionId};

pub mod account;
#[cfg(test)]
mod tests;

/// Tags of a set.
pub const WAYS: usize = 8;

/// The rank of what goes next.
const DISTANT: u8 = 3;

/// A page of a function's spaces.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PageId {
    /// The block that it is in.
    pub block: BlockId,
    /// Which page of it.
    pub page: PageIndex,
}

impl PageId {
    /// Page `page` of `space`, counted from its beginning.
    #[must_use]
    pub const fn of(space: u32, page: u64) -> Self {
        // CAST: below 512.
        #[allow(clippy::cast_possible_truncation, reason = "below 512")]
        let within = (page % super::page::PAGES as u64) as usize;
        Self {
            block: BlockId {
                space,
                index: page / super::page::PAGES as u64,
            },
            page: match PageIndex::new(within) {
                Some(page) => page,
                None => PageIndex::FIRST,
            },
        }
    }

    /// Its number, counted from the beginning of its space; `None` beyond 2^64.
    #[must_use]
    pub const fn number(self) -> Option<u64> {
        match self.block.index.checked_mul(super::page::PAGES as u64) {
            Some(first) => first.checked_add(self.page.get() as u64),
            None => None,
        }
    }

    /// A number that depends on all of its bits.
    const fn hash(self) -> u64 {
        let space = (self.block.space as u64).wrapping_mul(0xff51_afd7_ed55_8ccd);
        let page = self
            .block
            .index
            .wrapping_mul(super::page::PAGES as u64)
            .wrapping_add(self.page.get() as u64);
        let mixed = (page ^ space.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 29)
    }
}

/// Why a copy was made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Origin {
    /// Somebody wanted it.
    Demand,
    /// A prediction, by the number that the caller gives its predictors.
    Prefetch {
        /// Whose.
        predictor: u8,
        /// Whether it will be read once, from the first page to the last: of no use after that.
        once: bool,
    },
}

/// The place of a tag, and of its copy in the caller's memory: below [`Buffer::slots`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot(u32);

impl Slot {
    /// Its number.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Free,
    /// A transfer goes to it.
    Fetching,
    /// It can be read.
    Ready,
    /// A transfer goes to it, and nobody wants it any more.
    Dropped,
}

/// A tag: 40 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag {
    function: FunctionId,
    generation: u32,
    id: TransactionId,
    page: PageId,
    state: State,
    rank: u8,
    used: bool,
    origin: Origin,
}

impl Tag {
    /// One that is free.
    pub const FREE: Self = Self {
        function: FunctionId(u32::MAX),
        generation: 0,
        id: TransactionId(0),
        page: PageId {
            block: BlockId { space: 0, index: 0 },
            page: PageIndex::FIRST,
        },
        state: State::Free,
        rank: DISTANT,
        used: false,
        origin: Origin::Demand,
    };

    /// What is said of it when it goes.
    const fn gone(&self, slot: Slot) -> Gone {
        Gone {
            slot,
            page: self.page,
            id: self.id,
            origin: self.origin,
            used: self.used,
        }
    }
}

/// What a look-up finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// The copy is there.
    Copy {
        /// Where.
        slot: Slot,
        /// The transfer that brought it.
        id: TransactionId,
        /// Why it was brought.
        origin: Origin,
        /// Nobody used it before.
        first: bool,
    },
    /// It is on its way.
    Coming {
        /// To there.
        slot: Slot,
        /// By this transfer.
        id: TransactionId,
        /// Why it is brought.
        origin: Origin,
        /// Nobody asked for it before.
        first: bool,
    },
    /// There is none.
    Nothing,
}

/// A copy that went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gone {
    /// Where it was.
    pub slot: Slot,
    /// Of which page it was.
    pub page: PageId,
    /// The transfer that brought it.
    pub id: TransactionId,
    /// Why it was brought.
    pub origin: Origin,
    /// Whether anybody used it.
    pub used: bool,
}

/// A place for a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reserved {
    /// Where it is.
    pub slot: Slot,
    /// What was there before. If nothing was, one more slot is in use.
    pub displaced: Option<Gone>,
}

/// Why there is no place for a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// There is one of that page, or one on its way.
    Present,
    /// Transfers go to all that could be displaced, or nothing may be.
    NoRoom,
    /// The page is another function's.
    Foreign,
}

/// What the end of a transfer means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The copy can be read.
    Ready,
    /// Nobody wants it any more, or the transfer failed: its slot is free.
    Freed(Gone),
    /// That transfer has ended before.
    Duplicate,
    /// Its slot has been another's since.
    Stale,
    /// There was no such transfer.
    Unknown,
}

/// What became of a copy that must not be found any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dropped {
    /// Its slot is free.
    Freed(Gone),
    /// A transfer still goes to it: the slot is free when that is over.
    Pending(Gone),
}

/// The tags of one function. `S` is storage for them.
#[derive(Debug)]
pub struct Buffer<S> {
    function: FunctionId,
    generation: u32,
    tags: S,
    /// Sets of it.
    sets: u32,
    /// Tags that are not free.
    in_use: u32,
    /// The last id that was given out.
    last: TransactionId,
    /// Where the search for what can be displaced outside a page's own set begins.
    hand: u32,
}

impl<S: DerefMut<Target = [Tag]>> Buffer<S> {
    /// `function`'s tags, all free. `None` if `tags` is shorter than a set; what is more than whole sets is not used.
    #[must_use]
    pub fn new(function: FunctionId, mut tags: S) -> Option<Self> {
        tags.fill(Tag::FREE);
        let sets = u32::try_from(tags.len() / WAYS).ok()?;
        (sets > 0).then_some(Self {
            function,
            generation: 0,
            tags,
            sets,
            in_use: 0,
            last: TransactionId(0),
            hand: 0,
        })
    }

    /// Slots that there are.
    #[must_use]
    pub const fn slots(&self) -> u32 {
        // CAST: 8.
        #[allow(clippy::cast_possible_truncation, reason = "8")]
        self.sets.saturating_mul(WAYS as u32)
    }

    /// Slots that are in use, those included whose copies nobody wants any more while a transfer goes to them.
    #[must_use]
    pub const fn in_use(&self) -> u32 {
        self.in_use
    }

    /// How often it was emptied.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// A new id: never used before, and larger than all of them.
    pub fn next_id(&mut self) -> TransactionId {
        self.last = TransactionId(self.last.0.saturating_add(1));
        self.last
    }

    /// The slots of `page`'s set.
    fn set(&self, page: PageId) -> core::ops::Range<usize> {
        // The hash, scaled to the number of sets. CAST: below that number.
        #[allow(clippy::cast_possible_truncation, reason = "below the number of sets")]
        let set = (((page.hash() >> 32).wrapping_mul(u64::from(self.sets))) >> 32) as usize;
        let first = set.saturating_mul(WAYS);
        first..first.saturating_add(WAYS)
    }

    /// Where the copy of `page` is, or comes to, if `function` may know.
    fn position(&self, function: FunctionId, page: PageId) -> Option<Slot> {
        let set = self.set(page);
        let first = set.start;
        let within = self.tags.get(set)?.iter().position(|tag| {
            tag.page == page
                && matches!(tag.state, State::Ready | State::Fetching)
                && tag.function == function
                && tag.generation == self.generation
        })?;
        u32::try_from(first.saturating_add(within)).ok().map(Slot)
    }

    fn tag(&mut self, slot: Slot) -> Option<&mut Tag> {
        self.tags.get_mut(slot.get())
    }

    /// Whether there is a copy of `page`, or one on its way; changes nothing.
    #[must_use]
    pub fn has(&self, function: FunctionId, page: PageId) -> bool {
        self.position(function, page).is_some()
    }

    /// Looks for the copy of `page` for `function`, which wants it now.
    pub fn look_up(&mut self, function: FunctionId, page: PageId) -> Found {
        let Some(slot) = self.position(function, page) else {
            return Found::Nothing;
        };
        let Some(tag) = self.tag(slot) else {
            return Found::Nothing;
        };
        let first = !tag.used;
        tag.used = true;
        // What is read once from first to last is of no use any more; what was wanted again may be so once more.
        tag.rank = match tag.origin {
            Origin::Prefetch { once: true, .. } => DISTANT,
            Origin::Prefetch { once: false, .. } if first => 1,
            _ => 0,
        };
        let (id, origin) = (tag.id, tag.origin);
        if tag.state == State::Ready {
            Found::Copy {
                slot,
                id,
                origin,
                first,
            }
        } else {
            Found::Coming {
                slot,
                id,
                origin,
                first,
            }
        }
    }

    /// A place for the copy of `page` that transfer `id` will bring. If `grow` is false, or there is no free one in its set, another copy
    /// is displaced.
    ///
    /// # Errors
    ///
    /// See [`Refused`]; nothing has changed then.
    pub fn reserve(
        &mut self,
        function: FunctionId,
        page: PageId,
        id: TransactionId,
        origin: Origin,
        grow: bool,
    ) -> Result<Reserved, Refused> {
        if function != self.function {
            return Err(Refused::Foreign);
        }
        if self.position(function, page).is_some() {
            return Err(Refused::Present);
        }
        let set = self.set(page);
        let free = self.find(set.clone(), |tag| tag.state == State::Free);
        let (slot, displaced) = match free {
            Some(slot) if grow => (slot, None),
            // Someone else's place, of another set if need be: as many are in use as before.
            Some(slot) => (slot, Some(self.displace_any().ok_or(Refused::NoRoom)?)),
            None => {
                let gone = self.displace(set).ok_or(Refused::NoRoom)?;
                (gone.slot, Some(gone))
            }
        };
        let generation = self.generation;
        let tag = self.tag(slot).ok_or(Refused::NoRoom)?;
        *tag = Tag {
            function,
            generation,
            id,
            page,
            state: State::Fetching,
            rank: match origin {
                Origin::Prefetch { .. } => 1,
                Origin::Demand => DISTANT - 1,
            },
            used: false,
            origin,
        };
        self.in_use = self.in_use.saturating_add(1);
        Ok(Reserved { slot, displaced })
    }

    /// The first slot of `slots` whose tag is so.
    fn find(&self, slots: core::ops::Range<usize>, so: impl Fn(&Tag) -> bool) -> Option<Slot> {
        let first = slots.start;
        let within = self.tags.get(slots)?.iter().position(so)?;
        u32::try_from(first.saturating_add(within)).ok().map(Slot)
    }

    /// Frees the slot of the copy of `set` that is the least likely to be used. `None` if transfers go to all of them.
    fn displace(&mut self, set: core::ops::Range<usize>) -> Option<Gone> {
        let tags = self.tags.get_mut(set.clone())?;
        let oldest = tags
            .iter()
            .filter(|tag| tag.state == State::Ready)
            .map(|tag| tag.rank)
            .max()?;
        // All grow older until one is distant.
        let by = DISTANT.saturating_sub(oldest);
        for tag in tags.iter_mut() {
            tag.rank = tag.rank.saturating_add(by).min(DISTANT);
        }
        let slot = self.find(set, |tag| tag.state == State::Ready && tag.rank == DISTANT)?;
        self.free(slot)
    }

    /// Frees the slot of some copy. `None` if transfers go to all of them.
    fn displace_any(&mut self) -> Option<Gone> {
        for _ in 0..self.sets {
            let first = (self.hand as usize).saturating_mul(WAYS);
            self.hand = if self.hand.saturating_add(1) < self.sets {
                self.hand.saturating_add(1)
            } else {
                0
            };
            if let Some(gone) = self.displace(first..first.saturating_add(WAYS)) {
                return Some(gone);
            }
        }
        None
    }

    fn free(&mut self, slot: Slot) -> Option<Gone> {
        let tag = self.tag(slot)?;
        let gone = tag.gone(slot);
        *tag = Tag::FREE;
        self.in_use = self.in_use.saturating_sub(1);
        Some(gone)
    }

    /// Frees the slot of the copy that is the least likely to be used, of those that no transfer goes to.
    pub fn shed(&mut self) -> Option<Gone> {
        self.displace_any()
    }

    /// Transfer `id` to `slot` is over; `arrived` if the data is there.
    pub fn ended(&mut self, slot: Slot, id: TransactionId, arrived: bool) -> Ended {
        let last = self.last;
        let Some(tag) = self.tag(slot) else {
            return Ended::Unknown;
        };
        if id.0 == 0 || id.0 > last.0 {
            return Ended::Unknown;
        }
        if tag.id != id {
            return Ended::Stale;
        }
        match tag.state {
            State::Fetching if arrived => {
                tag.state = State::Ready;
                Ended::Ready
            }
            State::Fetching | State::Dropped => match self.free(slot) {
                Some(gone) => Ended::Freed(gone),
                None => Ended::Unknown,
            },
            State::Ready => Ended::Duplicate,
            State::Free => Ended::Stale,
        }
    }

    /// The copy of `page` must not be found any more: it was written to, or it became the host's page.
    pub fn drop_copy(&mut self, function: FunctionId, page: PageId) -> Option<Dropped> {
        let slot = self.position(function, page)?;
        self.drop_slot(slot)
    }

    fn drop_slot(&mut self, slot: Slot) -> Option<Dropped> {
        let tag = self.tag(slot)?;
        match tag.state {
            State::Ready => self.free(slot).map(Dropped::Freed),
            State::Fetching => {
                tag.state = State::Dropped;
                Some(Dropped::Pending(tag.gone(slot)))
            }
            State::Dropped | State::Free => None,
        }
    }

    /// No copy is found any more; says of each what became of it.
    pub fn empty(&mut self, mut each: impl FnMut(Dropped)) {
        self.generation = self.generation.wrapping_add(1);
        self.drop_where(|_| true, &mut each);
    }

    /// No copy of `space` is found any more; says of each what became of it.
    pub fn forget(&mut self, space: u32, mut each: impl FnMut(Dropped)) {
        self.drop_where(|tag| tag.page.block.space == space, &mut each);
    }

    fn drop_where(&mut self, so: impl Fn(&Tag) -> bool, each: &mut impl FnMut(Dropped)) {
        for slot in (0..self.slots()).map(Slot) {
            if self.tags.get(slot.get()).is_some_and(&so) {
                if let Some(dropped) = self.drop_slot(slot) {
                    each(dropped);
                }
            }
        }
    }

    /// The device was reset: no transfer goes to any slot any more. Says of each copy that was on its way that it will not come.
    pub fn drained(&mut self, mut each: impl FnMut(Gone)) {
        for slot in (0..self.slots()).map(Slot) {
            let under_way = self
                .tags
                .get(slot.get())
                .is_some_and(|tag| matches!(tag.state, State::Fetching | State::Dropped));
            if under_way {
                if let Some(gone) = self.free(slot) {
                    each(gone);
                }
            }
        }
    }
}
