// SPDX-License-Identifier: GPL-2.0

//! `read()` and `write()` of a space: data is copied from or to where it is, and stays there.

use core::ops::Range;

use kernel::device::{Bound, Device};
use kernel::iov::{IovIterDest, IovIterSource};
use kernel::prelude::*;
use kernel::sync::Arc;

use super::block::{Block, Hold};
use super::space::{index_of, region_of, Space, PAGE};
use super::transfer::{Direction, Pipeline};
use crate::engine::frames::FrameRun;
use crate::engine::mask::{PageIndex, Region, PAGES};
use crate::engine::owner::Page;
use crate::engine::prefetch::Location;
use crate::sys::host_memory::{zero, HostMemory, Limits};
use crate::sys::host_page::{HostPage, Need};
use crate::sys::leaf::Place;
use crate::sys::node::{Moved, Request};
use crate::sys::pci::BoundGuard;
use crate::sys::wait::{killed, Signals, Waited};

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
    ) -> Result<HostMemory<'data, &'dev Device<Bound>>> {
        match self {
            Caller::To(iter) => HostMemory::from_dest(device.as_ref(), iter, limits),
            Caller::From(iter) => HostMemory::from_source(device.as_ref(), iter, limits),
        }
    }

    /// Copies bytes between the buffer and `page`. Returns how many.
    fn copy(&mut self, page: &HostPage, offset: usize, bytes: usize) -> usize {
        match self {
            Caller::To(iter) => page.copy_to(offset, bytes, iter),
            Caller::From(iter) => page.copy_from(offset, bytes, iter),
        }
    }
}

/// Where the next bytes of a space are.
enum Piece {
    /// Nowhere yet: so many bytes read as zeros.
    Zeros(usize),
    /// In device memory, and stay there while they are held.
    Device {
        addr: u64,
        bytes: usize,
        generation: u32,
        hold: Hold,
    },
    /// In a page of host memory, likewise.
    Host {
        page: HostPage,
        bytes: usize,
        _hold: Hold,
    },
    /// Nowhere, and they are to be written.
    Fresh { pages: Region },
    /// They were lost, and all of this page is overwritten.
    Lost,
    /// They are on their way.
    Busy { version: u32 },
}

impl Space {
    /// Moves data between the space and the caller's buffer, and says how much.
    ///
    /// 0 when reading at or beyond the end. The errors are those that the uapi header lists for `read` and
    /// `write`.
    pub(crate) fn transfer(
        self: &Arc<Self>,
        request: Request,
        mut caller: Caller<'_, '_>,
    ) -> Result<Moved> {
        let direction = caller.direction();
        let device = self.function.enter()?;
        let nothing = Moved {
            bytes: 0,
            error: None,
        };
        if caller.len() == 0 {
            return Ok(nothing);
        }
        let size = self.bytes();
        if request.offset >= size {
            return match direction {
                Direction::ToHost => Ok(nothing),
                Direction::ToDevice => Err(ENOSPC),
            };
        }
        let whole = request.offset..size.min(request.offset.saturating_add(caller.len() as u64));
        let mut pipeline = Pipeline::new(&self.function, direction);
        let result = self.fly(
            &device,
            &whole,
            &mut caller,
            &mut pipeline,
            request.nonblocking,
        );
        pipeline.finish();
        let moved = pipeline.moved();
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
        self: &'f Arc<Self>,
        device: &'f BoundGuard<'_>,
        whole: &Range<u64>,
        caller: &mut Caller<'_, 'data>,
        pipeline: &mut Pipeline<'f, 'data>,
        nonblocking: bool,
    ) -> Result {
        let most = u64::from(self.function.transfer_bytes());
        let most_pages = self.function.transfer_pages();
        let mut at = whole.start;
        while at < whole.end && pipeline.error().is_none() {
            // What is in flight must end, but nothing more need begin.
            if killed() {
                return Err(EINTR);
            }
            let (index, page) = index_of(at / PAGE);
            let next = at..whole.end.min(at.saturating_add(most));
            let block = match (self.block(index), caller.direction()) {
                (None, Direction::ToDevice) => Some(self.block_or_new(index)?),
                (block, _) => block,
            };
            let piece = match &block {
                None => {
                    let end = next.end.min((index + 1) * PAGES as u64 * PAGE);
                    // CAST: at most a block.
                    Piece::Zeros((end - at) as usize)
                }
                Some(block) => self.locate(block, page, &next, caller.direction(), whole)?,
            };
            let done = match piece {
                Piece::Zeros(bytes) => {
                    let Caller::To(iter) = caller else {
                        return Err(EIO);
                    };
                    let zeroed = zero(iter, bytes);
                    self.function.stats.zero_bytes.add(zeroed as u64);
                    pipeline.skip(zeroed);
                    (zeroed, bytes)
                }
                Piece::Device {
                    addr,
                    bytes,
                    generation,
                    hold,
                } => {
                    let limits = Limits {
                        bytes,
                        pages: most_pages.min(bytes.div_ceil(PAGE as usize) + 1),
                    };
                    let memory = caller.take(device, limits)?;
                    let bytes = memory.bytes();
                    pipeline.start(memory, addr, generation, hold, nonblocking)?;
                    if let Some(block) = &block {
                        self.used(block, Location::Device);
                    }
                    (bytes, bytes)
                }
                Piece::Host { page, bytes, _hold } => {
                    // CAST: less than a page.
                    let copied = caller.copy(&page, (at % PAGE) as usize, bytes);
                    pipeline.skip(copied);
                    if let Some(block) = &block {
                        self.used(block, Location::Host);
                    }
                    (copied, bytes)
                }
                Piece::Fresh { pages } => {
                    // Who makes room may wait for those who use pages: for us too.
                    pipeline.finish();
                    if at >= self.bytes() {
                        // It has become smaller meanwhile: nothing gets contents here any more.
                        return Err(ENOSPC);
                    }
                    if let Some(block) = &block {
                        self.make_room(block, pages)?;
                    }
                    (0, 0)
                }
                Piece::Lost => {
                    // By itself: it is there once all of it is.
                    pipeline.finish();
                    let bytes = match &block {
                        Some(block) if pipeline.error().is_none() => {
                            self.overwrite(device, block, page, caller, pipeline, nonblocking)?
                        }
                        _ => 0,
                    };
                    (bytes, bytes)
                }
                Piece::Busy { version } => {
                    if nonblocking {
                        return Err(EAGAIN);
                    }
                    // Nobody waits for a page while using others that are waited for.
                    pipeline.finish();
                    if let Some(block) = &block {
                        let moving = block.lock().move_of(page).cloned();
                        let over = moving.is_some_and(|moving| moving.finish_page(page));
                        if !over && block.wait(version, Signals::Any) == Waited::Signal {
                            return Err(ERESTARTSYS);
                        }
                    }
                    (0, 0)
                }
            };
            at += done.0 as u64;
            if done.0 < done.1 {
                return Err(EFAULT);
            }
        }
        Ok(())
    }

    /// Overwrites a lost page as a whole, or leaves it lost. Returns the bytes of it.
    fn overwrite<'f, 'data>(
        self: &'f Arc<Self>,
        device: &'f BoundGuard<'_>,
        block: &Arc<Block>,
        page: PageIndex,
        caller: &mut Caller<'_, 'data>,
        pipeline: &mut Pipeline<'f, 'data>,
        nonblocking: bool,
    ) -> Result<usize> {
        let bytes = PAGE as usize;
        let run = match self.take_zeroed(1, Some(block), u64::MAX) {
            Ok(run) => run,
            Err(ENOSPC | EAGAIN) => {
                let filled = self.page(HostPage::to_be_filled, Need::Want, Some(block))?;
                if caller.copy(&filled, 0, bytes) < bytes {
                    return Err(EFAULT);
                }
                // Where it is not lost any more another call has overwritten or discarded it since we began: after us, as it were.
                if block.lock().overwrite(page, Place::Host(filled), block) {
                    self.lost_ended(1);
                    self.used(block, Location::Host);
                }
                pipeline.skip(bytes);
                return Ok(bytes);
            }
            Err(error) => return Err(error),
        };
        let generation = self.function.memory.generation();
        let written = (|| {
            let memory = caller.take(device, Limits { bytes, pages: 2 })?;
            if memory.bytes() < bytes {
                return Err(EFAULT);
            }
            let hold = Block::hold(block, &block.lock());
            let addr = u64::from(run.first) * PAGE;
            pipeline.start(memory, addr, generation, hold, nonblocking)?;
            pipeline.finish();
            match pipeline.error() {
                Some(error) => Err(error),
                None => Ok(()),
            }
        })();
        let written = written.and_then(|()| {
            let mut locked = block.lock();
            if locked.generation() == generation {
                Ok(locked.overwrite(page, Place::Frame(run.first), block))
            } else {
                // It is lost again.
                Err(EIO)
            }
        });
        if written != Ok(true) {
            self.give(run, false, generation);
            // As above.
            return written.map(|_| bytes);
        }
        self.lost_ended(1);
        self.used(block, Location::Device);
        Ok(bytes)
    }

    /// Where the first of `bytes`, which begin in `page` of `block`, are. They are part of `whole`: EIO when they are lost, unless all of their
    /// page is overwritten, and may be anywhere.
    fn locate(
        &self,
        block: &Arc<Block>,
        page: PageIndex,
        bytes: &Range<u64>,
        direction: Direction,
        whole: &Range<u64>,
    ) -> Result<Piece> {
        let locked = block.lock();
        if locked.is_dead() {
            // It has no contents, and is not in the space any more: another look finds none, or another.
            return Ok(Piece::Busy {
                version: block.version().wrapping_sub(1),
            });
        }
        let pages = bytes.start / PAGE..bytes.end.div_ceil(PAGE);
        let region = region_of(&pages, block.index);
        let (run, state) = locked.leading_run(region);
        let end = bytes
            .end
            .min((block.first_page() + run.outer() as u64) * PAGE);
        // CAST: at most a block.
        let length = (end - bytes.start) as usize;
        Ok(match (state, direction) {
            (None, _) => Piece::Busy {
                version: block.version(),
            },
            (Some(Page::None), Direction::ToHost) => Piece::Zeros(length),
            (Some(Page::None), Direction::ToDevice) => Piece::Fresh { pages: run },
            (Some(Page::Host { .. }), _) => {
                let memory = locked.host_page(page).ok_or(EIO)?;
                let memory = HostPage::clone(&memory);
                // CAST: at most a page.
                let left = (PAGE - bytes.start % PAGE) as usize;
                Piece::Host {
                    page: memory,
                    bytes: length.min(left),
                    _hold: Block::hold(block, &locked),
                }
            }
            (Some(Page::Device { .. }), _) => {
                let frame = locked.leaf.frame(page.get()).ok_or(EIO)?;
                Piece::Device {
                    addr: u64::from(frame) * PAGE + bytes.start % PAGE,
                    bytes: length,
                    generation: locked.generation(),
                    hold: Block::hold(block, &locked),
                }
            }
            (Some(Page::Lost), Direction::ToDevice)
                if bytes.start % PAGE == 0
                    && whole.end - bytes.start >= PAGE
                    && !self.flat.is() =>
            {
                Piece::Lost
            }
            _ => return Err(EIO),
        })
    }

    /// Gives `pages` of `block`, which have no contents and are to be written, frames; or if there are none, the first of them a page of
    /// the host's.
    fn make_room(self: &Arc<Self>, block: &Arc<Block>, pages: Region) -> Result {
        // CAST: at most 512.
        if !self.has_room(1) {
            return Err(ENOSPC);
        }
        let said = self.advice.of_block(block.index);
        let on_host = PageIndex::new(pages.first())
            .is_some_and(|page| said.preferred(Location::Host).has(page));
        let frames = if on_host {
            Err(ENOSPC)
        } else {
            self.take_zeroed(pages.len() as u32, Some(block), u64::MAX)
        };
        let frames = match frames {
            Ok(run) => run,
            Err(ENOSPC | EAGAIN) => {
                let zeros = self.page(HostPage::zeroed, Need::Want, Some(block))?;
                let mut locked = block.lock();
                if let Some(page) = PageIndex::new(pages.first()) {
                    if self.may_zero(block, &locked, page) {
                        locked.zero(page, Place::Host(zeros), block);
                    }
                }
                drop(locked);
                self.used(block, Location::Host);
                self.trim_host();
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let mut locked = block.lock();
        let mut frame = frames.first;
        for page in pages.pages().take(frames.count as usize) {
            if self.may_zero(block, &locked, page) {
                locked.zero(page, Place::Frame(frame), block);
            } else {
                let run = FrameRun {
                    first: frame,
                    count: 1,
                };
                self.give(run, true, locked.generation());
            }
            frame = frame.saturating_add(1);
        }
        drop(locked);
        self.used(block, Location::Device);
        Ok(())
    }
}
