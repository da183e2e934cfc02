// SPDX-License-Identifier: GPL-2.0

//! The file operations of `/dev/vfetchN`: the border to user space.

use kernel::iov::{IovIterDest, IovIterSource};
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::time::Msecs;

use super::function::{Function, State};
use super::io::Caller;
use super::registry;
use super::space::{Backing, Space};
use crate::sys::abi::{
    self as hw, vfetch_advise, vfetch_cancel, vfetch_info, vfetch_limits, vfetch_policy,
    vfetch_policy_stats, vfetch_range, vfetch_residency, vfetch_size, vfetch_stats, vfetch_submit,
    vfetch_trace_read, vfetch_trace_record, vfetch_trace_start, vfetch_trace_stop, vfetch_wait,
};
use crate::sys::eventfd::EventFd;
use crate::sys::fault::{Ended, Fault};
use crate::sys::ioctl::{Argument, UserBytes};
use crate::sys::mapping::Mapping;
use crate::sys::node::{FileMode, Moved, OpenFile, Ready, Request};
use crate::sys::wait::Poll;

/// EINVAL unless all of `zero` are 0: flags that do not exist, and reserved fields.
fn must_be_zero(zero: &[u32]) -> Result {
    if zero.iter().all(|value| *value == 0) {
        Ok(())
    } else {
        Err(EINVAL)
    }
}

/// An open file.
pub(crate) struct SpaceFile(Arc<Space>);

/// A caller's time-out, rounded up; `None`: for ever.
fn milliseconds(timeout_ns: i64) -> Option<Msecs> {
    let ns = u64::try_from(timeout_ns).ok()?;
    // Longer ones than a `u32` can hold are 49 days.
    Some(Msecs::try_from(ns.div_ceil(1_000_000)).unwrap_or(Msecs::MAX))
}

/// EBADF unless the file was opened for what a command does.
fn permitted(is: bool) -> Result {
    if is {
        Ok(())
    } else {
        Err(EBADF)
    }
}

impl Space {
    fn info(&self) -> vfetch_info {
        let function = &self.function;
        let (identity, description) = (&function.identity, &function.description);
        let page = u64::from(hw::VFETCH_PAGE_BYTES);
        vfetch_info {
            flags: 0,
            abi_version: hw::VFETCH_ABI_VERSION,
            kind: if identity.physical.is_some() {
                hw::VFETCH_KIND_VF
            } else {
                hw::VFETCH_KIND_PF
            },
            state: function.state().number(),
            function: description.number,
            node: identity.node,
            pci_domain: identity.address.domain,
            pci_bus: u16::from(identity.address.bus),
            pci_devfn: u16::from(identity.address.devfn),
            vendor: identity.vendor,
            device: identity.device,
            queues: 2,
            queue_entries: function.ordinary.slots(),
            transfer_max_bytes: function.transfer_bytes(),
            page_bytes: hw::VFETCH_PAGE_BYTES,
            block_bytes: hw::VFETCH_BLOCK_BYTES,
            memory_bytes: description.mem_bytes,
            free_bytes: u64::from(function.memory.available()) * page,
            window_bytes: description.window_bytes,
            link_latency_ns: description.link_latency_ns,
            link_bytes_per_us: description.link_bytes_per_us,
            link_weight: description.link_weight,
            generation: function.memory.generation(),
            pf_node: match identity.physical {
                None => identity.node,
                Some(address) => registry::get()
                    .and_then(|registry| registry.node_of(address))
                    .unwrap_or(hw::VFETCH_NODE_NONE),
            },
            strands: description.job_strands,
            space_bytes: self.bytes(),
            space_lost_pages: self.lost_pages(),
        }
    }

    fn stats(&self) -> vfetch_stats {
        let function = &self.function;
        let mut stats = vfetch_stats {
            spaces: u32::try_from(function.open.lock().len()).unwrap_or(u32::MAX),
            in_flight: u64::from(function.ordinary.in_flight())
                + u64::from(function.priority.in_flight()),
            device_pages: function.memory.pages(),
            ..Default::default()
        };
        function.stats.fill(&mut stats);
        if let Ok(_bound) = function.enter() {
            // A device that is being pulled out reads as all ones: better nothing than that.
            let read = |register| {
                let value = function.registers.read64(register).unwrap_or(0);
                if value == u64::MAX {
                    0
                } else {
                    value
                }
            };
            stats.device_busy_ns = read(hw::VFETCH_REG_BUSY_NS);
            stats.device_wait_ns = read(hw::VFETCH_REG_WAIT_NS);
            stats.device_errors = read(hw::VFETCH_REG_ERRORS);
            stats.device_queue_errors = read(hw::VFETCH_REG_QUEUE_ERRORS);
            stats.device_time_ns = read(hw::VFETCH_REG_TIME);
        }
        stats
    }
}

#[vtable]
impl OpenFile for SpaceFile {
    type Context = Arc<Function>;

    fn open(function: &Arc<Function>, mapping: &Arc<Mapping>) -> Result<Pin<KBox<Self>>> {
        if function.state() == State::Gone {
            return Err(ENODEV);
        }
        let space = Space::new(function.clone(), mapping.clone())?;
        let file = KBox::pin(Self(space.clone()), GFP_KERNEL)?;
        function.opened(&space)?;
        Ok(file)
    }

    fn release(&self) {
        self.0.close();
    }

    fn read(&self, request: Request, to: &mut IovIterDest<'_>) -> Moved {
        self.0
            .transfer(request, Caller::To(to))
            .unwrap_or_else(Moved::from)
    }

    fn write(&self, request: Request, from: &mut IovIterSource<'_>) -> Moved {
        self.0
            .transfer(request, Caller::From(from))
            .unwrap_or_else(Moved::from)
    }

    fn fault(&self, fault: &Fault<'_>) -> Ended {
        self.0.fault(fault)
    }

    fn ioctl(&self, command: u32, argument: Argument, mode: FileMode) -> Result {
        match command {
            GET_INFO => {
                let asked: vfetch_info = argument.read(size_of::<u32>())?;
                must_be_zero(&[asked.flags])?;
                argument.write(&self.0.info())
            }
            GET_STATS => {
                let asked: vfetch_stats = argument.read(size_of::<u32>())?;
                must_be_zero(&[asked.flags])?;
                argument.write(&self.0.stats())
            }
            SET_SIZE => {
                permitted(mode.write)?;
                let asked: vfetch_size = argument.read(size_of::<vfetch_size>())?;
                must_be_zero(&[asked.reserved])?;
                let backing = match asked.flags {
                    0 => Backing::Any,
                    hw::VFETCH_SIZE_RESERVE => Backing::Reserved,
                    hw::VFETCH_SIZE_FLAT => Backing::Flat,
                    _ => return Err(EINVAL),
                };
                self.0.resize(asked.bytes, backing)
            }
            DISCARD => {
                permitted(mode.write)?;
                let asked: vfetch_range = argument.read(size_of::<vfetch_range>())?;
                must_be_zero(&[asked.flags, asked.reserved])?;
                let end = asked.offset.checked_add(asked.bytes).ok_or(ERANGE)?;
                self.0.discard(asked.offset..end, true)
            }
            SUBMIT => {
                // A job reads and writes.
                permitted(mode.read && mode.write)?;
                let mut asked: vfetch_submit = argument.read(size_of::<vfetch_submit>())?;
                must_be_zero(&[asked.flags & !hw::VFETCH_SUBMIT_EVENTFD])?;
                let event = if asked.flags & hw::VFETCH_SUBMIT_EVENTFD != 0 {
                    Some(EventFd::from_fd(asked.eventfd)?)
                } else {
                    must_be_zero(&[asked.eventfd.unsigned_abs()])?;
                    None
                };
                asked.id = self.0.submit(&asked.job, event, mode.nonblocking)?;
                argument.write(&asked).inspect_err(|_| {
                    // Nobody can name it.
                    self.0.take_back_job(asked.id);
                })
            }
            WAIT => {
                let mut asked: vfetch_wait = argument.read(size_of::<vfetch_wait>())?;
                must_be_zero(&[asked.flags])?;
                let end = self.0.wait_job(asked.id, milliseconds(asked.timeout_ns))?;
                asked.status = end.status;
                asked.value = end.value;
                asked.time_ns = end.time_ns;
                argument.write(&asked)
            }
            CANCEL => {
                let asked: vfetch_cancel = argument.read(size_of::<vfetch_cancel>())?;
                must_be_zero(&[asked.flags, asked.reserved])?;
                self.0.cancel_job(asked.id)
            }
            GET_LIMITS => {
                let asked: vfetch_limits = argument.read(2 * size_of::<u32>())?;
                must_be_zero(&[asked.flags])?;
                argument.write(&self.0.limits(asked.scope)?)
            }
            SET_LIMITS => {
                permitted(mode.write)?;
                let asked: vfetch_limits = argument.read(size_of::<vfetch_limits>())?;
                must_be_zero(&[asked.flags])?;
                argument.write(&self.0.set_limits(&asked)?)
            }
            GET_POLICY => {
                let asked: vfetch_policy = argument.read(size_of::<u32>())?;
                must_be_zero(&[asked.flags])?;
                argument.write(&self.0.policy())
            }
            SET_POLICY => {
                permitted(mode.write)?;
                let asked: vfetch_policy = argument.read(size_of::<vfetch_policy>())?;
                must_be_zero(&[asked.flags])?;
                self.0.set_policy(&asked)
            }
            POLICY_STATS => {
                let asked: vfetch_policy_stats = argument.read(2 * size_of::<u32>())?;
                must_be_zero(&[asked.flags])?;
                argument.write(&self.0.policy_stats(asked.policy)?)
            }
            RESIDENCY => {
                let mut asked: vfetch_residency =
                    argument.read(core::mem::offset_of!(vfetch_residency, none))?;
                must_be_zero(&[asked.flags, asked.reserved])?;
                self.0.residency(&mut asked)?;
                argument.write(&asked)
            }
            ADVISE => {
                let asked: vfetch_advise = argument.read(size_of::<vfetch_advise>())?;
                must_be_zero(&[asked.flags])?;
                if asked.advice == hw::VFETCH_ADVICE_DO_NOT_NEED {
                    permitted(mode.write)?;
                }
                self.0.advise(&asked)
            }
            TRACE_START => {
                permitted(mode.read)?;
                let asked: vfetch_trace_start = argument.read(size_of::<vfetch_trace_start>())?;
                must_be_zero(&[asked.flags, asked.reserved])?;
                let function = &self.0.function;
                function.trace.start(&self.0, &asked)?;
                if function.state() == State::Gone {
                    // Nobody else ends a trace that began so late.
                    function.trace.end();
                    return Err(ENODEV);
                }
                Ok(())
            }
            TRACE_READ => {
                let mut asked: vfetch_trace_read =
                    argument.read(core::mem::offset_of!(vfetch_trace_read, lost))?;
                must_be_zero(&[asked.flags])?;
                // CAST: u32 to usize keeps the value.
                let bytes = (asked.count as usize).saturating_mul(size_of::<vfetch_trace_record>());
                let mut to = UserBytes::new(asked.records, bytes)?;
                let time = milliseconds(asked.timeout_ns);
                let trace = &self.0.function.trace;
                (asked.count, asked.lost) = trace.read(self.0.id, asked.count, &mut to, time)?;
                argument.write(&asked)
            }
            TRACE_STOP => {
                let asked: vfetch_trace_stop = argument.read(size_of::<vfetch_trace_stop>())?;
                must_be_zero(&[asked.flags, asked.reserved])?;
                self.0.function.trace.stop(self.0.id)
            }
            _ => Err(ENOTTY),
        }
    }

    fn poll<'a>(&'a self, poll: &Poll<'a>) -> Ready {
        poll.register(&self.0.events.happened);
        let slot = self.0.function.ordinary.poll(poll);
        let gone = self.0.function.state() == State::Gone;
        let sized = self.0.bytes() > 0;
        Ready {
            read: sized && slot,
            write: sized && slot,
            job: self.0.has_ended_job(),
            trace: self.0.function.trace.is_readable(self.0.id),
            error: gone || self.0.lost_pages() > 0,
            hangup: gone,
        }
    }

    fn size(&self) -> u64 {
        self.0.bytes()
    }
}

const GET_INFO: u32 = Argument::command(hw::VFETCH_COMMAND_GET_INFO);
const GET_STATS: u32 = Argument::command(hw::VFETCH_COMMAND_GET_STATS);
const SET_SIZE: u32 = Argument::command(hw::VFETCH_COMMAND_SET_SIZE);
const DISCARD: u32 = Argument::command(hw::VFETCH_COMMAND_DISCARD);
const SUBMIT: u32 = Argument::command(hw::VFETCH_COMMAND_SUBMIT);
const WAIT: u32 = Argument::command(hw::VFETCH_COMMAND_WAIT);
const CANCEL: u32 = Argument::command(hw::VFETCH_COMMAND_CANCEL);
const GET_LIMITS: u32 = Argument::command(hw::VFETCH_COMMAND_GET_LIMITS);
const SET_LIMITS: u32 = Argument::command(hw::VFETCH_COMMAND_SET_LIMITS);
const GET_POLICY: u32 = Argument::command(hw::VFETCH_COMMAND_GET_POLICY);
const SET_POLICY: u32 = Argument::command(hw::VFETCH_COMMAND_SET_POLICY);
const POLICY_STATS: u32 = Argument::command(hw::VFETCH_COMMAND_POLICY_STATS);
const RESIDENCY: u32 = Argument::command(hw::VFETCH_COMMAND_RESIDENCY);
const ADVISE: u32 = Argument::command(hw::VFETCH_COMMAND_ADVISE);
const TRACE_START: u32 = Argument::command(hw::VFETCH_COMMAND_TRACE_START);
const TRACE_READ: u32 = Argument::command(hw::VFETCH_COMMAND_TRACE_READ);
const TRACE_STOP: u32 = Argument::command(hw::VFETCH_COMMAND_TRACE_STOP);
