// SPDX-License-Identifier: GPL-2.0

//! What the tests share: functions and spaces, time limits, patterns, buffers of every kind, processes.

pub(crate) mod absent;
pub(crate) mod buffer;
pub(crate) mod cgroup;
pub(crate) mod errno;
pub(crate) mod limit;
pub(crate) mod machine;
pub(crate) mod model;
pub(crate) mod process;
pub(crate) mod raw;
pub(crate) mod starve;
