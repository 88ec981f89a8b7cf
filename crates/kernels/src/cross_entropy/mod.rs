//! Cross-entropy of logits: the composed kernels and their dispatch.

use burn::backend::tensor::{BoolTensor, FloatTensor, IndexingUpdateOp, IntTensor};
use burn::backend::{
    Backend, Dispatch, Scalar, TensorMetadata, backend_extension, get_or_init_device_settings,
};
use burn::tensor::{Int, Tensor};

use crate::backends::composed_backends;

mod autodiff;
#[cfg(feature = "flex")]
mod flex;
pub(crate) mod reference;

/// See [`Kernels::cross_entropy`](crate::Kernels::cross_entropy).
pub(crate) fn fused(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let (logits, targets) = (logits.into_dispatch(), targets.into_dispatch());
    Tensor::from_dispatch(<Dispatch as CrossEntropyOps>::cross_entropy(logits, targets))
}

/// See [`Kernels::token_losses`](crate::Kernels::token_losses).
pub(crate) fn fused_token_losses(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let (logits, targets) = (logits.into_dispatch(), targets.into_dispatch());
    Tensor::from_dispatch(<Dispatch as CrossEntropyOps>::token_losses(logits, targets))
}

/// See [`Kernels::token_scores`](crate::Kernels::token_scores).
pub(crate) fn fused_token_scores(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<2> {
    let (logits, targets) = (logits.into_dispatch(), targets.into_dispatch());
    Tensor::from_dispatch(<Dispatch as CrossEntropyOps>::token_scores(logits, targets))
}

/// The raw kernels of a backend; the default bodies are composed of its own operations.
pub(crate) trait CrossEntropyKernels: Backend {
    /// Returns the loss of every row, 0 where it is ignored, and its log-sum-exp; both `[n]`.
    fn cross_entropy_rows(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composed_rows::<Self>(logits, targets)
    }

    /// Returns the loss of every row, and 1 where the target is the first of the largest logits; `[n, 2]`.
    fn token_scores_rows(logits: FloatTensor<Self>, targets: IntTensor<Self>) -> FloatTensor<Self> {
        composed_scores::<Self>(logits, targets)
    }

    /// The sum of `[n]` losses, `[1]`.
    fn cross_entropy_sum(losses: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_sum(losses)
    }

    /// Returns the gradient of the logits for `dy: [1]`.
    fn cross_entropy_backward(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        lse: FloatTensor<Self>,
        dy: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        composed_backward::<Self>(logits, targets, lse, dy)
    }
}

composed_backends!(CrossEntropyKernels);

/// The dispatched operators.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cuda"),
    LibTorch: cfg(feature = "tch"),
    Autodiff
)]
pub(crate) trait CrossEntropyOps: Backend {
    /// See [`Kernels::cross_entropy`](crate::Kernels::cross_entropy).
    fn cross_entropy(logits: FloatTensor<Self>, targets: IntTensor<Self>) -> FloatTensor<Self>;
    /// See [`Kernels::token_losses`](crate::Kernels::token_losses).
    fn token_losses(logits: FloatTensor<Self>, targets: IntTensor<Self>) -> FloatTensor<Self>;
    /// See [`Kernels::token_scores`](crate::Kernels::token_scores).
    fn token_scores(logits: FloatTensor<Self>, targets: IntTensor<Self>) -> FloatTensor<Self>;
}

impl<B: CrossEntropyKernels> CrossEntropyOps for B {
    fn cross_entropy(logits: FloatTensor<B>, targets: IntTensor<B>) -> FloatTensor<B> {
        B::cross_entropy_sum(B::cross_entropy_rows(logits, targets).0)
    }
    fn token_losses(logits: FloatTensor<B>, targets: IntTensor<B>) -> FloatTensor<B> {
        B::cross_entropy_rows(logits, targets).0
    }
    fn token_scores(logits: FloatTensor<B>, targets: IntTensor<B>) -> FloatTensor<B> {
        B::token_scores_rows(logits, targets)
    }
}

fn composed_scores<B: Backend>(logits: FloatTensor<B>, targets: IntTensor<B>) -> FloatTensor<B> {
    let [n, _] = logits.shape().dims();
    let settings = get_or_init_device_settings::<B>(&logits.device());
    let (losses, _) = composed_rows::<B>(logits.clone(), targets.clone());
    let best = B::float_argmax(logits, 1, settings.int_dtype); // [n, 1]
    let is_best = B::int_equal(best, B::int_reshape(targets, [n, 1].into()), settings.bool_dtype);
    let is_best = B::bool_into_float(is_best, losses.dtype().into());
    B::float_cat(vec![B::float_reshape(losses, [n, 1].into()), is_best], 1)
}

/// `lse - logit of the target`, with `lse = max + log sum e^(x - max)`.
fn composed_rows<B: Backend>(
    logits: FloatTensor<B>,
    targets: IntTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let [n, _] = logits.shape().dims();
    let (ignored, classes) = split_targets::<B>(targets);
    let max = B::float_max_dim(logits.clone(), 1); // [n, 1]
    let exp = B::float_exp(B::float_sub(logits.clone(), max.clone()));
    let lse = B::float_add(B::float_log(B::float_sum_dim(exp, 1)), max); // [n, 1]
    let losses = B::float_sub(lse.clone(), B::float_gather(1, logits, classes));
    let losses = B::float_mask_fill(losses, ignored, Scalar::from(0.0));
    (B::float_reshape(losses, [n].into()), B::float_reshape(lse, [n].into()))
}

/// `dy (softmax - onehot)`, 0 in ignored rows.
fn composed_backward<B: Backend>(
    logits: FloatTensor<B>,
    targets: IntTensor<B>,
    lse: FloatTensor<B>,
    dy: FloatTensor<B>,
) -> FloatTensor<B> {
    let [n, vocab] = logits.shape().dims();
    let (ignored, classes) = split_targets::<B>(targets);
    let dy = B::float_expand(B::float_reshape(dy, [1, 1].into()), [n, 1].into());
    let dy = B::float_mask_fill(dy, ignored, Scalar::from(0.0)); // [n, 1]
    let lse = B::float_reshape(lse, [n, 1].into());
    let p = B::float_exp(B::float_sub(logits, lse));
    let minus = B::float_neg(dy.clone());
    let dlogits = B::float_mul(p, B::float_expand(dy, [n, vocab].into()));
    B::float_scatter(1, dlogits, classes, minus, IndexingUpdateOp::Add)
}

/// Which rows are ignored, and the classes with 0 in their place; both `[n, 1]`.
fn split_targets<B: Backend>(targets: IntTensor<B>) -> (BoolTensor<B>, IntTensor<B>) {
    let n = targets.shape().num_elements();
    let targets = B::int_reshape(targets, [n, 1].into());
    let bool_dtype = get_or_init_device_settings::<B>(&targets.device()).bool_dtype;
    let ignored = B::int_equal_elem(targets.clone(), Scalar::from(-1), bool_dtype);
    let classes = B::int_mask_fill(targets, ignored.clone(), Scalar::from(0));
    (ignored, classes)
}
