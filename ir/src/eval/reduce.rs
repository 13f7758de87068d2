//! Reductions, normalisations and running sums. Sums of floats are accumulated in f64; elements that
//! lie beside each other are folded in [`LANES`] interleaved parts on every processor.

use super::elementwise::{Float, larger, smaller};
use super::walk::Walk;
use super::{CHUNK, Number, for_elem, indices, pieces, scalar_i64, sorted_axes, strides, vectorised, zeros};
use crate::op::ReduceFn;
use crate::tensor::{Tensor, axis, broadcast, count};

/// Parts in which neighbours are folded.
const LANES: usize = 16;

/// Folds elements that lie beside each other: element i belongs to part `i % LANES`, and the parts
/// are joined by halves.
#[inline(always)]
fn fold_lanes<T: Copy, A: Copy>(x: &[T], first: A, add: impl Fn(A, T) -> A, join: impl Fn(A, A) -> A) -> A {
    let mut parts = [first; LANES];
    let (rows, rest) = x.as_chunks::<LANES>();
    for row in rows {
        for (part, &v) in parts.iter_mut().zip(row) {
            *part = add(*part, v);
        }
    }
    for (part, &v) in parts.iter_mut().zip(rest) {
        *part = add(*part, v);
    }
    let mut half = LANES / 2;
    while half > 0 {
        let (low, high) = parts.split_at_mut(half);
        for (a, &b) in low.iter_mut().zip(high.iter()) {
            *a = join(*a, b);
        }
        half /= 2;
    }
    parts[0]
}

/// [`crate::op::Op::Reduce`].
pub(super) fn reduce(f: ReduceFn, x: &Tensor, axes: &[i64], keepdims: bool) -> Result<Tensor, String> {
    let axes = sorted_axes(axes, x.rank())?;
    for_elem!(number x, T => fold::<T>(f, x, &axes, keepdims))
}

/// Reduces over ascending axes.
fn fold<T: Number>(f: ReduceFn, x: &Tensor, axes: &[usize], keepdims: bool) -> Result<Tensor, String> {
    let from = x.as_slice::<T>()?;
    let by = strides(x.shape());
    let (mut shape, mut kept, mut reduced) = (Vec::new(), Vec::new(), Vec::new());
    for (d, &len) in x.shape().iter().enumerate() {
        if axes.binary_search(&d).is_ok() {
            reduced.push((len, [by[d] as isize]));
            shape.extend(keepdims.then_some(1));
        } else {
            kept.push((len, [by[d] as isize]));
            shape.push(len);
        }
    }
    let n = reduced.iter().try_fold(1usize, |n, r| n.checked_mul(r.0)).ok_or("too many elements")?;
    let (kept, reduced) = (Walk::new(kept, [0]), Walk::new(reduced, [0]));
    // Folds the elements that belong to the output whose first element is at `first`.
    fn each<T: Copy, A>(
        from: &[T],
        first: usize,
        n: usize,
        by: &Walk<1>,
        start: A,
        f: impl Fn(A, T) -> A,
        join: impl Fn(A, A) -> A,
    ) -> A
    where
        A: Copy,
    {
        let mut acc = start;
        by.runs(0, n, &mut |range, [at], [step]| {
            let at = first + at;
            if step == 1 {
                let part = &from[at..at + range.len()];
                acc = join(acc, vectorised(|| fold_lanes(part, start, &f, &join)));
            } else {
                acc = (0..range.len()).fold(acc, |acc, i| f(acc, from[at + i * step as usize]));
            }
        });
        acc
    }
    let sum =
        |first| each(from, first, n, &reduced, T::ZERO, |a, v: T| T::wide_add(a, v.wide()), T::wide_add);
    if f == ReduceFn::Mean && n == 0 && T::wide_mean(T::ZERO, 0).is_none() && count(&shape) != Some(0) {
        return Err("the mean of no integers".into());
    }
    let one = |first: usize| match f {
        ReduceFn::Sum => T::narrow(sum(first)),
        ReduceFn::Mean => T::narrow(T::wide_mean(sum(first), n).unwrap_or(T::ZERO)),
        ReduceFn::Prod => {
            let f = |a, v: T| T::wide_mul(a, v.wide());
            T::narrow(each(from, first, n, &reduced, T::ONE, f, T::wide_mul))
        }
        ReduceFn::Max => each(from, first, n, &reduced, T::LEAST, larger::<T>, larger::<T>),
        ReduceFn::Min => each(from, first, n, &reduced, T::MOST, smaller::<T>, smaller::<T>),
    };
    let mut out = zeros::<T>(&shape)?;
    let piece = (CHUNK / n.max(1)).max(1);
    pieces(&mut out, piece, &|start, out| {
        for (i, o) in out.iter_mut().enumerate() {
            let [first] = kept.locate(start + i);
            *o = one(first);
        }
    });
    Tensor::new(shape, out)
}

/// [`crate::op::Op::Softmax`]: of the input's shape. A line without finite elements is NaN.
pub(super) fn softmax(x: &Tensor, along: i64) -> Result<Tensor, String> {
    let along = axis(along, x.rank())?;
    for_elem!(float x, T => lines::<T>(x, along, softmax_line::<T>))
}

/// Softmax of one line, in place.
pub(super) fn softmax_line<T: Float>(line: &mut [T]) {
    pulp::Arch::new().dispatch(SoftmaxLine(line));
}

/// The softmax of a line, in its place.
struct SoftmaxLine<'a, T>(&'a mut [T]);

impl<T: Float> pulp::WithSimd for SoftmaxLine<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let top = fold_lanes(self.0, T::LEAST, larger::<T>, larger::<T>);
        for v in self.0.iter_mut() {
            *v = Float::exp(v.sub(top));
        }
        let scale = 1.0 / fold_lanes(self.0, 0.0, |sum, v: T| sum + v.as_f64(), |a, b| a + b);
        for v in self.0.iter_mut() {
            *v = T::narrow(v.as_f64() * scale);
        }
    }
}

/// A normalised row, times a gain, plus a bias.
struct NormRow<'a, T> {
    x: &'a [T],
    gain: &'a [T],
    bias: Option<&'a [T]>,
    epsilon: f64,
    /// Whether the mean is taken away first.
    centred: bool,
    out: &'a mut [T],
}

impl<T: Float> pulp::WithSimd for NormRow<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let NormRow { x, gain, bias, epsilon, centred, out } = self;
        let n = x.len() as f64;
        let sum = |x| fold_lanes(x, 0.0, |s, v: T| s + v.as_f64(), |a, b| a + b);
        let mean = if centred { sum(x) / n } else { 0.0 };
        let square = |s: f64, v: T| s + (v.as_f64() - mean) * (v.as_f64() - mean);
        let scale = 1.0 / (fold_lanes(x, 0.0, square, |a, b| a + b) / n + epsilon).sqrt();
        for ((o, x), g) in out.iter_mut().zip(x).zip(gain) {
            *o = T::narrow((x.as_f64() - mean) * scale).mul(*g);
        }
        if let Some(bias) = bias {
            for (o, b) in out.iter_mut().zip(bias) {
                *o = o.add(*b);
            }
        }
    }
}

/// A copy of `x` with `f` applied to each of its lines along an axis.
fn lines<T: Number>(x: &Tensor, along: usize, f: impl Fn(&mut [T]) + Sync) -> Result<Tensor, String> {
    let len = x.shape()[along];
    let inner = count(&x.shape()[along + 1..]).ok_or("too many elements")?;
    let mut out = zeros::<T>(x.shape())?;
    out.copy_from_slice(x.as_slice::<T>()?);
    if out.is_empty() {
        return Tensor::new(x.shape().to_vec(), out);
    }
    let block = len * inner;
    let blocks = (CHUNK / block).max(1);
    pieces(&mut out, block * blocks, &|_, blocks| {
        if inner == 1 {
            blocks.chunks_exact_mut(len).for_each(&f);
            return;
        }
        let mut line = vec![T::default(); len];
        for block in blocks.chunks_exact_mut(block) {
            for i in 0..inner {
                for (l, &v) in line.iter_mut().zip(block[i..].iter().step_by(inner)) {
                    *l = v;
                }
                f(&mut line);
                for (v, &l) in block[i..].iter_mut().step_by(inner).zip(&line) {
                    *v = l;
                }
            }
        }
    });
    Tensor::new(x.shape().to_vec(), out)
}

/// [`crate::op::Op::LayerNorm`]: mean and variance in f64; gain and bias broadcast to the normalised
/// axes.
pub(super) fn layer_norm(
    x: &Tensor,
    gain: &Tensor,
    bias: Option<&Tensor>,
    from: i64,
    epsilon: f32,
) -> Result<Tensor, String> {
    normalise(x, gain, bias, from, epsilon, true)
}

/// [`crate::op::Op::RmsNorm`]: mean square in f64; the gain broadcasts to the normalised axes.
pub(super) fn rms_norm(x: &Tensor, gain: &Tensor, from: i64, epsilon: f32) -> Result<Tensor, String> {
    normalise(x, gain, None, from, epsilon, false)
}

/// Divides by the root of the variance, or of the mean square where not `centred`.
fn normalise(
    x: &Tensor,
    gain: &Tensor,
    bias: Option<&Tensor>,
    from: i64,
    epsilon: f32,
    centred: bool,
) -> Result<Tensor, String> {
    let from = axis(from, x.rank())?;
    let normal = &x.shape()[from..];
    for t in std::iter::once(gain).chain(bias) {
        if broadcast(normal, t.shape()).ok().as_deref() != Some(normal) {
            return Err(format!("gain or bias {:?} over the axes {normal:?}", t.shape()));
        }
        if t.elem() != x.elem() {
            return Err(format!("x is {}, gain or bias is {}", x.elem(), t.elem()));
        }
    }
    for_elem!(float x, T => {
        let spread = |t: &Tensor| -> Result<Vec<T>, String> {
            let values = t.as_slice::<T>()?;
            let walk = Walk::broadcast(normal, [t.shape()]);
            let mut out = zeros::<T>(normal)?;
            walk.runs(0, out.len(), &mut |range, [at], [step]| {
                super::walk::copy_run(&mut out[range], values, at, step);
            });
            Ok(out)
        };
        let (gain, bias) = (spread(gain)?, bias.map(spread).transpose()?);
        let n = gain.len();
        let values = x.as_slice::<T>()?;
        let mut out = zeros::<T>(x.shape())?;
        let rows = (CHUNK / n.max(1)).max(1);
        pieces(&mut out, n * rows, &|start, out| {
            let values = &values[start..][..out.len()];
            for (out, x) in out.chunks_exact_mut(n).zip(values.chunks_exact(n)) {
                let (gain, bias) = (&gain[..], bias.as_deref());
                pulp::Arch::new().dispatch(NormRow { x, gain, bias, epsilon: epsilon.into(), centred, out });
            }
        });
        Tensor::new(x.shape().to_vec(), out)
    })
}

/// [`crate::op::Op::ReduceOver`].
pub(super) fn reduce_over(
    f: ReduceFn,
    x: &Tensor,
    axes: &Tensor,
    keepdims: bool,
    noop: bool,
) -> Result<Tensor, String> {
    let axes = match indices(axes)? {
        none if none.is_empty() && noop => return Ok(x.clone()),
        none if none.is_empty() => (0..x.rank() as i64).collect(),
        some => some,
    };
    reduce(f, x, &axes, keepdims)
}

/// [`crate::op::Op::CumSum`], or [`crate::op::Op::CumProd`] when `product`.
pub(super) fn running(
    x: &Tensor,
    along: &Tensor,
    product: bool,
    exclusive: bool,
    reverse: bool,
) -> Result<Tensor, String> {
    let along = axis(scalar_i64(along, "axis")?, x.rank())?;
    let step = strides(x.shape())[along];
    let len = x.shape()[along];
    for_elem!(number x, T => {
        let from = x.as_slice::<T>()?;
        let mut out = zeros::<T>(x.shape())?;
        // `step` means nothing where there are no elements.
        pieces(&mut out, len.saturating_mul(step), &|start, out| {
            let from = &from[start..][..out.len()];
            for i in 0..step {
                let mut sum = if product { T::ONE } else { T::ZERO };
                for j in 0..len {
                    let at = i + step * if reverse { len - 1 - j } else { j };
                    let v = from[at].wide();
                    let next = if product { T::wide_mul(sum, v) } else { T::wide_add(sum, v) };
                    out[at] = T::narrow(if exclusive { sum } else { next });
                    sum = next;
                }
            }
        });
        Tensor::new(x.shape().to_vec(), out)
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use crate::op::{Op, ReduceFn};
    use crate::tensor::Tensor;

    fn fold(f: ReduceFn, axes: &[i64], keepdims: bool, x: &Tensor) -> Tensor {
        run(Op::Reduce { f, axes: axes.to_vec(), keepdims }, std::slice::from_ref(x))
    }

    #[test]
    fn reductions_equal_folding_by_coordinates() {
        let mut numbers = Numbers(9);
        for _ in 0..200 {
            let shape = numbers.shape();
            let x = numbers.tensor(&shape);
            let axes: Vec<i64> = (0..shape.len() as i64).filter(|_| numbers.below(2) == 0).collect();
            let reduced = |d: usize| axes.contains(&(d as i64));
            let kept: Vec<usize> = (0..shape.len()).map(|d| if reduced(d) { 1 } else { shape[d] }).collect();
            let mut lists = vec![Vec::new(); kept.iter().product()];
            for i in 0..x.len() {
                let p = place(&shape, i);
                let to = (0..p.len()).fold(0, |o, d| o * kept[d] + if reduced(d) { 0 } else { p[d] });
                lists[to].push(x.as_slice::<f32>().unwrap()[i]);
            }
            for f in [ReduceFn::Sum, ReduceFn::Mean, ReduceFn::Max, ReduceFn::Min] {
                // Sums of up to 256 multiples of 1/8 are exact; so is f64 until the mean is rounded.
                let want: Vec<f32> = lists
                    .iter()
                    .map(|l| match f {
                        ReduceFn::Sum => l.iter().sum(),
                        ReduceFn::Mean => {
                            (l.iter().map(|&v| f64::from(v)).sum::<f64>() / l.len() as f64) as f32
                        }
                        ReduceFn::Max => l.iter().copied().fold(f32::MIN, f32::max),
                        _ => l.iter().copied().fold(f32::MAX, f32::min),
                    })
                    .collect();
                assert_eq!(fold(f, &axes, true, &x), t(&kept, &want));
                assert_eq!(fold(f, &axes, false, &x).len(), want.len());
            }
        }
    }

    #[test]
    fn reductions_of_integers_and_of_nothing() {
        let x = t(&[2, 3], &[1i32, -2, -6, 4, 5, 6]);
        assert_eq!(fold(ReduceFn::Mean, &[1], false, &x), t(&[2], &[-2i32, 5]));
        assert_eq!(fold(ReduceFn::Prod, &[-2], false, &x), t(&[3], &[4i32, -10, -36]));
        assert_eq!(fold(ReduceFn::Sum, &[0, 1], false, &x), Tensor::scalar(8i32));
        assert_eq!(fold(ReduceFn::Sum, &[], false, &x), x);
        assert_eq!(fold(ReduceFn::Sum, &[0], false, &t(&[2], &[100i8, 100])), Tensor::scalar(-56i8));
        let none = t(&[0, 2], &[0f32; 0]);
        assert_eq!(fold(ReduceFn::Sum, &[0], false, &none), t(&[2], &[0f32; 2]));
        assert_eq!(fold(ReduceFn::Prod, &[0], false, &none), t(&[2], &[1f32; 2]));
        assert_eq!(fold(ReduceFn::Max, &[0], false, &none), t(&[2], &[f32::NEG_INFINITY; 2]));
        assert!(fold(ReduceFn::Mean, &[0], false, &none).as_slice::<f32>().unwrap()[0].is_nan());
        let nan = t(&[3], &[1f32, f32::NAN, 2.0]);
        assert!(fold(ReduceFn::Max, &[0], false, &nan).as_slice::<f32>().unwrap()[0].is_nan());
        let op = |f, axes: &[i64]| Op::Reduce { f, axes: axes.to_vec(), keepdims: false };
        refused(op(ReduceFn::Mean, &[0]), &[t(&[0], &[0i64; 0])], "the mean of no integers");
        refused(op(ReduceFn::Sum, &[2]), std::slice::from_ref(&x), "axis 2 of a tensor of rank 2");
        refused(op(ReduceFn::Sum, &[1, -1]), &[x], "name an axis twice");
        refused(op(ReduceFn::Sum, &[0]), &[t(&[1], &[true])], "does not take bool");
    }

    #[test]
    fn softmax_sums_to_one_is_shift_invariant_and_does_not_overflow() {
        // exp(0), exp(ln 3): a quarter and three quarters.
        let x = t(&[2, 2], &[0f32, 3f32.ln(), 1000.0, 1000.0 + 3f32.ln()]);
        let out = run(Op::Softmax { axis: -1 }, std::slice::from_ref(&x));
        for (got, want) in out.as_slice::<f32>().unwrap().iter().zip([0.25, 0.75, 0.25, 0.75]) {
            assert!((got - want).abs() < 1e-5, "{got}");
        }
        let masked = t(&[3], &[f32::NEG_INFINITY, 0.0, 0.0]);
        assert_eq!(run(Op::Softmax { axis: 0 }, &[masked]), t(&[3], &[0f32, 0.5, 0.5]));
        let mut numbers = Numbers(10);
        let x = numbers.tensor(&[3, 4, 5]);
        let along = run(Op::Softmax { axis: 1 }, std::slice::from_ref(&x));
        let turned = run(Op::Transpose { perm: vec![0, 2, 1] }, std::slice::from_ref(&x));
        let last = run(Op::Softmax { axis: 2 }, &[turned]);
        assert_eq!(along, run(Op::Transpose { perm: vec![0, 2, 1] }, &[last]));
        refused(Op::Softmax { axis: 3 }, std::slice::from_ref(&x), "axis 3 of a tensor of rank 3");
        refused(Op::Softmax { axis: 0 }, &[t(&[1], &[1i64])], "does not take i64");
        refused(Op::Softmax { axis: 0 }, &[Tensor::scalar(1f32)], "rank 0");
    }

    #[test]
    fn layer_norm_equals_its_formula_in_f64() {
        let mut numbers = Numbers(11);
        let x = numbers.tensor(&[3, 2, 4]);
        for (axis, normal) in [(-1, &[4][..]), (1, &[2, 4]), (0, &[3, 2, 4])] {
            let (gain, bias) = (numbers.tensor(normal), numbers.tensor(normal));
            let op = Op::LayerNorm { axis, epsilon: 1e-3 };
            let got = run(op.clone(), &[x.clone(), gain.clone(), bias.clone()]);
            let n = gain.len();
            let values: Vec<f64> = x.as_slice::<f32>().unwrap().iter().map(|&v| v.into()).collect();
            for (i, &v) in got.as_slice::<f32>().unwrap().iter().enumerate() {
                let row = &values[i / n * n..][..n];
                let mean = row.iter().sum::<f64>() / n as f64;
                let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
                let (g, b) = (gain.as_slice::<f32>().unwrap()[i % n], bias.as_slice::<f32>().unwrap()[i % n]);
                let want =
                    (values[i] - mean) / (variance + f64::from(1e-3f32)).sqrt() * f64::from(g) + f64::from(b);
                assert!((f64::from(v) - want).abs() < 2e-6, "{v} {want}");
            }
            let zero = run(op.clone(), &[x.clone(), gain.clone(), t(normal, &vec![0f32; n])]);
            assert_eq!(run(op.clone(), &[x.clone(), gain.clone()]), zero);
            let one = run(op.clone(), &[x.clone(), t(normal, &vec![2f32; n])]);
            assert_eq!(run(op, &[x.clone(), t(&[1], &[2f32])]), one);
        }
        let op = Op::LayerNorm { axis: -1, epsilon: 0.0 };
        refused(op.clone(), &[x.clone(), t(&[3], &[1f32; 3])], "[3] over the axes [4]");
        refused(op, &[x, t(&[4], &[1f64; 4])], "gain or bias is f64");
    }

    #[test]
    fn running_sums_go_both_ways_with_and_without_the_own_element() {
        let x = t(&[2, 3], &[1i32, 2, 3, 4, 5, 6]);
        let sum = |axis: i64, exclusive, reverse| {
            run(Op::CumSum { exclusive, reverse }, &[x.clone(), Tensor::scalar(axis)])
        };
        // The examples of the ONNX reference.
        assert_eq!(sum(0, false, false), t(&[2, 3], &[1i32, 2, 3, 5, 7, 9]));
        assert_eq!(sum(1, false, false), t(&[2, 3], &[1i32, 3, 6, 4, 9, 15]));
        assert_eq!(sum(-1, true, false), t(&[2, 3], &[0i32, 1, 3, 0, 4, 9]));
        assert_eq!(sum(1, false, true), t(&[2, 3], &[6i32, 5, 3, 15, 11, 6]));
        assert_eq!(sum(1, true, true), t(&[2, 3], &[5i32, 3, 0, 11, 6, 0]));
        let op = Op::CumSum { exclusive: false, reverse: false };
        refused(op.clone(), &[x.clone(), Tensor::scalar(2i64)], "axis 2 of a tensor of rank 2");
        refused(op, &[x, Tensor::scalar(0.5f32)], "not one integer");
    }

    #[test]
    fn computed_axes_and_running_products() {
        let x = t(&[2, 3], &[1i32, 2, 3, 4, 5, 6]);
        let over = |axes: &[i64], noop| {
            let op = Op::ReduceOver { f: ReduceFn::Sum, keepdims: false, noop };
            run(op, &[x.clone(), t(&[axes.len()], axes)])
        };
        assert_eq!(over(&[-1], false), t(&[2], &[6i32, 15]));
        assert_eq!(over(&[], false), Tensor::scalar(21i32));
        assert_eq!(over(&[], true), x);
        let product =
            |exclusive, reverse| run(Op::CumProd { exclusive, reverse }, &[x.clone(), Tensor::scalar(1i64)]);
        assert_eq!(product(false, false), t(&[2, 3], &[1i32, 2, 6, 4, 20, 120]));
        assert_eq!(product(true, true), t(&[2, 3], &[6i32, 3, 1, 30, 6, 1]));
    }
}
