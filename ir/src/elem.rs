//! Element types.

use std::fmt;
use std::str::FromStr;

/// Type of the elements of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Elem {
    /// IEEE single.
    F32,
    /// IEEE double.
    F64,
    /// Signed 64-bit.
    I64,
    /// Signed 32-bit.
    I32,
    /// Signed 8-bit.
    I8,
    /// Unsigned 8-bit.
    U8,
    /// One byte, 0 or 1.
    Bool,
}

impl Elem {
    /// All element types.
    pub const ALL: [Elem; 7] = [Elem::F32, Elem::F64, Elem::I64, Elem::I32, Elem::I8, Elem::U8, Elem::Bool];

    /// Size in bytes.
    pub fn size(self) -> usize {
        match self {
            Elem::F64 | Elem::I64 => 8,
            Elem::F32 | Elem::I32 => 4,
            Elem::I8 | Elem::U8 | Elem::Bool => 1,
        }
    }

    /// Whether it is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, Elem::F32 | Elem::F64)
    }

    /// Whether it is an integer type (not bool).
    pub fn is_int(self) -> bool {
        matches!(self, Elem::I64 | Elem::I32 | Elem::I8 | Elem::U8)
    }

    /// Name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Elem::F32 => "f32",
            Elem::F64 => "f64",
            Elem::I64 => "i64",
            Elem::I32 => "i32",
            Elem::I8 => "i8",
            Elem::U8 => "u8",
            Elem::Bool => "bool",
        }
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
        Elem::ALL.into_iter().find(|e| e.name() == s).ok_or_else(|| format!("unknown element type {s:?}"))
    }
}
