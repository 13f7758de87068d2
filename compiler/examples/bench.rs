//! Times what `.ci/bench-run` compares with onnxruntime. One JSON object a line.
//!
//!     bench open MODEL REPEAT          import (weights not read)
//!     bench run MODEL SEQ REPEAT       one run of a text model, batch 1
//!     bench decode MODEL TOKENS        greedy decoding, the whole sequence read again each step
//!     bench image MODEL H W REPEAT     one run of a vision model, batch 1, 3 channels
//!     bench matmul M K N REPEAT        one product of f32

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use pfmc::onnx;
use pfmc::passes::{apply, fold};
use pfmc_ir::diag::Diagnostics;
use pfmc_ir::elem::Elem;
use pfmc_ir::exec::{Executor, NoMatrices};
use pfmc_ir::graph::Graph;
use pfmc_ir::op::Op;
use pfmc_ir::tensor::Tensor;

type Failure = Box<dyn std::error::Error>;

fn shown(d: Diagnostics) -> Failure {
    d.0.iter().map(|d| d.message.clone()).collect::<Vec<_>>().join("; ").into()
}

/// A field of /proc/self/status in MB (10^6 bytes); 0 where there is none.
fn memory(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with(field)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0) * 1024.0 / 1e6
}

/// Milliseconds of each call.
fn times(repeat: usize, mut f: impl FnMut() -> Result<(), Failure>) -> Result<String, Failure> {
    let mut all = Vec::new();
    for _ in 0..repeat.max(1) {
        let start = Instant::now();
        f()?;
        all.push(start.elapsed().as_secs_f64() * 1e3);
    }
    all.sort_by(f64::total_cmp);
    Ok(format!(
        "\"median_ms\": {:.3}, \"least_ms\": {:.3}, \"anonymous_mb\": {:.2}, \"peak_mb\": {:.1}",
        all[all.len() / 2],
        all[0],
        memory("RssAnon:"),
        memory("VmHWM:")
    ))
}

fn text_inputs(graph: &Graph, ids: &[i64]) -> BTreeMap<String, Tensor> {
    let names = graph.inputs().iter().filter_map(|v| graph.value(*v)).map(|v| v.name.clone());
    let values = |name: &str| match name {
        "input_ids" => ids.to_vec(),
        "attention_mask" => vec![1; ids.len()],
        _ => vec![0; ids.len()],
    };
    names
        .filter_map(|n| {
            let t = Tensor::new(vec![1, ids.len()], values(&n)).ok()?;
            Some((n, t))
        })
        .collect()
}

fn graph(path: &str) -> Result<Graph, Failure> {
    let mut graph = onnx::import(Path::new(path)).map_err(shown)?.graph;
    apply(&fold::Fold, &mut graph).map_err(shown)?;
    Ok(graph)
}

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |s: &str| s.parse::<usize>();
    match args[..] {
        ["open", path, repeat] => {
            let before = memory("RssAnon:");
            let line = times(number(repeat)?, || onnx::import(Path::new(path)).map(drop).map_err(shown))?;
            println!("{{{line}, \"anonymous_before_mb\": {before:.2}}}");
        }
        ["run", path, seq, repeat] => {
            let graph = graph(path)?;
            let executor = Executor::new(&graph, &NoMatrices).map_err(shown)?;
            let ids: Vec<i64> = (0..number(seq)? as i64).map(|i| 1000 + i * 37 % 20000).collect();
            let inputs = text_inputs(&graph, &ids);
            let mut first = Vec::new();
            for _ in 0..3 {
                let out = executor.run(&inputs).map_err(shown)?;
                first = out
                    .values()
                    .next()
                    .and_then(|t| t.as_slice::<f32>().ok()?.get(..4).map(<[f32]>::to_vec))
                    .unwrap_or_default();
            }
            let line = times(number(repeat)?, || executor.run(&inputs).map(drop).map_err(shown))?;
            println!("{{{line}, \"first\": {first:?}}}");
        }
        ["image", path, h, w, repeat] => {
            let graph = graph(path)?;
            let executor = Executor::new(&graph, &NoMatrices).map_err(shown)?;
            let (h, w) = (number(h)?, number(w)?);
            let pixels = (0..3 * h * w).map(|i| (i * 7919 % 255) as f32 / 255.0 - 0.5).collect();
            let name = graph.inputs().first().and_then(|v| graph.value(*v)).map(|v| v.name.clone());
            let inputs = [(name.unwrap_or_default(), Tensor::new(vec![1, 3, h, w], pixels)?)].into();
            let out = executor.run(&inputs).map_err(shown)?;
            let first =
                out.values().next().and_then(|t| t.as_slice::<f32>().ok()?.get(..4).map(<[f32]>::to_vec));
            let line = times(number(repeat)?, || executor.run(&inputs).map(drop).map_err(shown))?;
            println!("{{{line}, \"first\": {:?}}}", first.unwrap_or_default());
        }
        ["decode", path, tokens] => {
            let graph = graph(path)?;
            let executor = Executor::new(&graph, &NoMatrices).map_err(shown)?;
            let mut ids = vec![504i64, 2008, 282, 4649, 314];
            executor.run(&text_inputs(&graph, &ids)).map_err(shown)?;
            let line = times(1, || {
                for _ in 0..number(tokens)? {
                    let out = executor.run(&text_inputs(&graph, &ids)).map_err(shown)?;
                    let logits = out.get("logits").or(out.values().next()).ok_or("no output")?;
                    let width = logits.shape().last().copied().unwrap_or(1);
                    let last = logits.as_slice::<f32>()?.chunks(width).last().unwrap_or_default();
                    let best = (0..last.len()).max_by(|a, b| last[*a].total_cmp(&last[*b]).then(b.cmp(a)));
                    ids.push(best.unwrap_or(0) as i64);
                }
                Ok(())
            })?;
            println!("{{{line}, \"ids\": {ids:?}}}");
        }
        ["matmul", m, k, n, repeat] => {
            let (m, k, n) = (number(m)?, number(k)?, number(n)?);
            let values = |len: usize| (0..len).map(|i| (i * 7919 % 1013) as f32 / 506.0 - 1.0).collect();
            let x = [Tensor::new(vec![m, k], values(m * k))?, Tensor::new(vec![k, n], values(k * n))?];
            pfmc_ir::eval::eval(&Op::MatMul {}, &x)?;
            let line = times(number(repeat)?, || {
                pfmc_ir::eval::eval(&Op::MatMul {}, &x)?;
                Ok(())
            })?;
            println!("{{{line}, \"elem\": \"{}\"}}", Elem::F32);
        }
        _ => return Err("see the head of compiler/examples/bench.rs".into()),
    }
    Ok(())
}
