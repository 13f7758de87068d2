//! What is below the array: precharge, multiplexer, sense circuits.

use crate::macros::SENSE_BIT_LINES;
use crate::macros::circuit::{self, MuxColumns, gap_x, mux_diff_x};
use crate::macros::draw::{Kit, Sketch};
use crate::macros::place::Places;
use crate::macros::row::{Row, height, track_y, tracks};
use crate::process::{Nm, Span};

/// Cell of the precharge and the multiplexer of a group.
pub const GROUP: &str = "base_group";

impl Places<'_> {
    /// Precharge and multiplexer of a group; origin at its left edge and the precharge supply.
    pub(super) fn group(&self) -> Sketch {
        let mut s = Sketch::default();
        self.precharge(&mut s);
        self.mux(&mut s);
        s
    }

    /// Along x: contacts of a strip of diffusion, as many as fit.
    fn contacts_along(&self, [x0, x1]: Span) -> Vec<Nm> {
        let r = &self.process.rules;
        let margin = r.diff_enclose_licon_ends_nm + r.licon_size_nm / 2;
        let pitch = 2 * r.licon_size_nm.max(r.licon_space_nm);
        (0..=(x1 - x0 - 2 * margin) / pitch).map(|i| x0 + margin + i * pitch).collect()
    }

    /// A row of contacts on a strip, under li1 that also covers `over`.
    fn contact_row(&self, s: &mut Sketch, strip: Span, y: Nm, over: Span) {
        let r = &self.process.rules;
        let kit = Kit { process: self.process };
        let contacts = self.contacts_along(strip);
        for &x in &contacts {
            kit.licon(s, [x, y]);
        }
        let end = r.licon_size_nm / 2 + r.li1_enclose_licon_ends_nm;
        let first = contacts.first().copied().unwrap_or(strip[0]);
        let last = contacts.last().copied().unwrap_or(strip[1]);
        let half = r.li1_width_nm / 2;
        s.rectangle(
            self.process.layers.li1,
            [(first - end).min(over[0]), y - half, (last + end).max(over[1]), y + half],
        );
    }

    /// Centre of the cut of a bit line.
    fn bit_line_cut(&self, column: u32) -> Nm {
        let [x0, x1] = self.process.cell.cut_bit_line_x_nm;
        Nm::from(column) * self.process.cell.pitch_x_nm + (x0 + x1) / 2
    }

    fn precharge(&self, s: &mut Sketch) {
        let (p, c, r) = (self.process, &self.process.column, &self.process.rules);
        let kit = Kit { process: p };
        let l = &p.layers;
        let half_cut = r.mcon_size_nm / 2;
        let width = Nm::from(self.shape.mux) * p.cell.pitch_x_nm;
        let [x0, x1] = c.precharge_diff_x_nm;
        let top = c.contact_offset_nm + p.logic.diff_end_nm;
        for pair in 0..self.shape.mux / 2 {
            let x = Nm::from(2 * pair) * p.cell.pitch_x_nm;
            let strip = [x + x0, x + x1];
            s.rectangle(l.diff, [strip[0], -top, strip[1], top]);
            self.contact_row(s, strip, 0, strip);
            for (column, y) in [(2 * pair, -c.contact_offset_nm), (2 * pair + 1, c.contact_offset_nm)] {
                let cut = self.bit_line_cut(column);
                self.contact_row(s, strip, y, [cut - half_cut, cut + half_cut]);
                kit.mcon(s, [cut, y]);
                let supply = [gap_x(p, column), 0];
                kit.mcon(s, supply);
                kit.met1_pad(s, supply, true);
                kit.via(s, supply);
            }
            for x in self.contacts_along([strip[0], strip[1]]) {
                kit.licon(s, [x, c.precharge_tap_y_nm]);
            }
            let tap = [gap_x(p, 2 * pair), c.precharge_tap_y_nm];
            kit.mcon(s, tap);
            kit.met1_pad(s, tap, true);
            kit.via(s, tap);
        }
        // The gates of the group and their contact, between two strips.
        let over = x0 - r.poly_endcap_nm;
        let half = r.poly_width_nm / 2;
        for y in [-c.gate_offset_nm, c.gate_offset_nm] {
            s.rectangle(l.poly, [over, y - half, width + over, y + half]);
        }
        let pair = Nm::from(self.shape.mux / 2 - 2) * p.cell.pitch_x_nm;
        let between = pair + (x1 + x0 + 2 * p.cell.pitch_x_nm) / 2;
        let contact = [self.data_x(), c.precharge_contact_y_nm];
        let [pad_x, pad_y] = p.logic.poly_pad_nm.map(|v| v / 2);
        s.rectangle(l.poly, [between - half, contact[1], between + half, c.gate_offset_nm + half]);
        s.rectangle(l.poly, [contact[0] - pad_x, contact[1] - pad_y, between + half, contact[1] + pad_y]);
        let half = p.logic.npc_half_height_nm;
        s.rectangle(l.npc, [contact[0] - half, contact[1] - half, contact[0] + half, contact[1] + half]);
        kit.licon(s, contact);
        let li = p.word_line.li1_pad_nm.map(|v| v / 2);
        s.rectangle(l.li1, [contact[0] - li[1], contact[1] - li[0], contact[0] + li[1], contact[1] + li[0]]);
        kit.mcon(s, contact);
        kit.met1_pad(s, contact, true);
        kit.via(s, contact);
        kit.met2_pad(s, contact, true);
        kit.via2(s, contact);
        // The supply tap's met2 to the supply's.
        let x = gap_x(p, 0);
        let half = p.logic.met2_half_width_nm;
        s.rectangle(l.met2, [x - half, c.precharge_tap_y_nm, x + half, 0]);
    }

    fn mux(&self, s: &mut Sketch) {
        let (p, c, r) = (self.process, &self.process.column, &self.process.rules);
        let kit = Kit { process: p };
        let l = &p.layers;
        let lines = MuxColumns::new(self.shape.mux);
        let strip = mux_diff_x(p, self.shape.mux);
        let half_poly = r.poly_width_nm / 2;
        let half_cut = r.mcon_size_nm / 2;
        let end = p.logic.diff_end_nm;
        let pairs = self.mux_pairs();
        let (upper, middle) = (2 * c.contact_offset_nm, c.contact_offset_nm);
        let half = self.shape.mux / 2;
        for (i, &y) in pairs.iter().enumerate() {
            let i = i as u32;
            s.rectangle(l.diff, [strip[0], y - end, strip[1], y + upper + end]);
            for (column, level) in [(i, 0), (half + i, upper)] {
                let cut = self.bit_line_cut(column);
                self.contact_row(s, strip, y + level, [cut - half_cut, cut + half_cut]);
                kit.mcon(s, [cut, y + level]);
            }
            self.contact_row(s, strip, y + middle, strip);
            kit.mcon(s, [self.data_x(), y + middle]);
            for (right, gate) in [(false, c.gate_offset_nm), (true, upper - c.gate_offset_nm)] {
                let x = gap_x(p, if right { lines.right } else { lines.left });
                let pad = p.logic.poly_pad_nm.map(|v| v / 2);
                let (x0, x1) = if right {
                    (strip[0] - r.poly_endcap_nm, x + pad[0])
                } else {
                    (x - pad[0], strip[1] + r.poly_endcap_nm)
                };
                s.rectangle(l.poly, [x0, y + gate - half_poly, x1, y + gate + half_poly]);
                let at = [x, y + middle];
                s.rectangle(l.poly, [x - pad[0], at[1] - pad[1], x + pad[0], at[1] + pad[1]]);
                kit.licon(s, at);
                let li = p.word_line.li1_pad_nm.map(|v| v / 2);
                s.rectangle(l.li1, [x - li[0], at[1] - li[1], x + li[0], at[1] + li[1]]);
                kit.mcon(s, at);
                kit.met1_pad(s, at, true);
                kit.via(s, at);
                let select = at[1] + if right { c.select_offset_nm } else { -c.select_offset_nm };
                let m = p.logic.met2_end_nm;
                let w = p.logic.met2_half_width_nm;
                s.rectangle(l.met2, [x - w, at[1].min(select) - m, x + w, at[1].max(select) + m]);
                kit.via2(s, [x, select]);
            }
        }
        let (Some(&first), Some(&last)) = (pairs.first(), pairs.last()) else { return };
        let over = p.cell.implant_enclosure_nm;
        s.rectangle(
            l.nsdm,
            [strip[0] - over, last - end - over, strip[1] + over, first + upper + end + over],
        );
        let half = p.logic.npc_half_height_nm;
        for x in [lines.left, lines.right].map(|column| gap_x(p, column)) {
            s.rectangle(l.npc, [x - half, last + middle - half, x + half, first + middle + half]);
        }
        let (w, e) = (p.logic.met1_half_width_nm, p.logic.met1_end_nm);
        s.rectangle(l.met1, [self.data_x() - w, last - e, self.data_x() + w, first + middle + e]);
        kit.via(s, [self.data_x(), last]);
    }

    /// Tracks of the precharge and the enable line in a row of sense circuits.
    pub(super) fn sense_tracks(&self) -> [usize; 2] {
        let all = tracks(self.process);
        [all.end - 1, all.end - 3]
    }

    /// Groups in the width of a sense circuit.
    pub(super) fn groups_abreast(&self) -> u32 {
        (SENSE_BIT_LINES / self.shape.mux).max(1)
    }

    /// The sense circuit of a row; origin at the left edge of its first group and the row's ground rail, for
    /// a row that is drawn upright. `None` where its wires do not fit.
    pub(super) fn sense(&self, row: u32) -> Option<Sketch> {
        let p = self.process;
        let kit = Kit { process: p };
        let pitch = Nm::from(self.groups_abreast() * self.shape.mux) * p.cell.pitch_x_nm;
        let mut r = Row::new(p);
        for (i, gate) in circuit::sense("s", "dl", "q").iter().enumerate() {
            // From the middle of a break to the middle of the next one.
            r.push(gate, (i == 0).then_some(p.logic.break_pitch_nm / 2));
        }
        if r.right()? - p.logic.diff_end_nm + p.logic.break_pitch_nm / 2 > pitch {
            return None;
        }
        let [precharge, enable] = self.sense_tracks();
        let whole = Some([0, pitch]);
        let data = Nm::from(row) * Nm::from(self.shape.mux) * p.cell.pitch_x_nm + self.data_x();
        let end = p.logic.met1_end_nm;
        let out = r.pins("q").iter().map(|c| c.1).max()? - Nm::from(row) * 4 * end;
        let wide = |x: Nm| Some([x - end, x + end]);
        let placed = r.tie_net("preb", Some(precharge), whole)
            && r.tie_net("en", Some(enable), whole)
            && r.tie_net("dl", Some(enable + 1), wide(data));
        if !placed {
            return None;
        }
        for net in r.nets() {
            if !["preb", "en", "dl", "q"].contains(&net.as_str()) && !r.tie_net(&net, None, None) {
                return None;
            }
        }
        if !r.tie_net("q", None, wide(out)) {
            return None;
        }
        let mut s = r.draw();
        let y = |net: &str| r.wires.iter().find(|w| w.net == net).map(|w| track_y(p, w.track));
        let (m, w) = (p.logic.met2_end_nm, p.logic.met2_half_width_nm);
        // Up to the data line and down to the outputs, in the frame of an upright row.
        let flipped = row.is_multiple_of(2);
        let above = self.sense_y(0) - self.sense_y(row) - self.process.column.sense_y_nm;
        let below = self.sense_y(row) - self.output_y();
        let (up, down) = if flipped { (-above, below) } else { (height(p) + above, height(p) - below) };
        for (net, x, to) in [("dl", data, up), ("q", out, down)] {
            let at = [x, y(net)?];
            kit.via(&mut s, at);
            s.rectangle(p.layers.met2, [x - w, at[1].min(to) - m, x + w, at[1].max(to) + m]);
        }
        Some(s)
    }

    /// Height of the output pins.
    pub(super) fn output_y(&self) -> Nm {
        self.sense_y(self.sense_rows()) - 3 * self.process.logic.met3_pitch_nm
    }

    /// Outputs' pins, from the left edge of the first group abreast.
    pub(super) fn output_x(&self, row: u32) -> Option<Nm> {
        let mut r = Row::new(self.process);
        for (i, gate) in circuit::sense("s", "dl", "q").iter().enumerate() {
            r.push(gate, (i == 0).then_some(self.process.logic.break_pitch_nm / 2));
        }
        let end = self.process.logic.met1_end_nm;
        Some(r.pins("q").iter().map(|c| c.1).max()? - Nm::from(row) * 4 * end)
    }
}
