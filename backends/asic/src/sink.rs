//! What a layout is drawn into, whatever the format of the file.

use crate::process::{Layer, Nm};
use crate::stream::StreamError;

/// Receives cells one after the other. Every method fails on what its format cannot hold.
pub trait Sink {
    /// Begins a cell.
    ///
    /// # Errors
    /// A name that is none.
    fn begin(&mut self, name: &str) -> Result<(), StreamError>;

    /// Ends the cell.
    ///
    /// # Errors
    /// A cell that the format cannot hold.
    fn end(&mut self) -> Result<(), StreamError>;

    /// A rectangle, `[x0, y0, x1, y1]` in nm.
    ///
    /// # Errors
    /// No area, or coordinates past 32 bits.
    fn rectangle(&mut self, layer: Layer, area: [Nm; 4]) -> Result<(), StreamError>;

    /// One copy of a cell, its origin at `at`.
    ///
    /// # Errors
    /// A name that is none, or coordinates past 32 bits.
    fn copy(&mut self, name: &str, at: [Nm; 2]) -> Result<(), StreamError>;

    /// `columns` x `rows` copies of a cell, the first at `at`, `pitch` nm apart.
    ///
    /// # Errors
    /// As [`Sink::copy`], and counts outside of 1 to 32767.
    fn copies(
        &mut self,
        name: &str,
        at: [Nm; 2],
        counts: [i64; 2],
        pitch: [Nm; 2],
    ) -> Result<(), StreamError>;

    /// A label.
    ///
    /// # Errors
    /// A text that is not 1 to 512 characters of ASCII, or coordinates past 32 bits.
    fn label(&mut self, layer: Layer, at: [Nm; 2], text: &str) -> Result<(), StreamError>;
}
