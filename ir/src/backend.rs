//! What a target is: capabilities, a plan, emission and read-back.
//!
//! The flow is `open` (validate the process file) → `caps` (partition cuts tiles to fit) → `plan`
//! (place everything; sizes, area and time are known before a byte is written) → `emit` →
//! `read_back`, which decodes the files with code that uses nothing of the plan.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::diag::Diagnostics;
use crate::estimate::{Sheet, Workload};
use crate::program::TileProgram;
use crate::tile::{RealBlock, Scheme, TileContent, TileId, TileSource};
use crate::verify::Verified;

/// A process file: the facts of one fabrication process, as TOML with units in the key names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessText {
    /// Name for messages and the manifest: the file's stem.
    pub name: String,
    /// TOML text.
    pub toml: String,
}

/// Values of keys of a process, named `table.key`, as TOML writes them.
pub type Settings = BTreeMap<String, String>;

/// What a user wants of a process beyond its file. Nothing is [`Wishes::default`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wishes {
    /// Name of a set of settings.
    pub preset: Option<String>,
    /// Text of a file of what was measured of the process.
    pub calibration: Option<String>,
    /// Values of keys.
    pub settings: Settings,
}

/// A family of targets, one crate each.
pub trait Backend: Sync {
    /// Name on the command line, `[a-z0-9-]`.
    fn name(&self) -> &'static str;
    /// One line for `pfmc targets`.
    fn about(&self) -> &'static str;
    /// The built-in process files; the first is the default.
    fn processes(&self) -> Vec<ProcessText>;
    /// The process with what a user wants of it, as text that says so.
    ///
    /// # Errors
    /// A wish this target cannot fulfil, and what it can.
    fn adapt(&self, process: ProcessText, wishes: &Wishes) -> Result<ProcessText, String> {
        if *wishes == Wishes::default() {
            return Ok(process);
        }
        Err(format!("target {} has no presets, no calibration and no settings", self.name()))
    }
    /// Settings among which a volume or a signal-to-noise ratio can be chosen, in lists that are taken one after the
    /// other: of each but the last what reaches most is kept under the next. None where the target has no such choice.
    ///
    /// # Errors
    /// As [`Backend::open`].
    fn variants(&self, _process: &ProcessText) -> Result<Vec<Vec<Settings>>, Diagnostics> {
        Ok(Vec::new())
    }
    /// Diagnostic codes this backend can raise.
    fn codes(&self) -> &'static [&'static crate::diag::Code];
    /// Reads and validates a process file.
    ///
    /// # Errors
    /// All problems of the file at once: syntax, missing keys, contradictory values.
    fn open(&self, process: &ProcessText) -> Result<Box<dyn Target>, Diagnostics>;
}

/// Largest rectangle a tile can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TileLimit {
    /// Rows (inputs).
    pub k: u32,
    /// Columns (outputs).
    pub n: u32,
    /// Preferred multiple of rows and columns for even cuts; 1 for none.
    pub k_multiple: u32,
    /// As `k_multiple`, for columns.
    pub n_multiple: u32,
}

/// What a target can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Scheme used when the user names none.
    pub default_scheme: Scheme,
    /// Largest data tile in bytes; `None` when the target fixes linear layers only and data stays
    /// with the host program.
    pub data_tile_bytes: Option<u64>,
}

/// A backend with a validated process.
pub trait Target: Sync {
    /// Capabilities.
    fn caps(&self) -> Caps;
    /// Largest tile of a scheme; `None` when the scheme cannot be realised here.
    fn tile_limit(&self, scheme: Scheme) -> Option<TileLimit>;
    /// Places every tile. Nothing is written.
    ///
    /// # Errors
    /// A program this process cannot hold.
    fn plan<'a>(&'a self, program: &'a Verified<TileProgram>) -> Result<Box<dyn Plan + 'a>, Diagnostics>;
    /// What a model of the given shapes would cost, in closed form: nothing is placed, and sizes have no bound. Adds to `sheet`.
    ///
    /// # Errors
    /// Tiles that this process cannot hold.
    fn estimate(&self, work: &Workload, sheet: Sheet) -> Result<Sheet, Diagnostics>;
    /// Opens the files a plan emitted into `dir` and decodes them, using only the files, the
    /// process and the shapes and schemes in `program`. Every problem that makes a tile
    /// unreadable is reported here or by [`ReadBack::check`], with tile, place and source tensor.
    ///
    /// # Errors
    /// Missing or unreadable files and structures.
    fn read_back<'a>(
        &'a self,
        program: &'a Verified<TileProgram>,
        dir: &Path,
        progress: &dyn Progress,
    ) -> Result<Box<dyn ReadBack + 'a>, Diagnostics>;
}

/// A named figure of a plan or an emission, for the summary and the manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What, e.g. `die area`.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Unit, e.g. `mm2`; empty for counts.
    pub unit: String,
}

impl Figure {
    /// A figure.
    pub fn new(name: impl Into<String>, value: f64, unit: impl Into<String>) -> Self {
        Figure { name: name.into(), value, unit: unit.into() }
    }
}

/// The signal-to-noise ratio of the weights of the worst tile, with the nominal noise of the process.
#[derive(Debug, Clone, PartialEq)]
pub struct Reached {
    /// Ratio, dB.
    pub db: f64,
    /// The largest part of the noise.
    pub limit: String,
    /// The ratio with that part alone, dB.
    pub limit_db: f64,
}

/// What a plan should give and take.
#[derive(Debug, Clone, PartialEq)]
pub struct Forecast {
    /// The ratio that it should reach.
    pub reached: Reached,
    /// Volume of what is written, mm3.
    pub volume_mm3: f64,
    /// Time to write it, seconds.
    pub time_s: f64,
}

/// A placed program.
pub trait Plan {
    /// Tiles, area or volume, write time, bytes to come, memory.
    fn figures(&self) -> Vec<Figure>;
    /// As [`Target::estimate`], with sizes as they are placed. `work` is that of the planned program.
    ///
    /// # Errors
    /// What the formats cannot hold.
    fn estimate(&self, work: &Workload, sheet: Sheet) -> Result<Sheet, Diagnostics>;

    /// Of the weights that `source` has for the program a small block that is as hard to reach as any; `None` where the
    /// target has no variants.
    ///
    /// # Errors
    /// Those of the source, and a process under which nothing can be said.
    fn hardest(&self, _source: &dyn TileSource) -> Result<Option<RealBlock>, Diagnostics> {
        Ok(None)
    }
    /// What it should give and take when no weights are harder to reach than these; `None` where the target has no variants.
    ///
    /// # Errors
    /// A process under which nothing can be said.
    fn forecast(&self, _hardest: &RealBlock) -> Result<Option<Forecast>, Diagnostics> {
        Ok(None)
    }
    /// Writes the artefact files into the existing, empty folder `dir`.
    ///
    /// # Errors
    /// Input/output, and content that cannot be realised.
    fn emit(
        &self,
        source: &dyn TileSource,
        dir: &Path,
        progress: &dyn Progress,
    ) -> Result<Emission, Diagnostics>;
}

/// What was written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Emission {
    /// File names inside the folder, in a fixed order.
    pub files: Vec<String>,
    /// One record for each tile the target holds, in tile order.
    pub tiles: Vec<TileRecord>,
    /// Figures known only after emission, e.g. the worst signal-to-noise ratio.
    pub figures: Vec<Figure>,
    /// What the written tiles reach; `None` where the target has no noise or all weights are 0.
    pub reached: Option<Reached>,
}

/// Where a tile is, and what was measured on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TileRecord {
    /// Tile.
    pub tile: TileId,
    /// Place in the artefact.
    pub region: Region,
    /// Measures by name with unit, e.g. `snr_db`.
    pub measures: BTreeMap<String, f64>,
}

/// A box in an artefact, in integer nanometres of that artefact's own coordinates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// File name in the output folder.
    pub file: String,
    /// Cell, zone or block that holds it.
    pub name: String,
    /// Lower corner x, y, z.
    pub min_nm: [i64; 3],
    /// Upper corner x, y, z.
    pub max_nm: [i64; 3],
}

/// A decoded artefact. As a [`TileSource`] it hands out what was really written; data tiles that
/// the target does not hold are an error there.
pub trait ReadBack: TileSource {
    /// Compares what was written for one tile with what should have been. Returns the measures
    /// taken, under the names of [`TileRecord::measures`].
    ///
    /// # Errors
    /// Every difference, with tile, place (row and column, or layer and line) and tensor range.
    fn check(&self, tile: TileId, reference: &TileContent) -> Result<BTreeMap<String, f64>, Diagnostics>;
    /// Where the artefact has a tile, as [`TileRecord::region`]; `None` for one that it does not hold.
    fn region(&self, tile: TileId) -> Option<Region>;
    /// A tile as the process's nominal noise could have made it, drawn by a seed; `None` where the target has no noise.
    ///
    /// # Errors
    /// What reading the tile reports.
    fn disturbed(&self, tile: TileId, seed: u64) -> Result<Option<Disturbed>, Diagnostics> {
        let _ = (tile, seed);
        Ok(None)
    }
}

/// A tile with a draw of its faults.
#[derive(Debug, Clone, PartialEq)]
pub struct Disturbed {
    /// What it holds.
    pub content: TileContent,
    /// Error power of one reading of an output, relative to the outputs' mean power.
    pub reading: f64,
}

/// Receives progress. Silence is [`NoProgress`].
pub trait Progress: Sync {
    /// A stage of `total` steps begins; it replaces the stage before it.
    fn begin(&self, stage: &str, total: u64);
    /// `steps` more are done. Called from any thread.
    fn advance(&self, steps: u64);
}

/// Ignores progress.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn begin(&self, _stage: &str, _total: u64) {}
    fn advance(&self, _steps: u64) {}
}
