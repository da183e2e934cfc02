// SPDX-License-Identifier: GPL-2.0

//! The protocol as it is, in all worlds within the bounds given here, and with rules broken.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
};

use stateright::{Checker, Model};
use vfetch_engine::prefetch::Location::{self, Device, Host};
use vfetch_model::{Deed, Mutant, Protocol, Scope, World};

const LOAD: Deed = Deed::Host { write: false };
const STORE: Deed = Deed::Host { write: true };
const JOB_READS: Deed = Deed::Device { write: false };
const JOB_WRITES: Deed = Deed::Device { write: true };
const WRITE: Deed = Deed::Write { whole: false };
const OVERWRITE: Deed = Deed::Write { whole: true };

/// Blocks go there to make room, with all pages of the space.
const fn evict(to: Location) -> Deed {
    Deed::Move { to, evict: true }
}

/// A hint brings all pages there.
const fn bring(to: Location) -> Deed {
    Deed::Move { to, evict: false }
}

/// A space of two pages; each actor's deeds are on the page given.
fn on_two(actors: &[&[(usize, Deed)]]) -> Scope {
    Scope {
        pages: 2,
        actors: actors.iter().map(|deeds| deeds.to_vec()).collect(),
        failures: 0,
        timeouts: 0,
    }
}

/// A space of one page.
fn on_one(actors: &[&[Deed]]) -> Scope {
    let on_it = |deeds: &&[Deed]| deeds.iter().map(|deed| (0, *deed)).collect();
    Scope {
        pages: 1,
        actors: actors.iter().map(on_it).collect(),
        failures: 0,
        timeouts: 0,
    }
}

/// The same with transfers that fail, and that time out.
fn failing(scope: Scope, failures: u8, timeouts: u8) -> Scope {
    Scope {
        failures,
        timeouts,
        ..scope
    }
}

/// What stands for a world, as in the checker: two of them have one by a chance that does not matter.
fn fingerprint(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

/// Fails if there is a world from which not everybody can come to an end any more. Where there is none, everybody does as long as whoever
/// has a page at last is not forever robbed of it before its use.
fn all_can_end(protocol: &Protocol) {
    let mut numbers = HashMap::new();
    // Of each world: those before it, and whether it is the end.
    let mut before: Vec<Vec<usize>> = Vec::new();
    let mut ends = Vec::new();
    let mut new = VecDeque::new();
    let mut number = |world: World, new: &mut VecDeque<(usize, World)>| {
        let next = numbers.len();
        let number = *numbers.entry(fingerprint(&world)).or_insert(next);
        if number == next {
            new.push_back((number, world));
        }
        number
    };
    for world in protocol.init_states() {
        number(world, &mut new);
    }
    while let Some((from, world)) = new.pop_front() {
        let mut acts = Vec::new();
        protocol.actions(&world, &mut acts);
        if acts.is_empty() {
            ends.push(from);
        }
        for act in acts {
            let Some(next) = protocol.next_state(&world, act) else {
                continue;
            };
            let to = number(next, &mut new);
            before.resize(before.len().max(to + 1), Vec::new());
            before[to].push(from);
        }
    }
    let mut can_end = vec![false; before.len()];
    while let Some(world) = ends.pop() {
        if !can_end[world] {
            can_end[world] = true;
            ends.extend(&before[world]);
        }
    }
    let stuck = can_end.iter().filter(|can| !**can).count();
    assert!(stuck == 0, "no way leads to the end from {stuck} worlds");
}

/// Holds all worlds of `scope` to the properties. There are at least so many, so that a scope in which nothing happens is seen.
fn explore(scope: Scope, least: usize) {
    let protocol = Protocol::new(scope);
    let checker = protocol.clone().checker().spawn_bfs().join();
    checker.assert_properties();
    let (worlds, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{worlds} worlds, at most {depth} steps");
    assert!(worlds >= least, "only {worlds} worlds");
    all_can_end(&protocol);
}

#[test]
fn everybody_uses_one_page() {
    let scope = on_one(&[
        &[STORE],
        &[JOB_WRITES],
        &[Deed::Read],
        &[WRITE],
        &[Deed::DirectIo],
        &[evict(Host)],
        &[Deed::Reset],
    ]);
    explore(failing(scope, 0, 1), 200_000);
}

#[test]
fn transfers_fail_and_time_out() {
    let scope = on_one(&[
        &[STORE, LOAD],
        &[JOB_WRITES],
        &[Deed::Read],
        &[WRITE],
        &[evict(Host)],
        &[evict(Device)],
    ]);
    explore(failing(scope, 1, 1), 150_000);
}

#[test]
fn pages_are_held_and_pinned() {
    let scope = on_one(&[
        &[STORE, LOAD],
        &[JOB_WRITES],
        &[Deed::DirectIo],
        &[Deed::DirectIo],
        &[evict(Host), evict(Device)],
        &[Deed::Pin, Deed::Unpin],
    ]);
    explore(scope, 30_000);
}

#[test]
fn copies_are_made_and_dropped() {
    let scope = on_one(&[
        &[LOAD, STORE],
        &[JOB_WRITES],
        &[Deed::Read],
        &[Deed::Duplicate, Deed::DropCopy],
        &[evict(Host)],
    ]);
    explore(failing(scope, 0, 1), 300_000);
}

#[test]
fn what_is_lost_is_overwritten_or_discarded() {
    let scope = on_one(&[
        &[STORE],
        &[JOB_WRITES],
        &[OVERWRITE],
        &[Deed::Reset],
        &[Deed::Discard],
    ]);
    explore(failing(scope, 0, 1), 80_000);
}

#[test]
fn a_reset_comes_under_copies_and_pins() {
    let scope = on_one(&[
        &[LOAD],
        &[JOB_WRITES],
        &[Deed::Read],
        &[Deed::Reset],
        &[Deed::Duplicate],
        &[Deed::Pin],
    ]);
    explore(scope, 50_000);
}

#[test]
fn two_pages_move_together() {
    let scope = on_two(&[
        &[(0, STORE), (1, LOAD)],
        &[(1, JOB_WRITES), (0, JOB_READS)],
        &[(1, WRITE), (0, Deed::Read)],
        &[(0, evict(Host)), (0, bring(Device))],
        &[(0, Deed::DirectIo)],
    ]);
    explore(scope, 30_000);
}

#[test]
fn two_pages_move_together_and_fail() {
    let scope = on_two(&[
        &[(0, STORE)],
        &[(1, JOB_WRITES), (0, JOB_READS)],
        &[(0, evict(Host))],
        &[(0, Deed::Reset)],
    ]);
    explore(failing(scope, 0, 1), 50_000);
}

/// Each rule, broken, in a scope in which that shows, and as what.
#[test]
fn a_rule_that_is_broken_is_found() {
    let mixed = || {
        on_one(&[
            &[STORE, LOAD],
            &[JOB_WRITES],
            &[WRITE],
            &[Deed::DirectIo],
            &[evict(Host)],
        ])
    };
    let copied = || {
        on_one(&[
            &[LOAD],
            &[JOB_READS, JOB_WRITES],
            &[Deed::Read],
            &[Deed::Duplicate],
        ])
    };
    let reset = || on_one(&[&[STORE, LOAD], &[JOB_WRITES], &[Deed::Read], &[Deed::Reset]]);
    let window = || {
        on_one(&[
            &[STORE, STORE],
            &[JOB_WRITES],
            &[Deed::Pin, Deed::Unpin],
            &[evict(Host)],
        ])
    };
    let lost_write = "no lost write";
    let freed = "nothing is used after it was freed";
    let broken = [
        (Mutant::TransferBeforeInvalidation, mixed(), freed),
        (Mutant::TransferBeforeDrain, mixed(), lost_write),
        (Mutant::TransferBeforeUnmapping, mixed(), freed),
        (Mutant::HeldBeforeUnmapping, mixed(), lost_write),
        (Mutant::HeldIgnored, mixed(), lost_write),
        (Mutant::EntryAfterInvalidation, mixed(), freed),
        (Mutant::InvalidationWithoutDrain, mixed(), lost_write),
        (Mutant::PublishedBeforeArrival, mixed(), lost_write),
        (Mutant::NoQuarantine, failing(mixed(), 0, 1), lost_write),
        (Mutant::ResetForgotten, reset(), lost_write),
        (Mutant::NoWake, mixed(), "every wait ends"),
        (Mutant::CopyKept, copied(), "no stale read"),
        (Mutant::UnpinnedBeforeUnmapping, window(), lost_write),
    ];
    let mut missed = Vec::new();
    for (mutant, scope, property) in broken {
        let protocol = Protocol {
            scope: scope.clone(),
            mutant: Some(mutant),
        };
        let checker = protocol.checker().spawn_bfs().join();
        let found: Vec<_> = checker.discoveries().into_keys().collect();
        if !found.contains(&property) {
            missed.push((mutant, found));
        }
        // It is the rule, and not the scope.
        Protocol::new(scope)
            .checker()
            .spawn_bfs()
            .join()
            .assert_properties();
    }
    assert!(missed.is_empty(), "{missed:?}");
}
