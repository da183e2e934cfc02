// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `vfetch-sim`: simulates vfetch's memory in closed loop, and tells which prefetch policy is best where.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "pages fit 32 bits, times and sums 53: what comes from outside is checked where it comes in"
)]

mod cli;
mod experiment;
mod machine;
mod matrix;
mod oracle;
mod policy;
mod record;
mod report;
mod trace;
mod workload;

use std::{
    fs::File,
    io::{self, BufReader, BufWriter},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

use cli::{Cli, Command, Comparison, MatrixArgs, RecordArgs, ReplayArgs, RunArgs, StatsArgs};
use experiment::{Cell, Load};
use matrix::Matrix;
use policy::Choice;
use report::Verdict;
use trace::{format, stats, Trace};

/// Progress on stderr, if that is a terminal.
fn progress(steps: u64, what: &str) -> ProgressBar {
    let bar = ProgressBar::new(steps);
    let style = ProgressStyle::with_template("{msg:30!} {bar:30} {pos}/{len} {elapsed}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn read_trace(path: &Path) -> anyhow::Result<Trace> {
    let file = File::open(path).with_context(|| {
        format!(
            "cannot open the trace '{}'; 'vfetch-sim record' makes traces",
            path.display()
        )
    })?;
    format::read(BufReader::new(file)).with_context(|| path.display().to_string())
}

fn run(args: &RunArgs) -> anyhow::Result<()> {
    let specs = std::iter::once(&args.workload).chain(&args.with);
    let bar = progress(1 + args.with.len() as u64, "recording");
    let mut traces = Vec::new();
    for spec in specs {
        traces.push(workload::record(spec, args.recording.window as usize)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    compare(traces, &args.comparison)
}

fn replay(args: &ReplayArgs) -> anyhow::Result<()> {
    let traces = args
        .files
        .iter()
        .map(|path| read_trace(path))
        .collect::<anyhow::Result<_>>()?;
    compare(traces, &args.comparison)
}

fn compare(traces: Vec<Trace>, how: &Comparison) -> anyhow::Result<()> {
    let name = traces
        .iter()
        .map(|t| t.name.as_str())
        .collect::<Vec<_>>()
        .join(" & ");
    let mut load = Load::new(name, traces);
    let policies = Choice::compared(&how.policy);
    let bar = progress((how.capacity.len() * policies.len()) as u64, "simulating");
    let mut cells = Vec::new();
    for capacity in &how.capacity {
        let cell = Cell::run(
            &mut load,
            *capacity,
            &how.costs,
            &policies,
            !how.no_measure,
            || {
                bar.inc(1);
            },
        )?;
        cells.push(cell);
    }
    bar.finish_and_clear();
    let text = if how.json {
        serde_json::to_string_pretty(&cells)? + "\n"
    } else {
        let tables: Vec<String> = cells.iter().map(report::cell_table).collect();
        tables.join("\n")
    };
    Ok(report::print(&text)?)
}

/// What `results.json` has.
#[derive(serde::Serialize)]
struct Results<'a> {
    matrix: &'a Matrix,
    cells: &'a [Cell],
    verdict: &'a Verdict,
}

fn run_matrix(args: &MatrixArgs) -> anyhow::Result<()> {
    let mut matrix = Matrix::read(&args.file)?;
    if let Some(unknown) = args
        .workload
        .iter()
        .find(|name| matrix.workload.iter().all(|w| w.name != **name))
    {
        let names: Vec<&str> = matrix.workload.iter().map(|w| w.name.as_str()).collect();
        anyhow::bail!(
            "the matrix has no workload '{unknown}'; it has: {}",
            names.join(", ")
        );
    }
    if !args.workload.is_empty() {
        matrix.workload.retain(|w| args.workload.contains(&w.name));
    }
    let policies = Choice::compared(&args.policy);
    let out = args.out.display();
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot make the folder '{out}'"))?;
    let jobs = args.jobs.map_or_else(
        || std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        |jobs| jobs as usize,
    );
    let bar = progress(matrix.runs(policies.len()) as u64, "recording");
    let cells = matrix.run(&policies, !args.no_measure, jobs, |name| {
        bar.set_message(name.to_owned());
        bar.inc(1);
    })?;
    bar.finish_and_clear();
    let verdict = Verdict::of(&matrix, &cells);
    let results = Results {
        matrix: &matrix,
        cells: &cells,
        verdict: &verdict,
    };
    let json = serde_json::to_string_pretty(&results)? + "\n";
    std::fs::write(args.out.join("results.json"), json)
        .and_then(|()| report::write_html(&args.out, &matrix, &cells, &verdict))
        .with_context(|| format!("writing to '{out}'"))?;
    let text = report::verdict_text(&verdict);
    Ok(report::print(&format!(
        "{text}\n{out}/report.html has pictures and all runs.\n"
    ))?)
}

fn record(args: &RecordArgs) -> anyhow::Result<()> {
    let trace = workload::record(&args.workload, args.recording.window as usize)?;
    let path = args.output.display();
    let file = File::create(&args.output).with_context(|| format!("cannot make '{path}'"))?;
    format::write(&trace, BufWriter::new(file)).with_context(|| format!("writing '{path}'"))?;
    let size = std::fs::metadata(&args.output)?.len();
    Ok(report::print(&format!(
        "{path}: {} accesses in {} touches, {} bytes\n",
        trace.accesses(),
        trace.touches.len(),
        size
    ))?)
}

fn describe(args: &StatsArgs) -> anyhow::Result<()> {
    let path = Path::new(&args.what);
    let trace = if path.is_file() {
        read_trace(path)?
    } else {
        let spec = args
            .what
            .parse()
            .with_context(|| format!("'{}' is neither a file nor a workload", args.what))?;
        workload::record(&spec, args.recording.window as usize)?
    };
    let stats = stats::of(&trace);
    let text = if args.json {
        serde_json::to_string_pretty(&stats)? + "\n"
    } else {
        report::stats_text(&stats)
    };
    Ok(report::print(&text)?)
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Workloads => report::print(&workload::list()).map_err(Into::into),
        Command::Policies => report::print(&policy::list()).map_err(Into::into),
        Command::Run(args) => run(&args),
        Command::Replay(args) => replay(&args),
        Command::Matrix(args) => run_matrix(&args),
        Command::Record(args) => record(&args),
        Command::Stats(args) => describe(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let closed = error
                .chain()
                .filter_map(|cause| cause.downcast_ref::<io::Error>())
                .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe);
            if closed {
                // Who reads the output has seen enough: `vfetch-sim … | head`.
                return ExitCode::SUCCESS;
            }
            eprintln!("vfetch-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}
