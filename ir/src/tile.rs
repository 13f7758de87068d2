//! Tiles: the unit a backend realises, and what is fixed in one.
//!
//! A [`FixedMatrix`] W is `[k, n]`: k inputs (word lines, input ports), n outputs (bit-line groups,
//! output ports), y = x · W. It is cut into tiles, each holding a rectangle of W. Everything else a
//! program fixes (biases, norm gains, tables) is bytes in data tiles.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::diag::Diagnostics;
use crate::numerics;
use crate::origin::Origin;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ::serde::Serialize, ::serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u32);

        impl $name {
            /// As an index into the dense table this id belongs to.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}
pub(crate) use id;

id!(
    /// Index of a tile in its program.
    TileId
);
id!(
    /// Index of a fixed matrix in its program.
    MatrixId
);

/// Most bits of a code that selects from a codebook.
pub const CODEBOOK_BITS_MAX: u8 = 6;

/// What a code stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Levels {
    /// Itself, as two's complement in ±(2^(bits-1) - 1).
    Uniform,
    /// An entry of the tile's codebook of 2^bits int8 values in ±127.
    Codebook,
}

/// How a target that computes with integers rounds the inputs of a matrix to int8. Real-valued tiles
/// take them as they are.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Activations {
    /// One scale a row of x (a token): its largest magnitude over 127.
    #[default]
    Row,
    /// One scale for every x, found by calibration; what exceeds 127 times it saturates.
    Static(f32),
}

impl fmt::Display for Activations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Activations::Row => f.write_str("int8/row"),
            Activations::Static(scale) => write!(f, "int8/{scale}"),
        }
    }
}

impl std::str::FromStr for Activations {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let scale = match text.strip_prefix("int8/") {
            Some("row") => return Ok(Activations::Row),
            other => other.and_then(|s| s.parse().ok()),
        };
        scale.map(Activations::Static).ok_or_else(|| format!("unknown activations {text:?}"))
    }
}

/// How the elements of a tile are represented.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// Codes of `bits` bits that stand for integer levels, with one 8-bit scale for each `group` rows
    /// of a column (the last group of a tile may be shorter) and one f32 unit a tile: the element is
    /// `level * scale * unit`. See [`CodeBlock`].
    Codes {
        /// 2 to 8; at most [`CODEBOOK_BITS_MAX`] with a codebook.
        bits: u8,
        /// Rows that share a scale, at least 1.
        group: u32,
        /// What the codes stand for.
        levels: Levels,
    },
    /// Real values, kept as half precision relative to the tile's root mean square; what a target
    /// that computes in the analogue domain is asked to realise.
    Real,
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scheme::Codes { bits, group, levels: Levels::Uniform } => write!(f, "codes{bits}/{group}"),
            Scheme::Codes { bits, group, levels: Levels::Codebook } => write!(f, "codebook{bits}/{group}"),
            Scheme::Real => f.write_str("real"),
        }
    }
}

impl std::str::FromStr for Scheme {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "real" {
            return Ok(Scheme::Real);
        }
        let parse = |name: &str, levels| {
            let (bits, group) = text.strip_prefix(name)?.split_once('/')?;
            Some(Scheme::Codes { bits: bits.parse().ok()?, group: group.parse().ok()?, levels })
        };
        parse("codes", Levels::Uniform)
            .or_else(|| parse("codebook", Levels::Codebook))
            .ok_or_else(|| format!("unknown scheme {text:?}"))
    }
}

impl Scheme {
    /// Whether bits and group are ones that a scheme may have.
    pub fn is_valid(self) -> bool {
        match self {
            Scheme::Codes { bits, group, levels } => {
                let most = if levels == Levels::Codebook { CODEBOOK_BITS_MAX } else { 8 };
                (2..=most).contains(&bits) && group > 0
            }
            Scheme::Real => true,
        }
    }

    /// Largest magnitude of a level; 0 for real values.
    pub fn level_max(self) -> i32 {
        match self {
            Scheme::Codes { bits, levels: Levels::Uniform, .. } => numerics::code_max(bits),
            Scheme::Codes { levels: Levels::Codebook, .. } => numerics::LEVEL_MAX,
            Scheme::Real => 0,
        }
    }

    /// Bits that a tile of this scheme fixes once: its unit and its codebook.
    pub fn header_bits(self) -> u32 {
        match self {
            Scheme::Codes { levels: Levels::Uniform, .. } => 32,
            Scheme::Codes { bits, levels: Levels::Codebook, .. } => 32 + (8 << bits),
            Scheme::Real => 0,
        }
    }

    /// Bits that are fixed for a tile of `k` rows and `n` columns: codes, scales, unit and codebook, or
    /// 16 a real element.
    pub fn bits(self, k: usize, n: usize) -> u64 {
        match self {
            Scheme::Codes { bits, group, .. } => {
                let scales = k.div_ceil(group as usize) * n * 8;
                (k * n * usize::from(bits) + scales) as u64 + u64::from(self.header_bits())
            }
            Scheme::Real => (k * n * 16) as u64,
        }
    }
}

/// A matrix whose elements are fixed in the artefact.
#[derive(Debug, Clone, PartialEq)]
pub struct FixedMatrix {
    /// Rows: inputs.
    pub k: u32,
    /// Columns: outputs.
    pub n: u32,
    /// How its inputs are rounded.
    pub activations: Activations,
    /// Source tensor and the nodes that use it.
    pub origin: Origin,
}

/// What a tile holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TileKind {
    /// Rows `k` and columns `n` of a fixed matrix.
    Matrix {
        /// Which.
        matrix: MatrixId,
        /// Rows.
        k: Range<u32>,
        /// Columns.
        n: Range<u32>,
        /// Representation.
        scheme: Scheme,
    },
    /// A byte range of the program's data.
    Data {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
    },
}

/// One tile. Its id is its index in the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tile {
    /// `[A-Za-z0-9_]`, at most [`Tile::NAME_MAX`] characters, unique in the program.
    pub name: String,
    /// Content.
    pub kind: TileKind,
    /// Source tensor and range.
    pub origin: Origin,
}

impl Tile {
    /// Longest tile name; leaves room for a suffix of 7 characters in a 32-character cell name.
    pub const NAME_MAX: usize = 25;
}

/// Quantised rectangle of a matrix. Element (k, n) is
/// `levels[k * n_len + n] * scales[(k / group) * n_len + n] * unit`.
#[derive(Debug, Clone, PartialEq)]
pub struct CodeBlock {
    /// Rows.
    pub k: usize,
    /// Columns.
    pub n: usize,
    /// Bits a code, 2 to 8.
    pub bits: u8,
    /// Rows that share a scale.
    pub group: usize,
    /// Common factor of the tile.
    pub unit: f32,
    /// `[k][n]`: what the codes stand for. In ±(2^(bits-1) - 1), or entries of the codebook.
    pub levels: Vec<i8>,
    /// `[ceil(k / group)][n]`.
    pub scales: Vec<u8>,
    /// Strictly ascending, 2^bits entries in ±127, code c standing for entry c; empty where codes are
    /// uniform.
    pub codebook: Vec<i8>,
}

impl CodeBlock {
    /// The scheme.
    pub fn scheme(&self) -> Scheme {
        let levels = if self.codebook.is_empty() { Levels::Uniform } else { Levels::Codebook };
        Scheme::Codes { bits: self.bits, group: u32::try_from(self.group).unwrap_or(u32::MAX), levels }
    }

    /// What is not as a block of `k` rows and `n` columns of a scheme has to be; `None` when all is.
    pub fn fault(&self, k: usize, n: usize, scheme: Scheme) -> Option<String> {
        let Scheme::Codes { bits, group, levels } = scheme else {
            return Some(format!("codes, where the scheme is {scheme}"));
        };
        if (self.k, self.n, self.bits, self.group) != (k, n, bits, group as usize) {
            return Some(format!(
                "{} x {} codes of {} bits in groups of {}, not {k} x {n} of {bits} bits in groups of {group}",
                self.k, self.n, self.bits, self.group
            ));
        }
        if self.levels.len() != k * n || self.scales.len() != self.groups() * n {
            return Some("the number of codes or scales is not that of its shape".into());
        }
        let expected = if levels == Levels::Codebook { 1usize << bits } else { 0 };
        if self.codebook.len() != expected {
            return Some(format!("a codebook of {} entries, not {expected}", self.codebook.len()));
        }
        if self.codebook.first() == Some(&i8::MIN) || self.codebook.windows(2).any(|w| w[0] >= w[1]) {
            return Some(format!("the codebook {:?} does not ascend within ±127", self.codebook));
        }
        let most = scheme.level_max();
        let stray = |&l: &i8| {
            if expected > 0 { self.codebook.binary_search(&l).is_err() } else { i32::from(l).abs() > most }
        };
        let at = self.levels.iter().position(stray)?;
        let outside =
            if expected > 0 { "not in the codebook".into() } else { format!("outside of ±{most}") };
        Some(format!("level {} in row {}, column {} is {outside}", self.levels[at], at / n, at % n))
    }

    /// Number of scale rows.
    pub fn groups(&self) -> usize {
        self.k.div_ceil(self.group)
    }

    /// The elements, `[k][n]`.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut out = Vec::with_capacity(self.levels.len());
        for (k, row) in self.levels.chunks_exact(self.n.max(1)).enumerate() {
            let g = k / self.group * self.n;
            let scales = &self.scales[g..g + self.n];
            out.extend(row.iter().zip(scales).map(|(&c, &s)| f32::from(c) * f32::from(s) * self.unit));
        }
        out
    }
}

/// Real-valued rectangle of a matrix, `values[k * n_len + n]`.
#[derive(Debug, Clone, PartialEq)]
pub struct RealBlock {
    /// Rows.
    pub k: usize,
    /// Columns.
    pub n: usize,
    /// `[k][n]`.
    pub values: Vec<f32>,
}

/// What is fixed in one tile.
#[derive(Debug, Clone, PartialEq)]
pub enum TileContent {
    /// For [`Scheme::Codes`].
    Codes(CodeBlock),
    /// For [`Scheme::Real`].
    Real(RealBlock),
    /// For [`TileKind::Data`].
    Data(Vec<u8>),
}

/// Hands out the content of tiles, one at a time and from any thread. Implemented by the
/// quantiser (from the source model), by the reference file and by read-back (from an artefact).
pub trait TileSource: Sync {
    /// The content of one tile.
    ///
    /// # Errors
    /// When the tile does not exist here or cannot be read.
    fn tile(&self, id: TileId) -> Result<TileContent, Diagnostics>;
}
