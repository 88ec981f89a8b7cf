//! Squared gradient norms that do not depend on the split, and clipping by the global norm.
//!
//! The squared norm of a parameter is the sum of the f64 sums over its fixed 4,096-element blocks, in
//! order; that of a model adds its parameters in visit order ([`sum_in_order`] for both). Whoever holds
//! a block computes its sum, so shards that end on block boundaries give the same bits as one process.

use burn::tensor::{DType, Tensor};
use rayon::prelude::*;

use crate::error::OptimError;

/// Elements of one block of the flat index. A constant of the numerics: changing it changes bits.
pub const BLOCK: usize = 4096;

/// Blocks per task: only how the work is spread, no part of any sum.
const BLOCKS_PER_TASK: usize = 16;

/// Accumulators per block: a constant of the numerics, wide enough for two 512-bit registers of f64.
const LANES: usize = 16;

/// The f64 sum of squares of each block of `values`; the last block may be short.
pub fn block_sums(values: &[f32]) -> Vec<f64> {
    let mut sums = vec![0.0; values.len().div_ceil(BLOCK)];
    sums.par_chunks_mut(BLOCKS_PER_TASK).zip(values.par_chunks(BLOCKS_PER_TASK * BLOCK)).for_each(
        |(sums, values)| {
            for (sum, block) in sums.iter_mut().zip(values.chunks(BLOCK)) {
                *sum = block_sum(block);
            }
        },
    );
    sums
}

/// Adds from left to right, starting at zero.
pub fn sum_in_order(sums: impl IntoIterator<Item = f64>) -> f64 {
    sums.into_iter().fold(0.0, |total, sum| total + sum)
}

/// The squared norm of one flat parameter: its block sums in order.
pub fn squared_norm(values: &[f32]) -> f64 {
    sum_in_order(block_sums(values))
}

/// [`block_sums`] of a tensor, which is handed back. Free of copies where the tensor is the only owner
/// of host memory; other backends transfer it.
///
/// # Panics
/// If the tensor is not f32.
pub fn tensor_block_sums(tensor: Tensor<1>) -> (Tensor<1>, Vec<f64>) {
    let device = tensor.device();
    let data = tensor.into_data();
    let sums = block_sums(data.as_slice::<f32>().expect("gradients are f32"));
    (Tensor::from_data(data, (&device, DType::F32)), sums)
}

/// What to multiply gradients by so that their norm is at most `max`: `min(1, max / (norm + 1e-6))`.
///
/// NaN stays NaN; find its place with [`first_not_finite`] before any update.
///
/// # Reference
/// `torch.nn.utils.clip_grad_norm_`.
pub fn clip_scale(norm: f64, max: f64) -> f64 {
    let scale = max / (norm + 1e-6);
    if scale > 1.0 { 1.0 } else { scale }
}

/// Multiplies by `factor`, in place where the tensor is the only owner; 1 returns it as it is.
pub fn scale(tensor: Tensor<1>, factor: f64) -> Tensor<1> {
    if factor == 1.0 { tensor } else { tensor.mul_scalar(factor as f32) }
}

/// The first NaN or infinity in the gradient of `path`, as an error that names it.
///
/// To be asked for each parameter once the norm is not finite: finite f32 values never overflow a norm.
///
/// # Errors
/// [`OptimError::NotFinite`] with the flat index, if there is one.
pub fn first_not_finite(path: &str, values: &[f32]) -> Result<(), OptimError> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(index) => {
            let (path, value) = (path.to_owned(), values[index]);
            Err(OptimError::NotFinite { path, index, value })
        }
    }
}

/// Lane `i` adds elements `i`, `i + 16`, ...; lanes are then added pairwise, halves first.
fn block_sum(block: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let chunks = block.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            let x = f64::from(x);
            *lane += x * x;
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(tail) {
        let x = f64::from(x);
        *lane += x * x;
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 % 1009) as f32 - 500.0) * 1e-3).collect()
    }

    #[test]
    fn agrees_with_a_plain_sum() {
        for n in [0, 1, 15, 16, 17, 4095, 4096, 4097, 300_001] {
            let values = values(n);
            let plain: f64 = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            let got = squared_norm(&values);
            assert!((got - plain).abs() <= 1e-12 * plain, "{n}: {got} against {plain}");
            let sums = block_sums(&values);
            assert_eq!(sums.len(), n.div_ceil(4096));
            for (sum, block) in sums.iter().zip(values.chunks(4096)) {
                let plain: f64 = block.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
                assert!((sum - plain).abs() <= 1e-12 * plain);
            }
        }
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
        let values = values(200_003);
        let expected = squared_norm(&values).to_bits();
        for threads in [1, 2, 3, 7] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(pool.install(|| squared_norm(&values)).to_bits(), expected);
        }
    }

    proptest! {
        #[test]
        fn shards_on_block_boundaries_give_the_same_bits(
            n in 0usize..200_000, cuts in prop::collection::vec(0usize..50, 0..4),
        ) {
            let values = values(n);
            let mut cuts: Vec<usize> = cuts.iter().map(|c| (c * BLOCK).min(n)).collect();
            cuts.extend([0, n]);
            cuts.sort_unstable();
            let shards = cuts.windows(2).flat_map(|c| block_sums(&values[c[0]..c[1]]));
            prop_assert_eq!(sum_in_order(shards).to_bits(), squared_norm(&values).to_bits());
        }
    }

    #[test]
    fn clips_as_torch() {
        assert_eq!(clip_scale(0.5, 1.0), 1.0);
        assert_eq!(clip_scale(4.0, 1.0), 1.0 / (4.0 + 1e-6));
        assert_eq!(clip_scale(0.0, 1.0), 1.0);
        // A norm of exactly `max` is scaled by a little less than one, in torch too.
        assert!(clip_scale(1.0, 1.0) < 1.0);
        assert!(clip_scale(f64::NAN, 1.0).is_nan());
        assert_eq!(clip_scale(f64::INFINITY, 1.0), 0.0);
    }

    #[test]
    fn names_the_first_bad_element() {
        let mut values = values(10_000);
        assert_eq!(first_not_finite("blocks.0.wq.weight", &values), Ok(()));
        values[5_000] = f32::NEG_INFINITY;
        values[5_001] = f32::NAN;
        assert!(!squared_norm(&values).is_finite());
        let message = first_not_finite("blocks.0.wq.weight", &values).unwrap_err().to_string();
        assert!(
            message
                .starts_with("gradient of `blocks.0.wq.weight` is -inf at flat index 5000\nhelp: "),
            "{message}"
        );
        assert!(squared_norm(&[f32::MAX; 9000]).is_finite());
    }
}
