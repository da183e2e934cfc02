// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a matrix says: who is best, whether that is as expected, and where the learning policy falls short.

use serde::Serialize;

use crate::{
    experiment::{Cell, Row},
    matrix::Matrix,
    policy::Choice,
};

/// Of a policy over all cells: geometric means.
#[derive(Debug, Serialize)]
pub(crate) struct Standing {
    pub(crate) policy: String,
    pub(crate) peer: bool,
    /// Of its time to that of the best fixed policy of each cell.
    pub(crate) to_best_fixed: f64,
    /// Of its time to the oracle's.
    pub(crate) to_oracle: f64,
    /// Cells in which it is within 5 % of the best of all policies.
    pub(crate) near_best: usize,
}

/// Of a cell.
#[derive(Debug, Serialize)]
pub(crate) struct CellVerdict {
    pub(crate) workload: String,
    pub(crate) capacity: f64,
    pub(crate) link_megabytes_per_s: u64,
    pub(crate) best_fixed: String,
    pub(crate) worst_fixed: String,
    /// Of the worst fixed policy's time to the best one's.
    pub(crate) spread: f64,
    pub(crate) best_peer: Option<String>,
    /// Time of the learning policy to that of the best fixed one, less 1.
    pub(crate) auto_gap: Option<f64>,
    /// And to the oracle's.
    pub(crate) auto_to_oracle: Option<f64>,
    /// What the learning policy did differently, where the gap is more than 5 %.
    pub(crate) why: Option<String>,
}

/// Of a workload of which something is expected.
#[derive(Debug, Serialize)]
pub(crate) struct Expectation {
    pub(crate) workload: String,
    pub(crate) expected: Vec<String>,
    /// The best fixed policy over its cells, by the geometric mean.
    pub(crate) best: String,
    /// The best expected one's time to that.
    pub(crate) ratio: f64,
    /// Cells in which an expected one is within 1 % of the best fixed one.
    pub(crate) cells: usize,
    pub(crate) of: usize,
    /// Whether an expected one is the best, or within 1 % of it.
    pub(crate) holds: bool,
}

/// What a matrix says.
#[derive(Debug, Serialize)]
pub(crate) struct Verdict {
    pub(crate) cells: Vec<CellVerdict>,
    /// Cells with a spread of at least 1.3.
    pub(crate) discriminating: usize,
    pub(crate) standings: Vec<Standing>,
    /// Cells in which auto is within 5 % of the best fixed policy.
    pub(crate) auto_near: usize,
    /// Cells with at least as much memory as is used, and those of them in which auto is within 25 % of the oracle.
    pub(crate) roomy: usize,
    pub(crate) auto_near_oracle: usize,
    /// Of these cells, those in which a prefetcher that knows the order of first touches is, and those in which auto is
    /// within 25 % of that one.
    pub(crate) in_order_near_oracle: usize,
    pub(crate) auto_near_in_order: usize,
    /// How much the geometric mean of auto's time is below that of the best single other policy.
    pub(crate) auto_ahead: Option<(String, f64)>,
    pub(crate) expectations: Vec<Expectation>,
}

const WITHIN: f64 = 1.05;
const SPREAD: f64 = 1.3;
const ORACLE: f64 = 1.25;

fn geomean(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0_u32);
    for value in values {
        sum += value.ln();
        count += 1;
    }
    (sum / f64::from(count.max(1))).exp()
}

fn kind(row: &Row) -> Option<Choice> {
    row.policy.parse().ok()
}

fn is_fixed(row: &Row) -> bool {
    kind(row).is_some_and(|choice| !choice.is_peer() && choice != Choice::AUTO)
}

fn time(row: &Row) -> f64 {
    row.time_ns.max(1) as f64
}

fn fastest<'a>(rows: impl Iterator<Item = &'a Row>) -> Option<&'a Row> {
    rows.min_by_key(|row| row.time_ns)
}

/// What made `mine` slower than `best`.
fn why(mine: &Row, best: &Row) -> String {
    let ratio = |a: u64, b: u64| a as f64 / b.max(1) as f64;
    let faults = ratio(
        mine.faults + mine.host_faults,
        best.faults + best.host_faults,
    );
    let moved = ratio(mine.bytes_moved, best.bytes_moved);
    let batches = ratio(mine.batches, best.batches);
    let mut parts = Vec::new();
    for (value, what) in [(moved, "moves"), (faults, "faults"), (batches, "batches")] {
        if !(0.95..1.05).contains(&value) {
            parts.push(format!("{value:.2}x the {what}"));
        }
    }
    if parts.is_empty() {
        parts.push("same faults and moves, another order".to_owned());
    }
    format!("{} of {}", parts.join(", "), best.policy)
}

impl CellVerdict {
    fn of(cell: &Cell) -> Option<Self> {
        let fixed = || cell.rows.iter().filter(|row| is_fixed(row));
        let best = fastest(fixed())?;
        let worst = fixed().max_by_key(|row| row.time_ns)?;
        let peers = cell
            .rows
            .iter()
            .filter(|row| kind(row).is_some_and(Choice::is_peer));
        let auto = cell.row(&Choice::AUTO.to_string());
        let gap = auto.map(|auto| time(auto) / time(best) - 1.0);
        Some(Self {
            workload: cell.place.workload.clone(),
            capacity: cell.place.capacity,
            link_megabytes_per_s: cell.place.link_megabytes_per_s,
            best_fixed: best.policy.clone(),
            worst_fixed: worst.policy.clone(),
            spread: time(worst) / time(best),
            best_peer: fastest(peers).map(|row| row.policy.clone()),
            auto_gap: gap,
            auto_to_oracle: auto.map(|auto| auto.slowdown),
            why: auto
                .filter(|_| gap.is_some_and(|gap| gap > WITHIN - 1.0))
                .map(|auto| why(auto, best)),
        })
    }
}

fn standings(cells: &[Cell]) -> Vec<Standing> {
    let Some(first) = cells.first() else {
        return Vec::new();
    };
    let mut standings: Vec<Standing> = first
        .rows
        .iter()
        .map(|row| {
            let name = row.policy.as_str();
            let mine = || {
                cells
                    .iter()
                    .filter_map(move |cell| Some((cell, cell.row(name)?)))
            };
            let best_fixed = |cell: &Cell| {
                fastest(cell.rows.iter().filter(|row| is_fixed(row))).map_or(1.0, time)
            };
            let best = |cell: &Cell| fastest(cell.rows.iter()).map_or(1.0, time);
            Standing {
                policy: row.policy.clone(),
                peer: kind(row).is_some_and(Choice::is_peer),
                to_best_fixed: geomean(mine().map(|(cell, row)| time(row) / best_fixed(cell))),
                to_oracle: geomean(mine().map(|(_, row)| row.slowdown)),
                near_best: mine()
                    .filter(|(cell, row)| time(row) <= best(cell) * WITHIN)
                    .count(),
            }
        })
        .collect();
    standings.sort_by(|a, b| a.to_best_fixed.total_cmp(&b.to_best_fixed));
    standings
}

fn expectations(matrix: &Matrix, cells: &[Cell]) -> Vec<Expectation> {
    let mut list = Vec::new();
    for workload in &matrix.workload {
        if workload.expect.is_empty() {
            continue;
        }
        let mine: Vec<&Cell> = cells
            .iter()
            .filter(|cell| cell.place.workload == workload.name)
            .collect();
        let Some(first) = mine.first() else { continue };
        let mean = |name: &str| {
            geomean(
                mine.iter()
                    .filter_map(|cell| Some(cell.row(name)?.slowdown)),
            )
        };
        let fixed = first.rows.iter().filter(|row| is_fixed(row));
        let Some(best) = fixed.min_by(|a, b| mean(&a.policy).total_cmp(&mean(&b.policy))) else {
            continue;
        };
        let expected = workload
            .expect
            .iter()
            .filter(|name| first.row(name).is_some())
            .map(|name| mean(name))
            .fold(f64::INFINITY, f64::min);
        let hit = |cell: &&&Cell| {
            let Some(best) = fastest(cell.rows.iter().filter(|row| is_fixed(row))) else {
                return false;
            };
            workload
                .expect
                .iter()
                .filter_map(|name| cell.row(name))
                .any(|row| time(row) <= time(best) * 1.01)
        };
        let ratio = expected / mean(&best.policy);
        if !ratio.is_finite() {
            // None of them was run.
            continue;
        }
        list.push(Expectation {
            workload: workload.name.clone(),
            expected: workload.expect.clone(),
            best: best.policy.clone(),
            ratio,
            cells: mine.iter().filter(hit).count(),
            of: mine.len(),
            holds: ratio <= 1.01,
        });
    }
    list
}

impl Verdict {
    /// What `cells` of `matrix` say.
    pub(crate) fn of(matrix: &Matrix, cells: &[Cell]) -> Self {
        let verdicts: Vec<CellVerdict> = cells.iter().filter_map(CellVerdict::of).collect();
        let standings = standings(cells);
        let auto = Choice::AUTO.to_string();
        let mine = standings.iter().find(|s| s.policy == auto);
        let other = standings.iter().find(|s| s.policy != auto);
        let auto_ahead = mine
            .zip(other)
            .map(|(mine, other)| (other.policy.clone(), 1.0 - mine.to_oracle / other.to_oracle));
        let in_order = || {
            (cells.iter().filter(|cell| cell.place.capacity >= 1.0))
                .filter_map(|cell| Some((cell, cell.oracle.in_order_ns? as f64)))
        };
        let roomy = || verdicts.iter().filter(|c| c.capacity >= 1.0);
        Self {
            discriminating: verdicts.iter().filter(|c| c.spread >= SPREAD).count(),
            auto_near: verdicts
                .iter()
                .filter(|c| c.auto_gap.is_some_and(|gap| gap <= WITHIN - 1.0))
                .count(),
            roomy: roomy().count(),
            auto_near_oracle: roomy()
                .filter(|c| c.auto_to_oracle.is_some_and(|x| x <= ORACLE))
                .count(),
            in_order_near_oracle: in_order()
                .filter(|(cell, time)| *time <= cell.oracle.time_ns.max(1) as f64 * ORACLE)
                .count(),
            auto_near_in_order: in_order()
                .filter(|(cell, bound)| {
                    cell.row(&auto)
                        .is_some_and(|row| time(row) <= bound * ORACLE)
                })
                .count(),
            auto_ahead,
            expectations: expectations(matrix, cells),
            standings,
            cells: verdicts,
        }
    }
}
