// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A two-dimensional convolution layer, tile by tile.

use super::{bytes, param, rng, Kind, Values, MIB, SEED};
use crate::record::{Array, Recorder};
use rand::Rng;

pub(super) const KIND: Kind = Kind {
    name: "conv2d",
    about: "3x3 convolution of many channels, a tile of the image and a group of filters at a time",
    params: &[
        MIB,
        SEED,
        param("channels", 16, 1, 1024, "channels in and out"),
        param("tile", 64, 4, 1024, "side of a tile"),
        param("group", 8, 1, 1024, "filters that are one item"),
    ],
    file: None,
    run,
};

fn run(v: &Values<'_>, r: &mut Recorder) -> anyhow::Result<()> {
    let channels = v.size("channels");
    let side = ((bytes(v.get("mib")) as f64 / (8 * channels) as f64).sqrt() as usize).max(8);
    let mut rng = rng(v.get("seed"));
    let mut random =
        |count: usize| -> Vec<f32> { (0..count).map(|_| rng.random_range(-1.0..1.0)).collect() };
    let layer = Layer {
        side,
        channels,
        image: random(channels * side * side),
        filters: random(channels * channels * 9),
    };
    layer.run(r, v.size("tile"), v.size("group"));
    Ok(())
}

/// A layer with as many channels out as in, and zeros around the image.
struct Layer {
    side: usize,
    channels: usize,
    /// By channel, row, column.
    image: Vec<f32>,
    /// By channel out, channel in, row, column.
    filters: Vec<f32>,
}

impl Layer {
    fn run(self, r: &mut Recorder, tile: usize, group: usize) -> Array<f32> {
        let Self { side, channels, .. } = self;
        let image = r.array(self.image);
        let filters = r.array(self.filters);
        let mut out = r.array(vec![0.0_f32; channels * side * side]);
        for y0 in (0..side).step_by(tile) {
            for x0 in (0..side).step_by(tile) {
                for k0 in (0..channels).step_by(group) {
                    r.item();
                    let (h, w) = (tile.min(side - y0), tile.min(side - x0));
                    let mut sums = vec![0.0; group * h * w];
                    for c in 0..channels {
                        let patch = load(r, &image, side, c, (y0, x0), (h, w));
                        for k in k0..(k0 + group).min(channels) {
                            let f =
                                filters.run(r, (k * channels + c) * 9..(k * channels + c + 1) * 9);
                            let sums = &mut sums[(k - k0) * h * w..(k - k0 + 1) * h * w];
                            apply(&patch, f, sums, h, w);
                        }
                    }
                    for k in k0..(k0 + group).min(channels) {
                        for y in 0..h {
                            let to = (k * side + y0 + y) * side + x0;
                            let from = ((k - k0) * h + y) * w;
                            out.run_mut(r, to..to + w)
                                .copy_from_slice(&sums[from..from + w]);
                        }
                    }
                }
            }
        }
        out
    }
}

/// The tile with a margin of 1 around it, as into a strand's own memory.
fn load(
    r: &mut Recorder,
    image: &Array<f32>,
    side: usize,
    channel: usize,
    (y0, x0): (usize, usize),
    (h, w): (usize, usize),
) -> Vec<f32> {
    let mut patch = vec![0.0; (h + 2) * (w + 2)];
    let left = usize::from(x0 == 0);
    let first = x0 + left - 1;
    let last = (x0 + w + 1).min(side);
    for row in 0..h + 2 {
        let y = y0 + row;
        if y == 0 || y > side {
            continue;
        }
        let at = (channel * side + y - 1) * side;
        let values = image.run(r, at + first..at + last);
        let to = row * (w + 2) + left;
        patch[to..to + values.len()].copy_from_slice(values);
    }
    patch
}

fn apply(patch: &[f32], filter: &[f32], sums: &mut [f32], h: usize, w: usize) {
    for y in 0..h {
        let out = &mut sums[y * w..(y + 1) * w];
        for (i, f) in filter.iter().enumerate() {
            let from = (y + i / 3) * (w + 2) + i % 3;
            for (out, v) in out.iter_mut().zip(&patch[from..from + w]) {
                *out += v * f;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_give_what_the_definition_gives() {
        let (side, channels) = (11, 3);
        let image: Vec<f32> = (0..channels * side * side)
            .map(|i| (i % 7) as f32)
            .collect();
        let filters: Vec<f32> = (0..channels * channels * 9)
            .map(|i| (i % 5) as f32 - 2.0)
            .collect();
        let mut plain = vec![0.0_f32; channels * side * side];
        for k in 0..channels {
            for y in 0..side {
                for x in 0..side {
                    for c in 0..channels {
                        for i in 0..9 {
                            let (yy, xx) = (y + i / 3, x + i % 3);
                            if yy >= 1 && yy <= side && xx >= 1 && xx <= side {
                                plain[(k * side + y) * side + x] += image
                                    [(c * side + yy - 1) * side + xx - 1]
                                    * filters[(k * channels + c) * 9 + i];
                            }
                        }
                    }
                }
            }
        }
        let mut r = Recorder::new(64);
        let layer = Layer {
            side,
            channels,
            image,
            filters,
        };
        assert_eq!(layer.run(&mut r, 4, 2).data(), plain);
    }
}
