//! Cross-entropy of Burn's own operations: what the fused kernel must equal.

use burn::tensor::{Int, Tensor, activation::log_softmax};

/// See [`Kernels::cross_entropy`](crate::Kernels::cross_entropy).
pub(crate) fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    token_losses(logits, targets).sum()
}

/// See [`Kernels::token_scores`](crate::Kernels::token_scores).
pub(crate) fn token_scores(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<2> {
    let losses = token_losses(logits.clone(), targets.clone()).unsqueeze_dim::<2>(1); // [n, 1]
    let is_best = logits.argmax(1).equal(targets.unsqueeze_dim::<2>(1)); // [n, 1]
    let is_best = is_best.float().cast(losses.dtype());
    Tensor::cat(vec![losses, is_best], 1)
}

/// See [`Kernels::token_losses`](crate::Kernels::token_losses).
pub(crate) fn token_losses(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let ignored = targets.clone().equal_elem(-1);
    let targets = targets.mask_fill(ignored.clone(), 0).unsqueeze_dim::<2>(1); // [n, 1]
    let picked = log_softmax(logits, 1).gather(1, targets).squeeze_dim::<1>(1); // [n]
    picked.neg().mask_fill(ignored, 0.0)
}
