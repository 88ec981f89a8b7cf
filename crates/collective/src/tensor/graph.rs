//! The one differentiable operation behind the operators: a step forward, a step backward.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, Backend, Dispatch, DispatchTensor, TensorMetadata, backend_extension,
};
use burn::tensor::{Device, Slice, try_read_sync};

use super::host::{self, Step};
use crate::communicator::Communicator;

/// What an operator does in each direction, and with whom.
#[derive(Clone, Debug)]
pub(super) struct Operator {
    pub(super) forward: Step,
    pub(super) backward: Step,
    pub(super) group: Communicator,
}

/// Whether [`apply`] knows the backend of `device`; it would panic elsewhere.
pub(super) fn covers(device: &Device) -> bool {
    match device.clone().without_autodiff().as_dispatch() {
        #[cfg(feature = "flex")]
        burn::backend::DispatchDevice::Flex(_) => true,
        #[cfg(feature = "cuda")]
        burn::backend::DispatchDevice::Cube(_) => true,
        #[cfg(feature = "tch")]
        burn::backend::DispatchDevice::LibTorch(_) => true,
        _ => false,
    }
}

/// Applies `operator` to `x` and hangs its backward into the graph.
pub(super) fn apply(x: DispatchTensor, operator: Operator) -> DispatchTensor {
    <Dispatch as CollectiveOps>::operate(x, operator)
}

/// The backends that communicate by way of host memory.
pub(crate) trait HostBackend: Backend {}

#[cfg(feature = "flex")]
impl HostBackend for burn::backend::Flex {}
#[cfg(feature = "tch")]
impl HostBackend for burn::backend::LibTorch {}
#[cfg(feature = "cuda")]
impl HostBackend for burn_cubecl::CubeBackend {}

/// The dispatched operation.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cuda"),
    LibTorch: cfg(feature = "tch"),
    Autodiff
)]
pub(super) trait CollectiveOps: Backend {
    /// See [`apply`].
    fn operate(x: FloatTensor<Self>, operator: Operator) -> FloatTensor<Self>;
}

impl<B: HostBackend> CollectiveOps for B {
    fn operate(x: FloatTensor<B>, operator: Operator) -> FloatTensor<B> {
        run::<B>(operator.forward, x, &operator.group)
    }
}

fn run<B: Backend>(step: Step, x: FloatTensor<B>, group: &Communicator) -> FloatTensor<B> {
    match step {
        Step::Keep => x,
        Step::Own { dim } => {
            let shape = x.shape();
            let n = shape[dim] / group.size();
            let mut slices = vec![Slice::full(); shape.num_dims()];
            slices[dim] = Slice::from(group.rank() * n..(group.rank() + 1) * n);
            B::float_slice(x, &slices)
        }
        Step::Sum | Step::Gather { .. } | Step::ScatterSum { .. } => {
            let device = x.device();
            let data = try_read_sync(B::float_into_data(x))
                .expect("every backend here reads synchronously")
                .unwrap_or_else(|error| panic!("reading a tensor to send it: {error}"));
            B::float_from_data(host::run(step, data, group), &device)
        }
    }
}

#[derive(Debug)]
struct OperatorBackward;

impl<B: HostBackend> Backward<B, 1> for OperatorBackward {
    type State = Operator;

    fn backward(self, ops: Ops<Operator, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            grads.register::<B>(parent.id, run::<B>(ops.state.backward, dy, &ops.state.group));
        }
    }
}

impl<B: HostBackend, C: CheckpointStrategy> CollectiveOps for Autodiff<B, C> {
    fn operate(x: FloatTensor<Self>, operator: Operator) -> FloatTensor<Self> {
        let prep = OperatorBackward.prepare::<C>([x.node()]).compute_bound().stateful();
        let y = run::<B>(operator.forward, x.into_primitive(), &operator.group);
        match prep {
            OpsKind::Tracked(prep) => prep.finish(operator, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}
