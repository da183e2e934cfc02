// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A scenario under several policies, and what is said of each.

use serde::{Deserialize, Serialize};

use crate::{
    machine::{
        self,
        config::Costs,
        result::{Counters, Outcome, Timeline},
        Setup, Stalled, Tenant,
    },
    oracle::{self, Bound, Order},
    policy::Choice,
    trace::{Trace, BLOCK_PAGES, PAGE_BYTES},
};

/// Traces that run together, and what is computed of them once.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) name: String,
    pub(crate) traces: Vec<Trace>,
    /// Distinct pages of all.
    pub(crate) working_set: u32,
    order: Option<(u32, u64, Order)>,
}

impl Load {
    pub(crate) fn new(name: String, traces: Vec<Trace>) -> Self {
        Self {
            name,
            working_set: traces.iter().map(Trace::working_set).sum(),
            traces,
            order: None,
        }
    }

    /// Frames that are `share` of the working set, at least a block.
    pub(crate) fn frames(&self, share: f64) -> u32 {
        ((f64::from(self.working_set) * share).round() as u32).max(BLOCK_PAGES)
    }

    fn order(&mut self, costs: &Costs) -> &Order {
        let key = (costs.strands, costs.compute_ns);
        let fresh =
            matches!(&self.order, Some((strands, compute, _)) if (*strands, *compute) == key);
        if !fresh {
            self.order = None;
        }
        let traces = &self.traces;
        let (_, _, order) = self.order.get_or_insert_with(|| {
            let traces: Vec<&Trace> = traces.iter().collect();
            (key.0, key.1, oracle::order(&traces, costs))
        });
        order
    }

    /// What the oracle needs.
    pub(crate) fn bound(&mut self, costs: &Costs, frames: u32) -> Bound {
        oracle::bound(self.order(costs), costs, frames)
    }

    /// As [`oracle::in_order_ns`].
    pub(crate) fn in_order_ns(&mut self, costs: &Costs) -> u64 {
        self.order(costs);
        let traces: Vec<&Trace> = self.traces.iter().collect();
        self.order.as_ref().map_or(0, |(_, _, order)| {
            oracle::in_order_ns(&traces, costs, order)
        })
    }

    /// Runs it under `policy`.
    ///
    /// # Errors
    ///
    /// [`Stalled`], which cannot happen.
    pub(crate) fn run(
        &self,
        costs: &Costs,
        frames: u32,
        policy: Choice,
        measure: bool,
    ) -> Result<Outcome, Stalled> {
        let setup = Setup {
            costs: *costs,
            capacity: frames,
            measure,
        };
        let tenants = self
            .traces
            .iter()
            .enumerate()
            .map(|(index, trace)| Tenant {
                trace,
                prefetcher: policy.prefetcher(index as u32 + 1, costs.page_ns()),
            })
            .collect();
        machine::run(&setup, tenants)
    }
}

/// Where a run took place.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub(crate) struct Place {
    pub(crate) workload: String,
    /// Of the working set.
    pub(crate) capacity: f64,
    pub(crate) frames: u32,
    pub(crate) link_megabytes_per_s: u64,
}

/// What the oracle needs there.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct OracleRow {
    pub(crate) time_ns: u64,
    pub(crate) misses: u64,
    pub(crate) bytes: u64,
    pub(crate) compute_ns: u64,
    pub(crate) link_ns: u64,
    /// With memory for all: as [`oracle::in_order_ns`].
    pub(crate) in_order_ns: Option<u64>,
}

impl From<Bound> for OracleRow {
    fn from(bound: Bound) -> Self {
        Self {
            time_ns: bound.time_ns(),
            misses: bound.misses,
            bytes: bound.bytes(),
            compute_ns: bound.compute_ns,
            link_ns: bound.link_ns,
            in_order_ns: None,
        }
    }
}

/// A run's figures. Shares are `null` where there is nothing to divide by.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) policy: String,
    /// Virtual.
    pub(crate) time_ns: u64,
    /// When each tenant ended.
    pub(crate) tenants_ns: Vec<u64>,
    /// The oracle's times.
    pub(crate) slowdown: f64,
    pub(crate) faults: u64,
    pub(crate) host_faults: u64,
    pub(crate) faults_per_s: f64,
    pub(crate) batches: u64,
    /// 1 - faults / faults without prefetching; null where that was not run.
    pub(crate) coverage: Option<f64>,
    /// (used + late) / prefetched.
    pub(crate) accuracy: Option<f64>,
    /// late / (used + late).
    pub(crate) lateness: Option<f64>,
    /// Demand misses that would have been hits without prefetching, of all.
    pub(crate) pollution: Option<f64>,
    pub(crate) prefetched: u64,
    pub(crate) used: u64,
    pub(crate) late: u64,
    pub(crate) unused: u64,
    pub(crate) left_over: u64,
    pub(crate) dropped: u64,
    pub(crate) invalid: u64,
    pub(crate) again: u64,
    pub(crate) evicted_blocks: u64,
    /// Faults that waited since their page was thrashing; times that a page was pinned; touches of pages pinned elsewhere.
    pub(crate) throttled: u64,
    pub(crate) pinned: u64,
    pub(crate) remote: u64,
    /// What the link carried, both ways.
    pub(crate) bytes_moved: u64,
    /// Of what the oracle moves.
    pub(crate) moved_of_needed: f64,
    pub(crate) link_megabytes_per_s: f64,
    pub(crate) accesses_per_s: f64,
    pub(crate) peak_bytes: u64,
    /// p50 and p99 of a batch's decision, in nanoseconds of this machine's clock; null unless measured.
    pub(crate) decision_host_ns: Option<[u64; 2]>,
    #[serde(skip)]
    pub(crate) timeline: Option<Timeline>,
}

impl Row {
    /// The figures of `outcome`.
    pub(crate) fn new(policy: Choice, outcome: Outcome, bound: &Bound) -> Self {
        let c: Counters = outcome.total();
        let seconds = c.time_ns.max(1) as f64 / 1e9;
        Self {
            policy: policy.to_string(),
            time_ns: c.time_ns,
            tenants_ns: outcome.functions.iter().map(|f| f.time_ns).collect(),
            slowdown: c.time_ns as f64 / bound.time_ns().max(1) as f64,
            faults: c.faults,
            host_faults: c.host_faults,
            faults_per_s: c.all_faults() as f64 / seconds,
            batches: c.batches,
            coverage: None,
            accuracy: c.accuracy(),
            lateness: c.lateness(),
            pollution: c.pollution(),
            prefetched: c.prefetched,
            used: c.used,
            late: c.late,
            unused: c.unused,
            left_over: c.left_over,
            dropped: c.dropped,
            invalid: c.invalid,
            again: c.again,
            evicted_blocks: c.evictions,
            throttled: c.throttled,
            pinned: c.pinned,
            remote: c.remote,
            bytes_moved: c.bytes_moved(),
            moved_of_needed: c.bytes_moved() as f64 / bound.bytes().max(1) as f64,
            link_megabytes_per_s: c.bytes_moved() as f64 / 1e6 / seconds,
            accesses_per_s: c.accesses as f64 / seconds,
            peak_bytes: u64::from(outcome.peak_pages) * PAGE_BYTES,
            decision_host_ns: c.decision_ns(),
            timeline: Some(outcome.timeline),
        }
    }

    fn all_faults(&self) -> u64 {
        self.faults + self.host_faults
    }
}

/// A scenario with its policies' figures.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cell {
    #[serde(flatten)]
    pub(crate) place: Place,
    pub(crate) working_set_bytes: u64,
    pub(crate) oracle: OracleRow,
    pub(crate) rows: Vec<Row>,
}

impl Cell {
    /// Runs `load` with frames for `capacity` of its working set under each policy; `done` is called after each.
    ///
    /// # Errors
    ///
    /// [`Stalled`], which cannot happen.
    pub(crate) fn run(
        load: &mut Load,
        capacity: f64,
        costs: &Costs,
        policies: &[Choice],
        measure: bool,
        mut done: impl FnMut(),
    ) -> Result<Self, Stalled> {
        let frames = load.frames(capacity);
        let bound = load.bound(costs, frames);
        let in_order_ns = (frames >= load.working_set).then(|| load.in_order_ns(costs));
        let mut rows = Vec::new();
        for policy in policies {
            let outcome = load.run(costs, frames, *policy, measure)?;
            rows.push(Row::new(*policy, outcome, &bound));
            done();
        }
        let none = rows
            .iter()
            .find(|row| row.policy == Choice::NONE.to_string())
            .map(Row::all_faults);
        if let Some(none) = none.filter(|none| *none > 0) {
            for row in &mut rows {
                row.coverage = Some(1.0 - row.all_faults() as f64 / none as f64);
            }
        }
        Ok(Self {
            place: Place {
                workload: load.name.clone(),
                capacity,
                frames,
                link_megabytes_per_s: costs.megabytes_per_s,
            },
            working_set_bytes: u64::from(load.working_set) * PAGE_BYTES,
            oracle: OracleRow {
                in_order_ns,
                ..bound.into()
            },
            rows,
        })
    }

    /// The row of the policy called `name`.
    pub(crate) fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.policy == name)
    }
}
