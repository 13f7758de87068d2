//! Convolutions and the windows they multiply.

use rayon::prelude::*;

use super::matmul::{MulAdd, Rectangle, Right, rectangles};
use super::walk::copy_run;
use super::{CHUNK, Number, for_elem, pieces, strides, zeros};
use crate::tensor::{Element, Tensor, count};

/// Elements of the windows a task gathers, about.
const GATHERED: usize = 1 << 17;
/// Tasks into which an image is divided at least, if it is large enough.
const TASKS: usize = 8;

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
    /// `most`: elements of what has as many as the kernel; without any, the kernel must be small.
    fn new(shape: &[usize], kernel: &[usize], g: &Geometry<'_>, most: usize) -> Result<Self, String> {
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
        let taps = count(kernel)
            .filter(|&t| t <= most.clamp(1 << 16, 1 << 24))
            .ok_or_else(|| format!("a kernel {kernel:?}"))?;
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

    /// Output positions `first..first + len` by rows of the last axis.
    fn runs(&self, first: usize, len: usize) -> Vec<Run> {
        let wide = self.out.last().copied().unwrap_or(1);
        let mut all = Vec::with_capacity(len / wide + 2);
        let mut done = 0;
        while done < len {
            let (row, x) = ((first + done) / wide, (first + done) % wide);
            let here = (wide - x).min(len - done);
            all.push(Run { at: done, row, x, len: here });
            done += here;
        }
        all
    }

    /// The part of a run where `tap` lies inside the image, counted from the run's begin, and the
    /// place in a channel of the first element under it; neighbours are the last stride apart.
    fn under(&self, run: &Run, tap: &[isize]) -> Option<(std::ops::Range<usize>, usize)> {
        let Some(last) = self.out.len().checked_sub(1) else { return Some((0..run.len, 0)) };
        let (mut rest, mut at, mut by) = (run.row, 0, self.spatial[last]);
        for d in (0..last).rev() {
            let i = (rest % self.out[d]) as isize * self.steps[d] - self.begins[d] + tap[d];
            rest /= self.out[d];
            at += usize::try_from(i).ok().filter(|&i| i < self.spatial[d])? * by;
            by *= self.spatial[d];
        }
        let (step, shift) = (self.steps[last], self.begins[last] - tap[last]);
        let least = (shift.max(0) as usize).div_ceil(step as usize);
        let most = self.spatial[last] as isize - 1 + shift;
        let end = if most < 0 { 0 } else { (most / step) as usize + 1 };
        let from = least.clamp(run.x, run.x + run.len);
        let to = end.clamp(from, run.x + run.len);
        let place = from as isize * step - shift;
        (from < to).then_some((from - run.x..to - run.x, at + place as usize))
    }

    /// Elements between those under neighbouring positions of a run.
    fn stride(&self) -> usize {
        self.steps.last().map_or(1, |&s| s as usize)
    }

    /// Writes the windows of the positions of `runs`, `len` in all, of `image` (`[C, spatial]`) to `out`
    /// (`[C * kernel][len]`), which holds zeros.
    fn gather<T: Element>(&self, image: &[T], runs: &[Run], len: usize, out: &mut [T]) {
        let step = self.stride() as isize;
        for (t, tap) in self.taps.iter().enumerate() {
            for run in runs {
                let Some((part, place)) = self.under(run, tap) else { continue };
                for (c, plane) in image.chunks_exact(self.plane.max(1)).enumerate() {
                    let row = (c * self.taps.len() + t) * len + run.at;
                    copy_run(&mut out[row + part.start..row + part.end], plane, place, step);
                }
            }
        }
    }

    /// Whether the windows are the image as it is.
    fn is_image(&self) -> bool {
        self.taps.len() == 1
            && self.steps.iter().all(|&s| s == 1)
            && self.begins.iter().all(|&b| b == 0)
            && self.out == self.spatial
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

/// Output positions beside each other along the last axis.
struct Run {
    /// Position of the first, counted from the first of all runs.
    at: usize,
    /// Index over the other axes.
    row: usize,
    /// Index of the first along the last axis.
    x: usize,
    /// How many.
    len: usize,
}

/// [`crate::op::Op::Patches`].
pub(super) fn patches(x: &Tensor, kernel: &[i64], g: &Geometry<'_>) -> Result<Tensor, String> {
    let kernel: Vec<usize> = kernel
        .iter()
        .map(|&k| usize::try_from(k).map_err(|_| format!("a kernel length of {k}")))
        .collect::<Result<_, _>>()?;
    let windows = Windows::new(x.shape(), &kernel, g, 1 << 24)?;
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
    let windows = Windows::new(x.shape(), kernel, g, w.len())?;
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
    let add_bias = |row: &mut [T], channel: usize| {
        if let Some(&b) = bias.and_then(|bias| bias.get(channel)) {
            row.iter_mut().for_each(|v| *v = v.add(b));
        }
    };
    if per_group == 1 && groups > 1 {
        // Each channel reads its own: sums as for a product, one plane at a time.
        let taps = windows.taps.len();
        let runs = windows.runs(0, positions);
        out.par_chunks_mut(positions).enumerate().for_each(|(i, plane)| {
            let (batch, channel) = (i / outs, i % outs);
            let from = &from[batch * image + channel * (depth / taps) * windows.plane..];
            let weights = &weights[channel * depth..(channel + 1) * depth];
            pulp::Arch::new().dispatch(Slide { windows, runs: &runs, from, weights, out: plane });
            add_bias(plane, channel);
        });
        return Tensor::new(shape, out);
    }
    // Whole groups, or parts of the only one where there are few positions.
    let columns = (GATHERED / len.max(1)).clamp(64, 1024).min(positions.div_ceil(TASKS)).next_multiple_of(32);
    let bands = if groups == 1 { TASKS.div_ceil(positions.div_ceil(columns)) } else { 1 };
    let band = outs.div_ceil(bands).next_multiple_of(8);
    let mut tasks = Vec::new();
    for (i, out) in out.chunks_mut(outs * positions).enumerate() {
        let band = if groups == 1 { band } else { outs };
        tasks.extend(rectangles(out, positions, band, columns).into_iter().map(|task| (i, task)));
    }
    tasks.into_par_iter().for_each(|(i, (top, first, mut rows))| {
        let image = &from[i * image..(i + 1) * image];
        let here = rows[0].len();
        let direct = windows.is_image();
        let mut gathered = Vec::new();
        if !direct {
            gathered.resize(here * len, T::default());
            windows.gather(image, &windows.runs(first, here), here, &mut gathered);
        }
        for (g, rows) in rows.chunks_mut(per_group).enumerate() {
            if depth > 0 {
                let a = &weights[(top + g * per_group) * depth..];
                let (data, row, first) = if direct {
                    (&image[g * depth * windows.plane..], windows.plane, first)
                } else {
                    (&gathered[g * depth * here..], here, 0)
                };
                let b = Right { data, row, column: 1 };
                Rectangle { a, step: depth, b, k: depth, first, out: rows }.compute();
            }
        }
        for (r, row) in rows.iter_mut().enumerate() {
            add_bias(row, top + r);
        }
    });
    Tensor::new(shape, out)
}

/// Adds the windows of `from` (`[C, spatial]` and more) at all positions, multiplied with `weights`
/// `[C * kernel]`, to `out`: for each position a sum in the order of the weights.
struct Slide<'a, T> {
    windows: &'a Windows,
    runs: &'a [Run],
    from: &'a [T],
    weights: &'a [T],
    out: &'a mut [T],
}

impl<T: MulAdd> pulp::WithSimd for Slide<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let Slide { windows, runs, from, weights, out } = self;
        let step = windows.stride();
        for run in runs {
            let out = &mut out[run.at..run.at + run.len];
            for (c, weights) in weights.chunks_exact(windows.taps.len()).enumerate() {
                let plane = &from[c * windows.plane..(c + 1) * windows.plane];
                for (tap, &w) in windows.taps.iter().zip(weights) {
                    let Some((part, place)) = windows.under(run, tap) else { continue };
                    let (out, from) = (&mut out[part], &plane[place..]);
                    if step == 1 {
                        out.iter_mut().zip(from).for_each(|(o, &v)| *o = o.mul_add(w, v));
                    } else {
                        out.iter_mut()
                            .zip(from.iter().step_by(step))
                            .for_each(|(o, &v)| *o = o.mul_add(w, v));
                    }
                }
            }
        }
    }
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
