// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Blocked multiplication of dense matrices.

use super::{bytes, param, rng, Kind, Values, MIB, SEED};
use crate::record::{Array, Recorder};
use rand::Rng;

pub(super) const KIND: Kind = Kind {
    name: "gemm",
    about: "C = A B of square matrices of 4-byte floats, a tile of C at a time",
    params: &[
        MIB,
        SEED,
        param("tile", 128, 8, 1024, "side of a tile"),
        param(
            "packed",
            0,
            0,
            1,
            "1: each tile's elements are neighbours; 0: each row's are",
        ),
    ],
    file: None,
    run,
};

fn run(v: &Values<'_>, r: &mut Recorder) -> anyhow::Result<()> {
    let tile = v.size("tile");
    let n = ((bytes(v.get("mib")) as f64 / 12.0).sqrt() as usize / tile).max(2) * tile;
    let mut rng = rng(v.get("seed"));
    let mut random = || (0..n * n).map(|_| rng.random_range(-1.0..1.0)).collect();
    let (a, b) = (random(), random());
    let layout = Layout {
        n,
        tile,
        packed: v.get("packed") == 1,
    };
    multiply(r, layout, a, b);
    Ok(())
}

/// Where the elements of a matrix are.
#[derive(Clone, Copy)]
struct Layout {
    n: usize,
    tile: usize,
    packed: bool,
}

impl Layout {
    /// Where `row` of the tile in tile row `i` and tile column `j` begins.
    fn row(self, i: usize, j: usize, row: usize) -> usize {
        let Self { n, tile, packed } = self;
        if packed {
            (i * (n / tile) + j) * tile * tile + row * tile
        } else {
            (i * tile + row) * n + j * tile
        }
    }

    fn load(self, r: &mut Recorder, m: &Array<f32>, i: usize, j: usize) -> Vec<f32> {
        let mut own = Vec::with_capacity(self.tile * self.tile);
        for row in 0..self.tile {
            let at = self.row(i, j, row);
            own.extend_from_slice(m.run(r, at..at + self.tile));
        }
        own
    }
}

/// A times B; a strand loads a tile of each into its own memory and adds their product to its tile of C.
fn multiply(r: &mut Recorder, l: Layout, a: Vec<f32>, b: Vec<f32>) -> Array<f32> {
    let (a, b) = (r.array(a), r.array(b));
    let mut c = r.array(vec![0.0_f32; l.n * l.n]);
    let tiles = l.n / l.tile;
    for i in 0..tiles {
        for j in 0..tiles {
            r.item();
            let mut sum = vec![0.0; l.tile * l.tile];
            for k in 0..tiles {
                let (a, b) = (l.load(r, &a, i, k), l.load(r, &b, k, j));
                for (sum, a) in sum.chunks_mut(l.tile).zip(a.chunks(l.tile)) {
                    for (a, b) in a.iter().zip(b.chunks(l.tile)) {
                        for (sum, b) in sum.iter_mut().zip(b) {
                            *sum += a * b;
                        }
                    }
                }
            }
            for (row, sum) in sum.chunks(l.tile).enumerate() {
                let at = l.row(i, j, row);
                c.run_mut(r, at..at + l.tile).copy_from_slice(sum);
            }
        }
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_multiply_as_matrices_do() {
        let n = 12;
        let value = |i: usize| ((i * 31) % 13) as f32;
        for packed in [false, true] {
            let l = Layout { n, tile: 4, packed };
            // Element (y, x) in that layout.
            let at = |y: usize, x: usize| l.row(y / 4, x / 4, y % 4) + x % 4;
            let mut a = vec![0.0; n * n];
            let mut b = vec![0.0; n * n];
            for y in 0..n {
                for x in 0..n {
                    a[at(y, x)] = value(y * n + x);
                    b[at(y, x)] = value(y + x * 5);
                }
            }
            let mut r = Recorder::new(64);
            let c = multiply(&mut r, l, a.clone(), b.clone());
            for y in 0..n {
                for x in 0..n {
                    let sum: f32 = (0..n).map(|k| a[at(y, k)] * b[at(k, x)]).sum();
                    assert!((c.data()[at(y, x)] - sum).abs() < 1e-3);
                }
            }
        }
    }
}
