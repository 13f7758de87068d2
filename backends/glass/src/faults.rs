//! One plate as a process file's nominal noise could have made it, and one reading of it.
//!
//! Voxels' energies and places along x, layers' gains and places are drawn once for a tile; what [`crate::budget`] says of
//! them on average can so be held against what a model makes of them.

use pfmc_ir::random::{mix, normal};

use crate::hologram::Hologram;

/// A draw of a writer's faults, nominal and normal. Which is drawn follows from the seed alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    /// Tells draws apart.
    pub seed: u64,
    /// Of a voxel's index change, relative, root mean square.
    pub energy_rms: f64,
    /// Of a voxel's place along x, micrometres.
    pub jitter_um: f64,
    /// Of a layer's place along x, micrometres.
    pub registration_um: f64,
    /// Of a layer's index change, relative.
    pub gain_rms: f64,
    /// Mean written index change, which suffers too.
    pub bias_dn: f64,
}

impl Faults {
    /// The noise of a process file.
    pub fn nominal(process: &Hologram, seed: u64) -> Faults {
        Faults {
            seed,
            energy_rms: process.energy_rms,
            jitter_um: process.voxel_jitter_nm * 1e-3,
            registration_um: process.layer_registration_nm * 1e-3,
            gain_rms: process.layer_gain_rms,
            bias_dn: process.bias_dn(),
        }
    }

    /// Of a voxel of a layer: the factor of its index change, and how far it is from its place along x, micrometres.
    pub fn voxel(&self, layer: usize, voxel: usize) -> (f64, f64) {
        let of = |what: u64, at: usize| {
            normal(mix(self.seed ^ mix(what << 56 | (layer as u64) << 32 | at as u64)))
        };
        let factor = 1.0 + self.energy_rms * of(1, voxel) + self.gain_rms * of(2, 0);
        (factor, self.jitter_um * of(3, voxel) + self.registration_um * of(4, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_the_spread_that_they_name_and_differ_by_seed() {
        let of = |seed| Faults {
            seed,
            energy_rms: 0.1,
            jitter_um: 0.02,
            registration_um: 0.0,
            gain_rms: 0.0,
            bias_dn: 0.0,
        };
        let draws: Vec<(f64, f64)> = (0..40_000).map(|v| of(1).voxel(3, v)).collect();
        let mean = |f: &dyn Fn(&(f64, f64)) -> f64| draws.iter().map(f).sum::<f64>() / draws.len() as f64;
        assert!(mean(&|d| d.0 - 1.0).abs() < 2e-3 && mean(&|d| d.1).abs() < 4e-4);
        assert!((mean(&|d| (d.0 - 1.0).powi(2)).sqrt() / 0.1 - 1.0).abs() < 0.02);
        assert!((mean(&|d| d.1.powi(2)).sqrt() / 0.02 - 1.0).abs() < 0.02);
        assert!(mean(&|d| (d.0 - 1.0) * d.1).abs() < 5e-5);
        assert_ne!(of(1).voxel(3, 5), of(2).voxel(3, 5));
        // A layer is shifted as one.
        let layers =
            Faults { energy_rms: 0.0, jitter_um: 0.0, registration_um: 0.01, gain_rms: 0.01, ..of(1) };
        assert_eq!(layers.voxel(7, 1), layers.voxel(7, 900));
        assert_ne!(layers.voxel(7, 1), layers.voxel(8, 1));
    }
}
