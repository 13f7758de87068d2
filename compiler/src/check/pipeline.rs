//! The pipeline on one model, every pass judged by its contract.

use std::collections::BTreeMap;
use std::path::Path;

use pfmc_ir::backend::Progress;
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::exec::Executor;
use pfmc_ir::graph::Graph;
use pfmc_ir::program::TileProgram;
use pfmc_ir::text::print_program;
use pfmc_ir::tile::{FixedMatrix, TileKind};
use serde::Serialize;

use super::bound::{self, Layer, Recorder};
use super::{Method, Outcome, Stage, Worst, check_stage, inputs};
use crate::codes::E0315;
use crate::compile::{self, Lowered, OpenTarget, lower_observed, open_target};
use crate::files::io_error;
use crate::partition::partition;
use crate::passes::fix::Found;
use crate::passes::{self, Exactness, PassInfo, PassRecord, bind};
use crate::quantise::calibrate::{self, Exact};
use crate::samples::{Inputs, Samples};
use crate::source::ModelSource;

/// The name of the last contract, which is of no pass: the written files.
pub const LAYOUT: &str = "layout";

/// What a pass promised, and whether it holds.
#[derive(Debug, Clone, Serialize)]
pub struct Contract {
    /// Name of the pass.
    pub pass: String,
    /// What it promised.
    pub exactness: Exactness,
    /// What was found.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Of quantisation: its layers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Layer>,
    /// The graph before a pass over graphs whose contract does not hold.
    #[serde(skip)]
    pub failing: Option<Graph>,
}

/// All contracts of one model for one target.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// File name of the model.
    pub model: String,
    /// Target.
    pub target: String,
    /// Process.
    pub process: String,
    /// What the model was run on.
    pub inputs: Vec<String>,
    /// In the order of the pipeline.
    pub contracts: Vec<Contract>,
}

impl Contract {
    /// Whether it holds, for each of its layers too.
    pub fn passed(&self) -> bool {
        self.outcome.passed() && self.layers.iter().all(|l| l.outcome.passed())
    }
}

impl Report {
    /// Whether all contracts hold.
    pub fn passed(&self) -> bool {
        self.contracts.iter().all(Contract::passed)
    }

    /// Everything that is wrong.
    pub fn problems(&self) -> Diagnostics {
        let mut all = Diagnostics::new();
        for c in &self.contracts {
            for d in c.outcome.problems.0.iter().chain(c.layers.iter().flat_map(|l| &l.outcome.problems.0)) {
                all.push(Diagnostic { message: format!("{}: {}", c.pass, d.message), ..d.clone() });
            }
        }
        all
    }
}

/// A graph as some passes left it.
struct Step {
    records: Vec<PassRecord>,
    graph: Graph,
    found: Vec<Found>,
}

/// Matrices as the model has them, for graphs whose matrices were found and not yet cut.
pub struct Uncut {
    matrices: Vec<FixedMatrix>,
    source: ModelSource,
}

impl Uncut {
    /// The matrices found.
    pub fn new(found: &[Found]) -> Uncut {
        let views = found.iter().map(|f| f.view.clone()).collect();
        let source = ModelSource::new(&TileProgram::default(), views, Vec::new());
        Uncut { matrices: found.iter().map(Found::matrix).collect(), source }
    }

    /// To run a graph with.
    pub fn fixed(&self) -> Exact<'_> {
        Exact::new(&self.matrices, &self.source)
    }
}

/// Passes that run on a graph alone, so that a graph that they fail on can be made small.
const ALONE: [&PassInfo; 4] =
    [&bind::INFO, &passes::fold::INFO, &passes::canonicalise::INFO, &passes::fix::INFO];

fn contract(pass: &str, exactness: Exactness, outcome: Outcome, before: &Graph) -> Contract {
    let small = !outcome.passed() && ALONE.iter().any(|p| p.name == pass);
    let failing = small.then(|| before.clone());
    Contract { pass: pass.to_owned(), exactness, outcome, layers: Vec::new(), failing }
}

/// Compares one step with the one before it.
fn graph_contracts(
    steps: &[Step],
    bindings: &BTreeMap<String, i64>,
    inputs: &[Inputs],
) -> Result<Vec<Contract>, Diagnostics> {
    let mut out = Vec::new();
    for pair in steps.windows(2) {
        let [before, after] = pair else { continue };
        let (old, new) = (Uncut::new(&before.found), Uncut::new(&after.found));
        let (old, new) = (old.fixed(), new.fixed());
        let mut first = before.graph.clone();
        for record in &after.records {
            if record.name == bind::INFO.name {
                let mut bound = first.clone();
                bind::substitute(&mut bound, bindings)?;
                let outcome = check_stage(&first, &bound, record.exactness, inputs);
                out.push(contract(&record.name, record.exactness, outcome, &first));
                first = bound;
                continue;
            }
            let was = Stage { graph: &first, fixed: &old };
            let is = Stage { graph: &after.graph, fixed: &new };
            let outcome = check_stage(was, is, record.exactness, inputs);
            out.push(contract(&record.name, record.exactness, outcome, &first));
        }
    }
    Ok(out)
}

/// Cuts the matrices again as planned, and compares what the tiles and the data hold with what was cut, and the graphs.
fn partition_contract(
    last: &Step,
    lowered: &Lowered,
    target: &dyn pfmc_ir::backend::Target,
    inputs: &[Inputs],
) -> Result<(Contract, ModelSource), Diagnostics> {
    let limit = |scheme| target.tile_limit(scheme);
    let cut =
        partition(last.graph.clone(), &last.found, &lowered.plan, &limit, target.caps().data_tile_bytes);
    let (program, source) = cut?;
    let uncut = Uncut::new(&last.found);
    let (old, new) = (uncut.fixed(), Exact::new(&program.matrices, &source));
    let was = Stage { graph: &last.graph, fixed: &old };
    let mut outcome =
        check_stage(was, Stage { graph: &program.graph, fixed: &new }, Exactness::BitExact, inputs);
    let mut emitted = lowered.program.clone().unverified();
    for (m, of) in emitted.matrices.iter_mut().zip(&program.matrices) {
        m.activations = of.activations;
    }
    if print_program(&emitted) != print_program(&program) {
        let d = Diagnostic::error(&E0315, "cutting the same matrices again gives another program");
        outcome.problems.push(d);
    }
    for (id, tile) in program.tiles() {
        let TileKind::Matrix { matrix, k, n, .. } = &tile.kind else { continue };
        let whole = last.found.get(matrix.index()).and_then(|f| f.view.read(k.clone(), n.clone()));
        let held = source.weights(id);
        let bits = |v: &Vec<f32>| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        if whole.as_ref().map(bits) != held.as_ref().map(bits) {
            let message = format!("tile {} does not hold its part of matrix {matrix}", tile.name);
            outcome.problems.push(Diagnostic::error(&E0315, message).at(&tile.origin));
        }
        outcome.count("elements", held.map_or(0, |h| h.len() as u64));
    }
    // The verifier has shown that each element and each byte is in one tile.
    outcome.by(Method::Proof);
    outcome.count("tiles covering every element once", program.tiles.len() as u64);
    Ok((contract(crate::partition::PARTITION.name, Exactness::BitExact, outcome, &last.graph), source))
}

/// The bounds of quantisation, layer by layer, and what calibration changed besides.
fn quantise_contracts(
    lowered: &Lowered,
    uncorrected: &ModelSource,
    inputs: &[Inputs],
) -> Result<Vec<Contract>, Diagnostics> {
    let (program, source) = (&*lowered.program, &lowered.source);
    let exact = Exact::new(&program.matrices, source);
    let recorder = Recorder::new(&exact, program);
    {
        let executor = Executor::new(&program.graph, &recorder)?;
        // What the program refuses has no rows to look at.
        inputs.iter().for_each(|i| drop(executor.run(i)));
    }
    let rows = recorder.rows();
    let layers = bound::layers(program, source, source, &rows)?;
    let mut outcome = Outcome::default();
    outcome.by(Method::Bound);
    outcome.count("matrices", layers.len() as u64);
    for layer in &layers {
        for (what, n) in &layer.outcome.checked {
            outcome.count(what, *n);
        }
        layer.outcome.methods.iter().for_each(|m| outcome.by(*m));
        if let Some(w) = &layer.outcome.worst {
            Worst::keep(&mut outcome.worst, w.clone());
        }
    }
    let pass = |name: &str, outcome, layers| Contract {
        pass: name.to_owned(),
        exactness: Exactness::Rounding,
        outcome,
        layers,
        failing: None,
    };
    let calibrated = lowered.passes.iter().any(|p| p.name == calibrate::CALIBRATE.name);
    let mut all = vec![pass(crate::partition::QUANTISE.name, outcome, layers)];
    if calibrated {
        let mut outcome = Outcome::default();
        outcome.by(Method::Bound);
        for entry in &program.data {
            let both = (source.data(entry.offset, entry.len), uncorrected.data(entry.offset, entry.len));
            let (Some(now), Some(then)) = both else { continue };
            let floats = |b: &[u8]| -> Vec<f32> {
                b.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
            };
            if now != then {
                outcome.count("constants corrected", 1);
                if floats(&now).iter().any(|v| !v.is_finite()) {
                    let d = Diagnostic::error(&E0315, "a corrected constant is not finite").at(&entry.origin);
                    outcome.problems.push(d);
                }
            }
        }
        outcome.count("matrices rounded within the bounds of quantise", program.matrices.len() as u64);
        all.push(pass(calibrate::CALIBRATE.name, outcome, Vec::new()));
    }
    Ok(all)
}

/// Compiles into a folder and reads it back.
fn layout_contract(
    options: &compile::Options,
    lowered: &Lowered,
    progress: &dyn Progress,
) -> Result<Outcome, Diagnostics> {
    let mut out = Outcome::default();
    let temporary =
        tempfile::tempdir().map_err(|e| io_error("create", Path::new("a temporary folder"), &e))?;
    let folder = options.output.clone().unwrap_or_else(|| temporary.path().join("layout"));
    let options = compile::Options { output: Some(folder), ..options.clone() };
    match compile::compile(&options, progress, &|_, _| {}) {
        Err(problems) if problems.0.iter().any(|d| crate::codes::is_usage(d.code)) => return Err(problems),
        Err(problems) => out.problems = problems,
        Ok(compiled) => {
            if print_program(&compiled.program) != print_program(&lowered.program) {
                let message = "the program that was written is not the one that was checked";
                out.problems.push(Diagnostic::error(&E0315, message));
            }
            out.by(Method::ReadBack);
            out.count("tiles", compiled.verified.tiles as u64);
            out.count("elements", compiled.verified.elements);
            out.count("files", compiled.verified.files as u64);
        }
    }
    Ok(out)
}

/// Runs the pipeline and judges every pass. `given` are inputs to run on besides those that are made up.
///
/// # Errors
/// What keeps the pipeline from being run at all: bad options, a model that is no model, files. What a pass does wrong is
/// in the report.
pub fn check(
    options: &compile::Options,
    given: Option<&Path>,
    progress: &dyn Progress,
) -> Result<Report, Diagnostics> {
    let bindings = bind::merge(&options.bind)?;
    let OpenTarget { backend, process, target } =
        open_target(&options.target, options.process.as_deref(), &options.wishes)?;
    let mut steps: Vec<Step> = Vec::new();
    let lowered = {
        let mut look = |records: &[PassRecord], graph: &Graph, found: &[Found]| {
            steps.push(Step { records: records.to_vec(), graph: graph.clone(), found: found.to_vec() });
        };
        let q = &options.quantisation;
        lower_observed(&options.model, &*target, backend.name(), &bindings, q, progress, &mut look)
    };
    let model = options.model.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let mut report = Report {
        model,
        target: backend.name().to_owned(),
        process: process.name.clone(),
        inputs: Vec::new(),
        contracts: Vec::new(),
    };
    // Nothing was lowered, or what is asked for does not fit: there is no pass to blame.
    let ours = |d: &Diagnostics| d.0.iter().any(|d| d.code.id.starts_with("E03"));
    let lowered = match lowered {
        Ok(l) => Some(l),
        Err(d) if steps.is_empty() || !ours(&d) => return Err(d),
        Err(d) => {
            let pass = passes::ALL.get(steps.len()).map_or("lowering", |p| p.name);
            let outcome = Outcome { problems: d, ..Outcome::default() };
            let before = steps.last().map(|s| s.graph.clone()).unwrap_or_default();
            report.contracts.push(contract(pass, Exactness::BitExact, outcome, &before));
            None
        }
    };
    // As bound, and before anything is taken for a block: tables can still be told by their look-ups.
    let Some(shown) = steps.get(1).or(steps.first()) else { return Ok(report) };
    let mut cases = inputs::suite(&shown.graph)?;
    if let Some(path) = given {
        let samples = Samples::read(&shown.graph, path)?;
        let name = |i: usize| format!("given {i}");
        cases.extend(
            samples.iter().enumerate().map(|(i, s)| inputs::Case { name: name(i), inputs: s.clone() }),
        );
    }
    report.inputs = cases.iter().map(|c| c.name.clone()).collect();
    let all: Vec<Inputs> = cases.into_iter().map(|c| c.inputs).collect();
    progress.begin("checking passes", 0);
    let mut contracts = graph_contracts(&steps, &bindings, &all)?;
    if let (Some(lowered), Some(last)) = (&lowered, steps.last()) {
        progress.begin("checking tiles", 0);
        let (cut, uncorrected) = partition_contract(last, lowered, &*target, &all)?;
        let mut rounded = quantise_contracts(lowered, &uncorrected, &all)?.into_iter();
        contracts.extend(rounded.next());
        contracts.push(cut);
        contracts.extend(rounded);
        let outcome = layout_contract(options, lowered, progress)?;
        contracts.push(Contract {
            pass: LAYOUT.to_owned(),
            exactness: Exactness::BitExact,
            outcome,
            layers: Vec::new(),
            failing: None,
        });
    }
    contracts.append(&mut report.contracts);
    report.contracts = contracts;
    Ok(report)
}
