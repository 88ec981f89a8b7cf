//! The first segment: token ids to vectors.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};

use crate::Region;
use crate::vocab::Ends;

/// The embedding table.
#[derive(Module, Debug)]
pub struct Embed {
    /// `[vocab_size, d_model]`.
    pub weight: Param<Tensor<2>>,
    /// `[1]`, its part in a mix of layers.
    pub mix: Option<Param<Tensor<1>>>,
    #[module(skip)]
    pub(crate) ends: Ends,
}

/// What states add to a mix of layers.
pub(crate) fn part(x: Tensor<3>, mix: &Param<Tensor<1>>) -> Tensor<3> {
    x * mix.val().reshape([1, 1, 1])
}

impl Embed {
    /// The same embedding that meets the other ranks in another `region`; its part of the vocabulary stays.
    #[must_use]
    pub fn with_region(mut self, region: &Arc<dyn Region>) -> Self {
        self.ends.region = Arc::clone(region);
        self
    }

    pub(crate) fn new(weight: Param<Tensor<2>>) -> Self {
        Self { weight, mix: None, ends: Ends::default() }
    }

    /// Looks up every token's row.
    ///
    /// # Shapes
    /// - tokens: `[b, s]`, ids below `vocab_size`
    /// - returns `[b, s, d_model]`, or this rank's part of the sequence where the [`Region`](crate::Region) splits it; with
    ///   a mix of layers `[b, s, 2 d_model]`, the mix behind the states
    ///
    /// # Panics
    /// On Flex if an id lies outside the table.
    pub fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let x = self.ends.region.exit(self.ends.vocab.lookup(self.weight.val(), tokens));
        match &self.mix {
            None => x,
            Some(mix) => Tensor::cat(vec![x.clone(), part(x, mix)], 2),
        }
    }
}
