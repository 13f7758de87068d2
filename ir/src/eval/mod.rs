//! Reference kernels: what every operation means, executed on dense tensors.
//!
//! [`eval`] follows the ONNX operator of the same name (opset 18) in the normal form that
//! [`Op`] documents. Results are the same for any number of threads and any processor: work is
//! divided over outputs, never over a sum, and floating-point products use fused multiply-adds in
//! ascending order of k. Unfit inputs are errors, never panics.

mod conv;
mod elementwise;
mod gather;
pub mod integer;
mod layout;
pub mod matmul;
mod reduce;
mod walk;

use rayon::prelude::*;

use crate::elem::Elem;
use crate::op::Op;
use crate::tensor::{Element, Tensor, count};

/// Most bytes one output may have.
const MAX_BYTES: usize = 1 << 40;

/// Elements one task computes.
const CHUNK: usize = 1 << 14;

/// Evaluates an operation that computes its outputs from its inputs alone.
///
/// # Errors
/// Inputs the operation does not admit (number, element type, shape, index or axis out of range), an
/// output of more than 2^40 bytes or more than memory holds, and the operations that need more than
/// their inputs: `input`, `const`, `fixed_linear` and `fixed_lookup`.
pub fn eval(op: &Op, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
    let (least, most, _) = op.arity();
    if !(least..=most).contains(&inputs.len()) {
        return Err(format!("{} of {} inputs", op.name(), inputs.len()));
    }
    outputs(op, inputs).map_err(|e| format!("{}: {e}", op.name()))
}

fn outputs(op: &Op, x: &[Tensor]) -> Result<Vec<Tensor>, String> {
    let one = match op {
        Op::Input {} | Op::Constant { .. } | Op::FixedLinear { .. } | Op::FixedLookup { .. } => {
            return Err("is not computed from its inputs alone".into());
        }
        Op::Split { axis, sizes } => return layout::split(&x[0], *axis, sizes),
        Op::SplitEqual { axis, parts } => return layout::split_equal(&x[0], *axis, *parts),
        Op::Unary(f) => elementwise::unary(*f, &x[0])?,
        Op::Binary(f) => elementwise::binary(*f, &x[0], &x[1])?,
        Op::Reduce { f, axes, keepdims } => reduce::reduce(*f, &x[0], axes, *keepdims)?,
        Op::Cast { to } => elementwise::cast(&x[0], *to)?,
        Op::Where {} => elementwise::select(&x[0], &x[1], &x[2])?,
        Op::Softmax { axis } => reduce::softmax(&x[0], *axis)?,
        Op::LayerNorm { axis, epsilon } => reduce::layer_norm(&x[0], &x[1], x.get(2), *axis, *epsilon)?,
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
        Op::CumSum { exclusive, reverse } => reduce::cumsum(&x[0], &x[1], *exclusive, *reverse)?,
        Op::Trilu { upper } => layout::trilu(&x[0], &x[1], *upper)?,
    };
    Ok(vec![one])
}

/// Zeros of a shape, or an error when it is too large.
fn zeros<T: Element + Default>(shape: &[usize]) -> Result<Vec<T>, String> {
    let fits = |&n: &usize| n.checked_mul(T::ELEM.size()).is_some_and(|b| b <= MAX_BYTES);
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
    let mut out = zeros(&shape)?;
    if out.len() <= CHUNK {
        fill(0, &mut out);
    } else {
        out.par_chunks_mut(CHUNK).enumerate().for_each(|(i, piece)| fill(i * CHUNK, piece));
    }
    Tensor::new(shape, out)
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
            [F32 f32, F64 f64, I64 i64, I32 i32, I8 i8, U8 u8, Bool bool], $t => $body)
    };
    (number $tensor:expr, $t:ident => $body:expr) => {
        $crate::eval::for_elem!($tensor, [F32 f32, F64 f64, I64 i64, I32 i32, I8 i8, U8 u8], $t => $body)
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
            fn wide(self) -> f64 { self.into() }
            fn narrow(wide: f64) -> Self { wide as $t }
            fn wide_add(a: f64, b: f64) -> f64 { a + b }
            fn wide_mul(a: f64, b: f64) -> f64 { a * b }
            fn wide_mean(a: f64, n: usize) -> Option<f64> { Some(a / n as f64) }
            fn add(self, o: Self) -> Self { self + o }
            fn sub(self, o: Self) -> Self { self - o }
            fn mul(self, o: Self) -> Self { self * o }
            fn div(self, o: Self) -> Self { self / o }
            fn fmod(self, o: Self) -> Self { self % o }
            fn no_divisor(self) -> bool { false }
            fn as_f64(self) -> f64 { self.into() }
            fn is_nan(self) -> bool { self.is_nan() }
        }
    )*};
}
number_float!(f32 f64);

macro_rules! number_int {
    ($($t:ty)*) => {$(
        impl Number for $t {
            type Wide = i64;
            const ZERO: i64 = 0;
            const ONE: i64 = 1;
            const LEAST: Self = <$t>::MIN;
            const MOST: Self = <$t>::MAX;
            fn wide(self) -> i64 { self.into() }
            fn narrow(wide: i64) -> Self { wide as $t }
            fn wide_add(a: i64, b: i64) -> i64 { a.wrapping_add(b) }
            fn wide_mul(a: i64, b: i64) -> i64 { a.wrapping_mul(b) }
            fn wide_mean(a: i64, n: usize) -> Option<i64> { a.checked_div(n as i64) }
            fn add(self, o: Self) -> Self { self.wrapping_add(o) }
            fn sub(self, o: Self) -> Self { self.wrapping_sub(o) }
            fn mul(self, o: Self) -> Self { self.wrapping_mul(o) }
            fn div(self, o: Self) -> Self { self.wrapping_div(o) }
            fn fmod(self, o: Self) -> Self { self.wrapping_rem(o) }
            fn no_divisor(self) -> bool { self == 0 }
            fn as_f64(self) -> f64 { self as f64 }
            fn is_nan(self) -> bool { false }
        }
    )*};
}
number_int!(i64 i32 i8 u8);
