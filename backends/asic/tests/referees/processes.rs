//! Arrays alone of the other built-in processes: the public decks of SKY130 on the variant that is programmed on via, and on IHP
//! SG13G2 the deck that the packages c4m-pdk-ihpsg13g2 and pdkmaster-io-klayout make.

use std::path::Path;
use std::process::Command;

use pfmc_ir::tile::CodeBlock;

use super::macros::both_decks;
use super::{
    assert_transistors_hold, block, emit_array_in, expected, items, missed, output, process_file, root,
    script,
};

/// Shapes whose arrays are 8 x 32, 64 x 64 and 128 x 256: rows and columns of codes.
const SHAPES: [(u32, u32); 3] = [(5, 8), (59, 16), (119, 64)];

/// A layout of one tile, an array alone, in a folder of its own.
fn layout(process: &str, block: &CodeBlock) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let layout = emit_array_in(process, block, dir.path()).to_str().unwrap().to_owned();
    (dir, layout)
}

/// The deck of SG13G2 and the rules it has not; lines as of `drc`.
fn sg13g2(layout: &Path, cell: &str) -> Vec<String> {
    let deck = root().join("sg13g2/sg13g2.drc");
    assert!(deck.is_file(), "{} is missing: run .ci/setup-referees first", deck.display());
    let report = std::path::absolute(layout.with_extension("lyrdb")).unwrap();
    let mut command = Command::new("klayout");
    command.arg("-b").arg("-r").arg(deck).env("SOURCE_FILE", std::path::absolute(layout).unwrap());
    output(command.env("CELL_NAME", cell).env("REPORT_FILE", &report));
    let more = script("sg13g2_more.py", &[layout.to_str().unwrap(), cell]);
    items(&report).into_iter().chain(more.lines().map(str::to_owned)).collect()
}

#[test]
fn decks_find_nothing_in_arrays_programmed_on_via() {
    for (k, n) in SHAPES {
        let (_dir, layout) = layout("sky130-via1", &block(k, n, k));
        let found = both_decks(Path::new(&layout), "t_rom");
        assert!(found.is_empty(), "{k} x {n}: {found:#?}");
    }
}

#[test]
fn the_deck_of_sg13g2_finds_nothing_in_arrays() {
    for (k, n) in SHAPES {
        let (_dir, layout) = layout("sg13g2", &block(k, n, k));
        let found = sg13g2(Path::new(&layout), "t_rom");
        assert!(found.is_empty(), "{k} x {n}: {found:#?}");
    }
}

/// The list of `faults.py` on a small tile, and the layout of faults.
fn faults(process: &str) -> (tempfile::TempDir, String, std::path::PathBuf) {
    let (dir, layout) = layout(process, &block(5, 8, 1));
    let faults = dir.path().join("faults.gds");
    let list = script("faults.py", &[&layout, "t_rom", &process_file(process), faults.to_str().unwrap()]);
    (dir, list, faults)
}

#[test]
fn decks_find_every_seeded_fault_of_the_other_processes() {
    let (_dir, list, layout) = faults("sky130-via1");
    assert_eq!(missed(&list, &both_decks(&layout, "FAULTS")), [""; 0]);
    assert!(list.lines().count() > 40, "{list}");
    let (_dir, list, layout) = faults("sg13g2");
    assert_eq!(missed(&list, &sg13g2(&layout, "FAULTS")), [""; 0]);
    assert!(list.lines().count() > 30, "{list}");
}

#[test]
fn transistors_of_the_other_processes_hold_the_weights() {
    for process in ["sky130-via1", "sg13g2"] {
        let block = block(70, 8, 3);
        let (_dir, layout) = layout(process, &block);
        assert_transistors_hold(&layout, &expected(&block), process);
    }
}

#[test]
fn weights_change_one_layer_of_each_process_and_both_files_hold_it() {
    for (process, cut) in [("sky130-via1", "68/44\n"), ("sg13g2", "19/0\n")] {
        let [(_a, a), (_b, b)] = [1, 2].map(|seed| layout(process, &block(59, 16, seed)));
        assert_eq!(script("xor.py", &[&a, &b, "die0"]), cut);
        let (oasis, moved) = (a.replace(".gds", ".oas"), a.replace("layout.gds", "moved.oas"));
        assert_eq!(script("xor.py", &[&a, &oasis, "die0"]), "");
        script("move_cut.py", &[&oasis, &moved, "t_prog", &process_file(process)]);
        assert_eq!(script("xor.py", &[&a, &moved, "die0"]), cut);
    }
}

#[test]
fn conductors_of_the_other_processes_leave_the_clear_area() {
    for (process, conductors) in [("sky130-via1", 4), ("sg13g2", 3)] {
        let (_dir, layout) = layout(process, &block(119, 64, 1));
        let shares = script("density.py", &[&layout, "t_rom", &process_file(process)]);
        assert_eq!(shares.lines().count(), conductors);
        for line in shares.lines() {
            let share: f64 = line.split(' ').nth(1).unwrap().parse().unwrap();
            assert!(share > 0.0 && share <= 0.60, "{process}: {line}");
        }
    }
}

#[test]
fn taps_of_arrays_are_near_and_antennas_small_and_seeded_faults_are_found() {
    for process in ["sky130-via1", "sg13g2"] {
        let (_dir, layout) = layout(process, &block(119, 16, 1));
        let check = |more: &[&str]| {
            let mut arguments = vec![layout.as_str(), "t_rom"];
            arguments.extend(more);
            arguments.push("--process");
            let file = process_file(process);
            script("wells_antennas.py", &[&arguments[..], &[file.as_str()]].concat())
        };
        assert_eq!(check(&[]), "", "{process}");
        for (fault, kind) in [("tap", "tap "), ("antenna", "antenna ")] {
            let found = check(&[fault]);
            assert!(
                !found.is_empty() && found.lines().all(|l| l.starts_with(kind)),
                "{process} {fault}: {found}"
            );
        }
    }
}

#[test]
fn rules_of_the_process_file_are_those_of_the_package() {
    let rules = root().join("sg13g2/ihp/klayout/tech/drc/rule_decks/sg13g2_tech_default.json");
    let layers = root().join("sg13g2/ihp/layers.yaml");
    let found = script(
        "sg13g2_rules.py",
        &[&process_file("sg13g2"), rules.to_str().unwrap(), layers.to_str().unwrap()],
    );
    assert!(found.starts_with("equal ") && found.lines().count() == 1, "{found}");
}
