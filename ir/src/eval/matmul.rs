//! Matrix products.
//!
//! Every element of a product is one sum in ascending order of k, by fused multiply-adds for floats
//! and wrapping for integers. So a row's result depends neither on the other rows, nor on how the
//! work is divided, nor on the processor.

use rayon::prelude::*;

use super::panels::{Panels, THIN};
use super::walk::Walk;
use super::{Number, for_elem, layout, pieces, strides, zeros};
use crate::tensor::{Element, Tensor, broadcast};

/// Rows of the innermost block.
const MR: usize = 4;
/// Columns of the innermost block.
const NR: usize = 16;
/// Depth that is packed at once.
const KC: usize = 256;
/// Columns of a task of integers.
pub(super) const COLUMNS: usize = 128;
/// Multiply-adds below which dividing the work does not pay.
pub(super) const SERIAL: usize = 1 << 18;
/// Most rows and columns of a task.
const TASK: (usize, usize) = (256, 512);
/// Tasks a thread into which a product is divided, if it is large enough.
const TASKS: usize = 3;

/// Numbers with a multiply-add.
pub(super) trait MulAdd: Element + Default {
    /// `self + a * b`, rounded once.
    fn mul_add(self, a: Self, b: Self) -> Self;
    /// Adds a rectangle of a product to its output, with the widest instructions there are.
    fn add_product(product: Rectangle<'_, '_, Self>) {
        pulp::Arch::new().dispatch(product);
    }
}

macro_rules! mul_add {
    ($($t:ty, $acc:ident, $a:ident, $b:ident => $e:expr $(, $own:item)?;)*) => {$(
        impl MulAdd for $t {
            $($own)?
            #[inline(always)]
            fn mul_add(self, $a: Self, $b: Self) -> Self {
                let $acc = self;
                $e
            }
        }
    )*};
}
mul_add!(
    f32, acc, a, b => a.mul_add(b, acc), fn add_product(product: Rectangle<'_, '_, f32>) {
        pulp::Arch::new().dispatch(Panels(product));
    };
    f64, acc, a, b => a.mul_add(b, acc);
    i32, acc, a, b => acc.wrapping_add(a.wrapping_mul(b));
    i64, acc, a, b => acc.wrapping_add(a.wrapping_mul(b));
);

/// The right operand: element (k, n) is `data[k * row + n * column]`.
#[derive(Clone, Copy)]
pub(super) struct Right<'a, T> {
    pub(super) data: &'a [T],
    pub(super) row: usize,
    pub(super) column: usize,
}

/// A rectangle of a product: row r of the left operand is the `k` elements from `a[r * step]` on,
/// `out` holds the rows of the result, and its first column is column `first` of `b`. Adds to what
/// `out` holds.
pub(super) struct Rectangle<'a, 'o, T> {
    pub(super) a: &'a [T],
    pub(super) step: usize,
    pub(super) b: Right<'a, T>,
    pub(super) k: usize,
    pub(super) first: usize,
    pub(super) out: &'a mut [&'o mut [T]],
}

impl<T: MulAdd> Rectangle<'_, '_, T> {
    /// Computes it.
    pub(super) fn compute(mut self) {
        // The step between rows of a right operand of one row says nothing, and may be shorter than the row.
        if self.k == 1 {
            self.b.row = self.b.row.max(self.out.first().map_or(0, |row| row.len()));
        }
        T::add_product(self);
    }

    #[inline(always)]
    fn thin(self) {
        let Rectangle { a, step, b, k, first, out } = self;
        let n = out.first().map_or(0, |row| row.len());
        for depth in 0..k {
            let b = &b.data[depth * b.row + first..][..n];
            for (r, row) in out.iter_mut().enumerate() {
                let a = a[r * step + depth];
                for (o, &b) in row.iter_mut().zip(b) {
                    *o = o.mul_add(a, b);
                }
            }
        }
    }

    #[inline(always)]
    fn packed(self) {
        let Rectangle { a, step, b, k, first, out } = self;
        let n = out.first().map_or(0, |row| row.len());
        let depths = k.min(KC);
        let mut right = vec![[T::default(); NR]; depths * n.div_ceil(NR)];
        let mut left = vec![[T::default(); MR]; depths];
        for from in (0..k).step_by(KC) {
            let depths = (k - from).min(KC);
            for (p, panel) in right.chunks_exact_mut(depths).take(n.div_ceil(NR)).enumerate() {
                let columns = (n - p * NR).min(NR);
                for (d, row) in panel.iter_mut().enumerate() {
                    let at = (from + d) * b.row + (first + p * NR) * b.column;
                    if b.column == 1 {
                        row[..columns].copy_from_slice(&b.data[at..at + columns]);
                    } else {
                        for (j, r) in row[..columns].iter_mut().enumerate() {
                            *r = b.data[at + j * b.column];
                        }
                    }
                }
            }
            for (block, rows) in out.chunks_mut(MR).enumerate() {
                let left = &mut left[..depths];
                for r in 0..rows.len() {
                    let a = &a[(block * MR + r) * step + from..][..depths];
                    for (l, &a) in left.iter_mut().zip(a) {
                        l[r] = a;
                    }
                }
                for (p, panel) in right.chunks_exact(depths).take(n.div_ceil(NR)).enumerate() {
                    let range = p * NR..(p * NR + NR).min(n);
                    let mut acc = [[T::default(); NR]; MR];
                    for (acc, row) in acc.iter_mut().zip(rows.iter()) {
                        acc[..range.len()].copy_from_slice(&row[range.clone()]);
                    }
                    block_product(left, panel, &mut acc);
                    for (acc, row) in acc.iter().zip(rows.iter_mut()) {
                        row[range.clone()].copy_from_slice(&acc[..range.len()]);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn block_product<T: MulAdd>(left: &[[T; MR]], right: &[[T; NR]], out: &mut [[T; NR]; MR]) {
    let mut acc = *out;
    for (a, b) in left.iter().zip(right) {
        for r in 0..MR {
            for j in 0..NR {
                acc[r][j] = acc[r][j].mul_add(a[r], b[j]);
            }
        }
    }
    *out = acc;
}

impl<T: MulAdd> pulp::WithSimd for Rectangle<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        if self.out.len() < MR && self.b.column == 1 { self.thin() } else { self.packed() }
    }
}

/// Cuts `out`, `[rows][n]`, into rectangles of at most `rows` x `columns`: first row, first column
/// and the pieces of rows.
pub(super) fn rectangles<T>(
    out: &mut [T],
    n: usize,
    rows: usize,
    columns: usize,
) -> Vec<(usize, usize, Vec<&mut [T]>)> {
    let mut all = Vec::new();
    for (i, band) in out.chunks_mut(rows.saturating_mul(n).max(1)).enumerate() {
        let first = all.len();
        all.extend((0..n.div_ceil(columns)).map(|j| (i * rows, j * columns, Vec::new())));
        for row in band.chunks_mut(n) {
            for (j, piece) in row.chunks_mut(columns).enumerate() {
                all[first + j].2.push(piece);
            }
        }
    }
    all
}

/// Rows and columns of a task of a product with `m` x `n` results. Results do not depend on them.
fn task(m: usize, n: usize) -> (usize, usize) {
    // Few rows: the right operand is read in long runs.
    let most = if m <= THIN { n } else { TASK.1 };
    let tasks = TASKS * rayon::current_num_threads();
    let columns = n.div_ceil(tasks).next_multiple_of(64).min(most);
    if m <= THIN {
        return (m, columns);
    }
    let bands = tasks.div_ceil(n.div_ceil(columns));
    (m.div_ceil(bands).next_multiple_of(8).min(TASK.0), columns)
}

/// Adds the product of `k` columns of the left operand, whose row r begins at `a[r * step]`, and `b`
/// `[k][n]` to `out` `[m][n]`.
pub(super) fn product<T: MulAdd>(a: &[T], step: usize, b: Right<'_, T>, k: usize, n: usize, out: &mut [T]) {
    if out.is_empty() || k == 0 {
        return;
    }
    let compute = |(row, first, mut out): (usize, usize, Vec<&mut [T]>)| {
        Rectangle { a: &a[row * step..], step, b, k, first, out: &mut out }.compute();
    };
    let m = out.len() / n;
    if out.len().saturating_mul(k) <= SERIAL {
        rectangles(out, n, m, n).into_iter().for_each(compute);
    } else {
        let (rows, columns) = task(m, n);
        rectangles(out, n, rows, columns).into_par_iter().for_each(compute);
    }
}

/// `x` `[rows][k]` times `w` `[k][n]`: `[rows][n]`.
///
/// # Panics
/// When a length does not fit.
pub fn product_f32(x: &[f32], w: &[f32], rows: usize, k: usize, n: usize) -> Vec<f32> {
    assert!(x.len() == rows * k && w.len() == k * n);
    let mut out = vec![0.0; rows * n];
    product(x, k, Right { data: w, row: n, column: 1 }, k, n, &mut out);
    out
}

/// An operand of a product: a tensor, or one with its axes permuted, which need not be stored.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    /// The elements.
    pub(crate) tensor: &'a Tensor,
    /// As in [`crate::op::Op::Transpose`]; none for the tensor as it is.
    pub(crate) perm: Option<&'a [i64]>,
}

impl Operand<'_> {
    /// Shape, and elements between neighbours along each axis.
    fn layout(&self) -> Result<(Vec<usize>, Vec<usize>), String> {
        let (shape, by) = (self.tensor.shape(), strides(self.tensor.shape()));
        let Some(perm) = self.perm else { return Ok((shape.to_vec(), by)) };
        layout::permutation(perm, shape.len())?;
        let turned = |x: &[usize]| perm.iter().map(|&p| x[p as usize]).collect();
        Ok((turned(shape), turned(&by)))
    }
}

/// [`crate::op::Op::MatMul`]: `[.., m, k]` times `[.., k, n]`; a rank-1 operand is a row on the left
/// and a column on the right, and its axis is dropped.
pub(super) fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor, String> {
    matmul_of(Operand { tensor: a, perm: None }, Operand { tensor: b, perm: None })
}

/// As [`matmul`], of operands whose axes may be permuted. Only a permuted left operand whose rows do
/// not lie in one piece, or not evenly where the right operand is a single matrix, is copied.
pub(crate) fn matmul_of(left: Operand<'_>, right: Operand<'_>) -> Result<Tensor, String> {
    let (a, b) = (left.tensor, right.tensor);
    if a.elem() != b.elem() {
        return Err(format!("operands are {} and {}", a.elem(), b.elem()));
    }
    let ((a_shape, a_by), (b_shape, b_by)) = (left.layout()?, right.layout()?);
    let mismatch = || format!("shapes {a_shape:?} and {b_shape:?} have no product");
    let (a_batch, m, k) = match a_shape[..] {
        [] => return Err(mismatch()),
        [k] => (&[][..], None, k),
        [ref batch @ .., m, k] => (batch, Some(m), k),
    };
    let (b_batch, b_k, n) = match b_shape[..] {
        [] => return Err(mismatch()),
        [k] => (&[][..], k, None),
        [ref batch @ .., k, n] => (batch, k, Some(n)),
    };
    if k != b_k {
        return Err(mismatch());
    }
    let batch = broadcast(a_batch, b_batch).map_err(|_| mismatch())?;
    let single = b_batch.iter().all(|&d| d == 1);
    if let Some(perm) = left.perm
        && (k > 1 && a_by.last() != Some(&1) || single && a_batch.iter().any(|&d| d != 1))
    {
        let tensor = layout::transpose(a, perm)?;
        return matmul_of(Operand { tensor: &tensor, perm: None }, right);
    }
    let axes = batch.iter().enumerate().map(|(i, &len)| {
        let step = |shape: &[usize], by: &[usize]| match (i + shape.len()).checked_sub(batch.len()) {
            Some(d) if shape[d] != 1 => by[d] as isize,
            _ => 0,
        };
        (len, [step(a_batch, &a_by), step(b_batch, &b_by)])
    });
    let walk = Walk::new(axes, [0; 2]);
    let shape: Vec<usize> = batch.iter().copied().chain(m).chain(n).collect();
    // The steps of rows and columns; those of axes that are not there are never used.
    let step = if m.is_some() { a_by[a_by.len() - 2] } else { k };
    let (row, column) = match b_by[..] {
        [.., row, column] => (row, column),
        _ => (1, 1),
    };
    let (m, n) = (m.unwrap_or(1), n.unwrap_or(1));
    for_elem!(a, [F32 f32, F64 f64, I64 i64, I32 i32], T => {
        let (left, right) = (a.as_slice::<T>()?, b.as_slice::<T>()?);
        let mut out = zeros::<T>(&shape)?;
        if !out.is_empty() && k > 0 {
            if single {
                let step = if left.len() == m * k { step } else { k };
                product(left, step, Right { data: right, row, column }, k, n, &mut out);
            } else {
                pieces(&mut out, m * n, &|start, out| {
                    let [i, j] = walk.locate(start / (m * n));
                    product(&left[i..], step, Right { data: &right[j..], row, column }, k, n, out);
                });
            }
        }
        Tensor::new(shape, out)
    })
}

/// [`crate::op::Op::Det`]: by elimination with the largest pivot of a column, in f64.
pub(super) fn det(x: &Tensor) -> Result<Tensor, String> {
    let (batch, n) = match x.shape() {
        [batch @ .., m, n] if m == n => (batch, *n),
        other => return Err(format!("{other:?} are no square matrices")),
    };
    let size = n.checked_mul(n).ok_or("too many elements")?;
    for_elem!(x, [F32 f32, F64 f64], T => {
        let from = x.as_slice::<T>()?;
        super::build(batch.to_vec(), |start, out: &mut [T]| {
            let mut a: Vec<f64> = Vec::with_capacity(size);
            for (i, o) in out.iter_mut().enumerate() {
                a.clear();
                a.extend(from[(start + i) * size..][..size].iter().map(|v| v.as_f64()));
                *o = T::narrow(eliminate(&mut a, n));
            }
        })
    })
}

fn eliminate(a: &mut [f64], n: usize) -> f64 {
    let mut det = 1.0;
    for c in 0..n {
        let pivot = (c + 1..n).fold(c, |p, r| if a[r * n + c].abs() > a[p * n + c].abs() { r } else { p });
        if pivot != c {
            (0..n).for_each(|k| a.swap(c * n + k, pivot * n + k));
            det = -det;
        }
        let head = a[c * n + c];
        det *= head;
        if head == 0.0 {
            return det;
        }
        for r in c + 1..n {
            let factor = a[r * n + c] / head;
            for k in c + 1..n {
                a[r * n + k] -= factor * a[c * n + k];
            }
        }
    }
    det
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::op::Op;

    fn product_of(a: &Tensor, b: &Tensor) -> Tensor {
        run(Op::MatMul {}, &[a.clone(), b.clone()])
    }

    #[test]
    fn products_equal_sums_over_k_for_every_shape_of_block() {
        // Multiples of 1/8 up to 4: every sum of up to 600 products of two is exact in f32.
        let mut numbers = Numbers(3);
        for (m, k, n) in [
            (1, 1, 1),
            (1, 300, 140),
            (3, 17, 129),
            (4, 16, 16),
            (5, 257, 17),
            (7, 600, 31),
            (130, 33, 260),
            (129, 3, 2),
            (64, 256, 128),
        ] {
            let (a, b) = (numbers.eighths(m * k), numbers.eighths(k * n));
            let got = product_f32(&a, &b, m, k, n);
            for i in 0..m {
                for j in 0..n {
                    let want: f64 = (0..k).map(|d| f64::from(a[i * k + d]) * f64::from(b[d * n + j])).sum();
                    assert_eq!(f64::from(got[i * n + j]), want, "{m} {k} {n} at {i}, {j}");
                }
            }
        }
        assert_eq!(product_f32(&[], &[], 2, 0, 3), [0.0; 6]);
        assert_eq!(product_f32(&[], &[1.0], 0, 1, 1), [0f32; 0]);
    }

    #[test]
    fn a_right_operand_of_one_row_may_be_a_turned_column() {
        let mut numbers = Numbers(5);
        for (m, n) in [(1, 1), (1, 200), (3, 31), (4, 32), (60, 33), (130, 260)] {
            let (a, w) = (numbers.eighths(m), numbers.eighths(n));
            let want: Vec<f32> = a.iter().flat_map(|x| w.iter().map(move |y| x * y)).collect();
            let [a, w] = [(m, a), (n, w)].map(|(rows, v)| Tensor::new(vec![rows, 1], v).unwrap());
            let turned = Operand { tensor: &w, perm: Some(&[1, 0]) };
            let got = matmul_of(Operand { tensor: &a, perm: None }, turned).unwrap();
            assert_eq!(got, Tensor::new(vec![m, n], want).unwrap(), "{m} x {n}");
        }
    }

    #[test]
    fn each_row_is_the_fused_sum_in_ascending_order_whatever_the_other_rows() {
        let (m, k, n) = (9, 700, 150);
        let a: Vec<f32> = (0..m * k).map(|i| ((i * 7919 % 1013) as f32 - 506.0) / 300.0).collect();
        let b: Vec<f32> = (0..k * n).map(|i| ((i * 6007 % 997) as f32 - 498.0) / 7.0).collect();
        let all = product_f32(&a, &b, m, k, n);
        for i in 0..m {
            let alone = product_f32(&a[i * k..(i + 1) * k], &b, 1, k, n);
            assert_eq!(alone, all[i * n..(i + 1) * n]);
            for j in 0..n {
                let sum = (0..k).fold(0f32, |s, d| a[i * k + d].mul_add(b[d * n + j], s));
                assert_eq!(sum.to_bits(), alone[j].to_bits());
            }
        }
    }

    #[test]
    fn leading_axes_broadcast() {
        let mut numbers = Numbers(4);
        for (a, b) in [
            (&[2, 3, 4, 5][..], &[5, 6][..]),
            (&[4, 5], &[3, 5, 6]),
            (&[2, 1, 4, 5], &[3, 5, 2]),
            (&[2, 3, 1, 5], &[1, 1, 5, 2]),
            (&[2, 3, 4, 5], &[2, 3, 5, 6]),
        ] {
            let (a, b) = (numbers.tensor(a), numbers.tensor(b));
            let out = product_of(&a, &b);
            let k = a.shape()[a.rank() - 1];
            for (i, &v) in out.as_slice::<f32>().unwrap().iter().enumerate() {
                let p = place(out.shape(), i);
                let (row, column) = (p[p.len() - 2], p[p.len() - 1]);
                let sum = |d: usize| {
                    let (mut left, mut right) = (p.clone(), p.clone());
                    let end = p.len();
                    (left[end - 2], left[end - 1]) = (row, d);
                    (right[end - 2], right[end - 1]) = (d, column);
                    at::<f32>(&a, &left) * at::<f32>(&b, &right)
                };
                assert_eq!(v, (0..k).map(sum).sum::<f32>());
            }
        }
    }

    #[test]
    fn permuted_operands_equal_stored_transposes() {
        // Heads of 3 in rows of 4 x 3, as in attention, and a weight stored by columns.
        let mut numbers = Numbers(6);
        let (q, k) = (numbers.tensor(&[2, 70, 4, 3]), numbers.tensor(&[2, 50, 4, 3]));
        let (x, w) = (numbers.tensor(&[2, 9, 33]), numbers.tensor(&[45, 33]));
        for (a, pa, b, pb) in [
            (&q, Some(&[0, 2, 1, 3][..]), &k, Some(&[0, 2, 3, 1][..])),
            (&q, Some(&[0, 2, 3, 1]), &q, Some(&[0, 2, 1, 3])),
            (&x, None, &w, Some(&[1, 0])),
            (&x, Some(&[1, 0, 2]), &w, Some(&[1, 0])),
        ] {
            let stored = |t: &Tensor, perm: Option<&[i64]>| match perm {
                Some(perm) => run(Op::Transpose { perm: perm.to_vec() }, std::slice::from_ref(t)),
                None => t.clone(),
            };
            let got = matmul_of(Operand { tensor: a, perm: pa }, Operand { tensor: b, perm: pb });
            assert_eq!(got, Ok(product_of(&stored(a, pa), &stored(b, pb))));
        }
    }

    #[test]
    fn vectors_lose_their_axis_and_other_types_multiply() {
        let (v, m) = (t(&[2], &[1i64, 2]), t(&[2, 3], &[1i64, 2, 3, 4, 5, 6]));
        assert_eq!(product_of(&v, &m), t(&[3], &[9i64, 12, 15]));
        assert_eq!(product_of(&v, &v), Tensor::scalar(5i64));
        assert_eq!(product_of(&m, &t(&[3], &[1i64, 0, -1])), t(&[2], &[-2i64, -2]));
        let big = t(&[1, 2], &[i32::MAX, 1]);
        assert_eq!(product_of(&big, &t(&[2, 1], &[1i32, 1])), t(&[1, 1], &[i32::MIN]));
        let wide = t(&[1, 1], &[0.1f64]);
        assert_eq!(product_of(&wide, &wide), t(&[1, 1], &[0.1f64 * 0.1]));
        assert_eq!(product_of(&t(&[2, 0], &[0f32; 0]), &t(&[0, 2], &[0f32; 0])), t(&[2, 2], &[0f32; 4]));
    }

    #[test]
    fn unfit_operands_are_refused() {
        let (a, b) = (t(&[2, 3], &[0f32; 6]), t(&[2, 3], &[0f32; 6]));
        refused(Op::MatMul {}, &[a.clone(), b], "[2, 3] and [2, 3] have no product");
        refused(Op::MatMul {}, &[Tensor::scalar(1f32), a.clone()], "have no product");
        let (c, d) = (t(&[2, 1, 1], &[0f32; 2]), t(&[3, 1, 1], &[0f32; 3]));
        refused(Op::MatMul {}, &[c, d], "have no product");
        refused(Op::MatMul {}, &[a, t(&[3], &[0i64; 3])], "f32 and i64");
        refused(Op::MatMul {}, &[t(&[1], &[1u8]), t(&[1], &[1u8])], "does not take u8");
    }

    #[test]
    fn determinants_by_hand() {
        let x = t(&[3, 2, 2], &[1f32, 2.0, 3.0, 4.0, 0.0, 1.0, 1.0, 0.0, 1.0, 2.0, 2.0, 4.0]);
        assert_eq!(run(Op::Det {}, &[x]), t(&[3], &[-2f32, -1.0, 0.0]));
        assert_eq!(run(Op::Det {}, &[t(&[0, 0], &[0f32; 0])]), Tensor::scalar(1f32));
        refused(Op::Det {}, &[t(&[2, 3], &[0f32; 6])], "no square matrices");
    }
}
