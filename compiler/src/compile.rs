//! The pipeline: model file to verified output folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pfmc_ir::backend::{Backend, Emission, Figure, Plan, ProcessText, Progress, Settings, Target, Wishes};
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::graph::Graph;
use pfmc_ir::program::TileProgram;
use pfmc_ir::shape::OpenType;
use pfmc_ir::text::print_program;
use pfmc_ir::tile::{CODEBOOK_BITS_MAX, Levels, Scheme, TileId, TileSource};
use pfmc_ir::verify::{Verified, Verify};
use rayon::prelude::*;

use crate::aim::{Aim, Choices, Chosen};
use crate::codes::{E0002, E0004, E0403, E0406, E0407};
use crate::files::io_error;
use crate::manifest::{self, FileRecord, Manifest, ModelRecord, QuantisationRecord, TileEntry};
use crate::onnx;
use crate::partition::{self, partition};
use crate::passes::canonicalise::Canonicalise;
use crate::passes::fix::Found;
use crate::passes::{PassRecord, apply, bind, fix};
use crate::quantise::allocate::Offers;
use crate::quantise::calibrate::calibrate;
use crate::quantise::equalise;
use crate::quantise::options::{
    ActivationChoice, Budget, Calibration, Quantisation, Rounding, mixed, synthetic,
};
use crate::quantise::plan::{self, WeightPlan};
use crate::source::ModelSource;
use crate::{contents, report, targets, verify};

/// File name of the program in the output folder.
pub const PROGRAM_FILE: &str = "program.pfir";
/// File name of the process in the output folder.
pub const PROCESS_FILE: &str = "process.toml";
/// Times that settings are chosen for a ratio, each time with as much more asked for as the written tiles fell short of
/// their forecast.
const ATTEMPTS: usize = 3;
/// Halvings of the interval of bits a weight for an area.
const AREA_STEPS: usize = 10;

/// What to compile, and how.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Model file.
    pub model: PathBuf,
    /// Target's name.
    pub target: String,
    /// Built-in process or process file.
    pub process: Option<String>,
    /// What is wanted of the process beyond its file.
    pub wishes: Wishes,
    /// `--bind` arguments.
    pub bind: Vec<(String, i64)>,
    /// How weights are quantised.
    pub quantisation: Quantisation,
    /// An output folder of a model of the same architecture, whose plan and process are kept.
    pub base: Option<PathBuf>,
    /// Output folder.
    pub output: Option<PathBuf>,
}

/// A model lowered to tiles, before anything is planned or written.
pub struct Lowered {
    /// The program.
    pub program: Verified<TileProgram>,
    /// Contents, from the model.
    pub source: ModelSource,
    /// The plan that the program follows.
    pub plan: WeightPlan,
    /// What the quantisation was, for the manifest.
    pub quantisation: QuantisationRecord,
    /// The model.
    pub model: ModelRecord,
    /// Passes that ran.
    pub passes: Vec<PassRecord>,
    /// What the front end wants said.
    pub warnings: Diagnostics,
}

/// The scheme for a target that the user's options name.
pub(crate) fn choose(target: &dyn Target, name: &str, q: &Quantisation) -> Result<Scheme, Diagnostics> {
    let refuse = |what: String, help: &str| {
        Err(Diagnostics::from(Diagnostic::error(&E0004, what).help(help.to_owned())))
    };
    let shaped = q.bits.is_some() || q.group.is_some() || q.levels.is_some();
    let scheme = match target.caps().default_scheme {
        Scheme::Codes { bits: b, group: g, levels: l } => {
            let bits = q.bits.unwrap_or(b);
            let wide = bits > CODEBOOK_BITS_MAX || q.rounding == Rounding::Plain;
            Scheme::Codes {
                bits,
                group: match q.group {
                    Some(0) => u32::MAX,
                    other => other.unwrap_or(g),
                },
                levels: q.levels.unwrap_or(if wide { Levels::Uniform } else { l }),
            }
        }
        Scheme::Real if shaped || q.calibration.is_some() || q.budget.is_some() => {
            return refuse(
                format!("the target {name} has real-valued weights"),
                "leave out --bits, --group, --levels, --calib and --budget",
            );
        }
        Scheme::Real => Scheme::Real,
    };
    if q.plan.is_some() && (shaped || q.budget.is_some()) {
        return refuse(
            "a plan says bits, groups and levels".into(),
            "leave out --bits, --group, --levels and --budget beside --plan or --base",
        );
    }
    if q.budget.is_some() && shaped {
        return refuse(
            "a budget chooses bits, groups and levels".into(),
            "leave out --bits, --group and --levels beside --budget",
        );
    }
    if q.snr_target_db.is_some() || matches!(q.budget, Some(Budget::Mm3(_))) {
        return refuse(
            "the settings of the process are chosen before a model is lowered".into(),
            "see `pfmc::aim`",
        );
    }
    if target.tile_limit(scheme).is_none() {
        return refuse(
            format!("the target {name} cannot hold weights as {scheme}"),
            "--bits takes 2 to 8, 2 to 6 with a codebook; --group at most the rows of a tile, 0 for all of them",
        );
    }
    Ok(scheme)
}

/// A plan with one scheme; matrices that are narrower than a codebook have uniform codes.
pub(crate) fn uniform_plan(found: &[Found], scheme: Scheme, levels: Option<Levels>) -> WeightPlan {
    let mut plan = WeightPlan::uniform(found, scheme);
    for m in plan.matrices.iter_mut().filter(|_| levels.is_none()) {
        for b in &mut m.blocks {
            b.scheme = narrowed(b.scheme, m.n);
        }
    }
    plan
}

/// The scheme for a matrix of `n` columns: uniform codes where it is narrower than a codebook.
pub(crate) fn narrowed(scheme: Scheme, n: u32) -> Scheme {
    match scheme {
        Scheme::Codes { bits, group, .. } if n.saturating_mul(u32::from(bits)) < scheme.header_bits() => {
            Scheme::Codes { bits, group, levels: Levels::Uniform }
        }
        other => other,
    }
}

/// The area of the dies that a target plans for a program, in mm2.
fn area_mm2(target: &dyn Target, program: &Verified<TileProgram>) -> Result<f64, Diagnostics> {
    let figures = target.plan(program)?.figures();
    let area = figures.iter().find(|f| f.name == "die area").map(|f| f.value);
    area.ok_or_else(|| Diagnostic::error(&E0004, "the target plans no area").into())
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
pub fn open_target(name: &str, process: Option<&str>, wishes: &Wishes) -> Result<OpenTarget, Diagnostics> {
    let backend = targets::backend(name)?;
    let process = targets::process(backend, process)?;
    let process = backend.adapt(process, wishes).map_err(|e| Diagnostic::error(&E0004, e))?;
    OpenTarget::new(backend, process)
}

impl OpenTarget {
    /// Opens a target with a process.
    ///
    /// # Errors
    /// Bad process files.
    pub fn new(backend: &'static dyn Backend, process: ProcessText) -> Result<OpenTarget, Diagnostics> {
        let target = backend.open(&process)?;
        Ok(OpenTarget { backend, process, target })
    }
}

/// A model with its fixed matrices found, before any are cut or rounded.
#[derive(Clone)]
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

/// Sees the graph as the passes that ran since the last look left it, with the matrices found so far; first of all,
/// without a pass, as it was imported.
pub type Observer<'a> = dyn FnMut(&[PassRecord], &Graph<OpenType>, &[Found]) + 'a;

/// Import, bind, fold, canonicalise, fix: all of lowering that no target matters to.
///
/// # Errors
/// Everything wrong with the model or the bindings.
pub fn find(
    path: &Path,
    bindings: &BTreeMap<String, i64>,
    keep: &[String],
    progress: &dyn Progress,
) -> Result<Fixed, Diagnostics> {
    find_observed(path, bindings, keep, progress, &mut |_, _, _| {})
}

/// As [`find`].
///
/// # Errors
/// As [`find`].
pub fn find_observed(
    path: &Path,
    bindings: &BTreeMap<String, i64>,
    keep: &[String],
    progress: &dyn Progress,
    observer: &mut Observer,
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
    observer(&[], &model.graph, &[]);
    let (bound, mut passes) = bind::bind(model.graph, bindings)?;
    let mut graph = bound.into_open();
    observer(&passes, &graph, &[]);
    passes.push(apply(&Canonicalise, &mut graph)?);
    observer(&passes[passes.len() - 1..], &graph, &[]);
    let (found, fixed) = fix::fix(&mut graph, keep)?;
    passes.push(fixed);
    observer(&passes[passes.len() - 1..], &graph, &found);
    if found.is_empty() {
        return Err(Diagnostic::error(&E0403, "no product or look-up with constant weights was found")
            .help("`pfmc inspect` shows what the model does; weights must be initializers or constants")
            .into());
    }
    Ok(Fixed { graph, found, model: record, passes, warnings: model.warnings })
}

/// Lowers a model for a target: [`find`], plan the weights, partition, calibrate; the verifier runs after
/// each.
///
/// # Errors
/// Everything wrong with the model or the options.
pub fn lower(
    path: &Path,
    target: &dyn Target,
    target_name: &str,
    bindings: &BTreeMap<String, i64>,
    q: &Quantisation,
    progress: &dyn Progress,
) -> Result<Lowered, Diagnostics> {
    lower_observed(path, target, target_name, bindings, q, progress, &mut |_, _, _| {})
}

/// As [`lower`].
///
/// # Errors
/// As [`lower`].
pub fn lower_observed(
    path: &Path,
    target: &dyn Target,
    target_name: &str,
    bindings: &BTreeMap<String, i64>,
    q: &Quantisation,
    progress: &dyn Progress,
    observer: &mut Observer,
) -> Result<Lowered, Diagnostics> {
    let fixed = find_observed(path, bindings, &q.keep, progress, observer)?;
    lower_found(fixed, target, target_name, Settings::new(), q, progress, observer)
}

/// Lowers a model whose matrices were found; `settings` are what was chosen of the process for it.
///
/// # Errors
/// As [`lower`].
pub fn lower_found(
    fixed: Fixed,
    target: &dyn Target,
    target_name: &str,
    settings: Settings,
    q: &Quantisation,
    progress: &dyn Progress,
    observer: &mut Observer,
) -> Result<Lowered, Diagnostics> {
    let scheme = choose(target, target_name, q)?;
    let Fixed { mut graph, mut found, model, mut passes, warnings } = fixed;
    let samples = match &q.calibration {
        None => None,
        Some(Calibration::Synthetic) => Some(synthetic(&graph)?),
        Some(Calibration::File(path)) => Some(mixed(&graph, path)?),
    };
    let quantisation = QuantisationRecord::of(q)?;
    let limit = |scheme| target.tile_limit(scheme);
    let data_tile = target.caps().data_tile_bytes;
    let mut plan = match &q.plan {
        Some(path) => WeightPlan::read(path, &found)?,
        None => WeightPlan { process: settings, ..uniform_plan(&found, scheme, q.levels) },
    };
    let wanted = matches!(q.activations, ActivationChoice::Static | ActivationChoice::Auto);
    if let Some(samples) = samples.as_ref().filter(|_| wanted && q.plan.is_none()) {
        progress.begin("equalising", 0);
        let (program, source) = partition(graph.clone(), &found, &plan, &limit, data_tile)?;
        plan.equalised = equalise::measure(&program, &source, samples)?;
    }
    if !plan.equalised.is_empty() {
        passes.push(equalise::equalise(&mut graph, &mut found, &plan.equalised)?);
        graph.verify()?;
        observer(&passes[passes.len() - 1..], &graph, &found);
    }
    let cut = |plan: &WeightPlan| partition(graph.clone(), &found, plan, &limit, data_tile);
    if let Some(budget) = q.budget {
        let (program, source) = cut(&plan)?;
        let offers = Offers::measure(&program, &source, samples.as_ref(), &limit, progress)?;
        match budget {
            Budget::Bits(bits) => offers.allocate(&mut plan, bits)?,
            Budget::Mm2(area) => {
                // Area grows with the bits: halve the interval of bits a weight.
                let (mut low, mut high) = (offers.least(), 8.5);
                offers.allocate(&mut plan, low)?;
                let least = area_mm2(target, &cut(&plan)?.0)?;
                if least > area {
                    let message = format!("{area} mm2 are fewer than the least, {least:.3} mm2");
                    return Err(Diagnostic::error(&E0406, message).help("give a larger --budget").into());
                }
                for _ in 0..AREA_STEPS {
                    let middle = (low + high) / 2.0;
                    let mut tried = plan.clone();
                    offers.allocate(&mut tried, middle)?;
                    if area_mm2(target, &cut(&tried)?.0)? <= area {
                        (low, plan) = (middle, tried);
                    } else {
                        high = middle;
                    }
                }
            }
            // Settings, not bits, are chosen for it.
            Budget::Mm3(_) => {}
        }
    }
    let (mut program, mut source) = cut(&plan)?;
    source.set_rounding(q.rounding);
    passes.extend(partition::records(&program));
    if let Some(samples) = &samples {
        let choice = if q.plan.is_some() { ActivationChoice::Planned } else { q.activations };
        let found = calibrate(&program, &source, samples, choice, progress)?;
        let mut changed = program.unverified();
        for (m, a) in changed.matrices.iter_mut().zip(&found.activations) {
            m.activations = *a;
        }
        program = Verified::new(changed)?;
        passes.push(found.record(samples.len()));
        source.set_calibrated(found);
    }
    let plan = WeightPlan::of(&program, plan);
    Ok(Lowered { program, source, plan, quantisation, model, passes, warnings })
}

/// Ratio of sums of squares in dB, at most 200: what f32 weights can tell, and a number in JSON.
pub(crate) fn snr_db((signal, error): (f64, f64)) -> f64 {
    if error > 0.0 { (10.0 * (signal / error).log10()).clamp(-200.0, 200.0) } else { 200.0 }
}

/// [`snr_db`] of a tile's weights after rounding; none where there is no error.
pub(crate) fn rounding_db(sums: (f64, f64)) -> Option<f64> {
    (sums.1 > 0.0).then(|| snr_db(sums))
}

/// What rounding costs each tile, as sums of squares of weights and errors.
fn rounding(lowered: &Lowered) -> Result<Vec<Option<(f64, f64)>>, Diagnostics> {
    let ids: Vec<TileId> = lowered.program.tiles().map(|(id, _)| id).collect();
    let source = &lowered.source;
    ids.into_par_iter().map(|id| Ok(source.rounding(id, source.tile(id)?))).collect()
}

/// The folder that a result is held to.
struct Base {
    manifest: Manifest,
    program: String,
    process: String,
}

impl Base {
    fn open(folder: &Path) -> Result<Base, Diagnostics> {
        let manifest = Manifest::read(folder)?;
        manifest.check_files(folder).check()?;
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path).map_err(|e| Diagnostics::from(io_error("read", &path, &e)))
        };
        Ok(Base { program: read(PROGRAM_FILE)?, process: read(PROCESS_FILE)?, manifest })
    }

    /// Whether a program needs nothing of the chip but other fixed contents.
    fn check(&self, target: &str, process: &ProcessText, program: &TileProgram) -> Result<(), Diagnostics> {
        let mut bad = Diagnostics::new();
        let mut err = |m: &str| bad.push(Diagnostic::error(&E0407, m));
        if self.manifest.target != target {
            err("the base is of another target");
        }
        if self.process != process.toml {
            err("the base is of another process");
        }
        let text = print_program(program);
        if self.program != text {
            let differs = self.program.lines().zip(text.lines()).find(|(a, b)| a != b);
            err(&match differs {
                Some((a, b)) => format!("the base's program has the line {a:?}, this model's {b:?}"),
                None => "the base's program is longer or shorter than this model's".into(),
            });
        }
        bad.check()
    }
}

/// The result of compiling.
pub struct Compiled {
    /// Where it is.
    pub folder: PathBuf,
    /// What it is.
    pub manifest: Manifest,
    /// The program, as it was read back.
    pub program: Verified<TileProgram>,
    /// What verification of the folder found.
    pub verified: verify::Report,
}

/// A folder that is removed unless it is kept.
struct Partial {
    path: PathBuf,
    keep: bool,
}

impl Partial {
    /// An empty one beside a folder.
    fn new(folder: &Path) -> Result<Partial, Diagnostics> {
        let partial = Partial { path: beside(folder, ".pfmc-partial"), keep: false };
        if partial.path.exists() {
            std::fs::remove_dir_all(&partial.path).map_err(io("remove", &partial.path))?;
        }
        std::fs::create_dir_all(&partial.path).map_err(io("create", &partial.path))?;
        Ok(partial)
    }
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
                ours.extend([pfmc_glass::calibrate::FILE, report::FILE]);
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

/// An error of input or output as diagnostics.
fn io(verb: &'static str, path: &Path) -> impl Fn(std::io::Error) -> Diagnostics + use<> {
    let path = path.to_owned();
    move |e| Diagnostics::from(io_error(verb, &path, &e))
}

/// What was asked of the settings, and what they should reach.
fn choice(aim: Aim, chosen: &Chosen) -> Vec<Figure> {
    let asked = match aim {
        Aim::Ratio(db) => Figure::new("asked, worst tile", db, "dB"),
        Aim::Volume(mm3) => Figure::new("asked, written volume", mm3, "mm3"),
    };
    vec![asked, Figure::new("forecast, worst tile", chosen.forecast.reached.db, "dB")]
}

/// Writes a planned program into a folder, all but the manifest; figures of the weights and the emission are added. What
/// rounding costs each tile comes back beside the emission.
fn write(
    folder: &Path,
    lowered: &Lowered,
    process: &ProcessText,
    plan: &dyn Plan,
    figures: &mut Vec<Figure>,
    progress: &dyn Progress,
) -> Result<(Emission, Vec<Option<f64>>), Diagnostics> {
    let text = print_program(&lowered.program);
    let planned = lowered.plan.text();
    for (name, content) in [(PROGRAM_FILE, &text), (PROCESS_FILE, &process.toml), (plan::FILE, &planned)] {
        let path = folder.join(name);
        std::fs::write(&path, content).map_err(io("write", &path))?;
    }
    contents::write(&lowered.program, &lowered.source, folder, progress)?;
    let rounding = rounding(lowered)?;
    let total = rounding.iter().flatten().fold((0f64, 0f64), |a, b| (a.0 + b.0, a.1 + b.1));
    figures.push(Figure::new("weights after rounding", snr_db(total), "dB"));
    let bits = lowered.program.matrix_bits() as f64 / lowered.program.weights().max(1) as f64;
    figures.push(Figure::new("bits a weight, all counted", bits, "bits"));
    let emission = plan.emit(&lowered.source, folder, progress)?;
    figures.extend(emission.figures.iter().cloned());
    Ok((emission, rounding.into_iter().map(|sums| sums.and_then(rounding_db)).collect()))
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
    let mut quantisation = options.quantisation.clone();
    let base = options.base.as_deref().map(Base::open).transpose()?;
    if let (Some(folder), Some(_)) = (&options.base, &base) {
        quantisation.plan = Some(folder.join(plan::FILE));
    }
    let process = options.process.clone().or_else(|| {
        options.base.as_ref().map(|folder| folder.join(PROCESS_FILE).to_string_lossy().into_owned())
    });
    let mut wishes = options.wishes.clone();
    if let (Some(path), None) = (&quantisation.plan, &base) {
        wishes.settings = WeightPlan::open(path)?.process;
    }
    let mut given = open_target(&options.target, process.as_deref(), &wishes)?;
    if let Some(base) = base.as_ref().filter(|b| b.process == given.process.toml) {
        // Artefacts name their process: the base's, under whatever file its text was found.
        let name = base.manifest.process.clone();
        given = OpenTarget::new(given.backend, ProcessText { name, ..given.process })?;
    }
    let aim = Aim::take(&mut quantisation)?;
    let folder = match &options.output {
        Some(o) => o.clone(),
        None => {
            let stem =
                options.model.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
            PathBuf::from(format!("{stem}.{}", given.backend.name()))
        }
    };
    check_output(&folder)?;
    let fixed = find(&options.model, &bindings, &quantisation.keep, progress)?;
    let choices = aim.map(|_| Choices::of(&given, &fixed, progress)).transpose()?;
    let mut asked = aim;
    // Of each attempt whose worst tile fell short, why.
    let mut missed: Vec<Diagnostics> = Vec::new();
    let (process, lowered, mut partial, figures, emission, rounding) = loop {
        let chosen = choices.as_ref().zip(asked).map(|(choices, aim)| choices.choose(aim)).transpose();
        let chosen = chosen.map_err(|e| missed.pop().unwrap_or(e))?;
        let OpenTarget { backend, process, target } = chosen.as_ref().map_or(&given, |c| &c.open);
        let settings = chosen.as_ref().map(|c| c.settings.clone()).unwrap_or_default();
        let lowered = lower_found(
            fixed.clone(),
            &**target,
            backend.name(),
            settings,
            &quantisation,
            progress,
            &mut |_, _, _| {},
        )?;
        if let Some(base) = &base {
            base.check(backend.name(), process, &lowered.program)?;
        }
        let plan = target.plan(&lowered.program)?;
        let mut figures = plan.figures();
        if let (Some(aim), Some(chosen)) = (aim, &chosen) {
            figures.extend(choice(aim, chosen));
        }
        announce(&lowered, &figures);
        let partial = Partial::new(&folder)?;
        let (emission, rounding) = write(&partial.path, &lowered, process, &*plan, &mut figures, progress)?;
        drop(plan);
        match (aim, &chosen, &emission.reached) {
            (Some(Aim::Ratio(db)), Some(chosen), Some(reached)) if reached.db < db => {
                let text = format!(
                    "the worst tile reaches {:.2} of {db} dB; the largest noise is {} ({:.1} dB)",
                    reached.db, reached.limit, reached.limit_db
                );
                let error = Diagnostic::error(&E0406, text).help("give a lower --snr-target").into();
                if missed.len() + 1 == ATTEMPTS {
                    return Err(error);
                }
                missed.push(error);
                asked = Some(Aim::Ratio(db + chosen.forecast.reached.db - reached.db));
            }
            _ => break (process.name.clone(), lowered, partial, figures, emission, rounding),
        }
    };

    progress.begin("digests", 0);
    let names = [PROGRAM_FILE, PROCESS_FILE, plan::FILE, contents::FILE]
        .into_iter()
        .map(str::to_owned)
        .chain(emission.files);
    let files = names.map(|n| FileRecord::of(&partial.path, &n)).collect::<Result<Vec<_>, _>>()?;
    let mut records: BTreeMap<_, _> =
        emission.tiles.into_iter().map(|t| (t.tile, (t.region, t.measures))).collect();
    let tiles = lowered
        .program
        .tiles()
        .map(|(id, t)| {
            let (region, measures) =
                records.remove(&id).map_or((None, BTreeMap::new()), |(r, m)| (Some(r), m));
            TileEntry {
                tile: id,
                name: t.name.clone(),
                origin: t.origin.clone(),
                region,
                rounding_db: rounding.get(id.index()).copied().flatten(),
                measures,
            }
        })
        .collect();
    let manifest = Manifest {
        format: manifest::FORMAT,
        tool: "pfmc".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        model: lowered.model.clone(),
        target: given.backend.name().into(),
        process,
        quantisation: lowered.quantisation.clone(),
        bindings,
        passes: lowered.passes.clone(),
        files,
        figures,
        tiles,
        digest: String::new(),
    }
    .write(&partial.path)?;
    // Only files are read back: the model need not be in memory beside them.
    drop((lowered, fixed));

    let verified = verify::verify(&partial.path, None, None, progress)?;
    let opened = verify::open(&partial.path)?;
    report::write(&partial.path, &opened, &verified, progress)?;
    let program = opened.program;

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
    Ok(Compiled { folder, manifest, program, verified })
}
