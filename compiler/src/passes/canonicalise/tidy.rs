//! Operations that change nothing, and operations done twice.

use std::collections::BTreeMap;

use bytes::Bytes;
use pfmc_ir::graph::{NodeId, ValueId};
use pfmc_ir::op::{BinaryFn as B, Op};

use super::pattern::Net;

/// Largest constant, in bytes, that is compared with others by its contents.
const COMPARED: usize = 1 << 10;

/// Merges nodes of one operation and the same operands. Returns how many went.
pub(super) fn merge(net: &mut Net) -> u64 {
    let mut known: BTreeMap<(String, Bytes), Vec<ValueId>> = BTreeMap::new();
    let mut merged = 0;
    for id in net.0.order().unwrap_or_default() {
        let Some(n) = net.0.node(id) else { continue };
        let key = match &n.op {
            Op::Input {} => continue,
            Op::Constant { id } => {
                let Some(c) = net.0.consts.get(*id) else { continue };
                let Some(bytes) = c.bytes().filter(|b| b.len() <= COMPARED && !c.learned) else { continue };
                (format!("{}{:?}", c.elem, c.shape), bytes.clone())
            }
            op => (format!("{op:?}{:?}", n.inputs), Bytes::new()),
        };
        let outputs = n.outputs.clone();
        match known.get(&key) {
            Some(first) if first.len() == outputs.len() => {
                let first = first.clone();
                for (v, new) in outputs.into_iter().zip(first) {
                    net.0.replace_uses(v, new);
                }
                net.0.remove(id);
                merged += 1;
            }
            _ => {
                known.insert(key, outputs);
            }
        }
    }
    merged
}

/// Removes one operation that changes nothing, or joins it with its operand's.
pub(super) fn simplify(net: &mut Net, id: NodeId) -> Option<()> {
    let v = net.result(id)?;
    let n = net.0.node(id)?;
    let x = *n.inputs.first()?;
    let whole = net.same_shape(v, x);
    match &n.op {
        Op::Cast { to } if net.elem(x) == Some(*to) => net.alias(v, x),
        Op::Reshape { .. } | Op::Flatten { .. } | Op::Expand {} | Op::Slice {} if whole => {
            // A slice of the whole may still turn an axis around.
            let backwards = matches!(n.op, Op::Slice {}) && net.ints(n.inputs[4])?.iter().any(|&s| s < 0);
            if backwards { None } else { net.alias(v, x) }
        }
        Op::Reshape { allow_zero } => {
            let inner = net.made(x)?;
            let keeps = matches!(
                inner.op,
                Op::Reshape { .. } | Op::Flatten { .. } | Op::Squeeze { .. } | Op::Unsqueeze { .. }
            );
            // A 0 would copy another axis's length.
            let plain = *allow_zero || net.ints(n.inputs[1]).is_some_and(|s| !s.contains(&0));
            if !keeps || !plain {
                return None;
            }
            let (op, inputs) = (n.op.clone(), vec![inner.inputs[0], n.inputs[1]]);
            net.become_of(v, op, inputs)
        }
        Op::Transpose { perm } => {
            if perm.iter().copied().eq(0..perm.len() as i64) {
                return net.alias(v, x);
            }
            let inner = net.made(x)?;
            let Op::Transpose { perm: before } = &inner.op else { return None };
            let joined: Vec<i64> =
                perm.iter().map(|&p| before.get(usize::try_from(p).ok()?).copied()).collect::<Option<_>>()?;
            let source = inner.inputs[0];
            net.become_of(v, Op::Transpose { perm: joined }, vec![source])
        }
        Op::Binary(f @ (B::Add | B::Sub | B::Mul | B::Div | B::And | B::Or)) => {
            let f = *f;
            let nothing = match f {
                B::Mul | B::Div | B::And => 1.0,
                _ => 0.0,
            };
            let (a, b) = (n.inputs[0], n.inputs[1]);
            let both = !matches!(f, B::Sub | B::Div);
            if net.same_shape(v, a) && net.splat(b) == Some(nothing) {
                net.alias(v, a)
            } else if both && net.same_shape(v, b) && net.splat(a) == Some(nothing) {
                net.alias(v, b)
            } else {
                None
            }
        }
        Op::Where {} => {
            let taken = if net.splat(x)? == 0.0 { n.inputs[2] } else { n.inputs[1] };
            if net.same_shape(v, taken) { net.alias(v, taken) } else { None }
        }
        _ => None,
    }
}
