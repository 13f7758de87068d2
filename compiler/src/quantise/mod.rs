//! The contents of quantised tiles: which code each weight gets.
//!
//! A tile's element is `level * scale * unit` (`pfmc_ir::numerics`). Three things are free: the levels
//! (uniform, or a codebook of 2^bits int8 values a tile), the scale of each group of rows of a column,
//! and the code of each weight.
//!
//! - [`data_free`] chooses them from the weights alone: scales by search, codebooks by Lloyd's
//!   iteration, codes by rounding.
//! - [`Solver`] minimises the error of the product's outputs on calibration data, which
//!   [`Moments`] sum up. For a column w, inputs x of the source model and inputs x' of the quantised one
//!   it minimises `E (w·x - w'·x')^2`: the best real-valued w' (Moore-Penrose, damped towards w), then
//!   codes for it by successive rounding in which rows not yet rounded compensate (OBQ, Frantar and
//!   Alistarh 2022; in the form of Babai's nearest plane), then coordinate descent over codes and
//!   scales.
//!
//! Plain functions over slices; they know no model and no program. Results depend on nothing but the
//! arguments.

pub mod allocate;
pub mod calibrate;
pub mod equalise;
mod factor;
mod levels;
pub mod options;
pub mod plan;
mod solve;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use pfmc_ir::tile::{CodeBlock, Levels, Scheme};
use rayon::prelude::*;

use levels::COLUMNS;
pub use levels::Grid;
pub use solve::{Correction, Moments, Solution, Solver, share};

/// Columns of a tile that [`expected_loss`] looks at.
const SAMPLED_COLUMNS: usize = 32;

/// A tile of a matrix and how its elements are represented.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TileRect {
    /// Rows.
    pub k: Range<usize>,
    /// Columns.
    pub n: Range<usize>,
    /// Bits a code.
    pub bits: u8,
    /// Rows that share a scale, from the tile's first row on.
    pub group: usize,
    /// What codes stand for.
    pub levels: Levels,
}

impl TileRect {
    /// A tile of codes.
    ///
    /// # Errors
    /// When the scheme is none of codes, or not valid.
    pub fn new(k: Range<usize>, n: Range<usize>, scheme: Scheme) -> Result<TileRect, QuantiseError> {
        let (bits, group, levels) = codes(scheme)?;
        Ok(TileRect { k, n, bits, group, levels })
    }

    /// The scheme.
    pub fn scheme(&self) -> Scheme {
        let group = u32::try_from(self.group).unwrap_or(u32::MAX);
        Scheme::Codes { bits: self.bits, group, levels: self.levels }
    }
}

/// Why nothing was quantised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuantiseError {
    /// Lengths, tiles or schemes that do not go together; the text says which.
    Shape(String),
    /// A moment that is NaN or infinite.
    NotFinite,
    /// Memory cannot be had.
    TooLarge,
}

impl fmt::Display for QuantiseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QuantiseError::Shape(what) => f.write_str(what),
            QuantiseError::NotFinite => f.write_str("the calibration statistics are not finite"),
            QuantiseError::TooLarge => f.write_str("not enough memory for the calibration statistics"),
        }
    }
}

impl std::error::Error for QuantiseError {}

/// Bits, group and levels of a scheme of codes; others are refused.
fn codes(scheme: Scheme) -> Result<(u8, usize, Levels), QuantiseError> {
    match scheme {
        Scheme::Codes { bits, group, levels } if scheme.is_valid() => Ok((bits, group as usize, levels)),
        _ => Err(QuantiseError::Shape(format!("tiles of codes have no scheme {scheme}"))),
    }
}

/// Refuses weights and importances that are not those of `k` rows and `n` columns.
fn check_lengths(w: &[f32], importance: Option<&[f32]>, k: usize, n: usize) -> Result<(), QuantiseError> {
    if k.checked_mul(n) != Some(w.len()) || importance.is_some_and(|h| h.len() != k) {
        return Err(QuantiseError::Shape(format!("{} weights for {k} x {n}", w.len())));
    }
    Ok(())
}

/// The importances of `k` rows, 1 each where none are given.
fn or_ones(importance: Option<&[f32]>, k: usize) -> Cow<'_, [f32]> {
    importance.map_or_else(|| vec![1.0; k].into(), Cow::from)
}

/// `[n][k]` from `[k][n]`: every `step`th column.
fn columns(values: &[f32], k: usize, n: usize, step: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(k.saturating_mul(n.div_ceil(step.max(1))));
    for j in (0..n).step_by(step.max(1)) {
        out.extend(values.iter().skip(j).step_by(n).take(k));
    }
    out
}

/// Levels of a tile whose columns are given: uniform, or learned from them.
fn choose_grid(columns: &[&[f32]], importance: &[f32], (bits, group, levels): (u8, usize, Levels)) -> Grid {
    match levels {
        Levels::Codebook => Grid::learn(columns, importance, bits, group),
        Levels::Uniform => Grid::uniform(bits),
    }
}

/// Quantises a `[k][n]` rectangle from its values alone: scales (and the codebook, if one is wanted) that
/// minimise the squared error, each row's weighted with `importance` (`k` values, such as the mean
/// squares of the inputs; 1 when not given), and the nearest level for each element. Weights that are
/// not finite make their group 0.
///
/// # Errors
/// When lengths do not fit or the scheme is none that a tile can have.
pub fn data_free(
    values: &[f32],
    importance: Option<&[f32]>,
    k: usize,
    n: usize,
    scheme: Scheme,
) -> Result<CodeBlock, QuantiseError> {
    let (bits, group, levels) = codes(scheme)?;
    check_lengths(values, importance, k, n)?;
    if values.is_empty() {
        let (levels, scales, codebook) = Default::default();
        return Ok(CodeBlock { k, n, bits, group, unit: 0.0, levels, scales, codebook });
    }
    let importance = &*or_ones(importance, k);
    let groups = k.div_ceil(group);
    let mut block = CodeBlock {
        k,
        n,
        bits,
        group,
        unit: 0.0,
        levels: vec![0; k * n],
        scales: vec![0; groups * n],
        codebook: Vec::new(),
    };
    let turned = columns(values, k, n, 1);
    let turned: Vec<&[f32]> = turned.chunks_exact(k.max(1)).collect();
    let grid = pulp::Arch::new().dispatch(|| choose_grid(&turned, importance, (bits, group, levels)));
    block.codebook = grid.codebook();
    block.unit = grid.unit(&turned, importance, group);
    let unit = block.unit;
    let quantise = |columns: &[&[f32]]| -> Vec<(Vec<u8>, Vec<i8>)> {
        pulp::Arch::new()
            .dispatch(|| columns.iter().map(|c| grid.quantise(c, importance, group, unit)).collect())
    };
    let coded: Vec<_> = turned.par_chunks(COLUMNS).map(quantise).collect();
    for (j, (scales, levels)) in coded.iter().flatten().enumerate() {
        scales.iter().enumerate().for_each(|(g, &v)| block.scales[g * n + j] = v);
        levels.iter().enumerate().for_each(|(i, &v)| block.levels[i * n + j] = v);
    }
    Ok(block)
}

/// What quantising a `[k][n]` rectangle would cost with other bits, groups or levels: the squared error,
/// each row's weighted with `importance`, estimated from some columns. With [`Solver::importance`] this
/// is the loss that successive rounding would leave, in the units of [`Solution::loss`].
///
/// # Errors
/// As [`data_free`].
pub fn expected_loss(
    values: &[f32],
    importance: Option<&[f32]>,
    k: usize,
    n: usize,
    scheme: Scheme,
) -> Result<f64, QuantiseError> {
    let (bits, group, levels) = codes(scheme)?;
    check_lengths(values, importance, k, n)?;
    if values.is_empty() {
        return Ok(0.0);
    }
    let importance = &*or_ones(importance, k);
    let turned = columns(values, k, n, n.div_ceil(SAMPLED_COLUMNS));
    let turned: Vec<&[f32]> = turned.chunks_exact(k.max(1)).collect();
    let sum = pulp::Arch::new().dispatch(|| {
        let grid = choose_grid(&turned, importance, (bits, group, levels));
        let mut sum = 0f64;
        for column in &turned {
            for (x, h) in column.chunks(group).zip(importance.chunks(group)) {
                sum += f64::from(grid.fit(x, h).1);
            }
        }
        sum
    });
    Ok(sum * n as f64 / turned.len().max(1) as f64)
}

/// [`data_free`] of every tile of a `[k][n]` matrix, in parallel.
///
/// # Errors
/// As [`data_free`], and when a tile lies outside of the matrix.
pub fn data_free_tiles(
    weights: &[f32],
    importance: Option<&[f32]>,
    k: usize,
    n: usize,
    tiles: &[TileRect],
) -> Result<Vec<CodeBlock>, QuantiseError> {
    check_lengths(weights, importance, k, n)?;
    tiles
        .par_iter()
        .map(|t| {
            if t.k.start > t.k.end || t.k.end > k || t.n.start > t.n.end || t.n.end > n {
                return Err(QuantiseError::Shape(format!("a tile {:?} x {:?} of {k} x {n}", t.k, t.n)));
            }
            let values: Vec<f32> =
                t.k.clone().flat_map(|i| &weights[i * n + t.n.start..i * n + t.n.end]).copied().collect();
            let h = importance.map(|h| &h[t.k.clone()]);
            data_free(&values, h, t.k.len(), t.n.len(), t.scheme())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(len: usize) -> Vec<f32> {
        (0..len).map(|i| (((i * 7919 % 1013) as f32 - 506.0) / 506.0).powi(3)).collect()
    }

    fn scheme(bits: u8, group: u32, codebook: bool) -> Scheme {
        let levels = if codebook { Levels::Codebook } else { Levels::Uniform };
        Scheme::Codes { bits, group, levels }
    }

    fn error(w: &[f32], got: &[f32]) -> f32 {
        w.iter().zip(got).map(|(a, b)| (a - b) * (a - b)).sum()
    }

    #[test]
    fn searched_scales_and_codebooks_beat_rounding() {
        let (k, n) = (96, 20);
        let w = weights(k * n);
        for bits in 2..=6 {
            let plain = pfmc_ir::numerics::quantize_codes(&w, k, n, bits, 32).dequantize();
            let uniform = data_free(&w, None, k, n, scheme(bits, 32, false)).unwrap();
            let book = data_free(&w, None, k, n, scheme(bits, 32, true)).unwrap();
            assert!(uniform.codebook.is_empty() && book.codebook.len() == 1 << bits);
            let errors = [plain, uniform.dequantize(), book.dequantize()].map(|got| error(&w, &got));
            assert!(errors[2] < errors[1] && errors[1] < errors[0], "{bits}: {errors:?}");
            assert!(book.levels.iter().all(|l| book.codebook.contains(l)));
        }
    }

    #[test]
    fn importance_moves_the_error_to_the_rows_that_matter_less() {
        let (k, n) = (32, 8);
        let w = weights(k * n);
        let h: Vec<f32> = (0..k).map(|i| if i % 2 == 0 { 100.0 } else { 1.0 }).collect();
        let even = |b: &CodeBlock| -> f32 {
            let d = b.dequantize();
            (0..k).step_by(2).map(|i| error(&w[i * n..(i + 1) * n], &d[i * n..(i + 1) * n])).sum()
        };
        let plain = data_free(&w, None, k, n, scheme(3, 32, false)).unwrap();
        assert!(even(&data_free(&w, Some(&h), k, n, scheme(3, 32, false)).unwrap()) < even(&plain));
    }

    #[test]
    fn the_expected_loss_is_near_the_loss() {
        let (k, n) = (64, 200);
        let w = weights(k * n);
        for (bits, codebook) in [(3, true), (4, false)] {
            let got = error(&w, &data_free(&w, None, k, n, scheme(bits, 32, codebook)).unwrap().dequantize());
            let guess = expected_loss(&w, None, k, n, scheme(bits, 32, codebook)).unwrap() as f32;
            assert!((guess / got - 1.0).abs() < 0.15, "{guess} {got}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_and_what_is_not_finite_is_zero() {
        assert!(data_free(&[1.0; 6], None, 2, 4, scheme(4, 2, false)).is_err());
        assert!(data_free(&[1.0; 6], None, 2, 3, scheme(9, 2, false)).is_err());
        assert!(data_free(&[1.0; 6], None, 2, 3, scheme(7, 2, true)).is_err());
        assert!(data_free(&[1.0; 6], None, 2, 3, scheme(4, 0, true)).is_err());
        assert!(data_free(&[], None, usize::MAX, 2, scheme(4, 1, true)).is_err());
        let b = data_free(&[f32::NAN, 1.0, 2.0, f32::INFINITY], None, 1, 4, scheme(4, 1, false)).unwrap();
        assert_eq!(b.scales[0], 0);
        assert_eq!(b.scales[3], 0);
        let d = b.dequantize();
        assert!((d[1] - 1.0).abs() < 0.01 && (d[2] - 2.0).abs() < 0.01, "{d:?}");
        let zero = data_free(&[0.0; 8], None, 4, 2, scheme(3, 4, true)).unwrap();
        assert_eq!((zero.unit, zero.dequantize()), (0.0, vec![0.0; 8]));
    }
}
