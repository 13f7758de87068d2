//! The weights of a mask's written levels, for read-back: Jones calculus through the layers of each pixel. Shares no code with
//! the design ([`crate::mask::design`]) and takes everything from the file.

use pfmc_ir::random::{mix, normal};
use rayon::prelude::*;
use rustfft::num_complex::Complex64;

use crate::mask::Mask;

/// What the file says about a tile, in physical units.
pub struct Pixels {
    /// Pixels along x (outputs), along y (inputs), layers.
    pub voxels: [usize; 3],
    /// Azimuth of each level, radians, and retardance of one layer of it, radians: 0 of glass that is not written.
    pub levels: Vec<[f64; 2]>,
    /// Scale of each column.
    pub scales: Vec<f64>,
}

/// A draw of a writer's faults, nominal and normal. Which is drawn follows from the seed alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    /// Tells draws apart.
    pub seed: u64,
    /// Of a voxel's azimuth, radians.
    pub azimuth_rms: f64,
    /// Of the azimuth of a layer.
    pub layer_azimuth_rms: f64,
    /// Of a voxel's retardance, relative.
    pub retardance_rms: f64,
    /// Of the retardance of a layer.
    pub layer_retardance_rms: f64,
    /// Of a pixel's transmission, relative.
    pub transmission_rms: f64,
    /// Share of a pixel's light that is found with each neighbour.
    pub crosstalk: f64,
}

impl Faults {
    /// The noise of a process file.
    pub fn nominal(mask: &Mask, seed: u64) -> Faults {
        Faults {
            seed,
            azimuth_rms: mask.azimuth_rms_deg.to_radians(),
            layer_azimuth_rms: mask.layer_azimuth_rms_deg.to_radians(),
            retardance_rms: mask.retardance_rms,
            layer_retardance_rms: mask.layer_retardance_rms,
            transmission_rms: mask.transmission_rms,
            crosstalk: mask.crosstalk,
        }
    }

    fn of(&self, what: u64, layer: usize, pixel: usize) -> f64 {
        normal(mix(self.seed ^ mix(what << 56 | (layer as u64) << 32 | pixel as u64)))
    }
}

/// Polarisation behind a retarder of azimuth and retardance in radians: its Jones matrix,
/// `cos(d/2) - i sin(d/2) [[cos 2a, sin 2a], [sin 2a, -cos 2a]]`, times the field.
fn retarder([x, y]: [Complex64; 2], azimuth: f64, retardance: f64) -> [Complex64; 2] {
    let (sin, cos) = (0.5 * retardance).sin_cos();
    let (s2, c2) = (2.0 * azimuth).sin_cos();
    let turn = Complex64::new(0.0, -sin);
    [x * cos + turn * (x * c2 + y * s2), y * cos + turn * (x * s2 - y * c2)]
}

impl Pixels {
    /// Light of x-polarisation behind a pixel, counted along x, then y: what is in x less what is in y, of 1.
    pub fn pixel(&self, levels: &[u8], pixel: usize, faults: Option<&Faults>) -> f64 {
        let [nx, ny, layers] = self.voxels;
        let mut field = [Complex64::new(1.0, 0.0), Complex64::new(0.0, 0.0)];
        for layer in 0..layers {
            let level = levels.get(layer * nx * ny + pixel).copied().unwrap_or_default();
            let [mut azimuth, mut retardance] =
                self.levels.get(usize::from(level)).copied().unwrap_or_default();
            if let Some(f) = faults {
                azimuth += f.azimuth_rms * f.of(1, layer, pixel) + f.layer_azimuth_rms * f.of(2, layer, 0);
                retardance *= 1.0
                    + f.retardance_rms * f.of(3, layer, pixel)
                    + f.layer_retardance_rms * f.of(4, layer, 0);
            }
            field = retarder(field, azimuth, retardance);
        }
        let transmission = faults.map_or(1.0, |f| 1.0 + f.transmission_rms * f.of(5, 0, pixel));
        transmission * (field[0].norm_sqr() - field[1].norm_sqr())
    }

    /// Weights `[input][output]` of levels, x fastest, then y, then layer; with faults or without.
    pub fn weights(&self, levels: &[u8], faults: Option<&Faults>) -> Vec<f32> {
        let [nx, ny, _] = self.voxels;
        let light: Vec<f64> = (0..nx * ny).into_par_iter().map(|at| self.pixel(levels, at, faults)).collect();
        let share = faults.map_or(0.0, |f| f.crosstalk);
        let found = |at: usize| {
            let (x, y) = (at % nx, at / nx);
            let mut near = 0.0;
            for (there, other) in [
                (x > 0, at.wrapping_sub(1)),
                (x + 1 < nx, at + 1),
                (y > 0, at.wrapping_sub(nx)),
                (y + 1 < ny, at + nx),
            ] {
                near += light.get(other).filter(|_| there).copied().unwrap_or(0.0);
            }
            light[at] + share * near
        };
        let scale = |at: usize| self.scales.get(at % nx).copied().unwrap_or(0.0);
        (0..nx * ny).map(|at| (scale(at) * found(at)) as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::design::design;
    use crate::mask::tests::mask;
    use pfmc_ir::tile::RealBlock;

    /// Normal weights.
    fn block(k: usize, n: usize) -> RealBlock {
        RealBlock { k, n, values: (0..k * n).map(|i| normal(mix(i as u64 + 9)) as f32).collect() }
    }

    fn pixels(m: &Mask, block: &RealBlock, scales: &[f64]) -> Pixels {
        let layer = m.retardance() / m.layers as f64;
        let written = m.azimuths_deg().into_iter().map(|deg| [deg.to_radians(), layer]);
        Pixels {
            voxels: [block.n, block.k, m.layers],
            levels: written.chain([[0.0, 0.0]]).collect(),
            scales: scales.to_vec(),
        }
    }

    #[test]
    fn a_pixel_is_cos_4_theta_and_not_cos_2_theta_and_glass_that_is_not_written_is_1() {
        let m = mask(&[]);
        let a = m.azimuths_deg();
        let p = pixels(&m, &RealBlock { k: 1, n: a.len() + 1, values: vec![0.0; a.len() + 1] }, &[1.0; 66]);
        let one: Vec<u8> = (0..=a.len() as u8).collect();
        let w = p.weights(&one.repeat(m.layers), None);
        let far = |turns: f64| {
            a.iter()
                .zip(&w)
                .fold(0f64, |f, (deg, w)| f.max((f64::from(*w) - (turns * deg.to_radians()).cos()).abs()))
        };
        assert!(far(4.0) < 1e-6 && far(2.0) > 0.5, "{} {}", far(4.0), far(2.0));
        assert_eq!(w[a.len()], 1.0);
    }

    #[test]
    fn what_is_designed_has_its_weights_within_half_a_step_of_its_column() {
        let m = mask(&[]);
        let mut b = block(40, 24);
        b.values.chunks_mut(24).for_each(|row| (row[3], row[5]) = (0.0, 3.0 * row[5].abs()));
        let d = design(&m, &b);
        let w = pixels(&m, &b, &d.record.column_scales).weights(&d.levels, None);
        let step = 2.0 / f64::from(m.base.levels - 1);
        for (at, (got, want)) in w.iter().zip(&b.values).enumerate() {
            let off = f64::from(got - want).abs();
            assert!(off <= d.record.column_scales[at % 24] * 0.5 * step * 1.001, "{at}: {got} {want}");
        }
        assert_eq!(d.record.column_scales[3], 0.0);
        let db = pfmc_ir::numerics::snr_db(&b.values, &w);
        assert!((db - d.record.snr_db).abs() < 1e-3 && db > 25.0, "{db} {}", d.record.snr_db);
        // The largest weight of a column is met exactly.
        let top = (0..40).map(|i| b.values[i * 24]).fold(0f32, |a, v| if v.abs() > a.abs() { v } else { a });
        assert!((0..40).any(|i| b.values[i * 24] == top && (w[i * 24] - top).abs() < 1e-5 * top.abs()));
        let zero = design(&m, &RealBlock { k: 2, n: 3, values: vec![0.0; 6] });
        assert!(zero.accuracy.is_none() && zero.record.gain == 0.0);
    }

    #[test]
    fn layers_that_are_not_quite_half_a_wave_are_reckoned_with() {
        let m = mask(&[("birefringence = 4.0e-3", "birefringence = 3.9e-3")]);
        let b = block(30, 20);
        let d = design(&m, &b);
        let w = pixels(&m, &b, &d.record.column_scales).weights(&d.levels, None);
        assert!((pfmc_ir::numerics::snr_db(&b.values, &w) - d.record.snr_db).abs() < 1e-3);
        assert!(d.record.snr_db > 25.0);
    }

    /// The ratio of the designed weights with one kind of fault, dB, over some draws, and its term of the budget.
    fn simulated(m: &Mask, term: &str, draws: u64) -> [f64; 2] {
        let b = block(64, 48);
        let d = design(m, &b);
        let p = pixels(m, &b, &d.record.column_scales);
        let clean = p.weights(&d.levels, None);
        let power: f64 = b.values.iter().map(|w| f64::from(*w).powi(2)).sum();
        let error: f64 = (0..draws)
            .map(|seed| {
                let w = p.weights(&d.levels, Some(&Faults::nominal(m, seed)));
                w.iter().zip(&clean).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
            })
            .sum();
        let accuracy = d.accuracy.unwrap();
        let predicted = accuracy.terms.iter().find(|t| t.name == term).unwrap().value;
        [-10.0 * (error / power / draws as f64).log10(), -10.0 * predicted.log10()]
    }

    #[test]
    fn the_budget_is_what_simulated_faults_do() {
        let none = [
            ("azimuth_rms_deg = 0.4 ", "azimuth_rms_deg = 0.0 "),
            ("layer_azimuth_rms_deg = 0.1 ", "layer_azimuth_rms_deg = 0.0 "),
            ("\nretardance_rms = 0.03 ", "\nretardance_rms = 0.0 "),
            ("layer_retardance_rms = 0.01 ", "layer_retardance_rms = 0.0 "),
            ("transmission_rms = 0.01 ", "transmission_rms = 0.0 "),
            ("crosstalk = 0.003 ", "crosstalk = 0.0 "),
        ];
        let quiet = mask(&none);
        let cases: [(&str, Mask, f64); 7] = [
            ("azimuth", Mask { azimuth_rms_deg: 0.5, ..quiet.clone() }, 0.2),
            ("azimuth", mask_of_one_layer(Mask { azimuth_rms_deg: 0.5, ..quiet.clone() }), 0.2),
            ("retardance", Mask { retardance_rms: 0.1, ..quiet.clone() }, 0.5),
            ("retardance", Mask { retardance_rms: 0.05, birefringence: 3.9e-3, ..quiet.clone() }, 0.5),
            ("transmission", Mask { transmission_rms: 0.02, ..quiet.clone() }, 0.2),
            ("crosstalk", Mask { crosstalk: 0.01, ..quiet.clone() }, 0.01),
            ("azimuth", Mask { azimuth_rms_deg: 2.0, ..quiet.clone() }, 0.3),
        ];
        for (term, m, within) in cases {
            let [got, want] = simulated(&m, term, 12);
            println!("{term}: simulated {got:.2} dB, predicted {want:.2} dB");
            assert!((got - want).abs() < within, "{term}: {got} {want}");
            // Without the fault there is nothing, so that the figure is its own.
            assert!(simulated(&quiet, term, 1)[0] > 120.0);
        }
        // Five numbers a draw, which all pixels share.
        let layers = Mask { layer_azimuth_rms_deg: 0.5, ..quiet };
        let [got, want] = simulated(&layers, "azimuth", 400);
        println!("azimuth of layers: simulated {got:.2} dB, predicted {want:.2} dB");
        assert!((got - want).abs() < 0.6, "{got} {want}");
    }

    fn mask_of_one_layer(mut m: Mask) -> Mask {
        m.base.voxel_um[2] *= m.layers as f64;
        m.layers = 1;
        m
    }

    #[test]
    fn the_noise_of_a_reading_is_that_of_counted_photons_and_converters() {
        let m = mask(&[
            ("power_mw = 10.0", "power_mw = 1.0e-3"),
            ("adc_bits = 10", "adc_bits = 8"),
            ("dac_bits = 10", "dac_bits = 6"),
        ]);
        let b = block(48, 32);
        let d = design(&m, &b);
        let p = pixels(&m, &b, &d.record.column_scales);
        let w = p.weights(&d.levels, None);
        let power: f64 = w.iter().map(|w| f64::from(*w).powi(2)).sum();
        let [photons, converters] = crate::mask::reading(&m, &d.record.column_scales, b.k, power);
        // Normal inputs of which a full range is four; each pass counts what both detectors get. Shot noise of many photons is normal.
        let joules = m.base.power_mw * 1e-3 * m.base.integration_us * 1e-6;
        let electrons = m.base.detector_efficiency * joules * m.base.wavelength_um / 1.986_445_86e-19;
        let full = electrons / (48.0 * 32.0);
        let scales = &d.record.column_scales;
        let (mut signal, mut shot, mut steps) = (0.0, 0.0, 0.0);
        for draw in 0..200u64 {
            let x: Vec<f64> = (0..48).map(|i| normal(mix(draw << 20 | i)) / 4.0).collect();
            for j in 0..32 {
                let (mut y, mut noisy, mut converted) = (0.0, 0.0, 0.0);
                for pass in [1.0, -1.0] {
                    let (mut sum, mut ports, mut rounded) = (0.0, [0.0f64; 2], 0.0);
                    for (i, x) in x.iter().enumerate() {
                        let light = (pass * x).max(0.0);
                        let w = f64::from(w[i * 32 + j]) / scales[j];
                        sum += light * w;
                        ports[0] += full * light * (1.0 + w) / 2.0;
                        ports[1] += full * light * (1.0 - w) / 2.0;
                        rounded += (light.min(1.0) * 64.0 - 0.5).round().max(0.0) / 64.0 * w
                            + 0.5 / 64.0 * w * f64::from(u8::from(light > 0.0));
                    }
                    let seed = draw << 8 | (j as u64) << 1 | u64::from(pass > 0.0);
                    let draws = [normal(mix(seed ^ 77 << 40)), normal(mix(seed ^ 78 << 40))];
                    noisy += pass
                        * (ports[0] + draws[0] * ports[0].sqrt() - ports[1] - draws[1] * ports[1].sqrt())
                        / full;
                    y += pass * sum;
                    converted += pass * rounded;
                }
                let m2 = scales[j] * scales[j];
                signal += m2 * y * y;
                shot += m2 * (noisy - y).powi(2);
                steps += m2 * (converted - y).powi(2);
            }
        }
        let db = |power: f64| -10.0 * power.log10();
        println!("photons {:.2} {:.2}, inputs {:.2}", db(shot / signal), db(photons), db(steps / signal));
        assert!((db(shot / signal) - db(photons)).abs() < 0.3, "{} {}", db(shot / signal), db(photons));
        let inputs = converters - 16.0 / 3.0 / 4f64.powi(8);
        assert!((db(steps / signal) - db(inputs)).abs() < 0.5, "{} {}", db(steps / signal), db(inputs));
    }
}
