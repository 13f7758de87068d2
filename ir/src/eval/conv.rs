//! Convolutions and the windows they multiply.

use rayon::prelude::*;

use super::matmul::{MulAdd, Rectangle, Right, rectangles};
use super::{Number, for_elem, strides, zeros};
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
            out.par_chunks_mut(len).enumerate().for_each(|(i, out)| {
                let first = i / positions * image;
                windows.read(&from[first..first + image], i % positions, out);
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
    if depth.checked_mul(groups) != Some(*channels) || outs % groups != 0 {
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
    zeros::<T>(&[len, POSITIONS])?;
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
                Rectangle { a, b, k: depth, first: 0, out: rows }.compute();
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
