//! The matrix product of a linear layer, `x w`: the composed kernels and their dispatch.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Tensor};

use crate::backends::composed_backends;

#[cfg(all(feature = "flex", target_arch = "x86_64", target_os = "linux"))]
mod amx;
mod autodiff;
#[cfg(feature = "flex")]
mod flex;
pub(crate) mod reference;

/// See [`Kernels::linear`](crate::Kernels::linear).
pub(crate) fn fused<const D: usize>(x: Tensor<D>, weight: Tensor<2>) -> Tensor<D> {
    let mut dims = x.dims();
    dims[D - 1] = weight.dims()[1];
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::<D>::from_dispatch(<Dispatch as LinearOps>::linear(x, weight)).reshape(dims)
}

/// The raw kernels of a backend; the default bodies are composed of its own operations.
pub(crate) trait LinearKernels: Backend {
    /// Returns `a b` for matrices `a: [m, k]`, `b: [k, n]` that may be transposed views.
    fn matrix_product(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(a, b)
    }
}

composed_backends!(LinearKernels);

/// The dispatched operator.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cuda"),
    LibTorch: cfg(feature = "tch"),
    Autodiff
)]
pub(crate) trait LinearOps: Backend {
    /// See [`Kernels::linear`](crate::Kernels::linear).
    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl<B: LinearKernels> LinearOps for B {
    fn linear(x: FloatTensor<B>, weight: FloatTensor<B>) -> FloatTensor<B> {
        forward::<B>(x, weight)
    }
}

/// `x: [.., k]`, `weight: [k, n]` to `[.., n]`.
fn forward<B: LinearKernels>(x: FloatTensor<B>, weight: FloatTensor<B>) -> FloatTensor<B> {
    let (mut dims, n) = (x.shape().to_vec(), weight.shape()[1]);
    let y = B::matrix_product(rows::<B>(x), weight);
    let last = dims.len() - 1;
    dims[last] = n;
    B::float_reshape(y, Shape::from(dims))
}

/// All dims but the last made one: `[.., k]` to `[m, k]`.
fn rows<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let shape = x.shape();
    let k = shape[shape.num_dims() - 1];
    B::float_reshape(x, Shape::from([shape.num_elements() / k.max(1), k]))
}
