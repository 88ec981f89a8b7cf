//! What the tensor axis still owes a step's gradients.

use burn::tensor::{Tensor, TensorData};
use caravan_collective::Communicator;

use super::slice::{Side, adapter, holds_rows};
use crate::gradients::Gradients;
use crate::mutation;

/// Whether each rank of the tensor axis has only its part of the gradient of the parameter at `path`, so that the parts
/// must be added.
///
/// The side of an adapter that is not cut meets a slice of the other, whichever way sequences lie. With sequence
/// parallelism norms, the biases of outputs and a mix of layers see a part of the sequence on each rank. Everything else is
/// complete where it is: a slice belongs to one rank, and without sequence parallelism these see the same numbers
/// everywhere.
pub fn sums_over_tensor_axis(path: &str, sequence_parallel: bool) -> bool {
    if let Some((layer, side)) = adapter(path) {
        return (side == Side::B) == holds_rows(layer);
    }
    let is_whole =
        [".wo.bias", ".w_down.bias", "norm.weight", ".mix"].iter().any(|end| path.ends_with(end));
    sequence_parallel && is_whole
}

/// Completes the gradients of a step over the tensor axis: once per step, after its micro-batches are added up.
///
/// Collective over `group`: all ranks pass the gradients of the same parameters. The parts are added in rank order on every
/// rank, so all ranks get the same bits whatever the transport.
pub fn finish_tensor_gradients(
    gradients: Gradients,
    group: &Communicator,
    sequence_parallel: bool,
) -> Gradients {
    if group.size() == 1 || mutation::on("tensor_norms_not_summed") {
        return gradients;
    }
    let (mut entries, tied) = gradients.into_parts();
    let mut partial: Vec<_> = entries
        .iter_mut()
        .filter(|entry| sums_over_tensor_axis(&entry.path, sequence_parallel))
        .collect();
    if !partial.is_empty() {
        // They are small: one message for all.
        let flat = Tensor::cat(partial.iter().map(|entry| entry.values.clone()).collect(), 0);
        let (device, dtype) = (flat.device(), flat.dtype());
        let mine: Vec<f32> = flat.into_data().try_into_vec_as().expect("gradients are numbers");
        let mut all = vec![0.0; mine.len() * group.size()];
        group.all_gather(&mine, &mut all);
        let mut parts = all.chunks_exact(mine.len());
        let mut sum = parts.next().expect("a group has a rank").to_vec();
        for part in parts {
            sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        let mut rest = sum.as_slice();
        for entry in &mut partial {
            let (values, after) = rest.split_at(entry.values.dims()[0]);
            rest = after;
            let data = TensorData::new(values.to_vec(), [values.len()]);
            entry.values = Tensor::from_data(data, (&device, dtype));
        }
    }
    Gradients::new(entries, tied)
}
