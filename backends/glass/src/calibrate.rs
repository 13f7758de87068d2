//! What a measured transfer matrix says about the light: gains and phases of ports, and how far wavelength and tilt are off.
//!
//! The model of a measured T is `a_j b_i (M + d D_wavelength + t D_tilt)_ji`, M the transfer matrix of the written levels. To first order a
//! change of the grating vectors by dK adds `dK . dT/dK`, and `dT/dK = -i s(K)/V sum_v r_v (dn(v) - bias) exp(-i K . r_v)`: the
//! transfer matrix of index changes weighted with their place. A wavelength that is `1 + d` times the process's
//! turns all K by `-d K` (ports keep their angles); light tilted by t radians in air about y shifts the inputs' kx by
//! `2 pi t / lambda` and their kz with it. What ports can do of either is theirs: D are less their part `(alpha_j + beta_i) M`.
//!
//! Gains follow from alternating least squares, which for a product of gains is a power iteration; the two deviations from
//! normal equations between its steps. One gain is free: the inputs' root mean square is 1 and the first's phase 0.

use std::path::Path;

use pfmc_ir::codes::E0001;
use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::tile::{TileContent, TileId};
pub use rustfft::num_complex::Complex64;
use serde::{Deserialize, Serialize};

use crate::codes::E0622;
use crate::hologram::Quadrature;
use crate::reader::Schedule;
use crate::recompute::{Transfer, Written};
use crate::schedule::sign;

/// File beside the schedule.
pub const FILE: &str = "calibration.json";
/// Version of the file.
pub const FORMAT: u32 = 1;
/// Least ratio of a measured matrix to what no gains and deviations explain, dB; another tile's has less.
pub const MATCH_MIN_DB: f64 = 10.0;
/// Largest turn of a grating's phase at a tile's edge that first order follows, radians.
pub const PHASE_MAX: f64 = 0.3;
/// Sweeps of gains from nothing, and rounds of deviations with gains.
const SWEEPS: usize = 60;
const ROUNDS: usize = 20;

/// The file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// [`FORMAT`].
    pub format: u32,
    /// Tiles by number.
    pub tiles: Vec<TileCalibration>,
}

/// What was found of one tile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TileCalibration {
    /// Number.
    pub tile: u32,
    /// Name.
    pub name: String,
    /// Digest of its levels, as in the schedule, hexadecimal.
    pub levels_sha256: String,
    /// The light's wavelength over the process's, less 1.
    pub wavelength: f64,
    /// Tilt of the light about y in air, radians.
    pub tilt_rad: f64,
    /// Measured matrix over what the model leaves of it, dB.
    pub match_db: f64,
    /// Weights over what is read of them with one gain for the whole tile, dB.
    pub before_db: f64,
    /// With the gains of ports.
    pub ports_db: f64,
    /// With the gains of ports, wavelength and tilt set right too.
    pub corrected_db: f64,
    /// Complex gain of each input.
    pub input_gains: Vec<[f64; 2]>,
    /// Complex gain of each output port.
    pub output_gains: Vec<[f64; 2]>,
}

/// Gains of ports are below this.
const GAIN_MAX: f64 = 1e30;
/// Relative wavelength and tilt (rad) are at most this.
const DEVIATION_MAX: f64 = 0.1;

impl TileCalibration {
    /// Whether all numbers are in the range that is used.
    fn in_range(&self) -> bool {
        let gains = self.input_gains.iter().chain(&self.output_gains).flatten();
        let ratios = [self.match_db, self.before_db, self.ports_db, self.corrected_db];
        gains.into_iter().all(|v| v.abs() < GAIN_MAX)
            && [self.wavelength, self.tilt_rad].iter().all(|v| v.abs() <= DEVIATION_MAX)
            && ratios.iter().all(|v| v.is_finite())
    }
}

/// A tile's transfer matrix and what deviations change, `[output][input]` of the used ports.
pub(crate) struct Model {
    inputs: usize,
    base: Vec<Complex64>,
    /// A unit of relative wavelength, and a radian of tilt.
    deviations: [Vec<Complex64>; 2],
    /// Largest turn of phase at the tile's edge of each.
    edge: [f64; 2],
}

impl Model {
    /// The model of written levels and their transfer matrix over the first `inputs` x `outputs` ports.
    pub(crate) fn new(
        w: &Written,
        levels: &[u8],
        matrix: &Transfer,
        [inputs, outputs]: [usize; 2],
        wavelength_um: f64,
    ) -> Model {
        let ports = w.columns * w.rows_in;
        let pick = |t: &Transfer| -> Vec<Complex64> {
            (0..outputs * inputs)
                .map(|n| {
                    let at = n / inputs * ports + n % inputs;
                    Complex64::new(f64::from(t.re[at]), f64::from(t.im[at]))
                })
                .collect()
        };
        let base = pick(matrix);
        let moments = [0, 1, 2].map(|a| pick(&w.moment(levels, a)));
        let k_in: Vec<[f64; 3]> = (0..inputs).map(|p| w.input_k(p)).collect();
        let k_out: Vec<[f64; 3]> = (0..outputs).map(|p| w.output_k(p)).collect();
        let per_radian = std::f64::consts::TAU / wavelength_um;
        let sum = |n: usize, dk: [f64; 3]| -> Complex64 {
            (0..3).map(|a| moments[a][n] * Complex64::new(0.0, -dk[a])).sum()
        };
        let wavelength = (0..base.len())
            .map(|n| {
                let (o, i) = (k_out[n / inputs], k_in[n % inputs]);
                sum(n, [0, 1, 2].map(|a| i[a] - o[a]))
            })
            .collect();
        let tilt = (0..base.len())
            .map(|n| {
                let i = k_in[n % inputs];
                sum(n, [-per_radian, 0.0, per_radian * i[0] / i[2]])
            })
            .collect();
        let size = [0, 1, 2].map(|a| w.voxels[a] as f64 * w.pitch_um[a]);
        let steep = k_out.iter().chain(&k_in).fold(0.0, |m: f64, k| m.max(k[0].abs()));
        let slope = k_in.iter().fold(0.0, |m: f64, k| m.max((k[0] / k[2]).abs()));
        let edge = [steep * size[0], 0.5 * per_radian * (size[0] + slope * size[2])];
        let mut model = Model { inputs, base, deviations: [wavelength, tilt], edge };
        model.less_ports();
        model
    }

    /// Takes from the deviations what gains of ports do.
    fn less_ports(&mut self) {
        let (m, inputs) = (&self.base, self.inputs);
        let outputs = m.len() / inputs.max(1);
        for d in &mut self.deviations {
            let zero = Complex64::new(0.0, 0.0);
            let (mut alpha, mut beta) = (vec![zero; outputs], vec![zero; inputs]);
            for _ in 0..SWEEPS {
                for out in [true, false] {
                    let mut sums = vec![(zero, 0.0); if out { outputs } else { inputs }];
                    for (n, (d, m)) in d.iter().zip(m).enumerate() {
                        let (o, i) = (n / inputs, n % inputs);
                        let (at, other) = if out { (o, beta[i]) } else { (i, alpha[o]) };
                        sums[at].0 += (d - other * m) * m.conj();
                        sums[at].1 += m.norm_sqr();
                    }
                    let to = if out { &mut alpha } else { &mut beta };
                    to.iter_mut().zip(sums).for_each(|(t, (s, w))| *t = if w > 0.0 { s / w } else { zero });
                }
            }
            for (n, (d, m)) in d.iter_mut().zip(m).enumerate() {
                *d -= (alpha[n / inputs] + beta[n % inputs]) * m;
            }
        }
    }

    /// The matrix at given deviations.
    pub(crate) fn at(&self, by: [f64; 2]) -> Vec<Complex64> {
        let [d, t] = &self.deviations;
        self.base.iter().zip(d.iter().zip(t)).map(|(m, (d, t))| m + d * by[0] + t * by[1]).collect()
    }

    /// Whether first order follows such deviations.
    pub(crate) fn follows(&self, by: [f64; 2]) -> bool {
        (0..2).all(|p| (by[p] * self.edge[p]).abs() <= PHASE_MAX)
    }

    /// Gains of outputs and inputs, and the two deviations, that make the model most like a measured matrix.
    pub(crate) fn fit(&self, measured: &[Complex64]) -> Fit {
        let inputs = self.inputs;
        let outputs = self.base.len() / inputs.max(1);
        let one = Complex64::new(1.0, 0.0);
        let mut fit = Fit { a: vec![one; outputs], b: vec![one; inputs], by: [0.0; 2], left: 0.0 };
        let mut model = self.base.clone();
        for round in 0..=ROUNDS {
            for _ in 0..if round == 0 { SWEEPS } else { 3 } {
                fit.sweep(&model, measured);
            }
            // Normal equations of both deviations at these gains.
            let (mut n, mut r) = ([[0.0; 2]; 2], [0.0; 2]);
            for (at, t) in measured.iter().enumerate() {
                let gain = fit.a[at / inputs] * fit.b[at % inputs];
                let error = t - gain * self.base[at];
                let column = [0, 1].map(|p| gain * self.deviations[p][at]);
                for p in 0..2 {
                    r[p] += (column[p].conj() * error).re;
                    for q in 0..2 {
                        n[p][q] += (column[p].conj() * column[q]).re;
                    }
                }
            }
            let determinant = n[0][0] * n[1][1] - n[0][1] * n[1][0];
            // Too small a tile cannot tell them.
            if determinant <= 1e-6 * n[0][0] * n[1][1] {
                break;
            }
            fit.by = [
                (r[0] * n[1][1] - r[1] * n[0][1]) / determinant,
                (r[1] * n[0][0] - r[0] * n[1][0]) / determinant,
            ];
            model = self.at(fit.by);
        }
        let error: f64 = (0..measured.len())
            .map(|at| (measured[at] - fit.a[at / inputs] * fit.b[at % inputs] * model[at]).norm_sqr())
            .sum();
        fit.left = error / measured.iter().map(Complex64::norm_sqr).sum::<f64>();
        let rms = (fit.b.iter().map(Complex64::norm_sqr).sum::<f64>() / inputs as f64).sqrt();
        let first = fit.b.first().copied().unwrap_or(one);
        let turn = if first.norm() > 0.0 { first / first.norm() * rms } else { one };
        fit.b.iter_mut().for_each(|b| *b /= turn);
        fit.a.iter_mut().for_each(|a| *a *= turn);
        fit
    }
}

/// A fitted model.
pub(crate) struct Fit {
    /// Gains of outputs.
    pub(crate) a: Vec<Complex64>,
    /// Gains of inputs.
    pub(crate) b: Vec<Complex64>,
    /// Relative wavelength, tilt in radians.
    pub(crate) by: [f64; 2],
    /// Share of the measured power that it does not explain.
    pub(crate) left: f64,
}

impl Fit {
    /// Least squares of the outputs' gains, then of the inputs'.
    fn sweep(&mut self, model: &[Complex64], measured: &[Complex64]) {
        let inputs = self.b.len();
        for out in [true, false] {
            let count = if out { self.a.len() } else { inputs };
            let mut sums = vec![(Complex64::new(0.0, 0.0), 0.0); count];
            for (n, (m, t)) in model.iter().zip(measured).enumerate() {
                let (o, i) = (n / inputs, n % inputs);
                let v = m * if out { self.b[i] } else { self.a[o] };
                let at = if out { o } else { i };
                sums[at].0 += t * v.conj();
                sums[at].1 += v.norm_sqr();
            }
            let to = if out { &mut self.a } else { &mut self.b };
            for (to, (sum, weight)) in to.iter_mut().zip(sums) {
                *to = if weight > 0.0 { sum / weight } else { Complex64::new(0.0, 0.0) };
            }
        }
    }
}

/// Weights over the error of what is read after the best complex gain, dB. `single`: the real part is read.
pub(crate) fn read_db(t: &[Complex64], w: &[Complex64], single: bool) -> f64 {
    let sum = |f: &dyn Fn(&Complex64, &Complex64) -> f64| t.iter().zip(w).map(|(t, w)| f(t, w)).sum::<f64>();
    let signal = sum(&|_, w| w.norm_sqr());
    let gain = if single {
        let (rr, ii, ri) = (sum(&|t, _| t.re * t.re), sum(&|t, _| t.im * t.im), sum(&|t, _| t.re * t.im));
        let (rw, iw) = (sum(&|t, w| t.re * w.re), sum(&|t, w| t.im * w.re));
        let determinant = rr * ii - ri * ri;
        if determinant > 1e-12 * rr * ii {
            Complex64::new(rw * ii - iw * ri, rw * ri - iw * rr) / determinant
        } else {
            // All of one phase: of the gains that read it alike, the smallest.
            Complex64::new(rw, -iw) / (rr + ii)
        }
    } else {
        let (re, im) = (sum(&|t, w| (t.conj() * w).re), sum(&|t, w| (t.conj() * w).im));
        Complex64::new(re, im) / sum(&|t, _| t.norm_sqr())
    };
    let error = sum(&|t, w| {
        let e = gain * t - w;
        if single { e.re * e.re } else { e.norm_sqr() }
    });
    (10.0 * (signal / error).log10()).min(crate::schedule::SNR_MAX_DB)
}

impl Schedule<'_> {
    fn model(&self, id: TileId) -> Result<Model, Diagnostics> {
        let (record, written, process) = self.hologram(id)?;
        let used = [record.inputs as usize, process.quadrature.ports(record.outputs as usize)];
        let levels = self.levels(id)?;
        let matrix = self.matrix_of(written, &levels, used[0]);
        Ok(Model::new(written, &levels, &matrix, used, process.base.wavelength_um))
    }

    /// The transfer matrix of a tile's written levels, `[output port][input]`, without signs and gains.
    ///
    /// # Errors
    /// A tile that is not held in glass or cannot be read.
    pub fn matrix(&self, id: TileId) -> Result<Vec<Complex64>, Diagnostics> {
        Ok(self.model(id)?.base)
    }

    /// Output ports and inputs of a tile: the shape of its measured matrix.
    ///
    /// # Errors
    /// A tile that is not held in glass.
    pub fn ports(&self, id: TileId) -> Result<[usize; 2], Diagnostics> {
        let (record, _, process) = self.hologram(id)?;
        Ok([process.quadrature.ports(record.outputs as usize), record.inputs as usize])
    }

    /// Fits a measured transfer matrix, `[output port][input]`, and compares it with the weights.
    ///
    /// # Errors
    /// E0622: a matrix of another shape, not finite or beyond the range of gains, of another tile, or too far from the process's light.
    pub fn calibrate(
        &self,
        id: TileId,
        measured: &[Complex64],
        reference: &TileContent,
    ) -> Result<TileCalibration, Diagnostics> {
        let (r, _, process) = self.hologram(id)?;
        let origin = self.origin(id);
        let refuse = |what: String| {
            Diagnostics::from(
                Diagnostic::error(&E0622, format!("tile {id} ({}): {what}", r.name)).at(&origin),
            )
        };
        let [outputs, inputs] = self.ports(id)?;
        let TileContent::Real(weights) = reference else {
            return Err(refuse("its reference is not real weights".into()));
        };
        if measured.len() != outputs * inputs || weights.values.len() != inputs * r.outputs as usize {
            return Err(refuse(format!("the measured matrix is not {outputs} x {inputs}")));
        }
        if !measured.iter().all(|v| v.re.is_finite() && v.im.is_finite()) {
            return Err(refuse("the measured matrix is not finite".into()));
        }
        if r.gain == 0.0 || measured.iter().all(|v| v.norm_sqr() == 0.0) {
            return Err(refuse("nothing of it can be measured: it is zero".into()));
        }
        let model = self.model(id)?;
        let fit = model.fit(measured);
        let match_db = (-10.0 * fit.left.log10()).min(crate::schedule::SNR_MAX_DB);
        if match_db.is_nan() || match_db < MATCH_MIN_DB {
            return Err(refuse(format!(
                "the measured matrix is not this tile's: gains of ports leave {match_db:.1} dB, {MATCH_MIN_DB} are the least"
            )));
        }
        let [wavelength, tilt_rad] = fit.by;
        if !model.follows(fit.by) {
            return Err(refuse(format!(
                "the light is {:.0} ppm and {:.0} urad off, too far for this tile to be followed; set it nearer and measure again",
                wavelength * 1e6,
                tilt_rad * 1e6
            )));
        }
        let parts = process.quadrature.weights_a_grating();
        let columns = r.outputs as usize;
        let w: Vec<Complex64> = (0..outputs * inputs)
            .map(|n| {
                let (o, i) = (n / inputs, n % inputs);
                let s = f64::from(sign(&r.input_signs, i) * sign(&r.output_signs, o));
                let at = |part: usize| {
                    let column = o * parts + part;
                    let value =
                        (column < columns && part < parts).then(|| weights.values.get(i * columns + column));
                    s * f64::from(value.flatten().copied().unwrap_or_default())
                };
                Complex64::new(at(0), at(1))
            })
            .collect();
        let single = process.quadrature == Quadrature::Single;
        let even: Vec<Complex64> = measured
            .iter()
            .enumerate()
            .map(|(n, t)| {
                let gain = fit.a[n / inputs] * fit.b[n % inputs];
                if gain.norm_sqr() > 0.0 { t / gain } else { Complex64::new(0.0, 0.0) }
            })
            .collect();
        let off = model.at(fit.by);
        let corrected: Vec<Complex64> =
            even.iter().zip(off.iter().zip(&model.base)).map(|(t, (off, m))| t - off + m).collect();
        let pairs = |g: &[Complex64]| g.iter().map(|g| [g.re, g.im]).collect();
        let found = TileCalibration {
            tile: id.0,
            name: r.name.clone(),
            levels_sha256: hex(&r.levels_sha256),
            wavelength,
            tilt_rad,
            match_db,
            before_db: read_db(measured, &w, single),
            ports_db: read_db(&even, &w, single),
            corrected_db: read_db(&corrected, &w, single),
            input_gains: pairs(&fit.b),
            output_gains: pairs(&fit.a),
        };
        if !found.in_range() {
            return Err(refuse(format!(
                "the measured matrix needs gains of ports of {GAIN_MAX:.0e} and more; give it in another unit"
            )));
        }
        Ok(found)
    }

    /// Takes the deviations of the light from the file beside the schedule, if there is one: tiles are then what is read after the
    /// gains of ports at that wavelength and tilt.
    ///
    /// # Errors
    /// E0622: a file that cannot be read or is not of this schedule.
    pub fn with_calibration(mut self, dir: &Path) -> Result<Self, Diagnostics> {
        let text = match std::fs::read_to_string(dir.join(FILE)) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(self),
            Err(e) => return Err(Diagnostic::error(&E0001, format!("{FILE}: {e}")).into()),
        };
        let help = "calibrate again, or remove the file";
        let bad =
            |what: String| Diagnostics::from(Diagnostic::error(&E0622, format!("{FILE}: {what}")).help(help));
        let file: File = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        if file.format != FORMAT {
            return Err(bad(format!("it is of format {}, this is {FORMAT}", file.format)));
        }
        for t in &file.tiles {
            let id = TileId(t.tile);
            let known = self.entry(id).ok().map(|e| (e.record.name.clone(), hex(&e.record.levels_sha256)));
            if known != Some((t.name.clone(), t.levels_sha256.clone())) {
                return Err(bad(format!("tile {} ({}) is not the schedule's", t.tile, t.name)));
            }
            let by = [t.wavelength, t.tilt_rad];
            let [outputs, inputs] = self.ports(id)?;
            if !t.in_range() || [t.input_gains.len(), t.output_gains.len()] != [inputs, outputs] {
                return Err(bad(format!("tile {} has values out of range", t.tile)));
            }
            self.light.insert(t.tile, by);
        }
        Ok(self)
    }

    /// What the light's deviations add to the transfer matrix of a tile, `[output port][input]`; nothing where none are known.
    pub(crate) fn deviation(&self, id: TileId) -> Result<Option<Vec<Complex64>>, Diagnostics> {
        let Some(by) = self.light.get(&id.0) else { return Ok(None) };
        if self.entry(id)?.record.gain == 0.0 {
            return Ok(None);
        }
        let model = self.model(id)?;
        if !model.follows(*by) {
            let message =
                format!("{FILE}: tile {id}: its light is too far from the process's to be followed");
            return Err(Diagnostic::error(&E0622, message).into());
        }
        Ok(Some(model.at(*by).into_iter().zip(&model.base).map(|(a, m)| a - m).collect()))
    }
}

/// Writes the file beside a schedule, in place of an earlier one.
///
/// # Errors
/// Input/output.
pub fn write(dir: &Path, file: &File) -> Result<(), Diagnostics> {
    let mut text = serde_json::to_string(file).unwrap_or_default();
    text.push('\n');
    let (partial, path) = (dir.join(format!(".{FILE}.pfmc-partial")), dir.join(FILE));
    std::fs::write(&partial, text)
        .and_then(|()| std::fs::rename(&partial, &path))
        .map_err(|e| Diagnostic::error(&E0001, format!("{}: {e}", path.display())).into())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::born::tests::{noise, process};
    use crate::born::{Born, Workspace};
    use crate::geometry::{Geometry, Request};
    use crate::hologram::Hologram;
    use pfmc_ir::tile::RealBlock;

    fn slice(process: &Hologram, seed: u32) -> (Geometry, RealBlock, Vec<u8>) {
        let g = Geometry::new(process, Request::new(64, 1, 1)).unwrap();
        let w = RealBlock { k: 64, n: 64, values: noise(64 * 64, seed) };
        let born = Born::new(&g, 64, 64);
        let d = crate::design::design(process, &g, &born, &mut Workspace::default(), &w, [&[], &[]], seed);
        (g, w, d.levels)
    }

    /// The transfer matrix of a slice at another wavelength and tilt, by direct sums at the vectors that the light has
    /// then, not to first order.
    fn simulate(p: &Hologram, g: &Geometry, levels: &[u8], wavelength: f64, tilt: f64) -> Vec<Complex64> {
        let [nx, ny, nz] = g.voxels;
        let table = p.level_table();
        let scale = 1.0 / (1.0 + wavelength);
        let k = g.wave_number * scale;
        let shift = std::f64::consts::TAU / p.base.wavelength_um * scale * tilt;
        let kz = |kx: f64| (k * k - kx * kx).sqrt();
        let kin: Vec<f64> = (0..64).map(|i| g.input_k(i).x * scale + shift).collect();
        let kout: Vec<f64> = (0..64).map(|o| g.output_k(o).x * scale).collect();
        let sums: Vec<f64> = (0..nz * nx)
            .map(|v| {
                (0..ny).map(|y| table[usize::from(levels[(v / nx * ny + y) * nx + v % nx])]).sum::<f64>()
            })
            .map(|sum| sum - ny as f64 * p.bias_dn())
            .collect();
        let origin = g.origin();
        let mut t = vec![Complex64::new(0.0, 0.0); 64 * 64];
        for d in -63i64..64 {
            let (i0, o0) = ((-d).max(0) as usize, d.max(0) as usize);
            let kx = kout[o0] - kin[i0];
            let turns: Vec<Complex64> = (0..nx)
                .map(|x| Complex64::from_polar(1.0, -kx * (x as f64 - origin[0]) * g.voxel_um[0]))
                .collect();
            let lines: Vec<Complex64> =
                sums.chunks_exact(nx).map(|l| l.iter().zip(&turns).map(|(v, t)| t * v).sum()).collect();
            for s in 0..64 - i0.max(o0) {
                let (i, o) = (i0 + s, o0 + s);
                let z = kz(kout[o]) - kz(kin[i]);
                let form = g.form_factor(&nalgebra::Vector3::new(kx, 0.0, z)) / g.voxel_count() as f64;
                t[o * 64 + i] = lines
                    .iter()
                    .enumerate()
                    .map(|(l, v)| {
                        v * Complex64::from_polar(form, -z * (l as f64 - origin[2]) * g.voxel_um[2])
                    })
                    .sum();
            }
        }
        t
    }

    #[test]
    fn light_of_one_phase_is_read_whatever_the_phase() {
        let weights: Vec<Complex64> = (1..9).map(|n| Complex64::new(f64::from(n), 0.0)).collect();
        let turned = |phase: f64| -> Vec<Complex64> {
            weights.iter().map(|w| w * Complex64::from_polar(2.0, phase)).collect()
        };
        // The quarter turn as a file has it: real parts of exactly 0.
        let quarter: Vec<Complex64> = weights.iter().map(|w| Complex64::new(0.0, 2.0 * w.re)).collect();
        for measured in [turned(0.0), turned(1.0), turned(3.0), quarter] {
            let db = read_db(&measured, &weights, true);
            assert!(db >= crate::schedule::SNR_MAX_DB, "{db} {:?}", measured[0]);
        }
        // Another pattern stays another.
        let reversed: Vec<Complex64> = weights.iter().rev().map(|w| Complex64::new(0.0, w.re)).collect();
        assert!(read_db(&reversed, &weights, true) < 10.0);
    }

    #[test]
    fn hidden_gains_wavelength_and_tilt_are_found() {
        let p = Hologram { snr_target_db: 42.0, ..process() };
        let (g, w, levels) = slice(&p, 5);
        let written = Written::of(&p, &g);
        let model = Model::new(&written, &levels, &written.transfer(&levels), [64, 64], p.base.wavelength_um);
        // With nothing off the direct sums are the model.
        let plain = simulate(&p, &g, &levels, 0.0, 0.0);
        let power: f64 = plain.iter().map(Complex64::norm_sqr).sum();
        let error: f64 = plain.iter().zip(&model.base).map(|(a, b)| (a - b).norm_sqr()).sum();
        assert!(error < 1e-8 * power, "{}", error / power);

        let (wavelength, tilt) = (2e-5, 10e-6);
        let size = noise(256, 3);
        let gain =
            |n: usize| Complex64::from_polar(1.0 + 0.3 * f64::from(size[n]), 3.0 * f64::from(size[n + 128]));
        let mut measured = simulate(&p, &g, &levels, wavelength, tilt);
        // Noise at -50 dB, each part.
        let rms = (power / 8192.0).sqrt();
        let (nr, ni) = (noise(4096, 70), noise(4096, 71));
        for (n, t) in measured.iter_mut().enumerate() {
            let e =
                Complex64::new(f64::from(nr[n]), f64::from(ni[n])) * (3f64.sqrt() * rms * 10f64.powf(-2.5));
            *t = (*t + e) * gain(n / 64) * gain(64 + n % 64) * 1e4;
        }
        let fit = model.fit(&measured);
        let [found, turned] = fit.by;
        println!("wavelength {found:e}, tilt {turned:e}, left {:.1} dB", -10.0 * fit.left.log10());
        assert!((found - wavelength).abs() < 2e-6, "{found:e}");
        assert!((turned - tilt).abs() < 2e-6, "{turned:e}");
        assert!((-10.0 * fit.left.log10() - 50.0).abs() < 1.0);

        // One gain reads nothing, gains of ports nearly all, and without the deviations the levels' ratio is back.
        let weights: Vec<Complex64> =
            (0..4096).map(|n| Complex64::new(f64::from(w.values[n % 64 * 64 + n / 64]), 0.0)).collect();
        let even: Vec<Complex64> =
            measured.iter().enumerate().map(|(n, t)| t / (fit.a[n / 64] * fit.b[n % 64])).collect();
        let off = model.at(fit.by);
        let corrected: Vec<Complex64> =
            even.iter().zip(off.iter().zip(&model.base)).map(|(t, (o, m))| t - o + m).collect();
        let [before, ports, after] = [&measured, &even, &corrected].map(|t| read_db(t, &weights, true));
        println!("read {before:.1}, {ports:.1}, {after:.1} dB");
        assert!(
            before < 5.0 && ports > 30.0 && after > ports + 1.0 && after > 40.0,
            "{before} {ports} {after}"
        );

        // Another tile's matrix is not explained, whatever the gains.
        let (_, _, other) = slice(&p, 6);
        let other = model.fit(&simulate(&p, &g, &other, 0.0, 0.0));
        assert!(-10.0 * other.left.log10() < 3.0, "{}", other.left);
        // A deviation that first order cannot follow is known as such.
        assert!(
            model.follows([wavelength, tilt]) && !model.follows([1e-3, 0.0]) && !model.follows([0.0, 1e-3])
        );
    }
}
