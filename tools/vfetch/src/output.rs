// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Tables for people, JSON for programs.

use std::{
    fs::{self, File},
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
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

/// A file that appears whole or not at all: it is written as `NAME.part`, and what was at its place
/// stays until [`WholeFile::finish`]. What is no ordinary file (a pipe, a device) is written as it is.
#[derive(Debug)]
pub(crate) struct WholeFile {
    file: File,
    target: PathBuf,
    part: Option<PathBuf>,
}

impl WholeFile {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let cannot = || format!("cannot create {}", path.display());
        let there = fs::metadata(path).ok();
        if there.as_ref().is_some_and(|meta| !meta.is_file()) {
            let file = File::options()
                .write(true)
                .open(path)
                .with_context(cannot)?;
            let target = path.to_owned();
            return Ok(Self {
                file,
                target,
                part: None,
            });
        }
        // A symbolic link stays one.
        let target = if there.is_some() {
            fs::canonicalize(path).with_context(cannot)?
        } else {
            path.to_owned()
        };
        let mut part = target.clone().into_os_string();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = File::create(&part).with_context(cannot)?;
        let whole = Self {
            file,
            target,
            part: Some(part),
        };
        if let Some(meta) = there {
            whole
                .file
                .set_permissions(meta.permissions())
                .with_context(cannot)?;
        }
        Ok(whole)
    }

    /// All of it is written.
    pub(crate) fn finish(mut self) -> Result<()> {
        if let Some(part) = &self.part {
            fs::rename(part, &self.target)
                .with_context(|| format!("cannot create {}", self.target.display()))?;
            self.part = None;
        }
        Ok(())
    }
}

impl Write for WholeFile {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.file.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Without [`WholeFile::finish`] nothing of it stays.
impl Drop for WholeFile {
    fn drop(&mut self) {
        if let Some(part) = &self.part {
            // There is no one to tell.
            let _ = fs::remove_file(part);
        }
    }
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
    fn a_file_is_there_whole_or_as_it_was() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (path, link) = (folder.path().join("data"), folder.path().join("link"));
        fs::write(&path, "precious")?;
        std::os::unix::fs::symlink("data", &link)?;
        let names = || -> Result<Vec<_>> {
            let mut names = Vec::new();
            for entry in fs::read_dir(folder.path())? {
                names.push(entry?.file_name());
            }
            names.sort();
            Ok(names)
        };

        let mut file = WholeFile::create(&path)?;
        file.write_all(b"half")?;
        drop(file);
        assert_eq!(fs::read(&path)?, b"precious");
        assert_eq!(names()?, ["data", "link"]);

        let mut file = WholeFile::create(&link)?;
        file.write_all(b"new")?;
        file.finish()?;
        assert_eq!(fs::read(&path)?, b"new");
        assert_eq!(names()?, ["data", "link"]);
        assert!(fs::symlink_metadata(&link)?.is_symlink());
        Ok(())
    }

    #[test]
    fn what_is_no_ordinary_file_is_written_as_it_is() -> Result<()> {
        let mut file = WholeFile::create(Path::new("/dev/null"))?;
        file.write_all(b"gone")?;
        file.finish()?;
        assert!(!fs::metadata("/dev/null")?.is_file());
        assert!(WholeFile::create(Path::new("/")).is_err());
        Ok(())
    }

    #[test]
    fn columns_are_aligned_and_lines_end_where_the_text_ends() {
        let mut t = table(&["name", ">size"]);
        t.add_row(["a", "10"]).add_row(["long", "9"]);
        assert_eq!(render(&t), "name  size\na       10\nlong     9\n");
    }
}
