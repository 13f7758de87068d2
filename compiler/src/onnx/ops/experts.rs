//! Mixtures of experts: every expert is evaluated, and weighed by its gate, which is 0 for those that a
//! token does not choose.

use pfmc_ir::elem::Elem;
use pfmc_ir::graph::ValueId;
use pfmc_ir::op::{BinaryFn as B, Op, ReduceFn as Rf, UnaryFn as U};
use pfmc_ir::tensor::Tensor;

use super::{FLOATS, OpInfo, contrib};
use crate::onnx::lower::{Ctx, R};

/// Most experts.
const MOST: i64 = 1024;

pub(super) static EXPERTS: &[OpInfo] = &[
    contrib(
        "QMoE",
        (7, 14),
        &[
            "activation_alpha",
            "activation_beta",
            "activation_type",
            "block_size",
            "expert_weight_bits",
            "k",
            "normalize_routing_weights",
            "quant_type",
            "swiglu_fusion",
            "swiglu_limit",
            "swiglu_limit_after_activation",
            "use_sparse_mixer",
            "weights_prepacked",
        ],
        "as MoE; constant integer weights of 4 or 8 bits",
        qmoe,
    )
    .on(FLOATS),
    contrib(
        "MoE",
        (5, 8),
        &[
            "activation_alpha",
            "activation_beta",
            "activation_type",
            "k",
            "normalize_routing_weights",
            "swiglu_fusion",
            "swiglu_limit",
            "swiglu_limit_after_activation",
            "use_sparse_mixer",
        ],
        "every expert is evaluated; activations relu, gelu (tanh), silu, swiglu, identity",
        moe,
    )
    .on(FLOATS),
];

/// What follows an expert's first product.
struct Activation {
    name: String,
    alpha: f64,
    beta: f64,
    limit: Option<f64>,
    fusion: i64,
}

/// Gates `[tokens, experts]`: softmax of the scores where an expert is among the `k` best (the earlier
/// one where scores are equal), over their sum if `normalised`.
fn gates(c: &mut Ctx, scores: ValueId, experts: i64, k: i64, normalised: bool) -> R<ValueId> {
    let p = c.op(Op::Softmax { axis: -1 }, &[scores])?;
    let own = c.op(Op::Unsqueeze { axes: vec![2] }, &[scores])?;
    let other = c.op(Op::Unsqueeze { axes: vec![1] }, &[scores])?;
    let better = c.bin(B::Greater, other, own)?;
    let equal = c.bin(B::Equal, other, own)?;
    let n = usize::try_from(experts).unwrap_or(0);
    let earlier = (0..n * n).map(|i| i % n < i / n).collect();
    let earlier = c.make(&Tensor::new(vec![n, n], earlier).map_err(Ctx::form)?, false);
    let equal = c.bin(B::And, equal, earlier)?;
    let better = c.bin(B::Or, better, equal)?;
    let better = c.op(Op::Cast { to: Elem::I64 }, &[better])?;
    let better = c.op(Op::Reduce { f: Rf::Sum, axes: vec![2], keepdims: false }, &[better])?;
    let chosen = c.with(B::Less, better, k as f64)?;
    let zero = c.number_like(0.0, p)?;
    let gate = c.op(Op::Where {}, &[chosen, p, zero])?;
    if !normalised {
        return Ok(gate);
    }
    let sum = c.reduce(Rf::Sum, gate, vec![1])?;
    c.bin(B::Div, gate, sum)
}

/// Every `step`-th element of the last axis from `from` to before `to`.
fn columns(c: &mut Ctx, x: ValueId, from: i64, to: i64, step: i64) -> R<ValueId> {
    let [from, to, axis, step] = [from, to, -1, step].map(|n| c.vector(vec![n]));
    c.op(Op::Slice {}, &[x, from, to, axis, step])
}

/// Inputs of one product of all experts.
#[derive(Clone, Copy)]
struct Layer {
    weights: usize,
    bias: usize,
    /// Scales and zero points of integer weights.
    quantised: Option<(usize, usize)>,
}

/// Integer weights.
#[derive(Clone, Copy)]
struct Packing {
    elem: Elem,
    /// Elements along a row that share a scale; 0 for all.
    block: i64,
}

/// x times the transpose of expert `e`'s weights, plus its bias.
fn product(c: &mut Ctx, x: ValueId, layer: Layer, packing: Packing, e: usize) -> R<ValueId> {
    let b = layer.bias;
    let w = match layer.quantised {
        None => c.entry(layer.weights, e)?,
        Some((scale, zero)) => {
            let (elem, block) = (packing.elem, packing.block);
            let w = c.packed_entry(layer.weights, e, elem)?;
            let scale = c.entry(scale, e)?;
            let zero = if c.has(zero) {
                c.packed_entry(zero, e, elem)?
            } else {
                let shape: Option<Vec<usize>> = c
                    .dims(scale)
                    .and_then(|d| d.iter().map(|d| usize::try_from(d.as_ref()?.value()?).ok()).collect());
                let shape = shape.ok_or_else(|| Ctx::form("the shape of the scales must be known"))?;
                let middle = c.splat(elem, &shape, 1 << (elem.bits() - 1))?;
                c.make(&middle, false)
            };
            let to = c.elem(x);
            let axis = i64::from(block > 0);
            c.op(Op::Dequantize { axis, block, to }, &[w, scale, zero])?
        }
    };
    let w = c.op(Op::Transpose { perm: vec![1, 0] }, &[w])?;
    let y = c.op(Op::MatMul {}, &[x, w])?;
    if !c.has(b) {
        return Ok(y);
    }
    let b = c.entry(b, e)?;
    c.bin(B::Add, y, b)
}

impl Activation {
    fn read(c: &mut Ctx) -> R<Activation> {
        let name = c.attrs.string("activation_type")?.unwrap_or_else(|| "relu".into());
        let alpha = c.attrs.float("activation_alpha")?.unwrap_or(1.0).into();
        let beta = c.attrs.float("activation_beta")?.unwrap_or(0.0).into();
        let limit = c.attrs.float("swiglu_limit")?.map(f64::from);
        let fusion = c.attrs.int("swiglu_fusion")?.unwrap_or(0);
        if c.attrs.flag("swiglu_limit_after_activation", false)? {
            return Err(Ctx::value_of("swiglu_limit_after_activation", 1, "0"));
        }
        if !(0..=2).contains(&fusion) {
            return Err(Ctx::value_of("swiglu_fusion", fusion, "0, 1, 2"));
        }
        Ok(Activation { name, alpha, beta, limit, fusion })
    }

    /// Of the first product `h` and, where there is one, the product beside it.
    fn apply(&self, c: &mut Ctx, h: ValueId, beside: Option<ValueId>) -> R<ValueId> {
        let plain = match self.name.as_str() {
            "relu" => Some(U::Relu),
            "gelu" => Some(U::GeluTanh),
            "silu" => Some(U::Silu),
            "identity" => None,
            "swiglu" => return self.swiglu(c, h, beside),
            other => {
                return Err(Ctx::value_of("activation_type", other, "relu, gelu, silu, swiglu, identity"));
            }
        };
        let y = plain.map_or(Ok(h), |f| c.un(f, h))?;
        beside.map_or(Ok(y), |b| c.bin(B::Mul, y, b))
    }

    /// G sigmoid(alpha G) (L + beta), G and L bounded by the limit.
    fn swiglu(&self, c: &mut Ctx, h: ValueId, beside: Option<ValueId>) -> R<ValueId> {
        let width = c.dims(h).and_then(|d| d.last().cloned().flatten()?.value());
        let (mut g, mut l) = match (self.fusion, beside, width) {
            (0, Some(l), _) => (h, l),
            (1, _, Some(n)) => (columns(c, h, 0, n, 2)?, columns(c, h, 1, n, 2)?),
            (2, _, Some(n)) => (columns(c, h, 0, n / 2, 1)?, columns(c, h, n / 2, n, 1)?),
            _ => return Err(Ctx::form("swiglu needs a fused first product or a third one")),
        };
        if let Some(limit) = self.limit {
            g = c.with(B::Min, g, limit)?;
            l = c.with(B::Min, l, limit)?;
            l = c.with(B::Max, l, -limit)?;
        }
        let s = if self.alpha == 1.0 { g } else { c.with(B::Mul, g, self.alpha)? };
        let s = c.un(U::Sigmoid, s)?;
        let g = c.bin(B::Mul, g, s)?;
        if self.beta != 0.0 {
            l = c.with(B::Add, l, self.beta)?;
        }
        c.bin(B::Mul, g, l)
    }
}

fn moe(c: &mut Ctx) -> R<Vec<ValueId>> {
    let plain = |weights, bias| Layer { weights, bias, quantised: None };
    mixture(c, [plain(2, 3), plain(4, 5), plain(6, 7)], Packing { elem: Elem::F32, block: 0 })
}

fn qmoe(c: &mut Ctx) -> R<Vec<ValueId>> {
    let elem = match c.attrs.int("expert_weight_bits")?.unwrap_or(4) {
        4 => Elem::U4,
        8 => Elem::U8,
        other => return Err(Ctx::value_of("expert_weight_bits", other, "4, 8")),
    };
    match c.attrs.string("quant_type")?.as_deref() {
        None | Some("" | "int") => {}
        Some(other) => return Err(Ctx::value_of("quant_type", other, "int")),
    }
    match c.attrs.int("weights_prepacked")? {
        None | Some(0 | -1) => {}
        Some(v) => return Err(Ctx::value_of("weights_prepacked", v, "0")),
    }
    let block = c.attrs.int("block_size")?.unwrap_or(0).max(0);
    let layer =
        |weights: usize, zero| Layer { weights, bias: weights + 2, quantised: Some((weights + 1, zero)) };
    mixture(c, [layer(2, 11), layer(5, 12), layer(8, 13)], Packing { elem, block })
}

/// The sum of all experts, of which `layers` are the first product, the last, and the one beside the first.
fn mixture(c: &mut Ctx, layers: [Layer; 3], packing: Packing) -> R<Vec<ValueId>> {
    let k = c.attrs.int("k")?.unwrap_or(1);
    let normalised = c.attrs.flag("normalize_routing_weights", false)?;
    if c.attrs.flag("use_sparse_mixer", false)? {
        return Err(Ctx::value_of("use_sparse_mixer", 1, "0"));
    }
    let activation = Activation::read(c)?;
    let (x, scores) = (c.x(0)?, c.x(1)?);
    let experts = match c.length(scores, 1).filter(|n| (1..=MOST).contains(n)) {
        Some(n) => n,
        None => return Err(Ctx::form(format!("the number of experts must be known, 1 to {MOST}"))),
    };
    if !(1..=experts).contains(&k) {
        return Err(Ctx::value_of("k", k, "1 to the number of experts"));
    }
    let tokens = if c.rank(x)? == 3 {
        let hidden = c.length(x, 2).ok_or_else(|| Ctx::form("the length of a token must be known"))?;
        let flat = c.vector(vec![-1, hidden]);
        c.op(Op::Reshape { allow_zero: false }, &[x, flat])?
    } else {
        x
    };
    let gate = gates(c, scores, experts, k, normalised)?;
    let mut sum: Option<ValueId> = None;
    for e in 0..experts {
        let at = usize::try_from(e).unwrap_or(0);
        let [first, last, beside] = layers;
        let h = product(c, tokens, first, packing, at)?;
        let gated = c.has(beside.weights);
        let beside = if gated { Some(product(c, tokens, beside, packing, at)?) } else { None };
        let h = activation.apply(c, h, beside)?;
        let y = product(c, h, last, packing, at)?;
        let own = columns(c, gate, e, e + 1, 1)?;
        let y = c.bin(B::Mul, y, own)?;
        sum = Some(match sum {
            Some(s) => c.bin(B::Add, s, y)?,
            None => y,
        });
    }
    let sum = sum.ok_or_else(|| Ctx::form("there are no experts"))?;
    if tokens == x {
        return Ok(vec![sum]);
    }
    let shape = c.op(Op::Shape { start: 0, end: i64::MAX }, &[x])?;
    Ok(vec![c.op(Op::Reshape { allow_zero: true }, &[sum, shape])?])
}
