// SPDX-License-Identifier: GPL-2.0

//! What GET_INFO and GET_STATS say, and that nothing leaks.

use std::{fs, thread, time::Duration};

use anyhow::{ensure, Context, Result};
use libvfetch::{Role, Space, State, BLOCK_BYTES, PAGE_BYTES};

use crate::support::{
    buffer::Area,
    errno::{fails, same, Errno},
    machine::{functions, given, pf, reserved, space, stats, vf, PAGE},
    model::pattern,
};

pub(crate) fn info_describes_the_function() -> Result<()> {
    let pf_node = pf()?.node;
    for function in functions()? {
        let info = Space::open(&function)?.info()?;
        same("the node", info.node, function.node)?;
        same("the role", info.role(), function.role)?;
        same("the address", info.address(), function.address)?;
        same("the PF", info.pf(), Some(pf_node))?;
        same("the state", info.state(), State::Ready)?;
        same("the page", u64::from(info.page_bytes), PAGE_BYTES)?;
        same("the block", u64::from(info.block_bytes), BLOCK_BYTES)?;
        same("the vendor", info.vendor, 0x1b36)?;
        same(
            "the device",
            info.device,
            if function.role == Role::Pf {
                0x7646
            } else {
                0x7647
            },
        )?;
        same("free memory", info.free_bytes, info.memory_bytes)?;
        ensure!(
            info.memory_bytes > 0 && info.memory_bytes % PAGE_BYTES == 0,
            "{} bytes",
            info.memory_bytes
        );
        ensure!(info.queues >= 2, "{} queues", info.queues);
        ensure!(
            info.queue_entries.is_power_of_two(),
            "{} slots",
            info.queue_entries
        );
        ensure!(
            u64::from(info.transfer_max_bytes) >= PAGE_BYTES,
            "{} bytes",
            info.transfer_max_bytes
        );
        ensure!(
            (1..=255).contains(&info.link_weight),
            "weight {}",
            info.link_weight
        );
        ensure!(
            info.link_bytes_per_us > 0 && info.window_bytes > 0,
            "{info:?}"
        );
    }
    Ok(())
}

pub(crate) fn counters_add_up() -> Result<()> {
    let function = vf(5)?;
    let page = PAGE as u64;
    let space = space(&function, 64 * page)?;
    let before = space.stats()?;
    // 40 pages of contents, by writes of odd sizes.
    let mut written = 0;
    let mut writes = 0;
    while written < 40 * PAGE {
        let piece = 12_345.min(40 * PAGE - written);
        space.write_all_at(&pattern(81, 1, written as u64, piece), written as u64)?;
        written += piece;
        writes += 1;
    }
    let mut buffer = vec![0; 64 * PAGE];
    space.read_exact_at(&mut buffer, 0)?;
    space.read_exact_at(buffer.get_mut(..100).unwrap_or_default(), 40 * page - 50)?;
    space.read_exact_at(buffer.get_mut(..5).unwrap_or_default(), 50 * page)?;
    // These move nothing and count as nothing.
    same("at the end", space.read_at(&mut buffer, 64 * page)?, 0)?;
    fails(
        "beyond the end",
        space.write_at(&buffer, 64 * page),
        Errno::NOSPC,
    )?;
    fails(
        "to nowhere",
        Area::nowhere(0, 100).pread(&space, 0),
        Errno::FAULT,
    )?;
    fails(
        "from nowhere",
        Area::nowhere(0, 100).pwrite(&space, 0),
        Errno::FAULT,
    )?;
    let after = space.stats()?;
    same("reads", after.reads - before.reads, 3)?;
    same("writes", after.writes - before.writes, writes)?;
    same(
        "read_bytes",
        after.read_bytes - before.read_bytes,
        64 * page + 100 + 5,
    )?;
    same(
        "written_bytes",
        after.written_bytes - before.written_bytes,
        40 * page,
    )?;
    same(
        "to_host_bytes",
        after.to_host_bytes - before.to_host_bytes,
        40 * page + 50,
    )?;
    same(
        "to_device_bytes",
        after.to_device_bytes - before.to_device_bytes,
        40 * page,
    )?;
    same(
        "zero_bytes",
        after.zero_bytes - before.zero_bytes,
        24 * page + 50 + 5,
    )?;
    same("device_pages", after.device_pages - before.device_pages, 40)?;
    same(
        "transfer_errors",
        after.transfer_errors,
        before.transfer_errors,
    )?;
    same("bad_completions", after.bad_completions, 0)?;
    same("timeouts", after.timeouts, 0)?;
    same("in_flight", after.in_flight, 0)?;
    let most = u64::from(space.info()?.transfer_max_bytes);
    let transfers = after.transfers - before.transfers;
    let least = 80 * page / most;
    ensure!(
        (least..200).contains(&transfers),
        "{transfers} transfers for 80 pages"
    );
    ensure!(
        after.device_busy_ns > before.device_busy_ns,
        "the link was not busy: {after:?}"
    );
    ensure!(
        after.device_time_ns > before.device_time_ns,
        "the device's clock stands"
    );
    ensure!(after.interrupts > before.interrupts, "no interrupts");
    drop(space);
    // Closing scrubs what held something: 40 pages.
    let closed = stats(&function)?;
    same(
        "scrubbed_bytes",
        closed.scrubbed_bytes - after.scrubbed_bytes,
        40 * page,
    )?;
    same("device_pages", closed.device_pages, before.device_pages)
}

pub(crate) fn spaces_and_pages_are_counted() -> Result<()> {
    let function = vf(6)?;
    let before = given(&function)?;
    let mut spaces = Vec::new();
    for n in 1..=20 {
        let space = reserved(&function, 8 * PAGE_BYTES)?;
        space.write_all_at(&[1], PAGE_BYTES)?;
        // Twice the same page.
        space.write_all_at(&[1], PAGE_BYTES + 5)?;
        spaces.push(space);
        let now = given(&function)?;
        same("spaces", now.spaces, before.spaces + n)?;
        same(
            "pages",
            now.device_pages,
            before.device_pages + u64::from(n),
        )?;
        same(
            "free bytes",
            now.free_bytes,
            before.free_bytes - u64::from(n) * 8 * PAGE_BYTES,
        )?;
    }
    drop(spaces);
    same("after closing them", given(&function)?, before)
}

/// A field of /proc/meminfo, in KiB.
fn memory(field: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number = line
        .and_then(|line| line.split_whitespace().next())
        .with_context(|| format!("no {field}"))?;
    Ok(number.parse()?)
}

/// Memory that the kernel has in use and would not give back, in KiB.
fn kernel_memory() -> Result<u64> {
    // What RCU and others free a little later.
    thread::sleep(Duration::from_millis(300));
    ["SUnreclaim", "VmallocUsed", "KernelStack", "PageTables"]
        .into_iter()
        .map(memory)
        .sum()
}

pub(crate) fn nothing_is_lost_in_ten_rounds_of_everything() -> Result<()> {
    let function = vf(7)?;
    let before = given(&function)?;
    for round in 0..10u16 {
        let a = reserved(&function, 6 << 20)?;
        let b = reserved(&function, 3 << 20)?;
        let data = pattern(82, round, 0, 3 << 20);
        a.write_all_at(&data, 5)?;
        b.write_all_at(data.get(..1 << 20).unwrap_or_default(), 9999)?;
        a.discard(PAGE_BYTES..700 * PAGE_BYTES)?;
        a.reserve(100 * PAGE_BYTES)?;
        a.reserve(1000 * PAGE_BYTES)?;
        a.write_all_at(&data, 50)?;
        b.reserve(0)?;
        let now = given(&function)?;
        same(
            "free bytes",
            now.free_bytes,
            before.free_bytes - 1000 * PAGE_BYTES,
        )?;
        // 50 bytes into the first page, to 50 bytes into the last.
        same(
            "pages",
            now.device_pages,
            before.device_pages + (3 << 20) / PAGE_BYTES + 1,
        )?;
    }
    same("at the end", given(&function)?, before)
}

pub(crate) fn two_thousand_opens_and_closes_cost_no_memory() -> Result<()> {
    const CYCLES: u64 = 2000;
    let function = pf()?;
    let before = given(&function)?;
    let cycle = |n: u64| -> Result<()> {
        let space = space(&function, 5 << 20)?;
        space.write_all_at(&n.to_le_bytes(), n * 4093 % (5 << 20) / 8 * 8)?;
        space.read_exact_at(
            &mut [0; 16],
            (n * 4093 % (5 << 20) / 8 * 8).saturating_sub(16),
        )?;
        Ok(())
    };
    // Until caches have what they want to have.
    (0..200).try_for_each(cycle)?;
    let mut used = Vec::new();
    for part in 0..=4 {
        // Caches of free pages, one for each processor, come and go; a leak goes on.
        let kernel = kernel_memory()?;
        used.push((kernel, memory("MemTotal")? - memory("MemFree")?));
        if part < 4 {
            (0..CYCLES / 4).try_for_each(cycle)?;
        }
    }
    same("what is given out", given(&function)?, before)?;
    // A page for each cycle would be 2000 KiB more after each part, an inode 500, a block or a slot of 512 bytes 250.
    for (what, of) in [("the kernel's", 0), ("all", 1)] {
        let used: Vec<u64> = used
            .iter()
            .map(|(kernel, all)| if of == 0 { *kernel } else { *all })
            .collect();
        let most = if of == 0 { 150 } else { 1000 };
        ensure!(
            used.windows(2).any(|pair| pair[1] < pair[0] + most),
            "{what} memory in use, in KiB, grows with every 500 cycles: {used:?}"
        );
        println!("# {what} memory in use, in KiB, every 500 cycles: {used:?}");
    }
    Ok(())
}
