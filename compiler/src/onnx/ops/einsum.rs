//! Einsum as transpositions, products of matrices and sums.

use std::collections::BTreeSet;

use pfmc_ir::diag::Diagnostic;
use pfmc_ir::elem::Elem;
use pfmc_ir::graph::ValueId;
use pfmc_ir::op::{BinaryFn as B, Op, ReduceFn as Rf};

use super::axes::NUMBERS;
use super::{MANY, OpInfo, op};
use crate::onnx::codes::E0105;
use crate::onnx::lower::{Ctx, R};

pub(super) static EINSUM: &[OpInfo] = &[op(
    "Einsum",
    12,
    (1, MANY),
    &["equation"],
    "lowered to transpose, matmul and reduce_sum, from left to right; needs known ranks",
    einsum,
)
.on(NUMBERS)];

/// Name of an axis: a letter, or one of those that an ellipsis stands for, counted from the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Dot(usize),
    Letter(char),
}

/// An operand with its axes' names.
type Term = (ValueId, Vec<Label>);

/// A part of the equation: the letters before and behind the ellipsis, if there is one.
fn parse(part: &str) -> Option<(Vec<Label>, Option<Vec<Label>>)> {
    let letters = |s: &str| -> Option<Vec<Label>> {
        s.chars().map(|l| l.is_ascii_alphabetic().then_some(Label::Letter(l))).collect()
    };
    match part.split_once("...") {
        Some((before, behind)) => Some((letters(before)?, Some(letters(behind)?))),
        None => Some((letters(part)?, None)),
    }
}

/// All names of a part whose ellipsis stands for `dots` axes.
fn spell((before, behind): (Vec<Label>, Option<Vec<Label>>), dots: usize) -> Vec<Label> {
    let mut all = before;
    if let Some(behind) = behind {
        all.extend((0..dots).rev().map(Label::Dot));
        all.extend(behind);
    }
    all
}

fn einsum(c: &mut Ctx) -> R<Vec<ValueId>> {
    let equation = c
        .attrs
        .string("equation")?
        .ok_or_else(|| Diagnostic::error(&E0105, "attribute equation is missing"))?;
    let bad = |why: &str| Ctx::form(format!("equation {equation:?} {why}"));
    let plain: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match plain.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (&plain[..], None),
    };
    let mut operands = c.all()?;
    let elem = c.elem(operands[0]);
    if operands.iter().any(|v| c.elem(*v) != elem) {
        return Err(Ctx::form("the operands have different element types"));
    }
    let parts: Vec<&str> = left.split(',').collect();
    if parts.len() != operands.len() {
        return Err(bad(&format!("has {} terms for {} operands", parts.len(), operands.len())));
    }
    // Products of matrices are there for 32 and 64 bits; the low bits of sums do not depend on the width.
    let narrow = elem.is_int() && !matches!(elem, Elem::I32 | Elem::I64);
    if narrow {
        for v in &mut operands {
            *v = c.op(Op::Cast { to: Elem::I64 }, &[*v])?;
        }
    }
    let (mut terms, mut most_dots) = (Vec::new(), 0);
    for (part, v) in parts.into_iter().zip(operands) {
        let spelled = parse(part).ok_or_else(|| bad("has other signs than letters, commas and ellipses"))?;
        let rank = c.rank(v)?;
        let letters = spelled.0.len() + spelled.1.as_ref().map_or(0, Vec::len);
        let dots = rank.checked_sub(letters).filter(|d| *d == 0 || spelled.1.is_some());
        let dots =
            dots.ok_or_else(|| bad(&format!("names the axes {part:?} of an operand of rank {rank}")))?;
        most_dots = most_dots.max(dots);
        terms.push((v, spell(spelled, dots)));
    }
    let output = match right {
        Some(right) => {
            let spelled = parse(right).ok_or_else(|| bad("has other signs than letters in its result"))?;
            spell(spelled, most_dots)
        }
        // The letters that occur once, in alphabetical order.
        None => {
            let all: Vec<Label> = terms.iter().flat_map(|t| t.1.iter().copied()).collect();
            let once = |l: &Label| all.iter().filter(|o| *o == l).count() == 1;
            let letters: BTreeSet<Label> =
                all.iter().copied().filter(|l| matches!(l, Label::Letter(_)) && once(l)).collect();
            (0..most_dots).rev().map(Label::Dot).chain(letters).collect()
        }
    };
    let given: BTreeSet<Label> = terms.iter().flat_map(|t| t.1.iter().copied()).collect();
    if output.iter().any(|l| !given.contains(l))
        || output.iter().collect::<BTreeSet<_>>().len() < output.len()
    {
        return Err(bad("has a result whose letters are not one each of the operands'"));
    }
    if given.iter().any(|l| matches!(l, Label::Dot(_)) && !output.contains(l)) {
        return Err(bad("sums over an ellipsis"));
    }
    for term in &mut terms {
        diagonals(c, term)?;
    }
    let mut rest = terms.into_iter();
    let mut found = rest.next().ok_or_else(|| bad("has no terms"))?;
    while let Some(next) = rest.next() {
        let mut needed: BTreeSet<Label> = output.iter().copied().collect();
        needed.extend(rest.as_slice().iter().flat_map(|t| t.1.iter().copied()));
        found = product(c, found, next, &needed)?;
    }
    let kept: BTreeSet<Label> = output.iter().copied().collect();
    sum_others(c, &mut found, &kept)?;
    let y = arrange(c, &found, &output)?;
    Ok(vec![if narrow { c.op(Op::Cast { to: elem }, &[y])? } else { y }])
}

/// Brings axes into an order.
fn arrange(c: &mut Ctx, (v, have): &Term, want: &[Label]) -> R<ValueId> {
    let perm: Option<Vec<i64>> =
        want.iter().map(|l| have.iter().position(|h| h == l).map(|p| p as i64)).collect();
    let perm = perm.ok_or_else(|| Ctx::form("an axis of the equation is in no operand"))?;
    if perm.iter().enumerate().all(|(i, &p)| i as i64 == p) {
        return Ok(*v);
    }
    c.op(Op::Transpose { perm }, &[*v])
}

/// Takes the diagonal of axes that have one name.
fn diagonals(c: &mut Ctx, term: &mut Term) -> R<()> {
    while let Some((first, second)) =
        (0..term.1.len()).find_map(|i| Some((i, (i + 1..term.1.len()).find(|&j| term.1[j] == term.1[i])?)))
    {
        let lengths = (c.length(term.0, first), c.length(term.0, second));
        if let (Some(a), Some(b)) = lengths
            && a != b
        {
            return Err(Ctx::form(format!("a letter names axes of lengths {a} and {b}")));
        }
        let others = (0..term.1.len()).filter(|d| *d != first && *d != second);
        let perm: Vec<i64> = [first, second].into_iter().chain(others).map(|d| d as i64).collect();
        let x = c.op(Op::Transpose { perm }, &[term.0])?;
        let n = c.length_of(x, 0)?;
        let n = c.count_to(n)?;
        let n = c.op(Op::Unsqueeze { axes: vec![1] }, &[n])?;
        let places = c.op(Op::Concat { axis: 1 }, &[n, n])?;
        let label = term.1.remove(second);
        term.1.remove(first);
        term.1.insert(0, label);
        term.0 = c.op(Op::GatherNd { batch_dims: 0 }, &[x, places])?;
    }
    Ok(())
}

/// Sums over the axes that are not kept.
fn sum_others(c: &mut Ctx, term: &mut Term, kept: &BTreeSet<Label>) -> R<()> {
    let axes: Vec<i64> = (0..).zip(&term.1).filter(|(_, l)| !kept.contains(l)).map(|(i, _)| i).collect();
    if !axes.is_empty() {
        term.0 = c.op(Op::Reduce { f: Rf::Sum, axes, keepdims: false }, &[term.0])?;
        term.1.retain(|l| kept.contains(l));
    }
    Ok(())
}

/// Product of two operands, summed over the axes that nothing needs any more.
fn product(c: &mut Ctx, mut a: Term, mut b: Term, needed: &BTreeSet<Label>) -> R<Term> {
    let with = |kept: &BTreeSet<Label>, other: &Term| -> BTreeSet<Label> {
        kept.iter().copied().chain(other.1.iter().copied()).collect()
    };
    let (keep_a, keep_b) = (with(needed, &b), with(needed, &a));
    sum_others(c, &mut a, &keep_a)?;
    sum_others(c, &mut b, &keep_b)?;
    let part = |of: &Term, other: &Term, both: bool, kept: bool| -> Vec<Label> {
        let fits = |l: &&Label| other.1.contains(l) == both && needed.contains(l) == kept;
        of.1.iter().filter(fits).copied().collect()
    };
    let mut batch = part(&a, &b, true, true);
    // Axes of an ellipsis may be 1 long in one operand: they lead, where products broadcast.
    batch.sort_unstable_by_key(|l| (!matches!(l, Label::Dot(_)), *l));
    let (summed, rows, columns) =
        (part(&a, &b, true, false), part(&a, &b, false, true), part(&b, &a, false, true));
    let x = arrange(c, &a, &[&batch[..], &rows, &summed].concat())?;
    let all = [&batch[..], &rows, &columns].concat();
    let (n, r, k) = (batch.len() as i64, rows.len() as i64, summed.len() as i64);
    if summed.is_empty() {
        let y = arrange(c, &b, &[&batch[..], &columns].concat())?;
        let columns = columns.len() as i64;
        let x = c.op(Op::Unsqueeze { axes: (n + r..n + r + columns).collect() }, &[x])?;
        let y = c.op(Op::Unsqueeze { axes: (n..n + r).collect() }, &[y])?;
        return Ok((c.bin(B::Mul, x, y)?, all));
    }
    let y = arrange(c, &b, &[&batch[..], &summed, &columns].concat())?;
    let x_shape = c.op(Op::Shape { start: 0, end: i64::MAX }, &[x])?;
    let y_shape = c.op(Op::Shape { start: 0, end: i64::MAX }, &[y])?;
    let x = merge(c, x, x_shape, &[n, n + r, n + r + k])?;
    let y = merge(c, y, y_shape, &[n, n + k, n + k + columns.len() as i64])?;
    let z = c.op(Op::MatMul {}, &[x, y])?;
    if rows.len() == 1 && columns.len() == 1 {
        return Ok((z, all));
    }
    let lead = c.op(Op::Shape { start: 0, end: n }, &[z])?;
    let shape = [lead, range(c, x_shape, n, n + r)?, range(c, y_shape, n + k, i64::MAX)?];
    let shape = c.op(Op::Concat { axis: 0 }, &shape)?;
    Ok((c.op(Op::Reshape { allow_zero: true }, &[z, shape])?, all))
}

/// The entries `from..to` of a vector.
fn range(c: &mut Ctx, v: ValueId, from: i64, to: i64) -> R<ValueId> {
    let parts = [from, to, 0, 1].map(|n| c.vector(vec![n]));
    c.op(Op::Slice {}, &[v, parts[0], parts[1], parts[2], parts[3]])
}

/// Merges the axes between neighbouring bounds into one each; those before the first stay.
fn merge(c: &mut Ctx, v: ValueId, shape: ValueId, bounds: &[i64]) -> R<ValueId> {
    if bounds.windows(2).all(|w| w[1] == w[0] + 1) {
        return Ok(v);
    }
    // A weight stays one tensor of the file, so that its product is with a fixed matrix.
    let lengths: Option<Vec<usize>> =
        (0..c.rank(v)?).map(|i| c.length(v, i).and_then(|l| usize::try_from(l).ok())).collect();
    if let Some(lengths) = lengths {
        let at = |b: i64| usize::try_from(b).unwrap_or(0);
        let lead = lengths.iter().take(at(bounds[0])).copied();
        let merged = bounds.windows(2).map(|w| {
            let part = lengths.get(at(w[0])..at(w[1])).unwrap_or_default();
            part.iter().fold(1usize, |n, l| n.saturating_mul(*l))
        });
        if let Some(v) = c.reshaped_constant(v, lead.chain(merged).collect()) {
            return Ok(v);
        }
    }
    let mut parts = vec![range(c, shape, 0, bounds[0])?];
    for w in bounds.windows(2) {
        let lengths = range(c, shape, w[0], w[1])?;
        parts.push(c.op(Op::Reduce { f: Rf::Prod, axes: vec![0], keepdims: true }, &[lengths])?);
    }
    let shape = c.op(Op::Concat { axis: 0 }, &parts)?;
    c.op(Op::Reshape { allow_zero: true }, &[v, shape])
}
