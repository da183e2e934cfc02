// SPDX-License-Identifier: GPL-2.0

//! What can happen next, and what it does.

use vfetch_engine::{
    owner::{Entry, Event, Page},
    prefetch::Location,
};

use crate::{
    world::{Answer, Doing, HostMap, Mover, Stage, World, Wrong, COPY, FRAME, HOST},
    Deed, Mutant, Protocol,
};

/// A step of somebody's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Act {
    /// The actor numbered so goes on.
    Actor(usize),
    /// The host's mappings go.
    Unmap(usize),
    /// An invalidation is complete.
    Invalidated(usize),
    /// Nobody has rights to the pages any more.
    Revoked(usize),
    /// A transfer reads its source.
    TransferReads(usize),
    /// It writes its destination.
    TransferWrites(usize),
    /// It has ended: what it brought is published.
    TransferEnds(usize),
    /// It fails.
    TransferFails(usize),
    /// It has taken too long; it may end later.
    TransferTimesOut(usize),
}

impl World {
    /// All that can happen next.
    pub(crate) fn acts(&self, model: &Protocol, acts: &mut Vec<Act>) {
        let actors = self.actors.iter().zip(&model.scope.actors).enumerate();
        for (number, (actor, deeds)) in actors {
            if actor.done < deeds.len() && actor.doing != Doing::Waiting {
                acts.push(Act::Actor(number));
            }
        }
        for (number, mover) in self.movers.iter().enumerate() {
            let early = model.breaks(Mutant::TransferBeforeUnmapping);
            if mover.unmap {
                acts.push(Act::Unmap(number));
                if !early {
                    continue;
                }
            }
            let early = model.breaks(Mutant::TransferBeforeInvalidation);
            if mover.invalidate {
                if self.invalidation_ends(model, mover) {
                    acts.push(Act::Invalidated(number));
                }
                if !early {
                    continue;
                }
            }
            if self.is_drained(model, mover) || model.breaks(Mutant::TransferBeforeDrain) {
                acts.push(Act::Revoked(number));
            }
        }
        for (number, transfer) in self.transfers.iter().enumerate() {
            match transfer.stage {
                Stage::Begun => acts.push(Act::TransferReads(number)),
                Stage::Read(_) => acts.push(Act::TransferWrites(number)),
                Stage::Written => {}
            }
            let early = model.breaks(Mutant::PublishedBeforeArrival);
            if transfer.stage == Stage::Written || early && !transfer.late {
                acts.push(Act::TransferEnds(number));
            }
            if transfer.late {
                continue;
            }
            if self.failures > 0 {
                acts.push(Act::TransferFails(number));
            }
            if self.timeouts > 0 {
                acts.push(Act::TransferTimesOut(number));
            }
        }
    }

    /// Those who are in the middle of a deed on one of the mover's pages.
    fn busy<'w>(
        &'w self,
        model: &'w Protocol,
        mover: &'w Mover,
    ) -> impl Iterator<Item = (Deed, Doing)> + 'w {
        let actors = self.actors.iter().zip(&model.scope.actors);
        actors.filter_map(|(actor, deeds)| {
            let (page, deed) = deeds.get(actor.done)?;
            mover.pages[*page].then_some((*deed, actor.doing))
        })
    }

    /// Whether all accesses that the device has translated have been made.
    fn invalidation_ends(&self, model: &Protocol, mover: &Mover) -> bool {
        let translated = |(deed, doing): (Deed, Doing)| {
            matches!((deed, doing), (Deed::Device { .. }, Doing::Using(_)))
        };
        model.breaks(Mutant::InvalidationWithoutDrain) || !self.busy(model, mover).any(translated)
    }

    /// Whether nobody uses a page where it is by `read()` or `write()`. References to copies do not matter.
    fn is_drained(&self, model: &Protocol, mover: &Mover) -> bool {
        !self.busy(model, mover).any(|(deed, doing)| {
            matches!(deed, Deed::Read | Deed::Write { .. })
                && matches!(doing, Doing::Using(HOST | FRAME))
        })
    }

    /// Whether somebody else has a reference to the host's page.
    fn is_held(&self, model: &Protocol, page: usize) -> bool {
        let actors = self.actors.iter().zip(&model.scope.actors);
        actors.into_iter().any(|(actor, deeds)| {
            matches!(actor.doing, Doing::Holding | Doing::Wrote)
                && deeds.get(actor.done).is_some_and(|(at, _)| *at == page)
        })
    }

    /// Does it.
    pub(crate) fn perform(&mut self, model: &Protocol, act: Act) {
        match act {
            Act::Actor(number) => self.go_on(model, number),
            Act::Unmap(number) => {
                let pages = self.movers[number].pages;
                for (contents, _) in self.pages.iter_mut().zip(pages).filter(|(_, of)| *of) {
                    contents.map = HostMap::No;
                }
                self.movers[number].unmap = false;
                if !self.movers[number].invalidate && !self.waits_for(number) {
                    self.movers.remove(number);
                }
            }
            Act::Invalidated(number) => {
                let mover = &mut self.movers[number];
                mover.invalidate = false;
                let pages = mover.pages;
                for (contents, _) in self.pages.iter_mut().zip(pages).filter(|(_, of)| *of) {
                    contents.remembered = None;
                }
            }
            Act::Revoked(number) => {
                let mover = self.movers.remove(number);
                for page in 0..self.pages.len() {
                    if let Some(entry) = mover.entries[page] {
                        self.pages[page].entry = entry;
                    }
                    if mover.pages[page] {
                        let held = if model.breaks(Mutant::HeldBeforeUnmapping) {
                            mover.held[page]
                        } else {
                            self.is_held(model, page) && !model.breaks(Mutant::HeldIgnored)
                        };
                        self.on(model, page, Event::Revoked { id: mover.id, held });
                    }
                }
            }
            Act::TransferReads(number) => {
                let transfer = &self.transfers[number];
                let fresh = self.pages[transfer.page].fresh[transfer.from];
                self.transfers[number].stage = Stage::Read(fresh);
            }
            Act::TransferWrites(number) => {
                let transfer = &mut self.transfers[number];
                let fresh = transfer.stage == Stage::Read(true);
                transfer.stage = Stage::Written;
                if !transfer.quarantined {
                    let (page, to) = (transfer.page, transfer.to);
                    self.pages[page].fresh[to] = fresh;
                }
            }
            Act::TransferEnds(number) => {
                let transfer = self.transfers.remove(number);
                if !transfer.late {
                    let id = transfer.id;
                    self.pages[transfer.page].has_copy |=
                        transfer.to == COPY && self.pages[transfer.page].page == Page::Copying(id);
                    self.on(model, transfer.page, Event::Arrived { id });
                }
            }
            Act::TransferFails(number) => {
                self.failures -= 1;
                let transfer = self.transfers.remove(number);
                self.on(model, transfer.page, Event::Failed { id: transfer.id });
            }
            Act::TransferTimesOut(number) => {
                self.timeouts -= 1;
                let transfer = &mut self.transfers[number];
                transfer.late = true;
                let (page, id) = (transfer.page, transfer.id);
                self.on(model, page, Event::TimedOut { id });
            }
        }
    }

    /// Whether a page waits for the mover's end.
    fn waits_for(&self, number: usize) -> bool {
        let mover = &self.movers[number];
        let mut pages = self.pages.iter().zip(mover.pages);
        pages.any(|(contents, of)| {
            of && matches!(contents.page, Page::Revoking(_, id) if id == mover.id)
        })
    }

    /// The deed is done, or has ended with an error.
    fn done(&mut self, number: usize) {
        let actor = &mut self.actors[number];
        actor.done += 1;
        actor.doing = Doing::Nothing;
    }

    /// An actor takes the next step of its deed.
    fn go_on(&mut self, model: &Protocol, number: usize) {
        let (page, deed) = model.scope.actors[number][self.actors[number].done];
        match (deed, self.actors[number].doing) {
            (Deed::Host { write }, _) => match self.mapped(page) {
                Some(memory) => {
                    self.touch(page, memory, write);
                    self.done(number);
                }
                None => self.fault(model, number, page, Location::Host, write),
            },
            (Deed::Device { write }, Doing::Using(memory)) => {
                self.touch(page, memory, write);
                self.done(number);
            }
            (Deed::Device { write }, _) => {
                let contents = &mut self.pages[page];
                let by = |entry: Option<Entry>| entry.and_then(|entry| Self::reaches(entry, write));
                // What it remembers, or what the table says.
                let found = by(contents.remembered).or_else(|| {
                    let walked = by(Some(contents.entry));
                    if walked.is_some() {
                        contents.remembered = Some(contents.entry);
                    }
                    walked
                });
                match found {
                    Some(memory) => self.actors[number].doing = Doing::Using(memory),
                    None => self.fault(model, number, page, Location::Device, write),
                }
            }
            (Deed::Read, Doing::Using(memory)) => {
                // A reference to a copy is to what it was when it was looked up.
                if memory != COPY {
                    self.read(page, memory);
                }
                self.done(number);
            }
            (Deed::Read, _) => match self.on(model, page, Event::Read) {
                Answer::Use(Some(memory)) => {
                    self.read(page, memory);
                    self.actors[number].doing = Doing::Using(memory);
                }
                Answer::Use(None) => self.done(number),
                other => self.answered(number, page, other),
            },
            (Deed::Write { .. }, Doing::Using(memory)) => {
                self.write(page, memory);
                self.done(number);
            }
            (Deed::Write { whole }, _) => {
                let lost = self.pages[page].page == Page::Lost;
                let event = if whole {
                    Event::Overwrite
                } else {
                    Event::Write
                };
                match self.on(model, page, event) {
                    // What overwrites a lost page is in place before anybody sees it.
                    Answer::Use(Some(memory)) if lost => {
                        self.write(page, memory);
                        self.done(number);
                    }
                    Answer::Use(Some(memory)) => {
                        self.actors[number].doing = Doing::Using(memory);
                    }
                    Answer::Use(None) => unreachable!("nobody writes zeros"),
                    other => self.answered(number, page, other),
                }
            }
            (Deed::DirectIo, Doing::Holding) => {
                self.write(page, HOST);
                self.actors[number].doing = Doing::Wrote;
            }
            (Deed::DirectIo, Doing::Wrote) => self.done(number),
            (Deed::DirectIo, _) => match self.mapped(page) {
                Some(HOST) => self.actors[number].doing = Doing::Holding,
                // The window cannot be held: EFAULT.
                Some(_) => self.done(number),
                None => self.fault(model, number, page, Location::Host, true),
            },
            (Deed::Move { to, evict }, _) => {
                let id = self.id();
                let mut mover = None;
                for page in 0..self.pages.len() {
                    let held = self.is_held(model, page);
                    let event = if evict {
                        Event::Evict { to, id }
                    } else {
                        Event::Bring { to, id }
                    };
                    self.on_with(model, page, event, &mut mover);
                    if let Some(mover) = &mut mover {
                        mover.held[page] = held;
                    }
                }
                self.movers.extend(mover);
                self.done(number);
            }
            (Deed::Duplicate, _) => {
                let id = self.id();
                self.on(model, page, Event::Duplicate { id });
                self.done(number);
            }
            (Deed::DropCopy, _) => {
                self.on(model, page, Event::DropCopy);
                self.done(number);
            }
            (Deed::Pin, _) => match self.on(model, page, Event::Pin) {
                Answer::Again => self.done(number),
                other => self.answered(number, page, other),
            },
            (Deed::Unpin, _) => {
                self.on(model, page, Event::Unpin);
                self.done(number);
            }
            (Deed::Discard, _) => {
                let id = self.id();
                match self.on(model, page, Event::Discard { id }) {
                    Answer::Again => self.done(number),
                    other => self.answered(number, page, other),
                }
            }
            (Deed::Reset, _) => {
                self.reset(model);
                self.done(number);
            }
        }
    }

    /// The memory that processes have mapped.
    fn mapped(&self, page: usize) -> Option<usize> {
        match self.pages[page].map {
            HostMap::No => None,
            HostMap::Page => Some(HOST),
            HostMap::Window => Some(FRAME),
        }
    }

    /// A load or a store.
    fn touch(&mut self, page: usize, memory: usize, write: bool) {
        if write {
            self.write(page, memory);
        } else {
            self.read(page, memory);
        }
    }

    /// An access is not allowed.
    fn fault(&mut self, model: &Protocol, number: usize, page: usize, by: Location, write: bool) {
        let id = self.id();
        let held = self.is_held(model, page);
        let mut mover = None;
        let answer = self.on_with(model, page, Event::Access { by, write, id }, &mut mover);
        if let Some(mover) = &mut mover {
            mover.held[page] = held;
        }
        self.movers.extend(mover);
        self.answered(number, page, answer);
    }

    /// The deed is to be tried again, at once or later, or has failed.
    fn answered(&mut self, number: usize, page: usize, answer: Answer) {
        match answer {
            Answer::Again | Answer::Use(_) => self.actors[number].doing = Doing::Nothing,
            Answer::Wait => self.actors[number].doing = Doing::Waiting,
            Answer::Fail => {
                let lost = self.pages[page].page == Page::Lost;
                self.blame(Wrong::Lost, !lost);
                self.done(number);
            }
        }
    }

    /// Queues stop, and with them what they were doing; windows go; memory, page table and what was remembered of it are gone.
    fn reset(&mut self, model: &Protocol) {
        // Those that have timed out have ended by then.
        let ended: Vec<_> = self.transfers.drain(..).collect();
        for contents in &mut self.pages {
            if contents.map == HostMap::Window {
                contents.map = HostMap::No;
            }
            contents.entry = Entry::Absent;
            contents.remembered = None;
            contents.fresh[FRAME] = false;
        }
        for (actor, deeds) in self.actors.iter_mut().zip(&model.scope.actors) {
            let device = matches!(deeds.get(actor.done), Some((_, Deed::Device { .. })));
            let frame = actor.doing == Doing::Using(FRAME);
            if device && actor.doing != Doing::Nothing || frame {
                // A job ends; so does a transfer.
                actor.done += 1;
                actor.doing = Doing::Nothing;
            }
        }
        if !model.breaks(Mutant::ResetForgotten) {
            for page in 0..self.pages.len() {
                self.on(model, page, Event::Reset);
            }
        }
        drop(ended);
    }
}
