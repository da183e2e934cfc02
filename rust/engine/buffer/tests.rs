// SPDX-License-Identifier: GPL-2.0 OR MIT

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::super::testing::{cases, most};
use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::vec;
use std::vec::Vec;

const ME: FunctionId = FunctionId(3);
const OTHER: FunctionId = FunctionId(4);
const PREFETCH: Origin = Origin::Prefetch {
    predictor: 0,
    once: false,
};

fn buffer(slots: usize) -> Buffer<Vec<Tag>> {
    Buffer::new(ME, vec![Tag::FREE; slots]).unwrap()
}

fn page(number: u64) -> PageId {
    PageId::of(0, number)
}

/// Brings the copy of `page`.
fn bring(buffer: &mut Buffer<Vec<Tag>>, page: PageId, origin: Origin) -> Reserved {
    let id = buffer.next_id();
    let reserved = buffer.reserve(ME, page, id, origin, true).unwrap();
    assert_eq!(buffer.ended(reserved.slot, id, true), Ended::Ready);
    reserved
}

#[test]
fn a_tag_is_small() {
    assert!(size_of::<Tag>() <= 56, "{}", size_of::<Tag>());
}

#[test]
fn pages_are_numbered_both_ways() {
    for number in [0, 1, 511, 512, u64::MAX] {
        assert_eq!(page(number).number(), Some(number));
    }
}

#[test]
fn a_copy_is_found_when_it_has_arrived() {
    let mut buffer = buffer(16);
    let id = buffer.next_id();
    assert_eq!(buffer.look_up(ME, page(1)), Found::Nothing);
    let slot = buffer
        .reserve(ME, page(1), id, PREFETCH, true)
        .unwrap()
        .slot;
    assert_eq!(
        buffer.look_up(ME, page(1)),
        Found::Coming {
            slot,
            id,
            origin: PREFETCH,
            first: true
        }
    );
    assert_eq!(
        buffer.reserve(ME, page(1), id, PREFETCH, true),
        Err(Refused::Present)
    );
    assert_eq!(buffer.ended(slot, id, true), Ended::Ready);
    assert_eq!(
        buffer.look_up(ME, page(1)),
        Found::Copy {
            slot,
            id,
            origin: PREFETCH,
            first: false
        }
    );
    assert_eq!(buffer.look_up(ME, PageId::of(1, 1)), Found::Nothing);
    assert_eq!(buffer.in_use(), 1);
}

#[test]
fn ends_that_cannot_be_are_told_apart() {
    let mut buffer = buffer(8);
    let id = buffer.next_id();
    let slot = buffer
        .reserve(ME, page(1), id, PREFETCH, true)
        .unwrap()
        .slot;
    let (unknown, zero) = (TransactionId(id.0 + 1), TransactionId(0));
    assert_eq!(buffer.ended(slot, unknown, true), Ended::Unknown);
    assert_eq!(buffer.ended(slot, zero, true), Ended::Unknown);
    assert_eq!(buffer.ended(Slot(8), id, true), Ended::Unknown);
    assert_eq!(buffer.ended(slot, id, true), Ended::Ready);
    assert_eq!(buffer.ended(slot, id, true), Ended::Duplicate);
    assert!(matches!(
        buffer.drop_copy(ME, page(1)),
        Some(Dropped::Freed(_))
    ));
    assert_eq!(buffer.ended(slot, id, true), Ended::Stale);
    let newer = buffer.next_id();
    let again = buffer
        .reserve(ME, page(1), newer, PREFETCH, true)
        .unwrap()
        .slot;
    assert_eq!(buffer.ended(again, id, true), Ended::Stale);
    assert_eq!(
        buffer.look_up(ME, page(1)),
        Found::Coming {
            slot: again,
            id: newer,
            origin: PREFETCH,
            first: true
        }
    );
}

#[test]
fn a_slot_is_free_only_when_no_transfer_goes_to_it() {
    let mut buffer = buffer(8);
    let ids: Vec<_> = (0..8)
        .map(|number| {
            let id = buffer.next_id();
            let slot = buffer
                .reserve(ME, page(number), id, PREFETCH, true)
                .unwrap()
                .slot;
            (number, id, slot)
        })
        .collect();
    assert!(matches!(
        buffer.drop_copy(ME, page(3)),
        Some(Dropped::Pending(_))
    ));
    assert_eq!(buffer.look_up(ME, page(3)), Found::Nothing);
    let id = buffer.next_id();
    assert_eq!(
        buffer.reserve(ME, page(9), id, PREFETCH, true),
        Err(Refused::NoRoom)
    );
    let (_, dropped, slot) = ids[3];
    assert!(matches!(buffer.ended(slot, dropped, true), Ended::Freed(_)));
    assert_eq!(
        buffer.reserve(ME, page(9), id, PREFETCH, true).unwrap(),
        Reserved {
            slot,
            displaced: None
        }
    );
}

#[test]
fn emptying_leaves_nothing_to_find_and_waits_for_transfers() {
    let mut buffer = buffer(16);
    for number in 0..4 {
        bring(&mut buffer, page(number), PREFETCH);
    }
    let id = buffer.next_id();
    let under_way = buffer
        .reserve(ME, page(7), id, PREFETCH, true)
        .unwrap()
        .slot;
    let mut freed = 0;
    let mut pending = 0;
    buffer.empty(|dropped| match dropped {
        Dropped::Freed(_) => freed += 1,
        Dropped::Pending(_) => pending += 1,
    });
    assert_eq!((freed, pending, buffer.in_use()), (4, 1, 1));
    for number in 0..8 {
        assert!(!buffer.has(ME, page(number)));
    }
    let mut drained = Vec::new();
    buffer.drained(|gone| drained.push(gone.slot));
    assert_eq!(drained, [under_way]);
    assert_eq!(buffer.in_use(), 0);
    assert_eq!(buffer.ended(under_way, id, true), Ended::Stale);
}

#[test]
fn a_closed_space_has_no_copies() {
    let mut buffer = buffer(16);
    bring(&mut buffer, PageId::of(1, 5), PREFETCH);
    bring(&mut buffer, PageId::of(2, 5), PREFETCH);
    let mut gone = Vec::new();
    buffer.forget(1, |dropped| gone.push(dropped));
    assert_eq!(gone.len(), 1);
    assert!(buffer.has(ME, PageId::of(2, 5)) && !buffer.has(ME, PageId::of(1, 5)));
}

#[test]
fn what_was_read_once_goes_first_and_what_is_read_again_stays() {
    let mut buffer = buffer(8);
    let once = Origin::Prefetch {
        predictor: 0,
        once: true,
    };
    bring(&mut buffer, page(0), once);
    for number in 1..8 {
        bring(&mut buffer, page(number), PREFETCH);
    }
    buffer.look_up(ME, page(0));
    // Twice: it may be so once more.
    buffer.look_up(ME, page(1));
    buffer.look_up(ME, page(1));
    assert_eq!(
        bring(&mut buffer, page(8), PREFETCH)
            .displaced
            .unwrap()
            .page,
        page(0)
    );
    for number in 9..15 {
        let gone = bring(&mut buffer, page(number), PREFETCH)
            .displaced
            .unwrap();
        assert_ne!(gone.page, page(1));
        assert!(!gone.used);
    }
}

#[test]
fn without_growing_as_many_are_in_use_as_before() {
    let mut buffer = buffer(64);
    for number in 0..20 {
        bring(&mut buffer, page(number), PREFETCH);
    }
    let in_use = buffer.in_use();
    for number in 100..200 {
        let id = buffer.next_id();
        let reserved = buffer
            .reserve(ME, page(number), id, PREFETCH, false)
            .unwrap();
        assert!(reserved.displaced.is_some());
        buffer.ended(reserved.slot, id, true);
        assert_eq!(buffer.in_use(), in_use);
    }
}

#[test]
fn nobody_hits_what_is_anothers() {
    // Ten million tries: floods, guessed addresses, replayed ids.
    let tries: u64 = if cfg!(miri) { 1_000 } else { 10_000_000 };
    let mut mine = buffer(256);
    let mut theirs = Buffer::new(OTHER, vec![Tag::FREE; 256]).unwrap();
    let mut ids = Vec::new();
    for number in 0..200 {
        let reserved = bring(&mut mine, page(number), PREFETCH);
        ids.push((reserved.slot, number));
    }
    let before: BTreeSet<u64> = (0..200)
        .filter(|number| mine.has(ME, page(*number)))
        .collect();
    let mut random = 0x1234_5678_9abc_def1u64;
    let mut hits = 0u64;
    for _ in 0..tries {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let guess = page(random % 512);
        match random >> 62 {
            0 => hits += u64::from(mine.look_up(OTHER, guess) != Found::Nothing),
            1 => {
                let id = theirs.next_id();
                if let Ok(reserved) = theirs.reserve(OTHER, guess, id, PREFETCH, true) {
                    theirs.ended(reserved.slot, id, random & 1 == 0);
                }
                hits += u64::from(mine.reserve(OTHER, guess, id, PREFETCH, true).is_ok());
            }
            2 => {
                let (slot, _) = ids[(random % 200) as usize];
                hits += u64::from(mine.drop_copy(OTHER, guess).is_some());
                // Over again: it stays as it is.
                let id = TransactionId(random % 400);
                hits += u64::from(matches!(mine.ended(slot, id, false), Ended::Freed(_)));
            }
            _ => hits += u64::from(mine.has(OTHER, guess)),
        }
    }
    assert_eq!(hits, 0);
    for number in 0..200 {
        assert_eq!(mine.has(ME, page(number)), before.contains(&number));
    }
}

#[derive(Clone, Debug)]
enum Step {
    LookUp(u64),
    Reserve(u64, bool, bool),
    End(usize, bool),
    Drop(u64),
    Empty,
    Forget(u32),
    Drained,
}

fn step() -> impl Strategy<Value = Step> {
    let number = || 0u64..48;
    prop_oneof![
        8 => number().prop_map(Step::LookUp),
        8 => (number(), any::<bool>(), any::<bool>()).prop_map(|(number, once, grow)| Step::Reserve(number, once, grow)),
        8 => (any::<usize>(), prop::bool::weighted(0.9)).prop_map(|(which, arrived)| Step::End(which, arrived)),
        3 => number().prop_map(Step::Drop),
        1 => Just(Step::Empty),
        1 => (0u32..2).prop_map(Step::Forget),
        1 => Just(Step::Drained),
    ]
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn as_a_plain_map_has_it(steps in prop::collection::vec(step(), 0..most(400))) {
        let mut buffer = buffer(24);
        // What is to be found, by page; transfers, and whether their page is still wanted.
        let mut copies: BTreeMap<PageId, TransactionId> = BTreeMap::new();
        let mut flights: Vec<(PageId, TransactionId, Slot, bool)> = Vec::new();
        let of = |number: u64| PageId::of(u32::from(number % 3 == 0), number);
        for step in steps {
            match step {
                Step::LookUp(number) => {
                    let page = of(number);
                    match buffer.look_up(ME, page) {
                        Found::Copy { id, .. } => prop_assert_eq!(copies.get(&page), Some(&id)),
                        Found::Coming { id, .. } => prop_assert!(flights.iter().any(|flight| (flight.0, flight.1, flight.3) == (page, id, true))),
                        Found::Nothing => {
                            prop_assert!(!copies.contains_key(&page));
                            prop_assert!(!flights.iter().any(|flight| flight.0 == page && flight.3));
                        }
                    }
                }
                Step::Reserve(number, once, grow) => {
                    let page = of(number);
                    let before = buffer.in_use();
                    let id = buffer.next_id();
                    match buffer.reserve(ME, page, id, Origin::Prefetch { predictor: 1, once }, grow) {
                        Ok(reserved) => {
                            prop_assert!(flights.iter().all(|flight| flight.2 != reserved.slot), "a transfer goes there");
                            if let Some(gone) = reserved.displaced {
                                prop_assert_eq!(copies.remove(&gone.page), Some(gone.id));
                                prop_assert_eq!(buffer.in_use(), before);
                            } else {
                                prop_assert!(grow);
                                prop_assert_eq!(buffer.in_use(), before + 1);
                            }
                            flights.push((page, id, reserved.slot, true));
                        }
                        Err(Refused::Present) => prop_assert!(
                            copies.contains_key(&page) || flights.iter().any(|flight| flight.0 == page && flight.3)
                        ),
                        Err(Refused::NoRoom) => prop_assert!(flights.len() >= WAYS || (!grow && copies.is_empty())),
                        Err(Refused::Foreign) => prop_assert!(false),
                    }
                }
                Step::End(which, arrived) => {
                    if flights.is_empty() {
                        continue;
                    }
                    let (page, id, slot, wanted) = flights.swap_remove(which % flights.len());
                    let ended = buffer.ended(slot, id, arrived);
                    if arrived && wanted {
                        prop_assert_eq!(ended, Ended::Ready);
                        copies.insert(page, id);
                        prop_assert_eq!(buffer.ended(slot, id, arrived), Ended::Duplicate);
                    } else {
                        prop_assert!(matches!(ended, Ended::Freed(gone) if gone.page == page && gone.id == id));
                    }
                }
                Step::Drop(number) => {
                    let page = of(number);
                    let there = copies.remove(&page).is_some();
                    let flight = flights.iter_mut().find(|flight| flight.0 == page && flight.3);
                    let coming = flight.map(|flight| flight.3 = false).is_some();
                    match buffer.drop_copy(ME, page) {
                        Some(Dropped::Freed(_)) => prop_assert!(there),
                        Some(Dropped::Pending(_)) => prop_assert!(coming),
                        None => prop_assert!(!there && !coming),
                    }
                }
                Step::Empty => {
                    buffer.empty(|_| ());
                    copies.clear();
                    flights.iter_mut().for_each(|flight| flight.3 = false);
                }
                Step::Forget(space) => {
                    buffer.forget(space, |_| ());
                    copies.retain(|page, _| page.block.space != space);
                    flights.iter_mut().filter(|flight| flight.0.block.space == space).for_each(|flight| flight.3 = false);
                }
                Step::Drained => {
                    let mut gone = 0;
                    buffer.drained(|_| gone += 1);
                    prop_assert_eq!(gone, flights.len());
                    flights.clear();
                }
            }
            prop_assert_eq!(buffer.in_use() as usize, copies.len() + flights.len());
        }
    }
}
