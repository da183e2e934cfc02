// SPDX-License-Identifier: GPL-2.0 OR MIT

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::super::testing::{cases, mask, most};
use super::*;
use proptest::prelude::*;
use std::boxed::Box;
use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use Location::{Device, Host};

const EVERYWHERE: Place = Place {
    owner: Device,
    preferred: None,
    host_reaches_device: true,
    device_reaches_host: true,
};

/// A block and its caller.
struct Block {
    params: Params,
    detector: Detector,
    pages: Option<Box<Pages>>,
}

impl Block {
    fn new(params: Params) -> Self {
        Self {
            params,
            detector: Detector::NEW,
            pages: None,
        }
    }

    fn event(&mut self, processor: Location, moved: &PageMask, now_us: u64) {
        let (params, detector) = (&self.params, &mut self.detector);
        if detector.event(params, &mut self.pages, processor, moved, now_us) {
            assert!(self.pages.is_none());
            self.pages = Some(Box::new(Pages::NEW));
            assert!(!detector.event(params, &mut self.pages, processor, moved, now_us));
        }
    }

    fn ask(&mut self, requester: Location, page: usize, place: Place, now_us: u64) -> Answer {
        let page = PageIndex::new(page).unwrap();
        self.detector.ask(
            &self.params,
            &mut self.pages,
            requester,
            page,
            place,
            now_us,
        )
    }

    /// Events of one page in turns, 1 us apart, until it thrashes.
    fn thrash(&mut self, page: usize, from_us: u64) {
        for at in 0..4 {
            self.event(
                if at % 2 == 0 { Host } else { Device },
                &one(page),
                from_us + at,
            );
        }
        assert!(self.detector.thrashing().contains(page));
    }
}

fn one(page: usize) -> PageMask {
    PageIndex::new(page).unwrap().region().into()
}

#[test]
fn two_processors_within_a_lapse_arm_a_block() {
    let mut block = Block::new(Params::DEFAULT);
    block.event(Host, &one(3), 1_000);
    block.event(Host, &one(3), 1_001);
    block.event(Device, &one(3), 1_502);
    assert!(block.pages.is_none(), "later than a lapse");
    block.event(Host, &one(4), 2_002);
    assert!(block.pages.is_some(), "within a lapse, of whichever page");
}

#[test]
fn the_third_event_within_lapses_is_thrashing() {
    let mut block = Block::new(Params::DEFAULT);
    block.event(Host, &one(3), 1_000);
    // Arms, and is the first that is counted.
    block.event(Device, &one(3), 1_100);
    block.event(Host, &one(3), 1_600);
    assert!(block.detector.thrashing().is_empty());
    block.event(Device, &one(3), 2_100);
    assert_eq!(block.detector.thrashing(), one(3));
    // More than a lapse later: calm.
    block.event(Host, &one(3), 2_601);
    assert!(block.detector.thrashing().is_empty());
}

#[test]
fn naps_take_turns() {
    let mut block = Block::new(Params::DEFAULT);
    block.thrash(7, 1_000);
    assert_eq!(
        block.ask(Host, 8, EVERYWHERE, 2_000),
        Answer::Go,
        "a calm page"
    );
    assert_eq!(block.ask(Host, 7, EVERYWHERE, 2_000), Answer::Go);
    assert_eq!(
        block.ask(Device, 7, EVERYWHERE, 2_100),
        Answer::Wait { until_us: 2_500 }
    );
    assert_eq!(
        block.ask(Host, 7, EVERYWHERE, 2_499),
        Answer::Go,
        "the opener"
    );
    // The host had its turn, and the device waited.
    assert_eq!(
        block.ask(Host, 7, EVERYWHERE, 2_500),
        Answer::Wait { until_us: 3_000 }
    );
    assert_eq!(block.ask(Device, 7, EVERYWHERE, 2_600), Answer::Go);
    // Nobody waited in this one: the host may have the next.
    let mut block = Block::new(Params::DEFAULT);
    block.thrash(7, 1_000);
    assert_eq!(block.ask(Host, 7, EVERYWHERE, 2_000), Answer::Go);
    assert_eq!(block.ask(Host, 7, EVERYWHERE, 2_500), Answer::Go);
}

/// Asks in turns until somebody is told that the page is pinned; how many waited before.
fn pin(block: &mut Block, page: usize, place: Place, from_us: u64) -> (Answer, usize) {
    let mut waits = 0;
    for turn in 0..1_000 {
        let now_us = from_us + turn * 500;
        // Nobody moves it meanwhile: it stays thrashing.
        for requester in [Host, Device] {
            match block.ask(requester, page, place, now_us) {
                Answer::Go => {}
                Answer::Wait { .. } => waits += 1,
                pinned @ Answer::Pinned { .. } => return (pinned, waits),
            }
        }
    }
    panic!("never pinned");
}

#[test]
fn who_waits_ten_times_is_served_remotely() {
    let mut block = Block::new(Params::DEFAULT);
    block.thrash(7, 1_000);
    let (answer, waits) = pin(&mut block, 7, EVERYWHERE, 2_000);
    assert_eq!((answer, waits), (Answer::Pinned { at: Device }, 9));
    assert_eq!(*block.detector.pinned(), one(7));
    assert_eq!(block.detector.thrashing(), one(7));
    // Its owner moved meanwhile: it is told where it is.
    let elsewhere = Place {
        owner: Host,
        ..EVERYWHERE
    };
    assert_eq!(
        block.ask(Host, 7, elsewhere, 7_000),
        Answer::Pinned { at: Host }
    );
}

#[test]
fn two_that_write_in_turn_are_not_taken_for_calm_because_they_wait() {
    let mut block = Block::new(Params::DEFAULT);
    block.thrash(7, 1_000);
    let mut now_us = 2_000;
    let mut waits = 0;
    let mut owner = Device;
    loop {
        let place = Place {
            owner,
            ..EVERYWHERE
        };
        match block.ask(owner.other(), 7, place, now_us) {
            Answer::Go => {
                block.event(owner.other(), &one(7), now_us + 5);
                owner = owner.other();
                now_us += 40;
            }
            Answer::Wait { until_us } => {
                waits += 1;
                assert!(waits < 10, "never pinned");
                // It takes a while to get up.
                now_us = until_us + 60;
            }
            Answer::Pinned { at } => {
                assert_eq!(at, owner);
                break;
            }
        }
    }
    assert_eq!(waits, 9);
    // Who leaves it alone for a lapse after the nap finds it calm.
    let mut block = Block::new(Params::DEFAULT);
    block.thrash(7, 1_000);
    assert_eq!(block.ask(Host, 7, EVERYWHERE, 1_100), Answer::Go);
    let wait = block.ask(Device, 7, EVERYWHERE, 1_200);
    assert_eq!(wait, Answer::Wait { until_us: 1_600 });
    block.event(Device, &one(7), 2_101);
    assert!(block.detector.thrashing().is_empty());
}

#[test]
fn a_page_is_pinned_where_it_is_wanted_if_it_is_reached_there() {
    for (preferred, host_reaches_device, device_reaches_host, at) in [
        (Some(Host), true, true, Host),
        (Some(Host), true, false, Device),
        (None, true, false, Device),
        (Some(Device), true, false, Device),
    ] {
        let mut block = Block::new(Params::DEFAULT);
        block.thrash(7, 1_000);
        let place = Place {
            owner: Device,
            preferred,
            host_reaches_device,
            device_reaches_host,
        };
        assert_eq!(pin(&mut block, 7, place, 2_000).0, Answer::Pinned { at });
    }
}

#[test]
fn a_page_that_nobody_else_would_reach_is_not_pinned() {
    let mut block = Block::new(Params::DEFAULT);
    block.thrash(7, 1_000);
    let alone = Place {
        host_reaches_device: false,
        device_reaches_host: false,
        ..EVERYWHERE
    };
    for turn in 0..100 {
        for requester in [Host, Device] {
            let answer = block.ask(requester, 7, alone, 2_000 + turn * 500);
            assert!(!matches!(answer, Answer::Pinned { .. }));
        }
    }
    // Once it can be reached it is.
    assert_eq!(
        pin(&mut block, 7, EVERYWHERE, 60_000),
        (Answer::Pinned { at: Device }, 0)
    );
}

#[test]
fn a_pin_ends_and_the_block_is_reset() {
    let mut block = Block::new(Params::DEFAULT);
    block.thrash(7, 1_000);
    pin(&mut block, 7, EVERYWHERE, 2_000);
    let pinned_us = 6_500;
    let pin = 300 * 500;
    assert!(matches!(
        block.ask(Host, 7, EVERYWHERE, pinned_us + pin - 1),
        Answer::Pinned { .. }
    ));
    assert_eq!(block.ask(Host, 7, EVERYWHERE, pinned_us + pin), Answer::Go);
    assert!(block.detector.pinned().is_empty());
    assert!(block.pages.is_some(), "an epoch is longer");
    // The last event of a thrashing page was at 1003.
    block.ask(Host, 7, EVERYWHERE, 1_003 + 2_000 * 500 - 1);
    assert!(block.pages.is_some());
    block.ask(Host, 7, EVERYWHERE, 1_003 + 2_000 * 500);
    assert!(block.pages.is_none());
    assert_eq!(block.detector.resets(), 1);
}

#[test]
fn a_pin_for_ever_does_not_end_and_keeps_the_state() {
    let mut block = Block::new(Params {
        pin_lapses: Bounded::MIN,
        ..Params::DEFAULT
    });
    block.thrash(7, 1_000);
    pin(&mut block, 7, EVERYWHERE, 2_000);
    assert!(matches!(
        block.ask(Host, 7, EVERYWHERE, u64::MAX),
        Answer::Pinned { .. }
    ));
    assert!(block.pages.is_some());
}

#[test]
fn a_block_is_reset_as_often_as_it_may_be() {
    let mut block = Block::new(Params::DEFAULT);
    let epoch = 2_000 * 500;
    for round in 0..6 {
        block.thrash(7, 10 * epoch * (round + 1));
    }
    assert_eq!(block.detector.resets(), 4);
    assert!(block.pages.is_some());
    block.ask(Host, 7, EVERYWHERE, 100 * epoch);
    assert_eq!(block.detector.thrashing(), one(7), "marked for good");
    // Until the user moves it, or changes advice.
    block.detector.clear(&mut block.pages, &one(7));
    assert!(block.detector.thrashing().is_empty());
    assert!(block.pages.is_some());
    block.detector.forget(&mut block.pages);
    assert!(block.pages.is_none());
    assert_eq!(block.detector.resets(), 0);
}

#[test]
fn times_fit() {
    for us in [0, 1, 0xffff, 0x1_0000, 0xffff_ffff, (1 << 48) - 1] {
        assert_eq!(Stamp::at(us).us(), us);
    }
    assert_eq!(Stamp::at(u64::MAX).us(), (1 << 48) - 1);
    assert_eq!(Stamp::at(10).age(5), 0);
}

/// The table, a page at a time, with sets and without limits of size.
#[derive(Default)]
struct Model {
    armed: bool,
    last: Option<(Location, u64)>,
    pages: BTreeMap<usize, ModelPage>,
    last_thrashing: u64,
    resets: u32,
}

#[derive(Default, Clone)]
struct ModelPage {
    last: Option<u64>,
    count: u32,
    throttles: u32,
    thrashing: bool,
    pinned_since: Option<u64>,
    /// Of the last nap: who opened it and when, and who waited.
    nap: Option<(Location, u64, BTreeSet<usize>)>,
}

impl ModelPage {
    /// The last event, or the end of the last nap, if somebody waited in it.
    fn busy_until(&self, params: &Params) -> Option<u64> {
        let nap = u64::from(params.nap_lapses.get() * params.lapse_us.get());
        let waited = (self.nap.iter())
            .filter(|(_, _, waited)| !waited.is_empty())
            .map(|(_, began, _)| began + nap);
        self.last.into_iter().chain(waited).max()
    }
}

impl Model {
    fn time(&mut self, params: &Params, now: u64) {
        if !self.armed {
            return;
        }
        let lapse = u64::from(params.lapse_us.get());
        let pin = u64::from(params.pin_lapses.get()) * lapse;
        for page in self.pages.values_mut() {
            if pin != 0 && page.pinned_since.is_some_and(|since| now - since >= pin) {
                *page = ModelPage::default();
            }
        }
        let pinned = self.pages.values().any(|page| page.pinned_since.is_some());
        let epoch = u64::from(params.epoch_lapses.get()) * lapse;
        if !pinned && now - self.last_thrashing >= epoch && self.resets < params.max_resets.get() {
            *self = Self {
                resets: self.resets + 1,
                ..Self::default()
            };
        }
    }

    fn event(&mut self, params: &Params, who: Location, moved: &PageMask, now: u64) {
        self.time(params, now);
        let lapse = u64::from(params.lapse_us.get());
        let before = self.last.replace((who, now));
        if !self.armed {
            match before {
                Some((other, at)) if other != who && now - at <= lapse => self.armed = true,
                _ => return,
            }
            self.last_thrashing = now;
        }
        for page in moved.iter() {
            let page = self.pages.entry(page.get()).or_default();
            if page.pinned_since.is_some() {
                continue;
            }
            match page.busy_until(params) {
                Some(last) if now <= last + lapse => {
                    page.count = (page.count + 1).min(7);
                    if page.count >= params.threshold.get() {
                        page.thrashing = true;
                        self.last_thrashing = now;
                    }
                }
                _ => {
                    *page = ModelPage {
                        count: 1,
                        ..ModelPage::default()
                    };
                }
            }
            page.last = Some(now);
        }
    }

    fn ask(
        &mut self,
        params: &Params,
        who: Location,
        page: usize,
        place: Place,
        now: u64,
    ) -> Answer {
        self.time(params, now);
        let nap = u64::from(params.nap_lapses.get() * params.lapse_us.get());
        let Some(page) = self.pages.get_mut(&page) else {
            return Answer::Go;
        };
        if page.pinned_since.is_some() {
            return Answer::Pinned { at: place.owner };
        }
        if !page.thrashing {
            return Answer::Go;
        }
        let busy_until = page.busy_until(params);
        let before = page.nap.take();
        let open = before.clone().filter(|(_, began, _)| now < began + nap);
        let (opener, began, mut waited) = open.unwrap_or_else(|| {
            // The other one's turn, if it waited for this one.
            let opener = match before {
                Some((opener, _, waited)) if opener == who && !waited.is_empty() => who.other(),
                _ => who,
            };
            page.last = busy_until;
            (opener, now, BTreeSet::new())
        });
        let mut answer = Answer::Go;
        if opener != who {
            page.throttles += u32::from(waited.insert(who as usize));
            answer = Answer::Wait {
                until_us: began + nap,
            };
            if page.throttles >= params.pin_threshold.get() {
                let reached = |at| match at {
                    Host => place.device_reaches_host,
                    Device => place.host_reaches_device,
                };
                let at = match place.preferred {
                    Some(preferred) if reached(preferred) => Some(preferred),
                    _ => reached(place.owner).then_some(place.owner),
                };
                if let Some(at) = at {
                    page.pinned_since = Some(now);
                    page.thrashing = false;
                    return Answer::Pinned { at };
                }
            }
        }
        page.nap = Some((opener, began, waited));
        answer
    }

    fn marked(&self) -> Vec<usize> {
        let marked = |page: &ModelPage| page.thrashing || page.pinned_since.is_some();
        self.pages
            .iter()
            .filter(|(_, page)| marked(page))
            .map(|(index, _)| *index)
            .collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Event(Location, PageMask),
    Ask(Location, usize, Place),
    Clear(PageMask),
    Forget,
}

fn location() -> impl Strategy<Value = Location> {
    prop_oneof![Just(Host), Just(Device)]
}

/// A few pages, so that events meet.
fn few() -> impl Strategy<Value = PageMask> {
    prop_oneof![
        4 => prop::collection::vec(0usize..4, 1..3)
            .prop_map(|pages| pages.into_iter().filter_map(PageIndex::new).collect()),
        1 => mask(),
    ]
}

fn place() -> impl Strategy<Value = Place> {
    (
        location(),
        prop::option::of(location()),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(
            |(owner, preferred, host_reaches_device, device_reaches_host)| Place {
                owner,
                preferred,
                host_reaches_device,
                device_reaches_host,
            },
        )
}

fn step() -> impl Strategy<Value = (u64, Step)> {
    let what = prop_oneof![
        40 => (location(), few()).prop_map(|(who, moved)| Step::Event(who, moved)),
        40 => (location(), 0usize..4, place()).prop_map(|(who, page, place)| Step::Ask(who, page, place)),
        2 => few().prop_map(Step::Clear),
        1 => Just(Step::Forget),
    ];
    let time = prop_oneof![6 => 0u64..12, 2 => 0u64..60, 1 => 0u64..400];
    (time, what)
}

fn params() -> impl Strategy<Value = Params> {
    (1u32..=7, 1u32..5, 1u32..3, 5u32..40, 0u32..20, 0u32..3).prop_map(
        |(threshold, pin, nap, epoch, pin_lapses, resets)| Params {
            threshold: Bounded::new(threshold).unwrap(),
            pin_threshold: Bounded::new(pin).unwrap(),
            lapse_us: Bounded::new(10).unwrap(),
            nap_lapses: Bounded::new(nap).unwrap(),
            epoch_lapses: Bounded::new(epoch).unwrap(),
            pin_lapses: Bounded::new(pin_lapses).unwrap(),
            max_resets: Bounded::new(resets).unwrap(),
        },
    )
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn the_automaton_is_the_table(params in params(), steps in prop::collection::vec(step(), 1..most(200))) {
        let mut block = Block::new(params);
        let mut model = Model::default();
        let mut now = 0;
        for (elapsed, step) in steps {
            now += elapsed;
            match step {
                Step::Event(who, moved) => {
                    block.event(who, &moved, now);
                    model.event(&params, who, &moved, now);
                }
                Step::Ask(who, page, place) => {
                    let answer = block.ask(who, page, place, now);
                    prop_assert_eq!(answer, model.ask(&params, who, page, place, now));
                }
                Step::Clear(moved) => {
                    block.detector.clear(&mut block.pages, &moved);
                    for page in moved.iter() {
                        model.pages.remove(&page.get());
                    }
                }
                Step::Forget => {
                    block.detector.forget(&mut block.pages);
                    model = Model::default();
                }
            }
            let marked: Vec<usize> = block.detector.thrashing().iter().map(PageIndex::get).collect();
            prop_assert_eq!(marked, model.marked());
            prop_assert_eq!(block.pages.is_some(), model.armed);
            prop_assert_eq!(u32::from(block.detector.resets()), model.resets);
        }
    }
}
