//! What a model is and what would become of it.

use std::collections::BTreeMap;
use std::path::Path;

use pfmc_ir::backend::Wishes;
use pfmc_ir::diag::Diagnostics;
use serde::Serialize;

use crate::blocks::{Group, blocks};
use crate::compile::open_target;
use crate::onnx;
use crate::partition::partition;
use crate::passes::{apply, bind, canonicalise, fix, fold};
use crate::quantise::plan::WeightPlan;
use crate::targets::BACKENDS;

/// A description of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// Name in the file.
    pub name: String,
    /// Operator set.
    pub opset: i64,
    /// Learned elements.
    pub parameters: u64,
    /// Inputs, as `name: type`.
    pub inputs: Vec<String>,
    /// Outputs, as `name: type`.
    pub outputs: Vec<String>,
    /// Open dimensions, for `--bind`.
    pub open_dimensions: Vec<String>,
    /// Operators of the source and how often each occurs.
    pub operators: BTreeMap<String, u64>,
    /// Blocks recovered from their parts, and how often each occurs.
    pub recovered: BTreeMap<String, u64>,
    /// The model as its blocks, in order of execution; repeated ones once.
    pub blocks: Vec<Group>,
    /// Layers that would be fixed.
    pub layers: Vec<Layer>,
    /// Elements of those layers.
    pub fixed_parameters: u64,
    /// Tiles a target would need, with its default process.
    pub tiles: BTreeMap<String, usize>,
    /// Operations that stay with the host program and how often each occurs.
    pub host_operations: BTreeMap<String, u64>,
}

/// A fixed matrix.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Layer {
    /// Source tensor.
    pub tensor: String,
    /// Nodes that use it.
    pub nodes: Vec<String>,
    /// Inputs.
    pub k: u32,
    /// Outputs.
    pub n: u32,
}

/// Inspects a model without reading its weights.
///
/// # Errors
/// Everything wrong with the model.
pub fn inspect(path: &Path) -> Result<(Inspection, Diagnostics), Diagnostics> {
    let model = onnx::import(path)?;
    let mut graph = model.graph;
    let typed = |v| graph.value(v).map(|v| v.ty.to_string()).unwrap_or_default();
    let inputs = graph
        .inputs()
        .iter()
        .map(|v| format!("{}: {}", graph.value(*v).map(|v| v.name.as_str()).unwrap_or_default(), typed(*v)))
        .collect();
    let outputs = graph.outputs().iter().map(|(name, v)| format!("{name}: {}", typed(*v))).collect();
    let open_dimensions = bind::open_dimensions(&graph).into_iter().collect();
    apply(&fold::Fold, &mut graph)?;
    let recovered = apply(&canonicalise::Canonicalise, &mut graph)?.stats;
    let (found, _) = fix::fix(&mut graph, &[])?;
    let blocks = blocks(&graph);
    let mut tiles = BTreeMap::new();
    for backend in BACKENDS {
        let target = open_target(backend.name(), None, &Wishes::default())?.target;
        let caps = target.caps();
        let plan = WeightPlan::uniform(&found, caps.default_scheme);
        let limit = |scheme| target.tile_limit(scheme);
        let (program, _) = partition(graph.clone(), &found, &plan, &limit, caps.data_tile_bytes)?;
        let held = crate::partition::held(&program, caps.data_tile_bytes.is_some());
        tiles.insert(backend.name().to_owned(), held.count());
    }
    let mut host_operations = BTreeMap::new();
    graph.each(&mut |graph| {
        use pfmc_ir::op::Op;
        for (_, node) in graph.nodes() {
            if node.op.matrix().is_none() && !matches!(node.op, Op::Input {} | Op::Constant { .. }) {
                *host_operations.entry(node.op.name().to_owned()).or_default() += 1;
            }
        }
    });
    let layers: Vec<Layer> = found
        .into_iter()
        .map(|f| Layer {
            tensor: f.origin.tensor.unwrap_or_default(),
            nodes: f.origin.nodes,
            k: f.view.k,
            n: f.view.n,
        })
        .collect();
    let inspection = Inspection {
        name: model.name,
        opset: model.opset,
        parameters: model.parameters,
        inputs,
        outputs,
        open_dimensions,
        operators: model.op_counts,
        recovered,
        blocks,
        fixed_parameters: layers.iter().map(|l| u64::from(l.k) * u64::from(l.n)).sum(),
        layers,
        tiles,
        host_operations,
    };
    Ok((inspection, model.warnings))
}
