//! The command line. Diagnostics and progress go to stderr, what a script reads to stdout.
//! Exit codes: 0 done, 1 the model or artefact is rejected, 2 usage or input/output.

mod command;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use command::bar::{Bar, Detail};
use command::estimate::EstimateArgs;
use command::{SchemeArgs, say, tools};
use pfmc::compile::{self, Options};
use pfmc::evaluate::{Given, Judge, Source};
use pfmc::quantise::options::{ActivationChoice, Budget, Calibration, Quantisation, Rounding};
use pfmc::samples::Samples;
use pfmc::session::Session;
use pfmc::{
    calibrate, codes, evaluate, export, handoff, inspect, layers, npz, onnx, passes, report, run, targets,
    verify,
};
use pfmc_ir::backend::{Figure, Wishes};
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::program::TileProgram;

/// Schemes that the summary names.
const SCHEMES: usize = 4;
/// Characters of a line of blocks that is not one block alone.
const BLOCK_WIDTH: usize = 100;

/// Compiles trained models into matter: chip masks or glass holograms whose geometry is the weights.
#[derive(Parser)]
#[command(version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    compile: CompileArgs,
    /// How diagnostics are written to stderr.
    #[arg(long, global = true, value_enum, default_value_t = Format::Human)]
    message_format: Format,
    /// No progress and no summary.
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Each stage with its time, and what each pass did.
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    verbose: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Human,
    Json,
}

#[derive(Args)]
struct CompileArgs {
    /// ONNX model.
    model: Option<PathBuf>,
    /// asic or glass; see `pfmc targets`.
    #[arg(long)]
    target: Option<String>,
    /// Output folder; by default the model's name with the target as extension.
    #[arg(short)]
    output: Option<PathBuf>,
    /// Binds open dimensions, e.g. batch=1,seq=128. May be repeated.
    #[arg(long, value_delimiter = ',', value_parser = parse_binding)]
    bind: Vec<(String, i64)>,
    #[command(flatten)]
    scheme: SchemeArgs,
    /// How weights are rounded without --calib.
    #[arg(long, default_value = "search")]
    rounding: Rounding,
    /// Samples to calibrate for (.jsonl or .npz), or `synthetic` for made-up ones.
    #[arg(long)]
    calib: Option<String>,
    /// How the inputs of matrices are rounded to int8; anything but `row` needs --calib.
    #[arg(long, default_value = "row")]
    activations: ActivationArg,
    /// Spends this many bits a weight, all counted, or this area (50mm2), where it lowers the loss most; of glass this
    /// volume (2.5mm3), where it raises the signal-to-noise ratio most.
    #[arg(long)]
    budget: Option<Budget>,
    /// Takes the least volume of glass in which every tile reaches this signal-to-noise ratio (dB), nominal noise included.
    #[arg(long, value_name = "DB", conflicts_with = "budget", allow_negative_numbers = true)]
    snr_target: Option<f64>,
    /// Follows a plan (JSON) of bits, groups and levels by matrix.
    #[arg(long, conflicts_with = "base")]
    plan: Option<PathBuf>,
    /// An output folder of a model of this architecture: the result differs from it in the weights' mask alone.
    #[arg(long)]
    base: Option<PathBuf>,
    /// A tensor that is not quantised; may be repeated.
    #[arg(long, value_name = "TENSOR")]
    keep: Vec<String>,
    /// Built-in process or process file (TOML).
    #[arg(long)]
    process: Option<String>,
    /// Settings of the target's designer: for glass `fast` or `best`.
    #[arg(long)]
    preset: Option<String>,
    /// What was measured of a glass writer (TOML): levels, energies by depth, voxel shape, blur, heat.
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum ActivationArg {
    Row,
    Static,
    Auto,
}

impl CompileArgs {
    /// Whether any of them is given.
    fn given(&self) -> bool {
        let paths = self.model.is_some() || self.output.is_some();
        let words = self.target.is_some() || self.process.is_some() || !self.bind.is_empty();
        let words = words || self.preset.is_some() || self.calibration.is_some();
        let weights = self.scheme.given();
        let files = self.calib.is_some() || self.plan.is_some() || self.base.is_some();
        let aims = self.budget.is_some() || self.snr_target.is_some();
        paths || words || weights || files || aims || !self.keep.is_empty()
    }
}

fn parse_binding(s: &str) -> Result<(String, i64), String> {
    let (name, size) = s.split_once('=').ok_or("expected NAME=SIZE")?;
    let size = size.trim().parse().map_err(|_| format!("{size:?} is no size"))?;
    Ok((name.trim().to_owned(), size))
}

fn parse_pair(s: &str) -> Result<(String, String), String> {
    let (input, output) = s.split_once('=').ok_or("expected IN=OUT")?;
    Ok((input.to_owned(), output.to_owned()))
}

#[derive(Subcommand)]
enum Command {
    /// Lists a model's layers, parameters and operators, and what would be fixed.
    Inspect {
        /// ONNX model.
        model: PathBuf,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Reads an output folder back and compares it with its program, and with a model.
    Verify {
        /// Output folder.
        folder: PathBuf,
        /// Also compare with a fresh quantisation of this model.
        #[arg(long)]
        model: Option<PathBuf>,
        /// The samples that the folder was calibrated with.
        #[arg(long, requires = "model")]
        calib: Option<PathBuf>,
    },
    /// Runs what was emitted.
    Run {
        /// Output folder, or an ONNX model to run its source graph.
        source: PathBuf,
        /// Inputs by name (.npz).
        #[arg(long)]
        input: PathBuf,
        /// Outputs by name (.npz).
        #[arg(short)]
        output: PathBuf,
        /// An input and the output that holds its next value, as IN=OUT. Names like past… and present…
        /// are paired without being named. State that the inputs leave out starts empty or zero.
        #[arg(long, value_delimiter = ',', value_parser = parse_pair)]
        state: Vec<(String, String)>,
        /// Runs once for each slice of the first axis of these inputs and keeps the state between.
        #[arg(long, value_delimiter = ',', conflicts_with = "generate")]
        stream: Vec<String>,
        /// Decodes this many tokens greedily from the prompt in the inputs; writes `tokens`.
        #[arg(long)]
        generate: Option<usize>,
        /// How inputs of fixed matrices of codes are taken; float is not what a chip does.
        #[arg(long, value_enum, default_value_t)]
        activations: run::Activations,
    },
    /// Writes the files of ROM macros for an asic folder: LEF, Liberty, Verilog, SPICE, LibreLane and others.
    Handoff {
        /// Output folder of target asic.
        folder: PathBuf,
        /// Folder to write; by default `handoff` in the output folder.
        #[arg(short)]
        output: Option<PathBuf>,
    },
    /// Draws a folder: dies or plates coloured by layer of the model, a macro or a tile, cells or voxels; or writes a glass folder's voxels.
    Export {
        /// Output folder.
        folder: PathBuf,
        /// Format.
        #[arg(long, value_enum, default_value = "svg")]
        format: export::Format,
        /// Glass: the only tile that is drawn or written.
        #[arg(long)]
        tile: Option<String>,
        /// Folder to write.
        #[arg(short)]
        output: PathBuf,
    },
    /// Verifies an output folder and draws its report.html afresh: tiles in place, layers, charts, checks.
    Report {
        /// Output folder.
        folder: PathBuf,
        /// Also compare with a fresh quantisation of this model.
        #[arg(long)]
        model: Option<PathBuf>,
        /// The samples that the folder was calibrated with, for --model.
        #[arg(long, requires = "model")]
        calib: Option<PathBuf>,
    },
    /// Fits ports' gains, wavelength and tilt of a glass folder's light to measured transfer matrices.
    Calibrate {
        /// Output folder of target glass.
        folder: PathBuf,
        /// Measured matrices by name of tile (.npz), complex [output ports, inputs].
        measured: PathBuf,
    },
    /// What a model would cost before it is compiled: area or volume, bytes, time, energy and what limits them, each with its derivation.
    Estimate(Box<EstimateArgs>),
    /// Source against compiled: cosine, error, divergence, bits a token, and where accuracy went.
    Eval(EvalArgs),
    /// Runs the pipeline and proves or measures what each pass promises: weights, tiles and written files included.
    Check(Box<tools::CheckArgs>),
    /// Runs single passes on a model or on program text and prints the result.
    Opt(tools::OptArgs),
    /// Runs two stages of a model on one input and shows where their values differ.
    Compare(tools::CompareArgs),
    /// Explains a diagnostic code, or lists all.
    Explain {
        /// For example E0104.
        code: Option<String>,
    },
    /// Lists the targets and their built-in processes.
    Targets,
    /// Lists the supported operators.
    Ops,
    /// Lists the passes in order, with what each may do to results.
    Passes,
    /// Prints a script that completes commands and options in a shell.
    Completions {
        /// Shell.
        shell: clap_complete::Shell,
    },
    /// Prints a man page (roff): pfmc's, or a command's.
    Man {
        /// Command.
        command: Option<String>,
    },
}

#[derive(Args)]
#[command(group = clap::ArgGroup::new("given").required(true).args(["text", "input", "data"]))]
struct EvalArgs {
    /// Models or output folders; the others are compared with the first.
    #[arg(required = true)]
    sources: Vec<PathBuf>,
    /// Text for byte-level language models.
    #[arg(long)]
    text: Option<PathBuf>,
    /// Bytes a window of text; each byte but a window's first is predicted.
    #[arg(long, default_value_t = 129, value_parser = clap::value_parser!(u32).range(2..))]
    window: u32,
    /// Samples (.npz): arrays by name of input, with one more axis in front that counts samples, or one sample.
    #[arg(long)]
    input: Option<PathBuf>,
    /// Samples (.jsonl): one a line, {"input_ids": [[1, 2, 3]]}.
    #[arg(long)]
    data: Option<PathBuf>,
    /// The output that is logits; by default the one of that name, with --text the only one.
    #[arg(long)]
    logits: Option<String>,
    /// How inputs of fixed matrices of codes are taken; float is not what a chip does.
    #[arg(long, value_enum, default_value_t)]
    activations: run::Activations,
    /// Runs folders with a draw of the process's nominal noise: a writer's faults, photons and converters.
    #[arg(long, value_name = "SEED", conflicts_with = "layers")]
    noise: Option<u64>,
    /// Tables of the layers of each folder, worst first; the first source must be the model.
    #[arg(long)]
    layers: bool,
    /// Samples used, from the first on; by default all, and 4 for --layers.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    samples: Option<u32>,
    /// Layers whose effect at the outputs is measured: those of the largest errors of their own, 0 for all.
    #[arg(long, default_value_t = 20)]
    top: usize,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

fn report(d: &Diagnostics, format: Format) {
    let mut err = std::io::stderr().lock();
    for d in &d.0 {
        let _ = match format {
            Format::Human => writeln!(err, "{d}"),
            Format::Json => writeln!(err, "{}", serde_json::to_string(d).unwrap_or_default()),
        };
    }
}

fn main() -> ExitCode {
    let matches = Cli::command().long_version(command::VERSION.as_str()).get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(e) => e.exit(),
    };
    let bar = Bar::new(match (cli.quiet, cli.verbose) {
        (true, _) => Detail::Quiet,
        (_, true) => Detail::Stages,
        _ => Detail::Bar,
    });
    let result = dispatch(&cli, &bar);
    bar.finish();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(d) => {
            report(&d, cli.message_format);
            if d.0.iter().any(|d| codes::is_usage(d.code)) { ExitCode::from(2) } else { ExitCode::from(1) }
        }
    }
}

fn dispatch(cli: &Cli, bar: &Bar) -> Result<(), Diagnostics> {
    if cli.command.is_some() && cli.compile.given() {
        return Err(Diagnostic::error(&codes::E0005, "options for compiling are given beside a command")
            .help(
                "`pfmc MODEL.onnx --target T` compiles; `pfmc COMMAND --help` lists a command's own options",
            )
            .into());
    }
    match &cli.command {
        None => compile_command(cli, bar),
        Some(Command::Inspect { model, json }) => {
            let (i, warnings) = inspect::inspect(model)?;
            report(&warnings, cli.message_format);
            if *json {
                say!("{}", serde_json::to_string_pretty(&i).unwrap_or_default());
                return Ok(());
            }
            print_inspection(&i)
        }
        Some(Command::Verify { folder, model, calib }) => {
            let start = Instant::now();
            let r = verify::verify(folder, model.as_deref(), calib.as_deref(), bar)?;
            bar.finish();
            let fresh = if r.model { ", and with a fresh lowering of the model" } else { "" };
            say!(
                "verified: {} tiles read back, {} weights compared with the program{fresh}; {} files match their digests ({:.1} s)",
                r.tiles,
                grouped(r.elements),
                r.files,
                start.elapsed().as_secs_f64()
            );
            for (name, value) in r.worst {
                say!("  worst {name}: {value:.2}");
            }
            Ok(())
        }
        Some(Command::Run { source, input, output, state, stream, generate, activations }) => {
            let inputs = npz::read(input)?;
            let work = |graph, executor| -> Result<_, Diagnostics> {
                let mut session = Session::new(graph, executor, state)?;
                match generate {
                    Some(count) => Ok([("tokens".to_owned(), session.generate(&inputs, *count)?)].into()),
                    None if stream.is_empty() => session.step(&inputs),
                    None => session.stream(&inputs, stream),
                }
            };
            let source = Source::open(source, *activations, bar)?;
            let outputs = work(source.graph(), source.executor()?)?;
            npz::write(output, &outputs)
        }
        Some(Command::Handoff { folder, output }) => {
            let out = output.clone().unwrap_or_else(|| folder.join("handoff"));
            let [macros, files] = handoff::handoff(folder, &out)?;
            say!("{macros} macros in {files} files: {}", out.display());
            Ok(())
        }
        Some(Command::Export { folder, format, tile, output }) => {
            for path in export::export(folder, *format, tile.as_deref(), output)? {
                say!("{}", path.display());
            }
            Ok(())
        }
        Some(Command::Report { folder, model, calib }) => {
            let found = verify::verify(folder, model.as_deref(), calib.as_deref(), bar)?;
            report::write(folder, &verify::open(folder)?, &found, bar)?;
            bar.finish();
            say!("{}", folder.join(report::FILE).display());
            Ok(())
        }
        Some(Command::Calibrate { folder, measured }) => {
            let tiles = calibrate::calibrate(folder, measured, bar)?;
            bar.finish();
            say!(
                "{:>10} {:>9} {:>9} {:>9} {:>9} {:>9}  tile",
                "wavelength",
                "tilt",
                "match",
                "before",
                "ports",
                "all"
            );
            say!("{:>10} {:>9} {:>9} {:>9} {:>9} {:>9}", "ppm", "urad", "dB", "dB", "dB", "dB");
            for t in &tiles {
                let (wavelength, tilt) = (t.wavelength * 1e6, t.tilt_rad * 1e6);
                say!(
                    "{wavelength:>10.2} {tilt:>9.2} {:>9.2} {:>9.2} {:>9.2} {:>9.2}  {}",
                    t.match_db,
                    t.before_db,
                    t.ports_db,
                    t.corrected_db,
                    t.name
                );
            }
            say!("{}", folder.join(pfmc_glass::calibrate::FILE).display());
            Ok(())
        }
        Some(Command::Estimate(args)) => command::estimate::run(args, bar),
        Some(Command::Eval(args)) => {
            let report = eval_command(args, bar)?;
            bar.finish();
            if args.json {
                say!("{}", serde_json::to_string_pretty(&report).unwrap_or_default());
            } else {
                say!("{report}");
            }
            Ok(())
        }
        Some(Command::Check(args)) => tools::check(args, cli.quiet, bar),
        Some(Command::Opt(args)) => tools::opt(args),
        Some(Command::Compare(args)) => tools::compare(args, bar),
        Some(Command::Explain { code }) => {
            let all = codes::all();
            match code {
                None => {
                    for c in all {
                        say!("{}  {}", c.id, c.title);
                    }
                    Ok(())
                }
                Some(id) => {
                    let Some(c) = all.iter().find(|c| c.id.eq_ignore_ascii_case(id)) else {
                        return Err(Diagnostic::error(&codes::E0005, format!("there is no code {id}"))
                            .help("`pfmc explain` lists all")
                            .into());
                    };
                    say!("{}: {}\n\n{}", c.id, c.title, c.explain);
                    Ok(())
                }
            }
        }
        Some(Command::Targets) => {
            for b in targets::BACKENDS {
                let processes: Vec<String> = b.processes().into_iter().map(|p| p.name).collect();
                say!("{:<8} {} (processes: {})", b.name(), b.about(), processes.join(", "));
            }
            Ok(())
        }
        Some(Command::Passes) => {
            tools::list_passes();
            Ok(())
        }
        Some(Command::Ops) => {
            say!("{}", onnx::support_table());
            Ok(())
        }
        Some(Command::Completions { shell }) => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "pfmc", &mut text);
            say!("{}", String::from_utf8_lossy(&text).trim_end());
            Ok(())
        }
        Some(Command::Man { command }) => man(command.as_deref()),
    }
}

/// Prints the man page of pfmc, or of one of its commands.
fn man(command: Option<&str>) -> Result<(), Diagnostics> {
    let mut page = Cli::command();
    page.build();
    if let Some(name) = command {
        let Some(found) = page.find_subcommand(name) else {
            return Err(Diagnostic::error(&codes::E0005, format!("there is no command {name:?}"))
                .help("`pfmc --help` lists the commands")
                .into());
        };
        page = found.clone();
    }
    let mut text = Vec::new();
    clap_mangen::Man::new(page)
        .render(&mut text)
        .map_err(|e| Diagnostic::error(&codes::E0001, format!("a man page cannot be made: {e}")))?;
    say!("{}", String::from_utf8_lossy(&text).trim_end());
    Ok(())
}

fn eval_command(a: &EvalArgs, bar: &Bar) -> Result<evaluate::Report, Diagnostics> {
    let [model, folders @ ..] = &a.sources[..] else {
        return Err(Diagnostic::error(&codes::E0005, "no model is given").into());
    };
    if a.layers && (model.is_dir() || folders.is_empty() || folders.iter().any(|f| !f.is_dir())) {
        let d =
            Diagnostic::error(&codes::E0005, "--layers compares folders with the model they are made from");
        return Err(d.help("pfmc eval MODEL.onnx DIR --layers …").into());
    }
    let mut text = Vec::new();
    if let Some(path) = &a.text {
        text = std::fs::read(path).map_err(|e| pfmc::files::io_error("read", path, &e))?;
    }
    let given = match (&a.input, &a.data) {
        (Some(path), _) => Given::Arrays(path),
        (None, Some(path)) => Given::Lines(path),
        (None, None) => Given::Text(&text, a.window as usize),
    };
    let limited = |samples: &Samples, most| samples.first(a.samples.map_or(most, |n| n as usize));
    let (mut report, judge, samples) = {
        let how = run::How { activations: a.activations, noise: a.noise };
        let open = |path: &PathBuf| Source::open(path, how, bar);
        let sources = a.sources.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let sources: Vec<_> = a.sources.iter().map(PathBuf::as_path).zip(&sources).collect();
        let graph = sources[0].1.graph();
        let is_text = a.text.is_some();
        let judge = Judge::new(graph, a.logits.as_deref(), is_text)?;
        let samples = given.samples(graph)?;
        let token = if is_text { "byte" } else { "token" };
        let all = limited(&samples, usize::MAX);
        (evaluate::compare(&sources, &judge, &all, token, bar)?, judge, samples)
    };
    if a.layers {
        let few = limited(&samples, 4);
        for folder in folders {
            report.layers.push(layers::measure(model, folder, &judge, &few, a.top, bar)?);
        }
    }
    Ok(report)
}

/// What the options for compiling ask for.
fn compile_options(a: &CompileArgs) -> Result<Options, Diagnostics> {
    let usage = |m: &str, help: &str| Diagnostics::from(Diagnostic::error(&codes::E0005, m).help(help));
    let model =
        a.model.clone().ok_or_else(|| usage("no model is given", "pfmc MODEL.onnx --target asic|glass"))?;
    let target = a.target.clone().ok_or_else(|| {
        let names: Vec<&str> = targets::BACKENDS.iter().map(|b| b.name()).collect();
        usage("no target is given", &format!("add --target {}", names.join("|")))
    })?;
    if a.activations != ActivationArg::Row && a.calib.is_none() {
        return Err(Diagnostic::error(&codes::E0005, "--activations static and auto need --calib").into());
    }
    let calibration = a
        .calibration
        .as_deref()
        .map(|path| std::fs::read_to_string(path).map_err(|e| pfmc::files::io_error("read", path, &e)));
    Ok(Options {
        model,
        target,
        process: a.process.clone(),
        wishes: Wishes {
            preset: a.preset.clone(),
            calibration: calibration.transpose()?,
            ..Wishes::default()
        },
        bind: a.bind.clone(),
        quantisation: Quantisation {
            rounding: a.rounding,
            calibration: a.calib.as_deref().map(Calibration::from),
            activations: match a.activations {
                ActivationArg::Row => ActivationChoice::Row,
                ActivationArg::Static => ActivationChoice::Static,
                ActivationArg::Auto => ActivationChoice::Auto,
            },
            budget: a.budget,
            snr_target_db: a.snr_target,
            plan: a.plan.clone(),
            keep: a.keep.clone(),
            ..a.scheme.quantisation()
        },
        base: a.base.clone(),
        output: a.output.clone(),
    })
}

fn compile_command(cli: &Cli, bar: &Bar) -> Result<(), Diagnostics> {
    let start = Instant::now();
    let options = compile_options(&cli.compile)?;
    let announce = |lowered: &compile::Lowered, figures: &[Figure]| {
        report(&lowered.warnings, cli.message_format);
        if !cli.quiet {
            bar.finish();
            let mut err = std::io::stderr().lock();
            let _ = writeln!(
                err,
                "{}: {} parameters, {} fixed in {} layers; planned:",
                lowered.model.name,
                grouped(lowered.model.parameters),
                grouped(lowered.program.weights()),
                lowered.program.matrices.len()
            );
            for f in figures {
                let _ = writeln!(err, "  {}", figure(f));
            }
            for p in lowered.passes.iter().filter(|_| bar.detail() == Detail::Stages) {
                let stats: Vec<String> = p.stats.iter().map(|(name, n)| format!("{name} {n}")).collect();
                let _ = writeln!(err, "pass {:<12} {:<10} {}", p.name, p.exactness.name(), stats.join(", "));
            }
        }
    };
    let done = compile::compile(&options, bar, &announce)?;
    bar.finish();
    if cli.quiet {
        return Ok(());
    }
    let m = &done.manifest;
    let program = &done.program;
    let bytes: u64 = m.files.iter().map(|f| f.bytes).sum();
    say!("{} -> {} ({}, process {})", m.model.name, done.folder.display(), m.target, m.process);
    let layers = program.matrices.len();
    let mut rows = vec![
        ("parameters", grouped(m.model.parameters)),
        ("fixed weights", format!("{} in {layers} layers, {}", grouped(program.weights()), schemes(program))),
    ];
    if let Some(found) = m.passes.iter().find_map(passes::canonicalise::recovered) {
        rows.push(("recovered", found));
    }
    for (name, value) in rows {
        say!("  {name:<26} {value}");
    }
    for f in &m.figures {
        say!("  {}", figure(f));
    }
    say!("  {:<26} {}", "files", m.files.iter().map(|f| f.name.as_str()).collect::<Vec<_>>().join(", "));
    say!("  {:<26} {:.1} MB", "size", bytes as f64 / 1e6);
    say!("  {:<26} read back and compared: every tile agrees", "verified");
    say!("  {:<26} {:.1} s", "time", start.elapsed().as_secs_f64());
    Ok(())
}

/// The schemes of a program's tiles, or how many there are.
fn schemes(program: &TileProgram) -> String {
    let all: BTreeSet<String> =
        program.tiles().filter_map(|(id, _)| Some(program.matrix_tile(id)?.2.to_string())).collect();
    if all.len() > SCHEMES { format!("{} schemes", all.len()) } else { Vec::from_iter(all).join(", ") }
}

fn figure(f: &Figure) -> String {
    let value = if f.unit == "B" && f.value >= 1e6 {
        return format!("{:<26} {:.1} MB", f.name, f.value / 1e6);
    } else if f.value.fract() == 0.0 && f.value.abs() < 1e15 {
        format!("{}{}", if f.value < 0.0 { "-" } else { "" }, grouped(f.value.abs() as u64))
    } else if f.value.abs() >= 0.01 && f.value.abs() < 1e6 {
        format!("{:.3}", f.value)
    } else {
        format!("{:.3e}", f.value)
    };
    format!("{:<26} {value} {}", f.name, f.unit).trim_end().to_owned()
}

/// Digits in groups of three.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

fn print_inspection(i: &inspect::Inspection) -> Result<(), Diagnostics> {
    let count = |m: &std::collections::BTreeMap<String, u64>| {
        m.iter().map(|(n, c)| format!("{n} {c}")).collect::<Vec<_>>().join(", ")
    };
    say!("{} (opset {})", i.name, i.opset);
    say!("  parameters   {}", grouped(i.parameters));
    for input in &i.inputs {
        say!("  input        {input}");
    }
    for output in &i.outputs {
        say!("  output       {output}");
    }
    if !i.open_dimensions.is_empty() {
        say!("  open         {} (bind with --bind NAME=SIZE, or leave open)", i.open_dimensions.join(", "));
    }
    say!("  operators    {}", count(&i.operators));
    say!("  fixed        {} parameters in {} layers", grouped(i.fixed_parameters), i.layers.len());
    for (target, tiles) in &i.tiles {
        say!("  {target:<12} {tiles} tiles");
    }
    say!("  host         {}", count(&i.host_operations));
    for group in &i.blocks {
        let mut title = group.title();
        let mut line = String::new();
        for (i, part) in group.parts.iter().enumerate() {
            if !line.is_empty() && line.len() + part.len() > BLOCK_WIDTH {
                say!("  {title:<12} {line} +");
                (title, line) = (String::new(), String::new());
            }
            if i > 0 && !line.is_empty() {
                line += " + ";
            }
            line += part;
        }
        say!("  {title:<12} {line}");
    }
    say!("");
    say!("  {:>8} {:>8} {:>12}  layer", "inputs", "outputs", "weights");
    for l in &i.layers {
        let nodes = l.nodes.join(", ");
        say!("  {:>8} {:>8} {:>12}  {} ({nodes})", l.k, l.n, u64::from(l.k) * u64::from(l.n), l.tensor);
    }
    Ok(())
}
