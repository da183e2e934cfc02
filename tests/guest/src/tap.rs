// SPDX-License-Identifier: GPL-2.0

//! Running tests and reporting them as TAP.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::process::ExitCode;

/// A claim and what puts it to the test: an error, or a panic, refutes it.
pub(crate) type Test = (&'static str, fn() -> anyhow::Result<()>);

/// Tests that run on the same machine.
#[derive(Clone, Copy)]
pub(crate) struct Group {
    pub name: &'static str,
    pub about: &'static str,
    pub tests: &'static [Test],
}

/// Lists functions as [`Test`]s, with their names as claims.
#[macro_export]
macro_rules! tests {
    ($($path:path),* $(,)?) => {
        &[$((stringify!($path), $path as fn() -> anyhow::Result<()>)),*]
    };
}

/// Runs the tests one after the other.
pub(crate) fn run(tests: &[Test]) -> ExitCode {
    let mut failed = 0;
    println!("TAP version 13");
    println!("1..{}", tests.len());
    for (number, (name, test)) in (1..).zip(tests) {
        let name = name.replace(" :: ", "::").replace('_', " ");
        let error = match catch_unwind(AssertUnwindSafe(test)) {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{error:?}")),
            Err(_) => Some("panicked: see above".to_string()),
        };
        match error {
            None => println!("ok {number} - {name}"),
            Some(error) => {
                failed += 1;
                for line in error.lines() {
                    println!("# {line}");
                }
                println!("not ok {number} - {name}");
            }
        }
    }
    ExitCode::from(u8::from(failed > 0))
}
