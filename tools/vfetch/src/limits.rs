// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `vfetch limits`.

use anyhow::{bail, Result};
use libvfetch::{Host, Scope, Space, LIMIT_MIN_BYTES};
use serde::Serialize;

use crate::{
    cli::LimitsArgs,
    output::{render, table, Output},
    target::{self, Target},
    units,
};

/// The limits of a space, or of a function.
#[derive(Debug, Serialize)]
struct Entry {
    node: u32,
    scope: &'static str,
    host_bytes: u64,
    host_used_bytes: u64,
    device_bytes: u64,
    device_used_bytes: u64,
}

impl Entry {
    fn of(space: &Space, scope: Scope) -> libvfetch::Result<Self> {
        let limits = space.limits(scope)?;
        Ok(Self {
            node: space.node(),
            scope: match scope {
                Scope::Space => "space",
                Scope::Function => "function",
            },
            host_bytes: limits.host_bytes,
            host_used_bytes: limits.host_used_bytes,
            device_bytes: limits.device_bytes,
            device_used_bytes: limits.device_used_bytes,
        })
    }
}

fn show(entries: &[Entry]) -> String {
    let mut table = table(&[
        "function",
        "limits of",
        ">host used",
        ">of",
        ">device used",
        ">of",
    ]);
    for entry in entries {
        table.add_row([
            format!("vfetch{}", entry.node),
            if entry.scope == "space" {
                "the space".into()
            } else {
                "all its spaces".to_owned()
            },
            units::bytes(entry.host_used_bytes),
            units::bytes(entry.host_bytes),
            units::bytes(entry.device_used_bytes),
            units::bytes(entry.device_bytes),
        ]);
    }
    render(&table)
}

/// Whose limits are meant: those of a space that somebody holds, or of a function.
fn scope(target: &Target, function: bool) -> Scope {
    match target {
        Target::Function(_) => Scope::Function,
        _ if function => Scope::Function,
        _ => Scope::Space,
    }
}

pub(crate) fn run(host: &Host, args: &LimitsArgs, out: Output) -> Result<()> {
    if [args.host, args.device]
        .into_iter()
        .flatten()
        .any(|n| n < LIMIT_MIN_BYTES)
    {
        bail!("a limit is at least {}", units::bytes(LIMIT_MIN_BYTES));
    }
    let named = &args.functions.targets;
    let mut spaces = Vec::new();
    if named.is_empty() {
        for function in target::all(host)? {
            spaces.push((Space::open(&function)?, Scope::Function));
        }
    }
    for target in named {
        spaces.push((target.open(host)?, scope(target, args.function)));
    }
    let mut entries = Vec::new();
    for (space, scope) in &spaces {
        if args.host.is_some() || args.device.is_some() {
            let now = space.limits(*scope)?;
            space.set_limits(
                *scope,
                args.host.unwrap_or(now.host_bytes),
                args.device.unwrap_or(now.device_bytes),
            )?;
        }
        entries.push(Entry::of(space, *scope)?);
    }
    out.print(&entries, |entries| show(entries))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_space_that_somebody_holds_has_limits_of_its_own() {
        let (function, fd) = ("0".parse().unwrap(), "fd:3".parse().unwrap());
        assert_eq!(scope(&function, false), Scope::Function);
        assert_eq!(scope(&fd, false), Scope::Space);
        assert_eq!(scope(&fd, true), Scope::Function);
    }

    #[test]
    fn the_table_fits_a_terminal() {
        let text = show(&[Entry {
            node: 10,
            scope: "function",
            host_bytes: u64::MAX,
            host_used_bytes: 1023 << 20,
            device_bytes: 1023 << 20,
            device_used_bytes: 1023 << 20,
        }]);
        assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
    }
}
