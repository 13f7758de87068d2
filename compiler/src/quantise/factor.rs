//! Small dense kernels over lanes of columns, and the triangular factor of a second-moment matrix.
//!
//! All sums have a fixed order and nothing is fused, so that results are the same on every machine
//! and for any number of threads.

use rayon::prelude::*;

use super::QuantiseError;

/// Columns that are computed together.
pub const LANES: usize = 16;
/// One value of each column.
pub type Lane = [f32; LANES];

/// Rows and columns of a block of the factorisation.
const BLOCK: usize = 48;

/// A vector with room for `len` values, or a refusal.
pub fn filled<T: Clone>(value: T, len: usize) -> Result<Vec<T>, QuantiseError> {
    let mut out = Vec::new();
    out.try_reserve_exact(len).map_err(|_| QuantiseError::TooLarge)?;
    out.resize(len, value);
    Ok(out)
}

/// `sum_j rows[a][j] * x[j]` for four rows; each at least as long as `x`.
#[inline(always)]
fn dot4(rows: [&[f32]; 4], x: &[Lane]) -> [Lane; 4] {
    let rows = rows.map(|r| &r[..x.len()]);
    let mut sums = [[0f32; LANES]; 4];
    for (j, x) in x.iter().enumerate() {
        for (sum, row) in sums.iter_mut().zip(&rows) {
            let c = row[j];
            for (s, x) in sum.iter_mut().zip(x) {
                *s += c * x;
            }
        }
    }
    sums
}

/// Rows `first`, `first + 1`, … of a matrix of `k` columns, the last one repeated where they end.
#[inline(always)]
fn four(matrix: &[f32], k: usize, first: usize) -> [&[f32]; 4] {
    [0, 1, 2, 3].map(|a| {
        let row = (first + a).min(k - 1);
        &matrix[row * k..(row + 1) * k]
    })
}

/// `out = matrix * x`, the matrix `[k][k]`.
#[inline(always)]
pub fn times(matrix: &[f32], x: &[Lane], out: &mut [Lane]) {
    let k = x.len();
    for (chunk, out) in out.chunks_mut(4).enumerate() {
        let sums = dot4(four(matrix, k, chunk * 4), x);
        out.copy_from_slice(&sums[..out.len()]);
    }
}

/// `y -= a * x`.
#[inline(always)]
pub fn subtract_scaled(y: &mut [f32], a: f32, x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y -= a * x;
    }
}

/// Lower triangular L with `H + damping * I = L^T L`. Rounding the rows of a column in ascending order,
/// `|L e|^2` is the loss of errors e, and row j of it is the first that knows of e_j.
pub struct Factor {
    k: usize,
    /// `[k][k]`, 0 above the diagonal.
    lower: Vec<f32>,
    inverse: Vec<f32>,
    /// What was added to the diagonal.
    pub damping: f32,
}

impl Factor {
    /// Factorises `h` (`[k][k]`, symmetric, finite). The damping starts at `relative` times the mean of
    /// the diagonal and grows tenfold until the factorisation succeeds.
    ///
    /// # Errors
    /// When memory is short, or no damping below 1e30 times the mean helps.
    pub fn new(h: &[f32], k: usize, relative: f64) -> Result<Self, QuantiseError> {
        let mean = (0..k).map(|i| f64::from(h[i * k + i])).sum::<f64>() / k.max(1) as f64;
        let mean = if mean.is_normal() && mean > 0.0 { mean } else { 1.0 };
        let mut damping = relative * mean;
        let mut a = filled(0f64, k * k)?;
        for _ in 0..40 {
            // Rows and columns in reverse, because L^T L instead of L L^T is wanted.
            for i in 0..k {
                let source = &h[(k - 1 - i) * k..(k - i) * k];
                for (to, from) in a[i * k..=i * k + i].iter_mut().zip(source.iter().rev()) {
                    *to = f64::from(*from);
                }
                a[i * k + i] += damping;
            }
            if pulp::Arch::new().dispatch(|| cholesky(&mut a, k)) {
                let mut lower = filled(0f32, k * k)?;
                for j in 0..k {
                    for i in 0..=j {
                        lower[j * k + i] = a[(k - 1 - i) * k + (k - 1 - j)] as f32;
                    }
                }
                let inverse: Vec<f32> = (0..k).map(|j| 1.0 / lower[j * k + j]).collect();
                if inverse.iter().all(|v| v.is_finite()) {
                    return Ok(Factor { k, lower, inverse, damping: damping as f32 });
                }
            }
            damping = (damping * 10.0).max(1e-9 * mean);
        }
        Err(QuantiseError::NotFinite)
    }

    /// `L_jj^2`: what a squared error of 1 in row j costs after the rows behind it have compensated.
    pub fn importance(&self) -> Vec<f32> {
        (0..self.k).map(|j| self.lower[j * self.k + j]).map(|d| d * d).collect()
    }

    /// `g = (H + damping * I)^-1 g`.
    #[inline(always)]
    pub fn solve(&self, g: &mut [Lane]) {
        let k = self.k;
        for j in (0..k).rev() {
            let (before, rest) = g.split_at_mut(j);
            let y = rest[0].map(|v| v * self.inverse[j]);
            rest[0] = y;
            for (g, c) in before.iter_mut().zip(&self.lower[j * k..j * k + j]) {
                for (g, y) in g.iter_mut().zip(&y) {
                    *g -= c * y;
                }
            }
        }
        self.forward(g, |j, sum, g| {
            for (g, s) in g.iter_mut().zip(sum) {
                *g = (*g - s) * self.inverse[j];
            }
        });
    }

    /// Calls `step(j, sum_{i<j} L_ji x_i, x_j)` for ascending j; what it leaves in `x_j` is used for the
    /// rows behind.
    #[inline(always)]
    fn forward(&self, x: &mut [Lane], mut step: impl FnMut(usize, &Lane, &mut Lane)) {
        let k = self.k;
        for first in (0..k).step_by(4) {
            let (before, rest) = x.split_at_mut(first);
            let sums = dot4(four(&self.lower, k, first), before);
            for j in first..(first + 4).min(k) {
                let (done, rest) = rest.split_at_mut(j - first);
                let mut sum = sums[j - first];
                for (c, x) in self.lower[j * k + first..j * k + j].iter().zip(&*done) {
                    for (s, x) in sum.iter_mut().zip(x) {
                        *s += c * x;
                    }
                }
                step(j, &sum, &mut rest[0]);
            }
        }
    }

    /// Rounds columns row by row, handing each row's error on to the rows behind it. `x` holds the
    /// weights and is left with their errors. `round(j, l, v)` gives the value that row j of column l
    /// takes for weight v.
    #[inline(always)]
    pub fn round(&self, x: &mut [Lane], mut round: impl FnMut(usize, usize, f32) -> f32) {
        self.forward(x, |j, sum, x| {
            for (l, (x, s)) in x.iter_mut().zip(sum).enumerate() {
                *x -= round(j, l, *x + s * self.inverse[j]);
            }
        });
    }
}

#[inline(always)]
fn dot(x: &[f64], y: &[f64]) -> f64 {
    let mut sums = [0f64; 8];
    let (x8, y8) = (x.chunks_exact(8), y.chunks_exact(8));
    let rest: f64 = x8.remainder().iter().zip(y8.remainder()).map(|(a, b)| a * b).sum();
    for (x, y) in x8.zip(y8) {
        for ((s, x), y) in sums.iter_mut().zip(x).zip(y) {
            *s += x * y;
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// Lower Cholesky factor in place (the lower triangle of `a`, `[k][k]`); false when `a` is not positive
/// definite.
#[inline(always)]
fn cholesky(a: &mut [f64], k: usize) -> bool {
    for p in (0..k).step_by(BLOCK) {
        let e = (p + BLOCK).min(k);
        let (top, bottom) = a.split_at_mut(e * k);
        for j in p..e {
            for i in p..=j {
                let s = top[j * k + i] - dot(&top[i * k + p..i * k + i], &top[j * k + p..j * k + i]);
                if i < j {
                    top[j * k + i] = s / top[i * k + i];
                } else if s > 0.0 && s.is_finite() {
                    top[j * k + j] = s.sqrt();
                } else {
                    return false;
                }
            }
        }
        let (top, width) = (&*top, e - p);
        let panel: Vec<f64> = bottom
            .par_chunks_mut(k)
            .flat_map_iter(|row| {
                for i in p..e {
                    let s = row[i] - dot(&row[p..i], &top[i * k + p..i * k + i]);
                    row[i] = s / top[i * k + i];
                }
                row[p..e].iter().copied()
            })
            .collect();
        bottom.par_chunks_mut(k).enumerate().for_each(|(m, row)| {
            pulp::Arch::new().dispatch(|| {
                let own = &panel[m * width..(m + 1) * width];
                for (out, other) in row[e..=e + m].iter_mut().zip(panel.chunks_exact(width)) {
                    *out -= dot(own, other);
                }
            });
        });
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(k: usize, rows: usize) -> Vec<f32> {
        let x: Vec<f32> = (0..rows * k).map(|i| ((i * 7919 % 1013) as f32 - 506.0) / 300.0).collect();
        let mut h = vec![0f32; k * k];
        for row in x.chunks(k) {
            for i in 0..k {
                subtract_scaled(&mut h[i * k..(i + 1) * k], -row[i] / rows as f32, row);
            }
        }
        h
    }

    #[test]
    fn the_factor_gives_the_matrix_back_and_solves() {
        for k in [1, 3, 47, 48, 50, 131] {
            let h = moments(k, 2 * k + 3);
            let f = Factor::new(&h, k, 0.01).unwrap();
            let scale = h.iter().fold(0f32, |a, v| a.max(v.abs()));
            for i in 0..k {
                for j in 0..k {
                    let sum: f32 = (0..k).map(|m| f.lower[m * k + i] * f.lower[m * k + j]).sum();
                    let want = h[i * k + j] + if i == j { f.damping } else { 0.0 };
                    assert!((sum - want).abs() < 1e-4 * scale, "{k} {i} {j}: {sum} {want}");
                }
            }
            let x: Vec<Lane> = (0..k).map(|i| [(i % 5) as f32 - 2.0; LANES]).collect();
            let mut g = vec![[0f32; LANES]; k];
            times(&h, &x, &mut g);
            for (g, x) in g.iter_mut().zip(&x) {
                g[3] += f.damping * x[3];
            }
            f.solve(&mut g);
            for (g, x) in g.iter().zip(&x) {
                assert!((g[3] - x[3]).abs() < 2e-3, "{k}: {} {}", g[3], x[3]);
            }
        }
    }

    #[test]
    fn singular_matrices_are_damped_until_they_factorise() {
        let k = 60;
        for h in [moments(k, 2), vec![0.0; k * k], vec![1.0; k * k], vec![-1.0; k * k]] {
            let f = Factor::new(&h, k, 0.0).unwrap();
            assert!(f.damping > 0.0 && f.importance().iter().all(|v| v.is_finite() && *v > 0.0));
        }
    }
}
