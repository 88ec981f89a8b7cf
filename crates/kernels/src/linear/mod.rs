//! The matrix product of a linear layer, `x w`: the composed kernels and their dispatch.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{FloatDType, Shape, Tensor};

use crate::backends::composed_backends;

mod autodiff;
#[cfg(feature = "flex")]
mod flex;
#[cfg(all(feature = "flex", target_arch = "x86_64", target_os = "linux"))]
mod packed;
pub(crate) mod reference;

/// What the factors of a product are rounded to; its sums are in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precision {
    /// Not at all.
    F32,
    /// The nearest bf16, ties to even, where the product is [large](is_large); small ones, as of a token
    /// that is decoded alone, would cost more and gain nothing.
    Bf16,
}

/// Below this many multiplications packing or rounding the factors costs more than it gains.
const SMALLEST: usize = 96 * 96 * 96;
/// Narrower matrices would fill most of a tile with padding.
const NARROWEST: usize = 24;

/// Whether `[m, k] x [k, n]` is worth another layout or precision of the factors.
fn is_large(a: &Shape, b: &Shape) -> bool {
    let (m, k, n) = (a[0], a[1], b[1]);
    m.min(n).min(k) >= NARROWEST && m * n * k >= SMALLEST
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
        rounding_product::<Self>(a, b, precision)
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

/// The backend's own product, of rounded factors where the precision says so: the product of two bf16 is
/// exact in f32.
fn rounding_product<B: Backend>(
    a: FloatTensor<B>,
    b: FloatTensor<B>,
    precision: Precision,
) -> FloatTensor<B> {
    match precision {
        Precision::Bf16 if is_large(&a.shape(), &b.shape()) => {
            B::float_matmul(rounded::<B>(a), rounded::<B>(b))
        }
        _ => B::float_matmul(a, b),
    }
}

/// The nearest bf16 of every element, in the format of `x`.
fn rounded<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let dtype = FloatDType::from(x.dtype());
    B::float_cast(B::float_cast(x, FloatDType::BF16), dtype)
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::backend::Flex;
    use burn::backend::flex::FlexTensor;
    use burn::tensor::TensorData;

    use super::*;
    use crate::flex_data::floats;

    fn matrix(rows: usize, columns: usize) -> FlexTensor {
        let value = |i: usize| ((i * 7919 % 1013) as f32 / 1013.0 - 0.5) * 1.001;
        FlexTensor::from_data(TensorData::new(
            (0..rows * columns).map(value).collect(),
            [rows, columns],
        ))
    }

    /// What runs where there are no tiles.
    #[test]
    fn factors_are_rounded_where_the_product_is_large() {
        for (m, k, n, rounds) in [(128, 96, 100, true), (23, 700, 700, false), (24, 24, 24, false)]
        {
            let (a, b) = (matrix(m, k), matrix(k, n));
            let found = rounding_product::<Flex>(a.clone(), b.clone(), Precision::Bf16);
            let seen = |x: &f32| match rounds {
                true => half::bf16::from_f32(*x).to_f64(),
                false => f64::from(*x),
            };
            let (x, y) = (floats(&a).iter().map(seen), floats(&b).iter().map(seen));
            let (x, y): (Vec<f64>, Vec<f64>) = (x.collect(), y.collect());
            for (i, found) in floats(&found.to_contiguous()).iter().enumerate() {
                let exact: f64 = (0..k).map(|p| x[i / n * k + p] * y[p * n + i % n]).sum();
                // The rounding of an f32 sum; that of a factor would be a hundred times more.
                assert!((f64::from(*found) - exact).abs() < 1e-5, "[{m}, {k}, {n}] at {i}");
            }
        }
    }
}
