//! Targets of readers that need no output folder.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use pfmc::estimate::arch::Arch;
use pfmc::estimate::{Request, Subject, estimate};
use pfmc::onnx;
use pfmc::onnx::proto::{ModelProto, StringStringEntryProto};
use pfmc::passes::bind;
use pfmc::quantise::options::Quantisation;
use pfmc::samples::Samples;
use pfmc_ir::backend::{Backend, NoProgress, ProcessText, Target, Wishes};
use pfmc_ir::diag::Diagnostics;
use pfmc_ir::exec::{Executor, NoMatrices};
use pfmc_ir::graph::Graph;
use pfmc_ir::program::TileProgram;
use pfmc_ir::shape::OpenType;
use pfmc_ir::tensor::Tensor;
use pfmc_ir::text;
use pfmc_ir::tile::{TileId, TileSource as _};
use pfmc_ir::verify::{Verified, Verify};
use prost::Message as _;

use crate::folders::Folder;
use crate::{Check, fixture, outcome};

/// ONNX's number of 32-bit floating-point elements.
const FLOAT: i32 = 1;

/// Models of the folder of small ones that are no larger than this, bytes.
const SMALL: u64 = 4096;

fn small_models() -> Vec<Vec<u8>> {
    let folder = fixture("onnx/small");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|f| Some(f.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "onnx"))
        .filter(|p| std::fs::metadata(p).is_ok_and(|m| m.len() <= SMALL))
        .collect();
    files.sort();
    files.iter().filter_map(|p| std::fs::read(p).ok()).collect()
}

/// Small models that are imported, behind eight bytes that choose sizes.
pub fn models() -> Vec<Vec<u8>> {
    let good = small_models().into_iter().filter(|m| onnx::import_bytes(m.clone().into()).is_ok());
    good.map(|m| [vec![2; 8], m].concat()).collect()
}

fn accepted(what: &str) -> String {
    format!("accepted {what}")
}

/// Binds what was imported to sizes, and prints it.
fn imported(model: Result<onnx::Model, Diagnostics>, sizes: &[u8]) -> String {
    let model = match model {
        Ok(model) => model,
        Err(e) => return outcome(&e),
    };
    let verified = model.graph.verify();
    assert!(verified.is_ok(), "an imported model does not verify: {verified:?}");
    let sizes = bind::open_dimensions(&model.graph)
        .into_iter()
        .zip(sizes.iter().cycle())
        .map(|(name, &size)| (name, i64::from(size % 16) + 1))
        .collect();
    let warned = outcome(&model.warnings);
    let finite = outcome(&onnx::check_finite(&model.graph));
    match bind::bind(model.graph, &sizes) {
        Ok((bound, _)) => {
            let graph = bound.into_open();
            let verified = graph.verify();
            assert!(verified.is_ok(), "a bound model does not verify: {verified:?}");
            let ops: std::collections::BTreeSet<&str> = graph.nodes().map(|(_, n)| n.op.name()).collect();
            assert!(text::print_graph(&graph).len() >= graph.node_count());
            accepted(&format!("{warned} {finite} {ops:?}"))
        }
        Err(e) => outcome(&e),
    }
}

/// Imports, binds, prints.
pub fn onnx() -> Check {
    Box::new(|data| {
        let Some((sizes, model)) = data.split_at_checked(8) else { return String::new() };
        imported(onnx::import_bytes(Bytes::copy_from_slice(model)), sizes)
    })
}

/// The data that lie beside a model, finite numbers, and those that lie outside of its folder.
fn data_beside() -> [Vec<u8>; 2] {
    [1.0, -7.0].map(|from: f32| (0..1024u16).flat_map(|i| (from + f32::from(i)).to_le_bytes()).collect())
}

/// Small models with their floating-point weights in the data beside them, at a place that is aligned and at one that is
/// not; of the first of them also with each other place for the data.
pub fn external_seeds() -> Vec<Vec<u8>> {
    let there = ["w.data", "below/w.data", "./w.data", "model.onnx"];
    let nowhere = ["away", "below", "../w.data", "/w.data", "below/../w.data"];
    let mut all = Vec::new();
    for seed in models() {
        let Some(model) = seed.get(8..).and_then(|m| ModelProto::decode(m).ok()) else { continue };
        let others = if all.is_empty() { &nowhere[..] } else { &[] };
        for (i, location) in there.iter().chain(others).enumerate() {
            let mut model = model.clone();
            let tensors = model.graph.iter_mut().flat_map(|g| &mut g.initializer);
            let mut moved = 0;
            for (t, number) in tensors.zip(0..) {
                let Some(raw) = t.raw_data.take_if(|_| t.data_type == FLOAT) else { continue };
                let entries = [
                    ("location", (*location).to_owned()),
                    ("offset", (number * 4 + i % 2).to_string()),
                    ("length", raw.len().to_string()),
                ];
                t.external_data = entries
                    .map(|(key, value)| StringStringEntryProto { key: key.into(), value: value.into() })
                    .into();
                t.data_location = 1;
                moved += 1;
            }
            if moved > 0 {
                all.push([&seed[..8], &model.encode_to_vec()].concat());
            }
        }
    }
    all
}

/// Imports a model of a folder with data in it, in a folder below and behind a link that leaves it.
pub fn external() -> Check {
    let dir = tempfile::tempdir();
    let [inside, outside] = data_beside();
    let made = dir.as_ref().is_ok_and(|dir| {
        let folder = dir.path().join("model");
        let files = [
            (folder.join("w.data"), &inside),
            (folder.join("below/w.data"), &inside),
            (dir.path().join("w.data"), &outside),
        ];
        std::fs::create_dir_all(folder.join("below")).is_ok()
            && files.iter().all(|(path, bytes)| std::fs::write(path, bytes).is_ok())
            && std::os::unix::fs::symlink("../w.data", folder.join("away")).is_ok()
    });
    Box::new(move |data| {
        let (Some((sizes, bytes)), Ok(dir), true) = (data.split_at_checked(8), &dir, made) else {
            return String::new();
        };
        let path = dir.path().join("model/model.onnx");
        if std::fs::write(&path, bytes).is_err() {
            return String::new();
        }
        let model = onnx::import(&path);
        let own = |f: &onnx::ModelFile| f.bytes == inside || f.bytes == bytes;
        assert!(
            model.as_ref().map_or(true, |m| m.files.iter().all(own)),
            "data outside of the model's folder were read"
        );
        imported(model, sizes)
    })
}

/// Small models and one with every kind of statement, as text.
pub fn programs() -> Vec<Vec<u8>> {
    let Ok(dir) = tempfile::tempdir() else { return Vec::new() };
    let path = dir.path().join("x.pfir");
    let mut all: Vec<String> = small_models()
        .into_iter()
        .filter_map(|m| onnx::import_bytes(m.into()).ok())
        .filter_map(|m| {
            pfmc::pfir::write(&path, &TileProgram { graph: m.graph, ..TileProgram::default() }).ok()?;
            std::fs::read_to_string(&path).ok()
        })
        .filter(|t| text::parse_program(t).is_ok())
        .collect();
    all.extend(Folder::new("asic", Some("sg13g2")).text("program.pfir"));
    all.into_iter().map(String::into_bytes).collect()
}

/// Most bytes of data that are put beside a program.
const DATA_MAX: u64 = 1 << 16;

/// Reads, with as many bytes beside it as the text lists, verifies, prints and reads again.
pub fn pfir() -> Check {
    let dir = tempfile::tempdir();
    Box::new(move |data| {
        let (Ok(source), Ok(dir)) = (std::str::from_utf8(data), &dir) else { return String::new() };
        let program = match text::parse_program(source) {
            Ok(p) => p,
            Err(e) => return outcome(&e),
        };
        let printed = text::print_program(&program);
        let again = text::parse_program(&printed);
        assert!(again.is_ok(), "what was printed is not read: {again:?}\n{printed}");
        let again = again.map(|p| text::print_program(&p)).unwrap_or_default();
        assert_eq!(again, printed, "printed, read and printed again it is another program");
        let verified = match Verified::new(program) {
            Ok(p) => p,
            Err(e) => return outcome(&e),
        };
        let ops: std::collections::BTreeSet<&str> =
            verified.graph.nodes().map(|(_, n)| n.op.name()).collect();
        // Making an executor decodes nothing that the text does not hold.
        let made = Executor::new(&verified.graph, &NoMatrices).map(|_| ());
        let length = verified.data_len();
        let mut filled = None;
        if length > 0 && length <= DATA_MAX {
            let path = dir.path().join("x.pfir");
            let beside = vec![1; length as usize];
            if std::fs::write(&path, source).is_err()
                || std::fs::write(pfmc::pfir::data_path(&path), beside).is_err()
            {
                return String::new();
            }
            filled = Some(match pfmc::pfir::read(&path).and_then(Verified::new) {
                Ok(p) => Executor::new(&p.graph, &NoMatrices).is_ok().to_string(),
                Err(e) => outcome(&e),
            });
        }
        accepted(&format!("{ops:?} {} {filled:?}", made.is_ok()))
    })
}

fn npy(descr: &str, fortran: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n");
    let length = (header.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), data].concat()
}

/// Arrays of several types and orders as members, and whole files of them.
pub fn arrays() -> Vec<Vec<u8>> {
    let ramp: Vec<u8> = (0..96).collect();
    let mut all = vec![
        npy("<f4", "False", "(2, 3)", &ramp[..24]),
        npy("<f8", "True", "(2, 3)", &ramp[..48]),
        npy("<i8", "False", "(12,)", &ramp),
        npy("|b1", "False", "()", &[1]),
        npy("|V2", "False", "(0, 7)", &[]),
        npy("<c8", "False", "(3, 2)", &ramp[..48]),
    ];
    let Ok(dir) = tempfile::tempdir() else { return all };
    let path = dir.path().join("x.npz");
    let arrays = BTreeMap::from([
        ("a".to_owned(), Tensor::scalar(1.5f32)),
        ("b".to_owned(), Tensor::vector(vec![1i64, -2, 3])),
    ]);
    if pfmc::npz::write(&path, &arrays).is_ok() {
        all.extend(std::fs::read(&path));
    }
    all
}

/// A zip archive of one member that is stored, by hand, so that its checksum is right whatever the member holds.
fn zip(name: &str, member: &[u8]) -> Vec<u8> {
    let sum = crc32fast::hash(member).to_le_bytes();
    let size = (member.len() as u32).to_le_bytes();
    let length = (name.len() as u16).to_le_bytes();
    // Version, flags, method, time, date.
    let common = [&[20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0][..], &sum, &size, &size, &length, &[0, 0]].concat();
    let local = [b"PK\x03\x04", &common[..], name.as_bytes(), member].concat();
    let central = [b"PK\x01\x02\x14\x00", &common[..], &[0; 10], &[0; 4], name.as_bytes()].concat();
    let sizes = [(central.len() as u32).to_le_bytes(), (local.len() as u32).to_le_bytes()].concat();
    let end = [b"PK\x05\x06\0\0\0\0\x01\0\x01\0", &sizes[..], &[0, 0]].concat();
    [local, central, end].concat()
}

/// Reads; what is read is written and read again.
pub fn npz() -> Check {
    let dir = tempfile::tempdir();
    Box::new(move |data| {
        let Ok(dir) = &dir else { return String::new() };
        let path = dir.path().join("x.npz");
        let file = if data.starts_with(b"PK") { data.to_vec() } else { zip("x.npy", data) };
        if std::fs::write(&path, file).is_err() {
            return String::new();
        }
        let complex = pfmc::npz::read_complex(&path);
        let arrays = match (pfmc::npz::read(&path), complex) {
            (Ok(arrays), Ok(complex)) => {
                assert_eq!(arrays.len(), complex.len());
                arrays
            }
            (Err(_), Ok(_)) => return accepted("complex"),
            (_, Err(e)) => return outcome(&e),
        };
        let kinds: Vec<String> = arrays.values().map(|t| format!("{} {}", t.elem(), t.rank())).collect();
        let again = pfmc::npz::write(&path, &arrays).and_then(|()| pfmc::npz::read(&path));
        assert!(again.is_ok(), "arrays that were read cannot be written: {again:?}");
        let bits = |t: &Tensor| (t.shape().to_vec(), t.elem(), t.to_le_bytes());
        let same = again.is_ok_and(|again| {
            again.len() == arrays.len()
                && again.iter().zip(&arrays).all(|(a, b)| a.0 == b.0 && bits(a.1) == bits(b.1))
        });
        assert!(same, "arrays that were read, written and read again are others");
        accepted(&format!("{kinds:?}"))
    })
}

fn cell() -> Option<Graph<OpenType>> {
    let model = std::fs::read(fixture("onnx/small/cell.onnx")).ok()?;
    Some(onnx::import_bytes(model.into()).ok()?.graph)
}

/// Lines for the inputs of a small recurrent cell.
pub fn lines() -> Vec<Vec<u8>> {
    let line = "{\"x\": [[0.5, -1.5e0, 2]], \"h\": [[0.25, 1]]}\n";
    vec![line.as_bytes().to_vec(), line.repeat(3).into_bytes()]
}

/// Reads samples and runs them.
pub fn samples() -> Check {
    let dir = tempfile::tempdir();
    let graph = cell();
    Box::new(move |data| {
        let (Ok(dir), Some(graph)) = (&dir, &graph) else { return String::new() };
        let path = dir.path().join("x.jsonl");
        if std::fs::write(&path, data).is_err() {
            return String::new();
        }
        let samples = match Samples::read(graph, &path) {
            Ok(s) => s,
            Err(e) => return outcome(&e),
        };
        let mut ran = 0;
        for sample in samples.iter() {
            let inputs = sample.iter().map(|(name, t)| (name.clone(), t.clone())).collect();
            ran += usize::from(Executor::new(graph, &NoMatrices).and_then(|e| e.run(&inputs)).is_ok());
        }
        accepted(&format!("{}", ran.min(3)))
    })
}

fn processes(backend: &dyn Backend) -> Vec<Vec<u8>> {
    backend.processes().into_iter().map(|p| p.toml.into_bytes()).collect()
}

/// The built-in processes.
pub fn asic_processes() -> Vec<Vec<u8>> {
    processes(&pfmc_asic::Asic)
}

/// Layouts that are larger are planned alone, bytes.
const LAYOUT_MAX: f64 = 4e6;

/// Tiles of more voxels are planned alone.
const VOXELS_MAX: f64 = 3e4;

/// Plans a small program with a process, estimates with it, emits where that is not too large, and reads back.
fn built(folder: &Folder, target: &dyn Target, process: &str) -> String {
    let Some((program, reference)) = folder.program() else { return String::new() };
    let plan = match target.plan(program) {
        Ok(p) => p,
        Err(e) => return outcome(&e),
    };
    let figures = plan.figures();
    let odd: Vec<_> = figures.iter().filter(|f| f.value.is_nan()).collect();
    assert!(odd.is_empty(), "figures that are no numbers: {odd:?}");
    let estimate = estimated(folder, process);
    let above = |name, most| figures.iter().any(|f| f.name.starts_with(name) && f.value > most);
    // Tiles that are propagated while they are designed take seconds.
    let propagated = |line: &str| line.trim().starts_with("propagation_rounds") && !line.contains("= 0");
    if above("layout.gds at most", LAYOUT_MAX)
        || above("tile voxels", VOXELS_MAX)
        || process.lines().any(propagated)
    {
        return accepted(&format!("large, {estimate}"));
    }
    let out = folder.path().join("emitted");
    // Plans emit into empty folders.
    let _ = std::fs::remove_dir_all(&out);
    if std::fs::create_dir_all(&out).is_err() {
        return String::new();
    }
    match plan.emit(reference, &out, &NoProgress) {
        Err(e) => outcome(&e),
        Ok(_) => {
            let read = checked(target, program, reference, &out);
            assert!(read.is_ok(), "what was emitted is not read back: {read:?}");
            accepted(&format!("emitted, {estimate}"))
        }
    }
}

/// Estimates a model of a thousand million parameters with one process of eight: that takes longer than all else.
fn estimated(folder: &Folder, process: &str) -> String {
    if !crc32fast::hash(process.as_bytes()).is_multiple_of(8) {
        return "not estimated".to_owned();
    }
    let path = folder.path().join("estimated.toml");
    if std::fs::write(&path, process).is_err() {
        return String::new();
    }
    let request = Request {
        subject: Subject::Parameters(1e9, Arch::Llama),
        target: folder.target().to_owned(),
        process: Some(path.display().to_string()),
        wishes: Wishes::default(),
        bind: Vec::new(),
        quantisation: Quantisation::default(),
        context: 1024.0,
        closed_form: false,
        assumed: BTreeMap::new(),
    };
    match estimate(&request, &NoProgress) {
        Err(e) => outcome(&e),
        Ok(made) => {
            let odd: Vec<_> = made.quantities.iter().filter(|q| q.range.nominal.is_nan()).collect();
            assert!(odd.is_empty(), "quantities that are no numbers: {odd:?}");
            "estimated".to_owned()
        }
    }
}

/// Opens a process and builds a small program with it.
pub fn asic_process() -> Check {
    let folder = Folder::new("asic", Some("sg13g2"));
    Box::new(move |data| opened(&folder, &pfmc_asic::Asic, data))
}

fn opened(folder: &Folder, backend: &dyn Backend, data: &[u8]) -> String {
    let Ok(toml) = std::str::from_utf8(data) else { return String::new() };
    match backend.open(&ProcessText { name: "p".to_owned(), toml: toml.to_owned() }) {
        Ok(target) => built(folder, &*target, toml),
        Err(e) => outcome(&e),
    }
}

/// Reads a folder's artefact back and checks every tile.
pub fn checked(
    target: &dyn Target,
    program: &Verified<TileProgram>,
    reference: &pfmc::contents::Reference,
    folder: &Path,
) -> Result<(), Diagnostics> {
    let read = target.read_back(program, folder, &NoProgress)?;
    let held = pfmc::partition::held(program, target.caps().data_tile_bytes.is_some());
    let mut problems = Diagnostics::new();
    for id in held {
        if let Err(e) = read.check(id, &reference.tile(id)?) {
            problems.extend(e);
        }
    }
    problems.check()
}

/// The built-in processes.
pub fn glass_processes() -> Vec<Vec<u8>> {
    processes(&pfmc_glass::Glass)
}

/// Opens a process and builds a small program with it.
pub fn glass_process() -> Check {
    let folder = Folder::new("glass", None);
    Box::new(move |data| opened(&folder, &pfmc_glass::Glass, data))
}

/// A file with every table.
pub fn calibrations() -> Vec<Vec<u8>> {
    let text = "[calibration.levels]\n\
        dn = [0.0, 2.6e-5, 5.2e-5, 7.8e-5, 1.04e-4, 1.3e-4, 1.56e-4, 1.82e-4, 9.1e-5]\n\
        energy_nj = [0.0, 21.0, 24.0, 26.5, 29.0, 31.0, 33.0, 35.0, 27.5]\n\
        [calibration.depth]\ndepth_um = [0.0, 500.0, 1000.0]\nenergy = [1.0, 1.05, 1.1]\ngain = [1.0, 1.0, 0.99]\n\
        [calibration.voxel]\nform_factor = \"gaussian\"\nfwhm_um = [0.5, 0.6, 6.0]\n\
        [calibration.line]\nblur = [0.05]\nhistory = [0.1, 0.02]\n\
        [calibration.focus]\ndepth_ratio = 1.55\n";
    vec![text.into()]
}

/// Opens the built-in process with a calibration and builds a small program with it.
pub fn calibration() -> Check {
    let folder = Folder::new("glass", None);
    Box::new(move |data| {
        let Ok(text) = std::str::from_utf8(data) else { return String::new() };
        let backend = &pfmc_glass::Glass;
        let Some(process) = backend.processes().into_iter().next() else { return String::new() };
        let wishes = Wishes { preset: None, calibration: Some(text.to_owned()), ..Wishes::default() };
        match backend.adapt(process, &wishes) {
            Err(e) => format!("not adapted {}", crate::shape("", &e)),
            Ok(process) => opened(&folder, backend, process.toml.as_bytes()),
        }
    })
}

/// The tiles of a program that a target holds, by number.
pub fn held(program: &TileProgram, data: bool) -> Vec<TileId> {
    pfmc::partition::held(program, data).collect()
}
