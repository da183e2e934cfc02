// SPDX-License-Identifier: GPL-2.0

//! poll and epoll.

use std::{
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

use anyhow::{anyhow, ensure, Result};
use libvfetch::{Interest, Space};
use rustix::event::{
    epoll::{self, CreateFlags, EventData, EventFlags},
    poll, PollFd, PollFlags, Timespec,
};

use crate::support::{
    errno::same,
    machine::{pf, space, PAGE},
};

const ALL: PollFlags = PollFlags::IN
    .union(PollFlags::OUT)
    .union(PollFlags::RDNORM)
    .union(PollFlags::WRNORM)
    .union(PollFlags::PRI)
    .union(PollFlags::RDHUP);

/// What poll says at once.
fn now(space: &Space) -> Result<PollFlags> {
    let mut fds = [PollFd::new(space, ALL)];
    poll(
        &mut fds,
        Some(&Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        }),
    )?;
    Ok(fds[0].revents())
}

pub(crate) fn a_space_without_size_is_not_ready() -> Result<()> {
    let space = Space::open(&pf()?)?;
    let ready = PollFlags::IN | PollFlags::RDNORM | PollFlags::OUT | PollFlags::WRNORM;
    same("without a size", now(&space)?, PollFlags::empty())?;
    space.set_size(PAGE as u64)?;
    same("with a size", now(&space)?, ready)?;
    space.set_size(0)?;
    same("without a size again", now(&space)?, PollFlags::empty())?;
    let timed_out = space.wait(Interest::Readable, Some(Duration::from_millis(50)))?;
    ensure!(!timed_out.readable, "poll with a time-out: {timed_out:?}");
    Ok(())
}

pub(crate) fn whoever_polls_learns_of_a_size() -> Result<()> {
    let space = Space::open(&pf()?)?;
    for interest in [Interest::Readable, Interest::Writable] {
        thread::scope(|scope| {
            let waiter = scope.spawn(|| space.wait(interest, Some(Duration::from_secs(10))));
            thread::sleep(Duration::from_millis(200));
            let start = Instant::now();
            space.set_size(PAGE as u64)?;
            let found = waiter
                .join()
                .map_err(|_| anyhow!("the waiter panicked"))??;
            ensure!(found.readable || found.writable, "{interest:?}: {found:?}");
            // A poll that times out looks once more.
            let took = start.elapsed();
            ensure!(
                took < Duration::from_secs(3),
                "{interest:?}: it slept on for {took:?}"
            );
            anyhow::Ok(())
        })?;
        space.set_size(0)?;
    }
    Ok(())
}

pub(crate) fn an_edge_is_reported_once() -> Result<()> {
    let space = Space::open(&pf()?)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
    epoll::add(&epoll, space.as_fd(), EventData::new_u64(7), flags)?;
    let wait = |ms: i64| -> Result<Vec<(u64, EventFlags)>> {
        let mut events = Vec::with_capacity(4);
        let time = Timespec {
            tv_sec: ms / 1000,
            tv_nsec: ms % 1000 * 1_000_000,
        };
        epoll::wait(
            &epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&time),
        )?;
        Ok(events
            .iter()
            .map(|event| (event.data.u64(), event.flags))
            .collect())
    };
    same("without a size", wait(50)?.len(), 0)?;
    space.set_size(PAGE as u64)?;
    same(
        "with a size",
        wait(1000)?,
        vec![(7, EventFlags::IN | EventFlags::OUT)],
    )?;
    same("a second time", wait(50)?.len(), 0)?;
    // Level-triggered it is ready whenever asked.
    epoll::modify(&epoll, space.as_fd(), EventData::new_u64(8), EventFlags::IN)?;
    same("by level", wait(0)?.len(), 1)?;
    same("by level, again", wait(0)?.len(), 1)?;
    // Closing takes it off.
    let other = space_on_pf()?;
    epoll::add(&epoll, other.as_fd(), EventData::new_u64(9), EventFlags::IN)?;
    same("two", wait(0)?.len(), 2)?;
    drop(other);
    same("one closed", wait(0)?.len(), 1)
}

fn space_on_pf() -> Result<Space> {
    space(&pf()?, PAGE as u64)
}
