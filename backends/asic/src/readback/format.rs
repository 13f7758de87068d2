//! What the cells of an array mean: from (word line, bit line) to code, scale, unit or byte.

use pfmc_ir::program::TileProgram;
use pfmc_ir::tile::{CodeBlock, Levels, Scheme, TileContent, TileId, TileKind};

use crate::bits::BitMatrix;
use crate::process::Process;

/// Word lines, bit lines and meaning of a tile's array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// Word lines.
    pub word_lines: usize,
    /// Bit lines.
    pub bit_lines: usize,
    /// Word lines and bit lines of the array that holds them; those beyond read 0.
    pub array: [usize; 2],
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Codes { k: usize, n: usize, bits: usize, group: usize, codebook: usize },
    Data { len: usize },
}

/// Meaning of a word line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row {
    /// Codes of a row.
    Codes(usize),
    /// Bits `first..` of the scales of a group.
    Scales(usize, usize),
    /// The unit and the codebook.
    Header,
    /// Bytes from an offset on.
    Bytes(usize),
    /// Nothing: reads 0.
    Unused,
}

/// Meaning of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    /// A bit of code (k, n).
    Code(usize, usize),
    /// A bit of the scale of (group, n).
    Scale(usize, usize),
    /// A bit of the unit.
    Unit,
    /// A bit of an entry of the codebook.
    Entry(usize),
    /// A bit of a byte.
    Byte(usize),
    /// Nothing: reads 0.
    Unused,
}

/// Size of the array of a tile with so many word lines and bit lines. A macro has whole rows of its decoder, two at least, and
/// whole segments between straps, or of sense circuits where it has one segment.
fn array(process: &Process, [word_lines, bit_lines]: [usize; 2]) -> [usize; 2] {
    if process.mux().is_none() {
        return [word_lines, bit_lines];
    }
    let (row, segment) = (process.logic.word_lines as usize, process.strap.columns as usize);
    let step = if bit_lines <= segment { SENSE_BIT_LINES } else { segment };
    [word_lines.next_multiple_of(row).max(2 * row), bit_lines.next_multiple_of(step)]
}

/// Bit lines in the width of a sense circuit.
const SENSE_BIT_LINES: usize = 16;

impl Format {
    /// The format of a tile; `None` for a tile this target cannot hold.
    pub fn of(process: &Process, program: &TileProgram, id: TileId) -> Option<Format> {
        let tile = program.tiles.get(id.index())?;
        match tile.kind {
            TileKind::Data { len, .. } => {
                let len = usize::try_from(len).ok().filter(|&len| len > 0)?;
                let bytes = len.min(process.tile.bit_lines as usize / 8);
                let (word_lines, bit_lines) = (len.div_ceil(bytes), bytes * 8);
                Some(Format { word_lines, bit_lines, array: [0; 2], kind: Kind::Data { len } })
            }
            TileKind::Matrix { .. } => {
                let (k, n, scheme) = program.matrix_tile(id)?;
                let Scheme::Codes { bits, group, levels } = scheme else { return None };
                if k == 0 || n == 0 || !scheme.is_valid() {
                    return None;
                }
                let codebook = if levels == Levels::Codebook { 1 << bits } else { 0 };
                let (bits, group) = (usize::from(bits), group as usize);
                let scales = k.div_ceil(group).checked_mul(8usize.div_ceil(bits))?;
                Some(Format {
                    word_lines: k.checked_add(scales)?.checked_add(1)?,
                    bit_lines: n.checked_mul(bits)?.max(32 + 8 * codebook),
                    array: [0; 2],
                    kind: Kind::Codes { k, n, bits, group, codebook },
                })
            }
        }
        .filter(|f| {
            f.word_lines <= process.tile.word_lines as usize && f.bit_lines <= process.tile.bit_lines as usize
        })
        .map(|f| Format { array: array(process, [f.word_lines, f.bit_lines]), ..f })
    }

    /// Meaning of a word line.
    pub fn row(&self, word_line: usize) -> Row {
        match self.kind {
            _ if word_line >= self.word_lines => Row::Unused,
            Kind::Data { .. } => Row::Bytes(word_line * (self.bit_lines / 8)),
            Kind::Codes { k, bits, group, .. } => {
                if word_line + 1 >= self.word_lines {
                    return Row::Header;
                }
                // A full group takes this many word lines; only the last may take fewer.
                let pitch = group + 8usize.div_ceil(bits);
                let (g, within) = (word_line / pitch, word_line % pitch);
                let rows = group.min(k - g * group);
                if within < rows {
                    Row::Codes(g * group + within)
                } else {
                    Row::Scales(g, (within - rows) * bits)
                }
            }
        }
    }

    /// Meaning of a cell and which bit of it.
    pub fn cell(&self, word_line: usize, bit_line: usize) -> (Cell, usize) {
        match (self.kind, self.row(word_line)) {
            (Kind::Data { len }, Row::Bytes(first))
                if bit_line < self.bit_lines && first + bit_line / 8 < len =>
            {
                (Cell::Byte(first + bit_line / 8), bit_line % 8)
            }
            (Kind::Codes { .. }, Row::Header) if bit_line < 32 => (Cell::Unit, bit_line),
            (Kind::Codes { codebook, .. }, Row::Header) if bit_line < 32 + 8 * codebook => {
                (Cell::Entry(bit_line / 8 - 4), bit_line % 8)
            }
            (Kind::Codes { n, bits, .. }, Row::Codes(k)) if bit_line < n * bits => {
                (Cell::Code(k, bit_line / bits), bit_line % bits)
            }
            (Kind::Codes { n, bits, .. }, Row::Scales(g, first))
                if bit_line < n * bits && first + bit_line % bits < 8 =>
            {
                (Cell::Scale(g, bit_line / bits), first + bit_line % bits)
            }
            _ => (Cell::Unused, 0),
        }
    }

    /// Rows of a group of scales.
    pub fn group_rows(&self, g: usize) -> std::ops::Range<usize> {
        match self.kind {
            Kind::Codes { k, group, .. } => g * group..((g + 1) * group).min(k),
            Kind::Data { .. } => 0..0,
        }
    }

    /// The content that an array of this format with these bits holds, and whether every unused cell
    /// reads 0.
    pub fn decode(&self, bits: &BitMatrix) -> (TileContent, bool) {
        let (content, clean) = self.decode_used(bits);
        let [word_lines, bit_lines] = self.array;
        let beyond = |word_line: usize| if word_line < self.word_lines { self.bit_lines } else { 0 };
        let mut unused = (0..word_lines).flat_map(|w| (beyond(w)..bit_lines).map(move |b| (w, b)));
        (content, clean && !unused.any(|(w, b)| bits.get(w, b)))
    }

    /// The same of the word lines and bit lines that are not beyond the contents.
    fn decode_used(&self, bits: &BitMatrix) -> (TileContent, bool) {
        match self.kind {
            Kind::Data { len } => {
                let row = self.bit_lines / 8;
                let mut bytes: Vec<u8> =
                    (0..self.word_lines * row).map(|i| bits.field(i / row, i % row * 8, 8)).collect();
                let clean = bytes[len..].iter().all(|&b| b == 0);
                bytes.truncate(len);
                (TileContent::Data(bytes), clean)
            }
            Kind::Codes { k, n, bits: width, group, codebook } => {
                let mut levels = vec![0i8; k * n];
                let mut scales = vec![0u8; k.div_ceil(group) * n];
                let mut clean = true;
                let empty = 8 - width;
                let mut header = vec![0u8; 4 + codebook];
                for word_line in 0..self.word_lines {
                    let row = self.row(word_line);
                    let used = if row == Row::Header { 32 + 8 * codebook } else { n * width };
                    clean &= (used..self.bit_lines).all(|bit_line| !bits.get(word_line, bit_line));
                    match row {
                        Row::Codes(k) => {
                            for (i, level) in levels[k * n..(k + 1) * n].iter_mut().enumerate() {
                                let field = bits.field(word_line, i * width, width) << empty;
                                *level = field.cast_signed() >> empty;
                            }
                        }
                        Row::Scales(g, first) => {
                            for (i, scale) in scales[g * n..(g + 1) * n].iter_mut().enumerate() {
                                let field = u16::from(bits.field(word_line, i * width, width)) << first;
                                *scale |= field as u8;
                                clean &= field < 256;
                            }
                        }
                        Row::Header => {
                            for (i, byte) in header.iter_mut().enumerate() {
                                *byte = bits.field(word_line, i * 8, 8);
                            }
                        }
                        Row::Bytes(_) | Row::Unused => {}
                    }
                }
                let (unit, entries) = header.split_at(4);
                let unit = unit.iter().rev().fold(0, |bits, &byte| bits << 8 | u32::from(byte));
                let unit = f32::from_bits(unit);
                let codebook: Vec<i8> = entries.iter().map(|e| e.cast_signed()).collect();
                if !codebook.is_empty() {
                    let mask = (1 << width) - 1;
                    levels.iter_mut().for_each(|l| *l = codebook[usize::from(l.cast_unsigned()) & mask]);
                }
                let bits = width as u8;
                (TileContent::Codes(CodeBlock { k, n, bits, group, unit, levels, scales, codebook }), clean)
            }
        }
    }

    /// Whether a content has the shape of this format.
    pub fn fits(&self, content: &TileContent) -> bool {
        match (self.kind, content) {
            (Kind::Data { len }, TileContent::Data(bytes)) => bytes.len() == len,
            (Kind::Codes { k, n, bits, group, codebook }, TileContent::Codes(b)) => {
                (usize::from(b.bits), b.group, b.codebook.len()) == (bits, group, codebook)
                    && b.fault(k, n, b.scheme()).is_none()
            }
            _ => false,
        }
    }

    /// Value of what a cell belongs to, in a content that fits.
    pub fn value(&self, content: &TileContent, cell: Cell) -> u32 {
        match (content, cell) {
            (TileContent::Codes(b), Cell::Code(k, n)) => {
                let level = b.levels[k * b.n + n];
                match b.codebook.binary_search(&level) {
                    Ok(entry) => entry as u32,
                    Err(_) => u32::from(level.cast_unsigned()),
                }
            }
            (TileContent::Codes(b), Cell::Scale(g, n)) => u32::from(b.scales[g * b.n + n]),
            (TileContent::Codes(b), Cell::Unit) => b.unit.to_bits(),
            (TileContent::Codes(b), Cell::Entry(i)) => u32::from(b.codebook[i].cast_unsigned()),
            (TileContent::Data(bytes), Cell::Byte(i)) => u32::from(bytes[i]),
            _ => 0,
        }
    }
}
