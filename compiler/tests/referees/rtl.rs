//! The compute around the ROMs of whole models: Icarus Verilog simulates matrix tiles on the bits that
//! are decoded from a compiled layout, with the activations that a run of the program gives them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;

use pfmc::contents::Reference;
use pfmc::verify::{Opened, open};
use pfmc_asic::process::Process;
use pfmc_asic::readback::RomReadBack;
use pfmc_asic::rtl::{MatrixUse, TileRtl};
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

/// The first product with a matrix.
struct Product {
    matrix: MatrixId,
    groups: usize,
    /// `[row][group][k]`
    x: Vec<f32>,
    /// `[row][n]`
    y: Vec<f32>,
}

/// The interpreter's matrices, which keep what goes in and out.
struct Seen<'a> {
    inner: &'a LoadedMatrices,
    /// In the order of their first use.
    products: Mutex<Vec<Product>>,
}

impl Seen<'_> {
    fn keep(&self, matrix: MatrixId, groups: usize, x: &[f32], y: &[f32]) {
        let mut products = self.products.lock().unwrap();
        if products.iter().all(|p| p.matrix != matrix) {
            products.push(Product { matrix, groups, x: x.to_vec(), y: y.to_vec() });
        }
    }
}

impl FixedMatrices for Seen<'_> {
    fn linear(&self, matrix: MatrixId, x: &[f32]) -> Result<Vec<f32>, Diagnostics> {
        let y = self.inner.linear(matrix, x)?;
        self.keep(matrix, 1, x, &y);
        Ok(y)
    }
    fn grouped(&self, matrix: MatrixId, groups: usize, x: &[f32]) -> Result<Vec<f32>, Diagnostics> {
        let y = self.inner.grouped(matrix, groups, x)?;
        self.keep(matrix, groups, x, &y);
        Ok(y)
    }
    fn lookup(&self, matrix: MatrixId, indices: &[i64]) -> Result<Vec<f32>, Diagnostics> {
        self.inner.lookup(matrix, indices)
    }
    fn data(&self, offset: u64, len: u64) -> Result<Vec<u8>, Diagnostics> {
        self.inner.data(offset, len)
    }
}

/// A compiled model and the products of its matrices in one run.
struct Run {
    opened: Opened,
    process: Process,
    uses: Vec<MatrixUse>,
    /// In the order of their first use.
    seen: Vec<Product>,
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
            let seen = Seen { inner: &matrices, products: Mutex::default() };
            Executor::new(&opened.program.graph, &seen).unwrap().run(inputs).unwrap();
            seen.products.into_inner().unwrap()
        };
        let uses = MatrixUse::all(&opened.program);
        Run { opened, process, uses, seen, dir }
    }

    /// Simulates a tile on the int8 inputs of some rows of the first product with its matrix and compares every sum with the
    /// interpreter's. Inputs of rows of the matrix from `limit` on are 0. `change` is what becomes of the tile's text: where it
    /// becomes another one, the sums are not compared. Gives the tile and the sums `[row][n]`.
    fn check(
        &self,
        id: TileId,
        rows: Range<usize>,
        limit: u32,
        change: &dyn Fn(String) -> String,
    ) -> (TileRtl, Vec<i32>) {
        let program = &self.opened.program;
        let TileKind::Matrix { matrix, k, n, .. } = &program.tiles[id.index()].kind else { panic!() };
        let of = &program.matrices[matrix.index()];
        let whole = of.k as usize;
        let product = self.product(*matrix);
        let rtl = TileRtl::new(&self.process, program, id, 16, self.uses[matrix.index()]).unwrap();
        // The groups that the tile has columns of.
        let each = of.n as usize / product.groups;
        let groups = n.start as usize / each..(n.end as usize - 1) / each + 1;
        assert_eq!(rtl.groups() as usize, groups.len());
        let vector = whole * product.groups;
        let mut x = Vec::new();
        for row in product.x[rows.start * vector..rows.end * vector].chunks_exact(vector) {
            for of_group in &row.chunks_exact(whole).collect::<Vec<_>>()[groups.clone()] {
                let mut q = vec![0; whole];
                numerics::quantize_activations(of.activations, of_group, &mut q);
                q.iter_mut().skip(limit as usize).for_each(|q| *q = 0);
                x.extend(&q[k.start as usize..k.end as usize]);
            }
        }
        let folder = self.dir.path().join("out");
        let read_back = RomReadBack::open(&self.process, program, &folder, &NoProgress).unwrap();
        let TileContent::Codes(block) = read_back.tile(id).unwrap() else { panic!() };
        let hex = rtl.hex(&read_back.bits(id).unwrap());
        let bench = Bench { rtl: &rtl, groups: block.groups(), hex, x: &x, columns: &[], stall: 0 };
        let sim = self.dir.path().join(format!("sim{id}"));
        std::fs::create_dir_all(&sim).unwrap();
        let files = sources(&rtl, &sim);
        let text = std::fs::read_to_string(sim.join("t.v")).unwrap();
        let changed = change(text.clone());
        std::fs::write(sim.join("t.v"), &changed).unwrap();
        let got = bench.run(&sim, &files, &[]);
        let mut want = Vec::new();
        for x in x.chunks_exact(k.len() * groups.len()) {
            let mut sums = vec![0; groups.len() * block.n];
            numerics::accumulate(&block, x, groups.len(), &mut sums);
            let group = |c: usize| (n.start as usize + c) / each - groups.start;
            want.extend((0..block.n).map(|c| sums[group(c) * block.n + c]));
        }
        assert!(want.iter().any(|&s| s != 0));
        if changed == text {
            assert_eq!(got.sums, want, "tile {id} of matrix {matrix}");
        }
        assert_eq!((got.unit, got.cycles), (block.unit.to_bits(), rtl.cycles()));
        (rtl, got.sums)
    }

    /// Simulates all tiles of a matrix on a row of its first product: what their sums come to has the bits that the interpreter
    /// gave. Gives the tiles.
    fn check_product(&self, matrix: MatrixId, row: usize) -> Vec<TileRtl> {
        let program = &self.opened.program;
        let of = &program.matrices[matrix.index()];
        let (k, n) = (of.k as usize, of.n as usize);
        let product = self.product(matrix);
        let read_back =
            RomReadBack::open(&self.process, program, &self.dir.path().join("out"), &NoProgress).unwrap();
        let mut y = vec![0f64; n];
        let mut tiles = Vec::new();
        for id in self.tiles(matrix) {
            let TileKind::Matrix { n, .. } = &program.tiles[id.index()].kind else { panic!() };
            let (rtl, sums) = self.check(id, row..row + 1, u32::MAX, &|text| text);
            let TileContent::Codes(block) = read_back.tile(id).unwrap() else { panic!() };
            for (y, sum) in y[n.start as usize..].iter_mut().zip(sums) {
                *y += f64::from(sum) * f64::from(block.unit);
            }
            tiles.push(rtl);
        }
        let x = product.x[row * product.groups * k..][..product.groups * k].chunks_exact(k);
        let scales: Vec<f32> =
            x.map(|x| numerics::quantize_activations(of.activations, x, &mut vec![0; k])).collect();
        for (c, y) in y.into_iter().enumerate() {
            let scale = f64::from(scales[c / (n / product.groups)]);
            assert_eq!(((y * scale) as f32).to_bits(), product.y[row * n + c].to_bits(), "{matrix}, {c}");
        }
        tiles
    }

    /// The first product with a matrix.
    fn product(&self, of: MatrixId) -> &Product {
        self.seen.iter().find(|p| p.matrix == of).unwrap()
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
    let layer: Vec<MatrixId> = run.seen.iter().take(7).map(|p| p.matrix).collect();
    let mut shapes: Vec<(u32, u32)> = layer.iter().map(|m| run.shape(*m)).collect();
    shapes.sort_unstable();
    assert_eq!(shapes[..4], [(192, 64), (192, 64), (192, 192), (192, 192)]);
    let inner = shapes[4].1;
    assert_eq!(shapes[4..], [(192, inner), (192, inner), (inner, 192)]);
    let mut sums = 0;
    for matrix in layer {
        for rtl in run.check_product(matrix, 7) {
            println!("{} x {}, {} lanes, {} cycles", rtl.k(), rtl.n(), rtl.lanes(), rtl.cycles());
            sums += rtl.n();
        }
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
    let matrix = run.seen.iter().map(|p| p.matrix).find(|m| run.shape(*m) == (1536, 384)).unwrap();
    for id in run.tiles(matrix) {
        let TileKind::Matrix { k, n, .. } = run.opened.program.tiles[id.index()].kind.clone() else {
            continue;
        };
        if n.start == 0 && k.start < 512 {
            assert!(n.end >= 64);
            run.check(id, 7..8, 512, &|text| text);
            rows = rows.max(k.end.min(512));
        }
    }
    assert_eq!(rows, 512);
}

/// Checks grouped products of a model, and that borders of groups that are off by one are noticed in each.
fn check_groups(run: &Run, products: &[&Product]) {
    let program = &run.opened.program;
    for product in products {
        let of = &program.matrices[product.matrix.index()];
        let rows = product.y.len() / of.n as usize;
        // In the middle, where a patch is whole.
        let row = rows / 2;
        for (id, rtl) in run.tiles(product.matrix).into_iter().zip(run.check_product(product.matrix, row)) {
            println!(
                "{} groups: tile {} x {}, {} lanes in {} runs, {} cycles, {:?}",
                product.groups,
                rtl.k(),
                rtl.n(),
                rtl.lanes(),
                rtl.runs(),
                rtl.cycles(),
                program.matrix_tile(id).unwrap().2
            );
            if rtl.groups() > 1 {
                let TileKind::Matrix { n, .. } = &program.tiles[id.index()].kind else { panic!() };
                let before = n.start % (of.n / product.groups as u32);
                let by = |offset| format!(".OFFSET({offset})");
                let moved = |text: String| {
                    assert!(text.contains(&by(before)));
                    text.replace(&by(before), &by(before + 1))
                };
                let at = row..row + 1;
                let (_, off) = run.check(id, at.clone(), u32::MAX, &moved);
                assert_ne!(off, run.check(id, at, u32::MAX, &|text| text).1);
            }
        }
    }
}

#[test]
fn a_small_grouped_convolution_gives_the_interpreters_sums() {
    let model = crate::common::fixture("small/fixed_conv.onnx");
    let source = pfmc::onnx::import(&model).unwrap();
    let inputs = crate::inputs(&source, 1, &mut crate::common::Random(5));
    let run = Run::new(&model, &inputs);
    let grouped: Vec<&Product> = run.seen.iter().filter(|p| p.groups > 1).collect();
    assert_eq!(grouped.len(), 3);
    check_groups(&run, &grouped);
}

#[test]
fn grouped_layers_of_the_detection_model_give_the_interpreters_sums() {
    let model = crate::common::referee::tool("models/ppocr/ch_PP-OCRv4_det_infer.onnx");
    let mut random = crate::common::Random(6);
    let pixels = (0..3 * 64 * 96).map(|_| random.normal()).collect();
    let x = Tensor::new(vec![1, 3, 64, 96], pixels).unwrap();
    let run = Run::new(&model, &BTreeMap::from([("x".to_owned(), x)]));
    // For each number of rows the one with most columns.
    let mut widest: BTreeMap<u32, &Product> = BTreeMap::new();
    for product in run.seen.iter().filter(|p| p.groups > 1) {
        let [(k, n), (_, most)] = [product, widest.get(&run.shape(product.matrix).0).unwrap_or(&product)]
            .map(|p| run.shape(p.matrix));
        if n >= most {
            widest.insert(k, product);
        }
    }
    assert!(widest.keys().eq(&[9, 25]), "{:?}", widest.keys());
    // One is wider than a tile.
    assert!(widest.values().any(|p| run.shape(p.matrix).1 > 256));
    check_groups(&run, &widest.into_values().collect::<Vec<_>>());
}
