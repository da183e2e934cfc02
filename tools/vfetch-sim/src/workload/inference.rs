// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Inference, layer by layer: the weights stream through once for each input, the activations are used again.

use super::{bytes, param, rng, Kind, Values, MIB, SEED};
use crate::record::{Array, Recorder};
use rand::Rng;

pub(super) const KIND: Kind = Kind {
    name: "inference",
    about: "dense layers with ReLU; the host writes each input and reads each result",
    params: &[
        MIB,
        SEED,
        param("width", 1024, 16, 1 << 16, "inputs and outputs of a layer"),
        param("inputs", 4, 1, 10000, "inputs, one after the other"),
        param("rows", 64, 1, 1 << 16, "outputs that are one item"),
    ],
    file: None,
    run,
};

fn run(v: &Values<'_>, r: &mut Recorder) -> anyhow::Result<()> {
    let width = v
        .size("width")
        .min(((bytes(v.get("mib")) / 16) as f64).sqrt() as usize);
    let layers = (bytes(v.get("mib")) as usize / (4 * width * width)).max(1);
    let mut rng = rng(v.get("seed"));
    let scale = 2.0 / (width as f32).sqrt();
    let weights = (0..layers * width * width)
        .map(|_| rng.random_range(-scale..scale))
        .collect();
    let inputs = (0..v.size("inputs"))
        .map(|_| (0..width).map(|_| rng.random::<f32>()).collect())
        .collect();
    infer(r, width, weights, inputs, v.size("rows"));
    Ok(())
}

/// The results, one for each input.
fn infer(
    r: &mut Recorder,
    width: usize,
    weights: Vec<f32>,
    inputs: Vec<Vec<f32>>,
    rows: usize,
) -> Vec<Vec<f32>> {
    let layers = weights.len() / (width * width);
    let weights = r.array(weights);
    let mut from: Array<f32> = r.array(vec![0.0; width]);
    let mut to: Array<f32> = r.array(vec![0.0; width]);
    let mut results = Vec::new();
    for input in inputs {
        r.host();
        from.run_mut(r, 0..width).copy_from_slice(&input);
        for layer in 0..layers {
            r.barrier();
            for first in (0..width).step_by(rows) {
                r.item();
                for row in first..(first + rows).min(width) {
                    let at = (layer * width + row) * width;
                    let x = from.run(r, 0..width);
                    let w = weights.run(r, at..at + width);
                    let sum: f32 = w.iter().zip(x).map(|(w, x)| w * x).sum();
                    to.set(r, row, sum.max(0.0));
                }
            }
            std::mem::swap(&mut from, &mut to);
        }
        r.host();
        results.push(from.run(r, 0..width).to_vec());
    }
    r.barrier();
    results
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_multiply_and_cut_at_zero() {
        // Layer 1 swaps and negates the second; layer 2 adds both up.
        let weights = vec![0.0, 1.0, -1.0, 0.0, 1.0, 1.0, 0.0, 2.0];
        let mut r = Recorder::new(64);
        let out = infer(&mut r, 2, weights, vec![vec![3.0, 4.0], vec![-5.0, 1.0]], 1);
        assert_eq!(out, [[4.0, 0.0], [6.0, 10.0]]);
        let t = r.finish("i".into()).unwrap();
        let hosts = t
            .items
            .iter()
            .filter(|i| i.side == crate::trace::Side::Host);
        assert_eq!(hosts.count(), 4);
    }
}
