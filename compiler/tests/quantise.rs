//! Quantisation as a user meets it: calibration, budgets, plans, and results held to a chip.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside of test functions

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use common::{build, codes, fixture, options, retrained};
use pfmc::compile::{Compiled, Fixed, Options, PROCESS_FILE, PROGRAM_FILE, find};
use pfmc::contents::Reference;
use pfmc::evaluate::evaluate;
use pfmc::partition::partition;
use pfmc::passes::fix::Found;
use pfmc::quantise::calibrate::Exact;
use pfmc::quantise::equalise;
use pfmc::quantise::options::{ActivationChoice, Budget, Calibration, Quantisation, Rounding};
use pfmc::quantise::plan::{self, WeightPlan};
use pfmc::run::Runnable;
use pfmc::samples::Samples;
use pfmc::source::ModelSource;
use pfmc::verify::{open, verify};
use pfmc_ir::backend::{NoProgress, TileLimit};
use pfmc_ir::exec::Executor;
use pfmc_ir::graph::Graph;
use pfmc_ir::program::TileProgram;
use pfmc_ir::tile::{Activations, Levels, MatrixId, Scheme, TileContent, TileSource};
use pfmc_ir::verify::Verified;

/// Bytes of a window of text.
const WINDOW: usize = 129;

/// Windows of the trained decoder's text: the first half calibrates, the second half scores.
fn texts() -> (Vec<u8>, Vec<u8>) {
    let text = fs::read(fixture("kjv_eval.txt")).unwrap();
    let half = text.len() / WINDOW / 2 * WINDOW;
    (text[..half].to_vec(), text[half..].to_vec())
}

/// A file of samples for the trained decoder.
fn samples(folder: &Path) -> PathBuf {
    let path = folder.join("calib.jsonl");
    let line = |w: &[u8]| format!("{{\"input_ids\": [{:?}]}}\n", &w[..WINDOW - 1]);
    fs::write(&path, texts().0.chunks_exact(WINDOW).map(line).collect::<String>()).unwrap();
    path
}

fn score(source: &Path) -> f64 {
    evaluate(source, &texts().1, WINDOW, &NoProgress).unwrap()
}

fn asic(model: &str, output: &Path, quantisation: Quantisation) -> Options {
    Options { quantisation, ..options(model, "asic", output) }
}

#[test]
fn each_method_loses_less_than_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let exact = score(&fixture("kjv_lm.onnx"));
    let uniform = Some(Levels::Uniform);
    let base = Quantisation { bits: Some(3), group: Some(64), ..Quantisation::default() };
    let calibration = Some(Calibration::File(samples(dir.path())));
    let lost = [
        Quantisation { rounding: Rounding::Plain, levels: uniform, ..base.clone() },
        Quantisation { levels: uniform, ..base.clone() },
        base.clone(),
        Quantisation { calibration, ..base },
    ]
    .map(|q| {
        let out = dir.path().join("out");
        build(&asic("kjv_lm.onnx", &out, q)).unwrap();
        score(&out) - exact
    });
    assert!(lost.windows(2).all(|w| w[1] < w[0]), "plain, search, codebook, calibrated: {lost:?}");
    // Text that calibrated nothing; rounding at 3 bits in groups of 32 loses 0.045 (onnxruntime's grid).
    assert!(lost[3] < 0.045, "{lost:?}");
}

#[test]
fn a_calibrated_folder_verifies_against_the_model_and_its_samples_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (out, model) = (dir.path().join("out"), fixture("llama.onnx"));
    let q = Quantisation { calibration: Some(Calibration::Synthetic), ..Quantisation::default() };
    build(&asic("llama.onnx", &out, q)).unwrap();
    assert!(verify(&out, Some(&model), None, &NoProgress).unwrap().model);
    let refused = |calib: Option<&Path>| codes(&verify(&out, Some(&model), calib, &NoProgress).unwrap_err());
    let file = dir.path().join("calib.jsonl");
    let line = |i: usize| {
        let ids: Vec<usize> = (0..12).map(|j| (i * 31 + j * 17) % 199).collect();
        format!("{{\"input_ids\": [{ids:?}], \"attention_mask\": [{:?}]}}\n", vec![1; 12])
    };
    fs::write(&file, (0..8).map(line).collect::<String>()).unwrap();
    assert_eq!(refused(Some(&file)), ["E0704"]);

    let q = Quantisation { calibration: Some(Calibration::File(file.clone())), ..Quantisation::default() };
    build(&asic("llama.onnx", &out, q)).unwrap();
    assert!(verify(&out, Some(&model), Some(&file), &NoProgress).unwrap().model);
    assert_eq!(refused(None), ["E0704"]);
    let other = dir.path().join("other.jsonl");
    fs::write(&other, (1..9).map(line).collect::<String>()).unwrap();
    assert_eq!(refused(Some(&other)), ["E0704"]);
}

#[test]
fn a_budget_is_spent_and_not_exceeded() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let compile = |q: Quantisation| build(&asic("llama.onnx", &out, q));
    let budget = |b| Quantisation { budget: Some(b), ..Quantisation::default() };
    for (bits, calibration) in [(2.9, None), (4.4, Some(Calibration::Synthetic))] {
        let done = compile(Quantisation { calibration, ..budget(Budget::Bits(bits)) }).unwrap();
        let spent = done.program.matrix_bits() as f64 / done.program.weights() as f64;
        assert!(spent <= bits && spent > 0.93 * bits, "{spent} of {bits}");
    }
    let area = |q| {
        let done = compile(q).unwrap();
        done.manifest.figures.iter().find(|f| f.name == "die area").unwrap().value
    };
    let whole = area(Quantisation { bits: Some(5), ..Quantisation::default() });
    let spent = area(budget(Budget::Mm2(0.8 * whole)));
    assert!(spent <= 0.8 * whole && spent > 0.7 * whole, "{spent} of {}", 0.8 * whole);
    for little in [Budget::Bits(1.5), Budget::Mm2(1e-3)] {
        assert_eq!(codes(&compile(budget(little)).err().unwrap()), ["E0406"]);
    }
    let both = Quantisation { bits: Some(4), ..budget(Budget::Bits(4.0)) };
    assert_eq!(codes(&compile(both).err().unwrap()), ["E0004"]);
    assert_eq!("50mm2".parse(), Ok(Budget::Mm2(50.0)));
    assert_eq!("2.5mm3".parse(), Ok(Budget::Mm3(2.5)));
    assert!("3mm4".parse::<Budget>().is_err() && "-1".parse::<Budget>().is_err());
}

/// A figure of a result.
fn figure(done: &Compiled, name: &str) -> f64 {
    done.manifest.figures.iter().find(|f| f.name == name).unwrap().value
}

/// The ratio of the worst tile of a glass folder as one draw of the process's noise makes it, dB.
fn drawn_db(folder: &Path) -> f64 {
    let opened = open(folder).unwrap();
    let reference = Reference::open(&opened.program, folder).unwrap();
    let read = opened.target.read_back(&opened.program, folder, &NoProgress).unwrap();
    let tiles = opened.program.tiles().filter(|(id, _)| opened.program.matrix_tile(*id).is_some());
    let ratio = |id| {
        let drawn = read.disturbed(id, 1).unwrap().unwrap();
        let (TileContent::Real(want), TileContent::Real(got)) = (reference.tile(id).unwrap(), drawn.content)
        else {
            panic!("tile {id} is not real");
        };
        let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
            want.values.iter().zip(&got.values).map(|(w, g)| f(f64::from(*w), f64::from(*g))).sum()
        };
        // With the tile's own gain, as it is calibrated.
        let gain = sum(&|w, g| w * g) / sum(&|w, _| w * w);
        let error = sum(&|w, g| (g - gain * w).powi(2)) / (gain * gain * sum(&|w, _| w * w));
        -10.0 * (error + drawn.reading).log10()
    };
    tiles.map(|(id, _)| ratio(id)).fold(f64::INFINITY, f64::min)
}

#[test]
fn a_ratio_takes_the_least_glass_and_a_volume_gives_the_best_ratio() {
    let dir = tempfile::tempdir().unwrap();
    let glass = |name: &str, quantisation: Quantisation| {
        build(&Options { quantisation, ..options("llama.onnx", "glass", &dir.path().join(name)) })
    };
    let ratio = |db| Quantisation { snr_target_db: Some(db), ..Quantisation::default() };
    let volume = |mm3| Quantisation { budget: Some(Budget::Mm3(mm3)), ..Quantisation::default() };
    let mut spent = 0.0;
    for db in [28.0, 34.0] {
        let name = format!("at{db}");
        let done = glass(&name, ratio(db)).unwrap();
        let reached = figure(&done, "worst tile, with noise");
        assert!(
            reached >= db && (figure(&done, "forecast, worst tile") - reached).abs() < 1.5,
            "{reached} of {db}"
        );
        // One draw of the noise, of tiles of a few thousand weights.
        let drawn = drawn_db(&dir.path().join(&name));
        assert!(drawn > db - 1.0 && drawn < reached + 3.0, "{drawn} drawn, {reached} predicted");
        let written = figure(&done, "written volume");
        assert!(written > 1.3 * spent, "{written} mm3 after {spent} mm3");
        spent = written;
    }
    // Seen as a budget, the volume gives no less.
    let done = glass("budget", volume(spent)).unwrap();
    assert!(figure(&done, "written volume") <= spent && figure(&done, "worst tile, with noise") >= 34.0);

    let refused = glass("no", ratio(70.0)).err().unwrap();
    let text = refused.to_string();
    assert!(codes(&refused) == ["E0406"] && text.contains("the largest noise is"), "{text}");
    assert_eq!(codes(&glass("no", volume(1e-4)).err().unwrap()), ["E0406"]);
    let chip = Options { quantisation: ratio(30.0), ..options("llama.onnx", "asic", &dir.path().join("no")) };
    assert_eq!(codes(&build(&chip).err().unwrap()), ["E0004"]);

    // A plan and a base hold to what was chosen.
    let file = |folder: &str, name: &str| fs::read(dir.path().join(folder).join(name)).unwrap();
    let planned = dir.path().join("at28").join(plan::FILE);
    let with_plan = Quantisation { plan: Some(planned.clone()), ..Quantisation::default() };
    glass("planned", with_plan).unwrap();
    let base = Options {
        base: Some(dir.path().join("at28")),
        ..options("llama.onnx", "glass", &dir.path().join("based"))
    };
    build(&base).unwrap();
    for name in ["schedule.pfmg", PROCESS_FILE, plan::FILE] {
        assert_eq!(file("planned", name), file("at28", name), "{name}");
        assert_eq!(file("based", name), file("at28", name), "{name}");
    }
    let both = Quantisation { plan: Some(planned), ..ratio(30.0) };
    assert_eq!(codes(&glass("no", both).err().unwrap()), ["E0004"]);
}

#[test]
fn a_plan_gives_the_same_bytes_and_holds_a_retrained_model_to_the_chip() {
    let dir = tempfile::tempdir().unwrap();
    let [first, again, held] = ["first", "again", "held"].map(|n| dir.path().join(n));
    let calibration = Some(Calibration::Synthetic);
    let q = Quantisation { budget: Some(Budget::Bits(3.9)), calibration, ..Quantisation::default() };
    let made =
        build(&asic("llama.onnx", &first, Quantisation { activations: ActivationChoice::Auto, ..q.clone() }));
    let made = made.unwrap();
    let schemes: BTreeSet<Scheme> =
        made.program.tiles().filter_map(|(id, _)| Some(made.program.matrix_tile(id)?.2)).collect();
    assert!(schemes.len() > 1, "{schemes:?}");
    let planned = Quantisation {
        plan: Some(first.join(plan::FILE)),
        calibration: q.calibration.clone(),
        ..Quantisation::default()
    };
    build(&asic("llama.onnx", &again, planned)).unwrap();
    for name in ["layout.gds", "program.pfir", "plan.json", "contents.pfmt"] {
        assert_eq!(fs::read(first.join(name)).unwrap(), fs::read(again.join(name)).unwrap(), "{name}");
    }

    let calibrated = Quantisation { calibration: q.calibration.clone(), ..Quantisation::default() };
    let o = Options {
        model: retrained("llama.onnx", dir.path()),
        base: Some(first.clone()),
        ..asic("llama.onnx", &held, calibrated)
    };
    build(&o).unwrap();
    let read = |folder: &Path, name: &str| fs::read(folder.join(name)).unwrap();
    assert_eq!(read(&first, "program.pfir"), read(&held, "program.pfir"));
    assert_eq!(read(&first, "plan.json"), read(&held, "plan.json"));
    assert_ne!(read(&first, "layout.gds"), read(&held, "layout.gds"));

    // Another architecture has another plan, other options another program.
    let other = Options { base: Some(first.clone()), ..asic("gpt2.onnx", &held, Quantisation::default()) };
    assert!(codes(&build(&other).err().unwrap()).contains(&"E0404"));
    let o = Options { bind: vec![("batch".into(), 1)], ..o };
    assert_eq!(codes(&build(&o).err().unwrap()), ["E0407"]);
}

#[test]
fn bad_plans_are_refused_with_everything_that_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    build(&asic("llama.onnx", &out, Quantisation::default())).unwrap();
    let good: WeightPlan = serde_json::from_str(&fs::read_to_string(out.join(plan::FILE)).unwrap()).unwrap();
    let attempt = |text: String| {
        let path = dir.path().join("plan.json");
        fs::write(&path, text).unwrap();
        let q = Quantisation { plan: Some(path), ..Quantisation::default() };
        build(&asic("llama.onnx", &dir.path().join("new"), q))
    };
    let refused = |change: &dyn Fn(&mut WeightPlan)| {
        let mut p = good.clone();
        change(&mut p);
        let e = attempt(p.text()).err().unwrap();
        assert_eq!(codes(&e), ["E0404"]);
        e.0.len()
    };
    assert!(attempt(good.text()).is_ok());
    assert_eq!(refused(&|p| p.format = 9), 1);
    assert_eq!(refused(&|p| p.matrices.truncate(3)), 1);
    assert_eq!(refused(&|p| p.matrices[0].k += 1), 1);
    assert_eq!(
        refused(&|p| {
            p.matrices[0].tensor.push('x');
            p.matrices[1].blocks[0].k[1] -= 1;
            let block = p.matrices[2].blocks[0].clone();
            p.matrices[2].blocks.push(block);
            p.matrices[3].blocks[0].n[1] += 1;
            let scheme = Scheme::Codes { bits: 9, group: 32, levels: Levels::Uniform };
            p.matrices[4].blocks[0].scheme = scheme;
        }),
        5
    );
    for text in ["", "{}", "[1]", &good.text().replace("codebook4/32", "codes0")] {
        assert_eq!(codes(&attempt(text.to_owned()).err().unwrap()), ["E0404"], "{text:.40}");
    }
    let mut real = good.clone();
    real.matrices[0].blocks[0].scheme = Scheme::Real;
    assert_eq!(codes(&attempt(real.text()).err().unwrap()), ["E0004"]);
    let mut zero = good;
    zero.matrices[0].activations = Activations::Static(0.0);
    assert_eq!(codes(&attempt(zero.text()).err().unwrap()), ["E0302"]);
    assert!(!dir.path().join("new").join("plan.json").exists() || attempt(String::new()).is_err());
}

#[test]
fn static_activations_are_planned_and_kept_tensors_stay() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let q = |activations, keep: &[&str]| Quantisation {
        calibration: Some(Calibration::Synthetic),
        activations,
        keep: keep.iter().map(|k| (*k).to_owned()).collect(),
        ..Quantisation::default()
    };
    let made = build(&asic("llama.onnx", &out, q(ActivationChoice::Static, &[]))).unwrap();
    let fixed = |a: &Activations| matches!(a, Activations::Static(_));
    let planned = fs::read_to_string(out.join(plan::FILE)).unwrap();
    // The plan holds the factors and the scales: a model is held to it without samples.
    let plan = Some(out.join(plan::FILE));
    let held = asic("llama.onnx", &dir.path().join("held"), Quantisation { plan, ..Quantisation::default() });
    build(&held).unwrap();
    for file in [plan::FILE, PROGRAM_FILE] {
        let read = |dir: &Path| fs::read_to_string(dir.join(file)).unwrap();
        assert_eq!(read(held.output.as_ref().unwrap()), read(&out));
    }
    let equalised = planned.find("\"equalised\": [\n    \"").unwrap();
    for (from, to, said) in [
        ("\n    \"", "\n    \"0 ", "channels"),
        ("\n    \"", "\n    \"0\",\n \"", "the plan has 3, the model 2"),
    ] {
        let at = equalised + planned[equalised..].find(from).unwrap();
        let path = dir.path().join("spoiled.json");
        fs::write(&path, format!("{}{to}{}", &planned[..at], &planned[at + from.len()..])).unwrap();
        let q = Quantisation { plan: Some(path), ..Quantisation::default() };
        let refused = build(&asic("llama.onnx", &dir.path().join("new"), q)).err().unwrap();
        assert_eq!(codes(&refused), ["E0404"]);
        assert!(refused.to_string().contains(said), "{refused}");
    }
    assert!(made.program.matrices.iter().filter(|m| fixed(&m.activations)).count() > 5);
    assert!(Runnable::load(&out, &NoProgress).unwrap().run(&common::tokens(1, 5, true)).is_ok());
    let name = made.program.matrices[1].origin.tensor.clone().unwrap();
    let kept = build(&asic("llama.onnx", &out, q(ActivationChoice::Row, &[&name]))).unwrap();
    assert_eq!(kept.program.matrices.len() + 1, made.program.matrices.len());
    assert!(kept.program.matrices.iter().all(|m| m.origin.tensor.as_ref() != Some(&name)));
}

#[test]
fn equalising_changes_weights_and_no_bit_of_the_outputs() {
    let dir = tempfile::tempdir().unwrap();
    let Fixed { mut graph, mut found, .. } =
        find(&fixture("kjv_lm.onnx"), &BTreeMap::new(), &[], &NoProgress).unwrap();
    let samples = Samples::read(&graph, &samples(dir.path())).unwrap().first(4);
    let scheme = Scheme::Codes { bits: 8, group: 64, levels: Levels::Uniform };
    let plan = WeightPlan::uniform(&found, scheme);
    let limit = |_| Some(TileLimit { k: 512, n: 512, k_multiple: 1, n_multiple: 1 });
    let cut = |graph: &Graph, found: &[Found]| partition(graph.clone(), found, &plan, &limit, None).unwrap();
    let outputs = |(program, source): &(Verified<TileProgram>, ModelSource)| -> Vec<u32> {
        let exact = Exact::new(&program.matrices, source);
        let executor = Executor::new(&program.graph, &exact).unwrap();
        let logits = executor.run(samples.get(0).unwrap()).unwrap();
        logits.values().flat_map(|t| t.as_slice::<f32>().unwrap().to_vec()).map(f32::to_bits).collect()
    };
    let before = cut(&graph, &found);
    let exponents = equalise::measure(&before.0, &before.1, &samples).unwrap();
    let beyond: Vec<Vec<i8>> = exponents.iter().map(|e| vec![9; e.len()]).collect();
    let refused = equalise::equalise(&mut graph.clone(), &mut found.clone(), &beyond).err().unwrap();
    assert_eq!(codes(&refused), ["E0404"]);
    let record = equalise::equalise(&mut graph, &mut found, &exponents).unwrap();
    let after = cut(&graph, &found);
    // Two norms and a gated product in each of 4 layers; the last norm's readers include the embedding.
    assert_eq!((record.stats["inputs"], record.stats["matrices"]), (12, 24));
    assert!((1..29).any(|m| before.1.matrix(MatrixId(m)) != after.1.matrix(MatrixId(m))));
    assert_eq!(before.1.matrix(MatrixId(0)), after.1.matrix(MatrixId(0)));
    assert_eq!(outputs(&before), outputs(&after));
}

#[test]
fn real_valued_targets_refuse_what_is_for_codes() {
    let dir = tempfile::tempdir().unwrap();
    let attempt = |q| {
        let o = Options { quantisation: q, ..options("llama.onnx", "glass", &dir.path().join("out")) };
        codes(&build(&o).err().unwrap())
    };
    let none = Quantisation::default();
    assert_eq!(attempt(Quantisation { budget: Some(Budget::Bits(4.0)), ..none.clone() }), ["E0004"]);
    assert_eq!(attempt(Quantisation { calibration: Some(Calibration::Synthetic), ..none }), ["E0004"]);
}
