//! The backward of cross-entropy on any backend with its kernels.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, AutodiffBackend};

use super::{CrossEntropyKernels, CrossEntropyOps};

#[derive(Debug)]
struct CrossEntropyBackward;

impl<B: CrossEntropyKernels> Backward<B, 1> for CrossEntropyBackward {
    /// Logits, targets and log-sum-exp.
    type State = (FloatTensor<B>, IntTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let (logits, targets, lse) = ops.state;
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            grads.register::<B>(parent.id, B::cross_entropy_backward(logits, targets, lse, dy));
        }
    }
}

impl<B: CrossEntropyKernels, C: CheckpointStrategy> CrossEntropyOps for Autodiff<B, C> {
    fn cross_entropy(logits: FloatTensor<Self>, targets: IntTensor<Self>) -> FloatTensor<Self> {
        let prep = CrossEntropyBackward.prepare::<C>([logits.node()]);
        let logits = logits.into_primitive();
        match prep.compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (losses, lse) = B::cross_entropy_rows(logits.clone(), targets.clone());
                prep.finish((logits, targets, lse), B::cross_entropy_sum(losses))
            }
            OpsKind::UnTracked(prep) => {
                let (losses, _) = B::cross_entropy_rows(logits, targets);
                prep.finish(B::cross_entropy_sum(losses))
            }
        }
    }

    fn token_losses(logits: FloatTensor<Self>, targets: IntTensor<Self>) -> FloatTensor<Self> {
        // A constant: scores are read, never trained on.
        Self::from_inner(B::cross_entropy_rows(logits.into_primitive(), targets).0)
    }

    fn token_scores(logits: FloatTensor<Self>, targets: IntTensor<Self>) -> FloatTensor<Self> {
        Self::from_inner(B::token_scores_rows(logits.into_primitive(), targets))
    }
}
