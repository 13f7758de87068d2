//! The compute around the ROMs of whole models: Icarus Verilog simulates matrix tiles on the bits that
//! are decoded from a compiled layout, with the activations that a run of the program gives them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use pfmc::contents::Reference;
use pfmc::verify::{Opened, open};
use pfmc_asic::process::Process;
use pfmc_asic::readback::RomReadBack;
use pfmc_asic::rtl::TileRtl;
use pfmc_ir::backend::NoProgress;
use pfmc_ir::diag::Diagnostics;
use pfmc_ir::exec::{Executor, FixedMatrices};
use pfmc_ir::loaded::LoadedMatrices;
use pfmc_ir::numerics;
use pfmc_ir::tensor::Tensor;
use pfmc_ir::tile::{MatrixId, TileContent, TileId, TileKind, TileSource};

use crate::common::{build, options};
use simulate::{Bench, sources};

#[path = "../../../backends/asic/tests/referees/simulate.rs"]
mod simulate;

/// The interpreter's matrices, which keep their inputs.
struct Seen<'a> {
    inner: &'a LoadedMatrices,
    /// In the order of their first use.
    inputs: Mutex<Vec<(MatrixId, Vec<f32>)>>,
}

impl FixedMatrices for Seen<'_> {
    fn linear(&self, matrix: MatrixId, x: &[f32]) -> Result<Vec<f32>, Diagnostics> {
        let mut inputs = self.inputs.lock().unwrap();
        if inputs.iter().all(|(m, _)| *m != matrix) {
            inputs.push((matrix, x.to_vec()));
        }
        drop(inputs);
        self.inner.linear(matrix, x)
    }
    fn grouped(&self, matrix: MatrixId, groups: usize, x: &[f32]) -> Result<Vec<f32>, Diagnostics> {
        self.inner.grouped(matrix, groups, x)
    }
    fn lookup(&self, matrix: MatrixId, indices: &[i64]) -> Result<Vec<f32>, Diagnostics> {
        self.inner.lookup(matrix, indices)
    }
    fn data(&self, offset: u64, len: u64) -> Result<Vec<u8>, Diagnostics> {
        self.inner.data(offset, len)
    }
}

/// A compiled model and the inputs of its matrices in one run.
struct Run {
    opened: Opened,
    process: Process,
    /// Matrices of products in the order of their first use.
    seen: Vec<(MatrixId, Vec<f32>)>,
    dir: tempfile::TempDir,
}

impl Run {
    fn new(model: &Path, inputs: &BTreeMap<String, Tensor>) -> Run {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options("kjv_lm.onnx", "asic", &dir.path().join("out"));
        options.model = model.to_owned();
        build(&options).unwrap_or_else(|d| panic!("{d}"));
        let folder = dir.path().join("out");
        let opened = open(&folder).unwrap();
        let process = Process::open(&opened.process).unwrap();
        let seen = {
            let read_back = RomReadBack::open(&process, &opened.program, &folder, &NoProgress).unwrap();
            let reference = Reference::open(&opened.program, &folder).unwrap();
            let data: &dyn TileSource =
                if opened.target.caps().data_tile_bytes.is_some() { &read_back } else { &reference };
            let matrices = LoadedMatrices::load(&opened.program, &read_back, data).unwrap();
            let seen = Seen { inner: &matrices, inputs: Mutex::default() };
            Executor::new(&opened.program.graph, &seen).unwrap().run(inputs).unwrap();
            seen.inputs.into_inner().unwrap()
        };
        Run { opened, process, seen, dir }
    }

    /// Simulates a tile on the int8 inputs of the last `rows` tokens of the run and compares every sum with the
    /// interpreter's. Inputs of rows of the matrix from `limit` on are 0.
    fn check(&self, id: TileId, rows: usize, limit: u32) -> (TileRtl, usize) {
        let program = &self.opened.program;
        let TileKind::Matrix { matrix, k, .. } = &program.tiles[id.index()].kind else { panic!() };
        let of = &program.matrices[matrix.index()];
        let whole = of.k as usize;
        let mut x = Vec::new();
        let floats = &self.seen.iter().find(|(m, _)| m == matrix).unwrap().1;
        for row in floats[floats.len() - rows * whole..].chunks_exact(whole) {
            let mut q = vec![0; whole];
            numerics::quantize_activations(of.activations, row, &mut q);
            q.iter_mut().skip(limit as usize).for_each(|q| *q = 0);
            x.extend(&q[k.start as usize..k.end as usize]);
        }
        let folder = self.dir.path().join("out");
        let rtl = TileRtl::new(&self.process, program, id, 16, false).unwrap();
        let read_back = RomReadBack::open(&self.process, program, &folder, &NoProgress).unwrap();
        let TileContent::Codes(block) = read_back.tile(id).unwrap() else { panic!() };
        let hex = rtl.hex(&read_back.bits(id).unwrap());
        let bench = Bench { rtl: &rtl, groups: block.groups(), hex, x: &x, columns: &[], stall: 0 };
        let sim = self.dir.path().join(format!("sim{id}"));
        std::fs::create_dir_all(&sim).unwrap();
        let got = bench.run(&sim, &sources(&rtl, &sim), &[]);
        let mut want = vec![0; rows * block.n];
        numerics::accumulate(&block, &x, rows, &mut want);
        assert!(want.iter().any(|&s| s != 0));
        assert_eq!(got.sums, want, "tile {id} of matrix {matrix}");
        assert_eq!((got.unit, got.cycles), (block.unit.to_bits(), rtl.cycles()));
        (rtl, want.len())
    }

    /// Tiles of a matrix.
    fn tiles(&self, of: MatrixId) -> Vec<TileId> {
        let program = &self.opened.program;
        let is = |kind: &TileKind| matches!(kind, TileKind::Matrix { matrix, .. } if *matrix == of);
        program.tiles().filter_map(|(id, tile)| is(&tile.kind).then_some(id)).collect()
    }

    /// Rows and columns of a matrix.
    fn shape(&self, of: MatrixId) -> (u32, u32) {
        let matrix = &self.opened.program.matrices[of.index()];
        (matrix.k, matrix.n)
    }
}

/// Token ids below `vocabulary` that look random.
fn ids(len: usize, vocabulary: i64) -> Tensor {
    Tensor::new(vec![1, len], (0..len as i64).map(|i| (i * 7919 + 13) % vocabulary).collect()).unwrap()
}

#[test]
fn a_layer_of_the_bible_model_gives_the_interpreters_sums() {
    let model = crate::common::fixture("kjv_lm.onnx");
    let run = Run::new(&model, &BTreeMap::from([("input_ids".to_owned(), ids(8, 200))]));
    // Query, key, value, output, gate, up, down: the products of the first layer come first.
    let layer: Vec<MatrixId> = run.seen.iter().take(7).map(|(m, _)| *m).collect();
    let mut shapes: Vec<(u32, u32)> = layer.iter().map(|m| run.shape(*m)).collect();
    shapes.sort_unstable();
    assert_eq!(shapes[..4], [(192, 64), (192, 64), (192, 192), (192, 192)]);
    let inner = shapes[4].1;
    assert_eq!(shapes[4..], [(192, inner), (192, inner), (inner, 192)]);
    let tiles = layer.iter().flat_map(|m| run.tiles(*m));
    let mut sums = 0;
    for id in tiles {
        let (rtl, checked) = run.check(id, 1, u32::MAX);
        println!("tile {id}: {} x {}, {} lanes, {} cycles", rtl.k(), rtl.n(), rtl.lanes(), rtl.cycles());
        sums += checked;
    }
    println!("{sums} sums equal");
}

#[test]
fn a_block_of_512_rows_of_minilm_gives_the_interpreters_sums() {
    let model = crate::common::referee::tool("minilm/minilm.onnx");
    let ones = Tensor::new(vec![1, 8], vec![1i64; 8]).unwrap();
    let inputs =
        BTreeMap::from([("input_ids".to_owned(), ids(8, 30_000)), ("attention_mask".to_owned(), ones)]);
    let run = Run::new(&model, &inputs);
    let mut rows = 0;
    // The first layer's way back from the feed-forward network.
    let matrix = run.seen.iter().map(|(m, _)| *m).find(|m| run.shape(*m) == (1536, 384)).unwrap();
    for id in run.tiles(matrix) {
        let TileKind::Matrix { k, n, .. } = run.opened.program.tiles[id.index()].kind.clone() else {
            continue;
        };
        if n.start == 0 && k.start < 512 {
            assert!(n.end >= 64);
            run.check(id, 1, 512);
            rows = rows.max(k.end.min(512));
        }
    }
    assert_eq!(rows, 512);
}
