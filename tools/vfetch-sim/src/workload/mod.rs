// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Programs that run, on data that they make or are given, and whose accesses become traces.
//!
//! Each is the real algorithm; its tests compare what it computes with a plain version.

mod conv;
mod dense;
mod fft;
mod graph;
mod inference;
mod join;
mod mesh;
mod sparse;
mod spec;
mod stencil;
mod synthetic;

pub(crate) use spec::{list, record, Spec, Values};

use rand::SeedableRng;
use rand_pcg::Pcg64;

use crate::record::Recorder;

/// A parameter of a workload: a whole number.
#[derive(Debug)]
pub(crate) struct Param {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) default: u64,
    pub(crate) least: u64,
    pub(crate) most: u64,
}

/// A kind of workload.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) params: &'static [Param],
    /// What a file can be given for, with `file=`.
    pub(crate) file: Option<&'static str>,
    pub(crate) run: fn(&Values<'_>, &mut Recorder) -> anyhow::Result<()>,
}

const fn param(
    name: &'static str,
    default: u64,
    least: u64,
    most: u64,
    about: &'static str,
) -> Param {
    Param {
        name,
        about,
        default,
        least,
        most,
    }
}

/// The size that most have.
const MIB: Param = param("mib", 32, 1, 65536, "working set, about, in MiB");
/// The seed of what is random.
const SEED: Param = param("seed", 1, 0, u64::MAX, "of all that is random");

/// All kinds.
pub(crate) const KINDS: &[Kind] = &[
    stencil::KIND,
    mesh::KIND,
    conv::KIND,
    inference::KIND,
    graph::BFS,
    graph::PAGERANK,
    sparse::SPMV,
    sparse::BANDED,
    dense::KIND,
    fft::KIND,
    join::KIND,
    synthetic::TRIAD,
    synthetic::GATHER,
    synthetic::SPARSE_BLOCKS,
    synthetic::CYCLIC,
    synthetic::EXCHANGE,
];

fn rng(seed: u64) -> Pcg64 {
    Pcg64::seed_from_u64(seed)
}

/// The bytes of `mib`.
fn bytes(mib: u64) -> u64 {
    mib << 20
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_runs_at_a_small_size_and_twice_the_same() {
        for kind in KINDS {
            let spec: Spec = format!("{}:mib=2", kind.name).parse().unwrap();
            let one = record(&spec, 64).unwrap();
            assert_eq!(one, record(&spec, 64).unwrap(), "{}", kind.name);
            let set = u64::from(one.working_set()) * 4096;
            assert!(
                set > 1 << 19 && set < 5 << 20,
                "{}: 'mib=2' touches {set} bytes",
                kind.name
            );
            assert!(one.items.len() >= 4, "{}: {}", kind.name, one.items.len());
        }
    }
}
