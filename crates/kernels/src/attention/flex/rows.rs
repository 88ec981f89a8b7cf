//! What happens to a block between the matrix products: softmax down the keys, with a vector of
//! queries side by side, and its backward; turning queries into columns.

use super::matrix::Rows;
use super::visible::{Block, LANES};
use crate::simd::{dot, exp, madd, multiversion};

multiversion!(
    /// The scores `[block.width, block.lanes()]` become `e^(score - max)`, 0 where a key is hidden.
    /// Writes every query's log-sum-exp, and to `inverse` what its sum must be multiplied with.
    pub(super) fn softmax(block: &Block, scores: &mut [f32], lse: &mut [f32], inverse: &mut [f32]) = softmax_body
);
multiversion!(
    /// Scores become probabilities `p = e^(score - lse)`, and their gradients `dp` those of the
    /// unscaled products, `scale p (dp - d)`; both 0 where a key is hidden.
    pub(super) fn softmax_backward(block: &Block, scores: &mut [f32], dp: &mut [f32], lse: &[f32], d: &[f32], scale: f32) = backward_body
);
multiversion!(
    /// `out[x, i] = scale rows[i, x]` for the `n` first rows, 0 for the rest of the lanes.
    pub(super) fn transpose(rows: Rows<'_>, n: usize, scale: f32, lanes: usize, out: &mut [f32]) = transpose_body
);
multiversion!(
    /// The `n` first rows, each and their number filled up with zeros to `[.., width]`.
    pub(super) fn pad(rows: Rows<'_>, n: usize, width: usize, out: &mut [f32]) = pad_body
);
multiversion!(
    /// `d[i] = a[i] . b[i]`.
    pub(super) fn row_products(a: Rows<'_>, b: Rows<'_>, d: &mut [f32]) = row_products_body
);
multiversion!(
    /// One query: `out = softmax(scale q . keys) values`, returning its log-sum-exp; 0 and negative
    /// infinity without keys. `scores` takes a float per key.
    pub(super) fn attend_one(q: &[f32], keys: Rows<'_>, values: Rows<'_>, scale: f32, scores: &mut [f32], out: &mut [f32]) -> f32 = attend_one_body
);

/// The scores of one key for a vector of queries.
#[inline(always)]
fn vector_of(scores: &mut [f32], key: usize, lanes: usize, vector: usize) -> &mut [f32; LANES] {
    scores[key * lanes + vector * LANES..].first_chunk_mut().expect("a whole vector")
}

/// Negative infinity where a query of the vector does not see a key of the vector's range.
#[inline(always)]
fn hide(block: &Block, vector: usize, scores: &mut [f32]) {
    let (first, end) = block.lane_keys(vector);
    let last_first = first.iter().fold(0, |m, &key| m.max(key));
    let first_end = end.iter().fold(i32::MAX, |m, &key| m.min(key));
    let keys = block.key_ranges()[vector].clone();
    let partly = |key: &usize| (*key as i32) < last_first || first_end <= *key as i32;
    for key in keys.filter(partly) {
        let row = vector_of(scores, key, block.lanes(), vector);
        let key = key as i32;
        for i in 0..LANES {
            let seen = first[i] <= key && key < end[i];
            row[i] = if seen { row[i] } else { f32::NEG_INFINITY };
        }
    }
}

#[inline(always)]
fn softmax_body<const FMA: bool>(
    block: &Block,
    scores: &mut [f32],
    lse: &mut [f32],
    inverse: &mut [f32],
) {
    let lanes = block.lanes();
    let outputs = lse.chunks_exact_mut(LANES).zip(inverse.chunks_exact_mut(LANES));
    for ((vector, keys), (lse, inverse)) in block.key_ranges().iter().enumerate().zip(outputs) {
        hide(block, vector, scores);
        let mut max = [f32::NEG_INFINITY; LANES];
        for key in keys.clone() {
            let row = vector_of(scores, key, lanes, vector);
            for i in 0..LANES {
                max[i] = if row[i] > max[i] { row[i] } else { max[i] };
            }
        }
        // A lane past the last query sees nothing: keep its infinities out of the arithmetic.
        for max in &mut max {
            *max = if *max == f32::NEG_INFINITY { 0.0 } else { *max };
        }
        let mut sum = [0.0; LANES];
        for key in keys.clone() {
            let row = vector_of(scores, key, lanes, vector);
            for i in 0..LANES {
                row[i] = exp::<FMA>(row[i] - max[i]);
                sum[i] += row[i];
            }
        }
        for i in 0..LANES {
            lse[i] = max[i] + sum[i].ln();
            // The largest exponential is 1, so only a query that sees no key has a sum below: its result is 0.
            inverse[i] = if sum[i] < 1.0 { 0.0 } else { 1.0 / sum[i] };
        }
    }
}

#[inline(always)]
fn backward_body<const FMA: bool>(
    block: &Block,
    scores: &mut [f32],
    dp: &mut [f32],
    lse: &[f32],
    d: &[f32],
    scale: f32,
) {
    let lanes = block.lanes();
    let rows = lse.chunks_exact(LANES).zip(d.chunks_exact(LANES));
    for ((vector, keys), (lse, d)) in block.key_ranges().iter().enumerate().zip(rows) {
        hide(block, vector, scores);
        for key in keys.clone() {
            let p = vector_of(scores, key, lanes, vector);
            let dp = vector_of(dp, key, lanes, vector);
            for i in 0..LANES {
                p[i] = exp::<FMA>(p[i] - lse[i]);
                dp[i] = p[i] * (dp[i] - d[i]) * scale;
            }
        }
    }
}

#[inline(always)]
fn transpose_body<const FMA: bool>(
    rows: Rows<'_>,
    n: usize,
    scale: f32,
    lanes: usize,
    out: &mut [f32],
) {
    // A vector of rows at a time: reading walks along 16 rows, writing fills whole cache lines.
    for vector in 0..lanes / LANES {
        let row = |i| if vector * LANES + i < n { rows.row(vector * LANES + i) } else { &[] };
        let rows: [&[f32]; LANES] = std::array::from_fn(row);
        for (x, column) in out.chunks_exact_mut(lanes).enumerate() {
            let column = &mut column[vector * LANES..][..LANES];
            for (out, row) in column.iter_mut().zip(&rows) {
                *out = row.get(x).map_or(0.0, |x| x * scale);
            }
        }
    }
}

#[inline(always)]
fn pad_body<const FMA: bool>(rows: Rows<'_>, n: usize, width: usize, out: &mut [f32]) {
    for (i, out) in out.chunks_exact_mut(width).enumerate() {
        let row = if i < n { rows.row(i) } else { &[] };
        let (head, tail) = out.split_at_mut(row.len());
        head.copy_from_slice(row);
        tail.fill(0.0);
    }
}

#[inline(always)]
fn row_products_body<const FMA: bool>(a: Rows<'_>, b: Rows<'_>, d: &mut [f32]) {
    for (i, d) in d.iter_mut().enumerate() {
        *d = dot::<FMA>(a.row(i), b.row(i));
    }
}

#[inline(always)]
fn attend_one_body<const FMA: bool>(
    q: &[f32],
    keys: Rows<'_>,
    values: Rows<'_>,
    scale: f32,
    scores: &mut [f32],
    out: &mut [f32],
) -> f32 {
    let mut max = f32::NEG_INFINITY;
    if scores.is_empty() {
        out.fill(0.0);
        return max;
    }
    for (key, score) in scores.iter_mut().enumerate() {
        *score = dot::<FMA>(q, keys.row(key)) * scale;
        max = if *score > max { *score } else { max };
    }
    let mut sum = 0.0;
    out.fill(0.0);
    for (key, &score) in scores.iter().enumerate() {
        let p = exp::<FMA>(score - max);
        sum += p;
        for (out, &value) in out.iter_mut().zip(values.row(key)) {
            *out = madd::<FMA>(p, value, *out);
        }
    }
    out.iter_mut().for_each(|out| *out /= sum);
    max + sum.ln()
}
