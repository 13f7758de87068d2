//! Types of operations on images: windows, resizing, sampling and boxes.

use super::{Fact, convolved, norm_axis, same_length};
use crate::elem::Elem;
use crate::op::{AspectRatio, AutoPad, Op};
use crate::shape::{Dim, OpenDim, OpenType};
use crate::windows::{self, Span, Target};

/// Infers the output of one of the operations of this module.
///
/// # Errors
/// What contradicts.
pub(super) fn infer(op: &Op, x: &[&Fact]) -> Result<Vec<Fact>, String> {
    let elem = x[0].ty.elem;
    let of = |elem, shape| Ok(vec![Fact::of(OpenType { elem, shape })]);
    match op {
        Op::Pool { kernel, strides, pads, dilations, ceil, auto, .. } => {
            of(elem, pooled(x[0], kernel, strides, pads, dilations, *ceil, *auto)?)
        }
        Op::MaxPoolIndexed { kernel, strides, pads, dilations, ceil, auto, .. } => {
            let shape = pooled(x[0], kernel, strides, pads, dilations, *ceil, *auto)?;
            let indices = Fact::of(OpenType { elem: Elem::I64, shape: shape.clone() });
            Ok(vec![Fact::of(OpenType { elem, shape }), indices])
        }
        Op::MaxUnpool { kernel, strides, pads } => {
            let spans = windows::spans(kernel, strides, pads, &vec![1; kernel.len()], false)?;
            if let Some(want) = x.get(2) {
                return of(elem, want.value.clone());
            }
            let Some(d) = image(x[0], kernel.len())? else { return of(elem, None) };
            let mut shape = d[..2].to_vec();
            for (s, d) in spans.iter().zip(&d[2..]) {
                shape.push(unplaced(s, d, 0)?);
            }
            of(elem, Some(shape))
        }
        Op::ConvTranspose { strides, pads, dilations, groups, output_padding, output, auto } => {
            let Some(w) = x[1].dims() else {
                return of(elem, x[0].dims().map(|d| vec![None; d.len()]));
            };
            let r = w.len().checked_sub(2).filter(|r| *r > 0).ok_or("w needs [C, O / groups, kernel]")?;
            let kernel: Option<Vec<i64>> = w[2..].iter().map(|k| k.as_ref()?.value()).collect();
            let channels = w[1].as_ref().and_then(|c| c.mul(&Dim::known(*groups)));
            convolved(x, &channels, *groups, Some(2))?;
            let Some(d) = image(x[0], r)? else { return of(elem, None) };
            same_length(&d[1], &w[0])?;
            let mut shape = vec![d[0].clone(), channels];
            let Some(kernel) = kernel else {
                shape.resize(r + 2, None);
                return of(elem, Some(shape));
            };
            let spans = windows::spans(&kernel, strides, pads, dilations, true)?;
            let lens: Option<Vec<i64>> = d[2..].iter().map(|d| d.as_ref()?.value()).collect();
            if let Some(lens) = lens {
                let placed = windows::transposed(&spans, &lens, output_padding, output, *auto)?;
                shape.extend(placed.iter().map(|p| Some(Dim::known(p.1))));
            } else if output.len() == r {
                shape.extend(output.iter().map(|&l| Some(Dim::known(l))));
            } else {
                for (i, s) in spans.iter().enumerate() {
                    let padding = output_padding.get(i).copied().ok_or("too few output paddings")?;
                    shape.push(unplaced(s, &d[i + 2], padding)?);
                }
            }
            of(elem, Some(shape))
        }
        Op::DeformConv { groups, biased, .. } => {
            let (Some(d), Some(w)) = (image(x[0], 2)?, x[1].dims()) else { return of(elem, None) };
            let out = match image(x[2], 2)? {
                Some(o) => o[2..].to_vec(),
                None => vec![None; 2],
            };
            let outs = w.first().cloned().ok_or("w needs [O, C / groups, kernel]")?;
            convolved(x, &outs, *groups, biased.then_some(3))?;
            of(elem, Some([&[d[0].clone(), outs], &out[..]].concat()))
        }
        Op::Col2Im { .. } => {
            let Some(d) = x[0].dims() else { return of(elem, None) };
            let [batch, channels, _] = d else { return Err("x needs [B, C * block, L]".into()) };
            let block = x[2].numbers().and_then(|b| b.iter().try_fold(1i64, |a, &v| a.checked_mul(v)));
            let channels = channels.as_ref().zip(block).and_then(|(c, b)| c.div(&Dim::known(b)));
            let image = match &x[1].value {
                Some(v) => v.clone(),
                None => match x[1].dims().and_then(|d| d.first()?.as_ref()?.value()) {
                    Some(r @ 0..=64) => vec![None; r as usize],
                    _ => return of(elem, None),
                },
            };
            of(elem, Some([&[batch.clone(), channels], &image[..]].concat()))
        }
        Op::Pad { axes, .. } => {
            let Some(d) = x[0].dims() else { return of(elem, None) };
            let axes = chosen(axes, d.len())?;
            let mut shape = d.to_vec();
            if let Some(v) = &x[1].value
                && v.len() != 2 * axes.len()
            {
                return Err(format!("{} pads for {} axes", v.len(), axes.len()));
            }
            for (i, &a) in axes.iter().enumerate() {
                shape[a] = x[1].value.as_ref().and_then(|v| {
                    let (begin, end) = (v[i].as_ref()?, v[i + axes.len()].as_ref()?);
                    shape[a].as_ref()?.add(begin)?.add(end)
                });
            }
            of(elem, Some(shape))
        }
        Op::Resize { axes, scales, aspect, .. } => {
            let Some(d) = x[0].dims() else { return of(elem, None) };
            of(elem, Some(resized(d, axes, scales, *aspect, x.get(1).copied())?))
        }
        Op::GridSample { .. } => {
            let (Some(d), Some(g)) = (x[0].dims(), x[1].dims()) else { return of(elem, None) };
            if d.len() < 3 || g.len() != d.len() {
                return Err("needs x [B, C, spatial] and a grid [B, out, rank]".into());
            }
            same_length(&g[g.len() - 1], &super::known(d.len() - 2))?;
            same_length(&d[0], &g[0])?;
            of(elem, Some([&d[..2], &g[1..g.len() - 1]].concat()))
        }
        Op::AffineGrid { .. } => {
            let Some(v) = &x[1].value else { return of(elem, None) };
            let [batch, _, spatial @ ..] = &v[..] else {
                return Err("the size needs batch and channels".into());
            };
            let rank = super::known(spatial.len());
            of(elem, Some([std::slice::from_ref(batch), spatial, &[rank]].concat()))
        }
        Op::RoiAlign { height, width, .. } | Op::MaxRoiPool { height, width, .. } => {
            if *height < 1 || *width < 1 {
                return Err(format!("an output of {height} by {width}"));
            }
            let boxes = x[1].dims().and_then(|d| d.first().cloned()).unwrap_or(None);
            let channels = image(x[0], 2)?.map(|d| d[1].clone()).unwrap_or(None);
            of(elem, Some(vec![boxes, channels, Some(Dim::known(*height)), Some(Dim::known(*width))]))
        }
        Op::NonMaxSuppression { .. } => of(Elem::I64, Some(vec![None, Some(Dim::known(3))])),
        _ => Err("is no operation on images".into()),
    }
}

/// The dimensions of an operand `[B, C, spatial]` of `r` spatial axes.
fn image(x: &Fact, r: usize) -> Result<Option<&[OpenDim]>, String> {
    match x.dims() {
        Some(d) if d.len() != r + 2 => Err(format!("needs batch, channels and {r} spatial axes")),
        d => Ok(d),
    }
}

/// The axes named, or all.
fn chosen(axes: &[i64], rank: usize) -> Result<Vec<usize>, String> {
    if axes.is_empty() {
        return Ok((0..rank).collect());
    }
    axes.iter().map(|&a| norm_axis(a, rank)).collect()
}

fn pooled(
    x: &Fact,
    kernel: &[i64],
    strides: &[i64],
    pads: &[i64],
    dilations: &[i64],
    ceil: bool,
    auto: AutoPad,
) -> Result<Option<Vec<OpenDim>>, String> {
    let spans = windows::spans(kernel, strides, pads, dilations, false)?;
    let Some(d) = image(x, kernel.len())? else { return Ok(Some(vec![None; kernel.len() + 2])) };
    let mut shape = d[..2].to_vec();
    for (s, d) in spans.iter().zip(&d[2..]) {
        shape.push(match d.as_ref().and_then(Dim::value) {
            Some(len) => Some(Dim::known(s.place(len, ceil, auto)?.out)),
            None if s.stride > 1 => None,
            None if auto != AutoPad::Given => d.clone(),
            None => {
                let more = Dim::known(s.begin + s.end + 1 - s.extent());
                d.as_ref().and_then(|d| d.add(&more))
            }
        });
    }
    Ok(Some(shape))
}

fn unplaced(s: &Span, dim: &OpenDim, padding: i64) -> Result<OpenDim, String> {
    let Some(d) = dim else { return Ok(None) };
    if let Some(len) = d.value() {
        return Ok(Some(Dim::known(s.unplace(len, padding)?)));
    }
    // stride d + (extent - stride) + padding - begin - end
    let rest = (s.extent() - s.stride).checked_add(padding).and_then(|v| v.checked_sub(s.begin + s.end));
    Ok(rest.and_then(|rest| d.mul(&Dim::known(s.stride))?.add(&Dim::known(rest))))
}

fn resized(
    d: &[OpenDim],
    axes: &[i64],
    scales: &[f32],
    aspect: AspectRatio,
    target: Option<&Fact>,
) -> Result<Vec<OpenDim>, String> {
    let axes = chosen(axes, d.len())?;
    let mut shape = d.to_vec();
    let mut set = |axes: &[usize], dims: Vec<OpenDim>| {
        axes.iter().zip(dims).for_each(|(&a, dim)| shape[a] = dim);
    };
    let lens: Option<Vec<i64>> = axes.iter().map(|&a| d[a].as_ref()?.value()).collect();
    let known = |found: Vec<(i64, f64)>| found.iter().map(|f| Some(Dim::known(f.0))).collect();
    if scales.is_empty() {
        let sizes = target.filter(|t| t.ty.elem == Elem::I64).and_then(|t| t.value.as_ref());
        match (sizes, lens) {
            (Some(s), _) if s.len() != axes.len() => {
                return Err(format!("{} sizes for {} axes", s.len(), axes.len()));
            }
            (Some(s), _) if aspect == AspectRatio::Stretch => set(&axes, s.clone()),
            (Some(s), Some(lens)) => {
                match s.iter().map(|d| d.as_ref()?.value()).collect::<Option<Vec<_>>>() {
                    Some(sizes) => {
                        set(&axes, known(windows::resized(&lens, &Target::Sizes(&sizes), aspect)?))
                    }
                    None => set(&axes, vec![None; d.len()]),
                }
            }
            _ => set(&axes, vec![None; d.len()]),
        }
        return Ok(shape);
    }
    if scales.len() != axes.len() {
        return Err(format!("{} scales for {} axes", scales.len(), axes.len()));
    }
    let wide: Vec<f64> = scales.iter().map(|&s| s.into()).collect();
    let found = match lens {
        Some(lens) => known(windows::resized(&lens, &Target::Scales(&wide), aspect)?),
        None => axes.iter().zip(&wide).map(|(&a, &s)| scaled(&d[a], s)).collect(),
    };
    set(&axes, found);
    Ok(shape)
}

/// The length floor(scale d), where it is a polynomial.
fn scaled(d: &OpenDim, scale: f64) -> OpenDim {
    let d = d.as_ref()?;
    if let Some(len) = d.value() {
        let found = windows::resized(&[len], &Target::Scales(&[scale]), AspectRatio::Stretch).ok()?;
        return Some(Dim::known(found.first()?.0));
    }
    let whole = |v: f64| (v.fract() == 0.0 && (1.0..=1e6).contains(&v)).then_some(Dim::known(v as i64));
    match (whole(scale), whole(1.0 / scale)) {
        (Some(times), _) => d.mul(&times),
        (None, Some(by)) => d.div(&by),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Coordinates, Interpolation, NearestFn, PadMode, PoolFn};
    use crate::text::{parse_program, print_program};

    fn fact(dims: &[Option<&str>]) -> Fact {
        let dim = |d: &Option<&str>| d.map(|d| d.parse().map_or_else(|_| Dim::symbol(d), Dim::known));
        Fact::of(OpenType { elem: Elem::F32, shape: Some(dims.iter().map(dim).collect()) })
    }

    fn shown(op: &Op, x: &[&Fact]) -> String {
        crate::infer::infer(op, x).map_or_else(|e| e, |f| f[0].ty.to_string())
    }

    fn resize(scales: &[f32], axes: &[i64]) -> Op {
        Op::Resize {
            mode: Interpolation::Linear,
            coordinates: Coordinates::HalfPixel,
            nearest: NearestFn::PreferFloor,
            cubic: -0.75,
            exclude_outside: false,
            extrapolation: 0.0,
            antialias: false,
            aspect: AspectRatio::Stretch,
            axes: axes.to_vec(),
            scales: scales.to_vec(),
        }
    }

    fn pool(stride: i64, auto: AutoPad) -> Op {
        Op::Pool {
            f: PoolFn::Max,
            kernel: vec![3, 3],
            strides: vec![stride, 1],
            pads: vec![0, 1, 0, 1],
            dilations: vec![1, 1],
            ceil: false,
            auto,
        }
    }

    #[test]
    fn lengths_stay_symbols_where_they_are_polynomials() {
        let x = fact(&[Some("b"), Some("3"), Some("h"), Some("w")]);
        assert_eq!(shown(&pool(1, AutoPad::Given), &[&x]), "f32[b, 3, h+-2, w]");
        assert_eq!(shown(&pool(1, AutoPad::Upper), &[&x]), "f32[b, 3, h, w]");
        assert_eq!(shown(&pool(2, AutoPad::Upper), &[&x]), "f32[b, 3, ?, w]");
        let known = fact(&[None, Some("3"), Some("7"), Some("9")]);
        assert_eq!(shown(&pool(2, AutoPad::Upper), &[&known]), "f32[?, 3, 4, 9]");
        assert_eq!(shown(&resize(&[2.0, 0.6], &[2, 3]), &[&x]), "f32[b, 3, 2*h, ?]");
        assert_eq!(shown(&resize(&[1.5, 0.6], &[-2, -1]), &[&known]), "f32[?, 3, 10, 5]");
        let transposed = Op::ConvTranspose {
            strides: vec![2, 2],
            pads: vec![0; 4],
            dilations: vec![1, 1],
            groups: 1,
            output_padding: vec![0, 1],
            output: Vec::new(),
            auto: AutoPad::Given,
        };
        let w = fact(&[Some("3"), Some("5"), Some("2"), Some("2")]);
        assert_eq!(shown(&transposed, &[&x, &w]), "f32[b, 5, 2*h, 2*w+1]");
        let mut pads = fact(&[Some("4")]);
        pads.value = Some(vec![Some(Dim::known(1)), None, Some(Dim::known(-3)), Some(Dim::known(1))]);
        let pad = Op::Pad { mode: PadMode::Constant, axes: vec![2, 3] };
        assert_eq!(shown(&pad, &[&x, &pads]), "f32[b, 3, h+-2, ?]");
    }

    #[test]
    fn contradictions_are_refused() {
        let x = fact(&[Some("1"), Some("3"), Some("2"), Some("9")]);
        assert!(shown(&pool(1, AutoPad::Given), &[&x]).contains("windows of 3"));
        let short = fact(&[Some("1"), Some("3"), Some("2")]);
        assert!(shown(&pool(1, AutoPad::Given), &[&short]).contains("2 spatial axes"));
        assert!(shown(&resize(&[2.0], &[2, 3]), &[&x]).contains("1 scales for 2 axes"));
        assert!(shown(&resize(&[0.0, 1.0], &[2, 3]), &[&x]).contains("scales"));
        assert!(shown(&resize(&[1.0, 1.0], &[2, 4]), &[&x]).contains("axis 4"));
    }

    #[test]
    fn biases_and_groups_of_convolutions_fit_their_channels() {
        let conv = |groups| Op::Conv { strides: vec![1, 1], pads: vec![0; 4], dilations: vec![1, 1], groups };
        let transposed = |groups| Op::ConvTranspose {
            strides: vec![1, 1],
            pads: vec![0; 4],
            dilations: vec![1, 1],
            groups,
            output_padding: vec![0, 0],
            output: Vec::new(),
            auto: AutoPad::Given,
        };
        let deform = |groups| Op::DeformConv {
            strides: vec![1, 1],
            pads: vec![0; 4],
            dilations: vec![1, 1],
            groups,
            offset_groups: 1,
            biased: true,
        };
        let x = fact(&[Some("1"), Some("4"), Some("5"), Some("5")]);
        let [six, rank_two] = [fact(&[Some("6")]), fact(&[Some("6"), Some("1")])];
        let w = fact(&[Some("6"), Some("2"), Some("2"), Some("2")]);
        let up = fact(&[Some("4"), Some("3"), Some("2"), Some("2")]);
        let five = fact(&[Some("5"), Some("2"), Some("2"), Some("2")]);
        let offset = fact(&[Some("1"), Some("8"), Some("4"), Some("4")]);
        let of = |op: &Op, w: &Fact, bias: &Fact| match op {
            Op::DeformConv { .. } => shown(op, &[&x, w, &offset, bias]),
            _ => shown(op, &[&x, w, bias]),
        };
        let wrong = fact(&[Some("3")]);
        let mut whole = six.clone();
        whole.ty.elem = Elem::I32;
        for (op, w) in [(conv(2), &w), (transposed(2), &up), (deform(2), &w)] {
            assert!(of(&op, w, &six).starts_with("f32[1, 6, "), "{}", of(&op, w, &six));
            assert!(of(&op, w, &wrong).contains("lengths 3 and 6 differ"), "{}", of(&op, w, &wrong));
            assert!(of(&op, w, &whole).contains("element types differ"), "{}", of(&op, w, &whole));
            assert!(of(&op, w, &rank_two).contains("bias of rank 2"), "{}", of(&op, w, &rank_two));
        }
        assert!(of(&conv(2), &five, &fact(&[Some("5")])).contains("5 output channels in 2 groups"));
    }

    #[test]
    fn attributes_read_back() {
        for line in [
            "pool(%0) {f=mean_padded, kernel=[3, 3], strides=[1, 2], pads=[0, 1, 0, 1], dilations=[1, 1], ceil=1, auto=same_lower}",
            "resize(%0) {mode=cubic, coordinates=half_pixel, nearest=floor, cubic=-0.5f, exclude_outside=0, \
             extrapolation=0.0f, antialias=1, aspect=stretch, axes=[], scales=[1.0f, 1.0f, 0.25f, 3.0f]}",
            "pad(%0, %0) {mode=wrap, axes=[-1]}",
        ] {
            let text = format!(
                "pfir 1\n%0 = input \"x\" : f32[1, 2, h, w]\n%1 \"y\" = {line} : f32[1, 2, ?, ?]\noutput \"y\" = %1\n"
            );
            let printed = print_program(&parse_program(&text).unwrap());
            assert!(printed.contains(line), "{printed}");
        }
    }
}
