//! Writes the hand-off of a macro of random bits: `handoff WORD_LINES BIT_LINES MUX FOLDER [PROCESS]`, PROCESS being the name
//! of a built-in process with macros.

#![allow(clippy::unwrap_used)]

use pfmc_asic::bits::BitMatrix;
use pfmc_asic::handoff::{Piece, write};
use pfmc_asic::macros::MacroShape;
use pfmc_asic::macros::timing::Timing;
use pfmc_asic::process::Process;
use pfmc_ir::backend::Backend as _;

fn main() {
    let a: Vec<String> = std::env::args().collect();
    let n = |i: usize| a[i].parse::<u32>().unwrap();
    let shape = MacroShape { word_lines: n(1), bit_lines: n(2), mux: n(3) };
    let name = a.get(5).map_or("sky130", String::as_str);
    let text = pfmc_asic::Asic.processes().into_iter().find(|p| p.name == name).unwrap();
    let process = Process::open(&text).unwrap();
    let timing = Timing::parse(pfmc_asic::timing(name).unwrap()).unwrap();
    let mut bits = BitMatrix::new(n(1) as usize, n(2) as usize);
    let mut state = 1u64;
    for r in 0..bits.rows() {
        for c in 0..bits.columns() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if state >> 63 == 1 {
                bits.set(r, c);
            }
        }
    }
    std::fs::create_dir_all(&a[4]).unwrap();
    let piece = Piece { name: "rom".into(), shape, bits, about: "made-up bits".into() };
    write(std::path::Path::new(&a[4]), &process, &timing, &[piece]).unwrap();
}
