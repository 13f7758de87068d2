//! Arbitrary valid graphs, built from decisions, through every pass: what the interpreter computes stays the same.

use std::collections::BTreeMap;

use pfmc::partition::partition;
use pfmc::passes::canonicalise::Canonicalise;
use pfmc::passes::fix::fix;
use pfmc::passes::fold::Fold;
use pfmc::passes::{apply, bind};
use pfmc::quantise::plan::WeightPlan;
use pfmc_ir::backend::TileLimit;
use pfmc_ir::consts::Const;
use pfmc_ir::diag::Diagnostics;
use pfmc_ir::elem::Elem;
use pfmc_ir::exec::{FixedMatrices, NoMatrices, run};
use pfmc_ir::graph::{Graph, ValueId};
use pfmc_ir::infer::{self, Fact};
use pfmc_ir::loaded::LoadedMatrices;
use pfmc_ir::op::{BinaryFn, Op, PoolFn, ReduceFn, UnaryFn};
use pfmc_ir::origin::Origin;
use pfmc_ir::program::TileProgram;
use pfmc_ir::shape::{Dim, OpenType};
use pfmc_ir::tensor::{Data, Tensor};
use pfmc_ir::text::{parse_program, print_program};
use pfmc_ir::tile::Scheme;
use pfmc_ir::verify::Verify;

use crate::entropy::Entropy;
use crate::{Check, outcome};
use pfmc_ir::random::Random;

/// Length of the open dimension when a graph is run.
const OPEN: i64 = 3;
/// Most elements of a value.
const ELEMENTS_MAX: i64 = 2048;
/// Most operations that are tried.
const STEPS_MAX: usize = 40;
/// Tiles are small, so that most matrices are cut.
const LIMIT: TileLimit = TileLimit { k: 3, n: 2, k_multiple: 1, n_multiple: 1 };

type Tensors = BTreeMap<String, Tensor>;

/// A graph that grows.
struct Builder<'a, 'b> {
    e: &'a mut Entropy<'b>,
    graph: Graph<OpenType>,
    values: Vec<(ValueId, Fact)>,
    constants: usize,
    /// Whether small differences stay small: no rounding, comparison or choice of an index on the way.
    smooth: bool,
}

impl Builder<'_, '_> {
    /// Any value, the latest ones more often.
    fn value(&mut self) -> Option<(ValueId, Fact)> {
        let n = self.values.len();
        let back = if self.e.flag() { self.e.below(3.min(n)) } else { self.e.below(n) };
        self.values.get(n.checked_sub(1 + back)?).cloned()
    }

    /// A value of an element type, of the latest ones.
    fn of(&mut self, elem: Elem) -> Option<(ValueId, Fact)> {
        let all: Vec<_> = self.values.iter().filter(|(_, f)| f.ty.elem == elem).cloned().collect();
        let back = self.e.below(all.len().min(6));
        all.get(all.len().checked_sub(1 + back)?).cloned()
    }

    fn rank(fact: &Fact) -> usize {
        fact.ty.shape.as_ref().map_or(0, Vec::len)
    }

    fn axis(&mut self, fact: &Fact) -> i64 {
        let rank = Self::rank(fact);
        let axis = self.e.below(rank) as i64;
        if self.e.flag() { axis - rank as i64 } else { axis }
    }

    /// Length of an axis counted from the end, 1 where it is open or not there.
    fn length(fact: &Fact, from_end: usize) -> usize {
        let shape = fact.ty.shape.as_deref().unwrap_or_default();
        let dim = shape.len().checked_sub(1 + from_end).and_then(|i| shape.get(i));
        dim.and_then(|d| d.as_ref()?.value()).and_then(|n| usize::try_from(n).ok()).unwrap_or(1)
    }

    fn constant(&mut self, tensor: &Tensor, learned: bool) -> (ValueId, Fact) {
        self.constants += 1;
        let name = format!("c{}", self.constants);
        let origin = Origin::tensor(name.clone());
        let id = self.graph.add_const(&name, Const::derived(tensor, origin, learned));
        let mut fact = Fact::of(OpenType::fixed(tensor.elem(), tensor.shape()));
        if let (Data::I64(v), true) = (tensor.data(), tensor.rank() < 2) {
            fact.value = Some(v.iter().map(|&n| Some(Dim::known(n))).collect());
        }
        (id, fact)
    }

    fn numbers(&mut self, values: Vec<i64>) -> (ValueId, Fact) {
        self.constant(&Tensor::vector(values), false)
    }

    /// Multiples of 1/8 up to 2: exact in every float type.
    fn weights(&mut self, shape: &[usize], learned: bool) -> Option<(ValueId, Fact)> {
        let n = shape.iter().product::<usize>();
        let (start, step) = (self.e.byte(), self.e.byte() | 1);
        let value = |i: usize| {
            let code = (start as usize).wrapping_add(i.wrapping_mul(step as usize)) * 7 % 31;
            (code as f32 - 15.0) / 8.0
        };
        let tensor = Tensor::new(shape.to_vec(), (0..n).map(value).collect()).ok()?;
        Some(self.constant(&tensor, learned))
    }

    fn scalar(&mut self, v: f32) -> (ValueId, Fact) {
        self.constant(&Tensor::scalar(v), false)
    }

    /// Adds an operation where inference admits it and its results are small.
    fn put(&mut self, op: Op, operands: &[(ValueId, Fact)]) -> Option<(ValueId, Fact)> {
        let facts: Vec<&Fact> = operands.iter().map(|(_, f)| f).collect();
        let results = infer::infer(&op, &facts).ok()?;
        let bindings = BTreeMap::from([("n".to_owned(), OPEN)]);
        for r in &results {
            let dims = r.ty.shape.as_ref()?.iter();
            let count =
                dims.map(|d| d.as_ref()?.bind(&bindings)?.value()).try_fold(1i64, |a, n| a.checked_mul(n?));
            count.filter(|n| (0..=ELEMENTS_MAX).contains(n))?;
        }
        self.smooth &= smooth(&op);
        let outputs = results.iter().map(|r| (String::new(), r.ty.clone())).collect();
        let ids = self.graph.add(op, operands.iter().map(|(v, _)| *v).collect(), outputs, Origin::default());
        let made: Vec<_> = ids.into_iter().zip(results).collect();
        self.values.extend(made.iter().cloned());
        made.into_iter().next()
    }

    fn unary(&mut self, f: UnaryFn, x: &(ValueId, Fact)) -> Option<(ValueId, Fact)> {
        self.put(Op::Unary(f), std::slice::from_ref(x))
    }

    fn binary(&mut self, f: BinaryFn, a: &(ValueId, Fact), b: &(ValueId, Fact)) -> Option<(ValueId, Fact)> {
        // Either order, where it is all the same to the function.
        let turned = matches!(f, BinaryFn::Add | BinaryFn::Mul) && self.e.flag();
        let (a, b) = if turned { (b, a) } else { (a, b) };
        self.put(Op::Binary(f), &[a.clone(), b.clone()])
    }

    /// What exporters write norms, activations, rotary positions and attention as, and what only looks like it.
    fn pattern(&mut self) -> Option<()> {
        let x = self.of(Elem::F32)?;
        let last = Self::length(&x.1, 0);
        let odd = self.e.below(8) == 0;
        match self.e.below(8) {
            0 => {
                let s = self.unary(UnaryFn::Sigmoid, &x)?;
                let with = if odd { self.of(Elem::F32)? } else { x };
                self.binary(BinaryFn::Mul, &with, &s)?;
            }
            1 => {
                // x/2 (1 + erf(x / sqrt 2)), with another number now and then.
                let root = self.scalar(if odd { 1.5 } else { std::f32::consts::SQRT_2 });
                let (half, one) = (self.scalar(0.5), self.scalar(1.0));
                let d = self.binary(BinaryFn::Div, &x, &root)?;
                let erf = self.unary(UnaryFn::Erf, &d)?;
                let sum = self.binary(BinaryFn::Add, &erf, &one)?;
                let first = self.e.flag();
                let scaled = self.binary(BinaryFn::Mul, if first { &x } else { &sum }, &half)?;
                self.binary(BinaryFn::Mul, &scaled, if first { &sum } else { &x })?;
            }
            2 | 3 => {
                // RMS or layer norm over the last axis, or another.
                let axis = if odd { self.axis(&x.1) } else { -1 };
                let mean = Op::Reduce { f: ReduceFn::Mean, axes: vec![axis], keepdims: true };
                let centred = if self.e.flag() {
                    let m = self.put(mean.clone(), std::slice::from_ref(&x))?;
                    self.binary(BinaryFn::Sub, &x, &m)?
                } else {
                    x
                };
                let two = self.scalar(2.0);
                let square = if self.e.flag() {
                    self.binary(BinaryFn::Pow, &centred, &two)?
                } else {
                    self.binary(BinaryFn::Mul, &centred, &centred)?
                };
                let power = self.put(mean, &[square])?;
                let epsilon = self.scalar(1e-3);
                let sum = self.binary(BinaryFn::Add, &power, &epsilon)?;
                let root = self.unary(UnaryFn::Sqrt, &sum)?;
                let normal = if self.e.flag() {
                    self.binary(BinaryFn::Div, &centred, &root)?
                } else {
                    let inverse = self.unary(UnaryFn::Reciprocal, &root)?;
                    self.binary(BinaryFn::Mul, &centred, &inverse)?
                };
                let gain = self.weights(&[last], true)?;
                let scaled = self.binary(BinaryFn::Mul, &normal, &gain)?;
                if self.e.flag() {
                    let bias = self.weights(&[last], true)?;
                    self.binary(BinaryFn::Add, &scaled, &bias)?;
                }
            }
            4 | 5 => {
                // softmax(q k^T scale + mask) v with heads.
                let q = self.heads(&x)?;
                let other = self.of(Elem::F32)?;
                let own = self.e.flag();
                let k = self.heads(if own { &x } else { &other })?;
                let v = self.heads(if odd { &other } else { &x })?;
                let turned = self.put(Op::Transpose { perm: vec![0, 1, 3, 2] }, &[k])?;
                let scale = self.scalar(0.5);
                let q = if self.e.flag() { self.binary(BinaryFn::Mul, &q, &scale)? } else { q };
                let mut scores = self.put(Op::MatMul {}, &[q, turned])?;
                if self.e.flag() {
                    scores = self.binary(BinaryFn::Mul, &scores, &scale)?;
                }
                if self.e.flag() {
                    let n = Self::length(&scores.1, 0);
                    let mask = self.weights(&[n], false)?;
                    scores = self.binary(BinaryFn::Add, &scores, &mask)?;
                }
                let p = self.put(Op::Softmax { axis: if odd { 2 } else { -1 } }, &[scores])?;
                self.put(Op::MatMul {}, &[p, v])?;
            }
            6 => {
                // x cos + rotate_half(x) sin.
                let half = (last / 2) as i64;
                let slice = |b: &mut Self, from: i64, to: i64| {
                    let list = [vec![from], vec![to], vec![-1], vec![1]].map(|v| b.numbers(v));
                    let [starts, ends, axes, steps] = list;
                    b.put(Op::Slice {}, &[x.clone(), starts, ends, axes, steps])
                };
                let low = slice(self, 0, half)?;
                let high = slice(self, half, if odd { last as i64 } else { i64::MAX })?;
                let negative = self.unary(UnaryFn::Neg, &high)?;
                let turned = self.put(Op::Concat { axis: -1 }, &[negative, low])?;
                let (cos, sin) = (self.weights(&[last], false)?, self.weights(&[last], false)?);
                let a = self.binary(BinaryFn::Mul, &x, &cos)?;
                let b = self.binary(BinaryFn::Mul, &turned, &sin)?;
                self.binary(BinaryFn::Add, &a, &b)?;
            }
            _ => {
                // x sigmoid(1.702 x), and tanh's form of gelu.
                let (cube, c, root, one, half) = (
                    self.scalar(3.0),
                    self.scalar(0.044_715),
                    self.scalar(0.797_884_6),
                    self.scalar(1.0),
                    self.scalar(0.5),
                );
                let p = self.binary(BinaryFn::Pow, &x, &cube)?;
                let s = self.binary(BinaryFn::Mul, &p, &c)?;
                let a = self.binary(BinaryFn::Add, &x, &s)?;
                let t = self.binary(BinaryFn::Mul, &a, &root)?;
                let t = self.unary(UnaryFn::Tanh, &t)?;
                let o = self.binary(BinaryFn::Add, &t, &one)?;
                let h = self.binary(BinaryFn::Mul, &x, &half)?;
                self.binary(BinaryFn::Mul, if odd { &x } else { &h }, &o)?;
            }
        }
        Some(())
    }

    /// `x` as [.., heads, s, d].
    fn heads(&mut self, x: &(ValueId, Fact)) -> Option<(ValueId, Fact)> {
        let d = Self::length(&x.1, 0);
        let heads = if d.is_multiple_of(2) && self.e.flag() { 2 } else { 1 };
        let shape = self.numbers(vec![1, -1, heads, (d as i64) / heads]);
        let split = self.put(Op::Reshape { allow_zero: false }, &[x.clone(), shape])?;
        self.put(Op::Transpose { perm: vec![0, 2, 1, 3] }, &[split])
    }

    /// One operation of any kind, where it fits.
    fn step(&mut self) -> Option<()> {
        let x = self.value()?;
        let rank = Self::rank(&x.1);
        let last = Self::length(&x.1, 0);
        match self.e.below(32) {
            0..=2 => {
                let f = self.e.of(UnaryFn::ALL)?;
                self.unary(f, &x)?;
            }
            3..=5 => {
                let f = self.e.of(BinaryFn::ALL)?;
                let y = if self.e.flag() { self.value()? } else { self.weights(&[last], true)? };
                self.binary(f, &x, &y)?;
            }
            6..=9 => self.pattern()?,
            10..=12 => {
                // A product with weights, on either side, turned or in a batch.
                let n = 1 + self.e.below(5);
                let x = self.of(Elem::F32)?;
                let k = Self::length(&x.1, 0);
                match self.e.below(5) {
                    0 => {
                        let w = self.weights(&[n, k], true)?;
                        let w = self.put(Op::Transpose { perm: vec![1, 0] }, &[w])?;
                        self.put(Op::MatMul {}, &[x, w])?;
                    }
                    1 => {
                        let w = self.weights(&[n, Self::length(&x.1, 1)], true)?;
                        self.put(Op::MatMul {}, &[w, x])?;
                    }
                    2 => {
                        let w = self.weights(&[2, k, n], true)?;
                        self.put(Op::MatMul {}, &[x, w])?;
                    }
                    _ => {
                        let w = self.weights(&[k, n], true)?;
                        let y = self.put(Op::MatMul {}, &[x, w])?;
                        let bias = self.weights(&[n], true)?;
                        self.binary(BinaryFn::Add, &y, &bias)?;
                    }
                }
            }
            13 => {
                let f = self.e.of(ReduceFn::ALL)?;
                let axes = vec![self.axis(&x.1)];
                let keepdims = self.e.flag();
                self.put(Op::Reduce { f, axes, keepdims }, &[x])?;
            }
            14 => {
                let to = self.e.of(&[
                    Elem::F32,
                    Elem::F32,
                    Elem::F16,
                    Elem::F64,
                    Elem::I64,
                    Elem::I32,
                    Elem::U8,
                    Elem::Bool,
                ])?;
                self.put(Op::Cast { to }, &[x])?;
            }
            15 => {
                let c = self.of(Elem::Bool)?;
                let y = self.value()?;
                self.put(Op::Where {}, &[c, x, y])?;
            }
            16 => {
                let axis = self.axis(&x.1);
                self.put(Op::Softmax { axis }, &[x])?;
            }
            17 | 18 => {
                let mut perm: Vec<i64> = (0..rank as i64).collect();
                for i in (1..rank).rev() {
                    perm.swap(i, self.e.below(i + 1));
                }
                self.put(Op::Transpose { perm }, &[x])?;
            }
            19 | 20 => {
                let list = match self.e.below(5) {
                    0 => vec![-1],
                    1 => vec![-1, last as i64],
                    2 => vec![0, -1],
                    3 => vec![1, 0, -1],
                    _ => vec![-1, 2],
                };
                let shape = self.numbers(list);
                let allow_zero = self.e.below(8) == 0;
                self.put(Op::Reshape { allow_zero }, &[x, shape])?;
            }
            21 => {
                let y = self.value()?;
                let axis = self.axis(&x.1);
                self.put(Op::Concat { axis }, &[x, y])?;
            }
            22 | 23 => {
                let (from, to, step) =
                    (self.e.below(4) as i64 - 2, self.e.below(6) as i64 - 1, self.e.below(4) as i64 - 1);
                let step = if step == 0 { 2 } else { step };
                let axis = self.axis(&x.1);
                let [a, b, c, d] = [vec![from], vec![to], vec![axis], vec![step]].map(|v| self.numbers(v));
                self.put(Op::Slice {}, &[x, a, b, c, d])?;
            }
            24 => {
                let axis = self.axis(&x.1);
                if self.e.flag() {
                    self.put(Op::Unsqueeze { axes: vec![axis] }, &[x])?;
                } else {
                    self.put(Op::Squeeze { axes: vec![axis] }, &[x])?;
                }
            }
            25 => {
                let indices = if self.e.flag() { self.of(Elem::I64)? } else { self.numbers(vec![1, 0, -1]) };
                let (axis, table) = if self.e.flag() {
                    let width = 1 + self.e.below(4);
                    (0, self.weights(&[5, width], true)?)
                } else {
                    (self.axis(&x.1), x)
                };
                self.put(Op::Gather { axis }, &[table, indices])?;
            }
            26 => {
                let shape = self.put(Op::Shape { start: 0, end: rank as i64 }, std::slice::from_ref(&x))?;
                let y = self.value()?;
                let op = if self.e.flag() { Op::Expand {} } else { Op::Reshape { allow_zero: false } };
                self.put(op, &[y, shape])?;
            }
            27 => {
                let [scale, zero] =
                    [Tensor::scalar(0.125f32), Tensor::scalar(3i8)].map(|t| self.constant(&t, false));
                let op = Op::Quantize { axis: 0, block: 0, to: Elem::I8, saturate: true };
                let q = self.put(op, &[x, scale.clone(), zero.clone()])?;
                self.put(Op::Dequantize { axis: 0, block: 0, to: Elem::F32 }, &[q, scale, zero])?;
            }
            28 => {
                // [.., d] as an image of one row, and windows over it.
                let shape = self.numbers(vec![1, -1, 1, last as i64]);
                let image = self.put(Op::Reshape { allow_zero: false }, &[x, shape])?;
                let channels = Self::length(&image.1, 2);
                let width = 1 + self.e.below(2);
                let lists = (vec![1, 1], vec![0, 0, 0, self.e.below(2) as i64]);
                if self.e.flag() {
                    let w = self.weights(&[2, channels, 1, width], true)?;
                    let op =
                        Op::Conv { strides: lists.0.clone(), pads: lists.1, dilations: lists.0, groups: 1 };
                    self.put(op, &[image, w])?;
                } else {
                    let f = self.e.of(PoolFn::ALL)?;
                    let op = Op::Pool {
                        f,
                        kernel: vec![1, width as i64],
                        strides: lists.0.clone(),
                        pads: lists.1,
                        dilations: lists.0,
                        ceil: false,
                        auto: pfmc_ir::op::AutoPad::Given,
                    };
                    self.put(op, &[image])?;
                }
            }
            29 => {
                let axis = self.axis(&x.1);
                let [keepdims, largest, last] = [0; 3].map(|_| self.e.flag());
                self.put(Op::ArgReduce { axis, keepdims, largest, last }, &[x])?;
            }
            30 => {
                let diagonal = self.e.below(3) as i64 - 1;
                let k = self.constant(&Tensor::scalar(diagonal), false);
                let upper = self.e.flag();
                self.put(Op::Trilu { upper }, &[x, k])?;
            }
            _ => {
                let axis = self.e.below(rank) as i64;
                let axis = self.constant(&Tensor::scalar(axis), false);
                let [exclusive, reverse] = [0; 2].map(|_| self.e.flag());
                self.put(Op::CumSum { exclusive, reverse }, &[x, axis])?;
            }
        }
        Some(())
    }
}

/// Whether small differences of operands make small differences of results, but where a number is near a pole.
fn smooth(op: &Op) -> bool {
    use BinaryFn as B;
    use UnaryFn as U;
    match op {
        Op::Unary(f) => !matches!(
            f,
            U::Not
                | U::Floor
                | U::Ceil
                | U::Round
                | U::Sign
                | U::BitNot
                | U::Acos
                | U::Acosh
                | U::Asin
                | U::Atanh
                | U::Tan
                | U::Log
        ),
        Op::Binary(f) => matches!(f, B::Add | B::Sub | B::Mul | B::Max | B::Min),
        Op::Cast { to } => matches!(to, Elem::F32 | Elem::F64),
        Op::Quantize { .. } | Op::ArgReduce { .. } => false,
        _ => true,
    }
}

/// A graph, whether it is smooth, and inputs for it.
fn build(data: &[u8]) -> Option<(Graph<OpenType>, bool, Tensors)> {
    let mut e = Entropy::new(data);
    let seed = u64::from(e.byte());
    let mut b = Builder { e: &mut e, graph: Graph::new(), values: Vec::new(), constants: 0, smooth: true };
    let n = Some(Dim::symbol("n"));
    let known = |v: i64| Some(Dim::known(v));
    let width = 2 + 2 * b.e.below(3) as i64;
    for (name, elem, shape) in [
        ("ids", Elem::I64, vec![n.clone()]),
        ("x", Elem::F32, vec![known(2), n.clone(), known(width)]),
        ("y", Elem::F32, vec![n, known(width)]),
    ] {
        let ty = OpenType { elem, shape: Some(shape) };
        let id = b.graph.add_input(name, ty.clone());
        b.values.push((id, Fact::of(ty)));
    }
    for _ in 0..STEPS_MAX {
        if b.e.is_empty() {
            break;
        }
        b.step();
    }
    let (mut graph, smooth) = (b.graph, b.smooth);
    let ids: Vec<ValueId> = b.values.iter().skip(3).map(|(v, _)| *v).collect();
    // What nothing reads is a result, and the latest value always.
    let unread =
        ids.iter().filter(|v| !graph.is_read(**v) || ids.last() == Some(v)).copied().collect::<Vec<_>>();
    if unread.is_empty() {
        return None;
    }
    for (i, v) in unread.into_iter().enumerate() {
        graph.add_output(&format!("out{i}"), v);
    }
    let annotated = infer::annotate(&mut graph);
    assert!(annotated.is_ok(), "inference of the whole refuses what it admitted step by step: {annotated:?}");
    let inputs = inputs(&graph, seed, 0.0)?;
    Some((graph, smooth, inputs))
}

/// Values for the inputs, moved by about `off` of themselves.
fn inputs(graph: &Graph<OpenType>, seed: u64, off: f32) -> Option<Tensors> {
    let bindings = BTreeMap::from([("n".to_owned(), OPEN)]);
    let mut r = Random(seed);
    let mut all = Tensors::new();
    for v in graph.inputs() {
        let value = graph.value(*v)?;
        let dims = value.ty.shape.as_ref()?.iter().map(|d| d.as_ref()?.bind(&bindings)?.value());
        let shape: Vec<usize> = dims.map(|d| usize::try_from(d?).ok()).collect::<Option<_>>()?;
        let n = shape.iter().product::<usize>();
        let tensor = match value.ty.elem {
            Elem::I64 => Tensor::new(shape, (0..n).map(|_| r.below(4) as i64 - 1).collect::<Vec<i64>>()),
            _ => Tensor::new(
                shape,
                (0..n)
                    .map(|i| r.normal() * (1.0 + if i % 2 == 0 { off } else { -off }))
                    .collect::<Vec<f32>>(),
            ),
        };
        all.insert(value.name.clone(), tensor.ok()?);
    }
    Some(all)
}

/// Whether results are the same bit for bit, NaN of any bits being the same.
fn same(a: &Tensors, b: &Tensors) -> Result<(), String> {
    if !a.keys().eq(b.keys()) {
        return Err("other outputs".to_owned());
    }
    for (name, t) in a {
        let u = b.get(name).ok_or("an output is missing")?;
        if (t.elem(), t.shape()) != (u.elem(), u.shape()) {
            return Err(format!("{name} is {} {:?} and {} {:?}", t.elem(), t.shape(), u.elem(), u.shape()));
        }
        let floats = |t: &Tensor| -> Option<Vec<f64>> {
            let wide = pfmc_ir::eval::eval(&Op::Cast { to: Elem::F64 }, std::slice::from_ref(t)).ok()?;
            Some(wide.first()?.as_slice::<f64>().ok()?.to_vec())
        };
        let size = t.to_le_bytes().len().checked_div(t.len()).unwrap_or(1).max(1);
        let (x, y) = (t.to_le_bytes(), u.to_le_bytes());
        let differ = x.chunks(size).zip(y.chunks(size)).position(|(p, q)| p != q);
        let Some(first) = differ else { continue };
        let (fx, fy) = (floats(t), floats(u));
        let nan =
            |v: &Option<Vec<f64>>, i: usize| v.as_ref().is_some_and(|v| v.get(i).is_some_and(|v| v.is_nan()));
        let wrong = (first..t.len()).find(|&i| {
            x.chunks(size).nth(i) != y.chunks(size).nth(i)
                && !(t.elem().is_float() && nan(&fx, i) && nan(&fy, i))
        });
        if let Some(i) = wrong {
            let at = |v: &Option<Vec<f64>>| v.as_ref().and_then(|v| v.get(i).copied()).unwrap_or(f64::NAN);
            return Err(format!("{name}[{i}] is {:e} and {:e}", at(&fx), at(&fy)));
        }
    }
    Ok(())
}

/// The largest difference of f32 outputs in terms of the largest element; infinite where one is not finite.
fn distance(a: &Tensors, b: &Tensors) -> Option<f64> {
    let mut worst = 0f64;
    for (name, t) in a {
        let u = b.get(name)?;
        if (t.elem(), t.shape()) != (u.elem(), u.shape()) {
            return None;
        }
        let (Ok(x), Ok(y)) = (t.as_slice::<f32>(), u.as_slice::<f32>()) else {
            if t == u {
                continue;
            }
            return None;
        };
        let largest = x.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
        for (p, q) in x.iter().zip(y) {
            if p == q || p.is_nan() && q.is_nan() {
                continue;
            }
            let d = f64::from((p - q).abs() / largest);
            worst = if d.is_nan() { f64::INFINITY } else { worst.max(d) };
        }
    }
    Some(worst)
}

#[expect(clippy::panic, reason = "a property that does not hold ends the run")]
fn fail(what: &str) -> ! {
    panic!("{what}")
}

fn exact(what: &str, want: &Tensors, got: Result<Tensors, Diagnostics>) {
    let found = got.map_err(|e| e.to_string()).and_then(|got| same(want, &got));
    assert!(found.is_ok(), "after {what}: {found:?}");
}

/// Builds, runs, and puts the graph through the passes.
pub fn graph() -> Check {
    Box::new(|data| {
        let Some((graph, smooth, given)) = build(data) else { return String::new() };
        let verified = graph.verify();
        assert!(verified.is_ok(), "a graph that inference admits does not verify: {verified:?}");
        let text = print_program(&TileProgram { graph: graph.clone(), ..TileProgram::default() });
        let read = parse_program(&text);
        assert!(read.is_ok(), "what was printed is not read: {read:?}\n{text}");
        let want = run(&graph, &given, &NoMatrices);
        if let (Ok(read), Ok(want)) = (&read, &want) {
            exact("printing and reading", want, run(&read.graph, &given, &NoMatrices));
        }
        let mut folded = graph.clone();
        let record = apply(&Fold, &mut folded);
        let bound = bind::bind(graph.clone(), &BTreeMap::from([("n".to_owned(), OPEN)]));
        let Ok(want) = want else {
            // What fails when it runs may be refused earlier.
            return format!("not run {} {}", record.is_ok(), bound.is_ok());
        };
        assert!(record.is_ok(), "fold refuses a graph that runs: {record:?}\n{text}");
        exact("fold", &want, run(&folded, &given, &NoMatrices));
        assert!(bound.is_ok(), "bind refuses a graph that runs: {:?}\n{text}", bound.err());
        if let Ok((bound, _)) = bound {
            exact("bind", &want, run(&bound.into_open(), &given, &NoMatrices));
        }
        let mut stats = String::new();
        let mut canonical = folded.clone();
        match apply(&Canonicalise, &mut canonical) {
            Ok(r) => stats.push_str(&format!(
                "{:?}",
                r.stats.iter().filter(|s| *s.1 > 0).map(|s| s.0).collect::<Vec<_>>()
            )),
            Err(e) => fail(&format!("canonicalise refuses a graph that runs: {e}\n{text}")),
        }
        // How much the graph makes of differences of a millionth.
        let moved = inputs(&graph, u64::from(data.first().copied().unwrap_or(0)), 1e-6)
            .and_then(|i| run(&graph, &i, &NoMatrices).ok());
        let spread = moved.and_then(|m| distance(&want, &m)).unwrap_or(f64::INFINITY);
        let near = |what: &str, got: Result<Tensors, Diagnostics>| {
            let got = got.unwrap_or_else(|e| fail(&format!("after {what} it does not run: {e}\n{text}")));
            let same_kind = want
                .iter()
                .all(|(n, t)| got.get(n).is_some_and(|g| (g.shape(), g.elem()) == (t.shape(), t.elem())));
            assert!(same_kind, "after {what}: outputs of other types\n{text}");
            if smooth && spread < 1e-3 {
                let found = distance(&want, &got).unwrap_or(f64::INFINITY);
                assert!(
                    found <= 1e-4 + 100.0 * spread,
                    "after {what}: {found:.1e}, moved inputs {spread:.1e}\n{text}"
                );
            }
        };
        near("canonicalise", run(&canonical, &given, &NoMatrices));
        let mut fixed = canonical;
        match fix(&mut fixed, &[]) {
            Err(e) => fail(&format!("fix refuses a graph that runs: {e}\n{text}")),
            Ok((found, _)) => {
                let plan = WeightPlan::uniform(&found, Scheme::Real);
                let cut = partition(fixed, &found, &plan, &|_| Some(LIMIT), Some(16));
                assert!(cut.is_ok(), "partition refuses: {:?}\n{text}", cut.err());
                if let Ok((program, source)) = cut {
                    let loaded = LoadedMatrices::load(&program, &source, &source);
                    assert!(loaded.is_ok(), "tiles cannot be loaded: {:?}", loaded.err());
                    if let Ok(loaded) = loaded {
                        near("fix and partition", run(&program.graph, &given, &loaded as &dyn FixedMatrices));
                    }
                    let text = print_program(&program);
                    let again = parse_program(&text).map(|p| print_program(&p));
                    assert_eq!(again.unwrap_or_default(), text, "the program reads back to another");
                }
                stats.push_str(&format!(" {} fixed", found.len().min(3)));
            }
        }
        format!("accepted {smooth} {} {stats}", outcome(&Diagnostics::new()))
    })
}

/// Decisions of some lengths.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut r = Random(7);
    let mut made: Vec<Vec<u8>> = (0..64).map(|i| (0..16 + i * 3).map(|_| r.next() as u8).collect()).collect();
    made.retain(|d| build(d).is_some_and(|(g, _, given)| run(&g, &given, &NoMatrices).is_ok()));
    made
}
