// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Tables for a terminal.

use std::fmt::Write as _;

use comfy_table::{presets, CellAlignment, ContentArrangement, Table};

use super::{mib, percent, three, time};
use crate::{experiment::Cell, trace::stats::Stats};

/// A table whose first column is text and whose others are numbers.
pub(super) fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(headings);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Its lines, without blanks at their ends.
pub(super) fn render(table: &Table) -> String {
    let mut text = String::new();
    for line in table.to_string().lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A cell: a line for each policy, the oracle below.
pub(crate) fn cell_table(cell: &Cell) -> String {
    let mut text = format!(
        "{}\nworking set {} MiB, memory {} MiB ({} of it), link {} GB/s\n\n",
        cell.place.workload,
        mib(cell.working_set_bytes),
        mib(u64::from(cell.place.frames) * 4096),
        cell.place.capacity,
        three(cell.place.link_megabytes_per_s as f64 / 1000.0),
    );
    let mut t = table(&[
        "policy",
        "time",
        "x oracle",
        "faults",
        "coverage",
        "accuracy",
        "late",
        "pollution",
        "moved",
        "x needed",
        "p50",
        "p99",
    ]);
    for row in &cell.rows {
        let [p50, p99] = row
            .decision_host_ns
            .map_or(["-".into(), "-".into()], |ns| ns.map(time));
        t.add_row([
            row.policy.clone(),
            time(row.time_ns),
            three(row.slowdown),
            (row.faults + row.host_faults).to_string(),
            percent(row.coverage),
            percent(row.accuracy),
            percent(row.lateness),
            percent(row.pollution),
            mib(row.bytes_moved),
            three(row.moved_of_needed),
            p50,
            p99,
        ]);
    }
    let o = &cell.oracle;
    t.add_row([
        "oracle".to_owned(),
        time(o.time_ns),
        "1.00".into(),
        "0".into(),
        "100 %".into(),
        "100 %".into(),
        "0 %".into(),
        "0 %".into(),
        mib(o.bytes),
        "1.00".into(),
    ]);
    text.push_str(&render(&t));
    let _ = writeln!(
        text,
        "\nTimes are virtual, sizes in MiB. p50, p99: a batch's decision, in time of this machine.\n\
         The oracle needs {} for its misses on the link and {} to compute.",
        time(o.link_ns),
        time(o.compute_ns)
    );
    for row in cell.rows.iter().filter(|row| row.throttled > 0) {
        let _ = writeln!(
            text,
            "Thrashing under {}: {} faults waited, {} ended with their page pinned, {} touches went over the link.",
            row.policy, row.throttled, row.pinned, row.remote
        );
    }
    if let Some(ns) = o.in_order_ns {
        let _ = writeln!(
            text,
            "Pages that come without faults, in the order of their first touches, take {}.",
            time(ns)
        );
    }
    text
}

/// The figures of a trace.
pub(crate) fn stats_text(s: &Stats) -> String {
    let line = |text: &mut String, name: &str, value: String| {
        let _ = writeln!(text, "{name:<22} {value}");
    };
    let share = |value| percent(Some(value));
    let mut text = format!("{}\n\n", s.name);
    line(
        &mut text,
        "space",
        format!("{} MiB", mib(u64::from(s.pages) * 4096)),
    );
    line(
        &mut text,
        "working set",
        format!(
            "{} MiB: {} pages in {} blocks",
            mib(s.working_set_bytes),
            s.working_set_pages,
            s.blocks
        ),
    );
    let [low, mid, high] = s.pages_per_block;
    line(
        &mut text,
        "pages of a block",
        format!("{mid} (median), {low} to {high} in the middle 80 %"),
    );
    line(&mut text, "accesses", s.accesses.to_string());
    line(
        &mut text,
        "touches",
        format!("{}, of which {} write", s.touches, share(s.write_share)),
    );
    line(
        &mut text,
        "items",
        format!(
            "{}, {} barriers, {} by the host",
            s.items, s.barriers, s.host_items
        ),
    );
    line(
        &mut text,
        "next page",
        format!("{} of touches", share(s.next_page_share)),
    );
    let [half, most] = s.reuse_pages;
    line(
        &mut text,
        "reuse",
        format!(
            "{} of touches; within {half} pages for half of them, {most} for 90 %",
            share(s.reuse_share)
        ),
    );
    text
}
