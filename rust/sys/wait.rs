// SPDX-License-Identifier: GPL-2.0

//! Waiting for a condition, as `wait_event*()` does.
//!
//! The kernel crate's `CondVar` belongs to a lock and cannot wait killably; here the condition is a closure, which may take
//! whatever lock it needs.

use core::mem::MaybeUninit;
use core::pin::Pin;

use kernel::bindings;
use kernel::ffi::{c_int, c_long};
use kernel::fs::File;
use kernel::prelude::*;
use kernel::processor::cpu_relax;
use kernel::sync::rcu::synchronize_rcu;
use kernel::sync::LockClassKey;
use kernel::time::{msecs_to_jiffies, Delta, Instant, Jiffies, Monotonic, Msecs};
use kernel::types::Opaque;

use super::shim;

/// What may end a wait besides its condition and its time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signals {
    /// Nothing: for waits that are bounded and whose memory somebody else still uses.
    None,
    /// One that kills the task.
    Fatal,
    /// Any signal.
    Any,
}

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Waited {
    /// The condition holds.
    Done,
    /// The time is over and the condition does not hold.
    TimedOut,
    /// A signal came first.
    Signal,
}

/// Whether the calling task is being killed.
pub(crate) fn killed() -> bool {
    // SAFETY: No requirements.
    unsafe { shim::vfetch_fatal_signal_pending() }
}

/// A `wait_queue_head`: tasks, and pollers, that wait for something to change.
#[pin_data(PinnedDrop)]
pub(crate) struct WaitQueue {
    #[pin]
    head: Opaque<bindings::wait_queue_head>,
}

// SAFETY: A wait queue may be used and freed from any thread.
unsafe impl Send for WaitQueue {}
// SAFETY: All operations on a wait queue take its own lock.
unsafe impl Sync for WaitQueue {}

impl WaitQueue {
    /// Makes an empty queue. See [`new_wait_queue!`](crate::sys::wait::new_wait_queue).
    pub(crate) fn new(name: &'static CStr, key: Pin<&'static LockClassKey>) -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: `slot` is valid for writes and pinned; `name` and `key` are static.
            head <- Opaque::ffi_init(|slot| unsafe {
                bindings::__init_waitqueue_head(slot, name.as_char_ptr(), key.as_ptr())
            }),
        })
    }

    /// Sleeps until `condition` holds, for at most `time` (`None`: for ever).
    ///
    /// The condition is looked at before the first sleep and after each [`wake_all`](Self::wake_all). It is called
    /// with the task marked as about to sleep: it may take spin locks and nothing that sleeps.
    pub(crate) fn wait(
        &self,
        signals: Signals,
        time: Option<Msecs>,
        mut condition: impl FnMut() -> bool,
    ) -> Waited {
        if condition() {
            return Waited::Done;
        }
        self.wait_as(0, signals, time, |_| condition())
    }

    /// The same, in turn: of those who wait like this [`wake_one`](Self::wake_one) wakes only the one that has waited longest.
    ///
    /// The condition is told whether the caller has slept: at the first look it has not, but every later
    /// wake-up is already sure to be noticed. A wake-up may also come to who has just found the condition to hold, and
    /// to who leaves for a signal: whoever returns from here must wake the next if there is something left to take.
    pub(crate) fn wait_in_turn(
        &self,
        signals: Signals,
        condition: impl FnMut(bool) -> bool,
    ) -> Waited {
        self.wait_as(bindings::WQ_FLAG_EXCLUSIVE, signals, None, condition)
    }

    fn wait_as(
        &self,
        flags: u32,
        signals: Signals,
        time: Option<Msecs>,
        mut condition: impl FnMut(bool) -> bool,
    ) -> Waited {
        let mut left: c_long = match time {
            // One more: the present jiffy may be nearly over. CAST: bounded by the `min`.
            Some(ms) => msecs_to_jiffies(ms).saturating_add(1).min(Jiffies::MAX / 4) as c_long,
            None => c_long::MAX,
        };
        let state = match signals {
            Signals::None => bindings::TASK_UNINTERRUPTIBLE,
            Signals::Fatal => bindings::TASK_KILLABLE,
            Signals::Any => bindings::TASK_INTERRUPTIBLE,
        };
        let mut entry = MaybeUninit::<bindings::wait_queue_entry>::uninit();
        // SAFETY: `entry` is valid for writes. It stays where it is until `finish_wait()` below has
        // taken it off the queue.
        // CAST: a flag.
        unsafe { bindings::init_wait_entry(entry.as_mut_ptr(), flags as c_int) };
        let mut woken = false;
        let waited = loop {
            // SAFETY: The head is initialised, and so is the entry, which lives until
            // `finish_wait()`.
            let interrupted = unsafe {
                bindings::prepare_to_wait_event(
                    self.head.get(),
                    entry.as_mut_ptr(),
                    // CAST: task states are small.
                    state as c_int,
                )
            };
            if condition(woken) {
                break Waited::Done;
            }
            if interrupted != 0 {
                break Waited::Signal;
            }
            if left == 0 {
                break Waited::TimedOut;
            }
            // SAFETY: Callers of this function may sleep.
            left = unsafe { bindings::schedule_timeout(left) };
            // Or a signal, or the time: those are seen above.
            woken = true;
        };
        // SAFETY: As above; after this the entry is on no queue.
        unsafe { bindings::finish_wait(self.head.get(), entry.as_mut_ptr()) };
        waited
    }

    /// Wakes every waiter and poller, to look at its condition again.
    ///
    /// May be called in any context. A change made before this call is seen by those that
    /// it wakes.
    pub(crate) fn wake_all(&self) {
        self.wake(0, 0);
    }

    /// The same, but of pollers only those who asked for one of `events`.
    pub(crate) fn wake_all_for(&self, events: u32) {
        self.wake(0, events);
    }

    /// The same, but wakes only the first of those who [wait in turn](Self::wait_in_turn). A poller may be the first
    /// (`EPOLLEXCLUSIVE`), and takes nothing: pollers belong on a queue of their own.
    pub(crate) fn wake_one(&self) {
        self.wake(1, 0);
    }

    /// Wakes `turns` of those who wait in turn (0: all), and everybody else; of pollers those who asked for one of `events` (0: any).
    fn wake(&self, turns: c_int, events: u32) {
        // SAFETY: The head is initialised. This orders the caller's change before the look.
        if !unsafe { shim::vfetch_wq_has_sleeper(self.head.get()) } {
            return;
        }
        // SAFETY: The head is initialised; a key is a number, and not followed.
        unsafe {
            bindings::__wake_up(
                self.head.get(),
                bindings::TASK_NORMAL,
                turns,
                // What pollers get as the key; others do not look at it. CAST: u32 to usize keeps the value.
                core::ptr::without_provenance_mut(events as usize),
            )
        };
    }
}

#[pinned_drop]
impl PinnedDrop for WaitQueue {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: The head is initialised. Nobody waits any more, since a waiter borrows `self`.
        if unsafe { shim::vfetch_wq_has_sleeper(self.head.get()) } {
            // A poller was registered (`Poll::register`): take it off, and let those who have
            // already found the head finish.
            // SAFETY: The head is initialised.
            unsafe { bindings::__wake_up_pollfree(self.head.get()) };
            synchronize_rcu();
        }
    }
}

/// Makes a [`WaitQueue`] with a lock class of its own.
macro_rules! new_wait_queue {
    ($name:literal) => {
        $crate::sys::wait::WaitQueue::new(::kernel::c_str!($name), ::kernel::static_lock_class!())
    };
}
pub(crate) use new_wait_queue;

/// A poll of a file: collects the queues that may end it.
pub(crate) struct Poll<'a> {
    file: &'a File,
    table: *mut bindings::poll_table,
}

impl<'a> Poll<'a> {
    /// # Safety
    ///
    /// `table` is what the `poll` file operation got with `file`, and is valid for `'a`.
    pub(super) unsafe fn from_raw(file: &'a File, table: *mut bindings::poll_table) -> Self {
        Self { file, table }
    }

    /// Asks to be polled again whenever `queue`, which belongs to what the file holds, is woken.
    pub(crate) fn register(&self, queue: &'a WaitQueue) {
        // SAFETY: File and table are valid by the contract of `from_raw`. Pollers have a reference to
        // the file until they have left the queue; `'a` says that the queue is part of what the file
        // keeps alive until its release. (epoll is taken off before that.)
        unsafe { bindings::poll_wait(self.file.as_ptr(), queue.head.get(), self.table) }
    }
}

/// Waiting without sleeping, for what is about to happen.
///
/// Calls `happened` again and again until it says yes, the time is over, or the scheduler has
/// something better for the processor. Returns whether it happened.
pub(crate) fn spin(time: Delta, mut happened: impl FnMut() -> bool) -> bool {
    /// Looks between two looks at the clock, which costs as much as several of them.
    const LOOKS: u32 = 8;
    let start = Instant::<Monotonic>::now();
    loop {
        for _ in 0..LOOKS {
            if happened() {
                return true;
            }
            cpu_relax();
        }
        // SAFETY: No requirements.
        if unsafe { shim::vfetch_need_resched() } || start.elapsed() >= time {
            return happened();
        }
    }
}
