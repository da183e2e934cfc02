// SPDX-License-Identifier: GPL-2.0

//! Work that brings a function back when its device does not answer.
//!
//! What it does is [`Function::recover`]; here is when, and by whom: queues ask for it from
//! contexts that cannot wait for it.

use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::{Arc, Mutex};
use kernel::workqueue::{impl_has_work, new_work, Work, WorkItem};

use super::function::Function;
use crate::sys::work::{cancel_sync, system_unbound};

/// Recovers a function on request.
#[pin_data]
pub(crate) struct Recovery {
    #[pin]
    work: Work<Recovery>,
    /// The function while it is bound. The queues of the function have references to this: the
    /// circle is broken by [`close`](Self::close).
    #[pin]
    function: Mutex<Option<Arc<Function>>>,
}

impl_has_work! {
    impl HasWork<Self> for Recovery { self.work }
}

impl Recovery {
    /// For a function that is still to come.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                work <- new_work!("vfetch: recovery"),
                function <- new_mutex!(None, "vfetch: recovery"),
            }),
            GFP_KERNEL,
        )
    }

    /// Names the function.
    pub(crate) fn open(&self, function: Arc<Function>) {
        *self.function.lock() = Some(function);
    }

    /// Asks for a recovery, in a context that may sleep. One that is already asked for is not asked for twice.
    pub(crate) fn request(self: &Arc<Self>) {
        // The lock is held until it is queued: what is queued afterwards `close` would not see.
        let function = self.function.lock();
        if function.is_some() {
            // When it is queued already, the reference comes back, and is dropped.
            let _ = system_unbound().enqueue(self.clone());
        }
    }

    /// No more recoveries: waits for one that runs, and forgets the function.
    pub(crate) fn close(self: &Arc<Self>) {
        let function = self.function.lock().take();
        cancel_sync(self);
        drop(function);
    }
}

impl WorkItem for Recovery {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let function = this.function.lock().clone();
        if let Some(function) = function {
            function.recover();
        }
    }
}
