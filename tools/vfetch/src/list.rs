// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `vfetch list`.

use libvfetch::{Function, Host, Info, Space};
use serde::Serialize;

use crate::{
    exit::advise,
    output::{render, table, Output},
    units,
};

/// One function. What only an open file tells is absent without permission.
#[derive(Debug, Serialize)]
struct Entry {
    node: u32,
    path: String,
    address: String,
    kind: &'static str,
    vf: Option<u32>,
    pf: Option<String>,
    vfs: Option<u32>,
    total_vfs: Option<u32>,
    state: Option<&'static str>,
    memory_bytes: Option<u64>,
    free_bytes: Option<u64>,
}

impl Entry {
    fn new(function: &Function, info: Option<&Info>) -> Self {
        Self {
            node: function.node,
            path: function.path.display().to_string(),
            address: function.address.to_string(),
            kind: function.role.kind(),
            vf: match function.role {
                libvfetch::Role::Vf(n) => Some(n),
                libvfetch::Role::Pf => None,
            },
            pf: function.pf.map(|pf| pf.to_string()),
            vfs: function.vfs.map(|v| v.enabled),
            total_vfs: function.vfs.map(|v| v.total),
            state: info.map(|i| i.state().as_str()),
            memory_bytes: info.map(|i| i.memory_bytes),
            free_bytes: info.map(|i| i.free_bytes),
        }
    }

    fn row(&self) -> [String; 6] {
        let what = match (self.vf, &self.pf, self.vfs, self.total_vfs) {
            (Some(n), Some(pf), ..) => format!("VF {n} of {pf}"),
            (_, _, Some(vfs), Some(total)) => format!("PF, {vfs} of {total} VFs"),
            _ => "PF".into(),
        };
        let size = |bytes: Option<u64>| bytes.map_or("-".into(), units::bytes);
        [
            self.path.clone(),
            self.address.clone(),
            what,
            self.state.unwrap_or("-").into(),
            size(self.memory_bytes),
            size(self.free_bytes),
        ]
    }
}

fn show(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return String::new();
    }
    let mut table = table(&["node", "address", "function", "state", ">memory", ">free"]);
    for entry in entries {
        table.add_row(entry.row());
    }
    render(&table)
}

pub(crate) fn run(host: &Host, out: Output) -> anyhow::Result<()> {
    let mut denied = None;
    let entries: Vec<Entry> = host
        .functions()?
        .iter()
        .map(|function| {
            let info = Space::open(function).and_then(|space| space.info());
            if let Err(error @ libvfetch::Error::PermissionDenied(_)) = &info {
                denied = error.hint();
            }
            Entry::new(function, info.ok().as_ref())
        })
        .collect();
    out.print(&entries, |entries| show(entries))?;
    if !out.is_json() {
        if entries.is_empty() {
            let none = libvfetch::Error::NoFunctions;
            eprintln!("vfetch: {none}");
            advise(&none.hint().unwrap_or_default());
        }
        if let Some(hint) = denied {
            eprintln!("vfetch: no permission for the nodes, so state and memory are not known");
            advise(&hint);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use libvfetch::{Role, VfCount};

    use super::*;

    fn function(node: u32) -> Function {
        let pf = "0000:01:00.0".parse().unwrap();
        Function {
            node,
            address: format!("0000:01:00.{node}").parse().unwrap(),
            role: if node == 0 { Role::Pf } else { Role::Vf(node) },
            pf: (node != 0).then_some(pf),
            vfs: (node == 0).then_some(VfCount {
                enabled: 8,
                total: 8,
            }),
            path: format!("/dev/vfetch{node}").into(),
        }
    }

    #[test]
    fn the_table_fits_a_terminal_and_says_what_is_not_known() {
        let mut info = Info::default();
        info.memory_bytes = 268_435_456;
        info.free_bytes = 268_431_360;
        let entries = [
            Entry::new(&function(0), Some(&info)),
            Entry::new(&function(7), None),
        ];
        let text = show(&entries);
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        assert!(
            text.contains("PF, 8 of 8 VFs") && text.contains("ready"),
            "{text}"
        );
        assert!(
            text.lines()
                .nth(2)
                .unwrap()
                .contains("VF 7 of 0000:01:00.0"),
            "{text}"
        );
        assert!(text.ends_with("-\n"), "{text}");
    }
}
