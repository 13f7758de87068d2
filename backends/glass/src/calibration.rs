//! What a laboratory measured of a writer: tables `[calibration.*]`, given as a file of their own with `--calibration` and kept
//! behind the process's own tables from then on. Every table is optional.
//!
//! ```toml
//! [calibration.levels]            # of the coupon's patches: the process's levels in turn, then the fill
//! dn = [0.0, 2.5e-5, 5.1e-5, 7.7e-5, 1.03e-4, 1.29e-4, 1.54e-4, 1.8e-4, 9.0e-5]
//! energy_nj = [0.0, 21.0, 24.0, 26.5, 29.0, 31.0, 33.0, 35.0, 27.5]
//!
//! [calibration.depth]             # depths in glass, ascending; between them straight lines
//! depth_um = [0.0, 1000.0, 2000.0]
//! energy = [1.0, 1.06, 1.15]      # factor on the energies above
//! gain = [1.0, 0.995, 0.98]       # of the index change that the energy so corrected still reaches
//!
//! [calibration.voxel]             # in place of the process's form factor
//! form_factor = "gaussian"
//! fwhm_um = [0.5, 0.55, 6.0]
//!
//! [calibration.line]              # along x, as shares of a voxel's own index change
//! blur = [0.04, 0.01]             # that it adds to the first, second, ... voxel on both sides
//! history = [0.06, 0.02]          # that it adds to the first, second, ... voxel written after it
//!
//! [calibration.focus]
//! depth_ratio = 1.56              # depth in glass a micrometre of stage travel
//! ```
//!
//! # What becomes of it
//! Index changes set the process's `dn_rms`: the levels must be equal steps within [`STEP_TOLERANCE`] of a step, and the fill the middle of
//! their range; what they are off by is in the budget. Energies and their factors by depth go into the schedule.
//! The form factor is the design's and read-back's. Blur and history multiply the transfer matrix by
//! `H(Kx) = (1 + 2 sum_m b_m cos(m p Kx) + sum_m h_m exp(-i m s p Kx)) / (1 + 2 sum b + sum h)`, p the pitch and s the
//! interleaving (level tables hold on patches, so that `H(0) = 1`): the design divides by |H|; of the phase, ports take what is linear
//! in Kx and the budget the rest.

use pfmc_ir::diag::Diagnostics;

use crate::codes::E0621;
use crate::geometry::Geometry;
use crate::hologram::{FormFactor, Hologram};
use crate::process::Fields;

/// Largest deviation of a level from equal steps, in steps.
pub const STEP_TOLERANCE: f64 = 0.1;
/// Voxels that blur or history reach, at most.
pub const REACH: usize = 4;

/// Blur and history along lines, as shares of a voxel's own index change.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Line {
    /// To the first, second, ... voxel on both sides.
    pub blur: [f64; REACH],
    /// To the first, second, ... voxel written after.
    pub history: [f64; REACH],
    /// Voxels from one to the next written.
    pub interleave: u32,
}

impl Line {
    /// `H` at a transverse frequency in radians a micrometre for a pitch in micrometres: real and imaginary part.
    pub fn response(&self, pitch_um: f64, kx: f64) -> [f64; 2] {
        let (mut re, mut im, mut sum) = (1.0, 0.0, 1.0);
        for (m, (b, h)) in self.blur.iter().zip(self.history).enumerate() {
            let angle = kx * pitch_um * (m + 1) as f64;
            let later = angle * f64::from(self.interleave);
            re += 2.0 * b * angle.cos() + h * later.cos();
            im -= h * later.sin();
            sum += 2.0 * b + h;
        }
        [re / sum, im / sum]
    }

    /// `|H|`.
    pub fn amplitude(&self, pitch_um: f64, kx: f64) -> f64 {
        let [re, im] = self.response(pitch_um, kx);
        re.hypot(im)
    }

    /// Mean square over a tile's gratings of the phase of H less its part that is linear in Kx, radians squared.
    pub fn phase_square(&self, g: &Geometry) -> f64 {
        let c = g.columns as i64;
        let step = std::f64::consts::TAU / g.size_um().x;
        // As many weights at a column difference d as columns are left.
        let points: Vec<(f64, f64, f64)> = (1 - c..c)
            .map(|d| {
                let [re, im] = self.response(g.voxel_um[0], step * (2 * g.carrier as i64 + d) as f64);
                ((c - d.abs()) as f64, d as f64, im.atan2(re))
            })
            .collect();
        let total: f64 = points.iter().map(|p| p.0).sum();
        let mean =
            |f: &dyn Fn(f64, f64) -> f64| points.iter().map(|p| p.0 * f(p.1, p.2)).sum::<f64>() / total;
        let middle = mean(&|_, phase| phase);
        let spread = mean(&|d, _| d * d);
        let slope = if spread > 0.0 { mean(&|d, phase| d * phase) / spread } else { 0.0 };
        mean(&|d, phase| (phase - middle - slope * d).powi(2))
    }
}

/// A depth and what holds there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Depth {
    /// Depth in glass, micrometres.
    pub depth_um: f64,
    /// Factor on pulse energies.
    pub energy: f64,
    /// Factor on index changes that remains.
    pub gain: f64,
}

/// A validated calibration.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Calibration {
    /// Measured index change of each level, the fill's last; empty where none was measured.
    pub dn: Vec<f64>,
    /// Pulse energy of each level, nanojoules; as many.
    pub energy_nj: Vec<f64>,
    /// By depth, ascending; empty where none was measured.
    pub depth: Vec<Depth>,
    /// Measured form factor.
    pub form_factor: Option<FormFactor>,
    /// Blur and history.
    pub line: Line,
    /// Measured depth a unit of stage travel.
    pub depth_ratio: Option<f64>,
}

impl Calibration {
    /// Takes the tables out of a process's `[calibration]`.
    pub(crate) fn read(f: &mut Fields) -> Calibration {
        let mut c = Calibration::default();
        if f.has("levels") {
            c.dn = f.numbers("levels", "dn", 0.0, 0.1);
            c.energy_nj = f.numbers("levels", "energy_nj", 0.0, 1e9);
            if c.dn.len() != c.energy_nj.len() {
                f.problem("levels.energy_nj", "and levels.dn are not equally many");
            }
        }
        if f.has("depth") {
            let depth = f.numbers("depth", "depth_um", 0.0, 1e6);
            let energy = f.numbers("depth", "energy", 0.1, 10.0);
            let gain = f.numbers("depth", "gain", 0.5, 1.5);
            if depth.len() < 2 || [energy.len(), gain.len()] != [depth.len(); 2] {
                f.problem("depth", "needs two depths or more, with an energy and a gain each");
            } else if depth.windows(2).any(|w| w[0] >= w[1]) {
                f.problem("depth.depth_um", "does not ascend");
            }
            let factors = energy.into_iter().zip(gain);
            c.depth = depth
                .into_iter()
                .zip(factors)
                .map(|(depth_um, (energy, gain))| Depth { depth_um, energy, gain })
                .collect();
        }
        if f.has("voxel") {
            let gaussian = f.choice("voxel", "form_factor", &[("box", false), ("gaussian", true)]);
            if gaussian {
                let widths = f.numbers("voxel", "fwhm_um", 1e-3, 100.0);
                match *widths.as_slice() {
                    [x, y, z] => c.form_factor = Some(FormFactor::Gaussian([x, y, z])),
                    _ => f.problem("voxel.fwhm_um", "has not three widths"),
                }
            } else {
                c.form_factor = Some(FormFactor::Box);
            }
        }
        if f.has("line") {
            for (key, to) in [("blur", &mut c.line.blur), ("history", &mut c.line.history)] {
                let shares = f.numbers("line", key, -0.3, 0.3);
                if shares.len() > REACH {
                    f.problem(&format!("line.{key}"), &format!("reaches more than {REACH} voxels"));
                }
                to.iter_mut().zip(shares).for_each(|(to, s)| *to = s);
            }
        }
        if f.has("focus") {
            c.depth_ratio = Some(f.number("focus", "depth_ratio", 1.0, 5.0));
        }
        c
    }

    /// Gives a process what was measured, and checks that it can have it.
    pub(crate) fn apply(mut self, p: &mut Hologram, f: &mut Fields) {
        self.line.interleave = p.base.interleave;
        if let Some(form) = self.form_factor {
            p.form_factor = form;
        }
        if !self.dn.is_empty() {
            let count = usize::from(p.base.levels);
            if self.dn.len() != count + 1 {
                f.problem("levels.dn", &format!("has {} levels, not {count} and the fill's", self.dn.len()));
                return;
            }
            let top = self.dn[count - 1];
            let step = top / (count - 1) as f64;
            for (level, (dn, want)) in self.dn.iter().zip(Self::even(top, count)).enumerate() {
                let near = (dn - want).abs() <= STEP_TOLERANCE * step;
                if !near || step <= 0.0 {
                    let name =
                        if level == count { "the fill's".to_owned() } else { format!("level {level}'s") };
                    f.problem(
                        "levels.dn",
                        &format!("has {dn:e} as {name}; equal steps would have {want:.3e}, and levels of the design are equal steps"),
                    );
                }
            }
            if self.energy_nj.iter().take(count).collect::<Vec<_>>().windows(2).any(|w| w[0] >= w[1]) {
                f.problem("levels.energy_nj", "does not ascend from level to level");
            }
            p.dn_rms = 0.5 * top / p.clip_sigma;
        }
        let k = std::f64::consts::TAU * p.base.index / p.base.wavelength_um * p.theta0_deg.to_radians().sin();
        let kept = 1.0 + 2.0 * self.line.blur.iter().sum::<f64>() + self.line.history.iter().sum::<f64>();
        if kept < 0.2 {
            f.problem("line", "takes more from a patch than a fifth of its index change leaves");
        } else if self.line.amplitude(p.base.voxel_um[0], 2.0 * k) < 0.2 {
            f.problem("line", "leaves less than a fifth of the gratings at the ports' angles");
        }
        p.base.calibration = self;
    }

    /// Equal steps to the top, and the middle for the fill.
    fn even(top: f64, count: usize) -> impl Iterator<Item = f64> {
        (0..count).map(move |l| top * l as f64 / (count - 1) as f64).chain([0.5 * top])
    }

    /// What holds at a depth, between the depths of the table; 1 where there is none.
    pub fn at(&self, depth_um: f64) -> Depth {
        let one = Depth { depth_um, energy: 1.0, gain: 1.0 };
        let above = self.depth.partition_point(|d| d.depth_um < depth_um);
        match (above.checked_sub(1).and_then(|i| self.depth.get(i)), self.depth.get(above)) {
            (Some(a), Some(b)) => {
                let t = (depth_um - a.depth_um) / (b.depth_um - a.depth_um);
                let mix = |a: f64, b: f64| a + t * (b - a);
                Depth { depth_um, energy: mix(a.energy, b.energy), gain: mix(a.gain, b.gain) }
            }
            (Some(end), None) | (None, Some(end)) => Depth { depth_um, ..*end },
            (None, None) => one,
        }
    }

    /// Checks that the table of depths holds layers from one depth to another.
    ///
    /// # Errors
    /// When it ends before.
    pub fn reaches(&self, from_um: f64, to_um: f64) -> Result<(), Diagnostics> {
        let (Some(first), Some(last)) = (self.depth.first(), self.depth.last()) else { return Ok(()) };
        if first.depth_um <= from_um && to_um <= last.depth_um {
            return Ok(());
        }
        let message = format!(
            "calibration.depth goes from {} to {} um, layers lie {from_um:.0} to {to_um:.0} um deep",
            first.depth_um, last.depth_um
        );
        Err(pfmc_ir::diag::Diagnostic::error(&E0621, message).into())
    }

    /// Mean square deviation of the measured levels from those of the design, in units of `dn_rms` squared, levels used as
    /// often as a normal distribution cut at `clip_sigma` has them.
    pub fn level_square(&self, p: &Hologram) -> f64 {
        let count = usize::from(p.base.levels);
        let Some(top) = count.checked_sub(1).and_then(|i| self.dn.get(i)) else { return 0.0 };
        let (mut sum, mut uses) = (0.0, 0.0);
        for (level, (dn, even)) in self.dn.iter().zip(Self::even(*top, count)).take(count).enumerate() {
            let sigmas = p.clip_sigma * (2.0 * level as f64 / (count - 1) as f64 - 1.0);
            let often = (-0.5 * sigmas * sigmas).exp();
            sum += often * (dn - even).powi(2);
            uses += often;
        }
        sum / uses / (p.dn_rms * p.dn_rms)
    }

    /// Mean square deviation of the gain over a tile's layers from its mean, relative: as it is, and of its part that is
    /// the same above and below the tile's middle.
    pub fn gain_square(&self, clearance_um: f64, g: &Geometry) -> [f64; 2] {
        let layers = g.voxels[2].max(1);
        let gains: Vec<f64> =
            (0..layers).map(|l| self.at(clearance_um + (l as f64 + 0.5) * g.voxel_um[2]).gain).collect();
        let mean = gains.iter().sum::<f64>() / layers as f64;
        let square = |v: &dyn Fn(f64, f64) -> f64| {
            let pairs = gains.iter().zip(gains.iter().rev());
            pairs.map(|(a, b)| (v(*a, *b) / mean - 1.0).powi(2)).sum::<f64>() / layers as f64
        };
        [square(&|a, _| a), square(&|a, b| 0.5 * (a + b))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codes::E0601;
    use crate::geometry::Request;

    const PROCESS: &str = include_str!("../process/borosilicate-phase.toml");

    fn open(calibration: &str) -> Result<Hologram, String> {
        Hologram::parse("t", &format!("{PROCESS}\n{calibration}")).map_err(|e| {
            assert!(e.0.iter().all(|d| d.code == &E0621 || d.code == &E0601), "{e}");
            e.to_string()
        })
    }

    #[test]
    fn a_calibration_changes_the_process_it_is_of() {
        let plain = open("").unwrap();
        assert_eq!(
            plain.base.calibration,
            Calibration { line: Line { interleave: 1, ..Line::default() }, ..Default::default() }
        );
        let p = open(
            "[calibration.levels]\ndn = [0.0, 2.0e-5, 4.0e-5, 6.1e-5, 8.0e-5, 1.0e-4, 1.2e-4, 1.4e-4, 7.0e-5]\n\
             energy_nj = [0.0, 21, 24, 26.5, 29, 31, 33, 35, 27.5]\n\
             [calibration.depth]\ndepth_um = [0.0, 1000.0, 3000.0]\nenergy = [1.0, 1.1, 1.5]\ngain = [1.0, 0.99, 0.95]\n\
             [calibration.voxel]\nform_factor = \"gaussian\"\nfwhm_um = [0.5, 0.6, 6.0]\n\
             [calibration.line]\nblur = [0.05]\nhistory = [0.1, 0.02]\n\
             [calibration.focus]\ndepth_ratio = 1.56\n",
        )
        .unwrap();
        // The top level is 2 clip_sigma dn_rms.
        assert!(
            (p.dn_rms - 1.4e-4 / 4.5).abs() < 1e-12 && p.form_factor == FormFactor::Gaussian([0.5, 0.6, 6.0])
        );
        assert_eq!(p.base.depth_ratio(), 1.56);
        let at = p.base.calibration.at(2000.0);
        assert!((at.energy - 1.3).abs() < 1e-12 && (at.gain - 0.97).abs() < 1e-12);
        assert!(
            p.base.calibration.reaches(40.0, 2000.0).is_ok()
                && p.base.calibration.reaches(40.0, 3001.0).is_err()
        );
        // One level of eight is off by 1e-6: 0.321 sigma below the middle, it has 0.2457 of exp(-x^2 / 2) at 0.321, 0.964,
        // 1.607 and 2.25 on both sides.
        let square = p.base.calibration.level_square(&p);
        assert!((square * p.dn_rms.powi(2) / 0.2457e-12 - 1.0).abs() < 1e-3, "{square}");
        // At 1000 um of depth and more the gain falls by 0.02 a millimetre: variance (0.02 L)^2 / 12 of the mean.
        let g = Geometry::new(&p, Request::new(32, 1, 1)).unwrap();
        let l = g.size_um().z * 1e-3;
        let [square, even] = p.base.calibration.gain_square(1200.0, &g);
        assert!(even < 1e-12);
        let mean = 0.99 - 0.02 * (0.2 + 0.5 * l);
        assert!((square / ((0.02 * l / mean).powi(2) / 12.0) - 1.0).abs() < 0.01, "{square}");
    }

    #[test]
    fn response_is_the_transform_of_its_kernel() {
        let line = Line { blur: [0.05, 0.01, 0.0, 0.0], history: [0.1, 0.02, 0.0, 0.0], interleave: 2 };
        let (p, k) = (0.5, 2.3);
        // Kernel at voxels -2 ... 4.
        let kernel = [0.01, 0.05, 1.0, 0.05, 0.01 + 0.1, 0.0, 0.02];
        let sum: f64 = kernel.iter().sum();
        let part = |f: fn(f64) -> f64| {
            kernel.iter().enumerate().map(|(i, h)| h * f(-k * p * (i as f64 - 2.0))).sum::<f64>() / sum
        };
        let [re, im] = line.response(p, k);
        assert!((re - part(f64::cos)).abs() < 1e-12 && (im - part(f64::sin)).abs() < 1e-12, "{re} {im}");
        assert_eq!(Line::default().response(p, k), [1.0, 0.0]);
    }

    #[test]
    fn what_is_out_of_range_is_refused_by_name() {
        let uneven = "[calibration.levels]\ndn = [0.0, 2.0e-5, 4.0e-5, 6.4e-5, 8.0e-5, 1.0e-4, 1.2e-4, 1.4e-4, 7.0e-5]\n\
                      energy_nj = [0.0, 21, 24, 26.5, 29, 31, 33, 35, 27.5]\n";
        for (text, name) in [
            (uneven.to_owned(), "level 3's"),
            (uneven.replace("6.4e-5", "6.0e-5").replace("7.0e-5]", "8.0e-5]"), "the fill's"),
            (
                uneven.replace("6.4e-5", "6.0e-5").replace("24, 26.5", "26.5, 24"),
                "calibration.levels.energy_nj does not",
            ),
            (uneven.replace(", 7.0e-5]", "]"), "not equally many"),
            (uneven.replace("energy_nj", "energy_uj"), "calibration.levels.energy_uj is not"),
            (uneven.replace("1.4e-4", "1.4e4"), "calibration.levels.dn"),
            (
                "[calibration.depth]\ndepth_um = [0.0, 9.0]\nenergy = [1.0, 1.0]\ngain = [1.0, 0.2]".into(),
                "calibration.depth.gain",
            ),
            (
                "[calibration.depth]\ndepth_um = [9.0, 0.0]\nenergy = [1.0, 1.0]\ngain = [1.0, 1.0]".into(),
                "does not ascend",
            ),
            ("[calibration.line]\nblur = [0.9]\nhistory = []".into(), "calibration.line.blur"),
            ("[calibration.line]\nblur = [0.3, 0.3]\nhistory = []".into(), "a fifth"),
            ("[calibration.voxel]\nform_factor = \"gaussian\"\nfwhm_um = [0.5]".into(), "three widths"),
            ("[calibration.focus]\ndepth_ratio = 0.5".into(), "calibration.focus.depth_ratio"),
            ("[calibration.power]\nlog = 1".into(), "calibration.power.log is not a known key"),
        ] {
            let e = open(&text).unwrap_err();
            assert!(e.contains(name) && e.contains("E0621"), "{name}: {e}");
        }
    }
}
