//! The matrix product of a linear layer, `x w`: the composed kernels and their dispatch.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{FloatDType, Shape, Tensor};

use crate::backends::composed_backends;

#[cfg(all(feature = "flex", target_arch = "x86_64", target_os = "linux"))]
mod amx;
mod autodiff;
#[cfg(feature = "flex")]
mod flex;
pub(crate) mod reference;

/// What the factors of a product are rounded to; its sums are in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precision {
    /// Not at all.
    F32,
    /// The nearest bf16, ties to even.
    Bf16,
}

/// See [`Kernels::linear`](crate::Kernels::linear).
pub(crate) fn fused<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    precision: Precision,
) -> Tensor<D> {
    let mut dims = x.dims();
    dims[D - 1] = weight.dims()[1];
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::<D>::from_dispatch(<Dispatch as LinearOps>::linear(x, weight, precision)).reshape(dims)
}

/// The raw kernels of a backend; the default bodies are composed of its own operations.
pub(crate) trait LinearKernels: Backend {
    /// Returns `a b` for matrices `a: [m, k]`, `b: [k, n]` that may be transposed views.
    fn matrix_product(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        precision: Precision,
    ) -> FloatTensor<Self> {
        match precision {
            Precision::F32 => Self::float_matmul(a, b),
            // The product of two bf16 is exact in f32.
            Precision::Bf16 => Self::float_matmul(rounded::<Self>(a), rounded::<Self>(b)),
        }
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
    fn linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        precision: Precision,
    ) -> FloatTensor<Self>;
}

impl<B: LinearKernels> LinearOps for B {
    fn linear(x: FloatTensor<B>, weight: FloatTensor<B>, precision: Precision) -> FloatTensor<B> {
        forward::<B>(x, weight, precision)
    }
}

/// `x: [.., k]`, `weight: [k, n]` to `[.., n]`.
fn forward<B: LinearKernels>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    precision: Precision,
) -> FloatTensor<B> {
    let (mut dims, n) = (x.shape().to_vec(), weight.shape()[1]);
    let y = B::matrix_product(rows::<B>(x), weight, precision);
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

/// The nearest bf16 of every element, in the format of `x`.
fn rounded<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let dtype = FloatDType::from(x.dtype());
    B::float_cast(B::float_cast(x, FloatDType::BF16), dtype)
}
