// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `vfetch demo`: what prefetching buys, on real jobs, each of whose results is compared with the host's own.

mod report;
mod way;
mod workload;

use anyhow::{anyhow, Context, Result};
use libvfetch::{
    Error, Function, Host, PolicyKind, PolicyStats, Scope, Space, Stats, LIMIT_MIN_BYTES,
    PAGE_BYTES,
};

use crate::{
    cli::DemoArgs,
    exit::Mismatch,
    output::{write_out, Output},
    policy::{Choice, Restore},
    target,
};
use report::{Report, Row, Run};
pub(crate) use way::Way;
pub(crate) use workload::Kind;
use workload::Workload;

/// The first difference between what a space holds and what it should.
fn differs(space: &Space, expected: &[u8]) -> Result<Option<Mismatch>> {
    const STEP: usize = 1 << 20;
    let mut found = vec![0; STEP];
    let mut at = 0;
    for expected in expected.chunks(STEP) {
        let found = &mut found[..expected.len()];
        space.read_exact_at(found, at)?;
        if let Some(mismatch) = first_difference(expected, found, at, space.node()) {
            return Ok(Some(mismatch));
        }
        at += expected.len() as u64;
    }
    Ok(None)
}

fn first_difference(expected: &[u8], found: &[u8], offset: u64, node: u32) -> Option<Mismatch> {
    if expected == found {
        return None;
    }
    let pairs = expected.iter().zip(found);
    let (at, (right, wrong)) = pairs.enumerate().find(|(_, (e, f))| e != f)?;
    Some(Mismatch {
        place: format!("vfetch{node}"),
        offset: offset + at as u64,
        bytes: Some((*right, *wrong)),
        block: found.len(),
    })
}

/// What a function has counted.
struct Counted {
    stats: Stats,
    hints: PolicyStats,
}

impl Counted {
    fn of(space: &Space) -> Result<Self> {
        Ok(Self {
            stats: space.stats()?,
            hints: space.policy_stats(None)?,
        })
    }
}

/// Device memory for a share of so many bytes.
fn limit(bytes: u64, share: f64) -> u64 {
    // The share is at most 100, sizes are far below 2^53.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let wanted = (crate::units::float(bytes) * share) as u64;
    wanted.next_multiple_of(PAGE_BYTES).max(LIMIT_MIN_BYTES)
}

/// Runs one job in one way, in a space of its own.
fn run_one(
    function: &Function,
    work: &Workload,
    device_bytes: u64,
    way: Way,
    args: &DemoArgs,
) -> Result<Run> {
    let space = Space::open(function)?;
    way.prepare(&space, work, device_bytes)?;
    let task = work.task.strands(args.strands).element_ps(args.element_ps);
    let before = Counted::of(&space)?;
    let job = space.submit(&task)?;
    let end = job.wait_for(None)?.ok_or_else(|| anyhow!("no end"))?;
    let after = Counted::of(&space)?;
    let value = end.outcome.map_err(|why| Error::Job {
        node: space.node(),
        why,
    })?;
    let resident = space.residency(0..work.bytes())?;
    // Which prefetched pages were used is known when they leave: what is left of them does.
    let host = space.limits(Scope::Space)?.host_bytes;
    space.set_limits(Scope::Space, host, LIMIT_MIN_BYTES)?;
    let settled = space.policy_stats(None)?;
    let mut error = differs(&space, &work.after)?.map(|m| m.to_string());
    if value != work.value {
        error = Some(format!(
            "vfetch{}: the job's value is {value} instead of {}",
            space.node(),
            work.value
        ));
    }
    let change = |get: fn(&Stats) -> u64| get(&after.stats).saturating_sub(get(&before.stats));
    let hints = settled.since(&before.hints);
    Ok(Run {
        policy: way,
        time_ns: end.time_ns.saturating_sub(before.stats.device_time_ns),
        device_faults: change(|s| s.device_faults),
        fault_batches: change(|s| s.fault_batches),
        to_device_bytes: change(|s| s.to_device_bytes),
        to_host_bytes: change(|s| s.to_host_bytes),
        evicted_pages: change(|s| s.evicted_pages),
        prefetched_pages: hints.prefetched_pages,
        used_share: hints.accuracy(),
        host_pages: resident.host,
        device_pages: resident.device,
        error,
    })
}

fn functions(host: &Host, args: &DemoArgs) -> Result<Vec<Function>> {
    if args.functions.is_empty() {
        return Ok(target::all(host)?);
    }
    let found = args.functions.iter().map(|f| host.find(f));
    Ok(found.collect::<Result<Vec<_>, Error>>()?)
}

pub(crate) fn run(host: &Host, args: &DemoArgs, out: Output) -> Result<()> {
    let functions = functions(host, args)?;
    let mut works = Vec::new();
    for kind in &args.job {
        works.push(Workload::new(*kind, args.size, args.seed));
    }
    let mut report = Report::new(args);
    let tell = |text: &str| -> Result<()> {
        if !out.is_json() {
            write_out(text)?;
        }
        Ok(())
    };
    tell(&report.head())?;
    for function in &functions {
        let space = Space::open(function)?;
        let info = space.info()?;
        let _restore = Restore::of(&space)?;
        tell(&report.begin(&info))?;
        for work in &works {
            for share in &args.capacity {
                let device_bytes = limit(work.bytes(), *share);
                let run = |way: &Way| {
                    run_one(function, work, device_bytes, *way, args)
                        .with_context(|| format!("{}, {way}", work.kind.name()))
                };
                let runs = args.policy.iter().map(run).collect::<Result<Vec<_>>>()?;
                let row = Row {
                    job: work.kind,
                    bytes: work.bytes(),
                    device_bytes: device_bytes.min(info.memory_bytes),
                    runs,
                };
                tell(&row.show())?;
                report.add(row);
            }
        }
        tell(&report.sum())?;
    }
    tell(&report.foot())?;
    out.print(&report, |_| String::new())?;
    report.result()
}

/// What holds unless the user says otherwise.
pub(crate) const WAYS: [Way; 4] = [
    Way::Policy(Choice::Kind(PolicyKind::None)),
    Way::Policy(Choice::Threshold(51)),
    Way::Policy(Choice::Kind(PolicyKind::AlwaysMax)),
    Way::Policy(Choice::Kind(PolicyKind::Auto)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_wrong_byte_is_found_where_it_is() {
        let expected = vec![7; 4096];
        let mut found = expected.clone();
        assert_eq!(first_difference(&expected, &found, 8192, 3), None);
        found[100] = 8;
        let text = first_difference(&expected, &found, 8192, 3)
            .map(|m| m.to_string())
            .unwrap_or_default();
        assert_eq!(
            text,
            "vfetch3: wrong data at offset 8292: 0x08 instead of 0x07"
        );
    }

    #[test]
    fn limits_are_whole_pages_and_not_too_small() {
        assert_eq!(limit(8 << 20, 0.5), 4 << 20);
        assert_eq!(limit(8 << 20, 0.333) % PAGE_BYTES, 0);
        assert_eq!(limit(1 << 20, 0.1), LIMIT_MIN_BYTES);
    }
}
