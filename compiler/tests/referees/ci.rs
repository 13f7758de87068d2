//! The files that users copy into their CI: the workflow against the published schema, the script on a clean checkout.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::referee::{root, tool};
use crate::common::text;

#[test]
fn the_workflow_is_valid_by_the_published_schema() {
    let check = |file: &Path| {
        let mut c = Command::new(tool("ci/bin/check-jsonschema"));
        let o = c.args(["--builtin-schema", "vendor.github-workflows"]).arg(file).output().unwrap();
        (o.status.success(), text(&o))
    };
    let workflow = root().join("docs/ci/pfmc.yml");
    let (good, said) = check(&workflow);
    assert!(good, "{said}");
    // A workflow with a step that does nothing is told apart.
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad.yml");
    let wrong = fs::read_to_string(&workflow)
        .unwrap()
        .replace("      - name: Rust\n        run: ", "      - name: Rust\n        walk: ");
    fs::write(&bad, wrong).unwrap();
    assert!(!check(&bad).0);
}

/// Copies what was built of other people's crates, so that the script builds pfmc alone: a build of `cargo` depends on the
/// sources of a registry's crate and on options, not on where its target folder is.
fn take_dependencies(built: &Path, target: &Path) {
    let release = target.join("release");
    let copy = |from: &[PathBuf], to: &Path| {
        fs::create_dir_all(to).unwrap();
        // Times of files say what is fresh.
        let mut cp = Command::new("cp");
        assert!(cp.args(["-a", "--"]).args(from).arg(to).status().unwrap().success());
    };
    copy(&[built.join(".fingerprint"), built.join("build")], &release);
    let of_crates = |p: &PathBuf| {
        p.extension().is_some_and(|e| ["rlib", "rmeta", "so", "d"].iter().any(|known| e == *known))
    };
    let all = fs::read_dir(built.join("deps")).unwrap().map(|f| f.unwrap().path());
    copy(&all.filter(of_crates).collect::<Vec<_>>(), &release.join("deps"));
}

/// The script with what it needs, in a folder of a user.
fn script(checkout: &Path, user: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut c = Command::new("bash");
    c.arg(checkout.join("docs/ci/check-model.sh")).args(arguments).current_dir(user);
    // What is built stays, so that the next time only what changed is.
    c.env("CARGO_TARGET_DIR", root().join("target/ci")).env("PFMC_SOURCE", checkout).env_remove("PFMC");
    let o = c.output().unwrap();
    (o.status.code(), text(&o))
}

#[test]
fn the_script_checks_a_model_on_a_clean_checkout() {
    let dir = tempfile::tempdir().unwrap();
    let [checkout, user] = ["pfmc", "user"].map(|n| dir.path().join(n));
    let cloned = Command::new("git")
        .args(["clone", "--quiet", "--no-local"])
        .arg(root())
        .arg(&checkout)
        .output()
        .unwrap();
    assert!(cloned.status.success(), "{}", text(&cloned));
    fs::create_dir(&user).unwrap();
    let target = root().join("target/ci");
    if !target.exists() {
        take_dependencies(Path::new(env!("CARGO_BIN_EXE_pfmc")).parent().unwrap(), &target);
    }
    let model = user.join("model.onnx");
    fs::copy(checkout.join("fixtures/onnx/bert.onnx"), &model).unwrap();
    let (code, said) = script(&checkout, &user, &["model.onnx"]);
    assert_eq!(code, Some(0), "{said}");
    for target in ["asic", "glass"] {
        let results = user.join("pfmc-results");
        assert!(results.join(target).join("manifest.json").exists());
        let junit = fs::read_to_string(results.join(format!("{target}.junit.xml"))).unwrap();
        assert!(junit.contains("<testcase"), "{junit}");
        let sarif = fs::read_to_string(results.join(format!("{target}.sarif"))).unwrap();
        let sarif: serde_json::Value = serde_json::from_str(&sarif).unwrap();
        assert_eq!(sarif["version"], "2.1.0");
    }
    // A model that is none fails, and so does a call without one.
    fs::write(&model, b"no model").unwrap();
    let (code, said) = script(&checkout, &user, &["model.onnx", "asic"]);
    assert!(code == Some(1) && said.contains("E0102"), "{code:?} {said}");
    assert_eq!(script(&checkout, &user, &[]).0, Some(2));
}
