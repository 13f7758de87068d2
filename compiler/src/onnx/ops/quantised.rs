//! Quantised operators: linear quantisation, and integer products in their ONNX and onnxruntime forms.

use pfmc_ir::diag::Diagnostic;
use pfmc_ir::elem::Elem;
use pfmc_ir::graph::ValueId;
use pfmc_ir::op::{BinaryFn as B, Op, ReduceFn as Rf, UnaryFn as U};

use super::{CONV, FLOATS, OpInfo, contrib, conv_of, op};
use crate::onnx::codes::E0105;
use crate::onnx::lower::{Ctx, R};
use crate::onnx::tensor::elem_type;

pub(super) const BYTES: &[Elem] = &[Elem::I8, Elem::U8];

pub(super) static QUANTISED: &[OpInfo] = &[
    op("ConvInteger", 10, (2, 4), CONV, "exact in i32", conv_integer).on(BYTES),
    op("DequantizeLinear", 10, (2, 3), &["axis", "block_size", "output_dtype"], "", |c| dequantize(c, false)),
    op("DynamicQuantizeLinear", 11, (1, 1), &[], "lowered", dynamic).on(FLOATS),
    op("MatMulInteger", 10, (2, 4), &[], "lowered to an i32 product", matmul_integer).on(BYTES),
    op("QLinearConv", 10, (8, 9), CONV, "lowered to an exact product and a quantisation", qlinear_conv)
        .on(BYTES),
    op("QLinearMatMul", 10, (8, 8), &[], "lowered to an exact product and a quantisation", qlinear_matmul),
    op(
        "QuantizeLinear",
        10,
        (2, 3),
        &["axis", "block_size", "output_dtype", "precision", "saturate"],
        "divides in float32",
        |c| quantize(c, false),
    )
    .on(&[Elem::F32, Elem::F64, Elem::F16, Elem::BF16, Elem::I32]),
    contrib("DequantizeLinear", (2, 3), &["axis"], "", |c| dequantize(c, true)),
    contrib("QuantizeLinear", (2, 3), &["axis"], "", |c| quantize(c, true)),
    contrib(
        "MatMulNBits",
        (3, 6),
        &["K", "N", "accuracy_level", "bits", "block_size"],
        "2, 4 or 8 bits; constant weights and integer zero points; no g_idx",
        matmul_nbits,
    )
    .on(FLOATS),
    contrib("DynamicQuantizeMatMul", (3, 5), &[], "lowered", dynamic_matmul).on(FLOATS),
    contrib("MatMulIntegerToFloat", (4, 7), &[], "lowered", integer_to_float).on(BYTES),
];

/// Axis and block length. Without an axis attribute the axis is 1, which a tensor of rank 1 does not
/// have where it is not needed.
fn granularity(c: &mut Ctx) -> R<(i64, i64)> {
    Ok((c.attrs.int("axis")?.unwrap_or(1), c.attrs.int("block_size")?.unwrap_or(0)))
}

fn dtype(c: &mut Ctx) -> R<Option<Elem>> {
    match c.attrs.int("output_dtype")? {
        None | Some(0) => Ok(None),
        Some(t) => match i32::try_from(t).ok().and_then(elem_type) {
            Some(e) => Ok(Some(e)),
            None => Err(Ctx::value_of("output_dtype", t, "a type of numbers")),
        },
    }
}

fn dequantize(c: &mut Ctx, old: bool) -> R<Vec<ValueId>> {
    let (axis, block) = if old { (c.attrs.int("axis")?.unwrap_or(1), 0) } else { granularity(c)? };
    let to = dtype(c)?;
    c.mark_learned(0);
    let mut inputs = vec![c.x(0)?, c.x(1)?];
    inputs.extend(c.opt(2)?);
    let to = to.unwrap_or(c.elem(inputs[1]));
    Ok(vec![c.op(Op::Dequantize { axis, block, to }, &inputs)?])
}

fn quantize(c: &mut Ctx, old: bool) -> R<Vec<ValueId>> {
    let (axis, block) = if old { (c.attrs.int("axis")?.unwrap_or(1), 0) } else { granularity(c)? };
    let (to, saturate) = (dtype(c)?, c.attrs.flag("saturate", true)?);
    match c.attrs.int("precision")? {
        None | Some(0 | 1) => {}
        Some(p) => return Err(Ctx::value_of("precision", p, "float32")),
    }
    let mut inputs = vec![c.x(0)?, c.x(1)?];
    let zero = c.opt(2)?;
    let given = zero.map(|z| c.elem(z));
    if let (Some(a), Some(b)) = (to, given)
        && a != b
    {
        return Err(Ctx::value_of("output_dtype", a, &format!("the zero point's, {b}")));
    }
    inputs.extend(zero);
    let to = to.or(given).unwrap_or(Elem::U8);
    Ok(vec![c.op(Op::Quantize { axis, block, to, saturate }, &inputs)?])
}

/// The quantised u8 tensor, its scale and its zero point (opset 11).
fn dynamic_of(c: &mut Ctx, x: ValueId) -> R<[ValueId; 3]> {
    let axes: Vec<i64> = (0..c.rank(x)? as i64).collect();
    let least = c.op(Op::Reduce { f: Rf::Min, axes: axes.clone(), keepdims: false }, &[x])?;
    let most = c.op(Op::Reduce { f: Rf::Max, axes, keepdims: false }, &[x])?;
    let (least, most) = (c.with(B::Min, least, 0.0)?, c.with(B::Max, most, 0.0)?);
    let span = c.bin(B::Sub, most, least)?;
    let scale = c.with(B::Div, span, 255.0)?;
    let negative = c.un(U::Neg, least)?;
    let zero = c.bin(B::Div, negative, scale)?;
    let zero = c.with(B::Max, zero, 0.0)?;
    let zero = c.with(B::Min, zero, 255.0)?;
    let zero = c.un(U::Round, zero)?;
    let zero = c.op(Op::Cast { to: Elem::U8 }, &[zero])?;
    let y = c.op(Op::Quantize { axis: 0, block: 0, to: Elem::U8, saturate: true }, &[x, scale, zero])?;
    Ok([y, scale, zero])
}

fn dynamic(c: &mut Ctx) -> R<Vec<ValueId>> {
    let x = c.x(0)?;
    Ok(dynamic_of(c, x)?.to_vec())
}

/// Integers less their zero point, as `to`. `column` says that a vector of zero points runs along the
/// rows of a matrix (the second last axis).
fn centred(c: &mut Ctx, x: ValueId, zero: Option<ValueId>, to: Elem, column: bool) -> R<ValueId> {
    let wide = c.op(Op::Cast { to }, &[x])?;
    let Some(mut zero) = zero else { return Ok(wide) };
    zero = c.op(Op::Cast { to }, &[zero])?;
    if column && c.dims(zero).is_some_and(|d| d.len() == 1) && c.length(zero, 0) != Some(1) {
        zero = c.op(Op::Unsqueeze { axes: vec![1] }, &[zero])?;
    }
    c.bin(B::Sub, wide, zero)
}

pub(super) fn integer_product(
    c: &mut Ctx,
    (a, b): (ValueId, ValueId),
    (a_zero, b_zero): (Option<ValueId>, Option<ValueId>),
) -> R<ValueId> {
    let a = centred(c, a, a_zero, Elem::I32, true)?;
    let b = centred(c, b, b_zero, Elem::I32, false)?;
    c.op(Op::MatMul {}, &[a, b])
}

fn matmul_integer(c: &mut Ctx) -> R<Vec<ValueId>> {
    c.mark_learned(1);
    let (operands, zeros) = ((c.x(0)?, c.x(1)?), (c.opt(2)?, c.opt(3)?));
    Ok(vec![integer_product(c, operands, zeros)?])
}

pub(super) fn scaled(c: &mut Ctx, y: ValueId, scales: [ValueId; 2], to: Elem) -> R<ValueId> {
    let y = c.op(Op::Cast { to }, &[y])?;
    let mut product = c.bin(B::Mul, scales[0], scales[1])?;
    if c.elem(product) != to {
        product = c.op(Op::Cast { to }, &[product])?;
    }
    c.bin(B::Mul, y, product)
}

fn qlinear_matmul(c: &mut Ctx) -> R<Vec<ValueId>> {
    c.mark_learned(3);
    let v = c.all()?;
    if !c.elem(v[0]).is_int() || !c.elem(v[3]).is_int() {
        return Err(Ctx::form("the operands must be integers of 8 bits"));
    }
    let y = integer_product(c, (v[0], v[3]), (Some(v[2]), Some(v[5])))?;
    let y = scaled(c, y, [v[1], v[4]], Elem::F32)?;
    let to = c.elem(v[7]);
    Ok(vec![c.op(Op::Quantize { axis: -1, block: 0, to, saturate: true }, &[y, v[6], v[7]])?])
}

/// A vector over output channels as [O, 1, ..] for a kernel, or [1, O, 1, ..] for a result.
fn channels(c: &mut Ctx, v: ValueId, rank: usize, first: bool) -> R<ValueId> {
    match c.dims(v) {
        Some(d) if d.len() == 1 && c.length(v, 0) != Some(1) => {
            let kept = if first { 0 } else { 1 };
            let axes = (0..rank as i64).filter(|i| *i != kept).collect();
            c.op(Op::Unsqueeze { axes }, &[v])
        }
        _ => Ok(v),
    }
}

/// A convolution of integers, exact in f64: sums stay far below 2^53.
fn integer_conv(c: &mut Ctx, x: (ValueId, Option<ValueId>), w: (ValueId, Option<ValueId>)) -> R<ValueId> {
    let rank = c.rank(w.0)?;
    let a = centred(c, x.0, x.1, Elem::F64, false)?;
    let w_zero = w.1.map(|z| channels(c, z, rank, true)).transpose()?;
    let b = centred(c, w.0, w_zero, Elem::F64, false)?;
    conv_of(c, &[a, b])
}

fn conv_integer(c: &mut Ctx) -> R<Vec<ValueId>> {
    c.mark_learned(1);
    let (x, w) = ((c.x(0)?, c.opt(2)?), (c.x(1)?, c.opt(3)?));
    let y = integer_conv(c, x, w)?;
    Ok(vec![c.op(Op::Cast { to: Elem::I32 }, &[y])?])
}

fn qlinear_conv(c: &mut Ctx) -> R<Vec<ValueId>> {
    c.mark_learned(3);
    let mut v = Vec::new();
    for i in 0..8 {
        v.push(c.x(i)?);
    }
    let bias = c.opt(8)?;
    let mut y = integer_conv(c, (v[0], Some(v[2])), (v[3], Some(v[5])))?;
    let rank = c.rank(v[3])?;
    if let Some(bias) = bias {
        let wide = c.op(Op::Cast { to: Elem::F64 }, &[bias])?;
        let wide = channels(c, wide, rank, false)?;
        y = c.bin(B::Add, y, wide)?;
    }
    let w_scale = channels(c, v[4], rank, false)?;
    let y = scaled(c, y, [v[1], w_scale], Elem::F32)?;
    let to = c.elem(v[7]);
    Ok(vec![c.op(Op::Quantize { axis: 1, block: 0, to, saturate: true }, &[y, v[6], v[7]])?])
}

fn dynamic_matmul(c: &mut Ctx) -> R<Vec<ValueId>> {
    c.mark_learned(1);
    let (x, b, b_scale) = (c.x(0)?, c.x(1)?, c.x(2)?);
    let (b_zero, bias) = (c.opt(3)?, c.opt(4)?);
    let [a, a_scale, a_zero] = dynamic_of(c, x)?;
    let y = integer_product(c, (a, b), (Some(a_zero), b_zero))?;
    let y = scaled(c, y, [a_scale, b_scale], c.elem(x))?;
    Ok(vec![match bias {
        Some(bias) => c.bin(B::Add, y, bias)?,
        None => y,
    }])
}

fn integer_to_float(c: &mut Ctx) -> R<Vec<ValueId>> {
    c.mark_learned(1);
    let (operands, scales) = ((c.x(0)?, c.x(1)?), [c.x(2)?, c.x(3)?]);
    let (zeros, bias) = ((c.opt(4)?, c.opt(5)?), c.opt(6)?);
    let y = integer_product(c, operands, zeros)?;
    let y = scaled(c, y, scales, c.elem(scales[0]))?;
    Ok(vec![match bias {
        Some(bias) => c.bin(B::Add, y, bias)?,
        None => y,
    }])
}

/// `A [.., K]` times the transpose of a `[N, K]` matrix of packed codes, with a scale and a zero point
/// a block along K.
fn matmul_nbits(c: &mut Ctx) -> R<Vec<ValueId>> {
    let mut size = |name: &str| -> R<usize> {
        let v = c
            .attrs
            .int(name)?
            .ok_or_else(|| Diagnostic::error(&E0105, format!("attribute {name} is missing")))?;
        usize::try_from(v)
            .ok()
            .filter(|v| (1..=1 << 30).contains(v))
            .ok_or_else(|| Ctx::value_of(name, v, "1 to 2^30"))
    };
    let (k, n, block) = (size("K")?, size("N")?, size("block_size")?);
    let bits = c.attrs.int("bits")?.unwrap_or(4);
    // A hint to a runtime about the precision of its activations.
    c.attrs.int("accuracy_level")?;
    let elem = match bits {
        2 => Elem::U2,
        4 => Elem::U4,
        8 => Elem::U8,
        other => return Err(Ctx::value_of("bits", other, "2, 4, 8")),
    };
    if c.has(4) {
        return Err(Ctx::form("g_idx is not supported"));
    }
    let blocks = k.div_ceil(block);
    let weights = c.reinterpret(1, elem, &[n, blocks * block], true)?;
    let scale = c.x(2)?;
    let per_row = c.vector(vec![n as i64, blocks as i64]);
    let scale = c.op(Op::Reshape { allow_zero: false }, &[scale, per_row])?;
    let packed = (blocks * elem.bits()).div_ceil(8) * 8 / elem.bits();
    let zero = if c.has(3) {
        let zero = c.reinterpret(3, elem, &[n, packed], false)?;
        c.cut(zero, 1, blocks)?
    } else {
        let middle = c.splat(elem, &[n, blocks], 1 << (bits - 1))?;
        c.make(&middle, false)
    };
    let x = c.x(0)?;
    let to = c.elem(x);
    let w = c.op(Op::Dequantize { axis: 1, block: block as i64, to }, &[weights, scale, zero])?;
    let w = c.cut(w, 1, k)?;
    let w = c.op(Op::Transpose { perm: vec![1, 0] }, &[w])?;
    let y = c.op(Op::MatMul {}, &[x, w])?;
    Ok(vec![match c.opt(5)? {
        Some(bias) => c.bin(B::Add, y, bias)?,
        None => y,
    }])
}
