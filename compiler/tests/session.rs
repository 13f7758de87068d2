//! Runs that keep state, on small models whose results without it are at hand.
#![allow(clippy::unwrap_used)] // helpers outside of test functions

mod common;

use std::collections::BTreeMap;

use common::fixture;
use pfmc::onnx;
use pfmc::session::Session;
use pfmc_ir::exec::{Executor, NoMatrices};
use pfmc_ir::tensor::Tensor;

fn session(model: &onnx::Model) -> Session<'_> {
    Session::new(&model.graph, Executor::new(&model.graph, &NoMatrices).unwrap(), &[]).unwrap()
}

fn ids(rows: &[&[i64]]) -> BTreeMap<String, Tensor> {
    let t = Tensor::new(vec![rows.len(), rows[0].len()], rows.concat()).unwrap();
    BTreeMap::from([("input_ids".to_owned(), t)])
}

/// The logits of the last position of each row.
fn last(outputs: &BTreeMap<String, Tensor>) -> Vec<Vec<f32>> {
    let t = &outputs["logits"];
    let (s, v) = (t.shape()[1], t.shape()[2]);
    t.as_slice::<f32>().unwrap().chunks_exact(s * v).map(|row| row[(s - 1) * v..].to_vec()).collect()
}

#[test]
fn steps_with_kept_keys_and_values_equal_one_run() {
    let model = onnx::import(&fixture("small/decoder_past.onnx")).unwrap();
    let mut kept = session(&model);
    let names: Vec<_> = kept.pairs().iter().map(|(i, o)| format!("{i}={o}")).collect();
    assert_eq!(names, ["past_key_values.0.key=present.0.key", "past_key_values.0.value=present.0.value"]);
    let rows: [&[i64]; 2] = [&[1, 4, 2, 6, 0], &[3, 3, 5, 1, 2]];
    // A prompt of two, then single tokens; two rows at a time.
    for (from, to) in [(0, 2), (2, 3), (3, 4), (4, 5)] {
        let stepped = last(&kept.step(&ids(&[&rows[0][from..to], &rows[1][from..to]])).unwrap());
        let whole = last(&session(&model).step(&ids(&[&rows[0][..to], &rows[1][..to]])).unwrap());
        for (a, b) in stepped.iter().flatten().zip(whole.iter().flatten()) {
            assert!((a - b).abs() < 1e-5, "{stepped:?}, {whole:?}");
        }
        assert_eq!(kept.state()["past_key_values.0.key"].shape(), [2, 1, to, 4]);
    }
}

#[test]
fn greedy_tokens_are_the_most_likely_of_whole_runs() {
    let model = onnx::import(&fixture("small/decoder_past.onnx")).unwrap();
    let prompt: [&[i64]; 2] = [&[1, 4, 2], &[6, 6, 0]];
    let made = session(&model).generate(&ids(&prompt), 6).unwrap();
    assert_eq!(made.shape(), [2, 6]);
    for (row, made) in prompt.iter().zip(made.as_slice::<i64>().unwrap().chunks_exact(6)) {
        let mut sequence = row.to_vec();
        for &token in made {
            let logits = last(&session(&model).step(&ids(&[&sequence])).unwrap()).remove(0);
            let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
            assert_eq!(token, best as i64);
            sequence.push(token);
        }
    }
}

#[test]
fn streams_hand_the_state_on_and_stack_the_rest() {
    let model = onnx::import(&fixture("small/cell.onnx")).unwrap();
    let x = Tensor::new(vec![4, 1, 3], (0..12).map(|i| i as f32 / 7.0 - 0.8).collect()).unwrap();
    let inputs = BTreeMap::from([("x".to_owned(), x.clone())]);
    let streamed = session(&model).stream(&inputs, &["x".to_owned()]).unwrap();
    assert_eq!((streamed["y"].shape(), streamed["hn"].shape()), (&[4, 1, 1][..], &[1, 2][..]));
    let mut h = Tensor::new(vec![1, 2], vec![0f32; 2]).unwrap();
    let mut each = Vec::new();
    for row in x.as_slice::<f32>().unwrap().chunks_exact(3) {
        let x = Tensor::new(vec![1, 3], row.to_vec()).unwrap();
        let out = session(&model).step(&BTreeMap::from([("x".into(), x), ("h".into(), h)])).unwrap();
        each.extend_from_slice(out["y"].as_slice::<f32>().unwrap());
        h = out["hn"].clone();
    }
    assert_eq!(streamed["y"].as_slice::<f32>().unwrap(), each);
    assert_eq!(streamed["hn"], h);
}

#[test]
fn state_that_the_model_does_not_have_is_refused() {
    let model = onnx::import(&fixture("small/cell.onnx")).unwrap();
    let executor = Executor::new(&model.graph, &NoMatrices).unwrap();
    let pairs = [("h".to_owned(), "nowhere".to_owned())];
    let said = Session::new(&model.graph, executor, &pairs).err().unwrap().to_string();
    assert!(said.contains("no output \"nowhere\"") && said.contains("hn"), "{said}");
    let missing = session(&model).stream(&BTreeMap::new(), &["x".to_owned()]).unwrap_err().to_string();
    assert!(missing.contains("streamed input \"x\" is missing"), "{missing}");
}
