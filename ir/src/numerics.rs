//! The one definition of quantised arithmetic. The quantiser, the interpreter, the emitted program
//! and the hardware all mean exactly this.
//!
//! - Weights: integer levels in groups along k, see [`CodeBlock`].
//! - Activations: symmetric int8, one scale a row of x (a token) or one for all, see [`quantize_row`]
//!   and [`quantize_static`].
//! - Products: exact integers, `acc[n] = sum_g scale[g][n] * sum_{k in g} x[k] * level[k][n]`, in 32
//!   bits; [`accumulator_bound`] proves that none overflows.
//! - Output: `y[n] = f32((sum over the tiles along k of acc[n] * unit) * x_scale)`, the sum and
//!   both products in f64, tiles in ascending order of k.

use half::f16;

use crate::tile::{Activations, CodeBlock, RealBlock, Scheme};

/// Largest magnitude of an int8 activation.
pub const ACTIVATION_MAX: i32 = 127;
/// Largest magnitude of an entry of a codebook.
pub const LEVEL_MAX: i32 = 127;

/// Largest magnitude of a code of `bits` bits.
pub fn code_max(bits: u8) -> i32 {
    (1 << (bits - 1)) - 1
}

/// Plain rounding of a `[k][n]` rectangle to uniform codes: each group of `group` rows of a column gets the smallest 8-bit
/// multiple of the tile's unit that covers its largest magnitude, and each element the nearest code
/// (ties to even). The unit makes the largest scale 255. An all-zero tile has unit 0.
///
/// # Panics
/// When `values` is not `k * n` long, `bits` is not 2 to 8 or `group` is 0.
pub fn quantize_codes(values: &[f32], k: usize, n: usize, bits: u8, group: usize) -> CodeBlock {
    assert!(values.len() == k * n && (2..=8).contains(&bits) && group > 0);
    let qmax = code_max(bits) as f32;
    let groups = k.div_ceil(group);
    let mut amax = vec![0f32; groups * n];
    for (row_index, row) in values.chunks_exact(n.max(1)).enumerate() {
        let g = row_index / group * n;
        for (m, v) in amax[g..g + n].iter_mut().zip(row) {
            *m = m.max(v.abs());
        }
    }
    let largest = amax.iter().fold(0f32, |a, &b| a.max(b)) / qmax;
    let unit = largest / 255.0;
    let (levels, scales) = (vec![0; k * n], vec![0; groups * n]);
    let mut block = CodeBlock { k, n, bits, group, unit, levels, scales, codebook: Vec::new() };
    if unit == 0.0 || !unit.is_normal() {
        block.unit = 0.0;
        return block;
    }
    let mut inverse = vec![0f32; groups * n];
    for ((s, inv), &m) in block.scales.iter_mut().zip(&mut inverse).zip(&amax) {
        if m > 0.0 {
            let multiple = (f64::from(m) / (f64::from(qmax) * f64::from(unit)) - 1e-6).ceil();
            *s = multiple.clamp(1.0, 255.0) as u8;
            *inv = 1.0 / (f32::from(*s) * unit);
        }
    }
    for (row_index, (codes, row)) in
        block.levels.chunks_exact_mut(n.max(1)).zip(values.chunks_exact(n.max(1))).enumerate()
    {
        let g = row_index / group * n;
        for ((c, v), inv) in codes.iter_mut().zip(row).zip(&inverse[g..g + n]) {
            *c = (v * inv).round_ties_even().clamp(-qmax, qmax) as i8;
        }
    }
    block
}

/// Largest possible magnitude of an accumulator over all int8 inputs and all blocks of `k` rows of
/// a scheme: `k * 127 * level_max * 255`. The program's verifier refuses tiles where it is above
/// `i32::MAX`.
pub fn accumulator_bound(k: u64, scheme: Scheme) -> u64 {
    k.saturating_mul(u64::from(scheme.level_max().unsigned_abs()) * 255 * ACTIVATION_MAX as u64)
}

/// Quantises one row of activations to int8: returns the scale, `x ≈ q * scale`. Ties to even.
/// A row of zeros (or of magnitudes too small to scale) has scale 0; a row with NaN or infinity has
/// scale NaN, so that everything computed from it is NaN.
pub fn quantize_row(x: &[f32], q: &mut [i8]) -> f32 {
    if x.iter().any(|v| !v.is_finite()) {
        q.fill(0);
        return f32::NAN;
    }
    let largest = x.iter().fold(0f32, |a, &b| a.max(b.abs()));
    let scale = largest / ACTIVATION_MAX as f32;
    if !scale.is_normal() {
        q.fill(0);
        return 0.0;
    }
    let inverse = 1.0 / scale;
    for (q, x) in q.iter_mut().zip(x) {
        *q = (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
    }
    scale
}

/// Quantises one row of activations to int8 with the scale that all rows share: `x ≈ q * scale`, ties
/// to even, what lies beyond ±127 saturates. Returns `scale`, or NaN for a row with NaN or infinity, so
/// that everything computed from it is NaN.
pub fn quantize_static(x: &[f32], scale: f32, q: &mut [i8]) -> f32 {
    if x.iter().any(|v| !v.is_finite()) {
        q.fill(0);
        return f32::NAN;
    }
    let inverse = 1.0 / scale;
    for (q, x) in q.iter_mut().zip(x) {
        *q = (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
    }
    scale
}

/// Quantises one row of activations as the matrix it meets says; returns its scale.
pub fn quantize_activations(activations: Activations, x: &[f32], q: &mut [i8]) -> f32 {
    match activations {
        Activations::Row => quantize_row(x, q),
        Activations::Static(scale) => quantize_static(x, scale, q),
    }
}

/// Accumulates quantised rows against a block, as the module says: `x` is `[rows][k]`, `acc`
/// `[rows][n]`. Exact while [`accumulator_bound`] is at most `i32::MAX`, modulo 2^32 beyond; the same
/// for any number of threads.
///
/// # Panics
/// When a length does not fit the block.
pub fn accumulate(block: &CodeBlock, x: &[i8], rows: usize, acc: &mut [i32]) {
    crate::eval::integer::accumulate(block, x, rows, acc);
}

/// Rounds a rectangle to half precision relative to the power of two nearest its root mean square;
/// the real-valued weights a program asks an analogue target for. Signal-to-noise ratio about
/// 73 dB for normal values.
pub fn round_real(values: &[f32], k: usize, n: usize) -> RealBlock {
    let unit = root_mean_square(values).log2().round().exp2();
    let values = if unit.is_normal() {
        values.iter().map(|v| f16::from_f32(v / unit).to_f32() * unit).collect()
    } else {
        vec![0.0; values.len()]
    };
    RealBlock { k, n, values }
}

/// Root mean square, accumulated in f64.
pub fn root_mean_square(values: &[f32]) -> f32 {
    let sum: f64 = values.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    (sum / values.len().max(1) as f64).sqrt() as f32
}

/// Signal-to-noise ratio in dB of `got` as a copy of `want`, no gain fitted:
/// `10 log10(sum want^2 / sum (got - want)^2)`; infinite when they are equal.
pub fn snr_db(want: &[f32], got: &[f32]) -> f64 {
    let (mut s, mut e) = (0f64, 0f64);
    for (&w, &g) in want.iter().zip(got) {
        let d = f64::from(g) - f64::from(w);
        s += f64::from(w) * f64::from(w);
        e += d * d;
    }
    if e == 0.0 { f64::INFINITY } else { 10.0 * (s / e).log10() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(len: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919 % 1013) as f32 - 506.0) / 300.0).collect()
    }

    #[test]
    fn codes_stay_within_half_a_step_of_their_weights() {
        let (k, n, group) = (37, 5, 8);
        let w = ramp(k * n);
        for bits in 2..=8 {
            let b = quantize_codes(&w, k, n, bits, group);
            let back = b.dequantize();
            for (i, (w, r)) in w.iter().zip(&back).enumerate() {
                let step = f32::from(b.scales[i / n / group * n + i % n]) * b.unit;
                assert!((w - r).abs() <= step * 0.5001, "bits {bits} element {i}: {w} {r} {step}");
            }
        }
    }

    #[test]
    fn accumulation_equals_the_sum_in_wide_integers_and_stays_within_its_bound() {
        let (k, n, rows) = (70, 9, 6);
        let b = quantize_codes(&ramp(k * n), k, n, 4, 32);
        let mut x = vec![0i8; rows * k];
        for (x, values) in x.chunks_exact_mut(k).zip(ramp(rows * k).chunks_exact(k)) {
            quantize_row(values, x);
        }
        let mut acc = vec![0; rows * n];
        accumulate(&b, &x, rows, &mut acc);
        let bound = accumulator_bound(k as u64, b.scheme());
        for (at, &got) in acc.iter().enumerate() {
            let (row, j) = (at / n, at % n);
            let wide: i64 = (0..k)
                .map(|i| {
                    i64::from(x[row * k + i])
                        * i64::from(b.levels[i * n + j])
                        * i64::from(b.scales[i / 32 * n + j])
                })
                .sum();
            assert_eq!(i64::from(got), wide);
            assert!(wide.unsigned_abs() <= bound);
        }
    }

    #[test]
    fn zero_tiles_and_rows_are_zero() {
        let b = quantize_codes(&[0.0; 12], 4, 3, 4, 2);
        assert_eq!((b.unit, b.dequantize()), (0.0, vec![0.0; 12]));
        let mut q = [1i8; 3];
        assert_eq!(quantize_row(&[0.0, -0.0, 0.0], &mut q), 0.0);
        assert_eq!(q, [0; 3]);
        assert!(quantize_row(&[1.0, f32::NAN, 2.0], &mut q).is_nan());
        assert!(quantize_row(&[1.0, f32::INFINITY, 2.0], &mut q).is_nan());
    }
}
