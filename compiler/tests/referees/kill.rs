//! Runs of the command that are killed, run out of space or may not write: never a result that verifies and is wrong, and a
//! run after it completes. Needs no tool of others; it takes minutes.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pfmc::verify::verify;
use pfmc_ir::backend::NoProgress;

use crate::common::{files, fixture, pfmc, put, retrained, text};

/// Instants of a run at which it is killed.
const INSTANTS: u32 = 100;

/// Names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Kills runs at instants spread over one, half of them where an earlier result of other weights is in the folder.
fn killed(model: &str, target: &str, options: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let path = fixture(model);
    let earlier_model = retrained(model, d);
    let args = |model: &Path, out: &str| -> Vec<String> {
        let mut args = vec![model.to_str().unwrap().to_owned()];
        args.extend(["--target", target, "-o", out].iter().chain(options).map(|a| (*a).to_owned()));
        args
    };
    let run = |args: &[String]| {
        let start = Instant::now();
        let o = pfmc(d, &args.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(o.status.code(), Some(0), "{}", text(&o));
        start.elapsed()
    };
    run(&args(&earlier_model, "earlier"));
    // The last complete run's time, so that kills stay spread over a run where the machine gets slower or faster.
    let mut whole = run(&args(&path, "right"));
    let (right, earlier) = (files(&d.join("right")), files(&d.join("earlier")));
    assert_ne!(right, earlier);
    let before = names(d);
    let (mut died, mut absent, mut old, mut new) = (0, 0, 0, 0);
    for instant in 0..INSTANTS {
        let out = d.join("out");
        if instant % 2 == 1 {
            put(&out, &earlier);
        }
        let mut child = Command::new(env!("CARGO_BIN_EXE_pfmc"))
            .args(args(&path, "out"))
            .current_dir(d)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Once beyond the end, so that a run that is done is among them.
        std::thread::sleep(Duration::from_secs_f64(
            whole.as_secs_f64() * f64::from(instant) / f64::from(INSTANTS - 5),
        ));
        child.kill().unwrap();
        died += u32::from(!child.wait().unwrap().success());
        if out.exists() {
            let found = files(&out);
            assert!(found == right || found == earlier, "instant {instant}: another result has the name");
            verify(&out, None, None, &NoProgress).unwrap_or_else(|e| panic!("instant {instant}: {e}"));
            if found == right { new += 1 } else { old += 1 }
        } else {
            absent += 1;
        }
        whole = run(&args(&path, "out"));
        assert!(files(&out) == right, "instant {instant}: the run after it gives another result");
        fs::remove_dir_all(&out).unwrap();
        assert_eq!(names(d), before, "instant {instant}: something is left");
    }
    println!(
        "{target}: {died} of {INSTANTS} killed; no result {absent}, the earlier one {old}, the right one {new}"
    );
    // Kills that all come too late, or too early, show nothing.
    assert!(died > INSTANTS / 2 && absent > 0 && old > 0, "{died} {absent} {old} {new}");
}

#[test]
fn killed_runs_of_masks_leave_nothing_wrong() {
    // Arrays alone: what is written and in which order is the same, and drawing macros would be most of the time.
    killed("bert.onnx", "asic", &["--process", "sg13g2"]);
}

#[test]
fn killed_runs_of_glass_leave_nothing_wrong() {
    killed("bert.onnx", "glass", &["--preset", "fast"]);
}
