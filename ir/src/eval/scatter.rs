//! Changing elements by index. Updates are applied one after the other in their order, so that the
//! result is defined where two meet.

use super::elementwise::{larger, smaller};
use super::{Number, for_elem, index, indices, strides, zeros};
use crate::op::ScatterFn;
use crate::tensor::{Element, Tensor, axis, count};

/// [`crate::op::Op::ScatterElements`].
pub(super) fn scatter_elements(
    x: &Tensor,
    updates: &Tensor,
    at: &Tensor,
    along: i64,
    f: ScatterFn,
) -> Result<Tensor, String> {
    let along = axis(along, x.rank())?;
    let fits = at.rank() == x.rank()
        && at.shape() == updates.shape()
        && (0..x.rank()).all(|d| d == along || at.shape()[d] <= x.shape()[d]);
    if !fits {
        let (x, at, updates) = (x.shape(), at.shape(), updates.shape());
        return Err(format!("updates {updates:?} at indices {at:?} into {x:?} along axis {along}"));
    }
    let len = x.shape()[along];
    let (by, at_by) = (strides(x.shape()), strides(at.shape()));
    let place = |(n, i): (usize, i64)| -> Result<usize, String> {
        let i = index(i, len)?;
        let own = |d: usize| n / at_by[d] % at.shape()[d];
        Ok((0..by.len()).map(|d| by[d] * if d == along { i } else { own(d) }).sum())
    };
    let places = indices(at)?.into_iter().enumerate().map(place).collect::<Result<Vec<_>, _>>()?;
    put(x, updates, &places, 1, f)
}

/// [`crate::op::Op::ScatterNd`]: x `[n.., c..]`, indices `[i.., rank of n]`, updates `[i.., c..]`.
pub(super) fn scatter_nd(x: &Tensor, updates: &Tensor, at: &Tensor, f: ScatterFn) -> Result<Tensor, String> {
    let unfit = || format!("updates {:?} at indices {:?} into {:?}", updates.shape(), at.shape(), x.shape());
    let (&depth, rows) = at.shape().split_last().ok_or_else(unfit)?;
    let inner = x.shape().get(depth..).ok_or_else(unfit)?;
    if updates.shape().strip_prefix(rows) != Some(inner) {
        return Err(unfit());
    }
    if updates.is_empty() {
        return put(x, updates, &[], 1, f);
    }
    let (run, rows) = (count(inner).ok_or_else(unfit)?, count(rows).ok_or_else(unfit)?);
    let (by, values) = (strides(x.shape()), indices(at)?);
    let place = |r: usize| -> Result<usize, String> {
        let coordinates = values[r * depth..(r + 1) * depth].iter().enumerate();
        coordinates.map(|(d, &i)| Ok(by[d] * index(i, x.shape()[d])?)).sum()
    };
    let places = (0..rows).map(place).collect::<Result<Vec<_>, _>>()?;
    put(x, updates, &places, run, f)
}

/// `x` with each run of updates put at its place.
fn put(x: &Tensor, updates: &Tensor, places: &[usize], run: usize, f: ScatterFn) -> Result<Tensor, String> {
    fn write<T: Element + Default>(
        x: &Tensor,
        updates: &Tensor,
        places: &[usize],
        run: usize,
        f: impl Fn(T, T) -> T,
    ) -> Result<Tensor, String> {
        let mut out = zeros::<T>(x.shape())?;
        out.copy_from_slice(x.as_slice::<T>()?);
        for (&at, new) in places.iter().zip(updates.as_slice::<T>()?.chunks_exact(run)) {
            for (o, &v) in out[at..at + run].iter_mut().zip(new) {
                *o = f(*o, v);
            }
        }
        Tensor::new(x.shape().to_vec(), out)
    }
    if x.elem() != updates.elem() {
        return Err(format!("updates of {} are {}", x.elem(), updates.elem()));
    }
    let (u, p) = (updates, places);
    match f {
        ScatterFn::Replace => for_elem!(any x, T => write(x, u, p, run, |_: T, v| v)),
        ScatterFn::Add => for_elem!(number x, T => write(x, u, p, run, <T as Number>::add)),
        ScatterFn::Mul => for_elem!(number x, T => write(x, u, p, run, <T as Number>::mul)),
        ScatterFn::Max => for_elem!(number x, T => write(x, u, p, run, larger::<T>)),
        ScatterFn::Min => for_elem!(number x, T => write(x, u, p, run, smaller::<T>)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::op::Op;

    fn nd(f: ScatterFn, x: &Tensor, updates: Tensor, at: Tensor) -> Tensor {
        run(Op::ScatterNd { f }, &[x.clone(), updates, at])
    }

    #[test]
    fn updates_land_where_their_indices_say() {
        // The example of the ONNX documentation of ScatterElements.
        let x = t(&[3, 3], &[0f32; 9]);
        let at = t(&[2, 3], &[1i64, 0, 2, 0, 2, -2]);
        let updates = t(&[2, 3], &[1.0f32, 1.1, 1.2, 2.0, 2.1, 2.2]);
        let op = Op::ScatterElements { axis: 0, f: ScatterFn::Replace };
        let want = t(&[3, 3], &[2.0f32, 1.1, 0.0, 1.0, 0.0, 2.2, 0.0, 2.1, 1.2]);
        assert_eq!(run(op, &[x, updates, at]), want);
        // Slices and single elements, by hand.
        let x = t(&[2, 2], &[1i32, 2, 3, 4]);
        let row = nd(ScatterFn::Replace, &x, t(&[1, 2], &[8i32, 9]), t(&[1, 1], &[-1i64]));
        assert_eq!(row, t(&[2, 2], &[1i32, 2, 8, 9]));
    }

    #[test]
    fn updates_of_one_element_add_up_multiply_and_compete() {
        let x = t(&[2], &[2i32, 3]);
        let twice = |f| nd(f, &x, t(&[2], &[5i32, -7]), t(&[2, 1], &[0i64, 0]));
        assert_eq!(twice(ScatterFn::Add), t(&[2], &[0i32, 3]));
        assert_eq!(twice(ScatterFn::Mul), t(&[2], &[-70i32, 3]));
        assert_eq!(twice(ScatterFn::Max), t(&[2], &[5i32, 3]));
        assert_eq!(twice(ScatterFn::Min), t(&[2], &[-7i32, 3]));
        assert_eq!(twice(ScatterFn::Replace), t(&[2], &[-7i32, 3]));
    }

    #[test]
    fn unfit_updates_are_refused() {
        let x = t(&[2, 2], &[0f32; 4]);
        let elements = Op::ScatterElements { axis: 1, f: ScatterFn::Replace };
        let one = t(&[1, 1], &[0f32]);
        refused(elements.clone(), &[x.clone(), one.clone(), t(&[1, 1], &[2i64])], "index 2 of an axis");
        refused(elements.clone(), &[x.clone(), one.clone(), t(&[1, 2], &[0i64, 1])], "updates [1, 1]");
        refused(elements, &[x.clone(), t(&[3, 1], &[0f32; 3]), t(&[3, 1], &[0i64; 3])], "into [2, 2]");
        let nd = Op::ScatterNd { f: ScatterFn::Add };
        refused(nd.clone(), &[x.clone(), t(&[1], &[0f32]), t(&[1, 2], &[0i64, -3])], "index -3 of an axis");
        refused(nd.clone(), &[x.clone(), t(&[1], &[0f32]), t(&[1, 3], &[0i64; 3])], "indices [1, 3]");
        refused(nd, &[x, t(&[1], &[0i64]), t(&[1, 2], &[0i64; 2])], "updates of f32 are i64");
    }
}
