//! Inputs to check passes on: given ones, random ones and adversarial ones, by what each input stands for.
//!
//! Integers that look up a table are ids within it; those of tables of up to [`KINDS`] entries, and others (masks), are
//! 0 or 1. Dimensions of one name have one length; a sum or product of names has the length that follows.

use std::collections::BTreeMap;

use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::elem::Elem;
use pfmc_ir::eval;
use pfmc_ir::graph::{Graph, ValueId};
use pfmc_ir::op::Op;
use pfmc_ir::shape::Dim;
use pfmc_ir::tensor::Tensor;

use crate::codes::E0903;
use crate::passes::bind::open_dimensions;
use crate::samples::Inputs;

/// Tables with fewer entries tell kinds apart rather than tokens.
pub const KINDS: usize = 4;
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

/// splitmix64: G. Steele, D. Lea and C. Flood, OOPSLA 2014.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// About normal: the sum of 12 even numbers less 6 has variance 1.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| (self.next() >> 40) as f32 / (1u32 << 24) as f32).sum::<f32>() - 6.0
    }
}

/// Entries of the table that an integer value looks up, through what only moves or converts it.
pub fn table_entries(graph: &Graph, value: ValueId) -> Option<usize> {
    let mut next = vec![value];
    for _ in 0..64 {
        let v = next.pop()?;
        for id in graph.users(v) {
            let Some(node) = graph.node(id) else { continue };
            let entries = match node.op {
                Op::FixedLookup { n, .. } => usize::try_from(n).ok(),
                Op::Gather { axis } if node.inputs.get(1) == Some(&v) => (|| {
                    let table = graph.value(*node.inputs.first()?)?.ty.shape.as_ref()?;
                    let axis = pfmc_ir::tensor::axis(axis, table.len()).ok()?;
                    usize::try_from(table[axis].as_ref()?.value()?).ok()
                })(),
                _ => None,
            };
            if entries.is_some() {
                return entries;
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
        let mut sizes: BTreeMap<String, i64> = BTreeMap::new();
        for (i, name) in open_dimensions(graph).into_iter().enumerate() {
            // Names are sorted, so that a batch mostly comes first.
            sizes.insert(name, lengths[usize::from(i > 0)]);
        }
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
            Values::Random(_) if entries.is_none() && shape.last().is_some_and(|n| i % n.max(&1) == 0) => 1,
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
