//! The run-time choice between composed and fused operators, with the checks of their shapes.

use burn::tensor::{Device, Int, Tensor};

use crate::{
    AttentionPart, SeenKeys, attention, backends, cross_entropy, linear, rms_norm, rope, swiglu,
};

/// Which implementation of the operators runs. A run-time value, never part of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Kernels {
    /// Composed of Burn's own operations, differentiated by Burn.
    Reference,
    /// Hand-written forward and backward: f32 kernels on Flex, composed ones on LibTorch and CUDA.
    /// Devices of any other backend run the reference.
    #[default]
    Fused,
    /// As `Fused`, but both factors of the products of linear layers, forward and backward, are rounded
    /// to bf16; weights, sums and everything between the products stay in f32.
    ///
    /// On an x86-64 CPU with AMX one tile product does it. Elsewhere the factors are rounded first: the
    /// same results up to the order of sums, slower than f32.
    FusedBf16,
}

impl Kernels {
    /// Root mean square normalisation over the last dim: `x / sqrt(mean(x^2) + eps) * weight`.
    ///
    /// # Shapes
    /// - x: `[.., d]`
    /// - weight: `[d]`
    /// - returns `[.., d]`
    ///
    /// # Panics
    /// If the last dim of `x` is not the length of `weight`.
    ///
    /// # Reference
    /// Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, equation 4, with `eps` as
    /// LLaMA has it.
    pub fn rms_norm<const D: usize>(self, x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
        let (dims, [d]) = (x.dims(), weight.dims());
        assert_eq!(dims[D - 1], d, "rms_norm: x is {dims:?}, but the weight has {d} elements");
        if self.is_fused_on(&x.device()) {
            rms_norm::fused(x, weight, eps)
        } else {
            rms_norm::reference::rms_norm(x, weight, eps)
        }
    }

    /// A linear layer without bias: `x weight`.
    ///
    /// Under `Fused` on an x86-64 CPU with AMX, products that are large enough run on its tiles in f32
    /// accuracy (each f32 split into three bf16, six tile products); elsewhere on Burn's own product.
    ///
    /// # Shapes
    /// - x: `[.., d_in]`
    /// - weight: `[d_in, d_out]`
    /// - returns `[.., d_out]`
    ///
    /// # Panics
    /// If the last dim of `x` is not `d_in`.
    pub fn linear<const D: usize>(self, x: Tensor<D>, weight: Tensor<2>) -> Tensor<D> {
        let (dims, [d_in, d_out]) = (x.dims(), weight.dims());
        assert_eq!(dims[D - 1], d_in, "linear: x is {dims:?}, but the weight is [{d_in}, {d_out}]");
        if self.is_fused_on(&x.device()) {
            let precision = match self {
                Self::FusedBf16 => linear::Precision::Bf16,
                _ => linear::Precision::F32,
            };
            linear::fused(x, weight, precision)
        } else {
            linear::reference::linear(x, weight)
        }
    }

    /// Rotary position embedding, half-split: dims `i` and `i + head_dim / 2` form a pair, as in
    /// Hugging Face's LLaMA.
    ///
    /// `cos` and `sin` are constants: no gradient flows to them under `Fused`.
    ///
    /// # Shapes
    /// - x: `[b, heads, s, head_dim]`
    /// - cos, sin: `[s, head_dim / 2]`, of the angle of every position and pair
    /// - returns `[b, heads, s, head_dim]`
    ///
    /// # Panics
    /// If `head_dim` is odd or the tables do not fit `x`.
    ///
    /// # Reference
    /// Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021, equation 34.
    pub fn rope(self, x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<4> {
        let (dims, cos_dims, sin_dims) = (x.dims(), cos.dims(), sin.dims());
        let [_, _, s, head_dim] = dims;
        assert!(head_dim.is_multiple_of(2), "rope: head_dim {head_dim} of {dims:?} is odd");
        assert!(
            cos_dims == [s, head_dim / 2] && sin_dims == cos_dims,
            "rope: x is {dims:?}, so cos and sin must be [{s}, {}], but are {cos_dims:?} and {sin_dims:?}",
            head_dim / 2,
        );
        if self.is_fused_on(&x.device()) {
            rope::fused(x, cos, sin)
        } else {
            rope::reference::rope(x, cos, sin)
        }
    }

    /// The gate of LLaMA's feed-forward: `silu(gate) * up`, with `silu(x) = x / (1 + e^-x)`.
    ///
    /// # Shapes
    /// - gate, up: `[..]`, equal
    /// - returns `[..]`
    ///
    /// # Panics
    /// If the shapes differ.
    ///
    /// # Reference
    /// Shazeer, "GLU Variants Improve Transformer", 2020, equation 6.
    pub fn swiglu<const D: usize>(self, gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
        let (gate_dims, up_dims) = (gate.dims(), up.dims());
        assert_eq!(gate_dims, up_dims, "swiglu: gate is {gate_dims:?}, but up is {up_dims:?}");
        if self.is_fused_on(&gate.device()) {
            swiglu::fused(gate, up)
        } else {
            swiglu::reference::swiglu(gate, up)
        }
    }

    /// Causal grouped-query attention with scale `1 / sqrt(head_dim)`.
    ///
    /// The queries are the last `s` of `t` positions: query `i` stands at position `t - s + i` and
    /// sees the keys up to its own position, from `document_starts` on where that is given. Query
    /// head `h` uses key and value head `h / (n_heads / n_kv_heads)`. `[s, t]` matrices are never
    /// kept under `Fused` on Flex: the backward recomputes them block by block.
    ///
    /// # Shapes
    /// - q: `[b, n_heads, s, head_dim]`
    /// - k, v: `[b, n_kv_heads, t, head_dim]`, `t >= s`
    /// - document_starts: `[b, s]`, the first key that each query sees, in `0 ..= t - s + i`
    /// - returns `[b, n_heads, s, head_dim]`; on Flex in memory order `[b, s, n_heads, head_dim]`, so
    ///   merging the heads copies nothing
    ///
    /// # Panics
    /// If shapes do not fit, `n_heads` is no multiple of `n_kv_heads`, or `t < s`. On Flex also if a
    /// document starts after its query (elsewhere such a row is NaN: looking would stop the device).
    ///
    /// # Reference
    /// Vaswani et al., "Attention Is All You Need", 2017, equation 1; Ainslie et al., "GQA", 2023;
    /// the recomputation from the log-sum-exp as in Dao et al., "FlashAttention", 2022, algorithm 4.
    pub fn attention(
        self,
        q: Tensor<4>,
        k: Tensor<4>,
        v: Tensor<4>,
        document_starts: Option<Tensor<2, Int>>,
    ) -> Tensor<4> {
        check_attention([&q, &k, &v], true, document_starts.as_ref());
        if self.is_fused_on(&q.device()) {
            attention::fused(q, k, v, document_starts)
        } else {
            attention::reference::attention(q, k, v, document_starts)
        }
    }

    /// Attention of the queries to a part of their keys, to be merged with the rest ([`AttentionPart::merge`]).
    ///
    /// For plain tensors; its backward is [`attention_part_backward`](Self::attention_part_backward). Results are f32 where
    /// the inputs are narrower.
    ///
    /// # Shapes
    /// As [`Kernels::attention`], but `t >= s` only where `seen` is causal.
    ///
    /// # Panics
    /// As [`Kernels::attention`], and under autodiff.
    pub fn attention_part(
        self,
        q: Tensor<4>,
        k: Tensor<4>,
        v: Tensor<4>,
        seen: &SeenKeys,
    ) -> AttentionPart {
        check_part([&q, &k, &v], seen);
        attention::part::forward(self, [q, k, v], seen)
    }

    /// The gradients `[dq, dk, dv]` of [`Kernels::attention_part`] for the gradient `dout` of the result over *all* keys.
    ///
    /// `whole` is that result with its log-sum-exp: merged of all parts, so that every query has seen a key. The sum of `dq`
    /// over the parts is the queries' gradient. Results are f32 where the inputs are narrower.
    ///
    /// # Shapes
    /// - q, dout: `[b, n_heads, s, head_dim]`
    /// - k, v: `[b, n_kv_heads, t, head_dim]`
    ///
    /// # Panics
    /// As [`Kernels::attention_part`].
    ///
    /// # Reference
    /// Dao et al., "FlashAttention", 2022, algorithm 4; Liu et al., "Ring Attention", 2023, section 3.
    pub fn attention_part_backward(
        self,
        [q, k, v]: [Tensor<4>; 3],
        seen: &SeenKeys,
        whole: AttentionPart,
        dout: Tensor<4>,
    ) -> [Tensor<4>; 3] {
        check_part([&q, &k, &v], seen);
        let (q_dims, dims) = (q.dims(), [whole.out.dims(), dout.dims()]);
        assert!(dims == [q_dims; 2], "attention: q is {q_dims:?}, but out and dout are {dims:?}");
        attention::part::backward(self, [q, k, v], seen, whole, dout)
    }

    /// The sum over the targets that are not -1 of their negative log-probability (nats).
    ///
    /// A sum and no mean: sums of micro-batches and ranks add up, and are divided once.
    ///
    /// # Shapes
    /// - logits: `[n, vocab]`
    /// - targets: `[n]`, in `0 .. vocab`, or -1 for a row that does not count
    /// - returns `[1]`
    ///
    /// # Panics
    /// If the shapes do not fit. On Flex also if a target is neither -1 nor below `vocab`.
    pub fn cross_entropy(self, logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
        check_targets("cross_entropy", &logits, &targets);
        if self.is_fused_on(&logits.device()) {
            cross_entropy::fused(logits, targets)
        } else {
            cross_entropy::reference::cross_entropy(logits, targets)
        }
    }

    /// The negative log-probability of every target (nats), 0 where the target is -1.
    ///
    /// Under `Fused` the result is a constant: no gradient flows back.
    ///
    /// # Shapes
    /// - logits: `[n, vocab]`
    /// - targets: `[n]`, in `0 .. vocab`, or -1 for a row that does not count
    /// - returns `[n]`
    ///
    /// # Panics
    /// As [`Kernels::cross_entropy`].
    pub fn token_losses(self, logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
        check_targets("token_losses", &logits, &targets);
        if self.is_fused_on(&logits.device()) {
            cross_entropy::fused_token_losses(logits, targets)
        } else {
            cross_entropy::reference::token_losses(logits, targets)
        }
    }

    /// The negative log-probability of every target (nats) and whether it is the first of the largest logits, 1 or 0;
    /// both 0 where the target is -1.
    ///
    /// Under `Fused` the result is a constant: no gradient flows back.
    ///
    /// # Shapes
    /// - logits: `[n, vocab]`
    /// - targets: `[n]`, in `0 .. vocab`, or -1 for a row that does not count
    /// - returns `[n, 2]`
    ///
    /// # Panics
    /// As [`Kernels::cross_entropy`].
    pub fn token_scores(self, logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<2> {
        check_targets("token_scores", &logits, &targets);
        if self.is_fused_on(&logits.device()) {
            cross_entropy::fused_token_scores(logits, targets)
        } else {
            cross_entropy::reference::token_scores(logits, targets)
        }
    }

    fn is_fused_on(self, device: &Device) -> bool {
        self != Self::Reference && backends::covers(device)
    }
}

fn check_part([q, k, v]: [&Tensor<4>; 3], seen: &SeenKeys) {
    assert!(!q.is_autodiff(), "attention: a part is for plain tensors");
    check_attention([q, k, v], seen.causal, seen.first.as_ref());
}

fn check_attention(
    [q, k, v]: [&Tensor<4>; 3],
    causal: bool,
    document_starts: Option<&Tensor<2, Int>>,
) {
    let (q_dims, k_dims, v_dims) = (q.dims(), k.dims(), v.dims());
    let ([b, n_heads, s, head_dim], [_, n_kv_heads, t, _]) = (q_dims, k_dims);
    assert!(
        k_dims == [b, n_kv_heads, t, head_dim] && v_dims == k_dims,
        "attention: q is {q_dims:?}, so k and v must be [{b}, n_kv_heads, t, {head_dim}], but are {k_dims:?} and {v_dims:?}"
    );
    assert!(
        n_heads.is_multiple_of(n_kv_heads),
        "attention: {n_heads} query heads are no multiple of {n_kv_heads} key heads"
    );
    assert!(t >= s || !causal, "attention: {s} queries, but only {t} keys");
    if let Some(starts) = document_starts {
        let dims = starts.dims();
        assert_eq!(dims, [b, s], "attention: document_starts must be [{b}, {s}]");
    }
}

fn check_targets(op: &str, logits: &Tensor<2>, targets: &Tensor<1, Int>) {
    let (dims, [n]) = (logits.dims(), targets.dims());
    assert_eq!(dims[0], n, "{op}: logits are {dims:?}, but there are {n} targets");
}
