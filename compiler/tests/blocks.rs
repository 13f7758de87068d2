//! Blocks recovered from what exporters make of them: how many, and that results stay.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside of test functions

mod common;

use std::collections::BTreeMap;

use common::fixture;
use pfmc::onnx;
use pfmc::passes::canonicalise::Canonicalise;
use pfmc::passes::fold::Fold;
use pfmc::passes::{Stats, apply};
use pfmc_ir::elem::Elem;
use pfmc_ir::exec::{NoMatrices, run};
use pfmc_ir::graph::Graph;
use pfmc_ir::tensor::{Data, Tensor};
use pfmc_ir::text::parse_program;

/// Numbers of about unit size, the same on every run (Knuth's MMIX generator).
fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

fn inputs(graph: &Graph) -> BTreeMap<String, Tensor> {
    let mut out = BTreeMap::new();
    for (i, v) in graph.inputs().iter().enumerate() {
        let value = graph.value(*v).unwrap();
        let dims = value.ty.shape.as_ref().unwrap().iter().map(|d| {
            let d = d.as_ref().unwrap();
            d.value().map_or(if d.to_string() == "seq" { 7 } else { 2 }, |n| n as usize)
        });
        let shape: Vec<usize> = dims.collect();
        let n = shape.iter().product();
        let t = match (value.ty.elem, value.name.as_str()) {
            (Elem::I64, "attention_mask") => {
                Tensor::new(shape, (0..n).map(|i| i64::from(i + 3 < n)).collect())
            }
            (Elem::I64, _) => Tensor::new(shape, (0..n).map(|i| (i as i64 * 37 + 11) % 199).collect()),
            (Elem::Bool, _) => Tensor::new(shape, (0..n).map(|i| i % 3 != 1).collect()),
            _ => Tensor::new(shape, numbers(n, i as u64 + 1)),
        };
        out.insert(value.name.clone(), t.unwrap());
    }
    out
}

/// Canonicalises, and checks that outputs stay to 1e-5 of the largest element.
fn recovered(what: &str, mut graph: Graph) -> (Stats, Graph) {
    apply(&Fold, &mut graph).unwrap_or_else(|e| panic!("{what}: {e}"));
    let given = inputs(&graph);
    let want = run(&graph, &given, &NoMatrices).unwrap_or_else(|e| panic!("{what}: {e}"));
    let stats = apply(&Canonicalise, &mut graph).unwrap_or_else(|e| panic!("{what}: {e}")).stats;
    let got = run(&graph, &given, &NoMatrices).unwrap_or_else(|e| panic!("{what}: {e}"));
    for (name, want) in &want {
        let (Data::F32(a), Data::F32(b)) = (got[name].data(), want.data()) else {
            assert_eq!(&got[name], want, "{what}: {name}");
            continue;
        };
        assert_eq!(got[name].shape(), want.shape(), "{what}: {name}");
        let largest = b.iter().fold(0f32, |m, v| m.max(v.abs()));
        for (p, q) in a.iter().zip(b.iter()) {
            assert!((p - q).abs() <= 1e-5 * largest, "{what}: {name} has {p}, was {q} (largest {largest})");
        }
    }
    (stats, graph)
}

const NAMES: [&str; 6] = ["layer norms", "rms norms", "gelus", "silus", "rotaries", "attentions"];

fn counts(stats: &Stats) -> [u64; 6] {
    NAMES.map(|n| stats.get(n).copied().unwrap_or(0))
}

#[test]
fn exported_models_have_as_many_blocks_as_their_architecture() {
    // All have 2 layers but kjv_lm, which has 4. LayerNorm is one operation in these exports; RMS norms
    // are 2 a layer and a last one, 2 more a layer with norms of q and k (qwen3, gemma3), 2 more with
    // norms after each part (gemma3). Rotary positions turn q and k.
    let expected = [
        ("bert", [0, 0, 2, 0, 0, 2]),
        ("gpt2", [0, 0, 2, 0, 0, 2]),
        ("llama", [0, 5, 0, 2, 4, 2]),
        ("qwen3", [0, 9, 0, 2, 4, 2]),
        ("gemma3_text", [0, 13, 2, 0, 4, 2]),
        ("gpt_neox", [0, 0, 2, 0, 4, 2]),
        ("vit", [0, 0, 2, 0, 0, 2]),
        ("kjv_lm", [0, 9, 0, 4, 8, 4]),
    ];
    for (name, want) in expected {
        let model =
            onnx::import(&fixture(&format!("{name}.onnx"))).unwrap_or_else(|d| panic!("{name}:\n{d}"));
        let (stats, graph) = recovered(name, model.graph);
        assert_eq!(counts(&stats), want, "{name}: {NAMES:?}");
        // Nothing of the parts is left.
        for op in ["softmax", "erf", "sigmoid", "reduce_mean", "neg"] {
            assert!(graph.nodes().all(|(_, n)| n.op.name() != op), "{name} still has {op}");
        }
    }
}

fn parsed(lines: &str) -> Graph {
    let mut g = parse_program(&format!("pfir 1\n{lines}")).unwrap_or_else(|e| panic!("{e}")).graph;
    pfmc_ir::infer::annotate(&mut g).unwrap_or_else(|e| panic!("{e}"));
    g
}

/// Expects blocks and returns the operations that are left, constants and inputs aside.
fn expect(what: &str, lines: &str, blocks: &[(&str, u64)]) -> Vec<&'static str> {
    let (stats, graph) = recovered(what, parsed(lines));
    for name in NAMES {
        let want = blocks.iter().find(|b| b.0 == name).map_or(0, |b| b.1);
        assert_eq!(stats.get(name).copied().unwrap_or(0), want, "{what}: {name} in {stats:?}");
    }
    graph
        .order()
        .unwrap()
        .into_iter()
        .map(|id| graph.node(id).unwrap().op.name())
        .filter(|n| !["const", "input"].contains(n))
        .collect()
}

const NORM: &str = r#"%0 = input "x" : f32[n, 4]
%1 = const [1.0, 2.0, -1.0, 0.5] learned : f32[4]
%2 = const [0.5, 0.0, 1.0, 0.25] learned : f32[4]
%3 = const [2.0] : f32[]
%4 = const [1e-5] : f32[]
%5 = reduce_mean(%0) {axes=[1], keepdims=1} : f32[n, 1]
%6 = sub(%0, %5) : f32[n, 4]
%7 = pow(%6, %3) : f32[n, 4]
%8 = reduce_mean(%7) {axes=[-1], keepdims=1} : f32[n, 1]
%9 = add(%8, %4) : f32[n, 1]
%10 = sqrt(%9) : f32[n, 1]
"#;

#[test]
fn norms_are_recovered_in_the_forms_of_torch_and_tensorflow() {
    let torch = "%11 = div(%6, %10) : f32[n, 4]\n%12 = mul(%11, %1) : f32[n, 4]\n%13 = add(%12, %2) : f32[n, 4]\noutput \"y\" = %13\n";
    assert_eq!(expect("torch", &format!("{NORM}{torch}"), &[("layer norms", 1)]), ["layer_norm"]);
    let tf = "%11 = reciprocal(%10) : f32[n, 1]\n%12 = mul(%11, %1) : f32[n, 4]\n%13 = mul(%0, %12) : f32[n, 4]\n\
              %14 = mul(%5, %12) : f32[n, 4]\n%15 = sub(%2, %14) : f32[n, 4]\n%16 = add(%13, %15) : f32[n, 4]\noutput \"y\" = %16\n";
    assert_eq!(expect("tf2onnx", &format!("{NORM}{tf}"), &[("layer norms", 1)]), ["layer_norm"]);
    // The reciprocal of an inverse deviation is the deviation: the product is no norm.
    let twice = NORM.replace("%10 = sqrt(%9)", "%20 = const [-0.5] : f32[]\n%10 = pow(%9, %20)");
    let tail = "%11 = reciprocal(%10) : f32[n, 1]\n%12 = mul(%6, %11) : f32[n, 4]\n%13 = mul(%12, %1) : f32[n, 4]\noutput \"y\" = %13\n";
    assert!(expect("deviation", &format!("{twice}{tail}"), &[]).contains(&"reduce_mean"));
    // Another divisor than the deviation is no norm.
    let other = "%11 = div(%0, %10) : f32[n, 4]\n%12 = mul(%11, %1) : f32[n, 4]\noutput \"y\" = %12\n";
    assert!(expect("no norm", &format!("{NORM}{other}"), &[]).contains(&"reduce_mean"));
}

#[test]
fn a_half_precision_norm_is_recovered_with_its_casts() {
    let lines = r#"%0 = input "x" : f32[n, 4]
%1 = cast(%0) {to=f16} : f16[n, 4]
%2 = cast(%1) {to=f32} : f32[n, 4]
%3 = mul(%2, %2) : f32[n, 4]
%4 = reduce_mean(%3) {axes=[1], keepdims=1} : f32[n, 1]
%5 = const [1e-5] : f32[]
%6 = add(%4, %5) : f32[n, 1]
%7 = sqrt(%6) : f32[n, 1]
%8 = div(%2, %7) : f32[n, 4]
%9 = cast(%8) {to=f16} : f16[n, 4]
%10 = const [2.0, 2.0, 2.0, 2.0] : f32[4]
%11 = cast(%10) {to=f16} : f16[4]
%12 = mul(%11, %9) : f16[n, 4]
%13 = cast(%12) {to=bool} : bool[n, 4]
output "y" = %13
"#;
    assert_eq!(expect("half", lines, &[("rms norms", 1)]), ["cast", "rms_norm", "cast"]);
}

fn attention(head: &str, tail: &str) -> String {
    format!(
        "%0 = input \"q\" : f32[b, 4, s, 8]\n%1 = input \"k\" : f32[b, 4, t, 8]\n%2 = input \"v\" : f32[b, 4, t, 6]\n\
         %3 = input \"seen\" : bool[b, 1, s, t]\n%4 = const [0.5] : f32[]\n%5 = const [-inf] : f32[]\n\
         %6 = const [-100.0] : f32[]\n%7 = const [5.0] : f32[]\n%8 = input \"bias\" : f32[4, s, t]\n{head}\
         %30 = softmax(%29) {{axis=-1}} : f32[b, 4, s, t]\n%31 = matmul(%30, %2) : f32[b, 4, s, 6]\n{tail}output \"y\" = %31\n"
    )
}

#[test]
fn attention_is_recovered_with_scales_caps_and_masks() {
    let turned = "%20 = transpose(%1) {perm=[0, 1, 3, 2]} : f32[b, 4, 8, t]\n";
    // The root of the scale on q and k.
    let rooted = format!(
        "{turned}%21 = mul(%0, %4) : f32[b, 4, s, 8]\n%22 = mul(%20, %4) : f32[b, 4, 8, t]\n\
         %28 = matmul(%21, %22) : f32[b, 4, s, t]\n%29 = add(%28, %8) : f32[b, 4, s, t]\n"
    );
    assert_eq!(expect("roots", &attention(&rooted, ""), &[("attentions", 1)]), ["attention"]);
    // Gemma's cap, and where on the scores.
    let capped = format!(
        "{turned}%21 = matmul(%0, %20) : f32[b, 4, s, t]\n%22 = mul(%21, %4) : f32[b, 4, s, t]\n%23 = div(%22, %7) : f32[b, 4, s, t]\n\
         %24 = tanh(%23) : f32[b, 4, s, t]\n%25 = mul(%24, %7) : f32[b, 4, s, t]\n%29 = where(%3, %25, %5) : f32[b, 4, s, t]\n"
    );
    assert_eq!(expect("cap", &attention(&capped, ""), &[("attentions", 1)]), ["where", "attention"]);
    // What replaces a score must hide it: -100 is a score like others.
    let shallow = format!(
        "{turned}%21 = matmul(%0, %20) : f32[b, 4, s, t]\n%29 = where(%3, %21, %6) : f32[b, 4, s, t]\n"
    );
    assert!(expect("shallow", &attention(&shallow, ""), &[]).contains(&"softmax"));
    // Weights that are an output stay.
    let plain = format!("{turned}%29 = matmul(%0, %20) : f32[b, 4, s, t]\n");
    let kept = attention(&plain, "output \"weights\" = %30\n");
    assert!(expect("weights", &kept, &[]).contains(&"softmax"));
    assert_eq!(expect("plain", &attention(&plain, ""), &[("attentions", 1)]), ["attention"]);
}

#[test]
fn heads_in_the_batch_axis_and_shared_heads_are_recovered() {
    let batched = "%0 = input \"q\" : f32[bh, s, 8]\n%1 = input \"k\" : f32[bh, t, 8]\n%2 = input \"v\" : f32[bh, t, 6]\n\
                   %3 = const [4.0] : f32[]\n%4 = div(%0, %3) : f32[bh, s, 8]\n%5 = transpose(%1) {perm=[0, 2, 1]} : f32[bh, 8, t]\n\
                   %6 = matmul(%4, %5) : f32[bh, s, t]\n%7 = softmax(%6) {axis=2} : f32[bh, s, t]\n\
                   %8 = matmul(%7, %2) : f32[bh, s, 6]\noutput \"y\" = %8\n";
    assert_eq!(expect("batched heads", batched, &[("attentions", 1)]), ["attention"]);
    // Multi-query attention: one head of keys and values, repeated by Gather or broadcast by the product.
    let shared = |repeat: &str, heads: usize, k: usize, v: usize| {
        format!(
            "%0 = input \"q\" : f32[b, 4, s, 8]\n%1 = input \"k\" : f32[b, {heads}, t, 8]\n%2 = input \"v\" : f32[b, {heads}, t, 6]\n\
             %3 = const [0, 0, 1, 1] : i64[4]\n{repeat}%9 = transpose(%{k}) {{perm=[0, 1, 3, 2]}} : f32[b, ?, 8, t]\n\
             %10 = matmul(%0, %9) : f32[b, 4, s, t]\n%11 = softmax(%10) {{axis=-1}} : f32[b, 4, s, t]\n\
             %12 = matmul(%11, %{v}) : f32[b, 4, s, 6]\noutput \"y\" = %12\n"
        )
    };
    assert_eq!(expect("broadcast", &shared("", 1, 1, 2), &[("attentions", 1)]), ["attention"]);
    let gathers =
        "%4 = gather(%1, %3) {axis=1} : f32[b, 4, t, 8]\n%5 = gather(%2, %3) {axis=1} : f32[b, 4, t, 6]\n";
    assert_eq!(expect("gather", &shared(gathers, 2, 4, 5), &[("attentions", 1)]), ["attention"]);
    // Heads dealt in turns are not heads of one group: keys stay repeated.
    let turns = shared(gathers, 2, 4, 5).replace("[0, 0, 1, 1]", "[0, 1, 0, 1]");
    assert_eq!(expect("turns", &turns, &[("attentions", 1)]), ["gather", "gather", "attention"]);
}

#[test]
fn rotary_positions_of_pairs_beside_each_other_are_recovered() {
    let lines = |middle: &str| {
        format!(
            "%0 = input \"x\" : f32[b, 2, s, 4]\n%1 = input \"cos\" : f32[s, 4]\n%2 = input \"sin\" : f32[s, 4]\n\
             %3 = const [0] : i64[1]\n%4 = const [1] : i64[1]\n%5 = const [2] : i64[1]\n%6 = const [9223372036854775807] : i64[1]\n\
             %7 = const [3] : i64[1]\n%8 = const [0, 2, -1, 4] : i64[4]\n\
             %9 = slice(%0, %3, %6, %7, %5) : f32[b, 2, s, 2]\n%10 = slice(%0, %4, %6, %7, %5) : f32[b, 2, s, 2]\n{middle}output \"y\" = %19\n"
        )
    };
    let gptj = "%11 = neg(%10) : f32[b, 2, s, 2]\n%12 = unsqueeze(%11) {axes=[4]} : f32[b, 2, s, 2, 1]\n\
                %13 = unsqueeze(%9) {axes=[4]} : f32[b, 2, s, 2, 1]\n%14 = concat(%12, %13) {axis=-1} : f32[b, 2, s, 2, 2]\n\
                %15 = reshape(%14, %8) {allow_zero=0} : f32[b, 2, s, 4]\n%16 = mul(%0, %1) : f32[b, 2, s, 4]\n\
                %17 = mul(%15, %2) : f32[b, 2, s, 4]\n%19 = add(%16, %17) : f32[b, 2, s, 4]\n";
    assert_eq!(expect("gptj", &lines(gptj), &[("rotaries", 1)]), ["rotary"]);
    // Without the minus it is no turn.
    let other = gptj.replace("= neg(", "= abs(");
    assert!(expect("no turn", &lines(&other), &[]).contains(&"concat"));
}

#[test]
fn what_changes_nothing_goes_and_what_is_learned_stays() {
    let lines = r#"%0 = input "x" : f32[n, 4]
%1 = const [1.0] : f32[]
%2 = const [1.0, 1.0, 1.0, 1.0] learned : f32[4]
%3 = mul(%0, %1) : f32[n, 4]
%4 = mul(%3, %2) : f32[n, 4]
%5 = transpose(%4) {perm=[1, 0]} : f32[4, n]
%6 = transpose(%5) {perm=[1, 0]} : f32[n, 4]
%7 = exp(%6) : f32[n, 4]
%8 = exp(%4) : f32[n, 4]
%9 = add(%7, %8) : f32[n, 4]
output "y" = %9
"#;
    assert_eq!(expect("tidy", lines, &[]), ["mul", "exp", "add"]);
}

#[test]
fn convolutions_are_named_by_kernel_and_channels() {
    let parts = |name: &str| -> Vec<String> {
        let found = pfmc::inspect::inspect(&fixture(name)).unwrap_or_else(|d| panic!("{name}:\n{d}")).0;
        found.blocks.into_iter().flat_map(|g| g.parts).collect()
    };
    let mut found = parts("small/fixed_conv.onnx");
    found.sort_unstable();
    // Kernels, strides and groups as the fixture's script writes them.
    let mut want = [
        "conv 1x1 4->3",
        "conv 3x3/2x1 4->6 in 2 groups",
        "depthwise 3x3 4",
        "conv 3 dilated 2 4->2",
        "conv 2x2x2 2->3",
        "conv 2x2 4->3",
        "transposed conv 2x3/2 4->6",
        "transposed conv 2x2 dilated 1x2 4->6 in 2 groups",
    ];
    want.sort_unstable();
    assert_eq!(found, want);
    assert!(parts("kjv_lm.onnx").iter().all(|p| !p.contains("conv") && !p.contains("patches")));
}
