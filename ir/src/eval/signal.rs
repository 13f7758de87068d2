//! Spectra. Everything is computed in f64 and rounded at the end.

use std::f64::consts::PI;

use super::elementwise::cast;
use super::{Number, for_elem, pieces, scalar_i64, zeros};
use crate::elem::Elem;
use crate::tensor::{Tensor, axis, count};

/// Longest transform.
const MAX_LENGTH: usize = 1 << 26;

/// A complex number.
type Complex = (f64, f64);

fn times(a: Complex, b: Complex) -> Complex {
    (a.0 * b.0 - a.1 * b.1, a.0 * b.1 + a.1 * b.0)
}

/// e^(-2 pi i k / n).
fn root(k: usize, n: usize) -> Complex {
    let (s, c) = libm::sincos(2.0 * PI * (k % n) as f64 / n as f64);
    (c, -s)
}

/// A forward transform of one length.
enum Transform {
    /// By the definition, with the roots of unity.
    Direct(Vec<Complex>),
    /// Of a power of two (Cooley and Tukey), with half of the roots.
    Halving(Vec<Complex>),
    /// Of any length as a convolution with a chirp (Bluestein): the chirp, the transform of its
    /// conjugate, and the transform of a power of two that convolves.
    Chirp { chirp: Vec<Complex>, filter: Vec<Complex>, inner: Box<Transform> },
}

impl Transform {
    fn new(n: usize) -> Transform {
        if n.is_power_of_two() {
            return Transform::Halving((0..n / 2).map(|k| root(k, n)).collect());
        }
        if n <= 32 {
            return Transform::Direct((0..n).map(|k| root(k, n)).collect());
        }
        // e^(-pi i k^2 / n), whose exponent repeats after 2 n.
        let square = |k: usize| (k as u128 * k as u128 % (2 * n as u128)) as usize;
        let chirp: Vec<Complex> = (0..n).map(|k| root(square(k), 2 * n)).collect();
        let m = (2 * n - 1).next_power_of_two();
        let mut filter = vec![(0.0, 0.0); m];
        for (k, &(re, im)) in chirp.iter().enumerate() {
            filter[k] = (re, -im);
            filter[(m - k) % m] = (re, -im);
        }
        let inner = Box::new(Transform::new(m));
        inner.forward(&mut filter);
        Transform::Chirp { chirp, filter, inner }
    }

    fn forward(&self, x: &mut Vec<Complex>) {
        match self {
            Transform::Direct(roots) => {
                let n = roots.len();
                let one = |k: usize| {
                    x.iter().enumerate().fold((0.0, 0.0), |sum: Complex, (j, &v)| {
                        let p = times(v, roots[k * j % n]);
                        (sum.0 + p.0, sum.1 + p.1)
                    })
                };
                *x = (0..n).map(one).collect();
            }
            Transform::Halving(roots) => halving(x, roots),
            Transform::Chirp { chirp, filter, inner } => {
                let mut y: Vec<Complex> = x.iter().zip(chirp).map(|(&v, &c)| times(v, c)).collect();
                y.resize(filter.len(), (0.0, 0.0));
                inner.forward(&mut y);
                // The inverse is the conjugate of the transform of the conjugate.
                for (v, &f) in y.iter_mut().zip(filter) {
                    let p = times(*v, f);
                    *v = (p.0, -p.1);
                }
                inner.forward(&mut y);
                let m = filter.len() as f64;
                for ((o, v), &c) in x.iter_mut().zip(y).zip(chirp) {
                    *o = times((v.0 / m, -v.1 / m), c);
                }
            }
        }
    }

    fn inverse(&self, x: &mut Vec<Complex>) {
        let n = x.len() as f64;
        x.iter_mut().for_each(|v| v.1 = -v.1);
        self.forward(x);
        x.iter_mut().for_each(|v| *v = (v.0 / n, -v.1 / n));
    }
}

fn halving(x: &mut [Complex], roots: &[Complex]) {
    let n = x.len();
    let mut j = 0;
    for i in 1..n {
        let mut bit = n >> 1;
        while j & bit != 0 {
            j ^= bit;
            bit >>= 1;
        }
        j |= bit;
        if i < j {
            x.swap(i, j);
        }
    }
    let mut half = 1;
    while half < n {
        for block in x.chunks_exact_mut(2 * half) {
            let (low, high) = block.split_at_mut(half);
            for (k, (a, b)) in low.iter_mut().zip(high).enumerate() {
                let p = times(*b, roots[k * (n / (2 * half))]);
                (*a, *b) = ((a.0 + p.0, a.1 + p.1), (a.0 - p.0, a.1 - p.1));
            }
        }
        half *= 2;
    }
}

/// [`crate::op::Op::Dft`].
pub(super) fn dft(
    x: &Tensor,
    along: &Tensor,
    length: Option<&Tensor>,
    inverse: bool,
    onesided: bool,
) -> Result<Tensor, String> {
    let Some((&parts @ (1 | 2), signal)) = x.shape().split_last() else {
        return Err(format!("the last axis of {:?} is not 1 or 2 long", x.shape()));
    };
    let along = scalar_i64(along, "axis")?;
    // The last axis counts too when an axis is counted from the end.
    let along = axis(along, x.rank())?;
    if along == signal.len() {
        return Err("the last axis holds the parts of complex numbers".into());
    }
    let (len, inner) = (signal[along], count(&signal[along + 1..]).ok_or("too many elements")?);
    let half = inverse && onesided;
    if onesided && (parts == 2) != inverse {
        return Err(format!("a one-sided spectrum and {parts} parts"));
    }
    let n = match length {
        Some(n) => scalar_i64(n, "the length")?,
        None if half => 2 * (len as i64 - 1),
        None => len as i64,
    };
    let n = usize::try_from(n)
        .ok()
        .filter(|n| (1..=MAX_LENGTH).contains(n))
        .ok_or_else(|| format!("a transform of length {n}; supported are 1 to {MAX_LENGTH}"))?;
    let kept = if onesided && !inverse { n / 2 + 1 } else { n };
    let out_parts = if half { 1 } else { 2 };
    let mut shape = x.shape().to_vec();
    shape[along] = kept;
    shape[signal.len()] = out_parts;
    for_elem!(float x, T => {
        let from = x.as_slice::<T>()?;
        let mut out = zeros::<T>(&shape)?;
        if !out.is_empty() {
            let transform = Transform::new(n);
            let block = kept * inner * out_parts;
            pieces(&mut out, block, &|start, out| {
                let first = start / block * len * inner;
                let mut line: Vec<Complex> = Vec::with_capacity(n);
                for i in 0..inner {
                    let value = |k: usize| {
                        let at = (first + k * inner + i) * parts;
                        let re = from[at].as_f64();
                        (re, if parts == 2 { from[at + 1].as_f64() } else { 0.0 })
                    };
                    line.clear();
                    let given = if half { n / 2 + 1 } else { n }.min(len);
                    line.extend((0..given).map(value));
                    line.resize(n, (0.0, 0.0));
                    if half {
                        // A real signal's spectrum: what lies opposite is conjugate.
                        line[0].1 = 0.0;
                        if n.is_multiple_of(2) {
                            line[n / 2].1 = 0.0;
                        }
                        for k in 1..n.div_ceil(2) {
                            line[n - k] = (line[k].0, -line[k].1);
                        }
                    }
                    if inverse { transform.inverse(&mut line) } else { transform.forward(&mut line) }
                    for (k, v) in line[..kept].iter().enumerate() {
                        let at = (k * inner + i) * out_parts;
                        out[at] = T::narrow(v.0);
                        if out_parts == 2 {
                            out[at + 1] = T::narrow(v.1);
                        }
                    }
                }
            });
        }
        Tensor::new(shape, out)
    })
}

/// [`crate::op::Op::MelWeights`].
pub(super) fn mel_weights(x: &[Tensor], to: Elem) -> Result<Tensor, String> {
    let whole = |i: usize, what: &str, most: i64| {
        let v = scalar_i64(&x[i], what)?;
        (1..=most).contains(&v).then_some(v).ok_or_else(|| format!("{what} is {v}"))
    };
    let bins = whole(0, "the number of bins", 1 << 20)? as usize;
    let length = whole(1, "the length of the transform", MAX_LENGTH as i64)?;
    let rate = whole(2, "the sample rate", 1 << 40)? as f64;
    let edge = |i: usize| -> Result<f64, String> {
        match cast(&x[i], Elem::F64)?.as_slice::<f64>()? {
            &[v] if v.is_finite() && v > -700.0 => Ok(2595.0 * (1.0 + v / 700.0).log10()),
            other => Err(format!("an edge of {other:?}")),
        }
    };
    let (low, high) = (edge(3)?, edge(4)?);
    let lines = (length / 2 + 1) as usize;
    let step = (high - low) / (bins + 2) as f64;
    let places = (0..bins + 2)
        .map(|i| {
            let hertz = 700.0 * (10f64.powf((i as f64 * step + low) / 2595.0) - 1.0);
            let place = ((length + 1) as f64 * hertz / rate).floor();
            (0.0..lines as f64)
                .contains(&place)
                .then_some(place as usize)
                .ok_or_else(|| format!("{hertz} Hz lie outside the spectrum"))
        })
        .collect::<Result<Vec<usize>, _>>()?;
    let mut out = zeros::<f64>(&[lines, bins])?;
    for (i, edges) in places.windows(3).enumerate() {
        let (left, centre, right) = (edges[0], edges[1], edges[2]);
        if left == centre {
            out[centre * bins + i] = 1.0;
        }
        for j in left..=centre {
            if left < centre {
                out[j * bins + i] = (j - left) as f64 / (centre - left) as f64;
            }
        }
        for j in centre..right {
            out[j * bins + i] = (right - j) as f64 / (right - centre) as f64;
        }
    }
    cast(&Tensor::new(vec![lines, bins], out)?, to)
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::op::Op;

    const FORWARD: Op = Op::Dft { inverse: false, onesided: false };

    #[test]
    fn every_way_of_transforming_equals_the_definition() {
        let mut numbers = Numbers(31);
        for n in [1, 2, 3, 8, 12, 32, 33, 47, 64, 100] {
            let x = numbers.tensor(&[n, 2]);
            let got = run(FORWARD, &[x.clone(), Tensor::scalar(0i64)]);
            let at = |t: &Tensor, i: usize| f64::from(t.as_slice::<f32>().unwrap()[i]);
            for k in 0..n {
                let (mut re, mut im) = (0.0, 0.0);
                for j in 0..n {
                    let angle = -2.0 * PI * (k * j) as f64 / n as f64;
                    let (a, b) = (at(&x, 2 * j), at(&x, 2 * j + 1));
                    re += a * angle.cos() - b * angle.sin();
                    im += a * angle.sin() + b * angle.cos();
                }
                assert!((at(&got, 2 * k) - re).abs() < 1e-4, "{n} {k}");
                assert!((at(&got, 2 * k + 1) - im).abs() < 1e-4, "{n} {k}");
            }
        }
    }

    #[test]
    fn inverses_give_the_signal_back_along_an_inner_axis() {
        let mut numbers = Numbers(32);
        let x = numbers.tensor(&[2, 7, 3, 1]);
        let (along, n) = (Tensor::scalar(1i64), Tensor::scalar(7i64));
        let half = run(Op::Dft { inverse: false, onesided: true }, &[x.clone(), along.clone()]);
        assert_eq!(half.shape(), [2, 4, 3, 2]);
        let back = run(Op::Dft { inverse: true, onesided: true }, &[half, along, n]);
        assert_eq!(back.shape(), x.shape());
        for (a, b) in back.as_slice::<f32>().unwrap().iter().zip(x.as_slice::<f32>().unwrap()) {
            assert!((a - b).abs() < 1e-5);
        }
    }

    #[test]
    fn unfit_signals_are_refused() {
        let axis = |a: i64| Tensor::scalar(a);
        let x = t(&[4, 1], &[0f32; 4]);
        refused(FORWARD, &[t(&[4, 3], &[0f32; 12]), axis(0)], "not 1 or 2 long");
        refused(FORWARD, &[x.clone(), axis(-1)], "the parts of complex numbers");
        refused(FORWARD, &[x.clone(), axis(0), axis(i64::MAX)], "a transform of length");
        refused(Op::Dft { inverse: true, onesided: true }, &[x, axis(0)], "one-sided");
        let scalars: Vec<Tensor> = [1i64 << 50, 16, 8000].iter().map(|&v| Tensor::scalar(v)).collect();
        let mut all = scalars;
        all.extend([Tensor::scalar(0f32), Tensor::scalar(4000f32)]);
        refused(Op::MelWeights { to: Elem::F32 }, &all, "the number of bins is");
    }
}
