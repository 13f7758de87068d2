//! ROM macros: an array with the periphery that reads it.
//!
//! # Shape
//!
//! A macro has R word lines and C bit lines, of which groups of M neighbours share an output. A read
//! gives C / M bits: output o shows bit line o M + j of word line i at address `i M + j`.
//!
//! # Pins
//!
//! | pin | meaning |
//! |---|---|
//! | `CLK` | low: precharge. High: read |
//! | `CE` | reads where high; stable while `CLK` is high |
//! | `A0`.. | address; stable while `CLK` is high. The lowest bits choose the bit line of a group |
//! | `Q0`.. | data, from the access time after the rise of `CLK` to the next rise |
//! | `VPWR`, `VGND` | met4 straps |
//!
//! # Floorplan
//!
//! ```text
//!   straps  bus, row choosers, word-line drivers   | array, 64 word lines a row group,
//!   of      one row of logic for 8 word lines      | straps of word lines every 64 columns
//!   power   ---------------------------------------+------------------------------------
//!           clock, enables, predecoders            | precharge (2 rows, 2 columns wide)
//!           rows of logic, met3 over them          | multiplexer (M / 2 pairs)
//!                                                  | sense and latch, rows of logic
//! ```
//!
//! A row of logic is as high as 8 word lines, so a decoder row drives the word lines beside it and its
//! met1 tracks have the heights of word lines. Word lines leave on met2. Lines of predecoded address run
//! upwards on met4, select, precharge and enable lines along the columns on met3. All leaf cells are drawn
//! here, from the process file: standard cells are 2.72 um high, which fits no whole number of word lines,
//! and their geometry would have to be fetched.
//!
//! # Circuits and timing
//!
//! `ck = CLK & CE`. Precharge is off while `ck | wld`; word lines may rise when `ck` is high and the *far*
//! end of the precharge line is (`wlen`), so no cell fights precharge; `wld` is `wlen` delayed, so
//! precharge begins after the word lines began to fall. A word line is `row & low`: `low` is decoded from
//! three address bits and `wlen`, `row` from two groups of predecoded bits. The bit lines are precharged
//! high by one p-channel transistor each; one n-channel transistor joins the selected one to the data line, which
//! is precharged too and held by a weak keeper against leakage. Its inverter feeds a latch that is open
//! while `ck` is high; the latch closes two gates after the fall of `ck`, precharge begins later. A cell that conducts
//! pulls both lines low and the output reads 1.

mod array;
pub mod build;
pub mod circuit;
mod column;
mod control;
mod decoder;
pub mod draw;
pub mod gate;
pub mod netlist;
pub mod place;
pub mod row;

use pfmc_ir::diag::{Diagnostic, Diagnostics};

use crate::codes::E0523;
use crate::process::Process;

/// Size of a macro.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MacroShape {
    /// Word lines.
    pub word_lines: u32,
    /// Bit lines.
    pub bit_lines: u32,
    /// Bit lines that share an output.
    pub mux: u32,
}

/// Bit lines whose width a sense circuit takes.
pub const SENSE_BIT_LINES: u32 = 16;

impl MacroShape {
    /// A shape that can be built.
    ///
    /// # Errors
    /// Every reason why it cannot.
    pub fn check(self, process: &Process) -> Result<(), Diagnostics> {
        let mut problems = Diagnostics::new();
        let mut refuse = |text: String| problems.push(Diagnostic::error(&E0523, text));
        let (per_row, segment) = (process.logic.word_lines, process.strap.columns);
        if !self.word_lines.is_multiple_of(per_row) || self.word_lines < 2 * per_row || self.word_lines > 512 {
            refuse(format!("{} word lines: a macro has a multiple of {per_row} from {} to 512", self.word_lines, 2 * per_row));
        }
        if ![4, 8, 16].contains(&self.mux) {
            refuse(format!("{} bit lines to an output: a macro has 4, 8 or 16", self.mux));
        }
        let whole = self.bit_lines.is_multiple_of(SENSE_BIT_LINES)
            && (self.bit_lines <= segment || self.bit_lines.is_multiple_of(segment));
        if !whole || !(SENSE_BIT_LINES..=4096).contains(&self.bit_lines) {
            refuse(format!(
                "{} bit lines: a macro has a multiple of {SENSE_BIT_LINES} up to {segment} or a multiple of \
                 {segment} up to 4096",
                self.bit_lines
            ));
        }
        problems.check()
    }
}
