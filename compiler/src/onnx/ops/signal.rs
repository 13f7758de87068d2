//! Spectra and windows.

use std::f64::consts::PI;

use pfmc_ir::elem::Elem;
use pfmc_ir::graph::ValueId;
use pfmc_ir::op::{BinaryFn as B, Op, UnaryFn as U};

use super::{FLOATS, OpInfo, op, scalar_input};
use crate::onnx::lower::{Ctx, R};
use crate::onnx::tensor::elem_type;

const WINDOW: &[&str] = &["output_datatype", "periodic"];
const LENGTHS: &[Elem] = &[Elem::I32, Elem::I64];

pub(super) static SIGNAL: &[OpInfo] = &[
    op("BlackmanWindow", 17, (1, 1), WINDOW, "lowered", |c| window(c, &[0.42, -0.5, 0.08])).on(LENGTHS),
    op("DFT", 17, (1, 3), &["axis", "inverse", "onesided"], "computed in f64", dft).on(FLOATS),
    op("HammingWindow", 17, (1, 1), WINDOW, "lowered", |c| window(c, &[25.0 / 46.0, -21.0 / 46.0]))
        .on(LENGTHS),
    op("HannWindow", 17, (1, 1), WINDOW, "lowered", |c| window(c, &[0.5, -0.5])).on(LENGTHS),
    op("MelWeightMatrix", 17, (5, 5), &["output_datatype"], "", mel).on(LENGTHS),
    op("STFT", 17, (2, 4), &["onesided"], "lowered to gather, mul and dft", stft).on(FLOATS),
];

fn dtype(c: &mut Ctx) -> R<Elem> {
    let t = c.attrs.int("output_datatype")?.unwrap_or(1);
    let found = i32::try_from(t).ok().and_then(elem_type).filter(|e| e.is_float() || e.is_int());
    found.ok_or_else(|| Ctx::value_of("output_datatype", t, "a type of numbers"))
}

/// The sum of factors[i] cos(2 pi i n / N) for n below the size; N is the size, or one less for a
/// window that is not periodic.
fn window(c: &mut Ctx, factors: &[f64]) -> R<Vec<ValueId>> {
    let (to, periodic) = (dtype(c)?, c.attrs.flag("periodic", true)?);
    let size = scalar_input(c, 0)?;
    let wide = Op::Cast { to: Elem::F64 };
    let n = c.count_to(size)?;
    let n = c.op(wide.clone(), &[n])?;
    let mut period = c.op(wide, &[size])?;
    if !periodic {
        period = c.with(B::Sub, period, 1.0)?;
    }
    let turns = c.bin(B::Div, n, period)?;
    let mut sum = None;
    for (i, &factor) in factors.iter().enumerate() {
        let angle = c.with(B::Mul, turns, 2.0 * PI * i as f64)?;
        let part = c.un(U::Cos, angle)?;
        let part = c.with(B::Mul, part, factor)?;
        sum = Some(match sum {
            None => part,
            Some(sum) => c.bin(B::Add, sum, part)?,
        });
    }
    let sum = sum.ok_or_else(|| Ctx::form("a window of no terms"))?;
    Ok(vec![c.op(Op::Cast { to }, &[sum])?])
}

fn mel(c: &mut Ctx) -> R<Vec<ValueId>> {
    let to = dtype(c)?;
    let mut v = Vec::new();
    for i in 0..3 {
        v.push(scalar_input(c, i)?);
    }
    v.extend([c.x(3)?, c.x(4)?]);
    Ok(vec![c.op(Op::MelWeights { to }, &v)?])
}

fn dft(c: &mut Ctx) -> R<Vec<ValueId>> {
    let (inverse, onesided) = (c.attrs.flag("inverse", false)?, c.attrs.flag("onesided", false)?);
    let x = c.x(0)?;
    // From opset 20 on the axis is an operand.
    let axis = match c.attrs.int("axis")? {
        Some(axis) => c.int_scalar(axis),
        None if c.has(2) => scalar_input(c, 2)?,
        None => c.int_scalar(if c.opset < 20 { 1 } else { -2 }),
    };
    let mut v = vec![x, axis];
    if c.has(1) {
        v.push(scalar_input(c, 1)?);
    }
    Ok(vec![c.op(Op::Dft { inverse, onesided }, &v)?])
}

/// Frames of a signal [batch, length, 1 or 2], each times the window, transformed:
/// [batch, frames, bins, 2].
fn stft(c: &mut Ctx) -> R<Vec<ValueId>> {
    let onesided = c.attrs.flag("onesided", true)?;
    let x = c.x(0)?;
    let step = scalar_input(c, 1)?;
    let window = c.opt(2)?;
    let room = c.length_of(x, 1)?;
    let size = match window {
        Some(w) => Some(c.length_of(w, 0)?),
        None => None,
    };
    let length = match (c.has(3), size) {
        (true, _) => scalar_input(c, 3)?,
        (false, Some(size)) => size,
        (false, None) => room,
    };
    let one = c.int_scalar(1);
    let spare = c.bin(B::Sub, room, length)?;
    let frames = c.bin(B::Div, spare, step)?;
    let frames = c.bin(B::Add, frames, one)?;
    let starts = c.count_to(frames)?;
    let starts = c.bin(B::Mul, starts, step)?;
    let starts = c.op(Op::Unsqueeze { axes: vec![1] }, &[starts])?;
    let within = c.count_to(size.unwrap_or(length))?;
    let at = c.bin(B::Add, starts, within)?;
    let mut y = c.op(Op::Gather { axis: 1 }, &[x, at])?;
    if let Some(w) = window {
        let w = c.op(Op::Unsqueeze { axes: vec![1] }, &[w])?;
        y = c.bin(B::Mul, y, w)?;
    }
    let axis = c.int_scalar(2);
    Ok(vec![c.op(Op::Dft { inverse: false, onesided }, &[y, axis, length])?])
}
