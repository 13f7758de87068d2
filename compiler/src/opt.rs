//! Single passes on graphs, for tests and for looking: what the pipeline does, step by step.

use std::collections::BTreeMap;

use pfmc_ir::backend::{NoProgress, TileLimit};
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::graph::Graph;
use pfmc_ir::infer;
use pfmc_ir::program::TileProgram;
use pfmc_ir::text::print_program;
use pfmc_ir::tile::{Levels, Scheme};
use pfmc_ir::verify::{Verified, Verify};

use crate::codes::E0005;
use crate::compile::uniform_plan;
use crate::partition::{self, QUANTISE, partition};
use crate::passes::canonicalise::Canonicalise;
use crate::passes::fix::Found;
use crate::passes::fold::Fold;
use crate::passes::{self, PassInfo, PassRecord, apply, bind, fix};
use crate::quantise::calibrate::{CALIBRATE, calibrate};
use crate::quantise::equalise;
use crate::quantise::options::{ActivationChoice, synthetic};
use crate::quantise::plan::WeightPlan;
use crate::source::ModelSource;

/// What passes need to be told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Lengths for `bind`.
    pub bind: BTreeMap<String, i64>,
    /// Tensors that `fix` leaves alone.
    pub keep: Vec<String>,
    /// The scheme that `quantise` gives.
    pub scheme: Scheme,
    /// Most rows and columns of a tile of `partition`.
    pub tile: (u32, u32),
    /// How `calibrate` rounds the inputs of matrices.
    pub activations: ActivationChoice,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            bind: BTreeMap::new(),
            keep: Vec::new(),
            scheme: Scheme::Codes { bits: 4, group: 32, levels: Levels::Codebook },
            tile: (512, 512),
            activations: ActivationChoice::Static,
        }
    }
}

/// A program between passes.
pub struct Work {
    /// Graph and, once found, matrices; once cut, tiles and data.
    pub program: TileProgram,
    /// Matrices with their elements.
    pub found: Vec<Found>,
    plan: Option<WeightPlan>,
    source: Option<ModelSource>,
    settings: Settings,
}

fn refuse(pass: &str, why: &str) -> Diagnostics {
    Diagnostic::error(&E0005, format!("pass {pass}: {why}")).help("`pfmc opt --list` has the order").into()
}

/// The pass of a name.
///
/// # Errors
/// E0005 for a name that is none's.
pub fn pass(name: &str) -> Result<&'static PassInfo, Diagnostics> {
    let found = passes::ALL.iter().find(|p| p.name == name).copied();
    found.ok_or_else(|| {
        let names: Vec<&str> = passes::ALL.iter().map(|p| p.name).collect();
        let d = Diagnostic::error(&E0005, format!("there is no pass {name:?}"));
        d.help(format!("passes are {}", names.join(", "))).into()
    })
}

impl Work {
    /// A program to run passes on. It is verified, and types of values that follow from the inputs' are filled in.
    ///
    /// # Errors
    /// What the verifier reports.
    pub fn new(mut program: TileProgram, settings: Settings) -> Result<Work, Diagnostics> {
        program.graph.verify()?;
        infer::annotate(&mut program.graph)?;
        if !program.tiles.is_empty() {
            program.verify()?;
        }
        Ok(Work { program, found: Vec::new(), plan: None, source: None, settings })
    }

    /// As [`Work::new`], of a graph.
    ///
    /// # Errors
    /// As there.
    pub fn of(graph: Graph, settings: Settings) -> Result<Work, Diagnostics> {
        Self::new(TileProgram { graph, ..TileProgram::default() }, settings)
    }

    /// Runs a pass and its verifier.
    ///
    /// # Errors
    /// An unknown pass, or one out of order; what the pass or the verifier reports.
    pub fn run(&mut self, name: &str) -> Result<PassRecord, Diagnostics> {
        let info = pass(name)?;
        let is = |p: &PassInfo| p.name == info.name;
        if !self.program.tiles.is_empty() && name != CALIBRATE.name {
            return Err(refuse(name, "the program has tiles already"));
        }
        let fixed = !self.found.is_empty();
        let needs = |what: &'static PassInfo| refuse(name, &format!("{} comes before it", what.name));
        let graph = &mut self.program.graph;
        let record = if is(&bind::INFO) {
            let record = bind::substitute(graph, &self.settings.bind)?;
            infer::annotate(graph)?;
            record
        } else if is(&passes::fold::INFO) {
            apply(&Fold, graph)?
        } else if is(&passes::canonicalise::INFO) {
            apply(&Canonicalise, graph)?
        } else if is(&fix::INFO) {
            if fixed || !self.program.matrices.is_empty() {
                return Err(refuse(name, "the matrices are fixed already"));
            }
            let (found, record) = fix::fix(graph, &self.settings.keep)?;
            self.found = found;
            self.matrices();
            record
        } else if !fixed {
            return Err(needs(&fix::INFO));
        } else if is(&QUANTISE) {
            self.plan = Some(uniform_plan(&self.found, self.settings.scheme, None));
            PassRecord::new(info, [("matrices".to_owned(), self.found.len() as u64)].into())
        } else {
            let plan = self.plan.clone().ok_or_else(|| needs(&QUANTISE))?;
            if is(&equalise::INFO) {
                let (program, source) = self.cut(&plan)?;
                let samples = synthetic(&program.graph)?;
                let exponents = equalise::measure(&program, &source, &samples)?;
                let record = equalise::equalise(&mut self.program.graph, &mut self.found, &exponents)?;
                self.matrices();
                record
            } else if is(&partition::PARTITION) {
                let (program, source) = self.cut(&plan)?;
                self.program = program.unverified();
                self.source = Some(source);
                let [_, record] = partition::records(&self.program);
                record
            } else {
                self.calibrate()?
            }
        };
        self.program.graph.verify()?;
        Ok(record)
    }

    /// The matrices found, in the program.
    fn matrices(&mut self) {
        self.program.matrices = self.found.iter().map(Found::matrix).collect();
    }

    fn cut(&self, plan: &WeightPlan) -> Result<(Verified<TileProgram>, ModelSource), Diagnostics> {
        let (k, n) = self.settings.tile;
        let limit = |_| Some(TileLimit { k, n, k_multiple: 1, n_multiple: 1 });
        partition(self.program.graph.clone(), &self.found, plan, &limit, None)
    }

    fn calibrate(&mut self) -> Result<PassRecord, Diagnostics> {
        let source = self.source.as_mut();
        let source = source.ok_or_else(|| refuse(CALIBRATE.name, "partition comes before it"))?;
        let samples = synthetic(&self.program.graph)?;
        let found = calibrate(&self.program, source, &samples, self.settings.activations, &NoProgress)?;
        for (m, a) in self.program.matrices.iter_mut().zip(&found.activations) {
            m.activations = *a;
        }
        self.program.verify()?;
        let record = found.record(samples.len());
        source.set_calibrated(found);
        Ok(record)
    }

    /// The text of the program as it is, all constants that are not in its data written out.
    pub fn text(&self) -> String {
        print_program(&self.program)
    }
}
