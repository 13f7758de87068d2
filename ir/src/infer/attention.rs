//! Types of attention and of what goes with it.

use super::{Fact, broadcast, same_length};
use crate::elem::Elem;
use crate::shape::{Dim, OpenDim, OpenType};

/// [`crate::op::Op::Rotary`].
pub(super) fn rotary(x: &[&Fact], dim: i64) -> Result<Fact, String> {
    let elem = x[0].ty.elem;
    if !elem.is_float() || x.iter().any(|f| f.ty.elem != elem) {
        return Err("needs floats of one type".into());
    }
    if dim < 0 || dim % 2 != 0 {
        return Err(format!("dim is {dim}, not an even length"));
    }
    let Some(d) = x[0].dims() else { return Ok(Fact::of(x[0].ty.clone())) };
    let Some((last, lead)) = d.split_last() else { return Err("needs rank 1 or more".into()) };
    if last.as_ref().and_then(Dim::value).is_some_and(|n| n < dim) {
        return Err(format!("dim {dim} is longer than the last axis"));
    }
    for f in &x[1..] {
        let Some((last, before)) = f.dims().and_then(<[_]>::split_last) else { continue };
        if last.as_ref().and_then(Dim::value).is_some_and(|n| n != dim && n != dim / 2) {
            return Err(format!("cos and sin need {dim} or {} entries", dim / 2));
        }
        broadcast(lead, before)?;
    }
    Ok(Fact::of(x[0].ty.clone()))
}

/// [`crate::op::Op::Attention`].
pub(super) fn attention(x: &[&Fact]) -> Result<Fact, String> {
    let elem = x[0].ty.elem;
    if !elem.is_float() || x[..3].iter().any(|f| f.ty.elem != elem) {
        return Err("needs floats of one type".into());
    }
    if x.get(3).is_some_and(|m| m.ty.elem != elem && m.ty.elem != Elem::Bool) {
        return Err("the mask must be bool or of the operands' type".into());
    }
    let known: Option<Vec<&[OpenDim]>> = x[..3].iter().map(|f| f.dims()).collect();
    let Some(known) = known else {
        let rank = x[..3].iter().find_map(|f| f.dims()).map(|d| vec![None; d.len()]);
        return Ok(Fact::of(OpenType { elem, shape: rank }));
    };
    let [q, k, v] = known[..] else { return Err("needs q, k and v".into()) };
    let rank = q.len();
    if rank < 3 || k.len() != rank || v.len() != rank {
        return Err("q, k and v need one rank of 3 or more".into());
    }
    for i in 0..rank - 3 {
        same_length(&q[i], &k[i])?;
        same_length(&q[i], &v[i])?;
    }
    same_length(&k[rank - 3], &v[rank - 3])?;
    same_length(&k[rank - 2], &v[rank - 2])?;
    same_length(&q[rank - 1], &k[rank - 1])?;
    let number = |d: &OpenDim| d.as_ref().and_then(Dim::value);
    if let (Some(h), Some(g)) = (number(&q[rank - 3]), number(&k[rank - 3]))
        && (g < 1 || h % g != 0)
    {
        return Err(format!("{h} heads do not share {g}"));
    }
    let mut scores = q.to_vec();
    scores[rank - 1].clone_from(&k[rank - 2]);
    if let Some(mask) = x.get(3).and_then(|m| m.dims()) {
        if mask.len() > rank {
            return Err("the mask has more axes than q".into());
        }
        broadcast(&scores, mask)?;
    }
    let mut shape = q.to_vec();
    shape[rank - 1].clone_from(&v[rank - 1]);
    Ok(Fact::of(OpenType { elem, shape: Some(shape) }))
}
