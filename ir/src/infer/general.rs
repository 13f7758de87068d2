//! Inference of the operations whose axes, sizes or counts are operands, of selections by value, of
//! scatters and of spectra.

use super::{Fact, MAX_FOLLOWED, infer, known, norm_axis, same_length, with_dim};
use crate::elem::Elem;
use crate::op::Op;
use crate::shape::{Dim, OpenDim, OpenType};

/// Number of elements of a vector operand.
fn entries(f: &Fact) -> Option<usize> {
    let [n] = f.dims()? else { return None };
    usize::try_from(n.as_ref()?.value()?).ok()
}

/// The number a scalar operand is known to be.
fn number(f: &Fact) -> Option<i64> {
    match f.numbers()?[..] {
        [v] => Some(v),
        _ => None,
    }
}

fn unknown(elem: Elem, rank: Option<usize>) -> Result<Vec<Fact>, String> {
    let shape = rank.filter(|r| *r <= MAX_FOLLOWED).map(|r| vec![None; r]);
    Ok(vec![Fact::of(OpenType { elem, shape })])
}

fn integers(f: &Fact, what: &str) -> Result<(), String> {
    if f.ty.elem.is_int() { Ok(()) } else { Err(format!("{what} must be integers")) }
}

/// As [`super::infer`], of these operations.
pub(super) fn general(op: &Op, x: &[&Fact]) -> Result<Vec<Fact>, String> {
    let elem = x[0].ty.elem;
    let typed = |elem, shape| Fact::of(OpenType { elem, shape });
    let same = || Ok(vec![typed(elem, x[0].ty.shape.clone())]);
    let rank = x[0].dims().map(<[_]>::len);
    match op {
        Op::CumProd { .. } => same(),
        Op::BitCast { to } => {
            if elem.bits() != to.bits() {
                return Err(format!("{to} has {} bits", to.bits()));
            }
            Ok(vec![typed(*to, x[0].ty.shape.clone())])
        }
        Op::ReduceOver { f, keepdims, noop } => {
            integers(x[1], "axes")?;
            match (x[1].numbers(), rank) {
                (Some(axes), _) if axes.is_empty() && *noop => same(),
                (Some(axes), Some(r)) if axes.is_empty() => {
                    infer(&Op::Reduce { f: *f, axes: (0..r as i64).collect(), keepdims: *keepdims }, &x[..1])
                }
                (Some(axes), _) => infer(&Op::Reduce { f: *f, axes, keepdims: *keepdims }, &x[..1]),
                (None, r) if *keepdims => unknown(elem, r),
                // Without axes the rank would be 0 or stay.
                (None, r) => match entries(x[1]).filter(|n| *n > 0) {
                    Some(n) => unknown(elem, r.and_then(|r| r.checked_sub(n))),
                    None => unknown(elem, None),
                },
            }
        }
        Op::SqueezeAt {} => match x.get(1) {
            None => {
                let lengths: Option<Vec<i64>> =
                    x[0].dims().and_then(|d| d.iter().map(|d| d.as_ref()?.value()).collect());
                match lengths {
                    Some(l) => {
                        let axes = (0..).zip(l).filter(|(_, l)| *l == 1).map(|(i, _)| i).collect();
                        infer(&Op::Squeeze { axes }, &x[..1])
                    }
                    None => unknown(elem, None),
                }
            }
            Some(at) => {
                integers(at, "axes")?;
                match at.numbers() {
                    Some(axes) => infer(&Op::Squeeze { axes }, &x[..1]),
                    None => unknown(elem, rank.zip(entries(at)).and_then(|(r, n)| r.checked_sub(n))),
                }
            }
        },
        Op::UnsqueezeAt {} => {
            integers(x[1], "axes")?;
            match x[1].numbers() {
                Some(axes) => infer(&Op::Unsqueeze { axes }, &x[..1]),
                None => unknown(elem, rank.zip(entries(x[1])).and_then(|(r, n)| r.checked_add(n))),
            }
        }
        Op::SplitAt { axis, parts } => {
            integers(x[1], "sizes")?;
            let n = usize::try_from(*parts)
                .ok()
                .filter(|n| (1..=4096).contains(n))
                .ok_or("bad number of parts")?;
            match x[1].numbers() {
                Some(sizes) if sizes.len() != n => Err(format!("{} sizes of {n} pieces", sizes.len())),
                Some(sizes) => infer(&Op::Split { axis: *axis, sizes }, &x[..1]),
                None => {
                    let piece = match x[0].dims() {
                        Some(d) => with_dim(elem, d, norm_axis(*axis, d.len())?, None),
                        None => typed(elem, None),
                    };
                    Ok(vec![piece; n])
                }
            }
        }
        Op::ArgReduce { axis, keepdims, .. } => {
            let Some(d) = x[0].dims() else { return unknown(Elem::I64, None) };
            let a = norm_axis(*axis, d.len())?;
            let mut shape = d.to_vec();
            if *keepdims {
                shape[a] = Some(Dim::known(1));
            } else {
                shape.remove(a);
            }
            Ok(vec![typed(Elem::I64, Some(shape))])
        }
        Op::TopK { axis, .. } => {
            integers(x[1], "k")?;
            let shape = match x[0].dims() {
                None => None,
                Some(d) => {
                    let a = norm_axis(*axis, d.len())?;
                    let k = number(x[1]);
                    let length = d[a].as_ref().and_then(Dim::value);
                    if let Some(k) = k
                        && (k < 0 || length.is_some_and(|l| k > l))
                    {
                        return Err(format!("k is {k}"));
                    }
                    let mut shape = d.to_vec();
                    shape[a] = x[1].value.as_ref().and_then(|v| v.first().cloned()).unwrap_or(None);
                    Some(shape)
                }
            };
            Ok(vec![typed(elem, shape.clone()), typed(Elem::I64, shape)])
        }
        Op::ScatterElements { axis, .. } => {
            integers(x[2], "indices")?;
            if x[1].ty.elem != elem {
                return Err("the updates have another element type".into());
            }
            if let Some(r) = rank {
                norm_axis(*axis, r)?;
                if x[1..].iter().any(|f| f.dims().is_some_and(|d| d.len() != r)) {
                    return Err("updates and indices need the data's rank".into());
                }
            }
            same()
        }
        Op::ScatterNd { .. } => {
            integers(x[2], "indices")?;
            if x[1].ty.elem != elem {
                return Err("the updates have another element type".into());
            }
            if let (Some(d), Some(i)) = (x[0].dims(), x[2].dims()) {
                let Some((last, _)) = i.split_last() else { return Err("indices of rank 0".into()) };
                let depth = last.as_ref().and_then(Dim::value);
                if depth.is_some_and(|n| n > d.len() as i64) {
                    return Err("the indices are deeper than the data".into());
                }
            }
            same()
        }
        Op::NonZero {} => Ok(vec![typed(Elem::I64, Some(vec![rank.and_then(known), None]))]),
        Op::Unique { axis, .. } => {
            let (first, length) = match x[0].dims() {
                None => (typed(elem, None), None),
                Some(d) => {
                    let a = norm_axis(*axis, d.len())?;
                    (with_dim(elem, d, a, None), d[a].clone())
                }
            };
            let list = |n: OpenDim| typed(Elem::I64, Some(vec![n]));
            Ok(vec![first, list(None), list(length), list(None)])
        }
        Op::Det {} => {
            let shape = match x[0].dims() {
                None => None,
                Some([batch @ .., m, n]) => {
                    same_length(m, n)?;
                    Some(batch.to_vec())
                }
                Some(_) => return Err("needs square matrices".into()),
            };
            Ok(vec![typed(elem, shape)])
        }
        Op::Dft { inverse, onesided } => {
            integers(x[1], "the axis")?;
            let Some(d) = x[0].dims() else { return unknown(elem, None) };
            let Some((last, _)) = d.split_last() else { return Err("rank 0 has no spectrum".into()) };
            if last.as_ref().and_then(Dim::value).is_some_and(|n| n != 1 && n != 2) {
                return Err("the last axis must be 1 or 2 long".into());
            }
            let half = *inverse && *onesided;
            let mut shape = d.to_vec();
            shape[d.len() - 1] = known(if half { 1 } else { 2 });
            match number(x[1]) {
                None => shape[..d.len() - 1].fill(None),
                Some(axis) => {
                    let a = norm_axis(axis, d.len())?;
                    if a + 1 == d.len() {
                        return Err("the last axis holds the parts of complex numbers".into());
                    }
                    let given = match x.get(2) {
                        Some(n) => n.value.as_ref().and_then(|v| v.first().cloned()).unwrap_or(None),
                        None if half => None,
                        None => d[a].clone(),
                    };
                    shape[a] = match (given.as_ref().and_then(Dim::value), *onesided && !*inverse) {
                        (Some(n), true) => Some(Dim::known(n / 2 + 1)),
                        (None, true) => None,
                        (_, false) if x.len() < 3 && half => {
                            d[a].as_ref().and_then(|d| d.sub(&Dim::known(1))?.mul(&Dim::known(2)))
                        }
                        (_, false) => given,
                    };
                }
            }
            Ok(vec![typed(elem, Some(shape))])
        }
        Op::MelWeights { to } => {
            let lines = number(x[1]).filter(|n| *n > 0).map(|n| Dim::known(n / 2 + 1));
            let bins = number(x[0]).filter(|n| *n > 0).map(Dim::known);
            Ok(vec![typed(*to, Some(vec![lines, bins]))])
        }
        _ => Err("has no inference".into()),
    }
}
