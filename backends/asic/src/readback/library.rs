//! The structures of a GDSII file by name, and their shapes with all references resolved.

use std::collections::HashMap;
use std::sync::OnceLock;

use pfmc_ir::diag::{Diagnostic, Diagnostics};

use super::records::{Element, Elements, Malformed, Records, Turn, kind};
use crate::codes::{E0510, E0511, E0512, E0522};

/// Deepest nesting of references that is followed.
const DEPTH: u32 = 16;
/// Most shapes of a structure that is kept resolved.
const KEPT: u64 = 64;

/// Bytes of a file, mapped or in memory.
pub type Bytes = Box<dyn AsRef<[u8]> + Send + Sync>;

/// Index of a structure in its [`Library`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StructureId(u32);

#[derive(Debug)]
struct Structure {
    name: Box<[u8]>,
    /// Its elements' bytes.
    start: usize,
    end: usize,
}

/// A rectangle with its layer, relative to a structure of a few shapes.
type Kept = ([i16; 2], [i32; 4]);

/// A file with an index of its structures.
pub struct Library {
    bytes: Bytes,
    structures: Vec<Structure>,
    by_name: Names,
    /// Resolved shapes of small structures; `None` where a structure is not small or not of
    /// rectangles alone.
    kept: Vec<OnceLock<Option<Box<[Kept]>>>>,
}

/// Structures by name. Names of up to eight bytes, the many pattern cells, are looked up as a number.
#[derive(Default)]
struct Names {
    short: HashMap<u64, StructureId>,
    long: HashMap<Box<[u8]>, StructureId>,
}

impl Names {
    /// A name of up to eight bytes; names have no zero bytes, so none is lost.
    fn number(name: &[u8]) -> Option<u64> {
        let mut bytes = [0; 8];
        bytes.get_mut(..name.len())?.copy_from_slice(name);
        Some(u64::from_le_bytes(bytes))
    }

    fn insert(&mut self, name: &[u8], id: StructureId) -> Option<StructureId> {
        match Self::number(name) {
            Some(number) => self.short.insert(number, id),
            None => self.long.insert(name.into(), id),
        }
    }

    fn get(&self, name: &[u8]) -> Option<StructureId> {
        match Self::number(name) {
            Some(number) => self.short.get(&number).copied(),
            None => self.long.get(name).copied(),
        }
    }
}

/// A resolved shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape<'a> {
    /// A rectangle `[x0, y0, x1, y1]`.
    Rectangle([i64; 4]),
    /// A polygon, path, node or box; none of them belongs in a layout of this backend.
    Foreign,
    /// A label.
    Label([i64; 2], &'a [u8]),
}

/// Why a structure cannot be resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unresolved {
    /// Malformed records in a structure.
    Malformed(StructureId, Malformed),
    /// A reference to a structure that is not there.
    Missing(StructureId, Vec<u8>),
    /// Nested too deeply or too many shapes.
    TooMany(StructureId),
}

/// A mirror, a turn and a shift.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    turn: Turn,
    at: [i64; 2],
}

impl Place {
    fn turned(turn: Turn, [x, y]: [i64; 2]) -> [i64; 2] {
        let y = if turn.mirror { -y } else { y };
        match turn.quarters {
            0 => [x, y],
            1 => [-y, x],
            2 => [-x, -y],
            _ => [y, -x],
        }
    }

    fn point(&self, point: [i64; 2]) -> [i64; 2] {
        let [x, y] = Self::turned(self.turn, point);
        [x + self.at[0], y + self.at[1]]
    }

    fn area(&self, [x0, y0, x1, y1]: [i64; 4]) -> [i64; 4] {
        let ([a, b], [c, d]) = (self.point([x0, y0]), self.point([x1, y1]));
        [a.min(c), b.min(d), a.max(c), b.max(d)]
    }

    /// The place of a structure that is at `inner` in a structure at `self`.
    fn then(&self, inner: Place) -> Place {
        let quarters = if self.turn.mirror { 4 - inner.turn.quarters } else { inner.turn.quarters };
        Place {
            turn: Turn {
                mirror: self.turn.mirror != inner.turn.mirror,
                quarters: (self.turn.quarters + quarters) % 4,
            },
            at: self.point(inner.at),
        }
    }
}

impl Library {
    /// Indexes a file.
    ///
    /// # Errors
    /// A file that is no library with a database unit of 1 nm, malformed records, structures of one
    /// name.
    pub fn new(bytes: Bytes) -> Result<Self, Diagnostics> {
        let mut library =
            Library { bytes, structures: Vec::new(), by_name: Names::default(), kept: Vec::new() };
        let structures = index((*library.bytes).as_ref())?;
        let mut problems = Diagnostics::new();
        for (i, s) in structures.iter().enumerate() {
            let Ok(id) = u32::try_from(i) else {
                return Err(Diagnostic::error(&E0522, "the file has over four billion cells").into());
            };
            if library.by_name.insert(&s.name, StructureId(id)).is_some() {
                let name = String::from_utf8_lossy(&s.name);
                problems.push(Diagnostic::error(&E0512, format!("cell {name} is defined twice")));
            }
        }
        problems.check()?;
        library.kept = structures.iter().map(|_| OnceLock::new()).collect();
        library.structures = structures;
        Ok(library)
    }

    fn file(&self) -> &[u8] {
        (*self.bytes).as_ref()
    }

    /// The structure of a name.
    pub fn find(&self, name: &[u8]) -> Option<StructureId> {
        self.by_name.get(name)
    }

    /// Name of a structure.
    pub fn name(&self, id: StructureId) -> String {
        self.structures
            .get(id.0 as usize)
            .map_or_else(String::new, |s| String::from_utf8_lossy(&s.name).into_owned())
    }

    /// Elements of a structure.
    pub fn elements(&self, id: StructureId) -> Elements<'_> {
        let (start, end) = self.structures.get(id.0 as usize).map_or((0, 0), |s| (s.start, s.end));
        Elements::new(self.file(), start, end)
    }

    /// Hands every shape of a structure with its layer to `found`, all references resolved, at most
    /// `most` shapes and references.
    pub fn resolve<'a>(
        &'a self,
        id: StructureId,
        most: u64,
        found: &mut dyn FnMut([i16; 2], Shape<'a>),
    ) -> Result<(), Unresolved> {
        let mut budget = most;
        self.visit(id, Place::default(), 0, &mut budget, true, found)
    }

    /// The same without the structures of some names right below.
    pub fn resolve_without<'a>(
        &'a self,
        id: StructureId,
        most: u64,
        skip: &dyn Fn(&[u8]) -> bool,
        found: &mut dyn FnMut([i16; 2], Shape<'a>),
    ) -> Result<(), Unresolved> {
        let mut budget = most;
        let mut elements = self.elements(id);
        while let Some(element) = elements.read().map_err(|e| Unresolved::Malformed(id, e))? {
            let skipped = matches!(&element, Element::Copy { name, .. } if skip(name));
            if !skipped {
                self.element(id, element, Place::default(), 0, &mut budget, true, found)?;
            }
        }
        Ok(())
    }

    fn visit<'a>(
        &'a self,
        id: StructureId,
        place: Place,
        depth: u32,
        budget: &mut u64,
        keep: bool,
        found: &mut dyn FnMut([i16; 2], Shape<'a>),
    ) -> Result<(), Unresolved> {
        if depth > DEPTH {
            return Err(Unresolved::TooMany(id));
        }
        let mut elements = self.elements(id);
        while let Some(element) = elements.read().map_err(|e| Unresolved::Malformed(id, e))? {
            self.element(id, element, place, depth, budget, keep, found)?;
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn element<'a>(
        &'a self,
        id: StructureId,
        element: Element<'a>,
        place: Place,
        depth: u32,
        budget: &mut u64,
        keep: bool,
        found: &mut dyn FnMut([i16; 2], Shape<'a>),
    ) -> Result<(), Unresolved> {
        fn spend(budget: &mut u64, n: u64, id: StructureId) -> Result<(), Unresolved> {
            *budget = budget.checked_sub(n).ok_or(Unresolved::TooMany(id))?;
            Ok(())
        }
        spend(budget, 1, id)?;
        match element {
            Element::Rectangle { layer, area } => found(layer, Shape::Rectangle(place.area(area))),
            Element::Polygon { layer } => found(layer, Shape::Foreign),
            Element::Other { .. } => found([0, 0], Shape::Foreign),
            Element::Label { layer, at, text } => found(layer, Shape::Label(place.point(at), text)),
            Element::Copy { name, turn, at, counts, steps } => {
                let Some(child) = self.find(name) else {
                    return Err(Unresolved::Missing(id, name.to_vec()));
                };
                let kept = if keep { self.kept(child) } else { None };
                for column in 0..i64::from(counts[0]) {
                    for row in 0..i64::from(counts[1]) {
                        let at = [0, 1].map(|i| at[i] + column * steps[0][i] + row * steps[1][i]);
                        let inner = place.then(Place { turn, at });
                        spend(budget, 1, id)?;
                        let Some(kept) = kept else {
                            self.visit(child, inner, depth + 1, budget, keep, found)?;
                            continue;
                        };
                        spend(budget, kept.len() as u64, id)?;
                        for &(layer, area) in kept {
                            found(layer, Shape::Rectangle(inner.area(area.map(i64::from))));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The shapes of a small structure of rectangles.
    fn kept(&self, id: StructureId) -> Option<&[Kept]> {
        let fill = || {
            let mut shapes = Vec::new();
            let mut plain = true;
            let mut budget = 4 * KEPT;
            let visited = self.visit(id, Place::default(), 1, &mut budget, false, &mut |layer, shape| {
                let narrow = |area: [i64; 4]| {
                    let [a, b, c, d] = area.map(i32::try_from);
                    Some([a.ok()?, b.ok()?, c.ok()?, d.ok()?])
                };
                match shape {
                    Shape::Rectangle(area) => match narrow(area) {
                        Some(area) => shapes.push((layer, area)),
                        None => plain = false,
                    },
                    _ => plain = false,
                }
            });
            (visited.is_ok() && plain && shapes.len() as u64 <= KEPT).then(|| shapes.into_boxed_slice())
        };
        self.kept.get(id.0 as usize)?.get_or_init(fill).as_deref()
    }

    /// As a diagnostic about `what`, e.g. `tile x`.
    pub fn explain(&self, what: &str, unresolved: &Unresolved) -> Diagnostic {
        match unresolved {
            Unresolved::Malformed(id, e) => {
                Diagnostic::error(&E0511, format!("{what}: cell {} {e}", self.name(*id)))
            }
            Unresolved::Missing(id, name) => Diagnostic::error(
                &E0512,
                format!(
                    "{what}: cell {} refers to cell {}, which is not in the file",
                    self.name(*id),
                    String::from_utf8_lossy(name)
                ),
            ),
            Unresolved::TooMany(id) => Diagnostic::error(
                &E0522,
                format!(
                    "{what}: cell {} has more shapes or deeper references than an array can",
                    self.name(*id)
                ),
            ),
        }
    }
}

/// Finds the structures of a file.
fn index(file: &[u8]) -> Result<Vec<Structure>, Diagnostics> {
    let bad =
        |place: &str, e: Malformed| Diagnostics::from(Diagnostic::error(&E0511, format!("{place} {e}")));
    let head = |e| bad("head of the library:", e);
    let mut records = Records::new(file, 0, file.len());
    records.expect(kind::HEADER).map_err(head)?;
    records.expect(kind::BGNLIB).map_err(head)?;
    records.expect_text(kind::LIBNAME).map_err(head)?;
    let units = loop {
        let record = records.need().map_err(head)?;
        match record.kind {
            kind::UNITS => break record,
            // REFLIBS, FONTS, GENERATIONS, ATTRTABLE.
            0x1f | 0x20 | 0x22 | 0x23 => {}
            other => {
                let what = format!("record type {other:#04x} before the units");
                return Err(head(Malformed { offset: record.offset, what }));
            }
        }
    };
    let (user, metre) = (units.real(0).map_err(head)?, units.real(1).map_err(head)?);
    if (user - 1e-3).abs() > 1e-12 || (metre - 1e-9).abs() > 1e-18 {
        return Err(Diagnostic::error(
            &E0510,
            format!("the database unit is {metre:e} m and {user:e} of a user unit, not 1 nm and 0.001"),
        )
        .into());
    }
    let mut structures = Vec::new();
    loop {
        let last = || match structures.last() {
            Some(Structure { name, .. }) => format!("after cell {}", String::from_utf8_lossy(name)),
            None => "after the head of the library".to_owned(),
        };
        let record = records.need().map_err(|e| bad(&last(), e))?;
        match record.kind {
            kind::ENDLIB => break,
            kind::BGNSTR => {}
            other => {
                let what = format!("record type {other:#04x} where a cell begins");
                return Err(bad(&last(), Malformed { offset: record.offset, what }));
            }
        }
        let name = records.expect_text(kind::STRNAME).map_err(|e| bad(&last(), e))?;
        let here = |e| bad(&format!("cell {}", String::from_utf8_lossy(name)), e);
        let start = records.offset();
        let end = loop {
            let record = records.need().map_err(here)?;
            match record.kind {
                kind::ENDSTR => break record.offset,
                kind::BGNSTR | kind::ENDLIB | kind::STRNAME => {
                    let what = "the cell does not end".to_owned();
                    return Err(here(Malformed { offset: record.offset, what }));
                }
                _ => {}
            }
        };
        structures.push(Structure { name: name.into(), start, end });
    }
    // Some writers pad to a whole block of tape.
    if file[records.offset()..].iter().any(|&b| b != 0) {
        let what = "bytes follow the end of the library".to_owned();
        return Err(bad("end of the file:", Malformed { offset: records.offset(), what }));
    }
    Ok(structures)
}
