// SPDX-License-Identifier: GPL-2.0

//! Who may be inside a space: many that move data, or one that changes the space.
//!
//! Like a read-write semaphore, but entering can be interrupted and refused, and it is no lock:
//! lockdep need not know that transfers are made inside.

use kernel::new_spinlock;
use kernel::prelude::*;
use kernel::sync::SpinLock;

use crate::sys::wait::{new_wait_queue, Signals, WaitQueue, Waited};

#[derive(Default)]
struct State {
    /// How many are inside to move data.
    shared: u32,
    /// One is inside to change the space.
    exclusive: bool,
    /// How many wait to change it. They go first: else a stream of transfers starves them.
    waiting: u32,
}

/// The gate of a space.
#[pin_data]
pub(crate) struct Gate {
    #[pin]
    state: SpinLock<State>,
    #[pin]
    changed: WaitQueue,
}

impl Gate {
    /// Nobody inside.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            state <- new_spinlock!(State::default(), "vfetch: gate"),
            changed <- new_wait_queue!("vfetch: gate"),
        })
    }

    /// Enters to move data.
    ///
    /// EAGAIN when that would mean to wait and `nonblocking`; EINTR when a signal came first.
    pub(crate) fn share(&self, nonblocking: bool) -> Result<Shared<'_>> {
        let enter = || {
            let mut state = self.state.lock();
            let free = !state.exclusive && state.waiting == 0;
            if free {
                state.shared = state.shared.saturating_add(1);
            }
            free
        };
        if nonblocking {
            return if enter() {
                Ok(Shared(self))
            } else {
                Err(EAGAIN)
            };
        }
        match self.changed.wait(Signals::Any, None, enter) {
            Waited::Signal => Err(EINTR),
            _ => Ok(Shared(self)),
        }
    }

    /// Enters alone. EINTR when a signal came first.
    pub(crate) fn exclude(&self) -> Result<Exclusive<'_>> {
        {
            let mut state = self.state.lock();
            state.waiting = state.waiting.saturating_add(1);
        }
        let waited = self.changed.wait(Signals::Any, None, || {
            let mut state = self.state.lock();
            let free = !state.exclusive && state.shared == 0;
            if free {
                state.exclusive = true;
            }
            free
        });
        {
            let mut state = self.state.lock();
            state.waiting = state.waiting.saturating_sub(1);
        }
        match waited {
            Waited::Signal => {
                self.changed.wake_all();
                Err(EINTR)
            }
            _ => Ok(Exclusive(self)),
        }
    }
}

/// Inside to move data, until dropped.
pub(crate) struct Shared<'a>(&'a Gate);

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        let wake = {
            let mut state = self.0.state.lock();
            state.shared = state.shared.saturating_sub(1);
            state.shared == 0 && state.waiting > 0
        };
        if wake {
            self.0.changed.wake_all();
        }
    }
}

/// Inside alone, until dropped.
pub(crate) struct Exclusive<'a>(&'a Gate);

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        self.0.state.lock().exclusive = false;
        self.0.changed.wake_all();
    }
}
