//! The slowest read of a macro as a netlist with wires.

use std::fmt::Write as _;

use crate::macros::circuit::{self, mux_diff_x, word_line_fingers};
use crate::macros::netlist::{Dialect, GROUND, Netlist, SUPPLY};
use crate::macros::place::Places;
use crate::macros::row::height;
use crate::process::Nm;

/// What a wire is made of: milliohm a square, and zF a square micrometre and a micrometre of edge.
type Metal = [Nm; 3];

/// Share of a wire's capacitance to what is below that neighbours add.
const NEIGHBOURS: f64 = 2.0;

/// Text of wires and loads.
struct Elements<'a> {
    places: Places<'a>,
    text: String,
    count: usize,
}

impl Elements<'_> {
    /// A wire of `pieces` pieces from net to net; the nets after each piece.
    fn wire(
        &mut self,
        metal: Metal,
        [length, width]: [Nm; 2],
        [from, to]: [&str; 2],
        pieces: usize,
    ) -> Vec<String> {
        let [sheet, area, edge] = metal.map(|v| v as f64);
        let piece = length as f64 / pieces as f64;
        let ohm = sheet * 1e-3 * piece / width as f64;
        let farad = (area * width as f64 * 1e-3 + 2.0 * edge) * piece * 1e-3 * 1e-21 * NEIGHBOURS;
        let mut nets = Vec::new();
        let mut before = from.to_owned();
        for i in 0..pieces {
            let after = if i + 1 == pieces { to.to_owned() } else { format!("{to}_w{i}") };
            self.count += 1;
            let n = self.count;
            let _ = writeln!(self.text, "R{n} {before} {after} {ohm:.4}\nC{n} {after} {GROUND} {farad:.6e}");
            nets.push(after.clone());
            before = after;
        }
        nets
    }

    /// `many` transistors in parallel.
    fn transistors(&mut self, [drain, gate, source]: [&str; 3], p: bool, width: Nm, many: Nm) {
        if many <= 0 {
            return;
        }
        self.count += 1;
        let process = self.places.process;
        let um = |nm: Nm| nm as f64 / 1000.0;
        let (bulk, model) = if p { (SUPPLY, &process.device.pfet) } else { (GROUND, &process.device.nfet) };
        let junction = process.logic.diff_end_nm;
        let (w, l) = (um(width), um(process.rules.poly_width_nm));
        let (area, edge) = (w * um(junction), 2.0 * um(junction));
        let _ = writeln!(
            self.text,
            "XL{} {drain} {gate} {source} {bulk} {model} l={l} w={w} ad={area:.4} as={area:.4} pd={edge:.3} \
             ps={edge:.3} m={many}",
            self.count
        );
    }
}

impl Places<'_> {
    pub(super) fn critical_path(&self, name: &str) -> String {
        let p = self.process;
        let (l, w) = (&p.logic, &p.wire);
        let full = |span: [Nm; 2]| span[1] - span[0];
        let gate = [full(l.n_diff_y_nm), full(l.p_diff_y_nm)];
        let (columns, lines) = (Nm::from(self.shape.bit_lines), Nm::from(self.shape.word_lines));
        let groups = columns / Nm::from(self.shape.mux);
        let per_row = Nm::from(l.word_lines);
        let mut netlist = Netlist::default();
        // The clock, precharge and word-line enable, and the last of the low lines.
        let low = format!("low{}", per_row - 1);
        for mut gate in circuit::control(p, self.shape) {
            let prefixes = ["ck_", "pre_", "wl_", "wd_", "en_", &format!("{low}_")];
            if !prefixes.iter().any(|prefix| gate.name.starts_with(prefix)) {
                continue;
            }
            for input in &mut gate.inputs {
                if input.starts_with("ad") || input == "CE" {
                    SUPPLY.clone_into(input);
                }
            }
            gate.transistors(p, &mut netlist);
        }
        for gate in circuit::driver("far", SUPPLY, "low_end", "WL", word_line_fingers(self.shape)) {
            gate.transistors(p, &mut netlist);
        }
        for mut gate in circuit::sense("s", "dl", "Q") {
            for input in &mut gate.inputs {
                match input.as_str() {
                    "preb" => "preb_end".clone_into(input),
                    "en" => "en_end".clone_into(input),
                    _ => {}
                }
            }
            gate.transistors(p, &mut netlist);
        }
        let mut e = Elements { places: *self, text: String::new(), count: 0 };
        let met1 = [w.met1_milliohm, w.met1_area_zf_um2, w.met1_edge_zf_um];
        let met2 = [w.met2_milliohm, w.met2_area_zf_um2, w.met2_edge_zf_um];
        let met3 = [w.met3_milliohm, w.met3_area_zf_um2, w.met3_edge_zf_um];
        let met4 = [w.met4_milliohm, w.met4_area_zf_um2, w.met4_edge_zf_um];
        let poly = [w.poly_milliohm, 0, 0];
        let width = self.width();
        let pieces = 8;
        // Precharge line to its far end and back.
        let precharge = full(p.column.precharge_diff_x_nm);
        for net in e.wire(met3, [width, 2 * l.met3_half_width_nm], ["preb", "preb_end"], pieces) {
            e.transistors([SUPPLY, &net, SUPPLY], true, precharge, columns / pieces as Nm);
            e.transistors([SUPPLY, &net, SUPPLY], true, l.keeper_width_nm, groups / pieces as Nm);
        }
        e.wire(met3, [width, 2 * l.met3_half_width_nm], ["preb_end", circuit::PRECHARGE_FAR], pieces);
        // The enable line with the latches of all groups.
        for net in e.wire(met1, [width, 2 * l.met1_half_width_nm], ["en", "en_end"], pieces) {
            e.transistors([GROUND, &net, GROUND], false, gate[0], 2 * groups / pieces as Nm);
            e.transistors([SUPPLY, &net, SUPPLY], true, gate[1], 2 * groups / pieces as Nm);
        }
        // The other low lines' gates on the enable of word lines, and the low line up the decoder.
        e.transistors([GROUND, "wlen", GROUND], false, gate[0], per_row - 1);
        e.transistors([SUPPLY, "wlen", SUPPLY], true, gate[1], per_row - 1);
        let [bottom, top] = self.rails();
        let rows = lines / per_row;
        let up = top - bottom + 4 * height(p) + full([self.sense_y(self.sense_rows()), 0]);
        for net in e.wire(met4, [up, 2 * l.met4_half_width_nm], [&low, "low_end"], 4) {
            e.transistors([GROUND, &net, GROUND], false, gate[0], rows / 4);
            e.transistors([SUPPLY, &net, SUPPLY], true, gate[1], rows / 4);
        }
        // The word line: straps with the gates of a segment at each, poly in the last segment.
        let cell = full(p.cell.diff_x_nm);
        let segment = Nm::from(self.segment_columns());
        let segments = Nm::from(self.segments());
        let mut start = "WL".to_owned();
        for i in 0..segments {
            let end = format!("WL_s{i}");
            // The first strap is as far as the drivers are wide.
            let length = if i == 0 { 60_000 } else { self.segment_pitch() };
            // From the drivers to the array on met2.
            let upper = p.stack.is_some() && i > 0;
            let (metal, height) =
                if upper { (met3, p.rules.met3_width_nm) } else { (met2, 2 * p.strap.met2_half_height_nm) };
            e.wire(metal, [length, height], [&start, &end], 2);
            if i + 1 < segments {
                e.transistors([GROUND, &end, GROUND], false, cell, segment);
            }
            start = end;
        }
        let length = segment * p.cell.pitch_x_nm;
        for net in e.wire(poly, [length, full(p.cell.gate_y_nm)], [&start, "WL_end"], pieces) {
            e.transistors([GROUND, &net, GROUND], false, cell, segment / pieces as Nm);
        }
        // The bit line: one cell conducts at its far end, all others leak.
        e.transistors(["BL_top", "WL_end", GROUND], false, cell, 1);
        let rail = full(p.cell.bit_line_x_nm);
        let below = bottom - self.mux_bottom();
        let (metal, length, end) = match p.stack {
            Some(_) => (met2, top - bottom, "BL_array"),
            None => (met1, top - bottom + below, "BL"),
        };
        for net in e.wire(metal, [length, rail], ["BL_top", end], pieces) {
            e.transistors([&net, GROUND, GROUND], false, cell, (lines - 1) / pieces as Nm);
        }
        if p.stack.is_some() {
            e.wire(met1, [below, rail], [end, "BL"], 1);
        }
        e.transistors(["BL", "preb_end", SUPPLY], true, precharge, 1);
        let mux = full(mux_diff_x(p, self.shape.mux));
        e.transistors(["dl", SUPPLY, "BL"], false, mux, 1);
        e.transistors(["dl", GROUND, SUPPLY], false, mux, Nm::from(self.shape.mux) - 1);
        let pins = ["CLK", "Q", "BL", SUPPLY, GROUND].map(str::to_owned);
        let models = [p.device.nfet.as_str(), p.device.pfet.as_str()];
        let text = netlist.spice(name, &pins, Dialect::Simulate, models, l.diff_end_nm);
        e.after(&text, name)
    }

    /// The way of the address to the far end of a select line and to the farthest drivers of word lines.
    pub(super) fn address_path(&self, name: &str) -> String {
        let p = self.process;
        let (l, w) = (&p.logic, &p.wire);
        let full = |span: [Nm; 2]| span[1] - span[0];
        let gate = [full(l.n_diff_y_nm), full(l.p_diff_y_nm)];
        let groups = Nm::from(self.shape.bit_lines / self.shape.mux);
        let rows = Nm::from(self.shape.word_lines) / Nm::from(l.word_lines);
        let decode = circuit::RowAddress::new(p, self.shape);
        let bit = circuit::address_bits(self.shape.mux) + decode.low;
        let mut netlist = Netlist::default();
        let wanted = ["ad0_", &format!("ad{bit}_"), "sel1_", "mid1_"];
        for mut gate in circuit::control(p, self.shape) {
            if !wanted.iter().any(|prefix| gate.name.starts_with(prefix)) {
                continue;
            }
            for input in &mut gate.inputs {
                if input.starts_with('A') {
                    "A".clone_into(input);
                } else if !["ad0", "ad0_n", "sel1_n", "mid1_n"].contains(&input.as_str())
                    && !input.starts_with(&format!("ad{bit}"))
                {
                    SUPPLY.clone_into(input);
                }
            }
            gate.transistors(p, &mut netlist);
        }
        for gate in circuit::chooser("far", ["mid_end", SUPPLY], "ROW") {
            gate.transistors(p, &mut netlist);
        }
        let mut e = Elements { places: *self, text: String::new(), count: 0 };
        let loads = |e: &mut Elements<'_>, net: &str, many: Nm| {
            e.transistors([GROUND, net, GROUND], false, gate[0], many);
            e.transistors([SUPPLY, net, SUPPLY], true, gate[1], many);
        };
        loads(&mut e, "ad0", Nm::from(self.shape.mux / 2) - 1);
        let lines = Nm::from(self.bus_lines()[0]);
        loads(&mut e, &format!("ad{bit}"), lines / 2 - 1);
        loads(&mut e, "ROW", Nm::from(l.word_lines));
        let met3 = [w.met3_milliohm, w.met3_area_zf_um2, w.met3_edge_zf_um];
        let met4 = [w.met4_milliohm, w.met4_area_zf_um2, w.met4_edge_zf_um];
        let mux = full(mux_diff_x(p, self.shape.mux));
        let pieces = 8;
        for net in e.wire(met3, [self.width(), 2 * l.met3_half_width_nm], ["sel1", "SEL"], pieces) {
            e.transistors([GROUND, &net, GROUND], false, mux, (groups / pieces as Nm).max(1));
        }
        let [bottom, top] = self.rails();
        let up = top - bottom + 4 * height(p) + full([self.sense_y(self.sense_rows()), 0]);
        for net in e.wire(met4, [up, 2 * l.met4_half_width_nm], ["mid1", "mid_end"], 4) {
            loads(&mut e, &net, (rows / lines.max(1) / 4).max(1));
        }
        let pins = ["A", "SEL", "ROW", SUPPLY, GROUND].map(str::to_owned);
        let models = [p.device.nfet.as_str(), p.device.pfet.as_str()];
        let text = netlist.spice(name, &pins, Dialect::Simulate, models, l.diff_end_nm);
        e.after(&text, name)
    }
}

impl Elements<'_> {
    /// A subcircuit with the elements before its last line.
    fn after(&self, text: &str, name: &str) -> String {
        let end = format!(".ends {name}\n");
        format!("{}{}{end}", text.strip_suffix(&end).unwrap_or(text), self.text)
    }
}
