// SPDX-License-Identifier: GPL-2.0

//! The whole device unplugged while processes have its memory mapped and jobs run on it.

use std::thread;

use anyhow::{anyhow, ensure, Result};
use libvfetch::{stamped, Error, Function, Job, JobError, Reduce, Space, Stamp, State, Task};
use rustix::{io::Errno, process::Signal};

use super::{
    hotplug::{orderly, plug_in_again, surprise},
    machine::{expect, functions, have_vfs, insmod, parameters, pf_address, rmmod, sysfs},
};
use crate::{
    mapped::{lost::touches, mapped, stamped_bytes},
    support::{
        buffer::Mapping,
        errno::{fails, same},
        limit,
        machine::PAGE,
        model,
    },
    tap::Test,
    torture::bus::watch,
};

pub(crate) const TESTS: &[Test] = crate::bounded![100:
    an_unplugged_device_leaves_processes_the_host_s_pages,
    a_device_that_vanishes_leaves_processes_the_host_s_pages,
];

/// Of a space: where the device's pages end, and the host's; and where those are that a job and a process take from one another. What the
/// engine brings along with these is of their blocks.
const DEVICE: usize = 10;
const HOST: usize = 20;
const SHARED: usize = 512;
const ALL: usize = SHARED + 600;

/// A space that is used from all sides when the device goes.
struct Used {
    function: Function,
    space: Space,
    mapping: Mapping,
}

impl Used {
    fn new(function: &Function) -> Result<Self> {
        let (space, mapping) = mapped(function, ALL)?;
        mapping.fill(DEVICE * PAGE, &stamped_bytes(DEVICE, HOST - DEVICE, 1));
        space.write_all_at(&stamped_bytes(0, DEVICE, 1), 0)?;
        Ok(Self {
            function: function.clone(),
            space,
            mapping,
        })
    }

    /// Seconds of work for the device.
    fn long() -> Task {
        let words = PAGE / 8;
        let stamp = Stamp {
            output: (SHARED * PAGE) as u64,
            n: ((ALL - SHARED) * words) as u64,
            first: (SHARED * words) as u64,
            generation: 3,
        };
        Task::from(stamp).strands(4).element_ps(50_000_000)
    }

    fn is_gone(&self) -> Result<bool> {
        Ok(self.space.info()?.state() == State::Gone)
    }

    /// Has the device write the same again and again, until it is gone: then that ends too.
    fn compute_until_gone(&self) -> Result<()> {
        loop {
            let ended = self.space.submit(&Self::long()).and_then(Job::wait);
            match ended {
                Ok(_) => {}
                Err(
                    Error::Gone { .. }
                    | Error::Job {
                        why: JobError::Gone | JobError::Cancelled | JobError::Failed,
                        ..
                    },
                ) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Loads what the job writes, all of it over and over, until the device is gone; and once more then.
    fn load_until_gone(&self) -> Result<u32> {
        loop {
            let gone = self.is_gone()?;
            let (right, refused) = watch(&self.mapping, || {
                (SHARED..ALL).all(|page| {
                    let word = self.mapping.word(page * PAGE);
                    word == 0 || word == stamped((page * PAGE / 8) as u64, 3)
                })
            });
            if gone {
                return Ok(refused);
            }
            // What was refused is a page of the process's own, and zeros.
            ensure!(right, "a word that nobody wrote");
        }
    }

    /// What is left of it.
    fn check(&self) -> Result<()> {
        ensure!(self.is_gone()?, "it is there");
        let lost = self.space.info()?.space_lost_pages;
        ensure!(lost >= DEVICE as u64, "{lost} pages are lost");
        for page in [0, DEVICE - 1] {
            same(
                "a page of the device's",
                touches(&self.mapping, page * PAGE)?,
                [Some(Signal::BUS); 2],
            )?;
        }
        let got = self.mapping.copy(DEVICE * PAGE..HOST * PAGE);
        let wanted = stamped_bytes(DEVICE, HOST - DEVICE, 1);
        model::equal("the host's pages", (DEVICE * PAGE) as u64, &got, &wanted)?;
        expect("read", self.space.read_at(&mut [0; 8], 0), Errno::NODEV)?;
        let submit = self.space.submit(&Reduce { input: 0, n: 1 }.into());
        fails("SUBMIT", submit.map(|job| job.id()), Errno::NODEV)
    }
}

/// Has the device go, by `unplug`, while `used` are.
fn goes(used: &[Used], unplug: impl FnOnce() -> Result<()>) -> Result<()> {
    thread::scope(|scope| {
        let mut workers = Vec::new();
        let mut loaders = Vec::new();
        for one in used {
            workers.push(scope.spawn(|| one.compute_until_gone()));
            let at = SHARED * PAGE;
            limit::until(20, "the job to write", || {
                Ok(one.mapping.word(at) == stamped(at as u64 / 8, 3))
            })?;
            loaders.push(scope.spawn(|| one.load_until_gone()));
        }
        unplug()?;
        for worker in workers {
            worker.join().map_err(|_| anyhow!("a panic"))??;
        }
        for loader in loaders {
            let refused = loader.join().map_err(|_| anyhow!("a panic"))??;
            println!("# {refused} of {} pages were the device's", ALL - SHARED);
        }
        Ok(())
    })
}

fn cycle(unplug: fn() -> Result<()>) -> Result<()> {
    have_vfs(2)?;
    let before = functions()?;
    let address = sysfs(pf_address()?);
    let used: Vec<_> = before.iter().map(Used::new).collect::<Result<_>>()?;
    goes(&used, unplug)?;
    used.iter().try_for_each(Used::check)?;
    plug_in_again(2, &address)?;
    same("the functions", functions()?, before)?;
    for one in used {
        let Used {
            function,
            space,
            mapping,
        } = one;
        // A new one is nothing of the old one's.
        let (new, memory) = mapped(&function, ALL)?;
        new.write_all_at(&stamped_bytes(0, ALL, 5), 0)?;
        model::equal(
            "a new space",
            0,
            &memory.copy(0..ALL * PAGE),
            &stamped_bytes(0, ALL, 5),
        )?;
        drop(space);
        let got = mapping.copy(DEVICE * PAGE..HOST * PAGE);
        let wanted = stamped_bytes(DEVICE, HOST - DEVICE, 1);
        model::equal("the file closed", (DEVICE * PAGE) as u64, &got, &wanted)?;
        let busy = rmmod();
        same("rmmod with a mapping", busy, Err(Errno::AGAIN))?;
    }
    // Nothing of it is used any more; what it has kept, the search for leaks finds.
    rmmod().map_err(|errno| anyhow!("rmmod: {errno:?}"))?;
    insmod(&parameters()?).map_err(|errno| anyhow!("insmod: {errno:?}"))
}

fn an_unplugged_device_leaves_processes_the_host_s_pages() -> Result<()> {
    cycle(orderly)
}

fn a_device_that_vanishes_leaves_processes_the_host_s_pages() -> Result<()> {
    cycle(surprise)
}
