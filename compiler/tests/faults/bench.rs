//! A compiled folder in which files are exchanged, and what verification says then.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use onnx_protobuf::{
    GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TypeProto, ValueInfoProto,
};
use pfmc::compile::Options;
use pfmc::manifest::{FileRecord, Manifest};
use pfmc::verify::{Report, verify};
use pfmc_ir::backend::{NoProgress, Wishes};
use pfmc_ir::diag::Diagnostics;
use tempfile::TempDir;

use crate::common::{Random, build, codes, files};

/// Contents of files by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Faults of one kind of folder.
pub struct Section {
    pub title: String,
    pub about: String,
    /// Fault, and the codes of what was reported.
    pub rows: Vec<[String; 2]>,
    /// Faults that were accepted or found by others than they should.
    pub wrong: Vec<String>,
}

impl Section {
    pub fn new(title: &str, about: &str) -> Section {
        Section { title: title.to_owned(), about: about.to_owned(), rows: Vec::new(), wrong: Vec::new() }
    }

    /// Notes what a fault came to; `expect` has the codes of all that should be reported, one space between.
    pub fn judge<T>(&mut self, fault: &str, expect: &str, result: Result<T, Diagnostics>) {
        match result {
            Err(e) if codes(&e).join(" ") == expect => {
                self.rows.push([fault.to_owned(), expect.replace(' ', ", ")]);
            }
            Err(e) => {
                let first = e.0.first().map_or(String::new(), ToString::to_string);
                self.wrong.push(format!(
                    "{}: {fault}: {}, not {expect}: {first}",
                    self.title,
                    codes(&e).join(" ")
                ));
            }
            Ok(_) => self.wrong.push(format!("{}: {fault}: accepted", self.title)),
        }
    }
}

/// A compiled folder and its model.
pub struct Bench {
    dir: TempDir,
    /// The files of the folder as they were written.
    pub files: Files,
}

/// Rows of the first matrix, its columns, and columns of the second: the first is cut into two tiles.
pub const SIZES: [usize; 3] = [24, 80, 10];

/// x [n, 24] by w1 [24, 80], a bias, Relu, by w2 [80, 10], a bias.
pub fn model(seed: u64) -> ModelProto {
    let mut random = Random(seed);
    let mut initializer = Vec::new();
    let mut weights = |name: &str, dims: &[usize]| {
        let n: usize = dims.iter().product();
        let raw: Vec<u8> = (0..n).flat_map(|_| (random.normal() * 0.25).to_le_bytes()).collect();
        initializer.push(TensorProto {
            name: name.to_owned(),
            dims: dims.iter().map(|d| *d as i64).collect(),
            data_type: 1,
            raw_data: raw,
            ..TensorProto::default()
        });
    };
    let [a, b, c] = SIZES;
    weights("w1", &[a, b]);
    weights("b1", &[b]);
    weights("w2", &[b, c]);
    weights("b2", &[c]);
    let node = |op: &str, inputs: &[&str], output: &str| NodeProto {
        name: output.to_owned(),
        op_type: op.to_owned(),
        input: inputs.iter().map(|i| (*i).to_owned()).collect(),
        output: vec![output.to_owned()],
        ..NodeProto::default()
    };
    let mut graph = GraphProto { name: "faults".to_owned(), initializer, ..GraphProto::default() };
    graph.node = vec![
        node("MatMul", &["x", "w1"], "p1"),
        node("Add", &["p1", "b1"], "s1"),
        node("Relu", &["s1"], "r"),
        node("MatMul", &["r", "w2"], "p2"),
        node("Add", &["p2", "b2"], "y"),
    ];
    graph.input.push(value("x", a));
    graph.output.push(value("y", c));
    let mut model = ModelProto { ir_version: 8, ..ModelProto::default() };
    model.graph = Some(graph).into();
    model.opset_import.push(OperatorSetIdProto { version: 17, ..OperatorSetIdProto::default() });
    model
}

/// f32 [n, width].
fn value(name: &str, width: usize) -> ValueInfoProto {
    use onnx_protobuf::tensor_shape_proto::{Dimension, dimension::Value};
    use onnx_protobuf::type_proto;
    let dimension = |v: Value| Dimension { value: Some(v), ..Dimension::default() };
    let dims = vec![dimension(Value::DimParam("n".to_owned())), dimension(Value::DimValue(width as i64))];
    let mut tensor = type_proto::Tensor { elem_type: 1, ..type_proto::Tensor::default() };
    tensor.shape = Some(onnx_protobuf::TensorShapeProto { dim: dims, ..Default::default() }).into();
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: name.to_owned(), type_: Some(ty).into(), ..ValueInfoProto::default() }
}

/// The process of masks in glass.
const MASK: &str = "fused-silica-mask";

/// The model, compiled; the first matrix is cut in two along k.
pub fn compiled(dir: &Path, seed: u64, target: &str, process: &str) -> PathBuf {
    let path = dir.join("faults.onnx");
    fs::write(&path, model(seed).write_to_bytes().unwrap()).unwrap();
    let [a, b, c] = SIZES;
    let scheme = if target == "asic" { "codes4/16" } else { "real" };
    let block = |k: [usize; 2], n: usize| serde_json::json!({"k": k, "n": [0, n], "scheme": scheme});
    let plan = serde_json::json!({"format": 1, "matrices": [
        {"tensor": "w1", "k": a, "n": b, "activations": "int8/row", "blocks": [block([0, a / 2], b), block([a / 2, a], b)]},
        {"tensor": "w2", "k": b, "n": c, "activations": "int8/row", "blocks": [block([0, b], c)]},
    ]});
    let plan_path = dir.join("plan.json");
    fs::write(&plan_path, plan.to_string()).unwrap();
    let out = dir.join("out");
    // Masks have no designer to be set.
    let fast = target == "glass" && process != MASK;
    let mut options = Options {
        model: path,
        target: target.to_owned(),
        process: Some(process.to_owned()),
        wishes: Wishes { preset: fast.then(|| "fast".to_owned()), ..Wishes::default() },
        output: Some(out.clone()),
        ..Options::default()
    };
    options.quantisation.plan = Some(plan_path);
    build(&options).unwrap_or_else(|e| panic!("{e}"));
    out
}

/// The files of the same architecture with other weights, or of another process.
pub fn other(seed: u64, target: &str, process: &str) -> Files {
    let dir = tempfile::tempdir().unwrap();
    files(&compiled(dir.path(), seed, target, process))
}

impl Bench {
    fn new(target: &str, process: &str) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let out = compiled(dir.path(), 1, target, process);
        Bench { files: files(&out), dir }
    }

    /// The model in masks.
    pub fn asic(process: &str) -> Bench {
        Bench::new("asic", process)
    }

    /// The model in glass.
    pub fn glass() -> Bench {
        Bench::new("glass", "borosilicate-phase")
    }

    /// The model in glass, as masks of pixels.
    pub fn mask() -> Bench {
        Bench::new("glass", MASK)
    }

    pub fn folder(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    pub fn model(&self) -> PathBuf {
        self.dir.path().join("faults.onnx")
    }

    /// Puts every file back.
    fn restore(&self, names: impl Iterator<Item = String>) {
        for name in names.chain(["manifest.json".to_owned()]) {
            fs::write(self.folder().join(&name), &self.files[&name]).unwrap();
        }
    }

    /// What verification says of the folder with some files exchanged, or removed where there is no content, whose digests
    /// the manifest has right; with the model also against the model.
    pub fn sealed(
        &self,
        changed: &[(&str, Option<Vec<u8>>)],
        with_model: bool,
    ) -> Result<Report, Diagnostics> {
        self.with(changed, true, &|_| {}, with_model)
    }

    /// The same; `seal` says whether the manifest gets their digests, and `edit` changes it.
    pub fn with(
        &self,
        changed: &[(&str, Option<Vec<u8>>)],
        seal: bool,
        edit: &dyn Fn(&mut Manifest),
        with_model: bool,
    ) -> Result<Report, Diagnostics> {
        let folder = self.folder();
        let mut manifest = Manifest::read(&folder).unwrap();
        for (name, content) in changed {
            match content {
                Some(content) => fs::write(folder.join(name), content).unwrap(),
                None => fs::remove_file(folder.join(name)).unwrap(),
            }
            let listed = manifest.files.iter_mut().find(|f| f.name == *name);
            if let Some(listed) = listed.filter(|_| seal && content.is_some()) {
                *listed = FileRecord::of(&folder, name).unwrap();
            }
        }
        edit(&mut manifest);
        if changed.iter().all(|c| c.0 != "manifest.json") {
            manifest.write(&folder).unwrap();
        }
        let model = self.model();
        let result = verify(&folder, with_model.then_some(&*model), None, &NoProgress);
        self.restore(changed.iter().map(|c| c.0.to_owned()));
        result
    }

    /// Demands that the folder with some files exchanged is accepted.
    pub fn accepted(&self, changed: &[(&str, Vec<u8>)]) {
        let changed: Vec<_> = changed.iter().map(|(n, c)| (*n, Some(c.clone()))).collect();
        if let Err(e) = self.sealed(&changed, true) {
            panic!("{:?}: {e}", changed.iter().map(|c| c.0).collect::<Vec<_>>());
        }
    }
}
