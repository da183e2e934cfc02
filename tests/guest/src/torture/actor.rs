// SPDX-License-Identifier: GPL-2.0

//! A thread that uses a space at random.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd},
    sync::{atomic::Ordering::SeqCst, Arc},
};

use anyhow::{bail, Context, Result};
use io_uring::IoUring;
use libvfetch::Space;
use rand::Rng;
use rand_pcg::Pcg64Mcg;
use rustix::io::Errno;

use super::{
    host, jobs,
    memory::{Memory, CHUNK},
    others, World,
};
use crate::{
    mapped::{direct::disk, RIGHTS},
    support::{
        buffer::{memory_file, Area, Mapping},
        machine::{pf, space, vf},
        starve,
    },
};

/// Most bytes that are read at once.
pub(super) const LARGEST: usize = 16 * CHUNK;

/// Whether something was done, or refused because the device or an allocation has failed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Went {
    Well,
    Refused,
}

/// Something that an actor does.
pub(super) struct Deed {
    pub(super) name: &'static str,
    /// How often, compared with the others.
    often: u32,
    run: Run,
}

/// Does it to the space.
type Run = fn(&mut Actor, &Memory) -> Result<Went>;

const fn deed(often: u32, name: &'static str, run: Run) -> Deed {
    Deed { name, often, run }
}

/// All of them.
pub(super) const DEEDS: [Deed; 22] = [
    deed(20, "load", host::load),
    deed(6, "touch many pages", host::touch),
    deed(12, "read", host::read),
    deed(12, "store", host::store),
    deed(12, "write", host::write),
    deed(3, "discard", host::discard),
    deed(2, "map again", host::map_again),
    deed(2, "move the mapping", host::move_mapping),
    deed(2, "take rights", host::take_rights),
    deed(2, "unmap a part", host::unmap_part),
    deed(16, "stamp", jobs::stamp),
    deed(12, "check", jobs::check),
    deed(4, "check much", jobs::check_much),
    deed(4, "reduce", jobs::reduce),
    deed(3, "gather", jobs::gather),
    deed(3, "cancel a stamp", jobs::cancel),
    deed(6, "from the mapping", others::from_mapping),
    deed(6, "to the mapping", others::to_mapping),
    deed(4, "requests", others::requests),
    deed(3, "to held pages", others::to_held),
    deed(3, "/proc/self/mem", others::proc_mem),
    deed(1, "child", others::child),
];

/// What data comes from and goes to by a mapping that is the buffer.
pub(super) enum Outside {
    /// A disk, past all caches.
    Disk(File),
    /// A space of another function.
    Space(Space),
    /// A file in memory.
    File(File),
}

impl AsFd for Outside {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Space(space) => space.as_fd(),
            Self::Disk(file) | Self::File(file) => file.as_fd(),
        }
    }
}

/// The thread's own.
pub(super) struct Actor {
    pub(super) world: Arc<World>,
    /// The space that it uses, and where it has two chunks to itself.
    home: usize,
    pub(super) scratch: usize,
    pub(super) random: Pcg64Mcg,
    /// The last chunk that it [chose](Self::chunk).
    last: usize,
    /// The space, mapped.
    pub(super) window: Mapping,
    /// Memory for calls.
    pub(super) buffer: Mapping,
    pub(super) outsides: [Outside; 3],
    /// Where, in each of them.
    pub(super) place: u64,
    pub(super) ring: IoUring,
    pub(super) proc_mem: File,
}

impl Actor {
    /// The one numbered `number` among those of space `home`, `name` among all.
    pub(super) fn new(world: &Arc<World>, home: usize, number: usize, name: usize) -> Result<Self> {
        let memory = &world.memories[home];
        // Data of one function goes to the other.
        let other = if home == 2 { vf(1)? } else { pf()? };
        Ok(Self {
            world: world.clone(),
            home,
            scratch: memory.scratch(number),
            random: world.random(name as u64),
            last: 0,
            window: Mapping::part_of(&memory.space, 0, memory.bytes(), RIGHTS)?,
            buffer: Mapping::anonymous(LARGEST)?,
            outsides: [
                Outside::Disk(disk()?),
                Outside::Space(space(&other, ((name + 1) * CHUNK) as u64)?),
                Outside::File(memory_file(((name + 1) * CHUNK) as u64)?),
            ],
            place: (name * CHUNK) as u64,
            ring: IoUring::new(16)?,
            proc_mem: File::options()
                .read(true)
                .write(true)
                .open("/proc/self/mem")?,
        })
    }

    /// Does one deed after the other until it is told to stop, or something is wrong.
    pub(super) fn run(&mut self) -> Result<()> {
        let world = self.world.clone();
        let memory = &world.memories[self.home];
        let all = DEEDS.iter().map(|deed| deed.often).sum();
        while !world.stop.load(SeqCst) {
            let mut lot = self.random.random_range(0..all);
            let found = DEEDS.iter().enumerate().find(|(_, deed)| {
                let found = lot < deed.often;
                lot = lot.saturating_sub(deed.often);
                found
            });
            let (number, deed) = found.context("no deed")?;
            let count = match (deed.run)(self, memory).with_context(|| deed.name.to_string())? {
                Went::Well => &world.done,
                Went::Refused => &world.refused,
            };
            count[number].fetch_add(1, SeqCst);
        }
        Ok(())
    }

    /// A chunk: mostly one of those that all use at the moment.
    pub(super) fn chunk(&mut self) -> usize {
        // Host and device are to want the same at about the same time.
        if self.world.shows && self.random.random_range(0..4) > 0 {
            return self.last;
        }
        let chunks = self.world.memories[self.home].chunks();
        self.last = match self.random.random_range(0..4) {
            // Of one block.
            0 | 1 => self.random.random_range(0..24),
            // The same few of every block.
            2 => self.random.random_range(0..chunks / 128) * 128 + self.random.random_range(0..4),
            _ => self.random.random_range(0..chunks),
        };
        self.last
    }

    /// A chunk's part of the mapping.
    pub(super) fn area(&self, chunk: usize) -> Area {
        self.window.area(chunk * CHUNK, CHUNK)
    }

    /// Whether pages may be mapped through BAR2, as thrashing ones are: the kernel cannot hold those for others.
    pub(super) fn has_windows(&self) -> bool {
        let stats = self.world.memories[self.home].space.stats();
        stats.is_ok_and(|stats| stats.window_pins > 0)
    }

    /// Whether the device, or a lack of memory, may have caused this error.
    pub(super) fn excuses(&self, errno: Option<Errno>) -> bool {
        // EFAULT: a page of the buffer could not be fetched. ECANCELED: a job's queue was reset.
        const DEVICE: [Errno; 3] = [Errno::IO, Errno::FAULT, Errno::CANCELED];
        // What the kernel says of a buffer that is no page: the second where it is a disk's.
        let shown = matches!(errno, Some(Errno::FAULT | Errno::EXIST));
        if shown && self.has_windows() {
            return true;
        }
        self.world.faulty && errno.is_some_and(|errno| DEVICE.contains(&errno))
            || self.world.starved && errno.is_some_and(starve::excuses)
    }

    /// What a call gave; `None` if the device or an allocation has failed.
    pub(super) fn get<T>(&self, what: &str, result: libvfetch::Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if self.excuses(error.errno()) => Ok(None),
            Err(error) => Err(error).context(what.to_string()),
        }
    }

    /// What pages of the mapping that raised SIGBUS mean.
    pub(super) fn survive(&mut self, memory: &Memory, what: &str, hits: u32) -> Result<Went> {
        if hits == 0 {
            return Ok(Went::Well);
        }
        self.map(memory)?;
        if !self.world.faulty {
            bail!("{what}: SIGBUS for {hits} pages");
        }
        Ok(Went::Refused)
    }

    /// Maps the space anew.
    pub(super) fn map(&mut self, memory: &Memory) -> Result<()> {
        self.window = Mapping::part_of(&memory.space, 0, memory.bytes(), RIGHTS)?;
        Ok(())
    }

    /// Something was refused: maybe because pages are lost. They end being so, or not.
    pub(super) fn refused(&mut self, memory: &Memory, chunk: usize) -> Result<Went> {
        match self.random.random_range(0..4) {
            0 => _ = host::write_to(self, memory, chunk)?,
            1 => _ = host::discard_chunk(self, memory, chunk)?,
            _ => {}
        }
        Ok(Went::Refused)
    }
}
