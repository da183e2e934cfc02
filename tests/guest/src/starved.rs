// SPDX-License-Identifier: GPL-2.0

//! Every single allocation, and every copy from or to user space, that a call makes fails once: one after the other, until the
//! call is through without one that could. It then gives an error that says so or works all the same, what it was about is as it was
//! or as it should be, and the next call works.
//!
//! What the driver's threads and work allocate is not the caller's: `torture-memory` refuses that at random.

use anyhow::{bail, ensure, Context, Result};
use libvfetch::{Function, Scope, Space, TraceKind};
use rustix::io::Errno;

use crate::{
    bounded,
    life::machine::have_vfs,
    mapped::{device_stamps, mapped, stamped_bytes},
    support::{
        buffer::Mapping,
        errno::Carries,
        machine::{leaves_nothing, pf, space, vf, PAGE},
        model,
        starve::{self, Starvation},
    },
    tap::Group,
    torture::bus::watch,
};

/// Pages that calls are about: more than a piece of a move, and of two pieces of a space that begin to be used.
const PAGES: usize = 40;
const BYTES: usize = PAGES * PAGE;

/// A call ends in less than so many of what can fail.
const MOST: u32 = 3000;

/// Has all that can fail in `call` fail, one after the other: each time with what `prepare` makes, and `check` looks at afterwards.
fn each<P, T, E: Carries>(
    what: &str,
    mut prepare: impl FnMut() -> Result<P>,
    mut call: impl FnMut(&P) -> Result<T, E>,
    mut check: impl FnMut(P, Option<T>) -> Result<()>,
) -> Result<()> {
    let starvation = Starvation::new()?;
    let mut errors = 0;
    for nth in 1..MOST {
        let prepared = prepare().with_context(|| format!("{what}, before the {nth}th"))?;
        let (result, failed) = starvation.nth(nth, || call(&prepared))?;
        let value = match result {
            Ok(value) => Some(value),
            Err(error) if failed && error.errno().is_some_and(starve::excuses) => {
                errors += 1;
                None
            }
            Err(error) => bail!("{what}, the {nth}th fails ({failed}): {error:?}"),
        };
        check(prepared, value).with_context(|| format!("{what}, after the {nth}th failed"))?;
        if !failed {
            println!("# {what}: {} can fail, {errors} are errors", nth - 1);
            ensure!(errors > 0, "{what}: nothing failed");
            return Ok(());
        }
    }
    bail!("{what}: there is no end")
}

/// A call, checked by nothing but that it works afterwards.
fn each_of<E: Carries>(
    what: &str,
    function: &Function,
    call: impl Fn(&Space) -> Result<(), E>,
) -> Result<()> {
    each(
        what,
        || space(function, BYTES as u64),
        &call,
        |space, _| call(&space).map_err(|error| anyhow::anyhow!("not even now: {error:?}")),
    )
}

/// Puts `test` on the PF and a VF, which get everything back.
fn on_both(test: impl Fn(&Function) -> Result<()>) -> Result<()> {
    have_vfs(2)?;
    for function in [pf()?, vf(1)?] {
        leaves_nothing(&function, || test(&function))
            .with_context(|| format!("on {}", function.role))?;
    }
    Ok(())
}

/// That a space works that has pages on both sides.
fn works(function: &Function) -> Result<()> {
    let (space, mapping) = mapped(function, PAGES)?;
    device_stamps(&space, 0, PAGES, 1)?;
    model::equal(
        "all of it",
        0,
        &mapping.copy(0..BYTES),
        &stamped_bytes(0, PAGES, 1),
    )
}

fn opening_and_setting() -> Result<()> {
    on_both(|function| {
        each(
            "open",
            || Ok(()),
            |()| Space::open(function),
            |(), _| works(function),
        )?;
        each_of("a size", function, |space| space.set_size(8 << 20))?;
        each(
            "a reservation",
            || Ok(Space::open(function)?),
            |space| space.reserve(2 << 20),
            |space, _| Ok(space.reserve(1 << 20)?),
        )?;
        each_of("limits", function, |space| {
            space.set_limits(Scope::Space, 4 << 20, 4 << 20)?;
            space.limits(Scope::Space).map(drop)
        })?;
        each_of("a policy", function, |space| {
            let policy = space.policy()?;
            space.set_policy(policy)
        })?;
        each_of("what is known", function, |space| {
            space.info()?;
            space.stats()?;
            space.places(0..BYTES as u64)?;
            space.residency(0..BYTES as u64).map(drop)
        })?;
        each_of("a trace", function, |space| {
            let kinds = [TraceKind::HostFault, TraceKind::DeviceFaults];
            space.trace(&kinds, 256)?.stop()
        })
    })
}

/// A space whose first pages are of generation 1: the first 10 on the host, the next 10 with the device, the rest never touched.
fn prepared(function: &Function) -> Result<(Space, Mapping)> {
    let (space, mapping) = mapped(function, PAGES)?;
    mapping.fill(0, &stamped_bytes(0, 10, 1));
    device_stamps(&space, 10, 10, 1)?;
    Ok((space, mapping))
}

/// What is in it.
fn contents() -> Vec<u8> {
    let mut contents = stamped_bytes(0, 20, 1);
    contents.resize(BYTES, 0);
    contents
}

/// That the space holds that.
fn as_before(space: &Space, mapping: &Mapping) -> Result<()> {
    let mut got = vec![0xee; BYTES];
    space.read_exact_at(&mut got, 0)?;
    model::equal("by read", 0, &got, &contents())?;
    model::equal("by the mapping", 0, &mapping.copy(0..BYTES), &contents())
}

fn reading_and_writing() -> Result<()> {
    on_both(|function| {
        each(
            "read",
            || prepared(function),
            |(space, _)| {
                let mut got = vec![0xee; BYTES];
                space.read_exact_at(&mut got, 0).map(|()| got)
            },
            |(space, mapping), got| {
                if let Some(got) = got {
                    model::equal("what was read", 0, &got, &contents())?;
                }
                as_before(&space, &mapping)
            },
        )?;
        let data = stamped_bytes(0, PAGES, 2);
        each(
            "write",
            || prepared(function),
            |(space, _)| space.write_all_at(&data, 0),
            |(space, mapping), written| {
                let mut got = mapping.copy(0..BYTES);
                if written.is_none() {
                    // Some of it may be there: whole words of either.
                    let words = |bytes: &[u8]| {
                        bytes
                            .chunks_exact(8)
                            .map(<[u8]>::to_vec)
                            .collect::<Vec<_>>()
                    };
                    let (old, new) = (words(&contents()), words(&data));
                    for (at, word) in words(&got).into_iter().enumerate() {
                        ensure!(
                            word == old[at] || word == new[at],
                            "word {at} is neither the old one nor the new one"
                        );
                    }
                    space.write_all_at(&data, 0)?;
                    got = mapping.copy(0..BYTES);
                }
                model::equal("what was written", 0, &got, &data)
            },
        )
    })
}

/// Loads, or stores to, a word of each page. The error is what SIGBUS means.
fn touch(mapping: &Mapping, store: bool) -> Result<Vec<u64>, Errno> {
    let (words, refused) = watch(mapping, || {
        (0..PAGES)
            .map(|page| {
                if store {
                    mapping.set_word(page * PAGE, page as u64);
                }
                mapping.word(page * PAGE)
            })
            .collect()
    });
    match refused {
        0 => Ok(words),
        _ => Err(Errno::IO),
    }
}

fn faults_come_again_until_there_is_memory() -> Result<()> {
    on_both(|function| {
        for (what, stores) in [("loads", false), ("stores", true)] {
            let starvation = Starvation::new()?;
            let mut nth = 0;
            loop {
                nth += 1;
                ensure!(nth < MOST, "there is no end");
                let (space, mapping) = prepared(function)?;
                let (words, failed) = starvation.nth(nth, || touch(&mapping, stores))?;
                let words = words.with_context(|| format!("{what}, the {nth}th fails"))?;
                let before = contents();
                for (page, word) in words.into_iter().enumerate() {
                    let old = u64::from_le_bytes(before[page * PAGE..][..8].try_into()?);
                    let wanted = if stores { page as u64 } else { old };
                    ensure!(
                        word == wanted,
                        "{what}, the {nth}th fails: {word:#x} in page {page}"
                    );
                }
                if !stores {
                    as_before(&space, &mapping)?;
                }
                if !failed {
                    println!("# {what}: {} can fail", nth - 1);
                    ensure!(nth > 1, "nothing failed");
                    break;
                }
            }
        }
        Ok(())
    })
}

fn jobs() -> Result<()> {
    on_both(|function| {
        each(
            "a job",
            || prepared(function),
            |(space, _)| {
                let task = libvfetch::Reduce {
                    input: 0,
                    n: (BYTES / 8) as u64,
                };
                space.submit(&task.into())?.wait()
            },
            |(space, mapping), _| as_before(&space, &mapping),
        )
    })
}

/// What is written needs what others have.
fn evictions() -> Result<()> {
    const MIB: usize = 1 << 20;
    have_vfs(2)?;
    let function = pf()?;
    leaves_nothing(&function, || {
        let data = stamped_bytes(0, PAGES, 2);
        each(
            "a write that evicts",
            || {
                let space = space(&function, (3 * MIB) as u64)?;
                space.set_limits(Scope::Space, 8 << 20, 2 << 20)?;
                space.write_all_at(&vec![7; 2 * MIB], 0)?;
                Ok(space)
            },
            |space| space.write_all_at(&data, (2 * MIB) as u64),
            |space, _| {
                space.write_all_at(&data, (2 * MIB) as u64)?;
                let mut got = vec![0; 2 * MIB + BYTES];
                space.read_exact_at(&mut got, 0)?;
                ensure!(
                    got[..2 * MIB].iter().all(|byte| *byte == 7),
                    "what was there is not"
                );
                model::equal("what was written", 0, &got[2 * MIB..], &data)
            },
        )
    })
}

/// The groups of this part.
pub(crate) fn groups() -> Vec<Group> {
    vec![Group {
        name: "starved",
        about: "each allocation of a call fails in turn (the debug kernel)",
        tests: bounded![100:
            opening_and_setting,
            reading_and_writing,
            faults_come_again_until_there_is_memory,
            jobs,
            evictions,
        ],
    }]
}
