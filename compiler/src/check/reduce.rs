//! Makes a graph that shows a fault small (after A. Zeller and R. Hildebrandt, "Simplifying and Isolating
//! Failure-Inducing Input", IEEE TSE 28, 2002), as long as the fault still shows: nodes are cut off, their results becoming
//! inputs, passed by, or made the outputs; then axes are made shorter, elements of weights left out.
//!
//! Which axes have to change together is found by trying: those of one length, with numbers and attributes that say the
//! same; those and lengths that are multiples of it; one alone. What types no longer fit is not tried.

use std::collections::BTreeSet;

use pfmc_ir::graph::{Graph, NodeId, ValueId};
use pfmc_ir::op::Op;
use pfmc_ir::verify::Verify;

use super::shrink::{self, Cut, Kind, Place};

/// Most graphs of fewer nodes that are tried, and most of shorter axes.
const TRIALS: usize = 4000;
/// Most parts that what is kept of a length is divided into.
const PARTS: usize = 16;

/// A smaller graph for which `fails` holds; `graph` itself when it does not hold for that, or nothing can go.
pub fn reduce(graph: &Graph, fails: &dyn Fn(&Graph) -> bool) -> Graph {
    let mut work = Work { best: graph.clone(), fails, left: 0 };
    if !fails(graph) {
        return work.best;
    }
    let (mut nodes, mut lengths) = (TRIALS, TRIALS);
    loop {
        let before = size(&work.best);
        work.left = nodes;
        work.outputs();
        work.nodes();
        nodes = std::mem::replace(&mut work.left, lengths);
        while work.left > 0 && work.shorter() {}
        lengths = work.left;
        if size(&work.best) >= before {
            return work.best;
        }
    }
}

struct Work<'a> {
    best: Graph,
    fails: &'a dyn Fn(&Graph) -> bool,
    left: usize,
}

/// Nodes and outputs, then elements: fewer nodes count more than fewer elements. An operation or constant counts twice as
/// much as an input, so that an input in its place is progress.
fn size(graph: &Graph) -> (usize, u64) {
    let of = |n: &pfmc_ir::graph::Node| if matches!(n.op, Op::Input {}) { 1 } else { 2 };
    let nodes = graph.nodes().map(|(_, n)| of(n)).sum::<usize>() + graph.outputs().len();
    (nodes, shrink::elements(graph))
}

/// Removes what no output needs, inputs included.
fn tidied(mut graph: Graph) -> Graph {
    graph.remove_dead();
    for v in graph.inputs().to_vec() {
        if let Some(value) = graph.value(v).filter(|_| !graph.is_read(v)) {
            let node = value.node;
            graph.remove(node);
        }
    }
    graph
}

impl Work<'_> {
    /// Keeps a candidate in which the fault still shows; whether it does.
    fn attempt(&mut self, candidate: Graph) -> bool {
        let candidate = tidied(candidate);
        if self.left == 0 || size(&candidate) >= size(&self.best) {
            return false;
        }
        self.left -= 1;
        let better = candidate.verify().is_ok() && (self.fails)(&candidate);
        if better {
            self.best = candidate;
        }
        better
    }

    /// One output alone, or values that an output is made of in its place.
    fn outputs(&mut self) {
        for one in self.best.outputs().to_vec() {
            let mut candidate = self.best.clone();
            candidate.set_outputs(vec![one]);
            if self.attempt(candidate) {
                break;
            }
        }
        // Values from the inputs on: the first at which the fault shows has the least behind it.
        let order = self.best.order().unwrap_or_default();
        for id in order {
            let Some(node) =
                self.best.node(id).filter(|n| !matches!(n.op, Op::Input {} | Op::Constant { .. }))
            else {
                continue;
            };
            let Some(&v) = node.outputs.first() else { continue };
            let mut candidate = self.best.clone();
            candidate.set_outputs(vec![("y".to_owned(), v)]);
            if self.attempt(candidate) {
                break;
            }
        }
    }

    /// Runs of nodes, long ones first, are cut off or passed by.
    fn nodes(&mut self) {
        let mut length = self.best.node_count().max(1).div_ceil(2);
        loop {
            let mut at = 0;
            loop {
                // From the outputs on, so that what is cut off takes what it was made of with it.
                let order: Vec<NodeId> = self.best.order().unwrap_or_default().into_iter().rev().collect();
                let Some(run) = order.get(at..order.len().min(at + length)).filter(|r| !r.is_empty()) else {
                    break;
                };
                let run: BTreeSet<NodeId> = run.iter().copied().collect();
                let done = self.cut(&run) || (length == 1 && run.iter().any(|id| self.pass_by(*id)));
                if !done {
                    at += length;
                }
                if self.left == 0 {
                    return;
                }
            }
            if length == 1 {
                return;
            }
            length = length.div_ceil(2);
        }
    }

    /// Makes inputs of what others read of the results of some nodes.
    fn cut(&mut self, run: &BTreeSet<NodeId>) -> bool {
        let mut candidate = self.best.clone();
        let mut any = false;
        let mut taken: BTreeSet<String> =
            candidate.inputs().iter().filter_map(|v| candidate.value(*v)).map(|v| v.name.clone()).collect();
        for id in run {
            let Some(node) = candidate.node(*id).filter(|n| !matches!(n.op, Op::Input {})).cloned() else {
                continue;
            };
            for v in node.outputs {
                let read = candidate.users(v).iter().any(|u| !run.contains(u));
                let Some(value) = candidate.value(v).filter(|_| read).cloned() else { continue };
                let name = (0..).map(|i| format!("cut{i}")).find(|n| !taken.contains(n)).unwrap_or_default();
                taken.insert(name.clone());
                let input = candidate.add_input(&name, value.ty);
                let outputs = candidate.outputs().to_vec();
                candidate.replace_uses(v, input);
                // An output that is the value itself is not cut off from its node.
                candidate.set_outputs(outputs);
                any = true;
            }
        }
        any && self.attempt(candidate)
    }

    /// Gives the readers of a node's only result one of its operands of the same type.
    fn pass_by(&mut self, id: NodeId) -> bool {
        let Some(node) = self.best.node(id).cloned() else { return false };
        let [out] = node.outputs[..] else { return false };
        let same = |v: &ValueId| self.best.value(*v).map(|v| &v.ty) == self.best.value(out).map(|v| &v.ty);
        let operands: Vec<ValueId> = node.inputs.iter().copied().filter(same).collect();
        operands.into_iter().any(|v| {
            let mut candidate = self.best.clone();
            candidate.replace_uses(out, v);
            self.attempt(candidate)
        })
    }

    /// Makes axes shorter, the longest first; whether any could be.
    fn shorter(&mut self) -> bool {
        let places = shrink::places(&self.best);
        let bases: BTreeSet<usize> = places.iter().map(|p| p.length).collect();
        bases.into_iter().rev().any(|base| {
            let kept = kept(base);
            choices(&places, base).iter().any(|chosen| {
                // Lengths that types do not fit, whichever elements they are of.
                let mut misfits = BTreeSet::new();
                kept.iter().any(|keep| {
                    if self.left == 0 || misfits.contains(&keep.len()) {
                        return false;
                    }
                    let candidate = shrink::cut(&self.best, &Cut { base, keep, places: chosen });
                    if candidate.is_none() {
                        misfits.insert(keep.len());
                    }
                    candidate.is_some_and(|c| self.attempt(c))
                })
            })
        })
    }
}

/// Places that may have to change together when a length does, by their numbers.
fn choices(places: &[Place], base: usize) -> Vec<BTreeSet<usize>> {
    let select = |holds: &dyn Fn(&Place) -> bool| -> BTreeSet<usize> {
        places.iter().enumerate().filter(|(_, p)| holds(p)).map(|(i, _)| i).collect()
    };
    let multiples: BTreeSet<usize> =
        places.iter().map(|p| p.length).filter(|n| n.is_multiple_of(base)).collect();
    let others = || multiples.iter().copied().filter(|n| *n != base);
    let mut lengths = vec![multiples.clone(), BTreeSet::from([base])];
    lengths.extend(others().map(|n| BTreeSet::from([base, n])));
    lengths.extend(others().map(|n| &multiples - &BTreeSet::from([n])));
    let mut all = Vec::new();
    for lengths in &lengths {
        for most in [Kind::Attribute, Kind::Number, Kind::Axis] {
            all.push(select(&|p| lengths.contains(&p.length) && p.kind <= most));
        }
    }
    let same = select(&|p| p.length == base);
    let axes = select(&|p| p.length == base && p.kind == Kind::Axis);
    for one in axes {
        all.push(BTreeSet::from([one]));
        all.push(&same - &BTreeSet::from([one]));
    }
    let mut seen = BTreeSet::new();
    all.retain(|c| !c.is_empty() && seen.insert(c.clone()));
    all
}

/// What may be kept of a length: the first, the first two, each part of it, all but each part of it.
fn kept(length: usize) -> Vec<Vec<usize>> {
    let mut all = vec![vec![0], vec![0, 1]];
    for parts in (1..).map(|i| 1usize << i).take_while(|n| *n <= PARTS.min(length)) {
        let part = |i: usize| i * length / parts..(i + 1) * length / parts;
        all.extend((0..parts).map(|i| part(i).collect()));
        all.extend((0..parts).map(|i| (0..length).filter(|j| !part(i).contains(j)).collect()));
    }
    let mut seen = BTreeSet::new();
    all.retain(|keep: &Vec<usize>| keep.len() < length && seen.insert(keep.clone()));
    all
}
