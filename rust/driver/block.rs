// SPDX-License-Identifier: GPL-2.0

//! The pages of a block of a space: where each has its contents.

use kernel::prelude::*;

use super::memory::Memory;
use crate::engine::frames::FrameRun;
use crate::engine::mask::{PageMask, Region, PAGES};

/// What a page holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Contents {
    /// Zeros: nobody has written to it.
    None,
    /// What is in its frame.
    Device,
    /// Nothing: the function that held it was reset.
    Lost,
}

/// Pages of a space, 2 MiB of them.
///
/// Contents are valid in one generation of the function's memory. When the function was reset since, those that
/// were in its frames are lost: [`settle`](Self::settle) makes that so before anybody looks.
pub(crate) struct Block {
    generation: u32,
    /// Pages whose frames hold their contents.
    present: PageMask,
    /// Pages that are lost.
    lost: PageMask,
    /// Pages that have a frame.
    framed: PageMask,
    frames: [u32; PAGES],
}

impl Block {
    /// A block without contents.
    pub(crate) fn new(generation: u32) -> Result<KBox<Self>> {
        KBox::init(
            init!(Self {
                generation,
                present: PageMask::EMPTY,
                lost: PageMask::EMPTY,
                framed: PageMask::EMPTY,
                frames: [0; PAGES],
            }),
            GFP_KERNEL,
        )
    }

    /// Brings the block up to `generation` of the function's memory.
    pub(crate) fn settle(&mut self, generation: u32) {
        if self.generation != generation {
            self.generation = generation;
            self.lost = self.lost.or(&self.present);
            self.present = PageMask::EMPTY;
        }
    }

    /// The longest run from the start of `region` with the same contents, and which. Where they are in frames, the
    /// frames are neighbours, and the first is given.
    pub(crate) fn leading_run(&self, region: Region) -> (Region, Contents, u32) {
        let (lost_run, lost) = self.lost.leading_run(region);
        if lost {
            return (lost_run, Contents::Lost, 0);
        }
        let (run, present) = self.present.leading_run(lost_run);
        if !present {
            return (run, Contents::None, 0);
        }
        let (run, first) = self.neighbours(run);
        (run, Contents::Device, first)
    }

    /// The pages from the start of `region` whose frames are neighbours, and the first of these.
    pub(crate) fn neighbours(&self, region: Region) -> (Region, u32) {
        let frames = self
            .frames
            .get(region.first()..region.outer())
            .unwrap_or(&[]);
        let first = frames.first().copied().unwrap_or(0);
        let count = frames
            .iter()
            .zip(first..)
            .take_while(|(frame, expected)| **frame == *expected)
            .count();
        let run = Region::new(region.first(), region.first() + count).unwrap_or(region);
        (run, first)
    }

    /// Sees to it that the pages of `region` have frames, taken from the promise to their space.
    pub(crate) fn frame(&mut self, region: Region, memory: &Memory) -> Result {
        let mut left = region;
        while !left.is_empty() {
            let (run, framed) = self.framed.leading_run(left);
            if !framed {
                let mut at = run.first();
                while at < run.outer() {
                    // CAST: at most 512.
                    let taken = memory.take((run.outer() - at) as u32)?;
                    for frame in taken.first..taken.first.saturating_add(taken.count) {
                        if let Some(slot) = self.frames.get_mut(at) {
                            *slot = frame;
                        }
                        self.framed.insert(Region::new(at, at + 1).ok_or(EIO)?);
                        at += 1;
                    }
                }
            }
            left = Region::new(run.outer(), left.outer()).ok_or(EIO)?;
        }
        Ok(())
    }

    /// The pages of `region`, which have frames, are being written in `generation`: they hold contents from now on, except
    /// lost ones. Returns how many did not before.
    pub(crate) fn fill(&mut self, region: Region, generation: u32) -> usize {
        if self.generation != generation {
            return 0;
        }
        let mut filled = 0;
        let mut left = region;
        while !left.is_empty() {
            let (run, lost) = self.lost.leading_run(left);
            if !lost {
                filled += self.present.insert(run);
            }
            match Region::new(run.outer(), left.outer()) {
                Some(rest) => left = rest,
                None => break,
            }
        }
        filled
    }

    /// The pages of `region` were written to as a whole in `generation`: lost ones are not lost any
    /// more. Returns how many had no contents before.
    pub(crate) fn overwritten(&mut self, region: Region, generation: u32) -> usize {
        if self.generation != generation {
            return 0;
        }
        self.lost.remove(region);
        self.present.insert(region)
    }

    /// Forgets the contents of the pages of `region`, whose frames hold zeros. Returns how many had contents
    /// in frames.
    pub(crate) fn discard(&mut self, region: Region) -> usize {
        self.lost.remove(region);
        self.present.remove(region)
    }

    /// The runs of neighbouring frames of pages in `region` that may hold something else than zeros.
    pub(crate) fn used_frames(
        &self,
        region: Region,
    ) -> impl Iterator<Item = (Region, FrameRun)> + '_ {
        let mut within = PageMask::EMPTY;
        within.insert(region);
        // Lost pages too: whoever was overwriting one may have stopped midway.
        self.frame_runs(self.present.or(&self.lost).and(&within))
    }

    /// The runs of neighbouring frames of all pages in `region`.
    pub(crate) fn all_frames(
        &self,
        region: Region,
    ) -> impl Iterator<Item = (Region, FrameRun)> + '_ {
        let mut within = PageMask::EMPTY;
        within.insert(region);
        self.frame_runs(self.framed.and(&within))
    }

    fn frame_runs(&self, pages: PageMask) -> impl Iterator<Item = (Region, FrameRun)> + '_ {
        let mut at = 0;
        core::iter::from_fn(move || {
            let ahead = Region::new(at, PAGES)?;
            let (skipped, within) = pages.leading_run(ahead);
            let run = if within {
                skipped
            } else {
                pages.leading_run(Region::new(skipped.outer(), PAGES)?).0
            };
            let (run, first) = self.neighbours(run);
            if run.is_empty() {
                return None;
            }
            at = run.outer();
            // CAST: at most 512.
            let count = run.len() as u32;
            Some((run, FrameRun { first, count }))
        })
    }

    /// The pages of `region` have no frames any more, and no contents. Returns how many had
    /// contents in frames, and how many had frames.
    pub(crate) fn unframe(&mut self, region: Region) -> (usize, usize) {
        (self.discard(region), self.framed.remove(region))
    }

    /// Whether it has neither frames nor anything to say of its pages.
    pub(crate) fn is_empty(&self) -> bool {
        self.framed.is_empty() && self.lost.is_empty()
    }

    /// Lost pages.
    pub(crate) fn lost(&self) -> usize {
        self.lost.count()
    }
}
