//! Where accuracy went: the error that each fixed matrix adds, worst first.
//!
//! Both sides of every comparison run the compiled program's graph, so that nothing but the matrices differs.
//! The reference has every matrix as the model has it, in f32, and takes its inputs as they are. Against it,
//! one matrix alone is replaced:
//!
//! | figure | weights | inputs |
//! |---|---|---|
//! | all | read back | as the chip takes them |
//! | weights | what the tiles should hold (`contents.pfmt`) | f32 |
//! | activations | the model's | int8 where the tiles hold codes |
//! | noise | the model's, plus what read-back differs from what the tiles should hold | f32 |
//! | one more bit | rounded afresh by their values alone, with one bit more in the same groups | f32 |
//!
//! Saturation is the part of a matrix's inputs that lie outside the range of int8 activations. There are none
//! where their scale is that of the row's largest magnitude ([`numerics::quantize_row`]).

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Mutex;

use pfmc_ir::backend::{Progress, ReadBack};
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::exec::{Executor, FixedMatrices};
use pfmc_ir::loaded::LoadedMatrices;
use pfmc_ir::numerics;
use pfmc_ir::program::TileProgram;
use pfmc_ir::tile::{
    Activations, CODEBOOK_BITS_MAX, FixedMatrix, Levels, MatrixId, RealBlock, Scheme, Tile, TileContent,
    TileId, TileKind, TileSource,
};
use rayon::prelude::*;
use serde::Serialize;

use crate::codes::{E0405, E0704};
use crate::compile::find;
use crate::contents::Reference;
use crate::evaluate::{Judge, Score, of_sample};
use crate::passes::fix::Found;
use crate::quantise::data_free;
use crate::quantise::equalise::equalise;
use crate::quantise::plan::{self, WeightPlan};
use crate::run::Dequantised;
use crate::samples::{Inputs, Samples};
use crate::verify::open;

/// What replacing matrices adds at the outputs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Effect {
    /// Squared error relative to the reference's squares: of the logits where there are some, else the mean
    /// over the float outputs.
    pub error: f64,
    /// The same in dB; `None` for no error.
    pub error_db: Option<f64>,
    /// Mean Kullback-Leibler divergence of the logits, in nats.
    pub kl_nats: Option<f64>,
    /// Bits a token more.
    pub bits_per_token: Option<f64>,
}

fn decibel(ratio: f64) -> Option<f64> {
    (ratio > 0.0).then(|| 10.0 * ratio.log10())
}

impl Effect {
    fn of(score: &Score, judge: &Judge) -> Effect {
        let error = score.error(judge);
        Effect { error, error_db: decibel(error), kl_nats: score.kl(), bits_per_token: score.added_bits() }
    }
}

/// The effects of one matrix, or of all at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Effects {
    /// As the chip computes.
    pub all: Effect,
    /// Of the weights alone.
    pub weights: Effect,
    /// Of rounding activations alone.
    pub activations: Effect,
    /// Of what the artefact holds against what it should hold alone.
    pub noise: Effect,
    /// Of the weights alone, rounded with one bit more; `None` where that is impossible.
    pub one_more_bit: Option<Effect>,
}

/// Which matrix of a program a layer is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerInfo {
    /// Number in the program.
    pub matrix: MatrixId,
    /// Source tensor.
    pub name: String,
    /// Source nodes.
    pub nodes: Vec<String>,
    /// Rows: inputs.
    pub k: u32,
    /// Columns: outputs.
    pub n: u32,
    /// Schemes of its tiles.
    pub scheme: String,
}

impl LayerInfo {
    /// Of a matrix of a program and its number there.
    pub(crate) fn new(program: &TileProgram, matrix: MatrixId, m: &FixedMatrix) -> LayerInfo {
        let tiles = tiles_of(program, matrix).into_iter();
        let schemes: BTreeSet<String> =
            tiles.filter_map(|id| program.matrix_tile(id).map(|t| t.2.to_string())).collect();
        LayerInfo {
            matrix,
            name: m.origin.tensor.clone().unwrap_or_else(|| format!("matrix {matrix}")),
            nodes: m.origin.nodes.clone(),
            k: m.k,
            n: m.n,
            scheme: schemes.into_iter().collect::<Vec<_>>().join(", "),
        }
    }
}

impl fmt::Display for LayerInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}, {}", self.k, self.n, self.scheme)
    }
}

/// One matrix.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Layer {
    /// Which.
    #[serde(flatten)]
    pub info: LayerInfo,
    /// Squared error of its own results, given the reference's inputs, relative to their squares; `None` for
    /// a matrix that no sample reached.
    pub local_error: Option<f64>,
    /// Part of its inputs that the range of int8 activations cuts off.
    pub saturated: f64,
    /// At the outputs; `None` where only the local error was asked for.
    pub effects: Option<Effects>,
}

/// The table of one output folder.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerTable {
    /// Output folder.
    pub folder: String,
    /// What errors are measured at.
    pub output: String,
    /// Samples measured on.
    pub samples: usize,
    /// All matrices replaced at once.
    pub together: Effects,
    /// Matrices, worst first: by the error of all effects at the outputs, then by the local error.
    pub layers: Vec<Layer>,
}

/// Matrix tiles as the model has them, unrounded.
struct FromModel<'a> {
    tiles: &'a [Tile],
    found: &'a [Found],
}

impl TileSource for FromModel<'_> {
    fn tile(&self, id: TileId) -> Result<TileContent, Diagnostics> {
        let read = || match &self.tiles.get(id.index())?.kind {
            TileKind::Matrix { matrix, k, n, .. } => {
                let values = self.found.get(matrix.index())?.view.read(k.clone(), n.clone())?;
                Some(TileContent::Real(RealBlock { k: k.len(), n: n.len(), values }))
            }
            TileKind::Data { .. } => None,
        };
        read().ok_or_else(|| {
            Diagnostic::error(&E0704, format!("the model has no weights for tile {id}")).into()
        })
    }
}

/// The values of a matrix tile, codes dequantised.
fn values(source: &dyn TileSource, id: TileId) -> Result<RealBlock, Diagnostics> {
    match Dequantised(source).tile(id)? {
        TileContent::Real(b) => Ok(b),
        _ => Err(Diagnostic::error(&E0704, format!("tile {id} holds no matrix")).into()),
    }
}

/// The model's tiles plus what the artefact's differ from those it should hold.
struct Noisy<'a> {
    model: &'a dyn TileSource,
    wanted: &'a dyn TileSource,
    held: &'a dyn TileSource,
}

impl TileSource for Noisy<'_> {
    fn tile(&self, id: TileId) -> Result<TileContent, Diagnostics> {
        let mut block = values(self.model, id)?;
        let (wanted, held) = (values(self.wanted, id)?, values(self.held, id)?);
        for ((v, w), h) in block.values.iter_mut().zip(&wanted.values).zip(&held.values) {
            *v += h - w;
        }
        Ok(TileContent::Real(block))
    }
}

/// The model's tiles rounded to codes of one bit more than the tiles have, in the same groups.
struct OneMoreBit<'a> {
    model: &'a dyn TileSource,
    wanted: &'a dyn TileSource,
}

impl TileSource for OneMoreBit<'_> {
    fn tile(&self, id: TileId) -> Result<TileContent, Diagnostics> {
        let block = values(self.model, id)?;
        match self.wanted.tile(id)? {
            TileContent::Codes(b) if b.bits < 8 => {
                let bits = b.bits + 1;
                let book = !b.codebook.is_empty() && bits <= CODEBOOK_BITS_MAX;
                let levels = if book { Levels::Codebook } else { Levels::Uniform };
                let scheme =
                    Scheme::Codes { bits, group: u32::try_from(b.group).unwrap_or(u32::MAX), levels };
                let codes = data_free(&block.values, None, block.k, block.n, scheme);
                let values = codes.map_err(|e| Diagnostic::error(&E0405, e.to_string()))?.dequantize();
                Ok(TileContent::Real(RealBlock { values, ..block }))
            }
            other => Ok(other),
        }
    }
}

/// Some tiles of another source under new numbers.
struct Chosen<'a> {
    tiles: Vec<TileId>,
    source: &'a dyn TileSource,
}

impl TileSource for Chosen<'_> {
    fn tile(&self, id: TileId) -> Result<TileContent, Diagnostics> {
        let id = self.tiles.get(id.index()).copied();
        self.source.tile(id.ok_or_else(|| Diagnostic::error(&E0704, "there is no such tile"))?)
    }
}

/// One matrix of a program, as matrix 0.
fn single(
    program: &TileProgram,
    matrix: MatrixId,
    source: &dyn TileSource,
) -> Result<LoadedMatrices, Diagnostics> {
    let tiles = tiles_of(program, matrix);
    let mut own = TileProgram {
        matrices: program.matrices.get(matrix.index()).cloned().into_iter().collect(),
        tiles: tiles.iter().filter_map(|id| program.tiles.get(id.index()).cloned()).collect(),
        ..TileProgram::default()
    };
    for tile in &mut own.tiles {
        if let TileKind::Matrix { matrix, .. } = &mut tile.kind {
            *matrix = MatrixId(0);
        }
    }
    let chosen = Chosen { tiles, source };
    LoadedMatrices::load(&own, &chosen, &chosen)
}

pub(crate) fn tiles_of(program: &TileProgram, matrix: MatrixId) -> Vec<TileId> {
    let of = |t: &Tile| matches!(t.kind, TileKind::Matrix { matrix: m, .. } if m == matrix);
    program.tiles().filter(|(_, t)| of(t)).map(|(id, _)| id).collect()
}

/// Products with inputs rounded to int8 and taken back to f32, where the tiles hold codes.
struct Rounded<'a> {
    inner: &'a dyn FixedMatrices,
    /// For each matrix its rows and how its inputs are rounded, where it has codes.
    codes: &'a [Option<(usize, Activations)>],
}

impl Rounded<'_> {
    fn inputs(&self, matrix: MatrixId, x: &[f32]) -> Vec<f32> {
        let mut out = x.to_vec();
        if let Some(&Some((k, activations))) = self.codes.get(matrix.index()) {
            let mut q = vec![0i8; k];
            for row in out.chunks_mut(k.max(1)) {
                let scale = numerics::quantize_activations(activations, row, &mut q);
                for (x, q) in row.iter_mut().zip(&q) {
                    *x = f32::from(*q) * scale;
                }
            }
        }
        out
    }
}

impl FixedMatrices for Rounded<'_> {
    fn linear(&self, matrix: MatrixId, x: &[f32]) -> Result<Vec<f32>, Diagnostics> {
        self.inner.linear(matrix, &self.inputs(matrix, x))
    }
    fn grouped(&self, matrix: MatrixId, groups: usize, x: &[f32]) -> Result<Vec<f32>, Diagnostics> {
        self.inner.grouped(matrix, groups, &self.inputs(matrix, x))
    }
    fn lookup(&self, matrix: MatrixId, indices: &[i64]) -> Result<Vec<f32>, Diagnostics> {
        self.inner.lookup(matrix, indices)
    }
    fn data(&self, offset: u64, len: u64) -> Result<Vec<u8>, Diagnostics> {
        self.inner.data(offset, len)
    }
}

/// The reference with one matrix from elsewhere.
struct Replaced<'a> {
    base: &'a dyn FixedMatrices,
    matrix: MatrixId,
    by: &'a dyn FixedMatrices,
    /// What the matrix is called there.
    there: MatrixId,
}

impl Replaced<'_> {
    fn of(&self, matrix: MatrixId) -> (&dyn FixedMatrices, MatrixId) {
        if matrix == self.matrix { (self.by, self.there) } else { (self.base, matrix) }
    }
}

impl FixedMatrices for Replaced<'_> {
    fn linear(&self, matrix: MatrixId, x: &[f32]) -> Result<Vec<f32>, Diagnostics> {
        let (m, id) = self.of(matrix);
        m.linear(id, x)
    }
    fn grouped(&self, matrix: MatrixId, groups: usize, x: &[f32]) -> Result<Vec<f32>, Diagnostics> {
        let (m, id) = self.of(matrix);
        m.grouped(id, groups, x)
    }
    fn lookup(&self, matrix: MatrixId, indices: &[i64]) -> Result<Vec<f32>, Diagnostics> {
        let (m, id) = self.of(matrix);
        m.lookup(id, indices)
    }
    fn data(&self, offset: u64, len: u64) -> Result<Vec<u8>, Diagnostics> {
        self.base.data(offset, len)
    }
}

/// Sums over the results and inputs of one matrix.
#[derive(Clone, Copy, Default)]
struct Local {
    signal: f64,
    error: f64,
    inputs: u64,
    saturated: u64,
}

/// The reference, which compares each result with the artefact's for the same inputs.
struct Observed<'a> {
    reference: &'a dyn FixedMatrices,
    artefact: &'a dyn FixedMatrices,
    codes: &'a [Option<(usize, Activations)>],
    sums: Mutex<Vec<Local>>,
}

impl Observed<'_> {
    fn note(&self, matrix: MatrixId, x: &[f32], want: &[f32], got: &[f32]) {
        let mut local = Local::default();
        for (w, g) in want.iter().zip(got) {
            local.signal += f64::from(*w) * f64::from(*w);
            local.error += (f64::from(*g) - f64::from(*w)).powi(2);
        }
        if let Some(&Some((k, activations))) = self.codes.get(matrix.index()) {
            let mut q = vec![0i8; k];
            for row in x.chunks(k.max(1)) {
                let scale = numerics::quantize_activations(activations, row, &mut q[..row.len()]);
                // Half a step beyond the last code is rounded to it.
                let range = (numerics::ACTIVATION_MAX as f32 + 0.5) * scale;
                local.inputs += row.len() as u64;
                local.saturated +=
                    row.iter().filter(|v| range.is_finite() && range > 0.0 && v.abs() > range).count() as u64;
            }
        }
        if let Ok(mut sums) = self.sums.lock()
            && let Some(s) = sums.get_mut(matrix.index())
        {
            s.signal += local.signal;
            s.error += local.error;
            s.inputs += local.inputs;
            s.saturated += local.saturated;
        }
    }
}

impl FixedMatrices for Observed<'_> {
    fn linear(&self, matrix: MatrixId, x: &[f32]) -> Result<Vec<f32>, Diagnostics> {
        let y = self.reference.linear(matrix, x)?;
        self.note(matrix, x, &y, &self.artefact.linear(matrix, x)?);
        Ok(y)
    }
    fn grouped(&self, matrix: MatrixId, groups: usize, x: &[f32]) -> Result<Vec<f32>, Diagnostics> {
        let y = self.reference.grouped(matrix, groups, x)?;
        self.note(matrix, x, &y, &self.artefact.grouped(matrix, groups, x)?);
        Ok(y)
    }
    fn lookup(&self, matrix: MatrixId, indices: &[i64]) -> Result<Vec<f32>, Diagnostics> {
        let y = self.reference.lookup(matrix, indices)?;
        self.note(matrix, &[], &y, &self.artefact.lookup(matrix, indices)?);
        Ok(y)
    }
    fn data(&self, offset: u64, len: u64) -> Result<Vec<u8>, Diagnostics> {
        self.reference.data(offset, len)
    }
}

/// Runs of the program with other matrices, scored against the reference's.
struct Bench<'a> {
    program: &'a TileProgram,
    judge: &'a Judge,
    samples: &'a Samples,
    want: Vec<Inputs>,
    progress: &'a dyn Progress,
}

impl Bench<'_> {
    fn outputs(&self, fixed: &dyn FixedMatrices) -> Result<Vec<Inputs>, Diagnostics> {
        let executor = Executor::new(&self.program.graph, fixed)?;
        let run = |(i, inputs): (usize, &Inputs)| {
            let out = executor.run(inputs).map_err(of_sample(i));
            self.progress.advance(1);
            out
        };
        self.samples.iter().enumerate().map(run).collect()
    }

    fn effect(&self, fixed: &dyn FixedMatrices) -> Result<Effect, Diagnostics> {
        let mut score = Score::default();
        for (i, (want, got)) in self.want.iter().zip(self.outputs(fixed)?).enumerate() {
            score.add(self.judge, self.samples, i, want, &got).map_err(of_sample(i))?;
        }
        Ok(Effect::of(&score, self.judge))
    }

    /// No effect, with the figures that others have.
    fn nothing(&self, like: &Effect) -> Effect {
        Effect {
            error: 0.0,
            error_db: None,
            kl_nats: like.kl_nats.map(|_| 0.0),
            bits_per_token: like.bits_per_token.map(|_| 0.0),
        }
    }
}

/// The tiles of a program from everywhere that they can be taken from.
struct Tiles<'a> {
    program: &'a TileProgram,
    model: FromModel<'a>,
    wanted: &'a Reference,
    held: &'a dyn ReadBack,
    data: &'a dyn TileSource,
    /// Rows of each matrix that has codes, and how its inputs are rounded.
    codes: Vec<Option<(usize, Activations)>>,
    /// Whether a matrix is held other than wanted.
    noisy: Vec<bool>,
    /// Whether a matrix has codes that could have one bit more.
    growing: Vec<bool>,
}

impl<'a> Tiles<'a> {
    fn new(
        program: &'a TileProgram,
        found: &'a [Found],
        (wanted, held): (&'a Reference, &'a dyn ReadBack),
        data_held: bool,
    ) -> Result<Tiles<'a>, Diagnostics> {
        let none = program.matrices.len();
        let mut tiles = Tiles {
            program,
            model: FromModel { tiles: &program.tiles, found },
            wanted,
            held,
            data: if data_held { held } else { wanted },
            codes: vec![None; none],
            noisy: vec![false; none],
            growing: vec![false; none],
        };
        let matrix_tiles: Vec<(TileId, MatrixId)> = program
            .tiles()
            .filter_map(|(id, t)| match t.kind {
                TileKind::Matrix { matrix, .. } => Some((id, matrix)),
                TileKind::Data { .. } => None,
            })
            .collect();
        // Bits of the codes, and whether read-back found what is wanted.
        let look = |(id, _): &(TileId, MatrixId)| -> Result<(Option<u8>, bool), Diagnostics> {
            let content = wanted.tile(*id)?;
            let bits = if let TileContent::Codes(b) = &content { Some(b.bits) } else { None };
            Ok((bits, held.tile(*id)? != content))
        };
        let looks: Vec<Result<_, Diagnostics>> = matrix_tiles.par_iter().map(look).collect();
        for ((_, matrix), look) in matrix_tiles.iter().zip(looks) {
            let ((bits, differs), i) = (look?, matrix.index());
            if let (Some(bits), Some(m)) = (bits, program.matrices.get(i)) {
                tiles.codes[i] = Some((m.k as usize, m.activations));
                tiles.growing[i] |= bits < 8;
            }
            tiles.noisy[i] |= differs;
        }
        Ok(tiles)
    }

    fn load(&self, source: &dyn TileSource) -> Result<LoadedMatrices, Diagnostics> {
        LoadedMatrices::load(self.program, source, self.data)
    }

    /// The effects of all matrices at once.
    fn together(
        &self,
        bench: &Bench<'_>,
        reference: &LoadedMatrices,
        artefact: &LoadedMatrices,
    ) -> Result<Effects, Diagnostics> {
        let all = bench.effect(artefact)?;
        let weights = bench.effect(&self.load(&Dequantised(self.wanted))?)?;
        let activations = if self.codes.iter().any(Option::is_some) {
            bench.effect(&Rounded { inner: reference, codes: &self.codes })?
        } else {
            bench.nothing(&all)
        };
        let noise = if self.noisy.contains(&true) {
            let held: &dyn TileSource = self.held;
            bench.effect(&self.load(&Noisy { model: &self.model, wanted: self.wanted, held })?)?
        } else {
            bench.nothing(&all)
        };
        let one_more_bit = if self.growing.contains(&true) {
            Some(bench.effect(&self.load(&OneMoreBit { model: &self.model, wanted: self.wanted })?)?)
        } else {
            None
        };
        Ok(Effects { all, weights, activations, noise, one_more_bit })
    }

    /// The effects of one matrix.
    fn alone(
        &self,
        bench: &Bench<'_>,
        reference: &LoadedMatrices,
        artefact: &LoadedMatrices,
        matrix: MatrixId,
    ) -> Result<Effects, Diagnostics> {
        let replaced =
            |by: &dyn FixedMatrices, there| bench.effect(&Replaced { base: reference, matrix, by, there });
        let own = |source: &dyn TileSource| replaced(&single(self.program, matrix, source)?, MatrixId(0));
        let has = |list: &[bool]| list.get(matrix.index()).is_some_and(|b| *b);
        let all = replaced(artefact, matrix)?;
        let weights = own(&Dequantised(self.wanted))?;
        let activations = if self.codes.get(matrix.index()).is_some_and(Option::is_some) {
            replaced(&Rounded { inner: reference, codes: &self.codes }, matrix)?
        } else {
            bench.nothing(&all)
        };
        let noise = if has(&self.noisy) {
            own(&Noisy { model: &self.model, wanted: self.wanted, held: self.held })?
        } else {
            bench.nothing(&all)
        };
        let one_more_bit = if has(&self.growing) {
            Some(own(&OneMoreBit { model: &self.model, wanted: self.wanted })?)
        } else {
            None
        };
        Ok(Effects { all, weights, activations, noise, one_more_bit })
    }
}

/// Whether the matrices found in a model are those of a program.
fn same_matrices(program: &TileProgram, found: &[Found]) -> bool {
    let same = |(m, f): (&FixedMatrix, &Found)| {
        (m.k, m.n) == (f.view.k, f.view.n) && m.origin.tensor == f.origin.tensor
    };
    program.matrices.len() == found.len() && program.matrices.iter().zip(found).all(same)
}

/// Measures the layers of an output folder against the model it was made from. The effects at the outputs are
/// measured for the `most` matrices of the largest local errors, for all when it is 0.
///
/// # Errors
/// A folder that was not made from this model, samples that do not fit it, and what runs report.
pub fn measure(
    model: &Path,
    folder: &Path,
    judge: &Judge,
    samples: &Samples,
    most: usize,
    progress: &dyn Progress,
) -> Result<LayerTable, Diagnostics> {
    let opened = open(folder)?;
    let program = &opened.program;
    samples.check(&program.graph)?;
    let mut fixed = find(model, &opened.manifest.bindings, &opened.manifest.quantisation.keep, progress)?;
    if fixed.model.sha256 != opened.manifest.model.sha256 || !same_matrices(program, &fixed.found) {
        let message = format!("{} was not compiled from {}", folder.display(), model.display());
        return Err(Diagnostic::error(&E0704, message)
            .help("give the model of the folder's manifest first")
            .into());
    }
    let plan = WeightPlan::read(&folder.join(plan::FILE), &fixed.found)?;
    if !plan.equalised.is_empty() {
        equalise(&mut fixed.graph, &mut fixed.found, &plan.equalised)?;
    }
    let wanted = Reference::open(program, folder)?;
    let held = opened.target.read_back(program, folder, progress)?;
    progress.begin("decoding", 0);
    let data_held = opened.target.caps().data_tile_bytes.is_some();
    let tiles = Tiles::new(program, &fixed.found, (&wanted, &*held), data_held)?;
    let reference = tiles.load(&tiles.model)?;
    let artefact = tiles.load(&*held)?;

    let observed = Observed {
        reference: &reference,
        artefact: &artefact,
        codes: &tiles.codes,
        sums: Mutex::new(vec![Local::default(); program.matrices.len()]),
    };
    progress.begin("layers: local errors", samples.len() as u64);
    let mut bench = Bench { program, judge, samples, want: Vec::new(), progress };
    bench.want = bench.outputs(&observed)?;
    let sums = observed.sums.lock().map(|s| s.clone()).unwrap_or_default();
    let mut layers: Vec<Layer> = program
        .matrices()
        .zip(&sums)
        .map(|((id, m), s)| Layer {
            info: LayerInfo::new(program, id, m),
            local_error: match () {
                () if s.signal > 0.0 => Some(s.error / s.signal),
                () => (s.error > 0.0).then_some(f64::INFINITY),
            },
            saturated: s.saturated as f64 / s.inputs.max(1) as f64,
            effects: None,
        })
        .collect();
    let worst_first = |layers: &mut [Layer]| {
        // A result that is not finite is the worst there is.
        let key = |e: Option<f64>| e.map_or(-1.0, |e| if e.is_nan() { f64::INFINITY } else { e });
        layers.sort_by(|a, b| {
            let of = |l: &Layer| (key(l.effects.map(|e| e.all.error)), key(l.local_error));
            let ((a_out, a_own), (b_out, b_own)) = (of(a), of(b));
            b_out.total_cmp(&a_out).then(b_own.total_cmp(&a_own)).then(a.info.matrix.cmp(&b.info.matrix))
        });
    };
    worst_first(&mut layers);

    let chosen = if most == 0 { layers.len() } else { most.min(layers.len()) };
    let kinds = 2
        + usize::from(tiles.codes.iter().any(Option::is_some))
        + usize::from(tiles.noisy.contains(&true))
        + usize::from(tiles.growing.contains(&true));
    progress.begin("layers: effects", ((chosen + 1) * kinds * samples.len()) as u64);
    let together = tiles.together(&bench, &reference, &artefact)?;
    for layer in layers.iter_mut().take(chosen).filter(|l| l.local_error.is_some()) {
        layer.effects = Some(tiles.alone(&bench, &reference, &artefact, layer.info.matrix)?);
    }
    worst_first(&mut layers);
    Ok(LayerTable {
        folder: folder.display().to_string(),
        output: judge.logits().unwrap_or("the float outputs").to_owned(),
        samples: samples.len(),
        together,
        layers,
    })
}

impl fmt::Display for LayerTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let db = |e: Option<f64>| e.map_or("none".to_owned(), |e| format!("{e:.1}"));
        let with_logits = self.together.all.kl_nats.is_some();
        let figures = |e: &Effects| {
            let more = e.one_more_bit.map_or("-".to_owned(), |e| db(e.error_db));
            let mut line = format!(
                "{:>7} {:>7} {:>7} {:>7} {:>7}",
                db(e.all.error_db),
                db(e.weights.error_db),
                db(e.activations.error_db),
                db(e.noise.error_db),
                more
            );
            if with_logits {
                let bits = e.all.bits_per_token.map_or("-".to_owned(), |b| format!("{b:+.5}"));
                line.push_str(&format!(" {:>9.2e} {bits:>9}", e.all.kl_nats.unwrap_or(0.0)));
            }
            line
        };
        writeln!(
            f,
            "{}: error added at {} by each layer alone, {} samples, dB, worst first",
            self.folder, self.output, self.samples
        )?;
        let mut head = format!("{:>7} {:>7} {:>7} {:>7} {:>7}", "all", "weights", "int8", "noise", "+1 bit");
        if with_logits {
            head.push_str(&format!(" {:>9} {:>9}", "KL nats", "bits"));
        }
        writeln!(f, "{head} {:>7} {:>7}  layer", "satur.", "local")?;
        write!(f, "{} {:>7} {:>7}  all layers together", figures(&self.together), "", "")?;
        let blank = " ".repeat(head.len());
        for l in &self.layers {
            let effects = l.effects.as_ref().map_or_else(|| blank.clone(), &figures);
            let saturated = if l.saturated > 0.0 { format!("{:.1e}", l.saturated) } else { "0".into() };
            let local = l.local_error.map_or("unused".to_owned(), |e| db(decibel(e)));
            let what = format!("{} ({}; {})", l.info.name, l.info.nodes.join(", "), l.info);
            write!(f, "\n{effects} {saturated:>7} {local:>7}  {what}")?;
        }
        Ok(())
    }
}
