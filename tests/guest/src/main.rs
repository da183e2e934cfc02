// SPDX-License-Identifier: GPL-2.0

//! `vfetch-test GROUP[:WORD]...`: runs groups of tests in the guest, or those with a word in their name, and prints
//! TAP. Without a group it lists them.
//!
//! A group is a list of claims, each with the function that puts it to the test. What needs more than one kind
//! of machine (an IOMMU, fault injection) is in a group of its own, which `suites.toml` runs on
//! such a machine.

mod io;
mod life;
mod mapped;
mod starved;
mod support;
mod tap;
mod torture;

use std::process::ExitCode;

fn main() -> ExitCode {
    let groups = [
        io::groups(),
        life::groups(),
        mapped::groups(),
        starved::groups(),
        torture::groups(),
    ]
    .concat();
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if wanted.is_empty() {
        for group in &groups {
            println!(
                "{:16} {} tests: {}",
                group.name,
                group.tests.len(),
                group.about
            );
        }
        return ExitCode::SUCCESS;
    }
    let mut tests = Vec::new();
    for name in &wanted {
        let (name, word) = name.split_once(':').unwrap_or((name, ""));
        match groups.iter().find(|group| group.name == name) {
            Some(group) => tests.extend(group.tests.iter().filter(|(test, _)| test.contains(word))),
            None => {
                eprintln!(
                    "vfetch-test: no group '{name}'; without arguments the groups are listed"
                );
                return ExitCode::from(2);
            }
        }
    }
    tap::run(&tests)
}
