//! The transfer matrix of written levels with multiple scattering: every input is propagated through the tile.
//!
//! The tile stands alone in glass at the bias. The field of an input is its plane wave and what the tile has scattered of
//! it, forward waves of all angles up to [`BAND`]. With `d = sqrt(k / kz)` the flux-normalised Fourier components u of the
//! scattered field follow from Helmholtz's equation (single scattering out of a plane wave gives `i k k0 / kz` times the
//! index change's component; backward waves would need gratings that layers are too thick to hold):
//!
//! `du/dz = i kz u + i k0 d F[delta F^-1[d (u + u0)]]`, `delta = dn - bias`, k0 in vacuum
//!
//! in steps of a fraction of a layer: exact propagation between screens `exp(i k0 h delta) - 1`. To first order in the index
//! change the result is [`Written::transfer`]'s.
//!
//! The field is periodic, so many tiles wide that what walks off does not come back, and so that the ports are among its
//! frequencies. A voxel has two samples along x and y, which its form factor makes smooth. A *slice*, of one row of ports a
//! side, is taken as continued along y: the mean over y of its index acts.

use pfmc_ir::diag::Diagnostic;
use rayon::prelude::*;
use rustfft::{FftPlanner, num_complex::Complex32, num_complex::Complex64};

use crate::codes::E0624;
use crate::geometry::smooth;
use crate::recompute::{Transfer, Written};

/// Transverse wave numbers that are propagated, in units of the wave number.
const BAND: f64 = 0.7;
/// Samples a voxel along x and y.
const SAMPLES: usize = 2;
/// Walk-offs of the steepest port that the field leaves room for on both sides together.
const ROOM: f64 = 1.9;
/// Most tiles that a field is wide, more than is worked on.
const TILES_MAX: f64 = 1e6;
/// Most work of a tile, [`Grid::work`]: about two minutes of one core.
pub const WORK_MAX: u64 = 1 << 33;

/// The lattice of a tile's propagation.
pub struct Grid {
    /// Samples of the tile along x and y.
    tile: [usize; 2],
    /// Samples of the field.
    field: [usize; 2],
    /// Steps a layer.
    steps: usize,
    layers: usize,
}

impl Grid {
    /// The lattice for a tile.
    pub fn new(w: &Written) -> Grid {
        let [nx, ny, layers] = w.voxels;
        let tile = [SAMPLES * nx, if is_slice(w) { 1 } else { SAMPLES * ny }];
        let walk_off = w.walk_off_um();
        let field = [0, 1].map(|a| {
            let extent = w.voxels[a] as f64 * w.pitch_um[a];
            let least = if tile[a] == 1 { 1.0 } else { (1.0 + ROOM * walk_off[a] / extent).ceil() };
            // Ports that hardly propagate: no work that is done.
            let least = least.min(TILES_MAX) as usize;
            tile[a].saturating_mul((least..).find(|&m| smooth(m)).unwrap_or(least))
        });
        // Screens so close that the grating which they are in depth scatters beyond the band.
        let slip = w.wave_number * (1.0 - (1.0 - BAND * BAND).sqrt());
        let steps = (1.1 * w.pitch_um[2] * slip / std::f64::consts::TAU).ceil().max(1.0) as usize;
        Grid { tile, field, steps, layers }
    }

    /// Refuses a tile, here by its name, of so many inputs that it takes more than [`WORK_MAX`].
    ///
    /// # Errors
    /// E0624.
    pub fn refuse(&self, inputs: usize, tile: &str) -> Result<(), Diagnostic> {
        let work = self.work(inputs);
        if work <= WORK_MAX {
            return Ok(());
        }
        let [work, most] = [work, WORK_MAX].map(|w| w as f64);
        let problem = format!(
            "{tile}: {work:.1e} samples and steps to propagate its {inputs} inputs, at most {most:.1e}"
        );
        let note = "lower tile.columns_max and tile.rows_max, or set design.propagation_rounds = 0";
        Err(Diagnostic::error(&E0624, problem).note(note))
    }

    /// Bytes that a propagation needs, at most, with one input at a time: screens, steps, fields.
    pub fn memory_bytes(&self) -> u64 {
        let bytes = |lengths: [usize; 2], each: usize| {
            lengths.into_iter().fold(each as u64, |a, n| a.saturating_mul(n as u64))
        };
        let [screens, fields] = [bytes(self.tile, 8 * self.layers), bytes(self.field, 20)];
        screens.saturating_add(fields).saturating_add(bytes([self.field[0], self.tile[1]], 8))
    }

    /// Samples times steps of so many inputs.
    pub fn work(&self, inputs: usize) -> u64 {
        let lengths = [self.field[0], self.field[1], self.steps, self.layers, inputs];
        lengths.into_iter().fold(1, |a, n| a.saturating_mul(n as u64))
    }
}

fn is_slice(w: &Written) -> bool {
    w.rows_in * w.rows_out == 1
}

/// Frequencies of one axis of the field.
struct Axis {
    /// Samples.
    count: usize,
    /// Radians a micrometre between frequencies.
    step: f64,
    /// Frequency of each that is propagated, and its place in a transform.
    bins: Vec<(f64, usize)>,
}

impl Axis {
    fn new(count: usize, step: f64, most: f64) -> Axis {
        let signed = |at: usize| if 2 * at < count { at as f64 } else { at as f64 - count as f64 };
        let bins = (0..count).map(|at| (signed(at) * step, at)).filter(|b| b.0.abs() < most).collect();
        Axis { count, step, bins }
    }

    /// The number of a frequency among those that are propagated.
    fn number(&self, k: f64) -> Option<usize> {
        let place = (k / self.step).round().rem_euclid(self.count as f64) as usize;
        self.bins.iter().position(|b| b.1 == place)
    }
}

impl Written {
    /// As [`Written::transfer`] with multiple scattering, for the first `inputs`; zero for others.
    /// `vacuum_wave_number` in radians a micrometre.
    pub fn propagated(&self, levels: &[u8], inputs: usize, vacuum_wave_number: f64) -> Transfer {
        let grid = Grid::new(self);
        let tau = std::f64::consts::TAU;
        let k = self.wave_number;
        let [sx, sy] = grid.tile;
        let pitch = [0, 1].map(|a| self.pitch_um[a] / SAMPLES as f64);
        let most = pitch.map(|p| (BAND * k).min(2.0 / 3.0 * std::f64::consts::PI / p));
        let axis = |a: usize| {
            let extent = self.voxels[a] as f64 * self.pitch_um[a];
            Axis::new(grid.field[a], tau / extent * grid.tile[a] as f64 / grid.field[a] as f64, most[a])
        };
        let (ax, ay) = (axis(0), axis(1));
        let h = self.pitch_um[2] / grid.steps as f64;
        let length = self.pitch_um[2] * grid.layers as f64;
        let screens = self.screens(levels, &grid, most, vacuum_wave_number * h);

        // One step of each component, relative to exp(i k z), and its d; x outside, y inside.
        let (mut turn, mut flux) = (Vec::new(), Vec::new());
        for &(kx, _) in &ax.bins {
            let mut column = vec![(Complex32::ZERO, 0f32); ay.count];
            for &(ky, at) in &ay.bins {
                let t2 = kx * kx + ky * ky;
                if t2 < (BAND * k).powi(2) {
                    let kz = (k * k - t2).sqrt();
                    let step = Complex64::from_polar(1.0, (kz - k) * h);
                    column[at] = (single(step), (k / kz).sqrt() as f32);
                }
            }
            let (t, f): (Vec<_>, Vec<_>) = column.into_iter().unzip();
            turn.extend(t);
            flux.extend(f);
        }
        let mut planner = FftPlanner::<f32>::new();
        let x_both = [planner.plan_fft_forward(ax.count), planner.plan_fft_inverse(ax.count)];
        let y_both = [planner.plan_fft_forward(ay.count), planner.plan_fft_inverse(ay.count)];
        let (ports_in, ports_out) = (self.columns * self.rows_in, self.columns * self.rows_out);
        let scale = 1.0 / (ax.count * ay.count) as f32;
        let depth = |step: usize| (step as f64 + 0.5) * h - 0.5 * length;
        let all_steps = grid.steps * grid.layers;
        let half = [0, 1].map(|a| {
            // From the tile's first sample to where phases are counted from.
            if grid.tile[a] == 1 {
                0.0
            } else {
                (self.voxels[a] / 2) as f64 * self.pitch_um[a] + 0.5 * pitch[a]
            }
        });

        let columns: Vec<Vec<Complex64>> = (0..inputs.min(ports_in))
            .into_par_iter()
            .map(|i| {
                let ki = self.input_k(i);
                let flux_in = (k / ki[2]).sqrt();
                let wave: Vec<Complex32> = (0..sy)
                    .flat_map(|y| (0..sx).map(move |x| (x, y)))
                    .map(|(x, y)| {
                        let phase = ki[0] * x as f64 * pitch[0] + ki[1] * y as f64 * pitch[1];
                        single(Complex64::from_polar(flux_in, phase))
                    })
                    .collect();
                let mut u = vec![Complex32::ZERO; turn.len()];
                let mut rows = vec![Complex32::ZERO; sy * ax.count];
                let mut column = vec![Complex32::ZERO; ay.count];
                let need = x_both.iter().chain(&y_both).map(|f| f.get_inplace_scratch_len()).max();
                let mut scratch = vec![Complex32::ZERO; need.unwrap_or(0)];
                for step in 0..all_steps {
                    rows.fill(Complex32::ZERO);
                    for (n, &(_, at)) in ax.bins.iter().enumerate() {
                        let range = n * ay.count..(n + 1) * ay.count;
                        for (((u, t), f), c) in u[range.clone()]
                            .iter_mut()
                            .zip(&turn[range.clone()])
                            .zip(&flux[range])
                            .zip(&mut column)
                        {
                            *u *= t;
                            *c = *u * f;
                        }
                        y_both[1].process_with_scratch(&mut column, &mut scratch);
                        for (y, c) in column[..sy].iter().enumerate() {
                            rows[y * ax.count + at] = *c;
                        }
                    }
                    let here = single(Complex64::from_polar(1.0, (ki[2] - k) * depth(step)));
                    let layer = step / grid.steps * sx * sy;
                    for (y, row) in rows.chunks_exact_mut(ax.count).enumerate() {
                        x_both[1].process_with_scratch(row, &mut scratch);
                        let (tile, rest) = row.split_at_mut(sx);
                        let from = y * sx..(y + 1) * sx;
                        let screen = &screens[layer + from.start..layer + from.end];
                        for ((v, w), g) in tile.iter_mut().zip(&wave[from]).zip(screen) {
                            *v = (*v + w * here) * g;
                        }
                        rest.fill(Complex32::ZERO);
                        x_both[0].process_with_scratch(row, &mut scratch);
                    }
                    for (n, &(_, at)) in ax.bins.iter().enumerate() {
                        column.fill(Complex32::ZERO);
                        for (y, c) in column[..sy].iter_mut().enumerate() {
                            *c = rows[y * ax.count + at];
                        }
                        y_both[0].process_with_scratch(&mut column, &mut scratch);
                        let range = n * ay.count..(n + 1) * ay.count;
                        for ((u, f), c) in u[range.clone()].iter_mut().zip(&flux[range]).zip(&column) {
                            *u += c * (f * scale);
                        }
                    }
                }
                (0..ports_out)
                    .map(|o| {
                        let ko = self.output_k(o);
                        let at = ax.number(ko[0]).zip(ay.number(ko[1])).map(|(x, y)| (x, ay.bins[y].1));
                        let Some((x, y)) = at else { return Complex64::new(0.0, 0.0) };
                        let u = u[x * ay.count + y];
                        let kk = [ko[0] - ki[0], ko[1] - ki[1], ko[2] - ki[2]];
                        // Both port phases at the tile's middle.
                        let phase = kk[0] * half[0] + kk[1] * half[1] - (ko[2] - k) * depth(all_steps - 1);
                        let fields = (ax.count * ay.count) as f64 / (sx * sy) as f64;
                        let coupling = vacuum_wave_number * length * flux_in * (k / ko[2]).sqrt() / fields;
                        Complex64::new(f64::from(u.im), -f64::from(u.re))
                            * Complex64::from_polar(self.depth_factor(kk[2], grid.steps) / coupling, phase)
                    })
                    .collect()
            })
            .collect();
        let mut t = Transfer { re: vec![0.0; ports_in * ports_out], im: vec![0.0; ports_in * ports_out] };
        for (i, column) in columns.iter().enumerate() {
            for (o, v) in column.iter().enumerate() {
                (t.re[o * ports_in + i], t.im[o * ports_in + i]) = (v.re as f32, v.im as f32);
            }
        }
        t
    }

    /// The voxel's form factor in depth over that of a layer of so many screens.
    fn depth_factor(&self, kz: f64, steps: usize) -> f64 {
        let v = 0.5 * kz * self.pitch_um[2];
        let n = steps as f64;
        let screens = if v.abs() < 1e-9 { 1.0 } else { v.sin() / (n * (v / n).sin()) };
        self.form_factor([0.0, 0.0, kz]) / screens
    }

    /// `exp(i k0 h delta) - 1` at the tile's samples, layer by layer, y outside x. `turn` is `k0 h`.
    fn screens(&self, levels: &[u8], grid: &Grid, most: [f64; 2], turn: f64) -> Vec<Complex32> {
        let [nx, ny, _] = self.voxels;
        let [sx, sy] = grid.tile;
        let tau = std::f64::consts::TAU;
        // What each frequency of the samples takes of one of the voxels.
        let part = |a: usize, samples: usize| -> Vec<(usize, f64, usize)> {
            let voxels = self.voxels[a];
            let step = tau / (voxels as f64 * self.pitch_um[a]);
            let axis = Axis::new(samples, step, if samples == 1 { f64::INFINITY } else { most[a] });
            axis.bins
                .into_iter()
                .map(|(kk, at)| ((kk / step).round().rem_euclid(voxels as f64) as usize, kk, at))
                .collect()
        };
        let (px, py) = (part(0, sx), part(1, sy));
        let mut planner = FftPlanner::<f32>::new();
        let [fx, fy] = [planner.plan_fft_forward(nx), planner.plan_fft_forward(ny)];
        let [bx, by] = [planner.plan_fft_inverse(sx), planner.plan_fft_inverse(sy)];
        // A sample lies half its width into the voxel, which counts from its centre.
        let shift = [(sx, nx, 0), (sy, ny, 1)]
            .map(|(s, n, a)| if s == 1 { 0.0 } else { 0.5 * self.pitch_um[a] * (1.0 - n as f64 / s as f64) });
        let factors: Vec<Complex32> = py
            .iter()
            .flat_map(|p| px.iter().map(move |q| (q.1, p.1)))
            .map(|(kx, ky)| {
                let size = self.form_factor([kx, ky, 0.0]) / (nx * ny) as f64;
                single(Complex64::from_polar(size, -kx * shift[0] - ky * shift[1]))
            })
            .collect();
        let mut out = vec![Complex32::ZERO; sx * sy * grid.layers];
        out.par_chunks_mut(sx * sy).zip(levels.par_chunks(nx * ny)).for_each(|(out, levels)| {
            let mut lines: Vec<Complex32> =
                levels.iter().map(|&l| Complex32::new(self.delta[usize::from(l & 15)], 0.0)).collect();
            fx.process(&mut lines);
            let mut columns = vec![Complex32::ZERO; nx * ny];
            for (y, line) in lines.chunks_exact(nx).enumerate() {
                line.iter().enumerate().for_each(|(x, v)| columns[x * ny + y] = *v);
            }
            fy.process(&mut columns);
            let mut wide = vec![Complex32::ZERO; sx * sy];
            for ((from_y, _, to_y), factors) in py.iter().zip(factors.chunks_exact(px.len())) {
                for ((from_x, _, to_x), f) in px.iter().zip(factors) {
                    wide[to_x * sy + to_y] = columns[from_x * ny + from_y] * f;
                }
            }
            by.process(&mut wide);
            for (y, row) in out.chunks_exact_mut(sx).enumerate() {
                row.iter_mut().enumerate().for_each(|(x, v)| *v = wide[x * sy + y]);
            }
            bx.process(out);
            for v in out {
                let phase = f64::from(v.re) * turn;
                *v = Complex32::new((phase.cos() - 1.0) as f32, phase.sin() as f32);
            }
        });
        out
    }
}

fn single(v: Complex64) -> Complex32 {
    Complex32::new(v.re as f32, v.im as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::born::tests::process;
    use crate::geometry::{Geometry, Request};
    use crate::hologram::Hologram;

    /// T to first order and with all orders of noise written into a tile.
    fn both(dn_rms: f64, [columns, rows_in, rows_out]: [usize; 3]) -> [Vec<f64>; 2] {
        let p = Hologram { dn_rms, ..process() };
        let g = Geometry::new(&p, Request::new(columns, rows_in, rows_out)).unwrap();
        let w = Written::of(&p, &g);
        let levels: Vec<u8> =
            (0..g.voxel_count() as u32).map(|v| (crate::design::hash(1, v) % 8) as u8).collect();
        let all = |t: Transfer| -> Vec<f64> {
            t.re.into_iter().chain(t.im).map(|v| f64::from(v) / dn_rms).collect()
        };
        [
            all(w.transfer(&levels)),
            all(w.propagated(&levels, g.inputs(), std::f64::consts::TAU / p.base.wavelength_um)),
        ]
    }

    fn difference([a, b]: &[Vec<f64>; 2]) -> f64 {
        let error: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
        error / a.iter().map(|a| a * a).sum::<f64>()
    }

    #[test]
    fn weak_tiles_have_the_first_order_and_what_is_beyond_it_grows_with_the_index_change() {
        for ports in [[16, 1, 1], [8, 2, 2]] {
            let [weak, twice] = [1e-6, 2e-6].map(|dn| difference(&both(dn, ports)));
            // In single precision, at a few thousand steps' phases.
            assert!(weak < 1e-6, "{ports:?}: {:.1} dB", -10.0 * weak.log10());
            assert!(twice < 1e-6, "{ports:?}: {twice}");
            let [a, b] = [2e-4, 4e-4].map(|dn| difference(&both(dn, ports)));
            // Of the second order in amplitude, relative to the first: power goes as the square.
            assert!((3.0..5.0).contains(&(b / a)), "{ports:?}: {a} {b}");
        }
    }

    #[test]
    fn work_is_bounded_where_the_documentation_says() {
        let p = process();
        let work = |columns, rows| {
            let g = Geometry::new(&p, Request::new(columns, rows, rows)).unwrap();
            Grid::new(&Written::of(&p, &g)).work(g.inputs())
        };
        assert!([work(128, 1), work(32, 2), work(24, 4)].iter().all(|w| *w <= WORK_MAX));
        assert!([work(40, 2), work(32, 4)].iter().all(|w| *w > WORK_MAX));
    }
}
