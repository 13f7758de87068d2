//! Faults of passes: the graph after a pass is what a wrong pass would have made of it, and the check of that pass's contract
//! must say so.

use std::collections::BTreeMap;

use pfmc::check::pipeline::Uncut;
use pfmc::check::{Stage, check_stage, inputs::suite};
use pfmc::onnx;
use pfmc::partition::partition;
use pfmc::passes::canonicalise::Canonicalise;
use pfmc::passes::fix::fix;
use pfmc::passes::fold::Fold;
use pfmc::passes::{Exactness, apply, bind};
use pfmc::quantise::plan::WeightPlan;
use pfmc::samples::Inputs;
use pfmc_ir::backend::TileLimit;
use pfmc_ir::consts::Const;
use pfmc_ir::diag::Diagnostics;
use pfmc_ir::exec::{Executor, FixedMatrices, NoMatrices};
use pfmc_ir::graph::{Graph, NodeId, ValueId};
use pfmc_ir::infer;
use pfmc_ir::loaded::LoadedMatrices;
use pfmc_ir::op::{BinaryFn, Op, PoolFn, ReduceFn, UnaryFn};
use pfmc_ir::tensor::{Data, Tensor};
use pfmc_ir::tile::{Levels, MatrixId, Scheme, TileContent, TileId, TileKind, TileSource};
use pfmc_ir::verify::Verify;

use crate::bench::Section;
use crate::common::{codes, fixture};

/// Most faults of one kind in one graph.
const OF_A_KIND: usize = 2;

/// The operation that a wrong pass makes of one, and what it got wrong.
fn wrong_operation(op: &Op) -> Vec<(&'static str, Op)> {
    use BinaryFn as B;
    use UnaryFn as U;
    let one = |what: &'static str, op: Op| vec![(what, op)];
    match op {
        Op::Unary(f) => {
            let to = match f {
                U::Gelu => U::Silu,
                U::GeluTanh => U::Silu,
                U::Silu => U::Sigmoid,
                U::Sigmoid => U::Tanh,
                U::Tanh => U::Sigmoid,
                U::Relu => U::Abs,
                U::Sqrt => U::Abs,
                U::Reciprocal => U::Neg,
                U::Exp => U::Abs,
                U::Erf => U::Tanh,
                U::Cos => U::Sin,
                U::Sin => U::Cos,
                U::Floor => U::Ceil,
                U::Ceil => U::Floor,
                U::Neg => U::Abs,
                _ => return Vec::new(),
            };
            one("wrong function", Op::Unary(to))
        }
        Op::Binary(f) => {
            let to = match f {
                B::Add => B::Sub,
                B::Sub => B::Add,
                B::Mul => B::Add,
                B::Div => B::Mul,
                B::Pow => B::Mul,
                B::Max => B::Min,
                B::Min => B::Max,
                B::Less => B::LessEqual,
                B::Greater => B::GreaterEqual,
                B::And => B::Or,
                B::Or => B::And,
                B::Mod => B::Div,
                _ => return Vec::new(),
            };
            one("wrong function", Op::Binary(to))
        }
        Op::Reduce { f, axes, keepdims } => {
            let to = match f {
                ReduceFn::Mean => ReduceFn::Sum,
                ReduceFn::Sum => ReduceFn::Mean,
                ReduceFn::Max => ReduceFn::Min,
                ReduceFn::Min => ReduceFn::Max,
                ReduceFn::Prod => ReduceFn::Sum,
            };
            one("wrong reduction", Op::Reduce { f: to, axes: axes.clone(), keepdims: *keepdims })
        }
        Op::Softmax { axis } => {
            one("wrong axis", Op::Softmax { axis: if *axis == 0 { 1 } else { axis - 1 } })
        }
        Op::LayerNorm { axis, epsilon } => {
            one("wrong epsilon", Op::LayerNorm { axis: *axis, epsilon: epsilon * 1e4 })
        }
        Op::RmsNorm { axis, epsilon } => {
            one("wrong epsilon", Op::RmsNorm { axis: *axis, epsilon: epsilon * 1e4 })
        }
        Op::Rotary { interleaved, dim } => {
            vec![("wrong pairs", Op::Rotary { interleaved: !interleaved, dim: *dim })]
        }
        Op::Attention { scale, causal, softcap } => vec![
            ("wrong scale", Op::Attention { scale: scale * 2.0, causal: *causal, softcap: *softcap }),
            ("causal and not", Op::Attention { scale: *scale, causal: !causal, softcap: *softcap }),
        ],
        Op::Transpose { perm } if perm.len() > 1 => {
            let mut perm = perm.clone();
            let last = perm.len() - 1;
            perm.swap(last, last - 1);
            one("wrong permutation", Op::Transpose { perm })
        }
        Op::Gather { axis } => one("wrong axis", Op::Gather { axis: if *axis == 0 { 1 } else { 0 } }),
        Op::Concat { axis } => one("wrong axis", Op::Concat { axis: if *axis == 0 { 1 } else { 0 } }),
        Op::Quantize { axis, block, to, saturate } if !saturate => {
            one("saturating", Op::Quantize { axis: *axis, block: *block, to: *to, saturate: true })
        }
        Op::Pool { f, kernel, strides, pads, dilations, ceil, auto } => {
            let to = match f {
                PoolFn::Max => PoolFn::Mean,
                PoolFn::Mean => PoolFn::Max,
                PoolFn::MeanPadded => PoolFn::Sum,
                PoolFn::Sum => PoolFn::Mean,
            };
            one(
                "wrong pooling",
                Op::Pool {
                    f: to,
                    kernel: kernel.clone(),
                    strides: strides.clone(),
                    pads: pads.clone(),
                    dilations: dilations.clone(),
                    ceil: *ceil,
                    auto: *auto,
                },
            )
        }
        Op::Patches { kernel, strides, pads, dilations } if pads.iter().any(|p| *p > 0) => {
            let mut pads = pads.clone();
            let half = pads.len() / 2;
            pads.swap(0, half);
            one(
                "pads off by one",
                Op::Patches {
                    kernel: kernel.clone(),
                    strides: strides.clone(),
                    pads: pads
                        .iter()
                        .enumerate()
                        .map(|(i, p)| {
                            if i == 0 {
                                p + 1
                            } else if i == half {
                                p - 1
                            } else {
                                *p
                            }
                        })
                        .collect(),
                    dilations: dilations.clone(),
                },
            )
        }
        Op::Conv { strides, pads, dilations, groups } => {
            let half = pads.len() / 2;
            let moved = pads.iter().enumerate().map(|(i, p)| {
                if i == 0 {
                    p + 1
                } else if i == half {
                    p - 1
                } else {
                    *p
                }
            });
            one(
                "pads off by one",
                Op::Conv {
                    strides: strides.clone(),
                    pads: moved.collect(),
                    dilations: dilations.clone(),
                    groups: *groups,
                },
            )
        }
        Op::CumSum { exclusive, reverse } => {
            one("wrong end first", Op::CumSum { exclusive: *exclusive, reverse: !reverse })
        }
        Op::Trilu { upper } => one("wrong triangle", Op::Trilu { upper: !upper }),
        Op::ArgReduce { axis, keepdims, largest, last } => one(
            "smallest for largest",
            Op::ArgReduce { axis: *axis, keepdims: *keepdims, largest: !largest, last: *last },
        ),
        Op::TopK { axis, largest } => {
            one("smallest for largest", Op::TopK { axis: *axis, largest: !largest })
        }
        Op::FixedLookup { matrix, k, n } => one("n for k", Op::FixedLookup { matrix: *matrix, k: *n, n: *k }),
        _ => Vec::new(),
    }
}

/// Other operands: what was got wrong, and the operands in their order.
fn wrong_operands(node_op: &Op, inputs: &[ValueId]) -> Vec<(&'static str, Vec<ValueId>)> {
    let swapped = |a: usize, b: usize| {
        let mut v = inputs.to_vec();
        v.swap(a, b);
        v
    };
    let without_last = || inputs[..inputs.len() - 1].to_vec();
    match node_op {
        Op::Binary(BinaryFn::Sub | BinaryFn::Div | BinaryFn::Pow | BinaryFn::Less | BinaryFn::Greater)
        | Op::MatMul {}
            if inputs[0] != inputs[1] =>
        {
            vec![("swapped operands", swapped(0, 1))]
        }
        Op::Where {} if inputs[1] != inputs[2] => vec![("swapped branches", swapped(1, 2))],
        Op::Concat { .. } if inputs.len() > 1 && inputs[0] != inputs[1] => {
            vec![("swapped operands", swapped(0, 1))]
        }
        Op::Rotary { .. } => vec![("cosine for sine", swapped(1, 2))],
        Op::Attention { .. } => {
            let mut all = vec![("keys for values", swapped(1, 2)), ("keys for queries", swapped(0, 1))];
            if inputs.len() == 4 {
                all.push(("dropped mask", without_last()));
            }
            all
        }
        Op::LayerNorm { .. } if inputs.len() == 3 => {
            vec![("dropped bias", without_last()), ("gain for bias", swapped(1, 2))]
        }
        Op::Conv { .. } if inputs.len() == 3 => vec![("dropped bias", without_last())],
        Op::Quantize { .. } | Op::Dequantize { .. } if inputs.len() == 3 => {
            vec![("dropped zero point", without_last())]
        }
        _ => Vec::new(),
    }
}

/// A constant as a wrong pass would have it.
fn wrong_constant(t: &Tensor) -> Vec<(&'static str, Tensor)> {
    let of = |data: Data| Tensor::from_data(t.shape().to_vec(), data).unwrap();
    let mut out = Vec::new();
    match t.data() {
        Data::F32(v) if !v.is_empty() => {
            let mut values = v.to_vec();
            values[0] = values[0] * 1.5 + 1.0;
            out.push(("wrong element of a constant", of(Data::F32(values.into()))));
            if v.len() > 1 && v.windows(2).any(|w| w[0] != w[1]) {
                let mut values = v.to_vec();
                values.rotate_right(1);
                out.push(("a constant off by one", of(Data::F32(values.into()))));
            }
            if let [a, b] = *t.shape()
                && a == b
                && a > 1
            {
                let values: Vec<f32> = (0..a * b).map(|i| v[i % b * a + i / b]).collect();
                out.push(("transposed weights", of(Data::F32(values.into()))));
            }
        }
        Data::I64(v) if !v.is_empty() => {
            let mut values = v.to_vec();
            values[0] += 1;
            out.push(("a number off by one", of(Data::I64(values.into()))));
        }
        Data::I8(v) if t.rank() == 0 || v.len() == 1 => {
            out.push((
                "wrong zero point",
                of(Data::I8(v.iter().map(|z| z.wrapping_add(1)).collect::<Vec<_>>().into())),
            ));
        }
        Data::U8(v) if t.rank() == 0 || v.len() == 1 => {
            out.push((
                "wrong zero point",
                of(Data::U8(v.iter().map(|z| z.wrapping_add(1)).collect::<Vec<_>>().into())),
            ));
        }
        _ => {}
    }
    out
}

/// Whether a node's results reach an output.
fn live(graph: &Graph) -> Vec<NodeId> {
    let mut reached: Vec<ValueId> = graph.outputs().iter().map(|o| o.1).collect();
    let mut seen = std::collections::BTreeSet::new();
    while let Some(v) = reached.pop() {
        if seen.insert(v)
            && let Some(node) = graph.producer(v)
        {
            reached.extend(&node.inputs);
        }
    }
    graph.nodes().filter(|(_, n)| n.outputs.iter().any(|v| seen.contains(v))).map(|(id, _)| id).collect()
}

/// A graph with one fault, and the fault in words.
struct Mutant {
    what: String,
    graph: Graph,
}

/// Every single fault of a graph, a few of each kind.
fn mutants(graph: &Graph) -> Vec<Mutant> {
    let mut count: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut out: Vec<Mutant> = Vec::new();
    let mut add = |kind: &'static str, op: &Op, at: NodeId, changed: Graph| {
        let seen = count.entry((kind, op.name())).or_default();
        // Shapes follow: a wrong pass would have inferred them too.
        let mut changed = changed;
        let _ = infer::annotate(&mut changed);
        *seen += 1;
        if *seen <= OF_A_KIND {
            let node = graph.node(at).unwrap();
            let name =
                node.outputs.first().and_then(|v| graph.value(*v)).map_or(String::new(), |v| v.name.clone());
            out.push(Mutant {
                what: format!("{kind}: {} {name:?} ({})", op.name(), out.len()),
                graph: changed,
            });
        }
    };
    for id in live(graph) {
        let node = graph.node(id).unwrap().clone();
        for (kind, op) in wrong_operation(&node.op) {
            let mut changed = graph.clone();
            *changed.op_mut(id).unwrap().0 = op;
            add(kind, &node.op, id, changed);
        }
        for (kind, inputs) in wrong_operands(&node.op, &node.inputs) {
            let mut changed = graph.clone();
            changed.set_inputs(id, inputs);
            add(kind, &node.op, id, changed);
        }
        // Left out: what is added, what it is scaled by, the function.
        let kind = match &node.op {
            Op::Binary(BinaryFn::Add) => Some("dropped bias"),
            Op::Binary(BinaryFn::Mul) => Some("dropped scale"),
            Op::Unary(_) => Some("dropped function"),
            _ => None,
        };
        if let (Some(kind), [result]) = (kind, &node.outputs[..]) {
            let ty = |v: &ValueId| graph.value(*v).map(|v| v.ty.clone());
            if let Some(kept) = node.inputs.iter().find(|v| ty(v) == ty(result)) {
                let mut changed = graph.clone();
                changed.replace_uses(*result, *kept);
                add(kind, &node.op, id, changed);
            }
        }
        if let Op::Constant { id: constant } = &node.op {
            let Some(tensor) = graph.consts.get(*constant).and_then(|c| c.tensor().ok()) else { continue };
            for (kind, tensor) in wrong_constant(&tensor) {
                let mut changed = graph.clone();
                let new = changed.consts.add(Const::derived(&tensor, node.origin.clone(), true));
                *changed.op_mut(id).unwrap().0 = Op::Constant { id: new };
                add(kind, &node.op, id, changed);
            }
        }
        if let Op::FixedLinear { matrix, k, n } = node.op {
            let other = graph.nodes().find_map(|(_, o)| match o.op {
                Op::FixedLinear { matrix: m, k: p, n: q } if (p, q) == (k, n) && m != matrix => Some(m),
                _ => None,
            });
            if let Some(other) = other {
                let mut changed = graph.clone();
                *changed.op_mut(id).unwrap().0 = Op::FixedLinear { matrix: other, k, n };
                add("another matrix", &node.op, id, changed);
            }
        }
    }
    out
}

/// A pass that was run on a model.
struct Ran<'a> {
    pass: &'a str,
    model: &'a str,
    before: &'a Graph,
    after: &'a Graph,
    /// What the matrices of the graph after it hold.
    fixed: &'a dyn FixedMatrices,
    exactness: Exactness,
}

/// What a contract's check says of each mutant of the graph after a pass, of which there must be some.
fn judge(section: &mut Section, ran: &Ran<'_>, least: usize) {
    let Ran { pass, model, before, after, fixed, exactness } = *ran;
    // Of the graph after it, whose lengths may be bound.
    let inputs: Vec<Inputs> = suite(after).unwrap().into_iter().take(8).map(|c| c.inputs).collect();
    let check = |graph: &Graph| outcome(check_stage(before, stage(graph, fixed), exactness, &inputs));
    if let Err(e) = check(after) {
        panic!("{pass} of {model}: {e}");
    }
    let contract = if exactness == Exactness::BitExact { "E0310" } else { "E0311" };
    let all = mutants(after);
    assert!(all.len() >= least, "{pass} of {model}: {} faults", all.len());
    let results = |graph: &Graph| -> Vec<_> {
        inputs.iter().map(|i| Executor::new(graph, fixed).and_then(|e| e.run(i)).ok()).collect()
    };
    let right = results(after);
    for Mutant { what, graph } in all {
        let fault = format!("{pass} of {model}: {what}");
        let found = check(&graph);
        // Biases of zeros, scales of one, masks that hide what is hidden: nothing is wrong with what is computed.
        if found.is_ok() && results(&graph) == right {
            continue;
        }
        // What contradicts its types is the verifier's to find; what refuses inputs that the graph before the pass takes
        // is said with the code of the operation.
        let expect = match (graph.verify(), &found) {
            (Err(e), _) => codes(&e).join(" "),
            (Ok(()), Err(e)) if codes(e).iter().all(|c| [contract, "E0801", "E0802"].contains(c)) => {
                codes(e).join(" ")
            }
            _ => contract.to_owned(),
        };
        section.judge(&fault, &expect, found);
    }
}

fn outcome(found: pfmc::check::Outcome) -> Result<(), Diagnostics> {
    if found.passed() { Ok(()) } else { Err(found.problems) }
}

/// Tiles of codes or real weights as a wrong stage would have made them.
struct Wrong<'a> {
    tiles: &'a dyn TileSource,
    change: &'a (dyn Fn(TileId, TileContent, &dyn TileSource) -> TileContent + Sync),
}

impl TileSource for Wrong<'_> {
    fn tile(&self, id: TileId) -> Result<TileContent, Diagnostics> {
        Ok((self.change)(id, self.tiles.tile(id)?, self.tiles))
    }
}

/// Matrices whose results are kept within 16 bits of their unit, as by an accumulator that saturates.
struct Saturating<'a>(&'a LoadedMatrices, f32);

impl FixedMatrices for Saturating<'_> {
    fn linear(&self, m: MatrixId, x: &[f32]) -> Result<Vec<f32>, Diagnostics> {
        Ok(self.0.linear(m, x)?.into_iter().map(|v| v.clamp(-self.1, self.1)).collect())
    }
    fn grouped(&self, m: MatrixId, groups: usize, x: &[f32]) -> Result<Vec<f32>, Diagnostics> {
        self.0.grouped(m, groups, x)
    }
    fn lookup(&self, m: MatrixId, indices: &[i64]) -> Result<Vec<f32>, Diagnostics> {
        self.0.lookup(m, indices)
    }
    fn data(&self, offset: u64, len: u64) -> Result<Vec<u8>, Diagnostics> {
        self.0.data(offset, len)
    }
}

fn stage<'a>(graph: &'a Graph, fixed: &'a dyn FixedMatrices) -> Stage<'a> {
    Stage { graph, fixed }
}

/// Faults of what tiles hold.
fn tiles(section: &mut Section, model: &str, graph: &Graph) {
    let mut fixed = graph.clone();
    let (found, _) = fix(&mut fixed, &[]).unwrap();
    let scheme = Scheme::Codes { bits: 4, group: 8, levels: Levels::Uniform };
    let plan = WeightPlan::uniform(&found, scheme);
    let limit = TileLimit { k: 32, n: 32, k_multiple: 8, n_multiple: 1 };
    let (program, source) = partition(fixed, &found, &plan, &|_| Some(limit), Some(1 << 16)).unwrap();
    let right = LoadedMatrices::load(&program, &source, &source).unwrap();
    let inputs: Vec<Inputs> = suite(&program.graph).unwrap().into_iter().take(3).map(|c| c.inputs).collect();
    // The tiles of one matrix that is cut, first and second along k.
    let product = |id: TileId| match program.tiles[id.index()].kind {
        TileKind::Matrix { matrix, .. } => program
            .graph
            .nodes()
            .any(|(_, n)| matches!(n.op, Op::FixedLinear { matrix: m, .. } if m == matrix)),
        TileKind::Data { .. } => false,
    };
    let square = program
        .tiles()
        .find(|(id, _)| product(*id) && matches!(program.matrix_tile(*id), Some((k, n, _)) if k == n));
    let first = square.unwrap().0;
    let shape = program.matrix_tile(first).map(|t| (t.0, t.1));
    let second = program
        .tiles()
        .find(|(id, _)| *id > first && program.matrix_tile(*id).map(|t| (t.0, t.1)) == shape)
        .unwrap()
        .0;
    type Change = Box<dyn Fn(&mut pfmc_ir::tile::CodeBlock, &pfmc_ir::tile::CodeBlock) + Sync>;
    let faults: Vec<(&str, Change)> = vec![
        (
            "transposed tile",
            Box::new(|b, _| {
                let old = b.levels.clone();
                (0..b.k * b.n).for_each(|i| b.levels[i] = old[i % b.n * b.n + i / b.n]);
            }),
        ),
        ("off-by-one tile: rows", Box::new(|b, _| b.levels.rotate_right(b.n))),
        (
            "off-by-one tile: columns",
            Box::new(|b, _| b.levels.chunks_mut(b.n).for_each(|r| r.rotate_right(1))),
        ),
        ("the next tile's contents", Box::new(|b, next| b.clone_from(next))),
        (
            "wrong zero point: every code one higher",
            Box::new(|b, _| b.levels.iter_mut().for_each(|l| *l = (*l + 1).min(7))),
        ),
        ("wrong sign", Box::new(|b, _| b.levels.iter_mut().for_each(|l| *l = -*l))),
        (
            "one code off by one",
            Box::new(|b, _| b.levels[5] = if b.levels[5] < 7 { b.levels[5] + 1 } else { 6 }),
        ),
        (
            "last row dropped",
            Box::new(|b, _| {
                let at = (b.k - 1) * b.n;
                b.levels[at..].fill(0);
            }),
        ),
        ("last column dropped", Box::new(|b, _| b.levels.chunks_mut(b.n).for_each(|r| r[r.len() - 1] = 0))),
        ("swapped columns", Box::new(|b, _| b.levels.chunks_mut(b.n).for_each(|r| r.swap(2, 3)))),
        ("scales of the group before", Box::new(|b, _| b.scales.rotate_right(b.n))),
        ("scales of the column before", Box::new(|b, _| b.scales.rotate_right(1))),
        ("unit doubled", Box::new(|b, _| b.unit *= 2.0)),
        ("unit of another tile", Box::new(|b, next| b.unit = next.unit * 1.25)),
        (
            "codes clipped at a bit fewer",
            Box::new(|b, _| b.levels.iter_mut().for_each(|l| *l = (*l).clamp(-3, 3))),
        ),
        ("all zero", Box::new(|b, _| b.levels.fill(0))),
    ];
    for (fault, change) in faults {
        let wrong = Wrong {
            tiles: &source,
            change: &|id, content, tiles| {
                let (TileContent::Codes(mut b), true) = (content.clone(), id == first) else {
                    return content;
                };
                let Ok(TileContent::Codes(next)) = tiles.tile(second) else { panic!() };
                change(&mut b, &next);
                TileContent::Codes(b)
            },
        };
        let loaded = LoadedMatrices::load(&program, &wrong, &source).unwrap();
        let found = check_stage(
            stage(&program.graph, &right),
            stage(&program.graph, &loaded),
            Exactness::BitExact,
            &inputs,
        );
        section.judge(&format!("tiles of {model}: {fault}"), "E0310", outcome(found));
    }
    let data = Wrong {
        tiles: &source,
        change: &|_, content, _| match content {
            TileContent::Data(mut d) => {
                d.rotate_right(4);
                TileContent::Data(d)
            }
            other => other,
        },
    };
    let loaded = LoadedMatrices::load(&program, &source, &data).unwrap();
    let found = check_stage(
        stage(&program.graph, &right),
        stage(&program.graph, &loaded),
        Exactness::BitExact,
        &inputs,
    );
    section.judge(&format!("tiles of {model}: data off by one"), "E0310", outcome(found));
    let saturating = Saturating(&right, 0.05);
    let found = check_stage(
        stage(&program.graph, &right),
        stage(&program.graph, &saturating),
        Exactness::BitExact,
        &inputs,
    );
    section.judge(&format!("tiles of {model}: saturating accumulator"), "E0310", outcome(found));
}

/// All faults of passes.
pub fn section() -> Section {
    let mut section = Section::new(
        "Passes",
        "The graph after a pass was changed as a wrong pass would have left it. Found by the check of the pass's contract: E0310 of one that keeps \
         bits, E0311 of one that rounds, with E0801 and E0802 where the changed graph refuses inputs; what contradicts its own types is found by the verifier \
         after the pass. Changes of no consequence (a bias of zeros left out, a scale of one) are not faults.",
    );
    for (model, least) in [
        ("llama.onnx", 20),
        ("bert.onnx", 20),
        ("vit.onnx", 10),
        ("small/image.onnx", 2),
        ("small/fixed_quantised.onnx", 2),
    ] {
        let imported = onnx::import(&fixture(model)).unwrap().graph;
        let mut folded = imported.clone();
        let record = apply(&Fold, &mut folded).unwrap();
        let exactness = record.exactness;
        let fold =
            Ran { pass: "fold", model, before: &imported, after: &folded, fixed: &NoMatrices, exactness };
        judge(&mut section, &fold, least);
        let mut canonical = folded.clone();
        let exactness = apply(&Canonicalise, &mut canonical).unwrap().exactness;
        let canonicalise = Ran {
            pass: "canonicalise",
            model,
            before: &folded,
            after: &canonical,
            fixed: &NoMatrices,
            exactness,
        };
        judge(&mut section, &canonicalise, least);
        let mut fixed = canonical.clone();
        let (found, record) = fix(&mut fixed, &[]).unwrap();
        let uncut = Uncut::new(&found);
        let matrices = uncut.fixed();
        let exactness = record.exactness;
        let fix = Ran { pass: "fix", model, before: &canonical, after: &fixed, fixed: &matrices, exactness };
        judge(&mut section, &fix, 0);
        if model == "llama.onnx" {
            let sizes = bind::open_dimensions(&imported).into_iter().map(|n| (n, 3)).collect();
            let (bound, records) = bind::bind(imported.clone(), &sizes).unwrap();
            let bound = bound.into_open();
            let exactness = records[0].exactness;
            let bind =
                Ran { pass: "bind", model, before: &imported, after: &bound, fixed: &NoMatrices, exactness };
            judge(&mut section, &bind, least);
            tiles(&mut section, model, &canonical);
        }
    }
    section
}
