//! Rounding passes, region by region. A region is what lies between values that both graphs have: the nodes that a
//! pass replaced, and those it put in their place, as two graphs of the same inputs. Errors are therefore those of
//! the region alone, not composed through the network. What is computed twice before is one value of that graph, whichever
//! of its names a pass left. Both sides get the values that the model gives a region, and those multiplied, but not where one
//! side reads a float, or what follows from one, that the other computes: multiplied, they would contradict each other.
//!
//! The reference is the region as it was, in double precision. Where the region as it was errs by e, what it is may
//! err by [`SLACK`] e + [`UNITS`] u max|reference|, u the unit roundoff of its type (2^-24 for f32): rounding in another order may
//! not lose accuracy. Products with fixed matrices are in single precision by definition, so where what it is has some, u is at
//! least that of f32. Where there is no double precision, the old result is the reference, and e is taken to be [`UNITS`] u
//! max|reference|. Places where either reference or old result is not finite say nothing, as overflow moves with
//! the order of operations; nor do those where the new result alone is not, in tensors with results near overflow.
//! The outputs of the whole graphs are compared in the same way, where errors of both graphs have gone through the
//! network, with [`SLACK_WHOLE`].

use std::collections::{BTreeMap, BTreeSet};

use pfmc_ir::consts::Const;
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::elem::Elem;
use pfmc_ir::eval;
use pfmc_ir::exec::{Executor, FixedMatrices};
use pfmc_ir::graph::{Graph, NodeId, ValueId};
use pfmc_ir::op::Op;
use pfmc_ir::origin::Origin;
use pfmc_ir::shape::OpenType;
use pfmc_ir::tensor::Tensor;

use super::numbering::{Numbering, Numbers};
use super::stage::{Stage, difference, doubles, matched, watching};
use super::{Method, Outcome, Worst};
use crate::codes::E0311;
use crate::samples::Inputs;

/// How many times the error of a region before the pass the error after it may be.
pub const SLACK: f64 = 8.0;
/// The same for the whole graph.
pub const SLACK_WHOLE: f64 = 64.0;
/// Units in the last place of the largest result that are allowed besides.
pub const UNITS: f64 = 8.0;
/// Part of the largest number of a type beyond which a result is near overflow.
const OVERFLOW: f64 = 1.0 / (1 << 16) as f64;
/// Most nodes of a region before the pass.
const NODES_MAX: usize = 4096;
/// What the captured floats of a region are multiplied with, besides 1.
const SCALES: [f32; 4] = [0.0, -1.0, 1.0 / 1024.0, 256.0];

/// Nodes before and after a pass, between values that both graphs have.
pub(crate) struct Region {
    /// Whether what it reads may take any values. It may not where one side reads what the other computes from floats.
    pub free: bool,
    /// The value that they compute.
    pub name: String,
    /// Names of what they read, the names of the graphs' inputs.
    pub reads: Vec<String>,
    /// As it was.
    pub before: Graph,
    /// As it is.
    pub after: Graph,
    /// Source nodes.
    pub origin: Origin,
}

/// Values that a value is computed from, up to those that `stop` holds for: what was stopped at, and the nodes on
/// the way; `None` where an input that `stop` does not hold for is reached, or there are too many nodes.
fn cone(
    graph: &Graph,
    from: ValueId,
    stop: &dyn Fn(ValueId) -> bool,
) -> Option<(Vec<ValueId>, BTreeSet<NodeId>)> {
    let (mut reads, mut nodes) = (BTreeSet::new(), BTreeSet::new());
    let mut next = vec![graph.value(from)?.node];
    while let Some(id) = next.pop() {
        let node = graph.node(id)?;
        if matches!(node.op, Op::Input {}) || nodes.len() > NODES_MAX {
            return None;
        }
        if !nodes.insert(id) {
            continue;
        }
        for v in &node.inputs {
            if stop(*v) {
                reads.insert(*v);
            } else {
                next.push(graph.value(*v)?.node);
            }
        }
    }
    Some((reads.into_iter().collect(), nodes))
}

/// Names of the inputs of which more than the shape is read.
fn reads_values(part: &Graph) -> BTreeSet<&str> {
    let shape = |id: &NodeId| part.node(*id).is_some_and(|n| matches!(n.op, Op::Shape { .. }));
    let read = part.inputs().iter().filter(|v| part.users(**v).iter().any(|id| !shape(id)));
    read.filter_map(|v| Some(part.value(*v)?.name.as_str())).collect()
}

/// Whether a value is computed from one that `of` holds for, not only from its shape.
fn depends(graph: &Graph, value: ValueId, of: &dyn Fn(ValueId) -> bool) -> bool {
    let (mut seen, mut next) = (BTreeSet::new(), vec![value]);
    while let Some(id) = next.pop().and_then(|v| Some(graph.value(v)?.node)) {
        let Some(node) = graph.node(id).filter(|n| seen.insert(id) && !matches!(n.op, Op::Shape { .. }))
        else {
            continue;
        };
        if node.inputs.iter().any(|v| of(*v)) {
            return true;
        }
        next.extend(&node.inputs);
    }
    false
}

/// Whether two sides of a region may be given any values. What one side alone reads follows from what the other reads, as
/// long as that is as the model makes it, so that it must not be multiplied, nor what it follows from.
fn free(graph: &Graph, numbers: &Numbers, reads: &[(ValueId, String)], sides: [&Graph; 2]) -> bool {
    let [was, is] = sides.map(reads_values);
    let float = |v: ValueId| graph.value(v).is_some_and(|v| single(v.ty.elem));
    let floats: BTreeSet<usize> =
        reads.iter().filter(|r| float(r.0)).filter_map(|r| numbers.get(&r.0)).copied().collect();
    let from_float = |v: ValueId| numbers.get(&v).is_none_or(|n| floats.contains(n));
    let mut alone = reads.iter().filter(|r| was.contains(r.1.as_str()) != is.contains(r.1.as_str()));
    alone.all(|(v, _)| !float(*v) && !depends(graph, *v, &from_float))
}

/// Some nodes of a graph as a graph of their own, whose inputs are the values read under these names; values of one name
/// are one input.
fn cut(graph: &Graph, reads: &[(ValueId, String)], nodes: &BTreeSet<NodeId>, out: ValueId) -> Option<Graph> {
    let mut part = Graph::new();
    let mut map: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    let mut inputs: BTreeMap<&str, ValueId> = BTreeMap::new();
    for (v, name) in reads {
        let ty = graph.value(*v)?.ty.clone();
        map.insert(*v, *inputs.entry(name).or_insert_with(|| part.add_input(name, ty)));
    }
    for id in graph.order()?.into_iter().filter(|id| nodes.contains(id)) {
        let node = graph.node(id)?;
        let mut op = node.op.clone();
        match &mut op {
            Op::Constant { id } => *id = part.consts.add(graph.consts.get(*id)?.clone()),
            other => {
                for slot in other.regions_mut() {
                    *slot = part.add_region(graph.region(*slot)?.clone());
                }
            }
        }
        let inputs = node.inputs.iter().map(|v| map.get(v).copied()).collect::<Option<Vec<_>>>()?;
        let typed = |v: &ValueId| graph.value(*v).map(|v| (v.name.clone(), v.ty.clone()));
        let results = node.outputs.iter().map(typed).collect::<Option<Vec<_>>>()?;
        let made = part.add(op, inputs, results, node.origin.clone());
        for (v, new) in node.outputs.iter().zip(made) {
            map.entry(*v).or_insert(new);
        }
    }
    part.add_output("y", *map.get(&out)?);
    Some(part)
}

/// The regions that a pass changed, and how many values could not be told apart from their surroundings.
pub(crate) fn regions(before: Stage<'_>, after: Stage<'_>) -> (Vec<Region>, u64) {
    let pairs = matched(before.graph, after.graph);
    let of_after: BTreeMap<ValueId, (&str, ValueId)> =
        pairs.iter().map(|(name, b, a)| (*a, (name.as_str(), *b))).collect();
    // Values that are computed twice before are one value, which may be left once.
    let numbers = Numbering::default().graph(before.graph, before.fixed).unwrap_or_default();
    let (mut found, mut lost) = (Vec::new(), 0);
    for (name, b, a) in &pairs {
        let Some(made) = after.graph.producer(*a).filter(|n| !matches!(n.op, Op::Input {})) else { continue };
        let whole = || -> Option<Option<Region>> {
            let (reads, nodes) = cone(after.graph, *a, &|v| of_after.contains_key(&v))?;
            let (mut old_reads, mut new_reads) = (Vec::new(), Vec::new());
            for v in reads {
                if let Some((name, b)) = of_after.get(&v) {
                    old_reads.push((*b, (*name).to_owned()));
                    new_reads.push((v, (*name).to_owned()));
                }
            }
            let stops: BTreeMap<ValueId, &str> = old_reads.iter().map(|(v, n)| (*v, n.as_str())).collect();
            let same_as: BTreeMap<usize, &str> =
                stops.iter().filter_map(|(v, name)| Some((*numbers.get(v)?, *name))).collect();
            let given = |v: &ValueId| stops.get(v).or_else(|| same_as.get(numbers.get(v)?)).copied();
            // What it was made of may reach back to inputs of the graph that it no longer reads: a mask, a length.
            let input = |v| before.graph.producer(v).is_some_and(|n| matches!(n.op, Op::Input {}));
            let (reads, old) = cone(before.graph, *b, &|v| given(&v).is_some() || input(v))?;
            let (mut twice, mut further) = (Vec::new(), Vec::new());
            for v in reads.into_iter().filter(|v| !stops.contains_key(v)) {
                match given(&v) {
                    Some(name) => twice.push((v, name.to_owned())),
                    None => further.push(pairs.iter().find(|p| p.1 == v)?),
                }
            }
            for (name, b, a) in further {
                old_reads.push((*b, name.clone()));
                new_reads.push((*a, name.clone()));
            }
            let all_reads: Vec<_> = old_reads.iter().cloned().chain(twice).collect();
            let was = cut(before.graph, &all_reads, &old, *b)?;
            let is = cut(after.graph, &new_reads, &nodes, *a)?;
            if same(&was, before.fixed, &is, after.fixed) {
                return Some(None);
            }
            let reads = new_reads.into_iter().map(|r| r.1).collect();
            Some(Some(Region {
                free: free(before.graph, &numbers, &old_reads, [&was, &is]),
                name: name.clone(),
                reads,
                before: was,
                after: is,
                origin: made.origin.clone(),
            }))
        };
        match whole() {
            Some(Some(region)) => found.push(region),
            Some(None) => {}
            None => lost += 1,
        }
    }
    (found, lost)
}

/// Whether two graphs are the same for all inputs.
fn same(was: &Graph, old: &dyn FixedMatrices, is: &Graph, new: &dyn FixedMatrices) -> bool {
    let mut numbering = Numbering::default();
    let both = numbering.graph(was, old).ok().zip(numbering.graph(is, new).ok());
    both.is_some_and(|(a, b)| {
        let (y, z) = (was.outputs().first(), is.outputs().first());
        y.zip(z).is_some_and(|((_, y), (_, z))| a.contains_key(y) && a.get(y) == b.get(z))
    })
}

/// A graph in double precision: constants, inputs and conversions of f32 and halves become f64. Operations that have no double
/// precision refuse when they run.
fn doubled(graph: &Graph) -> Option<Graph> {
    let mut out = graph.clone();
    let mut fits = true;
    let wide = |t: Tensor| eval::eval(&Op::Cast { to: Elem::F64 }, &[t]).ok()?.pop();
    out.each_mut(&mut |g| {
        let ids: Vec<(NodeId, Op)> = g.nodes().map(|(id, n)| (id, n.op.clone())).collect();
        for (id, op) in ids {
            match op {
                Op::Constant { id: c } => {
                    let Some(old) = g.consts.get(c).filter(|c| single(c.elem)).cloned() else {
                        continue;
                    };
                    match old.tensor().ok().and_then(wide) {
                        Some(t) => {
                            if let Some(slot) = g.consts.get_mut(c) {
                                *slot = Const::derived(&t, old.origin.clone(), old.learned);
                            }
                        }
                        None => fits = false,
                    }
                }
                Op::Cast { to } if single(to) => {
                    if let Some((slot, _)) = g.op_mut(id) {
                        *slot = Op::Cast { to: Elem::F64 };
                    }
                }
                _ => {}
            }
        }
        let values: Vec<ValueId> = g.nodes().flat_map(|(_, n)| n.outputs.clone()).collect();
        for v in values {
            if let Some(value) = g.value_mut(v).filter(|v| single(v.ty.elem)) {
                value.ty = OpenType { elem: Elem::F64, shape: value.ty.shape.clone() };
            }
        }
    });
    fits.then_some(out)
}

fn widened(inputs: &Inputs) -> Option<Inputs> {
    let wide = |(name, t): (&String, &Tensor)| {
        let t = match t.elem() {
            e if single(e) => eval::eval(&Op::Cast { to: Elem::F64 }, std::slice::from_ref(t)).ok()?.pop()?,
            _ => t.clone(),
        };
        Some((name.clone(), t))
    };
    inputs.iter().map(wide).collect()
}

/// What a graph, its double and its successor make of an input.
struct Judge<'a> {
    was: Executor<'a, OpenType>,
    exact: Option<Executor<'a, OpenType>>,
    is: Executor<'a, OpenType>,
    slack: f64,
    /// The least unit roundoff.
    unit: f64,
}

impl<'a> Judge<'a> {
    fn new(
        before: Stage<'a>,
        exact: Option<&'a Graph>,
        after: Stage<'a>,
        slack: f64,
    ) -> Result<Judge<'a>, Diagnostics> {
        let exact = exact.map(|g| Executor::new(g, before.fixed)).transpose()?;
        let (was, is) =
            (Executor::new(before.graph, before.fixed)?, Executor::new(after.graph, after.fixed)?);
        let fixed = |id: &NodeId| after.graph.node(*id).is_some_and(|n| n.op.matrix().is_some());
        let unit = if is.steps().iter().any(fixed) { roundoff(Elem::F32) } else { 0.0 };
        Ok(Judge { was, exact, is, slack, unit })
    }

    /// Compares on one input; whether the graph took it.
    fn compare(&self, name: &str, origin: &Origin, given: &Inputs, out: &mut Outcome) -> bool {
        let Ok(want) = self.was.run(given) else { return false };
        let got = match self.is.run(given) {
            Ok(got) => got,
            Err(mut problems) => {
                let note = "before the pass these inputs are taken";
                problems.0.iter_mut().for_each(|d| d.notes.push(note.into()));
                out.problems.extend(problems);
                return true;
            }
        };
        let exact = self.exact.as_ref().zip(widened(given)).and_then(|(e, given)| e.run(&given).ok());
        if exact.is_none() {
            out.count("runs without double precision", 1);
        }
        for (output, want) in &want {
            let Some(got) = got.get(output) else { continue };
            let at = if output == "y" { name.to_owned() } else { format!("output {output}") };
            if (want.elem(), want.shape()) != (got.elem(), got.shape()) || !want.elem().is_float() {
                if let Some(what) = difference(want, got) {
                    out.problems.push(Diagnostic::error(&E0311, format!("{at}: {what}")).at(origin));
                }
                continue;
            }
            let exact = exact.as_ref().and_then(|e| e.get(output)).filter(|e| e.shape() == want.shape());
            if let Some(worst) = worst(want, exact, got, (self.slack, self.unit), &at) {
                if worst.share() > 1.0 {
                    let message = format!(
                        "{at} errs by {:.3e} where rounding in another order explains {:.3e}",
                        worst.error, worst.bound
                    );
                    out.problems.push(Diagnostic::error(&E0311, message).at(origin));
                }
                Worst::keep(&mut out.worst, worst);
            }
        }
        true
    }
}

/// Half the distance from 1 to the next number.
fn roundoff(elem: Elem) -> f64 {
    match elem {
        Elem::F64 => f64::EPSILON / 2.0,
        Elem::F16 => 1.0 / f64::from(1u32 << 11),
        Elem::BF16 => 1.0 / f64::from(1u32 << 8),
        _ => f64::from(f32::EPSILON) / 2.0,
    }
}

/// The largest finite number.
fn largest_of(elem: Elem) -> f64 {
    match elem {
        Elem::F64 => f64::MAX,
        Elem::F16 => 65504.0,
        _ => f64::from(f32::MAX),
    }
}

/// Whether double precision stands in for a type.
fn single(elem: Elem) -> bool {
    matches!(elem, Elem::F32 | Elem::F16 | Elem::BF16)
}

/// The error of `got` against `exact`, and what the error of `want` allows, times a slack and with a least unit roundoff.
fn worst(
    want: &Tensor,
    exact: Option<&Tensor>,
    got: &Tensor,
    (slack, unit): (f64, f64),
    at: &str,
) -> Option<Worst> {
    let unit = roundoff(want.elem()).max(unit);
    let near = OVERFLOW * largest_of(want.elem());
    let known = exact.is_some();
    let [want, exact, got] = [want, exact.unwrap_or(want), got].map(|t| doubles(t).unwrap_or_default());
    let overflows = want.iter().chain(&exact).any(|v| v.abs() > near || v.is_nan());
    let (mut largest, mut before, mut after) = (0f64, 0f64, 0f64);
    for ((w, e), g) in want.iter().zip(&exact).zip(&got) {
        if !w.is_finite() || !e.is_finite() || overflows && !g.is_finite() {
            continue;
        }
        largest = largest.max(e.abs()).max(w.abs());
        before = before.max((w - e).abs());
        let error = (g - e).abs();
        after = if error.is_nan() { f64::INFINITY } else { after.max(error) };
    }
    let before = if known { before } else { UNITS * unit * largest };
    let bound = slack * before + UNITS * unit * largest + f64::from(f32::MIN_POSITIVE);
    (!want.is_empty()).then(|| Worst { error: after, bound, at: at.to_owned() })
}

/// Compares the regions that a pass changed, then the outputs of the whole.
pub(super) fn check(
    before: Stage<'_>,
    after: Stage<'_>,
    inputs: &[Inputs],
    out: &mut Outcome,
) -> Result<(), Diagnostics> {
    let (regions, lost) = regions(before, after);
    out.count("regions", regions.len() as u64);
    if lost > 0 {
        out.count("values in no region", lost);
    }
    let bound = regions.iter().filter(|r| !r.free).count() as u64;
    if bound > 0 {
        out.count("regions of the model's values alone", bound);
    }
    // The values that regions read, by the names of the pairs.
    let wanted: BTreeSet<&str> = regions.iter().flat_map(|r| r.reads.iter().map(String::as_str)).collect();
    let pairs: Vec<_> =
        matched(before.graph, after.graph).into_iter().filter(|p| wanted.contains(p.0.as_str())).collect();
    let watched = watching(before.graph, pairs.iter().map(|p| p.1));
    let watch = Executor::new(&watched, before.fixed)?;
    let exact: Vec<Option<Graph>> = regions.iter().map(|r| doubled(&r.before)).collect();
    let judges = regions.iter().zip(&exact).map(|(r, exact)| {
        let stage = |graph, fixed| Stage { graph, fixed };
        Judge::new(stage(&r.before, before.fixed), exact.as_ref(), stage(&r.after, after.fixed), SLACK)
    });
    let judges = judges.collect::<Result<Vec<_>, _>>()?;
    let whole = doubled(before.graph);
    let outputs = Judge::new(before, whole.as_ref(), after, SLACK_WHOLE)?;
    let mut seen = 0u64;
    for given in inputs {
        if !outputs.compare("", &Origin::default(), given, out) {
            out.count("inputs refused", 1);
            continue;
        }
        seen += 1;
        out.by(Method::Interpreter);
        let Ok(values) = watch.run(given) else { continue };
        let values: Inputs = pairs
            .iter()
            .enumerate()
            .filter_map(|(i, p)| Some((p.0.clone(), values.get(&i.to_string())?.clone())))
            .collect();
        for (region, judge) in regions.iter().zip(&judges) {
            let read: Inputs =
                region.reads.iter().filter_map(|n| Some((n.clone(), values.get(n)?.clone()))).collect();
            let scales = if seen == 1 && region.free { &SCALES[..] } else { &[] };
            let variants: Vec<Inputs> = scales.iter().map(|s| scaled(&read, *s)).collect();
            for read in std::iter::once(read).chain(variants) {
                let ran = judge.compare(&region.name, &region.origin, &read, out);
                out.count(if ran { "runs of regions" } else { "runs of regions refused" }, 1);
            }
        }
    }
    out.count("inputs", seen);
    // One problem a place is enough.
    let mut places = BTreeSet::new();
    out.problems
        .0
        .retain(|d| places.insert((d.code.id, d.message.split(" errs by").next().map(str::to_owned))));
    Ok(())
}

/// Inputs whose floats are multiplied.
fn scaled(inputs: &Inputs, by: f32) -> Inputs {
    let cast = |t: &Tensor, to| eval::eval(&Op::Cast { to }, std::slice::from_ref(t)).ok()?.pop();
    let times = |t: &Tensor| {
        let wide = cast(t, Elem::F32).filter(|_| single(t.elem()))?;
        let x = wide.as_slice::<f32>().ok()?.iter().map(|v| v * by).collect();
        cast(&Tensor::new(t.shape().to_vec(), x).ok()?, t.elem())
    };
    let times = |t: &Tensor| times(t).unwrap_or_else(|| t.clone());
    inputs.iter().map(|(n, t)| (n.clone(), times(t))).collect()
}
