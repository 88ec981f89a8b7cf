//! Where other ranks enter the model, without it knowing that there are any.

use std::fmt::Debug;

use burn::tensor::Tensor;

/// What happens around weights that may be split over ranks: [`enter`](Self::enter) before column-sharded ones,
/// [`exit`](Self::exit) after row-sharded ones.
///
/// Tensor parallelism: `enter` is the identity forward and an all-reduce backward, `exit` the reverse. Sequence
/// parallelism: `enter` gathers the sequence, `exit` reduces and scatters it. A block reads its local head count from its
/// weights, so nothing else changes. The embedding is left and the head entered in the same way; what else they need to know
/// is in [`Vocab`](crate::Vocab).
///
/// # Reference
/// Shoeybi et al., "Megatron-LM", 2019, section 3 (the operators f and g).
pub trait Region: Debug + Send + Sync {
    /// From a replicated (or sequence-sharded) activation to the input of column-sharded weights.
    fn enter(&self, x: Tensor<3>) -> Tensor<3>;

    /// From the output of row-sharded weights, a partial sum, to a replicated (or sequence-sharded) activation.
    fn exit(&self, x: Tensor<3>) -> Tensor<3>;
}

/// All weights are here: both ways the identity.
#[derive(Clone, Copy, Debug, Default)]
pub struct Local;

impl Region for Local {
    fn enter(&self, x: Tensor<3>) -> Tensor<3> {
        x
    }

    fn exit(&self, x: Tensor<3>) -> Tensor<3> {
        x
    }
}
