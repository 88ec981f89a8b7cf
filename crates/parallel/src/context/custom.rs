//! An operation of three tensors with a backward written in plain tensors.
//!
//! Burn's autodiff asks for an operator per backend, generic over it. Ring attention is a conversation between ranks around
//! ordinary tensor functions, so here is the smallest such operator: its result is already computed, and its backward calls
//! a function from the result's gradient to those of the inputs.

#![cfg_attr(
    feature = "tch",
    allow(deprecated, reason = "burn-tch stays as a backend to compare with")
)]

use std::fmt;
use std::sync::Arc;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients as NodeGradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension};
use burn::tensor::{Device, Tensor};

/// `out` as a function of `inputs`, whose gradients `backward` computes from that of `out`.
///
/// `out` is plain, and so are the tensors that `backward` is given and returns; it is called at most once per backward pass,
/// on the thread that runs it.
///
/// # Panics
/// If the inputs' backend is not compiled into this crate.
pub(super) fn with_backward(
    inputs: [Tensor<4>; 3],
    out: Tensor<4>,
    backward: impl Fn(Tensor<4>) -> [Tensor<4>; 3] + Send + Sync + 'static,
) -> Tensor<4> {
    assert!(
        covers(&out.device()),
        "context parallelism is not compiled for this tensor's backend\nhelp: enable the backend's feature of caravan-parallel"
    );
    let [a, b, c] = inputs.map(Tensor::into_dispatch);
    let backward = PlainBackward(Arc::new(backward));
    Tensor::from_dispatch(Dispatch::custom(a, b, c, out.into_dispatch(), backward))
}

/// Whether the device's backend is named in the attribute below; another one would panic there.
fn covers(device: &Device) -> bool {
    match device.as_dispatch() {
        #[cfg(feature = "flex")]
        burn::backend::DispatchDevice::Flex(_) => true,
        #[cfg(feature = "cuda")]
        burn::backend::DispatchDevice::Cube(_) => true,
        #[cfg(feature = "tch")]
        burn::backend::DispatchDevice::LibTorch(_) => true,
        #[allow(unreachable_patterns, reason = "with a single backend there is nothing else")]
        _ => false,
    }
}

/// From the gradient of the result to those of the inputs.
#[derive(Clone)]
pub(crate) struct PlainBackward(Arc<dyn Fn(Tensor<4>) -> [Tensor<4>; 3] + Send + Sync>);

impl fmt::Debug for PlainBackward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PlainBackward").finish_non_exhaustive()
    }
}

/// The way between a backend's tensors and ordinary ones.
pub(crate) trait Plain: Backend {
    /// An ordinary tensor.
    fn tensor(primitive: FloatTensor<Self>) -> Tensor<4>;
    /// The backend's tensor.
    fn primitive(tensor: Tensor<4>) -> FloatTensor<Self>;
}

macro_rules! plain {
    ($($feature:literal: $backend:ty),*) => {$(
        #[cfg(feature = $feature)]
        impl Plain for $backend {
            fn tensor(primitive: FloatTensor<Self>) -> Tensor<4> {
                Tensor::from_primitive::<Self>(primitive)
            }
            fn primitive(tensor: Tensor<4>) -> FloatTensor<Self> {
                tensor.try_into_primitive::<Self>().expect("a gradient is plain, on its input's backend")
            }
        }
    )*};
}
plain!("flex": burn::backend::Flex, "cuda": burn::backend::Cube, "tch": burn::backend::LibTorch);

/// The one operation of this module, dispatched to the backend of its tensors.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cuda"),
    LibTorch: cfg(feature = "tch"),
    Autodiff
)]
pub(crate) trait CustomOps: Backend {
    /// `out`, behind `a`, `b` and `c` in the graph.
    fn custom(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        out: FloatTensor<Self>,
        backward: PlainBackward,
    ) -> FloatTensor<Self>;
}

impl<B: Plain> CustomOps for B {
    fn custom(
        _a: FloatTensor<B>,
        _b: FloatTensor<B>,
        _c: FloatTensor<B>,
        out: FloatTensor<B>,
        _backward: PlainBackward,
    ) -> FloatTensor<B> {
        out
    }
}

#[derive(Debug)]
struct CustomBackward;

impl<B: Plain> Backward<B, 3> for CustomBackward {
    type State = PlainBackward;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut NodeGradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let gradients = (ops.state.0)(B::tensor(gradient));
        for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, B::primitive(gradient));
            }
        }
    }
}

impl<B: Plain, C: CheckpointStrategy> CustomOps for Autodiff<B, C> {
    fn custom(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        out: FloatTensor<Self>,
        backward: PlainBackward,
    ) -> FloatTensor<Self> {
        // Compute-bound: gradient checkpointing must never repeat communication.
        let prep = CustomBackward.prepare::<C>([a.node(), b.node(), c.node()]).compute_bound();
        let out = out.into_primitive();
        match prep.stateful() {
            OpsKind::Tracked(prep) => prep.finish(backward, out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a b + 2 c` with a backward that tells which gradient went where.
    fn product(a: Tensor<4>, b: Tensor<4>, c: Tensor<4>) -> Tensor<4> {
        let [x, y, z] = [&a, &b, &c].map(|x| x.clone().inner());
        let out = x.clone() * y.clone() + z * 2.0;
        with_backward([a, b, c], out, move |dout| {
            [dout.clone() * y.clone(), dout.clone() * x.clone(), dout * 2.0]
        })
    }

    fn leaf(value: f32) -> Tensor<4> {
        Tensor::full([1, 2, 1, 3], value, &Device::flex().autodiff()).require_grad()
    }

    #[test]
    fn gradients_go_to_their_inputs() {
        let [a, b, c] = [2.0, 3.0, 5.0].map(leaf);
        let out = product(a.clone(), b.clone(), c.clone()).mul_scalar(7.0);
        assert_eq!(out.clone().sum().into_scalar::<f32>(), 6.0 * 7.0 * 16.0);
        let grads = out.sum().backward();
        for (x, expected) in [(a, 21.0), (b, 14.0), (c, 14.0)] {
            assert_eq!(x.grad(&grads).unwrap().into_data(), leaf(expected).inner().into_data());
        }
    }

    #[test]
    fn untracked_inputs_are_constants() {
        let [a, b] = [2.0, 3.0].map(leaf);
        let c = leaf(5.0).inner();
        let b = b.set_require_grad(false);
        let grads = product(a.clone(), b.clone(), c).sum().backward();
        assert_eq!(a.grad(&grads).unwrap().into_data(), leaf(3.0).inner().into_data());
        assert!(b.grad(&grads).is_none());
        let [a, b, c] = [2.0, 3.0, 5.0].map(|x| leaf(x).set_require_grad(false));
        assert!(!product(a, b, c).is_tracked(), "without a tracked input nothing is kept");
    }
}
