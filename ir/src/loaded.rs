//! Fixed matrices in memory.

use std::collections::BTreeMap;
use std::ops::{Deref, Range};

use rayon::prelude::*;

use crate::diag::Diagnostics;
use crate::eval;
use crate::exec::{FixedMatrices, fixed_error};
use crate::grouped;
use crate::numerics;
use crate::program::TileProgram;
use crate::tile::{Activations, FixedMatrix, MatrixId, RealBlock, TileContent, TileId, TileKind, TileSource};

/// A fixed matrix in memory, multiplied with as [`numerics`] says.
pub struct LoadedMatrix {
    k: usize,
    n: usize,
    activations: Activations,
    /// In ascending order of n, then k.
    tiles: Vec<LoadedTile>,
}

impl LoadedMatrix {
    /// A matrix without tiles; an empty one multiplies to zeros.
    pub fn new(matrix: &FixedMatrix) -> LoadedMatrix {
        let (k, n) = (matrix.k as usize, matrix.n as usize);
        LoadedMatrix { k, n, activations: matrix.activations, tiles: Vec::new() }
    }

    /// Adds the content of rows `k` and columns `n`.
    ///
    /// # Errors
    /// When it is of another shape, or data.
    pub fn insert(&mut self, k: &Range<u32>, n: &Range<u32>, content: TileContent) -> Result<(), String> {
        let (k, n) = (k.start as usize..k.end as usize, n.start as usize..n.end as usize);
        let fits = k.end <= self.k
            && n.end <= self.n
            && match &content {
                TileContent::Codes(b) => (b.k, b.n) == (k.len(), n.len()),
                TileContent::Real(b) => (b.k, b.n) == (k.len(), n.len()),
                TileContent::Data(_) => false,
            };
        if !fits {
            return Err("it is not what the program declares".into());
        }
        let key = |t: &LoadedTile| (t.n.start, t.k.start);
        let at = self.tiles.partition_point(|t| key(t) < (n.start, k.start));
        self.tiles.insert(at, LoadedTile { k, n, content });
        Ok(())
    }

    /// As [`FixedMatrices::linear`].
    ///
    /// # Errors
    /// As there.
    pub fn linear(&self, x: &[f32]) -> Result<Vec<f32>, Diagnostics> {
        let LoadedMatrix { k, n, activations, ref tiles } = *self;
        if k == 0 || !x.len().is_multiple_of(k) {
            return Err(fixed_error(format!("{} inputs do not fit a matrix of {k} rows", x.len())));
        }
        let rows = x.len() / k;
        // Sums over the tiles along k, in f64 and in ascending order of k.
        let mut sums = eval::zeros::<f64>(&[rows, n]).map_err(fixed_error)?;
        let mut q = vec![0i8; x.len()];
        let codes = tiles.iter().any(|t| matches!(t.content, TileContent::Codes(_)));
        let scales: Vec<f32> = if codes {
            let rows = q.par_chunks_mut(k).zip(x.par_chunks(k));
            rows.map(|(q, x)| numerics::quantize_activations(activations, x, q)).collect()
        } else {
            Vec::new()
        };
        let part = |tile: &LoadedTile, r: usize| r * k + tile.k.start..r * k + tile.k.end;
        for tile in tiles {
            let width = tile.n.len();
            match &tile.content {
                TileContent::Codes(block) => {
                    let xs: Vec<i8> = (0..rows).flat_map(|r| q[part(tile, r)].iter().copied()).collect();
                    let mut acc = vec![0i32; rows * width];
                    numerics::accumulate(block, &xs, rows, &mut acc);
                    for (r, acc) in acc.chunks_exact(width).enumerate() {
                        let out = &mut sums[r * n + tile.n.start..r * n + tile.n.end];
                        for (s, a) in out.iter_mut().zip(acc) {
                            *s += f64::from(*a) * f64::from(block.unit);
                        }
                    }
                }
                TileContent::Real(block) => {
                    let xs: Vec<f32> = (0..rows).flat_map(|r| x[part(tile, r)].iter().copied()).collect();
                    let y = eval::matmul::product_f32(&xs, &block.values, rows, block.k, block.n);
                    for (r, y) in y.chunks_exact(width).enumerate() {
                        let out = &mut sums[r * n + tile.n.start..r * n + tile.n.end];
                        for (s, v) in out.iter_mut().zip(y) {
                            *s += f64::from(*v);
                        }
                    }
                }
                TileContent::Data(_) => return Err(fixed_error("a data tile has no product")),
            }
        }
        Ok(sums
            .chunks_exact(n.max(1))
            .enumerate()
            .flat_map(|(r, row)| {
                let scale = scales.get(r).map_or(1.0, |&s| f64::from(s));
                row.iter().map(move |s| (s * scale) as f32)
            })
            .collect())
    }

    /// The same values as real ones, whose products do not round their inputs.
    pub fn unrounded(&self) -> LoadedMatrix {
        let real = |t: &LoadedTile| {
            let (k, n) = (t.k.clone(), t.n.clone());
            let values = match &t.content {
                TileContent::Codes(b) => b.dequantize(),
                TileContent::Real(b) => b.values.clone(),
                TileContent::Data(_) => Vec::new(),
            };
            LoadedTile { content: TileContent::Real(RealBlock { k: k.len(), n: n.len(), values }), k, n }
        };
        LoadedMatrix { tiles: self.tiles.iter().map(real).collect(), ..*self }
    }

    /// As [`FixedMatrices::grouped`].
    ///
    /// # Errors
    /// As there.
    pub fn grouped(&self, groups: usize, x: &[f32]) -> Result<Vec<f32>, Diagnostics> {
        let LoadedMatrix { k, n, activations, ref tiles } = *self;
        grouped::product(tiles, (k, n), activations, groups, x).map_err(fixed_error)
    }

    /// As [`FixedMatrices::lookup`].
    ///
    /// # Errors
    /// As there.
    pub fn lookup(&self, indices: &[i64]) -> Result<Vec<f32>, Diagnostics> {
        let LoadedMatrix { k, n, ref tiles, .. } = *self;
        let mut out = eval::zeros::<f32>(&[indices.len(), k]).map_err(fixed_error)?;
        for (row, &index) in out.chunks_exact_mut(k.max(1)).zip(indices) {
            let column = entry(index, n)?;
            for tile in tiles.iter().filter(|t| t.n.contains(&column)) {
                let c = column - tile.n.start;
                for (i, v) in row[tile.k.clone()].iter_mut().enumerate() {
                    *v = match &tile.content {
                        TileContent::Codes(b) => {
                            let level = f32::from(b.levels[i * b.n + c]);
                            level * f32::from(b.scales[i / b.group * b.n + c]) * b.unit
                        }
                        TileContent::Real(b) => b.values[i * b.n + c],
                        TileContent::Data(_) => return Err(fixed_error("a data tile has no columns")),
                    };
                }
            }
        }
        Ok(out)
    }
}

/// The entry of a table with `n` entries that an index means; negative ones count from the end.
///
/// # Errors
/// When there is none.
pub fn entry(index: i64, n: usize) -> Result<usize, Diagnostics> {
    let from_start = if index < 0 { index.saturating_add(n as i64) } else { index };
    let found = usize::try_from(from_start).ok().filter(|c| *c < n);
    found.ok_or_else(|| fixed_error(format!("index {index} of a table with {n} entries")))
}

pub(crate) struct LoadedTile {
    pub(crate) k: std::ops::Range<usize>,
    pub(crate) n: std::ops::Range<usize>,
    pub(crate) content: TileContent,
}

/// The fixed part of a program, loaded from a [`TileSource`] and executed as [`numerics`] says.
pub struct LoadedMatrices {
    matrices: Vec<LoadedMatrix>,
    data: Vec<u8>,
}

impl LoadedMatrices {
    /// Loads every tile: matrix tiles from `tiles`, data tiles from `data` (an artefact that does
    /// not hold data leaves it to the reference file).
    ///
    /// # Errors
    /// What the sources report, and contents that are not what the program declares.
    pub fn load(
        program: &TileProgram,
        tiles: &dyn TileSource,
        data: &dyn TileSource,
    ) -> Result<Self, Diagnostics> {
        let contents: Vec<Result<TileContent, Diagnostics>> = (0..program.tiles.len())
            .into_par_iter()
            .map(|i| {
                let id = TileId(i as u32);
                let source = match program.tiles[i].kind {
                    TileKind::Matrix { .. } => tiles,
                    TileKind::Data { .. } => data,
                };
                source.tile(id)
            })
            .collect();
        let mut matrices: Vec<_> = program.matrices.iter().map(LoadedMatrix::new).collect();
        let mut pieces = BTreeMap::new();
        for (tile, content) in program.tiles.iter().zip(contents) {
            match (&tile.kind, content?) {
                (TileKind::Matrix { matrix, k, n, .. }, content) => {
                    let loaded = matrices[matrix.index()].insert(k, n, content);
                    loaded.map_err(|e| fixed_error(format!("tile {}: {e}", tile.name)))?;
                }
                (TileKind::Data { offset, len }, TileContent::Data(b)) if b.len() as u64 == *len => {
                    pieces.insert(*offset, b);
                }
                _ => return Err(fixed_error(format!("tile {} is not what the program declares", tile.name))),
            }
        }
        let data = pieces.into_values().flatten().collect();
        Ok(LoadedMatrices { matrices, data })
    }
}

impl ById for LoadedMatrices {
    type Held<'a> = &'a LoadedMatrix;

    fn matrix(&self, id: MatrixId) -> Result<&LoadedMatrix, Diagnostics> {
        self.matrices.get(id.index()).ok_or_else(|| fixed_error(format!("no matrix {id} here")))
    }

    fn bytes(&self, offset: u64, len: u64) -> Result<Vec<u8>, Diagnostics> {
        let range = usize::try_from(offset).ok().zip(usize::try_from(len).ok());
        range
            .and_then(|(o, l)| self.data.get(o..o.checked_add(l)?))
            .map(<[u8]>::to_vec)
            .ok_or_else(|| fixed_error(format!("no {len} data bytes at {offset}")))
    }
}

/// Loaded matrices by their ids, which is all that a program's products and look-ups need.
pub trait ById {
    /// How a matrix is held while it is used.
    type Held<'a>: Deref<Target = LoadedMatrix>
    where
        Self: 'a;

    /// One matrix.
    ///
    /// # Errors
    /// When there is none.
    fn matrix(&self, id: MatrixId) -> Result<Self::Held<'_>, Diagnostics>;

    /// Entries of one matrix, as [`FixedMatrices::lookup`].
    ///
    /// # Errors
    /// When there is no such matrix, or entry.
    fn entries(&self, id: MatrixId, indices: &[i64]) -> Result<Vec<f32>, Diagnostics> {
        self.matrix(id)?.lookup(indices)
    }

    /// Bytes of the data.
    ///
    /// # Errors
    /// When they are outside of it.
    fn bytes(&self, offset: u64, len: u64) -> Result<Vec<u8>, Diagnostics>;
}

impl<T: ById + Sync> FixedMatrices for T {
    fn linear(&self, matrix: MatrixId, x: &[f32]) -> Result<Vec<f32>, Diagnostics> {
        self.matrix(matrix)?.linear(x)
    }

    fn grouped(&self, matrix: MatrixId, groups: usize, x: &[f32]) -> Result<Vec<f32>, Diagnostics> {
        self.matrix(matrix)?.grouped(groups, x)
    }

    fn lookup(&self, matrix: MatrixId, indices: &[i64]) -> Result<Vec<f32>, Diagnostics> {
        ById::entries(self, matrix, indices)
    }

    fn data(&self, offset: u64, len: u64) -> Result<Vec<u8>, Diagnostics> {
        ById::bytes(self, offset, len)
    }
}
