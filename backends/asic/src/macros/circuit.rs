//! The circuits of a macro: gates and transistors from its shape and its bits.
//!
//! Nets: `CLK`, `CE` and `A0`.. come in, `Q0`.. go out; `BL<i>` and `WL<i>` are the array's. Everything
//! else is internal, and differs from these by more than case, which SPICE ignores.

use crate::bits::BitMatrix;
use crate::encode::{self, ArrayShape};
use crate::macros::MacroShape;
use crate::macros::gate::Gate;
use crate::macros::netlist::{Channel, GROUND, Netlist, SUPPLY};
use crate::process::{Nm, Process};

/// Address bits of `n` lines.
pub fn address_bits(n: u32) -> u32 {
    n.next_power_of_two().trailing_zeros()
}

/// How the row address is decoded.
#[derive(Debug, Clone, Copy)]
pub struct RowAddress {
    /// Bits that choose a word line of a decoder row.
    pub low: u32,
    /// Bits of the first half of the choice of a decoder row.
    pub mid: u32,
    /// Bits of the second half; none where one half is enough.
    pub high: u32,
}

impl RowAddress {
    /// For a shape.
    pub fn new(process: &Process, shape: MacroShape) -> Self {
        let low = address_bits(process.logic.word_lines);
        let rest = address_bits(shape.word_lines).saturating_sub(low);
        let mid = if rest <= 3 { rest } else { rest.div_ceil(2) };
        RowAddress { low, mid, high: rest - mid }
    }

    /// The nets that choose decoder row `row`.
    pub fn row_nets(self, row: u32) -> [String; 2] {
        let mid = format!("mid{}", row & ((1 << self.mid) - 1));
        let high = if self.high == 0 { mid.clone() } else { format!("high{}", row >> self.mid) };
        [mid, high]
    }
}

/// Number of parallel transistors for a load in femtofarads.
fn fingers(load_ff: u32) -> u32 {
    load_ff.div_ceil(100).clamp(1, 24)
}

/// Fingers of a word-line driver.
pub fn word_line_fingers(shape: MacroShape) -> u32 {
    // A gate of the array and its strap: about 0.8 fF.
    fingers(shape.bit_lines * 8 / 20)
}

/// A line of buffers from `input` to `output` that ends with `last` fingers and inverts an odd number of
/// times.
fn odd_chain(gates: &mut Vec<Gate>, name: &str, input: &str, output: &str, last: u32) {
    if last <= 4 {
        gates.push(Gate::inverter(format!("{name}_0"), input, output, last));
        return;
    }
    let (a, b) = (format!("{name}_a"), format!("{name}_b"));
    gates.push(Gate::inverter(format!("{name}_0"), input, &a, 1));
    gates.push(Gate::inverter(format!("{name}_1"), &a, &b, last.div_ceil(4).max(2)));
    gates.push(Gate::inverter(format!("{name}_2"), &b, output, last));
}

/// The net of the precharge line's far end as the control circuit sees it: the same net as `preb`.
pub const PRECHARGE_FAR: &str = "preb_far";

/// Clock, enables, and the decoders of the address.
pub fn control(process: &Process, shape: MacroShape) -> Vec<Gate> {
    let mut gates = Vec::new();
    let groups = shape.bit_lines / shape.mux;
    // The clock, gated.
    gates.push(Gate::nand("ck_nand", &["CLK", "CE"], "ck_n"));
    gates.push(Gate::inverter("ck_inv", "ck_n", "ck", 4));
    // Precharge ends with the clock's rise and begins after the word lines have fallen.
    gates.push(Gate::nor("pre_nor", ["ck", "wld"], "pre_n"));
    odd_chain(&mut gates, "pre", "pre_n", "preb", fingers(shape.bit_lines * 18 / 10));
    // Word lines rise when the far end of the precharge line is high.
    gates.push(Gate::nand("wl_nand", &["ck", PRECHARGE_FAR], "wln"));
    gates.push(Gate::inverter("wl_inv", "wln", "wlen", 3));
    gates.push(Gate::inverter("wd_inv0", "wlen", "wld_n", 1));
    gates.push(Gate::inverter("wd_inv1", "wld_n", "wld", 1));
    // The output latches are open while the clock is high.
    gates.push(Gate::inverter("en_inv0", "ck", "en_n", fingers(groups * 2)));
    gates.push(Gate::inverter("en_inv1", "en_n", "en", fingers(groups * 8)));
    let address = |gates: &mut Vec<Gate>, bit: u32| {
        let (pin, not, yes) = (format!("A{bit}"), format!("ad{bit}_n"), format!("ad{bit}"));
        gates.push(Gate::inverter(format!("ad{bit}_inv0"), &pin, &not, 2));
        gates.push(Gate::inverter(format!("ad{bit}_inv1"), &not, &yes, 2));
    };
    // Line `i` of `bits` address bits from `first`, and `enable`.
    let decode =
        |gates: &mut Vec<Gate>, name: &str, first: u32, bits: u32, lines: u32, enable: &[&str], f: u32| {
            for bit in first..first + bits {
                address(gates, bit);
            }
            for i in 0..lines {
                let mut inputs: Vec<String> = enable.iter().map(|&e| e.to_owned()).collect();
                inputs.extend((0..bits).map(|b| {
                    if i >> b & 1 == 1 { format!("ad{}", first + b) } else { format!("ad{}_n", first + b) }
                }));
                let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
                let (not, yes) = (format!("{name}{i}_n"), format!("{name}{i}"));
                if let [only] = inputs[..] {
                    gates.push(Gate::inverter(format!("{name}{i}_not"), only, &not, 1));
                } else {
                    gates.push(Gate::nand(format!("{name}{i}_nand"), &inputs, &not));
                }
                gates.push(Gate::inverter(format!("{name}{i}_inv"), &not, &yes, f));
            }
        };
    let rows = RowAddress::new(process, shape);
    let column_bits = address_bits(shape.mux);
    let decoder_rows = shape.word_lines / process.logic.word_lines;
    let mut first = column_bits;
    decode(
        &mut gates,
        "low",
        first,
        rows.low,
        process.logic.word_lines,
        &["wlen"],
        fingers(decoder_rows * 5),
    );
    first += rows.low;
    if rows.mid > 0 {
        let lines = decoder_rows.min(1 << rows.mid);
        decode(&mut gates, "mid", first, rows.mid, lines, &[], fingers(decoder_rows));
        first += rows.mid;
    }
    if rows.high > 0 {
        decode(
            &mut gates,
            "high",
            first,
            rows.high,
            decoder_rows.div_ceil(1 << rows.mid),
            &[],
            fingers(decoder_rows),
        );
    }
    decode(&mut gates, "sel", 0, column_bits, shape.mux, &[], fingers(groups * 6));
    gates
}

/// The gate that chooses a decoder row, with its driver: `mid` and `high` in, `choice` out.
pub fn chooser(name: &str, [mid, high]: [&str; 2], choice: &str) -> [Gate; 2] {
    let not = format!("{name}_n");
    [
        Gate::nand(format!("{name}_nand"), &[mid, high], &not),
        Gate::inverter(format!("{name}_inv"), &not, choice, 2),
    ]
}

/// The driver of a word line: `choice` and `low` in.
pub fn driver(name: &str, choice: &str, low: &str, word_line: &str, fingers: u32) -> [Gate; 2] {
    let not = format!("{name}_n");
    [
        Gate::nand(format!("{name}_nand"), &[choice, low], &not),
        Gate::inverter(format!("{name}_inv"), &not, word_line, fingers),
    ]
}

/// Precharge, keeper, sense inverter, latch and output of a data line.
pub fn sense(name: &str, data: &str, output: &str) -> Vec<Gate> {
    let net = |tag: &str| format!("{name}_{tag}");
    let [low, set, reset, q, not_q] = ["d", "s", "r", "q", "qb"].map(net);
    vec![
        Gate::keeper(net("keep"), "preb", &low, data),
        Gate::inverter(net("inv"), data, &low, 1),
        Gate::nand(net("set"), &["en", &low], &set),
        Gate::nand(net("reset"), &["en", &set], &reset),
        Gate::nand(net("latch0"), &[&set, &not_q], &q),
        Gate::nand(net("latch1"), &[&reset, &q], &not_q),
        Gate::inverter(net("out"), &not_q, output, 2),
    ]
}

/// Pins of a macro in order.
pub fn pins(process: &Process, shape: MacroShape) -> Vec<String> {
    let rows = RowAddress::new(process, shape);
    let bits = address_bits(shape.mux) + rows.low + rows.mid + rows.high;
    let mut pins = vec!["CLK".to_owned(), "CE".to_owned()];
    pins.extend((0..bits).map(|i| format!("A{i}")));
    pins.extend((0..shape.bit_lines / shape.mux).map(|i| format!("Q{i}")));
    pins.extend([SUPPLY.to_owned(), GROUND.to_owned()]);
    pins
}

/// The transistors of a macro that holds `bits`, `[word line][bit line]`.
pub fn netlist(process: &Process, shape: MacroShape, bits: &BitMatrix) -> Netlist {
    let mut netlist = Netlist::default();
    let (c, rules) = (&process.cell, &process.rules);
    for gate in control(process, shape) {
        let mut gate = gate;
        for input in &mut gate.inputs {
            if input == PRECHARGE_FAR {
                "preb".clone_into(input);
            }
        }
        gate.transistors(process, &mut netlist);
    }
    let rows = RowAddress::new(process, shape);
    let per_row = process.logic.word_lines;
    for row in 0..shape.word_lines / per_row {
        let choice = format!("row{row}");
        let [mid, high] = rows.row_nets(row);
        for gate in chooser(&choice, [&mid, &high], &choice) {
            gate.transistors(process, &mut netlist);
        }
        for i in 0..per_row {
            let line = row * per_row + i;
            let low = format!("low{i}");
            for gate in
                driver(&format!("wl{line}"), &choice, &low, &format!("WL{line}"), word_line_fingers(shape))
            {
                gate.transistors(process, &mut netlist);
            }
        }
    }
    for group in 0..shape.bit_lines / shape.mux {
        for gate in sense(&format!("s{group}"), &format!("dl{group}"), &format!("Q{group}")) {
            gate.transistors(process, &mut netlist);
        }
    }
    let [x0, x1] = process.column.precharge_diff_x_nm;
    let mux_width = mux_diff_x(process, shape.mux);
    for bit_line in 0..shape.bit_lines {
        let name = format!("BL{bit_line}");
        netlist.add(Channel::P, [&name, "preb", SUPPLY], [x1 - x0, rules.poly_width_nm]);
        let (group, phase) = (bit_line / shape.mux, bit_line % shape.mux);
        let (data, select) = (format!("dl{group}"), format!("sel{phase}"));
        netlist.add(Channel::N, [&data, &select, &name], [mux_width[1] - mux_width[0], rules.poly_width_nm]);
    }
    let width = c.diff_x_nm[1] - c.diff_x_nm[0];
    let length = c.gate_y_nm[1] - c.gate_y_nm[0];
    let array = ArrayShape { word_lines: shape.word_lines, bit_lines: shape.bit_lines };
    let mut first = 0;
    for lines in array.row_groups(process) {
        let nodes = encode::nodes(bits, first as usize, lines as usize);
        for i in 0..lines {
            let word_line = format!("WL{}", first + i);
            for column in 0..shape.bit_lines {
                let bit_line = format!("BL{column}");
                let node = |row: u32| {
                    if nodes.get(row as usize, column as usize) { bit_line.as_str() } else { GROUND }
                };
                netlist.add(Channel::N, [node(i), &word_line, node(i + 1)], [width, length]);
            }
        }
        first += lines;
    }
    netlist
}

/// Ends of the multiplexer's strips, from the first bit line of a group.
pub fn mux_diff_x(process: &Process, mux: u32) -> [Nm; 2] {
    let l = MuxColumns::new(mux);
    let clear = process.logic.poly_pad_nm[0] / 2 + process.rules.poly_space_nm + process.rules.poly_endcap_nm;
    [gap_x(process, l.left) + clear, gap_x(process, l.right) - clear]
}

/// Centre of the gap right of a bit line, where met1 is free below the array.
pub fn gap_x(process: &Process, column: u32) -> Nm {
    let [x0, x1] = process.strap.ground_pad_x_nm;
    Nm::from(column) * process.cell.pitch_x_nm + (x0 + x1) / 2
}

/// Bit lines of a group right of which the multiplexer's vertical lines are.
#[derive(Debug, Clone, Copy)]
pub struct MuxColumns {
    /// Select of the first half.
    pub left: u32,
    /// The data line.
    pub data: u32,
    /// Select of the second half.
    pub right: u32,
}

impl MuxColumns {
    /// For a multiplexer of at least 4.
    pub fn new(mux: u32) -> Self {
        let half = mux / 2;
        MuxColumns {
            left: half.saturating_sub(3),
            data: half.saturating_sub(1),
            right: (half + 1).min(mux.saturating_sub(2)),
        }
    }
}
