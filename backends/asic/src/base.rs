//! What a tile's program lies on: a ROM macro, or, where the process has no periphery, an array alone.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use pfmc_ir::diag::Diagnostics;

use crate::array::{Array, RowGroup};
use crate::columns::Columns;
use crate::encode::ArrayShape;
use crate::macros::BuildError;
use crate::macros::draw::{Area, Drawing, Sketch};
use crate::macros::{Macro, MacroShape};
use crate::process::{Layer, Nm, Process};
use crate::sink::Sink;
use crate::stream::StreamError;

/// The cells of all tiles of a shape without their programs. The origin is that of the array.
pub struct Base {
    name: String,
    shape: ArrayShape,
    columns: Columns,
    row_groups: Vec<RowGroup>,
    cells: Drawing,
    boundary: Area,
    pins: Vec<MacroPin>,
}

/// A pin of a macro.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MacroPin {
    /// Name.
    pub name: String,
    /// Its metal, and the layers of pins and of labels of that.
    pub layers: [Layer; 3],
    /// Where it is.
    pub area: Area,
}

/// The pins of a drawn macro: rectangles of pins with a label in them.
fn pins(process: &Process, cell: &Sketch) -> Vec<MacroPin> {
    let l = &process.layers;
    let mut found = Vec::new();
    for layers in [[l.met3, l.met3_pin, l.met3_label], [l.met4, l.met4_pin, l.met4_label]] {
        for area in cell.on(layers[1]) {
            let inside = |[x, y]: [Nm; 2]| area[0] <= x && x <= area[2] && area[1] <= y && y <= area[3];
            if let Some((_, name)) = cell.texts(layers[2]).find(|(at, _)| inside(*at)) {
                found.push(MacroPin { name: name.to_owned(), layers, area });
            }
        }
    }
    found
}

/// The shape of the base of a tile with an array of `shape`: that of its macro, which has word lines and bit lines to
/// whole rows of its decoder and whole segments.
pub fn shape(process: &Process, shape: ArrayShape) -> ArrayShape {
    match process.mux() {
        Some(mux) => MacroShape::holding(process, shape.word_lines, shape.bit_lines, mux).array(),
        None => shape,
    }
}

/// Most bases that are kept.
const KEPT: usize = 64;

/// Bases that were drawn, by what they follow from: wiring a periphery takes longer than writing it.
static DRAWN: Mutex<Vec<(Process, Arc<Base>)>> = Mutex::new(Vec::new());

impl Base {
    /// A base of [`shape`], drawn anew or kept from before.
    ///
    /// # Errors
    /// A macro that cannot be built.
    pub fn of(process: &Process, shape: ArrayShape) -> Result<Arc<Base>, Diagnostics> {
        let kept = |all: &[(Process, Arc<Base>)]| {
            all.iter().find(|(p, b)| b.shape == shape && p == process).map(|(_, b)| b.clone())
        };
        let lock = || DRAWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(base) = kept(&lock()) {
            return Ok(base);
        }
        let base = Arc::new(Base::new(process, shape)?);
        let mut all = lock();
        if kept(&all).is_none() {
            if all.len() >= KEPT {
                all.remove(0);
            }
            all.push((process.clone(), base.clone()));
        }
        Ok(base)
    }

    /// Draws a base of [`shape`].
    ///
    /// # Errors
    /// A macro that cannot be built.
    pub fn new(process: &Process, shape: ArrayShape) -> Result<Base, Diagnostics> {
        let array = Array::new(process, shape);
        let name = array.base_name();
        let (cells, columns) = match process.mux() {
            Some(mux) => {
                let ArrayShape { word_lines, bit_lines } = shape;
                let rom = Macro::new(process, MacroShape { word_lines, bit_lines, mux })?;
                (rom.draw(&name)?, rom.columns())
            }
            None => {
                let mut cells = Drawing::default();
                array.write_base(&mut cells, &mut BTreeSet::new()).map_err(BuildError::from)?;
                if let Some(areas) = cells.outside(process) {
                    return Err(BuildError::Outside(areas).into());
                }
                (cells, Columns::even(process, shape))
            }
        };
        let boundary = cells.boundary(process).unwrap_or_default();
        let pins = match (process.mux(), cells.last()) {
            (Some(_), Some(cell)) => pins(process, cell),
            _ => Vec::new(),
        };
        Ok(Base { name, shape, columns, row_groups: array.row_groups(), cells, boundary, pins })
    }

    /// Pins of a macro; none of an array alone.
    pub fn pins(&self) -> &[MacroPin] {
        &self.pins
    }

    /// Name of its cell.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its array's size.
    pub fn shape(&self) -> ArrayShape {
        self.shape
    }

    /// Where its columns are.
    pub fn columns(&self) -> &Columns {
        &self.columns
    }

    /// Its row groups from the bottom.
    pub fn row_groups(&self) -> &[RowGroup] {
        &self.row_groups
    }

    /// Boundary of a tile, `[x0, y0, x1, y1]`.
    pub fn boundary(&self) -> Area {
        self.boundary
    }

    /// Writes the cells but for those whose names are in `written`.
    ///
    /// # Errors
    /// What the file format cannot hold.
    pub fn write(&self, sink: &mut impl Sink, written: &mut BTreeSet<String>) -> Result<(), StreamError> {
        self.cells.write(sink, written)
    }
}
