//! A model as its blocks: attention, feed-forward parts, norms, and how often they repeat.

use std::collections::BTreeMap;

use pfmc_ir::graph::{Graph, ValueId};
use pfmc_ir::op::{Op, UnaryFn as U};
use pfmc_ir::shape::{Dim, OpenType};
use serde::Serialize;

/// Longest repeated part, in steps.
const LONGEST: usize = 64;

/// Blocks that follow each other, as often as they do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    /// Number of the first repetition, counted over all repeated groups; `None` for what occurs once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
    /// How often.
    pub times: u64,
    /// The blocks of one repetition.
    pub parts: Vec<String>,
}

impl Group {
    /// `layer 0..5 x6`, or nothing for what occurs once.
    pub fn title(&self) -> String {
        match self.first {
            Some(first) => format!("layer {first}..{} x{}", first + self.times.max(1) - 1, self.times),
            None => String::new(),
        }
    }
}

/// A step of the model that is worth naming.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// A product with a fixed matrix.
    Linear(i64, i64),
    /// An attention, with what is known of its heads.
    Attention(String),
    /// Rotary positions.
    Rotary,
    /// A norm.
    Norm(&'static str),
    /// An activation.
    Activation(&'static str),
    /// Anything else.
    Other(String),
}

fn step(graph: &Graph<OpenType>, op: &Op, inputs: &[ValueId]) -> Option<Step> {
    let length = |input: usize, back: usize| -> Option<i64> {
        let d = graph.value(*inputs.get(input)?)?.ty.shape.as_ref()?;
        d.get(d.len().checked_sub(back)?)?.as_ref().and_then(Dim::value)
    };
    Some(match op {
        Op::FixedLinear { k, n, .. } => Step::Linear(*k, *n),
        Op::FixedLookup { k, n, .. } => Step::Other(format!("look-up {n}x{k}")),
        Op::Attention { .. } => {
            let mut said = Vec::new();
            if let (Some(h), Some(d)) = (length(0, 3), length(0, 1)) {
                said.push(format!("{h} heads of {d}"));
            }
            if let Some(g) = length(1, 3).filter(|g| Some(*g) != length(0, 3)) {
                said.push(format!("{g} of keys and values"));
            }
            Step::Attention(said.join(", "))
        }
        Op::Rotary { .. } => Step::Rotary,
        Op::LayerNorm { .. } | Op::RmsNorm { .. } => {
            Step::Norm(if matches!(op, Op::RmsNorm { .. }) { "rms_norm" } else { "layer_norm" })
        }
        Op::Unary(f @ (U::Gelu | U::GeluTanh | U::Silu | U::Relu | U::Tanh | U::Sigmoid)) => {
            Step::Activation(f.name())
        }
        Op::MatMul {} | Op::Conv { .. } | Op::Softmax { .. } | Op::Patches { .. } => {
            Step::Other(op.name().to_owned())
        }
        _ => return None,
    })
}

/// The blocks of a graph whose fixed matrices have been found.
pub fn blocks(graph: &Graph<OpenType>) -> Vec<Group> {
    let mut steps = Vec::new();
    for id in graph.order().unwrap_or_default() {
        if let Some(n) = graph.node(id) {
            steps.extend(step(graph, &n.op, &n.inputs));
        }
    }
    let mut ids = BTreeMap::new();
    for s in &steps {
        let next = ids.len();
        ids.entry(s).or_insert(next);
    }
    let codes: Vec<usize> = steps.iter().filter_map(|s| ids.get(s).copied()).collect();
    let mut cuts = Vec::new();
    cut(&codes, 0, &mut cuts);
    let mut layers = 0;
    let mut out: Vec<Group> = Vec::new();
    for (from, period, times) in cuts {
        let parts = name(&steps[from..from + period]);
        let first = (times > 1).then_some(layers);
        if times > 1 {
            layers += times;
        }
        out.push(Group { first, times, parts });
    }
    out
}

/// Cuts steps into repeated and single parts: first step, length, times. The repetition that covers
/// most goes first, then what is before and after it.
fn cut(codes: &[usize], offset: usize, out: &mut Vec<(usize, usize, u64)>) {
    let mut best = (0, 0, codes.len(), 1);
    for period in 2..=LONGEST.min(codes.len() / 2) {
        // Number of steps from each on that equal those one period later.
        let mut run = 0;
        for from in (0..codes.len() - period).rev() {
            run = if codes[from] == codes[from + period] { run + 1 } else { 0 };
            let times = run / period + 1;
            let covered = times * period;
            if times > 1 && (covered > best.0 || (covered == best.0 && period <= best.2)) {
                best = (covered, from, period, times);
            }
        }
    }
    let (covered, from, period, times) = best;
    if codes.is_empty() {
        return;
    }
    if covered == 0 {
        out.push((offset, codes.len(), 1));
        return;
    }
    cut(&codes[..from], offset, out);
    out.push((offset + from, period, times as u64));
    cut(&codes[from + covered..], offset + from + covered, out);
}

/// Names steps, those of an attention and of a feed-forward part together.
fn name(steps: &[Step]) -> Vec<String> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(rest) = steps.get(at..).filter(|r| !r.is_empty()) {
        let (text, taken) = attention(rest).or_else(|| mlp(rest)).unwrap_or_else(|| {
            let text = match &rest[0] {
                Step::Linear(k, n) => format!("linear {k}x{n}"),
                Step::Attention(said) => format!("attention({said})"),
                Step::Rotary => "rotary".to_owned(),
                Step::Norm(n) | Step::Activation(n) => (*n).to_owned(),
                Step::Other(n) => n.clone(),
            };
            (text, 1)
        });
        out.push(text);
        at += taken;
    }
    out
}

/// Products, norms of queries and keys, rotary positions, attention and its output product.
fn attention(steps: &[Step]) -> Option<(String, usize)> {
    let at = steps.iter().position(|s| matches!(s, Step::Attention(_)))?;
    let Step::Attention(said) = &steps[at] else { return None };
    let inside = |s: &Step| matches!(s, Step::Linear(..) | Step::Rotary | Step::Norm(_));
    if !matches!(steps[0], Step::Linear(..)) || !steps[..at].iter().all(inside) {
        return None;
    }
    let products: Vec<String> = steps[..at]
        .iter()
        .filter_map(|s| if let Step::Linear(k, n) = s { Some(format!("{k}x{n}")) } else { None })
        .collect();
    let mut parts: Vec<String> = Some(said.clone()).filter(|s| !s.is_empty()).into_iter().collect();
    match &products[..] {
        [q, k, v] if q == k && k == v => parts.push(format!("q,k,v {q}")),
        [q, k, v] if k == v => parts.push(format!("q {q}, k,v {k}")),
        [qkv] => parts.push(format!("qkv {qkv}")),
        other => parts.push(format!("products {}", other.join(", "))),
    }
    if let Some(Step::Norm(n)) = steps[..at].iter().find(|s| matches!(s, Step::Norm(_))) {
        parts.push(format!("{n} of q,k"));
    }
    if steps[..at].contains(&Step::Rotary) {
        parts.push("rotary".to_owned());
    }
    let mut taken = at + 1;
    if let Some(Step::Linear(k, n)) = steps.get(taken) {
        parts.push(format!("out {k}x{n}"));
        taken += 1;
    }
    Some((format!("attention({})", parts.join(", ")), taken))
}

/// Two products with an activation between, and a third beside the first where there is a gate.
fn mlp(steps: &[Step]) -> Option<(String, usize)> {
    use Step::{Activation as A, Linear as L};
    match *steps {
        [L(k, n), A(f), L(n2, m), ..] if n == n2 => Some((format!("mlp {k}-{n}-{m} {f}"), 3)),
        [L(k, n), A(f), L(k2, n2), L(n3, m), ..] | [L(k, n), L(k2, n2), A(f), L(n3, m), ..]
            if k == k2 && n == n2 && n == n3 =>
        {
            Some((format!("gated mlp {k}-{n}-{m} {f}"), 4))
        }
        _ => None,
    }
}
