//! The compute around the ROM: Icarus Verilog simulates it on bits decoded from an emitted layout.

use std::path::Path;
use std::process::Command;

use pfmc_asic::process::Process;
use pfmc_asic::readback::RomReadBack;
use pfmc_asic::rtl::requantise::Requantiser;
use pfmc_asic::rtl::{MatrixUse, TileRtl};
use pfmc_ir::backend::{Backend, NoProgress, ProcessText};
use pfmc_ir::diag::Diagnostics;
use pfmc_ir::exec::FixedMatrices;
use pfmc_ir::loaded::LoadedMatrices;
use pfmc_ir::numerics;
use pfmc_ir::origin::Origin;
use pfmc_ir::program::TileProgram;
use pfmc_ir::text::parse_program;
use pfmc_ir::tile::{
    Activations, CodeBlock, FixedMatrix, MatrixId, Scheme, Tile, TileContent, TileId, TileKind, TileSource,
};
use pfmc_ir::verify::Verified;

use super::simulate::{Bench, Results, sources};
use super::{Block, built_in, output, root, script};

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

/// What is asked of the matrix of a block: groups of `each` columns with activations of their own, and whether it is looked up.
fn asked(each: usize, lookup: bool) -> MatrixUse {
    MatrixUse { lookup, group: each as u32 }
}

/// Emits a block, reads its bits back from the layout, and gives the tile's RTL and ROM contents.
fn emitted(block: &CodeBlock, mux: u32, used: MatrixUse, dir: &Path) -> (TileRtl, String) {
    emitted_in("sky130", block, mux, used, dir)
}

/// The same in a built-in process.
fn emitted_in(name: &str, block: &CodeBlock, mux: u32, used: MatrixUse, dir: &Path) -> (TileRtl, String) {
    let process = super::macros::process(name);
    let program = one_tile(block.k as u32, block.n as u32, block.scheme());
    let backend = pfmc_asic::Asic;
    let target = backend.open(&super::built_in(name)).unwrap();
    target.plan(&program).unwrap().emit(&Block(block.clone()), dir, &NoProgress).unwrap();
    let rtl = TileRtl::new(&process, &program, TileId(0), mux, used).unwrap();
    let bits = RomReadBack::open(&process, &program, dir, &NoProgress).unwrap().bits(TileId(0)).unwrap();
    (rtl, rtl.hex(&bits))
}

fn activations(len: usize, seed: u64) -> Vec<i8> {
    let mut noise = Noise(seed);
    (0..len).map(|_| (noise.next() % 255) as i8).map(|x| if x == -128 { 127 } else { x }).collect()
}

/// What a tile must give for vectors `[vector][group of columns][k]`, of `each` columns to a group but the first, which lacks
/// `before`, and for columns that are looked up.
fn expected(
    block: &CodeBlock,
    x: &[i8],
    (each, before): (usize, usize),
    columns: &[u16],
) -> (Vec<i32>, Vec<(bool, i32)>) {
    let groups = (before + block.n - 1) / each + 1;
    let mut sums = Vec::new();
    for vector in x.chunks_exact(block.k * groups) {
        // Every group's activations with all columns.
        let mut all = vec![0; groups * block.n];
        numerics::accumulate(block, vector, groups, &mut all);
        sums.extend((0..block.n).map(|c| all[(before + c) / each * block.n + c]));
    }
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
    let (rtl, hex) = emitted_in(process, &block, mux, asked(n, !columns.is_empty()), dir.path());
    let x = activations(2 * k, n as u64);
    let files = sources(&rtl, dir.path());
    let (sums, looked_up) = expected(&block, &x, (n, 0), columns);
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
    let (rtl, hex) = emitted(&block, 16, asked(40, false), dir.path());
    let x = activations(20, 3);
    let files = sources(&rtl, dir.path());
    let (want, _) = expected(&block, &x, (40, 0), &[]);
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
    for (k, n, scheme, each, columns) in [
        (9, 40, "codebook4/4", 40, &[][..]),
        (7, 17, "codes3/4", 17, &[16, 3][..]),
        // Depthwise: lanes with multipliers of their own.
        (9, 10, "codebook3/4", 1, &[9][..]),
        (6, 20, "codes4/4", 3, &[][..]),
    ] {
        let block = random_block(k, n, scheme.parse().unwrap(), 11);
        let dir = tempfile::tempdir().unwrap();
        let (rtl, hex) = emitted(&block, 16, asked(each, !columns.is_empty()), dir.path());
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
        println!("{scheme} {k} x {n} / {each}: {} cells, {} um2, {} full adders", total.1, total.2, adders.1);
        let x = activations(2 * k * n.div_ceil(each), 9);
        let (sums, looked_up) = expected(&block, &x, (each, 0), columns);
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

/// A program whose only matrix is multiplied in groups, cut at rows and columns, and its contents.
fn in_groups(
    (k, n): (&[u32], &[u32]),
    groups: u32,
    activations: Activations,
    scheme: Scheme,
) -> (Verified<TileProgram>, Blocks) {
    let (rows, columns) = (*k.last().unwrap(), *n.last().unwrap());
    let text = format!(
        "pfir 1\n%0 = input \"x\" : f32[b, {groups}, {rows}]\n\
         %1 = fixed_grouped(%0) {{matrix=0, k={rows}, n={columns}, groups={groups}}} : f32[b, {columns}]\n\
         output \"y\" = %1\n"
    );
    let mut program = TileProgram { graph: parse_program(&text).unwrap().graph, ..TileProgram::default() };
    let origin = Origin::tensor("w");
    program.matrices.push(FixedMatrix { k: rows, n: columns, activations, origin: origin.clone() });
    let mut blocks = Vec::new();
    for n in n.windows(2) {
        for k in k.windows(2) {
            let kind = TileKind::Matrix { matrix: MatrixId(0), k: k[0]..k[1], n: n[0]..n[1], scheme };
            let name = format!("w{}", blocks.len());
            program.tiles.push(Tile { name, kind, origin: origin.clone() });
            let seed = 70 + blocks.len() as u64;
            let mut block = random_block((k[1] - k[0]) as usize, (n[1] - n[0]) as usize, scheme, seed);
            block.unit = 1.1e-5 * (blocks.len() + 1) as f32;
            blocks.push(block);
        }
    }
    (Verified::new(program).unwrap(), Blocks(blocks))
}

/// Emits a program and gives the modules of its tiles, with the ROMs' contents in the folder and by tile.
fn modules(
    program: &Verified<TileProgram>,
    blocks: &Blocks,
    mux: u32,
    dir: &Path,
) -> (pfmc_asic::rtl::Modules, Vec<String>) {
    let target = pfmc_asic::Asic.open(&built_in("sky130")).unwrap();
    target.plan(program).unwrap().emit(blocks, dir, &NoProgress).unwrap();
    let process = process();
    let modules = pfmc_asic::rtl::program(&process, program, mux).unwrap();
    let read_back = RomReadBack::open(&process, program, dir, &NoProgress).unwrap();
    let hex = |(id, name, rtl): &(TileId, String, TileRtl)| {
        let hex = rtl.hex(&read_back.bits(*id).unwrap());
        std::fs::write(dir.join(format!("{name}.hex")), &hex).unwrap();
        hex
    };
    let contents = modules.tiles.iter().map(hex).collect();
    (modules, contents)
}

#[test]
fn groups_of_columns_take_activations_of_their_own() {
    // Depthwise and groups narrower than a lane, not aligned with lanes, wider than tiles; tiles that begin inside a group.
    for (k, n, groups, scheme, mux) in [
        (&[0, 9][..], &[0, 40][..], 40, "codes4/4", 16),
        (&[0, 9], &[0, 22, 40], 40, "codebook4/4", 16),
        (&[0, 13, 25], &[0, 31, 45], 15, "codebook3/8", 16),
        (&[0, 25], &[0, 50, 75], 15, "codes3/8", 8),
        (&[0, 12], &[0, 70, 100], 2, "codebook2/4", 8),
        (&[0, 11], &[0, 39, 72], 9, "codes8/4", 16),
        (&[0, 7], &[0, 24], 8, "codes2/4", 16),
        (&[0, 10], &[0, 45], 5, "codebook6/4", 8),
        (&[0, 10], &[0, 17, 34], 2, "codes5/4", 16),
    ] {
        let (program, blocks) = in_groups((k, n), groups, Activations::Row, scheme.parse().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let (modules, contents) = modules(&program, &blocks, mux, dir.path());
        let (rows, columns) = (*k.last().unwrap() as usize, *n.last().unwrap() as usize);
        let each = columns / groups as usize;
        // The interpreter's own inputs and results.
        let vectors = 2;
        let mut noise = Noise(u64::from(groups));
        let x: Vec<f32> = (0..vectors * groups as usize * rows)
            .map(|i| (noise.next() % 2001) as f32 - 1000.0 + i as f32)
            .collect();
        let loaded = LoadedMatrices::load(&program, &blocks, &blocks).unwrap();
        let want = loaded.grouped(MatrixId(0), groups as usize, &x).unwrap();
        let mut q = vec![0; x.len()];
        let scales: Vec<f32> = (q.chunks_exact_mut(rows).zip(x.chunks_exact(rows)))
            .map(|(q, x)| numerics::quantize_row(x, q))
            .collect();
        let mut got = vec![0f64; vectors * columns];
        for ((id, name, rtl), hex) in modules.tiles.iter().zip(contents) {
            let TileKind::Matrix { k, n, .. } = &program.tiles[id.index()].kind else { panic!() };
            let (first, last) = (n.start as usize / each, (n.end as usize - 1) / each);
            assert_eq!(rtl.groups() as usize, last - first + 1);
            let mut x = Vec::new();
            for vector in q.chunks_exact(groups as usize * rows) {
                for of_group in vector.chunks_exact(rows).skip(first).take(last - first + 1) {
                    x.extend(&of_group[k.start as usize..k.end as usize]);
                }
            }
            let block = &blocks.0[id.index()];
            let stall = if mux == 8 { 0 } else { 60 };
            let bench = Bench { rtl, groups: block.groups(), hex, x: &x, columns: &[], stall };
            let files = sources(rtl, dir.path());
            let simulated = bench.run(dir.path(), &files, &[]);
            if stall == 0 {
                assert_eq!(simulated.cycles, rtl.cycles(), "{name}");
            }
            let before = n.start as usize % each;
            let (sums, _) = expected(block, &x, (each, before), &[]);
            assert_eq!(simulated.sums, sums, "{scheme} {groups} groups, {name}");
            for (v, sums) in sums.chunks_exact(block.n).enumerate() {
                for (c, &sum) in sums.iter().enumerate() {
                    got[v * columns + n.start as usize + c] += f64::from(sum) * f64::from(block.unit);
                }
            }
            // With the groups' borders off by one, columns at the borders take the next group's activations, no others.
            if rtl.groups() > 1 {
                let text = std::fs::read_to_string(dir.path().join("t.v")).unwrap();
                let wrong = text.replace(&format!(".OFFSET({before})"), &format!(".OFFSET({})", before + 1));
                assert_ne!(text, wrong);
                std::fs::write(dir.path().join("t.v"), wrong).unwrap();
                let off = bench.run(dir.path(), &files, &[]).sums;
                for (i, (off, sum)) in off.iter().zip(&sums).enumerate() {
                    let at = n.start as usize + i % block.n;
                    let moved = (at + 1) / each != at / each && (at + 1) / each <= last;
                    assert_eq!(off != sum, moved, "{scheme} {groups} groups, {name}, column {at}");
                }
            }
        }
        // One result for each of the sums' bits.
        for (i, (&want, got)) in want.iter().zip(got).enumerate() {
            let scale = scales[i / columns * groups as usize + i % columns / each];
            assert_eq!(want.to_bits(), ((got * f64::from(scale)) as f32).to_bits());
        }
    }
}

/// Simulates the strip of three tiles of one matrix, whose columns are in groups, and compares it with the definition. With
/// `factors` each group's activations have a scale of their own.
fn requantised(groups: u32, activations_of: Activations, scales: &[f32]) {
    let k = [0u32, 20, 40, 47];
    let (n, rows) = (21usize, 47usize);
    let scheme: Scheme = "codebook4/8".parse().unwrap();
    let (program, blocks) = in_groups((&k, &[0, n as u32]), groups, activations_of, scheme);
    let dir = tempfile::tempdir().unwrap();
    let (modules, _) = modules(&program, &blocks, 16, dir.path());
    let units: Vec<f32> = blocks.0.iter().map(|b| b.unit).collect();
    let each = n / groups as usize;
    let x = activations(2 * groups as usize * rows, 4);
    let requantiser = Requantiser::new(&units, scales, 0.03).unwrap();
    let sweeps = modules.tiles[0].2.sweeps() as usize;
    let mut want: Vec<i8> = Vec::new();
    for x in x.chunks_exact(groups as usize * rows) {
        let sums: Vec<Vec<i32>> = (blocks.0.iter().zip(k.windows(2)))
            .map(|(block, at)| {
                let of_tile = |of_group: &[i8]| of_group[at[0] as usize..at[1] as usize].to_vec();
                let x: Vec<i8> = x.chunks_exact(rows).flat_map(of_tile).collect();
                expected(block, &x, (each, 0), &[]).0
            })
            .collect();
        // In the order of sweeps.
        for c in (0..sweeps).flat_map(|s| (s..n).step_by(sweeps)) {
            let group = if scales.len() > 1 { c / each } else { 0 };
            want.push(requantiser.apply(group, &sums.iter().map(|s| s[c]).collect::<Vec<_>>()));
        }
    }
    let mut settings = String::new();
    for m in requantiser.multipliers.iter().chain([&requantiser.shift]) {
        settings += &format!("{m:x}\n");
    }
    std::fs::write(dir.path().join("set.hex"), settings).unwrap();
    let bytes = x.iter().map(|x| format!("{:x}\n", x.cast_unsigned())).collect::<String>();
    std::fs::write(dir.path().join("x.hex"), bytes).unwrap();
    let mut command = Command::new("iverilog");
    command.current_dir(dir.path()).args(["-g2005", "-s", "bench", "-o", "sim", "-DSTRIP=strip_m0_n0"]);
    command.args(["-DVECTORS=2", "-DTILES=3", "-DN=21"]);
    command.args([format!("-DK={}", groups as usize * rows), format!("-DFACTORS={}", scales.len())]);
    let bench = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/referees/asic/strip_bench.v");
    command.arg(std::path::absolute(bench).unwrap());
    let mut for_synthesis = Vec::new();
    for (name, text) in &modules.files {
        std::fs::write(dir.path().join(name), text).unwrap();
        if name != "roms.v" {
            command.arg(name);
        }
        if !name.contains("model") {
            for_synthesis.push(dir.path().join(name));
        }
    }
    output(&mut command);
    output(Command::new("vvp").current_dir(dir.path()).arg("sim"));
    let got = std::fs::read_to_string(dir.path().join("q.txt")).unwrap();
    let got: Vec<i8> = got.lines().map(|l| l.parse().unwrap()).collect();
    assert_eq!(got, want);
    let distinct: std::collections::BTreeSet<i8> = got.iter().copied().collect();
    assert!(distinct.len() > 10, "{got:?}");
    let total = synthesise(dir.path(), "strip_m0_n0", &for_synthesis).pop().unwrap();
    println!("{groups} groups, {} multipliers a tile: {} cells, {} um2", scales.len(), total.1, total.2);
}

#[test]
fn sums_over_tiles_are_requantised_in_the_strip() {
    requantised(1, Activations::Row, &[0.02]);
}

#[test]
fn sums_of_groups_are_requantised_with_one_scale_or_one_each() {
    requantised(7, Activations::Static(0.02), &[0.02]);
    requantised(7, Activations::Row, &[0.02, 0.004, 0.03, 0.011, 0.0007, 0.05, 0.016]);
}
