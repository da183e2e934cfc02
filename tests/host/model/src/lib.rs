// SPDX-License-Identifier: GPL-2.0

//! The protocol that keeps host and device coherent, explored exhaustively with `stateright`.
//!
//! What a page's events lead to is [`vfetch_engine::owner`], the very function that the driver uses. Here is the rest of the
//! world: those who use a space, and what hardware and kernel do in steps of their own, each of which may come before or after any step of
//! anybody else:
//!
//! - the write of a page-table entry, what the device remembers of it, accesses that it has translated and not made yet, and
//!   the invalidation that is complete when there are none;
//! - the unmapping from the host;
//! - uses of a page where it is by `read()` and `write()`, for which a move waits;
//! - a transfer's reading of the source, its writing of the destination, and the publishing of what arrived;
//! - a transfer that fails, or times out and ends later after all.
//!
//! A [`Scope`] says who does what, and is the bound: everybody does a few things, one after the other, on one or two pages.
//! [`Protocol`] is its model, with the properties that must hold; a [`Mutant`] is one that breaks a rule, to see that it is found.

mod act;
mod world;

use stateright::{Model, Property};
use vfetch_engine::prefetch::Location;

pub use act::Act;
pub use world::{World, Wrong};

/// Something that somebody does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Deed {
    /// A process loads from its mapping, or stores to it.
    Host {
        /// Whether it stores.
        write: bool,
    },
    /// A strand of a job reads or writes.
    Device {
        /// Whether it writes.
        write: bool,
    },
    /// `read()`.
    Read,
    /// `write()` of a part of the page, or of all of it.
    Write {
        /// Of all of it.
        whole: bool,
    },
    /// Direct I/O to the page: it is taken hold of, written to, and let go.
    DirectIo,
    /// A hint, or an eviction, takes all pages of the space there at once.
    Move {
        /// Where to.
        to: Location,
        /// To make room: pins do not help.
        evict: bool,
    },
    /// A duplicate comes to the prefetch buffer, and goes.
    Duplicate,
    /// The prefetch buffer needs the copy's room.
    DropCopy,
    /// The page is pinned where it is.
    Pin,
    /// And not any more.
    Unpin,
    /// It is discarded.
    Discard,
    /// The function is reset.
    Reset,
}

/// Who does what, on how many pages: the bound of what is explored.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Pages of the space, which a move takes together; at most 2.
    pub pages: usize,
    /// What each does, and to which page, one after the other.
    pub actors: Vec<Vec<(usize, Deed)>>,
    /// Transfers that fail.
    pub failures: u8,
    /// Transfers that time out.
    pub timeouts: u8,
}

/// A rule of the protocol that is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// The transfer begins before the invalidation is complete.
    TransferBeforeInvalidation,
    /// The transfer begins before those who use the page where it is have ended.
    TransferBeforeDrain,
    /// The transfer begins before the host's mappings are gone.
    TransferBeforeUnmapping,
    /// Whether somebody else holds the page is looked up before it is unmapped.
    HeldBeforeUnmapping,
    /// Nobody looks whether somebody else holds the page.
    HeldIgnored,
    /// The entry is written after the invalidation.
    EntryAfterInvalidation,
    /// The invalidation does not wait for accesses that were translated before it.
    InvalidationWithoutDrain,
    /// What arrives is published before it has arrived.
    PublishedBeforeArrival,
    /// The destination of a transfer that has timed out is used again.
    NoQuarantine,
    /// A reset leaves the owner as it was.
    ResetForgotten,
    /// Those who wait are not woken.
    NoWake,
    /// A page that is not pinned any more may move while it is still mapped through the window.
    UnpinnedBeforeUnmapping,
    /// A write is allowed before the copy is dropped.
    CopyKept,
}

/// The model of a [`Scope`].
#[derive(Clone, Debug)]
pub struct Protocol {
    /// Its bound.
    pub scope: Scope,
    /// The rule that is broken, if one is.
    pub mutant: Option<Mutant>,
}

impl Protocol {
    /// The protocol as it is.
    #[must_use]
    pub fn new(scope: Scope) -> Self {
        Self {
            scope,
            mutant: None,
        }
    }

    /// Whether `mutant` is the rule that is broken.
    pub(crate) fn breaks(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(&self.scope)]
    }

    fn actions(&self, world: &World, acts: &mut Vec<Act>) {
        // What is wrong stays so.
        if world.wrong.is_none() {
            world.acts(self, acts);
        }
    }

    fn next_state(&self, world: &World, act: Act) -> Option<World> {
        let mut next = world.clone();
        next.perform(self, act);
        next.look();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn is(world: &World, wrong: Wrong) -> bool {
            world.wrong == Some(wrong)
        }
        vec![
            Property::<Self>::always("no stale read", |_, world| !is(world, Wrong::StaleRead)),
            Property::<Self>::always("no lost write", |_, world| !is(world, Wrong::LostWrite)),
            Property::<Self>::always("a single owner", |_, world| !is(world, Wrong::TwoOwners)),
            Property::<Self>::always("no zero fill", |_, world| !is(world, Wrong::Zeros)),
            Property::<Self>::always("nothing is used after it was freed", |_, world| {
                !is(world, Wrong::Freed)
            }),
            Property::<Self>::always("nothing is lost but by a reset", |_, world| {
                !is(world, Wrong::Lost)
            }),
            // Nobody waits for nothing. That nobody can go round in circles only is checked by `tests/explore.rs`.
            Property::<Self>::always("every wait ends", |model, world| {
                let mut acts = Vec::new();
                model.actions(world, &mut acts);
                !acts.is_empty() || world.wrong.is_some() || world.is_over(&model.scope)
            }),
        ]
    }
}
