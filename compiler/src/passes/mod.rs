//! Passes over the graph. After each one the verifier runs.

pub mod bind;
pub mod canonicalise;
pub mod fix;
pub mod fold;

use std::collections::BTreeMap;

use pfmc_ir::diag::Diagnostics;
use pfmc_ir::graph::Graph;
use pfmc_ir::shape::Knowledge;
use pfmc_ir::verify::Verify;
use serde::{Deserialize, Serialize};

/// What a pass may do to results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exactness {
    /// The same bits for the same inputs.
    BitExact,
    /// Weights and activations are rounded as [`pfmc_ir::numerics`] says.
    Rounding,
}

/// What a pass is.
#[derive(Debug, Clone, Copy)]
pub struct PassInfo {
    /// Name in the manifest and in `pfmc passes`.
    pub name: &'static str,
    /// One sentence.
    pub doc: &'static str,
    /// Effect on results.
    pub exactness: Exactness,
}

impl Exactness {
    /// As in the manifest.
    pub fn name(self) -> &'static str {
        match self {
            Exactness::BitExact => "bit-exact",
            Exactness::Rounding => "rounding",
        }
    }
}

/// All passes in the order of the pipeline.
pub static ALL: [&PassInfo; 8] = [
    &bind::INFO,
    &fold::INFO,
    &canonicalise::INFO,
    &fix::INFO,
    &crate::quantise::equalise::INFO,
    &crate::partition::QUANTISE,
    &crate::partition::PARTITION,
    &crate::quantise::calibrate::CALIBRATE,
];

/// Counts a pass reports.
pub type Stats = BTreeMap<String, u64>;

/// What a pass did, for the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassRecord {
    /// Name.
    pub name: String,
    /// Effect on results.
    pub exactness: Exactness,
    /// Counts.
    pub stats: Stats,
}

impl PassRecord {
    /// A record of a pass.
    pub fn new(info: &PassInfo, stats: Stats) -> Self {
        PassRecord { name: info.name.into(), exactness: info.exactness, stats }
    }
}

/// A pass that keeps the level of knowledge.
pub trait Pass<T: Knowledge> {
    /// What it is.
    fn info(&self) -> &'static PassInfo;
    /// Changes the graph.
    ///
    /// # Errors
    /// What the model got wrong.
    fn run(&self, graph: &mut Graph<T>) -> Result<Stats, Diagnostics>;
}

/// Runs a pass and the verifier after it.
///
/// # Errors
/// What either reports.
pub fn apply<T: Knowledge>(pass: &dyn Pass<T>, graph: &mut Graph<T>) -> Result<PassRecord, Diagnostics> {
    let stats = pass.run(graph)?;
    graph.verify()?;
    Ok(PassRecord::new(pass.info(), stats))
}
