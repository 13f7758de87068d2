//! Geometry of a tile: its extent in voxels, its ports and the assertions that make the gratings
//! of its weights independent.
//!
//! A tile has `columns` C, `rows_in` and `rows_out`. Port p of a side is column `p % C` of row
//! `p / C`. In units of the tile's own spatial frequencies `Dx = 2 pi / W_x`, `Dy = 2 pi / W_y`:
//!
//! - input (c, r): `(-carrier + c - C/2, r - rows_in/2)`
//! - output (c, r): `(carrier + c - C/2, step * r - step * (rows_out - 1) / 2)`
//!
//! with integer divisions and `step = rows_in`, which makes all row differences distinct. Depth
//! components follow from `kz = sqrt(k^2 - kx^2 - ky^2)`, `k = 2 pi (n + b) / lambda`. The grating of
//! weight (i, j) is `K = k_out(j) - k_in(i)`. Phases are counted from the tile's origin: the centre of voxel
//! `(nx/2, ny/2)` at half the depth, between layers `nz/2 - 1` and `nz/2`; all three counts are even.

use nalgebra::Vector3;
use pfmc_ir::diag::{Diagnostic, Diagnostics};

use crate::calibration::Line;
use crate::codes::{E0602, E0603, E0604, E0605, E0606};
use crate::hologram::{FormFactor, Hologram};

/// What is asked of a geometry. [`Request::new`] asks for the family's rules.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Request {
    /// Ports a row.
    pub columns: usize,
    /// Rows of input ports.
    pub rows_in: usize,
    /// Rows of output ports.
    pub rows_out: usize,
    /// Distance of output rows in row spacings.
    pub output_row_step: usize,
    /// Tile length; `None` for the family's `length_per_column_um * columns`.
    pub length_um: Option<f64>,
}

impl Request {
    /// A tile of the family: output rows spaced by the number of input rows.
    pub fn new(columns: usize, rows_in: usize, rows_out: usize) -> Self {
        Request { columns, rows_in, rows_out, output_row_step: rows_in, length_um: None }
    }
}

/// Most voxels of a tile.
pub const VOXELS_MAX: u64 = 1 << 31;

/// A checked tile geometry.
#[derive(Debug, Clone, PartialEq)]
pub struct Geometry {
    /// Ports a row, C.
    pub columns: usize,
    /// Rows of input ports.
    pub rows_in: usize,
    /// Rows of output ports.
    pub rows_out: usize,
    /// Distance of output rows in row spacings.
    pub output_row_step: usize,
    /// Voxels along x, y and depth.
    pub voxels: [usize; 3],
    /// Raster pitch, micrometres.
    pub voxel_um: [f64; 3],
    /// Shape of a voxel.
    pub form_factor: FormFactor,
    /// What voxels add to others of their line.
    pub line: Line,
    /// Centre of the output ports in units of `Dx`; inputs are centred at its negative.
    pub carrier: usize,
    /// Wave number in written glass, radians a micrometre.
    pub wave_number: f64,
}

impl Geometry {
    /// Lays out a tile and asserts every condition.
    ///
    /// # Errors
    /// Each condition that does not hold: a propagating direction for every port, an off-axis
    /// carrier, disjoint gratings and mirror gratings, distinct row differences, conditioning.
    pub fn new(process: &Hologram, request: Request) -> Result<Geometry, Diagnostics> {
        let Request { columns, rows_in, rows_out, output_row_step, length_um } = request;
        if columns == 0 || rows_in == 0 || rows_out == 0 || columns > 4096 || rows_in > 64 || rows_out > 64 {
            return Err(Diagnostic::error(
                &E0602,
                format!(
                    "a tile of {columns} columns, {rows_in} input and {rows_out} output rows is out of range"
                ),
            )
            .into());
        }
        let c = columns as f64;
        let even = |um: f64, pitch: f64| ((um / pitch / 2.0).round().max(1.0) as usize).min(1 << 16) * 2;
        let nx = even(process.width_per_column_um * c, process.base.voxel_um[0]);
        let rows = (rows_in * rows_out) as f64;
        let ny = even(process.height_per_row_pair_um * rows, process.base.voxel_um[1]);
        let length = length_um.unwrap_or(process.length_per_column_um * c);
        let nz = even(length, process.base.voxel_um[2]);
        if (nx * ny) as u64 * nz as u64 > VOXELS_MAX {
            let message = format!("a tile of {nx} x {ny} x {nz} voxels is too large to compute");
            return Err(Diagnostic::error(&E0602, message).into());
        }
        let wave_number = process.wave_number();
        let dx = std::f64::consts::TAU / (nx as f64 * process.base.voxel_um[0]);
        let carrier =
            (wave_number * process.theta0_deg.to_radians().sin() / dx - 1e-9).ceil().max(0.0) as usize;
        let g = Geometry {
            columns,
            rows_in,
            rows_out,
            output_row_step,
            voxels: [nx, ny, nz],
            voxel_um: process.base.voxel_um,
            form_factor: process.form_factor,
            line: process.base.calibration.line,
            carrier,
            wave_number,
        };
        g.check(process.kappa_min).check()?;
        Ok(g)
    }

    /// The geometry a process gives a tile of `inputs` x `outputs`: among those that waste few
    /// voxels on unused ports, the one that takes least glass with the gaps around it.
    ///
    /// # Errors
    /// When the process has no geometry that holds the tile.
    pub fn choose(process: &Hologram, inputs: usize, outputs: usize) -> Result<Geometry, Diagnostics> {
        let mut found: Vec<(f64, f64, Geometry)> = Vec::new();
        let mut problems = Diagnostics::new();
        for columns in (8..=process.columns_max).step_by(8).filter(|&c| smooth(c)) {
            let (rows_in, rows_out) = (inputs.div_ceil(columns), outputs.div_ceil(columns));
            if rows_in.max(rows_out) > process.rows_max || rows_in == 0 || rows_out == 0 {
                continue;
            }
            match Geometry::new(process, Request::new(columns, rows_in, rows_out)) {
                Ok(g) => {
                    let gap = g.gap_um(process.base.gap_min_um);
                    let size = g.size_um();
                    let glass = (size.x + gap[0]) * (size.y + gap[1]) * size.z;
                    found.push((g.voxel_count() as f64, glass, g));
                }
                Err(e) => problems.extend(e),
            }
        }
        let least = found.iter().fold(f64::INFINITY, |a, f| a.min(f.0));
        let best = found
            .into_iter()
            .filter(|f| f.0 <= least * 1.12)
            .min_by(|a, b| a.1.total_cmp(&b.1).then(a.2.columns.cmp(&b.2.columns)));
        match best {
            Some((_, _, g)) => Ok(g),
            None if problems.has_errors() => Err(problems),
            None => Err(Diagnostic::error(
                &E0602,
                format!(
                    "no tile of at most {} columns and {} rows holds {inputs} inputs x {outputs} outputs",
                    process.columns_max, process.rows_max
                ),
            )
            .into()),
        }
    }

    /// Voxel coordinates that phases are counted from.
    pub fn origin(&self) -> [f64; 3] {
        let [nx, ny, nz] = self.voxels;
        [(nx / 2) as f64, (ny / 2) as f64, (nz as f64 - 1.0) / 2.0]
    }

    /// Number of input ports.
    pub fn inputs(&self) -> usize {
        self.columns * self.rows_in
    }

    /// Number of output ports.
    pub fn outputs(&self) -> usize {
        self.columns * self.rows_out
    }

    /// Voxels of the tile.
    pub fn voxel_count(&self) -> usize {
        self.voxels.iter().product()
    }

    /// Extent W_x, W_y, L, micrometres.
    pub fn size_um(&self) -> Vector3<f64> {
        Vector3::from_fn(|a, _| self.voxels[a] as f64 * self.voxel_um[a])
    }

    /// Column and row frequency of an input port, in units of `Dx`, `Dy`.
    pub fn input_bins(&self, port: usize) -> [i64; 2] {
        let (c, r) = ((port % self.columns) as i64, (port / self.columns) as i64);
        [c - self.columns as i64 / 2 - self.carrier as i64, r - self.rows_in as i64 / 2]
    }

    /// Column and row frequency of an output port, in units of `Dx`, `Dy`.
    pub fn output_bins(&self, port: usize) -> [i64; 2] {
        let (c, r) = ((port % self.columns) as i64, (port / self.columns) as i64);
        let step = self.output_row_step as i64;
        [c - self.columns as i64 / 2 + self.carrier as i64, step * r - step * (self.rows_out as i64 - 1) / 2]
    }

    /// Transverse frequency of bins, radians a micrometre.
    fn transverse(&self, bins: [i64; 2]) -> [f64; 2] {
        let size = self.size_um();
        let tau = std::f64::consts::TAU;
        [tau * bins[0] as f64 / size.x, tau * bins[1] as f64 / size.y]
    }

    /// Wave vector in written glass; the depth component is NaN when the port does not propagate.
    fn wave_vector(&self, bins: [i64; 2]) -> Vector3<f64> {
        let [kx, ky] = self.transverse(bins);
        Vector3::new(kx, ky, (self.wave_number.powi(2) - kx * kx - ky * ky).sqrt())
    }

    /// Wave vector of an input port, radians a micrometre.
    pub fn input_k(&self, port: usize) -> Vector3<f64> {
        self.wave_vector(self.input_bins(port))
    }

    /// Wave vector of an output port, radians a micrometre.
    pub fn output_k(&self, port: usize) -> Vector3<f64> {
        self.wave_vector(self.output_bins(port))
    }

    /// Conditioning `kappa = 2 L sin(theta0) / W_x` at the carrier's own angle.
    pub fn kappa(&self) -> f64 {
        let size = self.size_um();
        let [kx, _] = self.transverse([self.carrier as i64, 0]);
        2.0 * size.z * kx / self.wave_number / size.x
    }

    /// The voxel's form factor `s(K)`, times `|H(Kx)|` of what it adds to others.
    pub fn form_factor(&self, grating: &Vector3<f64>) -> f64 {
        form_factor(self.form_factor, self.voxel_um, [grating.x, grating.y, grating.z])
            * self.line.amplitude(self.voxel_um[0], grating.x)
    }

    /// Largest walk-off `L tan(theta)` along x and y of the given side's ports, micrometres.
    fn walk_off_um(&self, inputs: bool) -> [f64; 2] {
        let length = self.size_um().z;
        let ports = if inputs { self.inputs() } else { self.outputs() };
        let mut most = [0f64; 2];
        for p in 0..ports {
            let k = if inputs { self.input_k(p) } else { self.output_k(p) };
            most[0] = most[0].max(length * (k.x / k.z).abs());
            most[1] = most[1].max(length * (k.y / k.z).abs());
        }
        most
    }

    /// Gap to the next tile along x and y that lets each be lit alone: the walk-off of the inputs.
    pub fn gap_um(&self, least: f64) -> [f64; 2] {
        self.walk_off_um(true).map(|g| g.max(least))
    }

    /// Written glass needed beyond the outermost tiles along x and y: the walk-off of any port.
    pub fn margin_um(&self, least: f64) -> [f64; 2] {
        let (i, o) = (self.walk_off_um(true), self.walk_off_um(false));
        [i[0].max(o[0]).max(least), i[1].max(o[1]).max(least)]
    }

    /// Checks every condition of a tile geometry; see the codes for what each means.
    pub fn check(&self, kappa_min: f64) -> Diagnostics {
        let mut d = Diagnostics::new();
        let what = format!("tile of {} columns, {} x {} rows", self.columns, self.rows_in, self.rows_out);
        let sides = [("input", self.inputs(), true), ("output", self.outputs(), false)];
        for (side, ports, input) in sides {
            let lost =
                (0..ports).find(|&p| !(if input { self.input_k(p) } else { self.output_k(p) }).z.is_normal());
            if let Some(p) = lost {
                d.push(Diagnostic::error(&E0606, format!("{what}: {side} port {p} does not propagate")));
            }
        }
        let [nx, ny, nz] = self.voxels.map(|v| v as i64);
        let (c, two) = (self.columns as i64, 2 * self.carrier as i64);
        let (first, last) = (two - (c - 1), two + (c - 1));
        if first < 1 || 2 * last >= nx {
            d.push(
                Diagnostic::error(
                    &E0603,
                    format!(
                        "{what}: gratings at {first} to {last} column spacings leave the band 1 to {}",
                        (nx - 1) / 2
                    ),
                )
                .note("gratings K and mirror gratings -K must be disjoint and away from 0"),
            );
        }
        let mut rows: Vec<i64> = Vec::new();
        for o in 0..self.rows_out {
            let out = self.output_bins(o * self.columns)[1];
            rows.extend(
                (0..self.rows_in).map(|i| (out - self.input_bins(i * self.columns)[1]).rem_euclid(ny)),
            );
        }
        rows.sort_unstable();
        if rows.windows(2).any(|w| w[0] == w[1]) {
            d.push(Diagnostic::error(
                &E0604,
                format!("{what}: output rows {} spacings apart repeat row differences", self.output_row_step),
            ));
        }
        let kappa = self.kappa();
        if kappa.is_nan() || kappa < kappa_min {
            d.push(Diagnostic::error(&E0605, format!("{what}: kappa is {kappa:.3}, below {kappa_min}")));
        }
        if !d.has_errors() {
            let span = self.depth_span();
            let period = std::f64::consts::TAU / self.voxel_um[2];
            let most = period * (1.0 - 1.0 / nz.max(2) as f64 * 0.5);
            if span > most {
                d.push(Diagnostic::error(
                    &E0605,
                    format!("{what}: depth frequencies span {span:.3} of the layers' {period:.3} rad/um"),
                ));
            }
        }
        d
    }

    /// Largest spread of depth frequencies at one transverse frequency, radians a micrometre.
    fn depth_span(&self) -> f64 {
        let mut most = 0f64;
        let c = self.columns;
        for ro in 0..self.rows_out {
            for ri in 0..self.rows_in {
                for d in 0..c {
                    // Along a line the depth frequency is monotone in the column: the ends span it.
                    for (a, b) in [((0, d), (c - 1 - d, c - 1)), ((d, 0), (c - 1, c - 1 - d))] {
                        let kz =
                            |(i, o): (usize, usize)| self.output_k(ro * c + o).z - self.input_k(ri * c + i).z;
                        most = most.max((kz(a) - kz(b)).abs());
                    }
                }
            }
        }
        most
    }
}

/// Whether a number has no prime factor above 5.
pub(crate) fn smooth(mut n: usize) -> bool {
    for p in [2, 3, 5] {
        while n > 1 && n.is_multiple_of(p) {
            n /= p;
        }
    }
    n == 1
}

/// Form factor `s(K)` of a voxel: the Fourier transform of its shape, 1 at K = 0. `pitch` in
/// micrometres, `k` in radians a micrometre.
pub fn form_factor(shape: FormFactor, pitch: [f64; 3], k: [f64; 3]) -> f64 {
    match shape {
        FormFactor::Box => pitch
            .iter()
            .zip(k)
            .map(|(p, k)| {
                let h = 0.5 * k * p;
                if h.abs() < 1e-9 { 1.0 } else { h.sin() / h }
            })
            .product(),
        FormFactor::Gaussian(fwhm) => {
            let sum: f64 = fwhm.iter().zip(k).map(|(w, k)| (w * k).powi(2)).sum();
            (-sum / (16.0 * std::f64::consts::LN_2)).exp()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process() -> Hologram {
        Hologram::parse("t", include_str!("../process/borosilicate-phase.toml")).unwrap()
    }

    fn codes(e: &Diagnostics) -> Vec<&str> {
        e.0.iter().map(|d| d.code.id).collect()
    }

    #[test]
    fn the_family_has_36_voxels_a_weight_from_a_slice_to_the_largest_tile() {
        let p = process();
        for (c, ri, ro) in [(8, 1, 1), (48, 2, 3), (64, 1, 1), (128, 1, 8), (128, 8, 8)] {
            let g = Geometry::new(&p, Request::new(c, ri, ro)).unwrap();
            let a_weight = g.voxel_count() as f64 / (g.inputs() * g.outputs()) as f64;
            assert!((a_weight - 36.0).abs() < 0.5, "{c} {ri} {ro}: {a_weight}");
            assert!(g.kappa() >= 1.4 && g.kappa() < 1.6, "{}", g.kappa());
        }
        let g = Geometry::new(&p, Request::new(128, 8, 8)).unwrap();
        assert_eq!(g.voxels, [1024, 128, 288]);
        let gap = g.gap_um(0.0);
        assert!((gap[0] - 518.0).abs() < 10.0 && gap[1] < 61.0, "{gap:?}");
    }

    #[test]
    fn consecutive_rows_low_kappa_and_on_axis_ports_are_refused() {
        let p = process();
        let consecutive = Request { output_row_step: 1, ..Request::new(32, 4, 4) };
        assert_eq!(codes(&Geometry::new(&p, consecutive).unwrap_err()), ["E0604"]);
        let short = Request { length_um: Some(600.0), ..Request::new(64, 1, 1) };
        assert_eq!(codes(&Geometry::new(&p, short).unwrap_err()), ["E0605"]);
        let on_axis = Hologram { theta0_deg: 1.0, kappa_min: 0.0, ..p.clone() };
        assert_eq!(codes(&Geometry::new(&on_axis, Request::new(64, 1, 1)).unwrap_err()), ["E0603"]);
        let steep = Hologram { theta0_deg: 70.0, ..p.clone() };
        let e = Geometry::new(&steep, Request::new(64, 1, 1)).unwrap_err();
        assert!(codes(&e).contains(&"E0603") || codes(&e).contains(&"E0606"), "{e}");
        let mut thick = p;
        thick.base.voxel_um = [0.5, 1.0, 13.2];
        assert_eq!(codes(&Geometry::new(&thick, Request::new(64, 1, 1)).unwrap_err()), ["E0605"]);
    }

    #[test]
    fn ragged_tiles_find_a_geometry_that_holds_them() {
        let p = process();
        for (k, n) in [(1, 1), (384, 2), (2, 384), (384, 384), (1024, 1024), (384, 826), (65, 3), (1000, 1)] {
            let g = Geometry::choose(&p, k, n).unwrap();
            assert!(g.inputs() >= k && g.outputs() >= n, "{k} x {n}: {g:?}");
            assert!(
                k * n < 10_000 || g.voxel_count() <= 41 * k * n,
                "{k} x {n}: {}",
                g.voxel_count() / (k * n)
            );
        }
        assert_eq!(codes(&Geometry::choose(&p, 1025, 1).unwrap_err()), ["E0602"]);
    }

    #[test]
    fn form_factors_are_the_transforms_of_their_shapes() {
        let pitch = [0.5, 1.0, 6.6];
        let k = [1.3, -0.7, 0.4];
        // Midpoint sums over a fine grid of the voxel, against the closed forms.
        let n = 4000;
        let mut boxed = 1.0;
        for a in 0..3 {
            let sum: f64 =
                (0..n).map(|i| (k[a] * pitch[a] * ((i as f64 + 0.5) / n as f64 - 0.5)).cos()).sum();
            boxed *= sum / n as f64;
        }
        assert!((boxed - form_factor(FormFactor::Box, pitch, k)).abs() < 1e-6);
        let w = [0.5, 0.6, 5.0];
        let mut round = 1.0;
        for a in 0..3 {
            let (mut sum, mut norm) = (0.0, 0.0);
            for i in 0..n {
                let x = w[a] * 6.0 * ((i as f64 + 0.5) / n as f64 - 0.5);
                let v = (-4.0 * std::f64::consts::LN_2 * (x / w[a]).powi(2)).exp();
                sum += v * (k[a] * x).cos();
                norm += v;
            }
            round *= sum / norm;
        }
        assert!((round - form_factor(FormFactor::Gaussian(w), pitch, k)).abs() < 1e-6);
        assert_eq!(form_factor(FormFactor::Box, pitch, [0.0; 3]), 1.0);
    }
}
