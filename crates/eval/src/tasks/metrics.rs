//! Numbers with their uncertainty.

use serde::Serialize;

/// A number with its uncertainty.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Metric {
    /// For example `acc`.
    pub name: &'static str,
    /// The number.
    pub value: f64,
    /// Its standard error; absent for a single row.
    pub standard_error: Option<f64>,
}

impl Metric {
    /// The mean of `values`, with the standard error of a mean: sample deviation over the root of the count.
    pub(super) fn mean(name: &'static str, values: &[f64]) -> Self {
        let (value, standard_error) = mean(values);
        Self { name, value, standard_error }
    }

    /// `exp` of the mean, with the error carried over in first order (the delta method).
    pub(super) fn exp_of_mean(name: &'static str, values: &[f64]) -> Self {
        let (mean, error) = mean(values);
        Self { name, value: mean.exp(), standard_error: error.map(|error| error * mean.exp()) }
    }

    /// `transform` of the sum of the first over the sum of the second of each pair, with the error of a ratio of sums over
    /// rows (Cochran, "Sampling Techniques", 1977, section 6.4), carried over in first order by its `slope`.
    pub(super) fn of_ratio(
        name: &'static str,
        pairs: &[(f64, f64)],
        transform: impl Fn(f64) -> f64,
        slope: impl Fn(f64) -> f64,
    ) -> Self {
        let n = pairs.len() as f64;
        let (top, bottom) = pairs.iter().fold((0.0, 0.0), |(x, y), pair| (x + pair.0, y + pair.1));
        let ratio = top / bottom;
        let squares: f64 = pairs.iter().map(|(x, y)| (x - ratio * y).powi(2)).sum();
        let error = (pairs.len() > 1)
            .then(|| (squares * n / (n - 1.0)).sqrt() / bottom * slope(ratio).abs());
        Self { name, value: transform(ratio), standard_error: error }
    }
}

fn mean(values: &[f64]) -> (f64, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_those_of_a_mean() {
        // 3 of 4 right: sqrt(0.75 * 0.25 * 4/3 / 4) = 0.25
        let acc = Metric::mean("acc", &[1.0, 1.0, 0.0, 1.0]);
        assert_eq!((acc.value, acc.standard_error), (0.75, Some(0.25)));
        let perplexity = Metric::exp_of_mean("perplexity", &[1.0, 1.0, 0.0, 1.0]);
        assert!((perplexity.standard_error.unwrap() - 0.25 * 0.75f64.exp()).abs() < 1e-12);
        assert_eq!(Metric::mean("acc", &[1.0]).standard_error, None);
    }

    #[test]
    fn a_ratio_of_equal_weights_is_a_mean() {
        let pairs = [(1.0, 2.0), (4.0, 2.0), (0.0, 2.0)];
        let ratio = Metric::of_ratio("x", &pairs, f64::exp, f64::exp);
        let mean = Metric::exp_of_mean("x", &[0.5, 2.0, 0.0]);
        assert!((ratio.value - mean.value).abs() < 1e-12);
        assert!((ratio.standard_error.unwrap() - mean.standard_error.unwrap()).abs() < 1e-12);
        // Unequal weights, by hand: 6/4 = 1.5, residuals 1 - 1.5 and 5 - 4.5.
        let ratio = Metric::of_ratio("x", &[(1.0, 1.0), (5.0, 3.0)], |x| x, |_| 1.0);
        assert_eq!((ratio.value, ratio.standard_error), (1.5, Some(0.25)));
    }
}
