//! What a model costs before anything is built.
//!
//! For a model that exists the target plans it, as for compiling, and the estimate takes the plan's sizes. For one that does not, [`arch`]
//! makes up shapes and the target computes in closed form. Figures are those of the target's own [`Sheet`].

pub mod arch;
pub mod plot;
mod workload;

use std::collections::BTreeMap;
use std::path::PathBuf;

use pfmc_ir::backend::{Progress, Wishes};
use pfmc_ir::diag::Diagnostics;
use pfmc_ir::estimate::{Quantity, Range, Sheet};
use serde::Serialize;

use crate::compile::{OpenTarget, choose, lower, open_target};
use crate::passes::bind;
use crate::quantise::options::Quantisation;
use arch::Arch;

/// Constants of the host.
pub const HOST: &str = include_str!("host.toml");

/// What is estimated.
#[derive(Debug, Clone)]
pub enum Subject {
    /// A model file.
    Model(PathBuf),
    /// A model of so many parameters, by a rule.
    Parameters(f64, Arch),
}

/// What to estimate, and how.
#[derive(Debug, Clone)]
pub struct Request {
    /// What.
    pub subject: Subject,
    /// Target's name.
    pub target: String,
    /// Built-in process or process file.
    pub process: Option<String>,
    /// What is wanted of the process beyond its file.
    pub wishes: Wishes,
    /// Bound dimensions.
    pub bind: Vec<(String, i64)>,
    /// How weights are quantised.
    pub quantisation: Quantisation,
    /// Tokens that attention looks back on.
    pub context: f64,
    /// Sizes in closed form for a model that exists too.
    pub closed_form: bool,
    /// Values in the place of the estimate's own.
    pub assumed: BTreeMap<String, Range>,
}

/// An estimate.
#[derive(Debug, Clone, Serialize)]
pub struct Estimate {
    /// What the model is.
    pub about: String,
    /// Its parameters.
    pub parameters: f64,
    /// Its fixed weights.
    pub weights: f64,
    /// Target.
    pub target: String,
    /// Process.
    pub process: String,
    /// Every quantity in the order of computation.
    pub quantities: Vec<Quantity>,
    /// What limits it.
    pub limits: Vec<String>,
    /// The sheet itself.
    #[serde(skip)]
    pub sheet: Sheet,
}

/// Estimates.
///
/// # Errors
/// Everything wrong with the model, the options, the process or the assumptions.
pub fn estimate(request: &Request, progress: &dyn Progress) -> Result<Estimate, Diagnostics> {
    let OpenTarget { backend, process, target } =
        open_target(&request.target, request.process.as_deref(), &request.wishes)?;
    let mut sheet = Sheet::new(request.assumed.clone());
    sheet.constants("compiler/src/estimate/host.toml", HOST);
    let (work, sheet) = match &request.subject {
        Subject::Model(path) => {
            let bindings = bind::merge(&request.bind)?;
            let lowered = lower(path, &*target, backend.name(), &bindings, &request.quantisation, progress)?;
            progress.begin("planning", 0);
            let model = &lowered.model;
            let work = workload::of_program(
                &lowered.program,
                request.context,
                model.name.clone(),
                model.parameters as f64,
            );
            let sheet = if request.closed_form {
                target.estimate(&work, sheet)?
            } else {
                target.plan(&lowered.program)?.estimate(&work, sheet)?
            };
            (work, sheet)
        }
        &Subject::Parameters(parameters, arch) => {
            let scheme = choose(&*target, backend.name(), &request.quantisation)?;
            let work = arch::workload(arch, parameters, &*target, scheme, request.context)?;
            let sheet = target.estimate(&work, sheet)?;
            (work, sheet)
        }
    };
    let sheet = sheet.finish()?;
    Ok(Estimate {
        about: work.about,
        parameters: work.parameters,
        weights: work.weights,
        target: backend.name().to_owned(),
        process: process.name,
        quantities: sheet.quantities().to_vec(),
        limits: sheet.limits().to_vec(),
        sheet,
    })
}
