//! Tiles: the unit a backend realises, and what is fixed in one.
//!
//! A [`FixedMatrix`] W is `[k, n]`: k inputs (word lines, input ports), n outputs (bit-line groups,
//! output ports), y = x · W. It is cut into tiles, each holding a rectangle of W. Everything else a
//! program fixes (biases, norm gains, tables) is bytes in data tiles.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::diag::Diagnostics;
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

/// How the elements of a fixed matrix are represented.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// Signed codes of `bits` bits, symmetric, with one 8-bit scale for each `group` rows of a
    /// column (the last group of a tile may be shorter) and one f32 unit a tile: the element is
    /// `code * scale * unit`. See [`CodeBlock`].
    Codes {
        /// 2 to 8.
        bits: u8,
        /// Rows that share a scale, at least 1.
        group: u32,
    },
    /// Real values, kept as half precision relative to the tile's root mean square; what a target
    /// that computes in the analogue domain is asked to realise.
    Real,
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scheme::Codes { bits, group } => write!(f, "codes{bits}/{group}"),
            Scheme::Real => f.write_str("real"),
        }
    }
}

/// A matrix whose elements are fixed in the artefact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FixedMatrix {
    /// Rows: inputs.
    pub k: u32,
    /// Columns: outputs.
    pub n: u32,
    /// Representation.
    pub scheme: Scheme,
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
/// `codes[k * n_len + n] * scales[(k / group) * n_len + n] * unit`.
#[derive(Debug, Clone, PartialEq)]
pub struct CodeBlock {
    /// Rows.
    pub k: usize,
    /// Columns.
    pub n: usize,
    /// Bits a code, 2 to 8; codes lie in ±(2^(bits-1) - 1).
    pub bits: u8,
    /// Rows that share a scale.
    pub group: usize,
    /// Common factor of the tile.
    pub unit: f32,
    /// `[k][n]`.
    pub codes: Vec<i8>,
    /// `[ceil(k / group)][n]`.
    pub scales: Vec<u8>,
}

impl CodeBlock {
    /// Number of scale rows.
    pub fn groups(&self) -> usize {
        self.k.div_ceil(self.group)
    }

    /// The elements, `[k][n]`.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut out = Vec::with_capacity(self.codes.len());
        for (k, row) in self.codes.chunks_exact(self.n.max(1)).enumerate() {
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
