//! Reference kernels: what every operation means, executed on dense tensors.
//!
//! [`eval`] follows the ONNX operator of the same name (opset 18) in the normal form that
//! [`Op`] documents. Results are the same for any number of threads and any processor: work is
//! divided over outputs, never over a sum, and floating-point products use fused multiply-adds in
//! ascending order of k. Unfit inputs are errors, never panics.

mod approx;
mod attention;
mod boxes;
mod conv;
mod elementwise;
mod gather;
pub(crate) mod integer;
mod layout;
pub mod matmul;
mod panels;
mod pool;
mod quantise;
mod reduce;
mod resample;
mod scatter;
mod select;
mod signal;
mod transposed;
mod walk;

pub use quantise::Granularity;
use rayon::prelude::*;

use crate::elem::Elem;
use crate::op::Op;
use crate::tensor::{Data, Element, Tensor, count};
use crate::windows;

/// Most bytes one output may have.
const MAX_BYTES: usize = 1 << 40;

/// Elements one task computes.
const CHUNK: usize = 1 << 14;

/// Elements one task of an element-wise function computes.
const ELEMENTS: usize = 1 << 15;

/// Evaluates an operation that computes its outputs from its inputs alone.
///
/// # Errors
/// Inputs the operation does not admit (number, element type, shape, index or axis out of range), an
/// output of more than 2^40 bytes or more than memory holds, and the operations that need more than
/// their inputs: `input`, `const`, `if`, `loop` and those that use a fixed matrix.
pub fn eval(op: &Op, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
    let (least, most, _) = op.arity();
    if !(least..=most).contains(&inputs.len()) {
        return Err(format!("{} of {} inputs", op.name(), inputs.len()));
    }
    typed(op, inputs).map_err(|e| format!("{}: {e}", op.name()))
}

/// As [`eval`], of inputs that nothing needs afterwards: a result may take the place of one that
/// nothing else shares. The results are the same.
///
/// # Errors
/// As [`eval`].
pub fn eval_owned(op: &Op, mut inputs: Vec<Tensor>) -> Result<Vec<Tensor>, String> {
    match elementwise::in_place(op, &mut inputs) {
        Some(result) => Ok(vec![result]),
        None => eval(op, &inputs),
    }
}

/// Runs code that the compiler may turn into the widest vector instructions there are.
#[inline(always)]
pub(crate) fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// Reduces element types to those the kernels have: codes that are only moved are bytes, and
/// arithmetic on halves is that of f32 with its result rounded.
fn typed(op: &Op, x: &[Tensor]) -> Result<Vec<Tensor>, String> {
    let moved = op.moves(x.len());
    let special = |t: &Tensor| if moved.is_empty() { t.elem().is_half() } else { t.elem().is_code() };
    let Some(elem) = x.iter().find(|t| special(t)).map(Tensor::elem) else { return outputs(op, x) };
    if op.converts() {
        return outputs(op, x);
    }
    if moved.is_empty() {
        if let Some(other) =
            x.iter().find(|t| t.elem() != elem && (t.elem().is_half() || t.elem() == Elem::F32))
        {
            return Err(format!("operands are {elem} and {}", other.elem()));
        }
        let widen =
            |t: &Tensor| if t.elem() == elem { elementwise::cast(t, Elem::F32) } else { Ok(t.clone()) };
        let wide: Vec<Tensor> = x.iter().map(widen).collect::<Result<_, _>>()?;
        let round = |t: Tensor| if t.elem() == Elem::F32 { elementwise::cast(&t, elem) } else { Ok(t) };
        return outputs(op, &wide)?.into_iter().map(round).collect();
    }
    if x[moved.clone()].iter().any(|t| t.elem() != elem) {
        return Err(format!("not all operands are {elem}"));
    }
    let bytes: Vec<Tensor> = x
        .iter()
        .map(|t| match t.data() {
            Data::Code(_, codes) => Tensor::from_data(t.shape().to_vec(), Data::U8(codes.clone())),
            _ => Ok(t.clone()),
        })
        .collect::<Result<_, _>>()?;
    let back = |t: Tensor| match t.data() {
        Data::U8(codes) => Tensor::from_data(t.shape().to_vec(), Data::Code(elem, codes.clone())),
        _ => Ok(t),
    };
    outputs(op, &bytes)?.into_iter().map(back).collect()
}

fn outputs(op: &Op, x: &[Tensor]) -> Result<Vec<Tensor>, String> {
    let one = match op {
        Op::Input {}
        | Op::Constant { .. }
        | Op::If { .. }
        | Op::Loop { .. }
        | Op::FixedLinear { .. }
        | Op::FixedGrouped { .. }
        | Op::FixedLookup { .. } => {
            return Err("is not computed from its inputs alone".into());
        }
        Op::Pool { f, kernel, strides, pads, dilations, ceil, auto } => {
            pool::pool(&x[0], *f, &windows::spans(kernel, strides, pads, dilations, false)?, *ceil, *auto)?
        }
        Op::MaxPoolIndexed { kernel, strides, pads, dilations, ceil, auto, column_major } => {
            let spans = windows::spans(kernel, strides, pads, dilations, false)?;
            return pool::indexed(&x[0], &spans, *ceil, *auto, *column_major);
        }
        Op::MaxUnpool { kernel, strides, pads } => {
            let spans = windows::spans(kernel, strides, pads, &vec![1; kernel.len()], false)?;
            pool::unpool(&x[0], &x[1], x.get(2), &spans)?
        }
        Op::ConvTranspose { .. } => transposed::conv_transpose(op, x)?,
        Op::DeformConv { .. } => transposed::deform_conv(op, x)?,
        Op::Col2Im { strides, pads, dilations } => {
            transposed::col2im(&x[0], &x[1], &x[2], (strides, pads, dilations))?
        }
        Op::Pad { mode, axes } => resample::pad(&x[0], &x[1], x.get(2), *mode, axes)?,
        Op::Resize { .. } => resample::resize(op, x)?,
        Op::GridSample { mode, border, align_corners } => {
            resample::grid_sample(&x[0], &x[1], *mode, *border, *align_corners)?
        }
        Op::AffineGrid { align_corners } => resample::affine_grid(&x[0], &x[1], *align_corners)?,
        Op::RoiAlign { .. } => boxes::roi_align(op, x)?,
        Op::MaxRoiPool { height, width, scale } => {
            boxes::max_roi_pool(&x[0], &x[1], (*height, *width), *scale)?
        }
        Op::NonMaxSuppression { center } => boxes::non_max_suppression(x, *center)?,
        Op::Split { axis, sizes } => return layout::split(&x[0], *axis, sizes),
        Op::SplitEqual { axis, parts } => return layout::split_equal(&x[0], *axis, *parts),
        Op::SplitAt { axis, parts } => return layout::split_at(&x[0], &x[1], *axis, *parts),
        Op::TopK { axis, largest } => return select::top_k(&x[0], &x[1], *axis, *largest),
        Op::Unique { axis, sorted } => return select::unique(&x[0], *axis, *sorted),
        Op::Unary(f) => elementwise::unary(*f, &x[0])?,
        Op::Binary(f) => elementwise::binary(*f, &x[0], &x[1])?,
        Op::Reduce { f, axes, keepdims } => reduce::reduce(*f, &x[0], axes, *keepdims)?,
        Op::Cast { to } => elementwise::cast(&x[0], *to)?,
        Op::CastRounded { to, saturate, power } => elementwise::cast_rounded(&x[0], *to, *saturate, *power)?,
        Op::Quantize { axis, block, to, saturate } => {
            quantise::quantize(&x[0], &x[1], x.get(2), (*axis, *block), *to, *saturate)?
        }
        Op::Dequantize { axis, block, to } => {
            quantise::dequantize(&x[0], &x[1], x.get(2), (*axis, *block), *to)?
        }
        Op::Where {} => elementwise::select(&x[0], &x[1], &x[2])?,
        Op::Softmax { axis } => reduce::softmax(&x[0], *axis)?,
        Op::LayerNorm { axis, epsilon } => reduce::layer_norm(&x[0], &x[1], x.get(2), *axis, *epsilon)?,
        Op::RmsNorm { axis, epsilon } => reduce::rms_norm(&x[0], &x[1], *axis, *epsilon)?,
        Op::Rotary { interleaved, dim } => attention::rotary(&x[0], &x[1], &x[2], *interleaved, *dim)?,
        Op::Attention { scale, causal, softcap } => {
            let how = attention::How { scale: *scale, causal: *causal, softcap: *softcap };
            attention::attention(&x[0], &x[1], &x[2], x.get(3), &how)?
        }
        Op::MatMul {} => matmul::matmul(&x[0], &x[1])?,
        Op::Conv { strides, pads, dilations, groups } => {
            let geometry = conv::Geometry { strides, pads, dilations };
            conv::conv(&x[0], &x[1], x.get(2), &geometry, *groups)?
        }
        Op::Patches { kernel, strides, pads, dilations } => {
            conv::patches(&x[0], kernel, &conv::Geometry { strides, pads, dilations })?
        }
        Op::Shape { start, end } => layout::shape(&x[0], *start, *end)?,
        Op::Reshape { allow_zero } => layout::reshape(&x[0], &x[1], *allow_zero)?,
        Op::Flatten { axis } => layout::flatten(&x[0], *axis)?,
        Op::Transpose { perm } => layout::transpose(&x[0], perm)?,
        Op::Concat { axis } => layout::concat(x, *axis)?,
        Op::Slice {} => layout::slice(&x[0], &x[1], &x[2], &x[3], &x[4])?,
        Op::Squeeze { axes } => layout::squeeze(&x[0], axes)?,
        Op::Unsqueeze { axes } => layout::unsqueeze(&x[0], axes)?,
        Op::Expand {} => layout::expand(&x[0], &x[1])?,
        Op::Gather { axis } => gather::gather(&x[0], &x[1], *axis)?,
        Op::GatherElements { axis } => gather::gather_elements(&x[0], &x[1], *axis)?,
        Op::GatherNd { batch_dims } => gather::gather_nd(&x[0], &x[1], *batch_dims)?,
        Op::Range {} => elementwise::range(&x[0], &x[1], &x[2])?,
        Op::CumSum { exclusive, reverse } => reduce::running(&x[0], &x[1], false, *exclusive, *reverse)?,
        Op::CumProd { exclusive, reverse } => reduce::running(&x[0], &x[1], true, *exclusive, *reverse)?,
        Op::ReduceOver { f, keepdims, noop } => reduce::reduce_over(*f, &x[0], &x[1], *keepdims, *noop)?,
        Op::SqueezeAt {} => layout::squeeze_at(&x[0], x.get(1))?,
        Op::UnsqueezeAt {} => layout::unsqueeze(&x[0], &indices(&x[1])?)?,
        Op::ArgReduce { axis, keepdims, largest, last } => {
            select::arg_reduce(&x[0], *axis, *keepdims, *largest, *last)?
        }
        Op::ScatterElements { axis, f } => scatter::scatter_elements(&x[0], &x[1], &x[2], *axis, *f)?,
        Op::ScatterNd { f } => scatter::scatter_nd(&x[0], &x[1], &x[2], *f)?,
        Op::NonZero {} => select::non_zero(&x[0])?,
        Op::BitCast { to } => elementwise::bit_cast(&x[0], *to)?,
        Op::Det {} => matmul::det(&x[0])?,
        Op::Dft { inverse, onesided } => signal::dft(&x[0], &x[1], x.get(2), *inverse, *onesided)?,
        Op::MelWeights { to } => signal::mel_weights(x, *to)?,
        Op::Trilu { upper } => layout::trilu(&x[0], &x[1], *upper)?,
    };
    Ok(vec![one])
}

/// Zeros of a shape, or an error when it is too large.
pub(crate) fn zeros<T: Element + Default>(shape: &[usize]) -> Result<Vec<T>, String> {
    let fits = |&n: &usize| n.checked_mul(size_of::<T>()).is_some_and(|b| b <= MAX_BYTES);
    let n = count(shape)
        .filter(fits)
        .ok_or_else(|| format!("an output {}{shape:?} is larger than 2^40 bytes", T::ELEM))?;
    let mut out = Vec::new();
    out.try_reserve_exact(n).map_err(|e| format!("an output {}{shape:?}: {e}", T::ELEM))?;
    out.resize(n, T::default());
    Ok(out)
}

/// A tensor whose pieces `fill` computes: called with the position of a piece's first element,
/// from several threads.
fn build<T: Element + Default>(
    shape: Vec<usize>,
    fill: impl Fn(usize, &mut [T]) + Sync,
) -> Result<Tensor, String> {
    fn each<T: Element + Default>(
        shape: Vec<usize>,
        fill: &(dyn Fn(usize, &mut [T]) + Sync),
    ) -> Result<Tensor, String> {
        let mut out = zeros(&shape)?;
        pieces(&mut out, ELEMENTS, fill);
        Tensor::new(shape, out)
    }
    each(shape, &fill)
}

/// Calls `f` with the position of each piece of `len` elements and the piece, from several threads.
/// The closure is not a type parameter: the many callers share the code that divides the work.
fn pieces<T: Send>(out: &mut [T], len: usize, f: &(dyn Fn(usize, &mut [T]) + Sync)) {
    if out.len() <= len {
        if !out.is_empty() {
            f(0, out);
        }
    } else {
        out.par_chunks_mut(len).enumerate().for_each(|(i, piece)| f(i * len, piece));
    }
}

/// The only element of a tensor, as i64.
fn scalar_i64(t: &Tensor, what: &str) -> Result<i64, String> {
    match (t.as_slice::<i64>(), t.as_slice::<i32>()) {
        (Ok(&[v]), _) => Ok(v),
        (_, Ok(&[v])) => Ok(v.into()),
        _ => Err(format!("{what} is {}{:?}, not one integer", t.elem(), t.shape())),
    }
}

/// Elements of an index tensor, i64 or i32, as i64.
fn indices(t: &Tensor) -> Result<Vec<i64>, String> {
    match t.elem() {
        Elem::I64 => Ok(t.as_slice::<i64>()?.to_vec()),
        Elem::I32 => Ok(t.as_slice::<i32>()?.iter().map(|&v| v.into()).collect()),
        other => Err(format!("indices are {other}, not i64 or i32")),
    }
}

/// An index counted from the end when negative.
fn index(i: i64, len: usize) -> Result<usize, String> {
    let at = if i < 0 { i.saturating_add_unsigned(len as u64) } else { i };
    usize::try_from(at)
        .ok()
        .filter(|&at| at < len)
        .ok_or_else(|| format!("index {i} of an axis of length {len}"))
}

/// Unique axes as ascending indices.
fn sorted_axes(axes: &[i64], rank: usize) -> Result<Vec<usize>, String> {
    let mut out = axes.iter().map(|&a| crate::tensor::axis(a, rank)).collect::<Result<Vec<_>, _>>()?;
    out.sort_unstable();
    if out.windows(2).any(|w| w[0] == w[1]) {
        return Err(format!("axes {axes:?} name an axis twice"));
    }
    Ok(out)
}

/// Number of elements between neighbours along each axis; row-major. For a shape without elements
/// the numbers mean nothing.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut out = vec![1usize; shape.len()];
    for i in (1..shape.len()).rev() {
        out[i - 1] = out[i].saturating_mul(shape[i]);
    }
    out
}

fn refuse(t: &Tensor) -> String {
    format!("does not take {}", t.elem())
}

/// Runs `$body` with `$t` the Rust type of an element type of the list, else an error.
macro_rules! for_elem {
    ($tensor:expr, [$($v:ident $ty:ty),*], $t:ident => $body:expr) => {
        match $tensor.elem() {
            $($crate::elem::Elem::$v => { type $t = $ty; $body })*
            #[allow(unreachable_patterns)]
            _ => Err($crate::eval::refuse($tensor)),
        }
    };
    (any $tensor:expr, $t:ident => $body:expr) => {
        $crate::eval::for_elem!($tensor,
            [F32 f32, F64 f64, F16 half::f16, BF16 half::bf16, I64 i64, I32 i32, I16 i16, I8 i8,
             U64 u64, U32 u32, U16 u16, U8 u8, Bool bool], $t => $body)
    };
    (number $tensor:expr, $t:ident => $body:expr) => {
        $crate::eval::for_elem!($tensor,
            [F32 f32, F64 f64, I64 i64, I32 i32, I16 i16, I8 i8, U64 u64, U32 u32, U16 u16, U8 u8],
            $t => $body)
    };
    (integer $tensor:expr, $t:ident => $body:expr) => {
        $crate::eval::for_elem!($tensor,
            [I64 i64, I32 i32, I16 i16, I8 i8, U64 u64, U32 u32, U16 u16, U8 u8], $t => $body)
    };
    (float $tensor:expr, $t:ident => $body:expr) => {
        $crate::eval::for_elem!($tensor, [F32 f32, F64 f64], $t => $body)
    };
}
use for_elem;

/// Numbers, with wrapping integer arithmetic.
trait Number: Element + Default + PartialOrd {
    /// What sums and products are accumulated in.
    type Wide: Copy + Send + Sync;
    const ZERO: Self::Wide;
    const ONE: Self::Wide;
    /// Below and above every number.
    const LEAST: Self;
    const MOST: Self;
    fn wide(self) -> Self::Wide;
    fn narrow(wide: Self::Wide) -> Self;
    fn wide_add(a: Self::Wide, b: Self::Wide) -> Self::Wide;
    fn wide_mul(a: Self::Wide, b: Self::Wide) -> Self::Wide;
    /// `a / n`; `None` when there is no such number.
    fn wide_mean(a: Self::Wide, n: usize) -> Option<Self::Wide>;
    fn add(self, o: Self) -> Self;
    fn sub(self, o: Self) -> Self;
    fn mul(self, o: Self) -> Self;
    /// Integers: `o` is not zero.
    fn div(self, o: Self) -> Self;
    /// Remainder with the sign of the dividend; integers: `o` is not zero.
    fn fmod(self, o: Self) -> Self;
    /// Whether it is an integer zero, by which nothing can be divided.
    fn no_divisor(self) -> bool;
    fn as_f64(self) -> f64;
    fn is_nan(self) -> bool;
}

macro_rules! number_float {
    ($($t:ty)*) => {$(
        impl Number for $t {
            type Wide = f64;
            const ZERO: f64 = 0.0;
            const ONE: f64 = 1.0;
            const LEAST: Self = <$t>::NEG_INFINITY;
            const MOST: Self = <$t>::INFINITY;
            #[inline(always)]
            fn wide(self) -> f64 { self.into() }
            #[inline(always)]
            fn narrow(wide: f64) -> Self { wide as $t }
            #[inline(always)]
            fn wide_add(a: f64, b: f64) -> f64 { a + b }
            #[inline(always)]
            fn wide_mul(a: f64, b: f64) -> f64 { a * b }
            #[inline(always)]
            fn wide_mean(a: f64, n: usize) -> Option<f64> { Some(a / n as f64) }
            #[inline(always)]
            fn add(self, o: Self) -> Self { self + o }
            #[inline(always)]
            fn sub(self, o: Self) -> Self { self - o }
            #[inline(always)]
            fn mul(self, o: Self) -> Self { self * o }
            #[inline(always)]
            fn div(self, o: Self) -> Self { self / o }
            #[inline(always)]
            fn fmod(self, o: Self) -> Self { self % o }
            #[inline(always)]
            fn no_divisor(self) -> bool { false }
            #[inline(always)]
            fn as_f64(self) -> f64 { self.into() }
            #[inline(always)]
            fn is_nan(self) -> bool { self.is_nan() }
        }
    )*};
}
number_float!(f32 f64);

macro_rules! number_int {
    ($($t:ty, $wide:ty;)*) => {$(
        impl Number for $t {
            type Wide = $wide;
            const ZERO: $wide = 0;
            const ONE: $wide = 1;
            const LEAST: Self = <$t>::MIN;
            const MOST: Self = <$t>::MAX;
            #[inline(always)]
            fn wide(self) -> $wide { self.into() }
            #[inline(always)]
            fn narrow(wide: $wide) -> Self { wide as $t }
            #[inline(always)]
            fn wide_add(a: $wide, b: $wide) -> $wide { a.wrapping_add(b) }
            #[inline(always)]
            fn wide_mul(a: $wide, b: $wide) -> $wide { a.wrapping_mul(b) }
            #[inline(always)]
            fn wide_mean(a: $wide, n: usize) -> Option<$wide> { a.checked_div(n as $wide) }
            #[inline(always)]
            fn add(self, o: Self) -> Self { self.wrapping_add(o) }
            #[inline(always)]
            fn sub(self, o: Self) -> Self { self.wrapping_sub(o) }
            #[inline(always)]
            fn mul(self, o: Self) -> Self { self.wrapping_mul(o) }
            #[inline(always)]
            fn div(self, o: Self) -> Self { self.wrapping_div(o) }
            #[inline(always)]
            fn fmod(self, o: Self) -> Self { self.wrapping_rem(o) }
            #[inline(always)]
            fn no_divisor(self) -> bool { self == 0 }
            #[inline(always)]
            fn as_f64(self) -> f64 { self as f64 }
            #[inline(always)]
            fn is_nan(self) -> bool { false }
        }
    )*};
}
number_int!(i64, i64; i32, i64; i16, i64; i8, i64; u64, u64; u32, u64; u16, u64; u8, u64;);

#[cfg(test)]
mod testing {
    use super::*;

    /// A small generator (Knuth's MMIX constants), the same on every run.
    pub(super) struct Numbers(pub(super) u64);

    impl Numbers {
        pub(super) fn below(&mut self, n: usize) -> usize {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 33) as usize % n
        }

        /// Multiples of 1/8 in -4..=4: their sums and products of a few are exact in f32.
        pub(super) fn eighths(&mut self, n: usize) -> Vec<f32> {
            (0..n).map(|_| (self.below(65) as f32 - 32.0) / 8.0).collect()
        }

        pub(super) fn tensor(&mut self, shape: &[usize]) -> Tensor {
            let values = self.eighths(shape.iter().product());
            Tensor::new(shape.to_vec(), values).unwrap()
        }

        /// 1 to 4 axes of lengths 1 to 4.
        pub(super) fn shape(&mut self) -> Vec<usize> {
            (0..1 + self.below(4)).map(|_| 1 + self.below(4)).collect()
        }
    }

    pub(super) fn t<T: Element>(shape: &[usize], values: &[T]) -> Tensor {
        Tensor::new(shape.to_vec(), values.to_vec()).unwrap()
    }

    pub(super) fn run(op: Op, inputs: &[Tensor]) -> Tensor {
        let mut out = eval(&op, inputs).unwrap();
        assert_eq!(out.len(), 1);
        out.remove(0)
    }

    pub(super) fn refused(op: Op, inputs: &[Tensor], part: &str) {
        let error = eval(&op, inputs).unwrap_err();
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }

    /// Coordinates of position `at`.
    pub(super) fn place(shape: &[usize], at: usize) -> Vec<usize> {
        let mut rest = at;
        let mut out: Vec<usize> = shape
            .iter()
            .rev()
            .map(|&n| {
                let i = rest % n;
                rest /= n;
                i
            })
            .collect();
        out.reverse();
        out
    }

    /// The element at coordinates, of which leading ones are dropped and those of axes of length 1
    /// ignored, as in broadcasting.
    pub(super) fn at<T: Element>(x: &Tensor, place: &[usize]) -> T {
        let skip = place.len() - x.rank();
        let offset = (0..x.rank())
            .fold(0, |o, d| o * x.shape()[d] + if x.shape()[d] == 1 { 0 } else { place[skip + d] });
        x.as_slice::<T>().unwrap()[offset]
    }

    pub(super) fn on_threads<R: Send>(n: usize, f: impl FnOnce() -> R + Send) -> R {
        rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(f)
    }
}

#[cfg(test)]
mod agree;

#[cfg(test)]
mod tests {
    use super::testing::*;
    use super::*;
    use crate::op::{BinaryFn, ConstId, UnaryFn};
    use crate::tile::MatrixId;

    #[test]
    fn operations_that_need_more_than_inputs_are_refused() {
        let x = Tensor::scalar(1f32);
        refused(Op::Input {}, &[], "input: is not computed");
        refused(Op::Constant { id: ConstId(0) }, &[], "const: is not computed");
        refused(
            Op::FixedLinear { matrix: MatrixId(0), k: 1, n: 1 },
            std::slice::from_ref(&x),
            "is not computed",
        );
        refused(
            Op::FixedGrouped { matrix: MatrixId(0), k: 1, n: 1, groups: 1 },
            std::slice::from_ref(&x),
            "is not computed",
        );
        refused(
            Op::FixedLookup { matrix: MatrixId(0), k: 1, n: 1 },
            std::slice::from_ref(&x),
            "is not computed",
        );
        refused(Op::Unary(UnaryFn::Exp), &[], "exp of 0 inputs");
        refused(Op::Binary(BinaryFn::Add), &[x], "add of 1 inputs");
    }

    #[test]
    fn outputs_beyond_the_limit_are_refused_before_memory_is_touched() {
        // 2^20 x 2^20 f32 are 2^42 bytes; 2^40 x 2^40 overflows 64 bits.
        let x = t(&[1, 1], &[1f32]);
        refused(Op::Expand {}, &[x.clone(), t(&[2], &[1i64 << 20, 1 << 20])], "larger than 2^40 bytes");
        refused(Op::Expand {}, &[x, t(&[2], &[1i64 << 40, 1 << 40])], "larger than 2^40 bytes");
        let wide = t(&[1, 0], &[0f32; 0]);
        let shape = run(Op::Expand {}, &[wide, t(&[2], &[5i64, 1])]).shape().to_vec();
        assert_eq!(shape, [5, 0]);
        let (a, b) = (t(&[1 << 22, 1], &vec![0i8; 1 << 22]), t(&[1, 1 << 22], &vec![0i8; 1 << 22]));
        refused(Op::Binary(BinaryFn::Add), &[a, b], "larger than 2^40 bytes");
    }

    #[test]
    fn shapes_without_elements_may_be_long() {
        // The strides of such a shape overflow 64 bits.
        let x = t(&[0, 1 << 40, 1 << 40], &[0f32; 0]);
        assert_eq!(run(Op::Unary(UnaryFn::Exp), std::slice::from_ref(&x)).shape(), x.shape());
        let perm = vec![1, 2, 0];
        let by_axis = eval(&Op::Transpose { perm }, std::slice::from_ref(&x));
        assert!(by_axis.is_err(), "counted in the order of its axes, its length overflows");
        for axis in [0, -1] {
            let op = Op::Reduce { f: crate::op::ReduceFn::Sum, axes: vec![axis], keepdims: true };
            let _ = eval(&op, std::slice::from_ref(&x));
            let _ = eval(&Op::Softmax { axis }, std::slice::from_ref(&x));
            let _ = eval(&Op::LayerNorm { axis, epsilon: 0.0 }, &[x.clone(), x.clone()]);
            let _ = eval(&Op::Gather { axis }, &[x.clone(), t(&[1], &[0i64])]);
            let _ = eval(&Op::Concat { axis }, &[x.clone(), x.clone()]);
            let _ = eval(&Op::Split { axis, sizes: vec![0] }, std::slice::from_ref(&x));
        }
        let _ = eval(&Op::MatMul {}, &[x.clone(), x.clone()]);
        let _ = eval(&Op::Flatten { axis: 1 }, std::slice::from_ref(&x));
        let v = |v: i64| t(&[1], &[v]);
        let _ = eval(&Op::Slice {}, &[x.clone(), v(-1), v(i64::MIN), v(1), v(i64::MIN)]);
        let _ = eval(&Op::GatherNd { batch_dims: 0 }, &[x.clone(), t(&[0, 3], &[0i64; 0])]);
    }

    #[test]
    fn results_are_the_same_for_one_thread_and_two() {
        let mut numbers = Numbers(5);
        let (a, b) = (numbers.tensor(&[3, 130, 300]), numbers.tensor(&[3, 300, 150]));
        let image = numbers.tensor(&[2, 8, 30, 30]);
        let w = numbers.tensor(&[6, 4, 3, 3]);
        let conv = Op::Conv { strides: vec![1, 2], pads: vec![1; 4], dilations: vec![1, 1], groups: 2 };
        let mean = Op::Reduce { f: crate::op::ReduceFn::Mean, axes: vec![0, 2], keepdims: false };
        let cases = [
            (Op::MatMul {}, vec![a.clone(), b]),
            (conv, vec![image, w]),
            (mean, vec![a.clone()]),
            (Op::Softmax { axis: 1 }, vec![a.clone()]),
            (Op::Unary(UnaryFn::Erf), vec![a]),
        ];
        for (op, inputs) in &cases {
            let one = on_threads(1, || eval(op, inputs).unwrap());
            let two = on_threads(2, || eval(op, inputs).unwrap());
            assert_eq!(one[0].to_le_bytes(), two[0].to_le_bytes(), "{}", op.name());
        }
    }
}
