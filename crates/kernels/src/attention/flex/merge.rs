//! Two parts of attention made one, in place.

use burn::backend::Flex;
use rayon::prelude::*;

use super::super::Attended;
use super::dense_rows;
use super::matrix::Rows;
use crate::flex_data::{floats, own_floats, owned};

/// Merges other keys' `part` of the queries from `first` on into `whole`, by the formulas of `composed_merge`.
pub(in super::super) fn merge(
    whole: Attended<Flex>,
    first: usize,
    part: &Attended<Flex>,
) -> Attended<Flex> {
    let [_, n_heads, s, head_dim] = whole.out.layout().shape().dims();
    let [_, _, n, _] = part.out.layout().shape().dims();
    // As the forward left it: [b, s, n_heads, head_dim] in memory.
    let (mut out, mut lse) = (owned(whole.out.transpose(1, 2)), owned(whole.lse));
    let (part_out, part_lse) = (dense_rows(&part.out), part.lse.to_contiguous());

    let mut weights = vec![[0.0; 2]; floats(&part_lse).len()]; // [b, n_heads, n]
    own_floats(&mut lse)
        .expect("owned")
        .par_chunks_mut(s.max(1))
        .zip(floats(&part_lse).par_chunks(n.max(1)))
        .zip(weights.par_chunks_mut(n.max(1)))
        .for_each(|((lse, part_lse), weights)| {
            let rows = lse[first..first + n].iter_mut().zip(part_lse).zip(weights);
            rows.for_each(|((lse, &part), weights)| *weights = weigh(lse, part));
        });
    let width = n_heads * head_dim;
    own_floats(&mut out).expect("owned").par_chunks_mut(width.max(1)).enumerate().for_each(
        |(row, out)| {
            let (bi, i) = (row / s, row % s);
            if !(first..first + n).contains(&i) {
                return;
            }
            for (hi, out) in out.chunks_exact_mut(head_dim).enumerate() {
                let [a, c] = weights[(bi * n_heads + hi) * n + i - first];
                let part = Rows::head(&part_out, bi, hi).row(i - first);
                for (out, &part) in out.iter_mut().zip(part) {
                    *out = *out * a + part * c;
                }
            }
        },
    );
    Attended { out: out.transpose(1, 2), lse }
}

/// Makes `lse` that of both; returns what their results weigh.
fn weigh(lse: &mut f32, part: f32) -> [f32; 2] {
    let max = lse.max(part).max(f32::MIN); // finite, also if neither has seen a key
    let (a, c) = ((*lse - max).exp(), (part - max).exp());
    let sum = a + c;
    *lse = max + sum.ln();
    let weight = 1.0 / sum.max(1.0); // the larger exponential is 1; only without keys the sum is below
    [a * weight, c * weight]
}

#[cfg(test)]
mod tests {
    use super::weigh;

    #[test]
    fn weights_by_hand() {
        let mut lse = 2f32.ln();
        let [a, c] = weigh(&mut lse, 6f32.ln());
        assert!((a - 0.25).abs() < 1e-6 && (c - 0.75).abs() < 1e-6, "{a} {c}");
        assert!((lse - 8f32.ln()).abs() < 1e-6);
        for (mut lse, part, expected) in [
            (1.5, f32::NEG_INFINITY, (1.5, [1.0, 0.0])),
            (f32::NEG_INFINITY, 1.5, (1.5, [0.0, 1.0])),
            (f32::NEG_INFINITY, f32::NEG_INFINITY, (f32::NEG_INFINITY, [0.0, 0.0])),
        ] {
            let weights = weigh(&mut lse, part);
            assert_eq!((lse, weights), expected);
        }
    }
}
