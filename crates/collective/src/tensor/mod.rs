//! Collectives on tensors, each with its own backward.
//!
//! | operator | forward | backward |
//! |---|---|---|
//! | [`enter`] | the tensor itself | sum over the ranks |
//! | [`exit`] | sum over the ranks | the gradient itself |
//! | [`gather`] | all parts along `dim`, in rank order | sum over the ranks, own part |
//! | [`scatter_sum`] | sum over the ranks, own part along `dim` | all parts |
//! | [`split`] | own part along `dim` | all parts |
//!
//! These are the two conjugate operators of tensor parallelism, *f* and *g*, and those of sequence
//! parallelism ([Shoeybi et al. 2019](https://arxiv.org/abs/1909.08053), section 3,
//! [Korthikanti et al. 2022](https://arxiv.org/abs/2205.05198), section 4.2). An all-reduce whose
//! backward is again an all-reduce would count the gradient once per rank.
//!
//! They work on plain tensors and on tensors with autodiff, of f32, f64 or bf16, on any backend by
//! way of host memory. A backward is itself collective: all ranks must build the same graph and run
//! backward in the same order. Burn visits nodes by depth in the order parents were declared, so
//! equal graphs communicate in equal order; a graph must never branch on the rank. Nothing here is
//! ever replayed by gradient checkpointing. A group of one rank adds no node to the graph.
//!
//! ```text
//! src/tensor/mod.rs    the operators as functions
//!            graph.rs  the one differentiable operation behind them
//!            host.rs   the same on data in host memory
//! ```

use burn::tensor::{Device, Tensor};

use crate::communicator::Communicator;
use graph::{Operator, apply};
use host::Step;

mod graph;
mod host;

/// Returns the sum of `x` over the ranks. All ranks give the same shape and get the same sum.
///
/// # Panics
/// When `x` is part of a graph: [`enter`] and [`exit`] say what its gradient is. As every operation
/// of a [`Communicator`], and for element types other than f32, f64 and bf16.
pub fn all_reduce<const D: usize>(x: Tensor<D>, group: &Communicator) -> Tensor<D> {
    assert!(
        !x.is_tracked(),
        "all_reduce of a tensor with a gradient on axis `{}`\nhelp: use `enter` or `exit`, which \
         differ in their gradient",
        group.axis()
    );
    if group.size() == 1 {
        return x;
    }
    on_host(x, Step::Sum, group)
}

/// Before weights that are cut by columns: forward the identity, backward the sum over the ranks.
///
/// `x` is the same on all ranks.
///
/// # Panics
/// As [`all_reduce`], but for the graph.
pub fn enter<const D: usize>(x: Tensor<D>, group: &Communicator) -> Tensor<D> {
    operate(x, Step::Keep, Step::Sum, group)
}

/// After weights that are cut by rows: forward the sum over the ranks, backward the identity.
///
/// # Panics
/// As [`all_reduce`], but for the graph.
pub fn exit<const D: usize>(x: Tensor<D>, group: &Communicator) -> Tensor<D> {
    operate(x, Step::Sum, Step::Keep, group)
}

/// Puts the parts of all ranks together: `[.., n, ..]` to `[.., size * n, ..]` along `dim`, in rank
/// order. Backward sums the gradient over the ranks and keeps the own part.
///
/// # Panics
/// As [`exit`]; when `dim` is not below `D`, or shapes differ over the ranks.
pub fn gather<const D: usize>(x: Tensor<D>, dim: usize, group: &Communicator) -> Tensor<D> {
    require_dim::<D>(dim);
    operate(x, Step::Gather { dim }, Step::ScatterSum { dim }, group)
}

/// Sums over the ranks and keeps the own part: `[.., size * n, ..]` to `[.., n, ..]` along `dim`.
/// Backward puts the gradients of all parts together.
///
/// # Panics
/// As [`exit`]; when `dim` is not below `D`, or the group's size does not divide it.
pub fn scatter_sum<const D: usize>(x: Tensor<D>, dim: usize, group: &Communicator) -> Tensor<D> {
    require_parts(&x, dim, group);
    operate(x, Step::ScatterSum { dim }, Step::Gather { dim }, group)
}

/// Keeps the own part: `[.., size * n, ..]` to `[.., n, ..]` along `dim`. Backward puts the
/// gradients of all parts together.
///
/// `x` is the same on all ranks, and so is its gradient: ranks that use their part alone contribute
/// to it once each.
///
/// # Panics
/// As [`exit`]; when `dim` is not below `D`, or the group's size does not divide it.
pub fn split<const D: usize>(x: Tensor<D>, dim: usize, group: &Communicator) -> Tensor<D> {
    require_parts(&x, dim, group);
    operate(x, Step::Own { dim }, Step::Gather { dim }, group)
}

fn operate<const D: usize>(
    x: Tensor<D>,
    forward: Step,
    backward: Step,
    group: &Communicator,
) -> Tensor<D> {
    if group.size() == 1 {
        return x;
    }
    if x.is_tracked() {
        assert!(
            graph::covers(&x.device()),
            "collectives with a gradient are not compiled for this tensor's backend\n\
             help: enable the backend's feature of caravan-collective"
        );
        let operator = Operator { forward, backward, group: group.clone() };
        return Tensor::from_dispatch(apply(x.into_dispatch(), operator));
    }
    on_host(x, forward, group)
}

/// One step on a tensor outside any graph, of any backend.
fn on_host<const D: usize>(x: Tensor<D>, step: Step, group: &Communicator) -> Tensor<D> {
    let (device, dtype): (Device, _) = (x.device(), x.dtype());
    match step {
        Step::Keep => x,
        Step::Own { dim } => {
            let n = x.dims()[dim] / group.size();
            x.narrow(dim, group.rank() * n, n)
        }
        _ => Tensor::from_data(host::run(step, x.into_data(), group), (&device, dtype)),
    }
}

fn require_dim<const D: usize>(dim: usize) {
    assert!(dim < D, "dim {dim} of a tensor with {D} dims");
}

fn require_parts<const D: usize>(x: &Tensor<D>, dim: usize, group: &Communicator) {
    require_dim::<D>(dim);
    let (n, size) = (x.dims()[dim], group.size());
    assert!(
        n.is_multiple_of(size),
        "dim {dim} of the tensor is {n}, which {size} ranks of axis `{}` do not divide\n\
         help: choose sizes that are multiples of the number of ranks",
        group.axis()
    );
}
