//! The content of a program cell, compressed as it is made.

use super::deflate::{Counts, FARTHEST, LONGEST, SHORTEST, Tokens, Writer};
use super::{number, put_signed, put_unsigned, record};
use crate::bits::BitMatrix;
use crate::columns::{Columns, Part};
use crate::patterns::{self, Split, Used};
use crate::process::{Nm, Process};

/// Patterns of 16 columns, so that segments of whole patterns have no tails and all numbers of their cells take three bytes.
pub const SPLIT: Split = Split { full: 16, leaf: 8, tail: 13 };

/// What a program cell holds.
#[derive(Debug, Clone)]
pub struct Program {
    /// Bytes of its records.
    pub(super) length: usize,
    /// The records, compressed.
    pub(super) packed: Vec<u8>,
}

/// Up to 24 bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Run {
    bytes: [u8; 24],
    len: usize,
}

impl Run {
    fn of(bytes: &[u8]) -> Run {
        let mut run = Run::default();
        for (to, from) in run.bytes.iter_mut().zip(bytes) {
            *to = *from;
        }
        run.len = bytes.len().min(run.bytes.len());
        run
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A kind of bytes between two pattern numbers and where they stood last.
#[derive(Debug, Clone, Copy, Default)]
struct Last {
    run: Run,
    at: Option<usize>,
}

impl Last {
    /// Hands on `run` at offset `at`, as a match where the last one of this kind was the same.
    fn put(&mut self, run: Run, at: usize, tokens: &mut impl Tokens) {
        let distance = self.at.map(|last| at - last).filter(|d| (run.len..=FARTHEST).contains(d));
        match distance {
            Some(distance) if run == self.run && run.len >= SHORTEST => {
                tokens.repeat(run.len, distance);
            }
            _ => tokens.literals(run.as_slice()),
        }
        self.seen(run, at);
    }

    /// `run` stood at offset `at`, whoever handed it on.
    fn seen(&mut self, run: Run, at: usize) {
        *self = Last { run, at: Some(at) };
    }
}

/// References that are each the same bytes as the one before: so many bytes of so many a reference.
#[derive(Debug, Clone, Copy, Default)]
struct Again {
    bytes: usize,
    each: usize,
}

impl Again {
    /// One more of `each` bytes, at least [`SHORTEST`].
    fn put(&mut self, each: usize, tokens: &mut impl Tokens) {
        if each != self.each || self.bytes + each > LONGEST {
            self.end(tokens);
        }
        *self = Again { bytes: self.bytes + each, each };
    }

    /// Hands them on.
    fn end(&mut self, tokens: &mut impl Tokens) {
        if self.bytes > 0 {
            tokens.repeat(self.bytes, self.each);
        }
        self.bytes = 0;
    }
}

impl Program {
    /// Content of the program cell of `groups`, row groups with the height of their lowest node.
    pub fn new(process: &Process, columns: &Columns, groups: &[(Nm, BitMatrix)], used: &mut Used) -> Program {
        let parts = columns.parts(SPLIT);
        for row in groups.iter().flat_map(|(_, nodes)| (0..nodes.rows()).map(|r| nodes.row(r))) {
            parts.iter().for_each(|part| used.insert(patterns::pattern(row, part.first, part.width)));
        }
        let mut counts = Counts::default();
        tokens(process, &parts, groups, &mut counts);
        let mut writer = Writer::new(&counts, counts.bytes / 2 + 512);
        tokens(process, &parts, groups, &mut writer);
        Program { length: counts.bytes, packed: writer.finish() }
    }
}

/// The references of a program, part by part from the left, in each upwards: a match for what all have in common, the
/// number as it is.
fn tokens(process: &Process, parts: &[Part], groups: &[(Nm, BitMatrix)], tokens: &mut impl Tokens) {
    let pitch = process.cell.pitch_y_nm;
    // A reference whose x is that of the one before, and one with both.
    let (up, new) = ([record::PLACEMENT, 0xd0], [record::PLACEMENT, 0xf0]);
    let heights: Vec<(Nm, &[u64])> = (groups.iter())
        .flat_map(|(y, nodes)| (0..nodes.rows()).map(move |r| (y + r as Nm * pitch, nodes.row(r))))
        .collect();
    let (mut steps, mut jumps) = (Last::default(), Last::default());
    let mut again = Again::default();
    tokens.literals(&[record::RELATIVE]);
    let mut at = 1;
    let [mut x, mut y] = [0; 2];
    let mut bytes = Vec::with_capacity(16);
    for part in parts {
        let mut before = None;
        for (i, &(row_y, row)) in heights.iter().enumerate() {
            if i == 0 {
                bytes.extend_from_slice(&new);
            }
            put_unsigned(&mut bytes, number(patterns::pattern(row, part.first, part.width)));
            if i == 0 {
                put_signed(&mut bytes, part.x - x);
                x = part.x;
            }
            let head = Run::of(&bytes);
            bytes.clear();
            put_signed(&mut bytes, row_y - y);
            // What follows is the next reference's head, but for the last of a part.
            if i + 1 == heights.len() {
                again.end(tokens);
                tokens.literals(head.as_slice());
                tokens.literals(&bytes);
                at += head.len + bytes.len();
            } else {
                bytes.extend_from_slice(&up);
                let run = Run::of(&bytes);
                let kind = if row_y - y == pitch { &mut steps } else { &mut jumps };
                let whole = head.len + run.len;
                if before == Some((head, run)) {
                    // The same pattern once more: rows that nothing uses.
                    again.put(whole, tokens);
                    kind.seen(run, at + head.len);
                } else {
                    again.end(tokens);
                    tokens.literals(head.as_slice());
                    kind.put(run, at + head.len, tokens);
                }
                at += whole;
                before = (i > 0).then_some((head, run));
            }
            bytes.clear();
            y = row_y;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::encode::ArrayShape;

    #[test]
    fn a_program_unpacks_to_one_reference_a_part() {
        let process = crate::tests::process();
        for bit_lines in [1, 13, 14, 15, 16, 32, 100, 1024] {
            let columns = bit_lines as usize;
            let mut state = 7u64;
            let mut nodes = BitMatrix::new(9, columns);
            for i in 0..9 * columns {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // The upper half of the columns holds nothing.
                if state >> 63 == 1 && i % columns <= columns / 2 {
                    nodes.set(i / columns, i % columns);
                }
            }
            let groups = [(0, nodes.clone()), (9000, nodes)];
            let shape = ArrayShape { word_lines: 16, bit_lines };
            let even = Columns::even(&process, shape);
            // Segments of 64 where they are whole.
            let strapped = Columns::strapped(&process, shape);
            for columns in
                [Some(even), bit_lines.is_multiple_of(64).then_some(strapped)].into_iter().flatten()
            {
                let mut used = Used::new();
                let program = Program::new(&process, &columns, &groups, &mut used);
                let mut got = Vec::new();
                flate2::read::DeflateDecoder::new(&program.packed[..]).read_to_end(&mut got).unwrap();
                let mut want = vec![record::RELATIVE];
                let (mut x, mut y) = (0, 0);
                for part in columns.parts(SPLIT) {
                    for (i, (bottom, nodes)) in groups.iter().enumerate() {
                        for node in 0..nodes.rows() {
                            let first = i == 0 && node == 0;
                            want.extend([record::PLACEMENT, if first { 0xf0 } else { 0xd0 }]);
                            let pattern = patterns::pattern(nodes.row(node), part.first, part.width);
                            put_unsigned(&mut want, number(pattern));
                            let at = (part.x, bottom + node as Nm * 430);
                            if first {
                                put_signed(&mut want, at.0 - x);
                            }
                            put_signed(&mut want, at.1 - y);
                            (x, y) = at;
                        }
                    }
                }
                assert_eq!(program.length, got.len());
                assert!(got == want, "{columns:?}");
            }
        }
    }
}
