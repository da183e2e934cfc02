// SPDX-License-Identifier: GPL-2.0

//! Time limits: a hang becomes a failed test that says where it hangs.

use std::{
    fmt::Write,
    fs,
    panic::{catch_unwind, AssertUnwindSafe},
    sync::mpsc::{channel, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{anyhow, bail, Result};

/// Lists functions as [`Test`](crate::tap::Test)s that must end within so many seconds each.
#[macro_export]
macro_rules! bounded {
    ($seconds:literal: $($path:path),* $(,)?) => {
        &[$((
            stringify!($path),
            (|| $crate::support::limit::within($seconds, $path)) as fn() -> anyhow::Result<()>,
        )),*]
    };
}

/// How much slower than the stock kernel's this kernel may be: sanitizers cost.
pub(crate) fn factor() -> u32 {
    match fs::read_to_string("/proc/sys/kernel/osrelease") {
        Ok(release) if release.contains("+deb") => 1,
        _ => 6,
    }
}

/// Runs a test in a thread of its own. When it takes longer it has failed, and is left where it is.
pub(crate) fn within(seconds: u64, test: fn() -> Result<()>) -> Result<()> {
    let limit = Duration::from_secs(seconds) * factor();
    let (send, receive) = channel();
    thread::Builder::new().name("test".into()).spawn(move || {
        let result = catch_unwind(AssertUnwindSafe(test))
            .unwrap_or_else(|_| Err(anyhow!("panicked: see stderr")));
        // When it is too late nobody listens.
        let _ = send.send(result);
    })?;
    match receive.recv_timeout(limit) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => {
            bail!("not done after {} s\n{}", limit.as_secs(), stacks())
        }
        Err(RecvTimeoutError::Disconnected) => bail!("the test's thread died"),
    }
}

/// Looks every so often until `done`. Fails, saying for `what`, when that takes longer than `seconds`.
pub(crate) fn until(
    seconds: u64,
    what: &str,
    mut done: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(seconds) * factor();
    while !done()? {
        if Instant::now() > end {
            bail!("waited {seconds} s for: {what}\n{}", stacks());
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Where the kernel has the threads of this process, the driver's interrupt threads, and the kernel's
/// workers that run the driver's code.
fn stacks() -> String {
    let mut text = String::new();
    let folders = ["/proc/self/task", "/proc"]
        .into_iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .flatten();
    for task in folders {
        let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let (comm, stack) = (read("comm"), read("stack"));
        let ours = task.path().starts_with("/proc/self/task")
            || comm.starts_with("irq/") && comm.contains("vf")
            || comm.starts_with("kworker") && stack.contains("vfetch");
        if !ours {
            continue;
        }
        // "PID (comm) STATE …"
        let stat = read("stat");
        let state = stat.rsplit(')').next().unwrap_or_default().trim();
        let _ = writeln!(
            text,
            "{} {} {}",
            task.file_name().to_string_lossy(),
            comm.trim(),
            state.get(..1).unwrap_or_default()
        );
        for line in stack.lines() {
            let _ = writeln!(text, "    {line}");
        }
    }
    text
}
