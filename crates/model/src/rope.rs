//! Angles of the rotary embedding: computed once on the host in f64, kept as f32 tables.
//!
//! Half-split, as Hugging Face stores LLaMA: dims `i` and `i + head_dim / 2` of a head form pair `i`.

use std::f64::consts::TAU;
use std::fmt;
use std::ops::Range;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};

use crate::{Llama3Scaling, LlamaConfig, RopeScaling};

/// Cosine and sine of every position's angles. Cloning shares the memory.
///
/// Constants, not parameters: neither visited nor saved, but moved along with the model to another device.
#[derive(Module)]
pub struct RopeTables {
    cos: Tensor<2>,
    sin: Tensor<2>,
}

impl fmt::Debug for RopeTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RopeTables").field("shape", &self.cos.dims()).finish()
    }
}

impl RopeTables {
    /// The tables of positions `0 .. config.max_seq_len`, plain (without autodiff) also on an autodiff device.
    pub fn new(config: &LlamaConfig, device: &Device) -> Self {
        let frequencies = frequencies(config.rope_theta, config.head_dim, config.rope_scaling);
        let shape = [config.max_seq_len, frequencies.len()];
        let n = shape[0] * shape[1];
        let (mut cos, mut sin) = (Vec::with_capacity(n), Vec::with_capacity(n));
        for position in 0..config.max_seq_len {
            for frequency in &frequencies {
                let (s, c) = (position as f64 * frequency).sin_cos();
                cos.push(c as f32);
                sin.push(s as f32);
            }
        }
        let device = device.clone().without_autodiff();
        let table = |values| Tensor::from_data(TensorData::new(values, shape), &device);
        Self { cos: table(cos), sin: table(sin) }
    }

    /// Number of positions.
    pub fn n_positions(&self) -> usize {
        self.cos.dims()[0]
    }

    /// Cosine and sine of positions `start .. start + n`, each `[n, head_dim / 2]`.
    ///
    /// # Panics
    /// If the model is not made for so many positions.
    pub fn rows(&self, start: usize, n: usize) -> (Tensor<2>, Tensor<2>) {
        let limit = self.n_positions();
        assert!(
            start + n <= limit,
            "positions {start} .. {} lie beyond max_seq_len = {limit}",
            start + n
        );
        if start == 0 && n == limit {
            return (self.cos.clone(), self.sin.clone());
        }
        let rows = |table: &Tensor<2>| table.clone().narrow(0, start, n);
        (rows(&self.cos), rows(&self.sin))
    }

    /// Cosine and sine of the positions of several ranges, one below the other.
    ///
    /// # Panics
    /// If the model is not made for so many positions, or there is no range.
    pub fn rows_of(&self, ranges: &[Range<usize>]) -> (Tensor<2>, Tensor<2>) {
        let (cos, sin) = ranges.iter().map(|range| self.rows(range.start, range.len())).unzip();
        (Tensor::cat(cos, 0), Tensor::cat(sin, 0))
    }
}

/// Radians per position of each pair: `theta^(-2 i / head_dim)`, then scaled where `scaling` is given.
///
/// # Reference
/// Su et al., "RoFormer", 2021, section 3.2.2; for the scaling `apply_scaling` of the Llama 3.1 release
/// (`llama_models/llama3/reference_impl/model.py`), the same as `_compute_llama3_parameters` of transformers.
pub fn frequencies(theta: f64, head_dim: usize, scaling: Option<RopeScaling>) -> Vec<f64> {
    let base = |pair: usize| theta.powf(-((2 * pair) as f64) / head_dim as f64);
    (0..head_dim / 2)
        .map(|pair| match scaling {
            None => base(pair),
            Some(RopeScaling::Linear(linear)) => base(pair) / linear.factor,
            Some(RopeScaling::Llama3(scaling)) => scaled(base(pair), scaling),
        })
        .collect()
}

/// Short wavelengths stay, long ones are stretched by `factor`, those between are blended linearly in
/// `original_max_seq_len / wavelength`.
fn scaled(frequency: f64, scaling: Llama3Scaling) -> f64 {
    let original = scaling.original_max_seq_len as f64;
    let wavelength = TAU / frequency;
    if wavelength < original / scaling.high_freq_factor {
        frequency
    } else if wavelength > original / scaling.low_freq_factor {
        frequency / scaling.factor
    } else {
        let smooth = (original / wavelength - scaling.low_freq_factor)
            / (scaling.high_freq_factor - scaling.low_freq_factor);
        (1.0 - smooth) * frequency / scaling.factor + smooth * frequency
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preset;

    #[test]
    fn plain_frequencies_by_hand() {
        // 10000^(-2 i / 8) = 10^-i.
        let found = frequencies(10000.0, 8, None);
        for (f, expected) in found.iter().zip([1.0, 0.1, 0.01, 0.001]) {
            assert!((f - expected).abs() < 1e-15, "{f} is not {expected}");
        }
    }

    #[test]
    fn llama3_scaling_by_hand() {
        // theta = (4 pi)^2 and head_dim 8: frequencies 1, (4 pi)^-1/2, (4 pi)^-1, (4 pi)^-3/2; so the
        // wavelengths are 2 pi = 6.28, 22.27, 8 pi^2 = 78.96 and 279.9. With an original length of 64 and factors 1
        // and 4, below 16 nothing changes, above 64 all is divided by 8, and 22.27 is blended with
        // smooth = (64 / 22.2733 - 1) / 3 = 0.624467: 0.282095 * (0.375533 / 8 + 0.624467) = 0.189401.
        let scaling = Llama3Scaling {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_seq_len: 64,
        };
        let pi4 = 2.0 * TAU;
        let found = frequencies(pi4 * pi4, 8, Some(RopeScaling::Llama3(scaling)));
        let expected = [1.0, 0.189401, 1.0 / pi4 / 8.0, pi4.powf(-1.5) / 8.0];
        for (f, expected) in found.iter().zip(expected) {
            assert!((f - expected).abs() < 2e-6, "{f} is not {expected}");
        }
    }

    #[test]
    fn rows_are_cosine_and_sine_of_position_times_frequency() {
        let device = crate::device::parse("flex").unwrap();
        let config = LlamaConfig { max_seq_len: 50, ..preset("tiny").unwrap() };
        let tables = RopeTables::new(&config, &device);
        let (cos, sin) = tables.rows(40, 10);
        assert_eq!(cos.dims(), [10, 8]);
        let (cos, sin) = (cos.into_data(), sin.into_data());
        let (cos, sin) = (cos.try_to_vec::<f32>().unwrap(), sin.try_to_vec::<f32>().unwrap());
        // Row 3 is position 43, pair 4: 10000^(-8/16) = 0.01.
        assert_eq!(cos[3 * 8 + 4], 0.43f64.cos() as f32);
        assert_eq!(sin[3 * 8 + 4], 0.43f64.sin() as f32);
    }

    #[test]
    fn rows_of_ranges_lie_one_below_the_other() {
        let device = crate::device::parse("flex").unwrap();
        let tables = RopeTables::new(&preset("tiny").unwrap(), &device);
        let (cos, _) = tables.rows_of(&[7..9, 100..101]);
        assert_eq!(cos.dims(), [3, 8]);
        let cos = cos.into_data().try_to_vec::<f32>().unwrap();
        for (row, position) in [7f64, 8.0, 100.0].into_iter().enumerate() {
            assert_eq!(cos[row * 8], position.cos() as f32); // pair 0: one radian per position
        }
    }

    #[test]
    #[should_panic(expected = "beyond max_seq_len = 128")]
    fn positions_beyond_the_tables_panic() {
        let device = crate::device::parse("flex").unwrap();
        RopeTables::new(&preset("tiny").unwrap(), &device).rows(120, 9);
    }
}
