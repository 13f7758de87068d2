//! How far the product with a quantised matrix can be from the exact one: a bound for each output from the weights,
//! from what the tiles hold of them, and from the format of the inputs.
//!
//! Let A be the largest magnitude among a row's inputs (`int8/row`), or 127 s (one scale s for all; what lies beyond
//! saturates and is left out). The chip multiplies q_k s with the elements v_kj that the tiles hold, q_k the nearest
//! integer of x_k / s, so that |x_k - q_k s| <= d s with d = 1/2 + 127 · 2^-22: the reciprocal of s and the product with
//! it are rounded to f32. Then, by the triangle inequality,
//!
//! |y_j - sum_k x_k w_kj| <= A (sum_k |w_kj - v_kj| + d/127 sum_k |v_kj| + 2^-22 sum_k (|v_kj| + |w_kj|)),
//!
//! the last term for the roundings of the result to f32. Real-valued tiles take their inputs as they are: without the
//! second term, and with k 2^-24 sum_k |v_kj| for their sums in f32. Rows that are too small for a normal scale become 0;
//! that adds 127 times the smallest normal f32, times sum_k |w_kj|.
//!
//! Elements that are looked up are compared one by one, all of them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::exec::FixedMatrices;
use pfmc_ir::loaded::LoadedMatrix;
use pfmc_ir::numerics::{ACTIVATION_MAX, accumulator_bound};
use pfmc_ir::op::Op;
use pfmc_ir::program::TileProgram;
use pfmc_ir::tile::{Activations, MatrixId, Scheme, TileContent, TileId, TileKind, TileSource};
use rayon::prelude::*;
use serde::Serialize;

use super::{Method, Outcome, Worst};
use crate::codes::{E0313, E0315, E0316, E0704};
use crate::layers::{LayerInfo, tiles_of};
use crate::source::ModelSource;

/// Rows of inputs kept of each matrix.
const ROWS_MAX: usize = 24;

/// What is known of one matrix.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Layer {
    /// Which.
    #[serde(flatten)]
    pub info: LayerInfo,
    /// Largest error of any output for inputs of magnitude at most 1; for inputs of one scale, of magnitude at most 127
    /// times it.
    pub bound: f64,
    /// Largest output for the same inputs.
    pub range: f64,
    /// Largest error of an element.
    pub element_error: f64,
    /// Bits that the largest possible 32-bit sum of the codes leaves unused; `None` without codes.
    pub accumulator_bits_free: Option<f64>,
    /// What was found.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Keeps some rows of the inputs of each matrix.
pub(super) struct Recorder<'a> {
    inner: &'a dyn FixedMatrices,
    rows: Vec<u32>,
    kept: Mutex<BTreeMap<MatrixId, Vec<Vec<f32>>>>,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(inner: &'a dyn FixedMatrices, program: &TileProgram) -> Recorder<'a> {
        Recorder { inner, rows: program.matrices.iter().map(|m| m.k).collect(), kept: Mutex::default() }
    }

    fn keep(&self, matrix: MatrixId, x: &[f32]) {
        let k = self.rows.get(matrix.index()).map_or(0, |k| *k as usize).max(1);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = kept.entry(matrix).or_default();
        let room = ROWS_MAX.saturating_sub(rows.len());
        // Of each run a few, so that all runs have their share.
        rows.extend(x.chunks_exact(k).take(room.min(4)).map(<[f32]>::to_vec));
    }

    pub(super) fn rows(self) -> BTreeMap<MatrixId, Vec<Vec<f32>>> {
        self.kept.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FixedMatrices for Recorder<'_> {
    fn linear(&self, matrix: MatrixId, x: &[f32]) -> Result<Vec<f32>, Diagnostics> {
        self.keep(matrix, x);
        self.inner.linear(matrix, x)
    }
    fn grouped(&self, matrix: MatrixId, groups: usize, x: &[f32]) -> Result<Vec<f32>, Diagnostics> {
        self.keep(matrix, x);
        self.inner.grouped(matrix, groups, x)
    }
    fn lookup(&self, matrix: MatrixId, indices: &[i64]) -> Result<Vec<f32>, Diagnostics> {
        self.inner.lookup(matrix, indices)
    }
    fn data(&self, offset: u64, len: u64) -> Result<Vec<u8>, Diagnostics> {
        self.inner.data(offset, len)
    }
}

/// Sums over the rows of each column of a matrix.
struct Columns {
    /// sum |w|
    weights: Vec<f64>,
    /// sum |v|
    held: Vec<f64>,
    /// sum |w - v|
    error: Vec<f64>,
    /// Largest |w - v|.
    element: f64,
    /// The column of the largest error.
    worst: usize,
}

/// What tiles hold, exactly: codes times scales times the unit, in f64.
fn exact(content: &TileContent) -> Vec<f64> {
    match content {
        TileContent::Codes(b) => {
            let scale =
                |row: usize, j: usize| f64::from(b.scales[row / b.group * b.n + j]) * f64::from(b.unit);
            let levels = b.levels.iter().enumerate();
            levels.map(|(i, l)| f64::from(*l) * scale(i / b.n.max(1), i % b.n.max(1))).collect()
        }
        TileContent::Real(b) => b.values.iter().map(|v| f64::from(*v)).collect(),
        TileContent::Data(_) => Vec::new(),
    }
}

/// One matrix: what the model says and what its tiles hold, summed up, and a multiplier for the tiles. No more of it is in
/// memory than what the tiles hold.
struct Held {
    /// Tiles that are farther from the model's weights than zeros would be.
    strangers: Vec<TileId>,
    loaded: LoadedMatrix,
    columns: Columns,
    /// The column of the largest error, for each row: the model's weight and what the tiles hold. Empty without a multiplier.
    worst: Vec<(f64, f64)>,
    /// Whether any tile has codes.
    codes: bool,
    /// Largest sum of magnitudes that a 32-bit accumulator meets.
    accumulator: u64,
    k: usize,
    n: usize,
}

/// A tile of a matrix: its rows, its columns, and the model's weights there, `[k][n]`.
type Part = (Range<usize>, Range<usize>, Vec<f32>);

/// A part of a matrix that is in a tile.
fn part(program: &TileProgram, source: &ModelSource, tile: TileId) -> Result<(Part, Scheme), Diagnostics> {
    let missing = || Diagnostic::error(&E0704, format!("the model has no weights for tile {tile}"));
    let (Some(TileKind::Matrix { k, n, scheme, .. }), Some(weights)) =
        (program.tiles.get(tile.index()).map(|t| &t.kind), source.weights(tile))
    else {
        return Err(missing().into());
    };
    let range = |r: &Range<u32>| r.start as usize..r.end as usize;
    Ok(((range(k), range(n), weights), *scheme))
}

impl Held {
    /// With a multiplier where there are `products`.
    fn new(
        program: &TileProgram,
        source: &ModelSource,
        tiles: &dyn TileSource,
        id: MatrixId,
        products: bool,
    ) -> Result<Held, Diagnostics> {
        let missing =
            || Diagnostics::from(Diagnostic::error(&E0704, format!("the model has no matrix {id}")));
        let m = program.matrices.get(id.index()).ok_or_else(missing)?;
        let (k, n) = (m.k as usize, m.n as usize);
        let mut columns = Columns {
            weights: vec![0.0; n],
            held: vec![0.0; n],
            error: vec![0.0; n],
            element: 0.0,
            worst: 0,
        };
        let (mut loaded, mut codes, mut accumulator) = (LoadedMatrix::new(m), false, 0);
        let mut strangers = Vec::new();
        for tile in tiles_of(program, id) {
            let ((rows, across, weights), scheme) = part(program, source, tile)?;
            let content = tiles.tile(tile)?;
            let width = across.len();
            let fault = match &content {
                TileContent::Codes(b) => b.fault(rows.len(), width, scheme),
                TileContent::Real(b) if b.values.len() == rows.len() * width => None,
                _ => Some("it is of another kind or size".to_owned()),
            };
            if let Some(fault) = fault {
                let message = format!("tile {tile} of matrix {id}: {fault}");
                return Err(Diagnostic::error(&E0315, message).at(&m.origin).into());
            }
            let (mut signal, mut wrong) = (0f64, 0f64);
            let held = exact(&content);
            for (w, v) in weights.chunks_exact(width.max(1)).zip(held.chunks_exact(width.max(1))) {
                for ((j, w), v) in across.clone().zip(w).zip(v) {
                    let w = f64::from(*w);
                    let error = (w - v).abs();
                    signal += w * w;
                    wrong += error * error;
                    columns.weights[j] += w.abs();
                    columns.held[j] += v.abs();
                    columns.error[j] += error;
                    columns.element = columns.element.max(error);
                }
            }
            if wrong > signal {
                strangers.push(tile);
            }
            if let TileContent::Codes(b) = &content {
                codes = true;
                accumulator = accumulator.max(largest_sum(b, rows.len(), 0..width));
            }
            if products {
                let range = |r: &Range<usize>| r.start as u32..r.end as u32;
                loaded
                    .insert(&range(&rows), &range(&across), content)
                    .map_err(|e| Diagnostic::error(&E0704, e))?;
            }
        }
        let last = columns.error.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        columns.worst = last.map_or(0, |(j, _)| j);
        let mut worst = vec![(0f64, 0f64); if products { k } else { 0 }];
        let has_worst = |tile: &TileId| match program.tiles.get(tile.index()).map(|t| &t.kind) {
            Some(TileKind::Matrix { n, .. }) => (n.start as usize..n.end as usize).contains(&columns.worst),
            _ => false,
        };
        for tile in tiles_of(program, id).into_iter().filter(|t| products && has_worst(t)) {
            let ((rows, across, weights), _) = part(program, source, tile)?;
            let held = exact(&tiles.tile(tile)?);
            let (at, width) = (columns.worst - across.start, across.len());
            let column = weights.iter().zip(&held).skip(at).step_by(width);
            worst[rows].iter_mut().zip(column).for_each(|(slot, (w, v))| *slot = (f64::from(*w), *v));
        }
        Ok(Held { strangers, loaded, columns, worst, codes, accumulator, k, n })
    }

    /// The bound of each output for a row of inputs of magnitude at most `a`.
    fn bound(&self, j: usize, a: f64) -> f64 {
        let c = &self.columns;
        let roundoff = 1.0 / f64::from(1u32 << 24);
        let most = f64::from(ACTIVATION_MAX);
        let inputs = if self.codes {
            (0.5 + most * 4.0 * roundoff) / most * c.held[j]
        } else {
            self.k as f64 * roundoff * c.held[j]
        };
        let relative = c.error[j] + inputs + 4.0 * roundoff * (c.held[j] + c.weights[j]);
        a * relative + most * f64::from(f32::MIN_POSITIVE) * c.weights[j]
    }
}

/// The largest sum of a column of codes for any int8 inputs.
fn largest_sum(b: &pfmc_ir::tile::CodeBlock, k: usize, columns: Range<usize>) -> u64 {
    let term = |i: usize, j: usize| {
        u64::from(b.levels[i * b.n + j].unsigned_abs()) * u64::from(b.scales[i / b.group * b.n + j])
    };
    let sum = |j: usize| (0..k).map(|i| term(i, j)).sum::<u64>() * ACTIVATION_MAX.unsigned_abs() as u64;
    columns.map(sum).max().unwrap_or(0)
}

/// Rows of inputs that come near the bound: those that the worst column's errors add up for, half-way between codes,
/// zeros, magnitudes too small for a scale, and one outlier.
fn adversarial(held: &Held) -> Vec<Vec<f32>> {
    let k = held.k;
    let sign = |i: usize| {
        let (w, v) = held.worst[i];
        (if w - v < 0.0 { -1f32 } else { 1.0 }, if v < 0.0 { -1f32 } else { 1.0 })
    };
    let half = |i: usize| if i == 0 { 1.0 } else { (63.5 / 127.0) * sign(i).1 };
    vec![
        (0..k).map(|i| sign(i).0).collect(),
        (0..k).map(half).collect(),
        vec![0.0; k],
        (0..k).map(|i| 1e-39 * sign(i).1).collect(),
        (0..k).map(|i| if i == k / 2 { 1e4 } else { 0.3 * sign(i).1 }).collect(),
    ]
}

/// Checks the products of one matrix.
fn layer(
    program: &TileProgram,
    source: &ModelSource,
    tiles: &dyn TileSource,
    (id, uses): (MatrixId, [bool; 2]),
    rows: &[Vec<f32>],
) -> Result<Layer, Diagnostics> {
    let [products, lookups] = uses;
    let held = Held::new(program, source, tiles, id, products)?;
    let m = &program.matrices[id.index()];
    let mut out = Outcome::default();
    out.by(Method::Bound);
    let schemes: Vec<(u64, Scheme)> = tiles_of(program, id)
        .into_iter()
        .filter_map(|t| program.matrix_tile(t).map(|(k, _, scheme)| (k as u64, scheme)))
        .collect();
    let info = LayerInfo::new(program, id, m);
    let a = match m.activations {
        Activations::Static(scale) if held.codes => f64::from(scale) * f64::from(ACTIVATION_MAX),
        _ => 1.0,
    };
    let most = |f: &dyn Fn(usize) -> f64| (0..held.n).map(f).fold(0f64, f64::max);
    let (bound, range) = (most(&|j| held.bound(j, a)), a * most(&|j| held.columns.weights[j]));
    for tile in &held.strangers {
        let message =
            format!("tile {tile} of {} is farther from the model's weights than zeros are", info.name);
        out.problems.push(Diagnostic::error(&E0316, message).at(&m.origin));
    }
    if products {
        let parts = tiles_of(program, id).into_iter().map(|t| Ok(part(program, source, t)?.0));
        products_of(&held, m.activations, rows, parts, &info.name, &mut out)?;
    }
    if lookups {
        out.count("elements looked up", held.k as u64 * held.n as u64);
    }
    // Whatever the codes are, and with those that there are.
    let proved = schemes.iter().map(|(k, scheme)| accumulator_bound(*k, *scheme)).max().unwrap_or(0);
    if proved > i32::MAX.unsigned_abs().into() || held.accumulator > proved {
        let message =
            format!("a sum of {} reaches {}, proved are {proved} and 32 bits", info.name, held.accumulator);
        out.problems.push(Diagnostic::error(&E0313, message).at(&m.origin));
    } else if held.codes {
        out.by(Method::Proof);
        out.count("accumulators proved", schemes.len() as u64);
    }
    let free = |sum: u64| (f64::from(i32::MAX) / sum.max(1) as f64).log2();
    Ok(Layer {
        info,
        bound,
        range,
        element_error: held.columns.element,
        accumulator_bits_free: held.codes.then(|| free(held.accumulator)),
        outcome: out,
    })
}

/// Compares products of rows of inputs with exact ones, in f64. `parts` are the matrix as the model has it, those of
/// the same columns in the order of their rows.
fn products_of(
    held: &Held,
    activations: Activations,
    rows: &[Vec<f32>],
    parts: impl Iterator<Item = Result<Part, Diagnostics>>,
    name: &str,
    out: &mut Outcome,
) -> Result<(), Diagnostics> {
    let limit = |x: &[f32]| {
        let a = x.iter().fold(0f64, |a, v| a.max(f64::from(*v).abs()));
        let limit = match activations {
            Activations::Static(scale) if held.codes => f64::from(scale) * f64::from(ACTIVATION_MAX),
            _ => a,
        };
        let overflows =
            a * held.columns.weights.iter().copied().fold(0f64, f64::max) > f64::from(f32::MAX) / 2.0;
        (a.is_finite() && a <= limit && !overflows).then_some(limit)
    };
    let all: Vec<Vec<f32>> = rows.iter().cloned().chain(adversarial(held)).collect();
    let fitting: Vec<(&[f32], f64)> = all.iter().filter_map(|x| Some((x.as_slice(), limit(x)?))).collect();
    if fitting.len() < all.len() {
        out.count("rows outside of the format", (all.len() - fitting.len()) as u64);
    }
    let mut wanted = vec![vec![0f64; held.n]; fitting.len()];
    for part in parts {
        let (down, across, weights) = part?;
        for ((x, _), want) in fitting.iter().zip(&mut wanted) {
            for (x, w) in x[down.clone()].iter().zip(weights.chunks_exact(across.len().max(1))) {
                for (y, w) in want[across.clone()].iter_mut().zip(w) {
                    *y += f64::from(*x) * f64::from(*w);
                }
            }
        }
    }
    for ((x, limit), want) in fitting.iter().zip(&wanted) {
        let got = held.loaded.linear(x)?;
        out.count("rows", 1);
        for (j, (want, got)) in want.iter().zip(&got).enumerate() {
            let worst = Worst {
                error: (f64::from(*got) - want).abs(),
                bound: held.bound(j, *limit),
                at: format!("{name}, output {j}"),
            };
            Worst::keep(&mut out.worst, worst);
        }
    }
    if let Some(w) = out.worst.as_ref().filter(|w| w.share() > 1.0) {
        let message = format!("{} errs by {:.3e}, its bound is {:.3e}", w.at, w.error, w.bound);
        out.problems.push(Diagnostic::error(&E0313, message));
    }
    Ok(())
}

/// The bounds of all matrices of a program whose tiles are `tiles`, each compared with products of rows that it met.
///
/// # Errors
/// Tiles that cannot be read.
pub(super) fn layers(
    program: &TileProgram,
    source: &ModelSource,
    tiles: &dyn TileSource,
    rows: &BTreeMap<MatrixId, Vec<Vec<f32>>>,
) -> Result<Vec<Layer>, Diagnostics> {
    let mut uses = vec![[false; 2]; program.matrices.len()];
    program.graph.each(&mut |g| {
        for (_, node) in g.nodes() {
            if let Some(slot) = node.op.matrix().and_then(|m| uses.get_mut(m.index())) {
                slot[usize::from(matches!(node.op, Op::FixedLookup { .. }))] = true;
            }
        }
    });
    let ids: Vec<(MatrixId, [bool; 2])> = program.matrices().map(|(id, _)| id).zip(uses).collect();
    let none = Vec::new();
    ids.into_par_iter()
        .map(|one| layer(program, source, tiles, one, rows.get(&one.0).unwrap_or(&none)))
        .collect()
}

#[cfg(test)]
mod tests {
    use pfmc_ir::backend::TileLimit;
    use pfmc_ir::text::parse_program;
    use pfmc_ir::tile::Levels;

    use super::*;
    use crate::partition::partition;
    use crate::passes::fix::fix;
    use crate::quantise::plan::WeightPlan;

    /// Tiles of another source, one of them changed.
    struct Changed<'a>(&'a dyn TileSource, fn(&mut TileContent));

    impl TileSource for Changed<'_> {
        fn tile(&self, id: TileId) -> Result<TileContent, Diagnostics> {
            let mut content = self.0.tile(id)?;
            if id.index() == 1 {
                (self.1)(&mut content);
            }
            Ok(content)
        }
    }

    /// A product with a matrix of 12 x 6 in tiles of 8 x 6.
    fn cut(scheme: Scheme) -> (TileProgram, ModelSource) {
        let weights: Vec<String> =
            (0..72).map(|i| format!("{:?}", (i * 37 % 41) as f32 / 7.3 - 2.0)).collect();
        let text = format!(
            "pfir 1\n%0 = input \"x\" : f32[n, 12]\n%1 = const [{}] learned : f32[12, 6]\n\
             %2 = matmul(%0, %1) : f32[n, 6]\noutput \"y\" = %2\n",
            weights.join(", ")
        );
        let mut graph = parse_program(&text).unwrap().graph;
        let (found, _) = fix(&mut graph, &[]).unwrap();
        let limit = |_| Some(TileLimit { k: 8, n: 6, k_multiple: 1, n_multiple: 1 });
        let plan = WeightPlan::uniform(&found, scheme);
        let (program, source) = partition(graph, &found, &plan, &limit, None).unwrap();
        (program.unverified(), source)
    }

    #[test]
    fn bounds_hold_and_are_nearly_met_and_other_contents_are_refused() {
        for (scheme, near) in [
            (Scheme::Codes { bits: 2, group: 4, levels: Levels::Uniform }, 0.8),
            (Scheme::Codes { bits: 4, group: 4, levels: Levels::Uniform }, 0.6),
            (Scheme::Codes { bits: 8, group: 12, levels: Levels::Uniform }, 0.2),
            (Scheme::Real, 0.3),
        ] {
            let (program, source) = cut(scheme);
            let found = |tiles: &dyn TileSource| layers(&program, &source, tiles, &BTreeMap::new());
            let good = &found(&source).unwrap()[0];
            let share = good.outcome.worst.as_ref().unwrap().share();
            assert!(good.outcome.passed() && (near..=1.0).contains(&share), "{scheme}: {good:?}");
            let negated = |c: &mut TileContent| match c {
                TileContent::Codes(b) => b.levels.iter_mut().for_each(|l| *l = -*l),
                TileContent::Real(b) => b.values.iter_mut().for_each(|v| *v = -*v),
                TileContent::Data(_) => {}
            };
            let bad = &found(&Changed(&source, negated)).unwrap()[0];
            assert_eq!(bad.outcome.problems.0[0].code.id, "E0316", "{bad:?}");
            let cut_off = |c: &mut TileContent| match c {
                TileContent::Codes(b) => b.levels.truncate(3),
                TileContent::Real(b) => b.values.truncate(3),
                TileContent::Data(_) => {}
            };
            assert_eq!(found(&Changed(&source, cut_off)).unwrap_err().0[0].code.id, "E0315");
        }
    }

    #[test]
    fn a_product_beyond_its_bound_is_a_failure() {
        let (program, source) = cut(Scheme::Codes { bits: 4, group: 4, levels: Levels::Uniform });
        let mut held = Held::new(&program, &source, &source, MatrixId(0), true).unwrap();
        let judge = |held: &Held| {
            let mut out = Outcome::default();
            let tiles = tiles_of(&program, MatrixId(0)).into_iter();
            let parts = tiles.map(|t| Ok(part(&program, &source, t)?.0));
            products_of(held, Activations::Row, &[], parts, "w", &mut out).unwrap();
            out
        };
        assert!(judge(&held).passed());
        // As if the tiles' errors explained half of what they do.
        for (error, v) in held.columns.error.iter_mut().zip(&mut held.columns.held) {
            (*error, *v) = (*error * 0.5, *v * 0.5);
        }
        assert_eq!(judge(&held).problems.0[0].code.id, "E0313");
    }
}
