//! Calibration: the program runs on samples twice side by side, once with the model's weights and once
//! with what has been quantised so far. Where a matrix is met, its inputs in both runs are its
//! statistics: the weights are rounded so that the compiled run gives what the model gives, errors of
//! earlier layers and of the int8 inputs included.
//!
//! Every sample is read once. Between two matrices a run is its values that are still needed, so memory
//! holds those of all samples, the second moments of the inputs at hand, and the weights of one matrix.
//!
//! Rounding that is compensated and runs on what was compiled before: E. Frantar et al., "GPTQ"
//! (arXiv 2210.17323); the correction for what earlier layers lost: Y. Li et al., "GPTAQ" (arXiv 2504.02692).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, RwLock};

use pfmc_ir::backend::Progress;
use pfmc_ir::consts::ConstSource;
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::elem::Elem;
use pfmc_ir::eval::matmul::product_f32;
use pfmc_ir::exec::{Executor, FixedMatrices, Frame};
use pfmc_ir::graph::{Graph, Node, ValueId};
use pfmc_ir::loaded::{ById, LoadedMatrix, entry};
use pfmc_ir::numerics::{self, ACTIVATION_MAX};
use pfmc_ir::op::{BinaryFn, Op};
use pfmc_ir::program::TileProgram;
use pfmc_ir::shape::OpenType;
use pfmc_ir::tensor::Tensor;
use pfmc_ir::tile::{
    Activations, CodeBlock, FixedMatrix, MatrixId, RealBlock, Scheme, TileContent, TileId, TileKind,
};
use rayon::prelude::*;

use super::allocate::ErrorSums;
use super::options::ActivationChoice;
use super::solve::{Correction, Moments, Solver, share};
use super::{QuantiseError, TileRect, data_free};
use crate::codes::{E0405, E0704};
use crate::passes::{Exactness, PassInfo, PassRecord};
use crate::samples::Samples;
use crate::source::ModelSource;

/// Rows whose products are summed in f32 before they are added up in f64.
const ROWS: usize = 2048;
/// Unquantised matrices kept at most.
const RECENT: usize = 4;
/// Shares of the largest magnitude that a static scale is tried at.
const CLIPS: [f32; 8] = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3];

pub(super) fn failed(message: impl Into<String>) -> Diagnostics {
    Diagnostic::error(&E0405, message).into()
}

/// The fixed matrices as the model has them.
pub struct Exact<'a> {
    source: &'a ModelSource,
    matrices: &'a [FixedMatrix],
    recent: Mutex<VecDeque<(MatrixId, Arc<LoadedMatrix>)>>,
}

impl<'a> Exact<'a> {
    /// The matrices of a program whose contents come from `source`.
    pub fn new(matrices: &'a [FixedMatrix], source: &'a ModelSource) -> Exact<'a> {
        Exact { source, matrices, recent: Mutex::default() }
    }
}

/// A matrix of real values.
fn real(m: &FixedMatrix, values: Vec<f32>) -> Result<LoadedMatrix, String> {
    let block = RealBlock { k: m.k as usize, n: m.n as usize, values };
    let mut loaded = LoadedMatrix::new(m);
    loaded.insert(&(0..m.k), &(0..m.n), TileContent::Real(block))?;
    Ok(loaded)
}

impl ById for Exact<'_> {
    type Held<'h>
        = Arc<LoadedMatrix>
    where
        Self: 'h;

    fn matrix(&self, id: MatrixId) -> Result<Arc<LoadedMatrix>, Diagnostics> {
        // A poisoned lock holds nothing half done: entries are put in whole.
        let mut recent = self.recent.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((_, m)) = recent.iter().find(|(known, _)| *known == id) {
            return Ok(m.clone());
        }
        let weights = self.source.matrix(id).zip(self.matrices.get(id.index()));
        let (values, m) = weights.ok_or_else(|| {
            Diagnostics::from(Diagnostic::error(&E0704, format!("the model has no weights for matrix {id}")))
        })?;
        let loaded = Arc::new(real(m, values).map_err(failed)?);
        if recent.len() == RECENT {
            recent.pop_front();
        }
        recent.push_back((id, loaded.clone()));
        Ok(loaded)
    }

    /// Reads the entries alone: a vocabulary is not copied for some words.
    fn entries(&self, id: MatrixId, indices: &[i64]) -> Result<Vec<f32>, Diagnostics> {
        let n = self.matrices.get(id.index()).map_or(0, |m| m.n as usize);
        let mut out = Vec::new();
        for &index in indices {
            let column = u32::try_from(entry(index, n)?).unwrap_or(u32::MAX);
            let found = self.source.column(id, column);
            out.extend(found.ok_or_else(|| failed(format!("the model has no weights for matrix {id}")))?);
        }
        Ok(out)
    }

    fn bytes(&self, offset: u64, len: u64) -> Result<Vec<u8>, Diagnostics> {
        let missing = || failed(format!("the model has no {len} data bytes at {offset}"));
        self.source.data(offset, len).ok_or_else(missing)
    }
}

/// What has been quantised so far, and the model's weights for the rest.
pub(super) struct Compiled<'a> {
    pub(super) exact: &'a Exact<'a>,
    pub(super) done: RwLock<Vec<Option<Arc<LoadedMatrix>>>>,
}

impl Compiled<'_> {
    /// Uses another matrix from now on.
    pub(super) fn set(&self, id: MatrixId, matrix: LoadedMatrix) {
        let mut done = self.done.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(slot) = done.get_mut(id.index()) {
            *slot = Some(Arc::new(matrix));
        }
    }

    /// Uses the model's matrix again.
    pub(super) fn clear(&self, id: MatrixId) {
        let mut done = self.done.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(slot) = done.get_mut(id.index()) {
            *slot = None;
        }
    }
}

impl ById for Compiled<'_> {
    type Held<'h>
        = Arc<LoadedMatrix>
    where
        Self: 'h;

    fn matrix(&self, id: MatrixId) -> Result<Arc<LoadedMatrix>, Diagnostics> {
        let done = self.done.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        match done.get(id.index()) {
            Some(Some(m)) => Ok(m.clone()),
            _ => self.exact.matrix(id),
        }
    }

    fn entries(&self, id: MatrixId, indices: &[i64]) -> Result<Vec<f32>, Diagnostics> {
        let done = self.done.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        match done.get(id.index()) {
            Some(Some(m)) => m.lookup(indices),
            _ => self.exact.entries(id, indices),
        }
    }

    fn bytes(&self, offset: u64, len: u64) -> Result<Vec<u8>, Diagnostics> {
        self.exact.bytes(offset, len)
    }
}

/// What calibration found.
#[derive(Debug, Default)]
pub struct Calibrated {
    /// Contents of the tiles of codes, by tile.
    pub blocks: BTreeMap<TileId, CodeBlock>,
    /// By matrix.
    pub activations: Vec<Activations>,
    /// Constants whose values were corrected, by offset in the data.
    pub data: BTreeMap<u64, Vec<f32>>,
    /// Mean squared error of a matrix's outputs over their mean square, by matrix that was met.
    pub losses: BTreeMap<MatrixId, f64>,
    /// Mean squared error of the model's float outputs over their mean square.
    pub loss: f64,
}

/// What calibration is.
pub static CALIBRATE: PassInfo = PassInfo {
    name: "calibrate",
    doc: "Rounds weights again so that their products' errors on samples are smallest, and corrects biases.",
    exactness: Exactness::Rounding,
};

impl Calibrated {
    /// What calibration did, for the manifest. The loss is in parts per million of the outputs' squares.
    pub fn record(&self, samples: usize) -> PassRecord {
        let met = self.losses.values().filter(|l| !l.is_nan()).count();
        let stats = [
            ("samples", samples as u64),
            ("matrices", met as u64),
            ("biases", self.data.len() as u64),
            ("loss_ppm", (self.loss * 1e6) as u64),
        ];
        PassRecord::new(&CALIBRATE, stats.map(|(name, n)| (name.to_owned(), n)).into())
    }
}

/// Sums over rows u and v of two values.
struct Cross {
    rows: usize,
    /// Of `u v^T`, `[k][n]`.
    products: Vec<f64>,
    /// Of u.
    left: Vec<f64>,
    /// Of v.
    right: Vec<f64>,
}

impl Cross {
    fn new(k: usize, n: usize) -> Result<Cross, Diagnostics> {
        let size = k.checked_mul(n).ok_or_else(|| failed(QuantiseError::TooLarge.to_string()))?;
        Ok(Cross { rows: 0, products: vec![0.0; size], left: vec![0.0; k], right: vec![0.0; n] })
    }

    /// Adds rows: u transposed, `[k][rows]`, and v, `[rows][n]`.
    fn add(&mut self, u: &[f32], v: &[f32]) {
        let (k, n) = (self.left.len(), self.right.len());
        let rows = v.len() / n.max(1);
        for (sum, channel) in self.left.iter_mut().zip(u.chunks_exact(rows.max(1))) {
            *sum += channel.iter().map(|v| f64::from(*v)).sum::<f64>();
        }
        for row in v.chunks_exact(n.max(1)) {
            self.right.iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v));
        }
        let part = product_f32(u, v, k, rows, n);
        self.products.par_iter_mut().zip(part).for_each(|(s, p)| *s += f64::from(p));
        self.rows += rows;
    }
}

/// Sums over the two halves of the samples.
type Halves = [Cross; 2];

/// Mean of `u v^T` over the rows of some halves; `centred`, less the product of the means.
fn moment(of: &[&Cross], centred: bool) -> Vec<f32> {
    let one = 1.0 / of.iter().map(|c| c.rows).sum::<usize>().max(1) as f64;
    let mean = |side: fn(&Cross) -> &[f64]| mean(of, side);
    let (left, right) = (mean(|c| &c.left), mean(|c| &c.right));
    let n = right.len().max(1);
    let row = |(i, left): (usize, &f64)| -> Vec<f32> {
        let value = |(j, right): (usize, &f64)| {
            let sum: f64 = of.iter().map(|c| c.products[i * n + j]).sum();
            (sum * one - if centred { left * right } else { 0.0 }) as f32
        };
        right.iter().enumerate().map(value).collect()
    };
    left.par_iter().enumerate().flat_map_iter(row).collect()
}

/// Mean of u or v over the rows of some halves.
fn mean(of: &[&Cross], side: fn(&Cross) -> &[f64]) -> Vec<f64> {
    let one = 1.0 / of.iter().map(|c| c.rows).sum::<usize>().max(1) as f64;
    let mut sums = vec![0.0; of.first().map_or(0, |c| side(c).len())];
    for c in of {
        sums.iter_mut().zip(side(c)).for_each(|(s, v)| *s += v);
    }
    sums.iter_mut().for_each(|s| *s *= one);
    sums
}

/// Second moments of the inputs of a matrix: of rows x of the compiled run as the matrix gets them with
/// themselves, and with rows r of the model's run.
struct Inputs {
    k: usize,
    activations: Activations,
    /// Of x and x.
    h: Halves,
    /// Of x and r.
    c: Halves,
}

/// Which half of the samples some rows of a sample belong to, as ranges of the rows, of `rows` rows of
/// sample `index` of `count`: every other sample, and of a single one the second part.
fn halves(index: usize, count: usize, rows: usize) -> [(usize, std::ops::Range<usize>); 2] {
    match count {
        1 => [(0, 0..rows / 2), (1, rows / 2..rows)],
        _ => [(index % 2, 0..rows), (index % 2, rows..rows)],
    }
}

/// A constant that is added to the outputs of a product.
struct Bias {
    value: ValueId,
    /// In the data.
    offset: u64,
    shape: Vec<usize>,
}

/// A matrix to quantise and what its outputs are to be beyond the model's.
struct Wanted {
    matrix: MatrixId,
    bias: Option<Bias>,
    /// Of x and d, for rows d that the outputs are to hold too.
    more: Option<Halves>,
}

impl Wanted {
    fn of(matrix: MatrixId) -> Wanted {
        Wanted { matrix, bias: None, more: None }
    }
}

/// Where a value is an input of matrices.
struct Use<'g> {
    step: usize,
    node: &'g Node,
    matrix: MatrixId,
}

struct Calibration<'a> {
    program: &'a TileProgram,
    source: &'a ModelSource,
    choice: ActivationChoice,
    compiled: &'a Compiled<'a>,
    /// Tiles by matrix.
    tiles: Vec<Vec<TileId>>,
    found: Calibrated,
}

/// Quantises the tiles of codes of a program for what its inputs are in `samples`.
///
/// Matrices that only regions use, and look-ups, are rounded by their values alone.
///
/// # Errors
/// E0405 when the statistics are not finite or memory is short; what running the model reports.
pub fn calibrate(
    program: &TileProgram,
    source: &ModelSource,
    samples: &Samples,
    choice: ActivationChoice,
    progress: &dyn Progress,
) -> Result<Calibrated, Diagnostics> {
    let exact = Exact::new(&program.matrices, source);
    let compiled = Compiled { exact: &exact, done: RwLock::new(vec![None; program.matrices.len()]) };
    let mut tiles = vec![Vec::new(); program.matrices.len()];
    for (id, tile) in program.tiles() {
        if let TileKind::Matrix { matrix, .. } = tile.kind {
            tiles[matrix.index()].push(id);
        }
    }
    let activations = program.matrices.iter().map(|m| m.activations).collect();
    let found = Calibrated { activations, ..Calibrated::default() };
    let mut work = Calibration { program, source, choice, compiled: &compiled, tiles, found };
    work.run(samples, &exact, progress)?;
    Ok(work.found)
}

/// Runs frames on.
pub(super) fn advance(
    executor: &Executor<'_, OpenType>,
    frames: &mut [Frame],
    to: usize,
) -> Result<(), Diagnostics> {
    frames.par_iter_mut().map(|f| executor.advance(f, to)).collect()
}

/// Sums of the squares of each of the `k` channels of a value in all frames.
pub(super) fn squares(frames: &[Frame], value: ValueId, k: usize) -> Result<Vec<f64>, Diagnostics> {
    let mut sums = vec![0f64; k];
    for frame in frames {
        let x = frame.value(value).ok_or_else(|| failed(format!("%{value} has no value")))?;
        for row in x.as_slice::<f32>().map_err(failed)?.chunks_exact(k.max(1)) {
            sums.iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v).powi(2));
        }
    }
    Ok(sums)
}

/// Replaces rows of `k` inputs by what a matrix takes them for.
fn round_rows(x: &mut [f32], k: usize, activations: Activations) {
    x.par_chunks_mut(k.max(1)).for_each_init(
        || vec![0i8; k],
        |q, row| {
            let scale = numerics::quantize_activations(activations, row, q);
            row.iter_mut().zip(q).for_each(|(x, q)| *x = f32::from(*q) * scale);
        },
    );
}

/// Transposes `[rows][k]`.
fn transposed(x: &[f32], k: usize) -> Vec<f32> {
    let rows = x.len() / k.max(1);
    let mut out = vec![0.0; x.len()];
    out.par_chunks_mut(rows.max(1)).enumerate().for_each(|(i, out)| {
        out.iter_mut().zip(x.iter().skip(i).step_by(k)).for_each(|(o, x)| *o = *x);
    });
    out
}

impl Calibration<'_> {
    fn run(
        &mut self,
        samples: &Samples,
        exact: &Exact<'_>,
        progress: &dyn Progress,
    ) -> Result<(), Diagnostics> {
        let graph = &self.program.graph;
        let (model, compiled) = (Executor::new(graph, exact)?, Executor::new(graph, self.compiled)?);
        let nodes = model.steps().iter().enumerate().filter_map(|(step, id)| Some((step, graph.node(*id)?)));
        let uses: Vec<Use> =
            nodes.filter_map(|(step, node)| Some(Use { step, node, matrix: node.op.matrix()? })).collect();
        // A matrix that is multiplied with and looked up is quantised for its products, whose inputs have to
        // be known when the look-up is met.
        let later = self.shared(&uses, samples, &model)?;
        let begin = |e: &Executor<'_, OpenType>| -> Result<Vec<Frame>, Diagnostics> {
            samples.iter().map(|s| e.begin(s)).collect()
        };
        let (mut reference, mut frames) = (begin(&model)?, begin(&compiled)?);
        progress.begin("calibrating", uses.len() as u64);
        for u in &uses {
            progress.advance(1);
            if self.found.losses.contains_key(&u.matrix) {
                continue;
            }
            if let Op::FixedLookup { .. } = u.node.op {
                match later.get(&u.matrix) {
                    Some(inputs) => self.solve(&[Wanted::of(u.matrix)], inputs, false)?,
                    None => self.round(u.matrix)?,
                }
                continue;
            }
            advance(&model, &mut reference, u.step)?;
            advance(&compiled, &mut frames, u.step)?;
            let input = u.node.inputs[0];
            let inputs = self.inputs(input, u.matrix, &reference, &frames)?;
            // What shares these inputs is quantised with them at hand.
            let mut wanted: Vec<Wanted> = Vec::new();
            for other in uses.iter().filter(|o| o.node.inputs[0] == input) {
                let looked_up = matches!(other.node.op, Op::FixedLookup { .. });
                let done = self.found.losses.contains_key(&other.matrix);
                if !looked_up && !done && wanted.iter().all(|w| w.matrix != other.matrix) {
                    wanted.push(self.wanted(graph, other, &inputs, &reference, &frames)?);
                }
            }
            let (with, without): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|w| w.bias.is_some());
            for (wanted, centred) in [(with, true), (without, false)] {
                if !wanted.is_empty() {
                    self.solve(&wanted, &inputs, centred)?;
                    for w in &wanted {
                        self.correct_bias(w, &inputs, &mut frames)?;
                    }
                }
            }
        }
        progress.begin("calibrated", 0);
        for matrix in self.program.matrices().map(|(id, _)| id) {
            if !self.found.losses.contains_key(&matrix) {
                self.round(matrix)?;
            }
        }
        // Outputs may be far larger than anything before: two samples' at a time are held a thread.
        let errors: Vec<ErrorSums> = reference
            .into_par_iter()
            .zip(frames)
            .map(|(r, f)| Ok(ErrorSums::of(&model.finish(r)?, &compiled.finish(f)?)))
            .collect::<Result<_, Diagnostics>>()?;
        self.found.loss = errors.into_iter().sum::<ErrorSums>().relative();
        Ok(())
    }

    /// Inputs of the products with matrices that are looked up before, in the model's run.
    fn shared(
        &self,
        uses: &[Use<'_>],
        samples: &Samples,
        model: &Executor<'_, OpenType>,
    ) -> Result<BTreeMap<MatrixId, Inputs>, Diagnostics> {
        let looked_up =
            |m: MatrixId| uses.iter().any(|u| u.matrix == m && matches!(u.node.op, Op::FixedLookup { .. }));
        let mut found = BTreeMap::new();
        let products = uses.iter().filter(|u| !matches!(u.node.op, Op::FixedLookup { .. }));
        let products: Vec<&Use> = products.filter(|u| looked_up(u.matrix)).collect();
        if products.is_empty() {
            return Ok(found);
        }
        let mut frames: Vec<Frame> = samples.iter().map(|s| model.begin(s)).collect::<Result<_, _>>()?;
        for u in products {
            advance(model, &mut frames, u.step)?;
            if let std::collections::btree_map::Entry::Vacant(e) = found.entry(u.matrix) {
                e.insert(self.inputs(u.node.inputs[0], u.matrix, &frames, &frames)?);
            }
        }
        Ok(found)
    }

    /// Statistics of a value in both runs.
    fn inputs(
        &self,
        v: ValueId,
        matrix: MatrixId,
        reference: &[Frame],
        frames: &[Frame],
    ) -> Result<Inputs, Diagnostics> {
        let planned = self.program.matrices.get(matrix.index()).map(|m| (m.k as usize, m.activations));
        let (k, planned) = planned.ok_or_else(|| failed("no such matrix"))?;
        let value = |f: &Frame| f.value(v).cloned().ok_or_else(|| failed(format!("%{v} has no value")));
        let mut pairs: Vec<(Tensor, Tensor)> = Vec::new();
        for (r, f) in reference.iter().zip(frames) {
            let (r, f) = (value(r)?, value(f)?);
            if r.shape() != f.shape() || k == 0 || !r.len().is_multiple_of(k) {
                return Err(failed(format!("%{v} has the shapes {:?} and {:?}", r.shape(), f.shape())));
            }
            pairs.push((r, f));
        }
        let slices = |(r, f): &(Tensor, Tensor)| -> Result<_, Diagnostics> {
            Ok((r.as_slice::<f32>().map_err(failed)?.to_vec(), f.as_slice::<f32>().map_err(failed)?.to_vec()))
        };
        let activations = self.activations(&pairs, k, planned)?;
        let new = || Ok::<_, Diagnostics>([Cross::new(k, k)?, Cross::new(k, k)?]);
        let (mut h, mut c) = (new()?, new()?);
        // Rows of many samples at a time, by half.
        let mut waiting = [const { (Vec::new(), Vec::new()) }; 2];
        let mut flush = |half: usize, (rs, xs): &mut (Vec<f32>, Vec<f32>)| {
            let left = transposed(xs, k);
            h[half].add(&left, xs);
            c[half].add(&left, rs);
            rs.clear();
            xs.clear();
        };
        for (index, pair) in pairs.iter().enumerate() {
            let (r, mut x) = slices(pair)?;
            round_rows(&mut x, k, activations);
            for (half, rows) in halves(index, pairs.len(), x.len() / k) {
                let rows = rows.start * k..rows.end * k;
                let held = &mut waiting[half];
                for (r, x) in r[rows.clone()].chunks(ROWS * k).zip(x[rows].chunks(ROWS * k)) {
                    held.0.extend_from_slice(r);
                    held.1.extend_from_slice(x);
                    if held.1.len() >= ROWS * k {
                        flush(half, held);
                    }
                }
            }
        }
        for (half, held) in waiting.iter_mut().enumerate().filter(|(_, held)| !held.1.is_empty()) {
            flush(half, held);
        }
        Ok(Inputs { k, activations, h, c })
    }

    /// How the inputs are rounded: the choice, or what gives the smaller squared error.
    fn activations(
        &self,
        pairs: &[(Tensor, Tensor)],
        k: usize,
        planned: Activations,
    ) -> Result<Activations, Diagnostics> {
        match self.choice {
            ActivationChoice::Row => return Ok(Activations::Row),
            ActivationChoice::Planned => return Ok(planned),
            ActivationChoice::Static | ActivationChoice::Auto => {}
        }
        let largest = |t: &Tensor| -> Result<f32, Diagnostics> {
            Ok(t.as_slice::<f32>().map_err(failed)?.iter().fold(0f32, |a, v| a.max(v.abs())))
        };
        let mut most = 0f32;
        for (_, x) in pairs {
            most = most.max(largest(x)?);
        }
        let error = |a: Activations| -> Result<f64, Diagnostics> {
            let mut sum = 0f64;
            let mut q = vec![0i8; k];
            for (_, x) in pairs {
                for row in x.as_slice::<f32>().map_err(failed)?.chunks_exact(k) {
                    let scale = numerics::quantize_activations(a, row, &mut q);
                    sum += row
                        .iter()
                        .zip(&q)
                        .map(|(x, q)| f64::from(x - f32::from(*q) * scale).powi(2))
                        .sum::<f64>();
                }
            }
            Ok(sum)
        };
        let scale = most / ACTIVATION_MAX as f32;
        if !(scale * CLIPS[CLIPS.len() - 1]).is_normal() {
            return Ok(Activations::Row);
        }
        let mut best = (Activations::Static(scale), error(Activations::Static(scale))?);
        for clip in &CLIPS[1..] {
            let a = Activations::Static(scale * clip);
            let e = error(a)?;
            if e < best.1 {
                best = (a, e);
            }
        }
        let row = self.choice == ActivationChoice::Auto && error(Activations::Row)? < best.1;
        Ok(if row { Activations::Row } else { best.0 })
    }

    fn rects(&self, matrix: MatrixId) -> Vec<(TileId, TileRect)> {
        let rect = |&id: &TileId| match &self.program.tiles.get(id.index())?.kind {
            TileKind::Matrix { k, n, scheme: scheme @ Scheme::Codes { .. }, .. } => {
                let range = |r: &std::ops::Range<u32>| r.start as usize..r.end as usize;
                Some((id, TileRect::new(range(k), range(n), *scheme).ok()?))
            }
            _ => None,
        };
        self.tiles.get(matrix.index()).into_iter().flatten().filter_map(rect).collect()
    }

    /// What the outputs of a product are to be. Where a bias follows that nothing else reads it takes the
    /// mean error; where a stream of residuals is added behind it, the product makes up for what the
    /// compiled run's stream has lost by then.
    fn wanted(
        &self,
        graph: &Graph<OpenType>,
        u: &Use<'_>,
        inputs: &Inputs,
        reference: &[Frame],
        frames: &[Frame],
    ) -> Result<Wanted, Diagnostics> {
        let mut wanted = Wanted::of(u.matrix);
        let (Op::FixedLinear { .. }, [y]) = (&u.node.op, &u.node.outputs[..]) else { return Ok(wanted) };
        let n = self.program.matrices.get(u.matrix.index()).map_or(0, |m| m.n as usize);
        // The value that is added to the only use of a value, and the sum.
        let added = |v: ValueId| -> Option<(ValueId, ValueId)> {
            let [user] = graph.users(v)[..] else { return None };
            let node = graph.node(user).filter(|n| n.op == Op::Binary(BinaryFn::Add))?;
            let inside = graph.outputs().iter().all(|(_, out)| *out != v);
            let other = node.inputs.iter().copied().find(|o| *o != v).filter(|_| inside)?;
            Some((other, *node.outputs.first()?))
        };
        let Some((mut other, sum)) = added(*y) else { return Ok(wanted) };
        if let Some((_, c)) = graph.constant(other) {
            let ConstSource::Data(offset) = c.source else { return Ok(wanted) };
            let alone = graph.users(other).len() == 1 && self.constants_at(offset) == 1;
            if alone && c.elem == Elem::F32 && c.len() == n {
                wanted.bias = Some(Bias { value: other, offset, shape: c.shape.clone() });
            }
            match added(sum) {
                Some((residual, _)) => other = residual,
                None => return Ok(wanted),
            }
        }
        let k = inputs.k;
        let mut more = [Cross::new(k, n)?, Cross::new(k, n)?];
        for (index, (r, f)) in reference.iter().zip(frames).enumerate() {
            let of = |frame: &Frame, v: ValueId| frame.value(v).cloned();
            let (Some(from), Some(to), Some(x)) = (of(r, other), of(f, other), of(f, u.node.inputs[0]))
            else {
                return Ok(wanted);
            };
            let rows = x.len() / k;
            if from.shape() != to.shape() || from.len() != rows * n || from.elem() != Elem::F32 {
                return Ok(wanted);
            }
            let mut x = x.as_slice::<f32>().map_err(failed)?.to_vec();
            round_rows(&mut x, k, inputs.activations);
            let pair =
                from.as_slice::<f32>().map_err(failed)?.iter().zip(to.as_slice::<f32>().map_err(failed)?);
            let d: Vec<f32> = pair.map(|(a, b)| a - b).collect();
            for (half, rows) in halves(index, frames.len(), rows).into_iter().filter(|(_, r)| !r.is_empty()) {
                let x = &x[rows.start * k..rows.end * k];
                more[half].add(&transposed(x, k), &d[rows.start * n..rows.end * n]);
            }
        }
        wanted.more = Some(more);
        Ok(wanted)
    }

    /// Quantises matrices that share their inputs; `centred` where a bias takes the mean of each output.
    fn solve(&mut self, wanted: &[Wanted], inputs: &Inputs, centred: bool) -> Result<(), Diagnostics> {
        let k = inputs.k;
        let [h, c] = [inputs.h.each_ref(), inputs.c.each_ref()];
        let all = (moment(&h, centred), moment(&c, centred));
        let [first, second] = [0, 1].map(|half| (moment(&[h[half]], centred), moment(&[c[half]], centred)));
        fn solver<'m>(k: usize, (h, c): &'m (Vec<f32>, Vec<f32>)) -> Result<Solver<'m>, Diagnostics> {
            Solver::new(Moments { k, h, c: Some(c) }).map_err(|e| failed(e.to_string()))
        }
        let (solver, by_half) = (solver(k, &all)?, [solver(k, &first)?, solver(k, &second)?]);
        for w in wanted {
            let m = self.program.matrices.get(w.matrix.index()).ok_or_else(|| failed("no such matrix"))?;
            if let Some(a) = self.found.activations.get_mut(w.matrix.index()) {
                *a = inputs.activations;
            }
            let rects = self.rects(w.matrix);
            if rects.is_empty() {
                self.found.losses.insert(w.matrix, f64::NAN);
                continue;
            }
            let at = |e: QuantiseError| Diagnostic::error(&E0405, e.to_string()).at(&m.origin);
            let weights =
                self.source.matrix(w.matrix).ok_or_else(|| failed("the model has no such weights"))?;
            let n = m.n as usize;
            let wanted = w.more.as_ref().map(|m| moment(&m.each_ref(), centred));
            let [a, b] = [0, 1].map(|half| w.more.as_ref().map(|m| moment(&[&m[half]], centred)));
            let share = if h.iter().all(|h| h.rows > 0) {
                share([(&by_half[0], a.as_deref()), (&by_half[1], b.as_deref())], &weights, n).map_err(at)?
            } else {
                1.0
            };
            let tiles: Vec<TileRect> = rects.iter().map(|r| r.1.clone()).collect();
            let correction = Correction { wanted: wanted.as_deref(), share };
            let solution = solver.solve(&weights, n, correction, &tiles).map_err(at)?;
            let loss = solution.loss() / solution.signal.max(f64::MIN_POSITIVE);
            self.found.losses.insert(w.matrix, loss);
            self.keep(w.matrix, rects.into_iter().map(|r| r.0).zip(solution.blocks).collect())?;
        }
        Ok(())
    }

    /// Quantises a matrix by its values alone.
    fn round(&mut self, matrix: MatrixId) -> Result<(), Diagnostics> {
        let mut blocks = Vec::new();
        for (id, rect) in self.rects(matrix) {
            let weights = self.source.weights(id).ok_or_else(|| failed("the model has no such weights"))?;
            let block = data_free(&weights, None, rect.k.len(), rect.n.len(), rect.scheme());
            blocks.push((id, block.map_err(|e| failed(e.to_string()))?));
        }
        self.found.losses.insert(matrix, f64::NAN);
        self.keep(matrix, blocks)
    }

    fn keep(&mut self, matrix: MatrixId, blocks: Vec<(TileId, CodeBlock)>) -> Result<(), Diagnostics> {
        let m = self.program.matrices.get(matrix.index()).ok_or_else(|| failed("no such matrix"))?;
        let activations = self.found.activations.get(matrix.index()).copied().unwrap_or_default();
        let mut loaded = LoadedMatrix::new(&FixedMatrix { activations, ..m.clone() });
        for (id, block) in blocks {
            if let Some(TileKind::Matrix { k, n, .. }) = self.program.tiles.get(id.index()).map(|t| &t.kind) {
                loaded.insert(k, n, TileContent::Codes(block.clone())).map_err(failed)?;
            }
            self.found.blocks.insert(id, block);
        }
        self.compiled.set(matrix, loaded);
        Ok(())
    }

    /// Adds the mean error of a product's outputs to the bias that follows it.
    fn correct_bias(&mut self, w: &Wanted, inputs: &Inputs, frames: &mut [Frame]) -> Result<(), Diagnostics> {
        let Some(bias) = &w.bias else { return Ok(()) };
        let floats = |means: &[f64]| means.iter().map(|v| *v as f32).collect::<Vec<f32>>();
        let [x, r] = [mean(&inputs.h.each_ref(), |h| &h.left), mean(&inputs.c.each_ref(), |c| &c.right)];
        let want = self.compiled.exact.linear(w.matrix, &floats(&r))?;
        // The mean input is not rounded: its products are wanted, not those of a row like it.
        let got = self.compiled.matrix(w.matrix)?.unrounded().linear(&floats(&x))?;
        let bytes = self.compiled.exact.data(bias.offset, 4 * want.len() as u64)?;
        let before = Tensor::from_le_bytes(Elem::F32, bias.shape.clone(), &bytes).map_err(failed)?;
        let lost = w.more.as_ref().map(|m| mean(&m.each_ref(), |d| &d.right)).unwrap_or_default();
        let lost = floats(&lost).into_iter().chain(std::iter::repeat(0.0));
        let errors = want.iter().zip(&got).map(|(w, g)| w - g).zip(lost).map(|(e, lost)| e + lost);
        let before = before.as_slice::<f32>().map_err(failed)?;
        let after: Vec<f32> = before.iter().zip(errors).map(|(b, e)| b + e).collect();
        if after.iter().all(|v| v.is_finite()) {
            let tensor = Tensor::new(bias.shape.clone(), after.clone()).map_err(failed)?;
            frames.iter_mut().for_each(|f| f.set(bias.value, tensor.clone()));
            self.found.data.insert(bias.offset, after);
        }
        Ok(())
    }

    /// Constants that are held at an offset of the data.
    fn constants_at(&self, offset: u64) -> usize {
        let mut count = 0;
        self.program.graph.each(&mut |g| {
            count += g
                .consts
                .iter()
                .filter(|(_, c)| matches!(c.source, ConstSource::Data(o) if o == offset))
                .count();
        });
        count
    }
}
