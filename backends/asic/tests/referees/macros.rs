//! ROM macros: two design-rule decks, layout against netlist by two comparers, and simulated reads.

use std::path::{Path, PathBuf};
use std::process::Command;

use pfmc_asic::bits::BitMatrix;
use pfmc_asic::macros::netlist::Dialect;
use pfmc_asic::macros::{Macro, MacroShape};
use pfmc_asic::process::Process;

use super::{built_in, drc, emit_in, output, root, run_deck, script};

/// The processes with macros, and the layer that weights change in each.
const VARIANTS: [(&str, &str); 2] = [("sky130", "67/44"), ("sky130-via1", "68/44")];

/// The built-in process of a name.
pub(super) fn process(name: &str) -> Process {
    Process::open(&built_in(name)).unwrap()
}

/// A macro of bits that look random, as `rom.gds`, `rom.spice`, `sim.spice` and `bits.txt`.
struct Files(tempfile::TempDir);

impl Files {
    fn new(process: &str, word_lines: u32, bit_lines: u32, mux: u32) -> Self {
        let process = self::process(process);
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

    /// The first addresses of a macro with one output at which a bit is read.
    fn addresses(&self, bit: &str, count: usize) -> Vec<String> {
        let bits = std::fs::read_to_string(self.path("bits.txt")).unwrap();
        let bits = bits.split_whitespace().flat_map(|line| line.split("").filter(|b| !b.is_empty()));
        bits.enumerate().filter(|(_, b)| *b == bit).map(|(at, _)| at.to_string()).take(count).collect()
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
    for (process, _) in VARIANTS {
        for (word_lines, bit_lines, mux) in [(64, 64, 16), (72, 128, 8), (16, 16, 16)] {
            let files = Files::new(process, word_lines, bit_lines, mux);
            let items = both_decks(&files.path("rom.gds"), "rom");
            assert!(items.is_empty(), "{process} {word_lines} x {bit_lines} / {mux}: {items:#?}");
        }
    }
}

#[test]
fn the_shuttles_other_scripts_find_nothing_in_macros() {
    for (process, _) in VARIANTS {
        for size in [16, 64] {
            let files = Files::new(process, size, size, 16);
            for name in [
                "met_min_ca_density.lydrc",
                "pin_label_purposes_overlapping_drawing.rb.drc",
                "zeroarea.rb.drc",
            ] {
                let deck = format!("cf-precheck/cf_precheck/drc_scripts/{name}");
                let cleaned = format!("cleaned_output={}", files.text("cleaned.gds"));
                let names = ["top_cell", "report"];
                let items = run_deck(&deck, &files.path("rom.gds"), "rom", names, &[&cleaned]);
                assert!(items.is_empty(), "{process} {size} x {size} {name}: {items:#?}");
            }
        }
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
    for (process, _) in VARIANTS {
        // Those of 64 x 64 also as the largest ones are compared.
        let flat = &[None][..];
        for (word_lines, bit_lines, mux, sides) in
            [(64, 64, 16, &[None, Some(16)][..]), (24, 32, 8, flat), (16, 16, 16, flat)]
        {
            compared(&Files::new(process, word_lines, bit_lines, mux), &["wlen", "WL3"], sides);
        }
    }
}

/// Compares layout and netlist, and the layout with netlists in which one gate on each of `nets` is moved to ground. For netgen,
/// once for each of `sides`, arrays are cut into blocks of side x side, or not: it does not end reading half a million transistors
/// of one cell.
fn compared(files: &Files, nets: &[&str], sides: &[Option<u32>]) {
    let netgen = |side: &Option<u32>, both: [&str; 2]| {
        let Some(side) = side else { return netgen(files, both) };
        let cut = both.map(|name| {
            let cut = format!("{name}.blocks.spice");
            script("split_array.py", &[&files.text(name), &files.text(&cut), &side.to_string()]);
            cut
        });
        netgen(files, cut.each_ref().map(String::as_str))
    };
    let [layout, netlist, extracted] = ["rom.gds", "rom.spice", "extracted.spice"].map(|n| files.text(n));
    let compare = |more: &[&str]| {
        let mut arguments = vec![layout.as_str(), "rom", &netlist, &extracted];
        arguments.extend(more);
        script("lvs_macro.py", &arguments).lines().last().unwrap_or_default().to_owned()
    };
    assert_eq!(compare(&[]), "match");
    for side in sides {
        assert_eq!(netgen(side, ["extracted.spice", "rom.spice"]), "Circuits match uniquely.", "{side:?}");
    }
    for net in nets {
        assert_eq!(compare(&[net]), "differ", "{net}");
        let changed = "extracted.spice.changed.spice";
        for side in sides {
            let said = netgen(side, ["extracted.spice", changed]);
            assert_eq!(said, "Netlists do not match.", "{net} {side:?}");
        }
    }
}

/// Minutes and gigabytes for each of both.
#[test]
#[ignore = "half an hour of design-rule checks and comparison"]
fn the_largest_macros_are_clean_and_equal_their_netlists() {
    for (process, _) in VARIANTS {
        let files = Files::new(process, 512, 1024, 16);
        let items = drc(&files.path("rom.gds"), "rom");
        assert!(items.is_empty(), "{process}: {items:#?}");
        compared(&files, &["WL3"], &[Some(64)]);
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
    for (process, _) in VARIANTS {
        let files = Files::new(process, 16, 16, 16);
        let read = reads(&files, "sim.spice", ["tt", "1.8", "25"], &["0", "17", "255", "34"]);
        assert!(read.starts_with("wrong 0 of 8 "), "{process}: {read}");
        let access: f64 = read.split(' ').nth(5).unwrap().parse().unwrap();
        assert!((0.3..3.0).contains(&access), "{process}: {read}");
    }
}

/// Where a macro is slowest, slow and hot, fastest, and leaks most.
const CORNERS: [[&str; 3]; 4] =
    [["ss", "1.62", "-40"], ["ss", "1.62", "125"], ["ff", "1.98", "-40"], ["ff", "1.98", "125"]];

#[test]
fn reads_of_a_macro_programmed_on_via_give_its_bits_where_it_is_slowest_and_where_it_leaks_most() {
    let files = Files::new("sky130-via1", 16, 16, 16);
    // A one and a zero of the array.
    let [[one], [zero]] = ["1", "0"].map(|bit| files.addresses(bit, 1).try_into().unwrap());
    let access = [CORNERS[0], CORNERS[3]].map(|corner| {
        let read = reads(&files, "sim.spice", corner, &[&one, &zero]);
        assert!(read.starts_with("wrong 0 of 4 "), "{corner:?}: {read}");
        println!("{corner:?}: {read}");
        read.split(' ').nth(5).unwrap().parse::<f64>().unwrap()
    });
    assert!(access[1] < access[0], "{access:?}");
}

/// 3 to 11 minutes a corner: `cargo nextest run --release -p pfmc-asic --profile referees --run-ignored only -E 'test(extremes)'`.
#[test]
#[ignore = "an hour of simulation"]
fn reads_of_a_macro_give_its_bits_at_the_extremes() {
    for (process, _) in VARIANTS {
        let files = Files::new(process, 16, 16, 16);
        let addresses = ["0", "17", "255", "34", "240", "15", "136", "119"];
        for corner in CORNERS {
            let read = reads(&files, "sim.spice", corner, &addresses);
            assert!(read.starts_with("wrong 0 of 16 "), "{process} {corner:?}: {read}");
        }
    }
}

#[test]
fn one_changed_connection_of_a_macro_reads_a_wrong_bit() {
    let files = Files::new("sky130", 16, 16, 16);
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
    for (process, cut) in VARIANTS {
        let [files, other] = [(); 2].map(|()| Files::new(process, 16, 32, 16));
        let process = self::process(process);
        let rom = Macro::new(&process, MacroShape { word_lines: 16, bit_lines: 32, mux: 16 }).unwrap();
        let gds = rom.layout("rom").unwrap().gds(&BitMatrix::new(16, 32)).unwrap();
        std::fs::write(other.path("rom.gds"), gds).unwrap();
        let differ = script("xor.py", &[&files.text("rom.gds"), &other.text("rom.gds"), "rom"]);
        assert_eq!(differ, format!("{cut}\n"));
    }
}

#[test]
fn weights_change_the_cut_layer_of_a_die_of_macros_alone() {
    for (process, cut) in VARIANTS {
        let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let [a, b] = [0, 1]
            .map(|i| emit_in(process, &super::block(59, 16, i as u32), dirs[i].path()).display().to_string());
        assert_eq!(script("xor.py", &[&a, &b, "die0"]), format!("{cut}\n"));
        assert_eq!(script("xor.py", &[&a, &a.replace(".gds", ".oas"), "die0"]), "");
    }
}

#[test]
fn taps_are_near_and_antennas_small_and_seeded_faults_are_found() {
    for (process, _) in VARIANTS {
        let files = Files::new(process, 64, 64, 16);
        let layout = files.text("rom.gds");
        let items = |more: &[&str]| {
            let mut arguments = vec![layout.as_str(), "rom"];
            arguments.extend(more);
            script("wells_antennas.py", &arguments)
        };
        assert_eq!(items(&[]), "", "{process}");
        for (fault, kind) in [("tap", "tap "), ("well", "tap "), ("antenna", "antenna met1 ")] {
            let found = items(&[fault]);
            let named = found.lines().all(|l| l.starts_with(kind));
            assert!(!found.is_empty() && named, "{process} {fault}: {found}");
        }
    }
}

/// The netlist of the slowest read of the largest macro of a process, in a folder of its own.
fn largest_path(process: &str) -> (tempfile::TempDir, String) {
    let process = self::process(process);
    let rom = Macro::new(&process, MacroShape { word_lines: 512, bit_lines: 1024, mux: 16 }).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let netlist = dir.path().join("path.spice");
    std::fs::write(&netlist, rom.critical_path("path")).unwrap();
    let netlist = netlist.to_str().unwrap().to_owned();
    (dir, netlist)
}

#[test]
fn the_slowest_read_of_a_large_macro_is_right_and_settles() {
    for (process, _) in VARIANTS {
        let (_dir, netlist) = largest_path(process);
        let models = models();
        let read = script("critical_path.py", &[&models, &netlist, "tt", "1.8", "25", "12"]);
        let numbers: Vec<f64> = read.split_whitespace().filter_map(|w| w.parse().ok()).collect();
        let [access, recovery, high, held] = numbers[..] else { panic!("{process}: {read}") };
        assert!((1.0..10.0).contains(&access) && (0.5..10.0).contains(&recovery), "{process}: {read}");
        assert!(high > 0.95 && held > 0.95, "{process}: {read}");
    }
}

#[test]
fn the_keeper_holds_a_line_of_leaking_cells_and_without_it_the_line_falls() {
    let (_dir, netlist) = largest_path("sky130");
    let models = models();
    // 20 us; the second time the cells leak a hundred times as much.
    for (cells, falls_below) in [("1", 0.9), ("100", 0.2)] {
        let line = script("hold_line.py", &[&models, &netlist, "ff", "1.98", "125", "20", cells]);
        let levels: Vec<f64> = line.split_whitespace().filter_map(|w| w.parse().ok()).collect();
        assert!(levels[0] > 0.95 && levels[1] < falls_below, "{line}");
    }
}
