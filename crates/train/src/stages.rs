//! The stages of a run: which shape its batches have, from which update on. A run without a curriculum is one stage.

use caravan_dataset::Unit;
use caravan_model::LlamaConfig;

use crate::check;
use crate::config::RunConfig;
use crate::error::Result;
use crate::memory::Memory;

/// A stretch of updates whose batches have one shape.
#[derive(Clone, Debug, PartialEq)]
pub struct StagePlan {
    /// What reports call it; absent where the run is one stage.
    pub name: Option<String>,
    /// What stands by itself in its text.
    pub unit: Unit,
    /// Updates of the run before it.
    pub first_step: u64,
    /// The run that it would be by itself.
    pub config: RunConfig,
    /// Micro-batches per update, of all ranks together.
    pub n_micro_batches: usize,
}

impl StagePlan {
    /// Tokens of one update, padding included.
    pub fn tokens_per_step(&self) -> u64 {
        (self.config.run.global_batch * self.config.run.seq_len) as u64
    }

    /// Tokens of all its updates, padding included.
    pub fn tokens(&self) -> u64 {
        self.config.run.steps * self.tokens_per_step()
    }
}

/// The stages of a configuration whose sums are in place.
///
/// # Errors
/// A stage that could not be a run by itself.
pub(crate) fn plan(config: &RunConfig, model: &LlamaConfig) -> Result<Vec<StagePlan>> {
    let one = |name, unit, first_step, config: RunConfig| {
        check::run(&config)?;
        check::data(&config)?;
        check::layout(&config, model)?;
        let n_micro_batches = config.run.global_batch / config.run.micro_batch;
        Ok(StagePlan { name, unit, first_step, config, n_micro_batches })
    };
    if config.stages.is_empty() {
        return Ok(vec![one(None, Unit::Document, 0, config.clone())?]);
    }
    let mut first_step = 0;
    let stage = |stage: &crate::config::Stage| {
        let begins = first_step;
        first_step += stage.steps;
        let name = stage.name();
        one(Some(name.to_owned()), stage.unit, begins, config.of_stage(stage))
            .map_err(|error: crate::TrainError| error.in_stage(name))
    };
    config.stages.iter().map(stage).collect()
}

/// What the hungriest of the stages needs.
pub(crate) fn memory(model: &LlamaConfig, stages: &[StagePlan]) -> Memory {
    let all = stages.iter().map(|s| Memory::predict(model, &s.config, s.n_micro_batches));
    all.max_by_key(Memory::total).expect("a run has a stage")
}
