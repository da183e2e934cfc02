// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A hash join: one relation becomes a hash table, the other looks its keys up.

use super::{bytes, param, rng, Kind, Values, MIB, SEED};
use crate::record::{Array, Recorder};
use rand::{seq::SliceRandom, Rng};

pub(super) const KIND: Kind = Kind {
    name: "hashjoin",
    about: "builds an open hash table of one relation, probes it with another, writes what matches",
    params: &[
        MIB,
        SEED,
        param(
            "matches",
            70,
            0,
            100,
            "probes that find a partner, in per cent",
        ),
        param("tuples", 1024, 16, 1 << 20, "tuples that are one item"),
    ],
    file: None,
    run,
};

/// Key and payload. Key 0 is no key.
type Tuple = [u64; 2];

fn run(v: &Values<'_>, r: &mut Recorder) -> anyhow::Result<()> {
    // Of n tuples to build with: themselves, a table of 2 n or more slots, 2 n to probe with, and the result.
    let tuples = (bytes(v.get("mib")) / 16 / 7).max(16);
    let n = (1_u64 << tuples.ilog2()).max(16) as usize;
    let mut rng = rng(v.get("seed"));
    let mut keys: Vec<u64> = (1..=n as u64).map(|k| k * 2).collect();
    keys.shuffle(&mut rng);
    let build = keys.into_iter().map(|k| [k, rng.random()]).collect();
    let probe = (0..2 * n)
        .map(|_| {
            let key = rng.random_range(1..=n as u64) * 2;
            let found = rng.random_range(0..100) < v.get("matches");
            [key + u64::from(!found), rng.random()]
        })
        .collect();
    join(r, build, probe, v.size("tuples"));
    Ok(())
}

/// Payloads of both sides, for each probe that has a partner.
fn join(r: &mut Recorder, build: Vec<Tuple>, probe: Vec<Tuple>, per_item: usize) -> Vec<Tuple> {
    let slots = (build.len() * 2).next_power_of_two();
    let slot = |key: u64| (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) as usize & (slots - 1);
    let build = r.array(build);
    let mut table: Array<Tuple> = r.array(vec![[0; 2]; slots]);
    let probe = r.array(probe);
    let mut out: Array<Tuple> = r.array(vec![[0; 2]; probe.len()]);
    for i in 0..build.len() {
        if i % per_item == 0 {
            r.item();
        }
        let tuple = build.get(r, i);
        let mut at = slot(tuple[0]);
        while table.get(r, at)[0] != 0 {
            at = (at + 1) & (slots - 1);
        }
        table.set(r, at, tuple);
    }
    r.barrier();
    let mut found = 0;
    for i in 0..probe.len() {
        if i % per_item == 0 {
            r.item();
        }
        let tuple = probe.get(r, i);
        let mut at = slot(tuple[0]);
        loop {
            let entry = table.get(r, at);
            if entry[0] == tuple[0] {
                out.set(r, found, [entry[1], tuple[1]]);
                found += 1;
            }
            if entry[0] == tuple[0] || entry[0] == 0 {
                break;
            }
            at = (at + 1) & (slots - 1);
        }
    }
    out.run(&mut Recorder::new(1), 0..found).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_joins_as_nested_loops_do() {
        let build: Vec<Tuple> = (1..40).map(|k| [k * 3, k + 1000]).collect();
        let probe: Vec<Tuple> = (1..200).map(|k| [k % 90 + 1, k]).collect();
        let mut plain = Vec::new();
        for p in &probe {
            for b in &build {
                if p[0] == b[0] {
                    plain.push([b[1], p[1]]);
                }
            }
        }
        assert!(plain.len() > 50);
        let mut r = Recorder::new(64);
        assert_eq!(join(&mut r, build, probe, 16), plain);
    }
}
