//! From the exact sums of the tiles of a column to the next layer's int8: the definition that
//! `pfmc_requantise` computes.
//!
//! `q = clamp((sum_t acc[t] * multiplier[g][t] + 2^(shift-1)) >> shift, -127, 127)` in 64 bits: exact up to the
//! shift, halves rounded up. `multiplier[g][t] / 2^shift` stands for `unit[t] * x_scale[g] / y_scale`, of which
//! `unit[t]` is what the tile's header holds and the two scales are those of the activations in, of the column's group g where groups
//! of columns have activations with scales of their own, and out. One `shift` serves
//! all tiles and groups, so that the largest multiplier has 24 significant bits: the products differ from those
//! of [`pfmc_ir::numerics`] by less than 2^-23 of the largest multiplier times `acc[t]`, so that q differs
//! from rounding that module's f64 sum only where it is within that distance of a half.

/// Factors of the tiles of a strip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requantiser {
    /// `[group][tile]`, below 2^24.
    pub multipliers: Vec<u32>,
    /// Tiles.
    pub tiles: usize,
    /// 1 to 62.
    pub shift: u32,
}

/// Bits of a multiplier.
pub const MULTIPLIER_BITS: u32 = 24;
/// Largest shift.
pub const SHIFT_MAX: u32 = 62;

impl Requantiser {
    /// For tiles of `units`, inputs of scale `x_scales`, one for each group or one for all, and outputs of scale `y_scale`.
    /// `None` where a factor is negative or not finite, or the largest is 2^23 or more, or there are no tiles or more than 128: nothing
    /// that int8 activations lead to.
    pub fn new(units: &[f32], x_scales: &[f32], y_scale: f32) -> Option<Requantiser> {
        let ratios = x_scales.iter().map(|&x| f64::from(x) / f64::from(y_scale));
        let factors: Vec<f64> =
            ratios.flat_map(|ratio| units.iter().map(move |&u| f64::from(u) * ratio)).collect();
        let largest = factors.iter().fold(0f64, |a, &f| a.max(f));
        if factors.iter().any(|f| !f.is_finite() || *f < 0.0) || !(1..=128).contains(&units.len()) {
            return None;
        }
        let limit = f64::from(1u32 << MULTIPLIER_BITS);
        // The largest shift whose multipliers all fit.
        let shift = (1..=SHIFT_MAX).rev().find(|&s| (largest * 2f64.powi(s as i32)).round() < limit)?;
        let scale = 2f64.powi(shift as i32);
        let multipliers = factors.iter().map(|f| (f * scale).round() as u32).collect();
        Some(Requantiser { multipliers, tiles: units.len(), shift })
    }

    /// The int8 of a column of a group from its exact sums, by tile.
    pub fn apply(&self, group: usize, sums: &[i32]) -> i8 {
        let multipliers = self.multipliers.chunks_exact(self.tiles.max(1)).nth(group).unwrap_or_default();
        let exact = |(&acc, &m): (&i32, &u32)| i64::from(acc).wrapping_mul(i64::from(m));
        let sum = sums.iter().zip(multipliers).map(exact).fold(0i64, i64::wrapping_add);
        let shift = self.shift.clamp(1, SHIFT_MAX);
        let half = 1i64 << (shift - 1);
        (sum.wrapping_add(half) >> shift).clamp(-127, 127) as i8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_have_24_bits_and_one_shift() {
        // 0.75 = 12582912 / 2^24, 2^-5 of it beside it; of a group of a smaller scale the half of both.
        let r = Requantiser::new(&[0.75, 0.75 / 32.0], &[2.0], 2.0).unwrap();
        assert_eq!(r, Requantiser { multipliers: vec![12_582_912, 393_216], tiles: 2, shift: 24 });
        let r = Requantiser::new(&[0.75, 0.75 / 32.0], &[2.0, 1.0], 2.0).unwrap();
        assert_eq!(r.multipliers, [12_582_912, 393_216, 6_291_456, 196_608]);
        assert_eq!([r.apply(0, &[4, 0]), r.apply(1, &[4, 0]), r.apply(1, &[0, 128])], [3, 2, 2]);
        assert_eq!(Requantiser::new(&[], &[1.0], 1.0), None);
        assert_eq!(Requantiser::new(&[f32::NAN], &[1.0], 1.0), None);
        assert_eq!(Requantiser::new(&[1.0], &[1.0], 0.0), None);
        assert_eq!(Requantiser::new(&[-1.0], &[1.0], 1.0), None);
        assert_eq!(Requantiser::new(&[0.0], &[1.0], 1.0).unwrap().apply(0, &[i32::MAX]), 0);
    }

    #[test]
    fn halves_go_up_and_large_values_saturate() {
        let r = Requantiser::new(&[0.5], &[1.0], 1.0).unwrap();
        let q: Vec<i8> = [1, -1, 3, -3, 4, 1000, -1000, i32::MIN].map(|a| r.apply(0, &[a])).to_vec();
        // 0.5 -> 1, -0.5 -> 0, 1.5 -> 2, -1.5 -> -1.
        assert_eq!(q, [1, 0, 2, -1, 2, 127, -127, -127]);
    }

    #[test]
    fn equals_rounding_the_sum_in_f64_away_from_halves() {
        let units = [1.3e-5f32, 0.9e-5, 2.7e-6];
        let (x, y) = (0.021f32, 0.0173f32);
        let r = Requantiser::new(&units, &[x], y).unwrap();
        let mut state = 7u64;
        for _ in 0..10_000 {
            let acc: Vec<i32> = (0..3)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 40) as i32 - (1 << 23)
                })
                .collect();
            let real: f64 = acc.iter().zip(&units).map(|(&a, &u)| f64::from(a) * f64::from(u)).sum::<f64>()
                * f64::from(x)
                / f64::from(y);
            let half = (real - real.floor() - 0.5).abs();
            if half > 1e-4 {
                assert_eq!(f64::from(r.apply(0, &acc)), real.round().clamp(-127.0, 127.0), "{real}");
            }
        }
    }
}
