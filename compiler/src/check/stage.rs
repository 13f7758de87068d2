//! One pass: the graph before it, the graph after it, and what was promised.

use std::collections::{BTreeMap, BTreeSet};

use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::elem::Elem;
use pfmc_ir::eval;
use pfmc_ir::exec::{Executor, FixedMatrices, NoMatrices};
use pfmc_ir::graph::{Graph, ValueId};
use pfmc_ir::op::Op;
use pfmc_ir::origin::Origin;
use pfmc_ir::tensor::{Data, Tensor};
use pfmc_ir::verify::Verify;

use super::numbering::Numbering;
use super::{Method, Outcome, region};
use crate::codes::{E0310, E0312, E0314};
use crate::passes::Exactness;
use crate::samples::Inputs;

/// A graph with what its fixed matrices and data hold.
#[derive(Clone, Copy)]
pub struct Stage<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// Its matrices and data.
    pub fixed: &'a dyn FixedMatrices,
}

impl<'a> From<&'a Graph> for Stage<'a> {
    fn from(graph: &'a Graph) -> Self {
        Stage { graph, fixed: &NoMatrices }
    }
}

/// Whether a pass kept its promise, on any pair of graphs.
///
/// `after` must satisfy its verifier, have the inputs and outputs of `before` (an input may be known more precisely,
/// where a dimension was bound), and compute on each of `inputs` what `before` computes: the same bits, or within the
/// bound on rounding that the [module](super) states. Inputs that `before` refuses are counted and say nothing.
pub fn check_stage<'a>(
    before: impl Into<Stage<'a>>,
    after: impl Into<Stage<'a>>,
    exactness: Exactness,
    inputs: &[Inputs],
) -> Outcome {
    let (before, after) = (before.into(), after.into());
    let mut out = Outcome::default();
    if let Err(problems) = after.graph.verify() {
        out.problems = problems;
        return out;
    }
    out.problems.extend(interface(before.graph, after.graph));
    if !out.passed() {
        return out;
    }
    if let Err(problems) = compare(before, after, exactness, inputs, &mut out) {
        out.problems.extend(problems);
    }
    if out.passed() && out.methods.is_empty() {
        let d = Diagnostic::error(&E0314, "the graph before the pass refused every input");
        out.problems.push(d.help("give inputs that the model takes with --inputs"));
    }
    out
}

/// Proves what can be proved and runs the rest.
fn compare(
    before: Stage<'_>,
    after: Stage<'_>,
    exactness: Exactness,
    inputs: &[Inputs],
    out: &mut Outcome,
) -> Result<(), Diagnostics> {
    let typed = retyped(before.graph, after.graph);
    let mut numbering = Numbering::default();
    // Where types contradict each other only execution can tell whether they do on any input.
    let numbered =
        numbering.graph(&typed, before.fixed).ok().zip(numbering.graph(after.graph, after.fixed).ok());
    let proved = numbered.is_some_and(|(was, is)| {
        let mut pairs = before.graph.outputs().iter().zip(after.graph.outputs());
        pairs.all(|((_, b), (_, a))| was.contains_key(b) && was.get(b) == is.get(a))
    });
    if proved {
        out.by(Method::Proof);
        out.count("outputs proved", before.graph.outputs().len() as u64);
    }
    match exactness {
        Exactness::Rounding if !proved => {
            region::check(Stage { graph: &typed, ..before }, after, inputs, out)
        }
        _ => bits(before, after, inputs, out),
    }
}

/// What differs in the names, order and types of inputs and outputs.
fn interface(before: &Graph, after: &Graph) -> Diagnostics {
    let mut bad = Diagnostics::new();
    let inputs = |g: &Graph| -> BTreeMap<String, pfmc_ir::shape::OpenType> {
        g.inputs().iter().filter_map(|v| g.value(*v)).map(|v| (v.name.clone(), v.ty.clone())).collect()
    };
    let (was, is) = (inputs(before), inputs(after));
    for name in was.keys().chain(is.keys()).collect::<BTreeSet<_>>() {
        match (was.get(name), is.get(name)) {
            (Some(a), Some(b)) if a.admits(b) => {}
            (Some(a), Some(b)) => {
                bad.push(Diagnostic::error(&E0312, format!("input {name:?} was {a} and is {b}")));
            }
            (a, _) => {
                let what = if a.is_some() { "is gone" } else { "was not there" };
                bad.push(Diagnostic::error(&E0312, format!("input {name:?} {what}")));
            }
        }
    }
    let names = |g: &Graph| g.outputs().iter().map(|(n, _)| n.clone()).collect::<Vec<_>>();
    if names(before) != names(after) {
        let message = format!("the outputs were {:?} and are {:?}", names(before), names(after));
        bad.push(Diagnostic::error(&E0312, message));
    }
    bad
}

/// `before` with what is known of the inputs of `after`.
fn retyped(before: &Graph, after: &Graph) -> Graph {
    let mut out = before.clone();
    for v in after.inputs().iter().filter_map(|v| after.value(*v)) {
        let same = out.inputs().iter().copied().find(|i| out.value(*i).is_some_and(|i| i.name == v.name));
        if let Some(value) = same.and_then(|i| out.value_mut(i)) {
            value.ty = v.ty.clone();
        }
    }
    out
}

/// Values of two graphs that have the same name, and names that only one value of each has: inputs and outputs first
/// of all. In the order in which the second computes them.
pub(crate) fn matched(before: &Graph, after: &Graph) -> Vec<(String, ValueId, ValueId)> {
    let named = |g: &Graph| {
        let mut names: BTreeMap<String, Option<ValueId>> = BTreeMap::new();
        for v in g.nodes().filter(|(_, n)| !matches!(n.op, Op::Constant { .. })).flat_map(|(_, n)| &n.outputs)
        {
            let Some(name) = g.value(*v).map(|v| &v.name).filter(|n| !n.is_empty()) else { continue };
            names.entry(name.clone()).and_modify(|v| *v = None).or_insert(Some(*v));
        }
        names
    };
    let (was, is) = (named(before), named(after));
    let mut used: BTreeSet<&str> = BTreeSet::new();
    let mut pairs: BTreeMap<ValueId, (String, ValueId)> = BTreeMap::new();
    for (name, a) in is.iter().filter_map(|(n, a)| Some((n, (*a)?))) {
        if let Some(Some(b)) = was.get(name) {
            used.insert(name);
            pairs.insert(a, (name.clone(), *b));
        }
    }
    for (name, a) in after.outputs() {
        let old = before.outputs().iter().find(|(n, _)| n == name);
        if let Some((_, b)) = old.filter(|_| !pairs.contains_key(a) && used.insert(name)) {
            pairs.insert(*a, (name.clone(), *b));
        }
    }
    let order = after.order().unwrap_or_default();
    let values = order.iter().filter_map(|id| after.node(*id)).flat_map(|n| n.outputs.iter().copied());
    values.filter_map(|a| pairs.get(&a).map(|(name, b)| (name.clone(), *b, a))).collect()
}

/// A graph whose outputs are these values, under their numbers as names; the rest is as it was.
pub(crate) fn watching(graph: &Graph, values: impl IntoIterator<Item = ValueId>) -> Graph {
    let mut out = graph.clone();
    out.set_outputs(values.into_iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect());
    out
}

/// The first element of two tensors that differs, in words; `None` when all have the same bits or are NaN in both.
pub(crate) fn difference(want: &Tensor, got: &Tensor) -> Option<String> {
    if (want.elem(), want.shape()) != (got.elem(), got.shape()) {
        return Some(format!("{}{:?}, not {}{:?}", got.elem(), got.shape(), want.elem(), want.shape()));
    }
    macro_rules! floats {
        ($($kind:ident)*) => {
            match (want.data(), got.data()) {
                $((Data::$kind(w), Data::$kind(g)) => {
                    let at = w.iter().zip(g.iter()).position(|(w, g)| {
                        w.to_bits() != g.to_bits() && !(w.is_nan() && g.is_nan())
                    })?;
                    (at, format!("{:?}, not {:?}", g[at], w[at]))
                })*
                (w, g) if w == g => return None,
                _ => (0, "another integer".to_owned()),
            }
        };
    }
    let (at, what) = floats!(F32 F64 F16 BF16);
    Some(format!("element {at} of {:?} is {what}", want.shape()))
}

/// The elements in double precision; `None` where they have none.
pub(crate) fn doubles(t: &Tensor) -> Option<Vec<f64>> {
    let wide = eval::eval(&Op::Cast { to: Elem::F64 }, std::slice::from_ref(t)).ok()?.pop()?;
    wide.as_slice::<f64>().ok().map(<[f64]>::to_vec)
}

/// Runs both graphs on every input and compares the bits of their outputs.
fn bits(
    before: Stage<'_>,
    after: Stage<'_>,
    inputs: &[Inputs],
    out: &mut Outcome,
) -> Result<(), Diagnostics> {
    let (was, is) = (Executor::new(before.graph, before.fixed)?, Executor::new(after.graph, after.fixed)?);
    for given in inputs {
        let Ok(want) = was.run(given) else {
            out.count("inputs refused", 1);
            continue;
        };
        out.count("inputs", 1);
        out.by(Method::Interpreter);
        let got = is.run(given).map_err(|mut d| {
            d.0.iter_mut().for_each(|d| d.notes.push("the graph before the pass takes these inputs".into()));
            d
        })?;
        let differs = |(name, t): (&String, &Tensor)| Some((name.clone(), difference(t, got.get(name)?)?));
        if let Some((name, what)) = want.iter().find_map(differs) {
            let message = format!("output {name:?}: {what}");
            let (note, origin) = first_difference(before, after, given);
            let d = Diagnostic::error(&E0310, message).at(&origin);
            out.problems.push(if let Some(note) = note { d.note(note) } else { d });
            return Ok(());
        }
        out.count("elements", want.values().map(|t| t.len() as u64).sum());
    }
    Ok(())
}

/// Where two graphs differ first on an input, and where that node comes from.
fn first_difference(before: Stage<'_>, after: Stage<'_>, given: &Inputs) -> (Option<String>, Origin) {
    let pairs = matched(before.graph, after.graph);
    let was = watching(before.graph, pairs.iter().map(|p| p.1));
    let is = watching(after.graph, pairs.iter().map(|p| p.2));
    let run = |graph: &Graph, fixed| Executor::new(graph, fixed)?.run(given);
    let (Ok(want), Ok(got)) = (run(&was, before.fixed), run(&is, after.fixed)) else {
        return (None, Origin::default());
    };
    for (i, (name, _, a)) in pairs.iter().enumerate() {
        let (Some(w), Some(g)) = (want.get(&i.to_string()), got.get(&i.to_string())) else { continue };
        if let Some(what) = difference(w, g) {
            let origin = after.graph.producer(*a).map(|n| n.origin.clone()).unwrap_or_default();
            return (Some(format!("the first value that differs is {name:?}: {what}")), origin);
        }
    }
    (None, Origin::default())
}
