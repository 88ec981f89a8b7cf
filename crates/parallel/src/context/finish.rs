//! The sums of a step over the ranks of the context axis.

use burn::tensor::{Tensor, TensorData};
use caravan_collective::{Communicator, ReduceOp};

use crate::gradients::Gradient;
use crate::{Gradients, LossSum, mutation};

/// Gradients travel in buffers of at least this many elements (16 MiB), so few messages need little memory.
const BUFFER_ELEMENTS: usize = 1 << 22;

/// Adds a step's gradients and loss over the ranks of the context axis; all ranks get the sum.
///
/// Each rank's are sums over its own positions, and so is the result: nothing is divided here or before, so that there is no
/// number of ranks or tokens to get wrong. Call it once per step, after all micro-batches; gradients may be finished or not.
///
/// # Panics
/// If the gradients are not f32, or a peer fails.
pub fn finish_context(
    gradients: Gradients,
    loss: LossSum,
    group: &Communicator,
) -> (Gradients, LossSum) {
    if group.size() == 1 {
        return (gradients, loss);
    }
    // Counts are far below 2^53, so a float holds them exactly and one message does.
    let mut sums = [loss.nats, loss.tokens as f64];
    group.all_reduce(ReduceOp::Sum, &mut sums);
    let loss = LossSum { nats: sums[0], tokens: sums[1] as u64 };
    if mutation::on("context_gradients_stay") {
        return (gradients, loss);
    }

    let (mut entries, mut tied) = gradients.into_parts();
    let second = tied.as_mut().map(|(_, values)| values);
    let mut slots: Vec<&mut Tensor<1>> =
        entries.iter_mut().map(|Gradient { values, .. }| values).chain(second).collect();
    let mut rest = &mut slots[..];
    while !rest.is_empty() {
        let mut n = 0;
        let fits = |slot: &&&mut Tensor<1>| {
            let has_room = n < BUFFER_ELEMENTS;
            n += slot.dims()[0];
            has_room
        };
        let count = rest.iter().take_while(fits).count();
        let (now, later) = std::mem::take(&mut rest).split_at_mut(count);
        all_reduce(now, group);
        rest = later;
    }
    (Gradients::new(entries, tied), loss)
}

/// Replaces the tensors by their sums over the ranks, in one message.
fn all_reduce(slots: &mut [&mut Tensor<1>], group: &Communicator) {
    let mut buffer = Vec::new();
    for slot in slots.iter() {
        let data = (*slot).clone().into_data();
        buffer.extend_from_slice(data.as_slice::<f32>().expect("gradients are f32"));
    }
    group.all_reduce(ReduceOp::Sum, &mut buffer);
    let mut start = 0;
    for slot in slots {
        let (n, device) = (slot.dims()[0], slot.device());
        **slot = Tensor::from_data(TensorData::new(buffer[start..start + n].to_vec(), [n]), &device);
        start += n;
    }
}
