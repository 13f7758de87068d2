//! ROM macros: two design-rule decks, layout against netlist by two comparers, and simulated reads.

use std::path::{Path, PathBuf};
use std::process::Command;

use pfmc_asic::bits::BitMatrix;
use pfmc_asic::macros::netlist::Dialect;
use pfmc_asic::macros::{Macro, MacroShape};
use pfmc_asic::process::Process;
use pfmc_ir::backend::ProcessText;

use super::{drc, output, root, run_deck, script};

/// A macro of bits that look random, as `rom.gds`, `rom.spice`, `sim.spice` and `bits.txt`.
struct Files(tempfile::TempDir);

impl Files {
    fn new(word_lines: u32, bit_lines: u32, mux: u32) -> Self {
        let text = ProcessText { name: "sky130".into(), toml: pfmc_asic::SKY130.into() };
        let process = Process::open(&text).unwrap();
        let shape = MacroShape { word_lines, bit_lines, mux };
        let rom = Macro::new(&process, shape).unwrap();
        let mut bits = BitMatrix::new(word_lines as usize, bit_lines as usize);
        let mut lines = String::new();
        let mut state = 1u64;
        for word_line in 0..word_lines as usize {
            for bit_line in 0..bit_lines as usize {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                if state >> 63 == 1 {
                    bits.set(word_line, bit_line);
                }
                lines.push(if state >> 63 == 1 { '1' } else { '0' });
            }
            lines.push('\n');
        }
        let files = Files(tempfile::tempdir().unwrap());
        std::fs::write(files.path("rom.gds"), rom.layout("rom").unwrap().gds(&bits).unwrap()).unwrap();
        std::fs::write(files.path("rom.spice"), rom.spice(&bits, "rom", Dialect::Compare)).unwrap();
        std::fs::write(files.path("sim.spice"), rom.spice(&bits, "rom", Dialect::Simulate)).unwrap();
        std::fs::write(files.path("bits.txt"), lines).unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }
}

/// The foundry's transistor models.
pub(super) fn models() -> String {
    let models = "sky130/sky130/src/sky130_fd_pr/combined_models/continuous/sky130.lib.spice";
    std::path::absolute(root().join(models)).unwrap().display().to_string()
}

/// Items of the shuttle's deck and of openram's.
pub(super) fn both_decks(layout: &Path, cell: &str) -> Vec<String> {
    let mut items = drc(layout, cell);
    let deck = "openram/openram/technology/sky130/tech/sky130.lydrc";
    items.extend(run_deck(deck, layout, cell, ["topcell", "output"], &[]));
    items
}

#[test]
fn two_decks_find_nothing_in_macros() {
    for (word_lines, bit_lines, mux) in [(64, 64, 16), (72, 128, 8), (16, 16, 16)] {
        let files = Files::new(word_lines, bit_lines, mux);
        let items = both_decks(&files.path("rom.gds"), "rom");
        assert!(items.is_empty(), "{word_lines} x {bit_lines} / {mux}: {items:#?}");
    }
}

/// netgen's last word on two netlists of the folder.
fn netgen(files: &Files, [a, b]: [&str; 2]) -> String {
    let setup = root().join("cf-precheck/cf_precheck/be_checks/tech/sky130A/sky130A_setup.tcl");
    let setup = std::path::absolute(setup).unwrap();
    let mut command = Command::new("netgen-lvs");
    command.current_dir(files.0.path()).args(["-batch", "lvs", &format!("{a} rom"), &format!("{b} rom")]);
    output(command.arg(setup).arg("compared.out"));
    let report = std::fs::read_to_string(files.path("compared.out")).unwrap();
    report.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn extracted_macros_equal_their_netlists_in_two_comparers() {
    for (word_lines, bit_lines, mux) in [(64, 64, 16), (24, 32, 8), (16, 16, 16)] {
        let files = Files::new(word_lines, bit_lines, mux);
        let [layout, netlist, extracted] = ["rom.gds", "rom.spice", "extracted.spice"].map(|n| files.text(n));
        let compare = |more: &[&str]| {
            let mut arguments = vec![layout.as_str(), "rom", &netlist, &extracted];
            arguments.extend(more);
            script("lvs_macro.py", &arguments).lines().last().unwrap_or_default().to_owned()
        };
        assert_eq!(compare(&[]), "match", "{word_lines} x {bit_lines} / {mux}");
        assert_eq!(netgen(&files, ["extracted.spice", "rom.spice"]), "Circuits match uniquely.");
        // One gate moved to ground, in the decoder and in the array.
        for net in ["wlen", "WL3"] {
            assert_eq!(compare(&[net]), "differ", "{net}");
            let changed = "extracted.spice.changed.spice";
            assert_eq!(netgen(&files, ["extracted.spice", changed]), "Netlists do not match.", "{net}");
        }
    }
}

/// Reads addresses of a macro of 16 x 16 with all its transistors at a corner (models, volts, degrees Celsius).
fn reads(files: &Files, netlist: &str, [models_of, volts, celsius]: [&str; 3], addresses: &[&str]) -> String {
    let (models, netlist, bits) = (models(), files.text(netlist), files.text("bits.txt"));
    let mut arguments = vec![models.as_str(), &netlist, &bits, "16", models_of, volts, celsius, "10"];
    arguments.extend(addresses);
    script("read_macro.py", &arguments)
}

#[test]
fn reads_of_a_macro_give_its_bits() {
    let files = Files::new(16, 16, 16);
    let read = reads(&files, "sim.spice", ["tt", "1.8", "25"], &["0", "17", "255", "34"]);
    assert!(read.starts_with("wrong 0 of 8 "), "{read}");
    let access: f64 = read.split(' ').nth(5).unwrap().parse().unwrap();
    assert!((0.3..3.0).contains(&access), "{read}");
}

/// 3 to 11 minutes a corner: `cargo nextest run --release -p pfmc-asic --profile referees --run-ignored only -E 'test(extremes)'`.
#[test]
#[ignore = "half an hour of simulation"]
fn reads_of_a_macro_give_its_bits_at_the_extremes() {
    let files = Files::new(16, 16, 16);
    let addresses = ["0", "17", "255", "34", "240", "15", "136", "119"];
    for corner in [["ss", "1.62", "-40"], ["ss", "1.62", "125"], ["ff", "1.98", "-40"], ["ff", "1.98", "125"]]
    {
        let read = reads(&files, "sim.spice", corner, &addresses);
        assert!(read.starts_with("wrong 0 of 16 "), "{corner:?}: {read}");
    }
}

#[test]
fn one_changed_connection_of_a_macro_reads_a_wrong_bit() {
    let files = Files::new(16, 16, 16);
    // Word line 1, bit line 1, which is read at address 17: its transistor joins ground to ground.
    let text = std::fs::read_to_string(files.path("sim.spice")).unwrap();
    let transistor = |l: &&str| l.starts_with('X') && l.contains(" WL1 ") && l.contains(" BL1 ");
    let [line] = text.lines().filter(transistor).collect::<Vec<_>>()[..] else { panic!("not one 1 there") };
    std::fs::write(files.path("changed.spice"), text.replace(line, &line.replace(" BL1 ", " VGND ")))
        .unwrap();
    let read = reads(&files, "changed.spice", ["tt", "1.8", "25"], &["17", "34"]);
    let wrong: Vec<&str> = read.lines().collect();
    assert!(
        wrong[0].starts_with("wrong 2 of 4 ") && wrong[1..].iter().all(|l| l.starts_with("17 ")),
        "{read}"
    );
}

#[test]
fn weights_change_the_cut_layer_of_a_macro_alone() {
    let files = Files::new(16, 32, 16);
    let other = Files::new(16, 32, 16);
    let text = ProcessText { name: "sky130".into(), toml: pfmc_asic::SKY130.into() };
    let process = Process::open(&text).unwrap();
    let rom = Macro::new(&process, MacroShape { word_lines: 16, bit_lines: 32, mux: 16 }).unwrap();
    std::fs::write(other.path("rom.gds"), rom.layout("rom").unwrap().gds(&BitMatrix::new(16, 32)).unwrap())
        .unwrap();
    assert_eq!(script("xor.py", &[&files.text("rom.gds"), &other.text("rom.gds"), "rom"]), "67/44\n");
}

#[test]
fn taps_are_near_and_antennas_small_and_seeded_faults_are_found() {
    let files = Files::new(64, 64, 16);
    let layout = files.text("rom.gds");
    let items = |more: &[&str]| {
        let mut arguments = vec![layout.as_str(), "rom"];
        arguments.extend(more);
        script("wells_antennas.py", &arguments)
    };
    assert_eq!(items(&[]), "");
    for (fault, kind) in [("tap", "tap "), ("well", "tap "), ("antenna", "antenna met1 ")] {
        let found = items(&[fault]);
        assert!(!found.is_empty() && found.lines().all(|l| l.starts_with(kind)), "{fault}: {found}");
    }
}

/// The netlist of the slowest read of the largest macro, in a folder of its own.
fn largest_path() -> (tempfile::TempDir, String) {
    let text = ProcessText { name: "sky130".into(), toml: pfmc_asic::SKY130.into() };
    let process = Process::open(&text).unwrap();
    let rom = Macro::new(&process, MacroShape { word_lines: 512, bit_lines: 1024, mux: 16 }).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let netlist = dir.path().join("path.spice");
    std::fs::write(&netlist, rom.critical_path("path")).unwrap();
    let netlist = netlist.to_str().unwrap().to_owned();
    (dir, netlist)
}

#[test]
fn the_slowest_read_of_a_large_macro_is_right_and_settles() {
    let (_dir, netlist) = largest_path();
    let models = models();
    let read = script("critical_path.py", &[&models, &netlist, "tt", "1.8", "25", "12"]);
    let numbers: Vec<f64> = read.split_whitespace().filter_map(|w| w.parse().ok()).collect();
    let [access, recovery, high, held] = numbers[..] else { panic!("{read}") };
    assert!((1.0..10.0).contains(&access) && (0.5..10.0).contains(&recovery), "{read}");
    assert!(high > 0.95 && held > 0.95, "{read}");
}

#[test]
fn the_keeper_holds_a_line_of_leaking_cells_and_without_it_the_line_falls() {
    let (_dir, netlist) = largest_path();
    let models = models();
    // 20 us; the second time the cells leak a hundred times as much.
    for (cells, falls_below) in [("1", 0.9), ("100", 0.2)] {
        let line = script("hold_line.py", &[&models, &netlist, "ff", "1.98", "125", "20", cells]);
        let levels: Vec<f64> = line.split_whitespace().filter_map(|w| w.parse().ok()).collect();
        assert!(levels[0] > 0.95 && levels[1] < falls_below, "{line}");
    }
}
