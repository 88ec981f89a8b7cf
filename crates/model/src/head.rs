//! The last segment: final norm, output projection, loss.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{DType, Int, Tensor, TensorData};
use caravan_kernels::Kernels;

use crate::Region;
use crate::layers::{Linear, Norm};
use crate::vocab::Ends;

/// At most this many logits, over all ranks, exist at once in [`Head::token_losses`] (64 MiB in f32).
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
    #[module(skip)]
    pub(crate) ends: Ends,
    /// Of all ranks together.
    #[module(skip)]
    vocab_size: usize,
    #[module(skip)]
    reads: Reads,
}

/// What of the stream, and of a document, a classifier reads.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reads {
    /// The mean of a document up to a position, not the position alone.
    pub(crate) mean: bool,
    /// The mix behind the states.
    pub(crate) mix: bool,
}

impl Head {
    /// The same head that meets the other ranks in another `region`; its part of the vocabulary stays.
    #[must_use]
    pub fn with_region(mut self, region: &Arc<dyn Region>) -> Self {
        self.ends.region = Arc::clone(region);
        self
    }

    pub(crate) fn new(
        norm: Norm,
        output: Option<Linear>,
        vocab_size: usize,
        kernels: Kernels,
    ) -> Self {
        let reads = Reads::default();
        Self { norm, output, kernels, ends: Ends::default(), vocab_size, reads }
    }

    /// The same head that reads something else.
    pub(crate) fn reading(mut self, reads: Reads) -> Self {
        self.reads = reads;
        self
    }

    /// Whether a position's logits are a matter of that position's state alone.
    pub(crate) fn is_plain(&self) -> bool {
        !self.reads.mean && !self.reads.mix
    }

    /// Another projection, of `n_outputs` columns over all ranks.
    pub(crate) fn replace_output(&mut self, output: Linear, n_outputs: usize) {
        (self.output, self.vocab_size) = (Some(output), n_outputs);
    }

    /// Whether [`forward`](Self::forward) and the losses need the embedding's weight.
    pub fn is_tied(&self) -> bool {
        self.output.is_none()
    }

    /// Logits of the next token at every position.
    ///
    /// # Shapes
    /// - x: `[b, s, d_model]`, or this rank's part of the sequence where the [`Region`](crate::Region) splits it
    /// - starts: `[b, s]`, where each position's document begins; without it, 0
    /// - tied: the embedding, `[vocab_size, d_model]`, or this rank's part of it, exactly if the head is tied
    /// - returns `[b, s, vocab_size]`; constants where the vocabulary is split over ranks
    ///
    /// # Panics
    /// If `tied` is given to an untied head or not given to a tied one; so do the losses.
    pub fn forward(
        &self,
        x: Tensor<3>,
        starts: Option<Tensor<2, Int>>,
        tied: Option<Tensor<2>>,
    ) -> Tensor<3> {
        self.ends.vocab.gather(self.local_logits(x, starts, tied))
    }

    /// The sum over kept targets of the negative log-probability in nats, shape `[1]`.
    ///
    /// # Shapes
    /// - x, starts, tied: as for [`forward`](Self::forward)
    /// - targets: `[b, s]`, -1 where ignored
    pub fn loss(
        &self,
        x: Tensor<3>,
        targets: Tensor<2, Int>,
        starts: Option<Tensor<2, Int>>,
        tied: Option<Tensor<2>>,
    ) -> Tensor<1> {
        let logits = self.local_logits(x, starts, tied);
        let [b, s, n_logits] = logits.dims();
        let (logits, targets) = (logits.reshape([b * s, n_logits]), targets.reshape([b * s]));
        self.ends.vocab.cross_entropy(self.kernels, logits, targets)
    }

    /// Each target's negative log-probability in nats, 0 where ignored, without ever holding all logits.
    ///
    /// For measuring: no gradient is meant to flow.
    ///
    /// # Shapes
    /// - x, tied: as for [`forward`](Self::forward)
    /// - targets: `[b, s]`, -1 where ignored
    /// - returns `[b, s]`
    ///
    /// # Panics
    /// If the head is a classifier's that reads more than a position's own state.
    pub fn token_losses(
        &self,
        x: Tensor<3>,
        targets: Tensor<2, Int>,
        tied: Option<Tensor<2>>,
    ) -> Tensor<2> {
        assert!(self.is_plain(), "losses of tokens are a matter of heads for tokens");
        let [b, s] = targets.dims();
        let (x, targets) = (self.entered(x), targets.reshape([b * s]));
        let losses = self.in_chunks(x, &targets, tied, &|logits, targets| {
            self.ends.vocab.token_losses(self.kernels, logits, targets)
        });
        Tensor::cat(losses, 0).reshape([b, s])
    }

    /// How likely tokens are after places of a row, and whether none is more likely, as
    /// [`branch_scores`](crate::Forward::branch_scores) tells it.
    ///
    /// # Shapes
    /// - x: `[1, n_tokens, d_model]`
    /// - tied: as for [`forward`](Self::forward)
    /// - returns `[asked, 2]`
    ///
    /// # Panics
    /// If the head is a classifier's that reads more than a position's own state.
    pub fn token_scores(
        &self,
        x: Tensor<3>,
        asked: &[(usize, u32)],
        tied: Option<Tensor<2>>,
    ) -> Tensor<2> {
        assert!(self.is_plain(), "scores of tokens are a matter of heads for tokens");
        let device = x.device();
        let int = |values: Vec<i32>| {
            Tensor::<1, Int>::from_data(TensorData::new(values, [asked.len()]), &device)
        };
        let places = int(asked.iter().map(|(place, _)| *place as i32).collect());
        let targets = int(asked.iter().map(|(_, id)| *id as i32).collect());
        let x = self.entered(x).select(1, places);
        let scores = self.in_chunks(x, &targets, tied, &|logits, targets| {
            let logits = self.ends.vocab.gather(logits.unsqueeze_dim(0)).squeeze_dim(0);
            self.kernels.token_scores(logits, targets)
        });
        Tensor::cat(scores, 0)
    }

    /// What `f` makes of the logits of some rows at a time, [`CHUNK_LOGITS`] at most, and of their targets `[n]`.
    fn in_chunks<const D: usize>(
        &self,
        x: Tensor<3>,
        targets: &Tensor<1, Int>,
        tied: Option<Tensor<2>>,
        f: &dyn Fn(Tensor<2>, Tensor<1, Int>) -> Tensor<D>,
    ) -> Vec<Tensor<D>> {
        let weight = self.projection(tied);
        let [b, s, d_model] = x.dims();
        let n = b * s;
        let x = x.reshape([n, d_model]);
        // A function of the whole vocabulary alone, so that it never depends on the machine and is the same on all ranks.
        let chunk = (CHUNK_LOGITS / self.vocab_size).max(1);
        let of_rows = |start: usize| {
            let rows = chunk.min(n - start);
            let logits = self.kernels.linear(x.clone().narrow(0, start, rows), weight.clone());
            f(logits, targets.clone().narrow(0, start, rows))
        };
        (0..n).step_by(chunk).map(of_rows).collect()
    }

    /// The logits of the tokens that this rank holds, `[b, s, tokens here]`.
    fn local_logits(
        &self,
        x: Tensor<3>,
        starts: Option<Tensor<2, Int>>,
        tied: Option<Tensor<2>>,
    ) -> Tensor<3> {
        let weight = self.projection(tied);
        let width = x.dims()[2] / (1 + usize::from(self.reads.mix));
        let x = if self.reads.mix { x.narrow(2, width, width) } else { x };
        let logits = self.kernels.linear(self.entered(x), weight);
        // The projection is linear: the mean of the logits is the logits of the mean, of much less width.
        if self.reads.mean { running_mean(logits, starts) } else { logits }
    }

    /// The projection's input: normed, and whole sequences on every rank.
    fn entered(&self, x: Tensor<3>) -> Tensor<3> {
        self.ends.region.enter(self.norm.forward(self.kernels, x))
    }

    /// `[d_model, tokens here]`.
    fn projection(&self, tied: Option<Tensor<2>>) -> Tensor<2> {
        match (&self.output, tied) {
            (Some(output), None) => output.weight.val(),
            (None, Some(embedding)) => embedding.swap_dims(0, 1),
            (None, None) => panic!("the head is tied: pass the embedding's weight"),
            (Some(_), Some(_)) => panic!("the head has a projection of its own: pass no weight"),
        }
    }
}

/// The mean over each position's document up to that position, `[b, s, n]`.
fn running_mean(x: Tensor<3>, starts: Option<Tensor<2, Int>>) -> Tensor<3> {
    let [b, s, _] = x.dims();
    let starts: Vec<i64> = match starts {
        Some(starts) => {
            starts.into_data().convert::<i64>().try_into_vec().expect("just converted to i64")
        }
        None => vec![0; b * s],
    };
    let mut weights = vec![0.0f32; b * s * s];
    for (i, (row, start)) in weights.chunks_exact_mut(s).zip(&starts).enumerate() {
        let document = &mut row[*start as usize..=i % s];
        document.fill(1.0 / document.len() as f32);
    }
    let weights = TensorData::new(weights, [b, s, s]);
    Tensor::<3>::from_data(weights, (&x.device(), DType::F32)).matmul(x)
}
