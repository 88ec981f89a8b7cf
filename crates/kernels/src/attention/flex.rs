//! Attention in f32 on the CPU: blocks of query rows against the keys they see.
//!
//! Forward, a task is a block of [`ROWS`] queries of one head: scores, softmax and product with the
//! values, in scratch memory of its thread. Backward, a task is one key head with all its
//! query heads, so that `dk` and `dv` are summed in one order; scores are recomputed from the
//! log-sum-exp. Keys that no query of a block sees are never touched.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::{Attended, AttentionKernels, Dims, composed_backward, composed_forward};
use crate::flex_data::all_f32;

mod backward;
mod forward;
mod matrix;
mod rows;
mod visible;

use visible::Visible;

/// Query rows per block. Fixed: it decides the order of sums.
const ROWS: usize = 64;
/// Below this many multiplications the tasks run on the calling thread.
const SERIAL_WORK: usize = 1 << 16;

impl AttentionKernels for Flex {
    fn attention_forward(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        starts: Option<FlexTensor>,
    ) -> Attended<Self> {
        let dims = Dims::of(q.layout().shape(), k.layout().shape());
        let visible = Visible::new(starts.as_ref(), dims);
        if all_f32(&[&q, &k, &v]) {
            forward::forward(&q, &k, &v, &visible, dims)
        } else {
            composed_forward::<Self>(q, k, v, starts)
        }
    }

    fn attention_backward(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        starts: Option<FlexTensor>,
        attended: Attended<Self>,
        dout: FlexTensor,
    ) -> [FlexTensor; 3] {
        if !all_f32(&[&q, &k, &v, &attended.out, &attended.lse, &dout]) {
            return composed_backward::<Self>(q, k, v, starts, attended, dout);
        }
        let dims = Dims::of(q.layout().shape(), k.layout().shape());
        let visible = Visible::new(starts.as_ref(), dims);
        backward::backward([&q, &k, &v], &visible, &attended, dout, dims)
    }
}

/// Runs the tasks `0..n`, in parallel if that pays.
fn for_each_task(n: usize, dims: Dims, task: impl Fn(usize) + Sync + Send) {
    let work = dims.b * dims.n_heads * dims.s * dims.t * dims.head_dim;
    if work < SERIAL_WORK {
        (0..n).for_each(task);
    } else {
        (0..n).into_par_iter().for_each(task);
    }
}
