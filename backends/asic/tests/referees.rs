//! Tools that share no code with pfmc judge emitted layouts: the shuttle's design-rule deck, and the
//! KLayout wheel as a second reader that extracts transistors.
//!
//! `.ci/setup-referees` installs them; `cargo nextest run -p pfmc-asic --profile referees` runs these.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::Command;

use pfmc_ir::backend::{Backend, NoProgress, ProcessText};
use pfmc_ir::diag::Diagnostics;
use pfmc_ir::numerics;
use pfmc_ir::origin::Origin;
use pfmc_ir::program::TileProgram;
use pfmc_ir::tile::{
    Activations, CodeBlock, FixedMatrix, Levels, MatrixId, Scheme, Tile, TileContent, TileId, TileKind,
    TileSource,
};
use pfmc_ir::verify::Verified;

#[path = "referees/cells.rs"]
mod cells;
#[path = "referees/handoff.rs"]
mod handoff;
#[path = "referees/macros.rs"]
mod macros;
#[path = "referees/processes.rs"]
mod processes;
#[path = "referees/rtl.rs"]
mod rtl;
#[path = "referees/simulate.rs"]
mod simulate;

const GROUP: u32 = 32;
const BITS: u8 = 4;

struct Block(CodeBlock);

impl TileSource for Block {
    fn tile(&self, _: TileId) -> Result<TileContent, Diagnostics> {
        Ok(TileContent::Codes(self.0.clone()))
    }
}

/// Weights that look random.
fn block(k: u32, n: u32, seed: u32) -> CodeBlock {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let values: Vec<f32> = (0..k * n)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        })
        .collect();
    numerics::quantize_codes(&values, k as usize, n as usize, BITS, GROUP as usize)
}

/// Emits a layout in the default process, whose only tile is `t`, a macro.
fn emit(block: &CodeBlock, dir: &Path) -> PathBuf {
    emit_by(&built_in("sky130"), block, dir)
}

/// Emits a layout in the default process whose only tile is `t`, an array alone.
fn emit_array(block: &CodeBlock, dir: &Path) -> PathBuf {
    emit_array_in("sky130", block, dir)
}

/// The same in a built-in process.
fn emit_array_in(process: &str, block: &CodeBlock, dir: &Path) -> PathBuf {
    let mut process = built_in(process);
    let mut file: toml::Table = process.toml.parse().unwrap();
    pfmc_asic::process::PERIPHERY.iter().for_each(|part| drop(file.remove(*part)));
    process.toml = file.to_string();
    emit_by(&process, block, dir)
}

fn built_in(name: &str) -> ProcessText {
    pfmc_asic::Asic.processes().into_iter().find(|p| p.name == name).unwrap()
}

/// The built-in process file of a name.
fn process_file(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("process").join(name).with_extension("toml");
    file.display().to_string()
}

/// Emits a layout in a built-in process, whose only tile is `t`.
fn emit_in(process: &str, block: &CodeBlock, dir: &Path) -> PathBuf {
    emit_by(&built_in(process), block, dir)
}

fn emit_by(process: &ProcessText, block: &CodeBlock, dir: &Path) -> PathBuf {
    let (k, n) = (block.k as u32, block.n as u32);
    let origin = Origin::tensor("w");
    let scheme = Scheme::Codes { bits: BITS, group: GROUP, levels: Levels::Uniform };
    let mut program = TileProgram::default();
    program.matrices.push(FixedMatrix { k, n, activations: Activations::Row, origin: origin.clone() });
    let kind = TileKind::Matrix { matrix: MatrixId(0), k: 0..k, n: 0..n, scheme };
    program.tiles.push(Tile { name: "t".into(), kind, origin });
    let program = Verified::new(program).unwrap();
    let backend = pfmc_asic::Asic;
    let target = backend.open(process).unwrap();
    let plan = target.plan(&program).unwrap();
    plan.emit(&Block(block.clone()), dir, &NoProgress).unwrap();
    dir.join("layout.gds")
}

/// The bits of an array, `[word line][bit line]`, by the documented encoding.
fn expected(b: &CodeBlock) -> Vec<Vec<u8>> {
    let width = usize::from(b.bits);
    let bit_lines = (b.n * width).max(32);
    let mut lines = Vec::new();
    let mut line = |value: &dyn Fn(usize, usize) -> u32| {
        let bit = |i: usize| if i < b.n * width { value(i / width, i % width) } else { 0 };
        lines.push((0..bit_lines).map(|i| bit(i) as u8 & 1).collect::<Vec<u8>>());
    };
    for g in 0..b.k.div_ceil(b.group) {
        for k in g * b.group..((g + 1) * b.group).min(b.k) {
            line(&|n, j| (b.levels[k * b.n + n] as u32) >> j);
        }
        for first in (0..8).step_by(width) {
            line(&|n, j| u32::from(b.scales[g * b.n + n]) >> (first + j));
        }
    }
    lines.push((0..bit_lines).map(|i| if i < 32 { (b.unit.to_bits() >> i & 1) as u8 } else { 0 }).collect());
    lines
}

fn root() -> PathBuf {
    std::env::var_os("PFMC_REFEREES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/referees"), PathBuf::from)
}

/// Runs a tool; its output.
fn output(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|e| {
        panic!("{:?} cannot be run ({e}): run .ci/setup-referees first", command.get_program())
    });
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (written, complaints) = (text(&out.stdout), text(&out.stderr));
    assert!(out.status.success(), "{command:?}\n{written}\n{complaints}\n{}", out.status);
    written
}

/// Runs a script of `fixtures/referees/asic`.
fn script(name: &str, arguments: &[&str]) -> String {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/referees/asic");
    output(Command::new(root().join("python/bin/python")).arg(scripts.join(name)).args(arguments))
}

/// Runs the shuttle's deck; one line an item, `rule left bottom right top`. With more than one thread this deck makes
/// KLayout 0.28 crash now and then.
fn drc(layout: &Path, cell: &str) -> Vec<String> {
    let names = ["top_cell", "report"];
    let parts = ["feol=true", "beol=true", "offgrid=true", "thr=1"];
    run_deck("cf-precheck/cf_precheck/drc_scripts/sky130A_mr.drc", layout, cell, names, &parts)
}

/// Runs a deck, whose names for the cell and the report are `names`, with more definitions.
fn run_deck(deck: &str, layout: &Path, cell: &str, names: [&str; 2], more: &[&str]) -> Vec<String> {
    let deck = root().join(deck);
    assert!(deck.is_file(), "{} is missing: run .ci/setup-referees first", deck.display());
    let report = layout.with_extension("lyrdb");
    // A deck writes nothing and succeeds where a path is relative.
    let [layout, absolute] = [layout, &report].map(|p| std::path::absolute(p).unwrap().display().to_string());
    let mut command = Command::new("klayout");
    command.arg("-b").arg("-r").arg(deck);
    let [cell_name, report_name] = names;
    let own = [format!("input={layout}"), format!("{cell_name}={cell}"), format!("{report_name}={absolute}")];
    for definition in own.iter().map(String::as_str).chain(more.iter().copied()) {
        command.args(["-rd", definition]);
    }
    output(&mut command);
    items(&report)
}

/// The items of a report, which is removed.
fn items(report: &Path) -> Vec<String> {
    assert!(report.is_file(), "the deck wrote no report");
    let items = script("items.py", &[report.to_str().unwrap()]).lines().map(str::to_owned).collect();
    std::fs::remove_file(report).unwrap();
    items
}

fn rows(text: &str) -> Vec<Vec<u8>> {
    text.lines().map(|l| l.bytes().map(|b| b - b'0').collect()).collect()
}

#[test]
fn the_shuttle_deck_finds_nothing() {
    // 59 rows, 2 groups: 64 word lines. 119 rows, 4 groups: 128. 5 rows: 8, one row group.
    for (k, n, word_lines, bit_lines) in [(5, 8, 8, 32), (59, 16, 64, 64), (119, 64, 128, 256)] {
        let block = block(k, n, k);
        assert_eq!(expected(&block).len(), word_lines);
        assert_eq!(expected(&block)[0].len(), bit_lines);
        let dir = tempfile::tempdir().unwrap();
        let items = drc(&emit_array(&block, dir.path()), "t_rom");
        assert!(items.is_empty(), "{word_lines} x {bit_lines}: {items:#?}");
    }
}

#[test]
fn two_decks_find_nothing_on_dies_and_every_seeded_fault() {
    two_decks_on_a_die("sky130");
}

#[test]
fn two_decks_find_nothing_on_dies_programmed_on_via_and_every_seeded_fault() {
    two_decks_on_a_die("sky130-via1");
}

fn two_decks_on_a_die(process: &str) {
    let dir = tempfile::tempdir().unwrap();
    let block = block(59, 16, 1);
    let layout = emit_in(process, &block, dir.path());
    let openram = "openram/openram/technology/sky130/tech/sky130.lydrc";
    let mut items = drc(&layout, "die0");
    items.extend(run_deck(openram, &layout, "die0", ["topcell", "output"], &[]));
    assert!(items.is_empty(), "{items:#?}");
    // Each fault alone is in a box of its own.
    let faults = dir.path().join("faults.gds");
    let list = script("die_faults.py", &[layout.to_str().unwrap(), "die0", faults.to_str().unwrap()]);
    let items = drc(&faults, "die0");
    let numbers = |line: &str| -> Vec<i64> { line.split(' ').skip(1).map(|v| v.parse().unwrap()).collect() };
    for fault in list.lines() {
        let area = numbers(fault);
        let found = items.iter().filter(|item| {
            let i = numbers(item);
            i[0] >= area[0] && i[1] >= area[1] && i[2] <= area[2] && i[3] <= area[3]
        });
        assert!(found.count() > 0, "{fault}\n{items:#?}");
    }
    assert!(list.lines().count() >= 6, "{list}");
}

#[test]
fn the_shuttle_deck_finds_every_seeded_fault() {
    let dir = tempfile::tempdir().unwrap();
    let layout = emit_array(&block(5, 8, 1), dir.path());
    let faults = dir.path().join("faults.gds");
    let process = process_file("sky130");
    let list = script("faults.py", &[layout.to_str().unwrap(), "t_rom", &process, faults.to_str().unwrap()]);
    assert_eq!(missed(&list, &drc(&faults, "FAULTS")), [""; 0]);
    assert!(list.lines().count() > 30, "{list}");
}

/// The faults of `faults.py`'s list that have no item, and `none` if it has one.
fn missed(list: &str, items: &[String]) -> Vec<String> {
    let numbers = |line: &str| -> Vec<i64> { line.split(' ').skip(1).map(|v| v.parse().unwrap()).collect() };
    let mut missed = Vec::new();
    for fault in list.lines() {
        let area = numbers(fault);
        let found = items.iter().any(|item| {
            let i = numbers(item);
            i[0] >= area[0] && i[1] >= area[1] && i[2] <= area[2] && i[3] <= area[3]
        });
        let (name, _) = fault.split_once(' ').unwrap();
        if found == (name == "none") {
            missed.push(name.to_owned());
        }
    }
    missed
}

#[test]
fn extracted_transistors_hold_the_weights() {
    let block = block(70, 8, 3);
    let dir = tempfile::tempdir().unwrap();
    let layout = emit_array(&block, dir.path());
    let layout = layout.to_str().unwrap();
    assert_transistors_hold(layout, &expected(&block), "sky130");
}

/// Transistors extracted from tile `t` store `want`, and a moved cut changes the two bits beside its node.
fn assert_transistors_hold(layout: &str, want: &[Vec<u8>], process: &str) {
    let process = process_file(process);
    assert_eq!(rows(&script("extract.py", &[layout, "t_rom", &process])), want);
    let moved = rows(&script("extract.py", &[layout, "t_rom", &process, "5,9"]));
    let differ: Vec<(usize, usize)> = (0..want.len())
        .flat_map(|w| (0..want[0].len()).map(move |b| (w, b)))
        .filter(|&(w, b)| moved[w][b] != want[w][b])
        .collect();
    assert_eq!(differ, [(4, 9), (5, 9)]);
}

#[test]
fn weights_change_the_cut_layer_alone() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [a, b] = [1, 2].map(|seed| emit(&block(59, 16, seed), dirs[seed as usize - 1].path()));
    let (a, b) = (a.to_str().unwrap(), b.to_str().unwrap());
    assert_eq!(script("xor.py", &[a, b, "die0"]), "67/44\n");
    assert_eq!(script("xor.py", &[a, a, "die0"]), "");
}

#[test]
fn other_readers_find_the_same_layout_in_both_files() {
    let dir = tempfile::tempdir().unwrap();
    let gds = emit(&block(119, 64, 1), dir.path());
    let (oasis, moved) = (gds.with_extension("oas"), dir.path().join("moved.oas"));
    let [gds, oasis, moved] = [&gds, &oasis, &moved].map(|p| p.to_str().unwrap());
    // KLayout: nothing differs on any layer, and one moved cut does.
    assert_eq!(script("xor.py", &[gds, oasis, "die0"]), "");
    script("move_cut.py", &[oasis, moved, "t_prog", &process_file("sky130")]);
    assert_eq!(script("xor.py", &[gds, moved, "die0"]), "67/44\n");
    // gdstk: the same rectangles on every layer, and the checksum is that of the file.
    let found = script("read_oasis.py", &[gds, oasis, "die0"]);
    let (last, layers) =
        found.lines().collect::<Vec<_>>().split_last().map(|(a, b)| (*a, b.to_vec())).unwrap();
    assert_eq!(last, "checksum True");
    assert!(layers.len() > 15 && layers.iter().all(|l| l.ends_with(" equal")), "{layers:#?}");
}

#[test]
fn metal_leaves_the_clear_area() {
    let dir = tempfile::tempdir().unwrap();
    let layout = emit_array(&block(119, 64, 1), dir.path());
    let shares = script("density.py", &[layout.to_str().unwrap(), "t_rom", &process_file("sky130")]);
    assert_eq!(shares.lines().count(), 3);
    for line in shares.lines() {
        let share: f64 = line.split(' ').nth(1).unwrap().parse().unwrap();
        assert!(share > 0.0 && share <= 0.60, "{line}");
    }
}
