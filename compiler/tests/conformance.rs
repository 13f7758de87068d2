//! The ONNX project's node cases in the interpreter. `fixtures/conformance.toml` lists the cases that
//! do not pass, each with its reason; the test fails when a listed case passes or another one fails.
//! Inputs and expected outputs are decoded by `onnx-protobuf`, not by pfmc.
//!
//! `PFMC_CASES=part` runs only cases whose name contains `part` and says what each failure was;
//! `PFMC_NODE_CASES` names another folder of cases.
#![allow(clippy::unwrap_used, clippy::panic)] // a test

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use common::Random;
use onnx_protobuf::{Message, ModelProto, TensorProto};
use pfmc::onnx;
use pfmc::passes::bind;
use pfmc::passes::canonicalise::Canonicalise;
use pfmc::passes::fold::Fold;
use pfmc::passes::{Stats, apply};
use pfmc_ir::elem::Elem;
use pfmc_ir::exec::{self, NoMatrices};
use pfmc_ir::shape::OpenType;
use pfmc_ir::tensor::{Data, Tensor};
use pfmc_ir::verify::Verify;
use rayon::prelude::*;

/// Tolerances of `onnx.backend.test`.
const RTOL: f64 = 1e-3;
const ATOL: f64 = 1e-7;

fn root() -> PathBuf {
    if let Some(path) = std::env::var_os("PFMC_NODE_CASES") {
        return path.into();
    }
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/referees/python/lib");
    let python = std::fs::read_dir(&venv).unwrap_or_else(|_| panic!(".ci/setup-referees was not run"));
    let python =
        python.filter_map(Result::ok).find(|e| e.file_name().to_string_lossy().starts_with("python3"));
    python.unwrap().path().join("site-packages/onnx/backend/test/data/node")
}

/// Little-endian bytes of one element of `size` bytes each.
fn bytes(t: &TensorProto, size: usize) -> Vec<u8> {
    if !t.raw_data.is_empty() {
        return t.raw_data.to_vec();
    }
    let ints = || t.int32_data.iter().flat_map(|v| v.to_le_bytes()[..size].to_vec()).collect::<Vec<u8>>();
    match t.data_type {
        1 => t.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        7 => t.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        11 => t.double_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        12 | 13 => t.uint64_data.iter().flat_map(|v| v.to_le_bytes()[..size].to_vec()).collect(),
        _ => ints(),
    }
}

/// The tensor a file holds; `None` for element types that the representation lacks.
fn tensor(t: &TensorProto) -> Option<Tensor> {
    let shape: Vec<usize> = t.dims.iter().map(|&d| d as usize).collect();
    // In the order of the numbers of `TensorProto.DataType`.
    let names = [
        "",
        "f32",
        "u8",
        "i8",
        "u16",
        "i16",
        "i32",
        "i64",
        "",
        "bool",
        "f16",
        "f64",
        "u32",
        "u64",
        "",
        "",
        "bf16",
        "f8e4m3fn",
        "f8e4m3fnuz",
        "f8e5m2",
        "f8e5m2fnuz",
        "u4",
        "i4",
        "f4e2m1",
        "f8e8m0",
        "u2",
        "i2",
    ];
    let elem: Elem = names.get(t.data_type as usize)?.parse().ok()?;
    Some(Tensor::from_le_bytes(elem, shape, &bytes(t, elem.bits().div_ceil(8))).unwrap())
}

/// Elements of a type that is compared within the tolerance.
fn numbers(t: &Tensor) -> Option<Vec<f64>> {
    Some(match t.data() {
        Data::F32(v) => v.iter().map(|&v| v.into()).collect(),
        Data::F64(v) => v.to_vec(),
        Data::F16(v) => v.iter().map(|&v| v.into()).collect(),
        Data::BF16(v) => v.iter().map(|&v| v.into()).collect(),
        _ => return None,
    })
}

/// Compares floats within the tolerance, which is wider by `noise` of the largest finite element.
fn compare(got: &Tensor, want: &Tensor, noise: f64) -> Result<(), String> {
    if (got.elem(), got.shape()) != (want.elem(), want.shape()) {
        return Err(format!(
            "{}{:?} where {}{:?} is expected",
            got.elem(),
            got.shape(),
            want.elem(),
            want.shape()
        ));
    }
    let (Some(a), Some(b)) = (numbers(got), numbers(want)) else {
        return if got == want { Ok(()) } else { Err("elements differ".into()) };
    };
    let largest = b.iter().filter(|v| v.is_finite()).fold(0.0, |m: f64, v| m.max(v.abs()));
    let atol = ATOL + noise * largest;
    for (i, (a, b)) in a.iter().zip(&b).enumerate() {
        let close = a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= atol + RTOL * b.abs();
        if !close {
            return Err(format!("element {i} is {a} where {b} is expected"));
        }
    }
    Ok(())
}

struct Case {
    single: bool,
    result: Result<(), String>,
}

fn read(path: &Path, name: &str) -> Result<Option<(String, Tensor)>, String> {
    let raw = std::fs::read(path).map_err(|e| e.to_string())?;
    if raw.is_empty() {
        return Ok(None);
    }
    let t = TensorProto::parse_from_bytes(&raw).map_err(|_| format!("{name} is no tensor"))?;
    let value = tensor(&t).ok_or_else(|| format!("{name} has element type {}", t.data_type))?;
    Ok(Some((name.to_owned(), value)))
}

/// Runs a case, with `noise` of the largest element added to the tolerance; with `recovered` after
/// blocks were recovered from their parts, which it counts.
fn case(folder: &Path, noise: f64, recovered: Option<&Mutex<Stats>>) -> Case {
    let model = ModelProto::parse_from_bytes(&std::fs::read(folder.join("model.onnx")).unwrap()).unwrap();
    let single = model.graph.node.len() == 1;
    let run = || -> Result<(), String> {
        let mut graph = onnx::import(&folder.join("model.onnx")).map_err(|d| d.to_string())?.graph;
        if let Some(counts) = recovered {
            apply(&Fold, &mut graph).map_err(|d| d.to_string())?;
            let stats = apply(&Canonicalise, &mut graph).map_err(|d| d.to_string())?.stats;
            for (name, n) in stats {
                *counts.lock().unwrap().entry(name).or_default() += n;
            }
        }
        for set in std::fs::read_dir(folder).unwrap().filter_map(Result::ok).filter(|e| e.path().is_dir()) {
            let mut inputs = BTreeMap::new();
            for (i, v) in model.graph.input.iter().enumerate() {
                inputs.extend(read(&set.path().join(format!("input_{i}.pb")), v.name.as_str())?);
            }
            let got = exec::run(&graph, &inputs, &NoMatrices).map_err(|d| d.to_string())?;
            graph.verify().map_err(|d| d.to_string())?;
            for (name, v) in graph.outputs() {
                let t = &got[name];
                let (declared, found) = (&graph.value(*v).unwrap().ty, OpenType::fixed(t.elem(), t.shape()));
                if !declared.admits(&found) {
                    return Err(format!("output {name:?} is inferred {declared} and is {found}"));
                }
            }
            for (i, v) in model.graph.output.iter().enumerate() {
                let want = read(&set.path().join(format!("output_{i}.pb")), v.name.as_str())?;
                let (_, want) = want.ok_or("an empty output")?;
                compare(&got[&v.name], &want, noise)
                    .map_err(|e| format!("output {:?}: {e}", v.name.as_str()))?;
            }
        }
        Ok(())
    };
    let result = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("panicked".into()));
    Case { single, result }
}

/// The cases that do not pass, by kind: `out-of-scope` or `fails`; each with a reason.
fn expectations() -> BTreeMap<String, (String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/conformance.toml");
    let table: BTreeMap<String, Vec<BTreeMap<String, toml::Value>>> =
        toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut out = BTreeMap::new();
    for (kind, groups) in table {
        for group in groups {
            let reason = group["reason"].as_str().unwrap().to_owned();
            for name in group["cases"].as_array().unwrap() {
                let twice = out.insert(name.as_str().unwrap().to_owned(), (kind.clone(), reason.clone()));
                assert!(twice.is_none(), "{name} is listed twice");
            }
        }
    }
    out
}

/// Case folders of a folder in order of name.
fn folders(root: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(root).unwrap().filter_map(Result::ok).map(|e| e.path()).collect();
    folders.sort();
    folders
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap().to_string_lossy().into_owned()
}

/// Every operator with damaged names, attributes, shapes and constants: importing, binding and inference
/// may refuse, but not panic, and what they accept verifies.
#[test]
fn damaged_node_cases_never_panic() {
    const CHANGES: usize = 24;
    let failed: Vec<String> = folders(&root())
        .par_iter()
        .enumerate()
        .flat_map_iter(|(at, folder)| {
            let whole = std::fs::read(folder.join("model.onnx")).unwrap();
            let name = name(folder);
            let mut random = Random(at as u64);
            let mut failed = Vec::new();
            for change in 0..CHANGES {
                let mut bytes = whole.clone();
                for _ in 0..=random.below(4) {
                    let at = random.below(bytes.len());
                    bytes[at] = match random.below(3) {
                        0 => bytes[at] ^ (1 << random.below(8)),
                        1 => bytes[at].wrapping_add(1),
                        _ => random.below(256) as u8,
                    };
                }
                let outcome = catch_unwind(AssertUnwindSafe(|| -> Result<(), String> {
                    let Ok(model) = onnx::import_bytes(bytes.into()) else { return Ok(()) };
                    model.graph.verify().map_err(|d| d.to_string())?;
                    let open = bind::open_dimensions(&model.graph);
                    let sizes = open.into_iter().map(|n| (n, 1 + random.below(9) as i64)).collect();
                    let _ = bind::bind(model.graph, &sizes);
                    Ok(())
                }));
                match outcome {
                    Ok(Ok(())) => {}
                    Ok(Err(e)) => failed.push(format!("{name}, change {change}: {e}")),
                    Err(_) => failed.push(format!("{name}, change {change}: panicked")),
                }
            }
            failed
        })
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn onnx_node_cases_pass_but_for_the_listed() {
    let part = std::env::var("PFMC_CASES").ok();
    let mut folders = folders(&root());
    if let Some(part) = &part {
        folders.retain(|p| name(p).contains(part.as_str()));
    }
    let cases: BTreeMap<String, Case> = folders.par_iter().map(|p| (name(p), case(p, 0.0, None))).collect();
    let expected = expectations();
    let listed = |n: &str, kind: &str| expected.get(n).is_some_and(|(k, _)| k == kind);
    for (what, single) in [("single-node", true), ("all", false)] {
        let of: Vec<(&String, &Case)> = cases.iter().filter(|(_, c)| c.single || !single).collect();
        let passed = of.iter().filter(|(_, c)| c.result.is_ok()).count();
        let inside = of.iter().filter(|(n, _)| !listed(n, "out-of-scope")).count();
        let share = |of: usize| 100.0 * passed as f64 / of.max(1) as f64;
        println!(
            "{what}: {passed} of {inside} cases in scope pass ({:.2} %), {:.2} % of all {}",
            share(inside),
            share(of.len()),
            of.len()
        );
    }
    let mut drift = BTreeSet::new();
    for (n, c) in &cases {
        match (&c.result, expected.get(n)) {
            (Err(e), None) => drift.insert(format!("{n} fails and is not listed: {}", e.trim())),
            (Ok(()), Some((kind, _))) => drift.insert(format!("{n} passes and is listed under {kind}")),
            _ => false,
        };
        if let (Some(_), Err(e)) = (&part, &c.result) {
            println!("{n}: {}", e.trim());
        }
    }
    for n in expected.keys().filter(|n| part.is_none() && !cases.contains_key(*n)) {
        drift.insert(format!("{n} is listed and there is no such case"));
    }
    let shown: Vec<&str> = drift.iter().map(String::as_str).collect();
    assert!(shown.is_empty(), "{} cases drifted:\n{}", shown.len(), shown.join("\n"));
}

/// The ONNX functions of whole blocks, written out: what is recovered from them must compute what the
/// cases expect.
#[test]
fn blocks_recovered_from_written_out_functions_keep_their_results() {
    let mut folders = folders(&root());
    folders.retain(|p| name(p).contains("_expanded"));
    let counts = Mutex::new(Stats::new());
    let broken: Vec<String> = folders
        .par_iter()
        .filter_map(|p| {
            let plain = case(p, 0.0, None).result;
            let error = case(p, 0.0, Some(&counts)).result.err()?;
            plain.is_ok().then(|| format!("{}: {error}", name(p)))
        })
        .collect();
    println!("recovered from {} cases: {:?}", folders.len(), counts.lock().unwrap());
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// What onnxruntime's sums in single precision leave where terms cancel, of the largest element.
const NOISE: f64 = 1e-5;

/// The cases that a script of `fixtures/referees/onnx` makes: what onnxruntime and onnx's reference
/// implementation compute.
fn generated_cases_pass(script: &str) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/referees/onnx");
    let python = std::env::var_os("PFMC_REFEREES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/referees"), PathBuf::from);
    let python = python.join("python/bin/python");
    let dir = tempfile::tempdir().unwrap();
    let done = Command::new(python).arg("-B").arg(fixtures.join(script)).arg(dir.path()).output().unwrap();
    assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
    let folders = folders(dir.path());
    let failed: Vec<String> = folders
        .par_iter()
        .filter_map(|f| case(f, NOISE, None).result.err().map(|e| format!("{}: {}", name(f), e.trim())))
        .collect();
    println!("{script}: {} of {} cases pass", folders.len() - failed.len(), folders.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(folders.len() > 100, "{script} made {} cases", folders.len());
}

#[test]
fn cases_of_onnxruntime_pass() {
    generated_cases_pass("ort_cases.py");
}

#[test]
fn property_cases_pass() {
    generated_cases_pass("property_cases.py");
}
