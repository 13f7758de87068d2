//! Commands that check the compiler itself: `check`, `opt` and `compare`.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use pfmc::check::pipeline::{self, Contract};
use pfmc::check::reduce::reduce;
use pfmc::check::report::sarif;
use pfmc::check::{Stage, check_stage, inputs, pipeline::Uncut};
use pfmc::evaluate::Source;
use pfmc::opt::{Settings, Work};
use pfmc::passes::bind;
use pfmc::{codes, compare as stages, files, npz, onnx, passes, pfir, run};
use pfmc_ir::backend::Progress;
use pfmc_ir::diag::{Diagnostic, Diagnostics, Severity};
use pfmc_ir::graph::Graph;
use pfmc_ir::program::TileProgram;
use pfmc_ir::tile::Scheme;

use crate::{Bar, CompileArgs, compile_options, parse_binding};

/// Writes a line to stdout; a reader that went away is no error.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

#[derive(Args)]
pub struct CheckArgs {
    /// As for compiling; without -o what is written goes away again.
    #[command(flatten)]
    compile: CompileArgs,
    /// Inputs of the model to run on besides those that are made up (.npz or .jsonl).
    #[arg(long, value_name = "FILE")]
    inputs: Option<PathBuf>,
    /// The report as JSON, in place of the table.
    #[arg(long)]
    json: bool,
    /// Also writes JUnit XML.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Also writes SARIF 2.1.0.
    #[arg(long, value_name = "FILE")]
    sarif: Option<PathBuf>,
    /// Makes the graph of the first pass over graphs that fails small, and writes it as program text.
    #[arg(long, value_name = "FILE.pfir")]
    reduce: Option<PathBuf>,
}

/// Runs the pipeline and judges every pass.
pub fn check(a: &CheckArgs, quiet: bool, bar: &Bar) -> Result<(), Diagnostics> {
    let options = compile_options(&a.compile)?;
    let bindings = bind::merge(&options.bind)?;
    let report = match pipeline::check(&options, a.inputs.as_deref(), bar) {
        Ok(report) => report,
        Err(problems) => {
            // What a model is refused for belongs in the same place as what is wrong with its passes.
            if let Some(path) = &a.sarif {
                let name = options.model.file_name().map(|n| n.to_string_lossy().into_owned());
                write_json(path, &sarif(&name.unwrap_or_default(), &problems, None))?;
            }
            return Err(problems);
        }
    };
    if let Some(path) = &a.junit {
        put(path, &report.junit())?;
    }
    if let Some(path) = &a.sarif {
        write_json(path, &report.sarif())?;
    }
    if let (Some(path), Some(failed)) = (&a.reduce, report.contracts.iter().find(|c| c.failing.is_some())) {
        bar.begin("reducing", 0);
        let settings =
            Settings { bind: bindings, keep: options.quantisation.keep.clone(), ..Settings::default() };
        if let Some(small) = reduced(failed, &settings) {
            pfir::write(path, &TileProgram { graph: small, ..TileProgram::default() })?;
        }
    }
    bar.finish();
    if a.json {
        say(&serde_json::to_string_pretty(&report).unwrap_or_default());
    } else if !quiet {
        say(&report.to_string());
    }
    report.problems().check()
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<(), Diagnostics> {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    put(path, &text)
}

fn put(path: &Path, text: &str) -> Result<(), Diagnostics> {
    files::replace(path, [text.as_bytes()]).map_err(|e| files::io_error("write", path, &e).into())
}

/// The smallest graph found for which a pass breaks its contract in the same way.
fn reduced(failed: &Contract, settings: &Settings) -> Option<Graph> {
    let errors = |d: &Diagnostics| -> BTreeSet<&'static str> {
        d.0.iter().filter(|d| d.severity == Severity::Error).map(|d| d.code.id).collect()
    };
    // That nothing could be run says nothing of the pass.
    let mut wanted = errors(&failed.outcome.problems);
    wanted.remove(codes::E0314.id);
    let fails = |graph: &Graph| {
        let problems = || -> Result<Diagnostics, Diagnostics> {
            let mut work = Work::of(graph.clone(), settings.clone())?;
            let record = work.run(&failed.pass)?;
            let cases: Vec<_> = inputs::suite(&work.program.graph)?.into_iter().map(|c| c.inputs).collect();
            let uncut = Uncut::new(&work.found);
            let after = Stage { graph: &work.program.graph, fixed: &uncut.fixed() };
            Ok(check_stage(graph, after, record.exactness, &cases).problems)
        };
        !errors(&problems().unwrap_or_else(|d| d)).is_disjoint(&wanted)
    };
    Some(reduce(failed.failing.as_ref()?, &fails))
}

#[derive(Args)]
pub struct OptArgs {
    /// ONNX model or program text (.pfir).
    source: Option<PathBuf>,
    /// Passes in order; the verifier runs after each.
    #[arg(long, value_delimiter = ',')]
    passes: Vec<String>,
    /// Lists the passes in order.
    #[arg(long, conflicts_with = "passes")]
    list: bool,
    /// Dimensions for `bind`, e.g. batch=1,seq=128.
    #[arg(long, value_delimiter = ',', value_parser = parse_binding)]
    bind: Vec<(String, i64)>,
    /// A tensor that `fix` leaves alone; may be repeated.
    #[arg(long, value_name = "TENSOR")]
    keep: Vec<String>,
    /// The scheme that `quantise` gives matrices: codes or codebook, bits and rows a group, or real.
    #[arg(long, default_value = "codebook4/32", value_parser = scheme)]
    scheme: Scheme,
    /// Most rows and columns of a tile of `partition`.
    #[arg(long, default_value = "512x512", value_parser = tile)]
    tile: (u32, u32),
    /// Writes the text here, large constants beside it, in place of printing it with all constants.
    #[arg(short)]
    output: Option<PathBuf>,
}

fn scheme(text: &str) -> Result<Scheme, String> {
    text.parse().and_then(|s: Scheme| if s.is_valid() { Ok(s) } else { Err(format!("{text} is no scheme")) })
}

fn tile(text: &str) -> Result<(u32, u32), String> {
    let sizes = text.split_once('x').and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
    sizes.filter(|(k, n)| *k > 0 && *n > 0).ok_or_else(|| format!("{text:?} is no size such as 512x512"))
}

/// Prints the passes in order.
pub fn list_passes() {
    for p in passes::ALL {
        say(&format!("{:<12} {:<10} {}", p.name, p.exactness.name(), p.doc));
    }
}

/// Runs single passes.
pub fn opt(a: &OptArgs) -> Result<(), Diagnostics> {
    if a.list {
        list_passes();
        return Ok(());
    }
    let source = a.source.as_ref().ok_or_else(|| {
        Diagnostic::error(&codes::E0005, "no program is given")
            .help("pfmc opt --passes fold,canonicalise FILE")
    })?;
    let program = if source.extension().is_some_and(|e| e == "pfir") {
        pfir::read(source)?
    } else {
        TileProgram { graph: onnx::import(source)?.graph, ..TileProgram::default() }
    };
    let settings = Settings {
        bind: bind::merge(&a.bind)?,
        keep: a.keep.clone(),
        scheme: a.scheme,
        tile: a.tile,
        ..Settings::default()
    };
    let mut work = Work::new(program, settings)?;
    for pass in &a.passes {
        work.run(pass)?;
    }
    match &a.output {
        Some(path) => pfir::write(path, &work.program),
        None => {
            say(work.text().trim_end());
            Ok(())
        }
    }
}

#[derive(Args)]
pub struct CompareArgs {
    /// ONNX model, program text (.pfir) or output folder.
    a: PathBuf,
    /// What is compared with it.
    b: PathBuf,
    /// Inputs by name (.npz).
    #[arg(long)]
    input: PathBuf,
    /// Relative error above which a value diverges.
    #[arg(long, default_value_t = 0.0)]
    tolerance: f64,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// Compares two stages.
pub fn compare(a: &CompareArgs, bar: &Bar) -> Result<(), Diagnostics> {
    let inputs = npz::read(&a.input)?;
    let open = |path: &Path| Source::open(path, run::Activations::default(), bar);
    let (first, second) = (open(&a.a)?, open(&a.b)?);
    let name = |path: &Path| path.display().to_string();
    let table = stages::compare((&name(&a.a), &first), (&name(&a.b), &second), &inputs, a.tolerance)?;
    bar.finish();
    if a.json {
        say(&serde_json::to_string_pretty(&table).unwrap_or_default());
    } else {
        say(&table.to_string());
    }
    Ok(())
}
