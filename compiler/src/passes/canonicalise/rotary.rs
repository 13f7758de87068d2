//! Rotary positions.
//!
//! - HF transformers (Llama, Qwen, Gemma, GPT-NeoX): x cos + rotate_half(x) sin, where rotate_half is
//!   Concat(Neg(second half), first half), the halves by Slice or Split; cos and sin have an entry an
//!   element.
//! - GPT-J: the same with pairs beside each other, Reshape(Concat(Neg(odd), even)) of columns.
//! - The two halves apart: Concat(a cos - b sin, b cos + a sin), an entry a pair (Meta's Llama,
//!   the ONNX function of RotaryEmbedding).
//! - Partial: Concat(turned part, rest).

use pfmc_ir::graph::{NodeId, ValueId};
use pfmc_ir::op::{BinaryFn as B, Op, UnaryFn as U};

use super::pattern::{Net, same};

/// Elements of the last axis of a value.
#[derive(PartialEq)]
struct Part {
    x: ValueId,
    from: i64,
    to: i64,
    step: i64,
}

impl Part {
    fn is(&self, x: ValueId, from: i64, to: i64, step: i64) -> bool {
        *self == Part { x, from, to, step }
    }
}

/// The elements that `v` is of another value.
fn part(net: &Net, v: ValueId) -> Option<Part> {
    let n = net.made(v)?;
    let x = *n.inputs.first()?;
    let (rank, len) = (net.dims(x)?.len(), net.length(x, 1)?);
    let last = |axis: i64| axis == -1 || axis == rank as i64 - 1;
    let at = n.outputs.iter().position(|o| *o == v)?;
    match &n.op {
        Op::Slice {} => {
            let one = |i: usize| match net.ints(n.inputs[i])?[..] {
                [v] => Some(v),
                _ => None,
            };
            let (start, end, step) = (one(1)?, one(2)?, one(4)?);
            if !last(one(3)?) || step < 1 {
                return None;
            }
            let clamp = |v: i64| if v < 0 { v.saturating_add(len) } else { v }.clamp(0, len);
            Some(Part { x, from: clamp(start), to: clamp(end), step })
        }
        Op::Split { axis, sizes } if last(*axis) => {
            let before = sizes.get(..at)?.iter().try_fold(0i64, |s, &v| s.checked_add(v))?;
            Some(Part { x, from: before, to: before.checked_add(*sizes.get(at)?)?, step: 1 })
        }
        Op::SplitEqual { axis, parts } if last(*axis) && *parts > 0 && len % parts == 0 => {
            let (size, at) = (len / parts, at as i64);
            Some(Part { x, from: size * at, to: size * (at + 1), step: 1 })
        }
        _ => None,
    }
}

/// The value of which `a` and `b` are the first and second elements of pairs, and whether those lie
/// beside each other.
fn pairs(net: &Net, a: ValueId, b: ValueId) -> Option<(ValueId, bool)> {
    let (a, b) = (part(net, a)?, part(net, b)?);
    let (x, len) = (a.x, net.length(a.x, 1)?);
    if len % 2 != 0 {
        None
    } else if a.is(x, 0, len / 2, 1) && b.is(x, len / 2, len, 1) {
        Some((x, false))
    } else if a.is(x, 0, len, 2) && b.is(x, 1, len, 2) {
        Some((x, true))
    } else {
        None
    }
}

/// The two values whose elements `v` joins along the last axis, and whether in turns.
fn woven(net: &Net, v: ValueId) -> Option<(ValueId, ValueId, bool)> {
    if let Some((a, b)) = joined(net, v) {
        return Some((a, b, false));
    }
    let n = net.made(v)?;
    if !matches!(n.op, Op::Reshape { .. } | Op::Flatten { .. }) {
        return None;
    }
    let (p, q) = joined(net, n.inputs[0])?;
    let column = |v: ValueId| {
        let n = net.made(v)?;
        let rank = net.dims(v)?.len() as i64;
        matches!(&n.op, Op::Unsqueeze { axes } if axes[..] == [rank - 1] || axes[..] == [-1])
            .then(|| n.inputs[0])
    };
    let (a, b) = (column(p)?, column(q)?);
    let (d, from) = (net.dims(v)?, net.dims(a)?);
    let lead = d.len() == from.len() && d.iter().zip(from).rev().skip(1).all(|(d, f)| same(d, f));
    (lead && net.length(v, 1)? == net.length(a, 1)?.checked_mul(2)?).then_some((a, b, true))
}

/// The value of which `v` is rotate_half, or its form for pairs that lie beside each other.
fn rotated(net: &Net, v: ValueId) -> Option<(ValueId, bool)> {
    let (b, a, turns) = woven(net, v)?;
    pairs(net, a, net.unary(b, U::Neg)?).filter(|p| p.1 == turns)
}

/// The two operands that are joined along the last axis.
fn joined(net: &Net, v: ValueId) -> Option<(ValueId, ValueId)> {
    let n = net.made(v)?;
    match (&n.op, &n.inputs[..]) {
        (Op::Concat { axis }, &[a, b]) => {
            let rank = net.dims(v)?.len() as i64;
            (*axis == -1 || *axis == rank - 1).then_some((a, b))
        }
        _ => None,
    }
}

/// Whether a table certainly gives one row of `len` entries to each row of x.
fn table(net: &Net, t: ValueId, x: ValueId, len: i64) -> bool {
    net.length(t, 1) == Some(len)
        && net.dims(x).is_some_and(|d| {
            let mut d = d.to_vec();
            if let Some(last) = d.last_mut() {
                *last = Some(pfmc_ir::shape::Dim::known(len));
            }
            net.broadcasts(t, &d)
        })
}

/// Replaces the positions added to x by node `id`.
pub(super) fn recover(net: &mut Net, id: NodeId) -> Option<&'static str> {
    let v = net.result(id)?;
    let found = match net.0.node(id)?.op {
        Op::Binary(B::Add) => net.either(v, B::Add, |plain, turned| {
            net.either(turned, B::Mul, |half, sin| {
                let (x, interleaved) = rotated(net, half)?;
                let cos = net.either(plain, B::Mul, |a, cos| (a == x).then_some(cos))?;
                let len = net.length(x, 1)?;
                let fit = table(net, cos, x, len) && table(net, sin, x, len);
                fit.then_some((x, cos, sin, len, interleaved))
            })
        }),
        Op::Concat { .. } | Op::Reshape { .. } | Op::Flatten { .. } => {
            let (p, q, interleaved) = woven(net, v)?;
            let (ac, bs) = net.binary(p, B::Sub)?;
            net.either(q, B::Add, |bc, as_| {
                net.either(ac, B::Mul, |a, cos| {
                    net.either(bs, B::Mul, |b, sin| {
                        let same = |v, x, t| net.either(v, B::Mul, |p, q| (p == x && q == t).then_some(()));
                        same(bc, b, cos)?;
                        same(as_, a, sin)?;
                        let (x, turns) = pairs(net, a, b)?;
                        let len = net.length(x, 1)?;
                        let fit = table(net, cos, x, len / 2) && table(net, sin, x, len / 2);
                        (fit && turns == interleaved).then_some((x, cos, sin, len, interleaved))
                    })
                })
            })
        }
        _ => None,
    };
    let (x, cos, sin, dim, interleaved) = found?;
    net.become_of(v, Op::Rotary { interleaved, dim }, vec![x, cos, sin])?;
    whole(net, v);
    Some("rotaries")
}

/// Joins a turned part `v` with the rest of what it is part of.
fn whole(net: &mut Net, v: ValueId) -> Option<()> {
    let n = net.made(v)?;
    let Op::Rotary { interleaved, dim } = n.op else { return None };
    let (cos, sin) = (n.inputs[1], n.inputs[2]);
    let turned = part(net, n.inputs[0])?;
    let x = turned.x;
    let joins = net.uses(v).into_iter().find(|y| {
        let rest = joined(net, *y).filter(|(a, _)| *a == v).and_then(|(_, b)| part(net, b));
        rest.is_some_and(|r| net.length(x, 1).is_some_and(|len| r.is(x, dim, len, 1)))
    })?;
    turned.is(x, 0, dim, 1).then_some(())?;
    net.become_of(joins, Op::Rotary { interleaved, dim }, vec![x, cos, sin])
}
