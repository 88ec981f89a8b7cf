//! The last segment: final norm, output projection, loss.

use burn::module::Module;
use burn::tensor::{Int, Tensor};
use caravan_kernels::Kernels;

use crate::layers::{Linear, Norm};

/// At most this many logits exist at once in [`Head::token_losses`] (64 MiB in f32).
const CHUNK_LOGITS: usize = 1 << 24;

/// Final norm and output projection.
///
/// The head of a model with tied embeddings owns no projection: the caller passes the embedding's weight, so that the
/// executor can keep the gradients of its two uses apart.
#[derive(Module, Debug)]
pub struct Head {
    /// Before the projection.
    pub norm: Norm,
    /// `[d_model, vocab_size]`; absent when tied.
    pub output: Option<Linear>,
    #[module(skip)]
    pub(crate) kernels: Kernels,
}

impl Head {
    pub(crate) fn new(norm: Norm, output: Option<Linear>, kernels: Kernels) -> Self {
        Self { norm, output, kernels }
    }

    /// Whether [`forward`](Self::forward) and the losses need the embedding's weight.
    pub fn is_tied(&self) -> bool {
        self.output.is_none()
    }

    /// Logits of the next token at every position.
    ///
    /// # Shapes
    /// - x: `[b, s, d_model]`
    /// - tied: the embedding, `[vocab_size, d_model]`, exactly if the head is tied
    /// - returns `[b, s, vocab_size]`
    ///
    /// # Panics
    /// If `tied` is given to an untied head or not given to a tied one; so do the losses.
    pub fn forward(&self, x: Tensor<3>, tied: Option<Tensor<2>>) -> Tensor<3> {
        let weight = self.projection(tied);
        self.kernels.linear(self.norm.forward(self.kernels, x), weight)
    }

    /// The sum over kept targets of the negative log-probability in nats, shape `[1]`.
    ///
    /// # Shapes
    /// - x: `[b, s, d_model]`
    /// - targets: `[b, s]`, -1 where ignored
    /// - tied: as for [`forward`](Self::forward)
    pub fn loss(
        &self,
        x: Tensor<3>,
        targets: Tensor<2, Int>,
        tied: Option<Tensor<2>>,
    ) -> Tensor<1> {
        let logits = self.forward(x, tied);
        let [b, s, vocab_size] = logits.dims();
        self.kernels.cross_entropy(logits.reshape([b * s, vocab_size]), targets.reshape([b * s]))
    }

    /// Each target's negative log-probability in nats, 0 where ignored, without ever holding all logits.
    ///
    /// For measuring: no gradient is meant to flow.
    ///
    /// # Shapes
    /// - x: `[b, s, d_model]`
    /// - targets: `[b, s]`, -1 where ignored
    /// - returns `[b, s]`
    pub fn token_losses(
        &self,
        x: Tensor<3>,
        targets: Tensor<2, Int>,
        tied: Option<Tensor<2>>,
    ) -> Tensor<2> {
        let weight = self.projection(tied);
        let [b, s, d_model] = x.dims();
        let vocab_size = weight.dims()[1];
        let n = b * s;
        let x = self.norm.forward(self.kernels, x).reshape([n, d_model]);
        let targets = targets.reshape([n]);
        // A function of the vocabulary alone, so that it never depends on the machine.
        let chunk = (CHUNK_LOGITS / vocab_size).max(1);
        let losses = (0..n).step_by(chunk).map(|start| {
            let rows = chunk.min(n - start);
            let logits = self.kernels.linear(x.clone().narrow(0, start, rows), weight.clone());
            self.kernels.token_losses(logits, targets.clone().narrow(0, start, rows))
        });
        Tensor::cat(losses.collect(), 0).reshape([b, s])
    }

    /// `[d_model, vocab_size]`.
    fn projection(&self, tied: Option<Tensor<2>>) -> Tensor<2> {
        match (&self.output, tied) {
            (Some(output), None) => output.weight.val(),
            (None, Some(embedding)) => embedding.swap_dims(0, 1),
            (None, None) => panic!("the head is tied: pass the embedding's weight"),
            (Some(_), Some(_)) => panic!("the head has a projection of its own: pass no weight"),
        }
    }
}
