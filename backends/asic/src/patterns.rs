//! Cells that hold the cuts of some neighbouring columns of one row of nodes, shared by all tiles.
//!
//! A row of nodes is cut into parts: as many of the full width as fit, then a tail. Each part is one
//! reference to the cell of its width and value. A cell wider than a leaf is two narrower cells, a leaf
//! holds the cuts. Wide cells make references few, and there are more of them to define, so each file
//! format has a width of its own ([`Split`]).

use crate::bits::BitMatrix;
use crate::columns::Columns;
use crate::process::{Nm, Process};
use crate::sink::Sink;
use crate::stream::{self, Cells, RECTANGLE_BYTES, StreamError};

/// Widest pattern, in columns.
pub const WIDEST: usize = 18;
/// Characters of names after the first.
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// The two digits of each number below 1024.
static PAIRS: [[u8; 2]; 1024] = {
    let mut pairs = [[0; 2]; 1024];
    let mut i = 0;
    while i < pairs.len() {
        pairs[i] = [DIGITS[i / 62], DIGITS[i % 62]];
        i += 1;
    }
    pairs
};

/// One pattern: its width and the sites of its columns, bit i set where column i is cut to the bit line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pattern {
    /// Columns, 1 to [`WIDEST`].
    pub width: usize,
    /// Sites, lowest column first.
    pub value: u32,
}

impl Pattern {
    /// A number that tells it from all others: its value below a 1 that stands for its width.
    pub fn code(self) -> u32 {
        1 << self.width | self.value
    }

    /// Name of its cell: two digits of base 62 for the code's upper bits and two for its lower ten. The first one is
    /// of 0 to 9, so that it is no tile's; the even length is stored in GDSII without padding.
    #[inline]
    pub fn name(self) -> Name {
        let code = self.code() as usize;
        let ([a, b], [c, d]) = (PAIRS[code / PAIRS.len() % PAIRS.len()], PAIRS[code % PAIRS.len()]);
        Name([a, b, c, d])
    }
}

/// Name of a pattern cell: ASCII.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name(pub [u8; NAME_LEN]);

/// Characters of the name of a pattern cell.
pub const NAME_LEN: usize = 4;

impl Name {
    /// The characters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// Whether a name could be a pattern's.
pub fn is_reserved(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_digit())
}

/// How rows are cut into patterns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// Columns of all parts but the tail.
    pub full: usize,
    /// Widest cell that holds cuts itself.
    pub leaf: usize,
    /// Widest tail that is one part; a wider one is a leaf and the rest.
    pub tail: usize,
}

impl Split {
    /// First column and width of each part of a row.
    pub fn parts(self, columns: usize) -> Vec<(usize, usize)> {
        let whole = columns / self.full * self.full;
        let mut parts: Vec<_> = (0..whole).step_by(self.full).map(|first| (first, self.full)).collect();
        let tail = columns - whole;
        if tail > self.tail {
            parts.push((whole, self.leaf));
            parts.push((whole + self.leaf, tail - self.leaf));
        } else if tail > 0 {
            parts.push((whole, tail));
        }
        parts
    }

    /// The two patterns that one wider than a leaf is made of.
    fn halves(self, p: Pattern) -> Option<[Pattern; 2]> {
        (p.width > self.leaf).then(|| {
            let low = Pattern { width: self.leaf, value: p.value & ((1 << self.leaf) - 1) };
            [low, Pattern { width: p.width - self.leaf, value: p.value >> self.leaf }]
        })
    }
}

/// The pattern of `width` columns from `first` on of a row of 64-column words.
#[inline]
pub fn pattern(row: &[u64], first: usize, width: usize) -> Pattern {
    let (word, shift) = (first / 64, first % 64);
    let [low, high] = [word, word + 1].map(|i| row.get(i).copied().unwrap_or(0));
    // In two steps, for a shift by 64 is none.
    let value = low >> shift | high << 1 << (63 - shift);
    Pattern { width, value: value as u32 & ((1 << width) - 1) }
}

/// Words of a bit for each pattern.
const WORDS: usize = (2 << WIDEST) / 64;

/// Which patterns are in use.
#[derive(Debug, Clone)]
pub struct Used {
    /// A bit for each [`Pattern::code`].
    codes: Box<[u64; WORDS]>,
}

impl Default for Used {
    fn default() -> Self {
        Used { codes: Box::new([0; WORDS]) }
    }
}

impl Used {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a pattern.
    #[inline]
    pub fn insert(&mut self, p: Pattern) {
        let code = p.code();
        if let Some(word) = self.codes.get_mut(code as usize / 64) {
            *word |= 1 << (code % 64);
        }
    }

    /// Adds all of another.
    pub fn add(&mut self, other: &Used) {
        self.codes.iter_mut().zip(&other.codes[..]).for_each(|(a, b)| *a |= b);
    }

    /// Widest first, values ascending.
    pub fn iter(&self) -> impl Iterator<Item = Pattern> + '_ {
        (1..=WIDEST).rev().flat_map(move |width| {
            let first = 1u32 << width;
            let used = move |code: &u32| self.codes[*code as usize / 64] >> (code % 64) & 1 == 1;
            (first..2 * first).filter(used).map(move |code| Pattern { width, value: code - first })
        })
    }

    /// With the patterns that these are made of.
    pub fn with_parts(&self, split: Split) -> Used {
        let mut all = self.clone();
        for half in self.iter().filter_map(|p| split.halves(p)).flatten() {
            all.insert(half);
        }
        all
    }
}

/// Draws the content of a pattern's cell; `copy` refers to another pattern with its origin at x.
///
/// # Errors
/// Those of the sink.
pub fn draw<S: Sink>(
    process: &Process,
    split: Split,
    p: Pattern,
    sink: &mut S,
    copy: impl Fn(&mut S, Pattern, Nm) -> Result<(), StreamError>,
) -> Result<(), StreamError> {
    let g = &process.cell;
    if let Some([low, high]) = split.halves(p) {
        copy(sink, low, 0)?;
        return copy(sink, high, low.width as Nm * g.pitch_x_nm);
    }
    let cut = process.levels().cut.layer;
    for i in 0..p.width {
        let [x0, x1] = if p.value >> i & 1 == 1 { g.cut_bit_line_x_nm } else { g.cut_ground_x_nm };
        let x = i as Nm * g.pitch_x_nm;
        sink.rectangle(cut, [x + x0, g.cut_y_nm[0], x + x1, g.cut_y_nm[1]])?;
    }
    Ok(())
}

/// Writes the program cell `name` in GDSII: for each node row of `groups`, row groups with the height of their lowest node,
/// a reference to the pattern of each part of the columns.
///
/// # Errors
/// What the file format cannot hold.
pub fn program(
    process: &Process,
    split: Split,
    name: &str,
    columns: &Columns,
    groups: &[(Nm, BitMatrix)],
    used: &mut Used,
    cells: &mut Cells,
) -> Result<(), StreamError> {
    cells.begin(name)?;
    let parts = columns.parts(split);
    let xs = parts.iter().map(|p| cells.coordinate(p.x)).collect::<Result<Vec<_>, _>>()?;
    for (bottom, nodes) in groups {
        for node in 0..nodes.rows() {
            let row = nodes.row(node);
            let names = parts.iter().map(|part| {
                let pattern = pattern(row, part.first, part.width);
                used.insert(pattern);
                pattern.name()
            });
            let y = cells.coordinate(bottom + node as Nm * process.cell.pitch_y_nm)?;
            cells.patterns(names.zip(&xs), y);
        }
    }
    cells.end()
}

/// About how many bytes a tile's cells have in GDSII whose arrays have so many nodes: enough where rows have no tails.
pub fn program_bytes(split: Split, nodes: usize) -> usize {
    nodes / split.full.max(1) * stream::sref_bytes(NAME_LEN) as usize + 1024
}

/// Writes the pattern cells in use, and those they are made of, in GDSII.
///
/// # Errors
/// What the file format cannot hold.
pub fn cells(process: &Process, split: Split, used: &Used, cells: &mut Cells) -> Result<(), StreamError> {
    for p in used.with_parts(split).iter() {
        cells.begin(p.name().as_str())?;
        draw(process, split, p, cells, |cells, part, x| cells.copy(part.name().as_str(), [x, 0]))?;
        cells.end()?;
    }
    Ok(())
}

/// Bytes in GDSII of the cells of patterns that `references` of each width use. `distinct` says how many different patterns of a width
/// so many references have.
pub fn cells_bytes(split: Split, references: [f64; WIDEST + 1], distinct: impl Fn(f64, usize) -> f64) -> f64 {
    let mut bytes = 0.0;
    let mut cells = references;
    for width in (1..=WIDEST).rev() {
        let n = distinct(cells[width], width);
        bytes += n * stream::cell_bytes(NAME_LEN) as f64;
        if width > split.leaf {
            for half in [split.leaf, width - split.leaf] {
                cells[half] += n;
                bytes += n * stream::sref_bytes(NAME_LEN) as f64;
            }
        } else {
            bytes += n * (width as u64 * RECTANGLE_BYTES) as f64;
        }
    }
    bytes
}

/// How many different patterns of a width so many random draws find on the average.
pub fn expected(draws: f64, width: usize) -> f64 {
    let all = (1u64 << width) as f64;
    -all * (-draws / all).exp_m1()
}

/// As many patterns of each width as [`expected`] says of so many references.
pub fn expected_used(references: &[f64; WIDEST + 1]) -> Used {
    let mut used = Used::new();
    for (width, &draws) in references.iter().enumerate().skip(1) {
        let mask = (1u32 << width) - 1;
        for i in 0..expected(draws, width).round() as u32 {
            // An odd factor visits all values, scattered.
            used.insert(Pattern { width, value: i.wrapping_mul(0x9e37_79b1) & mask });
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_no_tiles() {
        let mut seen = std::collections::BTreeSet::new();
        for width in 1..=12 {
            for value in 0..1 << width {
                let name = Pattern { width, value }.name();
                assert!(is_reserved(name.as_str()) && crate::stream::is_name(name.as_str()));
                assert!(seen.insert(name.as_str().to_owned()), "{name:?}");
            }
        }
        let last = Pattern { width: WIDEST, value: (1 << WIDEST) - 1 };
        assert!(is_reserved(last.name().as_str()));
    }

    #[test]
    fn expected_numbers_of_patterns() {
        assert!((expected(1e9, 8) - 256.0).abs() < 1e-9 && (expected(1e-3, 8) - 1e-3).abs() < 1e-8);
        let mut references = [0.0; WIDEST + 1];
        (references[16], references[3]) = (65_536.0, 100.0);
        let count = |width| expected_used(&references).iter().filter(|p| p.width == width).count();
        // 1 - 1/e of all.
        assert_eq!((count(16), count(3)), (41_427, 8));
    }

    #[test]
    fn parts_cover_a_row_once() {
        for split in [Split { full: 18, leaf: 9, tail: 9 }, Split { full: 14, leaf: 7, tail: 13 }] {
            for columns in 1..200 {
                let mut next = 0;
                for (first, width) in split.parts(columns) {
                    assert_eq!(first, next);
                    assert!(width >= 1 && width <= split.full);
                    next += width;
                }
                assert_eq!(next, columns);
            }
        }
    }

    #[test]
    fn patterns_cross_words() {
        let row = [1 << 63, 0b101];
        assert_eq!(pattern(&row, 60, 8), Pattern { width: 8, value: 0b0101_1000 });
        assert_eq!(pattern(&row, 64, 3), Pattern { width: 3, value: 5 });
        let mut used = Used::new();
        used.insert(Pattern { width: 8, value: 0b0101_1000 });
        let all = used.with_parts(Split { full: 8, leaf: 4, tail: 4 });
        let values: Vec<_> = all.iter().map(|p| (p.width, p.value)).collect();
        assert_eq!(values, [(8, 0b0101_1000), (4, 0b0101), (4, 0b1000)]);
    }
}
