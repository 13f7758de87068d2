//! Inference and the kernels agree: whatever a kernel computes, inference of the same operation admits,
//! however little it knows of the operands; and neither panics on any attributes.

use std::collections::BTreeMap;

use super::eval;
use super::testing::*;
use crate::infer::{Fact, infer};
use crate::op::*;
use crate::shape::{Dim, OpenType};
use crate::tensor::Tensor;

impl Numbers {
    /// A small integer, now and then one that no size can have.
    fn int(&mut self) -> i64 {
        match self.below(40) {
            0 => i64::MIN,
            1 => i64::MAX,
            2 => i64::MIN + 1,
            3 => 1 << 50,
            4 => -(1 << 50),
            n => (n as i64 - 5) % 7 - 2,
        }
    }

    /// As [`Numbers::int`], mostly from `least` on.
    fn from(&mut self, least: i64) -> i64 {
        match self.below(12) {
            0 => self.int(),
            n => least + (n as i64 % 3),
        }
    }

    fn ints(&mut self, n: usize) -> Vec<i64> {
        (0..n).map(|_| self.int()).collect()
    }

    fn list(&mut self, n: usize, least: i64) -> Vec<i64> {
        let n = if self.below(30) == 0 { n + 1 } else { n };
        (0..n).map(|_| self.from(least)).collect()
    }

    fn flag(&mut self) -> bool {
        self.below(2) == 0
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// Up to 4 axes of lengths 0 to 4.
    fn any_shape(&mut self) -> Vec<usize> {
        (0..self.below(5)).map(|_| [1, 2, 3, 4, 1, 2, 0][self.below(7)]).collect()
    }

    fn image(&mut self, rank: usize) -> Tensor {
        let spatial: Vec<usize> = (0..rank).map(|_| 1 + self.below(6)).collect();
        let (batch, channels) = (1 + self.below(2), [2, 4][self.below(2)]);
        self.tensor(&[&[batch, channels], &spatial[..]].concat())
    }

    /// A vector of integers.
    fn vector(&mut self, n: usize) -> Tensor {
        Tensor::vector(self.ints(n))
    }

    fn small(&mut self, n: usize, least: i64) -> Tensor {
        Tensor::vector(self.list(n, least))
    }
}

/// An operation and operands that it often admits.
fn case(r: &mut Numbers) -> (Op, Vec<Tensor>) {
    let shape = r.any_shape();
    let x = r.tensor(&shape);
    let rank = shape.len();
    let axis = if r.below(8) == 0 { r.int() } else { r.below(rank.max(1)) as i64 };
    let axis = if r.flag() { axis } else { axis.saturating_sub(rank as i64) };
    let spatial = 1 + r.below(2);
    let (kernel, strides) = (r.list(spatial, 1), r.list(spatial, 1));
    let (pads, dilations) = (r.list(2 * spatial, 0), r.list(spatial, 1));
    let auto = r.of(&[AutoPad::Given, AutoPad::Given, AutoPad::Upper, AutoPad::Lower]);
    let f = r.of(ReduceFn::ALL);
    match r.below(48) {
        0 => {
            let n = r.below(rank + 1);
            (Op::Reduce { f, axes: r.list(n, 0), keepdims: r.flag() }, vec![x])
        }
        1 => {
            let n = r.below(3);
            (Op::ReduceOver { f, keepdims: r.flag(), noop: r.flag() }, vec![x, r.small(n, 0)])
        }
        2 | 3 => {
            let f = r.of(PoolFn::ALL);
            let ceil = r.flag();
            (Op::Pool { f, kernel, strides, pads, dilations, ceil, auto }, vec![r.image(spatial)])
        }
        4 => {
            let (ceil, column_major) = (r.flag(), r.flag());
            let op = Op::MaxPoolIndexed { kernel, strides, pads, dilations, ceil, auto, column_major };
            (op, vec![r.image(spatial)])
        }
        5 => {
            let x = r.image(spatial);
            let at = t(x.shape(), &(0..x.len() as i64).collect::<Vec<_>>());
            let mut inputs = vec![x, at];
            if r.flag() {
                inputs.push(r.small(spatial + 2, 2));
            }
            (Op::MaxUnpool { kernel, strides, pads }, inputs)
        }
        6 | 7 => {
            let x = r.image(spatial);
            let kernel: Vec<usize> = (0..spatial).map(|_| 1 + r.below(3)).collect();
            let groups = r.from(1);
            let w = r.tensor(&[&[x.shape()[1], 2], &kernel[..]].concat());
            let output = if r.flag() { Vec::new() } else { r.list(spatial, 4) };
            let output_padding = r.list(spatial, 0);
            let op = Op::ConvTranspose { strides, pads, dilations, groups, output_padding, output, auto };
            (op, vec![x, w])
        }
        8 | 9 => {
            let x = r.image(spatial);
            let kernel: Vec<usize> = (0..spatial).map(|_| 1 + r.below(3)).collect();
            let groups = r.from(1);
            let depth =
                x.shape()[1] / usize::try_from(groups).ok().filter(|g| (1..5).contains(g)).unwrap_or(1);
            let w = r.tensor(&[&[4, depth], &kernel[..]].concat());
            (Op::Conv { strides, pads, dilations, groups }, vec![x, w])
        }
        10 => (Op::Patches { kernel, strides, pads, dilations }, vec![r.image(spatial)]),
        11 => {
            let (height, width) = (1 + r.below(4), 1 + r.below(4));
            let x = r.tensor(&[1, 2, height, width]);
            let (w, offsets) = (r.tensor(&[2, 2, 1, 1]), r.tensor(&[1, 2, height, width]));
            let op = Op::DeformConv {
                strides: r.list(2, 1),
                pads: vec![0; 4],
                dilations: r.list(2, 1),
                groups: r.from(1),
                offset_groups: r.from(1),
                biased: r.flag(),
            };
            (op, vec![x, w, offsets])
        }
        12 => {
            let (blocks, n) = ([1, 2, 4, 6][r.below(4)], 1 + r.below(5));
            let x = r.tensor(&[2, blocks, n]);
            let (image, block) = (r.small(spatial, 2), r.small(spatial, 1));
            (Op::Col2Im { strides, pads, dilations }, vec![x, image, block])
        }
        13 | 14 => {
            let mode = r.of(PadMode::ALL);
            let axes = if r.flag() { Vec::new() } else { r.list(1, 0) };
            let n = if axes.is_empty() { rank } else { axes.len() };
            let pads = if r.flag() { r.small(2 * n, -1) } else { r.vector(2 * n) };
            (Op::Pad { mode, axes }, vec![x, pads])
        }
        15 | 16 => {
            let by = r.flag();
            let axes = if r.flag() { Vec::new() } else { r.list(1, 0) };
            let n = if axes.is_empty() { rank } else { axes.len() };
            let scales =
                if by { (0..n).map(|_| r.of(&[0.3, 0.5, 1.0, 1.7, 2.0, 0.0])).collect() } else { Vec::new() };
            let mut inputs = vec![x];
            if !by {
                inputs.push(r.small(n, 1));
            }
            let op = Op::Resize {
                mode: r.of(Interpolation::ALL),
                coordinates: r.of(&[
                    Coordinates::HalfPixel,
                    Coordinates::AlignCorners,
                    Coordinates::Asymmetric,
                ]),
                nearest: r.of(NearestFn::ALL),
                cubic: -0.75,
                exclude_outside: r.flag(),
                extrapolation: 0.0,
                antialias: r.flag(),
                aspect: r.of(AspectRatio::ALL),
                axes,
                scales,
            };
            (op, inputs)
        }
        17 => {
            let x = r.image(spatial);
            let places: Vec<usize> = (0..spatial).map(|_| r.below(3)).collect();
            let grid = r.tensor(&[&[x.shape()[0]], &places[..], &[spatial]].concat());
            let op = Op::GridSample {
                mode: r.of(Interpolation::ALL),
                border: r.of(Border::ALL),
                align_corners: r.flag(),
            };
            (op, vec![x, grid])
        }
        18 => {
            let theta = r.tensor(&[2, 2, 3]);
            let size = [2, 1, r.from(1), r.from(1)];
            (Op::AffineGrid { align_corners: r.flag() }, vec![theta, t(&[4], &size)])
        }
        19 => {
            let op = Op::RoiAlign {
                max: r.flag(),
                half_pixel: r.flag(),
                height: r.from(1),
                width: r.from(1),
                sampling: r.from(0),
                scale: 1.0,
            };
            (op, vec![r.image(2), r.tensor(&[3, 4]), t(&[3], &[0i64; 3])])
        }
        20 => {
            let op = Op::MaxRoiPool { height: r.from(1), width: r.from(1), scale: 0.5 };
            (op, vec![r.image(2), t(&[2, 5], &[0f32, 1.0, 0.0, 3.0, 2.0, 0.0, 0.0, 0.0, 9.0, 9.0])])
        }
        21 => {
            let inputs = vec![r.tensor(&[1, 4, 4]), r.tensor(&[1, 2, 4]), r.small(1, 0), t(&[1], &[0.5f32])];
            (Op::NonMaxSuppression { center: r.flag() }, inputs)
        }
        22 => (Op::Softmax { axis }, vec![x]),
        23 => {
            let gain = r.tensor(&shape[rank.min(rank.saturating_sub(1))..]);
            (Op::LayerNorm { axis, epsilon: 0.1 }, vec![x, gain])
        }
        24 => {
            let (q, k) = (r.tensor(&[2, 4, 3, 2]), r.tensor(&[2, 2, 5, 2]));
            let v = r.tensor(&[2, 2, 5, 1 + spatial]);
            (Op::Attention { scale: 1.0, causal: r.flag(), softcap: 0.0 }, vec![q, k, v])
        }
        25 => {
            let other = r.any_shape();
            (Op::MatMul {}, vec![x, r.tensor(&other)])
        }
        26 => (Op::Shape { start: r.int(), end: r.int() }, vec![x]),
        27 => {
            let n = r.below(4);
            let to = if r.flag() { r.small(n, -1) } else { r.small(n, 0) };
            (Op::Reshape { allow_zero: r.flag() }, vec![x, to])
        }
        28 => (Op::Flatten { axis }, vec![x]),
        29 => {
            let mut perm: Vec<i64> = (0..rank as i64).rev().collect();
            if r.below(4) == 0 {
                perm = r.list(rank, 0);
            }
            (Op::Transpose { perm }, vec![x])
        }
        30 => {
            let mut other = shape.clone();
            if let Some(n) = usize::try_from(axis).ok().and_then(|a| other.get_mut(a)) {
                *n = 3;
            }
            (Op::Concat { axis }, vec![x, r.tensor(&other)])
        }
        31 | 32 => {
            let n = r.below(rank + 1).min(2);
            let axes = if r.flag() { Tensor::vector((0..n as i64).collect()) } else { r.vector(n) };
            (Op::Slice {}, vec![x, r.vector(n), r.vector(n), axes, r.vector(n)])
        }
        33 => (Op::Split { axis, sizes: r.list(2, 0) }, vec![x]),
        34 => (Op::SplitEqual { axis, parts: r.from(1) }, vec![x]),
        35 => {
            let n = r.below(3);
            (Op::Squeeze { axes: r.list(n, 0) }, vec![x])
        }
        36 => {
            let n = r.below(3);
            (Op::Unsqueeze { axes: r.list(n, 0) }, vec![x])
        }
        37 => {
            let n = r.below(5);
            (Op::Expand {}, vec![x, r.small(n, 0)])
        }
        38 => {
            let i = r.any_shape();
            let at: Vec<i64> = (0..i.iter().product()).map(|_| r.from(-1)).collect();
            (Op::Gather { axis }, vec![x, t(&i, &at)])
        }
        39 => {
            let depth = r.below(rank + 1);
            let at = r.list(2 * depth, -1);
            let at = if at.len() == 2 * depth { t(&[2, depth], &at) } else { Tensor::vector(at) };
            (Op::GatherNd { batch_dims: r.of(&[0, 0, 0, 1, i64::MAX, -1]) }, vec![x, at])
        }
        40 => {
            let one = |r: &mut Numbers| Tensor::scalar(r.int());
            (Op::Range {}, vec![one(r), one(r), one(r)])
        }
        41 => {
            let n = r.below(3);
            let at = r.small(n, 0);
            (if r.flag() { Op::SqueezeAt {} } else { Op::UnsqueezeAt {} }, vec![x, at])
        }
        42 => (Op::SplitAt { axis, parts: r.from(1) }, vec![x, r.small(2, 0)]),
        43 => {
            let op = Op::ArgReduce { axis, keepdims: r.flag(), largest: r.flag(), last: r.flag() };
            (op, vec![x])
        }
        44 => (Op::TopK { axis, largest: r.flag() }, vec![x, r.small(1, 0)]),
        45 => {
            let op = if r.flag() { Op::Unique { axis, sorted: r.flag() } } else { Op::NonZero {} };
            (op, vec![x])
        }
        46 => {
            let shape = [&shape[..], &[1 + r.below(2)]].concat();
            let x = r.tensor(&shape);
            let mut inputs = vec![x, Tensor::scalar(axis)];
            if r.flag() {
                inputs.push(Tensor::scalar(r.from(1)));
            }
            (Op::Dft { inverse: r.flag(), onesided: r.flag() }, inputs)
        }
        _ => {
            let other = r.any_shape();
            (Op::Binary(r.of(&[BinaryFn::Add, BinaryFn::Less])), vec![x, r.tensor(&other)])
        }
    }
}

/// Everything about a tensor.
fn all(x: &Tensor) -> Fact {
    let mut fact = Fact::of(OpenType::fixed(x.elem(), x.shape()));
    if let (true, Ok(values)) = (x.rank() <= 1 && x.len() <= 64, x.as_slice::<i64>()) {
        fact.value = Some(values.iter().map(|&v| Some(Dim::known(v))).collect());
    }
    fact
}

/// Less than that.
fn less(r: &mut Numbers, fact: &Fact) -> Fact {
    let mut fact = fact.clone();
    for d in fact.ty.shape.iter_mut().flatten().chain(fact.value.iter_mut().flatten()) {
        if r.below(3) == 0 {
            *d = None;
        }
    }
    if r.below(3) == 0 {
        fact.value = None;
    }
    if r.below(4) == 0 {
        fact.ty.shape = None;
    }
    fact
}

/// What the facts of a result say wrongly of it.
fn contradiction(fact: &Fact, y: &Tensor) -> Option<String> {
    let ty = OpenType::fixed(y.elem(), y.shape());
    if !fact.ty.admits(&ty) {
        return Some(format!("inferred {}, computed {ty}", fact.ty));
    }
    let known: Vec<Option<i64>> = fact.value.iter().flatten().map(|d| d.as_ref()?.value()).collect();
    let values = y.as_slice::<i64>().unwrap_or_default();
    let agree =
        known.len() == values.len() && known.iter().zip(values).all(|(k, v)| k.is_none_or(|k| k == *v));
    (fact.value.is_some() && !agree).then(|| format!("inferred {known:?}, computed {values:?}"))
}

#[test]
fn inference_admits_what_kernels_compute() {
    let mut r = Numbers(2026);
    let mut computed = 0;
    let mut wrong = BTreeMap::new();
    for _ in 0..60_000 {
        let (op, inputs) = case(&mut r);
        let facts: Vec<Fact> = inputs.iter().map(all).collect();
        let partial: Vec<Fact> = facts.iter().map(|f| less(&mut r, f)).collect();
        let found = [&facts, &partial].map(|f| infer(&op, &f.iter().collect::<Vec<_>>()));
        let Ok(results) = eval(&op, &inputs) else { continue };
        computed += 1;
        for (facts, found) in [facts, partial].iter().zip(found) {
            let why = match found {
                Err(e) => Some(e),
                Ok(found) if found.len() != results.len() => Some(format!("{} results", found.len())),
                Ok(found) => found.iter().zip(&results).find_map(|(fact, y)| contradiction(fact, y)),
            };
            if let Some(why) = why {
                let types: Vec<String> = facts.iter().map(|f| format!("{} = {:?}", f.ty, f.value)).collect();
                wrong.entry(op.name()).or_insert_with(|| format!("{op:?} of {types:?}: {why}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(computed > 20_000, "{computed} were computed");
}
