//! A macro's cells, from its parts.

use std::collections::{BTreeMap, BTreeSet};

use crate::bits::BitMatrix;
use crate::encode;
use crate::macros::circuit::PRECHARGE_FAR;
use crate::macros::column::GROUP;
use crate::macros::control::Exit;
use crate::macros::draw::{Area, Drawing, Kit, RAIL_CUTS, Sketch, about};
use crate::macros::netlist::{GROUND, SUPPLY};
use crate::macros::place::Places;
use crate::macros::row::{Row, height, track_y};
use crate::oasis;
use crate::patterns::{self, Split, Used};
use crate::process::{Nm, Span};
use crate::sink::Sink;
use crate::stream::{self, Cells, StreamError};

/// What cannot be drawn.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A part whose wires find no place.
    #[error("the wires of the {0} find no place")]
    Wires(&'static str),
    /// Shapes that lie outside of the boundary: what they cover, and the boundary.
    #[error("shapes up to {:?} nm lie outside of the boundary {:?} nm", .0[0], .0[1])]
    Outside([Area; 2]),
    /// Bits of another size than the macro's.
    #[error("{} x {} bits for a macro of {} x {}", .0[0], .0[1], .1[0], .1[1])]
    Bits([usize; 2], [usize; 2]),
    /// The file format.
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// A macro's layout but for its program: cell `name` of cells `<name>_base` and `<name>_prog`, of which only the latter
/// depends on bits, `[word line][bit line]`. The lower left corner of its boundary is the origin.
pub struct Layout<'a> {
    places: Places<'a>,
    name: String,
    prog: String,
    base: Drawing,
    top: Sketch,
}

impl Layout<'_> {
    /// The GDSII library of the macro that holds `bits`.
    ///
    /// # Errors
    /// Bits of another size, and what the file format cannot hold.
    pub fn gds(&self, bits: &BitMatrix) -> Result<Vec<u8>, BuildError> {
        let (process, groups, columns) = (self.places.process, self.groups(bits)?, self.places.columns());
        let mut cells = Cells::new(0);
        self.base.write(&mut cells, &mut BTreeSet::new())?;
        let split = Split { full: 8, leaf: 8, tail: 8 };
        let mut used = Used::new();
        patterns::program(process, split, &self.prog, &columns, &groups, &mut used, &mut cells)?;
        patterns::cells(process, split, &used, &mut cells)?;
        self.top.write(&mut cells, &self.name)?;
        Ok([stream::head("pfmc")?, cells.into_bytes(), stream::tail()?].concat())
    }

    /// The OASIS file of the macro that holds `bits`.
    ///
    /// # Errors
    /// As [`Layout::gds`].
    pub fn oasis(&self, bits: &BitMatrix) -> Result<Vec<u8>, BuildError> {
        let (process, groups, columns) = (self.places.process, self.groups(bits)?, self.places.columns());
        let mut cells = oasis::Cells::new(0);
        self.base.write(&mut cells, &mut BTreeSet::new())?;
        let mut used = Used::new();
        cells.program(&self.prog, oasis::Program::new(process, &columns, &groups, &mut used))?;
        self.top.write(&mut cells, &self.name)?;
        let patterns = oasis::write_patterns(process, &used)?;
        let mut file = [oasis::head(), cells.into_bytes(), patterns, oasis::tail()].concat();
        let sum = crc32fast::hash(&file);
        file.extend(sum.to_le_bytes());
        Ok(file)
    }

    fn groups(&self, bits: &BitMatrix) -> Result<Vec<(Nm, BitMatrix)>, BuildError> {
        let shape = self.places.shape;
        let (got, want) =
            ([bits.rows(), bits.columns()], [shape.word_lines as usize, shape.bit_lines as usize]);
        if got != want {
            return Err(BuildError::Bits(got, want));
        }
        Ok(encode::groups(bits, &self.places.row_groups()))
    }
}

impl<'a> Places<'a> {
    /// The macro's layout as cell `name`.
    ///
    /// # Errors
    /// A part that cannot be wired.
    pub fn layout(&self, name: &str) -> Result<Layout<'a>, BuildError> {
        let (of_base, prog) = (format!("{name}_base"), format!("{name}_prog"));
        let base = self.draw(&of_base)?;
        let corner = base.boundary(self.process).map_or([0, 0], |b| [-b[0], -b[1]]);
        let mut top = Sketch::default();
        top.copy(&of_base, corner);
        top.copy(&prog, corner);
        Ok(Layout { places: *self, name: name.to_owned(), prog, base, top })
    }

    /// The macro without its program; its cell, the last one, is `name`. The origin is that of the array.
    ///
    /// # Errors
    /// A part that cannot be wired, and shapes outside of the boundary.
    pub fn draw(&self, name: &str) -> Result<Drawing, BuildError> {
        let mut cells = Drawing::default();
        let base = self.base(&mut cells)?;
        base.write(&mut cells, name)?;
        match cells.outside(self.process) {
            Some(areas) => Err(BuildError::Outside(areas)),
            None => Ok(cells),
        }
    }

    /// x of the supply and the ground strap of a segment, from its left edge: clear of data lines and
    /// outputs.
    fn power_x(&self) -> [Nm; 2] {
        // In columns of 770 nm and a remainder.
        let pitch = self.process.cell.pitch_x_nm;
        match self.shape.mux {
            8 => [pitch * 13 / 2 / 10 * 10, pitch * 37 / 4 / 10 * 10],
            _ => [pitch * 4, pitch * 11],
        }
    }

    /// The macro's cell without its program; the cells it is made of are written.
    pub(super) fn base(&self, cells: &mut impl Sink) -> Result<Sketch, BuildError> {
        let p = self.process;
        let l = &p.logic;
        let kit = Kit { process: p };
        let layers = &p.layers;
        let mut s = Sketch::default();
        let size = format!("{}x{}", self.shape.word_lines, self.shape.bit_lines);
        let array = format!("base_array_{size}");
        self.write_array(cells, &array)?;
        kit.rail_cuts().write(cells, RAIL_CUTS)?;
        self.group().write(cells, GROUP)?;
        s.copy(&array, [0, 0]);
        let precharge = self.precharge_y();
        let groups = self.shape.bit_lines / self.shape.mux;
        let group_x = |g: u32| self.column_x(g * self.shape.mux);
        // Copies of a cell, so many bit lines wide, over all columns.
        let over_columns = |s: &mut Sketch, cell: &str, bit_lines: u32, y: Nm| {
            let of_segment = i64::from(self.segment_columns() / bit_lines);
            let pitch = Nm::from(bit_lines) * p.cell.pitch_x_nm;
            for segment in 0..self.segments() {
                s.copies(cell, [self.segment_x(segment), y], [of_segment, 1], [pitch, 0]);
            }
        };
        over_columns(&mut s, GROUP, self.shape.mux, precharge);
        self.precharge_supply(&mut s);
        let rail = self.rail_x();
        // Sense circuits.
        let sense_rows = self.sense_rows();
        let mut rails: Vec<(Span, Nm, bool)> = Vec::new();
        let [precharge_track, enable_track] = self.sense_tracks();
        let in_row = |row: u32, y: Nm| {
            let top = self.sense_y(row);
            if row.is_multiple_of(2) { top - y } else { top - height(p) + y }
        };
        for row in 0..sense_rows {
            let drawn = self.sense(row).ok_or(BuildError::Wires("sense circuits"))?;
            let name = format!("base_sense{row}");
            let mut cell = Sketch::default();
            let flip = row.is_multiple_of(2);
            cell.add(&drawn, [0, if flip { 0 } else { -height(p) }], flip.then_some(0));
            cell.write(cells, &name)?;
            over_columns(&mut s, &name, self.shape.mux * self.groups_abreast(), self.sense_y(row));
            rails.push((rail, self.sense_y(row), !flip));
            for track in [precharge_track, enable_track] {
                let y = in_row(row, track_y(p, track));
                let half = l.met1_half_width_nm;
                s.rectangle(layers.met1, [rail[0], y - half, self.width(), y + half]);
                let at = [rail[0] + l.met1_end_nm, y];
                kit.via(&mut s, at);
                kit.met2_pad(&mut s, at, false);
                kit.via2(&mut s, at);
                // The long line from the driver meets the few gates of a narrow macro on met4, where the driver's
                // diffusion is on the net too: on met3 it would be their antenna.
                let end = l.met3_pitch_nm - self.left_gap();
                let start = end + 2 * p.rules.met34_space_nm;
                let half = l.met3_half_width_nm;
                s.rectangle(layers.met3, [start, y - half, at[0] + l.met3_end_nm, y + half]);
                let jumper = [end - l.met3_end_nm, start + l.met3_end_nm];
                jumper.iter().for_each(|&x| kit.via3(&mut s, [x, y]));
                let half = l.met4_half_width_nm;
                let met4_end = l.met4_end_nm;
                s.rectangle(layers.met4, [jumper[0] - met4_end, y - half, jumper[1] + met4_end, y + half]);
            }
        }
        rails.push((rail, self.sense_y(sense_rows), !sense_rows.is_multiple_of(2)));
        for (row, drawn) in (0..sense_rows).filter(|r| r.is_multiple_of(2)).zip(0..) {
            let _: u32 = drawn;
            // One well for the rows on either side of a supply rail.
            let [x0, y0, x1, y1] = Row::well(p, rail);
            let top = self.sense_y(row);
            let upper = top - y0;
            let lower = if row + 1 < sense_rows { top - 2 * height(p) + y0 } else { top - y1 };
            s.rectangle(layers.nwell, [x0, lower, x1, upper]);
        }
        // Decoder.
        let gap = self.left_gap();
        let [even, odd] = p.strap.contact_x_nm;
        let lead = gap + even.max(odd) + p.strap.met2_pad_half_nm[0];
        let decoder = self.decoder(|right| right + lead).ok_or(BuildError::Wires("row decoder"))?;
        let decoder_x = -gap - decoder.right;
        let control_width = decoder.right.max(60 * 2 * l.column_pitch_nm);
        let left = -gap - control_width;
        let straps = [left - 4_000, left - 1_500].map(|x| x / 10 * 10);
        let half_power = p.column.power_half_width_nm;
        let rail_left = straps[0] - half_power;
        let decoder_rails = [rail_left, -gap + l.rail_overhang_nm];
        // Odd rows are upside down.
        let decoder_rows = [0, 1].map(|odd| format!("base_decoder{odd}_{size}"));
        for (odd, (drawn, name)) in decoder.rows.iter().zip(&decoder_rows).enumerate() {
            let mut cell = Sketch::default();
            cell.add(drawn, [0, 0], (odd == 1).then_some(height(p)));
            cell.write(cells, name)?;
        }
        let per_row = l.word_lines;
        let mut row = 0;
        let mut last_row_y = 0;
        for group in self.row_groups() {
            let count = group.word_lines / per_row;
            for i in 0..=count {
                rails.push((decoder_rails, group.y + Nm::from(i) * height(p), !i.is_multiple_of(2)));
            }
            for (odd, name) in (0..).zip(&decoder_rows) {
                let rows = (i64::from(count) + 1 - odd) / 2;
                if rows > 0 {
                    let at = [decoder_x, group.y + odd * height(p)];
                    s.copies(name, at, [1, rows], [0, 2 * height(p)]);
                }
            }
            for i in 0..count {
                let odd = !i.is_multiple_of(2);
                let y = group.y + Nm::from(i) * height(p);
                let hook = self.hook(&decoder, row);
                s.add(&hook, [decoder_x, y], odd.then(|| height(p)));
                if !odd {
                    let [x0, y0, x1, y1] = Row::well(p, decoder_rails);
                    let upper = if i + 1 < count { 2 * height(p) - y0 } else { y1 };
                    s.rectangle(layers.nwell, [x0, y + y0, x1, y + upper]);
                }
                last_row_y = y + height(p);
                row += 1;
            }
        }
        // Control.
        let mut exits: BTreeMap<String, Vec<Exit>> = BTreeMap::new();
        for pin in super::circuit::pins(p, self.shape) {
            if pin.starts_with('A') || pin.starts_with('C') {
                exits.insert(pin, vec![Exit::Down]);
            }
        }
        for phase in 0..self.shape.mux {
            exits.insert(format!("sel{phase}"), vec![Exit::Right(self.select_y(phase))]);
        }
        let [line, back] = self.precharge_lines();
        let at_sense = |track: usize| (0..sense_rows).map(move |r| Exit::Right(in_row(r, track_y(p, track))));
        exits.insert(
            "preb".to_owned(),
            std::iter::once(Exit::Right(line)).chain(at_sense(precharge_track)).collect(),
        );
        exits.insert(PRECHARGE_FAR.to_owned(), vec![Exit::Right(back)]);
        exits.insert("en".to_owned(), at_sense(enable_track).collect());
        for (i, &x) in decoder.low_x.iter().enumerate() {
            exits.insert(format!("low{}", self.driven(i)), vec![Exit::Up(decoder_x + x, last_row_y)]);
        }
        let [mid, _] = self.bus_lines();
        for (i, &x) in decoder.bus_x.iter().enumerate() {
            let i = i as u32;
            let net = if i < mid { format!("mid{i}") } else { format!("high{}", i - mid) };
            exits.insert(net, vec![Exit::Up(decoder_x + x, last_row_y)]);
        }
        // Below the lines along the columns, which take all of met3 beside them.
        let top = self.output_y() - 2 * l.met3_pitch_nm;
        let (control, bottom) = self
            .control([left, -gap], top, self.output_y() - 4 * l.met3_pitch_nm, &exits)
            .ok_or(BuildError::Wires("control circuit"))?;
        s.add(&control.sketch, [0, 0], None);
        for &y in &control.rows {
            rails.push((decoder_rails, y, false));
            rails.push((decoder_rails, y + height(p), true));
            let [x0, y0, x1, y1] = Row::well(p, decoder_rails);
            s.rectangle(layers.nwell, [x0, y + y0, x1, y + y1]);
        }
        // Lines along the columns.
        let right = self.width() + 2 * l.met3_pitch_nm;
        let half = l.met3_half_width_nm;
        let start = -gap;
        for phase in 0..self.shape.mux {
            let y = self.select_y(phase);
            s.rectangle(layers.met3, [start, y - half, self.width(), y + half]);
        }
        for y in [line, back] {
            s.rectangle(layers.met3, [start, y - half, right + half, y + half]);
        }
        s.rectangle(layers.met3, [right - half, back - half, right + half, line + half]);
        for &(x, y, supply) in &rails {
            kit.rail(&mut s, x, y, supply);
        }
        // Power.
        // Two bars on met3 above the array join the straps of each net.
        let bar = |i: Nm| self.rails()[1] + (1 + 3 * i) * half_power + i * l.met3_pitch_nm + l.met3_pitch_nm;
        let bars = [bar(0), bar(1)];
        let [ends_low, ends_high] = [bottom, bars[1] + half_power];
        let last = self.segment_x(self.segments() - 1) + self.power_x()[1] + half_power;
        for y in bars {
            s.rectangle(layers.met3, [rail_left, y - half_power, last, y + half_power]);
        }
        let strap = |s: &mut Sketch, x: Nm, name: &str| {
            let area = [x - half_power, ends_low, x + half_power, ends_high];
            s.rectangle(layers.met4, area);
            s.rectangle(layers.met4_pin, area);
            s.label(layers.met4_label, [x, (ends_low + ends_high) / 2 / p.grid_nm * p.grid_nm], name);
            let y = bars[usize::from(name == GROUND)];
            let pitch = p.rules.via3_size_nm + p.rules.via23_space_nm;
            for i in -1..=1 {
                for j in -1..=1 {
                    kit.via3(s, [x + i * pitch, y + j * pitch]);
                }
            }
        };
        let names = [SUPPLY, GROUND];
        for (x, name) in straps.into_iter().zip(names) {
            strap(&mut s, x, name);
        }
        for segment in 0..self.segments() {
            for (x, name) in self.power_x().into_iter().zip(names) {
                strap(&mut s, self.segment_x(segment) + x, name);
            }
        }
        let stacks = [("base_stack_rail", 4, 1), ("base_stack_sense", 2, 1), ("base_stack", 4, 2)];
        // From the ground straps in the tap rows, where they are not on met2.
        let upper = p.stack.is_some().then_some(("base_stack_ground", 4, 3));
        for (name, columns, from) in stacks.into_iter().chain(upper) {
            let mut cell = Sketch::default();
            kit.power_stack(&mut cell, [0, 0], [columns, 1], from);
            cell.write(cells, name)?;
        }
        let [on_rail, on_sense, on_strap] = stacks.map(|(name, ..)| name);
        let on_ground = upper.map_or(on_strap, |(name, ..)| name);
        let segments = [i64::from(self.segments()), 1];
        let over_segments = |s: &mut Sketch, name: &str, x: Nm, y: Nm| {
            s.copies(name, [x, y], segments, [self.segment_pitch(), 0]);
        };
        for &(x, y, supply) in &rails {
            if x == decoder_rails {
                s.copy(on_rail, [straps[usize::from(!supply)], y]);
            } else {
                over_segments(&mut s, on_sense, self.power_x()[usize::from(!supply)], y);
            }
        }
        let [supply, ground] = self.power_x();
        over_segments(&mut s, on_strap, supply, precharge);
        for y in self.tap_rows() {
            over_segments(&mut s, on_ground, ground, y);
        }
        // Pins.
        for (net, &x) in &control.pins {
            let half = l.met4_half_width_nm;
            let y = bottom + 2 * half;
            s.rectangle(layers.met4_pin, [x - half, bottom - l.met4_end_nm, x + half, y]);
            s.label(layers.met4_label, [x, bottom], net);
        }
        for g in 0..groups {
            let abreast = self.groups_abreast();
            let (first, row) = (g / abreast * abreast, g % abreast);
            let x = group_x(first) + self.output_x(row).unwrap_or(0);
            let at = [x, bottom - l.met4_end_nm + l.met3_half_length_nm];
            let (w, m) = (l.met2_half_width_nm, l.met2_end_nm);
            s.rectangle(layers.met2, [x - w, at[1] - m, x + w, self.output_y()]);
            kit.via2(&mut s, at);
            kit.met3_pad(&mut s, at, true);
            s.rectangle(layers.met3_pin, about(at, [l.met3_half_width_nm, l.met3_half_length_nm]));
            s.label(layers.met3_label, at, &format!("Q{g}"));
        }
        let margin = p.tile.margin_nm;
        s.rectangle(
            layers.boundary,
            [
                rail_left - l.well_enclosure_nm - margin,
                bottom - l.met4_end_nm - margin,
                right + half + margin,
                ends_high + margin,
            ],
        );
        Ok(s)
    }

    /// Between the left end of the array's cells and the logic left of it.
    fn left_gap(&self) -> Nm {
        2_200
    }

    /// The supply of the precharge transistors, its taps and their well.
    fn precharge_supply(&self, s: &mut Sketch) {
        let p = self.process;
        let (c, l, layers) = (&p.column, &p.logic, &p.layers);
        let y = self.precharge_y();
        let tap = y + c.precharge_tap_y_nm;
        let [x0, x1] = self.rail_x();
        let over = p.cell.implant_enclosure_nm;
        let strip = c.contact_offset_nm + l.diff_end_nm;
        let half = l.rail_tap_half_height_nm;
        s.rectangle(layers.psdm, [x0, y - strip - over, x1, y + strip + over]);
        s.rectangle(layers.tap, [x0, tap - half, x1, tap + half]);
        s.rectangle(layers.nsdm, [x0 - over, tap - half - over, x1 + over, tap + half + over]);
        let e = l.well_enclosure_nm;
        s.rectangle(layers.nwell, [x0 - e, tap - half - e, x1 + e, y + strip + e]);
        let li = p.rules.li1_width_nm / 2;
        s.rectangle(layers.li1, [x0, y - li, x1, y + li]);
        s.rectangle(layers.li1, [x0, tap - half, x1, tap + half]);
        let wide = p.strap.ground_half_height_nm;
        s.rectangle(layers.met2, [x0, y - wide, x1, y + wide]);
        s.rectangle(layers.met2, [x0, tap - wide / 2, x1, tap + l.met1_half_width_nm]);
    }
}
