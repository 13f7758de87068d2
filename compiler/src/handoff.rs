//! `pfmc handoff`: the files of an output folder's macros, one a shape, holding the first tile of that shape.

use std::collections::BTreeMap;
use std::path::Path;

use pfmc_asic::bits::BitMatrix;
use pfmc_asic::encode::{self, ArrayShape};
use pfmc_asic::handoff::{Piece, write};
use pfmc_asic::macros::MacroShape;
use pfmc_asic::macros::timing::Timing;
use pfmc_asic::process::Process;
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::tile::{TileId, TileSource};

use crate::codes::E0005;
use crate::contents::Reference;
use crate::files::io_error;
use crate::verify::{self, Opened};

/// An output folder of the asic target.
pub struct Asic {
    /// Manifest and program.
    pub opened: Opened,
    /// Process.
    pub process: Process,
    /// Contents of the tiles.
    pub reference: Reference,
}

impl Asic {
    /// Opens a folder.
    ///
    /// # Errors
    /// Another target, or a damaged folder.
    pub fn open(folder: &Path) -> Result<Asic, Diagnostics> {
        let opened = verify::open_of(folder, "asic")?;
        let process = Process::open(&opened.process)?;
        let reference = Reference::open(&opened.program, folder)?;
        Ok(Asic { opened, process, reference })
    }

    /// The macros' shapes, smallest first, each with its first tile.
    ///
    /// # Errors
    /// Tiles that no array holds.
    pub fn shapes(&self) -> Result<BTreeMap<MacroShape, TileId>, Diagnostics> {
        let Some(mux) = self.process.mux() else {
            let text = format!("the folder's process {} has no macros", self.process.name);
            return Err(Diagnostic::error(&E0005, text)
                .help("its process file has no sections of a periphery; compile for sky130 or sky130-via1")
                .into());
        };
        let mut shapes = BTreeMap::new();
        for (id, _) in self.opened.program.tiles() {
            let (_, ArrayShape { word_lines, bit_lines }) =
                encode::contents(&self.process, &self.opened.program, id)?;
            shapes.entry(MacroShape::holding(&self.process, word_lines, bit_lines, mux)).or_insert(id);
        }
        Ok(shapes)
    }
}

/// Writes the files into `out`, which is made; the number of macros and of files.
///
/// # Errors
/// A folder of another target, sizes that cannot be built or were not measured, and input/output.
pub fn handoff(folder: &Path, out: &Path) -> Result<[usize; 2], Diagnostics> {
    let asic = Asic::open(folder)?;
    let shapes = asic.shapes()?;
    let Some(timing) = pfmc_asic::timing(&asic.process.name) else {
        let text = format!("no timing was measured for the folder's process {}", asic.process.name);
        return Err(Diagnostic::error(&E0005, text).help("compile for sky130 or sky130-via1").into());
    };
    let timing = Timing::parse(timing)?;
    let mut pieces = Vec::new();
    for (shape, id) in shapes {
        let Some(tile) = asic.opened.program.tiles.get(id.index()) else { continue };
        let (contents, array) = encode::contents(&asic.process, &asic.opened.program, id)?;
        let held = encode::bits(contents, array, &asic.reference.tile(id)?, tile)?;
        let mut bits = BitMatrix::new(shape.word_lines as usize, shape.bit_lines as usize);
        for row in 0..held.rows() {
            for (to, from) in bits.row_mut(row).iter_mut().zip(held.row(row)) {
                *to = *from;
            }
        }
        let name = format!("rom_{}x{}", shape.word_lines, shape.bit_lines);
        pieces.push(Piece { name, shape, bits, about: format!("tile {}, of {}", tile.name, tile.origin) });
    }
    std::fs::create_dir_all(out).map_err(|e| io_error("create", out, &e))?;
    let files = write(out, &asic.process, &timing, &pieces)?;
    Ok([pieces.len(), files.len()])
}
