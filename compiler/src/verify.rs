//! Read-back of an output folder: does the artefact hold what the program says, and does the
//! program say what the model says?

use std::collections::BTreeMap;
use std::path::Path;

use pfmc_ir::backend::{ProcessText, Progress, ReadBack, Target};
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::program::TileProgram;
use pfmc_ir::text::{parse_program, print_program};
use pfmc_ir::tile::{TileId, TileSource};
use pfmc_ir::verify::Verified;
use rayon::prelude::*;

use crate::codes::{E0005, E0404, E0702, E0704};
use crate::compile::{PROCESS_FILE, PROGRAM_FILE, lower, rounding_db};
use crate::contents::Reference;
use crate::files::io_error;
use crate::manifest::{Manifest, QuantisationRecord, SYNTHETIC, TileEntry};
use crate::partition::held;
use crate::passes::PassRecord;
use crate::quantise::options::{Calibration, Quantisation};
use crate::quantise::plan;
use crate::targets;

/// What the manifest records of a tile in dB may differ from what is read back by this much.
const TOLERANCE_DB: f64 = 0.1;

/// An output folder, opened: manifest, program, target.
pub struct Opened {
    /// Manifest.
    pub manifest: Manifest,
    /// Program.
    pub program: Verified<TileProgram>,
    /// Process.
    pub process: ProcessText,
    /// Target with that process.
    pub target: Box<dyn Target>,
}

fn text(folder: &Path, name: &str) -> Result<String, Diagnostics> {
    let path = folder.join(name);
    std::fs::read_to_string(&path).map_err(|e| io_error("read", &path, &e).into())
}

/// Opens an output folder without looking at the artefact files.
///
/// # Errors
/// A damaged manifest, program or process.
pub fn open(folder: &Path) -> Result<Opened, Diagnostics> {
    let manifest = Manifest::read(folder)?;
    manifest.check_presence(folder).check()?;
    let program = Verified::new(parse_program(&text(folder, PROGRAM_FILE)?)?)?;
    let process = ProcessText { name: manifest.process.clone(), toml: text(folder, PROCESS_FILE)? };
    let target = targets::backend(&manifest.target)?.open(&process)?;
    Ok(Opened { manifest, program, process, target })
}

/// As [`open`], of a folder of one target.
///
/// # Errors
/// As [`open`], and E0005 for a folder of another target.
pub fn open_of(folder: &Path, target: &str) -> Result<Opened, Diagnostics> {
    let opened = open(folder)?;
    if opened.manifest.target != target {
        let text = format!("the folder is of target {}, not {target}", opened.manifest.target);
        return Err(Diagnostic::error(&E0005, text).help(format!("compile with --target {target}")).into());
    }
    Ok(opened)
}

/// What was checked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Tiles read back from the artefact and compared.
    pub tiles: usize,
    /// Elements of fixed matrices compared.
    pub elements: u64,
    /// Files compared with their digests.
    pub files: usize,
    /// The smallest of each measure in dB.
    pub worst: BTreeMap<String, f64>,
    /// Whether a fresh quantisation of the source model was compared too.
    pub model: bool,
}

/// Lowers a model as the manifest says it was.
fn fresh(
    folder: &Path,
    opened: &Opened,
    model: &Path,
    calibration: Option<&Path>,
    progress: &dyn Progress,
) -> Result<crate::compile::Lowered, Diagnostics> {
    let m = &opened.manifest;
    let refuse = |what: &str, help: &str| {
        Err(Diagnostics::from(Diagnostic::error(&E0704, what).help(help.to_owned())))
    };
    let record = &m.quantisation;
    let calibration = match (record.calibration.as_deref(), calibration) {
        (None, None) => None,
        (Some(SYNTHETIC), None) => Some(Calibration::Synthetic),
        (Some(SYNTHETIC) | None, Some(_)) => {
            return refuse("the folder was not calibrated with a file", "leave out --calib");
        }
        (Some(_), None) => {
            return refuse("the folder was calibrated with a file", "give the same file with --calib");
        }
        (Some(_), Some(path)) => Some(Calibration::File(path.to_owned())),
    };
    let q = Quantisation {
        rounding: record.rounding,
        calibration,
        plan: Some(folder.join(plan::FILE)),
        keep: record.keep.clone(),
        ..Quantisation::default()
    };
    if QuantisationRecord::of(&q)? != *record {
        return refuse(
            "the file of samples is not the one the folder was calibrated with",
            "give the same file",
        );
    }
    lower(model, &*opened.target, &m.target, &m.bindings, &q, progress).map_err(|mut problems| {
        // The folder's own plan: what does not fit it is another model.
        for d in problems.0.iter_mut().filter(|d| d.code == &E0404) {
            d.code = &E0704;
        }
        problems
    })
}

/// Verifies an output folder, with `model` also against a fresh lowering of the source, calibrated with
/// the samples in `calibration` where the folder was calibrated with a file.
///
/// # Errors
/// Every difference found.
pub fn verify(
    folder: &Path,
    model: Option<&Path>,
    calibration: Option<&Path>,
    progress: &dyn Progress,
) -> Result<Report, Diagnostics> {
    progress.begin("digests", 0);
    let manifest = Manifest::read(folder)?;
    let mut bad = manifest.check_files(folder);
    if bad.0.iter().any(|d| d.code == &E0702) {
        return Err(bad);
    }
    let opened = match open(folder) {
        Ok(o) => o,
        Err(e) => {
            bad.extend(e);
            return Err(bad);
        }
    };
    let program = &opened.program;
    bad.extend(manifest.check_program(program));
    let reference = match Reference::open(program, folder) {
        Ok(r) => r,
        Err(e) => {
            bad.extend(e);
            return Err(bad);
        }
    };
    bad.extend(plan::check(folder, program));
    let read_back = match opened.target.read_back(program, folder, progress) {
        Ok(r) => r,
        Err(e) => {
            bad.extend(e);
            return Err(bad);
        }
    };
    let source = match model.map(|m| fresh(folder, &opened, m, calibration, progress)).transpose() {
        Ok(s) => s,
        Err(e) => {
            bad.extend(e);
            return Err(bad);
        }
    };
    if let Some(s) = &source {
        if s.model.sha256 != manifest.model.sha256 || s.model.parameters != manifest.model.parameters {
            bad.push(Diagnostic::error(&E0704, "the model is not the one the manifest describes"));
        }
        bad.extend(check_records(&opened, &s.passes));
        if print_program(&s.program) != print_program(program) {
            bad.push(Diagnostic::error(&E0704, "lowering the model afresh gives another program"));
            return Err(bad);
        }
    }
    let data_held = opened.target.caps().data_tile_bytes.is_some();
    let artefact: std::collections::BTreeSet<TileId> = held(program, data_held).collect();
    progress.begin("reading back", program.tiles.len() as u64);
    let results: Vec<Result<BTreeMap<String, f64>, Diagnostics>> = (0..program.tiles.len())
        .into_par_iter()
        .map(|i| {
            let id = TileId(i as u32);
            let result = check_tile(
                &opened,
                &reference,
                &*read_back,
                source.as_ref().map(|s| &s.source),
                id,
                artefact.contains(&id),
            );
            progress.advance(1);
            result
        })
        .collect();
    let mut report = Report {
        tiles: artefact.len(),
        elements: program.weights(),
        files: manifest.files.len(),
        worst: BTreeMap::new(),
        model: source.is_some(),
    };
    for result in results {
        match result {
            Ok(measures) => {
                for (name, value) in measures.into_iter().filter(|(name, _)| name.ends_with("_db")) {
                    let worst = report.worst.entry(name).or_insert(value);
                    *worst = worst.min(value);
                }
            }
            Err(e) => bad.extend(e),
        }
    }
    if bad.has_errors() { Err(bad) } else { Ok(report) }
}

fn check_tile(
    opened: &Opened,
    reference: &Reference,
    read_back: &dyn ReadBack,
    source: Option<&crate::source::ModelSource>,
    id: TileId,
    in_artefact: bool,
) -> Result<BTreeMap<String, f64>, Diagnostics> {
    let tile = &opened.program.tiles[id.index()];
    let want = reference.tile(id).map_err(|mut d| {
        for d in &mut d.0 {
            d.origin = tile.origin.clone();
        }
        d
    });
    if let Some(source) = source {
        let fresh = source.tile(id)?;
        if want.as_ref().is_ok_and(|w| *w != fresh) {
            let message = format!("tile {} of the folder is not what the model quantises to", tile.name);
            return Err(Diagnostic::error(&E0704, message).at(&tile.origin).into());
        }
        let (says, has) = (
            opened.manifest.tiles.get(id.index()).and_then(|entry| entry.rounding_db),
            source.rounding(id, fresh).and_then(rounding_db),
        );
        if says != has {
            let message = format!(
                "tile {id} ({}): the manifest says rounding left {says:?} dB, rounding afresh leaves {has:?}",
                tile.name
            );
            return Err(Diagnostic::error(&E0702, message).at(&tile.origin).into());
        }
    }
    let want = want?;
    if !in_artefact {
        return Ok(BTreeMap::new());
    }
    let measures = read_back.check(id, &want)?;
    if let Some(entry) = opened.manifest.tiles.get(id.index()) {
        check_entry(entry, read_back, &measures)?;
    }
    Ok(measures)
}

/// Compares the place and the measures that the manifest has of a tile with those of the artefact.
fn check_entry(
    entry: &TileEntry,
    read_back: &dyn ReadBack,
    measures: &BTreeMap<String, f64>,
) -> Result<(), Diagnostics> {
    let mut bad = Diagnostics::new();
    let mut differs = |what: &str, says: String, has: String| {
        let message = format!(
            "tile {} ({}): the manifest says {what} {says}, the artefact has {has}",
            entry.tile, entry.name
        );
        bad.push(Diagnostic::error(&E0702, message).at(&entry.origin));
    };
    let region = read_back.region(entry.tile);
    if entry.region != region {
        differs("it lies at", format!("{:?}", entry.region), format!("{region:?}"));
    }
    let names: std::collections::BTreeSet<&String> = entry.measures.keys().chain(measures.keys()).collect();
    for name in names {
        let (says, has) = (entry.measures.get(name), measures.get(name));
        let same = match (says, has) {
            (Some(a), Some(b)) if name.ends_with("_db") => (a - b).abs() <= TOLERANCE_DB,
            (a, b) => a == b,
        };
        if !same {
            differs(name, format!("{says:?}"), format!("{has:?}"));
        }
    }
    bad.check()
}

/// Compares what the manifest records of passes and of the plan with what comes out afresh.
fn check_records(opened: &Opened, passes: &[PassRecord]) -> Diagnostics {
    let mut bad = Diagnostics::new();
    let mut differs = |what: &str| {
        bad.push(Diagnostic::error(
            &E0702,
            format!("the manifest's {what} are not those of lowering afresh"),
        ));
    };
    if opened.manifest.passes != passes {
        differs("records of passes");
    }
    match opened.target.plan(&opened.program).map(|p| p.figures()) {
        Ok(figures) if opened.manifest.figures.starts_with(&figures) => {}
        Ok(_) => differs("figures of the plan"),
        Err(e) => bad.extend(e),
    }
    bad
}
