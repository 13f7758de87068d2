//! Attention: MatMul, scores times a scale, a mask, Softmax, MatMul.
//!
//! - torch.onnx of scaled_dot_product_attention and HF eager attention: scale on the scores (Mul or
//!   Div), or its root on q and k; masks added, or by Where on the scores; heads of keys and values
//!   repeated by Unsqueeze, Expand, Reshape (repeat_kv), or shared by broadcasting.
//! - Heads in the batch axis ([B H, S, D], older exports and CLIP): rank 3.
//! - Gemma 2: tanh cap between scale and mask.

use pfmc_ir::graph::{NodeId, ValueId};
use pfmc_ir::op::{BinaryFn as B, Op, UnaryFn as U};
use pfmc_ir::shape::OpenDim;
use pfmc_ir::tensor::Tensor;

use super::pattern::{Net, is, near, same};

/// Below this a score that replaces another hides it: added to any score of a trained model it leaves
/// nothing of it in f32.
const HIDES: f64 = -1e30;

enum Mask {
    /// Added to the scores.
    Adds(ValueId),
    /// Where the condition is `seen`, the score stays; elsewhere it is this value.
    Hides(ValueId, ValueId, bool),
}

/// Scores on the way from softmax to the product.
struct Scores {
    q: ValueId,
    turned: ValueId,
    scale: f64,
    softcap: f64,
    masks: Vec<Mask>,
}

/// Reads at most `depth` operations.
fn scores(net: &Net, mut v: ValueId, depth: usize) -> Option<Scores> {
    let (mut scale, mut softcap, mut masks) = (1.0, 0.0, Vec::new());
    for left in (0..depth).rev() {
        let n = net.made(v)?;
        match n.op {
            Op::MatMul {} => {
                return Some(Scores { q: n.inputs[0], turned: n.inputs[1], scale, softcap, masks });
            }
            Op::Where {} if scale == 1.0 && softcap == 0.0 => {
                let (c, a, b) = (n.inputs[0], n.inputs[1], n.inputs[2]);
                let hides = |v| net.splat(v).is_some_and(|n| n <= HIDES) && net.number(v).is_some();
                let (next, mask) = if hides(b) {
                    (a, Mask::Hides(c, b, true))
                } else if hides(a) {
                    (b, Mask::Hides(c, a, false))
                } else {
                    return None;
                };
                masks.push(mask);
                v = next;
            }
            Op::Binary(B::Add) if scale == 1.0 && softcap == 0.0 => {
                // The side that leads to a product is the scores.
                let leads = |v: ValueId| scores(net, v, left).is_some();
                let (a, b) = (n.inputs[0], n.inputs[1]);
                let (next, mask) = if leads(a) { (a, b) } else { (b, a) };
                masks.push(Mask::Adds(mask));
                v = next;
            }
            Op::Binary(B::Mul | B::Div) => {
                let (next, by) = net.scaled(v)?;
                match net.unary(next, U::Tanh) {
                    Some(inner) if softcap == 0.0 && scale == 1.0 => {
                        let (inner, down) = net.scaled(inner)?;
                        if !near(by * down, 1.0, net.elem(v)?) || by <= 0.0 {
                            return None;
                        }
                        softcap = by;
                        v = inner;
                    }
                    _ => {
                        scale *= by;
                        v = next;
                    }
                }
            }
            _ => return None,
        }
    }
    None
}

/// A permutation that swaps the last two axes after `perm`.
fn swapped(mut perm: Vec<i64>) -> Option<Vec<i64>> {
    let n = perm.len();
    (n >= 2).then(|| {
        perm.swap(n - 1, n - 2);
        perm
    })
}

/// The value of which `v` is a constant multiple, looking through a transposition.
fn unscaled(net: &Net, v: ValueId, scale: &mut f64) -> ValueId {
    match net.scaled(v) {
        Some((x, by)) => {
            *scale *= by;
            x
        }
        None => v,
    }
}

/// The value whose heads (axis 1 of 4) `v` repeats, each as often.
fn unrepeated(net: &Net, v: ValueId) -> Option<ValueId> {
    let n = net.made(v)?;
    let out = net.dims(v)?;
    let [b, heads, s, d] = out else { return None };
    let heads = heads.as_ref()?.value()?;
    let x = match &n.op {
        Op::Reshape { .. } => {
            let wide = n.inputs[0];
            let expand = net.made(wide)?;
            let narrow = *expand.inputs.first()?;
            let spread = net.made(narrow)?;
            let x = *spread.inputs.first()?;
            let (Op::Expand {}, Op::Unsqueeze { axes }) = (&expand.op, &spread.op) else { return None };
            let [x_b, x_g, x_s, x_d] = net.dims(x)? else { return None };
            let [w_b, w_g, w_r, w_s, w_d] = net.dims(wide)? else { return None };
            let group = x_g.as_ref()?.value()?;
            let repeats = w_r.as_ref()?.value()?;
            let same_all = [(x_b, w_b), (x_g, w_g), (x_s, w_s), (x_d, w_d), (x_b, b), (x_s, s), (x_d, d)];
            let fits = axes[..] == [2]
                && group.checked_mul(repeats) == Some(heads)
                && same_all.iter().all(|(a, b)| same(a, b));
            fits.then_some(x)?
        }
        Op::Expand {} => {
            let x = n.inputs[0];
            let [x_b, x_g, x_s, x_d] = net.dims(x)? else { return None };
            (is(x_g, 1) && same(x_b, b) && same(x_s, s) && same(x_d, d)).then_some(x)?
        }
        Op::Gather { axis: 1 } => {
            let owners = net.ints(n.inputs[1])?;
            let group = net.dims(n.inputs[0])?.get(1)?.as_ref()?.value()?;
            let each = heads.checked_div(group).filter(|e| *e > 0 && e * group == heads)?;
            let plain = owners.iter().copied().eq((0..heads).map(|i| i / each));
            plain.then_some(n.inputs[0])?
        }
        _ => return None,
    };
    Some(x)
}

/// Whether the operands have the shapes of an attention: one rank, one batch, heads that divide.
fn shapes(net: &Net, q: ValueId, k: ValueId, v: ValueId) -> Option<Vec<OpenDim>> {
    let (q, k, v) = (net.dims(q)?, net.dims(k)?, net.dims(v)?);
    let rank = q.len();
    if rank < 3 || k.len() != rank || v.len() != rank {
        return None;
    }
    // Lengths that are not known on either side are those of one model's batch; execution refuses
    // operands where they differ.
    let alike = |a: &OpenDim, b: &OpenDim| a == b;
    for i in 0..rank - 3 {
        (alike(&q[i], &k[i]) && alike(&k[i], &v[i])).then_some(())?;
    }
    let (h, g) = (&q[rank - 3], &k[rank - 3]);
    let number = |d: &OpenDim| d.as_ref()?.value();
    let shared = match (number(h), number(g)) {
        (Some(h), Some(g)) => g > 0 && h % g == 0,
        _ => alike(h, g) || is(g, 1),
    };
    (shared && alike(g, &v[rank - 3]) && alike(&k[rank - 2], &v[rank - 2])).then_some(())?;
    let mut scores = q.to_vec();
    scores[rank - 1].clone_from(&k[rank - 2]);
    Some(scores)
}

/// One additive mask, or a bool one, of all masks; `None` inside where there is none.
fn mask_of(net: &mut Net, masks: &[Mask], dims: &[OpenDim], beside: ValueId) -> Option<Option<ValueId>> {
    let mut out: Option<ValueId> = None;
    // Innermost first, as they act on the scores.
    for m in masks.iter().rev() {
        let next = match *m {
            Mask::Adds(m) => {
                if !net.broadcasts(m, dims) {
                    return None;
                }
                match (net.splat(m), out) {
                    (Some(0.0), out) => {
                        if out.is_none() {
                            continue;
                        }
                        out?
                    }
                    (_, None) => m,
                    (_, Some(before)) => net.insert(Op::Binary(B::Add), vec![before, m], beside)?,
                }
            }
            Mask::Hides(c, hidden, seen) => {
                if !net.broadcasts(c, dims) {
                    return None;
                }
                let kept = match out {
                    Some(before) => before,
                    None => zero_like(net, hidden)?,
                };
                let inputs = if seen { vec![c, kept, hidden] } else { vec![c, hidden, kept] };
                net.insert(Op::Where {}, inputs, beside)?
            }
        };
        out = Some(next);
    }
    Some(out)
}

fn zero_like(net: &mut Net, v: ValueId) -> Option<ValueId> {
    use pfmc_ir::consts::Const;
    use pfmc_ir::elem::Elem;
    let t = match net.elem(v)? {
        Elem::F32 => Tensor::scalar(0f32),
        Elem::F64 => Tensor::scalar(0f64),
        Elem::F16 => Tensor::scalar(half::f16::ZERO),
        Elem::BF16 => Tensor::scalar(half::bf16::ZERO),
        _ => return None,
    };
    Some(net.0.add_const("", Const::derived(&t, Default::default(), false)))
}

/// Replaces the attention whose softmax is node `id`.
pub(super) fn recover(net: &mut Net, id: NodeId) -> Option<&'static str> {
    let n = net.0.node(id)?;
    let Op::Softmax { axis } = n.op else { return None };
    let (mut from, weights) = (n.inputs[0], net.result(id)?);
    let rank = net.dims(weights)?.len();
    if axis != -1 && axis != rank as i64 - 1 {
        return None;
    }
    // A half-precision model casts its scores to f32 and the weights back.
    let mut last = weights;
    if !net.once(last) {
        return None;
    }
    if let [back] = net.uses(last)[..]
        && let Some((_, to)) = net.cast(back)
        && let Some((narrow, _)) = net.cast(from)
        && net.elem(narrow) == Some(to)
        && net.once(back)
    {
        (from, last) = (narrow, back);
    }
    let [y] = net.uses(last)[..] else { return None };
    let product = net.made(y)?;
    if product.op != (Op::MatMul {}) || product.inputs[0] != last || product.inputs[1] == last {
        return None;
    }
    let mut v = product.inputs[1];
    let Scores { q, turned, mut scale, softcap, masks } = scores(net, from, 10)?;
    let q = unscaled(net, q, &mut scale);
    let turned = unscaled(net, turned, &mut scale);
    // k is the operand of the transposition, which another one may have been joined with.
    let (source, perm) = match &net.made(turned)?.op {
        Op::Transpose { perm } => (net.made(turned)?.inputs[0], swapped(perm.clone())?),
        _ => (turned, swapped((0..rank as i64).collect())?),
    };
    let identity = perm.iter().copied().eq(0..rank as i64);
    let source = unscaled(net, source, &mut scale);
    let mut k = if identity { source } else { net.insert(Op::Transpose { perm }, vec![source], y)? };
    if let (Some(few_k), Some(few_v)) = (unrepeated(net, k), unrepeated(net, v))
        && net.length(few_k, 3) == net.length(few_v, 3)
    {
        (k, v) = (few_k, few_v);
    }
    let dims = shapes(net, q, k, v)?;
    let mask = mask_of(net, &masks, &dims, y)?;
    let (scale, softcap) = (net.attribute(scale, q)?, net.attribute(softcap, q)?);
    let op = Op::Attention { scale, causal: false, softcap };
    let inputs = [q, k, v].into_iter().chain(mask).collect();
    net.become_of(y, op, inputs)?;
    Some("attentions")
}
