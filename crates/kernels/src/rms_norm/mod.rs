//! RMSNorm over the last dim: the composed kernels and their dispatch.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Scalar, TensorMetadata, backend_extension};
use burn::tensor::Tensor;

use crate::backends::composed_backends;

mod autodiff;
#[cfg(feature = "flex")]
mod flex;
pub(crate) mod reference;

/// See [`Kernels::rms_norm`](crate::Kernels::rms_norm).
pub(crate) fn fused<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(<Dispatch as RmsNormOps>::rms_norm(x, weight, eps))
}

/// The raw kernels of a backend; the default bodies are composed of its own operations.
pub(crate) trait RmsNormKernels: Backend {
    /// Returns `y` and `1 / sqrt(mean(x^2) + eps)` of every row, `[.., 1]`.
    fn rms_norm_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composed_forward::<Self>(x, weight, eps)
    }

    /// Returns `(dx, dweight)`.
    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        rstd: FloatTensor<Self>,
        dy: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composed_backward::<Self>(x, weight, rstd, dy)
    }
}

composed_backends!(RmsNormKernels);

/// The dispatched operator.
#[allow(unused_variables, reason = "without any backend the macro routes nothing")]
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cuda"),
    LibTorch: cfg(feature = "tch"),
    Autodiff
)]
pub(crate) trait RmsNormOps: Backend {
    /// See [`Kernels::rms_norm`](crate::Kernels::rms_norm).
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self>;
}

impl<B: RmsNormKernels> RmsNormOps for B {
    fn rms_norm(x: FloatTensor<B>, weight: FloatTensor<B>, eps: f64) -> FloatTensor<B> {
        B::rms_norm_forward(x, weight, eps).0
    }
}

fn composed_forward<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    eps: f64,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let last = x.rank() - 1;
    let mean_square = B::float_mean_dim(B::float_mul(x.clone(), x.clone()), last); // [.., 1]
    let rstd = B::float_recip(B::float_sqrt(B::float_add_scalar(mean_square, Scalar::from(eps))));
    let y = B::float_mul(B::float_mul(x, rstd.clone()), as_row::<B>(weight, last));
    (y, rstd)
}

/// With `n = x rstd`: `dx = rstd (w dy - n mean(w dy n))` and `dweight = sum over rows of dy n`.
fn composed_backward<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    rstd: FloatTensor<B>,
    dy: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (last, weight_shape) = (x.rank() - 1, weight.shape());
    let normed = B::float_mul(x, rstd.clone());
    let dnormed = B::float_mul(dy.clone(), as_row::<B>(weight, last));
    let mean = B::float_mean_dim(B::float_mul(dnormed.clone(), normed.clone()), last); // [.., 1]
    let dx = B::float_sub(dnormed, B::float_mul(normed.clone(), mean));
    let rows: Vec<usize> = (0..last).collect();
    let dweight = B::float_sum_dims(B::float_mul(dy, normed), &rows); // [1, .., d]
    (B::float_mul(dx, rstd), B::float_reshape(dweight, weight_shape))
}

/// `[d]` as `[1, .., 1, d]`.
fn as_row<B: Backend>(weight: FloatTensor<B>, last: usize) -> FloatTensor<B> {
    let mut shape = vec![1; last + 1];
    shape[last] = weight.shape().num_elements();
    B::float_reshape(weight, shape.into())
}
