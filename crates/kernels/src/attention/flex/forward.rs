//! The forward: a task per block of queries of one head, or per head where queries are few.
#![allow(unsafe_code)] // disjoint writes of parallel tasks

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;

use super::super::{Attended, Dims};
use super::matrix::{Rows, SharedSlots, with_scratch};
use super::products::{add_over_keys, scores};
use super::rows::{attend_one, softmax, transpose};
use super::visible::{LANES, ROWS, Visible};
use super::{dense_rows, for_each_task, padded_rows};
use crate::flex_data::{Slot, tensor, unwritten, written};

/// Up to this many queries, as in decoding, each goes alone: a vector of queries would be empty.
const FEW: usize = 4;

pub(super) fn forward(
    [q, k, v]: [&FlexTensor; 3],
    visible: &Visible,
    dims: Dims,
) -> Attended<Flex> {
    let Dims { b, n_heads, s, head_dim, .. } = dims;
    let mut out = unwritten(b * s * n_heads * head_dim); // [b, s, n_heads, head_dim]
    let mut lse = unwritten(b * n_heads * s);
    let slots = [SharedSlots::new(&mut out), SharedSlots::new(&mut lse)];
    if s <= FEW {
        one_by_one([q, k, v], visible, dims, slots);
    } else {
        in_blocks([q, k, v], visible, dims, slots);
    }
    // SAFETY: either way the tasks cover every row of every head.
    let (out, lse) = unsafe { (written(out), written(lse)) };
    Attended {
        out: tensor(out, [b, s, n_heads, head_dim]).transpose(1, 2),
        lse: tensor(lse, [b, n_heads, s]),
    }
}

fn in_blocks(
    [q, k, v]: [&FlexTensor; 3],
    visible: &Visible,
    dims: Dims,
    [out_slots, lse_slots]: [SharedSlots; 2],
) {
    let Dims { n_heads, s, t, head_dim, .. } = dims;
    let (q, k, v) = (dense_rows(q), dense_rows(k), padded_rows(v));
    let width = head_dim.next_multiple_of(LANES);
    let n_blocks = s.div_ceil(ROWS);
    let sizes = [head_dim * ROWS, t * ROWS, ROWS * width];
    for_each_task(dims.b * n_heads * n_blocks, dims, |task| {
        let (head, block) = (task / n_blocks, task % n_blocks);
        let (bi, hi) = (head / n_heads, head % n_heads);
        let block = visible.block(bi, block);
        let lanes = block.lanes();
        // SAFETY: no other task writes these rows of this head.
        let lse_rows = unsafe { lse_slots.part(head * s + block.first, block.n) };
        let out_row = |i: usize| {
            let start = ((bi * s + block.first + i) * n_heads + hi) * head_dim;
            // SAFETY: as above.
            unsafe { out_slots.part(start, head_dim) }
        };
        if block.width == 0 {
            // In a part of the keys there may be none for these queries.
            lse_rows.fill(Slot::new(f32::NEG_INFINITY));
            return (0..block.n).for_each(|i| out_row(i).fill(Slot::new(0.0)));
        }
        let kv = hi / dims.group();
        let keys = Rows::head(&k, bi, kv).skip_rows(block.from);
        let values = Rows::head(&v, bi, kv).skip_rows(block.from);
        with_scratch(sizes, |[queries, p, attended]| {
            let queries = &mut queries[..head_dim * lanes];
            let (p, attended) = (&mut p[..block.width * lanes], &mut attended[..lanes * width]);
            let rows = Rows::head(&q, bi, hi).skip_rows(block.first);
            transpose(rows, block.n, dims.scale() as f32, lanes, queries);
            scores(&block, keys, queries, p);
            let (mut lse, mut inverse) = ([0.0; ROWS], [0.0; ROWS]);
            softmax(&block, p, &mut lse[..lanes], &mut inverse[..lanes]);
            attended.fill(0.0);
            add_over_keys(&block, p, values, attended);
            lse_rows.write_copy_of_slice(&lse[..block.n]);
            for (i, row) in attended.chunks_exact(width).take(block.n).enumerate() {
                for (out, &x) in out_row(i).iter_mut().zip(row) {
                    out.write(x * inverse[i]);
                }
            }
        });
    });
}

fn one_by_one(
    [q, k, v]: [&FlexTensor; 3],
    visible: &Visible,
    dims: Dims,
    [out_slots, lse_slots]: [SharedSlots; 2],
) {
    let Dims { n_heads, s, t, head_dim, .. } = dims;
    let (q, k, v) = (dense_rows(q), dense_rows(k), dense_rows(v));
    for_each_task(dims.b * n_heads, dims, |head| {
        let (bi, hi) = (head / n_heads, head % n_heads);
        let kv = hi / dims.group();
        with_scratch([t, head_dim], |[scores, attended]| {
            for i in 0..s {
                let seen = visible.keys(bi, i);
                let keys = Rows::head(&k, bi, kv).skip_rows(seen.start);
                let values = Rows::head(&v, bi, kv).skip_rows(seen.start);
                let query = Rows::head(&q, bi, hi).row(i);
                let scale = dims.scale() as f32;
                let scores = &mut scores[..seen.len()];
                let lse = attend_one(query, keys, values, scale, scores, attended);
                let start = ((bi * s + i) * n_heads + hi) * head_dim;
                // SAFETY: no other task writes the rows of this head.
                unsafe {
                    lse_slots.part(head * s + i, 1).write_copy_of_slice(&[lse]);
                    out_slots.part(start, head_dim).write_copy_of_slice(attended);
                }
            }
        });
    });
}
