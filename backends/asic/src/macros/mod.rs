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
//!   straps  bus, row choosers, word-line drivers   | array, up to 64 word lines a row group,
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
//! Bit lines and ground rails are on met1, straps of word lines and of ground over them on met2. Where the process file has
//! a `[stack]` all of these are a metal higher over the array; below it bit lines go down to met1 through a via, so that
//! precharge, multiplexer and sense circuits are the same.
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
mod build;
pub mod circuit;
mod column;
mod control;
mod critical;
mod decoder;
pub mod draw;
pub mod gate;
pub mod netlist;
mod place;
mod row;
pub mod selftest;
pub mod timing;
pub mod views;

use pfmc_ir::diag::{Diagnostic, Diagnostics};

use crate::bits::BitMatrix;
use crate::codes::{E0505, E0508, E0523};
use crate::columns::Columns;
use crate::encode::ArrayShape;
pub use crate::macros::build::{BuildError, Layout};
use crate::macros::draw::Drawing;
use crate::macros::netlist::Dialect;
use crate::macros::place::Places;
use crate::process::Process;
use crate::stream::StreamError;

/// Size of a macro.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
    /// The size of its array.
    pub fn array(self) -> ArrayShape {
        ArrayShape { word_lines: self.word_lines, bit_lines: self.bit_lines }
    }

    /// The smallest shape with `mux` bit lines to an output that holds so many word lines and bit lines.
    pub fn holding(process: &Process, word_lines: u32, bit_lines: u32, mux: u32) -> Self {
        let up = |n: u32, to: u32| n.div_ceil(to.max(1)).saturating_mul(to);
        let (per_row, segment) = (process.logic.word_lines, process.strap.columns);
        let step = if bit_lines <= segment { SENSE_BIT_LINES } else { segment };
        MacroShape {
            word_lines: up(word_lines, per_row).max(2 * per_row),
            bit_lines: up(bit_lines, step).max(SENSE_BIT_LINES),
            mux,
        }
    }

    /// A shape that can be built.
    ///
    /// # Errors
    /// Every reason why it cannot.
    pub fn check(self, process: &Process) -> Result<(), Diagnostics> {
        let mut problems = Diagnostics::new();
        let mut refuse = |text: String| problems.push(Diagnostic::error(&E0523, text));
        if !process.periphery {
            refuse(format!("process `{}` describes no periphery: arrays are all it has", process.name));
        }
        let (per_row, segment) = (process.logic.word_lines, process.strap.columns);
        if !self.word_lines.is_multiple_of(per_row) || self.word_lines < 2 * per_row || self.word_lines > 512
        {
            refuse(format!(
                "{} word lines: a macro has a multiple of {per_row} from {} to 512",
                self.word_lines,
                2 * per_row
            ));
        }
        if ![8, 16].contains(&self.mux) {
            refuse(format!("{} bit lines to an output: a macro has 8 or 16", self.mux));
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

/// A macro of a process.
#[derive(Clone, Copy)]
pub struct Macro<'a>(Places<'a>);

impl<'a> Macro<'a> {
    /// A macro of a size.
    ///
    /// # Errors
    /// A size that cannot be built, with every reason.
    pub fn new(process: &'a Process, shape: MacroShape) -> Result<Self, Diagnostics> {
        shape.check(process)?;
        Ok(Macro(Places { process, shape }))
    }

    /// Pins in the order of the subcircuit.
    pub fn pins(&self) -> Vec<String> {
        circuit::pins(self.0.process, self.0.shape)
    }

    /// Its layout as cell `name`, for any bits.
    ///
    /// # Errors
    /// A part whose wires find no place.
    pub fn layout(&self, name: &str) -> Result<Layout<'a>, Diagnostics> {
        Ok(self.0.layout(name)?)
    }

    /// The cells of the macro without its program, the last one named `name`, in the array's frame: the left edge of
    /// bit line 0 and the centre of the lowest node.
    ///
    /// # Errors
    /// A part whose wires find no place.
    pub fn draw(&self, name: &str) -> Result<Drawing, Diagnostics> {
        Ok(self.0.draw(name)?)
    }

    /// Where its columns are.
    pub fn columns(&self) -> Columns {
        self.0.columns()
    }

    /// Size.
    pub fn shape(&self) -> MacroShape {
        self.0.shape
    }

    /// The transistors of the macro that holds `bits` as subcircuit `name`.
    pub fn spice(&self, bits: &BitMatrix, name: &str, dialect: Dialect) -> String {
        let process = self.0.process;
        let netlist = circuit::netlist(process, self.0.shape, bits);
        let models = [process.device.nfet.as_str(), process.device.pfet.as_str()];
        netlist.spice(name, &self.pins(), dialect, models, process.logic.diff_end_nm)
    }

    /// The slowest read as subcircuit `name` with pins `CLK`, `Q`, `BL`, `VPWR` and `VGND`: the circuits from the clock to
    /// one output with the wires between them, the farthest cell of the farthest bit line conducting, every other cell
    /// of that bit line leaking, and the gates of the rest of the macro as loads. Capacitances of wires are doubled for
    /// their neighbours.
    pub fn critical_path(&self, name: &str) -> String {
        self.0.critical_path(name)
    }

    /// The way of the address as subcircuit `name` with pins `A`, `SEL`, `ROW`, `VPWR` and `VGND`: from an address pin to the
    /// far end of a select line, and to the choice of the farthest row of word-line drivers. Wires as in
    /// [`Macro::critical_path`].
    pub fn address_path(&self, name: &str) -> String {
        self.0.address_path(name)
    }
}

impl From<BuildError> for Diagnostics {
    fn from(e: BuildError) -> Diagnostics {
        let code = match e {
            BuildError::Wires(_) | BuildError::Outside(_) | BuildError::Bits(..) => &E0523,
            BuildError::Stream(StreamError::Name(_)) => &E0505,
            BuildError::Stream(_) => &E0508,
        };
        Diagnostic::error(code, e.to_string()).into()
    }
}

#[cfg(test)]
mod tests;
