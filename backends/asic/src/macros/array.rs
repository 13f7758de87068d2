//! The array of a macro: segments of columns between straps of the word lines, its taps, and its program.

use std::collections::BTreeSet;

use crate::array::{Array, cell, span};
use crate::bits::BitMatrix;
use crate::encode::{self, ArrayShape};
use crate::macros::draw::{Kit, Sketch, about};
use crate::macros::place::Places;
use crate::process::Nm;
use crate::sink::Sink;
use crate::stream::{Cells, StreamError};

/// Cell of the array without its program.
pub const ARRAY: &str = "mac_array";
const WORD_LINES: [&str; 2] = ["mac_wl0", "mac_wl1"];
const TAPS: &str = "mac_taps";
const TIE: &str = "mac_tie";
const COLUMN: &str = "mac_rails";

impl Places<'_> {
    /// Writes the array and the cells it is made of.
    pub(super) fn write_array(&self, cells: &mut Cells) -> Result<(), StreamError> {
        let p = self.process;
        let mut written = BTreeSet::new();
        let shape = ArrayShape { word_lines: self.shape.word_lines, bit_lines: self.shape.bit_lines };
        let array = Array::new(p, shape);
        array.write_node(cells, &mut written)?;
        array.write_tap(cells, &mut written)?;
        let [bottom, top] = self.rails();
        let c = &p.cell;
        cell(cells, &mut written, COLUMN, |s| {
            let end = self.mux_bottom() - p.logic.met1_end_nm;
            s.rectangle(p.layers.met1, span([c.bit_line_x_nm, [end, top]]))?;
            s.rectangle(p.layers.met1, span([c.ground_x_nm, [bottom, top]]))
        })?;
        self.tie().write(cells, TIE)?;
        self.tap_row().write(cells, TAPS)?;
        for odd in [false, true] {
            self.word_line(odd).write(cells, WORD_LINES[usize::from(odd)])?;
        }
        let mut s = Sketch::default();
        let columns = i64::from(self.segment_columns());
        for segment in 0..self.segments() {
            s.copies(COLUMN, [self.segment_x(segment), 0], [columns, 1], [c.pitch_x_nm, 0]);
        }
        for y in self.tap_rows() {
            s.copy(TAPS, [0, y]);
        }
        let gate = (c.gate_y_nm[0] + c.gate_y_nm[1]) / 2;
        let over = c.diff_overhang_nm + c.implant_enclosure_nm;
        for group in self.row_groups() {
            array.write_strip(cells, &mut written, group.word_lines)?;
            let strip = format!("base_strip_{}", group.word_lines);
            let rows = Nm::from(group.word_lines);
            let height = rows * c.pitch_y_nm;
            for segment in 0..self.segments() {
                let x = self.segment_x(segment);
                s.copies(&strip, [x, group.y], [columns, 1], [c.pitch_x_nm, 0]);
                let [x0, x1] = p.strap.npc_x_nm;
                let more = p.word_line.npc_overhang_nm;
                s.rectangle(p.layers.npc, [x + x0, group.y - more, x + x1, group.y + height + more]);
            }
            for (odd, name) in WORD_LINES.into_iter().enumerate() {
                let count = (rows + 1 - odd as Nm) / 2;
                let y = group.y + odd as Nm * c.pitch_y_nm + gate;
                s.copies(name, [0, y], [1, count], [0, 2 * c.pitch_y_nm]);
            }
            let e = c.implant_enclosure_nm;
            s.rectangle(
                p.layers.nsdm,
                [c.diff_x_nm[0] - e, group.y - over, self.last_diffusion() + e, group.y + height + over],
            );
        }
        s.write(cells, ARRAY)
    }

    /// A word line; origin at the array's left edge and the gate's centre.
    fn word_line(&self, odd: bool) -> Sketch {
        let (p, strap) = (self.process, &self.process.strap);
        let kit = Kit { process: p };
        let mut s = Sketch::default();
        let at = strap.contact_x_nm[usize::from(odd)];
        let half = (p.cell.gate_y_nm[1] - p.cell.gate_y_nm[0]) / 2;
        let right = self.last_diffusion() + p.word_line.poly_overhang_nm;
        s.rectangle(p.layers.poly, [at, -half, right, half]);
        let [half_x, half_y] = strap.met2_pad_half_nm;
        let mut last = at;
        for segment in 0..self.segments() {
            let x = self.segment_x(segment) + at;
            s.rectangle(p.layers.poly, about([x, 0], p.word_line.poly_pad_nm.map(|v| v / 2)));
            kit.licon(&mut s, [x, 0]);
            s.rectangle(p.layers.li1, about([x, 0], p.word_line.li1_pad_nm.map(|v| v / 2)));
            kit.mcon(&mut s, [x, 0]);
            kit.met1_pad(&mut s, [x, 0], false);
            kit.via(&mut s, [x, 0]);
            s.rectangle(p.layers.met2, about([x, 0], [half_x, half_y]));
            last = x;
        }
        let y = strap.met2_half_height_nm;
        s.rectangle(
            p.layers.met2,
            [strap.contact_x_nm[0].min(strap.contact_x_nm[1]) - half_x, -y, last + half_x, y],
        );
        s
    }

    /// Ground rail to the ground strap on met2; origin at the column and the tap row's centre.
    fn tie(&self) -> Sketch {
        let p = self.process;
        let mut s = Sketch::default();
        let [x0, x1] = p.strap.ground_pad_x_nm;
        Kit { process: p }.via(&mut s, [(x0 + x1) / 2, 0]);
        let end = p.logic.met1_end_nm;
        s.rectangle(p.layers.met1, [x0, -end, x1, end]);
        s
    }

    /// Taps and ground straps; origin at the array's left edge and the row's centre.
    fn tap_row(&self) -> Sketch {
        let (p, t) = (self.process, &self.process.tap_row);
        let mut s = Sketch::default();
        let (left, right) = (-t.tap_overhang_nm, self.width() + t.tap_overhang_nm);
        let (half, over) = (t.tap_half_height_nm, p.cell.implant_enclosure_nm);
        s.rectangle(p.layers.tap, [left, -half, right, half]);
        s.rectangle(p.layers.psdm, [left - over, -half - over, right + over, half + over]);
        s.rectangle(p.layers.li1, [left, -t.strap_half_height_nm, right, t.strap_half_height_nm]);
        let half = p.strap.ground_half_height_nm;
        s.rectangle(p.layers.met2, [left, -half, right, half]);
        let columns = i64::from(self.segment_columns());
        for segment in 0..self.segments() {
            for name in ["base_tap", TIE] {
                s.copies(name, [self.segment_x(segment), 0], [columns, 1], [p.cell.pitch_x_nm, 0]);
            }
        }
        s
    }

    /// Writes the cells of a program of `bits`, `[word line][bit line]`.
    pub(super) fn write_program(
        &self,
        cells: &mut Cells,
        bits: &BitMatrix,
        name: &str,
    ) -> Result<(), StreamError> {
        let (p, c) = (self.process, &self.process.cell);
        let mut used = [false; 256];
        let mut program = Sketch::default();
        let columns = self.shape.bit_lines as usize;
        for group in self.row_groups() {
            let nodes = encode::nodes(bits, group.first as usize, group.word_lines as usize);
            for node in 0..nodes.rows() {
                let y = group.y + node as Nm * c.pitch_y_nm;
                for column in (0..columns).step_by(8) {
                    let value = nodes.field(node, column, 8);
                    used[usize::from(value)] = true;
                    program.copy(&pattern(value), [self.column_x(column as u32), y]);
                }
            }
        }
        for value in (0..=255u8).filter(|&v| used[usize::from(v)]) {
            let mut s = Sketch::default();
            for i in 0..8 {
                let cut = if value >> i & 1 == 1 { c.cut_bit_line_x_nm } else { c.cut_ground_x_nm };
                let x = i * c.pitch_x_nm;
                s.rectangle(p.layers.mcon, span([cut.map(|v| v + x), c.cut_y_nm]));
            }
            s.write(cells, &pattern(value))?;
        }
        program.write(cells, name)
    }
}

/// Cell of eight neighbouring cuts.
fn pattern(value: u8) -> String {
    format!("mac_cuts_{value:02x}")
}
