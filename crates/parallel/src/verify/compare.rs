//! Numbers of a rank against numbers of one rank.

use super::report::{Demand, Difference};

/// Some numbers that were compared, as one of the things a check looks at.
#[derive(Clone, Debug)]
pub(super) struct Compared {
    /// Place among what the check looks at, in the order of the model.
    pub(super) order: usize,
    /// Largest difference over the largest number.
    pub(super) apart: f64,
    pub(super) difference: Option<Difference>,
}

/// Where numbers are, for the text of a difference; see there.
pub(super) struct Whereabouts {
    pub(super) order: usize,
    pub(super) what: String,
    pub(super) rank: usize,
    pub(super) place: String,
    pub(super) part: String,
    /// The largest number of all that is `what`; of a single number that number.
    pub(super) largest: f64,
    pub(super) against: &'static str,
}

impl Whereabouts {
    /// Compares; `index` names the place of a number.
    pub(super) fn compare(
        self,
        demand: Demand,
        found: &[f32],
        expected: &[f32],
        index: impl Fn(usize) -> Vec<usize>,
    ) -> Compared {
        let n = found.len();
        assert_eq!(n, expected.len(), "{}: another number of elements", self.what);
        let pairs = found.iter().zip(expected).map(|(a, b)| (f64::from(*a), f64::from(*b)));
        self.compare_all(demand, n, pairs, index)
    }

    /// Compares single numbers.
    pub(super) fn compare_one(mut self, demand: Demand, found: f64, expected: f64) -> Compared {
        self.largest = expected.abs();
        self.compare_all(demand, 1, std::iter::once((found, expected)), |_| Vec::new())
    }

    fn compare_all(
        self,
        demand: Demand,
        n: usize,
        pairs: impl Iterator<Item = (f64, f64)>,
        index: impl Fn(usize) -> Vec<usize>,
    ) -> Compared {
        let mut worst: Option<(usize, f64, f64, f64)> = None;
        let (mut n_differ, mut apart) = (0, 0f64);
        for (at, (found, expected)) in pairs.enumerate() {
            let difference = (found - expected).abs();
            apart = apart.max(difference);
            let is_equal = match demand {
                Demand::SameBits => found.to_bits() == expected.to_bits(),
                // Not the other way round: NaN is not within.
                Demand::Within(tolerance) => difference <= tolerance * self.largest,
            };
            if is_equal {
                continue;
            }
            n_differ += 1;
            // NaN is as far apart as can be.
            let size = if difference.is_nan() { f64::INFINITY } else { difference };
            if worst.is_none_or(|(_, most, ..)| size > most) {
                worst = Some((at, size, found, expected));
            }
        }
        let difference = worst.map(|(at, size, found, expected)| Difference {
            what: self.what.clone(),
            rank: self.rank,
            place: self.place,
            part: self.part,
            index: index(at),
            found,
            expected,
            against: self.against,
            size,
            largest: self.largest,
            n_differ,
            n,
        });
        let apart = if apart == 0.0 { 0.0 } else { apart / self.largest };
        Compared { order: self.order, apart, difference }
    }
}

/// The largest magnitude.
pub(super) fn largest(values: &[f32]) -> f64 {
    values.iter().fold(0.0, |most, value| most.max(f64::from(value.abs())))
}
