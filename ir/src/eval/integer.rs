//! Exact products of int8 activations and blocks of codes.

use rayon::prelude::*;

use super::matmul::{COLUMNS, SERIAL, rectangles};
use crate::tile::CodeBlock;

/// Rows of the innermost block.
const MR: usize = 4;
/// Columns of the innermost block.
const NR: usize = 16;
/// Pairs of k that are packed at once.
const PAIRS: usize = 128;
/// Rows of a task.
const ROWS: usize = 256;
/// Most rows for which arranging the codes does not pay.
const THIN: usize = 4;

/// Neighbours along k.
type Pair = [i16; 2];

struct Part<'a, 'o> {
    block: &'a CodeBlock,
    /// `[rows][k]`
    x: &'a [i8],
    /// First column.
    first: usize,
    out: &'a mut [&'o mut [i32]],
}

/// `acc[row][n] = sum_g scale[g][n] * sum_{k in g} x[row][k] * code[k][n]`: `x` is `[rows][k]`, `acc`
/// `[rows][n]`. Exact while [`crate::numerics::accumulator_bound`] is at most `i32::MAX`, and modulo
/// 2^32 beyond.
///
/// A code times its scale fits 16 bits (128 * 255 < 2^15), so the inner product needs no groups:
/// pairs of 16-bit products are summed in 32 bits.
///
/// # Panics
/// When a length does not fit the block.
pub(crate) fn accumulate(block: &CodeBlock, x: &[i8], rows: usize, acc: &mut [i32]) {
    let (k, n) = (block.k, block.n);
    assert!(x.len() == rows * k && acc.len() == rows * n);
    assert!(block.levels.len() == k * n && block.scales.len() == block.groups() * n);
    acc.fill(0);
    let serial = acc.len().saturating_mul(k) <= SERIAL;
    let compute = |(row, first, mut out): (usize, usize, Vec<&mut [i32]>)| {
        let x = &x[row * k..(row + out.len()) * k];
        Part { block, x, first, out: &mut out }.compute();
    };
    let parts = rectangles(acc, n, ROWS, COLUMNS);
    if serial {
        parts.into_iter().for_each(compute);
    } else {
        parts.into_par_iter().for_each(compute);
    }
}

impl Part<'_, '_> {
    fn compute(self) {
        if self.out.len() <= THIN {
            pulp::Arch::new().dispatch(Thin(self));
            return;
        }
        #[cfg(target_arch = "x86_64")]
        if let pulp::Arch::V3(simd) = pulp::Arch::new() {
            simd.vectorize(Avx2(simd, self));
            return;
        }
        self.packed(portable);
    }

    /// Few rows: the codes are read once, as they lie.
    #[inline(always)]
    fn thin(self) {
        let Part { block, x, first, out } = self;
        let n = out.first().map_or(0, |row| row.len()).min(COLUMNS);
        let mut sums = [[0i32; COLUMNS]; THIN];
        for (g, codes) in block.levels.chunks(block.group * block.n).enumerate() {
            sums.iter_mut().for_each(|s| s.fill(0));
            for (d, codes) in codes.chunks_exact(block.n).enumerate() {
                let codes = &codes[first..first + n];
                for (r, sums) in sums[..out.len()].iter_mut().enumerate() {
                    let x = i16::from(x[r * block.k + g * block.group + d]);
                    for (s, &c) in sums.iter_mut().zip(codes) {
                        *s = s.wrapping_add((x * i16::from(c)).into());
                    }
                }
            }
            let scales = &block.scales[g * block.n + first..][..n];
            for (row, sums) in out.iter_mut().zip(&sums) {
                for ((o, &s), &scale) in row.iter_mut().zip(sums).zip(scales) {
                    *o = o.wrapping_add(s.wrapping_mul(scale.into()));
                }
            }
        }
    }

    #[inline(always)]
    fn packed(self, block_product: impl Fn(&[[Pair; MR]], &[[Pair; NR]], &mut [[i32; NR]; MR])) {
        let Part { block, x, first, out } = self;
        let n = out.first().map_or(0, |row| row.len());
        let panels = n.div_ceil(NR);
        let pairs = block.k.div_ceil(2);
        let mut right = vec![[[0; 2]; NR]; pairs.min(PAIRS) * panels];
        let mut left = vec![[[0; 2]; MR]; pairs.min(PAIRS)];
        for from in (0..pairs).step_by(PAIRS) {
            let depth = (pairs - from).min(PAIRS);
            for (p, panel) in right.chunks_exact_mut(depth).take(panels).enumerate() {
                let columns = first + p * NR..first + (p * NR + NR).min(n);
                for (d, row) in panel.iter_mut().enumerate() {
                    let even = scaled(block, 2 * (from + d), columns.clone());
                    let odd = scaled(block, 2 * (from + d) + 1, columns.clone());
                    for ((r, even), odd) in row.iter_mut().zip(even).zip(odd) {
                        *r = [even, odd];
                    }
                }
            }
            for (i, rows) in out.chunks_mut(MR).enumerate() {
                let left = &mut left[..depth];
                for r in 0..rows.len() {
                    let x = &x[(i * MR + r) * block.k..][..block.k][2 * from..];
                    for (l, pair) in left.iter_mut().zip(x.chunks(2)) {
                        l[r] = [pair[0].into(), pair.get(1).copied().unwrap_or(0).into()];
                    }
                }
                for (p, panel) in right.chunks_exact(depth).take(panels).enumerate() {
                    let range = p * NR..(p * NR + NR).min(n);
                    let mut acc = [[0; NR]; MR];
                    for (acc, row) in acc.iter_mut().zip(rows.iter()) {
                        acc[..range.len()].copy_from_slice(&row[range.clone()]);
                    }
                    block_product(left, panel, &mut acc);
                    for (acc, row) in acc.iter().zip(rows.iter_mut()) {
                        row[range.clone()].copy_from_slice(&acc[..range.len()]);
                    }
                }
            }
        }
    }
}

/// Codes times their scales of some columns of row `k`; zeros past the last row.
#[inline(always)]
fn scaled(block: &CodeBlock, k: usize, columns: std::ops::Range<usize>) -> [i16; NR] {
    if k >= block.k {
        return [0; NR];
    }
    let codes = &block.levels[k * block.n..][columns.clone()];
    let scales = &block.scales[k / block.group * block.n..][columns];
    let product = |codes: &[i8; NR], scales: &[u8; NR]| {
        let mut out = [0; NR];
        for ((o, &c), &s) in out.iter_mut().zip(codes).zip(scales) {
            *o = i16::from(c) * i16::from(s);
        }
        out
    };
    if let (Some(codes), Some(scales)) = (codes.first_chunk(), scales.first_chunk()) {
        return product(codes, scales);
    }
    let (mut some_codes, mut some_scales) = ([0; NR], [0; NR]);
    some_codes[..codes.len()].copy_from_slice(codes);
    some_scales[..scales.len()].copy_from_slice(scales);
    product(&some_codes, &some_scales)
}

#[inline(always)]
fn portable(left: &[[Pair; MR]], right: &[[Pair; NR]], out: &mut [[i32; NR]; MR]) {
    for (a, b) in left.iter().zip(right) {
        for (out, a) in out.iter_mut().zip(a) {
            for (o, b) in out.iter_mut().zip(b) {
                let even = i32::from(a[0]) * i32::from(b[0]);
                let odd = i32::from(a[1]) * i32::from(b[1]);
                *o = o.wrapping_add(even + odd);
            }
        }
    }
}

struct Thin<'a, 'o>(Part<'a, 'o>);

impl pulp::WithSimd for Thin<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        self.0.thin();
    }
}

#[cfg(target_arch = "x86_64")]
struct Avx2<'a, 'o>(pulp::x86::V3, Part<'a, 'o>);

#[cfg(target_arch = "x86_64")]
impl pulp::NullaryFnOnce for Avx2<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Avx2(simd, part) = self;
        part.packed(
            #[inline(always)]
            |left, right, out| avx2(simd, left, right, out),
        );
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn avx2(simd: pulp::x86::V3, left: &[[Pair; MR]], right: &[[Pair; NR]], out: &mut [[i32; NR]; MR]) {
    use std::arch::x86_64::__m256i;
    let simd = simd.avx2;
    let mut acc: [[__m256i; 2]; MR] = out.map(pulp::cast);
    for (a, b) in left.iter().zip(right) {
        let b: [__m256i; 2] = pulp::cast(*b);
        for (acc, a) in acc.iter_mut().zip(a) {
            let a: __m256i = pulp::cast([*a; 8]);
            for (acc, b) in acc.iter_mut().zip(b) {
                *acc = simd._mm256_add_epi32(*acc, simd._mm256_madd_epi16(a, b));
            }
        }
    }
    *out = acc.map(pulp::cast);
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Numbers, on_threads};
    use super::*;

    fn block(numbers: &mut Numbers, k: usize, n: usize, bits: u8, group: usize) -> CodeBlock {
        let most = (1i32 << (bits - 1)) - 1;
        let codes = (0..k * n).map(|_| (numbers.below(2 * most as usize + 1) as i32 - most) as i8);
        let codes = codes.collect();
        let scales = (0..k.div_ceil(group) * n).map(|_| numbers.below(256) as u8).collect();
        CodeBlock { k, n, bits, group, unit: 1.0, levels: codes, scales, codebook: Vec::new() }
    }

    fn wide(b: &CodeBlock, x: &[i8], rows: usize) -> Vec<i64> {
        let mut out = Vec::new();
        for r in 0..rows {
            for j in 0..b.n {
                let term = |i: usize| {
                    i64::from(x[r * b.k + i])
                        * i64::from(b.levels[i * b.n + j])
                        * i64::from(b.scales[i / b.group * b.n + j])
                };
                out.push((0..b.k).map(term).sum());
            }
        }
        out
    }

    #[test]
    fn sums_equal_those_in_wide_integers_for_every_shape() {
        let mut numbers = Numbers(6);
        for (rows, k, n, bits, group) in [
            (1, 1, 1, 2, 1),
            (1, 70, 9, 4, 32),
            (2, 33, 200, 8, 7),
            (3, 64, 129, 4, 32),
            (4, 31, 16, 8, 5),
            (5, 257, 17, 4, 32),
            (9, 600, 131, 3, 64),
            (130, 40, 260, 8, 40),
            (300, 3, 2, 4, 100),
        ] {
            let b = block(&mut numbers, k, n, bits, group);
            let x: Vec<i8> = (0..rows * k).map(|_| numbers.below(255) as u8 as i8).collect();
            let mut acc = vec![7; rows * n];
            accumulate(&b, &x, rows, &mut acc);
            let got: Vec<i64> = acc.iter().map(|&v| v.into()).collect();
            assert_eq!(got, wide(&b, &x, rows), "{rows} {k} {n} {bits} {group}");
            let two = on_threads(2, || {
                let mut acc = vec![0; rows * n];
                accumulate(&b, &x, rows, &mut acc);
                acc
            });
            assert_eq!(acc, two);
        }
    }

    #[test]
    fn the_largest_codes_scales_and_activations_are_exact_in_every_kernel() {
        // 127 * 255 * 127 * 521 < 2^31 < 127 * 255 * 127 * 523: as deep as 32 bits allow.
        let (k, n) = (520, 19);
        for (code, x) in [(127i8, 127i8), (-127, 127), (-127, -127), (-128, -128)] {
            let k = if code == -128 { 500 } else { k };
            let b = CodeBlock {
                k,
                n,
                bits: 8,
                group: 32,
                unit: 1.0,
                levels: vec![code; k * n],
                codebook: Vec::new(),
                scales: vec![255; k.div_ceil(32) * n],
            };
            let want = i32::from(code) * i32::from(x) * 255 * k as i32;
            for rows in [1, 4, 5, 8] {
                let mut acc = vec![0; rows * n];
                accumulate(&b, &vec![x; rows * k], rows, &mut acc);
                assert_eq!(acc, vec![want; rows * n]);
                acc.fill(0);
                let x = vec![x; rows * k];
                let mut parts: Vec<&mut [i32]> = acc.chunks_mut(n).collect();
                Part { block: &b, x: &x, first: 0, out: &mut parts }.packed(portable);
                assert_eq!(acc, vec![want; rows * n]);
            }
        }
    }

    #[test]
    fn blocks_without_rows_or_columns_give_zeros() {
        for (k, n) in [(0, 3), (3, 0)] {
            let b = CodeBlock {
                k,
                n,
                bits: 4,
                group: 2,
                unit: 0.0,
                levels: vec![],
                scales: vec![],
                codebook: vec![],
            };
            let mut acc = vec![1; 6 * n];
            accumulate(&b, &vec![1; 6 * k], 6, &mut acc);
            assert_eq!(acc, vec![0; 6 * n]);
        }
    }
}
