//! The asic backend: weights as one mask of a ROM, written as GDSII and OASIS.
//!
//! A weight bit is one transistor of an array with a contact node on either side; each node is tied
//! by one cut to its bit line or to ground, and the bit is 1 where the two nodes differ. Nothing but
//! the cut layer depends on the weights. How a tile becomes word lines, bit lines and nodes is in
//! [`encode`]; where everything lies is in [`array`], [`macros`], [`die`] and the process file; which cells the file holds
//! is in [`plan`]; how the file is read and compared is in [`readback`].

pub mod array;
pub mod base;
pub mod bits;
pub mod codes;
pub mod columns;
pub mod die;
pub mod encode;
pub mod estimate;
pub mod handoff;
pub mod macros;
pub mod oasis;
pub mod patterns;
pub mod pipe;
pub mod plan;
pub mod process;
pub mod readback;
pub mod rtl;
pub mod sink;
pub mod stream;

use std::path::Path;

use pfmc_ir::backend::{Backend, Caps, Plan, ProcessText, Progress, ReadBack, Target, TileLimit};
use pfmc_ir::diag::{Code, Diagnostics};
use pfmc_ir::estimate::{Sheet, Workload};
use pfmc_ir::program::TileProgram;
use pfmc_ir::tile::{Levels, Scheme};
use pfmc_ir::verify::Verified;

use crate::plan::RomPlan;
use crate::process::Process;

/// The built-in process file.
pub const SKY130: &str = include_str!("../process/sky130.toml");

/// The built-in process file whose programmed cut is a level higher.
pub const SKY130_VIA1: &str = include_str!("../process/sky130-via1.toml");

/// The built-in process file of IHP SG13G2.
pub const SG13G2: &str = include_str!("../process/sg13g2.toml");

/// Constants of estimates: energies, yield, cooling, the compiler's own time.
pub const ESTIMATE: &str = include_str!("../process/estimate.toml");

/// Measured timing of macros of the built-in process.
pub const SKY130_TIMING: &str = include_str!("../process/sky130-timing.toml");

/// Measured timing of macros of the variant that is programmed on via.
pub const SKY130_VIA1_TIMING: &str = include_str!("../process/sky130-via1-timing.toml");

/// Measured timing of the macros of a built-in process; none where none was measured.
pub fn timing(process: &str) -> Option<&'static str> {
    match process {
        "sky130" => Some(SKY130_TIMING),
        "sky130-via1" => Some(SKY130_VIA1_TIMING),
        _ => None,
    }
}

/// The backend.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asic;

impl Backend for Asic {
    fn name(&self) -> &'static str {
        "asic"
    }

    fn about(&self) -> &'static str {
        "mask ROM macros as GDSII and OASIS, weights in one cut layer"
    }

    fn processes(&self) -> Vec<ProcessText> {
        [("sky130", SKY130), ("sky130-via1", SKY130_VIA1), ("sg13g2", SG13G2)]
            .map(|(name, toml)| ProcessText { name: name.to_owned(), toml: toml.to_owned() })
            .into()
    }

    fn codes(&self) -> &'static [&'static Code] {
        codes::CODES
    }

    fn open(&self, process: &ProcessText) -> Result<Box<dyn Target>, Diagnostics> {
        Ok(Box::new(Rom { process: Process::open(process)? }))
    }
}

/// ROM arrays of a validated process.
#[derive(Debug, Clone)]
pub struct Rom {
    process: Process,
}

impl Rom {
    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

impl Target for Rom {
    fn caps(&self) -> Caps {
        Caps {
            default_scheme: Scheme::Codes { bits: 4, group: 32, levels: Levels::Codebook },
            data_tile_bytes: Some(encode::largest_data(&self.process)),
        }
    }

    fn tile_limit(&self, scheme: Scheme) -> Option<TileLimit> {
        let Scheme::Codes { group, .. } = scheme else { return None };
        let [k, n] = encode::largest(&self.process, scheme)?;
        Some(TileLimit { k, n, k_multiple: group, n_multiple: 1 })
    }

    fn plan<'a>(&'a self, program: &'a Verified<TileProgram>) -> Result<Box<dyn Plan + 'a>, Diagnostics> {
        Ok(Box::new(RomPlan::new(&self.process, program)?))
    }

    fn estimate(&self, work: &Workload, sheet: Sheet) -> Result<Sheet, Diagnostics> {
        estimate::closed_form(&self.process, work, sheet)
    }

    fn read_back<'a>(
        &'a self,
        program: &'a Verified<TileProgram>,
        dir: &Path,
        progress: &dyn Progress,
    ) -> Result<Box<dyn ReadBack + 'a>, Diagnostics> {
        Ok(Box::new(readback::RomReadBack::open(&self.process, program, dir, progress)?))
    }
}

#[cfg(test)]
mod tests;
