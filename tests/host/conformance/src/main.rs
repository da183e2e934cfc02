// SPDX-License-Identifier: GPL-2.0

//! `vfetch-conformance FILE`: compares the engine's answers in compatible mode with recorded ones. Exits with 0 when
//! there are rows and every answer is the same; the last line is `N passed, N failed`.

#![forbid(unsafe_code)]

use std::fs::File;
use std::process::ExitCode;

use vfetch_conformance::{check, Difference, Outcome, Tally};
use vfetch_engine::mask::PageMask;

/// Rows that failed are shown up to this many.
const SHOWN: u64 = 20;

fn pages(mask: &PageMask) -> String {
    let runs: Vec<String> = mask
        .runs()
        .map(|run| match run.len() {
            1 => run.first().to_string(),
            _ => format!("{}-{}", run.first(), run.outer() - 1),
        })
        .collect();
    if runs.is_empty() {
        "none".into()
    } else {
        runs.join(" ")
    }
}

fn describe(path: &str, line: u64, outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Same => None,
        Outcome::Malformed(error) => Some(format!("{path}:{line}: malformed: {error}")),
        Outcome::Differs(Difference { by, missing, extra }) => Some(format!(
            "{path}:{line}: the {by} answers otherwise: missing pages {}; extra pages {}",
            pages(missing),
            pages(extra)
        )),
    }
}

fn run(path: &str) -> Tally {
    let mut shown: u64 = 0;
    let mut tally = Tally::default();
    let result = File::open(path).and_then(|file| {
        check(file, |line, outcome| {
            match outcome {
                Outcome::Same => tally.passed += 1,
                Outcome::Differs(_) | Outcome::Malformed(_) => tally.failed += 1,
            }
            if let Some(text) = describe(path, line, &outcome) {
                shown += 1;
                if shown <= SHOWN {
                    eprintln!("{text}");
                }
            }
        })
    });
    if shown > SHOWN {
        eprintln!("{path}: {} more rows fail", shown - SHOWN);
    }
    if let Err(error) = result {
        // What was read before it still counts.
        eprintln!("{path}: {error}");
        tally.failed += 1;
    } else if tally == Tally::default() {
        eprintln!("{path}: there are no rows");
    }
    tally
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path] = arguments.as_slice() else {
        eprintln!("usage: vfetch-conformance FILE");
        return ExitCode::from(2);
    };
    let tally = run(path);
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if tally.is_success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
