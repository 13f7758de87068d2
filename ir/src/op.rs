//! Operations: a closed enum, so that a new one breaks every match on purpose.
//!
//! Semantics are those of the ONNX operators of the same name unless said otherwise; what ONNX
//! passes as optional inputs or per-version attributes is normalised by the importer, so that each
//! operation has one form. Broadcasting is multidirectional.

use std::fmt;

use crate::elem::Elem;
use crate::narrow::PowerOfTwo;
use crate::tile::{MatrixId, id};

id!(
    /// Index of a constant in its graph's store.
    ConstId
);
id!(
    /// Index of a region in its graph.
    RegionId
);

/// An attribute value as the text form shows it.
#[derive(Debug, Clone, PartialEq)]
pub enum Attr {
    /// `3`
    Int(i64),
    /// `[1, 2]`
    Ints(Vec<i64>),
    /// `0.5f`, shortest form that reads back to the same f32.
    Float(f32),
    /// `[0.5f, 2.0f]`
    Floats(Vec<f32>),
    /// A bare word.
    Word(String),
}

impl fmt::Display for Attr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Attr::Int(v) => write!(f, "{v}"),
            Attr::Ints(v) => write!(f, "{v:?}"),
            Attr::Float(v) => write!(f, "{v:?}f"),
            Attr::Floats(v) => {
                let shown: Vec<String> = v.iter().map(|v| format!("{v:?}f")).collect();
                write!(f, "[{}]", shown.join(", "))
            }
            Attr::Word(v) => f.write_str(v),
        }
    }
}

/// A Rust type usable as attribute.
trait AttrValue: Sized {
    fn to_attr(&self) -> Attr;
    fn from_attr(attr: Attr) -> Option<Self>;
}

impl AttrValue for i64 {
    fn to_attr(&self) -> Attr {
        Attr::Int(*self)
    }
    fn from_attr(attr: Attr) -> Option<Self> {
        if let Attr::Int(v) = attr { Some(v) } else { None }
    }
}

impl AttrValue for Vec<i64> {
    fn to_attr(&self) -> Attr {
        Attr::Ints(self.clone())
    }
    fn from_attr(attr: Attr) -> Option<Self> {
        if let Attr::Ints(v) = attr { Some(v) } else { None }
    }
}

impl AttrValue for f32 {
    fn to_attr(&self) -> Attr {
        Attr::Float(*self)
    }
    fn from_attr(attr: Attr) -> Option<Self> {
        if let Attr::Float(v) = attr { Some(v) } else { None }
    }
}

impl AttrValue for Vec<f32> {
    fn to_attr(&self) -> Attr {
        Attr::Floats(self.clone())
    }
    fn from_attr(attr: Attr) -> Option<Self> {
        match attr {
            Attr::Floats(v) => Some(v),
            // An empty list has no kind of its own in the text form.
            Attr::Ints(v) if v.is_empty() => Some(Vec::new()),
            _ => None,
        }
    }
}

impl AttrValue for bool {
    fn to_attr(&self) -> Attr {
        Attr::Int(i64::from(*self))
    }
    fn from_attr(attr: Attr) -> Option<Self> {
        match attr {
            Attr::Int(0) => Some(false),
            Attr::Int(1) => Some(true),
            _ => None,
        }
    }
}

impl AttrValue for Elem {
    fn to_attr(&self) -> Attr {
        Attr::Word(self.name().to_owned())
    }
    fn from_attr(attr: Attr) -> Option<Self> {
        if let Attr::Word(v) = attr { v.parse().ok() } else { None }
    }
}

impl AttrValue for PowerOfTwo {
    fn to_attr(&self) -> Attr {
        let word = match self {
            PowerOfTwo::Nearest => "nearest",
            PowerOfTwo::Up => "up",
            PowerOfTwo::Down => "down",
        };
        Attr::Word(word.to_owned())
    }
    fn from_attr(attr: Attr) -> Option<Self> {
        match attr {
            Attr::Word(w) if w == "nearest" => Some(PowerOfTwo::Nearest),
            Attr::Word(w) if w == "up" => Some(PowerOfTwo::Up),
            Attr::Word(w) if w == "down" => Some(PowerOfTwo::Down),
            _ => None,
        }
    }
}

macro_rules! id_attr {
    ($($t:ident)*) => {$(
        impl AttrValue for $t {
            fn to_attr(&self) -> Attr { Attr::Int(i64::from(self.0)) }
            fn from_attr(attr: Attr) -> Option<Self> {
                if let Attr::Int(v) = attr { u32::try_from(v).ok().map($t) } else { None }
            }
        }
    )*};
}
id_attr!(ConstId MatrixId RegionId);

macro_rules! functions {
    ($(#[$doc:meta])* $name:ident { $($variant:ident $text:literal $vdoc:literal)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $(#[doc = $vdoc] $variant),* }

        impl $name {
            /// All of them.
            pub const ALL: &[$name] = &[$($name::$variant),*];
            /// Name in the text form.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text),* }
            }
        }
    };
}

functions!(
    /// Element-wise functions of one tensor; the result has the input's element type.
    UnaryFn {
        Neg "neg" "-x" Abs "abs" "|x|" Sqrt "sqrt" "Square root" Reciprocal "reciprocal" "1/x"
        Exp "exp" "e^x" Log "log" "Natural logarithm" Erf "erf" "Gauss error function"
        Sin "sin" "Sine" Cos "cos" "Cosine" Tanh "tanh" "Hyperbolic tangent"
        Sigmoid "sigmoid" "1/(1+e^-x)" Relu "relu" "max(x, 0)" Not "not" "Logical not"
        Floor "floor" "Largest integer not above" Ceil "ceil" "Smallest integer not below"
        Round "round" "Nearest integer, ties to even" Sign "sign" "-1, 0 or 1"
        Gelu "gelu" "x/2 (1 + erf(x / sqrt 2))"
        GeluTanh "gelu_tanh" "x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))"
        Silu "silu" "x/(1+e^-x)"
        Acos "acos" "Inverse cosine" Acosh "acosh" "Inverse hyperbolic cosine"
        Asin "asin" "Inverse sine" Asinh "asinh" "Inverse hyperbolic sine"
        Atan "atan" "Inverse tangent" Atanh "atanh" "Inverse hyperbolic tangent"
        Cosh "cosh" "Hyperbolic cosine" Sinh "sinh" "Hyperbolic sine" Tan "tan" "Tangent"
        BitNot "bit_not" "Every bit of an integer inverted"
    }
);
functions!(
    /// Element-wise functions of two tensors with broadcasting. Comparisons give bool, the others
    /// the inputs' common element type; `pow` the base's.
    BinaryFn {
        Add "add" "a + b" Sub "sub" "a - b" Mul "mul" "a b"
        Div "div" "a / b; integers truncate towards zero" Pow "pow" "a to the power b"
        Max "max" "Larger, NaN if either is" Min "min" "Smaller, NaN if either is"
        Mod "mod" "Remainder with the divisor's sign" Fmod "fmod" "Remainder with the dividend's sign"
        Equal "equal" "a = b" Greater "greater" "a > b" GreaterEqual "greater_equal" "a >= b"
        Less "less" "a < b" LessEqual "less_equal" "a <= b"
        And "and" "Logical and" Or "or" "Logical or" Xor "xor" "Logical exclusive or"
        BitAnd "bit_and" "Bits of integers that both have" BitOr "bit_or" "Bits that either has"
        BitXor "bit_xor" "Bits that one of them has"
        ShiftLeft "shift_left" "Bits of an unsigned integer moved up; 0 when all are moved out"
        ShiftRight "shift_right" "Bits of an unsigned integer moved down; 0 when all are moved out"
    }
);
functions!(
    /// Reductions.
    ReduceFn {
        Mean "reduce_mean" "Mean" Sum "reduce_sum" "Sum" Max "reduce_max" "Largest"
        Min "reduce_min" "Smallest" Prod "reduce_prod" "Product"
    }
);

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident { $($body:tt)* })*) => {$(
        functions!($(#[$doc])* $name { $($body)* });

        impl AttrValue for $name {
            fn to_attr(&self) -> Attr { Attr::Word(self.name().to_owned()) }
            fn from_attr(attr: Attr) -> Option<Self> {
                match attr {
                    Attr::Word(w) => $name::ALL.iter().copied().find(|v| v.name() == w),
                    _ => None,
                }
            }
        }
    )*};
}
words! {
    /// What a pooling does with the elements of a window.
    PoolFn {
        Max "max" "Largest that is not padding" Mean "mean" "Mean of those that are not padding"
        MeanPadded "mean_padded" "Mean, padding counting as zeros" Sum "sum" "Sum"
    }
    /// Where the padding of windows comes from.
    AutoPad {
        Given "given" "The `pads` attribute"
        Upper "same_upper" "As much as ceil(length / stride) windows need, the larger half at the end"
        Lower "same_lower" "As much as ceil(length / stride) windows need, the larger half at the begin"
    }
    /// What padding is filled with.
    PadMode {
        Constant "constant" "A number" Edge "edge" "The nearest element"
        Reflect "reflect" "Mirrored at the outermost elements, which are not repeated"
        Wrap "wrap" "Periodic continuation"
    }
    /// How values between elements are found.
    Interpolation {
        Nearest "nearest" "The nearest element" Linear "linear" "Between 2 neighbours an axis"
        Cubic "cubic" "Between 4 neighbours an axis (Keys 1981)"
    }
    /// Where the elements of a resized axis lie on the original one; see the ONNX operator Resize.
    Coordinates {
        HalfPixel "half_pixel" "Both axes cover the same span"
        HalfPixelSymmetric "half_pixel_symmetric" "As `half_pixel`, centred when the scaled length is no integer"
        PytorchHalfPixel "pytorch_half_pixel" "As `half_pixel`; a result of length 1 lies at the begin"
        AlignCorners "align_corners" "The first and last elements coincide"
        Asymmetric "asymmetric" "Position divided by the scale"
        TfHalfPixel "tf_half_pixel_for_nn" "Position and a half, divided by the scale (before opset 13)"
        CropAndResize "tf_crop_and_resize" "A region of interest is resized"
    }
    /// Which element is the nearest.
    NearestFn {
        PreferFloor "round_prefer_floor" "Nearest, ties to the lower"
        PreferCeil "round_prefer_ceil" "Nearest, ties to the higher"
        Floor "floor" "The lower" Ceil "ceil" "The higher"
        Simple "simple" "The lower where the axis grows, the higher where it shrinks (before opset 11)"
    }
    /// How sizes of a resize bind.
    AspectRatio {
        Stretch "stretch" "Each as it is" NotLarger "not_larger" "One scale; no axis is larger"
        NotSmaller "not_smaller" "One scale; no axis is smaller"
    }
    /// What lies beyond the elements of an axis that is sampled.
    Border {
        Zeros "zeros" "Zeros" Edge "border" "The nearest element" Reflection "reflection" "Mirrored"
    }
}

functions!(
    /// What a scatter does with an element and its update.
    ScatterFn {
        Replace "replace" "The update" Add "add" "Their sum" Mul "mul" "Their product"
        Max "max" "The larger, NaN if either is" Min "min" "The smaller, NaN if either is"
    }
);

macro_rules! function_attr {
    ($($t:ident)*) => {$(
        impl AttrValue for $t {
            fn to_attr(&self) -> Attr { Attr::Word(self.name().to_owned()) }
            fn from_attr(attr: Attr) -> Option<Self> {
                let Attr::Word(w) = attr else { return None };
                $t::ALL.iter().copied().find(|f| f.name() == w)
            }
        }
    )*};
}
function_attr!(ReduceFn ScatterFn);

impl BinaryFn {
    /// Whether the result is bool whatever the inputs are.
    pub fn is_comparison(self) -> bool {
        use BinaryFn as B;
        matches!(self, B::Equal | B::Greater | B::GreaterEqual | B::Less | B::LessEqual)
    }
}

macro_rules! ops {
    ($($variant:ident $text:literal ($lo:literal..=$hi:expr => $outs:literal) $doc:literal { $($field:ident : $ty:ty),* })*) => {
        /// An operation with its static attributes. Its tensors are the node's inputs and outputs.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Op {
            /// Element-wise function of one tensor.
            Unary(UnaryFn),
            /// Element-wise function of two tensors.
            Binary(BinaryFn),
            /// Reduction over `axes` (ascending, non-negative; all axes are listed).
            Reduce {
                /// Which.
                f: ReduceFn,
                /// Reduced axes, counted from the end when negative; empty reduces none.
                axes: Vec<i64>,
                /// Whether reduced axes stay with length 1.
                keepdims: bool,
            },
            $(
                #[doc = $doc]
                $variant { $(#[doc = concat!("`", stringify!($field), "` in the text form.")] $field: $ty),* }
            ),*
        }

        impl Op {
            /// Name in the text form.
            pub fn name(&self) -> &'static str {
                match self {
                    Op::Unary(f) => f.name(),
                    Op::Binary(f) => f.name(),
                    Op::Reduce { f, .. } => f.name(),
                    $(Op::$variant { .. } => $text),*
                }
            }

            /// Fewest and most inputs, and the number of outputs (0: as many as its `sizes`).
            pub fn arity(&self) -> (usize, usize, usize) {
                match self {
                    Op::Unary(_) | Op::Reduce { .. } => (1, 1, 1),
                    Op::Binary(_) => (2, 2, 1),
                    $(Op::$variant { .. } => ($lo, $hi, $outs)),*
                }
            }

            /// Attributes by name, in a fixed order.
            pub fn attrs(&self) -> Vec<(&'static str, Attr)> {
                match self {
                    Op::Unary(_) | Op::Binary(_) => Vec::new(),
                    Op::Reduce { axes, keepdims, .. } => {
                        vec![("axes", axes.to_attr()), ("keepdims", keepdims.to_attr())]
                    }
                    $(Op::$variant { $($field),* } => vec![$((stringify!($field), $field.to_attr())),*]),*
                }
            }

            /// The operation of a text-form name and attributes.
            ///
            /// # Errors
            /// An unknown name, or an attribute missing, unknown or of the wrong kind.
            pub fn from_text(name: &str, mut attrs: Vec<(String, Attr)>) -> Result<Op, String> {
                #[allow(unused_mut)]
                let mut take = |key: &str| {
                    let at = attrs.iter().position(|(k, _)| k == key);
                    at.map(|i| attrs.swap_remove(i).1).ok_or_else(|| format!("{name} needs attribute {key}"))
                };
                fn get<T: AttrValue>(name: &str, key: &str, attr: Attr) -> Result<T, String> {
                    let shown = attr.to_string();
                    T::from_attr(attr).ok_or_else(|| format!("{shown} is no value for attribute {key} of {name}"))
                }
                let op = if let Some(&f) = UnaryFn::ALL.iter().find(|f| f.name() == name) {
                    Op::Unary(f)
                } else if let Some(&f) = BinaryFn::ALL.iter().find(|f| f.name() == name) {
                    Op::Binary(f)
                } else if let Some(&f) = ReduceFn::ALL.iter().find(|f| f.name() == name) {
                    Op::Reduce {
                        f,
                        axes: get(name, "axes", take("axes")?)?,
                        keepdims: get(name, "keepdims", take("keepdims")?)?,
                    }
                } else {
                    match name {
                        $($text => Op::$variant {
                            $($field: get(name, stringify!($field), take(stringify!($field))?)?),*
                        },)*
                        _ => return Err(format!("unknown operation {name:?}")),
                    }
                };
                match attrs.first() {
                    Some((key, _)) => Err(format!("{name} has no attribute {key}")),
                    None => Ok(op),
                }
            }
        }
    };
}

ops! {
    Input "input" (0..=0 => 1) "A graph input." {}
    Constant "const" (0..=0 => 1) "A constant of the graph's store." { id: ConstId }
    Cast "cast" (1..=1 => 1) "Converts elements; float to integer truncates towards zero and saturates, to bool is `!= 0`." { to: Elem }
    CastRounded "cast_rounded" (1..=1 => 1) "Converts to a narrow type: what is too large becomes the largest finite value (`saturate`) or infinity or NaN, and powers of two are rounded as `power` says. `cast` saturates and rounds powers of two up." { to: Elem, saturate: bool, power: PowerOfTwo }
    Quantize "quantize" (2..=3 => 1) "x, scale, optional zero point of type `to`: x / scale rounded (ties to even), plus the zero point, saturated to integers or narrow floats. One scale, a vector along `axis`, or with `block` > 0 one for `block` elements along `axis` (same rank)." { axis: i64, block: i64, to: Elem, saturate: bool }
    Dequantize "dequantize" (2..=3 => 1) "x, scale, optional zero point of x's type: (x - zero point) scale; scales as in `quantize`." { axis: i64, block: i64, to: Elem }
    Where "where" (3..=3 => 1) "Condition (bool), a, b: a where true, with broadcasting." {}
    Softmax "softmax" (1..=1 => 1) "Softmax along `axis`." { axis: i64 }
    LayerNorm "layer_norm" (2..=3 => 1) "x, gain, optional bias: normalises over the axes from `axis` on." { axis: i64, epsilon: f32 }
    RmsNorm "rms_norm" (2..=2 => 1) "x, gain: divides by the root of the mean square over the axes from `axis` on, plus epsilon." { axis: i64, epsilon: f32 }
    Rotary "rotary" (3..=3 => 1) "x [.., D], cos, sin: turns pairs of the first `dim` elements of the last axis, (i, i + dim/2) or with `interleaved` (2i, 2i + 1); the others stay. cos and sin broadcast to x's leading axes and have one entry an element (`dim`) or a pair (`dim/2`): (a, b) becomes (a cos - b sin, b cos + a sin)." { interleaved: bool, dim: i64 }
    Attention "attention" (3..=4 => 1) "q [.., H, S, D], k [.., G, T, D], v [.., G, T, E], optional mask: softmax(scale q k^T, capped to softcap tanh(s / softcap) where softcap > 0, plus mask) v, [.., H, S, E]. Each H / G heads share a k and v. The mask broadcasts to [.., H, S, T] and is added, or is bool and false hides. `causal`: query i sees the keys up to i + T - S." { scale: f32, causal: bool, softcap: f32 }
    MatMul "matmul" (2..=2 => 1) "Matrix product with broadcast leading axes; rank-1 operands as in ONNX." {}
    Conv "conv" (2..=3 => 1) "x [B, C, spatial], w [O, C / groups, kernel], optional bias [O]. `pads` are begins then ends; all lists have one entry a spatial axis (`pads` two)." { strides: Vec<i64>, pads: Vec<i64>, dilations: Vec<i64>, groups: i64 }
    Patches "patches" (1..=1 => 1) "x [B, C, spatial] to [B, output spatial, C * kernel]: the windows a convolution multiplies with its weights, channel outermost." { kernel: Vec<i64>, strides: Vec<i64>, pads: Vec<i64>, dilations: Vec<i64> }
    Shape "shape" (1..=1 => 1) "Lengths of the axes `start..end` as i64 [n]." { start: i64, end: i64 }
    Reshape "reshape" (2..=2 => 1) "x, shape (i64): -1 once is inferred; 0 copies the input's length unless `allow_zero`." { allow_zero: bool }
    Flatten "flatten" (1..=1 => 1) "To rank 2, split before `axis`." { axis: i64 }
    Transpose "transpose" (1..=1 => 1) "Output axis i is input axis `perm[i]`." { perm: Vec<i64> }
    Concat "concat" (1..=usize::MAX => 1) "Joins along `axis`." { axis: i64 }
    Slice "slice" (5..=5 => 1) "x, starts, ends, axes, steps (i64 vectors), clamped as in ONNX." {}
    Split "split" (1..=1 => 0) "Cuts `axis` into pieces of `sizes`." { axis: i64, sizes: Vec<i64> }
    SplitEqual "split_equal" (1..=1 => 0) "Cuts `axis` into as many equal pieces as there are outputs, the last smaller when uneven." { axis: i64, parts: i64 }
    Squeeze "squeeze" (1..=1 => 1) "Drops the axes, all of length 1." { axes: Vec<i64> }
    Unsqueeze "unsqueeze" (1..=1 => 1) "Inserts axes of length 1 at these positions of the output." { axes: Vec<i64> }
    Expand "expand" (2..=2 => 1) "x, shape (i64): broadcasts both ways." {}
    Gather "gather" (2..=2 => 1) "x, indices: x's slices along `axis`; negative indices count from the end." { axis: i64 }
    GatherElements "gather_elements" (2..=2 => 1) "x, indices of the same rank: one element an index along `axis`." { axis: i64 }
    GatherNd "gather_nd" (2..=2 => 1) "x, indices whose last axis is a coordinate." { batch_dims: i64 }
    Range "range" (3..=3 => 1) "start, limit, delta (scalars)." {}
    CumSum "cumsum" (2..=2 => 1) "x, axis (i64 scalar): running sum." { exclusive: bool, reverse: bool }
    CumProd "cumprod" (2..=2 => 1) "x, axis (i64 scalar): running product." { exclusive: bool, reverse: bool }
    ReduceOver "reduce_over" (2..=2 => 1) "x, axes (i64 vector): the reduction `f`; without axes over all, or over none with `noop`." { f: ReduceFn, keepdims: bool, noop: bool }
    SqueezeAt "squeeze_at" (1..=2 => 1) "x, axes (i64 vector): drops the axes, all of length 1; without axes every axis of length 1." {}
    UnsqueezeAt "unsqueeze_at" (2..=2 => 1) "x, axes (i64 vector): inserts axes of length 1 at these positions of the output." {}
    SplitAt "split_at" (2..=2 => 0) "x, sizes (i64 vector of `parts`): cuts `axis` into pieces." { axis: i64, parts: i64 }
    ArgReduce "arg_reduce" (1..=1 => 1) "Index along `axis` of the largest element, or the smallest, i64; of equal ones the first or the `last`. A NaN is found before any number." { axis: i64, keepdims: bool, largest: bool, last: bool }
    TopK "top_k" (2..=2 => 2) "x, k (one i64): the k largest elements along `axis`, or smallest, in that order, and their indices (i64). Of equal ones the first comes first; NaN is above every number." { axis: i64, largest: bool }
    ScatterElements "scatter_elements" (3..=3 => 1) "x, updates, indices of the updates' shape: x with one element an index along `axis` changed, in the order of the updates." { axis: i64, f: ScatterFn }
    ScatterNd "scatter_nd" (3..=3 => 1) "x, updates, indices whose last axis is a coordinate: x with slices changed, in the order of the updates." { f: ScatterFn }
    NonZero "non_zero" (1..=1 => 1) "Coordinates of the elements that are not 0, row-major: i64 [rank, n]." {}
    Unique "unique" (1..=1 => 4) "The different slices along `axis`, ascending (NaN last) or in order of appearance; index of the first of each, which of them each slice is, and how often each occurs (i64)." { axis: i64, sorted: bool }
    BitCast "bit_cast" (1..=1 => 1) "The same bits as another element type of that size." { to: Elem }
    Det "det" (1..=1 => 1) "Determinants of [.., n, n]." {}
    Dft "dft" (2..=3 => 1) "x [.., 1 or 2] (real, or real and imaginary parts), axis (i64 scalar), optional length (i64 scalar), to which x is cut or filled with zeros: discrete Fourier transform, with 1 / length when `inverse`. `onesided`: the first half of a real signal's spectrum, or the real signal of such a half." { inverse: bool, onesided: bool }
    MelWeights "mel_weights" (5..=5 => 1) "Bins, length of the transform, sample rate (integers), lower and upper edge in hertz (scalars): triangular filters [length / 2 + 1, bins] as in ONNX MelWeightMatrix." { to: Elem }
    Trilu "trilu" (2..=2 => 1) "x, k (i64 scalar): keeps the upper or lower triangle of the last two axes." { upper: bool }
    If "if" (1..=usize::MAX => 0) "Condition (bool scalar), then what both regions read: the outputs of one of two regions, which compute `results` values each." { then_region: RegionId, else_region: RegionId, results: i64 }
    Loop "loop" (2..=usize::MAX => 0) "Trip count (i64 scalar), condition (bool scalar), `carried` values, then what the body reads besides. The body takes the iteration (i64 scalar), the condition and the same values, and gives the next condition, the next carried values and elements of scans. Results: the carried values, then each scan's elements along a new first axis." { body: RegionId, carried: i64, results: i64 }
    Pool "pool" (1..=1 => 1) "x [B, C, spatial]: `f` over windows of `kernel`, which leave padding out. `pads` are begins then ends and hold for `auto = given`; `ceil` keeps a last window that reaches beyond the padding." { f: PoolFn, kernel: Vec<i64>, strides: Vec<i64>, pads: Vec<i64>, dilations: Vec<i64>, ceil: bool, auto: AutoPad }
    MaxPoolIndexed "max_pool_indexed" (1..=1 => 2) "As `pool` of `max`, and the position of each result in the flat x; with `column_major` as if the first spatial axis ran fastest." { kernel: Vec<i64>, strides: Vec<i64>, pads: Vec<i64>, dilations: Vec<i64>, ceil: bool, auto: AutoPad, column_major: bool }
    MaxUnpool "max_unpool" (2..=3 => 1) "x, indices of `max_pool_indexed`, optional output shape (i64): zeros but for x's elements at the indices, which count in the shape that windows and x imply." { kernel: Vec<i64>, strides: Vec<i64>, pads: Vec<i64> }
    ConvTranspose "conv_transpose" (2..=3 => 1) "x [B, C, spatial], w [C, O / groups, kernel], optional bias [O]: the gradient of a convolution. Ends of `pads` may be negative. With `output` lengths, `pads` follow from them, the larger half at the end for `auto = same_upper`, else at the begin." { strides: Vec<i64>, pads: Vec<i64>, dilations: Vec<i64>, groups: i64, output_padding: Vec<i64>, output: Vec<i64>, auto: AutoPad }
    DeformConv "deform_conv" (3..=5 => 1) "x [B, C, H, W], w, offsets [B, offset_groups * kernel * 2, out], bias if `biased`, optional mask [B, offset_groups * kernel, out]: a convolution whose taps are moved and read by linear interpolation." { strides: Vec<i64>, pads: Vec<i64>, dilations: Vec<i64>, groups: i64, offset_groups: i64, biased: bool }
    Col2Im "col2im" (3..=3 => 1) "x [B, C * block, L], image shape (i64), block shape (i64): sums blocks into images [B, C, image]." { strides: Vec<i64>, pads: Vec<i64>, dilations: Vec<i64> }
    Pad "pad" (2..=3 => 1) "x, pads (i64: begins then ends of `axes`; negative ones cut), number to fill with, by default 0. No `axes`: all." { mode: PadMode, axes: Vec<i64> }
    Resize "resize" (1..=3 => 1) "x, then sizes (i64) or scales (f64) of `axes` unless `scales` is given, then the region (f64, starts then ends of `axes`) for tf_crop_and_resize. No `axes`: all. See the ONNX operator." { mode: Interpolation, coordinates: Coordinates, nearest: NearestFn, cubic: f32, exclude_outside: bool, extrapolation: f32, antialias: bool, aspect: AspectRatio, axes: Vec<i64>, scales: Vec<f32> }
    GridSample "grid_sample" (2..=2 => 1) "x [B, C, spatial], grid [B, out, rank], coordinates from -1 to 1, last axis first: [B, C, out]." { mode: Interpolation, border: Border, align_corners: bool }
    AffineGrid "affine_grid" (2..=2 => 1) "theta [B, 2, 3] or [B, 3, 4], size (i64: B, C, spatial): the grid of an affine map, [B, spatial, 2 or 3]." { align_corners: bool }
    RoiAlign "roi_align" (3..=3 => 1) "x [B, C, H, W], boxes [n, 4], batch indices [n]: means or maxima of linearly interpolated samples of `height` by `width` bins. `sampling` 0: as many samples an axis as a bin is long." { max: bool, half_pixel: bool, height: i64, width: i64, sampling: i64, scale: f32 }
    MaxRoiPool "max_roi_pool" (2..=2 => 1) "x [B, C, H, W], boxes [n, 5] of batch index and corners: maxima of `height` by `width` bins; empty bins give 0." { height: i64, width: i64, scale: f32 }
    NonMaxSuppression "non_max_suppression" (4..=5 => 1) "boxes [B, n, 4], scores [B, classes, n], most boxes a class (i64), overlap, optional least score: [selected, 3] of batch, class and box." { center: bool }
    FixedLinear "fixed_linear" (1..=1 => 1) "x [.., k] times a fixed matrix [k, n]. With codes: int8 activations a row and exact integer sums; see `numerics`." { matrix: MatrixId, k: i64, n: i64 }
    FixedGrouped "fixed_grouped" (1..=1 => 1) "x [.., groups, k] times the columns of a fixed matrix [k, n] that belong to each group: [.., n]. Column j belongs to group j / (n / groups). With codes: int8 activations, one scale for a group's k inputs, and exact integer sums." { matrix: MatrixId, k: i64, n: i64, groups: i64 }
    FixedLookup "fixed_lookup" (1..=1 => 1) "Indices (i64) to columns of a fixed matrix [k, n]: [.., k]. An embedding table stored with one column an entry, which a tied output product shares." { matrix: MatrixId, k: i64, n: i64 }
}

impl Op {
    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        match self {
            Op::Split { sizes, .. } => sizes.len(),
            Op::SplitEqual { parts, .. } | Op::SplitAt { parts, .. } => usize::try_from(*parts).unwrap_or(0),
            Op::If { results, .. } | Op::Loop { results, .. } => usize::try_from(*results).unwrap_or(0),
            other => other.arity().2,
        }
    }

    /// The operands, of `operands`, that it only moves: their elements appear in its result
    /// unchanged, so that they may have any type.
    pub fn moves(&self, operands: usize) -> std::ops::Range<usize> {
        match self {
            Op::Reshape { .. }
            | Op::Flatten { .. }
            | Op::Transpose { .. }
            | Op::Slice {}
            | Op::Split { .. }
            | Op::SplitEqual { .. }
            | Op::Squeeze { .. }
            | Op::Unsqueeze { .. }
            | Op::Expand {}
            | Op::Gather { .. }
            | Op::GatherElements { .. }
            | Op::GatherNd { .. }
            | Op::SqueezeAt {}
            | Op::UnsqueezeAt {}
            | Op::SplitAt { .. }
            | Op::Trilu { .. }
            | Op::Pad { .. } => 0..1,
            Op::ScatterElements { f: ScatterFn::Replace, .. } | Op::ScatterNd { f: ScatterFn::Replace } => {
                0..2
            }
            Op::Concat { .. } => 0..operands,
            Op::Where {} => 1..operands,
            _ => 0..0,
        }
    }

    /// Whether it takes operands of any type without moving them.
    pub fn converts(&self) -> bool {
        matches!(
            self,
            Op::Cast { .. }
                | Op::CastRounded { .. }
                | Op::Quantize { .. }
                | Op::Dequantize { .. }
                | Op::Shape { .. }
                | Op::BitCast { .. }
        )
    }

    /// The regions it runs.
    pub fn regions(&self) -> Vec<RegionId> {
        match self {
            Op::If { then_region, else_region, .. } => vec![*then_region, *else_region],
            Op::Loop { body, .. } => vec![*body],
            _ => Vec::new(),
        }
    }

    /// The regions it runs, to change.
    pub fn regions_mut(&mut self) -> Vec<&mut RegionId> {
        match self {
            Op::If { then_region, else_region, .. } => vec![then_region, else_region],
            Op::Loop { body, .. } => vec![body],
            _ => Vec::new(),
        }
    }

    /// The fixed matrix it uses.
    pub fn matrix(&self) -> Option<MatrixId> {
        match self {
            Op::FixedLinear { matrix, .. }
            | Op::FixedGrouped { matrix, .. }
            | Op::FixedLookup { matrix, .. } => Some(*matrix),
            _ => None,
        }
    }
}
