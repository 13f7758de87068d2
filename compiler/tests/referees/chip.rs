//! A retrained model on an existing chip: one mask changes, and nothing of the logic.

use std::path::Path;

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

#[test]
fn a_retrained_model_changes_the_programming_mask_and_no_logic() {
    let dir = tempfile::tempdir().unwrap();
    let [first, held] = ["first", "held"].map(|name| dir.path().join(name));
    build(&options("kjv_lm.onnx", "asic", &first)).unwrap();
    let other = Options {
        model: retrained("kjv_lm.onnx", dir.path()),
        base: Some(first.clone()),
        ..options("kjv_lm.onnx", "asic", &held)
    };
    build(&other).unwrap();
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
