//! Attention and rotary positions. Scores exist a few rows at a time.

use rayon::prelude::*;

use super::elementwise::Float;
use super::matmul::{Rectangle, Right};
use super::reduce::softmax_line;
use super::walk::Walk;
use super::{CHUNK, Number, for_elem, pieces, zeros};
use crate::elem::Elem;
use crate::tensor::{Tensor, broadcast, count};

/// Most scores one task holds, unless one row has more.
const SCORES: usize = 1 << 16;
/// Most query rows of a task.
const ROWS: usize = 64;

/// [`crate::op::Op::Rotary`].
pub(super) fn rotary(
    x: &Tensor,
    cos: &Tensor,
    sin: &Tensor,
    interleaved: bool,
    dim: i64,
) -> Result<Tensor, String> {
    let Some((&len, lead)) = x.shape().split_last() else { return Err("x has rank 0".into()) };
    let dim = usize::try_from(dim).ok().filter(|d| d.is_multiple_of(2) && *d <= len);
    let dim = dim.ok_or_else(|| format!("dim does not fit x {:?}", x.shape()))?;
    let mut table = [(&[][..], 0); 2];
    for (slot, t) in table.iter_mut().zip([cos, sin]) {
        let fits = t.shape().split_last().filter(|(n, before)| {
            (**n == dim || **n == dim / 2) && broadcast(lead, before).ok().as_deref() == Some(lead)
        });
        let (&n, before) = fits
            .ok_or_else(|| format!("cos or sin {:?} for {dim} elements of x {:?}", t.shape(), x.shape()))?;
        if t.elem() != x.elem() {
            return Err(format!("x is {}, cos or sin is {}", x.elem(), t.elem()));
        }
        *slot = (before, n);
    }
    let [(cos_lead, cos_len), (sin_lead, sin_len)] = table;
    let walk = Walk::broadcast(lead, [cos_lead, sin_lead]);
    // The other element of the pair of element i, and whether i is the first; the place in a table.
    let half = dim / 2;
    let pair =
        |i: usize| if interleaved { (i ^ 1, i.is_multiple_of(2)) } else { ((i + half) % dim, i < half) };
    let place = |i: usize, n: usize| match (n == dim, interleaved) {
        (true, _) => i,
        (false, true) => i / 2,
        (false, false) => i % half,
    };
    for_elem!(float x, T => {
        let (from, cos, sin) = (x.as_slice::<T>()?, cos.as_slice::<T>()?, sin.as_slice::<T>()?);
        let mut out = zeros::<T>(x.shape())?;
        let rows = (CHUNK / len.max(1)).max(1);
        pieces(&mut out, (rows * len).max(1), &|start, out| {
            let from = &from[start..][..out.len()];
            for (r, (out, x)) in out.chunks_exact_mut(len).zip(from.chunks_exact(len)).enumerate() {
                let [c, s] = walk.locate(start / len + r);
                let (c, s) = (&cos[c * cos_len..][..cos_len], &sin[s * sin_len..][..sin_len]);
                out.copy_from_slice(x);
                for (i, o) in out[..dim].iter_mut().enumerate() {
                    let (other, first) = pair(i);
                    let (own, turned) = (
                        Number::mul(x[i], c[place(i, cos_len)]),
                        Number::mul(x[other], s[place(i, sin_len)]),
                    );
                    *o = if first { Number::sub(own, turned) } else { Number::add(own, turned) };
                }
            }
        });
        Tensor::new(x.shape().to_vec(), out)
    })
}

/// Attributes of [`crate::op::Op::Attention`].
pub(super) struct How {
    pub(super) scale: f32,
    pub(super) causal: bool,
    pub(super) softcap: f32,
}

/// [`crate::op::Op::Attention`]: rows of scores are made, turned into weights and multiplied with v,
/// up to 64 rows a task. A query that sees no key gives NaN, unless there is no key at all.
pub(super) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: Option<&Tensor>,
    how: &How,
) -> Result<Tensor, String> {
    let bad = || format!("q {:?}, k {:?} and v {:?}", q.shape(), k.shape(), v.shape());
    let ([batch @ .., h, s, d], [k_batch @ .., g, t, k_d], [v_batch @ .., v_g, v_t, e]) =
        (q.shape(), k.shape(), v.shape())
    else {
        return Err(bad());
    };
    let fits = batch == k_batch && batch == v_batch && g == v_g && t == v_t && d == k_d;
    if !fits || *g == 0 || h % g != 0 {
        return Err(bad());
    }
    if k.elem() != q.elem() || v.elem() != q.elem() {
        return Err(format!("operands are {}, {} and {}", q.elem(), k.elem(), v.elem()));
    }
    let scores = [batch, &[*h, *s, *t]].concat();
    let walk = match mask {
        None => None,
        Some(m) if broadcast(&scores, m.shape()).ok().as_deref() != Some(&scores[..]) => {
            return Err(format!("mask {:?} for scores {scores:?}", m.shape()));
        }
        Some(m) if m.elem() != Elem::Bool && m.elem() != q.elem() => {
            return Err(format!("the mask is {}", m.elem()));
        }
        Some(m) => Some(Walk::broadcast(&scores, [m.shape()])),
    };
    let shape = [batch, &[*h, *s, *e]].concat();
    let (s, d, t, e) = (*s, *d, *t, *e);
    // Heads that share k and v lie beside each other: their queries are the rows of one product.
    let shared = (h / g).checked_mul(s).ok_or_else(bad)?;
    count(&scores).ok_or_else(|| format!("scores {scores:?} are too many"))?;
    let limit = |row: usize| if how.causal { (row % s + 1 + t).saturating_sub(s).min(t) } else { t };
    for_elem!(float q, T => {
        let (q, k, v) = (q.as_slice::<T>()?, k.as_slice::<T>()?, v.as_slice::<T>()?);
        let (hides, adds) = match mask {
            Some(m) if m.elem() == Elem::Bool => (Some(m.as_slice::<bool>()?), None),
            Some(m) => (None, Some(m.as_slice::<T>()?)),
            None => (None, None),
        };
        let mut out = zeros::<T>(&shape)?;
        if out.is_empty() || t == 0 {
            return Tensor::new(shape, out);
        }
        let (scale, cap) = (T::nearest(how.scale.into()), T::nearest(how.softcap.into()));
        let rows = (SCORES / t).clamp(1, ROWS);
        let one = |group: usize, first: usize, out: &mut [T]| {
            let n = out.len() / e;
            let top = group * shared + first;
            let (k, v) = (&k[group * t * d..][..t * d], &v[group * t * e..][..t * e]);
            // Keys that some row of the task sees.
            let width = (first..first + n).map(limit).max().unwrap_or(0).max(1);
            let mut scores = vec![T::default(); n * width];
            if d > 0 {
                let mut lines: Vec<&mut [T]> = scores.chunks_exact_mut(width).collect();
                let b = Right { data: k, row: 1, column: d };
                Rectangle { a: &q[top * d..][..n * d], b, k: d, first: 0, out: &mut lines }.compute();
            }
            for (r, line) in scores.chunks_exact_mut(width).enumerate() {
                for x in line.iter_mut() {
                    *x = Number::mul(*x, scale);
                    if how.softcap > 0.0 {
                        *x = Number::mul(Number::div(*x, cap).tanh(), cap);
                    }
                }
                if let Some(walk) = &walk {
                    walk.runs((top + r) * t, width, &mut |range, [at], [step]| {
                        for (i, x) in line[range].iter_mut().enumerate() {
                            // Steps along a broadcast mask are never negative.
                            let at = at + i * step as usize;
                            if let Some(adds) = adds {
                                *x = Number::add(*x, adds[at]);
                            } else if hides.is_some_and(|m| !m[at]) {
                                *x = T::LEAST;
                            }
                        }
                    });
                }
                line[limit(first + r).min(width)..].fill(T::LEAST);
                softmax_line(line);
            }
            let mut lines: Vec<&mut [T]> = out.chunks_exact_mut(e).collect();
            let b = Right { data: v, row: e, column: 1 };
            Rectangle { a: &scores, b, k: width, first: 0, out: &mut lines }.compute();
        };
        let tasks: Vec<(usize, usize, &mut [T])> = out
            .chunks_mut(shared * e)
            .enumerate()
            .flat_map(|(group, part)| {
                part.chunks_mut(rows * e).enumerate().map(move |(i, piece)| (group, i * rows, piece))
            })
            .collect();
        tasks.into_par_iter().for_each(|(group, first, out)| one(group, first, out));
        Tensor::new(shape, out)
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use crate::op::{BinaryFn, Op, UnaryFn};
    use crate::tensor::Tensor;

    fn close(a: &Tensor, b: &Tensor) {
        assert_eq!(a.shape(), b.shape());
        for (x, y) in a.as_slice::<f32>().unwrap().iter().zip(b.as_slice::<f32>().unwrap()) {
            assert!((x - y).abs() <= 1e-5 || (x.is_nan() && y.is_nan()), "{x} {y}");
        }
    }

    /// The definition in operations of their own, for k and v of as many heads as q.
    fn by_parts(q: &Tensor, k: &Tensor, v: &Tensor, mask: &Tensor, scale: f32, cap: f32) -> Tensor {
        let turned = run(Op::Transpose { perm: vec![0, 1, 3, 2] }, std::slice::from_ref(k));
        let s = run(Op::MatMul {}, &[q.clone(), turned]);
        let mut s = run(Op::Binary(BinaryFn::Mul), &[s, Tensor::scalar(scale)]);
        if cap > 0.0 {
            s = run(Op::Binary(BinaryFn::Div), &[s, Tensor::scalar(cap)]);
            s = run(Op::Unary(UnaryFn::Tanh), &[s]);
            s = run(Op::Binary(BinaryFn::Mul), &[s, Tensor::scalar(cap)]);
        }
        let s = run(Op::Binary(BinaryFn::Add), &[s, mask.clone()]);
        let p = run(Op::Softmax { axis: -1 }, &[s]);
        run(Op::MatMul {}, &[p, v.clone()])
    }

    /// Repeats each head.
    fn repeat(x: &Tensor, times: usize) -> Tensor {
        let pick: Vec<i64> = (0..x.shape()[1] * times).map(|i| (i / times) as i64).collect();
        run(Op::Gather { axis: 1 }, &[x.clone(), t(&[pick.len()], &pick)])
    }

    #[test]
    fn attention_is_softmax_between_two_products() {
        let mut numbers = Numbers(21);
        for (b, h, g, s, t_len, d, e) in
            [(2, 4, 2, 5, 7, 8, 6), (1, 3, 1, 70, 70, 4, 4), (2, 2, 2, 1, 9, 3, 5)]
        {
            let (q, k) = (numbers.tensor(&[b, h, s, d]), numbers.tensor(&[b, g, t_len, d]));
            let v = numbers.tensor(&[b, g, t_len, e]);
            let (kk, vv) = (repeat(&k, h / g), repeat(&v, h / g));
            let mask = numbers.tensor(&[b, 1, s, t_len]);
            for cap in [0.0, 1.5] {
                let op = |causal| Op::Attention { scale: 0.25, causal, softcap: cap };
                let got = run(op(false), &[q.clone(), k.clone(), v.clone(), mask.clone()]);
                close(&got, &by_parts(&q, &kk, &vv, &mask, 0.25, cap));
                // Query i of s sees the keys up to i + t - s.
                let sees = |i: usize, j: usize| j <= i + t_len - s;
                let bools: Vec<bool> = (0..s * t_len).map(|p| sees(p / t_len, p % t_len)).collect();
                let hidden: Vec<f32> =
                    bools.iter().map(|&b| if b { 0.0 } else { f32::NEG_INFINITY }).collect();
                let want = by_parts(&q, &kk, &vv, &t(&[s, t_len], &hidden), 0.25, cap);
                close(&run(op(true), &[q.clone(), k.clone(), v.clone()]), &want);
                close(&run(op(false), &[q.clone(), k.clone(), v.clone(), t(&[s, t_len], &bools)]), &want);
            }
        }
    }

    #[test]
    fn a_query_that_sees_nothing_is_nan_and_no_keys_give_zeros() {
        let (q, k) = (t(&[1, 1, 2, 1], &[1f32, 2.0]), t(&[1, 1, 1, 1], &[1f32]));
        let op = Op::Attention { scale: 1.0, causal: false, softcap: 0.0 };
        let got = run(op.clone(), &[q.clone(), k.clone(), k.clone(), t(&[2, 1], &[true, false])]);
        let got = got.as_slice::<f32>().unwrap();
        assert!(got[0] == 1.0 && got[1].is_nan());
        let none = t(&[1, 1, 0, 1], &[0f32; 0]);
        assert_eq!(run(op.clone(), &[q.clone(), none.clone(), none]), t(&[1, 1, 2, 1], &[0f32; 2]));
        let three = t(&[1, 3, 1, 1], &[1f32; 3]);
        refused(op, &[q, three.clone(), three], "q [1, 1, 2, 1], k [1, 3, 1, 1]");
    }

    #[test]
    fn attention_is_the_same_for_one_thread_and_two() {
        let mut numbers = Numbers(22);
        let x: Vec<Tensor> = (0..3).map(|_| numbers.tensor(&[2, 2, 150, 16])).collect();
        let op = Op::Attention { scale: 0.3, causal: true, softcap: 0.0 };
        let (one, two) = (on_threads(1, || run(op.clone(), &x)), on_threads(2, || run(op.clone(), &x)));
        assert_eq!(one.to_le_bytes(), two.to_le_bytes());
    }

    #[test]
    fn rotary_turns_pairs_by_hand() {
        // One pair by a quarter turn: (1, 2) becomes (-2, 1); the third and fourth elements stay.
        let (x, c, s) = (t(&[1, 4], &[1f32, 2.0, 3.0, 4.0]), t(&[1], &[0f32]), t(&[1], &[1f32]));
        let op = |interleaved, dim| Op::Rotary { interleaved, dim };
        let want = t(&[1, 4], &[-2f32, 1.0, 3.0, 4.0]);
        assert_eq!(run(op(false, 2), &[x.clone(), c.clone(), s.clone()]), want);
        assert_eq!(run(op(true, 2), &[x.clone(), c, s]), want);
        // Halves pair 1 with 3 and 2 with 4; interleaved pairs 1 with 2 and 3 with 4.
        let (c, s) = (t(&[1, 2], &[0f32, 1.0]), t(&[1, 2], &[1f32, 0.0]));
        let halves = run(op(false, 4), &[x.clone(), c.clone(), s.clone()]);
        assert_eq!(halves, t(&[1, 4], &[-3f32, 2.0, 1.0, 4.0]));
        let pairs = run(op(true, 4), &[x.clone(), c, s]);
        assert_eq!(pairs, t(&[1, 4], &[-2f32, 1.0, 3.0, 4.0]));
        let (c, s) = (t(&[4], &[0f32, 1.0, 0.0, 1.0]), t(&[4], &[1f32, 0.0, 1.0, 0.0]));
        assert_eq!(run(op(false, 4), &[x.clone(), c.clone(), s.clone()]), halves);
        refused(op(false, 6), &[x, c, s], "dim does not fit");
    }

    #[test]
    fn rms_norm_and_activations_equal_their_formulas() {
        // Mean square of (3, 4) is 12.5.
        let got =
            run(Op::RmsNorm { axis: -1, epsilon: 0.0 }, &[t(&[1, 2], &[3f32, 4.0]), t(&[2], &[1f32, 2.0])]);
        let root = 12.5f64.sqrt();
        close(&got, &t(&[1, 2], &[(3.0 / root) as f32, (8.0 / root) as f32]));
        let x = t(&[4], &[-4f32, -1.0, 0.0, 2.0]);
        let of = |f| run(Op::Unary(f), std::slice::from_ref(&x)).as_slice::<f32>().unwrap().to_vec();
        // Computed with numpy and scipy.special in double precision.
        let want = [
            (UnaryFn::Gelu, [-1.266_85e-4, -0.158_655_25, 0.0, 1.954_499_7]),
            (UnaryFn::GeluTanh, [-7.024_59e-5, -0.158_808, 0.0, 1.954_597_7]),
            (UnaryFn::Silu, [-0.071_944_84, -0.268_941_42, 0.0, 1.761_594_2]),
        ];
        for (f, want) in want {
            for (a, b) in of(f).iter().zip(want) {
                assert!((f64::from(*a) - b).abs() <= 1e-6 * b.abs().max(0.1), "{} {a} {b}", f.name());
            }
        }
    }
}
