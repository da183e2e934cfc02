// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The table of `vfetch demo`, a line at a time as results come.

use std::fmt::Write as _;

use anyhow::Result;
use libvfetch::{Info, PAGE_BYTES};
use serde::Serialize;

use super::{Kind, Way};
use crate::{
    cli::DemoArgs,
    exit::WrongResult,
    units::{self, float},
};

/// One job, come by its data in one way.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Run {
    pub(super) policy: Way,
    /// From the submission to the end, by the device's clock.
    pub(super) time_ns: u64,
    pub(super) device_faults: u64,
    pub(super) fault_batches: u64,
    pub(super) to_device_bytes: u64,
    pub(super) to_host_bytes: u64,
    pub(super) evicted_pages: u64,
    pub(super) prefetched_pages: u64,
    /// Of the prefetched pages of which it is known.
    pub(super) used_share: Option<f64>,
    /// Where the data was when the job had ended.
    pub(super) host_pages: u64,
    pub(super) device_pages: u64,
    /// Absent: the result was right.
    pub(super) error: Option<String>,
}

impl Run {
    fn moved_bytes(&self) -> u64 {
        self.to_device_bytes + self.to_host_bytes
    }
}

/// One job in one amount of memory, under all policies.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub(super) job: Kind,
    /// Of its data.
    pub(super) bytes: u64,
    /// That its space may have on the device.
    pub(super) device_bytes: u64,
    pub(super) runs: Vec<Run>,
}

/// How many times faster than the first of `runs` each other is.
fn speedups(runs: &[Run]) -> impl Iterator<Item = f64> + '_ {
    let first = runs.first().map_or(0.0, |run| float(run.time_ns));
    let others = runs.iter().skip(1);
    others.map(move |run| first / float(run.time_ns.max(1)))
}

/// `3.5`, `1221`: MiB.
fn mebibytes(bytes: u64) -> String {
    let mebibytes = float(bytes) / 1_048_576.0;
    if mebibytes < 99.95 {
        format!("{mebibytes:.1}")
    } else {
        format!("{mebibytes:.0}")
    }
}

impl Row {
    /// Its line.
    pub(super) fn show(&self) -> String {
        let first = self.runs.first();
        let last = self.runs.last();
        let mut line = format!(
            "{:<9}{:>5}{:>5}{:>8}",
            self.job.name(),
            mebibytes(self.bytes),
            mebibytes(self.device_bytes),
            first.map_or(String::new(), |run| units::time(float(run.time_ns))),
        );
        for speedup in speedups(&self.runs) {
            let _ = write!(line, "{:>7}", times(speedup));
        }
        let both = |width: usize, get: &dyn Fn(&Run) -> String| {
            let of = |run: Option<&Run>| run.map_or(String::new(), get);
            format!("{:>width$}{:>width$}", of(first), of(last))
        };
        line += &both(7, &|run| run.device_faults.to_string());
        line += &both(6, &|run| mebibytes(run.moved_bytes()));
        let used = last.and_then(|run| run.used_share);
        let _ = writeln!(
            line,
            "{:>5}",
            used.map_or("-".into(), |share| units::percent(share).replace(' ', ""))
        );
        for run in &self.runs {
            if let Some(error) = &run.error {
                let _ = writeln!(line, "  WRONG under {}: {error}", run.policy);
            }
        }
        line
    }
}

/// `3.02x`, `12.1x`.
fn times(speedup: f64) -> String {
    format!("{}x", units::three_digits(speedup))
}

/// What one function did.
#[derive(Debug, Serialize)]
struct Function {
    node: u32,
    function: String,
    jobs: Vec<Row>,
}

/// What all did.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    policies: Vec<Way>,
    strands: u32,
    element_ps: u32,
    functions: Vec<Function>,
    right: usize,
    wrong: usize,
}

impl Report {
    pub(super) fn new(args: &DemoArgs) -> Self {
        Self {
            policies: args.policy.clone(),
            strands: args.strands,
            element_ps: args.element_ps,
            functions: Vec::new(),
            right: 0,
            wrong: 0,
        }
    }

    fn names(&self) -> (String, String) {
        let name = |way: Option<&Way>| way.map_or(String::new(), ToString::to_string);
        (name(self.policies.first()), name(self.policies.last()))
    }

    /// What stands above all.
    pub(super) fn head(&self) -> String {
        let (first, last) = self.names();
        format!(
            "What prefetching buys: each job reads data that is in host memory, page by page as it\n\
             faults, under policy '{first}' and under others. Data and device memory (mem) in MiB;\n\
             time of '{first}', and how many times faster the others are; faults, MiB moved and the\n\
             share of prefetched pages that were used under '{last}'.\n"
        )
    }

    /// What stands above a function's lines.
    pub(super) fn begin(&mut self, info: &Info) -> String {
        self.functions.push(Function {
            node: info.node,
            function: info.role().to_string(),
            jobs: Vec::new(),
        });
        let (first, _) = self.names();
        let mut text = format!(
            "\nvfetch{}, {}: {} of memory, link of {}\n",
            info.node,
            info.role(),
            units::bytes(info.memory_bytes),
            units::rate(info.link_bytes_per_us.into()),
        );
        let _ = write!(
            text,
            "{:<9}{:>5}{:>5}{:>8}",
            "job",
            "data",
            "mem",
            short(&first, 7)
        );
        for choice in self.policies.iter().skip(1) {
            let _ = write!(text, "{:>7}", short(&choice.to_string(), 6));
        }
        let _ = writeln!(text, "{:>14}{:>12}{:>5}", "faults", "moved", "used");
        text
    }

    pub(super) fn add(&mut self, row: Row) {
        for run in &row.runs {
            match run.error {
                None => self.right += 1,
                Some(_) => self.wrong += 1,
            }
        }
        if let Some(function) = self.functions.last_mut() {
            function.jobs.push(row);
        }
    }

    /// What stands below a function's lines: the means of the ratios.
    pub(super) fn sum(&self) -> String {
        let Some(function) = self.functions.last().filter(|_| self.policies.len() > 1) else {
            return String::new();
        };
        let mut text = format!("{:<27}", "geometric mean");
        for at in 0..self.policies.len().saturating_sub(1) {
            let all = function.jobs.iter();
            let ratios = all.filter_map(|row| speedups(&row.runs).nth(at));
            let logs: Vec<f64> = ratios.map(f64::ln).collect();
            let mean = logs.iter().sum::<f64>() / float(logs.len().max(1) as u64);
            let _ = write!(text, "{:>7}", times(mean.exp()));
        }
        text + "\n"
    }

    /// What stands below all.
    pub(super) fn foot(&self) -> String {
        format!(
            "\n{} of {} results are those of the host's own computation, to the last bit.\n\
             {} strands, {} ps for each element; pages of {PAGE_BYTES} bytes.\n",
            self.right,
            self.right + self.wrong,
            self.strands,
            self.element_ps
        )
    }

    /// An error when a result was wrong.
    pub(super) fn result(&self) -> Result<()> {
        if self.wrong == 0 {
            Ok(())
        } else {
            Err(WrongResult { count: self.wrong }.into())
        }
    }
}

/// `name` where a column has so much room.
fn short(name: &str, room: usize) -> String {
    let name = name.trim_start_matches("always-");
    name.chars().take(room).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Choice;

    fn run(time_ns: u64, error: Option<&str>) -> Run {
        Run {
            policy: Way::Policy(Choice::Threshold(51)),
            time_ns,
            device_faults: 12_345,
            fault_batches: 1,
            to_device_bytes: 100 << 20,
            to_host_bytes: 1 << 19,
            evicted_pages: 0,
            prefetched_pages: 9,
            used_share: Some(0.97),
            host_pages: 1,
            device_pages: 2,
            error: error.map(Into::into),
        }
    }

    fn row(error: Option<&str>) -> Row {
        Row {
            job: Kind::Pagerank,
            bytes: 64 << 20,
            device_bytes: 32 << 20,
            runs: vec![
                run(40_000_000, None),
                run(20_000_000, None),
                run(10_000_000, None),
                run(5_000_000, error),
            ],
        }
    }

    fn report() -> Report {
        Report {
            policies: super::super::WAYS.to_vec(),
            strands: 64,
            element_ps: 100,
            functions: Vec::new(),
            right: 0,
            wrong: 0,
        }
    }

    #[test]
    fn a_line_fits_a_terminal_and_says_how_many_times_faster() {
        let text = row(None).show();
        assert!(text.trim_end().chars().count() <= 80, "{text}");
        let words: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(words.get(5..8), Some(&["2.00x", "4.00x", "8.00x"][..]));
        assert_eq!(words.last(), Some(&"97%"));
    }

    #[test]
    fn headings_stand_above_their_columns() {
        let mut report = report();
        let mut info = Info::default();
        info.memory_bytes = 256 << 20;
        let head = report.begin(&info);
        let line = row(None).show();
        let length = |text: &str| text.trim_end().chars().count();
        assert_eq!(head.lines().last().map(length), Some(length(&line)));
        for line in (report.head() + &head + &report.foot()).lines() {
            assert!(line.chars().count() <= 88, "{line}");
        }
    }

    #[test]
    fn a_wrong_result_is_told_and_is_an_error() {
        let mut report = report();
        report.begin(&Info::default());
        report.add(row(None));
        assert!(report.result().is_ok());
        assert!(report.sum().contains("4.00x"), "{}", report.sum());
        let wrong = row(Some("the job's value is 1 instead of 2"));
        assert!(wrong.show().contains("WRONG under 51: the job's value"));
        report.add(wrong);
        assert!(report.foot().contains("7 of 8 results"));
        assert!(report.result().is_err());
    }
}
