//! `manifest.json`: what was compiled, from what, with what, into which files, and where each tile
//! came from and went to.

use std::collections::BTreeMap;
use std::path::Path;

use pfmc_ir::backend::{Figure, Region};
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::origin::Origin;
use pfmc_ir::program::TileProgram;
use pfmc_ir::tile::TileId;
use serde::{Deserialize, Serialize};

use crate::codes::{E0701, E0702};
use crate::files::{digest, io_error, sha256};
use crate::passes::PassRecord;
use crate::quantise::options::{Calibration, Quantisation, Rounding};
use crate::quantise::plan;
use crate::{compile, contents};

/// File name in the output folder.
pub const FILE: &str = "manifest.json";
/// Version of the format.
pub const FORMAT: u32 = 1;

/// The manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// `pfmc`.
    pub tool: String,
    /// Version of pfmc.
    pub version: String,
    /// Source.
    pub model: ModelRecord,
    /// Target's name.
    pub target: String,
    /// Name of the process; its text is in the folder.
    pub process: String,
    /// How weights were quantised.
    pub quantisation: QuantisationRecord,
    /// `--bind`.
    pub bindings: BTreeMap<String, i64>,
    /// Passes in order.
    pub passes: Vec<PassRecord>,
    /// All other files of the folder.
    pub files: Vec<FileRecord>,
    /// Figures of plan and emission.
    pub figures: Vec<Figure>,
    /// Tiles in order.
    pub tiles: Vec<TileEntry>,
    /// SHA-256 of this manifest as written, with this field empty.
    pub digest: String,
}

/// The source model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// File name without folder.
    pub name: String,
    /// SHA-256, hexadecimal, of the model file and its external data.
    pub sha256: String,
    /// Learned elements.
    pub parameters: u64,
}

/// What a quantisation follows from, beside `plan.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantisationRecord {
    /// Rounding of what was not calibrated.
    pub rounding: Rounding,
    /// `synthetic`, or the SHA-256 of the file of samples; none without calibration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<String>,
    /// Tensors that were left as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep: Vec<String>,
}

/// The record of made-up samples.
pub const SYNTHETIC: &str = "synthetic";

impl QuantisationRecord {
    /// The record of some options.
    ///
    /// # Errors
    /// When the samples cannot be read.
    pub fn of(q: &Quantisation) -> Result<QuantisationRecord, Diagnostics> {
        let calibration = match &q.calibration {
            None => None,
            Some(Calibration::Synthetic) => Some(SYNTHETIC.to_owned()),
            Some(Calibration::File(path)) => Some(digest(path)?.1),
        };
        Ok(QuantisationRecord { rounding: q.rounding, calibration, keep: q.keep.clone() })
    }
}

/// A file of the folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Name.
    pub name: String,
    /// Length.
    pub bytes: u64,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

/// A tile: ONNX tensor range, place, measures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TileEntry {
    /// Id.
    pub tile: TileId,
    /// Name; cells and zones use it.
    pub name: String,
    /// Source nodes, tensor, and rows and columns of the matrix.
    pub origin: Origin,
    /// Place in the artefact; none for data the target leaves with the host program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Region>,
    /// Weights after rounding against the model's, in dB; none for what holds its weights exactly, and for data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounding_db: Option<f64>,
    /// Measures of the artefact, e.g. `snr_db`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub measures: BTreeMap<String, f64>,
}

impl FileRecord {
    /// Reads a file's length and digest.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(folder: &Path, name: &str) -> Result<FileRecord, Diagnostics> {
        let (bytes, sha256) = digest(&folder.join(name))?;
        Ok(FileRecord { name: name.into(), bytes, sha256 })
    }
}

impl Manifest {
    fn text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Completes the digest and writes the manifest.
    ///
    /// # Errors
    /// Input/output.
    pub fn write(mut self, folder: &Path) -> Result<Manifest, Diagnostics> {
        self.digest = String::new();
        self.digest = sha256(self.text().as_bytes());
        let path = folder.join(FILE);
        std::fs::write(&path, self.text()).map_err(|e| io_error("write", &path, &e))?;
        Ok(self)
    }

    /// Reads a folder's manifest and checks its own digest.
    ///
    /// # Errors
    /// When it is missing, of another format, or was changed.
    pub fn read(folder: &Path) -> Result<Manifest, Diagnostics> {
        let bad = |m: String| {
            Diagnostics::from(Diagnostic::error(&E0702, format!("{}: {m}", folder.join(FILE).display())))
        };
        let path = folder.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Err(e) if folder.is_dir() && e.kind() == std::io::ErrorKind::NotFound => {
                return Err(bad("this folder is no result of pfmc".into()));
            }
            other => other.map_err(|e| io_error("read", &path, &e))?,
        };
        let manifest: Manifest = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        if manifest.format != FORMAT || manifest.tool != "pfmc" {
            return Err(bad(format!("it is of format {}, this is format {FORMAT}", manifest.format)));
        }
        let blank = Manifest { digest: String::new(), ..manifest.clone() };
        if sha256(blank.text().as_bytes()) != manifest.digest || manifest.text() != text {
            return Err(bad("its digest does not match its content".into()));
        }
        Ok(manifest)
    }

    /// Checks that the listed files include all that a result consists of and are regular files of
    /// the folder; the others say why the folder cannot be used.
    pub fn check_presence(&self, folder: &Path) -> Diagnostics {
        let mut bad = Diagnostics::new();
        let mut err = |m: String| bad.push(Diagnostic::error(&E0702, m));
        let required = [compile::PROGRAM_FILE, compile::PROCESS_FILE, plan::FILE, contents::FILE];
        for name in required.into_iter().filter(|r| self.files.iter().all(|f| f.name != *r)) {
            err(format!("the manifest does not list {name}"));
        }
        if self.files.len() <= required.len() {
            err("the manifest lists no artefact".into());
        }
        for file in &self.files {
            // Names are ours: a manifest that names a path was edited.
            if file.name.contains(['/', '\\']) || file.name.starts_with('.') {
                err(format!("the manifest names a file {:?}", file.name));
            } else if !std::fs::symlink_metadata(folder.join(&file.name)).is_ok_and(|m| m.is_file()) {
                err(format!("{} is missing or no regular file", file.name));
            }
        }
        bad
    }

    /// Compares what the manifest says of tiles and representation with the program.
    pub fn check_program(&self, program: &TileProgram) -> Diagnostics {
        let mut bad = Diagnostics::new();
        let mut err = |m: String| bad.push(Diagnostic::error(&E0702, m));
        if self.tiles.len() != program.tiles.len() {
            err(format!("the manifest has {} tiles, the program {}", self.tiles.len(), program.tiles.len()));
        }
        for ((id, tile), entry) in program.tiles().zip(&self.tiles) {
            if entry.tile != id || entry.name != tile.name || entry.origin != tile.origin {
                err(format!("the manifest's entry of tile {id} ({}) is not the program's", tile.name));
            }
        }
        bad
    }

    /// Compares every listed file with its digest.
    pub fn check_files(&self, folder: &Path) -> Diagnostics {
        let mut bad = self.check_presence(folder);
        if bad.has_errors() {
            return bad;
        }
        for file in &self.files {
            match FileRecord::of(folder, &file.name) {
                Err(e) => bad.extend(e),
                Ok(found) if found != *file => {
                    let message = format!(
                        "{} has {} bytes and SHA-256 {}…, the manifest says {} and {}…",
                        file.name,
                        found.bytes,
                        &found.sha256[..12],
                        file.bytes,
                        file.sha256.get(..12).unwrap_or_default()
                    );
                    bad.push(Diagnostic::error(&E0701, message));
                }
                Ok(_) => {}
            }
        }
        bad
    }
}
