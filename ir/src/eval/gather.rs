//! Selection by index.

use super::{build, for_elem, index, indices, strides};
use crate::tensor::{Tensor, axis, count};

/// [`crate::op::Op::Gather`]: x `[a.., n, b..]`, indices `[i..]` to `[a.., i.., b..]`.
pub(super) fn gather(x: &Tensor, at: &Tensor, along: i64) -> Result<Tensor, String> {
    let along = axis(along, x.rank())?;
    let (outer, rest) = x.shape().split_at(along);
    let (len, inner) = (rest[0], &rest[1..]);
    let shape: Vec<usize> = outer.iter().chain(at.shape()).chain(inner).copied().collect();
    let rows = indices(at)?.into_iter().map(|i| index(i, len)).collect::<Result<Vec<_>, _>>()?;
    let inner = count(inner).ok_or("too many elements")?;
    for_elem!(any x, T => {
        let from = x.as_slice::<T>()?;
        build(shape, |start, out: &mut [T]| {
            let mut done = 0;
            while done < out.len() {
                let (row, column) = ((start + done) / inner, (start + done) % inner);
                let n = (inner - column).min(out.len() - done);
                let first = (row / rows.len() * len + rows[row % rows.len()]) * inner + column;
                out[done..done + n].copy_from_slice(&from[first..first + n]);
                done += n;
            }
        })
    })
}

/// [`crate::op::Op::GatherElements`]: of the indices' shape.
pub(super) fn gather_elements(x: &Tensor, at: &Tensor, along: i64) -> Result<Tensor, String> {
    let along = axis(along, x.rank())?;
    let fits = at.rank() == x.rank() && (0..x.rank()).all(|d| d == along || at.shape()[d] <= x.shape()[d]);
    if !fits {
        return Err(format!("indices {:?} into {:?} along axis {along}", at.shape(), x.shape()));
    }
    let len = x.shape()[along];
    let at_values = indices(at)?.into_iter().map(|i| index(i, len)).collect::<Result<Vec<_>, _>>()?;
    let (by, at_by) = (strides(x.shape()), strides(at.shape()));
    for_elem!(any x, T => {
        let from = x.as_slice::<T>()?;
        build(at.shape().to_vec(), |start, out: &mut [T]| {
            for (i, o) in out.iter_mut().enumerate() {
                let place: usize = (0..by.len())
                    .map(|d| {
                        let own = (start + i) / at_by[d] % at.shape()[d];
                        by[d] * if d == along { at_values[start + i] } else { own }
                    })
                    .sum();
                *o = from[place];
            }
        })
    })
}

/// [`crate::op::Op::GatherNd`]: x `[b.., n.., c..]`, indices `[b.., i.., rank of n]` to
/// `[b.., i.., c..]`.
pub(super) fn gather_nd(x: &Tensor, at: &Tensor, batch_dims: i64) -> Result<Tensor, String> {
    let unfit = || format!("indices {:?} into {:?} with {batch_dims} batch axes", at.shape(), x.shape());
    let batch = usize::try_from(batch_dims).map_err(|_| unfit())?;
    let (&depth, rows) = at.shape().split_last().ok_or_else(unfit)?;
    let last = batch.checked_add(depth).filter(|&last| last <= x.rank()).ok_or_else(unfit)?;
    if rows.len() < batch || rows[..batch] != x.shape()[..batch] {
        return Err(unfit());
    }
    let (indexed, inner) = (&x.shape()[batch..last], &x.shape()[last..]);
    let shape: Vec<usize> = rows.iter().chain(inner).copied().collect();
    let inner = count(inner).ok_or_else(unfit)?;
    let plane = count(indexed).ok_or_else(unfit)?;
    let per_batch = count(&rows[batch..]).ok_or_else(unfit)?;
    let values = indices(at)?;
    let places = count(rows).ok_or_else(unfit)?;
    let by = strides(indexed);
    let row = |r: usize| -> Result<usize, String> {
        let mut place = r / per_batch * plane;
        for (d, &i) in values[r * depth..(r + 1) * depth].iter().enumerate() {
            place += by[d] * index(i, indexed[d])?;
        }
        Ok(place * inner)
    };
    // A coordinate of no axes is never out of range, and there may be any number of them.
    if depth > 0 {
        (0..places).try_for_each(|r| row(r).map(|_| ()))?;
    }
    for_elem!(any x, T => {
        let from = x.as_slice::<T>()?;
        build(shape, |start, out: &mut [T]| {
            let mut done = 0;
            while done < out.len() {
                let (r, column) = ((start + done) / inner, (start + done) % inner);
                let n = (inner - column).min(out.len() - done);
                if let Ok(first) = row(r) {
                    out[done..done + n].copy_from_slice(&from[first + column..first + column + n]);
                }
                done += n;
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use crate::op::Op;
    use crate::tensor::Tensor;

    /// Random indices in -len..len and the positions they mean.
    fn some(numbers: &mut Numbers, n: usize, len: usize) -> (Vec<i64>, Vec<usize>) {
        (0..n)
            .map(|_| {
                let i = numbers.below(len);
                (if numbers.below(2) == 0 { i as i64 } else { i as i64 - len as i64 }, i)
            })
            .unzip()
    }

    #[test]
    fn gathering_equals_indexing_by_coordinates() {
        let mut numbers = Numbers(14);
        for _ in 0..200 {
            let shape = numbers.shape();
            let x = numbers.tensor(&shape);
            let along = numbers.below(shape.len());
            let axis = along as i64 - if numbers.below(2) == 0 { 0 } else { shape.len() as i64 };
            let at_shape: Vec<usize> = numbers.shape()[1..].to_vec();
            let (i, meant) = some(&mut numbers, at_shape.iter().product(), shape[along]);
            let out = run(Op::Gather { axis }, &[x.clone(), t(&at_shape, &i)]);
            for (j, &v) in out.as_slice::<f32>().unwrap().iter().enumerate() {
                let p = place(out.shape(), j);
                let index = &p[along..along + at_shape.len()];
                let which = index.iter().zip(&at_shape).fold(0, |o, (&i, &n)| o * n + i);
                let from = [&p[..along], &[meant[which]], &p[along + at_shape.len()..]].concat();
                assert_eq!(v, at::<f32>(&x, &from));
            }
            let mut one_each = shape.clone();
            one_each[along] = numbers.below(5);
            let (i, meant) = some(&mut numbers, one_each.iter().product(), shape[along]);
            let out = run(Op::GatherElements { axis }, &[x.clone(), t(&one_each, &i)]);
            for (j, &v) in out.as_slice::<f32>().unwrap().iter().enumerate() {
                let mut p = place(&one_each, j);
                p[along] = meant[j];
                assert_eq!(v, at::<f32>(&x, &p));
            }
        }
    }

    #[test]
    fn coordinates_name_what_the_onnx_reference_says() {
        let x = t(&[2, 2], &[0i32, 1, 2, 3]);
        let nd = |x: &Tensor, i: Tensor, batch_dims| run(Op::GatherNd { batch_dims }, &[x.clone(), i]);
        assert_eq!(nd(&x, t(&[2, 2], &[0i64, 0, 1, 1]), 0), t(&[2], &[0i32, 3]));
        assert_eq!(nd(&x, t(&[2, 1], &[1i64, -2]), 0), t(&[2, 2], &[2i32, 3, 0, 1]));
        let x = t(&[2, 2, 2], &[0i32, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(nd(&x, t(&[2, 2], &[0i64, 1, 1, 0]), 0), t(&[2, 2], &[2i32, 3, 4, 5]));
        assert_eq!(nd(&x, t(&[2, 1], &[1i64, 0]), 1), t(&[2, 2], &[2i32, 3, 4, 5]));
        assert_eq!(nd(&x, t(&[3, 0], &[0i64; 0]), 0).shape(), [3, 2, 2, 2]);
    }

    #[test]
    fn indices_out_of_range_and_unfit_shapes_are_refused() {
        let x = t(&[2, 3], &[0f32; 6]);
        let with = |i: Tensor| [x.clone(), i];
        refused(Op::Gather { axis: 1 }, &with(t(&[1], &[3i64])), "index 3 of an axis of length 3");
        refused(Op::Gather { axis: 1 }, &with(t(&[1], &[-4i32])), "index -4 of an axis of length 3");
        refused(Op::Gather { axis: 2 }, &with(t(&[1], &[0i64])), "axis 2 of a tensor of rank 2");
        refused(Op::Gather { axis: 0 }, &with(t(&[1], &[0f32])), "indices are f32");
        refused(Op::Gather { axis: 0 }, &[Tensor::scalar(1f32), t(&[1], &[0i64])], "rank 0");
        refused(Op::GatherElements { axis: 0 }, &with(t(&[1, 4], &[0i64; 4])), "indices [1, 4] into [2, 3]");
        refused(Op::GatherElements { axis: 0 }, &with(t(&[1], &[0i64])), "indices [1] into [2, 3]");
        refused(Op::GatherElements { axis: 0 }, &with(t(&[1, 1], &[2i64])), "index 2 of an axis of length 2");
        refused(Op::GatherNd { batch_dims: 0 }, &with(t(&[1, 3], &[0i64; 3])), "indices [1, 3] into [2, 3]");
        refused(
            Op::GatherNd { batch_dims: 0 },
            &with(t(&[1, 2], &[0i64, i64::MIN])),
            "of an axis of length 3",
        );
        refused(Op::GatherNd { batch_dims: 1 }, &with(t(&[3, 1], &[0i64; 3])), "with 1 batch axes");
        refused(Op::GatherNd { batch_dims: -1 }, &with(t(&[1, 1], &[0i64])), "with -1 batch axes");
        refused(Op::GatherNd { batch_dims: 0 }, &with(Tensor::scalar(0i64)), "into [2, 3]");
    }
}
