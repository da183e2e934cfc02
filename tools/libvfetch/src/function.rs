// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Which functions there are: what sysfs says, without opening a node.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Serialize, Serializer};

use crate::{Error, Result};

/// Where a PCI function is: `domain:bus:device.function`, all in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    /// The domain (segment).
    pub domain: u32,
    /// The bus.
    pub bus: u8,
    /// The device, 0 to 31.
    pub device: u8,
    /// The function, 0 to 7.
    pub function: u8,
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            domain,
            bus,
            device,
            function,
        } = self;
        // `pad` so that a width given by the caller counts.
        f.pad(&format!("{domain:04x}:{bus:02x}:{device:02x}.{function:x}"))
    }
}

impl FromStr for PciAddress {
    type Err = Error;

    /// Takes `0000:01:00.0`, and `01:00.0` for domain 0.
    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let (rest, function) = text.rsplit_once('.')?;
            let (rest, device) = rest.rsplit_once(':')?;
            let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0", rest));
            Some(Self {
                domain: hex(domain, 8)?,
                bus: hex(bus, 2)?.try_into().ok()?,
                device: hex(device, 2).filter(|d| *d < 32)?.try_into().ok()?,
                function: hex(function, 1).filter(|f| *f < 8)?.try_into().ok()?,
            })
        };
        parse().ok_or_else(|| Error::BadFunction(text.to_owned()))
    }
}

/// Stricter than `from_str_radix`, which takes a sign.
fn hex(text: &str, digits: usize) -> Option<u32> {
    let good = (1..=digits).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    good.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

impl Serialize for PciAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How a user names a function.
///
/// ```
/// use libvfetch::FunctionRef;
/// let by_node: FunctionRef = "/dev/vfetch3".parse()?;
/// assert_eq!(by_node, "3".parse()?);
/// let by_address: FunctionRef = "0000:01:00.0".parse()?;
/// assert_eq!(by_address, "01:00.0".parse()?);
/// # Ok::<(), libvfetch::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FunctionRef {
    /// N of `/dev/vfetchN`.
    Node(u32),
    /// Its place on the PCI bus.
    Address(PciAddress),
}

impl fmt::Display for FunctionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => f.pad(&format!("vfetch{node}")),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl FromStr for FunctionRef {
    type Err = Error;

    /// Takes `3`, `vfetch3`, `/dev/vfetch3` and PCI addresses.
    fn from_str(text: &str) -> Result<Self> {
        let name = text.strip_prefix("/dev/").unwrap_or(text);
        let number = name.strip_prefix("vfetch").unwrap_or(name);
        if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) {
            return number
                .parse()
                .map(Self::Node)
                .map_err(|_| Error::BadFunction(text.to_owned()));
        }
        text.parse().map(Self::Address)
    }
}

/// A PF, or which of its VFs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The physical function.
    Pf,
    /// The nth virtual function, counted from 1.
    Vf(u32),
}

impl Role {
    /// `pf` or `vf`.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Pf => "pf",
            Self::Vf(_) => "vf",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pf => f.pad("PF"),
            Self::Vf(n) => f.pad(&format!("VF {n}")),
        }
    }
}

/// How many VFs a PF has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct VfCount {
    /// Now.
    pub enabled: u32,
    /// At most.
    pub total: u32,
}

/// A function that is bound to the driver, as it was when it was looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// N of `/dev/vfetchN`.
    pub node: u32,
    /// Where it is on the PCI bus.
    pub address: PciAddress,
    /// PF or VF.
    pub role: Role,
    /// A VF's PF.
    pub pf: Option<PciAddress>,
    /// How many VFs it has; only a PF that can have some.
    pub vfs: Option<VfCount>,
    /// The node to open.
    pub path: PathBuf,
}

/// Where the system's view of the functions is: usually [`Host::system`].
#[derive(Debug, Clone)]
pub struct Host {
    sysfs: PathBuf,
    dev: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        Self::system()
    }
}

impl Host {
    /// This machine: `/sys` and `/dev`.
    #[must_use]
    pub fn system() -> Self {
        Self::new("/sys", "/dev")
    }

    /// Other folders in their place: a container's, or a test's.
    #[must_use]
    pub fn new(sysfs: impl Into<PathBuf>, dev: impl Into<PathBuf>) -> Self {
        Self {
            sysfs: sysfs.into(),
            dev: dev.into(),
        }
    }

    /// The bound functions, by node. Needs no permission. The list may be empty.
    ///
    /// # Errors
    ///
    /// [`Error::ModuleNotLoaded`]; [`Error::Os`] when sysfs is not readable.
    pub fn functions(&self) -> Result<Vec<Function>> {
        let mut found = Vec::new();
        let misc = self.sysfs.join("class/misc");
        for entry in read_dir(&misc)? {
            let name = entry.file_name();
            let node = name
                .to_str()
                .and_then(|n| n.strip_prefix("vfetch"))
                .and_then(|n| n.parse().ok());
            if let Some(node) = node {
                // One that goes away meanwhile is not there.
                found.extend(self.function(node, &entry.path()));
            }
        }
        if found.is_empty() && !self.sysfs.join("module/vfetch").exists() {
            return Err(Error::ModuleNotLoaded);
        }
        found.sort_by_key(|f| f.node);
        Ok(found)
    }

    /// The function that `which` names.
    ///
    /// # Errors
    ///
    /// [`Error::ModuleNotLoaded`], [`Error::NoFunctions`], [`Error::NotBound`],
    /// [`Error::NoSuchFunction`].
    pub fn find(&self, which: &FunctionRef) -> Result<Function> {
        let functions = self.functions()?;
        let bound: Vec<u32> = functions.iter().map(|f| f.node).collect();
        let is_it = |f: &Function| match *which {
            FunctionRef::Node(node) => f.node == node,
            FunctionRef::Address(address) => f.address == address,
        };
        if let Some(function) = functions.into_iter().find(is_it) {
            return Ok(function);
        }
        if let FunctionRef::Address(address) = *which {
            let device = self.pci(address);
            if device.exists() {
                let driver = link_name(&device.join("driver")).filter(|d| d != "vfetch");
                return Err(Error::NotBound { address, driver });
            }
        }
        if bound.is_empty() {
            return Err(Error::NoFunctions);
        }
        Err(Error::NoSuchFunction {
            wanted: *which,
            bound,
        })
    }

    /// Gives a PF `count` VFs (sysfs `sriov_numvfs`). They are bound when this
    /// returns, unless `sriov_drivers_autoprobe` is off. Nothing happens when it has that many.
    ///
    /// ```no_run
    /// # fn main() -> libvfetch::Result<()> {
    /// let host = libvfetch::Host::system();
    /// let pf = host.find(&"0000:01:00.0".parse()?)?;
    /// host.set_vfs(&pf, 0)?; // their number changes only by way of none
    /// host.set_vfs(&pf, 4)?;
    /// let vfs = host.functions()?.into_iter().filter(|f| f.pf == Some(pf.address));
    /// # drop(vfs);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotPf`]; [`Error::TooManyVfs`]; [`Error::VfsEnabled`] when it has
    /// another number that is not 0; [`Error::PermissionDenied`].
    pub fn set_vfs(&self, pf: &Function, count: u32) -> Result<()> {
        let address = pf.address;
        let device = self.pci(address);
        let VfCount { enabled, total } = vf_count(&device).ok_or(Error::NotPf { address })?;
        if enabled == count {
            return Ok(());
        }
        if count > total {
            return Err(Error::TooManyVfs {
                address,
                total,
                wanted: count,
            });
        }
        if enabled != 0 && count != 0 {
            return Err(Error::VfsEnabled {
                address,
                enabled,
                wanted: count,
            });
        }
        let file = device.join("sriov_numvfs");
        fs::write(&file, count.to_string()).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => Error::PermissionDenied(file.clone()),
            _ => Error::os(
                format!("cannot write {count} to {}", file.display()),
                &error,
            ),
        })
    }

    fn pci(&self, address: PciAddress) -> PathBuf {
        self.sysfs.join("bus/pci/devices").join(address.to_string())
    }

    fn function(&self, node: u32, class_entry: &Path) -> Option<Function> {
        let address: PciAddress = link_name(&class_entry.join("device"))?.parse().ok()?;
        let device = self.pci(address);
        let pf = link_name(&device.join("physfn")).and_then(|name| name.parse().ok());
        let role = match pf {
            Some(pf) => Role::Vf(self.vf_number(pf, address)?),
            None => Role::Pf,
        };
        Some(Function {
            node,
            address,
            role,
            pf,
            vfs: vf_count(&device).filter(|_| pf.is_none()),
            path: self.dev.join(format!("vfetch{node}")),
        })
    }

    /// Which of the PF's `virtfn` links leads to the VF, counted from 1.
    fn vf_number(&self, pf: PciAddress, vf: PciAddress) -> Option<u32> {
        let vf = vf.to_string();
        fs::read_dir(self.pci(pf))
            .ok()?
            .flatten()
            .find_map(|entry| {
                let name = entry.file_name();
                let index: u32 = name.to_str()?.strip_prefix("virtfn")?.parse().ok()?;
                (link_name(&entry.path())? == vf)
                    .then(|| index.checked_add(1))
                    .flatten()
            })
    }
}

fn vf_count(device: &Path) -> Option<VfCount> {
    let number = |name: &str| {
        fs::read_to_string(device.join(name))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    Some(VfCount {
        enabled: number("sriov_numvfs")?,
        total: number("sriov_totalvfs")?,
    })
}

/// The last part of what a symbolic link points to.
fn link_name(link: &Path) -> Option<String> {
    Some(fs::read_link(link).ok()?.file_name()?.to_str()?.to_owned())
}

fn read_dir(path: &Path) -> Result<Vec<fs::DirEntry>> {
    match fs::read_dir(path) {
        Ok(entries) => Ok(entries.flatten().collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::os(format!("cannot read {}", path.display()), &error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A sysfs with a PF on 01:00.0 that has `vfs` of 8 VFs, all bound.
    struct Sysfs(tempfile::TempDir);

    impl Sysfs {
        fn new(vfs: u32) -> Self {
            let root = tempfile::tempdir().unwrap();
            let sysfs = Self(root);
            fs::create_dir_all(sysfs.path("module/vfetch")).unwrap();
            fs::create_dir_all(sysfs.path("class/misc/rtc")).unwrap();
            sysfs.device("0000:01:00.0");
            let pf = sysfs.path("bus/pci/devices/0000:01:00.0");
            fs::write(pf.join("sriov_numvfs"), format!("{vfs}\n")).unwrap();
            fs::write(pf.join("sriov_totalvfs"), "8\n").unwrap();
            sysfs.bind(0, "0000:01:00.0");
            for n in 1..=vfs {
                let name = format!("0000:01:{:02x}.{}", n / 8, n % 8);
                let vf = sysfs.device(&name);
                symlink("../0000:01:00.0", vf.join("physfn")).unwrap();
                symlink(format!("../{name}"), pf.join(format!("virtfn{}", n - 1))).unwrap();
                sysfs.bind(n, &name);
            }
            sysfs
        }

        fn path(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn device(&self, name: &str) -> PathBuf {
            let device = self.path("bus/pci/devices").join(name);
            fs::create_dir_all(&device).unwrap();
            device
        }

        fn bind(&self, node: u32, name: &str) {
            let class = self.path("class/misc").join(format!("vfetch{node}"));
            fs::create_dir_all(&class).unwrap();
            symlink(
                self.path("bus/pci/devices").join(name),
                class.join("device"),
            )
            .unwrap();
        }

        fn host(&self) -> Host {
            Host::new(self.0.path(), "/dev")
        }
    }

    #[test]
    fn functions_come_by_node_with_their_role() {
        let sysfs = Sysfs::new(8);
        let functions = sysfs.host().functions().unwrap();
        assert_eq!(functions.len(), 9);
        assert_eq!(functions[0].role, Role::Pf);
        assert_eq!(
            functions[0].vfs,
            Some(VfCount {
                enabled: 8,
                total: 8
            })
        );
        assert_eq!(functions[8].role, Role::Vf(8));
        assert_eq!(functions[8].address.to_string(), "0000:01:01.0");
        assert_eq!(functions[8].pf, Some(functions[0].address));
        assert_eq!(functions[8].path, Path::new("/dev/vfetch8"));
    }

    #[test]
    fn a_function_is_found_by_node_and_by_address() {
        let sysfs = Sysfs::new(2);
        let host = sysfs.host();
        let by_node = host.find(&FunctionRef::Node(2)).unwrap();
        let by_address = host.find(&"01:00.2".parse().unwrap()).unwrap();
        assert_eq!(by_node, by_address);
    }

    #[test]
    fn without_the_module_the_error_says_so() {
        let empty = tempfile::tempdir().unwrap();
        let host = Host::new(empty.path(), "/dev");
        assert!(matches!(host.functions(), Err(Error::ModuleNotLoaded)));
        assert!(matches!(
            host.find(&FunctionRef::Node(0)),
            Err(Error::ModuleNotLoaded)
        ));
    }

    #[test]
    fn with_the_module_and_nothing_bound_the_list_is_empty() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("module/vfetch")).unwrap();
        let host = Host::new(root.path(), "/dev");
        assert_eq!(host.functions().unwrap(), []);
        assert!(matches!(
            host.find(&FunctionRef::Node(0)),
            Err(Error::NoFunctions)
        ));
    }

    #[test]
    fn a_function_of_another_driver_is_named_with_it() {
        let sysfs = Sysfs::new(0);
        let other = sysfs.device("0000:02:00.0");
        symlink("../../drivers/vfio-pci", other.join("driver")).unwrap();
        let error = sysfs.host().find(&"02:00.0".parse().unwrap()).unwrap_err();
        assert!(matches!(error, Error::NotBound { driver: Some(d), .. } if d == "vfio-pci"));
    }

    #[test]
    fn an_absent_function_is_answered_with_those_that_are_there() {
        let sysfs = Sysfs::new(1);
        let error = sysfs.host().find(&FunctionRef::Node(5)).unwrap_err();
        assert!(matches!(error, Error::NoSuchFunction { bound, .. } if bound == [0, 1]));
    }

    #[test]
    fn vfs_are_set_only_from_and_to_none() {
        let sysfs = Sysfs::new(0);
        let host = sysfs.host();
        let pf = host.find(&FunctionRef::Node(0)).unwrap();
        let numvfs = sysfs.path("bus/pci/devices/0000:01:00.0/sriov_numvfs");
        assert!(matches!(
            host.set_vfs(&pf, 9),
            Err(Error::TooManyVfs { total: 8, .. })
        ));
        host.set_vfs(&pf, 4).unwrap();
        assert_eq!(fs::read_to_string(&numvfs).unwrap(), "4");
        assert!(matches!(
            host.set_vfs(&pf, 5),
            Err(Error::VfsEnabled { enabled: 4, .. })
        ));
        host.set_vfs(&pf, 4).unwrap();
        host.set_vfs(&pf, 0).unwrap();
        assert_eq!(fs::read_to_string(&numvfs).unwrap(), "0");
    }

    #[test]
    fn a_vf_has_no_vfs_to_set() {
        let sysfs = Sysfs::new(1);
        let host = sysfs.host();
        let vf = host.find(&FunctionRef::Node(1)).unwrap();
        assert!(matches!(host.set_vfs(&vf, 1), Err(Error::NotPf { .. })));
    }

    #[test]
    fn addresses_and_nodes_that_are_none_are_refused() {
        for bad in [
            "",
            "vfetch",
            "/dev/null",
            "-1",
            "+1",
            "1:2",
            "01:00.8",
            "01:20.0",
            "0000:01:00",
            "4294967296",
            "fd:3",
        ] {
            assert!(bad.parse::<FunctionRef>().is_err(), "{bad} was taken");
        }
        assert_eq!(
            "10000:e1:1f.7".parse::<PciAddress>().unwrap().to_string(),
            "10000:e1:1f.7"
        );
    }
}
