//! SwiGLU of Burn's own operations: what the fused kernel must equal.

use burn::tensor::{Tensor, activation::silu};

/// See [`Kernels::swiglu`](crate::Kernels::swiglu).
pub(crate) fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    silu(gate) * up
}
