//! Inference through regions.

use super::{Fact, Facts};
use crate::elem::Elem;
use crate::graph::Graph;
use crate::op::{Op, RegionId};
use crate::shape::{Dim, OpenType};

/// Rounds after which what a loop changes is taken to be unknown; after twice as many, all that it
/// carries is.
const ROUNDS: usize = 4;
/// Loops and branches around a loop from which on all that it carries is taken to be unknown: the
/// rounds of nested loops multiply.
const DEEP: usize = 3;

/// What is known of the outputs of a region given what is known of its inputs.
///
/// # Errors
/// As [`Facts::node`]; and inputs that do not fit in number.
fn outputs(region: &Graph<OpenType>, inputs: &[&Fact], depth: usize) -> Result<Vec<Fact>, String> {
    if region.inputs().len() != inputs.len() {
        return Err(format!("{} values for a region of {}", inputs.len(), region.inputs().len()));
    }
    let mut facts = Facts { depth: depth + 1, ..Facts::default() };
    for (v, fact) in region.inputs().iter().zip(inputs) {
        facts.set(*v, (*fact).clone());
    }
    for id in region.order().ok_or("a region has a cycle")? {
        let Some(node) = region.node(id) else { continue };
        if matches!(node.op, Op::Input {}) {
            continue;
        }
        for (v, fact) in node.outputs.iter().zip(facts.node(region, id)?) {
            facts.set(*v, fact);
        }
    }
    let known =
        |(_, v): &(String, _)| facts.get(*v).cloned().ok_or("a region output is not known".to_owned());
    region.outputs().iter().map(known).collect()
}

/// What holds of a value that is one of two.
///
/// # Errors
/// Different element types.
pub fn join(a: &Fact, b: &Fact) -> Result<Fact, String> {
    if a.ty.elem != b.ty.elem {
        return Err(format!("a value is {} or {}", a.ty, b.ty));
    }
    let shape = match (&a.ty.shape, &b.ty.shape) {
        (Some(x), Some(y)) if x.len() == y.len() => {
            Some(x.iter().zip(y).map(|(x, y)| x.clone().filter(|_| x == y)).collect())
        }
        _ => None,
    };
    let value = a.value.clone().filter(|_| a.value == b.value);
    Ok(Fact { ty: OpenType { elem: a.ty.elem, shape }, value })
}

fn join_all(a: &[Fact], b: &[Fact]) -> Result<Vec<Fact>, String> {
    if a.len() != b.len() {
        return Err(format!("regions give {} and {} values", a.len(), b.len()));
    }
    a.iter().zip(b).map(|(a, b)| join(a, b)).collect()
}

/// Infers `if` and `loop`, with `depth` others around.
///
/// # Errors
/// What contradicts.
pub(super) fn infer(
    op: &Op,
    regions: &[Graph<OpenType>],
    x: &[&Fact],
    depth: usize,
) -> Result<Vec<Fact>, String> {
    let region = |id: &RegionId| regions.get(id.index()).ok_or_else(|| format!("there is no region {id}"));
    match op {
        Op::If { then_region, else_region, .. } => {
            let [condition, given @ ..] = x else { return Err("has no condition".into()) };
            if condition.ty.elem != Elem::Bool {
                return Err("the condition must be bool".into());
            }
            // The other branch may contradict what is known of its inputs.
            let taken = condition.value.as_ref().and_then(|v| v.first()?.as_ref()?.value());
            if let Some(taken) = taken {
                return outputs(region(if taken != 0 { then_region } else { else_region })?, given, depth);
            }
            let (a, b) = (region(then_region)?, region(else_region)?);
            join_all(&outputs(a, given, depth)?, &outputs(b, given, depth)?)
        }
        Op::Loop { body, carried, .. } => {
            let body = region(body)?;
            let carried = usize::try_from(*carried)
                .ok()
                .filter(|c| c + 2 <= x.len())
                .ok_or("carries too many values")?;
            let scalar = |elem| Fact::of(OpenType { elem, shape: Some(Vec::new()) });
            let (iteration, condition) = (scalar(Elem::I64), scalar(Elem::Bool));
            if !iteration.ty.admits(&x[0].ty) || !condition.ty.admits(&x[1].ty) {
                return Err(format!(
                    "needs a trip count that is an i64 scalar and a condition that is a bool scalar, not {} and {}",
                    x[0].ty, x[1].ty
                ));
            }
            let (first, captured) = (&x[2..2 + carried], &x[2 + carried..]);
            let mut state: Vec<Fact> = first.iter().map(|f| (*f).clone()).collect();
            if depth >= DEEP {
                state = state.iter().map(|f| Fact::of(OpenType::unknown(f.ty.elem))).collect();
            }
            let mut round = 0;
            let found = loop {
                let mut given = vec![&iteration, &condition];
                given.extend(state.iter().chain(captured.iter().copied()));
                let found = outputs(body, &given, depth)?;
                if found.len() < 1 + carried {
                    return Err("the body gives too few values".into());
                }
                let mut next = join_all(&state, &found[1..1 + carried])?;
                if next == state {
                    break found;
                }
                round += 1;
                if round > ROUNDS {
                    let all = round > 2 * ROUNDS;
                    for (n, _) in next.iter_mut().zip(&state).filter(|(n, s)| all || n != s) {
                        n.ty.shape = None;
                        n.value = None;
                    }
                }
                state = next;
            };
            let whole = x[1].value == Some(vec![Some(Dim::known(1))]) && never_stops(body);
            let trips = x[0].value.as_ref().and_then(|v| v.first()?.clone()).filter(|_| whole);
            let length = trips.filter(|t| t.value().is_none_or(|t| (0..i64::MAX).contains(&t)));
            let scans = found[1 + carried..].iter().map(|f| {
                let shape = f.ty.shape.clone().map(|s| std::iter::once(length.clone()).chain(s).collect());
                Fact::of(OpenType { elem: f.ty.elem, shape })
            });
            Ok(state.iter().cloned().chain(scans).collect())
        }
        _ => Err("has no regions".into()),
    }
}

/// Whether the next condition is always true, or the one before.
fn never_stops(body: &Graph<OpenType>) -> bool {
    let Some((_, v)) = body.outputs().first() else { return false };
    body.inputs().get(1) == Some(v)
        || body.constant(*v).is_some_and(|(_, c)| c.bytes().is_some_and(|b| b.iter().all(|&b| b == 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trip_count_and_the_condition_of_a_loop_are_scalars() {
        let mut body = Graph::<OpenType>::new();
        let scalar = |elem| OpenType::fixed(elem, &[]);
        body.add_input("iteration", scalar(Elem::I64));
        let go = body.add_input("go", scalar(Elem::Bool));
        body.add_output("go", go);
        let op = Op::Loop { body: RegionId(0), carried: 0, results: 0 };
        let regions = [body];
        let found =
            |trips: OpenType, go: OpenType| infer(&op, &regions, &[&Fact::of(trips), &Fact::of(go)], 0);
        assert_eq!(found(scalar(Elem::I64), scalar(Elem::Bool)), Ok(Vec::new()));
        assert_eq!(found(OpenType::unknown(Elem::I64), OpenType::unknown(Elem::Bool)), Ok(Vec::new()));
        let refused = [
            (OpenType::fixed(Elem::I64, &[3, 0]), scalar(Elem::Bool)),
            (scalar(Elem::I64), OpenType::fixed(Elem::Bool, &[1])),
            (scalar(Elem::I32), scalar(Elem::Bool)),
            (scalar(Elem::I64), OpenType::unknown(Elem::F32)),
        ];
        for (trips, go) in refused {
            let e = found(trips.clone(), go.clone()).unwrap_err();
            assert!(e.contains(&format!("not {trips} and {go}")), "{e}");
        }
    }
}
