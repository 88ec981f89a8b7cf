//! Attention to a part of the keys, and how parts become the whole: what ring attention is made of.
//!
//! A softmax over all keys is a weighted mean of softmaxes over parts of them, the weights being the parts' sums of
//! exponentials. So each part yields its own result and the logarithm of that sum, and [`AttentionPart::merge`] weighs
//! them. Backward needs no merging: with the log-sum-exp of the whole, every part's gradients are final and only summed.
//!
//! Plain tensors in and out; whoever merges over ranks has a backward of their own.

use burn::tensor::{Bool, DType, FloatDType, Int, Tensor};

use crate::Kernels;

/// Which of the keys at hand the queries see.
#[derive(Clone, Debug)]
pub struct SeenKeys {
    /// Of `s` queries and `t` keys, query `i` sees none after key `t - s + i`; otherwise every query sees them to the end.
    pub causal: bool,
    /// `[b, s]`, the first key that each query sees, up to `t` where it sees none; absent, that is key 0.
    pub first: Option<Tensor<2, Int>>,
}

/// Attention to some of the keys, with what it takes to merge it with the rest.
#[derive(Clone, Debug)]
pub struct AttentionPart {
    /// `[b, n_heads, s, head_dim]`, 0 for a query that sees no key.
    pub out: Tensor<4>,
    /// The log-sum-exp of each query's scores, `[b, n_heads, s]`, negative infinity for a query that sees no key.
    pub lse: Tensor<3>,
}

impl AttentionPart {
    /// Merges other keys' `part` of the queries from `first` on into this one.
    ///
    /// # Panics
    /// If this part has no such queries.
    ///
    /// # Reference
    /// Dao et al., "FlashAttention", 2022, section 3.1, on two blocks.
    #[must_use]
    pub fn merge(self, first: usize, part: Self) -> Self {
        let ([_, _, s, _], [_, _, n, _]) = (self.out.dims(), part.out.dims());
        assert!(first + n <= s, "attention: queries {first}..{} of {s}", first + n);
        #[cfg(feature = "flex")]
        if is_flex_f32(&self.out) && is_flex_f32(&part.out) {
            return flex::merge(self, first, part);
        }
        composed_merge(self, first, part)
    }
}

/// See [`Kernels::attention_part`].
pub(crate) fn forward(
    kernels: Kernels,
    [q, k, v]: [Tensor<4>; 3],
    seen: &SeenKeys,
) -> AttentionPart {
    let [q, k, v] = [q, k, v].map(widened);
    #[cfg(feature = "flex")]
    if kernels == Kernels::Fused && is_flex_f32(&q) {
        return flex::forward([q, k, v], seen);
    }
    let _ = kernels; // without Flex there is no other way
    composed_forward([q, k, v], seen)
}

/// See [`Kernels::attention_part_backward`].
pub(crate) fn backward(
    kernels: Kernels,
    [q, k, v]: [Tensor<4>; 3],
    seen: &SeenKeys,
    whole: AttentionPart,
    dout: Tensor<4>,
) -> [Tensor<4>; 3] {
    let [q, k, v, dout] = [q, k, v, dout].map(widened);
    #[cfg(feature = "flex")]
    if kernels == Kernels::Fused && is_flex_f32(&q) {
        return flex::backward([q, k, v], seen, whole, dout);
    }
    let _ = kernels; // as above
    composed_backward([q, k, v], seen, whole, dout)
}

/// Sums over parts are kept in f32 where the inputs are narrower.
fn widened(x: Tensor<4>) -> Tensor<4> {
    match x.dtype() {
        DType::F16 | DType::BF16 => x.cast(FloatDType::F32),
        _ => x,
    }
}

/// `[b, n_heads, s, head_dim]` queries over `[b, n_kv_heads, t, head_dim]` keys.
struct Sizes {
    b: usize,
    n_heads: usize,
    n_kv_heads: usize,
    s: usize,
    t: usize,
    head_dim: usize,
}

impl Sizes {
    fn of(q: &Tensor<4>, k: &Tensor<4>) -> Self {
        let ([b, n_heads, s, head_dim], [_, n_kv_heads, t, _]) = (q.dims(), k.dims());
        Self { b, n_heads, n_kv_heads, s, t, head_dim }
    }

    fn scale(&self) -> f64 {
        1.0 / (self.head_dim as f64).sqrt()
    }

    /// Queries of a group one below the other, so that keys and values are never expanded.
    fn rows(&self) -> usize {
        self.n_heads / self.n_kv_heads * self.s
    }

    /// `[b, n_heads, s, head_dim]` as `[b, n_kv_heads, group * s, head_dim]`.
    fn stack(&self, x: Tensor<4>) -> Tensor<4> {
        x.reshape([self.b, self.n_kv_heads, self.rows(), self.head_dim])
    }

    /// The scaled scores `[b, n_kv_heads, group * s, t]`, negative infinity where a key is hidden.
    fn scores(&self, q: Tensor<4>, k: Tensor<4>, seen: &SeenKeys) -> Tensor<4> {
        let scores = self.stack(q).mul_scalar(self.scale()).matmul(k.swap_dims(2, 3));
        let Some(hidden) = self.hidden(&scores, seen) else {
            return scores;
        };
        let Self { b, n_kv_heads, s, t, .. } = *self;
        let [mask_b, _, _] = hidden.dims();
        let scores = scores.reshape([b, n_kv_heads, self.rows() / s, s, t]);
        let scores = scores.mask_fill(hidden.reshape([mask_b, 1, 1, s, t]), f32::NEG_INFINITY);
        scores.reshape([b, n_kv_heads, self.rows(), t])
    }

    /// `[b or 1, s, t]`; none if all is seen.
    fn hidden(&self, scores: &Tensor<4>, seen: &SeenKeys) -> Option<Tensor<3, Bool>> {
        let Self { s, t, .. } = *self;
        let device = scores.device();
        let future = seen.causal.then(|| {
            Tensor::<2, Bool>::tril_mask([s, t], (t - s) as i64, &device).unsqueeze::<3>()
        });
        let before = seen.first.as_ref().map(|first| {
            let keys = Tensor::<1, Int>::arange(0..t as i64, &device).unsqueeze::<3>(); // [1, 1, t]
            keys.lower(first.clone().unsqueeze_dim::<3>(2))
        });
        match (future, before) {
            (Some(future), Some(before)) => Some(before.bool_or(future)),
            (future, before) => future.or(before),
        }
    }
}

/// Where a row has seen no key, its largest score is this instead of an infinity, which would turn into NaN.
const LOWEST: f32 = f32::MIN;

fn composed_forward([q, k, v]: [Tensor<4>; 3], seen: &SeenKeys) -> AttentionPart {
    let sizes = Sizes::of(&q, &k);
    let Sizes { b, n_heads, s, head_dim, .. } = sizes;
    let scores = sizes.scores(q, k, seen);
    let max = scores.clone().max_dim(3).clamp_min(LOWEST);
    let exp = (scores - max.clone()).exp();
    let sum = exp.clone().sum_dim(3);
    // The largest exponential is 1, so only an empty row's sum is below.
    let p = exp / sum.clone().clamp_min(1.0);
    AttentionPart {
        out: p.matmul(v).reshape([b, n_heads, s, head_dim]),
        lse: (sum.log() + max).reshape([b, n_heads, s]),
    }
}

/// With `P = e^(scores - lse)` and `D = sum(dout out)` of every row: `dv = P^T dout`, `dS = scale P (dout v^T - D)`,
/// `dq = dS k`, `dk = dS^T q`.
fn composed_backward(
    [q, k, v]: [Tensor<4>; 3],
    seen: &SeenKeys,
    whole: AttentionPart,
    dout: Tensor<4>,
) -> [Tensor<4>; 3] {
    let sizes = Sizes::of(&q, &k);
    let Sizes { b, n_heads, n_kv_heads, s, head_dim, .. } = sizes;
    let scores = sizes.scores(q.clone(), k.clone(), seen);
    let lse = whole.lse.reshape([b, n_kv_heads, sizes.rows(), 1]);
    let p = (scores - lse).exp();
    let (dout, out) = (sizes.stack(dout), sizes.stack(whole.out));
    let d = (dout.clone() * out).sum_dim(3);
    let dv = p.clone().swap_dims(2, 3).matmul(dout.clone());
    let dp = dout.matmul(v.swap_dims(2, 3));
    let ds = (p * (dp - d)).mul_scalar(sizes.scale());
    let dk = ds.clone().swap_dims(2, 3).matmul(sizes.stack(q));
    let dq = ds.matmul(k).reshape([b, n_heads, s, head_dim]);
    [dq, dk, dv]
}

fn composed_merge(whole: AttentionPart, first: usize, part: AttentionPart) -> AttentionPart {
    let [b, n_heads, n, head_dim] = part.out.dims();
    let column = |x: Tensor<3>| x.unsqueeze_dim::<4>(3);
    let a = column(whole.lse.clone().narrow(2, first, n));
    let c = column(part.lse);
    let max = a.clone().max_pair(c.clone()).clamp_min(LOWEST);
    let (a, c) = ((a - max.clone()).exp(), (c - max.clone()).exp());
    let sum = a.clone() + c.clone();
    let weight = sum.clone().clamp_min(1.0).recip(); // as in the forward
    let out = whole.out.clone().narrow(2, first, n) * (a * weight.clone());
    let out = out + part.out * (c * weight);
    let lse = (sum.log() + max).reshape([b, n_heads, n]);
    let rows = first..first + n;
    AttentionPart {
        out: whole.out.slice_assign([0..b, 0..n_heads, rows.clone(), 0..head_dim], out),
        lse: whole.lse.slice_assign([0..b, 0..n_heads, rows], lse),
    }
}

#[cfg(feature = "flex")]
fn is_flex_f32(x: &Tensor<4>) -> bool {
    let device = x.device();
    let is_flex = matches!(device.as_dispatch(), burn::backend::DispatchDevice::Flex(_));
    is_flex && x.dtype() == DType::F32
}

/// The way to the CPU kernels and back.
#[cfg(feature = "flex")]
mod flex {
    use burn::backend::Flex;
    use burn::backend::flex::FlexTensor;
    use burn::tensor::{Float, Tensor};

    use super::super::{Attended, flex};
    use super::{AttentionPart, SeenKeys};

    pub(super) fn forward(qkv: [Tensor<4>; 3], seen: &SeenKeys) -> AttentionPart {
        part(flex::part_forward(qkv.map(primitive).each_ref(), first(seen).as_ref(), seen.causal))
    }

    pub(super) fn backward(
        qkv: [Tensor<4>; 3],
        seen: &SeenKeys,
        whole: AttentionPart,
        dout: Tensor<4>,
    ) -> [Tensor<4>; 3] {
        let (qkv, dout, first) = (qkv.map(primitive), primitive(dout), first(seen));
        let whole = attended(whole);
        flex::part_backward(qkv.each_ref(), first.as_ref(), seen.causal, whole, &dout).map(tensor)
    }

    pub(super) fn merge(whole: AttentionPart, first: usize, part: AttentionPart) -> AttentionPart {
        self::part(flex::merge(attended(whole), first, &attended(part)))
    }

    fn first(seen: &SeenKeys) -> Option<FlexTensor> {
        let ints = |t: &Tensor<2, burn::tensor::Int>| t.clone().try_into_primitive::<Flex>();
        seen.first.as_ref().map(|t| ints(t).expect("plain, and on the queries' device"))
    }

    fn part(Attended { out, lse }: Attended<Flex>) -> AttentionPart {
        AttentionPart { out: tensor(out), lse: tensor(lse) }
    }

    fn attended(AttentionPart { out, lse }: AttentionPart) -> Attended<Flex> {
        Attended { out: primitive(out), lse: primitive(lse) }
    }

    fn primitive<const D: usize>(x: Tensor<D>) -> FlexTensor {
        x.try_into_primitive::<Flex>().expect("plain, and on the queries' device")
    }

    fn tensor<const D: usize>(x: FlexTensor) -> Tensor<D> {
        Tensor::<D, Float>::from_primitive::<Flex>(x)
    }
}
