//! Functions of f32 without branches, so that loops over them become vector instructions. Only sums,
//! products and fused multiply-adds are used, each rounded once, so that every processor gives the
//! same bits.

// Coefficients stand with the digits that tell them apart from their neighbours, some with one more.
#![allow(clippy::excessive_precision)]

/// 1.5 * 2^23: adding it to a small number rounds that to an integer, in the low bits of the sum.
const ROUNDER: f32 = 12_582_912.0;

/// e^x to 1 unit in the last place: Cephes' `expf` (S. L. Moshier, netlib.org/cephes), e^x = 2^n e^r
/// with |r| <= ln 2 / 2, and a polynomial for e^r.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Beyond these the result is infinite or 0; comparisons leave a NaN as it is.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUNDER);
    let n = shifted - ROUNDER;
    // ln 2 in two parts, of which the first has few bits.
    let r = n.mul_add(-0.693_359_375, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let mut p = 1.987_569_2e-4f32;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5.000_000_1e-1] {
        p = p.mul_add(r, c);
    }
    let p = p.mul_add(r * r, r) + 1.0;
    // 2^n in two factors, so that results below the normal numbers and infinity come out.
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUNDER.to_bits() as i32);
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) << 23) as u32);
    p * power(n >> 1) * power(n - (n >> 1))
}

/// The error function to 1 unit in the last place: N. Juffa's `erff`
/// (stackoverflow.com/questions/35148198), a polynomial near 0 and 1 - e^-p(|x|) elsewhere.
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let (t, s) = (x.abs(), x * x);
    let mut far = (-1.728_534_7e-5f32).mul_add(t, 3.831_971_3e-4);
    let u = (-3.883_964_4e-3f32).mul_add(t, 2.425_462_2e-2);
    far = far.mul_add(s, u);
    for c in [-1.067_778_8e-1, -6.348_466_9e-1, -1.287_175_1e-1] {
        far = far.mul_add(t, c);
    }
    far = (1.0 - exp(far.mul_add(t, -t))).copysign(x);
    let mut near = -5.967_617e-4f32;
    for c in [4.991_194_2e-3, -2.676_813_5e-2, 1.128_199_25e-1, -3.761_253_4e-1, 1.283_791_66e-1] {
        near = near.mul_add(s, c);
    }
    near = near.mul_add(x, x);
    // A large t overflows the polynomial; the function is 1 long before.
    let far = if t > 4.0 { 1f32.copysign(x) } else { far };
    if t > 0.927_734_4 { far } else { near }
}

/// The hyperbolic tangent to 2 units in the last place: Cephes' `tanhf`, a polynomial near 0 and
/// 1 - 2 / (e^2x + 1) elsewhere.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let (t, s) = (x.abs(), x * x);
    let far = (1.0 - 2.0 / (exp(t + t) + 1.0)).copysign(x);
    let mut p = -5.704_988_7e-3f32;
    for c in [2.063_908_9e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328_2e-1] {
        p = p.mul_add(s, c);
    }
    let near = (p * s).mul_add(x, x);
    // The polynomial's 0 has lost its sign.
    (if t > 0.625 { far } else { near }).copysign(x)
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest error in units in the last place over all f32 whose low 9 bits are those of `odd`.
    fn worst(odd: u32, f: impl Fn(f32) -> f32, wide: impl Fn(f64) -> f64) -> f64 {
        (0..1u32 << 23)
            .map(|i| f32::from_bits(i << 9 | odd))
            .filter(|x| x.is_finite())
            .map(|x| {
                let (got, want) = (f(x), wide(x.into()));
                if want > f64::from(f32::MAX) {
                    return if got == f32::INFINITY || got == f32::MAX { 0.0 } else { f64::INFINITY };
                }
                let unit = 2f64.powi((want.abs().log2().floor() as i32).max(-126) - 23);
                (f64::from(got) - want).abs() / unit
            })
            .fold(0.0, f64::max)
    }

    #[test]
    fn errors_are_within_a_few_units_in_the_last_place() {
        for (name, error, most) in [
            ("exp", worst(1, exp, f64::exp), 1.2),
            ("erf", worst(257, erf, libm::erf), 1.2),
            ("tanh", worst(77, tanh, f64::tanh), 2.0),
            ("sigmoid", worst(300, |x| sigmoid(x.max(-80.0)), |x| 1.0 / (1.0 + (-x.max(-80.0)).exp())), 2.5),
        ] {
            assert!(error <= most, "{name}: {error} units");
        }
    }

    #[test]
    fn special_numbers_have_their_values() {
        let inf = f32::INFINITY;
        for f in [exp, erf, tanh, sigmoid] {
            assert!(f(f32::NAN).is_nan());
        }
        assert_eq!([exp(0.0), exp(-inf), exp(inf), exp(88.8), exp(-104.5)], [1.0, 0.0, inf, inf, 0.0]);
        assert_eq!([erf(-inf), erf(inf), erf(f32::MAX), tanh(-inf), tanh(1e30)], [-1.0, 1.0, 1.0, -1.0, 1.0]);
        assert_eq!([sigmoid(-inf), sigmoid(inf), sigmoid(0.0)], [0.0, 1.0, 0.5]);
        assert_eq!((-0f32).to_bits(), erf(-0.0).to_bits());
        assert_eq!((-0f32).to_bits(), tanh(-0.0).to_bits());
    }
}
