//! The run-time choice between composed and fused operators.

use burn::tensor::{Int, Tensor};

use crate::{attention, cross_entropy, rms_norm, rope, swiglu};

/// Which implementation of the operators runs. A run-time value, never part of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Kernels {
    /// Composed of Burn's own operations, differentiated by Burn.
    Reference,
    /// Hand-written forward and backward where the device has one (f32 on Flex), composed elsewhere.
    #[default]
    Fused,
}

impl Kernels {
    /// `x / sqrt(mean(x^2) + eps) * weight` over the last dim.
    pub fn rms_norm<const D: usize>(self, x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
        rms_norm::reference::rms_norm(x, weight, eps)
    }

    /// Rotary position embedding, half-split.
    pub fn rope(self, x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<4> {
        rope::reference::rope(x, cos, sin)
    }

    /// `silu(gate) * up`.
    pub fn swiglu<const D: usize>(self, gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
        swiglu::reference::swiglu(gate, up)
    }

    /// Causal grouped-query attention.
    pub fn attention(
        self,
        q: Tensor<4>,
        k: Tensor<4>,
        v: Tensor<4>,
        document_starts: Option<Tensor<2, Int>>,
    ) -> Tensor<4> {
        attention::reference::attention(q, k, v, document_starts)
    }

    /// Sum of the negative log-probabilities of the targets that are not -1; shape `[1]`.
    pub fn cross_entropy(self, logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
        cross_entropy::reference::cross_entropy(logits, targets)
    }

    /// Negative log-probability of every target, 0 where it is -1; shape `[n]`.
    pub fn token_losses(self, logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
        cross_entropy::reference::token_losses(logits, targets)
    }
}
