//! Reads `layout.oas` and compares it with what was read of `layout.gds`.
//!
//! Nothing of the writer is used. Of the format it reads what a layout of this backend needs: cells by
//! name, pattern cells by number in compressed blocks of their own, labels with all fields, rectangles with all or those of the one
//! before, references with even repetitions, relative places. Anything else is an error. Cells but
//! programs are compared element by element when the file is opened; programs when a tile is decoded.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::ops::Range;

use flate2::read::DeflateDecoder;
use pfmc_ir::diag::{Code, Diagnostic, Diagnostics};

use super::library::{Bytes, Library, Shape, Unresolved};
use super::records::{Element, Turn};
use crate::codes::{E0530, E0531};

/// Name of the file.
pub const FILE: &str = "layout.oas";
/// Largest block that is unpacked.
const LARGEST: u64 = 1 << 30;
/// Numbers of pattern cells are below this.
const NUMBERS: usize = 1 << 20;
/// Most shapes of a pattern cell.
const KEPT: usize = 64;
/// Length of the record that ends the file.
const END: usize = 256;

/// What is wrong, in words.
type Wrong = String;

/// Bytes of records and a place in them.
struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn byte(&mut self) -> Result<u8, Wrong> {
        let byte = self.bytes.get(self.at).copied().ok_or("the records end too early")?;
        self.at += 1;
        Ok(byte)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Wrong> {
        let end = usize::try_from(length).ok().and_then(|n| self.at.checked_add(n));
        let taken =
            end.and_then(|end| self.bytes.get(self.at..end)).ok_or("a text or block ends too early")?;
        self.at += taken.len();
        Ok(taken)
    }

    fn unsigned(&mut self) -> Result<u64, Wrong> {
        let mut value = 0u64;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number has more than 63 bits".to_owned())
    }

    /// A coordinate: at most 32 bits.
    fn signed(&mut self) -> Result<i64, Wrong> {
        let v = self.unsigned()?;
        let size = i64::try_from(v >> 1).unwrap_or(i64::MAX);
        let value = if v & 1 == 1 { -size } else { size };
        i32::try_from(value).map(i64::from).map_err(|_| format!("coordinate {value} has more than 32 bits"))
    }

    fn length(&mut self) -> Result<i64, Wrong> {
        let v = self.unsigned()?;
        i32::try_from(v).map(i64::from).map_err(|_| format!("length {v} has more than 31 bits"))
    }

    fn text(&mut self) -> Result<&'a [u8], Wrong> {
        let length = self.unsigned()?;
        self.take(length)
    }

    fn layer(&mut self) -> Result<[i16; 2], Wrong> {
        let mut one = || {
            let v = self.unsigned()?;
            i16::try_from(v).map_err(|_| format!("{v} is no layer or datatype of GDSII"))
        };
        Ok([one()?, one()?])
    }

    /// A compressed block after its first byte: its records' length and its packed bytes.
    fn block(&mut self) -> Result<(u64, Range<usize>), Wrong> {
        if self.unsigned()? != 0 {
            return Err("a block is not packed with deflate".to_owned());
        }
        let (length, packed) = (self.unsigned()?, self.unsigned()?);
        let start = self.at;
        self.take(packed)?;
        Ok((length, start..self.at))
    }
}

/// What a reference refers to.
enum Target<'a> {
    Name(&'a [u8]),
    Number(u64),
}

/// One record of a cell.
enum Item<'a> {
    /// A rectangle, a label, or a reference by name.
    Element(Element<'a>),
    /// A reference to a pattern cell.
    Pattern(u64, [i64; 2]),
}

/// Records of one cell in order, with what one takes over from the one before.
#[derive(Default)]
struct Reader {
    relative: bool,
    /// Of references, labels and rectangles.
    at: [[i64; 2]; 3],
    /// Layer and size of rectangles.
    shape: Option<([i16; 2], [i64; 2])>,
}

impl Reader {
    /// The next record of a cell; `None` for one that changes how others are read.
    fn read<'a>(&mut self, kind: u8, input: &mut Input<'a>) -> Result<Option<Item<'a>>, Wrong> {
        match kind {
            15 | 16 => {
                self.relative = kind == 16;
                Ok(None)
            }
            17 => self.placement(input).map(Some),
            19 => {
                if input.byte()? != 0x5b {
                    return Err("a label without all of its fields".to_owned());
                }
                let text = input.text()?;
                let layer = input.layer()?;
                let at = self.place(1, [true; 2], input)?;
                Ok(Some(Item::Element(Element::Label { layer, at, text })))
            }
            20 => self.rectangle(input).map(|r| Some(Item::Element(r))),
            other => Err(format!("record type {other} in a cell")),
        }
    }

    /// The place of a record of the kind `of`; coordinates that are not `given` are those of the last one.
    fn place(&mut self, of: usize, given: [bool; 2], input: &mut Input<'_>) -> Result<[i64; 2], Wrong> {
        let relative = self.relative;
        for (at, _) in self.at[of].iter_mut().zip(given).filter(|(_, given)| *given) {
            let v = input.signed()?;
            *at = if relative { at.saturating_add(v) } else { v };
        }
        Ok(self.at[of])
    }

    fn rectangle(&mut self, input: &mut Input<'_>) -> Result<Element<'static>, Wrong> {
        let info = input.byte()?;
        let new = match info & 0xe7 {
            0x63 => true,
            0 => false,
            _ => return Err("a rectangle that is a square, repeated, or has half of its fields".to_owned()),
        };
        if new {
            self.shape = Some((input.layer()?, [input.length()?, input.length()?]));
        }
        let Some((layer, [w, h])) = self.shape else {
            return Err("a cell's first rectangle has no layer or size".to_owned());
        };
        let [x, y] = self.place(2, [info & 0x10 != 0, info & 0x08 != 0], input)?;
        let area = [x, y, x.saturating_add(w), y.saturating_add(h)];
        Ok(Element::Rectangle { layer, area })
    }

    fn placement<'a>(&mut self, input: &mut Input<'a>) -> Result<Item<'a>, Wrong> {
        let info = input.byte()?;
        if info & 0x87 != 0x80 {
            return Err("a reference without a cell of its own, or turned".to_owned());
        }
        let target =
            if info & 0x40 == 0 { Target::Name(input.text()?) } else { Target::Number(input.unsigned()?) };
        let at = self.place(0, [info & 0x20 != 0, info & 0x10 != 0], input)?;
        let mut counts = [1u64; 2];
        let mut steps = [[0i64; 2]; 2];
        if info & 8 != 0 {
            let axes: &[usize] = match input.byte()? {
                1 => &[0, 1],
                2 => &[0],
                3 => &[1],
                other => return Err(format!("repetition of type {other}")),
            };
            for &axis in axes {
                counts[axis] = input.unsigned()?.saturating_add(2);
            }
            for &axis in axes {
                steps[axis][axis] = input.length()?;
            }
        }
        match target {
            Target::Number(number) if info & 8 == 0 => Ok(Item::Pattern(number, at)),
            Target::Number(_) => Err("a repeated reference by number".to_owned()),
            Target::Name(name) => {
                let [Ok(columns), Ok(rows)] = counts.map(u16::try_from) else {
                    return Err("more than 65535 copies along an axis".to_owned());
                };
                let turn = Turn::default();
                let element = Element::Copy { name, turn, at, counts: [columns, rows], steps };
                Ok(Item::Element(element))
            }
        }
    }
}

/// Bytes of a cell's records in the file.
#[derive(Debug, Clone)]
enum Segment {
    Raw(Range<usize>),
    /// Length when unpacked, and the packed bytes.
    Packed(u64, Range<usize>),
}

/// A rectangle of a pattern cell.
type Kept = ([i16; 2], [i32; 4]);

/// A pattern cell as it is read.
#[derive(Default)]
struct Unfolded {
    shapes: Vec<Kept>,
    parts: Vec<(u64, [i64; 2])>,
}

/// A file with an index of its cells.
pub struct Oasis {
    bytes: Bytes,
    cells: BTreeMap<Vec<u8>, Vec<Segment>>,
    /// By number, flat.
    patterns: Vec<Option<Box<[Kept]>>>,
}

fn report(code: &'static Code, text: String) -> Diagnostics {
    Diagnostic::error(code, format!("{FILE}: {text}")).into()
}

impl Oasis {
    /// Indexes a file.
    ///
    /// # Errors
    /// A damaged file, or records that are not read here.
    pub fn new(bytes: Bytes) -> Result<Self, Diagnostics> {
        let malformed = |e: Wrong| report(&E0530, e);
        let mut oasis = Oasis { bytes, cells: BTreeMap::new(), patterns: Vec::new() };
        let mut unfolded = BTreeMap::new();
        let cells = index(oasis.file(), &mut unfolded).map_err(malformed)?;
        oasis.cells = cells;
        let count = unfolded.keys().next_back().map_or(0, |&n: &u64| n as usize + 1);
        oasis.patterns.resize(count, None);
        for &number in unfolded.keys() {
            let mut shapes = Vec::new();
            flatten(&unfolded, number, [0, 0], 0, &mut shapes).map_err(malformed)?;
            if let Some(pattern) = oasis.patterns.get_mut(number as usize) {
                *pattern = Some(shapes.into_boxed_slice());
            }
        }
        Ok(oasis)
    }

    fn file(&self) -> &[u8] {
        (*self.bytes).as_ref()
    }

    /// Hands every record of a cell to `found`.
    fn items(
        &self,
        segments: &[Segment],
        mut found: impl FnMut(Item<'_>) -> Result<(), Wrong>,
    ) -> Result<(), Wrong> {
        let mut reader = Reader::default();
        for segment in segments {
            let unpacked;
            let records = match segment {
                Segment::Raw(range) => self.file().get(range.clone()).unwrap_or_default(),
                Segment::Packed(length, range) => {
                    unpacked = unpack(self.file().get(range.clone()).unwrap_or_default(), *length)?;
                    &unpacked
                }
            };
            let mut input = Input { bytes: records, at: 0 };
            while input.at < records.len() {
                let kind = input.byte()?;
                if let Some(item) = reader.read(kind, &mut input)? {
                    found(item)?;
                }
            }
        }
        Ok(())
    }

    /// Hands every shape of a program to `found`, at most `most`.
    ///
    /// # Errors
    /// A program that is missing, malformed, or has more shapes.
    pub fn resolve(
        &self,
        prog: &str,
        most: u64,
        found: &mut dyn FnMut([i16; 2], Shape<'_>),
    ) -> Result<(), Diagnostic> {
        let mut budget = most;
        let mut spend = |n: usize| -> Result<(), Wrong> {
            budget = budget.checked_sub(n as u64).ok_or("more shapes than an array can have")?;
            Ok(())
        };
        let segments = self.cells.get(prog.as_bytes());
        segments
            .ok_or_else(|| "it is not in the file".to_owned())
            .and_then(|segments| {
                self.items(segments, |item| match item {
                    Item::Element(Element::Rectangle { layer, area }) => {
                        spend(1)?;
                        found(layer, Shape::Rectangle(area));
                        Ok(())
                    }
                    Item::Element(_) => Err("a label or a reference by name in a program".to_owned()),
                    Item::Pattern(number, [x, y]) => {
                        let pattern = usize::try_from(number).ok().and_then(|n| self.patterns.get(n));
                        let Some(Some(shapes)) = pattern else {
                            return Err(format!("cell number {number} is not in the file"));
                        };
                        spend(shapes.len() + 1)?;
                        for &(layer, area) in shapes {
                            let [x0, y0, x1, y1] = area.map(i64::from);
                            found(layer, Shape::Rectangle([x0 + x, y0 + y, x1 + x, y1 + y]));
                        }
                        Ok(())
                    }
                })
            })
            .map_err(|e| Diagnostic::error(&E0530, format!("{FILE}: cell {prog}: {e}")))
    }

    /// Compares every cell but the programs with that of the same name of another file, which must have
    /// no more of them under the dies.
    ///
    /// # Errors
    /// Every cell that differs.
    pub fn compare(&self, library: &Library, progs: &BTreeSet<String>) -> Result<(), Diagnostics> {
        let mut problems = Diagnostics::new();
        let mut wanted: BTreeSet<Vec<u8>> = progs.iter().map(|p| p.clone().into_bytes()).collect();
        wanted.extend(
            (0u32..).map(|die| format!("die{die}").into_bytes()).take_while(|d| library.find(d).is_some()),
        );
        for (name, segments) in &self.cells {
            let text = String::from_utf8_lossy(name);
            if progs.contains(&*text) {
                continue;
            }
            let differs = |what: String| report(&E0531, format!("cell {text} {what}"));
            let Some(id) = library.find(name) else {
                problems.extend(differs("is not in layout.gds".to_owned()));
                continue;
            };
            let mut ours = Vec::new();
            let read = self.items(segments, |item| match item {
                Item::Element(element) => {
                    if let Element::Copy { name, .. } = &element {
                        wanted.insert(name.to_vec());
                    }
                    ours.push(describe(element));
                    Ok(())
                }
                Item::Pattern(..) => Err("a pattern outside of a program".to_owned()),
            });
            if let Err(e) = read {
                problems.extend(report(&E0530, format!("cell {text}: {e}")));
                continue;
            }
            let mut theirs = Vec::new();
            let mut elements = library.elements(id);
            loop {
                match elements.read() {
                    Ok(Some(element)) => theirs.push(describe(element)),
                    Ok(None) => break,
                    Err(e) => {
                        return Err(library.explain("comparison", &Unresolved::Malformed(id, e)).into());
                    }
                }
            }
            ours.sort_unstable();
            theirs.sort_unstable();
            if ours != theirs {
                problems.extend(differs(format!(
                    "has {} elements, in layout.gds {}, and they are not the same",
                    ours.len(),
                    theirs.len()
                )));
            }
        }
        for name in wanted.iter().filter(|name| !self.cells.contains_key(*name)) {
            let name = String::from_utf8_lossy(name);
            problems.extend(report(&E0531, format!("cell {name} of layout.gds is not in the file")));
        }
        problems.check()
    }
}

/// An element as text that is the same for both formats: the step of a single copy does not count.
fn describe(element: Element<'_>) -> String {
    let element = match element {
        Element::Copy { name, turn, at, counts, mut steps } => {
            for (step, _) in steps.iter_mut().zip(counts).filter(|(_, n)| *n == 1) {
                *step = [0, 0];
            }
            Element::Copy { name, turn, at, counts, steps }
        }
        other => other,
    };
    format!("{element:?}")
}

/// Unpacks a block of a stated length.
fn unpack(packed: &[u8], length: u64) -> Result<Vec<u8>, Wrong> {
    if length > LARGEST {
        return Err(format!("a block of {length} bytes"));
    }
    let mut records = Vec::new();
    // A byte more than stated shows that the length is wrong.
    let read = DeflateDecoder::new(packed).take(length + 1).read_to_end(&mut records);
    read.map_err(|e| format!("a block cannot be unpacked: {e}"))?;
    if records.len() as u64 == length {
        Ok(records)
    } else {
        Err(format!("a block does not unpack to the {length} bytes it states"))
    }
}

/// Adds the shapes of a pattern and of its parts, shifted.
fn flatten(
    cells: &BTreeMap<u64, Unfolded>,
    number: u64,
    [x, y]: [i64; 2],
    depth: u32,
    out: &mut Vec<Kept>,
) -> Result<(), Wrong> {
    let cell = cells.get(&number).ok_or_else(|| format!("cell number {number} is not in the file"))?;
    if depth > 4 || out.len() + cell.shapes.len() > KEPT {
        return Err(format!("pattern cell {number} has too many shapes or is nested too deeply"));
    }
    for &(layer, area) in &cell.shapes {
        let [x0, y0, x1, y1] = area.map(i64::from);
        let [Ok(x0), Ok(y0), Ok(x1), Ok(y1)] = [x0 + x, y0 + y, x1 + x, y1 + y].map(i32::try_from) else {
            return Err(format!("pattern cell {number} has coordinates of more than 32 bits"));
        };
        out.push((layer, [x0, y0, x1, y1]));
    }
    for &(part, at) in &cell.parts {
        flatten(cells, part, [x + at[0], y + at[1]], depth + 1, out)?;
    }
    Ok(())
}

/// Finds the cells of a file.
fn index(
    file: &[u8],
    patterns: &mut BTreeMap<u64, Unfolded>,
) -> Result<BTreeMap<Vec<u8>, Vec<Segment>>, Wrong> {
    let mut input = Input { bytes: file, at: 0 };
    let head: &[u8] = b"%SEMI-OASIS\r\n\x01\x031.0\x00\xe8\x07\x00\0\0\0\0\0\0\0\0\0\0\0\0";
    if input.take(head.len() as u64).ok() != Some(head) {
        return Err("the file does not begin as OASIS 1.0 with a unit of 1 nm".to_owned());
    }
    let end = file.len().checked_sub(END).filter(|&end| end >= input.at).ok_or("the file is too short")?;
    let (body, sum) = file.split_at(file.len() - 4);
    if crc32fast::hash(body).to_le_bytes() != sum {
        return Err("the checksum at the end is not that of the file".to_owned());
    }
    let mut cells: BTreeMap<Vec<u8>, Vec<Segment>> = BTreeMap::new();
    let mut names: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut open: Option<Vec<Segment>> = None;
    let mut open_name = Vec::new();
    let mut reader = Reader::default();
    input.bytes = &file[..end];
    loop {
        let start = input.at;
        let kind = if start == end { 2 } else { input.byte()? };
        if matches!(kind, 2 | 14)
            && let Some(segments) = open.take()
        {
            let text = String::from_utf8_lossy(&open_name).into_owned();
            if cells.insert(std::mem::take(&mut open_name), segments).is_some() {
                return Err(format!("cell {text} is defined twice"));
            }
        }
        match (kind, &mut open) {
            (2, _) if start == end => break,
            (14, _) => {
                open_name = input.text()?.to_vec();
                open = Some(Vec::new());
                reader = Reader::default();
            }
            (34, segments) => {
                let (length, range) = input.block()?;
                let packed = &file[range.clone()];
                let mut first = [0];
                DeflateDecoder::new(packed).read(&mut first).map_err(|e| format!("a block: {e}"))?;
                match segments {
                    _ if matches!(first[0], 4 | 13) => {
                        pattern_cells(&unpack(packed, length)?, patterns, &mut names)?
                    }
                    Some(segments) => segments.push(Segment::Packed(length, range)),
                    None => return Err("a block outside of a cell".to_owned()),
                }
            }
            (_, Some(segments)) => {
                reader.read(kind, &mut input)?;
                segments.push(Segment::Raw(start..input.at));
            }
            (_, None) => return Err(format!("record type {kind} outside of a cell")),
        }
    }
    if file.get(end) != Some(&2) || file.get(file.len() - 5) != Some(&1) {
        return Err("the file does not end with a checksum".to_owned());
    }
    let mut seen: BTreeSet<&[u8]> = cells.keys().map(Vec::as_slice).collect();
    for number in patterns.keys() {
        let name = names.get(number).ok_or_else(|| format!("cell number {number} has no name"))?;
        if !seen.insert(name) {
            return Err(format!("cell {} is defined twice", String::from_utf8_lossy(name)));
        }
    }
    Ok(cells)
}

/// Cells by number and names of numbers.
fn pattern_cells(
    records: &[u8],
    patterns: &mut BTreeMap<u64, Unfolded>,
    names: &mut BTreeMap<u64, Vec<u8>>,
) -> Result<(), Wrong> {
    let mut input = Input { bytes: records, at: 0 };
    let mut reader = Reader::default();
    let mut cell: Option<&mut Unfolded> = None;
    while input.at < records.len() {
        let kind = input.byte()?;
        match (kind, &mut cell) {
            (4, _) => {
                let name = input.text()?.to_vec();
                if names.insert(input.unsigned()?, name).is_some() {
                    return Err("a cell number has two names".to_owned());
                }
                cell = None;
            }
            (13, _) => {
                let number = input.unsigned()?;
                if number >= NUMBERS as u64 || patterns.insert(number, Unfolded::default()).is_some() {
                    return Err(format!("cell number {number} is too large or defined twice"));
                }
                cell = patterns.get_mut(&number);
                reader = Reader::default();
            }
            (_, None) => return Err(format!("record type {kind} outside of a cell")),
            (_, Some(cell)) => match reader.read(kind, &mut input)? {
                None => {}
                Some(Item::Pattern(number, at)) => cell.parts.push((number, at)),
                Some(Item::Element(Element::Rectangle { layer, area })) => {
                    let [Ok(x0), Ok(y0), Ok(x1), Ok(y1)] = area.map(i32::try_from) else {
                        return Err("a rectangle of more than 32 bits".to_owned());
                    };
                    cell.shapes.push((layer, [x0, y0, x1, y1]));
                }
                Some(Item::Element(_)) => {
                    return Err("a label or a reference by name in a pattern cell".to_owned());
                }
            },
        }
    }
    Ok(())
}
