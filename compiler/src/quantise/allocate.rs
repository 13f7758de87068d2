//! Spends a budget of bits where they lower the model's error most.
//!
//! For every matrix and every scheme of a menu the loss at the model's outputs is estimated as the
//! matrix's own relative output error with that scheme, times what such an error costs at the outputs.
//! The first follows from the weights and the mean squares of their inputs; the second is measured: the
//! matrix alone is rounded coarsely, and the model run on a few samples. Schemes on each matrix's lower
//! convex hull are then taken in the order of loss saved a bit until the budget is spent.

use std::collections::BTreeMap;
use std::sync::RwLock;

use pfmc_ir::backend::{Progress, TileLimit};
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::exec::{Executor, Frame};
use pfmc_ir::loaded::LoadedMatrix;
use pfmc_ir::op::Op;
use pfmc_ir::program::TileProgram;
use pfmc_ir::tensor::Tensor;
use pfmc_ir::tile::{CODEBOOK_BITS_MAX, Levels, MatrixId, Scheme, TileContent};
use rayon::prelude::*;

use super::calibrate::{Compiled, Exact, advance, failed, squares};
use super::plan::{Block, WeightPlan};
use super::{data_free, expected_loss};
use crate::codes::E0406;
use crate::samples::Samples;
use crate::source::ModelSource;

/// Rows of inputs that sensitivities are measured with, about.
const ROWS: usize = 512;
/// What a matrix is rounded to while its sensitivity is measured.
const COARSE: Scheme = Scheme::Codes { bits: 3, group: 64, levels: Levels::Codebook };

/// Schemes to choose from.
pub fn menu() -> impl Iterator<Item = Scheme> {
    let codebooks = (2..=CODEBOOK_BITS_MAX).map(|bits| (bits, Levels::Codebook));
    let all = codebooks.chain([(7, Levels::Uniform), (8, Levels::Uniform)]);
    all.flat_map(|(bits, levels)| [32, 64, 128].map(|group| Scheme::Codes { bits, group, levels }))
}

/// A scheme of one matrix.
#[derive(Debug, Clone, Copy)]
struct Offer {
    scheme: Scheme,
    bits: u64,
    loss: f64,
}

/// The lower convex hull of offers by bits: each is dearer than the one before, and saves less a bit.
fn hull(mut offers: Vec<Offer>) -> Vec<Offer> {
    offers.sort_by(|a, b| a.bits.cmp(&b.bits).then(a.loss.total_cmp(&b.loss)));
    let mut hull: Vec<Offer> = Vec::new();
    let slope = |a: &Offer, b: &Offer| (a.loss - b.loss) / (b.bits - a.bits) as f64;
    for o in offers {
        if hull.last().is_some_and(|l| o.bits <= l.bits || o.loss >= l.loss) {
            continue;
        }
        while let [.., a, b] = &hull[..]
            && slope(a, b) <= slope(b, &o)
        {
            hull.pop();
        }
        hull.push(o);
    }
    hull
}

/// Picks an offer of each matrix so that all cost at most `budget` bits: the index in each hull.
/// `None` when even the cheapest cost more.
fn pick(hulls: &[Vec<Offer>], budget: u64) -> Option<Vec<usize>> {
    let mut picked = vec![0; hulls.len()];
    let mut spent: u64 = hulls.iter().filter_map(|h| h.first()).map(|o| o.bits).sum();
    if spent > budget {
        return None;
    }
    let mut steps: Vec<(f64, usize, usize, u64)> = Vec::new();
    for (m, h) in hulls.iter().enumerate() {
        for (i, pair) in h.windows(2).enumerate() {
            let bits = pair[1].bits - pair[0].bits;
            steps.push(((pair[0].loss - pair[1].loss) / bits as f64, m, i + 1, bits));
        }
    }
    // Steps of one matrix come in order: its hull is convex.
    steps.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    for (_, m, to, bits) in steps {
        if picked[m] + 1 == to && spent + bits <= budget {
            picked[m] = to;
            spent += bits;
        }
    }
    Some(picked)
}

/// The losses of all schemes for all matrices of a program.
pub struct Offers {
    by_matrix: Vec<Vec<Offer>>,
    weights: u64,
}

impl Offers {
    /// Measures a program whose contents come from `source`; without samples every matrix counts the same.
    ///
    /// # Errors
    /// What running the model reports.
    pub fn measure(
        program: &TileProgram,
        source: &ModelSource,
        samples: Option<&Samples>,
        limit: &(dyn Fn(Scheme) -> Option<TileLimit> + Sync),
        progress: &dyn Progress,
    ) -> Result<Offers, Diagnostics> {
        let sensitivities = match samples {
            Some(samples) => sensitivities(program, source, samples, progress)?,
            None => BTreeMap::new(),
        };
        progress.begin("weighing schemes", program.matrices.len() as u64);
        let offers = |i: usize| -> Result<Vec<Offer>, Diagnostics> {
            let m = &program.matrices[i];
            let id = MatrixId(i as u32);
            let values = source.matrix(id).ok_or_else(|| failed("the model has no such weights"))?;
            let (k, n) = (m.k as usize, m.n as usize);
            let known = sensitivities.get(&id);
            let importance = known.and_then(|s| s.importance.as_deref());
            let loss =
                |scheme| expected_loss(&values, importance, k, n, scheme).map_err(|e| failed(e.to_string()));
            let per_error = match known {
                Some(s) => s.cost / loss(COARSE)?.max(1e-12),
                None => 1.0,
            };
            let mut all = Vec::new();
            for scheme in menu() {
                let Some(limit) = limit(scheme) else { continue };
                let tiles = u64::from(m.k.div_ceil(limit.k)) * u64::from(m.n.div_ceil(limit.n));
                let header = u64::from(scheme.header_bits());
                let bits = scheme.bits(k, n) + header * tiles.saturating_sub(1);
                all.push(Offer { scheme, bits, loss: per_error * loss(scheme)? });
            }
            progress.advance(1);
            Ok(hull(all))
        };
        let by_matrix = (0..program.matrices.len()).into_par_iter().map(offers).collect::<Result<_, _>>()?;
        Ok(Offers { by_matrix, weights: program.weights() })
    }

    /// Bits a weight of the cheapest schemes.
    pub fn least(&self) -> f64 {
        let least: u64 = self.by_matrix.iter().filter_map(|h| h.first()).map(|o| o.bits).sum();
        // Rounded up, so that it can be met.
        (least + 1) as f64 / self.weights.max(1) as f64
    }

    /// Changes the schemes of a plan to those that lower the loss most for a number of bits a weight.
    ///
    /// # Errors
    /// E0406 when the cheapest schemes cost more.
    pub fn allocate(&self, plan: &mut WeightPlan, bits_per_weight: f64) -> Result<(), Diagnostics> {
        let budget = (bits_per_weight * self.weights as f64) as u64;
        let picked = pick(&self.by_matrix, budget).ok_or_else(|| {
            let least = self.least();
            let message = format!("{bits_per_weight:.3} bits a weight are fewer than the least, {least:.3}");
            Diagnostics::from(Diagnostic::error(&E0406, message).help("give a larger --budget"))
        })?;
        for ((m, hull), i) in plan.matrices.iter_mut().zip(&self.by_matrix).zip(picked) {
            if let Some(offer) = hull.get(i) {
                m.blocks = vec![Block { k: [0, m.k], n: [0, m.n], scheme: offer.scheme }];
            }
        }
        Ok(())
    }
}

/// What errors of a matrix cost.
struct Sensitivity {
    /// Mean square of each input; `None` for look-ups.
    importance: Option<Vec<f32>>,
    /// Relative squared error of the model's outputs when the matrix alone is rounded to [`COARSE`].
    cost: f64,
}

fn sensitivities(
    program: &TileProgram,
    source: &ModelSource,
    samples: &Samples,
    progress: &dyn Progress,
) -> Result<BTreeMap<MatrixId, Sensitivity>, Diagnostics> {
    let graph = &program.graph;
    let exact = Exact::new(&program.matrices, source);
    let changed = Compiled { exact: &exact, done: RwLock::new(vec![None; program.matrices.len()]) };
    let (model, rounded) = (Executor::new(graph, &exact)?, Executor::new(graph, &changed)?);
    let (mut count, mut rows) = (0, 0);
    for sample in samples.iter() {
        rows += sample.values().map(Tensor::len).max().unwrap_or(0);
        count += 1;
        if rows >= ROWS && count >= 2 {
            break;
        }
    }
    let samples = samples.first(count);
    let mut frames: Vec<Frame> = samples.iter().map(|s| model.begin(s)).collect::<Result<_, _>>()?;
    let want: Vec<BTreeMap<String, Tensor>> =
        frames.par_iter().map(|f| model.finish(f.clone())).collect::<Result<_, _>>()?;
    let steps: Vec<_> = model.steps().iter().copied().enumerate().collect();
    let uses: Vec<_> = steps
        .into_iter()
        .filter_map(|(s, id)| Some((s, graph.node(id)?, graph.node(id)?.op.matrix()?)))
        .collect();
    let mut found: BTreeMap<MatrixId, Sensitivity> = BTreeMap::new();
    progress.begin("sensitivities", uses.len() as u64);
    for (at, &(step, node, matrix)) in uses.iter().enumerate() {
        advance(&model, &mut frames, step)?;
        progress.advance(1);
        let m = program.matrices.get(matrix.index()).ok_or_else(|| failed("no such matrix"))?;
        let (k, n) = (m.k as usize, m.n as usize);
        let product = !matches!(node.op, Op::FixedLookup { .. });
        let importance = if product {
            Some(squares(&frames, node.inputs[0], k)?.into_iter().map(|s| s as f32).collect())
        } else {
            None
        };
        if let Some(known) = found.get_mut(&matrix) {
            known.importance = known.importance.take().or(importance);
            continue;
        }
        let values = source.matrix(matrix).ok_or_else(|| failed("the model has no such weights"))?;
        let block = data_free(&values, importance.as_deref(), k, n, COARSE);
        let block = block.map_err(|e| failed(e.to_string()))?;
        let mut coarse = LoadedMatrix::new(m);
        coarse.insert(&(0..m.k), &(0..m.n), TileContent::Codes(block)).map_err(failed)?;
        changed.set(matrix, coarse.unrounded());
        // All runs together, matrix by matrix, so that each is made once for all of them.
        let mut runs = frames.clone();
        for &(later, ..) in &uses[at..] {
            advance(&rounded, &mut runs, later)?;
        }
        let errors: Vec<ErrorSums> = runs
            .into_par_iter()
            .zip(&want)
            .map(|(f, want)| Ok(ErrorSums::of(want, &rounded.finish(f)?)))
            .collect::<Result<_, Diagnostics>>()?;
        changed.clear(matrix);
        let cost = errors.into_iter().sum::<ErrorSums>().relative();
        found.insert(matrix, Sensitivity { importance, cost });
    }
    Ok(found)
}

/// Sums over float outputs.
#[derive(Debug, Clone, Copy, Default)]
pub struct ErrorSums {
    error: f64,
    power: f64,
}

impl ErrorSums {
    /// Of one run's outputs against another's. Elements that are not finite in the latter do not count.
    pub fn of(want: &BTreeMap<String, Tensor>, got: &BTreeMap<String, Tensor>) -> ErrorSums {
        let mut sums = ErrorSums::default();
        for (want, got) in want.values().zip(got.values()) {
            let (Ok(want), Ok(got)) = (want.as_slice::<f32>(), got.as_slice::<f32>()) else { continue };
            for (w, g) in want.iter().zip(got).filter(|(w, _)| w.is_finite()) {
                sums.error += f64::from(w - g).powi(2);
                sums.power += f64::from(*w).powi(2);
            }
        }
        sums
    }

    /// Squared error over squares; 0 where there are none.
    pub fn relative(self) -> f64 {
        if self.power > 0.0 { self.error / self.power } else { 0.0 }
    }
}

impl std::iter::Sum for ErrorSums {
    fn sum<I: Iterator<Item = ErrorSums>>(sums: I) -> ErrorSums {
        sums.fold(ErrorSums::default(), |a, b| ErrorSums {
            error: a.error + b.error,
            power: a.power + b.power,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(bits: u64, loss: f64) -> Offer {
        Offer { scheme: COARSE, bits, loss }
    }

    #[test]
    fn the_hull_is_convex_and_the_budget_is_spent_where_it_saves_most() {
        let a = hull(vec![offer(20, 10.0), offer(30, 9.5), offer(40, 2.0), offer(10, 50.0), offer(25, 11.0)]);
        let line: Vec<(u64, f64)> = a.iter().map(|o| (o.bits, o.loss)).collect();
        // 20 -> 40 saves 0.4 a bit, more than 20 -> 30 would.
        assert_eq!(line, [(10, 50.0), (20, 10.0), (40, 2.0)]);
        let b = hull(vec![offer(10, 5.0), offer(20, 4.0)]);
        let hulls = [a, b];
        assert_eq!(pick(&hulls, 19), None);
        assert_eq!(pick(&hulls, 20), Some(vec![0, 0]));
        assert_eq!(pick(&hulls, 30), Some(vec![1, 0]));
        // The step of 20 bits no longer fits, the one of 10 does.
        assert_eq!(pick(&hulls, 45), Some(vec![1, 1]));
        assert_eq!(pick(&hulls, 60), Some(vec![2, 1]));
    }
}
