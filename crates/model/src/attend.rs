//! Where sequences that are cut over ranks enter a block: which positions it holds, and attention over all of them.

use std::fmt::Debug;

use burn::tensor::{Int, Tensor};
use caravan_kernels::Kernels;

use crate::RopeTables;

/// What a block asks about the sequence it holds a part of.
///
/// Context parallelism: a rank holds some positions of each sequence and mixes them with the other ranks' keys and values.
/// Head counts come from the tensors, so a block whose heads are split over other ranks asks the same way.
pub trait Attend: Debug + Send + Sync {
    /// Cosine and sine of the positions of the block's input, each `[s, head_dim / 2]`.
    ///
    /// # Panics
    /// If the tables do not reach so far.
    fn rope_rows(&self, tables: &RopeTables, s: usize) -> (Tensor<2>, Tensor<2>);

    /// Causal grouped-query attention of the positions that are here to the whole sequences.
    ///
    /// # Shapes
    /// - q: `[b, n_heads, s, head_dim]`, of the positions that are here
    /// - k, v: `[b, n_kv_heads, s, head_dim]`, of the same
    /// - document_starts: `[b, s]`, the first position of the *whole* sequence that each one attends to
    /// - returns `[b, n_heads, s, head_dim]`
    fn attend(
        &self,
        kernels: Kernels,
        q: Tensor<4>,
        k: Tensor<4>,
        v: Tensor<4>,
        document_starts: Option<Tensor<2, Int>>,
    ) -> Tensor<4>;

    /// Whether whole sequences are here. Decoding with a cache needs that: for it, give the model
    /// [`WholeSequences`] ([`Llama::with_attend`](crate::Llama::with_attend)).
    fn is_whole(&self) -> bool;
}

/// All positions are here, from 0 on.
#[derive(Clone, Copy, Debug, Default)]
pub struct WholeSequences;

impl Attend for WholeSequences {
    fn rope_rows(&self, tables: &RopeTables, s: usize) -> (Tensor<2>, Tensor<2>) {
        tables.rows(0, s)
    }

    fn attend(
        &self,
        kernels: Kernels,
        q: Tensor<4>,
        k: Tensor<4>,
        v: Tensor<4>,
        document_starts: Option<Tensor<2, Int>>,
    ) -> Tensor<4> {
        kernels.attention(q, k, v, document_starts)
    }

    fn is_whole(&self) -> bool {
        true
    }
}
