//! Two stages of a model, value by value, on one input: a model file, program text, or an output folder each. Values
//! belong together that have the same name, which passes keep, and outputs of the same name.

use std::fmt;

use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::exec::Executor;
use pfmc_ir::tensor::Tensor;
use serde::Serialize;

use crate::check::{difference, doubles, matched, watching};
use crate::codes::E0904;
use crate::evaluate::Source;
use crate::samples::Inputs;

/// What differs in one value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Name in both.
    pub name: String,
    /// Operation that makes it in the second.
    pub operation: String,
    /// Source nodes.
    pub nodes: Vec<String>,
    /// Shape in the first.
    pub shape: Vec<usize>,
    /// Whether all bits are the same.
    pub same: bool,
    /// Largest difference; `None` where shapes or types differ, or one is finite and the other is not.
    pub max_abs: Option<f64>,
    /// Root of the squared differences over the first's squares.
    pub relative: Option<f64>,
    /// Cosine.
    pub cosine: Option<f64>,
}

/// All values that both have, in the order in which the second computes them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Table {
    /// The first, as given.
    pub a: String,
    /// The second.
    pub b: String,
    /// Values.
    pub rows: Vec<Row>,
    /// The first row whose relative error is above the tolerance, or that cannot be compared.
    pub first_divergence: Option<usize>,
    /// The tolerance.
    pub tolerance: f64,
}

/// Largest difference, relative error and cosine.
fn errors(a: &Tensor, b: &Tensor) -> Option<(f64, f64, f64)> {
    if a.shape() != b.shape() {
        return None;
    }
    let (x, y) = (doubles(a)?, doubles(b)?);
    let (mut most, mut error, mut xx, mut yy, mut xy) = (0f64, 0f64, 0f64, 0f64, 0f64);
    for (x, y) in x.iter().zip(&y) {
        if x.is_nan() && y.is_nan() || x == y && x.is_infinite() {
            continue;
        }
        let d = (x - y).abs();
        if !d.is_finite() {
            return None;
        }
        most = most.max(d);
        error += d * d;
        xx += x * x;
        yy += y * y;
        xy += x * y;
    }
    let relative = if error == 0.0 { 0.0 } else { (error / xx).sqrt() };
    let norm = (xx * yy).sqrt();
    let cosine = if norm > 0.0 { xy / norm } else { f64::from(u8::from(error == 0.0)) };
    Some((most, relative, cosine))
}

/// Runs both on the inputs and compares what they have in common.
///
/// # Errors
/// E0904 where they have no value in common; what running reports.
pub fn compare(
    (a, first): (&str, &Source),
    (b, second): (&str, &Source),
    inputs: &Inputs,
    tolerance: f64,
) -> Result<Table, Diagnostics> {
    let pairs = matched(first.graph(), second.graph());
    if pairs.is_empty() {
        let d = Diagnostic::error(&E0904, format!("{a} and {b} have no value of the same name"));
        return Err(d.help("compare stages of the same model").into());
    }
    let was = watching(first.graph(), pairs.iter().map(|p| p.1));
    let is = watching(second.graph(), pairs.iter().map(|p| p.2));
    let run = |graph, source: &Source| Executor::new(graph, source.fixed())?.run(inputs);
    let (want, got) = (run(&was, first)?, run(&is, second)?);
    let mut rows = Vec::new();
    for (i, (name, _, v)) in pairs.iter().enumerate() {
        let (Some(w), Some(g)) = (want.get(&i.to_string()), got.get(&i.to_string())) else { continue };
        let node = second.graph().producer(*v);
        let found = errors(w, g);
        rows.push(Row {
            name: name.clone(),
            operation: node.map(|n| n.op.name().to_owned()).unwrap_or_default(),
            nodes: node.map(|n| n.origin.nodes.clone()).unwrap_or_default(),
            shape: w.shape().to_vec(),
            same: difference(w, g).is_none(),
            max_abs: found.map(|e| e.0),
            relative: found.map(|e| e.1),
            cosine: found.map(|e| e.2),
        });
    }
    let diverges = |r: &Row| !r.same && r.relative.is_none_or(|e| e > tolerance);
    let first_divergence = rows.iter().position(diverges);
    Ok(Table { a: a.to_owned(), b: b.to_owned(), rows, first_divergence, tolerance })
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let same = self.rows.iter().filter(|r| r.same).count();
        writeln!(
            f,
            "{} against {}: {} values of the same name, {same} with the same bits",
            self.b,
            self.a,
            self.rows.len()
        )?;
        write!(f, "{:>10} {:>10} {:>10}  value", "max abs", "relative", "cosine")?;
        for (i, r) in self.rows.iter().enumerate() {
            let number = |e: Option<f64>| e.map_or_else(|| "-".into(), |e| format!("{e:.3e}"));
            let cosine = r.cosine.map_or_else(|| "-".into(), |c| format!("{c:.7}"));
            let mark = if self.first_divergence == Some(i) { "  <- first divergence" } else { "" };
            let (abs, relative) = if r.same {
                ("0".to_owned(), "0".to_owned())
            } else {
                (number(r.max_abs), number(r.relative))
            };
            write!(
                f,
                "\n{abs:>10} {relative:>10} {cosine:>10}  {} = {} {:?}{mark}",
                r.name, r.operation, r.shape
            )?;
        }
        Ok(())
    }
}
