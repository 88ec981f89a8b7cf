//! What an engine trains, with the optimizer's state, in checkpoints that any layout can read.
//!
//! Tensors are stored under `model/<path>`, `adam_m/<path>` and `adam_v/<path>`; of frozen parameters there are none.

use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorData};
use caravan_checkpoint::{Checkpoint, Meta, RankFile, SaveTensor, Shard, Staging, save_rank};
use caravan_model::Llama;
use caravan_optim::{AdamW, ParamState};
use caravan_parallel::{Engine, StatePart};

use crate::error::{Result, TrainError};
use crate::ranks::Ranks;

/// Saves what every rank holds as the checkpoint of `step` under `root`. Called by all ranks.
///
/// # Errors
/// The disk is full or cannot be written; earlier checkpoints are untouched.
pub fn save_engine(
    root: &Path,
    step: u64,
    meta: &Meta,
    engine: &Engine,
    optimizer: &AdamW,
    ranks: &Ranks,
) -> Result<PathBuf> {
    let staging = ranks.first(|| Ok(Staging::begin(root, step)?))?;
    let name = ranks.tell(staging.as_ref().map_or(&[], |staging| staging.name().as_bytes()));
    let name = String::from_utf8(name).expect("the first rank tells a name");
    let mut tensors = Vec::new();
    for part in engine.state_parts().iter().filter(|part| part.saves) {
        let (path, shard) = (part.path.clone(), shard_of(part));
        let weights = part.clone();
        let model = SaveTensor::lazy_f32_part(format!("model/{path}"), shard.clone(), move || {
            engine.weights(&weights)
        });
        tensors.push(model);
        // Copied one by one when they are written, not all at once.
        let moments: [(&str, fn(ParamState) -> Vec<f32>); 2] =
            [("adam_m", |state| state.moment1), ("adam_v", |state| state.moment2)];
        for (name, moment) in moments {
            let (from, name) = (path.clone(), format!("{name}/{path}"));
            let n = part.elements.len();
            tensors.push(SaveTensor::lazy_f32_part(name, shard.clone(), move || {
                // Before the first update both moments are zero.
                optimizer.export(&from).map_or_else(|| vec![0.0; n], moment)
            }));
        }
    }
    let report = save_rank(root, &name, ranks.rank(), &mut tensors.into_iter());
    let report = ranks.agree(report.map_err(TrainError::from))?;
    let reports = ranks.gather(&report.to_json());
    ranks.first(|| {
        let reports: std::result::Result<Vec<_>, _> =
            reports.iter().map(|bytes| RankFile::from_json(bytes)).collect();
        Ok(staging.expect("the first rank has it").commit(meta, reports?)?)
    })?;
    Ok(caravan_checkpoint::step_dir(root, step))
}

/// Restores the weights of `engine`, and with the state after `step` updates an optimizer that has none yet. Each rank
/// reads what it holds.
///
/// # Errors
/// The checkpoint lacks a tensor, or has one of another shape.
pub fn restore_engine(
    checkpoint: &Checkpoint,
    engine: &mut Engine,
    mut optimizer: AdamW,
    step: u64,
) -> Result<AdamW> {
    let read = |kind: &str, part: &StatePart| {
        checkpoint.read(&format!("{kind}/{}", part.path), &shard_of(part))
    };
    engine.load_weights(&mut |part| read("model", part))?;
    let device = engine.device().clone().without_autodiff();
    for part in engine.state_parts() {
        let (moment1, moment2) = (read("adam_m", &part)?, read("adam_v", &part)?);
        let state = ParamState { step, moment1, moment2 };
        optimizer.import(&part.path, part.elements.len(), state, &device)?;
    }
    Ok(optimizer)
}

/// Puts the checkpoint's weights into `model`, those for whose paths `is_saved` is true; the others stay.
///
/// # Errors
/// The checkpoint lacks one of them, or has it in another shape.
pub fn load_parameters(
    model: Llama,
    checkpoint: &Checkpoint,
    is_saved: &dyn Fn(&str) -> bool,
) -> Result<Llama> {
    let mut failed = None;
    let model = model.map_flat(&mut |name, shape, values| {
        if failed.is_some() || !is_saved(name) {
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

/// Where a rank's part of a parameter lies in the whole.
fn shard_of(part: &StatePart) -> Shard {
    let shard = Shard::whole(&part.shape);
    let shard = match &part.slice {
        Some((dim, range)) => shard.slice(*dim, range.clone()),
        None => shard,
    };
    shard.elements(part.elements.clone())
}
