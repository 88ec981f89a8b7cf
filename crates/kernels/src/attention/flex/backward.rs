//! The backward: a task per key head, with all its query heads and blocks in order.
#![allow(unsafe_code)] // matrix products over raw views, disjoint writes of parallel tasks

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;

use super::super::{Attended, Dims};
use super::matrix::{Fill, Matrix, SharedSlots, product, with_scratch};
use super::rows::{backward_rows, row_products};
use super::visible::Visible;
use super::{ROWS, for_each_task};
use crate::flex_data::{floats, tensor, unwritten, written};

/// Returns `[dq, dk, dv]`, by the formulas of `composed_backward`.
pub(super) fn backward(
    [q, k, v]: [&FlexTensor; 3],
    visible: &Visible,
    attended: &Attended<Flex>,
    dout: FlexTensor,
    dims: Dims,
) -> [FlexTensor; 3] {
    let Dims { b, n_heads, n_kv_heads, s, t, head_dim } = dims;
    // The gradient may be an expanded view; the rows below are read as slices.
    let dout = if dout.layout().strides()[3] == 1 { dout } else { dout.to_contiguous() };
    let (out, lse) = (&attended.out, floats(&attended.lse));
    let scale = dims.scale() as f32;

    let mut dq = unwritten(b * s * n_heads * head_dim); // [b, s, n_heads, head_dim]
    let mut dk = unwritten(b * t * n_kv_heads * head_dim); // [b, t, n_kv_heads, head_dim]
    let mut dv = unwritten(b * t * n_kv_heads * head_dim);
    let dq_slots = SharedSlots::new(&mut dq);
    let (dk_slots, dv_slots) = (SharedSlots::new(&mut dk), SharedSlots::new(&mut dv));

    for_each_task(b * n_kv_heads, dims, |task| {
        let (bi, kv) = (task / n_kv_heads, task % n_kv_heads);
        let (k, v) = (Matrix::head(k, bi, kv), Matrix::head(v, bi, kv));
        let sizes = [ROWS * t, ROWS * t, ROWS * head_dim, t * head_dim, t * head_dim];
        with_scratch(sizes, |[scores, dp, dq, dk, dv]| {
            dk.fill(0.0);
            dv.fill(0.0);
            for (hi, block) in (kv * dims.group()..(kv + 1) * dims.group())
                .flat_map(|hi| (0..s.div_ceil(ROWS)).map(move |block| (hi, block)))
            {
                let block = visible.block(bi, block);
                let (n, width, from) = (block.n, block.width, block.from);
                let rows = Matrix::head(q, bi, hi).from_row(block.first);
                let (keys, values) = (k.from_row(from), v.from_row(from));
                let dout_rows = Matrix::head(&dout, bi, hi).from_row(block.first);
                let (scores, dp) = (&mut scores[..n * width], &mut dp[..n * width]);
                // SAFETY: `rows` and `dout_rows` have `n` more rows, `keys` and `values` `width`.
                unsafe {
                    let sizes = [n, width, head_dim];
                    product(sizes, scores, Fill::Replace, rows, keys.transposed(), scale);
                    product(sizes, dp, Fill::Replace, dout_rows, values.transposed(), 1.0);
                }
                let lse = &lse[(bi * n_heads + hi) * s + block.first..][..n];
                let mut d = [0.0; ROWS];
                row_products(&dout, out, [bi, hi, block.first], &mut d[..n]);
                backward_rows(scores, dp, width, block.seen(), lse, &d, scale);

                let (p, ds) = (Matrix::dense(scores, width), Matrix::dense(dp, width));
                let reached = from * head_dim..(from + width) * head_dim;
                let (dk, dv) = (&mut dk[reached.clone()], &mut dv[reached]);
                let dq = &mut dq[..n * head_dim];
                // SAFETY: as above; `p` and `ds` are `[n, width]`.
                unsafe {
                    product([n, head_dim, width], dq, Fill::Replace, ds, keys, 1.0);
                    product([width, head_dim, n], dk, Fill::Add, ds.transposed(), rows, 1.0);
                    product([width, head_dim, n], dv, Fill::Add, p.transposed(), dout_rows, 1.0);
                }
                for (i, row) in dq.chunks_exact(head_dim).enumerate() {
                    let start = ((bi * s + block.first + i) * n_heads + hi) * head_dim;
                    // SAFETY: no other task writes the rows of this key head's query heads.
                    unsafe { dq_slots.part(start, head_dim) }.write_copy_of_slice(row);
                }
            }
            for (i, (dk, dv)) in
                dk.chunks_exact(head_dim).zip(dv.chunks_exact(head_dim)).enumerate()
            {
                let start = ((bi * t + i) * n_kv_heads + kv) * head_dim;
                // SAFETY: no other task writes the rows of this key head.
                unsafe {
                    dk_slots.part(start, head_dim).write_copy_of_slice(dk);
                    dv_slots.part(start, head_dim).write_copy_of_slice(dv);
                }
            }
        });
    });
    // SAFETY: the tasks cover every row of every head of all three.
    let (dq, dk, dv) = unsafe { (written(dq), written(dk), written(dv)) };
    [
        tensor(dq, [b, s, n_heads, head_dim]).transpose(1, 2),
        tensor(dk, [b, t, n_kv_heads, head_dim]).transpose(1, 2),
        tensor(dv, [b, t, n_kv_heads, head_dim]).transpose(1, 2),
    ]
}
