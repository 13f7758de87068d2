//! The array of a macro: segments of columns between straps of the word lines, and its taps.

use std::collections::BTreeSet;

use crate::array::{Array, span};
use crate::macros::draw::{Kit, Sketch, about};
use crate::macros::place::Places;
use crate::process::Nm;
use crate::sink::Sink;
use crate::stream::StreamError;

const TIE: &str = "base_tie";

impl Places<'_> {
    /// Writes the array as cell `name`, and the cells it is made of. Their names have the numbers of the shape that they
    /// depend on.
    pub(super) fn write_array(&self, cells: &mut impl Sink, name: &str) -> Result<(), StreamError> {
        let p = self.process;
        let mut written = BTreeSet::new();
        let array = Array::new(p, self.shape.array());
        let column = format!("base_rails_{}", self.shape.word_lines);
        let taps = format!("base_taps_{}", self.shape.bit_lines);
        let word_lines = [0, 1].map(|odd| format!("base_wl{odd}_{}", self.shape.bit_lines));
        array.write_node(cells, &mut written)?;
        array.write_tap(cells, &mut written)?;
        let c = &p.cell;
        self.column_rails().write(cells, &column)?;
        self.tie().write(cells, TIE)?;
        self.tap_row().write(cells, &taps)?;
        for (odd, name) in [false, true].into_iter().zip(&word_lines) {
            self.word_line(odd).write(cells, name)?;
        }
        let mut s = Sketch::default();
        let columns = i64::from(self.segment_columns());
        for segment in 0..self.segments() {
            s.copies(&column, [self.segment_x(segment), 0], [columns, 1], [c.pitch_x_nm, 0]);
        }
        for y in self.tap_rows() {
            s.copy(&taps, [0, y]);
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
            for (odd, name) in word_lines.iter().enumerate() {
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
        s.write(cells, name)
    }

    /// Bit line and ground rail of a column; origin at the column and the lowest node. Below the array, where precharge and
    /// multiplexer are, bit lines run on met1.
    fn column_rails(&self) -> Sketch {
        let (p, c, l) = (self.process, &self.process.cell, &self.process.logic);
        let rail = p.levels().rail.layer;
        let [bottom, top] = self.rails();
        let end = self.mux_bottom() - l.met1_end_nm;
        let mut s = Sketch::default();
        if p.stack.is_some() {
            let y = bottom - l.met2_end_nm;
            let [x0, x1] = c.cut_bit_line_x_nm;
            Kit { process: p }.via(&mut s, [(x0 + x1) / 2, y]);
            s.rectangle(p.layers.met1, span([c.bit_line_x_nm, [end, y + l.met1_end_nm]]));
            s.rectangle(rail, span([c.bit_line_x_nm, [y - l.met2_end_nm, top]]));
        } else {
            s.rectangle(rail, span([c.bit_line_x_nm, [end, top]]));
        }
        s.rectangle(rail, span([c.ground_x_nm, [bottom, top]]));
        s
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
        // On met3 where met2 is taken by bit lines, and there alone needed where segments are joined.
        let upper = p.stack.is_some();
        let joined = self.segments() > 1;
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
            if upper && joined {
                kit.via2(&mut s, [x, 0]);
                let half = p.logic.met3_half_width_nm;
                s.rectangle(p.layers.met3, about([x, 0], [half, half]));
            }
            last = x;
        }
        let first = strap.contact_x_nm[0].min(strap.contact_x_nm[1]);
        if !upper {
            let y = strap.met2_half_height_nm;
            s.rectangle(p.layers.met2, [first - half_x, -y, last + half_x, y]);
        } else if joined {
            let y = p.rules.met3_width_nm / 2;
            s.rectangle(p.layers.met3, [at, -y, last, y]);
        }
        s
    }

    /// Ground rail to the ground strap above it; origin at the column and the tap row's centre.
    fn tie(&self) -> Sketch {
        let p = self.process;
        let levels = p.levels();
        let mut s = Sketch::default();
        let [x0, x1] = p.strap.ground_pad_x_nm;
        s.square(levels.strap_cut.layer, [(x0 + x1) / 2, 0], levels.strap_cut.size_nm);
        let end = p.rail_end_nm();
        s.rectangle(levels.rail.layer, [x0, -end, x1, end]);
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
        s.rectangle(p.levels().strap.layer, [left, -half, right, half]);
        let columns = i64::from(self.segment_columns());
        for segment in 0..self.segments() {
            for name in ["base_tap", TIE] {
                s.copies(name, [self.segment_x(segment), 0], [columns, 1], [p.cell.pitch_x_nm, 0]);
            }
        }
        s
    }
}
