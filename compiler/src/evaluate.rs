//! Evaluation: what a model computes against what was compiled from it, on the same samples.
//!
//! A row is the last axis of an output at one place of its other axes. Of every float output the cosine of
//! each row with the source's is taken, and the squared error relative to the source's squares. Where an
//! output is logits, rows are distributions: the Kullback-Leibler divergence from the source's, whether the
//! likeliest token is the same, and how well each predicts the token that follows. Rows that `attention_mask`
//! hides do not count.

use std::collections::BTreeMap;
use std::f64::consts::LN_2;
use std::fmt;
use std::path::Path;

use pfmc_ir::backend::Progress;
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::elem::Elem;
use pfmc_ir::eval;
use pfmc_ir::exec::{Executor, FixedMatrices, NoMatrices};
use pfmc_ir::graph::Graph;
use pfmc_ir::op::Op;
use pfmc_ir::shape::OpenType;
use pfmc_ir::tensor::Tensor;
use pfmc_ir::verify::Verify;
use rayon::prelude::*;
use serde::Serialize;

use crate::codes::E0901;
use crate::compile::snr_db;
use crate::layers::LayerTable;
use crate::onnx;
use crate::pfir;
use crate::run::{Activations, How, NoiseReport, Runnable};
use crate::samples::{Inputs, Samples};
use crate::session::{self, TOKEN_IDS};

/// Windows of text that run together.
const BATCH: usize = 8;

fn unfit(message: impl Into<String>) -> Diagnostics {
    Diagnostic::error(&E0901, message).into()
}

/// A model file, or what was compiled from one.
pub enum Source {
    /// The source graph of a model.
    Model(Box<onnx::Model>),
    /// Program text, without tiles.
    Program(Box<Graph<OpenType>>),
    /// A decoded artefact.
    Folder(Box<Runnable>),
}

impl Source {
    /// Opens a model file, program text (`.pfir`), or an output folder to be run as asked.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn open(path: &Path, how: impl Into<How>, progress: &dyn Progress) -> Result<Source, Diagnostics> {
        Ok(if path.is_dir() {
            Source::Folder(Box::new(Runnable::load_as(path, how, progress)?))
        } else if path.extension().is_some_and(|e| e == "pfir") {
            let program = pfir::read(path)?;
            program.verify()?;
            if !program.matrices.is_empty() {
                let d = Diagnostic::error(
                    &E0901,
                    format!("{} has fixed matrices and no contents", path.display()),
                );
                return Err(d.help("run the output folder").into());
            }
            Source::Program(Box::new(program.graph))
        } else {
            Source::Model(Box::new(onnx::import(path)?))
        })
    }

    /// The graph that runs.
    pub fn graph(&self) -> &Graph<OpenType> {
        match self {
            Source::Model(m) => &m.graph,
            Source::Program(g) => g,
            Source::Folder(r) => r.graph(),
        }
    }

    /// What noise did to its tiles, where it is run with some.
    pub fn noise(&self) -> Option<NoiseReport> {
        match self {
            Source::Model(_) | Source::Program(_) => None,
            Source::Folder(r) => r.noise(),
        }
    }

    /// Its fixed matrices and data.
    pub fn fixed(&self) -> &dyn FixedMatrices {
        match self {
            Source::Model(_) | Source::Program(_) => &NoMatrices,
            Source::Folder(r) => r.fixed(),
        }
    }

    /// An executor of it.
    ///
    /// # Errors
    /// When the graph has a cycle.
    pub fn executor(&self) -> Result<Executor<'_, OpenType>, Diagnostics> {
        Executor::new(self.graph(), self.fixed())
    }
}

/// Where the samples are.
#[derive(Debug, Clone, Copy)]
pub enum Given<'a> {
    /// Text for byte-level language models, in windows of so many bytes. Every byte but a window's first is
    /// predicted; a shorter rest is left out.
    Text(&'a [u8], usize),
    /// Arrays; see [`Samples::npz`].
    Arrays(&'a Path),
    /// Lines of JSON; see [`Samples::jsonl`].
    Lines(&'a Path),
}

impl Given<'_> {
    /// Reads the samples for a model.
    ///
    /// # Errors
    /// As [`Samples::text`], [`Samples::npz`] and [`Samples::jsonl`].
    pub fn samples(&self, graph: &Graph<OpenType>) -> Result<Samples, Diagnostics> {
        match self {
            Given::Text(text, window) => Samples::text(graph, text, *window, BATCH),
            Given::Arrays(path) => Samples::npz(graph, path),
            Given::Lines(path) => Samples::jsonl(graph, path),
        }
    }
}

/// What is looked at in the results of a model.
#[derive(Debug, Clone)]
pub struct Judge {
    /// Float outputs.
    outputs: Vec<String>,
    /// The one of them that is logits.
    logits: Option<String>,
    /// The input of token ids.
    ids: Option<String>,
    /// Length of the logits' last axis, where it must be one.
    vocabulary: Option<usize>,
}

/// What the sample says of the rows of its results.
struct Rows {
    /// Batch and sequence of the token ids.
    shape: Option<[usize; 2]>,
    /// Rows that count; all when empty.
    seen: Vec<bool>,
    /// The token after each; none when empty.
    next: Vec<Option<usize>>,
}

fn integers(t: &Tensor) -> Option<Vec<i64>> {
    if !(t.elem().is_int() || t.elem() == Elem::Bool) {
        return None;
    }
    let wide = eval::eval(&Op::Cast { to: Elem::I64 }, std::slice::from_ref(t)).ok()?;
    Some(wide.first()?.as_slice::<i64>().ok()?.to_vec())
}

impl Judge {
    /// What to look at in a model's results. Logits are the output called `logits`; with `text`, the only float
    /// output that is no state, over 256 byte values; or the one that `named` says.
    ///
    /// # Errors
    /// A model without float outputs, or without the logits that are asked for.
    pub fn new(graph: &Graph<OpenType>, named: Option<&str>, text: bool) -> Result<Judge, Diagnostics> {
        let states = session::pairs(graph, &[])?;
        let float = |v| graph.value(v).is_some_and(|v| v.ty.elem.is_float());
        let outputs: Vec<String> =
            graph.outputs().iter().filter(|(_, v)| float(*v)).map(|(n, _)| n.clone()).collect();
        if outputs.is_empty() {
            return Err(unfit("the model has no output of floats"));
        }
        let plain: Vec<&String> = outputs.iter().filter(|n| !states.iter().any(|(_, o)| o == *n)).collect();
        let logits = match (named, &plain[..]) {
            (Some(name), _) => Some(outputs.iter().find(|o| *o == name).cloned().ok_or_else(|| {
                let d = Diagnostic::error(&E0901, format!("the model has no float output {name:?}"));
                Diagnostics::from(d.help(format!("it has {}", outputs.join(", "))))
            })?),
            (None, [one]) if text => Some((*one).clone()),
            (None, _) => outputs.iter().find(|o| *o == "logits").cloned(),
        };
        if text && logits.is_none() {
            let d = Diagnostic::error(&E0901, format!("the model has {} float outputs", plain.len()));
            return Err(d.help("say which are the logits with --logits NAME").into());
        }
        let known: Vec<(&str, bool)> = graph
            .inputs()
            .iter()
            .filter_map(|v| graph.value(*v))
            .map(|v| (v.name.as_str(), matches!(v.ty.elem, Elem::I64 | Elem::I32)))
            .collect();
        let integer = |name: &str| known.iter().any(|(n, i)| *n == name && *i);
        let ids = TOKEN_IDS.into_iter().find(|n| integer(n));
        let only: Vec<&str> = known.iter().filter(|(_, i)| *i).map(|(n, _)| *n).collect();
        let ids = ids.or(if let [one] = only[..] { Some(one) } else { None }).map(str::to_owned);
        Ok(Judge { outputs, logits, ids, vocabulary: text.then_some(256) })
    }

    /// The output that is logits.
    pub fn logits(&self) -> Option<&str> {
        self.logits.as_deref()
    }

    fn rows(&self, samples: &Samples, i: usize) -> Rows {
        let none = Rows { shape: None, seen: Vec::new(), next: Vec::new() };
        let Some(inputs) = samples.get(i) else { return none };
        let Some(ids) = self.ids.as_ref().and_then(|n| inputs.get(n)) else { return none };
        let &[batch, length] = ids.shape() else { return none };
        let mask = inputs.get("attention_mask").filter(|m| m.shape() == ids.shape()).and_then(integers);
        let seen: Vec<bool> = mask.unwrap_or_default().into_iter().map(|m| m != 0).collect();
        let token = |t: i64| usize::try_from(t).ok();
        let next = match (samples.next_tokens(i), integers(ids)) {
            (Some(next), _) => next.iter().map(|&t| token(t)).collect(),
            (None, Some(ids)) => (0..batch * length)
                .map(|at| {
                    let last = at % length.max(1) + 1 == length;
                    let hidden = last || seen.get(at + 1).is_some_and(|s| !s);
                    if hidden { None } else { token(ids[at + 1]) }
                })
                .collect(),
            (None, None) => Vec::new(),
        };
        Rows { shape: Some([batch, length]), seen, next }
    }
}

/// Sums over the rows of one output.
#[derive(Debug, Clone, Copy)]
struct OutputSums {
    rows: u64,
    cosines: f64,
    least: f64,
    signal: f64,
    error: f64,
    not_finite: u64,
}

/// Sums over the rows of logits.
#[derive(Debug, Clone, Copy, Default)]
struct LogitSums {
    rows: u64,
    kl: f64,
    same: u64,
    tokens: u64,
    /// Nats of the tokens that follow, by the source and by what is compared with it.
    source: f64,
    other: f64,
}

/// What was found of a result against the source's.
#[derive(Debug, Clone, Default)]
pub struct Score {
    outputs: BTreeMap<String, OutputSums>,
    logits: LogitSums,
}

/// A row of an output, with the token that follows it.
struct Row<'a> {
    want: &'a [f32],
    got: &'a [f32],
    next: Option<usize>,
}

impl Row<'_> {
    /// Dot product, squares of the source's and the other's, squared error.
    fn sums(&self) -> [f64; 4] {
        self.want.iter().zip(self.got).fold([0f64; 4], |[dot, ww, gg, ee], (&w, &g)| {
            let (w, g) = (f64::from(w), f64::from(g));
            [dot + w * g, ww + w * w, gg + g * g, ee + (g - w) * (g - w)]
        })
    }
}

impl OutputSums {
    fn add(&mut self, rows: &[Row<'_>]) {
        let sums: Vec<[f64; 4]> = rows.par_iter().map(Row::sums).collect();
        for [dot, ww, gg, ee] in sums {
            self.rows += 1;
            if !ee.is_finite() {
                self.not_finite += 1;
                continue;
            }
            let norm = (ww * gg).sqrt();
            let cosine = if norm > 0.0 { dot / norm } else { f64::from(u8::from(ee == 0.0)) };
            self.cosines += cosine;
            self.least = self.least.min(cosine);
            self.signal += ww;
            self.error += ee;
        }
    }
}

impl Default for OutputSums {
    fn default() -> Self {
        OutputSums { rows: 0, cosines: 0.0, least: 1.0, signal: 0.0, error: 0.0, not_finite: 0 }
    }
}

impl LogitSums {
    fn add(&mut self, rows: &[Row<'_>]) {
        let found: Vec<_> = rows.par_iter().map(|r| logit_row(r.want, r.got, r.next)).collect();
        for (kl, same, nats) in found {
            self.rows += 1;
            self.kl += kl;
            self.same += u64::from(same);
            if let Some((source, other)) = nats {
                self.tokens += 1;
                self.source += source;
                self.other += other;
            }
        }
    }
}

/// Place of the largest (the first of equals).
fn top(row: &[f32]) -> usize {
    row.iter().enumerate().fold(0, |best, (i, x)| if *x > row[best] { i } else { best })
}

/// The largest logit, and the logarithm of the sum of the exponentials of what the logits are less than it.
fn normaliser(row: &[f32]) -> (f32, f64) {
    let top = row.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    (top, row.iter().map(|&l| f64::from(l - top).exp()).sum::<f64>().ln())
}

/// Nats of a token.
fn nats(row: &[f32], (top, sum): (f32, f64), token: usize) -> f64 {
    sum - f64::from(row[token] - top)
}

/// Of a row of logits: divergence in nats, whether the likeliest is the same, nats of the token by both.
fn logit_row(want: &[f32], got: &[f32], token: Option<usize>) -> (f64, bool, Option<(f64, f64)>) {
    let (p, q) = (normaliser(want), normaliser(got));
    let kl = want
        .iter()
        .zip(got)
        .map(|(&w, &g)| {
            let (log_p, log_q) = (f64::from(w - p.0) - p.1, f64::from(g - q.0) - q.1);
            if log_p == f64::NEG_INFINITY { 0.0 } else { log_p.exp() * (log_p - log_q) }
        })
        .sum();
    (kl, top(want) == top(got), token.map(|t| (nats(want, p, t), nats(got, q, t))))
}

impl Score {
    /// Adds the results of sample `i`.
    ///
    /// # Errors
    /// Results whose shapes differ, and tokens that the logits do not have.
    pub fn add(
        &mut self,
        judge: &Judge,
        samples: &Samples,
        i: usize,
        want: &Inputs,
        got: &Inputs,
    ) -> Result<(), Diagnostics> {
        let rows = judge.rows(samples, i);
        for name in &judge.outputs {
            let missing = || unfit(format!("output {name:?} is missing"));
            let (want, got) = (want.get(name).ok_or_else(missing)?, got.get(name).ok_or_else(missing)?);
            if want.shape() != got.shape() {
                return Err(unfit(format!(
                    "output {name:?} has shape {:?} from the source and {:?}",
                    want.shape(),
                    got.shape()
                )));
            }
            let wide = |t: &Tensor| -> Result<Tensor, Diagnostics> {
                let made = eval::eval(&Op::Cast { to: Elem::F32 }, std::slice::from_ref(t)).map_err(unfit)?;
                made.into_iter().next().ok_or_else(missing)
            };
            let shape = want.shape().to_vec();
            let (want, got) = (wide(want)?, wide(got)?);
            let (want, got) = (want.as_slice::<f32>().map_err(unfit)?, got.as_slice::<f32>().map_err(unfit)?);
            let width = shape.last().copied().unwrap_or(1).max(1);
            let by_token = rows.shape.is_some_and(|s| shape.len() == 3 && shape[..2] == s);
            let next = |r: usize| if by_token { rows.next.get(r).copied().flatten() } else { None };
            let each = want.chunks_exact(width).zip(got.chunks_exact(width)).enumerate();
            let row = |(r, (want, got))| Row { want, got, next: next(r) };
            let seen = |r: usize| !by_token || rows.seen.get(r).is_none_or(|s| *s);
            let each: Vec<Row<'_>> = each.filter(|(r, _)| seen(*r)).map(row).collect();
            self.outputs.entry(name.clone()).or_default().add(&each);
            if judge.logits.as_ref() != Some(name) {
                continue;
            }
            if let Some(v) = judge.vocabulary.filter(|v| *v != width || !by_token) {
                return Err(unfit(format!("the logits have shape {shape:?}, not [batch, sequence, {v}]")));
            }
            if let Some(t) = each.iter().filter_map(|r| r.next).find(|t| *t >= width) {
                return Err(unfit(format!("token {t} is none of the {width} of output {name:?}")));
            }
            self.logits.add(&each);
        }
        Ok(())
    }

    /// Squared error relative to the source's squares: of the logits where there are some, else the mean over
    /// the float outputs. Infinite when a result is not finite.
    pub fn error(&self, judge: &Judge) -> f64 {
        let of = |s: &OutputSums| match () {
            () if s.not_finite > 0 => f64::INFINITY,
            () if s.error == 0.0 => 0.0,
            () => s.error / s.signal,
        };
        match judge.logits.as_ref().and_then(|l| self.outputs.get(l)) {
            Some(s) => of(s),
            None => self.outputs.values().map(of).sum::<f64>() / self.outputs.len().max(1) as f64,
        }
    }

    /// Mean divergence from the source in nats.
    pub fn kl(&self) -> Option<f64> {
        (self.logits.rows > 0).then(|| self.logits.kl / self.logits.rows as f64)
    }

    /// Bits a token less those of the source.
    pub fn added_bits(&self) -> Option<f64> {
        let l = &self.logits;
        (l.tokens > 0).then(|| (l.other - l.source) / l.tokens as f64 / LN_2)
    }
}

/// One float output against the source's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OutputReport {
    /// Output.
    pub name: String,
    /// Rows that count.
    pub rows: u64,
    /// Mean of their cosines.
    pub mean_cosine: f64,
    /// The least of their cosines.
    pub min_cosine: f64,
    /// Squared error relative to the source's squares in dB, at least -200.
    pub error_db: f64,
    /// Rows with NaN or infinity on a side, which no other figure counts.
    pub not_finite: u64,
}

/// Logits, against the source's where it is not the source.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LogitsReport {
    /// Output.
    pub name: String,
    /// Rows that count.
    pub rows: u64,
    /// Mean Kullback-Leibler divergence from the source's distribution, in nats.
    pub kl_nats: f64,
    /// Part of the rows whose likeliest token is the source's.
    pub top1_agreement: f64,
    /// Tokens predicted: those that follow a row.
    pub tokens: u64,
    /// Mean of -log2 of their probability; `None` without tokens.
    pub bits_per_token: Option<f64>,
    /// 2 to the power of it.
    pub perplexity: Option<f64>,
}

/// One source; the first is what the others are compared with.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SourceReport {
    /// As given.
    pub source: String,
    /// Empty for the first.
    pub outputs: Vec<OutputReport>,
    /// Where an output is logits.
    pub logits: Option<LogitsReport>,
    /// Where the folder was run with noise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise: Option<NoiseReport>,
}

/// What `pfmc eval` found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Number of samples.
    pub samples: usize,
    /// What a token is: `byte` or `token`.
    pub token: &'static str,
    /// In the order given.
    pub sources: Vec<SourceReport>,
    /// One a folder, where asked for.
    pub layers: Vec<LayerTable>,
}

fn source_report(path: &Path, judge: &Judge, score: &Score, first: bool) -> SourceReport {
    let output = |(name, s): (&String, &OutputSums)| OutputReport {
        name: name.clone(),
        rows: s.rows,
        mean_cosine: s.cosines / (s.rows - s.not_finite).max(1) as f64,
        min_cosine: s.least,
        error_db: -snr_db((s.signal, s.error)),
        not_finite: s.not_finite,
    };
    let l = &score.logits;
    let bits = (l.tokens > 0).then(|| l.other / LN_2 / l.tokens as f64);
    let logits = judge.logits.as_ref().filter(|_| l.rows > 0).map(|name| LogitsReport {
        name: name.clone(),
        rows: l.rows,
        kl_nats: l.kl / l.rows as f64,
        top1_agreement: l.same as f64 / l.rows as f64,
        tokens: l.tokens,
        bits_per_token: bits,
        perplexity: bits.map(f64::exp2),
    });
    let outputs = if first { Vec::new() } else { score.outputs.iter().map(output).collect() };
    SourceReport { source: path.display().to_string(), outputs, logits, noise: None }
}

/// Says of which sample a problem is.
pub(crate) fn of_sample(i: usize) -> impl Fn(Diagnostics) -> Diagnostics {
    move |mut d| {
        for d in &mut d.0 {
            d.notes.push(format!("in sample {i}"));
        }
        d
    }
}

/// Runs every source on all samples and compares the results with those of the first.
///
/// # Errors
/// Samples that do not fit a source, and what runs report.
pub fn compare(
    sources: &[(&Path, &Source)],
    judge: &Judge,
    samples: &Samples,
    token: &'static str,
    progress: &dyn Progress,
) -> Result<Report, Diagnostics> {
    let mut executors = Vec::with_capacity(sources.len());
    for (_, source) in sources {
        samples.check(source.graph())?;
        executors.push(source.executor()?);
    }
    let mut scores = vec![Score::default(); sources.len()];
    progress.begin("evaluating", (samples.len() * sources.len()) as u64);
    for (i, inputs) in samples.iter().enumerate() {
        let mut first = None;
        for (executor, score) in executors.iter().zip(&mut scores) {
            let got = executor.run(inputs).map_err(of_sample(i))?;
            let want = first.get_or_insert_with(|| got.clone());
            score.add(judge, samples, i, want, &got).map_err(of_sample(i))?;
            progress.advance(1);
        }
    }
    let reports = sources.iter().zip(&scores).enumerate();
    let reports = reports.map(|(i, ((path, source), score))| SourceReport {
        noise: source.noise(),
        ..source_report(path, judge, score, i == 0)
    });
    Ok(Report { samples: samples.len(), token, sources: reports.collect(), layers: Vec::new() })
}

/// Bits per byte of a byte-level language model, a model file or an output folder: the mean of -log2 p(byte |
/// the bytes before it in its window) over all bytes of all windows but each window's first. A rest of the
/// text shorter than a window is left out.
///
/// # Errors
/// A text shorter than a window, models that are not byte-level language models, and what opening reports.
pub fn evaluate(
    path: &Path,
    text: &[u8],
    window: usize,
    progress: &dyn Progress,
) -> Result<f64, Diagnostics> {
    let source = Source::open(path, Activations::Int8, progress)?;
    let judge = Judge::new(source.graph(), None, true)?;
    let samples = Given::Text(text, window).samples(source.graph())?;
    let report = compare(&[(path, &source)], &judge, &samples, "byte", progress)?;
    let logits = report.sources.into_iter().next().and_then(|s| s.logits);
    logits.and_then(|l| l.bits_per_token).ok_or_else(|| unfit("no byte is predicted"))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = Vec::new();
        let bits = |s: &SourceReport| s.logits.as_ref().and_then(|l| l.bits_per_token);
        let base = self.sources.first().and_then(bits);
        for s in &self.sources {
            lines.push(match (bits(s), base) {
                (Some(b), Some(base)) => {
                    format!("{b:.4} bits per {} ({:+.4})  {}", self.token, b - base, s.source)
                }
                _ => s.source.clone(),
            });
            if let Some(n) = s.noise {
                let budget = n.budget_db.map_or(String::new(), |db| format!(", budget {db:.2} dB"));
                lines.push(format!("  noise, draw {:<12} all tiles {:.2} dB{budget}", n.seed, n.drawn_db));
            }
            if let Some(l) = &s.logits {
                let perplexity = l.perplexity.map_or(String::new(), |p| format!("perplexity {p:.4}"));
                let against = format!(
                    "KL {:.5} nats, top-1 agreement {:.2} % of {} rows",
                    l.kl_nats,
                    100.0 * l.top1_agreement,
                    l.rows
                );
                let parts = [perplexity, if s.outputs.is_empty() { String::new() } else { against }];
                let parts: Vec<String> = parts.into_iter().filter(|p| !p.is_empty()).collect();
                if !parts.is_empty() {
                    lines.push(format!("  {:<24} {}", l.name, parts.join(", ")));
                }
            }
            for o in &s.outputs {
                let mut line = format!(
                    "  {:<24} cosine {:.6} mean, {:.6} least of {} rows; error {:.2} dB",
                    o.name, o.mean_cosine, o.min_cosine, o.rows, o.error_db
                );
                if o.not_finite > 0 {
                    line.push_str(&format!("; {} rows are not finite", o.not_finite));
                }
                lines.push(line);
            }
        }
        for table in &self.layers {
            lines.push(String::new());
            lines.push(table.to_string());
        }
        f.write_str(&lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_and_bits_are_those_of_the_distributions() {
        // p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4): KL = 1/2 ln 2 + 1/4 ln 1/2 = 1/4 ln 2.
        let p: Vec<f32> = [0.5f32, 0.25, 0.25].iter().map(|v| v.ln() + 3.0).collect();
        let q: Vec<f32> = [0.25f32, 0.5, 0.25].iter().map(|v| v.ln() - 1.0).collect();
        let (kl, same, nats) = logit_row(&p, &q, Some(1));
        assert!((kl - LN_2 / 4.0).abs() < 1e-6 && !same, "{kl}");
        let (a, b) = nats.unwrap();
        assert!((a - 2.0 * LN_2).abs() < 1e-6 && (b - LN_2).abs() < 1e-6, "{a} {b}");
        let (kl, same, _) = logit_row(&[0.0, f32::NEG_INFINITY], &[0.0, 0.0], None);
        assert!((kl - LN_2).abs() < 1e-12 && same);
    }
}
