// SPDX-License-Identifier: GPL-2.0

//! Several transfers in flight for one caller, ended in order.

use kernel::device::{Bound, Device};
use kernel::prelude::*;

use super::block::Hold;
use super::function::Function;
use super::queue::{Command, Failure, Queue, Slot, Transfer};
use crate::sys::host_memory::HostMemory;

/// Transfers of one call that may be in flight together: enough that the link never waits for the next one to be
/// prepared.
const DEPTH: usize = 4;

/// Which way data goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Device memory to host memory.
    ToHost,
    /// Host memory to device memory.
    ToDevice,
}

/// A part of the call, in the order of its bytes.
enum Flight<'f, 'data> {
    /// The device has it.
    /// The pages stay where they are until it has ended.
    Transfer(Transfer<'data, &'f Queue, &'f Device<Bound>>, Hold),
    /// So many bytes that were moved without the device.
    Done(usize),
}

/// The transfers of a call, oldest first.
pub(crate) struct Pipeline<'f, 'data> {
    function: &'f Function,
    direction: Direction,
    flights: [Option<Flight<'f, 'data>>; DEPTH],
    /// Parts started and ended; the one that is started as number n is at n % DEPTH.
    started: usize,
    ended: usize,
    /// Bytes moved by parts that ended well, before the first that did not.
    moved: usize,
    error: Option<Error>,
    /// The generation that all of them belong to.
    generation: Option<u32>,
}

impl<'f, 'data> Pipeline<'f, 'data> {
    /// Nothing in flight.
    pub(crate) fn new(function: &'f Function, direction: Direction) -> Self {
        Self {
            function,
            direction,
            flights: [const { None }; DEPTH],
            started: 0,
            ended: 0,
            moved: 0,
            error: None,
            generation: None,
        }
    }

    /// Starts a transfer of all of `memory` from or to `device_addr`, which is its place in
    /// `generation` of the function's memory.
    ///
    /// Waits for room, for a slot and for a recovery, or not if `nonblocking`: the errors are those of
    /// [`Queue::reserve`](super::queue::Queue::reserve), and EIO when the function was reset meanwhile. On an
    /// error nothing was started.
    pub(crate) fn start(
        &mut self,
        memory: HostMemory<'data, &'f Device<Bound>>,
        device_addr: u64,
        generation: u32,
        hold: Hold,
        nonblocking: bool,
    ) -> Result {
        if *self.generation.get_or_insert(generation) != generation {
            return Err(EIO);
        }
        self.make_room();
        let mut command = match self.direction {
            Direction::ToHost => Command::Read {
                device_addr,
                host: memory,
            },
            Direction::ToDevice => Command::Write {
                device_addr,
                host: memory,
            },
        };
        let transfer = loop {
            let slot = self.slot(nonblocking)?;
            match slot.submit(command, || self.function.memory.generation() == generation) {
                Ok(transfer) => break transfer,
                Err((Failure::Recovering, again)) if !nonblocking => command = again,
                Err((failure, _)) => return Err(failure.into()),
            }
        };
        self.push(Flight::Transfer(transfer, hold));
        Ok(())
    }

    /// Sees to it that one more can be started.
    fn make_room(&mut self) {
        if self.started - self.ended >= DEPTH {
            self.end_oldest();
        }
    }

    /// Appends a part. There is room.
    fn push(&mut self, flight: Flight<'f, 'data>) {
        if let Some(place) = self.flights.get_mut(self.started % DEPTH) {
            *place = Some(flight);
            self.started += 1;
        }
    }

    /// A slot. While we have others it is not waited for: those who wait for one another's slots would wait for ever.
    fn slot(&mut self, nonblocking: bool) -> Result<Slot<&'f Queue>> {
        loop {
            match self.function.ordinary.reserve(true) {
                Err(EAGAIN) if self.ended < self.started => self.end_oldest(),
                Err(EAGAIN) if !nonblocking => return self.function.ordinary.reserve(false),
                taken => return taken,
            }
        }
    }

    /// Waits for all transfers.
    pub(crate) fn finish(&mut self) {
        while self.ended < self.started {
            self.end_oldest();
        }
    }

    fn end_oldest(&mut self) {
        let flight = self
            .flights
            .get_mut(self.ended % DEPTH)
            .and_then(Option::take);
        self.ended += 1;
        let bytes = match flight {
            None => return,
            Some(Flight::Done(bytes)) => bytes,
            Some(Flight::Transfer(transfer, _hold)) => match transfer.wait() {
                Ok(()) => {
                    let stats = &self.function.stats;
                    let bytes = transfer.bytes();
                    match self.direction {
                        Direction::ToHost => stats.to_host_bytes.add(bytes as u64),
                        Direction::ToDevice => stats.to_device_bytes.add(bytes as u64),
                    }
                    bytes
                }
                Err(failure) => {
                    self.error.get_or_insert(failure.into());
                    return;
                }
            },
        };
        if self.error.is_none() {
            self.moved += bytes;
        }
    }

    /// Counts the next bytes, which were moved without the device.
    pub(crate) fn skip(&mut self, bytes: usize) {
        self.make_room();
        self.push(Flight::Done(bytes));
    }

    /// Bytes moved so far, without a gap.
    pub(crate) fn moved(&self) -> usize {
        self.moved
    }

    /// The first error of a transfer that has ended.
    pub(crate) fn error(&self) -> Option<Error> {
        self.error
    }
}
