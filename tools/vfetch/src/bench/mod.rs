// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `vfetch bench`.

pub(crate) mod job;
mod model;
mod report;

use std::{collections::BTreeMap, io::Write as _};

use anyhow::{bail, Context, Result};
use libvfetch::{Function, Host, Info, Space, PAGE_BYTES};
use serde::Serialize;

use crate::{
    cli::{BenchArgs, Op, Selection},
    memory::Memory,
    output::{write_out, Output, WholeFile},
    pattern::Pattern,
    target, units,
};
use job::{measure, Area, Job, Limit};
use model::Device;
use report::{Calibration, Row};

const DEFAULT_BYTES: u64 = 16 << 20;

/// Everything, for programs.
#[derive(Debug, Serialize)]
struct Report {
    functions: Vec<Info>,
    space_bytes: Vec<u64>,
    seed: u64,
    calibration: Calibration,
    results: Vec<Row>,
}

/// The named functions, each once, by node.
fn select(host: &Host, selections: &[Selection]) -> libvfetch::Result<Vec<Function>> {
    let mut functions = BTreeMap::new();
    for selection in selections {
        let found = match selection {
            Selection::All => target::all(host)?,
            Selection::One(which) => vec![host.find(which)?],
        };
        functions.extend(found.into_iter().map(|f| (f.node, f)));
    }
    Ok(functions.into_values().collect())
}

/// Gives the space its size: what was asked for, or what there is up to `default`.
pub(crate) fn size_space(memory: &dyn Memory, wanted: Option<u64>, default: u64) -> Result<u64> {
    let bytes = match wanted {
        Some(bytes) => bytes,
        None => {
            let free = memory.info()?.free_bytes;
            default.min(free - free % PAGE_BYTES)
        }
    };
    memory.set_size(bytes)?;
    Ok(bytes)
}

/// Which devices the functions are of; the model counts a link once.
fn devices(infos: &[Info]) -> Vec<Device> {
    let mut devices: BTreeMap<u32, Device> = BTreeMap::new();
    for info in infos {
        // A VF without a PF here counts as a device of its own.
        let key = info.pf().unwrap_or(info.node);
        let device = devices.entry(key).or_insert(Device {
            link: info.link(),
            functions: 0,
        });
        device.functions += 1;
    }
    devices.into_values().collect()
}

/// Every combination, in the order in which they are run.
fn jobs(args: &BenchArgs) -> Vec<Job> {
    let limit = args.count.map_or(Limit::Time(args.runtime), Limit::Count);
    let mut jobs = Vec::new();
    for &op in &args.op {
        for &order in &args.order {
            for &block in &args.block_size {
                for &depth in &args.depth {
                    let (warmup, verify, seed) = (args.warmup, args.verify, args.seed);
                    jobs.push(Job {
                        op,
                        order,
                        block,
                        depth,
                        limit,
                        warmup,
                        verify,
                        seed,
                    });
                }
            }
        }
    }
    jobs
}

/// Runs the jobs; tells each result as it comes.
fn measure_all(
    areas: &[Area<'_>],
    jobs: &[Job],
    devices: &[Device],
    mut tell: impl FnMut(&Row) -> Result<()>,
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut as_before = false;
    for job in jobs {
        if !as_before {
            let pattern = Pattern::new(job.seed);
            areas.iter().try_for_each(|area| area.fill(pattern))?;
        }
        let sample = measure(areas, job)?;
        // What was written matters only to those who check it.
        as_before = !job.verify || job.op == Op::Read;
        let row = Row::new(job, areas.len(), devices, &sample);
        tell(&row)?;
        rows.push(row);
    }
    Ok(rows)
}

pub(crate) fn run(host: &Host, args: &BenchArgs, out: Output) -> Result<()> {
    // First: an error is to be told before the figures are there.
    let save = args.save.as_deref().map(WholeFile::create).transpose()?;
    let functions = select(host, &args.functions)?;
    let spaces = functions
        .iter()
        .map(Space::open)
        .collect::<libvfetch::Result<Vec<_>>>()?;
    let mut areas = Vec::new();
    let largest = args.block_size.iter().max().copied().unwrap_or(0);
    for space in &spaces {
        let bytes = size_space(space, args.size, DEFAULT_BYTES)
            .with_context(|| format!("cannot make room on vfetch{}", space.node()))?;
        if bytes < largest as u64 {
            bail!(
                "the space on vfetch{} has {}, less than a block of {}: give a larger --size or smaller blocks",
                space.node(),
                units::bytes(bytes),
                units::bytes(largest as u64)
            );
        }
        areas.push(Area {
            memory: space,
            bytes,
        });
    }
    let infos = spaces
        .iter()
        .map(Space::info)
        .collect::<libvfetch::Result<Vec<_>>>()?;
    let devices = devices(&infos);
    let calibration = Calibration::measure();
    if !out.is_json() {
        write_out(&Row::heading())?;
    }
    let results = measure_all(&areas, &jobs(args), &devices, |row| {
        if !out.is_json() {
            write_out(&row.line())?;
        }
        Ok(())
    })?;
    let space_bytes = areas.iter().map(|a| a.bytes).collect();
    let report = Report {
        functions: infos,
        space_bytes,
        seed: args.seed,
        calibration,
        results,
    };
    if let Some(mut file) = save {
        file.write_all((serde_json::to_string_pretty(&report)? + "\n").as_bytes())
            .context("cannot write the figures")?;
        file.finish()?;
    }
    out.print(&report, |report| report.calibration.show())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::{
        cli::{Cli, Command},
        memory::tests::Ram,
    };

    fn args(line: &str) -> BenchArgs {
        let words = format!("vfetch bench 0 {line}");
        match Cli::try_parse_from(words.split_whitespace())
            .unwrap()
            .command
        {
            Command::Bench(args) => args,
            _ => panic!("another command"),
        }
    }

    #[test]
    fn a_verified_write_is_followed_by_a_verified_read() {
        let ram = Ram::new(64 << 10);
        let bytes = size_space(&ram, None, DEFAULT_BYTES).unwrap();
        assert_eq!(bytes, 64 << 10);
        let areas = [Area {
            memory: &ram,
            bytes,
        }];
        let jobs = jobs(&args(
            "--op write,read,write --block-size 4k,12k --verify --count 50",
        ));
        assert_eq!(jobs.len(), 3 * 2 * 2);
        let devices = devices(&[ram.info().unwrap()]);
        let mut told = 0;
        let rows = measure_all(&areas, &jobs, &devices, |_| {
            told += 1;
            Ok(())
        });
        assert_eq!(rows.unwrap().len(), told);
    }

    #[test]
    fn functions_of_one_pf_are_one_device() {
        let mut infos = [Info::default(); 3];
        infos[1].node = 1;
        infos[2].node = 2;
        infos[2].pf_node = 2;
        let devices = devices(&infos);
        assert_eq!(
            devices.iter().map(|d| d.functions).collect::<Vec<_>>(),
            [2, 1]
        );
    }
}
