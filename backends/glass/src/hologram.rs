//! Holograms: what a process file says of tiles that are volume holograms, and what becomes of a tile of weights.

use std::sync::Arc;

use pfmc_ir::diag::{Diagnostic, Diagnostics};
use pfmc_ir::tile::RealBlock;

use crate::born::{Born, Workspace};
use crate::budget::{self, Budget, Spread, Tolerances};
use crate::calibration::Calibration;
use crate::codes::E0601;
use crate::design::{self, Design};
use crate::geometry::Geometry;
use crate::lowering::{Designed, Lowering};
use crate::process::{Fields, Process};
use crate::schedule::{self, Header, Level, Tile};

/// Most design levels of a process: with the fill's they are four bits.
const LEVELS_MAX: u8 = 15;
/// How ports are numbered.
pub const PORT_MAP: &str = "port p is column p mod C of row p div C";

/// Shape of one written voxel, which multiplies the transfer matrix by `s(K)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FormFactor {
    /// Index change constant over the raster pitch: `prod sin(K_a p_a / 2) / (K_a p_a / 2)`.
    Box,
    /// Gaussian of the given full widths at half maximum in micrometres:
    /// `prod exp(-K_a^2 w_a^2 / (16 ln 2))`.
    Gaussian([f64; 3]),
}

/// What is read of an output by homodyne.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quadrature {
    /// One quadrature: a weight a grating, real.
    Single,
    /// Both: two weights a grating, those of columns 2j and 2j + 1 as real and imaginary part of output j.
    Dual,
}

impl Quadrature {
    /// Name in process files and schedules.
    pub fn name(self) -> &'static str {
        match self {
            Quadrature::Single => "single",
            Quadrature::Dual => "dual",
        }
    }

    /// Output ports that `columns` columns of a matrix take.
    pub fn ports(self, columns: usize) -> usize {
        columns.div_ceil(self.weights_a_grating())
    }

    /// Real weights one grating holds.
    pub fn weights_a_grating(self) -> usize {
        match self {
            Quadrature::Single => 1,
            Quadrature::Dual => 2,
        }
    }
}

/// A validated process of holograms. Lengths in micrometres unless the name says otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct Hologram {
    /// What every process has. Levels and form factor of a calibration are in place of the file's already.
    pub base: Process,
    /// Angle in glass of the centres of the input (negative) and output (positive) ports, degrees.
    pub theta0_deg: f64,
    /// What is read of an output.
    pub quadrature: Quadrature,
    /// Shape of a voxel.
    pub form_factor: FormFactor,
    /// Half of the level range in units of `dn_rms`.
    pub clip_sigma: f64,
    /// Root mean square index change of the hologram before rounding.
    pub dn_rms: f64,
    /// Largest index change that the process writes.
    pub dn_max: f64,
    /// Most ports a row.
    pub columns_max: usize,
    /// Most rows of ports on a side.
    pub rows_max: usize,
    /// Tile width along x for each column.
    pub width_per_column_um: f64,
    /// Tile length along z for each column.
    pub length_per_column_um: f64,
    /// Tile height along y for each pair of an input and an output row.
    pub height_per_row_pair_um: f64,
    /// Least conditioning number.
    pub kappa_min: f64,
    /// Conjugate-gradient steps.
    pub cg_steps: usize,
    /// Projections that bring the hologram into the range of the levels.
    pub clip_steps: usize,
    /// Most steps of level flips.
    pub flip_steps: usize,
    /// Signal-to-noise ratio at which flips stop, dB.
    pub snr_target_db: f64,
    /// Most rounds of flips against multiple scattering; 0 takes tiles in the first Born approximation.
    pub propagation_rounds: usize,
    /// Relative root mean square error of a voxel's index change.
    pub energy_rms: f64,
    /// Root mean square error of a voxel's place along x, nanometres.
    pub voxel_jitter_nm: f64,
    /// Root mean square error of a layer's place along x, nanometres.
    pub layer_registration_nm: f64,
    /// Relative root mean square error of a layer's index change.
    pub layer_gain_rms: f64,
}

impl Hologram {
    /// Mean index change of written glass: `clip_sigma * dn_rms`, the middle of the level range.
    pub fn bias_dn(&self) -> f64 {
        self.clip_sigma * self.dn_rms
    }

    /// Step from level to level in units of `dn_rms`.
    pub fn level_step(&self) -> f64 {
        2.0 * self.clip_sigma / f64::from(self.base.levels - 1)
    }

    /// Index change of each level; the entry after the design levels is exactly the bias and fills
    /// the glass around tiles.
    pub fn level_table(&self) -> Vec<f64> {
        let last = f64::from(self.base.levels - 1);
        let step = |l: u8| 2.0 * self.bias_dn() * f64::from(l) / last;
        (0..self.base.levels).map(step).chain([self.bias_dn()]).collect()
    }

    /// Wave number in written glass, radians a micrometre: `2 pi (n + b) / lambda`.
    pub fn wave_number(&self) -> f64 {
        std::f64::consts::TAU * (self.base.index + self.bias_dn()) / self.base.wavelength_um
    }

    /// Reads a process file that has to be of holograms.
    ///
    /// # Errors
    /// As [`Lowering::parse`], and a file of another method.
    pub fn parse(name: &str, text: &str) -> Result<Hologram, Diagnostics> {
        match Lowering::parse(name, text)? {
            Lowering::Hologram(h) => Ok(h),
            Lowering::Mask(_) => {
                Err(Diagnostic::error(&E0601, format!("process {name} is not one of holograms")).into())
            }
        }
    }

    /// The process of a document.
    ///
    /// # Errors
    /// Missing and unknown keys, values out of range, contradictions.
    pub(crate) fn read(mut f: Fields, measured: Option<Fields>) -> Result<Hologram, Diagnostics> {
        let base = Process::read(&mut f, LEVELS_MAX);
        let gaussian = f.choice("voxel", "form_factor", &[("box", false), ("gaussian", true)]);
        let quadrature =
            f.choice("optics", "quadrature", &[Quadrature::Single, Quadrature::Dual].map(|q| (q.name(), q)));
        let fwhm = ["fwhm_x_um", "fwhm_y_um", "fwhm_z_um"].map(|k| f.number("voxel", k, 1e-3, 100.0));
        let form_factor = if gaussian { FormFactor::Gaussian(fwhm) } else { FormFactor::Box };
        let mut p = Hologram {
            base,
            quadrature,
            theta0_deg: f.number("optics", "theta0_deg", 0.1, 80.0),
            form_factor,
            clip_sigma: f.number("levels", "clip_sigma", 0.1, 10.0),
            dn_rms: f.number("levels", "dn_rms", 1e-8, 0.1),
            dn_max: f.number("levels", "dn_max", 1e-8, 1.0),
            columns_max: f.count("tile", "columns_max", 8, 512),
            rows_max: f.count("tile", "rows_max", 1, 32),
            width_per_column_um: f.number("tile", "width_per_column_um", 1e-2, 1e3),
            length_per_column_um: f.number("tile", "length_per_column_um", 1e-2, 1e4),
            height_per_row_pair_um: f.number("tile", "height_per_row_pair_um", 1e-2, 1e3),
            kappa_min: f.number("tile", "kappa_min", 0.0, 100.0),
            cg_steps: f.count("design", "cg_steps", 1, 1000),
            clip_steps: f.count("design", "clip_steps", 0, 100),
            flip_steps: f.count("design", "flip_steps", 0, 10_000),
            snr_target_db: f.number("design", "snr_target_db", 0.0, 100.0),
            propagation_rounds: f.count("design", "propagation_rounds", 0, 100),
            energy_rms: f.number("noise", "energy_rms", 0.0, 10.0),
            voxel_jitter_nm: f.number("noise", "voxel_jitter_nm", 0.0, 1e6),
            layer_registration_nm: f.number("noise", "layer_registration_nm", 0.0, 1e6),
            layer_gain_rms: f.number("noise", "layer_gain_rms", 0.0, 10.0),
        };
        f.end()?;
        match measured {
            Some(measured) => measured.calibrate(&mut p, &mut f),
            None => Calibration::default().apply(&mut p, &mut f),
        }
        let largest = 2.0 * p.bias_dn();
        if largest > p.dn_max {
            f.problem(
                "levels.dn_max",
                &format!("is {}, but the largest level, 2 * clip_sigma * dn_rms, is {largest:.3e}", p.dn_max),
            );
        }
        p.base.check(&mut f);
        if p.snr_target_db < p.base.snr_min_db {
            f.problem("design.snr_target_db", "is below snr_min_db");
        }
        f.result(p)
    }

    /// Index change of each level.
    pub(crate) fn levels(&self) -> Vec<Level> {
        self.level_table().into_iter().map(|dn| Level { dn, ..Level::default() }).collect()
    }

    /// What a schedule's header says of holograms.
    pub(crate) fn header(&self, header: &mut Header) {
        let line = &self.base.calibration.line;
        header.bias_dn = self.bias_dn();
        header.gaussian_fwhm_um = schedule::form_factor_widths(self.form_factor);
        header.quadrature = self.quadrature.name().into();
        header.port_map = PORT_MAP.into();
        header.kappa_min = self.kappa_min;
        header.propagated = self.propagation_rounds > 0;
        header.blur = line.blur.to_vec();
        header.history = line.history.to_vec();
    }

    /// The process without rounds against multiple scattering, which leave as many levels of each kind.
    pub(crate) fn first_order(&self) -> Hologram {
        Hologram { propagation_rounds: 0, ..self.clone() }
    }

    /// Designs the hologram of a tile; `tile` names the stream of its random choices.
    pub(crate) fn design(&self, g: &Geometry, born: &Born, weights: &RealBlock, tile: u32) -> Designed {
        let ports = self.quadrature.ports(weights.n);
        let seed = design::hash(0x676c_6173, tile);
        let signs = [design::signs(seed ^ 1, weights.k), design::signs(seed ^ 2, ports)];
        let by_port = [&signs[0][..], &signs[1][..]];
        let d = design::design(self, g, born, &mut Workspace::default(), weights, by_port, seed);
        let accuracy = (d.gain != 0.0).then(|| {
            let power = weights.values.iter().map(|&w| f64::from(w) * f64::from(w)).sum();
            let spread = self.spread(g, [weights.k, ports], &d, power);
            let budget = Budget::new(self, g, ports, &spread);
            budget.accuracy(Some(&Tolerances::new(self, g, &spread, budget.total())))
        });
        let [input_signs, output_signs] = signs;
        let record = Tile {
            columns: g.columns as u32,
            rows_in: g.rows_in as u32,
            rows_out: g.rows_out as u32,
            output_row_step: g.output_row_step as u32,
            carrier: g.carrier as u32,
            gain: d.gain,
            snr_db: d.snr_db,
            snr_complex_db: d.snr_complex_db,
            input_signs,
            output_signs,
            ..Tile::default()
        };
        Designed { levels: d.levels, record, accuracy }
    }

    /// What the budget of a tile needs, from its levels and weights.
    fn spread(&self, g: &Geometry, used: [usize; 2], d: &Design, power: f64) -> Spread {
        let relative = |db: f64| 10f64.powf(-db / 10.0);
        Spread {
            layers: Spread::layers(g, used, &d.levels, self.level_step(), d.noise_gain),
            noise_gain: d.noise_gain,
            written_square: d.written_square,
            efficiency: budget::efficiency(self, g.size_um().z, d.gain, power, used[0]),
            levels: relative(d.snr_db),
            unread: relative(d.snr_complex_db),
        }
    }
}

/// Operators of recently used geometries.
#[derive(Default)]
pub(crate) struct Operators(Vec<([usize; 2], Arc<Born>)>);

impl Operators {
    /// The operator of tiles of `inputs` and output `ports`.
    pub(crate) fn get(&mut self, g: &Geometry, used: [usize; 2]) -> Arc<Born> {
        if let Some((_, b)) = self.0.iter().find(|(k, _)| *k == used) {
            return b.clone();
        }
        if self.0.len() >= 2 {
            self.0.remove(0);
        }
        let born = Arc::new(Born::new(g, used[0], used[1]));
        self.0.push((used, born.clone()));
        born
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = include_str!("../process/borosilicate-phase.toml");

    #[test]
    fn the_built_in_process_is_valid_and_its_bias_lies_between_levels() {
        let p = Hologram::parse("t", TEXT).unwrap();
        let t = p.level_table();
        assert_eq!(t.len(), 9);
        assert!(t[3] < t[8] && t[8] < t[4]);
        assert!((t.iter().take(8).sum::<f64>() / 8.0 - p.bias_dn()).abs() < 1e-12);
    }

    #[test]
    fn every_problem_of_a_file_is_reported_at_once() {
        let text = TEXT
            .replace("wavelength_um = 0.85", "wavelength_um = -1")
            .replace("count = 8", "count = 8.5")
            .replace("rate_hz = 1.0e7", "rate_khz = 1.0e4")
            .replace("form_factor = \"box\"", "form_factor = \"round\"");
        let e = Hologram::parse("bad", &text).unwrap_err();
        let all = e.to_string();
        assert_eq!(e.0.len(), 5, "{all}");
        for part in [
            "optics.wavelength_um",
            "levels.count",
            "write.rate_hz is missing",
            "write.rate_khz is not",
            "round",
        ] {
            assert!(all.contains(part), "{part}: {all}");
        }
        let contradiction = TEXT
            .replace("dn_max = 1.0e-3", "dn_max = 1.0e-4")
            .replace("clearance_um = 40.0", "clearance_um = 4000.0");
        assert_eq!(Hologram::parse("bad", &contradiction).unwrap_err().0.len(), 2);
        assert!(Hologram::parse("bad", "a = [").unwrap_err().to_string().contains("E0601"));
    }
}
