//! Attention of Burn's own operations: what the fused kernel must equal.

use burn::tensor::{Bool, Int, Tensor, activation::softmax};

/// See [`Kernels::attention`](crate::Kernels::attention).
pub(crate) fn attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    document_starts: Option<Tensor<2, Int>>,
) -> Tensor<4> {
    let [b, n_heads, s, head_dim] = q.dims();
    let [_, n_kv_heads, t, _] = k.dims();
    let group = n_heads / n_kv_heads;
    let device = q.device();

    // The queries of a group lie one below the other, so keys and values are never expanded.
    let q = q.mul_scalar(1.0 / (head_dim as f64).sqrt());
    let q = q.reshape([b, n_kv_heads, group * s, head_dim]);
    let scores = q.matmul(k.swap_dims(2, 3)).reshape([b, n_kv_heads, group, s, t]);

    // `true` hides: every key after the query's own position, and every key of an earlier document.
    let future = Tensor::<2, Bool>::tril_mask([s, t], (t - s) as i64, &device).unsqueeze::<3>();
    let hidden = match document_starts {
        None => future,
        Some(starts) => {
            let keys = Tensor::<1, Int>::arange(0..t as i64, &device).unsqueeze::<3>(); // [1, 1, t]
            keys.lower(starts.unsqueeze_dim::<3>(2)).bool_or(future) // [b, s, t]
        }
    };
    let [mask_b, _, _] = hidden.dims();
    let hidden = hidden.reshape([mask_b, 1, 1, s, t]);
    let p = softmax(scores.mask_fill(hidden, f32::NEG_INFINITY), 4);
    let p = p.reshape([b, n_kv_heads, group * s, t]);
    p.matmul(v).reshape([b, n_heads, s, head_dim])
}
