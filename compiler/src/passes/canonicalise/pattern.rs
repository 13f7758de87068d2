//! What patterns are written with: views of a graph that find operands, and edits that keep the
//! result's name, type and place.

use pfmc_ir::elem::Elem;
use pfmc_ir::graph::{Graph, Node, NodeId, ValueId};
use pfmc_ir::infer::{Fact, infer};
use pfmc_ir::op::{BinaryFn as B, Op, ReduceFn, UnaryFn};
use pfmc_ir::origin::Origin;
use pfmc_ir::shape::{Dim, OpenDim, OpenType};
use pfmc_ir::tensor::{Data, Tensor};

/// Largest constant whose elements a pattern looks at.
const LOOK: usize = 4096;

/// Most source nodes that one node's origin collects.
const SOURCES: usize = 256;

/// A graph that patterns read and change.
pub(super) struct Net<'g>(pub(super) &'g mut Graph<OpenType>);

impl Net<'_> {
    /// The node that makes a value.
    pub(super) fn made(&self, v: ValueId) -> Option<&Node> {
        self.0.producer(v)
    }

    /// The id of the node that makes a value.
    pub(super) fn node_of(&self, v: ValueId) -> Option<NodeId> {
        Some(self.0.value(v)?.node)
    }

    /// The only result of a node.
    pub(super) fn result(&self, id: NodeId) -> Option<ValueId> {
        match self.0.node(id)?.outputs[..] {
            [v] => Some(v),
            _ => None,
        }
    }

    /// Results of the nodes that read a value, each made by a node of one result.
    pub(super) fn uses(&self, v: ValueId) -> Vec<ValueId> {
        self.0.users(v).into_iter().filter_map(|u| self.result(u)).collect()
    }

    /// Whether a value is read by one node only and is no output of the graph.
    pub(super) fn once(&self, v: ValueId) -> bool {
        self.0.users(v).len() == 1 && self.0.outputs().iter().all(|(_, o)| *o != v)
    }

    /// The operand of a function of one.
    pub(super) fn unary(&self, v: ValueId, f: UnaryFn) -> Option<ValueId> {
        let n = self.made(v)?;
        (n.op == Op::Unary(f)).then(|| n.inputs[0])
    }

    /// The operands of a function of two.
    pub(super) fn binary(&self, v: ValueId, f: B) -> Option<(ValueId, ValueId)> {
        let n = self.made(v)?;
        (n.op == Op::Binary(f)).then(|| (n.inputs[0], n.inputs[1]))
    }

    /// What `pick` finds in the operands of a commutative function, in either order.
    pub(super) fn either<T>(
        &self,
        v: ValueId,
        f: B,
        pick: impl Fn(ValueId, ValueId) -> Option<T>,
    ) -> Option<T> {
        let (a, b) = self.binary(v, f)?;
        pick(a, b).or_else(|| pick(b, a))
    }

    /// The mean over trailing axes that stay: its operand and how many axes.
    pub(super) fn mean(&self, v: ValueId) -> Option<(ValueId, usize)> {
        let n = self.made(v)?;
        let Op::Reduce { f: ReduceFn::Mean, axes, keepdims: true } = &n.op else { return None };
        let x = n.inputs[0];
        let rank = self.dims(x)?.len();
        let mut at: Vec<usize> =
            axes.iter().map(|&a| pfmc_ir::tensor::axis(a, rank).ok()).collect::<Option<_>>()?;
        at.sort_unstable();
        let trailing = !at.is_empty() && at.iter().copied().eq(rank - at.len()..rank);
        trailing.then_some((x, at.len()))
    }

    /// The operand of a cast and what it is cast to.
    pub(super) fn cast(&self, v: ValueId) -> Option<(ValueId, Elem)> {
        let n = self.made(v)?;
        match n.op {
            Op::Cast { to } => Some((n.inputs[0], to)),
            _ => None,
        }
    }

    /// The elements of a small constant that training did not produce: what a model learns must not
    /// decide what it is compiled to.
    pub(super) fn tensor(&self, v: ValueId) -> Option<Tensor> {
        let (_, c) = self.0.constant(v)?;
        if c.len() <= LOOK && !c.learned { c.tensor().ok() } else { None }
    }

    /// The number that a constant of one element is.
    pub(super) fn number(&self, v: ValueId) -> Option<f64> {
        if self.0.constant(v)?.1.len() == 1 { first(&self.tensor(v)?) } else { None }
    }

    /// The number that all elements of a value are, through operations that only repeat or move them.
    pub(super) fn splat(&self, v: ValueId) -> Option<f64> {
        self.splat_within(v, 16)
    }

    fn splat_within(&self, mut v: ValueId, depth: usize) -> Option<f64> {
        for left in (0..depth).rev() {
            if let Some(t) = self.tensor(v) {
                return uniform(&t);
            }
            let n = self.made(v)?;
            v = match &n.op {
                Op::Expand {} | Op::Reshape { .. } | Op::Unsqueeze { .. } | Op::Squeeze { .. } => n.inputs[0],
                Op::Transpose { .. } | Op::Slice {} => n.inputs[0],
                Op::Where {} => match self.splat_within(n.inputs[0], left / 2)? {
                    0.0 => n.inputs[2],
                    _ => n.inputs[1],
                },
                _ => return None,
            };
        }
        None
    }

    /// The elements of a small i64 constant vector.
    pub(super) fn ints(&self, v: ValueId) -> Option<Vec<i64>> {
        self.tensor(v)?.as_slice::<i64>().ok().map(<[i64]>::to_vec)
    }

    /// `x f number`; for sums and products in either order. The result has x's rank.
    pub(super) fn by_number(&self, v: ValueId, f: B) -> Option<(ValueId, f64)> {
        let right = |x: ValueId, n: ValueId| {
            let number = self.number(n)?;
            (self.dims(v)?.len() == self.dims(x)?.len()).then_some((x, number))
        };
        match f {
            B::Add | B::Mul => self.either(v, f, right),
            _ => self.binary(v, f).and_then(|(a, b)| right(a, b)),
        }
    }

    /// `x times number`, written as product or quotient.
    pub(super) fn scaled(&self, v: ValueId) -> Option<(ValueId, f64)> {
        self.by_number(v, B::Mul).or_else(|| self.by_number(v, B::Div).map(|(x, n)| (x, 1.0 / n)))
    }

    /// A number as an attribute of an operation on `like`: not when that computes in f64 and the number
    /// is none of f32.
    pub(super) fn attribute(&self, number: f64, like: ValueId) -> Option<f32> {
        let short = number as f32;
        (self.elem(like)? != Elem::F64 || f64::from(short) == number).then_some(short)
    }

    /// What is known of a value.
    pub(super) fn ty(&self, v: ValueId) -> Option<&OpenType> {
        Some(&self.0.value(v)?.ty)
    }

    /// Dimensions, when the rank is known.
    pub(super) fn dims(&self, v: ValueId) -> Option<&[OpenDim]> {
        self.ty(v)?.shape.as_deref()
    }

    /// Element type.
    pub(super) fn elem(&self, v: ValueId) -> Option<Elem> {
        Some(self.ty(v)?.elem)
    }

    /// Length of the axis `back` places before the end (1 is the last).
    pub(super) fn length(&self, v: ValueId, back: usize) -> Option<i64> {
        let d = self.dims(v)?;
        d.get(d.len().checked_sub(back)?)?.as_ref()?.value()
    }

    /// Whether two values certainly have one shape.
    pub(super) fn same_shape(&self, a: ValueId, b: ValueId) -> bool {
        match (self.dims(a), self.dims(b)) {
            (Some(a), Some(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
            _ => false,
        }
    }

    /// Whether `v` certainly broadcasts to `dims` without making them longer.
    pub(super) fn broadcasts(&self, v: ValueId, dims: &[OpenDim]) -> bool {
        self.dims(v).is_some_and(|d| {
            d.len() <= dims.len()
                && d.iter().rev().zip(dims.iter().rev()).all(|(a, b)| is(a, 1) || same(a, b))
        })
    }

    /// Appends a node of one result beside the node of `beside`, whose origin it takes.
    pub(super) fn insert(&mut self, op: Op, inputs: Vec<ValueId>, beside: ValueId) -> Option<ValueId> {
        let facts: Vec<Fact> =
            inputs.iter().map(|v| self.ty(*v).cloned().map(Fact::of)).collect::<Option<_>>()?;
        let ty = infer(&op, &facts.iter().collect::<Vec<_>>()).ok()?.into_iter().next()?.ty;
        let origin = self.made(beside).map(|n| n.origin.clone()).unwrap_or_default();
        self.0.add(op, inputs, vec![(String::new(), ty)], origin).first().copied()
    }

    /// Makes `v` the result of another operation. Nodes that nothing reads any more go; what they came
    /// from joins the origin. Refused, and nothing changes, when inference does not admit it.
    pub(super) fn become_of(&mut self, v: ValueId, op: Op, inputs: Vec<ValueId>) -> Option<()> {
        let facts: Vec<Fact> =
            inputs.iter().map(|v| self.ty(*v).cloned().map(Fact::of)).collect::<Option<_>>()?;
        let found = infer(&op, &facts.iter().collect::<Vec<_>>()).ok()?;
        let ty = self.ty(v)?;
        if !matches!(&found[..], [one] if one.ty.admits(ty)) {
            return None;
        }
        let id = self.node_of(v)?;
        let old = self.0.node(id)?.inputs.clone();
        self.result(id)?;
        self.0.set_inputs(id, inputs);
        let mut origin = Origin::default();
        self.retire(&old, &mut origin);
        let (slot, from) = self.0.op_mut(id)?;
        *slot = op;
        from.merge(&origin);
        Some(())
    }

    /// Makes every reader of `v` read `new`.
    pub(super) fn alias(&mut self, v: ValueId, new: ValueId) -> Option<()> {
        let name = self.0.value(v)?.name.clone();
        self.0.replace_uses(v, new);
        let mut origin = Origin::default();
        self.retire(&[v], &mut origin);
        let value = self.0.value_mut(new)?;
        if value.name.is_empty() {
            value.name = name;
        }
        Some(())
    }

    /// Removes the nodes of values that nothing reads, and what only they read.
    fn retire(&mut self, values: &[ValueId], origin: &mut Origin) {
        let mut todo = values.to_vec();
        while let Some(v) = todo.pop() {
            let Some(id) = self.node_of(v) else { continue };
            let Some(n) = self.0.node(id) else { continue };
            if matches!(n.op, Op::Input {}) || n.outputs.iter().any(|v| self.0.is_read(*v)) {
                continue;
            }
            if !matches!(n.op, Op::Constant { .. }) && n.origin.nodes.len() + origin.nodes.len() <= SOURCES {
                origin.merge(&Origin { tensor: None, ..n.origin.clone() });
            }
            todo.extend(n.inputs.clone());
            self.0.remove(id);
        }
    }
}

/// Whether two dimensions are known and equal.
pub(super) fn same(a: &OpenDim, b: &OpenDim) -> bool {
    a.is_some() && a == b
}

/// Whether a dimension is this number.
pub(super) fn is(d: &OpenDim, n: i64) -> bool {
    d.as_ref().and_then(Dim::value) == Some(n)
}

/// Whether two numbers agree as constants of an element type do.
pub(super) fn near(a: f64, b: f64, elem: Elem) -> bool {
    let slack = match elem {
        Elem::F64 => 1e-14,
        e if e.is_half() => 2e-3,
        _ => 2e-5,
    };
    a == b || (a - b).abs() <= slack * b.abs()
}

fn numbers(t: &Tensor) -> Option<Vec<f64>> {
    Some(match t.data() {
        Data::F32(v) => v.iter().map(|&v| v.into()).collect(),
        Data::F64(v) => v.to_vec(),
        Data::F16(v) => v.iter().map(|&v| v.into()).collect(),
        Data::BF16(v) => v.iter().map(|&v| v.into()).collect(),
        Data::Bool(v) => v.iter().map(|&v| u8::from(v).into()).collect(),
        _ => return None,
    })
}

fn first(t: &Tensor) -> Option<f64> {
    numbers(t)?.first().copied()
}

fn uniform(t: &Tensor) -> Option<f64> {
    let all = numbers(t)?;
    let one = *all.first()?;
    all.iter().all(|v| v.to_bits() == one.to_bits()).then_some(one)
}
