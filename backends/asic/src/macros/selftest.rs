//! Self-test of a macro's contents: a signature over a full read, and the yield without spare columns.
//!
//! The register has 32 bits and steps once for every 32 outputs of a read (the last step takes what is left),
//! addresses ascending from 0: `s = (s << 1) ^ (s[31] ? 0x04C11DB7 : 0) ^ outputs`, from all ones. The polynomial is
//! that of CRC-32 (IEEE 802.3), which is primitive: an error in the outputs of one read is always found, others go
//! unseen with a chance of 2^-32. The expected value depends on the weights, the circuit does not.
//!
//! A macro has no spare columns or rows: every defect that changes a bit is a bad macro.

use std::fmt::Write as _;

use crate::bits::BitMatrix;
use crate::macros::Macro;

/// CRC-32.
const POLYNOMIAL: u32 = 0x04c1_1db7;

/// Signature of the contents, `[word line][bit line]`, with `mux` bit lines to an output.
pub fn signature(bits: &BitMatrix, mux: usize) -> u32 {
    let outputs = bits.columns() / mux.max(1);
    let mut state = u32::MAX;
    for word_line in 0..bits.rows() {
        for phase in 0..mux {
            for first in (0..outputs).step_by(32) {
                let mut word = 0;
                for o in first..(first + 32).min(outputs) {
                    word |= u32::from(bits.get(word_line, o * mux + phase)) << (o - first);
                }
                let carry = if state >> 31 == 1 { POLYNOMIAL } else { 0 };
                state = (state << 1) ^ carry ^ word;
            }
        }
    }
    state
}

/// Share of macros without a defect by Poisson's law: `exp(-area x density)`, with `defects_cm2` defects a square
/// centimetre that matter.
pub fn yield_without_spares(area_um2: f64, defects_cm2: f64) -> f64 {
    (-area_um2 * 1e-8 * defects_cm2).exp()
}

impl Macro<'_> {
    /// The self-test of macro `name` as Verilog module `<name>_bist`: it instantiates the macro, reads all of it once
    /// while `start` is high, and then shows `done` and whether the signature is `expected`. A read takes three cycles of
    /// `clk`: the macro's clock rises and falls, the signature takes the outputs and the address moves on. So the address is
    /// stable a cycle before the rise and a cycle after the fall; a cycle is not shorter than the macro's phases.
    pub fn verilog_self_test(&self, name: &str) -> String {
        let shape = self.0.shape;
        let (outputs, bits) = (shape.bit_lines / shape.mux, self.address_bits());
        let last = u64::from(shape.word_lines) * u64::from(shape.mux) - 1;
        let mut ports = String::new();
        for (i, pin) in self.pins().iter().filter(|p| p.starts_with(['A', 'Q'])).enumerate() {
            let net = if pin.starts_with('A') { "address" } else { "q" };
            let _ =
                write!(ports, "{}.{pin}({net}[{}])", if i % 8 == 0 { ",\n    " } else { ", " }, &pin[1..]);
        }
        let steps = outputs.div_ceil(32);
        format!(
            "`timescale 1ns/1ps\nmodule {name}_bist (\n  input clk, input start, input [31:0] expected,\n  \
             output [{o}:0] q, output reg done, output good\n);\n  \
             reg [{a}:0] address;\n  reg [31:0] state;\n  reg [1:0] phase;\n  reg rom_clk;\n  \
             {name} rom (.CLK(rom_clk), .CE(1'b1){ports});\n  \
             wire [{p}:0] padded = {{{{{pad}{{1'b0}}}}, q}};\n  \
             reg [31:0] next;\n  integer i;\n  \
             always @* begin\n    next = state;\n    \
             for (i = 0; i < {steps}; i = i + 1)\n      \
             next = {{next[30:0], 1'b0}} ^ (next[31] ? 32'h{POLYNOMIAL:08x} : 32'h0) ^ padded[i * 32 +: 32];\n  end\n  \
             always @(posedge clk)\n    \
             if (!start) begin\n      address <= {bits}'d0;\n      state <= 32'hffffffff;\n      phase <= 2'd0;\n      \
             rom_clk <= 1'b0;\n      done <= 1'b0;\n    \
             end else if (!done) case (phase)\n      \
             2'd0: begin rom_clk <= 1'b1; phase <= 2'd1; end\n      \
             2'd1: begin rom_clk <= 1'b0; phase <= 2'd2; end\n      \
             default: begin\n        state <= next;\n        phase <= 2'd0;\n        \
             if (address == {bits}'d{last}) done <= 1'b1; else address <= address + 1'b1;\n      end\n    endcase\n  \
             assign good = done && state == expected;\nendmodule\n",
            o = outputs - 1,
            a = bits - 1,
            p = steps * 32 - 1,
            pad = (steps * 32 - outputs).max(1),
        )
    }

    /// The contents' signature as a Verilog macro for `<name>_bist`.
    pub fn signature_header(&self, name: &str, bits: &BitMatrix) -> String {
        let value = signature(bits, self.0.shape.mux as usize);
        format!("`define {}_SIGNATURE 32'h{value:08x}\n", name.to_uppercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_a_crc_without_reflection() {
        // One read of 32 outputs, all 0, from all ones: a shift and the polynomial.
        assert_eq!(signature(&BitMatrix::new(1, 32), 1), 0xffff_fffe ^ POLYNOMIAL);
        // Steps are linear: a bit in the last read shows as itself.
        let mut bits = BitMatrix::new(16, 64);
        let clean = signature(&bits, 16);
        bits.set(15, 2 * 16 + 15);
        assert_eq!(signature(&bits, 16) ^ clean, 1 << 2);
    }

    #[test]
    fn every_single_bit_changes_the_signature() {
        let clean = signature(&BitMatrix::new(16, 64), 16);
        for i in 0..16 * 64 {
            let mut bits = BitMatrix::new(16, 64);
            bits.set(i / 64, i % 64);
            assert_ne!(signature(&bits, 16), clean, "bit {i}");
        }
    }

    #[test]
    fn yield_follows_poisson() {
        // exp(-1/2): half a defect a macro of 1 cm2.
        assert!((yield_without_spares(1e8, 0.5) - 0.606_530_66).abs() < 1e-8);
        assert_eq!(yield_without_spares(0.0, 1.0), 1.0);
    }
}
