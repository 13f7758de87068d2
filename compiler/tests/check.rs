//! Translation validation: what `check_stage` proves, measures and catches.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside of test functions

mod common;

use std::collections::BTreeMap;

use common::{codes, expect, fixture};
use pfmc::check::pipeline::{Report, check};
use pfmc::check::reduce::reduce;
use pfmc::check::{Method, Outcome, check_stage, inputs};
use pfmc::codes::E0310;
use pfmc::compile::Options;
use pfmc::npz;
use pfmc::passes::bind::bind;
use pfmc::passes::canonicalise::Canonicalise;
use pfmc::passes::{Exactness, apply};
use pfmc_ir::backend::NoProgress;
use pfmc_ir::consts::Const;
use pfmc_ir::diag::Diagnostic;
use pfmc_ir::elem::Elem;
use pfmc_ir::eval::eval;
use pfmc_ir::graph::{Graph, ValueId};
use pfmc_ir::op::{Op, UnaryFn};
use pfmc_ir::origin::Origin;
use pfmc_ir::random::Random;
use pfmc_ir::shape::{Dim, OpenType};
use pfmc_ir::tensor::Tensor;
use pfmc_ir::text::{parse_program, print_graph};
use pfmc_ir::verify::Verify;

fn graph(lines: &str) -> Graph {
    let mut g = parse_program(&format!("pfir 1\n{lines}")).unwrap_or_else(|e| panic!("{e}")).graph;
    pfmc_ir::infer::annotate(&mut g).unwrap_or_else(|e| panic!("{e}"));
    g
}

fn judge(before: &Graph, after: &Graph, exactness: Exactness) -> Outcome {
    let cases: Vec<_> = inputs::suite(after).unwrap().into_iter().map(|c| c.inputs).collect();
    check_stage(before, after, exactness, &cases)
}

/// A text with one part replaced.
fn changed(text: &str, from: &str, to: &str) -> Graph {
    assert!(text.contains(from), "{from}");
    graph(&text.replacen(from, to, 1))
}

/// Shape arithmetic, a branch that is decided, constants that meet each other and a table.
const FOLDS: &str = r#"%0 = input "x" : f32[n, 4]
%1 = shape(%0) {start=0, end=1} : i64[1]
%2 = const [4] : i64[1]
%3 = concat(%1, %2) {axis=0} : i64[2]
%4 "scale" = const [0.5, 2.0, -1.0, 3.0] : f32[4]
%5 "shift" = const [1.0, 1.0, 0.25, 1.0] : f32[4]
%6 "gain" = mul(%4, %5) : f32[4]
%7 "scaled" = mul(%0, %6) : f32[n, 4]
%8 = const [true] : bool[]
%9 "chosen" = if(%8, %7, %0) {then_region=0, else_region=1, results=1} : f32[n, 4]
%10 "again" = reshape(%9, %3) {allow_zero=0} : f32[n, 4]
%11 "y" = sub(%10, %0) : f32[n, 4]
output "y" = %11
region 0 {
%0 = input "a" : f32[n, 4]
%1 = input "b" : f32[n, 4]
%2 = neg(%0) : f32[n, 4]
output "r" = %2
}
region 1 {
%0 = input "a" : f32[n, 4]
%1 = input "b" : f32[n, 4]
output "r" = %1
}
"#;

#[test]
fn folding_and_binding_are_proved_and_faults_after_them_are_caught() {
    let before = graph(FOLDS);
    for sizes in [vec![], vec![("n".to_owned(), 3)]] {
        let (bound, _) = bind(before.clone(), &sizes.into_iter().collect()).unwrap();
        let after = bound.into_open();
        let good = judge(&before, &after, Exactness::BitExact);
        assert!(good.passed(), "{}", good.problems);
        assert_eq!(good.methods, [Method::Proof, Method::Interpreter]);
        assert!(good.checked["inputs"] >= 8, "{good:?}");
    }
    for (from, to) in [
        ("[0.5, 2.0, -1.0, 3.0]", "[0.5, 2.0, -1.0, 3.0000002]"),
        ("sub(%10, %0)", "sub(%0, %10)"),
        ("%8 = const [true]", "%8 = const [false]"),
        ("mul(%0, %6)", "mul(%0, %5)"),
        ("%2 = neg(%0)", "%2 = abs(%0)"),
    ] {
        let bad = judge(&before, &changed(FOLDS, from, to), Exactness::BitExact);
        assert_eq!(codes(&bad.problems), ["E0310"], "{from} to {to}: {bad:?}");
        assert!(!bad.methods.contains(&Method::Proof), "{to}");
        assert!(bad.problems.to_string().contains("the first value that differs"), "{}", bad.problems);
    }
    let renamed = judge(&before, &changed(FOLDS, "output \"y\"", "output \"z\""), Exactness::BitExact);
    assert_eq!(codes(&renamed.problems), ["E0312"]);
    let other = judge(&before, &changed(FOLDS, "input \"x\"", "input \"z\""), Exactness::BitExact);
    assert_eq!((codes(&other.problems), other.problems.0.len()), (vec!["E0312"], 2));
}

/// A root-mean-square norm, a sigmoid linear unit and their product, as exporters write them.
const PARTS: &str = r#"%0 = input "x" : f32[n, 16]
%1 = const [2.0] : f32[]
%2 "square" = pow(%0, %1) : f32[n, 16]
%3 "mean" = reduce_mean(%2) {axes=[-1], keepdims=1} : f32[n, 1]
%4 = const [1e-5] : f32[]
%5 "sum" = add(%3, %4) : f32[n, 1]
%6 "root" = sqrt(%5) : f32[n, 1]
%7 = const [1.0] : f32[]
%8 "inverse" = div(%7, %6) : f32[n, 1]
%9 "normal" = mul(%0, %8) : f32[n, 16]
%10 "gain" = const [1.0, 0.5, 2.0, -1.0, 1.0, 1.0, 1.5, 1.0, 1.0, 0.5, 2.0, -1.0, 1.0, 1.0, 1.5, 1.0] learned : f32[16]
%11 "norm" = mul(%10, %9) : f32[n, 16]
%12 "gate" = sigmoid(%11) : f32[n, 16]
%13 "silu" = mul(%11, %12) : f32[n, 16]
%14 "y" = add(%13, %0) : f32[n, 16]
output "y" = %14
"#;

#[test]
fn recovered_blocks_stay_within_their_bound_and_faults_in_them_do_not() {
    let before = graph(PARTS);
    let mut after = before.clone();
    let record = apply(&Canonicalise, &mut after).unwrap();
    assert_eq!((record.stats["rms norms"], record.stats["silus"]), (1, 1));
    let good = judge(&before, &after, Exactness::Rounding);
    assert!(good.passed(), "{}", good.problems);
    assert_eq!((good.checked["regions"], &good.methods[..]), (2, &[Method::Interpreter][..]));
    let worst = good.worst.unwrap();
    assert!(worst.error > 0.0 && worst.share() <= 1.0, "{worst:?}");
    let text = print_graph(&after);
    for (from, to) in [
        ("epsilon=1e-5f", "epsilon=1.1e-5f"),
        ("1.5", "1.5000019"),
        ("silu(", "sigmoid("),
        ("silu(", "gelu("),
        ("= add(", "= sub("),
    ] {
        let bad = judge(&before, &changed(&text, from, to), Exactness::Rounding);
        assert_eq!(codes(&bad.problems), ["E0311"], "{from} to {to}: {bad:?}");
    }
}

/// A value that is computed twice, and one of whose two computations stays.
const TWICE: &str = r#"%0 = input "x" : f32[n, 4]
%1 "square" = mul(%0, %0) : f32[n, 4]
%2 "again" = mul(%0, %0) : f32[n, 4]
%3 "gate" = sigmoid(%2) : f32[n, 4]
%4 "silu" = mul(%2, %3) : f32[n, 4]
%5 "less" = sub(%1, %0) : f32[n, 4]
%6 "y" = add(%4, %5) : f32[n, 4]
output "y" = %6
"#;

#[test]
fn what_is_computed_twice_is_one_value_of_a_region() {
    let before = graph(TWICE);
    let mut after = before.clone();
    let record = apply(&Canonicalise, &mut after).unwrap();
    assert_eq!((record.stats["merged"], record.stats["silus"]), (1, 1));
    // The unit reads "square", in place of which it had "again": its region is given other values of either sign.
    let good = judge(&before, &after, Exactness::Rounding);
    assert!(good.passed(), "{}", good.problems);
    assert_eq!(good.checked["regions"], 1, "{good:?}");
    assert_eq!(good.checked["runs of regions"], good.checked["inputs"] + 4, "{good:?}");
    let bad = judge(&before, &changed(&print_graph(&after), "silu(", "gelu("), Exactness::Rounding);
    assert_eq!(codes(&bad.problems), ["E0311"], "{bad:?}");
}

#[test]
fn a_region_is_given_no_values_that_contradict_each_other() {
    let text = "%0 = input \"x\" : f32[n, 4]\n%1 \"square\" = mul(%0, %0) : f32[n, 4]\n%2 = const [2.0] : f32[]\n\
                %3 \"power\" = pow(%0, %2) : f32[n, 4]\n%4 \"y\" = tanh(%3) : f32[n, 4]\n\
                output \"y\" = %4\noutput \"square\" = %1\n";
    // The root of a square, turned around, is no root of the square turned around.
    let before = graph(text);
    let after = changed(text, "tanh(%3)", "tanh(%1)");
    let good = judge(&before, &after, Exactness::Rounding);
    assert!(good.passed(), "{}", good.problems);
    assert_eq!((good.checked["regions"], good.checked["regions of the model's values alone"]), (1, 1));
    assert_eq!(good.checked["runs of regions"], good.checked["inputs"]);
    let bad = judge(&before, &changed(text, "tanh(%3)", "tanh(%0)"), Exactness::Rounding);
    assert_eq!(codes(&bad.problems), ["E0311"], "{bad:?}");
}

#[test]
fn a_stage_that_nothing_could_be_run_of_does_not_pass() {
    let before = graph(
        "%0 = input \"x\" : f32[n]\n%1 = reshape(%0, %2) {allow_zero=0} : f32[4]\n"
            .replacen("%1 =", "%2 = const [4] : i64[1]\n%1 =", 1)
            .as_str(),
    );
    let mut before = before;
    let y = before.nodes().find(|(_, n)| n.op.name() == "reshape").unwrap().1.outputs[0];
    before.add_output("y", y);
    let mut after = before.clone();
    let id = after.value(y).unwrap().node;
    *after.op_mut(id).unwrap().0 = pfmc_ir::op::Op::Reshape { allow_zero: true };
    let out = check_stage(&before, &after, Exactness::BitExact, &[]);
    assert_eq!(codes(&out.problems), ["E0314"]);
}

#[test]
fn a_wrong_pass_is_reduced_to_the_nodes_that_show_it() {
    // A pass that takes the wrong operand of a subtraction first, wherever it is.
    let wrong = |g: &Graph| {
        let mut g = g.clone();
        for id in g.order().unwrap() {
            let node = g.node(id).unwrap();
            if node.op.name() == "sub" {
                let inputs = node.inputs.iter().rev().copied().collect();
                g.set_inputs(id, inputs);
            }
        }
        g
    };
    let fails = |g: &Graph| !judge(g, &wrong(g), Exactness::BitExact).passed();
    let before = graph(FOLDS);
    let small = reduce(&before, &fails);
    assert!(fails(&small) && small.verify().is_ok());
    // The subtraction and its two operands, of which nothing is known but their types.
    let names: Vec<&str> = small.nodes().map(|(_, n)| n.op.name()).collect();
    assert_eq!(
        (names.len(), names.iter().filter(|n| **n == "sub").count()),
        (3, 1),
        "{}",
        print_graph(&small)
    );
    let text = format!("pfir 1\n{}", print_graph(&small));
    assert!(fails(&parse_program(&text).unwrap().graph), "{text}");
    // A pass that is right is not reduced.
    assert_eq!(print_graph(&reduce(&before, &|_| false)), print_graph(&before));
}

fn derived(t: &Tensor, learned: bool) -> Const {
    Const::derived(t, Origin::default(), learned)
}

/// A product with a matrix of 512 x 512, cut into 8 heads of 64, which become columns.
fn wide() -> Graph {
    let mut g = Graph::new();
    let mut random = Random(1);
    let lengths = [Dim::symbol("n"), Dim::known(512)].map(Some).to_vec();
    let x = g.add_input("x", OpenType { elem: Elem::F32, shape: Some(lengths) });
    let weights: Vec<f32> = (0..512 * 512).map(|_| random.normal()).collect();
    let w = g.add_const("w", derived(&Tensor::new(vec![512, 512], weights).unwrap(), true));
    let heads = g.add_const("cut", derived(&Tensor::vector(vec![-1i64, 8, 64]), false));
    let mut add = |name: &str, op, inputs: &[ValueId]| {
        let ty = OpenType::unknown(Elem::F32);
        g.add(op, inputs.to_vec(), vec![(name.to_owned(), ty)], Origin::default())[0]
    };
    let product = add("product", Op::MatMul {}, &[x, w]);
    let bent = add("bent", Op::Unary(UnaryFn::Tanh), &[product]);
    let parts = add("parts", Op::Reshape { allow_zero: false }, &[bent, heads]);
    let y = add("turned", Op::Transpose { perm: vec![0, 2, 1] }, &[parts]);
    g.add_output("y", y);
    pfmc_ir::infer::annotate(&mut g).unwrap();
    g
}

/// A pass that multiplies with square matrices the wrong way round.
fn turned_weights(graph: &Graph) -> Graph {
    let mut g = graph.clone();
    for id in g.order().unwrap() {
        let node = g.node(id).unwrap();
        if node.op.name() != "matmul" {
            continue;
        }
        let Some((c, w)) = g.constant(node.inputs[1]).filter(|(_, w)| w.shape[0] == w.shape[1]) else {
            continue;
        };
        let turned = eval(&Op::Transpose { perm: vec![1, 0] }, &[w.tensor().unwrap()]).unwrap();
        *g.consts.get_mut(c).unwrap() = derived(&turned[0], true);
    }
    g
}

/// A pass that takes the transpose of what was reshaped for another reshape.
fn reshaped_only(graph: &Graph) -> Graph {
    let mut g = graph.clone();
    for id in g.order().unwrap() {
        let node = g.node(id).unwrap();
        let Op::Transpose { perm } = &node.op else { continue };
        let from = node.inputs[0];
        let made = g.producer(from).filter(|n| n.op.name() == "reshape" && perm[..] == [0, 2, 1]);
        let Some((_, shape)) = made.and_then(|n| g.constant(n.inputs[1])) else { continue };
        let mut shape = shape.tensor().unwrap().as_slice::<i64>().unwrap().to_vec();
        shape.swap(1, 2);
        let shape = g.add_const("shape", derived(&Tensor::vector(shape), false));
        *g.op_mut(id).unwrap().0 = Op::Reshape { allow_zero: false };
        g.set_inputs(id, vec![from, shape]);
    }
    g
}

/// Lengths of the axes of inputs and constants.
fn axes(g: &Graph) -> Vec<Vec<Option<i64>>> {
    let of = |ty: &OpenType| ty.shape.iter().flatten().map(|d| d.as_ref().and_then(Dim::value)).collect();
    let ends = g.nodes().filter(|(_, n)| n.inputs.is_empty());
    let mut all: Vec<_> = ends.map(|(_, n)| of(&g.value(n.outputs[0]).unwrap().ty)).collect();
    all.sort();
    all
}

type Wrong = fn(&Graph) -> Graph;

#[test]
fn a_wrong_pass_on_wide_tensors_is_reduced_to_a_few_elements() {
    let before = wide();
    let passes = [
        // Of one weight there is no other way round.
        (turned_weights as Wrong, 3, [vec![None, Some(2)], vec![Some(2), Some(2)]]),
        // Two rows of two make two heads of two.
        (reshaped_only as Wrong, 4, [vec![None, Some(2)], vec![Some(3)]]),
    ];
    for (pass, nodes, lengths) in passes {
        let fails = |g: &Graph| codes(&judge(g, &pass(g), Exactness::BitExact).problems) == ["E0310"];
        let tried = std::cell::Cell::new(0);
        let small = reduce(&before, &|g| {
            tried.set(tried.get() + 1);
            fails(g)
        });
        let text = format!("pfir 1\n{}", print_graph(&small));
        assert_eq!((small.node_count(), axes(&small)), (nodes, lengths.to_vec()), "{text}");
        assert!(fails(&small) && small.verify().is_ok(), "{text}");
        assert!(fails(&parse_program(&text).unwrap().graph), "{text}");
        // A pass that does nothing keeps the contract on it: the fault is the pass's.
        assert!(judge(&small, &small, Exactness::BitExact).passed(), "{text}");
        assert!(tried.get() < 500, "{} graphs were tried", tried.get());
        assert_eq!(print_graph(&reduce(&before, &fails)), print_graph(&small), "it depends on no chance");
    }
    // A whole decoder, whose open dimensions stay open.
    let model = pfmc::onnx::import(&fixture("llama.onnx")).unwrap().graph;
    let fails = |g: &Graph| codes(&judge(g, &turned_weights(g), Exactness::BitExact).problems) == ["E0310"];
    let small = reduce(&model, &fails);
    assert_eq!(axes(&small), [vec![None, None, Some(2)], vec![Some(2), Some(2)]], "{}", print_graph(&small));
    // A length that the fault needs stays.
    let whole = |g: &Graph| {
        g.nodes().any(|(_, n)| g.value(n.outputs[0]).is_some_and(|v| v.ty.to_string() == "f32[512, 512]"))
    };
    assert!(whole(&reduce(&before, &whole)));
}

/// Elements of XML by name, with their attributes, in order; `None` for text that is no well-formed XML of the kind that
/// reports are.
fn elements(text: &str) -> Option<Vec<(String, BTreeMap<String, String>)>> {
    let (mut out, mut open) = (Vec::new(), Vec::new());
    let mut rest = text.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>")?;
    while let Some((before, tag)) = rest.split_once('<') {
        let plain = before
            .split('&')
            .skip(1)
            .all(|e| ["lt;", "gt;", "amp;", "quot;", "#10;", "#9;"].iter().any(|k| e.starts_with(k)));
        if before.contains('>') || !plain {
            return None;
        }
        let (tag, after) = tag.split_once('>')?;
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            (open.pop()? == name).then_some(())?;
            continue;
        }
        let (name, mut attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        let mut found = BTreeMap::new();
        while let Some((key, value)) = attributes.split_once("=\"") {
            let (value, more) = value.split_once('"')?;
            found.insert(key.trim().to_owned(), value.to_owned());
            attributes = more;
        }
        out.push((name.to_owned(), found));
        open.push(name.to_owned());
    }
    (open.is_empty() && rest.trim().is_empty()).then_some(out)
}

fn check_model(model: &str, target: &str) -> Report {
    let options = Options { model: fixture(model), target: target.into(), ..Options::default() };
    check(&options, None, &NoProgress).unwrap_or_else(|d| panic!("{d}"))
}

#[test]
fn all_contracts_of_a_small_encoder_hold_and_are_reported_in_every_form() {
    let passes = |r: &Report| r.contracts.iter().map(|c| c.pass.clone()).collect::<Vec<_>>();
    for target in common::targets() {
        let mut report = check_model("bert.onnx", target);
        assert!(report.passed(), "{report}\n{}", report.problems());
        assert_eq!(passes(&report), ["fold", "canonicalise", "fix", "quantise", "partition", "layout"]);
        let by = |pass: &str| &report.contracts.iter().find(|c| c.pass == pass).unwrap().outcome;
        assert!(
            by("fold").methods.contains(&Method::Proof) && by("partition").methods.contains(&Method::Proof)
        );
        assert_eq!(by("layout").methods, [Method::ReadBack]);
        assert!(by("canonicalise").checked["regions"] > 0, "{report}");
        let quantise = report.contracts.iter().find(|c| c.pass == "quantise").unwrap();
        for l in &quantise.layers {
            assert!(l.bound > 0.0 && l.bound < 2.0 * l.range, "{l:?}");
            assert_eq!(l.accumulator_bits_free.is_some(), target == "asic", "{l:?}");
            let sampled = l.outcome.worst.as_ref().map_or(0.0, |w| w.share());
            // The rows made for it come near: the bound is no idle one.
            assert!(sampled <= 1.0 && (sampled > 0.2 || !l.outcome.checked.contains_key("rows")), "{l:?}");
        }
        let layers = quantise.layers.len();
        let cases = |r: &Report, what: &str| {
            let all = elements(&r.junit()).unwrap_or_else(|| panic!("{}", r.junit()));
            assert_eq!(all[1].1["tests"], all.iter().filter(|e| e.0 == "testcase").count().to_string());
            assert_eq!(all[1].1["failures"], all.iter().filter(|e| e.0 == "failure").count().to_string());
            all.into_iter().filter(|e| e.0 == what).count()
        };
        assert_eq!((cases(&report, "testcase"), cases(&report, "failure")), (6 + layers, 0));
        assert_eq!(report.sarif()["runs"][0]["results"], serde_json::json!([]));
        // A failure, with characters that reports must not take as they are.
        let d = Diagnostic::error(&E0310, "output \"<a>\" & \u{1}").at(&Origin::node("node/<1>"));
        report.contracts[0].outcome.problems.push(d);
        assert!(!report.passed());
        assert_eq!((cases(&report, "testcase"), cases(&report, "failure")), (6 + layers, 1));
        let sarif = report.sarif();
        let result = &sarif["runs"][0]["results"][0];
        assert_eq!((&result["ruleId"], &result["ruleIndex"]), (&"E0310".into(), &0.into()));
        assert_eq!(sarif["runs"][0]["tool"]["driver"]["rules"][0]["id"], "E0310");
        assert_eq!(result["locations"][0]["logicalLocations"][0]["name"], "node/<1>");
        assert!(report.to_string().contains("FAILED"), "{report}");
    }
    assert!(elements("<?xml version=\"1.0\" encoding=\"UTF-8\"?><a><b></a></b>").is_none());
}

#[test]
fn the_command_writes_reports_and_says_what_fails() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let model = fixture("small/forms.onnx");
    let model = model.to_str().unwrap();
    let bert = fixture("bert.onnx");
    let run = [
        "check",
        bert.to_str().unwrap(),
        "--target",
        "asic",
        "--bind",
        "batch=2,seq=5",
        "--junit",
        "r.xml",
        "--sarif",
        "r.sarif",
    ];
    let t = expect(d, &run, 0, &["all contracts hold", "bind", "partition", "layout"]);
    assert!(t.contains("inputs"), "{t}");
    assert!(elements(&std::fs::read_to_string(d.join("r.xml")).unwrap()).is_some());
    assert_eq!(std::fs::read_dir(d).unwrap().count(), 2, "nothing else is left");
    // What cannot be imported is in the SARIF file.
    let broken = fixture("small/two_unknown_ops.onnx");
    expect(
        d,
        &["check", broken.to_str().unwrap(), "--target", "asic", "--sarif", "bad.sarif"],
        1,
        &["error[E01"],
    );
    let sarif: serde_json::Value =
        serde_json::from_slice(&std::fs::read(d.join("bad.sarif")).unwrap()).unwrap();
    assert_eq!(sarif["runs"][0]["results"].as_array().unwrap().len(), 2, "{sarif}");
    expect(d, &["check", model, "--target", "wood"], 2, &["E0003"]);
    expect(d, &["opt", "--list"], 0, &["fold", "bit-exact"]);
    expect(d, &["opt", model, "--passes", "melt"], 2, &["E0005", "passes are bind, fold"]);
    expect(d, &["opt"], 2, &["E0005"]);
    expect(d, &["opt", bert.to_str().unwrap(), "--passes", "bind", "--bind", "depth=1"], 1, &["E0201"]);
}

#[test]
fn two_stages_are_compared_value_by_value() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let bert = fixture("bert.onnx");
    let bert = bert.to_str().unwrap();
    npz::write(&d.join("x.npz"), &common::tokens(2, 5, true)).unwrap();
    for (passes, out) in [("fold", "a.pfir"), ("fold,canonicalise", "b.pfir")] {
        expect(d, &["opt", bert, "--passes", passes, "-o", out], 0, &[]);
    }
    expect(d, &["compare", bert, "a.pfir", "--input", "x.npz"], 0, &["values of the same name"]);
    let json = |a: &str, b: &str| -> serde_json::Value {
        serde_json::from_str(&expect(d, &["compare", a, b, "--input", "x.npz", "--json"], 0, &[])).unwrap()
    };
    // Folding changes no bit; recovered norms do.
    let same = json(bert, "a.pfir");
    assert!(same["rows"].as_array().unwrap().len() > 20 && same["first_divergence"].is_null(), "{same}");
    let rounded = json("a.pfir", "b.pfir");
    let first = usize::try_from(rounded["first_divergence"].as_u64().unwrap()).unwrap();
    let rows = rounded["rows"].as_array().unwrap();
    assert!(
        rows[..first].iter().all(|r| r["same"] == true) && rows[first]["max_abs"].as_f64().unwrap() < 1e-4
    );
    assert!(rows.iter().all(|r| r["cosine"].as_f64().unwrap() > 0.9999), "{rounded}");
    let words = ["first divergence", "cosine"];
    expect(d, &["compare", "a.pfir", "b.pfir", "--input", "x.npz"], 0, &words);
    // A folder, and a text that is another model.
    expect(d, &[bert, "--target", "asic"], 0, &[]);
    expect(
        d,
        &["compare", "a.pfir", "bert.asic", "--input", "x.npz", "--tolerance", "0.01"],
        0,
        &["fixed_linear"],
    );
    std::fs::write(d.join("z.pfir"), "pfir 1\n%0 = input \"q\" : f32[2]\noutput \"r\" = %0\n").unwrap();
    expect(d, &["compare", bert, "z.pfir", "--input", "x.npz"], 1, &["E0904"]);
}
