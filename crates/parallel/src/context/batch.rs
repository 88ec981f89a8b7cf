//! A micro-batch cut to the positions of one rank.

use std::ops::Range;

use burn::tensor::{Int, Tensor};

use super::zigzag::local_ranges;
use crate::{MicroBatch, ParallelError};

/// The columns of a micro-batch that a rank of the context axis works on.
///
/// Document starts stay positions of the whole sequence. `n_targets` becomes the rank's own; reading it waits for the device.
///
/// # Errors
/// If the sequences cannot be cut evenly ([`local_positions`](super::local_positions)).
///
/// # Panics
/// If there is no such rank.
pub fn local_batch(
    batch: &MicroBatch,
    rank: usize,
    size: usize,
) -> Result<MicroBatch, ParallelError> {
    let [_, seq_len] = batch.tokens.dims();
    let ranges = local_ranges(rank, size, seq_len)?;
    let targets = columns(&batch.targets, &ranges);
    let n_targets = targets.clone().greater_equal_elem(0).int().sum().into_scalar::<i64>();
    Ok(MicroBatch {
        tokens: columns(&batch.tokens, &ranges),
        document_starts: batch.document_starts.as_ref().map(|starts| columns(starts, &ranges)),
        n_targets: n_targets as u64,
        targets,
    })
}

fn columns(x: &Tensor<2, Int>, ranges: &[Range<usize>]) -> Tensor<2, Int> {
    let part = |range: &Range<usize>| x.clone().narrow(1, range.start, range.len());
    Tensor::cat(ranges.iter().map(part).collect(), 1)
}
