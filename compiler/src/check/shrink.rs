//! Graphs whose axes are shorter: inputs are declared shorter, elements of constants are left out, and numbers that stand
//! for lengths (shapes, sizes of pieces, attributes) follow. What lies between is inferred again.
//!
//! Lengths hang together by products, as when 512 is cut into 8 heads of 64. A [`Cut`] therefore shortens a *base*, and with it
//! chosen multiples of it: q bases become q times what is kept of one.

use std::collections::{BTreeMap, BTreeSet};

use pfmc_ir::consts::Const;
use pfmc_ir::elem::Elem;
use pfmc_ir::eval;
use pfmc_ir::graph::{Graph, NodeId, ValueId};
use pfmc_ir::infer;
use pfmc_ir::op::{Attr, ConstId, Op};
use pfmc_ir::shape::{Dim, OpenType};
use pfmc_ir::tensor::Tensor;

/// Most elements of an integer constant whose elements may stand for lengths.
const NUMBERS_MAX: usize = 64;

/// What has a length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// An axis of an input or a constant.
    Axis,
    /// An element of an integer constant.
    Number,
    /// An attribute, or an entry of one.
    Attribute,
}

/// Something of a graph or of its regions that has a length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// What it is.
    pub kind: Kind,
    /// Its length, 2 or more.
    pub length: usize,
}

/// How lengths change.
pub(super) struct Cut<'a> {
    /// Length of a base.
    pub base: usize,
    /// What is kept of each base, ascending.
    pub keep: &'a [usize],
    /// The places that change, by their number in [`places`]; their lengths are multiples of the base.
    pub places: &'a BTreeSet<usize>,
}

impl Cut<'_> {
    fn length(&self, old: usize) -> usize {
        old / self.base * self.keep.len()
    }

    fn kept(&self, old: usize) -> Vec<i64> {
        let at = |block: usize| self.keep.iter().map(move |i| (block * self.base + i) as i64);
        (0..old / self.base).flat_map(at).collect()
    }
}

/// Places of a graph and of its regions, in a fixed order.
pub(super) fn places(graph: &Graph) -> Vec<Place> {
    let mut found = Vec::new();
    graph.each(&mut |g| {
        let mut visit = |kind, length: i64| {
            if let Some(length) = usize::try_from(length).ok().filter(|n| *n > 1) {
                found.push(Place { kind, length });
            }
        };
        for v in g.inputs() {
            dims(g, *v).into_iter().for_each(|n| visit(Kind::Axis, n));
        }
        for id in constants(g) {
            let Some(c) = g.consts.get(id) else { continue };
            c.shape.iter().for_each(|n| visit(Kind::Axis, i64::try_from(*n).unwrap_or(0)));
            numbers(c).into_iter().for_each(|n| visit(Kind::Number, n));
        }
        for (_, n) in g.nodes() {
            attributes(&n.op).into_iter().flat_map(|(_, v)| v).for_each(|n| visit(Kind::Attribute, n));
        }
    });
    found
}

/// Lengths of an input's axes, 0 where they are open.
fn dims(graph: &Graph, input: ValueId) -> Vec<i64> {
    let shape = graph.value(input).and_then(|v| v.ty.shape.as_ref());
    shape.into_iter().flatten().map(|d| d.as_ref().and_then(Dim::value).unwrap_or(0)).collect()
}

/// The constants that nodes have, once each.
fn constants(graph: &Graph) -> BTreeSet<ConstId> {
    let id = |op: &Op| if let Op::Constant { id } = op { Some(*id) } else { None };
    graph.nodes().filter_map(|(_, n)| id(&n.op)).collect()
}

/// The elements of a constant that may stand for lengths.
fn numbers(c: &Const) -> Vec<i64> {
    let small = c.elem == Elem::I64 && c.shape.len() <= 1 && c.len() <= NUMBERS_MAX;
    let tensor = if small { c.tensor().ok() } else { None };
    tensor.and_then(|t| Some(t.as_slice::<i64>().ok()?.to_vec())).unwrap_or_default()
}

/// The attributes of an operation that may stand for lengths.
fn attributes(op: &Op) -> Vec<(&'static str, Vec<i64>)> {
    // Numbers of constants, matrices and regions are none.
    if matches!(op, Op::Constant { .. }) || op.matrix().is_some() || !op.regions().is_empty() {
        return Vec::new();
    }
    let lengths = |(name, attr)| match attr {
        Attr::Int(v) => Some((name, vec![v])),
        Attr::Ints(v) => Some((name, v)),
        _ => None,
    };
    op.attrs().into_iter().filter_map(lengths).collect()
}

/// The graph after a cut, types inferred; `None` where lengths then contradict each other or a constant cannot be cut.
pub(super) fn cut(graph: &Graph, how: &Cut<'_>) -> Option<Graph> {
    let mut out = graph.clone();
    let (mut at, mut good) = (0, true);
    out.each_mut(&mut |g| {
        // The new length of the next place, if it changes.
        let mut next = |length: i64| -> Option<usize> {
            let length = usize::try_from(length).ok().filter(|n| *n > 1)?;
            at += 1;
            how.places.contains(&(at - 1)).then(|| how.length(length))
        };
        for v in g.inputs().to_vec() {
            let new: Vec<Option<usize>> = dims(g, v).into_iter().map(&mut next).collect();
            if let Some(shape) = g.value_mut(v).and_then(|v| v.ty.shape.as_mut()) {
                for (d, n) in shape.iter_mut().zip(new) {
                    if let Some(n) = n.and_then(|n| i64::try_from(n).ok()) {
                        *d = Some(Dim::known(n));
                    }
                }
            }
        }
        for id in constants(g) {
            let Some(old) = g.consts.get(id).cloned() else { continue };
            let lengths = old.shape.iter().map(|n| i64::try_from(*n).unwrap_or(0));
            let axes: Vec<bool> = lengths.map(|n| next(n).is_some()).collect();
            let values = numbers(&old);
            let new: Vec<Option<usize>> = values.iter().map(|n| next(*n)).collect();
            if !axes.contains(&true) && new.iter().all(Option::is_none) {
                continue;
            }
            match constant(&old, how, &axes, &values, &new).zip(g.consts.get_mut(id)) {
                Some((c, slot)) => *slot = c,
                None => good = false,
            }
        }
        let ops: Vec<(NodeId, Op)> = g.nodes().map(|(id, n)| (id, n.op.clone())).collect();
        for (id, op) in ops {
            let mut new: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
            for (name, values) in attributes(&op) {
                let changed: Vec<Option<usize>> = values.iter().map(|n| next(*n)).collect();
                if changed.iter().any(Option::is_some) {
                    let to = |(old, new): (&i64, Option<usize>)| new.map_or(*old, |n| n as i64);
                    new.insert(name, values.iter().zip(changed).map(to).collect());
                }
            }
            if new.is_empty() {
                continue;
            }
            let attr = |(name, old): (&'static str, Attr)| {
                let attr = match (&old, new.get(name)) {
                    (Attr::Int(_), Some(v)) => v.first().map_or(old.clone(), |v| Attr::Int(*v)),
                    (_, Some(v)) => Attr::Ints(v.clone()),
                    _ => old,
                };
                (name.to_owned(), attr)
            };
            match (Op::from_text(op.name(), op.attrs().into_iter().map(attr).collect()), g.op_mut(id)) {
                (Ok(op), Some((slot, _))) => *slot = op,
                _ => good = false,
            }
        }
    });
    (good && infer::annotate(&mut out).is_ok()).then_some(out)
}

/// A constant of which some axes are cut, and some elements, which stand for lengths, are `new`.
fn constant(
    old: &Const,
    how: &Cut<'_>,
    axes: &[bool],
    values: &[i64],
    new: &[Option<usize>],
) -> Option<Const> {
    let mut tensor = old.tensor().ok()?;
    if new.iter().any(Option::is_some) {
        let to = |(old, new): (&i64, &Option<usize>)| new.map_or(*old, |n| n as i64);
        tensor = Tensor::new(old.shape.clone(), values.iter().zip(new).map(to).collect::<Vec<i64>>()).ok()?;
    }
    for (axis, length) in old.shape.iter().enumerate().filter(|(i, _)| axes.get(*i) == Some(&true)) {
        let kept = Tensor::vector(how.kept(*length));
        let op = Op::Gather { axis: i64::try_from(axis).ok()? };
        tensor = eval::eval(&op, &[tensor, kept]).ok()?.pop()?;
    }
    Some(Const::derived(&tensor, old.origin.clone(), old.learned))
}

/// Elements of inputs and constants, an open length counted as one.
pub(super) fn elements(graph: &Graph) -> u64 {
    let mut sum = 0u64;
    let of = |ty: &OpenType| {
        let lengths = ty.shape.iter().flatten().filter_map(|d| u64::try_from(d.as_ref()?.value()?).ok());
        lengths.fold(1, u64::saturating_mul)
    };
    graph.each(&mut |g| {
        let inputs = g.inputs().iter().filter_map(|v| g.value(*v)).map(|v| of(&v.ty));
        let constants = constants(g).into_iter().filter_map(|id| g.consts.get(id)).map(|c| c.len() as u64);
        sum = inputs.chain(constants).fold(sum, u64::saturating_add);
    });
    sum
}
