//! From logits to a token.
//!
//! The order is that of transformers: penalties, divide by the temperature, keep the `top_k` likeliest, of these keep the
//! smallest set with at least `top_p` of their mass, of these those with at least `min_p` of the likeliest one's, draw. All of it is host arithmetic in float64, and the random number depends on nothing but
//! the seed and the token's position, so a generation can be resumed, or repeated in another batch, with the same result.

use std::cmp::Ordering;

use crate::error::GenerateError;

/// How to choose the next token.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampler {
    /// Divides the logits; 0 always takes the likeliest token (the lowest id among equals).
    pub temperature: f64,
    /// Keeps only this many of the likeliest tokens.
    pub top_k: Option<usize>,
    /// Keeps only the smallest set of likeliest tokens whose probabilities, renormalised after `top_k`, sum to at least this.
    pub top_p: Option<f64>,
    /// Keeps only tokens with at least this part of the likeliest one's probability.
    pub min_p: Option<f64>,
    /// Divides positive logits, and multiplies negative ones, of every token that occurred, prompt included; 1 is none (Keskar
    /// et al., "CTRL", 2019, section 4.1).
    pub repetition_penalty: f64,
    /// Subtracted from the logit of every new token that occurred, as in OpenAI's interface.
    pub presence_penalty: f64,
    /// Subtracted from the logit of a new token for each time it occurred, as in OpenAI's interface.
    pub frequency_penalty: f64,
    /// Seed of the random numbers.
    pub seed: u64,
}

impl Default for Sampler {
    /// The model's own distribution: temperature 1, nothing cut off, seed 0.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: 0,
        }
    }
}

impl Sampler {
    /// Always the likeliest token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Checks the ranges of the settings.
    ///
    /// # Errors
    /// A temperature that is negative or not finite, `top_k` of 0, `top_p` or `min_p` outside `(0, 1]`, a repetition penalty
    /// that is not above 0, another that is not finite.
    pub fn validate(&self) -> Result<(), GenerateError> {
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return Err(GenerateError::Temperature { found: self.temperature });
        }
        if self.top_k == Some(0) {
            return Err(GenerateError::TopK);
        }
        for (name, share) in [("top_p", self.top_p), ("min_p", self.min_p)] {
            if let Some(found) = share.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
                return Err(GenerateError::Share { name, found });
            }
        }
        let repetition = self.repetition_penalty;
        for (name, found, is_good) in [
            ("repetition_penalty", repetition, repetition.is_finite() && repetition > 0.0),
            ("presence_penalty", self.presence_penalty, self.presence_penalty.is_finite()),
            ("frequency_penalty", self.frequency_penalty, self.frequency_penalty.is_finite()),
        ] {
            if !is_good {
                return Err(GenerateError::Penalty { name, found });
            }
        }
        Ok(())
    }

    /// Applies the penalties for what occurred in `prompt` and in the tokens that are `new` since.
    pub fn penalise(&self, logits: &mut [f32], prompt: &[u32], new: &[u32]) {
        if self.repetition_penalty != 1.0 {
            let mut seen: Vec<u32> = prompt.iter().chain(new).copied().collect();
            seen.sort_unstable();
            seen.dedup();
            for id in seen {
                // Ids beyond the logits are never chosen.
                if let Some(logit) = logits.get_mut(id as usize) {
                    let value = f64::from(*logit);
                    let penalty = self.repetition_penalty;
                    *logit = if value < 0.0 { value * penalty } else { value / penalty } as f32;
                }
            }
        }
        if self.presence_penalty != 0.0 || self.frequency_penalty != 0.0 {
            let mut counts = std::collections::BTreeMap::<u32, u32>::new();
            new.iter().for_each(|id| *counts.entry(*id).or_default() += 1);
            for (id, count) in counts {
                if let Some(logit) = logits.get_mut(id as usize) {
                    let penalty = self.presence_penalty + self.frequency_penalty * f64::from(count);
                    *logit = (f64::from(*logit) - penalty) as f32;
                }
            }
        }
    }

    /// Chooses the token at `position` of the sequence from the logits over the vocabulary.
    ///
    /// # Errors
    /// Settings out of range, or a logit that is not finite.
    ///
    /// # Panics
    /// If there are no logits.
    pub fn sample(&self, logits: &[f32], position: usize) -> Result<u32, GenerateError> {
        let weights = self.weights(logits, position)?;
        let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
        let mut left = uniform(self.seed, position as u64) * total;
        for (id, weight) in &weights {
            left -= weight;
            if left < 0.0 {
                return Ok(*id);
            }
        }
        // Rounding can leave a crumb of `left`; it belongs to the last token that has any weight.
        Ok(weights
            .iter()
            .rev()
            .find(|(_, weight)| *weight > 0.0)
            .map_or(weights[0].0, |(id, _)| *id))
    }

    /// The distribution [`sample`](Self::sample) draws from: `(id, probability)` of the tokens that are kept, the
    /// likeliest first where any are cut off.
    ///
    /// # Errors
    /// As [`sample`](Self::sample).
    ///
    /// # Panics
    /// If there are no logits.
    pub fn distribution(&self, logits: &[f32]) -> Result<Vec<(u32, f64)>, GenerateError> {
        let mut weights = self.weights(logits, 0)?;
        let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
        weights.iter_mut().for_each(|(_, weight)| *weight /= total);
        Ok(weights)
    }

    /// Kept tokens with weights that are not normalised.
    fn weights(&self, logits: &[f32], position: usize) -> Result<Vec<(u32, f64)>, GenerateError> {
        assert!(!logits.is_empty(), "a token is chosen among at least one");
        self.validate()?;
        if let Some(id) = logits.iter().position(|logit| !logit.is_finite()) {
            return Err(GenerateError::NotFinite { id, position, found: logits[id] });
        }
        let mut kept: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
        let top_k = if self.temperature == 0.0 { Some(1) } else { self.top_k };
        if let Some(k) = top_k.filter(|k| *k < kept.len()) {
            kept.select_nth_unstable_by(k - 1, likelier);
            kept.truncate(k);
        }
        if kept.len() < logits.len() || self.top_p.is_some() || self.min_p.is_some() {
            kept.sort_unstable_by(likelier);
        }
        let highest = kept.iter().map(|(_, logit)| *logit).fold(f32::NEG_INFINITY, f32::max);
        let weight = |logit: f32| match f64::from(logit) - f64::from(highest) {
            0.0 => 1.0, // also at temperature 0
            below => (below / self.temperature).exp(),
        };
        let mut weights: Vec<_> = kept.into_iter().map(|(id, logit)| (id, weight(logit))).collect();
        if let Some(top_p) = self.top_p {
            let wanted = top_p * weights.iter().map(|(_, weight)| weight).sum::<f64>();
            let mut mass = 0.0;
            let enough = weights.iter().position(|(_, weight)| {
                mass += weight;
                mass >= wanted
            });
            weights.truncate(enough.map_or(weights.len(), |last| last + 1));
        }
        if let Some(min_p) = self.min_p {
            // The likeliest has the weight 1.
            let n = weights.iter().take_while(|(_, weight)| *weight >= min_p).count();
            weights.truncate(n.max(1));
        }
        Ok(weights)
    }
}

/// Higher logit first, lower id first among equals. The logits are finite.
fn likelier(a: &(u32, f32), b: &(u32, f32)) -> Ordering {
    b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal).then(a.0.cmp(&b.0))
}

/// A number in `[0, 1)` with 53 random bits, a pure function of its arguments.
///
/// # Reference
/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"), once to
/// spread the seed and once for the counter.
fn uniform(seed: u64, counter: u64) -> f64 {
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
    let key = mix(seed.wrapping_add(GOLDEN));
    let bits = mix(key.wrapping_add(counter.wrapping_add(1).wrapping_mul(GOLDEN)));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Logits with the probabilities 0.5, 0.3, 0.15, 0.05 for the ids 2, 0, 3, 1.
    fn logits() -> Vec<f32> {
        [0.3f32, 0.05, 0.5, 0.15].map(f32::ln).to_vec()
    }

    fn ids(sampler: &Sampler, logits: &[f32]) -> Vec<u32> {
        sampler.distribution(logits).unwrap().into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn greedy_takes_the_highest_and_the_lowest_id_among_equals() {
        assert_eq!(Sampler::greedy().sample(&logits(), 7).unwrap(), 2);
        assert_eq!(Sampler::greedy().sample(&[0.0, 3.0, 3.0, 3.0], 7).unwrap(), 1);
        let one = Sampler { top_k: Some(1), ..Sampler::default() };
        assert_eq!(one.sample(&[0.0, 3.0, 3.0, 3.0], 7).unwrap(), 1);
        let cold = Sampler { temperature: 1e-300, ..Sampler::default() };
        assert_eq!(cold.sample(&logits(), 7).unwrap(), 2);
    }

    #[test]
    fn top_p_keeps_the_smallest_set_with_enough_mass() {
        let with = |top_p| Sampler { top_p: Some(top_p), ..Sampler::default() };
        // Cumulative: 0.5, 0.8, 0.95, 1. A hundredth off the edges, since ln and exp round.
        for (top_p, kept) in
            [(0.01, 1), (0.49, 1), (0.51, 2), (0.79, 2), (0.81, 3), (0.96, 4), (1.0, 4)]
        {
            let kept_ids = ids(&with(top_p), &logits());
            assert_eq!(kept_ids, [2, 0, 3, 1][..kept], "top_p {top_p}");
        }
        let two = with(0.6).distribution(&logits()).unwrap();
        assert!((two[0].1 - 0.625).abs() < 1e-7 && (two[1].1 - 0.375).abs() < 1e-7, "{two:?}");
    }

    #[test]
    fn temperature_then_top_k_then_top_p() {
        // After top_k = 2 the masses are 0.625 and 0.375: 0.6 keeps one. Without top_k first it would keep two.
        let both = Sampler { top_k: Some(2), top_p: Some(0.6), ..Sampler::default() };
        assert_eq!(ids(&both, &logits()), [2]);
        // At temperature 0.5 the masses are squared: 0.25 / 0.365 = 0.685.
        let cold = Sampler { temperature: 0.5, top_p: Some(0.68), ..Sampler::default() };
        assert_eq!(ids(&cold, &logits()), [2]);
        assert_eq!(ids(&Sampler { top_p: Some(0.69), ..cold }, &logits()), [2, 0]);
        assert_eq!(
            ids(&Sampler { top_k: Some(3), ..Sampler::default() }, &[1.0, 1.0, 1.0, 1.0]),
            [0, 1, 2]
        );
    }

    #[test]
    fn draws_follow_the_distribution() {
        let n = 20_000;
        for sampler in [
            Sampler { seed: 3, ..Sampler::default() },
            Sampler { seed: 3, temperature: 0.7, top_k: Some(3), ..Sampler::default() },
            Sampler { seed: 4, temperature: 1.5, top_p: Some(0.9), ..Sampler::default() },
        ] {
            let expected = sampler.distribution(&logits()).unwrap();
            let mut counts = [0u32; 4];
            (0..n).for_each(|i| counts[sampler.sample(&logits(), i).unwrap() as usize] += 1);
            let chi_square: f64 = expected
                .iter()
                .map(|&(id, p)| {
                    (f64::from(counts[id as usize]) - p * n as f64).powi(2) / (p * n as f64)
                })
                .sum();
            // The 99.9% quantile of chi-square with three degrees of freedom is 16.3.
            assert!(
                chi_square < 16.3,
                "{sampler:?}: {counts:?} against {expected:?}, chi-square {chi_square}"
            );
            assert_eq!(counts.iter().filter(|c| **c > 0).count(), expected.len());
        }
    }

    #[test]
    fn seeds_and_positions_are_independent() {
        let draw = |seed, position| (uniform(seed, position) * 16.0) as usize;
        let mut pairs = [[0u32; 16]; 16];
        (0..64u64).for_each(|s| (0..400).for_each(|p| pairs[draw(s, p)][draw(s + 1, p + 1)] += 1));
        let expected = 64.0 * 400.0 / 256.0;
        let chi_square: f64 =
            pairs.iter().flatten().map(|c| (f64::from(*c) - expected).powi(2) / expected).sum();
        assert!(chi_square < 330.5, "{chi_square}"); // 99.9% quantile with 255 degrees of freedom
        assert_eq!(uniform(5, 9).to_bits(), uniform(5, 9).to_bits());
        // Not one long sequence that seeds merely enter at other places.
        assert_ne!(uniform(5 + 0x9E37_79B9_7F4A_7C15, 9).to_bits(), uniform(5, 10).to_bits());
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        for temperature in [-0.1, f64::NAN, f64::INFINITY] {
            let sampler = Sampler { temperature, ..Sampler::default() };
            assert!(matches!(sampler.validate(), Err(GenerateError::Temperature { .. })));
        }
        for top_p in [0.0, -1.0, 1.01, f64::NAN] {
            let sampler = Sampler { top_p: Some(top_p), ..Sampler::default() };
            assert!(matches!(sampler.sample(&logits(), 0), Err(GenerateError::Share { .. })));
        }
        let sampler = Sampler { top_k: Some(0), ..Sampler::default() };
        assert!(matches!(sampler.validate(), Err(GenerateError::TopK)));
        let error = Sampler::greedy().sample(&[0.0, f32::NAN], 4).unwrap_err();
        assert!(matches!(error, GenerateError::NotFinite { id: 1, position: 4, .. }));
        assert!(error.to_string().contains("\nhelp: "));
    }

    proptest! {
        #[test]
        fn a_draw_is_one_of_the_kept_tokens(
            logits in prop::collection::vec(-30f32..30.0, 1..60),
            temperature in prop_oneof![Just(0.0), 0.01..5.0f64],
            top_k in prop::option::of(1..80usize),
            top_p in prop::option::of(0.001..=1.0f64),
            seed: u64,
            position in 0..1000usize,
        ) {
            let sampler = Sampler { temperature, top_k, top_p, seed, ..Sampler::default() };
            let kept = sampler.distribution(&logits).unwrap();
            let id = sampler.sample(&logits, position).unwrap();
            prop_assert!(kept.iter().any(|(kept, p)| *kept == id && *p > 0.0));
            prop_assert!((kept.iter().map(|(_, p)| p).sum::<f64>() - 1.0).abs() < 1e-9);
            prop_assert!(kept.len() <= top_k.unwrap_or(usize::MAX));
            // Whatever was dropped is no likelier than whatever was kept.
            let lowest = kept.iter().map(|(id, _)| logits[*id as usize]).fold(f32::INFINITY, f32::min);
            let dropped = (0..logits.len() as u32).filter(|id| kept.iter().all(|(k, _)| k != id));
            for id in dropped {
                prop_assert!(logits[id as usize] <= lowest);
            }
        }
    }
}
