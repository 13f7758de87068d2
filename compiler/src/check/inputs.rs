//! Inputs to check passes on: given ones, random ones and adversarial ones, by what each input stands for.
//!
//! Integers that look up a table are ids within it; those of tables of up to [`KINDS`] entries, and others (masks), are
//! 0 or 1. Dimensions of one name have one length; a sum or product of names has the length that follows.

use std::collections::{BTreeMap, BTreeSet};

use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::elem::Elem;
use pfmc_ir::eval;
use pfmc_ir::graph::{Graph, ValueId};
use pfmc_ir::op::Op;
use pfmc_ir::random::Random;
use pfmc_ir::shape::Dim;
use pfmc_ir::tensor::Tensor;

use crate::codes::E0903;
use crate::passes::bind::open_dimensions;
use crate::samples::{Inputs, KINDS, entries_looked_up};

/// Length of an axis whose length nothing says.
const UNKNOWN: i64 = 3;

/// What the elements of an input are.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Values {
    /// Normal floats of this size, any ids, masks of both.
    Random(f32),
    /// Zeros; of floats, every other one is negative.
    Zeros,
    /// Ones.
    Ones,
    /// First and last ids in turn; floats of this size and either sign.
    Extremes(f32),
}

/// Kinds of inputs in order: name, contents, length of the first open dimension and of the others.
const SUITE: [(&str, Values, [i64; 2]); 10] = [
    ("random", Values::Random(1.0), [2, 7]),
    ("random again", Values::Random(1.0), [1, 5]),
    ("random, large", Values::Random(100.0), [2, 4]),
    ("random, length 1", Values::Random(1.0), [1, 1]),
    ("random, longer", Values::Random(1.0), [1, 33]),
    ("zeros of both signs", Values::Zeros, [2, 3]),
    ("ones", Values::Ones, [2, 3]),
    ("first and last ids, large magnitudes", Values::Extremes(1e4), [2, 6]),
    ("denormal floats", Values::Extremes(1e-40), [1, 4]),
    ("floats near the largest", Values::Extremes(3e38), [1, 4]),
];

/// An input set with what it is.
#[derive(Debug, Clone)]
pub struct Case {
    /// In words.
    pub name: String,
    /// Values.
    pub inputs: Inputs,
}

/// Entries of the table that an integer value looks up, through what only moves or converts it.
pub fn table_entries(graph: &Graph, value: ValueId) -> Option<usize> {
    let mut next = vec![value];
    for _ in 0..64 {
        let v = next.pop()?;
        for id in graph.users(v) {
            let Some(node) = graph.node(id) else { continue };
            if let Some(entries) = entries_looked_up(graph, node, v) {
                return Some(entries);
            }
            let moves = node.op.moves(node.inputs.len()).any(|i| node.inputs.get(i) == Some(&v));
            if moves || matches!(node.op, Op::Cast { .. }) {
                next.extend(&node.outputs);
            }
        }
    }
    None
}

/// Inputs of every kind for a graph; the same ones for the same graph.
///
/// # Errors
/// Inputs too large to make.
pub fn suite(graph: &Graph) -> Result<Vec<Case>, Diagnostics> {
    let cases = SUITE.iter().enumerate().map(|(i, (name, values, lengths))| {
        let mut random = Random(2026 + i as u64);
        let sizes = sizes(&open_dimensions(graph), *lengths);
        let mut inputs = Inputs::new();
        for value in graph.inputs() {
            let Some(v) = graph.value(*value) else { continue };
            let length = |d: &Option<Dim>| {
                let n = d.as_ref().and_then(|d| d.bind(&sizes)?.value()).unwrap_or(UNKNOWN);
                usize::try_from(n).unwrap_or(0)
            };
            let shape: Vec<usize> = v.ty.shape.iter().flatten().map(length).collect();
            let t = tensor(v.ty.elem, shape, *values, table_entries(graph, *value), &mut random);
            let t = t.map_err(|e| Diagnostic::error(&E0903, format!("input {:?}: {e}", v.name)))?;
            inputs.insert(v.name.clone(), t);
        }
        Ok(Case { name: (*name).to_owned(), inputs })
    });
    cases.collect()
}

/// Lengths of open dimensions: one for the first, which is mostly a batch, as names are sorted, and one for the others. A
/// name that is made of those of two others, as exporters call the length of past and present together, has their sum.
fn sizes(names: &BTreeSet<String>, [first, others]: [i64; 2]) -> BTreeMap<String, i64> {
    let plain = |name: &str| if names.first().is_some_and(|f| f == name) { first } else { others };
    let length = |name: &String| {
        let (mut rest, mut sum, mut parts) = (name.clone(), 0, 0);
        let mut longest: Vec<&String> = names.iter().filter(|n| *n != name).collect();
        longest.sort_by_key(|n| std::cmp::Reverse(n.len()));
        for part in longest {
            if rest.contains(part.as_str()) {
                rest = rest.replacen(part.as_str(), "", 1);
                (sum, parts) = (sum + plain(part), parts + 1);
            }
        }
        if parts > 1 { sum } else { plain(name) }
    };
    names.iter().map(|n| (n.clone(), length(n))).collect()
}

/// A tensor of some kind of values.
fn tensor(
    elem: Elem,
    shape: Vec<usize>,
    values: Values,
    entries: Option<usize>,
    random: &mut Random,
) -> Result<Tensor, String> {
    let count = pfmc_ir::tensor::count(&shape).filter(|n| *n <= 1 << 28).ok_or("it is too large")?;
    let sign = |i: usize| if i.is_multiple_of(2) { 1.0 } else { -1.0 };
    let made = if elem.is_float() {
        let mut value = |i: usize| match values {
            Values::Random(size) => size * random.normal(),
            Values::Zeros => 0.0 * sign(i),
            Values::Ones => 1.0,
            Values::Extremes(size) => size * sign(i),
        };
        Tensor::new(shape, (0..count).map(&mut value).collect::<Vec<f32>>())
    } else {
        let last = match entries {
            Some(n) if n > KINDS => i64::try_from(n).unwrap_or(i64::MAX) - 1,
            Some(n) => i64::try_from(n).unwrap_or(1).clamp(1, 2) - 1,
            None => 1,
        };
        let mut value = |i: usize| match values {
            // The first of a row is seen by a mask, so that attention has something to attend to.
            Values::Random(_)
                if entries.is_none() && shape.last().is_some_and(|n| i.is_multiple_of(*n.max(&1))) =>
            {
                1
            }
            Values::Random(_) => (random.next() >> 16).cast_signed() % (last + 1),
            Values::Zeros => 0,
            Values::Ones => last.min(1),
            Values::Extremes(_) => [0, last][i % 2],
        };
        let ids: Vec<i64> = (0..count).map(&mut value).collect();
        Tensor::new(shape, ids)
    }?;
    eval::eval(&Op::Cast { to: elem }, &[made])?.pop().ok_or_else(|| "nothing was made".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_past_and_present_together_are_their_sum() {
        let names = ["batch", "past_length", "past_length___length", "length", "total"].map(str::to_owned);
        let found = sizes(&names.clone().into(), [2, 7]);
        assert_eq!(names.map(|n| found[&n]), [2, 7, 14, 7, 7]);
    }
}
