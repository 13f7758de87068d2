//! Tile contents straight from the model's weights, quantised on demand.

use bytes::Bytes;
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::numerics;
use pfmc_ir::program::TileProgram;
use pfmc_ir::tile::{Scheme, TileContent, TileId, TileKind, TileSource};

use crate::codes::E0704;
use crate::view::MatrixView;

/// Quantises tiles from mapped weights; nothing is kept.
pub struct ModelSource {
    tiles: Vec<(TileKind, Scheme)>,
    views: Vec<MatrixView>,
    pieces: Vec<Bytes>,
}

impl ModelSource {
    /// The source of a program whose matrices are `views` (by matrix id) and whose data is the
    /// concatenation of `pieces`.
    pub fn new(program: &TileProgram, views: Vec<MatrixView>, pieces: Vec<Bytes>) -> Self {
        let tiles = program
            .tiles()
            .map(|(id, t)| (t.kind.clone(), program.matrix_tile(id).map_or(Scheme::Real, |t| t.2)))
            .collect();
        ModelSource { tiles, views, pieces }
    }

    /// The unquantised elements of a matrix tile, `[k][n]`.
    pub fn weights(&self, id: TileId) -> Option<Vec<f32>> {
        match &self.tiles.get(id.index())?.0 {
            TileKind::Matrix { matrix, k, n } => self.views.get(matrix.index())?.read(k.clone(), n.clone()),
            TileKind::Data { .. } => None,
        }
    }

    /// Signal-to-noise ratio of a tile's contents as a copy of its weights: `None` for data.
    /// As (signal, error) sums of squares, so that tiles add up.
    ///
    /// # Errors
    /// As [`TileSource::tile`].
    pub fn rounding(&self, id: TileId) -> Result<Option<(f64, f64)>, Diagnostics> {
        let Some(weights) = self.weights(id) else { return Ok(None) };
        let rounded = match self.tile(id)? {
            TileContent::Codes(b) => b.dequantize(),
            TileContent::Real(b) => b.values,
            TileContent::Data(_) => return Ok(None),
        };
        let square = |v: f32| f64::from(v) * f64::from(v);
        let error = weights.iter().zip(&rounded).map(|(w, r)| square(w - r)).sum();
        Ok(Some((weights.iter().map(|&w| square(w)).sum(), error)))
    }

    fn data(&self, offset: u64, len: u64) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(usize::try_from(len).ok()?);
        let mut start = 0u64;
        for piece in &self.pieces {
            let end = start + piece.len() as u64;
            let (a, b) = (offset.max(start), (offset + len).min(end));
            if a < b {
                out.extend_from_slice(&piece[(a - start) as usize..(b - start) as usize]);
            }
            start = end;
        }
        (out.len() as u64 == len).then_some(out)
    }
}

impl TileSource for ModelSource {
    fn tile(&self, id: TileId) -> Result<TileContent, Diagnostics> {
        let content = || -> Option<TileContent> {
            let (kind, scheme) = self.tiles.get(id.index())?;
            Some(match kind {
                TileKind::Data { offset, len } => TileContent::Data(self.data(*offset, *len)?),
                TileKind::Matrix { matrix, k, n } => {
                    let values = self.views.get(matrix.index())?.read(k.clone(), n.clone())?;
                    match *scheme {
                        Scheme::Real => TileContent::Real(numerics::round_real(&values, k.len(), n.len())),
                        Scheme::Codes { bits, group } => TileContent::Codes(numerics::quantize_codes(
                            &values,
                            k.len(),
                            n.len(),
                            bits,
                            group as usize,
                        )),
                    }
                }
            })
        };
        content().ok_or_else(|| {
            Diagnostic::error(&E0704, format!("the model has no weights for tile {id}")).into()
        })
    }
}
