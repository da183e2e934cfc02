// SPDX-License-Identifier: GPL-2.0

//! What an open file manages: pages that host and device see at the same offsets, in blocks that are there once one of their pages has
//! had contents.

use core::ops::Range;

use kernel::device::Bound;
use kernel::pci;
use kernel::prelude::*;
use kernel::sync::atomic::{Acquire, Atomic, Full, Relaxed, Release};
use kernel::sync::{new_mutex, Arc, Mutex};
use kernel::workqueue::{impl_has_work, new_work, Work, WorkItem};

use super::address_space::Asid;
use super::advice::Advisor;
use super::block::{Block, Locked, Revocation};
use super::evict::Room;
use super::flat::Flat;
use super::function::Function;
use super::job::Jobs;
use super::lru::Lru;
use super::memory::SpacePromise;
use super::page_table::PageTable;
use super::queue::Events;
use crate::engine::frames::FrameRun;
use crate::engine::mask::{PageIndex, PageMask, Region, PAGES};
use crate::engine::prefetch::{Location, Outcome};
use crate::sys::abi as hw;
use crate::sys::mapping::Mapping;
use crate::sys::memcg::MemoryCgroup;
use crate::sys::pci::BoundGuard;
use crate::sys::table::Table;
use crate::sys::wait::{killed, Signals};

/// Lost pages are being counted.
const COUNTING: u64 = u64::MAX;

pub(crate) const PAGE: u64 = hw::VFETCH_PAGE_BYTES as u64;

const _: () = assert!(hw::VFETCH_BLOCK_BYTES as u64 == PAGE * PAGES as u64);
const _: () = assert!(PAGE == 1 << hw::VFETCH_PAGE_SHIFT);

/// A space.
#[pin_data]
pub(crate) struct Space {
    pub(crate) function: Arc<Function>,
    /// Names it among all spaces that there have been.
    pub(crate) id: u32,
    mapping: Arc<Mapping>,
    /// Whom its pages of host memory are charged to: whoever opened the file.
    pub(crate) memcg: MemoryCgroup,
    /// Its size, a multiple of the page. Changed only with `changing` held.
    bytes: Atomic<u64>,
    /// Who changes the size, or discards, does it alone.
    #[pin]
    changing: Mutex<Changing>,
    /// The file was closed.
    closed: Atomic<bool>,
    /// Something of it was mapped through the window since all of that was unmapped.
    pub(crate) windowed: Atomic<bool>,
    /// Whether there is a frame for each of its pages, and those frames.
    pub(crate) reserved: Atomic<bool>,
    pub(crate) promise: SpacePromise,
    /// Whether they are neighbours, and which they are.
    #[pin]
    pub(crate) flat: Flat,
    /// Sends blocks to the device when there are too many pages on the host.
    #[pin]
    trimming: Work<Space>,
    /// How many pages are where, and may be.
    pub(crate) room: Room,
    /// Its blocks with pages on the device, and on the host.
    #[pin]
    pub(crate) on_device: Lru<0>,
    #[pin]
    pub(crate) on_host: Lru<1>,
    #[pin]
    blocks: Table<Block>,
    /// What its device knows of it, once it has had a job.
    #[pin]
    attachment: Mutex<Option<Attachment>>,
    #[pin]
    pub(crate) jobs: Mutex<Jobs>,
    /// What the user has said of its pages.
    #[pin]
    pub(crate) advice: Advisor,
    pub(crate) events: Arc<Events>,
    /// Lost pages, and the generation that they were counted in, unless they have to be counted again.
    #[pin]
    lost: Mutex<Option<(u64, u32)>>,
}

impl_has_work! {
    impl HasWork<Self> for Space { self.trimming }
}

impl WorkItem for Space {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.trim_host();
    }
}

/// What a device knows of a space.
struct Attachment {
    asid: Asid,
    table: PageTable,
}

/// What there is for the pages of a space.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backing {
    /// Whatever there is room for when one gets contents.
    Any,
    /// A frame for each.
    Reserved,
    /// Neighbouring frames, which they have from the start.
    Flat,
}

/// What is known of the size by those who change it.
struct Changing {
    /// The file was closed.
    closed: bool,
    /// Pages beyond the end that may have contents yet, since whoever made the space smaller was killed: nobody sees them, and who changes
    /// the size next forgets them first.
    cut: Range<u64>,
}

/// The part of `pages` that lies in block `index`.
pub(crate) fn region_of(pages: &Range<u64>, index: u64) -> Region {
    let base = index * PAGES as u64;
    let within = |page: u64| page.saturating_sub(base).min(PAGES as u64);
    // CAST: at most 512.
    Region::clipped(within(pages.start) as usize, within(pages.end) as usize)
}

impl Space {
    /// A space of 0 bytes of `function`, whose pages are mapped in `mapping`.
    pub(crate) fn new(function: Arc<Function>, mapping: Arc<Mapping>) -> Result<Arc<Self>> {
        static IDS: Atomic<u32> = Atomic::new(0);
        let room = Room::new(
            crate::sys::memory::total_pages() / 2,
            function.description.mem_bytes / PAGE,
        );
        let promise = function.memory.no_promise();
        Arc::pin_init(
            try_pin_init!(Self {
                function,
                id: IDS.fetch_add(1u32, Relaxed),
                mapping,
                memcg: MemoryCgroup::of_caller(),
                bytes: Atomic::new(0),
                changing <- new_mutex!(Changing { closed: false, cut: 0..0 }, "vfetch: changing a space"),
                closed: Atomic::new(false),
                windowed: Atomic::new(false),
                reserved: Atomic::new(false),
                promise,
                flat <- Flat::new(),
                trimming <- new_work!("vfetch: trimming a space"),
                room,
                on_device <- Lru::new(),
                on_host <- Lru::new(),
                blocks <- Table::new(),
                attachment <- new_mutex!(None, "vfetch: attachment"),
                jobs <- new_mutex!(Jobs::default(), "vfetch: jobs"),
                advice <- Advisor::new(),
                events: Events::new()?,
                lost <- new_mutex!(Some((0, 0)), "vfetch: lost pages"),
            }),
            GFP_KERNEL,
        )
    }

    /// Whether the file was closed: nothing gets contents any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Acquire)
    }

    /// Its size.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Acquire)
    }

    /// Its size in pages.
    pub(crate) fn pages(&self) -> u64 {
        self.bytes() / PAGE
    }

    /// Block `index`, if it is there.
    pub(crate) fn block(&self, index: u64) -> Option<Arc<Block>> {
        self.blocks.get(usize::try_from(index).ok()?)
    }

    /// Block `index`, which is made if it is not there. ENOMEM.
    pub(crate) fn block_or_new(self: &Arc<Self>, index: u64) -> Result<Arc<Block>> {
        let at = usize::try_from(index)?;
        match self.blocks.get(at) {
            Some(block) => Ok(block),
            None => self.memcg.charged(|| {
                let block = self.blocks.get_or_insert(at, Block::new(self, index)?)?;
                if self.is_closed() {
                    // Whoever closed it may not have seen it.
                    drop(self.blocks.remove(at));
                    return Err(ENODEV);
                }
                self.attach_block(&block)?;
                Ok(block)
            }),
        }
    }

    // ---- What the device knows ------------------------------------------------------------------

    /// Lets the device know the space. Returns its address space. ENOSPC, ENOMEM, ENODEV.
    pub(crate) fn attach(self: &Arc<Self>, device: &BoundGuard<'_>) -> Result<Asid> {
        {
            let mut attachment = self.attachment.lock();
            if let Some(attachment) = &*attachment {
                return Ok(attachment.asid);
            }
            let table = PageTable::new(device.as_ref())?;
            let spaces = &self.function.spaces;
            let asid = spaces.add(self, self.entry(&table))?;
            // A reset that came in between has not found it there.
            spaces.changed(asid, self.entry(&table));
            *attachment = Some(Attachment { asid, table });
        }
        // Blocks that come later attach themselves, and those that a job asks for before this has come to them are attached then.
        let mut next = 0;
        while let Some(block) = self.next_block(next) {
            next = block.index + 1;
            self.attach_block(&block)?;
        }
        let attachment = self.attachment.lock();
        attachment.as_ref().map(|one| one.asid).ok_or(ENODEV)
    }

    /// Lets the device know a block, if it knows the space. ENOMEM, ENODEV.
    fn attach_block(&self, block: &Block) -> Result {
        self.attach_locked(&mut block.lock(), block)
    }

    /// The same of a block that is locked.
    ///
    /// Whoever lets the device reach a page sees to it: who made the block may be about to, or may have had no memory for it.
    pub(crate) fn attach_locked(&self, locked: &mut Locked<'_>, block: &Block) -> Result {
        if locked.is_dead() || locked.leaf.is_attached() {
            return Ok(());
        }
        let mut attachment = self.attachment.lock();
        if let Some(attachment) = &mut *attachment {
            let device = self.function.bound.enter().ok_or(ENODEV)?;
            let at = locked.leaf.attach(&&device)?;
            let set = attachment.table.set(device.as_ref(), block.index, at);
            if set.is_err() {
                // It is to be tried again.
                locked.leaf.detach(&&device);
            }
            set?;
        }
        Ok(())
    }

    /// Brings all blocks up to the present generation of the function's memory: no entry of the page table shall lead to what a reset
    /// has scrubbed, nor a flat space to what others have by now.
    pub(crate) fn settle(&self) {
        self.tell_device();
        let mut next = 0;
        while let Some(block) = self.next_block(next) {
            next = block.index + 1;
            drop(block.lock());
        }
    }

    /// The device shall not know the space any more, and does not use it. To be called before it is unbound.
    pub(crate) fn detach(&self, device: &pci::Device<Bound>) {
        let attachment = self.attachment.lock().take();
        let Some(attachment) = attachment else {
            return;
        };
        self.function.spaces.retire(attachment.asid);
        // Numbers are used again only after this. Where the device does not do it it is gone, or is reset before it does anything else.
        self.function.invalidate(attachment.asid, 0, 0);
        let mut next = 0;
        while let Some(block) = self.next_block(next) {
            next = block.index + 1;
            block.lock().leaf.detach(&device.as_ref());
        }
        self.function.spaces.release(attachment.asid);
    }

    /// The first block from `index` on that is there.
    pub(crate) fn next_block(&self, index: u64) -> Option<Arc<Block>> {
        let (_, block) = self.blocks.next(usize::try_from(index).ok()?, usize::MAX)?;
        Some(block)
    }

    /// Its pages that are lost. They are counted once for each reset of the device; after that those that end are.
    pub(crate) fn lost_pages(&self) -> u64 {
        let generation = self.function.memory.generation();
        let mut counted = self.lost.lock();
        match *counted {
            Some((lost, then)) if then == generation && lost != COUNTING => return lost,
            _ => *counted = Some((COUNTING, generation)),
        }
        drop(counted);
        let mut lost = 0;
        let mut next = 0;
        while let Some(block) = self.next_block(next) {
            lost += block.lock().lost().count() as u64;
            next = block.index + 1;
        }
        let mut counted = self.lost.lock();
        // Unless some have ended, or another reset has come, meanwhile.
        if *counted == Some((COUNTING, generation)) {
            *counted = Some((lost, generation));
        }
        lost
    }

    /// `pages` were lost, and are not any more, other than by a reset.
    pub(crate) fn lost_ended(&self, pages: usize) {
        if pages > 0 {
            let mut counted = self.lost.lock();
            *counted = counted
                .filter(|(lost, _)| *lost != COUNTING)
                .map(|(lost, then)| (lost.saturating_sub(pages as u64), then));
        }
    }

    // ---- Frames ---------------------------------------------------------------------------------

    /// Gives frames back.
    pub(crate) fn give(&self, run: FrameRun, clean: bool, generation: u32) {
        let memory = &self.function.memory;
        memory.give(run, clean, generation, &self.promise);
        self.leave_room(run.count.into());
    }

    // ---- Taking rights away -----------------------------------------------------------------------

    /// Takes away the rights to pages of `block`: when this returns neither host nor device, nor a transfer of anybody's, uses them.
    pub(crate) fn revoke(&self, block: &Block, revocation: &Revocation) {
        if revocation.unmap {
            self.unmap(block, &revocation.pages);
            self.learn_used(block, revocation);
        }
        let invalidate = &revocation.invalidate;
        if let (Some(first), Some(last)) = (invalidate.first(), invalidate.last_before(PAGES)) {
            let asid = self.attachment.lock().as_ref().map(|one| one.asid);
            if let Some(asid) = asid {
                let pages = (last.get() - first.get()) as u64 + 1;
                let first = block.first_page() + first.get() as u64;
                self.function.invalidate(asid, first, pages);
                self.learn_used_by_device(block, revocation);
            }
        }
        if let Some(processor) = revocation.watch {
            self.watch(block, processor, &revocation.pages);
        }
        if !revocation.quiet {
            block.drain();
        }
    }

    /// Tells the engine which of `pages`, which are not mapped any more, the host has used.
    fn learn_used(&self, block: &Block, revocation: &Revocation) {
        let mut locked = block.lock();
        let pages = revocation.pages.and(locked.host());
        let used = locked.take_used(&pages);
        self.feedback(&mut locked, Location::Host, Outcome::Used, &used);
        // All that go: of those that were used it is known by now.
        self.feedback(&mut locked, Location::Host, revocation.gone(), &pages);
    }

    /// Tells the engine which of `pages`, which the device has forgotten, it has used.
    fn learn_used_by_device(&self, block: &Block, revocation: &Revocation) {
        let mut locked = block.lock();
        let pages = revocation.pages.and(locked.device());
        let used = locked.take_marked(&pages);
        self.feedback(&mut locked, Location::Device, Outcome::Used, &used);
        // All that go: of those that were used it is known by now.
        self.feedback(&mut locked, Location::Device, revocation.gone(), &pages);
    }

    // ---- Changing it ----------------------------------------------------------------------------

    /// What there is for its pages.
    fn backing(&self) -> Backing {
        if self.flat.is() {
            Backing::Flat
        } else if self.reserved.load(Relaxed) {
            Backing::Reserved
        } else {
            Backing::Any
        }
    }

    /// Sets the size. See `VFETCH_IOC_SET_SIZE`.
    pub(crate) fn resize(self: &Arc<Self>, bytes: u64, backing: Backing) -> Result {
        if bytes % PAGE != 0 {
            return Err(EINVAL);
        }
        if bytes / PAGE > u64::from(hw::VFETCH_AS_MAX_PAGES) {
            return Err(EFBIG);
        }
        let device = self.function.enter()?;
        let mut changing = self.changing.lock();
        if changing.closed {
            return Err(EBADF);
        }
        self.forget_cut(&mut changing, &device)?;
        let now = self.bytes();
        let was = self.backing();
        // Promises are for a space as a whole, from the start.
        if now > 0 && bytes > 0 && backing != was {
            return Err(EINVAL);
        }
        if bytes >= now {
            let more = u32::try_from((bytes - now) / PAGE).map_err(|_| ENOSPC)?;
            match backing {
                Backing::Reserved if more > 0 => {
                    self.function.memory.promise(&self.promise, more)?;
                    self.reserved.store(true, Release);
                }
                // What comes later would not be beside it.
                Backing::Flat if now > 0 && more > 0 => return Err(EINVAL),
                Backing::Flat if more > 0 => self.lay_flat(more, &device)?,
                _ => {}
            }
            self.bytes.store(bytes, Release);
            self.tell_device();
        } else {
            if was == Backing::Flat && bytes > 0 {
                return Err(EINVAL);
            }
            self.bytes.store(bytes, Release);
            if was == Backing::Flat {
                self.leave_frames();
            } else {
                self.tell_device();
            }
            self.mapping.unmap(bytes / PAGE, (now - bytes) / PAGE);
            changing.cut = bytes / PAGE..now / PAGE;
        }
        let result = self.forget_cut(&mut changing, &device);
        drop(changing);
        if (now == 0) != (bytes == 0) {
            // Poll says whether there is a size.
            self.function.ordinary.wake();
        }
        result
    }

    /// Forgets what was cut off. EINTR: killed midway.
    fn forget_cut(&self, changing: &mut Changing, device: &BoundGuard<'_>) -> Result {
        let cut = changing.cut.clone();
        if cut.is_empty() {
            return Ok(());
        }
        self.forget(cut.clone(), true, Some(device), Signals::Fatal)?;
        self.advice.cut(cut.start);
        if self.backing() == Backing::Reserved {
            // CAST: it was a `u32` when it was promised.
            let fewer = (cut.end - cut.start) as u32;
            self.function.memory.unpromise(&self.promise, fewer);
            self.reserved.store(cut.start > 0, Release);
        }
        self.flat.end();
        changing.cut = 0..0;
        Ok(())
    }

    /// No process has `pages` of `block` mapped any more.
    pub(crate) fn unmap(&self, block: &Block, pages: &PageMask) {
        for run in pages.runs() {
            let first = block.first_page() + run.first() as u64;
            self.mapping.unmap(first, run.len() as u64);
        }
    }

    /// No process has anything mapped through the window any more, which is closed.
    pub(crate) fn unmap_windows(&self) {
        if self.windowed.xchg(false, Full) {
            // The rest is mapped again as it is touched.
            self.mapping.unmap(0, u64::from(hw::VFETCH_AS_MAX_PAGES));
        }
    }

    /// What the device remembers of `pages` of `block` ends.
    pub(crate) fn invalidate(&self, block: &Block, pages: &PageMask) {
        if let (Some(first), Some(last)) = (pages.first(), pages.last_before(PAGES)) {
            let asid = self.attachment.lock().as_ref().map(|one| one.asid);
            if let Some(asid) = asid {
                let count = (last.get() - first.get()) as u64 + 1;
                let first = block.first_page() + first.get() as u64;
                self.function.invalidate(asid, first, count);
            }
        }
    }

    /// What the device is to know of it, if `table` is of its pages.
    fn entry(&self, table: &PageTable) -> hw::vfetch_as {
        let paged = hw::vfetch_as {
            root: table.root(),
            pages: self.pages(),
            flags: hw::VFETCH_AS_VALID,
            ..Default::default()
        };
        self.flat.entry(paged, self.function.memory.generation())
    }

    /// Tells the device what has changed. Returns the address space, if it knows the space.
    pub(crate) fn tell_device(&self) -> Option<Asid> {
        let attachment = self.attachment.lock();
        let attachment = attachment.as_ref()?;
        let entry = self.entry(&attachment.table);
        self.function.spaces.changed(attachment.asid, entry);
        Some(attachment.asid)
    }

    /// Forgets the contents of `pages`. `scrub`: their frames are zeroed at once, as far as the device does it; others are dirty.
    ///
    /// `device` is what the caller keeps bound: it cannot be entered again once unbinding waits for the caller. Without it the device must have been
    /// [detached](Self::detach). Where `signals` may end it (EINTR) some of them are as they were.
    pub(crate) fn forget(
        &self,
        pages: Range<u64>,
        scrub: bool,
        device: Option<&BoundGuard<'_>>,
        signals: Signals,
    ) -> Result {
        let mut next = pages.start / PAGES as u64;
        while let Some(block) = self
            .next_block(next)
            .filter(|block| block.first_page() < pages.end)
        {
            next = block.index + 1;
            let region = region_of(&pages, block.index);
            self.forget_in(&block, region, scrub, device, signals)?;
        }
        Ok(())
    }

    fn forget_in(
        &self,
        block: &Arc<Block>,
        region: Region,
        scrub: bool,
        device: Option<&BoundGuard<'_>>,
        signals: Signals,
    ) -> Result {
        let (revocation, lost, generation) = loop {
            if matches!(signals, Signals::Fatal) && killed() {
                return Err(EINTR);
            }
            let mut locked = block.lock();
            let wanted = PageMask::from(region);
            let Some(page) = locked.busy().and(&wanted).first() else {
                let lost = locked.lost().count();
                let revocation = locked.forget(region, block);
                let ended = lost.saturating_sub(locked.lost().count());
                break (revocation, ended, locked.generation());
            };
            let moving = locked.move_of(page).cloned();
            let version = block.version();
            drop(locked);
            match moving {
                // Killed: it is looked at above.
                Some(moving) if matches!(signals, Signals::Fatal) => {
                    moving.await_page(page, version, || None);
                }
                Some(moving) if moving.finish_page(page) => {}
                _ => {
                    block.wait(version, signals);
                }
            }
        };
        self.lost_ended(lost);
        self.revoke(block, &revocation);
        let mut result = Ok(());
        if scrub {
            let mut left = revocation.pages.and(block.lock().device());
            while let (Some(page), Ok(())) = (left.first(), result) {
                let (run, frame) = block.lock().frame_run(&left, page);
                if let Some(first) = frame {
                    // CAST: at most 512.
                    let run = FrameRun {
                        first,
                        count: run.len() as u32,
                    };
                    result = self.function.scrub(core::iter::once(bytes_of(run)));
                }
                left.remove(run);
            }
        }
        let mut locked = block.lock();
        let scrubbed = scrub && result.is_ok();
        locked.forgotten(&revocation.pages, block, scrubbed, generation);
        let empty = locked.is_empty() && !locked.is_dead();
        if empty {
            locked.kill(block);
            // Whoever finds it dead finds another, or none, in its place. CAST: it was found there.
            let removed = self.blocks.remove(block.index as usize);
            let asid = self.forget_leaf(block.index);
            drop(locked);
            if let (Some(asid), Some(device)) = (asid, device) {
                self.detach_block(block, asid, device);
            }
            drop(removed);
        } else {
            drop(locked);
        }
        block.touch();
        Ok(())
    }

    /// The device shall not find the leaf of block `index` any more. Returns the address space, if it could.
    fn forget_leaf(&self, index: u64) -> Option<Asid> {
        let mut attachment = self.attachment.lock();
        let attachment = attachment.as_mut().get_mut().as_mut()?;
        attachment.table.clear(index);
        Some(attachment.asid)
    }

    /// A block is dead, and the device does not find its leaf.
    fn detach_block(&self, block: &Block, asid: Asid, device: &BoundGuard<'_>) {
        // It may be reading the leaf until this has ended.
        let pages = PAGES as u64;
        self.function.invalidate(asid, block.first_page(), pages);
        block.lock().leaf.detach(&device);
    }

    /// Forgets the contents of `bytes`. `scrub`: their memory is zeroed at once, and not when it is used again. See `VFETCH_IOC_DISCARD`.
    pub(crate) fn discard(&self, bytes: Range<u64>, scrub: bool) -> Result {
        if bytes.start % PAGE != 0 || bytes.end % PAGE != 0 {
            return Err(EINVAL);
        }
        let device = self.function.enter()?;
        let changing = self.changing.lock();
        if bytes.end > self.bytes() {
            return Err(ERANGE);
        }
        if self.flat.is() {
            // Nothing else could have its frames.
            return Err(EOPNOTSUPP);
        }
        let pages = bytes.start / PAGE..bytes.end / PAGE;
        let result = self.forget(pages, scrub, Some(&device), Signals::Fatal);
        drop(changing);
        result
    }

    /// The file was closed: gives everything back, scrubbed.
    pub(crate) fn close(&self) {
        self.function.trace.release(self.id);
        let device = self.function.bound.enter();
        if device.is_none() {
            // Whoever unbinds the function detaches the blocks that are in the space: they shall not leave it before.
            self.function.detached.wait_for_completion();
        }
        let mut changing = self.changing.lock();
        changing.closed = true;
        self.end_jobs();
        self.bytes.store(0, Release);
        self.closed.store(true, Release);
        // From here on no fault of a job finds the space.
        if let Some(device) = &device {
            self.detach(device);
        }
        // All there are, wherever they come from.
        let all = 0..u64::from(hw::VFETCH_AS_MAX_PAGES);
        // Nothing ends it.
        let _ = self.forget(all, device.is_some(), device.as_ref(), Signals::None);
        self.on_device.clear();
        self.on_host.clear();
        // What others have in hand yet is nobody's when they give it back.
        self.function.memory.unpromise(&self.promise, u32::MAX);
        drop(changing);
        drop(device);
        self.function.closed(self.id);
    }
}

/// Bytes of device memory that frames are: the first, and how many.
pub(crate) fn bytes_of(run: FrameRun) -> (u64, u64) {
    (u64::from(run.first) * PAGE, u64::from(run.count) * PAGE)
}

/// The page of its block that a page of the space is.
pub(crate) fn index_of(page: u64) -> (u64, PageIndex) {
    // CAST: below 512.
    let within = PageIndex::new((page % PAGES as u64) as usize).unwrap_or(PageIndex::FIRST);
    (page / PAGES as u64, within)
}
