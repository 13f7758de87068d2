//! Files of samples: what is read from them, and what is refused by name.
#![allow(clippy::unwrap_used)] // helpers outside of test functions

mod common;

use std::fs;
use std::path::PathBuf;

use common::{codes, fixture};
use pfmc::samples::{Inputs, Samples};
use pfmc::{npz, onnx};
use pfmc_ir::graph::Graph;
use pfmc_ir::shape::OpenType;
use pfmc_ir::tensor::Tensor;

/// bert takes `input_ids` and `attention_mask` [batch, seq] of i64.
fn bert() -> Graph<OpenType> {
    onnx::import(&fixture("bert.onnx")).unwrap().graph
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().unwrap())
    }

    fn lines(&self, text: &str) -> PathBuf {
        let path = self.0.path().join("samples.jsonl");
        fs::write(&path, text).unwrap();
        path
    }

    fn arrays(&self, arrays: &[(&str, Tensor)]) -> PathBuf {
        let path = self.0.path().join("samples.npz");
        let arrays: Inputs = arrays.iter().map(|(n, t)| ((*n).to_owned(), t.clone())).collect();
        npz::write(&path, &arrays).unwrap();
        path
    }
}

fn counting(shape: &[usize]) -> Tensor {
    Tensor::new(shape.to_vec(), (0..shape.iter().product::<usize>() as i64).collect()).unwrap()
}

#[test]
fn a_line_is_a_sample_and_an_axis_in_front_counts_samples() {
    let (graph, files) = (bert(), Files::new());
    let text = "{\"input_ids\": [[0, 1, 2]], \"attention_mask\": [[0, 1, 2]]}\n\n\
                {\"attention_mask\": [[3, 4, 5]], \"input_ids\": [[3, 4, 5]]}\n";
    let lines = Samples::read(&graph, &files.lines(text)).unwrap();
    let stacked = counting(&[2, 1, 3]);
    let path = files.arrays(&[("input_ids", stacked.clone()), ("attention_mask", stacked)]);
    let arrays = Samples::read(&graph, &path).unwrap();
    assert_eq!((lines.len(), arrays.len()), (2, 2));
    for i in 0..2 {
        assert_eq!(lines.get(i), arrays.get(i));
        let ids = lines.get(i).unwrap()["input_ids"].as_slice::<i64>().unwrap();
        assert_eq!(ids, [3 * i as i64, 3 * i as i64 + 1, 3 * i as i64 + 2]);
    }
    assert!(lines.get(2).is_none());
    let path = files.arrays(&[("input_ids", counting(&[2, 3])), ("attention_mask", counting(&[2, 3]))]);
    let one = Samples::read(&graph, &path).unwrap();
    assert_eq!((one.len(), one.get(0).unwrap()["input_ids"].shape()), (1, &[2, 3][..]));
}

#[test]
fn state_that_a_sample_leaves_out_is_empty() {
    let graph = onnx::import(&fixture("small/decoder_past.onnx")).unwrap().graph;
    let samples = Samples::read(&graph, &Files::new().lines("{\"input_ids\": [[1, 4, 2]]}")).unwrap();
    assert_eq!(samples.get(0).unwrap()["past_key_values.0.key"].shape(), [1, 1, 0, 4]);
}

#[test]
fn everything_wrong_is_said_at_once() {
    let (graph, files) = (bert(), Files::new());
    let refused = |text: &str| Samples::read(&graph, &files.lines(text)).err().unwrap();
    let e = refused(
        "{\"input_ids\": [[1, 2]], \"mask\": [[1, 1]]}\n\
         {\"input_ids\": [[1, 2], [3]], \"attention_mask\": [[1.5]]}\n\
         [1]\n\
         {\"input_ids\": NaN}\n\
         {\"input_ids\": [[1, 2]], \"attention_mask\": [[1]]}\n\
         {\"input_ids\": [[]], \"attention_mask\": [[]]}\n\
         {\"input_ids\": [1, 2], \"attention_mask\": [[9223372036854775808]]}\n",
    );
    assert_eq!(codes(&e), ["E0012", "E0802", "E0903"]);
    let said = e.to_string();
    for words in [
        "line 1: input \"attention_mask\"",
        "line 1: the model has no input \"mask\"",
        "line 2: input \"input_ids\": lists of 2 and of 1 elements",
        "line 2: input \"attention_mask\": 1.5 is no integer",
        "line 3: this is no object",
        "line 4: this is no JSON",
        "line 5: seq is 2 in input",
        "line 6: input \"attention_mask\" of shape [1, 0] is empty",
        "line 7: input \"attention_mask\": 9223372036854775808 does not fit i64",
    ] {
        assert!(said.contains(words), "{words:?} is not in\n{said}");
    }
    assert_eq!(codes(&refused("\n")), ["E0903"]);
    assert!(refused("").to_string().contains("has no samples"));
    // The same problem of many lines is said once.
    let e = refused(&"{\"input_ids\": [[1]]}\n".repeat(100));
    assert!(e.0.len() == 1 && e.to_string().contains("line 1 and 99 more"), "{e}");
    assert_eq!(codes(&Samples::read(&graph, &PathBuf::from("nowhere.jsonl")).err().unwrap()), ["E0001"]);
}

#[test]
fn arrays_that_disagree_or_are_not_finite_are_refused() {
    let (graph, files) = (bert(), Files::new());
    let refused = |ids: Tensor, mask: Tensor| {
        let path = files.arrays(&[("input_ids", ids), ("attention_mask", mask)]);
        Samples::read(&graph, &path).err().unwrap()
    };
    let e = refused(counting(&[2, 1, 3]), counting(&[1, 3]));
    assert!(codes(&e) == ["E0903"] && e.to_string().contains("attention_mask has not"), "{e}");
    let e = refused(counting(&[2, 1, 3]), counting(&[3, 1, 3]));
    assert!(codes(&e) == ["E0903"] && e.to_string().contains("has 2 samples, another 3"), "{e}");
    let path = files.arrays(&[("input_ids", counting(&[2, 1, 3])), ("mask", counting(&[3]))]);
    let e = Samples::read(&graph, &path).err().unwrap().to_string();
    assert!(
        e.contains("no input \"mask\"") && e.contains("\"attention_mask\" (i64[batch, seq]) is missing"),
        "{e}"
    );
    let e = refused(counting(&[0, 1, 3]), counting(&[0, 1, 3]));
    assert!(codes(&e) == ["E0903"] && e.to_string().contains("no samples"), "{e}");
    let e = refused(counting(&[2, 1, 3]), Tensor::new(vec![2, 1, 3], vec![1f32; 6]).unwrap());
    assert!(codes(&e) == ["E0802"] && e.to_string().contains("sample 0 and 1 more"), "{e}");

    let graph = onnx::import(&fixture("vit.onnx")).unwrap().graph;
    let mut pixels = vec![0f32; 2 * 3 * 32 * 32];
    pixels[3 * 32 * 32 + 33] = f32::NAN;
    let pixels = Tensor::new(vec![2, 1, 3, 32, 32], pixels).unwrap();
    let e = Samples::read(&graph, &files.arrays(&[("pixel_values", pixels)])).err().unwrap();
    assert_eq!(codes(&e), ["E0903"]);
    assert!(e.to_string().contains("sample 1: input \"pixel_values\" is NaN at [0, 0, 1, 1]"), "{e}");
}

#[test]
fn numbers_are_those_of_the_declared_type() {
    // cell takes x [1, 3] and the state h [1, 2], both f32.
    let graph = onnx::import(&fixture("small/cell.onnx")).unwrap().graph;
    let files = Files::new();
    let ok = Samples::read(&graph, &files.lines("{\"x\": [[1, -2.5, 1e-3]]}")).unwrap();
    assert_eq!(ok.get(0).unwrap()["x"].as_slice::<f32>().unwrap(), [1.0, -2.5, 1e-3]);
    let e = Samples::read(&graph, &files.lines("{\"x\": [[1, true, 2]]}")).err().unwrap();
    assert!(e.to_string().contains("true is no number"), "{e}");
    let e = Samples::read(&graph, &files.lines("{\"x\": [[1, 1e300, 2]]}")).err().unwrap();
    assert!(e.to_string().contains("too large for f32"), "{e}");
}

#[test]
fn text_is_cut_into_windows_of_bytes() {
    let graph = onnx::import(&fixture("kjv_lm.onnx")).unwrap().graph;
    let samples = Samples::text(&graph, b"abcdefghij", 3, 2).unwrap();
    assert_eq!(samples.len(), 2);
    let ids = samples.get(0).unwrap().values().next().unwrap().clone();
    assert_eq!((ids.shape(), ids.as_slice::<i64>().unwrap()), (&[2, 2][..], &[97, 98, 100, 101][..]));
    assert_eq!(samples.next_tokens(0), Some(&[98, 99, 101, 102][..]));
    assert!(Samples::text(&graph, b"ab", 3, 2).is_err());
    assert!(Samples::text(&bert(), b"abcdef", 3, 2).err().unwrap().to_string().contains("takes 2 inputs"));
}
