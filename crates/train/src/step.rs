//! One update, as the loop and everybody else calls it; what it does is [`caravan_parallel::Engine`]'s.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use caravan_dataset::TokenBatch;
use caravan_model::Llama;
use caravan_optim::AdamW;
use caravan_parallel::{Engine, MicroBatch, NotFinite, StepOutcome, StepSettings};

use crate::awake::with_pool_awake;

/// Copies a batch to the device. `document_starts` goes along only with the document mask.
pub fn to_device(batch: &TokenBatch, document_mask: bool, device: &Device) -> MicroBatch {
    let shape = [batch.rows, batch.seq_len];
    let tensor =
        |values: Vec<i32>| Tensor::<2, Int>::from_data(TensorData::new(values, shape), device);
    MicroBatch {
        tokens: tensor(batch.inputs()),
        targets: tensor(batch.targets()),
        document_starts: document_mask.then(|| tensor(batch.document_starts())),
        n_targets: batch.n_targets(),
    }
}

/// Runs one update over `micro_batches`, in the order of their global index, on one rank. The model is on an autodiff
/// device and is given back changed, or unchanged with the error.
///
/// A run over many ranks keeps its [`Engine`]; this is one that lives for a step.
///
/// # Errors
/// The loss or a gradient is not finite; model and optimizer are then as before.
pub fn step(
    model: Llama,
    optimizer: &mut AdamW,
    micro_batches: impl Iterator<Item = MicroBatch>,
    settings: StepSettings<'_>,
) -> Result<(Llama, StepOutcome), (Box<Llama>, NotFinite)> {
    let batches: Vec<MicroBatch> = micro_batches.collect();
    let mut engine = Engine::alone(model);
    let outcome = step_of(&mut engine, optimizer, batches.len(), &batches, settings);
    let model = engine.into_whole().expect("one rank holds all of the model");
    match outcome {
        Ok(outcome) => Ok((model, outcome)),
        Err(found) => Err((Box::new(model), found)),
    }
}

/// One update of this rank's part of a model, over a step of `n` micro-batches of which `batches` are this rank's.
///
/// A rank that is alone does all of it on a thread of the rayon pool: a step is hundreds of short parallel loops, and a
/// thread outside the pool would go to sleep and be woken for each of them. A rank that waits for others must not: it
/// would block a thread that those others need.
///
/// # Errors
/// As [`step`], on every rank alike.
pub fn step_of(
    engine: &mut Engine,
    optimizer: &mut AdamW,
    n: usize,
    batches: &[MicroBatch],
    settings: StepSettings<'_>,
) -> Result<StepOutcome, NotFinite> {
    if engine.layout().world() > 1 {
        return engine.step(optimizer, n, batches, settings);
    }
    with_pool_awake(|| engine.step(optimizer, n, batches, settings))
}

/// The model for evaluation and sampling: no autodiff, same parameters.
pub fn for_inference(model: &Llama) -> Llama {
    model.valid()
}
