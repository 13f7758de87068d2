//! Emits, reads back and checks a program of many full tiles: `cargo bench -p pfmc-asic -- [TILES [FOLDER]]`.
//! Prints seconds a stage and the files' sizes. With a second argument the files are left in that folder, as
//! `.ci/bench-layout` needs them.

#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Instant;

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
}
