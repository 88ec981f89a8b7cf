//! One update: gradients of all micro-batches in the exact order, norm, clip, AdamW.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use caravan_dataset::TokenBatch;
use caravan_model::Llama;
use caravan_optim::{AdamW, OptimError, ParamGroups, clip_scale, sum_in_order, tensor_block_sums};
use caravan_parallel::{Activations, ExactSum, Gradients, LossSum, MicroBatch, forward_backward};

use crate::awake::with_pool_awake;

/// What an update is told; everything else is state.
#[derive(Clone, Copy, Debug)]
pub struct StepSettings<'a> {
    /// Learning rate of this update.
    pub lr: f64,
    /// Decay of the parameters that decay.
    pub weight_decay: f64,
    /// Which parameters decay.
    pub groups: &'a ParamGroups,
    /// Largest global gradient norm.
    pub grad_clip: f64,
    /// Keep or recompute.
    pub activations: Activations,
}

/// What an update gives.
#[derive(Clone, Copy, Debug)]
pub struct StepOutcome {
    /// Loss before the update, as a sum.
    pub loss: LossSum,
    /// Gradient norm of the mean loss, before clipping.
    pub grad_norm: f64,
}

/// A number that is not finite, found before anything was changed.
#[derive(Clone, Debug, PartialEq)]
pub struct NotFinite {
    /// `the loss`, or which gradient.
    pub what: String,
    /// NaN or infinity.
    pub value: f64,
}

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

/// Runs one update over `micro_batches`, in the order of their global index. The model is on an
/// autodiff device and is given back changed, or unchanged with the error.
///
/// All of it runs on a thread of the rayon pool: a step is hundreds of short parallel loops, and a
/// thread outside the pool would go to sleep and be woken for each of them.
///
/// # Errors
/// The loss or a gradient is not finite; model and optimizer are then as before.
pub fn step(
    model: Llama,
    optimizer: &mut AdamW,
    micro_batches: impl Iterator<Item = MicroBatch> + Send,
    settings: StepSettings<'_>,
) -> Result<(Llama, StepOutcome), (Box<Llama>, NotFinite)> {
    with_pool_awake(|| step_in_pool(model, optimizer, micro_batches, settings))
}

fn step_in_pool(
    model: Llama,
    optimizer: &mut AdamW,
    micro_batches: impl Iterator<Item = MicroBatch>,
    settings: StepSettings<'_>,
) -> Result<(Llama, StepOutcome), (Box<Llama>, NotFinite)> {
    let mut sum = ExactSum::new();
    for (index, batch) in micro_batches.enumerate() {
        let (gradients, loss) = forward_backward(&model, &batch, settings.activations);
        sum.push(index as u64, gradients, loss);
    }
    let (gradients, loss) = sum.finish();
    if !loss.nats.is_finite() {
        return Err((Box::new(model), NotFinite { what: "the loss".to_owned(), value: loss.nats }));
    }
    let mean = 1.0 / loss.tokens.max(1) as f64;
    let (gradients, squared) = norm(gradients);
    // Of the sum's gradient; dividing the norm once costs nothing, dividing every element would.
    let grad_norm = squared.sqrt() * mean;
    if !grad_norm.is_finite() {
        let found = first_not_finite(&gradients);
        return Err((Box::new(model), found));
    }
    let scale = mean * clip_scale(grad_norm, settings.grad_clip);
    let model = update(model, optimizer, gradients, scale, settings);
    Ok((model, StepOutcome { loss, grad_norm }))
}

/// Squared norm over all parameters in visit order; gradients come back untouched.
fn norm(gradients: Gradients) -> (Gradients, f64) {
    let mut squared = 0.0;
    let gradients = gradients.map(|_, _, values| {
        let (values, sums) = tensor_block_sums(values);
        squared += sum_in_order(sums);
        values
    });
    (gradients, squared)
}

fn update(
    model: Llama,
    optimizer: &mut AdamW,
    gradients: Gradients,
    scale: f64,
    settings: StepSettings<'_>,
) -> Llama {
    let mut gradients = gradients.into_iter();
    model.map_flat(&mut |path, shape, weight| {
        let gradient = gradients.next().expect("a gradient for every parameter");
        assert_eq!(gradient.path, path, "gradients come in visit order");
        let decay = settings.groups.decay(path, shape, settings.weight_decay);
        optimizer.step_scaled(path, weight, gradient.values, scale, settings.lr, decay)
    })
}

fn first_not_finite(gradients: &Gradients) -> NotFinite {
    for gradient in gradients.iter() {
        let data = gradient.values.clone().into_data();
        let values = data.as_slice::<f32>().expect("gradients are f32");
        if let Err(OptimError::NotFinite { index, value, .. }) =
            caravan_optim::first_not_finite(&gradient.path, values)
        {
            return NotFinite {
                what: format!(
                    "the gradient of `{}` {:?} at element {index}",
                    gradient.path, gradient.shape
                ),
                value: f64::from(value),
            };
        }
    }
    NotFinite {
        what: "the gradient norm (every element is finite, their squares are not)".to_owned(),
        value: f64::INFINITY,
    }
}

/// The model for evaluation and sampling: no autodiff, same parameters.
pub fn for_inference(model: &Llama) -> Llama {
    model.valid()
}
