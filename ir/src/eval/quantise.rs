//! Linear quantisation: between real tensors and integers or narrow floats with scales and zero points.

use super::elementwise::cast;
use super::{build, refuse};
use crate::elem::Elem;
use crate::narrow::{self, Overflow, PowerOfTwo};
use crate::tensor::{Data, Tensor, axis, count};

/// Which scale belongs to an element: `(position / inner / block) % scales` runs along the quantised
/// axis, and blocks have scales of their own for the other axes.
#[derive(Debug, Clone)]
pub struct Granularity {
    inner: usize,
    len: usize,
    block: usize,
    blocks: usize,
    whole: bool,
    along: bool,
}

impl Granularity {
    /// Of scales for `x` (both as shapes): one element, a vector along axis `at`, or of the same rank
    /// with one scale for `block` elements along it (0: no blocks).
    ///
    /// # Errors
    /// Scales that are none of these, and an axis `x` does not have.
    pub fn new(x: &[usize], scale: &[usize], at: i64, block: i64) -> Result<Self, String> {
        let bad = || format!("scales {scale:?} for {x:?} along axis {at} in blocks of {block}");
        if count(scale) == Some(1) && block == 0 {
            return Ok(Granularity { inner: 1, len: 1, block: 1, blocks: 1, whole: true, along: false });
        }
        let at = axis(at, x.len())?;
        let (inner, len) = (count(&x[at + 1..]).ok_or_else(bad)?, x[at]);
        if block == 0 {
            let fits = scale == [len];
            return fits
                .then_some(Granularity { inner, len, block: 1, blocks: len, whole: false, along: true })
                .ok_or_else(bad);
        }
        let block = usize::try_from(block).ok().filter(|b| *b > 0).ok_or_else(bad)?;
        let blocks = len.div_ceil(block);
        let fits = scale.len() == x.len()
            && scale.iter().zip(x).enumerate().all(|(i, (&s, &d))| s == if i == at { blocks } else { d });
        fits.then_some(Granularity { inner, len, block, blocks, whole: false, along: false }).ok_or_else(bad)
    }

    /// The scale, counted in row-major order, of the element at a position in row-major order.
    pub fn of(&self, position: usize) -> usize {
        if self.whole {
            return 0;
        }
        let (outer, inner) = (position / self.inner, position % self.inner);
        let along = outer % self.len / self.block;
        if self.along { along } else { (outer / self.len * self.blocks + along) * self.inner + inner }
    }
}

fn zero_points(zero: Option<&Tensor>, scale: &Tensor, elem: Elem) -> Result<Option<Vec<f32>>, String> {
    let Some(zero) = zero else { return Ok(None) };
    if zero.len() != scale.len() || zero.elem() != elem {
        let (z, s) = (zero.shape(), scale.shape());
        return Err(format!("zero points {}{z:?} for {elem} with scales {s:?}", zero.elem()));
    }
    Ok(Some(cast(zero, Elem::F32)?.as_slice::<f32>()?.to_vec()))
}

/// [`crate::op::Op::Dequantize`].
pub(super) fn dequantize(
    x: &Tensor,
    scale: &Tensor,
    zero: Option<&Tensor>,
    (at, block): (i64, i64),
    to: Elem,
) -> Result<Tensor, String> {
    if !to.is_float() {
        return Err(format!("{to} is no result of a dequantisation"));
    }
    let by = Granularity::new(x.shape(), scale.shape(), at, block)?;
    let zero = zero_points(zero, scale, x.elem())?;
    let scales = cast(scale, Elem::F32)?;
    let (scales, codes) = (scales.as_slice::<f32>()?, cast(x, Elem::F64)?);
    let codes = codes.as_slice::<f64>()?;
    let real = build(x.shape().to_vec(), |start, out: &mut [f32]| {
        for (i, (o, &c)) in out.iter_mut().zip(&codes[start..]).enumerate() {
            let s = by.of(start + i);
            let zero = zero.as_ref().map_or(0.0, |z| f64::from(z[s]));
            *o = (c - zero) as f32 * scales[s];
        }
    })?;
    cast(&real, to)
}

/// Least and largest number of an integer type, codes included.
fn limits(elem: Elem) -> Option<(f64, f64)> {
    Some(match elem {
        Elem::I8 => (-128.0, 127.0),
        Elem::U8 => (0.0, 255.0),
        Elem::I16 => (-32768.0, 32767.0),
        Elem::U16 => (0.0, 65535.0),
        Elem::I4 => (-8.0, 7.0),
        Elem::U4 => (0.0, 15.0),
        Elem::I2 => (-2.0, 1.0),
        Elem::U2 => (0.0, 3.0),
        _ => return None,
    })
}

/// [`crate::op::Op::Quantize`].
pub(super) fn quantize(
    x: &Tensor,
    scale: &Tensor,
    zero: Option<&Tensor>,
    (at, block): (i64, i64),
    to: Elem,
    saturate: bool,
) -> Result<Tensor, String> {
    let limits = limits(to);
    if limits.is_none() && !to.is_code() {
        return Err(format!("{to} is no result of a quantisation"));
    }
    if !x.elem().is_float() && x.elem() != Elem::I32 {
        return Err(refuse(x));
    }
    let by = Granularity::new(x.shape(), scale.shape(), at, block)?;
    let zero = zero_points(zero, scale, to)?;
    let (scales, values) = (cast(scale, Elem::F32)?, cast(x, Elem::F32)?);
    let (scales, values) = (scales.as_slice::<f32>()?, values.as_slice::<f32>()?);
    let overflow = if saturate { Overflow::Saturate } else { Overflow::Special };
    let number = |i: usize| {
        let s = by.of(i);
        let (v, zero) = (values[i] / scales[s], zero.as_ref().map_or(0.0, |z| f64::from(z[s])));
        match limits {
            Some((low, high)) => (f64::from(v).round_ties_even() + zero).clamp(low, high),
            None => f64::from(v) + zero,
        }
    };
    if to.is_code() {
        let codes = build(x.shape().to_vec(), |start, out: &mut [u8]| {
            for (i, o) in out.iter_mut().enumerate() {
                *o = narrow::encode(to, number(start + i), overflow, PowerOfTwo::Up);
            }
        })?;
        return match codes.data() {
            Data::U8(codes) => Tensor::from_data(x.shape().to_vec(), Data::Code(to, codes.clone())),
            _ => Err("codes are bytes".into()),
        };
    }
    let whole = build(x.shape().to_vec(), |start, out: &mut [i32]| {
        for (i, o) in out.iter_mut().enumerate() {
            *o = number(start + i) as i32;
        }
    })?;
    cast(&whole, to)
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::op::Op;

    fn codes(elem: Elem, shape: &[usize], values: &[u8]) -> Tensor {
        Tensor::from_data(shape.to_vec(), Data::Code(elem, values.into())).unwrap()
    }

    #[test]
    fn quantising_what_was_dequantised_gives_the_codes_back() {
        let x = codes(Elem::I4, &[2, 4], &[8, 15, 0, 7, 1, 2, 3, 4]);
        let zero = codes(Elem::I4, &[2, 2], &[1, 15, 0, 2]);
        let scale = t(&[2, 2], &[0.5f32, 0.25, 2.0, 1.0]);
        let op = Op::Dequantize { axis: 1, block: 2, to: Elem::F32 };
        let real = run(op, &[x.clone(), scale.clone(), zero.clone()]);
        // Codes -8, -1, 0, 7 and 1 to 4; zero points 1, -1 and 0, 2; one scale a block of two.
        assert_eq!(real, t(&[2, 4], &[-4.5f32, -1.0, 0.25, 2.0, 2.0, 4.0, 1.0, 2.0]));
        let back = Op::Quantize { axis: 1, block: 2, to: Elem::I4, saturate: true };
        assert_eq!(run(back, &[real, scale, zero]), x);
    }

    #[test]
    fn results_saturate_and_unfit_scales_are_refused() {
        let x = t(&[3], &[1e9f32, -1e9, 2.5]);
        let op = Op::Quantize { axis: 0, block: 0, to: Elem::I8, saturate: true };
        assert_eq!(run(op.clone(), &[x.clone(), Tensor::scalar(1f32)]), t(&[3], &[127i8, -128, 2]));
        refused(op.clone(), &[x.clone(), t(&[2], &[1f32; 2])], "scales [2] for [3]");
        refused(op, &[x.clone(), Tensor::scalar(1f32), Tensor::scalar(0u8)], "zero points u8");
        let op = Op::Quantize { axis: 0, block: 0, to: Elem::I64, saturate: true };
        refused(op, &[x, Tensor::scalar(1f32)], "no result of a quantisation");
    }
}
