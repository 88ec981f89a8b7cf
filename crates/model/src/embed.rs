//! The first segment: token ids to vectors.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, module};

/// The embedding table.
#[derive(Module, Debug)]
pub struct Embed {
    /// `[vocab_size, d_model]`.
    pub weight: Param<Tensor<2>>,
}

impl Embed {
    /// Looks up every token's row.
    ///
    /// # Shapes
    /// - tokens: `[b, s]`, ids below `vocab_size`
    /// - returns `[b, s, d_model]`
    ///
    /// # Panics
    /// On Flex if an id lies outside the table.
    pub fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        module::embedding(self.weight.val(), tokens)
    }
}
