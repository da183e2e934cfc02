// SPDX-License-Identifier: GPL-2.0

//! Recorded prefetch decisions, and whether the engine's compatible mode makes the same ones.
//!
//! The format is in this folder's README.md. Nothing about a file is trusted.

#![forbid(unsafe_code)]

use std::io::{self, BufRead, BufReader, Read};

use vfetch_engine::mask::PageMask;
use vfetch_engine::page::{Region, PAGES};
use vfetch_engine::tree::{self, Bounds, Input, Mode, Threshold, Walk};

/// The first line of a file.
pub const HEADER: &str =
    "mode,threshold,va_first_page,pages,max_first,max_outer,resident,faulted,thrashing,prefetch";

/// A line is shorter than this many bytes: four masks of 128 digits and six short fields.
const LINE_MAX: u64 = 1024;

/// What is wrong with a row.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The first line is not [`HEADER`].
    #[error("the header is not '{HEADER}'")]
    Header,
    /// Longer than any row can be.
    #[error("longer than {LINE_MAX} bytes")]
    TooLong,
    /// Not text.
    #[error("not UTF-8")]
    NotText,
    /// Another number of fields.
    #[error("{0} fields instead of 10")]
    Fields(usize),
    /// A field that does not parse.
    #[error("{column} is '{value}'")]
    Value {
        /// Its name in the header.
        column: &'static str,
        /// What it is.
        value: String,
    },
    /// The block is not inside a 2 MiB-aligned range, or the max region not inside the block.
    #[error("no block of {pages} pages, {va_first_page} after a 64 KiB boundary, has a region of {max_first} to {max_outer}")]
    Bounds {
        /// From the row.
        va_first_page: usize,
        /// From the row.
        pages: usize,
        /// From the row.
        max_first: usize,
        /// From the row.
        max_outer: usize,
    },
    /// A mask has pages that the block has not.
    #[error("{column} has page {page}, which the block has not")]
    BeyondBlock {
        /// Its name in the header.
        column: &'static str,
        /// The first such page.
        page: usize,
    },
    /// A faulted page is outside the max region.
    #[error("page {0} faulted, which is outside the max region")]
    FaultOutside(usize),
}

/// One recorded decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vector {
    /// How leaves were prepared.
    pub walk: Walk,
    /// In percent.
    pub threshold: Threshold,
    /// Where prefetching was allowed.
    pub bounds: Bounds,
    /// Pages that were at the destination.
    pub resident: PageMask,
    /// Pages of the batch.
    pub faulted: PageMask,
    /// Pages that were thrashing.
    pub thrashing: PageMask,
    /// The answer.
    pub prefetch: PageMask,
}

fn malformed(column: &'static str, value: &str) -> Malformed {
    Malformed::Value {
        column,
        value: value.chars().take(40).collect(),
    }
}

fn number(column: &'static str, value: &str) -> Result<usize, Malformed> {
    if value.is_empty() || value.len() > 4 || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(malformed(column, value));
    }
    value.parse().map_err(|_| malformed(column, value))
}

fn mask(column: &'static str, value: &str) -> Result<PageMask, Malformed> {
    if value.is_empty() || value.len() > PAGES / 4 {
        return Err(malformed(column, value));
    }
    let mut words = [0; PAGES / 64];
    for (index, digit) in value.chars().rev().enumerate() {
        let digit = digit.to_digit(16).ok_or_else(|| malformed(column, value))?;
        words[index / 16] |= u64::from(digit) << (index % 16 * 4);
    }
    Ok(PageMask::from_words(words))
}

impl Vector {
    /// The decision of one row.
    ///
    /// # Errors
    ///
    /// [`Malformed`] says what is wrong.
    pub fn parse(row: &str) -> Result<Self, Malformed> {
        let fields: Vec<&str> = row.split(',').collect();
        let &[walk, threshold, va_first_page, pages, max_first, max_outer, resident, faulted, thrashing, prefetch] =
            fields.as_slice()
        else {
            return Err(Malformed::Fields(fields.len()));
        };
        let walk = match walk {
            "managed" => Walk::Managed,
            "ats" => Walk::Ats,
            _ => return Err(malformed("mode", walk)),
        };
        let threshold = u8::try_from(number("threshold", threshold)?)
            .ok()
            .and_then(Threshold::new)
            .ok_or_else(|| malformed("threshold", threshold))?;
        let va_first_page = number("va_first_page", va_first_page)?;
        let pages = number("pages", pages)?;
        let max_first = number("max_first", max_first)?;
        let max_outer = number("max_outer", max_outer)?;
        let max_region = Region::new(max_first, max_outer);
        let bounds = max_region
            .and_then(|region| Bounds::new(va_first_page, pages, region))
            .ok_or(Malformed::Bounds {
                va_first_page,
                pages,
                max_first,
                max_outer,
            })?;
        let block = Region::clipped(0, pages);
        let of_block = |column, value| {
            let mask = mask(column, value)?;
            match mask.minus(&block.into()).first() {
                None => Ok(mask),
                Some(page) => Err(Malformed::BeyondBlock {
                    column,
                    page: page.get(),
                }),
            }
        };
        let vector = Self {
            walk,
            threshold,
            bounds,
            resident: of_block("resident", resident)?,
            faulted: of_block("faulted", faulted)?,
            thrashing: of_block("thrashing", thrashing)?,
            // A wrong answer is no malformed row.
            prefetch: mask("prefetch", prefetch)?,
        };
        match vector.faulted.minus(&bounds.max_region().into()).first() {
            None => Ok(vector),
            Some(page) => Err(Malformed::FaultOutside(page.get())),
        }
    }

    /// What the decision is about, in compatible mode.
    #[must_use]
    pub fn input(&self) -> Input<'_> {
        Input {
            mode: Mode::Compat,
            walk: self.walk,
            threshold: self.threshold,
            bounds: self.bounds,
            resident: &self.resident,
            faulted: &self.faulted,
            thrashing: &self.thrashing,
        }
    }

    /// What the engine answers otherwise, if it does.
    #[must_use]
    pub fn difference(&self) -> Option<Difference> {
        [
            ("engine", tree::decide(&self.input())),
            ("reference", tree::reference::decide(&self.input())),
        ]
        .into_iter()
        .find(|(_, answer)| *answer != self.prefetch)
        .map(|(by, answer)| Difference {
            by,
            missing: self.prefetch.minus(&answer),
            extra: answer.minus(&self.prefetch),
        })
    }
}

/// How an answer differs from the recorded one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Who answered: the engine, or its reference.
    pub by: &'static str,
    /// Pages of the recorded answer that are not in this one.
    pub missing: PageMask,
    /// Pages of this answer that are not in the recorded one.
    pub extra: PageMask,
}

/// What became of a row.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The same answer.
    Same,
    /// Another answer.
    Differs(Difference),
    /// No answer: the row is not one.
    Malformed(Malformed),
}

/// How many rows did what.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Rows with the same answer.
    pub passed: u64,
    /// Rows with another one, and malformed ones.
    pub failed: u64,
}

impl Tally {
    /// Whether there were rows and all passed.
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.failed == 0 && self.passed > 0
    }
}

/// Checks every row of `file`, plain or compressed, and tells `outcome` what became of it with its line's number,
/// from 1. Malformed rows do not end it.
///
/// # Errors
///
/// What reading the file says, a broken compression included.
pub fn check(file: impl Read, mut outcome: impl FnMut(u64, Outcome)) -> io::Result<Tally> {
    let mut file = BufReader::new(file);
    let mut lines: Box<dyn BufRead + '_> = if file.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
        Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(file)))
    } else {
        Box::new(file)
    };
    let mut tally = Tally::default();
    let mut number = 0;
    let mut line = Vec::new();
    while read_line(&mut lines, &mut line)? {
        number += 1;
        let became = match text(&line) {
            Ok(HEADER) if number == 1 => continue,
            Ok(_) if number == 1 => Outcome::Malformed(Malformed::Header),
            Ok(row) => match Vector::parse(row) {
                Ok(vector) => vector.difference().map_or(Outcome::Same, Outcome::Differs),
                Err(error) => Outcome::Malformed(error),
            },
            Err(error) => Outcome::Malformed(error),
        };
        match became {
            Outcome::Same => tally.passed += 1,
            Outcome::Differs(_) | Outcome::Malformed(_) => tally.failed += 1,
        }
        outcome(number, became);
    }
    Ok(tally)
}

/// Reads a line without its end; of one that is too long only the beginning is kept. `false` at the end of the file.
fn read_line(lines: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    if lines.by_ref().take(LINE_MAX + 1).read_until(b'\n', line)? == 0 {
        return Ok(false);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    } else if line.len() as u64 > LINE_MAX {
        // The rest of it, in pieces of bounded size.
        let mut rest = Vec::new();
        loop {
            rest.clear();
            let read = lines.by_ref().take(LINE_MAX).read_until(b'\n', &mut rest)?;
            if read == 0 || rest.last() == Some(&b'\n') {
                break;
            }
        }
    }
    Ok(true)
}

fn text(line: &[u8]) -> Result<&str, Malformed> {
    if line.len() as u64 > LINE_MAX {
        return Err(Malformed::TooLong);
    }
    std::str::from_utf8(line).map_err(|_| Malformed::NotText)
}
