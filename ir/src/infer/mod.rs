//! Type and shape inference over open shapes, with the values of small integer tensors (shapes,
//! axes, lengths) followed symbolically.
//!
//! Inference never guesses: what it cannot derive is unknown. What contradicts is an error.

mod attention;
mod general;
mod region;
mod spatial;

pub use region::join;

use crate::codes::E0301;
use crate::diag::{Diagnostic, Diagnostics};
use crate::elem::Elem;
use crate::graph::{Graph, NodeId, ValueId};
use crate::op::{Op, ReduceFn, UnaryFn};
use crate::shape::{Dim, Knowledge, OpenDim, OpenType};
use crate::tensor::axis as norm_axis;

/// Longest integer tensor whose elements are followed.
const MAX_FOLLOWED: usize = 64;

/// What is known of a value: its type and, for i64 and bool tensors of rank 0 or 1 and at most 64
/// elements, its elements; those of bool are 0 and 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Fact {
    /// Type.
    pub ty: OpenType,
    /// Elements.
    pub value: Option<Vec<OpenDim>>,
}

impl Fact {
    /// Only a type.
    pub fn of(ty: OpenType) -> Fact {
        Fact { ty, value: None }
    }

    fn dims(&self) -> Option<&[OpenDim]> {
        self.ty.shape.as_deref()
    }

    /// The elements, when all are numbers.
    fn numbers(&self) -> Option<Vec<i64>> {
        self.value.as_ref()?.iter().map(|d| d.as_ref()?.value()).collect()
    }
}

/// The facts of all values of a graph.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    of: Vec<Option<Fact>>,
    /// How many loops and branches around the graph are being inferred.
    depth: usize,
}

impl Facts {
    /// Of one value.
    pub fn get(&self, v: ValueId) -> Option<&Fact> {
        self.of.get(v.index())?.as_ref()
    }

    /// Sets one.
    pub fn set(&mut self, v: ValueId, fact: Fact) {
        if self.of.len() <= v.index() {
            self.of.resize(v.index() + 1, None);
        }
        self.of[v.index()] = Some(fact);
    }

    /// Infers the outputs of one node whose inputs are known.
    ///
    /// # Errors
    /// Inputs that contradict the operation, in one sentence with their types.
    pub fn node<T: Knowledge>(&self, graph: &Graph<T>, id: NodeId) -> Result<Vec<Fact>, String> {
        let node = graph.node(id).ok_or("no such node")?;
        match &node.op {
            Op::Input {} => {
                let facts = node.outputs.iter().filter_map(|v| Some(Fact::of(graph.value(*v)?.ty.open())));
                possible(facts.collect())
            }
            Op::Constant { id } => {
                let c = graph.consts.get(*id).ok_or("no such constant")?;
                let mut fact = Fact::of(OpenType::fixed(c.elem, &c.shape));
                if c.shape.len() <= 1
                    && c.len() <= MAX_FOLLOWED
                    && let Some(bytes) = c.bytes()
                {
                    let long = |b: &[u8]| b.try_into().ok().map(|b| Dim::known(i64::from_le_bytes(b)));
                    fact.value = match c.elem {
                        Elem::I64 => Some(bytes.chunks_exact(8).map(long).collect()),
                        Elem::Bool => {
                            Some(bytes.iter().map(|&b| Some(Dim::known(i64::from(b != 0)))).collect())
                        }
                        _ => None,
                    };
                }
                Ok(vec![fact])
            }
            op => {
                let inputs: Vec<&Fact> = node
                    .inputs
                    .iter()
                    .map(|v| self.get(*v).ok_or_else(|| format!("%{v} is not known yet")))
                    .collect::<Result<_, _>>()?;
                let result = match op {
                    Op::If { .. } | Op::Loop { .. } => {
                        region::infer(op, graph.regions(), &inputs, self.depth)
                    }
                    op => infer(op, &inputs),
                };
                result.and_then(possible).map_err(|e| {
                    let types: Vec<String> = inputs.iter().map(|f| f.ty.to_string()).collect();
                    format!("{} ({}): {e}", op.name(), types.join(", "))
                })
            }
        }
    }
}

/// The same facts, unless a length is negative.
fn possible(facts: Vec<Fact>) -> Result<Vec<Fact>, String> {
    let lengths = facts.iter().filter_map(Fact::dims).flatten().filter_map(|d| d.as_ref()?.value());
    match lengths.into_iter().find(|n| *n < 0) {
        Some(n) => Err(format!("gives an axis of length {n}")),
        None => Ok(facts),
    }
}

/// Sets the type of every value that is not a graph input from inference.
///
/// # Errors
/// Every node whose inputs contradict its operation; nodes behind such a node are not reported.
pub fn annotate(graph: &mut Graph<OpenType>) -> Result<Facts, Diagnostics> {
    for region in graph.regions_mut() {
        annotate(region)?;
    }
    let mut facts = Facts::default();
    let mut bad = Diagnostics::new();
    let order = graph.order().ok_or_else(|| Diagnostic::error(&E0301, "the graph has a cycle"))?;
    for id in order {
        let Some(node) = graph.node(id) else { continue };
        let outputs = node.outputs.clone();
        if node.inputs.iter().any(|v| facts.get(*v).is_none()) {
            continue;
        }
        match facts.node(graph, id) {
            Ok(found) => {
                for (v, fact) in outputs.into_iter().zip(found) {
                    if let Some(value) = graph.value_mut(v) {
                        value.ty = fact.ty.clone();
                    }
                    facts.set(v, fact);
                }
            }
            Err(e) => bad.push(Diagnostic::error(&E0301, e).at(&node.origin)),
        }
    }
    if bad.has_errors() { Err(bad) } else { Ok(facts) }
}

/// Checks that every declared type agrees with inference (invariant 6 of [`Graph`]).
///
/// # Errors
/// All contradictions.
pub fn check<T: Knowledge>(graph: &Graph<T>) -> Result<(), Diagnostics> {
    let mut facts = Facts::default();
    let mut bad = Diagnostics::new();
    for id in graph.order().unwrap_or_default() {
        let Some(node) = graph.node(id) else { continue };
        let found = facts.node(graph, id);
        if let Err(e) = &found {
            bad.push(Diagnostic::error(&E0301, e.clone()).at(&node.origin));
        }
        let mut found = found.unwrap_or_default().into_iter();
        for &v in &node.outputs {
            let Some(value) = graph.value(v) else { continue };
            let declared = value.ty.open();
            let mut fact = found.next().unwrap_or_else(|| Fact::of(declared.clone()));
            if !fact.ty.admits(&declared) {
                let message = format!("%{v} is declared {declared} but its node gives {}", fact.ty);
                bad.push(Diagnostic::error(&E0301, message).at(&node.origin));
            }
            fact.ty = declared;
            match possible(vec![fact]) {
                Ok(found) => found.into_iter().for_each(|fact| facts.set(v, fact)),
                Err(e) => {
                    bad.push(Diagnostic::error(&E0301, format!("%{v} {e}")).at(&node.origin));
                    return Err(bad);
                }
            }
        }
    }
    if bad.has_errors() { Err(bad) } else { Ok(()) }
}

fn broadcast_dim(a: &OpenDim, b: &OpenDim) -> Result<OpenDim, String> {
    let (Some(a), Some(b)) = (a, b) else {
        // An unknown dimension takes the other's length, unless that is 1.
        return Ok(a.as_ref().or(b.as_ref()).filter(|d| d.value().is_some_and(|v| v != 1)).cloned());
    };
    match (a.value(), b.value()) {
        _ if a == b => Ok(Some(a.clone())),
        (Some(1), _) => Ok(Some(b.clone())),
        (_, Some(1)) => Ok(Some(a.clone())),
        (Some(_), Some(_)) => Err(format!("lengths {a} and {b} do not broadcast")),
        (Some(_), None) => Ok(Some(a.clone())),
        (None, Some(_)) => Ok(Some(b.clone())),
        (None, None) => Ok(None),
    }
}

fn broadcast(a: &[OpenDim], b: &[OpenDim]) -> Result<Vec<OpenDim>, String> {
    let one = Some(Dim::known(1));
    let rank = a.len().max(b.len());
    (0..rank)
        .map(|i| {
            let x = if i + a.len() < rank { &one } else { &a[i + a.len() - rank] };
            let y = if i + b.len() < rank { &one } else { &b[i + b.len() - rank] };
            broadcast_dim(x, y)
        })
        .collect()
}

fn broadcast_shapes(a: &Fact, b: &Fact) -> Result<Option<Vec<OpenDim>>, String> {
    match (a.dims(), b.dims()) {
        (Some(a), Some(b)) => broadcast(a, b).map(Some),
        _ => Ok(None),
    }
}

fn same_length(a: &OpenDim, b: &OpenDim) -> Result<(), String> {
    if let (Some(a), Some(b)) = (a, b)
        && let (Some(x), Some(y)) = (a.value(), b.value())
        && x != y
    {
        return Err(format!("lengths {x} and {y} differ"));
    }
    Ok(())
}

/// Refuses operands of a convolution that are not all of one type, output channels that groups do not divide, and a bias,
/// where `x` has one at `bias`, that is not a number for each output channel.
fn convolved(x: &[&Fact], channels: &OpenDim, groups: i64, bias: Option<usize>) -> Result<(), String> {
    if x.iter().any(|f| f.ty.elem != x[0].ty.elem) {
        return Err("the element types differ".into());
    }
    if let Some(n) = channels.as_ref().and_then(Dim::value)
        && (groups < 1 || n % groups != 0)
    {
        return Err(format!("{n} output channels in {groups} groups"));
    }
    match bias.and_then(|at| x.get(at)?.dims()) {
        Some([n]) => same_length(n, channels),
        Some(d) => Err(format!("a bias of rank {}, where each output channel has a number", d.len())),
        None => Ok(()),
    }
}

fn product(dims: &[OpenDim]) -> OpenDim {
    dims.iter().try_fold(Dim::known(1), |a, d| a.mul(d.as_ref()?))
}

fn known(n: usize) -> OpenDim {
    i64::try_from(n).ok().map(Dim::known)
}

fn window(
    dims: &[OpenDim],
    kernel: &[i64],
    strides: &[i64],
    pads: &[i64],
    dilations: &[i64],
) -> Result<Vec<OpenDim>, String> {
    let r = dims.len();
    if kernel.len() != r || strides.len() != r || dilations.len() != r || pads.len() != 2 * r {
        return Err("attributes do not fit the spatial axes".into());
    }
    (0..r)
        .map(|i| {
            if strides[i] < 1 || dilations[i] < 1 || kernel[i] < 1 {
                return Err("strides, dilations and kernel must be positive".into());
            }
            let extent = (kernel[i] - 1).checked_mul(dilations[i]).and_then(|e| e.checked_add(1));
            let pad = pads[i].checked_add(pads[i + r]);
            let (Some(extent), Some(pad)) = (extent, pad) else { return Err("attribute overflow".into()) };
            let Some(room) = dims[i].as_ref().and_then(|d| d.add(&Dim::known(pad))?.sub(&Dim::known(extent)))
            else {
                return Ok(None);
            };
            match room.value() {
                Some(v) if v < 0 => Err(format!("the kernel is larger than axis {}", i + 2)),
                Some(v) => Ok(Some(Dim::known(v / strides[i] + 1))),
                None if strides[i] == 1 => Ok(room.add(&Dim::known(1))),
                None => Ok(None),
            }
        })
        .collect()
}

/// Infers the outputs of an operation from its inputs' facts.
///
/// # Errors
/// What contradicts.
pub fn infer(op: &Op, x: &[&Fact]) -> Result<Vec<Fact>, String> {
    let (lo, hi, _) = op.arity();
    if x.len() < lo || x.len() > hi {
        return Err(format!("{} inputs", x.len()));
    }
    let elem = x.first().map_or(Elem::F32, |f| f.ty.elem);
    if let Some(code) = x.iter().map(|f| f.ty.elem).find(|e| e.is_code())
        && !op.converts()
        && op.moves(x.len()).is_empty()
    {
        return Err(format!("{code} can only be moved and converted"));
    }
    let typed = |elem, shape| Fact::of(OpenType { elem, shape });
    let one = |fact: Fact| Ok(vec![fact]);
    match op {
        Op::Input {} | Op::Constant { .. } => Err("has no operands to infer from".into()),
        Op::Unary(f) => {
            let mut fact = Fact::of(x[0].ty.clone());
            if let (UnaryFn::Not, Some(v)) = (f, &x[0].value) {
                let not = |d: &OpenDim| Some(Dim::known(i64::from(d.as_ref()?.value()? == 0)));
                fact.value = Some(v.iter().map(not).collect());
            }
            one(fact)
        }
        Op::Cast { to } => {
            // Elements are followed as i64 only: a narrower type would wrap.
            let kept = *to == elem || (*to == Elem::I64 && elem == Elem::Bool);
            let value = x[0].value.clone().filter(|_| kept);
            one(Fact { ty: OpenType { elem: *to, shape: x[0].ty.shape.clone() }, value })
        }
        Op::Quantize { to, .. } | Op::Dequantize { to, .. } => {
            if !x[1].ty.elem.is_float() {
                return Err("scales must be floats".into());
            }
            one(Fact::of(OpenType { elem: *to, shape: x[0].ty.shape.clone() }))
        }
        Op::CastRounded { to, .. } => one(Fact::of(OpenType { elem: *to, shape: x[0].ty.shape.clone() })),
        Op::Binary(f) => {
            if x[0].ty.elem != x[1].ty.elem && *f != crate::op::BinaryFn::Pow {
                return Err("the element types differ".into());
            }
            let out = if f.is_comparison() { Elem::Bool } else { elem };
            let mut fact = typed(out, broadcast_shapes(x[0], x[1])?);
            fact.value = binary_value(*f, x[0], x[1]);
            one(fact)
        }
        Op::Where {} => {
            if x[0].ty.elem != Elem::Bool || x[1].ty.elem != x[2].ty.elem {
                return Err("needs a bool condition and two operands of one type".into());
            }
            let shape = match (broadcast_shapes(x[1], x[2])?, x[0].dims()) {
                (Some(s), Some(c)) => Some(broadcast(&s, c)?),
                _ => None,
            };
            one(typed(x[1].ty.elem, shape))
        }
        Op::Softmax { axis } => {
            if let Some(d) = x[0].dims() {
                norm_axis(*axis, d.len())?;
            }
            one(Fact::of(x[0].ty.clone()))
        }
        Op::LayerNorm { axis, .. } | Op::RmsNorm { axis, .. } => {
            if let Some(d) = x[0].dims() {
                let a = norm_axis(*axis, d.len())?;
                for f in &x[1..] {
                    if let Some(g) = f.dims() {
                        broadcast(&d[a..], g)?;
                    }
                }
            }
            one(Fact::of(x[0].ty.clone()))
        }
        Op::Rotary { dim, .. } => one(attention::rotary(x, *dim)?),
        Op::Attention { .. } => one(attention::attention(x)?),
        Op::Reduce { f, axes, keepdims } => {
            let shape = match x[0].dims() {
                None => None,
                Some(d) => {
                    let axes: Vec<usize> =
                        axes.iter().map(|&a| norm_axis(a, d.len())).collect::<Result<_, _>>()?;
                    let kept = d.iter().enumerate().filter_map(|(i, dim)| match axes.contains(&i) {
                        true => keepdims.then(|| Some(Dim::known(1))),
                        false => Some(dim.clone()),
                    });
                    Some(kept.collect())
                }
            };
            let mut fact = typed(elem, shape);
            if *f == ReduceFn::Prod && fact.dims().is_some_and(<[_]>::is_empty) {
                fact.value = x[0].value.as_ref().map(|v| vec![product(v)]);
            }
            one(fact)
        }
        Op::MatMul {} => {
            if x[0].ty.elem != x[1].ty.elem {
                return Err("the element types differ".into());
            }
            let (Some(a), Some(b)) = (x[0].dims(), x[1].dims()) else { return one(typed(elem, None)) };
            if a.is_empty() || b.is_empty() {
                return Err("rank 0 has no matrix product".into());
            }
            let unit = Some(Dim::known(1));
            let left = if a.len() == 1 { vec![unit.clone(), a[0].clone()] } else { a.to_vec() };
            let right = if b.len() == 1 { vec![b[0].clone(), unit] } else { b.to_vec() };
            let (l, r) = (left.len(), right.len());
            same_length(&left[l - 1], &right[r - 2])?;
            let mut shape = broadcast(&left[..l - 2], &right[..r - 2])?;
            if a.len() > 1 {
                shape.push(left[l - 2].clone());
            }
            if b.len() > 1 {
                shape.push(right[r - 1].clone());
            }
            one(typed(elem, Some(shape)))
        }
        Op::Conv { strides, pads, dilations, groups } => {
            let (Some(d), Some(w)) = (x[0].dims(), x[1].dims()) else { return one(typed(elem, None)) };
            if d.len() < 3 || w.len() != d.len() || *groups < 1 {
                return Err("needs x [B, C, spatial] and w [O, C / groups, kernel]".into());
            }
            if let Some(c) = w[1].as_ref().and_then(|c| c.mul(&Dim::known(*groups))) {
                same_length(&d[1], &Some(c))?;
            }
            convolved(x, &w[0], *groups, Some(2))?;
            let kernel: Option<Vec<i64>> = w[2..].iter().map(|k| k.as_ref()?.value()).collect();
            let mut shape = vec![d[0].clone(), w[0].clone()];
            match kernel {
                Some(k) => shape.extend(window(&d[2..], &k, strides, pads, dilations)?),
                None => shape.extend(vec![None; d.len() - 2]),
            }
            one(typed(elem, Some(shape)))
        }
        Op::Patches { kernel, strides, pads, dilations } => {
            let Some(d) = x[0].dims() else { return one(typed(elem, None)) };
            if d.len() < 3 {
                return Err("needs x [B, C, spatial]".into());
            }
            let mut shape = vec![d[0].clone()];
            shape.extend(window(&d[2..], kernel, strides, pads, dilations)?);
            let taps = kernel.iter().try_fold(1i64, |a, &k| a.checked_mul(k)).ok_or("kernel overflow")?;
            shape.push(d[1].as_ref().and_then(|c| c.mul(&Dim::known(taps))));
            one(typed(elem, Some(shape)))
        }
        Op::Shape { start, end } => {
            let Some(d) = x[0].dims() else { return one(typed(Elem::I64, Some(vec![None]))) };
            let r = d.len() as i64;
            let clamp = |v: i64| (if v < 0 { v.saturating_add(r) } else { v }).clamp(0, r) as usize;
            let (a, b) = (clamp(*start), clamp(*end));
            let picked = if a < b { d[a..b].to_vec() } else { Vec::new() };
            one(Fact {
                ty: OpenType { elem: Elem::I64, shape: Some(vec![known(picked.len())]) },
                value: Some(picked),
            })
        }
        Op::Reshape { allow_zero } => {
            let Some(want) = &x[1].value else {
                let rank = x[1].dims().and_then(|d| d.first()?.as_ref()?.value());
                let shape = rank.and_then(|r| usize::try_from(r).ok()).filter(|r| *r <= MAX_FOLLOWED);
                return one(typed(elem, shape.map(|r| vec![None; r])));
            };
            let (dims, _) = reshape(x[0], want, *allow_zero)?;
            let follow = dims.len() <= 1;
            one(Fact {
                ty: OpenType { elem, shape: Some(dims) },
                value: x[0].value.clone().filter(|_| follow),
            })
        }
        Op::Flatten { axis } => {
            let Some(d) = x[0].dims() else { return one(typed(elem, Some(vec![None, None]))) };
            let a = if *axis == d.len() as i64 { d.len() } else { norm_axis(*axis, d.len())? };
            one(typed(elem, Some(vec![product(&d[..a]), product(&d[a..])])))
        }
        Op::Transpose { perm } => {
            let Some(d) = x[0].dims() else { return one(typed(elem, Some(vec![None; perm.len()]))) };
            let mut seen = vec![false; d.len()];
            let mut shape = Vec::new();
            for &p in perm {
                let p = usize::try_from(p).ok().filter(|p| *p < d.len() && !seen[*p]);
                let p = p.ok_or_else(|| format!("{perm:?} is no permutation of {} axes", d.len()))?;
                seen[p] = true;
                shape.push(d[p].clone());
            }
            if shape.len() != d.len() {
                return Err(format!("{perm:?} is no permutation of {} axes", d.len()));
            }
            one(typed(elem, Some(shape)))
        }
        Op::Concat { axis } => {
            if x.iter().any(|f| f.ty.elem != elem) {
                return Err("the element types differ".into());
            }
            let Some(all) = x.iter().map(|f| f.dims()).collect::<Option<Vec<_>>>() else {
                return one(typed(elem, x.iter().find_map(|f| f.dims()).map(|d| vec![None; d.len()])));
            };
            let a = norm_axis(*axis, all[0].len())?;
            let mut shape = all[0].to_vec();
            for d in &all[1..] {
                if d.len() != shape.len() {
                    return Err("the ranks differ".into());
                }
                for i in 0..shape.len() {
                    if i == a {
                        shape[i] = shape[i].as_ref().zip(d[i].as_ref()).and_then(|(p, q)| p.add(q));
                    } else {
                        same_length(&shape[i], &d[i])?;
                        if shape[i].as_ref().is_none_or(|s| s.value().is_none()) && d[i].is_some() {
                            shape[i].clone_from(&d[i]);
                        }
                    }
                }
            }
            let value: Option<Vec<OpenDim>> = (all[0].len() == 1)
                .then(|| x.iter().map(|f| f.value.clone()).collect::<Option<Vec<_>>>())
                .flatten()
                .map(|v| v.concat())
                .filter(|v| v.len() <= MAX_FOLLOWED);
            one(Fact { ty: OpenType { elem, shape: Some(shape) }, value })
        }
        Op::Slice {} => slice(x),
        Op::Split { axis, sizes } => {
            let Some(d) = x[0].dims() else { return Ok(sizes.iter().map(|_| typed(elem, None)).collect()) };
            let a = norm_axis(*axis, d.len())?;
            let total = sizes.iter().try_fold(0i64, |s, &v| s.checked_add(v)).ok_or("sizes overflow")?;
            same_length(&d[a], &Some(Dim::known(total)))?;
            if sizes.iter().any(|&s| s < 0) {
                return Err("negative size".into());
            }
            Ok(sizes.iter().map(|&s| with_dim(elem, d, a, Some(Dim::known(s)))).collect())
        }
        Op::SplitEqual { axis, parts } => {
            let n = usize::try_from(*parts)
                .ok()
                .filter(|n| (1..=4096).contains(n))
                .ok_or("bad number of parts")?;
            let Some(d) = x[0].dims() else { return Ok((0..n).map(|_| typed(elem, None)).collect()) };
            let a = norm_axis(*axis, d.len())?;
            let length = d[a].as_ref().and_then(Dim::value);
            Ok((0..*parts)
                .map(|i| {
                    let piece = length.map(|l| {
                        let chunk = l / parts + i64::from(l % parts != 0);
                        (l - i * chunk).clamp(0, chunk.max(0))
                    });
                    let even = || d[a].as_ref().and_then(|d| d.div(&Dim::known(*parts)));
                    with_dim(elem, d, a, piece.map(Dim::known).or_else(even))
                })
                .collect())
        }
        Op::Squeeze { axes } => {
            let Some(d) = x[0].dims() else { return one(typed(elem, None)) };
            let axes: Vec<usize> = axes.iter().map(|&a| norm_axis(a, d.len())).collect::<Result<_, _>>()?;
            for &a in &axes {
                same_length(&d[a], &Some(Dim::known(1)))?;
            }
            let shape =
                d.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, d)| d.clone()).collect();
            one(Fact { ty: OpenType { elem, shape: Some(shape) }, value: x[0].value.clone() })
        }
        Op::Unsqueeze { axes } => {
            let Some(d) = x[0].dims() else { return one(typed(elem, None)) };
            let rank = d.len() + axes.len();
            let axes: Vec<usize> = axes.iter().map(|&a| norm_axis(a, rank)).collect::<Result<_, _>>()?;
            let mut new = vec![false; rank];
            axes.into_iter().for_each(|a| new[a] = true);
            let mut rest = d.iter().cloned();
            let mut shape = Vec::with_capacity(rank);
            for new in new {
                shape.push(if new { Some(Dim::known(1)) } else { rest.next().ok_or("repeated axis")? });
            }
            let value = x[0].value.clone().filter(|_| rank <= 1);
            one(Fact { ty: OpenType { elem, shape: Some(shape) }, value })
        }
        Op::Expand {} => {
            let shape = match (x[0].dims(), &x[1].value) {
                (Some(d), Some(want)) => Some(broadcast(d, want)?),
                (Some(d), None) => {
                    let rank = x[1].dims().and_then(|r| r.first()?.as_ref()?.value());
                    rank.and_then(|r| usize::try_from(r).ok())
                        .map(|r| r.max(d.len()))
                        .filter(|r| *r <= MAX_FOLLOWED)
                        .map(|r| vec![None; r])
                }
                _ => None,
            };
            one(typed(elem, shape))
        }
        Op::Gather { axis } => {
            if !x[1].ty.elem.is_int() {
                return Err("indices must be integers".into());
            }
            let (Some(d), Some(i)) = (x[0].dims(), x[1].dims()) else { return one(typed(elem, None)) };
            let a = norm_axis(*axis, d.len())?;
            let shape = [&d[..a], i, &d[a + 1..]].concat();
            let value = gather_value(x[0], x[1]).filter(|_| shape.len() <= 1);
            one(Fact { ty: OpenType { elem, shape: Some(shape) }, value })
        }
        Op::GatherElements { axis } => {
            if let (Some(d), Some(i)) = (x[0].dims(), x[1].dims()) {
                norm_axis(*axis, d.len())?;
                if i.len() != d.len() {
                    return Err("indices need the data's rank".into());
                }
            }
            one(typed(elem, x[1].ty.shape.clone()))
        }
        Op::GatherNd { batch_dims } => {
            let (Some(d), Some(i)) = (x[0].dims(), x[1].dims()) else { return one(typed(elem, None)) };
            let b = usize::try_from(*batch_dims).map_err(|_| "negative batch_dims")?;
            let Some((last, lead)) = i.split_last() else { return Err("indices of rank 0".into()) };
            let Some(depth) = last.as_ref().and_then(Dim::value).and_then(|v| usize::try_from(v).ok()) else {
                return one(typed(elem, None));
            };
            if b + depth > d.len() || b > lead.len() {
                return Err("the indices are deeper than the data".into());
            }
            one(typed(elem, Some([lead, &d[b + depth..]].concat())))
        }
        Op::Range {} => {
            let n = x[0].numbers().zip(x[2].numbers()).and_then(|(start, delta)| {
                match (&start[..], &delta[..]) {
                    ([s], [1]) => x[1].value.as_ref()?.first()?.as_ref()?.sub(&Dim::known(*s)),
                    _ => None,
                }
            });
            let n = n.filter(|n| n.value().is_none_or(|v| v >= 0));
            let mut fact = typed(elem, Some(vec![n]));
            fact.value = range_value(x).filter(|_| elem == Elem::I64);
            if let Some(v) = &fact.value {
                fact.ty.shape = Some(vec![known(v.len())]);
            }
            one(fact)
        }
        Op::CumSum { .. } => one(Fact::of(x[0].ty.clone())),
        Op::CumProd { .. }
        | Op::ReduceOver { .. }
        | Op::SqueezeAt {}
        | Op::UnsqueezeAt {}
        | Op::SplitAt { .. }
        | Op::ArgReduce { .. }
        | Op::TopK { .. }
        | Op::ScatterElements { .. }
        | Op::ScatterNd { .. }
        | Op::NonZero {}
        | Op::Unique { .. }
        | Op::BitCast { .. }
        | Op::Det {}
        | Op::Dft { .. }
        | Op::MelWeights { .. } => general::general(op, x),
        Op::Trilu { .. } => {
            if x[0].dims().is_some_and(|d| d.len() < 2) {
                return Err("needs rank 2 or more".into());
            }
            one(Fact::of(x[0].ty.clone()))
        }
        Op::If { .. } | Op::Loop { .. } => Err("needs its regions".into()),
        Op::Pool { .. }
        | Op::MaxPoolIndexed { .. }
        | Op::MaxUnpool { .. }
        | Op::ConvTranspose { .. }
        | Op::DeformConv { .. }
        | Op::Col2Im { .. }
        | Op::Pad { .. }
        | Op::Resize { .. }
        | Op::GridSample { .. }
        | Op::AffineGrid { .. }
        | Op::RoiAlign { .. }
        | Op::MaxRoiPool { .. }
        | Op::NonMaxSuppression { .. } => spatial::infer(op, x),
        Op::FixedLinear { k, n, .. } => {
            if elem != Elem::F32 {
                return Err("needs f32".into());
            }
            let Some(d) = x[0].dims() else { return one(typed(elem, None)) };
            let Some((last, lead)) = d.split_last() else { return Err("rank 0 has no product".into()) };
            same_length(last, &Some(Dim::known(*k)))?;
            let mut shape = lead.to_vec();
            shape.push(Some(Dim::known(*n)));
            one(typed(elem, Some(shape)))
        }
        Op::FixedGrouped { k, n, groups, .. } => {
            if elem != Elem::F32 {
                return Err("needs f32".into());
            }
            if *groups < 1 || *k < 1 || *n < 1 || n % groups != 0 {
                return Err(format!("{groups} groups do not divide a matrix of {k} x {n}"));
            }
            let Some(d) = x[0].dims() else { return one(typed(elem, None)) };
            let [lead @ .., group, last] = d else { return Err("needs rank 2 or more".into()) };
            same_length(group, &Some(Dim::known(*groups)))?;
            same_length(last, &Some(Dim::known(*k)))?;
            one(typed(elem, Some([lead, &[Some(Dim::known(*n))]].concat())))
        }
        Op::FixedLookup { k, .. } => {
            if !elem.is_int() {
                return Err("indices must be integers".into());
            }
            let shape = x[0].dims().map(|d| [d, &[Some(Dim::known(*k))]].concat());
            one(typed(Elem::F32, shape))
        }
    }
}

fn with_dim(elem: Elem, dims: &[OpenDim], axis: usize, dim: OpenDim) -> Fact {
    let mut shape = dims.to_vec();
    shape[axis] = dim;
    Fact::of(OpenType { elem, shape: Some(shape) })
}

fn binary_value(f: crate::op::BinaryFn, a: &Fact, b: &Fact) -> Option<Vec<OpenDim>> {
    use crate::op::BinaryFn as B;
    let logical = matches!(f, B::And | B::Or | B::Xor | B::Equal);
    if a.ty.elem != Elem::I64 && !(logical && a.ty.elem == Elem::Bool) {
        return None;
    }
    let (x, y) = (a.value.as_ref()?, b.value.as_ref()?);
    let n = x.len().max(y.len());
    if (x.len() != n && x.len() != 1)
        || (y.len() != n && y.len() != 1)
        || a.dims()?.len().max(b.dims()?.len()) > 1
    {
        return None;
    }
    let at = |v: &[OpenDim], i: usize| v[if v.len() == 1 { 0 } else { i }].clone();
    let pair = |i: usize| -> OpenDim {
        let (p, q) = (at(x, i)?, at(y, i)?);
        match f {
            B::Add => p.add(&q),
            B::Sub => p.sub(&q),
            B::Mul => p.mul(&q),
            B::Div => match (p.value(), q.value()) {
                (Some(p), Some(q)) => p.checked_div(q).map(Dim::known),
                _ => p.div(&q),
            },
            // Equal polynomials are equal numbers; different ones may be.
            B::Equal if p == q => Some(Dim::known(1)),
            f if f.is_comparison() || logical => {
                let (p, q) = (p.value()?, q.value()?);
                let holds = match f {
                    B::Equal => p == q,
                    B::Greater => p > q,
                    B::GreaterEqual => p >= q,
                    B::Less => p < q,
                    B::LessEqual => p <= q,
                    B::And => p != 0 && q != 0,
                    B::Or => p != 0 || q != 0,
                    B::Xor => (p != 0) != (q != 0),
                    _ => return None,
                };
                Some(Dim::known(i64::from(holds)))
            }
            B::Max => Some(Dim::known(p.value()?.max(q.value()?))),
            B::Min => Some(Dim::known(p.value()?.min(q.value()?))),
            _ => None,
        }
    };
    Some((0..n).map(pair).collect())
}

/// The elements of a short range of numbers.
fn range_value(x: &[&Fact]) -> Option<Vec<OpenDim>> {
    let number = |f: &Fact| f.numbers()?.first().copied();
    let (mut at, limit, delta) = (number(x[0])?, number(x[1])?, number(x[2])?);
    let mut out = Vec::new();
    while (delta > 0 && at < limit) || (delta < 0 && at > limit) {
        if out.len() == MAX_FOLLOWED {
            return None;
        }
        out.push(Some(Dim::known(at)));
        at = at.checked_add(delta)?;
    }
    (delta != 0).then_some(out)
}

fn gather_value(data: &Fact, indices: &Fact) -> Option<Vec<OpenDim>> {
    let values = data.value.as_ref().filter(|_| data.dims().is_some_and(|d| d.len() == 1))?;
    let pick = |i: i64| {
        let i = if i < 0 { i.checked_add(values.len() as i64)? } else { i };
        values.get(usize::try_from(i).ok()?)
    };
    indices.numbers()?.into_iter().map(|i| pick(i).cloned()).collect()
}

/// Shape of a reshape to `want`, and the dimension inferred for -1.
fn reshape(x: &Fact, want: &[OpenDim], allow_zero: bool) -> Result<(Vec<OpenDim>, OpenDim), String> {
    let source = x.dims();
    let mut dims = want.to_vec();
    let mut infer_at = None;
    for (i, d) in dims.iter_mut().enumerate() {
        match d.as_ref().and_then(Dim::value) {
            Some(-1) if infer_at.is_none() => infer_at = Some(i),
            Some(v) if v < 0 => return Err(format!("length {v} in the new shape")),
            Some(0) if !allow_zero => match source {
                Some(s) => *d = s.get(i).cloned().ok_or("a 0 beyond the input's rank")?,
                None => *d = None,
            },
            _ => {}
        }
    }
    let total = source.map(product).unwrap_or(None);
    let Some(at) = infer_at else {
        if let (Some(a), Some(b)) = (&total, product(&dims))
            && let (Some(a), Some(b)) = (a.value(), b.value())
            && a != b
        {
            return Err(format!("{a} elements cannot take a shape of {b}"));
        }
        return Ok((dims, None));
    };
    let rest: Vec<OpenDim> =
        dims.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, d)| d.clone()).collect();
    let inferred = match (&total, product(&rest)) {
        (Some(t), Some(r)) => {
            let q = t.div(&r);
            if q.is_none() && t.value().is_some() && r.value().is_some_and(|r| r != 0) {
                return Err(format!("{t} elements do not divide by {r}"));
            }
            q
        }
        _ => None,
    };
    dims[at].clone_from(&inferred);
    Ok((dims, inferred))
}

fn slice(x: &[&Fact]) -> Result<Vec<Fact>, String> {
    let elem = x[0].ty.elem;
    let Some(d) = x[0].dims() else { return Ok(vec![Fact::of(OpenType::unknown(elem))]) };
    let (Some(axes), Some(steps)) = (x[3].numbers(), x[4].numbers()) else {
        return Ok(vec![Fact::of(OpenType { elem, shape: Some(vec![None; d.len()]) })]);
    };
    let mut shape = d.to_vec();
    let mut value = x[0].value.clone().filter(|_| d.len() == 1);
    let element = |f: &Fact, i: usize| f.value.as_ref().and_then(|v| v.get(i).cloned()).unwrap_or(None);
    for (i, (&axis, &step)) in axes.iter().zip(&steps).enumerate() {
        let a = norm_axis(axis, d.len())?;
        let (start, end) = (element(x[1], i), element(x[2], i));
        let taken = (|| {
            let (start, end, length) = (start?, end?, d[a].clone()?);
            let from = start.value()?;
            if let Some(len) = length.value() {
                let to = end.value()?;
                if step == 0 || step == i64::MIN {
                    return None;
                }
                let (lo, hi) = if step > 0 { (0, len) } else { (-1, len - 1) };
                let fix =
                    |v: i64, lo: i64| (if v < 0 { v.saturating_add(len) } else { v }).clamp(lo, hi.max(lo));
                let (from, to) = (fix(from, lo.max(0.min(hi))), fix(to, lo));
                let span = if step > 0 { to - from } else { from - to };
                let count = if span <= 0 { 0 } else { (span - 1) / step.abs() + 1 };
                return Some((Dim::known(count), from, count));
            }
            // A symbolic length: only whole-axis and prefix forms are known without its sign.
            (step == 1 && from >= 0).then_some(())?;
            match end.value() {
                Some(i64::MAX) => Some((length.sub(&Dim::known(from))?, from, -1)).filter(|_| from == 0),
                Some(e) if e >= i64::from(i32::MAX) && from == 0 => Some((length, from, -1)),
                None if end == length && from == 0 => Some((length, from, -1)),
                _ => None,
            }
        })();
        value = match (&taken, value) {
            (Some((_, from, count)), Some(v)) if *count >= 0 => {
                (0..*count).map(|j| v.get(usize::try_from(from + j * step).ok()?).cloned()).collect()
            }
            _ => None,
        };
        shape[a] = taken.map(|t| t.0);
    }
    Ok(vec![Fact { ty: OpenType { elem, shape: Some(shape) }, value }])
}
