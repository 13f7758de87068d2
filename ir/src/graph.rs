//! The graph: operations on values, with constants beside it.
//!
//! # Invariants (checked by [`Verify`])
//!
//! 1. Every value a node reads, and every graph output, has exactly one producing node, which
//!    lists it among its outputs.
//! 2. There is no cycle.
//! 3. Each node has the number of inputs and outputs its operation takes.
//! 4. Graph inputs are exactly the `Input` nodes; input and output names are unique.
//! 5. A `Constant` node's type is its constant's element type and shape.
//! 6. The declared type of each value is admitted by the type inferred from its node's inputs.
//! 7. Regions satisfy all of this themselves, have the inputs and outputs their operation gives and
//!    takes, and admit the types of what they are given.
//!
//! Not checked here: that a fixed matrix exists and has the right shape (the program's verifier
//! does), and the values of data-dependent shapes (execution does).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};

use crate::codes::E0301;
use crate::consts::{Const, Consts};
use crate::diag::{Diagnostic, Diagnostics};
use crate::infer;
use crate::op::{ConstId, Op, RegionId};
use crate::origin::Origin;
use crate::shape::{BoundType, Knowledge, OpenType};
use crate::tile::id;
use crate::verify::{Rule, Verify};

/// The invariants, by what is said of a breach.
pub const RULES: &[Rule] = &[
    Rule {
        name: "producer",
        says: &["which nothing produces", "without an edge", "which it does not produce"],
    },
    Rule { name: "acyclic", says: &["has a cycle"] },
    Rule { name: "arity", says: &[" inputs", " outputs"] },
    Rule { name: "inputs", says: &["is not the list of input nodes"] },
    Rule { name: "names", says: &["inputs are called", "outputs are called"] },
    Rule { name: "constant", says: &["is not what its node declares"] },
    Rule { name: "types", says: &["is declared"] },
    Rule { name: "contradiction", says: &["do not broadcast"] },
    Rule { name: "region", says: &["has no region", "values for"] },
    Rule { name: "region_types", says: &["as input"] },
];

id!(
    /// A value of a graph.
    ValueId
);

/// A node of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(NodeIndex);

/// An operation with its operands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Operation.
    pub op: Op,
    /// Operands.
    pub inputs: Vec<ValueId>,
    /// Results.
    pub outputs: Vec<ValueId>,
    /// Source nodes.
    pub origin: Origin,
}

/// A value: one result of one node.
#[derive(Debug, Clone, PartialEq)]
pub struct Value<T> {
    /// Name in the source model; empty when it has none.
    pub name: String,
    /// What is known of it.
    pub ty: T,
    /// Its producer.
    pub node: NodeId,
}

/// A dataflow graph whose values are known to the level `T`.
#[derive(Debug, Clone)]
pub struct Graph<T: Knowledge = OpenType> {
    net: StableDiGraph<Node, ()>,
    values: Vec<Option<Value<T>>>,
    inputs: Vec<ValueId>,
    outputs: Vec<(String, ValueId)>,
    /// Constants.
    pub consts: Consts,
    regions: Vec<Graph<OpenType>>,
}

impl<T: Knowledge> Default for Graph<T> {
    fn default() -> Self {
        Graph {
            net: StableDiGraph::default(),
            values: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            consts: Consts::default(),
            regions: Vec::new(),
        }
    }
}

impl<T: Knowledge> Graph<T> {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a node; each output gets the name and type given. Inputs must exist.
    pub fn add(
        &mut self,
        op: Op,
        inputs: Vec<ValueId>,
        outputs: Vec<(String, T)>,
        origin: Origin,
    ) -> Vec<ValueId> {
        let is_input = matches!(op, Op::Input {});
        let producers: Vec<NodeIndex> =
            inputs.iter().filter_map(|v| self.value(*v).map(|v| v.node.0)).collect();
        let node = self.net.add_node(Node { op, inputs, outputs: Vec::new(), origin });
        for p in producers {
            self.net.add_edge(p, node, ());
        }
        let ids: Vec<ValueId> = outputs
            .into_iter()
            .map(|(name, ty)| {
                self.values.push(Some(Value { name, ty, node: NodeId(node) }));
                ValueId((self.values.len() - 1) as u32)
            })
            .collect();
        if is_input {
            self.inputs.extend(&ids);
        }
        if let Some(n) = self.net.node_weight_mut(node) {
            n.outputs.clone_from(&ids);
        }
        ids
    }

    /// Appends a graph input.
    pub fn add_input(&mut self, name: &str, ty: T) -> ValueId {
        self.add(Op::Input {}, Vec::new(), vec![(name.into(), ty)], Origin::default())[0]
    }

    /// Appends a constant.
    pub fn add_const(&mut self, name: &str, c: Const) -> ValueId {
        let origin = c.origin.clone();
        let ty = T::from_open(OpenType::fixed(c.elem, &c.shape));
        let id = self.consts.add(c);
        self.add(Op::Constant { id }, Vec::new(), ty.map(|t| (name.into(), t)).into_iter().collect(), origin)
            .first()
            .copied()
            .unwrap_or(ValueId(u32::MAX))
    }

    /// Adds a region: a graph that operations of this one run, on nothing but what they give it.
    /// Lengths of its values may depend on data, so that it stays open.
    pub fn add_region(&mut self, region: Graph<OpenType>) -> RegionId {
        self.regions.push(region);
        RegionId((self.regions.len() - 1) as u32)
    }

    /// A region.
    pub fn region(&self, id: RegionId) -> Option<&Graph<OpenType>> {
        self.regions.get(id.index())
    }

    /// The regions in the order of their numbers; they may have regions themselves.
    pub fn regions(&self) -> &[Graph<OpenType>] {
        &self.regions
    }

    /// The regions, to change.
    pub fn regions_mut(&mut self) -> &mut [Graph<OpenType>] {
        &mut self.regions
    }

    /// Names a value as graph output.
    pub fn add_output(&mut self, name: &str, value: ValueId) {
        self.outputs.push((name.into(), value));
    }

    /// Names other values as the graph's outputs, in place of those it has.
    pub fn set_outputs(&mut self, outputs: Vec<(String, ValueId)>) {
        self.outputs = outputs;
    }

    /// Graph inputs in order.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// Graph outputs in order.
    pub fn outputs(&self) -> &[(String, ValueId)] {
        &self.outputs
    }

    /// A node that exists.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.net.node_weight(id.0)
    }

    /// A node, to change its operation or origin. Its operands change with
    /// [`Graph::set_inputs`] and [`Graph::replace_uses`].
    pub fn op_mut(&mut self, id: NodeId) -> Option<(&mut Op, &mut Origin)> {
        self.net.node_weight_mut(id.0).map(|n| (&mut n.op, &mut n.origin))
    }

    /// A value that exists.
    pub fn value(&self, id: ValueId) -> Option<&Value<T>> {
        self.values.get(id.index())?.as_ref()
    }

    /// A value, to change its name or type.
    pub fn value_mut(&mut self, id: ValueId) -> Option<&mut Value<T>> {
        self.values.get_mut(id.index())?.as_mut()
    }

    /// One more than the largest value index ever used.
    pub fn value_limit(&self) -> usize {
        self.values.len()
    }

    /// The node that produces a value.
    pub fn producer(&self, id: ValueId) -> Option<&Node> {
        self.node(self.value(id)?.node)
    }

    /// The constant a value is, if it is one.
    pub fn constant(&self, id: ValueId) -> Option<(ConstId, &Const)> {
        match self.producer(id)?.op {
            Op::Constant { id } => Some((id, self.consts.get(id)?)),
            _ => None,
        }
    }

    /// Nodes that read a value, once each, in ascending order.
    pub fn users(&self, id: ValueId) -> Vec<NodeId> {
        let Some(v) = self.value(id) else { return Vec::new() };
        let found: BTreeSet<NodeId> = self
            .net
            .neighbors_directed(v.node.0, Direction::Outgoing)
            .filter(|n| self.net.node_weight(*n).is_some_and(|n| n.inputs.contains(&id)))
            .map(NodeId)
            .collect();
        found.into_iter().collect()
    }

    /// Whether a node reads a value or a graph output is it.
    pub fn is_read(&self, id: ValueId) -> bool {
        let Some(v) = self.value(id) else { return false };
        self.outputs.iter().any(|(_, o)| *o == id)
            || self
                .net
                .neighbors_directed(v.node.0, Direction::Outgoing)
                .any(|n| self.net.node_weight(n).is_some_and(|n| n.inputs.contains(&id)))
    }

    /// All nodes in ascending order of creation.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.net.node_indices().filter_map(|i| Some((NodeId(i), self.net.node_weight(i)?)))
    }

    /// Number of nodes.
    pub fn node_count(&self) -> usize {
        self.net.node_count()
    }

    /// Nodes so that producers come first; among the ready ones the oldest first. `None` when
    /// there is a cycle.
    pub fn order(&self) -> Option<Vec<NodeId>> {
        let mut waiting: BTreeMap<NodeIndex, usize> = BTreeMap::new();
        let mut ready = BinaryHeap::new();
        for n in self.net.node_indices() {
            match self.net.neighbors_directed(n, Direction::Incoming).count() {
                0 => ready.push(Reverse(n)),
                c => {
                    waiting.insert(n, c);
                }
            }
        }
        let mut order = Vec::with_capacity(self.net.node_count());
        while let Some(Reverse(n)) = ready.pop() {
            order.push(NodeId(n));
            for next in self.net.neighbors_directed(n, Direction::Outgoing) {
                if let Some(c) = waiting.get_mut(&next) {
                    *c -= 1;
                    if *c == 0 {
                        waiting.remove(&next);
                        ready.push(Reverse(next));
                    }
                }
            }
        }
        (order.len() == self.net.node_count()).then_some(order)
    }

    /// Changes what a node reads. The values must exist.
    pub fn set_inputs(&mut self, id: NodeId, inputs: Vec<ValueId>) {
        // Edges that stay are left alone: removing one costs as much as its producer has readers.
        let mut wanted: BTreeMap<NodeIndex, usize> = BTreeMap::new();
        for p in inputs.iter().filter_map(|v| Some(self.value(*v)?.node.0)) {
            *wanted.entry(p).or_insert(0) += 1;
        }
        let edges = self.net.edges_directed(id.0, Direction::Incoming);
        let mut gone = Vec::new();
        for e in edges {
            match wanted.get_mut(&petgraph::visit::EdgeRef::source(&e)) {
                Some(n) if *n > 0 => *n -= 1,
                _ => gone.push(petgraph::visit::EdgeRef::id(&e)),
            }
        }
        for e in gone {
            self.net.remove_edge(e);
        }
        for (p, n) in wanted {
            for _ in 0..n {
                self.net.add_edge(p, id.0, ());
            }
        }
        if let Some(n) = self.net.node_weight_mut(id.0) {
            n.inputs = inputs;
        }
    }

    /// Makes every reader of `old`, and every graph output that is `old`, use `new`.
    pub fn replace_uses(&mut self, old: ValueId, new: ValueId) {
        // In the order of the producer's edges, so that each is found at once.
        let producer = self.value(old).map(|v| v.node.0);
        let edges = producer.map(|p| self.net.neighbors_directed(p, Direction::Outgoing));
        let users: Vec<NodeId> = edges.into_iter().flatten().map(NodeId).collect();
        for user in users {
            if let Some(n) = self.node(user).filter(|n| n.inputs.contains(&old)) {
                let inputs = n.inputs.iter().map(|&v| if v == old { new } else { v }).collect();
                self.set_inputs(user, inputs);
            }
        }
        for (_, v) in &mut self.outputs {
            if *v == old {
                *v = new;
            }
        }
    }

    /// Removes a node and its values. Nothing may read them any more.
    pub fn remove(&mut self, id: NodeId) {
        if let Some(n) = self.net.remove_node(id.0) {
            if matches!(n.op, Op::Input {}) {
                self.inputs.retain(|v| !n.outputs.contains(v));
            }
            for v in n.outputs {
                self.values[v.index()] = None;
            }
        }
    }

    /// Removes nodes that no output needs, in regions too; graph inputs stay. Returns how many went,
    /// not counting those of regions.
    pub fn remove_dead(&mut self) -> usize {
        for region in &mut self.regions {
            region.remove_dead();
        }
        self.tidy_regions();
        let dead = self.dead();
        if dead.len() > 64 {
            // One by one, each would cost as much as what it reads has readers.
            self.net.clear_edges();
            dead.iter().for_each(|id| self.remove(*id));
            let reads = |(id, n): (NodeId, &Node)| {
                let producers = n.inputs.iter().filter_map(|v| Some(self.value(*v)?.node.0));
                producers.map(|p| (p, id.0)).collect::<Vec<_>>()
            };
            let edges: Vec<_> = self.nodes().flat_map(reads).collect();
            for (p, n) in edges {
                self.net.add_edge(p, n, ());
            }
        } else {
            dead.iter().for_each(|id| self.remove(*id));
        }
        self.tidy_regions();
        dead.len()
    }

    /// Nodes that no output needs, readers before what they read; none where there is a cycle.
    fn dead(&self) -> Vec<NodeId> {
        let mut needed: BTreeSet<NodeId> =
            self.outputs.iter().filter_map(|(_, v)| Some(self.value(*v)?.node)).collect();
        let mut dead = Vec::new();
        for id in self.order().unwrap_or_default().into_iter().rev() {
            let Some(n) = self.node(id) else { continue };
            if needed.contains(&id) || matches!(n.op, Op::Input {}) {
                needed.extend(n.inputs.iter().filter_map(|v| Some(self.value(*v)?.node)));
            } else {
                dead.push(id);
            }
        }
        dead
    }

    /// Drops what regions, which have no dead nodes, are given and do not read, and regions that nothing
    /// runs; numbers the others in the order of their use.
    fn tidy_regions(&mut self) {
        if self.regions.is_empty() {
            return;
        }
        let mut users = self.order().unwrap_or_default();
        users.retain(|id| self.node(*id).is_some_and(|n| !n.op.regions().is_empty()));
        let mut old: BTreeMap<RegionId, Graph<OpenType>> = BTreeMap::new();
        for (i, region) in std::mem::take(&mut self.regions).into_iter().enumerate() {
            old.insert(RegionId(i as u32), region);
        }
        let mut renamed: BTreeMap<RegionId, RegionId> = BTreeMap::new();
        for id in users {
            let Some(node) = self.node(id) else { continue };
            let (mut op, mut inputs) = (node.op.clone(), node.inputs.clone());
            // Operands from this one on, and region inputs from the other one on, are there to be read
            // by the regions alone.
            let (first, local) = match op {
                Op::Loop { carried, .. } => {
                    (usize::try_from(carried).map_or(usize::MAX, |c| c.saturating_add(2)), 0)
                }
                _ => (1, 1),
            };
            let of_op = op.regions();
            let fresh = of_op.iter().all(|r| old.contains_key(r));
            for at in (first..inputs.len()).rev().filter(|_| fresh) {
                let read = of_op.iter().filter_map(|r| old.get(r)).any(|r| match r.inputs.get(at - local) {
                    Some(v) => !r.users(*v).is_empty() || r.outputs.iter().any(|(_, o)| o == v),
                    None => true,
                });
                if !read {
                    inputs.remove(at);
                    for r in &of_op {
                        let unread = old.get(r).and_then(|r| Some(r.value(*r.inputs.get(at - local)?)?.node));
                        if let (Some(region), Some(node)) = (old.get_mut(r), unread) {
                            region.remove(node);
                        }
                    }
                }
            }
            for slot in op.regions_mut() {
                if let Some(region) = old.remove(slot) {
                    self.regions.push(region);
                    renamed.insert(*slot, RegionId((self.regions.len() - 1) as u32));
                }
                *slot = renamed.get(slot).copied().unwrap_or(*slot);
            }
            if let Some((slot, _)) = self.op_mut(id) {
                *slot = op;
            }
            self.set_inputs(id, inputs);
        }
    }

    /// Appends what a graph computes, with `args` in place of its inputs; its outputs, or `None` (and
    /// nothing is appended) when a type of it does not reach this graph's level of knowledge.
    pub fn splice(&mut self, part: &Graph<OpenType>, args: &[ValueId]) -> Option<Vec<ValueId>> {
        let order = part.order()?;
        let typed = |v: &ValueId| {
            let v = part.value(*v)?;
            Some((v.name.clone(), T::from_open(v.ty.clone())?))
        };
        let mut steps = Vec::new();
        for id in &order {
            let node = part.node(*id)?;
            steps.push((node, node.outputs.iter().map(typed).collect::<Option<Vec<_>>>()?));
        }
        let mut map: BTreeMap<ValueId, ValueId> =
            part.inputs.iter().copied().zip(args.iter().copied()).collect();
        for (node, outputs) in steps {
            let mut op = node.op.clone();
            match &mut op {
                Op::Input {} => continue,
                Op::Constant { id } => *id = self.consts.add(part.consts.get(*id)?.clone()),
                other => {
                    for slot in other.regions_mut() {
                        *slot = self.add_region(part.region(*slot)?.clone());
                    }
                }
            }
            let inputs = node.inputs.iter().map(|v| map.get(v).copied()).collect::<Option<Vec<_>>>()?;
            let made = self.add(op, inputs, outputs, node.origin.clone());
            map.extend(node.outputs.iter().copied().zip(made));
        }
        part.outputs.iter().map(|(_, v)| map.get(v).copied()).collect()
    }

    /// The same graph at another level of knowledge; the names and types of values that do not
    /// reach it come back as error.
    ///
    /// # Errors
    /// The values whose type says too little.
    pub fn convert<U: Knowledge>(self) -> Result<Graph<U>, Vec<(ValueId, Value<T>)>> {
        let mut failed = Vec::new();
        let mut values = Vec::with_capacity(self.values.len());
        for (i, v) in self.values.into_iter().enumerate() {
            values.push(match v {
                None => None,
                Some(v) => match U::from_open(v.ty.open()) {
                    Some(ty) => Some(Value { name: v.name, ty, node: v.node }),
                    None => {
                        failed.push((ValueId(i as u32), v));
                        None
                    }
                },
            });
        }
        if failed.is_empty() {
            let Graph { net, inputs, outputs, consts, regions, .. } = self;
            Ok(Graph { net, values, inputs, outputs, consts, regions })
        } else {
            Err(failed)
        }
    }
}

impl Graph<OpenType> {
    /// Calls `f` with this graph and with every region of it, at any depth.
    pub fn each(&self, f: &mut dyn FnMut(&Graph<OpenType>)) {
        f(self);
        for region in &self.regions {
            region.each(f);
        }
    }

    /// As [`Graph::each`], to change them.
    pub fn each_mut(&mut self, f: &mut dyn FnMut(&mut Graph<OpenType>)) {
        f(self);
        for region in &mut self.regions {
            region.each_mut(f);
        }
    }
}

impl<T: Knowledge> Graph<T> {
    /// What is wrong with the regions of a node (invariant 7).
    fn region_fault(&self, node: &Node) -> Option<String> {
        let (given, results) = match node.op {
            Op::If { .. } => (node.inputs.get(1..)?, node.outputs.len()),
            Op::Loop { .. } => (&node.inputs[..], node.outputs.len() + 1),
            _ => return None,
        };
        for id in node.op.regions() {
            let Some(region) = self.region(id) else { return Some(format!("has no region {id}")) };
            if (region.inputs.len(), region.outputs.len()) != (given.len(), results) {
                return Some(format!("gives region {id} {} values for {results} results", given.len()));
            }
            for (i, (&arg, &input)) in given.iter().zip(&region.inputs).enumerate() {
                // A loop's first input is the number of iterations, its region's the present one.
                let (Some(arg), Some(input)) = (self.value(arg), region.value(input)) else { continue };
                if !input.ty.admits(&arg.ty.open()) {
                    return Some(format!(
                        "gives region {id} {} as input {i}, which is {}",
                        arg.ty.open(),
                        input.ty
                    ));
                }
            }
        }
        None
    }
}

impl From<Graph<BoundType>> for Graph<OpenType> {
    fn from(g: Graph<BoundType>) -> Self {
        let values = g
            .values
            .into_iter()
            .map(|v| v.map(|v| Value { name: v.name, ty: v.ty.open(), node: v.node }))
            .collect();
        Graph {
            net: g.net,
            values,
            inputs: g.inputs,
            outputs: g.outputs,
            consts: g.consts,
            regions: g.regions,
        }
    }
}

impl<T: Knowledge> Verify for Graph<T> {
    fn verify(&self) -> Result<(), Diagnostics> {
        let mut bad = Diagnostics::new();
        let mut err = |message: String, origin: &Origin| {
            bad.push(Diagnostic::error(&E0301, message).at(origin));
        };
        let mut input_values: Vec<ValueId> = Vec::new();
        for (id, node) in self.nodes() {
            let name = node.op.name();
            for v in &node.inputs {
                match self.value(*v) {
                    None => err(format!("{name} reads %{v}, which nothing produces"), &node.origin),
                    Some(value) => {
                        // From the reader: a constant may have very many.
                        let mut from = self.net.neighbors_directed(id.0, Direction::Incoming);
                        if !from.any(|p| p == value.node.0) {
                            err(format!("{name} reads %{v} without an edge from its producer"), &node.origin);
                        }
                    }
                }
            }
            for v in &node.outputs {
                if self.value(*v).is_none_or(|value| value.node != id) {
                    err(format!("{name} lists %{v}, which it does not produce"), &node.origin);
                }
            }
            let (lo, hi, _) = node.op.arity();
            if node.inputs.len() < lo || node.inputs.len() > hi {
                err(format!("{name} has {} inputs", node.inputs.len()), &node.origin);
            }
            if node.outputs.len() != node.op.outputs() {
                err(format!("{name} has {} outputs", node.outputs.len()), &node.origin);
            }
            if let Some(why) = self.region_fault(node) {
                err(format!("{name} {why}"), &node.origin);
            }
            if let Op::Input {} = node.op {
                input_values.extend(&node.outputs);
            }
            if let Op::Constant { id } = node.op {
                let declared = node.outputs.first().and_then(|v| self.value(*v)).map(|v| v.ty.open());
                let actual = self.consts.get(id).map(|c| OpenType::fixed(c.elem, &c.shape));
                if actual.is_none() || declared != actual {
                    err(format!("constant {id} is not what its node declares"), &node.origin);
                }
            }
        }
        if input_values != self.inputs {
            err("the list of inputs is not the list of input nodes".into(), &Origin::default());
        }
        for (what, names) in [
            ("input", self.inputs.iter().filter_map(|v| Some(&self.value(*v)?.name)).collect::<Vec<_>>()),
            ("output", self.outputs.iter().map(|(n, _)| n).collect()),
        ] {
            let mut seen = BTreeSet::new();
            for n in names {
                if !seen.insert(n) {
                    err(format!("two {what}s are called {n:?}"), &Origin::default());
                }
            }
        }
        for (name, v) in &self.outputs {
            if self.value(*v).is_none() {
                err(format!("output {name:?} is %{v}, which nothing produces"), &Origin::default());
            }
        }
        if bad.has_errors() {
            return Err(bad);
        }
        for region in &self.regions {
            region.verify()?;
        }
        if self.order().is_none() {
            return Err(Diagnostic::error(&E0301, "the graph has a cycle").into());
        }
        infer::check(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elem::Elem;
    use crate::op::{BinaryFn, UnaryFn};
    use crate::tensor::Tensor;
    use crate::text::parse_program;

    /// `depth` operations inside each other, each `outer` with `inner` before and `after` behind the next.
    fn nested(depth: usize, head: &str, before: &str, after: &str) -> String {
        let mut text = format!("pfir 1\n{head}");
        (0..depth).for_each(|_| text.push_str(before));
        (0..depth).for_each(|_| text.push_str(after));
        text
    }

    #[test]
    fn deep_nesting_costs_no_more_than_its_size() {
        // 40 branches inside each other: work that doubles with each would take days.
        let branch =
            "%2 = if(%0, %0, %1) {then_region=0, else_region=1, results=1} : f32[2]\noutput \"y\" = %2\n";
        let inputs = "%0 = input \"c\" : bool[]\n%1 = input \"x\" : f32[2]\n";
        let level = format!("{branch}region 0 {{\n{inputs}");
        let other = format!("output \"y\" = %1\n}}\nregion 1 {{\n{inputs}output \"y\" = %1\n}}\n");
        let text = nested(40, inputs, &level, "");
        let mut text = format!("{text}output \"y\" = %1\n}}\nregion 1 {{\n{inputs}output \"y\" = %1\n}}\n");
        (1..40).for_each(|_| text.push_str(&other.replacen("output \"y\" = %1\n", "", 1)));
        let mut graph = parse_program(&text).unwrap().graph;
        assert!(graph.verify().is_ok(), "{:?}", graph.verify());
        assert_eq!(graph.remove_dead(), 0);
        // Loops whose carried value grows.
        let head = "%0 = input \"n\" : i64[]\n%1 = input \"c\" : bool[]\n%2 = input \"x\" : f32[2]\n";
        let level = format!(
            "%3 = loop(%0, %1, %2) {{body=0, carried=1, results=1}} : f32[?]\n%4 = concat(%3, %2) {{axis=0}} : f32[?]\n\
             output \"c\" = %1\noutput \"y\" = %4\nregion 0 {{\n{}",
            head.replace("f32[2]", "f32[?]")
        );
        let mut text = nested(40, head, &level, "");
        text.push_str("%3 = concat(%2, %2) {axis=0} : f32[?]\noutput \"c\" = %1\noutput \"y\" = %3\n");
        (0..40).for_each(|_| text.push_str("}\n"));
        let mut graph = parse_program(&text).unwrap().graph;
        assert!(graph.verify().is_ok(), "{:?}", graph.verify());
        infer::annotate(&mut graph).unwrap();
    }

    #[test]
    fn invariants_that_no_text_can_break_are_checked() {
        let ty = OpenType::fixed(Elem::F32, &[2]);
        let chain = || {
            let mut g = Graph::<OpenType>::new();
            let x = g.add_input("x", ty.clone());
            let c = Const::derived(&Tensor::vector(vec![1.0f32, 2.0]), Origin::default(), false);
            let c = g.add_const("", c);
            let named = || vec![(String::new(), ty.clone())];
            let a = g.add(Op::Binary(BinaryFn::Add), vec![x, c], named(), Origin::default())[0];
            let b = g.add(Op::Unary(UnaryFn::Neg), vec![a], named(), Origin::default())[0];
            g.add_output("y", b);
            (g, [x, c, a, b])
        };
        let says = |g: &Graph, rule: &str| {
            let e = g.verify().unwrap_err().to_string();
            let rule = RULES.iter().find(|r| r.name == rule).unwrap();
            assert!(rule.says.iter().any(|s| e.contains(s)), "{}: {e}", rule.name);
        };
        assert!(chain().0.verify().is_ok());
        let (mut g, [x, _, a, b]) = chain();
        let node = g.value(a).unwrap().node;
        g.set_inputs(node, vec![x, b]);
        says(&g, "acyclic");
        let (mut g, [_, c, ..]) = chain();
        g.remove(g.value(c).unwrap().node);
        says(&g, "producer");
        let (mut g, ..) = chain();
        let id = g.consts.iter().next().unwrap().0;
        *g.consts.get_mut(id).unwrap() = Const::derived(&Tensor::scalar(1.0f32), Origin::default(), false);
        says(&g, "constant");
        let (mut g, [x, ..]) = chain();
        g.inputs.push(x);
        says(&g, "inputs");
    }

    #[test]
    fn a_value_with_very_many_readers_is_replaced_and_removed_in_passing() {
        const N: usize = 100_000;
        let mut g = Graph::<OpenType>::new();
        let ty = OpenType::fixed(Elem::F32, &[]);
        let c = |g: &mut Graph, v: f32| {
            g.add_const("", Const::derived(&Tensor::scalar(v), Origin::default(), false))
        };
        let (x, a, b) = (g.add_input("x", ty.clone()), c(&mut g, 1.0), c(&mut g, 2.0));
        let mut at = x;
        let named = |ty: &OpenType| vec![(String::new(), ty.clone())];
        for i in 0..N {
            let op = Op::Binary(BinaryFn::Add);
            at = g.add(op, vec![if i % 2 == 0 { at } else { x }, a], named(&ty), Origin::default())[0];
        }
        at = g.add(Op::Unary(UnaryFn::Neg), vec![at], named(&ty), Origin::default())[0];
        g.add_output("y", at);
        g.replace_uses(a, b);
        assert_eq!(g.users(b).len(), N);
        assert!(g.users(a).is_empty() && g.verify().is_ok());
        // Of the readers only the last leads to the output, and nothing reads `a`.
        assert_eq!(g.remove_dead(), N);
        assert!(g.verify().is_ok());
    }
}
