//! Any bytes as a model, with any sizes for its open dimensions: importing, verifying, binding and
//! inference may refuse and may not panic. The first eight bytes choose the sizes.
//!
//! `cargo fuzz run --fuzz-dir compiler/fuzz import` (with a nightly toolchain), or on a stable one
//! `cargo fuzz run --fuzz-dir compiler/fuzz --sanitizer none import`. Models of `fixtures/onnx/small` are a good
//! corpus.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pfmc::onnx;
use pfmc::passes::bind;
use pfmc_ir::text;
use pfmc_ir::verify::Verify;

fuzz_target!(|data: &[u8]| {
    let Some((sizes, model)) = data.split_at_checked(8) else { return };
    let Ok(model) = onnx::import_bytes(Bytes::copy_from_slice(model)) else { return };
    assert!(model.graph.verify().is_ok(), "an imported model verifies");
    let sizes = bind::open_dimensions(&model.graph)
        .into_iter()
        .zip(sizes.iter().cycle())
        .map(|(name, &size)| (name, i64::from(size % 16) + 1))
        .collect();
    if let Ok((bound, _)) = bind::bind(model.graph, &sizes) {
        let graph = bound.into_open();
        assert!(graph.verify().is_ok(), "a bound model verifies");
        let _ = text::print_graph(&graph);
    }
});
