// SPDX-License-Identifier: GPL-2.0 OR MIT

//! An open file of a function, and its memory.

use std::{
    fs::{self, File},
    io,
    ops::Range,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
        unix::fs::FileExt,
    },
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fs::{Mode, OFlags},
    io::Errno,
    process::{getpid, pidfd_getfd, pidfd_open, Pid, PidfdFlags, PidfdGetfdFlags},
};

use crate::{
    sys, uapi, Access, Error, Function, Info, Job, Mapping, Result, Stats, Task, ABI_VERSION,
    PAGE_BYTES,
};

/// Memory of one's own on a function: lives as long as the file that reaches it.
///
/// Threads may share a space (`&Space` does everything); forked children
/// share it too. Every transfer is a DMA of the device to or from the buffer.
///
/// It is a file, too: [`io::Read`], [`io::Write`] and [`io::Seek`] work at the
/// file's position, and [`AsFd`] gives it to whatever takes files.
///
/// ```no_run
/// use std::io::{self, Seek, Write};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let function = libvfetch::Host::system().find(&"0".parse()?)?;
/// let mut model = std::fs::File::open("model.bin")?;
/// let mut space = libvfetch::Space::open(&function)?;
/// space.set_size(model.metadata()?.len().next_multiple_of(libvfetch::PAGE_BYTES))?;
/// io::copy(&mut model, &mut space)?;
/// space.rewind()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Space {
    file: File,
    node: u32,
}

/// How to open a space; [`Space::open`] takes the defaults.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    nonblocking: bool,
}

impl Options {
    /// Waits where needed.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With `true`, reads and writes fail with [`Error::WouldBlock`] rather than waiting for
    /// a free slot of the device's queue or for a recovery; [`Space::wait`] waits for those.
    #[must_use]
    pub fn nonblocking(mut self, yes: bool) -> Self {
        self.nonblocking = yes;
        self
    }

    /// Makes a space of 0 bytes.
    ///
    /// # Errors
    ///
    /// [`Error::PermissionDenied`], [`Error::Gone`], [`Error::NotVfetch`],
    /// [`Error::AbiVersion`], or [`Error::Os`].
    pub fn open(self, function: &Function) -> Result<Space> {
        let mut flags = OFlags::RDWR | OFlags::CLOEXEC;
        flags.set(OFlags::NONBLOCK, self.nonblocking);
        let path = &function.path;
        let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::ACCESS | Errno::PERM => Error::PermissionDenied(path.clone()),
            Errno::NOENT | Errno::NODEV | Errno::NXIO => Error::Gone {
                node: function.node,
            },
            _ => Error::Os {
                what: format!("cannot open {}", path.display()),
                errno,
            },
        })?;
        Space::from_file(file.into(), &path.display().to_string())
    }
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// A read would not wait for a recovery.
    Readable,
    /// A write would find a slot in the device's queue.
    Writable,
    /// A job has ended that was not waited for.
    Ended,
}

/// How a space was found by [`Space::wait`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Readiness {
    /// A read would not wait for a recovery.
    pub readable: bool,
    /// The same, and the device's queue has a free slot.
    pub writable: bool,
    /// A job has ended that was not waited for.
    pub ended: bool,
    /// The space has lost pages.
    pub lost: bool,
    /// The device is gone.
    pub gone: bool,
}

impl Space {
    /// Makes a space of 0 bytes on a function.
    ///
    /// # Errors
    ///
    /// As [`Options::open`].
    pub fn open(function: &Function) -> Result<Self> {
        Options::new().open(function)
    }

    /// Takes over an open file of a node; `name` is what errors call it.
    ///
    /// # Errors
    ///
    /// [`Error::NotVfetch`] when it is a file of another kind, [`Error::AbiVersion`].
    pub fn from_file(file: File, name: &str) -> Result<Self> {
        let info = sys::get_info(file.as_fd()).map_err(|errno| match errno {
            Errno::NOTTY | Errno::INVAL | Errno::OPNOTSUPP => Error::NotVfetch {
                what: name.to_owned(),
            },
            _ => Error::Os {
                what: format!("cannot ask {name} what it is"),
                errno,
            },
        })?;
        if info.abi_version != ABI_VERSION {
            return Err(Error::AbiVersion {
                driver: info.abi_version,
            });
        }
        Ok(Self {
            file,
            node: info.node,
        })
    }

    /// The space of a file that this process has open under the number `fd`, as a
    /// shell hands it on with `exec 3<>/dev/vfetch0`. The number stays open.
    ///
    /// # Errors
    ///
    /// [`Error::Os`] with `EBADF` when nothing is open there; as [`Space::from_file`].
    pub fn inherited(fd: RawFd) -> Result<Self> {
        Self::of(getpid(), fd, &format!("file descriptor {fd}"))
    }

    /// The space of a file that another process has open under the number `fd`, for as long as either holds it. Takes the right to
    /// trace that process.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]: `ESRCH` no such process, `EBADF` nothing is open there, `EPERM`; as [`Space::from_file`].
    pub fn of_process(pid: i32, fd: RawFd) -> Result<Self> {
        let what = format!("file descriptor {fd} of process {pid}");
        match Pid::from_raw(pid) {
            Some(pid) => Self::of(pid, fd, &what),
            None => Err(Error::Os {
                what,
                errno: Errno::SRCH,
            }),
        }
    }

    /// The only space that process `pid` has open.
    ///
    /// # Errors
    ///
    /// [`Error::Spaces`] when it has none or several; [`Error::Os`] when its files cannot be listed; as [`Space::of_process`].
    pub fn only_of_process(pid: i32) -> Result<Self> {
        match numbers_of_process(pid)?.as_slice() {
            [fd] => Self::of_process(pid, *fd),
            fds => Err(Error::Spaces {
                pid,
                fds: fds.to_vec(),
            }),
        }
    }

    fn of(pid: Pid, fd: RawFd, what: &str) -> Result<Self> {
        // A duplicate that the kernel makes by number: no borrowing of a number
        // that may not be ours.
        let file = pidfd_open(pid, PidfdFlags::empty())
            .and_then(|process| pidfd_getfd(process, fd, PidfdGetfdFlags::empty()))
            .map_err(|errno| Error::Os {
                what: what.to_owned(),
                errno,
            })?;
        Self::from_file(file.into(), what)
    }

    /// N of `/dev/vfetchN`.
    #[must_use]
    pub fn node(&self) -> u32 {
        self.node
    }

    /// Gives the space this many bytes, a multiple of [`PAGE_BYTES`]. Growing adds
    /// zeros, shrinking discards what is beyond the new end. Memory is taken as pages are used, so that the
    /// space may be larger than the function's memory; with [`Space::reserve`] it is taken at once.
    ///
    /// # Errors
    ///
    /// [`Error::Unaligned`]; [`Error::TooLarge`]; [`Error::OtherSize`] when the space got its size by [`Space::reserve`] or
    /// [`Space::make_flat`]; [`Error::Gone`]. The size is then what it was.
    pub fn set_size(&self, bytes: u64) -> Result<()> {
        self.resize(bytes, 0)
    }

    /// As [`Space::set_size`], but takes the function's memory for every page at once, so that no page of the space ever
    /// lacks it. A space is given all of its sizes, from the first to the next 0, in one way or the other.
    ///
    /// # Errors
    ///
    /// [`Error::Unaligned`]; [`Error::NoRoom`]; [`Error::TooLarge`]; [`Error::OtherSize`] when the space has a size by
    /// [`Space::set_size`]; [`Error::Gone`]. The size is then what it was.
    pub fn reserve(&self, bytes: u64) -> Result<()> {
        self.resize(bytes, uapi::VFETCH_SIZE_RESERVE)
    }

    /// Makes a space without a size *flat*: all of it is in one piece of the function's memory from now on, which the device needs no page table for,
    /// and never moves. Jobs, reads and writes use it as any space; mappings of it, advice and [`Space::discard`] do not work. It ends with
    /// the size 0.
    ///
    /// # Errors
    ///
    /// As [`Space::reserve`]; [`Error::NoRoom`] also when there is no room in one piece.
    pub fn make_flat(&self, bytes: u64) -> Result<()> {
        self.resize(bytes, uapi::VFETCH_SIZE_FLAT)
    }

    fn resize(&self, bytes: u64, flags: u32) -> Result<()> {
        aligned(bytes)?;
        sys::set_size(self.as_fd(), bytes, flags).map_err(|errno| match (errno, self.info()) {
            (Errno::FBIG, _) => Error::TooLarge {
                node: self.node,
                wanted: bytes,
            },
            (Errno::INVAL, _) => Error::OtherSize { node: self.node },
            (Errno::NOSPC, Ok(info)) => Error::NoRoom {
                node: self.node,
                wanted: bytes,
                free: info.free_bytes.saturating_add(info.space_bytes),
                memory: info.memory_bytes,
            },
            _ => self.failed("set the size of its space", errno),
        })
    }

    /// The pages of `range` read as zeros again, lost ones too. Both ends are multiples of [`PAGE_BYTES`].
    ///
    /// # Errors
    ///
    /// [`Error::Unaligned`]; [`Error::BeyondEnd`]; [`Error::Gone`].
    pub fn discard(&self, range: Range<u64>) -> Result<()> {
        aligned(range.start)?;
        aligned(range.end)?;
        let bytes = range.end.saturating_sub(range.start);
        sys::discard(self.as_fd(), range.start, bytes).map_err(|errno| match errno {
            Errno::RANGE => self.beyond_end(range.end),
            _ => self.failed("discard pages", errno),
        })
    }

    /// Maps all of the space. See [`Mapping`] for what that means.
    ///
    /// # Errors
    ///
    /// [`Error::Os`].
    pub fn map(&self) -> Result<Mapping> {
        self.map_part(0..self.info()?.space_bytes, Access::ReadWrite)
    }

    /// Maps a part of the space, which may lie beyond its end: what is there can be used once the space is large enough.
    /// The ends are multiples of [`PAGE_BYTES`].
    ///
    /// # Errors
    ///
    /// [`Error::Unaligned`]; [`Error::Os`] (with `EACCES` for [`Access::ReadWrite`] of a file that is open for reading only,
    /// `EINVAL` for an empty part).
    pub fn map_part(&self, part: Range<u64>, access: Access) -> Result<Mapping> {
        aligned(part.start)?;
        aligned(part.end)?;
        Mapping::of(self.as_fd(), part, access).map_err(|errno| self.failed("be mapped", errno))
    }

    /// Gives the function a job to do on this space. It runs beside other jobs, and beside whatever the host does
    /// with the space meanwhile; when [`Job::wait`] has returned everything that it wrote is visible.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let function = libvfetch::Host::system().find(&"0".parse()?)?;
    /// # let space = libvfetch::Space::open(&function)?;
    /// space.set_size(3 << 20)?;
    /// let memory = space.map()?;
    /// for i in 0..1000 {
    ///     memory.set_f64((1 << 20) + 8 * i, i as f64);
    ///     memory.set_f64((2 << 20) + 8 * i, 1.0);
    /// }
    /// let triad = libvfetch::Triad { a: 0, b: 1 << 20, c: 2 << 20, n: 1000, scale: 0.5 };
    /// space.submit(&triad.into())?.wait()?;
    /// assert_eq!(memory.f64(8 * 7), 7.5);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Os`]: `EINVAL` for a task that cannot be, `EAGAIN` when 64 jobs of the space were not waited for,
    /// `ENOSPC` when too many spaces have jobs, `EOPNOTSUPP` when the function computes nothing, `EINTR`;
    /// [`Error::WouldBlock`] for `EAGAIN`; [`Error::Gone`].
    pub fn submit(&self, task: &Task) -> Result<Job<'_>> {
        self.submit_with(task, None)
    }

    /// As [`Space::submit`]; the eventfd `event` is signalled when the job has ended.
    ///
    /// # Errors
    ///
    /// As [`Space::submit`]; `EINVAL` when `event` is no eventfd.
    pub fn submit_with_event(&self, task: &Task, event: BorrowedFd<'_>) -> Result<Job<'_>> {
        self.submit_with(task, Some(event))
    }

    fn submit_with(&self, task: &Task, event: Option<BorrowedFd<'_>>) -> Result<Job<'_>> {
        let mut submit = uapi::vfetch_submit {
            flags: event.map_or(0, |_| uapi::VFETCH_SUBMIT_EVENTFD),
            eventfd: event.map_or(0, |event| event.as_raw_fd()),
            job: task.raw(),
            ..Default::default()
        };
        let id = sys::submit(self.as_fd(), &mut submit).map_err(|errno| match errno {
            Errno::AGAIN => Error::WouldBlock { node: self.node },
            _ => self.failed("be given a job", errno),
        })?;
        Ok(Job::new(self, id))
    }

    /// What the function is, and the size of this space. Answers after the device is gone, too.
    ///
    /// # Errors
    ///
    /// [`Error::Os`].
    pub fn info(&self) -> Result<Info> {
        sys::get_info(self.as_fd()).map_err(|errno| self.failed("say what it is", errno))
    }

    /// What the function has done since it was bound. Answers after the device is gone, too.
    ///
    /// # Errors
    ///
    /// [`Error::Os`].
    pub fn stats(&self) -> Result<Stats> {
        sys::get_stats(self.as_fd()).map_err(|errno| self.failed("give its counters", errno))
    }

    /// Reads at `offset`, any alignment. Returns how many bytes came: fewer across the end, 0 at or beyond it.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`], [`Error::TransferFailed`], [`Error::Gone`], [`Error::WouldBlock`],
    /// [`Error::Os`] (with `EINTR` when a signal came first).
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.file
            .read_at(buffer, offset)
            .map_err(|error| self.io_failed(&error, offset))
    }

    /// Writes at `offset`, any alignment. Returns how many bytes went: fewer across the end.
    ///
    /// # Errors
    ///
    /// As [`Space::read_at`]; [`Error::BeyondEnd`] at or beyond the end.
    pub fn write_at(&self, buffer: &[u8], offset: u64) -> Result<usize> {
        self.file
            .write_at(buffer, offset)
            .map_err(|error| self.io_failed(&error, offset))
    }

    /// Reads all of `buffer`, going on after signals.
    ///
    /// # Errors
    ///
    /// As [`Space::read_at`]; [`Error::BeyondEnd`] when the space ends before the buffer is full. How much
    /// of the buffer was read before is not known then: who opened the space as
    /// [`Options::nonblocking`] uses [`Space::read_at`].
    pub fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> Result<()> {
        while !buffer.is_empty() {
            match self.read_at(buffer, offset) {
                Ok(0) => return Err(self.beyond_end(offset)),
                Ok(n) => {
                    buffer = buffer.get_mut(n..).unwrap_or_default();
                    offset += n as u64;
                }
                Err(error) if error.errno() == Some(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes all of `buffer`, going on after signals.
    ///
    /// # Errors
    ///
    /// As [`Space::write_at`]. What came before the error is written, how much is not known: who opened
    /// the space as [`Options::nonblocking`] uses [`Space::write_at`].
    pub fn write_all_at(&self, mut buffer: &[u8], mut offset: u64) -> Result<()> {
        while !buffer.is_empty() {
            match self.write_at(buffer, offset) {
                Ok(0) => return Err(self.beyond_end(offset)),
                Ok(n) => {
                    buffer = buffer.get(n..).unwrap_or_default();
                    offset += n as u64;
                }
                Err(error) if error.errno() == Some(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until the space is ready for `interest`, has lost pages or is gone, or until
    /// the time-out. `None` waits for ever; nothing is set in the answer after a time-out.
    ///
    /// ```no_run
    /// use libvfetch::{Error, Interest, Options};
    /// # fn main() -> libvfetch::Result<()> {
    /// # let function = libvfetch::Host::system().find(&"0".parse()?)?;
    /// let space = Options::new().nonblocking(true).open(&function)?;
    /// space.set_size(1 << 20)?;
    /// let written = loop {
    ///     match space.write_at(b"data", 0) {
    ///         Err(Error::WouldBlock { .. }) => space.wait(Interest::Writable, None)?,
    ///         other => break other?,
    ///     };
    /// };
    /// # let _ = written;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Os`].
    pub fn wait(&self, interest: Interest, timeout: Option<Duration>) -> Result<Readiness> {
        let flags = match interest {
            Interest::Readable => PollFlags::IN,
            Interest::Writable => PollFlags::OUT,
            Interest::Ended => PollFlags::PRI,
        };
        let timeout = timeout.map(|t| {
            Timespec::try_from(t).unwrap_or(Timespec {
                tv_sec: i64::MAX,
                tv_nsec: 0,
            })
        });
        let mut fds = [PollFd::new(&self.file, flags)];
        rustix::event::poll(&mut fds, timeout.as_ref())
            .map_err(|errno| self.failed("be waited for", errno))?;
        let found = fds[0].revents();
        Ok(Readiness {
            readable: found.contains(PollFlags::IN),
            writable: found.contains(PollFlags::OUT),
            ended: found.contains(PollFlags::PRI),
            lost: found.contains(PollFlags::ERR) && !found.contains(PollFlags::HUP),
            gone: found.contains(PollFlags::HUP),
        })
    }

    pub(crate) fn beyond_end(&self, offset: u64) -> Error {
        let size = self.info().map_or(0, |info| info.space_bytes);
        Error::BeyondEnd {
            node: self.node,
            offset,
            size,
        }
    }

    pub(crate) fn failed(&self, what: &str, errno: Errno) -> Error {
        let node = self.node;
        match errno {
            Errno::NODEV => Error::Gone { node },
            _ => Error::Os {
                what: format!("vfetch{node} cannot {what}"),
                errno,
            },
        }
    }

    /// What an error of read or write means; see the uapi header.
    fn io_failed(&self, error: &io::Error, offset: u64) -> Error {
        let node = self.node;
        let errno = Errno::from_io_error(error).unwrap_or(Errno::IO);
        match errno {
            Errno::IO => match self.info() {
                Ok(info) if info.space_lost_pages > 0 => Error::Lost {
                    node,
                    offset,
                    pages: info.space_lost_pages,
                },
                _ => Error::TransferFailed { node, offset },
            },
            Errno::NOSPC => self.beyond_end(offset),
            Errno::AGAIN => Error::WouldBlock { node },
            _ => self.failed("move data", errno),
        }
    }
}

/// Under which numbers process `pid` has nodes open, in order.
fn numbers_of_process(pid: i32) -> Result<Vec<RawFd>> {
    let folder = format!("/proc/{pid}/fd");
    let entries = fs::read_dir(&folder).map_err(|error| Error::Os {
        what: format!("cannot list {folder}"),
        errno: Errno::from_io_error(&error).unwrap_or(Errno::IO),
    })?;
    let mut numbers: Vec<RawFd> = entries
        .flatten()
        .filter(|entry| {
            // One that is closed meanwhile is not there.
            let to = fs::read_link(entry.path()).unwrap_or_default();
            to.to_string_lossy().starts_with("/dev/vfetch")
        })
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn aligned(value: u64) -> Result<()> {
    if value % PAGE_BYTES == 0 {
        Ok(())
    } else {
        Err(Error::Unaligned { value })
    }
}

impl AsFd for Space {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Reads at the file's position, which forked children and duplicates share.
impl io::Read for &Space {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }
}

/// Writes at the file's position. There is nothing to flush: a write that has returned is visible.
impl io::Write for &Space {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        (&self.file).write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `SeekFrom::End` counts from the space's size.
impl io::Seek for &Space {
    fn seek(&mut self, position: io::SeekFrom) -> io::Result<u64> {
        (&self.file).seek(position)
    }
}

impl io::Read for Space {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }
}

impl io::Write for Space {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        (&*self).write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl io::Seek for Space {
    fn seek(&mut self, position: io::SeekFrom) -> io::Result<u64> {
        (&*self).seek(position)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::{Function, Role};

    /// A space whose file is an ordinary one: its reads and writes work, its ioctls do not.
    fn on_ordinary_file(contents: &[u8]) -> Space {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(contents, 0).unwrap();
        Space { file, node: 4 }
    }

    fn function(path: &str) -> Function {
        Function {
            node: 4,
            address: "0000:01:00.0".parse().unwrap(),
            role: Role::Pf,
            pf: None,
            vfs: None,
            path: PathBuf::from(path),
        }
    }

    #[test]
    fn another_kind_of_file_is_not_taken_for_a_node() {
        let error = Space::open(&function("/dev/null")).unwrap_err();
        assert!(
            matches!(&error, Error::NotVfetch { what } if what == "/dev/null"),
            "{error}"
        );
    }

    #[test]
    fn a_node_that_is_no_more_is_gone() {
        let error = Space::open(&function("/dev/vfetch-none")).unwrap_err();
        assert!(matches!(error, Error::Gone { node: 4 }), "{error}");
    }

    #[test]
    fn an_inherited_number_must_be_open_and_a_node() {
        let error = Space::inherited(999_999).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::BADF), "{error}");
        let file = File::open("/dev/null").unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        assert!(matches!(Space::inherited(fd), Err(Error::NotVfetch { .. })));
    }

    #[test]
    fn another_process_must_be_there_and_have_a_space() {
        let errno = |result: Result<Space>| result.unwrap_err().errno();
        assert_eq!(errno(Space::of_process(0, 0)), Some(Errno::SRCH));
        assert_eq!(errno(Space::of_process(i32::MAX, 0)), Some(Errno::SRCH));
        let mine = i32::try_from(std::process::id()).unwrap();
        assert_eq!(errno(Space::of_process(mine, 999_999)), Some(Errno::BADF));
        let error = Space::only_of_process(mine).unwrap_err();
        assert!(
            matches!(&error, Error::Spaces { fds, .. } if fds.is_empty()),
            "{error}"
        );
    }

    #[test]
    fn unaligned_sizes_are_refused_before_the_driver_is_asked() {
        let space = on_ordinary_file(b"");
        assert!(matches!(
            space.set_size(4097),
            Err(Error::Unaligned { value: 4097 })
        ));
        assert!(matches!(
            space.discard(0..1),
            Err(Error::Unaligned { value: 1 })
        ));
    }

    #[test]
    fn exact_reads_and_writes_go_on_until_the_end() {
        let space = on_ordinary_file(b"0123456789");
        space.write_all_at(b"ab", 4).unwrap();
        let mut buffer = [0; 4];
        space.read_exact_at(&mut buffer, 3).unwrap();
        assert_eq!(&buffer, b"3ab6");
        let error = space.read_exact_at(&mut buffer, 8).unwrap_err();
        assert!(
            matches!(error, Error::BeyondEnd { offset: 10, .. }),
            "{error}"
        );
    }

    #[test]
    fn errnos_of_transfers_become_what_they_mean() {
        let space = on_ordinary_file(b"");
        let meaning = |errno: Errno| space.io_failed(&io::Error::from(errno), 8);
        assert!(matches!(
            meaning(Errno::IO),
            Error::TransferFailed { offset: 8, .. }
        ));
        assert!(matches!(meaning(Errno::NODEV), Error::Gone { node: 4 }));
        assert!(matches!(meaning(Errno::AGAIN), Error::WouldBlock { .. }));
        assert!(matches!(meaning(Errno::NOSPC), Error::BeyondEnd { .. }));
        assert_eq!(meaning(Errno::FAULT).errno(), Some(Errno::FAULT));
    }

    #[test]
    fn an_ordinary_file_is_ready_at_once() {
        let space = on_ordinary_file(b"x");
        let ready = space
            .wait(Interest::Writable, Some(Duration::ZERO))
            .unwrap();
        assert!(ready.writable && !ready.gone && !ready.lost);
    }
}
