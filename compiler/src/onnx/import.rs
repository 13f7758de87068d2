//! From the decoded message to the graph: names, order, inputs, outputs, and one lowering a node.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet};

use pfmc_ir::consts::Const;
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::elem::Elem;
use pfmc_ir::graph::{Graph, ValueId};
use pfmc_ir::infer::Facts;
use pfmc_ir::op::Op;
use pfmc_ir::origin::Origin;
use pfmc_ir::shape::{Dim, OpenType};

use super::codes::{E0103, E0104, E0105, E0106, E0107, E0108, E0112, E0114, E0115, E0117};
use super::files::Files;
use super::lower::{Ctx, Fault};
use super::ops::{self, MAX_OPSET, MIN_OPSET, OpInfo};
use super::proto::{DimensionValue, GraphProto, ModelProto, NodeProto, ValueInfoProto, elem_name, text};
use super::tensor;

/// Deepest nesting of subgraphs that is looked at.
const MAX_DEPTH: usize = 32;
/// Most axes of a value. Look-ups add the ranks of their operands, so that a chain of them would
/// double it again and again.
const MAX_RANK: usize = 64;

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

/// The graph under construction.
pub(super) struct Importer<'f> {
    pub graph: Graph<OpenType>,
    pub facts: Facts,
    pub files: &'f mut Files,
    pub problems: Diagnostics,
    slots: HashMap<String, Slot>,
    /// Values that stand for something that could not be imported.
    poisoned: HashSet<ValueId>,
    opsets: BTreeMap<String, i64>,
    /// Names of dimensions given out, by what they stand for.
    dims: BTreeMap<String, String>,
    /// Those names.
    symbols: BTreeSet<String>,
    /// How often each name is read; reading includes being a graph output.
    reads: HashMap<String, usize>,
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

fn standard(domain: &str) -> String {
    if domain == "ai.onnx" { String::new() } else { domain.to_owned() }
}

fn full_name(domain: &str, op: &str) -> String {
    if domain.is_empty() { op.to_owned() } else { format!("{domain}::{op}") }
}

/// Imports a decoded model.
pub(super) fn import(model: &ModelProto, files: &mut Files) -> Result<Imported, Diagnostics> {
    let empty = GraphProto::default();
    let g = model.graph.as_ref().unwrap_or(&empty);
    let mut imp = Importer {
        graph: Graph::new(),
        facts: Facts::default(),
        files,
        problems: Diagnostics::new(),
        slots: HashMap::new(),
        poisoned: HashSet::new(),
        opsets: BTreeMap::new(),
        dims: BTreeMap::new(),
        symbols: BTreeSet::new(),
        reads: HashMap::new(),
    };
    let opset = imp.opsets(model);
    imp.features(model, g);
    let functions: BTreeSet<(String, String)> =
        model.functions.iter().map(|f| (standard(&text(&f.domain)), text(&f.name))).collect();
    let known: Vec<Option<&OpInfo>> = g.node.iter().map(|n| imp.preflight(n, &functions, 0)).collect();

    let mut op_counts = BTreeMap::new();
    for n in &g.node {
        *op_counts.entry(full_name(&domain_of(n), &text(&n.op_type))).or_insert(0) += 1;
        for i in &n.input {
            *imp.reads.entry(text(i)).or_insert(0) += 1;
        }
    }
    for o in &g.output {
        *imp.reads.entry(text(&o.name)).or_insert(0) += 1;
    }

    imp.sources(g);
    for at in imp.order(g) {
        if let Some(n) = g.node.get(at) {
            imp.node(n, known.get(at).copied().flatten());
        }
    }
    imp.outputs(g);
    imp.declared(g);
    let ((), warnings) = imp.problems.into_result(())?;
    Ok(Imported { graph: imp.graph, opset, warnings, op_counts })
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
        let mut refuse = |n: usize, what: &str| {
            if n > 0 {
                self.problems.push(Diagnostic::error(&E0114, format!("the model has {n} {what}")));
            }
        };
        refuse(model.training_info.len(), "training graphs");
        refuse(g.sparse_initializer.len(), "sparse tensors");
    }

    /// Finds what translates a node, and reports it where nothing does. Subgraphs are searched too.
    fn preflight(
        &mut self,
        n: &NodeProto,
        functions: &BTreeSet<(String, String)>,
        depth: usize,
    ) -> Option<&'static OpInfo> {
        for a in &n.attribute {
            let bodies = a.g.iter().chain(&a.graphs);
            for inner in bodies.flat_map(|g| &g.node) {
                if depth < MAX_DEPTH {
                    self.preflight(inner, functions, depth + 1);
                }
            }
        }
        let (domain, op) = (domain_of(n), text(&n.op_type));
        let origin = Origin::node(node_name(n));
        let shown = full_name(&domain, &op);
        if functions.contains(&(domain.clone(), op.clone())) {
            let d = Diagnostic::error(&E0114, format!("{shown} is a local function of the model"))
                .help("inline the functions with onnx.inliner.inline_local_functions");
            self.problems.push(d.at(&origin));
            return None;
        }
        let opset = self.opsets.get(&domain).copied();
        let found = ops::find(&domain, &op);
        let Some(info) = found else {
            let version = opset.map_or_else(|| "no version".into(), |v| format!("opset {v}"));
            let mut d = Diagnostic::error(&E0104, format!("operator {shown} ({version}) is not supported"));
            if !n.attribute.is_empty() {
                let names: Vec<String> = n.attribute.iter().map(|a| text(&a.name)).collect();
                d = d.note(format!("its attributes: {}", names.join(", ")));
            }
            if let Some(help) = ops::nearest(&domain, &op) {
                d = d.help(help);
            }
            self.problems.push(d.at(&origin));
            return None;
        };
        if domain.is_empty() {
            let v = opset.unwrap_or(0);
            if (MIN_OPSET..=MAX_OPSET).contains(&v) && v < info.since {
                let message =
                    format!("operator {shown} exists from opset {} on; the model has opset {v}", info.since);
                self.problems.push(Diagnostic::error(&E0104, message).at(&origin));
                return None;
            }
        }
        for a in &n.attribute {
            let name = text(&a.name);
            if !info.attributes.contains(&name.as_str()) {
                let known = match info.attributes {
                    [] => "it has none".to_owned(),
                    all => format!("supported: {}", all.join(", ")),
                };
                let message = format!("operator {shown} has an attribute {name} that is not supported");
                self.problems.push(Diagnostic::error(&E0105, message).note(known).at(&origin));
            }
        }
        let given = n.input.iter().rposition(|i| !i.is_empty()).map_or(0, |i| i + 1);
        if given < info.inputs.0 || given > info.inputs.1 {
            let message = format!("operator {shown} has {given} inputs and takes {}", info.input_range());
            self.problems.push(Diagnostic::error(&E0107, message).at(&origin));
            return None;
        }
        Some(info)
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
            let v = self.graph.add_input(&name, ty);
            self.learn(v);
            self.slots.insert(name, Slot::Value(v));
        }
        for t in &g.initializer {
            let name = text(&t.name);
            if self.taken(&name, "initializer") {
                continue;
            }
            // One that nothing reads is not part of what the model computes.
            if !self.reads.contains_key(&name) {
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
                self.slots.insert(name, Slot::Constant(Box::new(c)));
            }
            Err(d) => {
                self.problems.push(d);
                let v = self.poison(&name);
                self.slots.insert(name, Slot::Value(v));
            }
        }
    }

    /// Makes a name stand for a constant.
    pub(super) fn bind_const(&mut self, name: String, c: Const) {
        self.slots.insert(name, Slot::Constant(Box::new(c)));
    }

    fn taken(&mut self, name: &str, what: &str) -> bool {
        let taken = self.slots.contains_key(name);
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
                Some(DimensionValue::Name(s)) if !s.is_empty() => self.symbol(&text(s), &text(s)),
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
                let twice = producer.contains_key(&o[..]) || self.slots.contains_key(&name);
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
            for i in &n.input {
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
                    self.slots.entry(name).or_insert(Slot::Value(v));
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
        let v = self.graph.add_input(name, OpenType::unknown(Elem::F32));
        self.learn(v);
        self.poisoned.insert(v);
        v
    }

    /// Records what an input or constant is.
    fn learn(&mut self, v: ValueId) {
        let Some(id) = self.graph.value(v).map(|v| v.node) else { return };
        if let Some(fact) = self.facts.node(&self.graph, id).ok().and_then(|f| f.into_iter().next()) {
            self.facts.set(v, fact);
        }
    }

    /// Whether something a value depends on could not be imported.
    pub(super) fn is_poisoned(&self, v: ValueId) -> bool {
        self.poisoned.contains(&v)
    }

    /// The value of a name, made when it is a constant not read before.
    pub(super) fn value(&mut self, name: &str, reader: &Origin) -> ValueId {
        match self.slots.remove(name) {
            Some(Slot::Value(v)) => {
                self.slots.insert(name.to_owned(), Slot::Value(v));
                v
            }
            Some(Slot::Constant(c)) => {
                let v = self.constant(name, *c);
                self.slots.insert(name.to_owned(), Slot::Value(v));
                v
            }
            None => {
                let message = format!("value {name:?} is read and nothing produces it");
                self.problems.push(Diagnostic::error(&E0107, message).at(reader));
                let v = self.poison(name);
                self.slots.insert(name.to_owned(), Slot::Value(v));
                v
            }
        }
    }

    /// The constant a name is, whether or not a node made it a value.
    pub(super) fn known_constant(&self, name: &str) -> Option<&Const> {
        match self.slots.get(name)? {
            Slot::Constant(c) => Some(c),
            Slot::Value(v) => self.graph.constant(*v).map(|(_, c)| c),
        }
    }

    /// The constant a name is, to change.
    pub(super) fn constant_mut(&mut self, name: &str) -> Option<&mut Const> {
        match self.slots.get_mut(name)? {
            Slot::Constant(c) => Some(c),
            Slot::Value(v) => {
                let id = self.graph.constant(*v)?.0;
                self.graph.consts.get_mut(id)
            }
        }
    }

    /// The value of a name, if it is one already.
    pub(super) fn known_value(&self, name: &str) -> Option<ValueId> {
        match self.slots.get(name)? {
            Slot::Value(v) => Some(*v),
            Slot::Constant(_) => None,
        }
    }

    /// Adds a constant value.
    pub(super) fn constant(&mut self, name: &str, c: Const) -> ValueId {
        let v = self.graph.add_const(name, c);
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
        let outputs = self.graph.add(op, inputs, named, origin.clone());
        let id = outputs.first().and_then(|v| self.graph.value(*v)).map(|v| v.node);
        let Some(id) = id else {
            return Err(Fault::hard(Diagnostic::error(&E0107, "the node makes nothing")));
        };
        let facts =
            self.facts.node(&self.graph, id).map_err(|e| Fault::shape(Diagnostic::error(&E0112, e)))?;
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
            if let Some(value) = self.graph.value_mut(*v) {
                value.ty.clone_from(&fact.ty);
            }
            self.facts.set(*v, fact);
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
            if self.slots.contains_key(name) {
                // A constant that the lowering bound itself, or a name reported as produced twice.
                continue;
            }
            match values.get(i) {
                Some(&v) => {
                    if let Some(value) = self.graph.value_mut(v).filter(|v| v.name.is_empty()) {
                        value.name.clone_from(name);
                    }
                    if poisoned {
                        self.poisoned.insert(v);
                    }
                    self.slots.insert(name.clone(), Slot::Value(v));
                }
                None => {
                    if self.reads.contains_key(name) {
                        let message =
                            format!("output {i} ({name:?}) of {} is used and not supported", info.name);
                        self.problems.push(Diagnostic::error(&E0106, message).at(origin));
                    }
                    let one = [name.clone()];
                    if self.reads.contains_key(name) {
                        self.give_up(&one);
                    }
                }
            }
        }
    }

    fn give_up(&mut self, outputs: &[String]) {
        for name in outputs.iter().filter(|n| !n.is_empty()) {
            if !self.slots.contains_key(name) {
                let v = self.poison(name);
                self.slots.insert(name.clone(), Slot::Value(v));
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
            self.graph.add_output(&name, v);
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
            let Some(found) = self.graph.value(v).map(|v| v.ty.clone()) else { continue };
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
