//! The files a fab flow reads of a set of macros.
//!
//! For each macro NAME: `NAME.gds`, `NAME.oas`, `NAME_other.oas` (the same macro with every bit inverted, to compare
//! with), `NAME.lef`, `NAME_<corner>.lib`, `NAME.v` (functional, with `NAME.hex`),
//! `NAME_bb.v`, `NAME_bist.v` with `NAME_signature.vh`, `NAME.spice` (transistors, for comparison with the layout),
//! `NAME_path.spice` (the slowest read), `NAME.sdc`, `NAME_pins.csv`. For all: `layers.map`, `layers.lyp`,
//! `weight-layers.txt`, `librelane/config.json` with a design that instantiates every macro, and `README.md`.
//!
//! Reports of checks are not written here: pfmc runs none. `.ci/check-handoff` runs them on the folder and adds `reports/`.

use std::fmt::Write as _;
use std::path::Path;

use pfmc_ir::codes::E0001;
use pfmc_ir::diag::{Diagnostic, Diagnostics};

use crate::bits::BitMatrix;
use crate::macros::netlist::Dialect;
use crate::macros::selftest::yield_without_spares;
use crate::macros::timing::Timing;
use crate::macros::views::{layer_map, layer_properties, weight_layers};
use crate::macros::{Macro, MacroShape};
use crate::process::{Nm, Process};

/// Defects a square centimetre of the yield in the README; an assumption, not a figure of the process.
pub const DEFECTS_CM2: f64 = 0.5;
/// The corner of SDC, the slowest of the timing file: its first.
const SLOWEST: usize = 0;
/// Where the timing file has no corner.
const NOT_MEASURED: &str = "not measured";

/// A macro to hand off.
#[derive(Debug, Clone)]
pub struct Piece {
    /// Name of its cell and modules, at most 27 characters of `[A-Za-z0-9_]`.
    pub name: String,
    /// Size.
    pub shape: MacroShape,
    /// What it holds, `[word line][bit line]`.
    pub bits: BitMatrix,
    /// What that is, for the README.
    pub about: String,
}

/// Writes the files into the existing folder `dir`; the names of all of them, in order of writing. Where `timing` has no
/// corner there are no Liberty files and no constraints.
///
/// # Errors
/// Input/output, sizes that cannot be built, and sizes whose timing was not measured.
pub fn write(
    dir: &Path,
    process: &Process,
    timing: &Timing,
    pieces: &[Piece],
) -> Result<Vec<String>, Diagnostics> {
    let mut out = Folder { dir, names: Vec::new() };
    let slowest = timing.corners.get(SLOWEST).map(|c| c.name.as_str());
    let mut rows = String::new();
    let mut sizes = Vec::new();
    for piece in pieces {
        let name = &piece.name;
        let rom = Macro::new(process, piece.shape)?;
        let outline = rom.outline()?;
        let layout = rom.layout(name)?;
        out.put(&format!("{name}.gds"), &layout.gds(&piece.bits)?)?;
        out.put(&format!("{name}.oas"), &layout.oasis(&piece.bits)?)?;
        out.put(&format!("{name}_other.oas"), &layout.oasis(&piece.bits.complement())?)?;
        out.put(&format!("{name}.lef"), outline.lef(name).as_bytes())?;
        for corner in &timing.corners {
            let text = rom.liberty(name, &outline, timing, &corner.name)?;
            out.put(&format!("{name}_{}.lib", corner.name), text.as_bytes())?;
        }
        out.put(&format!("{name}.v"), rom.verilog(name).as_bytes())?;
        out.put(&format!("{name}.hex"), rom.contents(&piece.bits).as_bytes())?;
        out.put(&format!("{name}_bb.v"), rom.verilog_black_box(name).as_bytes())?;
        out.put(&format!("{name}_bist.v"), rom.verilog_self_test(name).as_bytes())?;
        out.put(&format!("{name}_signature.vh"), rom.signature_header(name, &piece.bits).as_bytes())?;
        out.put(&format!("{name}.spice"), rom.spice(&piece.bits, name, Dialect::Compare).as_bytes())?;
        out.put(&format!("{name}_path.spice"), rom.critical_path(&format!("{name}_path")).as_bytes())?;
        if let Some(slowest) = slowest {
            out.put(&format!("{name}.sdc"), rom.sdc(timing, slowest)?.as_bytes())?;
        }
        out.put(&format!("{name}_pins.csv"), outline.pin_list().as_bytes())?;
        let [width, height] = outline.size_um();
        let times = match slowest {
            Some(slowest) => {
                let read = timing.read(piece.shape, slowest)?;
                let access = read.access_ps.first().copied().unwrap_or(0.0);
                format!("{:.2} / {:.2}", access / 1000.0, read.cycle_ps() / 1000.0)
            }
            None => NOT_MEASURED.to_owned(),
        };
        let _ = writeln!(
            rows,
            "| {name} | {} x {} / {} | {width} x {height} | {times} | {:.4} | {} |",
            piece.shape.word_lines,
            piece.shape.bit_lines,
            piece.shape.mux,
            yield_without_spares(outline.area_um2(), DEFECTS_CM2),
            piece.about
        );
        sizes.push(outline.size);
    }
    out.put("layers.map", layer_map(process).as_bytes())?;
    out.put("layers.lyp", layer_properties(process).as_bytes())?;
    out.put("weight-layers.txt", weight_layers(process).as_bytes())?;
    let folder = out.dir.join("librelane");
    std::fs::create_dir_all(&folder).map_err(|e| failed("make", &folder, &e))?;
    out.put("librelane/top.v", top(process, pieces)?.as_bytes())?;
    out.put("librelane/config.json", librelane(timing, pieces, &sizes).as_bytes())?;
    let readme = include_str!("README.md").replace("@ROWS@\n", &rows);
    let readme = readme
        .replace("@CORNER@", slowest.unwrap_or(NOT_MEASURED))
        .replace("@DEFECTS@", &DEFECTS_CM2.to_string());
    out.put("README.md", readme.as_bytes())?;
    Ok(out.names)
}

struct Folder<'a> {
    dir: &'a Path,
    names: Vec<String>,
}

fn failed(verb: &str, path: &Path, e: &std::io::Error) -> Diagnostics {
    Diagnostic::error(&E0001, format!("cannot {verb} {}: {e}", path.display())).into()
}

impl Folder<'_> {
    fn put(&mut self, name: &str, bytes: &[u8]) -> Result<(), Diagnostics> {
        let path = self.dir.join(name);
        std::fs::write(&path, bytes).map_err(|e| failed("write", &path, &e))?;
        self.names.push(name.to_owned());
        Ok(())
    }
}

/// A design that instantiates each macro once and shares clock and address.
fn top(process: &Process, pieces: &[Piece]) -> Result<String, Diagnostics> {
    let (mut widest, mut ports, mut inside) = (1, String::new(), String::new());
    for (i, piece) in pieces.iter().enumerate() {
        let rom = Macro::new(process, piece.shape)?;
        widest = widest.max(rom.address_bits());
        let _ = write!(ports, ",\n  output [{}:0] q{i}", piece.shape.bit_lines / piece.shape.mux - 1);
        let _ = write!(
            inside,
            "  {} rom{i} (\n`ifdef USE_POWER_PINS\n    .VPWR(VPWR), .VGND(VGND),\n`endif\n    .CLK(clk), .CE(ce)",
            piece.name
        );
        for (n, pin) in rom.pins().iter().filter(|p| p.starts_with(['A', 'Q'])).enumerate() {
            let net = if pin.starts_with('A') { "address".to_owned() } else { format!("q{i}") };
            let _ =
                write!(inside, "{}.{pin}({net}[{}])", if n % 8 == 0 { ",\n    " } else { ", " }, &pin[1..]);
        }
        inside.push_str("\n  );\n");
    }
    Ok(format!(
        "module top (\n`ifdef USE_POWER_PINS\n  inout VPWR, inout VGND,\n`endif\n  input clk, input ce, input [{}:0] address{ports}\n);\n{inside}endmodule\n",
        widest - 1
    ))
}

/// A configuration of LibreLane for `top`: macros in a row, 50 um apart.
fn librelane(timing: &Timing, pieces: &[Piece], sizes: &[[Nm; 2]]) -> String {
    const SPACE_UM: Nm = 50;
    let (mut x, mut tallest, mut macros) = (SPACE_UM, 0, Vec::new());
    for (i, (piece, size)) in pieces.iter().zip(sizes).enumerate() {
        let name = &piece.name;
        // One library a corner of the interconnect's and the transistors' corner as LibreLane names them.
        let libs: Vec<String> = (timing.corners.iter())
            .map(|c| format!("        \"*_{}\": [\"dir::../{name}_{}.lib\"]", c.name, c.name))
            .collect();
        let libs = match libs.as_slice() {
            [] => String::new(),
            libs => format!("\"lib\": {{\n{}\n      }},\n      ", libs.join(",\n")),
        };
        macros.push(format!(
            "    \"{name}\": {{\n      \"gds\": [\"dir::../{name}.gds\"],\n      \"lef\": [\"dir::../{name}.lef\"],\n      \
             \"nl\": [\"dir::../{name}_bb.v\"],\n      \"spice\": [\"dir::../{name}.spice\"],\n      {libs}\"instances\": {{\n        \"rom{i}\": {{ \"location\": [{x}, {SPACE_UM}], \"orientation\": \"N\" }}\n      }}\n    }}",
        ));
        x += (size[0] + 999) / 1000 + SPACE_UM;
        tallest = tallest.max((size[1] + 999) / 1000);
    }
    let period = pieces.iter().filter_map(|p| {
        let slowest = timing.corners.get(SLOWEST)?;
        timing.read(p.shape, &slowest.name).ok().map(|r| r.cycle_ps() / 1000.0)
    });
    let clock = match period.reduce(f64::max) {
        Some(period) => format!("  \"CLOCK_PERIOD\": {:.1},\n", (period * 10.0).ceil() / 10.0),
        None => String::new(),
    };
    let connections: Vec<String> =
        (0..pieces.len()).map(|i| format!("\"rom{i} VPWR VGND VPWR VGND\"")).collect();
    format!(
        "{{\n  \"meta\": {{ \"version\": 2 }},\n  \"DESIGN_NAME\": \"top\",\n  \"VERILOG_FILES\": [\"dir::top.v\"],\n  \
         \"CLOCK_PORT\": \"clk\",\n{clock}  \"FP_SIZING\": \"absolute\",\n  \
         \"DIE_AREA\": [0, 0, {x}, {}],\n  \"PDN_MACRO_CONNECTIONS\": [{}],\n  \"MACROS\": {{\n{}\n  }}\n}}\n",
        tallest + 2 * SPACE_UM,
        connections.join(", "),
        macros.join(",\n")
    )
}

#[cfg(test)]
mod tests;
