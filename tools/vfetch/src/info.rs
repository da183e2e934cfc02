// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `vfetch info`.

use std::fmt::Write as _;

use libvfetch::{Host, Info, Space};

use crate::{
    cli::FunctionArgs,
    output::Output,
    target::open_all,
    units::{bytes, megabytes_per_s, rate, time},
};

fn show(info: &Info) -> String {
    let mut text = format!(
        "/dev/vfetch{}  {}  {}, {}\n",
        info.node,
        info.address(),
        info.role(),
        info.state().as_str()
    );
    let mut line = |key: &str, value: String| {
        let _ = writeln!(text, "  {key:<9} {value}");
    };
    line(
        "device",
        format!(
            "{:04x}:{:04x}, reset {} times",
            info.vendor, info.device, info.generation
        ),
    );
    if let Some(pf) = info.pf().filter(|pf| *pf != info.node) {
        line("PF", format!("/dev/vfetch{pf}"));
    }
    line(
        "memory",
        format!(
            "{}, {} free",
            bytes(info.memory_bytes),
            bytes(info.free_bytes)
        ),
    );
    line("window", bytes(info.window_bytes));
    line(
        "queues",
        format!(
            "{} with {} slots each, transfers of up to {}",
            info.queues,
            info.queue_entries,
            bytes(info.transfer_max_bytes.into())
        ),
    );
    if info.strands > 0 {
        line("jobs", format!("of up to {} strands", info.strands));
    }
    let link = info.link();
    let page = u64::from(info.page_bytes);
    let alone = link.transfer_ns(page);
    line(
        "link",
        format!(
            "{}, latency {}, weight {}",
            rate(link.bytes_per_us.into()),
            time(link.latency_ns.into()),
            link.weight
        ),
    );
    line(
        "",
        format!(
            "one transfer of {} at a time: {}, {}",
            bytes(page),
            time(alone),
            rate(megabytes_per_s(page, alone))
        ),
    );
    if info.space_bytes > 0 {
        line(
            "space",
            format!(
                "{}, {} pages lost",
                bytes(info.space_bytes),
                info.space_lost_pages
            ),
        );
    }
    text
}

pub(crate) fn run(host: &Host, args: &FunctionArgs, out: Output) -> anyhow::Result<()> {
    let spaces = open_all(host, &args.targets)?;
    let infos = spaces
        .iter()
        .map(Space::info)
        .collect::<Result<Vec<_>, _>>()?;
    out.print(&infos, |infos| {
        infos.iter().map(show).collect::<Vec<_>>().join("\n")
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_is_told_in_figures_that_a_reader_can_compare() {
        let mut info = Info::default();
        info.page_bytes = 4096;
        info.link_latency_ns = 1000;
        info.link_bytes_per_us = 8000;
        let text = show(&info);
        assert!(text.contains("8000 MB/s, latency 1.00 µs"), "{text}");
        assert!(
            text.contains("4 KiB at a time: 1.51 µs, 2709 MB/s"),
            "{text}"
        );
        assert!(!text.contains("space"), "{text}");
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
    }
}
