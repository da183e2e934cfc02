// SPDX-License-Identifier: GPL-2.0

//! What an open file manages: a range of pages, each nowhere yet, in a frame of device memory, or
//! lost.

use core::ops::Range;

use kernel::iov::{IovIterDest, IovIterSource};
use kernel::prelude::*;
use kernel::sync::atomic::{Acquire, Atomic, Relaxed, Release};
use kernel::sync::{new_mutex, Arc, Mutex};

use super::block::{Block, Contents};
use super::function::Function;
use super::gate::Gate;
use super::transfer::{Direction, Pipeline};
use crate::engine::frames::FrameRun;
use crate::engine::mask::{Region, PAGES};
use crate::sys::abi as hw;
use crate::sys::host_memory::{zero, HostMemory, Limits};
use crate::sys::node::{Moved, Request};
use crate::sys::pci::BoundGuard;
use crate::sys::wait::killed;

const PAGE: u64 = hw::VFETCH_PAGE_BYTES as u64;
const BLOCK: u64 = hw::VFETCH_BLOCK_BYTES as u64;

const _: () = assert!(BLOCK == PAGE * PAGES as u64);

/// The caller's side of a transfer.
pub(crate) enum Caller<'i, 'data> {
    /// A buffer to be filled.
    To(&'i mut IovIterDest<'data>),
    /// A buffer to be read.
    From(&'i mut IovIterSource<'data>),
}

impl<'data> Caller<'_, 'data> {
    fn direction(&self) -> Direction {
        match self {
            Caller::To(_) => Direction::ToHost,
            Caller::From(_) => Direction::ToDevice,
        }
    }

    /// Bytes that are left of the buffer.
    fn len(&self) -> usize {
        match self {
            Caller::To(iter) => iter.len(),
            Caller::From(iter) => iter.len(),
        }
    }

    /// Takes the next bytes of the buffer for the device.
    fn take<'dev>(
        &mut self,
        device: &'dev BoundGuard<'_>,
        limits: Limits,
    ) -> Result<HostMemory<'dev, 'data>> {
        match self {
            Caller::To(iter) => HostMemory::from_dest(device.as_ref(), iter, limits),
            Caller::From(iter) => HostMemory::from_source(device.as_ref(), iter, limits),
        }
    }
}

/// Where the next bytes of a space are.
enum Piece {
    /// Nowhere yet: so many bytes read as zeros.
    Zeros(usize),
    /// In device memory.
    Device {
        addr: u64,
        bytes: usize,
        generation: u32,
    },
}

/// A space's pages. Blocks without contents are not there.
struct Table {
    blocks: KVVec<Option<KBox<Block>>>,
    /// Lost pages of all blocks, and the generation that they were counted in, unless they have to be counted again.
    lost: Option<(u64, u32)>,
}

impl Table {
    /// Counts the lost pages, looking at the blocks only when that is needed.
    fn count_lost(&mut self, generation: u32) -> u64 {
        match self.lost {
            Some((lost, counted)) if counted == generation => lost,
            _ => {
                let mut lost = 0;
                for block in self.blocks.iter_mut().flatten() {
                    block.settle(generation);
                    lost += block.lost() as u64;
                }
                self.lost = Some((lost, generation));
                lost
            }
        }
    }
}

/// A space.
#[pin_data]
pub(crate) struct Space {
    function: Arc<Function>,
    /// Its size, a multiple of the page. Changed only with the gate held alone.
    bytes: Atomic<u64>,
    #[pin]
    gate: Gate,
    #[pin]
    table: Mutex<Table>,
}

/// The pages that `bytes` touch within a block whose first byte is at `base`.
fn pages_of(bytes: &Range<u64>, base: u64) -> Option<Region> {
    let first = bytes.start.saturating_sub(base) / PAGE;
    let outer = bytes
        .end
        .saturating_sub(base)
        .div_ceil(PAGE)
        .min(PAGES as u64);
    // CAST: at most 512.
    Region::new(first as usize, outer as usize)
}

/// The blocks that `bytes`, whole pages, lie in: index, first byte and pages of each.
fn blocks_of(bytes: Range<u64>) -> impl Iterator<Item = (usize, Region)> {
    let first = bytes.start / BLOCK;
    let outer = bytes.end.div_ceil(BLOCK);
    (first..outer).filter_map(move |index| {
        let base = index * BLOCK;
        let within = bytes.start.max(base)..bytes.end;
        // CAST: there are no more blocks than a vector can hold, see `resize`.
        pages_of(&within, base).map(|region| (index as usize, region))
    })
}

/// Bytes of device memory that frames are.
fn bytes_of(run: FrameRun) -> (u64, u64) {
    (u64::from(run.first) * PAGE, u64::from(run.count) * PAGE)
}

impl Space {
    /// A space of 0 bytes.
    pub(crate) fn new(function: Arc<Function>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            function,
            bytes: Atomic::new(0),
            gate <- Gate::new(),
            table <- new_mutex!(
                Table {
                    blocks: KVVec::new(),
                    lost: None,
                },
                "vfetch: space"
            ),
        })
    }

    /// The function whose memory it is.
    pub(crate) fn function(&self) -> &Arc<Function> {
        &self.function
    }

    /// Its size.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Acquire)
    }

    /// Its pages that are lost.
    pub(crate) fn lost_pages(&self) -> u64 {
        let mut table = self.table.lock();
        // With the lock, here and below: a block shall not go back to a former generation.
        let generation = self.function.memory.generation();
        table.count_lost(generation)
    }

    // ---- Moving data ----------------------------------------------------------------------------

    /// Moves data between the space and the caller's buffer, and says how much.
    ///
    /// 0 when reading at or beyond the end. The errors are those that the uapi header lists for `read` and
    /// `write`.
    pub(crate) fn transfer(&self, request: Request, mut caller: Caller<'_, '_>) -> Result<Moved> {
        let direction = caller.direction();
        let device = self.function.enter()?;
        let nothing = Moved {
            bytes: 0,
            error: None,
        };
        if caller.len() == 0 {
            return Ok(nothing);
        }
        let _inside = self.gate.share(request.nonblocking)?;
        let size = self.bytes();
        if request.offset >= size {
            return match direction {
                Direction::ToHost => Ok(nothing),
                Direction::ToDevice => Err(ENOSPC),
            };
        }
        let whole = request.offset..size.min(request.offset.saturating_add(caller.len() as u64));
        let mut pipeline = Pipeline::new(&self.function, direction);
        let mut lost = false;
        let result = self.fly(
            &device,
            &whole,
            &mut caller,
            &mut pipeline,
            request.nonblocking,
            &mut lost,
        );
        pipeline.finish();
        let mut moved = pipeline.moved();
        if lost {
            // A lost page is written as a whole or not at all.
            let end = whole.start + moved as u64;
            if self.is_amid_lost(end) {
                // CAST: less than a page.
                moved = moved.saturating_sub((end % PAGE) as usize);
            }
            if let Some(generation) = pipeline.generation() {
                self.overwritten(whole.start..whole.start + moved as u64, generation);
            }
        }
        // The first transfer's error came first.
        let error = pipeline.error().or(result.err());
        if moved == 0 {
            return Err(error.unwrap_or(EFAULT));
        }
        let stats = &self.function.stats;
        let (calls, bytes) = match direction {
            Direction::ToHost => (&stats.reads, &stats.read_bytes),
            Direction::ToDevice => (&stats.writes, &stats.written_bytes),
        };
        if !request.continued {
            calls.count();
        }
        bytes.add(moved as u64);
        Ok(Moved {
            bytes: moved,
            error,
        })
    }

    /// Starts the transfers for `whole`, until one fails.
    fn fly<'f, 'data>(
        &'f self,
        device: &'f BoundGuard<'_>,
        whole: &Range<u64>,
        caller: &mut Caller<'_, 'data>,
        pipeline: &mut Pipeline<'f, 'data>,
        nonblocking: bool,
        lost: &mut bool,
    ) -> Result {
        let most = u64::from(self.function.transfer_bytes());
        let most_pages = self.function.transfer_pages();
        let mut at = whole.start;
        while at < whole.end && pipeline.error().is_none() {
            // What is in flight must end, but nothing more need begin.
            if killed() {
                return Err(EINTR);
            }
            let next = at..whole.end.min(at.saturating_add(most));
            let piece = match caller.direction() {
                Direction::ToHost => self.locate(next)?,
                Direction::ToDevice => self.place(next, whole, lost)?,
            };
            match piece {
                Piece::Zeros(bytes) => {
                    let Caller::To(iter) = caller else {
                        return Err(EIO);
                    };
                    let zeroed = zero(iter, bytes);
                    self.function.stats.zero_bytes.add(zeroed as u64);
                    pipeline.skip(zeroed);
                    at += zeroed as u64;
                    if zeroed < bytes {
                        return Err(EFAULT);
                    }
                }
                Piece::Device {
                    addr,
                    bytes,
                    generation,
                } => {
                    let limits = Limits {
                        bytes,
                        pages: most_pages.min(bytes.div_ceil(PAGE as usize) + 1),
                    };
                    let memory = caller.take(device, limits)?;
                    let begun = at..at + memory.bytes() as u64;
                    pipeline.start(memory, addr, generation, nonblocking)?;
                    if caller.direction() == Direction::ToDevice {
                        self.begun(&begun, generation);
                    }
                    at = begun.end;
                }
            }
        }
        Ok(())
    }

    /// Where the first of `bytes`, which are not empty and lie within the space, are. EIO when they are lost.
    fn locate(&self, bytes: Range<u64>) -> Result<Piece> {
        let base = bytes.start / BLOCK * BLOCK;
        let region = pages_of(&bytes, base).ok_or(EINVAL)?;
        let mut table = self.table.lock();
        let generation = self.function.memory.generation();
        // CAST: as in `blocks_of`.
        let (run, contents, frame) = match table.blocks.get_mut((base / BLOCK) as usize) {
            Some(Some(block)) => {
                block.settle(generation);
                block.leading_run(region)
            }
            _ => (region, Contents::None, 0),
        };
        drop(table);
        let end = bytes.end.min(base + run.outer() as u64 * PAGE);
        // CAST: at most a block.
        let length = (end - bytes.start) as usize;
        match contents {
            Contents::None => Ok(Piece::Zeros(length)),
            Contents::Lost => Err(EIO),
            Contents::Device => Ok(Piece::Device {
                addr: u64::from(frame) * PAGE + bytes.start % PAGE,
                bytes: length,
                generation,
            }),
        }
    }

    /// Where the first of `bytes`, which are not empty and lie within the space, are to be written. They are part of a
    /// write of `whole`: EIO when they are lost and it does not cover their page. `lost` is set when a lost page is covered.
    fn place(&self, bytes: Range<u64>, whole: &Range<u64>, lost: &mut bool) -> Result<Piece> {
        let base = bytes.start / BLOCK * BLOCK;
        // CAST: as in `blocks_of`.
        let index = (base / BLOCK) as usize;
        let region = pages_of(&bytes, base).ok_or(EINVAL)?;
        let mut table = self.table.lock();
        if table.blocks.get(index).ok_or(EINVAL)?.is_none() {
            // Not under the lock: allocating may wait for memory.
            drop(table);
            let block = Block::new(self.function.memory.generation())?;
            table = self.table.lock();
            table
                .blocks
                .get_mut(index)
                .ok_or(EINVAL)?
                .get_or_insert(block);
        }
        let block = table
            .blocks
            .get_mut(index)
            .and_then(Option::as_mut)
            .ok_or(EINVAL)?;
        let generation = self.function.memory.generation();
        block.settle(generation);
        // Pages of one kind at a time.
        let (run, contents, _) = block.leading_run(region);
        let mut region = run;
        if contents == Contents::Lost {
            let covered = whole.start.div_ceil(PAGE) * PAGE..whole.end / PAGE * PAGE;
            let start = bytes.start / PAGE * PAGE;
            if start < covered.start || start >= covered.end {
                return Err(EIO);
            }
            region = pages_of(&(start..covered.end), base)
                .and_then(|covered| Region::new(run.first(), run.outer().min(covered.outer())))
                .ok_or(EIO)?;
            *lost = true;
        }
        block.frame(region, &self.function.memory)?;
        let (region, frame) = block.neighbours(region);
        drop(table);
        let end = bytes.end.min(base + region.outer() as u64 * PAGE);
        Ok(Piece::Device {
            addr: u64::from(frame) * PAGE + bytes.start % PAGE,
            // CAST: at most a block.
            bytes: (end - bytes.start) as usize,
            generation,
        })
    }

    /// `bytes`, of one block, are being written in `generation`: their pages have contents.
    fn begun(&self, bytes: &Range<u64>, generation: u32) {
        let base = bytes.start / BLOCK * BLOCK;
        let Some(region) = pages_of(bytes, base) else {
            return;
        };
        let filled = {
            let mut table = self.table.lock();
            // CAST: as in `blocks_of`.
            match table.blocks.get_mut((base / BLOCK) as usize) {
                Some(Some(block)) => block.fill(region, generation),
                _ => 0,
            }
        };
        if filled > 0 {
            self.function.memory.count_pages(generation, filled, 0);
        }
    }

    /// Whether the page that `at` lies in the middle of is lost.
    fn is_amid_lost(&self, at: u64) -> bool {
        let base = at / BLOCK * BLOCK;
        at % PAGE != 0
            && pages_of(&(at..at + 1), base).is_some_and(|page| {
                let table = self.table.lock();
                // CAST: as in `blocks_of`.
                let block = table.blocks.get((base / BLOCK) as usize);
                matches!(block, Some(Some(block)) if block.leading_run(page).1 == Contents::Lost)
            })
    }

    /// `bytes` were written in `generation`: the pages that they cover are not lost any more.
    fn overwritten(&self, bytes: Range<u64>, generation: u32) {
        let covered = bytes.start.div_ceil(PAGE) * PAGE..bytes.end / PAGE * PAGE;
        if covered.is_empty() {
            return;
        }
        let mut filled = 0;
        let mut table = self.table.lock();
        for (index, region) in blocks_of(covered) {
            if let Some(Some(block)) = table.blocks.get_mut(index) {
                filled += block.overwritten(region, generation);
            }
        }
        table.lost = None;
        drop(table);
        self.function.memory.count_pages(generation, filled, 0);
    }

    // ---- Changing it ----------------------------------------------------------------------------

    /// Sets the size. See `VFETCH_IOC_SET_SIZE`.
    pub(crate) fn resize(&self, bytes: u64) -> Result {
        if bytes % PAGE != 0 {
            return Err(EINVAL);
        }
        let _device = self.function.enter()?;
        let _alone = self.gate.exclude()?;
        let now = self.bytes();
        if bytes >= now {
            let more = u32::try_from((bytes - now) / PAGE).map_err(|_| ENOSPC)?;
            self.function.memory.promise(more)?;
            let grown = self.grow(usize::try_from(bytes.div_ceil(BLOCK))?);
            if grown.is_err() {
                self.function.memory.unpromise(more);
            }
            grown?;
        } else {
            self.release(bytes..now, |ranges| self.function.scrub(ranges).is_ok());
            // CAST: as in `blocks_of`.
            self.table
                .lock()
                .blocks
                .truncate(bytes.div_ceil(BLOCK) as usize);
        }
        self.bytes.store(bytes, Release);
        if (now == 0) != (bytes == 0) {
            // Poll says whether there is a size.
            self.function.ordinary.wake();
        }
        Ok(())
    }

    /// Makes room for `blocks` blocks. ENOMEM.
    fn grow(&self, blocks: usize) -> Result {
        let mut table = self.table.lock();
        let more = blocks.saturating_sub(table.blocks.len());
        table.blocks.reserve(more, GFP_KERNEL)?;
        for _ in 0..more {
            table.blocks.push(None, GFP_KERNEL)?;
        }
        Ok(())
    }

    /// Takes the blocks of `bytes`, whole pages, out of the table, one at a time, and calls `change` with each, the pages of it
    /// and the generation that it is of. Called with the gate held alone: nobody else changes the table meanwhile, but some look at it.
    fn for_blocks(
        &self,
        bytes: Range<u64>,
        mut change: impl FnMut(&mut Block, Region, u32) -> Result,
    ) -> Result {
        for (index, region) in blocks_of(bytes) {
            let taken = self
                .table
                .lock()
                .blocks
                .get_mut(index)
                .and_then(Option::take);
            let Some(mut block) = taken else {
                continue;
            };
            let generation = self.function.memory.generation();
            block.settle(generation);
            let changed = change(&mut block, region, generation);
            let mut table = self.table.lock();
            // Who counted meanwhile did without this block.
            table.lost = None;
            if !block.is_empty() {
                if let Some(place) = table.blocks.get_mut(index) {
                    *place = Some(block);
                }
            }
            drop(table);
            changed?;
        }
        Ok(())
    }

    /// Gives the frames of `bytes`, whole pages, back to the function, and the promises of those that have none. `scrub` says whether it could zero
    /// ranges of device memory.
    fn release(
        &self,
        bytes: Range<u64>,
        mut scrub: impl FnMut(&mut dyn Iterator<Item = (u64, u64)>) -> bool,
    ) {
        let memory = &self.function.memory;
        // CAST: a function has fewer frames than a `u32` can count.
        let mut promised = ((bytes.end - bytes.start) / PAGE) as u32;
        // No block fails.
        let _ = self.for_blocks(bytes, |block, region, generation| {
            let clean = scrub(&mut block.used_frames(region).map(|(_, run)| bytes_of(run)));
            for (_, run) in block.all_frames(region) {
                memory.give(run, clean, generation);
            }
            let (contents, frames) = block.unframe(region);
            memory.count_pages(generation, 0, contents);
            // CAST: at most 512.
            promised = promised.saturating_sub(frames as u32);
            Ok(())
        });
        memory.unpromise(promised);
    }

    /// Forgets the contents of `bytes`. See `VFETCH_IOC_DISCARD`.
    pub(crate) fn discard(&self, bytes: Range<u64>) -> Result {
        if bytes.start % PAGE != 0 || bytes.end % PAGE != 0 {
            return Err(EINVAL);
        }
        let _device = self.function.enter()?;
        let _alone = self.gate.exclude()?;
        if bytes.end > self.bytes() {
            return Err(ERANGE);
        }
        self.for_blocks(bytes, |block, region, generation| {
            let ranges = block.used_frames(region).map(|(_, run)| bytes_of(run));
            self.function.scrub(ranges)?;
            let contents = block.discard(region);
            self.function.memory.count_pages(generation, 0, contents);
            Ok(())
        })
    }

    /// The file was closed: gives everything back, scrubbed.
    pub(crate) fn close(&self) {
        let device = self.function.enter();
        self.release(0..self.bytes(), |ranges| {
            device.is_ok() && self.function.scrub(ranges).is_ok()
        });
        self.bytes.store(0, Release);
        drop(device);
        self.function.spaces.fetch_sub(1, Relaxed);
    }
}
