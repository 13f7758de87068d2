//! What a tile's program lies on: a ROM macro, or, where the process has no periphery, an array alone.

use std::collections::BTreeSet;

use pfmc_ir::diag::{Diagnostic, Diagnostics};

use crate::array::{Array, RowGroup};
use crate::codes::E0508;
use crate::columns::Columns;
use crate::encode::ArrayShape;
use crate::macros::draw::{Area, Drawing};
use crate::macros::{Macro, MacroShape};
use crate::process::Process;
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
}

/// The shape of the base of a tile with an array of `shape`: that of its macro, which has word lines and bit lines to
/// whole rows of its decoder and whole segments.
pub fn shape(process: &Process, shape: ArrayShape) -> ArrayShape {
    match process.mux() {
        Some(mux) => MacroShape::holding(process, shape.word_lines, shape.bit_lines, mux).array(),
        None => shape,
    }
}

impl Base {
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
                array.write_base(&mut cells, &mut BTreeSet::new()).map_err(|e| {
                    Diagnostics::from(Diagnostic::error(&E0508, e.to_string()))
                })?;
                (cells, Columns::even(process, shape))
            }
        };
        let boundary = cells.last().and_then(|c| c.on(process.layers.boundary).next()).unwrap_or_default();
        Ok(Base { name, shape, columns, row_groups: array.row_groups(), cells, boundary })
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
