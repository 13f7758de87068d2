//! Codes of narrow element types ([`Elem::is_code`]) as numbers, and back.
//!
//! Values and roundings are those of the ONNX operators `Cast` and `QuantizeLinear`; the formats are
//! those of the Open Compute Project (OCP 8-bit floating point 1.0, microscaling formats 1.0) and, for
//! the `fnuz` ones, of arXiv 2206.02915.

use std::cmp::Ordering;
use std::sync::LazyLock;

use crate::elem::Elem;

/// How a conversion to a narrow float treats what does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// The largest finite value; a NaN stays one.
    Saturate,
    /// Infinity where there is one, else NaN.
    Special,
}

/// How a power of two is chosen for [`Elem::F8E8M0`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerOfTwo {
    /// The nearest, ties upwards.
    Nearest,
    /// The next above.
    Up,
    /// The next below.
    Down,
}

/// Bit layout of a narrow float with a sign.
struct Format {
    mantissa: u32,
    bias: i32,
    bits: u32,
    /// Codes above this magnitude are infinities or NaNs.
    largest: u8,
    infinity: Option<u8>,
    /// Minus zero stands for it in the 4-bit format, which has none.
    nan: Option<u8>,
    /// Whether the code of minus zero is the NaN.
    no_negative_zero: bool,
}

fn format(elem: Elem) -> Option<Format> {
    let f = |mantissa, bias, bits, largest, infinity, nan, no_negative_zero| {
        Some(Format { mantissa, bias, bits, largest, infinity, nan, no_negative_zero })
    };
    match elem {
        Elem::F8E4M3Fn => f(3, 7, 8, 0x7e, None, Some(0x7f), false),
        Elem::F8E4M3Fnuz => f(3, 8, 8, 0x7f, None, Some(0x80), true),
        Elem::F8E5M2 => f(2, 15, 8, 0x7b, Some(0x7c), Some(0x7e), false),
        Elem::F8E5M2Fnuz => f(2, 16, 8, 0x7f, None, Some(0x80), true),
        Elem::F4E2M1 => f(1, 1, 4, 0x7, None, Some(0x8), false),
        _ => None,
    }
}

impl Format {
    /// The value of a magnitude, a code without sign.
    fn magnitude(&self, code: u8) -> f32 {
        let exponent = i32::from(code >> self.mantissa);
        let fraction = f32::from(code & ((1 << self.mantissa) - 1)) / (1u32 << self.mantissa) as f32;
        match exponent {
            0 => fraction * 2f32.powi(1 - self.bias),
            e => (1.0 + fraction) * 2f32.powi(e - self.bias),
        }
    }

    fn decode(&self, code: u8) -> f32 {
        let sign = 1u8 << (self.bits - 1);
        let magnitude = code & (sign - 1);
        if self.no_negative_zero && code == sign {
            return f32::NAN;
        }
        let value = match () {
            () if Some(magnitude) == self.infinity => f32::INFINITY,
            () if magnitude > self.largest => f32::NAN,
            () => self.magnitude(magnitude),
        };
        if code & sign == 0 { value } else { -value }
    }

    fn encode(&self, x: f64, overflow: Overflow) -> u8 {
        let sign = if x.is_sign_negative() { 1u8 << (self.bits - 1) } else { 0 };
        if x.is_nan() {
            let negative = if self.no_negative_zero { 0 } else { sign };
            return self.nan.unwrap_or(0) | negative;
        }
        let x = x.abs();
        // Magnitudes ascend with their codes; the first code not below x, or one past the largest.
        let (mut low, mut high) = (0u8, self.largest + 1);
        while low < high {
            let middle = low + (high - low) / 2;
            if f64::from(self.magnitude(middle)) < x { low = middle + 1 } else { high = middle }
        }
        let below = low.saturating_sub(1);
        let (a, b) = (f64::from(self.magnitude(below)), f64::from(self.magnitude(low)));
        let nearest = match (x - a).partial_cmp(&(b - x)) {
            Some(Ordering::Less) => below,
            Some(Ordering::Equal) if below & 1 == 0 => below,
            _ => low,
        };
        if x.is_infinite() || nearest > self.largest {
            return match overflow {
                Overflow::Saturate => sign | self.largest,
                Overflow::Special => match (self.infinity, self.nan) {
                    (Some(infinity), _) => sign | infinity,
                    (None, Some(nan)) if self.bits == 8 && self.no_negative_zero => nan,
                    (None, Some(nan)) if self.bits == 8 => sign | nan,
                    (None, _) => sign | self.largest,
                },
            };
        }
        if self.no_negative_zero && nearest == 0 { 0 } else { sign | nearest }
    }
}

fn table(elem: Elem) -> Vec<f32> {
    let codes = 0..=u8::MAX;
    let signed = |c: u8, bits: u32| ((c << (8 - bits)) as i8 >> (8 - bits)) as f32;
    match elem {
        Elem::I4 => codes.map(|c| signed(c, 4)).collect(),
        Elem::I2 => codes.map(|c| signed(c, 2)).collect(),
        Elem::U4 => codes.map(|c| f32::from(c & 15)).collect(),
        Elem::U2 => codes.map(|c| f32::from(c & 3)).collect(),
        Elem::F8E8M0 => codes
            .map(|c| if c == u8::MAX { f32::NAN } else { 2f64.powi(i32::from(c) - 127) as f32 })
            .collect(),
        other => match format(other) {
            Some(f) => codes.map(|c| f.decode(if f.bits < 8 { c & 15 } else { c })).collect(),
            None => Vec::new(),
        },
    }
}

/// The value of each code of a narrow element type, by the code; empty for other types.
pub fn values(elem: Elem) -> &'static [f32] {
    macro_rules! tables {
        ($($e:ident)*) => {
            match elem {
                $(Elem::$e => {
                    static TABLE: LazyLock<Vec<f32>> = LazyLock::new(|| table(Elem::$e));
                    &TABLE
                })*
                _ => &[],
            }
        };
    }
    tables!(F8E4M3Fn F8E4M3Fnuz F8E5M2 F8E5M2Fnuz F8E8M0 F4E2M1 I4 U4 I2 U2)
}

/// The code of a number: the nearest value, ties to the even code. Integers below 8 bits truncate
/// towards zero and keep the low bits, as conversions between integers do.
pub fn encode(elem: Elem, x: f64, overflow: Overflow, power: PowerOfTwo) -> u8 {
    match elem {
        Elem::I4 | Elem::U4 | Elem::I2 | Elem::U2 => (x as i64 & ((1 << elem.bits()) - 1)) as u8,
        Elem::F8E8M0 => power_of_two(x, overflow, power),
        other => format(other).map_or(0, |f| f.encode(x, overflow)),
    }
}

fn power_of_two(x: f64, overflow: Overflow, power: PowerOfTwo) -> u8 {
    let top = if overflow == Overflow::Saturate { 254 } else { 255 };
    if x.is_nan() {
        return 255;
    }
    let x = x.abs();
    if x.is_infinite() {
        return top;
    }
    // A subnormal f64 is far below 2^-127, the least.
    let exponent = if x == 0.0 { -127 } else { ((x.to_bits() >> 52) & 0x7ff) as i32 - 1023 };
    let exact = 2f64.powi(exponent);
    let up = match power {
        PowerOfTwo::Down => false,
        PowerOfTwo::Up => x > exact,
        PowerOfTwo::Nearest => x >= 1.5 * exact,
    };
    let code = exponent.max(-128) + 127 + i32::from(up && x > 0.0);
    if code > 254 { top } else { u8::try_from(code).unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finite_code_is_the_code_of_its_value() {
        for &elem in Elem::ALL.iter().filter(|e| e.is_code()) {
            for code in 0..1u16 << elem.bits() {
                let code = code as u8;
                let v = f64::from(values(elem)[usize::from(code)]);
                if v.is_finite() {
                    assert_eq!(encode(elem, v, Overflow::Special, PowerOfTwo::Nearest), code, "{elem} {v}");
                }
            }
        }
    }

    #[test]
    fn largest_values_and_specials_are_those_of_the_formats() {
        let largest = |e: Elem| values(e).iter().copied().filter(|v| v.is_finite()).fold(0f32, f32::max);
        // OCP 8-bit floating point 1.0, table 1; arXiv 2206.02915, table 1; OCP microscaling 1.0.
        assert_eq!(largest(Elem::F8E4M3Fn), 448.0);
        assert_eq!(largest(Elem::F8E4M3Fnuz), 240.0);
        assert_eq!(largest(Elem::F8E5M2), 57344.0);
        assert_eq!(largest(Elem::F8E5M2Fnuz), 57344.0);
        assert_eq!(largest(Elem::F4E2M1), 6.0);
        let e = |elem, x, overflow| encode(elem, x, overflow, PowerOfTwo::Nearest);
        assert_eq!(e(Elem::F8E5M2, 1e6, Overflow::Special), 0x7c);
        assert_eq!(e(Elem::F8E5M2, -1e6, Overflow::Saturate), 0xfb);
        assert_eq!(e(Elem::F8E4M3Fn, f64::INFINITY, Overflow::Special), 0x7f);
        assert_eq!(e(Elem::F8E4M3Fn, 464.0, Overflow::Special), 0x7e, "a tie to even is no overflow");
        assert_eq!(e(Elem::F8E4M3Fnuz, -0.0, Overflow::Saturate), 0);
    }
}
