//! Finds what can be fixed: products and look-ups with constant weights.

use std::collections::BTreeMap;

use pfmc_ir::diag::Diagnostics;
use pfmc_ir::elem::Elem;
use pfmc_ir::graph::{Graph, NodeId, ValueId};
use pfmc_ir::op::{BinaryFn, ConstId, Op};
use pfmc_ir::origin::Origin;
use pfmc_ir::shape::OpenType;
use pfmc_ir::tile::MatrixId;
use pfmc_ir::verify::Verify;

use super::{Exactness, PassInfo, PassRecord, Stats};

/// A matrix `[k, n]` as a strided view of a constant: element (k, n) is the constant's element
/// `k * k_stride + n * n_stride`. Transposing or folding a kernel's axes costs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MatrixView {
    /// Constant.
    pub id: ConstId,
    /// Rows.
    pub k: u32,
    /// Columns.
    pub n: u32,
    /// Elements between rows.
    pub k_stride: usize,
    /// Elements between columns.
    pub n_stride: usize,
}

impl MatrixView {
    fn transposed(self) -> Self {
        MatrixView { k: self.n, n: self.k, k_stride: self.n_stride, n_stride: self.k_stride, ..self }
    }
}

/// A matrix to fix, with its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Elements.
    pub view: MatrixView,
    /// Tensor and nodes.
    pub origin: Origin,
}

/// What the pass is.
pub static INFO: PassInfo = PassInfo {
    name: "fix",
    doc: "Turns products and look-ups with constant weights into uses of fixed matrices.",
    exactness: Exactness::BitExact,
};

/// The view a value is, looking through transpositions of a rank-2 constant.
fn view(graph: &Graph<OpenType>, mut v: ValueId) -> Option<MatrixView> {
    let mut transposed = false;
    // A chain longer than this is left to the host; it also bounds the work.
    for _ in 0..64 {
        if let Some((id, c)) = graph.constant(v) {
            let [k, n] = c.shape[..] else { return None };
            let fits = c.learned && c.elem == Elem::F32 && k > 0 && n > 0;
            let (k, n) = (u32::try_from(k).ok()?, u32::try_from(n).ok()?);
            let view = MatrixView { id, k, n, k_stride: n as usize, n_stride: 1 };
            return fits.then(|| if transposed { view.transposed() } else { view });
        }
        let node = graph.producer(v)?;
        match &node.op {
            Op::Transpose { perm } if perm == &[1, 0] => v = node.inputs[0],
            _ => return None,
        }
        transposed = !transposed;
    }
    None
}

/// The kernel of a convolution without groups as a matrix [C * taps, O].
fn kernel(graph: &Graph<OpenType>, v: ValueId) -> Option<(MatrixView, Vec<i64>)> {
    let (id, c) = graph.constant(v)?;
    let (&outputs, rest) = c.shape.split_first()?;
    let taps: usize = rest.iter().try_fold(1usize, |a, &b| a.checked_mul(b))?;
    if !c.learned || c.elem != Elem::F32 || rest.len() < 2 || taps == 0 || outputs == 0 {
        return None;
    }
    let (k, n) = (u32::try_from(taps).ok()?, u32::try_from(outputs).ok()?);
    let kernel = rest[1..].iter().map(|&d| i64::try_from(d).ok()).collect::<Option<_>>()?;
    Some((MatrixView { id, k, n, k_stride: 1, n_stride: taps }, kernel))
}

/// Finds the fixed matrices of a graph and rewrites their uses. Uses of the same elements share
/// one matrix: a tied embedding is looked up and multiplied with from one place.
///
/// # Errors
/// What the verifier reports afterwards.
pub fn fix(graph: &mut Graph<OpenType>) -> Result<(Vec<Found>, PassRecord), Diagnostics> {
    let mut found: Vec<Found> = Vec::new();
    let mut known: BTreeMap<MatrixView, MatrixId> = BTreeMap::new();
    let mut stats = Stats::new();
    for id in graph.order().unwrap_or_default() {
        let Some(node) = graph.node(id).cloned() else { continue };
        let target = match &node.op {
            Op::MatMul {} => view(graph, node.inputs[1]).map(|v| (v, None)),
            Op::Gather { axis: 0 } => view(graph, node.inputs[0]).map(|v| (v.transposed(), None)),
            Op::Conv { groups: 1, .. } => kernel(graph, node.inputs[1]).map(|(v, k)| (v, Some(k))),
            _ => None,
        };
        let Some((view, kernel)) = target else { continue };
        let matrix = *known.entry(view).or_insert_with(|| {
            let tensor = graph.consts.get(view.id).and_then(|c| c.origin.tensor.clone());
            found.push(Found { view, origin: Origin { tensor, ..Origin::default() } });
            MatrixId((found.len() - 1) as u32)
        });
        found[matrix.index()].origin.merge(&Origin { tensor: None, ..node.origin.clone() });
        let (k, n) = (i64::from(view.k), i64::from(view.n));
        let linear = Op::FixedLinear { matrix, k, n };
        let kind = match &node.op {
            Op::Gather { .. } => {
                replace(graph, id, Op::FixedLookup { matrix, k, n }, vec![node.inputs[1]]);
                "look-ups"
            }
            Op::Conv { strides, pads, dilations, .. } => {
                let patches = Op::Patches {
                    kernel: kernel.unwrap_or_default(),
                    strides: strides.clone(),
                    pads: pads.clone(),
                    dilations: dilations.clone(),
                };
                let rank = strides.len() as i64 + 2;
                let mut v = insert(graph, patches, vec![node.inputs[0]], &node.origin);
                v = insert(graph, linear, vec![v], &node.origin);
                if let Some(&bias) = node.inputs.get(2) {
                    v = insert(graph, Op::Binary(BinaryFn::Add), vec![v, bias], &node.origin);
                }
                let perm = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
                replace(graph, id, Op::Transpose { perm }, vec![v]);
                "convolutions"
            }
            _ => {
                replace(graph, id, linear, vec![node.inputs[0]]);
                "products"
            }
        };
        *stats.entry(kind.into()).or_default() += 1;
    }
    graph.remove_dead();
    pfmc_ir::infer::annotate(graph)?;
    graph.verify()?;
    stats.insert("matrices".into(), found.len() as u64);
    Ok((found, PassRecord::new(&INFO, stats)))
}

fn insert(graph: &mut Graph<OpenType>, op: Op, inputs: Vec<ValueId>, origin: &Origin) -> ValueId {
    graph.add(op, inputs, vec![(String::new(), OpenType::unknown(Elem::F32))], origin.clone())[0]
}

/// Gives a node another operation; its results stay.
fn replace(graph: &mut Graph<OpenType>, id: NodeId, op: Op, inputs: Vec<ValueId>) {
    graph.set_inputs(id, inputs);
    if let Some((slot, _)) = graph.op_mut(id) {
        *slot = op;
    }
}
