//! The compute around the ROM: Icarus Verilog simulates it on bits decoded from an emitted layout.

use std::path::Path;
use std::process::Command;

use pfmc_asic::process::Process;
use pfmc_asic::readback::RomReadBack;
use pfmc_asic::rtl::TileRtl;
use pfmc_asic::rtl::requantise::Requantiser;
use pfmc_ir::backend::{Backend, NoProgress, ProcessText};
use pfmc_ir::diag::Diagnostics;
use pfmc_ir::numerics;
use pfmc_ir::origin::Origin;
use pfmc_ir::program::TileProgram;
use pfmc_ir::tile::{
    Activations, CodeBlock, FixedMatrix, MatrixId, Scheme, Tile, TileContent, TileId, TileKind, TileSource,
};
use pfmc_ir::verify::Verified;

use super::simulate::{Bench, Results, sources};
use super::{Block, output, root, script};

/// The contents of tiles, by id.
struct Blocks(Vec<CodeBlock>);

impl TileSource for Blocks {
    fn tile(&self, id: TileId) -> Result<TileContent, Diagnostics> {
        Ok(TileContent::Codes(self.0[id.index()].clone()))
    }
}

/// Numbers that look random.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}

fn process() -> Process {
    Process::open(&ProcessText { name: "sky130".into(), toml: pfmc_asic::SKY130.into() }).unwrap()
}

/// A block of every kind of level, scales over all 8 bits.
fn random_block(k: usize, n: usize, scheme: Scheme, seed: u64) -> CodeBlock {
    let Scheme::Codes { bits, group, levels } = scheme else { panic!() };
    let mut noise = Noise(seed);
    let most = numerics::code_max(bits);
    let mut codebook = Vec::new();
    if levels == pfmc_ir::tile::Levels::Codebook {
        codebook = (-127..=127i8).collect();
        while codebook.len() > 1 << bits {
            codebook.remove(noise.next() as usize % codebook.len());
        }
    }
    let mut level = || {
        let r = noise.next();
        match codebook.len() {
            0 => ((r % (2 * most as u64 + 1)) as i32 - most) as i8,
            entries => codebook[r as usize % entries],
        }
    };
    let levels = (0..k * n).map(|_| level()).collect();
    let scales = (0..k.div_ceil(group as usize) * n).map(|_| noise.next() as u8).collect();
    CodeBlock { k, n, bits, group: group as usize, unit: 1.5e-5, levels, scales, codebook }
}

/// One tile as a program.
fn one_tile(k: u32, n: u32, scheme: Scheme) -> Verified<TileProgram> {
    let origin = Origin::tensor("w");
    let mut program = TileProgram::default();
    program.matrices.push(FixedMatrix { k, n, activations: Activations::Row, origin: origin.clone() });
    let kind = TileKind::Matrix { matrix: MatrixId(0), k: 0..k, n: 0..n, scheme };
    program.tiles.push(Tile { name: "t".into(), kind, origin });
    Verified::new(program).unwrap()
}

/// Emits a block, reads its bits back from the layout, and gives the tile's RTL and ROM contents.
fn emitted(block: &CodeBlock, mux: u32, lookup: bool, dir: &Path) -> (TileRtl, String) {
    emitted_in("sky130", block, mux, lookup, dir)
}

/// The same in a built-in process.
fn emitted_in(name: &str, block: &CodeBlock, mux: u32, lookup: bool, dir: &Path) -> (TileRtl, String) {
    let process = super::macros::process(name);
    let program = one_tile(block.k as u32, block.n as u32, block.scheme());
    let backend = pfmc_asic::Asic;
    let target = backend.open(&super::built_in(name)).unwrap();
    target.plan(&program).unwrap().emit(&Block(block.clone()), dir, &NoProgress).unwrap();
    let rtl = TileRtl::new(&process, &program, TileId(0), mux, lookup).unwrap();
    let bits = RomReadBack::open(&process, &program, dir, &NoProgress).unwrap().bits(TileId(0)).unwrap();
    (rtl, rtl.hex(&bits))
}

fn activations(len: usize, seed: u64) -> Vec<i8> {
    let mut noise = Noise(seed);
    (0..len).map(|_| (noise.next() % 255) as i8).map(|x| if x == -128 { 127 } else { x }).collect()
}

/// What a tile must give for vectors and columns.
fn expected(block: &CodeBlock, x: &[i8], columns: &[u16]) -> (Vec<i32>, Vec<(bool, i32)>) {
    let rows = x.len() / block.k;
    let mut sums = vec![0; rows * block.n];
    numerics::accumulate(block, x, rows, &mut sums);
    let mut looked_up = Vec::new();
    for &c in columns {
        for k in 0..block.k {
            looked_up.push((false, i32::from(block.levels[k * block.n + c as usize])));
            if (k + 1) % block.group == 0 || k + 1 == block.k {
                looked_up.push((true, i32::from(block.scales[k / block.group * block.n + c as usize])));
            }
        }
    }
    (sums, looked_up)
}

/// Compares a random tile with the interpreter, `stall` 256ths of the cycles of each stream spent waiting.
fn check(k: usize, n: usize, scheme: &str, mux: u32, columns: &[u16], stall: u32) {
    check_in("sky130", k, n, scheme, mux, columns, stall);
}

/// The same in a built-in process.
fn check_in(process: &str, k: usize, n: usize, scheme: &str, mux: u32, columns: &[u16], stall: u32) {
    let scheme: Scheme = scheme.parse().unwrap();
    let block = random_block(k, n, scheme, (k * 1000 + n) as u64);
    let dir = tempfile::tempdir().unwrap();
    let (rtl, hex) = emitted_in(process, &block, mux, !columns.is_empty(), dir.path());
    let x = activations(2 * k, n as u64);
    let files = sources(&rtl, dir.path());
    let (sums, looked_up) = expected(&block, &x, columns);
    let bench = Bench { rtl: &rtl, groups: block.groups(), hex, x: &x, columns, stall };
    let got = bench.run(dir.path(), &files, &[]);
    let cycles = if stall == 0 { rtl.cycles() } else { got.cycles };
    let want = Results { sums, looked_up, unit: block.unit.to_bits(), cycles };
    assert_eq!(got, want, "{process} {k} x {n} {scheme} mux {mux} stall {stall}");
}

#[test]
fn macros_programmed_on_via_give_the_interpreters_sums() {
    // 60 word lines of codes and 16 of scales: more than one row group.
    check_in("sky130-via1", 60, 33, "codes4/8", 16, &[0, 20], 0);
    check_in("sky130-via1", 37, 33, "codebook4/32", 16, &[], 50);
}

#[test]
fn streams_may_wait() {
    check(20, 40, "codebook4/8", 16, &[], 100);
    check(19, 33, "codes5/6", 8, &[], 200);
}

#[test]
fn codebooks_of_every_width_give_the_interpreters_sums() {
    for (k, n, scheme, mux) in [
        (20, 40, "codebook4/8", 16),
        (37, 33, "codebook4/32", 8),
        (9, 50, "codebook2/4", 16),
        (21, 23, "codebook3/5", 16),
        (17, 61, "codebook5/16", 16),
        (13, 99, "codebook6/13", 8),
    ] {
        check(k, n, scheme, mux, &[], 0);
    }
}

#[test]
fn uniform_codes_of_every_width_give_the_interpreters_sums() {
    for (bits, mux) in [(2, 8), (3, 8), (4, 16), (5, 16), (6, 16), (7, 8), (8, 16)] {
        check(19 + bits, 30 + 3 * bits, &format!("codes{bits}/{}", 2 * bits - 1), mux, &[], 0);
    }
}

#[test]
fn columns_are_looked_up_between_products() {
    check(20, 40, "codebook4/8", 16, &[0, 39, 17, 4], 0);
    check(11, 21, "codes6/4", 16, &[20, 1], 0);
    check(9, 17, "codes3/4", 8, &[16, 7], 0);
}

#[test]
fn one_flipped_bit_of_the_rom_is_found() {
    let block = random_block(20, 40, "codebook4/8".parse().unwrap(), 5);
    let dir = tempfile::tempdir().unwrap();
    let (rtl, hex) = emitted(&block, 16, false, dir.path());
    let x = activations(20, 3);
    let files = sources(&rtl, dir.path());
    let (want, _) = expected(&block, &x, &[]);
    let run = |hex: String| {
        let bench = Bench { rtl: &rtl, groups: block.groups(), hex, x: &x, columns: &[], stall: 0 };
        bench.run(dir.path(), &files, &[]).sums
    };
    assert_eq!(run(hex.clone()), want);
    // The lowest bit of word line 3: bit 0 of the code in row 3 of column 0.
    let mut lines: Vec<String> = hex.lines().map(str::to_owned).collect();
    let last = lines[3].pop().unwrap();
    lines[3].push(char::from_digit(last.to_digit(16).unwrap() ^ 1, 16).unwrap());
    let got = run(lines.join("\n"));
    let wrong: Vec<usize> = (0..want.len()).filter(|&i| got[i] != want[i]).collect();
    assert_eq!(wrong, [0], "x[3] is {}", x[3]);
}

/// Synthesises files in a folder; cells and area (um2) of each kind, the total last.
fn synthesise(dir: &Path, top: &str, files: &[std::path::PathBuf]) -> Vec<(String, u64, f64)> {
    let root = std::path::absolute(root()).unwrap();
    let mut arguments = vec![root.to_str().unwrap(), dir.to_str().unwrap(), top];
    arguments.extend(files.iter().map(|f| f.to_str().unwrap()));
    let parse = |line: &str| {
        let parts: Vec<&str> = line.split(' ').collect();
        (parts[0].to_owned(), parts[1].parse().unwrap(), parts[2].parse().unwrap())
    };
    script("synthesise.py", &arguments).lines().map(parse).collect()
}

#[test]
fn the_netlist_of_standard_cells_gives_the_interpreters_sums() {
    for (k, n, scheme, columns) in [(9, 40, "codebook4/4", &[][..]), (7, 17, "codes3/4", &[16, 3][..])] {
        let block = random_block(k, n, scheme.parse().unwrap(), 11);
        let dir = tempfile::tempdir().unwrap();
        let (rtl, hex) = emitted(&block, 16, !columns.is_empty(), dir.path());
        let mut files = sources(&rtl, dir.path());
        files.retain(|f| !f.ends_with("pfmc_rom_model.v"));
        std::fs::write(dir.path().join("box.v"), rtl.rom_black_box("t")).unwrap();
        files.push(dir.path().join("box.v"));
        let cells = synthesise(dir.path(), "t", &files);
        let adders = cells.iter().find(|c| c.0.ends_with("fa_1")).unwrap();
        // At least the group sum's and the sum's bits of each lane, without their ends.
        let lanes = u64::from(rtl.lanes() * (rtl.group_bits() + rtl.sum_bits() - 4));
        assert!(adders.1 >= lanes, "{} full adders", adders.1);
        let total = cells.last().unwrap();
        println!("{scheme} {k} x {n}: {} cells, {} um2, {} full adders", total.1, total.2, adders.1);
        let x = activations(2 * k, 9);
        let (sums, looked_up) = expected(&block, &x, columns);
        let library = root().join("sky130/sky130/src/sky130_fd_sc_hd/cells");
        let library = std::path::absolute(library).unwrap();
        let mut netlist = vec![dir.path().join("netlist.v"), dir.path().join("pfmc_rom_model.v")];
        for (kind, ..) in &cells {
            if let Some(name) = kind.strip_prefix("sky130_fd_sc_hd__") {
                let base = name.rsplit_once('_').unwrap().0;
                netlist.push(library.join(base).join(format!("{kind}.functional.v")));
            }
        }
        let include = format!("-I{}", library.join("inv").display());
        let bench = Bench { rtl: &rtl, groups: block.groups(), hex, x: &x, columns, stall: 60 };
        let got = bench.run(dir.path(), &netlist, &["-DUNIT_DELAY=#1", &include]);
        assert_eq!((got.sums, got.looked_up, got.unit), (sums, looked_up, block.unit.to_bits()));
    }
}

#[test]
fn columns_outside_take_less_energy_with_either_kind_of_macro() {
    let root = std::path::absolute(root()).unwrap();
    let timing = Path::new(env!("CARGO_MANIFEST_DIR")).join("process/sky130-timing.toml");
    let table = script("phase_energy.py", &[root.to_str().unwrap(), timing.to_str().unwrap()]);
    let sums = |order: &str| -> [f64; 2] {
        let row = table.lines().find(|l| l.starts_with(&format!("| {order}"))).unwrap();
        let numbers: Vec<f64> = row.split('|').filter_map(|cell| cell.trim().parse().ok()).collect();
        [numbers[5], numbers[6]]
    };
    let (columns, rows) = (sums("columns outside"), sums("rows outside"));
    assert!(columns[0] < rows[0] && columns[1] < rows[1] && columns[1] < columns[0], "{table}");
}

#[test]
fn sums_over_tiles_are_requantised_in_the_strip() {
    // Rows 0..20, 20..40 and 40..47 of one matrix, in one strip.
    let scheme: Scheme = "codebook4/8".parse().unwrap();
    let (n, k) = (21u32, [0u32, 20, 40, 47]);
    let origin = Origin::tensor("w");
    let mut program = TileProgram::default();
    program.matrices.push(FixedMatrix { k: 47, n, activations: Activations::Row, origin: origin.clone() });
    let mut blocks = Vec::new();
    for (t, rows) in k.windows(2).enumerate() {
        let kind = TileKind::Matrix { matrix: MatrixId(0), k: rows[0]..rows[1], n: 0..n, scheme };
        program.tiles.push(Tile { name: format!("w{t}"), kind, origin: origin.clone() });
        let mut block = random_block((rows[1] - rows[0]) as usize, n as usize, scheme, 70 + t as u64);
        block.unit = 1.1e-5 * (t + 1) as f32;
        blocks.push(block);
    }
    let program = Verified::new(program).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let backend = pfmc_asic::Asic;
    let target = backend.open(&backend.processes()[0]).unwrap();
    target.plan(&program).unwrap().emit(&Blocks(blocks.clone()), dir.path(), &NoProgress).unwrap();
    let process = process();
    let modules = pfmc_asic::rtl::program(&process, &program, 16).unwrap();
    let read_back = RomReadBack::open(&process, &program, dir.path(), &NoProgress).unwrap();
    let mut units = Vec::new();
    for (id, name, rtl) in &modules.tiles {
        let bits = read_back.bits(*id).unwrap();
        std::fs::write(dir.path().join(format!("{name}.hex")), rtl.hex(&bits)).unwrap();
        units.push(blocks[id.index()].unit);
    }
    let x = activations(2 * 47, 4);
    let requantiser = Requantiser::new(&units, 0.02, 0.03).unwrap();
    let mut want: Vec<Vec<i8>> = Vec::new();
    let sweeps = modules.tiles[0].2.sweeps();
    for x in x.chunks_exact(47) {
        let sums: Vec<Vec<i32>> = blocks
            .iter()
            .zip(k.windows(2))
            .map(|(block, rows)| {
                let mut sums = vec![0; n as usize];
                numerics::accumulate(block, &x[rows[0] as usize..rows[1] as usize], 1, &mut sums);
                sums
            })
            .collect();
        // In the order of sweeps.
        let order = (0..sweeps).flat_map(|s| (s..n).step_by(sweeps as usize));
        let column = |c: u32| requantiser.apply(&sums.iter().map(|s| s[c as usize]).collect::<Vec<_>>());
        want.push(order.map(column).collect());
    }
    let mut settings = String::new();
    for m in requantiser.multipliers.iter().chain([&requantiser.shift]) {
        settings += &format!("{m:x}\n");
    }
    std::fs::write(dir.path().join("set.hex"), settings).unwrap();
    std::fs::write(
        dir.path().join("x.hex"),
        x.iter().map(|x| format!("{:x}\n", x.cast_unsigned())).collect::<String>(),
    )
    .unwrap();
    let mut command = Command::new("iverilog");
    command.current_dir(dir.path()).args([
        "-g2005",
        "-s",
        "bench",
        "-o",
        "sim",
        "-DSTRIP=strip_m0_n0",
        "-DK=47",
    ]);
    command.args(["-DVECTORS=2", "-DTILES=3", "-DN=21"]);
    let bench = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/referees/asic/strip_bench.v");
    command.arg(std::path::absolute(bench).unwrap());
    for (name, text) in &modules.files {
        std::fs::write(dir.path().join(name), text).unwrap();
        if name != "roms.v" {
            command.arg(name);
        }
    }
    output(&mut command);
    output(Command::new("vvp").current_dir(dir.path()).arg("sim"));
    let got = std::fs::read_to_string(dir.path().join("q.txt")).unwrap();
    let got: Vec<i8> = got.lines().map(|l| l.parse().unwrap()).collect();
    assert_eq!(got, want.concat());
    let distinct: std::collections::BTreeSet<i8> = got.iter().copied().collect();
    assert!(distinct.len() > 10, "{got:?}");
}
