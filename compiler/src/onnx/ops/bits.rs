//! Trigonometric and hyperbolic functions, bits of integers, and other element-wise functions.

use pfmc_ir::diag::Diagnostic;
use pfmc_ir::elem::Elem;
use pfmc_ir::graph::ValueId;
use pfmc_ir::op::{BinaryFn as B, Op, UnaryFn as U};

use super::{FLOATS, OpInfo, float_unary, op, scalar_input};
use crate::onnx::codes::E0105;
use crate::onnx::lower::{Ctx, R};
use crate::onnx::tensor::elem_type;

const INTEGERS: &[Elem] =
    &[Elem::I64, Elem::I32, Elem::I16, Elem::I8, Elem::U64, Elem::U32, Elem::U16, Elem::U8];
const UNSIGNED: &[Elem] = &[Elem::U64, Elem::U32, Elem::U16, Elem::U8];

pub(super) static BITS: &[OpInfo] = &[
    op("Acos", 7, (1, 1), &[], "", |c| float_unary(c, U::Acos)).on(FLOATS),
    op("Acosh", 9, (1, 1), &[], "", |c| float_unary(c, U::Acosh)).on(FLOATS),
    op("Asin", 7, (1, 1), &[], "", |c| float_unary(c, U::Asin)).on(FLOATS),
    op("Asinh", 9, (1, 1), &[], "", |c| float_unary(c, U::Asinh)).on(FLOATS),
    op("Atan", 7, (1, 1), &[], "", |c| float_unary(c, U::Atan)).on(FLOATS),
    op("Atanh", 9, (1, 1), &[], "", |c| float_unary(c, U::Atanh)).on(FLOATS),
    op("Cosh", 9, (1, 1), &[], "", |c| float_unary(c, U::Cosh)).on(FLOATS),
    op("Sinh", 9, (1, 1), &[], "", |c| float_unary(c, U::Sinh)).on(FLOATS),
    op("Tan", 7, (1, 1), &[], "", |c| float_unary(c, U::Tan)).on(FLOATS),
    op("BitCast", 26, (1, 1), &["to"], "between types of one size", bit_cast),
    op("BitShift", 11, (2, 2), &["direction"], "", bit_shift).on(UNSIGNED),
    op("BitwiseAnd", 18, (2, 2), &[], "", |c| two(c, B::BitAnd)).on(INTEGERS),
    op("BitwiseNot", 18, (1, 1), &[], "", bit_not).on(INTEGERS),
    op("BitwiseOr", 18, (2, 2), &[], "", |c| two(c, B::BitOr)).on(INTEGERS),
    op("BitwiseXor", 18, (2, 2), &[], "", |c| two(c, B::BitXor)).on(INTEGERS),
    op("CumProd", 26, (2, 2), &["exclusive", "reverse"], "", cumprod),
    op("Det", 11, (1, 1), &[], "by elimination in f64", det).on(FLOATS),
    op("Shrink", 9, (1, 1), &["bias", "lambd"], "lowered", shrink),
];

fn two(c: &mut Ctx, f: B) -> R<Vec<ValueId>> {
    let (a, b) = (c.x(0)?, c.x(1)?);
    Ok(vec![c.bin(f, a, b)?])
}

fn bit_not(c: &mut Ctx) -> R<Vec<ValueId>> {
    let x = c.x(0)?;
    Ok(vec![c.un(U::BitNot, x)?])
}

fn bit_shift(c: &mut Ctx) -> R<Vec<ValueId>> {
    match c.attrs.string("direction")?.as_deref() {
        Some("LEFT") => two(c, B::ShiftLeft),
        Some("RIGHT") => two(c, B::ShiftRight),
        Some(other) => Err(Ctx::value_of("direction", other, "LEFT, RIGHT")),
        None => Err(Diagnostic::error(&E0105, "attribute direction is missing").into()),
    }
}

fn bit_cast(c: &mut Ctx) -> R<Vec<ValueId>> {
    let to = c.attrs.int("to")?.ok_or_else(|| Diagnostic::error(&E0105, "attribute to is missing"))?;
    let elem = i32::try_from(to).ok().and_then(elem_type);
    let elem = elem.ok_or_else(|| Ctx::value_of("to", to, "numbers and bool"))?;
    let x = c.x(0)?;
    Ok(vec![c.op(Op::BitCast { to: elem }, &[x])?])
}

fn cumprod(c: &mut Ctx) -> R<Vec<ValueId>> {
    let (exclusive, reverse) = (c.attrs.flag("exclusive", false)?, c.attrs.flag("reverse", false)?);
    let x = c.x(0)?;
    let axis = scalar_input(c, 1)?;
    Ok(vec![c.op(Op::CumProd { exclusive, reverse }, &[x, axis])?])
}

fn det(c: &mut Ctx) -> R<Vec<ValueId>> {
    let x = c.x(0)?;
    Ok(vec![c.op(Op::Det {}, &[x])?])
}

/// x + bias below -lambd, x - bias above lambd, else 0.
fn shrink(c: &mut Ctx) -> R<Vec<ValueId>> {
    let bias = f64::from(c.attrs.float("bias")?.unwrap_or(0.0));
    let lambd = f64::from(c.attrs.float("lambd")?.unwrap_or(0.5));
    let x = c.x(0)?;
    // Bounds and sums of integers may lie between them.
    let elem = c.elem(x);
    let wide = if elem.is_float() { x } else { c.op(Op::Cast { to: Elem::F64 }, &[x])? };
    let below = c.with(B::Less, wide, -lambd)?;
    let above = c.with(B::Greater, wide, lambd)?;
    let (up, down) = (c.with(B::Add, wide, bias)?, c.with(B::Sub, wide, bias)?);
    let zero = c.number_like(0.0, wide)?;
    let y = c.op(Op::Where {}, &[above, down, zero])?;
    let y = c.op(Op::Where {}, &[below, up, y])?;
    Ok(vec![if elem.is_float() { y } else { c.op(Op::Cast { to: elem }, &[y])? }])
}
