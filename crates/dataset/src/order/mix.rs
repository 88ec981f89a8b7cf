//! Which source each sequence is drawn from, when sources are mixed by weight.
//!
//! Weights become whole quotas of a period. Within a period, sources follow each other by earliest
//! deadline: draw number `c` of a source with quota `q` in a period `m` may come from place
//! `floor(c m / q)` on and must come before place `ceil((c + 1) m / q)`. With one draw per place
//! this always succeeds (Pfair scheduling; Baruah, Cohen, Plaxton and Varvel 1996), so after any
//! number of sequences, each source has had its exact share, rounded down or up.

use crate::DatasetError;

/// Weights that are multiples of one of 1/1 to 1/4096 are met exactly, others to 1/65536.
const EXACT_PERIODS: u32 = 4096;
const LONG_PERIOD: u32 = 65_536;

/// The repeating pattern of sources.
#[derive(Debug)]
pub(crate) struct Mix {
    /// Per place in the period: the source, and how many of its draws came before in the period.
    pattern: Vec<(u32, u32)>,
    /// Draws of each source per period.
    quotas: Vec<u32>,
}

impl Mix {
    /// The pattern for one weight per source.
    pub(crate) fn new(weights: &[f64], n_sources: usize) -> Result<Self, DatasetError> {
        let wrong = |expected: &str| DatasetError::Weights {
            expected: expected.to_owned(),
            found: format!("{weights:?}"),
        };
        if weights.len() != n_sources {
            return Err(wrong(&format!("{n_sources} numbers, one per source")));
        }
        if weights.iter().any(|&w| !w.is_finite() || w < 0.0) {
            return Err(wrong("numbers from 0 up"));
        }
        let total: f64 = weights.iter().sum();
        if total == 0.0 || !total.is_finite() {
            return Err(wrong("with a finite sum above 0"));
        }
        let shares: Vec<f64> = weights.iter().map(|w| w / total).collect();
        let quotas = quotas(&shares);
        if shares.iter().zip(&quotas).any(|(&share, &quota)| share > 0.0 && quota == 0) {
            return Err(wrong("0, or at least 1/65536 of their sum"));
        }
        Ok(Self { pattern: pattern(&quotas), quotas })
    }

    /// The source of sequence `index`, and how many sequences of it came before.
    pub(crate) fn at(&self, index: u64) -> (usize, u64) {
        let period = self.pattern.len() as u64;
        let (source, before) = self.pattern[(index % period) as usize];
        let quota = self.quotas[source as usize];
        (source as usize, index / period * u64::from(quota) + u64::from(before))
    }

    /// Whether a source is drawn at all.
    pub(crate) fn draws(&self, source: usize) -> bool {
        self.quotas[source] > 0
    }
}

/// Whole numbers in the ratio of the shares: exact for the smallest period that allows it, else by
/// largest remainder.
fn quotas(shares: &[f64]) -> Vec<u32> {
    let exact = |period: &u32| {
        shares.iter().all(|share| {
            let quota = share * f64::from(*period);
            (quota - quota.round()).abs() < 1e-9
        })
    };
    let period = (1..=EXACT_PERIODS).find(exact).unwrap_or(LONG_PERIOD);
    let wanted: Vec<f64> = shares.iter().map(|share| share * f64::from(period)).collect();
    // The tolerance keeps 2.9999999 from being rounded down.
    let mut quotas: Vec<u32> = wanted.iter().map(|w| (w + 1e-9).floor() as u32).collect();
    let mut by_remainder: Vec<usize> = (0..shares.len()).collect();
    let remainder = |i: &usize| wanted[*i] - f64::from(quotas[*i]);
    by_remainder.sort_by(|a, b| remainder(b).total_cmp(&remainder(a)));
    let missing = period - quotas.iter().sum::<u32>();
    by_remainder.iter().take(missing as usize).for_each(|&i| quotas[i] += 1);
    quotas
}

fn pattern(quotas: &[u32]) -> Vec<(u32, u32)> {
    let period: u64 = quotas.iter().copied().map(u64::from).sum();
    let mut drawn = vec![0u64; quotas.len()];
    (0..period)
        .map(|place| {
            let released = (0..quotas.len()).filter(|&s| {
                let quota = u64::from(quotas[s]);
                drawn[s] < quota && drawn[s] * period / quota <= place
            });
            let deadline = |&s: &usize| ((drawn[s] + 1) * period).div_ceil(u64::from(quotas[s]));
            let source = released.min_by_key(deadline).expect("quotas add up to the period");
            drawn[source] += 1;
            (source as u32, (drawn[source] - 1) as u32)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// By hand: 3 : 1 has the period 4, and the single draw has its deadline last.
    #[test]
    fn three_to_one() {
        let mix = Mix::new(&[0.75, 0.25], 2).unwrap();
        let drawn: Vec<_> = (0..6).map(|i| mix.at(i)).collect();
        assert_eq!(drawn, [(0, 0), (0, 1), (0, 2), (1, 0), (0, 3), (0, 4)]);
    }

    proptest! {
        #[test]
        fn every_prefix_has_its_share(weights in prop::collection::vec(0.001f64..10.0, 1..9), zero: bool) {
            let mut weights = weights;
            if zero {
                weights.push(0.0);
            }
            let mix = Mix::new(&weights, weights.len()).unwrap();
            let period = mix.pattern.len() as f64;
            let total: f64 = weights.iter().sum();
            let mut counts = vec![0u64; weights.len()];
            for i in 0..70_000u64 {
                let (source, nth) = mix.at(i);
                prop_assert_eq!(nth, counts[source]);
                counts[source] += 1;
                for (s, &count) in counts.iter().enumerate() {
                    let share = f64::from(mix.quotas[s]) / period;
                    let exact = (i + 1) as f64 * share;
                    prop_assert!((count as f64 - exact).abs() < 1.0, "{s} at {i}: {count} of {exact}");
                    prop_assert!((share - weights[s] / total).abs() <= 1.0 / 65_536.0 + 1e-9);
                }
            }
        }
    }

    #[test]
    fn bad_weights_are_refused() {
        for weights in [
            &[1.0][..],
            &[1.0, -1.0],
            &[f64::NAN, 1.0],
            &[0.0, 0.0],
            &[1.0, 1e-9],
            &[f64::MAX, f64::MAX],
        ] {
            assert!(
                matches!(Mix::new(weights, 2), Err(DatasetError::Weights { .. })),
                "{weights:?}"
            );
        }
    }
}
