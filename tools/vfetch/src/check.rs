// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `vfetch check`: data on all functions at once, verified.

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::{anyhow, Context, Result};
use hdrhistogram::Histogram;
use libvfetch::{Error, Function, Host, Space};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde::Serialize;

use crate::{
    bench::{
        job::{histogram, record},
        size_space,
    },
    cli::CheckArgs,
    memory::{Buffer, Memory},
    output::{render, table, Output},
    pattern::Pattern,
    target,
    units::{self, float},
};

const DEFAULT_BYTES: u64 = 8 << 20;
const BLOCK: usize = 1 << 20;
const SMALL: usize = 4096;
/// How long VFs may take to appear.
const PATIENCE: Duration = Duration::from_secs(10);

/// Time and bytes of one kind of request.
#[derive(Debug, Clone, Copy, Default)]
struct Moved {
    elapsed: Duration,
    bytes: u64,
}

impl Moved {
    fn time(
        &mut self,
        bytes: usize,
        request: impl FnOnce() -> libvfetch::Result<()>,
    ) -> libvfetch::Result<Duration> {
        let start = Instant::now();
        request()?;
        let elapsed = start.elapsed();
        self.elapsed += elapsed;
        self.bytes += bytes as u64;
        Ok(elapsed)
    }

    fn megabytes_per_s(&self) -> f64 {
        units::megabytes_per_s(self.bytes, units::nanoseconds(self.elapsed))
    }
}

/// What one function did.
#[derive(Debug)]
struct Work {
    written: Moved,
    read: Moved,
    latencies: Histogram<u32>,
}

/// Writes, reads and compares.
fn exercise(memory: &dyn Memory, bytes: u64, args: &CheckArgs, seed: u64) -> Result<Work> {
    let place = memory.name();
    let mut buffer = Buffer::new(BLOCK);
    let mut work = Work {
        written: Moved::default(),
        read: Moved::default(),
        latencies: histogram()?,
    };
    let mut pattern = Pattern::new(seed);
    let block = |at: u64| usize::try_from(bytes - at).map_or(BLOCK, |left| left.min(BLOCK));
    for round in 0..args.rounds {
        // Of this round: what an earlier one left behind is wrong, too.
        pattern = Pattern::new(seed ^ (u64::from(round) << 32));
        let mut at = 0;
        while at < bytes {
            let data = &mut buffer.slice_mut()[..block(at)];
            pattern.fill(data, at);
            work.written
                .time(data.len(), || memory.write_all_at(data, at))?;
            at += data.len() as u64;
        }
        at = 0;
        while at < bytes {
            let data = &mut buffer.slice_mut()[..block(at)];
            work.read
                .time(data.len(), || memory.read_exact_at(data, at))?;
            pattern.check(data, at, &place)?;
            at += data.len() as u64;
        }
    }
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    for _ in 0..args.random_reads {
        let data = &mut buffer.slice_mut()[..SMALL];
        let at = random.random_range(0..=bytes - SMALL as u64);
        let mut one = Moved::default();
        record(
            &mut work.latencies,
            one.time(SMALL, || memory.read_exact_at(data, at))?,
        );
        pattern.check(data, at, &place)?;
    }
    Ok(work)
}

/// One function's line.
#[derive(Debug, Serialize)]
struct Row {
    node: u32,
    address: String,
    kind: &'static str,
    function: String,
    space_bytes: u64,
    written_bytes: u64,
    read_bytes: u64,
    write_megabytes_per_s: f64,
    read_megabytes_per_s: f64,
    read_4k_p50_ns: u64,
    read_4k_p99_ns: u64,
    /// Absent: every byte was right.
    error: Option<String>,
}

impl Row {
    fn new(function: &Function, space_bytes: u64, work: Result<&Work, &anyhow::Error>) -> Self {
        let (written, read) = work.map_or_else(|_| Default::default(), |w| (w.written, w.read));
        let quantile = |q| work.map_or(0, |w| w.latencies.value_at_quantile(q));
        Self {
            node: function.node,
            address: function.address.to_string(),
            kind: function.role.kind(),
            function: function.role.to_string(),
            space_bytes,
            written_bytes: written.bytes,
            read_bytes: read.bytes,
            write_megabytes_per_s: written.megabytes_per_s(),
            read_megabytes_per_s: read.megabytes_per_s(),
            read_4k_p50_ns: quantile(0.50),
            read_4k_p99_ns: quantile(0.99),
            error: work.err().map(|error| format!("{error:#}")),
        }
    }
}

#[derive(Debug, Serialize)]
struct Report {
    functions: Vec<Row>,
    elapsed_ns: f64,
    failed: usize,
}

impl Report {
    fn show(&self) -> String {
        let mut table = table(&[
            "function", "address", "is", ">moved", ">write", ">read", ">4K p50", ">4K p99", "data",
        ]);
        let mut errors = String::new();
        let mut moved = 0;
        for row in &self.functions {
            moved += row.written_bytes + row.read_bytes;
            let time = |ns| {
                if row.error.is_some() {
                    "-".into()
                } else {
                    units::time(float(ns))
                }
            };
            table.add_row([
                format!("vfetch{}", row.node),
                row.address.clone(),
                row.function.clone(),
                units::bytes(row.written_bytes + row.read_bytes),
                units::three_digits(row.write_megabytes_per_s),
                units::three_digits(row.read_megabytes_per_s),
                time(row.read_4k_p50_ns),
                time(row.read_4k_p99_ns),
                if row.error.is_none() {
                    "right"
                } else {
                    "FAILED"
                }
                .into(),
            ]);
            if let Some(error) = &row.error {
                errors.push_str(&format!("vfetch{}: {error}\n", row.node));
            }
        }
        let n = self.functions.len();
        format!(
            "{}\n{errors}{} of {n} functions right, {} moved by DMA in {}, checks included.\nwrite, read: MB/s of 10^6 bytes\n",
            render(&table),
            n - self.failed,
            units::bytes(moved),
            units::time(self.elapsed_ns),
        )
    }
}

/// Gives each PF that has no VFs `count` of them, and waits for their nodes.
fn enable_vfs(host: &Host, count: u32) -> Result<()> {
    let mut wanted = 0;
    for pf in target::all(host)?.iter().filter(|f| f.pf.is_none()) {
        match pf.vfs {
            Some(vfs) if vfs.enabled == 0 => {
                host.set_vfs(pf, count)?;
                wanted += count as usize;
            }
            Some(vfs) => wanted += vfs.enabled as usize,
            None => {}
        }
    }
    let start = Instant::now();
    loop {
        let there = host
            .functions()?
            .iter()
            .filter(|f| f.pf.is_some() && f.path.exists())
            .count();
        if there >= wanted {
            return Ok(());
        }
        if start.elapsed() > PATIENCE {
            return Err(anyhow!(
                "{there} of {wanted} VFs are bound; 'dmesg | grep vfetch' may tell why"
            ));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn run(host: &Host, args: &CheckArgs, out: Output) -> Result<()> {
    if let Some(count) = args.vfs {
        enable_vfs(host, count)?;
    }
    let functions = if args.functions.is_empty() {
        target::all(host)?
    } else {
        args.functions
            .iter()
            .map(|f| host.find(f))
            .collect::<Result<Vec<_>, Error>>()?
    };
    let spaces = functions
        .iter()
        .map(Space::open)
        .collect::<Result<Vec<_>, Error>>()?;
    let mut sizes = Vec::new();
    for space in &spaces {
        let size = size_space(space, args.size, DEFAULT_BYTES)
            .with_context(|| format!("cannot make room on vfetch{}", space.node()))?;
        if size < SMALL as u64 {
            return Err(anyhow!("vfetch{} has no memory free", space.node()));
        }
        sizes.push(size);
    }
    let barrier = Barrier::new(spaces.len());
    let start = Instant::now();
    let works: Vec<Result<Work>> = thread::scope(|scope| {
        let threads: Vec<_> = spaces
            .iter()
            .zip(&sizes)
            .map(|(space, &bytes)| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    exercise(
                        space,
                        bytes,
                        args,
                        args.seed.wrapping_add(space.node().into()),
                    )
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|t| {
                t.join()
                    .unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
            })
            .collect()
    });
    let rows = functions
        .iter()
        .zip(&sizes)
        .zip(&works)
        .map(|((function, &size), work)| Row::new(function, size, work.as_ref()))
        .collect();
    let failed = works.iter().filter(|w| w.is_err()).count();
    let report = Report {
        functions: rows,
        elapsed_ns: units::nanoseconds(start.elapsed()),
        failed,
    };
    out.print(&report, Report::show)?;
    works.into_iter().find_map(Result::err).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::{
        cli::{Cli, Command},
        exit::Mismatch,
        memory::tests::Ram,
    };

    fn args(line: &str) -> CheckArgs {
        let words = format!("vfetch check {line}");
        match Cli::try_parse_from(words.split_whitespace())
            .unwrap()
            .command
        {
            Command::Check(args) => args,
            _ => panic!("another command"),
        }
    }

    fn function(node: u32) -> Function {
        Function {
            node,
            address: "0000:01:00.0".parse().unwrap(),
            role: libvfetch::Role::Vf(node),
            pf: None,
            vfs: None,
            path: "/dev/vfetch0".into(),
        }
    }

    #[test]
    fn every_round_moves_everything_twice() {
        let ram = Ram::new(3 << 20);
        let bytes = size_space(&ram, Some((2 << 20) + 4096), 0).unwrap();
        let work = exercise(&ram, bytes, &args("--rounds 3 --random-reads 9"), 1).unwrap();
        assert_eq!(
            (work.written.bytes, work.read.bytes, work.latencies.len()),
            (3 * bytes, 3 * bytes, 9)
        );
    }

    #[test]
    fn a_write_that_is_lost_in_a_later_round_is_found() {
        let mut ram = Ram::new(1 << 20);
        let bytes = size_space(&ram, None, 1 << 20).unwrap();
        exercise(&ram, bytes, &args("--rounds 1"), 1).unwrap();
        ram.deaf_from = Some(0);
        // The first round's data is still there: right for it, wrong for the second.
        assert!(exercise(&ram, bytes, &args("--rounds 1"), 1).is_ok());
        let error = exercise(&ram, bytes, &args("--rounds 2"), 1).unwrap_err();
        assert!(error.is::<Mismatch>());
    }

    #[test]
    fn the_table_fits_a_terminal_and_names_what_failed() {
        let ram = Ram::new(1 << 20);
        let bytes = size_space(&ram, None, 1 << 20).unwrap();
        let work = exercise(&ram, bytes, &args(""), 1).unwrap();
        let wrong = anyhow!("wrong data");
        let report = Report {
            functions: vec![
                Row::new(&function(1), bytes, Ok(&work)),
                Row::new(&function(10), bytes, Err(&wrong)),
            ],
            elapsed_ns: 1e9,
            failed: 1,
        };
        let text = report.show();
        assert!(
            text.contains("vfetch10: wrong data") && text.contains("1 of 2 functions right"),
            "{text}"
        );
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{text}");
        }
    }
}
