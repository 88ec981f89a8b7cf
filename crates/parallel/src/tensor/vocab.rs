//! A vocabulary that is split over the ranks of the tensor axis: rows of the embedding, columns of the logits.

use std::ops::Range;

use burn::tensor::{Int, Tensor, TensorData, module};
use caravan_collective::{Communicator, tensor};
use caravan_model::{Kernels, Vocab};

use super::{loss, part};
use crate::mutation;

/// The [`Vocab`] of a rank that holds the tokens [`part`]`(vocab_size, rank, size)`.
#[derive(Clone, Debug)]
pub struct SplitVocab {
    pub(super) group: Communicator,
    vocab_size: usize,
    /// Tokens whose rows and columns are here.
    tokens: Range<usize>,
}

impl SplitVocab {
    /// The part of this rank of `group`.
    pub fn new(vocab_size: usize, group: &Communicator) -> Self {
        let tokens = part(vocab_size, group.rank(), group.size());
        Self { group: group.clone(), vocab_size, tokens }
    }

    /// Where each target is, read on the host.
    ///
    /// # Panics
    /// At the first target that is neither -1 nor in the vocabulary, on every rank.
    pub(super) fn locate(&self, targets: Tensor<1, Int>) -> Located {
        let targets: Vec<i64> =
            targets.into_data().try_into_vec_as().expect("targets are integers");
        let mut located = Located::default();
        for (row, &target) in targets.iter().enumerate() {
            let token = usize::try_from(target).ok().filter(|token| *token < self.vocab_size);
            assert!(
                token.is_some() || target == -1,
                "target {target} of row {row} is neither -1 nor below the vocabulary size {}",
                self.vocab_size
            );
            let here = token.filter(|token| self.tokens.contains(token));
            located.is_kept.push(token.is_some());
            located.is_here.push(here.is_some());
            located.columns.push(here.map_or(0, |token| token - self.tokens.start) as i32);
        }
        located
    }
}

/// What a rank knows of the targets of `n` rows.
#[derive(Debug, Default)]
pub(super) struct Located {
    /// Whether a row counts: the same on every rank.
    pub(super) is_kept: Vec<bool>,
    /// Whether the target's logit is on this rank.
    pub(super) is_here: Vec<bool>,
    /// Its column on this rank, 0 where it is elsewhere.
    pub(super) columns: Vec<i32>,
}

impl Vocab for SplitVocab {
    /// # Panics
    /// On Flex, on one rank, if an id lies outside the vocabulary: no rank takes it for another's.
    fn lookup(&self, weight: Tensor<2>, tokens: Tensor<2, Int>) -> Tensor<3> {
        let ([n_here, d_model], [b, s]) = (weight.dims(), tokens.dims());
        let rows = tokens.sub_scalar(self.tokens.start as i64);
        // Only what other ranks hold is elsewhere; an id that nobody holds is left for the lookup to refuse.
        let below = |rows: &Tensor<2, Int>| rows.clone().lower_elem(0);
        let above = |rows: &Tensor<2, Int>| rows.clone().greater_equal_elem(n_here as i64);
        let elsewhere = match (self.tokens.start > 0, self.tokens.end < self.vocab_size) {
            (true, true) => below(&rows).bool_or(above(&rows)),
            (true, false) => below(&rows),
            (false, _) => above(&rows),
        };
        let mut rows = rows.mask_fill(elsewhere.clone(), 0);
        if mutation::on("tensor_vocabulary_shifted") {
            rows = rows.add_scalar(1).clamp_max(n_here as i64 - 1);
        }
        let found = module::embedding(weight, rows);
        found.mask_fill(elsewhere.unsqueeze_dim::<3>(2).expand([b, s, d_model]), 0.0)
    }

    fn cross_entropy(
        &self,
        kernels: Kernels,
        logits: Tensor<2>,
        targets: Tensor<1, Int>,
    ) -> Tensor<1> {
        let located = self.locate(targets);
        if kernels == Kernels::Fused && loss::covers(&logits.device()) {
            loss::fused(logits, &located, &self.group)
        } else {
            loss::composed(logits, &located, &self.group)
        }
    }

    fn token_losses(
        &self,
        _kernels: Kernels,
        logits: Tensor<2>,
        targets: Tensor<1, Int>,
    ) -> Tensor<1> {
        let (device, located) = (logits.device(), self.locate(targets));
        let losses: Vec<f32> = loss::row_losses(&logits.inner(), &located, &self.group)
            .into_iter()
            .map(|row| row.loss as f32)
            .collect();
        let n = losses.len();
        Tensor::from_data(TensorData::new(losses, [n]), &device)
    }

    fn gather(&self, logits: Tensor<3>) -> Tensor<3> {
        let is_autodiff = logits.is_autodiff();
        let logits = logits.inner();
        let [b, s, n_here] = logits.dims();
        let size = self.group.size();
        let n_tokens = |rank| part(self.vocab_size, rank, size).len();
        let widest = (0..size).map(n_tokens).max().expect("a group has a rank");
        let padded = match widest - n_here {
            0 => logits,
            n => {
                let zeros = Tensor::zeros([b, s, n], (&logits.device(), logits.dtype()));
                Tensor::cat(vec![logits, zeros], 2)
            }
        };
        let all = tensor::gather(padded, 2, &self.group); // [b, s, size * widest]
        let parts = (0..size).map(|rank| all.clone().narrow(2, rank * widest, n_tokens(rank)));
        let whole = Tensor::cat(parts.collect(), 2);
        assert_eq!(whole.dims(), [b, s, self.vocab_size], "the parts are the vocabulary");
        if is_autodiff { Tensor::from_inner(whole) } else { whole }
    }
}
