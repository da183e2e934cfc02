// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Exit statuses, and how an error is told.

use std::{fmt, io, process::ExitCode};

use anyhow::Error;

/// Something failed that has no status of its own.
const FAILURE: u8 = 1;
const USAGE: u8 = 2;
const NOT_AVAILABLE: u8 = 3;
const NO_SUCH_FUNCTION: u8 = 4;
const PERMISSION: u8 = 5;
const GONE: u8 = 6;
const DATA: u8 = 7;

/// What `--help` says about them.
pub(crate) const HELP: &str = "\
Exit status:
  0  done
  1  failed for another reason; the message says which
  2  wrong usage
  3  the module is not loaded, or no function is bound to it
  4  no such function
  5  no permission
  6  the device is gone
  7  wrong data came back, or contents were lost";

/// Data that came back is not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mismatch {
    /// Where it was, e.g. `vfetch3`.
    pub(crate) place: String,
    /// The first wrong byte's offset, or that of its block.
    pub(crate) offset: u64,
    /// The byte that should be there and the one that is, where that is known.
    pub(crate) bytes: Option<(u8, u8)>,
    /// Bytes of the block.
    pub(crate) block: usize,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            place,
            offset,
            bytes,
            block,
        } = self;
        match bytes {
            Some((expected, found)) => write!(
                f,
                "{place}: wrong data at offset {offset}: 0x{found:02x} instead of 0x{expected:02x}"
            ),
            None => write!(
                f,
                "{place}: the {block} bytes at offset {offset} are not those that were written"
            ),
        }
    }
}

impl std::error::Error for Mismatch {}

/// Jobs whose results are not what they should be; where was told before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WrongResult {
    /// How many.
    pub(crate) count: usize,
}

impl fmt::Display for WrongResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} jobs gave a wrong result", self.count)
    }
}

impl std::error::Error for WrongResult {}

/// The status for an error.
fn status(error: &Error) -> u8 {
    for cause in error.chain() {
        if cause.is::<Mismatch>() || cause.is::<WrongResult>() {
            return DATA;
        }
        if let Some(error) = cause.downcast_ref::<libvfetch::Error>() {
            use libvfetch::Error as E;
            return match error {
                E::ModuleNotLoaded | E::NoFunctions => NOT_AVAILABLE,
                E::NoSuchFunction { .. } | E::NotBound { .. } | E::NotPf { .. } => NO_SUCH_FUNCTION,
                E::PermissionDenied(_) => PERMISSION,
                E::Gone { .. } => GONE,
                E::Lost { .. } => DATA,
                _ => FAILURE,
            };
        }
    }
    FAILURE
}

/// Tells what to do, in lines that fit a terminal.
pub(crate) fn advise(hint: &str) {
    for line in wrap(hint, 76) {
        eprintln!("  {line}");
    }
}

/// Breaks `text` at blanks into lines of at most `width`, where its words allow that.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

/// Tells the user that the command line is wrong, or the help that was asked for, and gives the status to exit with.
pub(crate) fn usage(error: &clap::Error, json: bool) -> ExitCode {
    if !json || !error.use_stderr() {
        // Coloured, as far as the terminal is.
        let _ = error.print();
        return if error.use_stderr() {
            ExitCode::from(USAGE)
        } else {
            ExitCode::SUCCESS
        };
    }
    let object = serde_json::json!({
        "error": usage_words(error), "hint": "'vfetch --help' and 'vfetch help COMMAND' tell what there is",
        "errno": null, "status": USAGE,
    });
    eprintln!("{object}");
    ExitCode::from(USAGE)
}

/// What is wrong with the command line, in one line.
fn usage_words(error: &clap::Error) -> String {
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "a command is needed".into();
    }
    let text = error.render().to_string();
    let words = text.split("\n\nUsage:").next().unwrap_or_default();
    let words = words
        .split("\n\nFor more information")
        .next()
        .unwrap_or_default();
    let words = words.strip_prefix("error: ").unwrap_or(words);
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Tells the user and gives the status to exit with. With `json` the error is
/// an object on stderr.
pub(crate) fn report(error: &Error, json: bool) -> ExitCode {
    let closed = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe);
    if closed {
        // Who reads the output has seen enough: `vfetch … | head`.
        return ExitCode::SUCCESS;
    }
    let status = status(error);
    let hint = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<libvfetch::Error>())
        .and_then(libvfetch::Error::hint);
    if json {
        let errno = error
            .chain()
            .find_map(|cause| cause.downcast_ref::<libvfetch::Error>())
            .and_then(libvfetch::Error::errno)
            .map(rustix::io::Errno::raw_os_error);
        let object = serde_json::json!({
            "error": format!("{error:#}"), "hint": hint, "errno": errno, "status": status,
        });
        eprintln!("{object}");
    } else {
        eprintln!("vfetch: {error:#}");
        if let Some(hint) = hint {
            advise(&hint);
        }
    }
    ExitCode::from(status)
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_status_is_found_beneath_the_context() {
        let gone = libvfetch::Error::Gone { node: 0 };
        let error = Err::<(), _>(gone).context("writing").unwrap_err();
        assert_eq!(status(&error), GONE);
        let wrong = Mismatch {
            place: "vfetch0".into(),
            offset: 9,
            bytes: Some((1, 2)),
            block: 4096,
        };
        assert_eq!(status(&wrong.into()), DATA);
        assert_eq!(status(&WrongResult { count: 1 }.into()), DATA);
        assert_eq!(status(&anyhow::anyhow!("else")), FAILURE);
    }

    #[test]
    fn advice_is_broken_at_blanks_and_loses_nothing() {
        let text = "echo 0000:01:00.0 > /sys/bus/pci/devices/0000:01:00.0/driver/unbind";
        let lines = wrap(text, 30);
        assert_eq!(lines[0], "echo 0000:01:00.0 >");
        assert_eq!(lines.join(" "), text);
    }

    #[test]
    fn every_status_is_in_the_help() {
        for status in [
            FAILURE,
            USAGE,
            NOT_AVAILABLE,
            NO_SUCH_FUNCTION,
            PERMISSION,
            GONE,
            DATA,
        ] {
            assert!(HELP.contains(&format!("\n  {status}  ")));
        }
    }
}
