//! Choosing elements by their values: extremes, order, what is not zero and what differs.

use std::cmp::Ordering;

use super::gather::{gather, gather_elements};
use super::{CHUNK, Number, for_elem, pieces, scalar_i64, strides, zeros};
use crate::tensor::{Element, Tensor, axis, count};

/// Lines of a shape along an axis: how many elements lie before, along and behind it.
fn around(shape: &[usize], along: usize) -> Result<(usize, usize), String> {
    Ok((shape[along], count(&shape[along + 1..]).ok_or("too many elements")?))
}

/// Order of values in which NaN is above every number.
fn order<T: PartialOrd>(a: T, b: T) -> Ordering {
    // Only a NaN has no order to itself.
    let nan = |v: &T| v.partial_cmp(v).is_none();
    a.partial_cmp(&b).unwrap_or_else(|| nan(&a).cmp(&nan(&b)))
}

/// [`crate::op::Op::ArgReduce`].
pub(super) fn arg_reduce(
    x: &Tensor,
    along: i64,
    keepdims: bool,
    largest: bool,
    last: bool,
) -> Result<Tensor, String> {
    let along = axis(along, x.rank())?;
    let (len, inner) = around(x.shape(), along)?;
    let mut shape = x.shape().to_vec();
    shape[along] = 1;
    let mut out = zeros::<i64>(&shape)?;
    if len == 0 && !out.is_empty() {
        return Err("an axis without elements has no extreme".into());
    }
    if !keepdims {
        shape.remove(along);
    }
    for_elem!(number x, T => {
        let from = x.as_slice::<T>()?;
        let beats = |a: T, b: T| {
            let found = match (a.is_nan(), b.is_nan()) {
                (false, false) if largest => order(a, b),
                (false, false) => order(b, a),
                (a, b) => a.cmp(&b),
            };
            found == Ordering::Greater || (last && found == Ordering::Equal)
        };
        pieces(&mut out, (CHUNK / len.max(1)).max(1), &|start, out| {
            for (i, o) in out.iter_mut().enumerate() {
                let first = (start + i) / inner * len * inner + (start + i) % inner;
                let value = |n: usize| from[first + n * inner];
                let best = (1..len).fold(0, |best, n| if beats(value(n), value(best)) { n } else { best });
                *o = best as i64;
            }
        });
        Tensor::new(shape, out)
    })
}

/// [`crate::op::Op::TopK`]: values and indices.
pub(super) fn top_k(x: &Tensor, k: &Tensor, along: i64, largest: bool) -> Result<Vec<Tensor>, String> {
    let at = axis(along, x.rank())?;
    let (len, inner) = around(x.shape(), at)?;
    let k = scalar_i64(k, "k")?;
    let k = usize::try_from(k)
        .ok()
        .filter(|k| *k <= len)
        .ok_or_else(|| format!("{k} elements of an axis of length {len}"))?;
    let mut shape = x.shape().to_vec();
    shape[at] = k;
    let mut out = zeros::<i64>(&shape)?;
    if !out.is_empty() {
        for_elem!(number x, T => {
            let from = x.as_slice::<T>()?;
            pieces(&mut out, k * inner, &|start, out| {
                let mut line: Vec<usize> = Vec::with_capacity(len);
                for i in 0..inner {
                    let first = start / k * len + i;
                    let value = |n: usize| from[first + n * inner];
                    let before = |a: &usize, b: &usize| {
                        let found = order(value(*a), value(*b));
                        (if largest { found.reverse() } else { found }).then(a.cmp(b))
                    };
                    line.clear();
                    line.extend(0..len);
                    if k < len {
                        line.select_nth_unstable_by(k, before);
                    }
                    line[..k].sort_unstable_by(before);
                    for (n, &from) in line[..k].iter().enumerate() {
                        out[n * inner + i] = from as i64;
                    }
                }
            });
            Ok::<_, String>(())
        })?;
    }
    let found = Tensor::new(shape, out)?;
    Ok(vec![gather_elements(x, &found, along)?, found])
}

/// [`crate::op::Op::NonZero`].
pub(super) fn non_zero(x: &Tensor) -> Result<Tensor, String> {
    for_elem!(any x, T => {
        let values = x.as_slice::<T>()?;
        let zero = T::default();
        let n = values.iter().filter(|v| **v != zero).count();
        let mut out = zeros::<i64>(&[x.rank(), n])?;
        let by = strides(x.shape());
        for (i, (at, _)) in values.iter().enumerate().filter(|(_, v)| **v != zero).enumerate() {
            for (d, &len) in x.shape().iter().enumerate() {
                out[d * n + i] = (at / by[d] % len) as i64;
            }
        }
        Tensor::new(vec![x.rank(), n], out)
    })
}

/// [`crate::op::Op::Unique`].
pub(super) fn unique(x: &Tensor, along: i64, sorted: bool) -> Result<Vec<Tensor>, String> {
    let at = axis(along, x.rank())?;
    let (len, inner) = around(x.shape(), at)?;
    if x.is_empty() && len > 0 {
        return Err(format!("slices without elements of {:?}", x.shape()));
    }
    let outer = count(&x.shape()[..at]).ok_or("too many elements")?;
    // Positions in order of value, and whether each differs from the one before.
    fn sort<T: Element + PartialOrd>(
        x: &Tensor,
        (outer, len, inner): (usize, usize, usize),
    ) -> Result<Vec<(usize, bool)>, String> {
        let from = x.as_slice::<T>()?;
        let compare = |a: usize, b: usize| {
            let each = |o: usize| {
                let slice = |n: usize| &from[(o * len + n) * inner..][..inner];
                slice(a).iter().zip(slice(b)).map(|(&a, &b)| order(a, b)).find(|o| *o != Ordering::Equal)
            };
            (0..outer).find_map(each).unwrap_or(Ordering::Equal)
        };
        let mut all: Vec<usize> = (0..len).collect();
        all.sort_unstable_by(|&a, &b| compare(a, b).then(a.cmp(&b)));
        let differs = |i: usize| i == 0 || compare(all[i - 1], all[i]) != Ordering::Equal;
        Ok((0..len).map(|i| (all[i], differs(i))).collect())
    }
    let places = for_elem!(any x, T => sort::<T>(x, (outer, len, inner)))?;
    // Of each group its first position and its size; equal slices are in order of position.
    let mut groups: Vec<(usize, i64)> = Vec::new();
    let mut of = vec![0usize; len];
    for &(place, new) in &places {
        match groups.last_mut() {
            Some(group) if !new => group.1 += 1,
            _ => groups.push((place, 1)),
        }
        of[place] = groups.len() - 1;
    }
    let mut shown: Vec<usize> = (0..groups.len()).collect();
    if !sorted {
        shown.sort_unstable_by_key(|&g| groups[g].0);
    }
    let mut rank = vec![0i64; groups.len()];
    for (i, &g) in shown.iter().enumerate() {
        rank[g] = i as i64;
    }
    let first = Tensor::vector(shown.iter().map(|&g| groups[g].0 as i64).collect());
    Ok(vec![
        gather(x, &first, along)?,
        first,
        Tensor::vector(of.iter().map(|&g| rank[g]).collect()),
        Tensor::vector(shown.iter().map(|&g| groups[g].1).collect()),
    ])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::eval::eval;
    use crate::op::Op;

    #[test]
    fn extremes_are_found_first_or_last_and_nan_before_all() {
        let x = t(&[2, 3], &[2f32, 5.0, 5.0, 1.0, f32::NAN, 0.0]);
        let arg = |axis, keepdims, largest, last| {
            run(Op::ArgReduce { axis, keepdims, largest, last }, std::slice::from_ref(&x))
        };
        assert_eq!(arg(1, false, true, false), t(&[2], &[1i64, 1]));
        assert_eq!(arg(1, true, true, true), t(&[2, 1], &[2i64, 1]));
        assert_eq!(arg(-1, false, false, false), t(&[2], &[0i64, 1]));
        assert_eq!(arg(0, false, false, false), t(&[3], &[1i64, 1, 1]));
        let op = Op::ArgReduce { axis: 0, keepdims: false, largest: true, last: false };
        refused(op, &[t(&[0, 2], &[0f32; 0])], "no extreme");
    }

    #[test]
    fn the_largest_are_what_sorting_gives_with_ties_in_order() {
        let mut numbers = Numbers(21);
        for _ in 0..100 {
            let shape = numbers.shape();
            let x = numbers.tensor(&shape);
            let along = numbers.below(shape.len());
            let k = numbers.below(shape[along] + 1);
            let largest = numbers.below(2) == 0;
            let op = Op::TopK { axis: along as i64, largest };
            let out = eval(&op, &[x.clone(), t(&[1], &[k as i64])]).unwrap();
            for i in 0..out[0].len() {
                let p = place(out[0].shape(), i);
                let mut line: Vec<(f32, i64)> = (0..shape[along])
                    .map(|n| {
                        let mut q = p.clone();
                        q[along] = n;
                        (at::<f32>(&x, &q), n as i64)
                    })
                    .collect();
                line.sort_by(|a, b| {
                    let o = a.0.total_cmp(&b.0);
                    (if largest { o.reverse() } else { o }).then(a.1.cmp(&b.1))
                });
                let (value, from) = line[p[along]];
                assert_eq!((at::<f32>(&out[0], &p), at::<i64>(&out[1], &p)), (value, from));
            }
        }
        let x = t(&[3], &[1i64, 2, 3]);
        refused(Op::TopK { axis: 0, largest: true }, &[x, Tensor::scalar(4i64)], "4 elements of an axis");
    }

    #[test]
    fn coordinates_of_what_is_not_zero() {
        let x = t(&[2, 2], &[true, false, true, true]);
        assert_eq!(run(Op::NonZero {}, &[x]), t(&[2, 3], &[0i64, 1, 1, 0, 0, 1]));
        assert_eq!(run(Op::NonZero {}, &[t(&[2], &[0f32, -0.0])]).shape(), [1, 0]);
    }

    #[test]
    fn unique_slices_equal_numpy() {
        // The examples of the ONNX documentation, which are numpy.unique's results.
        let x = t(&[6], &[2f32, 1.0, 1.0, 3.0, 4.0, 3.0]);
        let out = eval(&Op::Unique { axis: 0, sorted: false }, std::slice::from_ref(&x)).unwrap();
        assert_eq!(out[0], t(&[4], &[2f32, 1.0, 3.0, 4.0]));
        assert_eq!(out[1], t(&[4], &[0i64, 1, 3, 4]));
        assert_eq!(out[2], t(&[6], &[0i64, 1, 1, 2, 3, 2]));
        assert_eq!(out[3], t(&[4], &[1i64, 2, 2, 1]));
        let x = t(&[3, 3], &[1i32, 0, 0, 1, 0, 0, 2, 3, 4]);
        let out = eval(&Op::Unique { axis: 0, sorted: true }, &[x]).unwrap();
        assert_eq!(out[0], t(&[2, 3], &[1i32, 0, 0, 2, 3, 4]));
        assert_eq!(out[2], t(&[3], &[0i64, 0, 1]));
    }
}
