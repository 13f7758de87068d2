//! The executor: runs a graph on concrete inputs with exact semantics. Source graphs, folded
//! graphs and the programs in artefacts all run here.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use crate::codes::{E0801, E0802};
use crate::consts::ConstSource;
use crate::diag::{Diagnostic, Diagnostics};
use crate::elem::Elem;
use crate::eval;
use crate::eval::matmul::Operand;
use crate::graph::{Graph, Node, NodeId, ValueId};
use crate::op::{ConstId, Op, RegionId};
use crate::shape::{Dim, Knowledge, OpenDim, OpenType};
use crate::tensor::{Element, Tensor};
use crate::tile::MatrixId;

/// What the executor needs of the fixed part of a program.
pub trait FixedMatrices: Sync {
    /// x `[rows][k]` times the matrix: `[rows][n]`.
    ///
    /// # Errors
    /// When the matrix does not exist or x does not fit.
    fn linear(&self, matrix: MatrixId, x: &[f32]) -> Result<Vec<f32>, Diagnostics>;
    /// x `[rows][groups][k]` times the columns of each group: `[rows][n]`, column j belonging to group
    /// `j / (n / groups)`.
    ///
    /// # Errors
    /// When the matrix does not exist, x does not fit, or the groups do not divide the columns.
    fn grouped(&self, matrix: MatrixId, groups: usize, x: &[f32]) -> Result<Vec<f32>, Diagnostics>;
    /// Columns of the matrix by index (negative from the end): `[indices][k]`.
    ///
    /// # Errors
    /// When the matrix does not exist or an index is out of range.
    fn lookup(&self, matrix: MatrixId, indices: &[i64]) -> Result<Vec<f32>, Diagnostics>;
    /// Data bytes.
    ///
    /// # Errors
    /// When the range is outside the data.
    fn data(&self, offset: u64, len: u64) -> Result<Vec<u8>, Diagnostics>;
}

/// The one element of a tensor.
fn only<T: Element>(t: &Tensor) -> Result<T, Diagnostics> {
    match t.as_slice::<T>().map_err(fixed_error)? {
        [one] => Ok(*one),
        _ => Err(fixed_error(format!("shape {:?} where one element is needed", t.shape()))),
    }
}

/// For graphs that have no fixed part yet.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoMatrices;

pub(crate) fn fixed_error(message: impl Into<String>) -> Diagnostics {
    Diagnostic::error(&E0801, message).into()
}

impl FixedMatrices for NoMatrices {
    fn linear(&self, matrix: MatrixId, _x: &[f32]) -> Result<Vec<f32>, Diagnostics> {
        Err(fixed_error(format!("no matrix {matrix} here")))
    }
    fn grouped(&self, matrix: MatrixId, _groups: usize, _x: &[f32]) -> Result<Vec<f32>, Diagnostics> {
        Err(fixed_error(format!("no matrix {matrix} here")))
    }
    fn lookup(&self, matrix: MatrixId, _indices: &[i64]) -> Result<Vec<f32>, Diagnostics> {
        Err(fixed_error(format!("no matrix {matrix} here")))
    }
    fn data(&self, offset: u64, _len: u64) -> Result<Vec<u8>, Diagnostics> {
        Err(fixed_error(format!("no data at byte {offset} here")))
    }
}

/// A run in progress: the values that are still needed.
#[derive(Clone)]
pub struct Frame {
    values: Vec<Option<Tensor>>,
    step: usize,
}

impl Frame {
    /// A value that has been computed and is still to be read.
    pub fn value(&self, v: ValueId) -> Option<&Tensor> {
        self.values.get(v.index())?.as_ref()
    }

    /// Sets a value that has been computed, or a constant, for the rest of this run.
    pub fn set(&mut self, v: ValueId, to: Tensor) {
        if let Some(value) = self.values.get_mut(v.index()) {
            *value = Some(to);
        }
    }
}

/// A graph ready to run many times; constants are decoded once.
pub struct Executor<'a, T: Knowledge> {
    graph: &'a Graph<T>,
    fixed: &'a dyn FixedMatrices,
    order: Vec<NodeId>,
    consts: Vec<OnceLock<Tensor>>,
    /// For each value, the last step that reads it, or the one that makes it.
    last_use: Vec<usize>,
    regions: Vec<Executor<'a, OpenType>>,
    /// For each value that is a transpose which only products read: its permutation. Such a value is
    /// kept as what it permutes, and the products read that.
    permuted: Vec<Option<&'a [i64]>>,
}

impl<'a, T: Knowledge> Executor<'a, T> {
    /// Prepares a verified graph.
    ///
    /// # Errors
    /// When the graph has a cycle.
    pub fn new(graph: &'a Graph<T>, fixed: &'a dyn FixedMatrices) -> Result<Self, Diagnostics> {
        let order = graph.order().ok_or_else(|| fixed_error("the graph has a cycle"))?;
        let mut last_use = vec![0; graph.value_limit()];
        for (step, id) in order.iter().enumerate() {
            // Until something reads them.
            for v in graph.node(*id).map(|n| n.outputs.as_slice()).unwrap_or_default() {
                last_use[v.index()] = step;
            }
            for v in graph.node(*id).map(|n| n.inputs.as_slice()).unwrap_or_default() {
                last_use[v.index()] = step;
            }
        }
        for (_, v) in graph.outputs() {
            last_use[v.index()] = usize::MAX;
        }
        let consts = graph.consts.iter().map(|_| OnceLock::new()).collect();
        let permuted = Self::permuted(graph, &order);
        let regions = graph.regions().iter().map(|r| Executor::new(r, fixed)).collect::<Result<_, _>>()?;
        Ok(Executor { graph, fixed, order, consts, last_use, permuted, regions })
    }

    /// The transposes that need not be stored: of f32, read by products alone, as a left operand only
    /// where its rows stay in one piece.
    fn permuted(graph: &'a Graph<T>, order: &[NodeId]) -> Vec<Option<&'a [i64]>> {
        let mut found: Vec<Option<&'a [i64]>> = vec![None; graph.value_limit()];
        for node in order.iter().filter_map(|id| graph.node(*id)) {
            if let (Op::Transpose { perm }, [to]) = (&node.op, &node.outputs[..])
                && graph.value(*to).is_some_and(|v| v.ty.open().elem == Elem::F32)
                && perm.len() > 1
            {
                found[to.index()] = Some(perm);
            }
            for (i, v) in node.inputs.iter().enumerate() {
                if let Some(perm) = found[v.index()] {
                    let in_rows = perm.last().is_some_and(|&p| p == perm.len() as i64 - 1);
                    if !matches!(node.op, Op::MatMul {}) || i == 0 && !in_rows {
                        found[v.index()] = None;
                    }
                }
            }
        }
        for (_, v) in graph.outputs() {
            found[v.index()] = None;
        }
        found
    }

    fn constant(&self, id: ConstId) -> Result<Tensor, Diagnostics> {
        let slot = self.consts.get(id.index()).ok_or_else(|| fixed_error(format!("no constant {id}")))?;
        if let Some(t) = slot.get() {
            return Ok(t.clone());
        }
        let c = self.graph.consts.get(id).ok_or_else(|| fixed_error(format!("no constant {id}")))?;
        let tensor = match c.source {
            ConstSource::Data(offset) => {
                let bytes = self.fixed.data(offset, c.elem.stored(c.len()).unwrap_or(0) as u64)?;
                Tensor::from_shared_bytes(c.elem, c.shape.clone(), &bytes.into()).map_err(fixed_error)?
            }
            _ => c.tensor()?,
        };
        Ok(slot.get_or_init(|| tensor).clone())
    }

    /// Runs the graph; outputs by name.
    ///
    /// # Errors
    /// Inputs that do not fit the model (all at once), and operations that refuse theirs.
    pub fn run(&self, inputs: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>, Diagnostics> {
        Self::check_inputs(self.graph, inputs)?;
        let named = |v: &ValueId| self.graph.value(*v).and_then(|v| inputs.get(&v.name)).cloned();
        let args = self.graph.inputs().iter().map(named).collect::<Option<Vec<_>>>();
        let args = args.ok_or_else(|| fixed_error("missing input"))?;
        // On a thread of the pool, dividing work needs no hand-over.
        let results = rayon::scope(|_| self.apply(args))?;
        Ok(self.graph.outputs().iter().map(|(name, _)| name.clone()).zip(results).collect())
    }

    /// Begins a run that goes on in parts.
    ///
    /// # Errors
    /// As [`Executor::run`] for inputs.
    pub fn begin(&self, inputs: &BTreeMap<String, Tensor>) -> Result<Frame, Diagnostics> {
        Self::check_inputs(self.graph, inputs)?;
        let mut values = vec![None; self.graph.value_limit()];
        for v in self.graph.inputs() {
            values[v.index()] = self.graph.value(*v).and_then(|v| inputs.get(&v.name)).cloned();
        }
        Ok(Frame { values, step: 0 })
    }

    /// The nodes in the order in which they run; a step is an index of it.
    pub fn steps(&self) -> &[NodeId] {
        &self.order
    }

    /// Runs all steps before step `to` that have not run.
    ///
    /// # Errors
    /// Operations that refuse their inputs.
    pub fn advance(&self, frame: &mut Frame, to: usize) -> Result<(), Diagnostics> {
        rayon::scope(|_| {
            while frame.step < to.min(self.order.len()) {
                self.step(frame.step, &mut frame.values)?;
                frame.step += 1;
            }
            Ok(())
        })
    }

    /// Runs the rest; outputs by name.
    ///
    /// # Errors
    /// As [`Executor::advance`].
    pub fn finish(&self, mut frame: Frame) -> Result<BTreeMap<String, Tensor>, Diagnostics> {
        self.advance(&mut frame, usize::MAX)?;
        Ok(self.graph.outputs().iter().map(|o| o.0.clone()).zip(self.results(&frame.values)?).collect())
    }

    /// The outputs for inputs in order, whose types are those declared.
    fn apply(&self, args: Vec<Tensor>) -> Result<Vec<Tensor>, Diagnostics> {
        if args.len() != self.graph.inputs().len() {
            return Err(fixed_error(format!(
                "{} values for {} inputs",
                args.len(),
                self.graph.inputs().len()
            )));
        }
        let mut env: Vec<Option<Tensor>> = vec![None; self.graph.value_limit()];
        for (v, t) in self.graph.inputs().iter().zip(args) {
            env[v.index()] = Some(t);
        }
        for step in 0..self.order.len() {
            self.step(step, &mut env)?;
        }
        self.results(&env)
    }

    /// Runs one node.
    fn step(&self, step: usize, env: &mut [Option<Tensor>]) -> Result<(), Diagnostics> {
        let Some(node) = self.order.get(step).and_then(|id| self.graph.node(*id)) else { return Ok(()) };
        let result = match &node.op {
            Op::Input {} => return Ok(()),
            // A value that was set stays.
            Op::Constant { .. } if node.outputs.iter().all(|v| env[v.index()].is_some()) => return Ok(()),
            Op::Constant { id } => vec![self.constant(*id)?],
            op => {
                // An operand that nothing reads afterwards is handed over, so that its memory can
                // hold the result.
                let mut args = Vec::with_capacity(node.inputs.len());
                for (i, v) in node.inputs.iter().enumerate() {
                    let last = self.last_use[v.index()] == step && !node.inputs[i + 1..].contains(v);
                    let value = if last { env[v.index()].take() } else { env[v.index()].clone() };
                    args.push(value.ok_or_else(|| fixed_error(format!("%{v} has no value")))?);
                }
                let result = match (op, node.outputs.first()) {
                    (Op::MatMul {}, _) => self.product(&node.inputs, &args),
                    (Op::Transpose { .. }, Some(to)) if self.permuted[to.index()].is_some() => Ok(args),
                    _ => self.node(node, args),
                };
                result.map_err(|mut d| {
                    for d in &mut d.0 {
                        d.origin.merge(&node.origin);
                    }
                    d
                })?
            }
        };
        for (v, t) in node.outputs.iter().zip(result) {
            env[v.index()] = Some(t);
        }
        for v in node.inputs.iter().chain(&node.outputs) {
            if self.last_use[v.index()] == step {
                env[v.index()] = None;
            }
        }
        Ok(())
    }

    fn results(&self, env: &[Option<Tensor>]) -> Result<Vec<Tensor>, Diagnostics> {
        let take = |(name, v): &(String, ValueId)| {
            env[v.index()].clone().ok_or_else(|| fixed_error(format!("output {name:?} has no value")))
        };
        self.graph.outputs().iter().map(take).collect()
    }

    fn region(&self, id: RegionId) -> Result<&Executor<'a, OpenType>, Diagnostics> {
        self.regions.get(id.index()).ok_or_else(|| fixed_error(format!("no region {id} here")))
    }

    /// Runs a loop; see [`Op::Loop`].
    fn repeat(
        &self,
        node: &Node,
        body: RegionId,
        carried: i64,
        args: Vec<Tensor>,
    ) -> Result<Vec<Tensor>, Diagnostics> {
        let body = self.region(body)?;
        let carried = usize::try_from(carried)
            .ok()
            .filter(|c| args.len().checked_sub(2).is_some_and(|n| *c <= n))
            .ok_or_else(|| fixed_error("a loop carries more values than it has"))?;
        let mut args = args.into_iter();
        let (trips, mut go) = match (args.next(), args.next()) {
            (Some(trips), Some(go)) => (only::<i64>(&trips)?, only::<bool>(&go)?),
            _ => return Err(fixed_error("a loop has no trip count")),
        };
        let mut state: Vec<Tensor> = args.by_ref().take(carried).collect();
        let captured: Vec<Tensor> = args.collect();
        let mut scans: Vec<Vec<Tensor>> = vec![Vec::new(); node.outputs.len().saturating_sub(carried)];
        let mut iteration = 0i64;
        while go && iteration < trips {
            let mut given = vec![Tensor::scalar(iteration), Tensor::scalar(go)];
            given.append(&mut state);
            given.extend(captured.iter().cloned());
            let mut results = body.apply(given)?.into_iter();
            go = results.next().map_or(Ok(false), |t| only::<bool>(&t))?;
            state = results.by_ref().take(carried).collect();
            for (scan, t) in scans.iter_mut().zip(results) {
                scan.push(eval::eval(&Op::Unsqueeze { axes: vec![0] }, &[t]).map_err(fixed_error)?.remove(0));
            }
            iteration += 1;
        }
        for (v, elements) in node.outputs.iter().skip(carried).zip(scans) {
            let ty = self.graph.value(*v).map(|v| v.ty.open());
            state.push(match (elements.is_empty(), ty) {
                (true, Some(ty)) => {
                    // No iteration says how long an element is: what is not known is 0.
                    let length =
                        |d: &OpenDim| d.as_ref().and_then(Dim::value).and_then(|n| usize::try_from(n).ok());
                    let inner = ty.shape.iter().flatten().skip(1).map(|d| length(d).unwrap_or(0));
                    let shape = std::iter::once(0).chain(inner).collect();
                    Tensor::from_le_bytes(ty.elem, shape, &[]).map_err(fixed_error)?
                }
                _ => eval::eval(&Op::Concat { axis: 0 }, &elements).map_err(fixed_error)?.remove(0),
            });
        }
        Ok(state)
    }

    /// A product of values that may be kept without their permutation.
    fn product(&self, values: &[ValueId], args: &[Tensor]) -> Result<Vec<Tensor>, Diagnostics> {
        let ([a, b], [x, y]) = (values, args) else {
            return Err(fixed_error(format!("a product of {} operands", values.len())));
        };
        let operand = |v: &ValueId, tensor| Operand { tensor, perm: self.permuted[v.index()] };
        if self.permuted[a.index()].is_none() && self.permuted[b.index()].is_none() {
            let y = eval::eval(&Op::MatMul {}, args);
            return y.map_err(|e| fixed_error(format!("matmul: {e}")));
        }
        let y = eval::matmul::matmul_of(operand(a, x), operand(b, y));
        y.map(|y| vec![y]).map_err(|e| fixed_error(format!("matmul: {e}")))
    }

    fn node(&self, node: &Node, args: Vec<Tensor>) -> Result<Vec<Tensor>, Diagnostics> {
        match &node.op {
            Op::If { then_region, else_region, .. } => {
                let mut args = args.into_iter();
                let condition = args.next().ok_or_else(|| fixed_error("an if has no condition"))?;
                let taken = if only::<bool>(&condition)? { then_region } else { else_region };
                self.region(*taken)?.apply(args.collect())
            }
            Op::Loop { body, carried, .. } => self.repeat(node, *body, *carried, args),
            Op::FixedLinear { matrix, k, n } => {
                let x = args[0].as_slice::<f32>().map_err(fixed_error)?;
                let mut shape = args[0].shape().to_vec();
                match shape.last_mut() {
                    Some(last) if *last as i64 == *k => *last = *n as usize,
                    _ => {
                        return Err(fixed_error(format!("x of shape {:?} times {k} x {n}", args[0].shape())));
                    }
                }
                let y = self.fixed.linear(*matrix, x)?;
                Ok(vec![Tensor::new(shape, y).map_err(fixed_error)?])
            }
            Op::FixedGrouped { matrix, k, n, groups } => {
                let x = args[0].as_slice::<f32>().map_err(fixed_error)?;
                let shape = match args[0].shape() {
                    [lead @ .., g, last] if *g as i64 == *groups && *last as i64 == *k => {
                        [lead, &[*n as usize]].concat()
                    }
                    other => {
                        return Err(fixed_error(format!(
                            "x of shape {other:?} times {groups} groups of {k} x {n}"
                        )));
                    }
                };
                let y = self.fixed.grouped(*matrix, *groups as usize, x)?;
                Ok(vec![Tensor::new(shape, y).map_err(fixed_error)?])
            }
            Op::FixedLookup { matrix, k, .. } => {
                let indices = eval::eval(&Op::Cast { to: Elem::I64 }, &args[..1]).map_err(fixed_error)?;
                let indices = indices[0].as_slice::<i64>().map_err(fixed_error)?;
                let mut shape = args[0].shape().to_vec();
                shape.push(*k as usize);
                let y = self.fixed.lookup(*matrix, indices)?;
                Ok(vec![Tensor::new(shape, y).map_err(fixed_error)?])
            }
            op => eval::eval_owned(op, args).map_err(|e| fixed_error(format!("{}: {e}", op.name()))),
        }
    }

    /// Whether inputs are those that a graph declares: names, element types and shapes, each open dimension
    /// with one length.
    ///
    /// # Errors
    /// Everything that does not fit, at once.
    pub fn check_inputs(graph: &Graph<T>, inputs: &BTreeMap<String, Tensor>) -> Result<(), Diagnostics> {
        let mut bad = Diagnostics::new();
        let mut symbols: BTreeMap<String, (i64, String)> = BTreeMap::new();
        let mut known = Vec::new();
        for v in graph.inputs().iter().filter_map(|v| graph.value(*v)) {
            known.push(v.name.clone());
            let declared = v.ty.open();
            let Some(t) = inputs.get(&v.name) else {
                bad.push(Diagnostic::error(&E0802, format!("input {:?} ({declared}) is missing", v.name)));
                continue;
            };
            let mut fits = t.elem() == declared.elem;
            if let Some(dims) = &declared.shape {
                fits &= dims.len() == t.rank();
                for (dim, &actual) in dims.iter().zip(t.shape()) {
                    let Some(dim) = dim else { continue };
                    match dim.value() {
                        Some(n) => fits &= n == actual as i64,
                        None => {
                            let key = dim.to_string();
                            let (first, whose) =
                                symbols.entry(key.clone()).or_insert_with(|| (actual as i64, v.name.clone()));
                            if *first != actual as i64 {
                                bad.push(Diagnostic::error(
                                    &E0802,
                                    format!(
                                        "{key} is {first} in input {whose:?} but {actual} in input {:?}",
                                        v.name
                                    ),
                                ));
                            }
                        }
                    }
                }
            }
            if !fits {
                bad.push(Diagnostic::error(
                    &E0802,
                    format!(
                        "input {:?} is {}{:?}, the model declares {declared}",
                        v.name,
                        t.elem(),
                        t.shape()
                    ),
                ));
            }
        }
        for name in inputs.keys().filter(|n| !known.contains(n)) {
            bad.push(
                Diagnostic::error(&E0802, format!("the model has no input {name:?}"))
                    .help(format!("its inputs are {}", known.join(", "))),
            );
        }
        bad.check()
    }
}

/// Runs a graph once; see [`Executor::run`].
///
/// # Errors
/// As [`Executor::run`].
pub fn run<T: Knowledge>(
    graph: &Graph<T>,
    inputs: &BTreeMap<String, Tensor>,
    fixed: &dyn FixedMatrices,
) -> Result<BTreeMap<String, Tensor>, Diagnostics> {
    Executor::new(graph, fixed)?.run(inputs)
}
