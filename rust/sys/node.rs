// SPDX-License-Identifier: GPL-2.0

//! Character device nodes: misc devices with the file operations that the kernel crate's
//! `MiscDevice` lacks (poll, llseek, splice), names made at run time, and an `address_space` for
//! each open file.

use core::marker::PhantomData;

use kernel::bindings;
use kernel::error::{from_result, to_result};
use kernel::ffi::{c_int, c_long, c_uint, c_ulong, c_void};
use kernel::fs::File;
use kernel::iov::{IovIterDest, IovIterSource};
use kernel::module::this_module;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::Arc;
use kernel::types::Opaque;

use super::fault::{Ended, Fault};
use super::host_memory::bring_in;
use super::ioctl::Argument;
use super::mapping::Mapping;
use super::shim;
use super::wait::Poll;

/// How a read or a write was asked for.
#[derive(Clone, Copy)]
pub(crate) struct Request {
    /// First byte in the file; not negative.
    pub(crate) offset: u64,
    /// The caller does not want to wait (`O_NONBLOCK`).
    pub(crate) nonblocking: bool,
    /// The call goes on: an earlier part of it has moved data.
    pub(crate) continued: bool,
}

/// How a file was opened.
#[derive(Clone, Copy)]
pub(crate) struct FileMode {
    /// For reading.
    pub(crate) read: bool,
    /// For writing.
    pub(crate) write: bool,
    /// The caller does not want to wait (`O_NONBLOCK`).
    pub(crate) nonblocking: bool,
}

/// How far a read or a write came.
pub(crate) struct Moved {
    /// Bytes that it moved.
    pub(crate) bytes: usize,
    /// What ended it, if not the end of the buffer or of the file. EFAULT: the next bytes of the buffer could not be had
    /// at once.
    pub(crate) error: Option<Error>,
}

impl From<Error> for Moved {
    fn from(error: Error) -> Self {
        Self {
            bytes: 0,
            error: Some(error),
        }
    }
}

/// What poll calls [`Ready::trace`].
pub(crate) const POLL_TRACE: u32 = bindings::POLLRDBAND;

/// What is ready, as poll reports it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Ready {
    /// A read would not wait.
    pub(crate) read: bool,
    /// A write would not wait.
    pub(crate) write: bool,
    /// A job has ended.
    pub(crate) job: bool,
    /// There is something to be read of a trace.
    pub(crate) trace: bool,
    /// Something is wrong that the caller should look at.
    pub(crate) error: bool,
    /// The device is gone.
    pub(crate) hangup: bool,
}

/// An open file of a node.
#[vtable]
pub(crate) trait OpenFile: Send + Sync + Sized + 'static {
    /// What all files of a node share.
    type Context: Send + Sync + 'static;

    /// Opens a file, whose pages will be mapped in `mapping`. Must not take a lock that is held around [`Node`]'s drop.
    fn open(context: &Self::Context, mapping: &Arc<Mapping>) -> Result<Pin<KBox<Self>>>;

    /// The file was closed for the last time. Called once, after everything else.
    fn release(&self);

    /// Reads into `to`, without waiting for pages of it that are not there.
    fn read(&self, request: Request, to: &mut IovIterDest<'_>) -> Moved;

    /// Writes from `from`, likewise.
    fn write(&self, request: Request, from: &mut IovIterSource<'_>) -> Moved;

    /// An ioctl; `command` without the size, which is the argument's.
    fn ioctl(&self, command: u32, argument: Argument, mode: FileMode) -> Result;

    /// A process that has the file mapped touched a page that is not mapped, or not as it needs.
    fn fault(&self, fault: &Fault<'_>) -> Ended;

    /// Registers what may change the answer, then says what is ready.
    fn poll<'a>(&'a self, poll: &Poll<'a>) -> Ready;

    /// The file's size, which `SEEK_END` and no more is relative to.
    fn size(&self) -> u64;
}

/// A file's private data.
struct Private<T> {
    file: Pin<KBox<T>>,
    mapping: Arc<Mapping>,
}

/// A registered node. Dropping it removes the node; files that are open stay.
///
/// # Invariants
///
/// `misc` is registered, with the operations of `Operations<T>` and the name `name`.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct Node<T: OpenFile> {
    #[pin]
    misc: Opaque<bindings::miscdevice>,
    name: CString,
    context: T::Context,
}

// SAFETY: A misc device may be deregistered from any thread, and the context is `Send`.
unsafe impl<T: OpenFile> Send for Node<T> {}
// SAFETY: Nothing but the `Sync` context is reachable through a shared reference.
unsafe impl<T: OpenFile> Sync for Node<T> {}

impl<T: OpenFile> Node<T> {
    /// Registers the node `/dev/NAME` with mode 0600, as a child of `parent`.
    pub(crate) fn register<'a>(
        name: CString,
        parent: &'a kernel::device::Device<kernel::device::Bound>,
        context: T::Context,
    ) -> impl PinInit<Self, Error> + 'a
    where
        T: 'a,
    {
        try_pin_init!(&this in Self {
            name,
            context,
            misc <- Opaque::try_ffi_init(move |slot: *mut bindings::miscdevice| {
                let mut misc: bindings::miscdevice = pin_init::zeroed();
                // CAST: 255.
                misc.minor = bindings::MISC_DYNAMIC_MINOR as c_int;
                // SAFETY: `name` is initialised (fields are in the order above) and stays in place.
                misc.name = unsafe { (*this.as_ptr()).name.as_char_ptr() };
                misc.fops = &Operations::<T>::TABLE;
                misc.mode = 0o600;
                misc.parent = super::device::as_raw(parent);
                // SAFETY: The initialiser may write to the slot.
                unsafe { slot.write(misc) };
                // SAFETY: The slot is a complete, pinned misc device, which is deregistered before
                // it goes. Both other fields are initialised, so that it may be opened at once.
                // INVARIANT: It is registered when this succeeds.
                to_result(unsafe { bindings::misc_register(slot) })
            }),
        })
    }
}

#[pinned_drop]
impl<T: OpenFile> PinnedDrop for Node<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: It is registered, by the invariants. After this no `open` runs.
        unsafe { bindings::misc_deregister(self.misc.get()) };
    }
}

/// The C side of [`OpenFile`].
struct Operations<T>(PhantomData<T>);

impl<T: OpenFile> Operations<T> {
    const TABLE: bindings::file_operations = bindings::file_operations {
        owner: this_module::<T::OwnerModule>().as_ptr(),
        open: Some(Self::open),
        release: Some(Self::release),
        read_iter: Some(Self::read_iter),
        write_iter: Some(Self::write_iter),
        mmap: Some(Self::mmap),
        llseek: Some(Self::llseek),
        poll: Some(Self::poll),
        unlocked_ioctl: Some(Self::ioctl),
        // Layouts do not depend on the caller's word size.
        compat_ioctl: bindings::compat_ptr_ioctl,
        splice_read: Some(bindings::copy_splice_read),
        splice_write: Some(bindings::iter_file_splice_write),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// Called by the VFS only, as this file operation, with files of this table.
    unsafe extern "C" fn open(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        from_result(|| {
            // SAFETY: `misc_open` has put the `miscdevice` there, and keeps it registered for the
            // duration of the call. Only `Node<T>` registers this table.
            let node = unsafe { &*(*file).private_data.cast_const().cast::<Node<T>>() };
            // What can fail comes before the file, whose `release` would have to be called.
            let private = KBox::<Private<T>>::new_uninit(GFP_KERNEL)?;
            let mapping = Arc::new(Mapping::new()?, GFP_KERNEL)?;
            let private = private.write(Private {
                file: T::open(&node.context, &mapping)?,
                mapping,
            });
            // SAFETY: The file is being opened: nobody else uses these fields. `mapping` stays until
            // `release`.
            unsafe {
                (*file).f_mapping = private.mapping.as_ptr();
                (*file).private_data = KBox::into_raw(private).cast::<c_void>();
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Called by the VFS only, as this file operation, with files of this table.
    unsafe extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: `open` has put it there, and this is the last call for the file.
        let private = unsafe { KBox::from_raw((*file).private_data.cast::<Private<T>>()) };
        private.file.release();
        0
    }

    /// # Safety
    ///
    /// `file` is open and of this table, for `'a`.
    unsafe fn opened<'a>(file: *mut bindings::file) -> &'a T {
        // SAFETY: `open` has put it there, and `release` comes after every other call.
        unsafe { &(*(*file).private_data.cast_const().cast::<Private<T>>()).file }
    }

    /// # Safety
    ///
    /// `kiocb` is a valid request of a file of this table.
    unsafe fn request(kiocb: *mut bindings::kiocb) -> Result<Request> {
        // SAFETY: By this function's contract.
        let (position, flags) = unsafe { ((*kiocb).ki_pos, (*(*kiocb).ki_filp).f_flags) };
        // The VFS refuses RWF_NOWAIT where FMODE_NOWAIT is not set, but io_uring asks for the same of
        // every file that can be polled, and goes to a thread that may wait when it hears EAGAIN.
        // SAFETY: By this function's contract.
        let nowait = unsafe { shim::vfetch_kiocb_nowait(kiocb) };
        Ok(Request {
            offset: u64::try_from(position)?,
            nonblocking: nowait || flags & bindings::O_NONBLOCK != 0,
            continued: false,
        })
    }

    /// Moves the position of `kiocb` on by `bytes`, and turns them into the call's result.
    ///
    /// # Safety
    ///
    /// `kiocb` is a valid request of a file of this table.
    unsafe fn advance(kiocb: *mut bindings::kiocb, moved: Result<usize>) -> isize {
        match moved {
            Ok(bytes) => {
                // SAFETY: By this function's contract. CAST: a call moves at most `MAX_RW_COUNT`.
                unsafe { (*kiocb).ki_pos = (*kiocb).ki_pos.saturating_add(bytes as i64) };
                // CAST: As above.
                bytes as isize
            }
            Err(error) => error.to_errno() as isize,
        }
    }

    /// Moves `iter`, of which `taken` bytes were used in a call, back to where its data was moved: a
    /// caller that hears EAGAIN goes on with the same iterator (io_uring does).
    ///
    /// # Safety
    ///
    /// `iter` is valid, and was moved on by `taken` bytes.
    unsafe fn give_back(iter: *mut bindings::iov_iter, taken: usize, moved: usize) {
        let unused = taken.saturating_sub(moved);
        if unused > 0 {
            // SAFETY: By this function's contract.
            unsafe { bindings::iov_iter_revert(iter, unused) };
        }
    }

    /// Bytes that are left of the buffer.
    ///
    /// # Safety
    ///
    /// `iter` is valid.
    unsafe fn left(iter: *const bindings::iov_iter) -> usize {
        // SAFETY: By this function's contract.
        unsafe { (*iter).__bindgen_anon_1.__bindgen_anon_1.as_ref().count }
    }

    /// Calls `attempt` until the buffer's or the file's end, or an error; the offset is that of the
    /// buffer's next byte.
    ///
    /// During an attempt pages of the buffer that are not there are not waited for: user space decides how long
    /// that takes (userfaultfd, FUSE), and must not hold up others who want what the attempt holds. They are brought
    /// in between attempts.
    ///
    /// # Safety
    ///
    /// `kiocb` and `iter` are of this call, and of a file of this table. `attempt` leaves `iter` valid.
    unsafe fn attempts(
        kiocb: *mut bindings::kiocb,
        iter: *mut bindings::iov_iter,
        mut attempt: impl FnMut(Request) -> Moved,
    ) -> isize {
        /// Times that may be in vain: brought in, and gone again before they could be pinned.
        const PATIENCE: u32 = 8;
        // SAFETY: By this function's contract.
        let request = match unsafe { Self::request(kiocb) } {
            Ok(request) => request,
            Err(error) => return error.to_errno() as isize,
        };
        let (mut total, mut vain) = (0usize, 0);
        let result = loop {
            // SAFETY: By this function's contract, here and below.
            let before = unsafe { Self::left(iter) };
            // SAFETY: By this function's contract.
            unsafe { (*iter).nofault = true };
            let moved = attempt(Request {
                offset: request.offset.saturating_add(total as u64),
                continued: total > 0,
                ..request
            });
            // SAFETY: By this function's contract; what was taken was taken in this attempt.
            unsafe {
                (*iter).nofault = false;
                Self::give_back(iter, before.saturating_sub(Self::left(iter)), moved.bytes);
            }
            total = total.saturating_add(moved.bytes);
            vain = if moved.bytes > 0 { 0 } else { vain + 1 };
            let mut error = match moved.error {
                None => break Ok(total),
                Some(error) => error,
            };
            if error == EFAULT && vain < PATIENCE {
                // SAFETY: The iterator is valid; nothing is held here that others wait for.
                match unsafe { bring_in(iter) } {
                    Ok(()) => continue,
                    Err(other) => error = other,
                }
            }
            break if total > 0 { Ok(total) } else { Err(error) };
        };
        // SAFETY: By this function's contract.
        unsafe { Self::advance(kiocb, result) }
    }

    /// # Safety
    ///
    /// Called by the VFS only, as this file operation, with files of this table.
    unsafe extern "C" fn read_iter(
        kiocb: *mut bindings::kiocb,
        iter: *mut bindings::iov_iter,
    ) -> isize {
        // SAFETY: Both are valid for this call, and of a file of this table.
        unsafe {
            let attempt = |request| {
                let to = IovIterDest::from_raw(iter);
                Self::opened((*kiocb).ki_filp).read(request, to)
            };
            Self::attempts(kiocb, iter, attempt)
        }
    }

    /// # Safety
    ///
    /// Called by the VFS only, as this file operation, with files of this table.
    unsafe extern "C" fn write_iter(
        kiocb: *mut bindings::kiocb,
        iter: *mut bindings::iov_iter,
    ) -> isize {
        // SAFETY: Both are valid for this call, and of a file of this table.
        unsafe {
            let attempt = |request| {
                let from = IovIterSource::from_raw(iter);
                Self::opened((*kiocb).ki_filp).write(request, from)
            };
            Self::attempts(kiocb, iter, attempt)
        }
    }

    const MAPPED: bindings::vm_operations_struct = bindings::vm_operations_struct {
        fault: Some(Self::fault),
        map_pages: Some(Self::map_pages),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// Called by the VFS only, as this file operation, with files of this table.
    unsafe extern "C" fn mmap(
        _file: *mut bindings::file,
        vma: *mut bindings::vm_area_struct,
    ) -> c_int {
        // SAFETY: The mapping is being made: nobody else looks at it.
        unsafe {
            if !shim::vfetch_vma_shared(vma) {
                return EINVAL.to_errno();
            }
            shim::vfetch_vma_prepare(vma);
            (*vma).vm_ops = &Self::MAPPED;
        }
        0
    }

    /// Maps nothing: `fault` maps what is beside it. But without this operation the kernel calls `fault` only with the lock of
    /// the whole address space.
    ///
    /// # Safety
    ///
    /// Called for mappings of files of this table, as this operation.
    unsafe extern "C" fn map_pages(
        _vmf: *mut bindings::vm_fault,
        _start: c_ulong,
        _end: c_ulong,
    ) -> bindings::vm_fault_t {
        0
    }

    /// # Safety
    ///
    /// Called for mappings of files of this table, as this operation.
    unsafe extern "C" fn fault(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // SAFETY: The fault is under way; its mapping holds a reference to the file, which is of this table.
        let opened = unsafe { Self::opened((*(*vmf).__bindgen_anon_1.vma).vm_file) };
        // SAFETY: As above. The file stays for as long as it is served: by the mapping, or when that is let go
        // by the fault's own reference.
        unsafe { Fault::serve(vmf, |fault| opened.fault(fault)) }
    }

    /// # Safety
    ///
    /// Called by the VFS only, as this file operation, with files of this table.
    unsafe extern "C" fn llseek(
        file: *mut bindings::file,
        offset: bindings::loff_t,
        whence: c_int,
    ) -> bindings::loff_t {
        // SAFETY: The file is open and of this table.
        let size = unsafe { Self::opened(file) }.size();
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        // SAFETY: The file is valid.
        unsafe { bindings::fixed_size_llseek(file, offset, whence, size) }
    }

    /// # Safety
    ///
    /// Called by the VFS only, as this file operation, with files of this table.
    unsafe extern "C" fn poll(
        file: *mut bindings::file,
        table: *mut bindings::poll_table,
    ) -> bindings::__poll_t {
        // SAFETY: The file is open and of this table.
        let opened = unsafe { Self::opened(file) };
        // SAFETY: The file is valid for this call.
        let file = unsafe { File::from_raw_file(file) };
        // SAFETY: Both are of this call.
        let ready = opened.poll(&unsafe { Poll::from_raw(file, table) });
        let mut mask = 0;
        for (is, bits) in [
            (ready.read, bindings::POLLIN | bindings::POLLRDNORM),
            (ready.write, bindings::POLLOUT | bindings::POLLWRNORM),
            (ready.job, bindings::POLLPRI),
            (ready.trace, POLL_TRACE),
            (ready.error, bindings::POLLERR),
            (ready.hangup, bindings::POLLHUP),
        ] {
            if is {
                mask |= bits;
            }
        }
        mask
    }

    /// # Safety
    ///
    /// Called by the VFS only, as this file operation, with files of this table.
    unsafe extern "C" fn ioctl(file: *mut bindings::file, cmd: c_uint, arg: c_ulong) -> c_long {
        // SAFETY: The file is open and of this table.
        let opened = unsafe { Self::opened(file) };
        // SAFETY: The file is valid.
        let (flags, access) = unsafe { ((*file).f_flags, (*file).f_flags & bindings::O_ACCMODE) };
        let mode = FileMode {
            read: access == bindings::O_RDONLY || access == bindings::O_RDWR,
            write: access == bindings::O_WRONLY || access == bindings::O_RDWR,
            nonblocking: flags & bindings::O_NONBLOCK != 0,
        };
        match opened.ioctl(Argument::command(cmd), Argument::new(cmd, arg), mode) {
            Ok(()) => 0,
            // CAST: an errno fits.
            Err(error) => error.to_errno() as c_long,
        }
    }
}
