//! What the integration tests share.
#![allow(dead_code)] // each test binary uses its own part

pub mod estimates;
pub mod referee;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use onnx_protobuf::{Message, ModelProto};
use pfmc::compile::{Compiled, Options, compile};
use pfmc_ir::backend::NoProgress;
use pfmc_ir::diag::Diagnostics;
#[allow(unused_imports)] // as above
pub use pfmc_ir::random::Random;
use pfmc_ir::tensor::Tensor;

/// A file of fixtures/onnx.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/onnx").join(name)
}

/// A file of docs/.
pub fn docs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)
}

/// Demands that a generated file of docs/ is what the code gives; with `PFMC_BLESS` set, makes it so.
pub fn documented(name: &str, want: &str) {
    let path = docs(name);
    if std::env::var_os("PFMC_BLESS").is_some() {
        std::fs::write(&path, want).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == want, "docs/{name} is out of date: run the test with PFMC_BLESS=1");
}

/// Contents of the files of a folder by name.
pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect()
}

/// Makes a folder of files.
pub fn put(folder: &Path, files: &BTreeMap<String, Vec<u8>>) {
    std::fs::create_dir(folder).unwrap();
    files.iter().for_each(|(name, bytes)| std::fs::write(folder.join(name), bytes).unwrap());
}

/// A copy of a model whose weights differ a little.
pub fn retrained(model: &str, folder: &Path) -> PathBuf {
    let mut m = ModelProto::parse_from_bytes(&std::fs::read(fixture(model)).unwrap()).unwrap();
    for tensor in &mut m.graph.as_mut().unwrap().initializer {
        if tensor.data_type == 1 && tensor.dims.len() == 2 {
            for (i, v) in tensor.raw_data.chunks_exact_mut(4).enumerate() {
                let value = f32::from_le_bytes(v.try_into().unwrap());
                let changed = value * (1.0 + 0.2 * ((i * 7919 % 101) as f32 / 50.0 - 1.0));
                v.copy_from_slice(&changed.to_le_bytes());
            }
        }
    }
    let path = folder.join("retrained.onnx");
    std::fs::write(&path, m.write_to_bytes().unwrap()).unwrap();
    path
}

/// Runs the command in a folder.
pub fn pfmc(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pfmc")).args(args).current_dir(dir).output().unwrap()
}

/// All that a command wrote.
pub fn text(o: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr))
}

/// Runs the command in a folder, expects the exit code and every word, and no panic.
pub fn expect(dir: &Path, args: &[&str], code: i32, words: &[&str]) -> String {
    let o = pfmc(dir, args);
    let t = text(&o);
    assert_eq!(o.status.code(), Some(code), "{args:?}: {t}");
    assert!(!t.contains("panicked"), "{args:?}: {t}");
    for w in words {
        assert!(t.contains(w), "{args:?} lacks {w:?}: {t}");
    }
    t
}

/// Every registered target.
pub fn targets() -> Vec<&'static str> {
    pfmc::targets::BACKENDS.iter().map(|b| b.name()).collect()
}

/// Options for a fixture.
pub fn options(model: &str, target: &str, output: &Path) -> Options {
    Options {
        model: fixture(model),
        target: target.into(),
        output: Some(output.to_owned()),
        ..Options::default()
    }
}

/// Compiles without progress.
pub fn build(options: &Options) -> Result<Compiled, Diagnostics> {
    compile(options, &NoProgress, &|_, _| {})
}

/// Token ids (below 200) and a mask whose last row ends in zeros; `mask` says whether the model
/// takes one.
pub fn tokens(batch: usize, seq: usize, mask: bool) -> BTreeMap<String, Tensor> {
    let ids: Vec<i64> = (0..batch * seq).map(|i| (i as i64 * 37 + 11) % 199).collect();
    let mut out = BTreeMap::from([("input_ids".to_owned(), Tensor::new(vec![batch, seq], ids).unwrap())]);
    if mask {
        let ones: Vec<i64> = (0..batch * seq).map(|i| i64::from(i + 2 < batch * seq)).collect();
        out.insert("attention_mask".to_owned(), Tensor::new(vec![batch, seq], ones).unwrap());
    }
    out
}

/// Cosine similarity.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Codes of diagnostics, sorted, without repetition.
pub fn codes(d: &Diagnostics) -> Vec<&'static str> {
    let mut codes: Vec<_> = d.0.iter().map(|d| d.code.id).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}
