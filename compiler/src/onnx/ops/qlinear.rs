//! onnxruntime's operators on quantised tensors: dequantised, computed in float32 and quantised again.
//! Where onnxruntime computes in tables or integers a result may differ by one code.

use pfmc_ir::diag::Diagnostic;
use pfmc_ir::elem::Elem;
use pfmc_ir::graph::ValueId;
use pfmc_ir::op::{BinaryFn as B, Op, UnaryFn as U};

use super::quantised::{BYTES, integer_product, scaled};
use super::{MANY, OpInfo, contrib, leaky_of};
use crate::onnx::codes::{E0105, E0107};
use crate::onnx::lower::{Ctx, R};

const NOTE: &str = "lowered to float32 and a quantisation";

pub(super) static QLINEAR: &[OpInfo] = &[
    contrib("QGemm", (6, 9), &["alpha", "transA", "transB"], "lowered to an exact product", qgemm).on(BYTES),
    contrib("QLinearAdd", (7, 8), &[], NOTE, |c| two(c, B::Add)).on(BYTES),
    contrib("QLinearConcat", (5, MANY), &["axis"], NOTE, concat),
    contrib("QLinearLeakyRelu", (4, 5), &["alpha"], NOTE, |c| {
        let alpha = c.attrs.float("alpha")?.unwrap_or(0.01);
        one(c, |c, x| leaky_of(c, x, alpha.into()))
    })
    .on(BYTES),
    contrib("QLinearMul", (7, 8), &[], NOTE, |c| two(c, B::Mul)).on(BYTES),
    contrib("QLinearSigmoid", (4, 5), &[], NOTE, |c| one(c, |c, x| c.un(U::Sigmoid, x))).on(BYTES),
    contrib("QLinearSoftmax", (4, 5), &["axis", "opset"], NOTE, softmax).on(BYTES),
];

/// The float32 numbers of the quantised input `i`, with its scale and zero point behind it.
fn open(c: &mut Ctx, i: usize) -> R<ValueId> {
    let mut v = vec![c.x(i)?, c.x(i + 1)?];
    v.extend(c.opt(i + 2)?);
    c.op(Op::Dequantize { axis: 0, block: 0, to: Elem::F32 }, &v)
}

/// Quantises with the scale and zero point of input `i` and the next.
fn close(c: &mut Ctx, x: ValueId, i: usize, default: Elem) -> R<ValueId> {
    let mut v = vec![x, c.x(i)?];
    let zero = c.opt(i + 1)?;
    v.extend(zero);
    let to = zero.map_or(default, |z| c.elem(z));
    c.op(Op::Quantize { axis: -1, block: 0, to, saturate: true }, &v)
}

fn two(c: &mut Ctx, f: B) -> R<Vec<ValueId>> {
    let (a, b) = (open(c, 0)?, open(c, 3)?);
    let y = c.bin(f, a, b)?;
    let first = c.x(0)?;
    let elem = c.elem(first);
    Ok(vec![close(c, y, 6, elem)?])
}

fn one(c: &mut Ctx, f: impl Fn(&mut Ctx, ValueId) -> R<ValueId>) -> R<Vec<ValueId>> {
    let x = open(c, 0)?;
    let y = f(c, x)?;
    let first = c.x(0)?;
    let elem = c.elem(first);
    Ok(vec![close(c, y, 3, elem)?])
}

fn softmax(c: &mut Ctx) -> R<Vec<ValueId>> {
    let axis = c.attrs.int("axis")?.unwrap_or(-1);
    let opset = c.attrs.int("opset")?.unwrap_or(13);
    one(c, |c, x| {
        let rank = c.rank(x)?;
        let at = pfmc_ir::tensor::axis(axis, rank).map_err(Ctx::form)?;
        // Before opset 13 over all axes from that axis on.
        if opset < 13 && at + 1 < rank {
            return Err(Ctx::value_of("axis", axis, "the last axis before opset 13"));
        }
        c.op(Op::Softmax { axis }, &[x])
    })
}

fn concat(c: &mut Ctx) -> R<Vec<ValueId>> {
    let axis = c.attrs.int("axis")?.ok_or_else(|| Diagnostic::error(&E0105, "attribute axis is missing"))?;
    let n = c.input_count().saturating_sub(2);
    if !n.is_multiple_of(3) {
        let message = "tensors come with a scale and a zero point each";
        return Err(Diagnostic::error(&E0107, message).into());
    }
    let first = c.x(2)?;
    let elem = c.elem(first);
    let parts = (0..n / 3).map(|i| open(c, 2 + 3 * i)).collect::<R<Vec<_>>>()?;
    let y = match parts[..] {
        [one] => one,
        _ => c.op(Op::Concat { axis }, &parts)?,
    };
    Ok(vec![close(c, y, 0, elem)?])
}

/// alpha (A - a) (B - b) plus an i32 bias of scale alpha times those of A and B; quantised, or
/// float32 without a scale of the result.
fn qgemm(c: &mut Ctx) -> R<Vec<ValueId>> {
    let alpha = f64::from(c.attrs.float("alpha")?.unwrap_or(1.0));
    let (ta, tb) = (c.attrs.flag("transA", false)?, c.attrs.flag("transB", false)?);
    c.mark_learned(3);
    let (mut a, mut b) = (c.x(0)?, c.x(3)?);
    let elem = c.elem(a);
    let turned = Op::Transpose { perm: vec![1, 0] };
    if ta {
        a = c.op(turned.clone(), &[a])?;
    }
    if tb {
        b = c.op(turned, &[b])?;
    }
    let zeros = (c.opt(2)?, c.opt(5)?);
    let mut y = integer_product(c, (a, b), zeros)?;
    if let Some(bias) = c.opt(6)? {
        y = c.bin(B::Add, y, bias)?;
    }
    let scales = [c.x(1)?, c.x(4)?];
    let mut y = scaled(c, y, scales, Elem::F32)?;
    if alpha != 1.0 {
        y = c.with(B::Mul, y, alpha)?;
    }
    Ok(vec![if c.has(7) { close(c, y, 7, elem)? } else { y }])
}
