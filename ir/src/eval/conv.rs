//! Convolutions and the windows they multiply.

use rayon::prelude::*;

use super::matmul::{MulAdd, Rectangle, Right, rectangles};
use super::{CHUNK, Number, for_elem, pieces, strides, zeros};
use crate::tensor::{Element, Tensor, count};

/// Output positions of a task.
const POSITIONS: usize = 64;

/// How windows lie on the input.
pub(super) struct Geometry<'a> {
    /// One entry a spatial axis.
    pub(super) strides: &'a [i64],
    /// Begins, then ends.
    pub(super) pads: &'a [i64],
    /// One entry a spatial axis.
    pub(super) dilations: &'a [i64],
}

/// Windows over one image `[C, spatial]`.
struct Windows {
    channels: usize,
    /// Elements of a channel.
    plane: usize,
    spatial: Vec<usize>,
    out: Vec<usize>,
    steps: Vec<isize>,
    begins: Vec<isize>,
    /// Offset on each spatial axis of each element of a kernel.
    taps: Vec<Vec<isize>>,
}

impl Windows {
    fn new(shape: &[usize], kernel: &[usize], g: &Geometry<'_>) -> Result<Self, String> {
        let (&channels, spatial) = match shape {
            [_, channels, spatial @ ..] => (channels, spatial),
            _ => return Err(format!("x of shape {shape:?} has no channels")),
        };
        let rank = spatial.len();
        if [kernel.len(), g.strides.len(), g.dilations.len()] != [rank; 3] || g.pads.len() != 2 * rank {
            return Err(format!(
                "{rank} spatial axes, kernel {kernel:?}, strides {:?}, pads {:?}, dilations {:?}",
                g.strides, g.pads, g.dilations
            ));
        }
        let small = |v: i64, least: i64, what: &str| match i32::try_from(v) {
            Ok(_) if v >= least => Ok(v as isize),
            _ => Err(format!("{what} of {v}")),
        };
        let mut windows = Windows {
            channels,
            plane: count(spatial).ok_or("too many positions")?,
            spatial: spatial.to_vec(),
            out: Vec::new(),
            steps: Vec::new(),
            begins: Vec::new(),
            taps: Vec::new(),
        };
        let mut dilations = Vec::new();
        for d in 0..rank {
            let (begin, end) = (small(g.pads[d], 0, "a pad")?, small(g.pads[rank + d], 0, "a pad")?);
            let stride = small(g.strides[d], 1, "a stride")?;
            let dilation = small(g.dilations[d], 1, "a dilation")?;
            let size = i64::try_from(kernel[d]).map_err(|e| e.to_string())?;
            let size = small(size, 1, "a kernel length")?;
            let len = isize::try_from(spatial[d]).map_err(|e| e.to_string())?;
            let padded = len.checked_add(begin + end).ok_or("padding overflows")?;
            let room = padded - (dilation * (size - 1) + 1);
            if room < 0 {
                return Err(format!(
                    "a kernel of {size} with dilation {dilation} on axis {} of padded length {padded}",
                    d + 2
                ));
            }
            windows.out.push((room / stride) as usize + 1);
            windows.steps.push(stride);
            windows.begins.push(begin);
            dilations.push(dilation);
        }
        let taps = count(kernel).filter(|&t| t <= 1 << 24).ok_or_else(|| format!("a kernel {kernel:?}"))?;
        let by = strides(kernel);
        windows.taps = (0..taps)
            .map(|t| (0..rank).map(|d| (t / by[d] % kernel[d]) as isize * dilations[d]).collect())
            .collect();
        Ok(windows)
    }

    /// Elements of a window.
    fn len(&self) -> Result<usize, String> {
        self.channels
            .checked_mul(self.taps.len())
            .ok_or_else(|| format!("windows of {} x {} elements", self.channels, self.taps.len()))
    }

    /// Writes window `position` of `image` (`[C, spatial]`) to `out` (`[C * kernel]`).
    fn read<T: Element + Default>(&self, image: &[T], position: usize, out: &mut [T]) {
        let mut corner = vec![0; self.out.len()];
        let mut rest = position;
        for d in (0..self.out.len()).rev() {
            corner[d] = (rest % self.out[d]) as isize * self.steps[d] - self.begins[d];
            rest /= self.out[d];
        }
        for (t, tap) in self.taps.iter().enumerate() {
            let mut at = Some(0usize);
            for d in 0..corner.len() {
                let i = usize::try_from(corner[d] + tap[d]).ok().filter(|&i| i < self.spatial[d]);
                at = at.zip(i).map(|(at, i)| at * self.spatial[d] + i);
            }
            for c in 0..self.channels {
                out[c * self.taps.len() + t] = at.map_or(T::default(), |at| image[c * self.plane + at]);
            }
        }
    }
}

/// [`crate::op::Op::Patches`].
pub(super) fn patches(x: &Tensor, kernel: &[i64], g: &Geometry<'_>) -> Result<Tensor, String> {
    let kernel: Vec<usize> = kernel
        .iter()
        .map(|&k| usize::try_from(k).map_err(|_| format!("a kernel length of {k}")))
        .collect::<Result<_, _>>()?;
    let windows = Windows::new(x.shape(), &kernel, g)?;
    let len = windows.len()?;
    let positions = count(&windows.out).ok_or("too many positions")?;
    let mut shape = vec![x.shape()[0]];
    shape.extend(&windows.out);
    shape.push(len);
    for_elem!(any x, T => {
        let from = x.as_slice::<T>()?;
        let mut out = zeros::<T>(&shape)?;
        if !out.is_empty() {
            let image = windows.channels * windows.plane;
            let rows = (CHUNK / len).max(1);
            pieces(&mut out, len * rows, &|start, out| {
                for (i, out) in out.chunks_exact_mut(len).enumerate() {
                    let at = start / len + i;
                    let first = at / positions * image;
                    windows.read(&from[first..first + image], at % positions, out);
                }
            });
        }
        Tensor::new(shape, out)
    })
}

/// [`crate::op::Op::Conv`].
pub(super) fn conv(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    g: &Geometry<'_>,
    groups: i64,
) -> Result<Tensor, String> {
    let (&[outs, depth, ref kernel @ ..], [batch, channels, ..]) = (w.shape(), x.shape()) else {
        return Err(format!("x {:?} and w {:?} need batch and channels", x.shape(), w.shape()));
    };
    let groups = usize::try_from(groups).ok().filter(|&n| n > 0).ok_or(format!("{groups} groups"))?;
    if x.elem() != w.elem() || bias.is_some_and(|b| b.elem() != x.elem()) {
        return Err(format!("x is {}, w is {}, bias is of another type", x.elem(), w.elem()));
    }
    if depth.checked_mul(groups) != Some(*channels) || !outs.is_multiple_of(groups) {
        return Err(format!("x {:?} and w {:?} in {groups} groups", x.shape(), w.shape()));
    }
    if bias.is_some_and(|b| b.shape() != [outs]) {
        return Err(format!("a bias of shape {:?} for {outs} channels", bias.map(Tensor::shape)));
    }
    let windows = Windows::new(x.shape(), kernel, g)?;
    let mut shape = vec![*batch, outs];
    shape.extend(&windows.out);
    for_elem!(float x, T => convolve::<T>(&windows, x, w, bias, groups, shape))
}

fn convolve<T: MulAdd + Number>(
    windows: &Windows,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    groups: usize,
    shape: Vec<usize>,
) -> Result<Tensor, String> {
    let (from, weights) = (x.as_slice::<T>()?, w.as_slice::<T>()?);
    let bias = bias.map(|b| b.as_slice::<T>()).transpose()?;
    let outs = shape[1];
    let len = windows.len()?;
    let positions = count(&windows.out).ok_or("too many positions")?;
    let mut out = zeros::<T>(&shape)?;
    if out.is_empty() {
        return Tensor::new(shape, out);
    }
    let image = windows.channels * windows.plane;
    let (per_group, depth) = (outs / groups, len / groups);
    let mut tasks = Vec::new();
    for (i, out) in out.chunks_mut(outs * positions).enumerate() {
        tasks.extend(rectangles(out, positions, outs, POSITIONS).into_iter().map(|task| (i, task)));
    }
    tasks.into_par_iter().for_each(|(i, (_, first, mut rows))| {
        let image = &from[i * image..(i + 1) * image];
        let here = rows[0].len();
        let mut gathered = vec![T::default(); here * len];
        for (p, window) in gathered.chunks_exact_mut(len.max(1)).enumerate() {
            windows.read(image, first + p, window);
        }
        for (g, rows) in rows.chunks_mut(per_group).enumerate() {
            if depth > 0 {
                let a = &weights[g * per_group * depth..(g + 1) * per_group * depth];
                let b = Right { data: &gathered[g * depth..], row: 1, column: len };
                Rectangle { a, step: depth, b, k: depth, first: 0, out: rows }.compute();
            }
        }
        if let Some(bias) = bias {
            for (row, &b) in rows.iter_mut().zip(bias) {
                row.iter_mut().for_each(|v| *v = v.add(b));
            }
        }
    });
    Tensor::new(shape, out)
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use crate::op::Op;
    use crate::tensor::Tensor;

    /// A convolution by its definition, two spatial axes.
    fn naive(
        x: &Tensor,
        w: &Tensor,
        bias: &[f32],
        s: [usize; 2],
        p: [usize; 4],
        d: [usize; 2],
        groups: usize,
    ) -> Tensor {
        let &[batch, channels, h, wd] = x.shape() else { panic!() };
        let &[outs, depth, kh, kw] = w.shape() else { panic!() };
        assert_eq!(channels, depth * groups);
        let oh = (h + p[0] + p[2] - d[0] * (kh - 1) - 1) / s[0] + 1;
        let ow = (wd + p[1] + p[3] - d[1] * (kw - 1) - 1) / s[1] + 1;
        let mut out = Vec::new();
        for i in 0..batch * outs * oh * ow {
            let at_out = place(&[batch, outs, oh, ow], i);
            let [b, o, y, z] = at_out[..] else { panic!() };
            let mut sum = bias[o];
            for j in 0..depth * kh * kw {
                let at_kernel = place(&[depth, kh, kw], j);
                let [c, u, v] = at_kernel[..] else { panic!() };
                let (row, column) = (y * s[0] + u * d[0], z * s[1] + v * d[1]);
                if row >= p[0] && row < h + p[0] && column >= p[1] && column < wd + p[1] {
                    let c_in = o / (outs / groups) * depth + c;
                    sum += at::<f32>(x, &[b, c_in, row - p[0], column - p[1]]) * at::<f32>(w, &[o, c, u, v]);
                }
            }
            out.push(sum);
        }
        t(&[batch, outs, oh, ow], &out)
    }

    fn op(s: [usize; 2], p: [usize; 4], d: [usize; 2], groups: usize) -> Op {
        let v = |x: &[usize]| x.iter().map(|&x| x as i64).collect();
        Op::Conv { strides: v(&s), pads: v(&p), dilations: v(&d), groups: groups as i64 }
    }

    #[test]
    fn convolutions_equal_their_definition() {
        let mut numbers = Numbers(7);
        for _ in 0..60 {
            let (groups, depth) = (1 + numbers.below(3), 1 + numbers.below(3));
            let outs = groups * (1 + numbers.below(4));
            let kernel = [1 + numbers.below(3), 1 + numbers.below(3)];
            let s = [1 + numbers.below(3), 1 + numbers.below(2)];
            let d = [1 + numbers.below(2), 1 + numbers.below(3)];
            let p = [(); 4].map(|()| numbers.below(3));
            let size = [7 + numbers.below(4), 7 + numbers.below(9)];
            let batch = 1 + numbers.below(2);
            let x = numbers.tensor(&[batch, groups * depth, size[0], size[1]]);
            let w = numbers.tensor(&[outs, depth, kernel[0], kernel[1]]);
            let bias = numbers.tensor(&[outs]);
            let want = naive(&x, &w, bias.as_slice().unwrap(), s, p, d, groups);
            let got = run(op(s, p, d, groups), &[x.clone(), w.clone(), bias]);
            assert_eq!(got, want);
            let plain = run(op(s, p, d, groups), &[x.clone(), w.clone()]);
            assert_eq!(plain, naive(&x, &w, &vec![0.0; outs], s, p, d, groups));
        }
    }

    #[test]
    fn windows_times_weights_are_the_convolution() {
        // One spatial axis and two: patches [B, S, C K] times w transposed [C K, O].
        let mut numbers = Numbers(8);
        for (spatial, kernel, pads) in
            [(&[9][..], &[3][..], &[1i64, 0][..]), (&[5, 6], &[2, 3], &[0, 1, 1, 2])]
        {
            let (strides, dilations) = (vec![2; kernel.len()], vec![1; kernel.len()]);
            let shape = |lead: [usize; 2], rest: &[usize]| [&lead[..], rest].concat();
            let x = numbers.tensor(&shape([2, 3], spatial));
            let w = numbers.tensor(&shape([4, 3], kernel));
            let pads = pads.to_vec();
            let k = kernel.iter().map(|&k| k as i64).collect();
            let patches = Op::Patches {
                kernel: k,
                strides: strides.clone(),
                pads: pads.clone(),
                dilations: dilations.clone(),
            };
            let windows = run(patches, std::slice::from_ref(&x));
            let len = 3 * kernel.iter().product::<usize>();
            assert_eq!(windows.shape()[windows.rank() - 1], len);
            let columns = run(Op::Transpose { perm: vec![1, 0] }, &[w.reshaped(vec![4, len]).unwrap()]);
            let product = run(Op::MatMul {}, &[windows, columns]);
            let last = product.rank() as i64 - 1;
            let perm = [0, last].into_iter().chain(1..last).collect();
            let want = run(Op::Transpose { perm }, &[product]);
            let got = run(Op::Conv { strides, pads, dilations, groups: 1 }, &[x, w]);
            assert_eq!(got, want);
        }
    }

    #[test]
    fn windows_hold_the_channel_outermost() {
        // Two channels of a line of 3, windows of 2, one zero before: written out by hand.
        let x = t(&[1, 2, 3], &[1i8, 2, 3, 4, 5, 6]);
        let op = Op::Patches { kernel: vec![2], strides: vec![2], pads: vec![1, 0], dilations: vec![1] };
        assert_eq!(run(op, &[x]), t(&[1, 2, 4], &[0i8, 1, 0, 4, 2, 3, 5, 6]));
    }

    #[test]
    fn unfit_convolutions_are_refused() {
        let (x, w) = (t(&[1, 2, 3, 3], &[0f32; 18]), t(&[2, 2, 2, 2], &[0f32; 16]));
        let ok = |groups| op([1, 1], [0; 4], [1, 1], groups);
        let both = [x.clone(), w.clone()];
        refused(ok(2), &both, "in 2 groups");
        refused(
            op([1, 1], [0; 4], [3, 1], 1),
            &both,
            "a kernel of 2 with dilation 3 on axis 2 of padded length 3",
        );
        refused(op([0, 1], [0; 4], [1, 1], 1), &both, "a stride of 0");
        let geometry = |strides: &[i64], pads: &[i64], groups| Op::Conv {
            strides: strides.to_vec(),
            pads: pads.to_vec(),
            dilations: vec![1, 1],
            groups,
        };
        refused(geometry(&[1], &[0; 4], 1), &both, "2 spatial axes");
        refused(geometry(&[1, 1], &[0; 3], 1), &both, "2 spatial axes");
        refused(geometry(&[1, 1], &[0, -1, 0, 0], 1), &both, "a pad of -1");
        refused(geometry(&[1, i64::MAX], &[0; 4], 1), &both, "a stride of");
        refused(geometry(&[1, 1], &[0; 4], 0), &both, "0 groups");
        refused(ok(1), &[x.clone(), w.clone(), t(&[3], &[0f32; 3])], "a bias of shape");
        refused(ok(1), &[x, w, t(&[2], &[0f64; 2])], "another type");
        refused(ok(1), &[t(&[1, 1, 1, 1], &[0i8]), t(&[1, 1, 1, 1], &[0i8])], "does not take i8");
        let huge = Op::Patches {
            kernel: vec![1 << 30],
            strides: vec![1],
            pads: vec![1 << 30, 0],
            dilations: vec![1],
        };
        refused(huge, &[t(&[1, 1, 1], &[0f32])], "a kernel [");
    }
}
