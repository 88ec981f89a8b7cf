//! Settings that can be refused by themselves, before any text is read.

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
    if run.dtype != "f32" {
        return Err(TrainError::plan(
            format!("dtype = \"{}\" is not available for training in this version", run.dtype),
            "set dtype=f32; exported weights can be bf16 or f16 with `caravan export --dtype`",
        ));
    }
    if let Some(limit) = &run.memory_limit {
        parse_bytes(limit)?;
    }
    Ok(())
}

/// Degrees of the mesh: one rank has nothing to share.
pub(crate) fn parallel(config: &RunConfig) -> Result<()> {
    let p = &config.parallel;
    for (name, value) in [
        ("data_parallel", p.data_parallel),
        ("tensor_parallel", p.tensor_parallel),
        ("pipeline_parallel", p.pipeline_parallel),
        ("context_parallel", p.context_parallel),
        ("shard_parallel", p.shard_parallel),
        ("virtual_stages", p.virtual_stages),
    ] {
        if value != 1 {
            return Err(TrainError::plan(
                format!("{name} = {value}, but this version runs on one rank"),
                format!("set {name}=1; a larger global_batch is reached by more micro-batches"),
            ));
        }
    }
    if p.zero_stage != 0 || p.sequence_parallel {
        return Err(TrainError::plan(
            format!(
                "zero_stage = {}, sequence_parallel = {}: one rank has nothing to share",
                p.zero_stage, p.sequence_parallel
            ),
            "set zero_stage=0 and sequence_parallel=false",
        ));
    }
    if p.reduction != "exact" {
        return Err(TrainError::plan(
            format!("reduction = \"{}\" needs several ranks", p.reduction),
            "set reduction=exact",
        ));
    }
    if !["gpipe", "1f1b", "interleaved"].contains(&p.pipeline_schedule.as_str()) {
        return Err(TrainError::plan(
            format!("pipeline_schedule = \"{}\" is unknown", p.pipeline_schedule),
            "choose gpipe, 1f1b or interleaved",
        ));
    }
    Ok(())
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
