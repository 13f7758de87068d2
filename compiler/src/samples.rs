//! Samples: the inputs of runs that measure something, from files.
//!
//! - `.jsonl`: one sample a line, `{"input_ids": [[1, 2, 3]], …}`: nested lists by name of input, whose element
//!   types are those the model declares.
//! - `.npz`: arrays by name of input. When each has one axis more than its input, the first axis counts
//!   samples; when each has the rank of its input, the file is one sample.
//! - Text: windows of bytes, for byte-level language models.
//!
//! A state input (see [`session::pairs`]) that a sample leaves out is empty or zero, as in a first run.
//! Everything wrong in a file is reported at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use half::{bf16, f16};
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::elem::Elem;
use pfmc_ir::eval;
use pfmc_ir::exec::Executor;
use pfmc_ir::graph::{Graph, Node, ValueId};
use pfmc_ir::op::Op;
use pfmc_ir::shape::OpenType;
use pfmc_ir::tensor::{Data, Tensor};
use serde_json::Value;

use crate::codes::{E0012, E0903};
use crate::files::map;
use crate::{npz, session};

/// Inputs of one run by name.
pub type Inputs = BTreeMap<String, Tensor>;

/// Tables with fewer entries tell kinds apart rather than tokens.
pub(crate) const KINDS: usize = 4;

/// Entries of the table that a node looks up with a value of ids.
pub(crate) fn entries_looked_up(graph: &Graph, node: &Node, ids: ValueId) -> Option<usize> {
    match node.op {
        Op::FixedLookup { n, .. } => usize::try_from(n).ok(),
        Op::Gather { axis } if node.inputs.get(1) == Some(&ids) => {
            let table = graph.value(*node.inputs.first()?)?.ty.shape.as_ref()?;
            let axis = pfmc_ir::tensor::axis(axis, table.len()).ok()?;
            usize::try_from(table[axis].as_ref()?.value()?).ok()
        }
        _ => None,
    }
}

/// Samples that fit a model.
#[derive(Debug, Clone, Default)]
pub struct Samples {
    runs: Vec<Inputs>,
    next: Vec<Vec<i64>>,
}

/// Problems by what is said of them, in the order they were met, with the samples that have them.
#[derive(Default)]
struct Problems(Vec<(Diagnostic, Vec<String>)>);

impl Problems {
    fn add(&mut self, sample: &str, d: Diagnostic) {
        match self.0.iter_mut().find(|(known, _)| *known == d) {
            Some((_, samples)) => samples.push(sample.to_owned()),
            None => self.0.push((d, vec![sample.to_owned()])),
        }
    }

    /// Messages shown; further ones are counted.
    const MOST: usize = 50;

    fn check(self, path: &Path) -> Result<(), Diagnostics> {
        let mut all = Diagnostics::new();
        let more = self.0.len().saturating_sub(Self::MOST);
        for (mut d, samples) in self.0.into_iter().take(Self::MOST) {
            let place = match &samples[..] {
                [one] => one.clone(),
                [first, rest @ ..] => format!("{first} and {} more", rest.len()),
                [] => String::new(),
            };
            d.message = format!("{}, {place}: {}", path.display(), d.message);
            all.push(d);
        }
        if more > 0 {
            all.push(Diagnostic::error(&E0903, format!("{}: {more} other problems", path.display())));
        }
        all.check()
    }
}

impl Samples {
    /// Samples without a file.
    ///
    /// # Errors
    /// As [`Samples::check`]; none at all.
    pub fn new(graph: &Graph<OpenType>, runs: Vec<Inputs>) -> Result<Samples, Diagnostics> {
        let named = runs.into_iter().enumerate().map(|(i, r)| (format!("sample {i}"), r)).collect();
        Self::complete(graph, Path::new("samples"), named, Problems::default())
    }

    /// Reads a file for a model: `.npz` by its name's end, else as lines of JSON.
    ///
    /// # Errors
    /// As [`Samples::npz`] and [`Samples::jsonl`].
    pub fn read(graph: &Graph<OpenType>, path: &Path) -> Result<Samples, Diagnostics> {
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("npz")) {
            Self::npz(graph, path)
        } else {
            Self::jsonl(graph, path)
        }
    }

    /// Reads an `.npz` file for a model.
    ///
    /// # Errors
    /// E0010 and E0011 as [`npz::read`]; E0802 for names, element types and shapes that are not the model's;
    /// E0903 for numbers that are not finite, inputs without elements, arrays that disagree about the axis of
    /// samples, and no samples.
    pub fn npz(graph: &Graph<OpenType>, path: &Path) -> Result<Samples, Diagnostics> {
        let arrays = npz::read(path)?;
        let declared = declared(graph);
        let rank = |name: &str| declared.get(name)?.shape.as_ref().map(Vec::len);
        // Arrays of inputs whose rank is known say whether there is an axis of samples.
        let stacked: BTreeSet<&str> = arrays
            .iter()
            .filter(|(name, t)| rank(name).is_some_and(|r| t.rank() == r + 1))
            .map(|(name, _)| name.as_str())
            .collect();
        let single = |(name, t): &(&String, &Tensor)| rank(name).is_some_and(|r| t.rank() == r);
        let one: Vec<&str> = arrays.iter().filter(single).map(|(name, _)| name.as_str()).collect();
        if stacked.is_empty() {
            return Self::complete(graph, path, vec![("the sample".into(), arrays)], Problems::default());
        }
        let misfit = |message: String| {
            Diagnostic::error(&E0903, format!("{}: {message}", path.display())).help(
                "either every array has a first axis that counts samples, of one length, or no array has it",
            )
        };
        let mut bad = Diagnostics::new();
        let with = stacked.iter().copied().collect::<Vec<_>>().join(", ");
        if !one.is_empty() {
            let message = format!("{with} has a first axis of samples, {} has not", one.join(", "));
            bad.push(misfit(message));
        }
        let mut length = None;
        for (name, t) in arrays.iter().filter(|(n, _)| stacked.contains(n.as_str())) {
            let n = t.shape().first().copied().unwrap_or(0);
            if n != *length.get_or_insert(n) {
                bad.push(misfit(format!("{name} has {n} samples, another {}", length.unwrap_or(0))));
            }
        }
        bad.check()?;
        let mut runs = Vec::new();
        for i in 0..length.unwrap_or(0) {
            let mut run = Inputs::new();
            for (name, t) in &arrays {
                // An array without so many is of no input or of the wrong rank, which the check says.
                run.insert(name.clone(), slice(t, i).unwrap_or_else(|_| t.clone()));
            }
            runs.push((format!("sample {i}"), run));
        }
        Self::complete(graph, path, runs, Problems::default())
    }

    /// Reads lines of JSON for a model; empty lines are skipped.
    ///
    /// # Errors
    /// E0001 for a file that cannot be read; E0012 for lines that are no JSON objects; E0802 for names, element
    /// types and shapes that are not the model's; E0903 for lists that are no tensors, numbers that are not
    /// finite or do not fit the element type, inputs without elements, and no samples.
    pub fn jsonl(graph: &Graph<OpenType>, path: &Path) -> Result<Samples, Diagnostics> {
        let bytes = map(path)?;
        let declared = declared(graph);
        let (mut runs, mut problems) = (Vec::new(), Problems::default());
        for (i, line) in bytes.split(|&b| b == b'\n').enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            let place = format!("line {}", i + 1);
            let object = match serde_json::from_slice(line) {
                Ok(Value::Object(o)) => o,
                Ok(_) => {
                    let d = Diagnostic::error(&E0012, "this is no object with inputs by name");
                    problems.add(&place, d.help("{\"input_ids\": [[1, 2, 3]]}"));
                    continue;
                }
                Err(e) => {
                    let d = Diagnostic::error(&E0012, format!("this is no JSON: {e}"));
                    problems.add(&place, d.help("each line is one object; JSON has no NaN and no Infinity"));
                    continue;
                }
            };
            let (mut run, mut whole) = (Inputs::new(), true);
            for (name, value) in object {
                // Of an unknown name nothing but the name is looked at.
                let elem = declared.get(&name).map(|ty| ty.elem);
                match elem.map_or_else(|| Ok(Tensor::scalar(false)), |elem| tensor(&value, elem)) {
                    Ok(t) => {
                        run.insert(name, t);
                    }
                    Err(e) => {
                        whole = false;
                        problems.add(&place, Diagnostic::error(&E0903, format!("input {name:?}: {e}")));
                    }
                }
            }
            if whole {
                runs.push((place, run));
            }
        }
        Self::complete(graph, path, runs, problems)
    }

    /// Windows of a text for a byte-level language model: bytes are token ids. `batch` windows run together;
    /// a rest shorter than a window is left out. Each sample has all bytes of its windows but the last of
    /// each, as `[windows, window - 1]`; [`Samples::next_tokens`] gives the byte after each.
    ///
    /// # Errors
    /// A text shorter than a window, a window of fewer than 2 bytes, and a model that takes more than one
    /// integer input of shape [batch, sequence] (and states).
    pub fn text(
        graph: &Graph<OpenType>,
        text: &[u8],
        window: usize,
        batch: usize,
    ) -> Result<Samples, Diagnostics> {
        if window < 2 || text.len() < window {
            return Err(unfit(format!("{} bytes of text in windows of {window}", text.len())).into());
        }
        let declared = declared(graph);
        let states: BTreeSet<String> = session::pairs(graph, &[])?.into_iter().map(|(i, _)| i).collect();
        let free: Vec<_> = declared.iter().filter(|(n, _)| !states.contains(*n)).collect();
        let [(name, ty)] = free[..] else {
            let names: Vec<&str> = free.iter().map(|(n, _)| n.as_str()).collect();
            let d = unfit(format!("the model takes {} inputs: {}", names.len(), names.join(", ")));
            return Err(d
                .help("text is for models that take token ids alone; give the inputs as .npz or .jsonl")
                .into());
        };
        let windows: Vec<&[u8]> = text.chunks_exact(window).collect();
        let (mut runs, mut next) = (Vec::new(), Vec::new());
        for (i, batch) in windows.chunks(batch.max(1)).enumerate() {
            let ids: Vec<i64> =
                batch.iter().flat_map(|w| w[..window - 1].iter().map(|&b| i64::from(b))).collect();
            let ids = Tensor::new(vec![batch.len(), window - 1], ids).map_err(unfit)?;
            let ids = one(&Op::Cast { to: ty.elem }, &[ids]).map_err(unfit)?;
            runs.push((format!("sample {i}"), Inputs::from([(name.clone(), ids)])));
            next.push(batch.iter().flat_map(|w| w[1..].iter().map(|&b| i64::from(b))).collect());
        }
        Ok(Samples { next, ..Self::complete(graph, Path::new("text"), runs, Problems::default())? })
    }

    /// Gives samples the state that they leave out and checks them.
    fn complete(
        graph: &Graph<OpenType>,
        path: &Path,
        runs: Vec<(String, Inputs)>,
        mut problems: Problems,
    ) -> Result<Samples, Diagnostics> {
        let states: BTreeSet<String> = session::pairs(graph, &[])?.into_iter().map(|(i, _)| i).collect();
        let none = runs.is_empty() && problems.0.is_empty();
        let mut out = Samples::default();
        for (place, mut run) in runs {
            for name in states.iter().filter(|n| !run.contains_key(*n)).cloned().collect::<Vec<_>>() {
                match session::initial(graph, &name, &run) {
                    Ok(t) => {
                        run.insert(name, t);
                    }
                    Err(e) => e.0.into_iter().for_each(|d| problems.add(&place, d)),
                }
            }
            if let Err(e) = Executor::check_inputs(graph, &run) {
                e.0.into_iter().for_each(|d| problems.add(&place, d));
            }
            for (name, t) in &run {
                if t.is_empty() && !states.contains(name) {
                    problems.add(&place, unfit(format!("input {name:?} of shape {:?} is empty", t.shape())));
                }
                if let Some((at, value)) = not_finite(t) {
                    let d = unfit(format!("input {name:?} is {value} at {at:?}"));
                    problems.add(
                        &place,
                        d.help("statistics of such numbers mean nothing; a mask can hold the lowest finite number"),
                    );
                }
            }
            out.runs.push(run);
        }
        problems.check(path)?;
        if none {
            let d = Diagnostic::error(&E0903, format!("{} has no samples", path.display()));
            return Err(d.help("give at least one line, or a first axis of at least 1").into());
        }
        Ok(out)
    }

    /// Whether they fit another model too, one of the same inputs.
    ///
    /// # Errors
    /// E0802 for everything that does not.
    pub fn check(&self, graph: &Graph<OpenType>) -> Result<(), Diagnostics> {
        let mut problems = Problems::default();
        for (i, run) in self.runs.iter().enumerate() {
            if let Err(e) = Executor::check_inputs(graph, run) {
                e.0.into_iter().for_each(|d| problems.add(&format!("sample {i}"), d));
            }
        }
        problems.check(Path::new("samples"))
    }

    /// Number of samples, at least 1.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether there are none: never for samples that were read.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The first `most` samples.
    #[must_use]
    pub fn first(&self, most: usize) -> Samples {
        let cut = |n: usize| n.min(most);
        Samples {
            runs: self.runs[..cut(self.runs.len())].to_vec(),
            next: self.next[..cut(self.next.len())].to_vec(),
        }
    }

    /// The inputs of a sample, `None` past the last.
    pub fn get(&self, i: usize) -> Option<&Inputs> {
        self.runs.get(i)
    }

    /// All of them in order.
    pub fn iter(&self) -> impl Iterator<Item = &Inputs> {
        self.runs.iter()
    }

    /// For samples of a text: the token after each of the sample's tokens, in their order.
    pub fn next_tokens(&self, i: usize) -> Option<&[i64]> {
        self.next.get(i).map(Vec::as_slice)
    }
}

fn unfit(message: impl Into<String>) -> Diagnostic {
    Diagnostic::error(&E0903, message)
}

fn declared(graph: &Graph<OpenType>) -> BTreeMap<String, OpenType> {
    let inputs = graph.inputs().iter().filter_map(|v| graph.value(*v));
    inputs.map(|v| (v.name.clone(), v.ty.clone())).collect()
}

fn one(op: &Op, inputs: &[Tensor]) -> Result<Tensor, String> {
    eval::eval(op, inputs)?.into_iter().next().ok_or_else(|| "nothing was made".into())
}

/// Slice `i` of the first axis.
fn slice(t: &Tensor, i: usize) -> Result<Tensor, String> {
    let index = Tensor::scalar(i64::try_from(i).map_err(|e| e.to_string())?);
    one(&Op::Gather { axis: 0 }, &[t.clone(), index])
}

/// Place and value of the first element that is NaN or infinite.
fn not_finite(t: &Tensor) -> Option<(Vec<usize>, f64)> {
    fn find<T: Copy + Into<f64>>(x: &[T]) -> Option<(usize, f64)> {
        x.iter().map(|&v| v.into()).enumerate().find(|(_, v)| !v.is_finite())
    }
    let (mut at, value) = match t.data() {
        Data::F32(x) => find(x),
        Data::F64(x) => find(x),
        Data::F16(x) => find(x),
        Data::BF16(x) => find(x),
        _ => None,
    }?;
    let mut place: Vec<usize> = t
        .shape()
        .iter()
        .rev()
        .map(|&d| {
            let i = at % d.max(1);
            at /= d.max(1);
            i
        })
        .collect();
    place.reverse();
    Some((place, value))
}

/// Nested lists as a tensor.
fn tensor(value: &Value, elem: Elem) -> Result<Tensor, String> {
    if elem.is_code() {
        return Err(format!("JSON has no numbers of type {elem}; give the samples as .npz"));
    }
    let mut shape = Vec::new();
    let mut first = value;
    while let Value::Array(list) = first {
        shape.push(list.len());
        match list.first() {
            Some(next) => first = next,
            None => break,
        }
    }
    let mut bytes = Vec::new();
    gather(value, &shape, elem, &mut bytes)?;
    Tensor::from_le_bytes(elem, shape, &bytes)
}

/// Appends the elements of nested lists of the given lengths.
fn gather(value: &Value, shape: &[usize], elem: Elem, out: &mut Vec<u8>) -> Result<(), String> {
    match (shape, value) {
        ([n, inner @ ..], Value::Array(list)) if list.len() == *n => {
            list.iter().try_for_each(|v| gather(v, inner, elem, out))
        }
        ([n, ..], Value::Array(list)) => {
            Err(format!("lists of {n} and of {} elements are no tensor; pad them to one length", list.len()))
        }
        ([_, ..], _) => Err("a list has both lists and numbers".into()),
        ([], Value::Array(_)) => Err("lists are nested more deeply in some places than in others".into()),
        ([], _) => element(value, elem, out),
    }
}

/// Appends the little-endian bytes of one number.
fn element(value: &Value, elem: Elem, out: &mut Vec<u8>) -> Result<(), String> {
    let wrong = |what: &str| format!("{value} is no {what}");
    if elem.is_float() {
        let v = value.as_f64().ok_or_else(|| wrong("number"))?;
        let finite = match elem {
            Elem::F64 => v,
            Elem::F32 => f64::from(v as f32),
            Elem::F16 => f16::from_f64(v).to_f64(),
            _ => bf16::from_f64(v).to_f64(),
        };
        if !finite.is_finite() {
            return Err(format!("{value} is too large for {elem}"));
        }
        match elem {
            Elem::F64 => out.extend_from_slice(&v.to_le_bytes()),
            Elem::F32 => out.extend_from_slice(&(v as f32).to_le_bytes()),
            Elem::F16 => out.extend_from_slice(&f16::from_f64(v).to_le_bytes()),
            _ => out.extend_from_slice(&bf16::from_f64(v).to_le_bytes()),
        }
        return Ok(());
    }
    let whole = match value {
        Value::Bool(b) if elem == Elem::Bool => Some(i128::from(*b)),
        _ => value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from)),
    };
    let whole = whole.ok_or_else(|| wrong(if elem == Elem::Bool { "true or false" } else { "integer" }))?;
    let bits = elem.bits();
    let (low, high) = match elem {
        Elem::Bool => (0, 1),
        Elem::U8 | Elem::U16 | Elem::U32 | Elem::U64 => (0, (1i128 << bits) - 1),
        _ => (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1),
    };
    if !(low..=high).contains(&whole) {
        return Err(format!("{whole} does not fit {elem}"));
    }
    out.extend_from_slice(&whole.to_le_bytes()[..bits / 8]);
    Ok(())
}
