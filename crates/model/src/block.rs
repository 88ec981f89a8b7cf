//! The repeated segment: attention and feed-forward, each behind a norm and added to the residual stream.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use caravan_kernels::Kernels;

use crate::cache::LayerCache;
use crate::embed::part;
use crate::layers::{Linear, Norm};
use crate::{Attend, Branches, Local, Region, RopeTables, WholeSequences};

/// One transformer block.
///
/// # Reference
/// Touvron et al., "LLaMA", 2023, section 2.2: pre-norm, rotary embedding, SwiGLU; grouped-query attention from LLaMA 2.
#[derive(Module, Debug)]
pub struct Block {
    /// Before attention.
    pub attention_norm: Norm,
    /// `[d_model, n_heads * head_dim]`
    pub wq: Linear,
    /// `[d_model, n_kv_heads * head_dim]`
    pub wk: Linear,
    /// `[d_model, n_kv_heads * head_dim]`
    pub wv: Linear,
    /// `[n_heads * head_dim, d_model]`
    pub wo: Linear,
    /// Before the feed-forward.
    pub ffn_norm: Norm,
    /// `[d_model, d_ff]`
    pub w_gate: Linear,
    /// `[d_model, d_ff]`
    pub w_up: Linear,
    /// `[d_ff, d_model]`
    pub w_down: Linear,
    /// `[1]`, its part in a mix of layers.
    pub mix: Option<Param<Tensor<1>>>,
    rope: RopeTables,
    #[module(skip)]
    pub(crate) context: Context,
}

/// What a block needs beside its weights. Not part of a checkpoint.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) head_dim: usize,
    pub(crate) kernels: Kernels,
    pub(crate) region: Arc<dyn Region>,
    pub(crate) attend: Arc<dyn Attend>,
}

/// The weights of a block, in visit order.
#[derive(Debug)]
pub(crate) struct BlockWeights {
    pub(crate) attention_norm: Norm,
    pub(crate) attention: [Linear; 4],
    pub(crate) ffn_norm: Norm,
    pub(crate) ffn: [Linear; 3],
}

impl Block {
    pub(crate) fn new(
        weights: BlockWeights,
        rope: RopeTables,
        head_dim: usize,
        kernels: Kernels,
    ) -> Self {
        let BlockWeights { attention_norm, attention, ffn_norm, ffn } = weights;
        let ([wq, wk, wv, wo], [w_gate, w_up, w_down]) = (attention, ffn);
        let (region, attend) = (Arc::new(Local), Arc::new(WholeSequences));
        let context = Context { head_dim, kernels, region, attend };
        let mix = None;
        Self { attention_norm, wq, wk, wv, wo, ffn_norm, w_gate, w_up, w_down, mix, rope, context }
    }

    /// The block over whole sequences that start at position 0, or over the positions of them that are here ([`Attend`]).
    ///
    /// # Shapes
    /// - x and the result: `[b, s, d_model]`; with a mix of layers `[b, s, 2 d_model]`, the mix behind the states
    /// - document_starts: `[b, s]`, the first position that each one attends to; without it, 0
    ///
    /// # Panics
    /// If `s` exceeds the model's `max_seq_len`.
    pub fn forward(&self, x: Tensor<3>, document_starts: Option<Tensor<2, Int>>) -> Tensor<3> {
        let Some(mix) = &self.mix else { return self.states(x, document_starts) };
        let d = x.dims()[2] / 2;
        let (states, mixed) = (x.clone().narrow(2, 0, d), x.narrow(2, d, d));
        let states = self.states(states, document_starts);
        Tensor::cat(vec![states.clone(), mixed + part(states, mix)], 2)
    }

    fn states(&self, x: Tensor<3>, document_starts: Option<Tensor<2, Int>>) -> Tensor<3> {
        let n = self.context.region.enter(self.normed_for_attention(&x));
        let Context { kernels, ref attend, .. } = self.context;
        let rope_rows = attend.rope_rows(&self.rope, n.dims()[1]);
        let (q, k, v) = self.query_key_value(n, rope_rows);
        let mixed = attend.attend(kernels, q, k, v, document_starts);
        self.feed_forward(self.add_attention(x, merged(mixed)))
    }

    /// The block over the parts of texts that lie in one row.
    ///
    /// # Shapes
    /// - x and the result: `[1, n_tokens, d_model]`
    ///
    /// # Panics
    /// If sequences are cut over ranks.
    pub fn branches(&self, x: Tensor<3>, branches: &Branches) -> Tensor<3> {
        assert!(self.context.attend.is_whole(), "texts in parts are read whole");
        let n = self.context.region.enter(self.normed_for_attention(&x));
        let (q, k, v) = self.query_key_value(n, self.rope.rows_of(&branches.positions()));
        let mixed = branches.attend(self.context.kernels, &q, &k, &v);
        self.feed_forward(self.add_attention(x, mixed))
    }

    /// The block over the next positions of sequences whose earlier keys and values lie in `cache`, to which those of
    /// `x` are added.
    ///
    /// # Shapes
    /// - x and the result: `[b, s, d_model]`
    ///
    /// # Panics
    /// If sequences are cut over ranks.
    pub fn extend(&self, x: Tensor<3>, cache: &mut LayerCache, start: usize) -> Tensor<3> {
        assert!(
            self.context.attend.is_whole(),
            "a cache holds whole sequences, but this model's are cut over ranks\nhelp: every rank of the context axis has all weights: decode with `with_attend(WholeSequences)`"
        );
        let n = self.context.region.enter(self.normed_for_attention(&x));
        let rope_rows = self.rope.rows(start, n.dims()[1]);
        let (q, k, v) = self.query_key_value(n, rope_rows);
        let (k, v) = cache.append(k, v, start);
        let mixed = self.context.kernels.attention(q, k, v, None);
        self.feed_forward(self.add_attention(x, merged(mixed)))
    }

    /// The block over one more position of each of several sequences, given as the positions of one: number `i` stands at
    /// `starts[i]` and sees what lies in `caches[i]`.
    ///
    /// # Shapes
    /// - x and the result: `[1, n, d_model]`
    ///
    /// # Panics
    /// As [`extend`](Self::extend).
    pub(crate) fn extend_each<'a>(
        &self,
        x: Tensor<3>,
        caches: impl Iterator<Item = &'a mut LayerCache>,
        starts: &[usize],
    ) -> Tensor<3> {
        assert!(self.context.attend.is_whole(), "a cache holds whole sequences");
        let n = self.context.region.enter(self.normed_for_attention(&x));
        let positions: Vec<_> = starts.iter().map(|start| *start..*start + 1).collect();
        let (q, k, v) = self.query_key_value(n, self.rope.rows_of(&positions));
        let mixed = caches.zip(starts).enumerate().map(|(i, (cache, start))| {
            let of_one = |x: &Tensor<4>| x.clone().narrow(2, i, 1); // [1, heads, 1, head_dim]
            let (k, v) = cache.append(of_one(&k), of_one(&v), *start);
            self.context.kernels.attention(of_one(&q), k, v, None)
        });
        let mixed = Tensor::cat(mixed.collect(), 2);
        self.feed_forward(self.add_attention(x, merged(mixed)))
    }

    /// The same block that enters and leaves split weights through `region` and holds the positions that `attend` says.
    #[must_use]
    pub fn with_ranks(mut self, region: &Arc<dyn Region>, attend: &Arc<dyn Attend>) -> Self {
        self.context.region = Arc::clone(region);
        self.context.attend = Arc::clone(attend);
        self
    }

    /// Key and value heads that are here.
    pub(crate) fn n_local_kv_heads(&self) -> usize {
        self.wk.d_out() / self.context.head_dim
    }

    fn normed_for_attention(&self, x: &Tensor<3>) -> Tensor<3> {
        self.attention_norm.forward(self.context.kernels, x.clone())
    }

    /// The heads, queries and keys turned by their positions' angles; views, not copies, of what the matrix products wrote.
    fn query_key_value(
        &self,
        n: Tensor<3>,
        (cos, sin): (Tensor<2>, Tensor<2>),
    ) -> (Tensor<4>, Tensor<4>, Tensor<4>) {
        let Context { head_dim, kernels, .. } = self.context;
        let [b, s, _] = n.dims();
        let heads = |x: Tensor<3>| {
            let n_heads = x.dims()[2] / head_dim;
            x.reshape([b, s, n_heads, head_dim]).swap_dims(1, 2) // [b, heads, s, head_dim]
        };
        let q = heads(self.wq.forward(kernels, n.clone()));
        let k = heads(self.wk.forward(kernels, n.clone()));
        let v = heads(self.wv.forward(kernels, n));
        (kernels.rope(q, cos.clone(), sin.clone()), kernels.rope(k, cos, sin), v)
    }

    /// `x + exit(merged * wo)`.
    fn add_attention(&self, x: Tensor<3>, merged: Tensor<3>) -> Tensor<3> {
        let Context { kernels, ref region, .. } = self.context;
        x + self.wo.add_bias(region.exit(self.wo.product(kernels, merged)))
    }

    /// `x + exit((silu(n * w_gate) * (n * w_up)) * w_down)`.
    fn feed_forward(&self, x: Tensor<3>) -> Tensor<3> {
        let Context { kernels, ref region, .. } = self.context;
        let n = region.enter(self.ffn_norm.forward(kernels, x.clone()));
        let gate = self.w_gate.forward(kernels, n.clone());
        let up = self.w_up.forward(kernels, n);
        let down = region.exit(self.w_down.product(kernels, kernels.swiglu(gate, up)));
        x + self.w_down.add_bias(down)
    }
}

/// Heads side by side: `[b, n_heads, s, head_dim]` to `[b, s, n_heads * head_dim]`. The attention kernel writes memory in
/// this order, so merging copies nothing.
pub(crate) fn merged(mixed: Tensor<4>) -> Tensor<3> {
    let [b, n_heads, s, head_dim] = mixed.dims();
    mixed.swap_dims(1, 2).reshape([b, s, n_heads * head_dim])
}
