//! The command line: exit codes, bad input, what is left behind.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside of test functions

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{expect, fixture, text};

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
    // A limit on the size of files stands in for the full disk: writing fails the same way.
    let command = format!(
        "trap '' XFSZ; ulimit -f 16; exec {} {model} --target asic -o full",
        env!("CARGO_BIN_EXE_pfmc")
    );
    let o = Command::new("bash").args(["-c", &command]).current_dir(d).output().unwrap();
    let t = text(&o);
    assert_eq!(o.status.code(), Some(2), "{t}");
    assert!(t.contains("E0001") && !t.contains("panicked"), "{t}");
    assert_eq!(fs::read_dir(d).unwrap().count(), 1, "{t}");
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
