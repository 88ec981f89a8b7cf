//! SwiGLU, `silu(gate) * up`: the composed kernels and their dispatch.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Scalar, backend_extension};
use burn::tensor::Tensor;

use crate::backends::composed_backends;

mod autodiff;
#[cfg(feature = "flex")]
mod flex;
pub(crate) mod reference;

/// See [`Kernels::swiglu`](crate::Kernels::swiglu).
pub(crate) fn fused<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    let (gate, up) = (gate.into_dispatch(), up.into_dispatch());
    Tensor::from_dispatch(<Dispatch as SwigluOps>::swiglu(gate, up))
}

/// The raw kernels of a backend; the default bodies are composed of its own operations.
pub(crate) trait SwigluKernels: Backend {
    /// Returns `silu(gate) * up`.
    fn swiglu_forward(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        composed_forward::<Self>(gate, up)
    }

    /// Returns `(dgate, dup)`.
    fn swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        dy: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composed_backward::<Self>(gate, up, dy)
    }
}

composed_backends!(SwigluKernels);

/// The dispatched operator.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cuda"),
    LibTorch: cfg(feature = "tch"),
    Autodiff
)]
pub(crate) trait SwigluOps: Backend {
    /// See [`Kernels::swiglu`](crate::Kernels::swiglu).
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl<B: SwigluKernels> SwigluOps for B {
    fn swiglu(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
        B::swiglu_forward(gate, up)
    }
}

fn composed_forward<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
    let silu = B::float_mul(gate.clone(), sigmoid::<B>(gate));
    B::float_mul(silu, up)
}

/// With `s = sigmoid(gate)` and `h = gate s`: `dup = dy h`, `dgate = dy up (s + h (1 - s))`.
fn composed_backward<B: Backend>(
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
    dy: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let s = sigmoid::<B>(gate.clone());
    let h = B::float_mul(gate, s.clone());
    let dup = B::float_mul(dy.clone(), h.clone());
    let rest = B::float_add_scalar(B::float_neg(s.clone()), Scalar::from(1.0)); // 1 - s
    let slope = B::float_add(s, B::float_mul(h, rest));
    (B::float_mul(B::float_mul(dy, up), slope), dup)
}

fn sigmoid<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::float_recip(B::float_add_scalar(B::float_exp(B::float_neg(x)), Scalar::from(1.0)))
}
