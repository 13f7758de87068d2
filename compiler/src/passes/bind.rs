//! Binding of open dimensions: the step from one level of knowledge to the next.

use std::collections::{BTreeMap, BTreeSet};

use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::graph::Graph;
use pfmc_ir::shape::{BoundType, OpenType};
use pfmc_ir::tensor::count;
use pfmc_ir::verify::Verify;

use super::fold::Fold;
use super::{Exactness, PassInfo, PassRecord, apply};
use crate::codes::{E0201, E0202, E0203};

/// What the pass is.
pub static INFO: PassInfo = PassInfo {
    name: "bind",
    doc: "Binds open dimensions to numbers; shape arithmetic, masks and tables become constants.",
    exactness: Exactness::BitExact,
};

/// Names of the dimensions that the inputs leave open, sorted.
pub fn open_dimensions(graph: &Graph<OpenType>) -> BTreeSet<String> {
    graph
        .inputs()
        .iter()
        .filter_map(|v| graph.value(*v)?.ty.shape.as_ref())
        .flatten()
        .flatten()
        .flat_map(|d| d.symbols().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

/// Merges `--bind` arguments.
///
/// # Errors
/// Names bound twice with different sizes, and sizes below 1.
pub fn merge(arguments: &[(String, i64)]) -> Result<BTreeMap<String, i64>, Diagnostics> {
    let mut bad = Diagnostics::new();
    let mut out = BTreeMap::new();
    for (name, size) in arguments {
        if *size < 1 {
            bad.push(Diagnostic::error(&E0202, format!("{name} cannot be {size}")).help("sizes start at 1"));
        }
        if let Some(old) = out.insert(name.clone(), *size).filter(|old| old != size) {
            let message = format!("{name} is bound to {old} and to {size}");
            bad.push(Diagnostic::error(&E0202, message).help(format!("give one --bind {name}=SIZE")));
        }
    }
    bad.check().map(|()| out)
}

/// Binds dimensions, and nothing else: inputs have the lengths given, and what follows from them is left to folding.
///
/// # Errors
/// Unknown names and sizes that overflow.
pub fn substitute(
    graph: &mut Graph<OpenType>,
    bindings: &BTreeMap<String, i64>,
) -> Result<PassRecord, Diagnostics> {
    let open = open_dimensions(graph);
    let mut bad = Diagnostics::new();
    for name in bindings.keys().filter(|n| !open.contains(*n)) {
        let listed: Vec<&str> = open.iter().map(String::as_str).collect();
        bad.push(Diagnostic::error(&E0201, format!("no input has an open dimension {name:?}")).help(
            if listed.is_empty() {
                "the model has no open dimension".to_owned()
            } else {
                format!("open dimensions are {}; for example --bind {}=1", listed.join(", "), listed[0])
            },
        ));
    }
    bad.check()?;
    for v in graph.inputs().to_vec() {
        let Some(value) = graph.value_mut(v) else { continue };
        for dim in value.ty.shape.iter_mut().flatten() {
            if let Some(d) = dim {
                *dim = Some(d.bind(bindings).ok_or_else(|| {
                    Diagnostic::error(&E0202, format!("a dimension of input {:?} overflows", value.name))
                        .help("bind smaller sizes")
                })?);
            }
        }
    }
    for region in graph.regions_mut() {
        region.each_mut(&mut |region| {
            for v in region.inputs().to_vec() {
                let dims = region.value_mut(v).map(|v| v.ty.shape.iter_mut().flatten());
                // What overflows inside a region is not known there.
                dims.into_iter().flatten().for_each(|d| *d = d.as_ref().and_then(|d| d.bind(bindings)));
            }
        });
    }
    Ok(PassRecord::new(&INFO, [("dimensions".to_owned(), bindings.len() as u64)].into()))
}

/// Binds dimensions and folds. Dimensions that are not named stay open; when none is left the
/// result is known to have only bound shapes.
///
/// # Errors
/// Unknown names, sizes the model contradicts, and shapes that stay unknown.
pub fn bind(
    mut graph: Graph<OpenType>,
    bindings: &BTreeMap<String, i64>,
) -> Result<(Bound, Vec<PassRecord>), Diagnostics> {
    let bound = substitute(&mut graph, bindings)?;
    let mut records = if bindings.is_empty() { Vec::new() } else { vec![bound] };
    records.push(apply(&Fold, &mut graph)?);
    if !open_dimensions(&graph).is_empty() {
        return Ok((Bound::Open(graph), records));
    }
    if bindings.is_empty() && graph_is_open(&graph) {
        return Ok((Bound::Open(graph), records));
    }
    match graph.convert::<BoundType>() {
        Ok(g) => {
            check_sizes(&g)?;
            g.verify()?;
            Ok((Bound::Bound(g), records))
        }
        Err(unknown) => Err(Diagnostics(
            unknown
                .into_iter()
                .map(|(id, v)| {
                    Diagnostic::error(
                        &E0203,
                        format!("the shape of %{id} {:?} is {} after binding", v.name, v.ty),
                    )
                    .help("leave out --bind: tiles do not depend on shapes, and the program takes any size")
                })
                .collect(),
        )),
    }
}

/// Whether some value's shape is not a list of numbers: a length that data decide stays open when
/// nobody asked to bind it.
fn graph_is_open(graph: &Graph<OpenType>) -> bool {
    graph
        .nodes()
        .flat_map(|(_, n)| &n.outputs)
        .any(|v| graph.value(*v).is_none_or(|v| v.ty.bound().is_none()))
}

/// Refuses tensors of more than 2^40 bytes, more than the executor gives any one tensor.
fn check_sizes(graph: &Graph<BoundType>) -> Result<(), Diagnostics> {
    let mut bad = Diagnostics::new();
    for (_, node) in graph.nodes() {
        for v in node.outputs.iter().filter_map(|v| graph.value(*v)) {
            let bytes = count(&v.ty.shape).and_then(|c| v.ty.elem.stored(c));
            if bytes.is_none_or(|b| b > 1 << 40) {
                let message = format!("{:?} would be {}, more than 2^40 bytes", v.name, v.ty);
                bad.push(Diagnostic::error(&E0202, message).help("bind smaller sizes").at(&node.origin));
            }
        }
    }
    bad.check()
}

/// A graph after binding, at the level of knowledge reached.
#[derive(Debug, Clone)]
pub enum Bound {
    /// Some dimension is open.
    Open(Graph<OpenType>),
    /// Every shape is a list of numbers.
    Bound(Graph<BoundType>),
}

impl Bound {
    /// As an open graph, which every graph is.
    pub fn into_open(self) -> Graph<OpenType> {
        match self {
            Bound::Open(g) => g,
            Bound::Bound(g) => g.into(),
        }
    }
}
