//! A writer of OASIS (SEMI P39) for the few records a layout needs.
//!
//! The file has the magic, a START record with empty tables of offsets, the cells, and an END record
//! with a CRC-32 of everything before it. The unit is 1 nm. Cells go by name, pattern cells by number, which
//! a CELLNAME record gives a name; each kind has one compressed block near the end. What a cell holds is
//! one compressed block (CBLOCK) after its CELL record where that is shorter: references and labels, then rectangles, those
//! of a layer and size in a row; places are relative to those of the record of the kind before.
//!
//! # Programs
//!
//! What a tile's program holds, a reference to a pattern cell for each 16 columns of a row of nodes, is
//! nearly all of the file. References go up each 16 columns, so that nearly all are the same seven bytes but for the
//! pattern's number:
//!
//! ```text
//! 17 D0 | number, 3 bytes | y step     y relative to the reference before, x the same
//! ```
//!
//! In deflate a reference is therefore three literals and one match, which [`deflate`] writes directly: 24
//! bits or less for 16 nodes, where a general compressor would search.

pub mod deflate;
mod program;

pub use program::{Program, SPLIT};

use std::io::Write as _;

use deflate::Counts;
use flate2::Compression;
use flate2::write::DeflateEncoder;

use crate::patterns::{self, Pattern, Used};
use crate::process::{Layer, Nm, Process};
use crate::sink::Sink;
use crate::stream::{COPIES_MAX, StreamError, is_name};

/// First bytes of the file.
const MAGIC: &[u8] = b"%SEMI-OASIS\r\n";
/// Bytes of the END record.
const END: usize = 256;
/// Contents shorter than this are not compressed.
const SHORT: usize = 48;

/// Record types.
pub(crate) mod record {
    #![allow(missing_docs)]
    pub const START: u8 = 1;
    pub const END: u8 = 2;
    pub const CELLNAME: u8 = 4;
    pub const CELL_NUMBER: u8 = 13;
    pub const CELL_NAME: u8 = 14;
    pub const RELATIVE: u8 = 16;
    pub const PLACEMENT: u8 = 17;
    pub const TEXT: u8 = 19;
    pub const RECTANGLE: u8 = 20;
    pub const CBLOCK: u8 = 34;
}

/// An unsigned integer: seven bits a byte, lowest first.
pub(crate) fn put_unsigned(out: &mut Vec<u8>, mut v: u64) {
    while v > 0x7f {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// A signed integer: the sign is the lowest bit.
pub(crate) fn put_signed(out: &mut Vec<u8>, v: i64) {
    put_unsigned(out, v.unsigned_abs() << 1 | u64::from(v < 0));
}

fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    put_unsigned(out, text.len() as u64);
    out.extend_from_slice(text);
}

/// The head of the file.
pub fn head() -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.push(record::START);
    put_string(&mut out, b"1.0");
    // 1000 steps a micrometre; the tables' offsets are here and all absent.
    out.push(0);
    put_unsigned(&mut out, 1000);
    out.push(0);
    out.extend_from_slice(&[0; 12]);
    out
}

/// The END record without its last four bytes: the CRC-32 of the file up to there, least significant byte
/// first.
pub fn tail() -> Vec<u8> {
    let mut out = vec![record::END];
    // Its length takes two bytes.
    put_string(&mut out, &[0; END - 8]);
    out.push(1);
    out
}

/// A compressed block of records.
fn block(out: &mut Vec<u8>, records: &[u8]) -> Result<(), StreamError> {
    let failed = |e: std::io::Error| StreamError::Compress(e.to_string());
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(records).map_err(failed)?;
    let packed = encoder.finish().map_err(failed)?;
    put_block(out, records.len(), &packed);
    Ok(())
}

fn put_block(out: &mut Vec<u8>, length: usize, packed: &[u8]) {
    out.extend_from_slice(&[record::CBLOCK, 0]);
    put_unsigned(out, length as u64);
    put_unsigned(out, packed.len() as u64);
    out.extend_from_slice(packed);
}

/// Numbers from here on take three bytes. Those of the full width do.
const THREE_BYTES: u64 = 1 << 14;

/// Number of a pattern's cell. Narrower cells have fewer columns than bits fit into two bytes.
fn number(p: Pattern) -> u64 {
    if p.width == SPLIT.full { THREE_BYTES + u64::from(p.value) } else { u64::from(p.code()) }
}

/// The cells of patterns and of the parts they are made of, with their names.
///
/// # Errors
/// Those of drawing.
pub fn write_patterns(process: &Process, used: &Used) -> Result<Vec<u8>, StreamError> {
    let mut cells = Cells::new(0);
    let used = used.with_parts(SPLIT);
    for p in used.iter() {
        cells.body.push(record::CELLNAME);
        put_string(&mut cells.body, &p.name().0);
        put_unsigned(&mut cells.body, number(p));
    }
    // A record of the full width has 9 bytes, a cell of it 14.
    cells.periodic(9);
    for p in used.iter() {
        cells.body.push(record::CELL_NUMBER);
        put_unsigned(&mut cells.body, number(p));
        patterns::draw(process, SPLIT, p, &mut cells, |cells, part, x| {
            // At the cell's start the place is (0, 0).
            cells.body.extend_from_slice(&[record::PLACEMENT, if x == 0 { 0xc0 } else { 0xe0 }]);
            put_unsigned(&mut cells.body, number(part));
            if x != 0 {
                put_signed(&mut cells.body, x);
            }
            Ok(())
        })?;
        cells.rectangles();
    }
    cells.periodic(14);
    Ok(cells.bytes)
}

/// Writes cells into memory.
pub struct Cells {
    bytes: Vec<u8>,
    /// What the cell holds but for its rectangles.
    body: Vec<u8>,
    /// Layer and datatype, width and height, lower left corner.
    rectangles: Vec<([i16; 2], [Nm; 2], [Nm; 2])>,
    /// Places of the last reference and the last label.
    last: [[Nm; 2]; 2],
    cell: String,
}

impl Cells {
    /// No cells yet.
    pub fn new(capacity: usize) -> Self {
        let bytes = Vec::with_capacity(capacity);
        Cells { bytes, body: Vec::new(), rectangles: Vec::new(), last: [[0; 2]; 2], cell: String::new() }
    }

    /// The cells' bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// A program: a cell whose content is already compressed.
    ///
    /// # Errors
    /// A name that is none.
    pub fn program(&mut self, name: &str, program: Program) -> Result<(), StreamError> {
        self.begin(name)?;
        put_block(&mut self.bytes, program.length, &program.packed);
        Ok(())
    }

    /// Adds the rectangles to what the cell holds. At the cell's start the last place is (0, 0).
    fn rectangles(&mut self) {
        if self.rectangles.is_empty() {
            return;
        }
        self.body.push(record::RELATIVE);
        self.rectangles.sort_unstable();
        let (mut last, mut corner) = (None, [0; 2]);
        for (layer, size, at) in self.rectangles.drain(..) {
            let step = [0, 1].map(|i| at[i] - corner[i]);
            let new = last != Some((layer, size));
            let fields = [(new, 0x63), (step[0] != 0, 0x10), (step[1] != 0, 0x08)];
            let info = fields.into_iter().filter(|f| f.0).fold(0, |info, f| info | f.1);
            self.body.extend_from_slice(&[record::RECTANGLE, info]);
            if new {
                layer.into_iter().for_each(|v| put_unsigned(&mut self.body, u64::from(v.unsigned_abs())));
                size.into_iter().for_each(|v| put_unsigned(&mut self.body, v.unsigned_abs()));
            }
            step.into_iter().filter(|s| *s != 0).for_each(|s| put_signed(&mut self.body, s));
            (last, corner) = (Some((layer, size)), at);
        }
    }

    /// Makes a block of records that are nearly all as those `period` bytes before.
    fn periodic(&mut self, period: usize) {
        if self.body.is_empty() {
            return;
        }
        let mut counts = Counts::default();
        deflate::periodic(&self.body, period, &mut counts);
        let mut writer = deflate::Writer::new(&counts, self.body.len() / 2);
        deflate::periodic(&self.body, period, &mut writer);
        put_block(&mut self.bytes, self.body.len(), &writer.finish());
        self.body.clear();
    }

    fn check(&self, at: [Nm; 2]) -> Result<(), StreamError> {
        for nm in at {
            if i32::try_from(nm).is_err() {
                return Err(StreamError::Coordinate(nm, self.cell.clone()));
            }
        }
        Ok(())
    }

    /// Adds the bytes of a record up to its place, `head`, and how far it is from the last one of its kind.
    fn put_relative(&mut self, kind: usize, head: &[u8], at: [Nm; 2]) {
        if self.body.is_empty() {
            self.body.push(record::RELATIVE);
        }
        self.body.extend_from_slice(head);
        at.into_iter().zip(self.last[kind]).for_each(|(at, last)| put_signed(&mut self.body, at - last));
        self.last[kind] = at;
    }

    fn place(&mut self, name: &str, at: [Nm; 2], repeated: bool) -> Result<(), StreamError> {
        if !is_name(name) {
            return Err(StreamError::Name(name.to_owned()));
        }
        self.check(at)?;
        let mut head = vec![record::PLACEMENT, if repeated { 0xb8 } else { 0xb0 }];
        put_string(&mut head, name.as_bytes());
        self.put_relative(0, &head, at);
        Ok(())
    }
}

impl Sink for Cells {
    fn begin(&mut self, name: &str) -> Result<(), StreamError> {
        if !is_name(name) {
            return Err(StreamError::Name(name.to_owned()));
        }
        name.clone_into(&mut self.cell);
        self.last = [[0; 2]; 2];
        self.bytes.push(record::CELL_NAME);
        put_string(&mut self.bytes, name.as_bytes());
        Ok(())
    }

    fn end(&mut self) -> Result<(), StreamError> {
        self.rectangles();
        if self.body.len() < SHORT {
            self.bytes.append(&mut self.body);
        } else {
            block(&mut self.bytes, &self.body)?;
            self.body.clear();
        }
        Ok(())
    }

    fn rectangle(&mut self, layer: Layer, area: [Nm; 4]) -> Result<(), StreamError> {
        let [x0, y0, x1, y1] = area;
        if x0 >= x1 || y0 >= y1 {
            return Err(StreamError::Rectangle(area, self.cell.clone()));
        }
        self.check([x0, y0])?;
        self.check([x1, y1])?;
        self.rectangles.push(([layer.layer, layer.datatype], [x1 - x0, y1 - y0], [x0, y0]));
        Ok(())
    }

    fn copy(&mut self, name: &str, at: [Nm; 2]) -> Result<(), StreamError> {
        self.place(name, at, false)
    }

    fn copies(
        &mut self,
        name: &str,
        at: [Nm; 2],
        counts: [i64; 2],
        pitch: [Nm; 2],
    ) -> Result<(), StreamError> {
        let [columns, rows] = counts;
        let fits = |n: i64| (1..=COPIES_MAX).contains(&n);
        let (Some(n), true) = (columns.checked_mul(rows), fits(columns) && fits(rows)) else {
            return Err(StreamError::Copies(columns, rows, self.cell.clone()));
        };
        self.check([0, 1].map(|i| at[i].saturating_add(counts[i].saturating_mul(pitch[i]))))?;
        self.place(name, at, n > 1)?;
        let many: Vec<(i64, Nm)> = counts.into_iter().zip(pitch).filter(|c| c.0 > 1).collect();
        // An even grid, along both axes or one. Pitches are not negative.
        match (columns > 1, rows > 1) {
            (true, true) => self.body.push(1),
            (true, false) => self.body.push(2),
            (false, true) => self.body.push(3),
            (false, false) => {}
        }
        for &(n, pitch) in &many {
            if pitch < 0 {
                return Err(StreamError::Coordinate(pitch, self.cell.clone()));
            }
            put_unsigned(&mut self.body, (n - 2).unsigned_abs());
        }
        many.iter().for_each(|&(_, pitch)| put_unsigned(&mut self.body, pitch.unsigned_abs()));
        Ok(())
    }

    fn label(&mut self, layer: Layer, at: [Nm; 2], text: &str) -> Result<(), StreamError> {
        if !(1..=512).contains(&text.len()) || !text.bytes().all(|b| (0x20..0x7f).contains(&b)) {
            return Err(StreamError::Label(text.to_owned(), self.cell.clone()));
        }
        self.check(at)?;
        let mut head = vec![record::TEXT, 0x5b];
        put_string(&mut head, text.as_bytes());
        for v in [layer.layer, layer.datatype] {
            put_unsigned(&mut head, u64::from(v.unsigned_abs()));
        }
        self.put_relative(1, &head, at);
        Ok(())
    }
}
