//! Compile, verify and run, on every registered target.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside of test functions

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::{build, codes, cosine, expect, files, fixture, options, targets, tokens};
use pfmc::manifest::Manifest;
use pfmc::run::Runnable;
use pfmc::verify::verify;
use pfmc_ir::backend::NoProgress;
use pfmc_ir::exec::{NoMatrices, run};

#[test]
fn what_was_emitted_computes_what_the_model_computes() {
    for target in targets() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let mut o = options("llama.onnx", target, &out);
        o.quantisation.bits = (target == "asic").then_some(8);
        let compiled = build(&o).unwrap();
        assert!(compiled.program.tiles.len() > 5);
        let report = verify(&out, Some(&fixture("llama.onnx")), None, &NoProgress).unwrap();
        assert!(report.model && report.elements > 100_000);

        // Open dimensions stayed open: one result serves any batch and length.
        let runnable = Runnable::load(&out, &NoProgress).unwrap();
        let source = pfmc::onnx::import(&fixture("llama.onnx")).unwrap();
        for (batch, seq) in [(1, 3), (2, 9)] {
            let inputs = tokens(batch, seq, true);
            let want = run(&source.graph, &inputs, &NoMatrices).unwrap();
            let got = runnable.run(&inputs).unwrap();
            let (want, got) = (want["out"].as_slice::<f32>().unwrap(), got["out"].as_slice::<f32>().unwrap());
            let cos = cosine(want, got);
            // 8-bit codes with int8 activations, or 30 dB and more of hologram: a loose floor that
            // any swapped tile, scale or sign falls below.
            assert!(cos > 0.99, "{target} {batch}x{seq}: {cos}");
        }
    }
}

#[test]
fn binding_changes_the_host_program_only() {
    let dir = tempfile::tempdir().unwrap();
    let (open, bound) = (dir.path().join("open"), dir.path().join("bound"));
    build(&options("bert.onnx", "asic", &open)).unwrap();
    let mut o = options("bert.onnx", "asic", &bound);
    o.bind = vec![("batch".into(), 2), ("seq".into(), 5)];
    build(&o).unwrap();
    let inputs = tokens(2, 5, true);
    let a = Runnable::load(&open, &NoProgress).unwrap().run(&inputs).unwrap();
    let fixed = Runnable::load(&bound, &NoProgress).unwrap();
    assert_eq!(a, fixed.run(&inputs).unwrap());
    let e = fixed.run(&tokens(2, 6, true)).unwrap_err();
    assert_eq!(codes(&e), ["E0802"]);
    assert!(fixed.graph().node_count() < Runnable::load(&open, &NoProgress).unwrap().graph().node_count());
}

#[test]
fn a_convolution_is_fixed_too() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("vit");
    let mut o = options("vit.onnx", "asic", &out);
    o.quantisation.bits = Some(8);
    build(&o).unwrap();
    let pixels: Vec<f32> = (0..2 * 3 * 32 * 32).map(|i| ((i * 7919) % 255) as f32 / 127.0 - 1.0).collect();
    let pixels = pfmc_ir::tensor::Tensor::new(vec![2, 3, 32, 32], pixels).unwrap();
    let inputs = BTreeMap::from([("pixel_values".to_owned(), pixels)]);
    let source = pfmc::onnx::import(&fixture("vit.onnx")).unwrap();
    let want = run(&source.graph, &inputs, &NoMatrices).unwrap();
    let got = Runnable::load(&out, &NoProgress).unwrap().run(&inputs).unwrap();
    let cos = cosine(want["out"].as_slice().unwrap(), got["out"].as_slice().unwrap());
    assert!(cos > 0.99, "{cos}");
}

#[test]
fn the_same_input_gives_the_same_bytes_on_one_and_two_threads_twice_and_from_another_folder() {
    for target in targets() {
        let dir = tempfile::tempdir().unwrap();
        let of = |name: &str, threads: usize| {
            let out = dir.path().join(name);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| build(&options("llama.onnx", target, &out))).unwrap();
            files(&out)
        };
        let first = of("one", 1);
        assert!(first.len() >= 5);
        // Elsewhere, by the command, with the model beside the result and its path relative.
        let elsewhere = dir.path().join("else").join("where");
        fs::create_dir_all(&elsewhere).unwrap();
        fs::copy(fixture("llama.onnx"), elsewhere.join("llama.onnx")).unwrap();
        expect(&elsewhere, &["llama.onnx", "--target", target, "-o", "../result"], 0, &[]);
        let others = [
            ("two threads", of("two", 2)),
            ("two threads again", of("again", 2)),
            ("another folder", files(&dir.path().join("else/result"))),
        ];
        for (how, other) in &others {
            assert!(first.keys().eq(other.keys()), "{target}, {how}: {:?}", other.keys());
            for (name, bytes) in &first {
                assert!(other[name] == *bytes, "{target}, {how}: {name} differs");
            }
        }
    }
}

#[test]
fn any_changed_byte_is_refused() {
    for target in targets() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        build(&options("bert.onnx", target, &out)).unwrap();
        let mut named = 0;
        // Nothing reads the report.
        for (name, bytes) in files(&out).into_iter().filter(|(name, _)| name != pfmc::report::FILE) {
            for i in 0..6 {
                let at = (bytes.len() - 1) * i / 5;
                let mut changed = bytes.clone();
                changed[at] ^= 1 << (i % 8);
                fs::write(out.join(&name), &changed).unwrap();
                let found = verify(&out, None, None, &NoProgress);
                let found = found.expect_err(&format!("{target}: byte {at} of {name} was changed"));
                named += usize::from(found.0.iter().any(|d| d.origin.tensor.is_some()));
            }
            fs::write(out.join(&name), &bytes).unwrap();
        }
        assert!(verify(&out, None, None, &NoProgress).is_ok());
        assert!(named > 0, "{target}: no change was traced to a tensor");
    }
}

/// Rewrites a folder's manifest with a right digest of its own.
fn forge(folder: &Path, change: impl Fn(&mut Manifest)) {
    let mut m = Manifest::read(folder).unwrap();
    change(&mut m);
    m.write(folder).unwrap();
}

#[test]
fn a_forged_manifest_or_program_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    build(&options("bert.onnx", "asic", &out)).unwrap();
    let whole = files(&out);
    let restore = || whole.iter().for_each(|(name, bytes)| fs::write(out.join(name), bytes).unwrap());
    let refused = |change: &dyn Fn(&mut Manifest), code: &str| {
        forge(&out, change);
        let e = verify(&out, Some(&fixture("bert.onnx")), None, &NoProgress).unwrap_err();
        assert!(codes(&e).contains(&code), "{e}");
        restore();
    };
    refused(&|m| m.files.clear(), "E0702");
    refused(&|m| m.files[0].name = "../elsewhere".into(), "E0702");
    refused(&|m| m.tiles[0].origin.tensor = Some("another".into()), "E0702");
    refused(&|m| m.tiles.truncate(1), "E0702");
    refused(&|m| m.model.parameters = 7, "E0704");
    refused(&|m| m.tiles[0].name.push('x'), "E0702");
    assert!(verify(&out, None, None, &NoProgress).is_ok());

    // A program that claims more data than it has tiles for is refused before memory is asked for.
    let program = String::from_utf8(whole["program.pfir"].clone()).unwrap();
    let last = program.lines().rfind(|l| l.starts_with("data ")).unwrap();
    let start = last.split("..").next().unwrap();
    let forged = program.replace(last, &format!("{start}..18446744073709551615"));
    fs::write(out.join("program.pfir"), forged).unwrap();
    let e = Runnable::load(&out, &NoProgress).err().unwrap();
    assert_eq!(codes(&e), ["E0302"]);
}

#[test]
fn two_models_are_not_taken_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    build(&options("bert.onnx", "asic", &out)).unwrap();
    let e = verify(&out, Some(&fixture("gpt2.onnx")), None, &NoProgress).unwrap_err();
    assert_eq!(codes(&e), ["E0704"]);
}

#[test]
fn only_results_of_pfmc_are_replaced_and_only_by_complete_ones() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("thesis.txt"), "three years").unwrap();
    let e = build(&options("bert.onnx", "asic", &out)).err().unwrap();
    assert_eq!(codes(&e), ["E0002"]);
    assert_eq!(fs::read_to_string(out.join("thesis.txt")).unwrap(), "three years");

    let out = dir.path().join("again");
    build(&options("bert.onnx", "asic", &out)).unwrap();
    let first = files(&out);
    let mut o = options("bert.onnx", "asic", &out);
    o.quantisation.bits = Some(9);
    assert_eq!(codes(&build(&o).err().unwrap()), ["E0004"]);
    assert_eq!(files(&out), first);
    o.quantisation.bits = Some(3);
    build(&o).unwrap();
    assert_ne!(files(&out), first);
    // A file of the user's in a result is not deleted with it.
    fs::write(out.join("notes.txt"), "mine").unwrap();
    let e = build(&o).err().unwrap();
    assert_eq!(codes(&e), ["E0002"]);
    assert!(e.to_string().contains("notes.txt"));
    assert_eq!(fs::read_to_string(out.join("notes.txt")).unwrap(), "mine");
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}
