//! The executor: runs a graph on concrete inputs with exact semantics. Source graphs, folded
//! graphs and the programs in artefacts all run here.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use rayon::prelude::*;

use crate::codes::{E0801, E0802};
use crate::consts::ConstSource;
use crate::diag::{Diagnostic, Diagnostics};
use crate::elem::Elem;
use crate::eval;
use crate::eval::matmul::Operand;
use crate::graph::{Graph, Node, NodeId, ValueId};
use crate::grouped;
use crate::numerics;
use crate::op::{ConstId, Op, RegionId};
use crate::program::TileProgram;
use crate::shape::{Dim, Knowledge, OpenDim, OpenType};
use crate::tensor::{Element, Tensor};
use crate::tile::{Activations, FixedMatrix, MatrixId, TileContent, TileId, TileKind, TileSource};

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

fn fixed_error(message: impl Into<String>) -> Diagnostics {
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

struct LoadedMatrix {
    k: usize,
    n: usize,
    activations: Activations,
    /// In ascending order of n, then k.
    tiles: Vec<LoadedTile>,
}

pub(crate) struct LoadedTile {
    pub(crate) k: std::ops::Range<usize>,
    pub(crate) n: std::ops::Range<usize>,
    pub(crate) content: TileContent,
}

/// The fixed part of a program, loaded from a [`TileSource`] and executed as [`numerics`] says.
pub struct LoadedMatrices {
    matrices: Vec<LoadedMatrix>,
    data: Vec<u8>,
}

impl LoadedMatrices {
    /// Loads every tile: matrix tiles from `tiles`, data tiles from `data` (an artefact that does
    /// not hold data leaves it to the reference file).
    ///
    /// # Errors
    /// What the sources report, and contents that are not what the program declares.
    pub fn load(
        program: &TileProgram,
        tiles: &dyn TileSource,
        data: &dyn TileSource,
    ) -> Result<Self, Diagnostics> {
        let contents: Vec<Result<TileContent, Diagnostics>> = (0..program.tiles.len())
            .into_par_iter()
            .map(|i| {
                let id = TileId(i as u32);
                let source = match program.tiles[i].kind {
                    TileKind::Matrix { .. } => tiles,
                    TileKind::Data { .. } => data,
                };
                source.tile(id)
            })
            .collect();
        let empty = |m: &FixedMatrix| LoadedMatrix {
            k: m.k as usize,
            n: m.n as usize,
            activations: m.activations,
            tiles: Vec::new(),
        };
        let mut matrices: Vec<_> = program.matrices.iter().map(empty).collect();
        let mut pieces = BTreeMap::new();
        for (tile, content) in program.tiles.iter().zip(contents) {
            match (&tile.kind, content?) {
                (TileKind::Matrix { matrix, k, n, .. }, content) => {
                    let (k, n) = (k.start as usize..k.end as usize, n.start as usize..n.end as usize);
                    let fits = match &content {
                        TileContent::Codes(b) => (b.k, b.n) == (k.len(), n.len()),
                        TileContent::Real(b) => (b.k, b.n) == (k.len(), n.len()),
                        TileContent::Data(_) => false,
                    };
                    if !fits {
                        return Err(fixed_error(format!(
                            "tile {} is not what the program declares",
                            tile.name
                        )));
                    }
                    matrices[matrix.index()].tiles.push(LoadedTile { k, n, content });
                }
                (TileKind::Data { offset, len }, TileContent::Data(b)) if b.len() as u64 == *len => {
                    pieces.insert(*offset, b);
                }
                _ => return Err(fixed_error(format!("tile {} is not what the program declares", tile.name))),
            }
        }
        for matrix in &mut matrices {
            matrix.tiles.sort_by_key(|t| (t.n.start, t.k.start));
        }
        let data = pieces.into_values().flatten().collect();
        Ok(LoadedMatrices { matrices, data })
    }

    fn matrix(&self, id: MatrixId) -> Result<&LoadedMatrix, Diagnostics> {
        self.matrices.get(id.index()).ok_or_else(|| fixed_error(format!("no matrix {id} here")))
    }
}

impl FixedMatrices for LoadedMatrices {
    fn linear(&self, matrix: MatrixId, x: &[f32]) -> Result<Vec<f32>, Diagnostics> {
        let LoadedMatrix { k, n, activations, ref tiles } = *self.matrix(matrix)?;
        if k == 0 || !x.len().is_multiple_of(k) {
            return Err(fixed_error(format!("{} inputs do not fit a matrix of {k} rows", x.len())));
        }
        let rows = x.len() / k;
        // Sums over the tiles along k, in f64 and in ascending order of k.
        let mut sums = eval::zeros::<f64>(&[rows, n]).map_err(fixed_error)?;
        let mut q = vec![0i8; x.len()];
        let codes = tiles.iter().any(|t| matches!(t.content, TileContent::Codes(_)));
        let scales: Vec<f32> = if codes {
            let rows = q.par_chunks_mut(k).zip(x.par_chunks(k));
            rows.map(|(q, x)| numerics::quantize_activations(activations, x, q)).collect()
        } else {
            Vec::new()
        };
        let part = |tile: &LoadedTile, r: usize| r * k + tile.k.start..r * k + tile.k.end;
        for tile in tiles {
            let width = tile.n.len();
            match &tile.content {
                TileContent::Codes(block) => {
                    let xs: Vec<i8> = (0..rows).flat_map(|r| q[part(tile, r)].iter().copied()).collect();
                    let mut acc = vec![0i32; rows * width];
                    numerics::accumulate(block, &xs, rows, &mut acc);
                    for (r, acc) in acc.chunks_exact(width).enumerate() {
                        let out = &mut sums[r * n + tile.n.start..r * n + tile.n.end];
                        for (s, a) in out.iter_mut().zip(acc) {
                            *s += f64::from(*a) * f64::from(block.unit);
                        }
                    }
                }
                TileContent::Real(block) => {
                    let xs: Vec<f32> = (0..rows).flat_map(|r| x[part(tile, r)].iter().copied()).collect();
                    let y = eval::matmul::product_f32(&xs, &block.values, rows, block.k, block.n);
                    for (r, y) in y.chunks_exact(width).enumerate() {
                        let out = &mut sums[r * n + tile.n.start..r * n + tile.n.end];
                        for (s, v) in out.iter_mut().zip(y) {
                            *s += f64::from(*v);
                        }
                    }
                }
                TileContent::Data(_) => return Err(fixed_error("a data tile has no product")),
            }
        }
        Ok(sums
            .chunks_exact(n.max(1))
            .enumerate()
            .flat_map(|(r, row)| {
                let scale = scales.get(r).map_or(1.0, |&s| f64::from(s));
                row.iter().map(move |s| (s * scale) as f32)
            })
            .collect())
    }

    fn grouped(&self, matrix: MatrixId, groups: usize, x: &[f32]) -> Result<Vec<f32>, Diagnostics> {
        let LoadedMatrix { k, n, activations, ref tiles } = *self.matrix(matrix)?;
        grouped::product(tiles, (k, n), activations, groups, x).map_err(fixed_error)
    }

    fn lookup(&self, matrix: MatrixId, indices: &[i64]) -> Result<Vec<f32>, Diagnostics> {
        let LoadedMatrix { k, n, ref tiles, .. } = *self.matrix(matrix)?;
        let mut out = eval::zeros::<f32>(&[indices.len(), k]).map_err(fixed_error)?;
        for (row, &index) in out.chunks_exact_mut(k.max(1)).zip(indices) {
            let column = usize::try_from(if index < 0 { index.saturating_add(n as i64) } else { index })
                .ok()
                .filter(|c| *c < n)
                .ok_or_else(|| fixed_error(format!("index {index} of a table with {n} entries")))?;
            for tile in tiles.iter().filter(|t| t.n.contains(&column)) {
                let c = column - tile.n.start;
                for (i, v) in row[tile.k.clone()].iter_mut().enumerate() {
                    *v = match &tile.content {
                        TileContent::Codes(b) => {
                            let level = f32::from(b.levels[i * b.n + c]);
                            level * f32::from(b.scales[i / b.group * b.n + c]) * b.unit
                        }
                        TileContent::Real(b) => b.values[i * b.n + c],
                        TileContent::Data(_) => return Err(fixed_error("a data tile has no columns")),
                    };
                }
            }
        }
        Ok(out)
    }

    fn data(&self, offset: u64, len: u64) -> Result<Vec<u8>, Diagnostics> {
        let range = usize::try_from(offset).ok().zip(usize::try_from(len).ok());
        range
            .and_then(|(o, l)| self.data.get(o..o.checked_add(l)?))
            .map(<[u8]>::to_vec)
            .ok_or_else(|| fixed_error(format!("no {len} data bytes at {offset}")))
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
        for (step, id) in self.order.iter().enumerate() {
            let Some(node) = self.graph.node(*id) else { continue };
            let result = match &node.op {
                Op::Input {} => continue,
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
        }
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
