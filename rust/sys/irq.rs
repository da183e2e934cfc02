// SPDX-License-Identifier: GPL-2.0

//! MSI-X vectors with a threaded handler each.
//!
//! The kernel crate's registrations borrow the vectors that they belong to, so that both cannot be
//! kept in one structure; here one value owns the vectors and their handlers.

use kernel::bindings;
use kernel::device::Bound;
use kernel::error::to_result;
use kernel::ffi::{c_int, c_void};
use kernel::pci;
use kernel::prelude::*;
use kernel::sync::Arc;

/// What handles an interrupt.
pub(crate) trait InterruptHandler: Send + Sync + 'static {
    /// Runs in interrupt context. `true` asks for [`handle_threaded`](Self::handle_threaded).
    fn handle(&self) -> bool;

    /// Runs in the interrupt's thread, and may sleep.
    fn handle_threaded(&self);
}

/// The MSI-X vectors of a function, one for each handler, in order.
///
/// # Invariants
///
/// `irqs` are requested, each with the pointer of the handler at the same index, and nothing else
/// uses the vectors of `device`.
pub(crate) struct Vectors<'bound, H: InterruptHandler> {
    device: &'bound pci::Device<Bound>,
    handlers: KVec<Arc<H>>,
    irqs: KVec<u32>,
}

impl<'bound, H: InterruptHandler> Vectors<'bound, H> {
    /// Allocates a vector for each of `handlers` and starts to handle them.
    ///
    /// ENOSPC when the function, or the machine, has not that many. A function has one set of vectors at a time: EINVAL,
    /// with a warning by the PCI core, while it has others.
    pub(crate) fn new(
        device: &'bound pci::Device<Bound>,
        handlers: KVec<Arc<H>>,
        name: &'static CStr,
    ) -> Result<Self> {
        let count = u32::try_from(handlers.len())?;
        let mut irqs = KVec::with_capacity(handlers.len(), GFP_KERNEL)?;
        // SAFETY: The device is valid and bound to us; vectors that do not exist are refused.
        let got = unsafe {
            bindings::pci_alloc_irq_vectors(as_raw(device), count, count, bindings::PCI_IRQ_MSIX)
        };
        to_result(got)?;
        // INVARIANT: `irqs` is empty, and nobody else uses the vectors, since they were allocated just now and are not
        // allocated twice. From here on they are freed by `drop`.
        let mut this = Self {
            device,
            handlers,
            irqs: KVec::new(),
        };
        core::mem::swap(&mut this.irqs, &mut irqs);
        for (index, handler) in (0..count).zip(this.handlers.iter()) {
            // SAFETY: The device is valid and bound to us.
            let irq = unsafe { bindings::pci_irq_vector(as_raw(device), index) };
            to_result(irq.min(0))?;
            // CAST: not negative, see above.
            let irq = irq as u32;
            // SAFETY: The functions have the signatures that their types ask for. The cookie stays
            // valid until `drop` has freed the interrupt, since `handlers` keeps a reference.
            to_result(unsafe {
                bindings::request_threaded_irq(
                    irq,
                    Some(handle::<H>),
                    Some(handle_threaded::<H>),
                    0,
                    name.as_char_ptr(),
                    Arc::as_ptr(handler).cast_mut().cast::<c_void>(),
                )
            })?;
            // INVARIANT: `irq` was requested with this handler. There is room: see `with_capacity`.
            this.irqs.push(irq, GFP_KERNEL)?;
        }
        Ok(this)
    }
}

impl<H: InterruptHandler> Drop for Vectors<'_, H> {
    fn drop(&mut self) {
        for (irq, handler) in self.irqs.iter().zip(self.handlers.iter()) {
            // SAFETY: By the invariants it was requested with this cookie. This waits for
            // handlers that run.
            unsafe {
                bindings::free_irq(*irq, Arc::as_ptr(handler).cast_mut().cast::<c_void>());
            }
        }
        // SAFETY: The vectors were allocated, and no interrupt of them is requested any more.
        unsafe { bindings::pci_free_irq_vectors(as_raw(self.device)) };
    }
}

fn as_raw(device: &pci::Device<Bound>) -> *mut bindings::pci_dev {
    super::pci::as_raw(device)
}

/// # Safety
///
/// `cookie` is a handler of this type, alive until `free_irq` has returned.
unsafe extern "C" fn handle<H: InterruptHandler>(
    _irq: c_int,
    cookie: *mut c_void,
) -> bindings::irqreturn_t {
    // SAFETY: The cookie is the handler that `Vectors::new` passed, and alive until `free_irq`.
    let handler = unsafe { &*cookie.cast_const().cast::<H>() };
    if handler.handle() {
        bindings::irqreturn::IRQ_WAKE_THREAD
    } else {
        bindings::irqreturn::IRQ_HANDLED
    }
}

/// # Safety
///
/// `cookie` is a handler of this type, alive until `free_irq` has returned.
unsafe extern "C" fn handle_threaded<H: InterruptHandler>(
    _irq: c_int,
    cookie: *mut c_void,
) -> bindings::irqreturn_t {
    // SAFETY: As in `handle`.
    let handler = unsafe { &*cookie.cast_const().cast::<H>() };
    handler.handle_threaded();
    bindings::irqreturn::IRQ_HANDLED
}
