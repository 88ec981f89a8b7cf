//! Tensor parallelism: every rank of the axis holds a slice of every matrix and works on the same sequences.
//!
//! ```text
//! embed      rows of the vocabulary          lookup, zeros for foreign tokens -> exit
//! attention  whole heads: columns, then rows  norm -> enter -> wq wk wv, heads, wo -> exit
//! mlp        columns, then rows of d_ff       norm -> enter -> w_gate w_up, w_down -> exit
//! head       columns of the vocabulary        norm -> enter -> logits of own tokens -> loss over all ranks' logits
//! ```
//!
//! `enter` is the identity and sums gradients in backward, `exit` sums partial results and is the identity in backward.
//! With *sequence parallelism* the residual stream between `exit` and `enter` holds a part of the sequence on each rank:
//! `enter` gathers it and `exit` reduces and scatters, which moves the same bytes and divides the memory of the norms and
//! residuals.
//!
//! A head for classes is small, and whole on every rank. Adapters are cut as the weights beside them.
//!
//! [`init`] or [`from_values`] makes a rank's model, [`cut`] takes it out of a whole one, [`attach`] turns a model of slices
//! into one that knows its group, [`reading`] gives the form for evaluation and generation, and [`finish_tensor_gradients`] ends a step. The model itself
//! knows the traits [`Region`] and [`Vocab`] only.
//!
//! # Reference
//! Shoeybi et al., "Megatron-LM", 2019, section 3; Korthikanti et al., "Reducing Activation Recomputation in Large
//! Transformer Models", 2022, section 4.2.2 (sequence parallelism).

mod build;
mod cut;
mod error;
mod gradients;
mod loss;
mod region;
mod slice;
mod vocab;

use std::sync::Arc;

use caravan_collective::Communicator;
use caravan_model::{Llama, Local, Region, Vocab, Whole};

pub use build::{from_values, init};
pub use cut::cut;
pub use error::TensorError;
pub use gradients::{finish_tensor_gradients, sums_over_tensor_axis};
pub use region::{ReplicaRegion, TensorRegion};
pub use slice::{Slice, check, check_sequence, part, slice_of, whole_shape};
pub use vocab::SplitVocab;

/// A model whose parameters are the slices of this rank ([`slice_of`]), made to work with the other ranks of `group`.
///
/// With `sequence_parallel` every sequence that it is given must divide by the size of the group ([`check_sequence`]).
/// For a group of one the model runs exactly as without.
#[must_use]
pub fn attach(model: Llama, group: &Communicator, sequence_parallel: bool) -> Llama {
    let (region, vocab): (Arc<dyn Region>, Arc<dyn Vocab>) = if group.size() == 1 {
        (Arc::new(Local), Arc::new(Whole))
    } else {
        let vocab = SplitVocab::new(model.config().vocab_size, group);
        (Arc::new(TensorRegion::new(group, sequence_parallel)), Arc::new(vocab))
    };
    let has_classes = model.config().n_classes.is_some();
    let model = model.with_ranks(&region, &vocab);
    if group.size() == 1 || !has_classes {
        return model;
    }
    let region: Arc<dyn Region> = Arc::new(ReplicaRegion::new(group, sequence_parallel));
    let vocab: Arc<dyn Vocab> = Arc::new(Whole);
    model.with_head_ranks(&region, &vocab)
}

/// The model as it is read ([`Forward`](caravan_model::Forward)): without sequence parallelism, so that sequences may have
/// any length, one token included. The weights are the same, and so are the logits on every rank.
///
/// All ranks of the group must read the same tokens in the same order.
#[must_use]
pub fn reading(model: Llama, group: &Communicator) -> Llama {
    attach(model, group, false)
}
