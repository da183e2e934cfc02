// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The figures of a benchmark, as a table and as JSON.

use std::{hint::black_box, time::Instant};

use serde::Serialize;

use super::{
    job::{Job, Sample},
    model::{ns_per_request, Device},
};
use crate::{
    cli::{Op, Order},
    units::{self, float},
};

/// One measurement.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    op: Op,
    order: Order,
    block_bytes: u64,
    depth: u32,
    functions: usize,
    requests: u64,
    elapsed_ns: f64,
    megabytes_per_s: f64,
    /// What the link model allows.
    model_megabytes_per_s: f64,
    /// The one as a share of the other.
    model_share: f64,
    mean_ns: f64,
    p50_ns: u64,
    p99_ns: u64,
    max_ns: u64,
    /// From one request's end to the next one's, over all functions.
    ns_per_request: f64,
    model_ns_per_request: f64,
    /// The difference: what driver, system and this program add to the link's time.
    own_ns_per_request: f64,
    verified: bool,
}

impl Row {
    pub(crate) fn new(job: &Job, functions: usize, devices: &[Device], sample: &Sample) -> Self {
        let block = job.block as u64;
        let elapsed_ns = units::nanoseconds(sample.elapsed);
        let ns = elapsed_ns / float(sample.requests.max(1));
        let model_ns = ns_per_request(devices, block, job.depth);
        let latencies = &sample.latencies;
        Self {
            op: job.op,
            order: job.order,
            block_bytes: block,
            depth: job.depth,
            functions,
            requests: sample.requests,
            elapsed_ns,
            megabytes_per_s: units::megabytes_per_s(block, ns),
            model_megabytes_per_s: units::megabytes_per_s(block, model_ns),
            model_share: if ns > 0.0 { model_ns / ns } else { 0.0 },
            mean_ns: latencies.mean(),
            p50_ns: latencies.value_at_quantile(0.50),
            p99_ns: latencies.value_at_quantile(0.99),
            max_ns: latencies.max(),
            ns_per_request: ns,
            model_ns_per_request: model_ns,
            own_ns_per_request: ns - model_ns,
            verified: job.verify,
        }
    }

    /// The table's heading.
    pub(crate) fn heading() -> String {
        format!(
            "{:<5}  {:<5}  {:>7}  {:>5}  {:>5}  {:>6}  {:>5}  {:>8}  {:>8}  {:>8}\n",
            "op", "order", "block", "depth", "funcs", "MB/s", "link", "p50", "p99", "own"
        )
    }

    /// Its line of the table.
    pub(crate) fn line(&self) -> String {
        format!(
            "{:<5}  {:<5}  {:>7}  {:>5}  {:>5}  {:>6}  {:>5}  {:>8}  {:>8}  {:>8}\n",
            self.op.as_str(),
            self.order.as_str(),
            units::bytes(self.block_bytes),
            self.depth,
            self.functions,
            units::three_digits(self.megabytes_per_s),
            units::percent(self.model_share),
            units::time(float(self.p50_ns)),
            units::time(float(self.p99_ns)),
            units::time(self.own_ns_per_request),
        )
    }
}

/// What things cost that every request includes.
#[derive(Debug, Serialize)]
pub(crate) struct Calibration {
    null_syscall_ns: f64,
    clock_reading_ns: f64,
    copy_4k_ns: f64,
}

impl Calibration {
    /// Measures them, in less than a millisecond.
    pub(crate) fn measure() -> Self {
        let (from, mut to) = (vec![1_u8; 4096], vec![0_u8; 4096]);
        Self {
            null_syscall_ns: mean_ns(rustix::process::getppid),
            clock_reading_ns: mean_ns(Instant::now),
            copy_4k_ns: mean_ns(|| {
                to.copy_from_slice(black_box(&from));
                black_box(to[0])
            }),
        }
    }

    pub(crate) fn show(&self) -> String {
        format!(
            "\nown: time a request takes beyond the link model. It includes a system call and a\n\
             reading of the clock; here a null system call takes {}, the clock {},\n\
             and a copy of 4 KiB {}.\n",
            units::time(self.null_syscall_ns),
            units::time(self.clock_reading_ns),
            units::time(self.copy_4k_ns),
        )
    }
}

/// The mean time of `f`, after a few calls that do not count.
fn mean_ns<T>(mut f: impl FnMut() -> T) -> f64 {
    const CALLS: u32 = 200;
    for _ in 0..10 {
        black_box(f());
    }
    let start = Instant::now();
    for _ in 0..CALLS {
        black_box(f());
    }
    units::nanoseconds(start.elapsed()) / f64::from(CALLS)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use libvfetch::Link;

    use super::{
        super::job::{histogram, Limit},
        *,
    };

    #[test]
    fn a_row_compares_with_the_model_and_fits_a_terminal() {
        let link = Link {
            latency_ns: 1000,
            bytes_per_us: 8000,
            weight: 1,
        };
        let devices = [Device { link, functions: 1 }];
        let job = Job {
            op: Op::Read,
            order: Order::Rand,
            block: 4096,
            depth: 1,
            limit: Limit::Count(10),
            warmup: 0,
            verify: false,
            seed: 1,
        };
        let mut latencies = histogram().unwrap();
        latencies.record_n(3024, 10).unwrap();
        let sample = Sample {
            requests: 10,
            elapsed: Duration::from_nanos(30_240),
            latencies,
        };
        let row = Row::new(&job, 1, &devices, &sample);
        assert!((row.own_ns_per_request - 1512.0).abs() < 1e-6);
        assert!((row.model_share - 0.5).abs() < 1e-9);
        let line = row.line();
        assert!(
            line.contains("4 KiB") && line.contains("50 %") && line.contains("1.51 µs"),
            "{line}"
        );
        assert!(line.trim_end().chars().count() <= 80, "{line}");
        assert_eq!(line.chars().count(), Row::heading().chars().count());
    }

    #[test]
    fn the_calibration_measures_something() {
        let calibration = Calibration::measure();
        assert!(calibration.null_syscall_ns > 0.0 && calibration.copy_4k_ns > 0.0);
        assert!(calibration
            .show()
            .lines()
            .all(|line| line.chars().count() <= 88));
    }
}
