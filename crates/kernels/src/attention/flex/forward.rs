//! The forward: a task per block of queries of one head.
#![allow(unsafe_code)] // matrix products over raw views, disjoint writes of parallel tasks

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;

use super::super::{Attended, Dims};
use super::matrix::{Fill, Matrix, SharedSlots, product, with_scratch};
use super::rows::softmax_rows;
use super::visible::Visible;
use super::{ROWS, for_each_task};
use crate::flex_data::{tensor, unwritten, written};

pub(super) fn forward(
    q: &FlexTensor,
    k: &FlexTensor,
    v: &FlexTensor,
    visible: &Visible,
    dims: Dims,
) -> Attended<Flex> {
    let Dims { b, n_heads, s, head_dim, .. } = dims;
    let mut out = unwritten(b * s * n_heads * head_dim); // [b, s, n_heads, head_dim]
    let mut lse = unwritten(b * n_heads * s);
    let (out_slots, lse_slots) = (SharedSlots::new(&mut out), SharedSlots::new(&mut lse));
    let n_blocks = s.div_ceil(ROWS);
    for_each_task(b * n_heads * n_blocks, dims, |task| {
        let (head, block) = (task / n_blocks, task % n_blocks);
        let (bi, hi) = (head / n_heads, head % n_heads);
        let block = visible.block(bi, block);
        let (n, width) = (block.n, block.width);
        let kv = hi / dims.group();
        let q = Matrix::head(q, bi, hi).from_row(block.first);
        let k = Matrix::head(k, bi, kv).from_row(block.from);
        let v = Matrix::head(v, bi, kv).from_row(block.from);
        with_scratch([n * width, n * head_dim], |[scores, attended]| {
            let scale = dims.scale() as f32;
            // SAFETY: `q` has `n` more rows, `k` and `v` have `width`, all of `head_dim`.
            unsafe {
                product([n, width, head_dim], scores, Fill::Replace, q, k.transposed(), scale);
            }
            let mut inverse = [0.0; ROWS];
            // SAFETY: no other task writes these rows of this head.
            let lse = unsafe { lse_slots.part(head * s + block.first, n) };
            softmax_rows(scores, width, block.seen(), lse, &mut inverse);
            let p = Matrix::dense(scores, width);
            // SAFETY: as above; `p` is `[n, width]`.
            unsafe { product([n, head_dim, width], attended, Fill::Replace, p, v, 1.0) };
            for (i, (row, &factor)) in attended.chunks_exact(head_dim).zip(&inverse).enumerate() {
                let start = ((bi * s + block.first + i) * n_heads + hi) * head_dim;
                // SAFETY: no other task writes this row of this head.
                let out = unsafe { out_slots.part(start, head_dim) };
                for (out, &x) in out.iter_mut().zip(row) {
                    out.write(x * factor);
                }
            }
        });
    });
    // SAFETY: the tasks cover every row of every head.
    let (out, lse) = unsafe { (written(out), written(lse)) };
    Attended {
        out: tensor(out, [b, s, n_heads, head_dim]).transpose(1, 2),
        lse: tensor(lse, [b, n_heads, s]),
    }
}
