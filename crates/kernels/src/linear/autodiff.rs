//! The backward of the linear layer on any backend with its kernels.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, TensorMetadata};

use super::{LinearKernels, LinearOps, Precision, forward, rows};

#[derive(Debug)]
struct LinearBackward(Precision);

impl<B: LinearKernels> Backward<B, 2> for LinearBackward {
    /// `x` where the weight needs a gradient, and the weight where `x` does.
    type State = (FloatTensor<B>, FloatTensor<B>);

    /// `dx = dy w^T`, `dw = x^T dy`, in the precision of the forward product.
    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = rows::<B>(grads.consume::<B>(&ops.node));
        let (x, weight) = ops.state;
        let [x_parent, weight_parent] = ops.parents;
        let shape = x.shape();
        if let Some(parent) = x_parent {
            let dx = B::matrix_product(dy.clone(), B::float_transpose(weight), self.0);
            grads.register::<B>(parent.id, B::float_reshape(dx, shape));
        }
        if let Some(parent) = weight_parent {
            let dw = B::matrix_product(B::float_transpose(rows::<B>(x)), dy, self.0);
            grads.register::<B>(parent.id, dw);
        }
    }
}

impl<B: LinearKernels, C: CheckpointStrategy> LinearOps for Autodiff<B, C> {
    fn linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        precision: Precision,
    ) -> FloatTensor<Self> {
        let prep = LinearBackward(precision).prepare::<C>([x.node(), weight.node()]);
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        match prep.compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = forward::<B>(x.clone(), weight.clone(), precision);
                prep.finish((x, weight), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(forward::<B>(x, weight, precision)),
        }
    }
}
