//! Axes that are padded, resized or sampled: every result is read from a few places of the operand.

use rayon::prelude::*;

use super::elementwise::cast;
use super::matmul::rectangles;
use super::{CHUNK, Number, for_elem, indices, pieces, strides, zeros};
use crate::elem::Elem;
use crate::op::{AspectRatio, Border, Coordinates, Interpolation, NearestFn, Op, PadMode};
use crate::tensor::{Element, Tensor, axis, count};
use crate::windows::{self, Target};

/// A place outside the operand.
const NOWHERE: usize = usize::MAX;

/// Sampled positions of a task.
const POSITIONS: usize = 1 << 10;

/// A list of `n` entries, or an error when memory does not hold it.
fn list<T>(n: usize, f: impl FnMut(usize) -> T) -> Result<Vec<T>, String> {
    let mut out = Vec::new();
    out.try_reserve_exact(n).map_err(|e| format!("an axis of length {n}: {e}"))?;
    out.extend((0..n).map(f));
    Ok(out)
}

/// The axes named, or all.
fn chosen(axes: &[i64], rank: usize) -> Result<Vec<usize>, String> {
    if axes.is_empty() {
        return Ok((0..rank).collect());
    }
    let out = axes.iter().map(|&a| axis(a, rank)).collect::<Result<Vec<_>, _>>()?;
    let mut sorted = out.clone();
    sorted.sort_unstable();
    if sorted.windows(2).any(|w| w[0] == w[1]) {
        return Err(format!("axes {axes:?} name an axis twice"));
    }
    Ok(out)
}

/// A tensor of `shape` whose element at `(i, j, ..)` is x's at `(table(0)[i], table(1)[j], ..)`, or `fill`
/// where one of them is [`NOWHERE`].
fn picked<T: Element + Default>(
    x: &Tensor,
    shape: Vec<usize>,
    table: impl Fn(usize) -> Result<Vec<usize>, String>,
    fill: T,
) -> Result<Tensor, String> {
    let from = x.as_slice::<T>()?;
    let mut out = zeros::<T>(&shape)?;
    let Some(last) = shape.len().checked_sub(1) else { return Ok(x.clone()) };
    if out.is_empty() {
        return Tensor::new(shape, out);
    }
    let tables = (0..shape.len()).map(table).collect::<Result<Vec<_>, _>>()?;
    let steps = strides(x.shape());
    let (row, width) = (&tables[last], shape[last]);
    // Runs of neighbours along the last axis: begin, length and first source.
    let mut runs: Vec<(usize, usize, usize)> = Vec::new();
    for (i, &at) in row.iter().enumerate() {
        match runs.last_mut() {
            Some((_, n, NOWHERE)) if at == NOWHERE => *n += 1,
            Some((_, n, first)) if *first != NOWHERE && at == *first + *n => *n += 1,
            _ => runs.push((i, 1, at)),
        }
    }
    let (long, whole) = (runs.len() * 4 <= width, !row.contains(&NOWHERE));
    pieces(&mut out, width.saturating_mul((CHUNK / width).max(1)), &|start, out| {
        let mut before = None;
        for i in 0..out.len() / width {
            let (mut rest, mut base) = (start / width + i, Some(0));
            for d in (0..last).rev() {
                let at = tables[d][rest % shape[d]];
                rest /= shape[d];
                base = base.filter(|_| at != NOWHERE).map(|b| b + at * steps[d]);
            }
            if base.is_some() && base == before {
                // The row that was just written again.
                out.copy_within((i - 1) * width..i * width, i * width);
                continue;
            }
            before = base;
            let out = &mut out[i * width..(i + 1) * width];
            let Some(base) = base else {
                out.fill(fill);
                continue;
            };
            let line = &from[base..base + x.shape()[last]];
            if long {
                for &(to, n, first) in &runs {
                    match first {
                        NOWHERE => out[to..to + n].fill(fill),
                        _ => out[to..to + n].copy_from_slice(&line[first..first + n]),
                    }
                }
            } else if whole {
                out.iter_mut().zip(row).for_each(|(o, &at)| *o = line[at]);
            } else {
                for (o, &at) in out.iter_mut().zip(row) {
                    *o = if at == NOWHERE { fill } else { line[at] };
                }
            }
        }
    });
    Tensor::new(shape, out)
}

/// Position of element `at` of a padded axis on the original one of `len` elements, `lo..hi` of which are
/// left after cutting.
fn padded(mode: PadMode, at: i64, lo: i64, hi: i64) -> Option<i64> {
    if (lo..hi).contains(&at) {
        return Some(at);
    }
    let n = hi - lo;
    match mode {
        PadMode::Constant => None,
        PadMode::Edge => Some(at.clamp(lo, hi - 1)),
        PadMode::Wrap => Some(lo + (at - lo).rem_euclid(n)),
        PadMode::Reflect if n == 1 => Some(lo),
        PadMode::Reflect => {
            let r = (at - lo).rem_euclid(2 * (n - 1));
            Some(lo + if r < n { r } else { 2 * (n - 1) - r })
        }
    }
}

/// [`Op::Pad`].
pub(super) fn pad(
    x: &Tensor,
    pads: &Tensor,
    value: Option<&Tensor>,
    mode: PadMode,
    axes: &[i64],
) -> Result<Tensor, String> {
    let axes = chosen(axes, x.rank())?;
    let pads = indices(pads)?;
    if pads.len() != 2 * axes.len() {
        return Err(format!("{} pads for {} axes", pads.len(), axes.len()));
    }
    let mut shape = x.shape().to_vec();
    let mut ends = vec![(0i64, 0i64); x.rank()];
    for (i, &a) in axes.iter().enumerate() {
        let (begin, end) = (pads[i], pads[i + axes.len()]);
        let len = i64::try_from(shape[a]).ok().and_then(|n| n.checked_add(begin)?.checked_add(end));
        let len = len.and_then(|n| usize::try_from(n).ok());
        let bad = || format!("pads of {begin} and {end} on axis {a} of x {:?}", x.shape());
        let kept = i128::from(begin.min(0)) + i128::from(end.min(0)) + shape[a] as i128;
        let new = len.ok_or_else(bad)?;
        if new > 0 && (kept < 0 || (kept == 0 && mode != PadMode::Constant)) {
            return Err(bad());
        }
        shape[a] = new;
        ends[a] = (begin, end);
    }
    if value.is_some_and(|v| v.elem() != x.elem() || v.len() != 1) {
        return Err(format!("{} is padded with another type or several numbers", x.elem()));
    }
    for_elem!(any x, T => {
        let fill = match value {
            Some(v) => v.as_slice::<T>()?.first().copied().unwrap_or_default(),
            None => T::default(),
        };
        let table = |d: usize| {
            let (begin, end) = ends[d];
            let (lo, hi) = ((-begin).max(0), x.shape()[d] as i64 + end.min(0));
            list(shape[d], |i| {
                padded(mode, i as i64 - begin, lo, hi).map_or(NOWHERE, |at| at as usize)
            })
        };
        picked::<T>(x, shape.clone(), table, fill)
    })
}

/// One resized axis.
struct Axis {
    at: usize,
    /// Length before and after.
    from: usize,
    to: usize,
    scale: f64,
    /// Begin and end of the region, as shares of the axis.
    region: (f64, f64),
}

impl Axis {
    /// Where element `i` lies on the original axis, in single precision: which element is the nearest may
    /// depend on it.
    fn place(&self, i: usize, coordinates: Coordinates) -> f64 {
        let (i, from, scale) = (i as f32, self.from as f32, self.scale as f32);
        // The length before it was rounded.
        let to = scale * from;
        f64::from(match coordinates {
            Coordinates::AlignCorners if to == 1.0 => 0.0,
            Coordinates::AlignCorners => i * (from - 1.0) / (to - 1.0),
            Coordinates::Asymmetric => i / scale,
            Coordinates::PytorchHalfPixel if to == 1.0 => -0.5,
            Coordinates::HalfPixel | Coordinates::PytorchHalfPixel => (i + 0.5) / scale - 0.5,
            Coordinates::TfHalfPixel => (i + 0.5) / scale,
            Coordinates::HalfPixelSymmetric => {
                from / 2.0 * (1.0 - self.to as f32 / to) + (i + 0.5) / scale - 0.5
            }
            Coordinates::CropAndResize => {
                let (begin, end) = (self.region.0 as f32, self.region.1 as f32);
                // One result lies in the middle of the region.
                let along = if to == 1.0 { 0.5 } else { i / (to - 1.0) };
                along * (end - begin) * (from - 1.0) + begin * (from - 1.0)
            }
        })
    }

    /// Whether a place is beyond the axis, where a crop has no values.
    fn outside(&self, place: f64, coordinates: Coordinates) -> bool {
        coordinates == Coordinates::CropAndResize && !(0.0..=self.from as f64 - 1.0).contains(&place)
    }

    /// The nearest element of each place.
    fn nearest(&self, coordinates: Coordinates, f: NearestFn) -> Result<Vec<usize>, String> {
        list(self.to, |i| {
            let place = self.place(i, coordinates);
            if self.outside(place, coordinates) {
                return NOWHERE;
            }
            let nearest = match f {
                NearestFn::PreferFloor => (place - 0.5).ceil(),
                NearestFn::PreferCeil => (place + 0.5).floor(),
                NearestFn::Simple if self.scale < 1.0 => place.ceil(),
                NearestFn::Floor | NearestFn::Simple => place.floor(),
                NearestFn::Ceil => place.ceil(),
            };
            // Saturates; the axis has elements.
            (nearest.max(0.0) as usize).min(self.from - 1)
        })
    }

    /// For each place the elements around it and their weights, `taps` each; empty beyond the axis.
    fn weights(&self, r: &Interpolated) -> Result<(usize, Vec<(usize, f64)>), String> {
        let scale = if r.antialias { self.scale.min(1.0) } else { 1.0 };
        let support = if r.cubic.is_some() { 2.0 } else { 1.0 };
        let first = (-support / scale).floor() as i64 + 1;
        let taps = usize::try_from(2 - 2 * first).map_err(|_| "too small a scale")?;
        let total = taps.checked_mul(self.to).ok_or("too small a scale")?;
        let mut out = Vec::new();
        out.try_reserve_exact(total).map_err(|e| e.to_string())?;
        let mut weights = vec![0.0; taps];
        for i in 0..self.to {
            let place = self.place(i, r.coordinates);
            if self.outside(place, r.coordinates) {
                out.extend((0..taps).map(|_| (NOWHERE, 0.0)));
                continue;
            }
            // The element on the left of the place; a place on an element is on its right.
            let left = place.ceil() - 1.0;
            let ratio = place - left;
            for (j, w) in (first..).zip(&mut weights) {
                let inside = (0.0..self.from as f64).contains(&(left + j as f64));
                *w = if r.exclude_outside && !inside { 0.0 } else { r.kernel((j as f64 - ratio) * scale) };
            }
            let sum: f64 = weights.iter().sum();
            let by = if (r.antialias || r.exclude_outside) && sum != 0.0 { sum } else { 1.0 };
            for (j, w) in (first..).zip(&weights) {
                let at = (left + j as f64).clamp(0.0, self.from as f64 - 1.0) as usize;
                out.push((at, w / by));
            }
        }
        Ok((taps, out))
    }
}

/// How values between elements are made.
struct Interpolated {
    coordinates: Coordinates,
    /// The coefficient of cubic interpolation; `None` for linear.
    cubic: Option<f64>,
    exclude_outside: bool,
    antialias: bool,
    extrapolation: f64,
}

impl Interpolated {
    /// Weight of an element at a distance.
    fn kernel(&self, x: f64) -> f64 {
        let x = x.abs();
        match self.cubic {
            None => (1.0 - x).max(0.0),
            Some(a) => keys(a, x),
        }
    }
}

/// The cubic convolution kernel of Keys (1981), at a distance that is not negative.
fn keys(a: f64, x: f64) -> f64 {
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}

/// Numbers of a one-dimensional operand.
fn reals(t: &Tensor) -> Result<Vec<f64>, String> {
    Ok(cast(t, Elem::F64)?.as_slice::<f64>()?.to_vec())
}

/// [`Op::Resize`] of x, sizes or scales unless they are attributes, and the region of a crop.
pub(super) fn resize(op: &Op, x: &[Tensor]) -> Result<Tensor, String> {
    let Op::Resize {
        mode,
        coordinates,
        nearest,
        cubic,
        exclude_outside,
        extrapolation,
        antialias,
        aspect,
        axes,
        scales,
    } = op
    else {
        return Err("is no resize".into());
    };
    let chosen = chosen(axes, x[0].rank())?;
    if chosen.is_empty() && x[1..].iter().any(|t| !t.is_empty()) {
        return Err("sizes or scales of no axes".into());
    }
    let mut rest = x[1..].iter();
    let x = &x[0];
    let lens: Vec<i64> = chosen
        .iter()
        .map(|&a| i64::try_from(x.shape()[a]).map_err(|e| e.to_string()))
        .collect::<Result<_, _>>()?;
    let lengths = if scales.is_empty() && !chosen.is_empty() {
        let target = rest.next().ok_or("needs sizes or scales")?;
        match target.elem() {
            Elem::I64 => windows::resized(&lens, &Target::Sizes(target.as_slice()?), *aspect)?,
            _ => windows::resized(&lens, &Target::Scales(&reals(target)?), AspectRatio::Stretch)?,
        }
    } else {
        let scales: Vec<f64> = scales.iter().map(|&s| s.into()).collect();
        windows::resized(&lens, &Target::Scales(&scales), AspectRatio::Stretch)?
    };
    let n = chosen.len();
    let region = match coordinates {
        Coordinates::CropAndResize => reals(rest.next().ok_or("needs a region")?)?,
        _ => [vec![0.0; n], vec![1.0; n]].concat(),
    };
    if region.len() != 2 * n {
        return Err(format!("a region of {} numbers for {n} axes", region.len()));
    }
    let mut shape = x.shape().to_vec();
    let mut resized = Vec::new();
    for (i, (&at, (to, scale))) in chosen.iter().zip(lengths).enumerate() {
        let (from, to) = (shape[at], usize::try_from(to).map_err(|e| e.to_string())?);
        if from == 0 && to > 0 {
            return Err(format!("axis {at} has no elements to resize"));
        }
        shape[at] = to;
        let region = (region[i], region[i + n]);
        let same = from == to && (scale - 1.0).abs() <= 1e-9 && region == (0.0, 1.0);
        if !same {
            resized.push(Axis { at, from, to, scale, region });
        }
    }
    if count(&shape) == Some(0) {
        return for_elem!(any x, T => Tensor::new(shape, Vec::<T>::new()));
    }
    if *mode == Interpolation::Nearest {
        return for_elem!(any x, T => {
            let table = |d: usize| match resized.iter().find(|a| a.at == d) {
                Some(axis) => axis.nearest(*coordinates, *nearest),
                None => list(shape[d], |i| i),
            };
            let fill = cast(&Tensor::scalar(*extrapolation), x.elem())?;
            picked::<T>(x, shape.clone(), table, fill.as_slice::<T>()?[0])
        });
    }
    shrink_first(x.shape(), &shape, &mut resized);
    let r = Interpolated {
        coordinates: *coordinates,
        cubic: (*mode == Interpolation::Cubic).then_some((*cubic).into()),
        exclude_outside: *exclude_outside,
        antialias: *antialias,
        extrapolation: (*extrapolation).into(),
    };
    if x.elem().is_float() {
        return for_elem!(float x, T => interpolate::<T>(x.clone(), &resized, &r));
    }
    let y = interpolate::<f64>(cast(x, Elem::F64)?, &resized, &r)?;
    let rounded = y.as_slice::<f64>()?.iter().map(|v| v.round_ties_even()).collect();
    cast(&Tensor::new(shape, rounded)?, x.elem())
}

/// Puts axes that shrink before those that grow where the other order would make tensors much larger
/// than the operand and the result on the way.
fn shrink_first(before: &[usize], after: &[usize], axes: &mut [Axis]) {
    let size = |shape: &[usize]| shape.iter().fold(1u128, |n, &d| n.saturating_mul(d as u128));
    let most = size(before).max(size(after)).saturating_mul(4);
    let mut shape = before.to_vec();
    let too_large = |axis: &Axis| {
        shape[axis.at] = axis.to;
        size(&shape) > most
    };
    if axes.iter().any(too_large) {
        let ratio = |a: &Axis, b: &Axis| a.to as u128 * b.from as u128;
        axes.sort_by(|a, b| ratio(a, b).cmp(&ratio(b, a)));
    }
}

/// Resizes one axis after the other.
fn interpolate<T: Number<Wide = f64>>(
    mut x: Tensor,
    axes: &[Axis],
    r: &Interpolated,
) -> Result<Tensor, String> {
    for axis in axes {
        let mut shape = x.shape().to_vec();
        shape[axis.at] = axis.to;
        let inner = count(&shape[axis.at + 1..]).ok_or("too many elements")?;
        let mut out = zeros::<T>(&shape)?;
        let (taps, weights) = axis.weights(r)?;
        let from = x.as_slice::<T>()?;
        let weights: Vec<(usize, T)> = weights.into_iter().map(|(at, w)| (at, T::narrow(w))).collect();
        let (beyond, block) = (T::narrow(r.extrapolation), axis.to * inner);
        let pairs: Vec<[(usize, T); 2]> = match taps {
            2 => weights.chunks_exact(2).map(|w| [w[0], w[1]]).collect(),
            _ => Vec::new(),
        };
        if inner == 1 {
            let rows = (CHUNK / block).max(1);
            pieces(&mut out, block.saturating_mul(rows), &|start, out| {
                for (i, out) in out.chunks_mut(block).enumerate() {
                    let line = &from[(start / block + i) * axis.from..][..axis.from];
                    if taps == 2 && r.coordinates != Coordinates::CropAndResize {
                        for (o, [(a, v), (b, w)]) in out.iter_mut().zip(&pairs) {
                            *o = line[*a].mul(*v).add(line[*b].mul(*w));
                        }
                        continue;
                    }
                    for (o, weights) in out.iter_mut().zip(weights.chunks_exact(taps)) {
                        *o = match weights[0].0 {
                            NOWHERE => beyond,
                            _ => weights.iter().fold(T::default(), |s, &(at, w)| s.add(line[at].mul(w))),
                        };
                    }
                }
            });
        } else {
            let rows = (CHUNK / inner).max(1);
            pieces(&mut out, inner.saturating_mul(rows), &|start, out| {
                for (i, out) in out.chunks_mut(inner).enumerate() {
                    let row = start / inner + i;
                    let plane = &from[row / axis.to * axis.from * inner..][..axis.from * inner];
                    let weights = &weights[row % axis.to * taps..][..taps];
                    if weights[0].0 == NOWHERE {
                        out.fill(beyond);
                        continue;
                    }
                    if let &[(a, v), (b, w)] = weights {
                        let (a, b) = (&plane[a * inner..][..inner], &plane[b * inner..][..inner]);
                        for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) {
                            *o = a.mul(v).add(b.mul(w));
                        }
                        continue;
                    }
                    for &(at, w) in weights {
                        let line = &plane[at * inner..][..inner];
                        out.iter_mut().zip(line).for_each(|(o, &v)| *o = o.add(v.mul(w)));
                    }
                }
            });
        }
        x = Tensor::new(shape, out)?;
    }
    Ok(x)
}

/// One sampled axis.
struct Sampled {
    len: usize,
    border: Border,
    align: bool,
}

impl Sampled {
    /// Mirrors a place at the ends of the axis.
    fn reflect(&self, place: f64) -> f64 {
        let (lo, hi) = if self.align { (0.0, self.len as f64 - 1.0) } else { (-0.5, self.len as f64 - 0.5) };
        if (lo..=hi).contains(&place) || hi <= lo {
            return if hi <= lo { lo } else { place };
        }
        let r = (place - lo).rem_euclid(2.0 * (hi - lo));
        if r <= hi - lo { lo + r } else { hi - (r - (hi - lo)) }
    }

    /// The element at an index, or [`NOWHERE`].
    fn element(&self, at: f64) -> usize {
        let last = self.len as f64 - 1.0;
        match self.border {
            Border::Zeros if (0.0..=last).contains(&at) => at as usize,
            Border::Zeros => NOWHERE,
            Border::Edge => at.clamp(0.0, last) as usize,
            // Truncates towards zero: a mirrored element just before the first is the first.
            Border::Reflection => self.reflect(at).clamp(0.0, last) as usize,
        }
    }

    /// The elements around a coordinate from -1 to 1, and their weights.
    fn taps(&self, coordinate: f64, mode: Interpolation, out: &mut Vec<(usize, f64)>) {
        out.clear();
        let n = self.len as f64;
        let place = if self.align {
            (coordinate + 1.0) / 2.0 * (n - 1.0)
        } else {
            ((coordinate + 1.0) * n - 1.0) / 2.0
        };
        // Sampled grids are single precision: ties of the nearest element depend on it.
        let mut place = f64::from(place as f32);
        if mode == Interpolation::Nearest {
            place = place.round_ties_even();
        }
        let (lo, hi) = if self.align { (0.0, n - 1.0) } else { (-0.5, n - 0.5) };
        if !(lo..=hi).contains(&place) {
            match self.border {
                Border::Zeros => {}
                // Cubic weights spread over elements that are held one by one.
                Border::Edge if mode == Interpolation::Cubic => {}
                Border::Edge => place = place.clamp(0.0, n - 1.0),
                Border::Reflection => place = self.reflect(place),
            }
        }
        if !place.is_finite() {
            // No place at all: zeros.
            out.push((NOWHERE, 0.0));
            return;
        }
        let floor = place.floor();
        let ratio = place - floor;
        match mode {
            Interpolation::Nearest => out.push((self.element(place.trunc()), 1.0)),
            Interpolation::Linear => {
                out.extend([(self.element(floor), 1.0 - ratio), (self.element(floor + 1.0), ratio)]);
            }
            Interpolation::Cubic => out.extend((-1i32..3).map(|i| {
                let i = f64::from(i);
                (self.element(floor + i), keys(-0.75, (i - ratio).abs()))
            })),
        }
    }
}

/// [`Op::GridSample`].
pub(super) fn grid_sample(
    x: &Tensor,
    grid: &Tensor,
    mode: Interpolation,
    border: Border,
    align: bool,
) -> Result<Tensor, String> {
    let (&[batch, channels, ref spatial @ ..], [grids, .., rank]) = (x.shape(), grid.shape()) else {
        return Err(format!("x {:?} and a grid {:?}", x.shape(), grid.shape()));
    };
    let r = spatial.len();
    if r == 0 || r > 8 || *rank != r || grid.rank() != r + 2 || *grids != batch {
        return Err(format!("a grid {:?} for x {:?}", grid.shape(), x.shape()));
    }
    let places = &grid.shape()[1..grid.rank() - 1];
    let shape = [&[batch, channels], places].concat();
    let positions = count(places).ok_or("too many positions")?;
    if spatial.contains(&0) && count(&shape) != Some(0) {
        return Err(format!("x {:?} has no elements to sample", x.shape()));
    }
    let steps = strides(spatial);
    let plane = count(spatial).ok_or("too many elements")?;
    let axes: Vec<Sampled> = spatial.iter().map(|&len| Sampled { len, border, align }).collect();
    let grid = cast(grid, Elem::F64)?;
    let grid = grid.as_slice::<f64>()?;
    for_elem!(float x, T => {
        let from = x.as_slice::<T>()?;
        let mut out = zeros::<T>(&shape)?;
        if out.is_empty() {
            return Tensor::new(shape, out);
        }
        let mut tasks = Vec::new();
        for (i, out) in out.chunks_mut(channels * positions).enumerate() {
            tasks.extend(rectangles(out, positions, channels, POSITIONS).into_iter().map(|task| (i, task)));
        }
        tasks.into_par_iter().for_each(|(i, (_, first, mut rows))| {
            let (mut along, mut found, mut spare) = (Vec::new(), Vec::new(), Vec::new());
            for p in 0..rows.first().map_or(0, |row| row.len()) {
                let place = &grid[(i * positions + first + p) * r..][..r];
                found.clear();
                found.push((0, 1.0));
                for (d, axis) in axes.iter().enumerate() {
                    axis.taps(place[r - 1 - d], mode, &mut along);
                    spare.clear();
                    for &(base, weight) in &found {
                        spare.extend(along.iter().filter(|(at, _)| *at != NOWHERE).map(|&(at, w)| {
                            (base + at * steps[d], weight * w)
                        }));
                    }
                    std::mem::swap(&mut found, &mut spare);
                }
                for (c, row) in rows.iter_mut().enumerate() {
                    let pixels = &from[(i * channels + c) * plane..][..plane];
                    let sum = found.iter().fold(0.0, |s, &(at, w)| s + w * pixels[at].as_f64());
                    row[p] = T::narrow(sum);
                }
            }
        });
        Tensor::new(shape, out)
    })
}

/// [`Op::AffineGrid`].
pub(super) fn affine_grid(theta: &Tensor, size: &Tensor, align: bool) -> Result<Tensor, String> {
    let size = indices(size)?;
    let lens: Result<Vec<usize>, _> = size.iter().map(|&n| usize::try_from(n)).collect();
    let lens = lens.map_err(|_| format!("a size {size:?}"))?;
    let [batch, _, spatial @ ..] = &lens[..] else { return Err(format!("a size {size:?}")) };
    let r = spatial.len();
    if !(2..=3).contains(&r) || theta.shape() != [*batch, r, r + 1] {
        return Err(format!("theta {:?} for a size {size:?}", theta.shape()));
    }
    let shape = [&[*batch], spatial, &[r]].concat();
    let positions = count(spatial).ok_or("too many positions")?;
    let steps = strides(spatial);
    for_elem!(float theta, T => {
        let maps = theta.as_slice::<T>()?;
        let mut out = zeros::<T>(&shape)?;
        pieces(&mut out, CHUNK / r * r, &|start, out| {
            for (i, out) in out.chunks_exact_mut(r).enumerate() {
                let at = start / r + i;
                let (image, place) = (at / positions, at % positions);
                let map = &maps[image * r * (r + 1)..][..r * (r + 1)];
                for (o, row) in out.iter_mut().zip(map.chunks_exact(r + 1)) {
                    // The last axis comes first.
                    let sum = (0..r).fold(row[r].as_f64(), |s, j| {
                        let d = r - 1 - j;
                        let (k, n) = ((place / steps[d] % spatial[d]) as f64, spatial[d] as f64);
                        let along = match align {
                            true if n == 1.0 => -1.0,
                            true => 2.0 * k / (n - 1.0) - 1.0,
                            false => (2.0 * k + 1.0) / n - 1.0,
                        };
                        s + row[j].as_f64() * along
                    });
                    *o = T::narrow(sum);
                }
            }
        });
        Tensor::new(shape, out)
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    fn pads(values: &[i64]) -> Tensor {
        t(&[values.len()], values)
    }

    #[test]
    fn padding_continues_what_is_left_after_cutting() {
        let x = t(&[1, 4], &[1i32, 2, 3, 4]);
        let run_as = |mode, begin, end| {
            let op = Op::Pad { mode, axes: vec![-1] };
            run(op, &[x.clone(), pads(&[begin, end])]).as_slice::<i32>().unwrap().to_vec()
        };
        // numpy.pad of [1, 2, 3, 4], and of [2, 3, 4] where one is cut.
        assert_eq!(run_as(PadMode::Constant, 1, 2), [0, 1, 2, 3, 4, 0, 0]);
        assert_eq!(run_as(PadMode::Edge, -1, 2), [2, 3, 4, 4, 4]);
        assert_eq!(run_as(PadMode::Reflect, 4, 1), [3, 4, 3, 2, 1, 2, 3, 4, 3]);
        assert_eq!(run_as(PadMode::Wrap, 1, 5), [4, 1, 2, 3, 4, 1, 2, 3, 4, 1]);
        assert_eq!(run_as(PadMode::Wrap, -1, 2), [2, 3, 4, 2, 3]);
        let op = Op::Pad { mode: PadMode::Edge, axes: Vec::new() };
        refused(op.clone(), &[x.clone(), pads(&[0, -5, 0, 0])], "pads of -5");
        refused(op.clone(), &[x.clone(), pads(&[0, -4, 0, 6])], "pads of -4");
        refused(op.clone(), &[x.clone(), pads(&[0, i64::MAX, 0, i64::MAX])], "pads of");
        refused(op, &[x, pads(&[0, 1 << 50, 0, 0])], "larger than 2^40");
    }

    fn resize(mode: Interpolation, coordinates: Coordinates) -> Op {
        Op::Resize {
            mode,
            coordinates,
            nearest: NearestFn::PreferFloor,
            cubic: -0.75,
            exclude_outside: false,
            extrapolation: 0.0,
            antialias: false,
            aspect: AspectRatio::Stretch,
            axes: vec![1],
            scales: Vec::new(),
        }
    }

    #[test]
    fn an_axis_is_resized_between_its_elements() {
        let x = t(&[1, 3], &[0f32, 4.0, 8.0]);
        let to = |mode, coordinates, n: i64| {
            run(resize(mode, coordinates), &[x.clone(), pads(&[n])]).as_slice::<f32>().unwrap().to_vec()
        };
        // Places (i + 0.5) / 2 - 0.5, held at the ends.
        let half = to(Interpolation::Linear, Coordinates::HalfPixel, 6);
        assert_eq!(half, [0.0, 1.0, 3.0, 5.0, 7.0, 8.0]);
        assert_eq!(to(Interpolation::Linear, Coordinates::AlignCorners, 5), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(to(Interpolation::Nearest, Coordinates::Asymmetric, 6), [0.0, 0.0, 4.0, 4.0, 8.0, 8.0]);
        let one =
            run(resize(Interpolation::Linear, Coordinates::HalfPixel), &[t(&[1, 1], &[7u8]), pads(&[4])]);
        assert_eq!(one, t(&[1, 4], &[7u8; 4]));
        let empty = t(&[1, 0], &[0f32; 0]);
        refused(resize(Interpolation::Linear, Coordinates::HalfPixel), &[empty, pads(&[2])], "no elements");
        refused(resize(Interpolation::Linear, Coordinates::HalfPixel), &[x, pads(&[1 << 50])], "2^40");
    }

    #[test]
    fn one_axis_may_grow_as_much_as_another_shrinks() {
        // 2^20 to 1 and 1 to 2^20: 2^40 elements if the second came first.
        let n = 1usize << 20;
        let x = t(&[1, n], &vec![3f32; n]);
        let op = Op::Resize {
            mode: Interpolation::Linear,
            coordinates: Coordinates::HalfPixel,
            nearest: NearestFn::PreferFloor,
            cubic: -0.75,
            exclude_outside: false,
            extrapolation: 0.0,
            antialias: false,
            aspect: AspectRatio::Stretch,
            axes: Vec::new(),
            scales: Vec::new(),
        };
        assert_eq!(run(op, &[x, pads(&[1 << 20, 1])]), t(&[n, 1], &vec![3f32; n]));
    }

    #[test]
    fn a_grid_of_places_samples_itself() {
        let mut numbers = Numbers(2);
        let x = numbers.tensor(&[2, 3, 4, 5]);
        let theta = t(&[2, 2, 3], &[1f32, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
        for align_corners in [false, true] {
            let grid = run(Op::AffineGrid { align_corners }, &[theta.clone(), pads(&[2, 3, 4, 5])]);
            for mode in [Interpolation::Nearest, Interpolation::Linear, Interpolation::Cubic] {
                let op = Op::GridSample { mode, border: Border::Zeros, align_corners };
                let y = run(op, &[x.clone(), grid.clone()]);
                let (a, b) = (x.as_slice::<f32>().unwrap(), y.as_slice::<f32>().unwrap());
                assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4), "{mode:?} {align_corners}");
            }
        }
    }

    #[test]
    fn places_beyond_the_border_are_zero_held_or_mirrored() {
        let x = t(&[1, 1, 3], &[1f32, 2.0, 4.0]);
        // Coordinate 2 of 3 elements whose corners are aligned is place 3; -2 is place -1.
        let grid = t(&[1, 2, 1], &[2f32, -2.0]);
        for (border, want) in
            [(Border::Zeros, [0f32, 0.0]), (Border::Edge, [4.0, 1.0]), (Border::Reflection, [2.0, 2.0])]
        {
            let op = Op::GridSample { mode: Interpolation::Linear, border, align_corners: true };
            assert_eq!(run(op, &[x.clone(), grid.clone()]), t(&[1, 1, 2], &want));
        }
        let op = Op::GridSample { mode: Interpolation::Linear, border: Border::Zeros, align_corners: true };
        refused(op, &[x, t(&[1, 2, 2], &[0f32; 4])], "a grid");
    }
}
