//! Reads `layout.gds` and `layout.oas` back: from the files, the process file and the shapes and schemes of the program
//! to the content of every tile.
//!
//! Nothing of the plan is used. Opening checks what all tiles rest on: the library's structure, that
//! each tile is one base and one program, that each base is the array of its shape with the periphery that the generator
//! draws, and that each tile is placed once. Programs are decoded tile by tile when asked for, straight from the mapped file, so
//! memory does not grow with the model. The other file must hold the same cells and, decoded by the
//! same rules from records of its own, the same bits.

mod base;
mod cuts;
mod dies;
mod format;
mod library;
mod oasis;
pub mod records;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::Path;

use memmap2::Mmap;
use pfmc_ir::backend::{Progress, ReadBack, Region};
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::origin::Origin;
use pfmc_ir::program::TileProgram;
use pfmc_ir::tile::{TileContent, TileId, TileSource};
use rayon::prelude::*;

use crate::bits::BitMatrix;
use crate::codes::{E0510, E0512, E0513, E0520, E0521, E0531};
use crate::process::Process;
use cuts::{Decoded, Findings, Nodes};
use format::{Cell, Format};
use library::{Bytes, Library, StructureId};
use oasis::Oasis;
use records::Element;

/// Name of the artefact.
const FILE: &str = "layout.gds";

/// An opened layout.
pub struct RomReadBack<'a> {
    process: &'a Process,
    program: &'a TileProgram,
    library: Library,
    /// The same layout in the other format.
    oasis: Option<Oasis>,
    /// By tile: its program cell and format.
    tiles: Vec<(StructureId, Format)>,
    /// By tile.
    places: Vec<Option<dies::Place>>,
}

/// A tile's cells.
#[derive(Clone, Copy)]
struct TileCells {
    base: StructureId,
    prog: StructureId,
    format: Format,
}

impl<'a> RomReadBack<'a> {
    /// Opens the layout in `dir`.
    ///
    /// # Errors
    /// Everything that makes a tile unreadable before its cuts are looked at.
    pub fn open(
        process: &'a Process,
        program: &'a TileProgram,
        dir: &Path,
        progress: &dyn Progress,
    ) -> Result<Self, Diagnostics> {
        progress.begin("read layout", 1);
        let (gds, oas) = (map(dir, FILE)?, map(dir, oasis::FILE)?);
        let opened = Self::of_bytes(process, program, gds)?.with_oasis(oas);
        progress.advance(1);
        opened
    }

    /// With the same layout in OASIS, of which all but the programs is compared here.
    fn with_oasis(mut self, bytes: Bytes) -> Result<Self, Diagnostics> {
        let oasis = Oasis::new(bytes)?;
        let progs: BTreeSet<String> = self.program.tiles.iter().map(|t| prog_name(&t.name)).collect();
        oasis.compare(&self.library, &progs)?;
        self.oasis = Some(oasis);
        Ok(self)
    }

    /// Opens a layout.
    fn of_bytes(process: &'a Process, program: &'a TileProgram, bytes: Bytes) -> Result<Self, Diagnostics> {
        let library = Library::new(bytes)?;
        let mut problems = Diagnostics::new();
        let mut cells = Vec::with_capacity(program.tiles.len());
        for (id, _) in program.tiles() {
            match tile_cells(process, program, &library, id) {
                Ok(tile) => cells.push(tile),
                Err(more) => problems.extend(more),
            }
        }
        problems.check()?;
        let shape = |t: &TileCells| (t.base, t.format.array);
        let bases: BTreeMap<_, ()> = cells.iter().map(|t| (shape(t), ())).collect();
        let keys: Vec<_> = bases.into_keys().collect();
        let checked: Vec<_> =
            keys.par_iter().map(|&(base, [w, b])| base::check(&library, base, process, w, b)).collect();
        let mut frames = HashMap::new();
        let mut problems = Diagnostics::new();
        for (key, checked) in keys.into_iter().zip(checked) {
            match checked {
                Ok(frame) => {
                    frames.insert(key, frame);
                }
                Err(more) => problems.extend(more),
            }
        }
        problems.check()?;
        let frame = |tile: usize| cells.get(tile).and_then(|t| frames.get(&shape(t)));
        let places = dies::check(process, program, &library, &frame)?;
        let tiles = cells.into_iter().map(|t| (t.prog, t.format)).collect();
        Ok(RomReadBack { process, program, library, oasis: None, tiles, places })
    }

    /// The bits of a tile's array, `[word line][bit line]`, as the file's cuts say.
    ///
    /// # Errors
    /// A tile that does not exist, and cuts that are not one to each node.
    pub fn bits(&self, id: TileId) -> Result<BitMatrix, Diagnostics> {
        Ok(self.decode(id)?.1.bits)
    }

    fn decode(&self, id: TileId) -> Result<(Format, Decoded), Diagnostics> {
        let (Some(&(prog, format)), Some(tile)) =
            (self.tiles.get(id.index()), self.program.tiles.get(id.index()))
        else {
            return Err(Diagnostic::error(&E0521, format!("tile {id} does not exist")).into());
        };
        let [word_lines, bit_lines] = format.array;
        let nodes = Nodes::new(self.process, word_lines, bit_lines);
        let decoded = cuts::decode(
            |most, found| {
                (self.library.resolve(prog, most, &mut |layer, shape| found(layer, shape)))
                    .map_err(|e| self.library.explain(&format!("tile {}", tile.name), &e))
            },
            nodes,
            &tile.name,
            &tile.origin,
        )?;
        Ok((format, decoded))
    }

    /// Decodes a tile of the OASIS file and compares it with what was decoded of the other.
    fn same_in_oasis(&self, id: TileId, decoded: &Decoded) -> Result<(), Diagnostics> {
        let (Some(oasis), Some(tile)) = (&self.oasis, self.program.tiles.get(id.index())) else {
            return Ok(());
        };
        let (word_lines, bit_lines) = (decoded.bits.rows(), decoded.bits.columns());
        let nodes = Nodes::new(self.process, word_lines, bit_lines);
        let name = format!("{} in {}", tile.name, oasis::FILE);
        let prog = prog_name(&tile.name);
        let other =
            cuts::decode(|most, found| oasis.resolve(&prog, most, found), nodes, &name, &tile.origin)?;
        if other.bits == decoded.bits {
            return Ok(());
        }
        Err(self.files_differ(&tile.name, &tile.origin, &decoded.bits, &other.bits))
    }

    /// Reports bits that the two files have differently.
    fn files_differ(&self, tile: &str, origin: &Origin, gds: &BitMatrix, oasis: &BitMatrix) -> Diagnostics {
        let mut findings = Findings::new();
        for word_line in 0..gds.rows() {
            for bit_line in 0..gds.columns() {
                let [a, b] = [gds, oasis].map(|bits| u8::from(bits.get(word_line, bit_line)));
                if a != b {
                    findings.push(|| {
                        let text = format!(
                            "tile {tile}: word line {word_line}, bit line {bit_line} reads {a} in {FILE} and {b} in {}",
                            oasis::FILE
                        );
                        Diagnostic::error(&E0531, text).at(origin)
                    });
                }
            }
        }
        findings.into_diagnostics()
    }

    /// Source of what a cell belongs to.
    fn origin(&self, id: TileId, format: &Format, cell: Cell) -> Origin {
        let (rows, columns) = match cell {
            Cell::Code(row, column) => (row..row + 1, column..column + 1),
            Cell::Scale(g, column) => (format.group_rows(g), column..column + 1),
            Cell::Byte(i) => (0..1, i..i + 1),
            Cell::Unit | Cell::Entry(_) | Cell::Unused => {
                return self.program.tiles.get(id.index()).map_or_else(Origin::default, |t| t.origin.clone());
            }
        };
        let wide = |r: std::ops::Range<usize>| r.start as u64..r.end as u64;
        self.program.element_origin(id, wide(rows), wide(columns))
    }

    /// Reports every bit that differs; two bits that one moved cut explains are one problem.
    fn differences(
        &self,
        id: TileId,
        format: &Format,
        decoded: &Decoded,
        got: &TileContent,
        want: &TileContent,
    ) -> Diagnostics {
        let [word_lines, bit_lines] = format.array;
        let mut differ = BitMatrix::new(word_lines, bit_lines);
        for word_line in 0..word_lines {
            for bit_line in 0..bit_lines {
                let (cell, bit) = format.cell(word_line, bit_line);
                let want = format.value(want, cell) >> bit & 1 == 1;
                if decoded.bits.get(word_line, bit_line) != want {
                    differ.set(word_line, bit_line);
                }
            }
        }
        let full = self.process.tap_row.word_lines as usize;
        let mut findings = Findings::new();
        for word_line in 0..word_lines {
            for bit_line in 0..bit_lines {
                if !differ.get(word_line, bit_line) {
                    continue;
                }
                let next = word_line + 1;
                let pair = next < word_lines && next % full != 0 && differ.get(next, bit_line);
                if pair {
                    differ.clear(next, bit_line);
                }
                findings.push(|| {
                    self.difference(id, format, got, want, word_line..next + usize::from(pair), bit_line)
                });
            }
        }
        findings.into_diagnostics()
    }

    /// One difference: a bit, or two that share a node.
    fn difference(
        &self,
        id: TileId,
        format: &Format,
        got: &TileContent,
        want: &TileContent,
        word_lines: std::ops::Range<usize>,
        bit_line: usize,
    ) -> Diagnostic {
        let name = self.program.tiles.get(id.index()).map_or("", |t| &t.name);
        let mut origin = Origin::default();
        let mut parts = Vec::new();
        for word_line in word_lines.clone() {
            let (cell, bit) = format.cell(word_line, bit_line);
            let of = self.origin(id, format, cell);
            origin = match (origin.range, of.range) {
                (Some([k0, k1, n0, n1]), Some([a, b, c, d])) => {
                    origin.with_range(k0.min(a)..k1.max(b), n0.min(c)..n1.max(d))
                }
                _ => of,
            };
            let (read, wanted) = (format.value(got, cell), format.value(want, cell));
            let signed = |v: u32| i32::from((v as u8).cast_signed());
            parts.push(match cell {
                Cell::Code(k, n) => format!(
                    "bit {bit} of code ({k}, {n}), which reads {} for {}",
                    signed(read),
                    signed(wanted)
                ),
                Cell::Scale(g, n) => {
                    let rows = format.group_rows(g);
                    format!(
                        "bit {bit} of the scale of rows {}..{}, column {n}, which reads {read} for {wanted}",
                        rows.start, rows.end
                    )
                }
                Cell::Unit => format!(
                    "bit {bit} of the unit, which reads {:e} for {:e}",
                    f32::from_bits(read),
                    f32::from_bits(wanted)
                ),
                Cell::Entry(i) => format!(
                    "bit {bit} of entry {i} of the codebook, which reads {} for {}",
                    signed(read),
                    signed(wanted)
                ),
                Cell::Byte(i) => format!("bit {bit} of byte {i}, which reads {read:#04x} for {wanted:#04x}"),
                Cell::Unused => "a cell that nothing uses, which reads 1 for 0".to_owned(),
            });
        }
        let lines = match word_lines.len() {
            1 => format!("word line {}", word_lines.start),
            _ => format!("word lines {} and {}", word_lines.start, word_lines.end - 1),
        };
        let diagnostic = Diagnostic::error(
            &E0520,
            format!("tile {name}: {lines}, bit line {bit_line}: {}", parts.join("; ")),
        );
        let diagnostic = diagnostic.at(&origin);
        if word_lines.len() == 2 {
            diagnostic.note("both bits share a node: one cut on its other site explains them")
        } else {
            diagnostic
        }
    }
}

impl TileSource for RomReadBack<'_> {
    fn tile(&self, id: TileId) -> Result<TileContent, Diagnostics> {
        let (format, decoded) = self.decode(id)?;
        Ok(format.decode(&decoded.bits).0)
    }
}

impl ReadBack for RomReadBack<'_> {
    fn check(&self, id: TileId, reference: &TileContent) -> Result<BTreeMap<String, f64>, Diagnostics> {
        let (format, decoded) = self.decode(id)?;
        if !format.fits(reference) {
            let tile = &self.program.tiles[id.index()];
            return Err(Diagnostic::error(
                &E0521,
                format!("the reference of tile {} is not of its shape and scheme", tile.name),
            )
            .at(&tile.origin)
            .into());
        }
        let (got, clean) = format.decode(&decoded.bits);
        if !clean || !same(&got, reference) {
            return Err(self.differences(id, &format, &decoded, &got, reference));
        }
        self.same_in_oasis(id, &decoded)?;
        let mut measures = BTreeMap::from([
            ("bit_line_cuts".to_owned(), decoded.bit_line_cuts as f64),
            ("cuts".to_owned(), decoded.cuts as f64),
        ]);
        if let Some(Some(place)) = self.places.get(id.index()) {
            measures.insert("die".to_owned(), f64::from(place.die));
            measures.extend(place.lanes.map(|nm| ("lanes_height_nm".to_owned(), nm as f64)));
        }
        Ok(measures)
    }

    fn region(&self, id: TileId) -> Option<Region> {
        let [x0, y0, x1, y1] = self.places.get(id.index())?.as_ref()?.area;
        Some(Region {
            file: FILE.to_owned(),
            name: rom_name(&self.program.tiles.get(id.index())?.name),
            min_nm: [x0, y0, 0],
            max_nm: [x1, y1, 0],
        })
    }
}

/// Equal bit for bit.
fn same(a: &TileContent, b: &TileContent) -> bool {
    match (a, b) {
        (TileContent::Codes(a), TileContent::Codes(b)) => {
            a.unit.to_bits() == b.unit.to_bits()
                && a.levels == b.levels
                && a.scales == b.scales
                && a.codebook == b.codebook
        }
        (TileContent::Data(a), TileContent::Data(b)) => a == b,
        _ => false,
    }
}

/// Name of a tile's cell.
fn rom_name(tile: &str) -> String {
    format!("{tile}_rom")
}

/// Name of a tile's program cell.
fn prog_name(tile: &str) -> String {
    format!("{tile}_prog")
}

/// Maps a file of the folder.
fn map(dir: &Path, name: &str) -> Result<Bytes, Diagnostics> {
    let failed = |e: std::io::Error| Diagnostics::from(Diagnostic::error(&E0510, format!("{name}: {e}")));
    let file = File::open(dir.join(name)).map_err(failed)?;
    if file.metadata().map_err(failed)?.len() == 0 {
        return Err(Diagnostic::error(&E0510, format!("{name} is empty")).into());
    }
    Ok(Box::new(map_file(&file).map_err(failed)?))
}

#[allow(unsafe_code)]
fn map_file(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the map is read only and private to this process. Its bytes are untrusted: every read is
    // bounds-checked and no value read is kept as a bound for a later unchecked access, so another
    // process that rewrites the file meanwhile can change what is decoded but not break memory safety
    // of the decoder. A file that is cut short while it is mapped ends the process with a signal.
    unsafe { Mmap::map(file) }
}

/// The cells of a tile: exactly one base and its program, both at the origin.
fn tile_cells(
    process: &Process,
    program: &TileProgram,
    library: &Library,
    id: TileId,
) -> Result<TileCells, Diagnostics> {
    let tile = &program.tiles[id.index()];
    let wrong = |code, text: String| {
        Diagnostics::from(Diagnostic::error(code, format!("tile {}: {text}", tile.name)).at(&tile.origin))
    };
    let format = Format::of(process, program, id)
        .ok_or_else(|| wrong(&E0521, "no array of this process holds it".to_owned()))?;
    let find = |name: &str| {
        library.find(name.as_bytes()).ok_or_else(|| wrong(&E0512, format!("cell {name} is not in the file")))
    };
    let cell = find(&rom_name(&tile.name))?;
    let prog_name = prog_name(&tile.name);
    let prog = find(&prog_name)?;
    let mut base = None;
    let mut programs = 0;
    let mut elements = library.elements(cell);
    loop {
        let element = elements.read().map_err(|e| {
            let malformed = library::Unresolved::Malformed(cell, e);
            library.explain(&format!("tile {}", tile.name), &malformed).at(&tile.origin)
        })?;
        match element {
            None => break,
            Some(Element::Copy { name, turn, at: [0, 0], counts: [1, 1], .. }) if turn.is_none() => {
                if name == prog_name.as_bytes() {
                    programs += 1;
                } else if base.replace(find(&String::from_utf8_lossy(name))?).is_some() {
                    return Err(wrong(&E0513, "more than one base".to_owned()));
                }
            }
            Some(Element::Copy { name, .. }) => {
                let name = String::from_utf8_lossy(name);
                return Err(wrong(&E0513, format!("its reference to {name} is moved, turned or repeated")));
            }
            Some(_) => return Err(wrong(&E0513, "it holds shapes of its own".to_owned())),
        }
    }
    match (base, programs) {
        (Some(base), 1) => Ok(TileCells { base, prog, format }),
        (None, _) => Err(wrong(&E0513, "it has no base".to_owned())),
        _ => Err(wrong(&E0513, format!("it has {programs} references to {prog_name}"))),
    }
}

#[cfg(test)]
mod tests;
