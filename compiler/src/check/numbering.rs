//! Value numbering over several graphs: values of the same number are the same for the same inputs, because the
//! same operations make them from the same values (J. Cocke and J. T. Schwartz, Programming Languages and Their
//! Compilers, 1970). Constants are numbered by their contents, and what depends on constants alone, or is known by
//! inference, by the contents it evaluates to, so that folding changes no number. Fixed matrices are functions
//! known by their numbers alone.

use std::collections::BTreeMap;

use pfmc_ir::diag::Diagnostics;
use pfmc_ir::elem::Elem;
use pfmc_ir::eval;
use pfmc_ir::exec::FixedMatrices;
use pfmc_ir::graph::{Graph, Node, ValueId};
use pfmc_ir::infer::{self, Facts};
use pfmc_ir::op::Op;
use pfmc_ir::tensor::{Tensor, count};
use sha2::{Digest, Sha256};

use crate::passes::fold::{Fold, range_length};

/// Most elements of the operands of what is evaluated.
const WORK_MAX: usize = 4 * Fold::RESULT_MAX;

/// What a number stands for.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Input(String),
    /// A value that an enclosing loop carries: nesting and place.
    Carried(usize, usize),
    Constant(Elem, Vec<usize>, [u8; 32]),
    /// Operation with its attributes, operands, place among the results.
    Result(String, Vec<usize>, usize),
}

/// Numbers given so far.
#[derive(Default)]
pub(super) struct Numbering {
    known: BTreeMap<Key, usize>,
    constants: BTreeMap<usize, Tensor>,
}

/// Numbers of the values of one graph.
pub(super) type Numbers = BTreeMap<ValueId, usize>;

impl Numbering {
    fn number(&mut self, key: Key) -> usize {
        let next = self.known.len();
        *self.known.entry(key).or_insert(next)
    }

    fn constant(&mut self, tensor: Tensor, digest: Option<&[u8; 32]>) -> usize {
        let digest = digest.copied().unwrap_or_else(|| Sha256::digest(tensor.to_le_bytes()).into());
        let number = self.number(Key::Constant(tensor.elem(), tensor.shape().to_vec(), digest));
        self.constants.entry(number).or_insert(tensor);
        number
    }

    /// Numbers a graph whose inputs have the types that it declares.
    ///
    /// # Errors
    /// Nodes that contradict their inputs' types, and constants whose bytes are nowhere.
    pub(super) fn graph(&mut self, graph: &Graph, fixed: &dyn FixedMatrices) -> Result<Numbers, Diagnostics> {
        let inputs = graph.inputs().iter().filter_map(|v| Some((*v, graph.value(*v)?.name.clone())));
        let given: Vec<(ValueId, String)> = inputs.collect();
        let given = given.into_iter().map(|(v, name)| (v, self.number(Key::Input(name)))).collect();
        self.nodes(graph, fixed, given, 0)
    }

    fn nodes(
        &mut self,
        graph: &Graph,
        fixed: &dyn FixedMatrices,
        mut numbers: Numbers,
        depth: usize,
    ) -> Result<Numbers, Diagnostics> {
        let facts = infer::annotate(&mut graph.clone())?;
        for id in graph.order().unwrap_or_default() {
            let Some(node) = graph.node(id) else { continue };
            let made = match &node.op {
                Op::Input {} => continue,
                Op::Constant { id } => {
                    let Some(c) = graph.consts.get(*id) else { continue };
                    let (tensor, digest) = match c.bytes() {
                        Some(_) => (c.tensor()?, c.digest()),
                        None => (constant_of_data(c, fixed)?, None),
                    };
                    vec![self.constant(tensor, digest)]
                }
                _ => self.results(graph, fixed, node, (&numbers, &facts), depth)?,
            };
            numbers.extend(node.outputs.iter().copied().zip(made));
        }
        Ok(numbers)
    }

    /// Numbers of a node's results.
    fn results(
        &mut self,
        graph: &Graph,
        fixed: &dyn FixedMatrices,
        node: &Node,
        (numbers, facts): (&Numbers, &Facts),
        depth: usize,
    ) -> Result<Vec<usize>, Diagnostics> {
        let args: Vec<usize> = node.inputs.iter().filter_map(|v| numbers.get(v).copied()).collect();
        if let [out] = node.outputs[..]
            && let Some(known) = known(facts, out)
        {
            return Ok(vec![self.constant(known, None)]);
        }
        let text = match &node.op {
            Op::If { then_region, else_region, .. } => {
                let condition = node.inputs.first().copied();
                let decided =
                    condition.and_then(|v| facts.get(v)?.value.as_ref()?.first()?.as_ref()?.value());
                let mut branches = Vec::new();
                for region in [then_region, else_region] {
                    branches.push(match graph.region(*region) {
                        Some(r) => self.region(r, fixed, &args[1..], depth)?,
                        None => Vec::new(),
                    });
                }
                if let Some(condition) = decided {
                    return Ok(branches.swap_remove(usize::from(condition == 0)));
                }
                format!("if {branches:?}")
            }
            Op::Loop { body, carried, .. } => {
                // Of what does not change while it runs the number is known inside.
                let changing = usize::try_from(*carried).unwrap_or(0).saturating_add(2);
                let mut inside = args.clone();
                for (i, number) in inside.iter_mut().enumerate().take(changing) {
                    *number = self.number(Key::Carried(depth, i));
                }
                let body = match graph.region(*body) {
                    Some(r) => self.region(r, fixed, &inside, depth + 1)?,
                    None => Vec::new(),
                };
                let args = args.get(..changing).unwrap_or_default().to_vec();
                let text = format!("loop {carried} {body:?}");
                let numbered = (0..node.outputs.len()).map(|i| Key::Result(text.clone(), args.clone(), i));
                return Ok(numbered.map(|key| self.number(key)).collect());
            }
            op => {
                if let Some(made) = self.evaluate(op, &args, facts, node) {
                    return Ok(made.into_iter().map(|t| self.constant(t, None)).collect());
                }
                format!("{op:?}")
            }
        };
        // Of a branch all that is read is inside the numbers of its results.
        let args = if matches!(node.op, Op::If { .. }) { args[..1].to_vec() } else { args };
        let keys = (0..node.outputs.len()).map(|i| Key::Result(text.clone(), args.clone(), i));
        Ok(keys.map(|key| self.number(key)).collect())
    }

    fn region(
        &mut self,
        region: &Graph,
        fixed: &dyn FixedMatrices,
        args: &[usize],
        depth: usize,
    ) -> Result<Vec<usize>, Diagnostics> {
        let given = region.inputs().iter().copied().zip(args.iter().copied()).collect();
        let numbers = self.nodes(region, fixed, given, depth)?;
        Ok(region.outputs().iter().filter_map(|(_, v)| numbers.get(v).copied()).collect())
    }

    /// The results of an operation whose operands are constants, where folding would make them too.
    fn evaluate(&self, op: &Op, args: &[usize], facts: &Facts, node: &Node) -> Option<Vec<Tensor>> {
        if args.is_empty() || op.matrix().is_some() {
            return None;
        }
        let size = |v: &ValueId| facts.get(*v)?.ty.bound().and_then(|b| count(&b.shape));
        let args: Vec<Tensor> = args.iter().map(|n| self.constants.get(n).cloned()).collect::<Option<_>>()?;
        let small = match op {
            Op::Range {} => range_length(&args).is_some_and(|n| n <= Fold::RESULT_MAX as f64),
            _ => node.outputs.iter().all(|v| size(v).is_some_and(|n| n <= Fold::RESULT_MAX)),
        };
        let work: usize = args.iter().map(Tensor::len).sum();
        if !small || work > WORK_MAX { None } else { eval::eval(op, &args).ok() }
    }
}

/// A constant in the program's data.
fn constant_of_data(c: &pfmc_ir::consts::Const, fixed: &dyn FixedMatrices) -> Result<Tensor, Diagnostics> {
    let pfmc_ir::consts::ConstSource::Data(offset) = c.source else { return c.tensor() };
    let bytes = fixed.data(offset, c.elem.stored(c.len()).unwrap_or(0) as u64)?;
    Tensor::from_le_bytes(c.elem, c.shape.clone(), &bytes)
        .map_err(|e| pfmc_ir::diag::Diagnostic::error(&pfmc_ir::codes::E0801, e).at(&c.origin).into())
}

/// The elements of an integer tensor that inference knows.
fn known(facts: &Facts, v: ValueId) -> Option<Tensor> {
    let fact = facts.get(v)?;
    let values: Vec<i64> = fact.value.as_ref()?.iter().map(|d| d.as_ref()?.value()).collect::<Option<_>>()?;
    let shape = fact.ty.bound()?.shape;
    if fact.ty.elem == Elem::I64 { Tensor::new(shape, values).ok() } else { None }
}
