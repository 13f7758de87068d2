//! Grid that codes stand for, the search for scales, and codebooks learned from weights.

use pfmc_ir::numerics::code_max;
use rayon::prelude::*;

/// Columns of a tile that a codebook is learned from: every so many, up to this number.
const LEARNING_COLUMNS: usize = 64;
/// Rounds of Lloyd's iteration; more change the loss by less than 0.2 %.
const LLOYD_ROUNDS: usize = 8;
/// Columns that one thread takes at a time.
pub const COLUMNS: usize = 64;
/// Cells of the table of nearest levels: half a unit of level each, -128 to 128.
const CELLS: usize = 512;

/// Ascending levels with a table that finds the nearest one.
#[derive(Debug, Clone)]
pub struct Grid {
    values: Vec<f32>,
    nearest: Vec<u8>,
    largest: f32,
    codebook: bool,
}

impl Grid {
    fn new(values: Vec<f32>, codebook: bool) -> Self {
        let mut at = 0;
        let nearest = (0..CELLS)
            .map(|cell| {
                let v = (cell as f32 - 255.5) / 2.0;
                while at + 1 < values.len() && (values[at + 1] - v).abs() <= (values[at] - v).abs() {
                    at += 1;
                }
                at as u8
            })
            .collect();
        let largest = values.iter().fold(0f32, |a, v| a.max(v.abs()));
        Grid { values, nearest, largest, codebook }
    }

    /// The levels of uniform codes of `bits` bits (2 to 8): every integer in ±(2^(bits-1) - 1).
    pub fn uniform(bits: u8) -> Self {
        let most = code_max(bits.clamp(2, 8));
        Grid::new((-most..=most).map(|v| v as f32).collect(), false)
    }

    /// A codebook with the given ascending values in ±127, rounded so that they stay distinct.
    fn rounded(values: &[f64]) -> Self {
        let count = values.len() as i32;
        let mut least = -127;
        let mut whole = Vec::with_capacity(values.len());
        for (i, v) in (0..count).zip(values) {
            let v = (v.round().clamp(-127.0, 127.0) as i32).clamp(least, 127 - (count - 1 - i));
            least = v + 1;
            whole.push(v as f32);
        }
        Grid::new(whole, true)
    }

    /// Codebook of 2^bits levels (bits at most [`pfmc_ir::tile::CODEBOOK_BITS_MAX`]) for `columns` of weights, by
    /// Lloyd's iteration weighted with the rows' `importance` and the squares of the groups' scales,
    /// which are searched afresh in every round.
    pub fn learn(columns: &[&[f32]], importance: &[f32], bits: u8, group: usize) -> Self {
        let count = 1usize << bits.clamp(1, pfmc_ir::tile::CODEBOOK_BITS_MAX);
        let mut values: Vec<f64> = (0..count)
            .map(|i| {
                let t = (2.0 * i as f64 + 1.0 - count as f64) / (count as f64 - 1.0);
                127.0 * t.signum() * t.abs().powf(1.15)
            })
            .collect();
        let step = columns.len().div_ceil(LEARNING_COLUMNS).max(1);
        for _ in 0..LLOYD_ROUNDS {
            let levels = Grid::new(values.iter().map(|&v| v as f32).collect(), true);
            let mut sums = vec![(0f64, 0f64); count];
            for column in columns.iter().step_by(step) {
                for (x, h) in column.chunks(group).zip(importance.chunks(group)) {
                    let s = levels.fit(x, h).0;
                    if s == 0.0 {
                        continue;
                    }
                    let inverse = 1.0 / s;
                    for (&x, &h) in x.iter().zip(h) {
                        let sum = &mut sums[levels.nearest(x * inverse)];
                        sum.0 += f64::from(h * s * x);
                        sum.1 += f64::from(h * s * s);
                    }
                }
            }
            for (v, (a, b)) in values.iter_mut().zip(&sums) {
                if *b > 0.0 {
                    *v = a / b;
                }
            }
            values.sort_by(f64::total_cmp);
            let largest = values.iter().fold(0f64, |a, v| a.max(v.abs()));
            if largest.is_normal() {
                values.iter_mut().for_each(|v| *v *= 127.0 / largest);
            }
        }
        Grid::rounded(&values)
    }

    /// Index of the level nearest to `v`; the upper one of two equally near.
    #[inline(always)]
    pub fn nearest(&self, v: f32) -> usize {
        usize::from(self.nearest[((v * 2.0 + 256.0).clamp(0.0, 511.0) as usize) & (CELLS - 1)])
    }

    /// The level with an index from [`Grid::nearest`].
    #[inline(always)]
    pub fn value(&self, index: usize) -> f32 {
        self.values[index]
    }

    /// The level with an index from [`Grid::nearest`], as fixed in a tile.
    pub fn integer(&self, index: usize) -> i8 {
        self.values[index] as i8
    }

    /// What a tile's `codebook` holds: nothing where levels are uniform.
    pub fn codebook(&self) -> Vec<i8> {
        if self.codebook { self.values.iter().map(|&v| v as i8).collect() } else { Vec::new() }
    }

    /// `sum h (x - level * s)^2` of the nearest levels, and the scale that is best for those levels.
    #[inline(always)]
    fn error(&self, x: &[f32], h: &[f32], s: f32) -> (f32, f32) {
        let inverse = if s > 0.0 { 1.0 / s } else { 0.0 };
        let (mut error, mut a, mut b) = (0f32, 0f32, 0f32);
        for (&x, &h) in x.iter().zip(h) {
            let level = self.value(self.nearest(x * inverse));
            let d = x - level * s;
            error += h * d * d;
            a += h * x * level;
            b += h * level * level;
        }
        (error, if b > 0.0 { (a / b).max(0.0) } else { s })
    }

    /// The scale of one group of weights `x` that minimises `sum h (x - level * scale)^2`, and that sum:
    /// the best of steps of 4 % of the scale that just covers the largest weight, then one step of
    /// least squares. 0 for weights that are all 0 or of which one is not finite.
    #[inline(always)]
    pub fn fit(&self, x: &[f32], h: &[f32]) -> (f32, f32) {
        let cover =
            x.iter().fold(0f32, |a, v| if v.is_nan() { f32::NAN } else { a.max(v.abs()) }) / self.largest;
        if !cover.is_normal() {
            return (0.0, self.error(x, h, 0.0).0);
        }
        let mut best = (0.0, f32::INFINITY, 0.0);
        for step in 0..20 {
            let s = cover * (1.05 - 0.04 * step as f32);
            let (error, refined) = self.error(x, h, s);
            if error < best.1 {
                best = (s, error, refined);
            }
        }
        let (error, _) = self.error(x, h, best.2);
        if error < best.1 { (best.2, error) } else { (best.0, best.1) }
    }

    /// The best multiple of `unit` near the result of [`Grid::fit`], and its error.
    #[inline(always)]
    pub fn fit_multiple(&self, x: &[f32], h: &[f32], unit: f32) -> (u8, f32) {
        let (s, error) = self.fit(x, h);
        if s == 0.0 || unit == 0.0 {
            return (0, error);
        }
        let mut best = (1u8, f32::INFINITY);
        for multiple in [(s / unit).floor(), (s / unit).ceil()] {
            let multiple = multiple.clamp(1.0, 255.0);
            let (error, _) = self.error(x, h, multiple * unit);
            if error < best.1 {
                best = (multiple as u8, error);
            }
        }
        best
    }

    /// The unit of a tile with these columns: the largest best scale over 255. 0 for a tile of zeros or
    /// with a scale that is not finite.
    pub fn unit(&self, columns: &[&[f32]], importance: &[f32], group: usize) -> f32 {
        let largest = |columns: &[&[f32]]| {
            pulp::Arch::new().dispatch(|| {
                let mut largest = 0f32;
                for column in columns {
                    for (x, h) in column.chunks(group).zip(importance.chunks(group)) {
                        largest = largest.max(self.fit(x, h).0);
                    }
                }
                largest
            })
        };
        let unit = columns.par_chunks(COLUMNS).map(largest).reduce(|| 0.0, f32::max) / 255.0;
        if unit.is_normal() { unit } else { 0.0 }
    }

    /// Scales, as multiples of `unit`, of the groups of a column, and the integer level nearest to each of its
    /// weights.
    #[inline(always)]
    pub fn quantise(
        &self,
        column: &[f32],
        importance: &[f32],
        group: usize,
        unit: f32,
    ) -> (Vec<u8>, Vec<i8>) {
        let mut scales = Vec::with_capacity(column.len().div_ceil(group));
        let mut levels = Vec::with_capacity(column.len());
        for (x, h) in column.chunks(group).zip(importance.chunks(group)) {
            let (multiple, _) = self.fit_multiple(x, h, unit);
            let scale = f32::from(multiple) * unit;
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            scales.push(multiple);
            levels.extend(x.iter().map(|x| self.integer(self.nearest(x * inverse))));
        }
        (scales, levels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(len: usize) -> Vec<f32> {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / 16777216.0
        };
        (0..len).map(|_| (0..12).map(|_| next()).sum::<f32>() - 6.0).collect()
    }

    #[test]
    fn the_table_finds_the_nearest_level() {
        for levels in [Grid::uniform(4), Grid::uniform(8), Grid::rounded(&[-127.0, -20.0, 3.0, 99.0])] {
            for i in -3000..3000 {
                let v = i as f32 / 20.0;
                let brute = levels.values.iter().map(|l| (l - v).abs()).fold(f32::INFINITY, f32::min);
                assert!(((levels.value(levels.nearest(v)) - v).abs() - brute).abs() < 1e-4, "{v}");
            }
        }
    }

    #[test]
    fn codebooks_ascend_within_int8() {
        for values in [vec![0.0; 16], vec![127.0; 8], vec![-127.0; 8], vec![-500.0, 0.2, 0.3, 500.0]] {
            let book = Grid::rounded(&values).codebook();
            assert!(book.windows(2).all(|p| p[0] < p[1]) && book[0] >= -127, "{book:?}");
        }
        let w = normal(4096);
        let columns: Vec<&[f32]> = w.chunks(256).collect();
        for bits in 2..=6 {
            let book = Grid::learn(&columns, &[1.0; 256], bits, 64).codebook();
            assert!(book.len() == 1 << bits && book.windows(2).all(|p| p[0] < p[1]) && book[0] >= -127);
        }
    }

    /// Max (1960): 16 levels of least error for a normal density leave 0.009497 of its variance,
    /// uniform ones 0.01154. Scales a group of 64 adapt a little better than that.
    #[test]
    fn a_learned_codebook_approaches_the_best_quantiser_of_normal_weights() {
        let w = normal(1 << 16);
        let h = [1.0; 1024];
        let columns: Vec<&[f32]> = w.chunks(1024).collect();
        let error = |levels: &Grid| -> f32 {
            let sum: f32 = columns.iter().flat_map(|c| c.chunks(64)).map(|x| levels.fit(x, &h[..64]).1).sum();
            sum / w.iter().map(|v| v * v).sum::<f32>()
        };
        let learned = error(&Grid::learn(&columns, &h, 4, 64));
        assert!(learned < 0.0098, "{learned}");
        assert!(learned < 0.85 * error(&Grid::uniform(4)));
    }

    #[test]
    fn degenerate_groups_have_scale_zero() {
        let levels = Grid::uniform(4);
        for x in [[0.0, 0.0], [f32::NAN, 1.0], [1.0, f32::NAN], [f32::INFINITY, 1.0], [1e-44, 0.0]] {
            assert_eq!(levels.fit(&x, &[1.0; 2]).0, 0.0, "{x:?}");
            assert_eq!(levels.fit_multiple(&x, &[1.0; 2], 0.1).0, 0);
        }
    }
}
