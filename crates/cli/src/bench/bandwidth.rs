//! How fast memory is read.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;

/// Far more than any cache.
const FLOATS: usize = 128 << 20;
/// Readings, of which the fastest counts: whoever else is on the machine only takes away.
const READINGS: usize = 8;
/// Sums that do not wait for each other.
const LANES: usize = 64;

/// Bytes per second that all threads together read, one after the other in memory.
pub(super) fn read() -> f64 {
    let values = vec![1.0f32; FLOATS];
    let part = FLOATS / rayon::current_num_threads();
    let mut best = f64::INFINITY;
    for _ in 0..READINGS {
        let begun = Instant::now();
        let sum: f32 = values.par_chunks(part).with_max_len(1).map(sum).sum();
        black_box(sum);
        best = best.min(begun.elapsed().as_secs_f64());
    }
    (FLOATS * size_of::<f32>()) as f64 / best
}

fn sum(values: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    for chunk in values.chunks_exact(LANES) {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    lanes.iter().sum()
}
