// SPDX-License-Identifier: GPL-2.0

//! What the kernel crate's PCI support lacks: SR-IOV, function resets, and devices that are used
//! by more than their driver's callbacks.

use core::marker::PhantomData;
use core::ops::Deref;

use kernel::bindings;
use kernel::device::{self, Bound, Core};
use kernel::dma::{Device as _, DmaMask};
use kernel::driver::{DriverLayout, RegistrationOps};
use kernel::error::{from_result, to_result};
use kernel::ffi::c_int;
use kernel::pci;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::atomic::{Acquire, Atomic, Full, Relaxed};
use kernel::sync::Arc;
use kernel::types::Opaque;

use super::host_memory::KeepsBound;
use super::shim;
use super::wait::{new_wait_queue, Signals, WaitQueue};

/// The `struct pci_dev` of a device in any context.
pub(super) fn as_raw<Ctx: device::DeviceContext>(
    device: &pci::Device<Ctx>,
) -> *mut bindings::pci_dev {
    // `pci::Device` is transparent over `Opaque<pci_dev>`; its own `as_raw` is private.
    core::ptr::from_ref(device)
        .cast::<Opaque<bindings::pci_dev>>()
        .cast_mut()
        .cast()
}

// ---- Driver callbacks ---------------------------------------------------------------------------

/// A PCI driver whose functions can have VFs and be reset.
pub(crate) trait SriovDriver: pci::Driver {
    /// `sriov_numvfs` was written: `count` VFs shall be enabled, 0 none. Returns how many are.
    ///
    /// Called with the device's lock held, with the function bound.
    fn sriov_configure<'bound>(
        device: &'bound pci::Device<Core<'_>>,
        data: Pin<&Self::Data<'bound>>,
        count: u16,
    ) -> Result<u16>;

    /// The function is about to be reset; nothing may touch it until [`reset_done`](Self::reset_done).
    fn reset_prepare<'bound>(device: &'bound pci::Device<Core<'_>>, data: Pin<&Self::Data<'bound>>);

    /// The function was reset (or could not be).
    fn reset_done<'bound>(device: &'bound pci::Device<Core<'_>>, data: Pin<&Self::Data<'bound>>);
}

/// Registers a [`SriovDriver`]: the kernel crate's adapter, and the callbacks that it has not.
pub(crate) struct Adapter<T: SriovDriver>(PhantomData<T>);

// SAFETY: The same types and offset as `pci::Adapter<T>`, which vouches for them.
unsafe impl<T: SriovDriver> DriverLayout for Adapter<T> {
    type DriverType = <pci::Adapter<T> as DriverLayout>::DriverType;
    type DriverData<'bound> = <pci::Adapter<T> as DriverLayout>::DriverData<'bound>;
    const DEVICE_DRIVER_OFFSET: usize = <pci::Adapter<T> as DriverLayout>::DEVICE_DRIVER_OFFSET;
}

// SAFETY: Registration is that of `pci::Adapter<T>`; two more fields are set before it.
unsafe impl<T: SriovDriver + 'static> RegistrationOps for Adapter<T> {
    unsafe fn register(
        driver: &Opaque<Self::DriverType>,
        name: &'static CStr,
        module: &'static ThisModule,
    ) -> Result {
        // SAFETY: Nothing has seen the structure yet, and it stays pinned until `unregister`.
        unsafe {
            (*driver.get()).sriov_configure = Some(Self::sriov_configure);
            (*driver.get()).err_handler = &Self::ERROR_HANDLERS;
        }
        // SAFETY: The caller's promises are those that are asked for here.
        unsafe { pci::Adapter::<T>::register(driver, name, module) }
    }

    unsafe fn unregister(driver: &Opaque<Self::DriverType>) {
        // SAFETY: It was registered by `pci::Adapter<T>`.
        unsafe { pci::Adapter::<T>::unregister(driver) }
    }
}

impl<T: SriovDriver + 'static> Adapter<T> {
    const ERROR_HANDLERS: bindings::pci_error_handlers = bindings::pci_error_handlers {
        error_detected: None,
        mmio_enabled: None,
        slot_reset: None,
        reset_prepare: Some(Self::reset_prepare),
        reset_done: Some(Self::reset_done),
        resume: None,
        cor_error_detected: None,
    };

    /// Calls `f` with the device and its driver's data.
    ///
    /// # Safety
    ///
    /// `pdev` is a valid device, its lock is held, and it is bound to this driver or being unbound
    /// from it: its driver data may be missing, but if it is there it stays for the call.
    unsafe fn with<R>(
        pdev: *mut bindings::pci_dev,
        missing: R,
        f: impl for<'bound> FnOnce(&'bound pci::Device<Core<'_>>, Pin<&T::Data<'bound>>) -> R,
    ) -> R {
        // SAFETY: The device is valid, and the callers' lock keeps it from being unbound.
        let device = unsafe { &*pdev.cast::<pci::Device<device::CoreInternal<'_>>>() };
        // SAFETY: The device is valid.
        if unsafe { bindings::dev_get_drvdata(&raw mut (*pdev).dev) }.is_null() {
            return missing;
        }
        // SAFETY: The data was stored by `pci::Adapter::probe_callback`, as of this type.
        let data = unsafe { device.as_ref().drvdata_borrow::<T::Data<'_>>() };
        f(device, data)
    }

    extern "C" fn sriov_configure(pdev: *mut bindings::pci_dev, count: c_int) -> c_int {
        from_result(|| {
            let count = u16::try_from(count)?;
            // SAFETY: `sriov_numvfs_store` holds the device's lock and has found this driver.
            unsafe {
                Self::with(pdev, Err(ENODEV), |device, data| {
                    T::sriov_configure(device, data, count)
                })
            }
            .map(c_int::from)
        })
    }

    /// # Safety
    ///
    /// Called by the PCI core only, with `pdev` valid and its lock held.
    unsafe extern "C" fn reset_prepare(pdev: *mut bindings::pci_dev) {
        // SAFETY: A function is reset with its lock held (`pci_dev_save_and_disable` asserts it).
        unsafe { Self::with(pdev, (), |device, data| T::reset_prepare(device, data)) }
    }

    /// # Safety
    ///
    /// Called by the PCI core only, with `pdev` valid and its lock held.
    unsafe extern "C" fn reset_done(pdev: *mut bindings::pci_dev) {
        // SAFETY: As in `reset_prepare`.
        unsafe { Self::with(pdev, (), |device, data| T::reset_done(device, data)) }
    }
}

// ---- SR-IOV -------------------------------------------------------------------------------------

/// Enables `count` VFs of a PF; they are probed before this returns.
pub(crate) fn enable_vfs(device: &pci::Device<Core<'_>>, count: u16) -> Result {
    // SAFETY: The device is valid, and its lock is held (`Core`).
    to_result(unsafe { bindings::pci_enable_sriov(as_raw(device), c_int::from(count)) })
}

/// Disables all VFs of a PF; they are unbound before this returns. Nothing happens if there are
/// none.
pub(crate) fn disable_vfs(device: &pci::Device<Core<'_>>) {
    // SAFETY: The device is valid, and its lock is held (`Core`).
    unsafe { bindings::pci_disable_sriov(as_raw(device)) }
}

/// VFs that are enabled.
pub(crate) fn enabled_vfs(device: &pci::Device<Core<'_>>) -> u16 {
    // SAFETY: The device is valid.
    let count = unsafe { bindings::pci_num_vf(as_raw(device)) };
    u16::try_from(count).unwrap_or(0)
}

/// Disables the VFs of a PF from outside the driver's callbacks, as module exit must: under the
/// lock that scanning and hot removal hold.
pub(crate) fn disable_vfs_rescan_locked(device: &pci::Device) {
    // SAFETY: The lock is not held by this thread: module exit holds none. The device is valid, and cannot be removed
    // while the lock is held.
    unsafe {
        bindings::pci_lock_rescan_remove();
        if bindings::pci_num_vf(as_raw(device)) > 0 {
            bindings::pci_disable_sriov(as_raw(device));
        }
        bindings::pci_unlock_rescan_remove();
    }
}

// ---- Identity -----------------------------------------------------------------------------------

/// Where a function is: the name by which people know it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address {
    /// PCI domain.
    pub(crate) domain: u32,
    /// Bus number.
    pub(crate) bus: u8,
    /// Device number << 3 | function number.
    pub(crate) devfn: u8,
}

/// The address of `device`.
pub(crate) fn address(device: &pci::Device<Core<'_>>) -> Address {
    // SAFETY: The device is valid and on a bus.
    unsafe { raw_address(as_raw(device)) }
}

/// The address of the PF that `device` belongs to, if it is a VF.
pub(crate) fn physical_function(device: &pci::Device<Core<'_>>) -> Option<Address> {
    // SAFETY: The device is valid, and so is its PF, which cannot go before its VFs.
    unsafe {
        shim::vfetch_pci_is_virtfn(as_raw(device))
            .then(|| raw_address(shim::vfetch_pci_physfn(as_raw(device))))
    }
}

/// # Safety
///
/// `pdev` is a valid device on a bus.
unsafe fn raw_address(pdev: *mut bindings::pci_dev) -> Address {
    // SAFETY: By this function's contract.
    let (domain, id) = unsafe { (shim::vfetch_pci_domain_nr(pdev), bindings::pci_dev_id(pdev)) };
    let [bus, devfn] = id.to_be_bytes();
    Address {
        // CAST: domains are not negative.
        domain: domain as u32,
        bus,
        devfn,
    }
}

/// Says how far the device can reach in memory. Its segments may be of any length.
pub(crate) fn set_dma_mask(device: &pci::Device<Core<'_>>, mask: DmaMask) -> Result {
    // SAFETY: The device is being bound (`Core`): nobody allocates or maps memory for it meanwhile, as our drivers do so
    // only once they are bound, or after this in their probe.
    unsafe {
        device.dma_set_max_seg_size(u32::MAX);
        device.dma_set_mask_and_coherent(mask)
    }
}

// ---- Resets -------------------------------------------------------------------------------------

/// Resets a function, with the driver's callbacks around it, if its lock can be had at once.
///
/// EAGAIN when not; ENOTTY when the function cannot be reset.
pub(crate) fn try_reset_function(device: &pci::Device) -> Result {
    // SAFETY: The device is valid.
    to_result(unsafe { bindings::pci_try_reset_function(as_raw(device)) })
}

/// Resets a function at once, without callbacks. To be called with its lock held.
pub(crate) fn reset_locked(device: &pci::Device<Bound>) -> Result {
    // SAFETY: The device is valid. Without its lock resets could overlap, which the PCI core
    // survives, with the configuration of either one of them. The reset clears the configuration
    // space, which the PCI core takes to be as it left it when a driver binds again.
    to_result(unsafe {
        bindings::pci_save_state(as_raw(device));
        let result = bindings::pcie_reset_flr(as_raw(device), false);
        bindings::pci_restore_state(as_raw(device));
        result
    })
}

/// Keeps a function from accessing host memory, for good.
pub(crate) fn clear_master(device: &pci::Device<Bound>) {
    // SAFETY: The device is valid, and bound to us.
    unsafe { bindings::pci_clear_master(as_raw(device)) }
}

/// Saves or restores the configuration space of a function, if its lock can be had at once: for a
/// VF whose PF is reset, which takes the VF with it but does not tell it.
///
/// EAGAIN when the lock cannot be had: the function is being reset or unbound itself.
pub(crate) fn try_keep_config(device: &pci::Device, restore: bool) -> Result {
    // SAFETY: The device is valid.
    if unsafe { bindings::pci_dev_trylock(as_raw(device)) } == 0 {
        return Err(EAGAIN);
    }
    // SAFETY: The device is valid and we hold its lock, which is released once.
    unsafe {
        let mut result = 0;
        if restore {
            bindings::pci_restore_state(as_raw(device));
        } else {
            result = bindings::pci_save_state(as_raw(device));
        }
        bindings::pci_dev_unlock(as_raw(device));
        to_result(result)
    }
}

// ---- Devices that are used from outside callbacks -----------------------------------------------

/// A device that stays bound for as long as somebody uses it.
///
/// Files outlive the driver's binding to their device. With [`enter`](Self::enter) they get a
/// reference that holds unbinding up, or nothing once that has begun.
#[pin_data]
pub(crate) struct BoundDevice {
    device: ARef<pci::Device>,
    /// Users, and [`Self::CLOSED`].
    users: Atomic<i64>,
    #[pin]
    left: WaitQueue,
}

/// Closes a [`BoundDevice`] when its device is unbound. Owned by devres.
struct Closer(Arc<BoundDevice>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl BoundDevice {
    /// Added to `users` when no more may enter.
    const CLOSED: i64 = 1 << 62;

    /// Makes the handle of a device that is being bound.
    pub(crate) fn new(device: &pci::Device<Core<'_>>) -> Result<Arc<Self>> {
        let this = Arc::pin_init(
            try_pin_init!(Self {
                device: device.into(),
                users: Atomic::new(0i64),
                left <- new_wait_queue!("vfetch: users of a device"),
            }),
            GFP_KERNEL,
        )?;
        // Devres drops the closer before the device stops being bound, whatever the driver does.
        kernel::devres::register(device.as_ref(), Closer(this.clone()), GFP_KERNEL)?;
        Ok(this)
    }

    /// Keeps the device bound until the guard is dropped. `None` when it is being unbound.
    pub(crate) fn enter(&self) -> Option<BoundGuard<'_>> {
        let before = self.users.fetch_add(1i64, Acquire);
        let guard = BoundGuard(self);
        (before & Self::CLOSED == 0).then_some(guard)
    }

    /// Lets nobody enter any more, and waits until all have left.
    pub(crate) fn close(&self) {
        let mut users = self.users.load(Relaxed);
        while users & Self::CLOSED == 0 {
            match self.users.cmpxchg(users, users | Self::CLOSED, Full) {
                Ok(_) => break,
                Err(now) => users = now,
            }
        }
        self.left.wait(Signals::None, None, || {
            self.users.load(Acquire) == Self::CLOSED
        });
    }

    /// Takes back what `enter` counted.
    fn leave(&self) {
        if self.users.fetch_sub(1i64, Full) == Self::CLOSED + 1 {
            self.left.wake_all();
        }
    }

    /// The device, bound or not.
    pub(crate) fn device(&self) -> &pci::Device {
        &self.device
    }
}

/// Proof that a device is bound. See [`BoundDevice::enter`].
pub(crate) struct BoundGuard<'a>(&'a BoundDevice);

impl Deref for BoundGuard<'_> {
    type Target = pci::Device<Bound>;

    fn deref(&self) -> &Self::Target {
        // SAFETY: The guard was made while the device was open, and `close` waits for it, before
        // the device stops being bound. The context is a marker only.
        unsafe { &*core::ptr::from_ref::<pci::Device>(&self.0.device).cast() }
    }
}

impl KeepsBound for &BoundGuard<'_> {
    fn device(&self) -> &device::Device<Bound> {
        (***self).as_ref()
    }
}

impl Drop for BoundGuard<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// The same for work that outlives who began it.
pub(crate) struct BoundHold(Arc<BoundDevice>);

impl BoundHold {
    /// Keeps the device bound until the hold is dropped. `None` when it is being unbound.
    pub(crate) fn new(device: &Arc<BoundDevice>) -> Option<Self> {
        let guard = device.enter()?;
        // What the guard counts is the hold's from here on.
        core::mem::forget(guard);
        Some(Self(device.clone()))
    }
}

impl KeepsBound for BoundHold {
    fn device(&self) -> &device::Device<Bound> {
        let device: *const device::Device = self.0.device.as_ref();
        // SAFETY: As in `BoundGuard::deref`.
        unsafe { &*device.cast() }
    }
}

impl Clone for BoundHold {
    fn clone(&self) -> Self {
        // It cannot be closed to the end while `self` is there.
        self.0.users.fetch_add(1i64, Relaxed);
        Self(self.0.clone())
    }
}

impl Drop for BoundHold {
    fn drop(&mut self) {
        self.0.leave();
    }
}
