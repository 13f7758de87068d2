//! The content of a program cell, compressed as it is made.

use super::deflate::{Counts, FARTHEST, LONGEST, SHORTEST, Tokens, Writer};
use super::{number, put_signed, put_unsigned, record};
use crate::bits::BitMatrix;
use crate::patterns::{self, Split, Used};
use crate::process::{Nm, Process};

/// Patterns of 14 columns, so that most numbers of their cells fill two bytes.
pub const SPLIT: Split = Split { full: 14, leaf: 7, tail: 13 };

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
            Some(distance) if run == self.run && (SHORTEST..=LONGEST).contains(&run.len) => {
                tokens.repeat(run.len, distance);
            }
            _ => tokens.literals(run.as_slice()),
        }
        *self = Last { run, at: Some(at) };
    }
}

impl Program {
    /// Content of the program cell of `groups`, row groups with the height of their lowest node.
    pub fn new(process: &Process, columns: usize, groups: &[(Nm, BitMatrix)], used: &mut Used) -> Program {
        let parts = SPLIT.parts(columns);
        for row in groups.iter().flat_map(|(_, nodes)| (0..nodes.rows()).map(|r| nodes.row(r))) {
            parts.iter().for_each(|&(first, width)| used.insert(patterns::pattern(row, first, width)));
        }
        let mut counts = Counts::default();
        tokens(process, &parts, groups, &mut counts);
        let mut writer = Writer::new(&counts, counts.bytes / 2 + 512);
        tokens(process, &parts, groups, &mut writer);
        Program { length: counts.bytes, packed: writer.finish() }
    }
}

/// The references of a program: a match for what all have in common, the number as it is.
fn tokens(process: &Process, parts: &[(usize, usize)], groups: &[(Nm, BitMatrix)], tokens: &mut impl Tokens) {
    let cell = &process.cell;
    let next = [record::PLACEMENT, 0xf0];
    let step = |x: Nm, y: Nm| {
        let mut bytes = Vec::with_capacity(16);
        put_signed(&mut bytes, x);
        put_signed(&mut bytes, y);
        bytes.extend_from_slice(&next);
        Run::of(&bytes)
    };
    // Steps inside a row, from one part to the next.
    let inner = step(SPLIT.full as Nm * cell.pitch_x_nm, 0);
    let back = parts.last().map_or(0, |&(first, _)| -(first as Nm * cell.pitch_x_nm));
    let (mut rows, mut steps) = (Last::default(), Last::default());
    tokens.literals(&[record::RELATIVE]);
    tokens.literals(&next);
    let mut at = 3;
    let mut y = 0;
    let mut left = groups.iter().map(|(_, nodes)| nodes.rows()).sum::<usize>() * parts.len();
    let mut started = false;
    let mut bytes = Vec::with_capacity(16);
    for (bottom, nodes) in groups {
        for node in 0..nodes.rows() {
            let row_y = bottom + node as Nm * cell.pitch_y_nm;
            let row = nodes.row(node);
            for (i, &(first, width)) in parts.iter().enumerate() {
                bytes.clear();
                put_unsigned(&mut bytes, number(patterns::pattern(row, first, width)));
                tokens.literals(&bytes);
                at += bytes.len();
                let mut run = match i {
                    0 => step(if started { back } else { 0 }, row_y - y),
                    _ => inner,
                };
                left -= 1;
                if left == 0 {
                    // No reference follows.
                    run.len -= next.len();
                    tokens.literals(run.as_slice());
                } else if i == 0 {
                    rows.put(run, at, tokens);
                } else {
                    steps.put(run, at, tokens);
                }
                at += run.len;
                started = true;
            }
            y = row_y;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn a_program_unpacks_to_one_reference_a_part() {
        let process = crate::tests::process();
        for columns in [1, 13, 14, 15, 32, 100, 1024] {
            let mut state = 7u64;
            let mut nodes = BitMatrix::new(9, columns);
            for i in 0..9 * columns {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                if state >> 63 == 1 {
                    nodes.set(i / columns, i % columns);
                }
            }
            let groups = [(0, nodes.clone()), (9000, nodes)];
            let mut used = Used::new();
            let program = Program::new(&process, columns, &groups, &mut used);
            let mut got = Vec::new();
            flate2::read::DeflateDecoder::new(&program.packed[..]).read_to_end(&mut got).unwrap();
            let mut want = vec![record::RELATIVE];
            let (mut x, mut y) = (0, 0);
            for (bottom, nodes) in &groups {
                for node in 0..nodes.rows() {
                    for (first, width) in SPLIT.parts(columns) {
                        want.extend([record::PLACEMENT, 0xf0]);
                        put_unsigned(&mut want, number(patterns::pattern(nodes.row(node), first, width)));
                        let at = (first as Nm * 770, bottom + node as Nm * 430);
                        put_signed(&mut want, at.0 - x);
                        put_signed(&mut want, at.1 - y);
                        (x, y) = at;
                    }
                }
            }
            assert_eq!(program.length, got.len());
            assert!(got == want, "{columns}");
        }
    }
}
