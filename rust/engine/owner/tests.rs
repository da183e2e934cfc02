// SPDX-License-Identifier: GPL-2.0 OR MIT

//! All that can happen to one page, step by step, with the device's page table and what it remembers of it, invalidations and
//! transfers that end at any time, and contents: nobody ever sees stale ones, and nothing is lost but by a reset.

use super::*;
use std::collections::{HashMap, VecDeque};
use std::vec;
use std::vec::Vec;

use Location::{Device, Host};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum HostMap {
    None,
    Page,
    Window,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Transfer {
    Move(Location),
    Copy,
}

/// One page, and all that touches it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    page: Page,
    /// Whether host page, frame and copy hold the latest contents.
    fresh: [bool; 3],
    /// Whether there is a copy that look-ups find.
    has_copy: bool,
    host: HostMap,
    entry: Entry,
    /// What the device remembers of the entry.
    remembered: Option<Entry>,
    invalidating: Option<TransactionId>,
    /// Under way; `true`: quarantined.
    transfers: Vec<(Transfer, TransactionId, bool)>,
    /// Whether there are contents at all: not zeros, not lost.
    written: bool,
}

const HOST_PAGE: usize = 0;
const FRAME: usize = 1;
const COPY: usize = 2;

fn memory(location: Location) -> usize {
    match location {
        Host => HOST_PAGE,
        Device => FRAME,
    }
}

impl World {
    fn new() -> Self {
        Self {
            page: Page::None,
            fresh: [false; 3],
            has_copy: false,
            host: HostMap::None,
            entry: Entry::Absent,
            remembered: None,
            invalidating: None,
            transfers: Vec::new(),
            written: false,
        }
    }

    /// Somebody writes there.
    fn write(&mut self, memory: usize) {
        self.fresh = [false; 3];
        self.fresh[memory] = true;
        self.written = true;
    }

    fn reads(&self, memory: usize, who: &str) {
        assert!(self.fresh[memory], "{who} reads stale contents: {self:?}");
    }

    /// One that nothing uses.
    fn free_id(&self) -> Option<TransactionId> {
        let used = |id: &TransactionId| {
            let of_page = match self.page {
                Page::Revoking(_, current) | Page::Moving(_, current) | Page::Copying(current) => {
                    current == *id
                }
                _ => false,
            };
            of_page
                || self.invalidating == Some(*id)
                || self.transfers.iter().any(|(_, other, _)| other == id)
        };
        (0..3).map(TransactionId).find(|id| !used(id))
    }

    fn is_under_way(&self) -> bool {
        self.invalidating.is_some()
            || self
                .transfers
                .iter()
                .any(|(_, _, quarantined)| !quarantined)
    }

    /// The event, and what it asks for. `None`: the one who asked has to wait, and nothing changed.
    fn on(mut self, event: Event) -> Option<Self> {
        let step = self.page.on(event);
        let before = self.page;
        if step.page == Page::Lost {
            assert!(
                before == Page::Lost || event == Event::Reset,
                "{event:?} loses {before:?}"
            );
        }
        if before.owner().is_some() && step.page == Page::None {
            let discards = matches!(before, Page::Revoking(Purpose::Discard(_), _));
            assert!(discards, "{event:?} discards {before:?}");
        }
        self.page = step.page;
        if event == Event::Reset {
            self.fresh[FRAME] = false;
        }
        for action in step.actions.iter() {
            match action {
                Action::Zero(at) => {
                    assert!(!self.written || before == Page::Lost);
                    self.write(memory(at));
                }
                Action::MapHost => self.host = HostMap::Page,
                Action::MapWindow => self.host = HostMap::Window,
                Action::UnmapHost => self.host = HostMap::None,
                Action::SetEntry(entry) => self.entry = entry,
                Action::Invalidate(id) => {
                    assert_eq!(self.invalidating, None);
                    self.invalidating = Some(id);
                }
                Action::Transfer(from, id) => {
                    self.transfers.push((Transfer::Move(from), id, false));
                }
                Action::TransferCopy(id) => self.transfers.push((Transfer::Copy, id, false)),
                Action::AdoptCopy => {
                    assert!(self.has_copy);
                    self.has_copy = false;
                    self.fresh[HOST_PAGE] = self.fresh[COPY];
                }
                Action::DropCopy => {
                    self.has_copy = false;
                    self.fresh[COPY] = false;
                }
                Action::Free(at) => {
                    let device = [Some(self.entry), self.remembered];
                    match at {
                        Host => {
                            assert_ne!(self.host, HostMap::Page, "{self:?}");
                            assert!(!device.contains(&Some(Entry::Remote)), "{self:?}");
                        }
                        Device => {
                            assert_ne!(self.host, HostMap::Window, "{self:?}");
                            let of_frame = |entry: &Option<Entry>| {
                                matches!(entry, Some(Entry::ReadOnly | Entry::ReadWrite))
                            };
                            assert!(!device.iter().any(of_frame), "{self:?}");
                        }
                    }
                    let uses = |(_, id, quarantined): &(Transfer, TransactionId, bool)| {
                        !quarantined && !is_of(event, *id)
                    };
                    assert!(!self.transfers.iter().any(uses), "{event:?} {self:?}");
                    self.fresh[memory(at)] = false;
                }
                Action::Quarantine(id) => {
                    for transfer in &mut self.transfers {
                        transfer.2 |= transfer.1 == id;
                    }
                }
                Action::Use(store) => {
                    let memory = match store {
                        Store::Zeros => {
                            assert!(!self.written);
                            continue;
                        }
                        Store::HostPage => HOST_PAGE,
                        Store::Frame => FRAME,
                        Store::Copy => {
                            assert!(self.has_copy);
                            COPY
                        }
                    };
                    self.reads(memory, "a call");
                    if matches!(event, Event::Write | Event::Overwrite) {
                        self.write(memory);
                    }
                }
                Action::Wait => {
                    assert!(self.is_under_way(), "waits for nothing: {self:?}");
                    assert_eq!(self.page, before);
                    return None;
                }
                Action::Wake => {}
                Action::Fail => assert_eq!(self.page, Page::Lost),
            }
        }
        if self.page == Page::None {
            self.written = false;
            self.fresh = [false; 3];
        }
        self.holds();
        Some(self)
    }

    /// What must be true at any time.
    fn holds(&self) {
        match self.host {
            HostMap::None => {}
            HostMap::Page => self.reads(HOST_PAGE, "the host"),
            HostMap::Window => self.reads(FRAME, "the host, through the window"),
        }
        for entry in [Some(self.entry), self.remembered].into_iter().flatten() {
            match entry {
                Entry::Absent => {}
                Entry::ReadOnly | Entry::ReadWrite => self.reads(FRAME, "the device"),
                Entry::Remote => self.reads(HOST_PAGE, "the device, remotely"),
            }
        }
        // A reset takes what is being discarded, too.
        let discarded = matches!(self.page, Page::Revoking(Purpose::Discard(_), _));
        if let Some(owner) = self.page.owner().filter(|_| !discarded) {
            assert!(self.fresh[memory(owner)], "the owner is stale: {self:?}");
        }
        assert_eq!(
            self.has_copy,
            matches!(self.page, Page::Copied | Page::Revoking(Purpose::Adopt, _)),
            "{self:?}"
        );
        if self.has_copy {
            assert!(self.fresh[COPY], "the copy is stale: {self:?}");
        }
        // The table of the module.
        let (host, entries): (&[HostMap], &[Entry]) = match self.page {
            Page::Host { remote: false } => (&[HostMap::None, HostMap::Page], &[Entry::Absent]),
            Page::Host { remote: true } => (
                &[HostMap::None, HostMap::Page],
                &[Entry::Absent, Entry::Remote],
            ),
            Page::Device { window: false } => (
                &[HostMap::None],
                &[Entry::Absent, Entry::ReadOnly, Entry::ReadWrite],
            ),
            Page::Device { window: true } => (
                &[HostMap::None, HostMap::Window],
                &[Entry::Absent, Entry::ReadOnly, Entry::ReadWrite],
            ),
            Page::Copied | Page::Copying(_) => {
                (&[HostMap::None], &[Entry::Absent, Entry::ReadOnly])
            }
            Page::Revoking(Purpose::Copy, _) => (&[HostMap::None], &[Entry::ReadOnly]),
            Page::None | Page::Lost | Page::Moving(..) | Page::Revoking(..) => {
                (&[HostMap::None], &[Entry::Absent])
            }
        };
        assert!(
            host.contains(&self.host) && entries.contains(&self.entry),
            "{self:?}"
        );
        if matches!(self.page, Page::None | Page::Lost | Page::Moving(..)) {
            assert_eq!(self.remembered, None, "{self:?}");
        }
    }

    /// All that can happen next.
    fn next(&self) -> Vec<Self> {
        let mut next = Vec::new();
        let mut happens = |world: Self, event: Event| next.extend(world.on(event));

        if let Some(id) = self.free_id() {
            for by in [Host, Device] {
                for write in [false, true] {
                    // One who is allowed does not ask.
                    happens(self.clone(), Event::Access { by, write, id });
                }
                happens(self.clone(), Event::Bring { to: by, id });
                happens(self.clone(), Event::Evict { to: by, id });
            }
            happens(self.clone(), Event::Duplicate { id });
            happens(self.clone(), Event::Discard { id });
        }
        for event in [
            Event::Read,
            Event::Write,
            Event::Overwrite,
            Event::DropCopy,
            Event::Pin,
            Event::Unpin,
        ] {
            happens(self.clone(), event);
        }

        // The device is reset: its memory, its page table, and what it was doing are gone; what was quarantined stays so
        // until then.
        let mut reset = self.clone();
        reset.entry = Entry::Absent;
        reset.remembered = None;
        // What is being discarded goes on being so.
        if !matches!(self.page, Page::Revoking(Purpose::Discard(_), _)) {
            reset.invalidating = None;
        }
        if reset.host == HostMap::Window {
            reset.host = HostMap::None;
        }
        happens(reset, Event::Reset);

        if let Some(id) = self.invalidating {
            for held in [false, true] {
                let mut done = self.clone();
                done.invalidating = None;
                done.remembered = None;
                happens(done, Event::Revoked { id, held });
            }
        }
        for (index, (what, id, quarantined)) in self.transfers.iter().enumerate() {
            let mut done = self.clone();
            done.transfers.remove(index);
            let mut arrived = done.clone();
            if !quarantined {
                // Late data goes to memory that nobody has.
                let (from, to) = match what {
                    Transfer::Move(from) => (memory(*from), memory(from.other())),
                    Transfer::Copy => (FRAME, COPY),
                };
                arrived.fresh[to] = arrived.fresh[from];
                arrived.has_copy |= to == COPY;
            }
            happens(arrived, Event::Arrived { id: *id });
            happens(done, Event::Failed { id: *id });
            happens(self.clone(), Event::TimedOut { id: *id });
        }

        // The host writes, if it is allowed.
        let mut stored = self.clone();
        match self.host {
            HostMap::None => {}
            HostMap::Page => stored.write(HOST_PAGE),
            HostMap::Window => stored.write(FRAME),
        }
        // The device reads its page table at any time, and writes as it remembers it.
        let mut filled = self.clone();
        if filled.entry != Entry::Absent {
            filled.remembered = Some(filled.entry);
        }
        let mut written = self.clone();
        match self.remembered {
            None | Some(Entry::Absent | Entry::ReadOnly) => {}
            Some(Entry::ReadWrite) => written.write(FRAME),
            Some(Entry::Remote) => written.write(HOST_PAGE),
        }
        for world in [stored, filled, written] {
            world.holds();
            next.push(world);
        }
        next
    }
}

/// Whether `event` ends transaction `id`.
fn is_of(event: Event, id: TransactionId) -> bool {
    match event {
        Event::Revoked { id: of, .. }
        | Event::Arrived { id: of }
        | Event::Failed { id: of }
        | Event::TimedOut { id: of } => of == id,
        _ => false,
    }
}

/// So many worlds are looked at: all, but under Miri, which is slow and looks for something else.
const WORLDS: usize = if cfg!(miri) { 200 } else { usize::MAX };

/// All worlds that can be reached, and the steps to each.
fn explore() -> HashMap<World, usize> {
    let mut seen = HashMap::from([(World::new(), 0)]);
    let mut queue = VecDeque::from([World::new()]);
    while let Some(world) = queue.pop_front() {
        let depth = seen[&world];
        for next in world.next() {
            // Two quarantined transfers are as bad as any number.
            if next.transfers.len() <= 2 && seen.len() < WORLDS && !seen.contains_key(&next) {
                seen.insert(next.clone(), depth + 1);
                queue.push_back(next);
            }
        }
    }
    seen
}

#[test]
fn nobody_ever_sees_stale_contents() {
    let worlds = explore();
    if cfg!(miri) {
        return;
    }
    // Every state, in more than one world.
    let states = [
        Page::None,
        Page::Host { remote: false },
        Page::Host { remote: true },
        Page::Device { window: false },
        Page::Device { window: true },
        Page::Copied,
        Page::Lost,
    ];
    for state in states {
        assert!(
            worlds.keys().filter(|world| world.page == state).count() > 1,
            "{state:?}"
        );
    }
    for purpose in [
        Purpose::Move(Host),
        Purpose::Move(Device),
        Purpose::Adopt,
        Purpose::Copy,
        Purpose::Discard(Host),
        Purpose::Discard(Device),
    ] {
        assert!(
            worlds
                .keys()
                .any(|world| matches!(world.page, Page::Revoking(found, _) if found == purpose)),
            "{purpose:?}"
        );
    }
    for from in [Host, Device] {
        assert!(worlds
            .keys()
            .any(|world| matches!(world.page, Page::Moving(found, _) if found == from)));
    }
    assert!(worlds
        .keys()
        .any(|world| matches!(world.page, Page::Copying(_))));
}

#[test]
fn every_access_is_served_in_the_end() {
    // When nothing fails and nothing else happens, whoever asks gets the page, or is told that it is lost.
    for world in explore().into_keys() {
        for by in [Host, Device] {
            let mut now = world.clone();
            let mut turns = 0;
            loop {
                turns += 1;
                assert!(turns < 10, "{by:?} is never served: {world:?}");
                let Some(id) = now.free_id() else { break };
                if let Some(next) = now.clone().on(Event::Access {
                    by,
                    write: true,
                    id,
                }) {
                    now = next;
                }
                let served = match by {
                    Host => now.host != HostMap::None,
                    Device => matches!(now.entry, Entry::ReadWrite | Entry::Remote),
                };
                if served || now.page == Page::Lost {
                    break;
                }
                if let Some(id) = now.invalidating.take() {
                    now.remembered = None;
                    now = now
                        .on(Event::Revoked { id, held: false })
                        .into_iter()
                        .next()
                        .unwrap_or_else(|| panic!("waits"));
                } else if let Some(at) = now
                    .transfers
                    .iter()
                    .position(|(_, _, quarantined)| !quarantined)
                {
                    let (what, id, _) = now.transfers.remove(at);
                    let (from, to) = match what {
                        Transfer::Move(from) => (memory(from), memory(from.other())),
                        Transfer::Copy => (FRAME, COPY),
                    };
                    now.fresh[to] = now.fresh[from];
                    now.has_copy |= to == COPY;
                    now = now
                        .on(Event::Arrived { id })
                        .into_iter()
                        .next()
                        .unwrap_or_else(|| panic!("waits"));
                }
            }
        }
    }
}

fn actions(step: Step) -> Vec<Action> {
    step.actions.iter().collect()
}

const ID: TransactionId = TransactionId(7);
const STALE: TransactionId = TransactionId(6);

#[test]
fn write_to_copied_page_drops_the_copy_before_it_is_allowed() {
    let step = Page::Copied.on(Event::Access {
        by: Device,
        write: true,
        id: ID,
    });
    assert_eq!(step.page, Page::Device { window: false });
    assert_eq!(
        actions(step),
        vec![Action::DropCopy, Action::SetEntry(Entry::ReadWrite)]
    );
}

#[test]
fn a_host_fault_adopts_a_copy_after_the_device_lost_it() {
    let step = Page::Copied.on(Event::Access {
        by: Host,
        write: false,
        id: ID,
    });
    assert_eq!(
        actions(step),
        vec![Action::SetEntry(Entry::Absent), Action::Invalidate(ID)]
    );
    let step = step.page.on(Event::Revoked {
        id: ID,
        held: false,
    });
    assert_eq!(step.page, Page::Host { remote: false });
    assert_eq!(
        actions(step),
        vec![
            Action::AdoptCopy,
            Action::Free(Device),
            Action::MapHost,
            Action::Wake
        ]
    );
}

#[test]
fn a_page_that_somebody_holds_stays_and_is_reached_remotely() {
    let step = Page::Host { remote: false }.on(Event::Access {
        by: Device,
        write: true,
        id: ID,
    });
    let step = step.page.on(Event::Revoked { id: ID, held: true });
    assert_eq!(step.page, Page::Host { remote: true });
    assert!(actions(step).contains(&Action::SetEntry(Entry::Remote)));
}

#[test]
fn a_transfer_that_fails_leaves_the_page_where_it_was() {
    for from in [Host, Device] {
        for event in [Event::Failed { id: ID }, Event::TimedOut { id: ID }] {
            let step = Page::Moving(from, ID).on(event);
            assert_eq!(step.page.owner(), Some(from));
            let quarantined = actions(step).contains(&Action::Quarantine(ID));
            assert_eq!(quarantined, event == Event::TimedOut { id: ID });
        }
    }
}

#[test]
fn what_is_stale_is_nothing() {
    for page in [
        Page::Moving(Host, ID),
        Page::Copying(ID),
        Page::Revoking(Purpose::Adopt, ID),
        Page::Copied,
        Page::None,
    ] {
        for event in [
            Event::Arrived { id: STALE },
            Event::Failed { id: STALE },
            Event::TimedOut { id: STALE },
            Event::Revoked {
                id: STALE,
                held: false,
            },
        ] {
            assert_eq!(page.on(event), page.to(Actions::NONE));
        }
    }
}

#[test]
fn lost_ends_by_discarding_or_overwriting_all() {
    assert_eq!(Page::Lost.on(Event::Discard { id: ID }).page, Page::None);
    assert_eq!(
        Page::Lost.on(Event::Overwrite).page,
        Page::Host { remote: false }
    );
    for event in [
        Event::Read,
        Event::Write,
        Event::Access {
            by: Host,
            write: true,
            id: ID,
        },
    ] {
        let step = Page::Lost.on(event);
        assert_eq!((step.page, actions(step)), (Page::Lost, vec![Action::Fail]));
    }
}
