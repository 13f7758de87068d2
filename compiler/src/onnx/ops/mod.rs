//! The table of operators: what is supported, and how each becomes operations of the graph.

mod axes;
mod bits;
mod blocks;
mod control;
mod einsum;
mod experts;
mod loss;
mod mixers;
mod qlinear;
mod quantised;
mod recurrent;
mod select;
mod signal;
mod spatial;

use half::{bf16, f16};
use pfmc_ir::diag::Diagnostic;
use pfmc_ir::elem::Elem;
use pfmc_ir::graph::ValueId;
use pfmc_ir::narrow::PowerOfTwo;
use pfmc_ir::op::{BinaryFn as B, Op, ReduceFn as Rf, UnaryFn as U};
use pfmc_ir::tensor::{Data, Tensor};

use crate::onnx::codes::{E0105, E0106};
use crate::onnx::lower::{Ctx, Fault, R};
use crate::onnx::tensor::elem_type;

/// Oldest supported version of the standard operator set.
pub const MIN_OPSET: i64 = 7;
/// Newest supported version of the standard operator set.
pub const MAX_OPSET: i64 = 27;

type Lowering = fn(&mut Ctx<'_, '_, '_>) -> R<Vec<ValueId>>;

/// A supported operator.
pub struct OpInfo {
    /// Domain; empty for the standard one.
    pub domain: &'static str,
    /// Name.
    pub name: &'static str,
    /// First opset of the standard domain in which it is supported.
    pub since: i64,
    /// Fewest and most inputs, over all its versions.
    pub inputs: (usize, usize),
    /// Supported attributes, over all its versions.
    pub attributes: &'static [&'static str],
    /// Element types of the first operand; others are refused.
    pub types: &'static [Elem],
    /// What is not supported, or how it is computed; empty for plain operators.
    pub note: &'static str,
    pub(in crate::onnx) import: Lowering,
}

impl std::fmt::Debug for OpInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpInfo")
            .field("domain", &self.domain)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl OpInfo {
    /// The element types in words.
    pub fn type_names(&self) -> String {
        if self.types.len() == Elem::ALL.len() {
            return "any".to_owned();
        }
        self.types.iter().map(|e| e.name()).collect::<Vec<_>>().join(", ")
    }

    /// Restricts the element types of the first operand.
    const fn on(mut self, types: &'static [Elem]) -> Self {
        self.types = types;
        self
    }

    /// Puts the operator into another domain than the standard one.
    const fn of(mut self, domain: &'static str) -> Self {
        self.domain = domain;
        self
    }

    /// The number of inputs in words.
    pub fn input_range(&self) -> String {
        match self.inputs {
            (a, b) if a == b => a.to_string(),
            (a, usize::MAX) => format!("{a} or more"),
            (a, b) => format!("{a} to {b}"),
        }
    }
}

/// The entry of an operator.
pub(in crate::onnx) fn find(domain: &str, name: &str) -> Option<&'static OpInfo> {
    supported().find(|o| o.domain == domain && o.name == name)
}

/// What to do about an operator that is not supported.
pub(in crate::onnx) fn nearest(domain: &str, name: &str) -> Option<String> {
    let other = supported().find(|o| o.name == name && o.domain != domain);
    if let Some(other) = other {
        let d = if other.domain.is_empty() { "the standard domain" } else { other.domain };
        return Some(format!("{name} is supported in {d}"));
    }
    let text = match name {
        "PagedAttention" | "SparseAttention" | "DecoderMaskedMultiHeadAttention" => {
            "export attention as MultiHeadAttention, GroupQueryAttention or decomposed"
        }
        "QAttention" | "QLinearAveragePool" | "QLinearReduceMean" | "QLinearWhere" => {
            "quantise in the QDQ form (QuantFormat.QDQ), or give pfmc the model in float32"
        }
        "RandomNormal" | "RandomNormalLike" | "RandomUniform" | "RandomUniformLike" | "Multinomial"
        | "Bernoulli" => {
            "random numbers are out of scope: ONNX defines no result of them; make what they give an \
             input of the model"
        }
        "SequenceAt" | "SequenceConstruct" | "SequenceEmpty" | "SequenceErase" | "SequenceInsert"
        | "SequenceLength" | "SequenceMap" | "SplitToSequence" | "ConcatFromSequence" => {
            "sequences of tensors are out of scope; export with tensors stacked along an axis (Split, Concat)"
        }
        "Optional" | "OptionalGetElement" | "OptionalHasElement" => {
            "optional values are out of scope; export a model of the inputs that are given"
        }
        "StringConcat" | "StringNormalizer" | "StringSplit" | "RegexFullMatch" | "TfIdfVectorizer" => {
            "strings are out of scope; run the text's preparation before the model"
        }
        "ImageDecoder" => "files are out of scope; decode the image before the model",
        "Adam" | "Adagrad" | "Momentum" | "Gradient" => {
            "training is out of scope; export the model for inference"
        }
        _ if domain.starts_with("ai.onnx.ml") => {
            "the classical machine learning domain is out of scope; export the neural network alone"
        }
        _ => {
            let lower = name.to_lowercase();
            let close = supported().find(|o| {
                let n = o.name.to_lowercase();
                n == lower || (n.len() > 3 && lower.len() > 3 && (n.contains(&lower) || lower.contains(&n)))
            })?;
            return Some(format!("the nearest supported operator is {}", close.name));
        }
    };
    Some(text.to_owned())
}

const fn op(
    name: &'static str,
    since: i64,
    inputs: (usize, usize),
    attributes: &'static [&'static str],
    note: &'static str,
    import: Lowering,
) -> OpInfo {
    OpInfo { domain: "", name, since, inputs, attributes, types: Elem::ALL, note, import }
}

const fn contrib(
    name: &'static str,
    inputs: (usize, usize),
    attributes: &'static [&'static str],
    note: &'static str,
    import: Lowering,
) -> OpInfo {
    op(name, MIN_OPSET, inputs, attributes, note, import).of("com.microsoft")
}

/// The entry of an operator that ONNX tries out.
const fn preview(
    name: &'static str,
    inputs: (usize, usize),
    attributes: &'static [&'static str],
    note: &'static str,
    import: Lowering,
) -> OpInfo {
    op(name, MIN_OPSET, inputs, attributes, note, import).of("ai.onnx.preview")
}

const MANY: usize = usize::MAX;
const NO: &[&str] = &[];
const CONV: &[&str] = &["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"];
const NORM: &[&str] = &["axis", "epsilon", "stash_type"];

/// The tables of all topics.
static TABLES: &[&[OpInfo]] = &[
    GENERAL,
    control::CONTROL,
    quantised::QUANTISED,
    recurrent::RECURRENT,
    spatial::SPATIAL,
    blocks::BLOCKS,
    experts::EXPERTS,
    qlinear::QLINEAR,
    axes::AXES,
    bits::BITS,
    select::SELECT,
    loss::LOSS,
    signal::SIGNAL,
    einsum::EINSUM,
    mixers::MIXERS,
];

/// Every supported operator. The importer dispatches on it, and the documentation and `pfmc ops`
/// print it.
pub fn supported() -> impl Iterator<Item = &'static OpInfo> {
    TABLES.iter().copied().flatten()
}

/// Types that floating-point functions take.
const FLOATS: &[Elem] = &[Elem::F32, Elem::F64, Elem::F16, Elem::BF16];
const BOOL: &[Elem] = &[Elem::Bool];

static GENERAL: &[OpInfo] = &[
    op("Abs", 7, (1, 1), NO, "", |c| unary(c, U::Abs)),
    op("Add", 7, (2, 2), NO, "", |c| binary(c, B::Add)),
    op("And", 7, (2, 2), NO, "", |c| logical(c, B::And)).on(BOOL),
    op(
        "BatchNormalization",
        7,
        (5, 5),
        &["epsilon", "momentum", "spatial", "training_mode"],
        "folded to a product and a sum when its statistics are constant; training mode from opset 14",
        batch_norm,
    ),
    op("Cast", 7, (1, 1), &["to", "saturate", "round_mode"], "between all numbers and bool", cast),
    op("CastLike", 15, (2, 2), &["saturate", "round_mode"], "as Cast", cast_like),
    op("Ceil", 7, (1, 1), NO, "", |c| float_unary(c, U::Ceil)).on(FLOATS),
    op("Celu", 12, (1, 1), &["alpha"], "lowered", celu),
    op("Clip", 7, (1, 3), &["min", "max"], "lowered to max and min", clip),
    op("Concat", 7, (1, MANY), &["axis"], "", concat),
    op(
        "Constant",
        7,
        (0, 0),
        &["value", "value_float", "value_floats", "value_int", "value_ints"],
        "no strings and no sparse tensors",
        constant,
    ),
    op("ConstantOfShape", 9, (1, 1), &["value"], "lowered to expand", constant_of_shape),
    op("Conv", 7, (2, 3), CONV, "", conv),
    op("Cos", 7, (1, 1), NO, "", |c| float_unary(c, U::Cos)).on(FLOATS),
    op("CumSum", 11, (2, 2), &["exclusive", "reverse"], "", cumsum),
    op("Div", 7, (2, 2), NO, "", |c| binary(c, B::Div)),
    op("Dropout", 7, (1, 3), &["ratio", "seed"], "inference only: the identity", dropout),
    op("Elu", 7, (1, 1), &["alpha"], "lowered", elu),
    op("Equal", 7, (2, 2), NO, "", |c| binary(c, B::Equal)),
    op("Erf", 9, (1, 1), NO, "", |c| float_unary(c, U::Erf)).on(FLOATS),
    op("Exp", 7, (1, 1), NO, "", |c| float_unary(c, U::Exp)).on(FLOATS),
    op("Expand", 8, (2, 2), NO, "", expand),
    op("Flatten", 7, (1, 1), &["axis"], "", flatten),
    op("Floor", 7, (1, 1), NO, "", |c| float_unary(c, U::Floor)).on(FLOATS),
    op("Gather", 7, (2, 2), &["axis"], "", gather),
    op("GatherElements", 11, (2, 2), &["axis"], "", gather_elements),
    op("GatherND", 11, (2, 2), &["batch_dims"], "", gather_nd),
    op("Gelu", 20, (1, 1), &["approximate"], "", gelu),
    op(
        "Gemm",
        7,
        (2, 3),
        &["alpha", "beta", "transA", "transB"],
        "lowered to transpose, matmul, mul and add",
        gemm,
    ),
    op("GlobalAveragePool", 7, (1, 1), NO, "needs a known rank", |c| global_pool(c, Rf::Mean)),
    op("GlobalMaxPool", 7, (1, 1), NO, "needs a known rank", |c| global_pool(c, Rf::Max)),
    op("Greater", 7, (2, 2), NO, "", |c| binary(c, B::Greater)),
    op("GreaterOrEqual", 12, (2, 2), NO, "", |c| binary(c, B::GreaterEqual)),
    op("HardSigmoid", 7, (1, 1), &["alpha", "beta"], "lowered", hard_sigmoid),
    op("HardSwish", 14, (1, 1), NO, "lowered", hard_swish),
    op("Identity", 7, (1, 1), NO, "an alias", |c| Ok(vec![c.x(0)?])),
    op("InstanceNormalization", 7, (3, 3), &["epsilon"], "lowered; needs a known rank", instance_norm),
    op("IsInf", 10, (1, 1), &["detect_negative", "detect_positive"], "lowered", is_inf),
    op("IsNaN", 9, (1, 1), NO, "lowered to x != x", is_nan),
    op("LeakyRelu", 7, (1, 1), &["alpha"], "lowered", leaky_relu),
    op("Less", 7, (2, 2), NO, "", |c| binary(c, B::Less)),
    op("LessOrEqual", 12, (2, 2), NO, "", |c| binary(c, B::LessEqual)),
    op("Log", 7, (1, 1), NO, "", |c| float_unary(c, U::Log)).on(FLOATS),
    op("LogSoftmax", 7, (1, 1), &["axis"], "lowered", |c| softmax_of(c, true)),
    op("MatMul", 7, (2, 2), NO, "", matmul),
    op("Max", 7, (1, MANY), NO, "a chain", |c| chain(c, B::Max)),
    op("Mean", 7, (1, MANY), NO, "a chain of sums and a quotient", mean),
    op("Min", 7, (1, MANY), NO, "a chain", |c| chain(c, B::Min)),
    op("Mish", 18, (1, 1), NO, "lowered", mish),
    op("Mod", 10, (2, 2), &["fmod"], "", modulo),
    op("Mul", 7, (2, 2), NO, "", |c| binary(c, B::Mul)),
    op("Neg", 7, (1, 1), NO, "", |c| unary(c, U::Neg)),
    op("Not", 7, (1, 1), NO, "", not).on(BOOL),
    op("Or", 7, (2, 2), NO, "", |c| logical(c, B::Or)).on(BOOL),
    op("PRelu", 7, (2, 2), NO, "lowered", prelu),
    op("Pow", 7, (2, 2), NO, "", |c| binary(c, B::Pow)),
    op("Range", 11, (3, 3), &["stash_type"], "", range),
    op("Reciprocal", 7, (1, 1), NO, "", |c| float_unary(c, U::Reciprocal)).on(FLOATS),
    op("Relu", 7, (1, 1), NO, "", |c| unary(c, U::Relu)),
    op("Reshape", 7, (2, 2), &["allowzero"], "", reshape),
    op("Round", 11, (1, 1), NO, "", |c| float_unary(c, U::Round)).on(FLOATS),
    op("Selu", 7, (1, 1), &["alpha", "gamma"], "lowered", selu),
    op("Shape", 7, (1, 1), &["start", "end"], "", shape),
    op("Sigmoid", 7, (1, 1), NO, "", |c| float_unary(c, U::Sigmoid)).on(FLOATS),
    op("Sign", 9, (1, 1), NO, "", |c| unary(c, U::Sign)),
    op("Sin", 7, (1, 1), NO, "", |c| float_unary(c, U::Sin)).on(FLOATS),
    op("Size", 7, (1, 1), NO, "lowered to shape and reduce_prod", size),
    op(
        "Slice",
        7,
        (1, 5),
        &["axes", "ends", "starts"],
        "starts need a known length unless axes are given",
        slice,
    ),
    op("Softmax", 7, (1, 1), &["axis"], "before opset 13 over all axes from axis on", |c| {
        softmax_of(c, false)
    }),
    op("Softplus", 7, (1, 1), NO, "lowered", softplus),
    op("Softsign", 7, (1, 1), NO, "lowered", softsign),
    op("Sqrt", 7, (1, 1), NO, "", |c| float_unary(c, U::Sqrt)).on(FLOATS),
    op("Sub", 7, (2, 2), NO, "", |c| binary(c, B::Sub)),
    op("Sum", 7, (1, MANY), NO, "a chain", |c| chain(c, B::Add)),
    op("Swish", 24, (1, 1), &["alpha"], "lowered", |c| swish(c, 1.0)),
    op("Tanh", 7, (1, 1), NO, "", |c| float_unary(c, U::Tanh)).on(FLOATS),
    op("ThresholdedRelu", 10, (1, 1), &["alpha"], "lowered", thresholded_relu),
    op("Tile", 7, (2, 2), NO, "lowered; needs a known rank", tile),
    op("Transpose", 7, (1, 1), &["perm"], "without perm needs a known rank", transpose),
    op("Trilu", 14, (1, 2), &["upper"], "", trilu),
    op("Where", 9, (3, 3), NO, "", where_),
    op("Xor", 7, (2, 2), NO, "", |c| logical(c, B::Xor)).on(BOOL),
    contrib("BiasGelu", (2, 2), NO, "lowered", bias_gelu),
    contrib("FastGelu", (1, 2), NO, "lowered", fast_gelu),
    contrib("Gelu", (1, 1), NO, "", |c| {
        let x = c.x(0)?;
        Ok(vec![float_of(c, U::Gelu, x)?])
    }),
    contrib("QuickGelu", (1, 1), &["alpha"], "lowered", |c| swish(c, 1.702)),
];

fn unary(c: &mut Ctx, f: U) -> R<Vec<ValueId>> {
    let x = c.x(0)?;
    if c.elem(x) == Elem::Bool {
        return Err(Ctx::form("the operand is bool and must be a number"));
    }
    Ok(vec![c.un(f, x)?])
}

fn float_unary(c: &mut Ctx, f: U) -> R<Vec<ValueId>> {
    let x = c.x(0)?;
    c.floats_only(x)?;
    Ok(vec![c.un(f, x)?])
}

fn not(c: &mut Ctx) -> R<Vec<ValueId>> {
    let x = c.x(0)?;
    if c.elem(x) != Elem::Bool {
        return Err(Ctx::form(format!("the operand is {} and must be bool", c.elem(x))));
    }
    Ok(vec![c.un(U::Not, x)?])
}

fn binary(c: &mut Ctx, f: B) -> R<Vec<ValueId>> {
    let (a, b) = (c.x(0)?, c.x(1)?);
    if !matches!(f, B::Equal) && (c.elem(a) == Elem::Bool || c.elem(b) == Elem::Bool) {
        return Err(Ctx::form("an operand is bool and must be a number"));
    }
    Ok(vec![c.bin(f, a, b)?])
}

fn logical(c: &mut Ctx, f: B) -> R<Vec<ValueId>> {
    let (a, b) = (c.x(0)?, c.x(1)?);
    if c.elem(a) != Elem::Bool || c.elem(b) != Elem::Bool {
        return Err(Ctx::form("the operands must be bool"));
    }
    Ok(vec![c.bin(f, a, b)?])
}

fn chain(c: &mut Ctx, f: B) -> R<Vec<ValueId>> {
    let all = c.all()?;
    let mut v = all[0];
    for &next in &all[1..] {
        v = c.bin(f, v, next)?;
    }
    Ok(vec![v])
}

fn mean(c: &mut Ctx) -> R<Vec<ValueId>> {
    let sum = chain(c, B::Add)?[0];
    match c.input_count() {
        1 => Ok(vec![sum]),
        n => Ok(vec![c.with(B::Div, sum, n as f64)?]),
    }
}

fn modulo(c: &mut Ctx) -> R<Vec<ValueId>> {
    let fmod = c.attrs.flag("fmod", false)?;
    let (a, b) = (c.x(0)?, c.x(1)?);
    if !fmod && c.elem(a).is_float() {
        return Err(Ctx::value_of("fmod", 0, "1 for floats"));
    }
    Ok(vec![c.bin(if fmod { B::Fmod } else { B::Mod }, a, b)?])
}

// Activations that are lowered. Constants are those of the ONNX definitions.

/// max(x, 0) and min(x, 0).
fn halves(c: &mut Ctx, x: ValueId) -> R<(ValueId, ValueId)> {
    c.floats_only(x)?;
    let above = c.un(U::Relu, x)?;
    Ok((above, c.with(B::Min, x, 0.0)?))
}

fn leaky_relu(c: &mut Ctx) -> R<Vec<ValueId>> {
    let alpha = c.attrs.float("alpha")?.unwrap_or(0.01);
    let x = c.x(0)?;
    Ok(vec![leaky_of(c, x, alpha.into())?])
}

/// max(x, 0) + alpha min(x, 0).
fn leaky_of(c: &mut Ctx, x: ValueId, alpha: f64) -> R<ValueId> {
    let (above, below) = halves(c, x)?;
    let below = c.with(B::Mul, below, alpha)?;
    c.bin(B::Add, above, below)
}

fn prelu(c: &mut Ctx) -> R<Vec<ValueId>> {
    let (x, slope) = (c.x(0)?, c.x(1)?);
    let (above, below) = halves(c, x)?;
    let below = c.bin(B::Mul, below, slope)?;
    Ok(vec![c.bin(B::Add, above, below)?])
}

/// max(x, 0) + alpha (e^(min(x, 0) / divisor) - 1).
fn exponential(c: &mut Ctx, x: ValueId, alpha: f64, divisor: f64) -> R<ValueId> {
    let (above, below) = halves(c, x)?;
    let below = if divisor == 1.0 { below } else { c.with(B::Div, below, divisor)? };
    let e = c.un(U::Exp, below)?;
    let e = c.with(B::Sub, e, 1.0)?;
    let e = c.with(B::Mul, e, alpha)?;
    c.bin(B::Add, above, e)
}

fn elu(c: &mut Ctx) -> R<Vec<ValueId>> {
    let alpha = c.attrs.float("alpha")?.unwrap_or(1.0);
    let x = c.x(0)?;
    Ok(vec![exponential(c, x, alpha.into(), 1.0)?])
}

fn celu(c: &mut Ctx) -> R<Vec<ValueId>> {
    let alpha = c.attrs.float("alpha")?.unwrap_or(1.0);
    if alpha <= 0.0 {
        return Err(Ctx::value_of("alpha", alpha, "positive numbers"));
    }
    let x = c.x(0)?;
    Ok(vec![exponential(c, x, alpha.into(), alpha.into())?])
}

fn selu(c: &mut Ctx) -> R<Vec<ValueId>> {
    let alpha = c.attrs.float("alpha")?.unwrap_or(1.673_263_2);
    let gamma = c.attrs.float("gamma")?.unwrap_or(1.050_701);
    let x = c.x(0)?;
    let e = exponential(c, x, alpha.into(), 1.0)?;
    Ok(vec![c.with(B::Mul, e, gamma.into())?])
}

fn thresholded_relu(c: &mut Ctx) -> R<Vec<ValueId>> {
    let alpha = c.attrs.float("alpha")?.unwrap_or(1.0);
    let x = c.x(0)?;
    c.floats_only(x)?;
    let above = c.with(B::Greater, x, alpha.into())?;
    let zero = c.number_like(0.0, x)?;
    Ok(vec![c.op(Op::Where {}, &[above, x, zero])?])
}

fn hard_sigmoid_of(c: &mut Ctx, x: ValueId, alpha: f64, beta: f64) -> R<ValueId> {
    c.floats_only(x)?;
    let v = c.with(B::Mul, x, alpha)?;
    let v = c.with(B::Add, v, beta)?;
    let v = c.with(B::Min, v, 1.0)?;
    c.with(B::Max, v, 0.0)
}

fn hard_sigmoid(c: &mut Ctx) -> R<Vec<ValueId>> {
    let alpha = c.attrs.float("alpha")?.unwrap_or(0.2);
    let beta = c.attrs.float("beta")?.unwrap_or(0.5);
    let x = c.x(0)?;
    Ok(vec![hard_sigmoid_of(c, x, alpha.into(), beta.into())?])
}

fn hard_swish(c: &mut Ctx) -> R<Vec<ValueId>> {
    let x = c.x(0)?;
    let s = hard_sigmoid_of(c, x, 1.0 / 6.0, 0.5)?;
    Ok(vec![c.bin(B::Mul, x, s)?])
}

/// log(1 + e^x) as max(x, 0) + log(1 + e^-|x|), which does not overflow.
fn softplus_of(c: &mut Ctx, x: ValueId) -> R<ValueId> {
    c.floats_only(x)?;
    let v = c.un(U::Abs, x)?;
    let v = c.un(U::Neg, v)?;
    let v = c.un(U::Exp, v)?;
    let v = c.with(B::Add, v, 1.0)?;
    let v = c.un(U::Log, v)?;
    let above = c.un(U::Relu, x)?;
    c.bin(B::Add, above, v)
}

fn softplus(c: &mut Ctx) -> R<Vec<ValueId>> {
    let x = c.x(0)?;
    Ok(vec![softplus_of(c, x)?])
}

fn mish(c: &mut Ctx) -> R<Vec<ValueId>> {
    let x = c.x(0)?;
    let v = softplus_of(c, x)?;
    let v = c.un(U::Tanh, v)?;
    Ok(vec![c.bin(B::Mul, x, v)?])
}

fn softsign(c: &mut Ctx) -> R<Vec<ValueId>> {
    let x = c.x(0)?;
    c.floats_only(x)?;
    let v = c.un(U::Abs, x)?;
    let v = c.with(B::Add, v, 1.0)?;
    Ok(vec![c.bin(B::Div, x, v)?])
}

fn swish(c: &mut Ctx, default: f32) -> R<Vec<ValueId>> {
    let alpha = c.attrs.float("alpha")?.unwrap_or(default);
    let x = c.x(0)?;
    c.floats_only(x)?;
    if alpha == 1.0 {
        return Ok(vec![c.un(U::Silu, x)?]);
    }
    let v = c.with(B::Mul, x, alpha.into())?;
    let v = c.un(U::Sigmoid, v)?;
    Ok(vec![c.bin(B::Mul, x, v)?])
}

/// A floating-point function of a value.
fn float_of(c: &mut Ctx, f: U, x: ValueId) -> R<ValueId> {
    c.floats_only(x)?;
    c.un(f, x)
}

fn gelu(c: &mut Ctx) -> R<Vec<ValueId>> {
    let approximate = c.attrs.string("approximate")?;
    let x = c.x(0)?;
    Ok(vec![match approximate.as_deref() {
        None | Some("none") => float_of(c, U::Gelu, x)?,
        Some("tanh") => float_of(c, U::GeluTanh, x)?,
        Some(other) => return Err(Ctx::value_of("approximate", other, "none, tanh")),
    }])
}

fn bias_gelu(c: &mut Ctx) -> R<Vec<ValueId>> {
    let (x, b) = (c.x(0)?, c.x(1)?);
    let x = c.bin(B::Add, x, b)?;
    Ok(vec![float_of(c, U::Gelu, x)?])
}

fn fast_gelu(c: &mut Ctx) -> R<Vec<ValueId>> {
    let mut x = c.x(0)?;
    if let Some(b) = c.opt(1)? {
        x = c.bin(B::Add, x, b)?;
    }
    Ok(vec![float_of(c, U::GeluTanh, x)?])
}

fn is_nan(c: &mut Ctx) -> R<Vec<ValueId>> {
    let x = c.x(0)?;
    c.floats_only(x)?;
    let same = c.bin(B::Equal, x, x)?;
    Ok(vec![c.un(U::Not, same)?])
}

fn is_inf(c: &mut Ctx) -> R<Vec<ValueId>> {
    let below = c.attrs.flag("detect_negative", true)?;
    let above = c.attrs.flag("detect_positive", true)?;
    let x = c.x(0)?;
    c.floats_only(x)?;
    let (x, bound) = match (below, above) {
        (true, true) => (c.un(U::Abs, x)?, f64::INFINITY),
        (true, false) => (x, f64::NEG_INFINITY),
        (false, true) => (x, f64::INFINITY),
        // No number is below 0 in magnitude.
        (false, false) => {
            let x = c.un(U::Abs, x)?;
            return Ok(vec![c.with(B::Less, x, 0.0)?]);
        }
    };
    Ok(vec![c.with(B::Equal, x, bound)?])
}

/// A bound that is left out is the least or largest finite number, which infinities exceed.
fn clip(c: &mut Ctx) -> R<Vec<ValueId>> {
    let given = [c.attrs.float("min")?, c.attrs.float("max")?];
    let mut x = c.x(0)?;
    let finite = match c.elem(x) {
        Elem::F64 => Some(f64::MAX),
        Elem::F32 => Some(f64::from(f32::MAX)),
        Elem::F16 => Some(f16::MAX.to_f64()),
        Elem::BF16 => Some(bf16::MAX.to_f64()),
        _ => None,
    };
    for (i, f, sign) in [(1, B::Max, -1.0), (2, B::Min, 1.0)] {
        let default = finite.map(|v| v * sign);
        x = match (c.opt(i)?, given[i - 1].map(f64::from).or(default)) {
            (Some(bound), _) => c.bin(f, x, bound)?,
            (None, Some(bound)) => c.with(f, x, bound)?,
            (None, None) => x,
        };
    }
    Ok(vec![x])
}

/// How a cast treats what a narrow type does not hold.
fn cast_options(c: &mut Ctx) -> R<(bool, PowerOfTwo)> {
    let saturate = c.attrs.flag("saturate", true)?;
    let power = match c.attrs.string("round_mode")?.as_deref() {
        None | Some("up") => PowerOfTwo::Up,
        Some("down") => PowerOfTwo::Down,
        Some("nearest") => PowerOfTwo::Nearest,
        Some(other) => return Err(Ctx::value_of("round_mode", other, "up, down, nearest")),
    };
    Ok((saturate, power))
}

fn cast(c: &mut Ctx) -> R<Vec<ValueId>> {
    let options = cast_options(c)?;
    let to = c.attrs.int("to")?.ok_or_else(|| Diagnostic::error(&E0105, "attribute to is missing"))?;
    let Some(elem) = i32::try_from(to).ok().and_then(elem_type) else {
        let kind = i32::try_from(to).map_or("of an unknown number", crate::onnx::proto::elem_name);
        return Err(Ctx::value_of("to", to, "numbers and bool").noted(format!("{to} is {kind}")));
    };
    let x = c.x(0)?;
    cast_to(c, x, elem, options)
}

fn cast_to(c: &mut Ctx, x: ValueId, to: Elem, (saturate, power): (bool, PowerOfTwo)) -> R<Vec<ValueId>> {
    let op = match to {
        _ if c.elem(x) == to => return Ok(vec![x]),
        _ if to.is_code() && (!saturate || power != PowerOfTwo::Up) => {
            Op::CastRounded { to, saturate, power }
        }
        _ => Op::Cast { to },
    };
    Ok(vec![c.op(op, &[x])?])
}

fn cast_like(c: &mut Ctx) -> R<Vec<ValueId>> {
    let options = cast_options(c)?;
    let (x, like) = (c.x(0)?, c.x(1)?);
    let to = c.elem(like);
    cast_to(c, x, to, options)
}

fn where_(c: &mut Ctx) -> R<Vec<ValueId>> {
    let inputs = c.all()?;
    Ok(vec![c.op(Op::Where {}, &inputs)?])
}

fn dropout(c: &mut Ctx) -> R<Vec<ValueId>> {
    // Without training neither ratio nor seed has any influence.
    c.attrs.float("ratio")?;
    c.attrs.int("seed")?;
    if c.number(2, "training_mode")?.is_some_and(|t| t != 0.0) && c.number(1, "ratio")? != Some(0.0) {
        return Err(Ctx::form("dropout in training mode"));
    }
    let x = c.x(0)?;
    if c.output_count() < 2 {
        return Ok(vec![x]);
    }
    // The mask keeps everything; before opset 10 it has the operand's type.
    let kept = if c.opset < 10 { c.number_like(1.0, x)? } else { c.make(&Tensor::scalar(true), false) };
    let shape = c.op(Op::Shape { start: 0, end: i64::MAX }, &[x])?;
    Ok(vec![x, c.op(Op::Expand {}, &[kept, shape])?])
}

// Softmax and norms.

fn softmax_of(c: &mut Ctx, log: bool) -> R<Vec<ValueId>> {
    along_axis(c, |c, x, axis| softmax_along(c, x, axis, log))
}

/// A function of the lines along the node's axis. Before opset 13 it is one of all axes from that axis on.
fn along_axis(c: &mut Ctx, f: impl Fn(&mut Ctx, ValueId, i64) -> R<ValueId>) -> R<Vec<ValueId>> {
    let coerced = c.opset < 13;
    let axis = c.attrs.int("axis")?.unwrap_or(if coerced { 1 } else { -1 });
    let x = c.x(0)?;
    c.floats_only(x)?;
    let last = axis == -1 || c.dims(x).is_some_and(|d| axis.checked_add(1) == i64::try_from(d.len()).ok());
    if !coerced || last {
        return Ok(vec![f(c, x, axis)?]);
    }
    // Before opset 13: over all axes from `axis` on together.
    let axis = match c.dims(x) {
        Some(d) if axis == i64::try_from(d.len()).unwrap_or(-1) => axis,
        Some(d) => pfmc_ir::tensor::axis(axis, d.len()).map_err(Ctx::form)? as i64,
        None if axis >= 0 => axis,
        None => return Err(Ctx::form("the rank of the operand is not known")),
    };
    let shape = c.op(Op::Shape { start: 0, end: i64::MAX }, &[x])?;
    let flat = c.op(Op::Flatten { axis }, &[x])?;
    let y = f(c, flat, 1)?;
    Ok(vec![c.op(Op::Reshape { allow_zero: true }, &[y, shape])?])
}

fn softmax_along(c: &mut Ctx, x: ValueId, axis: i64, log: bool) -> R<ValueId> {
    if !log {
        return c.op(Op::Softmax { axis }, &[x]);
    }
    let top = c.reduce(Rf::Max, x, vec![axis])?;
    let x = c.bin(B::Sub, x, top)?;
    let e = c.un(U::Exp, x)?;
    let sum = c.reduce(Rf::Sum, e, vec![axis])?;
    let sum = c.un(U::Log, sum)?;
    c.bin(B::Sub, x, sum)
}

/// The precision that intermediate results of a norm are asked in, as a number of ONNX's element types.
fn stash(c: &mut Ctx) -> R<i64> {
    match c.attrs.int("stash_type")? {
        None => Ok(1),
        Some(v @ (1 | 10 | 16)) => Ok(v),
        Some(v) => Err(Ctx::value_of("stash_type", v, "1")),
    }
}

/// A shape that puts a channel vector on axis 1 of a tensor of some rank.
fn channel_shape(rank: usize) -> Vec<usize> {
    let mut shape = vec![1; rank.saturating_sub(1)];
    if let Some(first) = shape.first_mut() {
        *first = 0;
    }
    shape
}

/// A channel vector laid on axis 1.
fn on_channels(c: &mut Ctx, v: ValueId, rank: usize) -> R<ValueId> {
    let extra: Vec<i64> = (1..rank as i64 - 1).collect();
    if extra.is_empty() { Ok(v) } else { c.op(Op::Unsqueeze { axes: extra }, &[v]) }
}

fn batch_norm(c: &mut Ctx) -> R<Vec<ValueId>> {
    let epsilon = f64::from(c.attrs.float("epsilon")?.unwrap_or(1e-5));
    // The momentum only steers training.
    let momentum = f64::from(c.attrs.float("momentum")?.unwrap_or(0.9));
    let training = c.attrs.flag("training_mode", false)?;
    if !c.attrs.flag("spatial", true)? {
        return Err(Ctx::value_of("spatial", 0, "1"));
    }
    let x = c.x(0)?;
    c.floats_only(x)?;
    let rank = c.rank(x)?;
    if rank < 2 {
        return Err(Ctx::form("the operand needs a channel axis"));
    }
    if c.opset < 14 && c.output_count() > 1 {
        // There, the statistics as outputs say that the node trains.
        return Err(Ctx::form("more outputs than one mean training mode; export the model for inference"));
    }
    if training {
        return spatial::batch_norm_training(c, rank, epsilon, momentum);
    }
    let known: Option<Vec<Vec<f64>>> = (1..5)
        .map(|i| {
            let t = c.constant(i).filter(|k| k.shape.len() == 1)?.tensor().ok()?;
            Some(match t.data() {
                Data::F32(v) => v.iter().map(|&v| v.into()).collect(),
                Data::F64(v) => v.to_vec(),
                _ => return None,
            })
        })
        .collect();
    if let Some([scale, bias, mean, var]) = known.as_deref() {
        let n = scale.len();
        if [bias, mean, var].iter().any(|v| v.len() != n) {
            return Err(Ctx::form("the statistics have different lengths"));
        }
        let factor: Vec<f64> = scale.iter().zip(var).map(|(s, v)| s / (v + epsilon).sqrt()).collect();
        let shift: Vec<f64> = bias.iter().zip(mean).zip(&factor).map(|((b, m), f)| b - m * f).collect();
        let mut shape = channel_shape(rank);
        if let Some(first) = shape.first_mut() {
            *first = n;
        }
        let elem = c.elem(x);
        let tensor = |v: Vec<f64>| {
            let t = match elem {
                Elem::F64 => Tensor::new(shape.clone(), v),
                _ => Tensor::new(shape.clone(), v.into_iter().map(|v| v as f32).collect()),
            };
            t.map_err(Ctx::form)
        };
        let (factor, shift) = (tensor(factor)?, tensor(shift)?);
        let (factor, shift) = (c.make_from(&factor, 1, true), c.make_from(&shift, 2, true));
        let y = c.bin(B::Mul, x, factor)?;
        return Ok(vec![c.bin(B::Add, y, shift)?]);
    }
    let mut p = [x; 4];
    for (i, slot) in p.iter_mut().enumerate() {
        let v = c.x(i + 1)?;
        *slot = on_channels(c, v, rank)?;
    }
    let [scale, bias, mean, var] = p;
    let y = c.bin(B::Sub, x, mean)?;
    let d = c.with(B::Add, var, epsilon)?;
    let d = c.un(U::Sqrt, d)?;
    let y = c.bin(B::Div, y, d)?;
    let y = c.bin(B::Mul, y, scale)?;
    Ok(vec![c.bin(B::Add, y, bias)?])
}

fn instance_norm(c: &mut Ctx) -> R<Vec<ValueId>> {
    let epsilon = c.attrs.float("epsilon")?.unwrap_or(1e-5);
    let (x, scale, bias) = (c.x(0)?, c.x(1)?, c.x(2)?);
    c.floats_only(x)?;
    let rank = c.rank(x)?;
    if rank < 3 {
        return Err(Ctx::form("the operand needs batch, channel and spatial axes"));
    }
    let spatial: Vec<i64> = (2..rank as i64).collect();
    let mean = c.reduce(Rf::Mean, x, spatial.clone())?;
    let d = c.bin(B::Sub, x, mean)?;
    let v = c.bin(B::Mul, d, d)?;
    let v = c.reduce(Rf::Mean, v, spatial)?;
    let v = c.with(B::Add, v, epsilon.into())?;
    let v = c.un(U::Sqrt, v)?;
    let y = c.bin(B::Div, d, v)?;
    let scale = on_channels(c, scale, rank)?;
    let bias = on_channels(c, bias, rank)?;
    let y = c.bin(B::Mul, y, scale)?;
    Ok(vec![c.bin(B::Add, y, bias)?])
}

fn global_pool(c: &mut Ctx, f: Rf) -> R<Vec<ValueId>> {
    let x = c.x(0)?;
    let rank = c.rank(x)?;
    Ok(vec![c.reduce(f, x, (2..rank as i64).collect())?])
}

// Products.

fn matmul(c: &mut Ctx) -> R<Vec<ValueId>> {
    let inputs = c.all()?;
    Ok(vec![c.op(Op::MatMul {}, &inputs)?])
}

fn gemm(c: &mut Ctx) -> R<Vec<ValueId>> {
    let alpha = c.attrs.float("alpha")?.unwrap_or(1.0);
    let beta = c.attrs.float("beta")?.unwrap_or(1.0);
    let (ta, tb) = (c.attrs.flag("transA", false)?, c.attrs.flag("transB", false)?);
    let (mut a, mut b) = (c.x(0)?, c.x(1)?);
    for v in [a, b] {
        if c.dims(v).is_some_and(|d| d.len() != 2) {
            return Err(Ctx::form("the operands must have rank 2"));
        }
    }
    let transpose = Op::Transpose { perm: vec![1, 0] };
    if ta {
        a = c.op(transpose.clone(), &[a])?;
    }
    if tb {
        b = c.op(transpose, &[b])?;
    }
    let mut y = c.op(Op::MatMul {}, &[a, b])?;
    if alpha != 1.0 {
        y = c.with(B::Mul, y, alpha.into())?;
    }
    if let Some(mut bias) = c.opt(2)?.filter(|_| beta != 0.0) {
        if beta != 1.0 {
            bias = c.with(B::Mul, bias, beta.into())?;
        }
        y = c.bin(B::Add, y, bias)?;
    }
    Ok(vec![y])
}

fn conv(c: &mut Ctx) -> R<Vec<ValueId>> {
    let inputs = c.all()?;
    Ok(vec![conv_of(c, &inputs)?])
}

/// A convolution of the operands given, with the node's attributes.
fn conv_of(c: &mut Ctx, inputs: &[ValueId]) -> R<ValueId> {
    let groups = c.attrs.int("group")?.unwrap_or(1);
    let (x, w) = (inputs[0], inputs[1]);
    let (spatial, kernel) = spatial::conv_kernel(c, x, w)?;
    let mut g = spatial::Geometry::read(c, spatial)?;
    let x = g.settle(c, x, kernel)?;
    let inputs = [&[x], &inputs[1..]].concat();
    let spatial::Geometry { strides, pads, dilations, .. } = g;
    c.op(Op::Conv { strides, pads, dilations, groups }, &inputs)
}

// Constants and shapes.

fn constant(c: &mut Ctx) -> R<Vec<ValueId>> {
    if let Some(t) = c.attrs.tensor("value")? {
        c.bind_tensor(0, t);
        return Ok(Vec::new());
    }
    let t = if let Some(v) = c.attrs.float("value_float")? {
        Tensor::scalar(v)
    } else if let Some(v) = c.attrs.floats("value_floats")? {
        Tensor::vector(v.to_vec())
    } else if let Some(v) = c.attrs.int("value_int")? {
        Tensor::scalar(v)
    } else if let Some(v) = c.attrs.ints("value_ints")? {
        Tensor::vector(v)
    } else {
        return Err(Diagnostic::error(&E0105, "the constant has no supported value attribute").into());
    };
    c.bind_constant(0, &t);
    Ok(Vec::new())
}

fn constant_of_shape(c: &mut Ctx) -> R<Vec<ValueId>> {
    let fill = match c.attrs.tensor("value")? {
        Some(t) => c.one_element(t)?,
        None => Tensor::scalar(0f32),
    };
    let shape = c.i64_input(0)?;
    let fill = c.make(&fill, false);
    Ok(vec![c.op(Op::Expand {}, &[fill, shape])?])
}

fn shape(c: &mut Ctx) -> R<Vec<ValueId>> {
    let start = c.attrs.int("start")?.unwrap_or(0);
    let end = c.attrs.int("end")?.unwrap_or(i64::MAX);
    let x = c.x(0)?;
    Ok(vec![c.op(Op::Shape { start, end }, &[x])?])
}

fn size(c: &mut Ctx) -> R<Vec<ValueId>> {
    let x = c.x(0)?;
    let shape = c.op(Op::Shape { start: 0, end: i64::MAX }, &[x])?;
    Ok(vec![c.op(Op::Reduce { f: Rf::Prod, axes: vec![0], keepdims: false }, &[shape])?])
}

fn reshape(c: &mut Ctx) -> R<Vec<ValueId>> {
    let allow_zero = c.attrs.flag("allowzero", false)?;
    let x = c.x(0)?;
    let shape = c.i64_input(1)?;
    Ok(vec![c.op(Op::Reshape { allow_zero }, &[x, shape])?])
}

fn flatten(c: &mut Ctx) -> R<Vec<ValueId>> {
    let axis = c.attrs.int("axis")?.unwrap_or(1);
    let x = c.x(0)?;
    Ok(vec![c.op(Op::Flatten { axis }, &[x])?])
}

fn transpose(c: &mut Ctx) -> R<Vec<ValueId>> {
    let perm = c.attrs.ints("perm")?;
    let x = c.x(0)?;
    let perm = match perm {
        Some(p) => p,
        None => (0..c.rank(x)? as i64).rev().collect(),
    };
    Ok(vec![c.op(Op::Transpose { perm }, &[x])?])
}

fn concat(c: &mut Ctx) -> R<Vec<ValueId>> {
    let axis = c.attrs.int("axis")?.ok_or_else(|| Diagnostic::error(&E0105, "attribute axis is missing"))?;
    let inputs = c.all()?;
    if let [one] = inputs[..] {
        return Ok(vec![one]);
    }
    Ok(vec![c.op(Op::Concat { axis }, &inputs)?])
}

fn slice(c: &mut Ctx) -> R<Vec<ValueId>> {
    let (starts, ends, axes) = (c.attrs.ints("starts")?, c.attrs.ints("ends")?, c.attrs.ints("axes")?);
    let x = c.x(0)?;
    let (starts, ends) = match (starts, ends) {
        (Some(s), Some(e)) => {
            if s.len() != e.len() {
                return Err(Ctx::value_of("ends", e, "as many numbers as starts"));
            }
            (c.vector(s), c.vector(e))
        }
        (None, None) => (c.i64_input(1)?, c.i64_input(2)?),
        _ => {
            return Err(
                Diagnostic::error(&E0105, "only one of the attributes starts and ends is there").into()
            );
        }
    };
    let given = match axes {
        Some(a) => Some(c.vector(a)),
        None if c.has(3) => Some(c.i64_input(3)?),
        None => None,
    };
    let length = [Some(starts), Some(ends), given].into_iter().flatten().find_map(|v| c.length(v, 0));
    let known =
        || length.filter(|n| *n <= 64).ok_or_else(|| Ctx::form("the number of sliced axes is not known"));
    let axes = match given {
        Some(v) => v,
        None => {
            let n = known()?;
            c.vector((0..n).collect())
        }
    };
    let steps = if c.has(4) {
        c.i64_input(4)?
    } else {
        let n = known()?;
        c.vector((0..n).map(|_| 1).collect())
    };
    Ok(vec![c.op(Op::Slice {}, &[x, starts, ends, axes, steps])?])
}

fn expand(c: &mut Ctx) -> R<Vec<ValueId>> {
    let x = c.x(0)?;
    let shape = c.i64_input(1)?;
    Ok(vec![c.op(Op::Expand {}, &[x, shape])?])
}

fn tile(c: &mut Ctx) -> R<Vec<ValueId>> {
    let x = c.x(0)?;
    let repeats = c.i64_input(1)?;
    let rank = c.rank(x)? as i64;
    if rank == 0 {
        return Ok(vec![x]);
    }
    let shape = c.op(Op::Shape { start: 0, end: i64::MAX }, &[x])?;
    // Each axis d of x becomes (1, d), is repeated to (r, d) and merged to r d.
    let spread = c.op(Op::Unsqueeze { axes: (0..rank).map(|i| 2 * i).collect() }, &[x])?;
    let column = Op::Unsqueeze { axes: vec![1] };
    let (r, d) = (c.op(column.clone(), &[repeats])?, c.op(column, &[shape])?);
    let pairs = c.op(Op::Concat { axis: 1 }, &[r, d])?;
    let flat = c.vector(vec![-1]);
    let pairs = c.op(Op::Reshape { allow_zero: false }, &[pairs, flat])?;
    let spread = c.op(Op::Expand {}, &[spread, pairs])?;
    let merged = c.bin(B::Mul, repeats, shape)?;
    Ok(vec![c.op(Op::Reshape { allow_zero: true }, &[spread, merged])?])
}

fn gather(c: &mut Ctx) -> R<Vec<ValueId>> {
    let axis = c.attrs.int("axis")?.unwrap_or(0);
    let x = c.x(0)?;
    let indices = c.i64_input(1)?;
    Ok(vec![c.op(Op::Gather { axis }, &[x, indices])?])
}

fn gather_elements(c: &mut Ctx) -> R<Vec<ValueId>> {
    let axis = c.attrs.int("axis")?.unwrap_or(0);
    let x = c.x(0)?;
    let indices = c.i64_input(1)?;
    Ok(vec![c.op(Op::GatherElements { axis }, &[x, indices])?])
}

fn gather_nd(c: &mut Ctx) -> R<Vec<ValueId>> {
    let batch_dims = c.attrs.int("batch_dims")?.unwrap_or(0);
    let x = c.x(0)?;
    let indices = c.i64_input(1)?;
    Ok(vec![c.op(Op::GatherNd { batch_dims }, &[x, indices])?])
}

fn range(c: &mut Ctx) -> R<Vec<ValueId>> {
    stash(c)?;
    let inputs = c.all()?;
    for &v in &inputs[1..] {
        if c.elem(v) != c.elem(inputs[0]) {
            return Err(Ctx::form("start, limit and delta have different element types"));
        }
    }
    Ok(vec![c.op(Op::Range {}, &inputs)?])
}

fn cumsum(c: &mut Ctx) -> R<Vec<ValueId>> {
    let (exclusive, reverse) = (c.attrs.flag("exclusive", false)?, c.attrs.flag("reverse", false)?);
    let x = c.x(0)?;
    let axis = scalar_input(c, 1)?;
    Ok(vec![c.op(Op::CumSum { exclusive, reverse }, &[x, axis])?])
}

fn trilu(c: &mut Ctx) -> R<Vec<ValueId>> {
    let upper = c.attrs.flag("upper", true)?;
    let x = c.x(0)?;
    let k = if c.has(1) { scalar_input(c, 1)? } else { c.int_scalar(0) };
    Ok(vec![c.op(Op::Trilu { upper }, &[x, k])?])
}

/// An integer input as an i64 of rank 0; a vector of one element is accepted, as ONNX does.
fn scalar_input(c: &mut Ctx, i: usize) -> R<ValueId> {
    let v = c.i64_input(i)?;
    match c.dims(v).map(|d| d.len()) {
        Some(0) => Ok(v),
        Some(1) => c.op(Op::Squeeze { axes: vec![0] }, &[v]),
        None => {
            let none = c.vector(Vec::new());
            c.op(Op::Reshape { allow_zero: true }, &[v, none])
        }
        _ => Err(Fault::shape(Diagnostic::error(&E0106, format!("input {i} must be a scalar")))),
    }
}

/// The supported operators as a Markdown table, in order of domain and name.
pub fn support_table() -> String {
    let mut out = format!(
        "Opsets {MIN_OPSET} to {MAX_OPSET} of the standard domain.\n\n| operator | since opset | inputs | attributes | types of the first operand | notes |\n|---|---|---|---|---|---|\n"
    );
    let mut all: Vec<&OpInfo> = supported().collect();
    all.sort_by_key(|o| (o.domain, o.name));
    for o in all {
        let domain = if o.domain.is_empty() { String::new() } else { format!("{}::", o.domain) };
        let row = [
            &*format!("{domain}{}", o.name),
            &o.since.to_string(),
            &o.input_range(),
            &o.attributes.join(", "),
            &o.type_names(),
            o.note,
        ];
        out.push_str(&format!("| {} |\n", row.join(" | ")));
    }
    out
}
