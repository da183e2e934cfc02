// SPDX-License-Identifier: GPL-2.0

//! `count WALK DECIDER FAULTS ALIGNED DECISIONS`: makes so many decisions. scripts/bench-engine.sh runs it under callgrind.

use std::hint::black_box;

use vfetch_bench_engine::{cases, Decider};
use vfetch_engine::tree::Walk;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // As a benchmark of cargo it does nothing.
    let &[walk, decider, faults, aligned, decisions] = words.as_slice() else {
        return;
    };
    let walk = if walk == "ats" {
        Walk::Ats
    } else {
        Walk::Managed
    };
    let decider = if decider == "reference" {
        Decider::Reference
    } else {
        Decider::Fast
    };
    let number = |text: &str| text.parse().unwrap_or(1);
    for case in cases(number(decisions), number(faults), aligned == "aligned") {
        black_box(decider.decide(black_box(&case.input(walk))));
    }
}
