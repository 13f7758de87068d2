//! Local functions: a model's own operators are replaced by their nodes before anything is imported.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::origin::Origin;

use super::codes::E0114;
use super::import::{node_name, standard};
use super::proto::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, text};

/// Most nodes of a model after its functions are inlined: functions that call each other twice could
/// otherwise double them again and again.
const MAX_NODES: usize = 1 << 20;
/// Most bytes of names and attributes that inlining makes.
const MAX_BYTES: usize = 1 << 28;
/// Deepest nesting of calls.
const MAX_DEPTH: usize = 32;

/// Domain, name and overload.
type Key = (String, String, Bytes);

struct Inliner<'m> {
    functions: HashMap<Key, &'m FunctionProto>,
    versions: BTreeMap<String, i64>,
    nodes: usize,
    bytes: usize,
    /// The functions whose calls are being replaced, outermost first.
    active: Vec<Key>,
    /// How many calls asked for a name to put their values under.
    prefixes: HashMap<String, usize>,
    problems: &'m mut Diagnostics,
    /// What was reported: each reason once a function.
    told: BTreeSet<String>,
    refused: BTreeSet<(String, String)>,
}

/// Bytes that a copy of a node takes besides what it shares with the file, names aside.
fn copied(n: &NodeProto) -> usize {
    let tensor = |t: &TensorProto| {
        8 * (t.dims.len() + t.int64_data.len() + t.double_data.len() + t.uint64_data.len())
            + 4 * (t.float_data.len() + t.int32_data.len())
    };
    let graph = |g: &GraphProto| {
        let tensors: usize = g.initializer.iter().map(tensor).sum();
        tensors + g.node.iter().map(copied).sum::<usize>() + 64 * (g.input.len() + g.value_info.len())
    };
    let attribute = |a: &AttributeProto| {
        let lists = 4 * a.floats.len() + 8 * a.ints.len() + 32 * a.strings.len();
        lists + a.t.as_ref().map_or(0, tensor) + a.g.iter().chain(&a.graphs).map(graph).sum::<usize>()
    };
    n.attribute.iter().map(attribute).sum()
}

fn key(domain: &Bytes, name: &Bytes, overload: &Bytes) -> Key {
    (standard(&text(domain)), text(name), overload.clone())
}

/// The graph with every call of a local function replaced by the function's nodes, whose values get
/// names under the calling node's; `None` when the model has no functions. Calls that cannot be
/// replaced are reported and stay; domains and names of those functions are the second result.
pub(super) fn inline(
    model: &ModelProto,
    g: &GraphProto,
    problems: &mut Diagnostics,
) -> Option<(GraphProto, BTreeSet<(String, String)>)> {
    if model.functions.is_empty() {
        return None;
    }
    let functions = model.functions.iter().map(|f| (key(&f.domain, &f.name, &f.overload), f)).collect();
    let versions = model.opset_import.iter().map(|o| (standard(&text(&o.domain)), o.version)).collect();
    let mut inliner = Inliner {
        functions,
        versions,
        nodes: 0,
        bytes: 0,
        active: Vec::new(),
        prefixes: HashMap::new(),
        problems,
        told: BTreeSet::new(),
        refused: BTreeSet::new(),
    };
    let node = inliner.expand(&g.node, 0);
    // The nodes are not copied first.
    let out = GraphProto {
        node,
        name: g.name.clone(),
        initializer: g.initializer.clone(),
        input: g.input.clone(),
        output: g.output.clone(),
        value_info: g.value_info.clone(),
        sparse_initializer: g.sparse_initializer.clone(),
    };
    Some((out, inliner.refused))
}

impl Inliner<'_> {
    fn expand(&mut self, nodes: &[NodeProto], depth: usize) -> Vec<NodeProto> {
        let mut out = Vec::with_capacity(nodes.len());
        for n in nodes {
            let key = key(&n.domain, &n.op_type, &n.overload);
            let found = self.functions.get(&key).copied();
            match found {
                Some(f) => {
                    let called = if self.active.contains(&key) {
                        Err("calls itself".to_owned())
                    } else {
                        self.active.push(key.clone());
                        let called = self.call(n, f, depth);
                        self.active.pop();
                        called
                    };
                    match called {
                        Ok(body) => out.extend(body),
                        Err(why) => {
                            self.refuse(n, key, &why);
                            out.push(n.clone());
                        }
                    }
                }
                None => {
                    let mut n = n.clone();
                    for a in &mut n.attribute {
                        for g in a.g.iter_mut().chain(&mut a.graphs) {
                            g.node = self.expand(&g.node, depth + 1);
                        }
                    }
                    out.push(n);
                }
            }
        }
        self.nodes = self.nodes.saturating_add(out.len());
        out
    }

    fn refuse(&mut self, n: &NodeProto, (domain, op, _): Key, why: &str) {
        let message = format!("{op} is a local function that {why}");
        // What exceeds a limit is the whole model's matter.
        let told = if why.starts_with("gives") { why.to_owned() } else { format!("{domain}\0{message}") };
        if self.told.insert(told) {
            let help = "inline the functions with onnx.inliner.inline_local_functions, which checks them too";
            self.problems.push(Diagnostic::error(&E0114, message).help(help).at(&Origin::node(node_name(n))));
        }
        self.refused.insert((domain, op));
    }

    /// A name for the values of a call that no other call has.
    fn prefix(&mut self, n: &NodeProto) -> String {
        let base = node_name(n);
        loop {
            let calls = self.prefixes.entry(base.clone()).or_insert(0);
            *calls += 1;
            if *calls == 1 {
                return base;
            }
            let name = format!("{base}#{calls}");
            if !self.prefixes.contains_key(&name) {
                self.prefixes.insert(name.clone(), 1);
                return name;
            }
        }
    }

    fn call(&mut self, n: &NodeProto, f: &FunctionProto, depth: usize) -> Result<Vec<NodeProto>, String> {
        if depth >= MAX_DEPTH {
            return Err(format!("is called more than {MAX_DEPTH} deep"));
        }
        if self.nodes.saturating_add(f.node.len()) > MAX_NODES {
            return Err(format!("gives the model more than {MAX_NODES} nodes"));
        }
        for o in &f.opset_import {
            let domain = standard(&text(&o.domain));
            if let Some(&v) = self.versions.get(&domain).filter(|v| **v != o.version) {
                let shown = if domain.is_empty() { "the standard domain" } else { &domain };
                return Err(format!("uses version {} of {shown} where the model uses {v}", o.version));
            }
            // A version that only functions name holds for the model.
            self.versions.entry(domain).or_insert(o.version);
        }
        if n.input.len() > f.input.len() || n.output.len() > f.output.len() {
            return Err(format!("has {} inputs and {} outputs", f.input.len(), f.output.len()));
        }
        let takes = |a: &AttributeProto| {
            f.attribute.contains(&a.name) || f.attribute_proto.iter().any(|p| p.name == a.name)
        };
        if let Some(a) = n.attribute.iter().find(|a| !takes(a)) {
            return Err(format!("has no attribute {}", text(&a.name)));
        }
        let given: HashMap<&[u8], &AttributeProto> = f
            .attribute_proto
            .iter()
            .chain(n.attribute.iter().filter(|a| a.ref_attr_name.is_empty()))
            .map(|a| (&a.name[..], a))
            .collect();
        let empty = Bytes::new();
        let mut names: HashMap<Bytes, Bytes> = HashMap::new();
        let formal = f.input.iter().enumerate().map(|(i, name)| (name, n.input.get(i)));
        for (name, actual) in formal {
            names.insert(name.clone(), actual.unwrap_or(&empty).clone());
        }
        let mut aliases = Vec::new();
        for (name, actual) in f.output.iter().zip(&n.output).filter(|(_, a)| !a.is_empty()) {
            // An output that is an input, or two outputs that are one value, need a node of their own.
            if names.contains_key(name) {
                aliases.push((name.clone(), actual.clone()));
            } else {
                names.insert(name.clone(), actual.clone());
            }
        }
        let prefix = self.prefix(n);
        let mut body = self.rename(&f.node, &prefix, &given, &mut names, 0)?;
        for (name, actual) in aliases {
            let from = names.get(&name).cloned().unwrap_or_default();
            body.push(NodeProto {
                input: vec![from],
                output: vec![actual],
                op_type: Bytes::from_static(b"Identity"),
                name: Bytes::from(prefix.clone()),
                ..NodeProto::default()
            });
        }
        Ok(self.expand(&body, depth + 1))
    }

    /// The nodes of a function's body with names and attributes of the call. Names defined here are
    /// added to `names`.
    fn rename(
        &mut self,
        nodes: &[NodeProto],
        prefix: &str,
        given: &HashMap<&[u8], &AttributeProto>,
        names: &mut HashMap<Bytes, Bytes>,
        depth: usize,
    ) -> Result<Vec<NodeProto>, String> {
        if depth >= MAX_DEPTH {
            return Err(format!("has subgraphs more than {MAX_DEPTH} deep"));
        }
        let local = |name: &Bytes| Bytes::from(format!("{prefix}/{}", text(name)));
        for o in nodes.iter().flat_map(|n| &n.output).filter(|o| !o.is_empty()) {
            if !names.contains_key(o) {
                names.insert(o.clone(), local(o));
            }
        }
        let renamed = |names: &HashMap<Bytes, Bytes>, name: &Bytes| match names.get(name) {
            _ if name.is_empty() => Bytes::new(),
            Some(new) => new.clone(),
            None => local(name),
        };
        let mut out = Vec::with_capacity(nodes.len());
        for n in nodes {
            let names_made = 1 + n.input.len() + n.output.len();
            let bytes = copied(n).saturating_add(names_made.saturating_mul(prefix.len() + 64));
            self.bytes = self.bytes.saturating_add(bytes);
            if self.bytes > MAX_BYTES {
                return Err(format!("gives the model more than {MAX_BYTES} bytes of names and attributes"));
            }
            let mut new = n.clone();
            new.name = Bytes::from(format!("{prefix}/{}", node_name(n)));
            new.input = n.input.iter().map(|i| renamed(names, i)).collect();
            new.output = n.output.iter().map(|o| renamed(names, o)).collect();
            new.attribute.clear();
            for a in &n.attribute {
                let mut a = a.clone();
                if !a.ref_attr_name.is_empty() {
                    // One that the call leaves out is left out of the node too.
                    let Some(value) = given.get(&a.ref_attr_name[..]) else { continue };
                    a = AttributeProto { name: a.name.clone(), ..(*value).clone() };
                }
                for g in a.g.iter_mut().chain(&mut a.graphs) {
                    let mut inner = names.clone();
                    for i in &mut g.input {
                        inner.insert(i.name.clone(), local(&i.name));
                        i.name = local(&i.name);
                    }
                    for t in &mut g.initializer {
                        inner.insert(t.name.clone(), local(&t.name));
                        t.name = local(&t.name);
                    }
                    g.node = self.rename(&g.node, prefix, given, &mut inner, depth + 1)?;
                    for o in &mut g.output {
                        o.name = renamed(&inner, &o.name);
                    }
                }
                new.attribute.push(a);
            }
            out.push(new);
        }
        Ok(out)
    }
}
