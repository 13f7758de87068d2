//! Constant folding and removal of dead nodes.

use pfmc_ir::consts::Const;
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::eval;
use pfmc_ir::graph::{Graph, NodeId};
use pfmc_ir::infer::{Fact, Facts};
use pfmc_ir::op::Op;
use pfmc_ir::shape::Knowledge;
use pfmc_ir::tensor::Tensor;

use super::{Exactness, Pass, PassInfo, Stats};

/// What the pass is.
pub static INFO: PassInfo = PassInfo {
    name: "fold",
    doc: "Evaluates what depends on constants only and removes what nothing needs.",
    exactness: Exactness::BitExact,
};

/// Evaluates nodes whose inputs are constants, replaces integer tensors whose elements inference
/// knows, refines types on the way, and removes what nothing needs.
///
/// Learned constants of rank 2 and more stay as they are: weights are not copied, and what is fixed
/// does not depend on whether shapes are bound.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fold;

impl Fold {
    /// Most elements of a result.
    pub const RESULT_MAX: usize = 1 << 20;
}

/// The value of a node that depends on constants only, and whether training produced it.
fn evaluate<T: Knowledge>(
    graph: &Graph<T>,
    id: NodeId,
    facts: &[Fact],
) -> Result<Option<(Vec<Tensor>, bool)>, String> {
    let Some(node) = graph.node(id) else { return Ok(None) };
    if matches!(node.op, Op::Input {} | Op::Constant { .. }) || node.op.matrix().is_some() {
        return Ok(None);
    }
    if let [fact] = facts {
        let numbers: Option<Vec<i64>> =
            fact.value.as_ref().and_then(|v| v.iter().map(|d| d.as_ref()?.value()).collect());
        if let (Some(values), pfmc_ir::elem::Elem::I64, Some(bound)) =
            (numbers, fact.ty.elem, fact.ty.bound())
        {
            return Ok(Some((vec![Tensor::new(bound.shape, values)?], false)));
        }
    }
    let consts: Option<Vec<&Const>> = node.inputs.iter().map(|v| graph.constant(*v).map(|c| c.1)).collect();
    let Some(consts) = consts.filter(|c| !c.is_empty()) else { return Ok(None) };
    let learned = consts.iter().any(|c| c.learned);
    if consts.iter().any(|c| c.learned && c.shape.len() > 1) {
        return Ok(None);
    }
    let Ok(args) = consts.iter().map(|c| c.tensor()).collect::<Result<Vec<_>, _>>() else { return Ok(None) };
    let elements = |f: &Fact| f.ty.bound().and_then(|b| pfmc_ir::tensor::count(&b.shape));
    let small = match node.op {
        Op::Range {} => range_length(&args).is_some_and(|n| n <= Fold::RESULT_MAX as f64),
        _ => facts.iter().all(|f| elements(f).is_some_and(|c| c <= Fold::RESULT_MAX)),
    };
    if !small {
        return Ok(None);
    }
    eval::eval(&node.op, &args).map(|t| Some((t, learned)))
}

/// How many elements a range of constant operands has; its shape follows from its values alone.
fn range_length(operands: &[Tensor]) -> Option<f64> {
    let number = |t: &Tensor| {
        let t = eval::eval(&Op::Cast { to: pfmc_ir::elem::Elem::F64 }, std::slice::from_ref(t)).ok()?;
        t.first()?.as_slice::<f64>().ok()?.first().copied()
    };
    let [start, limit, delta] = operands else { return None };
    Some(((number(limit)? - number(start)?) / number(delta)?).ceil().max(0.0))
}

impl<T: Knowledge> Pass<T> for Fold {
    fn info(&self) -> &'static PassInfo {
        &INFO
    }

    fn run(&self, graph: &mut Graph<T>) -> Result<Stats, Diagnostics> {
        let mut facts = Facts::default();
        let mut bad = Diagnostics::new();
        let mut folded = 0;
        for id in graph.order().unwrap_or_default() {
            let Some(node) = graph.node(id) else { continue };
            if node.inputs.iter().any(|v| facts.get(*v).is_none()) {
                continue;
            }
            let (outputs, origin) = (node.outputs.clone(), node.origin.clone());
            let error = |e: String| Diagnostic::error(&crate::codes::E0202, e).at(&origin);
            let found = match facts.node(graph, id) {
                Ok(found) => found,
                Err(e) => {
                    bad.push(error(e));
                    continue;
                }
            };
            match evaluate(graph, id, &found) {
                Err(e) => bad.push(error(e)),
                Ok(Some((tensors, learned))) => {
                    folded += 1;
                    for (v, tensor) in outputs.into_iter().zip(tensors) {
                        let name = graph.value(v).map(|v| v.name.clone()).unwrap_or_default();
                        let new = graph.add_const(&name, Const::derived(&tensor, origin.clone(), learned));
                        graph.replace_uses(v, new);
                        let producer = graph.value(new).map(|v| v.node);
                        if let Some(fact) = producer.and_then(|p| facts.node(graph, p).ok()?.pop()) {
                            facts.set(new, fact);
                        }
                    }
                }
                Ok(None) => {
                    for (v, fact) in outputs.into_iter().zip(found) {
                        if let (Some(ty), Some(value)) = (T::from_open(fact.ty.clone()), graph.value_mut(v)) {
                            value.ty = ty;
                        }
                        facts.set(v, fact);
                    }
                }
            }
        }
        let dead = graph.remove_dead() as u64;
        if bad.has_errors() {
            return Err(bad);
        }
        Ok(Stats::from([
            ("folded".into(), folded),
            ("removed".into(), dead),
            ("nodes".into(), graph.node_count() as u64),
        ]))
    }
}
