//! What everyone who reads a model needs of it: logits, losses, and decoding with a cache.

use std::fmt::Debug;

use burn::tensor::{Device, Int, Tensor};

use crate::{Branches, KvCache, Llama, LlamaConfig};

/// Which positions' logits [`Forward::extend`] returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positions {
    /// Of every token given.
    All,
    /// Of the last token alone: all that decoding needs.
    Last,
}

/// A model that can be read, whole or sharded over ranks.
///
/// For measuring and generating: pass a plain model (`model.valid()`), or graphs pile up. Tokens and targets live on
/// [`device`](Self::device). Methods panic for ids outside the vocabulary and for more than `max_seq_len` positions, as Burn
/// does for wrong shapes; callers check what users give.
pub trait Forward: Debug {
    /// The model's configuration.
    fn config(&self) -> &LlamaConfig;

    /// Where tokens must lie.
    fn device(&self) -> Device;

    /// Logits of the next token at every position.
    ///
    /// # Shapes
    /// - tokens: `[b, s]`
    /// - document_starts: `[b, s]`, the first position each one attends to; without it, 0
    /// - returns `[b, s, vocab_size]`
    fn logits(&self, tokens: Tensor<2, Int>, document_starts: Option<Tensor<2, Int>>) -> Tensor<3>;

    /// Each target's negative log-probability in nats, 0 where ignored; the logits never exist all at once.
    ///
    /// # Shapes
    /// - tokens, document_starts: as for [`logits`](Self::logits)
    /// - targets: `[b, s]`, -1 where ignored
    /// - returns `[b, s]`
    fn token_losses(
        &self,
        tokens: Tensor<2, Int>,
        targets: Tensor<2, Int>,
        document_starts: Option<Tensor<2, Int>>,
    ) -> Tensor<2>;

    /// How likely some tokens are after some places of a row of [`Branches`]: what texts have in common is read once, and
    /// only the places that are asked for go through the head.
    ///
    /// # Shapes
    /// - tokens: `[1, n_tokens]`
    /// - asked: places in the row, each with the token that may come after it; at least one
    /// - returns `[asked, 2]`: the token's negative log-probability in nats, and 1 where no token is more likely, of equally
    ///   likely ones the first
    ///
    /// # Panics
    /// If a text is longer than `max_seq_len`, or sequences are cut over ranks ([`Attend`](crate::Attend)).
    fn branch_scores(
        &self,
        tokens: Tensor<2, Int>,
        branches: &Branches,
        asked: &[(usize, u32)],
    ) -> Tensor<2>;

    /// An empty cache for `batch` sequences of up to `capacity` positions.
    ///
    /// # Panics
    /// If `capacity` exceeds the model's `max_seq_len`.
    fn new_cache(&self, batch: usize, capacity: usize) -> KvCache;

    /// Logits after more tokens of the sequences in `cache`, which grows by them: a prompt at first, then token by token.
    ///
    /// # Shapes
    /// - tokens: `[b, s]`
    /// - returns `[b, s, vocab_size]`, or `[b, 1, vocab_size]` for [`Positions::Last`]
    ///
    /// # Panics
    /// If the cache has no room for `s` more positions, or is for another number of sequences, or if sequences are cut over
    /// ranks ([`Attend`](crate::Attend)).
    fn extend(&self, tokens: Tensor<2, Int>, cache: &mut KvCache, which: Positions) -> Tensor<3>;

    /// One more token of each of several sequences, which may differ in length: `tokens[i]` goes on with `caches[i]`, a cache
    /// of one sequence. The same as [`extend`](Self::extend) of each alone, up to the rounding of products over more rows.
    ///
    /// # Shapes
    /// - tokens: `[n, 1]`
    /// - returns `[n, 1, vocab_size]`
    ///
    /// # Panics
    /// As [`extend`](Self::extend), and if there are not as many tokens as caches.
    fn extend_each(&self, tokens: Tensor<2, Int>, caches: &mut [&mut KvCache]) -> Tensor<3> {
        assert_eq!(tokens.dims(), [caches.len(), 1], "one token for each cache");
        let one = |(i, cache): (usize, &mut &mut KvCache)| {
            self.extend(tokens.clone().narrow(0, i, 1), cache, Positions::Last)
        };
        Tensor::cat(caches.iter_mut().enumerate().map(one).collect(), 0)
    }
}

impl Forward for Llama {
    fn config(&self) -> &LlamaConfig {
        self.config()
    }

    fn device(&self) -> Device {
        self.device()
    }

    fn logits(&self, tokens: Tensor<2, Int>, document_starts: Option<Tensor<2, Int>>) -> Tensor<3> {
        let x = self.hidden(tokens, document_starts.clone());
        self.head.forward(x, document_starts, self.tied_weight())
    }

    fn token_losses(
        &self,
        tokens: Tensor<2, Int>,
        targets: Tensor<2, Int>,
        document_starts: Option<Tensor<2, Int>>,
    ) -> Tensor<2> {
        self.head.token_losses(self.hidden(tokens, document_starts), targets, self.tied_weight())
    }

    fn branch_scores(
        &self,
        tokens: Tensor<2, Int>,
        branches: &Branches,
        asked: &[(usize, u32)],
    ) -> Tensor<2> {
        let x = self.embed.forward(tokens);
        let x = self.blocks.iter().fold(x, |x, block| block.branches(x, branches));
        self.head.token_scores(x, asked, self.tied_weight())
    }

    fn new_cache(&self, batch: usize, capacity: usize) -> KvCache {
        let LlamaConfig { max_seq_len, head_dim, .. } = *self.config();
        assert!(
            capacity <= max_seq_len,
            "a cache of {capacity} positions exceeds max_seq_len = {max_seq_len}"
        );
        let heads = self.blocks.iter().map(|block| block.n_local_kv_heads());
        KvCache::new(heads, head_dim, batch, capacity, &self.device())
    }

    fn extend(&self, tokens: Tensor<2, Int>, cache: &mut KvCache, which: Positions) -> Tensor<3> {
        let [b, s] = tokens.dims();
        let start = cache.start(b, s);
        assert!(self.head.is_plain(), "a classifier reads whole texts, without a cache");
        let mut x = self.embed.forward(tokens);
        assert_eq!(
            x.dims()[1],
            s,
            "decoding needs whole sequences on every rank: read the model without sequence parallelism"
        );
        for (block, layer) in self.blocks.iter().zip(&mut cache.layers) {
            x = block.extend(x, layer, start);
        }
        cache.advance(s);
        if which == Positions::Last {
            x = x.narrow(1, s - 1, 1);
        }
        self.head.forward(x, None, self.tied_weight())
    }

    /// The tokens go through the weights as the positions of one sequence; only attention tells them apart.
    fn extend_each(&self, tokens: Tensor<2, Int>, caches: &mut [&mut KvCache]) -> Tensor<3> {
        let n = caches.len();
        assert_eq!(tokens.dims(), [n, 1], "one token for each cache");
        let starts: Vec<usize> = caches.iter().map(|cache| cache.start(1, 1)).collect();
        let mut x = self.embed.forward(tokens.reshape([1, n]));
        for (i, block) in self.blocks.iter().enumerate() {
            let layers = caches.iter_mut().map(|cache| &mut cache.layers[i]);
            x = block.extend_each(x, layers, &starts);
        }
        caches.iter_mut().for_each(|cache| cache.advance(1));
        self.head.forward(x, None, self.tied_weight()).swap_dims(0, 1)
    }
}
