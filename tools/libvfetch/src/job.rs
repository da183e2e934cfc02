// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a function computes on a space.
//!
//! `include/uapi/linux/vfetch_job.h` says exactly what each kind computes. Offsets are bytes in the space, aligned to
//! the size of the elements; counts are elements.

use std::{os::fd::AsFd, time::Duration};

use rustix::io::Errno;

use crate::{sys, uapi, Error, Result, Space};

/// In which order the strands of a job compute its results. These do not depend on it, the accesses to memory do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// Strands work side by side on neighbours.
    #[default]
    Interleaved,
    /// Each has a contiguous part of its own.
    Blocked,
    /// In an order that the seed decides.
    Shuffled(u64),
}

/// Something that a function can compute.
pub trait Kernel {
    /// Its number in the header.
    const KIND: u32;

    /// Its arguments, in the header's order.
    fn arguments(&self) -> Vec<u64>;
}

/// A computation, and how it goes about it: [`Space::submit`] takes it. Made from a [`Kernel`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task(uapi::vfetch_job);

impl<K: Kernel> From<K> for Task {
    fn from(kernel: K) -> Self {
        let mut job = uapi::vfetch_job {
            kind: K::KIND,
            strands: 64,
            element_ps: 100,
            ..Default::default()
        };
        for (to, from) in job.argument.iter_mut().zip(kernel.arguments()) {
            *to = from;
        }
        Self(job)
    }
}

impl Task {
    /// In another order than the first of [`Order`].
    #[must_use]
    pub fn order(mut self, order: Order) -> Self {
        (self.0.order, self.0.seed) = match order {
            Order::Interleaved => (uapi::VFETCH_JOB_INTERLEAVED, 0),
            Order::Blocked => (uapi::VFETCH_JOB_BLOCKED, 0),
            Order::Shuffled(seed) => (uapi::VFETCH_JOB_SHUFFLED, seed),
        };
        self
    }

    /// By so many strands instead of 64: each waits for its own pages. A device takes up to a number of its own.
    #[must_use]
    pub fn strands(mut self, strands: u32) -> Self {
        self.0.strands = strands;
        self
    }

    /// With so many picoseconds for each element that a strand reads or writes, instead of 100; at most 10⁹.
    #[must_use]
    pub fn element_ps(mut self, ps: u32) -> Self {
        self.0.element_ps = ps;
        self
    }

    /// A task of any kind, as the header has it, also one that the driver refuses.
    #[must_use]
    pub fn of_kind(kind: u32, arguments: &[u64]) -> Self {
        let mut job = uapi::vfetch_job {
            kind,
            strands: 1,
            ..Default::default()
        };
        for (to, from) in job.argument.iter_mut().zip(arguments) {
            *to = *from;
        }
        Self(job)
    }

    pub(crate) fn raw(&self) -> uapi::vfetch_job {
        self.0
    }
}

/// A job that was submitted. It is kept by the driver until it is waited for, or the space's file closed.
#[must_use = "a job that is not waited for takes one of the space's 64 places"]
#[derive(Debug)]
pub struct Job<'s> {
    space: &'s Space,
    id: u64,
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// The job's value (see the header; 0 for kinds that have none), or why it did not come to its end.
    pub outcome: std::result::Result<u64, JobError>,
    /// When, by the device's clock ([`Stats::device_time_ns`](crate::Stats)).
    pub time_ns: u64,
}

/// Why a job did not come to its end. What it had written until then stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// An argument is wrong (`EINVAL`).
    #[error("an argument of the job is wrong")]
    Argument,
    /// It left the space (`ERANGE`).
    #[error("the job left its space at offset {offset}")]
    Range {
        /// Where.
        offset: u64,
    },
    /// It touched a lost page, or its queue was reset (`EIO`).
    #[error("the job touched a lost page, or its queue was reset")]
    Failed,
    /// There was no room for what it wrote (`ENOSPC`).
    #[error("there was no room for what the job wrote")]
    NoRoom,
    /// There was no kernel memory for a page that it touched (`ENOMEM`).
    #[error("there was no kernel memory for what the job touched")]
    NoMemory,
    /// [`Job::cancel`], or the end of the space (`ECANCELED`).
    #[error("the job was cancelled")]
    Cancelled,
    /// `ENODEV`.
    #[error("the device is gone")]
    Gone,
    /// Another reason, as an errno.
    #[error("the job ended with errno {0}")]
    Other(i32),
}

impl JobError {
    fn new(errno: Errno, value: u64) -> Self {
        match errno {
            Errno::INVAL => Self::Argument,
            Errno::RANGE => Self::Range { offset: value },
            Errno::IO => Self::Failed,
            Errno::NOSPC => Self::NoRoom,
            Errno::NOMEM => Self::NoMemory,
            Errno::CANCELED => Self::Cancelled,
            Errno::NODEV => Self::Gone,
            other => Self::Other(other.raw_os_error()),
        }
    }
}

impl<'s> Job<'s> {
    pub(crate) fn new(space: &'s Space, id: u64) -> Self {
        Self { space, id }
    }

    /// Its name among the jobs of the space.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Waits until it has ended, going on after signals, and forgets it.
    ///
    /// # Errors
    ///
    /// [`Error::Job`] when it did not come to its end; [`Error::Os`] with `ENOENT` when somebody else has waited for it.
    pub fn wait(self) -> Result<u64> {
        loop {
            match self.wait_for(None) {
                Ok(Some(end)) => {
                    return end.outcome.map_err(|why| Error::Job {
                        node: self.space.node(),
                        why,
                    })
                }
                Err(error) if error.errno() == Some(Errno::INTR) => {}
                Err(error) => return Err(error),
                Ok(None) => {}
            }
        }
    }

    /// Waits until it has ended, and forgets it then; or for so long: then there is `None`.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]: `EINTR` when a signal came first, `ENOENT` when it was waited for before.
    pub fn wait_for(&self, timeout: Option<Duration>) -> Result<Option<End>> {
        let timeout = timeout.map_or(-1, |t| i64::try_from(t.as_nanos()).unwrap_or(i64::MAX));
        match sys::wait(self.space.as_fd(), self.id, timeout) {
            Ok(wait) => {
                let outcome = match i32::try_from(wait.status) {
                    Ok(0) => Ok(wait.value),
                    Ok(errno) => Err(JobError::new(Errno::from_raw_os_error(errno), wait.value)),
                    Err(_) => Err(JobError::Other(i32::MAX)),
                };
                Ok(Some(End {
                    outcome,
                    time_ns: wait.time_ns,
                }))
            }
            Err(Errno::TIME) => Ok(None),
            Err(errno) => Err(self.space.failed("wait for a job", errno)),
        }
    }

    /// Ends it: when this returns it does nothing any more. It is still to be waited for.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]: `EIO` when the device does not end it, in which case its queue is being reset; `ENOENT` when it was waited for;
    /// [`Error::Gone`].
    pub fn cancel(&self) -> Result<()> {
        sys::cancel(self.space.as_fd(), self.id)
            .map_err(|errno| self.space.failed("cancel a job", errno))
    }
}

/// The word that [`Stamp`] writes and [`StampCheck`] expects.
#[must_use]
pub const fn stamped(word: u64, generation: u64) -> u64 {
    (generation << 40) | (word & 0xff_ffff_ffff)
}

/// Declares a kernel: its fields are its arguments, in order.
macro_rules! kernel {
    ($(#[$doc:meta])* $name:ident = $kind:ident { $($(#[$field_doc:meta])* $field:ident: $type:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl Kernel for $name {
            const KIND: u32 = uapi::$kind;

            fn arguments(&self) -> Vec<u64> {
                vec![$(kernel!(@bits self.$field, $type)),*]
            }
        }
    };
    (@bits $value:expr, u64) => { $value };
    (@bits $value:expr, f64) => { $value.to_bits() };
}

kernel! {
    /// `a[i] = b[i] + scale * c[i]`, doubles.
    Triad = VFETCH_JOB_TRIAD {
        /// Offset of the result.
        a: u64,
        /// Offset.
        b: u64,
        /// Offset.
        c: u64,
        /// Elements.
        n: u64,
        /// The factor.
        scale: f64,
    }
}

kernel! {
    /// A 7-point stencil over `nz * ny * nx` doubles, so many times; the two grids change places each time.
    Stencil = VFETCH_JOB_STENCIL {
        /// Offset of the grid before the first step.
        input: u64,
        /// Offset of the grid after it.
        output: u64,
        /// Cells in x, which are neighbours in memory.
        nx: u64,
        /// Cells in y.
        ny: u64,
        /// Cells in z.
        nz: u64,
        /// How often.
        steps: u64,
        /// Weight of the cell.
        centre: f64,
        /// Weight of the sum of its neighbours.
        around: f64,
    }
}

kernel! {
    /// `c[m][n] = a[m][k] * b[k][n]`, doubles.
    Gemm = VFETCH_JOB_GEMM {
        /// Offset.
        a: u64,
        /// Offset.
        b: u64,
        /// Offset of the result.
        c: u64,
        /// Rows of the result.
        m: u64,
        /// Columns of the result.
        n: u64,
        /// Products in each sum.
        k: u64,
        /// The result is computed in tiles of `tile * tile`; 1 to 512.
        tile: u64,
    }
}

kernel! {
    /// A convolution of `channels_in` images of `h * w` doubles to `channels_out`.
    Conv2d = VFETCH_JOB_CONV2D {
        /// Offset of the images.
        input: u64,
        /// Offset of the weights, `[channels_out][channels_in][k][k]`.
        weights: u64,
        /// Offset of the result, `[channels_out][h - k + 1][w - k + 1]`.
        output: u64,
        /// Images.
        channels_in: u64,
        /// Images of the result.
        channels_out: u64,
        /// Height.
        h: u64,
        /// Width.
        w: u64,
        /// Side of the window.
        k: u64,
    }
}

kernel! {
    /// `y = A * x`, with A in compressed rows.
    Spmv = VFETCH_JOB_SPMV {
        /// Offset of `u64 row[n + 1]`.
        row: u64,
        /// Offset of `u32 col[]`.
        col: u64,
        /// Offset of `f64 val[]`.
        val: u64,
        /// Offset of `f64 x[columns]`.
        x: u64,
        /// Offset of the result, `f64 y[n]`.
        y: u64,
        /// Rows.
        n: u64,
        /// Columns.
        columns: u64,
    }
}

kernel! {
    /// How many edges every vertex is from `source`; the job's value is how many are reached.
    Bfs = VFETCH_JOB_BFS {
        /// Offset of `u64 row[n + 1]`.
        row: u64,
        /// Offset of `u32 col[]`.
        col: u64,
        /// Offset of the result, `u32 level[n]`.
        level: u64,
        /// Vertices.
        n: u64,
        /// Where it begins.
        source: u64,
    }
}

kernel! {
    /// PageRank, so many iterations; the two arrays of ranks change places each time.
    Pagerank = VFETCH_JOB_PAGERANK {
        /// Offset of `u64 row[n + 1]`, of incoming edges.
        row: u64,
        /// Offset of `u32 col[]`.
        col: u64,
        /// Offset of `u32 degree[n]`, of outgoing edges.
        degree: u64,
        /// Offset of `f64 from[n]`.
        from: u64,
        /// Offset of `f64 to[n]`.
        to: u64,
        /// Vertices.
        n: u64,
        /// How often.
        iterations: u64,
        /// The damping.
        damping: f64,
    }
}

kernel! {
    /// `out[i] = in[index[i]]`, doubles.
    Gather = VFETCH_JOB_GATHER {
        /// Offset of `f64 in[m]`.
        input: u64,
        /// Offset of `u32 index[n]`.
        index: u64,
        /// Offset of the result, `f64 out[n]`.
        output: u64,
        /// Elements that are gathered.
        n: u64,
        /// Elements that there are.
        m: u64,
    }
}

kernel! {
    /// `out[index[i]] = in[i]`, doubles; no index comes twice.
    Scatter = VFETCH_JOB_SCATTER {
        /// Offset of `f64 in[n]`.
        input: u64,
        /// Offset of `u32 index[n]`.
        index: u64,
        /// Offset of the result, `f64 out[m]`.
        output: u64,
        /// Elements that are scattered.
        n: u64,
        /// Elements of the result.
        m: u64,
    }
}

kernel! {
    /// The job's value is the sum of words, modulo 2⁶⁴.
    Reduce = VFETCH_JOB_REDUCE {
        /// Offset of `u64 in[n]`.
        input: u64,
        /// Words.
        n: u64,
    }
}

kernel! {
    /// Word i becomes [`stamped`]`(first + i, generation)`.
    Stamp = VFETCH_JOB_STAMP {
        /// Offset of `u64 out[n]`.
        output: u64,
        /// Words.
        n: u64,
        /// The first one's place.
        first: u64,
        /// The generation.
        generation: u64,
    }
}

kernel! {
    /// The job's value is how many words are not stamped by a generation from `lowest` to `highest`. With `lowest` 0 a word may also be 0.
    StampCheck = VFETCH_JOB_CHECK {
        /// Offset of `u64 in[n]`.
        input: u64,
        /// Words.
        n: u64,
        /// The first one's place.
        first: u64,
        /// The lowest generation.
        lowest: u64,
        /// The highest generation.
        highest: u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_becomes_the_headers_arguments() {
        let task = Task::from(Stencil {
            input: 8,
            output: 16,
            nx: 3,
            ny: 4,
            nz: 5,
            steps: 6,
            centre: 0.5,
            around: -1.0,
        })
        .order(Order::Shuffled(9))
        .strands(7)
        .element_ps(12);
        let raw = task.raw();
        assert_eq!((raw.kind, raw.order, raw.seed), (2, 2, 9));
        assert_eq!((raw.strands, raw.element_ps), (7, 12));
        assert_eq!((raw.flags, raw.reserved), (0, 0));
        let bits = [0.5f64.to_bits(), (-1.0f64).to_bits()];
        assert_eq!(
            raw.argument,
            [8, 16, 3, 4, 5, 6, bits[0], bits[1], 0, 0, 0, 0]
        );
    }

    #[test]
    fn the_order_can_be_taken_back() {
        let reduce = Reduce { input: 0, n: 1 };
        let task = Task::from(reduce).order(Order::Shuffled(3));
        assert_eq!(task.order(Order::Interleaved), reduce.into());
    }

    #[test]
    fn a_stamp_keeps_place_and_generation_apart() {
        assert_eq!(stamped((1 << 40) | 5, 3), (3 << 40) | 5);
    }

    #[test]
    fn an_end_with_erange_says_where() {
        assert_eq!(
            JobError::new(Errno::RANGE, 77),
            JobError::Range { offset: 77 }
        );
        assert_eq!(JobError::new(Errno::CANCELED, 0), JobError::Cancelled);
    }
}
