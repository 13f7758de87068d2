//! Operators on images: pooling, transposed and deformable convolutions, resizing, sampling, boxes and
//! norms over channels.

use pfmc_ir::diag::Diagnostic;
use pfmc_ir::elem::Elem;
use pfmc_ir::graph::ValueId;
use pfmc_ir::op::{
    AspectRatio, AutoPad, BinaryFn as B, Border, Coordinates, Interpolation, NearestFn, Op, PadMode, PoolFn,
    ReduceFn as Rf, UnaryFn as U,
};

use super::{FLOATS, OpInfo, contrib, conv_of, halves, hard_sigmoid_of, on_channels, op, stash};
use crate::onnx::codes::E0105;
use crate::onnx::lower::{Ctx, R};

const WINDOW: &[&str] = &["auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "strides"];
const MAX_WINDOW: &[&str] =
    &["auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides"];
const MEAN_WINDOW: &[&str] =
    &["auto_pad", "ceil_mode", "count_include_pad", "dilations", "kernel_shape", "pads", "strides"];
const LP_WINDOW: &[&str] = &["auto_pad", "ceil_mode", "dilations", "kernel_shape", "p", "pads", "strides"];
const BYTES: &[Elem] = &[Elem::I8, Elem::U8];
const NUMBERS: &[Elem] = &[
    Elem::F32,
    Elem::F64,
    Elem::F16,
    Elem::BF16,
    Elem::I64,
    Elem::I32,
    Elem::I16,
    Elem::I8,
    Elem::U64,
    Elem::U32,
    Elem::U16,
    Elem::U8,
];

pub(super) static SPATIAL: &[OpInfo] = &[
    op("AffineGrid", 20, (2, 2), &["align_corners"], "", affine_grid).on(FLOATS),
    op("AveragePool", 7, (1, 1), MEAN_WINDOW, "", average_pool).on(FLOATS),
    op("CenterCropPad", 18, (2, 2), &["axes"], "lowered to pad", center_crop_pad),
    op("Col2Im", 18, (3, 3), &["dilations", "pads", "strides"], "", col2im).on(NUMBERS),
    op(
        "ConvTranspose",
        7,
        (2, 3),
        &[
            "auto_pad",
            "dilations",
            "group",
            "kernel_shape",
            "output_padding",
            "output_shape",
            "pads",
            "strides",
        ],
        "",
        conv_transpose,
    )
    .on(FLOATS),
    op(
        "DeformConv",
        19,
        (3, 5),
        &["dilations", "group", "kernel_shape", "offset_group", "pads", "strides"],
        "two spatial axes",
        deform_conv,
    )
    .on(FLOATS),
    op("DepthToSpace", 7, (1, 1), &["blocksize", "mode"], "lowered", depth_to_space),
    op("GlobalLpPool", 7, (1, 1), &["p"], "lowered; needs a known rank", global_lp_pool).on(FLOATS),
    op("GridSample", 16, (2, 2), &["align_corners", "mode", "padding_mode"], "", grid_sample).on(FLOATS),
    op(
        "GroupNormalization",
        18,
        (3, 3),
        &["epsilon", "num_groups", "stash_type"],
        "lowered; needs a known rank",
        group_norm,
    )
    .on(FLOATS),
    op("LRN", 7, (1, 1), &["alpha", "beta", "bias", "size"], "lowered to a pooling of channels", lrn)
        .on(FLOATS),
    op("LpNormalization", 7, (1, 1), &["axis", "p"], "lowered", lp_norm).on(FLOATS),
    op("LpPool", 7, (1, 1), LP_WINDOW, "lowered to a pooling of powers", lp_pool).on(FLOATS),
    op("MaxPool", 7, (1, 1), MAX_WINDOW, "", max_pool).on(NUMBERS),
    op("MaxRoiPool", 7, (2, 2), &["pooled_shape", "spatial_scale"], "", max_roi_pool).on(FLOATS),
    op("MaxUnpool", 9, (2, 3), &["kernel_shape", "pads", "strides"], "", max_unpool),
    op("MeanVarianceNormalization", 9, (1, 1), &["axes"], "lowered", mean_variance_norm).on(FLOATS),
    op("NonMaxSuppression", 10, (2, 5), &["center_point_box"], "", non_max_suppression).on(&[Elem::F32]),
    op("Pad", 7, (1, 4), &["mode", "pads", "value"], "axes that are not constant need a known rank", pad),
    op(
        "Resize",
        10,
        (1, 4),
        &[
            "antialias",
            "axes",
            "coordinate_transformation_mode",
            "cubic_coeff_a",
            "exclude_outside",
            "extrapolation_value",
            "keep_aspect_ratio_policy",
            "mode",
            "nearest_mode",
        ],
        "",
        resize,
    )
    .on(NUMBERS),
    op(
        "RoiAlign",
        10,
        (3, 3),
        &[
            "coordinate_transformation_mode",
            "mode",
            "output_height",
            "output_width",
            "sampling_ratio",
            "spatial_scale",
        ],
        "",
        roi_align,
    )
    .on(FLOATS),
    op("SpaceToDepth", 7, (1, 1), &["blocksize"], "lowered", space_to_depth),
    op("Upsample", 7, (1, 2), &["mode", "scales"], "a resize, asymmetric", upsample).on(NUMBERS),
    contrib(
        "FusedConv",
        (2, 4),
        &[
            "activation",
            "activation_params",
            "auto_pad",
            "dilations",
            "group",
            "kernel_shape",
            "pads",
            "strides",
        ],
        "lowered",
        fused_conv,
    )
    .on(FLOATS),
    contrib("NhwcMaxPool", (1, 1), WINDOW, "lowered", nhwc_max_pool).on(BYTES),
    contrib(
        "QLinearAveragePool",
        (4, 5),
        &["auto_pad", "ceil_mode", "channels_last", "count_include_pad", "kernel_shape", "pads", "strides"],
        "lowered to a pooling of real numbers",
        |c| qlinear_pool(c, false),
    )
    .on(BYTES),
    contrib(
        "QLinearGlobalAveragePool",
        (5, 5),
        &["channels_last"],
        "lowered to a mean of real numbers",
        |c| qlinear_pool(c, true),
    )
    .on(BYTES),
];

/// An attribute that is a word of a list.
fn word<T: Copy>(c: &mut Ctx, name: &str, default: T, words: &[(&str, T)]) -> R<T> {
    let Some(given) = c.attrs.string(name)? else { return Ok(default) };
    let supported = || words.iter().map(|w| w.0).collect::<Vec<_>>().join(", ");
    let found = words.iter().find(|w| w.0.eq_ignore_ascii_case(&given));
    found.map(|w| w.1).ok_or_else(|| Ctx::value_of(name, &given, &supported()))
}

/// An attribute that is a list of `len` numbers of at least `least`; `default` where it is left out.
fn sized(c: &mut Ctx, name: &str, len: usize, least: i64, default: i64) -> R<Vec<i64>> {
    match c.attrs.ints(name)? {
        None => Ok(vec![default; len]),
        Some(l) if l.len() == len && l.iter().all(|v| (least..=i64::from(i32::MAX)).contains(v)) => Ok(l),
        Some(l) => Err(Ctx::value_of(name, l, &format!("{len} numbers of at least {least}"))),
    }
}

/// How windows lie on the spatial axes, as the attributes say.
pub(super) struct Geometry {
    pub(super) strides: Vec<i64>,
    /// Begins then ends; zeros where the padding follows from `auto`.
    pub(super) pads: Vec<i64>,
    pub(super) dilations: Vec<i64>,
    auto: AutoPad,
}

impl Geometry {
    /// Reads the attributes for a number of spatial axes.
    pub(super) fn read(c: &mut Ctx, spatial: usize) -> R<Geometry> {
        let rule = c.attrs.string("auto_pad")?.unwrap_or_else(|| "NOTSET".into());
        let (strides, dilations) =
            (sized(c, "strides", spatial, 1, 1)?, sized(c, "dilations", spatial, 1, 1)?);
        let pads = sized(c, "pads", 2 * spatial, 0, 0)?;
        let auto = match rule.as_str() {
            "NOTSET" | "" => AutoPad::Given,
            "VALID" | "SAME_UPPER" | "SAME_LOWER" if pads.iter().any(|p| *p != 0) => {
                return Err(Ctx::value_of("auto_pad", rule, "NOTSET where pads are given"));
            }
            "VALID" => AutoPad::Given,
            "SAME_UPPER" => AutoPad::Upper,
            "SAME_LOWER" => AutoPad::Lower,
            _ => return Err(Ctx::value_of("auto_pad", rule, "NOTSET, VALID, SAME_UPPER, SAME_LOWER")),
        };
        Ok(Geometry { strides, pads, dilations, auto })
    }

    /// Replaces a rule by pads where they follow from what is known, else pads the operand at run time.
    pub(super) fn settle(&mut self, c: &mut Ctx, x: ValueId, kernel: Option<Vec<i64>>) -> R<ValueId> {
        if self.auto == AutoPad::Given {
            return Ok(x);
        }
        let r = self.strides.len();
        let kernel = kernel.filter(|k| k.len() == r);
        let kernel = kernel.ok_or_else(|| Ctx::form("the kernel's size is not known"))?;
        let reach: Option<Vec<i64>> =
            kernel.iter().zip(&self.dilations).map(|(k, d)| k.checked_sub(1)?.checked_mul(*d)).collect();
        let reach = reach.ok_or_else(|| Ctx::form("the kernel is too large"))?;
        let totals: Option<Vec<i64>> = (0..r)
            .map(|i| match self.strides[i] {
                1 => Some(reach[i]),
                s => c.length(x, i + 2).map(|n| (reach[i] - (n - 1).checked_rem(s).unwrap_or(0)).max(0)),
            })
            .collect();
        let upper = self.auto == AutoPad::Upper;
        self.auto = AutoPad::Given;
        if let Some(totals) = totals {
            for (i, total) in totals.into_iter().enumerate() {
                let (small, large) = (total / 2, total - total / 2);
                (self.pads[i], self.pads[i + r]) = if upper { (small, large) } else { (large, small) };
            }
            return Ok(x);
        }
        // As above: what the last window reaches beyond the last element.
        let lens = c.op(Op::Shape { start: 2, end: i64::MAX }, &[x])?;
        let (one, zero, two) = (c.vector(vec![1]), c.vector(vec![0]), c.vector(vec![2]));
        let (by, reach) = (c.vector(self.strides.clone()), c.vector(reach));
        let before = c.bin(B::Sub, lens, one)?;
        let rest = c.bin(B::Mod, before, by)?;
        let total = c.bin(B::Sub, reach, rest)?;
        let total = c.bin(B::Max, total, zero)?;
        let small = c.bin(B::Div, total, two)?;
        let large = c.bin(B::Sub, total, small)?;
        let ends = if upper { [small, large] } else { [large, small] };
        let pads = c.op(Op::Concat { axis: 0 }, &ends)?;
        let axes = (2..r as i64 + 2).collect();
        c.op(Op::Pad { mode: PadMode::Constant, axes }, &[x, pads])
    }
}

/// The number of spatial axes of a convolution, and its kernel where it is known.
pub(super) fn conv_kernel(c: &mut Ctx, x: ValueId, w: ValueId) -> R<(usize, Option<Vec<i64>>)> {
    let declared = c.attrs.ints("kernel_shape")?;
    let rank = match (c.dims(x), c.dims(w)) {
        (Some(d), _) | (None, Some(d)) => d.len(),
        _ => return Err(Ctx::form("neither operand's rank is known")),
    };
    let Some(spatial) = rank.checked_sub(2).filter(|s| *s > 0) else {
        return Err(Ctx::form("the operand needs batch, channel and spatial axes"));
    };
    let kernel: Option<Vec<i64>> = (0..spatial).map(|i| c.length(w, i + 2)).collect();
    match (kernel, declared) {
        (Some(k), Some(d)) if k != d => {
            Err(Ctx::value_of("kernel_shape", d, &format!("the weight's, {k:?}")))
        }
        (k, d) => Ok((spatial, k.or(d))),
    }
}

/// The kernel and geometry of a pooling, and whether its last windows may be partial.
fn window(c: &mut Ctx) -> R<(Vec<i64>, Geometry, bool)> {
    let kernel = kernel_shape(c)?;
    let g = Geometry::read(c, kernel.len())?;
    Ok((kernel, g, c.attrs.flag("ceil_mode", false)?))
}

fn kernel_shape(c: &mut Ctx) -> R<Vec<i64>> {
    let kernel = c.attrs.ints("kernel_shape")?;
    let kernel = kernel.ok_or_else(|| Diagnostic::error(&E0105, "attribute kernel_shape is missing"))?;
    if kernel.is_empty() || kernel.iter().any(|k| !(1..=i64::from(i32::MAX)).contains(k)) {
        return Err(Ctx::value_of("kernel_shape", kernel, "positive numbers"));
    }
    Ok(kernel)
}

fn pool_op(f: PoolFn, (kernel, g, ceil): (Vec<i64>, Geometry, bool)) -> Op {
    let Geometry { strides, pads, dilations, auto } = g;
    Op::Pool { f, kernel, strides, pads, dilations, ceil, auto }
}

fn mean_fn(c: &mut Ctx) -> R<PoolFn> {
    Ok(if c.attrs.flag("count_include_pad", false)? { PoolFn::MeanPadded } else { PoolFn::Mean })
}

fn average_pool(c: &mut Ctx) -> R<Vec<ValueId>> {
    let (f, w) = (mean_fn(c)?, window(c)?);
    let x = c.x(0)?;
    Ok(vec![c.op(pool_op(f, w), &[x])?])
}

fn max_pool(c: &mut Ctx) -> R<Vec<ValueId>> {
    let column_major = c.attrs.flag("storage_order", false)?;
    let w = window(c)?;
    let x = c.x(0)?;
    if c.output_count() < 2 {
        return Ok(vec![c.op(pool_op(PoolFn::Max, w), &[x])?]);
    }
    let (kernel, Geometry { strides, pads, dilations, auto }, ceil) = w;
    c.many(Op::MaxPoolIndexed { kernel, strides, pads, dilations, ceil, auto, column_major }, &[x])
}

fn nhwc_max_pool(c: &mut Ctx) -> R<Vec<ValueId>> {
    let w = window(c)?;
    let x = c.x(0)?;
    let rank = w.0.len() as i64 + 2;
    let x = channels_first(c, x, rank)?;
    let y = c.op(pool_op(PoolFn::Max, w), &[x])?;
    Ok(vec![channels_last(c, y, rank)?])
}

/// Moves the last axis after the first.
fn channels_first(c: &mut Ctx, x: ValueId, rank: i64) -> R<ValueId> {
    let perm = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
    c.op(Op::Transpose { perm }, &[x])
}

/// Moves the axis after the first to the end.
fn channels_last(c: &mut Ctx, x: ValueId, rank: i64) -> R<ValueId> {
    let perm = [0].into_iter().chain(2..rank).chain([1]).collect();
    c.op(Op::Transpose { perm }, &[x])
}

fn qlinear_pool(c: &mut Ctx, global: bool) -> R<Vec<ValueId>> {
    let last = c.attrs.flag("channels_last", false)?;
    let pooling = if global { None } else { Some(pool_op(mean_fn(c)?, window(c)?)) };
    let codes = c.x(0)?;
    let to = c.elem(codes);
    let rank = c.rank(codes)? as i64;
    let (mut from, mut into) = (vec![codes, c.x(1)?], vec![c.x(3)?]);
    from.extend(c.opt(2)?);
    into.extend(c.opt(4)?);
    let mut x = c.op(Op::Dequantize { axis: 0, block: 0, to: Elem::F32 }, &from)?;
    if last {
        x = channels_first(c, x, rank)?;
    }
    let mut y = match pooling {
        Some(pooling) => c.op(pooling, &[x])?,
        None => c.reduce(Rf::Mean, x, (2..rank).collect())?,
    };
    if last {
        y = channels_last(c, y, rank)?;
    }
    let into = [&[y], &into[..]].concat();
    Ok(vec![c.op(Op::Quantize { axis: 0, block: 0, to, saturate: true }, &into)?])
}

/// |x|^p.
fn power(c: &mut Ctx, x: ValueId, p: i64) -> R<ValueId> {
    match p {
        1 => c.un(U::Abs, x),
        2 => c.bin(B::Mul, x, x),
        p => {
            let x = c.un(U::Abs, x)?;
            c.with(B::Pow, x, p as f64)
        }
    }
}

/// x^(1/p).
fn root(c: &mut Ctx, x: ValueId, p: i64) -> R<ValueId> {
    match p {
        1 => Ok(x),
        2 => c.un(U::Sqrt, x),
        p => c.with(B::Pow, x, 1.0 / p as f64),
    }
}

fn norm_power(c: &mut Ctx) -> R<i64> {
    match c.attrs.int("p")?.unwrap_or(2) {
        p @ 1..=1024 => Ok(p),
        p => Err(Ctx::value_of("p", p, "1 to 1024")),
    }
}

fn lp_pool(c: &mut Ctx) -> R<Vec<ValueId>> {
    let (p, w) = (norm_power(c)?, window(c)?);
    let x = c.x(0)?;
    let x = power(c, x, p)?;
    let y = c.op(pool_op(PoolFn::Sum, w), &[x])?;
    Ok(vec![root(c, y, p)?])
}

fn global_lp_pool(c: &mut Ctx) -> R<Vec<ValueId>> {
    let p = norm_power(c)?;
    let x = c.x(0)?;
    let axes = (2..c.rank(x)? as i64).collect();
    let x = power(c, x, p)?;
    let y = c.reduce(Rf::Sum, x, axes)?;
    Ok(vec![root(c, y, p)?])
}

fn max_unpool(c: &mut Ctx) -> R<Vec<ValueId>> {
    let kernel = kernel_shape(c)?;
    let (strides, pads) =
        (sized(c, "strides", kernel.len(), 1, 1)?, sized(c, "pads", 2 * kernel.len(), 0, 0)?);
    let mut inputs = vec![c.x(0)?, c.i64_input(1)?];
    if c.has(2) {
        inputs.push(c.i64_input(2)?);
    }
    Ok(vec![c.op(Op::MaxUnpool { kernel, strides, pads }, &inputs)?])
}

// Convolutions.

fn conv_transpose(c: &mut Ctx) -> R<Vec<ValueId>> {
    let groups = c.attrs.int("group")?.unwrap_or(1);
    let inputs = c.all()?;
    let (spatial, kernel) = conv_kernel(c, inputs[0], inputs[1])?;
    let Geometry { strides, mut pads, dilations, auto } = Geometry::read(c, spatial)?;
    let output_padding = sized(c, "output_padding", spatial, 0, 0)?;
    let output = match c.attrs.ints("output_shape")? {
        // Batch and channels may be there too.
        Some(l) if l.len() == spatial + 2 => l[2..].to_vec(),
        Some(l) if l.len() == spatial => l,
        Some(l) if !l.is_empty() => {
            return Err(Ctx::value_of("output_shape", l, &format!("{spatial} numbers")));
        }
        _ => Vec::new(),
    };
    if auto != AutoPad::Given && output.is_empty() {
        // The result is as long as x times the stride.
        let kernel = kernel.ok_or_else(|| Ctx::form("the kernel's size is not known"))?;
        for i in 0..spatial {
            let reach = kernel[i].checked_sub(1).and_then(|k| k.checked_mul(dilations[i])?.checked_add(1));
            let total = reach.and_then(|r| r.checked_add(output_padding[i] - strides[i]));
            let total = total.ok_or_else(|| Ctx::form("the kernel is too large"))?;
            let small = total.max(0) / 2;
            pads[i] = if auto == AutoPad::Upper { small } else { total.max(0) - small };
            pads[i + spatial] = total - pads[i];
        }
    }
    let op = Op::ConvTranspose { strides, pads, dilations, groups, output_padding, output, auto };
    Ok(vec![c.op(op, &inputs)?])
}

fn deform_conv(c: &mut Ctx) -> R<Vec<ValueId>> {
    let groups = c.attrs.int("group")?.unwrap_or(1);
    let offset_groups = c.attrs.int("offset_group")?.unwrap_or(1);
    let mut inputs = vec![c.x(0)?, c.x(1)?, c.x(2)?];
    let (spatial, _) = conv_kernel(c, inputs[0], inputs[1])?;
    if spatial != 2 {
        return Err(Ctx::form(format!("{spatial} spatial axes; supported are 2")));
    }
    let Geometry { strides, pads, dilations, .. } = Geometry::read(c, spatial)?;
    let (bias, mask) = (c.opt(3)?, c.opt(4)?);
    inputs.extend(bias);
    inputs.extend(mask);
    let biased = bias.is_some();
    Ok(vec![c.op(Op::DeformConv { strides, pads, dilations, groups, offset_groups, biased }, &inputs)?])
}

fn fused_conv(c: &mut Ctx) -> R<Vec<ValueId>> {
    let activation = c.attrs.string("activation")?.unwrap_or_default();
    let params = c.attrs.floats("activation_params")?.unwrap_or_default().to_vec();
    let mut inputs = vec![c.x(0)?, c.x(1)?];
    inputs.extend(c.opt(2)?);
    let addend = c.opt(3)?;
    let mut y = conv_of(c, &inputs)?;
    if let Some(addend) = addend {
        y = c.bin(B::Add, y, addend)?;
    }
    let param = |i: usize, default: f32| f64::from(params.get(i).copied().unwrap_or(default));
    Ok(vec![match activation.as_str() {
        "" => y,
        "Relu" => c.un(U::Relu, y)?,
        "Tanh" => c.un(U::Tanh, y)?,
        "Sigmoid" => c.un(U::Sigmoid, y)?,
        "LeakyRelu" => {
            let (above, below) = halves(c, y)?;
            let below = c.with(B::Mul, below, param(0, 0.01))?;
            c.bin(B::Add, above, below)?
        }
        "Clip" => {
            let y = c.with(B::Max, y, param(0, f32::MIN))?;
            c.with(B::Min, y, param(1, f32::MAX))?
        }
        "HardSigmoid" => hard_sigmoid_of(c, y, param(0, 0.2), param(1, 0.5))?,
        other => {
            let supported = "Relu, Tanh, Sigmoid, LeakyRelu, Clip, HardSigmoid";
            return Err(Ctx::value_of("activation", other, supported));
        }
    }])
}

fn col2im(c: &mut Ctx) -> R<Vec<ValueId>> {
    let (strides, pads, dilations) =
        (c.attrs.ints("strides")?, c.attrs.ints("pads")?, c.attrs.ints("dilations")?);
    let (x, image, block) = (c.x(0)?, c.i64_input(1)?, c.i64_input(2)?);
    let lists = [strides.as_ref(), dilations.as_ref()].into_iter().flatten().map(Vec::len);
    let rank = lists.chain(pads.as_ref().map(|p| p.len() / 2)).next();
    let known = c.length(image, 0).or(c.length(block, 0)).and_then(|r| usize::try_from(r).ok());
    let Some(r) = known.or(rank).filter(|r| *r <= 64) else {
        return Err(Ctx::form("the number of axes of the image is not known"));
    };
    let (strides, dilations) = (strides.unwrap_or(vec![1; r]), dilations.unwrap_or(vec![1; r]));
    let pads = pads.unwrap_or(vec![0; 2 * r]);
    Ok(vec![c.op(Op::Col2Im { strides, pads, dilations }, &[x, image, block])?])
}

// Padding and rearranging.

fn pad(c: &mut Ctx) -> R<Vec<ValueId>> {
    let modes = PadMode::ALL.iter().map(|m| (m.name(), *m)).collect::<Vec<_>>();
    let mode = word(c, "mode", PadMode::Constant, &modes)?;
    let (given, number) = (c.attrs.ints("pads")?, c.attrs.float("value")?);
    let x = c.x(0)?;
    let mut pads = match given {
        Some(pads) => c.vector(pads),
        None => c.i64_input(1)?,
    };
    let axes = match c.constant(3).is_some() {
        true => c.ints(3, "axes")?.unwrap_or_default(),
        false => Vec::new(),
    };
    if c.constant(3).is_some() && axes.is_empty() {
        return Ok(vec![x]);
    }
    if c.has(3) && axes.is_empty() {
        pads = spread_pads(c, x, pads)?;
    }
    let mut inputs = vec![x, pads];
    let value = match number {
        Some(v) if v != 0.0 => Some(c.number_like(v.into(), x)?),
        _ => c.opt(2)?,
    };
    inputs.extend(value.filter(|_| mode == PadMode::Constant));
    Ok(vec![c.op(Op::Pad { mode, axes }, &inputs)?])
}

/// Pads of the axes that input 3 names at run time, as pads of all axes.
fn spread_pads(c: &mut Ctx, x: ValueId, pads: ValueId) -> R<ValueId> {
    let rank = c.rank(x)? as i64;
    let axes = c.i64_input(3)?;
    let (all, count) = (c.vector((0..rank).collect()), c.vector(vec![rank]));
    let axes = c.bin(B::Mod, axes, count)?;
    let column = c.op(Op::Unsqueeze { axes: vec![1] }, &[axes])?;
    let named = c.bin(B::Equal, column, all)?;
    let named = c.op(Op::Cast { to: Elem::I64 }, &[named])?;
    // [2, axes, 1] times [axes, rank].
    let (split, flat) = (c.vector(vec![2, -1, 1]), c.vector(vec![-1]));
    let pads = c.op(Op::Reshape { allow_zero: false }, &[pads, split])?;
    let pads = c.bin(B::Mul, pads, named)?;
    let pads = c.op(Op::Reduce { f: Rf::Sum, axes: vec![1], keepdims: false }, &[pads])?;
    c.op(Op::Reshape { allow_zero: false }, &[pads, flat])
}

fn center_crop_pad(c: &mut Ctx) -> R<Vec<ValueId>> {
    let axes = c.attrs.ints("axes")?;
    let (x, want) = (c.x(0)?, c.i64_input(1)?);
    let mut lens = c.op(Op::Shape { start: 0, end: i64::MAX }, &[x])?;
    if let Some(axes) = &axes {
        let at = c.vector(axes.clone());
        lens = c.op(Op::Gather { axis: 0 }, &[lens, at])?;
    }
    // The quotient truncates towards zero: the larger half is at the end, of what is cut as well.
    let two = c.vector(vec![2]);
    let more = c.bin(B::Sub, want, lens)?;
    let begin = c.bin(B::Div, more, two)?;
    let end = c.bin(B::Sub, more, begin)?;
    let pads = c.op(Op::Concat { axis: 0 }, &[begin, end])?;
    let axes = axes.unwrap_or_default();
    Ok(vec![c.op(Op::Pad { mode: PadMode::Constant, axes }, &[x, pads])?])
}

fn block_size(c: &mut Ctx) -> R<i64> {
    match c.attrs.int("blocksize")? {
        Some(b @ 1..=65536) => Ok(b),
        b => Err(Ctx::value_of("blocksize", b, "1 to 65536")),
    }
}

/// The lengths of x's four axes, as vectors of one element.
fn four_lengths(c: &mut Ctx, x: ValueId) -> R<[ValueId; 4]> {
    if c.dims(x).is_some_and(|d| d.len() != 4) {
        return Err(Ctx::form("the operand must have 4 axes"));
    }
    let mut out = [x; 4];
    for (i, v) in (0i64..).zip(&mut out) {
        *v = c.op(Op::Shape { start: i, end: i + 1 }, &[x])?;
    }
    Ok(out)
}

fn depth_to_space(c: &mut Ctx) -> R<Vec<ValueId>> {
    let block = block_size(c)?;
    let columns_first = word(c, "mode", false, &[("DCR", false), ("CRD", true)])?;
    let x = c.x(0)?;
    let [n, channels, h, w] = four_lengths(c, x)?;
    let (b, square) = (c.vector(vec![block]), c.vector(vec![block * block]));
    let depth = c.bin(B::Div, channels, square)?;
    let (split, perm) = if columns_first {
        ([n, depth, b, b, h, w], vec![0, 1, 4, 2, 5, 3])
    } else {
        ([n, b, b, depth, h, w], vec![0, 3, 4, 1, 5, 2])
    };
    let (high, wide) = (c.bin(B::Mul, h, b)?, c.bin(B::Mul, w, b)?);
    rearranged(c, x, &split, perm, &[n, depth, high, wide])
}

fn space_to_depth(c: &mut Ctx) -> R<Vec<ValueId>> {
    let block = block_size(c)?;
    let x = c.x(0)?;
    let [n, channels, h, w] = four_lengths(c, x)?;
    let (b, square) = (c.vector(vec![block]), c.vector(vec![block * block]));
    let (h, w) = (c.bin(B::Div, h, b)?, c.bin(B::Div, w, b)?);
    let depth = c.bin(B::Mul, channels, square)?;
    rearranged(c, x, &[n, channels, h, b, w, b], vec![0, 3, 5, 1, 2, 4], &[n, depth, h, w])
}

/// x under one shape, with its axes permuted, under another shape.
fn rearranged(
    c: &mut Ctx,
    x: ValueId,
    split: &[ValueId],
    perm: Vec<i64>,
    shape: &[ValueId],
) -> R<Vec<ValueId>> {
    let split = c.op(Op::Concat { axis: 0 }, split)?;
    let x = c.op(Op::Reshape { allow_zero: true }, &[x, split])?;
    let x = c.op(Op::Transpose { perm }, &[x])?;
    let shape = c.op(Op::Concat { axis: 0 }, shape)?;
    Ok(vec![c.op(Op::Reshape { allow_zero: true }, &[x, shape])?])
}

// Resizing and sampling.

/// Scales of a resize that are constant.
fn constant_scales(c: &Ctx, i: usize) -> Option<Vec<f32>> {
    let t = c.constant(i).filter(|k| k.len() <= 64)?.tensor().ok()?;
    t.as_slice::<f32>().ok().map(<[f32]>::to_vec)
}

/// A resize before opset 11: places are quotients.
fn old_resize(c: &mut Ctx, mode: Interpolation, scales: Option<Vec<f32>>) -> R<Vec<ValueId>> {
    let scales = scales.or_else(|| constant_scales(c, 1));
    let mut inputs = vec![c.x(0)?];
    if scales.as_ref().is_none_or(Vec::is_empty) {
        let scales = c.x(1)?;
        inputs.push(c.op(Op::Cast { to: Elem::F64 }, &[scales])?);
    }
    let op = Op::Resize {
        mode,
        coordinates: Coordinates::Asymmetric,
        nearest: NearestFn::Simple,
        cubic: -0.75,
        exclude_outside: false,
        extrapolation: 0.0,
        antialias: false,
        aspect: AspectRatio::Stretch,
        axes: Vec::new(),
        scales: scales.unwrap_or_default(),
    };
    Ok(vec![c.op(op, &inputs)?])
}

const OLD_MODES: &[(&str, Interpolation)] = &[
    ("nearest", Interpolation::Nearest),
    ("linear", Interpolation::Linear),
    ("bilinear", Interpolation::Linear),
];

fn upsample(c: &mut Ctx) -> R<Vec<ValueId>> {
    let mode = word(c, "mode", Interpolation::Nearest, OLD_MODES)?;
    let scales = c.attrs.floats("scales")?.map(<[f32]>::to_vec);
    old_resize(c, mode, scales)
}

fn resize(c: &mut Ctx) -> R<Vec<ValueId>> {
    if c.opset < 11 {
        let mode = word(c, "mode", Interpolation::Nearest, OLD_MODES)?;
        return old_resize(c, mode, None);
    }
    let modes = Interpolation::ALL.iter().map(|m| (m.name(), *m)).collect::<Vec<_>>();
    let mode = word(c, "mode", Interpolation::Nearest, &modes)?;
    let names = Coordinates::ALL.iter().map(|m| (m.name(), *m)).collect::<Vec<_>>();
    let coordinates = word(c, "coordinate_transformation_mode", Coordinates::HalfPixel, &names)?;
    let names = NearestFn::ALL.iter().filter(|m| **m != NearestFn::Simple);
    let names = names.map(|m| (m.name(), *m)).collect::<Vec<_>>();
    let nearest = word(c, "nearest_mode", NearestFn::PreferFloor, &names)?;
    let names = AspectRatio::ALL.iter().map(|m| (m.name(), *m)).collect::<Vec<_>>();
    let aspect = word(c, "keep_aspect_ratio_policy", AspectRatio::Stretch, &names)?;
    let cubic = c.attrs.float("cubic_coeff_a")?.unwrap_or(-0.75);
    let exclude_outside = c.attrs.flag("exclude_outside", false)?;
    let extrapolation = c.attrs.float("extrapolation_value")?.unwrap_or(0.0);
    let antialias = c.attrs.flag("antialias", false)?;
    if antialias && mode == Interpolation::Nearest {
        return Err(Ctx::value_of("antialias", 1, "0 where mode is nearest"));
    }
    let axes = c.attrs.ints("axes")?.unwrap_or_default();
    let mut inputs = vec![c.x(0)?];
    let mut scales = Vec::new();
    // Scales without elements stand for scales that are left out.
    let known = constant_scales(c, 2);
    if c.has(3) && known.as_ref().is_none_or(Vec::is_empty) {
        inputs.push(c.i64_input(3)?);
    } else if let Some(known) = known.filter(|s| !s.is_empty()) {
        scales = known;
    } else if c.has(2) {
        let given = c.x(2)?;
        inputs.push(c.op(Op::Cast { to: Elem::F64 }, &[given])?);
    } else {
        return Err(Ctx::form("neither scales nor sizes are given"));
    }
    if coordinates == Coordinates::CropAndResize {
        let region = c.x(1)?;
        inputs.push(c.op(Op::Cast { to: Elem::F64 }, &[region])?);
    }
    let op = Op::Resize {
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
    };
    Ok(vec![c.op(op, &inputs)?])
}

fn grid_sample(c: &mut Ctx) -> R<Vec<ValueId>> {
    let modes = [
        ("linear", Interpolation::Linear),
        ("bilinear", Interpolation::Linear),
        ("nearest", Interpolation::Nearest),
        ("cubic", Interpolation::Cubic),
        ("bicubic", Interpolation::Cubic),
    ];
    let mode = word(c, "mode", Interpolation::Linear, &modes)?;
    let names = Border::ALL.iter().map(|m| (m.name(), *m)).collect::<Vec<_>>();
    let border = word(c, "padding_mode", Border::Zeros, &names)?;
    let align_corners = c.attrs.flag("align_corners", false)?;
    let (x, mut grid) = (c.x(0)?, c.x(1)?);
    if c.elem(grid) != c.elem(x) && c.elem(grid) != Elem::F64 {
        grid = c.op(Op::Cast { to: Elem::F64 }, &[grid])?;
    }
    Ok(vec![c.op(Op::GridSample { mode, border, align_corners }, &[x, grid])?])
}

fn affine_grid(c: &mut Ctx) -> R<Vec<ValueId>> {
    let align_corners = c.attrs.flag("align_corners", false)?;
    let (theta, size) = (c.x(0)?, c.i64_input(1)?);
    Ok(vec![c.op(Op::AffineGrid { align_corners }, &[theta, size])?])
}

// Boxes.

fn roi_align(c: &mut Ctx) -> R<Vec<ValueId>> {
    let max = word(c, "mode", false, &[("avg", false), ("max", true)])?;
    let rules = [("half_pixel", true), ("output_half_pixel", false)];
    let half_pixel = word(c, "coordinate_transformation_mode", c.opset >= 16, &rules)?;
    let height = c.attrs.int("output_height")?.unwrap_or(1);
    let width = c.attrs.int("output_width")?.unwrap_or(1);
    let sampling = c.attrs.int("sampling_ratio")?.unwrap_or(0);
    let scale = c.attrs.float("spatial_scale")?.unwrap_or(1.0);
    let inputs = [c.x(0)?, c.x(1)?, c.i64_input(2)?];
    Ok(vec![c.op(Op::RoiAlign { max, half_pixel, height, width, sampling, scale }, &inputs)?])
}

fn max_roi_pool(c: &mut Ctx) -> R<Vec<ValueId>> {
    let scale = c.attrs.float("spatial_scale")?.unwrap_or(1.0);
    let (height, width) = match c.attrs.ints("pooled_shape")?.as_deref() {
        Some(&[h, w]) => (h, w),
        other => return Err(Ctx::value_of("pooled_shape", other, "2 numbers")),
    };
    let inputs = [c.x(0)?, c.x(1)?];
    Ok(vec![c.op(Op::MaxRoiPool { height, width, scale }, &inputs)?])
}

fn non_max_suppression(c: &mut Ctx) -> R<Vec<ValueId>> {
    let center = c.attrs.flag("center_point_box", false)?;
    let mut inputs = vec![c.x(0)?, c.x(1)?];
    inputs.push(if c.has(2) { c.i64_input(2)? } else { c.int_scalar(0) });
    let limit = match c.opt(3)? {
        Some(v) => v,
        None => c.number_like(0.0, inputs[0])?,
    };
    inputs.push(limit);
    inputs.extend(c.opt(4)?);
    Ok(vec![c.op(Op::NonMaxSuppression { center }, &inputs)?])
}

// Norms.

fn lrn(c: &mut Ctx) -> R<Vec<ValueId>> {
    let alpha = f64::from(c.attrs.float("alpha")?.unwrap_or(1e-4));
    let beta = f64::from(c.attrs.float("beta")?.unwrap_or(0.75));
    let bias = f64::from(c.attrs.float("bias")?.unwrap_or(1.0));
    let size = match c.attrs.int("size")? {
        Some(s @ 1..=65536) => s,
        s => return Err(Ctx::value_of("size", s, "1 to 65536")),
    };
    let x = c.x(0)?;
    let axes = c.rank(x)?.checked_sub(1).filter(|a| *a > 0);
    let axes = axes.ok_or_else(|| Ctx::form("the operand needs a channel axis"))?;
    let square = c.bin(B::Mul, x, x)?;
    // The channel axis becomes the first spatial one.
    let spread = c.op(Op::Unsqueeze { axes: vec![1] }, &[square])?;
    let (mut kernel, mut pads) = (vec![1; axes], vec![0; 2 * axes]);
    (kernel[0], pads[0], pads[axes]) = (size, (size - 1) / 2, size / 2);
    let g = Geometry { strides: vec![1; axes], pads, dilations: vec![1; axes], auto: AutoPad::Given };
    let sum = c.op(pool_op(PoolFn::Sum, (kernel, g, false)), &[spread])?;
    let sum = c.op(Op::Squeeze { axes: vec![1] }, &[sum])?;
    let d = c.with(B::Mul, sum, alpha / size as f64)?;
    let d = c.with(B::Add, d, bias)?;
    let d = c.with(B::Pow, d, beta)?;
    Ok(vec![c.bin(B::Div, x, d)?])
}

fn lp_norm(c: &mut Ctx) -> R<Vec<ValueId>> {
    let p = norm_power(c)?;
    let axis = c.attrs.int("axis")?.unwrap_or(-1);
    let x = c.x(0)?;
    let v = power(c, x, p)?;
    let v = c.reduce(Rf::Sum, v, vec![axis])?;
    let v = root(c, v, p)?;
    let none = c.with(B::Equal, v, 0.0)?;
    let (y, zero) = (c.bin(B::Div, x, v)?, c.number_like(0.0, x)?);
    Ok(vec![c.op(Op::Where {}, &[none, zero, y])?])
}

/// (x - mean) and the mean of its square, over axes.
fn moments(c: &mut Ctx, x: ValueId, axes: Vec<i64>) -> R<(ValueId, ValueId, ValueId)> {
    let mean = c.reduce(Rf::Mean, x, axes.clone())?;
    let d = c.bin(B::Sub, x, mean)?;
    let square = c.bin(B::Mul, d, d)?;
    Ok((d, mean, c.reduce(Rf::Mean, square, axes)?))
}

fn mean_variance_norm(c: &mut Ctx) -> R<Vec<ValueId>> {
    let axes = c.attrs.ints("axes")?.unwrap_or_else(|| vec![0, 2, 3]);
    let x = c.x(0)?;
    let (d, _, var) = moments(c, x, axes)?;
    let deviation = c.un(U::Sqrt, var)?;
    // The addend of the ONNX definition.
    let deviation = c.with(B::Add, deviation, 1e-9)?;
    Ok(vec![c.bin(B::Div, d, deviation)?])
}

fn group_norm(c: &mut Ctx) -> R<Vec<ValueId>> {
    stash(c)?;
    let epsilon = c.attrs.float("epsilon")?.unwrap_or(1e-5);
    let groups = match c.attrs.int("num_groups")? {
        Some(g @ 1..=0x7fff_ffff) => g,
        g => return Err(Ctx::value_of("num_groups", g, "a positive number")),
    };
    let (given, mut scale, mut bias) = (c.x(0)?, c.x(1)?, c.x(2)?);
    let (to, rank) = (c.elem(given), c.rank(given)?);
    let shape = c.op(Op::Shape { start: 0, end: i64::MAX }, &[given])?;
    let mut x = given;
    if to.is_half() {
        for v in [&mut x, &mut scale, &mut bias] {
            *v = c.op(Op::Cast { to: Elem::F32 }, &[*v])?;
        }
    }
    let split = c.vector(vec![0, groups, -1]);
    let x = c.op(Op::Reshape { allow_zero: false }, &[x, split])?;
    let (d, _, var) = moments(c, x, vec![2])?;
    let var = c.with(B::Add, var, epsilon.into())?;
    let deviation = c.un(U::Sqrt, var)?;
    let mut y = c.bin(B::Div, d, deviation)?;
    // Before opset 21 there is a gain and an addend for a group, later for a channel.
    let by_group = c.opset < 21;
    if !by_group {
        y = c.op(Op::Reshape { allow_zero: true }, &[y, shape])?;
    }
    let (scale, bias) = {
        let rank = if by_group { 3 } else { rank };
        (on_channels(c, scale, rank)?, on_channels(c, bias, rank)?)
    };
    y = c.bin(B::Mul, y, scale)?;
    y = c.bin(B::Add, y, bias)?;
    if by_group {
        y = c.op(Op::Reshape { allow_zero: true }, &[y, shape])?;
    }
    if to.is_half() {
        y = c.op(Op::Cast { to }, &[y])?;
    }
    Ok(vec![y])
}

/// The result and the updated mean and variance of a batch norm in training mode.
pub(super) fn batch_norm_training(c: &mut Ctx, rank: usize, epsilon: f64, momentum: f64) -> R<Vec<ValueId>> {
    let x = c.x(0)?;
    let axes: Vec<i64> = [0].into_iter().chain(2..rank as i64).collect();
    let (d, mean, var) = moments(c, x, axes.clone())?;
    let deviation = c.with(B::Add, var, epsilon)?;
    let deviation = c.un(U::Sqrt, deviation)?;
    let y = c.bin(B::Div, d, deviation)?;
    let (scale, bias) = (c.x(1)?, c.x(2)?);
    let (scale, bias) = (on_channels(c, scale, rank)?, on_channels(c, bias, rank)?);
    let y = c.bin(B::Mul, y, scale)?;
    let mut out = vec![c.bin(B::Add, y, bias)?];
    for (i, now) in [(3, mean), (4, var)] {
        let old = c.x(i)?;
        let now = c.op(Op::Squeeze { axes: axes.clone() }, &[now])?;
        let kept = c.with(B::Mul, old, momentum)?;
        let added = c.with(B::Mul, now, 1.0 - momentum)?;
        out.push(c.bin(B::Add, kept, added)?);
    }
    Ok(out)
}
