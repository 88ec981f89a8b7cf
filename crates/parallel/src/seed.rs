//! Starting a backward pass with a gradient that is already known.
//!
//! A segment's output has a gradient: what came back from the next segment. Burn starts every backward pass with ones,
//! and the usual way round, `(out * gradient).sum().backward()`, reads and writes the activation several times over and keeps
//! both factors alive. [`backward_from`] instead hangs a one-element node behind `out` whose backward hands over the given
//! gradient as it is.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients as NodeGradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{Device, Gradients, Tensor};

/// Runs backward from `out` with `gradient` as its gradient.
///
/// `out` is tracked, `gradient` a plain tensor of the same shape. The result is bit for bit that of
/// `(out * gradient).sum().backward()`, which is also what runs on a backend the shortcut is not compiled for.
pub(crate) fn backward_from<const D: usize>(out: Tensor<D>, gradient: Tensor<D>) -> Gradients {
    let gradient = Tensor::from_inner(gradient);
    if !has_shortcut(&out.device()) {
        return (out * gradient).sum().backward();
    }
    let root = Dispatch::hand_over(out.into_dispatch(), gradient.into_dispatch());
    Tensor::<1>::from_dispatch(root).backward()
}

/// Backends named in the attribute below; another one would panic there.
fn has_shortcut(device: &Device) -> bool {
    match device.clone().without_autodiff().as_dispatch() {
        #[cfg(feature = "flex")]
        burn::backend::DispatchDevice::Flex(_) => true,
        #[cfg(feature = "tch")]
        burn::backend::DispatchDevice::LibTorch(_) => true,
        #[allow(unreachable_patterns)]
        _ => false,
    }
}

/// The one operation of this module, dispatched to the backend of its tensors.
#[backend_extension(Flex: cfg(feature = "flex"), LibTorch: cfg(feature = "tch"), Autodiff)]
pub(crate) trait SeedOps: Backend {
    /// A tensor of shape `[1]` without meaning, behind `out` in the graph, that gives `out` the gradient `gradient`.
    fn hand_over(out: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self>;
}

#[cfg(feature = "flex")]
impl SeedOps for burn::backend::Flex {
    fn hand_over(out: FloatTensor<Self>, _gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        root::<Self>(&out)
    }
}

#[cfg(feature = "tch")]
impl SeedOps for burn::backend::LibTorch {
    fn hand_over(out: FloatTensor<Self>, _gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        root::<Self>(&out)
    }
}

fn root<B: Backend>(out: &FloatTensor<B>) -> FloatTensor<B> {
    B::float_zeros([1].into(), &out.device(), out.dtype().into())
}

#[derive(Debug)]
struct SeedBackward;

impl<B: Backend> Backward<B, 1> for SeedBackward {
    type State = FloatTensor<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut NodeGradients,
        _checkpointer: &mut Checkpointer,
    ) {
        grads.consume::<B>(&ops.node);
        let [out] = ops.parents;
        if let Some(out) = out {
            grads.register::<B>(out.id, ops.state);
        }
    }
}

impl<B: Backend, C: CheckpointStrategy> SeedOps for Autodiff<B, C> {
    fn hand_over(out: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        let prepared = SeedBackward.prepare::<C>([out.node()]).compute_bound().stateful();
        let root = root::<B>(out.primitive());
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish(gradient.into_primitive(), root),
            OpsKind::UnTracked(prepared) => prepared.finish(root),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Not only the same numbers: the shortcut must be the one in use.
    #[test]
    fn the_shortcut_gives_the_bits_of_a_product() {
        let device = Device::flex().autodiff();
        assert!(has_shortcut(&device));
        let plain = Device::flex();
        let values =
            |scale: f32| (0..24).map(|i| (i as f32 * 1.7 - 11.0) * scale).collect::<Vec<_>>();
        let matrix =
            |scale| Tensor::<1>::from_data(values(scale).as_slice(), &plain).reshape([4, 6]);
        let (x, gradient): (Tensor<2>, Tensor<2>) = (matrix(1.0), matrix(-0.01));
        let run = |backward: &dyn Fn(Tensor<2>, Tensor<2>) -> Gradients| {
            let leaf = Tensor::from_inner(x.clone()).require_grad();
            let out = leaf.clone().exp() * leaf.clone();
            let gradient = leaf.grad(&backward(out, gradient.clone())).unwrap();
            gradient.into_data().as_bytes().to_vec()
        };
        let product = run(&|out, g| (out * Tensor::from_inner(g)).sum().backward());
        assert!(run(&backward_from) == product);
    }
}
