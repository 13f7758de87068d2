//! Layer norms and RMS norms.
//!
//! - torch.onnx, LayerNorm before opset 17: ReduceMean, Sub, Pow 2 (or Mul), ReduceMean, Add epsilon,
//!   Sqrt, Div, Mul gain, Add bias.
//! - torch.onnx, HF RMSNorm: Pow 2, ReduceMean, Add epsilon, Sqrt, Reciprocal (or Div), Mul, Mul gain,
//!   with casts to f32 and back in half-precision models. Gemma's gain 1 + w is folded before.
//! - tf2onnx: x (r gain) + (bias - mean (r gain)), r the inverse deviation.

use pfmc_ir::graph::{NodeId, ValueId};
use pfmc_ir::op::{BinaryFn as B, Op, UnaryFn as U};

use super::pattern::{Net, is, same};

/// A norm before its gain.
struct Found {
    /// What is normalised, and with `mean` the mean to be subtracted first.
    x: ValueId,
    /// `x`, or its difference from the mean.
    d: ValueId,
    mean: Option<ValueId>,
    axes: usize,
    epsilon: f32,
}

/// The norm whose root is `root`.
fn found(net: &Net, root: ValueId) -> Option<Found> {
    let inside = match net.unary(root, U::Sqrt) {
        Some(v) => v,
        None => net.by_number(root, B::Pow).filter(|(_, n)| *n == -0.5 || *n == 0.5)?.0,
    };
    let (variance, epsilon) = net.by_number(inside, B::Add)?;
    let (square, axes) = net.mean(variance)?;
    let d = match net.binary(square, B::Mul) {
        Some((a, b)) if a == b => a,
        Some(_) => return None,
        None => net.by_number(square, B::Pow).filter(|(_, n)| *n == 2.0)?.0,
    };
    let centred = net.binary(d, B::Sub).and_then(|(x, mean)| {
        let (of, over) = net.mean(mean)?;
        (of == x && over == axes).then_some((x, mean))
    });
    let (x, mean) = centred.map_or((d, None), |(x, mean)| (x, Some(mean)));
    let epsilon = net.attribute(epsilon, d).filter(|e| *e >= 0.0)?;
    Some(Found { x, d, mean, axes, epsilon })
}

/// Whether a value can be gain or bias over the last `axes` axes of x.
fn fits(net: &Net, v: ValueId, x: ValueId, axes: usize) -> bool {
    let (Some(d), Some(x)) = (net.dims(v), net.dims(x)) else { return false };
    d.len() <= axes && d.iter().rev().zip(x.iter().rev()).all(|(a, b)| is(a, 1) || same(a, b))
}

/// Replaces the norm whose root is node `id`.
pub(super) fn recover(net: &mut Net, id: NodeId) -> Option<&'static str> {
    let root = net.result(id)?;
    let norm = found(net, root)?;
    let inverse_root = net.by_number(root, B::Pow).is_some_and(|(_, n)| n == -0.5);
    let mut inverses = Vec::new();
    let mut normal = Vec::new();
    if inverse_root {
        inverses.push(root);
    }
    for v in net.uses(root) {
        // The reciprocal of an inverse is the deviation again.
        if inverse_root {
            continue;
        }
        if net.unary(v, U::Reciprocal).is_some() {
            inverses.push(v);
        } else if let Some((a, b)) = net.binary(v, B::Div).filter(|(_, b)| *b == root) {
            if a == norm.d {
                normal.push(v);
            } else if net.number(a) == Some(1.0) && net.same_shape(v, b) {
                inverses.push(v);
            }
        }
    }
    for &i in &inverses {
        for v in net.uses(i) {
            let other = net.either(v, B::Mul, |a, b| (a == i).then_some(b));
            match other {
                Some(d) if d == norm.d => normal.push(v),
                Some(gain) => {
                    if let Some(done) = scaled_first(net, &norm, v, gain) {
                        return Some(done);
                    }
                }
                None => {}
            }
        }
    }
    normal.into_iter().find_map(|v| gained(net, &norm, v))
}

/// The normalised value `v`, then its gain and bias.
fn gained(net: &mut Net, norm: &Found, v: ValueId) -> Option<&'static str> {
    // A half-precision model casts to f32 before and back before the gain.
    let (mut x, mut v) = (norm.x, v);
    if let [back] = net.uses(v)[..]
        && let Some((_, to)) = net.cast(back)
        && let Some((narrow, _)) = net.cast(x)
        && to.is_half()
        && net.elem(narrow) == Some(to)
    {
        (x, v) = (narrow, back);
    }
    for y in net.uses(v) {
        let gain = net.either(y, B::Mul, |a, b| (a == v && fits(net, b, x, norm.axes)).then_some(b));
        if let Some(gain) = gain {
            return finish(net, norm, x, gain, y, None);
        }
    }
    None
}

/// The inverse deviation times the gain, `r`, is multiplied with x.
fn scaled_first(net: &mut Net, norm: &Found, r: ValueId, gain: ValueId) -> Option<&'static str> {
    if !fits(net, gain, norm.x, norm.axes) {
        return None;
    }
    for y in net.uses(r) {
        let by = net.either(y, B::Mul, |a, b| (a == r).then_some(b));
        if by == Some(norm.d) {
            return finish(net, norm, norm.x, gain, y, None);
        }
        let Some(mean) = norm.mean.filter(|_| by == Some(norm.x)) else { continue };
        for z in net.uses(y) {
            let shift = net.either(z, B::Add, |a, b| {
                let (bias, shift) = net.binary(b, B::Sub).filter(|_| a == y)?;
                net.either(shift, B::Mul, |p, q| (p == mean && q == r).then_some(bias))
            });
            if let Some(bias) = shift.filter(|b| fits(net, *b, norm.x, norm.axes)) {
                return finish(net, norm, norm.x, gain, z, Some(bias));
            }
        }
    }
    None
}

fn finish(
    net: &mut Net,
    norm: &Found,
    x: ValueId,
    gain: ValueId,
    mut y: ValueId,
    mut bias: Option<ValueId>,
) -> Option<&'static str> {
    let (axis, epsilon) = (-i64::try_from(norm.axes).ok()?, norm.epsilon);
    if net.elem(gain) != net.elem(x) {
        return None;
    }
    if norm.mean.is_none() {
        net.become_of(y, Op::RmsNorm { axis, epsilon }, vec![x, gain])?;
        return Some("rms norms");
    }
    if bias.is_none() && net.once(y) {
        for z in net.uses(y) {
            bias = net.either(z, B::Add, |a, b| {
                (a == y && b != y && net.0.constant(b).is_some() && fits(net, b, x, norm.axes)).then_some(b)
            });
            if bias.is_some() {
                y = z;
            }
        }
    }
    let inputs = [x, gain].into_iter().chain(bias).collect();
    net.become_of(y, Op::LayerNorm { axis, epsilon }, inputs)?;
    Some("layer norms")
}
