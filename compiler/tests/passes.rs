//! Passes keep what a graph computes: text programs, executed before and after.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside of test functions

mod common;

use std::collections::BTreeMap;

use common::codes;
use pfmc::passes::bind::{Bound, bind};
use pfmc::passes::fix::fix;
use pfmc::passes::fold::Fold;
use pfmc::passes::{Exactness, apply};
use pfmc_ir::exec::{NoMatrices, run};
use pfmc_ir::graph::Graph;
use pfmc_ir::tensor::Tensor;
use pfmc_ir::text::parse_program;

fn graph(lines: &str) -> Graph {
    let mut g = parse_program(&format!("pfir 1\n{lines}")).unwrap_or_else(|e| panic!("{e}")).graph;
    pfmc_ir::infer::annotate(&mut g).unwrap_or_else(|e| panic!("{e}"));
    g
}

fn same_after_binding(lines: &str, inputs: &BTreeMap<String, Tensor>, sizes: &[(&str, i64)]) -> Bound {
    let g = graph(lines);
    let want = run(&g, inputs, &NoMatrices).unwrap();
    let mut folded = g.clone();
    assert_eq!(apply(&Fold, &mut folded).unwrap().exactness, Exactness::BitExact);
    assert_eq!(run(&folded, inputs, &NoMatrices).unwrap(), want, "after fold");
    let sizes = sizes.iter().map(|(n, s)| ((*n).to_owned(), *s)).collect();
    let (bound, _) = bind(g, &sizes).unwrap_or_else(|e| panic!("{e}"));
    let open = bound.clone().into_open();
    assert_eq!(run(&open, inputs, &NoMatrices).unwrap(), want, "after bind");
    bound
}

fn ramp(shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    Tensor::new(shape.to_vec(), (0..n).map(|i| i as f32 - 3.0).collect()).unwrap()
}

#[test]
fn lengths_are_followed_but_not_through_types_that_wrap() {
    let lines = r#"%0 = input "x" : f32[n, 300]
%1 = shape(%0) {start=0, end=2} : i64[2]
%2 = cast(%1) {to=u8} : u8[2]
%3 = cast(%2) {to=i64} : i64[2]
%4 = const [2] : i64[1]
%5 = mul(%1, %4) : i64[2]
output "wrapped" = %3
output "doubled" = %5
"#;
    let inputs = BTreeMap::from([("x".to_owned(), ramp(&[2, 300]))]);
    let want = run(&graph(lines), &inputs, &NoMatrices).unwrap();
    assert_eq!(want["wrapped"].as_slice::<i64>().unwrap(), [2, 300 - 256]);
    let bound = same_after_binding(lines, &inputs, &[("n", 2)]);
    assert!(matches!(bound, Bound::Bound(_)));
    // Nothing but constants is left beside the input.
    assert_eq!(bound.into_open().nodes().count(), 3);
}

#[test]
fn a_length_that_data_decide_stays_open_unless_binding_is_asked_for() {
    let lines = r#"%0 = input "x" : f32[4, 6]
%1 = input "end" : i64[1]
%2 = const [0] : i64[1]
%3 = const [1] : i64[1]
%4 = slice(%0, %2, %1, %2, %3) : f32[?, 6]
output "y" = %4
"#;
    let inputs =
        BTreeMap::from([("x".to_owned(), ramp(&[4, 6])), ("end".to_owned(), Tensor::vector(vec![3i64]))]);
    assert!(matches!(same_after_binding(lines, &inputs, &[]), Bound::Open(_)));
    let open = lines.replace("f32[4, 6]", "f32[n, 6]");
    let e = bind(graph(&open), &BTreeMap::from([("n".to_owned(), 4)])).unwrap_err();
    assert_eq!(codes(&e), ["E0203"]);
}

#[test]
fn a_bound_size_beyond_any_memory_is_refused() {
    let lines = "%0 = input \"x\" : f32[n, 64]\n%1 = neg(%0) : f32[n, 64]\noutput \"y\" = %1\n";
    let e = bind(graph(lines), &BTreeMap::from([("n".to_owned(), i64::MAX)])).unwrap_err();
    assert_eq!(codes(&e), ["E0202"]);
}

#[test]
fn a_tied_table_is_one_matrix_and_long_chains_are_followed() {
    let weights: Vec<String> = (0..12).map(|i| format!("{}.5", i)).collect();
    let mut lines = format!(
        "%0 = input \"ids\" : i64[n]\n%1 = const [{}] learned : f32[4, 3]\n%2 = gather(%1, %0) {{axis=0}} : f32[n, 3]\n\
         %3 = transpose(%1) {{perm=[1, 0]}} : f32[3, 4]\n%4 = matmul(%2, %3) : f32[n, 4]\noutput \"y\" = %4\n",
        weights.join(", ")
    );
    let mut g = graph(&lines);
    let (found, record) = fix(&mut g, &[]).unwrap();
    assert_eq!((found.len(), record.stats["products"], record.stats["look-ups"]), (1, 1, 1));
    assert_eq!((found[0].view.k, found[0].view.n), (3, 4));

    // A hundred thousand transpositions before a product neither overflow a stack nor take long.
    let mut last = 1;
    for i in 0..100_000 {
        let shape = if i % 2 == 0 { "3, 4" } else { "4, 3" };
        lines.push_str(&format!("%{} = transpose(%{last}) {{perm=[1, 0]}} : f32[{shape}]\n", i + 5));
        last = i + 5;
    }
    lines.push_str(&format!("%200000 = matmul(%4, %{last}) : f32[n, 3]\noutput \"z\" = %200000\n"));
    let (found, record) = fix(&mut graph(&lines), &[]).unwrap();
    // The product's weights are the table as it is, the look-up's and the other product's its transpose.
    assert_eq!((found.len(), record.stats["products"]), (2, 2));
}

#[test]
fn folding_stays_within_its_bound_on_work() {
    // A product of two tables that are short to write: 2^20 results of 2^10 terms each are left to the
    // run, 2^12 of 2^6 are made.
    let products = |n: usize| {
        let lines = format!(
            "%0 = const [0.5] : f32[1]\n%1 = const [{n}, {n}] : i64[2]\n\
             %2 = expand(%0, %1) : f32[{n}, {n}]\n%3 = matmul(%2, %2) : f32[{n}, {n}]\noutput \"y\" = %3\n"
        );
        let mut g = graph(&lines);
        apply(&Fold, &mut g).unwrap();
        g.nodes().filter(|(_, n)| n.op.name() == "matmul").count()
    };
    assert_eq!((products(1 << 10), products(1 << 6)), (1, 0));
}
