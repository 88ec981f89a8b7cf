//! A layout held against one rank: is a run on these ranks the run that one rank would make?
//!
//! ```text
//! Case --shrunk--> small Case --run--> Check: activations, loss, gradients, updates, parameters, once more
//! ```
//!
//! The model is made small, every axis stays. All ranks run as threads of this process on made-up tokens; each holds
//! what it has of activations, gradients and weights against the whole of one rank. For data, ZeRO and pipeline ranks with
//! the exact reduction the bits must be the same; elsewhere the order of sums differs, and [`TOLERANCE`] is allowed.
//!
//! A fault in forward shows in all gradients, one in backward in those of earlier layers: each check names what differs
//! first in the order of *its* work, which is the place to look.

mod batch;
mod compare;
mod held;
mod part;
mod reference;
mod report;
mod rounds;
mod shrink;

use burn::tensor::Device;
use caravan_model::{Kernels, LlamaConfig};
use caravan_optim::AdamWConfig;

use crate::context;
use crate::error::{ParallelError, Result};
use crate::executor::Activations;
use crate::mesh::{Layout, Place, Reduction};

pub use report::{Check, Demand, Difference, Found, Report};
pub use shrink::Change;

/// Of a tensor's largest element: what another order of sums in f32 may change (measured: below 3e-6).
pub const TOLERANCE: f64 = 1e-5;

/// Updates after which the parameters are compared.
pub const UPDATES: usize = 3;

/// A run to verify.
#[derive(Clone, Debug)]
pub struct Case {
    /// The whole model.
    pub model: LlamaConfig,
    /// How it is split.
    pub layout: Layout,
    /// Tokens of a sequence.
    pub seq_len: usize,
    /// Sequences per forward on a rank.
    pub micro_batch: usize,
    /// Micro-batches of a step, over all replicas.
    pub n_micro_batches: usize,
    /// Whether attention stays inside documents.
    pub document_mask: bool,
    /// Operator implementations.
    pub kernels: Kernels,
    /// Keep or recompute.
    pub activations: Activations,
    /// Where every rank computes, with or without autodiff.
    pub device: Device,
    /// Whether the device gives the same bits for the same work, whatever else runs; Flex does.
    pub repeatable: bool,
    /// Seed of the initial weights.
    pub seed: u64,
    /// Moments of the optimizer; its `eps` counts where bits are compared.
    pub adamw: AdamWConfig,
    /// Decay of matrices.
    pub weight_decay: f64,
}

impl Case {
    /// What the layout promises.
    pub fn demand(&self) -> Demand {
        let Layout { tensor, context, reduction, .. } = self.layout;
        match self.repeatable && tensor * context == 1 && reduction == Reduction::Exact {
            true => Demand::SameBits,
            false => Demand::Within(TOLERANCE),
        }
    }

    /// Sequences per step.
    pub fn global_batch(&self) -> usize {
        self.micro_batch * self.n_micro_batches
    }

    /// Checks the rules of layout and model.
    ///
    /// # Errors
    /// As [`Layout::check`]; also a layout of one rank, which leaves nothing to compare.
    pub fn check(&self) -> Result<()> {
        self.layout.check(&self.model, self.seq_len, self.micro_batch, self.global_batch())?;
        if self.layout.world() == 1 {
            return Err(ParallelError::Layout {
                problem: "this configuration runs on one rank: there is nothing to compare".into(),
                help: "split it, for example with data_parallel=2 or tensor_parallel=2".into(),
            });
        }
        Ok(())
    }

    /// The same layout with a model, sequences and a step as small as it allows, and what was changed.
    #[must_use]
    pub fn shrunk(&self) -> (Self, Vec<Change>) {
        shrink::shrunk(self)
    }

    /// The positions of the sequence that a rank's residual stream has, in order.
    fn positions(&self, place: &Place) -> Vec<usize> {
        let held = context::local_positions(place.context, self.layout.context, self.seq_len);
        let held = held.expect("the layout was checked");
        if !self.layout.sequence_parallel {
            return held;
        }
        let n = held.len() / self.layout.tensor;
        held[place.tensor * n..(place.tensor + 1) * n].to_vec()
    }
}

/// Runs `case` on all its ranks and on one, and gives what was compared; `each` sees every check as soon as it is made.
///
/// A rank that fails, or a check that shows the ranks in disagreement about what to do, ends it.
///
/// # Errors
/// As [`Case::check`].
pub fn run(case: &Case, each: &mut dyn FnMut(&Check)) -> Result<Report> {
    case.check()?;
    Ok(rounds::run(case, &reference::Reference::new(case)?, each))
}
