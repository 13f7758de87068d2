//! The compute around the ROMs as register-transfer text: SystemVerilog, of which only what Verilog 2005
//! has is used.
//!
//! # What a tile computes
//!
//! Exactly `acc[n] = sum_g scale[g][n] * sum_{k in g} x[k] * level[k][n]` of [`pfmc_ir::numerics`], in the fewest
//! bits that [`numerics::accumulator_bound`] allows. The unit of a tile leaves it as the 32 bits that the ROM holds;
//! [`requantise`] says how sums of tiles become the next layer's int8.
//!
//! # Order of reads
//!
//! A macro's output o carries bit lines `o M .. (o + 1) M`, one a read; bit j of code (k, n) is on bit line
//! `n b + j`. With g the greatest common divisor of b and M, `b / g` outputs carry `M / g` whole columns: these
//! are a *lane*. Every lane works on one of its columns at a time: `M / g` *sweeps* over all word lines, and in each the `b`
//! reads of a code follow each other. A macro precharges before each read, so that each word line is raised
//! `M b / g` times a vector whatever the order; sweeps outside, rows inside need one accumulator a lane.
//! A scale's bits come least significant first, so that a lane multiplies by adding its group sum where
//! the bit is 1 and moving it up. A uniform code's bits do the same with the activation.
//!
//! # Groups of columns
//!
//! Where a matrix is used by [`Op::FixedGrouped`], each group of its columns has activations of its own. A row's
//! activations of all groups in a tile come together, and every lane takes those of the column that it works on: what is formed of an
//! activation is formed once for each *run* of neighbouring lanes whose columns all belong to one group, and for each lane whose columns
//! do not. Sums, reads and cycles are those of any tile.
//!
//! # Text
//!
//! [`LIBRARY`] is the compute itself, with parameters. [`TileRtl`] gives the parameters of a tile and the module
//! that joins it with its ROM; [`program`] all modules of a program. None of it sees a weight.

pub mod requantise;
mod strips;

use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::numerics;
use pfmc_ir::op::Op;
use pfmc_ir::program::TileProgram;
use pfmc_ir::tile::{Levels, Scheme, TileId, TileKind};

use crate::bits::BitMatrix;
use crate::codes::E0503;
use crate::encode::{self, Contents};
use crate::macros::MacroShape;
use crate::macros::circuit::address_bits;
use crate::process::Process;

/// The modules that all tiles share: name of a file and its text.
pub const LIBRARY: [(&str, &str); 5] = [
    ("pfmc_lane.v", include_str!("lane.v")),
    ("pfmc_activation.v", include_str!("activation.v")),
    ("pfmc_tile.v", include_str!("tile.v")),
    ("pfmc_replay.v", include_str!("replay.v")),
    ("pfmc_requantise.v", include_str!("requantise.v")),
];

/// What a ROM macro does, for simulation.
pub const ROM_MODEL: (&str, &str) = ("pfmc_rom_model.v", include_str!("rom.v"));

/// What a program asks of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatrixUse {
    /// Its columns are looked up.
    pub lookup: bool,
    /// Neighbouring columns that take the same activations: n of a matrix [k, n] where all columns do. Where uses differ, the
    /// largest number that divides all of theirs: a use with larger groups gives several groups the same activations.
    pub group: u32,
}

impl MatrixUse {
    /// Products in which all `n` columns take the same activations.
    pub fn broadcast(n: u32) -> MatrixUse {
        MatrixUse { lookup: false, group: n.max(1) }
    }

    /// The uses of all matrices of a program, by [`MatrixId`].
    pub fn all(program: &TileProgram) -> Vec<MatrixUse> {
        let mut all: Vec<MatrixUse> = program.matrices.iter().map(|m| MatrixUse::broadcast(m.n)).collect();
        program.graph.each(&mut |graph| {
            for (_, node) in graph.nodes() {
                let Some(of) = node.op.matrix().and_then(|m| all.get_mut(m.index())) else { continue };
                match node.op {
                    Op::FixedLookup { .. } => of.lookup = true,
                    Op::FixedGrouped { n, groups, .. } => {
                        let each = n.checked_div(groups).and_then(|each| u32::try_from(each).ok());
                        of.group = gcd(of.group, each.unwrap_or(1)).max(1);
                    }
                    _ => {}
                }
            }
        });
        all
    }
}

/// Shape of a tile's compute and of the ROM macro it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TileRtl {
    k: u32,
    n: u32,
    bits: u32,
    group: u32,
    levels: Levels,
    /// Word lines of the array: codes, scales and the header, which is the last one.
    word_lines: u32,
    header_bits: u32,
    rom: MacroShape,
    group_bits: u32,
    sum_bits: u32,
    lookup: bool,
    /// Groups of columns with activations of their own.
    groups: u32,
    /// Columns of a group, and how many of the first lie before the tile.
    each: u32,
    offset: u32,
}

/// Bits of a two's complement number of a magnitude up to `bound`.
fn signed_bits(bound: u64) -> u32 {
    u64::BITS - bound.leading_zeros() + 1
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A list of Verilog, so many parts a line.
fn lines(parts: Vec<String>, most: usize) -> String {
    parts.chunks(most).map(|line| line.join(", ")).collect::<Vec<_>>().join(",\n        ")
}

impl TileRtl {
    /// The compute of a matrix tile whose ROM has `mux` bit lines to an output, 8 or 16, where its matrix is used so. Its
    /// macro is the smallest that holds the array.
    ///
    /// # Errors
    /// A tile that no array of the process holds, a data tile, and a macro that cannot be built.
    pub fn new(
        process: &Process,
        program: &TileProgram,
        id: TileId,
        mux: u32,
        used: MatrixUse,
    ) -> Result<TileRtl, Diagnostics> {
        let (contents, array) = encode::contents(process, program, id)?;
        let Contents::Codes { k, n, scheme: scheme @ Scheme::Codes { bits, group, levels } } = contents
        else {
            let text = format!("tile {id} holds no codes: there is nothing to multiply with");
            return Err(Diagnostic::error(&E0503, text).into());
        };
        let rom = MacroShape::holding(process, array.word_lines, array.bit_lines, mux);
        rom.check(process)?;
        let group = group.min(k);
        let first = match program.tiles.get(id.index()).map(|t| &t.kind) {
            Some(TileKind::Matrix { n, .. }) => n.start,
            _ => 0,
        };
        let each = used.group.max(1);
        let groups = (first + n - 1) / each - first / each + 1;
        let (each, offset) = if groups == 1 { (n, 0) } else { (each, first % each) };
        let sum_bits = signed_bits(numerics::accumulator_bound(u64::from(k), scheme));
        // The group sum moves up by up to 7 bits.
        let group_sum = numerics::accumulator_bound(u64::from(group), scheme) / 255;
        Ok(TileRtl {
            k,
            n,
            bits: u32::from(bits),
            group,
            levels,
            word_lines: array.word_lines,
            header_bits: scheme.header_bits(),
            rom,
            group_bits: (signed_bits(group_sum) + 7).min(sum_bits),
            sum_bits,
            lookup: used.lookup,
            groups,
            each,
            offset,
        })
    }

    /// Rows: activations a vector.
    pub fn k(&self) -> u32 {
        self.k
    }

    /// Columns: sums a vector.
    pub fn n(&self) -> u32 {
        self.n
    }

    /// Bits of a code.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// What codes stand for.
    pub fn levels(&self) -> Levels {
        self.levels
    }

    /// The macro.
    pub fn rom(&self) -> MacroShape {
        self.rom
    }

    /// Groups of columns with activations of their own: activations a row.
    pub fn groups(&self) -> u32 {
        self.groups
    }

    /// The group of a column of the tile.
    pub fn group_of(&self, column: u32) -> u32 {
        ((self.offset + column) / self.each).min(self.groups - 1)
    }

    /// Runs of neighbouring lanes that take the same activations in every sweep.
    pub fn runs(&self) -> u32 {
        let sweeps = self.sweeps();
        let whole = |lane: u32| self.group_of((lane - 1) * sweeps) == self.group_of((lane + 1) * sweeps - 1);
        (0..self.lanes()).filter(|&lane| lane == 0 || !whole(lane)).count() as u32
    }

    /// Whether lanes choose among products that are formed once for a run, of a codebook; otherwise each has a multiplier. What
    /// takes fewer multipliers.
    pub fn shared(&self) -> bool {
        self.runs() << self.bits <= self.lanes()
    }

    /// Bits of a group sum's register.
    pub fn group_bits(&self) -> u32 {
        self.group_bits
    }

    /// Bits of a sum's register.
    pub fn sum_bits(&self) -> u32 {
        self.sum_bits
    }

    fn divisor(&self) -> u32 {
        gcd(self.bits, self.rom.mux)
    }

    /// Columns of a lane, a power of two; as many sweeps over the word lines does a vector take.
    pub fn sweeps(&self) -> u32 {
        self.rom.mux / self.divisor()
    }

    /// ROM outputs of a lane.
    pub fn lane_outputs(&self) -> u32 {
        self.bits / self.divisor()
    }

    /// Number of lanes.
    pub fn lanes(&self) -> u32 {
        self.n.div_ceil(self.sweeps())
    }

    /// Address bits of the macro.
    pub fn address_bits(&self) -> u32 {
        address_bits(self.rom.mux) + address_bits(self.rom.word_lines)
    }

    /// Reads of a sweep: the code and scale word lines, as many reads each as a code has bits.
    pub fn reads(&self) -> u64 {
        u64::from(self.word_lines - 1) * u64::from(self.bits)
    }

    /// Clock cycles from the first activation to the last sum of a vector, where neither stream waits: a
    /// sweep is its reads, 4 cycles until the lanes are done, and one for each lane's sum to leave.
    pub fn cycles(&self) -> u64 {
        let padding = u64::from(!self.n.is_multiple_of(self.sweeps()));
        u64::from(self.sweeps()) * (self.reads() + 4 + u64::from(self.lanes())) - padding
    }

    /// Clock cycles of the look-up of a column: one sweep, its request, and 4 until another can begin.
    pub fn lookup_cycles(&self) -> u64 {
        self.reads() + 5
    }

    /// Parameters of `pfmc_tile`, as `.NAME(value)` with commas.
    fn parameters(&self) -> String {
        let codebook = self.levels == Levels::Codebook;
        let (product, bus) = match (codebook, self.shared()) {
            (true, true) => (15, 15 << self.bits),
            (true, false) => (15, 8 + (8 << self.bits)),
            (false, _) => (self.bits + 7, self.bits + 7),
        };
        let outputs = self.rom.bit_lines / self.rom.mux;
        let parameters = [
            ("K", self.k),
            ("N", self.n),
            ("BITS", self.bits),
            ("GROUP", self.group),
            ("CODEBOOK", u32::from(codebook)),
            ("HEADER_LINE", self.word_lines - 1),
            ("HEADER_BITS", self.header_bits),
            ("LOG_MUX", address_bits(self.rom.mux)),
            ("OUTPUTS", outputs),
            ("AW", self.address_bits()),
            ("LANES", self.lanes()),
            ("CPL", self.sweeps()),
            ("LOG_CPL", address_bits(self.sweeps())),
            ("OPL", self.lane_outputs()),
            ("SELW", address_bits(self.lane_outputs()).max(1)),
            ("PRODW", product),
            ("BUSW", bus),
            ("GROUPW", self.group_bits),
            ("SUMW", self.sum_bits),
            ("GROUPS", self.groups),
            ("EACH", self.each),
            ("OFFSET", self.offset),
            ("SHARED", u32::from(self.shared())),
            ("LOOKUP", u32::from(self.lookup)),
        ];
        lines(parameters.iter().map(|(name, value)| format!(".{name}({value})")).collect(), 5)
    }

    /// Module `<name>`: the compute and the macro `<name>_rom` that it reads, by the pins of the macro's layout
    /// but for its supplies.
    pub fn module(&self, name: &str) -> String {
        let (aw, outputs) = (self.address_bits(), self.rom.bit_lines / self.rom.mux);
        let joined = |pin: &str, wire: &str, wide: u32| {
            lines((0..wide).map(|i| format!(".{pin}{i}({wire}[{i}])")).collect(), 6)
        };
        format!(
            "// Tile {name}: {} x {}, {} {} of {} bits, groups of {}. {} lanes, {} sweeps a vector, {} cycles{}.\n\
             module {name} (\n    \
                 input wire clk, input wire rst,\n    \
                 input wire x_valid, output wire x_ready, input wire [{}:0] x_data,\n    \
                 output wire y_valid, input wire y_ready, output wire [31:0] y_data, output wire [15:0] y_column,\n    \
                 output wire header_valid, output wire [31:0] unit,\n    \
                 input wire c_valid, output wire c_ready, input wire [15:0] c_column,\n    \
                 output wire l_valid, output wire l_scale, output wire [7:0] l_data\n\
             );\n    \
                 wire rom_ce;\n    \
                 wire [{}:0] rom_a;\n    \
                 wire [{}:0] rom_q;\n    \
                 {name}_rom rom (\n        .CLK(clk), .CE(rom_ce),\n        {},\n        {}\n    );\n    \
                 pfmc_tile #(\n        {}\n    ) compute (\n        \
                     .clk(clk), .rst(rst),\n        \
                     .x_valid(x_valid), .x_ready(x_ready), .x_data(x_data),\n        \
                     .y_valid(y_valid), .y_ready(y_ready), .y_data(y_data), .y_column(y_column),\n        \
                     .header_valid(header_valid), .unit(unit),\n        \
                     .c_valid(c_valid), .c_ready(c_ready), .c_column(c_column),\n        \
                     .l_valid(l_valid), .l_scale(l_scale), .l_data(l_data),\n        \
                     .rom_ce(rom_ce), .rom_a(rom_a), .rom_q(rom_q)\n    );\n\
             endmodule\n",
            self.k,
            self.n,
            if self.levels == Levels::Codebook { "codebook" } else { "uniform" },
            "codes",
            self.bits,
            self.group,
            self.lanes(),
            self.sweeps(),
            self.cycles(),
            match self.groups {
                1 => String::new(),
                groups => format!(", {groups} groups of columns in {} runs of lanes", self.runs()),
            },
            8 * self.groups - 1,
            aw - 1,
            outputs - 1,
            joined("A", "rom_a", aw),
            joined("Q", "rom_q", outputs),
            self.parameters(),
        )
    }

    /// Ports of the macro: address and outputs, one name each.
    fn rom_pins(&self) -> [Vec<String>; 2] {
        let names = |pin: &str, wide: u32| (0..wide).map(|i| format!("{pin}{i}")).collect();
        [names("A", self.address_bits()), names("Q", self.rom.bit_lines / self.rom.mux)]
    }

    /// Head of module `<name>_rom`.
    fn rom_head(&self, name: &str) -> String {
        let [a, q] = self.rom_pins();
        format!(
            "module {name}_rom (\n    input CLK, CE,\n        {},\n    output {}\n);\n",
            lines(a, 16),
            lines(q, 16)
        )
    }

    /// Module `<name>_rom` for simulation: reads `<name>.hex`, which [`TileRtl::hex`] writes.
    pub fn rom_model(&self, name: &str) -> String {
        let [a, q] = self.rom_pins().map(|pins| lines(pins.into_iter().rev().collect(), 16));
        format!(
            "{}    pfmc_rom_model #(\n        \
                 .WORD_LINES({}), .BIT_LINES({}), .LOG_MUX({}), .AW({}), .CONTENTS(\"{name}.hex\")\n    \
             ) model (\n        .CLK(CLK), .CE(CE), .A({{{a}}}),\n        .Q({{{q}}})\n    );\nendmodule\n",
            self.rom_head(name),
            self.rom.word_lines,
            self.rom.bit_lines,
            address_bits(self.rom.mux),
            self.address_bits()
        )
    }

    /// Module `<name>_rom` for synthesis: a black box.
    pub fn rom_black_box(&self, name: &str) -> String {
        format!("(* blackbox *)\n{}endmodule\n", self.rom_head(name))
    }

    /// Contents of the ROM for `$readmemh`: one word line a line, bit line 0 the lowest bit. Bits that the
    /// array lacks and the macro has read 0.
    pub fn hex(&self, bits: &BitMatrix) -> String {
        let digits = self.rom.bit_lines.div_ceil(4) as usize;
        let mut out = String::new();
        for line in 0..self.rom.word_lines as usize {
            for digit in (0..digits).rev() {
                let bit = |i: usize| line < bits.rows() && i < bits.columns() && bits.get(line, i);
                let value = (0..4).fold(0, |v, i| v | u32::from(bit(digit * 4 + i)) << i);
                out.extend(char::from_digit(value, 16));
            }
            out.push('\n');
        }
        out
    }
}

/// The modules of a program's matrices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Modules {
    /// Tiles with codes, in the order of the program.
    pub tiles: Vec<(TileId, String, TileRtl)>,
    /// Files: name and text. [`LIBRARY`], `tiles.v`, `strips.v` and, for synthesis, `roms.v`; for simulation
    /// [`ROM_MODEL`] and `roms_model.v` take the place of the last.
    pub files: Vec<(String, String)>,
}

/// The RTL of all matrices of a program, with ROMs of `mux` bit lines to an output. Tiles have what the uses of their
/// matrix ask for; tiles of the same columns of a matrix are joined with a requantiser to a strip.
///
/// # Errors
/// As [`TileRtl::new`], of all tiles.
pub fn program(process: &Process, program: &TileProgram, mux: u32) -> Result<Modules, Diagnostics> {
    let uses = MatrixUse::all(program);
    let mut problems = Diagnostics::new();
    let mut tiles = Vec::new();
    for (id, tile) in program.tiles() {
        let TileKind::Matrix { matrix, .. } = &tile.kind else { continue };
        let Some(&used) = uses.get(matrix.index()) else { continue };
        match TileRtl::new(process, program, id, mux, used) {
            Ok(rtl) => tiles.push((id, tile.name.clone(), rtl)),
            Err(more) => problems.extend(more),
        }
    }
    problems.check()?;
    let all = |text: &dyn Fn(&TileRtl, &str) -> String| {
        tiles.iter().map(|(_, name, rtl)| text(rtl, name)).collect::<Vec<_>>().join("\n")
    };
    let mut files: Vec<(String, String)> =
        LIBRARY.iter().chain([&ROM_MODEL]).map(|(n, t)| ((*n).to_owned(), (*t).to_owned())).collect();
    files.push(("tiles.v".into(), all(&|rtl, name| rtl.module(name))));
    files.push(("roms_model.v".into(), all(&|rtl, name| rtl.rom_model(name))));
    files.push(("roms.v".into(), all(&|rtl, name| rtl.rom_black_box(name))));
    files.push(("strips.v".into(), strips::all(program, &tiles)));
    Ok(Modules { tiles, files })
}

#[cfg(test)]
mod tests;
