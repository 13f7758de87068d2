//! Where the columns of an array are: at one pitch, in segments with a gap between two of them.

use crate::encode::ArrayShape;
use crate::patterns::Split;
use crate::process::{Nm, Process};

/// Columns of an array, from the left edge of the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Columns {
    /// Number of columns.
    pub count: u32,
    /// Columns of a segment; divides `count`.
    pub segment: u32,
    /// Between the left edges of two columns of a segment.
    pub pitch_nm: Nm,
    /// Added to that between two segments.
    pub gap_nm: Nm,
}

/// Neighbouring columns of one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// First column.
    pub first: usize,
    /// Number of columns.
    pub width: usize,
    /// Left edge of the first.
    pub x: Nm,
}

impl Columns {
    /// All in one segment: an array without straps in it.
    pub fn even(process: &Process, shape: ArrayShape) -> Columns {
        let pitch_nm = process.cell.pitch_x_nm;
        Columns { count: shape.bit_lines, segment: shape.bit_lines, pitch_nm, gap_nm: 0 }
    }

    /// In segments between the straps of a macro's word lines.
    pub fn strapped(process: &Process, shape: ArrayShape) -> Columns {
        let segment = process.strap.columns.min(shape.bit_lines);
        Columns { segment, gap_nm: process.strap.gap_nm, ..Columns::even(process, shape) }
    }

    /// Number of segments.
    pub fn segments(&self) -> u32 {
        self.count / self.segment.max(1)
    }

    /// Between the left edges of two segments.
    pub fn segment_pitch(&self) -> Nm {
        Nm::from(self.segment) * self.pitch_nm + self.gap_nm
    }

    /// Left edge of a column.
    pub fn x(&self, column: u32) -> Nm {
        let segment = self.segment.max(1);
        Nm::from(column / segment) * self.segment_pitch() + Nm::from(column % segment) * self.pitch_nm
    }

    /// Right edge of the last column.
    pub fn width(&self) -> Nm {
        self.x(self.count.saturating_sub(1)) + self.pitch_nm
    }

    /// Each segment cut into parts, from the left.
    pub fn parts(&self, split: Split) -> Vec<Part> {
        let of_segment = split.parts(self.segment as usize);
        let parts = (0..self.segments()).flat_map(|segment| {
            let first = segment * self.segment;
            of_segment.iter().map(move |&(from, width)| Part {
                first: first as usize + from,
                width,
                x: self.x(first) + from as Nm * self.pitch_nm,
            })
        });
        parts.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::process;

    #[test]
    fn parts_cover_the_columns_once_and_cross_no_gap() {
        let p = process();
        let split = Split { full: 14, leaf: 7, tail: 13 };
        for bit_lines in [16, 48, 64, 256] {
            let columns = Columns::strapped(&p, ArrayShape { word_lines: 8, bit_lines });
            let mut next = 0;
            for part in columns.parts(split) {
                assert_eq!((part.first, part.x), (next, columns.x(next as u32)));
                next += part.width;
                // Column by column at the pitch of 770 nm.
                assert_eq!(columns.x(next as u32 - 1), part.x + (part.width as Nm - 1) * 770);
            }
            assert_eq!(next as u32, bit_lines);
        }
        // Four segments of 64 columns of 770 nm, three gaps of 1000 nm.
        let columns = Columns::strapped(&p, ArrayShape { word_lines: 8, bit_lines: 256 });
        assert_eq!((columns.segments(), columns.width()), (4, 256 * 770 + 3 * 1000));
    }
}
