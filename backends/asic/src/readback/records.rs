//! GDSII records and elements, parsed from bytes that may be anything.
//!
//! Every record is bounded by the bytes there are; an unknown type, an impossible length or a body of
//! the wrong size is a [`Malformed`] with its offset. Dates, versions and properties are not looked
//! at.

/// What is wrong with the bytes, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset}: {what}")]
pub struct Malformed {
    /// Offset in the file.
    pub offset: usize,
    /// What is wrong.
    pub what: String,
}

/// Record types used here, by their number in the format.
pub mod kind {
    #![allow(missing_docs)]
    pub const HEADER: u8 = 0x00;
    pub const BGNLIB: u8 = 0x01;
    pub const LIBNAME: u8 = 0x02;
    pub const UNITS: u8 = 0x03;
    pub const ENDLIB: u8 = 0x04;
    pub const BGNSTR: u8 = 0x05;
    pub const STRNAME: u8 = 0x06;
    pub const ENDSTR: u8 = 0x07;
    pub const BOUNDARY: u8 = 0x08;
    pub const PATH: u8 = 0x09;
    pub const SREF: u8 = 0x0a;
    pub const AREF: u8 = 0x0b;
    pub const TEXT: u8 = 0x0c;
    pub const LAYER: u8 = 0x0d;
    pub const DATATYPE: u8 = 0x0e;
    pub const XY: u8 = 0x10;
    pub const ENDEL: u8 = 0x11;
    pub const SNAME: u8 = 0x12;
    pub const COLROW: u8 = 0x13;
    pub const NODE: u8 = 0x15;
    pub const TEXTTYPE: u8 = 0x16;
    pub const STRING: u8 = 0x19;
    pub const STRANS: u8 = 0x1a;
    pub const MAG: u8 = 0x1b;
    pub const ANGLE: u8 = 0x1c;
    pub const BOX: u8 = 0x2d;
    /// Largest record type of the format.
    pub const LAST: u8 = 0x3b;
}

/// One record.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Type.
    pub kind: u8,
    /// Type of the body's numbers.
    pub data: u8,
    /// Body.
    pub body: &'a [u8],
    /// Where the record begins.
    pub offset: usize,
}

impl<'a> Record<'a> {
    fn error(&self, what: impl Into<String>) -> Malformed {
        Malformed { offset: self.offset, what: what.into() }
    }

    fn number(&self) -> Result<i16, Malformed> {
        match (self.data, self.body) {
            (2, &[a, b]) => Ok(i16::from_be_bytes([a, b])),
            _ => Err(self.error(format!("record type {:#04x} does not hold one 16-bit number", self.kind))),
        }
    }

    /// The text without padding.
    fn text(&self) -> Result<&'a [u8], Malformed> {
        let text = match self.body {
            [text @ .., 0] => text,
            text => text,
        };
        if self.data != 6 || text.is_empty() || text.contains(&0) {
            return Err(self.error(format!("record type {:#04x} does not hold text", self.kind)));
        }
        Ok(text)
    }

    /// Exactly `N` points.
    fn points<const N: usize>(&self) -> Result<[[i64; 2]; N], Malformed> {
        if self.data != 3 || self.body.len() != N * 8 {
            return Err(
                self.error(format!("{} bytes of coordinates where {N} points belong", self.body.len()))
            );
        }
        let mut points = [[0; 2]; N];
        for (point, bytes) in points.iter_mut().zip(self.body.chunks_exact(8)) {
            if let &[a, b, c, d, e, f, g, h] = bytes {
                *point = [
                    i64::from(i32::from_be_bytes([a, b, c, d])),
                    i64::from(i32::from_be_bytes([e, f, g, h])),
                ];
            }
        }
        Ok(points)
    }

    /// An 8-byte real of the format: sign, exponent of 16 in excess 64, 56-bit fraction.
    pub fn real(&self, index: usize) -> Result<f64, Malformed> {
        match (self.data, self.body.get(index * 8..index * 8 + 8)) {
            (5, Some(&[head, ref fraction @ ..])) => {
                let value = fraction.iter().fold(0u64, |v, &b| v << 8 | u64::from(b)) as f64;
                let exponent = i32::from(head & 0x7f) - 64 - 14;
                let magnitude = value * 16f64.powi(exponent);
                Ok(if head & 0x80 == 0 { magnitude } else { -magnitude })
            }
            _ => Err(self.error(format!("record type {:#04x} does not hold a real", self.kind))),
        }
    }
}

/// Records of a range of the file.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    file: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Records<'a> {
    /// Records of `file[at..end]`; `end` is at most the file's length.
    pub fn new(file: &'a [u8], at: usize, end: usize) -> Self {
        Records { file, at, end: end.min(file.len()) }
    }

    /// Where the next record begins.
    pub fn offset(&self) -> usize {
        self.at
    }

    /// The next record, `None` at the end.
    pub fn read(&mut self) -> Result<Option<Record<'a>>, Malformed> {
        let rest = &self.file[self.at.min(self.end)..self.end];
        let offset = self.at;
        let (length, kind, data) = match *rest {
            [] => return Ok(None),
            [a, b, kind, data, ..] => (usize::from(u16::from_be_bytes([a, b])), kind, data),
            _ => return Err(Malformed { offset, what: format!("{} bytes are not a record", rest.len()) }),
        };
        if length < 4 || !length.is_multiple_of(2) {
            return Err(Malformed { offset, what: format!("a record cannot be {length} bytes long") });
        }
        if kind > kind::LAST {
            return Err(Malformed { offset, what: format!("{kind:#04x} is no record type") });
        }
        let Some(body) = rest.get(4..length) else {
            return Err(Malformed {
                offset,
                what: format!("a record of {length} bytes ends after {}", rest.len()),
            });
        };
        self.at += length;
        Ok(Some(Record { kind, data, body, offset }))
    }

    /// The next record, which must be there.
    pub fn need(&mut self) -> Result<Record<'a>, Malformed> {
        self.read()?
            .ok_or_else(|| Malformed { offset: self.at, what: "the records end too early".to_owned() })
    }

    /// The next record, which must be of this type.
    pub fn expect(&mut self, kind: u8) -> Result<Record<'a>, Malformed> {
        let record = self.need()?;
        if record.kind == kind {
            Ok(record)
        } else {
            Err(record.error(format!("record type {:#04x} where {kind:#04x} belongs", record.kind)))
        }
    }

    /// The text of the next record, which must be of this type.
    pub fn expect_text(&mut self, kind: u8) -> Result<&'a [u8], Malformed> {
        self.expect(kind)?.text()
    }
}

/// Mirror about the x axis, then turns of 90 degrees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Turn {
    /// Mirrored about the x axis first.
    pub mirror: bool,
    /// Quarter turns, counterclockwise, 0 to 3.
    pub quarters: u8,
}

impl Turn {
    /// Whether nothing is turned.
    pub fn is_none(self) -> bool {
        self == Turn::default()
    }
}

/// One element of a structure.
#[derive(Debug, Clone, PartialEq)]
pub enum Element<'a> {
    /// A rectangle `[x0, y0, x1, y1]`.
    Rectangle {
        /// Layer and datatype.
        layer: [i16; 2],
        /// Corners.
        area: [i64; 4],
    },
    /// Any other polygon.
    Polygon {
        /// Layer and datatype.
        layer: [i16; 2],
    },
    /// A reference to a structure.
    Copy {
        /// Its name.
        name: &'a [u8],
        /// How it is turned.
        turn: Turn,
        /// Origin of the first copy.
        at: [i64; 2],
        /// Columns and rows; 1 x 1 for a single reference.
        counts: [u16; 2],
        /// Step from column to column and from row to row.
        steps: [[i64; 2]; 2],
    },
    /// A label.
    Label {
        /// Layer and text type.
        layer: [i16; 2],
        /// Position.
        at: [i64; 2],
        /// Text.
        text: &'a [u8],
    },
    /// A path, node or box.
    Other {
        /// Record type.
        kind: u8,
    },
}

/// Elements of one structure: what is between its name and its end.
#[derive(Debug, Clone)]
pub struct Elements<'a> {
    records: Records<'a>,
}

impl<'a> Elements<'a> {
    /// Elements of `file[at..end]`.
    pub fn new(file: &'a [u8], at: usize, end: usize) -> Self {
        Elements { records: Records::new(file, at, end) }
    }

    /// Where the next element begins.
    pub fn offset(&self) -> usize {
        self.records.offset()
    }

    /// The next element, `None` at the end.
    pub fn read(&mut self) -> Result<Option<Element<'a>>, Malformed> {
        let Some(first) = self.records.read()? else { return Ok(None) };
        let records = &mut self.records;
        let element = match first.kind {
            kind::BOUNDARY => {
                let layer =
                    [after_flags(records, kind::LAYER)?.number()?, records.expect(kind::DATATYPE)?.number()?];
                let xy = records.expect(kind::XY)?;
                match rectangle(&xy)? {
                    Some(area) => Element::Rectangle { layer, area },
                    None => Element::Polygon { layer },
                }
            }
            kind::SREF => {
                let name = after_flags(records, kind::SNAME)?.text()?;
                let (turn, xy) = turn(records, kind::XY)?;
                let [at] = xy.points()?;
                Element::Copy { name, turn, at, counts: [1, 1], steps: [[0; 2]; 2] }
            }
            kind::AREF => {
                let name = after_flags(records, kind::SNAME)?.text()?;
                let (turn, colrow) = turn(records, kind::COLROW)?;
                let counts = match (colrow.data, colrow.body) {
                    (2, &[a, b, c, d]) => [i16::from_be_bytes([a, b]), i16::from_be_bytes([c, d])],
                    _ => return Err(colrow.error("an array needs two counts")),
                };
                let xy = records.expect(kind::XY)?;
                let [at, column, row] = xy.points()?;
                let mut steps = [[0; 2]; 2];
                for (step, (far, count)) in steps.iter_mut().zip([(column, counts[0]), (row, counts[1])]) {
                    for (step, (far, at)) in step.iter_mut().zip(far.iter().zip(at)) {
                        let (span, count) = (far - at, i64::from(count));
                        if count < 1 || span % count != 0 {
                            return Err(xy.error(format!("{count} copies do not divide a span of {span} nm")));
                        }
                        *step = span / count;
                    }
                }
                let counts = counts.map(i16::unsigned_abs);
                Element::Copy { name, turn, at, counts, steps }
            }
            kind::TEXT => {
                let layer =
                    [after_flags(records, kind::LAYER)?.number()?, records.expect(kind::TEXTTYPE)?.number()?];
                let xy = loop {
                    let record = records.need()?;
                    match record.kind {
                        kind::XY => break record,
                        // PRESENTATION, PATHTYPE, WIDTH, STRANS, MAG, ANGLE.
                        0x17 | 0x21 | 0x0f | kind::STRANS | kind::MAG | kind::ANGLE => {}
                        other => return Err(record.error(format!("record type {other:#04x} in a label"))),
                    }
                };
                let [at] = xy.points()?;
                Element::Label { layer, at, text: records.expect_text(kind::STRING)? }
            }
            kind::PATH | kind::NODE | kind::BOX => {
                loop {
                    let record = records.need()?;
                    match record.kind {
                        kind::ENDEL => return Ok(Some(Element::Other { kind: first.kind })),
                        // The records these elements may hold.
                        kind::LAYER | kind::DATATYPE | kind::XY | 0x0f | 0x21 | 0x26 => {}
                        0x2a..=0x2c | 0x2e..=0x31 => {}
                        other => return Err(record.error(format!("record type {other:#04x} in an element"))),
                    }
                }
            }
            other => return Err(first.error(format!("record type {other:#04x} begins no element"))),
        };
        loop {
            let record = records.need()?;
            match record.kind {
                kind::ENDEL => return Ok(Some(element)),
                // PROPATTR, PROPVALUE.
                0x2b | 0x2c => {}
                other => return Err(record.error(format!("record type {other:#04x} where an element ends"))),
            }
        }
    }
}

/// The next record of a type, past ELFLAGS and PLEX.
fn after_flags<'a>(records: &mut Records<'a>, kind: u8) -> Result<Record<'a>, Malformed> {
    loop {
        let record = records.need()?;
        match record.kind {
            0x26 | 0x2f => {}
            found if found == kind => return Ok(record),
            found => return Err(record.error(format!("record type {found:#04x} where {kind:#04x} belongs"))),
        }
    }
}

/// The transformation of a reference and the record after it, which must be of type `next`.
fn turn<'a>(records: &mut Records<'a>, next: u8) -> Result<(Turn, Record<'a>), Malformed> {
    let mut turn = Turn::default();
    let mut record = records.need()?;
    if record.kind == kind::STRANS {
        let flags = match (record.data, record.body) {
            (1, &[a, b]) => u16::from_be_bytes([a, b]),
            _ => return Err(record.error("a transformation needs 16 flags")),
        };
        if flags & 0x7fff != 0 {
            return Err(record.error("absolute magnification or angle is not read"));
        }
        turn.mirror = flags != 0;
        record = records.need()?;
        if record.kind == kind::MAG {
            if record.real(0)? != 1.0 {
                return Err(record.error("a magnified reference"));
            }
            record = records.need()?;
        }
        if record.kind == kind::ANGLE {
            let angle = record.real(0)?;
            turn.quarters = match angle {
                0.0 => 0,
                90.0 => 1,
                180.0 => 2,
                270.0 => 3,
                _ => return Err(record.error(format!("a reference turned by {angle} degrees"))),
            };
            record = records.need()?;
        }
    }
    if record.kind != next {
        return Err(record.error(format!("record type {:#04x} where {next:#04x} belongs", record.kind)));
    }
    Ok((turn, record))
}

/// `[x0, y0, x1, y1]` of a closed polygon of four corners along the axes, `None` for another polygon.
fn rectangle(xy: &Record<'_>) -> Result<Option<[i64; 4]>, Malformed> {
    if xy.data != 3 || !xy.body.len().is_multiple_of(8) || xy.body.len() < 32 {
        return Err(xy.error(format!("{} bytes of coordinates are no polygon", xy.body.len())));
    }
    if xy.body.len() != 40 {
        return Ok(None);
    }
    let [a, b, c, d, e] = xy.points()?;
    if a != e {
        return Err(xy.error("a polygon that is not closed"));
    }
    let along = (a[0] == b[0] && b[1] == c[1] && c[0] == d[0] && d[1] == a[1])
        || (a[1] == b[1] && b[0] == c[0] && c[1] == d[1] && d[0] == a[0]);
    let area = [a[0].min(c[0]), a[1].min(c[1]), a[0].max(c[0]), a[1].max(c[1])];
    Ok((along && area[0] < area[2] && area[1] < area[3]).then_some(area))
}
