//! Execution of what was emitted.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use pfmc_ir::backend::{Disturbed, Progress, ReadBack};
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::exec::{Executor, FixedMatrices};
use pfmc_ir::graph::Graph;
use pfmc_ir::loaded::LoadedMatrices;
use pfmc_ir::program::TileProgram;
use pfmc_ir::random::{mix, normal};
use pfmc_ir::shape::OpenType;
use pfmc_ir::tensor::Tensor;
use pfmc_ir::tile::{MatrixId, RealBlock, TileContent, TileId, TileKind, TileSource};
use rayon::prelude::*;
use serde::Serialize;

use crate::codes::E0005;
use crate::contents::Reference;
use crate::verify::{Opened, open};

/// How the inputs of products with fixed matrices of codes are taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Activations {
    /// Rounded to int8 with one scale a row, as the chip does.
    #[default]
    Int8,
    /// As they are, times dequantised weights: what the weights alone cost. No chip does this. Real-valued
    /// weights take their inputs as they are in either case.
    Float,
}

/// Tiles of another source, codes as the real numbers that they stand for.
pub struct Dequantised<'a>(pub &'a dyn TileSource);

impl TileSource for Dequantised<'_> {
    fn tile(&self, id: TileId) -> Result<TileContent, Diagnostics> {
        Ok(match self.0.tile(id)? {
            TileContent::Codes(b) => TileContent::Real(RealBlock { k: b.k, n: b.n, values: b.dequantize() }),
            other => other,
        })
    }
}

/// How a compiled model is run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct How {
    /// How inputs of products with codes are taken.
    pub activations: Activations,
    /// The draw of the process's nominal noise, of writing and of each reading; none without.
    pub noise: Option<u64>,
}

impl From<Activations> for How {
    fn from(activations: Activations) -> How {
        How { activations, noise: None }
    }
}

/// What noise did to all tiles, beside what their budget says: signal over error, dB.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct NoiseReport {
    /// The draw.
    pub seed: u64,
    /// With the drawn faults and the noise of one reading, each weight counted as much.
    pub drawn_db: f64,
    /// The manifest's figure.
    pub budget_db: Option<f64>,
}

/// A compiled model, decoded from its artefact and ready to run.
pub struct Runnable {
    opened: Opened,
    matrices: Box<dyn FixedMatrices>,
    noise: Option<NoiseReport>,
}

impl Runnable {
    /// Decodes the artefact in a folder. Matrix tiles come from the artefact; data too, where the
    /// target holds it, else from the reference contents.
    ///
    /// # Errors
    /// A folder or an artefact that cannot be read.
    pub fn load(folder: &Path, progress: &dyn Progress) -> Result<Runnable, Diagnostics> {
        Self::load_as(folder, How::default(), progress)
    }

    /// As [`Runnable::load`], as asked.
    ///
    /// # Errors
    /// As [`Runnable::load`], and noise of a target that has none.
    pub fn load_as(
        folder: &Path,
        how: impl Into<How>,
        progress: &dyn Progress,
    ) -> Result<Runnable, Diagnostics> {
        let How { activations, noise } = how.into();
        let opened = open(folder)?;
        let (matrices, noise): (Box<dyn FixedMatrices>, _) = {
            let reference = Reference::open(&opened.program, folder)?;
            let read_back = opened.target.read_back(&opened.program, folder, progress)?;
            progress.begin("decoding", 0);
            let data: &dyn TileSource =
                if opened.target.caps().data_tile_bytes.is_some() { &*read_back } else { &reference };
            let load = |tiles: &dyn TileSource| match activations {
                Activations::Int8 => LoadedMatrices::load(&opened.program, tiles, data),
                Activations::Float => LoadedMatrices::load(&opened.program, &Dequantised(tiles), data),
            };
            match noise {
                None => (Box::new(load(&*read_back)?), None),
                Some(seed) => {
                    let draw = Draw::new(&*read_back, &reference, seed);
                    let inner = load(&draw)?;
                    let (readings, drawn_db) = draw.finish(&opened.program);
                    let figures = &opened.manifest.figures;
                    let budget_db = figures.iter().find(|f| f.name == BUDGET).map(|f| f.value);
                    let report = NoiseReport { seed, drawn_db, budget_db };
                    (Box::new(Noisy { inner, readings, seed }), Some(report))
                }
            }
        };
        Ok(Runnable { opened, matrices, noise })
    }

    /// What noise did, where there is some.
    pub fn noise(&self) -> Option<NoiseReport> {
        self.noise
    }

    /// The host graph.
    pub fn graph(&self) -> &Graph<OpenType> {
        &self.opened.program.graph
    }

    /// The fixed matrices and data.
    pub fn fixed(&self) -> &dyn FixedMatrices {
        &*self.matrices
    }

    /// An executor of the program.
    ///
    /// # Errors
    /// When the program's graph has a cycle.
    pub fn executor(&self) -> Result<Executor<'_, OpenType>, Diagnostics> {
        Executor::new(self.graph(), self.fixed())
    }

    /// Runs once.
    ///
    /// # Errors
    /// Inputs that do not fit.
    pub fn run(&self, inputs: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>, Diagnostics> {
        self.executor()?.run(inputs)
    }
}

/// The figure of a manifest that says what noise is expected to leave.
const BUDGET: &str = "all tiles, with noise";

/// Hands out tiles with faults, and keeps what they did.
struct Draw<'a> {
    tiles: &'a dyn ReadBack,
    reference: &'a Reference,
    seed: u64,
    /// By tile: relative error power of what it holds; error power of a reading and mean square of its weights.
    done: Mutex<BTreeMap<TileId, (f64, Reading)>>,
}

/// A tile's reading: its error power relative to the outputs' mean power, and the mean square of its weights.
#[derive(Debug, Clone, Copy)]
struct Reading {
    relative: f64,
    mean_square: f64,
}

impl<'a> Draw<'a> {
    fn new(tiles: &'a dyn ReadBack, reference: &'a Reference, seed: u64) -> Draw<'a> {
        Draw { tiles, reference, seed, done: Mutex::default() }
    }

    /// Readings of the tiles of each matrix, and signal over error of all, dB.
    fn finish(self, program: &TileProgram) -> (Vec<Readings>, f64) {
        let done = self.done.into_inner().unwrap_or_else(PoisonError::into_inner);
        let shapes = program.matrices.iter().map(|m| [m.k as usize, m.n as usize]);
        let mut readings: Vec<Readings> = shapes.map(|shape| Readings { shape, parts: Vec::new() }).collect();
        let (mut errors, mut weights) = (0f64, 0f64);
        for (id, (error, reading)) in done.into_iter().filter(|(_, (_, r))| r.mean_square > 0.0) {
            let Some(TileKind::Matrix { matrix, k, n, .. }) =
                program.tiles.get(id.index()).map(|t| t.kind.clone())
            else {
                continue;
            };
            let count = f64::from(k.end - k.start) * f64::from(n.end - n.start);
            errors += count * (error + reading.relative);
            weights += count;
            let [k, n] = [k, n].map(|r| r.start as usize..r.end as usize);
            if let Some(of_matrix) = readings.get_mut(matrix.index()) {
                of_matrix.parts.push(Part { k, n, power: reading.relative * reading.mean_square });
            }
        }
        (readings, 10.0 * (weights / errors.max(f64::MIN_POSITIVE)).log10())
    }
}

impl TileSource for Draw<'_> {
    fn tile(&self, id: TileId) -> Result<TileContent, Diagnostics> {
        let Some(Disturbed { content, reading }) = self.tiles.disturbed(id, self.seed)? else {
            let d = Diagnostic::error(&E0005, "the folder's target has no noise");
            return Err(d.help("leave out --noise, or compile with --target glass").into());
        };
        if let (TileContent::Real(got), TileContent::Real(want)) = (&content, self.reference.tile(id)?) {
            let (mut error, mut power) = (0f64, 0f64);
            for (g, w) in got.values.iter().zip(&want.values) {
                error += f64::from(g - w).powi(2);
                power += f64::from(*w).powi(2);
            }
            let mean_square = power / want.values.len().max(1) as f64;
            let relative = if power > 0.0 { error / power } else { 0.0 };
            let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            done.insert(id, (relative, Reading { relative: reading, mean_square }));
        }
        Ok(content)
    }
}

/// A tile's rows and columns of its matrix, and the error power of reading an output for inputs of power 1.
#[derive(Debug, Clone)]
struct Part {
    k: Range<usize>,
    n: Range<usize>,
    power: f64,
}

/// Rows and columns of a matrix, and its tiles.
#[derive(Debug, Clone)]
struct Readings {
    shape: [usize; 2],
    parts: Vec<Part>,
}

/// Matrices whose every product is read with noise. It follows from the seed, the matrix and the inputs, not from the
/// order of products.
struct Noisy {
    inner: LoadedMatrices,
    readings: Vec<Readings>,
    seed: u64,
}

impl Noisy {
    /// Adds the noise of reading to rows of outputs `[rows][n]` of inputs `[rows][groups][k]`, a group for each of as many
    /// equal shares of the columns.
    fn add(&self, matrix: MatrixId, groups: usize, x: &[f32], y: &mut [f32]) {
        let Some(Readings { shape: [k, n], parts }) = self.readings.get(matrix.index()) else { return };
        let columns = (n / groups.max(1)).max(1);
        let inputs = |row: usize, j: usize| {
            let at = row * groups + j / columns;
            x.get(at * k..(at + 1) * k).unwrap_or_default()
        };
        let n = *n;
        y.par_chunks_mut(n.max(1)).enumerate().for_each(|(row, y)| {
            for part in parts {
                let mut known: Option<(&[f32], f64, u64)> = None;
                for (j, v) in y.iter_mut().enumerate().take(part.n.end).skip(part.n.start) {
                    let all = inputs(row, j);
                    let (power, hash) = match known {
                        Some((x, power, hash)) if std::ptr::eq(x, all) => (power, hash),
                        _ => {
                            let x = all.get(part.k.clone()).unwrap_or_default();
                            let power = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
                            let start = self.seed ^ (matrix.index() as u64) << 32 ^ part.k.start as u64;
                            let hash = x.iter().fold(start, |h, v| mix(h ^ u64::from(v.to_bits())));
                            known = Some((all, power, hash));
                            (power, hash)
                        }
                    };
                    *v += (normal(mix(hash ^ j as u64)) * (part.power * power).sqrt()) as f32;
                }
            }
        });
    }
}

impl FixedMatrices for Noisy {
    fn linear(&self, matrix: MatrixId, x: &[f32]) -> Result<Vec<f32>, Diagnostics> {
        let mut y = self.inner.linear(matrix, x)?;
        self.add(matrix, 1, x, &mut y);
        Ok(y)
    }

    fn grouped(&self, matrix: MatrixId, groups: usize, x: &[f32]) -> Result<Vec<f32>, Diagnostics> {
        let mut y = self.inner.grouped(matrix, groups, x)?;
        self.add(matrix, groups, x, &mut y);
        Ok(y)
    }

    fn lookup(&self, matrix: MatrixId, indices: &[i64]) -> Result<Vec<f32>, Diagnostics> {
        let mut y = self.inner.lookup(matrix, indices)?;
        let Some(Readings { shape: [k, n], parts }) = self.readings.get(matrix.index()) else { return Ok(y) };
        for (y, index) in y.chunks_exact_mut((*k).max(1)).zip(indices) {
            let column = if *index < 0 { index + *n as i64 } else { *index };
            for part in parts.iter().filter(|p| usize::try_from(column).is_ok_and(|c| p.n.contains(&c))) {
                for (i, v) in y.iter_mut().enumerate().take(part.k.end).skip(part.k.start) {
                    let draw = mix(self.seed ^ mix((matrix.index() as u64) << 32 ^ i as u64) ^ column as u64);
                    *v += (normal(draw) * part.power.sqrt()) as f32;
                }
            }
        }
        Ok(y)
    }

    fn data(&self, offset: u64, len: u64) -> Result<Vec<u8>, Diagnostics> {
        self.inner.data(offset, len)
    }
}
