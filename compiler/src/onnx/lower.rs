//! What a lowering has at hand: the node's operands, attributes and helpers that emit operations.

use half::{bf16, f16};
use pfmc_ir::consts::{Const, ConstSource};
use pfmc_ir::diag::Diagnostic;
use pfmc_ir::elem::Elem;
use pfmc_ir::graph::{Graph, ValueId};
use pfmc_ir::infer::Fact;
use pfmc_ir::op::{BinaryFn, Op, ReduceFn, RegionId, UnaryFn};
use pfmc_ir::origin::Origin;
use pfmc_ir::shape::{Dim, OpenDim, OpenType};
use pfmc_ir::tensor::{Data, Tensor};

use super::attrs::Attrs;
use super::codes::{E0105, E0106, E0107, E0108};
use super::import::{Importer, Region};
use super::ops::OpInfo;
use super::proto::{GraphProto, NodeProto, TensorProto, text};
use super::tensor;

/// Why a node could not be lowered.
pub(super) struct Fault {
    pub diagnostic: Box<Diagnostic>,
    /// Whether it follows from shapes, types or constants of operands: then it says nothing new
    /// where an operand could not be imported.
    pub about_shape: bool,
}

impl Fault {
    pub(super) fn hard(d: Diagnostic) -> Fault {
        Fault { diagnostic: Box::new(d), about_shape: false }
    }

    pub(super) fn shape(d: Diagnostic) -> Fault {
        Fault { diagnostic: Box::new(d), about_shape: true }
    }

    pub(super) fn noted(mut self, note: String) -> Fault {
        self.diagnostic.notes.push(note);
        self
    }
}

impl From<Diagnostic> for Fault {
    fn from(d: Diagnostic) -> Fault {
        Fault::hard(d)
    }
}

/// Result of a lowering step.
pub(super) type R<T> = Result<T, Fault>;

/// A subgraph that is imported again should what it is given change.
pub(super) struct Trial {
    /// The region, if there were no errors.
    pub region: Option<Region>,
    problems: Vec<Diagnostic>,
}

/// One node being lowered.
pub(super) struct Ctx<'i, 'f, 'm> {
    imp: &'i mut Importer<'f>,
    inputs: Vec<String>,
    outputs: Vec<String>,
    /// Attributes not read yet.
    pub attrs: Attrs<'m>,
    /// Version of the standard operator set.
    pub opset: i64,
    origin: Origin,
    poisoned: bool,
}

impl<'i, 'f, 'm> Ctx<'i, 'f, 'm> {
    pub(super) fn new(imp: &'i mut Importer<'f>, n: &'m NodeProto, origin: Origin, opset: i64) -> Self {
        let mut inputs: Vec<String> = n.input.iter().map(text).collect();
        while inputs.last().is_some_and(String::is_empty) {
            inputs.pop();
        }
        let outputs = n.output.iter().map(text).collect();
        for name in &inputs {
            imp.find(name);
        }
        let poisoned = inputs.iter().any(|i| imp.known_value(i).is_some_and(|v| imp.is_poisoned(v)));
        Ctx { imp, inputs, outputs, attrs: Attrs::new(n), opset, origin, poisoned }
    }

    /// Refuses a first operand of an element type that the operator does not take.
    pub(super) fn check_type(&mut self, info: &OpInfo) -> R<()> {
        if !self.has(0) || info.types.len() == Elem::ALL.len() {
            return Ok(());
        }
        let elem = match self.constant(0) {
            Some(c) => c.elem,
            None => {
                let v = self.x(0)?;
                self.elem(v)
            }
        };
        if info.types.contains(&elem) {
            return Ok(());
        }
        let message = format!("{} is not supported on {elem}", info.name);
        let note = format!("supported: {}", info.type_names());
        Err(Fault::shape(Diagnostic::error(&E0108, message).note(note)))
    }

    /// Attributes that the lowering left, of those the operator has.
    pub(super) fn unread(&self, info: &OpInfo) -> Vec<String> {
        self.attrs.rest().filter(|a| info.attributes.contains(a)).map(str::to_owned).collect()
    }

    /// Whether an operand could not be imported.
    pub(super) fn poisoned(&self) -> bool {
        self.poisoned
    }

    /// Number of inputs, without those left out at the end.
    pub(super) fn input_count(&self) -> usize {
        self.inputs.len()
    }

    /// Number of outputs.
    pub(super) fn output_count(&self) -> usize {
        self.outputs.len()
    }

    /// Whether an input is given.
    pub(super) fn has(&self, i: usize) -> bool {
        self.inputs.get(i).is_some_and(|n| !n.is_empty())
    }

    /// An input that must be there.
    pub(super) fn x(&mut self, i: usize) -> R<ValueId> {
        match self.inputs.get(i) {
            Some(name) if !name.is_empty() => {
                let v = self.imp.value(name, &self.origin);
                self.poisoned |= self.imp.is_poisoned(v);
                Ok(v)
            }
            _ => Err(Diagnostic::error(&E0107, format!("input {i} is missing")).into()),
        }
    }

    /// An input that may be left out.
    pub(super) fn opt(&mut self, i: usize) -> R<Option<ValueId>> {
        if self.has(i) { self.x(i).map(Some) } else { Ok(None) }
    }

    /// All inputs.
    pub(super) fn all(&mut self) -> R<Vec<ValueId>> {
        (0..self.inputs.len()).map(|i| self.x(i)).collect()
    }

    /// An unsupported form.
    pub(super) fn form(message: impl Into<String>) -> Fault {
        Fault::shape(Diagnostic::error(&E0106, message))
    }

    /// An unsupported attribute value.
    pub(super) fn value_of(name: &str, value: impl std::fmt::Debug, supported: &str) -> Fault {
        Fault::hard(
            Diagnostic::error(&E0105, format!("attribute {name} is {value:?}"))
                .note(format!("supported: {supported}")),
        )
    }

    /// The constant an input is.
    pub(super) fn constant(&self, i: usize) -> Option<&Const> {
        self.imp.known_constant(self.inputs.get(i)?)
    }

    /// The elements of an integer input that is constant, or whose elements inference knows.
    /// `None` when it is left out.
    pub(super) fn ints(&mut self, i: usize, what: &str) -> R<Option<Vec<i64>>> {
        match self.known_ints(i, what)? {
            None if self.has(i) => {
                Err(Self::form(format!("{what} (input {i}, {:?}) must be constant", self.inputs[i])))
            }
            found => Ok(found),
        }
    }

    /// As [`Ctx::ints`], and `None` too when the elements are not known before the model runs.
    pub(super) fn known_ints(&mut self, i: usize, what: &str) -> R<Option<Vec<i64>>> {
        if !self.has(i) {
            return Ok(None);
        }
        if let Some(c) = self.constant(i) {
            // Axes, sizes and paddings are short; a long one is no such list.
            if c.len() <= 4096 {
                let found = c.tensor().ok().and_then(|t| integers(&t));
                return found
                    .map(Some)
                    .ok_or_else(|| Self::form(format!("{what} (input {i}) are not integers")));
            }
        }
        let v = self.x(i)?;
        let fact = self.imp.scope.facts.get(v).and_then(|f| f.value.clone());
        Ok(fact.and_then(|f| f.iter().map(|d| d.as_ref()?.value()).collect()))
    }

    /// The element of a constant float or integer input of one element; `None` when it is left out.
    pub(super) fn number(&mut self, i: usize, what: &str) -> R<Option<f64>> {
        if !self.has(i) {
            return Ok(None);
        }
        let found = self.constant(i).filter(|c| c.len() == 1).and_then(|c| first(&c.tensor().ok()?));
        match found {
            Some(v) => Ok(Some(v)),
            None => {
                self.x(i)?;
                Err(Self::form(format!("{what} (input {i}, {:?}) must be a constant number", self.inputs[i])))
            }
        }
    }

    /// The element of an input of one element that is constant or that inference knows.
    pub(super) fn number_if_constant(&mut self, i: usize) -> Option<f64> {
        let fact = self.known(i).and_then(|v| self.imp.scope.facts.get(v)).and_then(|f| f.value.clone());
        let followed = fact.and_then(|v| <[_; 1]>::try_from(v).ok()).and_then(|[d]| d?.value());
        let constant = self.constant(i).filter(|c| c.len() == 1).and_then(|c| first(&c.tensor().ok()?));
        constant.or(followed.map(|v| v as f64))
    }

    /// The value an input is, unless it is left out or a constant that no node read yet.
    fn known(&self, i: usize) -> Option<ValueId> {
        self.imp.known_value(self.inputs.get(i)?)
    }

    /// `length - 1 - at`, for i64 scalars: an index counted from the end.
    pub(super) fn last_less(&mut self, length: ValueId, at: ValueId) -> R<ValueId> {
        let last = self.with(BinaryFn::Sub, length, 1.0)?;
        self.bin(BinaryFn::Sub, last, at)
    }

    /// A value with the elements of an axis in reverse order.
    pub(super) fn reversed(&mut self, v: ValueId, axis: i64) -> R<ValueId> {
        let bounds = [-1, i64::MIN + 1, axis, -1].map(|n| self.vector(vec![n]));
        self.op(Op::Slice {}, &[v, bounds[0], bounds[1], bounds[2], bounds[3]])
    }

    /// Attribute `name`, or input `i` where the opset has it as one: its elements when they are known,
    /// else the operand, as i64; neither when it is left out.
    pub(super) fn ints_or_value(&mut self, name: &str, i: usize) -> R<(Option<Vec<i64>>, Option<ValueId>)> {
        let known = match self.attrs.ints(name)? {
            Some(v) => Some(v),
            None => self.known_ints(i, name)?,
        };
        let computed = if known.is_none() && self.has(i) { Some(self.i64_input(i)?) } else { None };
        Ok((known, computed))
    }

    /// What is known of a value.
    pub(super) fn ty(&self, v: ValueId) -> OpenType {
        self.imp.scope.graph.value(v).map_or_else(|| OpenType::unknown(Elem::F32), |v| v.ty.clone())
    }

    /// Element type.
    pub(super) fn elem(&self, v: ValueId) -> Elem {
        self.ty(v).elem
    }

    /// Dimensions.
    pub(super) fn dims(&self, v: ValueId) -> Option<Vec<OpenDim>> {
        self.ty(v).shape
    }

    /// Rank, which must be known.
    pub(super) fn rank(&self, v: ValueId) -> R<usize> {
        self.dims(v).map(|d| d.len()).ok_or_else(|| Self::form("the rank of the operand is not known"))
    }

    /// Imports a subgraph; see [`Importer::subgraph`].
    pub(super) fn subgraph(&mut self, g: &GraphProto, given: &[OpenType], captured: &[String]) -> R<Region> {
        let region = self.imp.subgraph(g, given, captured, &self.origin);
        self.settle(Trial { region, problems: Vec::new() })
    }

    /// As [`Ctx::subgraph`], with the problems beside it that [`Ctx::settle`] records.
    pub(super) fn trial(&mut self, g: &GraphProto, given: &[OpenType]) -> Trial {
        let before = self.imp.problems.0.len();
        let region = self.imp.subgraph(g, given, &[], &self.origin);
        Trial { region, problems: self.imp.problems.0.split_off(before) }
    }

    /// Takes a trial as the result.
    pub(super) fn settle(&mut self, trial: Trial) -> R<Region> {
        // The subgraph's own problems say what is wrong.
        self.imp.problems.0.extend(trial.problems);
        self.poisoned |= trial.region.is_none();
        trial.region.ok_or_else(|| Self::form("a subgraph could not be imported"))
    }

    /// A region made of what `f` emits. `inputs` are its inputs' names and what is known of them; `f`
    /// gets their values and gives the named outputs.
    pub(super) fn region(
        &mut self,
        inputs: Vec<(String, Fact)>,
        f: impl FnOnce(&mut Self, Vec<ValueId>) -> R<Vec<(String, ValueId)>>,
    ) -> R<RegionId> {
        let graph = Importer::built(self, |c| c.imp, inputs, f)?;
        Ok(self.add_region(graph))
    }

    /// Makes a graph a region of the present one.
    pub(super) fn add_region(&mut self, graph: Graph) -> RegionId {
        self.imp.scope.graph.add_region(graph)
    }

    /// Adds what a region computes to the present graph.
    pub(super) fn inline(&mut self, part: &Graph, args: &[ValueId]) -> R<Vec<ValueId>> {
        self.imp.inline(part, args)
    }

    /// The values of names that a region captured.
    pub(super) fn named(&mut self, names: &[String]) -> Vec<ValueId> {
        names.iter().map(|n| self.imp.value(n, &self.origin)).collect()
    }

    /// What is known of a value.
    pub(super) fn fact(&self, v: ValueId) -> Fact {
        self.imp.scope.facts.get(v).cloned().unwrap_or_else(|| Fact::of(self.ty(v)))
    }

    /// Emits an operation of one result.
    pub(super) fn op(&mut self, op: Op, inputs: &[ValueId]) -> R<ValueId> {
        Ok(self.imp.add(op, inputs.to_vec(), &self.origin)?[0])
    }

    /// Emits an operation of several results.
    pub(super) fn many(&mut self, op: Op, inputs: &[ValueId]) -> R<Vec<ValueId>> {
        self.imp.add(op, inputs.to_vec(), &self.origin)
    }

    /// Element-wise function.
    pub(super) fn un(&mut self, f: UnaryFn, x: ValueId) -> R<ValueId> {
        self.op(Op::Unary(f), &[x])
    }

    /// Element-wise function of two.
    pub(super) fn bin(&mut self, f: BinaryFn, a: ValueId, b: ValueId) -> R<ValueId> {
        self.op(Op::Binary(f), &[a, b])
    }

    /// Element-wise function of a value and a number of its element type.
    pub(super) fn with(&mut self, f: BinaryFn, a: ValueId, number: f64) -> R<ValueId> {
        let b = self.number_like(number, a)?;
        self.bin(f, a, b)
    }

    /// Reduction that keeps axes.
    pub(super) fn reduce(&mut self, f: ReduceFn, x: ValueId, axes: Vec<i64>) -> R<ValueId> {
        self.op(Op::Reduce { f, axes, keepdims: true }, &[x])
    }

    /// A constant made by a lowering.
    pub(super) fn make(&mut self, t: &Tensor, learned: bool) -> ValueId {
        self.imp.constant("", Const::derived(t, self.origin.clone(), learned))
    }

    /// A constant computed from tensors of the file.
    pub(super) fn make_from(&mut self, t: &Tensor, tensor: usize, learned: bool) -> ValueId {
        let mut origin = self.origin.clone();
        origin.tensor = self.inputs.get(tensor).cloned();
        self.imp.constant("", Const::derived(t, origin, learned))
    }

    /// A number as constant of the element type of a value.
    pub(super) fn number_like(&mut self, number: f64, like: ValueId) -> R<ValueId> {
        let t = scalar(number, self.elem(like))
            .ok_or_else(|| Self::form(format!("{number} has no such element type")))?;
        Ok(self.make(&t, false))
    }

    /// An i64 vector.
    pub(super) fn vector(&mut self, values: Vec<i64>) -> ValueId {
        self.make(&Tensor::vector(values), false)
    }

    /// An i64 scalar.
    pub(super) fn int_scalar(&mut self, value: i64) -> ValueId {
        self.make(&Tensor::scalar(value), false)
    }

    /// A value as i64.
    pub(super) fn as_i64(&mut self, v: ValueId) -> R<ValueId> {
        match self.elem(v) {
            Elem::I64 => Ok(v),
            e if e.is_int() => {
                let known = self.imp.scope.graph.constant(v).and_then(|(_, c)| c.tensor().ok());
                match known
                    .filter(|t| t.len() <= 4096)
                    .and_then(|t| Some((integers(&t)?, t.shape().to_vec())))
                {
                    Some((values, shape)) => {
                        let t = Tensor::new(shape, values).map_err(Self::form)?;
                        Ok(self.make(&t, false))
                    }
                    None => self.op(Op::Cast { to: Elem::I64 }, &[v]),
                }
            }
            e => Err(Self::form(format!("an operand is {e} and must be an integer"))),
        }
    }

    /// Input `i` as i64, without making a constant of another integer type a value.
    pub(super) fn i64_input(&mut self, i: usize) -> R<ValueId> {
        let narrow = self.constant(i).filter(|c| c.elem != Elem::I64 && c.elem.is_int() && c.len() <= 4096);
        let known = narrow.and_then(|c| c.tensor().ok());
        if let Some((values, shape)) = known.and_then(|t| Some((integers(&t)?, t.shape().to_vec()))) {
            let t = Tensor::new(shape, values).map_err(Self::form)?;
            return Ok(self.make(&t, false));
        }
        let v = self.x(i)?;
        self.as_i64(v)
    }

    /// Refuses element types other than floats.
    pub(super) fn floats_only(&self, v: ValueId) -> R<()> {
        match self.elem(v) {
            e if e.is_float() => Ok(()),
            e => Err(Self::form(format!("the operand is {e}; and must be a float"))),
        }
    }

    /// Axes counted from the end, ascending and without repetition.
    pub(super) fn axes_from_end(&self, axes: &[i64], rank: Option<usize>) -> R<Vec<i64>> {
        let mut out = Vec::with_capacity(axes.len());
        for &a in axes {
            out.push(match rank {
                Some(r) => pfmc_ir::tensor::axis(a, r).map_err(Self::form)? as i64,
                None => a,
            });
        }
        out.sort_unstable();
        let n = out.len();
        out.dedup();
        if out.len() < n {
            return Err(Fault::hard(Diagnostic::error(&E0105, format!("axes {axes:?} name one twice"))));
        }
        Ok(out)
    }

    /// The axes from `axis` to the last, negative where the rank is not known.
    pub(super) fn trailing(&self, axis: i64, v: ValueId) -> R<Vec<i64>> {
        match self.dims(v) {
            Some(d) => {
                let a = pfmc_ir::tensor::axis(axis, d.len()).map_err(Self::form)?;
                Ok((a as i64..d.len() as i64).collect())
            }
            None if (-64..0).contains(&axis) => Ok((axis..0).collect()),
            None => Err(Self::form("the rank of the operand is not known")),
        }
    }

    /// Length of an axis, when it is a number.
    pub(super) fn length(&self, v: ValueId, axis: usize) -> Option<i64> {
        self.dims(v)?.get(axis)?.as_ref().and_then(Dim::value)
    }

    /// Length of an axis as an i64 scalar, computed when the model runs where it is not known.
    pub(super) fn length_of(&mut self, v: ValueId, axis: i64) -> R<ValueId> {
        let end = if axis == -1 { i64::MAX } else { axis.saturating_add(1) };
        let shape = self.op(Op::Shape { start: axis, end }, &[v])?;
        self.op(Op::Squeeze { axes: vec![0] }, &[shape])
    }

    /// The numbers from 0 up to an i64 scalar: [n].
    pub(super) fn count_to(&mut self, n: ValueId) -> R<ValueId> {
        let (zero, one) = (self.int_scalar(0), self.int_scalar(1));
        self.op(Op::Range {}, &[zero, n, one])
    }

    /// Says that the constant input `i`, if it is one, was learned though it is made of integers.
    pub(super) fn mark_learned(&mut self, i: usize) {
        if let Some(name) = self.inputs.get(i)
            && let Some(c) = self.imp.constant_mut(name)
        {
            c.learned |= c.shape.len() > 1;
        }
    }

    /// The packed codes of a constant byte tensor as a tensor of narrower elements.
    pub(super) fn reinterpret(&mut self, i: usize, elem: Elem, shape: &[usize], learned: bool) -> R<ValueId> {
        let name = &self.inputs[i];
        let bad = |why: String| Self::form(format!("input {i} ({name:?}) {why}"));
        let c = self.constant(i).ok_or_else(|| bad("must be constant".into()))?;
        if c.elem != Elem::U8 {
            return Err(bad(format!("is {} and must be u8", c.elem)));
        }
        let found = Const::new(elem, shape.to_vec(), c.source.clone(), c.origin.clone(), learned);
        let found = found.map_err(|e| bad(format!("does not hold what the attributes say: {e}")))?;
        Ok(self.imp.constant("", found))
    }

    /// Entry `at` of constant input `i` along its first axis, which shares its bytes.
    fn part(&self, i: usize, at: usize) -> Option<Const> {
        let c = self.constant(i)?;
        let (count, shape) = c.shape.split_first()?;
        let bytes = c.bytes()?;
        let len = c.elem.stored(pfmc_ir::tensor::count(shape)?)?;
        if at >= *count || len.checked_mul(*count)? != bytes.len() {
            return None;
        }
        let bytes = bytes.slice(len * at..len * (at + 1));
        let source = match c.source {
            ConstSource::Mapped(_) => ConstSource::Mapped(bytes),
            ConstSource::External(_) => ConstSource::External(bytes),
            _ => ConstSource::Derived(bytes),
        };
        let mut origin = c.origin.clone();
        origin.tensor = origin.tensor.map(|t| format!("{t}[{at}]"));
        Const::new(c.elem, shape.to_vec(), source, origin, c.learned).ok()
    }

    /// Entry `at` of input `i` along its first axis. That of a constant shares its bytes.
    pub(super) fn entry(&mut self, i: usize, at: usize) -> R<ValueId> {
        match self.part(i, at) {
            Some(c) => Ok(self.imp.constant("", c)),
            None => {
                let (v, at) = (self.x(i)?, self.int_scalar(at as i64));
                self.op(Op::Gather { axis: 0 }, &[v, at])
            }
        }
    }

    /// Entry `at` of a constant byte tensor, whose last axis holds packed codes of `elem`.
    pub(super) fn packed_entry(&mut self, i: usize, at: usize, elem: Elem) -> R<ValueId> {
        let found = self.part(i, at).filter(|c| c.elem == Elem::U8).and_then(|c| {
            let mut shape = c.shape;
            let last = shape.last_mut()?;
            *last = last.checked_mul(8 / elem.bits())?;
            Const::new(elem, shape, c.source, c.origin, true).ok()
        });
        let found =
            found.ok_or_else(|| Self::form(format!("input {i} must be a constant of packed bytes (u8)")))?;
        Ok(self.imp.constant("", found))
    }

    /// A constant under another shape, of the same bytes; `None` when the value is no constant.
    pub(super) fn reshaped_constant(&mut self, v: ValueId, shape: Vec<usize>) -> Option<ValueId> {
        let c = self.imp.scope.graph.constant(v)?.1;
        let new = Const::new(c.elem, shape, c.source.clone(), c.origin.clone(), c.learned).ok()?;
        Some(self.imp.constant("", new))
    }

    /// A constant whose elements are all `code`.
    pub(super) fn splat(&self, elem: Elem, shape: &[usize], code: u8) -> R<Tensor> {
        let n =
            pfmc_ir::tensor::count(shape).filter(|n| *n <= 1 << 30).ok_or_else(|| Self::form("too large"))?;
        let data = if elem == Elem::U8 {
            Data::U8(vec![code; n].into())
        } else {
            Data::Code(elem, vec![code; n].into())
        };
        Tensor::from_data(shape.to_vec(), data).map_err(Self::form)
    }

    /// The first `len` elements along an axis.
    pub(super) fn cut(&mut self, v: ValueId, axis: usize, len: usize) -> R<ValueId> {
        if self.length(v, axis) == i64::try_from(len).ok() {
            return Ok(v);
        }
        let parts = [0, len as i64, axis as i64, 1].map(|n| self.vector(vec![n]));
        self.op(Op::Slice {}, &[v, parts[0], parts[1], parts[2], parts[3]])
    }

    /// Binds output `i` to a tensor of the file.
    pub(super) fn bind_tensor(&mut self, i: usize, t: &TensorProto) {
        let Some(name) = self.outputs.get(i).filter(|n| !n.is_empty()).cloned() else { return };
        let mut origin = self.origin.clone();
        origin.tensor = Some(name.clone());
        // The tensor's own name is usually empty: messages name the output.
        let named = TensorProto { name: name.clone().into(), ..t.clone() };
        self.imp.tensor(name, &named, &origin);
    }

    /// Binds output `i` to a small constant.
    pub(super) fn bind_constant(&mut self, i: usize, t: &Tensor) {
        let Some(name) = self.outputs.get(i).filter(|n| !n.is_empty()).cloned() else { return };
        let mut origin = self.origin.clone();
        origin.tensor = Some(name.clone());
        let learned = t.elem().is_float() && t.rank() > 0 && t.len() > 1;
        self.imp.bind_const(name, Const::derived(t, origin, learned));
    }

    /// A tensor attribute of one element, as a tensor of rank 0.
    pub(super) fn one_element(&mut self, t: &TensorProto) -> R<Tensor> {
        let c = tensor::constant(t, &self.origin, self.imp.files)?;
        let scalar = c.tensor().ok().and_then(|t| t.reshaped(Vec::new()).ok());
        scalar.ok_or_else(|| {
            Fault::hard(Diagnostic::error(&E0105, "attribute value is no tensor of one element"))
        })
    }
}

/// The elements of an integer tensor.
fn integers(t: &Tensor) -> Option<Vec<i64>> {
    Some(match t.data() {
        Data::I64(v) => v.to_vec(),
        Data::I32(v) => v.iter().map(|&v| v.into()).collect(),
        Data::I16(v) => v.iter().map(|&v| v.into()).collect(),
        Data::I8(v) => v.iter().map(|&v| v.into()).collect(),
        Data::U64(v) => v.iter().map(|&v| i64::try_from(v).ok()).collect::<Option<_>>()?,
        Data::U32(v) => v.iter().map(|&v| v.into()).collect(),
        Data::U16(v) => v.iter().map(|&v| v.into()).collect(),
        Data::U8(v) => v.iter().map(|&v| v.into()).collect(),
        _ => return None,
    })
}

/// The first element as a number.
fn first(t: &Tensor) -> Option<f64> {
    match t.data() {
        Data::F32(v) => v.first().map(|&v| v.into()),
        Data::F64(v) => v.first().copied(),
        Data::F16(v) => v.first().map(|&v| v.into()),
        Data::BF16(v) => v.first().map(|&v| v.into()),
        Data::Bool(v) => v.first().map(|&v| u8::from(v).into()),
        // Exact up to 2^53; a larger constant has no use as a scalar operand of a lowering.
        _ => integers(t)?.first().filter(|v| v.unsigned_abs() <= 1 << 53).map(|&v| v as f64),
    }
}

/// A number as a tensor of rank 0; `None` when the element type cannot hold it.
pub(super) fn scalar(number: f64, elem: Elem) -> Option<Tensor> {
    let whole =
        || (number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0).then_some(number as i64);
    Some(match elem {
        Elem::F32 => Tensor::scalar(number as f32),
        Elem::F64 => Tensor::scalar(number),
        Elem::I64 => Tensor::scalar(whole()?),
        Elem::I32 => Tensor::scalar(i32::try_from(whole()?).ok()?),
        Elem::F16 => Tensor::scalar(f16::from_f64(number)),
        Elem::BF16 => Tensor::scalar(bf16::from_f64(number)),
        Elem::I16 => Tensor::scalar(i16::try_from(whole()?).ok()?),
        Elem::I8 => Tensor::scalar(i8::try_from(whole()?).ok()?),
        Elem::U64 => Tensor::scalar(u64::try_from(whole()?).ok()?),
        Elem::U32 => Tensor::scalar(u32::try_from(whole()?).ok()?),
        Elem::U16 => Tensor::scalar(u16::try_from(whole()?).ok()?),
        Elem::U8 => Tensor::scalar(u8::try_from(whole()?).ok()?),
        Elem::Bool => Tensor::scalar(number != 0.0),
        _ => return None,
    })
}
