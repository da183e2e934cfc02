// SPDX-License-Identifier: GPL-2.0

//! What is given back while a function is being unbound, and its jobs go on.
//!
//! The module is loaded with `timeout_ms=200`: unbinding waits so long for jobs.

use std::{io::Read, sync::Barrier, thread};

use anyhow::{anyhow, Context, Result};
use libvfetch::{Advice, Side, Stamp, Task};
use rustix::pipe::{fcntl_setpipe_size, pipe, tee, SpliceFlags};

use super::{device_stamps, mapped, WORDS};
use crate::{
    life::machine::{bind, unbind},
    support::{
        errno::{same, Errno},
        limit,
        machine::{vf, PAGE},
        model,
    },
};

/// Pages of a block.
const BLOCK: usize = 512;

/// What the pages hold that `pipe` refers to.
fn contents(pipe: impl Into<std::fs::File>) -> Result<Vec<u8>> {
    let mut bytes = vec![0; BLOCK * PAGE];
    pipe.into().read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Host memory that a call gives back while the function is being unbound is not written by jobs, which go on, once the call has returned.
pub(crate) fn what_is_discarded_meanwhile_is_not_written_afterwards() -> Result<()> {
    /// Blocks that are discarded before the one that is written: until then the function is gone.
    const BEFORE: usize = 1024;
    const FIRST: u64 = (BLOCK * PAGE) as u64;
    for _ in 0..2 {
        let function = vf(1)?;
        let (space, mapping) = mapped(&function, (1 + BEFORE) * BLOCK)?;
        let all = space.info()?.space_bytes;
        space.advise(0..all, Advice::Prefer(Some(Side::Host)))?;
        for block in 0..=BEFORE {
            mapping.set_word(block * BLOCK * PAGE, 1);
        }
        // From here on the device knows where all of the first block is, in host memory.
        device_stamps(&space, 0, BLOCK, 1)?;
        // These refer to it, too, and go on to when the space does not.
        let (now, later) = (pipe()?, pipe()?);
        for pipe in [&now, &later] {
            fcntl_setpipe_size(&pipe.1, BLOCK * PAGE)?;
        }
        let spliced = mapping.area(0, BLOCK * PAGE).vmsplice(&now.1)?;
        same("bytes in a pipe", spliced, BLOCK * PAGE)?;
        let teed = tee(&now.0, &later.1, BLOCK * PAGE, SpliceFlags::empty())?;
        same("bytes in another", teed, BLOCK * PAGE)?;
        let stamp = Stamp {
            output: 0,
            n: (BLOCK * WORDS) as u64,
            first: 0,
            generation: 2,
        };
        // In seconds.
        let _job = space.submit(&Task::from(stamp).strands(4).element_ps(50_000_000))?;
        let before = space.stats()?.invalidations;
        let begin = Barrier::new(2);
        let (at_once, result) = thread::scope(|scope| -> Result<_> {
            let (space, begin) = (&space, &begin);
            let others = scope.spawn(|| {
                begin.wait();
                space.discard(FIRST..all)
            });
            let written = scope.spawn(move || -> Result<Option<Vec<u8>>> {
                begin.wait();
                limit::until(20, "the others to be discarded", || {
                    Ok(space.stats()?.invalidations > before)
                })?;
                // Waits for them.
                match space.discard(0..FIRST) {
                    Ok(()) => Ok(Some(contents(now.0)?)),
                    // It came too late.
                    Err(error) if error.errno() == Some(Errno::NODEV) => Ok(None),
                    Err(error) => Err(error.into()),
                }
            });
            limit::until(20, "the discards to begin", || {
                Ok(space.stats()?.invalidations > before + 4)
            })?;
            let result = unbind(function.address);
            let at_once = written.join().map_err(|_| anyhow!("a panic"))??;
            // They had begun.
            others.join().map_err(|_| anyhow!("a panic"))??;
            Ok((at_once, result))
        })?;
        result?;
        if let Some(at_once) = at_once {
            model::equal("discarded", 0, &contents(later.0)?, &at_once)
                .context("written by a job, afterwards")?;
        }
        drop(mapping);
        bind(function.address)?;
    }
    Ok(())
}
