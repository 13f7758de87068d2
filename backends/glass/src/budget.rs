//! The error budget of a tile: what each imperfection of writing and reading adds to the error of the transfer matrix,
//! and how far wavelength, tilt, temperature and place may be off.
//!
//! Every term is an error power relative to the signal, `1 / snr`; independent errors add. Voxel errors are white in
//! K-space and act on everything that is written, the bias too. Layer errors hit the sum of a layer, `T_z`, where
//! `T = sum_z T_z`: a layer holds far more than its share of T, since what the layers disagree about cancels between
//! them ([`Spread`] measures how much), so that they average less than layers are many. Half of the power of an error
//! of random phase falls on the quadrature that is read. Ports hold neighbouring frequencies along x and y, so that a
//! shift of all frequencies mixes neighbours: by `(dK W)^2 / 24` where it is `dK` and the tile's extent W.

use std::collections::BTreeMap;

use nalgebra::Vector3;
use rayon::prelude::*;
use rustfft::{FftPlanner, num_complex::Complex32};

use crate::geometry::Geometry;
use crate::hologram::{Hologram, Quadrature};
use crate::lowering::{Accuracy, Term};

/// Layers of which one is taken to measure [`Spread`].
const SAMPLE: usize = 4;
/// Multiple scattering adds `efficiency^2 / BORN`: propagation of weak slices at efficiencies from 0.06 to 14 %
/// (76, 43.5, 37 and 28 dB) gives 12 to 15.
const BORN: f64 = 14.0;
/// Peak over root mean square of what a converter takes in full range.
pub(crate) const CREST: f64 = 4.0;
/// Planck's constant times the speed of light, J um.
pub(crate) const PHOTON_J_UM: f64 = 1.986_445_86e-19;
/// Loss that a tolerance allows, dB.
pub(crate) const ALLOWED_DB: f64 = 1.0;

/// What the design of a tile says that its budget needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// `sum_z |T_z|^2 / |T|^2`.
    pub layers: f64,
    /// Error power on what is read, relative to the signal, for white noise of `dn_rms` a voxel.
    pub noise_gain: f64,
    /// Mean square of the written index change, bias included, in units of `dn_rms` squared.
    pub written_square: f64,
    /// Share of the light of one input that reaches all outputs.
    pub efficiency: f64,
    /// Error power of the levels, and of the quadrature that is not read.
    pub levels: f64,
    /// Relative power of the whole matrix's error: what is not read included.
    pub unread: f64,
}

impl Spread {
    /// `sum_z |T_z|^2 / |T|^2` of written levels: the mean power of layers' spectra at the bins that the first `inputs` x
    /// `outputs` ports use. `step` is the level step in units of `dn_rms`.
    pub fn layers(
        g: &Geometry,
        [inputs, outputs]: [usize; 2],
        levels: &[u8],
        step: f64,
        noise_gain: f64,
    ) -> f64 {
        let [nx, ny, nz] = g.voxels;
        let c = g.columns;
        let mut planner = FftPlanner::<f32>::new();
        let (fx, fy) = (planner.plan_fft_forward(nx), planner.plan_fft_forward(ny));
        // What the bins weigh: the squared form factor, at depth frequency 0, of the weights that use them.
        let mut uses = BTreeMap::<(usize, usize), f64>::new();
        let size = g.size_um();
        let tau = std::f64::consts::TAU;
        for ro in 0..outputs.div_ceil(c) {
            for ri in 0..inputs.div_ceil(c) {
                let by = g.output_bins(ro * c)[1] - g.input_bins(ri * c)[1];
                let (ci, co) = (c.min(inputs - ri * c) as i64, c.min(outputs - ro * c) as i64);
                for d in 1 - ci..co {
                    let count = (ci.min(co - d) - 0.max(-d)).max(0) as f64;
                    let bx = 2 * g.carrier as i64 + d;
                    let k = Vector3::new(tau * bx as f64 / size.x, tau * by as f64 / size.y, 0.0);
                    let weight = count * g.form_factor(&k).powi(2);
                    *uses.entry((bx as usize, by.rem_euclid(ny as i64) as usize)).or_default() += weight;
                }
            }
        }
        let sampled: Vec<usize> = (SAMPLE / 2..nz).step_by(SAMPLE).collect();
        let sampled = if sampled.is_empty() { vec![0] } else { sampled };
        let powers: Vec<f64> = sampled
            .par_iter()
            .map(|&z| {
                let layer = &levels[z * nx * ny..(z + 1) * nx * ny];
                let mut lines: Vec<Complex32> =
                    layer.iter().map(|&l| Complex32::new(f32::from(l) * step as f32, 0.0)).collect();
                fx.process(&mut lines);
                let mut column = vec![Complex32::ZERO; ny];
                let mut power = 0f64;
                let mut last = usize::MAX;
                for ((bx, by), weight) in &uses {
                    if *bx != last {
                        for (to, line) in column.iter_mut().zip(lines.chunks_exact(nx)) {
                            *to = line[*bx];
                        }
                        fy.process(&mut column);
                        last = *bx;
                    }
                    power += weight * f64::from(column[*by].norm_sqr());
                }
                power
            })
            .collect();
        let mean = powers.iter().sum::<f64>() / sampled.len() as f64;
        let weights: f64 = uses.values().sum();
        2.0 * noise_gain * nz as f64 * mean / (g.voxel_count() as f64 * weights)
    }
}

/// Relative error powers of a tile by cause.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Budget {
    /// Levels: rounding left after the design, and multiple scattering where tiles are propagated.
    pub levels: f64,
    /// Voxels' index changes, [`Hologram::energy_rms`].
    pub energy: f64,
    /// Voxels' places along x.
    pub jitter: f64,
    /// Layers' places along x.
    pub registration: f64,
    /// Layers' index changes.
    pub gain: f64,
    /// Multiple scattering; none of its own where the levels' figure is that of propagated tiles.
    pub born: f64,
    /// Photons counted at the outputs.
    pub photons: f64,
    /// Converters at inputs and outputs.
    pub converters: f64,
    /// What a calibration says and the design leaves: levels that are not quite equal steps, index changes that fall with
    /// depth, the phase of history.
    pub calibration: f64,
}

impl Budget {
    /// The budget of a tile with `outputs` output ports.
    pub fn new(process: &Hologram, g: &Geometry, outputs: usize, s: &Spread) -> Budget {
        let kx2 = mean_square_kx(g);
        let white = s.noise_gain * s.written_square;
        let um = |nm: f64| nm * 1e-3;
        let measured = &process.base.calibration;
        // A gain that changes slowly with depth mixes neighbours in depth frequency, which are weights too; what is odd about the
        // tile's middle mixes the quadratures, of which the one that is not read holds next to nothing. The phase turns
        // what is not read into what is.
        let [whole, even] = measured.gain_square(process.base.clearance_um, g);
        let left = s.noise_gain * measured.level_square(process)
            + if process.quadrature == Quadrature::Single { even } else { whole }
            + s.unread.max(1.0) * measured.line.phase_square(g);
        let [photons, converters] = reading(process, s.efficiency, outputs);
        Budget {
            levels: s.levels,
            energy: white * process.energy_rms.powi(2),
            jitter: white * kx2 * um(process.voxel_jitter_nm).powi(2),
            registration: 0.5 * s.layers * kx2 * um(process.layer_registration_nm).powi(2),
            // Less what all weights have in common, which the tile's gain takes.
            gain: (0.5 * s.layers - 1.0 / g.voxels[2] as f64).max(0.0) * process.layer_gain_rms.powi(2),
            born: if process.propagation_rounds > 0 { 0.0 } else { s.efficiency.powi(2) / BORN },
            photons,
            converters,
            calibration: left,
        }
    }

    /// Terms by name.
    pub fn terms(&self) -> [(&'static str, f64); 9] {
        [
            ("levels", self.levels),
            ("energy noise", self.energy),
            ("voxel jitter", self.jitter),
            ("layer registration", self.registration),
            ("layer gain", self.gain),
            ("multiple scattering", self.born),
            ("photons", self.photons),
            ("converters", self.converters),
            ("what calibration shows", self.calibration),
        ]
    }

    /// As every method's tiles have it.
    pub(crate) fn accuracy(&self, tolerances: Option<&Tolerances>) -> Accuracy {
        Accuracy {
            terms: self.terms().iter().map(|(name, value)| Term::new(name, *value, "")).collect(),
            tolerances: tolerances.map_or(Vec::new(), Tolerances::terms),
        }
    }

    /// Sum of all terms.
    pub fn total(&self) -> f64 {
        self.terms().iter().map(|t| t.1).sum()
    }

    /// Signal-to-noise ratio of a relative error power, dB.
    pub fn db(power: f64) -> f64 {
        -10.0 * power.log10()
    }
}

/// Share of the light of one input that reaches all outputs of a tile of a gain, whose weights' squares sum to `power`.
pub fn efficiency(process: &Hologram, length_um: f64, gain: f64, power: f64, inputs: usize) -> f64 {
    let coupling = std::f64::consts::TAU * length_um
        / (process.base.wavelength_um * process.theta0_deg.to_radians().cos());
    (coupling * gain).powi(2) * power / inputs as f64
}

/// Relative error powers of one reading by photons, shot noise of homodyne over `outputs` ports, and by converters.
pub fn reading(process: &Hologram, efficiency: f64, outputs: usize) -> [f64; 2] {
    let photon_j = PHOTON_J_UM / process.base.wavelength_um;
    let light_j = process.base.power_mw * 1e-3 * process.base.integration_us * 1e-6;
    let counted = 4.0 * process.base.detector_efficiency * efficiency * light_j / photon_j / outputs as f64;
    let converter = |bits: u32| CREST * CREST / 3.0 / 4f64.powi(bits as i32);
    [1.0 / counted, converter(process.base.dac_bits) + converter(process.base.adc_bits)]
}

/// Deviations that cost 1 dB of the total, ports not calibrated again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerances {
    /// Wavelength, relative, ports at fixed angles.
    pub wavelength: f64,
    /// Tilt of the light about y in air, radians.
    pub tilt_rad: f64,
    /// Temperature, kelvin: the glass expands.
    pub temperature_k: f64,
    /// Place of the tile along x, micrometres.
    pub position_um: f64,
}

impl Tolerances {
    /// Tolerances by name, in units that suit them.
    fn terms(&self) -> Vec<Term> {
        vec![
            Term::new("wavelength", self.wavelength * 1e6, "ppm"),
            Term::new("tilt", self.tilt_rad * 1e6, "urad"),
            Term::new("temperature", self.temperature_k, "K"),
            Term::new("place along x", self.position_um * 1e3, "nm"),
        ]
    }

    /// The tolerances of a tile of the given total error power.
    pub fn new(process: &Hologram, g: &Geometry, s: &Spread, total: f64) -> Tolerances {
        let room = total * (10f64.powf(ALLOWED_DB / 10.0) - 1.0);
        let size = g.size_um();
        let scale = scale_sensitivity(g);
        let tilt = (std::f64::consts::TAU / process.base.wavelength_um * size.x).powi(2) / 24.0;
        let wavelength = (room / scale).sqrt();
        let place = mean_square_kx(g) * s.unread;
        Tolerances {
            wavelength,
            tilt_rad: (room / tilt).sqrt(),
            temperature_k: wavelength / process.base.expansion_per_k,
            position_um: (room / place).sqrt(),
        }
    }
}

/// Mean square of the gratings' x component, radians a micrometre squared: the spread over columns is triangular.
pub fn mean_square_kx(g: &Geometry) -> f64 {
    let c = g.columns as f64;
    let step = std::f64::consts::TAU / g.size_um().x;
    step * step * ((2 * g.carrier) as f64 * (2 * g.carrier) as f64 + (c * c - 1.0) / 6.0)
}

/// Error power for a relative change of all transverse frequencies by 1.
pub fn scale_sensitivity(g: &Geometry) -> f64 {
    let size = g.size_um();
    let tau = std::f64::consts::TAU;
    let (mut ky2, mut pairs) = (0f64, 0f64);
    for o in 0..g.rows_out {
        for i in 0..g.rows_in {
            let bin = g.output_bins(o * g.columns)[1] - g.input_bins(i * g.columns)[1];
            ky2 += (tau * bin as f64 / size.y).powi(2);
            pairs += 1.0;
        }
    }
    (mean_square_kx(g) * size.x.powi(2) + ky2 / pairs * size.y.powi(2)) / 24.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::born::tests::{noise, process};
    use crate::born::{Born, Workspace};
    use crate::design::{Design, design};
    use crate::geometry::Request;
    use pfmc_ir::tile::RealBlock;

    /// A designed tile and all that faults need.
    struct Tile {
        process: Hologram,
        g: Geometry,
        w: RealBlock,
        d: Design,
        /// Index change of each voxel in units of `dn_rms`, bias included.
        dn: Vec<f64>,
    }

    fn normal(n: usize, seed: u32) -> Vec<f64> {
        let parts: Vec<Vec<f32>> = (0..12).map(|i| noise(n, seed * 100 + i)).collect();
        (0..n).map(|i| parts.iter().map(|p| f64::from(p[i])).sum::<f64>() * 0.5).collect()
    }

    fn tile() -> Tile {
        let process = Hologram { snr_target_db: 46.0, ..process() };
        let g = Geometry::new(&process, Request::new(16, 3, 2)).unwrap();
        let (k, n) = (g.inputs(), g.outputs());
        let w = RealBlock { k, n, values: normal(k * n, 9).iter().map(|v| *v as f32).collect() };
        let born = Born::new(&g, k, n);
        let d = design(&process, &g, &born, &mut Workspace::default(), &w, [&[], &[]], 7);
        let step = process.level_step();
        let dn = d.levels.iter().map(|&l| f64::from(l) * step).collect();
        Tile { process, g, w, d, dn }
    }

    /// Frequencies and phases that ports have in fact.
    #[derive(Clone, Copy, Default)]
    struct Warp {
        scale: f64,
        tilt: f64,
        shift: f64,
    }

    /// `sum (a - i Kx b) exp(-i K r)` at warped frequencies, without transforms: along x, then y, then depth. Returns
    /// the ratio of what is read, with the best gain, dB.
    fn ratio(t: &Tile, a: &[f64], b: Option<&[f64]>, warp: Warp) -> f64 {
        let g = &t.g;
        let [nx, ny, nz] = g.voxels;
        let (c, origin) = (g.columns, g.origin());
        let bias = t.process.clip_sigma;
        let k = |i: usize, o: usize| -> Vector3<f64> {
            let (ki, ko) = (g.input_k(i), g.output_k(o));
            Vector3::new(
                (ko.x - ki.x) * (1.0 + warp.scale) - warp.tilt,
                (ko.y - ki.y) * (1.0 + warp.scale),
                (ko.z - ki.z) * (1.0 + warp.scale),
            )
        };
        type C = nalgebra::Complex<f64>;
        let turn = |k: f64, count: usize, axis: usize| -> Vec<C> {
            (0..count)
                .map(|i| C::from_polar(1.0, -k * (i as f64 - origin[axis]) * g.voxel_um[axis]))
                .collect()
        };
        // Along x for each column difference, from one input to the outputs and from the inputs to one output.
        let differences: Vec<(usize, usize)> = (0..c).map(|o| (0, o)).chain((1..c).map(|i| (i, 0))).collect();
        let mut along_x = vec![C::new(0.0, 0.0); differences.len() * ny * nz];
        for (q, &(i, o)) in differences.iter().enumerate() {
            let kx = k(i, o).x;
            let turns = turn(kx, nx, 0);
            for line in 0..ny * nz {
                let mut sum = C::new(0.0, 0.0);
                for (x, turn) in turns.iter().enumerate() {
                    let at = line * nx + x;
                    let value = C::new(a[at] - bias, -kx * b.map_or(0.0, |b| b[at]));
                    sum += value * turn;
                }
                along_x[q * ny * nz + line] = sum;
            }
        }
        let (mut tw, mut tt, mut ww) = (0f64, 0f64, 0f64);
        for ri in 0..g.rows_in {
            for ro in 0..g.rows_out {
                let ky = turn(k(ri * c, ro * c).y, ny, 1);
                for (q, &(i0, o0)) in differences.iter().enumerate() {
                    let lines: Vec<C> = (0..nz)
                        .map(|z| (0..ny).map(|y| along_x[(q * nz + z) * ny + y] * ky[y]).sum())
                        .collect();
                    for s in 0..c - i0.max(o0) {
                        let (i, o) = (ri * c + i0 + s, ro * c + o0 + s);
                        let kk = k(i, o);
                        let turns = turn(kk.z, nz, 2);
                        let sum: C = lines.iter().zip(&turns).map(|(a, b)| a * b).sum();
                        let value = sum * C::from_polar(g.form_factor(&kk), -kk.x * warp.shift);
                        let w = f64::from(t.w.values[i * t.w.n + o]);
                        tw += value.re * w;
                        tt += value.re * value.re;
                        ww += w * w;
                    }
                }
            }
        }
        let signal = tw * tw / ww;
        10.0 * (signal / (tt - signal)).log10()
    }

    /// What a fault alone adds, from the ratio with it and that without.
    fn added(clean: f64, with: f64) -> f64 {
        10f64.powf(-with / 10.0) - 10f64.powf(-clean / 10.0)
    }

    fn agree(what: &str, simulated: f64, predicted: f64) {
        let difference = Budget::db(simulated) - Budget::db(predicted);
        println!(
            "{what}: simulated {:.2} dB, predicted {:.2} dB",
            Budget::db(simulated),
            Budget::db(predicted)
        );
        assert!(
            difference.abs() < 1.0,
            "{what}: {} dB simulated, {} predicted",
            Budget::db(simulated),
            Budget::db(predicted)
        );
    }

    #[test]
    fn each_term_is_what_a_simulation_with_its_fault_alone_shows() {
        let t = tile();
        let [nx, ny, nz] = t.g.voxels;
        let clean = ratio(&t, &t.dn, None, Warp::default());
        assert!((clean - t.d.snr_db).abs() < 0.1, "{clean} {}", t.d.snr_db);
        let process = Hologram {
            energy_rms: 0.05,
            voxel_jitter_nm: 20.0,
            layer_registration_nm: 10.0,
            layer_gain_rms: 0.02,
            ..t.process.clone()
        };
        let step = process.level_step();
        let spread = Spread {
            layers: Spread::layers(&t.g, [t.w.k, t.w.n], &t.d.levels, step, t.d.noise_gain),
            noise_gain: t.d.noise_gain,
            written_square: t.d.written_square,
            efficiency: 1e-3,
            levels: 10f64.powf(-t.d.snr_db / 10.0),
            unread: 10f64.powf(-t.d.snr_complex_db / 10.0),
        };
        let budget = Budget::new(&process, &t.g, t.w.n, &spread);
        let with = |factor: &dyn Fn(usize) -> f64, shift: &dyn Fn(usize) -> f64| {
            let a: Vec<f64> = t.dn.iter().enumerate().map(|(v, d)| d * factor(v)).collect();
            let b: Vec<f64> = t.dn.iter().enumerate().map(|(v, d)| d * shift(v)).collect();
            added(clean, ratio(&t, &a, Some(&b), Warp::default()))
        };
        let white = normal(nx * ny * nz, 3);
        agree("energy", with(&|v| 1.0 + process.energy_rms * white[v], &|_| 0.0), budget.energy);
        agree("jitter", with(&|_| 1.0, &|v| process.voxel_jitter_nm * 1e-3 * white[v]), budget.jitter);
        // Layers are few: the mean of several draws.
        let draws = 24;
        let layers: Vec<Vec<f64>> = (0..draws).map(|s| normal(nz, 20 + s)).collect();
        let mean = |f: &dyn Fn(&[f64]) -> f64| layers.iter().map(|l| f(l)).sum::<f64>() / f64::from(draws);
        let registration =
            mean(&|l| with(&|_| 1.0, &|v| process.layer_registration_nm * 1e-3 * l[v / (nx * ny)]));
        agree("registration", registration, budget.registration);
        agree(
            "gain",
            mean(&|l| with(&|v| 1.0 + process.layer_gain_rms * l[v / (nx * ny)], &|_| 0.0)),
            budget.gain,
        );

        // A calibration's gain that is least at half the depth, an estimate from above; and levels off their steps.
        let table = |depth_um: f64, gain: f64| crate::calibration::Depth { depth_um, energy: 1.0, gain };
        let length = t.g.size_um().z;
        let top = process.base.clearance_um;
        let depth = vec![table(top, 1.0), table(top + 0.5 * length, 0.9), table(top + length, 1.0)];
        let measured = crate::calibration::Calibration { depth, ..Default::default() };
        let mut sagging = process.clone();
        sagging.base.calibration = measured;
        let fall = |v: usize| (((v / (nx * ny)) as f64 + 0.5) / nz as f64 * 2.0 - 1.0).abs();
        let fault = with(&|v| 0.9 + 0.1 * fall(v), &|_| 0.0);
        let predicted = Budget::new(&sagging, &t.g, t.w.n, &spread).calibration;
        println!(
            "gain by depth: simulated {:.2} dB, predicted {:.2} dB",
            Budget::db(fault),
            Budget::db(predicted)
        );
        assert!(fault < predicted && predicted < 10.0 * fault, "{fault} {predicted}");
        let off = [0.0, 0.05, -0.05, 0.08, -0.08, 0.05, -0.05, 0.0];
        let unit = 2.0 * process.bias_dn() / 7.0;
        let mut dn: Vec<f64> = off.iter().enumerate().map(|(l, d)| (l as f64 + d) * unit).collect();
        dn.push(process.bias_dn());
        let measured = crate::calibration::Calibration { dn, ..Default::default() };
        let mut uneven = process.clone();
        uneven.base.calibration = measured;
        let level = |v: usize| f64::from(t.d.levels[v]).max(1.0);
        let fault = with(&|v| 1.0 + off[usize::from(t.d.levels[v])] / level(v), &|_| 0.0);
        agree("uneven levels", fault, Budget::new(&uneven, &t.g, t.w.n, &spread).calibration);

        // A deviation as large as its tolerance costs about 1 dB, here of a total of 40 dB.
        let total = 1e-4;
        let limit = Tolerances::new(&process, &t.g, &spread, total);
        let room = total * (10f64.powf(0.1) - 1.0);
        let warped = |warp: Warp| added(clean, ratio(&t, &t.dn, None, warp));
        agree("wavelength", warped(Warp { scale: limit.wavelength, ..Warp::default() }), room);
        let per_um = std::f64::consts::TAU / process.base.wavelength_um;
        agree("tilt", warped(Warp { tilt: per_um * limit.tilt_rad, ..Warp::default() }), room);
        let expanded = limit.temperature_k * process.base.expansion_per_k;
        agree("temperature", warped(Warp { scale: expanded, ..Warp::default() }), room);
        agree("position", warped(Warp { shift: limit.position_um, ..Warp::default() }), room);
    }

    #[test]
    fn photons_and_converters_follow_their_formulas() {
        let t = tile();
        let spread = Spread {
            layers: 1.0,
            noise_gain: t.d.noise_gain,
            written_square: t.d.written_square,
            efficiency: 2e-3,
            levels: 0.0,
            unread: 1.0,
        };
        let b = Budget::new(&t.process, &t.g, 32, &spread);
        // Counts of one output: shot noise of a homodyne reading is a quarter photon a quadrature.
        let joule = t.process.base.power_mw * 1e-3 * t.process.base.integration_us * 1e-6 * 2e-3 / 32.0;
        let photons = joule / (6.626_070_15e-34 * 299_792_458.0 / (t.process.base.wavelength_um * 1e-6));
        assert!((b.photons * 4.0 * t.process.base.detector_efficiency * photons - 1.0).abs() < 1e-6);
        // A uniform quantiser of 2^b steps over +-4 root mean squares, simulated.
        let x = normal(20_000, 5);
        let step = 2.0 * CREST / 2f64.powi(t.process.base.dac_bits as i32);
        let error: f64 = x.iter().map(|v| ((v / step).round() * step - v).powi(2)).sum::<f64>()
            / x.iter().map(|v| v * v).sum::<f64>();
        agree("converters", 2.0 * error, b.converters);
    }
}
