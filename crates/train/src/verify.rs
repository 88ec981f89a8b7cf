//! From a plan to the comparison of its layout with one rank.

use caravan_parallel::verify::Case;

use crate::plan::Plan;

impl Plan {
    /// What [`caravan_parallel::verify`] is to hold against one rank: this run, but for its text.
    pub fn verify_case(&self) -> Case {
        // Of a curriculum the first stage.
        let (run, n_micro_batches) = (&self.stages[0].config.run, self.stages[0].n_micro_batches);
        Case {
            model: self.model.clone(),
            layout: self.layout,
            seq_len: run.seq_len,
            micro_batch: run.micro_batch,
            n_micro_batches,
            document_mask: self.config.data.document_mask,
            kernels: self.kernels,
            activations: self.activations,
            device: self.device.clone(),
            // Libtorch and CUDA promise no order of their sums.
            repeatable: self.device_name == "flex",
            seed: run.seed,
            adamw: self.adamw,
            weight_decay: self.config.optim.weight_decay,
        }
    }
}
