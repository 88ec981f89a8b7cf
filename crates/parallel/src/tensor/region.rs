//! Where activations cross the ranks of the tensor axis.

use burn::tensor::Tensor;
use caravan_collective::{Communicator, tensor};
use caravan_model::Region;

use crate::mutation;

/// The dim of a sequence's positions in `[b, s, d_model]`.
const SEQUENCE: usize = 1;

/// The [`Region`] of a rank that holds slices of the weights.
#[derive(Clone, Debug)]
pub struct TensorRegion {
    group: Communicator,
    sequence_parallel: bool,
}

impl TensorRegion {
    /// Slices lie on the ranks of `group`; with `sequence_parallel` the residual stream does, too.
    pub fn new(group: &Communicator, sequence_parallel: bool) -> Self {
        Self { group: group.clone(), sequence_parallel }
    }
}

impl Region for TensorRegion {
    fn enter(&self, x: Tensor<3>) -> Tensor<3> {
        if mutation::on("tensor_enter_drops_sum") {
            return self.entered_without_sum(x);
        }
        match self.sequence_parallel {
            true => tensor::gather(x, SEQUENCE, &self.group),
            false => tensor::enter(x, &self.group),
        }
    }

    /// # Panics
    /// With sequence parallelism, if the sequence does not divide by the size of the group.
    fn exit(&self, mut x: Tensor<3>) -> Tensor<3> {
        if mutation::on("tensor_exit_sums_twice") {
            x = times_in_backward(x, self.group.size());
        }
        if !self.sequence_parallel {
            return tensor::exit(x, &self.group);
        }
        let (s, size) = (x.dims()[SEQUENCE], self.group.size());
        assert!(
            s.is_multiple_of(size),
            "sequence parallelism cannot cut {s} positions into {size} equal parts"
        );
        tensor::scatter_sum(x, SEQUENCE, &self.group)
    }
}

impl TensorRegion {
    /// Forward as [`enter`](Region::enter), backward this rank's own gradient alone: a fault before slices, and right
    /// before what is whole.
    fn entered_without_sum(&self, x: Tensor<3>) -> Tensor<3> {
        if !self.sequence_parallel {
            return x;
        }
        let [b, s, d] = x.dims();
        let start = self.group.rank() * s;
        let whole = tensor::gather(x.clone().detach(), SEQUENCE, &self.group);
        whole.slice_assign([0..b, start..start + s, 0..d], x)
    }
}

/// The [`Region`] of weights that are whole on every rank, which all do the same with whole sequences: gradients of what
/// enters are complete on each rank, and its own is the part that it takes.
#[derive(Clone, Debug)]
pub struct ReplicaRegion(TensorRegion);

impl ReplicaRegion {
    /// With `sequence_parallel` the ranks of `group` hold parts of the sequences that enter.
    pub fn new(group: &Communicator, sequence_parallel: bool) -> Self {
        Self(TensorRegion::new(group, sequence_parallel))
    }
}

impl Region for ReplicaRegion {
    fn enter(&self, x: Tensor<3>) -> Tensor<3> {
        match mutation::on("tensor_replica_summed") {
            true => self.0.enter(x),
            false => self.0.entered_without_sum(x),
        }
    }

    /// # Panics
    /// Always: nothing comes after the head.
    fn exit(&self, _: Tensor<3>) -> Tensor<3> {
        unreachable!("a head ends the model")
    }
}

/// A fault: `x`, whose gradient is `factor` times too large.
fn times_in_backward(x: Tensor<3>, factor: usize) -> Tensor<3> {
    let factor = factor as f64;
    x.clone().mul_scalar(factor) - x.detach().mul_scalar(factor - 1.0)
}
