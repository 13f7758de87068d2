//! Views of constants: what moving, converting, dequantising and simple arithmetic make of them,
//! computed element by element when asked for. Nothing here copies a weight as a whole.

use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};
use pfmc_ir::consts::Const;
use pfmc_ir::elem::Elem;
use pfmc_ir::eval::Granularity;
use pfmc_ir::narrow;
use pfmc_ir::op::BinaryFn;
use pfmc_ir::tensor::{broadcast, count};

/// Most constants and computations behind one view; it bounds the work an element takes, and how often
/// elements of one constant can be repeated.
const SIZE_MAX: usize = 64;

/// Where a view's elements come from, in row-major order.
#[derive(Debug)]
enum Source {
    /// A constant of the graph.
    Stored(Const),
    /// A function of other views.
    Computed { f: Function, elem: Elem, shape: Vec<usize>, operands: Vec<View>, size: usize },
}

#[derive(Debug)]
enum Function {
    Cast,
    /// Both operands have the result's shape.
    Binary(BinaryFn),
    /// Codes, scales, optional zero points; see [`pfmc_ir::op::Op::Dequantize`].
    Dequantize {
        by: Granularity,
        axis: i64,
        block: i64,
    },
    Concat(usize),
}

/// A strided view of constants or of what is computed from constants alone. It has at least one
/// element.
#[derive(Debug, Clone)]
pub struct View {
    source: Arc<Source>,
    /// Type of the elements, which holds every value of the source's.
    elem: Elem,
    shape: Vec<usize>,
    /// Source elements between neighbours along each axis; 0 along an axis that is repeated.
    strides: Vec<isize>,
    offset: usize,
    learned: bool,
    /// Least and largest element, or bounds of them, when all are integers.
    range: Option<(f64, f64)>,
}

/// A matrix `[k, n]` as a strided view: element (k, n) is the source's element
/// `offset + k * k_stride + n * n_stride`, which is inside it for every k and n.
#[derive(Debug, Clone)]
pub struct MatrixView {
    source: Arc<Source>,
    /// Rows.
    pub k: u32,
    /// Columns.
    pub n: u32,
    k_stride: isize,
    n_stride: isize,
    offset: usize,
    /// What rows and columns are multiplied with.
    factors: [Option<Arc<[f32]>>; 2],
}

fn row_major(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![0; shape.len()];
    let mut step = 1usize;
    for (s, &d) in strides.iter_mut().zip(shape).rev() {
        // Shapes of sources have been counted, so that nothing overflows.
        *s = isize::try_from(step).unwrap_or(isize::MAX);
        step = step.saturating_mul(d);
    }
    strides
}

/// A value as elements of a type hold it.
fn rounded(v: f64, elem: Elem) -> f64 {
    match elem {
        Elem::F32 => f64::from(v as f32),
        Elem::F16 => f16::from_f64(v).to_f64(),
        Elem::BF16 => bf16::from_f64(v).to_f64(),
        _ => v,
    }
}

fn stored(c: &Const, positions: &[usize]) -> Option<Vec<f64>> {
    fn each<const N: usize>(
        bytes: &[u8],
        positions: &[usize],
        f: impl Fn([u8; N]) -> f64,
    ) -> Option<Vec<f64>> {
        let (elements, _) = bytes.as_chunks::<N>();
        positions.iter().map(|&p| elements.get(p).map(|&b| f(b))).collect()
    }
    let bytes = c.bytes()?;
    match c.elem {
        Elem::F32 => each(bytes, positions, |b| f32::from_le_bytes(b).into()),
        Elem::F64 => each(bytes, positions, f64::from_le_bytes),
        Elem::F16 => each(bytes, positions, |b| f16::from_le_bytes(b).into()),
        Elem::BF16 => each(bytes, positions, |b| bf16::from_le_bytes(b).into()),
        Elem::I32 => each(bytes, positions, |b| i32::from_le_bytes(b).into()),
        Elem::U32 => each(bytes, positions, |b| u32::from_le_bytes(b).into()),
        Elem::I16 => each(bytes, positions, |b| i16::from_le_bytes(b).into()),
        Elem::U16 => each(bytes, positions, |b| u16::from_le_bytes(b).into()),
        Elem::I8 => each(bytes, positions, |b| i8::from_le_bytes(b).into()),
        Elem::U8 => each(bytes, positions, |b: [u8; 1]| b[0].into()),
        code => {
            let values = narrow::values(code);
            let (bits, each) = (code.bits(), 8 / code.bits());
            let at = |&p: &usize| {
                let code = (bytes.get(p / each)? >> (p % each * bits)) & (u8::MAX >> (8 - bits));
                values.get(usize::from(code)).map(|&v| f64::from(v))
            };
            positions.iter().map(at).collect()
        }
    }
}

fn binary(f: BinaryFn, elem: Elem, a: f64, b: f64) -> f64 {
    macro_rules! compute {
        ($a:expr, $b:expr) => {
            match f {
                BinaryFn::Add => $a + $b,
                BinaryFn::Sub => $a - $b,
                BinaryFn::Mul => $a * $b,
                _ => $a / $b,
            }
        };
    }
    match elem {
        Elem::F64 => compute!(a, b),
        Elem::I32 => {
            let (a, b) = (a as i32, b as i32);
            f64::from(match f {
                BinaryFn::Add => a.wrapping_add(b),
                BinaryFn::Sub => a.wrapping_sub(b),
                _ => a.wrapping_mul(b),
            })
        }
        _ => rounded(f64::from(compute!(a as f32, b as f32)), elem),
    }
}

/// Whether every value of one type is one of the other.
fn holds(to: Elem, from: Elem) -> bool {
    match to {
        Elem::F64 => !matches!(from, Elem::I64 | Elem::U64),
        Elem::F32 => from.bits() <= 16,
        Elem::I32 => {
            (from.is_int() && from.bits() <= 16) || matches!(from, Elem::I4 | Elem::U4 | Elem::I2 | Elem::U2)
        }
        _ => false,
    }
}

/// Most bytes of a constant that is told from others by what they are, not by where they are (passes
/// copy small constants), and most elements that are looked at when a view is made.
const BY_CONTENT: usize = 4096;

/// Bounds of a constant's elements, when it is known that all are integers: of few elements by
/// looking at them, of others by their type.
fn range(c: &Const) -> Option<(f64, f64)> {
    if c.len() <= BY_CONTENT {
        let all = stored(c, &(0..c.len()).collect::<Vec<_>>())?;
        let whole = all.iter().all(|v| v.is_finite() && v.fract() == 0.0);
        let bounds = || all.iter().fold((f64::MAX, f64::MIN), |(lo, hi), &v| (lo.min(v), hi.max(v)));
        return whole.then(bounds);
    }
    let bits = c.elem.bits() as i32;
    match c.elem {
        Elem::U32 | Elem::U16 | Elem::U8 | Elem::U4 | Elem::U2 => Some((0.0, 2f64.powi(bits) - 1.0)),
        Elem::I32 | Elem::I16 | Elem::I8 | Elem::I4 | Elem::I2 => {
            Some((-(2f64.powi(bits - 1)), 2f64.powi(bits - 1) - 1.0))
        }
        _ => None,
    }
}

impl Source {
    fn shape(&self) -> &[usize] {
        match self {
            Source::Stored(c) => &c.shape,
            Source::Computed { shape, .. } => shape,
        }
    }

    fn size(&self) -> usize {
        match self {
            Source::Stored(_) => 1,
            Source::Computed { size, .. } => *size,
        }
    }

    /// The first learned constant behind it.
    fn learned(&self) -> Option<&Const> {
        match self {
            Source::Stored(c) => Some(c).filter(|c| c.learned),
            Source::Computed { operands, .. } => operands.iter().find_map(|v| v.source.learned()),
        }
    }

    /// The elements at positions in row-major order.
    fn read(&self, positions: &[usize]) -> Option<Vec<f64>> {
        let (f, elem, shape, operands) = match self {
            Source::Stored(c) => return stored(c, positions),
            Source::Computed { f, elem, shape, operands, .. } => (f, *elem, shape, operands),
        };
        match (f, &operands[..]) {
            (Function::Cast, [x]) => {
                let x = x.read(positions)?;
                Some(x.into_iter().map(|v| rounded(v, elem)).collect())
            }
            (Function::Binary(f), [a, b]) => {
                let (a, b) = (a.read(positions)?, b.read(positions)?);
                Some(a.into_iter().zip(b).map(|(a, b)| binary(*f, elem, a, b)).collect())
            }
            (Function::Dequantize { by, .. }, [x, scale, zero @ ..]) => {
                let of: Vec<usize> = positions.iter().map(|&p| by.of(p)).collect();
                let (codes, scales) = (x.read(positions)?, scale.read(&of)?);
                let zeros = match zero {
                    [zero] => Some(zero.read(&of)?),
                    _ => None,
                };
                let element = |(i, c): (usize, f64)| {
                    let zero = zeros.as_ref().map_or(0.0, |z| z[i]);
                    rounded(f64::from((c - zero) as f32 * scales[i] as f32), elem)
                };
                Some(codes.into_iter().enumerate().map(element).collect())
            }
            (Function::Concat(axis), parts) => {
                let inner = count(&shape[axis + 1..])?.max(1);
                let mut out = vec![0.0; positions.len()];
                let mut first = 0;
                for part in parts {
                    let length = part.shape[*axis];
                    let mut here = Vec::new();
                    let mut at = Vec::new();
                    for (i, &p) in positions.iter().enumerate() {
                        let (outer, rest) = (p / inner / shape[*axis], p % inner);
                        let along = p / inner % shape[*axis];
                        if (first..first + length).contains(&along) {
                            here.push(i);
                            at.push((outer * length + along - first) * inner + rest);
                        }
                    }
                    for (i, v) in here.into_iter().zip(part.read(&at)?) {
                        out[i] = v;
                    }
                    first += length;
                }
                Some(out)
            }
            _ => None,
        }
    }

    /// What makes two sources the same elements: which bytes they are and what is done to them.
    fn key(&self, out: &mut Vec<u64>) {
        match self {
            Source::Stored(c) => {
                let bytes = c.bytes().map(|b| &b[..]).unwrap_or_default();
                out.extend([0, c.elem as u64, bytes.len() as u64]);
                if bytes.len() <= BY_CONTENT && !c.learned {
                    out.extend(bytes.iter().map(|&b| u64::from(b)));
                } else {
                    out.push(bytes.as_ptr() as u64);
                }
            }
            Source::Computed { f, elem, shape, operands, .. } => {
                let f = match f {
                    Function::Cast => [1, 0, 0],
                    Function::Binary(f) => [2, *f as u64, 0],
                    Function::Dequantize { axis, block, .. } => [3, *axis as u64, *block as u64],
                    Function::Concat(axis) => [4, *axis as u64, 0],
                };
                out.extend(f);
                out.extend([*elem as u64, shape.len() as u64, operands.len() as u64]);
                out.extend(shape.iter().map(|&d| d as u64));
                for v in operands {
                    out.extend([v.shape.len() as u64, v.offset as u64]);
                    for (&d, &s) in v.shape.iter().zip(&v.strides) {
                        out.extend([d as u64, if d == 1 { 0 } else { s as u64 }]);
                    }
                    v.source.key(out);
                }
            }
        }
    }
}

impl View {
    /// A constant as it is: of a number type of at most 32 bits or f64, with elements.
    pub fn of(c: &Const) -> Option<View> {
        let fits = !matches!(c.elem, Elem::I64 | Elem::U64 | Elem::Bool);
        (fits && c.bytes().is_some() && !c.is_empty()).then(|| View {
            elem: c.elem,
            shape: c.shape.clone(),
            strides: row_major(&c.shape),
            offset: 0,
            learned: c.learned,
            range: range(c),
            source: Arc::new(Source::Stored(c.clone())),
        })
    }

    /// Shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Element type.
    pub fn elem(&self) -> Elem {
        self.elem
    }

    /// Whether training produced a constant behind it.
    pub fn learned(&self) -> bool {
        self.learned
    }

    /// What no element exceeds in magnitude, when all are integers, whatever their type.
    pub fn integers(&self) -> Option<f64> {
        self.range.map(|(lo, hi)| lo.abs().max(hi.abs()))
    }

    fn computed(f: Function, elem: Elem, shape: Vec<usize>, operands: Vec<View>) -> Option<View> {
        let size = operands.iter().try_fold(1usize, |a, v| a.checked_add(v.source.size()))?;
        let ranges = || operands.iter().map(|v| v.range).collect::<Option<Vec<_>>>();
        let range = match (&f, ranges().as_deref()) {
            // Within 2^24 every float type but the 16-bit ones holds every integer.
            (Function::Binary(f), Some(&[(a, b), (c, d)])) if !elem.is_half() => match f {
                BinaryFn::Add => Some((a + c, b + d)),
                BinaryFn::Sub => Some((a - d, b - c)),
                _ => None,
            },
            (Function::Concat(_), Some(all)) => {
                Some(all.iter().fold((f64::MAX, f64::MIN), |(lo, hi), &(a, b)| (lo.min(a), hi.max(b))))
            }
            _ => None,
        };
        let range = range.filter(|(lo, hi)| *lo >= -16777216.0 && *hi <= 16777216.0);
        count(&shape).filter(|n| *n > 0 && isize::try_from(*n).is_ok() && size <= SIZE_MAX)?;
        Some(View {
            elem,
            strides: row_major(&shape),
            offset: 0,
            learned: operands.iter().any(|v| v.learned),
            range,
            source: Arc::new(Source::Computed { f, elem, shape: shape.clone(), operands, size }),
            shape,
        })
    }

    /// Whether the elements along an axis are one element, repeated.
    pub fn repeats_along(&self, axis: usize) -> bool {
        self.shape.get(axis).is_some_and(|d| *d > 1) && self.strides.get(axis) == Some(&0)
    }

    /// Whether an element appears more than once.
    fn repeats(&self) -> bool {
        (0..self.shape.len()).any(|axis| self.repeats_along(axis))
    }

    /// Output axis i is axis `perm[i]`.
    pub fn transpose(&self, perm: &[i64]) -> Option<View> {
        let mut seen = vec![false; self.shape.len()];
        let (mut shape, mut strides) = (Vec::new(), Vec::new());
        for &p in perm {
            let p = usize::try_from(p).ok().filter(|p| seen.get(*p) == Some(&false))?;
            seen[p] = true;
            shape.push(self.shape[p]);
            strides.push(self.strides[p]);
        }
        (shape.len() == self.shape.len()).then(|| View { shape, strides, ..self.clone() })
    }

    /// The same elements in another shape, where that is a strided view too.
    pub fn reshape(&self, to: &[usize]) -> Option<View> {
        if count(to)? != count(&self.shape)? {
            return None;
        }
        let old: Vec<(usize, isize)> =
            self.shape.iter().copied().zip(self.strides.iter().copied()).filter(|(d, _)| *d != 1).collect();
        let mut strides = vec![0isize; to.len()];
        let (mut i, mut j) = (0, 0);
        while i < old.len() {
            // The shortest runs of old and new axes with as many elements.
            let (mut a, mut b) = (i + 1, j + 1);
            let (mut had, mut want) = (old[i].0, *to.get(j)?);
            while had != want {
                if want < had {
                    want *= *to.get(b)?;
                    b += 1;
                } else {
                    had *= old.get(a)?.0;
                    a += 1;
                }
            }
            for pair in old[i..a].windows(2) {
                if pair[0].1 != pair[1].1.checked_mul(isize::try_from(pair[1].0).ok()?)? {
                    return None;
                }
            }
            let mut step = old[a - 1].1;
            for at in (j..b).rev() {
                strides[at] = step;
                step = step.checked_mul(isize::try_from(to[at]).ok()?)?;
            }
            (i, j) = (a, b);
        }
        Some(View { shape: to.to_vec(), strides, ..self.clone() })
    }

    /// `count` elements along an axis, from `start` on, `step` apart; the axis stays.
    pub fn slice(&self, axis: usize, start: usize, step: isize, count: usize) -> Option<View> {
        let length = *self.shape.get(axis)?;
        let last = isize::try_from(count.checked_sub(1)?).ok()?.checked_mul(step)?;
        let last = start.checked_add_signed(last)?;
        if start >= length || last >= length {
            return None;
        }
        let mut view = self.clone();
        let stride = self.strides[axis];
        view.offset = self.offset.checked_add_signed(stride.checked_mul(isize::try_from(start).ok()?)?)?;
        view.strides[axis] = stride.checked_mul(step)?;
        view.shape[axis] = count;
        Some(view)
    }

    /// Repeated along axes of length 1, and along new first axes, so that it has a shape.
    pub fn broadcast(&self, to: &[usize]) -> Option<View> {
        let new = to.len().checked_sub(self.shape.len())?;
        let mut strides = vec![0; to.len()];
        for (i, (&d, &s)) in self.shape.iter().zip(&self.strides).enumerate() {
            match d {
                _ if d == to[new + i] => strides[new + i] = s,
                1 => {}
                _ => return None,
            }
        }
        count(to).filter(|n| *n > 0 && isize::try_from(*n).is_ok())?;
        Some(View { shape: to.to_vec(), strides, ..self.clone() })
    }

    /// As elements of another type, as [`pfmc_ir::op::Op::Cast`] converts: to floats, and of narrower
    /// integers to i32.
    pub fn cast(&self, to: Elem) -> Option<View> {
        if self.elem == to || holds(to, self.elem) {
            return Some(View { elem: to, ..self.clone() });
        }
        if self.repeats() || !to.is_float() {
            return None;
        }
        View::computed(Function::Cast, to, self.shape.clone(), vec![self.clone()])
    }

    /// The same elements in row-major order, so that it has a view of every other shape.
    pub fn packed(&self) -> Option<View> {
        if self.repeats() {
            return None;
        }
        let view = View::computed(Function::Cast, self.elem, self.shape.clone(), vec![self.clone()])?;
        Some(View { range: self.range, ..view })
    }

    /// Sum, difference, product or (of floats) quotient with broadcasting, where one operand has the
    /// result's shape.
    pub fn binary(f: BinaryFn, a: &View, b: &View) -> Option<View> {
        let elem = a.elem();
        let takes = match f {
            BinaryFn::Add | BinaryFn::Sub | BinaryFn::Mul => elem.is_float() || elem == Elem::I32,
            BinaryFn::Div => elem.is_float(),
            _ => false,
        };
        let shape = broadcast(&a.shape, &b.shape).ok()?;
        let whole = [a, b].iter().any(|v| v.shape == shape && !v.repeats());
        if !takes || b.elem() != elem || !whole {
            return None;
        }
        let operands = vec![a.broadcast(&shape)?, b.broadcast(&shape)?];
        View::computed(Function::Binary(f), elem, shape, operands)
    }

    /// See [`pfmc_ir::op::Op::Dequantize`].
    pub fn dequantize(
        x: &View,
        scale: &View,
        zero: Option<&View>,
        (axis, block): (i64, i64),
        to: Elem,
    ) -> Option<View> {
        let by = Granularity::new(&x.shape, &scale.shape, axis, block).ok()?;
        let fits = zero.is_none_or(|z| count(&z.shape) == count(&scale.shape) && z.elem() == x.elem());
        if !fits || !to.is_float() || x.repeats() {
            return None;
        }
        let operands: Vec<View> = [x, scale].into_iter().chain(zero).cloned().collect();
        View::computed(Function::Dequantize { by, axis, block }, to, x.shape.clone(), operands)
    }

    /// Joined along an axis.
    pub fn concat(parts: &[&View], axis: usize) -> Option<View> {
        let first = parts.first()?;
        let mut shape = first.shape.clone();
        *shape.get_mut(axis)? = 0;
        for part in parts {
            let mut rest = part.shape.clone();
            let length = std::mem::replace(rest.get_mut(axis)?, shape[axis]);
            if rest != shape || part.elem() != first.elem() || part.repeats() {
                return None;
            }
            shape[axis] = shape[axis].checked_add(length)?;
        }
        let parts = parts.iter().map(|v| (*v).clone()).collect();
        View::computed(Function::Concat(axis), first.elem(), shape, parts)
    }

    /// The elements at positions in row-major order of the view.
    fn read(&self, positions: &[usize]) -> Option<Vec<f64>> {
        if self.strides == row_major(&self.shape) {
            return match self.offset {
                0 => self.source.read(positions),
                by => self.source.read(&positions.iter().map(|p| p + by).collect::<Vec<_>>()),
            };
        }
        let axes: Vec<(usize, isize)> =
            self.shape.iter().copied().zip(self.strides.iter().copied()).rev().collect();
        let locate = |&p: &usize| {
            let (mut rest, mut at) = (p, 0isize);
            for &(d, s) in &axes {
                at = at.checked_add(s.checked_mul((rest % d) as isize)?)?;
                rest /= d;
            }
            self.offset.checked_add_signed(at)
        };
        self.source.read(&positions.iter().map(locate).collect::<Option<Vec<_>>>()?)
    }

    /// As a matrix `[k, n]`, when it has two axes of fitting length along which nothing repeats.
    pub fn matrix(&self) -> Option<MatrixView> {
        let ([k, n], [k_stride, n_stride]) = (&self.shape[..], &self.strides[..]) else { return None };
        if self.repeats() {
            return None;
        }
        let mut ends = [self.offset; 2];
        for (&length, &stride) in self.shape.iter().zip(&self.strides) {
            let span = isize::try_from(length.checked_sub(1)?).ok()?.checked_mul(stride)?;
            let end = &mut ends[usize::from(span > 0)];
            *end = end.checked_add_signed(span)?;
        }
        ends.iter().all(|&e| count(self.source.shape()).is_some_and(|len| e < len)).then_some(())?;
        Some(MatrixView {
            source: self.source.clone(),
            k: u32::try_from(*k).ok()?,
            n: u32::try_from(*n).ok()?,
            k_stride: if *k == 1 { 0 } else { *k_stride },
            n_stride: if *n == 1 { 0 } else { *n_stride },
            offset: self.offset,
            factors: [None, None],
        })
    }
}

impl MatrixView {
    /// With rows and columns multiplied by factors, one each.
    pub fn scaled(&self, rows: Option<&[f32]>, columns: Option<&[f32]>) -> MatrixView {
        let of = |known: &Option<Arc<[f32]>>, more: Option<&[f32]>| match (known, more) {
            (Some(known), Some(more)) => Some(known.iter().zip(more).map(|(a, b)| a * b).collect()),
            (known, more) => more.map(Arc::from).or_else(|| known.clone()),
        };
        let factors = [of(&self.factors[0], rows), of(&self.factors[1], columns)];
        MatrixView { factors, ..self.clone() }
    }

    /// The same for two matrices of the same elements: the bytes they come from, and how.
    pub(crate) fn key(&self) -> Vec<u64> {
        let mut out = vec![
            u64::from(self.k),
            u64::from(self.n),
            self.k_stride as u64,
            self.n_stride as u64,
            self.offset as u64,
        ];
        self.source.key(&mut out);
        out
    }

    /// Name of the tensor its elements come from: of several, the first one that was learned.
    pub fn tensor(&self) -> Option<&str> {
        self.source.learned()?.origin.tensor.as_deref()
    }

    /// Elements of a rectangle, `[k][n]`; `None` when it is outside.
    pub fn read(&self, k: Range<u32>, n: Range<u32>) -> Option<Vec<f32>> {
        if k.end > self.k || n.end > self.n {
            return None;
        }
        let position = |row: u32, column: u32| {
            let at = self.k_stride * row as isize + self.n_stride * column as isize;
            self.offset.checked_add_signed(at)
        };
        // Walk in the order of the bytes, whichever way the view runs.
        let by_rows = self.n_stride.unsigned_abs() <= self.k_stride.unsigned_abs();
        let mut positions = Vec::with_capacity(k.len() * n.len());
        if by_rows {
            for row in k.clone() {
                for column in n.clone() {
                    positions.push(position(row, column)?);
                }
            }
        } else {
            for column in n.clone() {
                for row in k.clone() {
                    positions.push(position(row, column)?);
                }
            }
        }
        let values = self.source.read(&positions)?;
        let mut out: Vec<f32>;
        if by_rows {
            out = values.into_iter().map(|v| v as f32).collect();
        } else {
            out = vec![0f32; values.len()];
            for (i, v) in values.into_iter().enumerate() {
                out[i % k.len() * n.len() + i / k.len()] = v as f32;
            }
        }
        if let Some(rows) = &self.factors[0] {
            for (row, by) in out.chunks_exact_mut(n.len().max(1)).zip(rows.get(k.start as usize..)?) {
                row.iter_mut().for_each(|v| *v *= by);
            }
        }
        if let Some(columns) = &self.factors[1] {
            let columns = columns.get(n.start as usize..n.end as usize)?;
            for row in out.chunks_exact_mut(n.len().max(1)) {
                row.iter_mut().zip(columns).for_each(|(v, by)| *v *= by);
            }
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pfmc_ir::eval::eval;
    use pfmc_ir::op::Op;
    use pfmc_ir::origin::Origin;
    use pfmc_ir::random::Random;
    use pfmc_ir::tensor::Tensor;

    fn ints(values: &[usize]) -> Tensor {
        Tensor::vector(values.iter().map(|&v| v as i64).collect())
    }

    fn same(view: &View, t: &Tensor) {
        assert_eq!((view.shape(), view.elem()), (t.shape(), t.elem()));
        let positions: Vec<usize> = (0..t.len()).collect();
        let want = eval(&Op::Cast { to: Elem::F64 }, std::slice::from_ref(t)).unwrap().remove(0);
        assert_eq!(view.read(&positions).unwrap(), want.as_slice::<f64>().unwrap());
    }

    /// One random step on a view and on its tensor; `None` when it is no view.
    fn step(r: &mut Random, v: &View, t: &Tensor) -> Option<(View, Tensor)> {
        let rank = t.rank();
        let one = |op: Op, args: &[Tensor]| eval(&op, args).unwrap().remove(0);
        match r.below(7) {
            0 => {
                let mut perm: Vec<i64> = (0..rank as i64).collect();
                for i in (1..rank).rev() {
                    perm.swap(i, r.below(i + 1));
                }
                Some((v.transpose(&perm)?, one(Op::Transpose { perm }, std::slice::from_ref(t))))
            }
            1 => {
                // Cuts the number of elements into random factors.
                let (mut rest, mut shape) = (t.len(), Vec::new());
                while rest > 1 && shape.len() < 4 {
                    let factors: Vec<usize> = (1..=rest).filter(|f| rest.is_multiple_of(*f)).collect();
                    shape.push(factors[r.below(factors.len())]);
                    rest /= shape.last().unwrap();
                }
                shape.push(rest);
                let to = Op::Reshape { allow_zero: false };
                Some((v.reshape(&shape)?, one(to, &[t.clone(), ints(&shape)])))
            }
            2 if rank > 0 => {
                let axis = r.below(rank);
                let length = t.shape()[axis];
                let (a, b, by) = (r.below(length), r.below(length), 1 + r.below(3));
                let (step, count) =
                    if a <= b { (by as i64, (b - a) / by + 1) } else { (-(by as i64), (a - b) / by + 1) };
                let end = if a <= b { b as i64 + 1 } else { b as i64 - 1 };
                // Before the first element: far below, since -1 is the last one.
                let end = if end < 0 { i64::MIN + 1 } else { end };
                let list = |v: i64| Tensor::vector(vec![v]);
                let args = [t.clone(), list(a as i64), list(end), list(axis as i64), list(step)];
                Some((v.slice(axis, a, step as isize, count)?, one(Op::Slice {}, &args)))
            }
            3 => {
                let to = [Elem::F32, Elem::F16, Elem::BF16, Elem::F64][r.below(4)];
                Some((v.cast(to)?, one(Op::Cast { to }, std::slice::from_ref(t))))
            }
            4 => {
                let f = [BinaryFn::Add, BinaryFn::Sub, BinaryFn::Mul][r.below(3)];
                Some((View::binary(f, v, v)?, one(Op::Binary(f), &[t.clone(), t.clone()])))
            }
            5 if rank > 0 && t.len() < 200 => {
                let axis = r.below(rank);
                let op = Op::Concat { axis: axis as i64 };
                Some((View::concat(&[v, v], axis)?, one(op, &[t.clone(), t.clone()])))
            }
            6 if rank > 0 && t.elem() != Elem::F64 => {
                let (axis, block) = (r.below(rank), r.below(4));
                let mut shape = t.shape().to_vec();
                if block == 0 {
                    shape = vec![shape[axis]]
                } else {
                    shape[axis] = shape[axis].div_ceil(block)
                }
                let n = count(&shape).unwrap();
                let scale = Tensor::new(shape, (0..n).map(|_| 0.5 + r.below(4) as f32).collect()).unwrap();
                let place = (axis as i64, block as i64);
                let view = View::of(&Const::derived(&scale, Origin::default(), false)).unwrap();
                let op = Op::Dequantize { axis: place.0, block: place.1, to: Elem::F16 };
                Some((View::dequantize(v, &view, None, place, Elem::F16)?, one(op, &[t.clone(), scale])))
            }
            _ => None,
        }
    }

    #[test]
    fn views_are_what_the_operations_compute() {
        let (mut r, mut steps) = (Random(5), 0);
        for _ in 0..400 {
            let shape: Vec<usize> = (0..1 + r.below(4)).map(|_| 1 + r.below(5)).collect();
            let n = count(&shape).unwrap();
            let bytes: Vec<u8> = (0..n.div_ceil(2)).map(|_| r.below(256) as u8).collect();
            let mut t = match r.below(3) {
                0 => Tensor::from_le_bytes(Elem::I4, shape, &bytes).unwrap(),
                1 => Tensor::new(shape, (0..n).map(|i| i as i8).collect()).unwrap(),
                _ => Tensor::new(shape, (0..n).map(|i| i as f32 / 3.0).collect()).unwrap(),
            };
            // The odd nibble after the last code is no element.
            t = Tensor::from_le_bytes(t.elem(), t.shape().to_vec(), &t.to_le_bytes()).unwrap();
            let mut v = View::of(&Const::derived(&t, Origin::default(), true)).unwrap();
            for _ in 0..8 {
                if let Some((next, tensor)) = step(&mut r, &v, &t) {
                    same(&next, &tensor);
                    (v, t) = (next, tensor);
                    steps += 1;
                }
            }
            if let Some(m) = v.matrix() {
                let part = m.read(0..m.k, m.n / 2..m.n).unwrap();
                let all = m.read(0..m.k, 0..m.n).unwrap();
                let rows = all.chunks_exact(m.n as usize).flat_map(|row| &row[m.n as usize / 2..]);
                assert!(rows.eq(&part));
                assert!(m.read(0..m.k + 1, 0..m.n).is_none());
            }
        }
        assert!(steps > 1000, "{steps}");
    }

    #[test]
    fn a_small_file_makes_no_large_matrix() {
        let c = Const::derived(&Tensor::new(vec![1, 1], vec![1f32]).unwrap(), Origin::default(), true);
        let wide = View::of(&c).unwrap().broadcast(&[1 << 20, 1 << 20]).unwrap();
        assert!(wide.matrix().is_none() && wide.cast(Elem::F16).is_none());
        let column = View::of(&c).unwrap().broadcast(&[1 << 20, 1]).unwrap();
        assert!(View::binary(BinaryFn::Add, &column, &wide).is_none());
        // Joined with itself again and again it stays below 64 copies.
        let mut v = View::of(&c).unwrap();
        let mut times = 0;
        while let Some(next) = View::concat(&[&v, &v], 0) {
            v = next;
            times += 1;
        }
        assert!(times < 6, "{times}");
    }
}
