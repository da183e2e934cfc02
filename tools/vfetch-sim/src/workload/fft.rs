// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The fast Fourier transform, by Stockham's self-sorting passes.

use super::{bytes, param, rng, Kind, Values, MIB, SEED};
use crate::record::{Array, Recorder};
use rand::Rng;

pub(super) const KIND: Kind = Kind {
    name: "fft",
    about: "1-D FFT of complex 4-byte floats: passes over two arrays, in two strides each",
    params: &[
        MIB,
        SEED,
        param(
            "butterflies",
            4096,
            64,
            1 << 20,
            "butterflies that are one item",
        ),
    ],
    file: None,
    run,
};

type Complex = [f32; 2];

fn run(v: &Values<'_>, r: &mut Recorder) -> anyhow::Result<()> {
    let elements = bytes(v.get("mib")) / 16;
    let log = elements.max(2).ilog2();
    let mut rng = rng(v.get("seed"));
    let signal = (0..1_usize << log)
        .map(|_| [rng.random_range(-1.0..1.0), rng.random_range(-1.0..1.0)])
        .collect();
    transform(r, signal, v.size("butterflies"));
    Ok(())
}

/// The transform of `signal`, whose length is a power of two, at least 2.
fn transform(r: &mut Recorder, signal: Vec<Complex>, per_item: usize) -> Array<Complex> {
    let n = signal.len();
    let mut to = r.array(vec![[0.0; 2]; n]);
    let mut from = r.array(signal);
    // n = length * stride: `stride` transforms of `length` each are left, interleaved.
    let (mut length, mut stride) = (n, 1);
    while length > 1 {
        r.barrier();
        let half = length / 2;
        for index in 0..n / 2 {
            if index % per_item == 0 {
                r.item();
            }
            let (p, q) = (index / stride, index % stride);
            let angle = -std::f64::consts::TAU * p as f64 / length as f64;
            let (sin, cos) = (angle.sin() as f32, angle.cos() as f32);
            let a = from.get(r, q + stride * p);
            let b = from.get(r, q + stride * (p + half));
            let d = [a[0] - b[0], a[1] - b[1]];
            to.set(r, q + stride * 2 * p, [a[0] + b[0], a[1] + b[1]]);
            let turned = [d[0] * cos - d[1] * sin, d[0] * sin + d[1] * cos];
            to.set(r, q + stride * (2 * p + 1), turned);
        }
        std::mem::swap(&mut from, &mut to);
        length = half;
        stride *= 2;
    }
    from
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_discrete_fourier_transform() {
        let n = 64_usize;
        let signal: Vec<Complex> = (0..n)
            .map(|i| [((i * 7) % 5) as f32, ((i * 3) % 4) as f32])
            .collect();
        let mut r = Recorder::new(64);
        let got = transform(&mut r, signal.clone(), 8);
        for (k, got) in got.data().iter().enumerate() {
            let mut sum = [0.0_f64; 2];
            for (i, s) in signal.iter().enumerate() {
                let angle = -std::f64::consts::TAU * (k * i) as f64 / n as f64;
                sum[0] += f64::from(s[0]) * angle.cos() - f64::from(s[1]) * angle.sin();
                sum[1] += f64::from(s[0]) * angle.sin() + f64::from(s[1]) * angle.cos();
            }
            assert!((f64::from(got[0]) - sum[0]).abs() < 1e-3, "{k}");
            assert!((f64::from(got[1]) - sum[1]).abs() < 1e-3, "{k}");
        }
        assert_eq!(r.finish("f".into()).unwrap().accesses(), 6 * 32 * 4);
    }
}
