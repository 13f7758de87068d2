//! From the content of a tile to the cuts of its array.
//!
//! # Word lines and bit lines
//!
//! A tile of codes with `k` rows, `n` columns, `b` bits a code and groups of `G` rows has
//! `max(n * b, header)` bit lines, where the header has 32 bits, and `8 * 2^b` more with a codebook. Its
//! word lines are, in order:
//!
//! 1. for each group: its rows, one word line a row, then `ceil(8 / b)` scale rows. The last group
//!    may have fewer than `G` rows;
//! 2. one header word line.
//!
//! Bit j of code (k, n) is on bit line `n * b + j`; the code is two's complement, or the number of an
//! entry of the codebook. The scale byte of a group
//! and column is spread over the `b` bit lines of that column on the group's scale rows, least
//! significant bit first: bit i of the byte is on scale row `i / b`, bit line `n * b + i % b`. The
//! header holds the tile's `unit` as the 32 bits of an IEEE 754 single on bit lines 0 to 31, least
//! significant first, and then the entries of the codebook, 8 bits each, two's complement. Bits that
//! nothing uses read 0.
//!
//! A data tile of `len` bytes has `min(len, C / 8)` bytes a word line, where C is the widest array
//! of the process; bytes follow each other along the word line and then up, least significant bit
//! first. The last word line is padded with zeros. It has no header.
//!
//! # Nodes
//!
//! Word lines form row groups, 64 or fewer (a process fact), with a tap row below and above each. In
//! a row group of g word lines each column is one strip with g + 1 nodes; node i - 1 is below and
//! node i above the gate of the i-th word line. A node on the bit line counts as 1, on ground as 0:
//! `bit_i = node_{i-1} XOR node_i`. Of the two node patterns with the same bits the one with fewer
//! nodes on the bit line is drawn; where both have equally many, the one whose first node is on
//! ground.

use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::numerics;
use pfmc_ir::program::TileProgram;
use pfmc_ir::tile::{CodeBlock, Scheme, TileContent, TileId, TileKind};

use crate::array::RowGroup;
use crate::bits::BitMatrix;
use crate::codes::{E0503, E0504, E0506};
use crate::process::{Nm, Process};

/// Size of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ArrayShape {
    /// Rows of transistors.
    pub word_lines: u32,
    /// Columns.
    pub bit_lines: u32,
}

impl ArrayShape {
    /// Word lines of each row group, from the bottom.
    pub fn row_groups(self, process: &Process) -> impl Iterator<Item = u32> + use<> {
        let (all, most) = (self.word_lines, process.tap_row.word_lines);
        (0..all.div_ceil(most)).map(move |g| most.min(all - g * most))
    }

    /// Bits.
    pub fn bits(self) -> u64 {
        u64::from(self.word_lines) * u64::from(self.bit_lines)
    }
}

/// What an array holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// Codes, scales and a unit.
    Codes {
        /// Rows.
        k: u32,
        /// Columns.
        n: u32,
        /// How they are represented: codes.
        scheme: Scheme,
    },
    /// Bytes.
    Data {
        /// Number of bytes.
        len: u32,
        /// Bytes a word line.
        row: u32,
    },
}

/// Scale rows of a group.
fn scale_rows(bits: u8) -> u32 {
    8u32.div_ceil(u32::from(bits))
}

/// Largest `[k, n]` of a scheme; `None` when not even one element fits.
pub fn largest(process: &Process, scheme: Scheme) -> Option<[u32; 2]> {
    let Scheme::Codes { bits, group, .. } = scheme else { return None };
    if !scheme.is_valid() || scheme.header_bits() > process.tile.bit_lines {
        return None;
    }
    let n = process.tile.bit_lines / u32::from(bits);
    let rows = process.tile.word_lines.checked_sub(1)?;
    let scales = scale_rows(bits);
    let whole = rows / group.saturating_add(scales);
    // Not more than `rows`, as `whole > 0` bounds the group.
    let used = if whole == 0 { 0 } else { whole * (group + scales) };
    let mut k = whole * if whole == 0 { 0 } else { group } + (rows - used).saturating_sub(scales);
    while k > 0 && numerics::accumulator_bound(u64::from(k), scheme) > i32::MAX as u64 {
        k -= 1;
    }
    (k > 0 && n > 0).then_some([k, n])
}

/// Largest number of bytes of a data tile.
pub fn largest_data(process: &Process) -> u64 {
    u64::from(process.tile.word_lines) * u64::from(process.tile.bit_lines / 8)
}

/// What the array of a tile holds and its size.
///
/// # Errors
/// A tile that no array of the process holds.
pub fn contents(
    process: &Process,
    program: &TileProgram,
    id: TileId,
) -> Result<(Contents, ArrayShape), Diagnostics> {
    let Some(tile) = program.tiles.get(id.index()) else {
        return Err(Diagnostic::error(&E0504, format!("tile {id} does not exist")).into());
    };
    let too_large = |text: String| Diagnostics::from(Diagnostic::error(&E0504, text).at(&tile.origin));
    if let TileKind::Data { len, .. } = tile.kind {
        let most = largest_data(process);
        let fits = u32::try_from(len).ok().filter(|&len| len > 0 && u64::from(len) <= most);
        let Some(len) = fits else {
            return Err(too_large(format!(
                "data tile {} has {len} bytes, an array holds 1 to {most}",
                tile.name
            )));
        };
        let row = len.min(process.tile.bit_lines / 8);
        let shape = ArrayShape { word_lines: len.div_ceil(row), bit_lines: row * 8 };
        return Ok((Contents::Data { len, row }, shape));
    }
    let Some((k, n, scheme)) = program.matrix_tile(id) else {
        return Err(too_large(format!("tile {} belongs to no matrix", tile.name)));
    };
    let (Scheme::Codes { bits, group, .. }, Some([k_most, n_most])) = (scheme, largest(process, scheme))
    else {
        return Err(Diagnostic::error(
            &E0503,
            format!("tile {} has scheme {scheme}, which an array of this process cannot hold", tile.name),
        )
        .at(&tile.origin)
        .into());
    };
    let fit = |v: usize, most: u32| u32::try_from(v).ok().filter(|v| (1..=most).contains(v));
    let (Some(k), Some(n)) = (fit(k, k_most), fit(n, n_most)) else {
        return Err(too_large(format!(
            "tile {} is {k} x {n}, an array holds up to {k_most} x {n_most} of scheme {scheme}",
            tile.name
        )));
    };
    let shape = ArrayShape {
        word_lines: k + k.div_ceil(group) * scale_rows(bits) + 1,
        bit_lines: (n * u32::from(bits)).max(scheme.header_bits()),
    };
    Ok((Contents::Codes { k, n, scheme }, shape))
}

/// The bits of an array, `[word line][bit line]`.
///
/// # Errors
/// Content that is not what the program says of the tile.
pub fn bits(
    contents: Contents,
    shape: ArrayShape,
    content: &TileContent,
    tile: &pfmc_ir::tile::Tile,
) -> Result<BitMatrix, Diagnostics> {
    let mut matrix = BitMatrix::new(shape.word_lines as usize, shape.bit_lines as usize);
    let wrong = |text: &str| {
        Diagnostics::from(
            Diagnostic::error(&E0506, format!("content of tile {}: {text}", tile.name)).at(&tile.origin),
        )
    };
    match (contents, content) {
        (Contents::Codes { k, n, scheme }, TileContent::Codes(block)) => {
            if let Some(fault) = block.fault(k as usize, n as usize, scheme) {
                return Err(wrong(&fault));
            }
            put_codes(&mut matrix, block);
        }
        (Contents::Data { len, row }, TileContent::Data(bytes)) => {
            if bytes.len() != len as usize {
                return Err(wrong(&format!("{} bytes, planned {len}", bytes.len())));
            }
            for (word_line, bytes) in bytes.chunks(row as usize).enumerate() {
                for (i, &byte) in bytes.iter().enumerate() {
                    matrix.put(word_line, i * 8, 8, byte);
                }
            }
        }
        _ => return Err(wrong("not of the tile's kind")),
    }
    Ok(matrix)
}

/// Writes codes, scales, unit and codebook of a checked block.
fn put_codes(matrix: &mut BitMatrix, block: &CodeBlock) {
    let width = usize::from(block.bits);
    // The code of each level, by the level's bits.
    let mut codes: [u8; 256] = std::array::from_fn(|level| level as u8);
    for (code, level) in (0u8..).zip(&block.codebook) {
        codes[usize::from(level.cast_unsigned())] = code;
    }
    let mut word_line = 0;
    for (g, scales) in block.scales.chunks_exact(block.n).enumerate() {
        let rows = g * block.group..((g + 1) * block.group).min(block.k);
        for levels in block.levels[rows.start * block.n..rows.end * block.n].chunks_exact(block.n) {
            for (n, &level) in levels.iter().enumerate() {
                matrix.put(word_line, n * width, width, codes[usize::from(level.cast_unsigned())]);
            }
            word_line += 1;
        }
        for first in (0..8).step_by(width) {
            for (n, &scale) in scales.iter().enumerate() {
                matrix.put(word_line, n * width, width, scale >> first);
            }
            word_line += 1;
        }
    }
    let codebook = block.codebook.iter().map(|l| l.cast_unsigned());
    for (i, byte) in block.unit.to_bits().to_le_bytes().into_iter().chain(codebook).enumerate() {
        matrix.put(word_line, i * 8, 8, byte);
    }
}

/// The nodes of one row group, `[node][bit line]`, of word lines `first..first + rows`; 1 is a cut
/// to the bit line.
pub fn nodes(bits: &BitMatrix, first: usize, rows: usize) -> BitMatrix {
    let mut nodes = BitMatrix::new(rows + 1, bits.columns());
    for word in 0..bits.columns().div_ceil(64) {
        // Bit i of `counts[p]` is bit p of the number of ones in column i so far.
        let mut counts = [0u64; u32::BITS as usize];
        let mut node = 0u64;
        for row in 0..rows {
            node ^= bits.row(first + row)[word];
            nodes.row_mut(row + 1)[word] = node;
            let mut carry = node;
            for digit in &mut counts {
                let sum = *digit ^ carry;
                carry &= *digit;
                *digit = sum;
                if carry == 0 {
                    break;
                }
            }
        }
        let flip = exceeds(&counts, rows.div_ceil(2));
        if flip != 0 {
            for row in 0..=rows {
                nodes.row_mut(row)[word] ^= flip;
            }
        }
    }
    nodes
}

/// The nodes of row groups, with the height of each group's lowest.
pub fn groups(bits: &BitMatrix, groups: &[RowGroup]) -> Vec<(Nm, BitMatrix)> {
    groups.iter().map(|g| (g.y, nodes(bits, g.first as usize, g.word_lines as usize))).collect()
}

/// Columns whose count is over `limit`.
fn exceeds(counts: &[u64; u32::BITS as usize], limit: usize) -> u64 {
    let (mut over, mut equal) = (0u64, u64::MAX);
    for (place, &digit) in counts.iter().enumerate().rev() {
        let limit = if limit >> place & 1 == 1 { u64::MAX } else { 0 };
        over |= equal & digit & !limit;
        equal &= !(digit ^ limit);
    }
    over
}

#[cfg(test)]
mod tests {
    use pfmc_ir::tile::Levels;

    use super::*;

    fn process() -> Process {
        crate::tests::process()
    }

    #[test]
    fn limits_fill_the_word_lines_and_keep_sums_in_range() {
        let p = process();
        let codes = |bits, group| largest(&p, Scheme::Codes { bits, group, levels: Levels::Uniform });
        assert_eq!(codes(4, 32), Some([480, 256]));
        // 511 word lines: 7 groups of 64 + 1 and 55 rows + 1.
        assert_eq!(codes(8, 64), Some([503, 128]));
        assert_eq!(codes(8, 100_000), Some([510, 128]));
        assert_eq!(codes(3, 1), Some([127, 341]));
        assert_eq!(codes(4, u32::MAX), Some([509, 256]));
        assert_eq!((codes(1, 32), codes(9, 32), codes(4, 0)), (None, None, None));
        let codebook = |bits| largest(&p, Scheme::Codes { bits, group: 32, levels: Levels::Codebook });
        assert_eq!(codebook(4), Some([480, 256]));
        assert_eq!((codebook(6), codebook(7)), (Some([480, 170]), None));
        assert_eq!(largest(&p, Scheme::Real), None);
        assert_eq!(largest_data(&p), 65_536);
    }

    #[test]
    fn sums_bound_the_rows_where_arrays_are_taller() {
        let mut p = process();
        p.tile.word_lines = 4096;
        let scheme = Scheme::Codes { bits: 8, group: 4096, levels: Levels::Uniform };
        let [k, _] = largest(&p, scheme).unwrap();
        assert_eq!(k, 522);
        assert!(numerics::accumulator_bound(523, scheme) > i32::MAX as u64);
    }

    #[test]
    fn nodes_give_the_bits_and_follow_the_rule() {
        for rows in [1usize, 2, 3, 7, 63, 64] {
            let columns = 130;
            let mut bits = BitMatrix::new(rows + 2, columns);
            let mut state = 12345u64;
            for r in 0..rows + 2 {
                for c in 0..columns {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    if state >> 62 == 3 || (c == 5 && r == 1) {
                        bits.set(r, c);
                    }
                }
            }
            let nodes = nodes(&bits, 1, rows);
            for c in 0..columns {
                let ones = (0..=rows).filter(|&r| nodes.get(r, c)).count();
                assert!(
                    2 * ones < rows + 1 || (2 * ones == rows + 1 && !nodes.get(0, c)),
                    "{rows} {c} {ones}"
                );
                for r in 0..rows {
                    assert_eq!(nodes.get(r, c) ^ nodes.get(r + 1, c), bits.get(r + 1, c));
                }
            }
        }
    }
}
