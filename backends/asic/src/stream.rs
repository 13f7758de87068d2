//! A validated GDSII writer for the few element kinds a layout needs. Names, coordinates and counts
//! are checked here; everything else is left to the `gdsii` crate.
//!
//! Dates are fixed, so equal input gives equal bytes.

use gdsii::parser::{Aref, Boundary, Element, GdsEvent, LibraryBegin, Sref, StructureBegin, Text};
use gdsii::writer::{GdsWriter, WriteError};
use gdsii::{I16, I32};

use crate::patterns::{NAME_LEN, Name};
use crate::process::{Layer, Nm};
use crate::sink::Sink;

/// Longest cell name.
pub const NAME_MAX: usize = 32;
/// Most copies along a side of an array reference.
pub const COPIES_MAX: i64 = 32_767;
/// 2000-01-01 00:00:00, twice.
const DATES: [I16; 12] = {
    let (y, one, zero) = (I16::new(2000), I16::new(1), I16::new(0));
    [y, one, one, zero, zero, zero, y, one, one, zero, zero, zero]
};

/// What the file format cannot hold.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// A cell name.
    #[error("cell name {0:?} is not 1 to 32 characters of A-Z, a-z, 0-9 and underscore")]
    Name(String),
    /// A coordinate.
    #[error("coordinate {0} nm in cell {1} does not fit 32 bits")]
    Coordinate(Nm, String),
    /// An empty or inverted rectangle.
    #[error("rectangle {0:?} in cell {1} has no area")]
    Rectangle([Nm; 4], String),
    /// An array reference.
    #[error("an array of {0} x {1} in cell {2} is outside of 1 to 32767")]
    Copies(i64, i64, String),
    /// A label.
    #[error("label {0:?} in cell {1} is not 1 to 512 characters of ASCII")]
    Label(String, String),
    /// Compressing a cell.
    #[error("a cell cannot be compressed: {0}")]
    Compress(String),
    /// The writer's own error.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Whether a cell may have this name.
pub fn is_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Bytes of a reference to a cell.
pub fn sref_bytes(name_len: usize) -> u64 {
    (4 + 4 + name_len.next_multiple_of(2) + 12 + 4) as u64
}

/// Bytes of a cell besides its elements.
pub fn cell_bytes(name_len: usize) -> u64 {
    (28 + 4 + name_len.next_multiple_of(2) + 4) as u64
}

/// Bytes of a rectangle.
pub const RECTANGLE_BYTES: u64 = 64;

/// The head of the library: database unit 1 nm.
pub fn head(name: &str) -> Result<Vec<u8>, StreamError> {
    let mut writer = GdsWriter::new(Vec::new());
    writer.write_event(&GdsEvent::LibraryBegin(LibraryBegin {
        version: 600,
        timestamps: &DATES,
        lib_name: name,
        db_in_user: 1e-3,
        db_in_meters: 1e-9,
        reflibs: None,
        fonts: None,
        attrtable: None,
        generations: None,
    }))?;
    Ok(writer.into_inner())
}

/// The end of the library.
pub fn tail() -> Result<Vec<u8>, StreamError> {
    let mut writer = GdsWriter::new(Vec::new());
    writer.write_event(&GdsEvent::LibraryEnd)?;
    Ok(writer.into_inner())
}

/// The record that ends an element.
const ENDEL: [u8; 4] = [0, 4, 0x11, 0];

/// A coordinate as it stands in the file.
#[derive(Debug, Clone, Copy)]
pub struct Coordinate([u8; 4]);

/// Bytes of a reference to a pattern cell.
const REFERENCE: usize = 24 + NAME_LEN;

/// Writes cells into memory.
pub struct Cells {
    bytes: Vec<u8>,
    cell: String,
}

impl Cells {
    /// No cells yet.
    pub fn new(capacity: usize) -> Self {
        Cells { bytes: Vec::with_capacity(capacity), cell: String::new() }
    }

    /// No cells yet, in the memory of bytes that are needed no more.
    pub fn reusing(mut bytes: Vec<u8>, capacity: usize) -> Self {
        bytes.clear();
        bytes.reserve(capacity);
        Cells { bytes, cell: String::new() }
    }

    /// The cells' bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn event(&mut self, event: &GdsEvent<'_>) -> Result<(), StreamError> {
        Ok(GdsWriter::new(&mut self.bytes).write_event(event)?)
    }

    /// A row of pattern cells: their names with the x of their origins, all at height `y`. The same bytes as
    /// [`Cells::copy`], each reference in one piece.
    pub fn patterns<'a>(
        &mut self,
        row: impl ExactSizeIterator<Item = (Name, &'a Coordinate)>,
        Coordinate([y0, y1, y2, y3]): Coordinate,
    ) {
        let start = self.bytes.len();
        self.bytes.resize(start + row.len() * REFERENCE, 0);
        let (places, _) = self.bytes[start..].as_chunks_mut::<REFERENCE>();
        for (place, (Name([a, b, c, d]), &Coordinate([x0, x1, x2, x3]))) in places.iter_mut().zip(row) {
            // SREF, SNAME, XY, ENDEL.
            *place = [
                0, 4, 0x0a, 0, 0, 8, 0x12, 6, a, b, c, d, 0, 12, 0x10, 3, x0, x1, x2, x3, y0, y1, y2, y3, 0,
                4, 0x11, 0,
            ];
        }
    }

    /// A coordinate as it stands in the file.
    ///
    /// # Errors
    /// Past 32 bits.
    pub fn coordinate(&self, nm: Nm) -> Result<Coordinate, StreamError> {
        Ok(Coordinate(self.at(nm)?.to_bytes()))
    }

    fn element(&mut self, element: Element<'_>) -> Result<(), StreamError> {
        self.event(&GdsEvent::Element(element))?;
        // The writer of this one event ends it only before the next.
        self.bytes.extend_from_slice(&ENDEL);
        Ok(())
    }

    fn name(&self, name: &str) -> Result<(), StreamError> {
        if is_name(name) { Ok(()) } else { Err(StreamError::Name(name.to_owned())) }
    }

    fn at(&self, nm: Nm) -> Result<I32, StreamError> {
        match i32::try_from(nm) {
            Ok(v) => Ok(I32::new(v)),
            Err(_) => Err(StreamError::Coordinate(nm, self.cell.clone())),
        }
    }
}

impl Sink for Cells {
    fn begin(&mut self, name: &str) -> Result<(), StreamError> {
        self.name(name)?;
        name.clone_into(&mut self.cell);
        self.event(&GdsEvent::StructureBegin(StructureBegin { timestamps: &DATES, name }))
    }

    fn end(&mut self) -> Result<(), StreamError> {
        self.event(&GdsEvent::StructureEnd)
    }

    fn rectangle(&mut self, layer: Layer, area: [Nm; 4]) -> Result<(), StreamError> {
        let [x0, y0, x1, y1] = area;
        if x0 >= x1 || y0 >= y1 {
            return Err(StreamError::Rectangle(area, self.cell.clone()));
        }
        let [x0, y0, x1, y1] = [self.at(x0)?, self.at(y0)?, self.at(x1)?, self.at(y1)?];
        let xy = [x0, y0, x0, y1, x1, y1, x1, y0, x0, y0];
        self.element(Element::Boundary(Boundary {
            elflags: None,
            plex: None,
            layer: layer.layer,
            datatype: layer.datatype,
            xy: (&xy).into(),
        }))
    }

    fn copy(&mut self, name: &str, at: [Nm; 2]) -> Result<(), StreamError> {
        self.name(name)?;
        let xy = [self.at(at[0])?, self.at(at[1])?];
        self.element(Element::Sref(Sref {
            elflags: None,
            plex: None,
            sname: name,
            strans: None,
            xy: (&xy).into(),
        }))
    }

    fn copies(
        &mut self,
        name: &str,
        at: [Nm; 2],
        counts: [i64; 2],
        pitch: [Nm; 2],
    ) -> Result<(), StreamError> {
        self.name(name)?;
        let [columns, rows] = counts;
        let count = |n: i64| i16::try_from(n).ok().filter(|_| (1..=COPIES_MAX).contains(&n));
        let (Some(c), Some(r)) = (count(columns), count(rows)) else {
            return Err(StreamError::Copies(columns, rows, self.cell.clone()));
        };
        let far = [at[0].saturating_add(columns * pitch[0]), at[1].saturating_add(rows * pitch[1])];
        let [x, y] = [self.at(at[0])?, self.at(at[1])?];
        let xy = [x, y, self.at(far[0])?, y, x, self.at(far[1])?];
        self.element(Element::Aref(Aref {
            elflags: None,
            plex: None,
            sname: name,
            strans: None,
            colrow: (c, r),
            xy: (&xy).into(),
        }))
    }

    fn label(&mut self, layer: Layer, at: [Nm; 2], text: &str) -> Result<(), StreamError> {
        if !(1..=512).contains(&text.len()) || !text.is_ascii() {
            return Err(StreamError::Label(text.to_owned(), self.cell.clone()));
        }
        let xy = [self.at(at[0])?, self.at(at[1])?];
        self.element(Element::Text(Text {
            elflags: None,
            plex: None,
            layer: layer.layer,
            texttype: layer.datatype,
            presentation: None,
            pathtype: None,
            width: None,
            strans: None,
            xy: (&xy).into(),
            string: text,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patterns::Pattern;

    const LAYER: Layer = Layer { layer: 67, datatype: 44 };

    #[test]
    fn what_the_format_cannot_hold_is_refused() {
        let mut cells = Cells::new(0);
        for name in ["", "a b", "ä", "a#", &"x".repeat(33)] {
            assert!(matches!(cells.begin(name), Err(StreamError::Name(_))), "{name:?}");
        }
        cells.begin("top").unwrap();
        let far = i64::from(i32::MAX) + 1;
        assert!(matches!(cells.rectangle(LAYER, [0, 0, far, 5]), Err(StreamError::Coordinate(..))));
        assert!(matches!(cells.rectangle(LAYER, [0, 0, 0, 5]), Err(StreamError::Rectangle(..))));
        assert!(matches!(cells.copies("a", [0, 0], [32_768, 1], [5, 5]), Err(StreamError::Copies(..))));
        assert!(matches!(cells.copies("a", [0, 0], [0, 1], [5, 5]), Err(StreamError::Copies(..))));
        assert!(matches!(
            cells.copies("a", [0, 0], [32_767, 1], [1_000_000, 5]),
            Err(StreamError::Coordinate(..))
        ));
        assert!(matches!(cells.label(LAYER, [0, 0], ""), Err(StreamError::Label(..))));
    }

    #[test]
    fn templates_are_the_bytes_of_references() {
        for code in [Pattern { width: 8, value: 77 }, Pattern { width: 14, value: 12_345 }] {
            let name = code.name();
            let (mut a, mut b) = (Cells::new(0), Cells::new(0));
            let [x, y, z] = [770, 1540, -430].map(|nm| a.coordinate(nm).unwrap());
            a.patterns([(name, &x), (name, &y)].into_iter(), z);
            for x in [770, 1540] {
                b.copy(name.as_str(), [x, -430]).unwrap();
            }
            assert_eq!(a.into_bytes(), b.into_bytes());
        }
    }

    #[test]
    fn byte_counts_are_those_of_the_writer() {
        for name in ["n_0", "p_beef"] {
            let bytes = |references: usize, rectangles: usize| {
                let mut cells = Cells::new(0);
                cells.begin(name).unwrap();
                (0..references).for_each(|_| cells.copy(name, [1, 2]).unwrap());
                (0..rectangles).for_each(|_| cells.rectangle(LAYER, [0, 0, 5, 5]).unwrap());
                cells.end().unwrap();
                cells.into_bytes().len() as u64
            };
            let cell = cell_bytes(name.len());
            assert_eq!(bytes(0, 0), cell);
            assert_eq!(bytes(3, 0), cell + 3 * sref_bytes(name.len()));
            assert_eq!(bytes(0, 2), cell + 2 * RECTANGLE_BYTES);
        }
    }
}
