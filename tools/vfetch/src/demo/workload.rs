// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Jobs on real data, and what they must leave there: computed here as plainly as can be, in the order of the header, so that results are
//! the same to the last bit.

use clap::ValueEnum;
use libvfetch::{
    Bfs, Conv2d, Gather, Gemm, Pagerank, Reduce, Scatter, Spmv, Stencil, Task, Triad, PAGE_BYTES,
};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde::Serialize;

use crate::units::float;

/// What a function computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// a = b + s * c, three long arrays
    Triad,
    /// Two steps of a 7-point stencil over a cube of cells
    Stencil,
    /// A product of two square matrices, tile by tile (at most 3.5 MiB)
    Gemm,
    /// A convolution of 4 images to 2 with a 3 by 3 window
    Conv2d,
    /// A sparse matrix, half near its diagonal and half anywhere, times a vector
    Spmv,
    /// Breadth-first search in a graph of that kind
    Bfs,
    /// Two iterations of PageRank over a graph of that kind
    Pagerank,
    /// `out[i] = in[index[i]]`, indices at random
    Gather,
    /// `out[index[i]] = in[i]`, indices at random
    Scatter,
    /// The sum of a long array
    Reduce,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Triad => "triad",
            Self::Stencil => "stencil",
            Self::Gemm => "gemm",
            Self::Conv2d => "conv2d",
            Self::Spmv => "spmv",
            Self::Bfs => "bfs",
            Self::Pagerank => "pagerank",
            Self::Gather => "gather",
            Self::Scatter => "scatter",
            Self::Reduce => "reduce",
        }
    }
}

/// A job: what the space holds before it, and after it, and its value.
#[derive(Debug)]
pub(crate) struct Workload {
    pub(crate) kind: Kind,
    pub(crate) task: Task,
    pub(crate) before: Vec<u8>,
    pub(crate) after: Vec<u8>,
    pub(crate) value: u64,
}

impl Workload {
    /// Of about `bytes` bytes of data, which `seed` decides.
    pub(crate) fn new(kind: Kind, bytes: u64, seed: u64) -> Self {
        let random = &mut Pcg64Mcg::seed_from_u64(seed);
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        match kind {
            Kind::Triad => triad(random, bytes),
            Kind::Stencil => stencil(random, bytes),
            Kind::Gemm => gemm(random, bytes),
            Kind::Conv2d => conv2d(random, bytes),
            Kind::Spmv => spmv(random, bytes),
            Kind::Bfs => bfs(random, bytes),
            Kind::Pagerank => pagerank(random, bytes),
            Kind::Gather => gather(random, bytes),
            Kind::Scatter => scatter(random, bytes),
            Kind::Reduce => reduce(random, bytes),
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.before.len() as u64
    }
}

/// Numbers as the device has them in memory.
trait Words {
    fn to_bytes(&self) -> Vec<u8>;
}

impl Words for [f64] {
    fn to_bytes(&self) -> Vec<u8> {
        self.iter().flat_map(|value| value.to_le_bytes()).collect()
    }
}

impl Words for [u64] {
    fn to_bytes(&self) -> Vec<u8> {
        self.iter().flat_map(|value| value.to_le_bytes()).collect()
    }
}

impl Words for [u32] {
    fn to_bytes(&self) -> Vec<u8> {
        self.iter().flat_map(|value| value.to_le_bytes()).collect()
    }
}

/// Arrays one behind the other, each from a page on.
#[derive(Default)]
struct Layout {
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Layout {
    /// Places an array that the job changes to `after`. Returns its offset.
    fn change<T>(&mut self, before: &[T], after: &[T]) -> u64
    where
        [T]: Words,
    {
        let at = self.before.len();
        self.before.extend(before.to_bytes());
        self.after.extend(after.to_bytes());
        let page = usize::try_from(PAGE_BYTES).unwrap_or(usize::MAX);
        self.before
            .resize(self.before.len().next_multiple_of(page), 0);
        self.after.resize(self.before.len(), 0);
        at as u64
    }

    /// Places an array that the job reads.
    fn add<T>(&mut self, data: &[T]) -> u64
    where
        [T]: Words,
    {
        self.change(data, data)
    }

    /// Places an array of zeros that the job changes.
    fn result<T: Copy + Default>(&mut self, after: &[T]) -> u64
    where
        [T]: Words,
    {
        self.change(&vec![T::default(); after.len()], after)
    }

    fn workload(self, kind: Kind, task: impl Into<Task>, value: u64) -> Workload {
        Workload {
            kind,
            task: task.into(),
            before: self.before,
            after: self.after,
            value,
        }
    }
}

fn doubles(random: &mut Pcg64Mcg, n: usize) -> Vec<f64> {
    const SCALE: f64 = 1.0 / 2_147_483_648.0;
    let mut one = || f64::from(random.random::<i32>()) * SCALE;
    (0..n).map(|_| one()).collect()
}

/// Rows of 8 numbers of columns, half of them near the row: where each begins, and the columns.
fn rows(random: &mut Pcg64Mcg, n: usize) -> (Vec<u64>, Vec<u32>) {
    const PER_ROW: usize = 8;
    const NEAR: usize = 64;
    let mut col = Vec::with_capacity(PER_ROW * n);
    for i in 0..n {
        for e in 0..PER_ROW {
            let to = if e % 2 == 0 {
                (i + n - NEAR.min(n) + random.random_range(0..=2 * NEAR)) % n
            } else {
                random.random_range(0..n)
            };
            col.push(u32::try_from(to).unwrap_or(u32::MAX));
        }
    }
    let row = (0..=n).map(|i| (i * PER_ROW) as u64).collect();
    (row, col)
}

/// The columns of row `i`.
fn columns<'a>(row: &[u64], col: &'a [u32], i: usize) -> &'a [u32] {
    let at = |word: u64| usize::try_from(word).unwrap_or(usize::MAX);
    &col[at(row[i])..at(row[i + 1])]
}

fn triad(random: &mut Pcg64Mcg, bytes: usize) -> Workload {
    let n = bytes / 24;
    let (b, c) = (doubles(random, n), doubles(random, n));
    let scale = 0.75;
    let sums: Vec<f64> = b.iter().zip(&c).map(|(b, c)| b + scale * c).collect();
    let mut layout = Layout::default();
    let task = Triad {
        a: layout.result(&sums),
        b: layout.add(&b),
        c: layout.add(&c),
        n: n as u64,
        scale,
    };
    layout.workload(Kind::Triad, task, 0)
}

fn stencil(random: &mut Pcg64Mcg, bytes: usize) -> Workload {
    const SIDE: usize = 64;
    let nz = (bytes / 16 / (SIDE * SIDE)).max(3);
    let (nx, ny) = (SIDE, SIDE);
    let cells = doubles(random, nx * ny * nz);
    let (centre, around) = (0.4, 0.1);
    let step = |now: &[f64]| {
        let mut then = now.to_vec();
        for z in 1..nz - 1 {
            for y in 1..ny - 1 {
                for x in 1..nx - 1 {
                    let i = (z * ny + y) * nx + x;
                    let mut sum = now[i - 1];
                    for j in [i + 1, i - nx, i + nx, i - nx * ny, i + nx * ny] {
                        sum += now[j];
                    }
                    then[i] = centre * now[i] + around * sum;
                }
            }
        }
        then
    };
    let one = step(&cells);
    let two = step(&one);
    let mut layout = Layout::default();
    let task = Stencil {
        input: layout.change(&cells, &two),
        output: layout.result(&one),
        nx: nx as u64,
        ny: ny as u64,
        nz: nz as u64,
        steps: 2,
        centre,
        around,
    };
    layout.workload(Kind::Stencil, task, 0)
}

fn gemm(random: &mut Pcg64Mcg, bytes: usize) -> Workload {
    const TILE: usize = 32;
    /// It computes n³ products, on a device that is simulated.
    const MOST: usize = 384;
    let mut n = TILE;
    while n < MOST && 24 * (n + TILE) * (n + TILE) <= bytes {
        n += TILE;
    }
    let (a, b) = (doubles(random, n * n), doubles(random, n * n));
    let mut c = vec![0.0; n * n];
    // Row by row of b: each sum is still made in the order of its products.
    for i in 0..n {
        let out = &mut c[i * n..(i + 1) * n];
        for (a, b) in a[i * n..(i + 1) * n].iter().zip(b.chunks_exact(n)) {
            for (out, b) in out.iter_mut().zip(b) {
                *out += a * b;
            }
        }
    }
    let mut layout = Layout::default();
    let task = Gemm {
        a: layout.add(&a),
        b: layout.add(&b),
        c: layout.result(&c),
        m: n as u64,
        n: n as u64,
        k: n as u64,
        tile: TILE as u64,
    };
    layout.workload(Kind::Gemm, task, 0)
}

fn conv2d(random: &mut Pcg64Mcg, bytes: usize) -> Workload {
    const W: usize = 512;
    let (cin, cout, k) = (4, 2, 3);
    let h = (bytes / 8 / (W * (cin + cout))).max(k);
    let image = doubles(random, cin * h * W);
    let weights = doubles(random, cout * cin * k * k);
    let mut out = Vec::with_capacity(cout * h * W);
    for o in 0..cout {
        for y in 0..=h - k {
            for x in 0..=W - k {
                let mut sum = 0.0;
                for i in 0..cin {
                    for dy in 0..k {
                        let line = &image[(i * h + y + dy) * W + x..][..k];
                        let weights = &weights[((o * cin + i) * k + dy) * k..][..k];
                        for (cell, weight) in line.iter().zip(weights) {
                            sum += cell * weight;
                        }
                    }
                }
                out.push(sum);
            }
        }
    }
    let mut layout = Layout::default();
    let task = Conv2d {
        input: layout.add(&image),
        weights: layout.add(&weights),
        output: layout.result(&out),
        channels_in: cin as u64,
        channels_out: cout as u64,
        h: h as u64,
        w: W as u64,
        k: k as u64,
    };
    layout.workload(Kind::Conv2d, task, 0)
}

fn spmv(random: &mut Pcg64Mcg, bytes: usize) -> Workload {
    let n = (bytes / 120).max(1);
    let (row, col) = rows(random, n);
    let (val, x) = (doubles(random, col.len()), doubles(random, n));
    let mut y = Vec::with_capacity(n);
    let mut e = 0;
    for i in 0..n {
        let mut sum = 0.0;
        for c in columns(&row, &col, i) {
            sum += val[e] * x[*c as usize];
            e += 1;
        }
        y.push(sum);
    }
    let mut layout = Layout::default();
    let task = Spmv {
        row: layout.add(&row),
        col: layout.add(&col),
        val: layout.add(&val),
        x: layout.add(&x),
        y: layout.result(&y),
        n: n as u64,
        columns: n as u64,
    };
    layout.workload(Kind::Spmv, task, 0)
}

fn bfs(random: &mut Pcg64Mcg, bytes: usize) -> Workload {
    let n = (bytes / 44).max(1);
    let (row, col) = rows(random, n);
    let source = random.random_range(0..n);
    let mut level = vec![u32::MAX; n];
    level[source] = 0;
    let mut front = vec![source];
    let mut reached = 1;
    let mut edges = 0;
    while !front.is_empty() {
        edges += 1;
        let mut next = Vec::new();
        for u in front {
            for v in columns(&row, &col, u) {
                let v = *v as usize;
                if level[v] == u32::MAX {
                    level[v] = edges;
                    reached += 1;
                    next.push(v);
                }
            }
        }
        front = next;
    }
    let mut layout = Layout::default();
    let task = Bfs {
        row: layout.add(&row),
        col: layout.add(&col),
        level: layout.result(&level),
        n: n as u64,
        source: source as u64,
    };
    layout.workload(Kind::Bfs, task, reached)
}

fn pagerank(random: &mut Pcg64Mcg, bytes: usize) -> Workload {
    let n = (bytes / 60).max(1);
    let damping = 0.85;
    let (row, col) = rows(random, n);
    let mut degree = vec![0_u32; n];
    for u in &col {
        degree[*u as usize] += 1;
    }
    let start = 1.0 / float(n as u64);
    let ranks = vec![start; n];
    let step = |now: &[f64]| -> Vec<f64> {
        let rank = |v: usize| {
            let edges = columns(&row, &col, v).iter();
            let share = |u: &u32| now[*u as usize] / f64::from(degree[*u as usize]);
            let sum = edges.fold(0.0, |sum, u| sum + share(u));
            (1.0 - damping) / float(n as u64) + damping * sum
        };
        (0..n).map(rank).collect()
    };
    let one = step(&ranks);
    let two = step(&one);
    let mut layout = Layout::default();
    let task = Pagerank {
        row: layout.add(&row),
        col: layout.add(&col),
        degree: layout.add(&degree),
        from: layout.change(&ranks, &two),
        to: layout.result(&one),
        n: n as u64,
        iterations: 2,
        damping,
    };
    layout.workload(Kind::Pagerank, task, 0)
}

/// How many elements there are, and how many of them are gathered or scattered.
fn elements(bytes: usize) -> (usize, usize) {
    let m = (bytes / 11).max(4);
    (m, m / 4)
}

fn index(random: &mut Pcg64Mcg, below: usize) -> u32 {
    u32::try_from(random.random_range(0..below)).unwrap_or(u32::MAX)
}

fn gather(random: &mut Pcg64Mcg, bytes: usize) -> Workload {
    let (m, n) = elements(bytes);
    let values = doubles(random, m);
    let index: Vec<u32> = (0..n).map(|_| index(random, m)).collect();
    let out: Vec<f64> = index.iter().map(|i| values[*i as usize]).collect();
    let mut layout = Layout::default();
    let task = Gather {
        input: layout.add(&values),
        index: layout.add(&index),
        output: layout.result(&out),
        n: n as u64,
        m: m as u64,
    };
    layout.workload(Kind::Gather, task, 0)
}

fn scatter(random: &mut Pcg64Mcg, bytes: usize) -> Workload {
    let (m, n) = elements(bytes);
    let values = doubles(random, n);
    // The first n of a shuffled deck: no index comes twice.
    let mut deck: Vec<u32> = (0..m)
        .map(|i| u32::try_from(i).unwrap_or(u32::MAX))
        .collect();
    for i in 0..n {
        deck.swap(i, random.random_range(i..m));
    }
    deck.truncate(n);
    let before = doubles(random, m);
    let mut after = before.clone();
    for (i, value) in deck.iter().zip(&values) {
        after[*i as usize] = *value;
    }
    let mut layout = Layout::default();
    let task = Scatter {
        input: layout.add(&values),
        index: layout.add(&deck),
        output: layout.change(&before, &after),
        n: n as u64,
        m: m as u64,
    };
    layout.workload(Kind::Scatter, task, 0)
}

fn reduce(random: &mut Pcg64Mcg, bytes: usize) -> Workload {
    let words: Vec<u64> = (0..bytes / 8).map(|_| random.random()).collect();
    let sum = words.iter().fold(0, |sum: u64, w| sum.wrapping_add(*w));
    let mut layout = Layout::default();
    let task = Reduce {
        input: layout.add(&words),
        n: words.len() as u64,
    };
    layout.workload(Kind::Reduce, task, sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn double(bytes: &[u8], at: usize) -> f64 {
        f64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn every_kind_has_about_the_bytes_that_are_asked_for_and_changes_some() {
        for kind in Kind::value_variants() {
            let w = Workload::new(*kind, 1 << 20, 7);
            assert_eq!(w.kind, *kind);
            assert_eq!(w.before.len(), w.after.len());
            assert_eq!(w.bytes() % PAGE_BYTES, 0);
            let wanted = 900 << 10..=(1 << 20) + (64 << 10);
            assert!(
                wanted.contains(&w.bytes()) || *kind == Kind::Gemm,
                "{kind:?}: {}",
                w.bytes()
            );
            assert_eq!(
                w.before == w.after,
                *kind == Kind::Reduce,
                "{kind:?} leaves its space as it was"
            );
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_data() {
        let [a, b, c] = [1, 1, 2].map(|seed| Workload::new(Kind::Spmv, 1 << 18, seed));
        assert_eq!(a.after, b.after);
        assert_ne!(a.after, c.after);
    }

    #[test]
    fn no_index_of_a_scatter_comes_twice() {
        let w = Workload::new(Kind::Scatter, 1 << 18, 3);
        let changed = |bytes: &[u8]| bytes.chunks(8).map(<[u8]>::to_vec).collect::<Vec<_>>();
        let (before, after) = (changed(&w.before), changed(&w.after));
        let moved = before.iter().zip(&after).filter(|(b, a)| b != a).count();
        assert_eq!(moved, elements(1 << 18).1);
    }

    #[test]
    fn ranks_stay_a_distribution_as_far_as_edges_go_somewhere() {
        let w = Workload::new(Kind::Pagerank, 1 << 18, 3);
        let n = (1 << 18) / 60;
        let Some(from) = w
            .before
            .chunks(8)
            .position(|c| c == (1.0 / float(n)).to_le_bytes())
        else {
            panic!("no ranks")
        };
        let n = usize::try_from(n).unwrap();
        let sum: f64 = (0..n).map(|i| double(&w.after, 8 * (from + i))).sum();
        assert!((0.9..=1.000_001).contains(&sum), "{sum}");
    }
}
