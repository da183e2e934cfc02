// SPDX-License-Identifier: GPL-2.0

//! A block of a space: who owns each of its pages, where it is, and what is being done to it.
//!
//! What an event leads to is decided by the engine (`engine::owner`); pages in the same state take the step together
//! (`engine::states`). Here are the steps' actions on them. What sleeps ([`super::migrate`]) is done without the lock.

use kernel::list::{impl_list_arc_safe, impl_list_item, AtomicTracker, ListLinks, TryNewListArc};
use kernel::prelude::*;
use kernel::sync::atomic::{Acquire, Atomic, Full, Relaxed, Release};
use kernel::sync::{new_mutex, Arc, Mutex};
use kernel::time::Msecs;

use super::lru::{Age, Listed};
use super::migrate::{Begun, Move};
use super::space::Space;
use super::thrash::Thrashing;
use crate::engine::frames::FrameRun;
use crate::engine::mask::{PageIndex, PageMask, Region, PAGES};
use crate::engine::owner::{Action, Entry, Event, Page, Purpose, Step, TransactionId};
use crate::engine::prefetch::{BlockState, Location, Outcome};
use crate::engine::states::States;
use crate::sys::abi as hw;
use crate::sys::host_page::{BorrowedPage, HostPage, HostPages};
use crate::sys::leaf::{Leaf, Place};
use crate::sys::wait::{new_wait_queue, Signals, WaitQueue, Waited};

/// Moves of one block that may be under way together.
const MOVES: usize = 4;

/// A block. It is there from when one of its pages first gets contents.
#[pin_data]
pub(crate) struct Block {
    /// Whose it is. A space knows its blocks until it is closed: then the circle is broken.
    pub(crate) space: Arc<Space>,
    /// Its number in the space.
    pub(crate) index: u64,
    #[pin]
    pages: Mutex<Pages>,
    /// Transfers of `read()` and `write()` that use pages where they are, by the epoch in which they began.
    holds: [Atomic<u32>; 2],
    /// Changes, so that one that comes between a look and a wait is not missed.
    version: Atomic<u32>,
    #[pin]
    changed: WaitQueue,
    /// It was taken out of its space: nobody need remember its use.
    gone: Atomic<bool>,
    /// Its places among the blocks with pages on the device, and on the host.
    #[pin]
    device_links: ListLinks<0>,
    #[pin]
    device_tracker: AtomicTracker<0>,
    device_age: Age,
    #[pin]
    host_links: ListLinks<1>,
    #[pin]
    host_tracker: AtomicTracker<1>,
    host_age: Age,
}

// With its number of references it fits into the 1 KiB that the allocator has for it. (Locks that are checked are larger.)
#[cfg(not(CONFIG_LOCKDEP))]
const _: () = assert!(size_of::<Block>() <= 1024 - size_of::<u64>());

impl_list_arc_safe! {
    impl ListArcSafe<0> for Block {
        tracked_by device_tracker: AtomicTracker<0>;
    }
}

impl_list_item! {
    impl ListItem<0> for Block { using ListLinks { self.device_links }; }
}

impl Listed<0> for Block {
    fn age(&self) -> &Age {
        &self.device_age
    }
}

impl_list_arc_safe! {
    impl ListArcSafe<1> for Block {
        tracked_by host_tracker: AtomicTracker<1>;
    }
}

impl_list_item! {
    impl ListItem<1> for Block { using ListLinks { self.host_links }; }
}

impl Listed<1> for Block {
    fn age(&self) -> &Age {
        &self.host_age
    }
}

/// What the lock of a block protects.
pub(crate) struct Pages {
    /// The generation of the function's memory that this is true of.
    generation: u32,
    /// The states of the pages. Those that are busy are part of one of `moves`, or are being discarded.
    states: States,
    /// Pages that stayed on the host, to be reached there, when [`Upkeep`] last looked, and whether it will look again.
    ///
    /// [`Upkeep`]: super::upkeep::Upkeep
    pinned_long: PageMask,
    looked_after: bool,
    /// Pages that processes may have mapped.
    mapped: PageMask,
    /// Where the contents are.
    pub(crate) leaf: Leaf,
    moves: [Option<Arc<Move>>; MOVES],
    /// Which of the block's holds are the new ones.
    epoch: u32,
    /// Its pages are those of a flat space, and stay where they are.
    fixed: bool,
    /// It was taken out of its space.
    dead: bool,
    /// What the engine remembers.
    pub(crate) engine: BlockState,
    pub(crate) thrashing: Thrashing,
}

/// What is to be done, without the lock, after pages began to move or to be discarded.
#[derive(Clone, Copy)]
pub(crate) struct Revocation {
    /// The pages.
    pub(crate) pages: PageMask,
    /// They have to be unmapped from the host.
    pub(crate) unmap: bool,
    /// Those that the device may remember.
    pub(crate) invalidate: PageMask,
    /// Nobody used pages where they are when this began: there are no transfers to wait for.
    pub(crate) quiet: bool,
    /// It makes room: nobody has asked for the pages elsewhere.
    pub(crate) evicts: bool,
    /// The block is to be watched from now on, as they move to this side or are sent away from it.
    pub(crate) watch: Option<Location>,
}

impl Revocation {
    /// What becomes of pages that were brought where they are and not used.
    pub(crate) fn gone(&self) -> Outcome {
        if self.evicts {
            Outcome::Evicted
        } else {
            Outcome::Moved
        }
    }
}

/// Where pages are, in their order, once they have arrived.
pub(crate) enum Arrival<'a> {
    /// In frames that follow one another, from this one on.
    Frames(u32),
    /// In these pages of host memory. They were in frames that follow one another, from this one on.
    Pages(&'a mut HostPages, u32),
}

/// Keeps pages that were looked up where they are, until dropped: nothing is moved meanwhile.
pub(crate) struct Hold {
    block: Arc<Block>,
    epoch: u32,
}

impl Drop for Hold {
    fn drop(&mut self) {
        // CAST: 0 or 1.
        if let Some(holds) = self.block.holds.get((self.epoch & 1) as usize) {
            if holds.fetch_sub(1u32, Full) == 1 {
                self.block.touch();
            }
        }
    }
}

impl Block {
    /// A block without contents. ENOMEM.
    pub(crate) fn new(space: &Arc<Space>, index: u64) -> Result<Arc<Self>> {
        let generation = space.function.memory.generation();
        let leaf = Leaf::new()?;
        Arc::pin_init(
            try_pin_init!(Self {
                space: space.clone(),
                index,
                pages <- new_mutex!(
                    Pages {
                        generation,
                        states: States::NEW,
                        pinned_long: PageMask::EMPTY,
                        looked_after: false,
                        mapped: PageMask::EMPTY,
                        leaf,
                        moves: [const { None }; MOVES],
                        epoch: 0,
                        fixed: false,
                        dead: false,
                        engine: BlockState::NEW,
                        thrashing: Thrashing::NEW,
                    },
                    "vfetch: block"
                ),
                holds: [Atomic::new(0), Atomic::new(0)],
                version: Atomic::new(0),
                gone: Atomic::new(false),
                changed <- new_wait_queue!("vfetch: block"),
                device_links <- ListLinks::new(),
                device_tracker <- AtomicTracker::new(),
                device_age: Age::new(),
                host_links <- ListLinks::new(),
                host_tracker <- AtomicTracker::new(),
                host_age: Age::new(),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// The first of its pages in the space.
    pub(crate) fn first_page(&self) -> u64 {
        self.index * PAGES as u64
    }

    /// Its pages, as they are now.
    pub(crate) fn lock(&self) -> Locked<'_> {
        let mut pages = self.pages.lock();
        let generation = self.space.function.memory.generation();
        pages.settle(self, generation);
        pages
    }

    /// Whether it was taken out of its space.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Acquire)
    }

    /// The number of changes so far: see [`wait`](Self::wait). To be read with the lock held; and before anything is looked at that changes
    /// without it.
    pub(crate) fn version(&self) -> u32 {
        self.version.load(Acquire)
    }

    /// Waits until something has changed since `version`.
    pub(crate) fn wait(&self, version: u32, signals: Signals) -> Waited {
        self.wait_for(version, signals, None)
    }

    /// The same, for at most `limit`.
    pub(crate) fn wait_for(&self, version: u32, signals: Signals, limit: Option<Msecs>) -> Waited {
        self.changed
            .wait(signals, limit, || self.version.load(Acquire) != version)
    }

    /// Something has changed: those who wait look again.
    pub(crate) fn touch(&self) {
        self.version.fetch_add(1u32, Release);
        self.changed.wake_all();
    }

    /// Keeps what was just looked up where it is.
    pub(crate) fn hold(this: &Arc<Self>, pages: &Pages) -> Hold {
        // CAST: 0 or 1.
        if let Some(holds) = this.holds.get((pages.epoch & 1) as usize) {
            holds.fetch_add(1u32, Relaxed);
        }
        Hold {
            block: this.clone(),
            epoch: pages.epoch,
        }
    }

    /// How many transfers that began in an epoch use pages where they are.
    fn holds_of(&self, epoch: u32) -> u32 {
        // CAST: 0 or 1.
        let holds = self.holds.get((epoch & 1) as usize);
        holds.map_or(0, |holds| holds.load(Acquire))
    }

    /// Whether nobody uses pages where they are. With the lock held, so that nobody begins to.
    fn is_quiet(&self) -> bool {
        self.holds_of(0) == 0 && self.holds_of(1) == 0
    }

    /// Waits until nobody uses pages that were looked up before this call. Those that begin later do not matter: pages that are
    /// to move are busy by now.
    ///
    /// Who waits and finds nobody left of the epoch before lets the next one begin. After two beginnings all who were there have left.
    pub(crate) fn drain(&self) {
        let first = self.pages.lock().epoch;
        loop {
            let version = {
                let mut pages = self.pages.lock();
                // Before the holds are looked at: the last one may end between these, which changes the version without the lock.
                let version = self.version();
                if self.is_quiet() || pages.epoch.wrapping_sub(first) >= 2 {
                    return;
                }
                if self.holds_of(pages.epoch.wrapping_add(1)) == 0 {
                    pages.epoch = pages.epoch.wrapping_add(1);
                    drop(pages);
                    self.touch();
                    continue;
                }
                version
            };
            // It is the number of holds that matters; the version changes with the last of them.
            self.wait(version, Signals::None);
        }
    }
}

/// What takes a page to `to`, by transaction `id`; also if it is pinned, if it `must`.
const fn taking(to: Location, id: TransactionId, must: bool) -> Event {
    if must {
        Event::Evict { to, id }
    } else {
        Event::Bring { to, id }
    }
}

/// What `of_group` says of each group of `pages` that has any, by the group's number and with one bit for each page.
fn by_group(pages: &PageMask, mut of_group: impl FnMut(usize, u64) -> u64) -> PageMask {
    let mut all = *PageMask::EMPTY.words();
    for (group, pages) in pages.words().iter().enumerate() {
        if let (1.., Some(said)) = (*pages, all.get_mut(group)) {
            *said = of_group(group, *pages);
        }
    }
    PageMask::from_words(all)
}

/// The pages of a block, locked.
pub(crate) type Locked<'a> =
    kernel::sync::lock::Guard<'a, Pages, kernel::sync::lock::mutex::MutexBackend>;

impl Pages {
    /// Those of `pages` that are in a state.
    pub(crate) fn among(&self, pages: &PageMask, state: Page) -> PageMask {
        self.states.among(pages, state)
    }

    /// The state of a page; `None` if it is part of a move.
    pub(crate) fn state(&self, page: PageIndex) -> Option<Page> {
        self.states.of(page)
    }

    /// `pages` are in `state` from now on.
    fn enter(&mut self, pages: &PageMask, state: Page, block: &Block) {
        let before = self.states.enter(pages, state);
        let (mut host, mut device) = (0, 0);
        match state.owner() {
            Some(Location::Host) => host = pages.count(),
            Some(Location::Device) => device = pages.count(),
            None => {}
        }
        if (before.host, before.device) == (host, device) {
            return;
        }
        for room in [&block.space.room, &block.space.function.room] {
            room.count(Location::Host, before.host, host);
            room.count(Location::Device, before.device, device);
        }
    }

    /// Pages that the host owns, those on their way from it included.
    pub(crate) fn host(&self) -> &PageMask {
        self.states.host()
    }

    /// Pages that the device owns, those on their way from it included.
    pub(crate) fn device(&self) -> &PageMask {
        self.states.device()
    }

    /// Pages that are on their way.
    pub(crate) fn busy(&self) -> &PageMask {
        self.states.busy()
    }

    /// Pages that are lost.
    pub(crate) fn lost(&self) -> &PageMask {
        self.states.lost()
    }

    /// Pages that processes may have mapped.
    pub(crate) fn mapped(&self) -> &PageMask {
        &self.mapped
    }

    /// Processes have `pages` not mapped any more.
    pub(crate) fn unmapped(&mut self, pages: &PageMask) {
        self.mapped = self.mapped.minus(pages);
    }

    /// Those of `pages`, which no process has mapped, that were used through mappings since this was last asked.
    pub(crate) fn take_used(&self, pages: &PageMask) -> PageMask {
        self.host_pages_that(pages, HostPage::take_used)
    }

    /// Those of `pages` that are in host memory, and are as `is` asks.
    pub(crate) fn host_pages_that(
        &self,
        pages: &PageMask,
        is: impl Fn(&HostPage) -> bool,
    ) -> PageMask {
        by_group(pages, |group, pages| {
            self.leaf.filter_host(group, pages, &is)
        })
    }

    /// Those of `pages` that are marked as used by the device. The marks stay.
    pub(crate) fn marked(&self, pages: &PageMask) -> PageMask {
        by_group(pages, |group, pages| self.leaf.accessed(group, pages))
    }

    /// Those of `pages` that the device has used since this was last asked. It says so again only of those that are invalidated after this.
    pub(crate) fn take_marked(&mut self, pages: &PageMask) -> PageMask {
        by_group(pages, |group, pages| self.leaf.take_accessed(group, pages))
    }

    /// Whether no page has contents, or is about to.
    pub(crate) fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// Brings it up to `generation` of the function's memory: what was in frames before is lost.
    fn settle(&mut self, block: &Block, generation: u32) {
        if self.generation == generation {
            return;
        }
        let mut left = PageMask::ALL;
        while let Some((state, pages)) = self.states.next_group(&mut left) {
            self.take_step(&pages, &state.on(Event::Reset), block);
        }
        // The device's page table starts anew: what it reached remotely it asks for again.
        self.forbid(&PageMask::ALL);
        // Those on their way find out when they arrive.
        self.generation = generation;
        block.touch();
    }

    /// The generation that all of this is true of.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// Pages take a step that needs nothing but the lock. Returns what else is to be done.
    fn take_step(&mut self, pages: &PageMask, step: &Step, block: &Block) -> Revocation {
        let mut revocation = Revocation {
            pages: *pages,
            unmap: false,
            invalidate: PageMask::EMPTY,
            quiet: block.is_quiet(),
            evicts: false,
            watch: None,
        };
        // The reset has scrubbed their frames.
        let scrubbed = match step.page {
            Page::Lost => self.device().and(pages),
            _ => PageMask::EMPTY,
        };
        self.enter(pages, step.page, block);
        for action in step.actions.iter() {
            match action {
                Action::UnmapHost => revocation.unmap = true,
                Action::SetEntry(Entry::Absent) => {
                    let reached = self.forbid(pages);
                    revocation.invalidate = revocation.invalidate.or(&reached);
                }
                Action::SetEntry(entry) => self.allow(pages, entry != Entry::ReadOnly),
                // What it reached remotely, and may remember from before that ended ([`unpin`](Self::unpin)).
                Action::Invalidate(_) => {
                    if self.leaf.has_remote() {
                        let remembered =
                            by_group(pages, |group, pages| self.leaf.remembered(group, pages));
                        revocation.invalidate = revocation.invalidate.or(&remembered);
                    }
                    // The same of processes and the window.
                    revocation.unmap |= self.mapped.intersects(pages);
                }
                Action::Free(_) => self.free(pages, false, self.generation, block),
                Action::Wake => block.touch(),
                // Rights that the host has by the state, and steps of those who began the move.
                _ => {}
            }
        }
        self.free(&scrubbed, true, self.generation, block);
        revocation
    }

    /// Gives back the memory of `pages`, whose frames hold zeros or not: they are nowhere. `generation` is the one in which they were
    /// last known to have contents there.
    fn free(&mut self, pages: &PageMask, clean: bool, generation: u32, block: &Block) {
        let memory = &block.space.function.memory;
        let mut left = *pages;
        while let Some(first) = left.first() {
            let (region, frame) = self.frame_run(&left, first);
            self.leaf.clear(region.first()..region.outer());
            if let Some(first) = frame {
                // CAST: at most 512.
                let run = FrameRun {
                    first,
                    count: region.len() as u32,
                };
                memory.count_pages(generation, 0, region.len());
                block.space.give(run, clean, generation);
            }
            left.remove(region);
        }
    }

    /// The run of `pages` from `first` on that are in neighbouring frames, and the first frame; or of those that are in none.
    pub(crate) fn frame_run(&self, pages: &PageMask, first: PageIndex) -> (Region, Option<u32>) {
        let (run, _) = pages.leading_run(Region::clipped(first.get(), PAGES));
        let (count, frame) = self.leaf.frame_run(run.first()..run.outer());
        (Region::clipped(run.first(), run.first() + count), frame)
    }

    /// The first of `pages`, at most `most`, that are in frames that follow one another, and the first frame; or that are in none.
    pub(crate) fn leading_frames(&self, pages: &PageMask, most: usize) -> (PageMask, Option<u32>) {
        let frame_of = |page: PageIndex| self.leaf.frame(page.get());
        let frame = pages.first().and_then(frame_of);
        let follow = (0u32..)
            .zip(pages.iter().take(most))
            .take_while(|(at, page)| {
                frame_of(*page) == frame.map(|frame| frame.saturating_add(*at))
            });
        (follow.map(|(_, page)| page).collect(), frame)
    }

    /// The device may reach those of `pages` that are in frames, from now on.
    fn allow(&mut self, pages: &PageMask, may_write: bool) {
        by_group(pages, |group, pages| {
            self.leaf.allow(group, pages, may_write);
            pages
        });
    }

    /// The device may not reach `pages` any more. Returns those that it could reach.
    fn forbid(&mut self, pages: &PageMask) -> PageMask {
        by_group(pages, |group, pages| self.leaf.forbid(group, pages))
    }

    // ---- Faults, reads and writes ----------------------------------------------------------------

    /// The host's page that `page` is in.
    pub(crate) fn host_page(&self, page: PageIndex) -> Option<BorrowedPage<'_>> {
        self.leaf.host(page.get())
    }

    /// `page`, which had none, gets contents: zeros, in `place`, which holds nothing else.
    pub(crate) fn zero(&mut self, page: PageIndex, place: Place, block: &Block) {
        let by = match place {
            Place::Host(_) => Location::Host,
            Place::Frame(_) => Location::Device,
            Place::Nowhere => return,
        };
        let step = Page::None.on(Event::Access {
            by,
            write: true,
            id: TransactionId(0),
        });
        self.leaf.put(page.get(), place);
        if by == Location::Device {
            block
                .space
                .function
                .memory
                .count_pages(self.generation, 1, 0);
        }
        self.take_step(&page.region().into(), &step, block);
    }

    /// The pages in `region`, which have no contents, get zeros, in frames from `first` on, and stay there. `false` if some have: then nothing
    /// has changed.
    #[must_use]
    pub(crate) fn zero_all(&mut self, region: Region, first: u32, block: &Block) -> bool {
        let pages = PageMask::from(region);
        if self.dead || self.among(&pages, Page::None) != pages {
            return false;
        }
        (self.leaf).put_frames(region.first()..region.outer(), first);
        let memory = &block.space.function.memory;
        memory.count_pages(self.generation, region.len(), 0);
        let step = Page::None.on(Event::Access {
            by: Location::Device,
            write: true,
            id: TransactionId(0),
        });
        self.take_step(&pages, &step, block);
        self.fixed = true;
        true
    }

    /// Whether its pages stay where they are, for good.
    pub(crate) fn is_fixed(&self) -> bool {
        self.fixed
    }

    /// Processes may have `pages` mapped from now on.
    pub(crate) fn map(&mut self, pages: &PageMask) {
        self.mapped = self.mapped.or(pages);
    }

    /// The device has asked for `pages`, which are all in `state` and within its reach: it gets its rights to them. ENOMEM, EIO.
    pub(crate) fn grant(&mut self, pages: &PageMask, state: Page) -> Result {
        let id = TransactionId(0);
        let step = state.on(Event::Access {
            by: Location::Device,
            write: true,
            id,
        });
        for action in step.actions.iter() {
            if let Action::SetEntry(entry) = action {
                if entry != Entry::Remote {
                    self.allow(pages, entry != Entry::ReadOnly);
                    continue;
                }
                for page in pages.iter() {
                    self.leaf.allow_remote(page.get())?;
                }
            }
        }
        Ok(())
    }

    /// A page that the host owns stays there for a while, and the device reaches it. ENOMEM, EIO.
    pub(crate) fn pin_to_host(&mut self, page: PageIndex, block: &Arc<Block>) -> Result {
        self.leaf.allow_remote(page.get())?;
        self.enter(&page.region().into(), Page::Host { remote: true }, block);
        if !self.looked_after {
            // Where there is no memory for that it stays until it is evicted.
            self.looked_after = block.space.function.upkeep.look_after(block).is_ok();
        }
        Ok(())
    }

    /// Those of `pages` that stay on the host and are reached there need not any more. Returns those that the device may remember: whoever moves
    /// them has it forget them; until then it goes on reaching them, which it had better not.
    pub(crate) fn unpin(&mut self, pages: &PageMask, block: &Block) -> PageMask {
        let state = Page::Host { remote: true };
        let pinned = self.among(pages, state);
        if pinned.is_empty() {
            return pinned;
        }
        self.take_step(&pinned, &state.on(Event::Unpin), block)
            .invalidate
    }

    /// A page that the device owns stays there, and processes have it mapped through the window from now on.
    pub(crate) fn pin_to_window(&mut self, page: PageIndex, block: &Block) {
        if let Some(state @ Page::Device { .. }) = self.state(page) {
            let pages = page.region().into();
            self.take_step(&pages, &state.on(Event::Pin), block);
            self.mapped.add(page);
        }
    }

    /// Those of `pages` that stay on the device and are mapped through the window need not any more. Returns them: they are to be unmapped.
    /// Whoever moves them does that too.
    pub(crate) fn unpin_window(&mut self, pages: &PageMask, block: &Block) -> PageMask {
        let state = Page::Device { window: true };
        let pinned = self.among(pages, state);
        if !pinned.is_empty() {
            self.take_step(&pinned, &state.on(Event::Unpin), block);
        }
        pinned
    }

    /// Pages that were pinned to the host for a while, other than those that shall `stay`, and that nobody else holds, need not stay any
    /// more. Returns those that the device may remember, as [`unpin`](Self::unpin) does, and whether others are to be looked after yet.
    pub(crate) fn unpin_old(&mut self, stay: &PageMask, block: &Block) -> (PageMask, bool) {
        let pinned = Page::Host { remote: true };
        // Those that thrashed are somebody else's.
        let stay = stay.or(&self.thrashing.pinned());
        let long = self.among(&self.pinned_long, pinned).minus(&stay);
        let held = self.host_pages_that(&long, HostPage::is_held);
        let old = long.minus(&held);
        let remembered = self.unpin(&old, block);
        self.pinned_long = self.among(self.host(), pinned).minus(&stay);
        self.looked_after = !self.pinned_long.is_empty() && !self.dead;
        (remembered, self.looked_after)
    }

    /// Nobody looks after its pinned pages.
    pub(crate) fn forget_upkeep(&mut self) {
        self.looked_after = false;
    }

    /// The longest run from the start of `region` that is in one state, and which: `None` while on its way. Of pages in frames the
    /// frames are neighbours.
    pub(crate) fn leading_run(&self, region: Region) -> (Region, Option<Page>) {
        let Some(first) = PageIndex::new(region.first()) else {
            return (Region::EMPTY, Some(Page::None));
        };
        let state = self.state(first);
        if region.len() == 1 {
            return (region, state);
        }
        let pages = PageMask::from(region);
        let alike = match state {
            None => self.busy().and(&pages),
            Some(state) => self.among(&pages, state),
        };
        let (run, _) = alike.leading_run(region);
        if !matches!(state, Some(Page::Device { .. })) {
            return (run, state);
        }
        (self.frame_run(&run.into(), first).0, state)
    }

    // ---- Moves ----------------------------------------------------------------------------------

    /// The move that `page` is part of.
    pub(crate) fn move_of(&self, page: PageIndex) -> Option<&Arc<Move>> {
        let mut moves = self.moves.iter().flatten();
        moves.find(|one| one.is_moving(page))
    }

    /// Pages that are at `side`, or on their way there.
    pub(crate) fn at_or_coming_to(&self, side: Location) -> PageMask {
        let (here, there) = match side {
            Location::Host => (self.host(), self.device()),
            Location::Device => (self.device(), self.host()),
        };
        let mut pages = here.minus(self.busy());
        for one in self.moves.iter().flatten().filter(|one| one.to == side) {
            pages = pages.or(&one.pages.and(self.busy()).and(there));
        }
        pages
    }

    /// Whether another move can begin.
    pub(crate) fn has_room_for_move(&self) -> bool {
        self.moves.iter().any(Option::is_none)
    }

    /// Of `wanted`, those that would move to `to`: they are elsewhere, nobody moves them, and they are not pinned, unless they `must`.
    pub(crate) fn movable(&self, wanted: &PageMask, to: Location, must: bool) -> PageMask {
        if self.fixed {
            return PageMask::EMPTY;
        }
        let event = taking(to, TransactionId(0), must);
        let mut movable = PageMask::EMPTY;
        let mut left = *wanted;
        while let Some((state, pages)) = self.states.next_group(&mut left) {
            if matches!(state.on(event).page, Page::Revoking(Purpose::Move(_), _)) {
                movable = movable.or(&pages);
            }
        }
        movable
    }

    /// The pages of `this`, which all can, begin to move. Returns `None` when there is no room for another move.
    pub(crate) fn begin(&mut self, this: &Arc<Move>, must: bool) -> Option<Begun> {
        let place = self.moves.iter_mut().find(|place| place.is_none())?;
        *place = Some(this.clone());
        let event = taking(this.to, this.id, must);
        let mut all = Revocation {
            pages: this.pages,
            unmap: false,
            invalidate: PageMask::EMPTY,
            quiet: this.block.is_quiet(),
            evicts: must,
            watch: None,
        };
        let mut left = this.pages;
        while let Some((state, pages)) = self.states.next_group(&mut left) {
            let one = self.take_step(&pages, &state.on(event), &this.block);
            all.unmap |= one.unmap;
            all.invalidate = all.invalidate.or(&one.invalidate);
        }
        if all.unmap {
            self.mapped = self.mapped.minus(&this.pages);
        }
        if let Some(params) = &this.block.space.function.thrashing {
            match self.thrashing.moved(params, this.to, &this.pages) {
                Ok(true) => all.watch = Some(this.to),
                Ok(false) => {}
                Err(_) => this.block.space.function.stats.thrashing_missed.count(),
            }
        }
        let trace = &this.block.space.function.trace;
        trace.moved(hw::VFETCH_TRACE_MOVE, this, &this.pages, 0);
        Some(Begun::new(this.clone(), all))
    }

    /// `this` has ended: all of its pages have arrived or gone back. Returns whether that was not known yet.
    pub(crate) fn end(&mut self, this: &Arc<Move>) -> bool {
        for place in &mut self.moves {
            if place.as_ref().is_some_and(|other| Arc::ptr_eq(other, this)) {
                *place = None;
                return true;
            }
        }
        false
    }

    /// The data of `pages`, which are moving in `this`, has arrived at `place`.
    pub(crate) fn arrive(&mut self, this: &Move, pages: &PageMask, place: Arrival<'_>) {
        let step = Page::Moving(this.to.other(), this.id).on(Event::Arrived { id: this.id });
        let block = &this.block;
        let memory = &block.space.function.memory;
        self.enter(pages, step.page, block);
        let count = pages.count();
        match place {
            Arrival::Frames(first) => {
                let mut frame = first;
                for run in pages.runs() {
                    self.leaf.put_frames(run.first()..run.outer(), frame);
                    // CAST: at most 512.
                    frame = frame.saturating_add(run.len() as u32);
                }
                memory.count_pages(self.generation, count, 0);
            }
            Arrival::Pages(arrived, first) => {
                for run in pages.runs() {
                    self.leaf.clear(run.first()..run.outer());
                }
                for (page, arrived) in pages.iter().zip(arrived.take_all()) {
                    self.leaf.put(page.get(), Place::Host(arrived));
                }
                memory.count_pages(this.generation, 0, count);
                // CAST: at most 512.
                let count = count as u32;
                (block.space).give(FrameRun { first, count }, false, this.generation);
            }
        }
        for action in step.actions.iter() {
            match action {
                Action::SetEntry(entry) => self.allow(pages, entry != Entry::ReadOnly),
                Action::Wake => block.touch(),
                _ => {}
            }
        }
    }

    /// Nothing will come of the pages in `pages`, which are part of `this`: they are where they were, or lost if the function was
    /// reset.
    pub(crate) fn stay(&mut self, this: &Move, pages: &PageMask) {
        let from = this.to.other();
        let moving = Page::Moving(from, this.id);
        let step = if this.generation == self.generation {
            moving.on(Event::Failed { id: this.id })
        } else {
            moving.on(Event::Reset)
        };
        self.enter(pages, step.page, &this.block);
        for action in step.actions.iter() {
            match action {
                Action::SetEntry(entry) => self.allow(pages, entry != Entry::ReadOnly),
                Action::Wake => this.block.touch(),
                _ => {}
            }
        }
        if step.page == Page::Lost {
            self.free(pages, true, this.generation, &this.block);
        }
    }

    /// A lost page was overwritten as a whole: its contents are in `place` from now on. `false` if it is not lost any more: then
    /// `place` is not taken.
    #[must_use]
    pub(crate) fn overwrite(&mut self, page: PageIndex, place: Place, block: &Block) -> bool {
        if self.state(page) != Some(Page::Lost) {
            return false;
        }
        // What was lost is forgotten, and what is there instead is as if it had been there first.
        let id = TransactionId(0);
        let step = Page::Lost.on(Event::Discard { id });
        self.take_step(&page.region().into(), &step, block);
        self.zero(page, place, block);
        true
    }

    /// The block is taken out of its space. It has no contents, and shall not get any.
    pub(crate) fn kill(&mut self, block: &Block) {
        self.dead = true;
        block.gone.store(true, Release);
    }

    /// Whether the block is out of its space: whoever wants to give it contents is to look for another.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead
    }

    /// Pages in `region` begin to be discarded; those that nobody has are so at once. Pages on their way must have been waited for.
    pub(crate) fn forget(&mut self, region: Region, block: &Block) -> Revocation {
        let wanted = PageMask::from(region);
        let id = TransactionId(0);
        let mut all = Revocation {
            pages: PageMask::EMPTY,
            unmap: false,
            invalidate: PageMask::EMPTY,
            quiet: block.is_quiet(),
            evicts: false,
            watch: None,
        };
        let mut left = wanted;
        while let Some((state, pages)) = self.states.next_group(&mut left) {
            let step = state.on(Event::Discard { id });
            let one = self.take_step(&pages, &step, block);
            if matches!(step.page, Page::Revoking(..)) {
                all.pages = all.pages.or(&pages);
            }
            all.unmap |= one.unmap;
            all.invalidate = all.invalidate.or(&one.invalidate);
        }
        self.mapped = self.mapped.minus(&all.pages);
        self.thrashing.clear(&wanted);
        all
    }

    /// The `pages` that began to be discarded are unmapped everywhere: they have no contents any more. `scrubbed`: their frames hold
    /// zeros. `generation` is that of when they began to be.
    pub(crate) fn forgotten(
        &mut self,
        pages: &PageMask,
        block: &Block,
        scrubbed: bool,
        generation: u32,
    ) {
        let id = TransactionId(0);
        for owner in [Location::Host, Location::Device] {
            let mine = match owner {
                Location::Host => self.host().and(pages),
                Location::Device => self.device().and(pages),
            };
            if !mine.is_empty() {
                // Before the step does, which knows nothing of scrubbing.
                self.free(&mine, scrubbed, generation, block);
                let state = Page::Revoking(Purpose::Discard(owner), id);
                let step = state.on(Event::Revoked { id, held: false });
                self.take_step(&mine, &step, block);
            }
        }
    }
}
