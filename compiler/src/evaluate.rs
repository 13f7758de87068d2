//! Evaluation of byte-level language models: bits per byte of a source model and of what was
//! compiled from it, on the same text.

use std::collections::BTreeMap;
use std::path::Path;

use pfmc_ir::backend::Progress;
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::exec::{Executor, NoMatrices};
use pfmc_ir::graph::Graph;
use pfmc_ir::shape::OpenType;
use pfmc_ir::tensor::Tensor;

use crate::codes::E0901;
use crate::onnx;
use crate::run::Runnable;

/// Windows that run together.
const BATCH: usize = 8;

/// The mean of -log2 p(byte | the bytes before it in its window) over all bytes of all windows but
/// each window's first. `text` is cut into windows of `window` bytes; a shorter rest is left out.
///
/// # Errors
/// A text shorter than a window, and models that are not byte-level language models.
pub fn bits_per_byte(
    graph: &Graph<OpenType>,
    executor: &Executor<'_, OpenType>,
    text: &[u8],
    window: usize,
    progress: &dyn Progress,
) -> Result<f64, Diagnostics> {
    let unfit = |m: String| Diagnostics::from(Diagnostic::error(&E0901, m));
    let names: Vec<&str> =
        graph.inputs().iter().filter_map(|v| Some(graph.value(*v)?.name.as_str())).collect();
    let ([input], [(output, _)]) = (&names[..], graph.outputs()) else {
        return Err(unfit(format!(
            "the model has {} inputs and {} outputs",
            names.len(),
            graph.outputs().len()
        )));
    };
    if window < 2 || text.len() < window {
        return Err(unfit(format!("{} bytes of text in windows of {window}", text.len())));
    }
    let windows: Vec<&[u8]> = text.chunks_exact(window).collect();
    progress.begin("evaluating", windows.len() as u64);
    let steps = window - 1;
    let mut bits = 0f64;
    for batch in windows.chunks(BATCH) {
        let ids: Vec<i64> = batch.iter().flat_map(|w| w[..steps].iter().map(|&b| i64::from(b))).collect();
        let ids = Tensor::new(vec![batch.len(), steps], ids).map_err(unfit)?;
        let outputs = executor.run(&BTreeMap::from([((*input).to_owned(), ids)]))?;
        let logits = outputs.get(output).ok_or_else(|| unfit("no output".into()))?;
        if logits.shape() != [batch.len(), steps, 256] {
            return Err(unfit(format!("the output has shape {:?}", logits.shape())));
        }
        let rows = logits.as_slice::<f32>().map_err(unfit)?.chunks_exact(256);
        let targets = batch.iter().flat_map(|w| &w[1..]);
        for (row, &target) in rows.zip(targets) {
            let top = row.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
            let sum: f64 = row.iter().map(|&l| f64::from(l - top).exp()).sum();
            bits += (sum.ln() - f64::from(row[usize::from(target)] - top)) / std::f64::consts::LN_2;
        }
        progress.advance(batch.len() as u64);
    }
    Ok(bits / (windows.len() * steps) as f64)
}

/// As [`bits_per_byte`], for a model file or an output folder.
///
/// # Errors
/// As [`bits_per_byte`], and what opening reports.
pub fn evaluate(
    path: &Path,
    text: &[u8],
    window: usize,
    progress: &dyn Progress,
) -> Result<f64, Diagnostics> {
    if path.is_dir() {
        let runnable = Runnable::load(path, progress)?;
        bits_per_byte(runnable.graph(), &runnable.executor()?, text, window, progress)
    } else {
        let model = onnx::import(path)?;
        bits_per_byte(&model.graph, &Executor::new(&model.graph, &NoMatrices)?, text, window, progress)
    }
}
