//! The sums of a step over the ranks of the context axis.

use burn::tensor::{Tensor, TensorData};
use caravan_collective::{Communicator, ReduceOp};

use crate::gradients::Gradient;
use crate::{Gradients, LossSum, mutation};

/// A message is full with this many elements (16 MiB): few messages, and little memory beside the gradients.
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
    let slots = entries.iter_mut().map(|Gradient { values, .. }| values).chain(second);
    all_reduce(&mut slots.collect::<Vec<_>>(), BUFFER_ELEMENTS, group);
    (Gradients::new(entries, tied), loss)
}

/// Replaces the tensors by their sums over the ranks, in messages that are full with `full` elements.
fn all_reduce(mut rest: &mut [&mut Tensor<1>], full: usize, group: &Communicator) {
    while !rest.is_empty() {
        let mut n = 0;
        let has_room = |slot: &&&mut Tensor<1>| {
            let has_room = n < full;
            n += slot.dims()[0];
            has_room
        };
        let count = rest.iter().take_while(has_room).count();
        let (now, later) = std::mem::take(&mut rest).split_at_mut(count);
        all_reduce_together(now, group);
        rest = later;
    }
}

/// Replaces the tensors by their sums over the ranks, in one message.
fn all_reduce_together(slots: &mut [&mut Tensor<1>], group: &Communicator) {
    let (mut sums, mut places) = (Vec::new(), Vec::with_capacity(slots.len()));
    for slot in slots.iter_mut() {
        // Taken, not cloned: its memory is free again before the sums come.
        let (device, [n]) = (slot.device(), slot.dims());
        let data = std::mem::replace(*slot, Tensor::empty([0], &device)).into_data();
        sums.extend_from_slice(data.as_slice::<f32>().expect("gradients are f32"));
        places.push((device, n));
    }
    group.all_reduce(ReduceOp::Sum, &mut sums);
    let mut start = 0;
    for (slot, (device, n)) in slots.iter_mut().zip(places) {
        **slot = Tensor::from_data(TensorData::new(sums[start..start + n].to_vec(), [n]), &device);
        start += n;
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use caravan_collective::threads;

    use super::*;

    #[test]
    fn sums_do_not_depend_on_the_messages() {
        for (full, messages) in [(1, 4), (4, 3), (5, 2), (100, 1)] {
            let ranks = threads::run(3, |group| {
                let start = group.traffic().calls;
                let tensor = |values: &[f32]| {
                    let values: Vec<f32> =
                        values.iter().map(|x| x * (1 + group.rank()) as f32).collect();
                    Tensor::<1>::from_data(values.as_slice(), &Device::flex())
                };
                let mut tensors = [&[1.0][..], &[2.0, 3.0, 4.0], &[5.0; 5], &[6.0]].map(tensor);
                all_reduce(&mut tensors.iter_mut().collect::<Vec<_>>(), full, &group);
                let sums = tensors.map(|x| x.into_data().try_into_vec::<f32>().unwrap());
                (sums.concat(), group.traffic().calls - start)
            });
            let expected = [6.0, 12.0, 18.0, 24.0, 30.0, 30.0, 30.0, 30.0, 30.0, 36.0];
            for (sums, calls) in ranks.unwrap() {
                assert_eq!(sums, expected);
                assert_eq!(calls, messages, "{full}");
            }
        }
    }
}
