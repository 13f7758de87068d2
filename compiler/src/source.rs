//! Tile contents straight from the model's weights, quantised on demand.

use std::collections::BTreeMap;

use bytes::Bytes;
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::numerics;
use pfmc_ir::program::TileProgram;
use pfmc_ir::tile::{CodeBlock, Levels, MatrixId, Scheme, TileContent, TileId, TileKind, TileSource};

use crate::codes::E0704;
use crate::quantise::calibrate::Calibrated;
use crate::quantise::data_free;
use crate::quantise::options::Rounding;
use crate::view::MatrixView;

/// Quantises tiles from mapped weights when they are asked for; what calibration found is kept.
pub struct ModelSource {
    tiles: Vec<TileKind>,
    views: Vec<MatrixView>,
    pieces: Vec<Bytes>,
    rounding: Rounding,
    calibrated: BTreeMap<TileId, CodeBlock>,
}

impl ModelSource {
    /// The source of a program whose matrices are `views` (by matrix id) and whose data is the
    /// concatenation of `pieces`.
    pub fn new(program: &TileProgram, views: Vec<MatrixView>, pieces: Vec<Bytes>) -> Self {
        let tiles = program.tiles.iter().map(|t| t.kind.clone()).collect();
        ModelSource { tiles, views, pieces, rounding: Rounding::default(), calibrated: BTreeMap::new() }
    }

    /// How tiles that were not calibrated are rounded.
    pub fn set_rounding(&mut self, rounding: Rounding) {
        self.rounding = rounding;
    }

    /// Keeps what calibration found.
    pub fn set_calibrated(&mut self, found: Calibrated) {
        self.calibrated = found.blocks;
        let mut start = 0u64;
        for piece in &mut self.pieces {
            if let Some(values) = found.data.get(&start).filter(|v| v.len() * 4 == piece.len()) {
                let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                start += piece.len() as u64;
                *piece = bytes.into();
            } else {
                start += piece.len() as u64;
            }
        }
    }

    /// The unquantised elements of a matrix, `[k][n]`.
    pub fn matrix(&self, id: MatrixId) -> Option<Vec<f32>> {
        let view = self.views.get(id.index())?;
        view.read(0..view.k, 0..view.n)
    }

    /// One column of a matrix.
    pub fn column(&self, id: MatrixId, column: u32) -> Option<Vec<f32>> {
        let view = self.views.get(id.index())?;
        view.read(0..view.k, column..column.checked_add(1)?)
    }

    /// The unquantised elements of a matrix tile, `[k][n]`.
    pub fn weights(&self, id: TileId) -> Option<Vec<f32>> {
        match self.tiles.get(id.index())? {
            TileKind::Matrix { matrix, k, n, .. } => {
                self.views.get(matrix.index())?.read(k.clone(), n.clone())
            }
            TileKind::Data { .. } => None,
        }
    }

    /// What rounding costs a tile whose contents, as this source gives them, are `content`: (signal, error) sums of squares of
    /// its weights and of what they changed by, so that tiles add up; `None` for data.
    pub fn rounding(&self, id: TileId, content: TileContent) -> Option<(f64, f64)> {
        let weights = self.weights(id)?;
        let rounded = match content {
            TileContent::Codes(b) => b.dequantize(),
            TileContent::Real(b) => b.values,
            TileContent::Data(_) => return None,
        };
        let square = |v: f32| f64::from(v) * f64::from(v);
        let error = weights.iter().zip(&rounded).map(|(w, r)| square(w - r)).sum();
        Some((weights.iter().map(|&w| square(w)).sum(), error))
    }

    /// Bytes of the data; `None` outside of it.
    pub fn data(&self, offset: u64, len: u64) -> Option<Vec<u8>> {
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
        if let Some(block) = self.calibrated.get(&id) {
            return Ok(TileContent::Codes(block.clone()));
        }
        let content = || -> Option<TileContent> {
            Some(match self.tiles.get(id.index())? {
                TileKind::Data { offset, len } => TileContent::Data(self.data(*offset, *len)?),
                TileKind::Matrix { matrix, k, n, scheme } => {
                    let values = self.views.get(matrix.index())?.read(k.clone(), n.clone())?;
                    let (k, n) = (k.len(), n.len());
                    match (*scheme, self.rounding) {
                        (Scheme::Real, _) => TileContent::Real(numerics::round_real(&values, k, n)),
                        (Scheme::Codes { bits, group, levels: Levels::Uniform }, Rounding::Plain) => {
                            let group = group as usize;
                            TileContent::Codes(numerics::quantize_codes(&values, k, n, bits, group))
                        }
                        (scheme, _) => TileContent::Codes(data_free(&values, None, k, n, scheme).ok()?),
                    }
                }
            })
        };
        content().ok_or_else(|| {
            Diagnostic::error(&E0704, format!("the model has no weights for tile {id}")).into()
        })
    }
}
