//! The backward: a task per key head, with all its query heads and blocks in order.
#![allow(unsafe_code)] // disjoint writes of parallel tasks

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;

use super::super::{Attended, Dims};
use super::matrix::{Rows, SharedSlots, with_scratch};
use super::products::{add_over_keys, add_over_queries, scores};
use super::rows::{pad, row_products, softmax_backward, transpose};
use super::visible::{LANES, ROWS, Visible};
use super::{dense_rows, for_each_task, padded_rows};
use crate::flex_data::{floats, tensor, unwritten, written};

/// Keys per pass: their scores and gradients stay in the second cache. A multiple of a tile.
const PART_KEYS: usize = 256;

/// Returns `[dq, dk, dv]`, by the formulas of `composed_backward`.
pub(super) fn backward(
    [q, k, v]: [&FlexTensor; 3],
    visible: &Visible,
    attended: &Attended<Flex>,
    dout: &FlexTensor,
    dims: Dims,
) -> [FlexTensor; 3] {
    let Dims { b, n_heads, n_kv_heads, s, t, head_dim } = dims;
    let mut dq = unwritten(b * s * n_heads * head_dim); // [b, s, n_heads, head_dim]
    let mut dk = unwritten(b * t * n_kv_heads * head_dim); // [b, t, n_kv_heads, head_dim]
    let mut dv = unwritten(b * t * n_kv_heads * head_dim);
    let dq_slots = SharedSlots::new(&mut dq);
    let (dk_slots, dv_slots) = (SharedSlots::new(&mut dk), SharedSlots::new(&mut dv));

    let width = head_dim.next_multiple_of(LANES);
    let head = HeadBackward {
        q: dense_rows(q),
        k: padded_rows(k),
        v: dense_rows(v),
        out: dense_rows(&attended.out),
        dout: dense_rows(dout), // it may be an expanded view
        lse: floats(&attended.lse),
        visible,
        dims,
        dq: dq_slots,
    };
    for_each_task(b * n_kv_heads, dims, |task| {
        let (bi, kv) = (task / n_kv_heads, task % n_kv_heads);
        let (columns, rows) = (head_dim * ROWS, ROWS * width);
        let scores = PART_KEYS.min(t) * ROWS;
        let block = [scores, scores, columns, columns, rows, rows, rows];
        let [p, dp, q_columns, dout_columns, q_rows, dout_rows, dq] = block;
        let sizes = [t * width, t * width, p, dp, q_columns, dout_columns, q_rows, dout_rows, dq];
        with_scratch(sizes, |[dk, dv, block @ ..]| {
            dk.fill(0.0);
            dv.fill(0.0);
            let mut block: [&mut [f32]; 7] = block;
            for hi in kv * dims.group()..(kv + 1) * dims.group() {
                head.run([bi, hi], dk, dv, &mut block);
            }
            let rows = dk.chunks_exact(width).zip(dv.chunks_exact(width));
            for (i, (dk, dv)) in rows.enumerate() {
                let start = ((bi * t + i) * n_kv_heads + kv) * head_dim;
                // SAFETY: no other task writes the rows of this key head.
                unsafe {
                    dk_slots.part(start, head_dim).write_copy_of_slice(&dk[..head_dim]);
                    dv_slots.part(start, head_dim).write_copy_of_slice(&dv[..head_dim]);
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

/// What the tasks read, and where `dq` goes.
struct HeadBackward<'a> {
    q: FlexTensor,
    k: FlexTensor,
    v: FlexTensor,
    out: FlexTensor,
    dout: FlexTensor,
    lse: &'a [f32],
    visible: &'a Visible,
    dims: Dims,
    dq: SharedSlots,
}

impl HeadBackward<'_> {
    /// Writes `dq` of query head `hi` and adds its share to `dk` and `dv` of its key head.
    fn run(
        &self,
        [bi, hi]: [usize; 2],
        dk: &mut [f32],
        dv: &mut [f32],
        [p, dp, q_columns, dout_columns, q_rows, dout_rows, dq]: &mut [&mut [f32]; 7],
    ) {
        let Dims { n_heads, s, head_dim, .. } = self.dims;
        let (kv, scale) = (hi / self.dims.group(), self.dims.scale() as f32);
        let width = head_dim.next_multiple_of(LANES);
        for index in 0..s.div_ceil(ROWS) {
            let block = self.visible.block(bi, index);
            let (lanes, n) = (block.lanes(), block.n);
            let queries = Rows::head(&self.q, bi, hi).skip_rows(block.first);
            let dout = Rows::head(&self.dout, bi, hi).skip_rows(block.first);
            let out = Rows::head(&self.out, bi, hi).skip_rows(block.first);
            let q_columns = &mut q_columns[..head_dim * lanes];
            let dout_columns = &mut dout_columns[..head_dim * lanes];
            let (q_rows, dout_rows) =
                (&mut q_rows[..lanes * width], &mut dout_rows[..lanes * width]);
            let dq = &mut dq[..lanes * width];

            transpose(queries, n, scale, lanes, q_columns);
            transpose(dout, n, 1.0, lanes, dout_columns);
            pad(queries, n, width, q_rows);
            pad(dout, n, width, dout_rows);
            dq.fill(0.0);
            let (mut lse, mut d) = ([0.0; ROWS], [0.0; ROWS]);
            let first = (bi * n_heads + hi) * s + block.first;
            lse[..n].copy_from_slice(&self.lse[first..first + n]);
            row_products(dout, out, &mut d[..n]);

            for start in (0..block.width).step_by(PART_KEYS) {
                let part = &block.part(start, PART_KEYS);
                let keys = Rows::head(&self.k, bi, kv).skip_rows(part.from);
                let values = Rows::head(&self.v, bi, kv).skip_rows(part.from);
                let (p, dp) = (&mut p[..part.width * lanes], &mut dp[..part.width * lanes]);
                let reached = part.from * width..(part.from + part.width) * width;
                scores(part, keys, q_columns, p);
                scores(part, values, dout_columns, dp);
                softmax_backward(part, p, dp, &lse[..lanes], &d[..lanes], scale);
                add_over_queries(part, dp, q_rows, &mut dk[reached.clone()]);
                add_over_queries(part, p, dout_rows, &mut dv[reached]);
                add_over_keys(part, dp, keys, dq);
            }
            for (i, row) in dq.chunks_exact(width).take(n).enumerate() {
                let start = ((bi * s + block.first + i) * n_heads + hi) * head_dim;
                // SAFETY: no other task writes the rows of this head.
                unsafe { self.dq.part(start, head_dim) }.write_copy_of_slice(&row[..head_dim]);
            }
        }
    }
}
