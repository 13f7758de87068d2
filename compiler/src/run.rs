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
use pfmc_ir::tile::{RealBlock, TileContent, TileId, TileSource};

use crate::contents::Reference;
use crate::verify::{Opened, open};

/// How the inputs of products with fixed matrices of codes are taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Activations {
    /// Rounded to int8 with one scale a row, as the chip does.
    #[default]
    Int8,
    /// As they are, times dequantised weights: what the weights alone cost. No chip does this. Real-valued
    /// weights take their inputs as they are in either case.
    Float,
}

/// Tiles of another source, codes as the real numbers that they stand for.
pub struct Dequantised<'a>(pub &'a dyn TileSource);

impl TileSource for Dequantised<'_> {
    fn tile(&self, id: TileId) -> Result<TileContent, Diagnostics> {
        Ok(match self.0.tile(id)? {
            TileContent::Codes(b) => TileContent::Real(RealBlock { k: b.k, n: b.n, values: b.dequantize() }),
            other => other,
        })
    }
}

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
        Self::load_as(folder, Activations::Int8, progress)
    }

    /// As [`Runnable::load`], with activations as they are to be taken.
    ///
    /// # Errors
    /// As [`Runnable::load`].
    pub fn load_as(
        folder: &Path,
        activations: Activations,
        progress: &dyn Progress,
    ) -> Result<Runnable, Diagnostics> {
        let opened = open(folder)?;
        let matrices = {
            let reference = Reference::open(&opened.program, folder)?;
            let read_back = opened.target.read_back(&opened.program, folder, progress)?;
            progress.begin("decoding", 0);
            let data: &dyn TileSource =
                if opened.target.caps().data_tile_bytes.is_some() { &*read_back } else { &reference };
            match activations {
                Activations::Int8 => LoadedMatrices::load(&opened.program, &*read_back, data)?,
                Activations::Float => LoadedMatrices::load(&opened.program, &Dequantised(&*read_back), data)?,
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
