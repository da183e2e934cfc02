// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The whole decision for one block and one batch of faults: triggers, policy, what is left out, and what is learnt from
//! what became of it.
//!
//! [`prefetch`] makes the decision. The caller carries it out and says what became of each prefetched page with [`feedback`]:
//! *used*, *late* (demanded while still in flight) or *evicted unused*. A page of a hint is *outstanding* at its destination from
//! the hint on until that is known. Often that is known only when it leaves again, perhaps because the other side has asked for it: so
//! what is outstanding on one side says nothing of the other one.
//!
//! All state is plain data that the caller places: [`FunctionState`] once per function, [`BlockState`] once per block.

use core::mem::size_of;

use super::mask::PageMask;
use super::params::Params;
use super::policy::{self, Answered, Kind, Policy, View};
use super::tree::{Bounds, Input, Tree};

mod counters;
mod undecided;

use counters::add;
pub use counters::{Counters, Totals};
use undecided::Undecided;
pub use undecided::LOOKS;

/// A PCIe function, by the number that its driver gave it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FunctionId(pub u32);

/// A block of 2 MiB: blocks of one space with neighbouring numbers are neighbours.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BlockId {
    /// The space, by the number that the driver gave it.
    pub space: u32,
    /// Its place in the space.
    pub index: u64,
}

/// Where pages can be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Location {
    /// In host memory.
    Host,
    /// In the function's memory.
    Device,
}

impl Location {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Host => Self::Device,
            Self::Device => Self::Host,
        }
    }
}

/// Faults of one block that are served together, and what the engine must know to decide.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Whose faults they are.
    pub function: FunctionId,
    /// Where.
    pub block: BlockId,
    /// Where the block is, and where prefetching is allowed in it.
    pub bounds: Bounds,
    /// Pages that faulted. They are in the max region; others are ignored.
    pub faulted: &'a PageMask,
    /// Those of them that are to be written.
    pub written: &'a PageMask,
    /// Pages that are at the destination already.
    pub resident: &'a PageMask,
    /// Whether any page of the block is anywhere: `false` at its first touch.
    pub resident_anywhere: bool,
    /// Pages that the host maps; looked at where the host is the destination.
    pub mapped: &'a PageMask,
    /// Pages that are thrashing.
    pub thrashing: &'a PageMask,
    /// Where the faulted pages are to go; `None` if to more than one place.
    pub destination: Option<Location>,
    /// Where the user wants the block to be.
    pub preferred: Option<Location>,
    /// The time, from any beginning.
    pub now_ns: u64,
    /// A random number; all of its values are equally likely.
    pub random: u32,
    /// How much of the destination's memory is in use, in percent.
    pub pressure: u8,
    /// How much of what its functions have contents for has room in the destination's memory, in percent: 100 when nothing is ever
    /// evicted.
    pub share: u8,
    /// Bytes that the function's link has carried so far, in both directions.
    pub link_bytes: u64,
    /// For how long the link is busy with what it has been given already.
    pub link_backlog_ns: u64,
}

/// Pages of a block nearby to bring along too, as far as they have contents elsewhere and the link has nothing
/// better to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ahead {
    /// The block. It may not exist.
    pub block: BlockId,
    /// Its pages.
    pub pages: PageMask,
}

/// Why a hint is as it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reason {
    /// Prefetching is switched off.
    Disabled,
    /// The faults go to more than one place.
    SeveralDestinations,
    /// Nothing was anywhere, and the destination is where the block is wanted.
    FirstTouch,
    /// The block is wanted elsewhere.
    NotPreferred,
    /// The policy decided.
    Policy,
    /// There was a hint, but too few faults yet.
    TooFewFaults,
}

/// The engine's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hint {
    /// Pages to bring along: in the max region, neither faulted nor thrashing. Some may be resident already.
    pub pages: PageMask,
    /// What to bring of a neighbouring block.
    pub ahead: Option<Ahead>,
    /// Whether they are worth no eviction: as many as there is room for come.
    pub gentle: bool,
    /// Why.
    pub reason: Reason,
}

impl Hint {
    const fn none(reason: Reason) -> Self {
        Self {
            pages: PageMask::EMPTY,
            ahead: None,
            gentle: false,
            reason,
        }
    }
}

/// Who decides: a native policy, or one from outside ([`prefetch_with`]). What first touch brings is counted as theirs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// One of the native policies.
    Native(Kind),
    /// A policy from outside the engine.
    External,
}

impl Source {
    /// How many there are.
    const COUNT: usize = Kind::ALL.len() + 1;

    const fn index(self) -> usize {
        match self {
            Self::Native(kind) => kind as usize,
            Self::External => Self::COUNT - 1,
        }
    }

    /// Whether what it decides depends on what became of what it decided before.
    const fn learns_from_use(self) -> bool {
        matches!(
            self,
            Self::Native(Kind::Auto | Kind::Probabilistic | Kind::Lru)
        )
    }
}

/// What is remembered of a function; [`FunctionState::NEW`] at first.
#[derive(Clone, Debug)]
pub struct FunctionState {
    totals: Totals,
    counters: [Counters; Source::COUNT],
    adaptive: policy::adaptive::State,
    auto: policy::auto::FunctionState,
    undecided: Undecided,
}

const _: () = assert!(size_of::<FunctionState>() <= 16 << 10);

impl FunctionState {
    /// Of a function that nobody has used yet.
    pub const NEW: Self = Self {
        totals: Totals::ZERO,
        counters: [Counters::ZERO; Source::COUNT],
        adaptive: policy::adaptive::State::NEW,
        auto: policy::auto::FunctionState::NEW,
        undecided: Undecided::NEW,
    };

    /// What is counted whoever decides.
    #[must_use]
    pub const fn totals(&self) -> &Totals {
        &self.totals
    }

    /// What is counted of one policy.
    #[must_use]
    pub fn counters(&self, source: Source) -> Counters {
        self.counters
            .get(source.index())
            .copied()
            .unwrap_or_default()
    }

    /// The sum over all policies.
    #[must_use]
    pub fn all_counters(&self) -> Counters {
        (self.counters.iter()).fold(Counters::ZERO, counters::Counters::plus)
    }

    fn count(&mut self, source: Source, change: impl FnOnce(&mut Counters)) {
        if let Some(counters) = self.counters.get_mut(source.index()) {
            change(counters);
        }
    }
}

/// What is remembered of a block; [`BlockState::NEW`] at first.
#[derive(Clone, Debug)]
pub struct BlockState {
    /// Where the last batch went.
    destination: Option<Location>,
    /// Pages that faulted towards it since, as far as that matters.
    faults: u16,
    /// Prefetched pages of which is not known yet what became, on the host and on the device.
    outstanding: [PageMask; 2],
    /// Who asked for them.
    source: Source,
    /// Pages from a 64 KiB boundary to the block's start, 0 to 15.
    va_first_page: usize,
    learnt: Learnt,
}

/// What the policy that decided last has learnt of a block: where another one takes over, it begins anew.
#[derive(Clone, Debug)]
enum Learnt {
    Nothing,
    Stride(policy::stride::State),
    Frequency(policy::frequency::State),
    Lru(policy::lru::State),
    Probabilistic(policy::probabilistic::State),
    Auto(policy::auto::BlockState),
}

impl Learnt {
    /// Whether it is what `policy` learns.
    const fn is_of(&self, policy: Kind) -> bool {
        match self {
            Self::Nothing => !matches!(
                policy,
                Kind::Stride | Kind::Frequency | Kind::Lru | Kind::Probabilistic | Kind::Auto
            ),
            Self::Stride(_) => matches!(policy, Kind::Stride),
            Self::Frequency(_) => matches!(policy, Kind::Frequency),
            Self::Lru(_) => matches!(policy, Kind::Lru),
            Self::Probabilistic(_) => matches!(policy, Kind::Probabilistic),
            Self::Auto(_) => matches!(policy, Kind::Auto),
        }
    }

    /// What `policy` knows at first.
    const fn new(policy: Kind) -> Self {
        match policy {
            Kind::Stride => Self::Stride(policy::stride::State::NEW),
            Kind::Frequency => Self::Frequency(policy::frequency::State::NEW),
            Kind::Lru => Self::Lru(policy::lru::State::NEW),
            Kind::Probabilistic => Self::Probabilistic(policy::probabilistic::State::NEW),
            Kind::Auto => Self::Auto(policy::auto::BlockState::NEW),
            _ => Self::Nothing,
        }
    }
}

// What is kept of a block, without the lazily made state of thrashing pages.
const _: () = assert!(size_of::<BlockState>() + size_of::<super::thrashing::Detector>() <= 512);

impl BlockState {
    /// Of a block that nobody has used yet.
    pub const NEW: Self = Self {
        destination: None,
        faults: 0,
        outstanding: [PageMask::EMPTY; 2],
        source: Source::Native(Kind::None),
        va_first_page: 0,
        learnt: Learnt::Nothing,
    };

    /// Pages that were prefetched to `at` and of which is not known yet what became there.
    #[must_use]
    pub const fn outstanding(&self, at: Location) -> &PageMask {
        let [host, device] = &self.outstanding;
        match at {
            Location::Host => host,
            Location::Device => device,
        }
    }

    /// Of those on the device, those of which it is to be known soon whether they were used: none where nobody learns from it.
    #[must_use]
    pub const fn undecided(&self) -> PageMask {
        if self.source.learns_from_use() {
            *self.outstanding(Location::Device)
        } else {
            PageMask::EMPTY
        }
    }

    fn outstanding_mut(&mut self, at: Location) -> &mut PageMask {
        let [host, device] = &mut self.outstanding;
        match at {
            Location::Host => host,
            Location::Device => device,
        }
    }

    /// `policy` decides about it from now on.
    fn turn_to(&mut self, function: &mut FunctionState, policy: Kind) {
        if !self.learnt.is_of(policy) {
            if let Learnt::Auto(auto) = &self.learnt {
                function.auto.forgotten(auto);
            }
            self.learnt = Learnt::new(policy);
        }
    }

    /// `pages` of `at` were asked for by `source`, to be brought to `to`.
    fn expect(
        &mut self,
        function: &mut FunctionState,
        source: Source,
        at: BlockId,
        to: Location,
        pages: &PageMask,
    ) {
        if to == Location::Device && source.learns_from_use() && !pages.is_empty() {
            function.undecided.add(at);
        }
        if self.source != source {
            // Whose they were is remembered once per block only.
            let dropped = self.outstanding.iter().map(PageMask::count).sum();
            function.count(self.source, |counters| add(&mut counters.dropped, dropped));
            self.outstanding = [PageMask::EMPTY; 2];
            self.source = source;
        }
        let outstanding = self.outstanding_mut(to);
        let new = pages.minus(outstanding);
        *outstanding = outstanding.or(&new);
        function.count(source, |counters| {
            add(&mut counters.prefetched, new.count());
        });
    }
}

/// Decides by the native policy that is set.
///
/// The cost is bounded, whatever the number of faults.
pub fn prefetch(
    params: &Params,
    function: &mut FunctionState,
    block: &mut BlockState,
    batch: &Batch<'_>,
) -> Hint {
    decide(params, function, block, batch, None)
}

/// Decides by a policy from outside the engine; where that answers what is invalid, natively.
pub fn prefetch_with(
    params: &Params,
    function: &mut FunctionState,
    block: &mut BlockState,
    batch: &Batch<'_>,
    policy: &mut dyn Policy,
) -> Hint {
    decide(params, function, block, batch, Some(policy))
}

fn decide(
    params: &Params,
    function: &mut FunctionState,
    block: &mut BlockState,
    batch: &Batch<'_>,
    external: Option<&mut dyn Policy>,
) -> Hint {
    let max_region = batch.bounds.max_region();
    let faulted = batch.faulted.within(max_region);
    add(&mut function.totals.batches, 1);
    add(&mut function.totals.faults, faulted.count());
    // A page that was to come along and faults all the same has not come.
    for side in [Location::Host, Location::Device] {
        if batch.destination.is_none_or(|to| to == side) {
            feedback(function, block, side, Outcome::Dropped, &faulted);
        }
    }

    // Step 0.
    if !params.enabled {
        return Hint::none(Reason::Disabled);
    }
    let Some(destination) = batch.destination else {
        add(&mut function.totals.several_destinations, 1);
        return Hint::none(Reason::SeveralDestinations);
    };
    let source = match external {
        Some(_) => Source::External,
        None => Source::Native(params.policy),
    };

    // Step 1.
    if block.destination != Some(destination) {
        block.destination = Some(destination);
        block.faults = 0;
    }
    observe(params, function, block, batch, &faulted);

    // Steps 2 to 7.
    let (wanted, ahead, reason) = if source == Source::Native(Kind::None) {
        function.count(source, |counters| add(&mut counters.decisions, 1));
        (PageMask::EMPTY, None, Reason::Policy)
    } else if !batch.resident_anywhere && batch.preferred == Some(destination) {
        add(&mut function.totals.first_touches, 1);
        (max_region.into(), None, Reason::FirstTouch)
    } else if batch
        .preferred
        .is_some_and(|preferred| preferred != destination)
    {
        add(&mut function.totals.not_preferred, 1);
        (PageMask::EMPTY, None, Reason::NotPreferred)
    } else {
        let (answered, ahead) = ask(params, function, block, batch, external);
        function.count(source, |counters| {
            add(&mut counters.decisions, 1);
            add(&mut counters.invalid, answered.invalid as usize);
        });
        (answered.pages, ahead, Reason::Policy)
    };

    // Step 8.
    let mut pages = wanted.minus(&faulted).minus(batch.thrashing);
    if destination == Location::Host {
        pages = pages.minus(batch.mapped);
    }

    // Step 9.
    let count = u16::try_from(faulted.count()).unwrap_or(u16::MAX);
    block.faults = block.faults.saturating_add(count);
    let too_few = u32::from(block.faults) < params.min_faults.get();
    if too_few && (!pages.is_empty() || ahead.is_some()) {
        function.count(source, |counters| add(&mut counters.withheld, 1));
        return Hint::none(Reason::TooFewFaults);
    }
    if !pages.is_empty() {
        function.count(source, |counters| add(&mut counters.hints, 1));
        let coming = pages.minus(batch.resident);
        block.expect(function, source, batch.block, destination, &coming);
    }
    Hint {
        pages,
        ahead,
        gentle: source == Source::Native(Kind::Auto) && function.auto.is_gentle(batch.share),
        reason,
    }
}

/// What the policy that is set learns from a batch before it is asked.
fn observe(
    params: &Params,
    function: &mut FunctionState,
    block: &mut BlockState,
    batch: &Batch<'_>,
    faulted: &PageMask,
) {
    block.va_first_page = batch.bounds.va_first_page();
    if matches!(params.policy, Kind::Traffic | Kind::Pressure) {
        function.adaptive.observe(
            batch.now_ns,
            params.sample_period_us,
            batch.link_bytes,
            batch.pressure,
        );
    }
    block.turn_to(function, params.policy);
    match &mut block.learnt {
        Learnt::Stride(stride) => stride.observe(faulted),
        Learnt::Lru(recent) => recent.observe(block.va_first_page, faulted),
        Learnt::Frequency(frequency) => frequency.observe(batch.now_ns, faulted.count()),
        // What the host wants says nothing of the device's memory.
        Learnt::Auto(auto) if batch.destination == Some(Location::Device) => {
            function.auto.faulted(auto, batch, faulted);
        }
        _ => {}
    }
}

/// Steps 4 to 7, by the policy.
fn ask(
    params: &Params,
    function: &mut FunctionState,
    block: &mut BlockState,
    batch: &Batch<'_>,
    external: Option<&mut dyn Policy>,
) -> (Answered, Option<Ahead>) {
    let tree = Tree::new(&Input {
        mode: params.mode,
        walk: params.walk,
        threshold: params.threshold,
        bounds: batch.bounds,
        resident: batch.resident,
        faulted: batch.faulted,
        thrashing: batch.thrashing,
    });
    let view = View {
        params,
        batch,
        tree: &tree,
    };
    if let Some(external) = external {
        return (policy::ask(external, &view), None);
    }
    let answered = match (&block.learnt, params.policy) {
        (Learnt::Stride(known), _) => policy::ask(&mut policy::stride::Stride(known), &view),
        (Learnt::Probabilistic(known), _) => {
            policy::ask(&mut policy::probabilistic::Probabilistic(known), &view)
        }
        (Learnt::Lru(known), _) => policy::ask(&mut policy::lru::Lru(known), &view),
        (Learnt::Frequency(known), _) => {
            policy::ask(&mut policy::frequency::Frequency(known), &view)
        }
        (Learnt::Auto(known), _) => {
            let mut auto = policy::auto::Auto::new(&function.auto, known);
            let answered = policy::ask(&mut auto, &view);
            return (answered, auto.ahead(&view));
        }
        (Learnt::Nothing, Kind::None) => policy::ask(&mut policy::simple::None, &view),
        (Learnt::Nothing, Kind::AlwaysMax) => policy::ask(&mut policy::simple::AlwaysMax, &view),
        (Learnt::Nothing, Kind::Traffic) => {
            policy::ask(&mut policy::adaptive::Traffic(&function.adaptive), &view)
        }
        (Learnt::Nothing, Kind::Pressure) => {
            policy::ask(&mut policy::adaptive::Pressure(&function.adaptive), &view)
        }
        (Learnt::Nothing, Kind::MultiLevel) => {
            policy::ask(&mut policy::multi_level::MultiLevel, &view)
        }
        (Learnt::Nothing, Kind::ThrashingAware) => {
            policy::ask(&mut policy::thrashing_aware::ThrashingAware, &view)
        }
        // The others learn, and are above.
        (Learnt::Nothing, _) => policy::ask(&mut policy::simple::Fixed, &view),
    };
    (answered, None)
}

/// What became of pages.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// They were touched where they had been brought.
    Used,
    /// They were demanded while still in flight.
    Late,
    /// They left the destination to make room, and with them all that was there of the block.
    Evicted,
    /// They were not brought after all.
    Dropped,
    /// They left it because they are wanted elsewhere.
    Moved,
}

/// Tells what became of `pages` of a block where they are, at `at`, or were to come. Only the first thing that becomes of a prefetched page
/// counts; pages that are not outstanding there may be among them.
pub fn feedback(
    function: &mut FunctionState,
    block: &mut BlockState,
    at: Location,
    outcome: Outcome,
    pages: &PageMask,
) {
    let known = block.outstanding(at).and(pages);
    if let (Learnt::Lru(recent), Outcome::Used) = (&mut block.learnt, outcome) {
        recent.observe(block.va_first_page, pages);
    }
    let leave = matches!(outcome, Outcome::Evicted | Outcome::Moved);
    if known.is_empty() && !leave {
        return;
    }
    let count = known.count();
    match (&mut block.learnt, outcome) {
        (Learnt::Auto(auto), _) if at == Location::Device => {
            function.auto.observe(auto, outcome, pages, &known);
        }
        (Learnt::Probabilistic(hits), Outcome::Used | Outcome::Late) => hits.observe(count, 0),
        (Learnt::Probabilistic(hits), Outcome::Evicted | Outcome::Moved) => {
            hits.observe(0, count);
        }
        _ => {}
    }
    if known.is_empty() {
        return;
    }
    let outstanding = block.outstanding_mut(at);
    *outstanding = outstanding.minus(&known);
    function.count(block.source, |counters| {
        let counter = match outcome {
            Outcome::Used => &mut counters.used,
            Outcome::Late => &mut counters.late,
            Outcome::Evicted | Outcome::Moved => &mut counters.evicted_unused,
            Outcome::Dropped => &mut counters.dropped,
        };
        add(counter, count);
    });
}

/// Blocks that the caller should look at before it serves a batch of the device's faults, and tell [`seen`]: of pages that came along
/// to them it is to be known soon whether they were used.
#[must_use]
pub fn undecided(function: &mut FunctionState) -> [Option<BlockId>; LOOKS] {
    function.undecided.take()
}

/// Tells which pages of the block `at` that are [undecided](BlockState::undecided) have been used by now, as it is seen without a fault. What is told only when they leave again is told too late to learn from: so it should be known of the
/// [`undecided()`] blocks, and of each block before a decision about it.
pub fn seen(function: &mut FunctionState, block: &mut BlockState, at: BlockId, used: &PageMask) {
    feedback(function, block, Location::Device, Outcome::Used, used);
    if !block.undecided().is_empty() {
        function.undecided.add(at);
    }
}

/// What to bring to the device while the link has nothing to do, as far as there are free frames: nothing is evicted for it. `pressure`
/// and `share` are as in [`Batch`].
///
/// The answer is carried out as [`Hint::ahead`] is. Where nothing of it was to be brought, ask again: no block is answered twice
/// before its stream has moved.
#[must_use]
pub fn idle(
    params: &Params,
    function: &mut FunctionState,
    pressure: u8,
    share: u8,
) -> Option<Ahead> {
    if params.enabled && params.policy == Kind::Auto {
        function.auto.idle(pressure, share >= 100)
    } else {
        None
    }
}

/// What to bring of the neighbouring `block` as `ahead` says, as far as it is elsewhere.
#[must_use]
pub fn ahead_pages(block: &BlockState, ahead: &Ahead) -> PageMask {
    match &block.learnt {
        Learnt::Auto(auto) => auto.of_ahead(&ahead.pages),
        _ => ahead.pages,
    }
}

/// Tells that `pages` of the neighbouring `block` are being brought as `ahead` said, or as many of those as are elsewhere: they
/// are outstanding from now on.
pub fn brought_ahead(
    function: &mut FunctionState,
    block: &mut BlockState,
    ahead: &Ahead,
    pages: &PageMask,
) {
    if !pages.is_empty() {
        block.turn_to(function, Kind::Auto);
        if let Learnt::Auto(auto) = &mut block.learnt {
            auto.is_at(ahead.block);
        }
        let source = Source::Native(Kind::Auto);
        block.expect(function, source, ahead.block, Location::Device, pages);
    }
}

#[cfg(test)]
mod tests;
