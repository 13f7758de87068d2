//! Masks: each weight is one pixel of birefringent glass, read between polarisers. The reference lowering for small models.
//!
//! A pixel is a stack of layers of nanogratings that together retard by half a wave, with the azimuth theta of its axis. Light
//! of x-polarisation leaves it with the share `cos^2 2 theta` in x and `sin^2 2 theta` in y; a polarising beam splitter sends them
//! to two detectors, whose difference is `cos 4 theta` of the light, a weight in -1 to 1. Of retardance delta in general
//!
//! ```text
//! w = cos^2 2 theta + sin^2 2 theta cos delta
//! ```
//!
//! A tile is Stanford's matrix-vector multiplier (Goodman, Dias, Woody, Optics Letters 2, 1, 1978) with incoherent light: the
//! light of input i is spread along the row i of pixels, that of column j is brought together on the detectors of output j. Powers
//! of light are not negative, so a vector takes two passes, its positive and its negative part. Column j of the matrix has a scale
//! m_j: `W_ij = m_j w_ij`.
//!
//! A pixel must be thin: light that spreads by diffraction over its length must stay in it, `p >= lambda / sqrt(2 n dn)`.
//!
//! [`design`] chooses levels and says how exact they are; [`recompute`] says what written levels do.

pub mod design;
pub mod recompute;

use std::f64::consts::{PI, TAU};

use pfmc_ir::diag::{Diagnostic, Diagnostics};

use crate::budget::{CREST, PHOTON_J_UM};
use crate::codes::{E0602, E0623};
use crate::process::{Fields, Process};
use crate::schedule::Level;

/// Preferred multiple of rows and columns of a tile: none.
pub const MULTIPLE: u32 = 1;
/// Which pixel holds which weight.
pub const PIXEL_MAP: &str = "pixel x, y has the weight of output x and input y";
/// Most levels: with the fill's they are eight bits.
const LEVELS_MAX: u8 = 255;
/// Share of half a wave by which the layers together may miss it.
const HALF_WAVE: f64 = 0.05;

/// How azimuths of levels follow each other, from 0 to 45 degrees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steps {
    /// In equal steps of cos 4 theta.
    Weight,
    /// In equal steps of theta.
    Azimuth,
}

/// A validated process of masks.
#[derive(Debug, Clone, PartialEq)]
pub struct Mask {
    /// What every process has. Its voxel is a layer of a pixel.
    pub base: Process,
    /// Difference of the indices along the axes of written glass.
    pub birefringence: f64,
    /// Layers that together are half a wave.
    pub layers: usize,
    /// How levels follow each other.
    pub steps: Steps,
    /// Most inputs of a tile: pixels along y.
    pub inputs_max: usize,
    /// Most outputs of a tile: pixels along x.
    pub outputs_max: usize,
    /// Root mean square error of a voxel's azimuth, degrees.
    pub azimuth_rms_deg: f64,
    /// Root mean square error of the azimuth of a whole layer, degrees.
    pub layer_azimuth_rms_deg: f64,
    /// Relative root mean square error of a voxel's retardance.
    pub retardance_rms: f64,
    /// Relative root mean square error of the retardance of a whole layer.
    pub layer_retardance_rms: f64,
    /// Relative root mean square error of a pixel's transmission.
    pub transmission_rms: f64,
    /// Share of a pixel's light that is found with each of its four neighbours.
    pub crosstalk: f64,
}

impl Mask {
    /// The process of a document.
    ///
    /// # Errors
    /// Missing and unknown keys, values out of range, contradictions, pixels that are not thin, and a calibration, of which masks
    /// have none.
    pub(crate) fn read(mut f: Fields, calibrated: bool) -> Result<Mask, Diagnostics> {
        let mut base = Process::read(&mut f, LEVELS_MAX);
        base.spots = ["spots_x", "spots_y"].map(|k| f.count("voxel", k, 1, 1000) as u32);
        base.fill_written = false;
        let steps = f.choice("levels", "steps", &[("weight", Steps::Weight), ("azimuth", Steps::Azimuth)]);
        let m = Mask {
            base,
            birefringence: f.number("retarder", "birefringence", 1e-6, 1.0),
            layers: f.count("retarder", "layers", 1, 256),
            steps,
            inputs_max: f.count("tile", "inputs_max", 1, 2048),
            outputs_max: f.count("tile", "outputs_max", 1, 2048),
            azimuth_rms_deg: f.number("noise", "azimuth_rms_deg", 0.0, 45.0),
            layer_azimuth_rms_deg: f.number("noise", "layer_azimuth_rms_deg", 0.0, 45.0),
            retardance_rms: f.number("noise", "retardance_rms", 0.0, 10.0),
            layer_retardance_rms: f.number("noise", "layer_retardance_rms", 0.0, 10.0),
            transmission_rms: f.number("noise", "transmission_rms", 0.0, 10.0),
            crosstalk: f.number("noise", "crosstalk", 0.0, 0.25),
        };
        f.end()?;
        if calibrated {
            f.problem("calibration", "is of holograms; masks have none");
        }
        m.base.check(&mut f);
        let waves = m.retardance() / TAU;
        if (2.0 * waves - 1.0).abs() > HALF_WAVE {
            f.problem(
                "retarder.layers",
                &format!(
                    "is {}; so many layers of {} um with a birefringence of {} are {waves:.3} waves, not half a wave",
                    m.layers, m.base.voxel_um[2], m.birefringence
                ),
            );
        }
        let least = m.thin_um();
        for (key, um) in ["x_um", "y_um"].into_iter().zip(m.base.voxel_um) {
            if um < least {
                f.refuse(
                    Diagnostic::error(
                        &E0623,
                        format!(
                            "process {}: voxel.{key} is {um}; light spreads by {least:.2} um over a pixel that is {:.1} um long",
                            m.base.name,
                            m.layers as f64 * m.base.voxel_um[2]
                        ),
                    )
                    .help(format!("take pixels of at least {least:.2} um, or a larger birefringence and fewer layers")),
                );
            }
        }
        f.result(m)
    }

    /// Retardance of a pixel in radians: `2 pi dn L / lambda` over all its layers.
    pub fn retardance(&self) -> f64 {
        let length_um = self.layers as f64 * self.base.voxel_um[2];
        TAU * self.birefringence * length_um / self.base.wavelength_um
    }

    /// Least side of a pixel, micrometres: `lambda / sqrt(2 n dn)`, where the first Fresnel zone of half a wave's length,
    /// `sqrt(lambda L / n)` with `L = lambda / (2 dn)`, fills it.
    pub fn thin_um(&self) -> f64 {
        self.base.wavelength_um / (2.0 * self.base.index * self.birefringence).sqrt()
    }

    /// Azimuth of each level but the fill's, degrees, from 0 to 45.
    pub fn azimuths_deg(&self) -> Vec<f64> {
        let last = f64::from(self.base.levels - 1);
        (0..self.base.levels)
            .map(|l| {
                let share = f64::from(l) / last;
                let deg = match self.steps {
                    Steps::Weight => (1.0 - 2.0 * share).acos().to_degrees() / 4.0,
                    Steps::Azimuth => 45.0 * share,
                };
                // Libraries for acos differ in the last digit.
                (deg * 1e6).round() * 1e-6
            })
            .collect()
    }

    /// Birefringence and azimuth of each level; the fill is not written.
    pub(crate) fn levels(&self) -> Vec<Level> {
        let written = self.azimuths_deg().into_iter().map(|deg| Level {
            dn: self.birefringence,
            azimuth_deg: Some(deg),
            ..Level::default()
        });
        written.chain([Level::default()]).collect()
    }

    /// Whether a tile can hold so many weights.
    ///
    /// # Errors
    /// When it cannot.
    pub fn holds(&self, inputs: usize, outputs: usize) -> Result<(), Diagnostics> {
        if (1..=self.inputs_max).contains(&inputs) && (1..=self.outputs_max).contains(&outputs) {
            return Ok(());
        }
        let text = format!(
            "a mask of at most {} x {} pixels does not hold {inputs} inputs x {outputs} outputs",
            self.inputs_max, self.outputs_max
        );
        Err(Diagnostic::error(&E0602, text).into())
    }
}

/// Relative error powers of one reading, both passes, by photons and by converters. `scales` are the columns', `power` is the sum S of
/// the squares of weights, `inputs` are the tile's.
///
/// Inputs are normal with a full range of [`CREST`] root mean squares. Both detectors count in both passes: `e` electrons a pixel at full drive
/// give `CREST sqrt(2 / pi) inputs sum m^2 / (e S)`. Converters of inputs have a magnitude, the pass has the sign: `CREST^2 / 12 / 4^bits`; those
/// of outputs leave `CREST^2 / 3 / 4^bits` of each pass, and so of both.
pub fn reading(mask: &Mask, scales: &[f64], inputs: usize, power: f64) -> [f64; 2] {
    let base = &mask.base;
    let photon_j = PHOTON_J_UM / base.wavelength_um;
    let light_j = base.power_mw * 1e-3 * base.integration_us * 1e-6;
    let pixels = (inputs * scales.len()) as f64;
    let electrons = base.detector_efficiency * light_j / photon_j / pixels;
    let squares: f64 = scales.iter().map(|m| m * m).sum();
    let photons = CREST * (2.0 / PI).sqrt() * inputs as f64 * squares / (electrons * power);
    let converter = |bits: u32, parts: f64| CREST * CREST / parts / 4f64.powi(bits as i32);
    [photons, converter(base.dac_bits, 12.0) + converter(base.adc_bits, 3.0)]
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::lowering::Lowering;

    const TEXT: &str = include_str!("../../process/fused-silica-mask.toml");

    pub(crate) fn mask(replace: &[(&str, &str)]) -> Mask {
        match open(replace) {
            Ok(Lowering::Mask(m)) => m,
            other => panic!("{other:?}"),
        }
    }

    fn open(replace: &[(&str, &str)]) -> Result<Lowering, Diagnostics> {
        let text = replace.iter().fold(TEXT.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        });
        Lowering::parse("t", &text)
    }

    #[test]
    fn the_built_in_mask_is_half_a_wave_and_its_levels_go_from_1_to_minus_1() {
        let m = mask(&[]);
        assert!((m.retardance() - std::f64::consts::PI).abs() < 1e-9);
        // 0.85 / sqrt(2 * 1.4525 * 0.004)
        assert!((m.thin_um() - 7.885).abs() < 1e-3);
        for steps in ["weight", "azimuth"] {
            let steps = format!("steps = \"{steps}\"");
            let m = mask(&[("steps = \"weight\"", &steps)]);
            let a = m.azimuths_deg();
            assert!(a[0] == 0.0 && a[a.len() - 1] == 45.0 && a.is_sorted() && a[a.len() / 2] == 22.5);
        }
        let azimuths = m.azimuths_deg();
        let even = azimuths.windows(2).map(|p| {
            let w = |deg: f64| (4.0 * deg.to_radians()).cos();
            (w(p[0]) - w(p[1])) * f64::from(m.base.levels - 1) / 2.0 - 1.0
        });
        assert!(even.fold(0.0, |a: f64, e| a.max(e.abs())) < 1e-5);
        assert_eq!(m.levels().last().unwrap().dn, 0.0);
    }

    #[test]
    fn thick_pixels_other_retardances_and_calibrations_are_refused() {
        for (from, to, code, word) in [
            ("x_um = 10.0", "x_um = 7.5", "E0623", "7.89 um"),
            ("layers = 5", "layers = 4", "E0601", "0.400 waves"),
            ("birefringence = 4.0e-3", "birefringence = 3.0e-3", "E0601", "half a wave"),
            ("crosstalk =", "cross_talk =", "E0601", "noise.cross_talk"),
            ("[light]", "[calibration.focus]\ndepth_ratio = 1.5\n[light]", "E0601", "masks have none"),
            ("method = \"mask\"", "method = \"prism\"", "E0601", "prism"),
        ] {
            let e = open(&[(from, to)]).unwrap_err();
            let all = e.to_string();
            assert!(e.0.iter().any(|d| d.code.id == code) && all.contains(word), "{to}: {all}");
        }
        // Thin only for its larger side.
        assert_eq!(open(&[("y_um = 10.0", "y_um = 7.0")]).unwrap_err().0.len(), 1);
    }
}
