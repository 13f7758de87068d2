//! Convolutions as products of matrices of windows: transposed and deformable ones, and windows summed
//! back into images.

use rayon::prelude::*;

use super::matmul::{self, Right};
use super::{Number, for_elem, indices, strides, zeros};
use crate::op::Op;
use crate::tensor::{Tensor, count};
use crate::windows::{self, Span};

/// Most elements of an intermediate product.
const PRODUCT: usize = 1 << 22;

/// How windows of one channel lie on an image.
struct Fold {
    image: Vec<usize>,
    kernel: Vec<usize>,
    /// Number of windows along each axis.
    grid: Vec<usize>,
    /// Stride, padding before the first element and dilation of each axis.
    axes: Vec<[isize; 3]>,
}

impl Fold {
    fn new(image: Vec<usize>, grid: Vec<usize>, spans: &[Span], begins: &[i64]) -> Self {
        let axes = spans.iter().zip(begins);
        Fold {
            image,
            grid,
            kernel: spans.iter().map(|s| s.kernel as usize).collect(),
            axes: axes.map(|(s, &b)| [s.stride as isize, b as isize, s.dilation as isize]).collect(),
        }
    }

    /// Adds windows `[kernel, grid]` to the image they lie on, or those of a few elements of the kernel
    /// from `first` on.
    fn add<T: Number>(&self, first: usize, windows: &[T], image: &mut [T]) {
        let last = self.image.len() - 1;
        let (by, lanes) = (strides(&self.kernel), strides(&self.grid));
        let steps = strides(&self.image);
        let (columns, width) = (self.grid[last], self.image[last]);
        let lines: usize = self.grid[..last].iter().product();
        for (t, window) in (first..).zip(windows.chunks_exact((lines * columns).max(1))) {
            let tap = |d: usize| (t / by[d] % self.kernel[d]) as isize * self.axes[d][2] - self.axes[d][1];
            let [stride, shift] = [self.axes[last][0], tap(last)];
            let lo = if shift < 0 { (-shift + stride - 1) / stride } else { 0 };
            let hi = (width as isize - shift + stride - 1).max(0) / stride;
            let (lo, hi) = (lo as usize, (hi as usize).min(columns));
            if lo >= hi {
                continue;
            }
            let first = (lo as isize * stride + shift) as usize;
            for line in 0..lines {
                let mut base = Some(0);
                for d in 0..last {
                    // The position of the line within the outer axes of the grid.
                    let g = line * columns / lanes[d] % self.grid[d];
                    let at = usize::try_from(g as isize * self.axes[d][0] + tap(d)).ok();
                    base = base.zip(at.filter(|&a| a < self.image[d])).map(|(b, a)| b + a * steps[d]);
                }
                let Some(base) = base else { continue };
                let from = &window[line * columns + lo..line * columns + hi];
                let to = &mut image[base + first..base + width];
                if stride == 1 {
                    to.iter_mut().zip(from).for_each(|(o, &v)| *o = o.add(v));
                } else {
                    let to = to.iter_mut().step_by(stride as usize);
                    to.zip(from).for_each(|(o, &v)| *o = o.add(v));
                }
            }
        }
    }
}

fn lengths(lens: &[usize]) -> Result<Vec<i64>, String> {
    lens.iter().map(|&n| i64::try_from(n).map_err(|_| format!("an axis of length {n}"))).collect()
}

/// [`Op::ConvTranspose`] of x, w and an optional bias.
pub(super) fn conv_transpose(op: &Op, x: &[Tensor]) -> Result<Tensor, String> {
    let Op::ConvTranspose { strides, pads, dilations, groups, output_padding, output, auto } = op else {
        return Err("is no transposed convolution".into());
    };
    let (w, bias) = (&x[1], x.get(2));
    let x = &x[0];
    let (&[batch, channels, ref spatial @ ..], &[inner, per_group, ref kernel @ ..]) = (x.shape(), w.shape())
    else {
        return Err(format!("x {:?} and w {:?} need batch and channels", x.shape(), w.shape()));
    };
    let groups = usize::try_from(*groups).ok().filter(|&n| n > 0).ok_or(format!("{groups} groups"))?;
    if x.elem() != w.elem() || bias.is_some_and(|b| b.elem() != x.elem()) {
        return Err(format!("x is {}, w is {}, bias is of another type", x.elem(), w.elem()));
    }
    let outs = per_group.checked_mul(groups).ok_or("too many channels")?;
    if inner != channels || !channels.is_multiple_of(groups) || spatial.len() != kernel.len() {
        return Err(format!("x {:?} and w {:?} in {groups} groups", x.shape(), w.shape()));
    }
    if bias.is_some_and(|b| b.shape() != [outs]) {
        return Err(format!("a bias of shape {:?} for {outs} channels", bias.map(Tensor::shape)));
    }
    let spans = windows::spans(&lengths(kernel)?, strides, pads, dilations, true)?;
    let placed = windows::transposed(&spans, &lengths(spatial)?, output_padding, output, *auto)?;
    let begins: Vec<i64> = placed.iter().map(|p| p.0).collect();
    let image: Vec<usize> = placed.iter().map(|p| usize::try_from(p.1).unwrap_or(usize::MAX)).collect();
    let fold = Fold::new(image, spatial.to_vec(), &spans, &begins);
    let shape = [&[batch, outs], &fold.image[..]].concat();
    for_elem!(float x, T => {
        let mut out = zeros::<T>(&shape)?;
        let taps = count(kernel).ok_or("the kernel is too large")?;
        let (plane, positions) = (count(&fold.image).unwrap_or(0), count(spatial).unwrap_or(0));
        let depth = channels / groups;
        let (from, weights) = (x.as_slice::<T>()?, w.as_slice::<T>()?);
        let bias = bias.map(|b| b.as_slice::<T>()).transpose()?;
        // Channels of one product, and elements of the kernel where one channel has too many.
        let each = taps.checked_mul(positions).ok_or("too many windows")?;
        let block = (PRODUCT / each.max(1)).clamp(1, per_group.max(1));
        let part = if block > 1 { taps } else { (PRODUCT / positions.max(1)).clamp(1, taps.max(1)) };
        let mut windows = zeros::<T>(&[block, part, positions])?;
        for (i, out) in out.chunks_mut((outs * plane).max(1)).enumerate() {
            for (g, out) in out.chunks_mut((per_group * plane).max(1)).enumerate() {
                let at = (i * channels + g * depth) * positions;
                let right = Right { data: &from[at..at + depth * positions], row: positions, column: 1 };
                let parts = taps.div_ceil(part.max(1));
                for (j, out) in out.chunks_mut(block * plane).enumerate() {
                  for from_tap in (0..parts).map(|p| p * part) {
                    let here = part.min(taps - from_tap);
                    let rows = out.len() / plane * here;
                    let first = j * block * taps + from_tap;
                    let mut left = vec![T::default(); rows * depth];
                    for c in 0..depth {
                        let column = &weights[(g * depth + c) * per_group * taps + first..][..rows];
                        column.iter().enumerate().for_each(|(r, &v)| left[r * depth + c] = v);
                    }
                    let windows = &mut windows[..rows * positions];
                    windows.fill(T::default());
                    if depth > 0 && positions > 0 {
                        matmul::product(&left, depth, right, depth, positions, windows);
                    }
                    let windows = &*windows;
                    out.par_chunks_mut(plane).enumerate().for_each(|(c, out)| {
                        if let Some(bias) = bias.filter(|_| from_tap == 0) {
                            out.fill(bias[g * per_group + j * block + c]);
                        }
                        fold.add(from_tap, &windows[c * here * positions..][..here * positions], out);
                    });
                  }
                }
            }
        }
        Tensor::new(shape, out)
    })
}

/// [`Op::Col2Im`]; the lists are strides, pads and dilations.
pub(super) fn col2im(
    x: &Tensor,
    image: &Tensor,
    block: &Tensor,
    (by, pads, dilations): (&[i64], &[i64], &[i64]),
) -> Result<Tensor, String> {
    let &[batch, rows, columns] = x.shape() else {
        return Err(format!("x {:?} must be [B, C * block, L]", x.shape()));
    };
    let (image, block) = (indices(image)?, indices(block)?);
    let spans = windows::spans(&block, by, pads, dilations, false)?;
    if image.len() != spans.len() {
        return Err(format!("an image {image:?} of blocks {block:?}"));
    }
    let mut grid = Vec::new();
    for (s, &len) in spans.iter().zip(&image) {
        let placed = s.place(len.max(0), false, crate::op::AutoPad::Given)?;
        grid.push(usize::try_from(placed.out).unwrap_or(0));
    }
    let taps = block.iter().try_fold(1usize, |a, &k| a.checked_mul(usize::try_from(k).ok()?));
    let taps = taps.filter(|t| rows.is_multiple_of(*t)).ok_or(format!("{rows} rows of blocks {block:?}"))?;
    if count(&grid) != Some(columns) {
        return Err(format!("{columns} blocks where the image has {grid:?}"));
    }
    let lens: Result<Vec<usize>, _> = image.iter().map(|&n| usize::try_from(n)).collect();
    let begins: Vec<i64> = spans.iter().map(|s| s.begin).collect();
    let fold = Fold::new(lens.map_err(|_| "a negative length")?, grid, &spans, &begins);
    let shape = [&[batch, rows / taps], &fold.image[..]].concat();
    for_elem!(number x, T => {
        let mut out = zeros::<T>(&shape)?;
        let from = x.as_slice::<T>()?;
        let plane = count(&fold.image).unwrap_or(0).max(1);
        out.par_chunks_mut(plane).enumerate().for_each(|(c, out)| {
            fold.add(0, &from[c * taps * columns..(c + 1) * taps * columns], out);
        });
        Tensor::new(shape, out)
    })
}

/// [`Op::DeformConv`] of x, w, offsets, a bias if there is one, and an optional mask.
pub(super) fn deform_conv(op: &Op, x: &[Tensor]) -> Result<Tensor, String> {
    let Op::DeformConv { strides: by, pads, dilations, groups, offset_groups, biased } = op else {
        return Err("is no deformable convolution".into());
    };
    let (bias, mask) = if *biased { (x.get(3), x.get(4)) } else { (None, x.get(3)) };
    let (x, w, offset) = (&x[0], &x[1], &x[2]);
    let (&[batch, channels, height, width], &[outs, depth, kh, kw]) = (x.shape(), w.shape()) else {
        return Err(format!("x {:?} and w {:?} need two spatial axes", x.shape(), w.shape()));
    };
    let positive = |n: i64| usize::try_from(n).ok().filter(|&n| n > 0).ok_or(format!("{n} groups"));
    let (groups, parts) = (positive(*groups)?, positive(*offset_groups)?);
    if depth.checked_mul(groups) != Some(channels) || !outs.is_multiple_of(groups) {
        return Err(format!("x {:?} and w {:?} in {groups} groups", x.shape(), w.shape()));
    }
    let spans = windows::spans(&lengths(&[kh, kw])?, by, pads, dilations, false)?;
    let mut out = Vec::new();
    for (s, n) in spans.iter().zip(lengths(&[height, width])?) {
        out.push(usize::try_from(s.place(n, false, crate::op::AutoPad::Given)?.out).unwrap_or(0));
    }
    let (oh, ow) = (out[0], out[1]);
    let taps = kh.checked_mul(kw).ok_or("the kernel is too large")?;
    let marks = parts.checked_mul(taps).ok_or("too many offset groups")?;
    let moved = marks.checked_mul(2).ok_or("too many offset groups")?;
    if !channels.is_multiple_of(parts)
        || offset.shape() != [batch, moved, oh, ow]
        || mask.is_some_and(|m| m.shape() != [batch, marks, oh, ow])
        || bias.is_some_and(|b| b.shape() != [outs])
    {
        return Err(format!(
            "offsets {:?}, mask {:?} and bias {:?} for a result of {oh} by {ow}",
            offset.shape(),
            mask.map(Tensor::shape),
            bias.map(Tensor::shape)
        ));
    }
    let shape = vec![batch, outs, oh, ow];
    for_elem!(float x, T => {
        let (from, weights, moves) = (x.as_slice::<T>()?, w.as_slice::<T>()?, offset.as_slice::<T>()?);
        let mask = mask.map(|m| m.as_slice::<T>()).transpose()?;
        let mut out = zeros::<T>(&shape)?;
        if out.is_empty() {
            return Tensor::new(shape, out);
        }
        let plane = height.checked_mul(width).ok_or("too many positions")?;
        let (positions, per_group) = (oh * ow, outs / groups);
        let rows = depth.checked_mul(taps).ok_or("too many windows")?;
        // Positions of one product.
        let most = (PRODUCT / rows.max(1)).clamp(1, positions);
        let tasks: Vec<_> = (0..batch * groups)
            .flat_map(|i| (0..positions).step_by(most).map(move |first| (i, first)))
            .collect();
        let (mut gathered, mut product) = (zeros::<T>(&[rows, most])?, zeros::<T>(&[per_group, most])?);
        for (i, begin) in tasks {
            let (image, g) = (i / groups, i % groups);
            let here = most.min(positions - begin);
            let gathered = &mut gathered[..rows * here];
            gathered.par_chunks_mut(here).enumerate().for_each(|(r, line)| {
                let (c, t) = (g * depth + r / taps, r % taps);
                let mark = image * marks + c / (channels / parts) * taps + t;
                let pixels = &from[(image * channels + c) * plane..][..plane];
                let shift = [0, 1].map(|d| &moves[(2 * mark + d) * positions..][..positions]);
                let mask = mask.map(|m| &m[mark * positions..][..positions]);
                let tap = [(t / kw) as i64, (t % kw) as i64];
                let origin = [0, 1].map(|d| tap[d] * spans[d].dilation - spans[d].begin);
                for (p, o) in (begin..).zip(line) {
                    let at = [(p / ow) as i64, (p % ow) as i64];
                    let [y, x] = [0, 1].map(|d| {
                        (at[d] * spans[d].stride + origin[d]) as f64 + shift[d][p].as_f64()
                    });
                    let v = bilinear(pixels, (height, width), y, x) * mask.map_or(1.0, |m| m[p].as_f64());
                    *o = T::narrow(v);
                }
            });
            let left = &weights[g * per_group * rows..(g + 1) * per_group * rows];
            let product = &mut product[..per_group * here];
            product.fill(T::default());
            let right = Right { data: gathered, row: here, column: 1 };
            matmul::product(left, rows, right, rows, here, product);
            for (c, line) in product.chunks_exact(here).enumerate() {
                out[(i * per_group + c) * positions + begin..][..here].copy_from_slice(line);
            }
        }
        if let Some(bias) = bias.map(|b| b.as_slice::<T>()).transpose()? {
            for (c, out) in out.chunks_mut(positions.max(1)).enumerate() {
                out.iter_mut().for_each(|v| *v = v.add(bias[c % outs]));
            }
        }
        Tensor::new(shape, out)
    })
}

/// The value between the pixels of a channel, zero beyond them.
fn bilinear<T: Number>(pixels: &[T], (height, width): (usize, usize), y: f64, x: f64) -> f64 {
    let (top, left) = (y.floor(), x.floor());
    let mut sum = 0.0;
    for (row, along) in [(top, 1.0 - (y - top)), (top + 1.0, y - top)] {
        for (column, across) in [(left, 1.0 - (x - left)), (left + 1.0, x - left)] {
            let inside = row >= 0.0 && column >= 0.0 && row < height as f64 && column < width as f64;
            if inside {
                sum += along * across * pixels[row as usize * width + column as usize].as_f64();
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use crate::op::{AutoPad, Op};
    use crate::tensor::Tensor;

    /// Spreads each element by its kernel, as a transposed convolution is defined.
    #[test]
    fn every_element_is_spread_by_its_kernel() {
        let mut numbers = Numbers(11);
        let (x, w) = (numbers.tensor(&[2, 4, 3, 5]), numbers.tensor(&[4, 3, 2, 3]));
        let bias = numbers.tensor(&[6]);
        let op = |output: Vec<i64>| Op::ConvTranspose {
            strides: vec![2, 3],
            pads: vec![1, 0, 0, 2],
            dilations: vec![2, 1],
            groups: 2,
            output_padding: vec![1, 0],
            output,
            auto: AutoPad::Given,
        };
        let y = run(op(Vec::new()), &[x.clone(), w.clone(), bias.clone()]);
        // 2 (3 - 1) + 3 + 1 - 1 rows and 3 (5 - 1) + 3 - 2 columns.
        assert_eq!(y.shape(), [2, 6, 7, 13]);
        for i in 0..y.len() {
            let to = place(y.shape(), i);
            let mut sum = at::<f32>(&bias, &[to[1]]);
            for (c, h, v) in (0..2).flat_map(|c| (0..3).flat_map(move |h| (0..5).map(move |v| (c, h, v)))) {
                for (a, b) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)] {
                    if h * 2 + a * 2 == to[2] + 1 && v * 3 + b == to[3] {
                        let c = to[1] / 3 * 2 + c;
                        sum += at::<f32>(&x, &[to[0], c, h, v]) * at::<f32>(&w, &[c, to[1] % 3, a, b]);
                    }
                }
            }
            assert_eq!(at::<f32>(&y, &to), sum);
        }
        assert_eq!(run(op(vec![8, 20]), &[x.clone(), w.clone()]).shape(), [2, 6, 8, 20]);
        refused(op(vec![8]), &[x, w], "for 2 axes");
    }

    #[test]
    fn long_kernels_over_long_signals_need_no_more_than_both() {
        // 2^12 elements spread by as many each: 2^24 products, of which a part is held at a time.
        let n = 1usize << 12;
        let op = Op::ConvTranspose {
            strides: vec![n as i64],
            pads: vec![0, 0],
            dilations: vec![1],
            groups: 1,
            output_padding: vec![0],
            output: Vec::new(),
            auto: AutoPad::Given,
        };
        let mut numbers = Numbers(3);
        let (x, w) = (numbers.tensor(&[1, 1, n]), numbers.tensor(&[1, 1, n]));
        let y = run(op, &[x.clone(), w.clone(), t(&[1], &[1f32])]);
        let (x, w, y) =
            (x.as_slice::<f32>().unwrap(), w.as_slice::<f32>().unwrap(), y.as_slice::<f32>().unwrap());
        for at in [0, 1, n - 1, n, 5 * n + 7, n * n - 1] {
            let want: f32 = x[at / n] * w[at % n] + 1.0;
            assert_eq!(y[at], want, "{at}");
        }
    }

    #[test]
    fn blocks_are_summed_where_they_overlap() {
        // Blocks of 2 at 0 and 1 of an image of 3.
        let op = Op::Col2Im { strides: vec![1], pads: vec![0, 0], dilations: vec![1] };
        let x = t(&[1, 2, 2], &[1f32, 2.0, 10.0, 20.0]);
        let y = run(op.clone(), &[x.clone(), t(&[1], &[3i64]), t(&[1], &[2i64])]);
        assert_eq!(y, t(&[1, 1, 3], &[1f32, 12.0, 20.0]));
        refused(op, &[x, t(&[1], &[4i64]), t(&[1], &[2i64])], "2 blocks where");
    }

    #[test]
    fn without_offsets_a_deformable_convolution_is_a_convolution() {
        let mut numbers = Numbers(7);
        let (x, w) = (numbers.tensor(&[2, 4, 5, 6]), numbers.tensor(&[4, 2, 3, 2]));
        let (strides, pads, dilations) = (vec![1, 2], vec![1, 0, 1, 1], vec![1, 1]);
        let conv = Op::Conv {
            strides: strides.clone(),
            pads: pads.clone(),
            dilations: dilations.clone(),
            groups: 2,
        };
        let want = run(conv, &[x.clone(), w.clone()]);
        let op = Op::DeformConv { strides, pads, dilations, groups: 2, offset_groups: 2, biased: false };
        let [b, _, h, v] = want.shape() else { panic!() };
        let zero = Tensor::new(vec![*b, 24, *h, *v], vec![0f32; b * 24 * h * v]).unwrap();
        assert_eq!(run(op, &[x, w, zero]), want);
    }
}
