//! A model as its blocks: attention, feed-forward parts, norms, convolutions, and how often they repeat.

use std::collections::BTreeMap;

use pfmc_ir::graph::{Graph, Node};
use pfmc_ir::op::{BinaryFn, Op, UnaryFn as U};
use pfmc_ir::shape::{Dim, OpenType};
use pfmc_ir::tile::MatrixId;
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
    /// A convolution of single points, `1x1` or as many axes: kernel, inputs, outputs.
    Point(String, i64, i64),
    /// Another convolution with fixed weights.
    Conv(String),
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

/// `3x3`, with strides `3x3/2`, with dilations `3x3 dilated 2`; one number for all axes where they agree.
fn window(kernel: &[i64], strides: &[i64], dilations: &[i64]) -> String {
    let joined = |v: &[i64]| v.iter().map(i64::to_string).collect::<Vec<_>>().join("x");
    let short = |v: &[i64]| match v {
        [first, rest @ ..] if rest.iter().all(|d| d == first) => first.to_string(),
        _ => joined(v),
    };
    let mut text = joined(kernel);
    if strides.iter().any(|&s| s != 1) {
        text += &format!("/{}", short(strides));
    }
    if dilations.iter().any(|&d| d != 1) {
        text += &format!(" dilated {}", short(dilations));
    }
    text
}

/// The convolution whose product a node is.
fn convolution(graph: &Graph<OpenType>, node: &Node) -> Option<Step> {
    let (k, n, groups) = match node.op {
        Op::FixedLinear { k, n, .. } => (k, n, 1),
        Op::FixedGrouped { k, n, groups, .. } => (k, n, groups),
        _ => return None,
    };
    let of_groups = |text: String| match groups {
        1 => text,
        _ => format!("{text} in {groups} groups"),
    };
    let mut source = graph.producer(*node.inputs.first()?)?;
    while let Op::Reshape { .. } | Op::Cast { .. } = source.op {
        source = graph.producer(*source.inputs.first()?)?;
    }
    let perm = match &source.op {
        Op::Patches { kernel, strides, dilations, .. } => {
            let taps = kernel.iter().try_fold(1i64, |a, &d| a.checked_mul(d)).filter(|t| *t > 0)?;
            let text = window(kernel, strides, dilations);
            return Some(Step::Conv(if groups == n && k == taps && n > 1 {
                format!("depthwise {text} {n}")
            } else {
                of_groups(format!("conv {text} {}->{n}", (k / taps).checked_mul(groups)?))
            }));
        }
        Op::Transpose { perm } => perm,
        _ => return None,
    };
    // Channels last, and first again behind the product.
    let last = i64::try_from(perm.len()).ok()? - 1;
    let channels_last: Vec<i64> = std::iter::once(0).chain(2..=last).chain([1]).collect();
    let back: Vec<i64> = [0, last].into_iter().chain(1..last).collect();
    let only_user = |node: &Node| match graph.users(*node.outputs.first()?)[..] {
        [user] => graph.node(user),
        _ => None,
    };
    let mut user = only_user(node)?;
    while let Op::Unary(U::Round) | Op::Cast { .. } | Op::Binary(BinaryFn::Add) = user.op {
        user = only_user(user)?;
    }
    if last < 2 || *perm != channels_last || !matches!(&user.op, Op::Transpose { perm } if *perm == back) {
        return None;
    }
    let inputs = k.checked_mul(groups)?;
    if let Some(Node { op: Op::ConvTranspose { strides, dilations, .. }, inputs: operands, .. }) =
        only_user(user)
        && let Some((_, ones)) = operands.get(1).and_then(|w| graph.constant(*w))
    {
        let kernel: Vec<i64> = ones.shape.iter().skip(2).map(|&d| d as i64).collect();
        let taps = kernel.iter().try_fold(1i64, |a, &d| a.checked_mul(d)).filter(|t| *t > 0)?;
        let text = window(&kernel, strides, dilations);
        return Some(Step::Conv(of_groups(format!("transposed conv {text} {inputs}->{}", n / taps))));
    }
    let ones = window(&vec![1; perm.len() - 2], &[], &[]);
    Some(match groups {
        1 => Step::Point(ones, k, n),
        _ => Step::Conv(of_groups(format!("conv {ones} {inputs}->{n}"))),
    })
}

fn step(graph: &Graph<OpenType>, node: &Node) -> Option<Step> {
    let (op, inputs) = (&node.op, &node.inputs[..]);
    let length = |input: usize, back: usize| -> Option<i64> {
        let d = graph.value(*inputs.get(input)?)?.ty.shape.as_ref()?;
        d.get(d.len().checked_sub(back)?)?.as_ref().and_then(Dim::value)
    };
    if let Some(step) = convolution(graph, node) {
        return Some(step);
    }
    Some(match op {
        Op::FixedLinear { k, n, .. } => Step::Linear(*k, *n),
        Op::FixedGrouped { k, n, groups, .. } => {
            Step::Other(format!("grouped linear {k}x{n} in {groups} groups"))
        }
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
        Op::Pool { f, kernel, strides, dilations, .. } => {
            Step::Other(format!("{} pool {}", f.name(), window(kernel, strides, dilations)))
        }
        Op::MatMul {} | Op::Conv { .. } | Op::Softmax { .. } | Op::Resize { .. } => {
            Step::Other(op.name().to_owned())
        }
        _ => return None,
    })
}

/// The steps of a graph with their fixed matrices; those of the regions of an operation in its place, behind a word for
/// each region.
fn steps(graph: &Graph<OpenType>, out: &mut Vec<(Step, Option<MatrixId>)>) {
    for id in graph.order().unwrap_or_default() {
        let Some(node) = graph.node(id) else { continue };
        out.extend(step(graph, node).map(|s| (s, node.op.matrix())));
        for (i, region) in node.op.regions().into_iter().enumerate() {
            let Some(region) = graph.regions().get(region.index()) else { continue };
            let at = out.len();
            steps(region, out);
            if out.len() > at {
                let word = if i > 0 { "else" } else { node.op.name() };
                out.insert(at, (Step::Other(format!("{word}:")), None));
            }
        }
    }
}

/// The blocks of a graph whose fixed matrices have been found.
pub fn blocks(graph: &Graph<OpenType>) -> Vec<Group> {
    let mut all = Vec::new();
    steps(graph, &mut all);
    let steps: Vec<Step> = all.into_iter().map(|(s, _)| s).collect();
    let mut layers = 0;
    let mut out: Vec<Group> = Vec::new();
    for (from, period, times) in cuts(&steps) {
        let parts = name(&steps[from..from + period]);
        let first = (times > 1).then_some(layers);
        if times > 1 {
            layers += times;
        }
        out.push(Group { first, times, parts });
    }
    out
}

/// Where in a model something is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Number of the layer, counted over all repeated groups; `None` in what occurs once.
    pub layer: Option<u64>,
    /// The block of that layer, as [`Group`] names it.
    pub part: String,
}

/// Where each fixed matrix is used first.
pub fn places(graph: &Graph<OpenType>) -> BTreeMap<MatrixId, Place> {
    let mut all = Vec::new();
    steps(graph, &mut all);
    let (steps, matrices): (Vec<Step>, Vec<Option<MatrixId>>) = all.into_iter().unzip();
    let mut layers = 0;
    let mut found = BTreeMap::new();
    for (from, period, times) in cuts(&steps) {
        for repetition in 0..times as usize {
            let layer = (times > 1).then_some(layers);
            layers += u64::from(times > 1);
            let mut at = from + repetition * period;
            for (part, taken) in parts(&steps[at..at + period]) {
                for matrix in matrices[at..at + taken].iter().flatten() {
                    found.entry(*matrix).or_insert_with(|| Place { layer, part: part.clone() });
                }
                at += taken;
            }
        }
    }
    found
}

/// Steps as repeated and single groups in order: first step, length, times.
fn cuts(steps: &[Step]) -> Vec<(usize, usize, u64)> {
    let mut ids = BTreeMap::new();
    for s in steps {
        let next = ids.len();
        ids.entry(s).or_insert(next);
    }
    let codes: Vec<usize> = steps.iter().filter_map(|s| ids.get(s).copied()).collect();
    let mut repeated = Vec::new();
    cut(&codes, 0, &mut repeated);
    // Activations alone are no layer, however often they follow each other.
    let mut cuts: Vec<(usize, usize, u64)> = Vec::new();
    for (from, period, times) in repeated {
        let trivial = steps[from..from + period].iter().all(|s| matches!(s, Step::Activation(_)));
        if times > 1 && !trivial {
            cuts.push((from, period, times));
            continue;
        }
        let length = period * times as usize;
        match cuts.last_mut() {
            Some((_, last, 1)) => *last += length,
            _ => cuts.push((from, length, 1)),
        }
    }
    cuts
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

/// Names steps, those of an attention, of a feed-forward part and of a convolution with its activation
/// together; `x3` behind what follows itself.
fn name(steps: &[Step]) -> Vec<String> {
    let mut out: Vec<(String, u64)> = Vec::new();
    for (text, _) in parts(steps) {
        match out.last_mut() {
            Some((last, times)) if *last == text => *times += 1,
            _ => out.push((text, 1)),
        }
    }
    let counted = |(text, times): (String, u64)| if times > 1 { format!("{text} x{times}") } else { text };
    out.into_iter().map(counted).collect()
}

/// The parts of steps: name and number of steps.
fn parts(steps: &[Step]) -> Vec<(String, usize)> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(rest) = steps.get(at..).filter(|r| !r.is_empty()) {
        let (text, taken) =
            attention(rest).or_else(|| mlp(rest)).or_else(|| activated(rest)).unwrap_or_else(|| {
                let text = match &rest[0] {
                    Step::Linear(k, n) => format!("linear {k}x{n}"),
                    Step::Attention(said) => format!("attention({said})"),
                    Step::Rotary => "rotary".to_owned(),
                    Step::Point(ones, k, n) => format!("conv {ones} {k}->{n}"),
                    Step::Conv(text) => text.clone(),
                    Step::Norm(n) | Step::Activation(n) => (*n).to_owned(),
                    Step::Other(n) => n.clone(),
                };
                (text, 1)
            });
        out.push((text, taken));
        at += taken;
    }
    out
}

/// A convolution and its activation, or two of points with an activation between.
fn activated(steps: &[Step]) -> Option<(String, usize)> {
    use Step::{Activation as A, Conv as C, Point as P};
    match steps {
        [P(ones, k, n), A(f), P(_, n2, m), rest @ ..] if n == n2 && !matches!(rest.first(), Some(A(_))) => {
            Some((format!("conv {ones} {k}->{n}->{m} {f}"), 3))
        }
        [P(ones, k, n), A(f), ..] => Some((format!("conv {ones} {k}->{n} {f}"), 2)),
        [C(text), A(f), ..] => Some((format!("{text} {f}"), 2)),
        _ => None,
    }
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
