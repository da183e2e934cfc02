// SPDX-License-Identifier: GPL-2.0

//! Memory cgroups.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// Where the guest has them.
const ROOT: &str = "/sys/fs/cgroup";

/// A cgroup below the root, in which all of the tests run. It goes when it is dropped, and is to be empty then.
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    /// One that may be charged `max` bytes.
    pub(crate) fn new(name: &str, max: u64) -> Result<Self> {
        let root = Path::new(ROOT);
        fs::write(root.join("cgroup.subtree_control"), "+memory").context("memory cgroups")?;
        let path = root.join(name);
        fs::create_dir(&path)?;
        let cgroup = Self(path);
        fs::write(cgroup.0.join("memory.max"), max.to_string())?;
        Ok(cgroup)
    }

    /// The calling process, with all of its threads, is in it from now on.
    pub(crate) fn enter(&self) -> io::Result<()> {
        fs::write(self.0.join("cgroup.procs"), "0")
    }

    /// Runs `run` in it.
    pub(crate) fn within<T>(&self, run: impl FnOnce() -> Result<T>) -> Result<T> {
        self.enter()?;
        let result = run();
        fs::write(Path::new(ROOT).join("cgroup.procs"), "0")?;
        result
    }

    /// Bytes that are charged to it.
    pub(crate) fn charged(&self) -> Result<u64> {
        let current = fs::read_to_string(self.0.join("memory.current"))?;
        Ok(current.trim().parse()?)
    }

    /// Processes that were killed for its memory.
    pub(crate) fn killed(&self) -> Result<u64> {
        let events = fs::read_to_string(self.0.join("memory.events"))?;
        let kills = events
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill "));
        Ok(kills.context("no oom_kill")?.trim().parse()?)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // One that is not empty is seen by whoever wants the name again.
        let _ = fs::remove_dir(&self.0);
    }
}
