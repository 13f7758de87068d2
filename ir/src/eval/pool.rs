//! Pooling: windows of each channel reduced to one number, and the way back.

use super::{CHUNK, Number, for_elem, indices, pieces, strides, zeros};
use crate::op::{AutoPad, PoolFn};
use crate::tensor::{Tensor, count};
use crate::windows::{Placed, Span};

/// Windows over the channels of a tensor.
struct Windows<'a> {
    spans: &'a [Span],
    placed: Vec<Placed>,
    /// Lengths of the spatial axes of x.
    spatial: &'a [usize],
    /// Elements between neighbours along them.
    steps: Vec<usize>,
    /// Elements of a channel.
    plane: usize,
    /// Lengths of the spatial axes of the result.
    out: Vec<usize>,
    /// Shape of the result.
    shape: Vec<usize>,
    /// How each tap of the last axis meets a row.
    taps: Vec<Tap>,
}

/// The results `lo..hi` of a row read elements from `first` on, a stride apart.
struct Tap {
    lo: usize,
    hi: usize,
    first: usize,
}

/// Taps along one axis: results of `out` that read one of `len` elements.
fn taps(span: &Span, begin: i64, len: usize, out: usize) -> Vec<Tap> {
    let len = i64::try_from(len).unwrap_or(i64::MAX);
    (0..span.kernel)
        .map(|t| {
            let shift = t * span.dilation - begin;
            let lo = if shift < 0 { (-shift + span.stride - 1) / span.stride } else { 0 };
            let hi = if len > shift { (len - shift - 1) / span.stride + 1 } else { 0 };
            let hi = usize::try_from(hi).unwrap_or(0).min(out);
            let lo_at = usize::try_from(lo).unwrap_or(usize::MAX).min(hi);
            Tap { lo: lo_at, hi, first: usize::try_from(lo * span.stride + shift).unwrap_or(0) }
        })
        .filter(|t| t.lo < t.hi)
        .collect()
}

impl<'a> Windows<'a> {
    fn new(x: &'a Tensor, spans: &'a [Span], ceil: bool, auto: AutoPad) -> Result<Self, String> {
        let (outer, spatial) = x.shape().split_at_checked(2).ok_or("x needs batch and channels")?;
        if spatial.len() != spans.len() || spatial.is_empty() {
            return Err(format!("windows of {} axes on x {:?}", spans.len(), x.shape()));
        }
        let kernel = spans.iter().try_fold(1i64, |a, s| a.checked_mul(s.kernel));
        if kernel.is_none_or(|k| k > 1 << 32) || spans.iter().any(|s| s.kernel > 1 << 24) {
            return Err("the kernel is too large".into());
        }
        let mut placed = Vec::with_capacity(spans.len());
        for (s, &n) in spans.iter().zip(spatial) {
            let len = i64::try_from(n).map_err(|_| format!("an axis of length {n}"))?;
            placed.push(s.place(len, ceil, auto)?);
        }
        let out: Vec<usize> = placed.iter().map(|p| usize::try_from(p.out).unwrap_or(0)).collect();
        let last = spans.len() - 1;
        Ok(Windows {
            spans,
            spatial,
            steps: strides(spatial),
            plane: count(spatial).ok_or("too many positions")?,
            shape: [outer, &out[..]].concat(),
            taps: taps(&spans[last], placed[last].begin, spatial[last], out[last]),
            placed,
            out,
        })
    }

    /// Length of a row of results.
    fn row(&self) -> usize {
        self.out[self.out.len() - 1]
    }

    /// Rows of results for one task.
    fn rows(&self) -> usize {
        let work = self.spans.iter().fold(self.row(), |a, s| a.saturating_mul(s.kernel as usize));
        (CHUNK * 4 / work.max(1)).max(1)
    }

    /// The begins in x of the rows that the windows of result row `row` meet, in their order; and how
    /// many rows they meet when padding counts.
    fn sources(&self, row: usize, found: &mut Vec<usize>, spare: &mut Vec<usize>) -> usize {
        let outer = self.out.len() - 1;
        let mut at = vec![0; outer];
        let mut rest = row;
        for d in (0..outer).rev() {
            at[d] = (rest % self.out[d]) as i64;
            rest /= self.out[d];
        }
        found.clear();
        found.push(rest * self.plane);
        let mut padded = 1;
        for (d, &window) in at.iter().enumerate() {
            let (s, p) = (&self.spans[d], &self.placed[d]);
            spare.clear();
            padded *= s.reach(window * s.stride, p.padded);
            let first = window * s.stride - p.begin;
            for &base in found.iter() {
                for t in s.inside(first, self.spatial[d] as i64) {
                    spare.push(base + (first + t * s.dilation) as usize * self.steps[d]);
                }
            }
            std::mem::swap(found, spare);
        }
        padded
    }

    /// Calls `f` with each result of a row, its element and the element's position in x, window by window
    /// in row-major order of its elements.
    fn visit<T: Copy, A>(&self, x: &[T], bases: &[usize], out: &mut [A], f: impl Fn(&mut A, T, usize)) {
        let (last, stride) = (self.spans.len() - 1, self.spans[self.spans.len() - 1].stride as usize);
        for &base in bases {
            let line = &x[base..base + self.spatial[last]];
            for tap in &self.taps {
                let (out, from) = (&mut out[tap.lo..tap.hi], &line[tap.first..]);
                let first = base + tap.first;
                if stride == 1 {
                    out.iter_mut().zip(from).enumerate().for_each(|(i, (o, &v))| f(o, v, first + i));
                } else {
                    let steps = from.iter().step_by(stride).enumerate();
                    out.iter_mut().zip(steps).for_each(|(o, (i, &v))| f(o, v, first + i * stride));
                }
            }
        }
    }

    /// How many elements of a window each result of a row reads along the last axis, without padding or
    /// with it.
    fn counts(&self, padding: bool) -> Vec<usize> {
        let last = self.spans.len() - 1;
        let mut out = vec![0; self.row()];
        if !padding {
            for tap in &self.taps {
                out[tap.lo..tap.hi].iter_mut().for_each(|n| *n += 1);
            }
            return out;
        }
        let (s, p) = (&self.spans[last], &self.placed[last]);
        for (o, n) in (0i64..).zip(&mut out) {
            *n = s.reach(o * s.stride, p.padded);
        }
        out
    }
}

/// [`crate::op::Op::Pool`].
pub(super) fn pool(
    x: &Tensor,
    f: PoolFn,
    spans: &[Span],
    ceil: bool,
    auto: AutoPad,
) -> Result<Tensor, String> {
    let w = Windows::new(x, spans, ceil, auto)?;
    if f == PoolFn::Max {
        return for_elem!(number x, T => largest::<T>(&w, x));
    }
    for_elem!(float x, T => summed::<T>(&w, x, f))
}

fn largest<T: Number>(w: &Windows<'_>, x: &Tensor) -> Result<Tensor, String> {
    let from = x.as_slice::<T>()?;
    let mut out = zeros::<T>(&w.shape)?;
    let n = w.row();
    pieces(&mut out, n.saturating_mul(w.rows()).max(1), &|start, out| {
        let (mut bases, mut spare) = (Vec::new(), Vec::new());
        for (i, row) in out.chunks_mut(n).enumerate() {
            w.sources(start / n + i, &mut bases, &mut spare);
            row.fill(T::LEAST);
            w.visit(from, &bases, row, |o, v, _| {
                if v > *o || v.is_nan() {
                    *o = v;
                }
            });
        }
    });
    Tensor::new(w.shape.clone(), out)
}

fn summed<T: Number<Wide = f64>>(w: &Windows<'_>, x: &Tensor, f: PoolFn) -> Result<Tensor, String> {
    let from = x.as_slice::<T>()?;
    let mut out = zeros::<T>(&w.shape)?;
    let n = w.row();
    let counts = w.counts(f == PoolFn::MeanPadded);
    pieces(&mut out, n.saturating_mul(w.rows()).max(1), &|start, out| {
        let (mut bases, mut spare) = (Vec::new(), Vec::new());
        let mut sums = vec![0f64; n];
        for (i, row) in out.chunks_mut(n).enumerate() {
            let padded = w.sources(start / n + i, &mut bases, &mut spare);
            sums.fill(0.0);
            w.visit(from, &bases, &mut sums, |o, v, _| *o += v.wide());
            let rows = match f {
                PoolFn::MeanPadded => padded,
                _ => bases.len(),
            };
            for ((o, &sum), &along) in row.iter_mut().zip(&sums).zip(&counts) {
                *o = T::narrow(if f == PoolFn::Sum { sum } else { sum / (rows * along) as f64 });
            }
        }
    });
    Tensor::new(w.shape.clone(), out)
}

/// [`crate::op::Op::MaxPoolIndexed`].
pub(super) fn indexed(
    x: &Tensor,
    spans: &[Span],
    ceil: bool,
    auto: AutoPad,
    column_major: bool,
) -> Result<Vec<Tensor>, String> {
    let w = Windows::new(x, spans, ceil, auto)?;
    for_elem!(number x, T => {
        let from = x.as_slice::<T>()?;
        let n = w.row();
        // Positions first: the values are read from them.
        let mut places = zeros::<i64>(&w.shape)?;
        pieces(&mut places, n.saturating_mul(w.rows()).max(1), &|start, places| {
            let (mut bases, mut spare) = (Vec::new(), Vec::new());
            let mut best = vec![(T::LEAST, None); n];
            for (i, row) in places.chunks_mut(n).enumerate() {
                w.sources(start / n + i, &mut bases, &mut spare);
                best.fill((T::LEAST, None));
                w.visit(from, &bases, &mut best, |(o, place), v, at| {
                    if v > *o || place.is_none() || (v.is_nan() && !o.is_nan()) {
                        (*o, *place) = (v, Some(at));
                    }
                });
                for (p, (_, place)) in row.iter_mut().zip(&best) {
                    *p = place.map_or(-1, |at| at as i64);
                }
            }
        });
        let mut out = zeros::<T>(&w.shape)?;
        for (o, &p) in out.iter_mut().zip(&places) {
            *o = usize::try_from(p).map_or(T::LEAST, |p| from[p]);
        }
        if column_major {
            for p in places.iter_mut().filter(|p| **p >= 0) {
                let at = *p as usize;
                let (plane, rest) = (at / w.plane, at % w.plane);
                let mut flipped = 0;
                for (&len, &step) in w.spatial.iter().zip(&w.steps).rev() {
                    flipped = flipped * len + rest / step % len;
                }
                *p = (plane * w.plane + flipped) as i64;
            }
        }
        Ok(vec![Tensor::new(w.shape.clone(), out)?, Tensor::new(w.shape.clone(), places)?])
    })
}

/// [`crate::op::Op::MaxUnpool`].
pub(super) fn unpool(
    x: &Tensor,
    at: &Tensor,
    shape: Option<&Tensor>,
    spans: &[Span],
) -> Result<Tensor, String> {
    let (outer, spatial) = x.shape().split_at_checked(2).ok_or("x needs batch and channels")?;
    if spatial.len() != spans.len() || at.shape() != x.shape() {
        return Err(format!("indices {:?} and {} axes for x {:?}", at.shape(), spans.len(), x.shape()));
    }
    let mut implied = outer.to_vec();
    for (s, &n) in spans.iter().zip(spatial) {
        let len = i64::try_from(n).map_err(|_| format!("an axis of length {n}"))?;
        implied.push(usize::try_from(s.unplace(len, 0)?).map_err(|e| e.to_string())?);
    }
    let wanted = match shape {
        None => implied.clone(),
        Some(s) => {
            let lens: Result<Vec<usize>, _> = indices(s)?.into_iter().map(usize::try_from).collect();
            lens.map_err(|_| "a negative length in the output shape")?
        }
    };
    if wanted.len() != implied.len() || wanted.iter().zip(&implied).any(|(w, i)| w < i) {
        return Err(format!("an output of shape {wanted:?} for windows that give {implied:?}"));
    }
    let (total, by) = (count(&implied).ok_or("too many positions")?, strides(&wanted));
    let places = indices(at)?;
    for_elem!(any x, T => {
        let mut out = zeros::<T>(&wanted)?;
        for (&v, &place) in x.as_slice::<T>()?.iter().zip(&places) {
            let mut rest = usize::try_from(place).ok().filter(|&p| p < total);
            let mut to = 0;
            for (&len, &step) in implied.iter().zip(&by).rev() {
                to += rest.map_or(0, |r| r % len * step);
                rest = rest.map(|r| r / len);
            }
            if rest.is_none() {
                return Err(format!("index {place} of {total} elements"));
            }
            out[to] = v;
        }
        Tensor::new(wanted, out)
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use crate::eval::eval;
    use crate::op::{AutoPad, Op, PoolFn};
    use crate::tensor::Tensor;

    fn window(f: PoolFn, kernel: &[i64], strides: &[i64], pads: &[i64], dilations: &[i64]) -> Op {
        Op::Pool {
            f,
            kernel: kernel.to_vec(),
            strides: strides.to_vec(),
            pads: pads.to_vec(),
            dilations: dilations.to_vec(),
            ceil: false,
            auto: AutoPad::Given,
        }
    }

    #[test]
    fn every_window_is_reduced() {
        let mut numbers = Numbers(3);
        let x = numbers.tensor(&[2, 3, 7, 9]);
        for (k, s, p, d) in [([2, 3], [1, 2], [0, 1, 1, 0], [2, 1]), ([3, 2], [2, 1], [1, 1, 1, 1], [1, 3])] {
            let run = |f| run(window(f, &k, &s, &p, &d), std::slice::from_ref(&x));
            let (max, mean, all, sum) =
                (run(PoolFn::Max), run(PoolFn::Mean), run(PoolFn::MeanPadded), run(PoolFn::Sum));
            for i in 0..max.len() {
                let to = place(max.shape(), i);
                let mut seen = Vec::new();
                for a in 0..k[0] {
                    for b in 0..k[1] {
                        let h = to[2] as i64 * s[0] + a * d[0] - p[0];
                        let w = to[3] as i64 * s[1] + b * d[1] - p[1];
                        if (0..7).contains(&h) && (0..9).contains(&w) {
                            seen.push(at::<f32>(&x, &[to[0], to[1], h as usize, w as usize]));
                        }
                    }
                }
                let total: f32 = seen.iter().sum();
                assert_eq!(at::<f32>(&max, &to), seen.iter().copied().fold(f32::NEG_INFINITY, f32::max));
                assert_eq!(at::<f32>(&sum, &to), total);
                assert!((at::<f32>(&mean, &to) - total / seen.len() as f32).abs() < 1e-5);
                assert!((at::<f32>(&all, &to) - total / (k[0] * k[1]) as f32).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn padding_that_dwarfs_the_image_costs_nothing() {
        // 2^22 windows of 2^23 elements, of which one is no padding.
        let x = t(&[1, 1, 1], &[8f32]);
        let n = 1i64 << 22;
        let op = window(PoolFn::MeanPadded, &[2 * n], &[1], &[n, 2 * n - 2], &[1]);
        let y = run(op, &[x]);
        assert_eq!(y.shape(), [1, 1, n as usize]);
        assert_eq!(y.as_slice::<f32>().unwrap()[0], 8.0 / (2 * n) as f32);
    }

    #[test]
    fn indices_count_in_the_whole_tensor() {
        let x = t(&[1, 2, 2, 2], &[1f32, 4.0, 3.0, 4.0, 9.0, 8.0, 9.0, 7.0]);
        let op = |column_major| Op::MaxPoolIndexed {
            kernel: vec![2, 2],
            strides: vec![1, 1],
            pads: vec![0; 4],
            dilations: vec![1, 1],
            ceil: false,
            auto: AutoPad::Given,
            column_major,
        };
        let out = eval(&op(false), std::slice::from_ref(&x)).unwrap();
        assert_eq!(out[0], t(&[1, 2, 1, 1], &[4f32, 9.0]));
        assert_eq!(out[1], t(&[1, 2, 1, 1], &[1i64, 4]), "the first of equal ones");
        // (0, 1) of a 2 x 2 channel is the third when columns run fastest.
        assert_eq!(eval(&op(true), &[x]).unwrap()[1], t(&[1, 2, 1, 1], &[2i64, 4]));
    }

    #[test]
    fn unpooling_refuses_foreign_indices() {
        let op = Op::MaxUnpool { kernel: vec![2], strides: vec![2], pads: vec![0, 0] };
        let x = t(&[1, 1, 2], &[5f32, 6.0]);
        let out = run(op.clone(), &[x.clone(), t(&[1, 1, 2], &[1i64, 2])]);
        assert_eq!(out, t(&[1, 1, 4], &[0f32, 5.0, 6.0, 0.0]));
        refused(op.clone(), &[x.clone(), t(&[1, 1, 2], &[1i64, 4])], "index 4 of 4");
        refused(op, &[x, t(&[1, 1, 2], &[1i64, -1])], "index -1");
    }

    #[test]
    fn windows_that_do_not_fit_are_refused() {
        let x = Tensor::new(vec![1, 1, 3], vec![0f32; 3]).unwrap();
        refused(window(PoolFn::Max, &[5], &[1], &[0, 0], &[1]), std::slice::from_ref(&x), "windows of 5");
        refused(window(PoolFn::Max, &[1], &[0], &[0, 0], &[1]), std::slice::from_ref(&x), "a stride of 0");
        refused(window(PoolFn::Max, &[1, 1], &[1; 2], &[0; 4], &[1; 2]), &[x], "2 axes");
    }
}
