//! The pipeline: model file to verified output folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pfmc_ir::backend::{Backend, Caps, Figure, ProcessText, Progress, Target, TileLimit};
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::graph::Graph;
use pfmc_ir::program::TileProgram;
use pfmc_ir::shape::OpenType;
use pfmc_ir::text::print_program;
use pfmc_ir::tile::{Scheme, TileId};
use pfmc_ir::verify::Verified;
use rayon::prelude::*;

use crate::codes::{E0002, E0004, E0403};
use crate::files::io_error;
use crate::manifest::{self, FileRecord, Manifest, ModelRecord, TileEntry};
use crate::onnx;
use crate::partition::{self, partition};
use crate::passes::canonicalise::Canonicalise;
use crate::passes::fix::Found;
use crate::passes::{PassRecord, apply, bind, fix};
use crate::source::ModelSource;
use crate::{contents, targets, verify};

/// File name of the program in the output folder.
pub const PROGRAM_FILE: &str = "program.pfir";
/// File name of the process in the output folder.
pub const PROCESS_FILE: &str = "process.toml";

/// What to compile, and how.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Model file.
    pub model: PathBuf,
    /// Target's name.
    pub target: String,
    /// Built-in process or process file.
    pub process: Option<String>,
    /// `--bind` arguments.
    pub bind: Vec<(String, i64)>,
    /// Bits a weight code.
    pub bits: Option<u8>,
    /// Rows that share a scale; 0 for all rows of a tile.
    pub group: Option<u32>,
    /// Output folder.
    pub output: Option<PathBuf>,
}

/// A model lowered to tiles, before anything is planned or written.
pub struct Lowered {
    /// The program.
    pub program: Verified<TileProgram>,
    /// Contents, from the model.
    pub source: ModelSource,
    /// The model.
    pub model: ModelRecord,
    /// Passes that ran.
    pub passes: Vec<PassRecord>,
    /// What the front end wants said.
    pub warnings: Diagnostics,
}

/// Limits and scheme for a target, after the user's options.
struct Choice {
    scheme: Scheme,
    limit: TileLimit,
    caps: Caps,
}

fn choose(
    target: &dyn Target,
    name: &str,
    bits: Option<u8>,
    group: Option<u32>,
) -> Result<Choice, Diagnostics> {
    let caps = target.caps();
    let scheme = match caps.default_scheme {
        Scheme::Codes { bits: b, group: g } => Scheme::Codes {
            bits: bits.unwrap_or(b),
            group: match group {
                Some(0) => u32::MAX,
                other => other.unwrap_or(g),
            },
        },
        Scheme::Real if bits.is_some() || group.is_some() => {
            return Err(Diagnostic::error(&E0004, format!("the target {name} has real-valued weights"))
                .help("leave out --bits and --group")
                .into());
        }
        Scheme::Real => Scheme::Real,
    };
    let limit = target.tile_limit(scheme).ok_or_else(|| {
        Diagnostic::error(&E0004, format!("the target {name} cannot hold weights as {scheme}"))
            .help("--bits takes 2 to 8; --group at most the rows of a tile, 0 for all of them")
    })?;
    Ok(Choice { scheme, limit, caps })
}

/// A target, opened with a process.
pub struct OpenTarget {
    /// Its family.
    pub backend: &'static dyn Backend,
    /// The process as text.
    pub process: ProcessText,
    /// The target.
    pub target: Box<dyn Target>,
}

/// Opens a target with a process.
///
/// # Errors
/// Unknown names and bad process files.
pub fn open_target(name: &str, process: Option<&str>) -> Result<OpenTarget, Diagnostics> {
    let backend = targets::backend(name)?;
    let process = targets::process(backend, process)?;
    let target = backend.open(&process)?;
    Ok(OpenTarget { backend, process, target })
}

/// A model with its fixed matrices found, before any are cut or rounded.
pub struct Fixed {
    /// Host operations and the uses of the matrices.
    pub graph: Graph<OpenType>,
    /// The matrices.
    pub found: Vec<Found>,
    /// The model.
    pub model: ModelRecord,
    /// Passes that ran.
    pub passes: Vec<PassRecord>,
    /// What the front end wants said.
    pub warnings: Diagnostics,
}

/// Import, bind, fold, canonicalise, fix: all of lowering that no target matters to.
///
/// # Errors
/// Everything wrong with the model or the bindings.
pub fn find(
    path: &Path,
    bindings: &BTreeMap<String, i64>,
    progress: &dyn Progress,
) -> Result<Fixed, Diagnostics> {
    progress.begin("reading the model", 0);
    let mut model = onnx::import(path)?;
    let ((), odd) = onnx::check_finite(&model.graph).into_result(())?;
    model.warnings.extend(odd);
    let record = ModelRecord {
        name: path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
        sha256: model.digest(),
        parameters: model.parameters,
    };
    progress.begin("lowering", 0);
    let (bound, mut passes) = bind::bind(model.graph, bindings)?;
    let mut graph = bound.into_open();
    passes.push(apply(&Canonicalise, &mut graph)?);
    let (found, fixed) = fix::fix(&mut graph)?;
    passes.push(fixed);
    if found.is_empty() {
        return Err(Diagnostic::error(&E0403, "no product or look-up with constant weights was found")
            .help("`pfmc inspect` shows what the model does; weights must be initializers or constants")
            .into());
    }
    Ok(Fixed { graph, found, model: record, passes, warnings: model.warnings })
}

/// Lowers a model for a target: import, bind, fold, canonicalise, fix, quantise, partition; the verifier runs
/// after each.
///
/// # Errors
/// Everything wrong with the model or the options.
pub fn lower(
    path: &Path,
    target: &dyn Target,
    target_name: &str,
    bindings: &BTreeMap<String, i64>,
    bits: Option<u8>,
    group: Option<u32>,
    progress: &dyn Progress,
) -> Result<Lowered, Diagnostics> {
    let choice = choose(target, target_name, bits, group)?;
    let Fixed { graph, found, model, mut passes, warnings } = find(path, bindings, progress)?;
    let (program, source) =
        partition(graph, &found, choice.scheme, choice.limit, choice.caps.data_tile_bytes)?;
    passes.extend(partition::records(&program));
    Ok(Lowered { program, source, model, passes, warnings })
}

/// Ratio of sums of squares in dB, at most 200: what f32 weights can tell, and a number in JSON.
pub(crate) fn snr_db((signal, error): (f64, f64)) -> f64 {
    if error > 0.0 { (10.0 * (signal / error).log10()).clamp(-200.0, 200.0) } else { 200.0 }
}

/// What rounding costs each tile, as sums of squares of weights and errors.
fn rounding(lowered: &Lowered) -> Result<Vec<Option<(f64, f64)>>, Diagnostics> {
    let ids: Vec<TileId> = lowered.program.tiles().map(|(id, _)| id).collect();
    ids.into_par_iter().map(|id| lowered.source.rounding(id)).collect()
}

/// The result of compiling.
pub struct Compiled {
    /// Where it is.
    pub folder: PathBuf,
    /// What it is.
    pub manifest: Manifest,
    /// The program.
    pub program: Verified<TileProgram>,
}

/// A folder that is removed unless it is kept.
struct Partial {
    path: PathBuf,
    keep: bool,
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.keep {
            // Nothing better can be done with an error here, and the name says what it is.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn beside(folder: &Path, suffix: &str) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(folder.file_name().unwrap_or_default());
    name.push(suffix);
    folder.with_file_name(name)
}

/// Whether the folder may be replaced: absent, empty, or an earlier result.
fn check_output(folder: &Path) -> Result<(), Diagnostics> {
    let refuse = |why: &str| {
        Diagnostics::from(
            Diagnostic::error(&E0002, format!("{} {why}", folder.display()))
                .help("choose another folder with -o"),
        )
    };
    if folder.file_name().is_none() {
        return Err(refuse("has no name under which a result could be put in place"));
    }
    match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => Err(refuse("is a file")),
        Err(e) => Err(io_error("read", folder, &e).into()),
        Ok(entries) => {
            // A damaged result may be replaced too: only the names count.
            let text = std::fs::read_to_string(folder.join(manifest::FILE)).unwrap_or_default();
            let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            let mut ours = vec![manifest::FILE];
            if json.get("tool").is_some_and(|t| t == "pfmc") {
                let files = json.get("files").and_then(|f| f.as_array()).into_iter().flatten();
                ours.extend(files.filter_map(|f| f.get("name")?.as_str()));
            }
            let stranger = entries
                .filter_map(Result::ok)
                .map(|e| e.file_name().to_string_lossy().into_owned())
                .find(|name| !ours.contains(&name.as_str()) || ours.len() == 1);
            match stranger {
                None => Ok(()),
                Some(name) => Err(refuse(&format!("holds {name:?}, which is no result of pfmc"))),
            }
        }
    }
}

/// Compiles a model into a folder. The result gets its name only after it has been read back and
/// found right; whatever was there before is replaced in that moment, or left alone.
///
/// `announce` is called with the planned figures before a byte is written.
///
/// # Errors
/// Everything wrong with the model, the options, the target or the file system.
pub fn compile(
    options: &Options,
    progress: &dyn Progress,
    announce: &dyn Fn(&Lowered, &[Figure]),
) -> Result<Compiled, Diagnostics> {
    let bindings = bind::merge(&options.bind)?;
    let OpenTarget { backend, process, target } = open_target(&options.target, options.process.as_deref())?;
    let folder = match &options.output {
        Some(o) => o.clone(),
        None => {
            let stem =
                options.model.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
            PathBuf::from(format!("{stem}.{}", backend.name()))
        }
    };
    check_output(&folder)?;
    let lowered =
        lower(&options.model, &*target, backend.name(), &bindings, options.bits, options.group, progress)?;
    let plan = target.plan(&lowered.program)?;
    let mut figures = plan.figures();
    announce(&lowered, &figures);

    let mut partial = Partial { path: beside(&folder, ".pfmc-partial"), keep: false };
    let io = |verb: &'static str, path: &Path| {
        let path = path.to_owned();
        move |e: std::io::Error| Diagnostics::from(io_error(verb, &path, &e))
    };
    if partial.path.exists() {
        std::fs::remove_dir_all(&partial.path).map_err(io("remove", &partial.path))?;
    }
    std::fs::create_dir_all(&partial.path).map_err(io("create", &partial.path))?;
    let text = print_program(&lowered.program);
    for (name, content) in [(PROGRAM_FILE, &text), (PROCESS_FILE, &process.toml)] {
        let path = partial.path.join(name);
        std::fs::write(&path, content).map_err(io("write", &path))?;
    }
    contents::write(&lowered.program, &lowered.source, &partial.path, progress)?;
    let rounding = rounding(&lowered)?;
    let total = rounding.iter().flatten().fold((0f64, 0f64), |a, b| (a.0 + b.0, a.1 + b.1));
    figures.push(Figure::new("weights after rounding", snr_db(total), "dB"));
    let emission = plan.emit(&lowered.source, &partial.path, progress)?;
    figures.extend(emission.figures);

    progress.begin("digests", 0);
    let names =
        [PROGRAM_FILE, PROCESS_FILE, contents::FILE].into_iter().map(str::to_owned).chain(emission.files);
    let files = names.map(|n| FileRecord::of(&partial.path, &n)).collect::<Result<Vec<_>, _>>()?;
    let mut records: BTreeMap<_, _> =
        emission.tiles.into_iter().map(|t| (t.tile, (t.region, t.measures))).collect();
    let tiles = lowered
        .program
        .tiles()
        .map(|(id, t)| {
            let (region, measures) =
                records.remove(&id).map_or((None, BTreeMap::new()), |(r, m)| (Some(r), m));
            TileEntry { tile: id, name: t.name.clone(), origin: t.origin.clone(), region, measures }
        })
        .collect();
    let scheme = lowered.program.matrices.first().map_or(Scheme::Real, |m| m.scheme);
    let manifest = Manifest {
        format: manifest::FORMAT,
        tool: "pfmc".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        model: lowered.model.clone(),
        target: backend.name().into(),
        process: process.name.clone(),
        scheme,
        bindings,
        passes: lowered.passes.clone(),
        files,
        figures,
        tiles,
        digest: String::new(),
    }
    .write(&partial.path)?;
    drop(plan);

    verify::verify(&partial.path, None, progress)?;

    if let Some(parent) = folder.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(io("create", parent))?;
    }
    let old = beside(&folder, ".pfmc-old");
    if old.exists() {
        std::fs::remove_dir_all(&old).map_err(io("remove", &old))?;
    }
    let had = folder.exists();
    if had {
        std::fs::rename(&folder, &old).map_err(io("replace", &folder))?;
    }
    if let Err(e) = std::fs::rename(&partial.path, &folder) {
        if had {
            std::fs::rename(&old, &folder).map_err(io("restore", &folder))?;
        }
        return Err(io("create", &folder)(e));
    }
    partial.keep = true;
    if had {
        // The result is in place; what it replaced is removed by the next run if not now.
        let _ = std::fs::remove_dir_all(&old);
    }
    Ok(Compiled { folder, manifest, program: lowered.program })
}
