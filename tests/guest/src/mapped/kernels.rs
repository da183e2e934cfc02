// SPDX-License-Identifier: GPL-2.0

//! Jobs over random data, laid out in a space, and what they must leave there, computed here as plainly as can be. Offsets are odd on
//! purpose: arrays share pages and straddle them.

use libvfetch::{
    stamped, Bfs, Conv2d, Gather, Gemm, Pagerank, Reduce, Scatter, Spmv, Stamp, StampCheck,
    Stencil, Task, Triad,
};
use rand::Rng;
use rand_pcg::Pcg64Mcg;

use crate::support::machine::PAGE;

/// A job: the space before it and after it, and its value.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) task: Task,
    pub(crate) before: Vec<u8>,
    pub(crate) after: Vec<u8>,
    pub(crate) value: u64,
}

/// Arrays one behind the other.
#[derive(Default)]
struct Layout {
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Layout {
    /// Places an array, which the job changes to `after`. Returns its offset.
    fn change(&mut self, gap: usize, before: &[u8], after: &[u8]) -> u64 {
        assert_eq!(before.len(), after.len());
        let at = (self.before.len() + gap).next_multiple_of(8);
        self.before.resize(at, 0);
        self.after.resize(at, 0);
        self.before.extend(before);
        self.after.extend(after);
        at as u64
    }

    /// Places an array that the job leaves alone.
    fn add(&mut self, gap: usize, data: &[u8]) -> u64 {
        self.change(gap, data, data)
    }

    /// Places a result, of which nothing was there.
    fn result(&mut self, after: &[u8]) -> u64 {
        self.change(8, &vec![0; after.len()], after)
    }

    fn case(mut self, name: &'static str, task: impl Into<Task>, value: u64) -> Case {
        let bytes = self.before.len().next_multiple_of(PAGE);
        self.before.resize(bytes, 0);
        self.after.resize(bytes, 0);
        Case {
            name,
            task: task.into(),
            before: self.before,
            after: self.after,
            value,
        }
    }
}

fn bytes_of_doubles(values: &[f64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn bytes_of_words(values: &[u64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn bytes_of_indices(values: &[usize]) -> Vec<u8> {
    let number = |value: &usize| u32::try_from(*value).unwrap_or(u32::MAX);
    values
        .iter()
        .flat_map(|value| number(value).to_le_bytes())
        .collect()
}

fn doubles(random: &mut Pcg64Mcg, n: usize) -> Vec<f64> {
    let mut one = || {
        let scale = f64::from(random.random_range(1..4096u32));
        random.random_range(-1.0..1.0) * scale
    };
    (0..n).map(|_| one()).collect()
}

/// Compressed rows, some of them empty and one long: where each begins, and its columns.
fn rows(random: &mut Pcg64Mcg, n: usize, columns: usize, long: usize) -> (Vec<usize>, Vec<usize>) {
    let (mut row, mut col) = (vec![0], Vec::new());
    for i in 0..n {
        let count = match random.random_range(0..5) {
            _ if i == n / 2 => long,
            0 => 0,
            1 => 1,
            2 => 2,
            3 => 5,
            _ => 9,
        };
        col.extend((0..count).map(|_| random.random_range(0..columns)));
        row.push(col.len());
    }
    (row, col)
}

fn starts(row: &[usize]) -> Vec<u8> {
    let words: Vec<u64> = row.iter().map(|at| *at as u64).collect();
    bytes_of_words(&words)
}

fn triad(random: &mut Pcg64Mcg) -> Case {
    let n = 5000;
    let (b, c) = (doubles(random, n), doubles(random, n));
    let scale = random.random_range(-2.0..2.0);
    let sums: Vec<f64> = b.iter().zip(&c).map(|(b, c)| b + scale * c).collect();
    let mut layout = Layout::default();
    let task = Triad {
        a: layout.result(&bytes_of_doubles(&sums)),
        b: layout.add(24, &bytes_of_doubles(&b)),
        c: layout.add(136, &bytes_of_doubles(&c)),
        n: n as u64,
        scale,
    };
    layout.case("triad", task, 0)
}

fn stencil(random: &mut Pcg64Mcg, steps: usize) -> Case {
    let (nx, ny, nz) = (67, 9, 11);
    let cells = doubles(random, nx * ny * nz);
    let (centre, around) = (
        random.random_range(-1.0..1.0),
        random.random_range(-1.0..1.0),
    );
    let mut history = vec![vec![0.0; cells.len()], cells.clone()];
    for _ in 0..steps {
        let now = history.last().cloned().unwrap_or_default();
        let mut then = now.clone();
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
        history.push(then);
    }
    let last = bytes_of_doubles(&history[steps + 1]);
    let one_before = bytes_of_doubles(&history[steps]);
    let (input, output) = if steps % 2 == 1 {
        (one_before, last)
    } else {
        (last, one_before)
    };
    let mut layout = Layout::default();
    let task = Stencil {
        input: layout.change(8, &bytes_of_doubles(&cells), &input),
        output: layout.result(&output),
        nx: nx as u64,
        ny: ny as u64,
        nz: nz as u64,
        steps: steps as u64,
        centre,
        around,
    };
    layout.case("stencil", task, 0)
}

fn gemm(random: &mut Pcg64Mcg) -> Case {
    let (m, n, k) = (39, 43, 61);
    let (a, b) = (doubles(random, m * k), doubles(random, k * n));
    let mut c = Vec::new();
    for i in 0..m {
        for j in 0..n {
            let products = (0..k).map(|l| a[i * k + l] * b[l * n + j]);
            c.push(products.fold(0.0, |sum, product| sum + product));
        }
    }
    let mut layout = Layout::default();
    let task = Gemm {
        a: layout.add(8, &bytes_of_doubles(&a)),
        b: layout.add(8, &bytes_of_doubles(&b)),
        c: layout.result(&bytes_of_doubles(&c)),
        m: m as u64,
        n: n as u64,
        k: k as u64,
        tile: 8,
    };
    layout.case("gemm", task, 0)
}

fn conv2d(random: &mut Pcg64Mcg) -> Case {
    let (cin, cout, h, w, k) = (2, 3, 13, 90, 3);
    let (image, weights) = (
        doubles(random, cin * h * w),
        doubles(random, cout * cin * k * k),
    );
    let mut out = Vec::new();
    for o in 0..cout {
        for y in 0..=h - k {
            for x in 0..=w - k {
                let mut sum = 0.0;
                for i in 0..cin {
                    for dy in 0..k {
                        for dx in 0..k {
                            let cell = image[(i * h + y + dy) * w + x + dx];
                            sum += cell * weights[((o * cin + i) * k + dy) * k + dx];
                        }
                    }
                }
                out.push(sum);
            }
        }
    }
    let mut layout = Layout::default();
    let task = Conv2d {
        input: layout.add(8, &bytes_of_doubles(&image)),
        weights: layout.add(8, &bytes_of_doubles(&weights)),
        output: layout.result(&bytes_of_doubles(&out)),
        channels_in: cin as u64,
        channels_out: cout as u64,
        h: h as u64,
        w: w as u64,
        k: k as u64,
    };
    layout.case("conv2d", task, 0)
}

fn spmv(random: &mut Pcg64Mcg) -> Case {
    let (n, columns) = (300, 6000);
    let (row, col) = rows(random, n, columns, 900);
    let (val, x) = (doubles(random, col.len()), doubles(random, columns));
    let sum = |i: usize| (row[i]..row[i + 1]).fold(0.0, |sum, e| sum + val[e] * x[col[e]]);
    let y: Vec<f64> = (0..n).map(sum).collect();
    let mut layout = Layout::default();
    let task = Spmv {
        row: layout.add(8, &starts(&row)),
        col: layout.add(8, &bytes_of_indices(&col)),
        val: layout.add(8, &bytes_of_doubles(&val)),
        x: layout.add(8, &bytes_of_doubles(&x)),
        y: layout.result(&bytes_of_doubles(&y)),
        n: n as u64,
        columns: columns as u64,
    };
    layout.case("spmv", task, 0)
}

fn bfs(random: &mut Pcg64Mcg) -> Case {
    let n = 3000;
    let (row, col) = rows(random, n, n, 60);
    let source = random.random_range(0..n);
    let far = u32::MAX as usize;
    let mut level = vec![far; n];
    level[source] = 0;
    let mut front = vec![source];
    while !front.is_empty() {
        let mut next = Vec::new();
        for u in front {
            for v in &col[row[u]..row[u + 1]] {
                if level[*v] == far {
                    level[*v] = level[u] + 1;
                    next.push(*v);
                }
            }
        }
        front = next;
    }
    let reached = level.iter().filter(|level| **level != far).count();
    let mut layout = Layout::default();
    let task = Bfs {
        row: layout.add(8, &starts(&row)),
        col: layout.add(8, &bytes_of_indices(&col)),
        level: layout.change(8, &vec![0xab; 4 * n], &bytes_of_indices(&level)),
        n: n as u64,
        source: source as u64,
    };
    layout.case("bfs", task, reached as u64)
}

fn pagerank(random: &mut Pcg64Mcg, iterations: usize) -> Case {
    let n = 250;
    let damping = 0.85;
    let (row, col) = rows(random, n, n, 300);
    let mut degree = vec![0; n];
    for u in &col {
        degree[*u] += 1;
    }
    let ranks: Vec<f64> = (0..n).map(|_| random.random_range(0.0..1.0)).collect();
    #[allow(clippy::cast_precision_loss)]
    let double = |n: usize| n as f64;
    let mut history = vec![vec![0.0; n], ranks.clone()];
    for _ in 0..iterations {
        let now = history.last().cloned().unwrap_or_default();
        let rank = |v: usize| {
            let edges = col[row[v]..row[v + 1]].iter();
            let sum = edges.fold(0.0, |sum, u| sum + now[*u] / double(degree[*u]));
            (1.0 - damping) / double(n) + damping * sum
        };
        history.push((0..n).map(rank).collect());
    }
    let last = bytes_of_doubles(&history[iterations + 1]);
    let one_before = bytes_of_doubles(&history[iterations]);
    let (from, to) = if iterations % 2 == 1 {
        (one_before, last)
    } else {
        (last, one_before)
    };
    let mut layout = Layout::default();
    let task = Pagerank {
        row: layout.add(8, &starts(&row)),
        col: layout.add(8, &bytes_of_indices(&col)),
        degree: layout.add(8, &bytes_of_indices(&degree)),
        from: layout.change(8, &bytes_of_doubles(&ranks), &from),
        to: layout.result(&to),
        n: n as u64,
        iterations: iterations as u64,
        damping,
    };
    layout.case("pagerank", task, 0)
}

fn gather(random: &mut Pcg64Mcg) -> Case {
    let (n, m) = (900usize, 9000);
    let values = doubles(random, m);
    let index: Vec<usize> = (0..n).map(|_| random.random_range(0..m)).collect();
    let out: Vec<f64> = index.iter().map(|i| values[*i]).collect();
    let mut layout = Layout::default();
    let task = Gather {
        input: layout.add(8, &bytes_of_doubles(&values)),
        index: layout.add(8, &bytes_of_indices(&index)),
        output: layout.result(&bytes_of_doubles(&out)),
        n: n as u64,
        m: m as u64,
    };
    layout.case("gather", task, 0)
}

fn scatter(random: &mut Pcg64Mcg) -> Case {
    let (n, m) = (900, 9000);
    let values = doubles(random, n);
    // A prime that does not divide m: no index comes twice.
    let first = random.random_range(0..m);
    let index: Vec<usize> = (0..n).map(|i| (first + 7919 * i) % m).collect();
    let before = doubles(random, m);
    let mut after = before.clone();
    for (i, value) in index.iter().zip(&values) {
        after[*i] = *value;
    }
    let mut layout = Layout::default();
    let task = Scatter {
        input: layout.add(8, &bytes_of_doubles(&values)),
        index: layout.add(8, &bytes_of_indices(&index)),
        output: layout.change(8, &bytes_of_doubles(&before), &bytes_of_doubles(&after)),
        n: n as u64,
        m: m as u64,
    };
    layout.case("scatter", task, 0)
}

fn reduce(random: &mut Pcg64Mcg) -> Case {
    let words: Vec<u64> = (0..9000).map(|_| random.random()).collect();
    let sum = words
        .iter()
        .fold(0, |sum: u64, word| sum.wrapping_add(*word));
    let mut layout = Layout::default();
    let task = Reduce {
        input: layout.add(40, &bytes_of_words(&words)),
        n: words.len() as u64,
    };
    layout.case("reduce", task, sum)
}

fn stamp() -> Case {
    let (n, first, generation) = (9000, (1 << 40) - 100, (1 << 23) + 9);
    let words: Vec<u64> = (0..n).map(|i| stamped(first + i, generation)).collect();
    let mut layout = Layout::default();
    let task = Stamp {
        output: layout.result(&bytes_of_words(&words)),
        n,
        first,
        generation,
    };
    layout.case("stamp", task, 0)
}

fn check(random: &mut Pcg64Mcg, lowest: u64) -> Case {
    let (n, first, highest) = (9000, 5, 9);
    let mut wrong = 0;
    let mut word = |i: u64| match random.random_range(0..20) {
        0 => {
            wrong += u64::from(lowest > 0);
            0
        }
        1 => {
            wrong += 1;
            stamped(first + i, highest + 1)
        }
        2 => {
            wrong += 1;
            stamped(first + i + 1, highest)
        }
        _ => stamped(first + i, random.random_range(lowest.max(1)..=highest)),
    };
    let words: Vec<u64> = (0..n).map(&mut word).collect();
    let mut layout = Layout::default();
    let task = StampCheck {
        input: layout.add(8, &bytes_of_words(&words)),
        n,
        first,
        lowest,
        highest,
    };
    layout.case("check", task, wrong)
}

/// A case of every kind, of some two.
pub(crate) fn all(random: &mut Pcg64Mcg) -> Vec<Case> {
    vec![
        triad(random),
        stencil(random, 3),
        stencil(random, 2),
        gemm(random),
        conv2d(random),
        spmv(random),
        bfs(random),
        pagerank(random, 3),
        pagerank(random, 2),
        gather(random),
        scatter(random),
        reduce(random),
        stamp(),
        check(random, 0),
        check(random, 4),
    ]
}
