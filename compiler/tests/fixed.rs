//! Constant weights are found in every form they are written in, each element once, and the program
//! with them computes what the model computes.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside of test functions

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{codes, fixture};
use pfmc::onnx;
use pfmc::partition::partition;
use pfmc::passes::bind::bind;
use pfmc::passes::fix::{Found, fix};
use pfmc::passes::{Exactness, PassRecord};
use pfmc::quantise::plan::WeightPlan;
use pfmc_ir::backend::TileLimit;
use pfmc_ir::consts::Const;
use pfmc_ir::elem::Elem;
use pfmc_ir::exec::{NoMatrices, run};
use pfmc_ir::graph::Graph;
use pfmc_ir::loaded::LoadedMatrices;
use pfmc_ir::op::{BinaryFn, Op};
use pfmc_ir::origin::Origin;
use pfmc_ir::shape::OpenType;
use pfmc_ir::tensor::Tensor;
use pfmc_ir::text::{parse_program, print_program};
use pfmc_ir::tile::Scheme;

/// Small, so that most matrices are cut.
const LIMIT: TileLimit = TileLimit { k: 5, n: 4, k_multiple: 1, n_multiple: 1 };

/// Values for the inputs: open lengths are 2, integers an index of the second and the last entry.
fn inputs(graph: &Graph) -> BTreeMap<String, Tensor> {
    let value = |i: usize| ((i * 37 + 5) % 17) as f32 / 8.0 - 1.0;
    let tensor = |ty: &OpenType| {
        let length = |d: &Option<pfmc_ir::shape::Dim>| d.as_ref().unwrap().value().unwrap_or(2) as usize;
        let shape: Vec<usize> = ty.shape.as_ref().unwrap().iter().map(length).collect();
        let n = shape.iter().product();
        match ty.elem {
            Elem::I64 => Tensor::new(shape, (0..n as i64).map(|i| 1 - 2 * i).collect()).unwrap(),
            _ => Tensor::new(shape, (0..n).map(value).collect()).unwrap(),
        }
    };
    graph.inputs().iter().map(|v| graph.value(*v).unwrap()).map(|v| (v.name.clone(), tensor(&v.ty))).collect()
}

/// Every output to 1e-5 of its largest element.
fn same(ours: &BTreeMap<String, Tensor>, want: &BTreeMap<String, Tensor>) {
    assert!(ours.keys().eq(want.keys()));
    for (name, want) in want {
        let ours = &ours[name];
        assert_eq!((ours.shape(), ours.elem()), (want.shape(), want.elem()), "{name}");
        let (x, y) = (ours.as_slice::<f32>().unwrap(), want.as_slice::<f32>().unwrap());
        let largest = y.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
        for (i, (x, y)) in x.iter().zip(y).enumerate() {
            assert!((x - y).abs() <= 1e-5 * largest, "{name}[{i}] is {x}, the model gives {y}");
        }
    }
}

struct Fixed {
    found: Vec<Found>,
    record: PassRecord,
    /// Operations left on the host, those of regions too.
    host: BTreeMap<&'static str, usize>,
}

impl Fixed {
    /// Fixes a graph, and checks that its tiles compute the same. The fixtures' weights need at most 11
    /// bits, so that rounding real weights to half precision changes nothing.
    fn of(graph: &Graph) -> Fixed {
        let (bound, _) = bind(graph.clone(), &BTreeMap::new()).unwrap_or_else(|e| panic!("{e}"));
        let mut fixed = bound.into_open();
        let (found, record) = fix(&mut fixed, &[]).unwrap_or_else(|e| panic!("{e}"));
        let (program, source) =
            partition(fixed, &found, &WeightPlan::uniform(&found, Scheme::Real), &|_| Some(LIMIT), Some(64))
                .unwrap();
        let mut host = BTreeMap::new();
        program.graph.each(&mut |g| {
            g.nodes().for_each(|(_, n)| *host.entry(n.op.name()).or_default() += 1);
        });
        let loaded = LoadedMatrices::load(&program, &source, &source).unwrap();
        let given = inputs(graph);
        let want = run(graph, &given, &NoMatrices).unwrap_or_else(|e| panic!("{e}"));
        same(&run(&program.graph, &given, &loaded).unwrap_or_else(|e| panic!("{e}")), &want);
        let text = print_program(&program);
        assert_eq!(print_program(&parse_program(&text).unwrap()), text);
        Fixed { found, record, host }
    }

    fn model(name: &str) -> Fixed {
        let model = onnx::import(&fixture(&format!("small/{name}.onnx"))).unwrap_or_else(|e| panic!("{e}"));
        assert!(onnx::check_finite(&model.graph).0.is_empty());
        Fixed::of(&model.graph)
    }

    /// The matrices a source node uses.
    fn of_node(&self, node: &str) -> Vec<&Found> {
        self.found.iter().filter(|f| f.origin.nodes.iter().any(|n| n == node)).collect()
    }

    /// That a node uses one matrix `[k, n]` of elements `at(k, n)`.
    fn is(&self, node: &str, k: u32, n: u32, at: impl Fn(usize, usize) -> f32) {
        let [f] = self.of_node(node)[..] else { panic!("{node}: {:?}", self.of_node(node)) };
        holds(f, node, k, n, at);
    }
}

fn holds(f: &Found, node: &str, k: u32, n: u32, at: impl Fn(usize, usize) -> f32) {
    assert_eq!((f.view.k, f.view.n), (k, n), "{node}");
    let want: Vec<f32> =
        (0..k as usize).flat_map(|i| (0..n as usize).map(move |j| (i, j))).map(|(i, j)| at(i, j)).collect();
    assert_eq!(f.view.read(0..k, 0..n).unwrap(), want, "{node}");
}

/// Element `p` of a fixture's `ramp` of `n` elements.
fn ramp(n: usize, p: usize) -> f32 {
    (p as f32 - (n / 2) as f32) / 16.0
}

/// Element `p` of a fixture's `codes` from `low` on.
fn code(p: usize, low: i32) -> f32 {
    (p as i32 * 7 % 15 + low) as f32
}

#[test]
fn through_everything_that_moves_weights() {
    let f = Fixed::model("fixed_views");
    assert_eq!((f.found.len(), f.record.exactness), (9, Exactness::BitExact));
    f.is("matmul_y_reshape", 4, 6, |k, n| ramp(24, n * 4 + k));
    f.is("matmul_y_gather", 4, 3, |k, n| ramp(24, 12 + n * 4 + k));
    f.is("matmul_y_slice", 4, 3, |k, n| ramp(24, (7 - 2 * k) * 3 + n));
    f.is("matmul_y_split0", 4, 2, |k, n| ramp(20, k * 5 + n));
    f.is("matmul_y_split1", 4, 3, |k, n| ramp(20, k * 5 + 2 + n));
    f.is("matmul_y_squeeze", 4, 2, |k, n| ramp(8, k * 2 + n));
    f.is("matmul_y_flatten", 4, 6, |k, n| ramp(24, k * 6 + n));
    f.is("matmul_y_concat", 4, 3, |k, n| if n < 2 { ramp(8, k * 2 + n) } else { ramp(4, k) });
    f.is("matmul_y_scaled", 4, 2, |k, n| ramp(8, k * 2 + n) * [0.5, 2.0][n]);
    // Nothing is left to move on the host, and no look-up of a table that is a weight.
    assert_eq!(f.host.keys().copied().collect::<Vec<_>>(), ["fixed_linear", "input"]);
}

#[test]
fn in_every_float_type() {
    let f = Fixed::model("fixed_types");
    for node in ["y_half", "y_bfloat", "y_double", "h", "d"] {
        f.is(&format!("matmul_{node}"), 4, 3, |k, n| ramp(12, k * 3 + n));
    }
    // Halves are one matrix whether they are converted before the product or not. A product of doubles
    // is rounded, which the record says.
    assert_eq!((f.found.len(), f.record.exactness), (4, Exactness::Rounding));
}

#[test]
fn as_codes_with_scales_and_zero_points() {
    let f = Fixed::model("fixed_quantised");
    assert_eq!(f.found.len(), 4);
    let axis = |k: usize, n: usize| (code(k * 3 + n, -7) - [1.0, 0.0, -2.0][n]) * [0.25, 0.5, 1.0][n];
    f.is("matmul_y_axis", 4, 3, axis);
    f.is("matmul_y_qdq", 4, 3, axis);
    f.is("matmul_y_tensor", 4, 3, |k, n| (code(n * 4 + k, 120) - 128.0) / 16.0);
    let scales = [[1.0, 2.0, 4.0], [0.5, 0.25, 8.0]];
    f.is("matmul_y_block", 4, 3, |k, n| code(k * 3 + n, -7) * scales[k / 2][n]);
    f.is("matmulnbits_y_nbits", 32, 2, |k, n| {
        let byte = (n * 16 + k / 2) * 37 % 251;
        ((byte >> (k % 2 * 4) & 15) as f32 - 8.0) * [0.5, 1.0, 2.0, 0.25][n * 2 + k / 16]
    });
}

#[test]
fn of_integer_products() {
    let f = Fixed::model("fixed_integer");
    assert_eq!((f.found.len(), f.record.exactness), (2, Exactness::BitExact));
    f.is("matmulinteger_a", 4, 3, |k, n| code(k * 3 + n, 120) - 126.0);
    f.is("qlinearmatmul_b", 4, 3, |k, n| code(k * 3 + n, 120) - 126.0);
    f.is("convinteger_c", 8, 3, |k, n| code(n * 8 + k, 0));
    assert!(!f.host.contains_key("matmul") && !f.host.contains_key("conv"), "{:?}", f.host);
}

#[test]
fn on_the_left() {
    let f = Fixed::model("fixed_left");
    assert_eq!(f.found.len(), 3);
    f.is("matmul_y_batch", 4, 3, |k, n| ramp(12, n * 4 + k));
    f.is("matmul_y_vector", 4, 3, |k, n| ramp(12, n * 4 + k));
    for (e, m) in f.of_node("matmul_y_bank").into_iter().enumerate() {
        holds(m, "bank", 4, 3, |k, n| ramp(24, e * 12 + n * 4 + k));
    }
}

#[test]
fn in_batches_and_chosen_by_data() {
    let f = Fixed::model("fixed_bank");
    assert_eq!(f.found.len(), 12);
    f.is("matmul_y_repeated", 4, 3, |k, n| ramp(12, k * 3 + n));
    for node in ["matmul_y_each", "matmul_y_shared", "matmul_y_vector", "matmul_y_chosen"] {
        let experts = f.of_node(node);
        assert_eq!(experts.len(), 4, "{node}");
        for (e, m) in experts.into_iter().enumerate() {
            holds(m, node, 4, 2, |k, n| ramp(32, e * 8 + k * 2 + n));
        }
    }
    for (e, m) in f.of_node("matmul_y_heads").into_iter().enumerate() {
        holds(m, "heads", 4, 3, |k, n| ramp(36, e * 12 + k * 3 + n));
    }
    for (e, m) in f.of_node("matmul_y_turned").into_iter().enumerate() {
        holds(m, "turned", 4, 6, |k, n| ramp(96, e * 24 + n * 4 + k));
    }
    assert!(!f.host.contains_key("fixed_lookup") && !f.host.contains_key("matmul"), "{:?}", f.host);
}

#[test]
fn in_gemm() {
    let f = Fixed::model("fixed_gemm");
    assert_eq!(f.found.len(), 1);
    f.is("gemm_y", 4, 3, |k, n| ramp(12, n * 4 + k));
}

#[test]
fn tied_tables_are_one_matrix_however_they_are_turned() {
    let f = Fixed::model("fixed_tied");
    assert_eq!((f.found.len(), f.record.stats["look-ups"], f.record.stats["products"]), (1, 4, 1));
    f.is("matmul_y", 4, 5, |k, n| ramp(20, n * 4 + k));
}

#[test]
fn in_convolutions_one_matrix_each() {
    let f = Fixed::model("fixed_conv");
    assert_eq!((f.found.len(), f.record.stats["convolutions"]), (8, 8));
    f.is("conv_y_point", 4, 3, |k, n| ramp(12, n * 4 + k));
    // Columns are output channels, those of a group beside each other.
    f.is("conv_y_grouped", 18, 6, |k, n| ramp(108, n * 18 + k));
    f.is("conv_y_depth", 9, 4, |k, n| ramp(36, n * 9 + k));
    f.is("conv_y_line", 12, 2, |k, n| ramp(24, n * 12 + k));
    f.is("conv_y_cube", 16, 3, |k, n| ramp(48, n * 16 + k));
    f.is("conv_y_codes", 16, 3, |k, n| code(n * 16 + k, -7) * [0.25, 0.5, 1.0][n]);
    f.is("convtranspose_y_up", 4, 36, |k, n| ramp(144, k * 36 + n));
    f.is("convtranspose_y_up2", 2, 24, |k, n| ramp(48, n / 12 * 24 + k * 12 + n % 12));
    assert_eq!(f.host["fixed_grouped"], 3);
    // No weight appears twice and none is added: the kernels have as many elements.
    let fixed: u32 = f.found.iter().map(|f| f.view.k * f.view.n).sum();
    assert_eq!(fixed, 12 + 108 + 36 + 24 + 48 + 48 + 144 + 48);
}

#[test]
fn in_regions() {
    let f = Fixed::model("fixed_regions");
    let shared = |k: usize, n: usize| ramp(16, n * 4 + k);
    f.is("matmul_hw", 4, 4, shared);
    f.is("matmul_p", 4, 4, shared);
    f.is("matmul_next", 4, 4, |k, n| ramp(16, k * 4 + n));
    let lstm: BTreeSet<(u32, u32)> =
        f.of_node("lstm_y_lstm").into_iter().map(|f| (f.view.k, f.view.n)).collect();
    assert_eq!(lstm, BTreeSet::from([(4, 12), (3, 12)]));
    assert_eq!(f.found.len(), 4);
    assert!(!f.host.contains_key("matmul"), "{:?}", f.host);
}

#[test]
fn but_not_where_data_decide_the_weights_or_no_view_is_one() {
    let f = Fixed::model("fixed_not");
    assert_eq!((f.found.len(), f.host["matmul"]), (0, 3));
}

#[test]
fn what_a_loop_changes_is_no_weight() {
    let text = r#"pfir 1
%0 = input "x" : f32[2, 2]
%1 = const [3] : i64[]
%2 = const [true] : bool[]
%3 = const [0.5, -1, 0.25, 2] learned : f32[2, 2]
%4, %5 = loop(%1, %2, %0, %3, %3) {body=0, carried=2, results=2} : f32[2, 2], f32[2, 2]
output "x" = %4
output "w" = %5
region 0 {
%0 = input "t" : i64[]
%1 = input "go" : bool[]
%2 = input "h" : f32[2, 2]
%3 = input "w" : f32[2, 2]
%4 = input "fixed" : f32[2, 2]
%5 = matmul(%2, %3) : f32[2, 2]
%6 = matmul(%5, %4) : f32[2, 2]
%7 = add(%3, %3) : f32[2, 2]
output "go" = %1
output "h" = %6
output "w" = %7
}
"#;
    let f = Fixed::of(&parse_program(text).unwrap().graph);
    assert_eq!((f.found.len(), f.host["matmul"], f.host["fixed_linear"]), (1, 1, 1));
}

/// An `if` whose regions add a constant, which the graph around it adds too.
fn with_regions(c: &Const) -> Graph {
    let ty = OpenType::fixed(Elem::F32, &[3]);
    let mut g = Graph::new();
    let condition = g.add_input("c", OpenType::fixed(Elem::Bool, &[]));
    let x = g.add_input("x", ty.clone());
    let add = |g: &mut Graph, x| {
        let bias = g.add_const("bias", c.clone());
        g.add(Op::Binary(BinaryFn::Add), vec![x, bias], vec![(String::new(), ty.clone())], Origin::default())
            [0]
    };
    let regions: Vec<_> = (0..2)
        .map(|_| {
            let mut region = Graph::new();
            let x = region.add_input("x", ty.clone());
            let y = add(&mut region, x);
            region.add_output("y", y);
            g.add_region(region)
        })
        .collect();
    let op = Op::If { then_region: regions[0], else_region: regions[1], results: 1 };
    let y = g.add(op, vec![condition, x], vec![(String::new(), ty.clone())], Origin::default())[0];
    let y = add(&mut g, y);
    g.add_output("y", y);
    g
}

#[test]
fn constants_of_regions_are_data_once_and_are_checked() {
    let bias = |values: Vec<f32>| Const::derived(&Tensor::vector(values), Origin::tensor("bias"), true);
    let g = with_regions(&bias(vec![1.0, 2.0, 3.0]));
    let (program, source) =
        partition(g.clone(), &[], &WeightPlan::uniform(&[], Scheme::Real), &|_| Some(LIMIT), None).unwrap();
    assert_eq!((program.data.len(), program.data_len()), (1, 12));
    let loaded = LoadedMatrices::load(&program, &source, &source).unwrap();
    let bool_true = Tensor::scalar(true);
    let given = BTreeMap::from([
        ("c".to_owned(), bool_true),
        ("x".to_owned(), Tensor::vector(vec![0.5f32, 0.0, -1.0])),
    ]);
    let y = run(&program.graph, &given, &loaded).unwrap();
    assert_eq!(y["y"].as_slice::<f32>().unwrap(), [2.5, 4.0, 5.0]);

    assert!(onnx::check_finite(&g).0.is_empty());
    let mut nan = with_regions(&bias(vec![1.0, f32::NAN, 3.0]));
    let found = onnx::check_finite(&nan);
    assert_eq!((found.0.len(), codes(&found)), (1, vec!["E0113"]));
    // Found in a region alone, too.
    let y = nan.outputs()[0].1;
    let inner = nan.producer(y).unwrap().inputs[0];
    nan.replace_uses(y, inner);
    nan.remove_dead();
    for c in nan.consts.iter().map(|(id, _)| id).collect::<Vec<_>>() {
        *nan.consts.get_mut(c).unwrap() = bias(vec![1.0]);
    }
    assert_eq!(onnx::check_finite(&nan).0.len(), 1);
}
