//! Wave propagation by diffractio judges a slice tile; run with
//! `cargo nextest run -p pfmc-glass --profile referees` after `.ci/setup-referees`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Model, folder, open, process};
use pfmc_ir::backend::ProcessText;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Figures of the referee for tile 0 of a 64 x 64 program.
struct Verdict {
    recorded: f64,
    first_order: f64,
    propagated: f64,
}

/// Emits one 64 x 64 slice (C = 64, R = 1, 256 um wide, 950 um long) and returns its folder.
fn slice(name: &str, process: &ProcessText) -> PathBuf {
    let model = Model::new(&[(64, 64)]);
    let dir = folder(name);
    model.emit(open(process).as_ref(), &dir).unwrap_or_else(|e| panic!("{e}"));
    let bytes: Vec<u8> = model.content[&0].values.iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(dir.join("weights.f32"), bytes).unwrap();
    dir
}

/// Every `every`-th of the 64 inputs through the referee.
fn judge(dir: &Path, fault: &str, every: u32) -> Verdict {
    let root =
        std::env::var_os("PFMC_REFEREES").map_or_else(|| workspace().join("target/referees"), PathBuf::from);
    let python = root.join("optics/bin/python");
    assert!(python.exists(), "{} is missing: run .ci/setup-referees", python.display());
    let script = workspace().join("fixtures/referees/glass/wave_propagation.py");
    let out = Command::new(python)
        .arg(script)
        .args([dir.join("schedule.pfmg"), dir.join("weights.f32")])
        .args(["0", fault, &every.to_string()])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    println!("{fault}: {}", text.trim());
    let get = |key: &str| -> f64 {
        let at = text.find(&format!("\"{key}\": ")).unwrap() + key.len() + 4;
        text[at..].split([',', '}']).next().unwrap().trim().parse().unwrap()
    };
    Verdict {
        recorded: get("recorded_db"),
        first_order: get("first_order_db"),
        propagated: get("propagated_db"),
    }
}

/// A slice: one row of ports, and flips until the target is reached.
fn slice_process() -> ProcessText {
    process(&[("rows_max = 8 ", "rows_max = 1 "), ("flip_steps = 24", "flip_steps = 200")])
}

/// What a good tile must reach: the recorded figure less 1 dB, and 30 dB.
fn passes(v: &Verdict) -> bool {
    v.propagated >= (v.recorded - 1.0).max(30.0)
}

#[test]
fn wave_propagation_agrees_with_the_recorded_ratio() {
    let dir = slice("referee", &slice_process());
    let v = judge(&dir, "none", 1);
    assert!(
        (v.first_order - v.recorded).abs() < 0.1,
        "first order {} recorded {}",
        v.first_order,
        v.recorded
    );
    assert!(passes(&v), "propagated {} recorded {}", v.propagated, v.recorded);
    // Controls: 16 inputs each.
    for fault in ["depth-reversed", "layers-shuffled", "x-mirrored", "index-off"] {
        let v = judge(&dir, fault, 4);
        assert!(!passes(&v), "{fault} passes at {} dB", v.propagated);
    }
}

#[test]
fn a_singular_tile_fails() {
    let mut p = slice_process();
    for (from, to) in [
        ("length_per_column_um = 14.84", "length_per_column_um = 9.0"),
        ("kappa_min = 1.4", "kappa_min = 0.5"),
        ("snr_min_db = 30.0", "snr_min_db = -10.0"),
    ] {
        assert!(p.toml.contains(from));
        p.toml = p.toml.replace(from, to);
    }
    let v = judge(&slice("referee-singular", &p), "none", 4);
    assert!(!passes(&v), "kappa below 1 passes at {} dB", v.propagated);
}
