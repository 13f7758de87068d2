//! A retrained model on an existing chip: one mask changes, and nothing of the logic.

use std::path::{Path, PathBuf};

use pfmc::compile::Options;
use pfmc::verify::open;
use pfmc_asic::process::Process;
use pfmc_asic::rtl;

use crate::common::referee::script;
use crate::common::{build, options, retrained};

/// KLayout's comparison of the first die of two folders, with a shape of the second moved: the layers on which they differ.
fn differing(a: &Path, b: &Path, moved: &[&str]) -> Vec<String> {
    let [a, b] = [a, b].map(|folder| folder.join("layout.oas").display().to_string());
    let text = script("asic/masks.py", &[&[a.as_str(), b.as_str(), "die0", "67/44"], moved].concat());
    text.lines().map(str::to_owned).collect()
}

/// The trained decoder compiled, and a retrained one compiled onto its chip.
fn retrained_on_a_chip(dir: &Path) -> [PathBuf; 2] {
    let [first, held] = ["first", "held"].map(|name| dir.join(name));
    build(&options("kjv_lm.onnx", "asic", &first)).unwrap();
    let other = Options {
        model: retrained("kjv_lm.onnx", dir),
        base: Some(first.clone()),
        ..options("kjv_lm.onnx", "asic", &held)
    };
    build(&other).unwrap();
    [first, held]
}

#[test]
fn flattened_dies_of_a_retrained_model_differ_in_the_programming_layer_alone() {
    let dir = tempfile::tempdir().unwrap();
    let layouts =
        retrained_on_a_chip(dir.path()).map(|folder| folder.join("layout.oas").display().to_string());
    let [first, held] = layouts.each_ref().map(String::as_str);
    // Die, layer, shapes of the first, area in um2 where they differ.
    let compared = |more: &[&str]| -> Vec<(String, u64, f64)> {
        let text = script("asic/xor_die.py", &[&[first, held], more].concat());
        let line = |line: &str| {
            println!("{line}");
            let [die, layer, shapes, area] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            assert_eq!(die, "die0");
            (layer.to_owned(), shapes.parse().unwrap(), area.parse().unwrap())
        };
        text.lines().map(line).collect()
    };
    let layers = compared(&[]);
    for (layer, shapes, area) in &layers {
        assert_eq!(*area > 0.0, layer == "67/44", "{layer}: {shapes} shapes, {area} um2");
    }
    // Every bit has a contact, and every node a cut.
    let shapes = |of: &str| layers.iter().find(|l| l.0 == of).unwrap().1;
    assert!(layers.len() > 20 && shapes("67/44") > 6_000_000 && shapes("66/44") > 6_000_000);
    // A shape of a macro that is moved is seen.
    assert!(compared(&["base_group", "68/44"])[0].2 > 0.0);
}

#[test]
fn a_retrained_model_changes_the_programming_mask_and_no_logic() {
    let dir = tempfile::tempdir().unwrap();
    let [first, held] = retrained_on_a_chip(dir.path());
    assert_eq!(differing(&first, &held, &[]), ["67/44"]);
    assert_eq!(differing(&first, &first, &[]), [""; 0]);
    // A shape of a macro that is moved is seen.
    assert_eq!(differing(&first, &held, &["base_group", "68/44"]), ["67/44", "68/44"]);
    let files = [&first, &held].map(|folder| {
        let opened = open(folder).unwrap();
        let process = Process::open(&opened.process).unwrap();
        rtl::program(&process, &opened.program, process.mux().unwrap()).unwrap().files
    });
    assert!(files[0].len() > 5 && files[0] == files[1]);
}
