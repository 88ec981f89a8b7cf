//! Causal grouped-query attention: the composed kernels and their dispatch.

use burn::backend::tensor::{BoolTensor, FloatTensor, IntTensor};
use burn::backend::{
    Backend, Dispatch, Scalar, TensorMetadata, backend_extension, get_or_init_device_settings,
};
use burn::tensor::{Int, Shape, Tensor};

use crate::backends::composed_backends;

mod autodiff;
#[cfg(feature = "flex")]
mod flex;
pub(crate) mod part;
pub(crate) mod reference;

/// See [`Kernels::attention`](crate::Kernels::attention).
pub(crate) fn fused(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    document_starts: Option<Tensor<2, Int>>,
) -> Tensor<4> {
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    Tensor::from_dispatch(match document_starts {
        None => <Dispatch as AttentionOps>::attention(q, k, v),
        Some(starts) => {
            <Dispatch as AttentionOps>::document_attention(q, k, v, starts.into_dispatch())
        }
    })
}

/// What the backward needs of the forward.
#[derive(Clone, Debug)]
pub(crate) struct Attended<B: Backend> {
    /// The result, `[b, n_heads, s, head_dim]`.
    pub out: FloatTensor<B>,
    /// The log-sum-exp of every row of scores, `[b, n_heads, s]`.
    pub lse: FloatTensor<B>,
}

/// The raw kernels of a backend; the default bodies are composed of its own operations.
pub(crate) trait AttentionKernels: Backend {
    /// The result and the log-sum-exp of its rows.
    fn attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        starts: Option<IntTensor<Self>>,
    ) -> Attended<Self> {
        composed_forward::<Self>(q, k, v, starts)
    }

    /// Returns `[dq, dk, dv]`.
    fn attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        starts: Option<IntTensor<Self>>,
        attended: Attended<Self>,
        dout: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        composed_backward::<Self>(q, k, v, starts, attended, dout)
    }
}

composed_backends!(AttentionKernels);

/// The dispatched operator.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cuda"),
    LibTorch: cfg(feature = "tch"),
    Autodiff
)]
pub(crate) trait AttentionOps: Backend {
    /// See [`Kernels::attention`](crate::Kernels::attention), without document starts.
    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// See [`Kernels::attention`](crate::Kernels::attention), with document starts. (The macro
    /// does not route optional tensors.)
    fn document_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        starts: IntTensor<Self>,
    ) -> FloatTensor<Self>;
}

impl<B: AttentionKernels> AttentionOps for B {
    fn attention(q: FloatTensor<B>, k: FloatTensor<B>, v: FloatTensor<B>) -> FloatTensor<B> {
        B::attention_forward(q, k, v, None).out
    }

    fn document_attention(
        q: FloatTensor<B>,
        k: FloatTensor<B>,
        v: FloatTensor<B>,
        starts: IntTensor<B>,
    ) -> FloatTensor<B> {
        B::attention_forward(q, k, v, Some(starts)).out
    }
}

/// `[b, n_heads, s, head_dim]` queries over `[b, n_kv_heads, t, head_dim]` keys.
#[derive(Clone, Copy, Debug)]
struct Dims {
    b: usize,
    n_heads: usize,
    n_kv_heads: usize,
    s: usize,
    t: usize,
    head_dim: usize,
}

impl Dims {
    fn of(q: &Shape, k: &Shape) -> Self {
        let ([b, n_heads, s, head_dim], [_, n_kv_heads, t, _]) = (q.dims(), k.dims());
        Self { b, n_heads, n_kv_heads, s, t, head_dim }
    }

    /// Query heads per key head.
    fn group(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    fn scale(&self) -> f64 {
        1.0 / (self.head_dim as f64).sqrt()
    }
}

fn composed_forward<B: Backend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    starts: Option<IntTensor<B>>,
) -> Attended<B> {
    let dims = Dims::of(&q.shape(), &k.shape());
    let Dims { b, n_heads, s, head_dim, .. } = dims;
    let scores = masked_scores::<B>(stack::<B>(q, dims), k, starts, dims);
    let max = B::float_max_dim(scores.clone(), 4);
    let exp = B::float_exp(B::float_sub(scores, max.clone()));
    let sum = B::float_sum_dim(exp.clone(), 4);
    let p = unfold::<B>(B::float_div(exp, sum.clone()), dims);
    let lse = B::float_add(B::float_log(sum), max);
    Attended {
        out: B::float_reshape(B::float_matmul(p, v), [b, n_heads, s, head_dim].into()),
        lse: B::float_reshape(lse, [b, n_heads, s].into()),
    }
}

/// With `P = e^(scores - lse)` and `D = sum(dout out)` of every row: `dv = P^T dout`,
/// `dS = scale P (dout v^T - D)`, `dq = dS k`, `dk = dS^T q`.
fn composed_backward<B: Backend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    starts: Option<IntTensor<B>>,
    attended: Attended<B>,
    dout: FloatTensor<B>,
) -> [FloatTensor<B>; 3] {
    let dims = Dims::of(&q.shape(), &k.shape());
    let Dims { b, n_heads, n_kv_heads, s, head_dim, .. } = dims;
    let (q, dout) = (stack::<B>(q, dims), stack::<B>(dout, dims));
    let out = stack::<B>(attended.out, dims);
    let scores = masked_scores::<B>(q.clone(), k.clone(), starts, dims);
    let lse = B::float_reshape(attended.lse, [b, n_kv_heads, dims.group(), s, 1].into());
    let p = unfold::<B>(B::float_exp(B::float_sub(scores, lse)), dims); // [b, kv, group * s, t]
    let d = B::float_sum_dim(B::float_mul(dout.clone(), out), 3); // [b, kv, group * s, 1]
    let dv = B::float_matmul(B::float_swap_dims(p.clone(), 2, 3), dout.clone());
    let dp = B::float_matmul(dout, B::float_swap_dims(v, 2, 3));
    let ds = B::float_mul(p, B::float_sub(dp, d));
    let ds = B::float_mul_scalar(ds, Scalar::from(dims.scale()));
    let dk = B::float_matmul(B::float_swap_dims(ds.clone(), 2, 3), q);
    let dq = B::float_reshape(B::float_matmul(ds, k), [b, n_heads, s, head_dim].into());
    [dq, dk, dv]
}

/// The queries of a group one below the other, so that keys and values are never expanded:
/// `[b, n_kv_heads, group * s, head_dim]`.
fn stack<B: Backend>(x: FloatTensor<B>, dims: Dims) -> FloatTensor<B> {
    let rows = dims.group() * dims.s;
    B::float_reshape(x, [dims.b, dims.n_kv_heads, rows, dims.head_dim].into())
}

/// `[b, n_kv_heads, group, s, t]` as `[b, n_kv_heads, group * s, t]`.
fn unfold<B: Backend>(p: FloatTensor<B>, dims: Dims) -> FloatTensor<B> {
    let rows = dims.group() * dims.s;
    B::float_reshape(p, [dims.b, dims.n_kv_heads, rows, dims.t].into())
}

/// The scaled scores `[b, n_kv_heads, group, s, t]`, negative infinity where a key is hidden.
fn masked_scores<B: Backend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    starts: Option<IntTensor<B>>,
    dims: Dims,
) -> FloatTensor<B> {
    let q = B::float_mul_scalar(q, Scalar::from(dims.scale()));
    let hidden = hidden_keys::<B>(&q, starts, dims);
    let shape = Shape::from([dims.b, dims.n_kv_heads, dims.group(), dims.s, dims.t]);
    let scores = B::float_matmul(q, B::float_swap_dims(k, 2, 3));
    let scores = B::float_reshape(scores, shape.clone());
    let hidden = B::bool_expand(hidden, shape);
    B::float_mask_fill(scores, hidden, Scalar::from(f32::NEG_INFINITY))
}

/// `[b or 1, 1, 1, s, t]`: keys after the query's position or before its document.
fn hidden_keys<B: Backend>(
    q: &FloatTensor<B>,
    starts: Option<IntTensor<B>>,
    dims: Dims,
) -> BoolTensor<B> {
    let Dims { b, s, t, .. } = dims;
    let device = q.device();
    let settings = get_or_init_device_settings::<B>(&device);
    let int = starts.as_ref().map_or(settings.int_dtype, |starts| starts.dtype().into());
    let range = |from: usize, to: usize| B::int_arange(from as i64..to as i64, &device, int);
    let positions = B::int_reshape(range(t - s, t), [1, 1, 1, s, 1].into());
    let keys = B::int_reshape(range(0, t), [1, 1, 1, 1, t].into());
    let rows = |x, b: usize| B::int_expand(x, [b, 1, 1, s, t].into());
    let future = B::int_greater(rows(keys.clone(), 1), rows(positions, 1), settings.bool_dtype);
    match starts {
        None => future,
        Some(starts) => {
            let starts = rows(B::int_reshape(starts, [b, 1, 1, s, 1].into()), b);
            let before = B::int_lower(rows(keys, b), starts, settings.bool_dtype);
            B::bool_or(before, B::bool_expand(future, [b, 1, 1, s, t].into()))
        }
    }
}
