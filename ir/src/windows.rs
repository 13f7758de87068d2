//! How windows lie along an axis, and how long the results of windowed and resized axes are: what
//! inference and the kernels must agree on.

use crate::op::{AspectRatio, AutoPad};

/// Windows along one spatial axis.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) kernel: i64,
    pub(crate) stride: i64,
    pub(crate) begin: i64,
    pub(crate) end: i64,
    pub(crate) dilation: i64,
}

/// Windows on an axis of known length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placed {
    /// Number of windows.
    pub(crate) out: i64,
    /// Padding before the first element.
    pub(crate) begin: i64,
    /// Length with the padding on both sides.
    pub(crate) padded: i64,
}

/// The windows of each spatial axis. Lists have one entry an axis, `pads` begins then ends; numbers
/// fit 32 bits.
///
/// # Errors
/// Lists of other lengths, numbers out of range; negative pads unless `cut` allows them.
pub(crate) fn spans(
    kernel: &[i64],
    strides: &[i64],
    pads: &[i64],
    dilations: &[i64],
    cut: bool,
) -> Result<Vec<Span>, String> {
    let r = kernel.len();
    if r == 0 || strides.len() != r || dilations.len() != r || pads.len() != 2 * r {
        return Err(format!(
            "kernel {kernel:?}, strides {strides:?}, pads {pads:?} and dilations {dilations:?} differ in rank"
        ));
    }
    let small = |v: i64, least: i64, what: &str| match i32::try_from(v) {
        Ok(_) if v >= least => Ok(v),
        _ => Err(format!("{what} of {v}")),
    };
    let least = if cut { i64::from(i32::MIN) } else { 0 };
    (0..r)
        .map(|i| {
            Ok(Span {
                kernel: small(kernel[i], 1, "a kernel length")?,
                stride: small(strides[i], 1, "a stride")?,
                begin: small(pads[i], least, "a pad")?,
                end: small(pads[i + r], least, "a pad")?,
                dilation: small(dilations[i], 1, "a dilation")?,
            })
        })
        .collect()
}

impl Span {
    /// Elements from the first to the last of a window.
    pub(crate) fn extent(&self) -> i64 {
        // Both factors are below 2^31.
        (self.kernel - 1) * self.dilation + 1
    }

    /// How many elements of a window that begins at `first` lie before `end`.
    pub(crate) fn reach(&self, first: i64, end: i64) -> usize {
        let taps = if first < end { ceil_div(end - first, self.dilation).min(self.kernel) } else { 0 };
        usize::try_from(taps).unwrap_or(0)
    }

    /// The elements of a window that begins at `first` that lie among `len`, as numbers of taps.
    pub(crate) fn inside(&self, first: i64, len: i64) -> std::ops::Range<i64> {
        let skipped = if first < 0 { ceil_div(-first, self.dilation) } else { 0 };
        skipped..self.reach(first, len) as i64
    }

    /// The windows on an axis of `len` elements. With `ceil` a last window may reach beyond the padding
    /// unless it starts there.
    ///
    /// # Errors
    /// An axis shorter than a window.
    pub(crate) fn place(&self, len: i64, ceil: bool, auto: AutoPad) -> Result<Placed, String> {
        let too_long = || format!("an axis of length {len}");
        let extent = self.extent();
        if auto != AutoPad::Given {
            let out = ceil_div(len, self.stride);
            let reach = (out - 1).checked_mul(self.stride).and_then(|r| r.checked_add(extent));
            let total = reach.and_then(|r| r.checked_sub(len)).ok_or_else(too_long)?.max(0);
            let begin = halves(total, auto).0;
            return Ok(Placed { out, begin, padded: len.checked_add(total).ok_or_else(too_long)? });
        }
        let padded = len.checked_add(self.begin + self.end).ok_or_else(too_long)?;
        let room = padded.checked_sub(extent).ok_or_else(too_long)?;
        if room < 0 {
            return Err(format!("windows of {extent} elements on an axis of padded length {padded}"));
        }
        let mut out = room / self.stride + 1;
        if ceil && room % self.stride != 0 && out.saturating_mul(self.stride) < len + self.begin {
            out += 1;
        }
        Ok(Placed { out, begin: self.begin, padded })
    }

    /// Length of the image whose windows an axis of `len` elements is, with `padding` more at the end.
    ///
    /// # Errors
    /// A negative length.
    pub(crate) fn unplace(&self, len: i64, padding: i64) -> Result<i64, String> {
        self.spread(len, padding)
            .and_then(|l| l.checked_sub(self.begin + self.end))
            .filter(|l| *l >= 0)
            .ok_or_else(|| format!("{len} windows of kernel {} give no length", self.kernel))
    }

    /// Elements from the first of the first to the last of the last of `len` windows.
    pub(crate) fn spread(&self, len: i64, padding: i64) -> Option<i64> {
        len.checked_sub(1)?.checked_mul(self.stride)?.checked_add(self.extent())?.checked_add(padding)
    }
}

/// The part at the begin and at the end of a padding.
pub(crate) fn halves(total: i64, auto: AutoPad) -> (i64, i64) {
    let (small, large) = (total / 2, total - total / 2);
    if auto == AutoPad::Upper { (small, large) } else { (large, small) }
}

/// The quotient of two numbers that are not negative, rounded up.
fn ceil_div(a: i64, b: i64) -> i64 {
    a / b + i64::from(a % b != 0)
}

/// Begin padding and length of each axis of a transposed convolution.
///
/// # Errors
/// A length that is negative or too large.
pub(crate) fn transposed(
    spans: &[Span],
    lens: &[i64],
    padding: &[i64],
    output: &[i64],
    auto: AutoPad,
) -> Result<Vec<(i64, i64)>, String> {
    let r = spans.len();
    if lens.len() != r || padding.len() != r || !(output.is_empty() || output.len() == r) {
        return Err(format!("output padding {padding:?} and output {output:?} for {r} axes"));
    }
    (0..r)
        .map(|i| {
            if !(0..=i64::from(i32::MAX)).contains(&padding[i]) {
                return Err(format!("an output padding of {}", padding[i]));
            }
            let Some(&want) = output.get(i) else {
                return Ok((spans[i].begin, spans[i].unplace(lens[i], padding[i])?));
            };
            let total = spans[i].spread(lens[i], padding[i]).and_then(|s| s.checked_sub(want));
            let total = total.filter(|_| want >= 0).ok_or_else(|| format!("an output of length {want}"))?;
            Ok((halves(total.max(0), auto).0, want))
        })
        .collect()
}

/// Length of each resized axis and its scale, from the lengths of the axes.
///
/// # Errors
/// Scales that are not positive, sizes that are negative, and too large results.
pub(crate) fn resized(
    lens: &[i64],
    target: &Target<'_>,
    aspect: AspectRatio,
) -> Result<Vec<(i64, f64)>, String> {
    let length = |v: f64| match v {
        v if (0.0..=9e15).contains(&v) => Ok(v as i64),
        v => Err(format!("a length of {v}")),
    };
    match target {
        Target::Scales(scales) => {
            if scales.len() != lens.len() || scales.iter().any(|s| !s.is_finite() || *s <= 0.0) {
                return Err(format!("scales {scales:?} for {} axes", lens.len()));
            }
            // In single precision, as the shape inference of ONNX: 10 times 0.7 is 7.
            let times = |n: i64, s: f64| f64::from((n as f32 * s as f32).floor());
            lens.iter().zip(*scales).map(|(&n, &s)| Ok((length(times(n, s))?, s))).collect()
        }
        Target::Sizes(sizes) => {
            if sizes.len() != lens.len() || sizes.iter().any(|s| *s < 0) {
                return Err(format!("sizes {sizes:?} for {} axes", lens.len()));
            }
            let scales = lens.iter().zip(*sizes).map(|(&n, &s)| s as f64 / n as f64);
            let scale = match aspect {
                AspectRatio::Stretch => return Ok(sizes.iter().copied().zip(scales).collect()),
                AspectRatio::NotLarger => scales.fold(f64::INFINITY, f64::min),
                AspectRatio::NotSmaller => scales.fold(0.0, f64::max),
            };
            lens.iter().map(|&n| Ok((length((scale * n as f64 + 0.5).floor())?, scale))).collect()
        }
    }
}

/// What a resize is told.
pub(crate) enum Target<'a> {
    /// Factors of the lengths.
    Scales(&'a [f64]),
    /// Lengths.
    Sizes(&'a [i64]),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(kernel: i64, stride: i64, pad: i64, dilation: i64) -> Span {
        Span { kernel, stride, begin: pad, end: pad, dilation }
    }

    #[test]
    fn windows_of_an_axis() {
        // ceil((5 - 2) / 2) + 1 = 3 windows, floor: 2.
        let s = span(2, 2, 0, 1);
        assert_eq!(s.place(5, true, AutoPad::Given).unwrap().out, 3);
        assert_eq!(s.place(5, false, AutoPad::Given).unwrap().out, 2);
        // The third window would start at 4 of 2 + 1 elements and padding: beyond them.
        assert_eq!(span(1, 2, 1, 1).place(2, true, AutoPad::Given).unwrap().out, 2);
        // ceil(5 / 2) = 3 windows reach 4 + 3 elements, 2 more than there are.
        let same = span(3, 2, 0, 1).place(5, false, AutoPad::Upper).unwrap();
        assert_eq!(same, Placed { out: 3, begin: 1, padded: 7 });
        let lower = span(4, 1, 0, 1).place(5, false, AutoPad::Lower).unwrap();
        assert_eq!(lower, Placed { out: 5, begin: 2, padded: 8 });
        assert!(span(3, 1, 0, 3).place(6, false, AutoPad::Given).is_err());
        assert!(span(3, 1, 0, 3).place(i64::MIN, false, AutoPad::Given).is_err());
        // Elements -5, -2, 1, 4 and 7.
        assert_eq!(span(5, 1, 0, 3).inside(-5, 7), 2..4);
        assert_eq!(span(5, 1, 0, 3).reach(-5, 8), 5);
        assert_eq!(span(5, 1, 0, 3).inside(-14, 7), 5..5);
    }

    #[test]
    fn transposed_lengths_follow_from_pads_or_the_output() {
        let s = [span(3, 2, 1, 1)];
        assert_eq!(transposed(&s, &[3], &[1], &[], AutoPad::Given).unwrap(), [(1, 6)]);
        // 7 elements are spread, 2 more than wanted.
        assert_eq!(transposed(&s, &[3], &[0], &[5], AutoPad::Upper).unwrap(), [(1, 5)]);
        assert_eq!(transposed(&s, &[3], &[0], &[9], AutoPad::Given).unwrap(), [(0, 9)]);
        assert!(transposed(&s, &[3], &[0], &[-1], AutoPad::Given).is_err());
    }

    #[test]
    fn resized_lengths() {
        let by = |t: Target<'_>, a| resized(&[4, 2], &t, a).unwrap();
        assert_eq!(by(Target::Scales(&[0.6, 2.0]), AspectRatio::Stretch), [(2, 0.6), (4, 2.0)]);
        // Scales 7 / 4 and 8 / 2: the smaller for both axes.
        assert_eq!(by(Target::Sizes(&[7, 8]), AspectRatio::NotLarger), [(7, 1.75), (4, 1.75)]);
        assert_eq!(resized(&[10], &Target::Scales(&[0.7f32.into()]), AspectRatio::Stretch).unwrap()[0].0, 7);
        assert!(resized(&[4], &Target::Scales(&[f64::NAN]), AspectRatio::Stretch).is_err());
        assert!(resized(&[4], &Target::Sizes(&[-1]), AspectRatio::Stretch).is_err());
    }
}
