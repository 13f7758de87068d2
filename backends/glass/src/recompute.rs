//! The transfer matrix of written levels, for read-back: each layer's transverse transform, then a
//! Horner recurrence over layers for every weight. Shares no code with the design's operator
//! ([`crate::born`]) and takes everything from the file.

use rayon::prelude::*;
use rustfft::{Fft, FftPlanner, num_complex::Complex32};
use std::sync::Arc;

use crate::faults::Faults;
use crate::geometry::Geometry;
use crate::hologram::{FormFactor, Hologram};

/// What the file says about a tile, in physical units.
pub struct Written {
    /// Ports a row, input rows, output rows, distance of output rows.
    pub columns: usize,
    /// Rows of input ports.
    pub rows_in: usize,
    /// Rows of output ports.
    pub rows_out: usize,
    /// Distance of output rows in row spacings.
    pub output_row_step: usize,
    /// Centre of the output ports in column spacings.
    pub carrier: usize,
    /// Voxels along x, y, depth.
    pub voxels: [usize; 3],
    /// Raster pitch, micrometres.
    pub pitch_um: [f64; 3],
    /// Wave number in written glass, radians a micrometre.
    pub wave_number: f64,
    /// Shape of a voxel.
    pub form: FormFactor,
    /// Shares of its index change that a voxel adds to the first, second, ... on both sides.
    pub blur: Vec<f64>,
    /// Shares that it adds to the first, second, ... voxel written after it, `interleave` voxels apart.
    pub history: Vec<f64>,
    /// Voxels from one to the next written.
    pub interleave: u32,
    /// Index change of each level number, less the bias.
    pub delta: [f32; 16],
}

/// Layers transformed before each pass of the recurrence.
const PASS: usize = 16;

/// Transfer matrix of one tile.
pub struct Transfer {
    /// Real parts, `[output][input]`.
    pub re: Vec<f32>,
    /// Imaginary parts, `[output][input]`.
    pub im: Vec<f32>,
}

impl Written {
    /// What a schedule of a process says about a tile of a geometry.
    pub fn of(process: &Hologram, g: &Geometry) -> Written {
        let mut delta = [0f32; 16];
        let bias = process.bias_dn();
        delta.iter_mut().zip(process.level_table()).for_each(|(d, dn)| *d = (dn - bias) as f32);
        Written {
            columns: g.columns,
            rows_in: g.rows_in,
            rows_out: g.rows_out,
            output_row_step: g.output_row_step,
            carrier: g.carrier,
            voxels: g.voxels,
            pitch_um: g.voxel_um,
            wave_number: g.wave_number,
            form: g.form_factor,
            blur: process.base.calibration.line.blur.to_vec(),
            history: process.base.calibration.line.history.to_vec(),
            interleave: process.base.interleave,
            delta,
        }
    }

    /// Wave vector of an input port, radians a micrometre.
    pub fn input_k(&self, port: usize) -> [f64; 3] {
        self.wave_vector(self.input(port))
    }

    /// Wave vector of an output port, radians a micrometre.
    pub fn output_k(&self, port: usize) -> [f64; 3] {
        self.wave_vector(self.output(port))
    }

    fn input(&self, port: usize) -> [f64; 2] {
        let c = (port % self.columns) as f64 - (self.columns / 2) as f64 - self.carrier as f64;
        let r = (port / self.columns) as f64 - (self.rows_in / 2) as f64;
        [c, r]
    }

    fn output(&self, port: usize) -> [f64; 2] {
        let c = (port % self.columns) as f64 - (self.columns / 2) as f64 + self.carrier as f64;
        let r = port / self.columns * self.output_row_step;
        [c, r as f64 - (self.output_row_step * (self.rows_out - 1) / 2) as f64]
    }

    /// Wave vector from transverse frequencies in units of the tile's own, radians a micrometre.
    fn wave_vector(&self, [bx, by]: [f64; 2]) -> [f64; 3] {
        let tau = std::f64::consts::TAU;
        let kx = tau * bx / (self.voxels[0] as f64 * self.pitch_um[0]);
        let ky = tau * by / (self.voxels[1] as f64 * self.pitch_um[1]);
        [kx, ky, (self.wave_number * self.wave_number - kx * kx - ky * ky).max(0.0).sqrt()]
    }

    /// Transform of a voxel's shape at a grating vector (radians a micrometre), 1 at zero: a product
    /// of sin(x)/x for a box; for a Gaussian of full width w at half maximum `exp(-(w k)^2 / (16 ln 2))`.
    pub(crate) fn form_factor(&self, k: [f64; 3]) -> f64 {
        let along = |a: usize| match self.form {
            FormFactor::Box => {
                let half = k[a] * self.pitch_um[a] / 2.0;
                if half == 0.0 { 1.0 } else { half.sin() / half }
            }
            FormFactor::Gaussian(fwhm) => (-(fwhm[a] * k[a]).powi(2) / (16.0 * 2f64.ln())).exp(),
        };
        along(0) * along(1) * along(2) * self.line_factor(k[0])
    }

    /// Size of the transform along x of what one voxel adds to its line, 1 at zero.
    fn line_factor(&self, kx: f64) -> f64 {
        type C = rustfft::num_complex::Complex64;
        let turn = |voxels: f64| C::from_polar(1.0, -kx * self.pitch_um[0] * voxels);
        let (mut sum, mut all) = (C::new(1.0, 0.0), 1.0);
        for (m, b) in self.blur.iter().enumerate() {
            sum += (turn(m as f64 + 1.0) + turn(-(m as f64) - 1.0)) * *b;
            all += 2.0 * b;
        }
        for (m, h) in self.history.iter().enumerate() {
            sum += turn((m as f64 + 1.0) * f64::from(self.interleave)) * *h;
            all += h;
        }
        sum.norm() / f64::abs(all)
    }

    /// Largest distance along x and y that beams of these ports move over the tile's depth.
    fn largest_walk_off_um(&self, k: impl Iterator<Item = [f64; 3]>) -> [f64; 2] {
        let length = self.voxels[2] as f64 * self.pitch_um[2];
        k.fold([0.0; 2], |m, k| [0, 1].map(|a| m[a].max((k[a] / k[2]).abs() * length)))
    }

    /// Walk-off of the inputs along x and y, micrometres.
    pub fn input_walk_off_um(&self) -> [f64; 2] {
        let ports = self.columns * self.rows_in;
        self.largest_walk_off_um((0..ports).map(|p| self.wave_vector(self.input(p))))
    }

    /// Walk-off of any port along x and y, micrometres.
    pub fn walk_off_um(&self) -> [f64; 2] {
        let ports = self.columns * self.rows_out;
        let outputs = self.largest_walk_off_um((0..ports).map(|p| self.wave_vector(self.output(p))));
        let inputs = self.input_walk_off_um();
        [0, 1].map(|a| inputs[a].max(outputs[a]))
    }

    /// `T = s(K)/V sum (dn - bias) exp(-i K r)` from the levels, x fastest, then y, then layer.
    pub fn transfer(&self, levels: &[u8]) -> Transfer {
        self.sum(levels, |_, _, _, delta| Complex32::new(delta, 0.0))
    }

    /// As [`Written::transfer`] of a tile with faults. Shifts are taken to first order, at the carrier's frequency.
    pub fn disturbed(&self, levels: &[u8], faults: &Faults) -> Transfer {
        let nx = self.voxels[0];
        let kx = std::f64::consts::TAU * (2 * self.carrier) as f64 / (nx as f64 * self.pitch_um[0]);
        self.sum(levels, |x, y, z, delta| {
            let (factor, shift_um) = faults.voxel(z, y * nx + x);
            let written = (f64::from(delta) + faults.bias_dn) * factor;
            Complex32::new((written - faults.bias_dn) as f32, (-kx * shift_um * written) as f32)
        })
    }

    /// As [`Written::transfer`], with each voxel's `dn - bias` times its distance in micrometres along an axis from where
    /// phases are counted from: `i dT/dK`, but for the form factor's own change.
    pub fn moment(&self, levels: &[u8], axis: usize) -> Transfer {
        self.sum(levels, |x, y, z, delta| {
            Complex32::new(delta * self.place(axis, [x, y, z][axis.min(2)]), 0.0)
        })
    }

    /// As [`Written::transfer`] with `value` of a voxel's x, y, layer and `dn - bias` for the latter.
    fn sum(&self, levels: &[u8], value: impl Fn(usize, usize, usize, f32) -> Complex32 + Sync) -> Transfer {
        let [nx, ny, nz] = self.voxels;
        let (c, inputs, outputs) = (self.columns, self.columns * self.rows_in, self.columns * self.rows_out);
        let fx = FftPlanner::<f32>::new().plan_fft_forward(nx);
        let fy = FftPlanner::<f32>::new().plan_fft_forward(ny);
        let width = 2 * c - 1;
        let low = (2 * self.carrier + 1).saturating_sub(c);
        let row = |o: usize, i: usize| (self.output(o * c)[1] - self.input(i * c)[1]) as i64;
        let rows: Vec<usize> = (0..self.rows_out * self.rows_in)
            .map(|p| row(p / self.rows_in, p % self.rows_in).rem_euclid(ny as i64) as usize)
            .collect();

        // One step of the recurrence multiplies by exp(-i Kz pitch). Inputs run backwards within a
        // row, so that with a fixed output neighbouring weights use neighbouring frequencies.
        let input_k: Vec<[f64; 3]> = (0..inputs).map(|i| self.wave_vector(self.input(i))).collect();
        let output_k: Vec<[f64; 3]> = (0..outputs).map(|o| self.wave_vector(self.output(o))).collect();
        let pitch = self.pitch_um[2];
        let mut turn = [vec![0f32; inputs * outputs], vec![0f32; inputs * outputs]];
        let [turn_re, turn_im] = &mut turn;
        turn_re.par_chunks_mut(c).zip(turn_im.par_chunks_mut(c)).enumerate().for_each(|(n, (re, im))| {
            let (o, r) = (n / self.rows_in, n % self.rows_in);
            for (back, (re, im)) in re.iter_mut().zip(im).enumerate() {
                let kz = output_k[o][2] - input_k[r * c + c - 1 - back][2];
                let (s, cos) = (-kz * pitch).sin_cos();
                (*re, *im) = (cos as f32, s as f32);
            }
        });

        let mut t = Transfer { re: vec![0.0; inputs * outputs], im: vec![0.0; inputs * outputs] };
        for pass in (0..nz.div_ceil(PASS)).rev() {
            let layers: Vec<usize> = (pass * PASS..((pass + 1) * PASS).min(nz)).rev().collect();
            let spectra: Vec<[Vec<f32>; 2]> = layers
                .par_iter()
                .map(|&z| {
                    let layer = &levels[z * nx * ny..(z + 1) * nx * ny];
                    self.spectrum(layer, |x, y, delta| value(x, y, z, delta), &fx, &fy, low, &rows)
                })
                .collect();
            t.re.par_chunks_mut(c).zip(t.im.par_chunks_mut(c)).enumerate().for_each(|(n, (re, im))| {
                let (o, r) = (n / self.rows_in, n % self.rows_in);
                let from = (o / c * self.rows_in + r) * width + o % c;
                let (tr, ti) = (&turn[0][n * c..(n + 1) * c], &turn[1][n * c..(n + 1) * c]);
                for [sr, si] in &spectra {
                    let (sr, si) = (&sr[from..from + c], &si[from..from + c]);
                    for j in 0..re.len() {
                        let (a, b) = (re[j], im[j]);
                        re[j] = a * tr[j] - b * ti[j] + sr[j];
                        im[j] = a * ti[j] + b * tr[j] + si[j];
                    }
                }
            });
        }

        let volume = (nx * ny * nz) as f64;
        let centre = [0, 1, 2].map(|a| self.centre(a));
        t.re.par_chunks_mut(c).zip(t.im.par_chunks_mut(c)).enumerate().for_each(|(n, (re, im))| {
            let (o, r) = (n / self.rows_in, n % self.rows_in);
            re.reverse();
            im.reverse();
            for (ci, (re, im)) in re.iter_mut().zip(im).enumerate() {
                let (ki, ko) = (input_k[r * c + ci], output_k[o]);
                let k = [ko[0] - ki[0], ko[1] - ki[1], ko[2] - ki[2]];
                let phase: f64 = (0..3).map(|a| k[a] * self.pitch_um[a] * centre[a]).sum();
                let f = self.form_factor(k) / volume;
                let (s, cos) = phase.sin_cos();
                let (a, b) = (f64::from(*re), f64::from(*im));
                (*re, *im) = (((a * cos - b * s) * f) as f32, ((a * s + b * cos) * f) as f32);
            }
        });
        t
    }

    /// Voxel coordinate that phases are counted from.
    fn centre(&self, axis: usize) -> f64 {
        if axis == 2 { (self.voxels[2] as f64 - 1.0) / 2.0 } else { (self.voxels[axis] / 2) as f64 }
    }

    /// Distance of a voxel from there, micrometres.
    fn place(&self, axis: usize, voxel: usize) -> f32 {
        ((voxel as f64 - self.centre(axis)) * self.pitch_um[axis]) as f32
    }

    /// Transverse spectrum of one layer's values of x, y and `dn - bias` at the frequencies in use, `[row pair][column difference]`.
    fn spectrum(
        &self,
        levels: &[u8],
        value: impl Fn(usize, usize, f32) -> Complex32,
        fx: &Arc<dyn Fft<f32>>,
        fy: &Arc<dyn Fft<f32>>,
        low: usize,
        rows: &[usize],
    ) -> [Vec<f32>; 2] {
        let [nx, ny, _] = self.voxels;
        let width = 2 * self.columns - 1;
        let mut lines: Vec<Complex32> = Vec::with_capacity(levels.len());
        for (y, line) in levels.chunks_exact(nx).enumerate() {
            lines.extend(line.iter().enumerate().map(|(x, &l)| value(x, y, self.delta[usize::from(l & 15)])));
        }
        fx.process(&mut lines);
        let mut columns = vec![Complex32::ZERO; width * ny];
        for (y, line) in lines.chunks_exact(nx).enumerate() {
            for (q, v) in line[low..low + width].iter().enumerate() {
                columns[q * ny + y] = *v;
            }
        }
        fy.process(&mut columns);
        let at = |p: usize, q: usize| columns[q * ny + rows[p]];
        let pick = |part: fn(Complex32) -> f32| {
            (0..rows.len())
                .flat_map(|p| (0..width).map(move |q| (p, q)))
                .map(|(p, q)| part(at(p, q)))
                .collect()
        };
        [pick(|v| v.re), pick(|v| v.im)]
    }
}
