//! Rotary positions.
//!
//! - HF transformers (Llama, Qwen, Gemma, GPT-NeoX): x cos + rotate_half(x) sin, where rotate_half is
//!   Concat(Neg(second half), first half), the halves by Slice or Split; cos and sin have an entry an
//!   element.
//! - The two halves apart: Concat(a cos - b sin, b cos + a sin), an entry a pair (Meta's Llama,
//!   the ONNX function of RotaryEmbedding).
//! - Partial: Concat(turned part, rest).

use pfmc_ir::graph::{NodeId, ValueId};
use pfmc_ir::op::{BinaryFn as B, Op, UnaryFn as U};

use super::pattern::Net;

/// `v` as elements `from..to` of the last axis of a value.
fn part(net: &Net, v: ValueId) -> Option<(ValueId, i64, i64)> {
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
            let (start, end) = (one(1)?, one(2)?);
            if !last(one(3)?) || one(4)? != 1 {
                return None;
            }
            let clamp = |v: i64| if v < 0 { v.saturating_add(len) } else { v }.clamp(0, len);
            Some((x, clamp(start), clamp(end)))
        }
        Op::Split { axis, sizes } if last(*axis) => {
            let from: i64 = sizes.get(..at)?.iter().sum();
            Some((x, from, from + sizes.get(at)?))
        }
        Op::SplitEqual { axis, parts } if last(*axis) && *parts > 0 && len % parts == 0 => {
            let size = len / parts;
            Some((x, size * at as i64, size * (at as i64 + 1)))
        }
        _ => None,
    }
}

/// The value of which `v` is rotate_half.
fn rotated_half(net: &Net, v: ValueId) -> Option<ValueId> {
    let (a, b) = joined(net, v)?;
    let (x, from, to) = part(net, net.unary(a, U::Neg)?)?;
    let (y, start, end) = part(net, b)?;
    let len = net.length(x, 1)?;
    let halves = x == y && len % 2 == 0 && (from, to) == (len / 2, len) && (start, end) == (0, len / 2);
    halves.then_some(x)
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
                let x = rotated_half(net, half)?;
                let cos = net.either(plain, B::Mul, |a, cos| (a == x).then_some(cos))?;
                let len = net.length(x, 1)?;
                (table(net, cos, x, len) && table(net, sin, x, len)).then_some((x, cos, sin, len))
            })
        }),
        Op::Concat { .. } => {
            let (p, q) = joined(net, v)?;
            let (ac, bs) = net.binary(p, B::Sub)?;
            net.either(q, B::Add, |bc, as_| {
                net.either(ac, B::Mul, |a, cos| {
                    net.either(bs, B::Mul, |b, sin| {
                        let same = |v, x, t| net.either(v, B::Mul, |p, q| (p == x && q == t).then_some(()));
                        same(bc, b, cos)?;
                        same(as_, a, sin)?;
                        let ((x, from, to), (y, start, end)) = (part(net, a)?, part(net, b)?);
                        let len = net.length(x, 1)?;
                        let halves = x == y && (from, to) == (0, len / 2) && (start, end) == (len / 2, len);
                        let fit = table(net, cos, x, len / 2) && table(net, sin, x, len / 2);
                        (halves && len % 2 == 0 && fit).then_some((x, cos, sin, len))
                    })
                })
            })
        }
        _ => None,
    };
    let (x, cos, sin, dim) = found?;
    net.become_of(v, Op::Rotary { interleaved: false, dim }, vec![x, cos, sin])?;
    whole(net, v);
    Some("rotaries")
}

/// Joins a turned part `v` with the rest of what it is part of.
fn whole(net: &mut Net, v: ValueId) -> Option<()> {
    let n = net.made(v)?;
    let Op::Rotary { interleaved, dim } = n.op else { return None };
    let (cos, sin) = (n.inputs[1], n.inputs[2]);
    let (x, from, to) = part(net, n.inputs[0])?;
    let joins = net.uses(v).into_iter().find(|y| {
        let rest = joined(net, *y).filter(|(a, _)| *a == v).and_then(|(_, b)| part(net, b));
        rest.is_some_and(|(y, start, end)| y == x && start == dim && Some(end) == net.length(x, 1))
    })?;
    ((from, to) == (0, dim)).then_some(())?;
    net.become_of(joins, Op::Rotary { interleaved, dim }, vec![x, cos, sin])
}
