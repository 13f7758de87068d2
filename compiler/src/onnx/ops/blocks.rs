//! Operators that are whole parts of transformers: attention, rotary positions, norms with their
//! residual sums, in their ONNX and onnxruntime forms.

use pfmc_ir::diag::Diagnostic;
use pfmc_ir::elem::Elem;
use pfmc_ir::graph::ValueId;
use pfmc_ir::op::{BinaryFn as B, Op, ReduceFn as Rf, UnaryFn as U};
use pfmc_ir::tensor::Tensor;

use super::{FLOATS, NORM, OpInfo, contrib, gemm, hard_sigmoid_of, leaky_of, op, stash};
use crate::onnx::codes::E0105;
use crate::onnx::lower::{Ctx, R};

const NO: &[&str] = &[];

pub(super) static BLOCKS: &[OpInfo] = &[
    op(
        "Attention",
        23,
        (3, 7),
        &[
            "is_causal",
            "kv_num_heads",
            "q_num_heads",
            "qk_matmul_output_mode",
            "scale",
            "softcap",
            "softmax_precision",
        ],
        "softmax in f32, or f64 for f64",
        attention,
    )
    .on(FLOATS),
    op("LayerNormalization", 17, (2, 3), NORM, "", layer_norm).on(FLOATS),
    op("RMSNormalization", 23, (2, 2), NORM, "", rms_norm).on(FLOATS),
    op(
        "RotaryEmbedding",
        23,
        (3, 4),
        &["interleaved", "num_heads", "rotary_embedding_dim"],
        "the caches need a known last length",
        rotary,
    )
    .on(FLOATS),
    op("SimplifiedLayerNormalization", 7, (2, 2), NORM, "onnxruntime's name of RMSNormalization", rms_norm)
        .on(FLOATS),
    contrib(
        "Attention",
        (2, 6),
        &["mask_filter_value", "num_heads", "qkv_hidden_sizes", "scale", "unidirectional"],
        "masks [B], [B, T] and [B, S, T]; no rotary positions, no shared buffers",
        packed_attention,
    )
    .on(FLOATS),
    contrib("BiasAdd", (3, 3), NO, "lowered", |c| {
        let x = c.all()?;
        let y = c.bin(B::Add, x[0], x[1])?;
        Ok(vec![c.bin(B::Add, y, x[2])?])
    }),
    contrib("BiasSplitGelu", (2, 2), NO, "lowered", bias_split_gelu),
    contrib(
        "EmbedLayerNormalization",
        (7, 9),
        &["epsilon", "mask_index_type"],
        "lowered to look-ups and a layer norm",
        embed_layer_norm,
    ),
    contrib(
        "FusedGemm",
        (2, 3),
        &[
            "activation",
            "activation_alpha",
            "activation_beta",
            "activation_gamma",
            "alpha",
            "beta",
            "transA",
            "transB",
        ],
        "activations Relu, LeakyRelu, Sigmoid, Tanh, HardSigmoid",
        fused_gemm,
    ),
    contrib(
        "FusedMatMul",
        (2, 2),
        &["alpha", "transA", "transB", "transBatchA", "transBatchB"],
        "lowered; no transposed batch axes",
        fused_matmul,
    ),
    contrib(
        "GroupQueryAttention",
        (7, 16),
        &[
            "causal",
            "do_rotary",
            "k_norm_epsilon",
            "kv_cache_bit_width",
            "kv_num_heads",
            "local_window_size",
            "num_heads",
            "q_norm_epsilon",
            "qk_norm_epsilon",
            "qk_output",
            "rotary_interleaved",
            "scale",
            "smooth_softmax",
            "softcap",
        ],
        "causal; no quantised caches, sinks or scores as output",
        group_query,
    )
    .on(FLOATS),
    contrib(
        "MultiHeadAttention",
        (1, 8),
        &["mask_filter_value", "num_heads", "scale", "unidirectional"],
        "masks [B], [B, T] and [B, S, T]; no shared buffers, no scores as output",
        multi_head,
    )
    .on(FLOATS),
    contrib(
        "RotaryEmbedding",
        (4, 4),
        &["interleaved", "is_packed_batching", "num_heads", "rotary_embedding_dim", "scale"],
        "the caches need a known last length; scale 1",
        contrib_rotary,
    )
    .on(FLOATS),
    contrib("SimplifiedLayerNormalization", (2, 2), NORM, "", rms_norm).on(FLOATS),
    contrib("SkipLayerNormalization", (3, 5), &["epsilon"], "lowered to sums and a layer norm", |c| {
        skip_norm(c, true)
    })
    .on(FLOATS),
    contrib(
        "SkipSimplifiedLayerNormalization",
        (3, 4),
        &["epsilon"],
        "lowered to sums and an RMS norm",
        |c| skip_norm(c, false),
    )
    .on(FLOATS),
];

// Shapes.

/// Length of an axis as an i64 scalar.
fn length_of(c: &mut Ctx, v: ValueId, axis: i64) -> R<ValueId> {
    let n = c.op(Op::Shape { start: axis, end: axis + 1 }, &[v])?;
    c.op(Op::Squeeze { axes: vec![0] }, &[n])
}

/// 0, 1, .. below an i64 scalar.
fn count_to(c: &mut Ctx, n: ValueId) -> R<ValueId> {
    let (zero, one) = (c.int_scalar(0), c.int_scalar(1));
    c.op(Op::Range {}, &[zero, n, one])
}

pub(super) fn reshape(c: &mut Ctx, v: ValueId, shape: Vec<i64>) -> R<ValueId> {
    let shape = c.vector(shape);
    c.op(Op::Reshape { allow_zero: false }, &[v, shape])
}

fn unsqueeze(c: &mut Ctx, v: ValueId, axes: &[i64]) -> R<ValueId> {
    c.op(Op::Unsqueeze { axes: axes.to_vec() }, &[v])
}

pub(super) fn slice(c: &mut Ctx, v: ValueId, axis: i64, from: i64, to: i64) -> R<ValueId> {
    let [from, to, axis, step] = [from, to, axis, 1].map(|n| c.vector(vec![n]));
    c.op(Op::Slice {}, &[v, from, to, axis, step])
}

/// `[B, S, n D]` as `[B, n, S, D]`.
fn heads(c: &mut Ctx, x: ValueId, n: i64) -> R<ValueId> {
    let size = match c.length(x, 2) {
        Some(hidden) => match hidden.checked_rem(n) {
            Some(0) => hidden / n,
            _ => return Err(Ctx::form(format!("{hidden} elements do not divide into {n} heads"))),
        },
        None => -1,
    };
    let x = reshape(c, x, vec![0, 0, n, size])?;
    c.op(Op::Transpose { perm: vec![0, 2, 1, 3] }, &[x])
}

/// `[B, n, S, D]` as `[B, S, n D]`.
fn unheads(c: &mut Ctx, x: ValueId) -> R<ValueId> {
    let hidden = c.length(x, 1).zip(c.length(x, 3)).and_then(|(n, d)| n.checked_mul(d)).unwrap_or(-1);
    let x = c.op(Op::Transpose { perm: vec![0, 2, 1, 3] }, &[x])?;
    reshape(c, x, vec![0, 0, hidden])
}

/// A number of heads that an attribute gives.
fn number_of(c: &mut Ctx, name: &str) -> R<Option<i64>> {
    match c.attrs.int(name)? {
        None | Some(0) => Ok(None),
        Some(n) if (1..=1 << 20).contains(&n) => Ok(Some(n)),
        Some(n) => Err(Ctx::value_of(name, n, "1 to 2^20")),
    }
}

pub(super) fn required(c: &mut Ctx, name: &str) -> R<i64> {
    Ok(number_of(c, name)?
        .ok_or_else(|| Diagnostic::error(&E0105, format!("attribute {name} is missing")))?)
}

fn and(c: &mut Ctx, a: Option<ValueId>, b: ValueId) -> R<ValueId> {
    match a {
        Some(a) => c.bin(B::And, a, b),
        None => Ok(b),
    }
}

fn plus(c: &mut Ctx, a: Option<ValueId>, b: ValueId) -> R<ValueId> {
    match a {
        Some(a) => c.bin(B::Add, a, b),
        None => Ok(b),
    }
}

/// Whether two axes certainly have one length.
fn same_axis(c: &Ctx, (a, i): (ValueId, usize), (b, j): (ValueId, usize)) -> bool {
    let dim = |v, i: usize| c.dims(v).and_then(|d| d.get(i).cloned()).flatten();
    dim(a, i).is_some_and(|d| Some(d) == dim(b, j))
}

/// One mask of a bool part and an additive part of the element type of `like`.
fn joined(c: &mut Ctx, bools: Option<ValueId>, adds: Option<ValueId>, like: ValueId) -> R<Option<ValueId>> {
    Ok(match (bools, adds) {
        (Some(b), Some(a)) => {
            let hidden = c.number_like(f64::NEG_INFINITY, like)?;
            Some(c.op(Op::Where {}, &[b, a, hidden])?)
        }
        (b, a) => b.or(a),
    })
}

/// bool `[S, T]`: query i sees the keys up to i + `offset` (an i64 scalar; 0 where there is none).
fn triangle(c: &mut Ctx, q: ValueId, k: ValueId, offset: Option<ValueId>) -> R<ValueId> {
    let s = length_of(c, q, 2)?;
    let t = length_of(c, k, 2)?;
    let (mut i, j) = (count_to(c, s)?, count_to(c, t)?);
    if let Some(offset) = offset {
        i = c.bin(B::Add, i, offset)?;
    }
    let i = unsqueeze(c, i, &[1])?;
    c.bin(B::LessEqual, j, i)
}

/// bool `[B, 1, 1, T]`: key j is below the length (`[B]`, integers) of its batch entry.
fn below(c: &mut Ctx, lengths: ValueId, t: ValueId) -> R<ValueId> {
    let j = count_to(c, t)?;
    let lengths = c.as_i64(lengths)?;
    let lengths = unsqueeze(c, lengths, &[1, 2, 3])?;
    c.bin(B::Less, j, lengths)
}

/// The scale given, or one over the root of the head size (axis 3 of q).
pub(super) fn scale_of(c: &mut Ctx, q: ValueId) -> R<f32> {
    match c.attrs.float("scale")? {
        Some(s) if s != 0.0 => Ok(s),
        _ => match c.length(q, 3) {
            Some(d) => Ok((1.0 / (d as f64).sqrt()) as f32),
            None => Err(Ctx::form("without scale the head size must be known")),
        },
    }
}

// Norms.

/// Mean and inverse deviation over the axes from `axis` on, in the precision asked for.
fn statistics(c: &mut Ctx, x: ValueId, axis: i64, epsilon: f32, to: Elem) -> R<[ValueId; 2]> {
    let wide = match c.elem(x) {
        Elem::F32 | Elem::F64 => x,
        _ => c.op(Op::Cast { to: Elem::F32 }, &[x])?,
    };
    let axes = c.trailing(axis, x)?;
    let mean = c.reduce(Rf::Mean, wide, axes.clone())?;
    let d = c.bin(B::Sub, wide, mean)?;
    let v = c.bin(B::Mul, d, d)?;
    let v = c.reduce(Rf::Mean, v, axes)?;
    let v = c.with(B::Add, v, epsilon.into())?;
    let v = c.un(U::Sqrt, v)?;
    let mut out = [mean, c.un(U::Reciprocal, v)?];
    for v in &mut out {
        if c.elem(*v) != to {
            *v = c.op(Op::Cast { to }, &[*v])?;
        }
    }
    Ok(out)
}

fn layer_norm(c: &mut Ctx) -> R<Vec<ValueId>> {
    let to = match stash(c)? {
        10 => Elem::F16,
        16 => Elem::BF16,
        _ => Elem::F32,
    };
    let axis = c.attrs.int("axis")?.unwrap_or(-1);
    let epsilon = c.attrs.float("epsilon")?.unwrap_or(1e-5);
    let inputs = c.all()?;
    let mut out = vec![c.op(Op::LayerNorm { axis, epsilon }, &inputs)?];
    if c.output_count() > 1 {
        out.extend(statistics(c, inputs[0], axis, epsilon, to)?);
    }
    Ok(out)
}

fn rms_norm(c: &mut Ctx) -> R<Vec<ValueId>> {
    stash(c)?;
    let axis = c.attrs.int("axis")?.unwrap_or(-1);
    let epsilon = c.attrs.float("epsilon")?.unwrap_or(1e-5);
    let (mut x, gain) = (c.x(0)?, c.x(1)?);
    let to = c.elem(gain);
    if c.elem(x) != to {
        x = c.op(Op::Cast { to }, &[x])?;
    }
    Ok(vec![c.op(Op::RmsNorm { axis, epsilon }, &[x, gain])?])
}

/// A norm of a residual sum, which is the fourth output.
fn skip_norm(c: &mut Ctx, centred: bool) -> R<Vec<ValueId>> {
    let epsilon = c.attrs.float("epsilon")?.unwrap_or(if centred { 1e-12 } else { 1e-5 });
    let (x, skip, gain) = (c.x(0)?, c.x(1)?, c.x(2)?);
    let beta = if centred { c.opt(3)? } else { None };
    let bias = c.opt(if centred { 4 } else { 3 })?;
    let mut sum = c.bin(B::Add, x, skip)?;
    if let Some(bias) = bias {
        sum = c.bin(B::Add, sum, bias)?;
    }
    let y = if centred {
        let inputs: Vec<ValueId> = [sum, gain].into_iter().chain(beta).collect();
        c.op(Op::LayerNorm { axis: -1, epsilon }, &inputs)?
    } else {
        c.op(Op::RmsNorm { axis: -1, epsilon }, &[sum, gain])?
    };
    if c.output_count() < 2 {
        return Ok(vec![y]);
    }
    let [mean, deviation] = statistics(c, sum, -1, epsilon, Elem::F32)?;
    Ok(vec![y, mean, deviation, sum])
}

fn embed_layer_norm(c: &mut Ctx) -> R<Vec<ValueId>> {
    let epsilon = c.attrs.float("epsilon")?.unwrap_or(1e-12);
    // What type the second output has in other runtimes; here it is always i32.
    c.attrs.int("mask_index_type")?;
    let ids = c.i64_input(0)?;
    let (word, position) = (c.x(2)?, c.x(3)?);
    let gather = Op::Gather { axis: 0 };
    let mut sum = c.op(gather.clone(), &[word, ids])?;
    let places = match c.opt(8)? {
        Some(p) => c.as_i64(p)?,
        None => {
            let s = length_of(c, ids, 1)?;
            count_to(c, s)?
        }
    };
    let row = c.op(gather.clone(), &[position, places])?;
    sum = c.bin(B::Add, sum, row)?;
    if let (Some(segments), Some(table)) = (c.opt(1)?, c.opt(4)?) {
        let segments = c.as_i64(segments)?;
        let row = c.op(gather, &[table, segments])?;
        sum = c.bin(B::Add, sum, row)?;
    }
    let (gain, beta) = (c.x(5)?, c.x(6)?);
    let y = c.op(Op::LayerNorm { axis: -1, epsilon }, &[sum, gain, beta])?;
    if c.output_count() < 2 {
        return Ok(vec![y]);
    }
    let lengths = match c.opt(7)? {
        Some(mask) => {
            let mask = c.as_i64(mask)?;
            c.op(Op::Reduce { f: Rf::Sum, axes: vec![1], keepdims: false }, &[mask])?
        }
        None => {
            let zero = c.int_scalar(0);
            let shape = c.op(Op::Shape { start: 0, end: 1 }, &[ids])?;
            c.op(Op::Expand {}, &[zero, shape])?
        }
    };
    Ok(vec![y, c.op(Op::Cast { to: Elem::I32 }, &[lengths])?, sum])
}

// Products and activations.

fn bias_split_gelu(c: &mut Ctx) -> R<Vec<ValueId>> {
    let (x, bias) = (c.x(0)?, c.x(1)?);
    let x = c.bin(B::Add, x, bias)?;
    let halves = c.many(Op::SplitEqual { axis: -1, parts: 2 }, &[x])?;
    let gate = c.un(U::Gelu, halves[1])?;
    Ok(vec![c.bin(B::Mul, halves[0], gate)?])
}

fn fused_gemm(c: &mut Ctx) -> R<Vec<ValueId>> {
    let name = c.attrs.string("activation")?.unwrap_or_default();
    let alpha = c.attrs.float("activation_alpha")?;
    let beta = c.attrs.float("activation_beta")?;
    c.attrs.float("activation_gamma")?;
    let y = gemm(c)?[0];
    let y = match name.as_str() {
        "" => y,
        "Relu" => c.un(U::Relu, y)?,
        "Sigmoid" => c.un(U::Sigmoid, y)?,
        "Tanh" => c.un(U::Tanh, y)?,
        "LeakyRelu" => leaky_of(c, y, alpha.unwrap_or(0.01).into())?,
        "HardSigmoid" => hard_sigmoid_of(c, y, alpha.unwrap_or(0.2).into(), beta.unwrap_or(0.5).into())?,
        other => {
            return Err(Ctx::value_of("activation", other, "Relu, LeakyRelu, Sigmoid, Tanh, HardSigmoid"));
        }
    };
    Ok(vec![y])
}

fn fused_matmul(c: &mut Ctx) -> R<Vec<ValueId>> {
    let alpha = c.attrs.float("alpha")?.unwrap_or(1.0);
    for name in ["transBatchA", "transBatchB"] {
        if c.attrs.flag(name, false)? {
            return Err(Ctx::value_of(name, 1, "0"));
        }
    }
    let turned = [c.attrs.flag("transA", false)?, c.attrs.flag("transB", false)?];
    let mut operands = [c.x(0)?, c.x(1)?];
    for (v, turned) in operands.iter_mut().zip(turned) {
        let rank = c.dims(*v).map_or(0, |d| d.len());
        if turned && rank != 1 {
            let rank = c.rank(*v)? as i64;
            let perm = (0..rank - 2).chain([rank - 1, rank - 2]).collect();
            *v = c.op(Op::Transpose { perm }, &[*v])?;
        }
    }
    let y = c.op(Op::MatMul {}, &operands)?;
    Ok(vec![if alpha == 1.0 { y } else { c.with(B::Mul, y, alpha.into())? }])
}

// Rotary positions.

/// Turns `x` `[B, H, S, D]` by rows of the tables `[P, R/2]`, picked by positions where there are
/// any; tables of rank 3 are rows already.
fn turn(
    c: &mut Ctx,
    x: ValueId,
    tables: [ValueId; 2],
    positions: Option<ValueId>,
    interleaved: bool,
) -> R<ValueId> {
    let half = tables.iter().find_map(|&t| c.length(t, c.dims(t)?.len().checked_sub(1)?));
    let dim = half
        .and_then(|h| h.checked_mul(2))
        .ok_or_else(|| Ctx::form("the length of cos and sin is not known"))?;
    let mut rows = tables;
    for t in &mut rows {
        if let Some(p) = positions {
            *t = c.op(Op::Gather { axis: 0 }, &[*t, p])?;
        }
        if c.rank(*t)? == 3 {
            *t = unsqueeze(c, *t, &[1])?;
        }
    }
    c.op(Op::Rotary { interleaved, dim }, &[x, rows[0], rows[1]])
}

/// [`turn`] for `[B, H, S, D]`, or `[B, S, H D]` with a number of heads.
fn turn_any(
    c: &mut Ctx,
    x: ValueId,
    n: Option<i64>,
    tables: [ValueId; 2],
    positions: Option<ValueId>,
    interleaved: bool,
) -> R<ValueId> {
    match (c.rank(x)?, n) {
        (4, _) => turn(c, x, tables, positions, interleaved),
        (3, Some(n)) => {
            let x = heads(c, x, n)?;
            let y = turn(c, x, tables, positions, interleaved)?;
            unheads(c, y)
        }
        (3, None) => Err(Ctx::form("an operand of rank 3 needs num_heads")),
        (rank, _) => Err(Ctx::form(format!("the operand has rank {rank}; supported are 3 and 4"))),
    }
}

fn rotary(c: &mut Ctx) -> R<Vec<ValueId>> {
    let interleaved = c.attrs.flag("interleaved", false)?;
    let n = number_of(c, "num_heads")?;
    // The tables say the same.
    c.attrs.int("rotary_embedding_dim")?;
    let (x, tables) = (c.x(0)?, [c.x(1)?, c.x(2)?]);
    let positions = if c.has(3) { Some(c.i64_input(3)?) } else { None };
    Ok(vec![turn_any(c, x, n, tables, positions, interleaved)?])
}

fn contrib_rotary(c: &mut Ctx) -> R<Vec<ValueId>> {
    let interleaved = c.attrs.flag("interleaved", false)?;
    let mut n = number_of(c, "num_heads")?;
    let dim = number_of(c, "rotary_embedding_dim")?;
    if c.attrs.flag("is_packed_batching", false)? {
        return Err(Ctx::value_of("is_packed_batching", 1, "0"));
    }
    match c.attrs.float("scale")? {
        None | Some(1.0) => {}
        Some(s) => return Err(Ctx::value_of("scale", s, "1")),
    }
    let (x, tables) = (c.x(0)?, [c.x(2)?, c.x(3)?]);
    let mut positions = c.i64_input(1)?;
    if c.rank(positions)? == 1 {
        // The first position of every row.
        let axis = if c.rank(x)? == 4 { 2 } else { 1 };
        let s = length_of(c, x, axis)?;
        let steps = count_to(c, s)?;
        positions = c.bin(B::Add, steps, positions)?;
    }
    if n.is_none() && dim.is_none() && c.rank(x)? == 3 {
        // Heads as long as the tables turn.
        let size = c.length(tables[0], 1).and_then(|h| h.checked_mul(2));
        n = c.length(x, 2).zip(size).and_then(|(hidden, size)| hidden.checked_div(size));
    }
    Ok(vec![turn_any(c, x, n, tables, Some(positions), interleaved)?])
}

// Attention.

/// The operands of one attention.
struct Parts {
    q: ValueId,
    k: ValueId,
    v: ValueId,
    mask: Option<ValueId>,
    scale: f32,
    causal: bool,
    softcap: f32,
}

impl Parts {
    fn emit(&self, c: &mut Ctx) -> R<ValueId> {
        let &Parts { q, k, v, mask, scale, causal, softcap } = self;
        let inputs: Vec<ValueId> = [q, k, v].into_iter().chain(mask).collect();
        c.op(Op::Attention { scale, causal, softcap }, &inputs)
    }

    /// The result, and the scores as they are before (0) or after the cap (1), with the mask (2), or
    /// as weights (3).
    fn emit_with_scores(&self, c: &mut Ctx, mode: i64) -> R<[ValueId; 2]> {
        let &Parts { q, mut k, mut v, mask, scale, causal, softcap } = self;
        let (h, g) = match (c.length(q, 1), c.length(k, 1)) {
            (Some(h), Some(g)) if g > 0 && h % g == 0 && h <= 1 << 20 => (h, g),
            _ => return Err(Ctx::form("scores as output need known numbers of heads")),
        };
        if h != g {
            let owners = c.vector((0..h).map(|i| i / (h / g)).collect());
            k = c.op(Op::Gather { axis: 1 }, &[k, owners])?;
            v = c.op(Op::Gather { axis: 1 }, &[v, owners])?;
        }
        let turned = c.op(Op::Transpose { perm: vec![0, 1, 3, 2] }, &[k])?;
        let s = c.op(Op::MatMul {}, &[q, turned])?;
        let mut stages = [c.with(B::Mul, s, scale.into())?; 4];
        let mut s = stages[0];
        if softcap > 0.0 {
            s = c.with(B::Div, s, softcap.into())?;
            s = c.un(U::Tanh, s)?;
            s = c.with(B::Mul, s, softcap.into())?;
        }
        stages[1] = s;
        let mut masks: Vec<ValueId> = mask.into_iter().collect();
        if causal {
            let (all, own) = (length_of(c, k, 2)?, length_of(c, q, 2)?);
            let before = c.bin(B::Sub, all, own)?;
            masks.push(triangle(c, q, k, Some(before))?);
        }
        for m in masks {
            s = if c.elem(m) == Elem::Bool {
                let hidden = c.number_like(f64::NEG_INFINITY, s)?;
                c.op(Op::Where {}, &[m, s, hidden])?
            } else {
                c.bin(B::Add, s, m)?
            };
        }
        stages[2] = s;
        stages[3] = c.op(Op::Softmax { axis: -1 }, &[s])?;
        let at = usize::try_from(mode).ok().and_then(|m| stages.get(m).copied());
        let scores = at.ok_or_else(|| Ctx::value_of("qk_matmul_output_mode", mode, "0 to 3"))?;
        Ok([c.op(Op::MatMul {}, &[stages[3], v])?, scores])
    }
}

/// A mask made as long as the keys: what it lacks is hidden.
fn padded(c: &mut Ctx, mask: ValueId, k: ValueId) -> R<ValueId> {
    let rank = c.rank(mask)?;
    let Some(last) = rank.checked_sub(1) else { return Ok(mask) };
    if same_axis(c, (mask, last), (k, 2)) || c.length(mask, last) == Some(1) {
        return Ok(mask);
    }
    let shape = c.op(Op::Shape { start: 0, end: last as i64 }, &[mask])?;
    let own = c.op(Op::Shape { start: last as i64, end: rank as i64 }, &[mask])?;
    let all = c.op(Op::Shape { start: 2, end: 3 }, &[k])?;
    let missing = c.bin(B::Sub, all, own)?;
    let shape = c.op(Op::Concat { axis: 0 }, &[shape, missing])?;
    let hidden = if c.elem(mask) == Elem::Bool {
        c.make(&Tensor::scalar(false), false)
    } else {
        c.number_like(f64::NEG_INFINITY, mask)?
    };
    let rest = c.op(Op::Expand {}, &[hidden, shape])?;
    c.op(Op::Concat { axis: last as i64 }, &[mask, rest])
}

fn attention(c: &mut Ctx) -> R<Vec<ValueId>> {
    let mut causal = c.attrs.flag("is_causal", false)?;
    let (n, kv_n) = (number_of(c, "q_num_heads")?, number_of(c, "kv_num_heads")?);
    let mode = c.attrs.int("qk_matmul_output_mode")?.unwrap_or(0);
    let softcap = c.attrs.float("softcap")?.unwrap_or(0.0);
    // Softmax is computed in at least this precision.
    c.attrs.int("softmax_precision")?;
    let (mut q, mut k, mut v) = (c.x(0)?, c.x(1)?, c.x(2)?);
    let flat = c.rank(q)? == 3;
    if flat {
        let (Some(n), Some(kv_n)) = (n, kv_n) else {
            return Err(Ctx::form("operands of rank 3 need q_num_heads and kv_num_heads"));
        };
        q = heads(c, q, n)?;
        k = heads(c, k, kv_n)?;
        v = heads(c, v, kv_n)?;
    }
    let scale = scale_of(c, q)?;
    // The triangle begins at the first key that is not of the past.
    let aligned = same_axis(c, (q, 2), (k, 2));
    let past = c.opt(4)?;
    if let Some(past) = past {
        k = c.op(Op::Concat { axis: 2 }, &[past, k])?;
    }
    if let Some(past) = c.opt(5)? {
        v = c.op(Op::Concat { axis: 2 }, &[past, v])?;
    }
    let (mut bools, mut adds) = (None, None);
    if let Some(mask) = c.opt(3)? {
        let mask = padded(c, mask, k)?;
        if c.elem(mask) == Elem::Bool { bools = Some(mask) } else { adds = Some(mask) }
    }
    if let Some(lengths) = c.opt(6)? {
        let t = length_of(c, k, 2)?;
        let filled = below(c, lengths, t)?;
        bools = Some(and(c, bools, filled)?);
    }
    if causal && !aligned {
        let offset = past.map(|p| length_of(c, p, 2)).transpose()?;
        let sees = triangle(c, q, k, offset)?;
        bools = Some(and(c, bools, sees)?);
        causal = false;
    }
    let mask = joined(c, bools, adds, q)?;
    let parts = Parts { q, k, v, mask, scale, causal, softcap };
    let mut out = Vec::new();
    if c.output_count() > 3 {
        let [y, scores] = parts.emit_with_scores(c, mode)?;
        out.extend([y, k, v, scores]);
    } else {
        out.extend([parts.emit(c)?, k, v]);
    }
    if flat {
        out[0] = unheads(c, out[0])?;
    }
    Ok(out)
}

/// The additive mask of a padding mask of integers: lengths `[B]`, `[B, T]` or `[B, S, T]`, where 0
/// hides by adding `fill`.
fn padding(c: &mut Ctx, mask: ValueId, k: ValueId, fill: f32) -> R<ValueId> {
    let shown = match c.rank(mask)? {
        1 => {
            if !same_axis(c, (mask, 0), (k, 0)) {
                return Err(Ctx::form("a padding mask of rank 1 must have one length a batch entry"));
            }
            let t = length_of(c, k, 2)?;
            below(c, mask, t)?
        }
        rank @ (2 | 3) => {
            let axes: &[i64] = if rank == 2 { &[1, 2] } else { &[1] };
            let mask = c.as_i64(mask)?;
            let mask = unsqueeze(c, mask, axes)?;
            c.with(B::Greater, mask, 0.0)?
        }
        rank => return Err(Ctx::form(format!("a padding mask of rank {rank}; supported are 1 to 3"))),
    };
    let (zero, fill) = (c.number_like(0.0, k)?, c.number_like(fill.into(), k)?);
    c.op(Op::Where {}, &[shown, zero, fill])
}

/// What onnxruntime's attention operators share: `[B, H, S, D]` operands, past keys and values, a
/// padding mask, a bias, causality.
struct Masks {
    padding: Option<ValueId>,
    bias: Option<ValueId>,
    fill: f32,
    causal: bool,
}

fn classic(
    c: &mut Ctx,
    q: ValueId,
    (k, v): (ValueId, ValueId),
    past: Option<(ValueId, ValueId)>,
    masks: &Masks,
) -> R<[ValueId; 3]> {
    let scale = scale_of(c, q)?;
    let (mut k, mut v, mut causal) = (k, v, masks.causal);
    let aligned = same_axis(c, (q, 2), (k, 2));
    if let Some(past) = past {
        k = c.op(Op::Concat { axis: 2 }, &[past.0, k])?;
        v = c.op(Op::Concat { axis: 2 }, &[past.1, v])?;
    }
    let mut adds = masks.bias;
    if let Some(mask) = masks.padding {
        let mask = padding(c, mask, k, masks.fill)?;
        adds = Some(plus(c, adds, mask)?);
    }
    let mut bools = None;
    if causal && !aligned {
        let offset = past.map(|p| length_of(c, p.0, 2)).transpose()?;
        bools = Some(triangle(c, q, k, offset)?);
        causal = false;
    }
    let mask = joined(c, bools, adds, q)?;
    let y = Parts { q, k, v, mask, scale, causal, softcap: 0.0 }.emit(c)?;
    Ok([unheads(c, y)?, k, v])
}

fn multi_head(c: &mut Ctx) -> R<Vec<ValueId>> {
    let n = required(c, "num_heads")?;
    let causal = c.attrs.flag("unidirectional", false)?;
    let fill = c.attrs.float("mask_filter_value")?.unwrap_or(-10000.0);
    if c.output_count() > 3 {
        return Err(Ctx::form("scores as output are not supported"));
    }
    let (q, k, v, bias) = (c.x(0)?, c.opt(1)?, c.opt(2)?, c.opt(3)?);
    // `[B, S, n, parts, D]` to one `[B, n, S, D]` a part.
    let unpack = |c: &mut Ctx, x: ValueId, parts: i64| -> R<Vec<ValueId>> {
        let mut out = Vec::new();
        for i in 0..parts {
            let at = c.int_scalar(i);
            let part = c.op(Op::Gather { axis: 3 }, &[x, at])?;
            out.push(c.op(Op::Transpose { perm: vec![0, 2, 1, 3] }, &[part])?);
        }
        Ok(out)
    };
    let [q, k, v] = match (k, v) {
        (None, None) => {
            if bias.is_some() {
                return Err(Ctx::form("packed operands with a bias are not supported"));
            }
            let p = unpack(c, q, 3)?;
            [p[0], p[1], p[2]]
        }
        (Some(k), v) => {
            let mut flat = vec![Some(q), Some(k).filter(|_| v.is_some()), v];
            if let Some(bias) = bias {
                // One vector over q, k and v.
                let mut from = 0;
                for slot in &mut flat {
                    let Some(x) = *slot else { return Err(Ctx::form("a bias needs q, k and v apart")) };
                    let (3, Some(len)) = (c.rank(x)?, c.length(x, 2)) else {
                        return Err(Ctx::form("a bias needs operands of rank 3 and known length"));
                    };
                    let part = slice(c, bias, 0, from, from + len)?;
                    *slot = Some(c.bin(B::Add, x, part)?);
                    from += len;
                }
            }
            let mut apart = Vec::new();
            for x in flat.into_iter().flatten() {
                apart.push(if c.rank(x)? == 4 { x } else { heads(c, x, n)? });
            }
            if v.is_none() {
                apart.extend(unpack(c, k, 2)?);
            }
            [apart[0], apart[1], apart[2]]
        }
        (None, Some(_)) => return Err(Ctx::form("value without key")),
    };
    let past = match (c.opt(6)?, c.opt(7)?) {
        (Some(k), Some(v)) => Some((k, v)),
        (None, None) => None,
        _ => return Err(Ctx::form("past_key and past_value go together")),
    };
    let masks = Masks { padding: c.opt(4)?, bias: c.opt(5)?, fill, causal };
    Ok(classic(c, q, (k, v), past, &masks)?.to_vec())
}

fn packed_attention(c: &mut Ctx) -> R<Vec<ValueId>> {
    let n = required(c, "num_heads")?;
    let causal = c.attrs.flag("unidirectional", false)?;
    let fill = c.attrs.float("mask_filter_value")?.unwrap_or(-10000.0);
    let sizes = c.attrs.ints("qkv_hidden_sizes")?;
    let (x, w, bias) = (c.x(0)?, c.x(1)?, c.opt(2)?);
    let mut y = c.op(Op::MatMul {}, &[x, w])?;
    if let Some(bias) = bias {
        y = c.bin(B::Add, y, bias)?;
    }
    let parts = match sizes.filter(|s| !s.is_empty()) {
        Some(sizes) if sizes.len() == 3 => c.many(Op::Split { axis: 2, sizes }, &[y])?,
        Some(sizes) => return Err(Ctx::value_of("qkv_hidden_sizes", sizes, "three numbers")),
        None => c.many(Op::SplitEqual { axis: 2, parts: 3 }, &[y])?,
    };
    let q = heads(c, parts[0], n)?;
    let (k, v) = (heads(c, parts[1], n)?, heads(c, parts[2], n)?);
    let past = match c.opt(4)? {
        Some(past) => {
            let mut pick = |i: i64| {
                let at = c.int_scalar(i);
                c.op(Op::Gather { axis: 0 }, &[past, at])
            };
            Some((pick(0)?, pick(1)?))
        }
        None => None,
    };
    let masks = Masks { padding: c.opt(3)?, bias: c.opt(5)?, fill, causal };
    let [y, k, v] = classic(c, q, (k, v), past, &masks)?;
    if c.output_count() < 2 {
        return Ok(vec![y]);
    }
    let (k, v) = (unsqueeze(c, k, &[0])?, unsqueeze(c, v, &[0])?);
    Ok(vec![y, c.op(Op::Concat { axis: 0 }, &[k, v])?])
}

/// Keys or values of the past `[B, G, P, D]` and of now `[B, G, S, D]` as the cache of `total` entries:
/// entry t is the past's below `before` (i64 `[B, 1]`), then those of now.
fn cache(c: &mut Ctx, past: ValueId, now: ValueId, before: ValueId, total: ValueId) -> R<ValueId> {
    let held = length_of(c, past, 2)?;
    let all = c.op(Op::Concat { axis: 2 }, &[past, now])?;
    let room = length_of(c, all, 2)?;
    let last = c.with(B::Sub, room, 1.0)?;
    let t = count_to(c, total)?;
    let old = c.bin(B::Less, t, before)?;
    let new = c.bin(B::Sub, t, before)?;
    let new = c.bin(B::Add, new, held)?;
    let new = c.bin(B::Min, new, last)?;
    let at = c.op(Op::Where {}, &[old, t, new])?;
    let at = unsqueeze(c, at, &[2])?;
    let turn = Op::Transpose { perm: vec![0, 2, 1, 3] };
    let all = c.op(turn.clone(), &[all])?;
    let picked = c.op(Op::GatherNd { batch_dims: 1 }, &[all, at])?;
    c.op(turn, &[picked])
}

fn group_query(c: &mut Ctx) -> R<Vec<ValueId>> {
    let (n, g) = (required(c, "num_heads")?, required(c, "kv_num_heads")?);
    let rotates = c.attrs.flag("do_rotary", false)?;
    let interleaved = c.attrs.flag("rotary_interleaved", false)?;
    let window = c.attrs.int("local_window_size")?.unwrap_or(-1);
    let softcap = c.attrs.float("softcap")?.unwrap_or(0.0);
    let epsilon = c.attrs.float("qk_norm_epsilon")?.unwrap_or(1e-6);
    let q_epsilon = c.attrs.float("q_norm_epsilon")?.unwrap_or(epsilon);
    let k_epsilon = c.attrs.float("k_norm_epsilon")?.unwrap_or(epsilon);
    // Only quantised caches have a width.
    c.attrs.int("kv_cache_bit_width")?;
    if !c.attrs.flag("causal", true)? {
        return Err(Ctx::value_of("causal", 0, "1"));
    }
    for name in ["qk_output", "smooth_softmax"] {
        match c.attrs.int(name)? {
            None | Some(0 | -1) => {}
            Some(v) => return Err(Ctx::value_of(name, v, "0")),
        }
    }
    if (11..14).any(|i| c.has(i)) {
        return Err(Ctx::form("sinks and quantised caches are not supported"));
    }
    let mut q = c.x(0)?;
    let (mut k, mut v) = match (c.opt(1)?, c.opt(2)?) {
        (Some(k), Some(v)) => {
            q = heads(c, q, n)?;
            (heads(c, k, g)?, heads(c, v, g)?)
        }
        (None, None) => {
            let all = n.checked_add(2 * g).ok_or_else(|| Ctx::form("too many heads"))?;
            let x = heads(c, q, all)?;
            let parts = c.many(Op::Split { axis: 1, sizes: vec![n, g, g] }, &[x])?;
            q = parts[0];
            (parts[1], parts[2])
        }
        _ => return Err(Ctx::form("key and value go together")),
    };
    if let (Some(q_gain), Some(k_gain)) = (c.opt(14)?, c.opt(15)?) {
        q = c.op(Op::RmsNorm { axis: -1, epsilon: q_epsilon }, &[q, q_gain])?;
        k = c.op(Op::RmsNorm { axis: -1, epsilon: k_epsilon }, &[k, k_gain])?;
    }
    let scale = scale_of(c, q)?;
    // Entries of the cache before this call, [B, 1]: seqlens_k is their number and the new ones', less 1.
    let seen = c.i64_input(5)?;
    let s = length_of(c, q, 2)?;
    let before = c.with(B::Add, seen, 1.0)?;
    let before = c.bin(B::Sub, before, s)?;
    let before = c.with(B::Max, before, 0.0)?;
    let flat = c.vector(vec![-1, 1]);
    let before = c.op(Op::Reshape { allow_zero: false }, &[before, flat])?;
    let steps = count_to(c, s)?;
    let places = c.bin(B::Add, before, steps)?;
    if rotates {
        let positions = if c.has(9) { c.i64_input(9)? } else { places };
        let tables = [c.x(7)?, c.x(8)?];
        q = turn(c, q, tables, Some(positions), interleaved)?;
        k = turn(c, k, tables, Some(positions), interleaved)?;
    }
    let held = match (c.opt(3)?, c.opt(4)?) {
        (Some(a), Some(b)) => Some([a, b]),
        (None, None) => None,
        _ => return Err(Ctx::form("past_key and past_value go together")),
    };
    let bias = c.opt(10)?;
    let plain = held.is_none() && window <= 0;
    if let Some([past_k, past_v]) = held {
        let total = c.i64_input(6)?;
        let total = c.op(
            Op::Reduce { f: Rf::Max, axes: (0..c.rank(total)? as i64).collect(), keepdims: false },
            &[total],
        )?;
        let room = length_of(c, past_k, 2)?;
        let total = c.bin(B::Max, total, room)?;
        k = cache(c, past_k, k, before, total)?;
        v = cache(c, past_v, v, before, total)?;
    }
    let mask = if plain {
        bias
    } else {
        let t = length_of(c, k, 2)?;
        let j = count_to(c, t)?;
        let i = unsqueeze(c, places, &[1, 3])?;
        let mut sees = c.bin(B::LessEqual, j, i)?;
        if window > 0 {
            let first = c.with(B::Sub, i, window as f64)?;
            let near = c.bin(B::Greater, j, first)?;
            sees = c.bin(B::And, sees, near)?;
        }
        joined(c, Some(sees), bias, q)?
    };
    let y = Parts { q, k, v, mask, scale, causal: plain, softcap }.emit(c)?;
    Ok(vec![unheads(c, y)?, k, v])
}
