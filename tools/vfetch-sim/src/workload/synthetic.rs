// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Small kernels that are one pattern each.

use super::{bytes, param, rng, Kind, Values, MIB, SEED};
use crate::{
    record::{Array, Recorder},
    trace::{BLOCK_PAGES, PAGE_BYTES},
};
use rand::{seq::SliceRandom, Rng};

const PAGE: usize = PAGE_BYTES as usize;
const BLOCK: usize = BLOCK_PAGES as usize;

pub(super) const TRIAD: Kind = Kind {
    name: "triad",
    about: "STREAM's triad: a = b + s c, of 8-byte floats",
    params: &[
        MIB,
        SEED,
        param("rounds", 3, 1, 10000, "how often"),
        param("elements", 8192, 64, 1 << 24, "elements that are one item"),
    ],
    file: None,
    run: run_triad,
};

fn run_triad(v: &Values<'_>, r: &mut Recorder) -> anyhow::Result<()> {
    let n = bytes(v.get("mib")) as usize / 24;
    let mut rng = rng(v.get("seed"));
    let mut random = || (0..n).map(|_| rng.random::<f64>()).collect();
    let (b, c) = (random(), random());
    triad(r, b, c, v.size("rounds"), v.size("elements"));
    Ok(())
}

fn triad(r: &mut Recorder, b: Vec<f64>, c: Vec<f64>, rounds: usize, per_item: usize) -> Array<f64> {
    let n = b.len();
    let mut a = r.array(vec![0.0; n]);
    let (b, c) = (r.array(b), r.array(c));
    for _ in 0..rounds {
        r.barrier();
        for first in (0..n).step_by(per_item) {
            r.item();
            // A page at a time of each, as a loop would.
            for at in (first..(first + per_item).min(n)).step_by(PAGE / 8) {
                let end = (at + PAGE / 8).min(first + per_item).min(n);
                let (b, c) = (b.run(r, at..end), c.run(r, at..end));
                for ((a, b), c) in a.run_mut(r, at..end).iter_mut().zip(b).zip(c) {
                    *a = b + 3.0 * c;
                }
            }
        }
    }
    a
}

pub(super) const GATHER: Kind = Kind {
    name: "gather",
    about: "out[i] = table[index[i]] with random indices",
    params: &[
        MIB,
        SEED,
        param("draws", 200_000, 1, 1 << 28, "gathered elements"),
        param("elements", 512, 16, 1 << 24, "elements that are one item"),
    ],
    file: None,
    run: run_gather,
};

fn run_gather(v: &Values<'_>, r: &mut Recorder) -> anyhow::Result<()> {
    let n = bytes(v.get("mib")) as usize / 8;
    let mut rng = rng(v.get("seed"));
    let table = (0..n).map(|_| rng.random()).collect();
    let index = (0..v.size("draws"))
        .map(|_| rng.random_range(0..n as u32))
        .collect();
    gather(r, table, index, v.size("elements"));
    Ok(())
}

fn gather(r: &mut Recorder, table: Vec<u64>, index: Vec<u32>, per_item: usize) -> Array<u64> {
    let table = r.array(table);
    let mut out = r.array(vec![0; index.len()]);
    let index = r.array(index);
    for i in 0..index.len() {
        if i % per_item == 0 {
            r.item();
        }
        let at = index.get(r, i);
        let value = table.get(r, at as usize);
        out.set(r, i, value);
    }
    out
}

pub(super) const SPARSE_BLOCKS: Kind = Kind {
    name: "kof512",
    about:
        "K of the 512 pages of each 2 MiB block, blocks in random order: bad for eager prefetching",
    params: &[
        param(
            "mib",
            16,
            1,
            4096,
            "working set in MiB, about; the space is 512/K of it",
        ),
        SEED,
        param(
            "k",
            32,
            1,
            512,
            "pages that are touched of a block, in a round",
        ),
        param("rounds", 4, 1, 10000, "rounds over all blocks"),
        param(
            "fresh",
            0,
            0,
            1,
            "1: other pages in each round; 0: the same ones",
        ),
        param("pages", 8, 1, 512, "touched pages that are one item"),
    ],
    file: None,
    run: run_sparse,
};

fn run_sparse(v: &Values<'_>, r: &mut Recorder) -> anyhow::Result<()> {
    let blocks = (bytes(v.get("mib")) as usize / PAGE / v.size("k")).max(1);
    let mut rng = rng(v.get("seed"));
    let fresh = v.get("fresh") == 1;
    let mut data: Array<u64> = r.array((0..(blocks * BLOCK * PAGE / 8) as u64).collect());
    let mut order: Vec<usize> = (0..blocks).collect();
    let mut chosen: Vec<Vec<usize>> = vec![Vec::new(); blocks];
    for round in 0..v.size("rounds") {
        r.barrier();
        order.shuffle(&mut rng);
        for block in &order {
            if round == 0 || fresh {
                let mut pages: Vec<usize> = (0..BLOCK).collect();
                chosen[*block] = pages.partial_shuffle(&mut rng, v.size("k")).0.to_vec();
            }
            for pages in chosen[*block].chunks(v.size("pages")) {
                r.item();
                for page in pages {
                    let at = (block * BLOCK + page) * PAGE / 8;
                    let sum = data.run(r, at..at + 16).iter().fold(0_u64, |a, b| a ^ b);
                    data.set(r, at + 16, sum);
                }
            }
        }
    }
    Ok(())
}

pub(super) const CYCLIC: Kind = Kind {
    name: "cyclic",
    about: "reads all of an array again and again: the worst there is for least recently used",
    params: &[
        MIB,
        SEED,
        param("rounds", 4, 1, 10000, "how often"),
        param("pages", 16, 1, 1 << 20, "pages that are one item"),
    ],
    file: None,
    run: run_cyclic,
};

fn run_cyclic(v: &Values<'_>, r: &mut Recorder) -> anyhow::Result<()> {
    let n = bytes(v.get("mib")) as usize / 8;
    let mut rng = rng(v.get("seed"));
    let data: Array<u64> = r.array((0..n).map(|_| rng.random()).collect());
    let per_item = v.size("pages") * PAGE / 8;
    let mut sum = 0_u64;
    for _ in 0..v.size("rounds") {
        r.barrier();
        for first in (0..n).step_by(per_item) {
            r.item();
            let run = data.run(r, first..(first + per_item).min(n));
            sum = run.iter().fold(sum, |sum, value| sum.wrapping_add(*value));
        }
    }
    std::hint::black_box(sum);
    Ok(())
}

pub(super) const EXCHANGE: Kind = Kind {
    name: "exchange",
    about: "sums an array in pieces; device and host pass the sums to and fro through a few pages, which thrash",
    params: &[
        MIB,
        SEED,
        param("pages", 16, 1, 1 << 20, "pages of the array that are one piece"),
        param("hot", 2, 1, 512, "pages that sums are passed through, in turn"),
    ],
    file: None,
    run: run_exchange,
};

fn run_exchange(v: &Values<'_>, r: &mut Recorder) -> anyhow::Result<()> {
    let n = bytes(v.get("mib")) as usize / 8;
    let mut rng = rng(v.get("seed"));
    let data = (0..n).map(|_| rng.random()).collect();
    exchange(r, data, v.size("pages") * PAGE / 8, v.size("hot"));
    Ok(())
}

/// The sum of `data`, as the host has it in the end.
fn exchange(r: &mut Recorder, data: Vec<u64>, per_piece: usize, hot: usize) -> u64 {
    let n = data.len();
    let data = r.array(data);
    let mut mail = r.array(vec![0_u64; hot * PAGE / 8]);
    let mut total = 0_u64;
    for (piece, first) in (0..n).step_by(per_piece).enumerate() {
        r.barrier();
        r.item();
        let slot = piece % hot * PAGE / 8;
        let run = data.run(r, first..(first + per_piece).min(n));
        let sum = run
            .iter()
            .fold(0_u64, |sum, value| sum.wrapping_add(*value));
        mail.set(r, slot, sum);
        r.host();
        total = total.wrapping_add(mail.get(r, slot));
        mail.set(r, slot, 0);
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Side;

    #[test]
    fn the_triad_adds_and_multiplies() {
        let b: Vec<f64> = (0..3000).map(f64::from).collect();
        let c: Vec<f64> = (0..3000).map(|i| f64::from(i % 7)).collect();
        let plain: Vec<f64> = b.iter().zip(&c).map(|(b, c)| b + 3.0 * c).collect();
        let mut r = Recorder::new(64);
        assert_eq!(triad(&mut r, b, c, 2, 1000).data(), plain);
        assert_eq!(r.finish("t".into()).unwrap().accesses(), 2 * 3 * 3000);
    }

    #[test]
    fn the_gather_gathers() {
        let table: Vec<u64> = (0..5000).map(|i| i * 3).collect();
        let index: Vec<u32> = (0..700).map(|i| (i * 7919) % 5000).collect();
        let plain: Vec<u64> = index.iter().map(|i| table[*i as usize]).collect();
        let mut r = Recorder::new(64);
        assert_eq!(gather(&mut r, table, index, 64).data(), plain);
    }

    #[test]
    fn what_is_exchanged_is_the_sum() {
        let data: Vec<u64> = (0..5000).collect();
        let mut r = Recorder::new(64);
        let sum: u64 = data.iter().sum();
        assert_eq!(exchange(&mut r, data, 512, 2), sum);
        let t = r.finish("t".into()).unwrap();
        let sides: Vec<_> = t.items.iter().map(|item| item.side).collect();
        assert_eq!(sides[..2], [Side::Device, Side::Host]);
        assert_eq!(sides.len(), 2 * 5000_usize.div_ceil(512));
    }

    #[test]
    fn k_of_512_touches_exactly_k_of_each_block() {
        let t = super::super::record(&"kof512:mib=1,k=64,rounds=2".parse().unwrap(), 64).unwrap();
        let s = crate::trace::stats::of(&t);
        assert_eq!((s.blocks, s.pages_per_block), (4, [64, 64, 64]));
        assert_eq!(s.touches, 2 * 4 * 64);
    }
}
