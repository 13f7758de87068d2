//! Estimates: agreement with what compiling gives, models that do not exist, derivations, the command.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside of test functions

mod common;

use std::collections::BTreeMap;
use std::fs;

use common::estimates::{agree, compiled, differences, made, request};
use common::{build, expect, fixture, options, targets};
use pfmc::estimate::arch::Arch;
use pfmc::estimate::{Request, Subject};
use pfmc_ir::estimate::{Basis, Range};

fn imagined(target: &str, parameters: f64, arch: Arch) -> Request {
    let o = options("", target, std::path::Path::new(""));
    Request { subject: Subject::Parameters(parameters, arch), ..request(&o) }
}

#[test]
fn kjv_lm_as_masks_is_what_was_estimated() {
    let dir = tempfile::tempdir().unwrap();
    let o = options("kjv_lm.onnx", "asic", &dir.path().join("out"));
    agree(&o);
    // A process with lower arrays gives another chip: what was compiled is not its estimate.
    let text = fs::read_to_string("../backends/asic/process/sky130.toml").unwrap();
    let own = dir.path().join("own.toml");
    fs::write(&own, text.replacen("word_lines = 512", "word_lines = 256", 1)).unwrap();
    let other = Request { process: Some(own.to_str().unwrap().into()), ..request(&o) };
    let off = differences(&made(&other).unwrap(), &compiled(&dir.path().join("out")), 0.02);
    assert!(
        off.iter().any(|d| d.starts_with("tiles")) && off.iter().any(|d| d.starts_with("die_mm2")),
        "{off:?}"
    );
    // Nor is one with a changed constant.
    let assumed = BTreeMap::from([("cell_nm2".to_owned(), Range::exact(400_000.0))]);
    let e = made(&Request { assumed, ..request(&o) }).unwrap();
    let plan = made(&request(&o)).unwrap().sheet.nominal("array_mm2");
    assert!((e.sheet.nominal("array_mm2") / plan - 400_000.0 / 331_100.0).abs() < 1e-9);
    // In closed form nothing is placed: sums are the same, what depends on places is near.
    let closed = made(&Request { closed_form: true, ..request(&o) }).unwrap();
    let mut found = compiled(&dir.path().join("out"));
    let area = found.remove("die_mm2").unwrap();
    assert_eq!(differences(&closed, &found, 0.02), [""; 0]);
    assert!((closed.sheet.nominal("die_mm2") / area - 1.0).abs() < 0.2);
}

#[test]
fn kjv_lm_in_glass_is_what_was_estimated() {
    let dir = tempfile::tempdir().unwrap();
    let mut o = options("kjv_lm.onnx", "glass", &dir.path().join("out"));
    o.wishes.preset = Some("fast".into());
    agree(&o);
    let text = fs::read_to_string("../backends/glass/process/borosilicate-phase.toml").unwrap();
    let own = dir.path().join("own.toml");
    fs::write(&own, text.replacen("rate_hz = 1.0e7", "rate_hz = 5.0e6", 1)).unwrap();
    let other = Request { process: Some(own.to_str().unwrap().into()), ..request(&o) };
    let off = differences(&made(&other).unwrap(), &compiled(&dir.path().join("out")), 0.02);
    assert!(off.iter().any(|d| d.starts_with("write_s")), "{off:?}");
}

#[test]
fn models_that_do_not_exist_have_the_size_asked_for_at_any_scale() {
    for target in targets() {
        for arch in [Arch::Llama, Arch::Moe, Arch::Gpt] {
            let mut last: Option<pfmc::estimate::Estimate> = None;
            for parameters in [1e9, 1e12, 1e18] {
                let e = made(&imagined(target, parameters, arch)).unwrap();
                assert!(
                    (e.parameters / parameters - 1.0).abs() < 0.1,
                    "{target} {arch:?} {parameters}: {}",
                    e.parameters
                );
                for q in &e.quantities {
                    assert!(q.range.is_valid() && q.range.low >= 0.0, "{target} {parameters}: {q:?}");
                }
                assert!(e.limits.len() >= 4);
                // Everything that grows does.
                for name in ["tiles", "token_uj", "latency_us", "compile_s"] {
                    let now = e.sheet.nominal(name);
                    assert!(last.as_ref().is_none_or(|l| l.sheet.nominal(name) < now), "{name}");
                }
                last = Some(e);
            }
        }
        // Experts that are not taken cost no energy.
        let [llama, moe] = [Arch::Llama, Arch::Moe].map(|a| made(&imagined(target, 1e12, a)).unwrap().sheet);
        assert!(moe.nominal("token_uj") < 0.3 * llama.nominal("token_uj"));
        let macs = llama.nominal("macs_token");
        // Every weight but the table's look-up is multiplied once.
        assert!((macs / 1e12 - 1.0).abs() < 0.1, "{macs}");
        let e = made(&imagined(target, 1e3, Arch::Llama)).unwrap_err();
        assert_eq!(common::codes(&e), ["E0005"]);
    }
}

#[test]
fn every_figure_is_derived_down_to_sources() {
    for target in targets() {
        let e = made(&imagined(target, 1e9, Arch::Llama)).unwrap();
        for q in e.sheet.figures() {
            let text = e.sheet.explain(&q.name).unwrap();
            assert!(text.contains("source: "), "{text}");
            if let Basis::Formula(_) = q.basis {
                assert!(text.lines().count() > 3, "{text}");
            }
        }
        let text = e.sheet.explain("token_uj").unwrap();
        assert!(
            text.contains("Horowitz") && text.contains(&format!("backends/{target}/process/estimate.toml")),
            "{text}"
        );
    }
}

#[test]
fn sources_that_name_a_file_of_measurements_name_one_that_is_there() {
    for target in targets() {
        let e = made(&imagined(target, 1e9, Arch::Llama)).unwrap();
        for q in &e.quantities {
            let Basis::Source(source) = &q.basis else { continue };
            for word in source.split(|c: char| c.is_whitespace() || "();,:".contains(c)) {
                if word.ends_with(".toml") || word.ends_with(".md") {
                    let at = |p: String| std::path::Path::new(&p).exists();
                    let found = at(format!("../{word}")) || at(format!("../backends/{target}/{word}"));
                    assert!(found, "{}: {word} of {source:?}", q.name);
                }
            }
        }
    }
}

#[test]
fn the_command_prints_explains_draws_and_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let model = fixture("bert.onnx");
    let model = model.to_str().unwrap();
    let words = ["token_uj", "what limits it", "gds_bytes", "bert.onnx"];
    expect(d, &["estimate", model, "--target", "asic"], 0, &words);
    assert_eq!(fs::read_dir(d).unwrap().count(), 0, "an estimate writes nothing");
    let t =
        expect(d, &["estimate", "--params", "1e12", "--target", "glass", "--explain", "write_days"], 0, &[]);
    assert!(t.contains("= write_s / 86400") && t.contains("source: in closed form"), "{t}");
    let args =
        ["estimate", "--params", "1e9", "--target", "asic", "--json", "--assume", "ones_share=0.1..0.2..0.3"];
    let json: serde_json::Value = serde_json::from_str(&expect(d, &args, 0, &[])).unwrap();
    let of = |name: &str| {
        let all = json["quantities"].as_array().unwrap();
        all.iter().find(|q| q["name"] == name).unwrap()["range"]["nominal"].as_f64().unwrap()
    };
    assert_eq!(of("ones_share"), 0.2);
    let causes = ["word_lines_uj", "bit_lines_uj", "macs_uj", "buffers_uj", "host_uj"];
    assert!((of("token_uj") / causes.map(of).iter().sum::<f64>() - 1.0).abs() < 1e-9);
    expect(d, &["estimate", "--plot", "plot.svg", "--target", "glass"], 0, &["plot.svg"]);
    let svg = fs::read_to_string(d.join("plot.svg")).unwrap();
    assert!(svg.matches("<polyline").count() >= 4 && svg.contains("energy of a token"), "{svg}");
    for (args, code, words) in [
        (&["estimate"][..], 2, ["E0005", "--params 1e12"]),
        (&["estimate", model], 2, ["E0005", "--target asic|glass"]),
        (&["estimate", model, "--params", "1e9"], 2, ["cannot be used with", "--params"]),
        (&["estimate", model, "--target", "asic", "--assume", "nothing=1"], 2, ["E0013", "--explain all"]),
        (&["estimate", model, "--target", "asic", "--assume", "tiles=3..2..1"], 2, ["--assume", "ascend"]),
        (&["estimate", model, "--target", "asic", "--explain", "nothing"], 2, ["E0005", "nothing"]),
        (&["estimate", model, "--target", "glass", "--bits", "4"], 2, ["E0004", "real-valued"]),
        (&["estimate", "--plot", "no/plot.svg", "--target", "glass"], 2, ["E0001", "plot.svg"]),
    ] {
        expect(d, args, code, &words);
    }
}

#[test]
fn a_process_of_arrays_alone_has_sizes_and_says_what_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let mut o = options("bert.onnx", "asic", &dir.path().join("out"));
    o.process = Some("sg13g2".into());
    build(&o).unwrap();
    let e = made(&request(&o)).unwrap();
    let mut found = compiled(&dir.path().join("out"));
    // Patterns are most of so small an OASIS file, and its weights use fewer than random ones would.
    let oasis = found.remove("oas_bytes").unwrap();
    assert_eq!(differences(&e, &found, 0.02), [""; 0]);
    assert!((e.sheet.nominal("oas_bytes") / oasis - 1.0).abs() < 0.15);
    assert!(e.sheet.get("token_uj").is_none() && e.limits[0].contains("arrays alone"), "{:?}", e.limits);
}

#[test]
fn reads_are_those_measured_of_the_process() {
    for process in ["sky130", "sky130-via1"] {
        let text = pfmc_asic::timing(process).unwrap();
        let timing: toml::Table = text.parse().unwrap();
        let reads = timing["read"].as_array().unwrap();
        let own = |r: &&toml::Value| {
            r["bit_lines"].as_integer() == Some(1024) && r["corner"].as_str() == Some("tt_025C_1v80")
        };
        let read = reads.iter().find(own).unwrap();
        let request = Request { process: Some(process.into()), ..imagined("asic", 1e9, Arch::Llama) };
        let e = made(&request).unwrap();
        // The energy of a read of the largest macro, put together again.
        let of = |name: &str| e.sheet.nominal(name);
        let quiet = of("read_fj") + 1024.0 * of("read_line_fj");
        let fall = of("fall_fj") + 512.0 * of("fall_cell_fj");
        for (name, found) in [("quiet_fj", quiet), ("bit_line_fj", fall)] {
            let measured = read[name].as_float().unwrap();
            assert!((found / measured - 1.0).abs() < 1e-9, "{process} {name}: {found}, measured {measured}");
        }
    }
}
