//! Control flow: `If`, `Loop` and `Scan` become regions of the graph.

use pfmc_ir::diag::Diagnostic;
use pfmc_ir::elem::Elem;
use pfmc_ir::graph::{Graph, ValueId};
use pfmc_ir::infer::{self, Fact};
use pfmc_ir::op::Op;
use pfmc_ir::shape::OpenType;
use pfmc_ir::tensor::Tensor;

use super::{MANY, OpInfo, op};
use crate::onnx::codes::{E0107, E0112};
use crate::onnx::import::Region;
use crate::onnx::lower::{Ctx, R};
use crate::onnx::proto::GraphProto;

pub(super) static CONTROL: &[OpInfo] = &[
    op(
        "If",
        7,
        (1, 1),
        &["else_branch", "then_branch"],
        "tensors only; a constant condition takes its branch",
        if_,
    ),
    op("Loop", 7, (1, MANY), &["body"], "tensors only", loop_),
    op(
        "Scan",
        9,
        (1, MANY),
        &[
            "body",
            "num_scan_inputs",
            "scan_input_axes",
            "scan_input_directions",
            "scan_output_axes",
            "scan_output_directions",
        ],
        "lowered to a loop; the batched form of opset 8 is not supported",
        scan,
    ),
];

/// Times that a body is imported again because what it carries changes its type.
const ROUNDS: usize = 4;

fn output_types(g: &Graph) -> Vec<OpenType> {
    let ty = |v: &ValueId| g.value(*v).map_or_else(|| OpenType::unknown(Elem::F32), |v| v.ty.clone());
    g.outputs().iter().map(|(_, v)| ty(v)).collect()
}

fn if_(c: &mut Ctx) -> R<Vec<ValueId>> {
    let condition = c.x(0)?;
    if c.elem(condition) != Elem::Bool {
        return Err(Ctx::form("the condition must be bool"));
    }
    let (yes, no) = (c.attrs.graph("then_branch")?, c.attrs.graph("else_branch")?);
    if let Some(taken) = c.number_if_constant(0) {
        let region = c.subgraph(if taken != 0.0 { yes } else { no }, &[], &[])?;
        let args = c.named(&region.captured);
        return c.inline(&region.graph, &args);
    }
    let mut first = c.subgraph(yes, &[], &[])?;
    let second = c.subgraph(no, &[], &first.captured)?;
    let shared = first.captured.len();
    for name in &second.captured[shared..] {
        let v = c.named(std::slice::from_ref(name))[0];
        first.graph.add_input(name, c.ty(v));
    }
    let results = second.graph.outputs().len();
    if first.graph.outputs().len() != results {
        let message = format!("the branches have {} and {results} outputs", first.graph.outputs().len());
        return Err(Diagnostic::error(&E0107, message).into());
    }
    let mut inputs = vec![condition];
    inputs.extend(c.named(&second.captured));
    let then_region = c.add_region(first.graph);
    let else_region = c.add_region(second.graph);
    c.many(Op::If { then_region, else_region, results: results as i64 }, &inputs)
}

/// Imports a body whose inputs from `first` on are carried to its outputs from `output` on, as often as
/// their types change. `given` are the types of its inputs at the start.
fn steady(c: &mut Ctx, g: &GraphProto, given: &mut [OpenType], first: usize, output: usize) -> R<Region> {
    for round in 0..ROUNDS {
        let trial = c.trial(g, given);
        let Some(region) = &trial.region else { return c.settle(trial) };
        let found = output_types(&region.graph);
        let mut changed = false;
        for (ty, next) in given[first..].iter_mut().zip(found.iter().skip(output)) {
            let joined = infer::join(&Fact::of(ty.clone()), &Fact::of(next.clone()));
            let joined =
                joined.map_err(|e| Diagnostic::error(&E0112, format!("what a loop carries: {e}")))?.ty;
            changed |= joined != *ty;
            *ty = joined;
        }
        if !changed {
            return c.settle(trial);
        }
        if round + 1 == ROUNDS {
            given[first..].iter_mut().for_each(|ty| ty.shape = None);
        }
    }
    c.subgraph(g, given, &[])
}

fn scalar(elem: Elem) -> OpenType {
    OpenType { elem, shape: Some(Vec::new()) }
}

/// A value as a scalar: counts and conditions may have rank 1 and length 1.
fn one_element(c: &mut Ctx, v: ValueId) -> R<ValueId> {
    match c.dims(v).as_deref() {
        Some([_]) => c.op(Op::Squeeze { axes: vec![0] }, &[v]),
        _ => Ok(v),
    }
}

fn loop_(c: &mut Ctx) -> R<Vec<ValueId>> {
    let body = c.attrs.graph("body")?;
    let trips = match c.opt(0)? {
        Some(v) => {
            let v = c.as_i64(v)?;
            one_element(c, v)?
        }
        None => c.int_scalar(i64::MAX),
    };
    let go = match c.opt(1)? {
        Some(v) => one_element(c, v)?,
        None => c.make(&Tensor::scalar(true), false),
    };
    let mut inputs = vec![trips, go];
    let mut given = vec![scalar(Elem::I64), scalar(Elem::Bool)];
    for i in 2..c.input_count() {
        let v = c.x(i)?;
        given.push(c.ty(v));
        inputs.push(v);
    }
    let carried = inputs.len() - 2;
    let region = steady(c, body, &mut given, 2, 1)?;
    let results = region.graph.outputs().len();
    if results < 1 + carried {
        let message = format!("the body carries {carried} values and has {results} outputs");
        return Err(Diagnostic::error(&E0107, message).into());
    }
    inputs.extend(c.named(&region.captured));
    let body = c.add_region(region.graph);
    c.many(Op::Loop { body, carried: carried as i64, results: (results - 1) as i64 }, &inputs)
}

/// One entry of an attribute list, 0 where the list is left out.
fn entry(list: &Option<Vec<i64>>, i: usize) -> i64 {
    list.as_ref().and_then(|l| l.get(i)).copied().unwrap_or(0)
}

fn scan(c: &mut Ctx) -> R<Vec<ValueId>> {
    let body = c.attrs.graph("body")?;
    let scans = c.attrs.int("num_scan_inputs")?.unwrap_or(0);
    let (axes, directions) = (c.attrs.ints("scan_input_axes")?, c.attrs.ints("scan_input_directions")?);
    let out_axes = c.attrs.ints("scan_output_axes")?;
    let out_directions = c.attrs.ints("scan_output_directions")?;
    let all = c.all()?;
    let states = usize::try_from(scans).ok().filter(|s| *s > 0).and_then(|s| all.len().checked_sub(s));
    let states =
        states.ok_or_else(|| Ctx::value_of("num_scan_inputs", scans, "1 to the number of inputs"))?;
    let mut given: Vec<OpenType> = all[..states].iter().map(|v| c.ty(*v)).collect();
    let mut scanned = Vec::new();
    for (i, &v) in all[states..].iter().enumerate() {
        let mut ty = c.ty(v);
        let mut axis = entry(&axes, i);
        if let Some(shape) = &mut ty.shape {
            let at = pfmc_ir::tensor::axis(axis, shape.len()).map_err(Ctx::form)?;
            shape.remove(at);
            axis = at as i64;
        }
        given.push(ty);
        scanned.push((v, axis, entry(&directions, i) == 1));
    }
    let inner = steady(c, body, &mut given, 0, 0)?;
    let results = inner.graph.outputs().len();
    if results < states {
        let message = format!("the body carries {states} values and has {results} outputs");
        return Err(Diagnostic::error(&E0107, message).into());
    }
    let (first, axis, _) = scanned[0];
    let length =
        c.op(Op::Shape { start: axis, end: if axis == -1 { i64::MAX } else { axis + 1 } }, &[first])?;
    let trips = c.op(Op::Squeeze { axes: vec![0] }, &[length])?;
    let go = c.make(&Tensor::scalar(true), false);
    let captured = c.named(&inner.captured);
    let mut inputs = vec![trips, go];
    inputs.extend(&all[..states]);
    inputs.extend(&all[states..]);
    inputs.push(trips);
    inputs.extend(&captured);
    let mut facts: Vec<(String, Fact)> =
        vec![("iteration".into(), Fact::of(scalar(Elem::I64))), ("go".into(), Fact::of(scalar(Elem::Bool)))];
    facts.extend(
        given[..states].iter().enumerate().map(|(i, ty)| (format!("state{i}"), Fact::of(ty.clone()))),
    );
    facts.extend(all[states..].iter().enumerate().map(|(i, v)| (format!("scan{i}"), c.fact(*v))));
    facts.push(("length".into(), c.fact(trips)));
    facts.extend(captured.iter().enumerate().map(|(i, v)| (format!("captured{i}"), c.fact(*v))));
    let body = c.region(facts, |c, values| {
        let (state, rest) = values[2..].split_at(states);
        let (whole, rest) = rest.split_at(scanned.len());
        let (length, captured) = (rest[0], &rest[1..]);
        let mut args = state.to_vec();
        for (&v, &(_, axis, backward)) in whole.iter().zip(&scanned) {
            let at = if backward { c.last_less(length, values[0])? } else { values[0] };
            args.push(c.op(Op::Gather { axis }, &[v, at])?);
        }
        args.extend(captured);
        let made = c.inline(&inner.graph, &args)?;
        let named = made.into_iter().enumerate().map(|(i, v)| (format!("out{i}"), v));
        Ok(std::iter::once(("go".to_owned(), values[1])).chain(named).collect())
    })?;
    let mut made = c.many(Op::Loop { body, carried: states as i64, results: results as i64 }, &inputs)?;
    for (i, v) in made[states..].iter_mut().enumerate() {
        if entry(&out_directions, i) == 1 {
            *v = c.reversed(*v, 0)?;
        }
        let axis = entry(&out_axes, i);
        if axis != 0 {
            let rank = c.rank(*v)?;
            let at = pfmc_ir::tensor::axis(axis, rank).map_err(Ctx::form)?;
            let mut perm: Vec<i64> = (1..rank as i64).collect();
            perm.insert(at, 0);
            *v = c.op(Op::Transpose { perm }, &[*v])?;
        }
    }
    Ok(made)
}
