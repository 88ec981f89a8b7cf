//! What happens to the rows of a block of scores between the matrix products.

use burn::backend::flex::FlexTensor;

use crate::flex_data::Slot;
use crate::simd::{dot, exp, max, multiversion, sum};

/// The keys that a row sees, counted from the block's first.
pub(super) type Seen = (usize, usize);

multiversion!(
    /// The scores of a block, rows of `width`, become `e^(score - max)`, 0 where a key is hidden.
    /// Writes the log-sum-exp of every row, and to `inverse` what its sum must be multiplied with.
    pub(super) fn softmax_rows(scores: &mut [f32], width: usize, seen: &[Seen], lse: &mut [Slot], inverse: &mut [f32]) = softmax_body
);
multiversion!(
    /// Scores become probabilities `p = e^(score - lse)`, and their gradients `dp` those of the
    /// unscaled products, `scale p (dp - d)`; both 0 where a key is hidden.
    pub(super) fn backward_rows(scores: &mut [f32], dp: &mut [f32], width: usize, seen: &[Seen], lse: &[f32], d: &[f32], scale: f32) = backward_body
);

/// `d[i] = sum of a * b` over rows `first + i` of head `h` of sequence `b`, for f32 tensors
/// `[b, heads, positions, head_dim]` whose last dim is dense.
pub(super) fn row_products(
    a: &FlexTensor,
    b: &FlexTensor,
    [bi, hi, first]: [usize; 3],
    d: &mut [f32],
) {
    products(Rows::head(a, bi, hi), Rows::head(b, bi, hi), first, d);
}

multiversion!(
    fn products(a: Rows<'_>, b: Rows<'_>, first: usize, d: &mut [f32]) = products_body
);

/// The rows of one head.
#[derive(Clone, Copy)]
struct Rows<'a> {
    storage: &'a [f32],
    start: isize,
    stride: isize,
    width: usize,
}

impl<'a> Rows<'a> {
    fn head(t: &'a FlexTensor, b: usize, head: usize) -> Self {
        let (layout, strides) = (t.layout(), t.layout().strides());
        let offset = b as isize * strides[0] + head as isize * strides[1];
        Self {
            storage: t.storage(),
            start: layout.start_offset() as isize + offset,
            stride: strides[2],
            width: layout.shape()[3],
        }
    }

    #[inline(always)]
    fn row(&self, row: usize) -> &'a [f32] {
        &self.storage[(self.start + row as isize * self.stride) as usize..][..self.width]
    }
}

#[inline(always)]
fn products_body<const FMA: bool>(a: Rows<'_>, b: Rows<'_>, first: usize, d: &mut [f32]) {
    for (i, d) in d.iter_mut().enumerate() {
        *d = dot::<FMA>(a.row(first + i), b.row(first + i));
    }
}

#[inline(always)]
fn softmax_body<const FMA: bool>(
    scores: &mut [f32],
    width: usize,
    seen: &[Seen],
    lse: &mut [Slot],
    inverse: &mut [f32],
) {
    let rows = scores.chunks_exact_mut(width).zip(seen).zip(lse).zip(inverse);
    for (((row, &(from, to)), lse), inverse) in rows {
        row[..from].fill(0.0);
        row[to..].fill(0.0);
        let row = &mut row[from..to];
        let m = max(row);
        for x in row.iter_mut() {
            *x = exp::<FMA>(*x - m);
        }
        let total = sum(row, |x| x);
        *inverse = 1.0 / total;
        lse.write(m + total.ln());
    }
}

#[inline(always)]
fn backward_body<const FMA: bool>(
    scores: &mut [f32],
    dp: &mut [f32],
    width: usize,
    seen: &[Seen],
    lse: &[f32],
    d: &[f32],
    scale: f32,
) {
    let rows = scores.chunks_exact_mut(width).zip(dp.chunks_exact_mut(width));
    for ((((p, dp), &(from, to)), &lse), &d) in rows.zip(seen).zip(lse).zip(d) {
        p[..from].fill(0.0);
        p[to..].fill(0.0);
        dp[..from].fill(0.0);
        dp[to..].fill(0.0);
        for (p, dp) in p[from..to].iter_mut().zip(&mut dp[from..to]) {
            *p = exp::<FMA>(*p - lse);
            *dp = *p * (*dp - d) * scale;
        }
    }
}
