//! Placement of tiles on dies and emission of `layout.gds`.
//!
//! # Cells of the file
//!
//! | cell | holds |
//! |---|---|
//! | `base_...` | arrays without weights, see [`crate::array`] |
//! | `<tile>_prog` | one reference to a pattern cell for 16 columns of a node row |
//! | `<tile>` | its base and its program, both at the origin |
//! | `p_<4 hex>` | cuts of 16 columns: two `o_` cells. Bit i set: column i is cut to the bit line |
//! | `o_<2 hex>` | cuts of 8 columns |
//! | `n_0`, `n_1` | the cut of one column to ground, to the bit line |
//! | `die<N>` | the boundary and the tiles of a die; the top cells |
//!
//! Columns past the last multiple of 16 use an `o_` cell and then `n_` cells. Only pattern cells that
//! are used are written; they follow the tiles. Two weight sets on one plan differ in `_prog` cells and
//! pattern cells alone, which hold nothing but the cut layer.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use pfmc_ir::backend::{Emission, Figure, Plan, Progress, Region, TileRecord};
use pfmc_ir::codes::E0001;
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::program::TileProgram;
use pfmc_ir::tile::{TileId, TileSource};
use rayon::prelude::*;

use crate::array::Array;
use crate::bits::BitMatrix;
use crate::codes::{E0504, E0505, E0508};
use crate::encode::{self, ArrayShape, Contents};
use crate::process::{Nm, Process};
use crate::stream::{self, Cells, RECTANGLE_BYTES, StreamError};

/// Name of the artefact.
pub const FILE: &str = "layout.gds";
/// Library name in the file.
const LIBRARY: &str = "pfmc";
/// Size of the file buffer.
const BUFFER: usize = 1 << 20;
/// Tiles in flight a thread.
const TILES_A_THREAD: usize = 4;
/// Columns of a pattern cell.
const PATTERN: usize = 16;

/// A tile on its die.
#[derive(Debug, Clone)]
struct Placed {
    tile: TileId,
    contents: Contents,
    shape: ArrayShape,
    /// Index of the die.
    die: usize,
    /// The array's origin on the die.
    at: [Nm; 2],
    /// The tile's boundary on the die.
    area: [Nm; 4],
}

/// Every tile of a program placed.
pub struct RomPlan<'a> {
    process: &'a Process,
    program: &'a TileProgram,
    /// In tile order.
    placed: Vec<Placed>,
    /// Width and height of each die.
    dies: Vec<[Nm; 2]>,
    /// The base cells' bytes, in order of shape.
    bases: Vec<u8>,
    /// Upper bound of the file's size.
    bytes_at_most: u64,
}

impl<'a> RomPlan<'a> {
    /// Places every tile.
    ///
    /// # Errors
    /// Tiles that no array holds, and names that collide.
    pub fn new(process: &'a Process, program: &'a TileProgram) -> Result<Self, Diagnostics> {
        let mut problems = Diagnostics::new();
        let mut placed = Vec::with_capacity(program.tiles.len());
        for (tile, _) in program.tiles() {
            match encode::contents(process, program, tile) {
                Ok((contents, shape)) => {
                    placed.push(Placed { tile, contents, shape, die: 0, at: [0; 2], area: [0; 4] });
                }
                Err(more) => problems.extend(more),
            }
        }
        check_names(program, &mut problems);
        problems.check()?;
        let dies = place(process, program, &mut placed)?;
        let shapes: BTreeSet<ArrayShape> = placed.iter().map(|p| p.shape).collect();
        let mut cells = Cells::new(0);
        let mut written = BTreeSet::new();
        for shape in shapes {
            Array::new(process, shape).write_base(&mut cells, &mut written).map_err(limit)?;
        }
        let bases = cells.into_bytes();
        let mut plan = RomPlan { process, program, placed, dies, bases, bytes_at_most: 0 };
        plan.bytes_at_most = plan.bound().map_err(limit)?;
        Ok(plan)
    }

    /// Upper bound of the file's size: exact but for the pattern cells, whose number depends on the
    /// weights.
    fn bound(&self) -> Result<u64, StreamError> {
        let mut bytes = (stream::head(LIBRARY)?.len() + self.bases.len() + stream::tail()?.len()) as u64;
        let (mut wide, mut narrow) = (0u64, 0u64);
        for p in &self.placed {
            let name = self.program.tiles[p.tile.index()].name.len();
            let columns = p.shape.bit_lines as usize;
            let rows: u64 = p.shape.row_groups(self.process).map(|g| u64::from(g) + 1).sum();
            let (p16, p8, p1) = (columns / PATTERN, columns % PATTERN / 8, columns % 8);
            wide += rows * p16 as u64;
            narrow += rows * (p8 + p1) as u64;
            bytes += rows * p16 as u64 * stream::sref_bytes("p_0000".len())
                + rows * p8 as u64 * stream::sref_bytes("o_00".len())
                + rows * p1 as u64 * stream::sref_bytes("n_0".len());
            let base = Array::new(self.process, p.shape).base_name().len();
            bytes += stream::cell_bytes(name + PROG.len()) + stream::cell_bytes(name);
            bytes +=
                stream::sref_bytes(name + PROG.len()) + stream::sref_bytes(base) + stream::sref_bytes(name);
        }
        let patterns = wide.min(1 << PATTERN);
        bytes += patterns * (stream::cell_bytes("p_0000".len()) + 2 * stream::sref_bytes("o_00".len()));
        let octets = (2 * patterns + narrow).min(256);
        bytes += octets * (stream::cell_bytes("o_00".len()) + 8 * RECTANGLE_BYTES);
        bytes += narrow.min(2) * (stream::cell_bytes("n_0".len()) + RECTANGLE_BYTES);
        for die in 0..self.dies.len() {
            bytes += stream::cell_bytes(die_name(die).len()) + RECTANGLE_BYTES;
        }
        Ok(bytes)
    }

    fn array_bits(&self) -> u64 {
        self.placed.iter().map(|p| p.shape.bits()).sum()
    }

    fn die_area_mm2(&self) -> f64 {
        self.dies.iter().map(|[w, h]| *w as f64 * *h as f64 * 1e-12).sum()
    }

    /// The cells of one tile.
    fn tile(&self, placed: &Placed, source: &dyn TileSource) -> Result<Written, Diagnostics> {
        let tile = &self.program.tiles[placed.tile.index()];
        let content = source.tile(placed.tile)?;
        let bits = encode::bits(placed.contents, placed.shape, &content, tile)?;
        drop(content);
        self.cells(placed, &tile.name, &bits).map_err(|e| {
            let mut problems = limit(e);
            problems.0.iter_mut().for_each(|d| d.origin.clone_from(&tile.origin));
            problems
        })
    }

    fn cells(&self, placed: &Placed, name: &str, bits: &BitMatrix) -> Result<Written, StreamError> {
        let array = Array::new(self.process, placed.shape);
        let cell = &self.process.cell;
        let columns = placed.shape.bit_lines as usize;
        let references = bits.rows() * (columns / PATTERN + columns % PATTERN) + 2;
        let mut cells = Cells::new(references * 32 + 1024);
        let mut used = Patterns::new();
        let mut measures = [0u64; 2];
        let prog = format!("{name}{PROG}");
        let mut pattern = String::with_capacity(8);
        cells.begin(&prog)?;
        for group in array.row_groups() {
            let nodes = encode::nodes(bits, group.first as usize, group.word_lines as usize);
            measures[0] += nodes.rows() as u64 * columns as u64;
            measures[1] += nodes.count_ones();
            for node in 0..nodes.rows() {
                let y = group.y + node as Nm * cell.pitch_y_nm;
                let row = nodes.row(node);
                let mut column = 0;
                while column < columns {
                    let value = row[column / 64] >> (column % 64);
                    let width = Patterns::width(columns - column);
                    used.name(width, value, &mut pattern);
                    cells.copy(&pattern, [column as Nm * cell.pitch_x_nm, y])?;
                    column += width;
                }
            }
        }
        cells.end()?;
        cells.begin(name)?;
        cells.copy(&array.base_name(), [0, 0])?;
        cells.copy(&prog, [0, 0])?;
        cells.end()?;
        Ok(Written { bytes: cells.into_bytes(), used, measures })
    }

    /// The pattern cells in use.
    fn write_patterns(&self, used: &Patterns) -> Result<Vec<u8>, StreamError> {
        let mut cells = Cells::new(0);
        let g = &self.process.cell;
        let mut octets = used.octets;
        let mut name = String::new();
        for pattern in (0..1u64 << PATTERN).filter(|&v| used.wide[(v / 64) as usize] >> (v % 64) & 1 == 1) {
            put_name(&mut name, PATTERN, pattern);
            cells.begin(&name)?;
            for (i, byte) in [pattern & 0xff, pattern >> 8].into_iter().enumerate() {
                octets[(byte / 64) as usize] |= 1 << (byte % 64);
                put_name(&mut name, 8, byte);
                cells.copy(&name, [i as Nm * 8 * g.pitch_x_nm, 0])?;
            }
            cells.end()?;
        }
        let single = (0..2u64).filter(|&v| used.singles[v as usize]).map(|v| (1, v));
        let octets = (0..256u64).filter(|&v| octets[(v / 64) as usize] >> (v % 64) & 1 == 1).map(|v| (8, v));
        for (width, value) in octets.chain(single) {
            put_name(&mut name, width, value);
            cells.begin(&name)?;
            for i in 0..width {
                let [x0, x1] = if value >> i & 1 == 1 { g.cut_bit_line_x_nm } else { g.cut_ground_x_nm };
                let x = i as Nm * g.pitch_x_nm;
                cells.rectangle(self.process.layers.mcon, [x + x0, g.cut_y_nm[0], x + x1, g.cut_y_nm[1]])?;
            }
            cells.end()?;
        }
        Ok(cells.into_bytes())
    }

    /// The top cells.
    fn write_dies(&self) -> Result<Vec<u8>, StreamError> {
        let mut by_die: Vec<Vec<&Placed>> = vec![Vec::new(); self.dies.len()];
        for p in &self.placed {
            by_die[p.die].push(p);
        }
        let mut cells = Cells::new(0);
        for (die, ([w, h], tiles)) in self.dies.iter().zip(by_die).enumerate() {
            cells.begin(&die_name(die))?;
            cells.rectangle(self.process.layers.boundary, [0, 0, *w, *h])?;
            for p in tiles {
                cells.copy(&self.program.tiles[p.tile.index()].name, p.at)?;
            }
            cells.end()?;
        }
        Ok(cells.into_bytes())
    }

    fn write(
        &self,
        source: &dyn TileSource,
        file: &mut Output,
        progress: &dyn Progress,
    ) -> Result<Vec<TileRecord>, Diagnostics> {
        file.write(&stream::head(LIBRARY).map_err(limit)?)?;
        file.write(&self.bases)?;
        let mut used = Patterns::new();
        let mut records = Vec::with_capacity(self.placed.len());
        for window in self.placed.chunks(TILES_A_THREAD * rayon::current_num_threads()) {
            let written: Vec<Result<Written, Diagnostics>> = window
                .par_iter()
                .map(|placed| {
                    let written = self.tile(placed, source);
                    progress.advance(1);
                    written
                })
                .collect();
            let mut problems = Diagnostics::new();
            for (placed, written) in window.iter().zip(written) {
                match written {
                    Err(more) => problems.extend(more),
                    Ok(written) => {
                        file.write(&written.bytes)?;
                        used.add(&written.used);
                        records.push(self.record(placed, written.measures));
                    }
                }
            }
            problems.check()?;
        }
        file.write(&self.write_patterns(&used).map_err(limit)?)?;
        file.write(&self.write_dies().map_err(limit)?)?;
        file.write(&stream::tail().map_err(limit)?)?;
        Ok(records)
    }

    fn record(&self, placed: &Placed, [cuts, bit_line_cuts]: [u64; 2]) -> TileRecord {
        let [x0, y0, x1, y1] = placed.area;
        TileRecord {
            tile: placed.tile,
            region: Region {
                file: FILE.to_owned(),
                name: self.program.tiles[placed.tile.index()].name.clone(),
                min_nm: [x0, y0, 0],
                max_nm: [x1, y1, 0],
            },
            measures: BTreeMap::from([
                ("bit_line_cuts".to_owned(), bit_line_cuts as f64),
                ("cuts".to_owned(), cuts as f64),
                ("die".to_owned(), placed.die as f64),
            ]),
        }
    }
}

impl Plan for RomPlan<'_> {
    fn figures(&self) -> Vec<Figure> {
        let bits = self.array_bits() as f64;
        let area = self.die_area_mm2();
        let mut figures = vec![
            Figure::new("tiles", self.placed.len() as f64, ""),
            Figure::new("dies", self.dies.len() as f64, ""),
            Figure::new("array bits", bits, "bit"),
            Figure::new("array area", bits * self.process.bit_area_nm2() as f64 * 1e-12, "mm2"),
            Figure::new("die area", area, "mm2"),
        ];
        if area > 0.0 {
            figures.push(Figure::new("density", bits / area, "bit/mm2"));
        }
        figures.push(Figure::new("layout.gds at most", self.bytes_at_most as f64, "B"));
        figures
    }

    fn emit(
        &self,
        source: &dyn TileSource,
        dir: &Path,
        progress: &dyn Progress,
    ) -> Result<Emission, Diagnostics> {
        progress.begin("write layout", self.placed.len() as u64);
        let path = dir.join(FILE);
        let failed = |e| io_error(&e);
        let file = File::create_new(path).map_err(failed)?;
        let mut output = Output { file: BufWriter::with_capacity(BUFFER, file), bytes: 0 };
        let tiles = self.write(source, &mut output, progress)?;
        let bytes = output.bytes;
        output.file.flush().map_err(failed)?;
        let mut figures = vec![Figure::new(FILE, bytes as f64, "B")];
        if self.array_bits() > 0 {
            figures.push(Figure::new("layout.gds a bit", bytes as f64 / self.array_bits() as f64, "B/bit"));
        }
        Ok(Emission { files: vec![FILE.to_owned()], tiles, figures })
    }
}

/// Suffix of a tile's program cell.
const PROG: &str = "_prog";

fn die_name(die: usize) -> String {
    format!("die{die}")
}

/// The file and how much went into it.
struct Output {
    file: BufWriter<File>,
    bytes: u64,
}

impl Output {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Diagnostics> {
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|e| io_error(&e))
    }
}

fn io_error(e: &std::io::Error) -> Diagnostics {
    Diagnostic::error(&E0001, format!("{FILE}: {e}")).into()
}

fn limit(e: StreamError) -> Diagnostics {
    let code = if matches!(e, StreamError::Name(_)) { &E0505 } else { &E0508 };
    Diagnostic::error(code, e.to_string()).into()
}

/// The cells of one tile.
struct Written {
    bytes: Vec<u8>,
    used: Patterns,
    /// Cuts, and cuts to the bit line.
    measures: [u64; 2],
}

/// Which pattern cells are in use.
struct Patterns {
    wide: Vec<u64>,
    octets: [u64; 4],
    singles: [bool; 2],
}

impl Patterns {
    fn new() -> Self {
        Patterns { wide: vec![0; (1 << PATTERN) / 64], octets: [0; 4], singles: [false; 2] }
    }

    /// Columns of the widest pattern cell that fits.
    fn width(columns: usize) -> usize {
        match columns {
            PATTERN.. => PATTERN,
            8.. => 8,
            _ => 1,
        }
    }

    /// Name of the cell for the low `width` bits of `value`, which is in use from now on.
    fn name(&mut self, width: usize, value: u64, name: &mut String) {
        let value = value & ((1 << width) - 1);
        match width {
            PATTERN => self.wide[(value / 64) as usize] |= 1 << (value % 64),
            8 => self.octets[(value / 64) as usize] |= 1 << (value % 64),
            _ => self.singles[usize::from(value == 1)] = true,
        }
        put_name(name, width, value);
    }

    fn add(&mut self, other: &Patterns) {
        self.wide.iter_mut().zip(&other.wide).for_each(|(a, b)| *a |= b);
        self.octets.iter_mut().zip(&other.octets).for_each(|(a, b)| *a |= b);
        self.singles.iter_mut().zip(&other.singles).for_each(|(a, b)| *a |= b);
    }
}

/// Name of the pattern cell of `width` columns.
fn put_name(name: &mut String, width: usize, value: u64) {
    name.clear();
    let (prefix, digits) = match width {
        PATTERN => ("p_", 4),
        8 => ("o_", 2),
        _ => ("n_", 1),
    };
    name.push_str(prefix);
    for digit in (0..digits).rev() {
        let digit = (value >> (4 * digit) & 0xf) as u32;
        name.extend(char::from_digit(digit, 16));
    }
}

/// Whether a cell of the layout other than tiles has this name.
fn is_reserved(name: &str) -> bool {
    let digits =
        |rest: &str, length: usize| rest.len() == length && rest.bytes().all(|b| b.is_ascii_hexdigit());
    name.starts_with("base_")
        || name.strip_prefix("die").is_some_and(|r| !r.is_empty() && r.bytes().all(|b| b.is_ascii_digit()))
        || name.strip_prefix("p_").is_some_and(|r| digits(r, 4))
        || name.strip_prefix("o_").is_some_and(|r| digits(r, 2))
        || name.strip_prefix("n_").is_some_and(|r| digits(r, 1))
}

/// Names of tiles and their programs are usable and unique.
fn check_names(program: &TileProgram, problems: &mut Diagnostics) {
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for tile in &program.tiles {
        let mut problem = |message: String| {
            problems.push(Diagnostic::error(&E0505, message).at(&tile.origin));
        };
        for cell in [tile.name.clone(), format!("{}{PROG}", tile.name)] {
            if !stream::is_name(&cell) {
                let mut message = String::new();
                let _ = write!(
                    message,
                    "cell name {cell:?} of tile {:?} is not 1 to {} characters of A-Z, a-z, 0-9 and underscore",
                    tile.name,
                    stream::NAME_MAX
                );
                problem(message);
                break;
            }
            if is_reserved(&cell) {
                problem(format!("tile name {:?} is the name of a cell the layout makes itself", tile.name));
                break;
            }
            if let Some(other) = seen.insert(cell.clone(), &tile.name) {
                problem(format!("tiles {other:?} and {:?} both need the cell name {cell:?}", tile.name));
                break;
            }
        }
    }
}

/// Puts tiles on shelves, tallest first, shelves on dies; returns the dies' sizes.
fn place(
    process: &Process,
    program: &TileProgram,
    placed: &mut [Placed],
) -> Result<Vec<[Nm; 2]>, Diagnostics> {
    let gap = process.tile.spacing_nm;
    let reticle = [process.reticle.width_nm, process.reticle.height_nm];
    let mut problems = Diagnostics::new();
    let mut area = 0u64;
    let mut widest = 0;
    let boxes: Vec<[Nm; 4]> = placed.iter().map(|p| Array::new(process, p.shape).boundary()).collect();
    for (p, b) in placed.iter().zip(&boxes) {
        let size = [b[2] - b[0], b[3] - b[1]];
        if size[0] + 2 * gap > reticle[0] || size[1] + 2 * gap > reticle[1] {
            let tile = &program.tiles[p.tile.index()];
            problems.push(
                Diagnostic::error(
                    &E0504,
                    format!("tile {} is {} nm x {} nm, larger than a die", tile.name, size[0], size[1]),
                )
                .at(&tile.origin),
            );
        }
        widest = widest.max(size[0]);
        let [w, h] = size.map(|s| (s + gap).unsigned_abs());
        area = area.saturating_add(w.saturating_mul(h));
    }
    problems.check()?;
    let side = Nm::try_from(area.isqrt()).unwrap_or(Nm::MAX);
    let limit = side.max(widest).min(reticle[0] - 2 * gap) + gap;
    let mut order: Vec<usize> = (0..placed.len()).collect();
    order.sort_by_key(|&i| {
        let b = boxes[i];
        (b[1] - b[3], b[0] - b[2], i)
    });
    let mut dies: Vec<[Nm; 2]> = Vec::new();
    // The next free place on the shelf, the shelf's bottom and top.
    let (mut x, mut y, mut top) = (Nm::MAX / 2, 0, 0);
    for i in order {
        let b = boxes[i];
        let (w, h) = (b[2] - b[0], b[3] - b[1]);
        if x + w > limit {
            (x, y) = (gap, top + gap);
            if dies.is_empty() || y + h + gap > reticle[1] {
                dies.push([0, 0]);
                y = gap;
            }
            top = y + h;
        }
        placed[i].at = [x - b[0], y - b[1]];
        placed[i].area = [x, y, x + w, y + h];
        placed[i].die = dies.len() - 1;
        if let Some(die) = dies.last_mut() {
            *die = [die[0].max(x + w + gap), die[1].max(y + h + gap)];
        }
        x += w + gap;
    }
    Ok(dies)
}
