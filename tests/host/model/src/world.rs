// SPDX-License-Identifier: GPL-2.0

//! Where everything is, and what is under way.

use vfetch_engine::{
    owner::{Action, Entry, Event, Page, Purpose, Step, Store, TransactionId},
    prefetch::Location,
};

use crate::{Mutant, Protocol, Scope};

/// What must not happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Wrong {
    /// Somebody reads what is not the latest.
    StaleRead,
    /// What was written is not where the contents are.
    LostWrite,
    /// Two places could be written to.
    TwoOwners,
    /// Contents are replaced by zeros, or zeros given for them.
    Zeros,
    /// Memory is given back that somebody uses.
    Freed,
    /// Contents are lost without a reset.
    Lost,
}

/// How processes have a page mapped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum HostMap {
    No,
    Page,
    Window,
}

/// Memory of a page, by its number in [`Contents::fresh`].
pub(crate) const HOST: usize = 0;
pub(crate) const FRAME: usize = 1;
pub(crate) const COPY: usize = 2;

pub(crate) const fn memory(location: Location) -> usize {
    match location {
        Location::Host => HOST,
        Location::Device => FRAME,
    }
}

/// A page, and all that is known of it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Contents {
    pub(crate) page: Page,
    /// Whether there are any: not zeros, not lost.
    pub(crate) written: bool,
    /// Whether host page, frame and copy hold the latest.
    pub(crate) fresh: [bool; 3],
    pub(crate) has_copy: bool,
    pub(crate) map: HostMap,
    pub(crate) entry: Entry,
    /// What the device remembers of the entry.
    pub(crate) remembered: Option<Entry>,
}

/// Rights that are being taken away, of pages that move together.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Mover {
    pub(crate) id: TransactionId,
    pub(crate) pages: [bool; 2],
    pub(crate) unmap: bool,
    pub(crate) invalidate: bool,
    /// Entries that are still to be written: see [`Mutant::EntryAfterInvalidation`].
    pub(crate) entries: [Option<Entry>; 2],
    /// Which of the pages somebody held when it began: see [`Mutant::HeldBeforeUnmapping`].
    pub(crate) held: [bool; 2],
}

/// How far a transfer is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Stage {
    /// Nothing was read yet.
    Begun,
    /// The source was read: the latest, or not any more.
    Read(bool),
    /// The destination was written.
    Written,
}

/// Data on its way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Transfer {
    pub(crate) page: usize,
    pub(crate) id: TransactionId,
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) stage: Stage,
    /// Nobody waits for it any more.
    pub(crate) late: bool,
    /// What it writes to is nobody's.
    pub(crate) quarantined: bool,
}

/// What somebody is in the middle of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Doing {
    /// Nothing: the next deed is to begin.
    Nothing,
    /// It waits for the page of its deed to change.
    Waiting,
    /// It uses memory of the page where it is, or a reference to a copy.
    Using(usize),
    /// It holds the host's page.
    Holding,
    /// It held, and has written.
    Wrote,
}

/// Somebody, and how many deeds are done.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Actor {
    pub(crate) done: usize,
    pub(crate) doing: Doing,
}

/// Everything.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct World {
    pub(crate) pages: Vec<Contents>,
    pub(crate) movers: Vec<Mover>,
    pub(crate) transfers: Vec<Transfer>,
    pub(crate) actors: Vec<Actor>,
    pub(crate) failures: u8,
    pub(crate) timeouts: u8,
    /// The first thing that went wrong.
    pub wrong: Option<Wrong>,
}

/// How a call, or an access, goes on after an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// It looks again.
    Again,
    /// It waits for a change.
    Wait,
    /// The contents are lost.
    Fail,
    /// It uses this memory; `None`: zeros.
    Use(Option<usize>),
}

impl World {
    pub(crate) fn new(scope: &Scope) -> Self {
        assert!(scope.pages <= 2);
        let page = Contents {
            page: Page::None,
            written: false,
            fresh: [false; 3],
            has_copy: false,
            map: HostMap::No,
            entry: Entry::Absent,
            remembered: None,
        };
        let actor = Actor {
            done: 0,
            doing: Doing::Nothing,
        };
        Self {
            pages: vec![page; scope.pages],
            movers: Vec::new(),
            transfers: Vec::new(),
            actors: vec![actor; scope.actors.len()],
            failures: scope.failures,
            timeouts: scope.timeouts,
            wrong: None,
        }
    }

    /// Whether everybody has done everything.
    pub(crate) fn is_over(&self, scope: &Scope) -> bool {
        let mut actors = self.actors.iter().zip(&scope.actors);
        actors.all(|(actor, deeds)| actor.done == deeds.len())
    }

    /// `wrong` has happened, if `is` so.
    pub(crate) fn blame(&mut self, wrong: Wrong, is: bool) {
        if is {
            self.wrong.get_or_insert(wrong);
        }
    }

    /// An identifier that nothing uses.
    pub(crate) fn id(&self) -> TransactionId {
        let used = |id: TransactionId| {
            self.movers.iter().any(|mover| mover.id == id)
                || self.transfers.iter().any(|transfer| transfer.id == id)
                || self.pages.iter().any(|contents| match contents.page {
                    Page::Revoking(_, current)
                    | Page::Moving(_, current)
                    | Page::Copying(current) => current == id,
                    _ => false,
                })
        };
        (0..)
            .map(TransactionId)
            .find(|id| !used(*id))
            .unwrap_or(TransactionId(u64::MAX))
    }

    /// Memory of a page is read.
    pub(crate) fn read(&mut self, page: usize, memory: usize) {
        let fresh = self.pages[page].fresh[memory];
        self.blame(Wrong::StaleRead, !fresh);
    }

    /// Memory of a page is written: only what is there is the latest now.
    pub(crate) fn write(&mut self, page: usize, memory: usize) {
        let contents = &mut self.pages[page];
        let right = contents.fresh[memory];
        contents.written = true;
        contents.fresh = [false; 3];
        contents.fresh[memory] = true;
        for transfer in &mut self.transfers {
            if transfer.page == page && transfer.stage == Stage::Read(true) {
                transfer.stage = Stage::Read(false);
            }
        }
        self.blame(Wrong::LostWrite, !right);
    }

    /// Whether a device's access by `entry` is allowed, and to which memory.
    pub(crate) fn reaches(entry: Entry, write: bool) -> Option<usize> {
        match entry {
            Entry::Absent => None,
            Entry::ReadOnly => (!write).then_some(FRAME),
            Entry::ReadWrite => Some(FRAME),
            Entry::Remote => Some(HOST),
        }
    }

    /// What an event leads to for one page, by itself.
    pub(crate) fn on(&mut self, model: &Protocol, page: usize, event: Event) -> Answer {
        let mut mover = None;
        let answer = self.on_with(model, page, event, &mut mover);
        self.movers.extend(mover);
        answer
    }

    /// What an event leads to for one page, under the block's lock. Rights that are to be taken away after it become part of
    /// `mover`.
    pub(crate) fn on_with(
        &mut self,
        model: &Protocol,
        page: usize,
        event: Event,
        mover: &mut Option<Mover>,
    ) -> Answer {
        let before = self.pages[page].page;
        let Step {
            page: after,
            actions,
        } = before.on(event);
        self.pages[page].page = after;
        if after == Page::Lost && before != Page::Lost {
            self.blame(Wrong::Lost, event != Event::Reset);
            self.pages[page].written = false;
        }
        let mut answer = Answer::Again;
        for action in actions.iter() {
            match action {
                Action::Zero(at) => {
                    let contents = &mut self.pages[page];
                    let wrong = contents.written;
                    contents.fresh = [false; 3];
                    contents.fresh[memory(at)] = true;
                    self.blame(Wrong::Zeros, wrong);
                }
                Action::MapHost => self.pages[page].map = HostMap::Page,
                Action::MapWindow => self.pages[page].map = HostMap::Window,
                // By itself it is made with the lock held.
                Action::UnmapHost
                    if !matches!(after, Page::Revoking(..))
                        && !model.breaks(Mutant::UnpinnedBeforeUnmapping) =>
                {
                    self.pages[page].map = HostMap::No;
                }
                Action::UnmapHost => self.take(page, mover, event, |mover| mover.unmap = true),
                Action::SetEntry(entry) => {
                    let late = model.breaks(Mutant::EntryAfterInvalidation)
                        && matches!(after, Page::Revoking(..));
                    if late {
                        self.take(page, mover, event, |mover| {
                            mover.entries[page] = Some(entry);
                        });
                    } else {
                        self.pages[page].entry = entry;
                    }
                }
                Action::Invalidate(_) => {
                    self.take(page, mover, event, |mover| mover.invalidate = true);
                }
                Action::Transfer(from, id) => self.transfers.push(Transfer {
                    page,
                    id,
                    from: memory(from),
                    to: memory(from.other()),
                    stage: Stage::Begun,
                    late: false,
                    quarantined: false,
                }),
                Action::TransferCopy(id) => self.transfers.push(Transfer {
                    page,
                    id,
                    from: FRAME,
                    to: COPY,
                    stage: Stage::Begun,
                    late: false,
                    quarantined: false,
                }),
                Action::AdoptCopy => {
                    let contents = &mut self.pages[page];
                    contents.has_copy = false;
                    contents.fresh[HOST] = contents.fresh[COPY];
                }
                Action::DropCopy => {
                    if !model.breaks(Mutant::CopyKept) || !matches!(event, Event::Access { .. }) {
                        self.pages[page].has_copy = false;
                        self.pages[page].fresh[COPY] = false;
                    }
                }
                Action::Free(at) => self.free(page, memory(at), event),
                Action::Quarantine(id) => {
                    if !model.breaks(Mutant::NoQuarantine) {
                        for transfer in &mut self.transfers {
                            transfer.quarantined |= transfer.id == id && transfer.page == page;
                        }
                    }
                }
                Action::Use(store) => {
                    answer = Answer::Use(match store {
                        Store::Zeros => {
                            let written = self.pages[page].written;
                            self.blame(Wrong::Zeros, written);
                            None
                        }
                        Store::HostPage => Some(HOST),
                        Store::Frame => Some(FRAME),
                        Store::Copy => Some(COPY),
                    });
                }
                Action::Wait => answer = Answer::Wait,
                Action::Wake => {
                    if !model.breaks(Mutant::NoWake) {
                        self.wake(&model.scope, page);
                    }
                }
                Action::Fail => answer = Answer::Fail,
            }
        }
        if after == Page::None {
            let contents = &mut self.pages[page];
            contents.written = false;
            contents.fresh = [false; 3];
        }
        answer
    }

    /// Something is to be done without the lock.
    fn take(
        &mut self,
        page: usize,
        mover: &mut Option<Mover>,
        event: Event,
        what: impl FnOnce(&mut Mover),
    ) {
        let id = match event {
            Event::Access { id, .. }
            | Event::Bring { id, .. }
            | Event::Evict { id, .. }
            | Event::Duplicate { id }
            | Event::Discard { id } => id,
            // Only unmapping, which nobody waits for.
            _ => self.id(),
        };
        let mover = mover.get_or_insert(Mover {
            id,
            pages: [false; 2],
            unmap: false,
            invalidate: false,
            entries: [None; 2],
            held: [false; 2],
        });
        mover.pages[page] = true;
        what(mover);
    }

    /// Those who wait for a page look again.
    fn wake(&mut self, scope: &Scope, page: usize) {
        for (actor, deeds) in self.actors.iter_mut().zip(&scope.actors) {
            let waits = actor.doing == Doing::Waiting
                && deeds.get(actor.done).is_some_and(|(at, _)| *at == page);
            if waits {
                actor.doing = Doing::Nothing;
            }
        }
    }

    /// Memory of a page is given back.
    fn free(&mut self, page: usize, memory: usize, event: Event) {
        let contents = &self.pages[page];
        let map = match memory {
            HOST => HostMap::Page,
            _ => HostMap::Window,
        };
        let reached = |entry: Entry| Self::reaches(entry, false) == Some(memory);
        // A transfer that the event ends, and one whose memory is kept, use it no more.
        let of_event = |id: TransactionId| match event {
            Event::Arrived { id: ended } | Event::Failed { id: ended } => ended == id,
            _ => false,
        };
        let moving = self.transfers.iter().any(|transfer| {
            transfer.page == page
                && (transfer.from == memory || transfer.to == memory)
                && !transfer.quarantined
                && !of_event(transfer.id)
        });
        let used = contents.map == map
            || reached(contents.entry)
            || contents.remembered.is_some_and(reached)
            || moving;
        self.blame(Wrong::Freed, used);
        self.pages[page].fresh[memory] = false;
    }

    /// Looks whether all is as it must be at any time.
    pub(crate) fn look(&mut self) {
        for page in 0..self.pages.len() {
            let contents = &self.pages[page];
            // A reset takes what is being discarded, too.
            let discarded = matches!(contents.page, Page::Revoking(Purpose::Discard(_), _));
            let owner = contents.page.owner().filter(|_| !discarded);
            let lost = owner.is_some_and(|owner| !contents.fresh[memory(owner)]);
            let mut writable = [false; 3];
            match contents.map {
                HostMap::No => {}
                HostMap::Page => writable[HOST] = true,
                HostMap::Window => writable[FRAME] = true,
            }
            for entry in [Some(contents.entry), contents.remembered] {
                if let Some(memory) = entry.and_then(|entry| Self::reaches(entry, true)) {
                    writable[memory] = true;
                }
            }
            let stale_copy = contents.has_copy && !contents.fresh[COPY];
            self.blame(Wrong::LostWrite, lost);
            self.blame(Wrong::TwoOwners, writable[HOST] && writable[FRAME]);
            self.blame(Wrong::StaleRead, stale_copy);
        }
    }
}
