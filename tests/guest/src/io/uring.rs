// SPDX-License-Identifier: GPL-2.0

//! io_uring.
#![allow(unsafe_code)]

use std::{
    mem,
    os::fd::{AsFd, AsRawFd},
};

use anyhow::{ensure, Context, Result};
use io_uring::{
    opcode,
    squeue::{Entry, Flags},
    types::Fd,
    IoUring,
};
use libvfetch::{Options, Space};

use crate::support::{
    buffer::{Area, Mapping},
    errno::same,
    machine::{leaves_nothing, pf, space, vf, PAGE},
    model::{self, pattern},
};

/// A read of a space to an area, or a write from one.
pub(crate) fn request(space: &Space, write: bool, area: Area, offset: u64) -> Entry {
    let fd = Fd(space.as_fd().as_raw_fd());
    let bytes = area.bytes().try_into().unwrap_or(u32::MAX);
    if write {
        opcode::Write::new(fd, area.address(), bytes)
            .offset(offset)
            .build()
    } else {
        opcode::Read::new(fd, area.address(), bytes)
            .offset(offset)
            .build()
    }
}

/// Puts requests, numbered from 0, into the ring's queue.
pub(crate) fn push(ring: &mut IoUring, requests: impl IntoIterator<Item = Entry>) -> Result<()> {
    for (number, request) in (0..).zip(requests) {
        // SAFETY: Buffers are areas of mappings: nothing refers to them, and what the kernel writes there
        // disturbs nobody. The tests keep the mappings until the requests have ended.
        unsafe {
            ring.submission()
                .push(&request.user_data(number))
                .context("the ring is full")?;
        };
    }
    Ok(())
}

/// Submits what is queued, waits for `count` requests and gives their results by number.
pub(crate) fn finish(ring: &mut IoUring, count: usize) -> Result<Vec<i32>> {
    ring.submit_and_wait(count)?;
    let mut results = vec![i32::MIN; count];
    for entry in ring.completion() {
        let place = results
            .get_mut(usize::try_from(entry.user_data())?)
            .context("an unknown request")?;
        *place = entry.result();
    }
    Ok(results)
}

pub(crate) fn many_requests_in_flight_move_their_data() -> Result<()> {
    const DEPTH: usize = 64;
    let function = vf(1)?;
    leaves_nothing(&function, || {
        let slot = 70_001;
        let space = space(&function, (DEPTH * slot).next_multiple_of(PAGE) as u64)?;
        let mut ring = IoUring::new(64)?;
        let buffers = Mapping::anonymous(DEPTH * slot)?;
        // As io_uring likes, and each by a worker thread of its own, so that they really overlap.
        for (write, flags) in [(1, Flags::empty()), (2, Flags::ASYNC), (3, Flags::ASYNC)] {
            let data = pattern(101, write, 0, DEPTH * slot);
            buffers.fill(0, &data);
            let requests = |writing: bool| {
                let (space, buffers) = (&space, &buffers);
                (0..DEPTH).map(move |n| {
                    request(
                        space,
                        writing,
                        buffers.area(n * slot, slot),
                        (n * slot) as u64,
                    )
                    .flags(flags)
                })
            };
            push(&mut ring, requests(true))?;
            let wanted = vec![i32::try_from(slot)?; DEPTH];
            same("writes", finish(&mut ring, DEPTH)?, wanted.clone())?;
            buffers.fill(0, &vec![0xee; DEPTH * slot]);
            push(&mut ring, requests(false))?;
            same("reads", finish(&mut ring, DEPTH)?, wanted)?;
            model::equal("read by io_uring", 0, &buffers.copy(0..DEPTH * slot), &data)?;
            let mut got = vec![0; DEPTH * slot];
            space.read_exact_at(&mut got, 0)?;
            model::equal("written by io_uring", 0, &got, &data)?;
        }
        // Ends and errors are those of read and write.
        let end = space.info()?.space_bytes;
        let requests = [
            request(&space, false, buffers.area(0, 100), end),
            request(&space, true, buffers.area(0, 100), end),
            request(&space, false, buffers.area(0, 100), end - 60),
            request(&space, true, buffers.area(0, 100), end - 60),
            request(&space, false, Area::nowhere(0, 100), 0),
            request(&space, true, Area::nowhere(0, 100), 0),
            request(&space, false, buffers.area(0, 0), 0),
        ];
        push(&mut ring, requests)?;
        let wanted = vec![0, -libc::ENOSPC, 60, 60, -libc::EFAULT, -libc::EFAULT, 0];
        same("at the ends", finish(&mut ring, 7)?, wanted)
    })
}

pub(crate) fn vectors_and_registered_buffers_work() -> Result<()> {
    let space = space(&pf()?, 64 * PAGE as u64)?;
    let buffers = Mapping::anonymous(32 * PAGE)?;
    let data = pattern(102, 1, 0, 32 * PAGE);
    buffers.fill(0, &data);
    let mut ring = IoUring::new(8)?;
    let fd = Fd(space.as_fd().as_raw_fd());
    let vector = |part: (usize, usize)| libc::iovec {
        iov_base: buffers.area(part.0, part.1).address().cast(),
        iov_len: part.1,
    };
    let parts = [
        vector((0, 1)),
        vector((1, 5000)),
        vector((5001, 0)),
        vector((5001, 32 * PAGE - 5001)),
    ];
    push(
        &mut ring,
        [opcode::Writev::new(fd, parts.as_ptr(), 4).offset(7).build()],
    )?;
    let whole = i32::try_from(32 * PAGE)?;
    same("writev", finish(&mut ring, 1)?, vec![whole])?;
    buffers.fill(0, &vec![0xee; 32 * PAGE]);
    push(
        &mut ring,
        [opcode::Readv::new(fd, parts.as_ptr(), 4).offset(7).build()],
    )?;
    same("readv", finish(&mut ring, 1)?, vec![whole])?;
    model::equal("readv", 7, &buffers.copy(0..32 * PAGE), &data)?;

    // Buffers that the kernel has pinned beforehand: no user memory by then, but pages.
    // SAFETY: The mapping stays until the ring is dropped below.
    unsafe {
        ring.submitter()
            .register_buffers(&[vector((0, 32 * PAGE))])?;
    };
    let data = pattern(102, 2, 0, 20 * PAGE);
    buffers.fill(777, &data);
    let length = u32::try_from(20 * PAGE)?;
    let moved = vec![i32::try_from(20 * PAGE)?];
    let at = buffers.area(777, 20 * PAGE).address();
    push(
        &mut ring,
        [opcode::WriteFixed::new(fd, at, length, 0)
            .offset(1001)
            .build()],
    )?;
    same(
        "a registered buffer written",
        finish(&mut ring, 1)?,
        moved.clone(),
    )?;
    buffers.fill(0, &vec![0xee; 32 * PAGE]);
    push(
        &mut ring,
        [opcode::ReadFixed::new(fd, at, length, 0)
            .offset(1001)
            .build()],
    )?;
    same(
        "a registered buffer read",
        finish(&mut ring, 1)?,
        moved.clone(),
    )?;
    model::equal(
        "a registered buffer",
        0,
        &buffers.copy(777..777 + 20 * PAGE),
        &data,
    )?;
    // Zeros come to it by another way. The space's last 10 pages were never written.
    push(
        &mut ring,
        [opcode::ReadFixed::new(fd, at, 5000, 0)
            .offset(54 * PAGE as u64 + 5)
            .build()],
    )?;
    same(
        "zeros to a registered buffer",
        finish(&mut ring, 1)?,
        vec![5000],
    )?;
    model::zeros("zeros", 0, &buffers.copy(777..5777))?;
    let beside = [
        buffers.copy(0..777),
        buffers.copy(777 + 20 * PAGE..32 * PAGE),
    ]
    .concat();
    ensure!(
        beside.iter().all(|byte| *byte == 0xee),
        "it wrote beside the buffer"
    );
    drop(ring);
    Ok(())
}

pub(crate) fn a_nonblocking_file_works() -> Result<()> {
    let space = Options::new().nonblocking(true).open(&pf()?)?;
    space.set_size(64 * PAGE as u64)?;
    let buffers = Mapping::anonymous(16 * PAGE)?;
    let data = pattern(103, 1, 0, 16 * PAGE);
    buffers.fill(0, &data);
    let mut ring = IoUring::new(16)?;
    for writing in [true, false] {
        let requests = (0..16).map(|n| {
            request(
                &space,
                writing,
                buffers.area(n * PAGE, PAGE),
                (n * PAGE) as u64 + 3,
            )
        });
        push(&mut ring, requests)?;
        same(
            "results",
            finish(&mut ring, 16)?,
            vec![i32::try_from(PAGE)?; 16],
        )?;
        if writing {
            buffers.fill(0, &vec![0xee; 16 * PAGE]);
        }
    }
    model::equal("read by io_uring", 3, &buffers.copy(0..16 * PAGE), &data)?;
    // It polls, too.
    let fd = Fd(space.as_fd().as_raw_fd());
    let wanted = libc::POLLIN | libc::POLLOUT;
    let mask = u32::try_from(wanted)?;
    push(&mut ring, [opcode::PollAdd::new(fd, mask).build()])?;
    same("poll", finish(&mut ring, 1)?, vec![i32::from(wanted)])
}

pub(crate) fn a_ring_closed_with_requests_in_flight_leaves_nothing() -> Result<()> {
    let function = vf(2)?;
    for round in 0..10u64 {
        leaves_nothing(&function, || {
            let space = space(&function, 8 << 20)?;
            let buffers = Mapping::anonymous(8 << 20)?;
            let mut ring = IoUring::new(16)?;
            let requests = (0..16).map(|n| {
                let area = buffers.area(n << 19, 1 << 19);
                request(&space, n % 2 == 0, area, (n << 19) as u64).flags(Flags::ASYNC)
            });
            push(&mut ring, requests)?;
            ring.submit()?;
            if round % 2 == 0 {
                drop(ring);
                drop(space);
            } else {
                drop(space);
                drop(ring);
            }
            // Requests may go on for a moment: the memory has to stay.
            mem::forget(buffers);
            Ok(())
        })?;
    }
    Ok(())
}

/// Polled by a ring, a file may make use of two wait queues at most.
pub(crate) fn a_ring_polls_a_space() -> Result<()> {
    let function = vf(1)?;
    leaves_nothing(&function, || {
        let space = Space::open(&function)?;
        let fd = Fd(space.as_fd().as_raw_fd());
        let mut ring = IoUring::new(4)?;
        let wanted = libc::POLLIN as u32;
        push(&mut ring, [opcode::PollAdd::new(fd, wanted).build()])?;
        ring.submit()?;
        ensure!(
            ring.completion().next().is_none(),
            "a space without a size is ready, or cannot be polled"
        );
        space.set_size(PAGE as u64)?;
        let got = finish(&mut ring, 1)?;
        same("what is ready", got, vec![i32::from(libc::POLLIN)])
    })
}
