//! Operations that move elements without computing on them.

use super::walk::{Walk, copy_run};
use super::{build, for_elem, indices, scalar_i64, sorted_axes, strides};
use crate::tensor::{Tensor, axis, broadcast, count};

/// The elements that a walk over one operand visits, as a tensor of `shape`.
fn view(x: &Tensor, shape: Vec<usize>, walk: &Walk<1>) -> Result<Tensor, String> {
    for_elem!(any x, T => {
        let from = x.as_slice::<T>()?;
        build(shape, |start, out: &mut [T]| {
            walk.runs(start, out.len(), &mut |range, [at], [step]| copy_run(&mut out[range], from, at, step));
        })
    })
}

/// [`crate::op::Op::Shape`]: bounds count from the end when negative and are clamped.
pub(super) fn shape(x: &Tensor, start: i64, end: i64) -> Result<Tensor, String> {
    let rank = x.rank() as i64;
    let clamp = |v: i64| (if v < 0 { v.saturating_add(rank) } else { v }).clamp(0, rank) as usize;
    let (start, end) = (clamp(start), clamp(end));
    let lengths = x.shape()[start..end.max(start)].iter();
    let lengths = lengths.map(|&d| i64::try_from(d).map_err(|e| e.to_string()));
    Ok(Tensor::vector(lengths.collect::<Result<Vec<i64>, _>>()?))
}

/// [`crate::op::Op::Reshape`].
pub(super) fn reshape(x: &Tensor, to: &Tensor, allow_zero: bool) -> Result<Tensor, String> {
    let to = to.as_slice::<i64>()?;
    let unfit = || format!("shape {:?} as {to:?}", x.shape());
    let mut inferred = None;
    let mut shape = Vec::with_capacity(to.len());
    for (i, &d) in to.iter().enumerate() {
        shape.push(match d {
            0 if !allow_zero => *x.shape().get(i).ok_or_else(unfit)?,
            -1 if inferred.is_none() => {
                inferred = Some(i);
                1
            }
            _ => usize::try_from(d).map_err(|_| unfit())?,
        });
    }
    if let Some(i) = inferred {
        let rest = count(&shape).ok_or_else(unfit)?;
        if rest == 0 || !x.len().is_multiple_of(rest) {
            return Err(unfit());
        }
        shape[i] = x.len() / rest;
    }
    x.reshaped(shape).map_err(|_| unfit())
}

/// [`crate::op::Op::Flatten`].
pub(super) fn flatten(x: &Tensor, at: i64) -> Result<Tensor, String> {
    let at = if at == x.rank() as i64 { x.rank() } else { axis(at, x.rank())? };
    let part = |s: &[usize]| count(s).ok_or("too many elements");
    x.reshaped(vec![part(&x.shape()[..at])?, part(&x.shape()[at..])?])
}

/// Checks that `perm` names each of `rank` axes once.
pub(super) fn permutation(perm: &[i64], rank: usize) -> Result<(), String> {
    if sorted_axes(perm, rank)?.len() != rank || perm.iter().any(|&p| p < 0) {
        return Err(format!("{perm:?} is no permutation of {rank} axes"));
    }
    Ok(())
}

/// [`crate::op::Op::Transpose`].
pub(super) fn transpose(x: &Tensor, perm: &[i64]) -> Result<Tensor, String> {
    permutation(perm, x.rank())?;
    let by = strides(x.shape());
    let axes: Vec<_> = perm.iter().map(|&p| (x.shape()[p as usize], [by[p as usize] as isize])).collect();
    let shape = axes.iter().map(|a| a.0).collect();
    view(x, shape, &Walk::new(axes, [0]))
}

/// [`crate::op::Op::Concat`].
pub(super) fn concat(x: &[Tensor], along: i64) -> Result<Tensor, String> {
    let first = &x[0];
    let along = axis(along, first.rank())?;
    let mut shape = first.shape().to_vec();
    shape[along] = 0;
    for t in x {
        let fits =
            t.rank() == first.rank() && (0..t.rank()).all(|d| d == along || t.shape()[d] == first.shape()[d]);
        if !fits || t.elem() != first.elem() {
            return Err(format!(
                "{}{:?} beside {}{:?} along axis {along}",
                t.elem(),
                t.shape(),
                first.elem(),
                first.shape()
            ));
        }
        shape[along] = shape[along].checked_add(t.shape()[along]).ok_or("too many elements")?;
    }
    let inner = count(&first.shape()[along + 1..]).ok_or("too many elements")?;
    for_elem!(any first, T => {
        let mut ends = Vec::with_capacity(x.len());
        let mut row = 0usize;
        for t in x {
            let run = t.shape()[along].saturating_mul(inner);
            row = row.saturating_add(run);
            ends.push((row, run, t.as_slice::<T>()?));
        }
        build(shape, |start, out: &mut [T]| {
            let mut done = 0;
            while done < out.len() {
                let (outer, at) = ((start + done) / row, (start + done) % row);
                let (end, run, from) = ends[ends.partition_point(|e| e.0 <= at)];
                let n = (end - at).min(out.len() - done);
                let begin = outer * run + (at + run - end);
                out[done..done + n].copy_from_slice(&from[begin..begin + n]);
                done += n;
            }
        })
    })
}

/// The elements `from..from + len` of an axis.
fn cut(x: &Tensor, along: usize, from: usize, len: usize) -> Result<Tensor, String> {
    let by = strides(x.shape());
    let mut shape = x.shape().to_vec();
    shape[along] = len;
    let axes = shape.iter().zip(&by).map(|(&n, &s)| (n, [s as isize]));
    let walk = Walk::new(axes, [from.saturating_mul(by[along]) as isize]);
    view(x, shape, &walk)
}

/// [`crate::op::Op::Split`].
pub(super) fn split(x: &Tensor, along: i64, sizes: &[i64]) -> Result<Vec<Tensor>, String> {
    let along = axis(along, x.rank())?;
    let len = x.shape()[along];
    let unfit = || format!("an axis of length {len} in pieces of {sizes:?}");
    let lens = sizes.iter().map(|&s| usize::try_from(s).map_err(|_| unfit()));
    let lens = lens.collect::<Result<Vec<_>, _>>()?;
    if lens.iter().try_fold(0usize, |a, &b| a.checked_add(b)) != Some(len) {
        return Err(unfit());
    }
    let mut from = 0;
    let mut out = Vec::with_capacity(lens.len());
    for n in lens {
        out.push(cut(x, along, from, n)?);
        from += n;
    }
    Ok(out)
}

/// [`crate::op::Op::SplitAt`].
pub(super) fn split_at(x: &Tensor, sizes: &Tensor, along: i64, parts: i64) -> Result<Vec<Tensor>, String> {
    let sizes = indices(sizes)?;
    if i64::try_from(sizes.len()) != Ok(parts) {
        return Err(format!("{} sizes of {parts} pieces", sizes.len()));
    }
    split(x, along, &sizes)
}

/// [`crate::op::Op::SplitEqual`].
pub(super) fn split_equal(x: &Tensor, along: i64, parts: i64) -> Result<Vec<Tensor>, String> {
    let len = x.shape()[axis(along, x.rank())?];
    let unfit = || format!("an axis of length {len} in {parts} pieces");
    let parts = usize::try_from(parts).ok().filter(|&p| p > 0).ok_or_else(unfit)?;
    let piece = len.div_ceil(parts);
    // Not more pieces than elements, so that their list stays small.
    let before = piece.checked_mul(parts - 1).filter(|&b| b <= len && (len > 0 || parts <= 1 << 16));
    let last = len - before.ok_or_else(unfit)?;
    let mut sizes = vec![piece as i64; parts - 1];
    sizes.push(last as i64);
    split(x, along, &sizes)
}

/// [`crate::op::Op::Slice`].
pub(super) fn slice(
    x: &Tensor,
    starts: &Tensor,
    ends: &Tensor,
    axes: &Tensor,
    steps: &Tensor,
) -> Result<Tensor, String> {
    let (starts, ends) = (starts.as_slice::<i64>()?, ends.as_slice::<i64>()?);
    let (axes, steps) = (axes.as_slice::<i64>()?, steps.as_slice::<i64>()?);
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
        return Err(format!("starts {starts:?}, ends {ends:?}, axes {axes:?}, steps {steps:?}"));
    }
    sorted_axes(axes, x.rank())?;
    let mut shape = x.shape().to_vec();
    let mut by: Vec<isize> = strides(x.shape()).into_iter().map(|s| s as isize).collect();
    let mut base = 0isize;
    for (((&start, &end), &a), &step) in starts.iter().zip(ends).zip(axes).zip(steps) {
        let d = axis(a, x.rank())?;
        if step == 0 {
            return Err(format!("a step of 0 on axis {a}"));
        }
        let (len, start, end, step) = (shape[d] as i128, start as i128, end as i128, step as i128);
        let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
        let from = if start < 0 { start + len } else { start }.clamp(low.max(0), high.max(0));
        let to = if end < 0 { end + len } else { end }.clamp(low, high.max(low));
        let span = if step > 0 { to - from } else { from - to };
        let n = if len == 0 || span <= 0 { 0 } else { (span - 1) / step.abs() + 1 };
        shape[d] = n as usize;
        base = base.saturating_add((from as isize).saturating_mul(by[d]));
        if n > 1 {
            by[d] = by[d].saturating_mul(step as isize);
        }
    }
    let axes: Vec<_> = shape.iter().copied().zip(by.into_iter().map(|s| [s])).collect();
    view(x, shape, &Walk::new(axes, [base]))
}

/// [`crate::op::Op::Squeeze`].
pub(super) fn squeeze(x: &Tensor, axes: &[i64]) -> Result<Tensor, String> {
    let axes = sorted_axes(axes, x.rank())?;
    if let Some(&d) = axes.iter().find(|&&d| x.shape()[d] != 1) {
        return Err(format!("axis {d} of shape {:?} is not 1 long", x.shape()));
    }
    let kept = x.shape().iter().enumerate().filter(|(d, _)| axes.binary_search(d).is_err());
    x.reshaped(kept.map(|(_, &n)| n).collect())
}

/// [`crate::op::Op::SqueezeAt`].
pub(super) fn squeeze_at(x: &Tensor, axes: Option<&Tensor>) -> Result<Tensor, String> {
    match axes {
        Some(axes) => squeeze(x, &indices(axes)?),
        None => x.reshaped(x.shape().iter().copied().filter(|&n| n != 1).collect()),
    }
}

/// [`crate::op::Op::Unsqueeze`].
pub(super) fn unsqueeze(x: &Tensor, axes: &[i64]) -> Result<Tensor, String> {
    let new = sorted_axes(axes, x.rank() + axes.len())?;
    let mut rest = x.shape().iter().copied();
    let length = |d| if new.binary_search(&d).is_ok() { Some(1) } else { rest.next() };
    x.reshaped((0..x.rank() + axes.len()).filter_map(length).collect())
}

/// [`crate::op::Op::Expand`].
pub(super) fn expand(x: &Tensor, to: &Tensor) -> Result<Tensor, String> {
    let to = to.as_slice::<i64>()?;
    let wanted = to.iter().map(|&d| usize::try_from(d).map_err(|_| format!("a length of {d}")));
    let shape = broadcast(x.shape(), &wanted.collect::<Result<Vec<_>, _>>()?)?;
    let walk = Walk::broadcast(&shape, [x.shape()]);
    view(x, shape, &walk)
}

/// [`crate::op::Op::Trilu`].
pub(super) fn trilu(x: &Tensor, k: &Tensor, upper: bool) -> Result<Tensor, String> {
    let k = scalar_i64(k, "k")?;
    let &[.., rows, columns] = x.shape() else {
        return Err(format!("shape {:?} has no triangles", x.shape()));
    };
    for_elem!(any x, T => {
        let from = x.as_slice::<T>()?;
        build(x.shape().to_vec(), |start, out: &mut [T]| {
            for (i, o) in out.iter_mut().enumerate() {
                let at = start + i;
                let (row, column) = ((at / columns % rows) as i64, (at % columns) as i64);
                let diagonal = row.saturating_add(k);
                if if upper { column >= diagonal } else { column <= diagonal } {
                    *o = from[at];
                }
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::{eval, testing::*};
    use crate::op::Op;
    use crate::tensor::Tensor;

    fn counted(shape: &[usize]) -> Tensor {
        let n: usize = shape.iter().product();
        t(shape, &(0..n as i64).collect::<Vec<_>>())
    }

    fn ints(v: &[i64]) -> Tensor {
        t(&[v.len()], v)
    }

    #[test]
    fn transposing_equals_permuting_coordinates() {
        let mut numbers = Numbers(12);
        for _ in 0..200 {
            let shape = numbers.shape();
            let x = counted(&shape);
            let mut perm: Vec<i64> = (0..shape.len() as i64).collect();
            for i in (1..perm.len()).rev() {
                let j = numbers.below(i + 1);
                perm.swap(i, j);
            }
            let out = run(Op::Transpose { perm: perm.clone() }, std::slice::from_ref(&x));
            for (i, &v) in out.as_slice::<i64>().unwrap().iter().enumerate() {
                let p = place(out.shape(), i);
                let mut from = vec![0; p.len()];
                for (d, &axis) in perm.iter().enumerate() {
                    from[axis as usize] = p[d];
                }
                assert_eq!(v, at::<i64>(&x, &from));
            }
        }
        let x = counted(&[2, 3]);
        for perm in [vec![0], vec![0, 0], vec![0, 2], vec![0, -1]] {
            assert!(eval(&Op::Transpose { perm }, std::slice::from_ref(&x)).is_err());
        }
    }

    /// The positions from `start` to before `end`, found by stepping. Bounds are clamped as the ONNX
    /// text says, which unlike Python clamps a start before the first element to it for any step.
    fn steps(len: i64, start: i64, end: i64, step: i64) -> Vec<i64> {
        let back = |v: i64| if v < 0 { v.saturating_add(len) } else { v };
        let (mut i, end) = if step > 0 {
            (back(start).max(0), back(end).min(len))
        } else {
            (back(start).max(0).min(len - 1), back(end).max(-1))
        };
        let mut out = Vec::new();
        while if step > 0 { i < end } else { i > end } {
            if (0..len).contains(&i) {
                out.push(i);
            }
            i = i.saturating_add(step);
        }
        out
    }

    #[test]
    fn slices_equal_stepping_between_clamped_bounds() {
        for len in 0..5i64 {
            let x = counted(&[len as usize]);
            let ends = [i64::MIN, -6, -5, -3, -1, 0, 1, 3, 5, 6, i64::MAX];
            for start in ends {
                for end in ends {
                    for step in [i64::MIN, -2, -1, 1, 2, i64::MAX] {
                        let inputs = [x.clone(), ints(&[start]), ints(&[end]), ints(&[0]), ints(&[step])];
                        let got = run(Op::Slice {}, &inputs);
                        assert_eq!(got, ints(&steps(len, start, end, step)), "{len} {start}:{end}:{step}");
                    }
                }
            }
        }
        let x = counted(&[3, 4]);
        let slice =
            |s: &[i64], e: &[i64], a: &[i64], k: &[i64]| [x.clone(), ints(s), ints(e), ints(a), ints(k)];
        // Rows 2 and 0, columns 1 to 2.
        let got = run(Op::Slice {}, &slice(&[1, -1], &[3, -4], &[-1, 0], &[1, -2]));
        assert_eq!(got, t(&[2, 2], &[9i64, 10, 1, 2]));
        refused(Op::Slice {}, &slice(&[0], &[1], &[0], &[0]), "a step of 0");
        refused(Op::Slice {}, &slice(&[0], &[1], &[2], &[1]), "axis 2 of a tensor of rank 2");
        refused(Op::Slice {}, &slice(&[0, 0], &[1, 1], &[0, -2], &[1, 1]), "twice");
        refused(Op::Slice {}, &slice(&[0, 0], &[1], &[0], &[1]), "starts [0, 0]");
    }

    #[test]
    fn joining_undoes_splitting() {
        let mut numbers = Numbers(13);
        for _ in 0..100 {
            let mut shape = numbers.shape();
            let axis = numbers.below(shape.len());
            shape[axis] = numbers.below(8);
            let x = counted(&shape);
            let first = numbers.below(shape[axis] + 1);
            let second = numbers.below(shape[axis] - first + 1);
            let sizes = [first, second, shape[axis] - first - second].map(|n| n as i64).to_vec();
            let axis = axis as i64;
            let parts = eval(&Op::Split { axis, sizes: sizes.clone() }, std::slice::from_ref(&x)).unwrap();
            assert_eq!(parts.len(), 3);
            for (part, &size) in parts.iter().zip(&sizes) {
                assert_eq!(part.shape()[axis as usize] as i64, size);
            }
            assert_eq!(run(Op::Concat { axis }, &parts), x);
        }
        let x = counted(&[7, 2]);
        let parts = eval(&Op::SplitEqual { axis: 0, parts: 3 }, std::slice::from_ref(&x)).unwrap();
        let lens: Vec<usize> = parts.iter().map(|p| p.shape()[0]).collect();
        assert_eq!(lens, [3, 3, 1]);
        assert_eq!(run(Op::Concat { axis: -2 }, &parts), x);
        let one = std::slice::from_ref(&x);
        refused(Op::Split { axis: 0, sizes: vec![3, 3] }, one, "length 7 in pieces of [3, 3]");
        refused(Op::Split { axis: 0, sizes: vec![8, -1] }, one, "length 7 in pieces of [8, -1]");
        refused(Op::SplitEqual { axis: 0, parts: 0 }, one, "in 0 pieces");
        refused(Op::SplitEqual { axis: 0, parts: 6 }, one, "in 6 pieces");
        refused(Op::SplitEqual { axis: 0, parts: i64::MAX }, one, "pieces");
        refused(Op::Concat { axis: 0 }, &[x.clone(), counted(&[1, 3])], "i64[1, 3] beside i64[7, 2]");
        refused(Op::Concat { axis: 0 }, &[x.clone(), t(&[1, 2], &[0f32; 2])], "f32[1, 2] beside");
        refused(Op::Concat { axis: 0 }, &[], "0 inputs");
        refused(Op::Concat { axis: 0 }, &[Tensor::scalar(1i64)], "rank 0");
    }

    #[test]
    fn reshaping_infers_and_copies() {
        let x = counted(&[2, 0, 3]);
        let shape = |x: &Tensor, to: &[i64], allow_zero| {
            run(Op::Reshape { allow_zero }, &[x.clone(), ints(to)]).shape().to_vec()
        };
        let y = counted(&[2, 3, 4]);
        assert_eq!(shape(&y, &[-1], false), [24]);
        assert_eq!(shape(&y, &[0, -1], false), [2, 12]);
        assert_eq!(shape(&y, &[4, 0, -1], false), [4, 3, 2]);
        assert_eq!(shape(&x, &[3, 0, 4], true), [3, 0, 4]);
        assert_eq!(shape(&x, &[0, 0], false), [2, 0]);
        for (to, allow_zero) in [
            (&[5, -1][..], false),
            (&[-1, -1], false),
            (&[23], false),
            (&[-2], false),
            (&[0, -1], true),
            (&[2, 3, 4, 0], false),
        ] {
            refused(Op::Reshape { allow_zero }, &[y.clone(), ints(to)], "shape [2, 3, 4] as");
        }
        refused(Op::Reshape { allow_zero: false }, &[y.clone(), t(&[1], &[24i32])], "expected i64");
        let one = std::slice::from_ref(&y);
        let flat = |axis| run(Op::Flatten { axis }, one).shape().to_vec();
        assert_eq!([flat(0), flat(1), flat(3), flat(-1)], [[1, 24], [2, 12], [24, 1], [6, 4]]);
        refused(Op::Flatten { axis: 4 }, one, "axis 4");
        assert_eq!(run(Op::Flatten { axis: 0 }, &[Tensor::scalar(1u8)]).shape(), [1, 1]);
    }

    #[test]
    fn axes_of_length_one_come_and_go() {
        let x = counted(&[2, 3]);
        let wide = run(Op::Unsqueeze { axes: vec![-1, 0] }, std::slice::from_ref(&x));
        assert_eq!(wide.shape(), [1, 2, 3, 1]);
        assert_eq!(run(Op::Squeeze { axes: vec![0, 3] }, std::slice::from_ref(&wide)), x);
        assert_eq!(run(Op::Squeeze { axes: vec![-1] }, std::slice::from_ref(&wide)).shape(), [1, 2, 3]);
        refused(Op::Squeeze { axes: vec![1] }, &[wide], "axis 1 of shape [1, 2, 3, 1] is not 1 long");
        refused(Op::Unsqueeze { axes: vec![4] }, std::slice::from_ref(&x), "axis 4");
        refused(Op::Unsqueeze { axes: vec![0, -3] }, &[counted(&[2])], "twice");
    }

    #[test]
    fn shapes_are_read_and_expanded() {
        let x = counted(&[2, 1, 3]);
        let shape = |start, end| run(Op::Shape { start, end }, std::slice::from_ref(&x));
        assert_eq!(shape(0, 3), ints(&[2, 1, 3]));
        assert_eq!(shape(-1, i64::MAX), ints(&[3]));
        assert_eq!(shape(i64::MIN, -1), ints(&[2, 1]));
        assert_eq!(shape(2, 1), ints(&[]));
        let wide = run(Op::Expand {}, &[x.clone(), ints(&[4, 1, 2, 1])]);
        assert_eq!(wide.shape(), [4, 2, 2, 3]);
        for (i, &v) in wide.as_slice::<i64>().unwrap().iter().enumerate() {
            assert_eq!(v, at::<i64>(&x, &place(wide.shape(), i)));
        }
        refused(Op::Expand {}, &[x.clone(), ints(&[4])], "do not broadcast");
        refused(Op::Expand {}, &[x, ints(&[-1])], "a length of -1");
    }

    #[test]
    fn triangles_keep_their_diagonal() {
        let x = counted(&[2, 3, 4]);
        for (upper, k) in [(true, 0), (true, 2), (false, -1), (false, i64::MAX), (true, i64::MIN)] {
            let out = run(Op::Trilu { upper }, &[x.clone(), Tensor::scalar(k)]);
            for (i, &v) in out.as_slice::<i64>().unwrap().iter().enumerate() {
                let p = place(x.shape(), i);
                let distance = p[2] as i128 - p[1] as i128 - i128::from(k);
                let kept = if upper { distance >= 0 } else { distance <= 0 };
                assert_eq!(v, if kept { i as i64 } else { 0 });
            }
        }
        refused(Op::Trilu { upper: true }, &[ints(&[1]), Tensor::scalar(0i64)], "has no triangles");
        refused(Op::Trilu { upper: true }, &[x, ints(&[0, 1])], "not one integer");
    }

    #[test]
    fn computed_axes_and_sizes_are_those_of_the_operands() {
        let x = t(&[1, 3, 1], &[1f32, 2.0, 3.0]);
        let axes = |v: &[i64]| t(&[v.len()], v);
        assert_eq!(run(Op::SqueezeAt {}, &[x.clone(), axes(&[-1])]).shape(), [1, 3]);
        assert_eq!(run(Op::SqueezeAt {}, std::slice::from_ref(&x)).shape(), [3]);
        assert_eq!(run(Op::UnsqueezeAt {}, &[x.clone(), axes(&[0, -1])]).shape(), [1, 1, 3, 1, 1]);
        let split = Op::SplitAt { axis: 1, parts: 2 };
        let out = crate::eval::eval(&split, &[x.clone(), axes(&[1, 2])]).unwrap();
        assert_eq!(out[1], t(&[1, 2, 1], &[2f32, 3.0]));
        refused(split, &[x.clone(), axes(&[3])], "1 sizes of 2 pieces");
        refused(Op::SqueezeAt {}, &[x, axes(&[1])], "is not 1 long");
    }
}
