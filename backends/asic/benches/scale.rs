//! Emits, reads back and checks a program of many full tiles: `cargo bench -p pfmc-asic -- [TILES [FOLDER]]`.
//! Prints seconds a stage and the files' sizes, then what writing the programs alone costs in each format. With a second argument the files are left in that folder, as
//! `.ci/bench-layout` needs them.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs::File;
use std::io::Write;
use std::time::Instant;

use pfmc_asic::base::Base;
use pfmc_asic::bits::BitMatrix;
use pfmc_asic::encode::{self, ArrayShape};
use pfmc_asic::oasis;
use pfmc_asic::patterns::{self, Split, Used};
use pfmc_asic::pipe::in_order;
use pfmc_asic::process::Process;
use pfmc_asic::stream::Cells;
use pfmc_ir::backend::{Backend, NoProgress};
use pfmc_ir::diag::Diagnostics;
use pfmc_ir::origin::Origin;
use pfmc_ir::program::TileProgram;
use pfmc_ir::tile::{
    Activations, CodeBlock, FixedMatrix, Levels, MatrixId, Scheme, Tile, TileContent, TileId, TileKind,
    TileSource,
};
use pfmc_ir::verify::Verified;
use rayon::prelude::*;

const K: u32 = 480;
const N: u32 = 256;
/// Tiles of a model of 22.7 million weights.
const TILES: u32 = 185;

/// Codes that look random, made when asked for.
struct Noise;

impl TileSource for Noise {
    fn tile(&self, id: TileId) -> Result<TileContent, Diagnostics> {
        let mut state = u64::from(id.0) * 0x9e37_79b9 + 12345;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let (k, n) = (K as usize, N as usize);
        let codes = (0..k * n).map(|_| (next() % 15) as i8 - 7).collect();
        let scales = (0..k / 32 * n).map(|_| next() as u8).collect();
        Ok(TileContent::Codes(CodeBlock {
            k,
            n,
            bits: 4,
            group: 32,
            unit: 0.5,
            levels: codes,
            scales,
            codebook: Vec::new(),
        }))
    }
}

/// Processor time of this process so far in seconds, all threads; 0 where the system does not tell.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default();
    // User and system time, in hundredths.
    after.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let tiles = arguments.first().and_then(|a| a.parse().ok()).unwrap_or(TILES);
    let mut program = TileProgram::default();
    let scheme = Scheme::Codes { bits: 4, group: 32, levels: Levels::Uniform };
    for i in 0..tiles {
        let origin = Origin::tensor(format!("w{i}"));
        program.matrices.push(FixedMatrix {
            k: K,
            n: N,
            activations: Activations::Row,
            origin: origin.clone(),
        });
        let kind = TileKind::Matrix { matrix: MatrixId(i), k: 0..K, n: 0..N, scheme };
        program.tiles.push(Tile { name: format!("w{i}"), kind, origin });
    }
    let program = Verified::new(program).unwrap();
    let backend = pfmc_asic::Asic;
    let target = backend.open(&backend.processes()[0]).unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let dir = arguments.get(1).map_or(temporary.path(), std::path::Path::new);
    let start = processor();
    let clock = Instant::now();
    let emission = target.plan(&program).unwrap().emit(&Noise, dir, &NoProgress).unwrap();
    let emitted = processor();
    println!("emit {:.2} s, processor time {:.2} s", clock.elapsed().as_secs_f64(), emitted - start);
    (0..tiles).for_each(|i| drop(std::hint::black_box(Noise.tile(TileId(i)))));
    println!("of it making the weights {:.2} s", processor() - emitted);
    for figure in emission.figures {
        println!("{} {:.3} {}", figure.name, figure.value, figure.unit);
    }
    let clock = Instant::now();
    let read = target.read_back(&program, dir, &NoProgress).unwrap();
    println!("open {:.2} s", clock.elapsed().as_secs_f64());
    let clock = Instant::now();
    (0..tiles).into_par_iter().for_each(|i| {
        read.check(TileId(i), &Noise.tile(TileId(i)).unwrap()).unwrap();
    });
    println!("check {:.2} s", clock.elapsed().as_secs_f64());
    programs(tiles, dir);
}

/// Writes as many programs of random bits in each format, without the macros around them, and those in GDSII also to a file in
/// `dir`, beside a plain write of the same bytes.
fn programs(tiles: u32, dir: &std::path::Path) {
    let text = &pfmc_asic::Asic.processes()[0];
    let process = Process::open(text).unwrap();
    let base = Base::of(&process, ArrayShape { word_lines: 512, bit_lines: 1024 }).unwrap();
    let mut bits = BitMatrix::new(512, 1024);
    let mut state = 1u64;
    for row in 0..bits.rows() {
        for word in bits.row_mut(row) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *word = state.rotate_right(29) ^ state;
        }
    }
    let groups = encode::groups(&bits, base.row_groups());
    let split = Split { full: 16, leaf: 8, tail: 8 };
    let timed = |what: &str, write: &dyn Fn() -> usize| {
        let start = processor();
        let bytes: usize = (0..tiles).map(|_| write()).sum();
        println!("programs in {what}: {:.2} s, {:.1} MB", processor() - start, bytes as f64 / 1e6);
    };
    let nodes: usize = groups.iter().map(|(_, nodes)| nodes.rows() * nodes.columns()).sum();
    let capacity = patterns::program_bytes(split, nodes);
    let gdsii = |spare: Vec<u8>| {
        let mut cells = Cells::reusing(spare, capacity);
        let mut used = Used::new();
        patterns::program(&process, split, "t_prog", base.columns(), &groups, &mut used, &mut cells).unwrap();
        cells.into_bytes()
    };
    timed("GDSII", &|| gdsii(Vec::new()).len());
    timed("OASIS", &|| {
        let mut cells = oasis::Cells::new(0);
        let program = oasis::Program::new(&process, base.columns(), &groups, &mut Used::new());
        cells.program("t_prog", program).unwrap();
        cells.into_bytes().len()
    });

    // As a layout is written: while one program is written, another is made.
    let path = dir.join("programs.gds");
    let to_file = || {
        let mut file = File::create(&path).unwrap();
        let clock = Instant::now();
        let make = |_, spare: Option<Vec<u8>>| gdsii(spare.unwrap_or_default());
        let write = |program: &mut Vec<u8>| file.write_all(program);
        in_order(tiles as usize, 8, make, write).unwrap();
        println!("programs in GDSII to a file, wall clock: {:.3} s", clock.elapsed().as_secs_f64());
        drop(file);
        std::fs::remove_file(&path).unwrap();
    };
    let made = gdsii(Vec::new());
    let plain = || {
        let mut file = File::create(&path).unwrap();
        let clock = Instant::now();
        (0..tiles).for_each(|_| file.write_all(&made).unwrap());
        println!("plain write of as many bytes, wall clock: {:.3} s", clock.elapsed().as_secs_f64());
        drop(file);
        std::fs::remove_file(&path).unwrap();
    };
    for _ in 0..5 {
        to_file();
        plain();
    }
}
