//! The steps of the operators on data in host memory.

use burn::tensor::{DType, TensorData};
use half::bf16;

use crate::communicator::Communicator;
use crate::element::{Element, ReduceOp};

/// What happens to a tensor, forward or backward. `dim` counts from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    Keep,
    /// The sum over the ranks.
    Sum,
    /// The parts of all ranks along `dim`, in rank order.
    Gather { dim: usize },
    /// The own part along `dim` of the sum over the ranks.
    ScatterSum { dim: usize },
    /// The own part along `dim`.
    Own { dim: usize },
}

/// Runs a step that communicates; the others need no host memory and come back unchanged.
pub(super) fn run(step: Step, data: TensorData, group: &Communicator) -> TensorData {
    match data.dtype() {
        DType::F32 => run_as::<f32>(step, data, group),
        DType::F64 => run_as::<f64>(step, data, group),
        DType::BF16 => run_as::<bf16>(step, data, group),
        other => panic!(
            "a collective on a tensor of {other:?}, expected F32, F64 or BF16\n\
             help: cast the tensor before it travels"
        ),
    }
}

fn run_as<E: Element + burn::tensor::Element>(
    step: Step,
    mut data: TensorData,
    group: &Communicator,
) -> TensorData {
    const IS_ELEMENT: &str = "the element type was matched";
    match step {
        Step::Keep | Step::Own { .. } => data,
        Step::Sum => {
            group.all_reduce(ReduceOp::Sum, data.as_mut_slice::<E>().expect(IS_ELEMENT));
            data
        }
        Step::Gather { dim } => {
            let (mut dims, size) = (data.shape().to_vec(), group.size());
            let (n_outer, row) = rows(&dims, dim);
            let part = data.as_slice::<E>().expect(IS_ELEMENT);
            let mut parts = vec![E::zeroed(); size * part.len()]; // [size, n_outer, row]
            group.all_gather(part, &mut parts);
            dims[dim] *= size;
            TensorData::new(swap_outer(parts, size, n_outer, row), dims)
        }
        Step::ScatterSum { dim } => {
            let (mut dims, size) = (data.shape().to_vec(), group.size());
            dims[dim] /= size;
            let (n_outer, row) = rows(&dims, dim);
            let whole = data.try_into_vec::<E>().expect(IS_ELEMENT); // [n_outer, size, row]
            let parts = swap_outer(whole, n_outer, size, row);
            let mut own = vec![E::zeroed(); n_outer * row];
            group.reduce_scatter(ReduceOp::Sum, &parts, &mut own);
            TensorData::new(own, dims)
        }
    }
}

/// The number of indices before `dim`, and the elements from `dim` on.
fn rows(dims: &[usize], dim: usize) -> (usize, usize) {
    (dims[..dim].iter().product(), dims[dim..].iter().product())
}

/// `[a, b, row]` to `[b, a, row]`.
fn swap_outer<E: Element>(values: Vec<E>, a: usize, b: usize, row: usize) -> Vec<E> {
    if a == 1 || b == 1 || row == 0 {
        return values;
    }
    let mut swapped = Vec::with_capacity(values.len());
    for j in 0..b {
        for i in 0..a {
            let start = (i * b + j) * row;
            swapped.extend_from_slice(&values[start..start + row]);
        }
    }
    swapped
}
