//! From the decoded message to the graph: names, order, inputs, outputs, and one lowering a node.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet};

use bytes::Bytes;
use pfmc_ir::consts::Const;
use pfmc_ir::diag::{Diagnostic, Diagnostics, Severity};
use pfmc_ir::elem::Elem;
use pfmc_ir::graph::{Graph, ValueId};
use pfmc_ir::infer::{Fact, Facts};
use pfmc_ir::op::Op;
use pfmc_ir::origin::Origin;
use pfmc_ir::shape::{Dim, OpenType};

use super::codes::{E0103, E0104, E0105, E0106, E0107, E0108, E0112, E0114, E0115, E0117};
use super::files::Files;
use super::functions;
use super::lower::{Ctx, Fault};
use super::ops::{self, MAX_OPSET, MIN_OPSET, OpInfo};
use super::proto::{DimensionValue, GraphProto, ModelProto, NodeProto, ValueInfoProto, elem_name, text};
use super::tensor;

/// Deepest nesting of subgraphs that is looked at.
const MAX_DEPTH: usize = 32;
/// Most axes of a value. Look-ups add the ranks of their operands, so that a chain of them would
/// double it again and again.
const MAX_RANK: usize = 64;
/// Most nodes of subgraphs that are imported, counting each as often as it is: a loop whose types change
/// reads its body again, and loops inside it theirs each time.
const MAX_VISITS: usize = 1 << 18;
/// What to do about sparse tensors.
const DENSE: &str = "store them as ordinary initializers";

/// What an import gives.
pub(super) struct Imported {
    pub graph: Graph<OpenType>,
    pub opset: i64,
    pub warnings: Diagnostics,
    pub op_counts: BTreeMap<String, u64>,
}

/// What a name stands for.
pub(super) enum Slot {
    /// A value of the graph.
    Value(ValueId),
    /// A constant that no value node reads yet.
    Constant(Box<Const>),
}

/// A graph or region under construction.
#[derive(Default)]
pub(super) struct Scope {
    pub graph: Graph<OpenType>,
    pub facts: Facts,
    slots: HashMap<String, Slot>,
    /// Values that stand for something that could not be imported.
    poisoned: HashSet<ValueId>,
    /// The names that are read, in subgraphs too; reading includes being an output.
    reads: HashSet<String>,
    /// Names of the values around a region that it reads, in the order of its inputs for them.
    captured: Vec<String>,
}

/// A region, with the names of what it reads besides its own inputs.
pub(super) struct Region {
    pub graph: Graph<OpenType>,
    /// The last inputs, in order.
    pub captured: Vec<String>,
}

/// The model under construction.
pub(super) struct Importer<'f> {
    /// The graph or region that nodes are added to.
    pub scope: Scope,
    /// What is around it, outermost first.
    outer: Vec<Scope>,
    pub files: &'f mut Files,
    pub problems: Diagnostics,
    opsets: BTreeMap<String, i64>,
    /// Names of dimensions given out, by what they stand for.
    dims: BTreeMap<String, String>,
    /// Those names.
    symbols: BTreeSet<String>,
    /// Nodes of subgraphs imported so far, once for each time.
    visited: usize,
    /// Domains and names of the local functions that could not be inlined, which is reported.
    refused: BTreeSet<(String, String)>,
}

/// Name of a node for messages and origins.
pub(super) fn node_name(n: &NodeProto) -> String {
    if !n.name.is_empty() {
        return text(&n.name);
    }
    let output = n.output.iter().find(|o| !o.is_empty()).map(text).unwrap_or_default();
    format!("{} {output}", text(&n.op_type))
}

fn domain_of(n: &NodeProto) -> String {
    standard(&text(&n.domain))
}

pub(super) fn standard(domain: &str) -> String {
    if domain == "ai.onnx" { String::new() } else { domain.to_owned() }
}

/// Whether a dimension's name is one: equal names mean equal lengths, but exporters also write the same
/// placeholder for every length that they do not know.
fn is_name(dimension: &str) -> bool {
    dimension.chars().any(char::is_alphanumeric) && !matches!(dimension, "None" | "-1")
}

fn full_name(domain: &str, op: &str) -> String {
    if domain.is_empty() { op.to_owned() } else { format!("{domain}::{op}") }
}

/// Imports a decoded model.
pub(super) fn import(model: &ModelProto, files: &mut Files) -> Result<Imported, Diagnostics> {
    let empty = GraphProto::default();
    let g = model.graph.as_ref().unwrap_or(&empty);
    let mut imp = Importer {
        scope: Scope::default(),
        outer: Vec::new(),
        files,
        problems: Diagnostics::new(),
        opsets: BTreeMap::new(),
        dims: BTreeMap::new(),
        symbols: BTreeSet::new(),
        visited: 0,
        refused: BTreeSet::new(),
    };
    let opset = imp.opsets(model);
    imp.features(model, g);
    let inlined = functions::inline(model, g, &mut imp.problems);
    let g = match &inlined {
        Some((graph, refused)) => {
            imp.refused.clone_from(refused);
            graph
        }
        None => g,
    };
    let mut op_counts = BTreeMap::new();
    for n in &g.node {
        imp.preflight(n, &mut op_counts, 0);
    }
    read_names(g, &mut imp.scope.reads);
    imp.sources(g);
    imp.nodes(g);
    imp.outputs(g);
    imp.declared(g);
    imp.problems.0.iter_mut().for_each(advise);
    let ((), warnings) = imp.problems.into_result(())?;
    Ok(Imported { graph: imp.scope.graph, opset, warnings, op_counts })
}

/// Says what to do about an error that says neither that nor what is supported.
fn advise(d: &mut Diagnostic) {
    if d.severity != Severity::Error || d.help.is_some() || !d.notes.is_empty() {
        return;
    }
    d.help = match d.code.id {
        "E0103" => Some("export it again with opset_version=18, which names the version"),
        "E0104" => {
            Some("`pfmc ops` lists the supported operators; constant folding or onnxslim may remove this one")
        }
        "E0105" => {
            Some("`pfmc ops` lists each operator's attributes; change or remove this one and export again")
        }
        "E0106" => Some(
            "fold constants (onnxslim, or onnxruntime's basic optimisation level) and declare the ranks and \
             lengths of the inputs when exporting",
        ),
        "E0107" => Some(
            "onnx.checker.check_model finds this too; export the model again with the tool that wrote it",
        ),
        "E0108" => Some("convert it to a type that `pfmc ops` names, for example float32 or int64"),
        "E0109" => Some("the file is damaged or was written wrongly; fetch or export it again"),
        "E0112" => Some(
            "onnx.shape_inference.infer_shapes(model, strict_mode=True) shows where shapes stop to agree",
        ),
        "E0114" => Some("export the model again without it"),
        _ => None,
    }
    .map(str::to_owned);
}

/// The graphs among a node's attributes.
fn subgraphs(n: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    n.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs))
}

/// The names that a graph and its subgraphs read.
fn read_names(g: &GraphProto, names: &mut HashSet<String>) {
    for n in &g.node {
        names.extend(n.input.iter().map(text));
        for inner in subgraphs(n) {
            read_names(inner, names);
        }
    }
    names.extend(g.output.iter().map(|o| text(&o.name)));
}

/// The names that a node's subgraphs read and do not define themselves.
fn free_names(n: &NodeProto) -> HashSet<Bytes> {
    let mut free = HashSet::new();
    for g in subgraphs(n) {
        let mut names: HashSet<Bytes> = g.output.iter().map(|o| o.name.clone()).collect();
        for n in &g.node {
            names.extend(n.input.iter().cloned());
            names.extend(free_names(n));
        }
        let own = g.input.iter().map(|i| &i.name).chain(g.initializer.iter().map(|t| &t.name));
        for name in own.chain(g.node.iter().flat_map(|n| &n.output)) {
            names.remove(name);
        }
        free.extend(names);
    }
    free
}

impl Importer<'_> {
    fn opsets(&mut self, model: &ModelProto) -> i64 {
        for o in &model.opset_import {
            self.opsets.insert(standard(&text(&o.domain)), o.version);
        }
        match self.opsets.get("") {
            Some(&v) if (MIN_OPSET..=MAX_OPSET).contains(&v) => v,
            Some(&v) => {
                let message = format!("the model uses opset {v}; supported are {MIN_OPSET} to {MAX_OPSET}");
                self.problems
                    .push(Diagnostic::error(&E0103, message).help("export it again with opset_version=18"));
                v
            }
            None => {
                let message = "the model names no version of the standard operators";
                self.problems.push(Diagnostic::error(&E0103, message));
                0
            }
        }
    }

    fn features(&mut self, model: &ModelProto, g: &GraphProto) {
        let mut refuse = |n: usize, what: &str, help: &str| {
            if n > 0 {
                let message = format!("the model has {n} {what}");
                self.problems.push(Diagnostic::error(&E0114, message).help(help));
            }
        };
        refuse(model.training_info.len(), "training graphs", "export the model for inference");
        refuse(g.sparse_initializer.len(), "sparse tensors", DENSE);
    }

    /// What translates a node.
    fn known(&self, n: &NodeProto) -> Result<&'static OpInfo, Diagnostic> {
        let (domain, op) = (domain_of(n), text(&n.op_type));
        let shown = full_name(&domain, &op);
        let opset = self.opsets.get(&domain).copied();
        let Some(info) = ops::find(&domain, &op) else {
            let version = opset.map_or_else(|| "no version".into(), |v| format!("opset {v}"));
            let mut d = Diagnostic::error(&E0104, format!("operator {shown} ({version}) is not supported"));
            if !n.attribute.is_empty() {
                let names: Vec<String> = n.attribute.iter().map(|a| text(&a.name)).collect();
                d = d.note(format!("its attributes: {}", names.join(", ")));
            }
            if let Some(help) = ops::nearest(&domain, &op) {
                d = d.help(help);
            }
            return Err(d);
        };
        if domain.is_empty() {
            let v = opset.unwrap_or(0);
            if (MIN_OPSET..=MAX_OPSET).contains(&v) && v < info.since {
                let message =
                    format!("operator {shown} exists from opset {} on; the model has opset {v}", info.since);
                return Err(Diagnostic::error(&E0104, message));
            }
        }
        let given = n.input.iter().rposition(|i| !i.is_empty()).map_or(0, |i| i + 1);
        if given < info.inputs.0 || given > info.inputs.1 {
            let message = format!("operator {shown} has {given} inputs and takes {}", info.input_range());
            return Err(Diagnostic::error(&E0107, message));
        }
        Ok(info)
    }

    /// Reports a node that nothing translates, and attributes that its translation does not know.
    /// Counts operators, in subgraphs too.
    fn preflight(&mut self, n: &NodeProto, counts: &mut BTreeMap<String, u64>, depth: usize) {
        let shown = full_name(&domain_of(n), &text(&n.op_type));
        let origin = Origin::node(node_name(n));
        if depth >= MAX_DEPTH {
            let message = format!("subgraphs are nested more than {MAX_DEPTH} deep");
            self.problems.push(Diagnostic::error(&E0114, message).at(&origin));
            return;
        }
        let sparse: usize = subgraphs(n).map(|g| g.sparse_initializer.len()).sum();
        if sparse > 0 {
            let message = format!("a subgraph has {sparse} sparse tensors");
            self.problems.push(Diagnostic::error(&E0114, message).help(DENSE).at(&origin));
        }
        for inner in subgraphs(n).flat_map(|g| &g.node) {
            self.preflight(inner, counts, depth + 1);
        }
        match self.known(n) {
            Err(_) if self.refused.contains(&(domain_of(n), text(&n.op_type))) => {}
            Err(d) => self.problems.push(d.at(&origin)),
            Ok(info) => {
                for name in n.attribute.iter().map(|a| text(&a.name)) {
                    if !info.attributes.contains(&name.as_str()) {
                        let known = match info.attributes {
                            [] => "it has none".to_owned(),
                            all => format!("supported: {}", all.join(", ")),
                        };
                        let message =
                            format!("operator {shown} has an attribute {name} that is not supported");
                        self.problems.push(Diagnostic::error(&E0105, message).note(known).at(&origin));
                    }
                }
            }
        }
        *counts.entry(shown).or_insert(0) += 1;
    }

    /// Adds the nodes of a graph.
    fn nodes(&mut self, g: &GraphProto) {
        for n in self.order(g).into_iter().filter_map(|at| g.node.get(at)) {
            let info = self.known(n).ok();
            self.node(n, info);
        }
    }

    /// Enters a new region inside the present graph.
    fn enter(&mut self) {
        self.outer.push(std::mem::take(&mut self.scope));
    }

    /// Leaves the region entered last.
    fn leave(&mut self) -> Region {
        let around = self.outer.pop().unwrap_or_default();
        let inner = std::mem::replace(&mut self.scope, around);
        Region { graph: inner.graph, captured: inner.captured }
    }

    /// Adds an input of a region.
    fn parameter(&mut self, name: &str, fact: Fact, poisoned: bool) -> ValueId {
        let v = self.scope.graph.add_input(name, fact.ty.clone());
        self.scope.facts.set(v, fact);
        if poisoned {
            self.scope.poisoned.insert(v);
        }
        self.scope.slots.insert(name.to_owned(), Slot::Value(v));
        v
    }

    /// Makes a name of the graphs around a region known in it: a constant as one of its own, another
    /// value as an input.
    fn capture(&mut self, name: &str) -> bool {
        let Some(found) = self.outer.iter().rposition(|s| s.slots.contains_key(name)) else { return false };
        let holder = &self.outer[found];
        let v = match holder.slots.get(name) {
            Some(Slot::Constant(c)) => {
                self.scope.slots.insert(name.to_owned(), Slot::Constant(c.clone()));
                return true;
            }
            Some(Slot::Value(v)) => *v,
            None => return false,
        };
        if let Some((_, c)) = holder.graph.constant(v) {
            self.scope.slots.insert(name.to_owned(), Slot::Constant(Box::new(c.clone())));
            return true;
        }
        let fact = holder.facts.get(v).cloned().unwrap_or(Fact::of(OpenType::unknown(Elem::F32)));
        let poisoned = holder.poisoned.contains(&v);
        // Every region between takes it in and hands it on.
        let depth = self.outer.len();
        for level in found + 1..=depth {
            if level < depth {
                std::mem::swap(&mut self.scope, &mut self.outer[level]);
            }
            self.parameter(name, fact.clone(), poisoned);
            self.scope.captured.push(name.to_owned());
            if level < depth {
                std::mem::swap(&mut self.scope, &mut self.outer[level]);
            }
        }
        true
    }

    /// Imports a subgraph of the node `of` whose own inputs have these types; `captured` are inputs that it
    /// gets besides whether or not it reads them. `None` when there were problems, which are recorded.
    pub(super) fn subgraph(
        &mut self,
        g: &GraphProto,
        given: &[OpenType],
        captured: &[String],
        of: &Origin,
    ) -> Option<Region> {
        let before = self.problems.0.len();
        self.visited = self.visited.saturating_add(g.node.len()).saturating_add(1);
        if self.visited > MAX_VISITS {
            let message =
                format!("loops inside loops change types so often that {MAX_VISITS} nodes were read");
            let help = "declare what the loops carry with its final rank and lengths";
            self.problems.push(Diagnostic::error(&E0114, message).help(help).at(of));
            return None;
        }
        let own: Vec<String> = g.input.iter().map(|i| text(&i.name)).collect();
        let facts: Vec<(String, Option<Fact>)> = captured
            .iter()
            .map(|name| (name.clone(), self.known_value(name).and_then(|v| self.scope.facts.get(v).cloned())))
            .collect();
        if own.len() != given.len() {
            let message = format!("a subgraph has {} inputs where {} are given", own.len(), given.len());
            self.problems.push(Diagnostic::error(&E0107, message).at(of));
            return None;
        }
        self.enter();
        read_names(g, &mut self.scope.reads);
        for (name, ty) in own.iter().zip(given) {
            if !self.taken(name, "subgraph input") {
                self.parameter(name, Fact::of(ty.clone()), false);
            }
        }
        for (name, fact) in facts {
            let unknown = || Fact::of(OpenType::unknown(Elem::F32));
            self.parameter(&name, fact.unwrap_or_else(unknown), false);
            self.scope.captured.push(name);
        }
        self.initializers(g);
        self.nodes(g);
        let mut used = BTreeSet::new();
        for (i, o) in g.output.iter().enumerate() {
            let name = text(&o.name);
            let v = self.value(&name, &Origin::tensor(&name));
            let mut unique = name.clone();
            for n in i.. {
                if used.insert(unique.clone()) {
                    break;
                }
                unique = format!("{name}#{n}");
            }
            self.scope.graph.add_output(&unique, v);
        }
        let bad = self.problems.0[before..].iter().any(|d| d.severity == Severity::Error)
            || !self.scope.poisoned.is_empty();
        let region = self.leave();
        (!bad).then_some(region)
    }

    /// Builds a region by emitting operations: `f` gets the values of its inputs and gives its outputs.
    pub(super) fn built<S>(
        state: &mut S,
        importer: impl Fn(&mut S) -> &mut Self,
        inputs: Vec<(String, Fact)>,
        f: impl FnOnce(&mut S, Vec<ValueId>) -> Result<Vec<(String, ValueId)>, Fault>,
    ) -> Result<Graph<OpenType>, Fault> {
        let imp = importer(state);
        imp.enter();
        let values = inputs.into_iter().map(|(name, fact)| imp.parameter(&name, fact, false)).collect();
        let outputs = f(state, values);
        let imp = importer(state);
        for (name, v) in outputs.iter().flatten() {
            imp.scope.graph.add_output(name, *v);
        }
        let region = imp.leave();
        outputs.map(|_| region.graph)
    }

    /// Adds what a region computes to the present graph, with `args` in place of its inputs.
    pub(super) fn inline(&mut self, part: &Graph<OpenType>, args: &[ValueId]) -> Result<Vec<ValueId>, Fault> {
        let lost = || Fault::hard(Diagnostic::error(&E0107, "a subgraph reads what is not there"));
        let mut map: HashMap<ValueId, ValueId> =
            part.inputs().iter().copied().zip(args.iter().copied()).collect();
        for id in part.order().ok_or_else(lost)? {
            let Some(node) = part.node(id) else { continue };
            let made = match &node.op {
                Op::Input {} => continue,
                Op::Constant { id } => {
                    let c = part.consts.get(*id).ok_or_else(lost)?.clone();
                    vec![self.constant("", c)]
                }
                op => {
                    let mut op = op.clone();
                    for slot in op.regions_mut() {
                        let region = part.region(*slot).ok_or_else(lost)?.clone();
                        *slot = self.scope.graph.add_region(region);
                    }
                    let inputs = node.inputs.iter().map(|v| map.get(v).copied()).collect::<Option<_>>();
                    self.add(op, inputs.ok_or_else(lost)?, &node.origin)?
                }
            };
            map.extend(node.outputs.iter().copied().zip(made));
        }
        part.outputs().iter().map(|(_, v)| map.get(v).copied().ok_or_else(lost)).collect()
    }

    /// Graph inputs and initializers.
    fn sources(&mut self, g: &GraphProto) {
        let shadowed: BTreeSet<&[u8]> = g.initializer.iter().map(|t| &t.name[..]).collect();
        for i in g.input.iter().filter(|i| !shadowed.contains(&i.name[..])) {
            let name = text(&i.name);
            let ty = match self.input_type(i) {
                Ok(ty) => ty,
                Err(d) => {
                    self.problems.push(d.at(&Origin::tensor(&name)));
                    OpenType::unknown(Elem::F32)
                }
            };
            if self.taken(&name, "input") {
                continue;
            }
            let v = self.scope.graph.add_input(&name, ty);
            self.learn(v);
            self.scope.slots.insert(name, Slot::Value(v));
        }
        self.initializers(g);
    }

    /// Makes the names of initializers known.
    fn initializers(&mut self, g: &GraphProto) {
        for t in &g.initializer {
            let name = text(&t.name);
            if self.taken(&name, "initializer") {
                continue;
            }
            // One that nothing reads is not part of what the model computes.
            if !self.scope.reads.contains(&name) {
                continue;
            }
            let origin = Origin::tensor(&name);
            self.tensor(name, t, &origin);
        }
    }

    /// Makes a name stand for a tensor of the file.
    pub(super) fn tensor(&mut self, name: String, t: &super::proto::TensorProto, origin: &Origin) {
        match tensor::constant(t, origin, self.files) {
            Ok(c) => {
                self.scope.slots.insert(name, Slot::Constant(Box::new(c)));
            }
            Err(d) => {
                self.problems.push(d);
                let v = self.poison(&name);
                self.scope.slots.insert(name, Slot::Value(v));
            }
        }
    }

    /// Makes a name stand for a constant.
    pub(super) fn bind_const(&mut self, name: String, c: Const) {
        self.scope.slots.insert(name, Slot::Constant(Box::new(c)));
    }

    fn taken(&mut self, name: &str, what: &str) -> bool {
        let taken = self.scope.slots.contains_key(name);
        if taken {
            let message = format!("{what} {name:?} has the name of something else");
            self.problems.push(Diagnostic::error(&E0107, message).at(&Origin::tensor(name)));
        }
        taken
    }

    fn input_type(&mut self, i: &ValueInfoProto) -> Result<OpenType, Diagnostic> {
        let name = text(&i.name);
        let Some(t) = i.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()) else {
            return Err(Diagnostic::error(&E0114, format!("input {name:?} is no tensor")));
        };
        let Some(elem) = tensor::elem_type(t.elem_type) else {
            let kind = elem_name(t.elem_type);
            return Err(Diagnostic::error(
                &E0108,
                format!("input {name:?} has element type {kind} ({})", t.elem_type),
            ));
        };
        let Some(shape) = &t.shape else { return Ok(OpenType::unknown(elem)) };
        if shape.dim.len() > MAX_RANK {
            return Err(Diagnostic::error(&E0112, format!("input {name:?} has more than {MAX_RANK} axes")));
        }
        let dims = shape.dim.iter().enumerate().map(|(axis, d)| {
            let unnamed = || format!("{name}.{axis}");
            Some(match &d.value {
                Some(DimensionValue::Number(n)) if *n >= 0 => Dim::known(*n),
                Some(DimensionValue::Name(s)) if is_name(&text(s)) => self.symbol(&text(s), &text(s)),
                _ => self.symbol(&unnamed(), &format!("\0{name}\0{axis}")),
            })
        });
        Ok(OpenType { elem, shape: Some(dims.collect()) })
    }

    /// The symbol for a dimension called `wanted` in the model, told apart by `key`. Characters that
    /// mean something in a shape or on the command line become `_`.
    fn symbol(&mut self, wanted: &str, key: &str) -> Dim {
        if let Some(known) = self.dims.get(key) {
            return Dim::symbol(known);
        }
        let plain = |c: char| if c.is_alphanumeric() || matches!(c, '_' | '.') { c } else { '_' };
        let mut name: String = wanted.chars().map(plain).collect();
        if !name.starts_with(|c: char| c.is_alphabetic() || c == '_') {
            name.insert(0, '_');
        }
        if self.symbols.contains(&name) {
            let base = name;
            let mut n = self.symbols.len();
            name = format!("{base}_{n}");
            while self.symbols.contains(&name) {
                n += 1;
                name = format!("{base}_{n}");
            }
        }
        self.symbols.insert(name.clone());
        let dim = Dim::symbol(&name);
        self.dims.insert(key.to_owned(), name);
        dim
    }

    /// Positions of the nodes so that each comes after those it reads from.
    fn order(&mut self, g: &GraphProto) -> Vec<usize> {
        let mut producer: HashMap<&[u8], usize> = HashMap::new();
        for (at, n) in g.node.iter().enumerate() {
            for o in n.output.iter().filter(|o| !o.is_empty()) {
                let name = text(o);
                let twice = producer.contains_key(&o[..]) || self.scope.slots.contains_key(&name);
                if twice {
                    let message = format!("value {name:?} is produced twice");
                    self.problems.push(Diagnostic::error(&E0107, message).at(&Origin::node(node_name(n))));
                } else {
                    producer.insert(o, at);
                }
            }
        }
        let mut waiting = vec![0usize; g.node.len()];
        let mut readers: Vec<Vec<usize>> = vec![Vec::new(); g.node.len()];
        let mut sorted = true;
        for (at, n) in g.node.iter().enumerate() {
            let inner = free_names(n);
            for i in n.input.iter().chain(&inner) {
                if let Some(&p) = producer.get(&i[..]) {
                    waiting[at] += 1;
                    readers[p].push(at);
                    sorted &= p < at;
                }
            }
        }
        let mut ready: BinaryHeap<Reverse<usize>> =
            waiting.iter().enumerate().filter(|(_, w)| **w == 0).map(|(i, _)| Reverse(i)).collect();
        let mut order = Vec::with_capacity(g.node.len());
        while let Some(Reverse(at)) = ready.pop() {
            order.push(at);
            for &r in &readers[at] {
                waiting[r] -= 1;
                if waiting[r] == 0 {
                    ready.push(Reverse(r));
                }
            }
        }
        if order.len() < g.node.len() {
            let stuck: Vec<&NodeProto> =
                g.node.iter().zip(&waiting).filter(|(_, w)| **w > 0).map(|(n, _)| n).collect();
            let mut origin = Origin::default();
            origin.nodes.extend(stuck.iter().take(8).map(|n| node_name(n)));
            let message =
                format!("{} nodes depend on each other in a circle, or on one that does", stuck.len());
            self.problems.push(Diagnostic::error(&E0107, message).at(&origin));
            for n in stuck {
                for o in n.output.iter().filter(|o| !o.is_empty()) {
                    let name = text(o);
                    let v = self.poison(&name);
                    self.scope.slots.entry(name).or_insert(Slot::Value(v));
                }
            }
        } else if !sorted {
            self.problems
                .push(Diagnostic::warning(&E0117, "the model's nodes are not in order of dependence"));
        }
        order
    }

    /// A value that stands for something that could not be imported.
    fn poison(&mut self, name: &str) -> ValueId {
        let v = self.scope.graph.add_input(name, OpenType::unknown(Elem::F32));
        self.learn(v);
        self.scope.poisoned.insert(v);
        v
    }

    /// Records what an input or constant is.
    fn learn(&mut self, v: ValueId) {
        let Some(id) = self.scope.graph.value(v).map(|v| v.node) else { return };
        if let Some(fact) =
            self.scope.facts.node(&self.scope.graph, id).ok().and_then(|f| f.into_iter().next())
        {
            self.scope.facts.set(v, fact);
        }
    }

    /// Whether something a value depends on could not be imported.
    pub(super) fn is_poisoned(&self, v: ValueId) -> bool {
        self.scope.poisoned.contains(&v)
    }

    /// Looks for a name in the graphs around, where the present one does not have it.
    pub(super) fn find(&mut self, name: &str) {
        if !self.scope.slots.contains_key(name) {
            self.capture(name);
        }
    }

    /// The value of a name, made when it is a constant not read before.
    pub(super) fn value(&mut self, name: &str, reader: &Origin) -> ValueId {
        self.find(name);
        match self.scope.slots.remove(name) {
            Some(Slot::Value(v)) => {
                self.scope.slots.insert(name.to_owned(), Slot::Value(v));
                v
            }
            Some(Slot::Constant(c)) => {
                let v = self.constant(name, *c);
                self.scope.slots.insert(name.to_owned(), Slot::Value(v));
                v
            }
            None => {
                let message = format!("value {name:?} is read and nothing produces it");
                self.problems.push(Diagnostic::error(&E0107, message).at(reader));
                let v = self.poison(name);
                self.scope.slots.insert(name.to_owned(), Slot::Value(v));
                v
            }
        }
    }

    /// The constant a name is, whether or not a node made it a value.
    pub(super) fn known_constant(&self, name: &str) -> Option<&Const> {
        match self.scope.slots.get(name)? {
            Slot::Constant(c) => Some(c),
            Slot::Value(v) => self.scope.graph.constant(*v).map(|(_, c)| c),
        }
    }

    /// The constant a name is, to change.
    pub(super) fn constant_mut(&mut self, name: &str) -> Option<&mut Const> {
        match self.scope.slots.get_mut(name)? {
            Slot::Constant(c) => Some(c),
            Slot::Value(v) => {
                let id = self.scope.graph.constant(*v)?.0;
                self.scope.graph.consts.get_mut(id)
            }
        }
    }

    /// The value of a name, if it is one already.
    pub(super) fn known_value(&self, name: &str) -> Option<ValueId> {
        match self.scope.slots.get(name)? {
            Slot::Value(v) => Some(*v),
            Slot::Constant(_) => None,
        }
    }

    /// Adds a constant value.
    pub(super) fn constant(&mut self, name: &str, c: Const) -> ValueId {
        let v = self.scope.graph.add_const(name, c);
        self.learn(v);
        v
    }

    /// Adds a node and infers its outputs.
    pub(super) fn add(
        &mut self,
        op: Op,
        inputs: Vec<ValueId>,
        origin: &Origin,
    ) -> Result<Vec<ValueId>, Fault> {
        let unknown = OpenType::unknown(Elem::F32);
        let named = vec![(String::new(), unknown); op.outputs()];
        let outputs = self.scope.graph.add(op, inputs, named, origin.clone());
        let id = outputs.first().and_then(|v| self.scope.graph.value(*v)).map(|v| v.node);
        let Some(id) = id else {
            return Err(Fault::hard(Diagnostic::error(&E0107, "the node makes nothing")));
        };
        let facts = self
            .scope
            .facts
            .node(&self.scope.graph, id)
            .map_err(|e| Fault::shape(Diagnostic::error(&E0112, e)))?;
        for (v, fact) in outputs.iter().zip(facts) {
            if fact.ty.shape.as_ref().is_some_and(|s| s.len() > MAX_RANK) {
                return Err(Fault::shape(Diagnostic::error(
                    &E0112,
                    format!("a result would have more than {MAX_RANK} axes"),
                )));
            }
            let negative = fact.ty.shape.iter().flatten().flatten().any(|d| d.value().is_some_and(|n| n < 0));
            if negative {
                let message = format!("a result would have shape {}", fact.ty);
                return Err(Fault::shape(Diagnostic::error(&E0112, message)));
            }
            if let Some(value) = self.scope.graph.value_mut(*v) {
                value.ty.clone_from(&fact.ty);
            }
            self.scope.facts.set(*v, fact);
        }
        Ok(outputs)
    }

    fn node(&mut self, n: &NodeProto, info: Option<&'static OpInfo>) {
        let origin = Origin::node(node_name(n));
        let outputs: Vec<String> = n.output.iter().map(text).collect();
        let Some(info) = info else { return self.give_up(&outputs) };
        let opset = self.opsets.get("").copied().unwrap_or(0);
        let mut ctx = Ctx::new(self, n, origin.clone(), opset);
        let result = ctx.check_type(info).and_then(|()| (info.import)(&mut ctx));
        let left: Vec<String> = ctx.unread(info);
        let poisoned = ctx.poisoned();
        for name in left {
            if result.is_ok() {
                let message = format!("attribute {name} has no meaning for this form of {}", info.name);
                self.problems.push(Diagnostic::error(&E0105, message).at(&origin));
            }
        }
        match result {
            Ok(values) => self.bind(&outputs, values, poisoned, info, &origin),
            Err(fault) => {
                if !(poisoned && fault.about_shape) {
                    self.problems.push((*fault.diagnostic).at(&origin));
                }
                self.give_up(&outputs);
            }
        }
    }

    /// Binds a node's outputs to values.
    fn bind(
        &mut self,
        outputs: &[String],
        values: Vec<ValueId>,
        poisoned: bool,
        info: &OpInfo,
        origin: &Origin,
    ) {
        for (i, name) in outputs.iter().enumerate().filter(|(_, n)| !n.is_empty()) {
            if self.scope.slots.contains_key(name) {
                // A constant that the lowering bound itself, or a name reported as produced twice.
                continue;
            }
            match values.get(i) {
                Some(&v) => {
                    if let Some(value) = self.scope.graph.value_mut(v).filter(|v| v.name.is_empty()) {
                        value.name.clone_from(name);
                    }
                    if poisoned {
                        self.scope.poisoned.insert(v);
                    }
                    self.scope.slots.insert(name.clone(), Slot::Value(v));
                }
                None => {
                    if self.scope.reads.contains(name) {
                        let message =
                            format!("output {i} ({name:?}) of {} is used and not supported", info.name);
                        self.problems.push(Diagnostic::error(&E0106, message).at(origin));
                    }
                    let one = [name.clone()];
                    if self.scope.reads.contains(name) {
                        self.give_up(&one);
                    }
                }
            }
        }
    }

    fn give_up(&mut self, outputs: &[String]) {
        for name in outputs.iter().filter(|n| !n.is_empty()) {
            if !self.scope.slots.contains_key(name) {
                let v = self.poison(name);
                self.scope.slots.insert(name.clone(), Slot::Value(v));
            }
        }
    }

    fn outputs(&mut self, g: &GraphProto) {
        let mut seen = BTreeSet::new();
        for o in &g.output {
            let name = text(&o.name);
            let origin = Origin::tensor(&name);
            if !seen.insert(name.clone()) {
                let message = format!("two outputs are called {name:?}");
                self.problems.push(Diagnostic::error(&E0107, message).at(&origin));
                continue;
            }
            let v = self.value(&name, &origin);
            self.scope.graph.add_output(&name, v);
        }
        if g.output.is_empty() {
            self.problems.push(Diagnostic::error(&E0107, "the model has no outputs"));
        }
    }

    /// Compares declared types with inferred ones.
    fn declared(&mut self, g: &GraphProto) {
        if self.problems.has_errors() {
            return;
        }
        for info in g.value_info.iter().chain(&g.output) {
            let name = text(&info.name);
            let Some(v) = self.known_value(&name) else { continue };
            let Some(found) = self.scope.graph.value(v).map(|v| v.ty.clone()) else { continue };
            let Some(t) = info.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()) else { continue };
            let Some(elem) = tensor::elem_type(t.elem_type) else { continue };
            let shape = t.shape.as_ref().map(|s| {
                s.dim
                    .iter()
                    .map(|d| match d.value {
                        Some(DimensionValue::Number(n)) if n >= 0 => Some(Dim::known(n)),
                        _ => None,
                    })
                    .collect()
            });
            let declared = OpenType { elem, shape };
            if !found.admits(&declared) {
                let message = format!("{name:?} is declared {declared} and is {found}");
                self.problems.push(Diagnostic::warning(&E0115, message).at(&Origin::tensor(&name)));
            }
        }
    }
}
