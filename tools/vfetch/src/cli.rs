// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The command line, and the help that teaches it.

use std::{io::Write, path::PathBuf, time::Duration};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use libvfetch::FunctionRef;

use crate::{demo, exit, policy::Choice, target::Target, units};

const ABOUT: &str = "Looks at, exercises and measures PCIe functions of the vfetch driver";

const LONG_ABOUT: &str = "\
Looks at, exercises and measures PCIe functions of the vfetch driver.

The driver gives each bound function, a physical one (PF) or a virtual one
(VF), a node /dev/vfetchN. Opening a node makes a *space*: memory of its own
on the function, reached by reading and writing the open file. The data
travels by DMA. A space starts empty, is given a size, reads as zeros where it
was never written, is seen by no other file, and is freed and scrubbed when
its file is closed.

So each command works on a space of its own that ends with the command. To
work on one space with several commands, let the shell hold it and name it
fd:N:

  exec 3<>/dev/vfetch0                 # a space, for as long as 3 is open
  vfetch write fd:3 --input model.bin
  vfetch read fd:3 --output copy.bin
  exec 3>&-                            # freed and scrubbed

FUNCTION is a node (0, vfetch0, /dev/vfetch0) or a PCI address (0000:01:00.0).
Sizes are in powers of 1024 (4k, 64KiB, 1m, 2G), rates in MB/s of 10^6 bytes.";

fn long_after_help() -> String {
    format!(
        "\
Examples:
  vfetch list                     which functions there are
  vfetch demo                     what prefetching buys, on real jobs
  vfetch check --vfs 8            enable 8 VFs, move and verify data on all
  vfetch read 0 --size 64m        check that a new space is all zeros
  vfetch bench 0 --depth 1,16     throughput and latency, against the link
  vfetch stats --watch            rates of all functions, every second
  vfetch record 0 -o job.vft -- ./program    for the simulator

{}",
        exit::HELP
    )
}

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "vfetch", version, about = ABOUT, long_about = LONG_ABOUT,
    after_long_help = long_after_help(), max_term_width = 80, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Print JSON: sizes in bytes, times in nanoseconds; errors too, on stderr
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the functions that are bound to the driver
    #[command(after_long_help = "\
Works without permission for the nodes; then without state and memory, which
only an open file tells.

Examples:
  vfetch list
  vfetch list --json | jq -r '.[] | select(.kind == \"vf\") | .path'")]
    List,

    /// Show what a function is: memory, queues, link, state
    #[command(after_long_help = "\
Examples:
  vfetch info                  all functions
  vfetch info 0000:01:00.0
  vfetch info fd:3             also the size and the lost pages of that space")]
    Info(FunctionArgs),

    /// Show what a function has done since it was bound
    #[command(after_long_help = "\
With one function all counters and what they mean, with several the main ones.
--watch shows rates instead: what moved, how busy the link was (link), what is
in flight (now), errors in the interval. It keeps the nodes open meanwhile, so
that 'rmmod vfetch' is refused until it ends.

Examples:
  vfetch stats 0
  vfetch stats --watch
  vfetch stats --watch=200ms --count 10 --json     a line of JSON an interval")]
    Stats(StatsArgs),

    /// Read a space: check it, time it, or copy it to a file
    #[command(after_long_help = "\
A new space reads as zeros; that it does is checked, since anything else would
be somebody else's data. What was never written is delivered without a
transfer: to time transfers, use --fill, which writes a test pattern first and
checks it while reading.

Examples:
  vfetch read 0 --size 64m                     a new space is all zeros
  vfetch read 0 --size 64m --fill              DMA reads, timed and verified
  vfetch read fd:3 --output copy.bin           what the shell's space holds
  vfetch read fd:3 --offset 4093 --length 7 --output - | xxd")]
    Read(ReadArgs),

    /// Write a file, standard input or a test pattern into a space
    #[command(after_long_help = "\
A new space gets the size that the data needs, unless --size says otherwise.

Examples:
  vfetch write 0 --input model.bin --verify    write, read back, compare
  vfetch write 0 --length 64m --verify         the same with a test pattern
  tar c dir | vfetch write fd:3 --input -      into the shell's space
  vfetch write fd:3 --length 1m --seed 7; vfetch read fd:3 --verify --seed 7")]
    Write(WriteArgs),

    /// Measure throughput and latency against what the link allows
    #[command(after_long_help = "\
Runs every combination of --op, --order, --block-size and --depth, one after
the other, on all named functions together. The driver's read and write wait
for their transfer, so a depth of n is n threads for each function. Reads go
to memory that was written before.

Columns:
  MB/s      moved by all functions together, 10^6 bytes a second
  link      share of what the link model allows (below)
  p50, p99  time of a request, by CLOCK_MONOTONIC
  own       time a request takes beyond the link model: the driver, the system
            call, the interrupt, and what this program does between requests

Link model: a request takes the link's latency and then its bytes at the
link's rate. The latencies of requests overlap, their bytes do not, so that n
requests under way on the functions of a device move at most
min(rate, n * block / (latency + block / rate)). 'vfetch info' shows both.

For figures that repeat, boot with icount and use --count; then the times are
virtual, and two runs print the same.

Examples:
  vfetch bench 0
  vfetch bench 0 --op read --order rand --block-size 4k --depth 1,16
  vfetch bench 0 --count 1000 --block-size 4k
  vfetch bench all --block-size 1m --runtime 5s --json
  vfetch bench 0 1 2 --verify")]
    Bench(BenchArgs),

    /// Move and verify data on all functions at once, and print a table
    #[command(after_long_help = "\
One thread for each function: it makes a space, writes a pattern of its own,
reads it back and compares, then reads and compares 4 KiB at random offsets.
Ends with status 7 when a byte is wrong. VFs that --vfs enables stay.

Examples:
  vfetch check
  vfetch check --vfs 8 --size 4m --rounds 3")]
    Check(CheckArgs),

    /// Run real jobs under several policies, and show what prefetching buys
    #[command(after_long_help = "\
Each run has a space of its own, whose data the host writes by a mapping. The
job then computes on it, and what it touches comes to the device: page by page
as it faults, and what the policy brings along. The result is compared with
what the host computes itself; status 7 when one is wrong. The function's
policy is put back at the end.

Columns:
  data    MiB that the job works on
  mem     MiB that it may have on the device: --capacity times its data
  none    its time under the first policy, by the device's clock
  51 ...  how many times faster it is under each of the others
  faults  of the device, under the first and the last policy
  moved   MiB, both ways, likewise
  used    of the pages that came along, those that the job used afterwards,
          under the last policy; '-' when nothing came along

A number is a policy: the tree with a fixed threshold of that many percent.
'vfetch policy list' tells what each policy does. 'resident' and 'flat' are what
they may be compared with: jobs that fault on nothing. For figures that repeat,
boot with icount.

Examples:
  vfetch demo                                    every job on every function
  vfetch demo 1 --job bfs,spmv --capacity 0.5
  vfetch demo 0 --policy none,30,75,stride,auto
  vfetch demo 0 --policy flat,resident,auto      what managing memory costs
  vfetch demo 0 --job triad --size 32m --json")]
    Demo(DemoArgs),

    /// Show or set how functions prefetch, and what came of it
    #[command(subcommand)]
    Policy(PolicyCommand),

    /// Show or set how much host and device memory may be used
    #[command(after_long_help = "\
What does not fit on one side goes to the other, the least recently used block
(2 MiB) first. Named by node or address, the limits are those of all spaces of
the function together, and stay when the command ends; named fd:N or pid:PID
they are those of that space. Setting a limit sends blocks away until what is
used fits, as far as they go by themselves.

Examples:
  vfetch limits
  vfetch limits 1 --device 16m
  vfetch limits fd:3 --device 4m --host 64m
  vfetch limits pid:1234")]
    Limits(LimitsArgs),

    /// Show where the pages of a space are
    #[command(after_long_help = "\
A space belongs to an open file: name one that the shell holds (fd:N), or one of
another process (pid:PID, or pid:PID:FD when it has several open; that takes the
right to trace it). Looking moves nothing, but it is a moment: pages that are in
use move on. In the picture a character stands for so many pages that all fits
on a screen; --json has every run of pages.

Examples:
  vfetch residency fd:3
  vfetch residency pid:1234:5 --offset 1g --length 64m
  vfetch residency pid:1234 --json")]
    Residency(ResidencyArgs),

    /// Say what pages of a space are used for, or bring them somewhere
    #[command(after_long_help = "\
What is said of pages holds until something else is said of them, or the
space's file is closed; will-need-… and do-not-need act at once. It is advice:
contents stay the same, but for do-not-need, after which they are zeros.

Examples:
  vfetch advise fd:3 will-need-device --offset 1g --length 64m
  vfetch advise fd:3 prefer-host --length 4k
  vfetch advise pid:1234 no-prefetch")]
    Advise(AdviseArgs),

    /// Watch functions: faults, what comes along, link and memory, live
    #[command(after_long_help = "\
On a terminal a view that follows; q ends it. Elsewhere, and with --once, the
table once, after an interval; with --json a line for each interval. The nodes
are kept open meanwhile, so that 'rmmod vfetch' is refused.

Columns, the rates for each second:
  dev flt, host flt  faults of jobs, and of processes
  brought   pages that came along with others
  used      of those of which it became known, that were used
  evicted   pages that made room
  link      share of the time that the function used the link
  MB/s      moved both ways by migration
  device mem  used by its spaces, and its limit

Examples:
  vfetch top
  vfetch top 1 2 --interval 200ms
  vfetch top --once --json | jq '.[].link_share'")]
    Top(TopArgs),

    /// Record what a function's jobs and processes fault on
    #[command(after_long_help = "\
Records until COMMAND ends, --time is over, or ctrl-c. -o writes a trace that
the simulator replays under any policy ('vfetch-sim replay FILE', or make sim
ARGS='replay FILE'); its format is in tools/vfetch-sim/FORMAT.md. All spaces of
the function that fault meanwhile are in it, one behind the other.

Only faults are seen, and no access to a page that is there: what comes along
with others is not in the trace. '--policy none' has nothing come along while it
records, and the function's policy is put back; a small device memory ('vfetch
limits') shows pages again that are used again.

--events writes every record as a line of JSON: batches of faults, what the
policy brought along, moves, evictions, and pages that thrash. Pages are ranges
of the space, [first byte, bytes]. Records that the driver had no room for are
counted, and their numbers left out.

Examples:
  vfetch record 1 -o job.vft --policy none -- ./my-program
  vfetch record 0 --time 10s --events - | jq 'select(.kind == \"evicted\")'
  vfetch record 1 -o a.vft -- vfetch demo 1 --job bfs --policy none")]
    Record(RecordArgs),

    /// Print a completion script for a shell
    #[command(after_long_help = "\
Examples:
  vfetch completions bash > /etc/bash_completion.d/vfetch
  vfetch completions zsh > \"${fpath[1]}/_vfetch\"
  vfetch completions fish > ~/.config/fish/completions/vfetch.fish")]
    Completions(CompletionsArgs),

    /// Print the manual pages as roff, or write them to a folder
    #[command(hide = true)]
    Man(ManArgs),
}

/// Functions, all when none is named.
#[derive(Debug, Args)]
pub(crate) struct FunctionArgs {
    /// Functions: nodes, PCI addresses, fd:N or pid:PID; all when none is named
    #[arg(value_name = "FUNCTION")]
    pub(crate) targets: Vec<Target>,
}

#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    #[command(flatten)]
    pub(crate) functions: FunctionArgs,

    /// Show rates again and again
    #[arg(long, value_name = "INTERVAL", num_args = 0..=1, require_equals = true,
        default_missing_value = "1s", value_parser = units::parse_duration)]
    pub(crate) watch: Option<Duration>,

    /// End after this many intervals
    #[arg(long, value_name = "N", requires = "watch", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}

/// Which part of which space, in which steps.
#[derive(Debug, Args)]
pub(crate) struct SpaceArgs {
    /// A node, a PCI address, or fd:N for a space that the shell holds
    #[arg(value_name = "FUNCTION")]
    pub(crate) target: Target,

    /// Size to give the space, a multiple of 4 KiB
    #[arg(long, value_name = "BYTES", value_parser = units::parse_bytes_not_0)]
    pub(crate) size: Option<u64>,

    /// Where in the space to begin
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = units::parse_bytes)]
    pub(crate) offset: u64,

    /// How much to move
    #[arg(long, value_name = "BYTES", value_parser = units::parse_bytes_not_0)]
    pub(crate) length: Option<u64>,

    /// Bytes of each request
    #[arg(long, value_name = "BYTES", default_value = "1m", value_parser = parse_block)]
    pub(crate) block_size: usize,

    /// Which test pattern
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
}

#[derive(Debug, Args)]
pub(crate) struct ReadArgs {
    #[command(flatten)]
    pub(crate) space: SpaceArgs,

    /// Write what was read to this file; - is standard output
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// Write the test pattern first, untimed, and check it while reading
    #[arg(long)]
    pub(crate) fill: bool,

    /// Check that the test pattern of --seed is there
    #[arg(long)]
    pub(crate) verify: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WriteArgs {
    #[command(flatten)]
    pub(crate) space: SpaceArgs,

    /// Write this file; - is standard input. Without it, the test pattern
    #[arg(long, short, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,

    /// Read everything back afterwards and compare
    #[arg(long)]
    pub(crate) verify: bool,
}

/// Which way the data goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Op {
    /// Device to host
    Read,
    /// Host to device
    Write,
}

impl Op {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// In which order blocks are visited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Order {
    /// One after the other, over and over
    #[value(alias = "sequential")]
    Seq,
    /// At random, by the seed
    #[value(alias = "random")]
    Rand,
}

impl Order {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Seq => "seq",
            Self::Rand => "rand",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Functions to measure together: nodes or PCI addresses, or 'all'
    #[arg(value_name = "FUNCTION", default_value = "0")]
    pub(crate) functions: Vec<Selection>,

    /// Directions, a list
    #[arg(long, value_delimiter = ',', default_value = "read,write")]
    pub(crate) op: Vec<Op>,

    /// Orders of the blocks, a list
    #[arg(long, value_delimiter = ',', default_value = "seq,rand")]
    pub(crate) order: Vec<Order>,

    /// Bytes of a request, a list
    #[arg(long, value_name = "BYTES", value_delimiter = ',', default_value = "4k,64k,1m",
        value_parser = parse_block)]
    pub(crate) block_size: Vec<usize>,

    /// Requests under way on each function, a list
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1",
        value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) depth: Vec<u32>,

    /// Size of each function's space; the default is 16 MiB or what the function has
    #[arg(long, value_name = "BYTES", value_parser = units::parse_bytes_not_0)]
    pub(crate) size: Option<u64>,

    /// How long each measurement takes
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = units::parse_duration)]
    pub(crate) runtime: Duration,

    /// Requests of each thread, instead of a time
    #[arg(long, value_name = "N", conflicts_with = "runtime",
        value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,

    /// Requests of each thread before the measurement, that do not count
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) warmup: u64,

    /// Check all data; the throughput then includes the checking, the latencies do not
    #[arg(long)]
    pub(crate) verify: bool,

    /// Write the figures, as --json prints them, to this file too
    #[arg(long, value_name = "FILE")]
    pub(crate) save: Option<PathBuf>,

    /// Decides the order of random blocks and the test pattern
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Functions to use, one after the other; all when none is named
    #[arg(value_name = "FUNCTION")]
    pub(crate) functions: Vec<FunctionRef>,

    /// Jobs, a list
    #[arg(long, value_delimiter = ',', default_values_t = demo::Kind::value_variants().to_vec(),
        hide_default_value = true, value_enum)]
    pub(crate) job: Vec<demo::Kind>,

    /// Policies, a list: names, or thresholds in percent. Times are compared with the first. 'resident': the data
    /// is on the device already, as far as it may be; 'flat': in one piece of its memory, where nothing is managed
    #[arg(long, value_name = "POLICY", value_delimiter = ',', default_values_t = demo::WAYS)]
    pub(crate) policy: Vec<demo::Way>,

    /// Device memory, a list: shares of a job's data
    #[arg(long, value_name = "SHARE", value_delimiter = ',', default_value = "0.5,1", value_parser = parse_share)]
    pub(crate) capacity: Vec<f64>,

    /// How much data a job has, about
    #[arg(long, value_name = "BYTES", default_value = "8m", value_parser = parse_data)]
    pub(crate) size: u64,

    /// Strands of a job, each of which waits for its own faults
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) strands: u32,

    /// Picoseconds that a strand computes for each element
    #[arg(long, value_name = "PS", default_value_t = 100)]
    pub(crate) element_ps: u32,

    /// Decides the data
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Functions to use; all when none is named
    #[arg(value_name = "FUNCTION")]
    pub(crate) functions: Vec<FunctionRef>,

    /// First give each PF that has none this many VFs
    #[arg(long, value_name = "N", conflicts_with = "functions")]
    pub(crate) vfs: Option<u32>,

    /// Size of each function's space; the default is 8 MiB or what the function has
    #[arg(long, value_name = "BYTES", value_parser = units::parse_bytes_not_0)]
    pub(crate) size: Option<u64>,

    /// How many times to write and read all of it
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,

    /// Random 4 KiB reads of each function
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub(crate) random_reads: u32,

    /// Decides data and offsets
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
}

/// What to do about policies.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Tell which policies there are
    #[command(after_long_help = "\
Examples:
  vfetch policy list")]
    List,

    /// Show the policy of functions, and what became of the pages that came along
    #[command(after_long_help = "\
Columns:
  decisions  times that the policy was asked
  hints      of these, those in which pages came along
  pages      that came along
  used, late that were used afterwards; late: while they were on their way
  unused     that were sent back unused
  accuracy   used and late ones, of all of which it is known by now; what
             became of a page is known when it leaves

Examples:
  vfetch policy show
  vfetch policy show 0 --json")]
    Show(FunctionArgs),

    /// Set the policy of functions, from the next fault on
    #[command(after_long_help = "\
Without a function, of all. What is not given stays as it is, and what was set
stays when the command ends. A number is the fixed policy with that threshold.

Examples:
  vfetch policy set auto
  vfetch policy set 75 0000:01:00.1
  vfetch policy set stride 1 2 --stride-degree 16 --min-faults 4
  vfetch policy set --enabled false --function 0")]
    Set(PolicySetArgs),
}

/// Parameters; those that are not given stay.
#[derive(Debug, Args)]
pub(crate) struct PolicySetArgs {
    /// The policy, or the threshold of the fixed one in percent
    #[arg(value_name = "POLICY")]
    pub(crate) policy: Option<Choice>,

    #[command(flatten)]
    pub(crate) functions: NamedFunctions,

    /// Whether anything comes along at all
    #[arg(long, value_name = "BOOL")]
    pub(crate) enabled: Option<bool>,

    /// Percent of a node of the tree that must be resident, 1 to 100
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) threshold: Option<u32>,

    /// Faults of a block before anything comes along, 1 to 20
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20))]
    pub(crate) min_faults: Option<u32>,

    /// Answer as NVIDIA's driver does, its losses at the head of blocks included
    #[arg(long, value_name = "BOOL")]
    pub(crate) compat: Option<bool>,

    /// Faults count as they are, instead of growing to 64 KiB first
    #[arg(long, value_name = "BOOL")]
    pub(crate) ats: Option<bool>,

    /// traffic, pressure: microseconds over which they look, up to 10000000
    #[arg(long, value_name = "US", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) sample_period_us: Option<u32>,

    /// stride: strides ahead, 1 to 64
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) stride_degree: Option<u32>,

    /// probabilistic: percent of the hit rate, up to 1000
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(..=1000))]
    pub(crate) aggressiveness: Option<u32>,

    /// lru: 64 KiB that it looks at, 1 to 8
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=8))]
    pub(crate) neighbours: Option<u32>,

    /// frequency: microseconds ahead, up to 10000000
    #[arg(long, value_name = "US", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) horizon_us: Option<u32>,
}

/// Functions behind another argument, or by --function; all when none is named.
#[derive(Debug, Args)]
pub(crate) struct NamedFunctions {
    /// Functions: nodes or PCI addresses; all when none is named
    #[arg(value_name = "FUNCTION")]
    behind: Vec<Target>,

    /// The same, where no POLICY stands before them
    #[arg(long = "function", value_name = "FUNCTION")]
    named: Vec<Target>,
}

impl NamedFunctions {
    pub(crate) fn open(&self, host: &libvfetch::Host) -> libvfetch::Result<Vec<libvfetch::Space>> {
        let all: Vec<Target> = self.behind.iter().chain(&self.named).copied().collect();
        crate::target::open_all(host, &all)
    }
}

#[derive(Debug, Args)]
pub(crate) struct LimitsArgs {
    #[command(flatten)]
    pub(crate) functions: FunctionArgs,

    /// Host memory, at least 1 MiB
    #[arg(long, value_name = "BYTES", value_parser = units::parse_bytes_not_0)]
    pub(crate) host: Option<u64>,

    /// Device memory, at least 1 MiB; more than there is means all of it
    #[arg(long, value_name = "BYTES", value_parser = units::parse_bytes_not_0)]
    pub(crate) device: Option<u64>,

    /// The function's limits also for fd:N and pid:PID
    #[arg(long)]
    pub(crate) function: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AdviseArgs {
    /// fd:N for a space that the shell holds, pid:PID or pid:PID:FD for another's
    #[arg(value_name = "SPACE")]
    pub(crate) target: Target,

    /// What to say
    #[arg(value_name = "ADVICE")]
    pub(crate) advice: crate::advise::Word,

    /// Where in the space to begin, a multiple of 4 KiB
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = units::parse_bytes)]
    pub(crate) offset: u64,

    /// Of how much of it, a multiple of 4 KiB; the default is up to its end
    #[arg(long, value_name = "BYTES", value_parser = units::parse_bytes_not_0)]
    pub(crate) length: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    pub(crate) functions: FunctionArgs,

    /// How often to look
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = units::parse_duration)]
    pub(crate) interval: Duration,

    /// Print the table once, after an interval
    #[arg(long, conflicts_with = "count")]
    pub(crate) once: bool,

    /// Print so many times, instead of a live view
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").args(["output", "events"]).required(true).multiple(true))]
pub(crate) struct RecordArgs {
    /// The function: a node, a PCI address, fd:N or pid:PID
    #[arg(value_name = "FUNCTION")]
    pub(crate) target: Target,

    /// Write a trace for the simulator to this file
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// Write all records as lines of JSON to this file; - is standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) events: Option<PathBuf>,

    /// Have the function prefetch so meanwhile: a name, or a threshold in percent
    #[arg(long, value_name = "POLICY")]
    pub(crate) policy: Option<Choice>,

    /// Record for so long
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    pub(crate) time: Option<Duration>,

    /// Records that the driver keeps until they are read (192 bytes each)
    #[arg(long, value_name = "N", default_value_t = 16384, value_parser = clap::value_parser!(u32).range(64..=65536))]
    pub(crate) records: u32,

    /// Run this command, and record until it ends
    #[arg(value_name = "COMMAND", last = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ResidencyArgs {
    /// fd:N for a space that the shell holds, pid:PID or pid:PID:FD for another's
    #[arg(value_name = "SPACE")]
    pub(crate) target: Target,

    /// Where in the space to begin, a multiple of 4 KiB
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = units::parse_bytes)]
    pub(crate) offset: u64,

    /// How much of it, a multiple of 4 KiB; the default is up to its end
    #[arg(long, value_name = "BYTES", value_parser = units::parse_bytes_not_0)]
    pub(crate) length: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Folder for vfetch.1, vfetch-list.1 and so on
    pub(crate) folder: Option<PathBuf>,
}

/// A function, or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Selection {
    All,
    One(FunctionRef),
}

impl std::str::FromStr for Selection {
    type Err = libvfetch::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "all" => Ok(Self::All),
            _ => text.parse().map(Self::One),
        }
    }
}

fn parse_share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.01..=100.0).contains(&share) => Ok(share),
        _ => Err("a share of the data, from 0.01 to 100".into()),
    }
}

fn parse_data(text: &str) -> Result<u64, String> {
    let bytes = units::parse_bytes(text)?;
    if (64 << 10..=1 << 30).contains(&bytes) {
        Ok(bytes)
    } else {
        Err("a job has from 64 KiB to 1 GiB of data".into())
    }
}

/// A block is a buffer of this program.
const MAX_BLOCK: usize = 1 << 30;

fn parse_block(text: &str) -> Result<usize, String> {
    let bytes = units::parse_bytes_not_0(text)?;
    usize::try_from(bytes)
        .ok()
        .filter(|b| *b <= MAX_BLOCK)
        .ok_or_else(|| "a block has at most 1 GiB".into())
}

/// `vfetch completions`.
pub(crate) fn completions(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "vfetch", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(())
}

/// `vfetch man`.
pub(crate) fn man(args: &ManArgs) -> anyhow::Result<()> {
    if let Some(folder) = &args.folder {
        clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), folder)?;
    } else {
        clap_mangen::Man::new(Cli::command()).render(&mut std::io::stdout())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    /// Commands, and commands of commands.
    fn all_of(command: &clap::Command) -> impl Iterator<Item = &clap::Command> {
        let direct = command.get_subcommands();
        direct.flat_map(|c| std::iter::once(c).chain(c.get_subcommands()))
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn json_is_taken_before_and_after_the_command() {
        assert!(parse("vfetch --json list").unwrap().json);
        assert!(parse("vfetch list --json").unwrap().json);
    }

    #[test]
    fn watch_takes_an_interval_only_after_an_equals_sign() {
        let Command::Stats(args) = parse("vfetch stats --watch 0").unwrap().command else {
            panic!("another command")
        };
        assert_eq!(args.watch, Some(Duration::from_secs(1)));
        assert_eq!(args.functions.targets.len(), 1);
        assert!(parse("vfetch stats --watch=200ms").is_ok());
        assert!(parse("vfetch stats --count 3").is_err());
    }

    #[test]
    fn bench_takes_lists() {
        let line = "vfetch bench 0 01:00.1 --block-size 4k,1m --depth 1,16 --op read --count 9";
        let Command::Bench(args) = parse(line).unwrap().command else {
            panic!("another command")
        };
        assert_eq!(args.block_size, [4096, 1 << 20]);
        assert_eq!(args.depth, [1, 16]);
        assert_eq!(args.op, [Op::Read]);
        assert_eq!(args.order, [Order::Seq, Order::Rand]);
        assert_eq!(args.functions.len(), 2);
        assert!(parse("vfetch bench 0 --count 9 --runtime 2s").is_err());
        assert!(parse("vfetch bench 0 --depth 0").is_err());
        assert!(parse("vfetch bench 0 --block-size 2g").is_err());
    }

    #[test]
    fn every_command_has_examples() {
        let cli = Cli::command();
        for command in all_of(&cli).filter(|c| c.get_name() != "man" && !c.has_subcommands()) {
            let help = command
                .get_after_long_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(help.contains("Examples:"), "{}", command.get_name());
        }
    }

    #[test]
    fn help_fits_a_terminal() {
        let command = Cli::command();
        let mut texts = vec![LONG_ABOUT.to_owned(), long_after_help()];
        let after = all_of(&command).filter_map(clap::Command::get_after_long_help);
        texts.extend(after.map(ToString::to_string));
        for line in texts.iter().flat_map(|t| t.lines()) {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }

    #[test]
    fn every_example_is_a_valid_command_line() {
        let mut command = Cli::command();
        let mut texts = vec![command.render_long_help().to_string()];
        texts.extend(
            all_of(&command)
                .filter_map(clap::Command::get_after_long_help)
                .map(ToString::to_string),
        );
        let mut seen = 0;
        for line in texts.iter().flat_map(|t| t.lines()) {
            for part in line.split([';', '|']) {
                let words = part.split("   ").next().unwrap_or_default();
                let words = words.split('>').next().unwrap_or_default().trim();
                if words.starts_with("vfetch ") && !words.contains("/dev") {
                    assert!(parse(words).is_ok(), "{words}");
                    seen += 1;
                }
            }
        }
        assert!(seen > 20, "{seen} examples");
    }
}
