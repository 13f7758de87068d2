//! Geometry of an array and its weight-independent cells.
//!
//! An array's origin is the left edge of bit line 0 and the centre of the lowest node. Row groups
//! follow each other upwards with a tap row between two of them and at both ends:
//!
//! ```text
//!   WL pads      bit line 0        bit line C-1
//!                 BL GND            BL GND
//!  =============  |---|---tap row---|---|  ====   li1 strap, cut to every GND, met2 at both ends
//!    o            o   o             o   o         node g
//!  [o]------------|---|-------------|---|-        word line g-1, poly
//!    o            o   o             o   o         ...
//!       [o]-------|---|-------------|---|-        word line 0
//!                 o   o             o   o         node 0
//!  =============  |---|---tap row---|---|  ====
//! ```
//!
//! What is drawn on which layer follows the process file's [levels](crate::process::Levels): where it has a `[stack]`, pads
//! are on met1, bit lines on met2 and straps on met3, and the via between pad and rail is the programmed cut.
//! Otherwise each is a level lower, and the cut is mcon.
//!
//! One base cell serves every tile of a shape: `base_<word lines>x<bit lines>`. It is built of
//! arrays of a node, a strip, a pair of word-line ends and a tap, so it stays small.

use std::collections::BTreeSet;

use crate::encode::ArrayShape;
use crate::process::{Nm, Process};
use crate::sink::Sink;
use crate::stream::StreamError;

/// Where things are in an array of a shape.
pub struct Array<'a> {
    process: &'a Process,
    shape: ArrayShape,
}

/// A row group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowGroup {
    /// First word line.
    pub first: u32,
    /// Word lines.
    pub word_lines: u32,
    /// Centre of its lowest node.
    pub y: Nm,
}

impl<'a> Array<'a> {
    /// An array of at least one bit.
    pub fn new(process: &'a Process, shape: ArrayShape) -> Self {
        Array { process, shape }
    }

    /// Between the lowest nodes of two full row groups.
    fn group_pitch(&self) -> Nm {
        let t = &self.process.tap_row;
        Nm::from(t.word_lines) * self.process.cell.pitch_y_nm + 2 * t.offset_nm
    }

    /// Row groups from the bottom.
    pub fn row_groups(&self) -> Vec<RowGroup> {
        let most = self.process.tap_row.word_lines;
        let pitch = self.group_pitch();
        (self.shape.row_groups(self.process).enumerate())
            .map(|(g, word_lines)| RowGroup { first: g as u32 * most, word_lines, y: g as Nm * pitch })
            .collect()
    }

    /// Centres of the tap rows from the bottom.
    fn tap_rows(&self) -> Vec<Nm> {
        let (offset, pitch) = (self.process.tap_row.offset_nm, self.process.cell.pitch_y_nm);
        let groups = self.row_groups();
        let below = groups.iter().map(|g| g.y - offset);
        let top = groups.last().map(|g| g.y + Nm::from(g.word_lines) * pitch + offset);
        below.chain(top).collect()
    }

    /// Right edge of the last column.
    fn width(&self) -> Nm {
        Nm::from(self.shape.bit_lines) * self.process.cell.pitch_x_nm
    }

    /// Lower and upper end of rails and straps, without the bit lines' extension.
    fn rails(&self) -> [Nm; 2] {
        let rows = self.tap_rows();
        let overhang = self.process.rail.overhang_nm;
        let at = |row: Option<&Nm>| row.copied().unwrap_or(0);
        [at(rows.first()) - overhang, at(rows.last()) + overhang]
    }

    /// Boundary of the tile, `[x0, y0, x1, y1]`.
    pub fn boundary(&self) -> [Nm; 4] {
        let p = self.process;
        let (s, margin) = (&p.ground_strap, p.tile.margin_nm);
        let [bottom, top] = self.rails();
        [
            s.left_x_nm - s.half_width_nm - margin,
            bottom - margin,
            self.width() + s.right_x_nm + s.half_width_nm + margin,
            top + p.rail.pin_extension_nm + margin,
        ]
    }

    /// Name of the base cell.
    pub fn base_name(&self) -> String {
        format!("base_{}x{}", self.shape.word_lines, self.shape.bit_lines)
    }

    /// Writes the base cell. Cells it is made of are written unless they are in `written`.
    pub fn write_base(
        &self,
        cells: &mut impl Sink,
        written: &mut BTreeSet<String>,
    ) -> Result<(), StreamError> {
        self.write_node(cells, written)?;
        self.write_tap(cells, written)?;
        for odd in [false, true] {
            self.write_word_line(cells, written, odd)?;
        }
        self.write_tap_row(cells, written)?;
        for group in self.row_groups() {
            self.write_strip(cells, written, group.word_lines)?;
            self.write_group(cells, written, group.word_lines)?;
        }
        let (p, r) = (self.process, &self.process.rail);
        let (l, levels) = (&p.layers, p.levels());
        let [bottom, top] = self.rails();
        let pins_top = top + r.pin_extension_nm;
        let [b0, b1] = p.cell.bit_line_x_nm;
        let [g0, g1] = p.cell.ground_x_nm;
        let rails = format!("base_rails_{}", self.shape.word_lines);
        cell(cells, written, &rails, |c| {
            c.rectangle(levels.rail.layer, [b0, bottom, b1, pins_top])?;
            c.rectangle(levels.rail.pin, [b0, pins_top - r.pin_nm, b1, pins_top])?;
            c.rectangle(levels.rail.layer, [g0, bottom, g1, top])
        })?;
        let columns = i64::from(self.shape.bit_lines);
        cell(cells, written, &self.base_name(), |c| {
            c.rectangle(l.boundary, self.boundary())?;
            c.copies(&rails, [0, 0], [columns, 1], [p.cell.pitch_x_nm, 0])?;
            for group in self.row_groups() {
                c.copy(&self.group_name(group.word_lines), [0, group.y])?;
            }
            for y in self.tap_rows() {
                c.copy(&self.tap_row_name(), [0, y])?;
            }
            let (s, half) = (&p.ground_strap, p.ground_strap.half_width_nm);
            for x in [s.left_x_nm, self.width() + s.right_x_nm] {
                c.rectangle(levels.strap.layer, [x - half, bottom, x + half, top])?;
                for [y0, y1] in [[bottom, bottom + r.pin_nm], [top - r.pin_nm, top]] {
                    c.rectangle(levels.strap.pin, [x - half, y0, x + half, y1])?;
                    c.label(levels.strap.label, [x, (y0 + y1) / 2], "VGND")?;
                }
            }
            let bit_line = (b0 + b1) / 2;
            for i in 0..columns {
                let at = [i * p.cell.pitch_x_nm + bit_line, pins_top - r.pin_nm / 2];
                c.label(levels.rail.label, at, &format!("BL{i}"))?;
            }
            for group in self.row_groups() {
                for i in 0..group.word_lines {
                    let x = p.word_line.contact_x_nm[(i % 2) as usize];
                    let y = group.y + Nm::from(i) * p.cell.pitch_y_nm + self.gate_centre();
                    c.label(l.li1_label, [x, y], &format!("WL{}", group.first + i))?;
                }
            }
            Ok(())
        })
    }

    fn gate_centre(&self) -> Nm {
        let [low, high] = self.process.cell.gate_y_nm;
        (low + high) / 2
    }

    fn group_name(&self, word_lines: u32) -> String {
        format!("base_rows_{word_lines}x{}", self.shape.bit_lines)
    }

    fn tap_row_name(&self) -> String {
        format!("base_taps_{}", self.shape.bit_lines)
    }

    fn word_line_name(&self, odd: bool) -> String {
        format!("base_wl{}_{}", u8::from(odd), self.shape.bit_lines)
    }

    /// A contact and its pad; origin at the node.
    pub(crate) fn write_node(
        &self,
        cells: &mut impl Sink,
        written: &mut BTreeSet<String>,
    ) -> Result<(), StreamError> {
        let (l, g) = (&self.process.layers, &self.process.cell);
        cell(cells, written, "base_node", |c| {
            c.rectangle(l.licon, span([g.licon_x_nm, g.licon_y_nm]))?;
            if let Some(stack) = &self.process.stack {
                c.rectangle(l.li1, span([stack.li1_x_nm, stack.li1_y_nm]))?;
                c.rectangle(l.mcon, span([stack.mcon_x_nm, stack.mcon_y_nm]))?;
            }
            c.rectangle(self.process.levels().pad.layer, span([g.pad_x_nm, g.pad_y_nm]))
        })
    }

    /// Contact to the tap and cut to the ground rail; origin at the tap row's centre.
    pub(crate) fn write_tap(
        &self,
        cells: &mut impl Sink,
        written: &mut BTreeSet<String>,
    ) -> Result<(), StreamError> {
        let (l, g) = (&self.process.layers, &self.process.cell);
        cell(cells, written, "base_tap", |c| {
            c.rectangle(l.licon, span([g.licon_x_nm, g.licon_y_nm]))?;
            let levels = self.process.levels();
            if let Some(stack) = &self.process.stack {
                c.rectangle(l.mcon, span([stack.mcon_x_nm, stack.mcon_y_nm]))?;
                c.rectangle(levels.pad.layer, span([g.pad_x_nm, g.pad_y_nm]))?;
            }
            c.rectangle(levels.cut.layer, span([g.cut_ground_x_nm, g.cut_y_nm]))
        })
    }

    /// Diffusion and nodes of one column of a row group; origin at its lowest node.
    pub(crate) fn write_strip(
        &self,
        cells: &mut impl Sink,
        written: &mut BTreeSet<String>,
        word_lines: u32,
    ) -> Result<(), StreamError> {
        let (l, g) = (&self.process.layers, &self.process.cell);
        let rows = i64::from(word_lines);
        cell(cells, written, &format!("base_strip_{word_lines}"), |c| {
            let y = [-g.diff_overhang_nm, rows * g.pitch_y_nm + g.diff_overhang_nm];
            c.rectangle(l.diff, span([g.diff_x_nm, y]))?;
            c.copies("base_node", [0, 0], [1, rows + 1], [0, g.pitch_y_nm])
        })
    }

    /// A word line with its contact; origin at the array's left edge and the gate's centre.
    fn write_word_line(
        &self,
        cells: &mut impl Sink,
        written: &mut BTreeSet<String>,
        odd: bool,
    ) -> Result<(), StreamError> {
        let p = self.process;
        let (l, g, w) = (&p.layers, &p.cell, &p.word_line);
        let x = w.contact_x_nm[usize::from(odd)];
        let about = |[sx, sy]: [Nm; 2]| [x - sx / 2, -sy / 2, x + sx / 2, sy / 2];
        let half = (g.gate_y_nm[1] - g.gate_y_nm[0]) / 2;
        let right = self.width() - g.pitch_x_nm + g.diff_x_nm[1] + w.poly_overhang_nm;
        let licon = p.rules.licon_size_nm;
        cell(cells, written, &self.word_line_name(odd), |c| {
            c.rectangle(l.poly, [x, -half, right, half])?;
            c.rectangle(l.poly, about(w.poly_pad_nm))?;
            c.rectangle(l.licon, about([licon, licon]))?;
            c.rectangle(l.li1, about(w.li1_pad_nm))?;
            c.rectangle(l.li1_pin, about([licon, licon]))
        })
    }

    /// Strips, word lines and implants of a row group; origin at its lowest node.
    fn write_group(
        &self,
        cells: &mut impl Sink,
        written: &mut BTreeSet<String>,
        word_lines: u32,
    ) -> Result<(), StreamError> {
        let p = self.process;
        let (l, g, w) = (&p.layers, &p.cell, &p.word_line);
        let rows = i64::from(word_lines);
        let columns = i64::from(self.shape.bit_lines);
        let height = rows * g.pitch_y_nm;
        cell(cells, written, &self.group_name(word_lines), |c| {
            c.copies(&format!("base_strip_{word_lines}"), [0, 0], [columns, 1], [g.pitch_x_nm, 0])?;
            for (odd, first) in [(false, 0), (true, 1)] {
                let count = (rows + 1 - first) / 2;
                if count > 0 {
                    let y = first * g.pitch_y_nm + self.gate_centre();
                    c.copies(&self.word_line_name(odd), [0, y], [1, count], [0, 2 * g.pitch_y_nm])?;
                }
            }
            let over = g.diff_overhang_nm + g.implant_enclosure_nm;
            let last = self.width() - g.pitch_x_nm + g.diff_x_nm[1];
            if let Some(nsdm) = l.nsdm {
                let x = [g.diff_x_nm[0] - g.implant_enclosure_nm, last + g.implant_enclosure_nm];
                c.rectangle(nsdm, [x[0], -over, x[1], height + over])?;
            }
            if let Some(npc) = l.npc {
                let over = w.npc_overhang_nm;
                c.rectangle(npc, [w.npc_x_nm[0], -over, w.npc_x_nm[1], height + over])?;
            }
            Ok(())
        })
    }

    /// Tap, li1 strap, ground cuts, and what joins that strap to those beside the array; origin at the array's
    /// left edge and the row's centre.
    fn write_tap_row(
        &self,
        cells: &mut impl Sink,
        written: &mut BTreeSet<String>,
    ) -> Result<(), StreamError> {
        let p = self.process;
        let (l, t, s) = (&p.layers, &p.tap_row, &p.ground_strap);
        let columns = i64::from(self.shape.bit_lines);
        let straps = [s.left_x_nm, self.width() + s.right_x_nm];
        cell(cells, written, &self.tap_row_name(), |c| {
            let (left, right) = (-t.tap_overhang_nm, self.width() + t.tap_overhang_nm);
            let half = t.tap_half_height_nm;
            c.rectangle(l.tap, [left, -half, right, half])?;
            let over = p.cell.implant_enclosure_nm;
            c.rectangle(l.psdm, [left - over, -half - over, right + over, half + over])?;
            let half = t.strap_half_height_nm;
            c.rectangle(l.li1, [straps[0] - s.half_width_nm, -half, straps[1] + s.half_width_nm, half])?;
            c.copies("base_tap", [0, 0], [columns, 1], [p.cell.pitch_x_nm, 0])?;
            let levels = p.levels();
            for x in straps {
                let half = s.pad_half_height_nm;
                let pads = levels.lower_cut.map(|_| levels.pad).into_iter().chain([levels.rail]);
                for pad in pads {
                    c.rectangle(pad.layer, [x - s.half_width_nm, -half, x + s.half_width_nm, half])?;
                }
                for x in [x - s.via_offset_nm, x + s.via_offset_nm] {
                    for cut in levels.lower_cut.into_iter().chain([levels.cut, levels.strap_cut]) {
                        let half = cut.size_nm / 2;
                        c.rectangle(cut.layer, [x - half, -half, x + half, half])?;
                    }
                }
            }
            Ok(())
        })
    }
}

/// `[x0, y0, x1, y1]` of two spans.
pub(crate) fn span([x, y]: [[Nm; 2]; 2]) -> [Nm; 4] {
    [x[0], y[0], x[1], y[1]]
}

/// Writes a cell unless one of that name is written.
pub(crate) fn cell<S: Sink>(
    cells: &mut S,
    written: &mut BTreeSet<String>,
    name: &str,
    content: impl FnOnce(&mut S) -> Result<(), StreamError>,
) -> Result<(), StreamError> {
    if !written.insert(name.to_owned()) {
        return Ok(());
    }
    cells.begin(name)?;
    content(cells)?;
    cells.end()
}
