// SPDX-License-Identifier: GPL-2.0

//! Kernel memory that the module does not get, and copies from and to user space that it cannot make: `failslab`,
//! `fail_page_alloc` and `fail_usercopy` of a kernel with fault injection, for calls from the module's text only.
//!
//! What the kernel does for the module in such a call (mapping a page, pinning one, mapping it for DMA) fails, too.

use std::{
    fmt::Display,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{ensure, Context, Result};
use rustix::io::Errno;

/// Whose allocations of what fails.
const SLAB: &str = "failslab";
const PAGES: &str = "fail_page_alloc";
const COPIES: &str = "fail_usercopy";

/// Failures that are counted down from here.
const MOST: u64 = 1_000_000_000;

/// What a call fails with that gets no memory: EFAULT where a page of the caller's own could not be brought in or copied.
pub(crate) fn excuses(errno: Errno) -> bool {
    [Errno::NOMEM, Errno::FAULT].contains(&errno)
}

/// The kernel's settings of a kind of failure.
fn set(kind: &str, name: &str, value: impl Display) -> Result<()> {
    let path = Path::new("/sys/kernel/debug").join(kind).join(name);
    fs::write(&path, value.to_string()).with_context(|| format!("{} = {value}", path.display()))
}

/// Where the module's functions are.
fn text() -> Result<(u64, u64)> {
    let symbols = fs::read_to_string("/proc/kallsyms")?;
    let (mut first, mut last) = (u64::MAX, 0);
    for line in symbols.lines().filter(|line| line.ends_with("[vfetch]")) {
        let mut words = line.split_whitespace();
        let (Some(address), Some("t" | "T" | "w" | "W")) = (words.next(), words.next()) else {
            continue;
        };
        let address = u64::from_str_radix(address, 16)?;
        first = first.min(address);
        last = last.max(address);
    }
    ensure!(
        0 < first && first < last,
        "/proc/kallsyms does not show the module's functions"
    );
    // Nobody else's are in its last page, and what the last function returns to may be in the one behind.
    Ok((first, (last | 0xfff) + 0x1001))
}

/// The module's failures, none of which happens by itself. No more when it is dropped.
pub(crate) struct Starvation(());

impl Starvation {
    /// For the module as it is loaded now.
    pub(crate) fn new() -> Result<Self> {
        let (start, end) = text()?;
        let this = Self(());
        for kind in [SLAB, PAGES, COPIES] {
            for (name, value) in [
                ("probability", "0"),
                ("interval", "1"),
                ("space", "0"),
                // What fails is not said: it would be taken for a report.
                ("verbose", "0"),
                ("task-filter", "N"),
                ("stacktrace-depth", "32"),
            ] {
                set(kind, name, value)?;
            }
            set(kind, "times", MOST)?;
            set(kind, "require-start", format_args!("{start:#x}"))?;
            set(kind, "require-end", format_args!("{end:#x}"))?;
        }
        for kind in [SLAB, PAGES] {
            // Those that may wait fail as well.
            set(kind, "ignore-gfp-wait", "N")?;
        }
        set(SLAB, "cache-filter", "N")?;
        set(PAGES, "ignore-gfp-highmem", "N")?;
        set(PAGES, "min-order", 0)?;
        Ok(this)
    }

    /// So many of 100 allocations fail from now on.
    pub(crate) fn allocations(&self, percent: u32) -> Result<()> {
        [SLAB, PAGES]
            .into_iter()
            .try_for_each(|kind| set(kind, "probability", percent))
    }

    /// How many allocations have failed: of objects, and of pages.
    pub(crate) fn failed(&self) -> Result<[u64; 2]> {
        let failed = |kind: &str| -> Result<u64> {
            let text = fs::read_to_string(format!("/sys/kernel/debug/{kind}/times"))?;
            Ok(MOST - text.trim().parse::<u64>()?)
        };
        Ok([failed(SLAB)?, failed(PAGES)?])
    }

    /// Lets the `nth` (from 1) allocation or copy fail that this thread causes in `call`. Says whether there was one.
    pub(crate) fn nth<T>(&self, nth: u32, call: impl FnOnce() -> T) -> Result<(T, bool)> {
        let path = PathBuf::from("/proc/thread-self/fail-nth");
        fs::write(&path, nth.to_string()).context("fail-nth")?;
        let result = call();
        // What is left of the count.
        let left: u32 = fs::read_to_string(&path)?.trim().parse()?;
        fs::write(&path, "0")?;
        Ok((result, left == 0))
    }
}

impl Drop for Starvation {
    fn drop(&mut self) {
        for kind in [SLAB, PAGES, COPIES] {
            let _ = set(kind, "probability", 0);
            let _ = set(kind, "require-start", 0);
            let _ = set(kind, "require-end", format_args!("{:#x}", u64::MAX));
            let _ = set(kind, "times", -1);
        }
    }
}
