//! onnxruntime as a referee. Needs `.ci/setup-referees` to have run.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside of test functions

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::process::Command;

use pfmc::npz;
use pfmc_ir::tensor::{Data, Tensor};

/// Named tensors.
pub type Tensors = BTreeMap<String, Tensor>;

/// The folder of the whole project.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Something `.ci/setup-referees` put there.
pub fn tool(name: &str) -> PathBuf {
    let tools =
        std::env::var_os("PFMC_REFEREES").map_or_else(|| root().join("target/referees"), PathBuf::from);
    let tool = tools.join(name);
    assert!(tool.exists(), "{} is missing: run .ci/setup-referees", tool.display());
    tool
}

/// The Python with onnxruntime.
pub fn python() -> PathBuf {
    tool("python/bin/python")
}

/// What a script of `fixtures/referees` prints.
pub fn script<S: AsRef<OsStr> + Debug>(name: &str, args: &[S]) -> String {
    script_of(&python(), name, args)
}

/// As [`script`], by another Python.
pub fn script_of<S: AsRef<OsStr> + Debug>(python: &Path, name: &str, args: &[S]) -> String {
    let script = root().join("fixtures/referees").join(name);
    let done = Command::new(python).arg(script).args(args).output().unwrap();
    assert!(done.status.success(), "{name} {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// Outputs of a model in onnxruntime.
pub fn onnxruntime(model: &Path, inputs: &Tensors) -> Tensors {
    onnxruntime_all(&[(model, inputs)]).remove(0)
}

/// Outputs of many models, of one process.
pub fn onnxruntime_all(jobs: &[(&Path, &Tensors)]) -> Vec<Tensors> {
    let dir = tempfile::tempdir().unwrap();
    let file = |what: &str, at: usize| dir.path().join(format!("{what}{at}.npz"));
    let mut args = Vec::new();
    for (at, (model, inputs)) in jobs.iter().enumerate() {
        npz::write(&file("in", at), inputs).unwrap();
        args.extend([model.to_path_buf(), file("in", at), file("out", at)]);
    }
    script("onnx/run_ort.py", &args);
    (0..jobs.len()).map(|at| npz::read(&file("out", at)).unwrap()).collect()
}

/// `count` tokens after the prompt `input_ids`, greedily in onnxruntime.
pub fn greedy(model: &Path, count: usize, inputs: &Tensors) -> Tensor {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("in.npz"), dir.path().join("out.npz"));
    npz::write(&source, inputs).unwrap();
    script("onnx/greedy.py", &[model, Path::new(&count.to_string()), &source, &target]);
    npz::read(&target).unwrap().remove("tokens").unwrap()
}

/// The largest difference of outputs, in terms of the largest finite element of its output. Names,
/// shapes, types, and all elements that are no f32 must be equal.
pub fn difference(file: &str, ours: &Tensors, theirs: &Tensors) -> f64 {
    assert!(ours.keys().eq(theirs.keys()), "{file}: {:?}, {:?}", ours.keys(), theirs.keys());
    let mut worst = 0f64;
    for (name, a) in ours {
        let b = &theirs[name];
        assert_eq!((a.shape(), a.elem()), (b.shape(), b.elem()), "{file}: {name}");
        let (Data::F32(x), Data::F32(y)) = (a.data(), b.data()) else {
            assert_eq!(a, b, "{file}: {name}");
            continue;
        };
        let largest = y.iter().filter(|v| v.is_finite()).fold(1e-6f32, |m, v| m.max(v.abs()));
        for (i, (p, q)) in x.iter().zip(y.iter()).enumerate() {
            if p == q || (p.is_nan() && q.is_nan()) {
                continue;
            }
            assert!(p.is_finite() && q.is_finite(), "{file}: {name}[{i}] is {p}, onnxruntime has {q}");
            worst = worst.max(f64::from((p - q).abs() / largest));
        }
    }
    worst
}

/// Compares outputs: 1e-4 of the largest finite element for floats, equality for all others.
pub fn compare(file: &str, ours: &Tensors, theirs: &Tensors) {
    let found = difference(file, ours, theirs);
    assert!(found <= 1e-4, "{file} differs by {found:.1e} of its largest output");
}
