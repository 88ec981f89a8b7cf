//! Random permutations of `0..n` that are computed, not stored.
//!
//! An alternating unbalanced Feistel network (Luby and Rackoff 1988) permutes the numbers of
//! `ceil(log2 n)` bits; values from `n` on are fed in again until one falls below (cycle walking,
//! Black and Rogaway 2002, "Ciphers with arbitrary finite domains"), fewer than two passes on
//! average. The round function is the finaliser of SplitMix64 (Steele, Lea and Flood 2014); keys
//! come from BLAKE3. Good shuffling is the aim, not secrecy.

const ROUNDS: usize = 8;

/// What makes the permutations of one purpose different from all others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key([u64; ROUNDS]);

impl Key {
    /// The key of (seed, purpose, stream).
    pub(crate) fn new(seed: u64, purpose: &str, stream: u64) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("caravan dataset 1 permutation");
        hasher.update(&seed.to_le_bytes()).update(&stream.to_le_bytes()).update(purpose.as_bytes());
        let mut bytes = [0; 8 * ROUNDS];
        hasher.finalize_xof().fill(&mut bytes);
        let mut words = [0; ROUNDS];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        Self(words)
    }
}

/// A permutation of `0..n`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Permutation {
    n: u64,
    right_bits: u32,
    left_mask: u64,
    right_mask: u64,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// The permutation of `0..n` in this epoch.
    pub(crate) fn new(key: &Key, epoch: u64, n: u64) -> Self {
        let bits = 64 - n.saturating_sub(1).leading_zeros();
        let right_bits = bits.div_ceil(2);
        let mut keys = key.0;
        for (round, key) in keys.iter_mut().enumerate() {
            *key ^= mix(epoch ^ mix(round as u64));
        }
        Self {
            n,
            right_bits,
            left_mask: mask(bits - right_bits),
            right_mask: mask(right_bits),
            keys,
        }
    }

    /// Where `i`, which is below `n`, goes.
    pub(crate) fn at(&self, i: u64) -> u64 {
        debug_assert!(i < self.n, "{i} of {}", self.n);
        let mut x = i;
        loop {
            x = self.once(x);
            if x < self.n {
                return x;
            }
        }
    }

    fn once(&self, x: u64) -> u64 {
        let (mut left, mut right) = (x >> self.right_bits, x & self.right_mask);
        for keys in self.keys.as_chunks::<2>().0 {
            left ^= mix(right ^ keys[0]) & self.left_mask;
            right ^= mix(left ^ keys[1]) & self.right_mask;
        }
        (left << self.right_bits) | right
    }
}

fn mask(bits: u32) -> u64 {
    (1u64 << bits) - 1
}

/// The output function of SplitMix64, with its increment.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The first outputs of SplitMix64 from state 1234567, as published with it (Rosetta Code,
    /// "Pseudo-random numbers/Splitmix64").
    #[test]
    fn mix_is_splitmix64() {
        let golden = 0x9e37_79b9_7f4a_7c15u64;
        let outputs: Vec<u64> =
            (0..5).map(|i: u64| mix(1_234_567u64.wrapping_add(golden.wrapping_mul(i)))).collect();
        assert_eq!(
            outputs,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423,
                4_593_380_528_125_082_431,
                16_408_922_859_458_223_821
            ]
        );
    }

    proptest! {
        #[test]
        fn every_number_is_met_once(seed: u64, epoch: u64, n in 1u64..5000) {
            let permutation = Permutation::new(&Key::new(seed, "test", 0), epoch, n);
            let mut seen = vec![false; n as usize];
            for i in 0..n {
                let at = permutation.at(i);
                prop_assert!(at < n);
                prop_assert!(!std::mem::replace(&mut seen[at as usize], true));
            }
        }

        #[test]
        fn large_domains_stay_inside(seed: u64, i: u64, n in 1u64..) {
            let permutation = Permutation::new(&Key::new(seed, "test", 0), 0, n);
            prop_assert!(permutation.at(i % n) < n);
        }
    }

    /// Chi-squared of where 0 goes, over 8000 epochs, for 80 places: mean 79, standard deviation
    /// 12.6.
    #[test]
    fn places_are_even_over_epochs() {
        let key = Key::new(1, "test", 0);
        for i in [0, 1, 40, 79] {
            let mut counts = [0f64; 80];
            (0..8000).for_each(|e| counts[Permutation::new(&key, e, 80).at(i) as usize] += 1.0);
            let chi2: f64 = counts.iter().map(|c| (c - 100.0).powi(2) / 100.0).sum();
            assert!((30.0..150.0).contains(&chi2), "{i}: {chi2}");
        }
    }

    /// Neighbours are torn apart: few stay neighbours (2 of 100,000 would by chance).
    #[test]
    fn neighbours_part() {
        let permutation = Permutation::new(&Key::new(7, "test", 0), 3, 100_000);
        let near = (1..100_000).filter(|&i| permutation.at(i).abs_diff(permutation.at(i - 1)) == 1);
        assert!(near.count() < 12);
    }

    #[test]
    fn seed_purpose_stream_and_epoch_all_count() {
        let first = |seed, purpose, stream, epoch| {
            let permutation = Permutation::new(&Key::new(seed, purpose, stream), epoch, 1 << 40);
            (0..4).map(|i| permutation.at(i)).collect::<Vec<_>>()
        };
        let base = first(1, "a", 1, 1);
        assert_eq!(base, first(1, "a", 1, 1));
        for other in
            [first(2, "a", 1, 1), first(1, "b", 1, 1), first(1, "a", 2, 1), first(1, "a", 1, 2)]
        {
            assert_ne!(base, other);
        }
    }
}
