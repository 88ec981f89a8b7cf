//! Attention in f32 on the CPU: blocks of query rows against the keys they see.
//!
//! Forward, a task is a block of 64 queries of one head: scores, softmax and product with the
//! values, in scratch memory of its thread. Backward, a task is one key head with all its
//! query heads, so that `dk` and `dv` are summed in one order; scores are recomputed from the
//! log-sum-exp. Keys that no query of a block sees are never touched.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::{Attended, AttentionKernels, Dims, composed_backward, composed_forward};
use crate::flex_data::{all_f32, floats, tensor};

mod backward;
mod forward;
mod lanes;
mod matrix;
mod merge;
mod products;
mod rows;
mod visible;

pub(super) use merge::merge;
use visible::{LANES, Visible};

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
        let visible = Visible::new(starts.as_ref(), true, dims);
        if all_f32(&[&q, &k, &v]) {
            forward::forward([&q, &k, &v], &visible, dims)
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
        let visible = Visible::new(starts.as_ref(), true, dims);
        backward::backward([&q, &k, &v], &visible, &attended, &dout, dims)
    }
}

/// [`AttentionKernels::attention_forward`] over a part of the keys, in f32.
pub(super) fn part_forward(
    [q, k, v]: [&FlexTensor; 3],
    first: Option<&FlexTensor>,
    causal: bool,
) -> Attended<Flex> {
    let dims = Dims::of(q.layout().shape(), k.layout().shape());
    forward::forward([q, k, v], &Visible::new(first, causal, dims), dims)
}

/// [`AttentionKernels::attention_backward`] over a part of the keys, in f32; `whole` is the result over all keys.
pub(super) fn part_backward(
    [q, k, v]: [&FlexTensor; 3],
    first: Option<&FlexTensor>,
    causal: bool,
    whole: Attended<Flex>,
    dout: &FlexTensor,
) -> [FlexTensor; 3] {
    let dims = Dims::of(q.layout().shape(), k.layout().shape());
    let visible = Visible::new(first, causal, dims);
    let whole = Attended { lse: whole.lse.to_contiguous(), ..whole };
    backward::backward([q, k, v], &visible, &whole, dout, dims)
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

/// The tensor with a dense last dim, copied only if it has none.
fn dense_rows(t: &FlexTensor) -> FlexTensor {
    if t.layout().strides()[3] == 1 { t.clone() } else { t.to_contiguous() }
}

/// As [`dense_rows`], with rows of whole vectors, filled up with zeros.
fn padded_rows(t: &FlexTensor) -> FlexTensor {
    let [b, heads, n, head_dim] = t.layout().shape().dims();
    let width = head_dim.next_multiple_of(LANES);
    if width == head_dim {
        return dense_rows(t);
    }
    let t = t.to_contiguous();
    let mut rows = vec![0.0; b * heads * n * width];
    for (to, from) in rows.chunks_exact_mut(width).zip(floats(&t).chunks_exact(head_dim)) {
        to[..head_dim].copy_from_slice(from);
    }
    tensor(rows, [b, heads, n, width])
}
