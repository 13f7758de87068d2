//! What the user says about quantisation.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::graph::Graph;
use pfmc_ir::op::Op;
use pfmc_ir::shape::{Dim, OpenType};
use pfmc_ir::tensor::Tensor;
use pfmc_ir::tile::Levels;
use serde::{Deserialize, Serialize};

use crate::codes::E0405;
use crate::samples::{Inputs, KINDS, Samples, entries_looked_up};

/// How weights are rounded where nothing else says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Rounding {
    /// Uniform codes are the nearest to the weights, with scales that cover the largest.
    Plain,
    /// Scales, and codebooks, that minimise the squared error of the weights.
    #[default]
    Search,
}

/// How calibration rounds the inputs of matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ActivationChoice {
    /// One scale a row.
    #[default]
    Row,
    /// One scale a matrix.
    Static,
    /// Whichever gives the smaller squared error on the samples.
    Auto,
    /// As the plan says.
    Planned,
}

/// Inputs to calibrate for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Calibration {
    /// Made up: random token ids, normal floats.
    Synthetic,
    /// A file; see [`Samples::read`].
    File(PathBuf),
}

impl From<&str> for Calibration {
    fn from(text: &str) -> Self {
        if text == "synthetic" { Calibration::Synthetic } else { Calibration::File(text.into()) }
    }
}

/// What the weights may cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// Bits a weight, everything that is fixed counted.
    Bits(f64),
    /// Area of the dies.
    Mm2(f64),
    /// Volume of what is written.
    Mm3(f64),
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Budget::Bits(b) => write!(f, "{b} bits a weight"),
            Budget::Mm2(a) => write!(f, "{a} mm2"),
            Budget::Mm3(v) => write!(f, "{v} mm3"),
        }
    }
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, make): (&str, fn(f64) -> Budget) =
            match (text.strip_suffix("mm2"), text.strip_suffix("mm3")) {
                (Some(number), _) => (number, Budget::Mm2),
                (None, Some(number)) => (number, Budget::Mm3),
                (None, None) => (text, Budget::Bits),
            };
        let value: Option<f64> = number.trim().parse().ok().filter(|v: &f64| v.is_finite() && *v > 0.0);
        value.map(make).ok_or_else(|| {
            format!("{text:?} is neither bits a weight (4.2) nor an area (50mm2) or a volume (2.5mm3)")
        })
    }
}

/// How weights are quantised.
#[derive(Debug, Clone, Default)]
pub struct Quantisation {
    /// Bits a code.
    pub bits: Option<u8>,
    /// Rows that share a scale; 0 for all rows of a tile.
    pub group: Option<u32>,
    /// What codes stand for.
    pub levels: Option<Levels>,
    /// Without calibration.
    pub rounding: Rounding,
    /// Inputs to calibrate for.
    pub calibration: Option<Calibration>,
    /// How inputs of matrices are rounded.
    pub activations: ActivationChoice,
    /// Bits are spent on matrices where they lower the loss most; a volume on what raises the signal-to-noise ratio.
    pub budget: Option<Budget>,
    /// Signal-to-noise ratio of the worst tile's weights that is reached with the least volume, dB.
    pub snr_target_db: Option<f64>,
    /// A plan file to follow.
    pub plan: Option<PathBuf>,
    /// Tensors that are left as they are.
    pub keep: Vec<String>,
}

/// Made-up samples where there are no others.
const SYNTHETIC: usize = 48;
/// Samples of a file for each made-up one that is added to them.
const MIX: usize = 3;
/// Length of their open axes but the first.
const OPEN: usize = 64;

/// Samples without data: token ids are drawn evenly from the entries of the table that they look up,
/// integers that look up nothing (masks) are 1 and those of tables of up to [`KINDS`] entries 0, floats are
/// normal. Open axes are [`OPEN`] long, the first of them 1.
///
/// # Errors
/// What [`Samples::new`] reports.
pub fn synthetic(graph: &Graph<OpenType>) -> Result<Samples, Diagnostics> {
    Samples::new(graph, made_up(graph, SYNTHETIC)?)
}

/// The samples of a file, and for every [`MIX`] of them a made-up one: what is fitted to few samples of one
/// kind then holds for other kinds too.
///
/// # Errors
/// What [`Samples::read`] reports.
pub fn mixed(graph: &Graph<OpenType>, path: &Path) -> Result<Samples, Diagnostics> {
    let given = Samples::read(graph, path)?;
    let extra = made_up(graph, given.len().div_ceil(MIX))?;
    Samples::new(graph, given.iter().cloned().chain(extra).collect())
}

fn made_up(graph: &Graph<OpenType>, count: usize) -> Result<Vec<Inputs>, Diagnostics> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        // xorshift64*: S. Vigna, ACM TOMS 42 (2016).
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    };
    let mut runs = Vec::new();
    for _ in 0..count {
        let mut run = Inputs::new();
        for value in graph.inputs() {
            let Some(v) = graph.value(*value) else { continue };
            let dims = v.ty.shape.clone().unwrap_or_default();
            let length = |(i, d): (usize, &Option<Dim>)| match d.as_ref().and_then(Dim::value) {
                Some(n) => usize::try_from(n).unwrap_or(1),
                None if i == 0 && dims.len() > 1 => 1,
                None => OPEN,
            };
            let shape: Vec<usize> = dims.iter().enumerate().map(length).collect();
            let count = shape.iter().product::<usize>();
            let entries = graph
                .users(*value)
                .into_iter()
                .find_map(|n| entries_looked_up(graph, graph.node(n)?, *value));
            let tensor = if v.ty.elem.is_float() {
                let uniform = |bits: u64| (bits >> 40) as f32 / (1u32 << 24) as f32;
                // The sum of 12 even numbers has variance 1.
                let values: Vec<f32> =
                    (0..count).map(|_| (0..12).map(|_| uniform(next())).sum::<f32>() - 6.0).collect();
                Tensor::new(shape, values)
            } else {
                let id = |n: usize, bits: u64| (bits >> 16) as i64 % n.max(1) as i64;
                let values: Vec<i64> = (0..count)
                    .map(|_| match entries {
                        None => 1,
                        Some(n) if n <= KINDS => 0,
                        Some(n) => id(n, next()),
                    })
                    .collect();
                Tensor::new(shape, values)
            };
            let unfit = |m: String| Diagnostics::from(Diagnostic::error(&E0405, m));
            let cast =
                pfmc_ir::eval::eval(&Op::Cast { to: v.ty.elem }, &[tensor.map_err(unfit)?]).map_err(unfit)?;
            run.extend(cast.into_iter().next().map(|t| (v.name.clone(), t)));
        }
        runs.push(run);
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use pfmc_ir::elem::Elem;
    use pfmc_ir::origin::Origin;
    use pfmc_ir::tile::MatrixId;

    use super::*;

    #[test]
    fn made_up_ids_span_the_tables_they_look_up_whether_these_are_fixed_or_not() {
        let ty = |elem, shape: &[Option<i64>]| OpenType {
            elem,
            shape: Some(shape.iter().map(|d| d.map(Dim::known)).collect()),
        };
        let mut g: Graph<OpenType> = Graph::new();
        let ids =
            ["fixed", "kept", "kind", "mask"].map(|name| g.add_input(name, ty(Elem::I64, &[None, None])));
        let table = g.add_input("table", ty(Elem::F32, &[Some(500), Some(3)]));
        let out = || vec![(String::new(), ty(Elem::F32, &[None, None, Some(3)]))];
        let fixed = |n| Op::FixedLookup { matrix: MatrixId(0), k: 3, n };
        g.add(fixed(700), vec![ids[0]], out(), Origin::default());
        g.add(Op::Gather { axis: 0 }, vec![table, ids[1]], out(), Origin::default());
        g.add(fixed(2), vec![ids[2]], out(), Origin::default());
        let runs = made_up(&g, 40).unwrap();
        let span = |name: &str| {
            let all: Vec<i64> =
                runs.iter().flat_map(|r| r[name].as_slice::<i64>().unwrap().to_vec()).collect();
            (all.iter().copied().min().unwrap(), all.iter().copied().max().unwrap())
        };
        // 2560 draws miss the first or last hundredth with probability below 1e-11.
        let spans = |name: &str, n: i64| {
            let (least, most) = span(name);
            assert!(least < n / 100 && (n - n / 100..n).contains(&most), "{name}: {least} {most}");
        };
        spans("fixed", 700);
        spans("kept", 500);
        assert_eq!((span("kind"), span("mask")), ((0, 0), (1, 1)));
        assert_eq!(runs[0]["fixed"].shape(), [1, OPEN]);
        assert!(runs[0]["table"].as_slice::<f32>().unwrap().iter().any(|v| *v < 0.0));
    }
}
