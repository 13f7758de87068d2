//! Where the parts of a macro are. The origin is that of the array: the left edge of bit line 0 and the
//! centre of the lowest node.

use crate::array::{Array, RowGroup};
use crate::columns::Columns;
use crate::macros::circuit::{MuxColumns, gap_x};
use crate::macros::row::height;
use crate::macros::{MacroShape, SENSE_BIT_LINES};
use crate::process::{Nm, Process, Span};

/// Positions that follow from a shape.
#[derive(Clone, Copy)]
pub struct Places<'a> {
    /// The process.
    pub process: &'a Process,
    /// The macro's size.
    pub shape: MacroShape,
}

impl Places<'_> {
    /// The array's columns.
    pub fn columns(&self) -> Columns {
        Columns::strapped(self.process, self.shape.array())
    }

    /// Columns of a segment between two straps of the word lines.
    pub fn segment_columns(&self) -> u32 {
        self.columns().segment
    }

    /// Number of segments.
    pub fn segments(&self) -> u32 {
        self.columns().segments()
    }

    /// Between the left edges of two segments.
    pub fn segment_pitch(&self) -> Nm {
        self.columns().segment_pitch()
    }

    /// Left edge of a segment.
    pub fn segment_x(&self, segment: u32) -> Nm {
        Nm::from(segment) * self.segment_pitch()
    }

    /// Left edge of a column.
    pub fn column_x(&self, column: u32) -> Nm {
        self.columns().x(column)
    }

    /// Right edge of the last column.
    pub fn width(&self) -> Nm {
        self.columns().width()
    }

    /// Right end of the last column's diffusion.
    pub fn last_diffusion(&self) -> Nm {
        self.width() - self.process.cell.pitch_x_nm + self.process.cell.diff_x_nm[1]
    }

    /// Row groups from the bottom.
    pub fn row_groups(&self) -> Vec<RowGroup> {
        Array::new(self.process, self.shape.array()).row_groups()
    }

    /// Centres of the tap rows from the bottom.
    pub fn tap_rows(&self) -> Vec<Nm> {
        let (offset, pitch) = (self.process.tap_row.offset_nm, self.process.cell.pitch_y_nm);
        let groups = self.row_groups();
        let top = groups.last().map(|g| g.y + Nm::from(g.word_lines) * pitch + offset);
        groups.iter().map(|g| g.y - offset).chain(top).collect()
    }

    /// Lower and upper end of the ground rails of the columns.
    pub fn rails(&self) -> Span {
        let rows = self.tap_rows();
        let at = |row: Option<&Nm>| row.copied().unwrap_or(0);
        let over = self.process.rail.overhang_nm;
        [at(rows.first()) - over, at(rows.last()) + over]
    }

    /// Height of the precharge transistors' supply.
    pub fn precharge_y(&self) -> Nm {
        self.process.column.precharge_y_nm - self.process.tap_row.offset_nm
    }

    /// Lower sources of the pairs of the multiplexer from the top, from the precharge supply.
    pub fn mux_pairs(&self) -> Vec<Nm> {
        let c = &self.process.column;
        (0..Nm::from(self.shape.mux / 2))
            .map(|i| c.mux_y_nm - 2 * c.contact_offset_nm - i * c.mux_pitch_nm)
            .collect()
    }

    /// Height of the select line of a phase.
    pub fn select_y(&self, phase: u32) -> Nm {
        let c = &self.process.column;
        let half = self.shape.mux / 2;
        let pair = self.mux_pairs().get((phase % half) as usize).copied().unwrap_or(0);
        let offset = if phase < half { -c.select_offset_nm } else { c.select_offset_nm };
        self.precharge_y() + pair + c.contact_offset_nm + offset
    }

    /// Lowest source of the multiplexer.
    pub fn mux_bottom(&self) -> Nm {
        self.precharge_y() + self.mux_pairs().last().copied().unwrap_or(0)
    }

    /// Height of the precharge line and of its way back.
    pub fn precharge_lines(&self) -> [Nm; 2] {
        let y = self.precharge_y() + self.process.column.precharge_contact_y_nm;
        [y, y - self.process.logic.met3_pitch_nm]
    }

    /// Rows of sense circuits.
    pub fn sense_rows(&self) -> u32 {
        (SENSE_BIT_LINES / self.shape.mux).max(1)
    }

    /// Top of a row of sense circuits; even rows have their ground rail there.
    pub fn sense_y(&self, row: u32) -> Nm {
        self.mux_bottom() + self.process.column.sense_y_nm - Nm::from(row) * height(self.process)
    }

    /// The data line of a group, from the group's left edge.
    pub fn data_x(&self) -> Nm {
        gap_x(self.process, MuxColumns::new(self.shape.mux).data)
    }

    /// Ends of the rails along the columns.
    pub fn rail_x(&self) -> Span {
        let over = self.process.logic.rail_overhang_nm;
        [-over, self.width() + over]
    }
}
