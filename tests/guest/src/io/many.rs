// SPDX-License-Identifier: GPL-2.0

//! As many functions as a device is asked to have.

use std::{sync::Barrier, thread};

use anyhow::{anyhow, ensure, Context, Result};
use libvfetch::{Function, Role, Space};

use crate::support::{
    errno::same,
    machine::{functions, given, PAGE},
    model::{self, pattern, Model},
};

/// A space of all memory of a function.
fn take_all(function: &Function) -> Result<Space> {
    let space = Space::open(function)?;
    let bytes = space.info()?.free_bytes;
    ensure!(bytes >= 1 << 20, "only {bytes} bytes");
    space.reserve(bytes)?;
    Ok(space)
}

/// Writes all of it in large pieces, and parts of it again.
fn fill(function: &Function, space: &Space) -> Result<Model> {
    let owner = u16::try_from(function.node)? + 1000;
    let bytes = usize::try_from(space.info()?.space_bytes)?;
    let mut model = Model::new(owner, bytes);
    let mut random = model::random(u64::from(owner));
    let mut write = |offset: usize, length: usize| -> Result<()> {
        let data = model.next(offset, length);
        space.write_all_at(&data, offset as u64)?;
        model.wrote(offset, &data);
        Ok(())
    };
    for at in (0..bytes).step_by(1 << 20) {
        write(at, (1 << 20).min(bytes - at))?;
    }
    for _ in 0..20 {
        let (offset, length) = model::range(&mut random, bytes, 200_000);
        write(offset, length)?;
    }
    Ok(model)
}

pub(crate) fn sixty_four_functions_move_data_at_once() -> Result<()> {
    let functions = functions()?;
    same("functions", functions.len(), 64)?;
    same(
        "PFs",
        functions.iter().filter(|f| f.role == Role::Pf).count(),
        1,
    )?;
    let before: Vec<_> = functions.iter().map(given).collect::<Result<_>>()?;
    let start = Barrier::new(functions.len());
    thread::scope(|scope| {
        let threads: Vec<_> = functions
            .iter()
            .map(|function| {
                let start = &start;
                scope.spawn(move || -> Result<()> {
                    // All have all their memory before anybody writes, and have written before anybody
                    // reads. Whoever fails comes to the barriers all the same.
                    let space = take_all(function);
                    start.wait();
                    let model = space.as_ref().map(|space| fill(function, space));
                    start.wait();
                    let (space, model) = (space.as_ref().map_err(|e| anyhow!("{e:?}"))?, model);
                    let model = model.map_err(|e| anyhow!("{e:?}"))??;
                    let mut got = vec![0; model.len()];
                    space.read_exact_at(&mut got, 0)?;
                    model.check("all of it", 0, &got)
                })
            })
            .collect();
        for (thread, function) in threads.into_iter().zip(&functions) {
            thread
                .join()
                .map_err(|_| anyhow!("panicked"))?
                .with_context(|| format!("{}, {}", function.role, function.path.display()))?;
        }
        anyhow::Ok(())
    })?;
    let after: Vec<_> = functions.iter().map(given).collect::<Result<_>>()?;
    ensure!(
        before == after,
        "not all came back: {before:?} before, {after:?} after"
    );
    // A second time, by the next owners.
    for function in &functions {
        let space = crate::support::machine::space(function, PAGE as u64)?;
        space.write_all_at(&pattern(1, 1, 0, 1), 0)?;
        let mut got = vec![0xee; PAGE];
        space.read_exact_at(&mut got, 0)?;
        model::zeros("the next owner's page", 1, got.get(1..).unwrap_or_default())?;
    }
    Ok(())
}
