//! Recurrent layers: `RNN`, `GRU` and `LSTM`. The products of a whole sequence with the input weights
//! come first; a loop then does the recurrence, so that both matrices are ordinary products.

use pfmc_ir::elem::Elem;
use pfmc_ir::graph::ValueId;
use pfmc_ir::infer::Fact;
use pfmc_ir::op::{BinaryFn as B, Op, UnaryFn as U};
use pfmc_ir::shape::OpenType;
use pfmc_ir::tensor::Tensor;

use super::{FLOATS, OpInfo, op};
use crate::onnx::lower::{Ctx, R};

const COMMON: &[&str] =
    &["activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "layout"];

pub(super) static RECURRENT: &[OpInfo] = &[
    op(
        "GRU",
        7,
        (3, 6),
        &[
            "activation_alpha",
            "activation_beta",
            "activations",
            "clip",
            "direction",
            "hidden_size",
            "layout",
            "linear_before_reset",
            "output_sequence",
        ],
        "lowered to products and a loop a direction",
        |c| recurrent(c, Kind::Gru),
    )
    .on(FLOATS),
    op(
        "LSTM",
        7,
        (3, 8),
        &[
            "activation_alpha",
            "activation_beta",
            "activations",
            "clip",
            "direction",
            "hidden_size",
            "input_forget",
            "layout",
            "output_sequence",
        ],
        "lowered to products and a loop a direction",
        |c| recurrent(c, Kind::Lstm),
    )
    .on(FLOATS),
    op("RNN", 7, (3, 6), COMMON, "lowered to products and a loop a direction", |c| recurrent(c, Kind::Rnn))
        .on(FLOATS),
];

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Rnn,
    Gru,
    Lstm,
}

impl Kind {
    /// Blocks of rows of the weights: one a gate.
    fn gates(self) -> i64 {
        match self {
            Kind::Rnn => 1,
            Kind::Gru => 3,
            Kind::Lstm => 4,
        }
    }

    fn activations(self) -> &'static [&'static str] {
        match self {
            Kind::Rnn => &["Tanh"],
            Kind::Gru => &["Sigmoid", "Tanh"],
            Kind::Lstm => &["Sigmoid", "Tanh", "Tanh"],
        }
    }
}

/// An activation function with its parameters.
#[derive(Clone)]
struct Activation {
    name: String,
    alpha: Option<f32>,
    beta: Option<f32>,
}

impl Activation {
    /// The functions of the ONNX specification of RNN.
    fn apply(&self, c: &mut Ctx, x: ValueId) -> R<ValueId> {
        let alpha = |default: f64| self.alpha.map_or(default, f64::from);
        let beta = |default: f64| self.beta.map_or(default, f64::from);
        match &*self.name.to_lowercase() {
            "tanh" => c.un(U::Tanh, x),
            "sigmoid" => c.un(U::Sigmoid, x),
            "relu" => c.un(U::Relu, x),
            "affine" => {
                let y = c.with(B::Mul, x, alpha(1.0))?;
                c.with(B::Add, y, beta(0.0))
            }
            "scaledtanh" => {
                let y = c.with(B::Mul, x, beta(1.0))?;
                let y = c.un(U::Tanh, y)?;
                c.with(B::Mul, y, alpha(1.0))
            }
            "hardsigmoid" => {
                let y = c.with(B::Mul, x, alpha(0.2))?;
                let y = c.with(B::Add, y, beta(0.5))?;
                let y = c.with(B::Max, y, 0.0)?;
                c.with(B::Min, y, 1.0)
            }
            "leakyrelu" | "thresholdedrelu" | "elu" => {
                let name = self.name.to_lowercase();
                let (limit, default) = if name == "thresholdedrelu" {
                    (alpha(1.0), 1.0)
                } else {
                    (0.0, if name == "elu" { 1.0 } else { 0.01 })
                };
                let limit = c.number_like(limit, x)?;
                let above = c.bin(B::Greater, x, limit)?;
                let below = match &*name {
                    "leakyrelu" => c.with(B::Mul, x, alpha(default))?,
                    "elu" => {
                        let y = c.un(U::Exp, x)?;
                        let y = c.with(B::Sub, y, 1.0)?;
                        c.with(B::Mul, y, alpha(default))?
                    }
                    _ => c.number_like(0.0, x)?,
                };
                c.op(Op::Where {}, &[above, x, below])
            }
            "softsign" => {
                let y = c.un(U::Abs, x)?;
                let y = c.with(B::Add, y, 1.0)?;
                c.bin(B::Div, x, y)
            }
            "softplus" => {
                let y = c.un(U::Exp, x)?;
                let y = c.with(B::Add, y, 1.0)?;
                c.un(U::Log, y)
            }
            other => Err(Ctx::value_of(
                "activations",
                other,
                "Relu, Tanh, Sigmoid, Affine, LeakyRelu, ThresholdedRelu, ScaledTanh, HardSigmoid, Elu, Softsign, Softplus",
            )),
        }
    }
}

/// What all directions share.
struct Layer {
    kind: Kind,
    clip: Option<f32>,
    /// GRU: the reset gate acts on the product with the recurrent weights; LSTM: the forget gate is
    /// the input gate's complement.
    variant: bool,
    hidden: i64,
    elem: Elem,
}

/// Values inside the loop of one direction.
struct Step {
    /// `[B, gates H]`, with the input's bias.
    x: ValueId,
    /// `[B, H]`
    h: ValueId,
    /// `[B, H]`, of LSTM.
    c: ValueId,
    /// `[H, gates H]`
    r: ValueId,
    /// `[gates H]`, the recurrent bias.
    bias: Option<ValueId>,
    /// `[3 H]`, the peepholes of LSTM.
    peepholes: Option<ValueId>,
}

impl Layer {
    /// Columns of gate `i` of `[.., gates H]`.
    fn gate(&self, c: &mut Ctx, v: ValueId, i: i64, count: i64) -> R<ValueId> {
        let bounds = [i * self.hidden, (i + count) * self.hidden, -1, 1].map(|n| c.vector(vec![n]));
        c.op(Op::Slice {}, &[v, bounds[0], bounds[1], bounds[2], bounds[3]])
    }

    fn clipped(&self, c: &mut Ctx, v: ValueId) -> R<ValueId> {
        match self.clip {
            Some(limit) => {
                let v = c.with(B::Max, v, -f64::from(limit))?;
                c.with(B::Min, v, f64::from(limit))
            }
            None => Ok(v),
        }
    }

    /// The next hidden and cell state (formulas of the ONNX specification).
    fn step(&self, c: &mut Ctx, f: &[Activation], s: &Step) -> R<(ValueId, ValueId)> {
        match self.kind {
            Kind::Rnn => {
                let y = self.sum(c, s, s.x)?;
                let y = self.clipped(c, y)?;
                Ok((f[0].apply(c, y)?, s.c))
            }
            Kind::Gru => self.gru(c, f, s),
            Kind::Lstm => self.lstm(c, f, s),
        }
    }

    /// x + h R + bias.
    fn sum(&self, c: &mut Ctx, s: &Step, x: ValueId) -> R<ValueId> {
        let y = c.op(Op::MatMul {}, &[s.h, s.r])?;
        let y = c.bin(B::Add, x, y)?;
        match s.bias {
            Some(b) => c.bin(B::Add, y, b),
            None => Ok(y),
        }
    }

    fn gru(&self, c: &mut Ctx, f: &[Activation], s: &Step) -> R<(ValueId, ValueId)> {
        // Gates: update z, reset r, hidden h.
        let x_zr = self.gate(c, s.x, 0, 2)?;
        let x_h = self.gate(c, s.x, 2, 1)?;
        let (r_zr, r_h) = (self.gate(c, s.r, 0, 2)?, self.gate(c, s.r, 2, 1)?);
        let bias = match s.bias {
            Some(b) => Some((self.gate(c, b, 0, 2)?, self.gate(c, b, 2, 1)?)),
            None => None,
        };
        let part = |c: &mut Ctx, h: ValueId, r: ValueId, b: Option<ValueId>| -> R<ValueId> {
            let y = c.op(Op::MatMul {}, &[h, r])?;
            match b {
                Some(b) => c.bin(B::Add, y, b),
                None => Ok(y),
            }
        };
        let zr = part(c, s.h, r_zr, bias.map(|b| b.0))?;
        let zr = c.bin(B::Add, x_zr, zr)?;
        let zr = self.clipped(c, zr)?;
        let zr = f[0].apply(c, zr)?;
        let (z, r) = (self.gate(c, zr, 0, 1)?, self.gate(c, zr, 1, 1)?);
        let inner = if self.variant {
            let y = part(c, s.h, r_h, bias.map(|b| b.1))?;
            c.bin(B::Mul, r, y)?
        } else {
            let kept = c.bin(B::Mul, r, s.h)?;
            part(c, kept, r_h, bias.map(|b| b.1))?
        };
        let new = c.bin(B::Add, x_h, inner)?;
        let new = self.clipped(c, new)?;
        let new = f[1].apply(c, new)?;
        // (1 - z) new + z h
        let one = c.number_like(1.0, z)?;
        let rest = c.bin(B::Sub, one, z)?;
        let (a, b) = (c.bin(B::Mul, rest, new)?, c.bin(B::Mul, z, s.h)?);
        Ok((c.bin(B::Add, a, b)?, s.c))
    }

    fn lstm(&self, c: &mut Ctx, f: &[Activation], s: &Step) -> R<(ValueId, ValueId)> {
        // Gates: input i, output o, forget f, cell c; peepholes in the order i, o, f.
        let gates = self.sum(c, s, s.x)?;
        let one = |c: &mut Ctx, i: i64, state: ValueId| -> R<ValueId> {
            let mut y = self.gate(c, gates, i, 1)?;
            if let Some(p) = s.peepholes {
                let p = self.gate(c, p, i, 1)?;
                let p = c.bin(B::Mul, p, state)?;
                y = c.bin(B::Add, y, p)?;
            }
            let y = self.clipped(c, y)?;
            f[0].apply(c, y)
        };
        let i = one(c, 0, s.c)?;
        let forget = if self.variant {
            let one = c.number_like(1.0, i)?;
            c.bin(B::Sub, one, i)?
        } else {
            one(c, 2, s.c)?
        };
        let cell = self.gate(c, gates, 3, 1)?;
        let cell = self.clipped(c, cell)?;
        let cell = f[1].apply(c, cell)?;
        let (a, b) = (c.bin(B::Mul, forget, s.c)?, c.bin(B::Mul, i, cell)?);
        let cell = c.bin(B::Add, a, b)?;
        let o = one(c, 1, cell)?;
        let shown = f[2].apply(c, cell)?;
        Ok((c.bin(B::Mul, o, shown)?, cell))
    }
}

/// Slice `d` of the first axis.
fn direction(c: &mut Ctx, v: ValueId, d: i64) -> R<ValueId> {
    let bounds = [d, d + 1, 0, 1].map(|n| c.vector(vec![n]));
    let v = c.op(Op::Slice {}, &[v, bounds[0], bounds[1], bounds[2], bounds[3]])?;
    c.op(Op::Squeeze { axes: vec![0] }, &[v])
}

fn activations(c: &mut Ctx, kind: Kind, directions: usize) -> R<Vec<Activation>> {
    let default = kind.activations();
    let names = c.attrs.strings("activations")?;
    let names = names.unwrap_or_else(|| default.repeat(directions).iter().map(|&n| n.to_owned()).collect());
    if names.len() != default.len() * directions {
        return Err(Ctx::value_of("activations", names, &format!("{} names", default.len() * directions)));
    }
    let mut alphas = c.attrs.floats("activation_alpha")?.unwrap_or_default().iter().copied();
    let mut betas = c.attrs.floats("activation_beta")?.unwrap_or_default().iter().copied();
    // Each list has an entry for those functions only that have the parameter, in their order.
    let out = names.into_iter().map(|name| {
        let lower = name.to_lowercase();
        let has_alpha = matches!(
            &*lower,
            "affine" | "leakyrelu" | "thresholdedrelu" | "scaledtanh" | "hardsigmoid" | "elu"
        );
        let has_beta = matches!(&*lower, "affine" | "scaledtanh" | "hardsigmoid");
        let alpha = has_alpha.then(|| alphas.next()).flatten();
        Activation { name, alpha, beta: has_beta.then(|| betas.next()).flatten() }
    });
    Ok(out.collect())
}

fn recurrent(c: &mut Ctx, kind: Kind) -> R<Vec<ValueId>> {
    let way = c.attrs.string("direction")?.unwrap_or_else(|| "forward".into());
    let backward: &[bool] = match &*way {
        "forward" => &[false],
        "reverse" => &[true],
        "bidirectional" => &[false, true],
        other => return Err(Ctx::value_of("direction", other, "forward, reverse, bidirectional")),
    };
    let functions = activations(c, kind, backward.len())?;
    let clip = c.attrs.float("clip")?;
    let batch_first = c.attrs.flag("layout", false)?;
    let variant = match kind {
        Kind::Rnn => false,
        Kind::Gru => c.attrs.flag("linear_before_reset", false)?,
        Kind::Lstm => c.attrs.flag("input_forget", false)?,
    };
    // Of opsets before 14: says that the first output is wanted.
    c.attrs.flag("output_sequence", false)?;
    let mut x = c.x(0)?;
    let (w, r) = (c.x(1)?, c.x(2)?);
    let (bias, lengths) = (c.opt(3)?, c.opt(4)?);
    let (first_h, first_c) = (c.opt(5)?, if kind == Kind::Lstm { c.opt(6)? } else { None });
    let peepholes = if kind == Kind::Lstm { c.opt(7)? } else { None };
    let declared = c.attrs.int("hidden_size")?;
    let known = if c.dims(r).is_some_and(|d| d.len() == 3) { c.length(r, 2) } else { None };
    let hidden = known.or(declared).filter(|h| (1..=1 << 24).contains(h));
    let hidden = hidden.ok_or_else(|| Ctx::form("the length of the hidden state is not known"))?;
    if declared.is_some_and(|d| d != hidden) {
        return Err(Ctx::value_of("hidden_size", declared, &format!("the recurrent weights' {hidden}")));
    }
    let layer = Layer { kind, clip, variant, hidden, elem: c.elem(x) };
    if batch_first {
        x = c.op(Op::Transpose { perm: vec![1, 0, 2] }, &[x])?;
    }
    let length = c.op(Op::Shape { start: 0, end: 1 }, &[x])?;
    let length = c.op(Op::Squeeze { axes: vec![0] }, &[length])?;
    let batch = c.op(Op::Shape { start: 1, end: 2 }, &[x])?;
    let size = c.vector(vec![hidden]);
    let state_shape = c.op(Op::Concat { axis: 0 }, &[batch, size])?;
    let lengths = match lengths {
        Some(v) => {
            let v = c.as_i64(v)?;
            Some(c.op(Op::Unsqueeze { axes: vec![1] }, &[v])?)
        }
        None => None,
    };
    let (mut ys, mut hs, mut cs) = (Vec::new(), Vec::new(), Vec::new());
    for (d, &backward) in backward.iter().enumerate() {
        let at = d as i64;
        let start = |c: &mut Ctx, v: Option<ValueId>| -> R<ValueId> {
            match v {
                Some(v) if batch_first => {
                    let v = c.op(Op::Transpose { perm: vec![1, 0, 2] }, &[v])?;
                    direction(c, v, at)
                }
                Some(v) => direction(c, v, at),
                None => {
                    let zero = c.number_like(0.0, x)?;
                    c.op(Op::Expand {}, &[zero, state_shape])
                }
            }
        };
        let (h, cell) = (start(c, first_h)?, start(c, first_c)?);
        let transposed = |c: &mut Ctx, v: ValueId| -> R<ValueId> {
            let v = direction(c, v, at)?;
            c.op(Op::Transpose { perm: vec![1, 0] }, &[v])
        };
        let (wt, rt) = (transposed(c, w)?, transposed(c, r)?);
        let mut xw = c.op(Op::MatMul {}, &[x, wt])?;
        let mut recurrent_bias = None;
        if let Some(b) = bias {
            let b = direction(c, b, at)?;
            let gates = kind.gates();
            let (wb, rb) = (layer.gate(c, b, 0, gates)?, layer.gate(c, b, gates, gates)?);
            xw = c.bin(B::Add, xw, wb)?;
            recurrent_bias = Some(rb);
        }
        let peepholes = peepholes.map(|p| direction(c, p, at)).transpose()?;
        let per = kind.activations().len();
        let f = &functions[d * per..(d + 1) * per];
        let given = [Some(xw), Some(rt), Some(length), recurrent_bias, peepholes, lengths];
        let [y, h, cell] = run(c, &layer, f, backward, (length, h, cell), given)?;
        let y = if backward { c.reversed(y, 0)? } else { y };
        ys.push(c.op(Op::Unsqueeze { axes: vec![1] }, &[y])?);
        hs.push(c.op(Op::Unsqueeze { axes: vec![0] }, &[h])?);
        cs.push(c.op(Op::Unsqueeze { axes: vec![0] }, &[cell])?);
    }
    let mut out = Vec::new();
    // [T, D, B, H], [D, B, H], [D, B, H]; batch first: [B, T, D, H], [B, D, H], [B, D, H].
    for (parts, axis, perm) in [(ys, 1, vec![2, 0, 1, 3]), (hs, 0, vec![1, 0, 2]), (cs, 0, vec![1, 0, 2])] {
        let v = if parts.len() == 1 { parts[0] } else { c.op(Op::Concat { axis }, &parts)? };
        out.push(if batch_first { c.op(Op::Transpose { perm }, &[v])? } else { v });
    }
    if kind != Kind::Lstm {
        out.truncate(2);
    }
    Ok(out)
}

/// The loop of one direction: outputs in the order of its iterations, and the last states. `given` are
/// the sequence's products, the recurrent weights, its length, and where there are any the recurrent
/// bias, the peepholes and the lengths of each sequence.
fn run(
    c: &mut Ctx,
    layer: &Layer,
    f: &[Activation],
    backward: bool,
    (length, h, cell): (ValueId, ValueId, ValueId),
    given: [Option<ValueId>; 6],
) -> R<[ValueId; 3]> {
    let scalar = |elem| Fact::of(OpenType { elem, shape: Some(Vec::new()) });
    let mut facts = vec![("iteration".to_owned(), scalar(Elem::I64)), ("go".to_owned(), scalar(Elem::Bool))];
    // What a state is at first may say more than what it is later.
    let state = |c: &Ctx, v: ValueId| {
        let batch = c.dims(h).and_then(|d| d.first().cloned()).unwrap_or(None);
        let hidden = Some(pfmc_ir::shape::Dim::known(layer.hidden));
        let shape = c.dims(v).map(|_| vec![batch, hidden]);
        Fact::of(OpenType { elem: layer.elem, shape })
    };
    facts.extend([("h".to_owned(), state(c, h)), ("c".to_owned(), state(c, cell))]);
    let names = ["x", "r", "length", "bias", "peepholes", "lengths"];
    for (name, v) in names.iter().zip(given) {
        if let Some(v) = v {
            facts.push(((*name).to_owned(), c.fact(v)));
        }
    }
    let body = c.region(facts, |c, v| {
        let mut rest = v[4..].iter().copied();
        let [x, r, length, bias, peepholes, lengths] = given.map(|g| g.and_then(|_| rest.next()));
        let lost = || Ctx::form("a loop lacks a value");
        let (x, r, length) = (x.ok_or_else(lost)?, r.ok_or_else(lost)?, length.ok_or_else(lost)?);
        let t = if backward { c.last_less(length, v[0])? } else { v[0] };
        let x = c.op(Op::Gather { axis: 0 }, &[x, t])?;
        let step = Step { x, h: v[2], c: v[3], r, bias, peepholes };
        let (mut h, mut cell) = layer.step(c, f, &step)?;
        let mut y = h;
        if let Some(lengths) = lengths {
            let inside = c.bin(B::Greater, lengths, t)?;
            let zero = c.number_like(0.0, h)?;
            y = c.op(Op::Where {}, &[inside, h, zero])?;
            h = c.op(Op::Where {}, &[inside, h, v[2]])?;
            cell = c.op(Op::Where {}, &[inside, cell, v[3]])?;
        }
        let outputs = [("go", v[1]), ("h", h), ("c", cell), ("y", y)];
        Ok(outputs.map(|(n, v)| (n.to_owned(), v)).to_vec())
    })?;
    let go = c.make(&Tensor::scalar(true), false);
    let mut inputs = vec![length, go, h, cell];
    inputs.extend(given.iter().flatten());
    let made = c.many(Op::Loop { body, carried: 2, results: 3 }, &inputs)?;
    Ok([made[2], made[0], made[1]])
}
