//! GELU and SiLU. Whatever the order of factors, such a function is a polynomial in x and one
//! transcendental function t of x; patterns compare polynomials.

use std::collections::BTreeMap;

use pfmc_ir::graph::{NodeId, ValueId};
use pfmc_ir::op::{BinaryFn as B, Op, UnaryFn as U};

use super::pattern::{Net, near};

/// Deepest expression read as a polynomial.
const DEPTH: usize = 8;
/// Highest power kept.
const DEGREE: u8 = 4;

/// Coefficients by the powers of x and t.
type Poly = BTreeMap<(u8, u8), f64>;

fn times(a: &Poly, b: &Poly) -> Option<Poly> {
    let mut out = Poly::new();
    for (&(i, j), p) in a {
        for (&(k, l), q) in b {
            if i + k > DEGREE || j + l > DEGREE {
                return None;
            }
            *out.entry((i + k, j + l)).or_insert(0.0) += p * q;
        }
    }
    Some(out)
}

/// A value as a polynomial in `x` and `t`.
fn poly(net: &Net, v: ValueId, x: ValueId, t: Option<ValueId>, depth: usize) -> Option<Poly> {
    if v == x {
        return Some(Poly::from([((1, 0), 1.0)]));
    }
    if Some(v) == t {
        return Some(Poly::from([((0, 1), 1.0)]));
    }
    if let Some(n) = net.number(v) {
        return Some(Poly::from([((0, 0), n)]));
    }
    let depth = depth.checked_sub(1)?;
    let n = net.made(v)?;
    let part = |v| poly(net, v, x, t, depth);
    let sum = |a: Poly, b: Poly, sign: f64| {
        let mut out = a;
        for (k, c) in b {
            *out.entry(k).or_insert(0.0) += sign * c;
        }
        out
    };
    match n.op {
        Op::Unary(U::Neg) => times(&part(n.inputs[0])?, &Poly::from([((0, 0), -1.0)])),
        Op::Binary(B::Add) => Some(sum(part(n.inputs[0])?, part(n.inputs[1])?, 1.0)),
        Op::Binary(B::Sub) => Some(sum(part(n.inputs[0])?, part(n.inputs[1])?, -1.0)),
        Op::Binary(B::Mul) => times(&part(n.inputs[0])?, &part(n.inputs[1])?),
        Op::Binary(B::Div) => {
            let by = Poly::from([((0, 0), 1.0 / net.number(n.inputs[1])?)]);
            times(&part(n.inputs[0])?, &by)
        }
        Op::Binary(B::Pow) => {
            let base = part(n.inputs[0])?;
            let square = times(&base, &base)?;
            match net.number(n.inputs[1])? {
                2.0 => Some(square),
                3.0 => times(&square, &base),
                _ => None,
            }
        }
        _ => None,
    }
}

fn equals(net: &Net, v: ValueId, p: &Poly, want: &[((u8, u8), f64)]) -> bool {
    let Some(elem) = net.elem(v) else { return false };
    let largest = want.iter().fold(0f64, |m, w| m.max(w.1.abs()));
    want.iter().all(|(k, c)| p.get(k).is_some_and(|p| near(*p, *c, elem)))
        && p.iter().all(|(k, c)| want.iter().any(|w| w.0 == *k) || c.abs() <= 1e-9 * largest)
}

/// Values that `v` is computed from by sums and products.
fn below(net: &Net, v: ValueId) -> Vec<ValueId> {
    let (mut all, mut at) = (vec![v], 0);
    while at < all.len() && all.len() < 24 {
        if let Some(n) = net.made(all[at])
            && matches!(n.op, Op::Binary(_) | Op::Unary(U::Neg))
        {
            for &i in &n.inputs {
                if net.0.constant(i).is_none() && !all.contains(&i) {
                    all.push(i);
                }
            }
        }
        at += 1;
    }
    all
}

/// Coefficients that are not zero.
type Terms = Vec<((u8, u8), f64)>;

/// The functions looked for: what t is, what its operand is as a polynomial in x, and the result.
fn known(t: U) -> Option<(U, Terms, Terms)> {
    let half = vec![((1, 0), 0.5), ((1, 1), 0.5)];
    let root = (2.0 / std::f64::consts::PI).sqrt();
    Some(match t {
        // torch.nn.GELU(), HF "gelu": x/2 (1 + erf(x / sqrt 2)).
        U::Erf => (U::Gelu, vec![((1, 0), std::f64::consts::FRAC_1_SQRT_2)], half),
        // torch.nn.GELU("tanh"), HF "gelu_new", "gelu_pytorch_tanh".
        U::Tanh => (U::GeluTanh, vec![((1, 0), root), ((3, 0), root * 0.044_715)], half),
        // torch.nn.SiLU, HF "silu" and "swish": x sigmoid(x).
        U::Sigmoid => (U::Silu, vec![((1, 0), 1.0)], vec![((1, 1), 1.0)]),
        _ => return None,
    })
}

/// Replaces the function that contains `erf`, `tanh` or `sigmoid` node `id`.
pub(super) fn recover(net: &mut Net, id: NodeId) -> Option<&'static str> {
    let n = net.0.node(id)?;
    let Op::Unary(t) = n.op else { return None };
    let (f, inner, outer) = known(t)?;
    let (u, t) = (n.inputs[0], net.result(id)?);
    for x in below(net, u) {
        if !poly(net, u, x, None, DEPTH).is_some_and(|p| equals(net, u, &p, &inner)) {
            continue;
        }
        let (mut reach, mut at) = (vec![(t, 0)], 0);
        while at < reach.len() {
            let (v, far) = reach[at];
            at += 1;
            if poly(net, v, x, Some(t), DEPTH).is_some_and(|p| equals(net, v, &p, &outer))
                && net.dims(v)?.len() == net.dims(x)?.len()
            {
                net.become_of(v, Op::Unary(f), vec![x])?;
                return Some(match f {
                    U::Silu => "silus",
                    _ => "gelus",
                });
            }
            if far < 4 {
                for next in net.uses(v) {
                    let goes = matches!(net.made(next)?.op, Op::Binary(B::Add | B::Sub | B::Mul | B::Div));
                    if goes && reach.len() < 32 {
                        reach.push((next, far + 1));
                    }
                }
            }
        }
    }
    None
}
