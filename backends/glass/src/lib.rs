//! The glass target of pfmc: each weight tile becomes a computed volume hologram, or a mask of half-wave pixels
//! ([`mask`]), written voxel by voxel with a femtosecond laser.
//!
//! Of a hologram inputs and outputs of a tile are plane waves. Weight (i, j) is the grating whose vector is the
//! difference of the wave vectors of output j and input i; in the first Born approximation the
//! transfer matrix is the Fourier transform of the index change at those vectors. Outputs are read
//! by homodyne, one quadrature or both, so weights are signed.
//!
//! - [`lowering`]: how weights become voxels: the interface that holograms and masks have in common.
//! - [`process`]: the process file; [`hologram`], [`mask`]: what each method adds to it, and designs.
//! - [`calibration`]: what was measured of a writer; [`calibrate`]: what measured transfer matrices say of the light.
//! - [`presets`]: changes of it from the command line.
//! - [`geometry`]: ports, grating vectors and the assertions on them.
//! - [`born`]: the transfer matrix as a linear operator, its adjoint, the minimum-norm hologram.
//! - [`design`]: levels: rounding, error diffusion, flips.
//! - [`propagate`]: the transfer matrix with multiple scattering, of tiles small enough for it.
//! - [`budget`]: what each imperfection of writing and reading adds to the error; [`faults`]: a draw of them.
//! - [`forecast`]: what tiles should reach before they are designed, and the settings to choose among.
//! - [`layout`], [`marks`]: tiles in zones, zones on plates, marks and coupons.
//! - [`time`]: how long writing takes; [`estimate`]: what a model costs in glass.
//! - [`schedule`]: the file format.
//! - [`writer`], [`reader`], [`recompute`]: emission, read-back, the reader's own forward model.
//!
//! # What it does not do
//! Linear layers only: biases, norms, softmax and attention products stay with the host program.
//! Absorption is not modelled, voxel blur and heat from the voxels before only as a calibration says
//! what they are. Scattering is single (Born), but for tiles that the process has propagated; the built-in process's
//! index change is chosen so that the levels, not this approximation, set the error. Nothing here has been written in glass yet.
//!
//! # Determinism
//! The schedule's bytes depend on the weights, the process and this crate's version, not on the
//! number of threads. Transforms are in single precision with the widest vector unit the processor
//! has, so machines with different ones may choose different levels of equal quality.

use std::path::Path;

use pfmc_ir::backend::{
    Backend, Caps, Plan, ProcessText, Progress, ReadBack, Settings, Target, TileLimit, Wishes,
};
use pfmc_ir::diag::{Code, Diagnostics};
use pfmc_ir::estimate::{Sheet, Workload};
use pfmc_ir::program::TileProgram;
use pfmc_ir::tile::Scheme;
use pfmc_ir::verify::Verified;

mod beside;
pub mod born;
pub mod budget;
pub mod calibrate;
pub mod calibration;
pub mod codes;
pub mod design;
pub mod estimate;
pub mod faults;
pub mod forecast;
pub mod geometry;
pub mod hologram;
pub mod layout;
pub mod lowering;
pub mod marks;
pub mod mask;
pub mod presets;
pub mod process;
pub mod propagate;
pub mod reader;
pub mod recompute;
pub mod schedule;
mod size;
mod spool;
pub mod time;
pub mod writer;

use lowering::Lowering;

/// Constants of estimates: light, converters, the compiler's own time.
pub const ESTIMATE: &str = include_str!("../process/estimate.toml");

/// The backend.
#[derive(Debug, Clone, Copy, Default)]
pub struct Glass;

impl Backend for Glass {
    fn name(&self) -> &'static str {
        "glass"
    }

    fn about(&self) -> &'static str {
        "volume holograms in glass, or masks of half-wave pixels: a voxel write schedule for a femtosecond laser"
    }

    fn processes(&self) -> Vec<ProcessText> {
        presets::processes()
    }

    fn adapt(&self, process: ProcessText, wishes: &Wishes) -> Result<ProcessText, String> {
        presets::adapt(process, wishes)
    }

    fn variants(&self, process: &ProcessText) -> Result<Vec<Vec<Settings>>, Diagnostics> {
        Ok(Lowering::parse(&process.name, &process.toml)?.variants())
    }

    fn codes(&self) -> &'static [&'static Code] {
        codes::CODES
    }

    fn open(&self, process: &ProcessText) -> Result<Box<dyn Target>, Diagnostics> {
        let lowering = Lowering::parse(&process.name, &process.toml)?;
        // A process whose largest tile breaks an assertion is refused here, not at the first model.
        lowering.check()?;
        Ok(Box::new(GlassTarget { lowering }))
    }
}

/// The backend with a process.
#[derive(Debug, Clone)]
pub struct GlassTarget {
    lowering: Lowering,
}

impl Target for GlassTarget {
    fn caps(&self) -> Caps {
        Caps { default_scheme: Scheme::Real, data_tile_bytes: None }
    }

    fn tile_limit(&self, scheme: Scheme) -> Option<TileLimit> {
        match scheme {
            Scheme::Real => Some(self.lowering.tile_limit()),
            Scheme::Codes { .. } => None,
        }
    }

    fn plan<'a>(&'a self, program: &'a Verified<TileProgram>) -> Result<Box<dyn Plan + 'a>, Diagnostics> {
        Ok(Box::new(writer::GlassPlan::new(&self.lowering, program)?))
    }

    fn estimate(&self, work: &Workload, sheet: Sheet) -> Result<Sheet, Diagnostics> {
        estimate::closed_form(&self.lowering, work, sheet)
    }

    fn read_back<'a>(
        &'a self,
        program: &'a Verified<TileProgram>,
        dir: &Path,
        progress: &dyn Progress,
    ) -> Result<Box<dyn ReadBack + 'a>, Diagnostics> {
        let schedule = reader::Schedule::open(&self.lowering, program, dir, progress)?;
        Ok(Box::new(schedule.with_calibration(dir)?))
    }
}
