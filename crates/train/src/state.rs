//! Between a checkpoint and the live state of a run.
//!
//! The position in the data is the number of sequences consumed, which with (seed, epoch, index) is all there is to it.

use std::path::{Path, PathBuf};

use caravan_checkpoint::{Checkpoint, Meta};
use caravan_model::{Llama, LlamaConfig};
use caravan_optim::{AdamW, Placement};
use caravan_parallel::Engine;
use caravan_tokenizer::{Encode, Tokenizer};
use serde::{Deserialize, Serialize};

use crate::engine_state::{load_parameters, restore_engine, save_engine};
use crate::error::{Result, TrainError};
use crate::plan::Plan;
use crate::ranks::Ranks;

/// Where a run stands; stored as the data position of a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Updates done.
    pub step: u64,
    /// Sequences consumed: the global index of the next one.
    pub next_sequence: u64,
    /// Target tokens trained on.
    pub tokens: u64,
    /// Seconds of training so far.
    pub elapsed_secs: f64,
}

/// Saves everything that a resumed run needs, every rank what it holds. Called by all ranks.
///
/// # Errors
/// The disk is full or cannot be written; earlier checkpoints are untouched.
pub(crate) fn save(
    root: &Path,
    plan: &Plan,
    tokenizer: &Tokenizer,
    engine: &Engine,
    optimizer: &AdamW,
    position: Position,
    ranks: &Ranks,
) -> Result<PathBuf> {
    let meta = Meta {
        config: serde_json::json!({ "model": plan.model, "run": plan.config }),
        tokenizer_hash: tokenizer.hash().to_string(),
        data: serde_json::to_value(position).expect("a position is JSON"),
        state: serde_json::Value::Null,
    };
    save_engine(root, position.step, &meta, engine, optimizer, ranks)
}

/// Restores weights, optimizer and position from a checkpoint that any layout saved. Each rank reads what it holds.
///
/// # Errors
/// The checkpoint is another model's, another tokenizer's, or lacks a tensor.
pub(crate) fn restore(
    checkpoint: &Checkpoint,
    plan: &Plan,
    tokenizer: &Tokenizer,
    engine: &mut Engine,
) -> Result<(AdamW, Position)> {
    let path = checkpoint.dir();
    check_tokenizer(checkpoint, tokenizer)?;
    if model_config(checkpoint)? != plan.model {
        return Err(damaged(
            path,
            "the checkpoint holds a model of another shape than the configuration".to_owned(),
        ));
    }
    let position: Position = serde_json::from_value(checkpoint.manifest().data.clone())
        .map_err(|e| damaged(path, format!("its data position cannot be read: {e}")))?;
    let optimizer = new_optimizer(plan)?;
    let optimizer = restore_engine(checkpoint, engine, optimizer, position.step)?;
    Ok((optimizer, position))
}

/// An error of [`restore`], with the newest good checkpoint where this one is damaged: reading a part of it does not look
/// for others.
pub(crate) fn with_way_out(error: TrainError, root: &Path) -> TrainError {
    match (error, caravan_checkpoint::open_latest(root)) {
        (TrainError::Checkpoint(_), Err(whole)) => whole.into(),
        (error, _) => error,
    }
}

/// An optimizer without state; on Flex tensors are host memory, where one fused pass is quicker.
///
/// # Errors
/// Moments out of range.
pub fn new_optimizer(plan: &Plan) -> Result<AdamW> {
    let placement = if plan.device_name == "flex" { Placement::Host } else { Placement::Device };
    Ok(AdamW::new(plan.adamw, placement)?)
}

/// The whole model of the newest checkpoint, without autodiff.
///
/// # Errors
/// There is none, or it is damaged.
pub(crate) fn whole_model(root: &Path, plan: &Plan) -> Result<Llama> {
    let checkpoint = caravan_checkpoint::open_latest(root)?
        .ok_or_else(|| damaged(root, "there is no checkpoint".to_owned()))?;
    let model = Llama::init(&plan.model, plan.config.run.seed, plan.kernels, &plan.device)?;
    load_parameters(model, &checkpoint, &|_| true)
}

/// The architecture that a checkpoint was saved with.
pub(crate) fn model_config(checkpoint: &Checkpoint) -> Result<LlamaConfig> {
    serde_json::from_value(checkpoint.manifest().config["model"].clone()).map_err(|e| {
        damaged(checkpoint.dir(), format!("its model configuration cannot be read: {e}"))
    })
}

/// Refuses a tokenizer that the checkpoint was not trained with.
pub(crate) fn check_tokenizer(checkpoint: &Checkpoint, tokenizer: &Tokenizer) -> Result<()> {
    let (saved, found) = (&checkpoint.manifest().tokenizer_hash, tokenizer.hash().to_string());
    if *saved == found {
        return Ok(());
    }
    Err(TrainError::RunDir {
        path: checkpoint.dir().to_path_buf(),
        problem: format!(
            "was trained with tokenizer {saved:.16}, but the tokenizer here is {found:.16}"
        ),
        help: "put back the tokenizer file that the run was started with".to_owned(),
    })
}

fn damaged(path: &Path, problem: String) -> TrainError {
    TrainError::RunDir {
        path: path.to_path_buf(),
        problem,
        help: "use an older checkpoint of the run, or the version of Caravan that wrote it"
            .to_owned(),
    }
}
