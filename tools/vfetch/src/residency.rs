// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `vfetch residency`: where the pages of a space are.

use std::ops::Range;

use anyhow::{bail, Result};
use libvfetch::{Host, Place, Residency, Space, PAGE_BYTES};
use serde::Serialize;

use crate::{
    cli::ResidencyArgs,
    output::Output,
    target::Target,
    units::{self, grouped},
};

/// Pages that are asked for at once.
const STEP_PAGES: u64 = 1 << 18;
/// Characters of a line of the picture.
const WIDTH: u64 = 64;
/// Lines of the picture, at most.
const LINES: u64 = 16;

/// A place as a program reads it.
fn word(place: Place) -> &'static str {
    match place {
        Place::None => "none",
        Place::Host { pinned: false } => "host",
        Place::Host { pinned: true } => "host-pinned",
        Place::Device { pinned: false } => "device",
        Place::Device { pinned: true } => "device-pinned",
        Place::Moving => "moving",
        Place::Lost => "lost",
        _ => "unknown",
    }
}

/// A place in the picture.
fn letter(place: Place) -> char {
    match place {
        Place::None => '.',
        Place::Host { pinned: false } => 'h',
        Place::Host { pinned: true } => 'H',
        Place::Device { pinned: false } => 'd',
        Place::Device { pinned: true } => 'D',
        Place::Moving => '>',
        Place::Lost => '!',
        _ => '?',
    }
}

const LEGEND: &str = "\
. none   h host   d device   H, D pinned there   > moving   ! lost   + several";

/// Neighbouring pages in one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Run {
    offset: u64,
    bytes: u64,
    place: &'static str,
}

/// What is asked, page after page.
#[derive(Debug, Serialize)]
struct Map {
    node: u32,
    space_bytes: u64,
    offset: u64,
    bytes: u64,
    none_pages: u64,
    host_pages: u64,
    device_pages: u64,
    moving_pages: u64,
    lost_pages: u64,
    runs: Vec<Run>,
    #[serde(skip)]
    picture: Vec<char>,
    /// Pages of a character.
    #[serde(skip)]
    scale: u64,
}

/// Pages of a character, so that the picture has no more lines than it may.
fn scale(pages: u64) -> u64 {
    pages.div_ceil(WIDTH * LINES).max(1).next_power_of_two()
}

impl Map {
    fn new(node: u32, space_bytes: u64, range: &Range<u64>, counts: Residency) -> Self {
        let bytes = range.end - range.start;
        Self {
            node,
            space_bytes,
            offset: range.start,
            bytes,
            none_pages: counts.none,
            host_pages: counts.host,
            device_pages: counts.device,
            moving_pages: counts.moving,
            lost_pages: counts.lost,
            runs: Vec::new(),
            picture: Vec::new(),
            scale: scale(bytes / PAGE_BYTES),
        }
    }

    /// The next pages.
    fn add(&mut self, first: u64, places: &[Place]) {
        for (page, place) in (first..).zip(places) {
            let (offset, word) = (page * PAGE_BYTES, word(*place));
            match self.runs.last_mut() {
                Some(run) if run.place == word => run.bytes += PAGE_BYTES,
                _ => self.runs.push(Run {
                    offset,
                    bytes: PAGE_BYTES,
                    place: word,
                }),
            }
            let letter = letter(*place);
            match self.picture.last_mut() {
                Some(cell) if (page - self.offset / PAGE_BYTES) % self.scale != 0 => {
                    // What is lost shall be seen, whatever is beside it.
                    if *cell != letter && *cell != '!' {
                        *cell = if letter == '!' { '!' } else { '+' };
                    }
                }
                _ => self.picture.push(letter),
            }
        }
    }

    fn show(&self) -> String {
        let mut text = format!(
            "/dev/vfetch{}, {} of a space of {}: {} pages on the host, {} on the device,\n\
             {} moving, {} lost, {} without contents\n",
            self.node,
            units::bytes(self.bytes),
            units::bytes(self.space_bytes),
            grouped(self.host_pages),
            grouped(self.device_pages),
            grouped(self.moving_pages),
            grouped(self.lost_pages),
            grouped(self.none_pages)
        );
        let cell = self.scale * PAGE_BYTES;
        let line = usize::try_from(WIDTH).unwrap_or(usize::MAX);
        let mut at = self.offset;
        for cells in self.picture.chunks(line) {
            let cells: String = cells.iter().collect();
            text += &format!("{at:>14x} {cells}\n");
            at += cell * WIDTH;
        }
        text + &format!("Each character is {}:\n{LEGEND}\n", units::bytes(cell))
    }
}

pub(crate) fn run(host: &Host, args: &ResidencyArgs, out: Output) -> Result<()> {
    let space: Space = args.target.open(host)?;
    let size = space.info()?.space_bytes;
    if size == 0 {
        if let Target::Function(_) = args.target {
            bail!("a space belongs to an open file, and a new one has no pages: name one that somebody holds, as fd:N or pid:PID");
        }
        bail!("the space has no pages: it was given no size");
    }
    let start = args.offset;
    let end = args.length.map_or(size, |n| start.saturating_add(n));
    // One count for all of it, at one time; errors of the range come from here.
    let counts = space.residency(start..end)?;
    let mut map = Map::new(space.node(), size, &(start..end), counts);
    let mut at = start;
    while at < end {
        let next = end.min(at + STEP_PAGES * PAGE_BYTES);
        map.add(at / PAGE_BYTES, &space.places(at..next)?);
        at = next;
    }
    out.print(&map, Map::show)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Place = Place::Host { pinned: false };
    const DEVICE: Place = Place::Device { pinned: false };

    fn map(first: u64, places: &[Place]) -> Map {
        let pages = first + places.len() as u64;
        let range = first * PAGE_BYTES..pages * PAGE_BYTES;
        let mut map = Map::new(0, range.end, &range, Residency::default());
        // In parts, as it is asked.
        let (a, b) = places.split_at(places.len() / 3);
        map.add(first, a);
        map.add(first + a.len() as u64, b);
        map
    }

    #[test]
    fn neighbours_in_one_place_are_one_run() {
        let map = map(5, &[HOST, HOST, DEVICE, Place::Moving, Place::Moving, HOST]);
        let runs: Vec<_> = map
            .runs
            .iter()
            .map(|r| (r.offset, r.bytes, r.place))
            .collect();
        assert_eq!(
            runs,
            [
                (5 * 4096, 2 * 4096, "host"),
                (7 * 4096, 4096, "device"),
                (8 * 4096, 2 * 4096, "moving"),
                (10 * 4096, 4096, "host"),
            ]
        );
        assert_eq!(map.picture.iter().collect::<String>(), "hhd>>h");
    }

    #[test]
    fn a_large_space_fits_a_terminal_and_hides_nothing_lost() {
        let mut places = vec![HOST; 4096];
        places[..2048].fill(DEVICE);
        places[100] = Place::Lost;
        places[2047] = HOST;
        let map = map(0, &places);
        assert_eq!(map.scale, 4);
        let text = map.show();
        assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
        assert!(text.lines().count() <= 20);
        assert_eq!(map.picture[25], '!');
        assert_eq!(map.picture[511], '+');
        assert_eq!(map.picture[512], 'h');
    }

    #[test]
    fn no_picture_has_too_many_lines() {
        for pages in [1_u64, 64, 1024, 1025, 1 << 28] {
            assert!(pages.div_ceil(scale(pages)) <= WIDTH * LINES, "{pages}");
        }
    }
}
