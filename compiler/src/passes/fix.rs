//! Finds what can be fixed: products and look-ups with constant weights, however they are written.
//!
//! Weights are followed as [`View`]s through everything that only moves, converts, dequantises or
//! combines constants, and into regions. What is found is rewritten; what was found in vain (a table
//! whose rows turned out to be the weights of products) is dropped again at the end.

use std::collections::{BTreeMap, BTreeSet};

use pfmc_ir::consts::Const;
use pfmc_ir::diag::Diagnostics;
use pfmc_ir::elem::Elem;
use pfmc_ir::eval;
use pfmc_ir::graph::{Graph, Node, NodeId, ValueId};
use pfmc_ir::infer::{self, Facts};
use pfmc_ir::op::{BinaryFn, Op, RegionId, UnaryFn};
use pfmc_ir::origin::Origin;
use pfmc_ir::shape::{Dim, OpenType};
use pfmc_ir::tensor::{Tensor, axis as norm_axis, count};
use pfmc_ir::tile::{Activations, FixedMatrix, MatrixId};
use pfmc_ir::verify::Verify;

use super::{Exactness, PassInfo, PassRecord, Stats};
use crate::view::{MatrixView, View};

/// Most matrices one product becomes: one an element of a batch of weights.
pub const BANK_MAX: usize = 4096;
/// Most uses of matrices in one program; what would need more stays on the host.
const USES_MAX: usize = 1 << 20;
/// Most elements of the constant that puts the products of a transposed convolution in their places.
const PLACES_MAX: usize = 1 << 20;
/// Most matrices of which data choose one; all of them are multiplied with.
pub const CHOICE_MAX: usize = 64;

/// A matrix to fix, with its source.
#[derive(Debug, Clone)]
pub struct Found {
    /// Elements.
    pub view: MatrixView,
    /// Tensor and nodes.
    pub origin: Origin,
}

impl Found {
    /// The matrix in a program, with inputs of one scale a row.
    pub fn matrix(&self) -> FixedMatrix {
        let (k, n, origin) = (self.view.k, self.view.n, self.origin.clone());
        FixedMatrix { k, n, activations: Activations::Row, origin }
    }
}

/// What the pass is.
pub static INFO: PassInfo = PassInfo {
    name: "fix",
    doc: "Turns products and look-ups with constant weights into uses of fixed matrices; its record says \
          rounding where doubles, or integers too long for single precision, are multiplied, of transposed convolutions, and of convolutions of halves with a bias.",
    exactness: Exactness::BitExact,
};

/// Weights that data choose: `bank[index]`, of shape `[index.., the bank's other axes]`.
#[derive(Clone)]
struct Choice {
    /// `[E, k, n]`
    bank: View,
    index: ValueId,
    /// Rank of the index.
    rank: usize,
}

/// What is known of the values of one graph while it is rewritten.
struct Scope {
    facts: Facts,
    views: BTreeMap<ValueId, View>,
    choices: BTreeMap<ValueId, Choice>,
}

impl Scope {
    fn weights(&self, v: ValueId) -> Option<&View> {
        self.views.get(&v).filter(|w| w.learned() && w.shape().len() >= 2)
    }

    fn elem(&self, v: ValueId) -> Option<Elem> {
        Some(self.facts.get(v)?.ty.elem)
    }

    /// Lengths of the axes, `None` where one is not a number.
    fn dims(&self, v: ValueId) -> Option<Vec<Option<usize>>> {
        let shape = self.facts.get(v)?.ty.shape.as_ref()?;
        let length = |d: &Option<Dim>| d.as_ref()?.value().and_then(|n| usize::try_from(n).ok());
        Some(shape.iter().map(length).collect())
    }

    /// The shape, when every length is a number.
    fn shape(&self, v: ValueId) -> Option<Vec<usize>> {
        self.dims(v)?.into_iter().collect()
    }

    /// The elements of a short integer tensor that does not depend on data.
    fn numbers(&self, graph: &Graph<OpenType>, v: ValueId) -> Option<Vec<i64>> {
        if let Some(value) = &self.facts.get(v)?.value {
            return value.iter().map(|d| d.as_ref()?.value()).collect();
        }
        let (_, c) =
            graph.constant(v).filter(|(_, c)| c.elem.is_int() && c.shape.len() < 2 && c.len() <= 64)?;
        let t = eval::eval(&Op::Cast { to: Elem::I64 }, &[c.tensor().ok()?]).ok()?;
        Some(t.first()?.as_slice::<i64>().ok()?.to_vec())
    }

    /// The views that the results of a node are.
    fn follow(&self, graph: &Graph<OpenType>, node: &Node) -> Vec<Option<View>> {
        let of = |i: usize| self.views.get(node.inputs.get(i)?);
        let to = || self.shape(*node.outputs.first()?);
        let one = |v: Option<View>| vec![v];
        match &node.op {
            Op::Constant { id } => one(graph.consts.get(*id).and_then(View::of)),
            Op::Cast { to } => one(of(0).and_then(|v| v.cast(*to))),
            Op::Transpose { perm } => one(of(0).and_then(|v| v.transpose(perm))),
            Op::Reshape { .. } | Op::Flatten { .. } | Op::Squeeze { .. } | Op::Unsqueeze { .. } => {
                one(of(0).and_then(|v| v.reshape(&to()?)))
            }
            Op::Expand {} => one(of(0).and_then(|v| v.broadcast(&to()?))),
            Op::Slice {} => one(self.slice(graph, node)),
            Op::Split { axis, .. } | Op::SplitEqual { axis, .. } => {
                let mut start = 0;
                let piece = |out: &ValueId| {
                    let view = of(0)?;
                    let at = norm_axis(*axis, view.shape().len()).ok()?;
                    let length = *self.shape(*out)?.get(at)?;
                    let piece = view.slice(at, start, 1, length);
                    start += length;
                    piece
                };
                node.outputs.iter().map(piece).collect()
            }
            Op::Gather { axis } => one(of(0).and_then(|view| {
                let at = norm_axis(*axis, view.shape().len()).ok()?;
                let [index] = self.numbers(graph, *node.inputs.get(1)?)?[..] else { return None };
                let length = view.shape()[at];
                let from_end = if index < 0 { i64::try_from(length).ok()? } else { 0 };
                let index = usize::try_from(index.checked_add(from_end)?).ok()?;
                view.slice(at, index, 1, 1)?.reshape(&to()?)
            })),
            Op::Binary(f) => one(of(0).zip(of(1)).and_then(|(a, b)| View::binary(*f, a, b))),
            Op::Dequantize { axis, block, to } => {
                let zero = node.inputs.get(2).map(|v| self.views.get(v));
                one(match (of(0), of(1), zero) {
                    (Some(x), Some(scale), None) => View::dequantize(x, scale, None, (*axis, *block), *to),
                    (Some(x), Some(scale), Some(Some(zero))) => {
                        View::dequantize(x, scale, Some(zero), (*axis, *block), *to)
                    }
                    _ => None,
                })
            }
            Op::Concat { axis } => {
                let parts: Option<Vec<&View>> = (0..node.inputs.len()).map(of).collect();
                one(parts.and_then(|parts| {
                    let at = norm_axis(*axis, parts.first()?.shape().len()).ok()?;
                    View::concat(&parts, at)
                }))
            }
            _ => vec![None; node.outputs.len()],
        }
    }

    fn slice(&self, graph: &Graph<OpenType>, node: &Node) -> Option<View> {
        let mut view = self.views.get(node.inputs.first()?)?.clone();
        let list = |i: usize| self.numbers(graph, *node.inputs.get(i)?);
        let (starts, axes, steps) = (list(1)?, list(3)?, list(4)?);
        let lengths = self.shape(*node.outputs.first()?)?;
        for ((start, axis), step) in starts.into_iter().zip(axes).zip(steps) {
            let at = norm_axis(axis, view.shape().len()).ok()?;
            let length = i64::try_from(view.shape()[at]).ok()?;
            let start = if start < 0 { start.saturating_add(length) } else { start };
            let start = start.clamp(0, if step < 0 { length - 1 } else { length });
            view =
                view.slice(at, usize::try_from(start).ok()?, isize::try_from(step).ok()?, *lengths.get(at)?)?;
        }
        Some(view)
    }

    /// The choice that the result of a node is.
    fn choose(&self, node: &Node) -> Option<Choice> {
        match &node.op {
            Op::Gather { axis: 0 } => {
                let bank = self.weights(node.inputs[0])?;
                let fits = bank.shape().len() == 3 && (2..=CHOICE_MAX).contains(&bank.shape()[0]);
                let rank = self.dims(node.inputs[1])?.len();
                fits.then(|| Choice { bank: bank.clone(), index: node.inputs[1], rank })
            }
            Op::Transpose { perm } => {
                let c = self.choices.get(node.inputs.first()?)?;
                let rank = i64::try_from(c.rank).ok()?;
                let swapped: Vec<i64> = (0..rank).chain([rank + 1, rank]).collect();
                (*perm == swapped).then_some(())?;
                Some(Choice { bank: c.bank.transpose(&[0, 2, 1])?, ..c.clone() })
            }
            Op::Cast { to } => {
                let c = self.choices.get(node.inputs.first()?)?;
                Some(Choice { bank: c.bank.cast(*to)?, ..c.clone() })
            }
            _ => None,
        }
    }
}

/// Whether a value's elements are integers of magnitude at most 255: 8-bit integers and codes, less
/// a zero point.
fn small_integers(graph: &Graph<OpenType>, mut v: ValueId) -> bool {
    let bounded = |c: &Const| {
        let t = Some(c).filter(|c| c.len() <= 1 << 12).and_then(|c| c.tensor().ok());
        let t = t.and_then(|t| eval::eval(&Op::Cast { to: Elem::F64 }, &[t]).ok());
        let values = t.as_ref().and_then(|t| t.first()?.as_slice::<f64>().ok());
        values.is_some_and(|v| v.iter().all(|v| v.fract() == 0.0 && v.abs() <= 255.0))
    };
    let from_narrow = |v: ValueId| {
        let elem = graph.value(v).map(|v| v.ty.elem);
        elem.is_some_and(|e| matches!(e, Elem::I8 | Elem::U8 | Elem::I4 | Elem::U4 | Elem::I2 | Elem::U2))
    };
    let mut centred = false;
    for _ in 0..64 {
        let Some(node) = graph.producer(v) else { return false };
        v = match (&node.op, &node.inputs[..]) {
            (Op::Cast { .. }, [x]) if from_narrow(*x) => return true,
            (Op::Constant { id }, _) => return graph.consts.get(*id).is_some_and(bounded),
            (Op::Binary(BinaryFn::Sub), [x, zero]) if !centred => {
                centred = true;
                let mut zero = *zero;
                let ok = loop {
                    let Some(z) = graph.producer(zero) else { break false };
                    match (&z.op, &z.inputs[..]) {
                        (Op::Cast { .. }, [x]) => break from_narrow(*x),
                        (Op::Constant { id }, _) => break graph.consts.get(*id).is_some_and(bounded),
                        (Op::Unsqueeze { .. }, [x]) => zero = *x,
                        _ => break false,
                    }
                };
                if !ok {
                    return false;
                }
                *x
            }
            (op, [x, ..]) if !op.moves(1).is_empty() => *x,
            _ => return false,
        };
    }
    false
}

/// The pass while it runs.
#[derive(Default)]
struct Fix {
    found: Vec<Found>,
    known: BTreeMap<Vec<u64>, MatrixId>,
    stats: Stats,
    rounds: bool,
    /// Products made so far.
    uses: usize,
    /// Tensors that stay on the host.
    keep: Vec<String>,
}

/// How the elements of a product are to be taken.
struct Precision {
    /// Type outside; the product itself is in f32.
    elem: Elem,
    /// Whether results are integers.
    integral: bool,
    /// Whether results differ from those of the type outside.
    rounds: bool,
}

impl Precision {
    /// Of x times weights whose products have `k` terms; `None` when it is no product of reals, nor
    /// one of small integers.
    fn new(graph: &Graph<OpenType>, x: ValueId, elem: Elem, weights: &View, k: usize) -> Option<Self> {
        let wide = matches!(elem, Elem::I32 | Elem::F64);
        let largest = weights.integers().filter(|_| wide && small_integers(graph, x));
        let integral = largest.is_some();
        let exact = largest.is_some_and(|w| w * 255.0 * (k as f64) < 16777216.0);
        (elem.is_float() || integral).then_some(Precision { elem, integral, rounds: wide && !exact })
    }
}

impl Fix {
    fn insert(graph: &mut Graph<OpenType>, op: Op, inputs: &[ValueId], origin: &Origin) -> Vec<ValueId> {
        let results = vec![(String::new(), OpenType::unknown(Elem::F32)); op.outputs()];
        graph.add(op, inputs.to_vec(), results, origin.clone())
    }

    fn op(graph: &mut Graph<OpenType>, op: Op, inputs: &[ValueId], origin: &Origin) -> Option<ValueId> {
        Self::insert(graph, op, inputs, origin).first().copied()
    }

    fn constant(graph: &mut Graph<OpenType>, t: &Tensor) -> ValueId {
        graph.add_const("", Const::derived(t, Origin::default(), false))
    }

    /// Gives a node the operation and operands of the one that computes `new`, which goes.
    fn adopt(graph: &mut Graph<OpenType>, id: NodeId, new: ValueId) {
        let Some(made) = graph.value(new).map(|v| v.node) else { return };
        let Some(node) = graph.node(made).cloned() else { return };
        graph.set_inputs(id, node.inputs);
        if let Some((slot, _)) = graph.op_mut(id) {
            *slot = node.op;
        }
        graph.remove(made);
    }

    fn matrix(&mut self, view: &View, origin: &Origin) -> Option<(MatrixId, i64, i64)> {
        let view = view.matrix()?;
        let next = MatrixId(u32::try_from(self.found.len()).ok()?);
        let (k, n) = (i64::from(view.k), i64::from(view.n));
        let matrix = *self.known.entry(view.key()).or_insert(next);
        if matrix == next {
            let tensor = view.tensor().map(str::to_owned);
            self.found.push(Found { view, origin: Origin { tensor, ..Origin::default() } });
        }
        self.found[matrix.index()].origin.merge(&Origin { tensor: None, ..origin.clone() });
        Some((matrix, k, n))
    }

    /// Makes room for the products with `matrices` matrices.
    fn reserve(&mut self, matrices: usize, most: usize) -> Option<()> {
        let uses = self.uses.checked_add(matrices).filter(|u| matrices <= most && *u <= USES_MAX)?;
        self.uses = uses;
        Some(())
    }

    /// x `[.., k]` times a matrix.
    fn linear(
        &mut self,
        graph: &mut Graph<OpenType>,
        x: ValueId,
        w: &View,
        origin: &Origin,
    ) -> Option<ValueId> {
        let (matrix, k, n) = self.matrix(w, origin)?;
        Self::op(graph, Op::FixedLinear { matrix, k, n }, &[x], origin)
    }

    fn single(graph: &mut Graph<OpenType>, x: ValueId, from: Elem, origin: &Origin) -> Option<ValueId> {
        match from {
            Elem::F32 => Some(x),
            _ => Self::op(graph, Op::Cast { to: Elem::F32 }, &[x], origin),
        }
    }

    fn back(graph: &mut Graph<OpenType>, mut y: ValueId, p: &Precision, origin: &Origin) -> Option<ValueId> {
        if p.integral {
            y = Self::op(graph, Op::Unary(UnaryFn::Round), &[y], origin)?;
        }
        match p.elem {
            Elem::F32 => Some(y),
            to => Self::op(graph, Op::Cast { to }, &[y], origin),
        }
    }

    /// x times weights `[.., k, n]`, as `matmul` does. `dims` of x are needed when the weights have a
    /// batch.
    fn product(
        &mut self,
        graph: &mut Graph<OpenType>,
        mut x: ValueId,
        dims: Option<Vec<Option<usize>>>,
        w: &View,
        origin: &Origin,
    ) -> Option<ValueId> {
        let rank = w.shape().len();
        self.reserve(count(&w.shape()[..rank - 2])?, BANK_MAX)?;
        if rank == 2 {
            return self.linear(graph, x, w, origin);
        }
        let mut dims = dims.filter(|d| !d.is_empty())?;
        let vector = dims.len() == 1;
        if dims.len() < rank {
            let new = rank - dims.len();
            x = Self::op(graph, Op::Unsqueeze { axes: (0..new as i64).collect() }, &[x], origin)?;
            dims.splice(0..0, vec![Some(1); new]);
        }
        let y = self.bank(graph, x, &mut dims, w, origin)?;
        if vector { Self::op(graph, Op::Squeeze { axes: vec![-2] }, &[y], origin) } else { Some(y) }
    }

    /// One matrix an element of the batch, on the matching part of x, which has their rank at least;
    /// one for all of x along an axis where the weights repeat.
    fn bank(
        &mut self,
        graph: &mut Graph<OpenType>,
        x: ValueId,
        dims: &mut Vec<Option<usize>>,
        w: &View,
        origin: &Origin,
    ) -> Option<ValueId> {
        let rank = w.shape().len();
        let Some(axis) = w.shape()[..rank - 2].iter().position(|&d| d > 1) else {
            return self.linear(graph, x, &w.reshape(&w.shape()[rank - 2..])?, origin);
        };
        let length = w.shape()[axis];
        let at = dims.len() - rank + axis;
        if w.repeats_along(axis) && dims[at] == Some(length) {
            return self.bank(graph, x, dims, &w.slice(axis, 0, 1, 1)?, origin);
        }
        let xs = match dims[at] {
            Some(1) => vec![x; length],
            Some(d) if d == length => {
                let sizes = vec![1; length];
                Self::insert(graph, Op::Split { axis: at as i64, sizes }, &[x], origin)
            }
            _ => return None,
        };
        let before = dims[at].replace(1);
        let mut parts = Vec::new();
        for (e, x) in xs.into_iter().enumerate() {
            parts.push(self.bank(graph, x, dims, &w.slice(axis, e, 1, 1)?, origin)?);
        }
        dims[at] = before;
        Self::op(graph, Op::Concat { axis: at as i64 }, &parts, origin)
    }

    /// A product with constant weights on either side.
    fn matmul(&mut self, graph: &mut Graph<OpenType>, node: &Node, scope: &Scope) -> Option<ValueId> {
        let [a, b] = node.inputs[..] else { return None };
        let (elem, origin) = (scope.elem(a)?, &node.origin);
        let swap = |rank: usize| -> Vec<i64> {
            let rank = rank as i64;
            (0..rank - 2).chain([rank - 1, rank - 2]).collect()
        };
        if let Some(w) = scope.weights(b) {
            let p = Precision::new(graph, a, elem, w, w.shape()[w.shape().len() - 2])?;
            let x = Self::single(graph, a, elem, origin)?;
            let y = self.product(graph, x, scope.dims(a), w, origin)?;
            self.rounds |= p.rounds;
            return Self::back(graph, y, &p, origin);
        }
        if let Some(w) = scope.weights(a) {
            // W x is the transpose of the product of both transposed.
            let rank = w.shape().len();
            let w = w.transpose(&swap(rank))?;
            let p = Precision::new(graph, b, elem, &w, w.shape()[rank - 2])?;
            let mut dims = scope.dims(b)?;
            let mut x = Self::single(graph, b, elem, origin)?;
            let vector = dims.len() == 1;
            if !vector {
                let last = dims.len() - 1;
                dims.swap(last - 1, last);
                x = Self::op(graph, Op::Transpose { perm: swap(dims.len()) }, &[x], origin)?;
            }
            let result = dims.len().max(rank);
            let mut y = self.product(graph, x, Some(dims), &w, origin)?;
            if !vector {
                y = Self::op(graph, Op::Transpose { perm: swap(result) }, &[y], origin)?;
            }
            self.rounds |= p.rounds;
            return Self::back(graph, y, &p, origin);
        }
        let choice = scope.choices.get(&b)?;
        scope.dims(a).filter(|d| d.len() >= 2)?;
        let p = Precision::new(graph, a, elem, &choice.bank, choice.bank.shape()[1])?;
        let x = Self::single(graph, a, elem, origin)?;
        let y = self.chosen(graph, x, choice, origin)?;
        self.rounds |= p.rounds;
        Self::back(graph, y, &p, origin)
    }

    /// x times each matrix of a bank, of which the index selects.
    fn chosen(
        &mut self,
        graph: &mut Graph<OpenType>,
        x: ValueId,
        choice: &Choice,
        origin: &Origin,
    ) -> Option<ValueId> {
        let &[experts, k, n] = choice.bank.shape() else { return None };
        self.reserve(experts, CHOICE_MAX)?;
        let rank = choice.rank as i64;
        let mut index = Self::op(graph, Op::Cast { to: Elem::I64 }, &[choice.index], origin)?;
        index = Self::op(graph, Op::Unsqueeze { axes: vec![rank, rank + 1] }, &[index], origin)?;
        let (zero, length) = (
            Self::constant(graph, &Tensor::scalar(0i64)),
            Self::constant(graph, &Tensor::scalar(experts as i64)),
        );
        let below = Self::op(graph, Op::Binary(BinaryFn::Less), &[index, zero], origin)?;
        let wrapped = Self::op(graph, Op::Binary(BinaryFn::Add), &[index, length], origin)?;
        index = Self::op(graph, Op::Where {}, &[below, wrapped, index], origin)?;
        let mut y = None;
        for e in 0..experts {
            let w = choice.bank.slice(0, e, 1, 1)?.reshape(&[k, n])?;
            let of_expert = self.linear(graph, x, &w, origin)?;
            y = Some(match y {
                None => of_expert,
                Some(others) => {
                    let number = Self::constant(graph, &Tensor::scalar(e as i64));
                    let here = Self::op(graph, Op::Binary(BinaryFn::Equal), &[index, number], origin)?;
                    Self::op(graph, Op::Where {}, &[here, of_expert, others], origin)?
                }
            });
        }
        y
    }

    /// Entries of a table along an axis.
    fn lookup(
        &mut self,
        graph: &mut Graph<OpenType>,
        node: &Node,
        axis: i64,
        scope: &Scope,
    ) -> Option<ValueId> {
        let table = scope.weights(node.inputs[0])?;
        let (elem, origin, indices) = (table.elem(), &node.origin, node.inputs[1]);
        let rank = table.shape().len();
        let at = norm_axis(axis, rank).ok()?;
        let multiplied = |id: &NodeId| {
            graph.node(*id).is_some_and(|n| matches!(n.op, Op::MatMul {} | Op::Transpose { .. }))
        };
        if !elem.is_float() || (rank > 2 && graph.users(node.outputs[0]).iter().any(multiplied)) {
            return None;
        }
        let rest: Vec<i64> = (0..rank as i64).filter(|&i| i != at as i64).collect();
        let first: Vec<i64> = std::iter::once(at as i64).chain(rest.iter().copied()).collect();
        let moved = table.transpose(&first)?;
        let entry = &moved.shape()[1..];
        let columns = moved.reshape(&[moved.shape()[0], count(entry)?])?.transpose(&[1, 0])?;
        let (matrix, k, n) = self.matrix(&columns, origin)?;
        let mut y = Self::op(graph, Op::FixedLookup { matrix, k, n }, &[indices], origin)?;
        if rank > 2 || at > 0 {
            let given = scope.dims(indices)?.len();
            if rank > 2 {
                let lengths = entry.iter().map(|&d| i64::try_from(d)).collect::<Result<Vec<_>, _>>().ok()?;
                let shape = Tensor::vector([vec![0; given], lengths].concat());
                let shape = Self::constant(graph, &shape);
                y = Self::op(graph, Op::Reshape { allow_zero: false }, &[y, shape], origin)?;
            }
            let perm: Vec<i64> = (given..given + at)
                .chain(0..given)
                .chain(given + at..given + rank - 1)
                .map(|i| i as i64)
                .collect();
            if !perm.is_sorted() {
                y = Self::op(graph, Op::Transpose { perm }, &[y], origin)?;
            }
        }
        let p = Precision { elem, integral: false, rounds: elem == Elem::F64 };
        self.rounds |= p.rounds;
        Self::back(graph, y, &p, origin)
    }

    /// A convolution: one matrix `[C / groups * taps, O]`, each group of which columns is multiplied with
    /// the group's own patches. None of its elements is a zero that the kernel does not have.
    fn conv(&mut self, graph: &mut Graph<OpenType>, node: &Node, scope: &Scope) -> Option<ValueId> {
        let Op::Conv { strides, pads, dilations, groups } = &node.op else { return None };
        let (x, w, origin) = (node.inputs[0], scope.weights(node.inputs[1])?, &node.origin);
        let elem = scope.elem(x)?;
        let groups = usize::try_from(*groups).ok().filter(|g| *g > 0)?;
        let [outputs, ref window @ ..] = *w.shape() else { return None };
        let (rank, k) = (w.shape().len(), count(window)?);
        if rank < 3 || strides.len() + 2 != rank || !outputs.is_multiple_of(groups) {
            return None;
        }
        let p = Precision::new(graph, x, elem, w, k)?;
        let x = Self::single(graph, x, elem, origin)?;
        let kernel: Vec<i64> =
            window[1..].iter().map(|&d| i64::try_from(d)).collect::<Result<_, _>>().ok()?;
        let last = rank as i64 - 1;
        let points = kernel.iter().chain(strides).all(|&v| v == 1) && pads.iter().all(|&p| p == 0);
        let patches = if points {
            Op::Transpose { perm: std::iter::once(0).chain(2..=last).chain([1]).collect() }
        } else {
            Op::Patches { kernel, strides: strides.clone(), pads: pads.clone(), dilations: dilations.clone() }
        };
        let x = Self::op(graph, patches, &[x], origin)?;
        let w = w.reshape(&[outputs, k])?.transpose(&[1, 0])?;
        let mut y = self.grouped(graph, x, (groups, last), &w, origin)?;
        // Of halves the product is rounded to half precision before the bias is added.
        let half = matches!(elem, Elem::F16 | Elem::BF16) && node.inputs.len() > 2;
        self.rounds |= p.rounds || half;
        y = Self::back(graph, y, &p, origin)?;
        if let Some(&bias) = node.inputs.get(2) {
            y = Self::op(graph, Op::Binary(BinaryFn::Add), &[y, bias], origin)?;
        }
        let perm = [0, last].into_iter().chain(1..last).collect();
        Self::op(graph, Op::Transpose { perm }, &[y], origin)
    }

    /// A transposed convolution: x over channels times one matrix `[C / groups, O * taps]`, each group of
    /// whose columns is multiplied with the group's own channels, and whose results a transposed convolution with a one for each tap puts in their places.
    fn conv_transpose(&mut self, graph: &mut Graph<OpenType>, node: &Node, scope: &Scope) -> Option<ValueId> {
        let Op::ConvTranspose { groups, .. } = node.op else { return None };
        let (x, w, origin) = (node.inputs[0], scope.weights(node.inputs[1])?, &node.origin);
        let elem = scope.elem(x)?;
        let groups = usize::try_from(groups).ok().filter(|g| *g > 0)?;
        let [channels, per_group, ref kernel @ ..] = *w.shape() else { return None };
        let (rank, taps) = (w.shape().len(), count(kernel)?);
        let outputs = per_group.checked_mul(groups)?;
        let places = outputs.checked_mul(taps)?;
        places.checked_mul(taps).filter(|n| *n <= PLACES_MAX)?;
        if rank < 3 || !channels.is_multiple_of(groups) {
            return None;
        }
        let k = channels / groups;
        let p = Precision::new(graph, x, elem, w, k)?;
        let x = Self::single(graph, x, elem, origin)?;
        let last = rank as i64 - 1;
        let perm = std::iter::once(0).chain(2..=last).chain([1]).collect();
        let x = Self::op(graph, Op::Transpose { perm }, &[x], origin)?;
        let each = per_group * taps;
        let w = match groups {
            1 => w.reshape(&[k, each])?,
            _ => {
                // Groups lie one after the other: with each beside the others, rows are not in one piece.
                let beside = w.reshape(&[groups, k, each])?.transpose(&[1, 0, 2])?;
                beside.reshape(&[k, places]).or_else(|| beside.packed()?.reshape(&[k, places]))?
            }
        };
        let y = self.grouped(graph, x, (groups, last), &w, origin)?;
        let perm = [0, last].into_iter().chain(1..last).collect();
        let y = Self::op(graph, Op::Transpose { perm }, &[y], origin)?;
        let mut ones = vec![0f32; places * taps];
        for (place, row) in ones.chunks_exact_mut(taps).enumerate() {
            row[place % taps] = 1.0;
        }
        let shape = [&[places, 1], kernel].concat();
        let ones = Self::constant(graph, &Tensor::new(shape, ones).ok()?);
        let mut op = node.op.clone();
        if let Op::ConvTranspose { groups, .. } = &mut op {
            *groups = i64::try_from(outputs).ok()?;
        }
        // Products are summed over channels first, then over taps and the bias.
        self.rounds = true;
        let y = Self::op(graph, op, &[y, ones], origin)?;
        let y = Self::back(graph, y, &p, origin)?;
        let Some(&bias) = node.inputs.get(2) else { return Some(y) };
        let bias = Self::op(graph, Op::Unsqueeze { axes: (1..last).collect() }, &[bias], origin)?;
        Self::op(graph, Op::Binary(BinaryFn::Add), &[y, bias], origin)
    }

    /// Cuts the last axis, `last`, of x into groups, and multiplies each with its columns of a matrix.
    fn grouped(
        &mut self,
        graph: &mut Graph<OpenType>,
        x: ValueId,
        (groups, last): (usize, i64),
        w: &View,
        origin: &Origin,
    ) -> Option<ValueId> {
        self.reserve(1, 1)?;
        if groups == 1 {
            return self.linear(graph, x, w, origin);
        }
        let (matrix, k, n) = self.matrix(w, origin)?;
        let groups = i64::try_from(groups).ok()?;
        let shape = [vec![0; usize::try_from(last).ok()?], vec![groups, k]].concat();
        let shape = Self::constant(graph, &Tensor::vector(shape));
        let x = Self::op(graph, Op::Reshape { allow_zero: false }, &[x, shape], origin)?;
        Self::op(graph, Op::FixedGrouped { matrix, k, n, groups }, &[x], origin)
    }

    /// Rewrites a graph, some of whose inputs are views of constants.
    fn graph(&mut self, graph: &mut Graph<OpenType>, given: Vec<Option<View>>) -> Result<(), Diagnostics> {
        let facts = infer::annotate(graph)?;
        let mut scope = Scope { facts, views: BTreeMap::new(), choices: BTreeMap::new() };
        let inputs = graph.inputs().iter().copied().zip(given);
        scope.views.extend(inputs.filter_map(|(v, view)| Some((v, view?))));
        let mut runs: BTreeMap<RegionId, usize> = BTreeMap::new();
        for region in graph.nodes().flat_map(|(_, n)| n.op.regions()) {
            *runs.entry(region).or_default() += 1;
        }
        for id in graph.order().unwrap_or_default() {
            let Some(node) = graph.node(id).cloned() else { continue };
            let kept = match &node.op {
                Op::Constant { id } => graph
                    .consts
                    .get(*id)
                    .is_some_and(|c| c.origin.tensor.as_ref().is_some_and(|name| self.keep.contains(name))),
                _ => false,
            };
            if kept {
                continue;
            }
            for (v, view) in node.outputs.iter().zip(scope.follow(graph, &node)) {
                scope.views.extend(view.map(|view| (*v, view)));
            }
            if let Some(choice) = scope.choose(&node) {
                scope.choices.extend(node.outputs.first().map(|v| (*v, choice)));
            }
            let (kind, new) = match &node.op {
                Op::MatMul {} => ("products", self.matmul(graph, &node, &scope)),
                Op::Gather { axis } => ("", self.lookup(graph, &node, *axis, &scope)),
                Op::Conv { .. } => ("convolutions", self.conv(graph, &node, &scope)),
                Op::ConvTranspose { .. } => ("convolutions", self.conv_transpose(graph, &node, &scope)),
                Op::If { .. } | Op::Loop { .. } => {
                    self.regions(graph, &node, &scope, &runs)?;
                    continue;
                }
                _ => continue,
            };
            if let Some(new) = new {
                Self::adopt(graph, id, new);
                if !kind.is_empty() {
                    *self.stats.entry(kind.into()).or_default() += 1;
                }
            }
        }
        Ok(())
    }

    /// Rewrites the regions of a node. What they are given that does not change while they run is
    /// followed into a region that nothing else runs.
    fn regions(
        &mut self,
        graph: &mut Graph<OpenType>,
        node: &Node,
        scope: &Scope,
        runs: &BTreeMap<RegionId, usize>,
    ) -> Result<(), Diagnostics> {
        // The first region input that stays the same, and how many operands come before inputs.
        let (first, before) = match node.op {
            Op::Loop { carried, .. } => (usize::try_from(carried).unwrap_or(usize::MAX).saturating_add(2), 0),
            _ => (0, 1),
        };
        for id in node.op.regions() {
            let alone = runs.get(&id) == Some(&1);
            let Some(region) = graph.regions_mut().get_mut(id.index()) else { continue };
            let inputs = region.inputs().to_vec();
            let operand = |i: usize| node.inputs.get(i + before).filter(|_| alone && i >= first);
            let given = (0..inputs.len()).map(|i| scope.views.get(operand(i)?).cloned()).collect();
            let mut retyped = region.clone();
            for (i, v) in inputs.iter().enumerate() {
                let known = operand(i).and_then(|v| scope.facts.get(*v));
                if let (Some(value), Some(known)) = (retyped.value_mut(*v), known) {
                    value.ty = known.ty.clone();
                }
            }
            // A branch that is never taken may contradict what is known where it is called.
            if infer::annotate(&mut retyped).is_ok() {
                *region = retyped;
            }
            self.graph(region, given)?;
        }
        Ok(())
    }

    /// Drops matrices that nothing uses, and numbers the others anew.
    fn tidy(&mut self, graph: &mut Graph<OpenType>) {
        let mut used: BTreeSet<MatrixId> = BTreeSet::new();
        let mut lookups = 0u64;
        graph.each(&mut |g| {
            used.extend(g.nodes().filter_map(|(_, n)| n.op.matrix()));
            lookups += g.nodes().filter(|(_, n)| matches!(n.op, Op::FixedLookup { .. })).count() as u64;
        });
        let new: BTreeMap<MatrixId, MatrixId> =
            used.iter().enumerate().map(|(i, old)| (*old, MatrixId(i as u32))).collect();
        self.found = used.iter().filter_map(|m| self.found.get(m.index()).cloned()).collect();
        graph.each_mut(&mut |g| {
            let users: Vec<NodeId> =
                g.nodes().filter(|(_, n)| n.op.matrix().is_some()).map(|(id, _)| id).collect();
            for id in users {
                if let Some((
                    Op::FixedLinear { matrix, .. }
                    | Op::FixedGrouped { matrix, .. }
                    | Op::FixedLookup { matrix, .. },
                    _,
                )) = g.op_mut(id)
                    && let Some(m) = new.get(matrix)
                {
                    *matrix = *m;
                }
            }
        });
        if lookups > 0 {
            self.stats.insert("look-ups".into(), lookups);
        }
        self.stats.insert("matrices".into(), self.found.len() as u64);
    }
}

/// Finds the fixed matrices of a graph and its regions and rewrites their uses. Uses of the same
/// elements share one matrix: a tied embedding is looked up and multiplied with from one place.
///
/// # Errors
/// What the verifier reports afterwards.
pub fn fix(graph: &mut Graph<OpenType>, keep: &[String]) -> Result<(Vec<Found>, PassRecord), Diagnostics> {
    let mut pass = Fix { keep: keep.to_vec(), ..Fix::default() };
    pass.graph(graph, Vec::new())?;
    graph.remove_dead();
    pass.tidy(graph);
    infer::annotate(graph)?;
    graph.verify()?;
    let mut record = PassRecord::new(&INFO, pass.stats);
    if pass.rounds {
        record.exactness = Exactness::Rounding;
    }
    Ok((pass.found, record))
}
