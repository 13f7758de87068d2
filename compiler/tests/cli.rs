//! The command line: exit codes, bad input, what is left behind.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside of test functions

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use common::{expect, files, fixture, put, text};
use pfmc::verify::verify;
use pfmc_ir::backend::NoProgress;

#[test]
fn the_main_job_needs_no_flag_but_the_target() {
    let dir = tempfile::tempdir().unwrap();
    let model = fixture("bert.onnx");
    let model = model.to_str().unwrap();
    let t =
        expect(dir.path(), &[model, "--target", "asic"], 0, &["bert.onnx -> bert.asic", "tiles", "verified"]);
    assert!(t.contains("mm2"), "{t}");
    assert!(dir.path().join("bert.asic/layout.gds").exists());
    expect(dir.path(), &["verify", "bert.asic", "--model", model], 0, &["verified"]);
    let gds = dir.path().join("bert.asic/layout.gds");
    let mut bytes = fs::read(&gds).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&gds, bytes).unwrap();
    expect(dir.path(), &["verify", "bert.asic"], 1, &["E0701"]);
    expect(dir.path(), &["--target", "asic", "verify", "bert.asic"], 2, &["E0005", "beside a command"]);
    let json = expect(dir.path(), &["--message-format", "json", "verify", "bert.asic"], 1, &[]);
    for line in json.lines() {
        assert!(line.starts_with('{') && line.contains("\"code\""), "{line}");
    }
}

#[test]
fn other_processes_compile_and_their_files_are_judged_first() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let model = fixture("bert.onnx");
    let model = model.to_str().unwrap();
    let asic = Path::new(env!("CARGO_MANIFEST_DIR")).join("../backends/asic/process");
    for process in ["sky130-via1", "sg13g2"] {
        // By name, and as a file of one's own.
        expect(d, &[model, "--target", "asic", "--process", process, "-o", process], 0, &["verified"]);
        let text = fs::read_to_string(asic.join(process).with_extension("toml")).unwrap();
        fs::write(d.join("own.toml"), &text).unwrap();
        expect(d, &[model, "--target", "asic", "--process", "own.toml", "-o", "own"], 0, &["verified"]);
        assert_eq!(
            fs::read(d.join("own/layout.gds")).unwrap(),
            fs::read(d.join(process).join("layout.gds")).unwrap()
        );
        expect(d, &["verify", process, "--model", model], 0, &["verified"]);
        // Of a process without macros there is no hand-off, and pictures leave them out.
        let macros = process == "sky130-via1";
        let (code, words): (i32, &[&str]) = if macros { (0, &["macros"]) } else { (2, &["E0005"]) };
        expect(d, &["handoff", process, "-o", "handoff"], code, words);
        expect(d, &["export", process, "--format", "svg", "-o", "pictures"], 0, &["cells.svg"]);
        assert_eq!([d.join("pictures/macro.svg").exists(), d.join("handoff").exists()], [macros; 2]);
        for made in ["own", "pictures", "handoff"] {
            let _ = fs::remove_dir_all(d.join(made));
        }
        for (change, to, words) in [
            ("via_space_nm = ", "via_spacing_nm = ", ["E0501", "`rules.via_space_nm` is missing"]),
            ("pad_x_nm = [", "pad_x_nm = [5_000, ", ["E0501", "`cell.pad_x_nm` is [5000, "]),
            ("width_nm = 26_000_000", "width_nm = 90_000", ["E0502", "`reticle.width_nm` = 90000"]),
            ("li1_area_nm2 = ", "li1_area_nm2 = 9", ["E0502", "rules.li1_area_nm2 asks for at least 9"]),
        ] {
            assert!(text.contains(change), "{change}");
            fs::write(d.join("own.toml"), text.replacen(change, to, 1)).unwrap();
            expect(d, &[model, "--target", "asic", "--process", "own.toml", "-o", "own"], 1, &words);
            assert!(!d.join("own").exists(), "{change}");
        }
    }
}

#[test]
fn glass_is_drawn_and_its_voxels_are_written_and_other_wishes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let model = fixture("llama.onnx");
    for target in ["glass", "asic"] {
        expect(d, &[model.to_str().unwrap(), "--target", target, "-o", target], 0, &["verified"]);
    }
    let names = ["plate0", "slice", "ports", "weights"];
    for format in ["svg", "png"] {
        let files = names.map(|name| format!("{name}.{format}"));
        expect(
            d,
            &["export", "glass", "--format", format, "-o", "out"],
            0,
            &files.each_ref().map(|f| &f[..]),
        );
    }
    // The plate lists the names that tensors of the model have up to their numbers.
    let plate = fs::read_to_string(d.join("out/plate0.svg")).unwrap();
    assert!(plate.matches("<text").count() > 5, "{plate}");
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(d.join("glass/manifest.json")).unwrap()).unwrap();
    let held = manifest["tiles"].as_array().unwrap().iter().find(|t| t.get("region").is_some()).unwrap();
    let tile = held["name"].as_str().unwrap();
    let named = |ending: &str| format!("{tile}{ending}");
    let voxels = [
        ("tiff", named(".tif")),
        ("zarr", "tiles.zarr".to_owned()),
        ("ovf", named(".ovf")),
        ("pgm", named("")),
        ("gwl", named(".gwl")),
    ];
    for (format, file) in &voxels {
        expect(d, &["export", "glass", "--format", format, "--tile", tile, "-o", "one"], 0, &[file]);
    }
    assert_eq!(fs::read_dir(d.join("one")).unwrap().count(), voxels.len());
    expect(d, &["export", "glass", "--format", "gwl", "-o", "no"], 2, &["E0005", "--tile"]);
    expect(d, &["export", "glass", "--format", "tiff", "--tile", "none", "-o", "no"], 2, &["E0005", "none"]);
    expect(d, &["export", "asic", "--format", "zarr", "-o", "no"], 2, &["E0005", "target asic"]);
    assert!(!d.join("no").exists());
}

#[test]
fn masks_go_through_the_commands_of_holograms() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let model = fixture("llama.onnx");
    let model = model.to_str().unwrap();
    let mask = [model, "--target", "glass", "--process", "fused-silica-mask"];
    let compile = |more: &[&str], code, words: &[&str]| {
        expect(d, &[&mask[..], more].concat(), code, words);
    };
    compile(&["-o", "mask"], 0, &["verified", "of it azimuth"]);
    expect(d, &["verify", "mask", "--model", model], 0, &[]);
    expect(d, &["report", "mask"], 0, &["report.html"]);
    expect(
        d,
        &["estimate", model, "--target", "glass", "--process", "fused-silica-mask"],
        0,
        &["tiles: masks"],
    );
    let names = ["plate0.png", "pixels.png", "weights.png"];
    expect(d, &["export", "mask", "--format", "png", "-o", "out"], 0, &names);
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(d.join("mask/manifest.json")).unwrap()).unwrap();
    let held = manifest["tiles"].as_array().unwrap().iter().find(|t| t.get("region").is_some()).unwrap();
    let tile = held["name"].as_str().unwrap();
    for format in ["tiff", "zarr", "ovf", "pgm"] {
        expect(d, &["export", "mask", "--format", format, "--tile", tile, "-o", "one"], 0, &["one"]);
    }
    let ovf = fs::read(d.join("one").join(format!("{tile}.ovf"))).unwrap();
    assert!(String::from_utf8_lossy(&ovf[..600]).contains("valueunits: degree"));
    expect(d, &["export", "mask", "--format", "gwl", "--tile", tile, "-o", "no"], 2, &["E0005", "is a mask"]);
    // What holograms alone have.
    compile(&["-o", "no", "--preset", "fast"], 2, &["E0004", "design.cg_steps"]);
    compile(&["-o", "no", "--snr-target", "20"], 2, &["E0004"]);
    fs::write(d.join("writer.toml"), "[calibration.focus]\ndepth_ratio = 1.5\n").unwrap();
    compile(&["-o", "no", "--calibration", "writer.toml"], 1, &["E0601", "masks have none"]);
    let toml = fs::read_to_string(d.join("mask/process.toml")).unwrap();
    assert!(toml.contains("x_um = 10.0"));
    fs::write(d.join("thick.toml"), toml.replace("x_um = 10.0", "x_um = 5.0")).unwrap();
    let thick = [model, "--target", "glass", "--process", "thick.toml", "-o", "no"];
    expect(d, &thick, 1, &["E0623", "voxel.x_um", "7.89 um"]);
    assert!(!d.join("no").exists());
}

#[test]
fn inspect_lists_layers_and_open_dimensions() {
    let dir = tempfile::tempdir().unwrap();
    let model = fixture("kjv_lm.onnx");
    let words = ["parameters", "batch", "seq", "m.lm_head.weight", "node_embedding, node_linear_28", "tiles"];
    expect(dir.path(), &["inspect", model.to_str().unwrap()], 0, &words);
    let json =
        expect(dir.path(), &["inspect", "--json", model.to_str().unwrap()], 0, &["\"open_dimensions\""]);
    assert!(json.trim_start().starts_with('{'));
}

#[test]
fn bad_usage_and_bad_models_are_refused_by_code() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let model = fixture("bert.onnx");
    let model = model.to_str().unwrap();
    expect(d, &[model], 2, &["E0005", "--target asic|glass"]);
    expect(d, &[model, "--target", "wood"], 2, &["E0003", "asic, glass"]);
    expect(d, &["nothing.onnx", "--target", "asic"], 2, &["nothing.onnx"]);
    expect(d, &[model, "--target", "asic", "--bind", "depth=3"], 1, &["E0201", "batch, seq"]);
    expect(d, &[model, "--target", "asic", "--bind", "batch=1,batch=2"], 1, &["E0202", "to 1 and to 2"]);
    expect(d, &[model, "--target", "asic", "--bind", "seq=0"], 1, &["E0202"]);
    expect(d, &[model, "--target", "asic", "--bind", "seq"], 2, &["NAME=SIZE"]);
    expect(d, &[model, "--target", "asic", "--bits", "12"], 2, &["E0004"]);
    expect(d, &[model, "--target", "glass", "--bits", "4"], 2, &["E0004"]);
    expect(d, &[model, "--target", "asic", "--process", "none.toml"], 2, &["none.toml", "sky130"]);
    expect(d, &[model, "--target", "asic", "-o", "."], 2, &["E0002"]);
    expect(d, &["verify", "."], 1, &["E0702"]);
    expect(d, &["verify", "nowhere"], 2, &["E0001"]);
    expect(d, &["eval", model, "--text", model, "--window", "1"], 2, &["--window"]);
    expect(d, &["eval", model], 2, &["--text", "--input", "--data"]);
    expect(d, &["eval", model, "--data", "nowhere.jsonl", "--layers"], 2, &["E0005", "MODEL.onnx DIR"]);
    expect(d, &["eval", model, "--data", "nowhere.jsonl"], 2, &["E0001", "nowhere.jsonl"]);
    expect(d, &["explain", "E9999"], 2, &["E9999"]);
    expect(d, &["explain", "E0201"], 0, &["--bind"]);
    fs::write(d.join("random.onnx"), (0..4096u32).map(|i| ((i * i * 31) >> 7) as u8).collect::<Vec<_>>())
        .unwrap();
    expect(d, &["random.onnx", "--target", "asic"], 1, &["error[E01"]);
    let whole = fs::read(model).unwrap();
    fs::write(d.join("short.onnx"), &whole[..whole.len() / 2]).unwrap();
    expect(d, &["short.onnx", "--target", "asic"], 1, &["error[E01"]);
    assert_eq!(fs::read_dir(d).unwrap().count(), 2, "nothing but the two bad models is left");
}

#[test]
fn evaluation_says_what_does_not_fit_and_where_accuracy_went() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let model = fixture("bert.onnx");
    let model = model.to_str().unwrap();
    fs::write(
        d.join("bad.jsonl"),
        "{\"input_ids\": [[1, 2]], \"mask\": [[1, 1]]}\n{\"input_ids\": [[NaN]]}\n",
    )
    .unwrap();
    let words = ["E0802", "E0012", "bad.jsonl, line 1", "\"attention_mask\"", "no input \"mask\"", "line 2"];
    expect(d, &["eval", model, "--data", "bad.jsonl"], 2, &words);
    let sample = "{\"input_ids\": [[1, 2, 3]], \"attention_mask\": [[1, 1, 1]]}\n";
    fs::write(d.join("good.jsonl"), sample.repeat(3)).unwrap();
    expect(d, &["eval", model, "--data", "good.jsonl", "--logits", "nothing"], 1, &["E0901", "it has out"]);
    expect(d, &["eval", model, "--text", "good.jsonl"], 1, &["E0903", "takes 2 inputs"]);
    expect(d, &[model, "--target", "asic"], 0, &[]);
    let eval = ["eval", model, "bert.asic", "--data", "good.jsonl"];
    expect(d, &eval, 0, &["bert.asic", "cosine", "least of 9 rows", "dB"]);
    let t = expect(
        d,
        &[&eval[..], &["--layers", "--top", "2"]].concat(),
        0,
        &["worst first", "all layers together"],
    );
    assert!(t.contains("3 samples") && t.contains("codes4/32"), "{t}");
    let json = expect(d, &[&eval[..], &["--layers", "--samples", "2", "--json"]].concat(), 0, &[]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let table = &json["layers"][0];
    assert_eq!((&json["samples"], &table["samples"]), (&2.into(), &2.into()));
    assert!(table["layers"][0]["effects"]["all"]["error_db"].as_f64().unwrap() < 0.0, "{json}");
    expect(d, &["eval", model, model, "--data", "good.jsonl", "--layers"], 2, &["E0005"]);
}

#[test]
fn a_file_for_a_folder_and_a_full_disk_leave_nothing_half_written() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let model = fixture("bert.onnx");
    let model = model.to_str().unwrap();
    fs::write(d.join("file"), "x").unwrap();
    expect(d, &[model, "--target", "asic", "-o", "file"], 2, &["E0002", "is a file"]);
    // A limit on the size of files stands in for the full disk: writing fails the same way. Each limit lets through the
    // files below it, so that another file is the one that does not fit.
    let model = fixture("small/fixed_gemm.onnx");
    let model = model.to_str().unwrap();
    for target in ["asic", "glass"] {
        expect(d, &[model, "--target", target, "-o", "before", "--process", OTHERS[target]], 0, &[]);
        let before = files(&d.join("before"));
        let mut failed = 0;
        for kib in [0, 1, 4, 16, 64, 1024] {
            for out in ["full", "before"] {
                let command = format!(
                    "trap '' XFSZ; ulimit -f {kib}; exec {} {model} --target {target} -o {out}",
                    env!("CARGO_BIN_EXE_pfmc")
                );
                let o = Command::new("bash").args(["-c", &command]).current_dir(d).output().unwrap();
                let t = text(&o);
                assert!(!t.contains("panicked"), "{t}");
                match o.status.code() {
                    Some(0) => {
                        verify(&d.join(out), None, None, &NoProgress).unwrap_or_else(|e| panic!("{e}"));
                        fs::remove_dir_all(d.join(out)).unwrap();
                        if out == "before" {
                            put(&d.join(out), &before);
                        }
                    }
                    Some(2) => {
                        assert!(t.contains("E0001"), "{t}");
                        assert!(!d.join("full").exists(), "{kib}: {t}");
                        assert!(files(&d.join("before")) == before, "{kib}: {t}");
                        failed += 1;
                    }
                    other => panic!("{other:?} {kib}: {t}"),
                }
            }
        }
        assert!(failed >= 4, "{target}: {failed}");
        // What a failed run left for the next one, it uses up.
        expect(d, &[model, "--target", target, "-o", "full"], 0, &[]);
        fs::remove_dir_all(d.join("full")).unwrap();
        expect(d, &[model, "--target", target, "-o", "before"], 0, &[]);
        fs::remove_dir_all(d.join("before")).unwrap();
        assert_eq!(fs::read_dir(d).unwrap().count(), 1, "{target}");
    }
}

/// A process of a target that is not its default.
static OTHERS: std::sync::LazyLock<BTreeMap<&str, &str>> = std::sync::LazyLock::new(|| {
    BTreeMap::from([("asic", "sg13g2"), ("glass", "borosilicate-scanner-200khz")])
});

#[test]
fn a_folder_that_may_not_be_written_is_said_and_what_is_in_it_stays() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let mode = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(d, 0o755);
    let [binary, model, work] = ["pfmc", "bert.onnx", "work"].map(|n| d.join(n));
    fs::copy(env!("CARGO_BIN_EXE_pfmc"), &binary).unwrap();
    fs::copy(fixture("bert.onnx"), &model).unwrap();
    fs::create_dir(&work).unwrap();
    expect(&work, &[model.to_str().unwrap(), "--target", "asic", "-o", "out", "--process", "sg13g2"], 0, &[]);
    let before = files(&work.join("out"));
    // Root may write everywhere: then another user runs it.
    let root = fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0);
    let run = || {
        let mut command = if root {
            let mut c = Command::new("setpriv");
            c.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&binary);
            c
        } else {
            Command::new(&binary)
        };
        let o =
            command.arg(&model).args(["--target", "asic", "-o", "out"]).current_dir(&work).output().unwrap();
        (o.status.code(), text(&o))
    };
    for of in [0o555, 0o500] {
        mode(&work, of);
        let (code, t) = run();
        mode(&work, 0o755);
        assert!(code == Some(2) && t.contains("E0001") && !t.contains("panicked"), "{of:o}: {code:?} {t}");
        assert!(files(&work.join("out")) == before && fs::read_dir(&work).unwrap().count() == 1, "{of:o}");
    }
    // The same user, where it may.
    fs::remove_dir_all(work.join("out")).unwrap();
    mode(&work, 0o777);
    let (code, t) = run();
    assert_eq!(code, Some(0), "{t}");
    verify(&work.join("out"), None, None, &NoProgress).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn a_closed_pipe_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let command = format!("{} explain | head -n 1", env!("CARGO_BIN_EXE_pfmc"));
    let o = Command::new("bash")
        .args(["-c", &format!("set -o pipefail; {command}")])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert_eq!(o.status.code(), Some(0), "{}", text(&o));
}

#[test]
fn versions_completions_and_man_pages_are_printed_and_quiet_and_verbose_say_how_much() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let t = expect(d, &["--version"], 0, &[env!("CARGO_PKG_VERSION"), "sky130", "borosilicate-phase"]);
    for backend in pfmc::targets::BACKENDS {
        for p in backend.processes() {
            let digest = pfmc::files::sha256(p.toml.as_bytes());
            assert!(t.contains(&digest[..16]), "{}: {t}", p.name);
        }
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        expect(d, &["completions", shell], 0, &["estimate", "message-format"]);
    }
    fs::write(d.join("pfmc.bash"), expect(d, &["completions", "bash"], 0, &[])).unwrap();
    let bash = Command::new("bash").args(["-n", "pfmc.bash"]).current_dir(d).output().unwrap();
    assert!(bash.status.success(), "{}", text(&bash));
    expect(d, &["man"], 0, &[".TH", "estimate", "verbose"]);
    expect(d, &["man", "estimate"], 0, &[".TH", "assume"]);
    expect(d, &["man", "nothing"], 2, &["E0005", "nothing"]);
    let model = fixture("bert.onnx");
    let model = model.to_str().unwrap();
    let t = expect(
        d,
        &[model, "--target", "glass", "-v"],
        0,
        &["pass fix", "pass partition", "design: ", " s\n"],
    );
    assert!(!t.contains('\u{1b}') && !t.contains('\r'), "no bar and no colour beside a terminal: {t:?}");
    assert_eq!(expect(d, &[model, "--target", "glass", "-q"], 0, &[]), "");
    expect(d, &[model, "--target", "glass", "-q", "-v"], 2, &["cannot be used with"]);
    // Colour was asked for by force, and refused.
    let colour = |no: &str| {
        let mut c = Command::new(env!("CARGO_BIN_EXE_pfmc"));
        c.arg("--help").env("CLICOLOR_FORCE", "1").env(no, "1");
        text(&c.output().unwrap())
    };
    assert!(colour("NOTHING").contains('\u{1b}') && !colour("NO_COLOR").contains('\u{1b}'));
}
