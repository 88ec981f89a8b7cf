//! Cross-entropy of logits whose columns are split over ranks: no rank ever sees a whole row.
//!
//! Every rank reads three numbers per row off its own logits: their maximum, the sum of `e^(x - maximum)`, and the target's
//! logit where it is here. One all-gather of these, combined in f64 in rank order on every rank, gives each row's
//! log-sum-exp and loss, the same bits everywhere. The backward needs no communication: `dy (e^(x - lse) - onehot)` of the own columns.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients as NodeGradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IndexingUpdateOp, IntTensor};
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use caravan_collective::{Communicator, ReduceOp, tensor};

use super::vocab::Located;
use crate::mutation;

/// Numbers per row that a rank tells the others.
const STATISTICS: usize = 3;

/// A row over the whole vocabulary.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// `ln sum e^x` over all logits.
    pub(super) log_sum_exp: f64,
    /// Negative log-probability of the target in nats, 0 where ignored.
    pub(super) loss: f64,
}

/// Every row's log-sum-exp and loss, from this rank's plain `logits: [n, tokens here]`.
pub(super) fn row_losses(logits: &Tensor<2>, located: &Located, group: &Communicator) -> Vec<Row> {
    let max = logits.clone().max_dim(1); // [n, 1]
    let sum = logits.clone().sub(max.clone()).exp().sum_dim(1); // [n, 1]
    let target = logits.clone().gather(1, columns(located, &logits.device())); // [n, 1]
    let mut mine = host(Tensor::cat(vec![max, sum, target], 1)); // [n, 3]
    for (row, is_here) in mine.chunks_exact_mut(STATISTICS).zip(&located.is_here) {
        if !is_here {
            row[2] = 0.0;
        }
    }
    let mut all = vec![0.0; mine.len() * group.size()];
    group.all_gather(&mine, &mut all);
    if mutation::on("tensor_loss_of_own_columns") {
        all = mine.repeat(group.size());
    }
    located
        .is_kept
        .iter()
        .enumerate()
        .map(|(row, is_kept)| {
            let ranks = || {
                let rows = all.chunks_exact(mine.len()).map(|rank| &rank[row * STATISTICS..]);
                rows.map(|rank| [rank[0], rank[1], rank[2]].map(f64::from))
            };
            let max = ranks().map(|[max, ..]| max).fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = ranks().map(|[own, sum, _]| sum * (own - max).exp()).sum();
            let target: f64 = ranks().map(|[.., target]| target).sum();
            let log_sum_exp = max + sum.ln();
            Row { log_sum_exp, loss: if *is_kept { log_sum_exp - target } else { 0.0 } }
        })
        .collect()
}

/// The sum of the losses `[1]` with the hand-written backward.
///
/// The device must be one that this [`covers`].
pub(super) fn fused(logits: Tensor<2>, located: &Located, group: &Communicator) -> Tensor<1> {
    let rows = row_losses(&logits.clone().inner(), located, group);
    let device = logits.device();
    let nats: f64 = rows.iter().map(|row| row.loss).sum();
    let nats = Tensor::<1>::from_data(TensorData::new(vec![nats as f32], [1]), &device);
    let lse = column(rows.iter().map(|row| row.log_sum_exp as f32), &device);
    let [kept, here] = weights(located, &device);
    Tensor::from_dispatch(Dispatch::split_cross_entropy(
        logits.into_dispatch(),
        columns(located, &device).into_dispatch(),
        lse.into_dispatch(),
        kept.into_dispatch(),
        here.into_dispatch(),
        nats.into_dispatch(),
    ))
}

/// The sum of the losses `[1]` of Burn's own operations and the region's `exit`: what [`fused`] must equal.
pub(super) fn composed(logits: Tensor<2>, located: &Located, group: &Communicator) -> Tensor<1> {
    let device = logits.device();
    let mut max = host(logits.clone().inner().max_dim(1));
    group.all_reduce(ReduceOp::Max, &mut max);
    let max = column(max.into_iter(), &device);
    let [kept, here] = weights(located, &device);
    let sum = logits.clone().sub(max.clone()).exp().sum_dim(1);
    let target = logits.gather(1, columns(located, &device)) * here;
    let log_sum_exp = tensor::exit(sum, group).log() + max;
    ((log_sum_exp - tensor::exit(target, group)) * kept).sum()
}

/// `[n, 1]`: where each row's target is among the columns here.
fn columns(located: &Located, device: &Device) -> Tensor<2, Int> {
    let n = located.columns.len();
    Tensor::from_data(TensorData::new(located.columns.clone(), [n, 1]), device)
}

/// Both `[n, 1]`: 1 where a row counts, 1 where its target is here.
fn weights(located: &Located, device: &Device) -> [Tensor<2>; 2] {
    [&located.is_kept, &located.is_here]
        .map(|flags| column(flags.iter().map(|flag| f32::from(u8::from(*flag))), device))
}

/// `[n, 1]`.
fn column(values: impl Iterator<Item = f32>, device: &Device) -> Tensor<2> {
    let values: Vec<f32> = values.collect();
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n, 1]), (device, DType::F32))
}

fn host(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().try_into_vec_as().expect("logits are numbers")
}

/// Backends named in the attribute below; another one would panic there.
pub(super) fn covers(device: &Device) -> bool {
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
pub(super) trait SplitCrossEntropy: Backend {
    /// `nats`, whose gradient flows to the `logits: [n, tokens here]`. The other arguments are constants `[n, 1]`: the
    /// target's column, the log-sum-exp over all ranks, whether the row counts and whether its target is here.
    fn split_cross_entropy(
        logits: FloatTensor<Self>,
        columns: IntTensor<Self>,
        lse: FloatTensor<Self>,
        kept: FloatTensor<Self>,
        here: FloatTensor<Self>,
        nats: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

#[cfg(feature = "flex")]
impl SplitCrossEntropy for burn::backend::Flex {
    fn split_cross_entropy(
        _logits: FloatTensor<Self>,
        _columns: IntTensor<Self>,
        _lse: FloatTensor<Self>,
        _kept: FloatTensor<Self>,
        _here: FloatTensor<Self>,
        nats: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        nats
    }
}

#[cfg(feature = "tch")]
impl SplitCrossEntropy for burn::backend::LibTorch {
    fn split_cross_entropy(
        _logits: FloatTensor<Self>,
        _columns: IntTensor<Self>,
        _lse: FloatTensor<Self>,
        _kept: FloatTensor<Self>,
        _here: FloatTensor<Self>,
        nats: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        nats
    }
}

#[derive(Debug)]
struct SplitCrossEntropyBackward;

/// What the backward reads, as in [`SplitCrossEntropy::split_cross_entropy`].
#[derive(Clone, Debug)]
struct Saved<B: Backend> {
    logits: FloatTensor<B>,
    columns: IntTensor<B>,
    lse: FloatTensor<B>,
    kept: FloatTensor<B>,
    here: FloatTensor<B>,
}

impl<B: Backend> Backward<B, 1> for SplitCrossEntropyBackward {
    type State = Saved<B>;

    /// `dy (e^(x - lse) - onehot)` of the columns here, 0 in ignored rows.
    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut NodeGradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node); // [1]
        let [parent] = ops.parents;
        let Some(parent) = parent else { return };
        let Saved { logits, columns, lse, kept, here } = ops.state;
        let dy = B::float_expand(B::float_reshape(dy, [1, 1].into()), kept.shape());
        let p = B::float_exp(B::float_sub(logits, lse)); // [n, tokens here]
        let dlogits = B::float_mul(p, B::float_mul(kept, dy.clone()));
        let minus = B::float_neg(B::float_mul(here, dy)); // [n, 1]
        let dlogits = B::float_scatter(1, dlogits, columns, minus, IndexingUpdateOp::Add);
        grads.register::<B>(parent.id, dlogits);
    }
}

impl<B: Backend, C: CheckpointStrategy> SplitCrossEntropy for Autodiff<B, C> {
    fn split_cross_entropy(
        logits: FloatTensor<Self>,
        columns: IntTensor<Self>,
        lse: FloatTensor<Self>,
        kept: FloatTensor<Self>,
        here: FloatTensor<Self>,
        nats: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let prepared = SplitCrossEntropyBackward.prepare::<C>([logits.node()]);
        let [logits, lse, kept, here, nats] =
            [logits, lse, kept, here, nats].map(|tensor| tensor.into_primitive());
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                prepared.finish(Saved { logits, columns, lse, kept, here }, nats)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(nats),
        }
    }
}
