// SPDX-License-Identifier: GPL-2.0

//! Binding to PCI functions: probe, VFs, resets, unbind.

use kernel::device::{self, Core};
use kernel::dma::DmaMask;
use kernel::pci;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::Arc;
use kernel::time::{delay::fsleep, Delta};

use super::device_fault::FaultRing;
use super::file::SpaceFile;
use super::function::{Function, Identity};
use super::params::Parameters;
use super::queue::Queue;
use super::registry;
use super::regs::{Description, Registers};
use super::relief::Relief;
use crate::sys::abi as hw;
use crate::sys::irq::{InterruptHandler, Vectors};
use crate::sys::node::Node;
use crate::sys::pci as sys_pci;

/// The driver.
pub(crate) struct Driver;

/// What belongs to a bound function.
///
/// When it is dropped the function is shut down, if `unbind` has not done so; then, in this order, there are no more
/// requests for memory, no more opens, and no more interrupts.
pub(crate) struct Bound<'bound> {
    _relief: Relief,
    _node: Pin<KBox<Node<SpaceFile>>>,
    _vectors: Vectors<'bound, Source>,
    function: Arc<Function>,
    device: &'bound pci::Device<device::Bound>,
}

impl Drop for Bound<'_> {
    fn drop(&mut self) {
        if let Some(registry) = registry::get() {
            registry.set(self.function.identity.address, None);
        }
        self.function.shut_down(self.device);
    }
}

// CAST: vendor ids have 16 bits.
const _: () = assert!(pci::Vendor::REDHAT.as_raw() as u32 == hw::VFETCH_PCI_VENDOR);

kernel::pci_device_table!(
    TABLE,
    <Driver as pci::Driver>::IdInfo,
    [
        (
            pci::DeviceId::from_id(pci::Vendor::REDHAT, hw::VFETCH_PCI_DEVICE_PF),
            ()
        ),
        (
            pci::DeviceId::from_id(pci::Vendor::REDHAT, hw::VFETCH_PCI_DEVICE_VF),
            ()
        ),
    ]
);

/// Divides the device's memory among the PF and all the VFs that it can have: equal parts, in whole
/// blocks where they are large enough; the PF has what is left over.
fn partition(registers: &Registers) -> Result {
    let total = registers.read64(hw::VFETCH_REG_MEM_TOTAL)?;
    let count = registers.read32(hw::VFETCH_REG_PART_COUNT)?;
    let granule = registers.read32(hw::VFETCH_REG_PART_GRANULE)?;
    if count == 0 || count > hw::VFETCH_MAX_VFS + 1 || granule == 0 {
        return Err(EIO);
    }
    let mut unit = u64::from(granule);
    let share = total / u64::from(count);
    if share >= u64::from(hw::VFETCH_BLOCK_BYTES) {
        unit = unit.max(u64::from(hw::VFETCH_BLOCK_BYTES));
    }
    let share = share / unit * unit;
    let vfs = share * u64::from(count - 1);
    let pf = (total - vfs) / u64::from(granule) * u64::from(granule);
    // The PF first: it has all of the memory until it gives some up.
    for function in 0..count {
        let (base, size) = match function {
            0 => (0, pf),
            n => (pf + share * u64::from(n - 1), share),
        };
        registers.write32(hw::VFETCH_REG_PART_INDEX, function)?;
        registers.write64(hw::VFETCH_REG_PART_BASE, base)?;
        registers.write64(hw::VFETCH_REG_PART_SIZE, size)?;
        registers.write32(hw::VFETCH_REG_PART_COMMAND, hw::VFETCH_PART_APPLY)?;
        let result = registers.read32(hw::VFETCH_REG_PART_RESULT)?;
        if result != hw::VFETCH_PART_OK {
            pr_err!(
                "function {} cannot have {} bytes at {:#x}: {}\n",
                function,
                size,
                base,
                result
            );
            return Err(EIO);
        }
    }
    Ok(())
}

/// Stops queues that somebody before us may have left running (a kernel that crashed): they would write to where its
/// rings were as soon as the function may access memory.
fn quiesce(registers: &Registers) -> Result {
    const LOOKS: u32 = 5000;
    const LOOK_US: i64 = 100;
    for queue in 0..registers
        .read32(hw::VFETCH_REG_QUEUES)?
        .min(hw::VFETCH_MAX_QUEUES)
    {
        let base = hw::VFETCH_QUEUE_BASE + queue * hw::VFETCH_QUEUE_STRIDE;
        registers.write32(base + hw::VFETCH_QREG_CONTROL, hw::VFETCH_QCTL_RESET)?;
        let busy = hw::VFETCH_QSTAT_ENABLED | hw::VFETCH_QSTAT_RESETTING;
        let mut looks = 0;
        while registers.read32(base + hw::VFETCH_QREG_STATUS)? & busy != 0 {
            looks += 1;
            if looks > LOOKS {
                return Err(EIO);
            }
            fsleep(Delta::from_micros(LOOK_US));
        }
    }
    Ok(())
}

/// What sends an interrupt.
enum Source {
    Queue(Arc<Queue>),
    Faults(Arc<FaultRing>),
}

impl InterruptHandler for Source {
    fn handle(&self) -> bool {
        match self {
            Self::Queue(queue) => queue.handle(),
            Self::Faults(_) => true,
        }
    }

    fn handle_threaded(&self) {
        match self {
            Self::Queue(queue) => queue.handle_threaded(),
            Self::Faults(faults) => faults.serve(),
        }
    }
}

impl Driver {
    /// Makes the function of `device` and starts it.
    fn bring_up(device: &pci::Device<Core<'_>>, parameters: Parameters) -> Result<Arc<Function>> {
        let registry = registry::get().ok_or(ENODEV)?;
        device.enable_device_mem()?;
        sys_pci::set_dma_mask(device, DmaMask::new::<64>())?;
        let bar = device.iomap_region_sized(hw::VFETCH_BAR_REGS, c"vfetch")?;
        let registers = Arc::new(Registers::new(bar.into_devres()?), GFP_KERNEL)?;
        let mut description = Description::read(&registers)?;
        quiesce(&registers)?;
        device.set_master();
        let address = sys_pci::address(device);
        let physical = sys_pci::physical_function(device);
        if physical.is_none() && sys_pci::enabled_vfs(device) == 0 {
            partition(&registers)?;
            description = Description::read(&registers)?;
        }
        let identity = Identity {
            address,
            physical,
            node: registry.number(address)?,
            vendor: device.vendor_id().as_raw(),
            device: device.device_id(),
        };
        Function::new(device, identity, description, registers, parameters)
    }
}

impl Driver {
    /// Binds to `device`.
    fn bind<'bound>(device: &'bound pci::Device<Core<'_>>) -> Result<Bound<'bound>> {
        let function = Self::bring_up(device, Parameters::read()?)?;
        let result = Self::run(device, &function);
        if result.is_err() {
            function.shut_down(device);
        }
        let (_relief, _vectors, _node) = result?;
        if let Some(registry) = registry::get() {
            registry.set(function.identity.address, Some(function.clone()));
        }
        dev_dbg!(
            device,
            "function {} with {} bytes is vfetch{}\n",
            function.description.number,
            function.description.mem_bytes,
            function.identity.node
        );
        Ok(Bound {
            _relief,
            _node,
            _vectors,
            function,
            device,
        })
    }

    /// Starts `function`, its interrupts first, and makes its node last: from then on it can be opened.
    #[allow(clippy::type_complexity, reason = "used once, right above")]
    fn run<'bound>(
        device: &'bound pci::Device<Core<'_>>,
        function: &Arc<Function>,
    ) -> Result<(Relief, Vectors<'bound, Source>, Pin<KBox<Node<SpaceFile>>>)> {
        let mut handlers = KVec::with_capacity(4, GFP_KERNEL)?;
        // Vector n is of queue n; the one behind them of faults.
        for queue in function.queues() {
            let source = Source::Queue(queue.clone());
            handlers.push(Arc::new(source, GFP_KERNEL)?, GFP_KERNEL)?;
        }
        if function.compute.is_some() {
            let source = Source::Faults(function.faults.clone());
            handlers.push(Arc::new(source, GFP_KERNEL)?, GFP_KERNEL)?;
        }
        let vectors = Vectors::new(device, handlers, c"vfetch")?;
        function.start()?;
        let name = CString::try_from_fmt(fmt!("vfetch{}", function.identity.node))?;
        let node = Node::register(name, device.as_ref(), function.clone());
        let relief = Relief::new(function)?;
        Ok((relief, vectors, KBox::pin_init(node, GFP_KERNEL)?))
    }
}

impl pci::Driver for Driver {
    type IdInfo = ();
    type Data<'bound> = Bound<'bound>;
    const ID_TABLE: pci::IdTable<Self::IdInfo> = &TABLE;

    fn probe<'bound>(
        device: &'bound pci::Device<Core<'_>>,
        _info: Option<&'bound Self::IdInfo>,
    ) -> impl PinInit<Self::Data<'bound>, Error> + 'bound {
        Self::bind(device)
    }

    fn unbind<'bound>(device: &'bound pci::Device<Core<'_>>, this: Pin<&Self::Data<'bound>>) {
        // VFs cannot be without their PF: it holds their partitions.
        sys_pci::disable_vfs(device);
        if let Some(registry) = registry::get() {
            registry.set(this.function.identity.address, None);
        }
        this.function.shut_down(device);
    }
}

impl sys_pci::SriovDriver for Driver {
    fn sriov_configure<'bound>(
        device: &'bound pci::Device<Core<'_>>,
        _data: Pin<&Self::Data<'bound>>,
        count: u16,
    ) -> Result<u16> {
        if count == 0 {
            sys_pci::disable_vfs(device);
        } else {
            // The partitions were made for all VFs at probe.
            sys_pci::enable_vfs(device, count)?;
        }
        Ok(count)
    }

    fn reset_prepare<'bound>(
        _device: &'bound pci::Device<Core<'_>>,
        data: Pin<&Self::Data<'bound>>,
    ) {
        data.function.reset_prepare();
        // A PF takes its VFs with it, and nobody tells them.
        if let Some(registry) = registry::get() {
            for vf in registry.vfs_of(data.function.identity.address) {
                vf.reset_prepare();
                // One whose lock cannot be had is being reset or unbound itself.
                let _ = sys_pci::try_keep_config(vf.bound.device(), false);
            }
        }
    }

    fn reset_done<'bound>(device: &'bound pci::Device<Core<'_>>, data: Pin<&Self::Data<'bound>>) {
        let function = &data.function;
        // A PF that was reset has all of the memory again.
        let fit = if function.identity.physical.is_none() && function.was_scrubbed() {
            partition(&function.registers)
        } else {
            Ok(())
        };
        function.reset_done(device, fit);
        let Some(registry) = registry::get() else {
            return;
        };
        for vf in registry.vfs_of(function.identity.address) {
            let _ = sys_pci::try_keep_config(vf.bound.device(), true);
            if let Ok(bound) = vf.enter() {
                vf.reset_done(&bound, fit);
            }
        }
    }
}

/// Disables the VFs of every PF, when the module goes: before the driver is unregistered, which
/// could not do it in this order.
pub(crate) fn disable_all_vfs() {
    if let Some(registry) = registry::get() {
        for pf in registry.pfs() {
            sys_pci::disable_vfs_rescan_locked(pf.bound.device());
        }
    }
}
