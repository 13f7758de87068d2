//! Constant folding and removal of dead nodes.

use pfmc_ir::consts::Const;
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::elem::Elem;
use pfmc_ir::eval;
use pfmc_ir::graph::{Graph, NodeId, ValueId};
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
/// knows, takes branches whose condition is known, refines types on the way, and removes what nothing needs.
///
/// Learned constants of rank 2 and more stay as they are: weights are not copied, and what is fixed
/// does not depend on whether shapes are bound.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fold;

impl Fold {
    /// Most elements of a result.
    pub const RESULT_MAX: usize = 1 << 20;
    /// Most bytes of all results that have more than 1024 elements: a short file can ask for many.
    pub const TOTAL_MAX: usize = 1 << 30;
    /// Most products of an element of a result and one of an operand, for operations each of whose
    /// results may depend on all of an operand.
    pub const WORK_MAX: usize = 1 << 32;
}

/// Whether each element of a result may take work that grows with an operand.
fn sums(op: &Op) -> bool {
    matches!(
        op,
        Op::MatMul {}
            | Op::Conv { .. }
            | Op::ConvTranspose { .. }
            | Op::DeformConv { .. }
            | Op::Pool { .. }
            | Op::MaxPoolIndexed { .. }
            | Op::Resize { .. }
            | Op::GridSample { .. }
            | Op::RoiAlign { .. }
            | Op::MaxRoiPool { .. }
            | Op::NonMaxSuppression { .. }
            | Op::Attention { .. }
            | Op::Dft { .. }
            | Op::Det {}
    )
}

/// Elements of a result that does not count towards [`Fold::TOTAL_MAX`].
const FREE: usize = 1 << 10;

/// Most times that branches are taken one after the other.
const MAX_ROUNDS: usize = 64;

/// The value of a node that depends on constants only, and whether training produced it.
fn evaluate<T: Knowledge>(
    graph: &Graph<T>,
    id: NodeId,
    facts: &[Fact],
    room: &mut usize,
) -> Result<Option<(Vec<Tensor>, bool)>, String> {
    let Some(node) = graph.node(id) else { return Ok(None) };
    if matches!(node.op, Op::Input {} | Op::Constant { .. } | Op::If { .. } | Op::Loop { .. })
        || node.op.matrix().is_some()
    {
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
    let results: usize = facts.iter().filter_map(elements).sum();
    let operands: usize = args.iter().map(Tensor::len).sum();
    if sums(&node.op) && results.saturating_mul(operands) > Fold::WORK_MAX {
        return Ok(None);
    }
    // A range, whose length is not among the facts, counts when it is made.
    let size = |n: usize, e: Elem| if n > FREE { e.stored(n).unwrap_or(usize::MAX) } else { 0 };
    let bytes = facts.iter().fold(0usize, |a, f| a.saturating_add(size(elements(f).unwrap_or(0), f.ty.elem)));
    if bytes > *room {
        return Ok(None);
    }
    let made = eval::eval(&node.op, &args)?;
    *room = made.iter().fold(*room, |r, t| r.saturating_sub(size(t.len(), t.elem())));
    Ok(Some((made, learned)))
}

/// How many elements a range of constant operands has; its shape follows from its values alone.
pub(crate) fn range_length(operands: &[Tensor]) -> Option<f64> {
    let number = |t: &Tensor| {
        let t = eval::eval(&Op::Cast { to: Elem::F64 }, std::slice::from_ref(t)).ok()?;
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
        let mut folded = 0;
        let mut branches = 0;
        for region in graph.regions_mut() {
            // What is wrong in a region may be wrong where nothing takes it: execution tells.
            if let Ok(stats) = self.run(region) {
                folded += stats.get("folded").copied().unwrap_or(0);
                branches += stats.get("branches").copied().unwrap_or(0);
            }
        }
        // Taking a branch makes more known, so that it can decide others.
        for _ in 0..MAX_ROUNDS {
            let (more, taken) = sweep(graph)?;
            folded += more;
            branches += taken;
            if taken == 0 {
                break;
            }
        }
        let dead = graph.remove_dead() as u64;
        Ok(Stats::from([
            ("folded".into(), folded),
            ("branches".into(), branches),
            ("removed".into(), dead),
            ("nodes".into(), graph.node_count() as u64),
        ]))
    }
}

/// The branch of an `if` whose condition is known.
fn branch<T: Knowledge>(graph: &Graph<T>, facts: &Facts, id: NodeId) -> Option<(Graph, Vec<ValueId>)> {
    let node = graph.node(id)?;
    let Op::If { then_region, else_region, .. } = node.op else { return None };
    let (condition, args) = node.inputs.split_first()?;
    let known = facts.get(*condition)?.value.as_ref()?.first()?.as_ref()?.value()?;
    let region = graph.region(if known != 0 { then_region } else { else_region })?;
    Some((region.clone(), args.to_vec()))
}

/// Goes through a graph once: how many values it folded and how many branches it took.
fn sweep<T: Knowledge>(graph: &mut Graph<T>) -> Result<(u64, u64), Diagnostics> {
    let mut facts = Facts::default();
    let mut bad = Diagnostics::new();
    let (mut folded, mut branches, mut room) = (0, 0, Fold::TOTAL_MAX);
    for id in graph.order().unwrap_or_default() {
        let Some(node) = graph.node(id) else { continue };
        if node.inputs.iter().any(|v| facts.get(*v).is_none()) {
            continue;
        }
        let (outputs, origin) = (node.outputs.clone(), node.origin.clone());
        if let Some((region, args)) = branch(graph, &facts, id)
            && let Some(made) = graph.splice(&region, &args)
        {
            for (old, new) in outputs.into_iter().zip(made) {
                graph.replace_uses(old, new);
            }
            branches += 1;
            continue;
        }
        let error = |e: String| Diagnostic::error(&crate::codes::E0202, e).at(&origin);
        let found = match facts.node(graph, id) {
            Ok(found) => found,
            Err(e) => {
                bad.push(error(e));
                continue;
            }
        };
        match evaluate(graph, id, &found, &mut room) {
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
    if bad.has_errors() { Err(bad) } else { Ok((folded, branches)) }
}
