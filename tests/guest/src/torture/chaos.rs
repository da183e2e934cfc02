// SPDX-License-Identifier: GPL-2.0

//! What disturbs the actors: limits, policies, advice, signals, pins; failures of the device or of allocations, and resets.
#![allow(unsafe_code)]

use std::{
    fs,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{ensure, Context, Result};
use io_uring::IoUring;
use libvfetch::{Advice, Scope, Side};
use rand::Rng;
use rand_pcg::Pcg64Mcg;
use rustix::io::Errno;

use super::{memory::CHUNK, World, CHUNKS, MIB};
use crate::{
    life::{
        hw,
        inject::{Fault, Injector, FAILURES},
        machine::reset,
    },
    mapped::RIGHTS,
    support::{
        buffer::Mapping,
        errno::Carries,
        machine::{pf, vf},
        process, raw,
        starve::{self, Starvation},
    },
};

/// Whether this says that there was no memory.
fn excused(error: &(dyn std::error::Error + 'static)) -> bool {
    let errno = error
        .downcast_ref::<libvfetch::Error>()
        .and_then(Carries::errno)
        .or_else(|| error.downcast_ref::<Errno>().copied());
    errno.is_some_and(starve::excuses)
}

/// Pages that are held for I/O. The mapping goes after the ring.
struct Pins {
    _ring: IoUring,
    _window: Mapping,
}

pub(super) struct Chaos {
    world: Arc<World>,
    random: Pcg64Mcg,
    pins: Vec<Pins>,
    injector: Option<Injector>,
    starvation: Option<Starvation>,
}

impl Chaos {
    pub(super) fn new(world: &Arc<World>) -> Result<Self> {
        let injector = if world.faulty {
            Some(Injector::new()?)
        } else {
            None
        };
        let starvation = if world.starved {
            Some(Starvation::new()?)
        } else {
            None
        };
        let mut this = Self {
            world: world.clone(),
            random: world.random(100),
            pins: Vec::new(),
            injector,
            starvation,
        };
        // From the start there is too little room.
        for space in 0..world.memories.len() {
            this.limit_space(space)?;
        }
        this.limit_function()?;
        if let Some(starvation) = &this.starvation {
            starvation.allocations(3)?;
        }
        Ok(this)
    }

    /// Waits a while, and then disturbs whoever runs in `threads`.
    pub(super) fn disturb(&mut self, threads: &[JoinHandle<Result<()>>]) -> Result<()> {
        thread::sleep(Duration::from_millis(self.random.random_range(1..40)));
        let space = self.random.random_range(0..self.world.memories.len());
        let kinds = if self.world.fails() { 14 } else { 12 };
        let disturbed = match self.random.random_range(0..kinds) {
            0 | 1 => self.limit_space(space),
            2 => self.limit_function(),
            3 => self.change_policy(space),
            4..=6 => {
                let thread = &threads[self.random.random_range(0..threads.len())];
                if self.random.random_range(0..2) == 0 {
                    process::interrupt(thread);
                } else {
                    process::restart(thread);
                }
                Ok(())
            }
            7 => self.pin(space),
            8 => {
                self.pins.clear();
                Ok(())
            }
            9 => self.ask(space),
            10 => self.advise(space),
            11 => self.shrink(),
            _ if self.world.starved => self.starve(),
            _ => self.fail(),
        };
        match disturbed {
            // What it asks for may be refused, too.
            Err(error) if self.world.starved && error.chain().any(excused) => Ok(()),
            disturbed => disturbed,
        }
    }

    /// No pins and no failures any more.
    pub(super) fn end(self) -> Result<()> {
        let Self {
            injector,
            starvation,
            pins,
            ..
        } = self;
        drop((injector, pins));
        if let Some(starvation) = starvation {
            let [objects, pages] = starvation.failed()?;
            println!("# {objects} allocations of objects have failed, {pages} of pages");
            ensure!(objects > 0 && pages > 0, "nobody was refused memory");
        }
        Ok(())
    }

    /// Has more or fewer of the module's allocations fail.
    fn starve(&mut self) -> Result<()> {
        let percent = [0, 0, 1, 3, 10, 30, 100][self.random.random_range(0..7)];
        self.starvation
            .as_ref()
            .map_or(Ok(()), |starvation| starvation.allocations(percent))
    }

    /// There is little more room than all contents need, on both sides together.
    fn limit_space(&mut self, space: usize) -> Result<()> {
        let host = self.random.random_range(2..=10);
        let space = &self.world.memories[space].space;
        Ok(space.set_limits(Scope::Space, host * MIB, (12 - host) * MIB)?)
    }

    /// The same for the function that has two of the spaces.
    fn limit_function(&mut self) -> Result<()> {
        let space = &self.world.memories[0].space;
        let device = (space.info()?.memory_bytes / MIB).min(18);
        let host = self.random.random_range(22 - device..=18);
        Ok(space.set_limits(Scope::Function, host * MIB, (22 - host) * MIB)?)
    }

    /// Says something of a part of a space.
    fn advise(&mut self, space: usize) -> Result<()> {
        let side = |host| if host { Side::Host } else { Side::Device };
        // Pages that thrash and are to be on the device are shown through the window, and cannot be buffers: an EFAULT must be excused.
        let shows = self.world.shows && self.random.random();
        let advice = match self.random.random_range(0..8) {
            _ if shows => Advice::Prefer(Some(Side::Device)),
            0 | 1 => Advice::Normal,
            2 => Advice::Prefer(Some(side(!self.world.fails() || self.random.random()))),
            3 => Advice::Prefer(None),
            4 => Advice::AccessedByDevice(self.random.random()),
            5 => Advice::Prefetch(self.random.random()),
            _ => Advice::WillNeed(side(self.random.random())),
        };
        let (first, chunks) = if shows {
            // Those that are used the most.
            (0, 24)
        } else {
            let first = self.random.random_range(0..CHUNKS);
            (first, self.random.random_range(1..=64.min(CHUNKS - first)))
        };
        let part = (first * CHUNK) as u64..((first + chunks) * CHUNK) as u64;
        match self.world.memories[space].space.advise(part, advice) {
            Err(error) if !self.world.fails() => Err(error).context("advice"),
            _ => Ok(()),
        }
    }

    /// Has the kernel take back what can be done without.
    fn shrink(&mut self) -> Result<()> {
        if self.random.random_range(0..4) == 0 {
            fs::write("/proc/sys/vm/drop_caches", "2")?;
        }
        Ok(())
    }

    fn change_policy(&mut self, space: usize) -> Result<()> {
        let space = &self.world.memories[space].space;
        let mut policy = raw::policy(space)?;
        policy.enabled = u32::from(self.random.random_range(0..8) > 0);
        policy.policy = self.random.random_range(0..raw::POLICIES);
        policy.threshold = self.random.random_range(1..=100);
        policy.min_faults = self.random.random_range(1..=3);
        policy.compat = self.random.random_range(0..2);
        policy.ats = self.random.random_range(0..2);
        Ok(raw::set_policy(space, policy)?)
    }

    /// Holds a few pages for I/O.
    fn pin(&mut self, space: usize) -> Result<()> {
        if self.pins.len() > 3 {
            self.pins.clear();
        }
        let space = &self.world.memories[space].space;
        let chunk = self.random.random_range(0..CHUNKS);
        let window = Mapping::part_of(space, chunk * CHUNK, CHUNK, RIGHTS)?;
        let ring = IoUring::new(2)?;
        let area = window.all();
        let vector = libc::iovec {
            iov_base: area.address().cast(),
            iov_len: area.bytes(),
        };
        // SAFETY: The mapping stays longer than the ring; nothing refers to what is there.
        match unsafe { ring.submitter().register_buffers(&[vector]) } {
            Ok(()) => self.pins.push(Pins {
                _ring: ring,
                _window: window,
            }),
            Err(_) if self.world.fails() || space.stats()?.window_pins > 0 => {}
            Err(error) => return Err(error).context("register_buffers"),
        }
        Ok(())
    }

    /// Asks for what can be asked for.
    fn ask(&mut self, space: usize) -> Result<()> {
        let space = &self.world.memories[space].space;
        let size = space.info()?.space_bytes;
        let counted = space.residency(0..size)?;
        let all = counted.none + counted.host + counted.device + counted.moving + counted.lost;
        ensure!(all * 4096 == size, "residency: {counted:?} of {size} bytes");
        space.limits(Scope::Space)?;
        space.stats()?;
        Ok(())
    }

    /// Lets the device fail.
    fn fail(&mut self) -> Result<()> {
        let Some(injector) = &self.injector else {
            return Ok(());
        };
        let function = self.random.random_range(0..=1);
        match self.random.random_range(0..20) {
            0 => {
                let kind = hw::VFETCH_FAULT_WEDGED;
                injector.arm(
                    function,
                    Fault::new(kind).after(self.random.random_range(0..20)),
                )
            }
            1 | 2 => reset(vf(1)?.address),
            // Which takes the VF with it.
            3 => reset(pf()?.address),
            4..=6 => injector.clear(function),
            _ => {
                let kind = FAILURES[self.random.random_range(0..FAILURES.len())];
                let fault = match self.random.random_range(0..4) {
                    0 => Fault::read(kind),
                    1 => Fault::write(kind),
                    2 => Fault::scrub(kind),
                    _ => Fault::new(kind),
                };
                let fault = match kind {
                    hw::VFETCH_FAULT_DELAY => {
                        fault.late_by_ms([1, 20, 300][self.random.random_range(0..3)])
                    }
                    hw::VFETCH_FAULT_CORRUPT => fault.arg(1 << self.random.random_range(0..64)),
                    _ => fault,
                };
                injector.arm(function, fault.after(self.random.random_range(0..50)))
            }
        }
    }
}
