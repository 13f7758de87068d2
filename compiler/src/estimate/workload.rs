//! What a program asks of a target, a token at a time.
//!
//! A token is one run of the program with every dimension that is still open at 1. In a decoder whose batch and sequence are open that is one
//! token; in a model of fixed sizes it is one input.

use std::collections::{BTreeMap, BTreeSet};

use pfmc_ir::estimate::{Stage, TileClass, Workload};
use pfmc_ir::graph::{Graph, Node, ValueId};
use pfmc_ir::op::Op;
use pfmc_ir::program::TileProgram;
use pfmc_ir::shape::{Dim, OpenType};
use pfmc_ir::tile::{Scheme, TileKind};

/// A dimension with its symbols at 1; 1 of what is unknown.
fn size(dim: &Option<Dim>) -> f64 {
    let value = dim.as_ref().and_then(|d| {
        let ones = d.symbols().map(|s| (s.to_owned(), 1)).collect();
        d.bind(&ones)?.value()
    });
    value.filter(|v| *v > 0).map_or(1.0, |v| v as f64)
}

/// Dimensions of a value.
fn dims(graph: &Graph, value: Option<&ValueId>) -> Vec<f64> {
    let shape = value.and_then(|v| graph.value(*v)).and_then(|v| v.ty.shape.clone());
    shape.unwrap_or_default().iter().map(size).collect()
}

/// Vectors or columns that a use of a matrix gives.
fn rows(graph: &Graph, node: &Node) -> f64 {
    let dims = dims(graph, node.outputs.first());
    dims.split_last().map_or(1.0, |(_, leading)| leading.iter().product())
}

/// Operations and bytes of state of a node of the host, with `context` tokens before this one.
fn host(graph: &Graph<OpenType>, node: &Node, context: f64) -> [f64; 2] {
    let elements = |v: &ValueId| dims(graph, Some(v)).iter().product::<f64>();
    let written: f64 = node.outputs.iter().map(elements).sum();
    match node.op {
        Op::Input {} | Op::Constant { .. } | Op::Reshape { .. } | Op::Flatten { .. } | Op::Shape { .. } => {
            [0.0; 2]
        }
        Op::MatMul {} => [written * dims(graph, node.inputs.first()).last().copied().unwrap_or(1.0), 0.0],
        Op::Attention { .. } => {
            let last = |i: usize| dims(graph, node.inputs.get(i)).last().copied().unwrap_or(1.0);
            let keys = dims(graph, node.inputs.get(1));
            let at =
                |back: usize| keys.len().checked_sub(back).and_then(|i| keys.get(i)).copied().unwrap_or(1.0);
            let length = at(2).max(context);
            // Products of queries and keys, the softmax, products with values; keys and values in half precision.
            let queries = written / last(2);
            [queries * length * (last(0) + last(2) + 1.0), 2.0 * at(3) * length * (last(1) + last(2))]
        }
        _ => [written, 0.0],
    }
}

/// Counts what a program does.
pub(super) fn of_program(program: &TileProgram, context: f64, about: String, parameters: f64) -> Workload {
    let mut products = vec![0f64; program.matrices.len()];
    let mut lookups = products.clone();
    let mut work = Workload { about, parameters, weights: program.weights() as f64, ..Workload::default() };
    program.graph.each(&mut |graph| {
        for (_, node) in graph.nodes() {
            let Some(matrix) = node.op.matrix() else {
                let [ops, bytes] = host(graph, node, context);
                work.host_ops += ops;
                work.host_bytes += bytes;
                continue;
            };
            let list = if matches!(node.op, Op::FixedLookup { .. }) { &mut lookups } else { &mut products };
            if let Some(count) = list.get_mut(matrix.index()) {
                *count += rows(graph, node);
            }
        }
    });
    let mut index: BTreeMap<(u32, u32, Scheme), usize> = BTreeMap::new();
    let mut longest: Vec<Option<usize>> = vec![None; program.matrices.len()];
    for tile in &program.tiles {
        let TileKind::Matrix { matrix, k, n, scheme } = &tile.kind else { continue };
        let (m, all) = (matrix.index(), program.matrices.get(matrix.index()).map_or(1, |m| m.n));
        let (k, n) = (k.end - k.start, n.end - n.start);
        let class = *index.entry((k, n, *scheme)).or_insert_with(|| {
            work.tiles.push(TileClass { k, n, scheme: *scheme, count: 0.0, products: 0.0, lookups: 0.0 });
            work.tiles.len() - 1
        });
        let of = |list: &[f64]| list.get(m).copied().unwrap_or(0.0);
        if let Some(c) = work.tiles.get_mut(class) {
            c.count += 1.0;
            c.products += of(&products);
            // A column is in one of the tiles beside each other.
            c.lookups += of(&lookups) * f64::from(n) / f64::from(all.max(1));
        }
        if let Some(slot) = longest.get_mut(m)
            && slot.and_then(|c: usize| work.tiles.get(c)).is_none_or(|c| k > c.k)
        {
            *slot = Some(class);
        }
    }
    work.data_bytes = program.data_len() as f64;
    let chain = chain(&program.graph, &|matrix| {
        let class = (*longest.get(matrix)?)?;
        Some((class, f64::from(work.tiles.get(class)?.k)))
    });
    for (class, times, lookup) in chain.1 {
        match work.stages.iter_mut().find(|s| (s.class, s.lookup) == (class, lookup)) {
            Some(stage) => stage.times += times,
            None => work.stages.push(Stage { class, times, lookup }),
        }
    }
    work
}

/// A use of a matrix: class of its tallest tile, times, whether it is a look-up.
type Use = (usize, f64, bool);
/// Length and uses.
type Chain = (f64, Vec<Use>);

/// The longest chain of uses of matrices, by rows of their tiles: its length, and class, times and kind of each use. A region counts once where
/// it is run. `class` gives the class of a matrix's tallest tile and its rows.
fn chain(graph: &Graph<OpenType>, class: &dyn Fn(usize) -> Option<(usize, f64)>) -> Chain {
    let mut best: BTreeMap<ValueId, (f64, Option<usize>)> = BTreeMap::new();
    // Links: what was used, and the link before.
    let mut links: Vec<(Vec<Use>, Option<usize>)> = Vec::new();
    let mut end: (f64, Option<usize>) = (0.0, None);
    for id in graph.order().unwrap_or_default() {
        let Some(node) = graph.node(id) else { continue };
        let before = node.inputs.iter().filter_map(|v| best.get(v).copied());
        let mut at = before.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((0.0, None));
        let used: Chain = match node.op.matrix().and_then(|m| class(m.index())) {
            Some((class, k)) => {
                let (times, lookup) = (rows(graph, node), matches!(node.op, Op::FixedLookup { .. }));
                (times * k, vec![(class, times, lookup)])
            }
            None => {
                let regions = node.op.regions().into_iter().filter_map(|r| graph.region(r));
                let chains = regions.map(|region| chain(region, class));
                chains.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or_default()
            }
        };
        if used.0 > 0.0 {
            links.push((used.1, at.1));
            at = (at.0 + used.0, Some(links.len() - 1));
        }
        node.outputs.iter().for_each(|v| {
            best.insert(*v, at);
        });
        if at.0 > end.0 {
            end = at;
        }
    }
    let (mut found, mut link, mut seen) = (Vec::new(), end.1, BTreeSet::new());
    while let Some(i) = link.filter(|i| seen.insert(*i)) {
        let Some((used, before)) = links.get(i) else { break };
        found.extend(used.iter().copied());
        link = *before;
    }
    (end.0, found)
}
