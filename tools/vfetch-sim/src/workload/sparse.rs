// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Sparse matrix times vector, rows compressed (CSR).

use std::{
    fs::File,
    io::{BufRead, BufReader},
};

use super::{bytes, param, rng, Kind, Values, MIB, SEED};
use crate::record::{Array, Recorder};
use anyhow::{bail, Context};
use rand::Rng;

pub(super) const SPMV: Kind = Kind {
    name: "spmv",
    about: "y = A x, rows of power-law length, columns drawn by a power law",
    params: &[
        MIB,
        SEED,
        param("degree", 16, 1, 1024, "entries a row, on average"),
        param("rounds", 3, 1, 1000, "products, each of the result before"),
        param("rows", 512, 1, 1 << 20, "rows that are one item"),
    ],
    file: Some(
        "a matrix instead of a generated one: MatrixMarket, coordinate, real, integer or pattern",
    ),
    run: run_power_law,
};

pub(super) const BANDED: Kind = Kind {
    name: "banded",
    about: "y = A x of a matrix with 9 diagonals (a 3-D grid's with its neighbours)",
    params: &[
        MIB,
        SEED,
        param("rounds", 3, 1, 1000, "products, each of the result before"),
        param("rows", 1024, 1, 1 << 20, "rows that are one item"),
    ],
    file: None,
    run: run_banded,
};

/// The most rows, columns or entries of a matrix from a file.
const MOST: u64 = 1 << 28;

/// A square matrix: the entries of row i are those from `offsets[i]` to before `offsets[i + 1]`.
#[derive(Debug, PartialEq)]
struct Matrix {
    offsets: Vec<u32>,
    columns: Vec<u32>,
    values: Vec<f64>,
}

impl Matrix {
    fn from_rows(rows: impl Iterator<Item = Vec<(u32, f64)>>) -> Self {
        let mut m = Self {
            offsets: vec![0],
            columns: Vec::new(),
            values: Vec::new(),
        };
        for row in rows {
            for (column, value) in row {
                m.columns.push(column);
                m.values.push(value);
            }
            m.offsets.push(m.columns.len() as u32);
        }
        m
    }

    fn rows(&self) -> usize {
        self.offsets.len() - 1
    }
}

fn run_power_law(v: &Values<'_>, r: &mut Recorder) -> anyhow::Result<()> {
    let matrix = if let Some(path) = v.file() {
        let file = File::open(path)
            .with_context(|| format!("cannot open the matrix '{}'", path.display()))?;
        parse(BufReader::new(file)).with_context(|| path.display().to_string())?
    } else {
        let degree = v.get("degree");
        let n = (bytes(v.get("mib")) / (12 * degree + 20)).max(16) as usize;
        let mut rng = rng(v.get("seed"));
        Matrix::from_rows((0..n).map(|_| {
            // Pareto with exponent 2 has a mean of twice its least.
            let length =
                (degree as f64 / 2.0 / (1.0 - rng.random::<f64>()).sqrt()).min(n as f64 / 4.0);
            let mut row: Vec<(u32, f64)> = (0..length.round().max(1.0) as usize)
                .map(|_| {
                    // Half of the entries fall on a sixteenth of the columns, which lie scattered.
                    let u: f64 = rng.random();
                    let column = (u.powi(4) * n as f64) as u64;
                    let scattered = column.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
                    ((scattered % n as u64) as u32, rng.random_range(-1.0..1.0))
                })
                .collect();
            row.sort_unstable_by_key(|(column, _)| *column);
            row
        }))
    };
    products(r, matrix, v.size("rounds"), v.size("rows"));
    Ok(())
}

fn run_banded(v: &Values<'_>, r: &mut Recorder) -> anyhow::Result<()> {
    let n = (bytes(v.get("mib")) / (9 * 12 + 20)).max(16) as usize;
    let mut rng = rng(v.get("seed"));
    let line = (n as f64).cbrt().round() as i64;
    let bands = [-line * line, -line, -2, -1, 0, 1, 2, line, line * line];
    let matrix = Matrix::from_rows((0..n as i64).map(|row| {
        bands
            .iter()
            .map(|band| row + band)
            .filter(|column| (0..n as i64).contains(column))
            .map(|column| (column as u32, rng.random_range(-0.2..0.2)))
            .collect()
    }));
    products(r, matrix, v.size("rounds"), v.size("rows"));
    Ok(())
}

/// A x for an x of ones; A of that; and so on.
fn products(r: &mut Recorder, m: Matrix, rounds: usize, per_item: usize) -> Array<f64> {
    let n = m.rows();
    let offsets = r.array(m.offsets);
    let columns = r.array(m.columns);
    let values = r.array(m.values);
    let mut x = r.array(vec![1.0_f64; n]);
    let mut y = r.array(vec![0.0_f64; n]);
    for _ in 0..rounds {
        r.barrier();
        for row in 0..n {
            if row % per_item == 0 {
                r.item();
            }
            let entries = offsets.get(r, row)..offsets.get(r, row + 1);
            let mut sum = 0.0;
            for entry in entries {
                let column = columns.get(r, entry as usize);
                sum += values.get(r, entry as usize) * x.get(r, column as usize);
            }
            y.set(r, row, sum);
        }
        std::mem::swap(&mut x, &mut y);
    }
    x
}

/// A square matrix in MatrixMarket's coordinate format.
fn parse(input: impl BufRead) -> anyhow::Result<Matrix> {
    let mut lines = input.lines().enumerate();
    let Some((_, banner)) = lines.next() else {
        bail!("it is empty");
    };
    let banner = banner.context("line 1")?.to_ascii_lowercase();
    let words: Vec<&str> = banner.split_ascii_whitespace().collect();
    let (pattern, symmetric) = match words.as_slice() {
        ["%%matrixmarket", "matrix", "coordinate", kind @ ("real" | "integer" | "pattern"), shape @ ("general" | "symmetric")] => {
            (*kind == "pattern", *shape == "symmetric")
        }
        _ => bail!("line 1: '{banner}': wanted '%%MatrixMarket matrix coordinate real|integer|pattern general|symmetric'"),
    };
    let mut size = None;
    let mut rows: Vec<Vec<(u32, f64)>> = Vec::new();
    let mut found = 0_u64;
    for (index, line) in lines {
        let number = index + 1;
        let line = line.with_context(|| format!("line {number}"))?;
        let line = line.trim();
        if line.is_empty() || line.starts_with('%') {
            continue;
        }
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let whole = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok());
        let Some((n, entries)) = size else {
            let (Some(a), Some(b), Some(entries), 3) = (whole(0), whole(1), whole(2), fields.len())
            else {
                bail!("line {number}: '{line}' is not 'rows columns entries'");
            };
            if a != b || a == 0 || a > MOST || entries > MOST {
                bail!("line {number}: {a} by {b} with {entries} entries; wanted a square matrix of 1 to {MOST} rows and at most {MOST} entries");
            }
            size = Some((a, entries));
            rows.resize(a as usize, Vec::new());
            continue;
        };
        let value = if pattern {
            Some(1.0)
        } else {
            fields.get(2).and_then(|f| f.parse::<f64>().ok())
        };
        let (Some(row), Some(column), Some(value)) = (whole(0), whole(1), value) else {
            bail!("line {number}: '{line}' is not an entry");
        };
        if !(1..=n).contains(&row) || !(1..=n).contains(&column) {
            bail!("line {number}: entry ({row}, {column}) is outside of the {n} by {n} matrix");
        }
        found += 1;
        if found > entries {
            bail!("line {number}: more entries than the {entries} that were announced");
        }
        rows[row as usize - 1].push((column as u32 - 1, value));
        if symmetric && row != column {
            rows[column as usize - 1].push((row as u32 - 1, value));
        }
    }
    match size {
        None => bail!("the line with the size is missing"),
        Some((_, entries)) if found < entries => {
            bail!("it has {found} entries and announced {entries}")
        }
        Some(_) => Ok(Matrix::from_rows(rows.into_iter())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "%%MatrixMarket matrix coordinate real general\n% comment\n3 3 4\n1 1 2.0\n1 3 -1\n2 2 1e1\n3 1 4\n";

    #[test]
    fn products_are_those_of_the_matrix() {
        let m = parse(SMALL.as_bytes()).unwrap();
        let mut r = Recorder::new(64);
        // A 1 = (1, 10, 4), A (1, 10, 4) = (-2, 100, 4).
        assert_eq!(products(&mut r, m, 2, 2).data(), [-2.0, 100.0, 4.0]);
        assert_eq!(
            r.finish("p".into()).unwrap().accesses(),
            2 * (3 * 3 + 4 * 3)
        );
    }

    #[test]
    fn matrix_files_are_read_and_errors_name_the_line() {
        let symmetric = SMALL.replace("general", "symmetric");
        assert_eq!(parse(symmetric.as_bytes()).unwrap().columns.len(), 6);
        let error = |text: &str| format!("{:#}", parse(text.as_bytes()).unwrap_err());
        assert!(error("").contains("empty"));
        assert!(error("%%MatrixMarket matrix array real general\n").contains("line 1"));
        assert!(error(&SMALL.replace("3 3 4", "3 2 4")).contains("line 3: 3 by 2"));
        assert!(error(&SMALL.replace("3 3 4", "x")).contains("line 3: 'x' is not 'rows"));
        assert!(error(&SMALL.replace("3 3 4", "3 3 3")).contains("line 7: more entries"));
        assert!(error(&SMALL.replace("3 3 4", "3 3 5")).contains("has 4 entries and announced 5"));
        assert!(
            error(&SMALL.replace("2 2 1e1", "2 4 1")).contains("line 6: entry (2, 4) is outside")
        );
        assert!(error(&SMALL.replace("2 2 1e1", "2 2")).contains("line 6: '2 2' is not an entry"));
    }
}
