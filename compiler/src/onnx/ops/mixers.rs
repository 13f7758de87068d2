//! What mixes along a sequence besides softmax attention: stateful convolution and linear attention; and
//! attention whose scores and probabilities are changed by subgraphs.

use pfmc_ir::elem::Elem;
use pfmc_ir::graph::ValueId;
use pfmc_ir::infer::Fact;
use pfmc_ir::op::{BinaryFn as B, Op, UnaryFn as U};
use pfmc_ir::shape::{Dim, OpenType};
use pfmc_ir::tensor::Tensor;

use super::blocks::{required, reshape, scale_of, slice};
use super::{FLOATS, OpInfo, op, preview};
use crate::onnx::lower::{Ctx, R};
use crate::onnx::proto::GraphProto;
use crate::onnx::tensor::elem_type;

const HALF_AND_SINGLE: &[Elem] = &[Elem::F32, Elem::F16, Elem::BF16];

pub(super) static MIXERS: &[OpInfo] = &[
    op(
        "CausalConvWithState",
        27,
        (2, 4),
        &["activation"],
        "lowered to a convolution of the state and the input",
        causal_conv,
    )
    .on(HALF_AND_SINGLE),
    op(
        "LinearAttention",
        27,
        (3, 6),
        &["chunk_size", "kv_num_heads", "q_num_heads", "scale", "update_rule"],
        "lowered to a loop over the sequence in f32",
        linear_attention,
    )
    .on(HALF_AND_SINGLE),
    preview(
        "FlexAttention",
        (3, 3),
        &["prob_mod", "scale", "score_mod", "softmax_precision"],
        "without subgraphs attention, else lowered",
        flex_attention,
    )
    .on(FLOATS),
];

/// A convolution of each channel by itself over what came before the sequence and the sequence.
fn causal_conv(c: &mut Ctx) -> R<Vec<ValueId>> {
    let silu = match c.attrs.string("activation")?.as_deref() {
        None | Some("none") => false,
        Some("silu" | "swish") => true,
        Some(other) => return Err(Ctx::value_of("activation", other, "none, silu, swish")),
    };
    let (x, w) = (c.x(0)?, c.x(1)?);
    let (channels, kernel) = (c.length(w, 0).or(c.length(x, 1)), c.length(w, 2));
    let (Some(channels), Some(kernel @ 1..)) = (channels, kernel) else {
        return Err(Ctx::form("the number of channels and the kernel's length must be known"));
    };
    let past = match c.opt(3)? {
        Some(v) => v,
        None => {
            let lead = c.op(Op::Shape { start: 0, end: 2 }, &[x])?;
            let rest = c.vector(vec![kernel - 1]);
            let shape = c.op(Op::Concat { axis: 0 }, &[lead, rest])?;
            let zero = c.number_like(0.0, x)?;
            c.op(Op::Expand {}, &[zero, shape])?
        }
    };
    let whole = c.op(Op::Concat { axis: 2 }, &[past, x])?;
    let mut inputs = vec![whole, w];
    inputs.extend(c.opt(2)?);
    let conv = Op::Conv { strides: vec![1], pads: vec![0, 0], dilations: vec![1], groups: channels };
    let mut y = c.op(conv, &inputs)?;
    if silu {
        y = c.un(U::Silu, y)?;
    }
    // Counted from the end, 0 would be the begin.
    let present = if kernel == 1 { past } else { slice(c, whole, 2, 1 - kernel, i64::MAX)? };
    Ok(vec![y, present])
}

/// What the recurrence does with its state before it adds to it.
#[derive(Clone, Copy)]
struct Rule {
    /// The state decays.
    gated: bool,
    /// What the state already holds of a value is taken off it.
    delta: bool,
}

/// `[B, T, a b ..]` as `[T, B, a, b, ..]`, in f32.
fn steps(c: &mut Ctx, v: ValueId, split: &[i64]) -> R<ValueId> {
    let v = reshape(c, v, [&[0, 0], split].concat())?;
    let perm = [1, 0].into_iter().chain(2..split.len() as i64 + 2).collect();
    let v = c.op(Op::Transpose { perm }, &[v])?;
    to(c, v, Elem::F32)
}

fn to(c: &mut Ctx, v: ValueId, elem: Elem) -> R<ValueId> {
    if c.elem(v) == elem { Ok(v) } else { c.op(Op::Cast { to: elem }, &[v]) }
}

/// Length of the last of three axes as a number of heads and the length of each.
fn per_head(c: &Ctx, v: ValueId, heads: i64, what: &str) -> R<i64> {
    let length = c.dims(v).filter(|d| d.len() == 3).and_then(|_| c.length(v, 2));
    let length = length.ok_or_else(|| Ctx::form(format!("the {what}'s last of 3 axes must be known")))?;
    match length.checked_rem(heads) {
        Some(0) if length > 0 => Ok(length / heads),
        _ => Err(Ctx::form(format!("the {what}'s {length} elements do not divide into {heads} heads"))),
    }
}

fn linear_attention(c: &mut Ctx) -> R<Vec<ValueId>> {
    let rule = match c.attrs.string("update_rule")?.as_deref() {
        Some("linear") => Rule { gated: false, delta: false },
        Some("gated") => Rule { gated: true, delta: false },
        Some("delta") => Rule { gated: false, delta: true },
        None | Some("gated_delta") => Rule { gated: true, delta: true },
        Some(other) => {
            return Err(Ctx::value_of("update_rule", other, "linear, gated, delta, gated_delta"));
        }
    };
    // The length of pieces in which others compute; no result depends on it.
    c.attrs.int("chunk_size")?;
    let (q_heads, heads) = (required(c, "q_num_heads")?, required(c, "kv_num_heads")?);
    if q_heads % heads != 0 {
        return Err(Ctx::value_of("q_num_heads", q_heads, &format!("multiples of kv_num_heads, {heads}")));
    }
    let scale = c.attrs.float("scale")?.filter(|s| *s != 0.0).map(f64::from);
    let (q, k, v) = (c.x(0)?, c.x(1)?, c.x(2)?);
    let (past, decay, beta) = (c.opt(3)?, c.opt(4)?, c.opt(5)?);
    for (given, wanted, name) in [(decay, rule.gated, "decay"), (beta, rule.delta, "beta")] {
        if given.is_some() != wanted {
            let verb = if wanted { "needs" } else { "has no" };
            return Err(Ctx::form(format!("the update rule {verb} {name}")));
        }
    }
    let elem = c.elem(q);
    let (size, width) = (per_head(c, q, q_heads, "query")?, per_head(c, v, heads, "value")?);
    if per_head(c, k, heads, "key")? != size {
        return Err(Ctx::form("query and key have different head sizes"));
    }
    // Query heads of one state are the rows of one product.
    let query = steps(c, q, &[heads, q_heads / heads, size])?;
    let query = c.with(B::Mul, query, scale.unwrap_or(1.0 / (size as f64).sqrt()))?;
    let key = steps(c, k, &[heads, size, 1])?;
    let value = steps(c, v, &[heads, 1, width])?;
    // One factor a head, or one an element of the key.
    let decay = match decay {
        Some(d) => {
            let d = steps(c, d, &[heads, -1, 1])?;
            Some(c.un(U::Exp, d)?)
        }
        None => None,
    };
    // One factor a head, or one for all.
    let beta = match beta {
        Some(b) => Some(steps(c, b, &[-1, 1, 1])?),
        None => None,
    };
    let kept = past.map_or(elem, |p| c.elem(p));
    let start = match past {
        Some(p) => to(c, p, Elem::F32)?,
        None => {
            let batch = c.op(Op::Shape { start: 0, end: 1 }, &[q])?;
            let rest = c.vector(vec![heads, size, width]);
            let shape = c.op(Op::Concat { axis: 0 }, &[batch, rest])?;
            let zero = c.make(&Tensor::scalar(0f32), false);
            c.op(Op::Expand {}, &[zero, shape])?
        }
    };
    let length = c.length_of(query, 0)?;
    let given = [Some(query), Some(key), Some(value), decay, beta];
    let [y, state] = recurrence(c, start, length, given)?;
    // [T, B, heads, group, width] to [B, T, heads group width].
    let y = c.op(Op::Transpose { perm: vec![1, 0, 2, 3, 4] }, &[y])?;
    let all = q_heads.checked_mul(width).ok_or_else(|| Ctx::form("the result is too large"))?;
    let y = reshape(c, y, vec![0, 0, all])?;
    Ok(vec![to(c, y, elem)?, to(c, state, kept)?])
}

/// The loop: the reads of all steps, and the last state `[B, heads, size, width]`. `given` are query,
/// key, value, and where there are any decay and beta, with the steps on the first axis.
fn recurrence(c: &mut Ctx, start: ValueId, length: ValueId, given: [Option<ValueId>; 5]) -> R<[ValueId; 2]> {
    let scalar = |elem| Fact::of(OpenType { elem, shape: Some(Vec::new()) });
    let mut facts = vec![("iteration".to_owned(), scalar(Elem::I64)), ("go".to_owned(), scalar(Elem::Bool))];
    // The batch of what is read may have another name than the state's.
    let shape = c
        .dims(start)
        .map(|d| d.into_iter().map(|d| d.as_ref().and_then(Dim::value).map(Dim::known)).collect::<Vec<_>>());
    facts.push(("state".to_owned(), Fact::of(OpenType { elem: Elem::F32, shape })));
    let names = ["query", "key", "value", "decay", "beta"];
    for (name, v) in names.iter().zip(given) {
        if let Some(v) = v {
            facts.push(((*name).to_owned(), c.fact(v)));
        }
    }
    let body = c.region(facts, |c, inside| {
        let mut rest = inside[3..].iter().copied();
        let mut now = Vec::new();
        for v in given {
            let whole = v.and_then(|_| rest.next());
            now.push(whole.map(|v| c.op(Op::Gather { axis: 0 }, &[v, inside[0]])).transpose()?);
        }
        let [Some(query), Some(key), Some(mut value), decay, beta] = now[..] else {
            return Err(Ctx::form("a loop lacks a value"));
        };
        let mut state = inside[2];
        if let Some(decay) = decay {
            state = c.bin(B::Mul, state, decay)?;
        }
        if let Some(beta) = beta {
            let row = c.op(Op::Transpose { perm: vec![0, 1, 3, 2] }, &[key])?;
            let held = c.op(Op::MatMul {}, &[row, state])?;
            value = c.bin(B::Sub, value, held)?;
            value = c.bin(B::Mul, value, beta)?;
        }
        let outer = c.bin(B::Mul, key, value)?;
        state = c.bin(B::Add, state, outer)?;
        let y = c.op(Op::MatMul {}, &[query, state])?;
        Ok([("go", inside[1]), ("state", state), ("y", y)].map(|(n, v)| (n.to_owned(), v)).to_vec())
    })?;
    let go = c.make(&Tensor::scalar(true), false);
    let mut inputs = vec![length, go, start];
    inputs.extend(given.iter().flatten());
    let made = c.many(Op::Loop { body, carried: 1, results: 2 }, &inputs)?;
    Ok([made[1], made[0]])
}

/// What a subgraph of one input and one output makes of a value, whose type it keeps.
fn changed(c: &mut Ctx, by: Option<&GraphProto>, v: ValueId) -> R<ValueId> {
    let Some(by) = by else { return Ok(v) };
    let region = c.subgraph(by, &[c.ty(v)], &[])?;
    let mut args = vec![v];
    args.extend(c.named(&region.captured));
    match c.inline(&region.graph, &args)?[..] {
        [y] if c.elem(y) == c.elem(v) => Ok(y),
        [y] => Err(Ctx::form(format!("a subgraph makes {} of {}", c.elem(y), c.elem(v)))),
        _ => Err(Ctx::form("a subgraph must have one output")),
    }
}

fn flex_attention(c: &mut Ctx) -> R<Vec<ValueId>> {
    let (score, prob) = (c.attrs.optional_graph("score_mod")?, c.attrs.optional_graph("prob_mod")?);
    let precision = match c.attrs.int("softmax_precision")? {
        None => None,
        Some(p) => {
            let elem = i32::try_from(p).ok().and_then(elem_type).filter(|e| e.is_float());
            Some(elem.ok_or_else(|| Ctx::value_of("softmax_precision", p, "floats"))?)
        }
    };
    let (mut q, mut k, mut v) = (c.x(0)?, c.x(1)?, c.x(2)?);
    for x in [q, k, v] {
        if c.dims(x).is_some_and(|d| d.len() != 4) {
            return Err(Ctx::form("the operands must have 4 axes"));
        }
    }
    let elem = c.elem(v);
    let inner = precision.unwrap_or(if elem == Elem::F64 { Elem::F64 } else { Elem::F32 });
    let scale = scale_of(c, q)?;
    if score.is_none() && prob.is_none() && inner == elem {
        return Ok(vec![c.op(Op::Attention { scale, causal: false, softcap: 0.0 }, &[q, k, v])?]);
    }
    // Each operand takes the root, so that products of halves do not overflow.
    let (root, sign) = (f64::from(scale.abs().sqrt()), f64::from(scale.signum()));
    let before = c.op(Op::Shape { start: 0, end: 3 }, &[q])?;
    q = grouped(c, q, k)?;
    q = c.with(B::Mul, q, root * sign)?;
    k = c.with(B::Mul, k, root)?;
    k = c.op(Op::Transpose { perm: vec![0, 1, 3, 2] }, &[k])?;
    let s = c.op(Op::MatMul {}, &[q, k])?;
    let s = to(c, s, inner)?;
    let keys = c.op(Op::Shape { start: 3, end: 4 }, &[k])?;
    let full = c.op(Op::Concat { axis: 0 }, &[before, keys])?;
    let s = c.op(Op::Reshape { allow_zero: true }, &[s, full])?;
    let s = changed(c, score, s)?;
    let p = c.op(Op::Softmax { axis: 3 }, &[s])?;
    let p = changed(c, prob, p)?;
    v = to(c, v, inner)?;
    let width = c.op(Op::Shape { start: 3, end: 4 }, &[v])?;
    let p = grouped(c, p, v)?;
    let y = c.op(Op::MatMul {}, &[p, v])?;
    let full = c.op(Op::Concat { axis: 0 }, &[before, width])?;
    let y = c.op(Op::Reshape { allow_zero: true }, &[y, full])?;
    Ok(vec![to(c, y, elem)?])
}

/// `[B, H, L, n]` as `[B, G, H / G * L, n]`, G being the length of axis 1 of `like`: query heads that
/// share keys and values follow each other.
fn grouped(c: &mut Ctx, x: ValueId, like: ValueId) -> R<ValueId> {
    if c.length(x, 1).is_some() && c.length(x, 1) == c.length(like, 1) {
        return Ok(x);
    }
    let mut part = |of, i| c.op(Op::Shape { start: i, end: i + 1 }, &[of]);
    let [batch, own, rows, last, groups] =
        [part(x, 0)?, part(x, 1)?, part(x, 2)?, part(x, 3)?, part(like, 1)?];
    let each = c.bin(B::Div, own, groups)?;
    let rows = c.bin(B::Mul, each, rows)?;
    let shape = c.op(Op::Concat { axis: 0 }, &[batch, groups, rows, last])?;
    c.op(Op::Reshape { allow_zero: true }, &[x, shape])
}
