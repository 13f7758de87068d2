//! Operators that select by value, and that change elements by index.

use pfmc_ir::diag::Diagnostic;
use pfmc_ir::elem::Elem;
use pfmc_ir::graph::ValueId;
use pfmc_ir::op::{BinaryFn as B, Op, ScatterFn};

use super::axes::NUMBERS;
use super::{FLOATS, OpInfo, op};
use crate::onnx::codes::{E0105, E0107};
use crate::onnx::lower::{Ctx, R};
use crate::onnx::tensor::elem_type;

const ARG: &[&str] = &["axis", "keepdims", "select_last_index"];

pub(super) static SELECT: &[OpInfo] = &[
    op("ArgMax", 7, (1, 1), ARG, "", |c| arg(c, true)).on(NUMBERS),
    op("ArgMin", 7, (1, 1), ARG, "", |c| arg(c, false)).on(NUMBERS),
    op("Compress", 9, (2, 2), &["axis"], "lowered to non_zero and gather", compress),
    op("EyeLike", 9, (1, 1), &["dtype", "k"], "lowered", eye_like),
    op("Hardmax", 7, (1, 1), &["axis"], "lowered to arg_reduce and a comparison", hardmax).on(FLOATS),
    op("NonZero", 9, (1, 1), &[], "", non_zero),
    op(
        "OneHot",
        9,
        (3, 3),
        &["axis"],
        "lowered to comparisons; needs a known rank unless axis is -1",
        one_hot,
    ),
    op("ReverseSequence", 10, (2, 2), &["batch_axis", "time_axis"], "lowered to gather_nd", reverse_sequence),
    op("Scatter", 9, (3, 3), &["axis"], "as ScatterElements; not after opset 10", scatter_elements),
    op(
        "ScatterElements",
        11,
        (3, 3),
        &["axis", "reduction"],
        "updates are applied in their order; reductions of numbers",
        scatter_elements,
    ),
    op(
        "ScatterND",
        11,
        (3, 3),
        &["reduction"],
        "updates are applied in their order; reductions of numbers",
        scatter_nd,
    ),
    op(
        "TensorScatter",
        24,
        (2, 3),
        &["axis", "mode"],
        "lowered to scatter_nd; needs a known rank",
        tensor_scatter,
    ),
    op("TopK", 7, (1, 2), &["axis", "k", "largest", "sorted"], "always sorted", top_k).on(NUMBERS),
    op("Unique", 11, (1, 1), &["axis", "sorted"], "", unique),
];

fn arg_of(c: &mut Ctx, x: ValueId, axis: i64, keepdims: bool, largest: bool) -> R<ValueId> {
    let last = c.attrs.flag("select_last_index", false)?;
    c.op(Op::ArgReduce { axis, keepdims, largest, last }, &[x])
}

fn arg(c: &mut Ctx, largest: bool) -> R<Vec<ValueId>> {
    let axis = c.attrs.int("axis")?.unwrap_or(0);
    let keepdims = c.attrs.flag("keepdims", true)?;
    let x = c.x(0)?;
    Ok(vec![arg_of(c, x, axis, keepdims, largest)?])
}

/// 1 at the first largest element along the axis, 0 elsewhere.
fn hardmax(c: &mut Ctx) -> R<Vec<ValueId>> {
    super::along_axis(c, |c, x, axis| {
        let found = arg_of(c, x, axis, true, true)?;
        let n = c.length_of(x, axis)?;
        let all = c.count_to(n)?;
        let trailing = if axis < 0 { -1 - axis } else { c.rank(x)? as i64 - 1 - axis };
        let all = c.op(Op::Unsqueeze { axes: (1..=trailing).collect() }, &[all])?;
        let hit = c.bin(B::Equal, found, all)?;
        let to = c.elem(x);
        c.op(Op::Cast { to }, &[hit])
    })
}

fn flat(c: &mut Ctx, x: ValueId) -> R<ValueId> {
    let all = c.vector(vec![-1]);
    c.op(Op::Reshape { allow_zero: false }, &[x, all])
}

fn scalar(c: &mut Ctx, x: ValueId) -> R<ValueId> {
    let none = c.vector(Vec::new());
    c.op(Op::Reshape { allow_zero: true }, &[x, none])
}

fn compress(c: &mut Ctx) -> R<Vec<ValueId>> {
    let axis = c.attrs.int("axis")?;
    let (mut x, condition) = (c.x(0)?, c.x(1)?);
    if c.elem(condition) != Elem::Bool {
        return Err(Ctx::form(format!("the condition is {} and must be bool", c.elem(condition))));
    }
    let condition = flat(c, condition)?;
    let found = c.op(Op::NonZero {}, &[condition])?;
    let found = c.op(Op::Squeeze { axes: vec![0] }, &[found])?;
    if axis.is_none() {
        x = flat(c, x)?;
    }
    Ok(vec![c.op(Op::Gather { axis: axis.unwrap_or(0) }, &[x, found])?])
}

fn non_zero(c: &mut Ctx) -> R<Vec<ValueId>> {
    let x = c.x(0)?;
    Ok(vec![c.op(Op::NonZero {}, &[x])?])
}

fn unique(c: &mut Ctx) -> R<Vec<ValueId>> {
    let (axis, sorted) = (c.attrs.int("axis")?, c.attrs.flag("sorted", true)?);
    let mut x = c.x(0)?;
    if axis.is_none() {
        x = flat(c, x)?;
    }
    c.many(Op::Unique { axis: axis.unwrap_or(0), sorted }, &[x])
}

fn top_k(c: &mut Ctx) -> R<Vec<ValueId>> {
    let axis = c.attrs.int("axis")?.unwrap_or(-1);
    let largest = c.attrs.flag("largest", true)?;
    // Sorted is one of the orders that unsorted allows.
    c.attrs.flag("sorted", true)?;
    let x = c.x(0)?;
    let k = match c.attrs.int("k")? {
        Some(k) => c.vector(vec![k]),
        None if c.has(1) => c.i64_input(1)?,
        None => return Err(Diagnostic::error(&E0107, "the node has no k").into()),
    };
    c.many(Op::TopK { axis, largest }, &[x, k])
}

fn one_hot(c: &mut Ctx) -> R<Vec<ValueId>> {
    let axis = c.attrs.int("axis")?.unwrap_or(-1);
    let (indices, depth, values) = (c.x(0)?, c.x(1)?, c.x(2)?);
    let whole = |c: &mut Ctx, v: ValueId| match c.elem(v) {
        Elem::I64 => Ok(v),
        _ => c.op(Op::Cast { to: Elem::I64 }, &[v]),
    };
    let (indices, depth) = (whole(c, indices)?, whole(c, depth)?);
    let depth = scalar(c, depth)?;
    let trailing = if axis == -1 {
        0
    } else {
        let rank = c.rank(indices)?;
        (rank - pfmc_ir::tensor::axis(axis, rank + 1).map_err(Ctx::form)?) as i64
    };
    let classes = c.count_to(depth)?;
    let classes = c.op(Op::Unsqueeze { axes: (1..=trailing).collect() }, &[classes])?;
    let indices = c.op(Op::Unsqueeze { axes: vec![axis] }, &[indices])?;
    // Indices count from the end when negative; others out of range hit no class.
    let hit = c.bin(B::Equal, indices, classes)?;
    let from_end = c.bin(B::Add, indices, depth)?;
    let from_end = c.bin(B::Equal, from_end, classes)?;
    let hit = c.bin(B::Or, hit, from_end)?;
    let pick = |c: &mut Ctx, i: i64| {
        let i = c.int_scalar(i);
        c.op(Op::Gather { axis: 0 }, &[values, i])
    };
    let (off, on) = (pick(c, 0)?, pick(c, 1)?);
    Ok(vec![c.op(Op::Where {}, &[hit, on, off])?])
}

fn eye_like(c: &mut Ctx) -> R<Vec<ValueId>> {
    let (dtype, k) = (c.attrs.int("dtype")?, c.attrs.int("k")?.unwrap_or(0));
    let x = c.x(0)?;
    if c.dims(x).is_some_and(|d| d.len() != 2) {
        return Err(Ctx::form("the operand must have rank 2"));
    }
    let to = match dtype {
        None => c.elem(x),
        Some(t) => i32::try_from(t)
            .ok()
            .and_then(elem_type)
            .ok_or_else(|| Ctx::value_of("dtype", t, "numbers and bool"))?,
    };
    let (m, n) = (c.length_of(x, 0)?, c.length_of(x, 1)?);
    let (rows, columns) = (c.count_to(m)?, c.count_to(n)?);
    let rows = c.op(Op::Unsqueeze { axes: vec![1] }, &[rows])?;
    let k = c.int_scalar(k);
    let rows = c.bin(B::Add, rows, k)?;
    let hit = c.bin(B::Equal, rows, columns)?;
    Ok(vec![c.op(Op::Cast { to }, &[hit])?])
}

/// Both axes first, and the way back.
fn two_first(first: usize, second: usize, rank: usize) -> (Vec<i64>, Vec<i64>) {
    let rest = (0..rank).filter(|d| *d != first && *d != second);
    let perm: Vec<usize> = [first, second].into_iter().chain(rest).collect();
    let mut back = vec![0; rank];
    for (i, &p) in perm.iter().enumerate() {
        back[p] = i as i64;
    }
    (perm.into_iter().map(|p| p as i64).collect(), back)
}

fn reverse_sequence(c: &mut Ctx) -> R<Vec<ValueId>> {
    let (batch, time) = (c.attrs.int("batch_axis")?.unwrap_or(1), c.attrs.int("time_axis")?.unwrap_or(0));
    let x = c.x(0)?;
    let lengths = c.i64_input(1)?;
    let rank = c.rank(x)?;
    let axis = |a| pfmc_ir::tensor::axis(a, rank).map_err(Ctx::form);
    let (batch, time) = (axis(batch)?, axis(time)?);
    if batch == time {
        return Err(Ctx::value_of("time_axis", time, "another axis than batch_axis"));
    }
    let (perm, back) = two_first(batch, time, rank);
    let x = c.op(Op::Transpose { perm }, &[x])?;
    let steps = c.length_of(x, 1)?;
    let steps = c.count_to(steps)?;
    let lengths = c.op(Op::Unsqueeze { axes: vec![1] }, &[lengths])?;
    let inside = c.bin(B::Less, steps, lengths)?;
    let last = c.with(B::Sub, lengths, 1.0)?;
    let turned = c.bin(B::Sub, last, steps)?;
    let from = c.op(Op::Where {}, &[inside, turned, steps])?;
    let from = c.op(Op::Unsqueeze { axes: vec![2] }, &[from])?;
    let y = c.op(Op::GatherNd { batch_dims: 1 }, &[x, from])?;
    Ok(vec![c.op(Op::Transpose { perm: back }, &[y])?])
}

fn reduction(c: &mut Ctx) -> R<ScatterFn> {
    Ok(match c.attrs.string("reduction")?.as_deref() {
        None | Some("none") => ScatterFn::Replace,
        Some("add") => ScatterFn::Add,
        Some("mul") => ScatterFn::Mul,
        Some("max") => ScatterFn::Max,
        Some("min") => ScatterFn::Min,
        Some(other) => return Err(Ctx::value_of("reduction", other, "none, add, mul, max, min")),
    })
}

fn scatter_elements(c: &mut Ctx) -> R<Vec<ValueId>> {
    let axis = c.attrs.int("axis")?.unwrap_or(0);
    let f = reduction(c)?;
    let x = c.x(0)?;
    let indices = c.i64_input(1)?;
    let updates = c.x(2)?;
    Ok(vec![c.op(Op::ScatterElements { axis, f }, &[x, updates, indices])?])
}

fn scatter_nd(c: &mut Ctx) -> R<Vec<ValueId>> {
    let f = reduction(c)?;
    let x = c.x(0)?;
    let indices = c.i64_input(1)?;
    let updates = c.x(2)?;
    Ok(vec![c.op(Op::ScatterNd { f }, &[x, updates, indices])?])
}

/// Writes `update` into a cache along a sequence axis, from a place of its own for each batch entry.
fn tensor_scatter(c: &mut Ctx) -> R<Vec<ValueId>> {
    let axis = c.attrs.int("axis")?.unwrap_or(-2);
    let circular = match c.attrs.string("mode")?.as_deref() {
        None | Some("linear") => false,
        Some("circular") => true,
        Some(other) => return Err(Ctx::value_of("mode", other, "linear, circular")),
    };
    let (cache, update) = (c.x(0)?, c.x(1)?);
    let rank = c.rank(cache)?;
    let axis = pfmc_ir::tensor::axis(axis, rank).map_err(Ctx::form)?;
    if axis == 0 {
        return Err(Diagnostic::error(&E0105, "attribute axis names the batch axis").into());
    }
    let (perm, back) = two_first(0, axis, rank);
    let cache = c.op(Op::Transpose { perm: perm.clone() }, &[cache])?;
    let update = c.op(Op::Transpose { perm }, &[update])?;
    // Places [batch, sequence, 2]: batch entry, and place along the sequence.
    let (n, room) = (c.length_of(update, 1)?, c.length_of(cache, 1)?);
    let mut at = c.count_to(n)?;
    if c.has(2) {
        let first = c.i64_input(2)?;
        let first = c.op(Op::Unsqueeze { axes: vec![1] }, &[first])?;
        at = c.bin(B::Add, first, at)?;
    }
    if circular {
        at = c.bin(B::Mod, at, room)?;
    }
    let entries = c.length_of(update, 0)?;
    let entries = c.count_to(entries)?;
    let entries = c.op(Op::Unsqueeze { axes: vec![1] }, &[entries])?;
    let shape = c.op(Op::Shape { start: 0, end: 2 }, &[update])?;
    let last = Op::Unsqueeze { axes: vec![2] };
    let mut parts = Vec::new();
    for v in [entries, at] {
        let v = c.op(Op::Expand {}, &[v, shape])?;
        parts.push(c.op(last.clone(), &[v])?);
    }
    let places = c.op(Op::Concat { axis: 2 }, &parts)?;
    let y = c.op(Op::ScatterNd { f: ScatterFn::Replace }, &[cache, update, places])?;
    Ok(vec![c.op(Op::Transpose { perm: back }, &[y])?])
}
