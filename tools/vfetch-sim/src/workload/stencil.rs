// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A 7-point stencil on a cubic grid: Jacobi steps of the heat equation.

use super::{bytes, param, rng, Kind, Values, MIB, SEED};
use crate::record::{Array, Recorder};
use rand::Rng;

pub(super) const KIND: Kind = Kind {
    name: "stencil",
    about: "7-point stencil on a 3-D grid of 4-byte floats, from one array to another and back",
    params: &[
        MIB,
        SEED,
        param("steps", 3, 1, 1000, "time steps"),
        param("rows", 16, 1, 4096, "rows of a plane that are one item"),
    ],
    file: None,
    run,
};

fn run(v: &Values<'_>, r: &mut Recorder) -> anyhow::Result<()> {
    let n = ((bytes(v.get("mib")) as f64 / 8.0).cbrt() as usize).max(4);
    let mut rng = rng(v.get("seed"));
    let grid = (0..n * n * n).map(|_| rng.random::<f32>()).collect();
    steps(r, n, grid, v.size("steps"), v.size("rows"));
    Ok(())
}

/// The grid of n³ after `steps` steps; its surface stays as it is.
fn steps(r: &mut Recorder, n: usize, grid: Vec<f32>, steps: usize, rows: usize) -> Array<f32> {
    let mut to = r.array(grid.clone());
    let mut from = r.array(grid);
    for _ in 0..steps {
        r.barrier();
        for z in 1..n - 1 {
            for first in (1..n - 1).step_by(rows) {
                r.item();
                for y in first..(first + rows).min(n - 1) {
                    row(r, &from, &mut to, (z * n + y) * n, n);
                }
            }
        }
        std::mem::swap(&mut from, &mut to);
    }
    from
}

fn row(r: &mut Recorder, from: &Array<f32>, to: &mut Array<f32>, at: usize, n: usize) {
    let inner = at + 1..at + n - 1;
    let moved = |by: isize| {
        let by = |i: usize| i.checked_add_signed(by).unwrap_or(0);
        by(inner.start)..by(inner.end)
    };
    let plane = (n * n) as isize;
    let line = n as isize;
    let parts = [-plane, -line, -1, 0, 1, line, plane].map(|by| from.run(r, moved(by)));
    let out = to.run_mut(r, inner.clone());
    for (i, out) in out.iter_mut().enumerate() {
        let [below, front, left, here, right, back, above] = parts.map(|part| part[i]);
        *out = here + 0.1 * (below + front + left + right + back + above - 6.0 * here);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_computes_what_the_definition_says() {
        let n = 7;
        let grid: Vec<f32> = (0..n * n * n).map(|i| ((i * 37) % 11) as f32).collect();
        let mut plain = grid.clone();
        for _ in 0..3 {
            let old = plain.clone();
            let at = |x: usize, y: usize, z: usize| old[(z * n + y) * n + x];
            for z in 1..n - 1 {
                for y in 1..n - 1 {
                    for x in 1..n - 1 {
                        let around = at(x, y, z - 1)
                            + at(x, y - 1, z)
                            + at(x - 1, y, z)
                            + at(x + 1, y, z)
                            + at(x, y + 1, z)
                            + at(x, y, z + 1);
                        plain[(z * n + y) * n + x] =
                            at(x, y, z) + 0.1 * (around - 6.0 * at(x, y, z));
                    }
                }
            }
        }
        let mut r = Recorder::new(64);
        let got = steps(&mut r, n, grid, 3, 2);
        assert_eq!(got.data(), plain);
        let cells = ((n - 2) * (n - 2) * (n - 2)) as u64;
        assert_eq!(r.finish("s".into()).unwrap().accesses(), 3 * cells * 8);
    }
}
