//! Settings that can be refused by themselves, before any text is read.

use caravan_model::LlamaConfig;
use caravan_parallel::{Layout, Reduction, Schedule};

use crate::config::RunConfig;
use crate::error::{Result, TrainError};
use crate::memory::parse_bytes;

/// Lengths, batches, number format.
pub(crate) fn run(config: &RunConfig) -> Result<()> {
    let run = &config.run;
    for (name, value) in [
        ("steps", run.steps),
        ("seq_len", run.seq_len as u64),
        ("global_batch", run.global_batch as u64),
        ("micro_batch", run.micro_batch as u64),
        ("keep_checkpoints", run.keep_checkpoints as u64),
    ] {
        if value == 0 {
            return Err(TrainError::plan(
                format!("{name} = 0"),
                format!("set {name} to 1 or more"),
            ));
        }
    }
    if !run.global_batch.is_multiple_of(run.micro_batch) {
        let near = (1..=run.global_batch)
            .rev()
            .find(|m| *m <= run.micro_batch && run.global_batch.is_multiple_of(*m))
            .unwrap_or(1);
        return Err(TrainError::plan(
            format!(
                "global_batch = {} is not a multiple of micro_batch = {}",
                run.global_batch, run.micro_batch
            ),
            format!(
                "set micro_batch={near}, or global_batch={}",
                run.global_batch.next_multiple_of(run.micro_batch)
            ),
        ));
    }
    if let Some(limit) = &run.memory_limit {
        parse_bytes(limit)?;
    }
    Ok(())
}

/// How the run is split over ranks.
///
/// # Errors
/// A value that is unknown, or degrees that do not fit the model, the sequence length or the batch.
pub fn layout(config: &RunConfig, model: &LlamaConfig) -> Result<Layout> {
    let p = &config.parallel;
    let one_of = |key: &str, value: &str, known: &str| {
        TrainError::plan(format!("{key} = \"{value}\" is unknown"), format!("choose {known}"))
    };
    let schedule = match p.pipeline_schedule.as_str() {
        "gpipe" => Schedule::GPipe,
        "1f1b" => Schedule::OneForwardOneBackward,
        "interleaved" => Schedule::Interleaved,
        other => return Err(one_of("pipeline_schedule", other, "gpipe, 1f1b or interleaved")),
    };
    let reduction = match p.reduction.as_str() {
        "exact" => Reduction::Exact,
        "fast" => Reduction::Fast,
        other => return Err(one_of("reduction", other, "exact or fast")),
    };
    let zero_stage = u8::try_from(p.zero_stage)
        .map_err(|_| one_of("zero_stage", &p.zero_stage.to_string(), "0, 1, 2 or 3"))?;
    let layout = Layout {
        data: p.data_parallel,
        shard: p.shard_parallel,
        tensor: p.tensor_parallel,
        pipeline: p.pipeline_parallel,
        context: p.context_parallel,
        zero_stage,
        sequence_parallel: p.sequence_parallel,
        schedule,
        virtual_stages: p.virtual_stages,
        reduction,
    };
    let run = &config.run;
    layout.check(model, run.seq_len, run.micro_batch, run.global_batch)?;
    Ok(layout)
}

/// Split, weights, separator.
pub(crate) fn data(config: &RunConfig) -> Result<()> {
    let d = &config.data;
    if !(0.0..1.0).contains(&d.val_fraction) {
        return Err(TrainError::plan(
            format!("val_fraction = {} is not in [0, 1)", d.val_fraction),
            "hold back a tenth: val_fraction=0.1; 0 holds back nothing",
        ));
    }
    if !d.weights.is_empty() && d.weights.len() != d.text.len() {
        return Err(TrainError::plan(
            format!("{} weights for {} texts", d.weights.len(), d.text.len()),
            "give one weight for each entry of `text`, or none",
        ));
    }
    if let Some(w) = d.weights.iter().find(|w| !(**w > 0.0 && w.is_finite())) {
        return Err(TrainError::plan(
            format!("weight {w} is not a positive number"),
            "give each text a weight above 0, or leave it out",
        ));
    }
    if d.document_separator.as_deref() == Some("") {
        return Err(TrainError::plan(
            "document_separator is empty",
            "give the text between two documents, e.g. document_separator='\\n\\n', or leave it out",
        ));
    }
    Ok(())
}
