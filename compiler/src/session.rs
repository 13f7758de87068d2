//! Runs that keep state: decoders whose past keys and values are inputs and outputs, streaming models
//! that hand a hidden state on, and greedy decoding with either kind of decoder.

use std::collections::BTreeMap;

use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::elem::Elem;
use pfmc_ir::eval;
use pfmc_ir::exec::Executor;
use pfmc_ir::graph::Graph;
use pfmc_ir::op::Op;
use pfmc_ir::shape::{Dim, OpenType};
use pfmc_ir::tensor::{Data, Tensor};

use crate::codes::E0902;

/// Names of the input that holds token ids, the likeliest first.
pub const TOKEN_IDS: [&str; 4] = ["input_ids", "decoder_input_ids", "ids", "tokens"];

type Tensors = BTreeMap<String, Tensor>;

fn unfit(message: impl Into<String>) -> Diagnostics {
    Diagnostic::error(&E0902, message).into()
}

/// A model with the state that its runs hand on.
pub struct Session<'a> {
    graph: &'a Graph<OpenType>,
    executor: Executor<'a, OpenType>,
    /// Input and output of each piece of state.
    pairs: Vec<(String, String)>,
    state: Tensors,
}

/// The name of the output that holds the next value of a state input, by the conventions of exporters:
/// `past…` to `present…` (Optimum, torch), `…_in` to `…_out`, `state` and `h`, `c` to the same with `n`
/// or `N` after it.
fn successors(input: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (from, to) in
        [("past_key_values", "present"), ("past_key_values", "present_key_values"), ("past", "present")]
    {
        if let Some(rest) = input.strip_prefix(from) {
            names.push(format!("{to}{rest}"));
        }
    }
    if let Some(stem) = input.strip_suffix("_in") {
        names.push(format!("{stem}_out"));
    }
    if matches!(input, "state" | "h" | "c") {
        names.extend(["n", "N", "_out"].map(|end| format!("{input}{end}")));
    }
    names
}

fn types(graph: &Graph<OpenType>) -> (BTreeMap<String, OpenType>, BTreeMap<String, OpenType>) {
    let inputs =
        graph.inputs().iter().filter_map(|v| graph.value(*v)).map(|v| (v.name.clone(), v.ty.clone()));
    let outputs =
        graph.outputs().iter().filter_map(|(name, v)| Some((name.clone(), graph.value(*v)?.ty.clone())));
    (inputs.collect(), outputs.collect())
}

/// Input and output of each piece of state: what `explicit` pairs, and inputs and outputs whose names say
/// that they belong together and that agree in element type and rank.
///
/// # Errors
/// Explicit pairs that the model does not have.
pub fn pairs(
    graph: &Graph<OpenType>,
    explicit: &[(String, String)],
) -> Result<Vec<(String, String)>, Diagnostics> {
    let (inputs, outputs) = types(graph);
    let mut bad = Diagnostics::new();
    for (input, output) in explicit {
        for (what, name, known) in [("input", input, &inputs), ("output", output, &outputs)] {
            if !known.contains_key(name) {
                let names: Vec<&str> = known.keys().map(String::as_str).collect();
                let message = format!("state {input}={output}: the model has no {what} {name:?}");
                bad.push(Diagnostic::error(&E0902, message).help(format!("it has {}", names.join(", "))));
            }
        }
    }
    bad.check()?;
    let mut pairs = explicit.to_vec();
    for (input, ty) in inputs.iter().filter(|(n, _)| !explicit.iter().any(|(i, _)| i == *n)) {
        let rank = |t: &OpenType| t.shape.as_ref().map(Vec::len);
        let fits = |o: &String| {
            outputs.get(o).is_some_and(|t| t.elem == ty.elem && (rank(t).is_none() || rank(t) == rank(ty)))
        };
        if let Some(output) = successors(input).into_iter().find(fits) {
            pairs.push((input.clone(), output));
        }
    }
    Ok(pairs)
}

/// The state `name` before the first run: empty (open dimensions that no given input names have length 0)
/// or zero.
///
/// # Errors
/// An input that the model does not have, or whose shape is unknown or too large.
pub fn initial(graph: &Graph<OpenType>, name: &str, inputs: &Tensors) -> Result<Tensor, Diagnostics> {
    let (declared, _) = types(graph);
    let mut symbols: BTreeMap<String, i64> = BTreeMap::new();
    for (name, t) in inputs {
        let dims = declared.get(name).and_then(|ty| ty.shape.as_ref());
        for (dim, &length) in dims.into_iter().flatten().zip(t.shape()) {
            if let Some(d) = dim.as_ref().filter(|d| d.value().is_none()) {
                symbols.entry(d.to_string()).or_insert(i64::try_from(length).unwrap_or(i64::MAX));
            }
        }
    }
    let ty = declared.get(name).ok_or_else(|| unfit(format!("there is no input {name:?}")))?;
    let shape = ty.shape.as_ref().ok_or_else(|| {
        unfit(format!("the shape of state {name:?} is not known; give its first value as an input"))
    })?;
    let length = |d: &Option<Dim>| {
        let n = d.as_ref().and_then(|d| d.value().or_else(|| symbols.get(&d.to_string()).copied()));
        usize::try_from(n.unwrap_or(0)).unwrap_or(0)
    };
    let shape: Vec<usize> = shape.iter().map(length).collect();
    // By expansion, which refuses what cannot be allocated.
    let zero = ty.elem.stored(1).map(|n| Tensor::from_le_bytes(ty.elem, Vec::new(), &vec![0; n]));
    let zero = zero.ok_or_else(|| unfit("an element has no size"))?.map_err(unfit)?;
    let shape = shape.into_iter().map(i64::try_from).collect::<Result<Vec<i64>, _>>();
    let shape = shape.map_err(|_| unfit(format!("state {name:?} is too large")))?;
    one(Op::Expand {}, &[zero, Tensor::vector(shape)])
}

impl<'a> Session<'a> {
    /// A session without state so far. State is what [`pairs`] finds.
    ///
    /// # Errors
    /// Explicit pairs that the model does not have.
    pub fn new(
        graph: &'a Graph<OpenType>,
        executor: Executor<'a, OpenType>,
        explicit: &[(String, String)],
    ) -> Result<Self, Diagnostics> {
        let pairs = pairs(graph, explicit)?;
        Ok(Session { graph, executor, pairs, state: Tensors::new() })
    }

    /// Input and output of each piece of state.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }

    /// The present state, by the names of its inputs.
    pub fn state(&self) -> &Tensors {
        &self.state
    }

    /// Runs once: state that `inputs` do not have is that of the run before; at first it is empty (open
    /// dimensions that no given input names have length 0) or zero.
    ///
    /// # Errors
    /// Inputs that do not fit.
    pub fn step(&mut self, inputs: &Tensors) -> Result<Tensors, Diagnostics> {
        let mut all = inputs.clone();
        for (name, _) in &self.pairs {
            if all.contains_key(name) {
                continue;
            }
            let value = match self.state.get(name) {
                Some(t) => t.clone(),
                None => initial(self.graph, name, inputs)?,
            };
            all.insert(name.clone(), value);
        }
        let outputs = self.executor.run(&all)?;
        for (input, output) in &self.pairs {
            if let Some(t) = outputs.get(output) {
                self.state.insert(input.clone(), t.clone());
            }
        }
        Ok(outputs)
    }

    /// Runs once for each slice of the first axis of the inputs `streamed`; the other inputs are the
    /// same each time. Outputs that are no state are stacked along a new first axis, state outputs are
    /// those of the last run.
    ///
    /// # Errors
    /// Streamed inputs that are missing or differ in length, and what a run reports.
    pub fn stream(&mut self, inputs: &Tensors, streamed: &[String]) -> Result<Tensors, Diagnostics> {
        let mut steps = None;
        for name in streamed {
            let t = inputs.get(name).ok_or_else(|| unfit(format!("streamed input {name:?} is missing")))?;
            let n = t
                .shape()
                .first()
                .copied()
                .ok_or_else(|| unfit(format!("streamed input {name:?} has no axis")))?;
            if *steps.get_or_insert(n) != n {
                return Err(unfit(format!(
                    "streamed input {name:?} has {n} steps, another {}",
                    steps.unwrap_or(0)
                )));
            }
        }
        let mut stacks: BTreeMap<String, Vec<Tensor>> = BTreeMap::new();
        let mut last = Tensors::new();
        for at in 0..steps.unwrap_or(0) {
            let mut now = inputs.clone();
            for name in streamed {
                if let Some(t) = now.get_mut(name) {
                    let index = Tensor::scalar(i64::try_from(at).unwrap_or(i64::MAX));
                    *t = one(Op::Gather { axis: 0 }, &[t.clone(), index])?;
                }
            }
            for (name, t) in self.step(&now)? {
                if self.pairs.iter().any(|(_, o)| *o == name) {
                    last.insert(name, t);
                } else {
                    stacks.entry(name).or_default().push(one(Op::Unsqueeze { axes: vec![0] }, &[t])?);
                }
            }
        }
        for (name, parts) in stacks {
            last.insert(name, one(Op::Concat { axis: 0 }, &parts)?);
        }
        Ok(last)
    }

    /// Greedy decoding: `count` more tokens for each row of the prompt `[batch, sequence]`, the most
    /// likely each time (the first of equals). With past keys and values as state, each run reads the
    /// new tokens alone; without, the whole sequence. Masks and positions that the model takes and
    /// `inputs` do not have are made: `attention_mask` all ones over past and present, `position_ids` and
    /// `cache_position` counted from 0, `use_cache_branch` whether there is a past.
    ///
    /// # Errors
    /// A model without an integer input of shape [batch, sequence] or without logits, and what a run
    /// reports.
    pub fn generate(&mut self, inputs: &Tensors, count: usize) -> Result<Tensor, Diagnostics> {
        let (declared, outputs) = types(self.graph);
        let integer =
            |n: &String| declared.get(n).is_some_and(|t| t.elem == Elem::I64 || t.elem == Elem::I32);
        let ids_name = TOKEN_IDS
            .into_iter()
            .map(str::to_owned)
            .chain(inputs.keys().cloned())
            .find(|n| inputs.contains_key(n) && integer(n))
            .ok_or_else(|| unfit("the inputs have no token ids"))?;
        let is_state = |n: &str| self.pairs.iter().any(|(_, o)| o == n);
        let logits_name = outputs
            .iter()
            .filter(|(n, t)| !is_state(n) && t.elem.is_float())
            .map(|(n, _)| n.clone())
            .min_by_key(|n| n != "logits")
            .ok_or_else(|| unfit("the model has no output of logits"))?;
        let prompt = inputs[&ids_name].clone();
        let [batch, _] = prompt.shape()[..] else {
            return Err(unfit(format!("token ids have shape {:?}, not [batch, sequence]", prompt.shape())));
        };
        let elem = prompt.elem();
        let mut sequence = prompt.clone();
        let mut made: Option<Tensor> = None;
        let mut fresh = prompt;
        let stateful = !self.pairs.is_empty();
        for _ in 0..count {
            let total = sequence.shape()[1];
            let read = if stateful { fresh.clone() } else { sequence.clone() };
            let new = read.shape()[1];
            let mut now = inputs.clone();
            now.insert(ids_name.clone(), read);
            let count_from = |n: usize| (total - new..total).take(n).map(|v| v as i64);
            for (name, ty) in &declared {
                let first = inputs.get(name);
                let t = match name.as_str() {
                    "attention_mask" => {
                        let mut mask = match first {
                            Some(t) => one(Op::Cast { to: Elem::I64 }, std::slice::from_ref(t))?,
                            None => Tensor::new(vec![batch, 0], Vec::<i64>::new()).map_err(unfit)?,
                        };
                        if mask.rank() != 2 || mask.shape()[0] != batch || mask.shape()[1] > total {
                            return Err(unfit(format!("attention_mask has shape {:?}", mask.shape())));
                        }
                        let more = total - mask.shape()[1];
                        let ones = Tensor::new(vec![batch, more], vec![1i64; batch * more]).map_err(unfit)?;
                        mask = one(Op::Concat { axis: 1 }, &[mask, ones])?;
                        one(Op::Cast { to: ty.elem }, &[mask])?
                    }
                    "position_ids" if first.is_none() || made.is_some() => {
                        let row: Vec<i64> = count_from(new).collect();
                        let t = Tensor::new(vec![batch, new], row.repeat(batch)).map_err(unfit)?;
                        one(Op::Cast { to: ty.elem }, &[t])?
                    }
                    "cache_position" if first.is_none() || made.is_some() => {
                        Tensor::new(vec![new], count_from(new).collect::<Vec<i64>>()).map_err(unfit)?
                    }
                    "use_cache_branch" => {
                        Tensor::new(vec![1], vec![!self.state.is_empty()]).map_err(unfit)?
                    }
                    _ => continue,
                };
                now.insert(name.clone(), t);
            }
            let results = self.step(&now)?;
            let logits = results.get(&logits_name).ok_or_else(|| unfit("no logits"))?;
            let next = argmax(logits, batch)?;
            let column = Tensor::new(vec![batch, 1], next).map_err(unfit)?;
            let typed = one(Op::Cast { to: elem }, std::slice::from_ref(&column))?;
            sequence = one(Op::Concat { axis: 1 }, &[sequence, typed.clone()])?;
            made = Some(match made {
                Some(m) => one(Op::Concat { axis: 1 }, &[m, column])?,
                None => column,
            });
            fresh = typed;
        }
        made.map_or_else(|| Tensor::new(vec![batch, 0], Vec::<i64>::new()).map_err(unfit), Ok)
    }
}

fn one(op: Op, inputs: &[Tensor]) -> Result<Tensor, Diagnostics> {
    let mut made = eval::eval(&op, inputs).map_err(unfit)?;
    if made.is_empty() { Err(unfit("nothing was made")) } else { Ok(made.swap_remove(0)) }
}

/// The index of the largest of the last position's logits, for each row.
fn argmax(logits: &Tensor, batch: usize) -> Result<Vec<i64>, Diagnostics> {
    let [b, s, v] = logits.shape()[..] else {
        return Err(unfit(format!(
            "logits have shape {:?}, not [batch, sequence, vocabulary]",
            logits.shape()
        )));
    };
    if b != batch || s == 0 || v == 0 {
        return Err(unfit(format!("logits have shape {:?}", logits.shape())));
    }
    let wide = one(Op::Cast { to: Elem::F32 }, std::slice::from_ref(logits))?;
    let Data::F32(values) = wide.data() else { return Err(unfit("logits are no floats")) };
    let best = |row: &[f32]| {
        let mut best = 0;
        for (i, x) in row.iter().enumerate() {
            if *x > row[best] {
                best = i;
            }
        }
        best as i64
    };
    Ok((0..batch).map(|r| best(&values[(r * s + s - 1) * v..(r * s + s) * v])).collect())
}
