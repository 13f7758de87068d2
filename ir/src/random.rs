//! Pseudo-random numbers that are the same on every machine: SplitMix64 (G. Steele, D. Lea and C. Flood, OOPSLA 2014).

/// What SplitMix64 gives for a state: a well mixed number.
pub fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(STEP);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// From a state to the next.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A number about normal, mean 0 and variance 1, from well mixed bits: the sum of four even numbers.
pub fn normal(bits: u64) -> f64 {
    let sum: u64 = (0..4).map(|i| bits >> (16 * i) & 0xffff).sum();
    (sum as f64 / 65_536.0 - 2.0 + 2.0 / 65_536.0) * 3f64.sqrt()
}

/// The numbers of SplitMix64 in turn, from a seed.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

#[allow(clippy::should_implement_trait)] // these numbers have no end
impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        let z = mix(self.0);
        self.0 = self.0.wrapping_add(STEP);
        z
    }

    /// A number below `n`, or 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// About normal: the sum of twelve even numbers less six.
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| (self.next() >> 40) as f32 / (1u32 << 24) as f32).sum::<f32>() - 6.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_reference() {
        // What Rosetta Code lists for the seed 1234567 ("Pseudo-random numbers/Splitmix64").
        let mut r = Random(1_234_567);
        let want = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([0; 3].map(|_| r.next()), want);
        assert_eq!(r.below(0), 0);
    }
}
