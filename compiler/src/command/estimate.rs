//! `pfmc estimate`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

use clap::Args;
use pfmc::codes;
use pfmc::estimate::arch::Arch;
use pfmc::estimate::{Estimate, Request, Subject, estimate, plot};
use pfmc::files::{io_error, replace};
use pfmc::quantise::options::Quantisation;
use pfmc::targets::BACKENDS;
use pfmc_ir::backend::Wishes;
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::estimate::{Range, number, written};

use super::bar::Bar;
use super::{SchemeArgs, say};

/// Options of `pfmc estimate`.
#[derive(Args)]
pub struct EstimateArgs {
    /// ONNX model.
    model: Option<PathBuf>,
    /// In place of a model: so many parameters, e.g. 1e12.
    #[arg(long, conflicts_with = "model")]
    params: Option<f64>,
    /// The family of a model that does not exist.
    #[arg(long, value_enum, default_value_t, conflicts_with = "model")]
    arch: Arch,
    /// asic or glass; see `pfmc targets`.
    #[arg(long)]
    target: Option<String>,
    /// Built-in process or process file (TOML).
    #[arg(long)]
    process: Option<String>,
    /// Settings of the target's designer.
    #[arg(long)]
    preset: Option<String>,
    /// Binds open dimensions, e.g. batch=1,seq=128. May be repeated.
    #[arg(long, value_delimiter = ',', value_parser = crate::parse_binding)]
    bind: Vec<(String, i64)>,
    #[command(flatten)]
    scheme: SchemeArgs,
    /// Follows a plan (JSON) of bits, groups and levels by matrix.
    #[arg(long, requires = "model")]
    plan: Option<PathBuf>,
    /// Tokens that attention looks back on.
    #[arg(long, default_value_t = 1024)]
    context: u32,
    /// Takes a quantity as given, NAME=VALUE or NAME=LOW..NOMINAL..HIGH. May be repeated.
    #[arg(long, value_parser = parse_assumption)]
    assume: Vec<(String, Range)>,
    /// Sizes in closed form, as for a model that does not exist.
    #[arg(long)]
    closed_form: bool,
    /// Prints how figures are derived, down to the source of every constant; `all` lists every quantity.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    explain: Vec<String>,
    /// As JSON.
    #[arg(long)]
    json: bool,
    /// Draws the course of figures over 1e9 to 1e18 parameters (SVG), of all targets where none is given.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

fn parse_assumption(s: &str) -> Result<(String, Range), String> {
    let (name, range) = s.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.trim().to_owned(), range.parse()?))
}

impl EstimateArgs {
    fn request(&self, subject: Subject, target: &str) -> Request {
        Request {
            subject,
            target: target.to_owned(),
            process: self.process.clone(),
            wishes: Wishes { preset: self.preset.clone(), ..Wishes::default() },
            bind: self.bind.clone(),
            quantisation: Quantisation { plan: self.plan.clone(), ..self.scheme.quantisation() },
            context: f64::from(self.context),
            closed_form: self.closed_form,
            assumed: BTreeMap::from_iter(self.assume.iter().cloned()),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// What cannot be estimated or written.
pub fn run(a: &EstimateArgs, bar: &Bar) -> Result<(), Diagnostics> {
    let usage = |m: &str, help: &str| Diagnostics::from(Diagnostic::error(&codes::E0005, m).help(help));
    let names: Vec<&str> = BACKENDS.iter().map(|b| b.name()).collect();
    if let Some(path) = &a.plot {
        if a.model.is_some() || a.json || !a.explain.is_empty() {
            return Err(usage(
                "--plot draws models of all sizes",
                "leave out the model, --json and --explain; --arch chooses the family",
            ));
        }
        let drawn = a.target.as_deref().map_or(names, |t| vec![t]);
        let requests: Vec<Request> =
            drawn.into_iter().map(|t| a.request(Subject::Parameters(1e9, a.arch), t)).collect();
        let text = plot::scaling(&requests, bar)?;
        bar.finish();
        replace(path, [text.as_bytes()]).map_err(|e| io_error("write", path, &e))?;
        say!("{}", path.display());
        return Ok(());
    }
    let subject = match (&a.model, a.params) {
        (Some(path), _) => Subject::Model(path.clone()),
        (None, Some(count)) => Subject::Parameters(count, a.arch),
        (None, None) => {
            return Err(usage("nothing to estimate is given", "give a model.onnx, or --params 1e12"));
        }
    };
    let Some(target) = &a.target else {
        return Err(usage("no target is given", &format!("add --target {}", names.join("|"))));
    };
    let e = estimate(&a.request(subject, target), bar)?;
    bar.finish();
    if a.json {
        say!("{}", serde_json::to_string_pretty(&e).unwrap_or_default());
        return Ok(());
    }
    if a.explain.is_empty() {
        return print(&e);
    }
    explain(&e, &a.explain)
}

fn explain(e: &Estimate, names: &[String]) -> Result<(), Diagnostics> {
    let mut bad = Diagnostics::new();
    for name in names {
        if name == "all" {
            for q in &e.quantities {
                say!("{} = {}: {}", q.name, written(q), q.about);
            }
        } else if let Some(text) = e.sheet.explain(name) {
            say!("{}", text.trim_end());
        } else {
            let text = format!("this estimate has no quantity {name:?}");
            bad.push(Diagnostic::error(&codes::E0005, text).help("`--explain all` lists every quantity"));
        }
    }
    bad.check()
}

fn print(e: &Estimate) -> Result<(), Diagnostics> {
    say!(
        "{}: {} parameters, {} fixed, on {} (process {})",
        e.about,
        number(e.parameters),
        number(e.weights),
        e.target,
        e.process
    );
    say!("  {:<18} {:>10} {:>10} {:>10} {:<6}", "", "low", "nominal", "high", "");
    for q in e.sheet.figures() {
        let r = q.range;
        let ends = [r.low, r.high].map(|v| if r.is_exact() { String::new() } else { number(v) });
        say!(
            "  {:<18} {:>10} {:>10} {:>10} {:<6} {}",
            q.name,
            ends[0],
            number(r.nominal),
            ends[1],
            q.unit,
            q.about
        );
    }
    say!("what limits it, nominal:");
    for limit in &e.limits {
        say!("  {limit}");
    }
    say!(
        "`--explain NAME` prints a figure's derivation and the source of every constant, `--assume NAME=VALUE` changes one."
    );
    Ok(())
}
