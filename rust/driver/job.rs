// SPDX-License-Identifier: GPL-2.0

//! Computations of a function on a space.

use kernel::prelude::*;
use kernel::sync::atomic::{Acquire, Atomic, Full, Release};
use kernel::sync::{Arc, Mutex};
use kernel::time::Msecs;

use super::function::Function;
use super::queue::{Failure, JobOutcome, Notice};
use super::space::Space;
use crate::sys::abi as hw;
use crate::sys::eventfd::EventFd;
use crate::sys::time::now_ns;
use crate::sys::wait::{Signals, Waited};

/// Jobs of one space that were not waited for yet, at most.
const MOST: usize = 64;

/// A job that the device was given.
pub(crate) struct Job {
    /// What user space calls it.
    pub(crate) id: u64,
    /// What the device calls it.
    transaction: Atomic<u64>,
    outcome: Arc<JobOutcome>,
    /// When it was first cancelled, by the engine's clock; 0: it was not.
    cancelled_ns: Atomic<u64>,
    /// Why it was cancelled by the driver: an errno, or 0, and where.
    error: Atomic<i32>,
    at: Atomic<u64>,
}

/// Jobs of a space that were not waited for yet.
#[derive(Default)]
pub(crate) struct Jobs {
    all: KVec<Arc<Job>>,
    next: u64,
}

/// How a job ended.
pub(crate) struct JobEnd {
    /// An errno, or 0.
    pub(crate) status: u32,
    /// What it computed, if that is a number; or where it left its space.
    pub(crate) value: u64,
    /// When, by the device's clock.
    pub(crate) time_ns: u64,
}

impl Job {
    /// The name by which the device knows it.
    pub(crate) fn transaction(&self) -> u64 {
        self.transaction.load(Acquire)
    }

    /// The driver is about to cancel it, because of `error` at byte `at` of the space.
    fn fail(&self, error: Error, at: u64) {
        // The first reason is the one that is told.
        if self.error.cmpxchg(0, error.to_errno(), Full).is_ok() {
            self.at.store(at, Release);
        }
    }

    /// Whether it has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.outcome.is_over()
    }

    /// Has the device end it. The queue of jobs is reset when the device does not.
    fn cancel(&self, function: &Function) -> Result {
        let _ = self.cancelled_ns.cmpxchg(0, now_ns().max(1), Full);
        function.cancel(self.transaction())
    }

    /// Whether it was to end more than `time` ago, and its completion has not come: it is lost, or will never be written.
    fn is_stuck(&self, time: Msecs) -> bool {
        let since = self.cancelled_ns.load(Acquire);
        let waited = now_ns().saturating_sub(since);
        since != 0 && !self.is_over() && waited > u64::from(time) * 1_000_000
    }

    fn end(&self) -> JobEnd {
        let Some(end) = self.outcome.end() else {
            return JobEnd {
                status: EIO.to_errno().unsigned_abs(),
                value: 0,
                time_ns: 0,
            };
        };
        let mut value = end.value;
        let error = match end.outcome {
            Ok(()) => 0,
            // CAST: the constants are small.
            Err(Failure::Status(status)) => match u32::from(status) {
                hw::VFETCH_STATUS_CANCELLED => match self.error.load(Acquire) {
                    0 => ECANCELED.to_errno(),
                    error => {
                        value = self.at.load(Acquire);
                        error
                    }
                },
                hw::VFETCH_STATUS_SPACE_RANGE => ERANGE.to_errno(),
                hw::VFETCH_STATUS_JOB => EINVAL.to_errno(),
                _ => EIO.to_errno(),
            },
            Err(failure) => Error::from(failure).to_errno(),
        };
        JobEnd {
            status: error.unsigned_abs(),
            value,
            time_ns: end.time_ns,
        }
    }
}

impl Function {
    /// If a job's completion does not come although it was cancelled, resets the queue of jobs: that ends all of them.
    fn help_job(&self, job: &Job) {
        if let Some(compute) = &self.compute {
            if job.is_stuck(self.timeout_ms()) {
                // Another time-out later it is done again.
                job.cancelled_ns.store(now_ns().max(1), Release);
                self.stats.timeouts.count();
                compute.call_for_help();
            }
        }
    }
}

/// Checks what the device need not be asked. EINVAL.
fn check(job: &hw::vfetch_job, most_strands: u32) -> Result {
    let sane = (1..=hw::VFETCH_JOB_KINDS).contains(&job.kind)
        && job.flags == 0
        && job.order <= hw::VFETCH_JOB_SHUFFLED
        && (1..=most_strands).contains(&job.strands)
        && job.element_ps <= 1_000_000_000
        && job.reserved == 0;
    if sane {
        Ok(())
    } else {
        Err(EINVAL)
    }
}

impl Space {
    fn jobs(&self) -> &Mutex<Jobs> {
        &self.jobs
    }

    /// Gives the device a job, and returns its name. `event` is signalled when it has ended.
    ///
    /// EINVAL a bad job; EAGAIN too many that were not waited for; EINTR; ENODEV; EOPNOTSUPP the device cannot compute; ENOMEM, ENOSPC.
    pub(crate) fn submit(
        self: &Arc<Self>,
        job: &hw::vfetch_job,
        event: Option<EventFd>,
        nonblocking: bool,
    ) -> Result<u64> {
        let device = self.function.enter()?;
        let compute = self.function.compute.as_ref().ok_or(EOPNOTSUPP)?;
        check(job, self.function.description.job_strands)?;
        let asid = self.attach(&device)?;
        let outcome = JobOutcome::new()?;
        let notice = Notice {
            outcome: outcome.clone(),
            events: self.events.clone(),
            eventfd: event,
        };
        let id = {
            let mut jobs = self.jobs().lock();
            jobs.next += 1;
            jobs.next
        };
        let job_of = Arc::new(
            Job {
                id,
                transaction: Atomic::new(0),
                outcome,
                cancelled_ns: Atomic::new(0),
                error: Atomic::new(0),
                at: Atomic::new(0),
            },
            GFP_KERNEL,
        )?;
        {
            // Before the device has it: a fault of the job looks for it.
            let mut jobs = self.jobs().lock();
            if jobs.all.len() >= MOST {
                return Err(EAGAIN);
            }
            jobs.all.push(job_of.clone(), GFP_KERNEL)?;
        }
        let submitted = compute.submit_job(asid.raw(), job, notice, nonblocking, |transaction| {
            job_of.transaction.store(transaction, Release);
        });
        if let Err(error) = submitted {
            self.jobs().lock().all.retain(|other| other.id != id);
            return Err(error);
        }
        self.function.upkeep.soon();
        Ok(id)
    }

    fn job(&self, id: u64) -> Result<Arc<Job>> {
        let jobs = self.jobs().lock();
        let found = jobs.all.iter().find(|job| job.id == id);
        found.cloned().ok_or(ENOENT)
    }

    /// The job that the device calls `transaction`.
    pub(crate) fn job_of(&self, transaction: u64) -> Option<Arc<Job>> {
        let jobs = self.jobs().lock();
        let found = jobs.all.iter().find(|job| job.transaction() == transaction);
        found.cloned()
    }

    /// Waits until a job has ended, and forgets it. `time`: for at most so long.
    ///
    /// ENOENT no such job; ETIME it has not ended; EINTR.
    pub(crate) fn wait_job(&self, id: u64, time: Option<Msecs>) -> Result<JobEnd> {
        let job = self.job(id)?;
        match job.outcome.wait(Signals::Any, time) {
            Waited::Done => {}
            Waited::TimedOut => return Err(ETIME),
            Waited::Signal => return Err(ERESTARTSYS),
        }
        let end = job.end();
        let mut jobs = self.jobs().lock();
        // Of several who wait all hear it.
        jobs.all.retain(|other| other.id != id);
        Ok(end)
    }

    /// Ends a job.
    pub(crate) fn cancel_job(&self, id: u64) -> Result {
        let _device = self.function.enter()?;
        let job = self.job(id)?;
        job.cancel(&self.function)
    }

    /// Ends the job that the device calls `transaction`, because of `error` at byte `at`, which is what its end says.
    pub(crate) fn fail_job(&self, transaction: u64, error: Error, at: u64) {
        // One that has ended already need not be. Who takes a job off the list sees to its end.
        if let Some(job) = self.job_of(transaction) {
            job.fail(error, at);
            let _ = job.cancel(&self.function);
        } else {
            let _ = self.function.cancel(transaction);
        }
    }

    /// Ends a job, and forgets it.
    pub(crate) fn take_back_job(&self, id: u64) {
        if let Ok(job) = self.job(id) {
            self.end_job(&job);
            self.jobs().lock().all.retain(|other| other.id != id);
        }
    }

    /// Ends all jobs, for good: when this returns none of them uses the space.
    pub(crate) fn end_jobs(&self) {
        loop {
            let Some(job) = self.jobs().lock().all.pop() else {
                return;
            };
            // One that the device has not got yet never will: whoever hands it in holds the file open.
            self.end_job(&job);
        }
    }

    /// Ends all jobs that the device has, because of `error` at byte `at`. They can be waited for.
    pub(crate) fn fail_jobs(&self, error: Error, at: u64) {
        let running = |job: &&Arc<Job>| job.transaction() != 0 && !job.is_over();
        loop {
            let next = self.jobs().lock().all.iter().find(running).cloned();
            let Some(job) = next else {
                return;
            };
            job.fail(error, at);
            self.end_job(&job);
        }
    }

    /// Ends a job, if the device has it.
    fn end_job(&self, job: &Job) {
        while !job.is_over() && job.transaction() != 0 {
            // Where the device does not do it a reset of the queue does, and that ends the wait.
            let _ = job.cancel(&self.function);
            job.outcome.wait(Signals::None, Some(100));
            self.function.help_job(job);
        }
    }

    /// Sees to those of its jobs whose completion does not come although they were cancelled.
    pub(crate) fn help_jobs(&self) {
        let time = self.function.timeout_ms();
        let stuck = {
            let jobs = self.jobs().lock();
            jobs.all.iter().find(|job| job.is_stuck(time)).cloned()
        };
        if let Some(job) = stuck {
            self.function.help_job(&job);
        }
    }

    /// Whether a job has ended that was not waited for.
    pub(crate) fn has_ended_job(&self) -> bool {
        self.jobs().lock().all.iter().any(|job| job.is_over())
    }
}
