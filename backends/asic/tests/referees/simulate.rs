//! Simulation of a tile's RTL or netlist with Icarus Verilog.

use std::path::{Path, PathBuf};
use std::process::Command;

use pfmc_asic::rtl::{LIBRARY, ROM_MODEL, TileRtl};

/// What leaves a simulated tile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Results {
    /// Sums, `[vector][n]`.
    pub sums: Vec<i32>,
    /// Whether a value of a look-up is a scale, and the value.
    pub looked_up: Vec<(bool, i32)>,
    /// The unit's bits.
    pub unit: u32,
    /// Cycles of the first vector.
    pub cycles: u64,
}

/// A bench: what goes into a tile.
pub struct Bench<'a> {
    /// The tile.
    pub rtl: &'a TileRtl,
    /// Groups of a column.
    pub groups: usize,
    /// Contents of its ROM.
    pub hex: String,
    /// Activations, `[vector][group of columns][k]`.
    pub x: &'a [i8],
    /// Columns to look up first.
    pub columns: &'a [u16],
    /// 256ths of the cycles in which a stream waits.
    pub stall: u32,
}

fn output(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}: run .ci/setup-referees first"));
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && !text.contains("error"), "{command:?}\n{text}");
    text
}

/// The text of a tile `t` for simulation: library, tile and ROM model.
pub fn sources(rtl: &TileRtl, dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let module = rtl.module("t");
    for (name, text) in LIBRARY.into_iter().chain([ROM_MODEL, ("t.v", module.as_str())]) {
        std::fs::write(dir.join(name), text).unwrap();
        files.push(dir.join(name));
    }
    files
}

impl Bench<'_> {
    /// Simulates `sources`, which define module `t` and use `t_rom`, in a folder.
    pub fn run(&self, dir: &Path, sources: &[PathBuf], more: &[&str]) -> Results {
        let (k, n) = (self.rtl.k() as usize, self.rtl.n() as usize);
        let inputs = self.rtl.groups() as usize;
        let vectors = self.x.len() / (k * inputs);
        let hex =
            |values: &mut dyn Iterator<Item = u32>| values.map(|v| format!("{v:x}\n")).collect::<String>();
        std::fs::write(dir.join("t.hex"), &self.hex).unwrap();
        std::fs::write(dir.join("t_rom.v"), self.rtl.rom_model("t")).unwrap();
        let mut rows = String::new();
        for (vector, row) in (0..vectors).flat_map(|v| (0..k).map(move |row| (v, row))) {
            for group in (0..inputs).rev() {
                rows += &format!("{:02x}", self.x[(vector * inputs + group) * k + row]);
            }
            rows.push('\n');
        }
        std::fs::write(dir.join("x.hex"), rows).unwrap();
        std::fs::write(dir.join("l.hex"), hex(&mut self.columns.iter().map(|&c| u32::from(c)))).unwrap();
        let bench = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/referees/asic/tile_bench.v");
        let bench = if bench.is_file() {
            bench
        } else {
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/referees/asic/tile_bench.v")
        };
        let mut command = Command::new("iverilog");
        command.current_dir(dir).args(["-g2005", "-s", "bench", "-o", "sim", "-DTILE=t"]).args(more);
        for (name, value) in [
            ("K", k),
            ("N", n),
            ("INPUTS", inputs),
            ("SWEEPS", self.rtl.sweeps() as usize),
            ("VECTORS", vectors),
            ("LOOKUPS", self.columns.len()),
            ("GROUPS", self.groups),
            ("STALL", self.stall as usize),
        ] {
            command.arg(format!("-D{name}={value}"));
        }
        output(command.arg(std::path::absolute(bench).unwrap()).arg("t_rom.v").args(sources));
        let said = output(Command::new("vvp").current_dir(dir).arg("sim"));
        assert!(!said.contains("no end"), "{said}");
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
        let pairs = |name: &str| -> Vec<(usize, i32)> {
            let pair = |line: &str| {
                let (a, b) = line.split_once(' ').unwrap();
                let b = b.parse::<i64>().unwrap_or_else(|_| panic!("{name}: {line}"));
                (a.parse().unwrap(), b as i32)
            };
            read(name).lines().map(pair).collect()
        };
        let mut sums = vec![0; vectors * n];
        let got = pairs("y.txt");
        assert_eq!(got.len(), sums.len());
        for (i, (column, sum)) in got.into_iter().enumerate() {
            sums[i / n * n + column] = sum;
        }
        Results {
            sums,
            looked_up: pairs("l.txt").into_iter().map(|(scale, v)| (scale == 1, v)).collect(),
            unit: u32::from_str_radix(read("unit.txt").trim(), 16).unwrap(),
            cycles: read("cycles.txt").trim().parse().unwrap(),
        }
    }
}
