// SPDX-License-Identifier: GPL-2.0

//! The time of decisions, for people: nothing depends on it. `cargo bench -p vfetch-bench-engine --bench time`.

#![allow(missing_docs, reason = "made by criterion's macros")]

use criterion::{criterion_group, criterion_main, Criterion, Throughput};
use std::hint::black_box;
use vfetch_bench_engine::{cases, Decider};
use vfetch_engine::tree::Walk;

/// Decisions in turn, so that branches are not learnt by heart.
const CASES: usize = 1024;

fn time(c: &mut Criterion) {
    for (name, walk) in [("managed", Walk::Managed), ("ats", Walk::Ats)] {
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Elements(1));
        for faults in [1, 8, 64, 512] {
            let cases = cases(CASES, faults, true);
            let mut at = 0;
            group.bench_function(format!("{faults} faults"), |b| {
                b.iter(|| {
                    at = (at + 1) % CASES;
                    black_box(Decider::Fast.decide(black_box(&cases[at].input(walk))))
                });
            });
        }
    }
}

criterion_group!(benches, time);
criterion_main!(benches);
