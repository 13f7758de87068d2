//! Operators whose axes or sizes are attributes or, in newer operator sets, operands: constant ones
//! become attributes, computed ones stay operands.

use pfmc_ir::diag::Diagnostic;
use pfmc_ir::elem::Elem;
use pfmc_ir::graph::ValueId;
use pfmc_ir::op::{BinaryFn as B, Op, ReduceFn as Rf, UnaryFn as U};
use pfmc_ir::shape::Dim;

use super::{OpInfo, op};
use crate::onnx::codes::E0107;
use crate::onnx::lower::{Ctx, R};

const REDUCE: &[&str] = &["axes", "keepdims", "noop_with_empty_axes"];
pub(super) const NUMBERS: &[Elem] = &[
    Elem::F32,
    Elem::F64,
    Elem::F16,
    Elem::BF16,
    Elem::I64,
    Elem::I32,
    Elem::I16,
    Elem::I8,
    Elem::U64,
    Elem::U32,
    Elem::U16,
    Elem::U8,
];
const ORDERED: &[Elem] = &[
    Elem::F32,
    Elem::F64,
    Elem::F16,
    Elem::BF16,
    Elem::I64,
    Elem::I32,
    Elem::I16,
    Elem::I8,
    Elem::U64,
    Elem::U32,
    Elem::U16,
    Elem::U8,
    Elem::Bool,
];

pub(super) static AXES: &[OpInfo] = &[
    op("ReduceL1", 7, (1, 2), REDUCE, "lowered", |c| reduce(c, Rf::Sum, Some(U::Abs), None)).on(NUMBERS),
    op("ReduceL2", 7, (1, 2), REDUCE, "lowered", |c| reduce_square(c, Some(U::Sqrt))).on(NUMBERS),
    op("ReduceLogSum", 7, (1, 2), REDUCE, "lowered", |c| reduce(c, Rf::Sum, None, Some(U::Log))).on(NUMBERS),
    op("ReduceLogSumExp", 7, (1, 2), REDUCE, "lowered, without overflow", reduce_log_sum_exp).on(NUMBERS),
    op("ReduceMax", 7, (1, 2), REDUCE, "", |c| reduce(c, Rf::Max, None, None)).on(ORDERED),
    op("ReduceMean", 7, (1, 2), REDUCE, "", |c| reduce(c, Rf::Mean, None, None)).on(NUMBERS),
    op("ReduceMin", 7, (1, 2), REDUCE, "", |c| reduce(c, Rf::Min, None, None)).on(ORDERED),
    op("ReduceProd", 7, (1, 2), REDUCE, "", |c| reduce(c, Rf::Prod, None, None)).on(NUMBERS),
    op("ReduceSum", 7, (1, 2), REDUCE, "", |c| reduce(c, Rf::Sum, None, None)).on(NUMBERS),
    op("ReduceSumSquare", 7, (1, 2), REDUCE, "lowered", |c| reduce_square(c, None)).on(NUMBERS),
    op("Split", 7, (1, 2), &["axis", "num_outputs", "split"], "", split),
    op("Squeeze", 7, (1, 2), &["axes"], "", squeeze),
    op("Unsqueeze", 7, (1, 2), &["axes"], "", unsqueeze),
];

/// What a reduction reduces over.
pub(super) enum Over {
    /// Nothing.
    None,
    /// Axes, ascending.
    Axes(Vec<i64>),
    /// The elements of an i64 vector; all axes when it has none, or no axis with the flag.
    Computed(ValueId, bool),
}

impl Over {
    /// All axes of a value.
    pub(super) fn all(c: &mut Ctx, x: ValueId) -> Over {
        match c.dims(x) {
            Some(d) => Over::Axes((0..d.len() as i64).collect()),
            None => Over::Computed(c.vector(Vec::new()), false),
        }
    }

    /// The node's.
    fn of(c: &mut Ctx, x: ValueId) -> R<Over> {
        let noop = c.attrs.flag("noop_with_empty_axes", false)?;
        let (known, computed) = c.ints_or_value("axes", 1)?;
        let rank = c.dims(x).map(|d| d.len());
        match (known.filter(|a| !a.is_empty()), computed) {
            (Some(axes), _) => Ok(Over::Axes(c.axes_from_end(&axes, rank)?)),
            (None, Some(axes)) => Ok(Over::Computed(axes, noop)),
            (None, None) if noop => Ok(Over::None),
            (None, None) => Ok(Over::all(c, x)),
        }
    }

    /// Reduces.
    pub(super) fn fold(&self, c: &mut Ctx, f: Rf, x: ValueId, keepdims: bool) -> R<ValueId> {
        match self {
            Over::None => Ok(x),
            Over::Axes(axes) => c.op(Op::Reduce { f, axes: axes.clone(), keepdims }, &[x]),
            Over::Computed(axes, noop) => c.op(Op::ReduceOver { f, keepdims, noop: *noop }, &[x, *axes]),
        }
    }
}

/// A float function of a number: of an integer in f64, truncated.
fn real(c: &mut Ctx, f: U, x: ValueId) -> R<ValueId> {
    let elem = c.elem(x);
    if elem.is_float() {
        return c.un(f, x);
    }
    let wide = c.op(Op::Cast { to: Elem::F64 }, &[x])?;
    let wide = c.un(f, wide)?;
    c.op(Op::Cast { to: elem }, &[wide])
}

fn reduce(c: &mut Ctx, f: Rf, before: Option<U>, after: Option<U>) -> R<Vec<ValueId>> {
    let keepdims = c.attrs.flag("keepdims", true)?;
    let mut x = c.x(0)?;
    let over = Over::of(c, x)?;
    let bool = c.elem(x) == Elem::Bool;
    if bool {
        x = c.op(Op::Cast { to: Elem::U8 }, &[x])?;
    }
    if let Some(u) = before {
        x = c.un(u, x)?;
    }
    x = over.fold(c, f, x, keepdims)?;
    if bool {
        x = c.op(Op::Cast { to: Elem::Bool }, &[x])?;
    }
    if let Some(u) = after {
        x = real(c, u, x)?;
    }
    Ok(vec![x])
}

fn reduce_square(c: &mut Ctx, after: Option<U>) -> R<Vec<ValueId>> {
    let keepdims = c.attrs.flag("keepdims", true)?;
    let x = c.x(0)?;
    let over = Over::of(c, x)?;
    let x = c.bin(B::Mul, x, x)?;
    let mut x = over.fold(c, Rf::Sum, x, keepdims)?;
    if let Some(u) = after {
        x = real(c, u, x)?;
    }
    Ok(vec![x])
}

/// log sum e^x as m + log sum e^(x - m) with the largest element m, or 0 where that is infinite.
fn reduce_log_sum_exp(c: &mut Ctx) -> R<Vec<ValueId>> {
    let keepdims = c.attrs.flag("keepdims", true)?;
    let mut x = c.x(0)?;
    let over = Over::of(c, x)?;
    let elem = c.elem(x);
    if !elem.is_float() {
        x = c.op(Op::Cast { to: Elem::F64 }, &[x])?;
    }
    let top = over.fold(c, Rf::Max, x, true)?;
    let size = c.un(U::Abs, top)?;
    let infinite = c.with(B::Equal, size, f64::INFINITY)?;
    let zero = c.number_like(0.0, top)?;
    let top = c.op(Op::Where {}, &[infinite, zero, top])?;
    let e = c.bin(B::Sub, x, top)?;
    let e = c.un(U::Exp, e)?;
    let sum = over.fold(c, Rf::Sum, e, keepdims)?;
    let sum = c.un(U::Log, sum)?;
    // Over the same axes, of length 1 by now.
    let top = if keepdims { top } else { over.fold(c, Rf::Max, top, false)? };
    let mut y = c.bin(B::Add, sum, top)?;
    if !elem.is_float() {
        y = c.op(Op::Cast { to: elem }, &[y])?;
    }
    Ok(vec![y])
}

fn split(c: &mut Ctx) -> R<Vec<ValueId>> {
    let axis = c.attrs.int("axis")?.unwrap_or(0);
    let declared = c.attrs.int("num_outputs")?;
    let (sizes, computed) = c.ints_or_value("split", 1)?;
    let x = c.x(0)?;
    let n = c.output_count();
    if n == 0 {
        return Err(Diagnostic::error(&E0107, "the node has no outputs").into());
    }
    if let Some(sizes) = sizes {
        if sizes.len() != n {
            return Err(Diagnostic::error(&E0107, format!("{} sizes for {n} outputs", sizes.len())).into());
        }
        return c.many(Op::Split { axis, sizes }, &[x]);
    }
    if n > 4096 {
        return Err(Ctx::form(format!("{n} pieces; supported are 4096")));
    }
    let parts = n as i64;
    if let Some(sizes) = computed {
        return c.many(Op::SplitAt { axis, parts }, &[x, sizes]);
    }
    if declared.is_some_and(|d| d != parts) {
        return Err(Ctx::value_of("num_outputs", declared, &format!("the number of outputs, {parts}")));
    }
    if declared.is_none() {
        // Only num_outputs allows a smaller last piece.
        if let Some(d) = c.dims(x) {
            let at = pfmc_ir::tensor::axis(axis, d.len()).map_err(Ctx::form)?;
            if d[at].as_ref().and_then(Dim::value).is_some_and(|l| l % parts != 0) {
                return Err(Ctx::form(format!("axis {axis} does not divide into {parts} equal pieces")));
            }
        }
    }
    c.many(Op::SplitEqual { axis, parts }, &[x])
}

fn squeeze(c: &mut Ctx) -> R<Vec<ValueId>> {
    let (known, computed) = c.ints_or_value("axes", 1)?;
    let x = c.x(0)?;
    let rank = c.dims(x).map(|d| d.len());
    if let Some(axes) = known {
        let axes = c.axes_from_end(&axes, rank)?;
        return Ok(vec![c.op(Op::Squeeze { axes }, &[x])?]);
    }
    if let Some(axes) = computed {
        return Ok(vec![c.op(Op::SqueezeAt {}, &[x, axes])?]);
    }
    let lengths: Option<Vec<i64>> = rank.and_then(|r| (0..r).map(|i| c.length(x, i)).collect());
    Ok(vec![match lengths {
        Some(l) => {
            let axes = (0..).zip(l).filter(|(_, l)| *l == 1).map(|(i, _)| i).collect();
            c.op(Op::Squeeze { axes }, &[x])?
        }
        None => c.op(Op::SqueezeAt {}, &[x])?,
    }])
}

fn unsqueeze(c: &mut Ctx) -> R<Vec<ValueId>> {
    let (known, computed) = c.ints_or_value("axes", 1)?;
    let x = c.x(0)?;
    if let Some(axes) = known {
        let rank = c.dims(x).map(|d| d.len() + axes.len());
        let axes = c.axes_from_end(&axes, rank)?;
        return Ok(vec![c.op(Op::Unsqueeze { axes }, &[x])?]);
    }
    let axes = computed.ok_or_else(|| Diagnostic::error(&E0107, "the node has no axes"))?;
    Ok(vec![c.op(Op::UnsqueezeAt {}, &[x, axes])?])
}
