// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Tables for people, JSON for programs.

use std::io::{self, IsTerminal, Write};

use comfy_table::{presets, CellAlignment, ContentArrangement, Table};
use serde::Serialize;

/// Which of the two is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Prints `value` as JSON, or what `human` makes of it.
    pub(crate) fn print<T: Serialize>(
        self,
        value: &T,
        human: impl FnOnce(&T) -> String,
    ) -> io::Result<()> {
        let mut text = if self.json {
            serde_json::to_string_pretty(value)?
        } else {
            human(value)
        };
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        write_out(&text)
    }

    /// Prints `value` as one line of JSON: of a series.
    pub(crate) fn print_line<T: Serialize>(value: &T) -> io::Result<()> {
        write_out(&format!("{}\n", serde_json::to_string(value)?))
    }
}

/// To stdout, at once; a reader that is gone is an error and not a panic.
pub(crate) fn write_out(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Whether output goes to someone who watches.
pub(crate) fn on_terminal() -> bool {
    io::stdout().is_terminal()
}

/// A table with these headings; a heading that starts with `>` has its column right-aligned.
pub(crate) fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().map(|h| h.trim_start_matches('>')));
    for (column, heading) in table.column_iter_mut().zip(headings) {
        column.set_padding((0, 2));
        if heading.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// The table's text, without blanks at the ends of its lines.
pub(crate) fn render(table: &Table) -> String {
    let mut text = String::new();
    for line in table.to_string().lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_where_the_text_ends() {
        let mut t = table(&["name", ">size"]);
        t.add_row(["a", "10"]).add_row(["long", "9"]);
        assert_eq!(render(&t), "name  size\na       10\nlong     9\n");
    }
}
