//! The ONNX importer: what it accepts, what it says of what it refuses, and that nothing in a file
//! can make it fail otherwise.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside of test functions

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use onnx_protobuf::{AttributeProto, GraphProto, Message, ModelProto, TensorProto};
use pfmc::onnx::{self, Model};
use pfmc::passes::bind;
use pfmc_ir::diag::{Diagnostics, Severity};
use pfmc_ir::op::Op;
use pfmc_ir::verify::Verify;

/// Largest request since it was last cleared, in bytes.
static LARGEST: AtomicUsize = AtomicUsize::new(0);
/// Bytes held.
static HELD: AtomicUsize = AtomicUsize::new(0);
/// Most bytes held since it was last cleared.
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// Held by the tests that measure or that allocate much.
static ALONE: Mutex<()> = Mutex::new(());

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Relaxed);
        PEAK.fetch_max(HELD.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/onnx").join(name)
}

fn small(name: &str) -> PathBuf {
    fixture(&format!("small/{name}.onnx"))
}

fn codes(d: &Diagnostics) -> Vec<&'static str> {
    d.0.iter().map(|d| d.code.id).collect()
}

const WHOLE: [&str; 8] = ["bert", "gemma3_text", "gpt2", "gpt_neox", "kjv_lm", "llama", "qwen3", "vit"];
const GOOD: [&str; 11] = [
    "activations",
    "const_weights",
    "conv",
    "forms",
    "function",
    "half_weights",
    "image",
    "opset11",
    "opset7",
    "passthrough",
    "typed_data",
];

#[test]
fn each_bad_model_gives_exactly_its_diagnostics() {
    let expected: &[(&str, &[&str])] = &[
        ("attribute_kind", &["E0105"]),
        ("attribute_value", &["E0105"]),
        ("computed_axes", &["E0106"]),
        ("contradiction", &["E0112"]),
        ("cycle", &["E0107"]),
        ("external_absolute", &["E0110"]),
        ("external_length", &["E0109"]),
        ("external_missing", &["E0111"]),
        ("external_parent", &["E0110"]),
        ("external_short", &["E0111"]),
        ("few_inputs", &["E0107"]),
        ("if", &["E0104", "E0104"]),
        ("mask_output", &["E0106"]),
        ("negative_dim", &["E0109"]),
        ("old_opset", &["E0103"]),
        ("op_too_new", &["E0104"]),
        ("overflow", &["E0109"]),
        ("sparse", &["E0114"]),
        ("terabyte", &["E0109"]),
        ("text_input", &["E0108"]),
        ("text_tensor", &["E0108"]),
        ("twice", &["E0107"]),
        ("two_unknown_ops", &["E0104", "E0104"]),
        ("undefined", &["E0107"]),
        ("unknown_attribute", &["E0105"]),
    ];
    for (name, want) in expected {
        match onnx::import(&small(name)) {
            Ok(_) => panic!("{name} was imported"),
            Err(d) => assert_eq!(codes(&d), *want, "{name}:\n{d}"),
        }
    }
}

#[test]
fn an_unsupported_operator_is_named_with_its_node_opset_and_attributes() {
    let d = onnx::import(&small("two_unknown_ops")).unwrap_err().to_string();
    for part in
        ["NonZero (opset 18)", "nonzero_a", "acme::Frob (opset 1)", "\"frob\"", "its attributes: level"]
    {
        assert!(d.contains(part), "{part} is not in\n{d}");
    }
}

#[test]
fn doubtful_models_are_imported_with_warnings() {
    for (name, want) in [("unsorted", "E0117"), ("wrong_declaration", "E0115")] {
        let m = onnx::import(&small(name)).unwrap();
        assert_eq!(codes(&m.warnings), [want], "{name}");
        assert!(m.warnings.0.iter().all(|d| d.severity == Severity::Warning));
    }
}

#[test]
fn weights_that_are_not_finite_are_found() {
    let _guard = alone();
    let found = onnx::check_finite(&onnx::import(&small("nan_weight")).unwrap().graph);
    assert!(found.has_errors());
    assert!(found.to_string().contains("tensor \"w\" has NaN at index [2, 1]"), "{found}");
    let mask = onnx::check_finite(&onnx::import(&small("infinite_mask")).unwrap().graph);
    assert_eq!(codes(&mask), ["E0113"]);
    assert!(!mask.has_errors());
    for name in WHOLE {
        assert!(
            onnx::check_finite(&onnx::import(&fixture(&format!("{name}.onnx"))).unwrap().graph).0.is_empty()
        );
    }
}

/// Values with a length that is not even known by symbols.
fn unknown_lengths(m: &Model) -> Vec<String> {
    let mut out = Vec::new();
    for (_, n) in m.graph.nodes() {
        for v in &n.outputs {
            let value = m.graph.value(*v).unwrap();
            if value.ty.shape.as_ref().is_none_or(|s| s.iter().any(Option::is_none)) {
                out.push(format!("{} {} of {}", value.name, value.ty, n.op.name()));
            }
        }
    }
    out
}

#[test]
fn whole_models_are_imported_with_all_types() {
    let _guard = alone();
    for name in WHOLE {
        let m = onnx::import(&fixture(&format!("{name}.onnx"))).unwrap_or_else(|d| panic!("{name}:\n{d}"));
        assert!(m.warnings.0.is_empty(), "{name}: {}", m.warnings);
        m.graph.verify().unwrap();
        assert!(
            m.graph.nodes().flat_map(|(_, n)| &n.outputs).all(|v| m
                .graph
                .value(*v)
                .unwrap()
                .ty
                .shape
                .is_some())
        );
        // The positions of these are cut from a table by a computed length.
        if !["bert", "kjv_lm"].contains(&name) {
            assert_eq!(unknown_lengths(&m), [""; 0], "{name}");
        }
        assert_eq!(m.opset, 18);
        for (_, n) in m.graph.nodes().filter(|(_, n)| !matches!(n.op, Op::Input {})) {
            assert!(!n.origin.is_unknown(), "{name}: {} has no origin", n.op.name());
        }
    }
    for name in GOOD {
        let m = onnx::import(&small(name)).unwrap_or_else(|d| panic!("{name}:\n{d}"));
        m.graph.verify().unwrap();
    }
}

#[test]
fn all_lengths_follow_from_those_of_the_inputs() {
    let _guard = alone();
    let sizes = BTreeMap::from([("batch".to_owned(), 2), ("seq".to_owned(), 7)]);
    for name in WHOLE {
        let mut m = onnx::import(&fixture(&format!("{name}.onnx"))).unwrap();
        for v in m.graph.inputs().to_vec() {
            let ty = &mut m.graph.value_mut(v).unwrap().ty;
            for d in ty.shape.as_mut().unwrap() {
                *d = d.as_ref().and_then(|d| d.bind(&sizes));
            }
        }
        pfmc_ir::infer::annotate(&mut m.graph).unwrap();
        for (_, n) in m.graph.nodes() {
            for v in n.outputs.iter().map(|v| m.graph.value(*v).unwrap()) {
                assert!(v.ty.bound().is_some(), "{name}: {} {} of {}", v.name, v.ty, n.op.name());
            }
        }
    }
}

#[test]
fn facts_of_a_model() {
    let _guard = alone();
    let m = onnx::import(&fixture("kjv_lm.onnx")).unwrap();
    assert_eq!(m.name, "kjv_lm");
    assert_eq!((m.op_counts["MatMul"], m.op_counts["Softmax"]), (37, 4));
    assert_eq!(m.files.len(), 1);
    let (name, logits) = &m.graph.outputs()[0];
    assert_eq!(
        (name.as_str(), m.graph.value(*logits).unwrap().ty.to_string().as_str()),
        ("logits", "f32[batch, seq, 256]")
    );
    assert!((1_600_000..1_700_000).contains(&m.parameters), "{}", m.parameters);
    assert_eq!(m.digest().len(), 64);
    assert_eq!(m.digest(), m.digest());
}

#[test]
fn an_input_or_weight_can_be_an_output() {
    let m = onnx::import(&small("passthrough")).unwrap();
    let names: Vec<&str> = m.graph.outputs().iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["x", "same", "w"]);
    assert_eq!(m.graph.outputs()[0].1, m.graph.outputs()[1].1);
}

#[test]
fn external_data_stay_in_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("model");
    std::fs::create_dir(&inside).unwrap();
    let model = inside.join("m.onnx");
    std::fs::copy(small("external_missing"), &model).unwrap();
    let data = inside.join("nowhere.data");
    let outside = dir.path().join("secret");
    std::fs::write(&outside, [0; 48]).unwrap();

    std::os::unix::fs::symlink(&outside, &data).unwrap();
    assert_eq!(codes(&onnx::import(&model).unwrap_err()), ["E0110"]);
    std::fs::remove_file(&data).unwrap();
    std::fs::create_dir(&data).unwrap();
    assert_eq!(codes(&onnx::import(&model).unwrap_err()), ["E0111"]);
    std::fs::remove_dir(&data).unwrap();

    std::fs::write(&data, [1; 48]).unwrap();
    let m = onnx::import(&model).unwrap();
    assert_eq!(m.files[1].name, "nowhere.data");
    let before = m.digest();
    drop(m);
    std::fs::write(&data, [2; 48]).unwrap();
    assert_ne!(before, onnx::import(&model).unwrap().digest(), "the digest covers external files");
}

#[test]
fn no_model_is_refused_with_a_diagnostic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    assert_eq!(codes(&onnx::import(&path).unwrap_err()), ["E0001"]);
    assert_eq!(codes(&onnx::import(dir.path()).unwrap_err()), ["E0001"]);
    for content in ["", "version https://git-lfs.github.com/spec/v1\n", "{\"a\": 1}"] {
        std::fs::write(&path, content).unwrap();
        assert_eq!(codes(&onnx::import(&path).unwrap_err()), ["E0102"], "{content:?}");
    }
}

#[test]
fn weights_of_a_large_file_are_not_copied() {
    let _guard = alone();
    let path = fixture("kjv_lm.onnx");
    let size = std::fs::metadata(&path).unwrap().len() as usize;
    PEAK.store(HELD.load(Relaxed), Relaxed);
    let before = HELD.load(Relaxed);
    let m = onnx::import(&path).unwrap();
    let used = PEAK.load(Relaxed) - before;
    assert!(m.parameters > 1_000_000);
    assert!(used < size / 2, "{used} bytes for a file of {size}");
}

/// What the second decoder says of a tensor's elements, as little-endian bytes.
fn raw(t: &TensorProto) -> Vec<u8> {
    if !t.raw_data.is_empty() {
        return t.raw_data.clone();
    }
    match t.data_type {
        1 => t.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        7 => t.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        11 => t.double_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        _ => t.int32_data.iter().map(|v| *v as u8).collect(),
    }
}

fn same_tensor(ours: &onnx::proto::TensorProto, theirs: &TensorProto, file: &str) {
    assert_eq!(ours.name, theirs.name.as_bytes(), "{file}");
    assert_eq!((&ours.dims, ours.data_type), (&theirs.dims, theirs.data_type), "{file}: {}", theirs.name);
    assert_eq!(ours.raw_data.as_deref().unwrap_or_default(), theirs.raw_data, "{file}: {}", theirs.name);
    assert_eq!(ours.float_data, theirs.float_data);
    assert_eq!(ours.int32_data, theirs.int32_data);
    assert_eq!(ours.int64_data, theirs.int64_data);
    assert_eq!(ours.double_data, theirs.double_data);
    assert_eq!(ours.external_data.len(), theirs.external_data.len());
    for (a, b) in ours.external_data.iter().zip(&theirs.external_data) {
        assert_eq!((&a.key[..], &a.value[..]), (b.key.as_bytes(), b.value.as_bytes()));
    }
}

fn same_attribute(ours: &onnx::proto::AttributeProto, theirs: &AttributeProto, file: &str) {
    assert_eq!(ours.name, theirs.name.as_bytes(), "{file}");
    assert_eq!(ours.r#type, theirs.type_.value(), "{file}: {}", theirs.name);
    assert_eq!((ours.f.unwrap_or(0.0), ours.i.unwrap_or(0)), (theirs.f, theirs.i));
    assert_eq!(ours.s.as_deref().unwrap_or_default(), theirs.s);
    assert_eq!((&ours.floats, &ours.ints), (&theirs.floats, &theirs.ints));
    match (&ours.t, theirs.t.as_ref()) {
        (Some(a), Some(b)) => same_tensor(a, b, file),
        (a, b) => assert_eq!(a.is_some(), b.is_some()),
    }
    match (&ours.g, theirs.g.as_ref()) {
        (Some(a), Some(b)) => same_graph(a, b, file),
        (a, b) => assert_eq!(a.is_some(), b.is_some()),
    }
}

fn same_graph(ours: &onnx::proto::GraphProto, theirs: &GraphProto, file: &str) {
    assert_eq!(ours.name, theirs.name.as_bytes());
    assert_eq!(ours.node.len(), theirs.node.len(), "{file}");
    for (a, b) in ours.node.iter().zip(&theirs.node) {
        assert_eq!((&a.name[..], &a.op_type[..]), (b.name.as_bytes(), b.op_type.as_bytes()), "{file}");
        assert_eq!(a.domain, b.domain.as_bytes());
        assert!(a.input.iter().eq(b.input.iter().map(String::as_bytes)), "{file}: {}", b.name);
        assert!(a.output.iter().eq(b.output.iter().map(String::as_bytes)), "{file}: {}", b.name);
        assert_eq!(a.attribute.len(), b.attribute.len(), "{file}: {}", b.name);
        for (a, b) in a.attribute.iter().zip(&b.attribute) {
            same_attribute(a, b, file);
        }
    }
    assert_eq!(ours.initializer.len(), theirs.initializer.len(), "{file}");
    for (a, b) in ours.initializer.iter().zip(&theirs.initializer) {
        same_tensor(a, b, file);
    }
    for (a, b) in
        [(&ours.input, &theirs.input), (&ours.output, &theirs.output), (&ours.value_info, &theirs.value_info)]
    {
        assert_eq!(a.len(), b.len(), "{file}");
        for (a, b) in a.iter().zip(b) {
            assert_eq!(a.name, b.name.as_bytes(), "{file}");
            let ours = a.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
            let theirs = b.type_.as_ref().filter(|t| t.has_tensor_type()).map(|t| t.tensor_type());
            assert_eq!(ours.map(|t| t.elem_type), theirs.map(|t| t.elem_type), "{file}: {}", b.name);
            assert_eq!(
                ours.and_then(|t| t.shape.as_ref()).map(|s| s.dim.len()),
                theirs.and_then(|t| t.shape.as_ref()).map(|s| s.dim.len()),
                "{file}: {}",
                b.name
            );
        }
    }
}

fn all_models() -> Vec<PathBuf> {
    let mut out: Vec<PathBuf> = ["", "small"]
        .iter()
        .flat_map(|d| std::fs::read_dir(fixture(d)).unwrap().map(|e| e.unwrap().path()))
        .filter(|p| p.extension().is_some_and(|e| e == "onnx"))
        .collect();
    out.sort();
    assert!(out.len() > 40);
    out
}

#[test]
fn a_second_decoder_reads_the_same() {
    let _guard = alone();
    for path in all_models() {
        let bytes = std::fs::read(&path).unwrap();
        let file = path.display().to_string();
        let theirs = ModelProto::parse_from_bytes(&bytes).unwrap();
        let ours = onnx::decode(&Bytes::from(bytes)).unwrap();
        assert_eq!(ours.functions.len(), theirs.functions.len());
        let sets = ours.opset_import.iter().map(|o| (o.domain.to_vec(), o.version));
        assert!(
            sets.eq(theirs.opset_import.iter().map(|o| (o.domain.clone().into_bytes(), o.version))),
            "{file}"
        );
        same_graph(ours.graph.as_ref().unwrap(), &theirs.graph, &file);
    }
}

#[test]
fn imported_constants_have_the_second_decoders_bytes() {
    let _guard = alone();
    for name in WHOLE {
        let path = fixture(&format!("{name}.onnx"));
        let theirs = ModelProto::parse_from_bytes(&std::fs::read(&path).unwrap()).unwrap();
        let by_name: BTreeMap<&str, &TensorProto> =
            theirs.graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
        let m = onnx::import(&path).unwrap();
        let mut compared = 0;
        for (_, c) in m.graph.consts.iter() {
            let Some(t) = c.origin.tensor.as_deref().and_then(|t| by_name.get(t)) else { continue };
            assert!(t.dims.iter().map(|d| *d as usize).eq(c.shape.iter().copied()), "{name}: {}", t.name);
            assert_eq!(c.bytes().unwrap(), &raw(t), "{name}: {}", t.name);
            compared += 1;
        }
        assert!(compared > 20, "{name}: {compared}");
    }
}

/// A small generator of pseudo-random numbers (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

#[test]
fn damaged_files_neither_panic_nor_allocate_much() {
    let _guard = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    let mut random = Random(20);
    for source in [
        "bert.onnx",
        "gpt2.onnx",
        "vit.onnx",
        "small/forms.onnx",
        "small/conv.onnx",
        "small/opset11.onnx",
        "small/if.onnx",
    ] {
        let whole = std::fs::read(fixture(source)).unwrap();
        // Names, shapes and attributes lie at the ends of the file; the middle is weights.
        let edge = whole.len().min(24_000);
        for i in 0..60 {
            let mut bytes = whole.clone();
            if i % 4 == 0 {
                bytes.truncate(random.below(whole.len()));
            } else {
                for _ in 0..=random.below(6) {
                    let at = random.below(edge);
                    let at = if random.below(2) == 0 { at } else { whole.len() - 1 - at };
                    bytes[at] = if random.below(2) == 0 {
                        bytes[at] ^ (1 << random.below(8))
                    } else {
                        random.below(256) as u8
                    };
                }
            }
            std::fs::write(&path, &bytes).unwrap();
            LARGEST.store(0, Relaxed);
            let result = onnx::import(&path);
            let largest = LARGEST.load(Relaxed);
            assert!(
                largest < (4 << 20) + 8 * bytes.len(),
                "{source}, change {i}: one request of {largest} bytes"
            );
            if let Ok(m) = result {
                m.graph.verify().unwrap_or_else(|d| panic!("{source}, change {i}: {d}"));
                let sizes: BTreeMap<String, i64> = bind::open_dimensions(&m.graph)
                    .into_iter()
                    .map(|name| (name, 1 + random.below(9) as i64))
                    .collect();
                LARGEST.store(0, Relaxed);
                // A contradiction is found or it is not; what counts is that nothing else happens.
                let _ = bind::bind(m.graph, &sizes);
                let largest = LARGEST.load(Relaxed);
                assert!(largest < (64 << 20), "{source}, change {i}: binding asks for {largest} bytes");
            }
        }
    }
}

/// A length-delimited protobuf field.
fn field(tag: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![(tag << 3) | 2];
    let mut n = payload.len();
    while n >= 128 {
        out.push(n as u8 | 128);
        n >>= 7;
    }
    out.push(n as u8);
    out.extend_from_slice(payload);
    out
}

/// A model of opset 18 with one i64 input x of shape [n, m], the nodes, and the output v60.
fn chain(nodes: impl Iterator<Item = (&'static str, Vec<String>, String, bool)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (op, inputs, output, axis) in nodes {
        let mut n: Vec<u8> = inputs.iter().flat_map(|i| field(1, i.as_bytes())).collect();
        n.extend(field(2, output.as_bytes()));
        n.extend(field(4, op.as_bytes()));
        if axis {
            // axis = 0, an integer (kind 2).
            n.extend(field(5, &[field(1, b"axis"), vec![24, 0, 0xa0, 1, 2]].concat()));
        }
        bytes.extend(field(1, &n));
    }
    let shape = [field(1, &field(2, b"n")), field(1, &field(2, b"m"))].concat();
    let tensor = [vec![8, 7], field(2, &shape)].concat();
    let info = |name: &str, ty: &[u8]| [field(1, name.as_bytes()), field(2, &field(1, ty))].concat();
    bytes.extend(field(11, &info("x", &tensor)));
    bytes.extend(field(12, &info("v60", &[8, 7])));
    [vec![8, 8], field(7, &bytes), field(8, &[16, 18])].concat()
}

#[test]
fn a_small_file_cannot_make_shapes_explode() {
    let _guard = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    // Each node doubles something: the degree of a length, the number of followed elements, the rank.
    let cases = [
        ("Mul", "Shape", false, None),
        ("Concat", "Shape", true, None),
        ("Gather", "Identity", false, Some("E0112")),
    ];
    for (op, first, axis, code) in cases {
        let start = std::iter::once((first, vec!["x".to_owned()], "v0".to_owned(), false));
        let rest = (0..60).map(|i| (op, vec![format!("v{i}"); 2], format!("v{}", i + 1), axis));
        std::fs::write(&path, chain(start.chain(rest))).unwrap();
        LARGEST.store(0, Relaxed);
        match (onnx::import(&path), code) {
            (Ok(m), None) => m.graph.verify().unwrap(),
            (Err(d), Some(code)) => assert_eq!(codes(&d), [code]),
            (Ok(_), Some(_)) => panic!("{op} was imported"),
            (Err(d), None) => panic!("{op}:\n{d}"),
        }
        assert!(LARGEST.load(Relaxed) < 4 << 20, "{op}");
    }
}

#[test]
fn the_tables_of_operators_are_complete() {
    let mut names: Vec<(&str, &str)> = onnx::supported().map(|o| (o.domain, o.name)).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|w| w[0] != w[1]), "the tables have no name twice");
    let table = onnx::support_table();
    for (_, name) in names {
        assert!(table.contains(name));
    }
}
