// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The command line, and the help that teaches it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::{machine::config::Costs, policy::Choice, trace::Builder, workload::Spec};

const LONG_ABOUT: &str = "\
Tells which prefetch policy is best for which program, before any hardware does.

A workload is a program that really runs, on data that it makes (or a graph or
matrix that you give). Its accesses become a trace: pages touched, in items
that the strands of a simulated device execute. The device has less memory
than the program, or not; what is missing faults, travels over a link, and
pushes out what was least recently used. Everything that happens follows from
what the policy decided before: the loop is closed. The policies are those of
the kernel module, the same source, beside peers from the literature and an
oracle that knows the future.

Time is virtual and nothing is random but the data, by seed: the same command
prints the same figures, except those of decision times.";

const AFTER: &str = "\
Examples:
  vfetch-sim run stencil                       all policies, at 0.8 of memory
  vfetch-sim run bfs:mib=64,seed=3 --policy none,51,auto --capacity 0.5,1.25
  vfetch-sim run gemm --with gather:mib=16     two tenants on one device
  vfetch-sim run triad+bfs+triad               a program that changes its ways
  vfetch-sim run bfs:file=web-Google.txt       a graph of SNAP's
  vfetch-sim record spmv -o spmv.vft && vfetch-sim replay spmv.vft
  vfetch-sim matrix tools/vfetch-sim/matrix/quick.toml    a report with pictures

Exit status: 0 done, 1 an error that the message explains, 2 wrong usage.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "vfetch-sim", version, about = "Simulates vfetch's memory in closed loop: which prefetch policy is best where",
    long_about = LONG_ABOUT, after_long_help = AFTER, max_term_width = 80, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the workloads and their parameters
    Workloads,
    /// List the policies
    Policies,
    /// Run workloads under policies, and compare
    #[command(after_long_help = "\
WORKLOAD is NAME[:KEY=VALUE,...]; 'vfetch-sim workloads' lists them. Several
joined by + run one after the other in one space.

Columns:
  time       virtual run time, and as a multiple of the oracle's
  faults     of device and host
  coverage   faults that were spared: 1 - faults / faults of policy 'none'
  accuracy   prefetched pages that were touched
  late       of these: touched while they were still on their way
  pollution  misses that would have been hits without prefetching
  moved      MiB on the link, both ways, and as a multiple of what the oracle
             moves
  p50, p99   time of a decision, on this machine

Pages that device and host, or memory that is too small, move to and fro are
thrashing: the module's detector leaves them out of prefetches, makes those who
ask for them wait, and pins them. 'exchange' shows it; --thrashing off ends it.")]
    Run(RunArgs),
    /// As run, for recorded traces
    Replay(ReplayArgs),
    /// Run many workloads, capacities and links, and report
    #[command(after_long_help = "\
FILE says which; tools/vfetch-sim/matrix has: quick.toml (a minute), tuning.toml
(what policies may be tuned on) and report.toml (what they are judged by).

OUT gets report.html (heat maps, faults over time, tables), its pictures as SVG,
and results.json: the matrix, the costs, every run, and the verdict.

A 'fixed' policy is one of the engine's but auto. The verdict says in how many
cells policies differ, how far auto is from the best fixed one and from the
oracle, cell by cell, and whether the policies that are expected to be best
for a workload really are.")]
    Matrix(MatrixArgs),
    /// Write a workload's trace to a file
    #[command(after_long_help = "The format is described in tools/vfetch-sim/FORMAT.md.")]
    Record(RecordArgs),
    /// Describe a workload or a trace
    Stats(StatsArgs),
}

/// Of `run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// What runs
    #[arg(value_name = "WORKLOAD")]
    pub(crate) workload: Spec,
    /// Another function that runs beside it, on the same memory and link
    #[arg(long, value_name = "WORKLOAD")]
    pub(crate) with: Vec<Spec>,
    #[command(flatten)]
    pub(crate) recording: Recording,
    #[command(flatten)]
    pub(crate) comparison: Comparison,
}

/// Of `replay`.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// Traces; several run beside each other, each as a function
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) comparison: Comparison,
}

/// How runs are compared.
#[derive(Debug, Args)]
pub(crate) struct Comparison {
    /// Policies beside none and 51, separated by commas; all if not given
    #[arg(short, long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) policy: Vec<Choice>,
    /// Memory, as shares of the working set
    #[arg(short, long, value_name = "SHARES", value_delimiter = ',', default_value = "0.8", value_parser = share)]
    pub(crate) capacity: Vec<f64>,
    /// Print JSON: times in ns, sizes in bytes
    #[arg(long)]
    pub(crate) json: bool,
    /// Do not take the time of decisions: all output is then repeatable
    #[arg(long)]
    pub(crate) no_measure: bool,
    #[command(flatten)]
    pub(crate) costs: Costs,
}

/// How accesses become touches.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Recording {
    /// Accesses of an item to a page are one touch while fewer than N others have begun
    #[arg(long, value_name = "N", default_value_t = Builder::WINDOW as u32, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) window: u32,
}

/// Of `matrix`.
#[derive(Debug, Args)]
pub(crate) struct MatrixArgs {
    /// The matrix
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Where the report goes; made if it is not there
    #[arg(short, long, value_name = "OUT", default_value = "target/sim")]
    pub(crate) out: PathBuf,
    /// Policies beside none and 51, separated by commas; all if not given
    #[arg(short, long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) policy: Vec<Choice>,
    /// Only these workloads of it, separated by commas
    #[arg(short, long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) workload: Vec<String>,
    /// Workloads at a time; as many as there are processors if not given
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) jobs: Option<u32>,
    /// Do not take the time of decisions: all output is then repeatable
    #[arg(long)]
    pub(crate) no_measure: bool,
}

/// Of `record`.
#[derive(Debug, Args)]
pub(crate) struct RecordArgs {
    /// What runs
    #[arg(value_name = "WORKLOAD")]
    pub(crate) workload: Spec,
    /// Where the trace goes
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) recording: Recording,
}

/// Of `stats`.
#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// A workload, or a trace's file (whatever exists as a file)
    #[arg(value_name = "WORKLOAD|FILE")]
    pub(crate) what: String,
    #[command(flatten)]
    pub(crate) recording: Recording,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A share of the working set.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.01..=100.0).contains(&share) => Ok(share),
        _ => Err(format!(
            "'{text}' is not a share from 0.01 to 100 of the working set, e.g. 0.8"
        )),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn shares_are_checked() {
        assert_eq!(share("0.67"), Ok(0.67));
        for bad in ["0", "-1", "NaN", "inf", "x", "101"] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }
}
