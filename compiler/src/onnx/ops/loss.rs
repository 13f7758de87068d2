//! Losses, whose value an exported training graph computes. Nothing here is differentiated.

use pfmc_ir::graph::ValueId;
use pfmc_ir::op::{BinaryFn as B, Op, ReduceFn as Rf, UnaryFn as U};

use super::axes::Over;
use super::{FLOATS, OpInfo, op, softmax_along};
use crate::onnx::lower::{Ctx, R};

const LOSS_ATTRIBUTES: &[&str] = &["ignore_index", "reduction"];

pub(super) static LOSS: &[OpInfo] = &[
    op("NegativeLogLikelihoodLoss", 12, (2, 3), LOSS_ATTRIBUTES, "lowered", |c| {
        let x = c.x(0)?;
        Ok(vec![likelihood(c, x)?])
    })
    .on(FLOATS),
    op("SoftmaxCrossEntropyLoss", 12, (2, 3), LOSS_ATTRIBUTES, "lowered", |c| {
        let x = c.x(0)?;
        let log = softmax_along(c, x, 1, true)?;
        Ok(vec![likelihood(c, log)?, log])
    })
    .on(FLOATS),
];

/// The loss of log-probabilities [N, C, ..] and the node's targets [N, ..] and weights [C].
fn likelihood(c: &mut Ctx, log: ValueId) -> R<ValueId> {
    let ignore = c.attrs.int("ignore_index")?;
    let reduction = c.attrs.string("reduction")?;
    let mut target = c.i64_input(1)?;
    let ignored = match ignore {
        None => None,
        Some(i) => {
            let (i, zero) = (c.int_scalar(i), c.int_scalar(0));
            let ignored = c.bin(B::Equal, target, i)?;
            target = c.op(Op::Where {}, &[ignored, zero, target])?;
            Some(ignored)
        }
    };
    let at = c.op(Op::Unsqueeze { axes: vec![1] }, &[target])?;
    let picked = c.op(Op::GatherElements { axis: 1 }, &[log, at])?;
    let picked = c.op(Op::Squeeze { axes: vec![1] }, &[picked])?;
    let mut loss = c.un(U::Neg, picked)?;
    let zero = c.number_like(0.0, log)?;
    let mut weight = match c.opt(2)? {
        Some(w) => Some(c.op(Op::Gather { axis: 0 }, &[w, target])?),
        None if ignored.is_some() => Some(c.number_like(1.0, log)?),
        None => None,
    };
    if let (Some(w), Some(ignored)) = (weight, ignored) {
        weight = Some(c.op(Op::Where {}, &[ignored, zero, w])?);
    }
    if let Some(w) = weight {
        loss = c.bin(B::Mul, loss, w)?;
    }
    if let Some(ignored) = ignored {
        loss = c.op(Op::Where {}, &[ignored, zero, loss])?;
    }
    let over = Over::all(c, loss);
    match reduction.as_deref() {
        Some("none") => Ok(loss),
        Some("sum") => over.fold(c, Rf::Sum, loss, false),
        None | Some("mean") => match weight {
            None => over.fold(c, Rf::Mean, loss, false),
            Some(w) => {
                let (sum, weights) = (over.fold(c, Rf::Sum, loss, false)?, over.fold(c, Rf::Sum, w, false)?);
                c.bin(B::Div, sum, weights)
            }
        },
        Some(other) => Err(Ctx::value_of("reduction", other, "none, sum, mean")),
    }
}
