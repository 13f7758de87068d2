//! Models in Verilog 2005.

use std::fmt::Write as _;

use crate::bits::BitMatrix;
use crate::macros::Macro;
use crate::macros::netlist::{GROUND, SUPPLY};

/// Names a line.
const NAMES: usize = 12;

impl Macro<'_> {
    /// Address bits.
    pub fn address_bits(&self) -> u32 {
        self.pins().iter().filter(|p| p.starts_with('A')).count() as u32
    }

    fn head(&self, name: &str, parameters: &str) -> String {
        let mut text = format!(
            "module {name}{parameters} (\n`ifdef USE_POWER_PINS\n  inout {SUPPLY}, inout {GROUND},\n`endif\n"
        );
        let pins: Vec<String> = (self.pins().into_iter())
            .filter(|p| p != SUPPLY && p != GROUND)
            .map(|p| if p.starts_with('Q') { format!("output {p}") } else { format!("input {p}") })
            .collect();
        let lines: Vec<String> = pins.chunks(NAMES).map(|c| format!("  {}", c.join(", "))).collect();
        let _ = writeln!(text, "{}\n);", lines.join(",\n"));
        text
    }

    /// The macro as an empty module.
    pub fn verilog_black_box(&self, name: &str) -> String {
        format!("(* blackbox *)\n{}endmodule\n", self.head(name, ""))
    }

    /// A functional model. It reads `CONTENTS`, by default the file `<name>.hex` that [`Macro::contents`] gives.
    ///
    /// While `CLK` and `CE` are high the outputs fall to 0 and after `ACCESS` time units show the bits of the
    /// address; they keep them until the next such phase. Where the address changes in the phase, or it ends before
    /// `ACCESS`, they are unknown. An address past the last word line reads 0.
    pub fn verilog(&self, name: &str) -> String {
        let s = self.0.shape;
        let (outputs, bits) = (s.bit_lines / s.mux, self.address_bits());
        let phase = s.mux.trailing_zeros();
        let mut text = "`timescale 1ns/1ps\n".to_owned();
        text += &self.head(name, &format!(" #(parameter CONTENTS = \"{name}.hex\", parameter ACCESS = 0)"));
        let list = |prefix: char, n: u32| {
            let names: Vec<String> = (0..n).rev().map(|i| format!("{prefix}{i}")).collect();
            let lines: Vec<String> = names.chunks(NAMES).map(|c| c.join(", ")).collect();
            lines.join(",\n    ")
        };
        let _ = write!(
            text,
            "  // One word a word line; bit j is bit line j.\n  \
             reg [{last_line}:0] rom [0:{last_word}];\n  \
             initial $readmemh(CONTENTS, rom);\n  \
             wire [{last_bit}:0] address = {{\n    {address}}};\n  \
             wire read = CLK & CE;\n  \
             reg [{last_out}:0] q;\n  \
             reg valid;\n  \
             integer o;\n  \
             time rise;\n  \
             reg [{last_line}:0] word;\n  \
             wire [{row_last}:0] row = address[{last_bit}:{phase}];\n  \
             wire [{phase_last}:0] column = address[{phase_last}:0];\n  \
             always @(posedge read) begin\n    \
             rise = $time;\n    \
             valid = 1'b1;\n    \
             q = {outputs}'b0;\n    \
             word = row < {words} ? rom[row] : {lines}'b0;\n    \
             if (ACCESS == 0) show; else begin : wait_access\n      \
             #(ACCESS) if (valid) show;\n    \
             end\n  \
             end\n  \
             task show;\n    \
             for (o = 0; o < {outputs}; o = o + 1) q[o] = word[o * {mux} + column];\n  \
             endtask\n  \
             // Too short a phase, or an address that moved.\n  \
             always @(negedge read) if ($time - rise < ACCESS) begin\n    \
             valid = 1'b0;\n    \
             q = {outputs}'bx;\n  \
             end\n  \
             always @(address) if (read && $time != rise) begin\n    \
             valid = 1'b0;\n    \
             q = {outputs}'bx;\n  \
             end\n  \
             assign {{\n    {out}}} = q;\nendmodule\n",
            last_line = s.bit_lines - 1,
            last_word = s.word_lines - 1,
            last_bit = bits - 1,
            address = list('A', bits),
            last_out = outputs - 1,
            row_last = bits - phase - 1,
            phase_last = phase - 1,
            words = s.word_lines,
            lines = s.bit_lines,
            mux = s.mux,
            out = list('Q', outputs),
        );
        text
    }

    /// The bits for the functional model, hexadecimal, one word a word line from the first on; bit j of a word is bit line
    /// j.
    pub fn contents(&self, bits: &BitMatrix) -> String {
        let mut text = String::with_capacity(bits.rows() * (bits.columns() / 4 + 1));
        for row in 0..bits.rows() {
            for digit in (0..bits.columns() / 4).rev() {
                let _ = write!(text, "{:x}", bits.field(row, digit * 4, 4));
            }
            text.push('\n');
        }
        text
    }
}
