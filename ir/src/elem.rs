//! Element types: those of ONNX, without strings and complex numbers.

use std::fmt;
use std::str::FromStr;

macro_rules! elems {
    ($($variant:ident $text:literal $bits:literal $kind:ident $doc:literal)*) => {
        /// Type of the elements of a tensor.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Elem { $(#[doc = $doc] $variant),* }

        impl Elem {
            /// All element types.
            pub const ALL: &'static [Elem] = &[$(Elem::$variant),*];

            /// Size in bits, as stored in a model or a data tile.
            pub const fn bits(self) -> usize {
                match self { $(Elem::$variant => $bits),* }
            }

            /// Name in the text form.
            pub const fn name(self) -> &'static str {
                match self { $(Elem::$variant => $text),* }
            }

            const fn kind(self) -> Kind {
                match self { $(Elem::$variant => Kind::$kind),* }
            }
        }
    };
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Float,
    Int,
    Bool,
    Code,
}

elems! {
    F32 "f32" 32 Float "IEEE single."
    F64 "f64" 64 Float "IEEE double."
    F16 "f16" 16 Float "IEEE half."
    BF16 "bf16" 16 Float "The upper half of an IEEE single."
    I64 "i64" 64 Int "Signed 64-bit."
    I32 "i32" 32 Int "Signed 32-bit."
    I16 "i16" 16 Int "Signed 16-bit."
    I8 "i8" 8 Int "Signed 8-bit."
    U64 "u64" 64 Int "Unsigned 64-bit."
    U32 "u32" 32 Int "Unsigned 32-bit."
    U16 "u16" 16 Int "Unsigned 16-bit."
    U8 "u8" 8 Int "Unsigned 8-bit."
    Bool "bool" 8 Bool "One byte, 0 or 1."
    F8E4M3Fn "f8e4m3fn" 8 Code "Float with 4 exponent and 3 mantissa bits, finite values and NaN."
    F8E4M3Fnuz "f8e4m3fnuz" 8 Code "As `F8E4M3Fn` with another bias and no negative zero."
    F8E5M2 "f8e5m2" 8 Code "Float with 5 exponent and 2 mantissa bits, infinities and NaNs."
    F8E5M2Fnuz "f8e5m2fnuz" 8 Code "As `F8E5M2` with another bias, finite values and NaN, no negative zero."
    F8E8M0 "f8e8m0" 8 Code "Power of two from 2^-127 to 2^127, or NaN."
    F4E2M1 "f4e2m1" 4 Code "Float with 2 exponent bits and 1 mantissa bit."
    I4 "i4" 4 Code "Signed 4-bit."
    U4 "u4" 4 Code "Unsigned 4-bit."
    I2 "i2" 2 Code "Signed 2-bit."
    U2 "u2" 2 Code "Unsigned 2-bit."
}

impl Elem {
    /// Bytes that `count` elements take when stored one after the other, the elements of fewer than
    /// 8 bits packed from the low bits up; `None` when it overflows.
    pub fn stored(self, count: usize) -> Option<usize> {
        count.checked_mul(self.bits()).map(|bits| bits.div_ceil(8))
    }

    /// Whether arithmetic is done in it: floats of 16 bits and more.
    pub fn is_float(self) -> bool {
        self.kind() == Kind::Float
    }

    /// Whether it is a float of 16 bits, on which arithmetic is that of f32, rounded.
    pub fn is_half(self) -> bool {
        matches!(self, Elem::F16 | Elem::BF16)
    }

    /// Whether it is an integer type of 8 bits and more (not bool).
    pub fn is_int(self) -> bool {
        self.kind() == Kind::Int
    }

    /// Whether it is a type of codes that can only be moved and converted: small floats, and
    /// integers below 8 bits.
    pub fn is_code(self) -> bool {
        self.kind() == Kind::Code
    }
}

impl fmt::Display for Elem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Elem {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Elem::ALL.iter().copied().find(|e| e.name() == s).ok_or_else(|| format!("unknown element type {s:?}"))
    }
}
