//! Estimates of published models beside what compiling gives.

use crate::common::estimates::agree;
use crate::common::referee::tool;
use pfmc::compile::Options;

fn agrees(model: &str, target: &str, preset: Option<&str>) {
    let dir = tempfile::tempdir().unwrap();
    let mut o = Options {
        model: tool(model),
        target: target.into(),
        output: Some(dir.path().join("out")),
        ..Options::default()
    };
    o.wishes.preset = preset.map(str::to_owned);
    agree(&o);
}

#[test]
fn minilm_is_what_was_estimated() {
    agrees("minilm/minilm.onnx", "asic", None);
    agrees("minilm/minilm.onnx", "glass", Some("fast"));
}

/// Takes minutes: `cargo nextest run --release --profile referees --run-ignored only smollm2_is_what`.
#[test]
#[ignore = "takes several minutes"]
fn smollm2_is_what_was_estimated() {
    agrees("smollm2/smollm2.onnx", "asic", None);
    agrees("smollm2/smollm2.onnx", "glass", Some("fast"));
}
