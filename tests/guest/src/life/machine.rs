// SPDX-License-Identifier: GPL-2.0

//! The machine that the tests run on: functions in sysfs, the module, the kernel's log and memory.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, ensure, Context, Result};
use libvfetch::{Function, Host, PciAddress, Role, Space};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::hw;
use crate::support::limit::factor;

pub(crate) const PAGE: u64 = libvfetch::PAGE_BYTES;
pub(crate) const MIB: u64 = 1 << 20;

/// Longer than anything takes that ends at all, on a busy machine; times [`factor`].
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Looks every so often until `done`; an error that says what did not happen after [`PATIENCE`].
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !done() {
        ensure!(
            start.elapsed() < PATIENCE * factor(),
            "after {PATIENCE:?} it is not so that {what}"
        );
        sleep(ms(2));
    }
    Ok(())
}

// ---- Functions ----------------------------------------------------------------------------------

/// Where a function's files are in sysfs.
pub(crate) fn sysfs(address: PciAddress) -> PathBuf {
    format!("/sys/bus/pci/devices/{address}").into()
}

/// Writes to a file of sysfs; the error is the kernel's.
pub(crate) fn store(path: impl Into<PathBuf>, value: &str) -> std::io::Result<()> {
    fs::write(path.into(), value)
}

/// The address of the PF, whether it has a driver or not.
pub(crate) fn pf_address() -> Result<PciAddress> {
    for entry in fs::read_dir("/sys/bus/pci/devices")?.flatten() {
        let id = |name| -> Option<u32> {
            let text = fs::read_to_string(entry.path().join(name)).ok()?;
            u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
        };
        if id("vendor") == Some(hw::VFETCH_PCI_VENDOR)
            && id("device") == Some(hw::VFETCH_PCI_DEVICE_PF)
        {
            return Ok(entry.file_name().to_string_lossy().parse()?);
        }
    }
    bail!("there is no PF")
}

/// The bound PF (0), or its nth VF.
pub(crate) fn function(number: u32) -> Result<Function> {
    let role = if number == 0 {
        Role::Pf
    } else {
        Role::Vf(number)
    };
    let functions = Host::system().functions()?;
    let found = functions.into_iter().find(|function| function.role == role);
    found.ok_or_else(|| anyhow!("{role} is not bound"))
}

/// All bound functions, the PF first.
pub(crate) fn functions() -> Result<Vec<Function>> {
    let mut all = Host::system().functions()?;
    all.sort_by_key(|function| function.role);
    Ok(all)
}

/// Sees to it that the PF has `count` VFs, all bound.
pub(crate) fn have_vfs(count: u32) -> Result<()> {
    let pf = function(0)?;
    if pf.vfs.map(|vfs| vfs.enabled) != Some(count) {
        set_vfs(0).and_then(|()| set_vfs(count))?;
    }
    ensure!(
        functions()?.len() == count as usize + 1,
        "{count} VFs are enabled but not bound"
    );
    Ok(())
}

/// Writes `sriov_numvfs` of the PF.
pub(crate) fn set_vfs(count: u32) -> Result<()> {
    let path = sysfs(pf_address()?).join("sriov_numvfs");
    store(path, &count.to_string()).with_context(|| format!("sriov_numvfs = {count}"))
}

/// Resets a function as an administrator would.
pub(crate) fn reset(address: PciAddress) -> Result<()> {
    store(sysfs(address).join("reset"), "1").with_context(|| format!("reset of {address}"))
}

pub(crate) fn unbind(address: PciAddress) -> Result<()> {
    store("/sys/bus/pci/drivers/vfetch/unbind", &address.to_string())
        .with_context(|| format!("unbind of {address}"))
}

pub(crate) fn bind(address: PciAddress) -> Result<()> {
    store("/sys/bus/pci/drivers/vfetch/bind", &address.to_string())
        .with_context(|| format!("bind of {address}"))
}

/// A space of `bytes` on a function.
pub(crate) fn space(function: &Function, bytes: u64) -> Result<Space> {
    let space = Space::open(function)?;
    space.set_size(bytes)?;
    Ok(space)
}

/// A space that has `bytes` of a function's memory to itself.
pub(crate) fn reserved(function: &Function, bytes: u64) -> Result<Space> {
    let space = Space::open(function)?;
    space.reserve(bytes)?;
    Ok(space)
}

// ---- Results ------------------------------------------------------------------------------------

/// That `result` is this error.
pub(crate) fn expect<T>(what: &str, result: libvfetch::Result<T>, errno: Errno) -> Result<()> {
    match result {
        Ok(_) => bail!("{what} worked instead of failing with {errno:?}"),
        Err(error) if error.errno() == Some(errno) => Ok(()),
        Err(error) => bail!(
            "{what} failed with '{error}' ({:?}) instead of {errno:?}",
            error.errno()
        ),
    }
}

/// That a write to sysfs failed with one of these errors.
pub(crate) fn expect_refused(
    what: &str,
    result: std::io::Result<()>,
    errnos: &[Errno],
) -> Result<()> {
    let errno = match result {
        Ok(()) => bail!("{what} worked instead of failing with {errnos:?}"),
        Err(error) => Errno::from_io_error(&error),
    };
    ensure!(
        errno.is_some_and(|e| errnos.contains(&e)),
        "{what} failed with {errno:?} instead of {errnos:?}"
    );
    Ok(())
}

/// That all of the space's bytes from `offset` on are `value`.
pub(crate) fn expect_bytes(space: &Space, offset: u64, bytes: u64, value: u8) -> Result<()> {
    let mut buffer = vec![!value; usize::try_from(bytes)?];
    space.read_exact_at(&mut buffer, offset)?;
    match buffer.iter().position(|byte| *byte != value) {
        None => Ok(()),
        Some(at) => bail!(
            "byte {} is {:#x} instead of {value:#x}",
            offset + at as u64,
            buffer[at]
        ),
    }
}

// ---- The module ---------------------------------------------------------------------------------

/// Loads the module.
pub(crate) fn insmod(parameters: &str) -> std::result::Result<(), Errno> {
    let file = File::open("/lib/modules/vfetch.ko").map_err(|_| Errno::NOENT)?;
    let parameters = std::ffi::CString::new(parameters).map_err(|_| Errno::INVAL)?;
    rustix::system::finit_module(file, &parameters, 0)
}

/// Unloads it, if nobody uses it.
pub(crate) fn rmmod() -> std::result::Result<(), Errno> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).map_err(|_| Errno::INVAL)?;
    rustix::system::delete_module(c"vfetch", flags)
}

/// How the module was loaded at boot.
pub(crate) fn parameters() -> Result<String> {
    let conf = fs::read_to_string("/etc/vm.conf")?;
    let line = conf
        .lines()
        .find_map(|line| line.strip_prefix("VM_MODARGS="));
    Ok(line.unwrap_or("").trim_matches('\'').to_string())
}

// ---- The kernel ---------------------------------------------------------------------------------

/// A line of the kernel's log.
pub(crate) struct Line {
    /// 0 to 7; 4 is a warning.
    pub(crate) level: u32,
    pub(crate) text: String,
}

/// The kernel's log from a moment on.
pub(crate) struct Log(File);

impl Log {
    /// From now on.
    pub(crate) fn from_now() -> Result<Self> {
        let flags = i32::try_from(OFlags::NONBLOCK.bits())?;
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open("/dev/kmsg")?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self(file))
    }

    /// What has come since the last call.
    pub(crate) fn lines(&mut self) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut record = [0; 8192];
        loop {
            match self.0.read(&mut record) {
                Ok(bytes) => {
                    let text = String::from_utf8_lossy(&record[..bytes]);
                    let (head, message) = text.split_once(';').unwrap_or(("4", &text));
                    let priority = head
                        .split(',')
                        .next()
                        .and_then(|n| n.parse::<u32>().ok())
                        .unwrap_or(4);
                    lines.push(Line {
                        level: priority % 8,
                        text: message.lines().next().unwrap_or("").to_string(),
                    });
                }
                // Some were overwritten before we came.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                Err(_) => return lines,
            }
        }
    }

    /// Whether a line with `text` has come since the last look.
    pub(crate) fn has(&mut self, text: &str) -> bool {
        self.lines().iter().any(|line| line.text.contains(text))
    }
}

/// A line of /proc/meminfo, in KiB.
pub(crate) fn meminfo(name: &str) -> Result<i64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| anyhow!("/proc/meminfo has no {name}"))
}
