//! Tokens made up for the comparison: what they say does not matter, that all of them differ does.

use burn::tensor::{Int, Tensor, TensorData};

use super::Case;
use crate::executor::MicroBatch;

/// One target in so many is ignored, as at the end of a document.
const IGNORED: u64 = 11;

impl Case {
    /// The micro-batch of global index `index` of a step: the same on every layout.
    pub(super) fn batch(&self, step: usize, index: u64) -> MicroBatch {
        let (rows, s) = (self.micro_batch, self.seq_len);
        let first = (step * self.n_micro_batches) as u64 + index;
        let at = |i: usize| mix(first * (rows * (s + 1)) as u64 + i as u64);
        let id = |i: usize| (at(i) % self.model.vocab_size as u64) as i32;
        let cells = || (0..rows).flat_map(|row| (0..s).map(move |column| (row, column)));
        let tokens = cells().map(|(row, column)| id(row * (s + 1) + column)).collect();
        let targets: Vec<i32> = cells()
            .map(|(row, column)| row * (s + 1) + column + 1)
            .map(|i| if (at(i) >> 32).is_multiple_of(IGNORED) { -1 } else { id(i) })
            .collect();
        let n_targets = targets.iter().filter(|target| **target >= 0).count() as u64;
        // Two documents in a row, cut elsewhere in every row.
        let start = |row: usize, column: usize| {
            let cut = (at(row * (s + 1)) >> 16) as usize % s;
            if column >= cut { cut as i32 } else { 0 }
        };
        let starts = cells().map(|(row, column)| start(row, column)).collect();
        let device = self.device.clone().autodiff();
        let tensor = |values: Vec<i32>| {
            Tensor::<2, Int>::from_data(TensorData::new(values, [rows, s]), &device)
        };
        MicroBatch {
            tokens: tensor(tokens),
            targets: tensor(targets),
            document_starts: self.document_mask.then(|| tensor(starts)),
            n_targets,
        }
    }
}

/// The finalizer of SplitMix64 (Steele et al. 2014): every bit of `x` moves every bit of the result.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
