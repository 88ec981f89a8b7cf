//! The backward of attention on any backend with its kernels.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};

use super::{Attended, AttentionKernels, AttentionOps};

#[derive(Debug)]
struct AttentionBackward;

/// The inputs and what the forward kept.
#[derive(Clone, Debug)]
struct Kept<B: AttentionKernels> {
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    starts: Option<IntTensor<B>>,
    attended: Attended<B>,
}

impl<B: AttentionKernels> Backward<B, 3> for AttentionBackward {
    type State = Kept<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dout = grads.consume::<B>(&ops.node);
        let Kept { q, k, v, starts, attended } = ops.state;
        let gradients = B::attention_backward(q, k, v, starts, attended, dout);
        for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, gradient);
            }
        }
    }
}

impl<B: AttentionKernels, C: CheckpointStrategy> AttentionOps for Autodiff<B, C> {
    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        attend::<B, C>(q, k, v, None)
    }

    fn document_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        starts: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        attend::<B, C>(q, k, v, Some(starts))
    }
}

fn attend<B: AttentionKernels, C: CheckpointStrategy>(
    q: FloatTensor<Autodiff<B, C>>,
    k: FloatTensor<Autodiff<B, C>>,
    v: FloatTensor<Autodiff<B, C>>,
    starts: Option<IntTensor<B>>,
) -> FloatTensor<Autodiff<B, C>> {
    let prep = AttentionBackward.prepare::<C>([q.node(), k.node(), v.node()]);
    let (q, k, v) = (q.into_primitive(), k.into_primitive(), v.into_primitive());
    match prep.compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let attended = B::attention_forward(q.clone(), k.clone(), v.clone(), starts.clone());
            let out = attended.out.clone();
            prep.finish(Kept { q, k, v, starts, attended }, out)
        }
        OpsKind::UnTracked(prep) => prep.finish(B::attention_forward(q, k, v, starts).out),
    }
}
