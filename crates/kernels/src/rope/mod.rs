//! Rotary position embedding, half-split: the composed kernel and its dispatch.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{Slice, Tensor};

use crate::backends::composed_backends;

mod autodiff;
#[cfg(feature = "flex")]
mod flex;
pub(crate) mod reference;

/// See [`Kernels::rope`](crate::Kernels::rope).
pub(crate) fn fused(x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<4> {
    let (x, cos, sin) = (x.into_dispatch(), cos.into_dispatch(), sin.into_dispatch());
    Tensor::from_dispatch(<Dispatch as RopeOps>::rope(x, cos, sin))
}

/// The sense of a rotation: the backward turns gradients back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// By the angles of the tables.
    Forward,
    /// By their negatives.
    Back,
}

/// The raw kernel of a backend; the default body is composed of its own operations.
pub(crate) trait RopeKernels: Backend {
    /// Rotates every pair by its angle. A rotation is orthogonal, so its backward is the rotation
    /// of the gradient the other way.
    fn rope_turn(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        turn: Turn,
    ) -> FloatTensor<Self> {
        composed_turn::<Self>(x, cos, sin, turn)
    }
}

composed_backends!(RopeKernels);

/// The dispatched operator.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cuda"),
    LibTorch: cfg(feature = "tch"),
    Autodiff
)]
pub(crate) trait RopeOps: Backend {
    /// See [`Kernels::rope`](crate::Kernels::rope).
    fn rope(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

impl<B: RopeKernels> RopeOps for B {
    fn rope(x: FloatTensor<B>, cos: FloatTensor<B>, sin: FloatTensor<B>) -> FloatTensor<B> {
        B::rope_turn(x, cos, sin, Turn::Forward)
    }
}

fn composed_turn<B: Backend>(
    x: FloatTensor<B>,
    cos: FloatTensor<B>,
    sin: FloatTensor<B>,
    turn: Turn,
) -> FloatTensor<B> {
    let [b, heads, s, head_dim] = x.shape().dims();
    let half = head_dim / 2;
    let cos = B::float_reshape(cos, [1, 1, s, half].into());
    let sin = B::float_reshape(sin, [1, 1, s, half].into());
    let sin = if turn == Turn::Back { B::float_neg(sin) } else { sin };
    let part = |x: FloatTensor<B>, dims: std::ops::Range<usize>| {
        B::float_slice(x, &[(0..b).into(), (0..heads).into(), (0..s).into(), Slice::from(dims)])
    };
    let (first, second) = (part(x.clone(), 0..half), part(x, half..head_dim));
    let turned_first = B::float_sub(
        B::float_mul(first.clone(), cos.clone()),
        B::float_mul(second.clone(), sin.clone()),
    );
    let turned_second = B::float_add(B::float_mul(second, cos), B::float_mul(first, sin));
    B::float_cat(vec![turned_first, turned_second], 3)
}
