//! Sums of loss, and the exact sum of a step.

use std::fmt;

use crate::gradients::Gradients;
use crate::tree::{BlockId, BlockTree, Combine};

/// A sum of losses and what it is a sum over. Sums travel; whoever prints divides once.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossSum {
    /// Sum of `-ln p(target)` over the target tokens.
    pub nats: f64,
    /// Number of target tokens.
    pub tokens: u64,
}

impl LossSum {
    /// Nats per target token; NaN if there is none.
    pub fn mean(self) -> f64 {
        self.nats / self.tokens as f64
    }
}

impl Combine for LossSum {
    fn combine(self, right: Self) -> Self {
        Self { nats: self.nats + right.nats, tokens: self.tokens + right.tokens }
    }
}

impl Combine for (Gradients, LossSum) {
    fn combine(self, right: Self) -> Self {
        (self.0.combine(right.0), self.1.combine(right.1))
    }
}

/// The gradient and loss of a step as the sum over its micro-batches in the fixed tree of [`BlockTree`], over their
/// global index within the step.
#[derive(Default)]
pub struct ExactSum {
    tree: BlockTree<(Gradients, LossSum)>,
}

impl fmt::Debug for ExactSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ExactSum").field(&self.tree).finish()
    }
}

impl ExactSum {
    /// An empty sum.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the micro-batch with this global index in the step.
    ///
    /// # Panics
    /// If the index was added before.
    pub fn push(&mut self, index: u64, gradients: Gradients, loss: LossSum) {
        self.tree.push(index, (gradients, loss));
    }

    /// Adds a block that another rank summed up.
    ///
    /// # Panics
    /// If the block is not aligned or overlaps with indices that were added before.
    pub fn push_block(&mut self, id: BlockId, gradients: Gradients, loss: LossSum) {
        self.tree.push_block(id, (gradients, loss));
    }

    /// How many sums of gradients are held: at most `ceil(log2 n)` after `n >= 2` pushes in order.
    pub fn n_pending(&self) -> usize {
        self.tree.n_pending()
    }

    /// The blocks of this rank's range of indices, for the rank that combines them.
    pub fn into_blocks(self) -> Vec<(BlockId, (Gradients, LossSum))> {
        self.tree.into_blocks()
    }

    /// Gradient (both uses of a tied weight added) and loss over all micro-batches `0..n`.
    ///
    /// # Panics
    /// If nothing was added or the indices are not a range that starts at 0.
    pub fn finish(self) -> (Gradients, LossSum) {
        let (gradients, loss) = self.tree.finish().expect("a step has at least one micro-batch");
        (gradients.finish(), loss)
    }
}
