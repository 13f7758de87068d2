//! Element-wise functions, casts, selection and ranges.

use super::walk::Walk;
use super::{Number, build, for_elem, refuse};
use crate::elem::Elem;
use crate::op::{BinaryFn, UnaryFn};
use crate::tensor::{Element, Tensor, broadcast};

fn map<A: Element, O: Element + Default>(
    x: &Tensor,
    f: impl Fn(A) -> O + Sync,
) -> Result<Tensor, String> {
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
        walk.runs(start, out.len(), |range, [i, j], steps| {
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
trait Float: Number {
    fn sqrt(self) -> Self;
    fn exp(self) -> Self;
    fn ln(self) -> Self;
    fn erf(self) -> Self;
    fn sin(self) -> Self;
    fn cos(self) -> Self;
    fn tanh(self) -> Self;
    fn floor(self) -> Self;
    fn ceil(self) -> Self;
    fn round(self) -> Self;
    fn recip(self) -> Self;
    fn sigmoid(self) -> Self;
}

macro_rules! float {
    ($($t:ty, $erf:path;)*) => {$(
        impl Float for $t {
            fn sqrt(self) -> Self { self.sqrt() }
            fn exp(self) -> Self { self.exp() }
            fn ln(self) -> Self { self.ln() }
            fn erf(self) -> Self { $erf(self) }
            fn sin(self) -> Self { self.sin() }
            fn cos(self) -> Self { self.cos() }
            fn tanh(self) -> Self { self.tanh() }
            fn floor(self) -> Self { self.floor() }
            fn ceil(self) -> Self { self.ceil() }
            fn round(self) -> Self { self.round_ties_even() }
            fn recip(self) -> Self { 1.0 / self }
            fn sigmoid(self) -> Self { 1.0 / (1.0 + (-self).exp()) }
        }
    )*};
}
float!(f32, libm::erff; f64, libm::erf;);

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
        U::Neg | U::Abs | U::Relu | U::Not | U::Sign => Err(refuse(x)),
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
        U::Neg => match x.elem() {
            Elem::F32 => map(x, |v: f32| -v),
            Elem::F64 => map(x, |v: f64| -v),
            _ => for_elem!(x, [I64 i64, I32 i32, I8 i8], T => map(x, |v: T| v.wrapping_neg())),
        },
        U::Abs => match x.elem() {
            Elem::U8 => Ok(x.clone()),
            Elem::F32 => map(x, |v: f32| v.abs()),
            Elem::F64 => map(x, |v: f64| v.abs()),
            _ => for_elem!(x, [I64 i64, I32 i32, I8 i8], T => map(x, |v: T| v.wrapping_abs())),
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
        1 => for_elem!(number b, T => Ok(b.as_slice::<T>()?.iter().map(|v| v.as_f64()).collect()))?,
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
    for_elem!(number a, A => for_elem!(number b, B => {
        zip(a, b, |x: A, y: B| x.as_f64().powf(y.as_f64()) as A)
    }))
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
        _ if f.is_comparison() => for_elem!(any a, T => compare::<T>(f, a, b)),
        _ => for_elem!(number a, T => arithmetic::<T>(f, a, b)),
    }
}

/// Conversion from any element type.
trait From2<A> {
    fn convert(a: A) -> Self;
}

macro_rules! convert {
    ($($to:ty: $($from:ty)*;)*) => {$($(
        impl From2<$from> for $to {
            fn convert(a: $from) -> Self { a as $to }
        }
    )*)*};
}
convert!(
    f32: f32 f64 i64 i32 i8 u8; f64: f32 f64 i64 i32 i8 u8; i64: f32 f64 i64 i32 i8 u8;
    i32: f32 f64 i64 i32 i8 u8; i8: f32 f64 i64 i32 i8 u8; u8: f32 f64 i64 i32 i8 u8;
);

macro_rules! convert_bool {
    ($($t:ty)*) => {$(
        impl From2<bool> for $t {
            fn convert(a: bool) -> Self { u8::from(a) as $t }
        }
        impl From2<$t> for bool {
            fn convert(a: $t) -> Self { a != <$t>::default() }
        }
    )*};
}
convert_bool!(f32 f64 i64 i32 i8 u8);

impl From2<bool> for bool {
    fn convert(a: bool) -> Self {
        a
    }
}

/// [`crate::op::Op::Cast`]: any shape. Integers to narrower integers keep the low bits.
pub(super) fn cast(x: &Tensor, to: Elem) -> Result<Tensor, String> {
    if x.elem() == to {
        return Ok(x.clone());
    }
    for_elem!(any x, A => match to {
        Elem::F32 => map(x, |v: A| f32::convert(v)),
        Elem::F64 => map(x, |v: A| f64::convert(v)),
        Elem::I64 => map(x, |v: A| i64::convert(v)),
        Elem::I32 => map(x, |v: A| i32::convert(v)),
        Elem::I8 => map(x, |v: A| i8::convert(v)),
        Elem::U8 => map(x, |v: A| u8::convert(v)),
        Elem::Bool => map(x, |v: A| bool::convert(v)),
    })
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
            walk.runs(start, out.len(), |range, [i, j, k], steps| {
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
    for_elem!(start, [F32 f32, F64 f64, I64 i64, I32 i32], T => {
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
