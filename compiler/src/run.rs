//! Execution of what was emitted.

use std::collections::BTreeMap;
use std::path::Path;

use pfmc_ir::backend::Progress;
use pfmc_ir::diag::Diagnostics;
use pfmc_ir::exec::Executor;
use pfmc_ir::graph::Graph;
use pfmc_ir::loaded::LoadedMatrices;
use pfmc_ir::shape::OpenType;
use pfmc_ir::tensor::Tensor;

use crate::contents::Reference;
use crate::verify::{Opened, open};

/// A compiled model, decoded from its artefact and ready to run.
pub struct Runnable {
    opened: Opened,
    matrices: LoadedMatrices,
}

impl Runnable {
    /// Decodes the artefact in a folder. Matrix tiles come from the artefact; data too, where the
    /// target holds it, else from the reference contents.
    ///
    /// # Errors
    /// A folder or an artefact that cannot be read.
    pub fn load(folder: &Path, progress: &dyn Progress) -> Result<Runnable, Diagnostics> {
        let opened = open(folder)?;
        let matrices = {
            let reference = Reference::open(&opened.program, folder)?;
            let read_back = opened.target.read_back(&opened.program, folder, progress)?;
            progress.begin("decoding", 0);
            if opened.target.caps().data_tile_bytes.is_some() {
                LoadedMatrices::load(&opened.program, &*read_back, &*read_back)?
            } else {
                LoadedMatrices::load(&opened.program, &*read_back, &reference)?
            }
        };
        Ok(Runnable { opened, matrices })
    }

    /// The host graph.
    pub fn graph(&self) -> &Graph<OpenType> {
        &self.opened.program.graph
    }

    /// An executor of the program.
    ///
    /// # Errors
    /// When the program's graph has a cycle.
    pub fn executor(&self) -> Result<Executor<'_, OpenType>, Diagnostics> {
        Executor::new(&self.opened.program.graph, &self.matrices)
    }

    /// Runs once.
    ///
    /// # Errors
    /// Inputs that do not fit.
    pub fn run(&self, inputs: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>, Diagnostics> {
        self.executor()?.run(inputs)
    }
}
