//! Source against compiled: figures that follow from the runs themselves, and layers made bad on purpose.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside of test functions

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{build, codes, cosine, fixture, options, tokens};
use onnx_protobuf::{Message, ModelProto};
use pfmc::compile::Options;
use pfmc::evaluate::{self, Given, Judge, Report, Source};
use pfmc::layers::{self, LayerTable};
use pfmc::quantise::options::{ActivationChoice, Calibration, Rounding};
use pfmc::run::{Activations, How};
use pfmc::samples::Samples;
use pfmc_ir::backend::NoProgress;
use pfmc_ir::diag::Diagnostics;

fn compare(model: &Path, folder: &Path, given: Given<'_>, activations: Activations) -> Report {
    let sources = [model, folder].map(|p| Source::open(p, activations, &NoProgress).unwrap());
    let text = matches!(given, Given::Text(..));
    let judge = Judge::new(sources[0].graph(), None, text).unwrap();
    let samples = given.samples(sources[0].graph()).unwrap();
    let pairs = [(model, &sources[0]), (folder, &sources[1])];
    evaluate::compare(&pairs, &judge, &samples, "byte", &NoProgress).unwrap()
}

/// One draw of the nominal noise leaves what the budget says, another draw is another plate, and a worse writer is worse.
#[test]
fn a_plate_with_noise_is_as_good_as_its_budget_says() {
    let dir = tempfile::tempdir().unwrap();
    let (model, folder) = (fixture("kjv_lm.onnx"), dir.path().join("kjv"));
    build(&options("kjv_lm.onnx", "glass", &folder)).unwrap();
    let text = fs::read(fixture("kjv_eval.txt")).unwrap();
    let run = |folder: &Path, noise| {
        let how = How { noise, ..How::default() };
        let sources = [&model, folder].map(|p| Source::open(p, how, &NoProgress).unwrap());
        let judge = Judge::new(sources[0].graph(), None, true).unwrap();
        let samples = Given::Text(&text[..2 * 65], 65).samples(sources[0].graph()).unwrap();
        let pairs = [(&model as &Path, &sources[0]), (folder, &sources[1])];
        evaluate::compare(&pairs, &judge, &samples, "byte", &NoProgress).unwrap()
    };
    let [clean, one, again, two] = [None, Some(1), Some(1), Some(2)].map(|noise| run(&folder, noise));
    assert_eq!((&one, clean.sources[1].noise), (&again, None));
    assert_ne!(one.sources[1].outputs, two.sources[1].outputs);
    for report in [&one, &two] {
        let noise = report.sources[1].noise.unwrap();
        let budget = noise.budget_db.unwrap();
        assert!((noise.drawn_db - budget).abs() < 1.0, "{noise:?}");
        assert!(report.sources[1].outputs[0].error_db > clean.sources[1].outputs[0].error_db + 6.0);
    }

    // A writer of five times the energy noise, and a folder of a target without noise.
    let toml = fs::read_to_string(folder.join("process.toml")).unwrap();
    assert!(toml.contains("energy_rms = 0.02"), "{toml}");
    let file = dir.path().join("worse.toml");
    fs::write(&file, toml.replace("energy_rms = 0.02", "energy_rms = 0.1")).unwrap();
    let worse = dir.path().join("worse");
    let process = Some(file.display().to_string());
    build(&Options { process, ..options("kjv_lm.onnx", "glass", &worse) }).unwrap();
    let noise = run(&worse, Some(1)).sources[1].noise.unwrap();
    assert!(noise.drawn_db < one.sources[1].noise.unwrap().drawn_db - 3.0, "{noise:?}");
    assert!((noise.drawn_db - noise.budget_db.unwrap()).abs() < 1.0, "{noise:?}");
    let chip = dir.path().join("chip");
    build(&options("llama.onnx", "asic", &chip)).unwrap();
    let how = How { noise: Some(1), ..How::default() };
    assert_eq!(codes(&Source::open(&chip, how, &NoProgress).err().unwrap()), ["E0005"]);
}

/// A trained decoder in masks predicts about as well as its source: at the ratio of 30 dB white noise on all weights costs 0.005 bits
/// a byte, at 23 dB 0.025 (numpy, 96 windows).
#[test]
fn a_trained_decoder_in_masks_keeps_its_bits_a_byte() {
    let dir = tempfile::tempdir().unwrap();
    let (model, folder) = (fixture("kjv_lm.onnx"), dir.path().join("kjv"));
    let process = Some("fused-silica-mask".to_owned());
    build(&Options { process, ..options("kjv_lm.onnx", "glass", &folder) }).unwrap();
    let text = fs::read(fixture("kjv_eval.txt")).unwrap();
    let run = |noise| {
        let how = How { noise, ..How::default() };
        let sources = [&model, &folder].map(|p| Source::open(p, how, &NoProgress).unwrap());
        let judge = Judge::new(sources[0].graph(), None, true).unwrap();
        let samples = Given::Text(&text[..4 * 65], 65).samples(sources[0].graph()).unwrap();
        let pairs = [(&model as &Path, &sources[0]), (&folder as &Path, &sources[1])];
        evaluate::compare(&pairs, &judge, &samples, "byte", &NoProgress).unwrap()
    };
    let bits = |report: &Report| {
        let [source, mask] =
            [0, 1].map(|s| report.sources[s].logits.as_ref().unwrap().bits_per_token.unwrap());
        mask - source
    };
    let (clean, drawn) = (run(None), run(Some(1)));
    let noise = drawn.sources[1].noise.unwrap();
    println!("bits a byte over the source: {:.4}, with noise {:.4}; {noise:?}", bits(&clean), bits(&drawn));
    assert!(bits(&clean).abs() < 0.03 && bits(&drawn).abs() < 0.1);
    assert!((noise.drawn_db - noise.budget_db.unwrap()).abs() < 0.5, "{noise:?}");
}

#[test]
fn figures_of_the_trained_decoder_follow_from_its_runs() {
    let dir = tempfile::tempdir().unwrap();
    let (model, folder) = (fixture("kjv_lm.onnx"), dir.path().join("kjv"));
    build(&options("kjv_lm.onnx", "asic", &folder)).unwrap();
    let text = fs::read(fixture("kjv_eval.txt")).unwrap();
    let text = &text[..3 * 65];
    let report = compare(&model, &folder, Given::Text(text, 65), Activations::Int8);

    // The same from whole runs.
    let sources = [&model, &folder].map(|p| Source::open(p, Activations::Int8, &NoProgress).unwrap());
    let samples = Samples::text(sources[0].graph(), text, 65, 8).unwrap();
    let logits = sources.each_ref().map(|s| {
        let out = s.executor().unwrap().run(samples.get(0).unwrap()).unwrap();
        out.into_values().next().unwrap().as_slice::<f32>().unwrap().to_vec()
    });
    let rows: Vec<(&[f32], &[f32])> = logits[0].chunks(256).zip(logits[1].chunks(256)).collect();
    let next = samples.next_tokens(0).unwrap();
    assert_eq!((report.samples, rows.len(), next.len()), (1, 3 * 64, 3 * 64));
    let softmax = |row: &[f32]| {
        let e: Vec<f64> = row.iter().map(|v| f64::from(*v).exp()).collect();
        let sum: f64 = e.iter().sum();
        e.into_iter().map(|v| v / sum).collect::<Vec<f64>>()
    };
    let best = |row: &[f32]| (0..256).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
    let n = rows.len() as f64;
    let mean = |f: &dyn Fn(usize) -> f64| (0..rows.len()).map(f).sum::<f64>() / n;
    let kl = mean(&|r| {
        let (p, q) = (softmax(rows[r].0), softmax(rows[r].1));
        p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum()
    });
    let same = mean(&|r| f64::from(u8::from(best(rows[r].0) == best(rows[r].1))));
    let bits = mean(&|r| -softmax(rows[r].1)[next[r] as usize].log2());
    let cosines = mean(&|r| cosine(rows[r].0, rows[r].1));

    let [source, compiled] = &report.sources[..] else { panic!("two sources") };
    let (s, c) = (source.logits.as_ref().unwrap(), compiled.logits.as_ref().unwrap());
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-6 * b.abs().max(1.0), "{a} {b}");
    near(c.kl_nats, kl);
    near(c.top1_agreement, same);
    near(c.bits_per_token.unwrap(), bits);
    near(c.perplexity.unwrap(), bits.exp2());
    near(compiled.outputs[0].mean_cosine, cosines);
    assert!(kl > 0.0 && same > 0.8 && same < 1.0, "{kl} {same}");
    assert!(source.outputs.is_empty() && s.kl_nats == 0.0 && s.top1_agreement == 1.0);
    let alone = |p: &Path| evaluate::evaluate(p, text, 65, &NoProgress).unwrap();
    assert_eq!(s.bits_per_token, Some(alone(&model)));
    assert_eq!(c.bits_per_token, Some(alone(&folder)));

    // Without int8 activations only the weights' error is left.
    let float = compare(&model, &folder, Given::Text(text, 65), Activations::Float);
    let float = float.sources[1].outputs[0].error_db;
    assert!(float < compiled.outputs[0].error_db, "{float}");
}

/// bert.onnx, whose second up projection has one neuron of enormous weights that the down projection does not
/// read: the function is that without the neuron, but the scales of the other columns of its tile and of the
/// down projection's int8 activations are lost to it. The other weights of the down projection are made large,
/// so that the result depends on them.
fn spoiled(dir: &Path) -> PathBuf {
    let mut model = ModelProto::parse_from_bytes(&fs::read(fixture("bert.onnx")).unwrap()).unwrap();
    for t in &mut model.graph.as_mut().unwrap().initializer {
        let name = t.name.clone();
        for (at, bytes) in t.raw_data.chunks_exact_mut(4).enumerate() {
            let by = match name.as_str() {
                "val_140" if at % 256 == 17 => 1e5,
                "val_149" if at / 64 == 17 => 0.0,
                "val_149" => 40.0,
                _ => continue,
            };
            let value = f32::from_le_bytes(bytes[..].try_into().unwrap()) * by;
            bytes.copy_from_slice(&value.to_le_bytes());
        }
    }
    let path = dir.join("spoiled.onnx");
    fs::write(&path, model.write_to_bytes().unwrap()).unwrap();
    path
}

fn measure(model: &Path, folder: &Path, most: usize) -> Result<LayerTable, Diagnostics> {
    let source = Source::open(model, Activations::Int8, &NoProgress).unwrap();
    let judge = Judge::new(source.graph(), None, false).unwrap();
    let samples = Samples::new(source.graph(), vec![tokens(2, 9, true), tokens(1, 20, true)]).unwrap();
    layers::measure(model, folder, &judge, &samples, most, &NoProgress)
}

fn table(model: &Path, folder: &Path, most: usize) -> LayerTable {
    measure(model, folder, most).unwrap()
}

#[test]
fn layers_of_equalised_channels_are_measured_against_equalised_weights() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut o = options("llama.onnx", "asic", &out);
    o.quantisation.calibration = Some(Calibration::Synthetic);
    o.quantisation.activations = ActivationChoice::Static;
    o.quantisation.bits = Some(8);
    build(&o).unwrap();
    // A factor of 2 in a row that the reference did not have would be an error of -6 dB; 8-bit codes leave about -40.
    let t = table(&fixture("llama.onnx"), &out, 0);
    let errors: Vec<f64> = t.layers.iter().filter_map(|l| l.local_error).collect();
    assert!(errors.len() > 5 && errors.iter().all(|e| *e < 1e-2), "{t}");
}

#[test]
fn layers_made_bad_on_purpose_are_worst_first() {
    let dir = tempfile::tempdir().unwrap();
    let (model, folder) = (spoiled(dir.path()), dir.path().join("out"));
    let mut o = options("bert.onnx", "asic", &folder);
    o.model = model.clone();
    // The nearest codes: scales that are searched for spread the errors.
    o.quantisation.rounding = Rounding::Plain;
    build(&o).unwrap();
    let t = table(&model, &folder, 0);
    let names: Vec<&str> = t.layers.iter().map(|l| l.info.name.as_str()).collect();
    let at = |name: &str| {
        let place = names.iter().position(|n| *n == name).unwrap_or_else(|| panic!("{name}: {names:?}"));
        (place, t.layers[place].effects.unwrap())
    };
    let ((up_place, up), (down_place, down)) = (at("val_140"), at("val_149"));
    assert!(up_place < 2 && down_place < 2, "{t}");
    assert!(up.weights.error > 10.0 * up.activations.error, "{t}");
    assert!(down.activations.error > 10.0 * down.weights.error, "{t}");
    for l in &t.layers {
        let e = l.effects.unwrap();
        assert_eq!((l.saturated, e.noise.error), (0.0, 0.0), "{t}");
        if l.info.name != "val_140" {
            // One bit more of codes takes about three quarters of their squared error.
            assert!(e.one_more_bit.unwrap().error < 0.6 * e.weights.error, "{}: {t}", l.info.name);
        }
    }
    // The embedding is looked up, and so takes no activations.
    assert_eq!(at("m.embeddings.word_embeddings.weight").1.activations.error, 0.0);
    assert!(t.together.all.error >= up.all.error.min(down.all.error), "{t}");

    // With few effects asked for, the rest is in the order of local errors; threads change nothing.
    let [few, again] = [1, 2].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| table(&model, &folder, 3))
    });
    assert_eq!(few, again);
    assert_eq!(few.layers.iter().filter(|l| l.effects.is_some()).count(), 3);
    assert_eq!(few.layers[0].info.name, "val_149", "{few}");
    let rest: Vec<f64> = few.layers[3..].iter().map(|l| l.local_error.unwrap()).collect();
    assert!(rest.windows(2).all(|w| w[0] >= w[1]), "{few}");

    // Another model's folder is not measured.
    let other = fixture("bert.onnx");
    let source = Source::open(&other, Activations::Int8, &NoProgress).unwrap();
    let judge = Judge::new(source.graph(), None, false).unwrap();
    let samples = Samples::new(source.graph(), vec![tokens(1, 4, true)]).unwrap();
    let e = layers::measure(&other, &folder, &judge, &samples, 1, &NoProgress).unwrap_err();
    assert_eq!(codes(&e), ["E0704"]);
}

#[test]
fn the_error_of_holograms_is_noise() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("out");
    build(&options("bert.onnx", "glass", &folder)).unwrap();
    let t = table(&fixture("bert.onnx"), &folder, 2);
    let e = t.layers[0].effects.unwrap();
    assert_eq!((e.activations.error, e.one_more_bit), (0.0, None), "{t}");
    // Half precision of the weights is far below the levels' noise.
    assert!(e.noise.error > 100.0 * e.weights.error && e.weights.error > 0.0, "{t}");
    assert!((e.noise.error / e.all.error - 1.0).abs() < 0.1, "{t}");
}

#[test]
fn hidden_rows_do_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("out");
    build(&options("bert.onnx", "asic", &folder)).unwrap();
    let lines = dir.path().join("samples.jsonl");
    fs::write(
        &lines,
        "{\"input_ids\": [[5, 6, 7, 8]], \"attention_mask\": [[1, 1, 1, 0]]}\n\
         {\"input_ids\": [[9, 10]], \"attention_mask\": [[1, 1]]}\n",
    )
    .unwrap();
    let report = compare(&fixture("bert.onnx"), &folder, Given::Lines(&lines), Activations::Int8);
    let out = &report.sources[1].outputs[0];
    assert_eq!((report.samples, out.rows, report.sources[1].logits.is_none()), (2, 5, true));
    assert!(out.mean_cosine > 0.9 && out.min_cosine <= out.mean_cosine && out.error_db < -5.0, "{report}");
}
