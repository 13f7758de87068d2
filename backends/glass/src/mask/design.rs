//! The levels of a mask, and its error budget.
//!
//! A column's scale maps its largest weight to the end of the range; each weight then takes the level that is nearest. Every
//! term of the budget is an error power relative to the weights', of powers over the pixels
//!
//! ```text
//! S = sum W^2    A = sum m^2 (1 - w^2)    B = sum m^2 (1 - w)^2    C = sum m^2 (sum of w over neighbours)^2
//! ```
//!
//! - azimuth: an error e of the azimuth of layer k of N turns the state of polarisation on Poincare's sphere about an axis that the layers
//!   behind it turn further, so that `dw = -4 sin 4 theta sin(pi / 2N) sin(pi (k + 1/2) / N) e`; independent errors of layers add to
//!   `8 N sin^2(pi / 2N) s^2 A`, of a single layer `16 s^2 A`.
//! - retardance: with d the error of the sum of layers, `dw = (1 - w) (1 - cos d) / 2`, of second order: `3 s_d^4 B / 16`; where the layers
//!   are not quite half a wave but d_0 more, `d_0^2 s_d^2 B / 4` is added.
//! - transmission: a pixel's light is as much off as its weight.
//! - crosstalk: a share c of the light of each neighbour, `c^2 C`.
//! - photons and converters: [`reading`].

use std::f64::consts::PI;

use pfmc_ir::tile::RealBlock;

use crate::budget::ALLOWED_DB;
use crate::lowering::{Accuracy, Designed, Term};
use crate::mask::{Mask, reading};
use crate::schedule::{SNR_MAX_DB, Tile};

/// What light of an input makes of each level, between -1 and 1.
fn weights_of_levels(mask: &Mask) -> Vec<f64> {
    let cos = mask.retardance().cos();
    let weight = |deg: f64| {
        let c = (2.0 * deg.to_radians()).cos().powi(2);
        c + (1.0 - c) * cos
    };
    mask.azimuths_deg().into_iter().map(weight).collect()
}

/// The level whose weight is nearest; of two the one of the larger weight. `levels` descend.
fn nearest(levels: &[f64], w: f64) -> usize {
    let above = levels.partition_point(|l| *l > w);
    match (above.checked_sub(1), levels.get(above)) {
        (Some(before), Some(level)) => {
            if levels[before] - w <= w - level {
                before
            } else {
                above
            }
        }
        (Some(before), None) => before,
        (None, _) => above,
    }
}

/// Designs the mask of a tile.
pub fn design(mask: &Mask, weights: &RealBlock) -> Designed {
    let (k, n) = (weights.k, weights.n);
    let levels = weights_of_levels(mask);
    let ends = [levels.first(), levels.last()].map(|w| w.copied().unwrap_or(1.0).abs());
    let mut scales = vec![0f64; n];
    for row in weights.values.chunks_exact(n.max(1)) {
        for (scale, w) in scales.iter_mut().zip(row) {
            let w = f64::from(*w);
            *scale = scale.max(w.abs() / ends[usize::from(w < 0.0)]);
        }
    }
    let mut pixels = Vec::with_capacity(k * n);
    for row in weights.values.chunks_exact(n.max(1)) {
        pixels.extend(row.iter().zip(&scales).map(|(w, m)| {
            let w = if *m > 0.0 { f64::from(*w) / m } else { 0.0 };
            nearest(&levels, w) as u8
        }));
    }
    let power: f64 = weights.values.iter().map(|w| f64::from(*w).powi(2)).sum();
    let got = |at: usize| levels.get(usize::from(pixels[at])).copied().unwrap_or(0.0);
    let error: f64 = weights
        .values
        .iter()
        .enumerate()
        .map(|(at, w)| (scales[at % n] * got(at) - f64::from(*w)).powi(2))
        .sum();
    let accuracy = (power > 0.0).then(|| {
        let sums = Sums::new([k, n], &scales, &got);
        budget(mask, &sums, &scales, k, power, error / power)
    });
    let some = if power > 0.0 { 1.0 } else { 0.0 };
    let record = Tile {
        gain: some,
        snr_db: some * (10.0 * (power / error).log10()).min(SNR_MAX_DB),
        column_scales: scales,
        ..Tile::default()
    };
    Designed { levels: pixels.repeat(mask.layers), record, accuracy }
}

/// Powers over the pixels of a tile, as the module says.
struct Sums {
    a: f64,
    b: f64,
    c: f64,
    /// As C, of differences between neighbours along x.
    steps: f64,
}

impl Sums {
    fn new([k, n]: [usize; 2], scales: &[f64], w: &dyn Fn(usize) -> f64) -> Sums {
        let mut sums = Sums { a: 0.0, b: 0.0, c: 0.0, steps: 0.0 };
        for at in 0..k * n {
            let (i, j) = (at / n, at % n);
            let m2 = scales[j] * scales[j];
            let here = w(at);
            let left = if j > 0 { w(at - 1) } else { 0.0 };
            let mut near = left;
            near += if j + 1 < n { w(at + 1) } else { 0.0 };
            near += if i > 0 { w(at - n) } else { 0.0 };
            near += if i + 1 < k { w(at + n) } else { 0.0 };
            sums.a += m2 * (1.0 - here * here);
            sums.b += m2 * (1.0 - here).powi(2);
            sums.c += m2 * near * near;
            sums.steps += m2 * (left - here).powi(2);
        }
        sums
    }
}

/// Error power for an azimuth error of 1 rad of every layer by itself, over A.
fn azimuth_gain(layers: usize) -> f64 {
    let n = layers as f64;
    if layers == 1 { 16.0 } else { 8.0 * n * (PI / (2.0 * n)).sin().powi(2) }
}

fn budget(mask: &Mask, s: &Sums, scales: &[f64], inputs: usize, power: f64, levels: f64) -> Accuracy {
    let layers = mask.layers as f64;
    let square = |a: f64, b: f64| a * a + b * b;
    let azimuth = square(mask.azimuth_rms_deg.to_radians(), mask.layer_azimuth_rms_deg.to_radians());
    let retardance = PI * PI * square(mask.retardance_rms, mask.layer_retardance_rms) / layers;
    let off = mask.retardance() - PI;
    let [photons, converters] = reading(mask, scales, inputs, power);
    let terms = [
        ("levels", levels),
        ("azimuth", azimuth_gain(mask.layers) * azimuth * s.a / power),
        ("retardance", (3.0 / 16.0 * retardance.powi(2) + off * off * retardance / 4.0) * s.b / power),
        ("transmission", mask.transmission_rms.powi(2)),
        ("crosstalk", mask.crosstalk.powi(2) * s.c / power),
        ("photons", photons),
        ("converters", converters),
    ];
    let total: f64 = terms.iter().map(|t| t.1).sum();
    let room = total * (10f64.powf(ALLOWED_DB / 10.0) - 1.0) * power;
    // (pi x)^4 B / 16 of a wavelength that is x off; 16 e^2 A of a tile that is turned by e about the light.
    let wavelength = (16.0 * room / s.b).powf(0.25) / PI;
    let turn = (room / (16.0 * s.a)).sqrt();
    // A shift by a share of a pixel mixes neighbours by that share.
    let place_um = mask.base.voxel_um[0] * (room / s.steps).sqrt();
    // The glass expands from its middle: pixels of a row are off by up to half of the tile's width, evenly.
    let width_um = scales.len() as f64 * mask.base.voxel_um[0];
    let temperature = place_um / (mask.base.expansion_per_k * width_um / 12f64.sqrt());
    let tolerances = [
        ("wavelength", wavelength * 1e6, "ppm"),
        ("turn about the light", turn * 1e6, "urad"),
        ("temperature", temperature, "K"),
        ("place along x", place_um * 1e3, "nm"),
    ];
    Accuracy {
        terms: terms.into_iter().map(|(name, value)| Term::new(name, value, "")).collect(),
        tolerances: tolerances.into_iter().map(|(name, value, unit)| Term::new(name, value, unit)).collect(),
    }
}
