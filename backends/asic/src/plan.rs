//! Placement of tiles on dies and emission of `layout.gds` and `layout.oas`.
//!
//! # Cells of the file
//!
//! | cell | holds |
//! |---|---|
//! | `base_...` | macros, or arrays alone, without weights, see [`crate::base`] |
//! | `<tile>_prog` | one reference to a pattern cell for each part of a node row |
//! | `<tile>_rom` | its base and its program, both at the origin |
//! | four characters, the first a digit | patterns: cuts of some columns, see [`crate::patterns`] |
//! | `die<N>` | the boundary and the tiles of a die; the top cells |
//!
//! Only pattern cells that are used are written; they follow the tiles. Two weight sets on one plan differ
//! in `_prog` cells and pattern cells alone, which hold nothing but the cut layer. Both files have the same
//! cells, drawn by the same functions into a [`Sink`], but for the patterns, whose width is the format's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use pfmc_ir::backend::{Emission, Figure, Plan, Progress, Region, TileRecord};
use pfmc_ir::codes::E0001;
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::estimate::{Sheet, Workload};
use pfmc_ir::program::TileProgram;
use pfmc_ir::tile::{TileId, TileKind, TileSource};
use rayon::prelude::*;

use crate::base::{self, Base};
use crate::bits::BitMatrix;
use crate::codes::{E0502, E0504, E0505, E0508};
use crate::die::{self, Lanes, OnDie};
use crate::encode::{self, ArrayShape, Contents};
use crate::estimate;
use crate::oasis::{self, Program};
use crate::patterns::{self, Split, Used, WIDEST};
use crate::pipe::in_order;
use crate::process::{Nm, Process};
use crate::rtl::{MatrixUse, TileRtl};
use crate::sink::Sink;
use crate::stream::{self, Cells, StreamError};

/// Name of the GDSII file.
pub const FILE: &str = "layout.gds";
/// Name of the OASIS file.
pub const OASIS: &str = "layout.oas";
/// Library name in the file.
const LIBRARY: &str = "pfmc";
/// Size of the file buffer.
const BUFFER: usize = 1 << 20;
/// Most tiles that are made before their turn to be written.
const TILES_AHEAD: usize = 8;

/// A tile on its die.
#[derive(Debug, Clone)]
struct Placed {
    tile: TileId,
    contents: Contents,
    /// What the contents take.
    used: ArrayShape,
    /// The array's size, that of its base.
    shape: ArrayShape,
    /// Name of the outline of its lanes.
    lanes: Option<String>,
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
    bases: BTreeMap<ArrayShape, Arc<Base>>,
    /// Outlines of lanes by name.
    lanes: BTreeMap<String, Lanes>,
    /// Pattern cells of the GDSII file.
    split: Split,
    /// Bytes of the bases in GDSII and in OASIS.
    base_bytes: [u64; 2],
    /// Upper bound of the GDSII file's size.
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
                Ok((contents, used)) => {
                    let shape = base::shape(process, used);
                    placed.push(Placed {
                        tile,
                        contents,
                        used,
                        shape,
                        lanes: None,
                        die: 0,
                        at: [0; 2],
                        area: [0; 4],
                    });
                }
                Err(more) => problems.extend(more),
            }
        }
        check_names(program, &mut problems);
        problems.check()?;
        let shapes: BTreeSet<ArrayShape> = placed.iter().map(|p: &Placed| p.shape).collect();
        let drawn: Vec<_> = shapes.into_par_iter().map(|shape| (shape, Base::of(process, shape))).collect();
        let mut bases = BTreeMap::new();
        let mut problems = Diagnostics::new();
        for (shape, base) in drawn {
            match base {
                Ok(base) => {
                    bases.insert(shape, base);
                }
                Err(more) => problems.extend(more),
            }
        }
        problems.check()?;
        let lanes = lanes(process, program, &bases, &mut placed)?;
        let dies = place(process, program, &bases, &lanes, &mut placed)?;
        let split = Split { full: WIDEST, leaf: WIDEST / 2, tail: WIDEST / 2 };
        let mut plan = RomPlan {
            process,
            program,
            placed,
            dies,
            bases,
            lanes,
            split,
            base_bytes: [0; 2],
            bytes_at_most: 0,
        };
        plan.check_power()?;
        plan.split = plan.best_split(|_| 1.0);
        let (mut gds, mut oasis) = (Cells::new(0), oasis::Cells::new(0));
        // What the formats cannot hold comes to light here.
        plan.write_bases(&mut gds).and_then(|()| plan.write_bases(&mut oasis)).map_err(limit)?;
        plan.base_bytes = [gds.into_bytes().len() as u64, oasis.into_bytes().len() as u64];
        plan.bytes_at_most = plan.bound().map_err(limit)?;
        Ok(plan)
    }

    /// The base cells, in order of shape.
    fn write_bases(&self, sink: &mut impl Sink) -> Result<(), StreamError> {
        let mut written = BTreeSet::new();
        self.bases.values().try_for_each(|base| base.write(sink, &mut written))?;
        if self.process.periphery && !self.bases.is_empty() {
            self.lanes.values().try_for_each(|lanes| lanes.write(sink))?;
            die::cells(self.process, self.bases.values().map(|b| &**b)).write(sink, &mut written)?;
        }
        Ok(())
    }

    /// The width of pattern cells with which the GDSII file is smallest: what references cost against what
    /// definitions cost.
    fn best_split(&self, count: impl Fn(&Placed) -> f64) -> Split {
        let bytes = |split| self.pattern_bytes(split, &count);
        let all = (8..=WIDEST).map(|full| Split { full, leaf: full.div_ceil(2), tail: full.div_ceil(2) });
        all.min_by(|&a, &b| bytes(a).total_cmp(&bytes(b))).unwrap_or(self.split)
    }

    /// The plan with the patterns' width for a layout in which tile i is there `counts[i]` times.
    pub(crate) fn with_counts(mut self, counts: &[f64]) -> Self {
        self.split = self.best_split(|p| counts.get(p.tile.index()).copied().unwrap_or(0.0));
        self
    }

    /// Nodes of a tile's column: one more than word lines in each row group.
    fn node_rows(&self, p: &Placed) -> u64 {
        p.shape.row_groups(self.process).map(|g| u64::from(g) + 1).sum()
    }

    /// References to patterns by width, each tile counted as often as `count` says.
    fn references(&self, split: Split, count: impl Fn(&Placed) -> f64) -> [f64; WIDEST + 1] {
        let mut references = [0f64; WIDEST + 1];
        for p in &self.placed {
            let Some(base) = self.bases.get(&p.shape) else { continue };
            let rows = self.node_rows(p) as f64 * count(p);
            for part in base.columns().parts(split) {
                references[part.width] += rows;
            }
        }
        references
    }

    /// Upper bound of the bytes of references to patterns and of the patterns' cells.
    fn pattern_bytes(&self, split: Split, count: impl Fn(&Placed) -> f64) -> f64 {
        let references = self.references(split, count);
        let most = |n: f64, width: usize| n.min((1u64 << width) as f64);
        let bytes = references.iter().sum::<f64>() * stream::sref_bytes(patterns::NAME_LEN) as f64;
        bytes + patterns::cells_bytes(split, references, most)
    }

    /// Upper bound of the GDSII file's size: exact but for the pattern cells, whose number depends on the
    /// weights.
    fn bound(&self) -> Result<u64, StreamError> {
        let mut bytes = self.base_bytes[0] + (stream::head(LIBRARY)?.len() + stream::tail()?.len()) as u64;
        for p in &self.placed {
            let name = self.program.tiles[p.tile.index()].name.len();
            let base = self.bases.get(&p.shape).map_or(0, |b| b.name().len());
            bytes += stream::cell_bytes(name + PROG.len()) + stream::cell_bytes(name + ROM.len());
            bytes += stream::sref_bytes(name + PROG.len()) + stream::sref_bytes(base);
        }
        let mut dies = Cells::new(0);
        self.write_dies(&mut dies)?;
        bytes += dies.into_bytes().len() as u64;
        Ok(bytes + self.pattern_bytes(self.split, |_| 1.0) as u64)
    }

    /// What the tiles come to where tile i is there `counts[i]` times.
    ///
    /// The bytes are those of the files in which a tile's contents are random bits, one tile of each shape written in the
    /// place of all; of the patterns, as many as so many random draws find.
    ///
    /// # Errors
    /// What the formats cannot hold.
    pub(crate) fn totals(&self, counts: &[f64]) -> Result<Totals, StreamError> {
        let count = |p: &Placed| counts.get(p.tile.index()).copied().unwrap_or(0.0);
        let mut t = Totals { macros: self.bases.len() as f64, ..Totals::default() };
        let mut samples: BTreeMap<(ArrayShape, ArrayShape), [f64; 2]> = BTreeMap::new();
        let names = |name: &str| {
            let len = name.len();
            let gds = stream::cell_bytes(len + PROG.len())
                + stream::cell_bytes(len + ROM.len())
                + stream::sref_bytes(len + PROG.len());
            [gds as f64, 3.0 * len as f64]
        };
        for p in &self.placed {
            let (n, name) = (count(p), &self.program.tiles[p.tile.index()].name);
            t.tiles += n;
            t.bits += n * p.used.bits() as f64;
            t.cells += n * p.shape.bits() as f64;
            t.cuts += n * self.node_rows(p) as f64 * f64::from(p.shape.bit_lines);
            let [w, h] = [p.area[2] - p.area[0], p.area[3] - p.area[1]].map(|nm| nm as f64 * 1e-6);
            let lanes = p.lanes.as_ref().and_then(|name| self.lanes.get(name)).map(Lanes::size_mm);
            let lanes = lanes.unwrap_or_default();
            t.lanes_mm2 += n * lanes[0] * lanes[1];
            t.boxes.push((n, [w, h + lanes[1]]));
            let sample = match samples.get(&(p.used, p.shape)) {
                Some(bytes) => *bytes,
                None => {
                    let written = self.cells(p, name, &random_bits(p.used, p.shape), Vec::new())?;
                    let without = names(name);
                    let bytes =
                        [written.gds.len() as f64 - without[0], written.oasis.len() as f64 - without[1]];
                    samples.insert((p.used, p.shape), bytes);
                    bytes
                }
            };
            for (file, more) in names(name).into_iter().enumerate() {
                t.bytes[file] += n * (sample[file] + more);
            }
        }
        let bases = self.base_bytes.map(|b| b as f64);
        let (mut dies, mut dies_o) = (Cells::new(0), oasis::Cells::new(0));
        self.write_dies(&mut dies)?;
        self.write_dies(&mut dies_o)?;
        // Dies grow with their tiles.
        let more = t.tiles / (self.placed.len().max(1)) as f64;
        let references = self.references(self.split, count);
        t.bytes[0] += bases[0]
            + (stream::head(LIBRARY)?.len() + stream::tail()?.len()) as f64
            + more * dies.into_bytes().len() as f64
            + patterns::cells_bytes(self.split, references, patterns::expected);
        let used = patterns::expected_used(&self.references(oasis::SPLIT, count));
        t.bytes[1] += bases[1]
            + (oasis::head().len() + oasis::tail().len() + 4) as f64
            + more * dies_o.into_bytes().len() as f64
            + oasis::write_patterns(self.process, &used)?.len() as f64;
        Ok(t)
    }

    /// Number of dies and their area in mm2.
    pub(crate) fn dies(&self) -> [f64; 2] {
        [self.dies.len() as f64, self.die_area_mm2()]
    }

    /// The program.
    pub(crate) fn program(&self) -> &TileProgram {
        self.program
    }

    /// The process.
    pub(crate) fn process(&self) -> &Process {
        self.process
    }

    fn array_bits(&self) -> u64 {
        self.placed.iter().map(|p| p.used.bits()).sum()
    }

    fn die_area_mm2(&self) -> f64 {
        self.dies.iter().map(|[w, h]| *w as f64 * *h as f64 * 1e-12).sum()
    }

    /// The cells of one tile.
    /// Fills a tile; its bytes may take the memory of `spare`.
    fn tile(&self, placed: &Placed, source: &dyn TileSource, spare: Vec<u8>) -> Result<Written, Diagnostics> {
        let tile = &self.program.tiles[placed.tile.index()];
        let content = source.tile(placed.tile)?;
        let bits = encode::bits(placed.contents, placed.shape, &content, tile)?;
        drop(content);
        self.cells(placed, &tile.name, &bits, spare).map_err(|e| {
            let mut problems = limit(e);
            problems.0.iter_mut().for_each(|d| d.origin.clone_from(&tile.origin));
            problems
        })
    }

    fn cells(
        &self,
        placed: &Placed,
        name: &str,
        bits: &BitMatrix,
        spare: Vec<u8>,
    ) -> Result<Written, StreamError> {
        let Some(base) = self.bases.get(&placed.shape) else { return Ok(Written::default()) };
        let groups = encode::groups(bits, base.row_groups());
        let mut measures = [0u64; 2];
        for (_, nodes) in &groups {
            measures[0] += nodes.rows() as u64 * nodes.columns() as u64;
            measures[1] += nodes.count_ones();
        }
        let prog = format!("{name}{PROG}");
        let mut used = [Used::new(), Used::new()];
        let mut oasis = oasis::Cells::new(0);
        oasis.program(&prog, Program::new(self.process, base.columns(), &groups, &mut used[1]))?;
        self.write_tile(base, name, &prog, &mut oasis)?;
        let mut gds = Cells::reusing(spare, patterns::program_bytes(self.split, measures[0] as usize));
        patterns::program(self.process, self.split, &prog, base.columns(), &groups, &mut used[0], &mut gds)?;
        self.write_tile(base, name, &prog, &mut gds)?;
        Ok(Written { gds: gds.into_bytes(), oasis: oasis.into_bytes(), used, measures })
    }

    /// The cell of a tile.
    fn write_tile(
        &self,
        base: &Base,
        name: &str,
        prog: &str,
        sink: &mut impl Sink,
    ) -> Result<(), StreamError> {
        sink.begin(&format!("{name}{ROM}"))?;
        sink.copy(base.name(), [0, 0])?;
        sink.copy(prog, [0, 0])?;
        sink.end()
    }

    /// The top cells.
    fn write_dies(&self, sink: &mut impl Sink) -> Result<(), StreamError> {
        let mut by_die: Vec<Vec<&Placed>> = vec![Vec::new(); self.dies.len()];
        for p in &self.placed {
            by_die[p.die].push(p);
        }
        for (die, ([w, h], tiles)) in self.dies.iter().zip(by_die).enumerate() {
            sink.begin(&die_name(die))?;
            sink.rectangle(self.process.layers.boundary, [0, 0, *w, *h])?;
            for p in &tiles {
                sink.copy(&format!("{}{ROM}", self.program.tiles[p.tile.index()].name), p.at)?;
                if let Some(lanes) = &p.lanes {
                    sink.copy(lanes, p.at)?;
                }
            }
            if self.process.periphery {
                die::write(self.process, [*w, *h], &self.on_die(&tiles), sink)?;
            }
            sink.end()?;
        }
        Ok(())
    }

    fn on_die(&self, tiles: &[&Placed]) -> Vec<OnDie<'_>> {
        let find = |p: &&Placed| {
            let lanes = p.lanes.as_ref().and_then(|name| self.lanes.get(name));
            Some(OnDie { base: self.bases.get(&p.shape)?, lanes, at: p.at })
        };
        tiles.iter().filter_map(find).collect()
    }

    /// Straps of both nets reach every tile.
    fn check_power(&self) -> Result<(), Diagnostics> {
        let mut problems = Diagnostics::new();
        for (die, [_, height]) in self.dies.iter().enumerate().filter(|_| self.process.periphery) {
            let tiles: Vec<&Placed> = self.placed.iter().filter(|p| p.die == die).collect();
            if let Some(p) =
                die::missed(self.process, *height, &self.on_die(&tiles)).and_then(|i| tiles.get(i))
            {
                let tile = &self.program.tiles[p.tile.index()];
                let text = format!("no met5 strap of a net crosses tile {}", tile.name);
                problems.push(
                    Diagnostic::error(&E0502, text)
                        .at(&tile.origin)
                        .help("make `die.strap_pitch_nm` smaller: straps are of the two nets in turn"),
                );
            }
        }
        problems.check()
    }

    fn write(
        &self,
        source: &dyn TileSource,
        [gds, oas]: [&mut Output; 2],
        progress: &dyn Progress,
    ) -> Result<Vec<TileRecord>, Diagnostics> {
        gds.write(&stream::head(LIBRARY).map_err(limit)?)?;
        oas.write(&oasis::head())?;
        let (mut g, mut o) = (Cells::new(0), oasis::Cells::new(0));
        self.write_bases(&mut g).and_then(|()| self.write_bases(&mut o)).map_err(limit)?;
        gds.write(&g.into_bytes())?;
        oas.write(&o.into_bytes())?;
        let mut used = [Used::new(), Used::new()];
        let mut records = Vec::with_capacity(self.placed.len());
        let tile = |i: usize, spare: Option<(&Placed, Result<Written, Diagnostics>)>| {
            let placed = &self.placed[i];
            let spare = spare.and_then(|(_, written)| Some(written.ok()?.gds)).unwrap_or_default();
            let written = self.tile(placed, source, spare);
            progress.advance(1);
            (placed, written)
        };
        let mut problems = Diagnostics::new();
        let put =
            |(placed, written): &mut (&Placed, Result<Written, Diagnostics>)| -> Result<(), Diagnostics> {
                match written {
                    Err(more) => problems.extend(std::mem::take(more)),
                    // After the first problem the files are of no use.
                    Ok(_) if problems.has_errors() => {}
                    Ok(written) => {
                        gds.write(&written.gds)?;
                        oas.write(&written.oasis)?;
                        used.iter_mut().zip(&written.used).for_each(|(all, more)| all.add(more));
                        records.push(self.record(placed, written.measures));
                    }
                }
                Ok(())
            };
        in_order(self.placed.len(), TILES_AHEAD, tile, put)?;
        problems.check()?;
        let [gds_used, oasis_used] = used;
        let mut cells = Cells::new(0);
        patterns::cells(self.process, self.split, &gds_used, &mut cells).map_err(limit)?;
        gds.write(&cells.into_bytes())?;
        oas.write(&oasis::write_patterns(self.process, &oasis_used).map_err(limit)?)?;
        let (mut g, mut o) = (Cells::new(0), oasis::Cells::new(0));
        self.write_dies(&mut g).and_then(|()| self.write_dies(&mut o)).map_err(limit)?;
        gds.write(&g.into_bytes())?;
        oas.write(&o.into_bytes())?;
        gds.write(&stream::tail().map_err(limit)?)?;
        oas.write(&oasis::tail())?;
        let sum = oas.sum.clone().finalize();
        oas.write(&sum.to_le_bytes())?;
        Ok(records)
    }

    fn record(&self, placed: &Placed, [cuts, bit_line_cuts]: [u64; 2]) -> TileRecord {
        let [x0, y0, x1, y1] = placed.area;
        TileRecord {
            tile: placed.tile,
            region: Region {
                file: FILE.to_owned(),
                name: format!("{}{ROM}", self.program.tiles[placed.tile.index()].name),
                min_nm: [x0, y0, 0],
                max_nm: [x1, y1, 0],
            },
            measures: BTreeMap::from([
                ("bit_line_cuts".to_owned(), bit_line_cuts as f64),
                ("cuts".to_owned(), cuts as f64),
                ("die".to_owned(), placed.die as f64),
            ])
            .into_iter()
            .chain(
                (placed.lanes.as_ref().and_then(|name| self.lanes.get(name)))
                    .map(|lanes| ("lanes_height_nm".to_owned(), (lanes.area[3] - lanes.area[1]) as f64)),
            )
            .collect(),
        }
    }
}

impl Plan for RomPlan<'_> {
    fn figures(&self) -> Vec<Figure> {
        let bits = self.array_bits() as f64;
        let laid_out = self.placed.iter().map(|p| p.shape.bits()).sum::<u64>() as f64;
        let area = self.die_area_mm2();
        let mut figures = vec![
            Figure::new("tiles", self.placed.len() as f64, ""),
            Figure::new("dies", self.dies.len() as f64, ""),
            Figure::new("array bits", bits, "bit"),
            Figure::new("array area", laid_out * self.process.bit_area_nm2() as f64 * 1e-12, "mm2"),
            Figure::new("die area", area, "mm2"),
        ];
        let of = |p: &Placed| self.lanes.get(p.lanes.as_ref()?).map(Lanes::size_mm);
        let lanes: f64 = self.placed.iter().filter_map(of).map(|[w, h]| w * h).sum();
        if lanes > 0.0 {
            figures.push(Figure::new("outlines of lanes", lanes, "mm2"));
        }
        if area > 0.0 {
            figures.push(Figure::new("density", bits / area, "bit/mm2"));
        }
        figures.push(Figure::new("layout.gds at most", self.bytes_at_most as f64, "B"));
        figures
    }

    fn estimate(&self, work: &Workload, sheet: Sheet) -> Result<Sheet, Diagnostics> {
        estimate::planned(self, work, sheet)
    }

    fn emit(
        &self,
        source: &dyn TileSource,
        dir: &Path,
        progress: &dyn Progress,
    ) -> Result<Emission, Diagnostics> {
        progress.begin("write layout", self.placed.len() as u64);
        let mut gds = Output::create(dir, FILE)?;
        let mut oas = Output::create(dir, OASIS)?;
        let tiles = self.write(source, [&mut gds, &mut oas], progress)?;
        let mut figures = Vec::new();
        for output in [gds, oas] {
            let (name, bytes) = output.finish()?;
            figures.push(Figure::new(name, bytes as f64, "B"));
            if self.array_bits() > 0 {
                let share = bytes as f64 / self.array_bits() as f64;
                figures.push(Figure::new(format!("{name} a bit"), share, "B/bit"));
            }
        }
        Ok(Emission { files: vec![FILE.to_owned(), OASIS.to_owned()], tiles, figures, reached: None })
    }
}

/// Sums over the tiles of a plan.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Totals {
    /// Tiles.
    pub tiles: f64,
    /// Bits of contents, and cells of the arrays that hold them.
    pub bits: f64,
    /// Cells of arrays.
    pub cells: f64,
    /// Cuts: one a node.
    pub cuts: f64,
    /// Outlines of lanes.
    pub lanes_mm2: f64,
    /// Tiles with their lanes: how many, width and height in millimetres.
    pub boxes: Vec<(f64, [f64; 2])>,
    /// Bytes of the GDSII and of the OASIS file.
    pub bytes: [f64; 2],
    /// Sizes of macros.
    pub macros: f64,
}

/// Random bits where an array has contents, always the same.
fn random_bits(used: ArrayShape, shape: ArrayShape) -> BitMatrix {
    let mut bits = BitMatrix::new(shape.word_lines as usize, shape.bit_lines as usize);
    let mut state = 1u64;
    for row in 0..used.word_lines as usize {
        for first in (0..used.bit_lines as usize).step_by(8) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let width = 8.min(used.bit_lines as usize - first);
            bits.put(row, first, width, (state >> 56) as u8);
        }
    }
    bits
}

/// Suffix of a tile's cell; the module of its macro in [`crate::rtl`] has the same name.
const ROM: &str = "_rom";
/// Suffix of a tile's program cell.
const PROG: &str = "_prog";

fn die_name(die: usize) -> String {
    format!("die{die}")
}

/// A file, how much went into it and the checksum of that.
struct Output {
    name: &'static str,
    file: BufWriter<File>,
    bytes: u64,
    sum: crc32fast::Hasher,
}

impl Output {
    fn create(dir: &Path, name: &'static str) -> Result<Output, Diagnostics> {
        let file = File::create_new(dir.join(name)).map_err(|e| io_error(name, &e))?;
        let file = BufWriter::with_capacity(BUFFER, file);
        Ok(Output { name, file, bytes: 0, sum: crc32fast::Hasher::new() })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Diagnostics> {
        self.bytes += bytes.len() as u64;
        if self.name == OASIS {
            self.sum.update(bytes);
        }
        self.file.write_all(bytes).map_err(|e| io_error(self.name, &e))
    }

    /// Its name and length.
    fn finish(mut self) -> Result<(&'static str, u64), Diagnostics> {
        self.file.flush().map_err(|e| io_error(self.name, &e))?;
        Ok((self.name, self.bytes))
    }
}

fn io_error(name: &str, e: &std::io::Error) -> Diagnostics {
    Diagnostic::error(&E0001, format!("{name}: {e}")).into()
}

fn limit(e: StreamError) -> Diagnostics {
    let code = if matches!(e, StreamError::Name(_)) { &E0505 } else { &E0508 };
    Diagnostic::error(code, e.to_string()).into()
}

/// The cells of one tile.
#[derive(Default)]
struct Written {
    gds: Vec<u8>,
    oasis: Vec<u8>,
    /// Patterns in use, by file.
    used: [Used; 2],
    /// Cuts, and cuts to the bit line.
    measures: [u64; 2],
}

/// Whether a cell of the layout other than tiles has this name.
fn is_reserved(name: &str) -> bool {
    name.starts_with("base_")
        || name.strip_prefix("die").is_some_and(|r| !r.is_empty() && r.bytes().all(|b| b.is_ascii_digit()))
        || patterns::is_reserved(name)
}

/// Names of tiles and their programs are usable and unique.
fn check_names(program: &TileProgram, problems: &mut Diagnostics) {
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for tile in &program.tiles {
        let mut problem = |message: String| {
            problems.push(Diagnostic::error(&E0505, message).at(&tile.origin));
        };
        for cell in [tile.name.clone(), format!("{}{ROM}", tile.name), format!("{}{PROG}", tile.name)] {
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

/// The outlines of the lanes of all tiles that hold codes, by name.
fn lanes(
    process: &Process,
    program: &TileProgram,
    bases: &BTreeMap<ArrayShape, Arc<Base>>,
    placed: &mut [Placed],
) -> Result<BTreeMap<String, Lanes>, Diagnostics> {
    let mut all = BTreeMap::new();
    let Some(mux) = process.mux() else { return Ok(all) };
    let uses = MatrixUse::all(program);
    for p in placed {
        let matrix = match program.tiles.get(p.tile.index()).map(|t| &t.kind) {
            Some(TileKind::Matrix { matrix, .. }) => matrix.index(),
            _ => continue,
        };
        let (Some(&used), Some(base)) = (uses.get(matrix), bases.get(&p.shape)) else { continue };
        let lanes = Lanes::new(process, base, &TileRtl::new(process, program, p.tile, mux, used)?);
        p.lanes = Some(lanes.name.clone());
        all.entry(lanes.name.clone()).or_insert(lanes);
    }
    Ok(all)
}

/// Puts tiles on shelves, tallest first, shelves on dies; returns the dies' sizes.
fn place(
    process: &Process,
    program: &TileProgram,
    bases: &BTreeMap<ArrayShape, Arc<Base>>,
    lanes: &BTreeMap<String, Lanes>,
    placed: &mut [Placed],
) -> Result<Vec<[Nm; 2]>, Diagnostics> {
    let (gap, edge) = (process.tile.spacing_nm, die::edge(process));
    let reticle = [process.reticle.width_nm, process.reticle.height_nm];
    let mut problems = Diagnostics::new();
    let mut area = 0u64;
    let mut widest = 0;
    // A tile and its lanes.
    let boxes: Vec<[Nm; 4]> = (placed.iter())
        .map(|p| {
            let mut area = bases.get(&p.shape).map_or([0; 4], |b| b.boundary());
            if let Some(lanes) = p.lanes.as_ref().and_then(|name| lanes.get(name)) {
                area[1] = lanes.area[1];
            }
            area
        })
        .collect();
    for (p, b) in placed.iter().zip(&boxes) {
        let size = [b[2] - b[0], b[3] - b[1]];
        if size[0] + 2 * edge > reticle[0] || size[1] + 2 * edge > reticle[1] {
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
    let limit = side.max(widest).min(reticle[0] - 2 * edge) + edge;
    let mut order: Vec<usize> = (0..placed.len()).collect();
    order.sort_by_key(|&i| {
        let b = boxes[i];
        (b[1] - b[3], b[0] - b[2], i)
    });
    let mut dies: Vec<[Nm; 2]> = Vec::new();
    let least = [0, if process.periphery { die::least_height(process) } else { 0 }];
    // The next free place on the shelf, the shelf's bottom and top.
    let (mut x, mut y, mut top) = (Nm::MAX / 2, 0, 0);
    for i in order {
        let b = boxes[i];
        let (w, h) = (b[2] - b[0], b[3] - b[1]);
        if x + w > limit {
            (x, y) = (edge, top + gap);
            if dies.is_empty() || y + h + edge > reticle[1] {
                dies.push(least);
                y = edge;
            }
            top = y + h;
        }
        placed[i].at = [x - b[0], y - b[1]];
        let own = bases.get(&placed[i].shape).map_or(b, |base| base.boundary());
        placed[i].area = [x, y + own[1] - b[1], x + w, y + h];
        placed[i].die = dies.len() - 1;
        if let Some(die) = dies.last_mut() {
            *die = [die[0].max(x + w + edge), die[1].max(y + h + edge)];
        }
        x += w + gap;
    }
    Ok(dies)
}
