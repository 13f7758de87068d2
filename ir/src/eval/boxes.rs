//! Boxes on images: pooled regions and the selection of boxes.

use rayon::prelude::*;

use super::elementwise::cast;
use super::{Number, for_elem, indices, scalar_i64, zeros};
use crate::elem::Elem;
use crate::op::Op;
use crate::tensor::Tensor;

/// Most samples of one box.
const SAMPLES: f64 = (1u32 << 21) as f64;

/// The lengths of a result of `height` by `width` bins.
fn bins(height: i64, width: i64) -> Result<(usize, usize), String> {
    let side = |n: i64| usize::try_from(n).ok().filter(|n| (1..=1 << 20).contains(n));
    side(height).zip(side(width)).ok_or_else(|| format!("an output of {height} by {width}"))
}

/// A sample: four elements of a channel and their weights.
type Sample = [(usize, f64); 4];

/// A point between the elements of a channel, or `None` when it is further than one beyond them.
fn sample(y: f64, x: f64, height: usize, width: usize) -> Option<Sample> {
    let side = |v: f64, n: usize| {
        if !(-1.0..=n as f64).contains(&v) {
            return None;
        }
        let (v, last) = (v.max(0.0), n - 1);
        let low = v as usize;
        Some(if low >= last { (last, last, 0.0) } else { (low, low + 1, v - low as f64) })
    };
    let ((top, bottom, y), (left, right, x)) = side(y, height).zip(side(x, width))?;
    Some([
        (top * width + left, (1.0 - y) * (1.0 - x)),
        (top * width + right, (1.0 - y) * x),
        (bottom * width + left, y * (1.0 - x)),
        (bottom * width + right, y * x),
    ])
}

/// [`Op::RoiAlign`] of x, boxes and batch indices.
pub(super) fn roi_align(op: &Op, x: &[Tensor]) -> Result<Tensor, String> {
    let Op::RoiAlign { max, half_pixel, height, width, sampling, scale } = op else {
        return Err("is no roi_align".into());
    };
    let (boxes, batches) = (&x[1], &x[2]);
    let x = &x[0];
    let &[batch, channels, h, w] = x.shape() else { return Err(format!("x {:?}", x.shape())) };
    let (&[n, 4], &[named]) = (boxes.shape(), batches.shape()) else {
        return Err(format!("boxes {:?} and batches {:?}", boxes.shape(), batches.shape()));
    };
    let (ph, pw) = bins(*height, *width)?;
    let images: Vec<usize> = indices(batches)?
        .into_iter()
        .map(|b| usize::try_from(b).ok().filter(|&b| b < batch).ok_or(format!("batch {b} of {batch}")))
        .collect::<Result<_, _>>()?;
    if n != named || (n > 0 && [h, w].contains(&0)) || h.checked_mul(w).is_none() {
        return Err(format!("{n} boxes and {named} batches on x {:?}", x.shape()));
    }
    let corners = cast(boxes, Elem::F64)?;
    let corners: Vec<&[f64]> = corners.as_slice::<f64>()?.chunks_exact(4).collect();
    let offset = if *half_pixel { 0.5 } else { 0.0 };
    let scale = f64::from(*scale);
    // Begin, length of a bin and samples a bin, of both axes.
    let axis = |low: f64, high: f64, bins: usize| {
        let (low, high) = (low * scale - offset, high * scale - offset);
        let length = if *half_pixel { high - low } else { (high - low).max(1.0) };
        let bin = length / bins as f64;
        (low, bin, if *sampling > 0 { *sampling as f64 } else { bin.ceil().max(0.0) })
    };
    let grids: Vec<_> = corners.iter().map(|c| [axis(c[1], c[3], ph), axis(c[0], c[2], pw)]).collect();
    if !grids.iter().all(|[a, b]| a.2 * b.2 * (ph * pw) as f64 <= SAMPLES) {
        return Err("a box is too large, or its corners are no numbers".into());
    }
    let shape = vec![n, channels, ph, pw];
    for_elem!(float x, T => {
        let from = x.as_slice::<T>()?;
        let mut out = zeros::<T>(&shape)?;
        out.par_chunks_mut((channels * ph * pw).max(1)).enumerate().for_each(|(i, out)| {
            let [(top, bin_h, rows), (left, bin_w, columns)] = grids[i];
            let mut samples: Vec<Option<Sample>> = Vec::new();
            for bin in 0..ph * pw {
                let (y, x) = ((bin / pw) as f64, (bin % pw) as f64);
                for r in 0..rows as usize {
                    for c in 0..columns as usize {
                        let y = top + y * bin_h + (r as f64 + 0.5) * bin_h / rows;
                        let x = left + x * bin_w + (c as f64 + 0.5) * bin_w / columns;
                        samples.push(sample(y, x, h, w));
                    }
                }
            }
            let each = rows as usize * columns as usize;
            for (c, out) in out.chunks_exact_mut(ph * pw).enumerate() {
                let pixels = &from[(images[i] * channels + c) * h * w..][..h * w];
                for (bin, o) in out.iter_mut().enumerate() {
                    let samples = samples[bin * each..(bin + 1) * each].iter();
                    let terms = |s: &Sample| s.map(|(at, weight)| weight * pixels[at].as_f64());
                    *o = T::narrow(if *max {
                        let largest = samples.map(|s| {
                            s.as_ref().map_or(0.0, |s| terms(s).into_iter().fold(f64::NEG_INFINITY, f64::max))
                        });
                        largest.reduce(f64::max).unwrap_or(0.0)
                    } else {
                        let sum: f64 = samples.flatten().map(|s| terms(s).iter().sum::<f64>()).sum();
                        sum / each.max(1) as f64
                    });
                }
            }
        });
        Tensor::new(shape, out)
    })
}

/// [`Op::MaxRoiPool`], as in Fast R-CNN: corners are rounded to elements and belong to the box.
pub(super) fn max_roi_pool(
    x: &Tensor,
    boxes: &Tensor,
    (height, width): (i64, i64),
    scale: f32,
) -> Result<Tensor, String> {
    let &[batch, channels, h, w] = x.shape() else { return Err(format!("x {:?}", x.shape())) };
    let &[n, 5] = boxes.shape() else { return Err(format!("boxes {:?}", boxes.shape())) };
    let (ph, pw) = bins(height, width)?;
    let corners = cast(boxes, Elem::F64)?;
    let corners: Vec<&[f64]> = corners.as_slice::<f64>()?.chunks_exact(5).collect();
    if let Some(bad) = corners.iter().find(|c| !(0.0..batch as f64).contains(&c[0])) {
        return Err(format!("batch {} of {batch}", bad[0]));
    }
    let shape = vec![n, channels, ph, pw];
    // The elements of each bin along one axis of `len`.
    let cut = |low: f64, high: f64, bins: usize, len: usize| -> Vec<(usize, usize)> {
        let (low, high) = ((low * f64::from(scale)).round(), (high * f64::from(scale)).round());
        let bin = (high - low + 1.0).max(1.0) / bins as f64;
        let hold = |v: f64| (v + low).clamp(0.0, len as f64) as usize;
        (0..bins).map(|i| (hold((i as f64 * bin).floor()), hold(((i + 1) as f64 * bin).ceil()))).collect()
    };
    for_elem!(float x, T => {
        let from = x.as_slice::<T>()?;
        let mut out = zeros::<T>(&shape)?;
        out.par_chunks_mut((channels * ph * pw).max(1)).enumerate().for_each(|(i, out)| {
            let c = corners[i];
            let (rows, columns) = (cut(c[2], c[4], ph, h), cut(c[1], c[3], pw, w));
            for (k, out) in out.chunks_exact_mut(ph * pw).enumerate() {
                let pixels = &from[(c[0] as usize * channels + k) * h * w..][..h * w];
                for (bin, o) in out.iter_mut().enumerate() {
                    let ((top, bottom), (left, right)) = (rows[bin / pw], columns[bin % pw]);
                    let mut largest = None;
                    for &v in (top..bottom).filter(|_| left < right).flat_map(|y| &pixels[y * w + left..y * w + right]) {
                        if largest.is_none_or(|l| v > l) {
                            largest = Some(v);
                        }
                    }
                    *o = largest.unwrap_or_default();
                }
            }
        });
        Tensor::new(shape, out)
    })
}

/// Least and largest x and y of a box.
fn edges(b: &[f32], center: bool) -> [f32; 4] {
    if center {
        let (x, y, w, h) = (b[0], b[1], b[2] / 2.0, b[3] / 2.0);
        [x - w, x + w, y - h, y + h]
    } else {
        [b[1].min(b[3]), b[1].max(b[3]), b[0].min(b[2]), b[0].max(b[2])]
    }
}

/// Shared area over joint area.
fn overlap(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let side = |i: usize| a[i + 1].min(b[i + 1]) - a[i].max(b[i]);
    let (w, h) = (side(0), side(2));
    if w <= 0.0 || h <= 0.0 {
        return 0.0;
    }
    let area = |e: &[f32; 4]| (e[1] - e[0]) * (e[3] - e[2]);
    let joint = area(a) + area(b) - w * h;
    if area(a) <= 0.0 || area(b) <= 0.0 || joint <= 0.0 { 0.0 } else { w * h / joint }
}

/// [`Op::NonMaxSuppression`]: boxes in descending order of their scores, equal ones in their order.
pub(super) fn non_max_suppression(x: &[Tensor], center: bool) -> Result<Tensor, String> {
    let (&[batch, n, 4], &[batches, classes, scored]) = (x[0].shape(), x[1].shape()) else {
        return Err(format!("boxes {:?} and scores {:?}", x[0].shape(), x[1].shape()));
    };
    if batch != batches || n != scored {
        return Err(format!("boxes {:?} and scores {:?}", x[0].shape(), x[1].shape()));
    }
    let most = usize::try_from(scalar_i64(&x[2], "the number of boxes")?).unwrap_or(0);
    let number = |t: &Tensor| match t.as_slice::<f32>()? {
        &[v] => Ok(v),
        other => Err(format!("{} thresholds", other.len())),
    };
    let (limit, least) = (number(&x[3])?, x.get(4).map(number).transpose()?);
    let (boxes, scores) = (x[0].as_slice::<f32>()?, x[1].as_slice::<f32>()?);
    let edges: Vec<[f32; 4]> = boxes.chunks_exact(4).map(|b| edges(b, center)).collect();
    let pairs: Vec<(usize, &[f32])> = scores.chunks_exact(n.max(1)).enumerate().collect();
    let found: Vec<Vec<i64>> = pairs
        .into_par_iter()
        .map(|(i, scores)| {
            let (image, class) = (i / classes, i % classes);
            let edges = &edges[image * n..(image + 1) * n];
            let mut order: Vec<usize> = (0..n).filter(|&b| least.is_none_or(|l| scores[b] > l)).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
            let mut kept: Vec<usize> = Vec::new();
            for b in order {
                if kept.len() >= most {
                    break;
                }
                if kept.iter().all(|&k| overlap(&edges[b], &edges[k]) <= limit) {
                    kept.push(b);
                }
            }
            kept.into_iter().flat_map(|b| [image as i64, class as i64, b as i64]).collect()
        })
        .collect();
    let rows = found.concat();
    Tensor::new(vec![rows.len() / 3, 3], rows)
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn boxes_that_overlap_a_better_one_are_dropped() {
        let boxes = t(&[1, 3, 4], &[0f32, 0.0, 2.0, 2.0, 0.0, 0.0, 2.0, 1.5, 4.0, 4.0, 5.0, 5.0]);
        let scores = t(&[1, 1, 3], &[0.5f32, 0.9, 0.7]);
        let op = Op::NonMaxSuppression { center: false };
        let one = |v: f32| t(&[1], &[v]);
        let most = |n: i64| t(&[1], &[n]);
        // The first two share 3 of 4 parts.
        let inputs = |limit, n| [boxes.clone(), scores.clone(), most(n), one(limit), one(0.0)];
        assert_eq!(run(op.clone(), &inputs(0.7, 9)), t(&[2, 3], &[0i64, 0, 1, 0, 0, 2]));
        assert_eq!(run(op.clone(), &inputs(0.8, 9)).shape(), [3, 3]);
        assert_eq!(run(op.clone(), &inputs(0.8, 1)), t(&[1, 3], &[0i64, 0, 1]));
        assert_eq!(run(op, &inputs(0.8, -1)).shape(), [0, 3]);
    }

    #[test]
    fn regions_are_pooled() {
        let x = t(&[1, 1, 2, 3], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let op = Op::MaxRoiPool { height: 1, width: 2, scale: 1.0 };
        // Columns 0 to 2 in two bins of 1.5: 0..2 and 1..3.
        let y = run(op.clone(), &[x.clone(), t(&[1, 5], &[0f32, 0.0, 0.0, 2.0, 1.0])]);
        assert_eq!(y, t(&[1, 1, 1, 2], &[5f32, 6.0]));
        refused(op, &[x.clone(), t(&[1, 5], &[1f32, 0.0, 0.0, 2.0, 1.0])], "batch 1 of 1");
        let align =
            |max| Op::RoiAlign { max, half_pixel: true, height: 1, width: 1, sampling: 1, scale: 1.0 };
        let corners = |v: f32| t(&[1, 4], &[0f32, 0.0, v, 2.0]);
        // The middle of both axes.
        let y = run(align(false), &[x.clone(), corners(3.0), t(&[1], &[0i64])]);
        assert_eq!(y, t(&[1, 1, 1, 1], &[3.5f32]));
        let free =
            Op::RoiAlign { max: false, half_pixel: true, height: 1, width: 1, sampling: 0, scale: 1.0 };
        refused(free, &[x, corners(1e30), t(&[1], &[0i64])], "too large");
    }
}
