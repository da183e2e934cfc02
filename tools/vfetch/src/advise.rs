// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `vfetch advise`.

use anyhow::{bail, Result};
use clap::ValueEnum;
use libvfetch::{Advice, Host, Side};
use serde::Serialize;

use crate::{cli::AdviseArgs, output::Output, target::Target};

/// What can be said, as users write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Word {
    /// Nothing any more
    Normal,
    /// They are wanted on the host: the device uses them there
    PreferHost,
    /// They are wanted on the device
    PreferDevice,
    /// They are wanted on neither side in particular
    PreferNone,
    /// While they are on the host the device uses them there
    AccessedByDevice,
    /// The device takes them when it uses them
    NotAccessedByDevice,
    /// Nothing comes along with them, and they with nothing
    NoPrefetch,
    /// They may come along with others
    Prefetch,
    /// Bring them to the host now
    WillNeedHost,
    /// Bring them to the device now
    WillNeedDevice,
    /// They hold zeros from now on
    DoNotNeed,
}

impl From<Word> for Advice {
    fn from(word: Word) -> Self {
        match word {
            Word::Normal => Self::Normal,
            Word::PreferHost => Self::Prefer(Some(Side::Host)),
            Word::PreferDevice => Self::Prefer(Some(Side::Device)),
            Word::PreferNone => Self::Prefer(None),
            Word::AccessedByDevice => Self::AccessedByDevice(true),
            Word::NotAccessedByDevice => Self::AccessedByDevice(false),
            Word::NoPrefetch => Self::Prefetch(false),
            Word::Prefetch => Self::Prefetch(true),
            Word::WillNeedHost => Self::WillNeed(Side::Host),
            Word::WillNeedDevice => Self::WillNeed(Side::Device),
            Word::DoNotNeed => Self::DoNotNeed,
        }
    }
}

/// What was said of what.
#[derive(Debug, Serialize)]
struct Said {
    node: u32,
    advice: Word,
    offset: u64,
    bytes: u64,
}

pub(crate) fn run(host: &Host, args: &AdviseArgs, out: Output) -> Result<()> {
    if let Target::Function(_) = args.target {
        bail!("what is said of a space ends with its file: name one that somebody holds, as fd:N or pid:PID");
    }
    let space = args.target.open(host)?;
    let size = space.info()?.space_bytes;
    let end = args
        .length
        .map_or(size, |n| args.offset.saturating_add(n))
        .max(args.offset);
    space.advise(args.offset..end, args.advice.into())?;
    let said = Said {
        node: space.node(),
        advice: args.advice,
        offset: args.offset,
        bytes: end - args.offset,
    };
    out.print(&said, |_| String::new())?;
    Ok(())
}
