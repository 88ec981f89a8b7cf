//! Between a checkpoint and the live state of a run.
//!
//! Tensors are stored under `model/<path>`, `adam_m/<path>` and `adam_v/<path>`; the position in the
//! data is the number of sequences consumed, which with (seed, epoch, index) is all there is to it.

use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorData};
use caravan_checkpoint::{Checkpoint, Meta, SaveTensor};
use caravan_model::{Llama, LlamaConfig};
use caravan_optim::{AdamW, ParamState, Placement};
use caravan_tokenizer::{Encode, Tokenizer};
use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};
use crate::plan::Plan;

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

/// Saves everything that a resumed run needs.
///
/// # Errors
/// The disk is full or cannot be written; earlier checkpoints are untouched.
pub(crate) fn save(
    root: &Path,
    plan: &Plan,
    tokenizer: &Tokenizer,
    model: &Llama,
    optimizer: &AdamW,
    position: Position,
) -> Result<PathBuf> {
    let meta = Meta {
        config: serde_json::json!({ "model": plan.model, "run": plan.config }),
        tokenizer_hash: tokenizer.hash().to_string(),
        data: serde_json::to_value(position).expect("a position is JSON"),
        state: serde_json::Value::Null,
    };
    let mut tensors = Vec::new();
    model.flat(&mut |path, shape, values| {
        tensors.push(SaveTensor::lazy_f32(format!("model/{path}"), shape, move || host(values)));
        if let Some(state) = optimizer.export(path) {
            tensors.push(SaveTensor::f32(format!("adam_m/{path}"), shape, state.moment1));
            tensors.push(SaveTensor::f32(format!("adam_v/{path}"), shape, state.moment2));
        }
    });
    Ok(caravan_checkpoint::save(root, position.step, &meta, &mut tensors.into_iter())?)
}

/// Restores model, optimizer and position from a checkpoint that was opened (and so verified).
///
/// # Errors
/// The checkpoint is another model's, another tokenizer's, or lacks a tensor.
pub(crate) fn restore(
    checkpoint: &Checkpoint,
    plan: &Plan,
    tokenizer: &Tokenizer,
    model: Llama,
) -> Result<(Llama, AdamW, Position)> {
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
    let model = load_parameters(model, checkpoint)?;
    let mut optimizer = new_optimizer(plan)?;
    for info in model.parameters() {
        let moment = |name: &str| {
            checkpoint.f32_values_of_shape(&format!("{name}/{}", info.path), &info.shape)
        };
        let (moment1, moment2) = (moment("adam_m")?, moment("adam_v")?);
        let n = moment1.len();
        optimizer.import(
            &info.path,
            n,
            ParamState { step: position.step, moment1, moment2 },
            &plan.device,
        )?;
    }
    Ok((model, optimizer, position))
}

/// An optimizer without state; on Flex tensors are host memory, where one fused pass is quicker.
///
/// # Errors
/// Moments out of range.
pub fn new_optimizer(plan: &Plan) -> Result<AdamW> {
    let placement = if plan.device_name == "flex" { Placement::Host } else { Placement::Device };
    Ok(AdamW::new(plan.adamw, placement)?)
}

/// Puts the checkpoint's weights into `model`.
pub(crate) fn load_parameters(model: Llama, checkpoint: &Checkpoint) -> Result<Llama> {
    let mut failed = None;
    let model = model.map_flat(&mut |name, shape, values| {
        if failed.is_some() {
            return values;
        }
        match checkpoint.f32_values_of_shape(&format!("model/{name}"), shape) {
            Ok(host) => {
                let n = host.len();
                Tensor::from_data(TensorData::new(host, [n]), &values.device())
            }
            Err(e) => {
                failed = Some(e);
                values
            }
        }
    });
    failed.map_or(Ok(model), |e| Err(e.into()))
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

fn host(values: Tensor<1>) -> Vec<f32> {
    values.into_data().try_into_vec::<f32>().expect("parameters are f32")
}
