//! Element-wise functions, casts, selection and ranges.

use half::{bf16, f16};

use super::walk::Walk;
use super::{Number, build, for_elem, refuse};
use crate::elem::Elem;
use crate::narrow::{self, Overflow, PowerOfTwo};
use crate::op::{BinaryFn, UnaryFn};
use crate::tensor::{Data, Element, Tensor, broadcast};

fn map<A: Element, O: Element + Default>(x: &Tensor, f: impl Fn(A) -> O + Sync) -> Result<Tensor, String> {
    let from = x.as_slice::<A>()?;
    build(x.shape().to_vec(), |start, out: &mut [O]| {
        for (o, &v) in out.iter_mut().zip(&from[start..]) {
            *o = f(v);
        }
    })
}

fn zip<A: Element, B: Element, O: Element + Default>(
    a: &Tensor,
    b: &Tensor,
    f: impl Fn(A, B) -> O + Sync,
) -> Result<Tensor, String> {
    let shape = broadcast(a.shape(), b.shape())?;
    let walk = Walk::broadcast(&shape, [a.shape(), b.shape()]);
    let (a, b) = (a.as_slice::<A>()?, b.as_slice::<B>()?);
    build(shape, |start, out: &mut [O]| {
        walk.runs(start, out.len(), &mut |range, [i, j], steps| {
            let out = &mut out[range];
            match steps {
                [1, 1] => out.iter_mut().zip(&a[i..]).zip(&b[j..]).for_each(|((o, &x), &y)| *o = f(x, y)),
                [1, _] => out.iter_mut().zip(&a[i..]).for_each(|(o, &x)| *o = f(x, b[j])),
                [_, 1] => out.iter_mut().zip(&b[j..]).for_each(|(o, &y)| *o = f(a[i], y)),
                _ => out.fill(f(a[i], b[j])),
            }
        });
    })
}

/// What the float functions need of a float.
pub(super) trait Float: Number<Wide = f64> {
    fn sqrt(self) -> Self;
    fn exp(self) -> Self;
    fn ln(self) -> Self;
    fn erf(self) -> Self;
    fn erfc(self) -> Self;
    /// The nearest float of a constant.
    fn nearest(value: f64) -> Self;
    fn sin(self) -> Self;
    fn cos(self) -> Self;
    fn tanh(self) -> Self;
    fn floor(self) -> Self;
    fn ceil(self) -> Self;
    fn round(self) -> Self;
    fn recip(self) -> Self;
    fn sigmoid(self) -> Self;
    fn acos(self) -> Self;
    fn acosh(self) -> Self;
    fn asin(self) -> Self;
    fn asinh(self) -> Self;
    fn atan(self) -> Self;
    fn atanh(self) -> Self;
    fn cosh(self) -> Self;
    fn sinh(self) -> Self;
    fn tan(self) -> Self;
}

macro_rules! float {
    ($($t:ty, $erf:path, $erfc:path;)*) => {$(
        impl Float for $t {
            fn sqrt(self) -> Self { self.sqrt() }
            fn exp(self) -> Self { self.exp() }
            fn ln(self) -> Self { self.ln() }
            fn erf(self) -> Self { $erf(self) }
            fn erfc(self) -> Self { $erfc(self) }
            fn nearest(value: f64) -> Self { value as $t }
            fn sin(self) -> Self { self.sin() }
            fn cos(self) -> Self { self.cos() }
            fn tanh(self) -> Self { self.tanh() }
            fn floor(self) -> Self { self.floor() }
            fn ceil(self) -> Self { self.ceil() }
            fn round(self) -> Self { self.round_ties_even() }
            fn recip(self) -> Self { 1.0 / self }
            fn sigmoid(self) -> Self { 1.0 / (1.0 + (-self).exp()) }
            fn acos(self) -> Self { self.acos() }
            fn acosh(self) -> Self { self.acosh() }
            fn asin(self) -> Self { self.asin() }
            fn asinh(self) -> Self { self.asinh() }
            fn atan(self) -> Self { self.atan() }
            fn atanh(self) -> Self { self.atanh() }
            fn cosh(self) -> Self { self.cosh() }
            fn sinh(self) -> Self { self.sinh() }
            fn tan(self) -> Self { self.tan() }
        }
    )*};
}
float!(f32, libm::erff, libm::erfcf; f64, libm::erf, libm::erfc;);

fn unary_float<T: Float>(f: UnaryFn, x: &Tensor) -> Result<Tensor, String> {
    use UnaryFn as U;
    match f {
        U::Sqrt => map(x, T::sqrt),
        U::Reciprocal => map(x, T::recip),
        U::Exp => map(x, T::exp),
        U::Log => map(x, T::ln),
        U::Erf => map(x, T::erf),
        U::Sin => map(x, T::sin),
        U::Cos => map(x, T::cos),
        U::Tanh => map(x, T::tanh),
        U::Sigmoid => map(x, T::sigmoid),
        U::Floor => map(x, T::floor),
        U::Ceil => map(x, T::ceil),
        U::Round => map(x, T::round),
        U::Gelu => {
            let (half, root) = (T::nearest(0.5), T::nearest(-std::f64::consts::FRAC_1_SQRT_2));
            // 1 + erf(u) = erfc(-u), which keeps its digits where the sum cancels.
            map(x, |v: T| v.mul(half).mul(v.mul(root).erfc()))
        }
        U::GeluTanh => {
            let (half, one, cube) = (T::nearest(0.5), T::nearest(1.0), T::nearest(0.044_715));
            let root = T::nearest((2.0 / std::f64::consts::PI).sqrt());
            map(x, |v: T| {
                let u = root.mul(v.add(cube.mul(v).mul(v).mul(v)));
                v.mul(half).mul(one.add(u.tanh()))
            })
        }
        U::Silu => map(x, |v: T| v.mul(v.sigmoid())),
        U::Acos => map(x, T::acos),
        U::Acosh => map(x, T::acosh),
        U::Asin => map(x, T::asin),
        U::Asinh => map(x, T::asinh),
        U::Atan => map(x, T::atan),
        U::Atanh => map(x, T::atanh),
        U::Cosh => map(x, T::cosh),
        U::Sinh => map(x, T::sinh),
        U::Tan => map(x, T::tan),
        U::Neg | U::Abs | U::Relu | U::Not | U::Sign | U::BitNot => Err(refuse(x)),
    }
}

/// -1, 0 or 1 with the sign of x; a NaN stays.
fn sign<T: Number>(x: T) -> T {
    let zero = T::default();
    let one = T::narrow(T::ONE);
    if x > zero {
        one
    } else if x < zero {
        zero.sub(one)
    } else {
        x
    }
}

/// [`crate::op::Op::Unary`]: any shape.
pub(super) fn unary(f: UnaryFn, x: &Tensor) -> Result<Tensor, String> {
    use UnaryFn as U;
    match f {
        U::Not => for_elem!(x, [Bool bool], T => map(x, |v: T| !v)),
        U::BitNot => for_elem!(integer x, T => map(x, |v: T| !v)),
        U::Neg => match x.elem() {
            Elem::F32 => map(x, |v: f32| -v),
            Elem::F64 => map(x, |v: f64| -v),
            _ => for_elem!(x, [I64 i64, I32 i32, I16 i16, I8 i8], T => map(x, |v: T| v.wrapping_neg())),
        },
        U::Abs => match x.elem() {
            Elem::U64 | Elem::U32 | Elem::U16 | Elem::U8 => Ok(x.clone()),
            Elem::F32 => map(x, |v: f32| v.abs()),
            Elem::F64 => map(x, |v: f64| v.abs()),
            _ => for_elem!(x, [I64 i64, I32 i32, I16 i16, I8 i8], T => map(x, |v: T| v.wrapping_abs())),
        },
        U::Relu => for_elem!(number x, T => {
            let zero = T::default();
            map(x, |v: T| if v < zero { zero } else { v })
        }),
        U::Sign => for_elem!(number x, T => map(x, sign::<T>)),
        _ => for_elem!(float x, T => unary_float::<T>(f, x)),
    }
}

/// Larger of two, NaN if either is.
pub(super) fn larger<T: Number>(a: T, b: T) -> T {
    if a > b || a.is_nan() { a } else { b }
}

/// Smaller of two, NaN if either is.
pub(super) fn smaller<T: Number>(a: T, b: T) -> T {
    if a < b || a.is_nan() { a } else { b }
}

/// Remainder with the sign of the divisor.
fn floor_mod<T: Number>(a: T, b: T) -> T {
    let zero = T::default();
    let r = a.fmod(b);
    if r != zero && (r < zero) != (b < zero) { r.add(b) } else { r }
}

/// Bits of two integers.
fn bitwise(f: BinaryFn, a: &Tensor, b: &Tensor) -> Result<Tensor, String> {
    use BinaryFn as B;
    match f {
        B::BitAnd => for_elem!(integer a, T => zip(a, b, |x: T, y: T| x & y)),
        B::BitOr => for_elem!(integer a, T => zip(a, b, |x: T, y: T| x | y)),
        B::BitXor => for_elem!(integer a, T => zip(a, b, |x: T, y: T| x ^ y)),
        B::ShiftLeft => for_elem!(a, [U64 u64, U32 u32, U16 u16, U8 u8], T => {
            zip(a, b, |x: T, y: T| if y < T::BITS as T { x << y } else { 0 })
        }),
        _ => for_elem!(a, [U64 u64, U32 u32, U16 u16, U8 u8], T => {
            zip(a, b, |x: T, y: T| if y < T::BITS as T { x >> y } else { 0 })
        }),
    }
}

fn arithmetic<T: Number>(f: BinaryFn, a: &Tensor, b: &Tensor) -> Result<Tensor, String> {
    use BinaryFn as B;
    if matches!(f, B::Div | B::Mod | B::Fmod)
        && !a.is_empty()
        && b.as_slice::<T>()?.iter().any(|v| v.no_divisor())
    {
        return Err("integer division by zero".into());
    }
    match f {
        B::Add => zip(a, b, T::add),
        B::Sub => zip(a, b, T::sub),
        B::Mul => zip(a, b, T::mul),
        B::Div => zip(a, b, T::div),
        B::Max => zip(a, b, larger::<T>),
        B::Min => zip(a, b, smaller::<T>),
        B::Mod => zip(a, b, floor_mod::<T>),
        B::Fmod => zip(a, b, T::fmod),
        _ => Err(refuse(a)),
    }
}

fn compare<T: Element + PartialOrd>(f: BinaryFn, a: &Tensor, b: &Tensor) -> Result<Tensor, String> {
    use BinaryFn as B;
    match f {
        B::Greater => zip(a, b, |x: T, y: T| x > y),
        B::GreaterEqual => zip(a, b, |x: T, y: T| x >= y),
        B::Less => zip(a, b, |x: T, y: T| x < y),
        B::LessEqual => zip(a, b, |x: T, y: T| x <= y),
        _ => zip(a, b, |x: T, y: T| x == y),
    }
}

/// An integer power of an integer, wrapping; a negative exponent truncates the quotient.
fn integer_power(base: i64, exponent: i64) -> i64 {
    match u64::try_from(exponent) {
        Ok(mut e) => {
            let (mut power, mut square) = (1i64, base);
            while e > 0 {
                if e & 1 == 1 {
                    power = power.wrapping_mul(square);
                }
                square = square.wrapping_mul(square);
                e >>= 1;
            }
            power
        }
        Err(_) if base == 1 || (base == -1 && exponent % 2 == 0) => 1,
        Err(_) if base == -1 => -1,
        Err(_) => 0,
    }
}

fn power(a: &Tensor, b: &Tensor) -> Result<Tensor, String> {
    let real: Vec<f64> = match b.len() {
        1 if b.elem().is_float() || b.elem().is_int() => cast(b, Elem::F64)?.as_slice::<f64>()?.to_vec(),
        _ => Vec::new(),
    };
    let stays = broadcast(a.shape(), b.shape())? == a.shape();
    match (a.elem(), real.as_slice()) {
        (Elem::F32, [2.0]) if stays => return map(a, |x: f32| x * x),
        (Elem::F64, [2.0]) if stays => return map(a, |x: f64| x * x),
        (Elem::F32, [3.0]) if stays => {
            return map(a, |x: f32| {
                let x = f64::from(x);
                (x * x * x) as f32
            });
        }
        _ => {}
    }
    if a.elem().is_int() && b.elem().is_int() {
        let (bases, exponents) = (cast(a, Elem::I64)?, cast(b, Elem::I64)?);
        let negative = exponents.as_slice::<i64>()?.iter().any(|&e| e < 0);
        if negative && bases.as_slice::<i64>()?.contains(&0) {
            return Err("a negative power of an integer zero".into());
        }
        return cast(&zip(&bases, &exponents, integer_power)?, a.elem());
    }
    if !b.elem().is_float() && !b.elem().is_int() {
        return Err(refuse(b));
    }
    let b = cast(b, Elem::F64)?;
    for_elem!(number a, A => zip(a, &b, |x: A, y: f64| x.as_f64().powf(y) as A))
}

/// [`crate::op::Op::Binary`]: shapes that broadcast; equal element types, except for `pow`.
pub(super) fn binary(f: BinaryFn, a: &Tensor, b: &Tensor) -> Result<Tensor, String> {
    use BinaryFn as B;
    if f == B::Pow {
        return power(a, b);
    }
    if a.elem() != b.elem() {
        return Err(format!("operands are {} and {}", a.elem(), b.elem()));
    }
    match f {
        B::And => for_elem!(a, [Bool bool], T => zip(a, b, |x: T, y: T| x & y)),
        B::Or => for_elem!(a, [Bool bool], T => zip(a, b, |x: T, y: T| x | y)),
        B::Xor => for_elem!(a, [Bool bool], T => zip(a, b, |x: T, y: T| x ^ y)),
        B::BitAnd | B::BitOr | B::BitXor | B::ShiftLeft | B::ShiftRight => bitwise(f, a, b),
        B::Equal if a.elem() == Elem::Bool => zip(a, b, |x: bool, y: bool| x == y),
        _ if f.is_comparison() => for_elem!(number a, T => compare::<T>(f, a, b)),
        _ => for_elem!(number a, T => arithmetic::<T>(f, a, b)),
    }
}

/// Conversion between numbers.
trait From2<A> {
    fn convert(a: A) -> Self;
}

macro_rules! convert {
    ($from:ty => $($to:ty)*) => {$(
        impl From2<$from> for $to {
            fn convert(a: $from) -> Self { a as $to }
        }
    )*};
    ($($from:ty)*) => {$(
        convert!($from => f32 f64 i64 i32 i16 i8 u64 u32 u16 u8);
        impl From2<$from> for bool {
            fn convert(a: $from) -> Self { a != <$from>::default() }
        }
        impl From2<bool> for $from {
            fn convert(a: bool) -> Self { u8::from(a) as $from }
        }
        impl From2<$from> for f16 {
            fn convert(a: $from) -> Self { f16::from_f64(a as f64) }
        }
        impl From2<$from> for bf16 {
            fn convert(a: $from) -> Self { bf16::from_f64(a as f64) }
        }
    )*};
}
convert!(f32 f64 i64 i32 i16 i8 u64 u32 u16 u8);

impl From2<bool> for bool {
    fn convert(a: bool) -> Self {
        a
    }
}
impl From2<bool> for f16 {
    fn convert(a: bool) -> Self {
        f16::from_f32(f32::from(u8::from(a)))
    }
}
impl From2<bool> for bf16 {
    fn convert(a: bool) -> Self {
        bf16::from_f32(f32::from(u8::from(a)))
    }
}

/// [`crate::op::Op::Cast`]: any shape. Integers to narrower integers keep the low bits.
pub(super) fn cast(x: &Tensor, to: Elem) -> Result<Tensor, String> {
    match x.data() {
        _ if x.elem() == to => return Ok(x.clone()),
        Data::F16(_) => return cast(&map(x, |v: f16| v.to_f32())?, to),
        Data::BF16(_) => return cast(&map(x, |v: bf16| v.to_f32())?, to),
        Data::Code(elem, codes) => {
            let values = narrow::values(*elem);
            return cast(
                &build(x.shape().to_vec(), |start, out: &mut [f32]| {
                    out.iter_mut().zip(&codes[start..]).for_each(|(o, &c)| *o = values[usize::from(c)]);
                })?,
                to,
            );
        }
        _ => {}
    }
    if to.is_code() {
        return cast_rounded(x, to, true, PowerOfTwo::Up);
    }
    for_elem!(x, [F32 f32, F64 f64, I64 i64, I32 i32, I16 i16, I8 i8, U64 u64, U32 u32, U16 u16, U8 u8,
                  Bool bool], A => match to {
        Elem::F32 => map(x, |v: A| f32::convert(v)),
        Elem::F64 => map(x, |v: A| f64::convert(v)),
        Elem::F16 => map(x, |v: A| f16::convert(v)),
        Elem::BF16 => map(x, |v: A| bf16::convert(v)),
        Elem::I64 => map(x, |v: A| i64::convert(v)),
        Elem::I32 => map(x, |v: A| i32::convert(v)),
        Elem::I16 => map(x, |v: A| i16::convert(v)),
        Elem::I8 => map(x, |v: A| i8::convert(v)),
        Elem::U64 => map(x, |v: A| u64::convert(v)),
        Elem::U32 => map(x, |v: A| u32::convert(v)),
        Elem::U16 => map(x, |v: A| u16::convert(v)),
        Elem::U8 => map(x, |v: A| u8::convert(v)),
        Elem::Bool => map(x, |v: A| bool::convert(v)),
        code => Err(format!("no conversion to {code}")),
    })
}

/// [`crate::op::Op::CastRounded`]: to an element type of codes.
pub(super) fn cast_rounded(
    x: &Tensor,
    to: Elem,
    saturate: bool,
    power: PowerOfTwo,
) -> Result<Tensor, String> {
    if !to.is_code() {
        return Err(format!("{to} has one way of rounding"));
    }
    let codes = if x.elem().is_int() && matches!(to, Elem::I4 | Elem::U4 | Elem::I2 | Elem::U2) {
        let mask = u8::MAX >> (8 - to.bits());
        map(&cast(x, Elem::U8)?, |v: u8| v & mask)?
    } else {
        let overflow = if saturate { Overflow::Saturate } else { Overflow::Special };
        map(&cast(x, Elem::F64)?, |v: f64| narrow::encode(to, v, overflow, power))?
    };
    match codes.data() {
        Data::U8(codes) => Tensor::from_data(x.shape().to_vec(), Data::Code(to, codes.clone())),
        _ => Err("codes are bytes".into()),
    }
}

/// [`crate::op::Op::BitCast`]: between element types of one size.
pub(super) fn bit_cast(x: &Tensor, to: Elem) -> Result<Tensor, String> {
    if x.elem().bits() != to.bits() {
        return Err(format!("{} has {} bits and {to} {}", x.elem(), x.elem().bits(), to.bits()));
    }
    Tensor::from_le_bytes(to, x.shape().to_vec(), &x.to_le_bytes())
}

/// [`crate::op::Op::Where`]: three shapes that broadcast.
pub(super) fn select(condition: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor, String> {
    if a.elem() != b.elem() {
        return Err(format!("alternatives are {} and {}", a.elem(), b.elem()));
    }
    let shape = broadcast(condition.shape(), &broadcast(a.shape(), b.shape())?)?;
    let walk = Walk::broadcast(&shape, [condition.shape(), a.shape(), b.shape()]);
    let c = condition.as_slice::<bool>()?;
    for_elem!(any a, T => {
        let (a, b) = (a.as_slice::<T>()?, b.as_slice::<T>()?);
        build(shape, |start, out: &mut [T]| {
            walk.runs(start, out.len(), &mut |range, [i, j, k], steps| {
                let at = |first: usize, n: usize, step: isize| if step == 0 { first } else { first + n };
                for (n, o) in out[range].iter_mut().enumerate() {
                    *o = if c[at(i, n, steps[0])] { a[at(j, n, steps[1])] } else { b[at(k, n, steps[2])] };
                }
            });
        })
    })
}

fn one<T: Element>(t: &Tensor, what: &str) -> Result<T, String> {
    match t.as_slice::<T>()? {
        &[v] => Ok(v),
        _ => Err(format!("{what} has shape {:?}, not one element", t.shape())),
    }
}

/// [`crate::op::Op::Range`]: three scalars of one type to [n].
pub(super) fn range(start: &Tensor, limit: &Tensor, delta: &Tensor) -> Result<Tensor, String> {
    for_elem!(start, [F32 f32, F64 f64, I64 i64, I32 i32, I16 i16], T => {
        let (start, limit, delta) =
            (one::<T>(start, "start")?, one::<T>(limit, "limit")?, one::<T>(delta, "delta")?);
        if delta == T::default() || delta.is_nan() {
            return Err(format!("steps of {delta:?}"));
        }
        let n = if T::ELEM.is_int() {
            let (start, limit, delta) = (start as i128, limit as i128, delta as i128);
            let span = limit - start;
            if (span > 0) != (delta > 0) { 0 } else { (span.abs() + delta.abs() - 1) / delta.abs() }
        } else {
            ((limit.as_f64() - start.as_f64()) / delta.as_f64()).ceil().max(0.0) as i128
        };
        let n = usize::try_from(n).map_err(|_| format!("{n} elements"))?;
        build(vec![n], |first, out: &mut [T]| {
            for (i, o) in out.iter_mut().enumerate() {
                *o = start.add(delta.mul((first + i) as T));
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use crate::elem::Elem;
    use crate::op::{BinaryFn, Op, UnaryFn};
    use crate::tensor::{Tensor, broadcast};

    fn two(f: BinaryFn, a: &Tensor, b: &Tensor) -> Tensor {
        run(Op::Binary(f), &[a.clone(), b.clone()])
    }

    fn one(f: UnaryFn, x: &Tensor) -> Tensor {
        run(Op::Unary(f), std::slice::from_ref(x))
    }

    #[test]
    fn broadcasting_equals_indexing_by_coordinates() {
        let mut numbers = Numbers(1);
        for _ in 0..300 {
            let shape = numbers.shape();
            let mut part = |keep: usize| -> Vec<usize> {
                let from = numbers.below(shape.len().min(keep) + 1);
                shape[from..].iter().map(|&n| if numbers.below(3) == 0 { 1 } else { n }).collect()
            };
            let (sa, sb, sc) = (part(1), part(4), part(4));
            let (a, b, c) = (numbers.tensor(&sa), numbers.tensor(&sb), numbers.tensor(&sc));
            let sum = two(BinaryFn::Sub, &a, &b);
            assert_eq!(sum.shape(), broadcast(&sa, &sb).unwrap());
            for (i, &v) in sum.as_slice::<f32>().unwrap().iter().enumerate() {
                let p = place(sum.shape(), i);
                assert_eq!(v, at::<f32>(&a, &p) - at::<f32>(&b, &p));
            }
            let condition = two(BinaryFn::Greater, &c, &Tensor::scalar(0f32));
            let chosen = run(Op::Where {}, &[condition, a.clone(), b.clone()]);
            for (i, &v) in chosen.as_slice::<f32>().unwrap().iter().enumerate() {
                let p = place(chosen.shape(), i);
                assert_eq!(v, at::<f32>(if at::<f32>(&c, &p) > 0.0 { &a } else { &b }, &p));
            }
        }
    }

    #[test]
    fn long_operands_are_cut_at_any_place() {
        // 3 x 20011 elements: pieces end inside rows.
        let mut numbers = Numbers(2);
        let (a, b) = (numbers.tensor(&[3, 20011]), numbers.tensor(&[20011]));
        let sum = two(BinaryFn::Add, &a, &b);
        let (a, b) = (a.as_slice::<f32>().unwrap(), b.as_slice::<f32>().unwrap());
        for (i, &v) in sum.as_slice::<f32>().unwrap().iter().enumerate() {
            assert_eq!(v, a[i] + b[i % 20011]);
        }
    }

    #[test]
    fn integer_arithmetic_wraps_and_division_truncates() {
        let a = t(&[4], &[i8::MIN, -7, 7, i8::MAX]);
        let b = t(&[4], &[-1i8, 2, -2, 1]);
        assert_eq!(two(BinaryFn::Div, &a, &b), t(&[4], &[i8::MIN, -3, -3, i8::MAX]));
        assert_eq!(two(BinaryFn::Add, &a, &b), t(&[4], &[i8::MAX, -5, 5, i8::MIN]));
        assert_eq!(two(BinaryFn::Mul, &a, &b), t(&[4], &[i8::MIN, -14, -14, i8::MAX]));
        let (a, b) = (t(&[4], &[-7i64, 7, -7, 7]), t(&[4], &[3i64, -3, -3, 3]));
        assert_eq!(two(BinaryFn::Mod, &a, &b), t(&[4], &[2i64, -2, -1, 1]));
        assert_eq!(two(BinaryFn::Fmod, &a, &b), t(&[4], &[-1i64, 1, -1, 1]));
        let (a, b) = (t(&[3], &[-5.5f32, 5.5, 1.0]), t(&[3], &[2f32, -2.0, f32::INFINITY]));
        assert_eq!(two(BinaryFn::Fmod, &a, &b), t(&[3], &[-1.5f32, 1.5, 1.0]));
        assert_eq!(two(BinaryFn::Mod, &a, &b), t(&[3], &[0.5f32, -0.5, 1.0]));
        let zero = Tensor::scalar(0i64);
        for f in [BinaryFn::Div, BinaryFn::Mod, BinaryFn::Fmod] {
            refused(Op::Binary(f), &[t(&[1], &[1i64]), zero.clone()], "division by zero");
        }
        assert_eq!(two(BinaryFn::Div, &t(&[0], &[0i64; 0]), &zero).len(), 0);
    }

    #[test]
    fn powers() {
        let x = t(&[3], &[-2f32, 0.5, 3.0]);
        let by = |e: f32| two(BinaryFn::Pow, &x, &Tensor::scalar(e));
        assert_eq!(by(2.0), t(&[3], &[4f32, 0.25, 9.0]));
        assert_eq!(by(3.0), t(&[3], &[-8f32, 0.125, 27.0]));
        assert_eq!(by(-1.0), t(&[3], &[-0.5f32, 2.0, 1.0 / 3.0]));
        assert!(by(0.5).as_slice::<f32>().unwrap()[0].is_nan());
        assert_eq!(two(BinaryFn::Pow, &x, &Tensor::scalar(2i64)), by(2.0));
        assert_eq!(two(BinaryFn::Pow, &x, &t(&[2, 1], &[1i32, 4])).shape(), [2, 3]);
        let i = t(&[5], &[-3i32, -1, 1, 2, 7]);
        assert_eq!(two(BinaryFn::Pow, &i, &Tensor::scalar(3i64)), t(&[5], &[-27i32, -1, 1, 8, 343]));
        assert_eq!(two(BinaryFn::Pow, &i, &Tensor::scalar(-1i64)), t(&[5], &[0i32, -1, 1, 0, 0]));
        assert_eq!(two(BinaryFn::Pow, &i, &Tensor::scalar(0.5f32)), t(&[5], &[0i32, 0, 1, 1, 2]));
        refused(Op::Binary(BinaryFn::Pow), &[t(&[1], &[0i32]), t(&[1], &[-1i32])], "negative power");
        refused(Op::Binary(BinaryFn::Pow), &[x, Tensor::scalar(true)], "does not take bool");
    }

    #[test]
    fn comparisons_and_extremes_treat_nan_as_documented() {
        let (a, b) = (t(&[3], &[1f32, f32::NAN, 2.0]), t(&[3], &[1f32, 1.0, f32::NAN]));
        assert_eq!(two(BinaryFn::Equal, &a, &b), t(&[3], &[true, false, false]));
        assert_eq!(two(BinaryFn::LessEqual, &a, &b), t(&[3], &[true, false, false]));
        assert_eq!(two(BinaryFn::GreaterEqual, &a, &b), t(&[3], &[true, false, false]));
        for f in [BinaryFn::Max, BinaryFn::Min] {
            let out = two(f, &a, &b);
            let out = out.as_slice::<f32>().unwrap();
            assert!(out[0] == 1.0 && out[1].is_nan() && out[2].is_nan());
        }
        let (p, q) = (t(&[2, 1], &[false, true]), t(&[2], &[false, true]));
        assert_eq!(two(BinaryFn::And, &p, &q), t(&[2, 2], &[false, false, false, true]));
        assert_eq!(two(BinaryFn::Or, &p, &q), t(&[2, 2], &[false, true, true, true]));
        assert_eq!(two(BinaryFn::Xor, &p, &q), t(&[2, 2], &[false, true, true, false]));
        assert_eq!(
            two(BinaryFn::Less, &t(&[2], &[3u8, 200]), &Tensor::scalar(100u8)),
            t(&[2], &[true, false])
        );
    }

    #[test]
    fn functions_of_one_tensor_have_their_known_values() {
        let near = |f, x: f64, want: f64| {
            let wide = one(f, &Tensor::scalar(x)).as_slice::<f64>().unwrap()[0];
            assert!((wide - want).abs() <= 1e-15 * want.abs().max(1.0), "{f:?}({x}) = {wide}");
            let narrow = one(f, &Tensor::scalar(x as f32)).as_slice::<f32>().unwrap()[0];
            assert!((f64::from(narrow) - want).abs() <= 2e-7 * want.abs().max(1.0), "{f:?}({x}) = {narrow}");
        };
        // Abramowitz and Stegun, table 7.1, and its odd symmetry.
        near(UnaryFn::Erf, 0.5, 0.520_499_877_813_046_5);
        near(UnaryFn::Erf, 1.0, 0.842_700_792_949_714_9);
        near(UnaryFn::Erf, -2.0, -0.995_322_265_018_952_7);
        near(UnaryFn::Erf, 0.0, 0.0);
        near(UnaryFn::Erf, 6.0, 1.0);
        near(UnaryFn::Sigmoid, 0.0, 0.5);
        near(UnaryFn::Sigmoid, -1000.0, 0.0);
        near(UnaryFn::Sigmoid, 1000.0, 1.0);
        near(UnaryFn::Exp, 1.0, std::f64::consts::E);
        near(UnaryFn::Log, 1.0, 0.0);
        near(UnaryFn::Sin, 0.0, 0.0);
        near(UnaryFn::Cos, 0.0, 1.0);
        near(UnaryFn::Tanh, 20.0, 1.0);
        near(UnaryFn::Sqrt, 2.25, 1.5);
        near(UnaryFn::Reciprocal, -4.0, -0.25);
        let x = t(&[5], &[-2.5f32, -0.5, 0.5, 1.5, 2.5]);
        assert_eq!(one(UnaryFn::Round, &x), t(&[5], &[-2f32, -0.0, 0.0, 2.0, 2.0]));
        assert_eq!(one(UnaryFn::Floor, &x), t(&[5], &[-3f32, -1.0, 0.0, 1.0, 2.0]));
        assert_eq!(one(UnaryFn::Ceil, &x), t(&[5], &[-2f32, -0.0, 1.0, 2.0, 3.0]));
        assert_eq!(one(UnaryFn::Relu, &x), t(&[5], &[0f32, 0.0, 0.5, 1.5, 2.5]));
        assert_eq!(one(UnaryFn::Sign, &x), t(&[5], &[-1f32, -1.0, 1.0, 1.0, 1.0]));
        let i = t(&[3], &[i32::MIN, 0, 5]);
        assert_eq!(one(UnaryFn::Neg, &i), t(&[3], &[i32::MIN, 0, -5]));
        assert_eq!(one(UnaryFn::Abs, &i), t(&[3], &[i32::MIN, 0, 5]));
        assert_eq!(one(UnaryFn::Sign, &i), t(&[3], &[-1, 0, 1]));
        assert_eq!(one(UnaryFn::Not, &t(&[2], &[true, false])), t(&[2], &[false, true]));
        refused(Op::Unary(UnaryFn::Neg), &[t(&[1], &[1u8])], "neg: does not take u8");
        refused(Op::Unary(UnaryFn::Exp), &[i], "exp: does not take i32");
        refused(Op::Unary(UnaryFn::Not), &[x], "not: does not take f32");
    }

    #[test]
    fn casts_truncate_saturate_and_wrap() {
        let cast = |x: &Tensor, to| run(Op::Cast { to }, std::slice::from_ref(x));
        let x = t(&[5], &[-1.9f32, 300.7, f32::NAN, f32::NEG_INFINITY, 0.0]);
        assert_eq!(cast(&x, Elem::I8), t(&[5], &[-1i8, 127, 0, -128, 0]));
        assert_eq!(cast(&x, Elem::U8), t(&[5], &[0u8, 255, 0, 0, 0]));
        assert_eq!(cast(&x, Elem::I64), t(&[5], &[-1i64, 300, 0, i64::MIN, 0]));
        assert_eq!(cast(&x, Elem::Bool), t(&[5], &[true, true, true, true, false]));
        assert_eq!(cast(&t(&[2], &[257i64, -1]), Elem::U8), t(&[2], &[1u8, 255]));
        let flags = t(&[2], &[true, false]);
        for &to in Elem::ALL.iter().filter(|e| **e != Elem::F8E8M0) {
            assert_eq!(cast(&cast(&flags, to), Elem::Bool), flags, "by way of {to}");
        }
    }

    #[test]
    fn ranges_stop_before_their_limit() {
        let range = |a: Tensor, b: Tensor, c: Tensor| run(Op::Range {}, &[a, b, c]);
        let i = |v: i64| Tensor::scalar(v);
        assert_eq!(range(i(3), i(10), i(3)), t(&[3], &[3i64, 6, 9]));
        assert_eq!(range(i(10), i(3), i(-7)), t(&[1], &[10i64]));
        assert_eq!(range(i(10), i(2), i(-4)), t(&[2], &[10i64, 6]));
        assert_eq!(range(i(3), i(3), i(1)).len(), 0);
        assert_eq!(range(i(3), i(10), i(-1)).len(), 0);
        let f = |v: f32| Tensor::scalar(v);
        assert_eq!(range(f(1.0), f(2.0), f(0.25)), t(&[4], &[1f32, 1.25, 1.5, 1.75]));
        refused(Op::Range {}, &[i(0), i(1), i(0)], "steps of 0");
        refused(Op::Range {}, &[i(i64::MIN), i(i64::MAX), i(1)], "larger than 2^40 bytes");
        refused(Op::Range {}, &[f(0.0), f(f32::INFINITY), f(1.0)], "elements");
        refused(Op::Range {}, &[i(0), f(1.0), i(1)], "expected i64, found f32");
        refused(Op::Range {}, &[t(&[2], &[0i64, 1]), i(1), i(1)], "not one element");
    }

    #[test]
    fn unlike_operands_are_refused() {
        let (a, b) = (t(&[2], &[1f32, 2.0]), t(&[3], &[1f32, 2.0, 3.0]));
        refused(Op::Binary(BinaryFn::Add), &[a.clone(), b.clone()], "do not broadcast");
        refused(Op::Binary(BinaryFn::Add), &[a.clone(), Tensor::scalar(1i64)], "f32 and i64");
        refused(Op::Binary(BinaryFn::And), &[a.clone(), a.clone()], "does not take f32");
        refused(Op::Binary(BinaryFn::Add), &[Tensor::scalar(true), Tensor::scalar(true)], "bool");
        refused(Op::Where {}, &[a.clone(), a.clone(), a.clone()], "expected bool");
        refused(Op::Where {}, &[Tensor::scalar(true), a, Tensor::scalar(1i64)], "f32 and i64");
    }

    #[test]
    fn bits_are_combined_moved_and_read_as_another_type() {
        let (a, b) = (t(&[3], &[0b1100u8, 0xff, 1]), t(&[3], &[0b1010u8, 1, 8]));
        let two = |f| run(Op::Binary(f), &[a.clone(), b.clone()]);
        assert_eq!(two(BinaryFn::BitAnd), t(&[3], &[0b1000u8, 1, 0]));
        assert_eq!(two(BinaryFn::BitOr), t(&[3], &[0b1110u8, 0xff, 9]));
        assert_eq!(two(BinaryFn::BitXor), t(&[3], &[0b0110u8, 0xfe, 9]));
        // A shift by the width or more leaves nothing.
        assert_eq!(two(BinaryFn::ShiftLeft), t(&[3], &[0u8, 0xfe, 0]));
        assert_eq!(two(BinaryFn::ShiftRight), t(&[3], &[0u8, 0x7f, 0]));
        assert_eq!(run(Op::Unary(UnaryFn::BitNot), &[t(&[1], &[5i32])]), t(&[1], &[-6i32]));
        // 1.0 is 0x3f800000 in IEEE single precision.
        let one = t(&[1], &[1f32]);
        let cast = |to| Op::BitCast { to };
        assert_eq!(run(cast(Elem::U32), std::slice::from_ref(&one)), t(&[1], &[0x3f80_0000u32]));
        refused(cast(Elem::I64), &[one], "has 32 bits and i64 64");
        refused(Op::Binary(BinaryFn::ShiftLeft), &[t(&[1], &[1i8]), t(&[1], &[1i8])], "does not take i8");
    }
}
