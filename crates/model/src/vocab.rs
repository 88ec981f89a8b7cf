//! Where other ranks enter the two ends of the model, whose weights have a row or a column per token.

use std::fmt::Debug;
use std::sync::Arc;

use burn::tensor::{Int, Tensor, module};
use caravan_kernels::Kernels;

use crate::{Local, Region};

/// What the embedding and the loss do with weights that may hold a part of the vocabulary only.
///
/// The activations that go in and out are the [`Region`]'s business: the embedding leaves a row-sharded weight through
/// [`Region::exit`], the head enters a column-sharded one through [`Region::enter`].
///
/// # Reference
/// Shoeybi et al., "Megatron-LM", 2019, section 3 (input and output embedding).
pub trait Vocab: Debug + Send + Sync {
    /// The rows of `tokens` that are in this part of the embedding, zeros for the others: summed over the ranks, all of
    /// them.
    ///
    /// # Shapes
    /// - weight: `[tokens here, d_model]`
    /// - tokens: `[b, s]`
    /// - returns `[b, s, d_model]`
    fn lookup(&self, weight: Tensor<2>, tokens: Tensor<2, Int>) -> Tensor<3>;

    /// [`Kernels::cross_entropy`] over the logits of all parts, the same on every rank.
    ///
    /// # Shapes
    /// - logits: `[n, tokens here]`
    /// - targets: `[n]`, in the whole vocabulary, or -1 for a row that does not count
    /// - returns `[1]`
    fn cross_entropy(
        &self,
        kernels: Kernels,
        logits: Tensor<2>,
        targets: Tensor<1, Int>,
    ) -> Tensor<1>;

    /// [`Kernels::token_losses`] over the logits of all parts, the same on every rank; a constant.
    ///
    /// # Shapes
    /// - logits, targets: as for [`cross_entropy`](Self::cross_entropy)
    /// - returns `[n]`
    fn token_losses(
        &self,
        kernels: Kernels,
        logits: Tensor<2>,
        targets: Tensor<1, Int>,
    ) -> Tensor<1>;

    /// The logits of the whole vocabulary on every rank, for reading: where parts are put together, a constant.
    ///
    /// # Shapes
    /// - logits: `[b, s, tokens here]`
    /// - returns `[b, s, vocab_size]`
    fn gather(&self, logits: Tensor<3>) -> Tensor<3>;
}

/// The whole vocabulary is here.
#[derive(Clone, Copy, Debug, Default)]
pub struct Whole;

impl Vocab for Whole {
    fn lookup(&self, weight: Tensor<2>, tokens: Tensor<2, Int>) -> Tensor<3> {
        module::embedding(weight, tokens)
    }

    fn cross_entropy(
        &self,
        kernels: Kernels,
        logits: Tensor<2>,
        targets: Tensor<1, Int>,
    ) -> Tensor<1> {
        kernels.cross_entropy(logits, targets)
    }

    fn token_losses(
        &self,
        kernels: Kernels,
        logits: Tensor<2>,
        targets: Tensor<1, Int>,
    ) -> Tensor<1> {
        kernels.token_losses(logits, targets)
    }

    fn gather(&self, logits: Tensor<3>) -> Tensor<3> {
        logits
    }
}

/// How one end of the model meets other ranks. Not part of a checkpoint.
#[derive(Clone, Debug)]
pub(crate) struct Ends {
    pub(crate) region: Arc<dyn Region>,
    pub(crate) vocab: Arc<dyn Vocab>,
}

impl Default for Ends {
    fn default() -> Self {
        Self { region: Arc::new(Local), vocab: Arc::new(Whole) }
    }
}
