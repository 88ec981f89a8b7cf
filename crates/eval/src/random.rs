//! Random bits as a function of numbers, the same everywhere.

/// 64 random bits from three numbers: SplitMix64's finaliser after each (Steele, Lea, Flood, "Fast splittable pseudorandom
/// number generators", 2014).
pub fn random(seed: u64, index: u64, draw: u64) -> u64 {
    [seed, index, draw].into_iter().fold(0, |state, value| {
        let mut z = (state ^ value).wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}
