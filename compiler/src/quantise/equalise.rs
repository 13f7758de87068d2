//! Equalisation: channels of a product's inputs are scaled towards one size, and the product's rows the
//! other way, so that one int8 scale serves all of them (G. Xiao et al., "SmoothQuant", arXiv 2211.10438). The factors
//! are folded into what makes the channel: the gain of a norm, or the columns of a matrix whose product is a factor of
//! an elementwise product. They are powers of two, so that nothing but overflow or underflow can change the model's results.
//!
//! It serves inputs with one scale for the whole matrix. With a scale a row, and rows of weights rounded by the second
//! moments of their inputs, it changes nothing that can be measured.

use std::collections::BTreeMap;

use pfmc_ir::consts::Const;
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::elem::Elem;
use pfmc_ir::exec::{Executor, Frame};
use pfmc_ir::graph::{Graph, NodeId, ValueId};
use pfmc_ir::op::{BinaryFn, Op};
use pfmc_ir::program::TileProgram;
use pfmc_ir::tensor::Tensor;
use pfmc_ir::tile::MatrixId;

use super::calibrate::{Exact, advance, failed, squares};
use crate::codes::E0404;
use crate::passes::fix::Found;
use crate::passes::{Exactness, PassInfo, PassRecord};
use crate::samples::Samples;
use crate::source::ModelSource;

/// Share of a channel's size that moves into the weights, as SmoothQuant's alpha.
const SHARE: f64 = 0.5;
/// Largest exponent of a factor.
pub const EXPONENT_MAX: u8 = 8;

/// What the pass is.
pub static INFO: PassInfo = PassInfo {
    name: "equalise",
    doc: "Moves powers of two from the channels of products' inputs into the weights, for inputs with one scale a matrix.",
    exactness: Exactness::BitExact,
};

/// What makes the channels of an input.
enum Maker {
    /// The gain, and bias, of a norm.
    Norm(NodeId),
    /// Columns of a matrix.
    Matrix(MatrixId),
}

/// An input whose channels can be scaled.
struct Site {
    input: ValueId,
    maker: Maker,
    /// Matrices that read it; nothing else does.
    readers: Vec<MatrixId>,
}

/// The inputs that can be equalised, in order of the graph. Which they are depends on the graph alone.
fn sites(graph: &Graph, matrices: usize) -> Vec<Site> {
    let mut uses = vec![0usize; matrices];
    graph.each(&mut |g| {
        for id in g.nodes().filter_map(|(_, n)| n.op.matrix()) {
            if let Some(n) = uses.get_mut(id.index()) {
                *n += 1;
            }
        }
    });
    let once = |m: MatrixId| uses.get(m.index()) == Some(&1);
    let is_output = |v: ValueId| graph.outputs().iter().any(|(_, o)| *o == v);
    let linear = |id: NodeId| match graph.node(id)?.op {
        Op::FixedLinear { matrix, .. } if once(matrix) => Some(matrix),
        _ => None,
    };
    let only = |v: ValueId, user: NodeId| !is_output(v) && graph.users(v) == [user];
    let mut sites = Vec::new();
    for id in graph.order().unwrap_or_default() {
        let Some(node) = graph.node(id) else { continue };
        let [input] = node.outputs[..] else { continue };
        let readers: Option<Vec<MatrixId>> = graph.users(input).into_iter().map(linear).collect();
        let Some(readers) = readers.filter(|r| !r.is_empty() && !is_output(input)) else { continue };
        let maker = match node.op {
            Op::RmsNorm { .. } | Op::LayerNorm { .. } => {
                let own = |v: &ValueId| {
                    only(*v, id)
                        && graph.constant(*v).is_some_and(|(_, c)| c.elem == Elem::F32 && c.shape.len() == 1)
                };
                if !node.inputs[1..].iter().all(own) {
                    continue;
                }
                Maker::Norm(id)
            }
            Op::Binary(BinaryFn::Mul) => {
                let made = |v: &ValueId| {
                    let made = linear(graph.value(*v)?.node).filter(|_| only(*v, id))?;
                    let shape = |v| graph.value(v).map(|v| &v.ty);
                    (shape(*v) == shape(input)).then_some(made)
                };
                match node.inputs.iter().find_map(made) {
                    Some(m) => Maker::Matrix(m),
                    None => continue,
                }
            }
            _ => continue,
        };
        sites.push(Site { input, maker, readers });
    }
    sites
}

/// Mean squares of the channels of an input, by site.
fn sizes(
    sites: &[Site],
    program: &TileProgram,
    source: &ModelSource,
    samples: &Samples,
) -> Result<BTreeMap<ValueId, Vec<f64>>, Diagnostics> {
    let exact = Exact::new(&program.matrices, source);
    let graph = &program.graph;
    let executor = Executor::new(graph, &exact)?;
    let mut frames: Vec<Frame> = samples.iter().map(|s| executor.begin(s)).collect::<Result<_, _>>()?;
    let mut found = BTreeMap::new();
    for (step, id) in executor.steps().iter().enumerate() {
        let Some(node) = graph.node(*id).filter(|n| n.op.matrix().is_some()) else { continue };
        let input = node.inputs[0];
        if found.contains_key(&input) || sites.iter().all(|s| s.input != input) {
            continue;
        }
        advance(&executor, &mut frames, step)?;
        let matrix = node.op.matrix().and_then(|m| program.matrices.get(m.index()));
        let k = matrix.ok_or_else(|| failed("no such matrix"))?.k as usize;
        found.insert(input, squares(&frames, input, k)?);
    }
    Ok(found)
}

/// Exponents of the channels from their mean squares: the nearest whole of [`SHARE`] times the binary
/// logarithm of the size relative to the geometric mean. Channels of size 0, and sizes that are not
/// finite, have 0.
fn exponents(squares: &[f64]) -> Vec<i8> {
    let logs: Vec<f64> = squares.iter().map(|s| 0.5 * s.log2()).collect();
    let known: Vec<f64> = logs.iter().copied().filter(|l| l.is_finite()).collect();
    let mean = known.iter().sum::<f64>() / known.len().max(1) as f64;
    let limit = f64::from(EXPONENT_MAX);
    let exponent = |log: f64| {
        // Within i8, for the limit is.
        if log.is_finite() { (SHARE * (log - mean)).round().clamp(-limit, limit) as i8 } else { 0 }
    };
    logs.into_iter().map(exponent).collect()
}

/// Exponents of the factors for the inputs that can be equalised: one list an input in the order of the
/// graph, one exponent a channel, in ±[`EXPONENT_MAX`]. `program` and `source` are the graph partitioned in any way.
///
/// # Errors
/// What running the model reports.
pub fn measure(
    program: &TileProgram,
    source: &ModelSource,
    samples: &Samples,
) -> Result<Vec<Vec<i8>>, Diagnostics> {
    let sites = sites(&program.graph, program.matrices.len());
    let sizes = sizes(&sites, program, source, samples)?;
    let of = |s: &Site| sizes.get(&s.input).map(|s| exponents(s)).unwrap_or_default();
    Ok(sites.iter().map(of).collect())
}

/// Equalises the inputs of `found`'s matrices in `graph` by exponents that [`measure`] gives.
///
/// # Errors
/// E0404 when the exponents are not those of this graph: their number, that of an input's channels, or their range.
pub fn equalise(
    graph: &mut Graph,
    found: &mut [Found],
    exponents: &[Vec<i8>],
) -> Result<PassRecord, Diagnostics> {
    let unfit = |m: String| Diagnostics::from(Diagnostic::error(&E0404, format!("equalised inputs: {m}")));
    let sites = sites(graph, found.len());
    if sites.len() != exponents.len() {
        return Err(unfit(format!("the plan has {}, the model {}", exponents.len(), sites.len())));
    }
    let mut scaled = 0;
    for (site, exponents) in sites.iter().zip(exponents) {
        let fits = |m: &MatrixId| found.get(m.index()).is_some_and(|f| f.view.k as usize == exponents.len());
        if !site.readers.iter().all(fits) {
            return Err(unfit(format!("%{} has not {} channels", site.input, exponents.len())));
        }
        if let Some(e) = exponents.iter().find(|e| e.unsigned_abs() > EXPONENT_MAX) {
            return Err(unfit(format!("an exponent of {e} is beyond {EXPONENT_MAX}")));
        }
        let factors: Vec<f32> = exponents.iter().map(|e| 2f32.powi((*e).into())).collect();
        let inverse: Vec<f32> = factors.iter().map(|f| 1.0 / f).collect();
        match site.maker {
            Maker::Norm(id) => fold_into_norm(graph, id, &inverse)?,
            Maker::Matrix(m) => match found.get_mut(m.index()) {
                Some(f) if f.view.n as usize == inverse.len() => f.view = f.view.scaled(None, Some(&inverse)),
                _ => return Err(unfit(format!("%{} has not the channels of matrix {m}", site.input))),
            },
        }
        for m in &site.readers {
            if let Some(f) = found.get_mut(m.index()) {
                f.view = f.view.scaled(Some(&factors), None);
            }
        }
        scaled += site.readers.len() as u64;
    }
    let stats = [("inputs", sites.len() as u64), ("matrices", scaled)];
    Ok(PassRecord::new(&INFO, stats.map(|(name, n)| (name.to_owned(), n)).into()))
}

/// Multiplies the gain and bias of a norm, whose constants are its own.
fn fold_into_norm(graph: &mut Graph, id: NodeId, by: &[f32]) -> Result<(), Diagnostics> {
    let values: Vec<ValueId> = graph.node(id).map(|n| n.inputs.clone()).unwrap_or_default();
    let mut inputs = values.clone();
    for v in inputs.iter_mut().skip(1) {
        let (_, c) = graph.constant(*v).ok_or_else(|| failed(format!("%{v} is no constant")))?;
        let tensor = c.tensor()?;
        let before = tensor.as_slice::<f32>().map_err(failed)?;
        if before.len() != by.len() {
            return Err(failed(format!("%{v} has {} channels of {}", before.len(), by.len())));
        }
        let after: Vec<f32> = before.iter().zip(by).map(|(v, by)| v * by).collect();
        let after = Tensor::new(c.shape.clone(), after).map_err(failed)?;
        let changed = Const::derived(&after, c.origin.clone(), c.learned);
        let name = graph.value(*v).map(|v| v.name.clone()).unwrap_or_default();
        *v = graph.add_const(&name, changed);
    }
    graph.set_inputs(id, inputs);
    for v in values.into_iter().skip(1) {
        if let Some(node) = graph.value(v).map(|v| v.node) {
            graph.remove(node);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponents_are_about_the_geometric_mean() {
        // Sizes 1, 4, 16, 64: half of the distance to 8 in octaves, -1.5, -0.5, 0.5 and 1.5, rounds away from 0.
        assert_eq!(exponents(&[1.0, 16.0, 256.0, 4096.0]), [-2, -1, 1, 2]);
        assert_eq!(exponents(&[0.0, 1.0, 1.0]), [0; 3]);
        assert_eq!(exponents(&[f64::NAN, f64::INFINITY]), [0; 2]);
        assert_eq!(exponents(&[1e-300, 1.0]), [-8, 8]);
    }
}
