// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Who owns a page of a space: the protocol that keeps host and device coherent, as a function from a state and an event
//! to the next state and what is to be done, in order. No time, no memory, no locks: those are the caller's.
//!
//! | state | valid contents | host maps it | device maps it |
//! |---|---|---|---|
//! | [`None`](Page::None) | zeros by definition | no | no |
//! | [`Host`](Page::Host) | host page | read/write | no, or remotely while pinned to the host |
//! | [`Device`](Page::Device) | frame | no, or through the window while pinned to the device | read/write |
//! | [`Copied`](Page::Copied) | frame, and a clean duplicate in the prefetch buffer | no | read-only |
//! | [`Revoking`](Page::Revoking), [`Moving`](Page::Moving) | the source, until the data has arrived | no | no |
//! | [`Copying`](Page::Copying) | frame; a duplicate is on its way | no | read-only |
//! | [`Lost`](Page::Lost) | nowhere: the device that held it was reset or removed | no | no |
//!
//! Ownership passes after the data has arrived; a transfer that fails leaves it where it was. Rights are taken away
//! in steps: the entry is written, then invalidated, and only when that is complete ([`Event::Revoked`]), so that every access under the old
//! entry has been made, does the transfer begin or the memory go. What is to be done after that waits in
//! [`Revoking`](Page::Revoking). An event of a transaction other than the one under way is stale, and nothing.

use super::prefetch::Location;

/// Names a transfer or a revocation; never used twice while it can be under way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TransactionId(pub u64);

/// What a revocation is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Purpose {
    /// To move the page away from the owner named.
    Move(Location),
    /// To give the host the copy that is there already.
    Adopt,
    /// To make a copy.
    Copy,
    /// To discard the contents, which the location named holds.
    Discard(Location),
}

/// The state of a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Page {
    /// Nobody has written to it.
    #[default]
    None,
    /// The host owns it.
    Host {
        /// It is pinned here, and the device may reach it by DMA into host memory.
        remote: bool,
    },
    /// The device owns it.
    Device {
        /// It is pinned here, and the host may reach it through the BAR2 window.
        window: bool,
    },
    /// The device owns it, and the prefetch buffer has a clean duplicate.
    Copied,
    /// Mappings are being taken away.
    Revoking(Purpose, TransactionId),
    /// Its contents are on their way from the owner named to the other.
    Moving(Location, TransactionId),
    /// A duplicate is on its way from the device, which owns it, to the prefetch buffer.
    Copying(TransactionId),
    /// Its contents are nowhere.
    Lost,
}

/// What happens to a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// A fault.
    Access {
        /// Whose.
        by: Location,
        /// Whether it writes.
        write: bool,
        /// For what it may start.
        id: TransactionId,
    },
    /// `read()`: copies what is valid, wherever that is, and moves nothing.
    Read,
    /// `write()` of a part of it: changes what is valid, wherever that is, and moves nothing.
    Write,
    /// `write()` of all of it.
    Overwrite,
    /// A hint, or the user, wants it there.
    Bring {
        /// Where to.
        to: Location,
        /// For what it starts.
        id: TransactionId,
    },
    /// Whoever has it must make room: as [`Bring`](Self::Bring), and a pin does not help.
    Evict {
        /// Where to.
        to: Location,
        /// For what it starts.
        id: TransactionId,
    },
    /// A hint wants a duplicate in the prefetch buffer.
    Duplicate {
        /// For what it starts.
        id: TransactionId,
    },
    /// The prefetch buffer needs the room of the copy.
    DropCopy,
    /// It is to stay where it is, and be reached remotely.
    Pin,
    /// It need not stay any more.
    Unpin,
    /// Its contents are not needed any more.
    Discard {
        /// For what it starts.
        id: TransactionId,
    },
    /// Entries are written, invalidated, and all accesses under them have been made.
    Revoked {
        /// Of what.
        id: TransactionId,
        /// Somebody else still holds the host page: direct I/O, for example.
        held: bool,
    },
    /// The data has arrived.
    Arrived {
        /// Of what.
        id: TransactionId,
    },
    /// The transfer failed: nothing will arrive.
    Failed {
        /// Of what.
        id: TransactionId,
    },
    /// The transfer timed out: something may still arrive.
    TimedOut {
        /// Of what.
        id: TransactionId,
    },
    /// The device was reset or removed: its memory, page table and copies are gone.
    Reset,
}

/// What the device's page table says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Entry {
    /// Nothing: an access faults.
    Absent,
    /// The frame, to read.
    ReadOnly,
    /// The frame.
    ReadWrite,
    /// The host page, by DMA.
    Remote,
}

/// Where contents are read from or written to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Store {
    /// Nowhere: zeros.
    Zeros,
    /// The host page.
    HostPage,
    /// The frame in device memory.
    Frame,
    /// The copy in the prefetch buffer.
    Copy,
}

/// What is to be done. In order: one is over before the next begins, except those that end in an event.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// Make a page of zeros there.
    Zero(Location),
    /// Let the host map its page, for reading and writing.
    MapHost,
    /// Let the host map the frame through the window.
    MapWindow,
    /// Unmap it from the host.
    UnmapHost,
    /// Write the device's entry.
    SetEntry(Entry),
    /// Invalidate the device's entry, of [`Event::Revoked`] when it is complete; one invalidation may do for a batch.
    Invalidate(TransactionId),
    /// Start the transfer of the contents from there to the other; ends in an event.
    Transfer(Location, TransactionId),
    /// Start the transfer of a duplicate into the prefetch buffer; ends in an event.
    TransferCopy(TransactionId),
    /// Make the copy the host's page.
    AdoptCopy,
    /// Drop the copy: references to it stay valid, look-ups do not find it any more.
    DropCopy,
    /// Give the memory there back.
    Free(Location),
    /// Nobody gets the memory that this transfer goes to, or comes from, before it is certain that nothing moves
    /// any more.
    Quarantine(TransactionId),
    /// Copy contents to or from the user.
    Use(Store),
    /// Try again when something has changed.
    Wait,
    /// Wake those that wait.
    Wake,
    /// Tell the one that asked that the contents are lost: SIGBUS, EIO or a job's error.
    Fail,
}

/// Actions that one event can ask for.
const ACTIONS: usize = 5;

/// What is to be done, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Actions([Option<Action>; ACTIONS]);

impl Actions {
    /// Nothing.
    pub const NONE: Self = Self([None; ACTIONS]);

    const fn new<const N: usize>(actions: [Action; N]) -> Self {
        const { assert!(N <= ACTIONS) }
        let mut all = [None; ACTIONS];
        let mut at = 0;
        while at < N {
            all[at] = Some(actions[at]);
            at += 1;
        }
        Self(all)
    }

    /// Them.
    pub fn iter(&self) -> impl Iterator<Item = Action> + '_ {
        self.0.iter().copied().flatten()
    }
}

/// What an event leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// The state from now on.
    pub page: Page,
    /// What is to be done.
    pub actions: Actions,
}

/// The page that nobody moves or pins, of its owner.
const fn owned(by: Location) -> Page {
    match by {
        Location::Host => Page::Host { remote: false },
        Location::Device => Page::Device { window: false },
    }
}

/// Lets the owner map it again.
const fn map(owner: Location) -> Action {
    match owner {
        Location::Host => Action::MapHost,
        Location::Device => Action::SetEntry(Entry::ReadWrite),
    }
}

impl Page {
    /// What `event` leads to.
    #[must_use]
    pub fn on(self, event: Event) -> Step {
        match event {
            Event::Access { by, write, id } => self.access(by, write, id),
            Event::Read => self.to(Actions::new([match self {
                Self::None => Action::Use(Store::Zeros),
                Self::Host { .. } => Action::Use(Store::HostPage),
                Self::Device { .. } | Self::Copying(_) => Action::Use(Store::Frame),
                Self::Copied => Action::Use(Store::Copy),
                Self::Revoking(..) | Self::Moving(..) => Action::Wait,
                Self::Lost => Action::Fail,
            }])),
            Event::Write => self.write(),
            Event::Overwrite => self.overwrite(),
            Event::Bring { to, id } => self.bring(to, id, false),
            Event::Evict { to, id } => self.bring(to, id, true),
            Event::Duplicate { id } => self.duplicate(id),
            Event::DropCopy => self.drop_copy(),
            Event::Pin => self.pin(),
            Event::Unpin => self.unpin(),
            Event::Discard { id } => self.discard(id),
            Event::Revoked { id, held } => self.revoked(id, held),
            Event::Arrived { id } => self.arrived(id),
            Event::Failed { id } => self.not_arrived(id, false),
            Event::TimedOut { id } => self.not_arrived(id, true),
            Event::Reset => self.reset(),
        }
    }

    const fn to(self, actions: Actions) -> Step {
        Step {
            page: self,
            actions,
        }
    }

    /// Whose contents are valid; `None` where nobody's are.
    #[must_use]
    pub const fn owner(self) -> Option<Location> {
        match self {
            Self::None | Self::Lost => None,
            Self::Host { .. } => Some(Location::Host),
            Self::Device { .. }
            | Self::Copied
            | Self::Copying(_)
            | Self::Revoking(Purpose::Adopt | Purpose::Copy, _) => Some(Location::Device),
            Self::Revoking(Purpose::Move(owner) | Purpose::Discard(owner), _)
            | Self::Moving(owner, _) => Some(owner),
        }
    }

    fn access(self, by: Location, write: bool, id: TransactionId) -> Step {
        match (self, by) {
            (Self::None, _) => owned(by).to(Actions::new([Action::Zero(by), map(by)])),
            (Self::Host { .. }, Location::Host) => self.to(Actions::new([Action::MapHost])),
            (Self::Host { remote: true }, Location::Device) => {
                self.to(Actions::new([Action::SetEntry(Entry::Remote)]))
            }
            (Self::Device { .. }, Location::Device) => {
                self.to(Actions::new([Action::SetEntry(Entry::ReadWrite)]))
            }
            (Self::Device { window: true }, Location::Host) => {
                self.to(Actions::new([Action::MapWindow]))
            }
            (Self::Copied | Self::Copying(_), Location::Device) if !write => {
                self.to(Actions::new([Action::SetEntry(Entry::ReadOnly)]))
            }
            // The copy goes before the write is allowed. Rights that are given need no invalidation.
            (Self::Copied, Location::Device) => owned(by).to(Actions::new([
                Action::DropCopy,
                Action::SetEntry(Entry::ReadWrite),
            ])),
            (Self::Copying(copy), Location::Device) => owned(by).to(Actions::new([
                Action::Quarantine(copy),
                Action::SetEntry(Entry::ReadWrite),
                Action::Wake,
            ])),
            (Self::Host { .. } | Self::Device { .. } | Self::Copied, _) => {
                self.bring(by, id, false)
            }
            (Self::Revoking(..) | Self::Moving(..) | Self::Copying(_), _) => {
                self.to(Actions::new([Action::Wait]))
            }
            (Self::Lost, _) => self.to(Actions::new([Action::Fail])),
        }
    }

    fn write(self) -> Step {
        match self {
            Self::None => owned(Location::Host).to(Actions::new([
                Action::Zero(Location::Host),
                Action::Use(Store::HostPage),
            ])),
            Self::Host { .. } => self.to(Actions::new([Action::Use(Store::HostPage)])),
            Self::Device { .. } => self.to(Actions::new([Action::Use(Store::Frame)])),
            // A copy never changes.
            Self::Copied => owned(Location::Device).to(Actions::new([
                Action::DropCopy,
                Action::SetEntry(Entry::ReadWrite),
                Action::Use(Store::Frame),
            ])),
            Self::Revoking(..) | Self::Moving(..) | Self::Copying(_) => {
                self.to(Actions::new([Action::Wait]))
            }
            Self::Lost => self.to(Actions::new([Action::Fail])),
        }
    }

    fn overwrite(self) -> Step {
        match self {
            // Lost contents end here too: nothing of them is left.
            Self::Lost => owned(Location::Host).to(Actions::new([
                Action::Zero(Location::Host),
                Action::Use(Store::HostPage),
            ])),
            _ => self.write(),
        }
    }

    /// Starts to move it to `to`, where it is not yet, and not pinned elsewhere unless `must`.
    fn bring(self, to: Location, id: TransactionId, must: bool) -> Step {
        let revoking = |purpose| Self::Revoking(purpose, id);
        match (self, to) {
            (Self::Host { remote }, Location::Device) if must || !remote => {
                let page = revoking(Purpose::Move(Location::Host));
                if remote {
                    page.to(Actions::new([
                        Action::UnmapHost,
                        Action::SetEntry(Entry::Absent),
                        Action::Invalidate(id),
                    ]))
                } else {
                    // The device has no entry. Its empty invalidation says when the host's is gone.
                    page.to(Actions::new([Action::UnmapHost, Action::Invalidate(id)]))
                }
            }
            (Self::Device { window }, Location::Host) if must || !window => {
                let page = revoking(Purpose::Move(Location::Device));
                let unmap = [Action::SetEntry(Entry::Absent), Action::Invalidate(id)];
                if window {
                    page.to(Actions::new([Action::UnmapHost, unmap[0], unmap[1]]))
                } else {
                    page.to(Actions::new(unmap))
                }
            }
            (Self::Copied, Location::Host) => revoking(Purpose::Adopt).to(Actions::new([
                Action::SetEntry(Entry::Absent),
                Action::Invalidate(id),
            ])),
            (Self::Revoking(..) | Self::Moving(..) | Self::Copying(_), _) if must => {
                self.to(Actions::new([Action::Wait]))
            }
            _ => self.to(Actions::NONE),
        }
    }

    fn duplicate(self, id: TransactionId) -> Step {
        match self {
            Self::Device { window: false } => Self::Revoking(Purpose::Copy, id).to(Actions::new([
                Action::SetEntry(Entry::ReadOnly),
                Action::Invalidate(id),
            ])),
            _ => self.to(Actions::NONE),
        }
    }

    fn drop_copy(self) -> Step {
        match self {
            Self::Copied => owned(Location::Device).to(Actions::new([
                Action::DropCopy,
                Action::SetEntry(Entry::ReadWrite),
            ])),
            _ => self.to(Actions::NONE),
        }
    }

    fn pin(self) -> Step {
        match self {
            Self::Host { .. } => {
                Self::Host { remote: true }.to(Actions::new([Action::SetEntry(Entry::Remote)]))
            }
            Self::Device { .. } => Self::Device { window: true }.to(Actions::NONE),
            Self::Copied => Self::Device { window: true }.to(Actions::new([
                Action::DropCopy,
                Action::SetEntry(Entry::ReadWrite),
            ])),
            Self::Revoking(..) | Self::Moving(..) | Self::Copying(_) => {
                self.to(Actions::new([Action::Wait]))
            }
            Self::None | Self::Lost => self.to(Actions::NONE),
        }
    }

    fn unpin(self) -> Step {
        match self {
            // What the device still remembers of its entry reaches a page that is still the owner's: whatever moves or
            // frees it invalidates first.
            Self::Host { remote: true } => {
                owned(Location::Host).to(Actions::new([Action::SetEntry(Entry::Absent)]))
            }
            Self::Device { window: true } => {
                owned(Location::Device).to(Actions::new([Action::UnmapHost]))
            }
            _ => self.to(Actions::NONE),
        }
    }

    fn discard(self, id: TransactionId) -> Step {
        let revoking = |owner| Self::Revoking(Purpose::Discard(owner), id);
        let gone = [Action::SetEntry(Entry::Absent), Action::Invalidate(id)];
        match self {
            Self::Host { .. } => {
                revoking(Location::Host).to(Actions::new([Action::UnmapHost, gone[0], gone[1]]))
            }
            Self::Device { .. } => {
                revoking(Location::Device).to(Actions::new([Action::UnmapHost, gone[0], gone[1]]))
            }
            Self::Copied => {
                revoking(Location::Device).to(Actions::new([Action::DropCopy, gone[0], gone[1]]))
            }
            Self::Revoking(..) | Self::Moving(..) | Self::Copying(_) => {
                self.to(Actions::new([Action::Wait]))
            }
            Self::None | Self::Lost => Self::None.to(Actions::NONE),
        }
    }

    fn revoked(self, id: TransactionId, held: bool) -> Step {
        match self {
            Self::Revoking(purpose, current) if current == id => match purpose {
                // Never wait for somebody else's pin: it stays, and the device reaches it.
                Purpose::Move(Location::Host) if held => {
                    Self::Host { remote: true }.to(Actions::new([
                        Action::SetEntry(Entry::Remote),
                        Action::MapHost,
                        Action::Wake,
                    ]))
                }
                Purpose::Move(from) => {
                    Self::Moving(from, id).to(Actions::new([Action::Transfer(from, id)]))
                }
                Purpose::Adopt => owned(Location::Host).to(Actions::new([
                    Action::AdoptCopy,
                    Action::Free(Location::Device),
                    Action::MapHost,
                    Action::Wake,
                ])),
                Purpose::Copy => Self::Copying(id).to(Actions::new([Action::TransferCopy(id)])),
                Purpose::Discard(owner) => {
                    Self::None.to(Actions::new([Action::Free(owner), Action::Wake]))
                }
            },
            _ => self.to(Actions::NONE),
        }
    }

    fn arrived(self, id: TransactionId) -> Step {
        match self {
            Self::Moving(from, current) if current == id => owned(from.other()).to(Actions::new([
                Action::Free(from),
                map(from.other()),
                Action::Wake,
            ])),
            Self::Copying(current) if current == id => {
                Self::Copied.to(Actions::new([Action::Wake]))
            }
            _ => self.to(Actions::NONE),
        }
    }

    /// The transfer ends without the data; `late`: it may still come.
    fn not_arrived(self, id: TransactionId, late: bool) -> Step {
        match self {
            Self::Moving(from, current) if current == id => owned(from).to(Actions::new([
                if late {
                    Action::Quarantine(id)
                } else {
                    Action::Free(from.other())
                },
                map(from),
                Action::Wake,
            ])),
            Self::Copying(current) if current == id => owned(Location::Device).to(Actions::new([
                if late {
                    Action::Quarantine(id)
                } else {
                    Action::DropCopy
                },
                Action::SetEntry(Entry::ReadWrite),
                Action::Wake,
            ])),
            // An invalidation that times out is tried again after the queue's reset: until then nobody knows what the
            // device still does.
            _ => self.to(Actions::NONE),
        }
    }

    fn reset(self) -> Step {
        match self {
            Self::None | Self::Lost => self.to(Actions::NONE),
            Self::Host { .. } => owned(Location::Host).to(Actions::NONE),
            Self::Device { .. } => Self::Lost.to(Actions::new([Action::UnmapHost])),
            Self::Copied => Self::Lost.to(Actions::new([Action::DropCopy])),
            Self::Copying(id) | Self::Moving(Location::Device, id) => {
                Self::Lost.to(Actions::new([Action::Quarantine(id), Action::Wake]))
            }
            Self::Moving(Location::Host, id) => owned(Location::Host).to(Actions::new([
                Action::Quarantine(id),
                Action::MapHost,
                Action::Wake,
            ])),
            Self::Revoking(purpose, _) => match purpose {
                Purpose::Move(Location::Host) => {
                    owned(Location::Host).to(Actions::new([Action::MapHost, Action::Wake]))
                }
                Purpose::Move(Location::Device) | Purpose::Copy => {
                    Self::Lost.to(Actions::new([Action::Wake]))
                }
                Purpose::Adopt => Self::Lost.to(Actions::new([Action::DropCopy, Action::Wake])),
                // The host's mappings, and calls that use the page, are still to go.
                Purpose::Discard(_) => self.to(Actions::NONE),
            },
        }
    }
}

#[cfg(test)]
mod tests;
